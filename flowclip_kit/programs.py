"""The commands that hand their words to another program: pytest, JupyterLab, a benchmark, an installer."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from flowclip_core.errors import InputError, notice
from flowclip_kit import environment
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.parser import BENCHMARKS
from flowclip_kit.paths import cache_dir, root

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def _become(*words: str | Path) -> NoReturn:
    """Go on as `python WORDS`. -P: a file of the caller's folder must not stand in for a module."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", *map(str, words)])


def _own_ipython() -> None:
    """Keep start-up files of the user's IPython, which could end a kernel, out of ours."""
    os.environ["IPYTHONDIR"] = str(cache_dir().absolute() / "ipython")


def test(words: Sequence[str]) -> int:
    """Unit tests, with --slow all of them, then every notebook, then with --browser the notebooks' controls
    in a browser."""
    parser = argparse.ArgumentParser(prog="./reproduce.sh test", add_help=False, allow_abbrev=False)
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--screenshots", type=Path)
    options, units = parser.parse_known_args(words)
    pictures = [f"--screenshots={options.screenshots.absolute()}"] if options.screenshots else []
    _own_ipython()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    def pytest(*arguments: str) -> int:
        return subprocess.run([sys.executable, "-P", "-m", "pytest", *arguments], cwd=root()).returncode

    # A process a core; each takes whole files, the slow ones, which come first, first.
    parallel = ("-n", str(min(8, default_jobs())), "--dist=loadfile", "--no-loadscope-reorder")
    notebooks = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", "notebooks")
    codes = [pytest(*parallel, *units), pytest(*parallel, *notebooks)]
    if options.browser:  # last and alone: it measures
        if "CHROMIUM" not in os.environ and not any(map(shutil.which, BROWSERS)):
            notice("skipped: no browser; install chromium, or name one with CHROMIUM")
        try:
            extra(["browser"])
        except InputError as error:
            notice(f"skipped: no browser: {error}")
        codes.append(pytest("--browser", *pictures, "tests/e2e/test_browser.py"))
    return next(filter(None, codes), 0)


def lab(words: Sequence[str]) -> NoReturn:
    """JupyterLab on copies of the notebooks, so that the checkout stays clean."""
    if os.geteuid() == 0 and not any("allow" in word and "root" in word for word in words):
        raise InputError(
            "lab: JupyterLab does not run as root unless told to: ./reproduce.sh lab --allow-root"
        )
    from flowclip_kit.explore.lab import prepare

    _own_ipython()
    # -y: one Ctrl-C ends it, kernels and all. Videos of 200 MB can be uploaded: beyond tornado's own 10 MiB
    # the connection would drop without a word.
    settings = "--ServerApp.tornado_settings={'websocket_max_message_size': 268435456}"
    start = "--LabApp.default_url=/lab/tree/index.ipynb"
    _become("-m", "jupyterlab", "-y", "--ip=127.0.0.1", start, prepare(), settings, *words)


def bench(words: Sequence[str]) -> NoReturn:
    """One benchmark."""
    names = sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))
    if not words or words[0] not in names:
        raise InputError(f"bench: expected one of {', '.join(names)}")
    _become("-m", f"flowclip_kit.bench.{words[0]}", *words[1:])


def extra(words: Sequence[str]) -> int:
    """Install what the environment in use lacks of an extra, and leave what it has as it is."""
    name = " ".join(words)
    pins = environment.extra(name)
    lacking = [pins[package] for package, version in environment.versions(pins).items() if version is None]
    if not lacking:
        notice(f"extra {name}: nothing is missing")
        return 0
    installer = [sys.executable, "-m", "pip", "install", "--no-input"]
    if shutil.which("uv"):
        installer = ["uv", "pip", "install", "--python", sys.executable]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(lacking))
        file.flush()
        # In the checkout, so that no project file of the caller's folder configures uv.
        command = [*installer, "--require-hashes", "--no-deps", "-r", file.name]
        if subprocess.run(command, cwd=root(), stdout=2).returncode:
            raise InputError(f"extra {name}: it cannot be installed here, for the reason above")
    notice(f"extra {name}: added to {sys.prefix}")
    return 0


COMMANDS = {"test": test, "lab": lab, "bench": bench, "extra": extra}
