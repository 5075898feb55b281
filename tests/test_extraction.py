"""Extraction at scale: lanes, decoder processes and shares give the store of one plain pass, and full disks a
line."""

from __future__ import annotations

import errno
import functools
import shutil
import stat
import threading
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from test_features import CONFIG, NAMES, Inline, Projection, cache, content, dataset, ensure, write_video

from flowclip_core.errors import InputError
from flowclip_kit.datasets import extraction
from flowclip_kit.datasets.extraction import extract, find, plan
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.datasets.formats import Dataset, load
from flowclip_kit.distributed import locks, process_pool
from flowclip_kit.distributed.process_pool import Pool
from flowclip_kit.distributed.rank import Rank, rank

__all__ = ["cache", "dataset"]  # fixtures


# --- decoders, lanes, shares ---


def test_decoder_processes_give_the_same_store(dataset, tmp_path, monkeypatch):
    expected = content(ensure(dataset))
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "other"))
    with Pool(1) as pool:
        assert content(ensure(dataset, pool=pool, decoders=2)) == expected


def test_decoding_goes_on_while_the_tower_encodes(dataset, monkeypatch):
    """The tower does not answer before the next video is in the decoder's hands, across shards too."""
    read, begun, encoded = extraction.read_frames, threading.Semaphore(0), []

    def announced(*arguments, **options):
        begun.release()
        return read(*arguments, **options)

    class Waiting(Projection):
        def encode_frames(self, frames):
            encoded.append(len(encoded))
            crops = len(CONFIG.crops)
            if len(encoded) % crops == 1 and len(encoded) < 7 * crops:
                assert begun.acquire(timeout=120)  # the next one's; this one's was taken before it
            return super().encode_frames(frames)

    monkeypatch.setattr(extraction, "read_frames", announced)
    begun_first = threading.Thread(target=begun.acquire)
    begun_first.start()
    filled = extract(plan(dataset, CONFIG, shard_videos=3), [Waiting], Inline())
    begun_first.join()
    assert filled.videos == 8 and not filled.held and 0 <= filled.waited <= filled.seconds


@pytest.mark.parametrize("of", [2, 3])
def test_shares_fill_one_store_and_the_last_puts_it_together(of, dataset, tmp_path, monkeypatch):
    expected = content(ensure(dataset, shard_videos=1))
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "shared"))
    wanted = plan(dataset, CONFIG, shard_videos=1)
    for number in reversed(range(of)):
        assert find(wanted)[1] is None
        told = []
        filled = extract(
            wanted,
            [Projection],
            Inline(),
            (number, of),
            progress=lambda done, total, told=told: told.append(total),
        )
        assert filled.videos == len(range(number, 8, of)) and {*told} <= {filled.videos}
    assert find(wanted)[1] and content(FeatureStore.open(wanted.folder)) == expected


def test_progress_counts_every_video_once_and_starts_where_the_last_call_stopped(dataset, monkeypatch):
    wanted = plan(dataset, CONFIG, shard_videos=2)
    extract(wanted, [Projection], Inline(), (0, 2))
    seen = []

    def map_and_listen(self, work, tasks, told):
        monkeypatch.setattr(process_pool, "tell", told)
        return ((task, work(*task)) for task in tasks)

    monkeypatch.setattr(Inline, "map", map_and_listen)
    ensure(dataset, shard_videos=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in (5, 6, 7, 8)]


def test_a_shard_that_another_is_at_is_waited_for(dataset, monkeypatch):
    wanted = plan(dataset, CONFIG, shard_videos=3)
    path = wanted.parts[1][0]
    path.parent.mkdir(parents=True)
    other, naps = locks.Lock(path.with_suffix(".lock")), []
    assert other.take()

    def nap(seconds: float) -> None:
        if seconds != process_pool.PATIENCE:
            return  # the tower's own, and that of locks
        naps.append(seconds)
        assert {part.exists() for part, _ in (*wanted.parts[:1], *wanted.parts[2:])} == {
            True
        }  # the rest is done
        if len(naps) == 2:
            other.release()

    monkeypatch.setattr(extraction.time, "sleep", nap)
    filled = extract(wanted, [Projection], Inline())
    assert naps == [process_pool.PATIENCE] * 2 and filled.videos == 8 and find(wanted)[1]


def test_a_failure_leaves_its_shards_to_others(dataset):
    class Failing(Projection):
        def encode_frames(self, frames):
            raise MemoryError

    with pytest.raises(MemoryError):
        ensure(dataset, load=Failing)
    assert content(ensure(dataset))


@pytest.mark.parametrize(
    ("shard", "environment", "expected"),
    [
        (None, {}, Rank()),
        ("2/4", {}, Rank(1, 4)),
        ("2/4", {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "3"}, Rank(1, 4)),
        (
            None,
            {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1",
             "LOCAL_WORLD_SIZE": "4"},
            Rank(5, 8, 1, 4),
        ),
        (
            None,
            {"SLURM_STEP_ID": "0", "SLURM_PROCID": "6", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "2",
             "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
            Rank(6, 8, 2, 4, bound=True),
        ),
        # A batch script that calls the command without srun is alone, whatever was reserved for it.
        (None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, Rank()),
        (None, {"RANK": "1", "WORLD_SIZE": "2"}, Rank()),
        # Another launcher than torchrun, or a script of srun's.
        (None, {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node1"}, Rank(1, 2)),
        (
            None,
            {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "LOCAL_RANK": "1",
             "LOCAL_WORLD_SIZE": "2"},
            Rank(3, 4, 1, 2),
        ),
    ],
)  # fmt: skip
def test_the_share_comes_from_the_option_or_the_launcher(shard, environment, expected):
    assert rank(shard, environment) == expected


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "1/0", "a/b", "", "-1/4", "1/4/2"])
def test_a_share_that_is_none_is_refused(shard):
    with pytest.raises(InputError, match=r"--shard .*expected i/n"):
        rank(shard, {})


def test_precision_has_a_store_of_its_own(dataset):
    plans = {
        plan(dataset, replace(CONFIG, precision=name)).folder for name in ("float32", "bfloat16", "float16")
    }
    assert len(plans) == 3
    assert ensure(dataset, replace(CONFIG, precision="bfloat16")).precision == "bfloat16"
    assert ensure(dataset).precision == "float32"


# --- disks, and data that move ---


def test_a_disk_too_small_is_said_after_the_first_video(dataset, monkeypatch):
    usage = shutil.disk_usage(dataset.folder)
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"tiny need 0.0 GB .* 0.0 GB are free; .*FLOWCLIP_CACHE") as error:
        ensure(dataset)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fatal", range(1, 8))
def test_a_full_disk_in_the_middle_leaves_nothing_that_counts(fatal, dataset, cache, tmp_path, monkeypatch):
    """Three shards, the array, two tables, about.json: the disk fills up in each of them, then has room
    again."""
    expected = content(ensure(dataset))
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "full"))
    written, sync = [], extraction.os.fsync

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) >= fatal:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(extraction.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ensure(dataset)
    features = tmp_path / "full/features"
    assert not list(features.glob("*/about.json"))
    shards = list(features.glob("*.shards/*.safetensors"))
    assert len(shards) == min(fatal - 1, 3) and not list(features.glob("*.shards/.*"))
    assert content(ensure(dataset)) == expected


def test_a_store_that_others_made_can_be_read_where_nothing_can_be_written(dataset, cache, monkeypatch):
    expected = content(ensure(dataset))

    def refused(self, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(locks.Lock, "take", refused)
        assert content(ensure(dataset)) == expected
        with pytest.raises(
            InputError, match=r"cannot be written \(Read-only file system\).*FLOWCLIP_CACHE"
        ) as error:
            ensure(dataset, replace(CONFIG, frames=2))
        assert "\n" not in str(error.value)
        write_video(dataset.folder / NAMES[0], 50, 2)  # what it holds is no longer true
        with pytest.raises(InputError, match="cannot be written"):
            ensure(dataset)


@pytest.mark.parametrize(
    ("launched", "mine", "machine", "cores"),
    [
        (Rank(), 12, 64, 12),  # alone: what it may use
        (Rank(1, 8, 1, 4), 64, 64, 16),  # torchrun: all see all cores
        (Rank(1, 8, 1, 4, bound=True), 12, 64, 12),  # srun: each has its own
        (Rank(1, 8, 1, 4, bound=True), 64, 64, 16),  # srun that binds nobody
        (Rank(1, 8, 1, 8), 4, 4, 1),
    ],
)
def test_ranks_of_one_machine_share_its_cores(launched, mine, machine, cores, monkeypatch):
    monkeypatch.setattr(process_pool, "default_jobs", lambda: mine)
    monkeypatch.setattr(extraction.os, "cpu_count", lambda: machine)
    assert launched.cores == cores


def test_a_decoder_that_dies_is_named_by_its_video(dataset, monkeypatch):
    class Dying:
        def result(self):
            raise BrokenProcessPool

    @contextmanager
    def decoding(processes):
        yield lambda *arguments: Dying()

    monkeypatch.setattr(extraction, "_decoding", decoding)
    with pytest.raises(InputError, match=r"killed.*clap/0.avi.*--decoders") as error:
        ensure(dataset, decoders=2)
    assert "\n" not in str(error.value)


def test_data_that_moved_keep_their_features(dataset, tmp_path, monkeypatch):
    (dataset.folder / NAMES[3]).write_bytes(b"no video")
    ensure_all = functools.partial(ensure, allow_unreadable=True)
    expected = content(ensure_all(dataset))
    moved = tmp_path / "elsewhere"
    shutil.move(dataset.folder, moved)
    with pytest.raises(InputError, match=r"no such video .*complete the data set"):
        ensure(dataset)
    assert content(ensure_all(replace(dataset, folder=moved), load=None)) == expected  # nothing is encoded
    copied = tmp_path / "copied"
    shutil.copytree(moved, copied, copy_function=shutil.copyfile)  # new time stamps
    assert {path.stat().st_mode & stat.S_IFREG for path in copied.rglob("*.avi")} == {stat.S_IFREG}
    assert content(ensure_all(replace(dataset, folder=copied), load=None)) == expected
    (copied / NAMES[3]).write_bytes(b"other..!")  # as long, and no video either
    with pytest.raises(TypeError):
        ensure_all(replace(dataset, folder=copied), load=None)  # it is read again


def folder_set(root: Path) -> Path:
    for seed, name in enumerate(NAMES):
        write_video(root / name, seed)
    return root


def with_list(root: Path, *more: str) -> Path:
    names = [*NAMES, *more]
    for part, own in (("train", names[::2]), ("test", names[1::2])):
        rows = "".join(f"{name},{name.partition('/')[0]}\n" for name in own)
        (root / f"{part}.csv").write_text(f"video,label\n{rows}")
    return root


@pytest.mark.parametrize("what", ["class folder", "video"])
def test_what_the_lists_name_and_the_disk_lacks_stops_or_is_left_out(what, tmp_path):
    root = (
        with_list(folder_set(tmp_path / "own"), "wave/9.avi")
        if what == "video"
        else folder_set(tmp_path / "own")
    )
    if what == "class folder":
        with_list(root)
        shutil.rmtree(root / "clap")
        with pytest.raises(InputError, match=r"clap.*--incomplete skip") as error:
            load("folder", root)
        assert "\n" not in str(error.value)
        with pytest.raises(InputError, match=r"no training video.*clap"):
            load("folder", root, missing="skip")  # a class that nobody can learn
        return
    with pytest.raises(InputError, match=r"wave/9.avi.*--incomplete skip") as error:
        load("folder", root)
    assert "\n" not in str(error.value)
    found: Dataset = load("folder", root, missing="skip")
    assert found.missing == ("wave/9.avi",) and len(ensure(found).index) == 8


def test_no_frame_of_a_large_picture_is_kept_whole(dataset, monkeypatch):
    """Frames shrink as they come: what goes to the tower is the short side of its pictures."""
    sizes = []
    decode = extraction._decode

    def listening(*arguments):
        row, pictures = decode(*arguments)
        sizes.append(pictures.shape)
        return row, pictures

    monkeypatch.setattr(extraction, "_decode", listening)
    ensure(dataset)
    assert {*sizes} == {(4, 3, 16, 21)}
