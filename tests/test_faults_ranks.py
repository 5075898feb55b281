"""Faults of locks and ranks (D12): owners that are dead, file systems without locks, launchers and peers that
die."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import ROOT
from fault_table import Fault, check

from flowclip_core import files
from flowclip_core.files import write_atomically
from flowclip_kit.datasets import acquire
from flowclip_kit.datasets.extraction import _Claims, plan
from flowclip_kit.datasets.feature_store import StoreConfig
from flowclip_kit.datasets.formats import Dataset, Split, Video
from flowclip_kit.distributed import locks
from flowclip_kit.distributed.locks import Held, Lock, Waiting

HOLDS = """
import sys, time
from flowclip_kit.distributed.locks import Lock
Lock(sys.argv[1]).take()
print(1, flush=True)
time.sleep(600)
"""


def held_by_another(path: Path) -> subprocess.Popen:
    """A process that holds the lock `path`."""
    other = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDS, str(path)], env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with other.stdout:
        assert other.stdout.readline() == b"1\n"
    return other


def held_elsewhere(path: Path, seconds_ago: float) -> Path:
    """A lock of another machine, touched so many seconds ago."""
    owner = replace(locks.me(), host="node7", pid=12, machine="0" * 12, token="t")
    path.write_text(json.dumps(asdict(owner)))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))
    return path


def prepared_elsewhere(folder: Path) -> list[object]:
    home = acquire.home("ucf101", folder)
    home.mkdir(exist_ok=True)
    held_elsewhere(home / ".flowclip-data.lock", 1)
    return ["data", "ucf101", "--data-root", folder]


FAULTS = [
    Fault(
        "D12", "another machine prepares the data set", prepared_elsewhere, 2,
        r"another command is preparing it \(node7, PID 12; lock .*\.flowclip-data\.lock\); wait for that one",
    ),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults(fault, tmp_path, capsys):
    check(fault, tmp_path, capsys)


@pytest.fixture
def without_locks(monkeypatch):
    """A file system whose locks are refused; the kit is to do without them."""

    def flock(*arguments):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr("fcntl.lockf", flock)


def test_D12_one_at_a_time_holds_a_lock_and_the_next_is_told_whose_it_is(tmp_path):
    first, second = Lock(tmp_path / "a.lock", "run a"), Lock(tmp_path / "a.lock", "run a")
    assert first.take() and first.ours and not second.take()
    assert second.held == Held("run a", f"{locks.me()}; lock {tmp_path / 'a.lock'}")
    second.release()  # not its own
    assert first.ours
    first.release()
    assert list(tmp_path.iterdir()) == [] and second.take()
    second.release()


@pytest.mark.parametrize("reaped", [True, False])
def test_D12_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(reaped, tmp_path, without_locks):
    other = held_by_another(tmp_path / "a.lock")
    try:
        mine = Lock(tmp_path / "a.lock")
        assert not mine.take() and f", PID {other.pid};" in mine.held.holder
        other.kill()
        if reaped:
            other.wait()
        else:
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as while its parent is busy
        assert mine.take()
        mine.release()
    finally:
        other.kill()
        other.wait()
    assert list(tmp_path.iterdir()) == []


def test_D12_a_process_that_was_given_a_dead_owners_number_does_not_hold_its_lock(tmp_path):
    (tmp_path / "a.lock").write_text(json.dumps(asdict(replace(locks.me(), born="1", token="t"))))
    assert Lock(tmp_path / "a.lock").take()


def test_D12_a_lock_of_another_machine_is_held_as_long_as_it_is_touched(tmp_path):
    path, mine = held_elsewhere(tmp_path / "a.lock", locks.STALE - 20), Lock(tmp_path / "a.lock")
    assert not mine.take() and mine.held.holder.startswith("node7, PID 12; ")
    held_elsewhere(path, locks.STALE + 20)
    assert mine.take() and mine.ours


@pytest.mark.parametrize("text", ["", "half a li"])
def test_D12_a_lock_that_was_never_finished_counts_as_a_dead_machines(text, tmp_path):
    """As of a process killed between making and writing it, and as filelock leaves them."""
    (tmp_path / "a.lock").write_text(text)
    assert not Lock(tmp_path / "a.lock").take()
    then = time.time() - locks.STALE - 20
    os.utime(tmp_path / "a.lock", (then, then))
    assert Lock(tmp_path / "a.lock").take()


def test_D12_owners_touch_their_locks_and_say_when_one_was_taken_from_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "_beating", True)  # no thread
    lock = Lock(tmp_path / "a.lock")
    assert lock.take()
    os.utime(lock.path, (1, 1))
    looks = iter([False, True])
    monkeypatch.setattr(locks, "_never", type("Once", (), {"wait": lambda self, seconds: next(looks)})())
    locks._beat()
    assert time.time() - lock.path.stat().st_mtime < 60
    lock.path.unlink()
    held_elsewhere(lock.path, 0)
    looks = iter([False, False, True])
    locks._beat()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{lock.path}: another process took this lock while it was held here" in line
    lock.release()
    assert lock.path.exists()  # the other's


def test_D12_of_many_that_find_a_dead_owners_lock_one_takes_it(tmp_path):
    for round_ in range(20):
        path = tmp_path / f"{round_}.lock"
        path.write_text(json.dumps(asdict(replace(locks.me(), born="1", token="t"))))
        mine = [Lock(path) for _ in range(8)]
        threads = [threading.Thread(target=lock.take) for lock in mine]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(lock.ours for lock in mine) <= 1
        assert any(lock.take() or lock.ours for lock in mine)
        for lock in mine:
            lock.release()
    assert list(tmp_path.iterdir()) == []


def test_D12_whoever_waits_says_within_two_seconds_for_what_and_for_whom(tmp_path, capsys):
    other = held_by_another(tmp_path / "a.lock")
    began = time.monotonic()
    kill = threading.Timer(1.8, other.kill)
    kill.start()
    with Lock(tmp_path / "a.lock", "the features of hmdb51"):
        waited = time.monotonic() - began
    other.wait()
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        f"waiting for the features of hmdb51: another call is at it ({locks.me().host}, PID {other.pid};"
        in line
    )
    assert waited < 10
    waiting = Waiting()
    waiting.go_on(Held("run a", "node7, PID 3"), 0)
    assert capsys.readouterr().err == ""  # not for what takes no time


def test_D12_a_full_disk_leaves_no_lock(tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(locks.json, "dumps", full)
        with pytest.raises(OSError, match="No space left"):
            Lock(tmp_path / "a.lock").take()
    assert list(tmp_path.iterdir()) == []


# --- unfinished files


def test_D12_a_living_writers_unfinished_file_is_not_removed_a_dead_ones_is(tmp_path):
    final = tmp_path / "a.safetensors"
    here, other = files.machine(), "0" * 12
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    kept = [
        f".{final.name}.{here}-{os.getpid()}.x1",
        f".{final.name}.{other}-{gone.pid}.x2",
        f".{final.name}.plain",
    ]
    dead = [f".{final.name}.{here}-{gone.pid}.x3", f".{final.name}.{other}-1.old", f".{final.name}.old"]
    for name in (*kept, *dead, ".b.safetensors.x"):
        (tmp_path / name).touch()
    for name in dead[1:]:
        os.utime(tmp_path / name, (1, 1))
    locks.sweep(tmp_path, f".{final.name}.*")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".b.safetensors.x"}


def test_D12_what_is_written_has_its_writer_in_its_name_until_it_is_whole(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("os.fsync", lambda handle: seen.extend(path.name for path in tmp_path.iterdir()))
    write_atomically(tmp_path / "a.json", "1")
    assert seen[0].startswith(files.unfinished(tmp_path / "a.json")) and len(seen) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_D12_a_living_peers_unfinished_shard_survives_the_claim_of_it(tmp_path, monkeypatch):
    """As where locks lock nothing: whoever claims the shard while it is being written must leave the file
    alone."""
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.avi").write_bytes(b"1")
    video = Video("a.avi", 0)
    dataset = Dataset("one", tmp_path / "v", ("a",), ("a",), {1: Split((video,), (video,))})
    wanted = plan(dataset, StoreConfig("w", 2, ("centre",), "pyav"))
    path = wanted.parts[0][0]
    path.parent.mkdir(parents=True)
    part = path.parent / f"{files.unfinished(path)}xyz"
    part.touch()
    claims = _Claims(wanted, wanted.parts, 0)
    assert next(claims).path == path and part.exists()
    claims.release()
    assert not path.with_suffix(".lock").exists()
