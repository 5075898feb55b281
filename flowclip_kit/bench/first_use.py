"""What the first use costs: minutes of set-up and table5, gigabytes of the environment.

`./reproduce.sh bench first_use` sets up a clone of the last commit in an empty home. The minutes of table5
are those that `bench table` recorded; --test also times all tests. --record writes the figures into the
README.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from flowclip_core.errors import InputError
from flowclip_kit.bench import _common as common
from flowclip_kit.paths import root

MARKS = "<!-- first_use: made by ./reproduce.sh bench first_use --record -->", "<!-- first_use: end -->"
# Of the caller's environment, what reaches a package index and finds a Python.
KEPT = ("PATH", "PIP_", "UV_", "SSL_", "http", "HTTP", "no_proxy", "NO_PROXY", "PYTHON")


def measure(test: bool) -> str:
    """The README's block: a row per command."""
    seconds, cores = table_seconds((root() / common.README).read_text())
    with tempfile.TemporaryDirectory() as temporary:
        clone, home = Path(temporary) / "flowclip", Path(temporary) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(root()), str(clone)], check=True)
        kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
        environment = kept | {"HOME": str(home)}
        set_up, size = _minutes(clone, environment, "doctor"), _gigabytes(clone / ".venv")
        rows = [
            f"| set-up, once | {set_up:.1f}; depends on your network | {size:.1f} GB in `.venv` |",
            f"| `./reproduce.sh table5` | {seconds / 60:.1f} on {cores} CPU cores | under 1 GB in the"
            " cache |",
        ]
        if test:
            rows.append(f"| `./reproduce.sh test` | {_minutes(clone, environment, 'test'):.0f} | |")
    return "\n".join(["| | minutes | disk |", "| --- | --- | --- |", *rows])


def table_seconds(readme: str) -> tuple[float, int]:
    """Seconds of table5 from an empty cache, and on how many cores, as `bench table` recorded them."""
    figures = re.search(r"on (\d+) CPU cores\ncold\s+([\d.]+) s", readme)
    if figures is None:
        raise InputError(f"{common.README}: no figures of table5 in it; ./reproduce.sh bench table --record")
    return float(figures[2]), int(figures[1])


def _minutes(clone: Path, environment: dict[str, str], command: str) -> float:
    began = time.monotonic()
    done = subprocess.run(["./reproduce.sh", command], cwd=clone, env=environment, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise InputError(f"./reproduce.sh {command} ended with code {done.returncode} in a fresh clone")
    return (time.monotonic() - began) / 60


def _gigabytes(folder: Path) -> float:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_blocks * 512 for path in files) / 1e9


def record(text: str, readme: Path) -> None:
    """Put the block between its marks. Raises InputError where they are missing."""
    common.between(readme, MARKS, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 2 where a command fails."""
    parser = argparse.ArgumentParser(
        prog="./reproduce.sh bench first_use", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--test", action="store_true", help="also time ./reproduce.sh test")
    parser.add_argument("--record", action="store_true", help="write the figures into the README")
    options = parser.parse_args(arguments)
    try:
        text = measure(options.test)
        print(text)
        if options.record:
            record(text, root() / "README.md")
    except InputError as error:
        print(f"reproduce.sh: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
