"""The Motion Modeling Block (section 3.2): frame differences, a motion stream and a spatial stream.

Letters: B videos, T frames, L differences, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError


def pairs(frames: int, step: int) -> list[tuple[int, int]]:
    """The pairs (i, j) of S(I), i < j <= i+step, shortest distance first: L = sum of T-d for d = 1..s (Eq. 4, 5)."""
    return [(i, i + distance) for distance in range(1, step + 1) for i in range(frames - distance)]


def differences(features: Tensor, step: int) -> Tensor:
    """Frame differences (B,L,D): I_j - I_i for every pair at most `step` apart (Eq. 4).

    features: (B,T,D) frame features. Raises InputError unless 1 <= step <= T-1.
    """
    frames = features.shape[1]
    if not 1 <= step < frames:
        raise InputError(f"step s={step} needs 1 <= s <= T-1, got T={frames} frames; lower s or take more frames")
    return torch.cat([features[:, d:] - features[:, :-d] for d in range(1, step + 1)], 1)


class Stream(nn.Module):
    """One transformer block over a sequence of tokens, (B,N,D) -> (B,N,D): T_m or T_s of Eq. 5.

    Self-attention and a feed-forward net of width 4D with ReLU, as in the architecture that the paper cites;
    `norm_order` and `positions` are open readings. Without positional code the block treats its tokens as a set.
    """

    def __init__(self, width: int, tokens: int, config: ModelConfig) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(
            width, config.heads, 4 * width, dropout=0.0, batch_first=True, norm_first=config.norm_order == "pre"
        )
        self.positions = None
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.randn(tokens, width) * 0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.block(tokens if self.positions is None else tokens + self.positions)
