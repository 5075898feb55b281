"""Run records, and the software that made them.

A record is one JSON file under `runs/`, named by its run key; a run is finished when its record exists and is
sound.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

from flowclip_core.errors import InputError
from flowclip_core.files import to_json, write_atomically
from flowclip_kit import environment
from flowclip_kit.paths import root


def read_record(path: Path) -> dict | None:
    """The record at `path`, or None when it does not exist.

    Raises InputError when it cannot be read, is another run's, is not what was written, or its scores are not
    those of its predictions.
    """
    try:
        record = json.loads(path.read_text(), parse_constant=_no_number)
        why = _fault(record, path.stem)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        why = str(error)
    if why:
        raise InputError(f"{path}: not a run record ({why}); remove it and run again")
    return record


def _no_number(name: str) -> None:
    raise ValueError(f"{name} in it, so its run failed")


def write_record(path: Path, record: dict) -> Path:
    """Write a record with a seal, the hash of itself, which shows any later change.

    Raises NotFinite, and writes nothing, where a number of the record is not finite.
    """
    return write_atomically(
        path, to_json(path, record | {"seal": _seal(record)}, indent=1, sort_keys=True) + "\n"
    )


def _seal(record: dict) -> str:
    said = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _fault(record: object, key: str) -> str | None:
    """What is wrong with a record, if anything. Those made before there were seals must be consistent in
    themselves."""
    if not isinstance(record, dict):
        return "no JSON object"
    parts: list[Any] = [record.get(name) for name in ("scores", "predictions", "seconds", "software")]
    scores, predictions, seconds, software = parts
    losses, halves = record.get("losses", []), record.get("halves", [])
    guesses = isinstance(predictions, dict) and all(map(_guess, predictions.values()))
    sound = {
        "scores": _numbers(scores, 100),
        "predictions": guesses and len(predictions) > 0,
        "seconds": _numbers(seconds) and {"train", "test"} <= seconds.keys(),
        "software": isinstance(software, dict) and all(isinstance(said, str) for said in software.values()),
        "device": isinstance(record.get("device"), str),
        "config": isinstance(record.get("config"), dict),
        "peak_memory_gib": _numbers({"": record.get("peak_memory_gib")}),
        "losses": isinstance(losses, list) and _numbers(dict(enumerate(losses))),
        "halves": isinstance(halves, list) and _numbers(dict(enumerate(halves)), 100),
    }
    if wrong := [name for name, right in sound.items() if not right]:
        return (
            f"no {wrong[0]} in it"
            if wrong[0] not in record
            else f"its {wrong[0]} are not such as a run leaves"
        )
    if record.get("key") != key:
        return f"it is of the run {record.get('key')}"
    if "seal" in record and record["seal"] != _seal(record):
        return "it was changed after it was written"
    hits = [label == guess for label, guess, *_ in predictions.values()]
    follow = {"top1": 100 * sum(hits) / len(hits)}
    if places := [place for _, _, _, *rank in predictions.values() for place in rank]:
        if [place == 0 for place in places] != hits:
            return "its ranks are not those of its predictions"
        follow["top5"] = 100 * sum(place < 5 for place in places) / len(hits)
    if len(halves) > 1:
        follow |= {"top1_half": statistics.fmean(halves), "half_sd": statistics.stdev(halves)}
    follow = {name: value for name, value in follow.items() if name in scores}
    for name in ("top5", "top1_shuffled", "top1_reversed", "top1_repeated"):  # some of all test videos
        if name in scores and name not in follow:
            follow[name] = 100 * round(scores[name] * len(hits) / 100) / len(hits)
    if other := [name for name, value in follow.items() if abs(scores[name] - value) > 1e-6]:
        return f"its predictions do not give {other[0]} {scores[other[0]]:g}"
    return None


def _numbers(found: object, most: float = math.inf) -> bool:
    """Whether it is a dict of finite numbers from 0 to `most`."""
    return isinstance(found, dict) and all(
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and 0 <= value <= most
        for value in found.values()
    )


def _guess(found: object) -> bool:
    """Whether it is what a record says of one video: [label, predicted label, score and rank of the true
    one]; before there were ranks, without."""
    return (
        isinstance(found, list)
        and len(found) in (3, 4)
        and all(type(label) is int and label >= 0 for label in (*found[:2], *found[3:]))
        and _numbers({"": found[2]}, 1)
    )


def software() -> dict[str, str | None]:
    """Versions of what computes, the commit, the hash of the lock file, and whether the packages came from
    it."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **environment.versions(["torch", "torchvision", "open_clip_torch", "av", "numpy", "pandas"]),
        "commit": commit(),
        "lock": environment.lock_hash()[:16],
        "packages": environment.source(),
    }


def commit() -> str:
    """Short hash of the checkout, '+' when files differ from it, or 'unknown' outside git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root(), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
