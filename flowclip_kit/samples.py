"""A clip and a trained model to try things on: both come with the kit, nothing is fetched or trained.

from flowclip_kit.samples import sample_clip, sample_model
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowclip_core.errors import InputError

if TYPE_CHECKING:
    from flowclip_core.model.flowclip import FlowCLIP


def sample_clip(name: str = "get up", number: int = 0) -> Path:
    """A test video of the demo world, drawn into the cache on first use: the path of an .avi file.

    name: one of the 16 classes of figures-h. number: which of its test videos, from 0.
    Raises InputError for another class, naming them all, or for a number that is too large.
    """
    from flowclip_kit.demo.world import CLASSES, spaced
    from flowclip_kit.explore import clips

    classes = {spaced(label): label for label in CLASSES["figures-h"]}
    if spaced(name) not in classes:
        raise InputError(f"sample clip {name!r}: no such class; use one of {', '.join(classes)}")
    return clips.demo_clip(classes[spaced(name)], number)


def sample_model() -> FlowCLIP:
    """The full model of the demo's Table 5 (figures-h, 16 training videos a class) on its tiny CLIP.

    It is there to look at, so no gradients are kept.
    """
    from flowclip_kit.explore import checkpoints

    return checkpoints.load(checkpoints.backbone()).eval().requires_grad_(False)
