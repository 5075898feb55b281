"""Prompts to first order: how nonlinear is the way from a motion shift to the class texts?

The adapter shifts all prompt vectors of a video by W2 a + b2, with a = ReLU(W1 motion + b1) of 32 values (Eq.
7). So T(P + W2 a + b2) = T(P + b2) + J W2 a to first order: the text tower is read once at P + b2 and once
along each column of W2, 33 passes for all videos together, instead of once a video.

Letters: B videos, H prompt vectors, K classes, R width of the adapter, D shared width, W text width.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone
from flowclip_core.model.flowclip import FlowCLIP


def hidden(model: FlowCLIP, motion: Tensor) -> Tensor:
    """a (B,R): what the second layer of the motion adapter sees. motion: (B,D)."""
    first, relu, _ = _adapter(model)[1]
    return relu(first(motion))


def expansion(model: FlowCLIP) -> tuple[Tensor, Tensor]:
    """Texts (K,D) at P + b2 and their derivatives (R,K,D) along the columns of W2, where asked with gradient.

    Raises InputError for a model whose prompts do not follow motion.
    """
    vectors, (*_, last) = _adapter(model)
    base = vectors + last.bias  # (H,W)
    directions = last.weight.T[:, None].repeat(1, len(base), 1)  # (R,H,W), each as a video of the tree

    def along(part: Tensor) -> tuple[Tensor, ...]:
        return torch.func.jvp(model.tree._encode, (base.expand_as(part).clone(),), (part,))

    # The fused attention has no forward derivative, and torch's first one warns of torch's own code.
    with sdpa_kernel(SDPBackend.MATH), _PlainLayerNorm(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        passes = [along(part) for part in directions.split(model.tree.at_once)]
    return passes[0][0][0], torch.cat([derivatives for _, derivatives in passes])


class _PlainLayerNorm(TorchFunctionMode):
    """LayerNorm from its definition. The gradient of torch's own forward derivative takes mean and deviation
    for constants, and is wrong."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.layer_norm:
            return func(*args, **(kwargs or {}))
        return _layer_norm(*args, **(kwargs or {}))


def _layer_norm(x: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Over the last dimension."""
    apart = x - x.mean(-1, keepdim=True)
    return apart * (apart.square().mean(-1, keepdim=True) + eps).rsqrt() * weight + bias


def linear_texts(base: Tensor, derivatives: Tensor, hidden: Tensor) -> Tensor:
    """First-order texts (B,K,D) of videos whose adapters hold `hidden` (B,R)."""
    return base + torch.einsum("br,rkd->bkd", hidden, derivatives)


class LinearPrompts(torch.nn.Module):
    """A FlowCLIP whose texts follow the motion to first order; the parameters are the model's own.

    `rivals.training.train` trains it, `flowclip_core.evaluate` tests it; while testing, the expansion is
    computed once and kept.
    """

    videos_at_once: int | None = None

    def __init__(self, model: FlowCLIP) -> None:
        super().__init__()
        _adapter(model)
        self.model = model
        self._kept: tuple[Tensor, Tensor] | None = None

    def start(self, frames: Tensor, labels: Tensor) -> None:
        """Nothing begins with the training videos."""

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def backbone(self) -> Backbone:
        return self.model.backbone

    @property
    def class_texts(self) -> tuple[str, ...]:
        return self.model.class_texts

    def trained(self) -> dict[str, torch.nn.Parameter]:
        return self.model.trained()

    def train(self, mode: bool = True) -> LinearPrompts:
        self._kept = None
        return super().train(mode)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """What FlowCLIP gives, "hidden" (B,R) beside it."""
        out = self.model.encode_video(frames)
        base, derivatives = self._kept or expansion(self.model)
        self._kept = None if self.training else (base, derivatives)
        out["hidden"] = hidden(self.model, out["motion"])
        texts = linear_texts(base, derivatives, out["hidden"])
        return self.model.score_classes(out, texts)


def relative_error(model: FlowCLIP, frames: Tensor) -> dict[str, float]:
    """How far first-order texts are from the true ones, over videos (B,T,D).

    "error": |T - T1| / |T - T0|, the share of the motion's effect on the texts that the first order misses
    (0: linear; 1: no better than prompts without motion). "effect": |T - T0| / |T|.
    """
    with torch.no_grad():
        out = model.encode_video(frames)
        base, derivatives = expansion(model)
        true = model.tree(out["prompts"])
        first = linear_texts(base, derivatives, hidden(model, out["motion"]))
        moved = (true - base).norm()
        return {"error": float((true - first).norm() / moved), "effect": float(moved / true.norm())}


def _adapter(model: FlowCLIP) -> tuple[Tensor, Any]:
    """The prompt vectors and the three layers that shift them."""
    if model.prompts is None or model.prompts.adapter is None:
        raise InputError(
            "linear prompts need a model with mmb, map and a motion adapter: its prompts do not move"
        )
    return model.prompts.vectors, model.prompts.adapter
