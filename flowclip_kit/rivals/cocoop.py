"""CoCoOp on frames (CVPR 2022): context words shifted by each video's mean frame.

Paper: Zhou et al., "Conditional Prompt Learning for Vision-Language Models".
Official: KaiyangZhou/CoOp, trainers/cocoop.py (MIT); written from the equations.
P_h = v_h + net(n(mean I)), v_1..v_4 starting at "a photo of a", net: D -> D/16, ReLU, -> W;
logits = s n(mean I) . n(t_k). The official code reads K texts of 77 tokens for every image; the prompt tree
reads what they share once, with equal values and gradients.
"""

from __future__ import annotations

from torch import Tensor, nn

from flowclip_core.model.prompt_tree import PromptTree
from flowclip_core.model.prompts import prompt_vectors
from flowclip_kit.rivals.contract import Rival, cosines, unit


class CoCoOp(Rival):
    DEVIATES = "mean of T frames in the place of an image"

    def build(self) -> None:
        width, hidden = self.backbone.width, max(1, self.backbone.width // 16)
        self.vectors = nn.Parameter(prompt_vectors(self.backbone, "a photo of a"))
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, self.backbone.text_width)
        )
        self.tree = PromptTree(self.backbone, self.class_texts, len(self.vectors))

    @property
    def text_tokens(self) -> int:
        return self.tree.tokens_per_video

    @property
    def videos_at_once(self) -> int:
        return self.tree.at_once

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        video = frames.mean(1)
        prompts = self.vectors + self.net(unit(video))[:, None]  # (B,4,W)
        texts = self.tree(prompts)  # (B,K,D)
        logits = self.scale * cosines(video, texts)
        return {"video": video, "prompts": prompts, "texts": texts, "logits": logits}
