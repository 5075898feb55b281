"""reproduce.sh before any package is there: help, which Python, set-up, extras, several set-ups at once."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, hearing

from flowclip_core.errors import InputError
from flowclip_kit.experiments.catalogue import ALL_TARGETS
from flowclip_kit.parser import TARGETS, parser

SCRIPT = ROOT / "reproduce.sh"


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)), env=os.environ | variables, cwd="/", stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def said(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if line]


def test_scripts_parse():
    for script in (SCRIPT, ROOT / ".ci" / "run"):
        assert run("bash", "-n", script).returncode == 0
        assert os.access(script, os.X_OK)


# --- words


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_target_and_option_at_once(words):
    start = time.monotonic()
    done = run(SCRIPT, *words)
    assert done.returncode == 0 and not done.stderr and time.monotonic() - start < 60
    for target in (*TARGETS, "report", "notebook", "data", "predict", "list", "verify", "lab", "test"):
        assert re.search(rf"^    {target}\b", done.stdout, re.MULTILINE), target


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("table5", "profile data-root dataset results seeds device jobs decoder backbone pretrained record"),
        ("predict", "labels label labels-file checkpoint json"),
        ("doctor", "decoders sample"),
        ("test", "browser screenshots"),
    ],
)
def test_every_command_explains_its_options_without_packages(command, options):
    """The script runs a Python that sees no installed package."""
    done = run(SCRIPT, command, "--help")
    assert done.returncode == 0 and not done.stderr
    for option in options.split():
        assert re.search(rf"^  --{option}\b", done.stdout, re.MULTILINE), option


def test_no_option_lacks_its_help():
    (commands,) = parser()._subparsers._group_actions
    assert {*TARGETS} == {*ALL_TARGETS, "all"}
    assert {*commands.choices} >= {*TARGETS, "lab", "test", "bench", "extra"}
    assert [
        (name, action.dest)
        for name, command in commands.choices.items()
        for action in command._actions
        if not action.help
    ] == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tabel5"], "did you mean table5?"),
        (["table5", "--profil", "demo"], "did you mean --profile?"),
        (["table5", "--device", "gpu"], "choose from"),
    ],
)
def test_typos_are_told_what_was_meant(words, line):
    with pytest.raises(InputError, match=re.escape(line)):
        parser().parse_args(words)


@pytest.mark.parametrize("python", ["/nonexistent", "false"])
def test_a_python_that_does_not_work_is_one_line_and_exit_2(python):
    done = run(SCRIPT, "list", PYTHON=python)
    assert done.returncode == 2 and not done.stdout
    assert len(said(done)) == 1 and f"PYTHON={python}" in done.stderr


# --- a checkout of its own


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout that wants one package, `thing`, without an environment."""
    folder = tmp_path / "check out"
    for package in ("flowclip_core", "flowclip_kit"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "weights")
        )
    for name in ("notebooks", "results/paper"):
        (folder / name).mkdir(parents=True)
    for name in ("reproduce.sh", "requirements-extras.lock"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "pyproject.toml").write_text('[project]\ndependencies = ["thing>=1"]\n')
    return folder


@pytest.fixture
def extra(checkout):
    """Runs `reproduce.sh extra WORDS` in an active environment, with an installer that takes notes."""
    (checkout / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    lock = "# [ray]\nflowclip-no-such==1.0 \\\n    --hash=sha256:aa\npytest==0.1 \\\n    --hash=sha256:bb\n"
    (checkout / "requirements-extras.lock").write_text(lock)
    (checkout / "active/bin").mkdir(parents=True)
    note = 'echo "$@" >"$NOTES"\nfor file; do :; done\ncat "$file" >>"$NOTES"\nexit "$CODE"'
    for name, does in (("python", f'exec "{sys.executable}" "$@"'), ("uv", note)):
        (checkout / "active/bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (checkout / "active/bin" / name).chmod(0o755)

    def extra(*words: str, code: int = 0) -> subprocess.CompletedProcess:
        variables = {
            "VIRTUAL_ENV": str(checkout / "active"),
            "NOTES": str(checkout / "notes"),
            "CODE": str(code),
        }
        return run(checkout / "reproduce.sh", "extra", *words, **variables)

    return extra


@pytest.mark.parametrize("code", [0, 1])
def test_an_extra_adds_what_is_absent_without_dependencies(extra, checkout, code):
    done = extra("ray", code=code)
    assert (done.returncode, done.stdout) == (2 * code, ""), done.stderr
    called, *pins = (checkout / "notes").read_text().splitlines()
    assert called.startswith(f"pip install --python {sys.executable} --require-hashes --no-deps -r ")
    assert pins == [
        "flowclip-no-such==1.0 \\",
        "    --hash=sha256:aa",
    ]  # pytest is there, in whatever version
    assert not Path(called.split()[-1]).exists()
    line = "it cannot be installed here, for the reason above" if code else f"added to {sys.prefix}"
    assert said(done)[-1] == f"reproduce.sh: extra ray: {line}"


@pytest.mark.parametrize(
    ("words", "line"), [((), "extra '' is unknown; use ray"), (("x",), "'x' is unknown; use ray")]
)
def test_an_unknown_extra_is_refused_in_one_line(extra, words, line):
    done = extra(*words)
    assert done.returncode == 2 and line in said(done)[-1] and len(said(done)) == 2


# --- set-up


def wheel(index: Path, name: str, version: str) -> str:
    """Put an empty package into an index of files; returns the SHA-256 of its wheel."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    path, about = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for file, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{file},sha256={digest},{len(text)}\n")
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files | {f"{about}/RECORD": "".join(rows) + f"{about}/RECORD,,\n"}).items():
            archive.writestr(file, text)
    page = "".join(f'<a href="{file.name}">{file.name}</a>\n' for file in sorted(folder.glob("*.whl")))
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>\n{page}</body></html>\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python that makes environments by copying one, which takes less than making each anew."""
    folder = tmp_path_factory.mktemp("python")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "made")], check=True)
    copy = f'for folder; do :; done; rm -rf "$folder"/*; cp -a "{folder}/made/." "$folder"'
    script = f'#!/bin/sh\ncase "$*" in *"-m venv"*) {copy} ;; *) exec "{sys.executable}" "$@" ;; esac\n'
    (folder / "python").write_text(script)
    (folder / "python").chmod(0o755)
    return folder / "python"


class Fresh:
    """A checkout without an environment, and an index of files for it."""

    def __init__(self, checkout: Path, python: Path) -> None:
        self.checkout, self.index, self.python = checkout, checkout.parent / "index", python
        self.digest = wheel(self.index, "thing", "1.0")
        wheel(self.index, "thing", "2.0")

    def start(
        self, digest: str, version: str = "1.0", marker: str = "", **variables: str
    ) -> subprocess.Popen:
        """`reproduce.sh list` with this lock."""
        lock = f"thing=={version}{marker} \\\n    --hash=sha256:{digest}\n"
        (self.checkout / "requirements.lock").write_text(lock)
        place = self.index.as_uri()
        dropped = ("PIP_", "UV_", "VIRTUAL_ENV", "CONDA_PREFIX", "FLOWCLIP_NEWEST")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        plain |= {"PYTHON": str(self.python), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
        plain |= {"UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(self.checkout.parent / "uv")}
        plain |= {"PIP_INDEX_URL": place, "UV_DEFAULT_INDEX": place}
        # The uv of this environment, where it has one.
        plain["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{plain['PATH']}"
        with hearing():
            return subprocess.Popen(
                [str(self.checkout / "reproduce.sh"), "list"],
                env=plain | variables, cwd=self.checkout.parent, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip

    def set_up(self, *lock: str, **variables: str) -> subprocess.CompletedProcess:
        call = self.start(*lock, **variables)
        out, err = call.communicate(timeout=300)
        return subprocess.CompletedProcess(call.args, call.returncode, out, err)

    def installed(self) -> list[str]:
        return [path.name for path in self.checkout.glob(".venv/lib/*/site-packages/thing-*")]


@pytest.fixture
def fresh(checkout, python) -> Fresh:
    return Fresh(checkout, python)


def test_F17_the_locks_own_file_is_installed_and_completes_the_set_up(fresh):
    launcher = fresh.checkout / "flowclip_kit/launcher.py"
    launcher.write_text(re.sub(r"IMPORTS = \((.|\n)*?\)", 'IMPORTS = "thing"', launcher.read_text()))
    done = fresh.set_up(fresh.digest, PYTHON=sys.executable)
    assert fresh.installed() == ["thing-1.0.dist-info"] and "loading them once" in done.stderr
    assert "set-up complete, by requirements.lock" in done.stderr and "WARNING" not in done.stderr
    assert not list(fresh.checkout.glob(".venv.lock*"))
    again = fresh.set_up(fresh.digest)
    assert "set-up" not in again.stderr and "No module named" in again.stderr  # the kit's own packages
    renewed = fresh.set_up(wheel(fresh.index, "thing", "1.5"), "1.5")  # brought up to date, not made anew
    assert fresh.installed() == ["thing-1.5.dist-info"] and "making" not in renewed.stderr


def test_F17_a_hash_that_does_not_match_stops_the_set_up(fresh):
    done = fresh.set_up("ab" * 32, FLOWCLIP_NEWEST="1")  # not even where the newest may be taken
    assert done.returncode == 2, done.stderr
    assert "set-up stopped" in said(done)[-1] and "hash is in requirements.lock" in said(done)[-1]
    assert "FLOWCLIP_NEWEST" not in done.stderr and fresh.installed() == []


def test_F17_the_newest_versions_are_taken_only_when_asked_for(fresh):
    lacking = ("ab" * 32, "9.0")  # no such version
    done = fresh.set_up(*lacking)
    assert done.returncode == 2 and "requirements.lock does not have all packages" in said(done)[-1]
    assert "FLOWCLIP_NEWEST=1" in said(done)[-1] and fresh.installed() == []
    done = fresh.set_up(*lacking, FLOWCLIP_NEWEST="1")
    (warning,) = [line for line in said(done) if line.startswith("reproduce.sh: WARNING")]
    assert "WITHOUT HASHES" in warning and fresh.installed() == ["thing-2.0.dist-info"]


def test_F17_a_lock_that_passes_this_platform_over_is_not_taken_for_complete(fresh):
    done = fresh.set_up(fresh.digest, "1.0", " ; sys_platform == 'plan9'")
    assert done.returncode == 2 and "requirements.lock does not have all packages" in said(done)[-1]
    assert fresh.installed() == []


def test_F17_without_an_index_one_line_says_what_to_do(fresh):
    nowhere = {"PIP_INDEX_URL": "http://localhost:9", "UV_DEFAULT_INDEX": "http://localhost:9"}
    done = fresh.set_up(fresh.digest, **nowhere)
    assert done.returncode == 2 and "no package index answers. Connect, or name a mirror" in said(done)[-1]


INSTALLER = """#!/bin/sh
echo $$ >"$NOTES"
until [ -e "$NOTES.go" ]; do sleep 0.05; done
exit 1
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_D12_a_set_up_that_ends_early_blocks_nobody_and_is_made_anew(fresh, number, tmp_path):
    """Its installer, which a SIGKILL leaves running, is waited for."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").write_text(INSTALLER)
    (tmp_path / "bin/uv").chmod(0o755)
    notes = tmp_path / "notes"
    variables = {"PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}", "NOTES": str(notes)}
    first = fresh.start(fresh.digest, **variables)
    while not notes.exists() and first.poll() is None:
        time.sleep(0.05)
    waiting = fresh.start(fresh.digest, FLOWCLIP_NEWEST="")  # a second call meanwhile
    assert f", PID {first.pid};" in waiting.stderr.readline()
    os.kill(first.pid, number)
    first.communicate(timeout=120)
    assert first.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:
        assert "an installer that a killed set-up left running" in waiting.stderr.readline()
        Path(f"{notes}.go").touch()
    _, err = waiting.communicate(timeout=120)
    assert "making" in err and fresh.installed() == ["thing-1.0.dist-info"], err
