"""What the tests of engines have done by worker processes: a module of its own, light to import."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flowclip_core.errors import InputError
from flowclip_kit.distributed.locks import Held, Lock


def double(number: int) -> int:
    return 2 * number


def held_at_first(note: Path, times: int) -> str | Held:
    """`Held`, as while another command holds a run, until it was asked `times` times."""
    asked = len(note.read_text()) if note.exists() else 0
    note.write_text("x" * (asked + 1))
    return "done" if asked >= times else Held(note.name, "another")


def dies(note: Path, times: int) -> int | Held:
    """The death of this process with a lock in its hands, as for lack of memory, `times` times; then how
    often it was begun. `Held` where the lock is, as if by another command."""
    lock = Lock(note.with_suffix(".lock"))
    if not lock.take():
        return lock.held
    with note.open("a") as file:
        file.write("x")
    if len(begun := note.read_text()) <= times:
        os._exit(1)
    lock.release()
    return len(begun)


def refuses(what: str) -> None:
    raise InputError(f"{what}: no such video")


def breaks(what: str) -> None:
    raise KeyError(what)


def surroundings() -> tuple[int, str | None, str]:
    """Threads of this process, what was said of them before torch was imported, the working folder."""
    import torch

    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"), str(Path.cwd())


def where(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()
