"""Ju et al. (ECCV 2022), configuration A5: learnt vectors around the class name and a temporal transformer.

Paper: "Prompting Visual-Language Models for Efficient Video Understanding".
Official: ju-chen/Efficient-Prompt, src/model.py and train.py (MIT); written from the equations.
Text k: [SOS] + 16 vectors + name + 16 vectors + [EOS]. All come from one table, a vector a position, so
those behind a name depend on its length. Video: I + positions, N pre-norm blocks, mean; logits = cos / 0.07.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowclip_core.errors import InputError
from flowclip_kit.rivals.contract import Rival, apart, block, cosines

AROUND = 16  # vectors before the name, and as many behind it
BEFORE = 1 + AROUND  # [SOS] and the vectors
TAU = 0.07


class Ju(Rival):
    DEVIATES = "N = 1 everywhere; 50 epochs and a whole cosine, since none are given for few-shot"
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
        """Text features (K,D). What stands before the names is the same for all and read once; in the last
        block only [EOS] asks; nothing behind it is seen."""
        clip, length = self.backbone.clip, self.fixed.shape[1]
        tokens = torch.where(self.learnt, self.table.weight[:length], self.fixed)
        tokens = tokens + clip.positional_embedding[:length]
        shared, own, ends = tokens[:1, :BEFORE], tokens[:, BEFORE:], self.ends - BEFORE
        sees = torch.ones(own.shape[1], length, dtype=torch.bool, device=own.device).tril(BEFORE)
        blocks = clip.transformer.resblocks
        for part in blocks:
            asking, query, (key, value) = own, *_project(part, own)
            shared_query, (shared_key, shared_value) = _project(part, shared)
            key, value = (
                torch.cat([before.expand(len(own), -1, -1, -1), after], 2)
                for before, after in ((shared_key, key), (shared_value, value))
            )
            if part is blocks[-1]:
                classes = torch.arange(len(own), device=own.device)
                asking, query = own[classes, ends, None], query[classes, :, ends, None]
                sees = sees[ends, None, None]
            else:
                mixed = F.scaled_dot_product_attention(shared_query, shared_key, shared_value, is_causal=True)
                shared = _rest(part, shared, mixed)
            own = _rest(part, asking, F.scaled_dot_product_attention(query, key, value, sees))
        return clip.ln_final(own[:, 0]) @ clip.text_projection

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        tokens = self.blocks(frames + self.positions.weight)
        video, texts = tokens.mean(1), self.texts()
        return {"tokens": tokens, "video": video, "texts": texts, "logits": cosines(video, texts) / TAU}


def _project(block: Any, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Queries, and keys and values, of a block of the text tower, by heads."""
    attention = block.attn
    projected = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (apart(part, attention.num_heads) for part in projected.chunk(3, -1))
    return query, (key, value)


def _rest(block: Any, tokens: Tensor, mixed: Tensor) -> Tensor:
    """What a block of the text tower makes of its tokens and of what they saw."""
    tokens = tokens + block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
