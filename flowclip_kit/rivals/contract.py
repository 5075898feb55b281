"""What a rival has to offer: frame features in, named intermediates with "logits" out, as FlowCLIP does.

A rival sees the same stored features as FlowCLIP, so the towers stay frozen whatever its authors trained.
Letters: B videos, T frames, K classes, L tokens, D width of the shared space, W width of the text tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock
from safetensors.torch import load_file, save
from torch import Tensor, nn

from flowclip_core.config import PROMPTS
from flowclip_core.errors import InputError
from flowclip_core.files import write_atomically
from flowclip_core.model.backbone import Backbone
from flowclip_core.model.prompt_tree import QUICK, PromptTree
from flowclip_core.model.prompts import prompt_vectors


@dataclass(frozen=True)
class Settings:
    """What every rival can be asked for. frames: T."""

    frames: int = 8


class Rival(nn.Module):
    """A method beside FlowCLIP. A subclass makes its parts in `build` and scores videos in `encode`.

    DEVIATES: what differs from the publication, beside the frozen towers. Its recipe stands with its name:
    see `rivals.METHODS`.
    """

    DEVIATES: ClassVar[str] = ""

    def __init__(
        self, backbone: Backbone, class_texts: Sequence[str], seed: int = 0, frames: int = 8
    ) -> None:
        """backbone: the frozen CLIP. class_texts: K class names. seed: draws the parts.

        frames: T.
        """
        super().__init__()
        self._backbone = (backbone,)  # shared by many models and never trained, so not a part of this one
        self.class_texts, self.config = tuple(class_texts), Settings(frames)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build()
        self.to(backbone.device, backbone.mean.dtype)

    @property
    def backbone(self) -> Backbone:
        return self._backbone[0]

    @property
    def scale(self) -> Tensor:
        """CLIP's own factor in front of a cosine (100 for OpenAI's models)."""
        return self.backbone.clip.logit_scale.detach().exp()

    @property
    def text_tokens(self) -> int:
        """Tokens that the text tower reads for each video; 0 where all videos have the same texts."""
        return 0

    @property
    def videos_at_once(self) -> int | None:
        """Videos of one pass forward and back while training; None: the whole batch."""
        return None

    def build(self) -> None:
        """Make the trained parts and whatever does not depend on the video."""

    def start(self, frames: Tensor, labels: Tensor) -> None:
        """Called once before training with all training videos: frames (N,T,D), labels (N,)."""

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        """All intermediates of (B,T,D) by name, "logits" (B,K) among them."""
        raise NotImplementedError

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """`encode`, after a look at the shape of `frames`."""
        if frames.ndim != 3 or frames.shape[1:] != (self.config.frames, self.backbone.width):
            raise InputError(
                f"frame features have shape {tuple(frames.shape)}; {type(self).__name__} takes"
                f" (B, T={self.config.frames}, D={self.backbone.width})"
            )
        return {"frames": frames, **self.encode(frames)}

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return dict(self.named_parameters())

    def save(self, path: Path) -> Path:
        """Write the trained parts as safetensors, atomically."""
        parts = {name: value.detach().cpu().contiguous() for name, value in self.trained().items()}
        return write_atomically(path, save(parts))

    def load(self, path: Path) -> Rival:
        """Take the trained parts that `save` wrote, of a model that may have had other classes; returns self.

        Raises InputError where they do not fit, as with parts that belong to classes.
        """
        saved, own = load_file(path), self.trained()
        shapes, expected = (
            {name: tuple(value.shape) for name, value in parts.items()} for parts in (saved, own)
        )
        if shapes != expected:
            raise InputError(f"{path}: holds the parts {shapes}; {type(self).__name__} has {expected}")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(saved[name])
        return self

    def hand_crafted(self, prompt: str = PROMPTS[5]) -> Tensor:
        """Text features (K,D) behind a fixed prompt; by default the one that FlowCLIP starts from."""
        vectors = prompt_vectors(self.backbone, prompt)
        with torch.no_grad():
            return PromptTree(self.backbone, self.class_texts, len(vectors))(vectors[None])[0]


def unit(vectors: Tensor) -> Tensor:
    """n(x) = x / |x| along the last dimension."""
    return F.normalize(vectors, dim=-1)


def cosines(video: Tensor, texts: Tensor) -> Tensor:
    """Cosines (B,K) of videos (B,D) with texts (K,D), or with each video's own (B,K,D)."""
    return torch.einsum("...d,...kd->...k", unit(video), unit(texts))


class Block(ResidualAttentionBlock):
    """open_clip's block in fewer kernels: the parts here are so small that calling them takes the time."""

    def forward(self, tokens: Tensor) -> Tensor:
        attention: Any = self.attn
        out = attention.out_proj
        projected = F.linear(self.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (apart(part, attention.num_heads) for part in projected.chunk(3, -1))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + F.linear(mixed, out.weight, out.bias)
        return tokens + feed_forward(self.mlp, self.ln_2(tokens))


def block(width: int, eps: float = 1e-5) -> Block:
    """CLIP's transformer block: pre-norm, heads 64 wide (8 where the width is small), QuickGELU of 4D."""
    norm = partial(LayerNorm, eps=eps)
    return Block(width, heads(width), act_layer=QuickGELU, norm_layer=norm)


def apart(rows: Tensor, heads: int) -> Tensor:
    """(B,N,D) by heads: (B,heads,N,D/heads)."""
    return rows.unflatten(-1, (heads, -1)).transpose(1, 2)


def feed_forward(mlp: Any, rows: Tensor) -> Tensor:
    """A linear layer, QuickGELU, a linear layer; x sigmoid(a x) = silu(a x) / a takes one kernel for
    three."""
    up, _, down = mlp
    hidden = F.silu(F.linear(QUICK * rows, up.weight, QUICK * up.bias))
    return F.linear(hidden, down.weight) / QUICK + down.bias


def heads(width: int) -> int:
    """D/64, but no fewer than the 8 that FlowCLIP has."""
    return max(8, width // 64)


def normal_init(module: nn.Module, std: float = 0.02) -> None:
    """Weights of linear layers and embeddings drawn from N(0, std), zero biases; for `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
