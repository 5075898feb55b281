"""The recorded files: all follow from the run table, any later change shows; what is unchanged is not made again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_reporting import tidy

from flowclip_core import environment
from flowclip_core.errors import InputError
from flowclip_core.experiments import Result
from flowclip_core.paths import root, write_atomically
from flowclip_core.reporting import notebooks, outputs, plots

BEGIN, END = outputs._marks("table5")
README = f"# Title\n\n3 lines of 100\n\n{BEGIN}\nold\n{END}\n\nThe end.\n"
DATASETS = {
    "figures-h": {"classes": 16, "pair_classes": 10, "train": 384, "test": 256},
    "figures-u": {"classes": 24, "pair_classes": 6, "train": 576, "test": 384},
}


def small(profile: str = "demo", seed: int = 0) -> pd.DataFrame:
    """Two variants at two k: enough for every file, and quick to summarise."""
    table = tidy(profile, seed=seed)
    return table[table["variant"].isin(["clip", "baseline", "full"]) & table["k"].isin([0, 2, 16])]


def result(table: pd.DataFrame | None = None, **about) -> Result:
    said = {"target": "table5", "seeds": 3, "datasets": DATASETS, "training_seconds": 12.5, "last_call": {"made": 9}}
    said["backbone"] = {"name": "tiny-clip", "pretrained": None, "weights": "0"}
    return Result(small() if table is None else table, said | about, {})


def sketch(target, summary, folder, kinds=("svg", "png")):
    """Stands in for the figures, which take seconds: other numbers, other bytes."""
    drawn = hashlib.sha256(summary.to_csv(float_format="%.6f").encode()).hexdigest().encode()
    return {Path(folder) / "figures" / f"{target}.{kind}": drawn for kind in kinds}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout without results, with figures that cost nothing and the software of the lock file."""
    (tmp_path / "README.md").write_text(README)
    monkeypatch.setattr(outputs, "root", lambda: tmp_path)
    monkeypatch.setattr(plots, "figure_bytes", sketch)
    monkeypatch.setattr(environment, "source", lambda: "requirements.lock")
    return tmp_path


@pytest.fixture
def recorded(checkout) -> Path:
    outputs.record("table5", "demo", result())
    return checkout / "results" / "recorded" / "demo"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def differences(name: str) -> list[str]:
    checked, wrong = outputs.verify()
    assert len(wrong) <= len(checked) and not any("\n" in line for line in wrong)
    return [line for line in wrong if name in line]


# --- verify ---------------------------------------------------------------------------------------------------


def test_what_was_recorded_verifies(recorded):
    checked, wrong = outputs.verify()
    assert not wrong
    files = {path.relative_to(recorded.parents[2]).as_posix() for path in recorded.rglob("*") if path.is_file()}
    assert set(checked) == files | {"README.md"} and len(checked) == len(set(checked)) == 6


def test_the_real_figures_verify_and_a_changed_one_does_not(checkout, monkeypatch):
    monkeypatch.setattr(plots, "figure_bytes", REAL_FIGURES)
    outputs.record("table5", "demo", result())
    figures = checkout / "results" / "recorded" / "demo" / "figures"
    names = {"table5.svg", "table5.png", "table5_controls.svg", "table5_controls.png"}
    assert {path.name for path in figures.iterdir()} == names
    assert outputs.verify()[1] == []
    svg = figures / "table5_controls.svg"
    svg.write_text(svg.read_text().replace("0.", "1.", 1))
    assert differences("table5_controls.svg") and len(outputs.verify()[1]) == 1


REAL_FIGURES = plots.figure_bytes


def other_digits(text: str, every: int) -> list[str]:
    """The text with one digit changed, for every `every`-th of its digits."""
    places = [match.start() for match in re.finditer(r"\d", text)][::every]
    return [f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}" for at in places]


@pytest.mark.parametrize(
    ("name", "every"),
    [("table5.csv", 151), ("table5.summary.csv", 211), ("table5.provenance.json", 7), ("figures/table5.svg", 9)],
)
def test_any_changed_digit_is_found(name, every, recorded):
    path = recorded / name
    true = path.read_text()
    changed = other_digits(true, every)
    assert len(changed) > 3
    for text in changed:
        path.write_text(text)
        assert differences(name), text
    path.write_text(true)
    assert outputs.verify()[1] == []


def test_any_changed_digit_of_the_readme_table_is_found_and_the_text_around_it_is_free(recorded, checkout):
    readme = checkout / "README.md"
    true = readme.read_text()
    before, block, after = true[: true.index(BEGIN)], true[true.index(BEGIN) : true.index(END)], true[true.index(END) :]
    for text in other_digits(block.removeprefix(BEGIN), 61):
        readme.write_text(before + BEGIN + text + after)
        assert differences("README.md"), text
    readme.write_text(before.replace("100", "200") + block + after + "More.\n")
    assert outputs.verify()[1] == []


@pytest.mark.parametrize(
    "name", ["table5.csv", "table5.summary.csv", "table5.provenance.json", "figures/table5.svg", "figures/table5.png"]
)
def test_a_missing_file_is_named(name, recorded):
    (recorded / name).unlink()
    assert differences(name)


def test_a_missing_record_of_a_table_in_the_readme_is_named(recorded):
    shutil.rmtree(recorded)
    assert differences("results/recorded/demo/table5.csv")


def test_a_readme_without_the_table_is_named(recorded, checkout):
    for text in (README.replace(BEGIN, ""), README.replace(END, ""), ""):
        (checkout / "README.md").write_text(text)
        assert differences("README.md")
    (checkout / "README.md").unlink()
    assert differences("README.md")


@pytest.mark.parametrize("content", ["[]", "{}", "{", "7", ""])
def test_a_provenance_that_is_none_is_named(content, recorded):
    (recorded / "table5.provenance.json").write_text(content)
    assert differences("table5.provenance.json")


def test_a_table_swapped_for_another_whole_one_is_found(recorded, checkout):
    """Each file alone is sound; they do not belong together."""
    kept = tree(recorded)
    outputs.record("table5", "demo", result(small(seed=1)))
    for name in ("table5.csv", "table5.summary.csv", "figures/table5.svg"):
        (recorded / name).write_bytes(kept[name])
    assert differences("table5.csv")


def test_with_other_software_figures_must_only_be_there(recorded, monkeypatch):
    monkeypatch.setattr(environment, "source", lambda: "own environment")
    (recorded / "figures" / "table5.svg").write_text("drawn by another version")
    assert outputs.verify()[1] == []
    (recorded / "figures" / "table5.svg").unlink()
    assert differences("figures/table5.svg")


def test_nothing_recorded_is_nothing_wrong(checkout):
    (checkout / "README.md").write_text("# Title\n")
    assert outputs.verify() == ([], [])


def test_the_recorded_files_of_this_checkout_follow_from_their_runs():
    if not list((root() / outputs.RECORDED).glob("*/table5.csv")):
        pytest.skip("no results are recorded yet")
    assert outputs.verify()[1] == []


# --- record ---------------------------------------------------------------------------------------------------


def test_recording_again_changes_no_byte_whatever_the_last_call_did(recorded, checkout):
    before = tree(checkout)
    shuffled = small().sample(frac=1, random_state=3)
    outputs.record("table5", "demo", result(shuffled, last_call={"made": 0, "seconds": 1.5}))
    assert tree(checkout) == before


def test_recording_other_results_changes_all_files(recorded, checkout):
    before = tree(checkout)
    outputs.record("table5", "demo", result(small(seed=1)))
    after = tree(checkout)
    assert before.keys() == after.keys() and not any(before[name] == after[name] for name in before)
    assert outputs.verify()[1] == []


@pytest.mark.parametrize("text", [README.replace(BEGIN, ""), README.replace(END, ""), f"{END}\n{BEGIN}\n", None])
def test_a_readme_without_marks_is_refused_before_anything_is_written(text, checkout):
    readme = checkout / "README.md"
    readme.unlink() if text is None else readme.write_text(text)
    before = tree(checkout)
    with pytest.raises(InputError, match="README.md: lacks the lines"):
        outputs.record("table5", "demo", result())
    assert tree(checkout) == before


def test_other_profiles_leave_the_readme_alone(checkout):
    outputs.record("table5", "paper", result(small("paper")))
    assert (checkout / "README.md").read_text() == README
    checked, wrong = outputs.verify()
    assert "results/recorded/paper/table5.csv" in checked
    assert wrong == ["results/recorded/demo/table5.csv: no such file; expected a table made by ./reproduce.sh"]


# --- write ----------------------------------------------------------------------------------------------------


@pytest.fixture
def executed(checkout, monkeypatch) -> list[dict]:
    """A checkout with what the notebook is made from; calls of the notebook are noted instead of run."""
    for name in ("notebooks/table5.ipynb", "results/paper/table5.csv", "flowclip_core/reporting/plots.py"):
        write_atomically(checkout / name, (root() / name).read_bytes())
    calls = []

    def execute(notebook, parameters, html, cwd):
        calls.append(parameters)
        assert (html.parent / "table5.csv").exists()
        return write_atomically(html, f"run {len(calls)}")

    monkeypatch.setattr(notebooks, "execute", execute)
    return calls


def test_the_notebook_is_run_once_and_again_only_when_something_changed(executed, checkout, tmp_path):
    results = tmp_path / "results"
    written = outputs.write("table5", "demo", result(), results)
    names = ["table5.csv", "table5.summary.csv", "table5.provenance.json", "table5.html"]
    names += ["figures/table5.png", "figures/table5.svg"]
    assert [path.relative_to(results / "demo").as_posix() for path in written] == names
    assert executed == [{"profile": "demo", "source": str(results)}]
    before = tree(results)
    outputs.write("table5", "demo", result(), results)
    assert len(executed) == 1 and tree(results) == before
    outputs.write("table5", "demo", result(small(seed=1)), results)
    assert len(executed) == 2 and tree(results)["demo/figures/table5.svg"] != before["demo/figures/table5.svg"]
    for name in ("notebooks/table5.ipynb", "results/paper/table5.csv", "flowclip_core/reporting/plots.py"):
        (checkout / name).write_text((checkout / name).read_text() + "\n")
        outputs.write("table5", "demo", result(small(seed=1)), results)
    assert len(executed) == 5
    for name in ("table5.html", "figures/table5.svg"):
        (results / "demo" / name).unlink()
        outputs.write("table5", "demo", result(small(seed=1)), results)
        assert (results / "demo" / name).exists()
    assert len(executed) == 7


def test_a_notebook_that_fails_is_run_again(executed, tmp_path, monkeypatch):
    results = tmp_path / "results"
    outputs.write("table5", "demo", result(), results)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(notebooks, "execute", fails)
        outputs.write("table5", "demo", result(small(seed=1)), results)
    outputs.write("table5", "demo", result(small(seed=1)), results)
    assert len(executed) == 2


def fails(*arguments, **options):
    raise RuntimeError


def test_trained_weights_are_copied_under_their_names(executed, tmp_path):
    kept = write_atomically(tmp_path / "runs" / "0123.safetensors", b"weights")
    made = Result(small(), result().provenance, {"table5-figures-h-full-k16": kept})
    written = outputs.write("table5", "demo", made, tmp_path / "results")
    assert written[-1] == tmp_path / "results/demo/checkpoints/table5-figures-h-full-k16.safetensors"
    assert written[-1].read_bytes() == b"weights"


def test_the_files_of_a_call_say_what_it_did(executed, tmp_path):
    outputs.write("table5", "demo", result(), tmp_path / "results")
    about = json.loads((tmp_path / "results" / "demo" / "table5.provenance.json").read_text())
    table = (tmp_path / "results" / "demo" / "table5.csv").read_bytes()
    assert about["last_call"] == {"made": 9} and about["table"] == hashlib.sha256(table).hexdigest()


# --- overview -------------------------------------------------------------------------------------------------


def test_the_overview_counts_trainings_and_reads_recorded_costs(recorded, checkout):
    path = recorded / "table5.provenance.json"
    path.write_text(json.dumps({"training_seconds": 500, "testing_seconds": 100, "peak_memory_gib": 1.25}))
    said = outputs.overview("demo")
    assert "120 trainings on figures-h, figures-u; 10 core minutes, 1.2 GiB" in said
    assert "400 trainings on hmdb51, ucf101; not measured yet" in outputs.overview("paper")
    with pytest.raises(InputError, match="--profile 'nonsense' is unknown; use demo"):
        outputs.overview("nonsense")
