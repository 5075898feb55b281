"""X-CLIP's head (ECCV 2022): the multi-frame integration transformer and video-specific prompts.

Paper: Ni et al., "Expanding Language-Image Pretrained Models for General Video Recognition".
Official: microsoft/VideoX, X-CLIP/models/mit.py, prompt.py, xclip.py (MIT); written from the equations.
MIT: V = mean(I + block(I + positions)). Texts: twice x <- x + CrossAttention(norm(x), visual),
x <- x + MLP(norm(x)), from x = t_k over the normed visual tokens; t_k + alpha x, alpha (D,) starting at 0.1.
logits = s n(V) . n(t_k).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from flowclip_kit.rivals.contract import Rival, apart, block, cosines, feed_forward, heads


class PromptLayer(nn.Module):
    """One layer of the video-specific prompts: texts (B,K,D), or (1,K,D) for all videos, look at visual
    tokens (B,T,D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = heads(width)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width))

    def forward(self, texts: Tensor, visual: Tensor) -> Tensor:
        query = self.query(self.norm_attention(texts)).expand(len(visual), -1, -1)
        key, value = (apart(part(visual), self.heads) for part in (self.key, self.value))
        mixed = F.scaled_dot_product_attention(apart(query, self.heads), key, value)
        texts = texts + self.out(mixed.transpose(1, 2).flatten(2))
        return texts + feed_forward(self.mlp, self.norm_mlp(texts))


class XCLIP(Rival):
    DEVIATES = (
        "texts attend to T frame tokens, not to 196 patches averaged over T; ten times 8e-6 for all parts"
    )
    LAYERS = 2
    names: Tensor  # (K,D)

    def build(self) -> None:
        width = self.backbone.width
        self.register_buffer("names", self.hand_crafted(), persistent=False)
        self.positions = nn.Parameter(torch.empty(self.config.frames, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.mit = block(width)
        self.norm_visual = nn.LayerNorm(width)
        self.layers = nn.ModuleList(PromptLayer(width) for _ in range(self.LAYERS))
        self.alpha = nn.Parameter(torch.full((width,), 0.1))

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        tokens = frames + self.mit(frames + self.positions)
        visual, shift = self.norm_visual(frames), self.names[None]
        for layer in self.layers:
            shift = layer(shift, visual)
        video, texts = tokens.mean(1), self.names + self.alpha * shift  # (B,D), (B,K,D)
        logits = self.scale * cosines(video, texts)
        return {"tokens": tokens, "video": video, "texts": texts, "logits": logits}
