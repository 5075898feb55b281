"""What videos hold: their SHA-256, read once for as long as a file stays the same file.

Names, sizes and times of two data sets can be equal and their pictures not, so content alone says whose
features a store holds. A hash is kept with the file's inode, size and two times; the later, of the inode, is
set by the system at each change and by nobody else. Moved or copied videos are read once more. Devices are
left out: they are numbered anew when a network's disk is mounted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from flowclip_core.errors import InputError, notice
from flowclip_core.files import sha256, write_atomically
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.paths import settled, stamp

LARGE = 2 * 10**9  # bytes that take long enough to read to say so


def contents(videos: Path, names: Sequence[str], memory: Path) -> dict[str, str]:
    """Name -> SHA-256 of each video; empty for one that cannot be read. memory: folder of what is kept
    between calls.

    Raises InputError for a video that is not there.
    """
    file, known = _file(videos, memory), _read(_file(videos, memory))
    stamps = {name: stamp_of(videos / name) for name in names}
    new = [name for name in names if known.get(name, [])[:4] != stamps[name]]
    if (size := sum(stamps[name][1] for name in new)) > LARGE:
        notice(
            f"{videos}: reading {len(new):,} videos ({size / 1e9:,.0f} GB) once, to know whose features are theirs"
        )
    with ThreadPoolExecutor(min(8, default_jobs())) as pool:
        found = dict(zip(new, pool.map(lambda name: content(videos / name), new), strict=True))
    if kept := {name: [*stamps[name], found[name]] for name in new if found[name] and settled(stamps[name])}:
        _write(file, known | kept)
    return {name: found[name] if name in found else known[name][4] for name in names}


def content(path: Path) -> str:
    """SHA-256 of a file; empty where it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""


def learn(videos: Path, rows: Iterable[Mapping], memory: Path) -> None:
    """Keep what an encoding read: rows with `name`, `sha256` and, where it is certain, `stamp`."""
    file = _file(videos, memory)
    if found := {
        row["name"]: [*row["stamp"], row["sha256"]] for row in rows if row.get("stamp") and row["sha256"]
    }:
        _write(file, _read(file) | found)


def stamp_of(path: Path) -> list[int]:
    """The stamp of a video. Raises InputError where it is not there."""
    try:
        return stamp(path)
    except OSError as error:
        raise InputError(f"{path}: no such video ({error.strerror}); complete the data set") from error


def _file(videos: Path, memory: Path) -> Path:
    return memory / f"contents-{hashlib.sha256(str(videos.resolve()).encode()).hexdigest()[:16]}.json"


def _read(file: Path) -> dict[str, list]:
    try:
        said = json.loads(file.read_text())
        known, whole = said["videos"], said["seal"] == _seal(said["videos"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return known if whole else {}


def _write(file: Path, known: dict[str, list]) -> None:
    with suppress(OSError):  # then they are read again
        write_atomically(file, json.dumps({"videos": known, "seal": _seal(known)}))


def _seal(known: dict) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
