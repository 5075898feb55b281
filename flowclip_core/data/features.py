"""The feature store: each video is decoded and encoded once per frozen backbone, then every run reads the same array.

On disk, one folder a store: `features.npy` (N videos, C crops, F stored frames, D width) float16, `index.csv` (name,
bytes, modified, sha256, frame count, decoder of each video), `failed.csv` (videos that cannot be read) and `about.json`,
written last: a folder that has it is whole. Until then shards of some videos each lie in `shards/`; a kill loses the
shards in work, and several processes may fill one store at the same time.
"""

from __future__ import annotations

import functools
import hashlib
import json
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
SCHEMA = 1


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
            about = json.loads((folder / "about.json").read_text())
            features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
            index = pd.read_csv(folder / "index.csv", keep_default_na=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder}: no whole feature store ({error}); remove the folder and run again"
            ) from error
        if len(index) != len(features):
            raise InputError(
                f"{folder}: {len(index)} videos but {len(features)} features; remove it and run again"
            )
        return cls(folder, features, tuple(about["crops"]), index)

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

    def has(self, name: str) -> bool:
        """Whether the video could be read and stored."""
        return name in self._row

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hash over the content of the named videos, in order: same fingerprint, same bytes in."""
        rows = self.index.iloc[self.rows(names)]
        return hashlib.sha256("\n".join(rows["name"] + " " + rows["sha256"]).encode()).hexdigest()

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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureStore:
    """The store of all videos of `dataset`, extracting what is missing. Safe to kill and to call twice at once.

    load_encoder: picklable, called once in each worker process of `pool`. progress(done, total) counts videos.
    Raises InputError naming the unreadable videos unless `allow_unreadable`; they are then left out of the store and
    listed in its `failed.csv`.
    """
    names = sorted({video.name for split in dataset.splits.values() for video in (*split.train, *split.test)})
    files = {name: (dataset.folder / name).stat() for name in names}
    said = [SCHEMA, config.weights, config.frames, list(config.crops), config.decoder]
    said += [[name, files[name].st_size] for name in names]
    key = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    folder = cache_dir() / "features" / f"{dataset.name}-{key}"

    if (folder / "about.json").exists() and not _unchanged(folder, dataset.folder, files):
        shutil.rmtree(folder)  # a video was replaced by another of the same size
    if not (folder / "about.json").exists():
        shards = [names[i : i + SHARD_VIDEOS] for i in range(0, len(names), SHARD_VIDEOS)]
        tasks = [(folder, i, dataset.folder, shard, config, load_encoder) for i, shard in enumerate(shards)]
        done = 0
        for task, _ in pool.map(_extract, tasks):
            done += len(task[3])
            progress(done, len(names))
        _merge(folder, len(shards), config)
    failed = pd.read_csv(folder / "failed.csv", keep_default_na=False)
    if len(failed) and not allow_unreadable:
        shown = "; ".join(failed["error"].head(3))
        listed = folder / "failed.csv"
        kept = listed.read_bytes()
        shutil.rmtree(folder)  # the files may be mended: look at them again next time
        report = write_atomically(cache_dir() / "features" / f"{dataset.name}-failed.csv", kept)
        raise InputError(
            f"{len(failed)} of {len(names)} videos of {dataset.name} cannot be read: {shown} (all: {report})"
        )
    return FeatureStore.open(folder)


def _unchanged(folder: Path, videos: Path, files: dict) -> bool:
    """Whether the videos are still those that were encoded; only files with another time stamp are read again."""
    index = pd.read_csv(folder / "index.csv", keep_default_na=False)
    suspects = [row for row in index.itertuples() if files[row.name].st_mtime_ns != row.modified]
    return all(sha256(videos / row.name) == row.sha256 for row in suspects)


@functools.lru_cache(maxsize=1)
def _encoder(load_encoder: Callable[[], Encoder]) -> Encoder:
    return load_encoder()


def _extract(
    folder: Path,
    number: int,
    videos: Path,
    names: list[str],
    config: StoreConfig,
    load_encoder: Callable[[], Encoder],
) -> bool | None:
    """Encode one shard into `shards/`; None when another process holds it. Runs in a worker process."""
    from safetensors.torch import save

    shard = folder / "shards" / f"{number:06d}.safetensors"
    shard.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(shard.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return None
    try:
        if shard.exists() or (folder / "about.json").exists():
            return True
        encoder, features, index, failed = _encoder(load_encoder), [], [], []
        for name in names:
            try:
                encoded, count, decoder = _encode(videos / name, encoder, config)
            except VideoError as error:
                failed.append({"name": name, "error": str(error)})
                continue
            file = (videos / name).stat()
            features.append(encoded)
            index.append(
                {
                    "name": name,
                    "bytes": file.st_size,
                    "modified": file.st_mtime_ns,
                    "sha256": sha256(videos / name),
                    "frames": count,
                    "decoder": decoder,
                }
            )
        about = {"index": json.dumps(index), "failed": json.dumps(failed)}
        tensors = {f"{i:04d}": tensor for i, tensor in enumerate(features)}
        write_atomically(shard, save(tensors, about))
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


def _merge(folder: Path, shards: int, config: StoreConfig) -> None:
    """Turn the shards into one array and one index; `about.json` appears last."""
    from safetensors import safe_open

    with filelock.FileLock(folder / "merge.lock"):
        if (folder / "about.json").exists():
            return
        index, failed, shape = [], [], None
        paths = [folder / "shards" / f"{number:06d}.safetensors" for number in range(shards)]
        for path in paths:
            with safe_open(path, "np") as file:
                index += json.loads(file.metadata()["index"])
                failed += json.loads(file.metadata()["failed"])
                shape = file.get_tensor("0000").shape if "0000" in file.keys() else shape
        part, row = folder / "features.part", 0
        array = np.lib.format.open_memmap(part, "w+", np.float16, (len(index), *(shape or (0, 0, 0))))
        for path in paths:
            with safe_open(path, "np") as file:
                for key in sorted(file.keys()):
                    array[row] = file.get_tensor(key)
                    row += 1
        array.flush()
        del array
        part.replace(folder / "features.npy")
        columns = ["name", "bytes", "modified", "sha256", "frames", "decoder"]
        write_atomically(folder / "index.csv", pd.DataFrame(index, columns=columns).to_csv(index=False))
        write_atomically(
            folder / "failed.csv", pd.DataFrame(failed, columns=["name", "error"]).to_csv(index=False)
        )
        about = {"schema": SCHEMA, "weights": config.weights, "frames": config.frames, "crops": config.crops}
        write_atomically(folder / "about.json", json.dumps(about, indent=1) + "\n")
        shutil.rmtree(folder / "shards")


def _divides(stored: int, frames: int) -> None:
    if not 1 <= frames <= stored or stored % frames:
        raise InputError(
            f"T={frames} frames cannot be drawn from {stored} stored ones: T must divide {stored}"
        )
