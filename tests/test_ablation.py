"""Knobs: every target takes them from Python, a shell and a notebook alike, and what differs from the
paper's grid is made, shown and kept apart."""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from conftest import ROOT
from matplotlib.figure import Figure

import flowclip_kit
from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.files import write_atomically
from flowclip_kit import studies
from flowclip_kit.cli import main
from flowclip_kit.demo import world
from flowclip_kit.experiments import Experiment, catalogue, estimates, knobs, own_runs
from flowclip_kit.experiments.catalogue import TARGETS, VARIANTS, grid, parameters
from flowclip_kit.parser import parser
from flowclip_kit.profiles import DEMO, PAPER, SMOKE
from flowclip_kit.reporting import notebooks

SIX_WORDS = "a very common human action of"
# What a reader may want to know that the paper does not say, in the fields of the settings.
WISHES = {
    "full": {},
    "s=6": {"step": 6},
    "T=16, s=7": {"frames": 16, "step": 7},
    "H=6": {"prompt": SIX_WORDS},
    "tau .01": {"tau": 0.01},
    "map only": {"mmb": False},
    "lr .05": {"lr": 0.05},
}
MOTION = {
    "motion stream, learnt positions, s=2": {"map": False, "mcb": False, "positions": "learned", "s": 2}
}

PLAIN = {"mmb": False, "map": False, "mcb": False, "spatial": False}


@pytest.fixture
def drawn(cache, monkeypatch):
    """Drawn worlds and features of the session."""
    monkeypatch.setenv("FLOWCLIP_CACHE", str(cache))


@pytest.fixture
def no_notebook(monkeypatch):
    """Notebooks that are only written down: (name, parameters)."""
    executed: list[tuple[str, dict]] = []

    def execute(notebook, parameters, html, cwd):
        executed.append((notebook.stem, parameters))
        return write_atomically(html, "<html></html>")

    monkeypatch.setattr(notebooks, "execute", execute)
    return executed


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.csv") if "runs" not in path.parts}


# --- one source for three faces ------------------------------------------------------------------------


def as_written(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("target", TARGETS)
def test_signature_cell_and_help_are_one(target, capsys):
    asked = parameters(target)
    assert list(asked) == [name for name in knobs.KNOBS if name in asked]
    notebook = nbformat.read(ROOT / "notebooks" / f"{target}.ipynb", 4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    tree = ast.parse(cell.source)
    set_there = {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body}
    assert set_there == studies.WHERE | {name: as_written(value) for name, value in asked.items()}
    assert list(papermill.inspect_notebook(notebook)) == [*studies.WHERE, *asked]
    with pytest.raises(SystemExit):
        parser().parse_args([target, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, value in asked.items():
        words = "none" if value is None else json.dumps(value)
        assert f"{name} = {words}: {knobs.KNOBS[name].about}" in said
    # and what a target's function names in its own signature is among them
    own = set(inspect.signature(TARGETS[target].cells).parameters) - {"profile", "knobs"}
    assert own <= set(asked)


@pytest.mark.parametrize("profile", [DEMO, PAPER, SMOKE], ids=lambda profile: profile.name)
@pytest.mark.parametrize("target", TARGETS)
def test_saying_the_defaults_changes_nothing(target, profile):
    said = {name: as_written(value) for name, value in parameters(target).items()}
    assert catalogue.changed(target, said) == {}
    given = {name: value for name, value in parameters(target).items() if name not in catalogue.ASIDE}
    assert TARGETS[target].cells(profile, **given) == TARGETS[target].cells(profile)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1,4,6]", [1, 4, 6]), ("[.01,.07]", [0.01, 0.07]), ("3", 3), ("none", None), ("None", None),
        ("true", True),
        ("figures-h", "figures-h"), ("[baseline, full]", ["baseline", "full"]), ("1e-3", 0.001),
        ('{"mine": {"step": 6}}', {"mine": {"step": 6}}),
        ("{'mine': {'mmb': False}}", {"mine": {"mmb": False}}),
        (SIX_WORDS, SIX_WORDS), ('["paper", {"mine": {"mmb": false}}]', ["paper", {"mine": {"mmb": False}}]),
    ],
)  # fmt: skip
def test_a_shell_writes_json_python_or_bare_words(text, value):
    assert knobs.value_of(text) == value


@pytest.mark.parametrize(
    ("target", "given", "said"),
    [
        ("figure3d", {"step": 6}, "figure3d has no parameter 'step', did you mean s?"),
        ("figure3d", {"seed": 6}, "'seed', did you mean seeds?"),
        ("table5", {"heads": 4}, "settings={'heads': ...}"),
        ("figure3d", {"s": "six"}, "s='six': expected a whole number, or a list of them"),
        ("figure3d", {"s": [1, 2.5]}, r"s=\[1, 2.5\]: expected a whole number"),
        ("figure3d", {"s": True}, "s=True: expected a whole number"),
        ("figure3d", {"s": None}, "s=None: expected a whole number"),
        ("figure3d", {"s": [1, 1]}, "names a value twice"),
        ("figure3d", {"s": []}, r"s=\[\]: expected"),
        ("table5", {"seeds": [1, 2]}, r"seeds=\[1, 2\]: expected a whole number$"),
        ("table5", {"tau": "cold"}, "tau='cold': expected a number, or a list of them"),
        ("table5", {"settings": [1]}, r"settings=\[1\]: expected {field: value}"),
        ("table5", {"settings": {"tempo": 1}}, "settings: 'tempo' is no field of the model or the training"),
        ("table5", {"variants": "fool"}, "variants: 'fool' is unknown; name one of"),
        ("table5", {"variants": {"mine": {"stop": 2}}}, "variants: 'mine' sets 'stop', which is no field"),
        ("table5", {"variants": ["full", {"full": {}}]}, "variants: 'full' is there twice"),
        ("figure3d", {"variants": {"mine": {"step": 2}}}, "'mine' sets step, which is also the axis s"),
        ("figure3c", {"H": 6}, "H=6: the paper has prompts of 3, 4, 5 words; give your own with prompt="),
        ("table5", {"H": 3, "prompt": SIX_WORDS}, "a prompt has as many words as vectors"),
        ("table5", {"T": 64}, "T=64: 32 frames of a video are stored"),
        ("table5", {"T": 8, "s": 9}, "step s=9 needs"),
        ("table5", {"steps": 3, "epochs": 2}, "either steps or epochs"),
        ("table5", {"crops": "left"}, "profile smoke stores the views centre"),
        ("table7", {"datasets": "figures-h"}, "table7 trains on one data set and tests on another"),
        ("table5", {"datasets": "figures-x"}, "data set 'figures-x': expected one of"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_parameter(target, given, said):
    with pytest.raises(InputError, match=said) as error:
        Experiment.of(target, "smoke", given=given)
    assert "\n" not in str(error.value)


# --- grids ------------------------------------------------------------------------


def rows(**given) -> list[str]:
    return list(dict.fromkeys(cell.variant for cell in grid(SMOKE, **given)))


def test_a_list_makes_an_axis_and_a_row_says_where_it_is_on_it():
    assert rows(s=(1, 4)) == ["s=1", "s=4"]
    assert rows(s=(1, 4), tau=(0.01, 0.07)) == [f"s={s}, tau={tau}" for s in (1, 4) for tau in (0.01, 0.07)]
    assert rows(variants=("mmb", "full"), T=(8, 16)) == ["mmb T=8", "mmb T=16", "full T=8", "full T=16"]
    assert rows(settings={"heads": (4, 8)}) == ["heads=4", "heads=8"]
    assert rows(prompt=("human action of", SIX_WORDS)) == ["human action of", SIX_WORDS]
    cells = grid(SMOKE, k=(2, None), lr=(0.1, 0.2), batch=(8, 16), seeds=2)
    assert len(cells) == 2 * 2 * 2 * 2 * 2
    assert {(cell.config.k, cell.config.train.lr, cell.config.train.batch) for cell in cells} == {
        (k, lr, batch) for k in (2, None) for lr in (0.1, 0.2) for batch in (8, 16)
    }


def test_an_axis_that_makes_no_difference_to_a_row_gives_it_once():
    assert rows(variants=("clip", "baseline", "mmb"), s=(1, 4)) == ["clip", "baseline", "mmb s=1", "mmb s=4"]
    assert rows(variants=("clip", "full"), lr=(0.1, 0.2)) == ["clip", "full lr=0.1", "full lr=0.2"]


def test_a_row_changes_what_it_names_and_nothing_else():
    cells = {cell.variant: cell.config for cell in grid(SMOKE, variants=WISHES | MOTION, k=3)}
    assert cells["full"].model == ModelConfig() and {config.k for config in cells.values()} == {3}
    assert (cells["T=16, s=7"].model.frames, cells["T=16, s=7"].model.step) == (16, 7)
    assert cells["H=6"].model.prompt_length == 6 and cells["lr .05"].train.lr == 0.05
    assert not cells["map only"].model.mmb and cells["map only"].model.map
    (motion,) = MOTION
    assert (cells[motion].model.positions, cells[motion].model.step, cells[motion].model.map) == (
        "learned",
        2,
        False,
    )
    twenty = grid(SMOKE, k=3, steps=20)[0].config.train
    assert (twenty.steps, twenty.epochs) == (20, None) and grid(PAPER, steps=20)[
        0
    ].config.train.epochs is None
    assert grid(DEMO, epochs=2)[0].config.train.steps is None


def test_what_is_the_papers_goes_with_the_paper_and_all_else_apart():
    def name(target="table5", **given):
        return Experiment.of(target, "smoke", given=given).name

    assert {name(target) for target in TARGETS} == {""}
    assert name(seeds=7) == name(datasets="figures-h") == name(datasets=["HMDB-51"]) == ""
    names = [
        name(k=3),
        name(s=6),
        name(variants=["paper", MOTION]),
        name(class_names="raw"),
        name(settings={"heads": 4}),
    ]
    assert len({*names}) == len(names) and all(re.fullmatch("[0-9a-f]{6}", one) for one in names)
    assert name(k=3, seeds=7) == name(k=3) and name(k=[3]) != name(k=3)
    for wrong in ("../x", "a/b", ".hidden", "x" * 99):
        with pytest.raises(InputError, match="expected a folder's name"):
            Experiment.of("table5", "smoke", name=wrong)


def test_the_grid_is_shown_before_it_is_run():
    table = studies.Study("figure3d", s=[1, 2, 6, 7], seeds=5).grid
    assert table["s"].tolist() == [1, 2, 6, 7] and table["runs"].eq(2 * 5).all()
    assert (table["minutes"] > 0).all() and table["data set"].eq("figures-h, figures-u").all()
    rows = studies.Study("table5", k=[2, 4], datasets="figures-h").grid
    assert rows["k"].to_dict() == {"clip": "0"} | dict.fromkeys(VARIANTS, "2, 4")
    assert rows["runs"].tolist() == [1] + [2 * 3] * len(VARIANTS)
    recorded = studies.Study("table5", source="recorded")
    own = recorded.view.runs.query("metric == 'top1'").groupby("variant").size()
    assert recorded.grid["runs"].to_dict() == own.to_dict()  # however many runs a cell were recorded
    cells = Experiment.of("figure3d").cells()
    count, seconds = estimates.expected(DEMO, cells, 2)
    assert count == 30 and 10 < seconds < 3600 and seconds <= estimates.expected(DEMO, cells, 1)[1]
    trials = studies.Study("readings", lr=[0.1, 0.2]).grid
    assert trials["lr"].eq("0.1, 0.2").all() and trials["runs"].eq(2 * 2).all()


@pytest.mark.parametrize("target", TARGETS)
def test_the_grid_has_every_cell_once(target):
    asked = Experiment.of(target)
    cells = {(cell.variant, cell.config) for cell in asked.cells()}
    grid = estimates.grid_table(asked)
    listed = [grid[name].str.split(", ") for name in ("data set", "k", "split", "lr")]
    told = sum(math.prod(map(len, row)) for row in zip(*listed, strict=True))
    apart = {(variant, replace(config, seed=0)) for variant, config in cells}
    assert grid["runs"].sum() == len(asked.cells()) and told == len(apart)


def test_cells_that_are_not_in_every_combination_have_rows_of_their_own(monkeypatch):
    asked = Experiment.of("table5", given={"variants": "full", "seeds": 1})
    kept = [cell for cell in asked.cells() if (cell.role, cell.config.k) != ("UCF-101", 16)]
    monkeypatch.setattr(Experiment, "cells", lambda self: kept)
    grid = estimates.grid_table(asked)
    assert grid["k"].tolist() == ["2, 4, 8, 16", "2, 4, 8"]
    assert grid["data set"].tolist() == ["figures-h", "figures-u"]


@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("table5", {"variants": ["clip", "mcb", "full"], "k": 2}),
        ("figure3c", {"variants": ["clip", "baseline"], "H": 3}),
        ("ablation", {"variants": ["clip", "mmb"]}),
        ("ablation", {"variants": ["clip", {"also clip": PLAIN}]}),
        ("rivals", {"variants": ["clip", "mmb+map"], "methods": ["BIKE spotting", "CoOp"]}),
        ("rivals", {"variants": ["clip", "full"], "methods": ["BIKE spotting"], "lr": 0.01}),
    ],
)
def test_own_calls_of_a_target_or_rivals_compare_untrained_rows_the_way_that_pairs(target, given):
    """A run without training has no seed to share with those of a reference that has one."""
    for variants in given["variants"], given["variants"][::-1]:
        asked = Experiment.of(target, "demo", given=given | {"variants": variants})
        trained = {cell.variant for cell in asked.cells() if cell.config.train}
        assert {name for pair in asked.compare for name in pair} == set(asked.variants)
        assert not [pair for pair in asked.compare if pair[0] not in trained and pair[1] in trained]


# --- the wishes, by every face ------------------------------------------------------------------------


def test_wishes_in_python(drawn, tmp_path):
    made = flowclip_kit.ablate(
        WISHES, data="figures-h", k=3, seeds=2, steps=2, profile="smoke", source=str(tmp_path)
    )
    frame = made.frame[made.frame["metric"] == "top1"]
    assert set(frame["variant"]) == set(WISHES) and frame.groupby("variant")["seed"].nunique().eq(2).all()
    by_row = frame.drop_duplicates("variant").set_index("variant")
    assert set(frame["k"]) == {3} and by_row.loc["T=16, s=7", ["T", "s", "L"]].tolist() == [16, 7, 84]
    assert by_row.loc["H=6", "H"] == 6 and by_row.loc["map only", "L"] == 0
    assert float(by_row.loc["tau .01", "tau"]) == 0.01 and set(map(int, frame["steps"])) == {2}
    assert by_row.loc["lr .05", "lr"] == 0.05
    made.check()
    text = str(made.table())
    assert all(name in text for name in WISHES) and isinstance(made.plot(), Figure)
    differences = str(made.differences("full"))
    assert all(f"{name} - full" in differences for name in WISHES if name != "full")
    with pytest.raises(InputError, match="no such row; there are"):
        made.differences("fool")

    (own,) = own_runs("smoke", str(tmp_path))
    assert own.target == "ablation" and own.name == made.experiment.name
    again = flowclip_kit.ablate(WISHES, "figures-h", "smoke", k=3, seeds=2, steps=2, source=str(tmp_path))
    assert again.view.about["last_call"] == made.view.about["last_call"]  # read, and not made again


def test_wishes_in_a_shell(drawn, no_notebook, tmp_path, capfd):
    words = ["--profile", "smoke", "--results", str(tmp_path), "-p", "datasets=figures-h", "-p", "seeds=1"]
    assert main(["ablation", "-p", "s=[1,4,6]", "-p", "tau=[.01,.07]", "-p", "k=3", *words]) == 0
    out, err = capfd.readouterr()
    assert all(f"s={s}, tau={tau}" in out for s in (1, 4, 6) for tau in (0.01, 0.07))
    assert err.startswith("reproduce.sh: ablation: 14 runs on figures-h; about")  # the baseline has no s
    assert re.search(r"reproduce.sh: \d+ (s|min); open .*/ablation.html$", err.rstrip().splitlines()[-1])
    ((name, told),) = no_notebook
    assert name == "ablation" and told["s"] == [1, 4, 6] and told["seeds"] == 1 and told["name"]
    (own,) = own_runs("smoke", str(tmp_path))
    assert files(tmp_path) == {
        f"smoke/ablation-{own.name}/ablation.{kind}csv" for kind in ("", "summary.", "videos.")
    }
    about = json.loads((own.folder / "ablation.provenance.json").read_text())
    given = {"datasets": ["figures-h"], "k": 3, "seeds": 1, "s": [1, 4, 6], "tau": [0.01, 0.07]}
    assert about["parameters"] == given

    # A row more in Table 5; what is the table's own is not touched.
    row = json.dumps(["paper", MOTION])
    assert main(["table5", "-p", f"variants={row}", "-p", "k=2", "--name", "mine", *words]) == 0
    table = pd.read_csv(tmp_path / "smoke/table5-mine/table5.csv", keep_default_na=False)
    assert {*MOTION, "clip", "baseline", "full"} < set(table["variant"]) and not (
        tmp_path / "smoke/table5.csv"
    ).exists()
    assert next(iter(MOTION)) in capfd.readouterr().out
    assert main(["table5", "-p", "step=6", *words]) == 2
    assert capfd.readouterr().err.startswith("reproduce.sh: table5 has no parameter 'step', did you mean s?")
    assert main(["table5", "-p", "step", *words]) == 2 and "NAME=VALUE" in capfd.readouterr().err


def injected(tmp_path: Path, target: str, **given) -> nbformat.NotebookNode:
    """A notebook run by papermill itself, unlike `notebooks.execute` as lax as it is."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{target}.ipynb", 4)
    out = tmp_path / f"{target}.out.ipynb"
    return papermill.execute_notebook(
        notebook, out, given, kernel_name="python3", cwd=tmp_path, progress_bar=False
    )


def shown(cells: list) -> str:
    """The text of all outputs, printed or displayed."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join(
        str(one.get("text", "")) + str(one.get("data", {}).get("text/plain", "")) for one in outputs
    )


def test_figure3d_with_other_steps_by_papermill(drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    given = {"profile": "smoke", "source": str(tmp_path / "results"), "s": [1, 2, 6, 7], "seeds": 2}
    done = injected(tmp_path, "figure3d", **given, datasets="figures-h")
    text = shown(done.cells)
    assert all(f"s={s} " in text for s in (1, 2, 6, 7)) and "s=5 " not in text and "s=7 - s=1" in text
    (own,) = own_runs("smoke", str(tmp_path / "results"))
    assert own.target == "figure3d"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"step": 6}, "figure3d has no parameter 'step', did you mean s?"),
        ({"s": "six"}, "s='six': expected a whole"),
    ],
)
def test_papermill_with_a_wrong_name_or_type_shows_no_recorded_number(given, said, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(papermill.PapermillExecutionError) as error:
        injected(tmp_path, "figure3d", **given)
    assert error.value.ename == "InputError" and error.value.evalue.startswith(said)
    assert "s=1 " not in shown(nbformat.read(tmp_path / "figure3d.out.ipynb", 4).cells)


def test_videos_of_ones_own(no_notebook, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    for action in ("wave", "push_up"):
        for number in range(4):
            path = tmp_path / "data" / action / f"{number}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(world.encode(world.render("figures-h", action, number)))
    words = [
        "--profile",
        "smoke",
        "--data-root",
        str(tmp_path / "data"),
        "--results",
        str(tmp_path / "results"),
    ]
    rows = json.dumps({"full": {}, "map only": {"mmb": False}})
    assert main(["ablation", "-p", "datasets=folder", "-p", f"variants={rows}", "-p", "k=1", *words]) == 0
    (own,) = own_runs("smoke", str(tmp_path / "results"))
    table = pd.read_csv(own.folder / "ablation.csv", keep_default_na=False)
    assert set(table["variant"]) == {"full", "map only"} and set(table["dataset"]) == {"folder"}
    assert main(["ablation", "-p", "datasets=folder", "-p", "k=9", *words]) == 2
    assert "k=9: a class of folder has only" in capfd.readouterr().err
