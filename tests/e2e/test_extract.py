"""`extract` as a user has it: killed at random moments, by two ranks of torchrun, in shares; always the same
bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from test_features import write_video
from test_table5 import Call

VIDEOS = 320  # ten shards
FILES = ("about.json", "failed.csv", "features.npy", "index.csv", "sums.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two classes of small videos, each other than the rest, one of them damaged."""
    root = tmp_path_factory.mktemp("data")
    for number in range(VIDEOS):
        write_video(root / ("clap", "wave")[number % 2] / f"{number:03d}.avi", number, frames=2 + number % 3)
    (root / "wave/101.avi").write_bytes(b"no video")
    return root


def command(data: Path, *more: str) -> tuple[str, ...]:
    return ("extract", "folder", "--profile", "demo", "--data-root", str(data), "--incomplete", "skip", *more)


def stored(cache: Path) -> dict[str, bytes]:
    (folder,) = [path.parent for path in (cache / "features").glob("*/about.json")]
    assert not list((cache / "features").glob("*.shards/*.safetensors"))
    assert {path.name for path in folder.iterdir()} - {"looked.json"} == set(
        FILES
    )  # which is of this machine
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> dict[str, bytes]:
    """What one call stores."""
    folder = tmp_path_factory.mktemp("whole")
    call = Call(command(data), folder, folder / "cache").end()
    assert (
        f"folder: {VIDEOS} videos\n" in call.out
        and f"encoded now   {VIDEOS} videos, {32 * VIDEOS:,} pictures" in call.out
    )
    assert "unreadable    1 videos are left out" in call.out and "wave/101.avi" in call.out
    failed = pd.read_csv(next((folder / "cache/features").glob("*/failed.csv")))
    assert list(failed["name"]) == ["wave/101.avi"]
    again = Call(command(data), folder, folder / "cache").end()
    assert "encoded now" not in again.out and "features " in again.out
    return stored(folder / "cache")


@pytest.mark.slow
def test_killed_five_times_at_random_it_ends_with_the_same_bytes(data, whole, tmp_path):
    cache, drawn = tmp_path / "cache", random.Random(4)
    kills = 0
    while kills < 5:
        call = Call(command(data), tmp_path, cache)
        shards = len(list(cache.glob("features/*.shards/*.safetensors")))
        # It dies somewhere in the two shards after the first that it finishes, or at once.
        after = shards + drawn.randrange(2)
        while (
            call.process.poll() is None and len(list(cache.glob("features/*.shards/*.safetensors"))) < after
        ):
            time.sleep(0.01)
        time.sleep(drawn.random() * 0.5)
        assert call.process.poll() is None, call.err  # there was something to kill
        os.kill(call.process.pid, signal.SIGKILL)
        call.process.wait()
        assert not call.left(20)
        kills += 1
        assert not list(cache.glob("features/*/about.json"))
    Call(command(data), tmp_path, cache).end()
    assert stored(cache) == whole


def test_two_ranks_of_torchrun_fill_one_store(data, whole, tmp_path):
    launcher = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FLOWCLIP_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*launcher, "-m", "flowclip_kit", *command(data)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "share 1 of 2" in done.stdout and "share 2 of 2" in done.stdout
    assert done.stdout.count(f"encoded now   {VIDEOS // 2} videos") == 2  # each its half
    assert stored(tmp_path / "cache") == whole


def test_shares_given_by_hand_fill_one_store(data, whole, tmp_path):
    first = Call(command(data, "--shard", "2/2", "--jobs", "1"), tmp_path, tmp_path / "cache").end()
    assert f"not whole     {VIDEOS // 2} videos are other shares'" in first.out
    second = Call(
        command(data, "--shard", "1/2", "--jobs", "1", "--decoders", "2"), tmp_path, tmp_path / "cache"
    ).end()
    assert "not whole" not in second.out and "features " in second.out
    assert stored(tmp_path / "cache") == whole


def test_an_unreadable_video_stops_unless_it_may_be_left_out(data, whole, tmp_path):
    words = [word for word in command(data) if word not in ("--incomplete", "skip")]
    call = Call(tuple(words), tmp_path, tmp_path / "cache").end(2)
    split, line = [line for line in call.err.splitlines() if line.startswith("reproduce.sh:")]
    assert (
        "30% of each class is held out" in split
        and f"1 of {VIDEOS} videos of folder cannot be read: " in line
        and "wave/101.avi" in line
    )
    assert "--incomplete skip" in line and "Traceback" not in call.err
