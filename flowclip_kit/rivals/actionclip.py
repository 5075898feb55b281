"""ActionCLIP's temporal heads (arXiv 2109.08472): Transf and LSTM over the frames.

Paper: Wang et al., "ActionCLIP: A New Paradigm for Video Action Recognition".
Official: sallymmx/ActionCLIP, modules/Visual_Prompt.py (MIT); written from the equations.
Transf: V = mean(I + blocks(I + positions)), six pre-norm blocks; LSTM: V = mean(I + LSTM(I)).
logits = s n(V) . n(t_k) with fixed texts and cross-entropy, as in Text4Vis.
"""

from __future__ import annotations

from torch import Tensor, nn

from flowclip_kit.rivals.contract import Rival, block, cosines, normal_init


class Transf(Rival):
    DEVIATES = "cross-entropy over fixed texts, not KL between batch similarities with texts that are trained"
    BLOCKS = 6
    texts: Tensor  # (K,D)

    def build(self) -> None:
        width = self.backbone.width
        self.register_buffer("texts", self.hand_crafted(), persistent=False)
        self.positions = nn.Embedding(self.backbone.context, width)
        self.blocks = nn.Sequential(*(block(width, eps=1e-12) for _ in range(self.BLOCKS)))
        self.apply(normal_init)

    def tokens(self, frames: Tensor) -> Tensor:
        """What is added to the frames (B,T,D)."""
        return self.blocks(frames + self.positions.weight[: frames.shape[1]])

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        tokens = frames + self.tokens(frames)
        video = tokens.mean(1)
        logits = self.scale * cosines(video, self.texts)
        return {"tokens": tokens, "video": video, "texts": self.texts, "logits": logits}


class LSTM(Transf):
    def build(self) -> None:
        width = self.backbone.width
        self.register_buffer("texts", self.hand_crafted(), persistent=False)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def tokens(self, frames: Tensor) -> Tensor:
        return self.lstm(frames)[0]
