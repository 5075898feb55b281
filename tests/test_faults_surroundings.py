"""Faults of the surroundings: the user's own settings, limits, streams, signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from conftest import ROOT, hearing
from fault_table import Fault, check

from flowclip_core import files
from flowclip_core.errors import InputError
from flowclip_kit import paths, surroundings
from flowclip_kit.demo import world
from flowclip_kit.experiments.results_table import read_tidy
from flowclip_kit.reporting import notebooks, plots

SCRIPT = ROOT / "reproduce.sh"
RECORDED = ROOT / "results/recorded/demo"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder; variables as they were afterwards, also those that a command sets."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    os.environ["FLOWCLIP_CACHE"] = str(tmp_path / "cache")
    yield
    os.environ.clear()
    os.environ.update(before)
    tempfile.tempdir = None


def with_variables(words: str, **variables: str):
    def given(folder: Path) -> list[str]:
        os.environ.update(variables)
        tempfile.tempdir = None
        return words.split()

    return given


def long_path(folder: Path) -> list[str]:
    (folder / ("x" * 60)).mkdir()
    return with_variables("table5 --profile smoke", TMPDIR=str(folder / ("x" * 60)))(folder)


def bad_score(folder: Path) -> list[str]:
    shutil.copytree(RECORDED, folder / "results/demo")
    table = folder / "results/demo/table5.csv"
    head, first, *rest = table.read_text().splitlines(keepends=True)
    *most, _, key = first.rstrip("\n").split(",")
    table.write_text("".join([head, ",".join([*most, "250.0", key]) + "\n", *rest]))
    (folder / "results/runs").mkdir()
    (folder / f"results/runs/{key}.json").write_text("{}")
    return ["report", "--results", str(folder / "results")]


FAULTS = [
    Fault("D11", "a number in words", lambda _: ["notebook", "data", "-p", "sample=four"], 2,
          r"-p sample=four: expected a whole number, like 6"),
    Fault("D11", "a fraction for a whole number", lambda _: ["notebook", "data", "-p", "sample=1.5"], 2,
          r"-p sample=1.5: expected a whole number"),
    Fault("D11", "a list cut short", lambda folder: ["notebook", "data", "-p", "classes=['a', 'b'"], 2,
          r"-p classes=\['a', 'b': expected a list as Python writes it"),
    Fault("E14", "a path too long for a socket", long_path, 2,
          r"TMPDIR .*xxx: a path of \d+ characters, at most 53 .*; name another folder with TMPDIR"),
    Fault("E16", "a score above 100 in a table", bad_score, 2,
          r"table5.csv: line 2 has value 250, expected percent .*delete .*/runs/\w+\.json.*table5 again"),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults(fault, tmp_path, capsys):
    check(fault, tmp_path, capsys)


# --- through the script


def script(
    *words: object, shell: str = "", folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess:
    """A command as a user gives it, after `shell` in the same shell; the packages are those of this
    Python."""
    line = f'{shell or ":"}; exec "$0" "$@"'
    return subprocess.run(
        ["bash", "-c", line, str(SCRIPT), *map(str, words)],
        env=os.environ | {"VIRTUAL_ENV": sys.prefix} | variables,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def said(done: subprocess.CompletedProcess) -> list[str]:
    """What a command says apart from its output and the environment it takes."""
    lines = [line for line in done.stderr.splitlines() if line]
    return [line for line in lines if not line.startswith("reproduce.sh: using the active environment")]


class Around(NamedTuple):
    """A command in odd surroundings. line: the one that it says; empty where it says none and ends with 0."""

    number: str
    name: str
    words: str
    line: str
    shell: str = ""
    variables: Mapping[str, str] = MappingProxyType({})

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


TABLE = "table5 --profile smoke"
PREDICT = "predict x.mp4 --labels a,b"
LITTLE_MEMORY = "ulimit -v 3000000"
AROUND = [
    Around("E14", "few open files", TABLE, r"open files: 20 \(ulimit -n\), 256 are needed", "ulimit -n 20"),
    Around("E14", "few open files for a list", "list", "", "ulimit -n 20"),
    Around("E14", "little memory", TABLE, r"address: 2.9 GB \(ulimit -v\), 8 GB are needed", LITTLE_MEMORY),
    Around("E14", "small files", TABLE, r"size of a file: 100.0 KB \(ulimit -f\)", "ulimit -f 100"),
    Around("E14", "little memory to predict", PREDICT, r"\(ulimit -v\)", LITTLE_MEMORY),
    Around("E14", "inspect, a backend, a start-up that exits", "list", "", "",
           {"PYTHONINSPECT": "1", "MPLBACKEND": "x", "PYTHONSTARTUP": "exit.py", "PYTHONWARNINGS": "error"}),
    Around("E14", "the C locale without UTF-8", "list", "", "",
           {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Around("D11", "an ASCII terminal", "list", "", "", {"PYTHONIOENCODING": "ascii"}),
    Around("D11", "stdout closed", "list", "", "exec >&-"),
    Around("E14", "all streams closed", "list", "", "exec <&- >&- 2>&-"),
    Around("E14", "stderr full", "list", "", "exec 2>/dev/full"),
    Around("E14", "stdout full", "list", "standard output cannot be written: No space", "exec >/dev/full"),
]  # fmt: skip


@pytest.mark.parametrize("around", AROUND, ids=str)
def test_odd_surroundings(around):
    done = script(*around.words.split(), shell=around.shell, **around.variables)
    assert done.returncode == (2 if around.line else 0), done.stderr
    assert len(said(done)) == bool(around.line), done.stderr
    assert not around.line or re.search(around.line, said(done)[0])


def test_E14_a_small_folder_for_temporary_files_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(4096, 0, 4096))
    monkeypatch.setenv("TMPDIR", "/tmp")
    tempfile.tempdir = None
    with pytest.raises(InputError, match=r"TMPDIR /tmp: 4.0 KB free, 32.0 MB are needed"):
        surroundings.need_room()


def test_E14_the_working_folder_is_never_taken_for_temporary_files(tmp_path):
    tempfile.tempdir = str(tmp_path)  # what tempfile comes to where nothing else can be written
    os.environ.pop("TMPDIR", None)
    with pytest.raises(InputError, match="no folder for temporary files can be written but the working one"):
        surroundings.need_room()


def test_D11_the_script_through_a_link_and_by_sh(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/one").symlink_to(SCRIPT)
    (tmp_path / "two").symlink_to("bin/one")
    for command in (["./two"], ["sh", str(SCRIPT)], ["sh", "two"], ["bash", "--posix", str(SCRIPT)]):
        variables = os.environ | {"VIRTUAL_ENV": sys.prefix}
        done = subprocess.run([*command, "predict"], env=variables, cwd=tmp_path,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 2 and "required: video" in said(done)[0], (command, done.stderr)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="for root alone")
def test_D11_lab_as_root_says_what_to_do():
    done = script("lab", "--no-browser")
    assert done.returncode == 2 and "lab --allow-root" in said(done)[0] and len(said(done)) == 1


# --- the user's own settings


@pytest.fixture
def own(tmp_path) -> dict[str, str]:
    """Variables of a user with settings and modules that break or change whatever heeds them."""
    home, modules = tmp_path / "home", tmp_path / "modules"
    rc = "text.usetex: True\nfont.family: serif\naxes.grid: True\nlines.color: red\nsavefig.dpi: 7\n"
    for path, text in {
        home / ".config/matplotlib/matplotlibrc": rc,
        home / ".ipython/profile_default/startup/00.py": "import os\nos._exit(3)\n",
        modules / "av.py": "raise RuntimeError('not this one')\n",
        modules / "sitecustomize.py": "raise SystemExit('not this one')\n",
        tmp_path / "matplotlibrc": rc + "# \udcff\n",  # matplotlib looks here first, and cannot decode it
        tmp_path / "exit.py": "import os\nos._exit(3)\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return {"HOME": str(home), "PYTHONPATH": str(modules), "PYTHONSTARTUP": str(tmp_path / "exit.py"),
            "PYTHONOPTIMIZE": "1", "MPLBACKEND": "nonsense", "MPLCONFIGDIR": ""}  # fmt: skip


def test_D11_the_users_own_settings_change_nothing_in_figures(monkeypatch, own):
    import matplotlib as mpl

    from flowclip_kit.reporting import target_results

    shown = target_results.load("figure3d", "demo", "recorded")
    before = {path.name: data for path, data in plots.files(shown.figures(), Path()).items()}
    with mpl.rc_context({"text.usetex": True, "font.family": "serif", "axes.grid": True, "savefig.dpi": 7}):
        after = {path.name: data for path, data in plots.files(shown.figures(), Path()).items()}
    assert before == after


def test_D11_the_users_own_settings_change_nothing_in_a_notebook(own, tmp_path):
    done = script("notebook", "figure3d", "--results", "out", folder=tmp_path, **own)
    assert done.returncode == 0, done.stderr
    assert not said(done) and (tmp_path / "out/figure3d.html").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"home", "modules", "matplotlibrc", "exit.py", "out"}


def test_D11_a_parameter_gets_the_type_of_its_default(tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell(
        "a = 6\nb = 0.5\nc = True\nd = None\ne = 'x'\nf = [1]\nvideo = None\nsource = 'recorded'",
        metadata={"tags": ["parameters"]},
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "n.ipynb")
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "run").mkdir()

    def one(text: str):
        ((_, value),) = notebooks.typed(tmp_path / "n.ipynb", dict([text.split("=", 1)]), tmp_path).items()
        return value

    right = {"a=4": 4, "b=2": 2.0, "b=1e-3": 1e-3, "c=false": False, "c=True": True, "d=None": None,
             "d=[1, 'x']": [1, "x"], "d=4": "4", "d=climb up,wave": "climb up,wave", "e=4": "4",
             "e=None": "None",
             "f=[]": [], "video=clip.mp4": str(tmp_path / "clip.mp4"), "video=absent.mp4": "absent.mp4",
             "source=run": "run", "source=.": str(tmp_path)}  # fmt: skip
    for text, value in right.items():
        assert (one(text), type(one(text))) == (value, type(value)), text
    for wrong in ("a=4.5", "a=True", "a=None", "b=x", "c=1", "c=yes", "f=x", "f=(1,)"):
        with pytest.raises(InputError, match=f"-p {re.escape(wrong)}: expected"):
            one(wrong)


def test_D11_a_sample_of_another_size_from_the_callers_own_folder(tmp_path):
    for label in ("run", "wave"):
        for number in range(3):
            path = tmp_path / "own" / label / f"{number}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(world.encode(world.render("figures-h", "wave", number, frames=8)))
    words = "notebook data -p dataset=folder -p data_root=own -p sample=2 --results out"
    done = script(*words.split(), folder=tmp_path)
    assert done.returncode == 0 and (tmp_path / "out/data.html").exists(), done.stderr


def test_D11_a_package_without_its_checkout_says_so_and_leaves_nothing(tmp_path):
    """As after `pip install .`: the package alone, in a folder of its own."""
    for package in ("flowclip_core", "flowclip_kit"):
        shutil.copytree(
            ROOT / package, tmp_path / "site" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    before = sorted((tmp_path / "site").iterdir())
    variables = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    for command in ("table5", "all", "verify", "list", "report", "notebook table5", "table3"):
        done = subprocess.run([sys.executable, "-P", "-m", "flowclip_kit", *command.split()], env=variables,
                              capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "needs a whole checkout" in done.stderr and "pip install -e" in done.stderr
    assert sorted((tmp_path / "site").iterdir()) == before and [path.name for path in tmp_path.iterdir()] == [
        "site"
    ]


# --- signals


def drawing(tmp_path: Path) -> subprocess.Popen:
    """A call that is at drawing videos."""
    with hearing(), (tmp_path / "err").open("w") as err:
        call = subprocess.Popen(
            [sys.executable, "-P", "-m", "flowclip_kit", *TABLE.split(), "--results", "results"],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path,
            stdin=subprocess.DEVNULL, stdout=err, stderr=err,
            start_new_session=True,
        )  # fmt: skip
    while call.poll() is None and not list((tmp_path / "cache").glob("demo/*/*/videos/*/*.avi")):
        time.sleep(0.02)
    assert call.poll() is None, (tmp_path / "err").read_text()
    return call


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_E14_two_signals_end_a_drawing_call_at_once(number, tmp_path):
    call = drawing(tmp_path)
    began = time.monotonic()
    os.killpg(call.pid, number)
    time.sleep(0.2)
    if call.poll() is None:
        os.killpg(call.pid, number)
    assert call.wait(120) == 128 + number and time.monotonic() - began < 90  # busy machines are slow
    said_ = [
        line for line in re.split("[\r\n]+", (tmp_path / "err").read_text()) if line and " left, " not in line
    ]
    assert len(said_) == 1 and said_[0].startswith("reproduce.sh: stopped"), said_


def test_E14_what_a_killed_call_leaves_the_next_one_removes(tmp_path):
    base = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        os.environ["TMPDIR"] = str(base)
        call = drawing(tmp_path)
        (folder,) = base.iterdir()
        assert [*Path("/dev/shm").glob(f"sem.{folder.name}*")]
        os.killpg(call.pid, signal.SIGKILL)
        call.wait()
        assert folder.exists()
        alive = surroundings.PREFIX + "another1"  # one that still runs
        (base / alive).mkdir()
        held = os.open(base / alive, os.O_RDONLY)
        assert surroundings._try_lock(held)
        surroundings._sweep(base)
        assert [path.name for path in base.iterdir()] == [alive]
        assert not [*Path("/dev/shm").glob(f"sem.{folder.name}*")]
        os.close(held)
    finally:
        shutil.rmtree(base)


def test_E15_a_signal_that_the_caller_ignores_stays_ignored_and_tests_hear_theirs():
    code = (
        "import signal; from flowclip_kit import surroundings as s; s.settle(); print([signal.getsignal(2)])"
    )
    command = [sys.executable, "-P", "-c", code]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        deaf = subprocess.run(command, env=variables, capture_output=True, text=True)
        with hearing():
            hears = subprocess.run(command, env=variables, capture_output=True, text=True)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert "SIG_IGN" in deaf.stdout and "_stop" in hears.stdout


# --- advice


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("x = 1\nassert x == 2", "AssertionError: at 'assert x == 2'"),
        ("x = 1\nassert x == 2, 'no'", "AssertionError: no, at 'assert x == 2, 'no''"),
        ("raise ValueError", "ValueError: at 'raise ValueError'"),
        ("import os\nos._exit(3)", "DeadKernelError: Kernel died"),
    ],
)
def test_E16_a_failed_cell_says_where_and_why(cell, said, tmp_path):
    import nbformat

    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), tmp_path / "n.ipynb")
    with pytest.raises(
        RuntimeError, match=re.escape(f"n.ipynb, code cell 1 ('{cell.splitlines()[0]}'): {said}")
    ):
        notebooks.execute(tmp_path / "n.ipynb", {}, tmp_path / "n.html", tmp_path)


def test_E16_a_full_disk_is_named_with_its_folder(tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_atomically(tmp_path / "sub/table5.csv", "x")
    assert caught.value.filename == str(tmp_path / "sub/table5.csv") and not [*(tmp_path / "sub").iterdir()]
    from flowclip_kit import cli

    def run(asked):
        files.write_atomically(tmp_path / "sub/table5.csv", "x")

    monkeypatch.setitem(cli.COMMANDS, "list", run)
    assert cli.main(["list"]) == 2
    assert capsys.readouterr().err == (
        f"reproduce.sh: cannot write {tmp_path}/sub/table5.csv: No space left on device;"
        f" make room in {tmp_path}/sub, or name another folder (--results, FLOWCLIP_CACHE)\n"
    )


@pytest.mark.parametrize(("mask", "mode"), [("077", 0o600), ("002", 0o664), ("022", 0o644)])
def test_E16_files_are_as_open_as_the_umask_lets_them(mask, mode, tmp_path):
    code = "import pathlib as p; from flowclip_core import files; files.write_atomically(p.Path('a/b'), '')"
    subprocess.run(["sh", "-c", f'umask {mask}; exec "$0" -P -c "$1"', sys.executable, code], cwd=tmp_path,
                   env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)  # fmt: skip
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == mode


def test_E16_a_damaged_table_of_the_record_is_restored_by_git(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    table = tmp_path / "results/recorded/demo/table5.csv"
    table.parent.mkdir(parents=True)
    table.write_text(RECORDED.joinpath("table5.csv").read_text().replace(",0,", ",x,", 1))
    with pytest.raises(
        InputError, match=r"table5.csv: line 2, column \w+ is .x., expected a number; .*git checkout"
    ):
        read_tidy(table)
