"""Numbers with their uncertainty: Student t intervals over runs, and differences paired by seed.

A tidy table has one row per run and metric (columns in `experiments.tidy.TIDY`); values are percent, 0..100.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # Student t quantile; scipy.stats takes seconds longer to import

from flowclip_core.errors import InputError

CELL = ["target", "profile", "dataset", "role", "variant", "k", "metric"]
RUN = ["dataset", "k", "seed", "split", "views"]


def t_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student t interval (mean, low, high) of independent runs; one run has no interval (nan, nan).

    With few seeds a bootstrap or 1.96 standard errors covers about 75 % instead of 95 %; t keeps its level.
    Raises ValueError for no value or one that is not finite.
    """
    x = np.fromiter(values, dtype=float)
    if not x.size or not np.isfinite(x).all():
        raise ValueError(f"an interval needs at least one finite value, got {x.tolist()}")
    if x.size == 1:
        return float(x[0]), math.nan, math.nan
    half = stdtrit(x.size - 1, (1 + level) / 2) * x.std(ddof=1) / math.sqrt(x.size)
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def summarise(tidy: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """One row per (target, profile, dataset, role, variant, k, metric): n, mean, sd, low, high, paper.

    n counts runs; low and high bound the 95 % Student t interval over them; paper is the printed value of the
    same role, variant, k and metric, or nan. Raises InputError when a run appears twice.
    """
    _refuse_duplicates(tidy)
    rows = []
    for cell, runs in tidy.groupby(CELL, sort=False):
        values = runs["value"].round(4)  # as stored, so that a table is the same before and after saving
        mean, low, high = t_interval(values)
        rows.append([*cell, len(values), mean, values.std(ddof=1), low, high])
    summary = pd.DataFrame(rows, columns=[*CELL, "n", "mean", "sd", "low", "high"])
    keys = {"dataset": "role", "method": "variant", "k": "k", "metric": "metric"}
    printed = paper.rename(columns=keys | {"value": "paper"})[[*keys.values(), "paper"]]
    return summary.merge(printed, on=list(keys.values()), how="left", validate="many_to_one")


def paired_difference(tidy: pd.DataFrame, variant: str, reference: str, metric: str = "top1") -> pd.DataFrame:
    """What `variant` gains over `reference` in percentage points, paired by run; one row per (dataset, k).

    Runs that share a seed share the draw of training videos, so the difference is free of the draw's spread.
    Columns: dataset, k, variant, reference, metric, n (pairs), mean, low, high (95 % Student t), wins (pairs
    with a positive difference). Raises InputError when no run of the two shares a seed.
    """
    _refuse_duplicates(tidy)
    scores = tidy[tidy["metric"] == metric]
    pairs = scores[scores["variant"] == variant].merge(
        scores[scores["variant"] == reference], on=RUN, suffixes=("", "_reference")
    )
    if pairs.empty:
        raise InputError(
            f"no run of «{variant}» shares a seed with «{reference}» for metric {metric}; "
            f"present variants: {', '.join(sorted(scores['variant'].unique())) or 'none'}"
        )
    pairs["gain"] = (pairs["value"] - pairs["value_reference"]).round(4)
    rows = []
    for (dataset, k), runs in pairs.groupby(["dataset", "k"]):
        wins = int((runs["gain"] > 0).sum())
        rows.append([dataset, k, variant, reference, metric, len(runs), *t_interval(runs["gain"]), wins])
    names = ["dataset", "k", "variant", "reference", "metric", "n", "mean", "low", "high", "wins"]
    return pd.DataFrame(rows, columns=names)


def _refuse_duplicates(tidy: pd.DataFrame) -> None:
    run = [*CELL, "seed", "split", "views"]
    twice = tidy[tidy.duplicated(run)]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(
            f"results hold {row['metric']} of {row['variant']} on {row['dataset']}, k={row['k']}, "
            f"seed {row['seed']} twice; expected one row per run and metric, remove the older one"
        )
