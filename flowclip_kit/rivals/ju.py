"""Ju et al. (ECCV 2022), configuration A5: learnt vectors around the class name and a temporal transformer.

Paper: "Prompting Visual-Language Models for Efficient Video Understanding".
Official: ju-chen/Efficient-Prompt, src/model.py and train.py (MIT); written from the equations.
Text k: [SOS] + 16 vectors + name + 16 vectors + [EOS]. All come from one table, a vector a position, so
those behind a name depend on its length. Video: I + positions, N pre-norm blocks, mean; logits = cos / 0.07.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowclip_core.errors import InputError
from flowclip_kit.rivals.contract import Rival, block, cosines

AROUND = 16  # vectors before the name, and as many behind it
TAU = 0.07


class Ju(Rival):
    DEVIATES = "N = 1 everywhere; 50 epochs and a whole cosine, since none are given for few-shot"
    NAMES_UNSEEN = True
    BLOCKS = 1
    fixed: Tensor  # (K,L,W), tokens that are not learnt
    learnt: Tensor  # (K,L,1), where the others stand

    def build(self) -> None:
        tower, width = self.backbone, self.backbone.width
        self.table = nn.Embedding(tower.context, tower.text_width)
        self.positions = nn.Embedding(self.config.frames, width)
        for part in (self.table, self.positions):
            nn.init.normal_(part.weight, std=0.01)
        self.blocks = nn.Sequential(*(block(width) for _ in range(self.BLOCKS)))
        names = [tower.tokenize(text) for text in self.class_texts]
        self.ends = torch.tensor([1 + AROUND + len(name) + AROUND for name in names], device=tower.device)
        if (longest := int(self.ends.max()) + 1) > tower.context:
            raise InputError(
                f"a class name takes {longest} tokens with its {2 * AROUND} vectors, the text tower"
                f" {tower.context}; shorten the name"
            )
        start, end = tower.borders
        fixed = torch.zeros(len(names), longest, dtype=torch.long, device=tower.device)
        learnt = torch.ones_like(fixed, dtype=torch.bool)
        for row, (name, last) in enumerate(zip(names, self.ends.tolist(), strict=True)):
            where = [0, *range(1 + AROUND, 1 + AROUND + len(name)), last]
            fixed[row, where] = torch.tensor([start, *name, end], device=tower.device)
            learnt[row, where] = False
        self.register_buffer("fixed", tower.embed_tokens(fixed), persistent=False)
        self.register_buffer("learnt", learnt[..., None], persistent=False)

    def texts(self) -> Tensor:
        """Text features (K,D); nothing behind [EOS] is seen."""
        table = self.table.weight[: self.fixed.shape[1]]
        return self.backbone.encode_prompts(torch.where(self.learnt, table, self.fixed), self.ends)

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        tokens = self.blocks(frames + self.positions.weight)
        video, texts = tokens.mean(1), self.texts()
        return {"tokens": tokens, "video": video, "texts": texts, "logits": cosines(video, texts) / TAU}
