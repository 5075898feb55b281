"""Tip-Adapter-F (ECCV 2022): a cache of the training videos, whose keys are trained.

Paper: Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification".
Official: gaopengcuhk/Tip-Adapter, main.py (no licence: written from the paper).
logits = s n(f) . n(t) + a exp(-b (1 - n(f) . keys)) . values, with f = mean I, keys = n(f) of the training
videos, values = their labels, one-hot. a and b are fixed: the official code chooses them on the test set.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from flowclip_kit.rivals.contract import Rival, cosines, unit

ALPHA, BETA = 1.0, 5.5  # the paper's start values


class TipAdapterF(Rival):
    DEVIATES = "keys from one view of each video, not the mean of ten; a = 1 and b = 5.5 are fixed"
    texts: Tensor  # (K,D)
    keys: nn.Parameter | None  # (N,D), known with the training videos
    values: Tensor  # (N,K)

    def build(self) -> None:
        self.register_buffer("texts", self.hand_crafted(), persistent=False)
        self.keys = None
        self.register_buffer("values", None, persistent=False)

    def start(self, frames: Tensor, labels: Tensor) -> None:
        self.keys = nn.Parameter(unit(frames.mean(1)))
        self.values = F.one_hot(labels, len(self.class_texts)).to(frames)

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        video = frames.mean(1)
        out = {"video": video, "texts": self.texts, "logits": self.scale * cosines(video, self.texts)}
        if self.keys is not None:
            out["affinity"] = (-BETA * (1 - unit(video) @ self.keys.T)).exp()  # (B,N)
            out["logits"] = out["logits"] + ALPHA * out["affinity"] @ self.values
        return out
