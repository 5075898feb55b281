"""The recorded files: all follow from the run tables, any later change shows; what is unchanged is not made
again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from safetensors.numpy import save
from test_estimates import here

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.files import write_atomically
from flowclip_kit import environment, paths
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.experiments import Result, experiment, loading
from flowclip_kit.experiments import costs as counting
from flowclip_kit.experiments.catalogue import TARGETS
from flowclip_kit.experiments.results_table import hit_row, tidy_rows
from flowclip_kit.experiments.run_config import RunConfig
from flowclip_kit.profiles import PROFILES
from flowclip_kit.reporting import claims, notebooks, outputs, plots
from flowclip_kit.reporting import costs as cost_figures

MARKS = {part: outputs._marks(part) for part in outputs.README_PARTS}
README = "\n\n".join(
    [
        "# Title",
        "3 lines of 100",
        *(f"{begin}\nold\n{end}\n\nText." for begin, end in MARKS.values()),
        "The end.\n",
    ]
)
PAIRS = {"figures-h": (10, 16), "figures-u": (6, 24), "figures-k": (12, 40)}


def made(target="table5", profile="demo", seed=0, variants=(), shots=(2, 16), roles=(), top1=None) -> Result:
    """The runs of a target as `ensure` hands them over, with made-up hits of 40 videos.

    variants, shots, roles: only these. top1(cell): a score in percent in the place of the hits' mean.
    """
    chosen, found = PROFILES[profile], TARGETS[target]
    roles = {role: name for role, name in chosen.roles.items() if role in (roles or found.roles)}
    chosen = replace(chosen, roles=roles)
    knobs = {"k": shots} if target == "table5" else {}
    rows, hits = [], []

    def add(cells) -> None:
        for cell in cells:
            if variants and cell.variant not in variants:
                continue
            number, (demo, transfer) = len(hits), (profile in ("demo", "smoke"), cell.config.transfer)
            right = np.random.default_rng([number, seed]).random(40) < 0.3 + 0.02 * (number % 20)
            share = 100 * right.mean()
            scores = {"top1": top1(cell) if top1 else share, "top5": 60 + share / 4}
            scores |= {"top1_pairs": share / 2, "top1_rest": share, "order": 50 + share / 3} if demo else {}
            scores |= {"top1_half": share + 5, "half_sd": 3.25} if transfer else {}
            if cell.config.evaluation.controls:
                for change in ("shuffled", "reversed", "repeated"):
                    scores |= {f"top1_{change}": share / 3, f"order_{change}": 50 + number / 100}
            key = hashlib.sha256(f"{target} {profile} {number}".encode()).hexdigest()[:16]
            predictions = {str(i): (1, int(hit), 0.5) for i, hit in enumerate(right)}
            record = {"scores": scores, "key": key, "predictions": predictions}
            rows.extend(tidy_rows(target, profile, cell, record))
            hits.append(hit_row(record))

    add(found.cells(chosen, **knobs))
    if found.then:
        add(found.then(chosen, pd.DataFrame(rows)))
    sets = {name: dict(zip(("pair_classes", "classes"), PAIRS.get(name, (0, 51)), strict=True))
            for name in roles.values()}  # fmt: skip
    about = {
        "target": target,
        "profile": profile,
        "runs": len(hits),
        "trainings": len(hits),
        "seeds": chosen.seeds,
        "datasets": sets,
        "backbone": {"name": chosen.backbone.name, "pretrained": chosen.backbone.pretrained, "weights": "0"},
        "devices": ["cpu"],
        "training_seconds": 12.5,
        "testing_seconds": 2.5,
        "peak_memory_gib": 0.5,
        "last_call": {"runs_made": 9},
    }
    return Result(pd.DataFrame(rows), pd.DataFrame(hits), about, {})


def small(profile="demo", seed=0) -> Result:
    """Three variants at one k on one data set: enough for every file, and quick to summarise."""
    return made("table5", profile, seed, ("clip", "baseline", "full"), (2,), ("HMDB-51",))


def counts_text() -> str:
    """A table of counts with every row that `costs.counts` has, and made-up numbers: counting takes
    seconds."""
    exact, rule, video = counting.COUNTINGS
    rows = []

    def row(variant, how, metric, dataset="", length=0) -> None:
        classes = len(CLASSES[dataset]) if dataset else 0
        rows.append(("table3", variant, how, dataset, classes, length, metric, 150 + 1.25 * len(rows)))

    towers = ("image tower", "text tower")
    for dataset in CLASSES:
        for variant, length in cost_figures.MODELS:
            for how in counting.COUNTINGS:
                row(variant, how, "gmac", dataset, length)
        for part in (*towers, *cost_figures.PARTS):
            for how in (exact, video):
                row(part, how, "gmac", dataset, cost_figures.DESCRIBED)
    for variant in ("clip", "baseline", "full"):
        for how, metric in ((exact, "params"), (exact, "trainable"), (rule, "params")):
            row(variant, how, metric)
    for part in (*towers, *cost_figures.PARTS):
        row(part, exact, "params")
        row(part, exact, "trainable")
    for reading in counting.READINGS:
        row(reading, rule, "params")
    return counting.counts_csv(counting._with_gains(pd.DataFrame(rows, columns=counting.COLUMNS)))


def checkout_in(folder: Path, monkeypatch) -> Path:
    """Make `folder` the checkout: printed numbers, a README and no results; nothing is counted or drawn for
    real."""
    shutil.copytree(ROOT / "results" / "paper", folder / "results" / "paper")
    (folder / "README.md").write_text(README)
    write_atomically(folder / "notebooks" / "verdicts.ipynb", "verdicts")
    take_for_checkout(folder, monkeypatch)
    return folder


def take_for_checkout(folder: Path, monkeypatch) -> None:
    for module in (paths, loading, experiment, outputs):
        monkeypatch.setattr(module, "root", lambda: folder)
    monkeypatch.setattr(outputs, "_counted", counts_text)
    monkeypatch.setattr(claims, "register", some_claims)
    monkeypatch.setattr(plots, "figures", sketches)
    monkeypatch.setattr(plots, "files", files_of_sketches)
    monkeypatch.setattr(cost_figures, "figure", lambda counts, paper=None: counts.to_csv() + paper.to_csv())
    monkeypatch.setattr(environment, "source", lambda: "requirements.lock")


REGISTER = claims.register
ORDER = "table5.order.hmdb.full-over-baseline.k2"


def some_claims() -> list[claims.Claim]:
    """Every tenth claim and those of the made-up tables; all of them take seconds."""
    return [claim for number, claim in enumerate(REGISTER()) if number % 10 == 0 or claim.kind == "count"
            or claim.id in (ORDER, "table5.value.hmdb.full.k2")]  # fmt: skip


def sketches(target, summary, paper=None, paired=None):
    """Stand in for the figures, which take seconds: other numbers, other bytes."""
    drawn = {target: summary.to_csv(float_format="%.6f")}
    return drawn if paired is None else drawn | {f"{target}_differences": paired.to_csv(float_format="%.6f")}


def files_of_sketches(drawn, folder, kinds=("svg", "png")):
    hashes = {name: hashlib.sha256(text.encode()).hexdigest().encode() for name, text in drawn.items()}
    return {folder / "figures" / f"{name}.{kind}": found for name, found in hashes.items() for kind in kinds}


REAL_FIGURES = (plots.figures, plots.files, cost_figures.figure)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    return checkout_in(tmp_path / "checkout", monkeypatch)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A checkout in which a table of runs and the counts are recorded; to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        folder = checkout_in(tmp_path_factory.mktemp("template") / "checkout", patch)
        outputs.record("demo", {"table5": small(), "table3": None})
    return folder


@pytest.fixture
def recorded(template, tmp_path, monkeypatch) -> Path:
    """The recorded folder of a checkout of this test's own."""
    shutil.copytree(template, tmp_path / "checkout")
    take_for_checkout(tmp_path / "checkout", monkeypatch)
    return tmp_path / "checkout" / "results" / "recorded" / "demo"


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def differences(name: str) -> list[str]:
    checked, wrong = outputs.verify()
    assert len(wrong) <= len(checked) and not any("\n" in line for line in wrong)
    return [line for line in wrong if name in line]


# --- verify -------------------------------------------------------------------------------------------------


def test_what_was_recorded_verifies(recorded):
    checked, wrong = outputs.verify()
    assert wrong == [] and len(checked) == len(set(checked))
    folder = recorded.parents[2]
    there = {name for name in tree(folder) if not name.endswith(("SHA256SUMS", ".ipynb"))}
    assert set(checked) == there
    names = "csv summary.csv videos.csv provenance.json".split()
    expected = {f"table5.{name}" for name in names} | {"table3.csv"}
    for kind in ("svg", "png"):
        expected |= {f"figures/{name}.{kind}" for name in ("table3", "table5", "table5_differences")}
    assert set(tree(recorded)) == expected
    assert {"README.md", "results/claims.csv", "results/paper/figure3.csv"} < there


def test_the_real_figures_verify_and_a_changed_one_does_not(checkout, monkeypatch):
    for (module, name), real in zip(
        ((plots, "figures"), (plots, "files"), (cost_figures, "figure")), REAL_FIGURES, strict=True
    ):
        monkeypatch.setattr(module, name, real)
    outputs.record("demo", {"table5": small(), "table3": None})
    figures = checkout / "results" / "recorded" / "demo" / "figures"
    names = [f"{name}.{kind}" for name in ("table3", "table5", "table5_controls", "table5_differences")
             for kind in ("png", "svg")]  # fmt: skip
    assert sorted(path.name for path in figures.iterdir()) == names
    assert outputs.verify()[1] == []
    for name in ("table5_differences.svg", "table3.svg"):
        svg = figures / name
        svg.write_text(svg.read_text().replace("0.", "1.", 1))
    assert [line.split(":")[0].rpartition("/")[2] for line in outputs.verify()[1]] == names[1::6]


def other_digits(text: str, n: int) -> list[str]:
    """The text with one digit changed, n times, at places spread over all of its digits."""
    places = [match.start() for match in re.finditer(r"\d", text)]
    places = [places[round(at)] for at in np.linspace(0, len(places) - 1, n)]
    return [f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}" for at in dict.fromkeys(places)]


RECORDED = "results/recorded/demo/"


@pytest.mark.parametrize(
    "names",
    [
        [RECORDED + "table5.csv"],
        [RECORDED + "table5.videos.csv"],
        [RECORDED + "table5.provenance.json"],
        ["results/paper/table5.csv"],
        # What nothing else is made from, at once.
        [*(RECORDED + f"figures/{name}.svg" for name in ("table3", "table5", "table5_differences")),
         RECORDED + "table5.summary.csv", "results/claims.csv"],
        [RECORDED + "table3.csv", *(f"results/paper/{name}.csv" for name in ("table1", "table3", "figure3"))],
    ],
)  # fmt: skip
def test_any_changed_digit_is_found(names, recorded):
    paths = [recorded.parents[2] / name for name in names]
    true = [path.read_text() for path in paths]
    for texts in zip(*(other_digits(text, 5) for text in true), strict=True):
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        _, wrong = outputs.verify()
        assert not [name for name in names if not any(name in line for line in wrong)], texts
    for path, text in zip(paths, true, strict=True):
        path.write_text(text)
    assert outputs.verify()[1] == []


def test_what_follows_is_renewed_and_no_run_is_touched(recorded):
    folder = recorded.parents[2]
    before = tree(folder)
    for name in (
        RECORDED + "table5.summary.csv",
        RECORDED + "figures/table5_differences.svg",
        "results/claims.csv",
    ):
        (folder / name).write_text("old")
    written = {path.relative_to(folder).as_posix() for path in outputs.renew()}
    assert written >= {RECORDED + "figures/table5_differences.svg", "results/claims.csv", "README.md"}
    assert tree(folder) == before and not {name for name in written if name.endswith("table5.csv")}


def test_any_changed_digit_of_a_sum_of_a_printed_table_is_found(recorded):
    sums = recorded.parents[2] / "results" / "paper" / "SHA256SUMS"
    true = sums.read_text()
    for text in [
        *other_digits(true, 4),
        *(true.replace(line, "") for line in true.splitlines(keepends=True)[:2]),
    ]:
        sums.write_text(text)
        assert differences("results/paper/")


@pytest.mark.parametrize("part", MARKS)
def test_any_changed_digit_of_a_readme_part_is_found_and_the_text_around_it_is_free(part, recorded):
    readme, (begin, end) = recorded.parents[2] / "README.md", MARKS[part]
    true = readme.read_text()
    before, block, after = (
        true[: true.index(begin)],
        true[true.index(begin) : true.index(end)],
        true[true.index(end) :],
    )
    text = block.removeprefix(begin)
    changed = [text.replace("not", "now")] if "not recorded yet" in text else other_digits(text, 4)
    for text in changed:
        readme.write_text(before + begin + text + after)
        assert differences("README.md")[0].endswith(f"the recorded tables ({part})"), text
    readme.write_text(before.replace("100", "200") + block + after.replace("Text.", "More.") + "More.\n")
    assert outputs.verify()[1] == []


FIGURES = [f"{RECORDED}figures/{name}.{kind}" for name in ("table3", "table5", "table5_differences")
           for kind in ("svg", "png")]  # fmt: skip
SINGLE = [f"{RECORDED}table5.{kind}" for kind in ("csv", "summary.csv", "videos.csv", "provenance.json")]
SINGLE += [RECORDED + "table3.csv", "README.md", "results/claims.csv"]
SINGLE += [f"results/paper/{name}" for name in ("table5.csv", "table8.csv", "SHA256SUMS")]


@pytest.mark.parametrize("names", [FIGURES, *([name] for name in SINGLE)])
def test_a_missing_file_is_named(names, recorded):
    for name in names:
        (recorded.parents[2] / name).unlink()
    _, wrong = outputs.verify()
    assert not [name for name in names if not any(name in line for line in wrong)]


def test_a_missing_record_of_a_table_in_the_readme_is_named(recorded):
    shutil.rmtree(recorded)
    assert differences("results/recorded/demo/table5.csv")


def test_a_table_left_out_of_the_record_shows_in_the_verdicts(recorded):
    for path in recorded.rglob("table3[._]*"):
        path.unlink()
    assert differences("results/claims.csv") and not differences("table3")


@pytest.mark.parametrize("part", MARKS)
def test_a_readme_without_a_part_is_named(part, recorded):
    readme = recorded.parents[2] / "README.md"
    true = readme.read_text()
    for mark in MARKS[part]:
        readme.write_text(true.replace(mark, ""))
        assert differences("README.md")


@pytest.mark.parametrize("content", ["[]", "{}", "{", "7", ""])
def test_a_provenance_that_is_none_is_named(content, recorded):
    (recorded / "table5.provenance.json").write_text(content)
    assert differences("table5.provenance.json")


@pytest.mark.parametrize("content", ["", "key,n,correct\n", "key,n,correct\n12,8,zz\n", "\0\n", None])
def test_a_list_of_videos_that_is_none_is_named(content, recorded):
    videos = recorded / "table5.videos.csv"
    # None: one video less than the other runs have, which is a sound line by itself.
    videos.write_text(re.sub(r",40,(\w+)[02468ace],(\w*)\n", r",39,\g<1>0,\n", videos.read_text(), count=1)
                      if content is None else content)  # fmt: skip
    assert differences("table5.videos.csv")


def test_a_sweep_is_the_one_that_was_recorded(recorded):
    rates, sums = recorded / "rates.csv", recorded / "rates.sha256"
    write_atomically(rates, "rate,top1\n0.1,50\n")
    assert differences("rates.sha256")
    sums.write_text(f"{hashlib.sha256(rates.read_bytes()).hexdigest()}  rates.csv\n")
    assert outputs.verify()[1] == []
    rates.write_text("rate,top1\n0.1,51\n")
    assert differences("rates.csv")
    rates.unlink()
    assert differences("rates.csv")


def test_a_table_swapped_for_another_whole_one_is_found(recorded):
    """Each file alone is sound; they do not belong together."""
    kept = tree(recorded)
    outputs.record("demo", {"table5": small(seed=1)})
    for name in ("table5.csv", "table5.summary.csv", "figures/table5.svg"):
        (recorded / name).write_bytes(kept[name])
    assert differences("table5.csv")


def test_with_other_software_figures_must_only_be_there(recorded, monkeypatch):
    monkeypatch.setattr(environment, "source", lambda: "own environment")
    for name in ("figures/table5.svg", "figures/table3.svg"):
        (recorded / name).write_text("drawn by another version")
        assert outputs.verify()[1] == []
        (recorded / name).unlink()
        assert differences(name)
        (recorded / name).write_text("drawn again")


def test_a_checkout_without_records_lacks_them(checkout):
    _, wrong = outputs.verify()
    assert [line.split(":")[0] for line in wrong] == [
        "results/recorded/demo/table5.csv",
        "results/claims.csv",
        "results/recorded/demo/table5.csv",  # of which the README's part is made
    ]


def test_the_recorded_files_of_this_checkout_follow_from_their_runs():
    if not (ROOT / outputs.CLAIMS).exists():
        pytest.skip("no results are recorded yet")
    assert outputs.verify()[1] == []


# --- record -------------------------------------------------------------------------------------------------


def test_recording_again_changes_no_byte_whatever_the_last_call_did(recorded):
    before, again = tree(recorded.parents[2]), small()
    shuffled = replace(
        again,
        tidy=again.tidy.sample(frac=1, random_state=3),
        hits=again.hits.sample(frac=1, random_state=4),
        provenance=again.provenance | {"last_call": {"runs_made": 0, "seconds": 1.5}},
    )
    outputs.record("demo", {"table3": None, "table5": shuffled})
    assert tree(recorded.parents[2]) == before


def test_recording_other_results_changes_all_that_follows_from_them(recorded):
    before = tree(recorded.parents[2])
    outputs.record("demo", {"table5": small(seed=1)})
    after = tree(recorded.parents[2])
    same = {name for name in before if before[name] == after[name]}
    assert before.keys() == after.keys()
    own = ("/paper/", "table3", "notebooks/")  # of other origin
    assert same == {name for name in before if any(part in name for part in own)}
    assert outputs.verify()[1] == []


def test_the_verdicts_of_the_record_are_those_of_its_tables(recorded):
    frame = claims.load().set_index("id")
    assert frame.loc[ORDER, "seeds"] == "3"
    counted = frame[frame["kind"] == "count"]
    assert set(counted["verdict"]) == {"different"}, "the counts are made up"
    assert set(frame.loc[frame["kind"].isin(["value", "difference"]), "verdict"]) == {"not run"}
    assert (
        outputs.judged("demo", "recorded").set_index("id")["verdict"].to_dict() == frame["verdict"].to_dict()
    )


@pytest.mark.parametrize("part", MARKS)
def test_a_readme_without_marks_is_refused_before_anything_is_written(part, checkout):
    readme, (begin, end) = checkout / "README.md", MARKS[part]
    for text in (README.replace(begin, ""), README.replace(end, ""), f"{end}\n{begin}\n", None):
        readme.unlink() if text is None else readme.write_text(text)
        before = tree(checkout)
        with pytest.raises(InputError, match=r"README\.md: lacks the lines"):
            outputs.record("demo", {"table5": small(), "table3": None})
        assert tree(checkout) == before


def test_other_profiles_leave_the_readme_and_the_demos_verdicts_alone(recorded):
    before = tree(recorded.parents[2])
    written = outputs.record("paper", {"table5": small("paper"), "table3": None})
    after = tree(recorded.parents[2])
    new = {path.relative_to(recorded.parents[2]).as_posix() for path in written}
    assert new == after.keys() - before.keys() and all(
        name.startswith("results/recorded/paper/") for name in new
    )
    assert before.items() <= after.items()
    checked, wrong = outputs.verify()
    assert wrong == [] and new == {name for name in checked if "/recorded/paper/" in name}


# --- write --------------------------------------------------------------------------------------------------


@pytest.fixture
def executed(checkout, monkeypatch) -> list[tuple[str, dict]]:
    """A checkout with what the notebooks are made from; calls of a notebook are noted instead of run."""
    sources = [
        *(f"notebooks/{name}.ipynb" for name in ("table3", "table5", "verdicts")),
        "flowclip_core/model/mcb.py",
    ]
    sources += ["flowclip_kit/reporting/plots.py", "flowclip_kit/experiments/costs.py"]
    for name in sources:
        write_atomically(checkout / name, name)
    calls = []

    def execute(notebook, parameters, html, cwd):
        calls.append((notebook.stem, parameters))
        csv = {"verdicts": "claims.csv"}.get(notebook.stem, f"{notebook.stem}.csv")
        assert (html.parent / csv).exists() and html.stem == notebook.stem and cwd == checkout
        return write_atomically(html, f"run {len(calls)}")

    monkeypatch.setattr(notebooks, "execute", execute)
    return calls


def relative(written: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in written]


def test_the_notebook_is_run_once_and_again_only_when_something_changed(executed, checkout, tmp_path):
    results = tmp_path / "results"
    written = outputs.write("table5", "demo", small(), results)
    names = [f"table5.{kind}" for kind in ("csv", "videos.csv", "provenance.json", "summary.csv", "html")]
    names += [f"figures/table5{more}.{kind}" for more in ("", "_differences") for kind in ("png", "svg")]
    assert relative(written, results / "demo") == names
    assert executed == [("table5", {"profile": "demo", "source": str(results)})]
    before = tree(results)
    outputs.write("table5", "demo", small(), results)
    assert len(executed) == 1 and tree(results) == before
    outputs.write("table5", "demo", small(seed=1), results)
    assert len(executed) == 2
    after = tree(results)
    assert not any(after[f"demo/{name}"] == before[f"demo/{name}"] for name in names)
    for name in ("notebooks/table5.ipynb", "results/paper/table5.csv", "flowclip_kit/reporting/plots.py"):
        (checkout / name).write_text((checkout / name).read_text() + "\n")
        outputs.write("table5", "demo", small(seed=1), results)
    assert len(executed) == 5
    for name in ("table5.html", "figures/table5.svg", "table5.summary.csv"):
        (results / "demo" / name).unlink()
        outputs.write("table5", "demo", small(seed=1), results)
        assert (results / "demo" / name).exists()
    assert len(executed) == 8


def test_figures_are_drawn_once_the_notebook_s_libraries_are_there(executed, tmp_path, monkeypatch):
    order, draw = [], outputs._write_figures
    monkeypatch.setattr(notebooks, "load", lambda: order.append("load"))
    monkeypatch.setattr(outputs, "_write_figures", lambda *drawn: order.append("draw") or draw(*drawn))
    outputs.write("table5", "demo", small(), tmp_path)
    assert order == ["load", "draw"]


def test_a_notebook_that_fails_is_run_again(executed, tmp_path, monkeypatch):
    results = tmp_path / "results"
    outputs.write("table5", "demo", small(), results)
    with monkeypatch.context() as patch:
        patch.setattr(notebooks, "execute", fails)
        with pytest.raises(RuntimeError):
            outputs.write("table5", "demo", small(seed=1), results)
    outputs.write("table5", "demo", small(seed=1), results)
    assert len(executed) == 2


def fails(*arguments, **options):
    raise RuntimeError


def test_trained_weights_become_a_folder_under_their_names(executed, tmp_path):
    model = asdict(ModelConfig())
    about = {
        "model": model,
        "class_texts": ["wave"],
        "backbone": {"name": "test", "pretrained": None, "weights": "0"},
    }

    def trained(value: float) -> bytes:
        return save({"vectors": np.full(3, value, np.float32)}, {"flowclip": json.dumps(about)})

    kept = write_atomically(tmp_path / "runs" / "0123.safetensors", trained(1))
    config = json.loads(json.dumps(asdict(RunConfig("figures-h", 16, 0))))
    record = {
        "key": "0123",
        "config": config,
        "scores": {"top1": 43.75, "top5": 87.5},
        "seconds": {"train": 1, "test": 1},
    }
    record |= {"device": "cpu", "software": {"torch": "1", "open_clip_torch": "2"}, "peak_memory_gib": 1}
    record |= {"predictions": {str(i): [0, int(i > 6), 0.5] for i in range(16)}}
    write_atomically(kept.with_suffix(".json"), json.dumps(record))
    result = replace(small(), checkpoints={"table5-figures-h-full-k16": kept})

    def write() -> dict[str, Path]:
        written = outputs.write("table5", "demo", result, tmp_path / "results")[-3:]
        assert {path.parent for path in written} == {
            tmp_path / "results/demo/checkpoints/table5-figures-h-full-k16"
        }
        return {path.name: path for path in written}

    first = write()
    assert first.keys() == {"model.safetensors", "config.json", "README.md"}
    assert first["model.safetensors"].read_bytes() == trained(1)
    assert json.loads(first["config.json"].read_text()) == {"flowclip": about}
    assert "top-1 43.75 %" in first["README.md"].read_text()
    before = {
        path: path.stat().st_ino for path in first.values()
    }  # a file that is written anew is another one
    assert {path: path.stat().st_ino for path in write().values()} == before
    write_atomically(kept, trained(2))  # as long as before
    assert write()["model.safetensors"].read_bytes() == trained(2) != trained(1)
    record["scores"]["top5"] = 93.75
    write_atomically(kept.with_suffix(".json"), json.dumps(record))
    assert "top-5 93.75 %" in write()["README.md"].read_text()


def test_the_files_of_a_call_say_what_it_did(executed, tmp_path):
    outputs.write("table5", "demo", small(), tmp_path / "results")
    folder = tmp_path / "results" / "demo"
    about = json.loads((folder / "table5.provenance.json").read_text())
    assert about["last_call"] == {"runs_made": 9}
    for name, file in (("table", "table5.csv"), ("videos", "table5.videos.csv")):
        assert about[name] == hashlib.sha256((folder / file).read_bytes()).hexdigest()


def test_costs_are_counted_once_and_again_only_when_the_model_changed(
    executed, checkout, tmp_path, monkeypatch
):
    results, counted = tmp_path / "results", []
    monkeypatch.setattr(outputs, "_counted", lambda: counted.append(1) or counts_text())
    written = outputs.write_costs("smoke", results)
    assert relative(written, results / "smoke") == [
        "table3.csv",
        "table3.html",
        "figures/table3.png",
        "figures/table3.svg",
    ]
    assert executed == [("table3", {"profile": "smoke", "source": str(results)})]
    assert (results / "smoke/table3.csv").read_text() == counts_text()
    outputs.write_costs("smoke", results)
    assert len(executed) == len(counted) == 1
    for n, name in enumerate(("flowclip_core/model/mcb.py", "flowclip_kit/experiments/costs.py"), 2):
        (checkout / name).write_text("changed")
        outputs.write_costs("smoke", results)
        assert len(executed) == len(counted) == n
    for n, name in enumerate(("table3.csv", "table3.html", "figures/table3.svg"), 4):
        (results / "smoke" / name).unlink()
        outputs.write_costs("smoke", results)
        assert len(counted) == n and (results / "smoke" / name).exists()


def test_verdicts_are_those_of_the_tables_that_are_there(executed, tmp_path):
    results = tmp_path / "results"
    written = outputs.write_verdicts("demo", results)
    assert relative(written, results / "demo") == ["claims.csv", "verdicts.html"]
    frame = claims.load("demo", str(results))
    assert set(frame.loc[frame["kind"] != "audit", "verdict"]) == {"not run"}
    outputs.write("table5", "demo", small(), results)
    outputs.write_costs("demo", results)
    outputs.write_verdicts("demo", results)
    frame = claims.load("demo", str(results)).set_index("id")
    judged = frame[(frame["verdict"] != "not run") & (frame["kind"] != "audit")]
    assert {name.split(".")[0] for name in judged.index} == {"table5", "table3"}
    assert outputs.verdict_counts("demo", results) == str(claims.counts_by_verdict(frame))
    outputs.write_verdicts("demo", results)
    assert [name for name, _ in executed] == ["verdicts", "table5", "table3", "verdicts"]


def test_real_data_are_judged_by_value(executed, tmp_path):
    outputs.write("table5", "paper", small("paper"), tmp_path / "results")
    frame = outputs.judged("paper", str(tmp_path / "results")).set_index("id")
    assert frame.loc["table5.value.hmdb.full.k2", "verdict"] in ("reproduced", "different", "undecided")


def test_runs_of_another_model_are_not_judged(executed, tmp_path):
    other = small("paper")
    other.provenance["backbone"] |= {"name": "RN50"}
    outputs.write("table5", "paper", other, tmp_path / "results")
    row = outputs.judged("paper", str(tmp_path / "results")).set_index("id").loc["table5.value.hmdb.full.k2"]
    assert row["verdict"] == "not run" and "the runs are of RN50" in row["reason"] and row["mean"] == ""


def test_the_report_shows_own_runs_or_else_the_recorded_ones(recorded, monkeypatch):
    results, shown = recorded.parents[2] / "elsewhere", []
    monkeypatch.setattr("flowclip_kit.reporting.report.html", lambda *given: shown.append(given) or "report")
    assert relative(outputs.write_report("demo", results), results) == ["demo/report.html"]
    outputs._write_data("table5", small(seed=1), small().provenance, results / "demo")
    for _ in range(2):  # the second time nothing has changed
        outputs.write_report("demo", results)
    (profile, source, verdicts), (_, own, other) = shown
    assert (profile, source, own) == ("demo", "recorded", str(results))
    means = [frame.set_index("id").loc[ORDER, "mean"] for frame in (verdicts, other)]
    assert means[0] == claims.load().set_index("id").loc[ORDER, "mean"] != means[1]


def test_a_profile_without_any_table_has_no_report(checkout):
    before = tree(checkout)
    with pytest.raises(InputError, match=r"recorded/quick: no tables of profile quick; make them with"):
        outputs.write_report("quick", checkout / "results")
    assert tree(checkout) == before and not (checkout / "results/quick").exists()


def test_nothing_ever_writes_among_the_printed_numbers(executed, checkout, monkeypatch):
    """The paper profile's own name is that of their folder."""
    results = checkout / "results"
    before = tree(results / "paper")
    monkeypatch.setattr("flowclip_kit.reporting.report.html", lambda *given: "report")
    written = outputs.write("table5", "paper", small("paper"), results)
    for write in (outputs.write_costs, outputs.write_verdicts, outputs.write_report):
        written += write("paper", results)
    assert {path.relative_to(results).parts[0] for path in written} == {"paper-runs"}
    written = outputs.record("paper", {"table5": small("paper"), "table3": None})
    assert {path.relative_to(results).parts[:2] for path in written} == {("recorded", "paper")}
    assert tree(results / "paper") == before


def test_the_table_for_a_terminal(checkout):
    said = outputs.as_text("table5", small(), checkout)
    assert "demo world, not evidence" in said and "figures-h, n = 3; printed: HMDB-51" in said
    (checkout / "table3.csv").write_text(counts_text())
    assert "HMDB-51, 51 texts" in outputs.as_text("table3", None, checkout)


# --- overview -----------------------------------------------------------------------------------------------


def test_the_overview_counts_trainings_and_reads_recorded_costs(recorded, monkeypatch):
    monkeypatch.setattr(outputs.estimates, "speed", lambda backbone, kinds: (here(), "a machine"))
    path = recorded / "table5.provenance.json"
    path.write_text(json.dumps({"training_seconds": 500, "testing_seconds": 100, "peak_memory_gib": 1.25}))
    said = outputs.overview("demo")
    assert "120 trainings on figures-h, figures-u; 10 core minutes, 1.2 GiB" in said
    targets = [line for line in said.splitlines() if line[:5] in ("table", "figur", "readi", "all  ")]
    assert [line.split()[0] for line in targets] == [
        *(f"table{i}" for i in range(1, 9)), *(f"figure3{letter}" for letter in "abcd"), "readings", "all",
    ]  # fmt: skip
    said = outputs.overview("paper")
    assert (
        "400 trainings on hmdb51, ucf101; hours below" in said
        and "\nhmdb51           6,766      866,048" in said
    )
    with pytest.raises(InputError, match="--profile 'nonsense' is unknown; use demo"):
        outputs.overview("nonsense")
