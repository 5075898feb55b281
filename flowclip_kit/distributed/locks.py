"""Which process works on a file: locks that a dead process cannot hold, on every file system.

A lock is a file that says who holds it. The operating system's own locks are not used: some file systems
refuse them, some grant them to everybody, and some keep them within one machine. All that a file system must
do is to let only one of several processes create a file. An owner on this machine is dead when its process
is; one on another machine when it has not touched its lock for STALE seconds, as every owner touches its own
every BEAT seconds. Standard library only, except for the start of a process where there is no /proc.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import socket
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from flowclip_core.errors import notice
from flowclip_core.files import machine

# Seconds. Other machines see a touched file late: NFS may hide it for a minute.
BEAT, STALE = 10.0, 120.0
# Seconds between looks at a lock that another process holds, until the user is told, and told again.
LOOK, QUIET, AGAIN = 0.25, 1.0, 60.0


@dataclass(frozen=True)
class Owner:
    """A process: its host and number, what tells its machine (or container) from others, when it began."""

    host: str
    pid: int
    machine: str
    born: str
    token: str = ""  # of one lock

    def __str__(self) -> str:
        return f"{self.host}, PID {self.pid}"

    @property
    def ours(self) -> bool:
        """Whether it runs, or ran, where this process can see it."""
        return self.machine == machine()

    @property
    def alive(self) -> bool:
        """Whether it still runs; asked of one that is `ours`."""
        return born(self.pid) == self.born


def me() -> Owner:
    """This process."""
    return _me(os.getpid())


@functools.cache
def _me(pid: int) -> Owner:
    return Owner(socket.gethostname(), pid, machine(), born(pid))


def born(pid: int) -> str:
    """When a process began, in units of its machine; empty where there is none. A zombie counts as none."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        import psutil
    except ImportError:  # in set-up, before it is installed
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, 0)
            return "unknown"
        return ""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.AccessDenied:
        return "unknown"
    except psutil.Error:
        return ""


class Lock:
    """A file that one `Lock` at a time holds: `if lock.take(): ...; lock.release()`, or `with lock`.

    what: what a user waits for while another process holds it.
    """

    def __init__(self, path: Path, what: str = "") -> None:
        self.path, self.what = Path(path), what or f"{path}"
        self._holder = self._token = ""

    @property
    def held(self) -> Held:
        """Who held it at the last `take`."""
        return Held(self.what, self._holder)

    def take(self) -> bool:
        """Take it if it is free, and return whether it is ours now. If not, `held` says who has it.

        Raises OSError where the file cannot be written.
        """
        for _ in range(9):  # locks of dead owners are removed on the way
            try:
                file = self.path.open("x", encoding="utf-8")
            except FileExistsError:
                if (seen := _read(self.path)) is None:
                    continue
                self._holder = str(seen)
                if not seen.dead() or not seen.remove():
                    return False
                continue
            token = uuid.uuid4().hex
            try:
                with file:
                    file.write(json.dumps(asdict(me()) | {"token": token}))
            except BaseException:
                self.path.unlink(missing_ok=True)  # a full disk
                raise
            self._token = token
            _hold(self)
            return True
        return False

    def release(self) -> None:
        """Give it back; does nothing where it is not ours."""
        if self._token:
            _drop(self)
            if self.ours:
                self.path.unlink(missing_ok=True)
            self._token = ""

    @property
    def ours(self) -> bool:
        """Whether the file still says that this lock holds it."""
        owner = self.owner()
        return owner is not None and owner.token == self._token

    def owner(self) -> Owner | None:
        """Who holds it; None where nobody does, or its file is not finished."""
        seen = _read(self.path)
        return seen.owner if seen else None

    def silent(self) -> float:
        """Seconds since its owner touched it. Raises OSError where there is no lock."""
        return _age(self.path, self.path.stat().st_mtime_ns)

    def __enter__(self) -> Lock:
        waiting = Waiting()
        while not self.take():
            waiting.go_on(self.held)
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@dataclass(frozen=True)
class Held:
    """A task's result while another call does it: what that is, and who does it."""

    what: str
    holder: str


def clear(path: Path) -> None:
    """Remove the lock file `path` if its owner is dead."""
    if path.exists() and (lock := Lock(path)).take():
        lock.release()


class Waiting:
    """A wait for another call, which tells the user within two seconds what for and who has it."""

    def __init__(self, says: bool = True) -> None:
        self._due = time.monotonic() + QUIET if says else math.inf

    def go_on(self, held: Held, seconds: float = LOOK) -> None:
        """Wait `seconds` more for what another call has."""
        if time.monotonic() >= self._due:
            notice(f"waiting for {held.what}: another call is at it ({held.holder})")
            self._due = time.monotonic() + AGAIN
        time.sleep(seconds)


@dataclass(frozen=True)
class _Seen:
    """A lock file as it was read."""

    path: Path
    text: str
    touched: int  # nanoseconds
    owner: Owner | None = None  # None in one that is being written, or was never finished

    def __str__(self) -> str:
        return f"{self.owner or 'an unknown process'}; lock {self.path}"

    def dead(self) -> bool:
        """Whether its owner is gone."""
        if self.owner and self.owner.ours:
            return not self.owner.alive
        return _age(self.path, self.touched) > STALE

    def remove(self) -> bool:
        """Remove it, as its owner is dead, and return whether that was done.

        One process alone may, and only what it has seen: another may have removed it, and taken the lock.
        """
        name = hashlib.sha256(f"{self.text} {self.touched}".encode()).hexdigest()[:12]
        turn = self.path.with_name(f".{self.path.name}.{name}.part")
        try:
            turn.open("x").close()
        except FileExistsError:
            with suppress(OSError):
                if _age(turn, turn.stat().st_mtime_ns) > STALE:
                    turn.unlink()  # of one that died meanwhile
            return False
        try:
            if _read(self.path) == self:
                self.path.unlink(missing_ok=True)
        finally:
            turn.unlink(missing_ok=True)
        return True


def _read(path: Path) -> _Seen | None:
    """What a lock file says; None where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:  # opened: NFS then asks for its time anew
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    try:
        return _Seen(path, text, touched, Owner(**json.loads(text)))
    except (TypeError, ValueError):
        return _Seen(path, text, touched)


def _age(path: Path, touched: int) -> float:
    """Seconds since `touched`, by the clock that dates the files there."""
    with tempfile.TemporaryFile(dir=path.parent) as now:
        now.write(b".")
        now.flush()
        return (os.fstat(now.fileno()).st_mtime_ns - touched) / 1e9


# --- the beat -----------------------------------------------------------------------------------------------

_held: dict[Lock, None] = {}
_beats = threading.Lock()
_beating, _never = False, threading.Event()


def _hold(lock: Lock) -> None:
    global _beating
    with _beats:
        _held[lock] = None
        if not _beating:
            _beating = True
            threading.Thread(target=_beat, daemon=True, name="locks").start()


def release_all() -> None:
    """Give back all that this process holds, which is about to end on the spot."""
    for lock in list(_held):
        lock.release()


def _drop(lock: Lock) -> None:
    with _beats:
        _held.pop(lock, None)


def _beat() -> None:
    """Touch the locks of this process, to show other machines that it lives."""
    while not _never.wait(BEAT):
        with _beats:
            held = list(_held)
        for lock in held:
            try:
                if lock.ours:
                    os.utime(lock.path)
                elif lock in _held:
                    _drop(lock)
                    notice(
                        f"{lock.path}: another process took this lock while it was held here ({me()}): the"
                        " file system there does not keep processes apart; work may be done twice"
                    )
            except OSError:
                pass  # released meanwhile; or out of reach, until the next beat


# --- unfinished files ---------------------------------------------------------------------------------------

# Seconds after which an unfinished file of another machine counts as left behind.
LEFT = 3600.0


def sweep(folder: Path, pattern: str) -> None:
    """Remove the unfinished files in `folder` that match `pattern` and whose writers are dead."""
    for part in Path(folder).glob(pattern):
        with suppress(FileNotFoundError):
            writer = re.search(r"\.([0-9a-f]{12})-(\d+)\.[^.]*$", part.name)
            if writer and writer[1] == machine():
                left = not born(int(writer[2]))
            else:
                left = _age(part, part.stat().st_mtime_ns) > LEFT
            if left:
                part.unlink()
