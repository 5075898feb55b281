"""What a command takes from its surroundings: variables, streams, limits, signals, temporary files.

Standard library only until something has to be ended: `settle` runs before the imports that take a second.
"""

from __future__ import annotations

import atexit
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from multiprocessing import process
from pathlib import Path

from flowclip_core.errors import InputError, notice

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Variables of a user's own that would change what we compute or draw, or keep us from ending; None: unset.
CLEAN = {
    "MATPLOTLIBRC": os.devnull,
    "MPLBACKEND": None,
    "PYTHONHOME": None,
    "PYTHONINSPECT": None,
    "PYTHONNOUSERSITE": "1",
    "PYTHONOPTIMIZE": None,  # notebooks check themselves with assert
    "PYTHONSTARTUP": None,  # IPython runs it in kernels too
    "PYTHONUTF8": "1",
    "PYTHONWARNINGS": None,
}
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
GRACE = 5.0  # seconds that a stopped command has to put things away before everything it started is killed
PREFIX = "flowclip-"
STDOUT = "standard output"  # as an OSError calls it
ROOM = 32 << 20  # bytes of temporary files: the executed notebook of a large table
# Bytes of a path that leave room for a socket's name below it, by macOS' limit.
SOCKET = 103 - len("/pymp-abcdefgh/listener-abcdefgh")
# Limit, its option of ulimit, what it is called, what is needed, and how that reads.
LIMITS = (
    ("RLIMIT_NOFILE", "n", "open files", 256, "256"),
    ("RLIMIT_AS", "v", "memory that a process may address", 8 << 30, "8 GB"),
    ("RLIMIT_DATA", "d", "memory that a process may hold", 4 << 30, "4 GB"),
    ("RLIMIT_FSIZE", "f", "the size of a file", 256 << 20, "256 MB"),
)


class Stopped(KeyboardInterrupt):
    """A signal that asks us to end: Ctrl-C, kill, a closed terminal."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


def clean(variables: dict[str, str]) -> dict[str, str]:
    """The variables of a process that heeds none of the user's own settings in `CLEAN`."""
    kept = {name: value for name, value in variables.items() if name not in CLEAN}
    return kept | {name: value for name, value in CLEAN.items() if value is not None}


# --- a command's own process --------------------------------------------------------------------------------

_settled = False
_main = False  # whether `main` is there to catch what a signal raises
_folder: Path | None = None  # temporary files of this process and all that it starts
_lock = -1  # held while we live
_said = False


def settle() -> None:
    """Make the running process a command of its own: call once, first of all, and `leave` at its end."""
    global _settled
    _settled = True
    atexit.register(drop_folder)  # runs after what is registered later, such as multiprocessing's own tidying
    kept = clean(dict(os.environ))
    os.environ.clear()
    os.environ.update(kept)
    open_streams()
    _listen()
    if Path("matplotlibrc").is_file():  # matplotlib looks into the working folder before all else
        before = Path.cwd()
        os.chdir(Path(__file__).parent)
        import matplotlib  # noqa: F401

        os.chdir(before)


def in_main() -> None:
    """From now on a signal raises Stopped; before, it ends the process at once."""
    global _main
    _main = True


def leave(code: int) -> None:
    """End the process with `code`; after a signal everything that it started goes too."""
    if code - 128 in SIGNALS:
        _end(code)
    sys.exit(code)


def say_stopped() -> None:
    """Say once that a signal has stopped the command."""
    global _said
    line = "stopped; finished runs are kept, the same command goes on from there"
    if not _settled:
        notice(line)
    elif not _said:
        _said = True
        sys.unraisablehook = lambda _: None  # finalizers that meet what is gone already say nothing of use
        with suppress(OSError):  # past the stream, in which the main thread may be in the middle of a write
            os.write(2, f"reproduce.sh: {line}\n".encode())


class _Output(io.FileIO):
    """A standard stream that says its name when it cannot be written, or does not mind."""

    def __init__(self, number: int, name: str | None) -> None:
        super().__init__(number, "w", closefd=False)
        self._title = name

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            if self._title:
                raise
        except OSError as error:
            if self._title:
                raise OSError(error.errno, error.strerror, self._title) from None
        return len(data)


def open_streams() -> None:
    """Open what the caller closed. No character, and no full disk behind stderr, is an error then."""
    for number in range(3):
        try:
            used = os.fstat(number) and (number == 0 or fcntl is None or _writable(number))
        except OSError:
            used = False
        if not used:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            if nothing > 2:
                os.close(nothing)
            os.set_inheritable(number, True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        encoding = old.encoding if old else "utf-8"
        errors = (
            "backslashreplace" if number == 2 else "surrogateescape" if encoding == "utf-8" else "replace"
        )
        raw = _Output(number, STDOUT if number == 1 else None)
        made = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding, errors, line_buffering=number == 2 or raw.isatty()
        )
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)


def _writable(number: int) -> bool:
    """Whether a descriptor is there to be written; one that a shell left open by chance is not."""
    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _listen() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end the command with one line, and a second signal at once.

    One that the caller ignores stays ignored: a shell's `&` and nohup mean that.
    """
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in heard:
        signal.signal(number, _stop)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        """Python's own handlers wait for the main thread, which may be deep in a computation or a wait."""
        while (got := os.read(reader, 1)) and got[0] not in heard:
            pass
        if got and _main:
            again = threading.Event()

            def hear_again() -> None:
                os.read(reader, 1)
                again.set()

            threading.Thread(target=hear_again, daemon=True).start()
            again.wait(GRACE)
        if os.environ.get("RANK", "0") == "0":  # of torchrun's, the others are silent
            say_stopped()
        _end(128 + got[0])

    threading.Thread(target=watch, name="signals", daemon=True).start()


def _stop(number: int, frame: object) -> None:
    if _main:
        for each in SIGNALS:  # the watching thread hears the next one; nothing is raised twice
            if signal.getsignal(each) == _stop:
                signal.signal(each, lambda *_: None)
        warnings.simplefilter("ignore")  # of what ends before its time
        raise Stopped(number)


def _end(code: int) -> None:
    """Kill all that we started, remove our temporary files, and end without a further word."""
    try:
        import psutil

        for child in psutil.Process().children(recursive=True) if _main else ():
            with suppress(psutil.Error):
                child.kill()
    finally:
        drop_folder()
        os._exit(code)


# --- temporary files and limits -----------------------------------------------------------------------------


def need_limits() -> None:
    """Raise the limits that are too low where we may. InputError, naming the limit, where we may not."""
    for limit, option, what, needed, reads in LIMITS:
        if not hasattr(resource, limit):
            continue
        number = getattr(resource, limit)
        soft, hard = resource.getrlimit(number)
        if _at_least(soft, needed):
            continue
        if _at_least(hard, needed):
            files = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
            resource.setrlimit(number, (files if option == "n" else hard, hard))
            continue
        had = f"{hard:,}" if option == "n" else _size(hard)
        raise InputError(
            f"a limit on {what}: {had} (ulimit -{option}), {reads} are needed; raise it, for instance with"
            f" ulimit -{option} {'4096' if option == 'n' else 'unlimited'}"
        )


def need_room() -> None:
    """Raise InputError, naming the resource, where a long command would have too little of one.

    A settled process, and all that it starts, also gets a folder of its own for temporary files. The next
    command removes it if a kill leaves it.
    """
    need_limits()
    base = _temporary()
    if _settled and _folder is None:
        _sweep(base)
        _make_folder(base)


def _at_least(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed


def _size(count: int) -> str:
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def _temporary() -> Path:
    """The folder for temporary files. Raises InputError if it cannot be used."""
    how = "name another folder with TMPDIR"
    try:
        base = Path(tempfile.gettempdir())
    except FileNotFoundError:
        raise InputError(f"no folder for temporary files can be written; {how}") from None
    if base == Path.cwd() and os.environ.get("TMPDIR") != str(base):  # the last that tempfile tries
        raise InputError(f"no folder for temporary files can be written but the working one; {how}")
    if (length := len(os.fsencode(base)) + len(PREFIX) + 9) > SOCKET:
        spare = SOCKET - len(PREFIX) - 9
        raise InputError(
            f"TMPDIR {base}: a path of {length - len(PREFIX) - 9} characters, at most {spare} leave room for"
            f" the name of a socket; {how}"
        )
    try:
        free = shutil.disk_usage(base).free
        with tempfile.TemporaryFile(dir=base) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise InputError(f"TMPDIR {base}: cannot be written ({error.strerror}); {how}") from error
    if free < ROOM:
        raise InputError(f"TMPDIR {base}: {_size(free)} free, {_size(ROOM)} are needed; make room, or {how}")
    return base


def _make_folder(base: Path) -> None:
    global _folder, _lock
    while True:
        folder = Path(tempfile.mkdtemp(dir=base, prefix=PREFIX))
        _lock = os.open(folder, os.O_RDONLY)
        _try_lock(_lock, wait=True)
        if folder.exists():  # or another command swept it before we held it
            break
        os.close(_lock)
    _folder = folder
    os.environ.setdefault(
        "RAY_TMPDIR", str(base)
    )  # Ray finds clusters there, and its sockets have long names
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # Semaphores have names in /dev/shm; by these the next command knows whose they were.
    process.current_process()._config["semprefix"] = f"/{folder.name}"  # type: ignore[attr-defined]


def drop_folder() -> None:
    """Remove this process' temporary files."""
    global _folder
    if _folder is not None:
        folder, _folder = _folder, None
        _remove(folder)


def _sweep(base: Path) -> None:
    """Remove what killed commands left in `base` and in /dev/shm."""
    for folder in base.glob(f"{PREFIX}????????"):
        try:
            held = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # another user's, or just removed
            continue
        try:
            if os.fstat(held).st_uid == os.getuid() and _try_lock(held):
                _remove(folder)
        finally:
            os.close(held)


def _remove(folder: Path) -> None:
    for semaphore in Path("/dev/shm").glob(f"sem.{folder.name}-*"):
        semaphore.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _try_lock(descriptor: int, wait: bool = False) -> bool:
    """Whether we hold the folder now; never where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError:
        return False
