"""What videos hold: their SHA-256, read once for as long as a file stays the same file.

Two data sets can agree in names, sizes and times and still show different pictures, so content alone says
whose features a store holds. A hash is kept with the file's inode, size and two times; the later time, the
inode's, is set by the system at each change and by nobody else. Moved or copied videos are read once more.
Device numbers are left out: they change when a network disk is mounted.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import defaultdict
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
    """SHA-256 of each video by name; empty for one that cannot be read. memory: folder for what is known.

    Raises InputError for a video that is not there.
    """
    file = _memory(videos, memory)
    known = _read(file)
    stamps = {name: stamp_of(videos / name) for name in names}
    new = [name for name in names if known.get(name, [])[:4] != stamps[name]]
    if (size := sum(stamps[name][1] for name in new)) > LARGE:
        notice(
            f"{videos}: reading {len(new):,} videos ({size / 1e9:,.0f} GB) once, to know whose features are"
            " theirs"
        )
    with ThreadPoolExecutor(min(8, default_jobs())) as pool:
        hashes = dict(zip(new, pool.map(lambda name: content(videos / name), new), strict=True))
    if kept := {
        name: [*stamps[name], hashes[name]] for name in new if hashes[name] and settled(stamps[name])
    }:
        _write(file, known | kept)
    return {name: hashes[name] if name in hashes else known[name][4] for name in names}


def content(path: Path) -> str:
    """SHA-256 of a file; empty where it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""


def copies(folder: Path, train: Iterable[str], test: Iterable[str]) -> list[tuple[str, str]]:
    """(training video, test video) of other names and equal bytes. Only files of equal size are read."""
    by_size = defaultdict(list)
    train = dict.fromkeys(train)
    for name in train:
        by_size[_size(folder / name)].append(name)
    digest = functools.cache(lambda name: content(folder / name))
    pairs = []
    for name in test:
        rivals = by_size[size] if name not in train and (size := _size(folder / name)) else []
        pairs += [(other, name) for other in rivals if digest(other) == digest(name) != ""][:1]
    return pairs


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def learn(videos: Path, rows: Iterable[Mapping], memory: Path) -> None:
    """Keep what an encoding read: rows with `name`, `sha256` and, where it is certain, `stamp`."""
    file = _memory(videos, memory)
    if new := {
        row["name"]: [*row["stamp"], row["sha256"]] for row in rows if row.get("stamp") and row["sha256"]
    }:
        _write(file, _read(file) | new)


def stamp_of(path: Path) -> list[int]:
    """The stamp of a video. Raises InputError where it is not there."""
    try:
        return stamp(path)
    except OSError as error:
        raise InputError(f"{path}: no such video ({error.strerror}); complete the data set") from error


def _memory(videos: Path, memory: Path) -> Path:
    return memory / f"contents-{hashlib.sha256(str(videos.resolve()).encode()).hexdigest()[:16]}.json"


def _read(file: Path) -> dict[str, list]:
    try:
        kept = json.loads(file.read_text())
        known, whole = kept["videos"], kept["seal"] == _seal(kept["videos"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return known if whole else {}


def _write(file: Path, known: dict[str, list]) -> None:
    with suppress(OSError):  # then they are read again
        write_atomically(file, json.dumps({"videos": known, "seal": _seal(known)}))


def _seal(known: dict) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
