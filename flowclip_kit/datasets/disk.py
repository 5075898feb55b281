"""What lies in a folder of videos, and which of it a list means: by names alone, so that nothing is waited
for."""

from __future__ import annotations

import fnmatch
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flowclip_core.errors import InputError, VideoError

# Endings that are taken for a video's. A file with any other is opened to see, but for those that never are
# one.
EXTENSIONS = frozenset(
    [".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv"]
)
NO_VIDEOS = frozenset(
    [".aac", ".ass", ".bmp", ".bz2", ".csv", ".db", ".doc", ".docx", ".flac", ".gz", ".h5", ".heic", ".heif", ".htm", ".html", ".ini", ".ipynb", ".jpeg", ".jpg", ".json", ".lock", ".log", ".m3u", ".m3u8", ".m4a", ".md", ".mp3", ".npy", ".npz", ".part", ".pdf", ".pkl", ".png", ".pt", ".pth", ".py", ".rar", ".safetensors", ".sh", ".srt", ".svg", ".tar", ".tif", ".tiff", ".tsv", ".txt", ".vtt", ".wav", ".webp", ".xls", ".xlsx", ".xml", ".xz", ".yaml", ".yml", ".zip"]
)
# What systems and their tools leave beside files.
JUNK = (
    "__MACOSX",
    "lost+found",
    "@eaDir",
    ".DS_Store",
    "._*",
    "Thumbs.db",
    "desktop.ini",
    "$RECYCLE.BIN",
    "#recycle",
)
DEPTH = 8  # folders below a class


class Found(NamedTuple):
    """Names below a folder, sorted: of videos and whatever is called like one, of other files, of junk."""

    videos: list[str]
    others: list[str]
    junk: list[str]


def look(folder: Path, depth: int = DEPTH, peek: bool = False) -> Found:
    """What lies in a folder and `depth` levels below; hidden files are left out unless they are junk.

    peek: open files whose endings say nothing. Raises InputError for a folder that cannot be read.
    """
    found = Found([], [], [])
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in entries:
        end = PurePosixPath(entry.name).suffix.lower()
        if is_junk(entry.name):
            found.junk.append(entry.name)
        elif entry.name.startswith("."):
            continue
        elif _is(entry, os.DirEntry.is_dir) and end not in EXTENSIONS:
            if depth:
                below = look(folder / entry.name, depth - 1, peek)
                for names, more in zip(found, below, strict=True):
                    names += [f"{entry.name}/{name}" for name in more]
        elif end in EXTENSIONS or (end not in NO_VIDEOS and peek and _opens(entry)):
            found.videos.append(entry.name)
        else:
            found.others.append(entry.name)
    return found


def videos_in(folder: Path, depth: int = 0) -> Iterator[str]:
    """Names of the video files in a folder and `depth` levels below, sorted; hidden ones are left out."""
    return (name for name in look(folder, depth).videos if (folder / name).is_file())


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is no data, but what a system leaves."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in JUNK)


def check(folder: Path, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those of `names` that are not there, and those that no video can be: each with the reason, one look per
    folder.

    Looking for each file takes long.
    """
    there: dict[str, dict[str, os.DirEntry]] = {}
    absent, bad = [], []
    for name in names:
        inside, _, file = name.rpartition("/")
        if inside not in there:
            path = folder / inside
            there[inside] = {entry.name: entry for entry in os.scandir(path)} if path.is_dir() else {}
        entry = there[inside].get(file)
        if entry is None:
            absent.append(name)
        elif why := _fault(entry, name):
            bad.append(f"{spelt(name)} ({why})")
    return absent, bad


def spelt(name: str) -> str:
    """A name in a message: bytes that are no UTF-8 as «\\xe9»."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of the names, in a message."""
    return ", ".join(map(spelt, names[:most])) + (", ..." if len(names) > most else "")


def _fault(entry: os.DirEntry, name: str) -> str:
    if any(0xDC80 <= ord(sign) < 0xDD00 for sign in name):
        return "its name is no UTF-8"
    if _is(entry, os.DirEntry.is_file):
        return ""
    if _is(entry, os.DirEntry.is_dir):
        return "a folder"
    return "a link to nothing" if entry.is_symlink() else "no regular file, but a pipe, a socket or a device"


def _is(entry: os.DirEntry, kind) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link that leads to itself
        return False


def _opens(entry: os.DirEntry) -> bool:
    """Whether PyAV finds a video in a file; True for what is no file, so that it is refused by its name."""
    if not _is(entry, os.DirEntry.is_file):
        return True
    import av

    from flowclip_core.data.video import open_stream

    try:
        container, _ = open_stream(Path(entry.path))
    except (VideoError, av.error.FFmpegError, OSError):
        return False
    container.close()
    return True


# --- names of a list
# ------------------------------------------------------------------------------------------


def without_extension(name: str) -> str:
    """A name without the ending of a video file."""
    end = PurePosixPath(name).suffix
    return name.removesuffix(end) if end.lower() in EXTENSIONS else name


# In what a copy's names may differ from those of its list and still be meant.
_FOLDS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("slashes", lambda name: str(PurePosixPath(name.replace("\\", "/")))),
    ("Unicode form", lambda name: unicodedata.normalize("NFC", name)),
    ("case", str.casefold),
    ("underscores", lambda name: name.replace("_", " ")),
    ("extension", without_extension),
)


def folded(name: str, without: str = "") -> str:
    """What stays of a path when slashes, Unicode form, case, underscores and extension do not count.

    without: one of these, which counts.
    """
    for what, fold in _FOLDS:
        name = name if what == without else fold(name)
    return name


def difference(one: str, other: str) -> str:
    """In what two names differ that are equal when they are folded."""
    found = [what for what, _ in _FOLDS if folded(one, what) != folded(other, what)]
    return " and ".join(found) or "case"  # of the extension


class Meant(NamedTuple):
    """Names of the disk that names of a list mean: by listed name, and (listed, those that it fits) where
    several."""

    one: dict[str, str]
    several: list[tuple[str, tuple[str, ...]]]


def meant(listed: Iterable[str], there: Iterable[str]) -> Meant:
    """Which name of the disk each listed one means that is not there as it is; a name means one, or none."""
    found = Meant({}, [])
    left, there = dict.fromkeys(listed), list(there)
    for without in ("extension", ""):  # a name with the same extension is the nearer one
        keys: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for name in left:
            keys[folded(name, without)][0].append(name)
        for name in there:
            if (key := folded(name, without)) in keys:
                keys[key][1].append(name)
        for names, candidates in keys.values():
            if not candidates:
                continue
            if len(names) == len(candidates) == 1:
                found.one[names[0]] = candidates[0]
            else:
                found.several.extend((name, tuple(candidates)) for name in names)
            for name in names:
                del left[name]
    return found
