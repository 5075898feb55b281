"""One training on several GPUs or machines: each rank of torchrun or srun computes some of a batch's trees.

Nearly all of a step's time goes into the prompt trees of its videos, each computed as if it were alone. The
ranks exchange the results and all do the small rest, so that a training has the same bits on a CPU however
many ranks there are. The main rank (number 0) decides, tests, writes and prints; the others follow. Without
ranks, as in worker processes, every function here returns what it was given.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from flowclip_core.errors import InputError
from flowclip_kit.distributed import locks
from flowclip_kit.distributed.locks import Lock, Owner
from flowclip_kit.distributed.rank import Rank

# Ranks wait for one that extracts or reports, however long that takes; `_Watch` ends them when it dies.
PATIENCE = timedelta(days=7)
# Seconds: within which all must have come, between looks at the others, without a sign of life of one on
# another machine, and which a rank has to end by itself once another is gone.
MEET, LOOK, SILENT, GRACE = 600.0, 2.0, 60.0, 10.0
KEPT = "what is finished is kept: run the same command again"

Said = TypeVar("Said")


def start(rank: Rank, device: str, folder: Path) -> None:
    """Meet the other ranks. folder: shared by all; where they see each other, and find each other when the
    launcher (srun) names no place.

    Raises InputError where they do not all compute on the same kind of device, or one is there twice.
    """
    global _watch
    folder.mkdir(parents=True, exist_ok=True)
    _watch = _Watch(folder, rank)
    _watch.begin()
    backend, place = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", None
    if "MASTER_ADDR" not in os.environ:
        place = dist.FileStore(str(_watch.place), rank.of)
    with _reaching():
        dist.init_process_group(backend, store=place, rank=rank.number, world_size=rank.of, timeout=PATIENCE)
    if device == "cpu":
        torch.set_num_threads(1)  # as in worker processes; micro-batches take the other cores
    said = [("", locks.me())] * rank.of
    with _reaching():
        dist.all_gather_object(said, (device, locks.me()))
    _watch.met([owner for _, owner in said])
    devices = [device for device, _ in said]
    if len(set(devices)) > 1:
        raise InputError(
            f"{devices.count('cuda')} of {rank.of} ranks have a GPU: start one for each GPU, or all with"
            " --device cpu"
        )


def stop(failed: bool) -> None:
    """Part from the other ranks, when all have come so far or at once where something `failed`."""
    global _watch
    try:
        if together():
            if not failed:
                with _reaching():
                    dist.all_reduce(torch.zeros(1))
                    if _watch:
                        _watch.end()  # before anyone goes: nobody takes that for a death
                    dist.all_reduce(torch.zeros(1))
            dist.destroy_process_group()
    finally:
        if _watch:
            _watch.leave()
            _watch = None


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
    box = [said]
    with _reaching():
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
    return box[0]


def share(items: Sequence) -> Sequence:
    """This rank's share of an array or a range: every n-th from its number on. It may be empty."""
    return items[dist.get_rank() :: dist.get_world_size()] if together() else items


def share_evenly(items: Tensor) -> Tensor:
    """This rank's share of a tensor's rows, as many as every other's: the last row fills up what is short."""
    if not together():
        return items
    each = -(-len(items) // count())
    mine = torch.arange(each, device=items.device) * count() + dist.get_rank()
    return items[mine.clamp(max=len(items) - 1)]


def join(mine: Tensor, rows: int) -> Tensor:
    """What all ranks made of their shares (`share_evenly`) of so many rows, in the rows' order."""
    if not together():
        return mine
    parts = [torch.empty_like(mine) for _ in range(count())]
    with _reaching():
        dist.all_gather(parts, mine.contiguous())
    return torch.stack(parts, 1).flatten(0, 1)[:rows]


def gather(passes: Callable[[Tensor], Iterable[tuple[Tensor, ...]]], videos: Tensor) -> list[Tensor]:
    """What passes of the prompt tree give for all videos; each rank computes its share of them.

    A pass that has no room in one rank raises NoRoom in all.
    """
    from flowclip_core.training.loop import Alone, NoRoom, out_of_memory

    if not together():
        return Alone.gather(passes, videos)
    results: list[Tensor] = []
    shortage = None
    try:
        results = Alone.gather(passes, share_evenly(videos))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        shortage = NoRoom(str(error))
    if any_of(shortage is not None):
        raise shortage or NoRoom("not enough memory in another rank")
    return [join(value, len(videos)) for value in results]


def any_of(mine: bool) -> bool:
    """Whether it is so in any of the ranks."""
    if not together():
        return mine
    found = torch.tensor(int(mine))
    with _reaching():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def follow(
    parameters: Iterable[Tensor], optimiser: torch.optim.Optimizer, losses: list[float], counts: list[int]
) -> tuple[list[float], list[int]]:
    """Let all ranks begin with the main one's parameters and, when it resumes, its momentum and what it knows
    of the steps that are done."""
    if not together():
        return losses, counts
    losses, counts = from_main((losses, counts))
    with _reaching():
        for value in parameters:
            dist.broadcast(value.data, 0)
            if losses:
                state = optimiser.state[value]
                dist.broadcast(state.setdefault("momentum_buffer", torch.zeros_like(value)), 0)
    return losses, counts


def gradients_of_main(parameters: Iterable[Tensor], loss: float) -> float:
    """Let all ranks take the step of the main one, whose loss is returned: what machines round apart would
    grow."""
    if not together():
        return loss
    parameters = list(parameters)
    grads = [torch.zeros_like(value) if value.grad is None else value.grad for value in parameters]
    whole = torch.cat([*(grad.flatten() for grad in grads), grads[0].new_tensor([loss])])
    with _reaching():
        dist.broadcast(whole, 0)
    if main():
        return loss
    *grads, last = whole.split([*(value.numel() for value in parameters), 1])
    for value, grad in zip(parameters, grads, strict=True):
        value.grad = grad.view_as(value)
    return last.item()


def add(scores: Tensor) -> Tensor:
    """The sum of all ranks' scores."""
    if together():
        with _reaching():
            dist.all_reduce(scores)
    return scores


@contextmanager
def _reaching() -> Iterator[None]:
    """The others may be gone: the watch knows which."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(f"{_watch.gone_one() if _watch else 'another rank'} has ended; {KEPT}") from error


# --- the watch ----------------------------------------------------------------------------------------------


class _Watch:
    """A thread that sees the other ranks die, whatever this one is at, and ends this one with a line that
    names them.

    Every rank holds a lock beside the results, which others look at: a dead rank's is a dead owner's. `job`
    names it.
    """

    def __init__(self, folder: Path, rank: Rank) -> None:
        names = ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"]
        names += ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"]
        values = [os.environ.get(name, "") for name in names]
        if os.environ.get("MASTER_ADDR") in ("localhost", "127.0.0.1", "::1"):
            values.append(socket.gethostname())
        self.job, self.rank = hashlib.sha256(" ".join(values).encode()).hexdigest()[:12], rank
        self.folder, self.place = folder, folder / f".ranks-{self.job}.part"
        self._locks = [Lock(folder / f".ranks-{self.job}.{number}.lock") for number in range(rank.of)]
        self.lock = self._locks[rank.number]
        self._owners: dict[int, Owner] = {}  # of the others, once they have come
        self._suspected: dict[int, float] = {}
        self._gone: list[int] = []
        self._began, self._all_met = time.monotonic(), False
        self._news, self._over = threading.Event(), threading.Event()

    def begin(self) -> None:
        for left in self.folder.glob(".ranks-*.lock"):
            locks.clear(left)
        if not self.lock.take():
            raise InputError(
                f"rank {self.rank.number} of {self.rank.of} is there twice ({self.lock.held.holder})"
            )
        threading.Thread(target=self._look_on, daemon=True, name="ranks").start()

    def met(self, owners: list[Owner]) -> None:
        """All have come: these."""
        self._owners |= {number: owner for number, owner in enumerate(owners) if number != self.rank.number}
        self._all_met = True

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def leave(self) -> None:
        """Let the others see that this rank is gone."""
        self.end()
        self.lock.release()
        for number in self._gone:
            locks.clear(self._locks[number].path)
        if self._all_met:
            self.place.unlink(missing_ok=True)

    def gone_one(self) -> str:
        """The ranks that are gone, once it is known which."""
        self._news.wait(SILENT + 3 * LOOK + 20)
        return self._named(self._gone) if self._gone else "another rank"

    def _look_on(self) -> None:
        while not self._over.wait(LOOK):
            lost = []
            with suppress(OSError):  # what cannot be seen now may be seen with the next look
                lost = self._lost()
            if lost:
                self._gone = lost
                self._news.set()
                # The connections to it break, which ends this rank in order; unless it is at something else.
                if not self._over.wait(GRACE):
                    self._end(f"{self._named(lost)} has ended; {KEPT}")
            elif not self._all_met and time.monotonic() - self._began > MEET:
                missing = [
                    number
                    for number in range(self.rank.of)
                    if number not in (self.rank.number, *self._owners)
                ]
                self._end(
                    f"{self._named(missing) if missing else 'not every rank'} has not come within"
                    f" {MEET:.0f} s; all need the same launcher, --results and FLOWCLIP_CACHE"
                )

    def _lost(self) -> list[int]:
        """The ranks that had come and are gone."""
        lost = []
        for number, lock in enumerate(self._locks):
            if number == self.rank.number:
                continue
            owner = lock.owner()
            if number not in self._owners:
                if owner and not (owner.ours and not owner.alive):
                    self._owners[number] = owner
            elif self._owners[number].ours:
                if not self._owners[number].alive or (self._all_met and owner is None):
                    lost.append(number)
            elif owner is not None and lock.silent() < SILENT:
                self._suspected.pop(number, None)
            elif time.monotonic() - self._suspected.setdefault(number, time.monotonic()) > 2 * locks.BEAT:
                lost.append(number)  # silent for a second look: the file system may have been
        return lost

    def _named(self, numbers: list[int]) -> str:
        who = {number: f" ({owner})" for number, owner in self._owners.items()}
        return " and ".join(f"rank {number} of {self.rank.of}{who.get(number, '')}" for number in numbers)

    def _end(self, line: str) -> None:
        number = self.rank.number
        print(f"reproduce.sh: {f'rank {number}: ' * bool(number)}{line}", file=sys.stderr, flush=True)
        self.leave()
        locks.release_all()
        os._exit(2)


_watch: _Watch | None = None
