"""Kills and signals at random moments of everything a call does: the same tables after all, and nothing left behind.

The usual suite has a few of them; FLOWCLIP_KILLS=40 asks for 40 kills and 10 signals.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from test_table5 import LONGEST, ONE_SET, SMOKE, Call, Results, assert_whole, seen

from flowclip_core.demo import world

KILLS = int(os.environ.get("FLOWCLIP_KILLS", 4))
SIGNALS = max(2, KILLS // 4)
STAGES = ("starting", "drawing", "extraction", "encoding", "training", "notebook")
EXTRACT = ("extract", "figures-h", "--profile", SMOKE[-1])


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory) -> Results:
    folder = tmp_path_factory.mktemp("undisturbed")
    call = Call((*ONE_SET, "--results", str(folder / "results")), folder, cache).end()
    return Results(folder / "results", call)


@pytest.fixture
def place():
    """A folder with a short name, since sockets are made in it."""
    folder = Path(tempfile.mkdtemp(prefix="kills-", dir="/tmp"))
    (folder / "tmp").mkdir()
    (folder / "cwd").mkdir()
    yield folder
    shutil.rmtree(folder)


def test_killed_at_random_moments_the_table_is_the_same_and_nothing_is_left(undisturbed, place):
    rng = random.Random(5)
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    events = [signal.SIGKILL] * KILLS + [signals[n % 3] for n in range(SIGNALS)]
    rng.shuffle(events)
    before = checkout()
    while events:
        round_, events = events[: len(STAGES)], events[len(STAGES) :]
        missed = one_round(rng, round_, undisturbed, place)
        assert len(missed) < len(round_), "the calls were faster than the kills"
        events += missed
    assert checkout() == before


def one_round(rng: random.Random, events: list[signal.Signals], expected: Results, place: Path) -> list:
    """A table from a world of which some classes are not drawn, hit once in each stage; returns what hit nothing."""
    cache, results, missed = place / "cache", place / "results", []
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(results, ignore_errors=True)
    drawn = cache / world.default_root().relative_to(world.cache_dir()) / "figures-h"
    shutil.copytree(expected.call.cache / drawn.relative_to(cache), drawn)
    (drawn / "complete.txt").unlink()
    for label in rng.sample(sorted(world.CLASSES["figures-h"]), 3):
        shutil.rmtree(drawn / "videos" / label)
    shared: set[str] = set()  # beginnings of names in /dev/shm
    for stage, event in zip(STAGES, events, strict=False):
        command = EXTRACT if stage == "extraction" else (*ONE_SET, "--results", str(results))
        call = start(command, place)
        if not hit(rng, call, stage, event, cache, results):
            missed.append(event)
            call.end()
        shared |= {folder.name for folder in (place / "tmp").iterdir()}
        assert_whole(cache)
        assert_whole(results)
    start((*ONE_SET, "--results", str(results)), place).end()
    assert (results / "smoke/table5.csv").read_bytes() == expected.csv
    assert_whole(cache)
    assert_whole(results)
    assert not list((place / "tmp").iterdir())
    assert not [path for path in Path("/dev/shm").glob("*") if any(name in path.name for name in shared)]
    assert {path.suffix for path in (place / "cwd").iterdir()} == {".out", ".err"}
    return missed


def start(command: tuple[str, ...], place: Path) -> Call:
    return Call(command, place / "cwd", place / "cache", variables={"TMPDIR": str(place / "tmp")})


def hit(rng: random.Random, call: Call, stage: str, event: signal.Signals, cache: Path, results: Path) -> bool:
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
    alone = rng.random() < 0.5  # as the kernel does when memory is short, or the whole group, as a terminal does
    os.kill(call.process.pid, event) if alone else os.killpg(call.process.pid, event)
    code = call.process.wait(LONGEST if event == signal.SIGKILL else 30)
    said = f"{event.name} {'alone' if alone else 'to all'} while {stage}: {code} {call.err}"
    # A fork server that is importing torch notices when it has done so.
    assert not (left := call.left(10)), f"{left} {said}"
    if event != signal.SIGKILL:
        if code == 0 and call.out:  # it had just ended
            return False
        lines = [line for line in re.split("[\r\n]+", call.err) if line and not re.search(r"left, .*/s\]$", line)]
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
    return {path for folder in (ROOT, *ROOT.glob("[a-z]*/")) for path in folder.glob("*") if path.name != "__pycache__"}
