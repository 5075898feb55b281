"""Filling the feature store: videos are decoded ahead while the frozen image tower encodes.

The videos of a store are cut into shards, files named by the videos in them, which lie beside it until all
are there and become one array and one index. A lane is a process with an image tower: one a core, or one a
GPU. It takes the shards that nobody else is at, so that lanes, commands and machines that share the folder
share the work; a kill loses the shards in work, a mended video costs its own shard. Memory holds a few videos
however many there are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from flowclip_core.data.features import Encoder
from flowclip_core.data.video import crop, resize, segment_centres
from flowclip_core.errors import InputError, NotFinite, VideoError, notice
from flowclip_core.files import sha256, to_json, write_atomically
from flowclip_kit.datasets import contents
from flowclip_kit.datasets.decoders import read_frames
from flowclip_kit.datasets.feature_store import (
    ABOUT,
    ARRAY,
    FAILED,
    INDEX,
    SUMS,
    TABLES,
    Damaged,
    FeatureStore,
    StoreConfig,
    plausible,
    read_table,
    sums_of,
    video_sum,
)
from flowclip_kit.datasets.formats import Dataset
from flowclip_kit.distributed import process_pool
from flowclip_kit.distributed.locks import Held, Lock, Waiting, clear, sweep
from flowclip_kit.distributed.process_pool import Pool
from flowclip_kit.paths import cache_dir, settled

if TYPE_CHECKING:
    import torch

SHARD_VIDEOS = 32
SCHEMA = 3
ATTEMPTS = 20  # to put a store together; each finds more of it there

Item = TypeVar("Item")
Part = tuple[Path, tuple[str, ...]]  # a shard's file and the names of its videos


@dataclass(frozen=True)
class Plan:
    """What is to be stored where; equal on all machines that share the cache folder and have the same videos.

    parts: the shards, in the order of the videos' names. base: folder of the first store of videos of these
    names and sizes; others with another content lie beside it. folder: see `find`.
    """

    name: str
    videos: Path
    folder: Path
    config: StoreConfig
    parts: tuple[Part, ...]
    base: Path

    @property
    def total(self) -> int:
        """How many videos there are."""
        return sum(len(names) for _, names in self.parts)

    def share(self, number: int, of: int) -> tuple[Part, ...]:
        """Every `of`-th part from `number` (0 to of-1) on."""
        return self.parts[number::of]


@dataclass(frozen=True)
class Filled:
    """What lanes did: videos encoded, seconds of the lanes, how many of these a tower waited for decoding.

    held: one of the shards that other calls were at, if there were any.
    """

    videos: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    held: Held | None = None

    def __add__(self, other: Filled) -> Filled:
        seconds, waited = self.seconds + other.seconds, self.waited + other.waited
        return Filled(self.videos + other.videos, seconds, waited, self.held or other.held)


def plan(dataset: Dataset, config: StoreConfig, shard_videos: int = SHARD_VIDEOS) -> Plan:
    """The store of all videos of `dataset`. Raises InputError for a video that is not there."""
    names = sorted({video.name for split in dataset.splits.values() for video in (*split.train, *split.test)})
    said = [SCHEMA, config.weights, config.frames, list(config.crops), config.decoder]
    if config.precision != "float32":
        said.append(config.precision)
    sizes = [[name, contents.stamp_of(dataset.folder / name)[1]] for name in names]
    base = cache_dir() / "features"
    shards = base / f"{dataset.name}-{_hash(said)}.shards"
    parts = (sizes[i : i + shard_videos] for i in range(0, len(sizes), shard_videos))
    folder = base / f"{dataset.name}-{_hash(said + sizes)}"
    return Plan(
        dataset.name,
        dataset.folder,
        folder,
        config,
        tuple((shards / f"{_hash(part)}.safetensors", tuple(name for name, _ in part)) for part in parts),
        folder,
    )


def ensure_features(
    dataset: Dataset,
    config: StoreConfig,
    lanes: Sequence[Callable[[], Encoder]],
    pool: Pool,
    *,
    decoders: int = 0,
    allow_unreadable: bool = False,
    shard_videos: int = SHARD_VIDEOS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureStore:
    """The store of all videos of `dataset`, extracting what is missing. Safe to kill and to call twice at
    once.

    lanes: for each lane what loads its image tower, picklable, called in a process of `pool` and only if
    there is work.
    decoders: processes that decode for a lane; 0: a thread of the lane. shard_videos: how many videos a kill
    can lose. progress(done, total) counts videos.
    Raises InputError naming the unreadable videos unless `allow_unreadable`; they are then left out of the
    store and listed in its `failed.csv`.
    """
    wanted = plan(dataset, config, shard_videos)
    # Another process may finish the store, or find damage and drop it, at any moment: look until it is whole.
    for _ in range(ATTEMPTS):
        wanted, store = find(wanted)
        if store is not None:
            break
        extract(wanted, lanes, pool, decoders=decoders, allow_unreadable=allow_unreadable, progress=progress)
    else:
        raise InputError(f"{wanted.folder}: features do not stay as they are written; look after the disk")
    if store.failed and not allow_unreadable:
        raise _unreadable(wanted, store.failed, wanted.folder / "failed.csv")
    return store


def extract(
    wanted: Plan,
    lanes: Sequence[Callable[[], Encoder]],
    pool: Pool,
    share: tuple[int, int] = (0, 1),
    *,
    decoders: int = 0,
    allow_unreadable: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Filled:
    """Encode the shards of one share, (number from 0, of), that are not there yet; whoever finds all of them
    there puts the store together. Arguments and errors as for `ensure_features`."""
    own = wanted.share(*share)
    done, total = sum(len(names) for path, names in own if path.exists()), sum(len(names) for _, names in own)

    def told(videos: int) -> None:
        nonlocal done
        done = min(done + videos, total)
        progress(done, total)

    filled, left, waiting = Filled(), own, None
    while left and (filled.held or left is own):
        tasks = [(wanted, left, lane, load, decoders) for lane, load in enumerate(lanes)]
        now = sum((result for _, result in pool.map(fill, tasks, told)), Filled())
        filled = replace(filled, held=None) + now
        if now.held and not now.videos:
            waiting = waiting or Waiting()
            waiting.go_on(now.held, process_pool.PATIENCE)
        left = tuple(part for part in own if not part[0].exists())
    _merge(wanted, allow_unreadable)
    return filled


# --- a lane ---------------------------------------------------------------------------------------------------


@dataclass
class _Shard:
    """A shard that this lane holds: filled video by video, written when all are there."""

    path: Path
    names: tuple[str, ...]
    lock: Lock | None = None
    index: list[dict] = field(default_factory=list)
    failed: list[dict] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, row: dict, features: torch.Tensor | None) -> None:
        """The next video: its row of the index and features (C,F,D), or what `failed.csv` says of it and None."""
        if features is None:
            self.failed.append(row)
        else:
            self.tensors[f"{len(self.index):06d}"] = features
            self.index.append(row | {"sum": video_sum(row, features.numpy().tobytes())})
        if len(self.index) + len(self.failed) == len(self.names):
            from safetensors.torch import save

            about = {"index": json.dumps(self.index), "failed": json.dumps(self.failed)}
            write_atomically(self.path, save(self.tensors, about))
            self.tensors.clear()
            if self.lock:
                self.lock.release()


def fill(
    wanted: Plan, parts: Sequence[Part], lane: int, load_encoder: Callable[[], Encoder], decoders: int = 0
) -> Filled:
    """Encode those of `parts` that are not there and that nobody else is at. Runs in a process of its own."""
    claims, began = _Claims(wanted, parts, lane), time.monotonic()
    done, waited = 0, 0.0
    try:
        if (first := next(claims, None)) is None:
            return Filled(held=claims.held)
        encoder = load_encoder()
        encoding: deque[tuple[_Shard, dict, _Answer | None]] = deque()

        def settle(ahead: int) -> None:
            # A GPU computes this video while the answer to the one before it is fetched.
            nonlocal done
            while len(encoding) > ahead:
                shard, row, answer = encoding.popleft()
                shard.add(
                    row, None if answer is None else _finite(answer.features(), wanted.videos / row["name"])
                )
                done += 1
                process_pool.tell(1)

        videos = ((shard, name) for shard in itertools.chain([first], claims) for name in shard.names)
        with _decoding(decoders) as submit:
            began = time.monotonic()  # loading the tower and starting decoders is not extracting
            jobs = _ahead(
                videos, lambda item: submit(_decode, wanted.videos, item[1], wanted.config, encoder.image_size),
                max(1, 2 * decoders),
            )  # fmt: skip
            for (shard, name), job in jobs:
                waiting = time.monotonic()
                try:
                    row, pictures = job.result()
                except BrokenProcessPool as error:
                    raise InputError(
                        f"a decoder process was killed, for lack of memory or by {name} or one of the {2 * decoders}"
                        " videos after it; run again with fewer --decoders, or take that video out"
                    ) from error
                waited += time.monotonic() - waiting
                answer = None if pictures is None else _encode(pictures, encoder, wanted.config.crops)
                if answer is not None and not done:
                    _need_space(wanted, answer.nbytes)
                encoding.append((shard, row, answer))
                settle(ahead=1)
            settle(ahead=0)
    finally:
        claims.release()
    return Filled(done, time.monotonic() - began, waited, claims.held)


class _Claims:
    """Iterates over the shards that are not there and that nobody else is at, claiming each when it is asked for.

    held: one that another was at, if there was any.
    """

    def __init__(self, wanted: Plan, parts: Sequence[Part], lane: int) -> None:
        self.wanted, self.held, self._taken = wanted, None, []
        start = lane * 7 % max(1, len(parts))  # lanes begin apart, so that they seldom ask for the same shard
        self._parts = iter((*parts[start:], *parts[:start]))

    def __iter__(self) -> Iterator[_Shard]:
        return self

    def __next__(self) -> _Shard:
        for path, names in self._parts:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = Lock(path.with_suffix(".lock"), f"{len(names)} videos of {self.wanted.name} to be encoded")
            if not lock.take():
                self.held = lock.held
                continue
            self._taken.append(lock)
            kept = _read_shard(path, names)
            if (kept and _unchanged(*kept, self.wanted.videos)) or (
                self.wanted.folder / "about.json"
            ).exists():
                lock.release()
                continue
            sweep(path.parent, f".{path.name}.*")
            return _Shard(path, names, lock)
        raise StopIteration

    def release(self) -> None:
        """Let others have what was not finished."""
        for lock in self._taken:
            lock.release()


@contextmanager
def _decoding(processes: int) -> Iterator[Callable[..., Future]]:
    """What hands work to the decoders of a lane: processes of their own, or a thread where the lane has one core."""
    if not processes:
        with ThreadPoolExecutor(1) as thread:
            try:
                yield thread.submit
            finally:
                thread.shutdown(cancel_futures=True)
    else:
        with Pool(processes) as pool:
            pool.submit(os.getpid).result()  # started
            yield pool.submit


def _ahead(
    items: Iterable[Item], submit: Callable[[Item], Future], window: int
) -> Iterator[tuple[Item, Future]]:
    """(item, its job) in order, with `window` jobs more under way."""
    waiting: deque[tuple[Item, Future]] = deque()
    for item in items:
        waiting.append((item, submit(item)))
        if len(waiting) > window:
            yield waiting.popleft()
    yield from waiting


def _decode(videos: Path, name: str, config: StoreConfig, size: int) -> tuple[dict, np.ndarray | None]:
    """A video's row of the index and its frames (F,3,h,w) uint8, short side `size`; or its row of `failed.csv`."""
    path, file = videos / name, contents.stamp_of(videos / name)
    row = {"name": name, "bytes": file[1], "modified": file[2]} | ({"stamp": file} if settled(file) else {})
    try:
        # Before decoding: if the file is replaced meanwhile, the next call must see that it is another.
        row["sha256"] = sha256(path)
        clip = read_frames(
            path,
            lambda count: segment_centres(count, config.frames),
            config.decoder,
            shrink=lambda picture: resize(picture[None], size)[0].numpy(),
        )
    except (VideoError, OSError) as error:
        return {"sha256": ""} | row | {"error": str(error)}, None
    return row | {"frames": clip.count, "decoder": clip.decoder}, clip.frames


@dataclass(frozen=True)
class _Answer:
    """Features (C,F,D) float16 in the host's memory, on their way from a GPU until `arrived`."""

    tensor: torch.Tensor
    arrived: torch.cuda.Event | None = None

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def features(self) -> torch.Tensor:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensor


def _encode(pictures: np.ndarray, encoder: Encoder, crops: Sequence[str]) -> _Answer:
    """What the tower makes of frames (F,3,h,w); a GPU is not waited for."""
    import torch

    # As a resized picture lies in memory; the way through a pipe changes that, and another layout rounds otherwise.
    frames = torch.from_numpy(pictures).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        if torch.device(encoder.device).type == "cpu":
            # Crop by crop: a core's caches and memory like small batches.
            views = crop(frames, encoder.image_size, crops)
            return _Answer(torch.stack([encoder.encode_frames(view) for view in views]).to(torch.float16))
        views = crop(frames.pin_memory().to(encoder.device, non_blocking=True), encoder.image_size, crops)
        made = encoder.encode_frames(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        kept = torch.empty(made.shape, dtype=torch.float16, pin_memory=True)
        kept.copy_(made.to(torch.float16), non_blocking=True)
        return _Answer(kept, torch.cuda.current_stream(encoder.device).record_event())


def _finite(features: torch.Tensor, video: Path) -> torch.Tensor:
    """The features (C,F,D) float16 of a video. Raises NotFinite where one is no finite number: it is not stored."""
    if not (good := features.isfinite()).all():
        bad = float(features[~good][0])
        why = "no number" if bad != bad else "too large to be stored (float16 ends at 65504)"
        raise NotFinite(
            f"{video}: the image tower makes a feature of it that is {why}; nothing is stored of it: look at its"
            " frames, the weights and --precision"
        )
    return features


def _need_space(wanted: Plan, video_bytes: int) -> None:
    """Raises InputError before hours of work where the disk cannot hold the shards and the array made of them."""
    need = 2 * wanted.total * video_bytes - sum(
        path.stat().st_size for path, _ in wanted.parts if path.exists()
    )
    if need > (free := shutil.disk_usage(wanted.folder.parent).free):
        raise InputError(
            f"{wanted.folder.parent}: the features of {wanted.name} need {need / 1e9:,.1f} GB while they are put"
            f" together, {free / 1e9:,.1f} GB are free; name a larger disk with FLOWCLIP_CACHE"
        )


# --- putting the store together -------------------------------------------------------------------------------


def find(wanted: Plan) -> tuple[Plan, FeatureStore | None]:
    """The plan with the folder where features of its very videos lie or belong, and the store there if it is whole.

    What videos hold decides, not their names, sizes and times. A damaged store is named and dropped, but for those of
    its features that are as they were written. Raises InputError in a cache that is not ours to write.
    """
    try:
        with _lock(wanted.base):
            found, store = _find(wanted, mend=True)
            if store is not None and wanted.parts and wanted.parts[0][0].parent.is_dir():
                for shard, _ in wanted.parts:
                    shard.unlink(missing_ok=True)
                    clear(shard.with_suffix(".lock"))
                with suppress(OSError):  # shards of another store may lie there
                    wanted.parts[0][0].parent.rmdir()
            return found, store
    except OSError as error:
        found, store = _find(wanted, mend=False)
        if store is not None:
            return found, store  # a store that others made can be read all the same
        where = f"{wanted.base.parent}: cannot be written ({error.strerror})"
        raise InputError(f"{where}; name another folder for features with FLOWCLIP_CACHE") from error


def _find(wanted: Plan, mend: bool) -> tuple[Plan, FeatureStore | None]:
    names, now = sorted(name for _, part in wanted.parts for name in part), {}
    for folder in (wanted.base, *sorted(wanted.base.parent.glob(f"{wanted.base.name}-*"))):
        if not (folder / ABOUT).exists():
            continue
        try:
            store = FeatureStore.open(folder)
            rows = pd.concat([store.index, read_table(folder / TABLES[1], FAILED)])
            if sorted(rows["name"]) != names or not _made_with(store, wanted.config):
                raise Damaged(folder, "it holds other videos or other features than its name says")
        except Damaged as damage:
            if not mend:
                raise
            _drop(wanted, damage)
            continue
        now = now or contents.contents(wanted.videos, names, wanted.base.parent)
        if all(now[name] == kept for name, kept in zip(rows["name"], rows["sha256"], strict=True)):
            return replace(wanted, folder=folder), store
    if not (wanted.base / ABOUT).exists():
        return replace(wanted, folder=wanted.base), None
    notice(
        f"{wanted.videos}: {wanted.base} holds features of other videos of the same names and sizes, and keeps them"
    )
    return replace(
        wanted, folder=wanted.base.with_name(f"{wanted.base.name}-{_hash(sorted(now.items()))}")
    ), None


def _made_with(store: FeatureStore, config: StoreConfig) -> bool:
    about = json.loads((store.folder / ABOUT).read_text())
    made = (about.get("weights"), store.features.shape[2], store.crops, store.precision)
    return made == (config.weights, config.frames, tuple(config.crops), config.precision)


def _drop(wanted: Plan, damage: Damaged) -> None:
    """Remove a store that is not as it was written; what still is becomes shards again."""
    folder, kept = damage.folder, 0
    if damage.good and shutil.disk_usage(folder.parent).free > 1.1 * (folder / ARRAY).stat().st_size:
        import torch

        features = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
        for path, names in wanted.parts:
            if features.shape[1:3] == (len(wanted.config.crops), wanted.config.frames) and {*names} <= {
                *damage.good
            }:
                shard = _Shard(path, names)
                for name in names:
                    number, row = damage.good[name]
                    shard.add(row, torch.from_numpy(features[number].copy()))
                kept += len(names)
    notice(
        f"{folder}: {damage.why}; features are made again" + (f", but for {kept:,} videos" if kept else "")
    )
    (folder / ABOUT).unlink()  # first, or a kill would leave half a folder that counts as whole
    shutil.rmtree(folder)


def _unchanged(index: list[dict], failed: list[dict], videos: Path) -> bool:
    """Whether no video was replaced: only a file that may be another is read again."""

    def replaced(row: dict) -> bool:
        path = videos / row["name"]
        return contents.stamp_of(path) != row.get("stamp") and contents.content(path) != row["sha256"]

    return not any(map(replaced, (*index, *failed)))


def _read_shard(shard: Path, names: Sequence[str]) -> tuple[list[dict], list[dict]] | None:
    """Rows of the videos encoded in a shard and of the unreadable ones; None where there is no such file of `names`."""
    from safetensors import SafetensorError, safe_open

    if not shard.exists():
        return None
    try:
        with safe_open(shard, "np") as file:
            about, tensors = file.metadata(), len(file.keys())
        index, failed = json.loads(about["index"]), json.loads(about["failed"])
        whole = len(index) == tensors and sorted(row["name"] for row in (*index, *failed)) == sorted(names)
        whole = (
            whole and all({*INDEX} <= {*row} for row in index) and all({*FAILED} <= {*row} for row in failed)
        )
    except FileNotFoundError:
        return None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        notice(f"{shard}: damaged; its {len(names)} videos are encoded again")
    return (index, failed) if whole else None


def _merge(wanted: Plan, allow_unreadable: bool) -> None:
    """Turn the shards, if all are there, into one array and one index; `about.json` appears last.

    Raises InputError for unreadable videos: their shards alone are dropped, so that mended files are tried again. So
    are damaged shards, and those of other videos of the same names and sizes.
    """
    folder, config = wanted.folder, wanted.config
    shards = [shard for shard, _ in wanted.parts]
    with _lock(wanted.base):
        if (folder / ABOUT).exists() or not all(shard.exists() for shard in shards):
            return  # another process was faster, or is not done
        rows = [_read_shard(*part) for part in wanted.parts]
        whole = [found is not None and _unchanged(*found, wanted.videos) for found in rows]
        if not all(whole):
            for shard, good in zip(shards, whole, strict=True):
                if not good:
                    shard.unlink(missing_ok=True)
            return
        index = [row for found, _ in rows for row in found]
        failed = [row for _, lost in rows for row in lost]
        if failed and not (allow_unreadable and index):
            report = folder.parent / f"{wanted.name}-failed.csv"
            write_atomically(report, pd.DataFrame(failed, columns=FAILED).to_csv(index=False))
            for shard, (_, lost) in zip(shards, rows, strict=True):
                if lost:
                    shard.unlink()
            raise _unreadable(wanted, [row["error"] for row in failed], report)
        shutil.rmtree(folder, ignore_errors=True)  # what a kill left here
        folder.mkdir()
        part, sums, shape = folder / "features.part", {}, None
        # Plain writes, not a memory map: a full disk is then an error and not the death of the process.
        with part.open("wb") as out:
            for shard, (found, _) in zip(shards, rows, strict=True):
                if (videos := _features(shard, found, shape)) is None:
                    notice(f"{shard}: damaged; its {len(found)} videos are encoded again")
                    shard.unlink()
                    return
                for row, video in zip(found, videos, strict=True):
                    if not out.tell():
                        shape = video.shape
                        header = {"descr": "<f2", "fortran_order": False, "shape": (len(index), *video.shape)}
                        np.lib.format.write_array_header_1_0(out, header)
                    data = video.tobytes()
                    sums[row["name"]] = video_sum(row, data)
                    out.write(data)
            out.flush()
            os.fsync(out.fileno())
        part.replace(folder / ARRAY)
        for table, columns, found in zip(TABLES, (INDEX, FAILED), (index, failed), strict=True):
            write_atomically(folder / table, pd.DataFrame(found, columns=columns).to_csv(index=False))
        about = {"schema": SCHEMA, "weights": config.weights, "frames": config.frames, "crops": config.crops}
        about = to_json(folder, about | {"precision": config.precision}, indent=1) + "\n"
        others = sha256(folder / TABLES[1]), hashlib.sha256(about.encode()).hexdigest()
        write_atomically(folder / SUMS, json.dumps(sums_of(sums, (len(index), *shape), *others)) + "\n")
        write_atomically(folder / ABOUT, about)
        contents.learn(wanted.videos, (*index, *failed), wanted.base.parent)


def _features(shard: Path, index: list[dict], shape: tuple[int, ...] | None) -> list[np.ndarray] | None:
    """The features (C,F,D) of a shard's videos, each of the shape; None where they are not as they were written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(shard, "np") as file:
            found = [file.get_tensor(key) for key in sorted(file.keys())]
    except SafetensorError:
        return None
    for row, video in zip(index, found, strict=True):
        same = video_sum(row, video.tobytes()) == row["sum"] if "sum" in row else plausible(video)
        if not same or video.dtype != np.float16 or video.shape != (shape or found[0].shape):
            return None
    return found


def _lock(folder: Path) -> Lock:
    """Held while a store is put together, looked at or removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Lock(folder.with_name(folder.name + ".lock"), f"the features {folder.name}")


def _hash(said: list) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _unreadable(wanted: Plan, errors: Sequence[str], report: Path) -> InputError:
    return InputError(
        f"{len(errors)} of {wanted.total} videos of {wanted.name} cannot be read: {'; '.join(errors[:3])} (all:"
        f" {report}); mend them and run again, or go on without them with --incomplete skip"
    )


# --- several machines -----------------------------------------------------------------------------------------
