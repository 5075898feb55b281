"""Reporting: intervals that cover, printed numbers as printed, text and SVG that repeat, strict notebooks."""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from flowclip_core import paths
from flowclip_core.errors import InputError
from flowclip_core.experiments import tidy as tidy_table
from flowclip_core.reporting import notebooks, plots, stats, tables

FLAGS = {"clip": "000", "baseline": "000", "mcb": "001", "mmb": "100", "mmb+map": "110", "full": "111"}
PAIR_SHARE = {"figures-h": (10, 16), "figures-u": (6, 24)}
PAPER_TEXT = paths.root().parent / "shared" / "paper.txt"


def rows(dataset, role, variant, k, seed, scores, profile="demo"):
    mmb, map_, mcb = map(int, FLAGS[variant])
    common = dict(target="table5", profile=profile, dataset=dataset, role=role, variant=variant, mmb=mmb, map=map_)
    common |= dict(mcb=mcb, k=k, seed=seed, split=1, views="1x1", key=f"12e{seed}")
    return [common | {"metric": metric, "value": value} for metric, value in scores.items()]


def tidy(profile="demo", seeds=3, seed=0):
    """A grid of plausible size: 5 variants, 4 k, the zero-shot row; the demo's has pairs and controls."""
    rng = np.random.default_rng(seed)
    demo = profile in ("demo", "smoke")
    sets = ("figures-h", "figures-u") if demo else ("hmdb51", "ucf101")
    found = []
    for dataset, role in zip(sets, ("HMDB-51", "UCF-101"), strict=True):
        zero_shot = {"zero_shot_top1": 33.2, "zero_shot_top1_pairs": 21.0, "zero_shot_order": 48.0}
        found += rows(dataset, role, "clip", 0, 0, zero_shot, profile)
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


@pytest.fixture(scope="module")
def paper():
    return tables.load_paper("table5")


@pytest.fixture(scope="module")
def summary(paper):
    return stats.summarise(tidy(), paper)


# Intervals


def test_interval_of_three_runs_by_hand():
    x = [62.5, 60.0, 66.1]
    mean = sum(x) / 3
    half = 4.303 * math.sqrt(sum((v - mean) ** 2 for v in x) / 2) / math.sqrt(3)
    assert stats.t_interval(x) == pytest.approx((mean, mean - half, mean + half), abs=1e-3)


@pytest.mark.parametrize("n", [3, 10])
def test_interval_covers_the_truth_in_95_of_100_experiments(n):
    draws = np.random.default_rng(n).normal(50, 3, (4000, n))
    covered = [low <= 50 <= high for _, low, high in map(stats.t_interval, draws)]
    assert 0.93 < np.mean(covered) < 0.97


def test_one_run_has_no_interval_and_none_is_refused():
    mean, low, high = stats.t_interval([40.0])
    assert mean == 40 and math.isnan(low) and math.isnan(high)
    for nothing in ([], [1.0, math.nan]):
        with pytest.raises(ValueError):
            stats.t_interval(nothing)


def test_summary_equals_a_slow_one_and_carries_the_printed_value(summary, paper):
    runs = tidy()
    picked = runs.query("dataset == 'figures-h' and variant == 'full' and k == 16 and metric == 'top1'")["value"]
    row = summary.query("dataset == 'figures-h' and variant == 'full' and k == 16 and metric == 'top1'").iloc[0]
    assert (row["n"], row["paper"]) == (3, 64.6)
    assert (row["mean"], row["sd"]) == pytest.approx((picked.mean(), picked.std(ddof=1)), abs=1e-4)
    assert row["low"] < picked.mean() < row["high"]
    assert summary.loc[summary["metric"] != "top1", "paper"].isna().all()
    assert len(summary) == len(runs.drop_duplicates(stats.CELL))


def test_a_run_that_appears_twice_is_refused(paper):
    runs = tidy()
    with pytest.raises(InputError, match="twice"):
        stats.summarise(pd.concat([runs, runs.tail(1)]), paper)


def test_paired_difference_removes_what_a_seed_shares():
    luck = [0.0, 10.0, -7.0]
    found = []
    for seed, shift in enumerate(luck):
        found += rows("figures-h", "HMDB-51", "baseline", 4, seed, {"top1": 40 + shift})
        found += rows("figures-h", "HMDB-51", "full", 4, seed, {"top1": 45 + shift + 0.1 * seed})
    result = stats.paired_difference(pd.DataFrame(found).sample(frac=1, random_state=3), "full", "baseline").iloc[0]
    half = 4.303 * 0.1 / math.sqrt(3)
    assert (result["n"], result["wins"]) == (3, 3)
    assert (result["mean"], result["low"], result["high"]) == pytest.approx((5.1, 5.1 - half, 5.1 + half), abs=1e-3)
    reverse = stats.paired_difference(pd.DataFrame(found), "baseline", "full").iloc[0]
    assert (reverse["mean"], reverse["wins"]) == (-result["mean"], 0)
    with pytest.raises(InputError, match="mmb"):
        stats.paired_difference(pd.DataFrame(found), "mmb", "baseline")


# Printed numbers


def test_every_printed_number_of_table_5_is_there_exactly_once(paper):
    if not PAPER_TEXT.is_file():
        pytest.skip("the paper's text is not beside the checkout")
    above = PAPER_TEXT.read_text(encoding="utf-8").split("\nTable 5:")[0]
    block = above[above.rindex("Methods\tMMB") :]
    printed = [list(map(float, re.findall(r"\d+\.\d", line))) for line in block.splitlines()]
    printed = [line for line in printed if line]
    ours = [group.sort_values(["dataset", "k"])["value"].tolist() for _, group in paper.groupby("method", sort=False)]
    assert ours == printed and sum(map(len, printed)) == len(paper) == 72


def test_the_papers_variants_carry_their_switches(paper):
    own = paper[paper["source"] == "printed"]
    flags = {row.method: row.mmb + row.map + row.mcb for row in own.itertuples()}
    assert flags == {name: flag for name, flag in FLAGS.items() if name != "clip"}
    assert paper["spread"].isna().all() and not paper.duplicated(["method", "dataset", "k"]).any()
    with pytest.raises(InputError, match="table99.csv"):
        tables.load_paper("table99")


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


def test_a_table_is_the_same_before_and_after_saving(tmp_path, paper, summary):
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
            lambda text: text.replace("table5,demo,figures-h,HMDB-51,clip,0", "table5,demo,h,H,clip,0.5"),
            "whole",
        ),
        (lambda text: text.splitlines()[0], "no rows"),
        (lambda text: "", "not a CSV"),
        (lambda text: text + "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q\n", "not a CSV"),
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


def test_demo_caption_says_what_it_must_and_computes_it(summary, paper):
    said = tables.caption(summary, PAIR_SHARE)
    assert said.startswith(tables.DEMO_NOTE)
    for part in ("10 of 16", "62.5 %", "68.8 %", "6 of 24", "25.0 %", "87.5 %"):
        assert part in said
    assert "2 of 16" in tables.caption(summary, PAIR_SHARE | {"figures-h": (2, 16)})
    with pytest.raises(ValueError, match="figures-u"):
        tables.caption(summary, {"figures-h": (10, 16)})
    assert tables.DEMO_NOTE in tables.caption(stats.summarise(tidy("smoke", seeds=1), paper), PAIR_SHARE)
    assert "demo" not in tables.caption(stats.summarise(tidy("paper"), paper))


def test_table5_shows_measured_beside_printed_and_parts(summary):
    frame = tables.table5(summary, PAIR_SHARE)
    row = frame.loc[("figures-h, n = 3; printed: HMDB-51", "full")]
    cell = summary.query("dataset == 'figures-h' and variant == 'full' and k == 4 and metric == 'top1'").iloc[0]
    assert row["measured top-1", "k=4"] == f"{cell['mean']:.1f} ± {(cell['high'] - cell['low']) / 2:.1f}"
    assert row["printed, other data", "k=4"] == "58.7"
    assert row["measured, k=16 (clip: k=0)", "order"] == "82.0 ± 0.0"
    clip = frame.loc[("figures-h, n = 3; printed: HMDB-51", "clip")]
    assert (clip["measured top-1", "k=0"], clip["measured top-1", "k=2"]) == ("33.2", "")
    assert (clip["measured, k=16 (clip: k=0)", "order"], clip["printed, other data", "k=2"]) == ("48.0", "")


def test_real_data_needs_no_shares_and_marks_the_printed_column_plainly(paper):
    frame = tables.table5(stats.summarise(tidy("paper", seeds=1), paper))
    assert {group for group, _ in frame.columns} == {"measured top-1", "printed"}
    assert "±" not in "".join(frame["measured top-1"].to_numpy().ravel())  # a single run has no interval


def test_controls_table(summary, paper):
    frame = tables.controls(summary)
    assert list(frame.columns) == ["in order", "shuffled", "reversed", "one frame repeated"]
    assert frame.loc[("figures-u, k=16, n = 3", "full"), "reversed"] == "25.0 | 18.0"
    assert "clip" not in frame.index.get_level_values(1)
    without = tables.controls(stats.summarise(tidy("paper"), paper))
    assert list(without.columns) == ["in order"] and "no controls" in without.attrs["caption"]


def test_unknown_variant_is_named(summary):
    with pytest.raises(InputError, match="mmbx"):
        tables.table5(summary.replace({"variant": {"mmb": "mmbx"}}), PAIR_SHARE)


def test_text_table_by_hand():
    columns = pd.MultiIndex.from_tuples([("ours", "k=2"), ("ours", "k=4"), ("a long name", "k=2")])
    index = pd.MultiIndex.from_tuples([("h, n = 3", "clip"), ("h, n = 3", "full")], names=["data set", "variant"])
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


def test_text_tables_are_stable_and_fit_a_notebook(summary, paper):
    runs = tidy()
    gains = stats.paired_difference(runs, "full", "baseline")
    frames = [tables.table5(summary, PAIR_SHARE), tables.controls(summary), tables.differences(gains)]
    for frame in frames:
        text = tables.text_table(frame)
        assert text == tables.text_table(frame) and max(map(len, text.splitlines())) <= tables.WIDTH
    again = stats.summarise(runs.sample(frac=1, random_state=5), paper)
    assert tables.text_table(tables.table5(again, PAIR_SHARE)) == tables.text_table(frames[0])
    assert f"{gains['mean'].iloc[0]:+.1f}" in tables.text_table(frames[2])


# Figures


def drawn(ax, filled):
    """Heights of all marks of an axes, by whether they are filled."""
    lines = [line for line in ax.get_lines() if line.get_marker() not in ("None", None, "")]
    wanted = [line for line in lines if (line.get_markerfacecolor() != "white") == filled]
    return sorted(round(float(y), 6) for line in wanted for y in line.get_ydata())


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_figure_draws_exactly_the_means_and_the_printed_values(paper, profile):
    summary = stats.summarise(tidy(profile), paper)
    axes = plots.accuracy_over_k(summary, paper).axes
    measured, printed = (axes[0], axes[1]) if profile == "demo" else (axes[0], axes[0])
    first = sorted(summary["dataset"].unique())[0]
    ours = summary[(summary["dataset"] == first) & (summary["metric"] == "top1")]
    assert drawn(measured, True) == sorted(ours["mean"].round(6))
    assert drawn(printed, False) == sorted(paper.loc[paper["dataset"] == "HMDB-51", "value"])
    if profile == "demo":  # printed values concern other data: never on the same axes
        assert drawn(measured, False) == [] and drawn(printed, True) == []
        assert "printed, HMDB-51" in printed.get_title("left")


def test_legends_and_labels_stay_off_the_data(summary, paper):
    figure = plots.accuracy_over_k(summary, paper)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes)
    heights = plots._spread(np.array([55.4, 56.1, 31.0, 56.0]), 3.0)
    assert np.diff(np.sort(heights)).min() >= 3 - 1e-9 and heights[2] == 31
    assert list(np.argsort(heights)) == [2, 0, 3, 1]
    assert heights[[0, 1, 3]].mean() == pytest.approx(np.mean([55.4, 56.1, 56.0]))


def test_controls_figure_needs_controls(summary):
    assert len(plots.controls(summary).axes) == 4
    with pytest.raises(InputError, match="controls"):
        plots.controls(summary[summary["metric"] == "top1"])


def test_figures_are_written_whole_and_svg_bytes_repeat(tmp_path, summary, paper):
    summary = summary[summary["dataset"] == "figures-h"]  # half the axes, half the time
    first = plots.write_figures("table5", summary, tmp_path / "one")
    second = plots.write_figures("table5", summary, tmp_path / "two")
    assert [path.name for path in first] == [
        "table5.svg",
        "table5.png",
        "table5_controls.svg",
        "table5_controls.png",
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert sorted(path.name for path in (tmp_path / "one" / "figures").iterdir()) == sorted(p.name for p in first)
    plain = stats.summarise(tidy(seed=1).query("metric == 'top1' and dataset == 'figures-h'"), paper)
    other = plots.write_figures("table5", plain, tmp_path / "three")
    assert len(other) == 2 and other[0].read_bytes() != first[0].read_bytes()


# Notebooks


def write_notebook(path: Path, *cells: str) -> Path:
    made = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell("profile = 'demo'\nruns = 3", metadata={"tags": ["parameters"]})
    made.cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(made, path)
    return path


def test_notebook_runs_with_this_interpreter_and_leaves_one_file(tmp_path, monkeypatch):
    foreign = tmp_path / "foreign" / "kernels" / "python3" / "kernel.json"
    paths.write_atomically(foreign, '{"argv": ["false"], "display_name": "x", "language": "python"}')
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
    html = notebooks.execute(source, {"profile": "it's <b>"}, folder / "out" / "one.html", folder, timeout=60)
    text = html.read_text(encoding="utf-8")
    assert f"by {sys.executable} in {folder.resolve()} it's &lt;b&gt; 4" in text
    assert 'src="data:image/png' in text and not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert [path.name for path in html.parent.iterdir()] == ["one.html"]
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["one.ipynb"]
    assert dict(os.environ) == before


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
    assert isinstance(notebooks._one_line(error, Path("one.ipynb"), tmp_path / "none.ipynb", ""), RuntimeError)


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
    assert len(code) <= 8 and all(len(cell.source.splitlines()) <= 12 for cell in code)
    assert not any(re.search(r"^\s*(def|class|if) ", cell.source, re.MULTILINE) for cell in code)
    assert [cell for cell in made.cells if "parameters" in cell.metadata.get("tags", [])] == [code[0]]
    prose = " ".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert not re.search(r"\d", re.sub(r"Table 5|HMDB-51|UCF-101", "", prose))  # numbers in prose go stale
