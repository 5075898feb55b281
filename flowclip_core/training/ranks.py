"""One training on several GPUs or machines: each rank of torchrun or srun computes its share of every batch.

The loss has no term across videos, so a batch's gradient is the sum of its shares', however unequal they are, and that
sum is all that ranks need of each other. The main rank (number 0) decides, tests, writes and prints; the others follow.
Where there are no ranks, as in worker processes, everything here hands back what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from flowclip_core.data.extraction import Rank
from flowclip_core.errors import InputError

# Ranks wait for one that extracts or reports. One that dies is noticed at once: its connections close.
PATIENCE = timedelta(days=7)

Said = TypeVar("Said")


def start(rank: Rank, device: str, folder: Path) -> None:
    """Meet the other ranks. folder: shared by all; where they find each other when the launcher (srun) names no place.

    Raises InputError where they do not all compute on the same kind of device.
    """
    backend, place = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", None
    if "MASTER_ADDR" not in os.environ:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        folder.mkdir(parents=True, exist_ok=True)
        met = folder / f".ranks-{'.'.join(os.environ.get(name, '0') for name in names)}.part"
        place = dist.FileStore(str(met), rank.of)
    dist.init_process_group(backend, store=place, rank=rank.number, world_size=rank.of, timeout=PATIENCE)
    if device == "cpu":
        torch.set_num_threads(rank.cores)
    devices = [""] * rank.of
    with _reaching():
        dist.all_gather_object(devices, device)
    if len(set(devices)) > 1:
        raise InputError(
            f"{devices.count('cuda')} of {rank.of} ranks have a GPU: start one for each GPU, or all with --device cpu"
        )


def stop(failed: bool) -> None:
    """Part from the other ranks, when all have come so far or at once where something `failed`."""
    if together():
        if not failed:
            with _reaching():
                dist.all_reduce(torch.zeros(1))
        dist.destroy_process_group()


def together() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized()


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if together() else 1


def main() -> bool:
    """Whether this process is the one that decides and writes."""
    return not together() or dist.get_rank() == 0


def from_main(said: Said) -> Said:
    """What the main rank says; the others wait for it."""
    if not together():
        return said
    words = [said if main() else None]
    with _reaching():
        dist.broadcast_object_list(words, 0, device=torch.device("cpu"))
    return words[0]


def share(items: Sequence) -> Sequence:
    """This rank's share of an array or a range: every n-th from its number on. It may be empty."""
    return items[dist.get_rank() :: dist.get_world_size()] if together() else items


def follow(
    parameters: Iterable[Tensor], optimiser: torch.optim.Optimizer, first: int, losses: list[float]
) -> tuple[int, list[float]]:
    """Let all ranks begin with the main one's parameters and, when it resumes, its momentum, step and losses."""
    if not together():
        return first, losses
    first, losses = from_main((first, losses))
    for value in parameters:
        dist.broadcast(value.data, 0)
        if first:
            state = optimiser.state[value]
            dist.broadcast(state.setdefault("momentum_buffer", torch.zeros_like(value)), 0)
    return first, losses


def sum_gradients(parameters: Iterable[Tensor], loss: float, weight: float) -> float:
    """Put the whole batch's gradient in the place of its share's mean; returns the whole batch's loss.

    weight: how much of the batch the share is; with 0 neither gradients nor loss of this rank count.
    """
    if not together():
        return loss
    parameters = list(parameters)
    shares = [
        torch.zeros_like(value) if not weight or value.grad is None else value.grad * weight for value in parameters
    ]
    total = torch.cat([*(part.flatten() for part in shares), shares[0].new_tensor([loss * weight])])
    with _reaching():
        dist.all_reduce(total)
    *sums, loss = total.split([*(value.numel() for value in parameters), 1])
    for value, part in zip(parameters, sums, strict=True):
        value.grad = part.view_as(value)
    return loss.item()


def add(scores: Tensor) -> Tensor:
    """The sum of all ranks' scores."""
    if together():
        with _reaching():
            dist.all_reduce(scores)
    return scores


@contextmanager
def _reaching() -> Iterator[None]:
    """The others may be gone: the one that went says why."""
    try:
        yield
    except RuntimeError as error:
        raise InputError("another rank has ended; what is finished is kept: run the same command again") from error
