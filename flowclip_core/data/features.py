"""The feature store: each video is decoded and encoded once per frozen backbone, then every run reads the same array.

On disk, one folder a store: `features.npy` (N videos, C crops, F stored frames, D width) float16, `index.csv` (name,
bytes, modified, sha256, frame count, decoder of each video), `failed.csv` (videos that cannot be read) and
`about.json`, written last: a folder that has it is whole. `extraction` fills it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flowclip_core.config import PRECISIONS, need_crops, need_types
from flowclip_core.errors import InputError, NotFinite

INDEX = ["name", "bytes", "modified", "sha256", "frames", "decoder"]
FAILED = ["name", "bytes", "modified", "sha256", "error"]
# Frames that differ by less than the last bit of a float16, relative to the largest feature, are one picture.
STILL = 2.0**-10
TABLES = ("index.csv", "failed.csv")


@dataclass(frozen=True)
class StoreConfig:
    """What a stored feature depends on, besides the video itself."""

    weights: str  # hash of the backbone's weights
    frames: int = 32  # F, one in the middle of each 1/F of the video
    crops: tuple[str, ...] = ("left", "centre", "right", "mirrored")
    decoder: str = "pyav"
    precision: str = "float32"  # of the image tower's arithmetic

    def __post_init__(self) -> None:
        need_types(self)
        need_crops("crops", self.crops)
        if self.frames < 1:
            raise InputError(f"frames={self.frames} must be 1 or more")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision={self.precision!r} is not one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class FeatureStore:
    """Stored features of one data set, opened for reading (memory-mapped)."""

    folder: Path
    features: np.ndarray  # (N,C,F,D) float16
    crops: tuple[str, ...]
    index: pd.DataFrame  # one row a video, in the order of `features`
    precision: str = "float32"  # of the arithmetic they were made with
    failed: tuple[str, ...] = ()  # what is wrong with each video that could not be read: one line, path first

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """The store in `folder`. Raises InputError unless it is whole."""
        try:
            about = json.loads((folder / "about.json").read_text())
            crops, precision = tuple(about["crops"]), about.get("precision", "float32")
            features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            raise _broken(folder, error) from error
        index = read_table(folder / "index.csv", INDEX)
        shape, dtype = features.shape, features.dtype
        if dtype != np.float16 or len(shape) != 4 or shape[:2] != (len(index), len(crops)):
            raise _broken(folder, f"{len(index)} videos and {len(crops)} crops, but features {dtype} {shape}")
        failed = read_table(folder / "failed.csv", FAILED)["error"]
        return cls(folder, features, crops, index, precision, tuple(failed))

    @functools.cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.index["name"])}

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """Rows (n,) of the named videos. Raises InputError for a video that is not stored."""
        absent = [name for name in names if name not in self._row]
        if absent:
            raise InputError(f"{self.folder}: {len(absent)} videos have no features, first {absent[0]}; see failed.csv")
        return np.array([self._row[name] for name in names], dtype=np.int64)

    def has(self, name: str) -> bool:
        """Whether the video could be read and stored."""
        return name in self._row

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hash over the content of the named videos, in order, and what decoded each: same fingerprint, same frames."""
        rows = self.index.iloc[self.rows(names)]
        said = rows["name"] + " " + rows["sha256"] + " " + rows["decoder"]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()

    def take(self, rows: np.ndarray, frames: np.ndarray, crops: np.ndarray | None = None) -> np.ndarray:
        """Frame features (B,T,D) float32. rows (B,); frames (B,T) stored frame numbers; crops (B,), default centre.

        Raises NotFinite naming the first video with a feature that is not a finite number.
        """
        crops = np.full(len(rows), self.crops.index("centre")) if crops is None else crops
        taken = self.features[rows[:, None], crops[:, None], frames].astype(np.float32)
        if not np.isfinite(taken).all():
            bad = int(np.argmin(np.isfinite(taken).all((1, 2))))
            name, crop = self.index["name"].iloc[rows[bad]], self.crops[crops[bad]]
            raise NotFinite(
                f"{self.folder}: the stored features of video {name} (crop {crop}) are not all finite numbers; remove"
                " the folder and run again"
            )
        return taken

    def still(self, rows: np.ndarray) -> np.ndarray:
        """Which of the videos (n,) do not move: all stored frames of the first crop are equal, to what float16 keeps.

        A video of one frame, or of one picture held, is such a one: its frame differences (Eq. 4) say nothing.
        """
        moves = np.zeros(len(rows), bool)
        for frame in range(1, self.features.shape[2]):  # almost all videos move in the first: the others are not read
            left = np.flatnonzero(~moves)
            first = self.features[rows[left], 0, 0].astype(np.float32)
            change = np.abs(self.features[rows[left], 0, frame] - first)
            moves[left] = change.max(1, initial=0) > STILL * np.abs(first).max(1, initial=0)
        return ~moves


def central_frames(stored: int, frames: int) -> np.ndarray:
    """The stored frame (T,) in the middle of each of T segments."""
    _divides(stored, frames)
    return (np.arange(frames) * 2 + 1) * stored // (2 * frames)


def drawn_frames(rng: np.random.Generator, videos: int, stored: int, frames: int) -> np.ndarray:
    """A TSN draw (B,T): one random stored frame out of each of T equal segments, for each video."""
    _divides(stored, frames)
    segment = stored // frames
    return np.arange(frames) * segment + rng.integers(0, segment, size=(videos, frames))


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """One of a store's two tables. Raises InputError where it is not whole."""
    try:
        whole = dict.fromkeys(("bytes", "modified", "frames"), np.int64)
        types = {name: whole.get(name, str) for name in columns}
        return pd.read_csv(path, usecols=columns, dtype=types, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise _broken(path.parent, error) from error


def _broken(folder: Path, why: object) -> InputError:
    said = " ".join(str(why).split())
    return InputError(f"{folder}: no whole feature store ({said}); remove the folder and run again")


def _divides(stored: int, frames: int) -> None:
    if not 1 <= frames <= stored or stored % frames:
        raise InputError(f"T={frames} frames cannot be drawn from {stored} stored ones: T must divide {stored}")
