"""Where files live, and how they appear: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from flowclip_core import locks
from flowclip_core.errors import InputError, NotFinite

_UMASK = os.umask(0o077)  # can only be read by setting it, which threads must not do side by side
os.umask(_UMASK)


def root() -> Path:
    """The checkout: the folder that holds flowclip_core, notebooks and results."""
    return Path(__file__).resolve().parent.parent


def need_checkout() -> None:
    """Raise InputError where this package lies elsewhere than in a checkout, as after `pip install .`."""
    if not all((root() / name).exists() for name in ("notebooks", "results/paper")):
        raise InputError(
            f"this needs a whole checkout, with notebooks and printed numbers; {root()} holds the package alone: run"
            " ./reproduce.sh in a checkout, or install that with pip install -e"
        )


def cache_dir() -> Path:
    """Folder for what can be made again (demo videos, stored features): $FLOWCLIP_CACHE or the user's cache."""
    return Path(os.environ.get("FLOWCLIP_CACHE") or platformdirs.user_cache_dir("flowclip")).expanduser()


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write `content` beside `path`, then rename: a reader, or a kill, never meets half a file.

    Who may read it is as for any new file, by the umask. An OSError names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=locks.unfinished(path))
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files only their owner can read; results are shared as far as the umask lets them.
        Path(part).chmod(0o666 & ~_UMASK)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that does not say which file it is about, as from a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def to_json(what: object, content: object, **layout: object) -> str:
    """The content as JSON, which has no word for a number that is not finite. layout: what `json.dumps` takes.

    Raises NotFinite naming `what` is to be written and where in it such a number stands.
    """
    try:
        return json.dumps(content, allow_nan=False, **layout)
    except ValueError:
        if (found := _not_finite(content)) is None:
            raise
        raise NotFinite(f"{what}: {found} is not finite, so it is not written") from None


def _not_finite(content: object, place: str = "") -> str | None:
    if isinstance(content, float) and not math.isfinite(content):
        return f"{place.lstrip('.') or 'the value'} = {content}"
    if isinstance(content, dict):
        inside = ((f"{place}.{name}", value) for name, value in content.items())
    elif isinstance(content, list | tuple):
        inside = ((f"{place}[{number}]", value) for number, value in enumerate(content))
    else:
        return None
    return next((found for where, value in inside if (found := _not_finite(value, where))), None)


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
