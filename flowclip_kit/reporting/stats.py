"""Numbers with their uncertainty: over seeds (Student t), over test videos (bootstrap), over both at once.

The first two are shown: would another draw of training videos and weights change the number, and would other
test videos. A comparison is judged by the third, `crossed`, since runs that share their test videos do not
show how far other videos would move all of them together. A tidy table has one row per run and metric
(columns in `experiments.results_table.TIDY`), values in percent; hits are of
`experiments.results_table.by_key`: a run's key -> top-1 right or wrong, bool (videos,), and top-5 beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtr, stdtrit  # scipy.stats takes seconds longer to import

from flowclip_core.errors import InputError
from flowclip_kit.experiments.results_table import hits_key

CELL = ["target", "profile", "dataset", "role", "trained_on", "variant", "k", "metric"]
SUMMARY = [*CELL, "n", "splits", "mean", "sd", "low", "high", "split_sd", "video_low", "video_high", "paper"]
GROUP = ["dataset", "role", "trained_on", "k"]
SPREADS = "n mean se df p low high run_se run_low run_high video_low video_high".split()
DIFFERENCE = ["variant", "reference", "metric", *SPREADS, "wins"]
LEVEL = 0.05  # of two-sided tests, of the two one-sided tests of `equivalence`, and the false discovery rate

Hits = dict[str, np.ndarray]


class Crossed(NamedTuple):
    """Mean of seeds x test videos with its standard error, degrees of freedom and 95 % interval.

    p: two-sided, of a mean of zero. run_se: standard error where the test videos are given, not drawn. nan
    where there is none.
    """

    mean: float
    se: float = math.nan
    df: float = math.nan
    p: float = math.nan
    low: float = math.nan
    high: float = math.nan
    run_se: float = math.nan


def crossed(tables: Sequence[np.ndarray], trained: bool = True) -> Crossed:
    """The mean of seeds x test videos, both a random choice, in the units given.

    tables: (n seeds, V videos) of every split; the seeds are the same in each, the videos count as others.
    value = mean + seed + video + rest, the three drawn independently. By the method of moments the variance
    of the mean is R + V - C: R of the seeds' means, V of the videos' means, C what both contain, the rest
    alone. Neither R nor V counts for less than C, so seeds that happen to agree leave the variance over
    videos, and videos that agree the one over seeds. With all three zero there is no interval, nor with one
    seed, unless nothing is trained (`trained` False): then no seed is drawn, and the videos alone vary.

    Degrees of freedom: 1/df is the mean of 1/(n - 1) and 1/(videos - splits), weighted by the seeds' share
    R of the variance. Satterthwaite weighs them by squares and lets 3.9 % pass for 2.5 at three seeds whose
    spread outweighs that of videos; see notebooks/statistics.md. run_se is the root of R, of C at least.
    Raises ValueError for no video, tables of other seeds, or a value that is not finite.
    """
    tables = [np.asarray(x, dtype=float) for x in tables]
    if not tables or {x.ndim for x in tables} != {2} or len({len(x) for x in tables}) > 1:
        raise ValueError(f"expected one (seeds, videos) a split, got {[x.shape for x in tables]}")
    if not all(x.size and np.isfinite(x).all() for x in tables):
        raise ValueError("a crossed model needs finite values of at least one video a split")
    n, splits = len(tables[0]), len(tables)
    of_seed = np.mean([x.mean(axis=1) for x in tables], axis=0)
    mean, free = float(of_seed.mean()), sum(x.shape[1] for x in tables) - splits
    if free < 1 or (n < 2 and trained):
        return Crossed(mean)
    videos = sum(x.mean(axis=0).var(ddof=1) / x.shape[1] for x in tables) / splits**2
    runs = rest = 0.0
    if n > 1:
        runs = of_seed.var(ddof=1) / n
        rest = sum(map(rest_variance, tables)) / splits**2
    variance = max(runs, rest) + max(videos, rest) - rest
    run_se = math.sqrt(max(runs, rest)) if n > 1 else math.nan
    if variance < 1e-12:  # zero but for rounding
        return Crossed(mean)
    share = min(1.0, runs / variance)
    df = 1 / (share / max(n - 1, 1) + (1 - share) / free)
    se = math.sqrt(variance)
    half = se * stdtrit(df, 1 - LEVEL / 2)
    return Crossed(mean, se, df, 2 * above(abs(mean), se, df), mean - half, mean + half, run_se or math.nan)


def rest_variance(x: np.ndarray) -> float:
    """What a split's mean owes to neither seeds nor videos, as a variance."""
    left = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()
    return float((left**2).sum() / ((len(x) - 1) * max(x.shape[1] - 1, 1)) / x.size)


def above(gap: float, se: float, df: float) -> float:
    """One-sided p: how often an estimate lies this far above the truth, or farther."""
    return float(stdtr(df, -gap / se))


def equivalence(gap: float, se: float, df: float, margin: float) -> float:
    """p of two one-sided tests (TOST, Schuirmann 1987): small where the true gap lies within the margin."""
    return max(above(margin - gap, se, df), above(margin + gap, se, df))


def adjusted(p: Sequence[float] | np.ndarray | pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """p values of a family, adjusted after Benjamini and Hochberg and after Holm; nan is no member and stays.

    Below 5 %, the first keeps the expected share of false ones among those called true, the second the
    chance of even one.
    """
    from scipy.stats import false_discovery_control  # takes a second to import

    given = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(given))
    bh, holm = np.full(given.shape, math.nan), np.full(given.shape, math.nan)
    if known.size:
        bh[known] = false_discovery_control(given[known])
        ordered = known[np.argsort(given[known], kind="stable")]
        steps = given[ordered] * np.arange(known.size, 0, -1)
        holm[ordered] = np.minimum(np.maximum.accumulate(steps), 1)
    return bh, holm


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
    video_low, video_high: 95 % bootstrap interval over test videos of top1 and top5 averaged over seeds; nan
    for other metrics and without hits. paper: the printed value of the same target, role, trained_on,
    variant, k and metric, or the one derived from print; else nan.
    Raises InputError when a run appears twice, a seed lacks a split that another has, or hits do not fit.
    """
    tidy = tidy.assign(value=tidy["value"].round(4))  # as stored: a table is the same before and after saving
    _demand_each_seed_on_each_split(tidy, CELL)
    videos = {}
    if hits is not None:
        for cell, runs in tidy[tidy["metric"].isin(["top1", "top5"])].groupby(CELL, sort=False, dropna=False):
            keys = [hits_key(key, metric) for key, metric in zip(runs["key"], runs["metric"], strict=True)]
            if runs["metric"].iloc[0] == "top1" or set(keys) <= hits.keys():
                videos[cell] = video_interval(by_split([_hits_of(hits, key) for key in keys], runs))
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
    Columns: `GROUP`, then variant, reference, metric, n (seeds), mean; se, df, p, low, high, run_se of
    `crossed` (top1 and top5 with hits, else nan); run_low, run_high (95 % Student t), video_low, video_high
    (95 % bootstrap over test videos of the difference averaged over seeds; nan like low), wins (seeds with a
    positive difference). Without hits run_se is that of the seeds' mean.
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
        tables = None
        keys = [[hits_key(key, metric) for key in runs[name]] for name in ("key", "key_reference")]
        if hits is not None and (metric == "top1" or {*keys[0], *keys[1]} <= hits.keys()):
            gained = [_gain_of(hits, *both) for both in zip(*keys, strict=True)]
            tables = by_split(gained, runs)
        trained = bool(runs["trained_on"].iloc[0])
        found = spreads(gains, tables, trained)
        wins = int((gains > 0).sum())
        rows.append([*group, variant, reference, metric, *found, wins])
    return pd.DataFrame(rows, columns=[*GROUP, *DIFFERENCE])


def spreads(gains: pd.Series, tables: list[np.ndarray] | None, trained: bool = True) -> list[float]:
    """The columns `SPREADS` of one comparison.

    gains: its mean over splits, by seed. tables: of `by_split`, or None where a metric has no hits.
    """
    mean, low, high = t_interval(gains)
    run_se = float(gains.std() / math.sqrt(len(gains))) or math.nan
    both, videos = Crossed(mean, run_se=run_se), (math.nan, math.nan)
    if tables:
        both, videos = crossed([100 * x for x in tables], trained), video_interval(tables)
    return [len(gains), mean, *both[1:], low, high, *videos]


def overall(tidy: pd.DataFrame, references: Sequence[str] = ("baseline", "clip")) -> pd.DataFrame:
    """Top-1 over all cells (data sets x k) at once, by variant, after Agarwal et al. 2021 (rliable).

    iqm: mean of the middle half of the scores of all runs and cells. over: a reference; share: how often a
    run scores above the reference's run of the same seed and cell, a tie half, in percent; low, high: its
    95 % interval over seeds and cells, see `crossed`; nan where all agree. A row without training has one
    score for every seed and k. Rows: variant x over.
    """
    from scipy.stats import trim_mean

    top1 = tidy[tidy["metric"] == "top1"]
    trained = top1[top1["trained_on"] != ""]
    cells = pd.MultiIndex.from_frame(trained[["dataset", "k"]].drop_duplicates())
    seeds = sorted(trained["seed"].unique())
    scores = {}
    for name, runs in top1.groupby("variant", sort=False):
        by = runs.pivot_table("value", "seed", ["dataset", "k"])
        if not runs["trained_on"].any():
            columns = {cell: np.full(len(seeds), by[cell[0]].to_numpy().mean()) for cell in cells}
            by = pd.DataFrame(columns, index=seeds)
        scores[name] = by.reindex(index=seeds, columns=cells).to_numpy()
    rows = []
    for name, ours in scores.items():
        for reference in [other for other in references if other in scores and other != name]:
            wins = 50.0 * (1 + np.sign(ours - scores[reference]))
            found = crossed([wins])
            ends = np.clip([found.low, found.high], 0, 100)
            rows.append([name, float(trim_mean(ours, 0.25, axis=None)), reference, found.mean, *ends])
    return pd.DataFrame(rows, columns=["variant", "iqm", "over", "share", "low", "high"])


def side(row: Any) -> int:
    """1 where a difference is established above zero, -1 below, else 0; nothing is without a p value.

    By the row's p_bh, p adjusted for the family that is shown together, or by p where it has no family.
    """
    p = getattr(row, "p_bh", row.p)
    return int(p <= LEVEL) * (int(row.mean > 0) - int(row.mean < 0))


def as_family(paired: pd.DataFrame) -> pd.DataFrame:
    """Rows of `paired_difference` that are shown together, with p_bh and p_holm (see `adjusted`)."""
    bh, holm = adjusted(paired["p"])
    return paired.assign(p_bh=bh, p_holm=holm)


def _resampled_means(x: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means (draws,) of resamples of x. Videos of one value are drawn together, so hits cost 2 counts, not
    N."""
    levels, counts = np.unique(x, return_counts=True)
    return rng.multinomial(x.size, counts / x.size, size=draws) @ levels / x.size


def by_split(per_run: Sequence[np.ndarray], runs: pd.DataFrame) -> list[np.ndarray]:
    """Per-video values (videos,) of runs, hits or sums of them, as one table (seeds, videos) a split.

    runs: columns seed and split of the same runs. Raises InputError where runs of a split have other videos.
    """
    found: dict[int, dict[int, np.ndarray]] = {}
    for values, seed, split in zip(per_run, runs["seed"], runs["split"], strict=True):
        found.setdefault(split, {})[seed] = np.asarray(values, dtype=float)
    tables = []
    for split, of_split in sorted(found.items()):
        rows = [of_split[seed] for seed in sorted(of_split)]
        if len({len(values) for values in rows}) > 1:
            lengths = ", ".join(str(len(values)) for values in rows)
            raise InputError(
                f"runs of split {split} answer {lengths} test videos; expected the same list, test again"
            )
        tables.append(np.array(rows))
    return tables


def video_interval(tables: Sequence[np.ndarray]) -> tuple[float, float]:
    """Bootstrap interval in percent over the test videos of `by_split`'s tables, averaged over seeds."""
    return bootstrap_interval([100 * x.mean(axis=0) for x in tables])[1:]


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
