"""The feature store: equal to a plain loop, whole or not there, shared by processes, never stale."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors import safe_open

from flowclip_core.data.video import read_frames, resize_and_crop, segment_centres
from flowclip_core.errors import InputError
from flowclip_kit.datasets import extraction
from flowclip_kit.datasets.extraction import ensure_features
from flowclip_kit.datasets.feature_store import ARRAY, FeatureStore, StoreConfig
from flowclip_kit.datasets.formats import Dataset, Split, Video
from flowclip_kit.distributed.locks import Held
from flowclip_kit.distributed.process_pool import Pool

NAMES = [f"{label}/{number}.avi" for label in ("wave", "clap") for number in range(4)]
CONFIG = StoreConfig("weights", frames=4, crops=("left", "centre", "mirrored"))
FILES = ("features.npy", "index.csv", "failed.csv", "sums.json", "about.json")


class Projection:
    """A cheap image tower: every pixel counts, with a weight of its own. Says in `log` that it was asked."""

    image_size, device = 16, "cpu"

    def __init__(self, log: Path | None = None, seconds: float = 0.0) -> None:
        import torch  # the commands of these tests leave it to their workers

        self.log, self.seconds = log, seconds
        pixels = 3 * self.image_size**2
        self.weights = torch.sin(torch.arange(1.0, 1 + 5 * pixels)).reshape(pixels, 5)

    def encode_frames(self, frames):
        time.sleep(self.seconds)
        if self.log:
            with self.log.open("a") as log:
                log.write("asked\n")
        return (frames.flatten(1) / 255) @ self.weights


class Inline:
    """A pool without processes, so that the process under test is the one that works."""

    def map(self, work, tasks, told=lambda count: None):
        for task in tasks:
            yield task, work(*task)


def write_video(path: Path, seed: int, frames: int = 9) -> Path:
    """An uncompressed video: two of the same length have the same size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = np.random.default_rng(seed).integers(0, 256, (frames, 18, 24, 3), dtype=np.uint8)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("rawvideo", rate=Fraction(12))
        stream.height, stream.width, stream.pix_fmt = 18, 24, "bgr24"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """Eight videos of 2 to 16 frames, some shorter than the stored frames; every video is in two splits."""
    folder = tmp_path / "videos"
    for seed, name in enumerate(NAMES):
        write_video(folder / name, seed, frames=2 * (seed + 1))
    videos = [Video(name, int(name.startswith("wave"))) for name in NAMES]
    splits = {1: Split(tuple(videos[:5]), tuple(videos[5:])), 2: Split(tuple(videos[3:]), tuple(videos[:3]))}
    return Dataset("tiny", folder, ("clap", "wave"), ("clap", "wave"), splits)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def log(tmp_path) -> Path:
    (tmp_path / "log").write_text("")
    return tmp_path / "log"


def ensure(dataset, config=CONFIG, load=Projection, pool=None, **options) -> FeatureStore:
    lanes = [load] * getattr(pool, "jobs", 1)
    return ensure_features(dataset, config, lanes, pool or Inline(), **{"shard_videos": 3, **options})


def content(store: FeatureStore) -> dict[str, bytes]:
    assert {path.name for path in store.folder.iterdir()} - {"looked.json"} == set(FILES)
    return {name: (store.folder / name).read_bytes() for name in FILES}


def afresh(dataset, tmp_path, monkeypatch, **options) -> dict[str, bytes]:
    """What one undisturbed writer stores."""
    with monkeypatch.context() as patch:
        patch.setenv("FLOWCLIP_CACHE", str(tmp_path / "undisturbed"))
        return content(ensure(dataset, **options))


def asked(log: Path) -> int:
    """Videos encoded: the tower is asked for each of their crops."""
    return log.read_text().count("asked") / len(CONFIG.crops)


@functools.lru_cache(maxsize=1)
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pandas", "av", "psutil", "pytest", "safetensors.torch"])
    return context


def writer(
    dataset: Dataset, cache: Path, log: Path | None, seconds: float, shard_videos: int, fatal_sync: int
) -> None:
    """Fill the store; die at the `fatal_sync`-th fsync, which is between the writing of a file and its
    renaming."""
    os.environ["FLOWCLIP_CACHE"] = str(cache)
    synced, sync = 0, os.fsync

    def counted(handle: int) -> None:
        nonlocal synced
        synced += 1
        if synced == fatal_sync:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = counted
    ensure(dataset, load=functools.partial(Projection, log, seconds), shard_videos=shard_videos)


def start(dataset, cache, log=None, seconds=0.0, shard_videos=3, fatal_sync=0):
    process = processes().Process(
        target=writer, args=(dataset, cache, log, seconds, shard_videos, fatal_sync)
    )
    process.start()
    return process


# --- equal to the plain way ---


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_store_equals_a_plain_loop(dataset, jobs):
    seen = []
    with Pool(jobs) as pool:
        store = ensure(dataset, pool=pool, progress=lambda done, total: seen.append((done, total)))
    encoder = Projection()
    assert store.features.shape == (8, 3, 4, 5) and store.features.dtype == np.float16
    assert list(store.index["name"]) == sorted(NAMES)
    for name, stored, count in zip(store.index["name"], store.features, store.index["frames"], strict=True):
        clip = read_frames(dataset.folder / name, lambda n: segment_centres(n, CONFIG.frames))
        views = resize_and_crop(clip.frames, encoder.image_size, CONFIG.crops)
        plain = [encoder.encode_frames(view).half().numpy() for view in views]
        np.testing.assert_allclose(
            stored, np.stack(plain), rtol=2e-3, atol=2e-3
        )  # a float16 ulp: other batch sizes
        assert count == clip.count
    assert len({row.tobytes() for row in store.features}) == 8
    assert len({crop.tobytes() for crop in store.features[0]}) == 3
    assert seen == [(number, 8) for number in range(1, 9)]


def test_a_whole_store_is_not_made_again(dataset, log):
    load = functools.partial(Projection, log)
    first = content(ensure(dataset, load=load))
    assert asked(log) == 8
    assert content(ensure(dataset, load=load)) == first and asked(log) == 8


def test_how_the_work_is_cut_does_not_show(dataset, tmp_path, monkeypatch):
    cuts = [afresh(dataset, tmp_path / str(n), monkeypatch, shard_videos=n) for n in (1, 3, 100)]
    assert cuts[0] == cuts[1] == cuts[2]


def test_take_picks_rows_crops_and_frames(dataset):
    store = ensure(dataset)
    rows, frames, crops = np.array([5, 0, 5]), np.array([[0, 3], [2, 2], [3, 1]]), np.array([2, 0, 1])
    taken = store.take(rows, frames, crops)
    assert taken.shape == (3, 2, 5) and taken.dtype == np.float32
    for b in range(3):
        for t in range(2):
            np.testing.assert_array_equal(taken[b, t], store.features[rows[b], crops[b], frames[b, t]])
    np.testing.assert_array_equal(store.take(rows, frames), store.take(rows, frames, np.ones(3, int)))


def test_rows_are_found_by_name_and_unknown_videos_refused(dataset):
    store = ensure(dataset)
    assert [store.index["name"][row] for row in store.rows(NAMES[::-1])] == NAMES[::-1]
    assert store.has(NAMES[0]) and not store.has("wave/9.avi")
    with pytest.raises(InputError, match=r"wave/9\.avi"):
        store.rows([NAMES[0], "wave/9.avi"])


# --- centred: small motion is kept ---

CENTRED = replace(CONFIG, centred=True)


def read_back(features: np.ndarray, centred: bool) -> np.ndarray:
    """What a store of one video gives for its features (C,F,D)."""
    import torch

    stored = torch.from_numpy(features)
    stored = (extraction.centre(stored) if centred else stored.half()).numpy()[None]
    frames, crops = features.shape[1], ("left", "centre")
    index = pd.DataFrame({"name": ["a"]})
    means = stored[:, :, frames:] if centred else None
    store = FeatureStore(Path(), stored[:, :, :frames], crops, index, means=means)
    picked = np.tile(np.arange(frames), (2, 1))
    return store.take(np.zeros(2, int), picked, np.arange(2))


def test_a_still_clip_has_exactly_no_motion_and_small_motion_keeps_its_digits():
    rng = np.random.default_rng(0)
    picture = rng.normal(size=(2, 1, 64)).astype(np.float32)
    still = read_back(np.repeat(picture, 8, axis=1), True)
    assert not (still[:, 1:] - still[:, :-1]).any(), "a still clip moves"
    np.testing.assert_allclose(still, np.repeat(picture, 8, axis=1), rtol=2**-21, atol=2**-24)
    for size in (1e-3, 1e-2, 1.0):
        clip = picture + size * rng.normal(size=(2, 8, 64)).astype(np.float32)
        wrong = {}
        for centred in (False, True):
            found = read_back(clip, centred)
            wrong[centred] = np.abs(np.diff(found, axis=1) - np.diff(clip, axis=1)).max()
        # Two frames, each rounded by half a last bit of its deviation, which is at most 5 times the size.
        assert wrong[True] <= 2 * 2.0**-11 * 5 * size + 2.0**-20, f"motion of {size:g} is not kept"
        assert size == 1 or wrong[True] < wrong[False] / (0.2 / size), "no better than float16 alone"


def test_a_centred_store_gives_the_features_that_were_computed(dataset, cache, capfd):
    encoder, store = Projection(), ensure(dataset, CENTRED)
    assert store.features.shape == (8, 3, 4, 5) and store.means.shape == (8, 3, 2, 5)
    every = np.tile(np.arange(4), (3, 1))
    for row, name in enumerate(store.names):
        clip = read_frames(dataset.folder / name, lambda n: segment_centres(n, CONFIG.frames))
        plain = [encoder.encode_frames(view) for view in resize_and_crop(clip.frames, 16, CONFIG.crops)]
        taken, exact = store.take(np.full(3, row), every, np.arange(3)), np.stack(plain)
        spread = np.abs(exact - exact.mean(1, keepdims=True)).max()
        assert np.abs(taken - exact).max() <= 2.0**-11 * spread + 2.0**-19 * np.abs(exact).max()
    assert not store.still(np.arange(8)).any()
    whole = content(store)
    with (store.folder / ARRAY).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))  # of the last video's mean frame
    assert content(ensure(dataset, CENTRED)) == whole
    assert "the features of 1 of 8 videos" in capfd.readouterr().err


def test_an_older_store_is_read_in_the_place_of_a_centred_one(dataset, log, capfd):
    load = functools.partial(Projection, log)
    older = ensure(dataset, load=load)
    count = asked(log)
    found = ensure(dataset, CENTRED, load=load)
    assert found.folder == older.folder and found.means is None and asked(log) == count
    assert "features of the older kind" in capfd.readouterr().err
    shutil.rmtree(older.folder)
    assert ensure(dataset, CENTRED, load=load).means is not None and asked(log) == 2 * count
    assert ensure(dataset, load=load).means is None


# --- several processes, and kills ---


def test_two_commands_at_once_make_one_store(dataset, cache, log, tmp_path, monkeypatch):
    expected = afresh(dataset, tmp_path, monkeypatch, shard_videos=1)
    arguments = [dataset.folder, cache, log]
    code = f"import test_features; test_features.command({', '.join(map(repr, map(str, arguments)))})"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(extraction.__file__).parents[2])])
    commands = [
        subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
        for _ in range(2)
    ]
    assert [command.wait(120) for command in commands] == [0, 0]
    assert content(ensure(dataset, load=None, shard_videos=1)) == expected  # nothing is left to encode
    assert asked(log) == 8  # the two shared the work


def command(folder: str, cache: str, log: str) -> None:
    """One of two commands: real worker processes, started with nothing in common but the cache."""
    videos = tuple(Video(name, 0) for name in NAMES)
    dataset = Dataset("tiny", Path(folder), ("clap",), ("clap",), {1: Split(videos[:4], videos[4:])})
    os.environ["FLOWCLIP_CACHE"] = cache
    with Pool(1) as pool:
        ensure(dataset, load=functools.partial(Projection, Path(log), 0.2), pool=pool, shard_videos=1)


@pytest.mark.slow
def test_many_writers_at_once_make_one_store(dataset, cache, log, tmp_path, monkeypatch):
    expected = afresh(dataset, tmp_path, monkeypatch, shard_videos=1)
    for attempt in range(3):
        place = cache / str(attempt)
        writers = [start(dataset, place, log, 0.01, 1) for _ in range(4)]
        for process in writers:
            process.join(60)
        assert [process.exitcode for process in writers] == [0] * 4
        monkeypatch.setenv("FLOWCLIP_CACHE", str(place))
        assert content(ensure(dataset, load=None, shard_videos=1)) == expected
    assert asked(log) == 3 * 8


@pytest.mark.parametrize("fatal_sync", range(1, 8))
def test_a_kill_before_any_file_is_finished_loses_nothing_else(
    fatal_sync, dataset, cache, log, tmp_path, monkeypatch
):
    """Eight videos in shards of three: three shards, the array, the two tables, about.json."""
    process = start(dataset, cache, fatal_sync=fatal_sync)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not list((cache / "features").glob("*/about.json"))
    store = ensure(dataset, load=functools.partial(Projection, log))
    assert asked(log) == max(0, 8 - 3 * (fatal_sync - 1))  # finished shards are kept
    assert content(store) == afresh(dataset, tmp_path, monkeypatch)
    assert not list((cache / "features").glob("*.shards/*"))


def test_kills_at_any_moment(dataset, cache, tmp_path, monkeypatch):
    for wanted in (1, 3, 6):
        process = start(dataset, cache, seconds=0.03, shard_videos=1)
        while len(list((cache / "features").glob("*.shards/*.safetensors"))) < wanted:
            assert process.is_alive()
            time.sleep(0.005)
        process.kill()
        process.join(60)
        assert not list((cache / "features").glob("*/about.json"))
    assert content(ensure(dataset, shard_videos=1)) == afresh(dataset, tmp_path, monkeypatch)


# --- videos that cannot be read, or change ---


def test_an_unreadable_video_is_named_and_mending_it_costs_one_shard(
    dataset, cache, log, tmp_path, monkeypatch
):
    bad = dataset.folder / NAMES[2]
    whole = bad.read_bytes()
    bad.write_bytes(whole[:300])
    load = functools.partial(Projection, log)
    for _ in range(2):
        with pytest.raises(InputError, match=f"1 of 8 videos of tiny cannot be read: .*{NAMES[2]}") as error:
            ensure(dataset, load=load)
        assert "\n" not in str(error.value)
        assert [path.name for path in (cache / "features").iterdir() if path.suffix == ".csv"] == [
            "tiny-failed.csv"
        ]
        assert not [path for name in FILES for path in (cache / "features").glob(f"*/{name}")]
    before = asked(log)
    bad.write_bytes(whole)
    store = ensure(dataset, load=load)
    assert asked(log) - before == 2  # those of the last shard
    assert content(store) == afresh(dataset, tmp_path, monkeypatch)


def test_where_it_is_allowed_an_unreadable_video_is_left_out_and_listed(dataset):
    (dataset.folder / NAMES[2]).write_bytes(b"no video")
    store = ensure(dataset, allow_unreadable=True)
    assert not store.has(NAMES[2]) and len(store.features) == 7
    assert list(store.index["name"]) == sorted(set(NAMES) - {NAMES[2]})
    failed = pd.read_csv(store.folder / "failed.csv")
    assert list(failed["name"]) == [NAMES[2]] and NAMES[2] in failed["error"][0]
    plain = read_frames(dataset.folder / NAMES[3], lambda n: segment_centres(n, CONFIG.frames)).frames
    kept = Projection().encode_frames(resize_and_crop(plain, 16, ("centre",))[0]).half().numpy()
    np.testing.assert_allclose(store.features[store.rows([NAMES[3]])[0], 1], kept, rtol=2e-3, atol=2e-3)
    with pytest.raises(InputError, match=NAMES[2]):
        ensure(dataset)
    write_video(dataset.folder / "other.avi", 1)
    (dataset.folder / NAMES[2]).write_bytes((dataset.folder / "other.avi").read_bytes())
    assert ensure(dataset, allow_unreadable=True).has(NAMES[2])


def test_a_set_without_one_readable_video_is_refused_even_where_some_may_fail(dataset):
    for name in NAMES:
        (dataset.folder / name).write_bytes(b"no video")
    with pytest.raises(InputError, match="8 of 8 videos"):
        ensure(dataset, allow_unreadable=True)


def test_an_absent_video_is_named(dataset):
    (dataset.folder / NAMES[4]).unlink()
    with pytest.raises(InputError, match=f"{NAMES[4]}: no such video"):
        ensure(dataset)


@pytest.mark.parametrize("finished", [True, False])
def test_a_replaced_video_of_the_same_size_is_noticed(finished, dataset, cache, tmp_path, monkeypatch):
    if finished:
        store = ensure(dataset)
        old, told = content(store), store.fingerprint(NAMES)
    else:  # killed with all shards written
        start(dataset, cache, fatal_sync=4).join(60)
    size = (dataset.folder / NAMES[6]).stat().st_size
    write_video(dataset.folder / NAMES[6], seed=99, frames=14)
    assert (dataset.folder / NAMES[6]).stat().st_size == size
    store = ensure(dataset)
    assert content(store) == afresh(dataset, tmp_path, monkeypatch)
    if finished:
        assert content(store)["features.npy"] != old["features.npy"]
        assert store.fingerprint(NAMES) != told
        assert store.fingerprint(NAMES[:6]) == FeatureStore.open(store.folder).fingerprint(NAMES[:6])


def test_two_writers_that_find_a_replaced_video_agree(dataset, cache, tmp_path, monkeypatch):
    ensure(dataset)
    write_video(dataset.folder / NAMES[6], seed=99, frames=14)
    writers = [start(dataset, cache, seconds=0.02) for _ in range(3)]
    for process in writers:
        process.join(60)
    assert [process.exitcode for process in writers] == [0] * 3
    assert content(ensure(dataset, load=None)) == afresh(dataset, tmp_path, monkeypatch)


def test_a_new_time_stamp_alone_costs_no_encoding(dataset, log):
    load = functools.partial(Projection, log)
    store = ensure(dataset, load=load)
    before, told = content(store), store.fingerprint(NAMES)
    os.utime(dataset.folder / NAMES[0], (1, 1))
    again = ensure(dataset, load=load)
    assert content(again) == before and again.fingerprint(NAMES) == told and asked(log) == 8


def test_fingerprints_follow_content_names_and_order(dataset):
    store = ensure(dataset)
    assert store.fingerprint(NAMES) == store.fingerprint(list(NAMES))
    assert len({store.fingerprint(names) for names in (NAMES, NAMES[::-1], NAMES[:-1])}) == 3
    for column in ("sha256", "decoder"):
        other = store.index.assign(**{column: [*store.index[column][:-1], "other"]})
        assert replace(store, index=other).fingerprint(NAMES) != store.fingerprint(NAMES)


@pytest.mark.parametrize(
    "change", [{"weights": "other"}, {"frames": 8}, {"crops": ("centre",)}, {"decoder": "decord"}]
)
def test_other_preparation_lies_in_another_folder(change, dataset):
    if "decoder" in change:
        pytest.importorskip("decord")
    first = ensure(dataset)
    before = content(first)
    other = ensure(dataset, replace(CONFIG, **change))
    assert other.folder != first.folder and content(first) == before
    assert other.folder == ensure(dataset, replace(CONFIG, **change), load=None).folder


# --- broken stores ---


def rewrite(change):
    def broken(path: Path) -> None:
        array = np.load(path)
        np.save(path, change(array), allow_pickle=True)

    return broken


BROKEN = {
    "features cut short": ("features.npy", lambda path: path.write_bytes(path.read_bytes()[:-7])),
    "features empty": ("features.npy", lambda path: path.write_bytes(b"")),
    "features no array": ("features.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + b"(" * 300)),
    "features gone": ("features.npy", lambda path: path.unlink()),
    "features of another type": ("features.npy", rewrite(lambda array: array.astype(np.float32))),
    "one video too few": ("features.npy", rewrite(lambda array: array[1:])),
    "one crop too few": ("features.npy", rewrite(lambda array: array[:, 1:])),
    "index gone": ("index.csv", lambda path: path.unlink()),
    "index empty": ("index.csv", lambda path: path.write_text("")),
    "index not text": ("index.csv", lambda path: path.write_bytes(b"\xff\xfe\x00")),
    "index without a column": (
        "index.csv",
        lambda path: path.write_text(path.read_text().replace("sha256", "sha")),
    ),
    "index with a word for a number": (
        "index.csv",
        lambda path: path.write_text(path.read_text() + "a,b,c,d,e,f\n"),
    ),
    "about no JSON": ("about.json", lambda path: path.write_text("{")),
    "about without crops": ("about.json", lambda path: path.write_text("{}")),
    "about a list": ("about.json", lambda path: path.write_text("[]")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_store_is_one_line_and_is_made_again(name, dataset, capfd):
    store = ensure(dataset)
    whole = content(store)
    file, damage = BROKEN[name]
    damage(store.folder / file)
    with pytest.raises(InputError, match="remove the folder") as error:
        FeatureStore.open(store.folder)
    assert "\n" not in str(error.value) and str(store.folder) in str(error.value)
    assert content(ensure(dataset)) == whole
    (line,) = capfd.readouterr().err.splitlines()
    assert str(store.folder) in line and "made again" in line


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_the_place_of_the_array_is_refused_and_not_run(dataset, tmp_path):
    store = ensure(dataset)
    np.save(store.folder / "features.npy", np.array([Payload(tmp_path / "run")]), allow_pickle=True)
    with pytest.raises(InputError, match="remove the folder"):
        FeatureStore.open(store.folder)
    assert not (tmp_path / "run").exists()
    np.load(store.folder / "features.npy", allow_pickle=True)
    assert (tmp_path / "run").exists()  # the payload would have worked


# --- worker processes ---


def name_self(folder: Path, seconds: float) -> bool:
    (folder / str(os.getpid())).touch()
    time.sleep(seconds)
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def command_to_kill(folder: str) -> None:
    with Pool(2) as pool:
        list(pool.map(name_self, [(Path(folder), 60.0)] * 2))


def gone(pids: list[int], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(psutil.pid_exists, pids))


def test_workers_die_with_a_killed_command_even_before_it_is_reaped(tmp_path):
    code = f"import test_features; test_features.command_to_kill({str(tmp_path)!r})"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(extraction.__file__).parents[2])])
    command = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    try:
        until = time.monotonic() + 60
        while len(pids := [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]) < 2:
            assert command.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        command.kill()
        assert gone(pids)
    finally:
        command.kill()
        command.wait()


def test_a_killed_worker_is_one_line():
    with Pool(1) as pool, pytest.raises(InputError, match=r"lack of memory.*--jobs .now 1.") as error:
        list(pool.map(die, [()]))
    assert "\n" not in str(error.value)


def test_a_failure_ends_the_workers_and_no_other_child(tmp_path):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with pytest.raises(KeyError), Pool(1) as pool:  # noqa: PT012
            for _ in pool.map(name_self, [(tmp_path, 0.0), (tmp_path, 60.0)]):
                raise KeyError
        assert gone([int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()])
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_what_another_holds_is_asked_for_again(tmp_path):
    with Pool(2) as pool:
        done = list(pool.map(second_time, [(tmp_path / str(i),) for i in range(3)]))
    assert sorted(task[0].name for task, _ in done) == ["0", "1", "2"]
    assert all(result == "done" for _, result in done)


def second_time(mark: Path) -> str | Held:
    if mark.exists():
        return "done"
    mark.touch()
    return Held(mark.name, "another")


def test_the_shard_index_is_plain_json(dataset, cache):
    start(dataset, cache, fatal_sync=4).join(60)
    shards = sorted((cache / "features").glob("*.shards/*.safetensors"))
    rows = [row for shard in shards for row in json.loads(safe_open(shard, "np").metadata()["index"])]
    assert sorted(row["name"] for row in rows) == sorted(NAMES)
    assert all(json.loads(json.dumps(row)) == row for row in rows)
