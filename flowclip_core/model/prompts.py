"""Motion-Aware Prompts (section 3.3): H learnt vectors, shifted by the motion of each video.

Letters: B videos, H prompt vectors, D width of the features, W width of the text tower.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone


def prompt_vectors(backbone: Backbone, prompt: str) -> Tensor:
    """Token embeddings (H,W) of a hand-crafted prompt, one vector a token: "human action of" gives H = 3."""
    tokens = backbone.tokenize(prompt)
    if not tokens:
        raise InputError(f"prompt {prompt!r} has no words")
    return backbone.embed_tokens(torch.tensor(tokens, device=backbone.mean.device)).detach().clone()


class MotionAwarePrompts(nn.Module):
    """P_1..P_H of Eq. 7, initialised by a hand-crafted prompt; the motion adapter adds one shift to all of
    them.

    hidden: width of the adapter; 0, without motion to follow: the vectors are learnt, but the same for every
    video. start: "zero": the adapter shifts nothing until its output layer has learnt to.
    """

    def __init__(self, initial: Tensor, width: int, hidden: int, start: str = "random") -> None:
        super().__init__()
        self.vectors = nn.Parameter(initial.clone())
        self.adapter = None
        if hidden:
            self.adapter = nn.Sequential(
                nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, initial.shape[1])
            )
            if start == "zero":
                for parameter in self.adapter[2].parameters():
                    nn.init.zeros_(parameter)

    def forward(self, motion: Tensor | None) -> Tensor:
        """Prompt vectors (B,H,W), or (1,H,W) without an adapter. motion: mean of the motion stream (B,D)."""
        if self.adapter is None:
            return self.vectors[None]
        return self.vectors + self.adapter(motion)[:, None]
