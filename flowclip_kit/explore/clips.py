"""A video for the explorers: found or drawn, decoded upright, encoded once.

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

STORED = 32  # frames kept of a clip, as in the feature store
ORDERS = {"in order": loop.IN_ORDER, "reversed": loop.REVERSED, "shuffled": loop.SHUFFLED,
          "one frame repeated": loop.REPEATED}  # fmt: skip
SHUFFLE_SEED = 0
UPLOAD_BYTES = 200 * 2**20


@dataclass(frozen=True)
class Footage:
    """A clip as the model sees it.

    title: what to call it. pictures: (F,S,S,3) uint8, the centre square of each stored frame, upright.
    features: (F,D) float32. numbers: (F,) frame numbers in the video. count: frames in the video.
    label: its class as words; "" for a file of the user's own. demo: a clip of the demo world.
    """

    title: str
    pictures: np.ndarray
    features: np.ndarray
    numbers: np.ndarray
    count: int
    label: str = ""
    demo: bool = False


def demo_clip(label: str, number: int = 0, name: str = "figures-h", root: Path | None = None) -> Path:
    """Test video `number` (from 0) of a class in split 1; that one video is drawn if it is not there yet."""
    if name not in world.NAMES or label not in world.CLASSES[name]:
        raise InputError(f"{name} has no class {label!r}")
    indices = sorted(world.test_videos(name, label, 1, world.WHOLE))
    if not 0 <= number < len(indices):
        raise InputError(f"clip {number}: a class of {name} has test videos 0 to {len(indices) - 1}")
    return world.ensure_video(name, label, indices[number], root or world.default_root())


def read_demo(backbone: Backbone, label: str, number: int = 0, root: Path | None = None) -> Footage:
    """A demo clip of figures-h, decoded and encoded; `label` as in the data set, such as "get_up"."""
    words = world.spaced(label)
    return read(demo_clip(label, number, root=root), backbone, f"{words}, clip {number}", words, True)


def clips_of(dataset: Dataset, split: int = 1) -> dict[str, list[Path]]:
    """The test videos of each class that has any, by the class name as words."""
    paths: dict[str, list[Path]] = {}
    for video in sorted(dataset.splits[split].test, key=lambda video: (video.label, video.name)):
        paths.setdefault(dataset.texts[video.label], []).append(dataset.folder / video.name)
    return paths


def save_upload(name: str, content: bytes, folder: Path | None = None) -> Path:
    """Keep an uploaded file in the cache, under its own base name and a hash of its bytes."""
    if not content or len(content) > UPLOAD_BYTES:
        limit = f"{UPLOAD_BYTES >> 20} MB"
        raise InputError(f"{name}: {len(content)} bytes; upload a video of at most {limit}, or give its path")
    digest = hashlib.sha256(content).hexdigest()[:16]
    base = PurePath(name.replace("\\", "/")).name[-60:].lstrip(".") or "upload"
    path = (folder or cache_dir() / "uploads") / digest / base
    return path if path.exists() else write_atomically(path, content)


def read(
    path: str | Path, backbone: Backbone, title: str | None = None, label: str = "", demo: bool = False
) -> Footage:
    """Decode a video, upright, and encode the centre squares of `STORED` frames.

    title: by default the file's name. Raises VideoError (one line) for a file that cannot be read.
    """
    import torch

    path = Path(str(path).strip()).expanduser()
    size = backbone.image_size

    def shrink(picture: np.ndarray) -> np.ndarray:
        return crop(resize(picture[None], size), size, ("centre",))[0, 0].numpy()

    clip = read_frames(path, lambda count: segment_centres(count, STORED), shrink=shrink)
    with torch.inference_mode():
        features = backbone.encode_frames(torch.from_numpy(clip.frames)).float().cpu().numpy()
    if not np.isfinite(features).all():
        raise NotFinite(f"{path}: {backbone.name} turns it into features that are not finite numbers")
    pictures, numbers = clip.frames.transpose(0, 2, 3, 1), np.array(segment_centres(clip.count, STORED))
    return Footage(title or path.name, pictures, features, numbers, clip.count, label, demo)


def choose(frames: int, start: int = 0, end: int = STORED, order: str = "in order") -> np.ndarray:
    """Which stored frames (T,) the model gets: the middles of T equal parts of [start, end), put in `order`.

    A range shorter than T repeats frames. Raises InputError for an empty range, T < 2, or an unknown order.
    """
    if not 0 <= start < end <= STORED:
        raise InputError(f"start {start} and end {end}: expected 0 <= start < end <= {STORED}")
    if frames < 2:
        raise InputError(f"T={frames}: motion needs at least two frames")
    if order not in ORDERS:
        raise InputError(f"order {order!r}: expected one of {', '.join(ORDERS)}")
    picked = start + np.array(segment_centres(end - start, frames))
    return loop.arrange(picked[None], ORDERS[order], np.random.default_rng(SHUFFLE_SEED))[0]
