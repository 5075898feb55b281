"""From a video to its stored frame features, and from these to the T frames that a model sees.

Letters: N videos, C crops, F stored frames, T frames, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flowclip_core.config import CROPS
from flowclip_core.data.video import Clip, read_frames, resize_and_crop, segment_centres
from flowclip_core.errors import InputError, NotFinite

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Encoder(Protocol):
    """What turns pictures, uint8 (N,3,size,size), into features (N,D): see `model.backbone.Backbone`."""

    name: str
    image_size: int

    @property
    def device(self) -> torch.device | str: ...

    def encode_frames(self, frames: Tensor) -> Tensor: ...


def encode_video(
    path: str | Path,
    backbone: Encoder,
    frames: int = 32,
    crops: Sequence[str] = ("centre",),
    read: Callable[..., Clip] = read_frames,
) -> Tensor:
    """Frame features (C,F,D) of one video: the centre frame of each of F = `frames` equal parts, in C crops.

    read: decodes the video, see `read_frames`.
    Raises VideoError for an unreadable video, NotFinite where a feature is no finite number.
    """
    return encode_clip(path, read(path, lambda count: segment_centres(count, frames)), backbone, crops)


def encode_clip(path: str | Path, clip: Clip, backbone: Encoder, crops: Sequence[str]) -> Tensor:
    """Features (C,F,D) of the F frames of a clip. path: whose they are, for a message. Raises NotFinite."""
    import torch

    with torch.no_grad():  # not inference_mode: what it makes could not be trained on
        views = resize_and_crop(clip.frames, backbone.image_size, crops)
        features = torch.stack([backbone.encode_frames(view) for view in views])
    if not features.isfinite().all():
        raise NotFinite(f"{path}: a feature that {backbone.name} makes of it is no finite number")
    return features


class Reader:
    """What training and testing read frames from.

    features: (N,C,F,D) array. crops: the C crops. names: of the N videos. where: whose they are, for
    messages. means: (N,C,M,D) of which the sum over M is added to each frame; None: nothing is.
    """

    features: np.ndarray
    means: np.ndarray | None = None
    crops: tuple[str, ...]
    names: Sequence[str]
    where: str

    def take(self, rows: np.ndarray, frames: np.ndarray, crops: np.ndarray | None = None) -> np.ndarray:
        """Frame features (B,T,D) float32. rows (B,); frames (B,T) stored frame numbers; crops (B,), default
        centre.

        Raises NotFinite naming the first video with a feature that is not a finite number.
        """
        crops = np.full(len(rows), self.crops.index("centre")) if crops is None else crops
        taken = self.features[rows[:, None], crops[:, None], frames].astype(np.float32)
        if self.means is not None:
            taken += self.means[rows, crops].astype(np.float32).sum(1)[:, None]
        if not np.isfinite(taken.sum()):  # of float16 the sum cannot overflow; faster than a look at each
            bad = int(np.argmin(np.isfinite(taken).all((1, 2))))
            name, crop = self.names[rows[bad]], self.crops[crops[bad]]
            raise NotFinite(
                f"{self.where} of video {name} (crop {crop}) are not all finite numbers; make them again"
            )
        return taken


@dataclass(frozen=True)
class Features(Reader):
    """Features in an array of the user's own."""

    features: np.ndarray
    crops: tuple[str, ...]
    names: Sequence[str]
    where: str = "the features"


def as_features(features: np.ndarray | Tensor | Reader, names: Sequence[str] | None = None) -> Reader:
    """What can be read frame by frame: a store as it is, an array or tensor (N,F,D) or (N,C,F,D) in
    `Features`.

    names: of the videos, by default their numbers; they decide the random draws of a test. C = 1 means the
    centre crop, more are `left`, `centre`, `right` and `mirrored`. Raises InputError for another shape.
    """
    if isinstance(features, Reader):
        return features
    array = np.asarray(features if isinstance(features, np.ndarray) else features.detach().cpu())
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape or array.shape[1] > len(CROPS):
        raise InputError(
            f"features: expected (N,F,D) or (N,C,F,D) with C up to {len(CROPS)}, got {np.shape(array)}"
        )
    names = [str(number) for number in range(len(array))] if names is None else list(names)
    if len(names) != len(array):
        raise InputError(f"names: {len(names)} of them for {len(array)} videos")
    return Features(array, ("centre",) if array.shape[1] == 1 else CROPS[: array.shape[1]], names)


def central_frames(stored: int, frames: int) -> np.ndarray:
    """The stored frame (T,) in the middle of each of T segments.

    Raises InputError unless T is 1 to `stored`.
    """
    _need_segments(stored, frames)
    return (np.arange(frames) * 2 + 1) * stored // (2 * frames)


def drawn_frames(
    rng: np.random.Generator, videos: int, stored: int, frames: int, jitter: int | None = None
) -> np.ndarray:
    """A TSN draw (B,T): one random stored frame out of each of T segments, for each video.

    Segment t begins at frame t F / T, rounded down. jitter: draw from that many frames in the middle of each
    segment at most; all T then leave the same choice. Raises InputError unless T is 1 to `stored`.
    """
    _need_segments(stored, frames)
    begins = np.arange(frames + 1) * stored // frames
    if jitter is not None:
        sizes = np.minimum(np.diff(begins), jitter)
        lows = begins[:-1] + (np.diff(begins) - sizes + 1) // 2
        return rng.integers(lows, lows + sizes, size=(videos, frames))
    if stored % frames == 0:
        return begins[:-1] + rng.integers(0, stored // frames, size=(videos, frames))
    return rng.integers(begins[:-1], begins[1:], size=(videos, frames))


def _need_segments(stored: int, frames: int) -> None:
    if not 1 <= frames <= stored:
        raise InputError(
            f"frames: T={frames} cannot be drawn from {stored} stored frames; T must be 1 to {stored}"
        )
