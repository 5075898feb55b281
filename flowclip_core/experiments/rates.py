"""How a profile's learning rate was chosen: on held-out training videos, never on the test.

    python -m flowclip_core.experiments.rates [--record]

A third of the training videos of each class is set aside; every variant is trained at every rate on k of the others
and scored on what was set aside. One rate serves all variants: the one with the highest mean over variants, k and
data sets.
"""

from __future__ import annotations

import argparse
import functools
from contextlib import closing
from dataclasses import replace

import numpy as np
import pandas as pd

from flowclip_core.config import PROFILES
from flowclip_core.data.datasets import Dataset, Split, Video
from flowclip_core.data.features import StoreConfig, ensure_features
from flowclip_core.experiments import runs
from flowclip_core.experiments.catalogue import VARIANTS, Cell
from flowclip_core.experiments.catalogue import table5 as few_shot_cells
from flowclip_core.paths import root, write_atomically
from flowclip_core.workers import Pool, default_jobs

RATES = (0.0015, 0.005, 0.015, 0.05, 0.1, 0.2)
SHOTS = (4, 16)
SEED = 100  # none of the grid's seeds


def hold_out(dataset: Dataset) -> Dataset:
    """The data set with a third of each class's training videos, drawn by seed, in the place of its test videos."""
    videos = dataset.splits[1].train
    kept: list[Video] = []
    held: list[Video] = []
    for label in range(len(dataset.classes)):
        own = [video for video in videos if video.label == label]
        order = np.random.default_rng([SEED, label]).permutation(len(own))
        held += [own[i] for i in order[: len(own) // 3]]
        kept += [own[i] for i in order[len(own) // 3 :]]
    return replace(dataset, splits={1: Split(tuple(kept), tuple(held))})


def sweep(profile: str, jobs: int) -> pd.DataFrame:
    """One row per data set, variant, k and rate: top-1 on the videos set aside, in percent."""
    chosen = runs.resolve(profile, "table5", runs.Options())
    weights, device = runs.weights_hash(chosen.backbone), runs.pick_device("auto")
    store_config = StoreConfig(weights, chosen.frames_stored, chosen.store_crops)
    with Pool(jobs) as pool:
        sets, stores = {}, {}
        for name in chosen.roles.values():
            whole = runs.open_dataset(name, runs.Options(), jobs)
            load = functools.partial(runs.load_once, chosen.backbone, device)
            stores[name], sets[name] = ensure_features(whole, store_config, load, pool).folder, hold_out(whole)
        plain = replace(chosen.evaluation, controls=False)
        tasks = []
        for rate in RATES:
            settings = replace(
                chosen, shots=SHOTS, seeds=1, evaluation=plain, few_shot=replace(chosen.few_shot, lr=rate)
            )
            for cell in few_shot_cells(settings):
                if cell.config.train:
                    cell = replace(cell, config=replace(cell.config, seed=SEED), keep=False)
                    name = cell.config.dataset
                    tasks.append((cell, sets[name], stores[name], device))
        rows = []
        with closing(runs.Bar("learning rates", "runs", total=len(tasks))) as bar:
            for (cell, *_), top1 in pool.map(_try, tasks):
                config = cell.config
                rows.append([config.dataset, cell.variant, config.k, config.train.lr, top1])
                bar.add(1)
    return pd.DataFrame(rows, columns=["dataset", "variant", "k", "rate", "top1"])


def _try(cell: Cell, dataset: Dataset, store, device: str) -> float:
    record = runs.train_and_test(cell, "", None, dataset, runs.open_store(store), device, memory=4.0)
    return record["scores"]["top1"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo", choices=sorted(PROFILES))
    parser.add_argument("--jobs", type=int, default=default_jobs())
    parser.add_argument("--record", action="store_true", help="keep the table in results/recorded")
    asked = parser.parse_args()
    found = sweep(asked.profile, asked.jobs).sort_values(["dataset", "variant", "k", "rate"])
    by_variant = found.pivot_table("top1", "variant", "rate").reindex(list(VARIANTS))
    print(by_variant.round(1).to_string())
    means = found.groupby("rate")["top1"].mean()
    print(f"mean of all: {means.round(1).to_dict()}")
    print(f"highest at {means.idxmax()}; profile {asked.profile} uses {PROFILES[asked.profile].few_shot.lr}")
    if asked.record:
        text = found.to_csv(index=False, float_format="%.4f", lineterminator="\n")
        write_atomically(root() / "results" / "recorded" / asked.profile / "rates.csv", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
