"""Where files live, and how they appear: whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

import platformdirs


def root() -> Path:
    """The checkout: the folder that holds flowclip_core, notebooks and results."""
    return Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Folder for what can be made again (demo videos, stored features): $FLOWCLIP_CACHE or the user's cache."""
    return Path(os.environ.get("FLOWCLIP_CACHE") or platformdirs.user_cache_dir("flowclip")).expanduser()


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write `content` beside `path`, then rename: a reader, or a kill, never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files only their owner can read; results are to be shared like any other file.
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> list[int]:
    """What changes when a file does: inode, bytes, time of its content, time of its inode, which nobody can set."""
    said = Path(path).stat()
    return [said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns]


def settled(stamp: list[int]) -> bool:
    """Whether a file of this stamp cannot have been changed since without another stamp.

    Within one tick of a file system's clock it can: a second where it keeps whole ones, else some milliseconds.
    """
    changed = stamp[3]
    return time.time_ns() - changed > (50_000_000 if changed % 10**9 else 2_000_000_000)
