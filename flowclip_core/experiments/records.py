"""Run records, and the software that made them.

A record is one JSON file under `runs/`, named by its run key; a run is finished when its record exists.
"""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

from flowclip_core import environment
from flowclip_core.errors import InputError
from flowclip_core.paths import root, to_json, write_atomically


def read_record(path: Path) -> dict | None:
    """The record at `path`, or None when it does not exist. Raises InputError when it cannot be read."""
    try:
        record = json.loads(path.read_text(), parse_constant=_no_number)
        if not isinstance(record, dict) or "scores" not in record:
            raise ValueError("no scores in it")
        return record
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path}: not a run record ({error}); remove it and run again") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} in it, so its run failed")


def write_record(path: Path, record: dict) -> Path:
    """Raises NotFinite, and writes nothing, where a number of the record is not finite."""
    return write_atomically(path, to_json(path, record, indent=1, sort_keys=True) + "\n")


def software() -> dict[str, str]:
    """Versions of what computes, the commit, the hash of the lock file, and whether the packages came from it."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **environment.versions(["torch", "torchvision", "open_clip_torch", "av", "numpy", "pandas"]),
        "commit": commit(),
        "lock": environment.lock_hash()[:16],
        "packages": environment.source(),
    }


def commit() -> str:
    """Short hash of the checkout, «+» when files differ from it, or «unknown» outside git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root(), capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
