"""Which of several processes this is: started by torchrun, by srun, or told its share."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from flowclip_core.errors import InputError
from flowclip_kit.distributed import process_pool


@dataclass(frozen=True)
class Rank:
    """One process out of `of` that work together. local: its number on this machine, out of `beside`.

    bound: the launcher gave each of them cores of its own.
    """

    number: int = 0
    of: int = 1
    local: int = 0
    beside: int = 1
    bound: bool = False

    @property
    def cores(self) -> int:
        """This process' share of the cores."""
        mine, share = process_pool.default_jobs(), max(1, (os.cpu_count() or 1) // self.beside)
        return min(mine, share) if self.bound else max(1, mine // self.beside)


def rank(shard: str | None, environment: Mapping[str, str]) -> Rank:
    """Which share is ours: `--shard i/n` (i from 1 to n), else torchrun's, SLURM's (srun) or that of another
    launcher which sets torchrun's variables, else all.

    Raises InputError for another form of `shard`.
    """
    if shard is not None:
        match = re.fullmatch(r"(\d+)/(\d+)", shard)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard {shard!r}: expected i/n with i from 1 to n, like 1/4")
        return Rank(int(match[1]) - 1, int(match[2]))
    # Set by torchrun; by srun for each task of a step (a batch script alone has no number of a step).
    for names, starter in (
        (("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "TORCHELASTIC_RUN_ID"),
        (
            ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
            "SLURM_STEP_ID",
        ),
    ):
        numbers = [int(match[0]) for name in names if (match := re.match(r"\d+", environment.get(name, "")))]
        if starter in environment and len(numbers) == len(names):
            number, of, local, beside = numbers
            return Rank(number, of, local, beside, bound=starter == "SLURM_STEP_ID")
    world = [environment.get(name, "") for name in ("RANK", "WORLD_SIZE")]
    if environment.get("MASTER_ADDR") and all(map(str.isdigit, world)):
        machine = [environment.get(name, "") for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE")]
        local, beside = map(int, machine) if all(map(str.isdigit, machine)) else (0, 1)
        return Rank(int(world[0]), int(world[1]), local, beside)
    return Rank()
