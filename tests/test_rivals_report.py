"""The table of rivals, the sentences that answer the two questions, the learning rates that are chosen."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from flowclip_core.errors import InputError
from flowclip_kit import readme_parts
from flowclip_kit.experiments import rivals as plan
from flowclip_kit.experiments.catalogue import Cell
from flowclip_kit.experiments.run_config import RunConfig
from flowclip_kit.paths import root
from flowclip_kit.reporting import outputs, plots, stats, tables
from flowclip_kit.reporting import rivals as report
from flowclip_kit.rivals import METHODS


def paired(*rows: tuple[str, str, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["variant", "reference", "mean", "p", "p_bh"])


UP, DOWN, FLAT = (3.0, 0.01, 0.05), (-3.0, 0.01, 0.05), (1.0, 0.01, 0.06)
MOTION = report.QUESTIONS[next(iter(report.QUESTIONS))][1]


def test_a_difference_counts_where_its_adjusted_p_value_allows():
    rows = paired(*(("a", "b", *values) for values in (UP, DOWN, FLAT, (3.0, math.nan, math.nan))))
    assert report.established(rows).tolist() == [1, -1, 0, 0]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([UP, UP, UP], "yes"),
        ([UP, UP, FLAT], "yes"),
        ([UP, FLAT, FLAT], "undecided"),
        ([UP, UP, DOWN], "undecided"),
        ([DOWN, DOWN, UP], "no"),
        ([FLAT], "undecided"),
        ([], "not run"),
    ],
)
def test_the_verdict_follows_the_cells(cells, expected):
    rows = paired(*(("full", "CoOp", *values) for values in cells))
    assert report.verdict(rows, MOTION) == expected
    (first, second, *rest) = report.answers(rows if len(cells) else None)
    assert report.ANSWERS[expected].format(what="motion") in first and "Not run" in second and not rest


def test_one_pair_that_loses_or_is_open_decides():
    won = [("full", "CoOp", *UP)]
    assert report.verdict(paired(*won, ("full", "CoCoOp", *FLAT)), MOTION) == "undecided"
    assert report.verdict(paired(*won, ("full", "CoCoOp", *DOWN)), MOTION) == "no"
    said = report.answers(paired(*won, ("CoCoOp", "CoOp", *DOWN)))
    assert (
        "full over CoOp: +3.0 points on average over 1 cells, established in 1, the other way in 0" in said[0]
    )
    assert said[2].startswith("Conditioning alone: CoCoOp over CoOp: -3.0 points on average over 1 cells")
    assert said[2].endswith("established in 0, the other way in 1.")


def test_the_table_shows_both_spreads_and_one_score_where_nothing_is_trained():
    rows = [
        ("h", "H", "full", 2, 50.0, 48.0, 52.0, 45.0, 55.0),
        ("h", "H", "full", 4, 60.0, 59.0, 61.0, math.nan, math.nan),
        ("h", "", "clip", 0, 30.0, math.nan, math.nan, 26.0, 34.0),
    ]
    names = ["dataset", "trained_on", "variant", "k", "mean", "low", "high", "video_low", "video_high"]
    summary = pd.DataFrame(rows, columns=names).assign(metric="top1")
    costs = {"full": {"parameters": 8441888, "seconds": 4.66, "text_tokens": 83}}
    found = report.table(summary, costs)
    assert found.loc["full"].tolist() == ["50.0 ± 2.0 (± 5.0)", "60.0 ± 1.0", "8,441,888", "4.7", "83"]
    assert found.loc["clip"].tolist() == ["30.0 (± 4.0)", "30.0 (± 4.0)", "", "", ""]


def test_a_rate_at_the_edge_is_named():
    rows = [(v, lr, 0, "top1", s) for v, scores in (("a", (1, 3, 2)), ("b", (1, 2, 3)), ("c", (3, 3, 1)))
            for lr, s in zip((0.1, 0.3, 1.0), scores, strict=True)]  # fmt: skip
    rows += [("a", 0.3, 1, "top1", 9), ("b", 1.0, 1, "top1", 9)]
    runs = pd.DataFrame(rows, columns=["variant", "lr", "split", "metric", "value"])
    assert report.at_the_edge(runs) == ["b"]
    assert report.sweep(runs).loc["b"].tolist() == [1, 2, 3]


def test_values_printed_elsewhere_name_their_source_and_no_claim_reads_them():
    frame = report.elsewhere()
    assert len(frame) == 24 and set(frame["k"]) == {2, 4, 8, 16}
    ju = frame[(frame["method"] == "Ju et al.") & (frame["dataset"] == "UCF-101")]
    assert ju["value"].tolist() == [71.4, 79.9, 85.7, 89.9]
    assert (frame["source"] != "").all() and (frame["protocol"] != "").all()


# ----------------------------------------------------------------------------- rates, methods, budgets


def test_the_next_rate_is_on_the_scale_1_3_10():
    assert [plan.next_rate(rate, True) for rate in (0.001, 0.003, 0.3, 0.05, 1.0)] == [
        0.003,
        0.01,
        1.0,
        0.1,
        3.0,
    ]
    assert [plan.next_rate(rate, False) for rate in (0.001, 0.003, 1.0, 0.05)] == [0.0003, 0.001, 0.3, 0.03]


def test_the_list_is_widened_at_the_edge_where_the_best_lies_and_not_for_ever():
    means = {
        "inside": {0.1: 1, 0.3: 2, 1.0: 1},
        "largest": {0.1: 1, 0.3: 2, 1.0: 3},
        "smallest": {0.1: 3, 0.3: 2, 1.0: 1},
        "the end": {30.0: 1, plan.MOST: 2},
        "alone": {0.1: 1},
        "the larger ones failed": {0.1: 2, 0.3: 2.5},
        "the neighbour failed": {0.1: 2, 1.0: 2},
    }
    tried = {variant: {*scores} for variant, scores in means.items()}
    tried["the larger ones failed"] |= {1.0}
    tried["the neighbour failed"] |= {0.3}
    assert plan.wider(means, tried) == {
        "largest": (3.0,),
        "smallest": (0.03,),
        "alone": (0.3, 0.03),
        "the neighbour failed": (0.03,),
    }


@pytest.mark.parametrize("scores", [(2, 2, 1), (2, 2, 2), (1, 2, 2)])
def test_rates_that_score_the_same_side_by_side_are_no_edge(scores):
    """Else a tie, which goes to the smallest rate, would widen the list down to its very end."""
    means = dict(zip((0.1, 0.3, 1.0), scores, strict=True))
    assert plan.best_rate(means) == (0.1 if scores[0] == 2 else 0.3)
    assert plan.wider({"a": means}, {"a": {*means}}) == {}


def test_trials_are_one_run_at_the_largest_k_on_videos_set_aside():
    cells = [
        Cell(role, "full", RunConfig(role, k, seed), role, keep=True)
        for role in "HU"
        for k in (2, 16)
        for seed in (0, 1)
    ]
    cells += [Cell("H", "clip", RunConfig("H", None, 0, train=None))]
    found = plan.trials(cells, {"full": (0.1, 0.3)}, 100)
    assert [(cell.role, cell.config.train.lr) for cell in found] == [
        ("H", 0.1),
        ("H", 0.3),
        ("U", 0.1),
        ("U", 0.3),
    ]
    assert all(cell.config.held_out and cell.config.seed == 100 and cell.config.k == 16 for cell in found)
    assert plan.rates_tried([*cells, *found]) == {"full": {0.1, 0.3}}
    final = plan.at_rates(cells, {"full": 0.3})
    assert {cell.config.train.lr for cell in final if cell.config.train} == {0.3} and len(final) == len(cells)
    with pytest.raises(InputError, match="rivals, full: every learning rate failed"):
        plan.at_rates(cells, {})


def test_the_readme_s_part_shows_each_method_once_and_fits():
    variants = ["clip", "mmb", "full", "prompts without motion", *METHODS]
    rows = [
        {"dataset": dataset, "trained_on": dataset, "variant": name, "metric": "top1", "k": k, "n": 5,
         "mean": 10.0 * number, "low": 1.0, "high": 2.0}
        for number, name in enumerate(variants) for dataset in "hu" for k in (2, 16)
    ]  # fmt: skip
    for row in rows:
        if row["variant"] in ("clip", "BIKE spotting"):
            row |= {"k": 0, "trained_on": ""}
    summary = pd.DataFrame(rows).drop_duplicates(["dataset", "variant", "k"])
    costs = {name: {"parameters": 1000 * number} for number, name in enumerate(variants)}
    won = [("full", reference, *UP) for _, reference in MOTION]
    answers = report.brief(paired(*won, ("mmb", "linear probe", *DOWN)))
    points = "Points of full over prompts without motion +3.0, CoCoOp +3.0, CoOp +3.0."
    assert answers[0].endswith(f"of the cells. {points}")
    assert "It is not the two-stream block" in answers[1] and answers[1].endswith("linear probe -3.0.")
    assert all("Not run" in answer for answer in report.brief(None)) and len(report.brief(None)) == 2
    lines = readme_parts.rivals(summary, costs, answers).splitlines()
    cells = [cell.strip() for line in lines[6:] for cell in line.strip("|").split("|")]
    shown = dict(zip(cells[::4], zip(cells[1::4], cells[3::4], strict=True), strict=True))
    assert list(shown) == ["full", "prompts without motion", "mmb", *METHODS]
    assert shown["CoOp"] == ("60.0 ± 0.5", "6,000") and shown["full"] == ("20.0 ± 0.5", "2,000")
    readme = (root() / "README.md").read_text().splitlines()
    begin, end = (readme.index(mark) for mark in outputs._marks("rivals"))
    assert len(readme) - (end - begin - 1) + len(lines) <= 120


@pytest.mark.parametrize("name", ["", "_controls", "_differences"])
def test_many_methods_have_a_line_each_and_no_label_covers_another(name):
    rows, several = [], [f"method {number}" for number in range(plots.MANY + 2)]
    scores = {"top1": 50.0, "top1_shuffled": 40.0, "order": 90.0, "order_shuffled": 50.0}
    for variant, k, seed in itertools.product(several, (2, 16), (0, 1)):
        for metric, value in scores.items():
            rows.append({
                "target": "rivals", "profile": "demo", "dataset": "figures-h", "role": "HMDB-51",
                "trained_on": "HMDB-51", "variant": variant, "k": k, "seed": seed, "split": 1, "views": "1x1",
                "metric": metric, "value": value + seed, "key": f"{variant}{k}{seed}",
            })  # fmt: skip
    tidy = pd.DataFrame(rows)
    printed = tables.load_paper("rivals").iloc[:0]
    pairs = [stats.paired_difference(tidy, one, several[0]) for one in several[1:]]
    drawn = plots.figures("rivals", stats.summarise(tidy, printed), printed, pd.concat(pairs))
    renderer = FigureCanvasAgg(drawn[f"rivals{name}"]).get_renderer()
    for ax in drawn[f"rivals{name}"].axes:
        labels = [text for text in ax.get_yticklabels() if text.get_visible() and text.get_text()]
        assert len(labels) == len(several) - (name == "_differences")
        boxes = [text.get_window_extent(renderer) for text in labels]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
