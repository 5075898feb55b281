"""Reporting: intervals that cover, printed numbers as printed, text and SVG that repeat, strict notebooks."""

from __future__ import annotations

import functools
import html
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd
import pytest

from flowclip_core import files
from flowclip_core.errors import InputError
from flowclip_kit import paths
from flowclip_kit.experiments import catalogue
from flowclip_kit.experiments import results_table as tidy_table
from flowclip_kit.profiles import PROFILES
from flowclip_kit.reporting import notebooks, plot_style, plots, rendering, stats, tables

FLAGS = {"clip": "000", "baseline": "000", "mcb": "001", "mmb": "100", "mmb+map": "110", "full": "111"}
PAIR_SHARE = {"figures-h": (10, 16), "figures-u": (6, 24), "figures-k": (12, 40)}
DEMO = {"HMDB-51": "figures-h", "UCF-101": "figures-u", "Kinetics-400": "figures-k"}
REAL = {"HMDB-51": "hmdb51", "UCF-101": "ucf101", "Kinetics-400": "kinetics400"}
BOTH = ("HMDB-51", "UCF-101")
# (tested on, trained on) and k of the targets that are not closed-set on the first two.
PLACES = {
    "table4": [("Kinetics-400", "Kinetics-400")],
    "table6": [(role, "Kinetics-400") for role in BOTH],
    "table7": [BOTH, BOTH[::-1]],
    "table8": [(role, role) for role in DEMO],
}
SHOTS = {"table4": [5], "table5": [2, 4, 8, 16], "readings": [16]}
SUMMARY = """target profile dataset role trained_on variant k metric n splits mean sd low high split_sd
video_low video_high paper""".split()
PAIRED = """dataset role trained_on k variant reference metric n mean se df p low high run_se run_low run_high
video_low video_high wins""".split()


def rows(dataset, role, variant, k, seed, scores, profile="demo"):
    mmb, map_, mcb = map(int, FLAGS[variant])
    common = dict(
        target="table5", profile=profile, dataset=dataset, role=role, variant=variant, mmb=mmb, map=map_
    )
    common |= dict(trained_on="" if variant == "clip" else role, T=8, H=5 if map_ else 0, s=4, L=22 * mmb)
    common |= dict(prompt="a common human action of", lr=0.0 if variant == "clip" else 0.0015)
    common |= dict(mcb=mcb, k=k, seed=seed, split=1, views="1x1", key=f"12e{seed}")
    return [common | {"metric": metric, "value": value} for metric, value in scores.items()]


def tidy(profile="demo", seeds=3, seed=0):
    """A grid of plausible size: 5 variants, 4 k, the untrained row; the demo's has pairs and controls."""
    rng = np.random.default_rng(seed)
    demo = profile in ("demo", "smoke")
    sets = ("figures-h", "figures-u") if demo else ("hmdb51", "ucf101")
    found = []
    for dataset, role in zip(sets, BOTH, strict=True):
        untrained = {"top1": 33.2, "top1_pairs": 21.0, "order": 48.0}
        found += rows(dataset, role, "clip", 0, 0, untrained, profile)
        for level, variant in enumerate(list(FLAGS)[1:]):
            for k in (2, 4, 8, 16):
                for run in range(seeds):
                    top1 = 30 + level * math.log2(k) + rng.normal(0, 2)
                    scores = {"top1": top1, "top5": top1 + 30}
                    if demo:
                        scores |= {"top1_shuffled": 30.0, "top1_reversed": 25.0, "top1_repeated": 28.0}
                        scores |= {"top1_pairs": top1 - 1, "top1_rest": top1 + 1, "order": 50 + 8.0 * level}
                        scores |= {
                            "order_shuffled": 50.0,
                            "order_reversed": 50 - 8.0 * level,
                            "order_repeated": 50.0,
                        }
                    found += rows(dataset, role, variant, k, run, scores, profile)
    return pd.DataFrame(found)[tidy_table.TIDY]


@functools.cache
def made(target, profile="demo", seeds=3):
    """A summary of any target by hand, with the printed values looked up one by one. Do not change it in
    place."""
    demo, rng = profile in ("demo", "smoke"), np.random.default_rng(len(target))
    own = [row for row in tables.load_paper(target).itertuples() if row.source != "printed competitor"]
    printed = {(row.method, row.dataset, row.trained_on, row.k, row.metric): row.value for row in own}
    found = []
    for role, trained_on in PLACES.get(target, [(role, role) for role in BOTH]):
        splits = 3 if target in ("table6", "table7") or (target == "table8" and role in BOTH) else 1
        for level, variant in enumerate(tables.VARIANTS[target]):
            clip = variant.startswith("clip")
            for k in [0] if clip else SHOTS.get(target, [0]):
                top1 = 42 + 2 * level + 4 * math.log2(max(k, 1)) + rng.normal(0, 2)
                scores = {"top1": top1, "top5": top1 + 10}
                if demo:
                    scores |= {"top1_pairs": top1 - 6, "top1_rest": top1 + 8, "order": 50 + 3.0 * level}
                if demo and target == "table5":
                    scores |= {"top1_shuffled": 30.0, "top1_reversed": 25.0, "top1_repeated": 28.0}
                    scores |= {
                        "order_shuffled": 50.0,
                        "order_reversed": 50 - 3.0 * level,
                        "order_repeated": 50.0,
                    }
                if target in ("table6", "table7"):
                    scores |= {"top1_half": top1 + 9, "half_sd": 3.4}
                n, source = (1, "") if clip else (seeds, trained_on)
                for metric, mean in scores.items():
                    half = math.nan if n == 1 else rng.uniform(0.5, 4)
                    video = rng.uniform(2, 5) if metric == "top1" else math.nan
                    split_sd = rng.uniform(1, 3) if splits > 1 else math.nan
                    value = printed.get((variant, role, source, k, metric), math.nan)
                    found.append(
                        [target, profile, (DEMO if demo else REAL)[role], role, source, variant, k, metric, n]
                    )
                    found[-1] += [
                        splits,
                        mean,
                        half,
                        mean - half,
                        mean + half,
                        split_sd,
                        mean - video,
                        mean + video,
                    ]
                    found[-1].append(value)
    return pd.DataFrame(found, columns=SUMMARY)


def compared(target, summary):
    """The differences that the catalogue asks of a target, as `stats.paired_difference` would give them; or
    None."""
    found, top1 = [], summary[summary["metric"] == "top1"]
    for variant, reference in catalogue.TARGETS[target].compare:
        for row in top1[top1["variant"] == variant].itertuples():
            same = top1[
                (top1["variant"] == reference) & (top1["dataset"] == row.dataset) & top1["k"].isin([0, row.k])
            ]
            gain, half = row.mean - same["mean"].iloc[0], math.nan if row.n == 1 else 1.5
            found.append(
                [row.dataset, row.role, row.trained_on, row.k, variant, reference, "top1", row.n, gain]
            )
            found[-1] += [1.7, 30.0, 0.04, gain - half - 2, gain + half + 2, 1.0]
            found[-1] += [gain - half, gain + half, gain - 3, gain + 3, row.n * int(gain > 0)]
    # One frame after another, as they are made: their row labels repeat.
    return pd.concat([pd.DataFrame([row], columns=PAIRED) for row in found]) if found else None


def measured(target, summary):
    return tables.measured(summary, tables.load_paper(target), PAIR_SHARE)


@pytest.fixture(scope="module")
def paper():
    return tables.load_paper("table5")


@pytest.fixture(scope="module")
def summary():
    return made("table5")


# Printed numbers

NOT_IN_PRINT = ("readings", "ablation", "rivals")


@pytest.mark.parametrize("target", tables.VARIANTS)
def test_printed_numbers_are_those_of_the_table_asked_for_and_parsed(target):
    paper = tables.load_paper(target)
    assert list(paper.columns) == tables.PAPER and set(paper["table"]) == ({target} if len(paper) else set())
    assert paper["k"].dtype == int and paper["value"].dtype == paper["spread"].dtype == float
    assert paper.drop(columns=["k", "value", "spread"]).map(lambda cell: isinstance(cell, str)).all().all()
    assert paper["value"].notna().all() and paper.empty == (target in NOT_IN_PRINT)
    own = paper[(paper["source"] != tables.COMPETITOR) & paper["metric"].isin(["top1", "top5"])]
    assert set(own["method"]) <= set(tables.VARIANTS[target])


def test_spreads_are_nan_where_none_is_printed():
    paper = tables.load_paper("table6").set_index(["method", "dataset"])["spread"]
    assert paper["full", "HMDB-51"] == 5.4 and paper["E2E", "UCF-101"] == 0
    assert tables.load_paper("table5")["spread"].isna().all()
    assert tables.origin(tables.load_paper("table5")) == "printed"
    assert tables.origin(tables.load_paper("figure3a")) == "derived"


@pytest.mark.parametrize(
    ("target", "damage", "message"),
    [
        ("table99", None, "table99.csv: no such file"),
        ("table6", ("5.4", "x"), "column spread is 'x'"),
        ("table6", ("50.1", "x"), "column value is 'x'"),
        ("table6", ("table6,", "table7,"), "no row has table table6"),
        ("figure3b", ("figure3b,", "figure3c,"), "figure3.csv: no row has table figure3b"),
    ],
)
def test_absent_and_damaged_printed_numbers_are_refused_in_one_line(
    tmp_path, monkeypatch, target, damage, message
):
    if damage:
        name = f"{target[:7] if target.startswith('figure') else target}.csv"
        text = (paths.root() / "results" / "paper" / name).read_text()
        assert damage[0] in text
        files.write_atomically(tmp_path / "results" / "paper" / name, text.replace(*damage))
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        tables.load_paper(target)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("target", tables.VARIANTS)
def test_the_order_of_variants_is_that_of_the_catalogue(target):
    found = catalogue.TARGETS[target]
    cells = found.cells(PROFILES["demo"])
    ran = {cell.variant for cell in cells}  # of an ablation as many of the known rows as are asked for
    assert ran == set(tables.VARIANTS[target]) or (
        target == "ablation" and ran < set(tables.VARIANTS[target])
    )
    first = [cell.variant for cell in cells if cell.role == cells[-1].role]
    if target != "rivals":  # whose rates are chosen first; its table has the untrained rows elsewhere
        assert list(dict.fromkeys(first)) == [name for name in tables.VARIANTS[target] if name in first]
    assert {name for pair in found.compare for name in pair} <= set(tables.VARIANTS[target])


# Saving and reading


def test_saved_results_read_back_and_their_bytes_do_not_depend_on_order(tmp_path):
    runs = tidy().assign(role=lambda frame: frame["role"].where(frame["dataset"] != "figures-u", ""))
    one = tidy_table.save_tidy(runs, tmp_path / "a" / "one.csv")
    two = tidy_table.save_tidy(runs.sample(frac=1, random_state=1), tmp_path / "two.csv")
    assert one.read_bytes() == two.read_bytes()
    back = tidy_table.read_tidy(one)
    assert tidy_table.save_tidy(back, tmp_path / "three.csv").read_bytes() == one.read_bytes()
    assert back["k"].dtype == int and set(back["role"]) == {"HMDB-51", ""} and "12e0" in set(back["key"])
    assert re.search(r",\d+\.\d{4},12e0$", one.read_text().splitlines()[1])
    other = tidy_table.save_tidy(tidy(seed=1), tmp_path / "other.csv")
    assert other.read_bytes() != one.read_bytes()


def test_a_table_is_the_same_before_and_after_saving(tmp_path, paper):
    summary = stats.summarise(tidy(), paper)
    back = stats.summarise(tidy_table.read_tidy(tidy_table.save_tidy(tidy(), tmp_path / "runs.csv")), paper)
    keys = ["dataset", "variant", "k", "metric"]
    pd.testing.assert_frame_equal(
        back.sort_values(keys, ignore_index=True), summary.sort_values(keys, ignore_index=True)
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("metric", "measure"), "metric"),
        (lambda text: text.replace("48.0000", "480.0000"), "between 0 and 100"),
        (lambda text: text.replace("48.0000", "high"), "high"),
        (lambda text: text.replace("48.0000", "nan"), "nan"),
        (
            lambda text: text.replace("table5,demo,figures-h,HMDB-51,,clip,0", "table5,demo,h,H,,clip,0.5"),
            "whole",
        ),
        (lambda text: text.splitlines()[0], "no rows"),
        (lambda text: "", "not a CSV"),
        (lambda text: text + ",".join("x" * (len(tidy_table.TIDY) + 1)) + "\n", "not a CSV"),
    ],
)
def test_malformed_results_are_refused_in_one_line(tmp_path, damage, message):
    path = tidy_table.save_tidy(tidy(seeds=1), tmp_path / "runs.csv")
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=message) as refused:
        tidy_table.read_tidy(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_absent_file_and_missing_column(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        tidy_table.read_tidy(tmp_path / "none.csv")
    with pytest.raises(InputError, match="seed"):
        tidy_table.save_tidy(tidy().drop(columns="seed"), tmp_path / "runs.csv")
    assert list(tmp_path.iterdir()) == []


# Tables


def test_order_blind_cap_equals_counting():
    for paired, classes in [(10, 16), (6, 24), (0, 5), (4, 4)]:
        right = sum(0.5 if number < paired else 1.0 for number in range(classes))
        assert tables.order_blind_cap(paired, classes) == pytest.approx(100 * right / classes)


def test_demo_caption_says_what_it_must_and_computes_it(summary):
    said = tables.caption(summary, PAIR_SHARE)
    assert said.startswith(tables.DEMO_NOTE) and "n = 3" in said and "test videos: ±" in said
    for part in ("10 of 16", "62.5 %", "68.8 %", "6 of 24", "25.0 %", "87.5 %"):
        assert part in said
    assert "2 of 16" in tables.caption(summary, PAIR_SHARE | {"figures-h": (2, 16)})
    with pytest.raises(ValueError, match="figures-u"):
        tables.caption(summary, {"figures-h": (10, 16)})
    assert tables.DEMO_NOTE in tables.caption(made("table5", "smoke", 1), PAIR_SHARE)
    assert "demo" not in tables.caption(made("table5", "paper"))
    without = summary.assign(video_low=math.nan, video_high=math.nan)
    assert "whose own spread is not in it" in tables.caption(without, PAIR_SHARE)
    assert "splits" not in said and "splits" in tables.caption(made("table7", "paper"))


def test_blocks_follow_the_papers_data_sets_and_clip_stands_in_each():
    shuffled = made("table8", "paper").sample(frac=1, random_state=2)
    assert [block.dataset for block in tables.blocks(shuffled)] == ["hmdb51", "ucf101", "kinetics400"]
    first, second = tables.blocks(made("table7"))
    assert (first.title(), first.source) == ("figures-h, n = 3, 3 splits", "trained on figures-u")
    assert "clip" in set(first.rows["variant"]) and "clip" in set(second.rows["variant"])
    both = pd.concat([first.rows, first.rows.assign(trained_on="Kinetics-400").query("variant == 'full'")])
    found = tables.blocks(both)
    assert [(block.trained_on, len(block.rows)) for block in found] == [("Kinetics-400", 14), ("UCF-101", 21)]
    assert tables.blocks(made("table5"))[0].title(with_k=False) == "figures-h, n = 3"
    alone = made("table4", "paper").assign(role="", trained_on="mine", dataset="mine")
    assert tables.blocks(alone)[0].source == ""


def text_of(row, low="low", high="high", column="mean"):
    half = "" if math.isnan(row[low]) else f" ± {(row[high] - row[low]) / 2:.1f}"
    return f"{row[column]:.1f}{half}"


@pytest.mark.parametrize("profile", ["demo", "paper"])
@pytest.mark.parametrize("target", [name for name in tables.VARIANTS if name != "table5"])
def test_every_table_shows_its_summary_in_the_papers_order(target, profile):
    summary = made(target, profile)
    frame = measured(target, summary).text
    places = PLACES.get(target, [(role, role) for role in BOTH])
    names = list(dict.fromkeys(frame.index.get_level_values(0)))
    assert len(names) == len(places) and len(frame) == len(places) * len(tables.VARIANTS[target])
    groups = {group for group, _ in frame.columns}
    said = tables.origin(tables.load_paper(target)) + (", other data" if profile == "demo" else "")
    assert {"measured", "test videos"} <= groups and (said in groups) == (target not in NOT_IN_PRINT)
    assert ("parts" in groups) == (profile == "demo")
    spread = tables.load_paper(target).query("source != 'printed competitor' and metric == 'top1'")
    for name, (role, trained_on) in zip(names, places, strict=True):
        assert (DEMO if profile == "demo" else REAL)[role] in name and "n = 3" in name
        source = (DEMO if profile == "demo" else REAL)[trained_on]
        assert (f"trained on {source if profile == 'demo' else trained_on}" in name) == (role != trained_on)
        assert list(frame.loc[name].index) == list(tables.VARIANTS[target])
        for variant in tables.VARIANTS[target]:
            rows = summary[(summary["role"] == role) & (summary["variant"] == variant)].set_index("metric")
            cells = frame.loc[(name, variant)]
            assert cells["measured", "top-1"] == text_of(rows.loc["top1"])
            assert cells["measured", "top-5"] == text_of(rows.loc["top5"])
            videos = (rows.loc["top1", "video_high"] - rows.loc["top1", "video_low"]) / 2
            assert cells["test videos", "top-1 ±"] == f"{videos:.1f}"
            if profile == "demo":
                assert cells["parts", "order"] == text_of(rows.loc["order"])
            if rows["splits"].max() > 1:
                assert cells["splits", "sd"] == f"{rows.loc['top1', 'split_sd']:.1f}"
            if said in groups:
                printed = spread[(spread["method"] == variant) & (spread["dataset"] == role)]
                expected = "" if printed.empty else f"{printed['value'].iloc[0]:.1f}"
                if len(printed) and printed["spread"].notna().all():
                    expected += f" ± {printed['spread'].iloc[0]:.1f}"
                assert cells[said, "top-1"] == expected


def test_zero_shot_table_shows_the_printed_spread_and_the_half_class_protocol():
    frame = measured("table6", made("table6")).text
    name = "trained on figures-k, tested on figures-h, n = 3, 3 splits; printed: HMDB-51"
    row, summary = frame.loc[(name, "full")], made("table6").query("role == 'HMDB-51' and variant == 'full'")
    assert row["printed, other data", "top-1"] == "50.1 ± 5.4"
    half = summary.set_index("metric")["mean"]["top1_half"]
    assert row["half of the classes", "top-1 ± sd"] == f"{half:.1f} ± 3.4"
    assert frame.loc[(name, "clip")]["printed, other data", "top-1"] == ""
    assert "±" not in frame.loc[(name, "clip")]["measured", "top-1"]


def test_table5_shows_measured_beside_printed_and_parts(summary):
    frame = measured("table5", summary).text
    row = frame.loc[("figures-h, n = 3; printed: HMDB-51", "full")]
    cell = summary.query("dataset == 'figures-h' and variant == 'full' and k == 4 and metric == 'top1'").iloc[
        0
    ]
    assert row["measured top-1", "k=4"] == text_of(cell)
    assert row["test videos, top-1 ±", "k=4"] == f"{(cell['video_high'] - cell['video_low']) / 2:.1f}"
    assert row["printed, other data", "k=4"] == "58.7"
    assert row["measured, k=16 (clip: k=0)", "order"].startswith("65.0 ± ")
    clip = frame.loc[("figures-h, n = 3; printed: HMDB-51", "clip")]
    cell = summary.query("dataset == 'figures-h' and variant == 'clip' and metric == 'top1'").iloc[0]
    assert (clip["measured top-1", "k=0"], clip["measured top-1", "k=2"]) == (f"{cell['mean']:.1f}", "")
    assert (clip["measured, k=16 (clip: k=0)", "order"], clip["printed, other data", "k=2"]) == ("50.0", "")
    assert row["measured top-1", "k=0"] == ""


def test_what_the_statistics_give_is_what_tables_and_figures_take(paper):
    runs = tidy(seeds=2)
    summary = stats.summarise(runs, paper)
    pairs = catalogue.TARGETS["table5"].compare
    paired = pd.concat([stats.paired_difference(runs, *pair) for pair in pairs])
    assert list(summary.columns) == SUMMARY and set(paired.columns) == set(PAIRED)
    cells = measured("table5", summary).text.loc[("figures-u, n = 2; printed: UCF-101", "mmb")]
    row = summary.query("dataset == 'figures-u' and variant == 'mmb' and k == 8 and metric == 'top1'").iloc[0]
    assert cells["measured top-1", "k=8"] == text_of(row) and cells["printed, other data", "k=8"] == "81.5"
    assert len(tables.differences(paired).text) == 2 * len(pairs)
    assert set(plots.figures("table5", summary, paper, paired)) == {
        "table5",
        "table5_controls",
        "table5_differences",
    }


def test_real_data_needs_no_shares_and_marks_the_printed_column_plainly():
    frame = tables.measured(made("table5", "paper", 1), tables.load_paper("table5")).text
    assert {group for group, _ in frame.columns} == {"measured top-1", "test videos, top-1 ±", "printed"}
    assert "±" not in "".join(frame["measured top-1"].to_numpy().ravel())  # a single run has no interval


def test_controls_table(summary):
    frame = tables.controls(summary).text
    assert list(frame.columns) == ["in order", "shuffled", "reversed", "one frame repeated"]
    assert frame.loc[("figures-u, k = 16, n = 3", "full"), "reversed"] == "25.0 | 35.0"
    assert frame.loc[("figures-u, k = 16, n = 3", "clip"), "reversed"] == "25.0 | 50.0"
    without = tables.controls(made("table5", "paper"))
    assert list(without.text.columns) == ["in order"] and "no controls" in without.caption


def test_differences_show_both_spreads_and_the_runs_with_a_gain():
    nan, h, u = math.nan, ("figures-h", "HMDB-51", "HMDB-51"), ("figures-u", "UCF-101", "UCF-101")
    found = [
        [*u, 4, "full", "baseline", "top1", 3, 13.5, 2, 9, 0.001, 9.0, 18.0, 1, 11.5, 15.5, 9.4, 17.6, 3],
        [*h, 2, "full", "baseline", "top1", 3, -0.04, *[nan] * 6, -1, 1, nan, nan, 1],
        [*h, 2, "mmb", "clip", "order", 1, 4, *[nan] * 10, 1],
    ]
    paired = pd.DataFrame(found, columns=PAIRED)
    table = tables.differences(paired)
    frame = table.text
    assert list(dict.fromkeys(frame.index.get_level_values(0))) == ["figures-h", "figures-u"]
    assert frame.loc[("figures-u", "full - baseline"), "k=4"] == "+13.5 ± 4.5 (2.0, 4.1), 3/3 *"
    assert frame.loc[("figures-h", "full - baseline"), "k=2"] == "+0.0 (1.0, -), 1/3"
    assert frame.loc[("figures-h", "mmb - clip, order"), "k=2"] == "+4.0, 1/1"
    assert "at once" in table.caption and "Benjamini" in table.caption
    (shown, css), *none = table.panels
    assert (
        not none
        and shown.loc["full - baseline", ("figures-u", "k=4")]
        == "+13.5 ± 4.5\nruns ± 2.0, videos ± 4.1, 3/3 runs"
    )
    assert css.loc["full - baseline"].tolist() == [
        f"color: {colour}" for colour in (rendering.OPEN, rendering.GAIN)
    ]
    other = tables.differences(paired[:1].assign(k=0, trained_on="HMDB-51")).text
    assert other.loc[("trained on figures-h, tested on figures-u", "full - baseline"), "points"].startswith(
        "+13"
    )


def test_text_table_by_hand():
    columns = pd.MultiIndex.from_tuples([("ours", "k=2"), ("ours", "k=4"), ("a long name", "k=2")])
    index = pd.MultiIndex.from_tuples(
        [("h, n = 3", "clip"), ("h, n = 3", "full")], names=["data set", "variant"]
    )
    frame = pd.DataFrame([["", "1.0", "2.0"], ["9.0 ± 1.0", "3.0", ""]], index=index, columns=columns)
    frame.attrs["caption"] = "note"
    assert tables.text_table(frame).splitlines() == [
        "note",
        "",
        "h, n = 3",
        "         ours            a long name",
        "variant  k=2        k=4  k=2",
        "------------------------------------",
        "clip                1.0  2.0",
        "full     9.0 ± 1.0  3.0",
    ]


def test_flat_columns_are_folded_one_by_one():
    frame = pd.DataFrame(
        [["x" * 40, "y" * 40, "z" * 40]], index=pd.Index(["a"], name="row"), columns=list("bcd")
    )
    first, second = tables.text_table(frame).strip().split("\n\n")
    assert "x" in first and "y" in first and "z" not in first and "z" in second


@pytest.mark.parametrize("profile", ["demo", "paper"])
@pytest.mark.parametrize("target", tables.VARIANTS)
def test_text_tables_are_stable_and_fit_a_notebook(target, profile):
    summary = made(target, profile, 10)
    paired = compared(target, summary)
    shown = [measured(target, summary), tables.controls(summary)]
    shown += [tables.differences(paired)] if paired is not None else []
    for table in shown:
        assert max(map(len, str(table).splitlines())) <= tables.WIDTH
        assert (str(table), table._repr_html_()) == (str(table), table._repr_html_())
    assert str(measured(target, summary.sample(frac=1, random_state=5))) == str(shown[0])


def test_a_page_shows_each_value_of_the_text_and_the_best_in_bold(summary):
    table = measured("table5", summary)
    (scores, css), (parts, _) = table.panels
    at = ("figures-h, n = 3; printed: HMDB-51", "k=4")
    row = summary.query("dataset == 'figures-h' and variant == 'full' and k == 4 and metric == 'top1'").iloc[
        0
    ]
    videos = f"{(row['video_high'] - row['video_low']) / 2:.1f}"
    assert scores.loc["full", at] == f"{text_of(row)} [58.7]\nvideos ± {videos}"
    means = summary.query("dataset == 'figures-h' and k == 4 and metric == 'top1'").set_index("variant")[
        "mean"
    ]
    assert list(css.index[css[at] != ""]) == [means.idxmax()] and set(css[at]) == {"", "font-weight: bold"}
    assert {name for _, name in parts.columns} == {"pairs", "rest", "order"}
    text = html.unescape(re.sub(r"<[^>]+>", " ", table._repr_html_()))
    assert {*re.findall(r"\d+\.\d", str(table.text.to_csv()))} <= {*re.findall(r"\d+\.\d", text)}
    assert tables.DEMO_NOTE in text and "62.5 %" in text
    assert table._repr_html_().count("<table") == 3  # ten columns of scores: a table for each data set


def test_tables_for_papers(summary):
    table = measured("table5", summary)
    rows = table.to_markdown().splitlines()
    assert rows[0].startswith("| variant | figures-h, n = 3; printed: HMDB-51 k=0 |") and set(rows[1]) == set(
        "| -"
    )
    assert len({line.count(" | ") for line in rows[:8]} - {0}) <= 2 and any("**" in row for row in rows)
    latex = table.to_latex()
    assert (
        latex.count(r"\begin{tabular}") == 2
        and r"\bfseries" in latex
        and r"$\pm$" in latex
        and "videos" not in latex
    )


def test_markup_in_names_is_text_on_a_page(summary):
    odd = summary.replace({"variant": {"mmb": "<b>mmb</b> & [x]"}})
    page = measured("table5", odd)._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;mmb&lt;/b&gt; &amp; [x]" in page


def own_grid():
    """A table with a row more, a row less and k of its own; no printed counterpart for some of it."""
    summary = made("table5").query("variant not in ('mcb', 'clip') and k in (2, 16)")
    more = summary[summary["variant"] == "mmb"].assign(variant="mmb, learned positions, s=2", paper=math.nan)
    return pd.concat([summary, more, more[more["k"] == 2].assign(variant="T=16", k=3)], ignore_index=True)


def test_any_grid_has_tables_and_figures():
    summary, nothing = own_grid(), tables.load_paper("ablation")
    assert nothing.empty and list(nothing.columns) == tables.PAPER
    names = ["baseline", "mmb", "mmb+map", "full", "mmb, learned positions, s=2", "T=16"]
    assert tables.variants(summary) == names and tables.axis_of(summary) == "k"
    for paper in (nothing, tables.load_paper("table5")):
        table = tables.measured(summary, paper, PAIR_SHARE)
        assert "mmb, learned positions, s=2" in str(table) and "k=3" in table._repr_html_()
        assert len(plots.accuracy(summary, paper).axes) == (4 if len(paper) else 2)
    alone = summary[summary["k"] == 16].assign(target="ablation", paper=math.nan)
    assert tables.axis_of(alone) is None and len(plots.accuracy(alone, nothing).axes) == 2
    steps = made("figure3d").replace({"variant": {"s=4": "s=7"}}).assign(target="ablation", paper=math.nan)
    assert tables.axis_of(steps) == "s"
    ticks = [text.get_text() for text in plots.accuracy(steps, nothing).axes[0].get_xticklabels()]
    assert ticks == ["1", "2", "3", "5", "7"]


# Figures

DRAWN = [(target, "demo") for target in tables.VARIANTS]
DRAWN += [(target, "paper") for target in ("table1", "table5", "table6", "table8", "figure3a", "figure3d")]


@functools.cache
def figures_of(target, profile):
    summary = made(target, profile)
    return plots.figures(target, summary, tables.load_paper(target), compared(target, summary))


def marks(ax, across):
    """Values of the marks of an axes: filled ones and hollow ones. across: values run along x."""
    found = {"filled": [], "hollow": []}
    for dots in (one for one in ax.collections if isinstance(one, mpl.collections.PathCollection)):
        for (x, y), face in zip(dots.get_offsets(), dots.get_facecolors(), strict=True):
            found["filled" if face[3] else "hollow"].append(round(float(x if across else y), 6))
    for line in ax.get_lines():  # competitors over k
        if line.get_markerfacecolor() == "white":
            found["hollow"] += [round(float(value), 6) for value in line.get_ydata()]
    return sorted(found["filled"]), sorted(found["hollow"])


def bars(ax, across):
    """(low, high) of the intervals of an axes."""
    collections = [one for one in ax.collections if isinstance(one, mpl.collections.LineCollection)]
    ends = [
        segment[:, 0 if across else 1]
        for one in collections
        for segment in one.get_segments()
        if segment.size
    ]
    return sorted((round(float(low), 6), round(float(high), 6)) for low, high in ends)


def intervals(rows, names=(("low", "high"), ("video_low", "video_high"))):
    pairs = [pair for low, high in names for pair in zip(rows[low], rows[high], strict=True)]
    return sorted((round(low, 6), round(high, 6)) for low, high in pairs if not math.isnan(low))


def axes_of(figure, blocks):
    """(axes of what is measured, axes of what is printed) of each block; one axes may be both."""
    assert len(figure.axes) in (blocks, 2 * blocks)
    return list(zip(figure.axes[:blocks], figure.axes[-blocks:], strict=True))


@pytest.mark.parametrize(("target", "profile"), DRAWN)
def test_figure_draws_exactly_the_summary_and_the_printed_values(target, profile):
    summary, paper = made(target, profile), tables.load_paper(target)
    axis, figure = catalogue.TARGETS[target].axis, figures_of(target, profile)[target]
    places = PLACES.get(target, [(role, role) for role in BOTH])
    across = axis is None
    drawn = axes_of(figure, len(places))
    for (role, trained_on), (measured, printed) in zip(places, drawn, strict=True):
        ours = summary[(summary["role"] == role) & (summary["metric"] == "top1")]
        ours = ours if across else ours[ours["variant"] != "clip"]
        theirs = paper[(paper["dataset"] == role) & (paper["metric"] == "top1")]
        theirs = theirs[theirs["trained_on"].isin(["", trained_on])]
        spreads = theirs.dropna(subset="spread")
        spreads = spreads.assign(
            low=spreads["value"] - spreads["spread"], high=spreads["value"] + spreads["spread"]
        )
        hollow, printed_bars = sorted(theirs["value"].round(6)), intervals(spreads, [("low", "high")])
        filled, own_bars = sorted(ours["mean"].round(6)), intervals(ours)
        if measured is printed:
            assert (
                profile == "paper" or theirs.empty
            )  # in the demo they concern other data: never on the same axes
            assert marks(measured, across) == (filled, hollow)
            assert bars(measured, across) == sorted(own_bars + printed_bars)
        else:
            assert marks(measured, across) == (filled, []) and marks(printed, across) == ([], hollow)
            assert bars(measured, across) == own_bars and bars(printed, across) == printed_bars
            assert role in printed.get_title("left") and "other data" in printed.get_title("left")
        title = measured.get_title("left")
        assert "n = 3" in title and (DEMO if profile == "demo" else REAL)[role] in title
        assert ("trained on" in title) == (role != trained_on)


@pytest.mark.parametrize(("target", "profile"), DRAWN)
def test_differences_are_drawn_with_their_intervals(target, profile):
    paired = compared(target, made(target, profile))
    figure = figures_of(target, profile).get(f"{target}_differences")
    assert (figure is None) == (paired is None)
    if paired is None:
        return
    over_k = catalogue.TARGETS[target].axis == "k"
    places = PLACES.get(target, [(role, role) for role in BOTH])
    drawn = axes_of(figure, len(places))
    for (role, _), (measured, printed) in zip(places, drawn, strict=True):
        ours = paired[paired["role"] == role]
        assert marks(measured, not over_k)[0] == sorted(ours["mean"].round(6))
        names = [("low", "high"), ("run_low", "run_high"), ("video_low", "video_high")]
        assert bars(measured, not over_k) == intervals(ours, names)
        assert measured is not printed or profile == "paper" or not marks(measured, not over_k)[1]


@pytest.mark.parametrize(
    ("target", "role", "expected"),
    [
        ("table7", "UCF-101", [28.9]),
        ("table1", "HMDB-51", [25.2, 25.4, 27.6]),
        ("figure3a", "UCF-101", [0.8, 0.9, 12.5, 16.0]),  # the last pair from the derived scores: 74.7 - 62.2
        ("figure3c", "HMDB-51", [1.1]),
        ("figure3b", "HMDB-51", []),
        ("table4", "Kinetics-400", [1.2, 2.4, 3.1, 3.6, 6.7]),
    ],
)
def test_printed_differences_are_those_stated_or_follow_from_the_printed_scores(target, role, expected):
    paired = compared(target, made(target, "paper"))
    block = next(block for block in tables.blocks(paired) if block.role == role)
    found = plots._printed_differences(tables.load_paper(target), block)
    assert sorted(found["value"].round(6)) == expected


@pytest.mark.parametrize(("target", "profile"), DRAWN)
def test_legends_stay_off_the_data_and_no_text_is_cut(target, profile):
    for figure in figures_of(target, profile).values():
        legend, page = figure.legends[0].get_window_extent(), figure.bbox
        assert figure.get_figwidth() == 9.5
        assert not any(legend.overlaps(ax.get_window_extent()) for ax in figure.axes)
        texts = [
            *figure.legends[0].get_texts(),
            *figure.texts,
            *([figure._suptitle] if profile == "demo" else []),
        ]
        for ax in figure.axes:
            texts += [*ax.texts, ax._left_title, ax.xaxis.label, ax.yaxis.label]
            for one, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
                texts += [tick.label1 for tick in one.get_major_ticks() if low <= tick.get_loc() <= high]
        texts = [text for text in texts if text.get_visible() and text.get_text()]
        assert len(texts) > 10 and min(text.get_fontsize() for text in texts) >= 8.5
        for text in texts:
            box = text.get_window_extent()
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, (
                text.get_text()
            )


def test_labels_keep_their_distance():
    heights = plots._spread(np.array([55.4, 56.1, 31.0, 56.0]), 3.0)
    assert np.diff(np.sort(heights)).min() >= 3 - 1e-9 and heights[2] == 31
    assert list(np.argsort(heights)) == [2, 0, 3, 1]
    assert heights[[0, 1, 3]].mean() == pytest.approx(np.mean([55.4, 56.1, 56.0]))


def test_pairs_over_k_are_told_apart_by_colour_and_by_shape():
    labels = ["mmb - baseline", "mmb+map - mmb", "full - mmb+map", "mcb - baseline", "full - baseline"]
    styles = plot_style.unique_styles(labels)
    assert list(styles) == labels
    assert len({color for color, _ in styles.values()}) == len({marker for _, marker in styles.values()}) == 5
    many = plot_style.unique_styles(f"full, s={s}" for s in range(20))
    assert len(set(many.values())) == 20 and many["full, s=0"] == plot_style.STYLE["full"]


def test_controls_figure_needs_controls(summary):
    assert len(plots.controls(summary).axes) == 4
    with pytest.raises(InputError, match="controls"):
        plots.controls(summary[summary["metric"] == "top1"])


def test_files_of_figures_repeat_to_the_byte(tmp_path, summary):
    summary = summary[summary["dataset"] == "figures-h"]  # half the axes, half the time
    paired = compared("table5", summary)

    def drawn(rows, paired):
        return plots.files(plots.figures("table5", rows, tables.load_paper("table5"), paired), tmp_path)

    first = drawn(summary, paired)
    names = ["table5", "table5_controls", "table5_differences"]
    assert [path.name for path in first] == [f"{name}.{kind}" for name in names for kind in ("svg", "png")]
    assert {path.parent for path in first} == {tmp_path / "figures"} and drawn(summary, paired) == first
    plain = summary[summary["metric"] == "top1"].assign(mean=summary["mean"] + 0.5)
    other, svg = drawn(plain, None), tmp_path / "figures" / "table5.svg"
    assert len(other) == 2 and other[svg] != first[svg]


# Notebooks


def write_notebook(path: Path, *cells: str) -> Path:
    made = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell("profile = 'demo'\nruns = 3", metadata={"tags": ["parameters"]})
    made.cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(made, path)
    return path


def test_notebook_runs_with_this_interpreter_and_leaves_one_file(tmp_path, monkeypatch):
    foreign = tmp_path / "foreign" / "kernels" / "python3" / "kernel.json"
    files.write_atomically(foreign, '{"argv": ["false"], "display_name": "x", "language": "python"}')
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "foreign"))
    before = dict(os.environ)
    folder = tmp_path / "odd {name} here"
    folder.mkdir()
    source = write_notebook(
        folder / "one.ipynb",
        "import sys, os, flowclip_core\nprint('by', sys.executable, 'in', os.getcwd(), profile, runs + 1)",
        "%matplotlib inline\nfrom matplotlib.figure import Figure\nf = Figure()\nf.subplots()\nf",
    )
    page = notebooks.execute(source, {"profile": "it's <b>"}, folder / "out" / "one.html", folder, timeout=60)
    text = page.read_text(encoding="utf-8")
    assert f"by {sys.executable} in {folder.resolve()} it's &lt;b&gt; 4" in text
    assert 'src="data:image/png' in text and not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert [path.name for path in page.parent.iterdir()] == ["one.html"]
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["one.ipynb"]
    assert dict(os.environ) == before


def test_what_runs_notebooks_is_whole_before_another_thread_draws(tmp_path):
    """matplotlib asks a half-loaded IPython for its version, and a table's figures fail at random."""
    source = write_notebook(tmp_path / "one.ipynb", "1")
    run = f"""
import sys
from pathlib import Path
from flowclip_kit.reporting import notebooks
assert "IPython" not in sys.modules
notebooks.load()
before = set(sys.modules)
html, cwd = Path({str(tmp_path / "one.html")!r}), Path({str(tmp_path)!r})
notebooks.execute(Path({str(source)!r}), {{}}, html, cwd, 60)
print((set(sys.modules) - before) & {{"IPython", "ipykernel", "nbconvert", "papermill"}})
"""
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=paths.root(), capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "set()\n", done.stdout + done.stderr
    assert (tmp_path / "one.html").exists()


@pytest.mark.parametrize(
    ("cell", "kind", "message"),
    [
        (
            "print(1)\n1 / 0",
            RuntimeError,
            "one.ipynb, code cell 2 .*print.*: ZeroDivisionError: division by zero",
        ),
        ("import sys\nsys.exit(0)", RuntimeError, "code cell 2 .*never ran"),
    ],
)
def test_a_failing_notebook_leaves_no_html(tmp_path, cell, kind, message):
    source = write_notebook(tmp_path / "one.ipynb", cell, "2")
    html = tmp_path / "one.html"
    html.write_text("an older report")
    with pytest.raises(kind, match=message) as failed:
        notebooks.execute(source, {}, html, tmp_path, timeout=60)
    assert "\n" not in str(failed.value) and not html.exists()
    assert len(nbformat.read(tmp_path / "one.failed.ipynb", as_version=4).cells) >= 3
    assert {path.name for path in tmp_path.iterdir()} == {"one.ipynb", "one.failed.ipynb"}


def test_a_cell_that_refuses_its_input_does_so_like_the_command_line(tmp_path):
    error = RuntimeError("a long traceback")
    error.ename, error.evalue = "InputError", "x.csv: gone; make it"
    said = notebooks._one_line(error, Path("one.ipynb"), tmp_path / "none.ipynb", "")
    assert isinstance(said, InputError) and str(said).startswith("x.csv: gone; make it (one.ipynb")
    error.ename = "KeyError"
    assert isinstance(
        notebooks._one_line(error, Path("one.ipynb"), tmp_path / "none.ipynb", ""), RuntimeError
    )


def test_unknown_parameters_and_unreadable_notebooks_are_refused(tmp_path):
    source = write_notebook(tmp_path / "one.ipynb", "1")
    with pytest.raises(InputError, match="no parameter profle; its parameters: profile, runs"):
        notebooks.execute(source, {"profle": "paper", "runs": 1}, tmp_path / "one.html", tmp_path)
    with pytest.raises(InputError, match="no such notebook"):
        notebooks.execute(tmp_path / "none.ipynb", {}, tmp_path / "one.html", tmp_path)
    (tmp_path / "two.ipynb").write_text("{")
    with pytest.raises(InputError, match="not a notebook"):
        notebooks.execute(tmp_path / "two.ipynb", {}, tmp_path / "one.html", tmp_path)
    assert not (tmp_path / "one.html").exists()


def test_the_table5_notebook_keeps_the_craft_rules():
    made = nbformat.read(paths.root() / "notebooks" / "table5.ipynb", as_version=4)
    nbformat.validate(made)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert made.metadata.kernelspec == {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    assert len(code) <= 10 and all(len(cell.source.splitlines()) <= 12 for cell in code[1:])
    assert not any(re.search(r"^\s*(def|class|if) ", cell.source, re.MULTILINE) for cell in code)
    assert [cell for cell in made.cells if "parameters" in cell.metadata.get("tags", [])] == [code[0]]
    prose = " ".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert not re.search(r"\d", re.sub(r"Table 5|HMDB-51|UCF-101", "", prose))  # numbers in prose go stale
