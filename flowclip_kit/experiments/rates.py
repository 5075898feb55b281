"""How a profile's learning rates were chosen: on training videos set aside, never on the test.

    python -m flowclip_kit.experiments.rates [--record]

A third of the training videos of each class is set aside; every variant is trained at every rate on k of the
others (few-shot) or on all of them (closed-set), and scored on what was set aside. Few-shot tests are of
split 1 alone, so split 1's training videos serve; closed-set ones are of all splits, so only videos that no
split tests do. One rate serves all variants of a protocol: the one with the highest mean over variants, k and
data sets.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import pandas as pd

from flowclip_kit.experiments import hashed, runs
from flowclip_kit.experiments.catalogue import FIVE, RATE_SEED, VARIANTS, Cell, grid
from flowclip_kit.experiments.experiment import Experiment, Options, resolve
from flowclip_kit.profiles import PROFILES, Profile

RATES = (0.0015, 0.005, 0.015, 0.05, 0.1, 0.2, 0.4)
SHOTS = (4, 16)


def trials(profile: Profile, rates: tuple[float, ...] = RATES) -> list[Cell]:
    """Every variant at every rate, few-shot and closed-set, one seed, tested on videos set aside."""
    cells = []
    for rate in rates:
        cells += grid(
            profile, datasets=tuple(profile.roles), variants=FIVE, k=(*SHOTS, None), lr=rate, seeds=1
        )
    return [
        replace(cell, config=replace(cell.config, seed=RATE_SEED, held_out=True), keep=False)
        for cell in cells
    ]


def sweep(profile: str, options: Options) -> pd.DataFrame:
    """One row per data set, variant, k (0: all training videos) and rate: top-1 on the videos set aside,
    percent."""
    chosen = resolve(profile, "table5", options)
    with runs.Workshop(chosen, options) as workshop:
        workshop.open(chosen.roles.values())
        cells = trials(chosen)
        workshop.make(cells, "learning rates")
        found = workshop.tidy(Experiment("rates", chosen), workshop.sound(cells))
    found = found.loc[found["metric"] == "top1", ["dataset", "variant", "k", "lr", "value"]]
    return found.rename(columns={"lr": "rate", "value": "top1"}).sort_values(
        ["dataset", "variant", "k", "rate"]
    )


def mean_by_rate(part: pd.DataFrame) -> pd.Series:
    """Mean top-1 by rate, of the rates with as many scores as any other has: where a run failed is not the
    best."""
    found = part.groupby("rate")["top1"].agg(["mean", "count"])
    return found.loc[found["count"] == found["count"].max(), "mean"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo", choices=sorted(PROFILES))
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--record", action="store_true", help="keep the table in results/recorded")
    asked = parser.parse_args()
    profile = PROFILES[asked.profile]
    found = sweep(asked.profile, Options(jobs=asked.jobs))
    for name, part, used in (
        ("few-shot", found[found["k"] > 0], profile.few_shot.lr),
        ("closed-set", found[found["k"] == 0], profile.closed_set.lr),
    ):
        print(f"{name}, top-1 on videos set aside, by rate")
        print(part.pivot_table("top1", "variant", "rate").reindex(list(VARIANTS)).round(1).to_string())
        means = mean_by_rate(part)
        print(
            f"mean: {means.round(1).to_dict()}; highest at {means.idxmax()}; profile {asked.profile} uses"
            f" {used}\n"
        )
    if asked.record:
        hashed.record("rates", asked.profile, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
