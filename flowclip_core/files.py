"""How files appear: whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowclip_core.errors import NotFinite

_UMASK = os.umask(0o077)  # can only be read by setting it, which threads must not do side by side
os.umask(_UMASK)


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write `content` beside `path`, then rename: a reader, or a kill, never meets half a file.

    Who may read it is as for any new file, by the umask. An OSError names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=unfinished(path))
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


def to_json(what: object, content: object, **layout: Any) -> str:
    """The content as JSON, which has no word for a number that is not finite. layout: what `json.dumps`
    takes.

    Raises NotFinite naming `what` is to be written and where in it such a number stands.
    """
    try:
        return json.dumps(content, allow_nan=False, **layout)
    except ValueError:
        if (culprit := _not_finite(content)) is None:
            raise
        raise NotFinite(f"{what}: {culprit} is not finite, so it is not written") from None


def _not_finite(content: object, place: str = "") -> str | None:
    if isinstance(content, float) and not math.isfinite(content):
        return f"{place.lstrip('.') or 'the value'} = {content}"
    if isinstance(content, dict):
        inside = ((f"{place}.{name}", value) for name, value in content.items())
    elif isinstance(content, list | tuple):
        inside = ((f"{place}[{number}]", value) for number, value in enumerate(content))
    else:
        return None
    return next(filter(None, (_not_finite(value, where) for where, value in inside)), None)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def machine() -> str:
    """What tells this machine from others, and one container from the next: they have process numbers of
    their own."""
    traits = [socket.gethostname()]
    try:
        traits.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        traits.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        traits.append(f"{uuid.getnode()}")
    return hashlib.sha256(" ".join(traits).encode()).hexdigest()[:12]


def unfinished(path: Path) -> str:
    """The beginning of a name beside `path` for what is to become it; `sweep` knows from it whose it is."""
    return f".{path.name}.{machine()}-{os.getpid()}."
