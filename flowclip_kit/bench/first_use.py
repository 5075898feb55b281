"""What the first use costs: minutes and gigabytes of a fresh clone with an empty home.

`./reproduce.sh bench first_use` clones the last commit of this checkout into a temporary folder and runs the
commands of the README there; --test also runs all tests. --record writes the figures into the README.
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
from flowclip_core.files import write_atomically
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.paths import root

MARKS = "<!-- first_use: made by ./reproduce.sh bench first_use --record -->", "<!-- first_use: end -->"
KEPT = ("PATH", "LANG", "PIP_", "UV_", "SSL_", "HTTP", "http", "https", "no_proxy", "NO_PROXY", "PYTHON")


def measure(test: bool) -> str:
    """The README's block: a row per command."""
    with tempfile.TemporaryDirectory() as temporary:
        clone, home = Path(temporary) / "flowclip", Path(temporary) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(root()), str(clone)], check=True)
        environment = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
        environment |= {"HOME": str(home)}
        rows = [
            (
                "set-up, by the first command",
                _minutes(clone, environment, "doctor", codes=(0, 1)),
                clone / ".venv",
            ),
            ("`./reproduce.sh table5`", _minutes(clone, environment, "table5"), home),
        ]
        if test:
            rows.append(("`./reproduce.sh test`", _minutes(clone, environment, "test"), None))
        lines = ["| | minutes | disk |", "| --- | ---: | ---: |"]
        for name, minutes, folder in rows:
            lines.append(f"| {name} | {minutes:.1f} | {f'{_gigabytes(folder):.1f} GB' if folder else ''} |")
    return "\n".join(
        [*lines, "", f"Measured on {default_jobs()} CPU cores; the set-up also depends on your network."]
    )


def _minutes(clone: Path, environment: dict[str, str], command: str, codes: Sequence[int] = (0,)) -> float:
    began = time.monotonic()
    done = subprocess.run(["./reproduce.sh", command], cwd=clone, env=environment, stdout=subprocess.DEVNULL)
    if done.returncode not in codes:
        raise InputError(
            f"bench first_use: ./reproduce.sh {command} ended with code {done.returncode} in a fresh clone"
        )
    return (time.monotonic() - began) / 60


def _gigabytes(folder: Path) -> float:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_blocks * 512 for path in files) / 1e9


def record(text: str, readme: Path) -> None:
    """Put the block between its marks. Raises InputError where they are missing."""
    pattern = re.compile(f"({re.escape(MARKS[0])}\n).*?({re.escape(MARKS[1])})", re.DOTALL)
    new, count = pattern.subn(lambda match: f"{match[1]}{text}\n{match[2]}", readme.read_text())
    if count != 1:
        raise InputError(f"{readme}: lacks the lines {MARKS[0]} and {MARKS[1]}, in this order")
    write_atomically(readme, new)


def main(arguments: Sequence[str] | None = None) -> int:
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
