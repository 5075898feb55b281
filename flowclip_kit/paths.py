"""Where files live, and what shows that one changed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import platformdirs

from flowclip_core.errors import InputError


def root() -> Path:
    """The checkout: the folder that holds flowclip_core, notebooks and results."""
    return Path(__file__).resolve().parent.parent


def need_checkout() -> None:
    """Raise InputError where this package lies elsewhere than in a checkout, as after `pip install .`."""
    if not all((root() / name).exists() for name in ("notebooks", "results/paper")):
        raise InputError(
            f"this needs a whole checkout, with notebooks and printed numbers; {root()} holds the package"
            " alone: run ./reproduce.sh in a checkout, or install that with pip install -e"
        )


def cache_dir() -> Path:
    """Folder for what can be made again, as demo videos: $FLOWCLIP_CACHE or the user's cache."""
    return Path(os.environ.get("FLOWCLIP_CACHE") or platformdirs.user_cache_dir("flowclip")).expanduser()


def stamp(path: Path) -> list[int]:
    """What changes with a file: inode, bytes, time of its content, and of its inode, which nobody can set."""
    about = Path(path).stat()
    return [about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def settled(stamp: list[int]) -> bool:
    """Whether a file of this stamp cannot have been changed since without another stamp.

    Within one tick of a file system's clock it can: a second where it keeps whole ones, else some
    milliseconds.
    """
    changed = stamp[3]
    return time.time_ns() - changed > (50_000_000 if changed % 10**9 else 2_000_000_000)
