"""Statistics: intervals cover the truth as often as they say in simulated experiments, and naive ones do
not; the crossed model, its corrections and tests of equality keep their levels and see what is there."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from flowclip_core.errors import InputError
from flowclip_kit.bench import intervals
from flowclip_kit.experiments.results_table import among_five
from flowclip_kit.reporting import stats

PAPER = "table method source mmb map mcb trained_on dataset k metric value spread note".split()
NOTHING_PRINTED = pd.DataFrame(columns=PAPER).astype({"k": int, "value": float})
REPEATS = 2000


def share_covered(low, high, truth) -> float:
    return float(np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high))))


def keeps_its_level(share: float) -> bool:
    return 0.93 <= share <= 0.97


def bootstraps(samples):
    """Means, lows and highs of samples of values; one interval serves all samples that hold the same
    values."""
    known, found = {}, []
    for sample in map(np.sort, samples):
        key = sample.tobytes()
        known[key] = known.get(key) or stats.bootstrap_interval(sample)
        found.append(known[key])
    return map(np.array, zip(*found, strict=True))


def run(variant, value, dataset="hmdb51", k=4, seed=0, split=1, metric="top1", **other):
    trained_on = "" if variant.startswith("clip") else "HMDB-51"
    row = dict(target="table5", profile="paper", dataset=dataset, role="HMDB-51", trained_on=trained_on)
    row |= dict(variant=variant, k=k, seed=seed, split=split, views="4x3", metric=metric, value=value)
    row |= dict(key=f"{variant}-{dataset}-{k}-{seed}-{split}")
    return row | other


def experiments(variant, values):
    """Values (experiments, seeds, splits) as a tidy table in which each experiment is a data set of its
    own."""
    number, seed, split = (axis.ravel() for axis in np.indices(values.shape))
    common = {
        name: entry for name, entry in run(variant, 0.0).items() if name not in ("seed", "split", "value")
    }
    frame = pd.DataFrame({"seed": seed, "split": split + 1, "value": values.ravel()}).assign(**common)
    frame["dataset"] = [f"set {i:04d}" for i in number]
    frame["key"] = variant + frame["dataset"] + frame["seed"].astype(str) + frame["split"].astype(str)
    return frame


# Student t


def test_t_interval_of_three_runs_by_hand():
    x = [62.5, 60.0, 66.1]
    mean = sum(x) / 3
    half = 4.303 * math.sqrt(sum((v - mean) ** 2 for v in x) / 2) / math.sqrt(3)
    assert stats.t_interval(x) == pytest.approx((mean, mean - half, mean + half), abs=1e-3)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_interval_covers(n):
    draws = np.random.default_rng(n).normal(50, 3, (2 * REPEATS, n))
    _, low, high = zip(*map(stats.t_interval, draws), strict=True)
    assert keeps_its_level(share_covered(low, high, 50))


def test_the_demand_on_coverage_refuses_naive_intervals():
    draws = np.random.default_rng(3).normal(50, 3, (2 * REPEATS, 3))
    half = 1.96 * draws.std(axis=1, ddof=1) / math.sqrt(3)
    assert share_covered(draws.mean(axis=1) - half, draws.mean(axis=1) + half, 50) < 0.9
    few = np.random.default_rng(3).binomial(100, 0.05, 2 * REPEATS) / 100
    half = 1.96 * np.sqrt(few * (1 - few) / 100)
    assert share_covered(few - half, few + half, 0.05) < 0.92


def test_one_run_has_no_t_interval_and_none_is_refused():
    mean, low, high = stats.t_interval([40.0])
    assert mean == 40 and math.isnan(low) and math.isnan(high)
    for nothing in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="at least one finite value"):
            stats.t_interval(nothing)


# Bootstrap over videos


def scores(rng, shape, rate, seeds):
    """Hits averaged over seeds: some videos are easy for every seed, some for none."""
    return rng.binomial(seeds, rng.beta(rate, 1 - rate, shape) if seeds > 1 else rate, shape) / seeds


def differences(rng, shape, gain, loss, seeds):
    """Hit minus hit averaged over seeds: six videos in ten are the same to both under every seed."""
    live = rng.random(shape) < 0.4
    up = rng.binomial(seeds, live * gain / 0.4)
    return (up - rng.binomial(seeds - up, live * loss / (0.4 - gain))) / seeds


@pytest.mark.parametrize(
    ("videos", "rate", "seeds"),
    [(100, 0.05, 3), (100, 0.95, 10), (160, 0.05, 1), (400, 0.5, 1), (4000, 0.95, 3)],
)
def test_bootstrap_of_a_score_covers(videos, rate, seeds):
    rng = np.random.default_rng(videos)
    mean, low, high = bootstraps(scores(rng, videos, rate, seeds) for _ in range(REPEATS))
    assert keeps_its_level(share_covered(low, high, rate))
    assert abs(mean.mean() - rate) < 4 * mean.std() / math.sqrt(REPEATS)


@pytest.mark.parametrize(
    ("videos", "gain", "loss", "seeds"),
    [(100, 0.05, 0.01, 3), (100, 0.03, 0.03, 3), (400, 0.06, 0.03, 1), (4000, 0.02, 0.01, 3)],
)
def test_bootstrap_of_a_paired_difference_covers(videos, gain, loss, seeds):
    rng = np.random.default_rng(videos)
    _, low, high = bootstraps(differences(rng, videos, gain, loss, seeds) for _ in range(REPEATS))
    assert keeps_its_level(share_covered(low, high, gain - loss))


def test_bootstrap_over_three_splits_covers_the_mean_of_their_means():
    rng, found = np.random.default_rng(7), []
    for _ in range(REPEATS):  # pooled, the largest split would count most and the truth would be .40
        splits = [scores(rng, videos, rate, 3) for videos, rate in ((60, 0.1), (120, 0.3), (300, 0.5))]
        found.append(stats.bootstrap_interval(splits))
    mean, low, high = zip(*found, strict=True)
    assert keeps_its_level(share_covered(low, high, 0.3)) and np.mean(mean) == pytest.approx(0.3, abs=0.005)


def slow_bootstrap(splits, draws):
    """The same interval resample by resample, with the same counts; acceleration by leaving out video by
    video."""
    rng, videos = np.random.default_rng(0), sum(map(len, splits))
    resampled, left_out = np.zeros(draws), []
    for x in splits:
        levels, counts = np.unique(x, return_counts=True)
        for i, times in enumerate(rng.multinomial(len(x), counts / len(x), size=draws)):
            resampled[i] += np.repeat(levels, times).mean() / len(splits)
        left_out += [(x.mean() - np.delete(x, i).mean()) * (len(x) - 1) / len(x) for i in range(len(x))]
    a = sum(d**3 for d in left_out) / (6 * sum(d**2 for d in left_out) ** 1.5) / 2
    reach = scipy_stats.t.ppf(0.975, videos - len(splits)) * math.sqrt(videos / (videos - len(splits)))
    return np.quantile(
        resampled, [scipy_stats.norm.cdf(a + (a + z) / (1 - a * (a + z))) for z in (-reach, reach)]
    )


@pytest.mark.parametrize("sizes", [(8,), (30,), (20, 30, 25)])
@pytest.mark.parametrize("tied", [False, True])
def test_bootstrap_equals_a_slow_one(sizes, tied):
    rng = np.random.default_rng(1)
    splits = [rng.exponential(2.0, size).round(0 if tied else 9) for size in sizes]
    mean, *found = stats.bootstrap_interval(splits if len(splits) > 1 else splits[0], draws=500)
    assert mean == pytest.approx(np.mean([x.mean() for x in splits]))
    assert found == pytest.approx(list(slow_bootstrap(splits, 500)))


@pytest.mark.parametrize("tied", [False, True])
def test_drawing_videos_of_one_value_together_equals_drawing_videos(tied):
    x = np.random.default_rng(1).exponential(2.0, 60).round(0 if tied else 9)
    rng = np.random.default_rng(2)
    one_by_one = [rng.choice(x, len(x)).mean() for _ in range(20000)]
    together = stats._resampled_means(x, 20000, rng)
    at = [0.025, 0.16, 0.5, 0.84, 0.975]
    sd = x.std() / math.sqrt(len(x))
    assert np.quantile(together, at) == pytest.approx(
        list(np.quantile(one_by_one, at)), abs=0.1 * sd + 1 / 60
    )
    assert together.std() == pytest.approx(sd, rel=0.03) and np.mean(together) == pytest.approx(
        x.mean(), abs=0.04 * sd
    )


def test_bootstrap_repeats_and_does_not_depend_on_order_or_units():
    x = scores(np.random.default_rng(0), 200, 0.3, 3)
    first = stats.bootstrap_interval(x)
    assert stats.bootstrap_interval(x[::-1].tolist()) == pytest.approx(first, abs=1e-12)
    assert stats.bootstrap_interval(100 * x) == pytest.approx([100 * v for v in first])
    assert stats.bootstrap_interval([x]) == first == stats.bootstrap_interval(x)
    assert stats.bootstrap_interval(x, seed=1) != first
    low, high = stats.bootstrap_interval(x, level=0.8)[1:]
    assert first[1] < low < first[0] < high < first[2]


def test_bootstrap_of_videos_that_show_no_spread():
    assert stats.bootstrap_interval(np.ones(50)) == (1, 1, 1)
    assert stats.bootstrap_interval([np.zeros(5), np.ones(7)]) == (0.5, 0.5, 0.5)
    mean, low, high = stats.bootstrap_interval([3.0])
    assert mean == 3 and math.isnan(low) and math.isnan(high)
    for nothing in ([], [[], [1.0]], [1.0, math.inf]):
        with pytest.raises(ValueError, match="finite"):
            stats.bootstrap_interval(nothing)


# Summary


def several_splits(rng, seeds, splits=3):
    """A seed's luck is shared by its splits, a split's hardness by all seeds: truth 50."""
    luck, hardness = rng.normal(0, 3, (REPEATS, seeds, 1)), np.array([-6.0, 1.0, 5.0])[:splits]
    return 50 + hardness + luck + rng.normal(0, 1, (REPEATS, seeds, splits))


def test_summary_over_seeds_and_splits_covers_where_pooling_runs_does_not():
    values = several_splits(np.random.default_rng(0), seeds=5)
    summary = stats.summarise(experiments("full", values), NOTHING_PRINTED)
    assert keeps_its_level(share_covered(summary["low"], summary["high"], 50)) and len(summary) == REPEATS
    assert set(summary["n"]) == {5} and set(summary["splits"]) == {3}
    pooled = values.reshape(REPEATS, -1)
    half = scipy_stats.t.ppf(0.975, 14) * pooled.std(axis=1, ddof=1) / math.sqrt(15)
    assert not keeps_its_level(share_covered(pooled.mean(axis=1) - half, pooled.mean(axis=1) + half, 50))


def test_video_interval_of_a_summary_covers():
    rng, hits = np.random.default_rng(4), {}
    runs = experiments("full", np.zeros((REPEATS, 3, 1)))
    for keys in runs["key"].to_numpy().reshape(REPEATS, 3):
        easy = rng.beta(0.1, 0.9, 150)  # the same videos are hard for all seeds
        hits |= {key: rng.random(150) < easy for key in keys}
    runs["value"] = [100 * hits[key].mean() for key in runs["key"]]
    summary = stats.summarise(runs, NOTHING_PRINTED, hits)
    assert keeps_its_level(share_covered(summary["video_low"], summary["video_high"], 10))
    # Seeds that see the same videos agree more than videos do: their spread must not stand for that of
    # videos.
    assert (summary["high"] - summary["low"]).median() < (
        summary["video_high"] - summary["video_low"]
    ).median()


@pytest.fixture
def grid():
    """Two variants, two k, three seeds, two splits, two metrics; per-video hits of all runs."""
    rng, rows, hits = np.random.default_rng(5), [], {}
    for variant in ("baseline", "full"):
        for k in (2, 4):
            for seed in range(3):
                for split in (1, 2):
                    row = run(variant, 0.0, k=k, seed=seed, split=split)
                    hits[row["key"]] = rng.random(40 + split) < 0.5
                    rows.append(row | {"value": 100 * hits[row["key"]].mean()})
                    rows.append(row | {"value": rng.uniform(60, 90), "metric": "top5"})
    return pd.DataFrame(rows), hits


def test_summary_equals_a_slow_one(grid):
    tidy, hits = grid
    summary = stats.summarise(tidy, NOTHING_PRINTED, hits)
    assert list(summary.columns) == stats.SUMMARY and len(summary) == 8
    for row in summary.itertuples():
        picked = tidy[
            (tidy["variant"] == row.variant) & (tidy["k"] == row.k) & (tidy["metric"] == row.metric)
        ]
        seeds = [picked.loc[picked["seed"] == seed, "value"].tolist() for seed in range(3)]
        means = [sum(values) / 2 for values in seeds]
        assert (row.n, row.splits) == (3, 2)
        assert (row.mean, row.sd) == pytest.approx((np.mean(means), np.std(means, ddof=1)), abs=1e-4)
        assert (row.low, row.high) == pytest.approx(stats.t_interval(means)[1:], abs=1e-4)
        assert row.split_sd == pytest.approx(np.mean([abs(a - b) / math.sqrt(2) for a, b in seeds]), abs=1e-4)
        if row.metric == "top5":
            assert math.isnan(row.video_low) and math.isnan(row.video_high)
            continue
        of_split = [picked.loc[picked["split"] == split, "key"] for split in (1, 2)]
        videos = [np.mean([100.0 * hits[key] for key in keys], axis=0) for keys in of_split]
        assert (row.video_low, row.video_high) == pytest.approx(stats.bootstrap_interval(videos)[1:])


def test_the_order_of_rows_does_not_matter(grid):
    tidy, hits = grid
    mixed = tidy.sample(frac=1, random_state=1)
    one, two = (
        stats.summarise(rows, NOTHING_PRINTED, hits).sort_values(stats.CELL, ignore_index=True)
        for rows in (tidy, mixed)
    )
    pd.testing.assert_frame_equal(one, two)
    one, two = (stats.paired_difference(rows, "full", "baseline", hits=hits) for rows in (tidy, mixed))
    pd.testing.assert_frame_equal(one, two)


def test_one_seed_one_split_and_no_hits_leave_nothing_to_tell(grid):
    tidy, _ = grid
    row = stats.summarise(tidy[(tidy["seed"] == 0) & (tidy["split"] == 1)], NOTHING_PRINTED).iloc[0]
    assert (row["n"], row["splits"]) == (1, 1)
    assert row[["sd", "low", "high", "split_sd", "video_low", "video_high", "paper"]].isna().all()


def test_printed_values_meet_their_own_row_alone():
    tidy = pd.DataFrame(
        [
            run("full", 60.0),
            run("full", 61.0, k=8),
            run("full", 62.0, trained_on="UCF-101"),
            run("full", 63.0, metric="top5"),
            run("full", 64.0, target="table4"),
            run("TSM", 65.0),
        ]
    )
    printed = dict.fromkeys(PAPER, "") | dict(
        table="table5", method="full", source="printed", trained_on="HMDB-51"
    )
    printed |= dict(dataset="HMDB-51", k=4, metric="top1", value=58.7)
    competitor = printed | dict(method="TSM", source="printed competitor")  # a name met by chance
    paper = pd.DataFrame([printed, competitor, competitor])
    summary = stats.summarise(tidy, paper)
    assert summary["paper"].tolist() == pytest.approx([58.7, *[math.nan] * 5], nan_ok=True)
    assert summary["mean"].tolist() == tidy["value"].tolist()


def test_uneven_results_are_refused(grid):
    tidy, _hits = grid
    last = tidy.tail(1)
    for again in (last, last.assign(views="1x1"), last.assign(value=1.0, key="other")):
        with pytest.raises(InputError, match="seed 2, split 2 twice"):
            stats.summarise(pd.concat([tidy, again]), NOTHING_PRINTED)
    with pytest.raises(InputError, match="5 runs of full on hmdb51, k=4, for 3 seeds and 2 splits"):
        stats.summarise(tidy.drop(index=last.index), NOTHING_PRINTED)
    top1 = tidy[tidy["metric"] == "top1"]
    with pytest.raises(InputError, match="5 runs"):
        stats.paired_difference(top1.iloc[:-1], "full", "baseline")
    with pytest.raises(InputError, match="twice"):
        stats.paired_difference(pd.concat([top1, top1.head(1)]), "full", "baseline")


def test_hits_that_do_not_fit_are_refused(grid):
    tidy, hits = grid
    key = tidy["key"].iloc[0]
    missing = {name: found for name, found in hits.items() if name != key}
    shorter = hits | {key: hits[key][1:]}
    for wrong, message in ((missing, f"no per-video hits of run {key}"), (shorter, "40")):
        with pytest.raises(InputError, match=message):
            stats.summarise(tidy, NOTHING_PRINTED, wrong)
        with pytest.raises(InputError, match=message):
            stats.paired_difference(tidy, "full", "baseline", hits=wrong)


def test_a_large_target_is_summarised_quickly():
    rng = np.random.default_rng(0)
    rows = [
        run(variant, rng.uniform(0, 100), dataset, k, seed, metric=metric)
        for variant in ("baseline", "mcb", "mmb", "mmb+map", "full")
        for dataset in ("figures-h", "figures-u")
        for k in (2, 4, 8, 16)
        for seed in range(4)
        for metric in ["top1", *(f"metric {i}" for i in range(19))]
    ]
    tidy = pd.DataFrame(rows)
    hits = {key: rng.random(1500) < 0.5 for key in tidy["key"].unique()}
    start = time.process_time()
    stats.summarise(tidy, NOTHING_PRINTED, hits)
    assert time.process_time() - start < 2


# Paired differences


def test_pairing_removes_what_a_seed_shares():
    luck = [0.0, 10.0, -7.0]
    tidy = pd.DataFrame(
        [run("baseline", 40 + shift, seed=seed) for seed, shift in enumerate(luck)]
        + [run("full", 45 + shift + 0.1 * seed, seed=seed) for seed, shift in enumerate(luck)]
    )
    found = stats.paired_difference(tidy, "full", "baseline")
    assert list(found.columns) == [*stats.GROUP, *stats.DIFFERENCE]
    result, half = found.iloc[0], 4.303 * 0.1 / math.sqrt(3)
    assert (result["n"], result["wins"], result["k"], result["trained_on"]) == (3, 3, 4, "HMDB-51")
    assert (result["mean"], result["run_low"], result["run_high"]) == pytest.approx(
        (5.1, 5.1 - half, 5.1 + half), abs=1e-3
    )
    assert result[["se", "df", "p", "low", "high", "video_low", "video_high"]].isna().all()
    assert result["run_se"] == pytest.approx(0.1 / math.sqrt(3), abs=1e-3)
    reverse = stats.paired_difference(tidy, "baseline", "full").iloc[0]
    assert (reverse["mean"], reverse["wins"]) == (-result["mean"], 0)


def test_paired_t_interval_covers_and_ignores_shared_luck():
    rng = np.random.default_rng(3)
    reference = several_splits(rng, 3)
    gains = np.array([1.0, 2.0, 6.0]) + rng.normal(0, 0.5, reference.shape)
    tidy = pd.concat([experiments("full", reference + gains), experiments("baseline", reference)])
    found = stats.paired_difference(tidy, "full", "baseline")
    assert keeps_its_level(share_covered(found["run_low"], found["run_high"], 3.0))
    assert set(found["n"]) == {3} and len(found) == REPEATS
    unpaired = stats.summarise(tidy, NOTHING_PRINTED)
    widths = (frame[high] - frame[low] for frame, low, high in
              ((found, "run_low", "run_high"), (unpaired, "low", "high")))  # fmt: skip
    paired, apart = (width.median() for width in widths)
    assert paired < apart / 3


def test_video_interval_of_a_difference_pairs_video_by_video():
    shared = np.random.default_rng(0).random(200) < 0.5
    better = shared.copy()
    better[np.flatnonzero(~shared)[:10]] = True
    rows = [
        run(variant, value, seed=seed)
        for variant, value in (("baseline", 45.0), ("full", 50.0))
        for seed in range(3)
    ]
    hits = {row["key"]: better if row["variant"] == "full" else shared for row in rows}
    result = stats.paired_difference(pd.DataFrame(rows), "full", "baseline", hits=hits).iloc[0]
    expected = stats.bootstrap_interval(100.0 * (np.arange(200) < 10))
    assert (result["video_low"], result["video_high"]) == pytest.approx(expected[1:])
    assert result["video_low"] > 0  # unpaired, 5 points between two scores of 200 videos are within chance
    other = stats.paired_difference(pd.DataFrame(rows), "full", "full", "top1", hits).iloc[0]
    assert (other["mean"], other["video_low"], other["video_high"]) == (0, 0, 0)
    established = [stats.side(row) for row in pd.DataFrame([result, other]).itertuples()]
    assert math.isnan(other["se"]) and established == [1, 0]  # no spread at all: nothing to judge by
    assert result["se"] == pytest.approx(100 * math.sqrt(0.05 * 0.95 / 199))


def test_an_untrained_reference_pairs_with_every_seed_k_and_training_set():
    tidy = [run("clip", 30.0 + split, k=0, split=split) for split in (1, 2)]
    for trained_on in ("HMDB-51", "UCF-101"):
        for k in (2, 4):
            for seed in range(3):
                for split in (1, 2):
                    axes = {"k": k, "seed": seed, "split": split, "trained_on": trained_on}
                    key = f"{trained_on}{k}{seed}{split}"
                    tidy.append(run("full", 40.0 + k + seed + split, **axes, key=key))
    tidy = pd.DataFrame(tidy)
    hits = {key: np.arange(50) < (20 if key.startswith("clip") else 30) for key in tidy["key"]}
    found = stats.paired_difference(tidy, "full", "clip", hits=hits)
    assert found[["trained_on", "k"]].to_numpy().tolist() == [
        [name, k] for name in ("HMDB-51", "UCF-101") for k in (2, 4)
    ]
    assert found["mean"].tolist() == [13.0, 15.0, 13.0, 15.0] and set(found["n"]) == {3}
    assert (found["video_low"] < 20).all() and (found["video_high"] > 20).all()
    with pytest.raises(InputError, match="no run of 'clip' shares a seed with 'full'"):
        stats.paired_difference(tidy, "clip", "full")


def test_trained_runs_pair_within_seed_split_k_and_training_set():
    ours = run("full", 50.0)
    for other in (dict(seed=1), dict(split=2), dict(k=2), dict(trained_on="UCF-101"), dict(dataset="ucf101")):
        stranger = run("baseline", 40.0) | other
        with pytest.raises(InputError, match="present variants: baseline, full"):
            stats.paired_difference(pd.DataFrame([ours, stranger]), "full", "baseline")
    with pytest.raises(InputError, match="present variants: none"):
        stats.paired_difference(pd.DataFrame([ours]), "full", "baseline", metric="order")


def test_two_untrained_variants_are_compared_split_by_split():
    tidy = pd.DataFrame(
        [run("clip A", 30.0 + split, k=0, split=split) for split in (1, 2)]
        + [run("clip B", 33.0 + split, k=0, split=split) for split in (1, 2)]
    )
    result = stats.paired_difference(tidy, "clip B", "clip A").iloc[0]
    assert (result["mean"], result["n"], result["k"]) == (3, 1, 0) and math.isnan(result["run_low"])


# Seeds and test videos at once


def slow_crossed(tables):
    """Variance of the mean, and of it given the videos, value by value: an analysis of variance a split."""
    n, splits = len(tables[0]), len(tables)
    seed_means = [sum(sum(x[i]) / len(x[i]) for x in tables) / splits for i in range(n)]
    mean = sum(seed_means) / n
    runs = sum((m - mean) ** 2 for m in seed_means) / (n - 1) / n
    videos = rest = 0.0
    for x in tables:
        count = len(x[0])
        columns = [sum(x[i][j] for i in range(n)) / n for j in range(count)]
        here = sum(columns) / count
        videos += sum((c - here) ** 2 for c in columns) / (count - 1) / count / splits**2
        left = [
            (x[i][j] - sum(x[i]) / count - columns[j] + here) ** 2 for i in range(n) for j in range(count)
        ]
        rest += sum(left) / ((n - 1) * (count - 1)) / (n * count) / splits**2
    variance = max(runs, rest) + max(videos, rest) - rest
    share = min(1, runs / variance)
    free = sum(len(x[0]) for x in tables) - splits
    return mean, variance, 1 / (share / (n - 1) + (1 - share) / free), max(runs, rest)


@pytest.mark.parametrize("sizes", [(40,), (20, 30, 25)])
@pytest.mark.parametrize("of_seed", [0.0, 9.0])
def test_crossed_equals_a_slow_one(sizes, of_seed):
    rng = np.random.default_rng(3)
    luck = rng.normal(2, of_seed, (4, 1))
    tables = [luck + rng.normal(0, 5, (1, size)) + rng.normal(0, 3, (4, size)) for size in sizes]
    found = stats.crossed(tables)
    mean, variance, df, runs = slow_crossed([x.tolist() for x in tables])
    se = math.sqrt(variance)
    assert (found.mean, found.se, found.df, found.run_se) == pytest.approx((mean, se, df, math.sqrt(runs)))
    assert found.p == pytest.approx(2 * scipy_stats.t.sf(abs(mean) / se, df))
    half = scipy_stats.t.ppf(0.975, df) * se
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half))


def test_agreement_is_no_certainty():
    """Seeds that agree leave the spread over videos, videos that agree the one over seeds."""
    videos = np.repeat(100.0 * (np.arange(60) < 9)[None], 3, axis=0)
    agreed = stats.crossed([videos])
    assert agreed.se == pytest.approx(videos[0].std(ddof=1) / math.sqrt(60)) and agreed.df == pytest.approx(
        59
    )
    seeds = np.repeat(np.array([[1.0], [2.0], [6.0]]), 60, axis=1)
    alone = stats.crossed([seeds])
    assert (alone.low, alone.high) == pytest.approx(stats.t_interval([1, 2, 6])[1:])
    for nothing in (np.full((3, 60), 2.0), videos[:1]):
        assert math.isnan(stats.crossed([nothing]).low) and math.isnan(stats.crossed([nothing]).p)
    fixed = stats.crossed([videos[:1]], trained=False)  # nothing is trained, so there is no other seed
    assert (fixed.se, fixed.df) == pytest.approx((agreed.se, 59)) and math.isnan(fixed.run_se)
    for wrong in ([], [videos, videos[:2]], [np.zeros((3, 0))], [np.full((3, 5), math.nan)]):
        with pytest.raises(ValueError, match=r"expected one|finite"):
            stats.crossed(wrong)


@pytest.fixture(scope="module")
def variances():
    return intervals.recorded()


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("case", ["as recorded", "seeds differ most"])
def test_crossed_covers_where_each_interval_alone_does_not(variances, case, n):
    """Fails when seeds or videos are left out of the variance."""
    rng = np.random.default_rng(n)
    x = intervals.gains(rng, variances[case], n, REPEATS // 2)
    assert intervals.covered(x, 0.0) >= 94
    rates = intervals.called_gains(x)
    assert rates["crossed"] <= 3.5  # nominal 2.5
    assert max(rates["over seeds alone"], rates["over videos alone"]) > 3.5
    there = intervals.gains(rng, variances[case], n, REPEATS // 10, gain=10.0)
    assert intervals.called_gains(there)["crossed"] > {"as recorded": 75, "seeds differ most": 33}[case]


def test_crossed_keeps_its_level_where_seeds_outweigh_videos():
    """With Satterthwaite's degrees of freedom it passes 3.5 %."""
    heavy = intervals.Variances(seed=60.0, video=400.0, rest=1400.0)
    x = intervals.gains(np.random.default_rng(8), heavy, 3, 2 * REPEATS, videos=200)
    assert intervals.called_gains(x)["crossed"] <= 3.1


def test_adjusted_p_values_equal_slow_ones():
    p = [0.01, math.nan, 0.04, 0.03, 0.005, 0.04]
    bh, holm = stats.adjusted(p)
    assert np.isnan(bh[1]) and np.isnan(holm[1])
    known = sorted(value for value in p if not math.isnan(value))
    for value, one, other in zip(p, bh, holm, strict=True):
        if not math.isnan(value):
            at = range(known.index(value), 5)
            assert one == pytest.approx(min(known[i] * 5 / (i + 1) for i in at if known[i] >= value))
            assert other == pytest.approx(max(known[i] * (5 - i) for i in range(known.index(value) + 1)))
    assert stats.adjusted([0.02])[0] == 0.02 and len(stats.adjusted([])[0]) == 0
    # The row that stands alone is established; among others that say nothing it is not.
    row = pd.DataFrame({"mean": [3.0, 1.0, -3.0], "p": [0.03, 0.9, 0.8]})
    assert [stats.side(one) for one in row.itertuples()] == [1, 0, 0]
    assert [stats.side(one) for one in stats.as_family(row).itertuples()] == [0, 0, 0]


def test_a_family_is_wrong_as_rarely_as_its_correction_says(variances):
    """Left out, one family in four holds a false claim where none is true."""
    rng, of = np.random.default_rng(1), variances["as recorded"]
    none, some = (intervals.families(rng, of, 10, 60, true) for true in (0, intervals.TRUE))
    assert none["any false, none"] > 12
    for name in ("Benjamini-Hochberg", "Holm"):
        assert none[f"any false, {name}"] <= 7 and some[f"false share, {name}"] <= 5
    found = [some[f"found, {name}"] for name in ("none", "Benjamini-Hochberg", "Holm")]
    assert found == sorted(found, reverse=True) and found[1] > 25 and found[0] > found[1] > found[2]


@pytest.mark.parametrize(("sd", "n", "power"), [(1.0, 10, 85), (0.5, 10, 98), (0.5, 3, 65)])
def test_equality_is_found_and_rarely_where_there_is_none(sd, n, power):
    """Without the printed mean's own error in the margin there is too little power to find it."""
    same, too_far = intervals.called_same(np.random.default_rng(2), sd, n, REPEATS // 2)
    assert same > power and too_far <= 6.5


def test_two_one_sided_tests_by_hand():
    for gap in (-0.8, 0.0, 0.3, 2.0):
        below = scipy_stats.t.sf((1.5 - gap) / 0.5, 7)
        over = scipy_stats.t.sf((gap + 1.5) / 0.5, 7)
        assert stats.equivalence(gap, 0.5, 7, 1.5) == pytest.approx(max(below, over))


def test_all_cells_at_once_by_hand():
    """Eight runs a variant: the middle four make the mean; wins are counted cell by cell within a seed."""
    scores = {"full": [9, 1, 4, 6, 3, 5, 2, 8], "baseline": [1, 2, 4, 5, 1, 1, 9, 0]}
    at = [(dataset, k, seed) for dataset in ("h", "u") for k in (2, 4) for seed in (0, 1)]
    rows = [run(name, value, dataset, k, seed) for name, values in scores.items()
            for (dataset, k, seed), value in zip(at, values, strict=True)]  # fmt: skip
    rows += [run("clip", value, dataset, k=0) for dataset, value in (("h", 3.5), ("u", 4.5))]
    found = stats.overall(pd.DataFrame(rows)).set_index(["variant", "over"])
    assert found.loc[("full", "baseline"), ["iqm", "share"]].tolist() == [4.5, 100 * 5.5 / 8]
    assert found.loc[("full", "clip"), "share"] == 100 * 5 / 8 and found.loc["clip", "iqm"].item() == 4.0
    expected = stats.crossed([[[100, 50, 100, 0], [0, 100, 100, 100]]])
    low, high = found.loc[("full", "baseline"), ["low", "high"]]
    assert (low, high) == pytest.approx((max(expected.low, 0), min(expected.high, 100)))
    assert set(found.index.get_level_values("variant")) == {"full", "baseline", "clip"}


def test_top5_is_judged_by_its_own_hits_and_without_them_by_none(grid):
    tidy, top1 = grid
    rng = np.random.default_rng(6)
    hits = top1 | {among_five(key): of | (rng.random(len(of)) < 0.4) for key, of in top1.items()}
    five = stats.paired_difference(tidy, "full", "baseline", "top5", hits)
    one = stats.paired_difference(tidy, "full", "baseline", "top1", hits)
    assert not math.isnan(five["p"].iloc[0]) and five["se"].iloc[0] != one["se"].iloc[0]
    for row in five.itertuples():
        pairs = {}
        for split, seed in itertools.product((1, 2), range(3)):
            (ours,), (theirs,) = (
                tidy.query(f"variant == '{name}' and k == {row.k} and seed == {seed} and split == {split}"
                           " and metric == 'top5'")["key"] for name in ("full", "baseline")
            )  # fmt: skip
            gain = 100.0 * hits[among_five(ours)] - 100.0 * hits[among_five(theirs)]
            pairs.setdefault(split, []).append(gain)
        assert row.se == pytest.approx(stats.crossed([np.array(of) for of in pairs.values()]).se)
    without = stats.paired_difference(tidy, "full", "baseline", "top5", top1)
    assert without["p"].isna().all() and without["video_low"].isna().all()
    summary = stats.summarise(tidy, NOTHING_PRINTED, hits).set_index("metric")
    assert summary.loc["top5", "video_low"].notna().all()
