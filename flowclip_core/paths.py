"""Where files live, and how they appear: whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from flowclip_core.errors import InputError

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
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
