"""What lies in a folder of videos, and which file a listed name means: decided by names alone."""

from __future__ import annotations

import fnmatch
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flowclip_core.errors import InputError, VideoError

# Extensions taken for a video's. Files with any other are opened to find out, except those that never are.
EXTENSIONS = frozenset(
    """.3g2 .3gp .asf .avi .divx .f4v .flv .m2ts .m2v .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .ogv .rm
    .rmvb .ts .vob .webm .wmv""".split()
)
NO_VIDEOS = frozenset(
    """.aac .ass .bmp .bz2 .csv .db .doc .docx .flac .gz .h5 .heic .heif .htm .html .ini .ipynb .jpeg .jpg
    .json .lock .log .m3u .m3u8 .m4a .md .mp3 .npy .npz .part .pdf .pkl .png .pt .pth .py .rar .safetensors
    .sh .srt .svg .tar .tif .tiff .tsv .txt .vtt .wav .webp .xls .xlsx .xml .xz .yaml .yml
    .zip""".split()
)
# What operating systems and tools leave beside files.
JUNK = (
    "__MACOSX", "lost+found", "@eaDir", ".DS_Store", "._*", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN",
    "#recycle",
)  # fmt: skip
DEPTH = 8  # folders below a class


class Listing(NamedTuple):
    """Names below a folder, sorted: videos and whatever is named like one, other files, junk."""

    videos: list[str]
    others: list[str]
    junk: list[str]


def list_files(folder: Path, depth: int = DEPTH, peek: bool = False) -> Listing:
    """What lies in a folder and `depth` levels below it; hidden files are left out unless they are junk.

    peek: open files whose extension says nothing. Raises InputError for a folder that cannot be read.
    """
    listing = Listing([], [], [])
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in entries:
        extension = PurePosixPath(entry.name).suffix.lower()
        if is_junk(entry.name):
            listing.junk.append(entry.name)
        elif entry.name.startswith("."):
            continue
        elif _is(entry, os.DirEntry.is_dir) and extension not in EXTENSIONS:
            if depth:
                below = list_files(folder / entry.name, depth - 1, peek)
                for names, more in zip(listing, below, strict=True):
                    names += [f"{entry.name}/{name}" for name in more]
        elif extension in EXTENSIONS or (extension not in NO_VIDEOS and peek and _opens(entry)):
            listing.videos.append(entry.name)
        else:
            listing.others.append(entry.name)
    return listing


def videos_in(folder: Path, depth: int = 0) -> Iterator[str]:
    """Names of the video files in a folder and `depth` levels below, sorted; hidden ones are left out."""
    return (name for name in list_files(folder, depth).videos if (folder / name).is_file())


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is not data but something a system left."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in JUNK)


def check_names(folder: Path, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(names that are not there, names that cannot be videos, each with the reason).

    One scan per folder: a look at each file would take long.
    """
    entries: dict[str, dict[str, os.DirEntry]] = {}
    absent, bad = [], []
    for name in names:
        parent, _, file = name.rpartition("/")
        if parent not in entries:
            path = folder / parent
            entries[parent] = {entry.name: entry for entry in os.scandir(path)} if path.is_dir() else {}
        entry = entries[parent].get(file)
        if entry is None:
            absent.append(name)
        elif why := _fault(entry, name):
            bad.append(f"{printable(name)} ({why})")
    return absent, bad


def printable(name: str) -> str:
    r"""A name in a message: bytes that are not UTF-8 appear as \xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def first_of(names: Sequence[str], most: int = 3) -> str:
    """The first of the names, in a message."""
    return ", ".join(map(printable, names[:most])) + (", ..." if len(names) > most else "")


def _fault(entry: os.DirEntry, name: str) -> str:
    if any(0xDC80 <= ord(sign) < 0xDD00 for sign in name):
        return "its name is not UTF-8"
    if _is(entry, os.DirEntry.is_file):
        return ""
    if _is(entry, os.DirEntry.is_dir):
        return "a folder"
    return "a broken link" if entry.is_symlink() else "not a regular file but a pipe, a socket or a device"


def _is(entry: os.DirEntry, kind: Callable[[os.DirEntry], bool]) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link that leads to itself
        return False


def _opens(entry: os.DirEntry) -> bool:
    """Whether PyAV finds a video in a file; True for anything but a file, which is then refused by name."""
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


# --- names in a list ---


def without_extension(name: str) -> str:
    """A name without the extension of a video file."""
    extension = PurePosixPath(name).suffix
    return name.removesuffix(extension) if extension.lower() in EXTENSIONS else name


# How a copy's names may differ from those of its list and still match.
_FOLDS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("slashes", lambda name: str(PurePosixPath(name.replace("\\", "/")))),
    ("Unicode form", lambda name: unicodedata.normalize("NFC", name)),
    ("case", str.casefold),
    ("underscores", lambda name: name.replace("_", " ")),
    ("extension", without_extension),
)


def folded(name: str, strict: str = "") -> str:
    """A path with slashes, Unicode form, case, underscores and extension made equal, but for `strict`."""
    for what, fold in _FOLDS:
        name = name if what == strict else fold(name)
    return name


def difference(name: str, other: str) -> str:
    """How two names that are equal once folded differ."""
    ways = [what for what, _ in _FOLDS if folded(name, what) != folded(other, what)]
    return " and ".join(ways) or "case"  # of the extension


class Matches(NamedTuple):
    """Files that listed names mean: {listed name: file}, and (listed name, files) where several fit."""

    unique: dict[str, str]
    several: list[tuple[str, tuple[str, ...]]]


def match_names(listed: Iterable[str], files: Iterable[str]) -> Matches:
    """Which file each listed name means that is not there as written; a file stands for one name at most."""
    matches = Matches({}, [])
    left, files = dict.fromkeys(listed), list(files)
    for strict in ("extension", ""):  # a file with the same extension is the closer match
        groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for name in left:
            groups[folded(name, strict)][0].append(name)
        for file in files:
            if (key := folded(file, strict)) in groups:
                groups[key][1].append(file)
        for names, candidates in groups.values():
            if not candidates:
                continue
            if len(names) == len(candidates) == 1:
                matches.unique[names[0]] = candidates[0]
            else:
                matches.several.extend((name, tuple(candidates)) for name in names)
            for name in names:
                del left[name]
    return matches
