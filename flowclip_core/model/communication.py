"""The Multimodal Communication Block (section 3.4): texts attend to the video, the video to the texts.

Letters: B videos, N video tokens, K classes, D width.
"""

from __future__ import annotations

from torch import Tensor, nn


class CommunicationBlock(nn.Module):
    """T', V' = MCB(T, V) of Eq. 2: two multi-head cross-attentions with output projection, each with a
    residual.

    With a single video token the softmax of the first attention runs over one key, so every class receives
    the same vector; `video_tokens="sequence"` gives it the tokens of both streams instead.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.semantic_matching = nn.MultiheadAttention(width, heads, batch_first=True)
        self.semantic_allocating = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, texts: Tensor, video: Tensor, video_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """T' (B,K,D) and V' (B,D). texts: (B,K,D), video: (B,D), video_tokens: (B,N,D)."""
        matched, _ = self.semantic_matching(texts, video_tokens, video_tokens, need_weights=False)
        allocated, _ = self.semantic_allocating(video[:, None], texts, texts, need_weights=False)
        return texts + matched, video + allocated[:, 0]
