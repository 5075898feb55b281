"""Ranks of torchrun and srun, two and three of them, against one process: gradients, weights, losses,
scores."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lonely
import pytest
import together
import torch
from conftest import ROOT
from safetensors.torch import load_file

from flowclip_core.errors import InputError
from flowclip_core.training import state
from flowclip_kit.distributed import locks, ranks
from flowclip_kit.distributed.rank import Rank
from flowclip_kit.experiments.devices import one_gpu
from flowclip_kit.experiments.experiment import Options
from flowclip_kit.experiments.runs import Workshop
from flowclip_kit.profiles import SMOKE

LONGEST = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, torch.Tensor]:
    """What one process computes."""
    with one_thread():
        return together.work(folder)


@contextmanager
def one_thread() -> Iterator[None]:
    """As worker processes have; several add up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def began(folder, alone) -> Path:
    """What one process leaves in the middle of its training."""
    return folder / "0.left"


def by_torchrun(folder: Path, count: int) -> list[subprocess.Popen]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return [start([*launcher, together.__file__, str(folder)])]


def by_srun(folder: Path, count: int) -> list[subprocess.Popen]:
    """As srun starts its tasks on one node; they find each other in the folder."""
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(count)}
    step |= {"SLURM_STEP_TASKS_PER_NODE": str(count)}
    return [
        start([together.__file__, str(folder)], **step, SLURM_PROCID=str(number), SLURM_LOCALID=str(number))
        for number in range(count)
    ]


def start(words: list[str], **settings: str) -> subprocess.Popen:
    environment = (
        os.environ | settings | {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(together.__file__).parent}"}
    )
    return subprocess.Popen(
        [sys.executable, "-P", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("launch", "count"), [(by_torchrun, 2), (by_srun, 3)])
def test_D12_ranks_equal_one_process_to_the_bit(launch, count, alone, began, tmp_path):
    shutil.copyfile(began, tmp_path / "given")
    processes = launch(tmp_path, count)
    try:
        said = [process.communicate(timeout=LONGEST) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), said
    found = [load_file(tmp_path / f"{number}.safetensors") for number in range(count)]
    for number, one in enumerate(found):
        assert one.pop("ranks") == count and one.pop("written") == (number == 0)
        assert one.pop("given ranks").tolist() == [1, count]  # begun by one process, ended by these
        assert one.keys() - alone.keys() == {name for name in one if name.startswith("given ")}
        for name, value in one.items():
            whole = name.replace("given losses", "losses").replace("given ", "trained ")
            assert value.equal(alone[whole]), f"rank {number} has another {name}"
    # And the other way round: what they began one process ends.
    with one_thread():
        model, log = together.resumed(tmp_path / "0.left")
    assert log.ranks == [count, 1] and torch.tensor(log.losses).equal(alone["losses"])
    for name, value in model.trained().items():
        assert value.equal(alone[f"trained {name}"]), name
    assert not list(tmp_path.glob(".ranks-*"))


def test_a_process_without_ranks_is_left_as_it_is(alone):
    assert not ranks.together() and ranks.main() and ranks.count() == 1 and alone["ranks"] == 1
    assert ranks.from_main("a") == "a" and ranks.share(range(3)) == range(3)
    assert ranks.gradients_of_main([torch.zeros(2)], 0.5) == 0.5
    two = torch.arange(2)
    assert (
        ranks.share_evenly(two) is two
        and ranks.join(two, 2) is two
        and ranks.any_of(True)
        and not ranks.any_of(False)
    )
    scores = torch.ones(2)
    assert ranks.add(scores) is scores
    ranks.stop(failed=False)


@pytest.mark.parametrize(
    ("rank", "seen", "takes"),
    [
        (Rank(), None, None),  # all of them
        (Rank(5, 8, local=1, beside=4), None, "1"),
        (Rank(1, 2, local=1, beside=2), "4,6", "6"),
        (Rank(2, 3, local=2, beside=3), "4,6", ""),  # more ranks than GPUs
        (Rank(1, 2, local=1, beside=2, bound=True), "0", "0"),  # SLURM has given each its own
    ],
)
def test_each_rank_of_a_machine_takes_one_gpu(rank, seen, takes):
    environment = {} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}
    one_gpu(rank, environment)
    assert environment.get("CUDA_VISIBLE_DEVICES") == takes


def test_ranks_and_ray_exclude_each_other(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(
        InputError, match="--engine ray: ranks of torchrun or srun share the work by themselves"
    ):
        Workshop(SMOKE, Options(engine="ray"), Rank(0, 2))


# --- deaths


def by_hand(what: str, folder: Path, count: int, **settings: str) -> list[subprocess.Popen]:
    """Ranks that a launcher without an agent starts, or a user: nobody ends those of a dead one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    return [
        start([lonely.__file__, what, str(folder)], **settings, RANK=str(number)) for number in range(count)
    ]


def until_there(path: Path, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + LONGEST
    while not path.exists():
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["waits", "works", "sums"])
def test_D12_a_rank_without_agent_ends_when_another_is_killed_and_names_it(what, tmp_path):
    """While it waits for the dead one, works on something of its own for long, or takes steps with it."""
    processes = by_hand(what, tmp_path, 2)
    try:
        for number in range(2):
            until_there(tmp_path / str(number), processes)
        processes[1].kill()
        began = time.monotonic()
        _, err = processes[0].communicate(timeout=300)
        took = time.monotonic() - began
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    print(f"{what}: ended after {took:.1f} s")
    assert processes[0].returncode == 2, err
    (line,) = [line for line in err.splitlines() if line.startswith("reproduce.sh:")]
    assert (
        f"rank 1 of 2 ({locks.me().host}, PID {processes[1].pid}) has ended; what is finished is kept" in line
    )
    assert "Traceback" not in err and not list(tmp_path.glob(".ranks-*"))


def test_D12_ranks_end_with_their_killed_launcher(tmp_path):
    """torchrun puts its ranks into sessions of their own: killing its group leaves them."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    agent = start([*launcher, lonely.__file__, "works", str(tmp_path)])
    pids = []
    try:
        for number in range(2):
            until_there(tmp_path / str(number), [agent])
            pids.append(int((tmp_path / str(number)).read_text()))
        began = {pid: locks.born(pid) for pid in pids}
        agent.kill()
        deadline = time.monotonic() + 60
        while any(locks.born(pid) == began[pid] for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(locks.born(pid) == began[pid] for pid in pids)
        _, err = agent.communicate(timeout=300)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.kill()
        agent.communicate()
    for number in range(2):
        assert f"rank {number}: its launcher (PID {agent.pid}) has ended" in err


def test_D12_a_rank_that_never_comes_is_named(tmp_path):
    process, other = by_hand("waits", tmp_path, 2, FLOWCLIP_TEST_MEET="4")
    other.kill()
    other.communicate()
    try:
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 2 and "Traceback" not in err
    assert "reproduce.sh: rank 1 of 2 has not come within 4 s; all need the same launcher, --results" in err


def test_D12_a_rank_of_another_machine_is_dead_when_it_is_silent(tmp_path, monkeypatch):
    """Its machine may have lost its power, which closes no connection."""
    monkeypatch.setattr(locks, "BEAT", 0.2)
    monkeypatch.setenv("MASTER_ADDR", "node0")
    watch = ranks._Watch(tmp_path, Rank(0, 2))
    other = dataclasses.replace(locks.me(), host="node1", pid=7, machine="0" * 12)
    path = watch._locks[1].path
    path.write_text(json.dumps(dataclasses.asdict(other)))
    watch.met([locks.me(), other])
    assert watch._lost() == []
    then = time.time() - ranks.SILENT - 1
    os.utime(path, (then, then))
    assert watch._lost() == []  # a second look decides
    time.sleep(0.5)
    assert watch._lost() == [1] and watch._named([1]) == "rank 1 of 2 (node1, PID 7)"
    os.utime(path)
    assert watch._lost() == []  # it was the file system


def test_D12_a_rank_that_is_there_twice_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "node0")
    first = ranks._Watch(tmp_path, Rank(1, 2))
    first.begin()
    with pytest.raises(InputError, match=rf"^rank 1 of 2 is there twice .*PID {os.getpid()}"):
        ranks._Watch(tmp_path, Rank(1, 2)).begin()
    first.leave()
    assert not list(tmp_path.iterdir())


def test_D12_on_gpus_another_number_of_ranks_does_not_go_on(tmp_path):
    value = torch.nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.SGD([value], lr=0.1, momentum=0.9)
    optimiser.state[value]["momentum_buffer"] = torch.ones(2)
    path = tmp_path / "a.partial"
    state.write(path, {"v": value}, optimiser, [0.5, 0.25], [2], "run")
    assert state.resume(path, {"v": value}, optimiser, "run", 2) == ([0.5, 0.25], [2])
    there = torch.nn.Parameter(torch.zeros(2, device="meta"))
    with pytest.raises(
        InputError, match=r"a.partial: 2 steps .* by 2 ranks, and this call has 1: start it with 2, or"
    ):
        state.resume(path, {"v": there}, optimiser, "run", 1)
