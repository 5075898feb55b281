"""The feature store: each video is decoded and encoded once per frozen backbone, then every run reads the same array.

On disk, one folder a store: `features.npy` (N videos, C crops, F stored frames, D width) float16, `index.csv` (name,
bytes, modified, sha256, frame count, decoder of each video), `failed.csv` (videos that cannot be read) and
`about.json`, written last: a folder that has it is whole. Until then shards of some videos each lie beside it, named
by the videos in them: a kill loses the shards in work, a mended video costs its own shard, and several processes may
fill one store at the same time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import filelock
import numpy as np
import pandas as pd

from flowclip_core.data.datasets import Dataset
from flowclip_core.data.video import read_frames, resize_and_crop, segment_centres
from flowclip_core.errors import InputError, VideoError
from flowclip_core.paths import cache_dir, sha256, write_atomically
from flowclip_core.workers import Pool

SHARD_VIDEOS = 32
SCHEMA = 2
INDEX = ["name", "bytes", "modified", "sha256", "frames", "decoder"]
FAILED = ["name", "bytes", "modified", "error"]
TABLES = ("index.csv", "failed.csv")


class Encoder(Protocol):
    """What turns frames into features: see `model.backbone.Backbone`."""

    image_size: int

    def encode_frames(self, frames): ...


@dataclass(frozen=True)
class StoreConfig:
    """What a stored feature depends on, besides the video itself."""

    weights: str  # hash of the backbone's weights
    frames: int = 32  # F, one in the middle of each 1/F of the video
    crops: tuple[str, ...] = ("left", "centre", "right", "mirrored")
    decoder: str = "pyav"


@dataclass(frozen=True)
class FeatureStore:
    """Stored features of one data set, opened for reading (memory-mapped)."""

    folder: Path
    features: np.ndarray  # (N,C,F,D) float16
    crops: tuple[str, ...]
    index: pd.DataFrame  # one row a video, in the order of `features`

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """The store in `folder`. Raises InputError unless it is whole."""
        try:
            crops = tuple(json.loads((folder / "about.json").read_text())["crops"])
            features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            raise _broken(folder, error) from error
        index = _read_table(folder / "index.csv", INDEX)
        shape, dtype = features.shape, features.dtype
        if dtype != np.float16 or len(shape) != 4 or shape[:2] != (len(index), len(crops)):
            raise _broken(folder, f"{len(index)} videos and {len(crops)} crops, but features {dtype} {shape}")
        return cls(folder, features, crops, index)

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
        """Frame features (B,T,D) float32. rows (B,); frames (B,T) stored frame numbers; crops (B,), default centre."""
        crops = np.full(len(rows), self.crops.index("centre")) if crops is None else crops
        return self.features[rows[:, None], crops[:, None], frames].astype(np.float32)


def central_frames(stored: int, frames: int) -> np.ndarray:
    """The stored frame (T,) in the middle of each of T segments."""
    _divides(stored, frames)
    return (np.arange(frames) * 2 + 1) * stored // (2 * frames)


def drawn_frames(rng: np.random.Generator, videos: int, stored: int, frames: int) -> np.ndarray:
    """A TSN draw (B,T): one random stored frame out of each of T equal segments, for each video."""
    _divides(stored, frames)
    segment = stored // frames
    return np.arange(frames) * segment + rng.integers(0, segment, size=(videos, frames))


def ensure_features(
    dataset: Dataset,
    config: StoreConfig,
    load_encoder: Callable[[], Encoder],
    pool: Pool,
    *,
    allow_unreadable: bool = False,
    shard_videos: int = SHARD_VIDEOS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureStore:
    """The store of all videos of `dataset`, extracting what is missing. Safe to kill and to call twice at once.

    load_encoder: picklable, called for each shard in a worker process of `pool`, so it should keep what it loads.
    shard_videos: how many videos a kill can lose. progress(done, total) counts videos.
    Raises InputError naming the unreadable videos unless `allow_unreadable`; they are then left out of the store and
    listed in its `failed.csv`.
    """
    names = sorted({video.name for split in dataset.splits.values() for video in (*split.train, *split.test)})
    said = [SCHEMA, config.weights, config.frames, list(config.crops), config.decoder]
    sizes = [[name, _stat(dataset.folder / name).st_size] for name in names]
    base = cache_dir() / "features"
    folder, shards = base / f"{dataset.name}-{_hash(said + sizes)}", base / f"{dataset.name}-{_hash(said)}.shards"
    tasks = []
    for part in (sizes[i : i + shard_videos] for i in range(0, len(sizes), shard_videos)):
        shard = shards / f"{_hash(part)}.safetensors"
        tasks.append((shard, folder, dataset.folder, [name for name, _ in part], config, load_encoder))
    # Another process may finish the store, or find a replaced video and drop it, at any moment: look until it is whole.
    while not _whole(folder, dataset.folder, [task[0] for task in tasks]):
        done = 0
        for task, _ in pool.map(_extract, tasks):
            done += len(task[3])
            progress(done, len(names))
        _merge(folder, [task[0] for task in tasks], config, dataset.name, len(names), allow_unreadable)
    failed = _read_table(folder / "failed.csv", FAILED)
    if len(failed) and not allow_unreadable:
        raise _unreadable(dataset.name, len(names), list(failed["error"]), folder / "failed.csv")
    return FeatureStore.open(folder)


def _whole(folder: Path, videos: Path, shards: list[Path]) -> bool:
    """Whether the store is there and its videos are still those that were encoded; if they are not, it is removed."""
    with _lock(folder):
        if not (folder / "about.json").exists():
            return False
        index, failed = (_read_table(folder / name, rows) for name, rows in zip(TABLES, (INDEX, FAILED), strict=True))
        if _unchanged(index.to_dict("records"), failed.to_dict("records"), videos):
            for shard in shards:
                shard.unlink(missing_ok=True)
                shard.with_suffix(".lock").unlink(missing_ok=True)
            return True
        (folder / "about.json").unlink()  # first, or a kill would leave half a folder that counts as whole
        shutil.rmtree(folder)
        return False


def _unchanged(index: list[dict], failed: list[dict], videos: Path) -> bool:
    """Whether no video was replaced: only a file with another time stamp is read again."""

    def touched(row: dict) -> bool:
        return _stat(videos / row["name"]).st_mtime_ns != row["modified"]

    return not any(map(touched, failed)) and all(
        sha256(videos / row["name"]) == row["sha256"] for row in index if touched(row)
    )


def _extract(
    shard: Path,
    folder: Path,
    videos: Path,
    names: list[str],
    config: StoreConfig,
    load_encoder: Callable[[], Encoder],
) -> bool | None:
    """Encode one shard; None when another process holds it. Runs in a worker process."""
    from safetensors.torch import save

    shard.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(shard.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return None
    try:
        kept = _read_shard(shard)
        if (kept and _unchanged(*kept, videos)) or (folder / "about.json").exists():
            return True
        for left in shard.parent.glob(f".{shard.name}.*"):
            left.unlink()  # unfinished, from a process that was killed
        encoder, tensors, index, failed = load_encoder(), {}, [], []
        for name in names:
            file = _stat(videos / name)
            row = {"name": name, "bytes": file.st_size, "modified": file.st_mtime_ns}
            try:
                # Before decoding: if the file is replaced meanwhile, the next call must see that it is another.
                row["sha256"] = sha256(videos / name)
                tensor, row["frames"], row["decoder"] = _encode(videos / name, encoder, config)
            except (VideoError, OSError) as error:
                failed.append(row | {"error": str(error)})
                continue
            tensors[f"{len(index):06d}"] = tensor
            index.append(row)
        write_atomically(shard, save(tensors, {"index": json.dumps(index), "failed": json.dumps(failed)}))
        return True
    finally:
        lock.release()


def _encode(path: Path, encoder: Encoder, config: StoreConfig):
    """Features (C,F,D) float16 of one video, its frame count and the decoder's name and version."""
    import torch

    clip = read_frames(path, lambda n: segment_centres(n, config.frames), config.decoder)
    views = resize_and_crop(clip.frames, encoder.image_size, config.crops)
    with torch.inference_mode():
        encoded = encoder.encode_frames(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    return encoded.to("cpu", torch.float16).contiguous().clone(), clip.count, clip.decoder


def _read_shard(shard: Path) -> tuple[list[dict], list[dict]] | None:
    """Rows of the videos encoded in a shard and of the unreadable ones; None where there is no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(shard, "np") as file:
            about = file.metadata()
    except (OSError, SafetensorError):
        return None
    return json.loads(about["index"]), json.loads(about["failed"])


def _merge(
    folder: Path, shards: list[Path], config: StoreConfig, name: str, videos: int, allow_unreadable: bool
) -> None:
    """Turn the shards into one array and one index; `about.json` appears last.

    Raises InputError for unreadable videos: their shards alone are dropped, so that mended files are tried again.
    """
    from safetensors import safe_open

    with _lock(folder):
        rows = [_read_shard(shard) for shard in shards]
        if (folder / "about.json").exists() or None in rows:
            return  # another process was faster
        index = [row for found, _ in rows for row in found]
        failed = [row for _, lost in rows for row in lost]
        if failed and not (allow_unreadable and index):
            report = folder.parent / f"{name}-failed.csv"
            write_atomically(report, pd.DataFrame(failed, columns=FAILED).to_csv(index=False))
            for shard, (_, lost) in zip(shards, rows, strict=True):
                if lost:
                    shard.unlink()
            raise _unreadable(name, videos, [row["error"] for row in failed], report)
        shutil.rmtree(folder, ignore_errors=True)  # what a kill left here
        folder.mkdir()
        part = folder / "features.part"
        # Plain writes, not a memory map: a full disk is then an error and not the death of the process.
        with part.open("wb") as out:
            for shard in shards:
                with safe_open(shard, "np") as file:
                    for key in sorted(file.keys()):
                        tensor = file.get_tensor(key)
                        if not out.tell():
                            header = {"descr": "<f2", "fortran_order": False, "shape": (len(index), *tensor.shape)}
                            np.lib.format.write_array_header_1_0(out, header)
                        out.write(tensor.tobytes())
            out.flush()
            os.fsync(out.fileno())
        part.replace(folder / "features.npy")
        for table, columns, found in zip(TABLES, (INDEX, FAILED), (index, failed), strict=True):
            write_atomically(folder / table, pd.DataFrame(found, columns=columns).to_csv(index=False))
        about = {"schema": SCHEMA, "weights": config.weights, "frames": config.frames, "crops": config.crops}
        write_atomically(folder / "about.json", json.dumps(about, indent=1) + "\n")


def _lock(folder: Path) -> filelock.FileLock:
    """Held while a store is put together, looked at or removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder.with_name(folder.name + ".lock"))


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise InputError(f"{path}: no such video ({error.strerror}); complete the data set") from error


def _hash(said: list) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        whole = dict.fromkeys(("bytes", "modified", "frames"), np.int64)
        types = {name: whole.get(name, str) for name in columns}
        return pd.read_csv(path, usecols=columns, dtype=types, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise _broken(path.parent, error) from error


def _broken(folder: Path, why: object) -> InputError:
    said = " ".join(str(why).split())
    return InputError(f"{folder}: no whole feature store ({said}); remove the folder and run again")


def _unreadable(name: str, videos: int, errors: list[str], report: Path) -> InputError:
    shown = "; ".join(errors[:3])
    return InputError(
        f"{len(errors)} of {videos} videos of {name} cannot be read: {shown} (all: {report}); mend them and run again"
    )


def _divides(stored: int, frames: int) -> None:
    if not 1 <= frames <= stored or stored % frames:
        raise InputError(f"T={frames} frames cannot be drawn from {stored} stored ones: T must divide {stored}")
