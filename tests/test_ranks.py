"""Ranks of torchrun and srun, two and three of them, against one process: gradients, weights, losses, scores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import together
import torch
from conftest import ROOT
from safetensors.torch import load_file

from flowclip_core.config import SMOKE
from flowclip_core.data.extraction import Rank
from flowclip_core.errors import InputError
from flowclip_core.experiments.runs import Options, Workshop
from flowclip_core.experiments.towers import one_gpu
from flowclip_core.training import ranks

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
    environment = os.environ | settings | {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(together.__file__).parent}"}
    return subprocess.Popen(
        [sys.executable, "-P", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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
        ranks.share_evenly(two) is two and ranks.join(two, 2) is two and ranks.any_of(True) and not ranks.any_of(False)
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
    with pytest.raises(InputError, match="--engine ray: ranks of torchrun or srun share the work by themselves"):
        Workshop(SMOKE, Options(engine="ray"), Rank(0, 2))
