"""Rules for all files: ruff, types, imports go one way, no pickle, no trace of a machine, small notebooks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from flowclip_kit.paths import root

PACKAGES = ("flowclip_core", "flowclip_kit")
MODULES = {
    ".".join(path.relative_to(root()).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((root() / package).rglob("*.py"))
}
# The data's way. A module imports from its own layer and those before it, so the core never imports the kit.
LAYERS = (
    ("core.errors", "core.files", "core.cores", "core.config"),
    ("core.data",),
    ("core.model",),
    ("core.training",),
    ("core.predict",),
    ("kit.profiles", "kit.paths", "kit.environment", "kit.surroundings", "kit.distributed"),
    ("kit.weights", "kit.class_texts"),
    ("kit.demo",),
    ("kit.datasets", "kit.rivals"),
    ("kit.experiments",),
    ("kit.parser",),
    ("kit.predict", "kit.readme_parts", "kit.reporting", "kit.doctor"),
    (
        "kit.explore",
        "kit.bench",
        "kit.studies",
        "kit.samples",
        "kit.book",
        "kit.book_figures",
        "kit.claim_files",
    ),
    ("kit.launcher", "kit.programs"),
    ("kit.cli",),
    ("kit.__main__",),
)
LAYER = {f"flowclip_{part}": number for number, parts in enumerate(LAYERS) for part in parts}
NOTEBOOKS = sorted((root() / "notebooks").glob("*.ipynb"))


# --- linter and types


@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check", "flowclip_core", "flowclip_kit", "tests"], ["mypy"]],
    ids=lambda words: " ".join(words[:2]),
)
def test_the_code_passes(command):
    """By the settings in pyproject.toml; mypy takes a minute where .mypy_cache is empty."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=root(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- imports


def imports(source: str, nested: bool = True) -> set[str]:
    """Modules of this package that the source imports, also inside functions or only for types."""
    tree = ast.parse(source)
    found = set()
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = {name for name in found if name.split(".")[0] in PACKAGES}
    return {name if name in MODULES else name.rpartition(".")[0] for name in found}


def wrong_imports(name: str, source: str) -> list[str]:
    return sorted(other for other in imports(source) if layer(other) > layer(name))


def layer(name: str) -> int:
    """Of a package's own names, which come from anywhere in it: its last."""
    package, *inside = name.split(".")
    if not inside:
        return max(number for part, number in LAYER.items() if part.startswith(package))
    return LAYER[f"{package}.{inside[0]}"]


@pytest.mark.parametrize("name", sorted(set(MODULES) - set(PACKAGES)))
def test_imports_go_one_way(name):
    assert wrong_imports(name, MODULES[name].read_text()) == []


def test_the_package_itself_imports_nothing_of_its_own_at_once():
    assert [imports(MODULES[package].read_text()) for package in PACKAGES] == [set(), set()]


def test_the_import_test_sees_every_kind_of_import():
    for line in (
        "from flowclip_kit.reporting import stats",
        "from flowclip_kit.reporting.stats import t_interval",
        "import flowclip_kit.reporting.stats",
        "def f():\n    from flowclip_kit.reporting import stats",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flowclip_kit.reporting import stats",
    ):
        assert wrong_imports("flowclip_core.data.features", line) == ["flowclip_kit.reporting.stats"]
    assert wrong_imports("flowclip_kit.reporting.stats", "from flowclip_kit import environment, paths") == []
    assert wrong_imports("flowclip_kit.demo.world", "from flowclip_kit import datasets") == [
        "flowclip_kit.datasets"
    ]
    assert wrong_imports("flowclip_core.model.motion", "from flowclip_core import train") == ["flowclip_core"]


def test_no_module_waits_for_itself():
    """At the top level, where a circle fails or depends on which module is asked for first."""
    waits = {name: imports(path.read_text(), nested=False) for name, path in MODULES.items()}
    done: set[str] = set()
    while ready := {name for name in waits.keys() - done if waits[name] <= done}:
        done |= ready
    assert waits.keys() - done == set()


def loaded(code: str) -> set[str]:
    """The packages that have been imported after `code` ran in a fresh interpreter."""
    say = "; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code + say], capture_output=True, text=True, cwd=root(), check=True
    )
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_light_modules_do_not_import_torch():
    names = "cli datasets.formats demo.world environment experiments experiments.runs paths reporting.outputs"
    light = loaded(
        "import flowclip_core.config, " + ", ".join(f"flowclip_kit.{name}" for name in names.split())
    )
    assert light & {"torch", "torchvision", "open_clip", "matplotlib", "papermill"} == set()
    assert light >= {"numpy", "pandas", "flowclip_core"}  # what is loaded is seen


def test_the_cells_of_all_targets_are_listed_without_torch():
    code = "from flowclip_kit.experiments.catalogue import TARGETS; from flowclip_kit.profiles import DEMO"
    assert "torch" not in loaded(f"{code}; [target.cells(DEMO) for target in TARGETS.values()]")


# --- nothing that runs code from a file

UNSAFE_MODULES = {"cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {("torch", "load"), ("pd", "read_pickle"), ("yaml", "load")}


def unsafe(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] * (node.module.split(".")[0] in UNSAFE_MODULES | {"pickle"})
            found += [alias.name for alias in node.names if (node.module, alias.name) in UNSAFE_ATTRIBUTES]
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in UNSAFE_CALLS:
                found.append(called.id)
            if (
                isinstance(called, ast.Attribute)
                and (ast.unparse(called.value), called.attr) in UNSAFE_ATTRIBUTES
            ):
                found.append(called.attr)
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if (keyword.arg, value) in (("allow_pickle", True), ("weights_only", False), ("shell", True)):
                    found.append(keyword.arg)
        elif isinstance(node, ast.Attribute):
            # The name of its error alone is harmless: open_clip raises it on a file that is none of its own.
            pickle = ast.unparse(node.value) == "pickle" and node.attr != "UnpicklingError"
            found += [node.attr] * (pickle or node.attr in ("to_pickle", "read_pickle"))
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_runs_code_out_of_a_file(name):
    assert unsafe(MODULES[name].read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle\npickle.Unpickler(file)",
        "import pickle\nread = pickle.loads",
        "from pickle import loads",
        "import shelve as s",
        "torch.load(path)",
        "from torch import load",
        "np.load(path, allow_pickle=True)",
        "torch.hub.load(path, weights_only=False)",
        "frame.to_pickle(path)",
        "def f():\n    return eval(text)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_the_test_for_unsafe_code_sees(line):
    assert unsafe(line)


def test_the_test_for_unsafe_code_lets_the_rest_pass():
    assert (
        unsafe("model.eval(); np.load(p, allow_pickle=False); re.compile(x); json.load(f); load_file(p)")
        == []
    )


# --- no trace of a machine

# Written so that they do not find themselves.
MACHINE = re.compile(r"(?<![\w.~-])/(?:work|tmp|root|home)/[A-Za-z]")
HOSTS = re.compile(
    r"pypi\.(?:org|python)|pythonhosted\.|download\.pytorch\.|anaconda\.(?:org|com)|\b[n]exus\b|[a]rtifactory|[j]frog"
    r"|[i]ndex-url\s*[= ]\s*http|https?://(?:\d|localhost\S*/simple)",
    re.IGNORECASE,
)


def files() -> list[Path]:
    """All files of the repository, also those that are not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root(), capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [root() / name for name in done.stdout.split("\0") if name and (root() / name).is_file()]


def traces(text: str) -> list[str]:
    return [match.group() for pattern in (MACHINE, HOSTS) for match in pattern.finditer(text)]


def test_no_file_names_a_machine_or_a_registry():
    found = {}
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights, pictures
        if said := traces(text):
            found[path.relative_to(root()).as_posix()] = sorted(set(said))
    assert found == {}


def test_the_test_for_traces_sees():
    for folder in ("work", "tmp", "root", "home"):
        assert traces(f'path = "/{folder}/me"') and traces(f"at /{folder}/X/y")
        assert not traces(f"shared/{folder}/me and https://example.org/{folder}/me")
    option = "--index" + "-url"
    for host in ("py" + "pi.org", "files.python" + "hosted.org", "download.py" + "torch.org", "192.0.2.1"):
        assert traces(f"pip install {option} https://{host}/simple") and traces(f"from https://{host}/x")


# --- notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_short_and_have_parameters(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert 1 <= len(code) <= 10
    assert max(len(cell.source.splitlines()) for cell in code[1:]) <= 12  # the first has all knobs
    assert not [
        cell.source for cell in code if re.search(r"^\s*(async )?(def|class)\b", cell.source, re.MULTILINE)
    ]
    assert [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])] == [code[0]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_checked_cells_have_something_to_be_checked_against(path):
    cells = nbformat.read(path, as_version=4).cells
    checked = [cell for cell in cells if cell.cell_type == "code" and "NBVAL_CHECK_OUTPUT" in cell.source]
    assert checked and all(cell.outputs and cell.execution_count for cell in checked)
    assert not [cell for cell in cells for output in cell.get("outputs", []) if output.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_a_notebook_that_says_it_is_not_recorded_yet_skips_cells(path):
    """Those cells show results that are still to be made; nothing stands below them, and one is checked."""
    cells = nbformat.read(path, as_version=4).cells
    skipped = [cell for cell in cells if cell.cell_type == "code" and "# NBVAL_SKIP" in cell.source]
    assert bool(skipped) == ("**Not recorded yet:**" in cells[0].source)
    assert not any(cell.outputs or "NBVAL_CHECK_OUTPUT" in cell.source for cell in skipped)
    target = root() / "results" / "recorded" / "demo" / f"{path.stem}.csv"
    assert not (skipped and target.exists()), "its results are recorded: run the notebook and drop the marks"
