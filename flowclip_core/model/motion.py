"""The Motion Modeling Block (section 3.2): frame differences, a motion stream and a spatial stream.

Letters: B videos, T frames, L differences, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError


@contextmanager
def seeded(seed: int, part: int) -> Iterator[None]:
    """Draw a part's initial weights from a random stream of its own, leaving the caller's untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1000 + part)
        yield


def pairs(frames: int, step: int) -> list[tuple[int, int]]:
    """The pairs (i, j) of S(I), i < j <= i+step, shortest distance first: L of them (Eq. 4, 5)."""
    return [(i, i + distance) for distance in range(1, step + 1) for i in range(frames - distance)]


def differences(features: Tensor, step: int) -> Tensor:
    """Frame differences (B,L,D): I_j - I_i for every pair at most `step` apart (Eq. 4).

    features: (B,T,D) frame features. Raises InputError unless 1 <= step <= T-1.
    """
    frames = features.shape[1]
    if not 1 <= step < frames:
        raise InputError(
            f"step s={step} needs 1 <= s <= T-1, got T={frames} frames; lower s or take more frames"
        )
    return torch.cat([features[:, d:] - features[:, :-d] for d in range(1, step + 1)], 1)


class Stream(nn.Module):
    """One transformer block over a sequence of tokens, (B,N,D) -> (B,N,D): T_m or T_s of Eq. 5.

    Self-attention and a feed-forward net of width 4D, by default with ReLU, as in the architecture that the
    paper cites; `norm_order`, `activation` and `positions` are open readings. Without positions the block
    treats its tokens as a set.
    """

    def __init__(self, width: int, tokens: int, config: ModelConfig) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(
            width,
            config.heads,
            dim_feedforward=4 * width,
            dropout=0.0,
            activation=config.activation,
            batch_first=True,
            norm_first=config.norm_order == "pre",
        )
        self.positions = None
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.randn(tokens, width) * config.position_std)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.block(tokens if self.positions is None else tokens + self.positions)
        return mixed


class MotionModelingBlock(nn.Module):
    """MMB: frames I (B,T,D) -> the video V (B,D), from a spatial stream over I and a motion stream over S(I).

    Either stream may be off; without both, V is the mean of the frames. seed: draws the streams' weights.
    """

    def __init__(self, width: int, config: ModelConfig, seed: int) -> None:
        super().__init__()
        self.residual = config.residual
        self.spatial_stream = self.motion_stream = None
        if config.spatial:
            with seeded(seed, 1):
                self.spatial_stream = Stream(width, config.frames, config)
        if config.mmb:
            with seeded(seed, 2):
                self.motion_stream = Stream(width, config.differences, config)

    def forward(self, frames: Tensor, step: int) -> dict[str, Tensor]:
        """All intermediates by name: `frames`, `video`, and those of the streams that are on. step: s of Eq.
        4.
        """
        out = {"frames": frames, "video": frames.mean(1)}  # (B,T,D), (B,D)
        if self.spatial_stream is not None:
            out["spatial_tokens"] = self.spatial_stream(frames)  # (B,T,D), Eq. 5
            out["video"] = out["spatial_tokens"].mean(1) + (frames.mean(1) if self.residual else 0)
        if self.motion_stream is not None:
            out["differences"] = differences(frames, step)  # (B,L,D), Eq. 4
            out["motion_tokens"] = self.motion_stream(out["differences"])  # (B,L,D), Eq. 5
            out["motion"] = out["motion_tokens"].mean(1)  # (B,D)
            out["video"] = out["video"] + out["motion"]  # Eq. 6
        return out
