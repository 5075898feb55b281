"""Kills and signals at random moments of everything a call does: the same tables after all, and nothing left
behind.

CI has a few of them; FLOWCLIP_KILLS=40 asks for 40 kills and 10 signals.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from test_table5 import ONE_SET, SMOKE, Call, assert_whole, seen

from flowclip_kit.demo import world
from flowclip_kit.distributed.process_pool import default_jobs

KILLS = int(os.environ.get("FLOWCLIP_KILLS", 4))
SIGNALS = max(2, KILLS // 4)
STAGES = ("starting", "drawing", "extraction", "encoding", "training", "notebook")
CLASSES = ("wave", "clap", "sit_down", "stand_up")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four classes of 24 short videos: three shards, and 18 training videos a class."""
    folder = tmp_path_factory.mktemp("data")
    for label in CLASSES:
        (folder / label).mkdir()
        for number in range(24):
            (folder / label / f"{number}.avi").write_bytes(
                world.encode(world.render("figures-h", label, number, frames=8))
            )
    return folder


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    Call(table(data, folder / "results"), folder, folder / "cache").end()
    return (folder / "results/smoke/table5.csv").read_bytes()


def table(data: Path, results: Path) -> tuple[str, ...]:
    return (*SMOKE, "--dataset", "folder", "--data-root", str(data), "--results", str(results))


@pytest.fixture
def place():
    """A folder with a short name, since sockets are made in it."""
    folder = Path(tempfile.mkdtemp(prefix="kills-", dir="/tmp"))
    (folder / "tmp").mkdir()
    (folder / "cwd").mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_killed_at_random_moments_the_table_is_the_same_and_nothing_is_left(data, undisturbed, cache, place):
    rng = random.Random(5)
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    events = [signal.SIGKILL] * KILLS + [signals[n % 3] for n in range(SIGNALS)]
    rng.shuffle(events)
    drawn, before, done = cache / world.default_root().relative_to(world.cache_dir()), checkout(), 0
    world.ensure("figures-h", drawn, default_jobs())
    while events:
        round_, events = events[: len(STAGES)], events[len(STAGES) :]
        missed = one_round(rng, round_, data, undisturbed, drawn / "figures-h", place)
        assert len(missed) < len(round_), "the calls were faster than the kills"
        events += missed
        done += len(round_) - len(missed)
        print(f"{done} of {KILLS + SIGNALS} kills and signals")
    assert checkout() == before


def one_round(
    rng: random.Random, events: list[signal.Signals], data: Path, expected: bytes, drawn: Path, place: Path
) -> list[signal.Signals]:
    """A table hit once in each stage, and a world of which some classes were not drawn; returns what hit
    nothing."""
    cache, results, missed = place / "cache", place / "results", []
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(results, ignore_errors=True)
    world_ = cache / world.default_root().relative_to(world.cache_dir()) / "figures-h"
    shutil.copytree(drawn, world_)
    (world_ / "complete.txt").unlink()
    for label in rng.sample(sorted(world.CLASSES["figures-h"]), 3):
        shutil.rmtree(world_ / "videos" / label)
    extract = ("extract", "folder", "--profile", "smoke", "--data-root", str(data))
    commands = {"drawing": (*ONE_SET, "--results", str(results)), "extraction": extract}
    shared: set[str] = set()  # beginnings of names in /dev/shm
    for stage, event in zip(STAGES, events, strict=False):
        call = start(commands.get(stage, table(data, results)), place)
        if not hit(rng, call, stage, event, cache, results):
            missed.append(event)
            call.process.kill() if stage == "drawing" else call.end()
        shared |= {folder.name for folder in (place / "tmp").iterdir()}
        assert_whole(cache)
        assert_whole(results)
    start(table(data, results), place).end()
    assert (results / "smoke/table5.csv").read_bytes() == expected
    assert_whole(cache)
    assert_whole(results)
    assert not list((place / "tmp").iterdir())
    assert not [path for path in Path("/dev/shm").glob("*") if any(name in path.name for name in shared)]
    assert {path.suffix for path in (place / "cwd").iterdir()} == {".out", ".err"}
    world.ensure("figures-h", world_.parent, default_jobs())
    videos = [path.relative_to(drawn) for path in drawn.rglob("*.avi")]
    assert all((world_ / path).read_bytes() == (drawn / path).read_bytes() for path in videos)
    return missed


def start(command: tuple[str, ...], place: Path) -> Call:
    return Call(command, place / "cwd", place / "cache", variables={"TMPDIR": str(place / "tmp")})


def hit(
    rng: random.Random, call: Call, stage: str, event: signal.Signals, cache: Path, results: Path
) -> bool:
    """Whether the call was still running when its moment came."""
    before = {name: seen(name, cache, results) for name in ("drawing", "encoding", "training")}
    watched = "encoding" if stage == "extraction" else stage

    def begun() -> bool:
        if stage == "starting":
            return True
        if stage == "notebook":
            return any("ipykernel" in " ".join(words(child)) for child in children(call))
        return bool(seen(watched, cache, results) - before[watched])

    while call.process.poll() is None and not begun():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 1.5))
    if call.process.poll() is not None:
        return False
    alone = (
        rng.random() < 0.5
    )  # as the kernel does when memory is short, or the whole group, as a terminal does
    os.kill(call.process.pid, event) if alone else os.killpg(call.process.pid, event)
    code = call.process.wait(60)
    said = f"{event.name} {'alone' if alone else 'to all'} while {stage}: {code} {call.err}"
    left = call.left(10)
    assert not left, f"{[words(process) for process in left]} {said}"
    if event != signal.SIGKILL:
        if code == 0 and call.out:  # it had just ended
            return False
        lines = call.complaints
        early = code == -event and stage == "starting"  # before Python could listen
        assert code == 128 + event or early, said
        assert early or (len(lines) == 1 and lines[0].startswith("reproduce.sh: stopped")), said
    return True


def children(call: Call) -> list[psutil.Process]:
    try:
        return psutil.Process(call.process.pid).children(recursive=True)
    except psutil.Error:
        return []


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def checkout() -> set[Path]:
    """What lies in the checkout, apart from bytecode."""
    return {
        path
        for folder in (ROOT, *ROOT.glob("[a-z]*/"))
        for path in folder.glob("*")
        if path.name != "__pycache__"
    }
