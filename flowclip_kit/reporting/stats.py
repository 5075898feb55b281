"""Numbers with their uncertainty: Student t intervals over seeds, bootstrap intervals over test videos.

The two answer different questions and are never pooled: would another draw of training videos and weights
change the number, and would other test videos. A tidy table has one row per run and metric (columns in
`experiments.results_table.TIDY`), values in percent; hits are a run's key -> top-1 right or wrong, bool
(videos,).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit  # scipy.stats takes seconds longer to import

from flowclip_core.errors import InputError

CELL = ["target", "profile", "dataset", "role", "trained_on", "variant", "k", "metric"]
SUMMARY = [*CELL, "n", "splits", "mean", "sd", "low", "high", "split_sd", "video_low", "video_high", "paper"]
GROUP = ["dataset", "role", "trained_on", "k"]
DIFFERENCE = "variant reference metric n mean low high video_low video_high wins".split()

Hits = dict[str, np.ndarray]


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


def bootstrap_interval(
    values: Sequence[float] | Sequence[np.ndarray], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and bootstrap interval (mean, low, high) over test videos, in the units given.

    values: one number a video (N,), a score or a paired difference averaged over seeds; or a list of such
    arrays, one a split, each resampled by itself: then of the mean of the splits' means. Splits count as
    separate videos; where their lists overlap the interval is too narrow. One video has no interval (nan,
    nan); values that are all equal show no spread to resample and give one of zero width, which is not
    certainty.

    Quantiles of the resampled means, at levels widened for N as t widens them and shifted half as far as
    BCa's acceleration (Efron 1987, bias correction and acceleration from the skewness of the values) would
    shift them. From 100 to 4,000 videos, hit rates of 5 to 95 % and differences that are mostly zero it
    covers 93-97 %; of one run's hits, all 0 or 1, up to 98 %. At 100 videos the plain percentile, without a
    shift, covers 92 % where few videos hit, the basic and normal ones 88 %, BCa and the studentised 90 %
    where few videos differ and 98 % where
    few hit: the skewness of a handful of videos is itself noise.
    Raises ValueError for no value or one that is not finite.
    """
    splits = [
        np.asarray(x, dtype=float) for x in ([values] if len(values) and np.ndim(values[0]) == 0 else values)
    ]
    if not splits or not all(x.size and np.isfinite(x).all() for x in splits):
        raise ValueError(f"an interval needs finite values of at least one video a split, got {values!r}")
    mean = float(np.mean([x.mean() for x in splits]))
    free = sum(x.size for x in splits) - len(splits)
    if not free:
        return mean, math.nan, math.nan
    if not any(np.ptp(x) for x in splits):
        return mean, mean, mean
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(x, draws, rng) for x in splits], axis=0)
    off = [(x - x.mean()) / x.size for x in splits]
    skew = sum((x**3).sum() for x in off) / sum((x**2).sum() for x in off) ** 1.5
    half_acceleration = skew / 6 / 2
    reach = stdtrit(free, (1 + level) / 2) * math.sqrt(1 + len(splits) / free)
    normal = half_acceleration + np.array([-reach, reach])
    low, high = np.quantile(means, ndtr(half_acceleration + normal / (1 - half_acceleration * normal)))
    return mean, float(low), float(high)


def summarise(tidy: pd.DataFrame, paper: pd.DataFrame, hits: Hits | None = None) -> pd.DataFrame:
    """One row per (target, profile, dataset, role, trained_on, variant, k, metric), columns `SUMMARY`.

    A seed's value is its mean over splits. n counts seeds; mean, sd and the 95 % Student t interval low..high
    are over them (nan for one seed). split_sd: mean over seeds of the sd over splits (nan for one split).
    video_low, video_high: 95 % bootstrap interval over test videos of top1 averaged over seeds; nan for other
    metrics and without hits. paper: the printed value of the same target, role, trained_on, variant, k and
    metric, or the one derived from print; else nan.
    Raises InputError when a run appears twice, a seed lacks a split that another has, or hits do not fit.
    """
    tidy = tidy.assign(value=tidy["value"].round(4))  # as stored: a table is the same before and after saving
    _demand_each_seed_on_each_split(tidy, CELL)
    videos = {}
    if hits is not None:
        for cell, runs in tidy[tidy["metric"] == "top1"].groupby(CELL, sort=False, dropna=False):
            videos[cell] = _video_interval([_hits_of(hits, key) for key in runs["key"]], runs["split"])
    seeds = tidy.groupby([*CELL, "seed"], sort=False, dropna=False)["value"].agg(["mean", "std", "size"])
    rows = []
    for cell, values in seeds.groupby(CELL, sort=False, dropna=False):
        mean, low, high = t_interval(values["mean"])
        row = [
            len(values),
            values["size"].iloc[0],
            mean,
            values["mean"].std(),
            low,
            high,
            values["std"].mean(),
        ]
        rows.append([*cell, *row, *videos.get(cell, (math.nan, math.nan))])
    summary = pd.DataFrame(rows, columns=SUMMARY[:-1])
    printed = paper[paper["source"] != "printed competitor"]
    printed = printed.rename(
        columns={"table": "target", "dataset": "role", "method": "variant", "value": "paper"}
    )
    keys = [name for name in CELL if name not in ("profile", "dataset")]
    return summary.merge(printed[[*keys, "paper"]], on=keys, how="left", validate="many_to_one")[SUMMARY]


def paired_difference(
    tidy: pd.DataFrame, variant: str, reference: str, metric: str = "top1", hits: Hits | None = None
) -> pd.DataFrame:
    """What `variant` gains over `reference` in percentage points, one row per (dataset, role, trained_on, k).

    Runs that share a seed share the draw of training videos, so the difference is free of the draw's spread;
    each seed's is averaged over splits. A reference without training (trained_on empty) has no draw: its one
    run a split is compared with every seed, k and training set of the variant. Otherwise both are trained on
    the same.
    Columns: `GROUP`, then variant, reference, metric, n (seeds), mean, low, high (95 % Student t), video_low,
    video_high (95 % bootstrap over test videos of the difference averaged over seeds; top1 with hits, else
    nan), wins (seeds with a positive difference).
    Raises InputError when nothing pairs, a run appears twice, a seed lacks a split, or hits do not fit.
    """
    scores = tidy[tidy["metric"] == metric]
    ours, theirs = (scores[scores["variant"] == name] for name in (variant, reference))
    trained = theirs["trained_on"] != ""
    test = ["dataset", "role", "split", "views"]
    pairs = pd.concat(
        [
            ours.merge(theirs[trained], on=[*test, "trained_on", "k", "seed"], suffixes=("", "_reference")),
            ours.merge(theirs[~trained], on=test, suffixes=("", "_reference")),
        ]
    )
    if pairs.empty:
        raise InputError(
            f"no run of '{variant}' shares a seed with '{reference}' for metric {metric}; "
            f"present variants: {', '.join(sorted(scores['variant'].unique())) or 'none'}"
        )
    _demand_each_seed_on_each_split(pairs, [*GROUP, "variant", "metric"])
    pairs["gain"] = (pairs["value"] - pairs["value_reference"]).round(4)
    rows = []
    for group, runs in pairs.groupby(GROUP, dropna=False):
        gains = runs.groupby("seed")["gain"].mean().round(4)
        videos = (math.nan, math.nan)
        if hits is not None and metric == "top1":
            gained = [_gain_of(hits, *keys) for keys in zip(runs["key"], runs["key_reference"], strict=True)]
            videos = _video_interval(gained, runs["split"])
        wins = int((gains > 0).sum())
        rows.append([*group, variant, reference, metric, len(gains), *t_interval(gains), *videos, wins])
    return pd.DataFrame(rows, columns=[*GROUP, *DIFFERENCE])


def side(row: Any) -> int:
    """1 where the intervals of a difference over runs and over test videos lie above zero, -1 below, else 0.

    Without an interval over runs it is 0; without hits the one over runs decides alone.
    """
    if math.isnan(row.low):
        return 0
    videos = (row.low, row.high) if math.isnan(row.video_low) else (row.video_low, row.video_high)
    return int(min(row.low, videos[0]) > 0) - int(max(row.high, videos[1]) < 0)


def _resampled_means(x: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means (draws,) of resamples of x. Videos of one value are drawn together, so hits cost 2 counts, not
    N."""
    levels, counts = np.unique(x, return_counts=True)
    return rng.multinomial(x.size, counts / x.size, size=draws) @ levels / x.size


def _video_interval(per_run: list[np.ndarray], split: pd.Series) -> tuple[float, float]:
    """Bootstrap interval in percent of per-video values (videos,) of runs: averaged over the runs of a
    split."""
    splits = []
    for number in sorted(set(split)):
        of_split = [values for values, at in zip(per_run, split, strict=True) if at == number]
        if len({len(values) for values in of_split}) > 1:
            lengths = ", ".join(str(len(values)) for values in of_split)
            raise InputError(
                f"runs of split {number} answer {lengths} test videos; expected the same list, test again"
            )
        splits.append(100 * np.mean(of_split, axis=0))
    return bootstrap_interval(splits)[1:]


def _hits_of(hits: Hits, key: str) -> np.ndarray:
    if key not in hits:
        raise InputError(
            f"no per-video hits of run {key}, though its scores are there; make both files again"
        )
    return np.asarray(hits[key], dtype=float)


def _gain_of(hits: Hits, key: str, reference: str) -> np.ndarray:
    ours, theirs = _hits_of(hits, key), _hits_of(hits, reference)
    if ours.shape != theirs.shape:
        raise InputError(
            f"run {key} answers {ours.size} test videos and run {reference} {theirs.size}; "
            "expected the same list, test again"
        )
    return ours - theirs


def _demand_each_seed_on_each_split(tidy: pd.DataFrame, cell: list[str]) -> None:
    """Raises InputError where a cell holds a run twice (under other views too) or a seed lacks a split."""
    twice = tidy[tidy.duplicated([*cell, "seed", "split"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(
            f"results hold {row['metric']} of {row['variant']} on {row['dataset']}, k={row['k']}, "
            f"seed {row['seed']}, split {row['split']} twice; expected one row per run and metric, remove one"
        )
    grid = tidy.groupby(cell, dropna=False).agg(
        rows=("seed", "size"), n=("seed", "nunique"), splits=("split", "nunique")
    )
    uneven = grid[grid["rows"] != grid["n"] * grid["splits"]].reset_index()
    if len(uneven):
        row = uneven.iloc[0]
        raise InputError(
            f"results hold {row['rows']} runs of {row['variant']} on {row['dataset']}, k={row['k']}, for "
            f"{row['n']} seeds and {row['splits']} splits; expected each seed on each split, run the missing"
            " ones"
        )
