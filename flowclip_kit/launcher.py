"""What `reproduce.sh` runs once it has a Python: make .venv where it is missing, then become the command.

Standard library only, because it runs before anything is installed:
`python -I -S flowclip_kit/launcher.py WORDS`.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":  # as a file; an isolated Python does not look beside it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flowclip_core.errors import InputError, notice
from flowclip_kit import environment, parser, surroundings
from flowclip_kit.distributed.locks import Lock
from flowclip_kit.environment import LOCK, ROOT, STAMP, VENV

PYTHON = VENV / "bin" / "python"
PIP = [str(PYTHON), "-m", "pip", "install", "--no-input", "--no-compile"]
ENVIRONMENT = environment.__file__
# Importing these shows that the installed packages work, and compiles them, on which every process would
# otherwise spend seconds where PYTHONDONTWRITEBYTECODE is set.
IMPORTS = (
    "av, ipykernel.kernelapp, ipywidgets, nbval, open_clip, pandas, papermill, pytest, seaborn, torchvision"
)
# How pip and uv say that a file is not the locked one, that no index answers, that a lock does not fit here.
WRONG_HASH = re.compile("hash mismatch|do not match the hashes", re.IGNORECASE)
NO_INDEX = re.compile("connection broken|connection error|max retries|timed out", re.IGNORECASE)
NO_PACKAGE = re.compile(
    "no matching distribution|could not find a version|not a supported wheel|requires a different python",
    re.IGNORECASE,
)


# --- set-up -------------------------------------------------------------------------------------------------


def _succeeds(*command: str | Path) -> bool:
    with suppress(OSError):
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    return False


def _failure(command: Sequence[str | Path]) -> str:
    """The output of a command that failed; empty if it succeeded.

    On a terminal it shows its progress, and again for its output if it fails. It runs in the checkout, so
    that no project file of the caller's folder configures uv, and inherits the lock on .venv (`set_up`).
    """

    def run(output: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            close_fds=False,
            encoding="utf-8",
            errors="replace",
        )

    if os.isatty(2) and run(2).returncode == 0:
        return ""
    done = run(subprocess.PIPE)
    return (done.stdout or "no output") if done.returncode else ""


def _show_end(output: str) -> None:
    sys.stderr.write("".join(f"{line}\n" for line in output.splitlines()[-20:]))


def _stop(message: str, output: str) -> NoReturn:
    """Raise InputError with `message`, below the last lines of a failed command."""
    _show_end(output)
    raise InputError(f"{message}, for the reason above")


def set_up() -> None:
    """Make .venv, or bring it up to date, and stamp it. Raises InputError where that cannot be done.

    One set-up of a checkout runs at a time. One that was killed leaves no stamp: .venv is then made anew.
    """
    if not os.access(ROOT, os.W_OK):
        raise InputError(f"cannot write to {ROOT}, where .venv belongs")
    with Lock(VENV.with_name(".venv.lock"), "the set-up of this checkout"), _installers():
        if _succeeds(PYTHON, "-I", "-S", ENVIRONMENT, "stamped"):  # another call has done it
            return
        current = STAMP.exists()
        STAMP.unlink(missing_ok=True)
        if not current or not _succeeds(PYTHON, "-I", "-c", "import pip, tomllib"):
            _make_venv()
        taken_from = _install()
        notice("loading them once")
        if output := _failure([PYTHON, "-I", "-c", f"import {IMPORTS}"]):
            _stop("set-up failed: the installed packages do not load here", output)
        subprocess.run([PYTHON, "-I", ENVIRONMENT, "stamp", taken_from], check=True)
    notice(f"set-up complete, by {taken_from}")


@contextmanager
def _installers() -> Iterator[None]:
    """A lock on .venv that every installer inherits: wait for one that a killed set-up left running."""
    VENV.mkdir(exist_ok=True)
    descriptor = os.open(VENV, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        with suppress(OSError):  # this file system has no locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                notice("waiting for an installer that a killed set-up left running")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_venv() -> None:
    # Not the running Python where that is .venv's own.
    python = os.environ.get("PYTHON") or str(getattr(sys, "_base_executable", sys.executable))
    if not _succeeds(python, "-I", "-c", "import ensurepip, venv"):
        raise InputError(
            f"{python} lacks venv and ensurepip; install them (Debian, Ubuntu: apt install python3-venv)"
        )
    notice(f"making {VENV} with {python}")
    if output := _failure([python, "-I", "-m", "venv", "--clear", VENV]):
        _stop(f"set-up failed: {python} cannot make {VENV}", output)


def _install() -> str:
    """Install requirements.lock into .venv with uv, or else with pip. Returns the file that was installed."""
    notice("installing the packages of requirements.lock (minutes and gigabytes the first time)")
    installers = [installer for installer in (_uv(), PIP) if installer]
    output = ""
    for installer in installers:
        if installer is PIP:
            notice("without uv: installing with pip, which takes longer")
        output = _failure([*installer, "--require-hashes", "-r", str(LOCK)])
        if not output:
            break
        _explain(output, "requirements.lock")
    if output and not NO_PACKAGE.search(output):
        _stop("set-up failed: the packages of requirements.lock cannot be installed here", output)
    _show_end(output)
    if not output and _succeeds(PYTHON, "-I", ENVIRONMENT, "check"):
        return "requirements.lock"
    if os.environ.get("FLOWCLIP_NEWEST") != "1":
        raise InputError(
            "set-up stopped: requirements.lock does not have all packages for this Python and platform"
            f" ({platform.python_version()}, {platform.system()} {platform.machine()}). Choose another with"
            " PYTHON=/path/to/python, or set FLOWCLIP_NEWEST=1 to install the newest versions that"
            " pyproject.toml allows, which no hash vouches for and which may change results"
        )
    notice(
        "WARNING: FLOWCLIP_NEWEST=1: installing the newest versions that pyproject.toml allows, WITHOUT"
        " HASHES, which may change results (every record says so)"
    )
    for installer in installers:
        output = _failure([*installer, *environment.requirements()])
        if not output:
            return "pyproject.toml"
    _explain(output, "pyproject.toml")
    _stop("set-up failed: the packages of pyproject.toml cannot be installed here", output)


def _uv() -> list[str] | None:
    """The command that installs into .venv by uv: the user's, or else the pinned one. None without uv."""
    if shutil.which("uv"):
        return ["uv", "pip", "install", "--python", str(PYTHON)]
    pins = VENV / "uv.lock"
    pins.write_text("".join(environment.extra("uv").values()), encoding="utf-8")
    if output := _failure([*PIP, "--retries=1", "--require-hashes", "--no-deps", "-r", str(pins)]):
        _explain(output, "requirements-extras.lock")
        return None
    return [str(PYTHON), "-m", "uv", "pip", "install", "--python", str(PYTHON)]


def _explain(output: str, lock: str) -> None:
    """Raise InputError if an installer failed because a file is not the locked one or no index answers."""
    if WRONG_HASH.search(output):
        _stop(
            f"set-up stopped: a package is not the file whose hash is in {lock}: a damaged download, or an"
            " index or mirror that was tampered with. Name another index and run this again",
            output,
        )
    question = ["--dry-run", "--no-deps", "--ignore-installed", "--retries=1", "--timeout=10", "pip"]
    if NO_INDEX.search(_failure([*PIP, *question])):
        raise InputError(
            "set-up stopped: no package index answers. Connect, or name a mirror (PIP_INDEX_URL,"
            " UV_DEFAULT_INDEX), or activate an environment that satisfies pyproject.toml; then run it again"
        )


# --- the command --------------------------------------------------------------------------------------------


def launch(words: list[str]) -> NoReturn:
    """Become the command `./reproduce.sh WORDS`, in the active environment or in .venv."""
    surroundings.open_streams()
    parser.show_help(words)
    if ":" in str(ROOT):
        raise InputError(f"a checkout's path must not hold a colon: {ROOT}")
    variables = surroundings.clean(dict(os.environ))
    os.environ.clear()
    os.environ.update(variables)
    python = _active() or PYTHON
    # reproduce.sh takes the Python of .venv if that works.
    if python == PYTHON and not (Path(sys.executable) == PYTHON and environment.stamped()):
        parser.check(words)  # now rather than after minutes of installing
        set_up()
    os.environ["PYTHONPATH"] = str(ROOT)  # changes no environment, and kernels inherit it
    # For `python` in JupyterLab's terminals and cells.
    os.environ["PATH"] = os.pathsep.join((str(python.parent), os.environ.get("PATH", os.defpath)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.stderr.flush()
    # -P: a file of the caller's folder named like a module must not stand in for it.
    os.execv(python, [str(python), "-P", "-m", "flowclip_kit", *words])


def _active() -> Path | None:
    """The Python of the active virtual or conda environment, if that has all that is needed."""
    for folder in filter(None, map(os.environ.get, ("VIRTUAL_ENV", "CONDA_PREFIX"))):
        python = Path(folder).absolute() / "bin" / "python"
        if Path(folder).resolve() != VENV and _succeeds(python, "-I", ENVIRONMENT, "check"):
            notice(f"using the active environment {folder}")
            return python
    return None


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)  # ends what was started and releases the lock, as Ctrl-C does
    try:
        launch(sys.argv[1:])
    except (InputError, OSError) as problem:
        notice(str(problem))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
