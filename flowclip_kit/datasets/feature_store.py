"""The feature store: each video is decoded and encoded once per frozen backbone, then all runs read one
array.

On disk, one folder per store: `features.npy` (N videos, C crops, F stored frames, D width) float16, centred:
(N,C,F+2,D), each frame's deviation from the mean frame, then that mean in two float16 parts;
`index.csv` (name, bytes, modified, sha256, frame count, decoder of each video), `failed.csv` (videos that
cannot be read), `sums.json` (a checksum of each video's features and row, and of the other files) and
`about.json`, written last: a folder that has it is whole. `extraction` fills it. `looked.json` notes which
files were found to agree with their sums: while they stay the same, opening a store reads none of its
features.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flowclip_core.config import PRECISIONS, need_crops, need_types
from flowclip_core.data.features import Reader
from flowclip_core.errors import InputError
from flowclip_core.files import sha256, write_atomically
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.paths import settled, stamp

INDEX = ["name", "bytes", "modified", "sha256", "frames", "decoder"]
FAILED = ["name", "bytes", "modified", "sha256", "error"]
TABLES = ("index.csv", "failed.csv")
MEAN = 2  # parts of the mean frame behind the frames of a centred video
ARRAY, ABOUT, SUMS, LOOKED = "features.npy", "about.json", "sums.json", "looked.json"


class Damaged(InputError):
    """A store that is not as it was written. good: name -> (row number, index row) where both still are."""

    def __init__(self, folder: Path, why: object, good: Mapping[str, tuple[int, dict]] | None = None) -> None:
        self.folder, self.why, self.good = folder, " ".join(str(why).split()), good or {}
        super().__init__(f"{folder}: no whole feature store ({self.why}); remove the folder and run again")


@dataclass(frozen=True)
class StoreConfig:
    """What a stored feature depends on, besides the video itself."""

    weights: str  # hash of the backbone's weights
    frames: int = 32  # F, one in the middle of each 1/F of the video
    crops: tuple[str, ...] = ("left", "centre", "right", "mirrored")
    decoder: str = "pyav"
    precision: str = "float32"  # of the image tower's arithmetic
    # Stored as deviations from a mean frame: float16 alone rounds by a share of the feature, which small
    # motion does not survive; here it rounds by a share of the deviation.
    centred: bool = False

    def __post_init__(self) -> None:
        need_types(self)
        need_crops("crops", self.crops)
        if self.frames < 1:
            raise InputError(f"frames={self.frames} must be 1 or more")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision={self.precision!r} is not one of {', '.join(PRECISIONS)}")


# Frames that differ by less, relative to the largest feature, are one picture: the last bit of a float16;
# where features are centred and computed in float32, some last bits of that.
STILL, STILL_CENTRED = 2.0**-10, 2.0**-18


@dataclass(frozen=True)
class FeatureStore(Reader):
    """Stored features of one data set, opened for reading (memory-mapped)."""

    folder: Path
    features: np.ndarray  # (N,C,F,D) float16; read them with `take`
    crops: tuple[str, ...]
    index: pd.DataFrame  # one row a video, in the order of `features`
    precision: str = "float32"  # of the arithmetic they were made with
    failed: tuple[str, ...] = ()  # what is wrong with each video that could not be read: one line, path first
    seal: str = ""  # hash of all sums
    means: np.ndarray | None = None  # (N,C,MEAN,D) float16 of a centred store

    @classmethod
    def open(cls, folder: Path, whole: bool = False) -> FeatureStore:
        """The store in `folder`.

        Its features are read and checked against their sums only if its files are not those found whole last
        time, or with `whole`. Raises `Damaged` where a file is not what was written, InputError where one
        cannot be read. A store made before there were sums gets them, unless no encoding leaves such features
        or index.
        """
        try:
            files = {name: stamp(folder / name) for name in (ARRAY, *TABLES, ABOUT)}
            files[SUMS] = stamp(folder / SUMS) if (folder / SUMS).exists() else []
            about = json.loads((folder / ABOUT).read_text())
            crops, precision = tuple(map(str, about["crops"])), about.get("precision", "float32")
            array = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
            centred = about.get("centred") is True
            frames = about.get("frames", 0) + MEAN if centred else about.get("frames")
        except Exception as error:  # a damaged header can be read in ways nobody foresaw
            raise _unread(folder, error) from error
        index, failed = (
            read_table(folder / name, rows) for name, rows in zip(TABLES, (INDEX, FAILED), strict=True)
        )
        checked = {} if whole else _read_json(folder / LOOKED)
        if checked.get("files") != files:
            sums = _read_sums(folder / SUMS)
            seal = _check(folder, array, index, len(crops), frames, sums)
            checked = {"files": files, "seal": seal}
            with suppress(OSError):  # a store that others own is checked each time
                if all(settled(files[name]) for name in (ARRAY, *TABLES, ABOUT)):
                    files[SUMS] = files[SUMS] or stamp(folder / SUMS)
                    write_atomically(folder / LOOKED, json.dumps(checked) + "\n")
        features, means = (array[:, :, :-MEAN], array[:, :, -MEAN:]) if centred else (array, None)
        lost, seal = tuple(failed["error"]), str(checked.get("seal"))
        return cls(folder, features, crops, index, precision, lost, seal, means)

    @functools.cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        """Names of the videos, in the order of `features`."""
        return list(self.index["name"])

    @property
    def where(self) -> str:  # type: ignore[override]
        """For messages: whose features they are."""
        return f"{self.folder}: the stored features"

    @functools.cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.index["name"])}

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """Rows (n,) of the named videos. Raises InputError for a video that is not stored."""
        absent = [name for name in names if name not in self._row]
        if absent:
            raise InputError(
                f"{self.folder}: {len(absent)} videos have no features, first {absent[0]}; see failed.csv"
            )
        return np.array([self._row[name] for name in names], dtype=np.int64)

    def still(self, rows: np.ndarray) -> np.ndarray:
        """Which of the videos (n,) do not move: all stored frames of the first crop are equal up to float16.

        The frame differences (Eq. 4) of a video of one frame, or of one picture held, say nothing.
        """
        moves, crop = np.zeros(len(rows), bool), np.zeros(len(rows), np.int64)
        least = STILL if self.means is None or self.precision != "float32" else STILL_CENTRED
        for frame in range(1, self.features.shape[2]):
            left = np.flatnonzero(~moves)  # almost all move in the first: the others are not read
            pair = self.take(rows[left], np.tile([0, frame], (len(left), 1)), crop[left])
            change = np.abs(pair[:, 1] - pair[:, 0])
            moves[left] = change.max(1, initial=0) > least * np.abs(pair[:, 0]).max(1, initial=0)
        return ~moves

    def has(self, name: str) -> bool:
        """Whether the video could be read and stored."""
        return name in self._row

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hash over content and decoder of the named videos, in order: same fingerprint, same frames."""
        rows = self.index.iloc[self.rows(names)]
        lines = rows["name"] + " " + rows["sha256"] + " " + rows["decoder"]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """One of a store's two tables. Raises `Damaged` where it is not whole."""
    try:
        types = {name: np.int64 if name in ("bytes", "modified", "frames") else str for name in columns}
        return pd.read_csv(path, usecols=columns, dtype=types, keep_default_na=False)[columns]
    except (OSError, ValueError, OverflowError) as error:
        raise _unread(path.parent, error) from error


# --- sums ---


def video_sum(row: Mapping, features: bytes) -> str:
    """Checksum of a video's row of the index and its features (C,F,D)."""
    cells = json.dumps([str(row[column]) for column in INDEX]).encode()
    return hashlib.sha256(cells + features).hexdigest()[:16]


def sums_of(videos: Mapping[str, str], shape: Iterable[int], failed: str, about: str) -> dict:
    """Content of `sums.json`: name -> sum in index order, shape, hashes of two files, a seal over it all."""
    sums = {"videos": dict(videos), "shape": list(shape), "failed.csv": failed, "about.json": about}
    return sums | {"seal": hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:32]}


def _read_sums(path: Path) -> dict | None:
    """The sums of a store; None where there are none, or their seal does not fit."""
    sums = _read_json(path)
    try:
        again = sums_of(sums["videos"], sums["shape"], sums["failed.csv"], sums["about.json"])
    except (KeyError, TypeError, ValueError):
        return None
    return sums if sums == again else None


def _read_json(path: Path) -> dict:
    """A JSON object that can be made again; empty where there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def plausible(features: np.ndarray) -> bool:
    """Whether features can come from a video: finite, and not all zero."""
    return bool(np.isfinite(features).all() and features.any())


def _check(
    folder: Path, features: np.memmap, index: pd.DataFrame, crops: int, frames: object, sums: dict | None
) -> str:
    """Read a whole store and return the seal of its sums, which are written where there are none.

    Raises `Damaged` where it differs from its sums or, without any, where it is not as an encoding leaves it.
    """
    shape, dtype, names = features.shape, features.dtype, list(index["name"])
    order = list(sums["videos"]) if sums else names
    fits = dtype == np.float16 and len(shape) == 4 and features.flags.c_contiguous and shape[0] > 0
    fits = fits and (list(shape) == sums["shape"] if sums else shape[:3] == (len(order), crops, frames))
    if not fits or (folder / ARRAY).stat().st_size != features.offset + features.nbytes:
        why = f"{len(order)} videos, {crops} crops and {frames} frames, but features {dtype} {shape}"
        raise Damaged(folder, why)
    rows = {row["name"]: row for row in index.to_dict("records")}
    now = _video_sums(folder / ARRAY, features, [rows.get(name) for name in order])
    videos = dict(zip(order, now, strict=True))
    good = {
        name: (number, rows[name])
        for number, (name, value) in enumerate(videos.items())
        if value and (not sums or value == sums["videos"][name])
    }
    damage = []
    if bad := [name for name in order if name not in good]:
        damage.append(f"the features of {len(bad)} of {len(order)} videos, first {bad[0]}")
    damage += ["the order of index.csv"] * (names != (order if sums else sorted(set(names))))
    if sums:
        damage += [file for file in (TABLES[1], ABOUT) if sha256(folder / file) != sums[file]]
    if damage:
        raise Damaged(folder, f"damaged: {', '.join(damage)}", good if sums else None)
    if sums is None:
        sums = sums_of(videos, shape, sha256(folder / TABLES[1]), sha256(folder / ABOUT))
        with suppress(OSError):
            write_atomically(folder / SUMS, json.dumps(sums) + "\n")
    return sums["seal"]


def _video_sums(path: Path, features: np.memmap, rows: list[dict | None]) -> list[str]:
    """Sum of each row and its features; empty for those without a row, or that are not plausible.

    Plain reads: a failing disk is then an error, not the death of the process as with a memory map.
    """
    size = features[0].nbytes

    def read(number: int) -> str:
        row, data = rows[number], os.pread(file.fileno(), size, features.offset + number * size)
        sound = len(data) == size and plausible(np.frombuffer(data, np.float16))
        return video_sum(row, data) if row and sound else ""

    with path.open("rb") as file, ThreadPoolExecutor(min(8, default_jobs())) as pool:
        return list(pool.map(read, range(len(rows))))


def _unread(folder: Path, error: Exception) -> InputError:
    """What a file that could not be read means: damage, unless the disk or a permission failed."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
        return InputError(f"{folder}: cannot be read ({error.strerror})")
    return Damaged(folder, error)
