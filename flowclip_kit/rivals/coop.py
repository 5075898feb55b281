"""CoOp (IJCV 2022): learnt context words, the same for every video.

Paper: Zhou et al., "Learning to Prompt for Vision-Language Models".
Official: KaiyangZhou/CoOp, trainers/coop.py (MIT); written from the equations.
Texts t_k of [SOS] v_1..v_16 CLASS . [EOS]; logits = s n(mean I) . n(t_k). The texts share all but their
names, so a step reads them once through the prompt tree.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowclip_core.model.prompt_tree import PromptTree
from flowclip_kit.rivals.contract import Rival, cosines

WORDS = 16


class CoOp(Rival):
    DEVIATES = "mean of T frames in the place of an image"

    def build(self) -> None:
        self.vectors = nn.Parameter(torch.randn(WORDS, self.backbone.text_width) * 0.02)
        self.tree = PromptTree(self.backbone, self.class_texts, WORDS)

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        video, texts = frames.mean(1), self.tree(self.vectors[None])[0]
        return {"video": video, "texts": texts, "logits": self.scale * cosines(video, texts)}
