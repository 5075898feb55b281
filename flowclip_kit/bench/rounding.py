"""How far a run moves when it is rounded otherwise, as other hardware or code does.

    ./reproduce.sh bench rounding [--record]

Cells of the demo's Table 5 are trained again with every initial weight nudged by about its last bit, a
relative 1e-7, several times. What differs then from the run that is not nudged comes from rounding alone:
features, draws, order and seeds are the same. --record also writes results/recorded/demo/rounding.csv, by
which `./reproduce.sh verify --rerun N` judges, and a sentence of notebooks/protocols.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from flowclip_core.files import write_atomically
from flowclip_kit import readme_parts
from flowclip_kit.bench import _common as common
from flowclip_kit.experiments import rerun
from flowclip_kit.experiments.catalogue import table5
from flowclip_kit.experiments.experiment import Options, resolve
from flowclip_kit.experiments.runs import Task, Workshop, train_and_test
from flowclip_kit.paths import root

CELLS = (("baseline", 16), ("mcb", 16), ("mmb", 16), ("full", 4), ("full", 16))  # variant, k
SIZE = 1e-7


def nudge(model: Any, seed: int, size: float = SIZE) -> None:
    """Change every trained weight by a relative `size` up or down, drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.trained().values():
            signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
            value.mul_(1 + size * signs.to(value))


def nudged(task: Task, seed: int | None) -> dict:
    """The record of a run whose initial weights are nudged, or not where the seed is None."""
    return train_and_test(task, lambda model: None if seed is None else nudge(model, seed))


def measure(profile: str, nudges: int) -> pd.DataFrame:
    """A row for each nudge of each cell: how far top-1 moves in points, and the share of equal answers."""
    chosen = resolve(profile, "table5", Options(dataset="figures-h"))
    with (
        tempfile.TemporaryDirectory() as folder,
        Workshop(chosen, Options(results=Path(folder), device="cpu")) as workshop,
    ):
        workshop.open(chosen.roles.values())
        workshop.folder.mkdir(parents=True)
        found = {
            (cell.variant, cell.config.k): cell.config
            for cell in table5(chosen, k=tuple({k for _, k in CELLS}))
            if cell.config.seed == 0
        }
        cells = {place: found[place] for place in CELLS}
        tasks = [
            (workshop.task(config), seed) for config in cells.values() for seed in (None, *range(nudges))
        ]
        made = {(task.config, seed): record for (task, seed), record in workshop.pool.map(nudged, tasks)}
    rows = []
    for (variant, k), config in cells.items():
        plain = made[config, None]
        for seed in range(nudges):
            moved = rerun.compare(plain, made[config, seed])
            about = {"dataset": config.dataset, "variant": variant, "k": k, "nudge": seed}
            rows.append(about | {"top1": plain["scores"]["top1"], "moved": moved.top1, "equal": moved.equal})
    return pd.DataFrame(rows)


def as_text(found: pd.DataFrame) -> str:
    """The cells as a text: how far the nudges move each."""
    lines = [
        f"figures-h, {found['nudge'].nunique()} nudges of {SIZE:g} a cell, top-1 in points, on"
        f" {torch.backends.cpu.get_cpu_capability()}",
        f"{'variant':10} {'k':>3} {'top-1':>7} {'sd of moves':>12} {'largest':>8} {'equal answers, %':>17}",
    ]
    for (variant, k), own in found.groupby(["variant", "k"], sort=False):
        lines.append(
            f"{variant:10} {k:>3} {own['top1'].iloc[0]:>7.2f} {(own['moved'] ** 2).mean() ** 0.5:>12.2f}"
            f" {own['moved'].abs().max():>8.2f} {own['equal'].mean():>17.1f}"
        )
    return "\n".join(lines)


def main() -> int:
    """The command line."""

    def run(options: common.Options) -> str:
        found = measure(options.profile, options.nudges)
        if options.record:
            text = found.to_csv(index=False, float_format="%.4f", lineterminator="\n")
            write_atomically(root() / rerun.ROUNDING, text)
            said = readme_parts.rounding(pd.read_csv(root() / rerun.ROUNDING))  # as `verify` finds it
            common.between(root() / "notebooks" / "protocols.md", readme_parts.ROUNDING, said)
        return as_text(found)

    options: dict[str, dict[str, Any]] = {
        "--nudges": {"type": int, "default": 5, "help": "of each cell (default: 5)"},
        "--profile": {"default": "demo", "choices": ("demo", "smoke")},
    }
    return common.run("rounding", run, options)


if __name__ == "__main__":
    sys.exit(main())
