"""What is shown of the runs: a view equals the recorded tables, the report is one file that says all and
loads none."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_outputs import checkout_in, counts_text, made

from flowclip_core.files import write_atomically
from flowclip_kit import experiments, paths
from flowclip_kit.experiments import loading
from flowclip_kit.experiments.catalogue import TARGETS
from flowclip_kit.experiments.results_table import among_five, unpack
from flowclip_kit.reporting import claims, costs, outputs, plots, report, tables, target_results
from flowclip_kit.reporting.target_results import View

REGISTER = claims.register
# One target of each kind of figure and protocol: over k with controls, by variant, over an axis, zero-shot.
SHOWN = ("table5", "table1", "figure3c", "table7")


def view_of(target, profile="demo", **options) -> View:
    result = made(target, profile, **options)
    hits = {row.key: unpack(row.n, row.correct) for row in result.hits.itertuples()}
    return View(target, result.tidy, hits, result.provenance)


# --- view


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Runs of three targets, recorded; the targets' results by name."""
    checkout_in(tmp_path / "checkout", monkeypatch)
    results = {"table5": made("table5"), "table7": made("table7"), "readings": made("readings")}
    outputs.record("demo", results)
    return results


def test_what_is_loaded_is_what_was_recorded(recorded, tmp_path):
    folder = tmp_path / "checkout" / "results" / "recorded" / "demo"
    for target, result in recorded.items():
        shown = target_results.load(target)
        order = ["key", "variant", "metric"]
        expected = result.tidy.assign(value=result.tidy["value"].round(4)).sort_values(
            order, ignore_index=True
        )
        found = shown.runs.sort_values(order, ignore_index=True)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)
        assert shown.hits.keys() == set(result.hits["key"])
        for row in result.hits.itertuples():
            assert np.array_equal(shown.hits[row.key], unpack(row.n, row.correct))
        about = {name: value for name, value in result.provenance.items() if name != "last_call"}
        assert {name: shown.about[name] for name in about} == about
        summary = pd.read_csv(
            folder / f"{target}.summary.csv", keep_default_na=False, na_values={"low": "", "paper": ""}
        )
        assert summary["mean"].to_numpy() == pytest.approx(shown.summary["mean"].to_numpy(), abs=1e-4)
        assert summary["variant"].tolist() == shown.summary["variant"].tolist()
        assert str(shown.table()) == str(View(target, result.tidy, shown.hits, result.provenance).table())


def test_other_sources_are_folders_or_runs(recorded, tmp_path, monkeypatch):
    outputs._write_data(
        "table5", recorded["table5"], recorded["table5"].provenance, tmp_path / "own" / "paper-runs"
    )
    assert len(target_results.load("table5", "paper", str(tmp_path / "own")).runs) == len(
        recorded["table5"].tidy
    )
    called = []
    monkeypatch.setattr(loading, "ensure", lambda *given: called.append(given) or recorded["table7"])
    made_now = target_results.load("table7", "smoke", "run")
    assert called == [("table7", "smoke")] and made_now.runs is recorded["table7"].tidy
    there = target_results.load("table7").hits
    assert made_now.hits.keys() == there.keys()
    assert all(np.array_equal(made_now.hits[key], there[key]) for key in there)


def test_the_recorded_tables_of_this_checkout_load():
    there = [
        name
        for name in TARGETS
        if (experiments.results_folder("demo", "recorded") / f"{name}.videos.csv").exists()
    ]
    if not there:
        pytest.skip("no results are recorded yet")
    for target in there:
        shown = target_results.load(target)
        assert (
            set(shown.runs["target"]) == {target}
            and len(shown.summary)
            and shown.hits.keys() == {name for key in shown.runs["key"] for name in (key, among_five(key))}
        )


@pytest.mark.parametrize("target", TARGETS)
def test_all_differences_that_the_catalogue_asks_for_are_there(target):
    shown = view_of(target, shots=(4,))
    asked = TARGETS[target].compare
    if not asked:
        assert shown.paired is None and shown.differences() is None
        return
    paired = shown.paired
    assert list(dict.fromkeys(zip(paired["variant"], paired["reference"], strict=True))) == list(asked)
    assert set(paired["metric"]) == {"top1"} and paired["video_low"].notna().all()
    assert not paired.duplicated(["dataset", "trained_on", "variant", "reference", "k"]).any()
    top1 = shown.tested[shown.tested["metric"] == "top1"]
    for row in paired.itertuples():  # by hand: means of each, since all have the same seeds and splits
        at = top1[
            (top1["role"] == row.role)
            & (top1["variant"] == row.variant)
            & (top1["trained_on"] == row.trained_on)
            & (top1["k"] == row.k)
        ]
        other = top1[(top1["role"] == row.role) & (top1["variant"] == row.reference)]
        other = other[other["trained_on"].isin(["", row.trained_on]) & other["k"].isin([0, row.k])]
        assert row.mean == pytest.approx(at["value"].mean() - other["value"].mean(), abs=1e-3)
    said = str(shown.differences())
    assert all(f"{variant} - {reference}" in said for variant, reference in asked)


def test_differences_of_absent_variants_are_left_out():
    shown = view_of("table5", variants=("baseline", "mcb", "full"), shots=(2,))
    assert set(zip(shown.paired["variant"], shown.paired["reference"], strict=True)) == {
        ("mcb", "baseline"),
        ("full", "baseline"),
    }


def test_runs_that_chose_a_learning_rate_are_not_shown():
    shown = view_of("readings")
    assert {0, 1} == set(shown.runs["split"]) and set(shown.tested["split"]) == {1}
    changed = replace(
        shown, runs=shown.runs.assign(value=shown.runs["value"].where(shown.runs["split"] > 0, 99.0))
    )
    pd.testing.assert_frame_equal(changed.summary, shown.summary)
    assert str(changed.table()) == str(shown.table()) and str(changed.verdicts()) == str(shown.verdicts())


def judged_ids(text: str) -> set[str]:
    """The ids in the lines that hold a verdict."""
    return {
        line.split()[-1]
        for line in text.splitlines()
        if re.search(r"\.(\w|-|\+)+$", line) and "claims" not in line
    }


KIND = {claim.id: claim.kind for claim in REGISTER()}


@pytest.mark.parametrize("target", TARGETS)
def test_no_printed_amount_is_judged_in_the_demo_even_where_it_is_met(target):
    paper = tables.load_paper(target)
    printed = paper[paper["metric"] == "top1"].set_index(["method", "dataset", "k"])["value"].to_dict()

    def as_printed(cell):
        return printed.get((cell.variant, cell.role, cell.config.k or 0), 50.0)

    asked = view_of(target, top1=as_printed)
    said = str(asked.verdicts())
    own = {c.id for c in REGISTER() if c.parts and {part.target for part in c.parts} == {target}}
    values = {name for name in own if KIND[name] in ("value", "difference")}
    found = judged_ids(said)
    assert found <= own and not found & values
    waiting = sum(int(n) for n, of in re.findall(r"^(\d+) of (\d+) claims not run: ", said, re.MULTILINE))
    assert waiting == len(own - found) >= len(values)
    if values:  # the same scores on the paper's data are judged
        real = str(view_of(target, "paper", shots=(2, 4, 8, 16), top1=as_printed).verdicts())
        assert judged_ids(real) & values  # not as reproduced: runs that all agree are no certainty


def test_a_claim_that_waits_for_runs_does_not_blame_the_demo():
    said = str(view_of("table5", "paper", roles=("HMDB-51",)).verdicts())
    assert "parts have runs" in said and claims.DEMO not in said


def test_verdicts_at_hand_say_the_same_as_verdicts_made_anew(recorded, monkeypatch):
    monkeypatch.setattr(claims, "register", REGISTER)
    judged = outputs.judged("demo", "recorded")
    with monkeypatch.context() as patch:
        patch.setattr(claims, "measure", lambda *_: pytest.fail("measured again"))
        given = {target: str(target_results.load(target).verdicts(judged)) for target in recorded}
    assert given == {target: str(target_results.load(target).verdicts()) for target in recorded}
    nothing = judged.assign(verdict="not run", reason="no runs")
    own = str(view_of("table7").verdicts(nothing))
    assert not judged_ids(own) and re.fullmatch(r"(\d+) of \1 claims not run: no runs", own.strip())


# --- report


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def drawn(target, summary, paper, paired=None):
    """A figure that takes no time, with a name of its own."""
    figure = Figure(figsize=(1, 1))
    figure.text(0, 0, target)
    return {target: figure, f"{target}_differences": Figure(figsize=(1, 1))}


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[str, pd.DataFrame]:
    """The report of four targets and the counts, and the verdicts in it; figures are empty."""
    with pytest.MonkeyPatch.context() as patch:
        folder = checkout_in(tmp_path_factory.mktemp("report") / "checkout", patch)
        patch.setattr(claims, "register", REGISTER)
        for target in SHOWN:
            result = made(target, shots=(2,))
            about = result.provenance | {
                "devices": ["cpu & <b>gpu</b>"],
                "software": [[["commit", "0123abcd"]]],
            }
            outputs._write_data(target, result, about, folder / "results" / "demo")
        write_atomically(folder / "results" / "demo" / "table3.csv", counts_text())
        patch.setattr(plots, "figures", drawn)
        patch.setattr(costs, "figure", lambda counts, paper: Figure(figsize=(1, 1)))
        source = str(folder / "results")
        verdicts = outputs.judged("demo", source)
        return report.html("demo", source, verdicts), verdicts


def test_the_report_is_one_file_that_loads_nothing(shown):
    page = Page(shown[0])
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert not re.search(r"url\(|@import", shown[0])
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            if name in attributes:
                start = {"img": ("data:image/svg+xml;base64,", "data:image/png;base64,"), "a": "#"}[tag]
                assert attributes[name].startswith(start), attributes[name][:80]
        assert not any(name.startswith("on") for name in attributes)


def test_pictures_are_whole_and_links_lead_somewhere(shown):
    page = Page(shown[0])
    pictures = {
        a["alt"]: base64.b64decode(a["src"].partition(",")[2]) for tag, a in page.tags if tag == "img"
    }
    small = {f"{name}, small" for name in (*SHOWN, "table3")}
    assert (
        pictures.keys()
        == {"table3", *(name + more for name in SHOWN for more in ("", "_differences"))} | small
    )
    assert all(pictures[name].startswith(b"\x89PNG") for name in small)
    assert all(data.rstrip().endswith(b"</svg>") for name, data in pictures.items() if name not in small)
    ids = [a["id"] for tag, a in page.tags if "id" in a and tag == "details"]
    assert len(ids) == len(set(ids))
    assert {a["href"].removeprefix("#") for tag, a in page.tags if tag == "a"} <= set(ids)
    assert ids == [
        "table1",
        "table3",
        "table5",
        "table7",
        "figure3c",
        "verdicts",
        "audit",
        "cost",
        "how-to-read",
    ]


def test_the_report_opens_with_findings_and_chips_and_folds_the_rest(shown):
    text, verdicts = shown
    opening, details = text.split("<h2>Details</h2>")
    waiting = verdicts["kind"].isin(["value", "difference"]).sum()
    assert f"0 of {waiting} printed values and differences are checked" in opening
    assert "Demo world, not evidence about the paper&#x27;s data." in opening and "commit 0123abcd" in opening
    for name in SHOWN:
        own = [claim.id for claim in REGISTER() if {part.target for part in claim.parts} == {name}]
        counts = verdicts[verdicts["id"].isin(own)]["verdict"].value_counts()
        line = next(row for row in opening.split("<tr>") if f'href="#{name}"' in row)
        assert all(f">{n} {word}</span>" in line for word, n in counts.items())
    assert details.count("<details") == details.count("</details>") > 10 and "<details open" not in text


def test_the_report_names_what_is_there_and_what_it_rests_on(shown):
    text = Page(shown[0]).text
    for name in SHOWN:
        view = view_of(name, shots=(2,))
        assert TARGETS[name].title in text and all(sentence in text for sentence in view.findings(shown[1]))
        assert view.table()._repr_html_() in shown[0] and view.verdicts(shown[1])._repr_html_() in shown[0]
    assert costs.TITLE in text and TARGETS["figure3b"].title not in text
    assert "training, core min" in text and "How to read this" in text


def test_every_claim_and_the_number_of_each_verdict_are_in_the_report(shown):
    page, verdicts = Page(shown[0]), shown[1]
    assert claims.counts_by_verdict(verdicts)._repr_html_() in shown[0]
    for row in verdicts.itertuples():
        for cell in (row.place, row.statement, row.reason):
            assert html.escape(cell) in shown[0], row.id
    waiting = (verdicts["verdict"] == "not run").sum()
    assert f"What waits for real data or for runs ({waiting})" in page.text
    for kind in set(verdicts.loc[verdicts["verdict"] != "not run", "kind"]):
        assert f"Claims: {kind} (" in page.text


def test_the_pictures_are_those_of_the_files():
    one = view_of("figure3c", roles=("HMDB-51",)).figures()["figure3c"]
    [(tag, attributes)] = Page(report._image(one, "x")).tags
    [written] = plots.files({"x": one}, paths.root(), kinds=("svg",)).values()
    assert tag == "img" and base64.b64decode(attributes["src"].partition(",")[2]) == written


def test_markup_in_names_is_text(shown):
    assert "cpu &amp; &lt;b&gt;gpu&lt;/b&gt;" in shown[0] and "<b>gpu" not in shown[0]
    row = dict.fromkeys(claims.CLAIMS, "") | {"kind": "order", "verdict": "reproduced"}
    odd = pd.DataFrame([row | {"statement": "<script>a & b</script>", "reason": 'x" onload="y'}])
    cells = Page(report._claims(odd))
    assert "script" not in {tag for tag, _ in cells.tags} and "<script>a & b</script>" in cells.text
    assert Page(report._image(Figure(figsize=(1, 1)), '"><script>')).tags[0][1]["alt"] == '"><script>'


def test_a_grid_of_ones_own_is_shown_and_judges_nothing(tmp_path, monkeypatch):
    folder = checkout_in(tmp_path / "checkout", monkeypatch) / "results" / "demo"
    monkeypatch.setattr(plots, "figures", drawn)
    result = made("table5", variants=("baseline", "full"), shots=(3,))
    tidy = result.tidy.replace({"variant": {"full": "full, s=2"}})
    about = result.provenance | {"name": "mine", "parameters": {"k": 3}}
    outputs._write_data("table5", replace(result, tidy=tidy), about, folder / "table5-mine")
    [view] = target_results.own_runs("demo", str(folder.parent))
    assert view.paper.empty and view.summary["paper"].isna().all() and len(view.verdicts()._repr_html_()) < 10
    assert list(dict.fromkeys(view.paired["variant"])) == ["full, s=2"]
    [path] = outputs.write_report("demo", folder.parent)
    text = Page(path.read_text()).text
    assert "Own runs" in text and "table5-mine" in text and "k=3" in text and "full, s=2" in text
    assert "printed:" not in path.read_text()


def test_real_data_are_not_called_a_demo(tmp_path, monkeypatch):
    folder = checkout_in(tmp_path / "checkout", monkeypatch)
    monkeypatch.setattr(plots, "figures", drawn)
    result = made("table5", "paper", shots=(2,), roles=("HMDB-51",))
    outputs._write_data("table5", result, result.provenance, folder / "results" / "paper-runs")
    [path] = outputs.write_report("paper", folder / "results")
    assert path == folder / "results" / "paper-runs" / "report.html"
    shown, legend, _ = path.read_text().partition('id="how-to-read"')
    assert "flowclip: profile paper" in shown and "emo world" not in shown and legend


# --- card


def test_the_card_of_the_recorded_results_names_every_table_and_column(tmp_path):
    from huggingface_hub import DatasetCard

    path = outputs.write_card("demo", tmp_path, recorded=True)
    card = DatasetCard(path.read_text())
    folder = paths.root() / "results" / "recorded" / "demo"
    data = {one["data_files"]: one["config_name"] for one in card.data.configs}
    assert data.keys() == {file.name for file in folder.glob("*.csv")}, (
        "a table is missing in the card's head"
    )
    assert len({*data.values()}) == len(data) and card.data.license == "mit"
    columns = {name for file in data for name in (folder / file).read_text().split("\n")[0].split(",")}
    for name in columns:
        assert f"`{name}`" in card.text.partition("## Columns")[2], f"the card does not explain column {name}"
    assert "this grid varies" not in card.text and card.text.count(" trainings, on ") == 13
    about = json.loads((folder / "table5.provenance.json").read_text())
    assert f"fingerprint `{about['datasets']['figures-h']['fingerprint']}`" in card.text
