"""One video for the explorers: found or drawn, decoded upright, encoded once; later questions touch its
features only.

Letters: F stored frames, T chosen frames, D width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from flowclip_core.data.video import crop, read_frames, resize, segment_centres
from flowclip_core.errors import InputError, NotFinite
from flowclip_core.files import write_atomically
from flowclip_core.training import loop
from flowclip_kit.demo import world
from flowclip_kit.paths import cache_dir

if TYPE_CHECKING:
    from flowclip_core.model.backbone import Backbone
    from flowclip_kit.datasets.formats import Dataset

STORED = 32  # frames of a clip that are kept, as in the feature store
ORDERS = {"in order": loop.IN_ORDER, "reversed": loop.REVERSED, "shuffled": loop.SHUFFLED,
          "one frame repeated": loop.REPEATED}  # fmt: skip
SHUFFLE_SEED = 0
UPLOAD_BYTES = 200 * 2**20


@dataclass(frozen=True)
class Footage:
    """A clip as the model sees it.

    title: what to call it. pictures: (F,S,S,3) uint8, the centre square of each stored frame, upright.
    features: (F,D)
    float32. numbers: (F,) which frame of the video each is. count: frames in the video. own: no clip of a
    data set.
    demo: drawn.
    """

    title: str
    pictures: np.ndarray
    features: np.ndarray
    numbers: np.ndarray
    count: int
    own: bool = False
    demo: bool = False


def demo_classes(name: str = "figures-h") -> list[str]:
    """Class names of a demo set, in its own order: time-reversed twins stand beside each other."""
    return list(world.CLASSES[name])


def demo_clip(label: str, number: int = 0, name: str = "figures-h", root: Path | None = None) -> Path:
    """Test video `number` (from 0) of a class in split 1, drawn if it is not there: a moment, not the whole
    set."""
    if name not in world.NAMES or label not in world.CLASSES[name]:
        raise InputError(f"{name} has no class {label!r}")
    tests = sorted(world.test_videos(name, label, 1, world.WHOLE))
    if not 0 <= number < len(tests):
        raise InputError(f"clip {number}: {name} has test videos 0 to {len(tests) - 1} of a class")
    return world.ensure_video(name, label, tests[number], root or world.default_root())


def clips_of(dataset: Dataset, split: int = 1) -> dict[str, list[Path]]:
    """The test videos of each class that has any, by the class's name as words."""
    found: dict[str, list[Path]] = {}
    for video in sorted(dataset.splits[split].test, key=lambda video: (video.label, video.name)):
        found.setdefault(dataset.texts[video.label], []).append(dataset.folder / video.name)
    return found


def save_upload(name: str, content: bytes, folder: Path | None = None) -> Path:
    """Keep an uploaded file in the cache, under its own last name and a hash of its bytes."""
    if not content or len(content) > UPLOAD_BYTES:
        most = f"{UPLOAD_BYTES >> 20} MB"
        raise InputError(f"{name}: {len(content)} bytes; upload a video of at most {most}, or give a path")
    digest = hashlib.sha256(content).hexdigest()[:16]
    last = PurePath(name.replace("\\", "/")).name[-60:].lstrip(".") or "upload"
    path = (folder or cache_dir() / "uploads") / digest / last
    return path if path.exists() else write_atomically(path, content)


def read(
    path: str | Path, backbone: Backbone, stored: int = STORED, title: str | None = None, demo: bool = False
) -> Footage:
    """Decode a video, upright, and encode the centre squares of `stored` frames. Raises VideoError (one
    line).

    title: what to call a clip of a data set; a file of one's own goes by its name. demo: it is a drawn one.
    """
    import torch

    numbers: list[int] = []

    def pick(count: int) -> list[int]:
        numbers[:] = segment_centres(count, stored)
        return numbers

    def shrink(picture: np.ndarray) -> np.ndarray:
        return crop(resize(picture[None], backbone.image_size), backbone.image_size, ("centre",))[
            0, 0
        ].numpy()

    path = Path(str(path).strip()).expanduser()
    clip = read_frames(path, pick, shrink=shrink)
    with torch.inference_mode():
        features = backbone.encode_frames(torch.from_numpy(clip.frames)).float().cpu().numpy()
    if not np.isfinite(features).all():
        raise NotFinite(f"{path}: a feature that {backbone.name} makes of it is no finite number")
    pictures = clip.frames.transpose(0, 2, 3, 1)
    return Footage(title or path.name, pictures, features, np.array(numbers), clip.count, title is None, demo)


def choose(
    stored: int, frames: int, start: int = 0, end: int | None = None, order: str = "in order"
) -> np.ndarray:
    """Which stored frames (T,) the model gets: the middles of T equal parts of [start, end), then put in
    `order`.

    A range shorter than T repeats frames. Raises InputError for an empty range, fewer than two frames,
    another order.
    """
    end = stored if end is None else end
    if not 0 <= start < end <= stored:
        raise InputError(f"start {start} and end {end}: expected 0 <= start < end <= {stored}")
    if frames < 2:
        raise InputError(f"T={frames}: motion needs two frames at least")
    if order not in ORDERS:
        raise InputError(f"order {order!r}: expected one of {', '.join(ORDERS)}")
    picked = start + np.array(segment_centres(end - start, frames))
    return loop.arrange(picked[None], ORDERS[order], np.random.default_rng(SHUFFLE_SEED))[0]
