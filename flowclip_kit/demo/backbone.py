"""The demo's frozen CLIP, embedded in the kit, beside those that open_clip knows."""

from __future__ import annotations

from pathlib import Path

from flowclip_core.config import TINY
from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone
from flowclip_core.model.backbone import load_backbone as load_other
from flowclip_kit.weights import check_contents


def load_backbone(
    name: str | Path = TINY, pretrained: str | None = None, seed: int = 0, device: str = "cpu"
) -> Backbone:
    """The frozen CLIP `name`: `tiny-clip`, which knows drawn figures, or what `flowclip_core.load_backbone`
    takes.

    Raises InputError as that does, and for other weights of the tiny CLIP.
    """
    if name != TINY:
        if not (isinstance(name, Path) or Path(name).is_dir()):
            check_contents(name, pretrained)
        return load_other(name, pretrained, seed, device)
    if pretrained not in (None, "", "none"):
        raise InputError(
            f"backbone {TINY} brings its own weights; leave --pretrained out (got {pretrained!r})"
        )
    from flowclip_kit.demo.pretrain import load_tiny_clip

    return Backbone(load_tiny_clip(), TINY, None).to(device)
