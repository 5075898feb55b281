"""Filling the feature store: videos are decoded ahead while the frozen image tower encodes.

The videos of a store are divided into shards, files named after the videos in them, which lie beside it until
all are there and become one array and one index. A lane is a process with an image tower: one per core, or
per GPU. It takes shards that nobody else is working on, so lanes, commands and machines that share the folder
share the work; a kill loses only the shards in work, a repaired video costs only its own shard. Memory holds
a few videos, however many there are.
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
    MEAN,
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

    parts: the shards, in the order of the videos' names. base: folder of the first store of videos with these
    names and sizes; stores of other content lie beside it. folder: see `find`.
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

    held: a shard that another call was working on, if there was one.
    """

    videos: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    held: Held | None = None

    def __add__(self, other: Filled) -> Filled:
        return Filled(
            self.videos + other.videos,
            self.seconds + other.seconds,
            self.waited + other.waited,
            self.held or other.held,
        )


def plan(dataset: Dataset, config: StoreConfig, shard_videos: int = SHARD_VIDEOS) -> Plan:
    """The store of all videos of `dataset`; where there is an older one that is not centred, that one.

    Raises InputError for a video that is not there.
    """
    names = sorted({video.name for split in dataset.splits.values() for video in (*split.train, *split.test)})
    settings = [SCHEMA, config.weights, config.frames, list(config.crops), config.decoder]
    if config.precision != "float32":
        settings.append(config.precision)
    if config.centred:
        settings.append("centred")
    sizes: list[list] = [[name, contents.stamp_of(dataset.folder / name)[1]] for name in names]
    cache = cache_dir() / "features"
    shards = cache / f"{dataset.name}-{_hash(settings)}.shards"
    groups = (sizes[i : i + shard_videos] for i in range(0, len(sizes), shard_videos))
    parts = tuple(
        (shards / f"{_hash(group)}.safetensors", tuple(name for name, _ in group)) for group in groups
    )
    base = cache / f"{dataset.name}-{_hash(settings + sizes)}"
    if config.centred and not (base / ABOUT).exists():
        older = plan(dataset, replace(config, centred=False), shard_videos)
        if (older.base / ABOUT).exists():
            notice(
                f"{older.base}: features of the older kind, which keep less of small motion, are used as they"
                " are; remove the folder to have them made anew"
            )
            return older
    return Plan(dataset.name, dataset.folder, base, config, parts, base)


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
    """The store of all videos of `dataset`; extracts what is missing. Safe to kill and to call twice at once.

    lanes: for each lane what loads its image tower, picklable, called in a process of `pool` if there is
    work. decoders: processes that decode for a lane; 0: a thread of the lane. shard_videos: how many videos a
    kill can lose. progress(done, total) counts videos. Raises InputError naming the unreadable videos unless
    `allow_unreadable`; they are then left out of the store and listed in its `failed.csv`.
    """
    wanted = plan(dataset, config, shard_videos)
    # Another process may finish the store, or find it damaged and drop it, at any moment: look until it is
    # whole.
    for _ in range(ATTEMPTS):
        wanted, store = find(wanted)
        if store is not None:
            break
        extract(wanted, lanes, pool, decoders=decoders, allow_unreadable=allow_unreadable, progress=progress)
    else:
        raise InputError(f"{wanted.folder}: features do not stay as they were written; check the disk")
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
    """Encode the shards of one share, (number from 0, of), that are missing.

    Whoever finds all shards there puts the store together. Arguments and errors as for `ensure_features`.
    """
    own = wanted.share(*share)
    done, total = sum(len(names) for path, names in own if path.exists()), sum(len(names) for _, names in own)

    def count(videos: int) -> None:
        nonlocal done
        done = min(done + videos, total)
        progress(done, total)

    filled, left, waiting = Filled(), own, None
    while left and (filled.held or left is own):
        tasks = [(wanted, left, lane, load, decoders) for lane, load in enumerate(lanes)]
        results: list = [result for _, result in pool.map(fill, tasks, count)]
        now = sum(results, Filled())
        filled = replace(filled, held=None) + now
        if now.held and not now.videos:
            waiting = waiting or Waiting()
            waiting.go_on(now.held, process_pool.PATIENCE)
        left = tuple(part for part in own if not part[0].exists())
    _merge(wanted, allow_unreadable)
    return filled


# --- a lane ---


@dataclass
class _Shard:
    """A shard that this lane has claimed: filled video by video, written when all are there."""

    path: Path
    names: tuple[str, ...]
    lock: Lock | None = None
    index: list[dict] = field(default_factory=list)
    failed: list[dict] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, row: dict, features: torch.Tensor | None) -> None:
        """Add the next video: its index row and features (C,F,D), or its row of `failed.csv` and None."""
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
    """Encode those of `parts` that are missing and nobody else is working on. Runs in its own process."""
    claims, began = _Claims(wanted, parts, lane), time.monotonic()
    done, waited = 0, 0.0
    try:
        if (first := next(claims, None)) is None:
            return Filled(held=claims.held)
        encoder = load_encoder()
        encoding: deque[tuple[_Shard, dict, _Encoded | None]] = deque()

        def store(ahead: int) -> None:
            # A GPU computes this video while the features of the one before it are fetched.
            nonlocal done
            while len(encoding) > ahead:
                shard, row, encoded = encoding.popleft()
                shard.add(row, _finite(encoded.features(), wanted.videos / row["name"]) if encoded else None)
                done += 1
                process_pool.tell(1)

        def decode(item: tuple[_Shard, str]) -> Future:
            return submit(_decode, wanted.videos, item[1], wanted.config, encoder.image_size)

        videos = ((shard, name) for shard in itertools.chain([first], claims) for name in shard.names)
        with _decoding(decoders) as submit:
            began = time.monotonic()  # loading the tower and starting decoders is not extracting
            for (shard, name), job in _ahead(videos, decode, max(1, 2 * decoders)):
                waiting = time.monotonic()
                try:
                    row, pictures = job.result()
                except BrokenProcessPool as error:
                    raise InputError(
                        f"a decoder process was killed, for lack of memory or by {name} or one of the"
                        f" {2 * decoders} videos after it; run again with fewer --decoders, or take that"
                        " video out"
                    ) from error
                waited += time.monotonic() - waiting
                crops, centred = wanted.config.crops, wanted.config.centred
                encoded = None if pictures is None else _encode(pictures, encoder, crops, centred)
                if encoded and not done:
                    _need_space(wanted, encoded.tensor.nbytes)
                encoding.append((shard, row, encoded))
                store(ahead=1)
            store(ahead=0)
    finally:
        claims.release()
    return Filled(done, time.monotonic() - began, waited, claims.held)


class _Claims:
    """Iterates over the shards that are missing and that nobody else is working on, claiming each as it
    comes.

    held: one that another process was working on, if there was any.
    """

    def __init__(self, wanted: Plan, parts: Sequence[Part], lane: int) -> None:
        self.wanted = wanted
        self.held: Held | None = None
        self._taken: list[Lock] = []
        start = lane * 7 % max(1, len(parts))  # lanes begin apart, so they seldom ask for the same shard
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
            rows = _read_shard(path, names)
            if (rows and _unchanged(*rows, self.wanted.videos)) or (self.wanted.folder / ABOUT).exists():
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
    """How a lane hands work to its decoders: processes of their own, or a thread where it has one core."""
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
    """(item, its job) in order, with `window` more jobs under way."""
    waiting: deque[tuple[Item, Future]] = deque()
    for item in items:
        waiting.append((item, submit(item)))
        if len(waiting) > window:
            yield waiting.popleft()
    yield from waiting


def _decode(videos: Path, name: str, config: StoreConfig, size: int) -> tuple[dict, np.ndarray | None]:
    """A video's index row and its frames (F,3,h,w) uint8, short side `size`; or its row of `failed.csv`,
    None."""
    path, file = videos / name, contents.stamp_of(videos / name)
    row = {"name": name, "bytes": file[1], "modified": file[2]} | ({"stamp": file} if settled(file) else {})
    try:
        # Before decoding: if the file is replaced meanwhile, the next call must notice.
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
class _Encoded:
    """Features (C,F,D) float16, or centred (C,F+2,D), in the host's memory, on their way from a GPU until
    `arrived`."""

    tensor: torch.Tensor
    arrived: torch.cuda.Event | None = None

    def features(self) -> torch.Tensor:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensor


def _encode(pictures: np.ndarray, encoder: Encoder, crops: Sequence[str], centred: bool = False) -> _Encoded:
    """The features of frames (F,3,h,w), as they are stored; does not wait for a GPU."""
    import torch

    stored = centre if centred else torch.Tensor.half

    # The memory layout of a resized picture; a pipe changes it, and another layout rounds differently.
    frames = torch.from_numpy(pictures).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        if torch.device(encoder.device).type == "cpu":
            # Crop by crop: small batches suit a core's caches and memory.
            views = crop(frames, encoder.image_size, crops)
            return _Encoded(stored(torch.stack([encoder.encode_frames(view) for view in views])))
        views = crop(frames.pin_memory().to(encoder.device, non_blocking=True), encoder.image_size, crops)
        features = stored(encoder.encode_frames(views.flatten(0, 1)).unflatten(0, views.shape[:2]))
        host = torch.empty(features.shape, dtype=torch.float16, pin_memory=True)
        host.copy_(features, non_blocking=True)
        return _Encoded(host, torch.cuda.current_stream(encoder.device).record_event())


def centre(features: torch.Tensor) -> torch.Tensor:
    """Features (C,F,D) as a centred store has them, (C,F+2,D) float16: deviations from the mean frame, then
    that mean in two parts.

    Both parts together hold 22 bits of the mean. What they lose is the same in every frame, so that frame
    differences (Eq. 4) lose nothing by it, and those of equal frames are exactly zero.
    """
    import torch

    features = features.float()
    mean = features.double().mean(1, keepdim=True).float()
    high = mean.half()
    low = (mean - high.float()).half()
    return torch.cat([(features - (high.float() + low.float())).half(), high, low], 1)


def _finite(features: torch.Tensor, video: Path) -> torch.Tensor:
    """The stored features of a video. Raises NotFinite, so that they are not stored."""
    if not (finite := features.isfinite()).all():
        bad = float(features[~finite][0])
        why = "no number" if bad != bad else "too large to be stored (float16 ends at 65504)"
        raise NotFinite(
            f"{video}: the image tower makes a feature of it that is {why}; nothing is stored of it: look at"
            " its frames, the weights and --precision"
        )
    return features


def _need_space(wanted: Plan, video_bytes: int) -> None:
    """Raises InputError before hours of work if the disk cannot hold the shards and their array."""
    there = sum(path.stat().st_size for path, _ in wanted.parts if path.exists())
    need = 2 * wanted.total * video_bytes - there
    if need > (free := shutil.disk_usage(wanted.folder.parent).free):
        raise InputError(
            f"{wanted.folder.parent}: the features of {wanted.name} need {need / 1e9:,.1f} GB while they are"
            f" put together, {free / 1e9:,.1f} GB are free; name a larger disk with FLOWCLIP_CACHE"
        )


# --- putting the store together ---


def find(wanted: Plan) -> tuple[Plan, FeatureStore | None]:
    """The plan with the folder where the features of exactly its videos lie or belong, and the store if
    whole.

    What videos hold decides, not their names, sizes and times. A damaged store is named and dropped, except
    the features that are still as they were written. Raises InputError in a cache that cannot be written.
    """
    try:
        with _lock(wanted.base):
            plan, store = _find(wanted, repair=True)
            if store is not None and wanted.parts and wanted.parts[0][0].parent.is_dir():
                for shard, _ in wanted.parts:
                    shard.unlink(missing_ok=True)
                    clear(shard.with_suffix(".lock"))
                with suppress(OSError):  # shards of another store may lie there
                    wanted.parts[0][0].parent.rmdir()
            return plan, store
    except OSError as error:
        plan, store = _find(wanted, repair=False)
        if store is not None:
            return plan, store  # a store that others made can be read all the same
        where = f"{wanted.base.parent}: cannot be written ({error.strerror})"
        raise InputError(f"{where}; name another folder for features with FLOWCLIP_CACHE") from error


def _find(wanted: Plan, repair: bool) -> tuple[Plan, FeatureStore | None]:
    names = sorted(name for _, part in wanted.parts for name in part)
    now: dict[str, str] = {}  # content by name
    for folder in (wanted.base, *sorted(wanted.base.parent.glob(f"{wanted.base.name}-*"))):
        if not (folder / ABOUT).exists():
            continue
        try:
            store = FeatureStore.open(folder)
            rows = pd.concat([store.index, read_table(folder / TABLES[1], FAILED)])
            if sorted(rows["name"]) != names or not _made_with(store, wanted.config):
                raise Damaged(folder, "it holds other videos or other features than its name says")
        except Damaged as damage:
            if not repair:
                raise
            _drop(wanted, damage)
            continue
        now = now or contents.contents(wanted.videos, names, wanted.base.parent)
        if all(now[name] == kept for name, kept in zip(rows["name"], rows["sha256"], strict=True)):
            return replace(wanted, folder=folder), store
    if not (wanted.base / ABOUT).exists():
        return replace(wanted, folder=wanted.base), None
    notice(
        f"{wanted.videos}: {wanted.base} holds features of other videos of the same names and sizes, and"
        " keeps them"
    )
    beside = wanted.base.with_name(f"{wanted.base.name}-{_hash(sorted(now.items()))}")
    return replace(wanted, folder=beside), None


def _made_with(store: FeatureStore, config: StoreConfig) -> bool:
    weights = json.loads((store.folder / ABOUT).read_text()).get("weights")
    settings = (weights, store.features.shape[2], store.crops, store.precision, store.means is not None)
    wanted = (config.weights, config.frames, tuple(config.crops), config.precision, config.centred)
    return settings == wanted


def _drop(wanted: Plan, damage: Damaged) -> None:
    """Remove a damaged store; what is still as it was written becomes shards again."""
    folder, kept = damage.folder, 0
    if damage.good and shutil.disk_usage(folder.parent).free > 1.1 * (folder / ARRAY).stat().st_size:
        import torch

        features = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
        frames = wanted.config.frames + MEAN * wanted.config.centred
        fits = features.shape[1:3] == (len(wanted.config.crops), frames)
        for path, names in wanted.parts:
            if fits and damage.good.keys() >= {*names}:
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
    """Whether no video was replaced: only files that may have changed are read again."""

    def replaced(row: dict) -> bool:
        path = videos / row["name"]
        return contents.stamp_of(path) != row.get("stamp") and contents.content(path) != row["sha256"]

    return not any(map(replaced, (*index, *failed)))


def _read_shard(shard: Path, names: Sequence[str]) -> tuple[list[dict], list[dict]] | None:
    """Rows of a shard's encoded and of its unreadable videos; None where no sound shard of `names` is."""
    from safetensors import SafetensorError, safe_open

    if not shard.exists():
        return None
    try:
        with safe_open(shard, "np") as file:
            about, tensors = file.metadata(), len(file.keys())
        index, failed = json.loads(about["index"]), json.loads(about["failed"])
        whole = len(index) == tensors and sorted(row["name"] for row in (*index, *failed)) == sorted(names)
        whole = whole and all(row.keys() >= {*INDEX} for row in index)
        whole = whole and all(row.keys() >= {*FAILED} for row in failed)
    except FileNotFoundError:
        return None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        notice(f"{shard}: damaged; its {len(names)} videos are encoded again")
    return (index, failed) if whole else None


def _merge(wanted: Plan, allow_unreadable: bool) -> None:
    """Turn the shards, once all are there, into one array and one index; `about.json` appears last.

    Raises InputError for unreadable videos: only their shards are dropped, so that repaired files are tried
    again. So are damaged shards, and those of other videos with the same names and sizes.
    """
    folder, config = wanted.folder, wanted.config
    shards = [shard for shard, _ in wanted.parts]
    with _lock(wanted.base):
        if (folder / ABOUT).exists() or not all(shard.exists() for shard in shards):
            return  # another process was faster, or is not done
        rows: dict[Path, tuple[list[dict], list[dict]]] = {}  # encoded and unreadable videos
        for shard, names in wanted.parts:
            pair = _read_shard(shard, names)
            if pair and _unchanged(*pair, wanted.videos):
                rows[shard] = pair
            else:
                shard.unlink(missing_ok=True)
        if len(rows) < len(shards):
            return
        index = [row for encoded, _ in rows.values() for row in encoded]
        failed = [row for _, lost in rows.values() for row in lost]
        if failed and not (allow_unreadable and index):
            report = folder.parent / f"{wanted.name}-failed.csv"
            write_atomically(report, pd.DataFrame(failed, columns=FAILED).to_csv(index=False))
            for shard, (_, lost) in rows.items():
                if lost:
                    shard.unlink()
            raise _unreadable(wanted, [row["error"] for row in failed], report)
        shutil.rmtree(folder, ignore_errors=True)  # what a kill left here
        folder.mkdir()
        part = folder / "features.part"
        sums: dict[str, str] = {}
        shape: tuple[int, ...] = ()
        # Plain writes, not a memory map: a full disk is then an error and not the death of the process.
        with part.open("wb") as out:
            for shard, (encoded, _) in rows.items():
                if (videos := _features(shard, encoded, shape)) is None:
                    notice(f"{shard}: damaged; its {len(encoded)} videos are encoded again")
                    shard.unlink()
                    return
                for row, video in zip(encoded, videos, strict=True):
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
        for table, columns, table_rows in zip(TABLES, (INDEX, FAILED), (index, failed), strict=True):
            write_atomically(folder / table, pd.DataFrame(table_rows, columns=columns).to_csv(index=False))
        settings = {name: getattr(config, name) for name in ("weights", "frames", "crops", "precision")}
        settings |= {"centred": True} if config.centred else {}
        about = to_json(folder, {"schema": SCHEMA} | settings, indent=1) + "\n"
        others = sha256(folder / TABLES[1]), hashlib.sha256(about.encode()).hexdigest()
        write_atomically(folder / SUMS, json.dumps(sums_of(sums, (len(index), *shape), *others)) + "\n")
        write_atomically(folder / ABOUT, about)
        contents.learn(wanted.videos, (*index, *failed), wanted.base.parent)


def _features(shard: Path, index: list[dict], shape: tuple[int, ...]) -> list[np.ndarray] | None:
    """The features (C,F,D) of a shard's videos, of one shape if it is known; None if they are not as they
    were written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(shard, "np") as file:
            videos = [file.get_tensor(key) for key in sorted(file.keys())]
    except SafetensorError:
        return None
    for row, video in zip(index, videos, strict=True):
        same = video_sum(row, video.tobytes()) == row["sum"] if "sum" in row else plausible(video)
        if not same or video.dtype != np.float16 or video.shape != (shape or videos[0].shape):
            return None
    return videos


def _lock(folder: Path) -> Lock:
    """Held while a store is put together, checked or removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Lock(folder.with_name(folder.name + ".lock"), f"the features {folder.name}")


def _hash(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _unreadable(wanted: Plan, errors: Sequence[str], report: Path) -> InputError:
    return InputError(
        f"{len(errors)} of {wanted.total} videos of {wanted.name} cannot be read: {'; '.join(errors[:3])}"
        f" (all: {report}); repair them and run again, or go on without them with --incomplete skip"
    )
