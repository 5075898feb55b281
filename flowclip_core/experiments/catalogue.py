"""The experiments: each table and panel of the paper as a function that returns its cells (read it beside the paper).

A cell is one training and its test, with its place in the table. A variant changes the switches, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from flowclip_core.config import ModelConfig, Profile, RunConfig

# Rows of Tables 4 and 5, in the paper's order.
VARIANTS: dict[str, dict[str, bool]] = {
    "baseline": {"mmb": False, "map": False, "mcb": False},
    "mcb": {"mmb": False, "map": False, "mcb": True},
    "mmb": {"mmb": True, "map": False, "mcb": False},
    "mmb+map": {"mmb": True, "map": True, "mcb": False},
    "full": {"mmb": True, "map": True, "mcb": True},
}
# The CLIP row of Table 1 and Figure 3a: hand-crafted prompt, mean of the frame features, nothing trained.
CLIP = ModelConfig(mmb=False, map=False, mcb=False, spatial=False)


@dataclass(frozen=True)
class Cell:
    """One run and where it belongs. keep: its trained weights are saved beside its record."""

    role: str
    variant: str
    config: RunConfig
    keep: bool = False


@dataclass(frozen=True)
class Target:
    """One table or panel: what it asks, and its cells under a profile."""

    title: str
    about: str
    roles: tuple[str, ...]
    cells: Callable[[Profile], list[Cell]]


def table5(profile: Profile) -> list[Cell]:
    """Few-shot (section 4.3): five variants, k videos a class by seeded lists from split-1 train, split-1 test."""
    cells = []
    for role, dataset in profile.roles.items():
        base = RunConfig(
            dataset, k=None, seed=0, train=None, model=CLIP, evaluation=profile.evaluation, backbone=profile.backbone
        )
        cells.append(Cell(role, "clip", base))
        for variant, switches in VARIANTS.items():
            for k in profile.shots:
                for seed in range(profile.seeds):
                    config = replace(base, k=k, seed=seed, train=profile.few_shot, model=ModelConfig(**switches))
                    keep = variant == "full" and k == profile.shots[-1] and seed == 0
                    cells.append(Cell(role, variant, config, keep))
    return cells


TARGETS = {
    "table5": Target(
        "Table 5: few-shot",
        "five variants trained on k = 2, 4, 8, 16 videos a class",
        ("HMDB-51", "UCF-101"),
        table5,
    ),
}
