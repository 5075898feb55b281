"""The paper's data sets on the disk: fetched, unpacked, arranged as `datasets.load` reads them, and counted.

What a server or an archive sends is not trusted: a file gets its final name once size and SHA-256 are right, and no
entry of an archive is written outside a folder of its own before each has been looked at. What the user already has
is taken as it is: it is linked or copied into place, never moved, overwritten or deleted.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

import filelock

from flowclip_core.data import datasets
from flowclip_core.data.class_names import CLASSES
from flowclip_core.data.datasets import Dataset, Video, class_text
from flowclip_core.errors import InputError, VideoError
from flowclip_core.paths import sha256
from flowclip_core.workers import default_jobs

TRIES, PAUSE = 4, 1.0  # attempts in a row that bring nothing; seconds between them, doubling
TIMEOUT = (10.0, 30.0)  # seconds until a server answers, and of silence

Progress = Callable[[str, int, int | None], None]  # what, done, total where it is known
Say = Callable[[str], None]


class Archive(NamedTuple):
    """A published file. `urls`: tried in order; `bytes`, `sha256`: None where nobody states them."""

    file: str
    urls: tuple[str, ...]
    what: str
    bytes: int | None = None
    sha256: str | None = None


class Facts(NamedTuple):
    """What is known of a data set: classes, videos of (train, test) by split, files, terms, literature."""

    classes: int
    splits: dict[int, tuple[int, int]]  # empty: the copies in use differ, their own lists decide
    archives: tuple[Archive, ...]
    licence: str
    citation: str


# Addresses: mmaction2, tools/data/*/download_*.sh, and cvdfoundation/kinetics-dataset, k400_downloader.sh. SHA-256 of
# the rar files: torchvision's loaders (pytorch/vision, pull request 5335); of the zip: tensorflow/datasets,
# url_checksums, and torchvision. Bytes of UCF101.rar: what its server announces; of the others no source states them.
# Counts: the official lists (HMDB-51: 70 + 30 a class in each split). Licences: the data sets' cards on the hub.
_CVDF = "https://s3.amazonaws.com/kinetics/400/"


def _at(file: str, *folders: str, what: str, bytes: int | None = None, sha256: str | None = None) -> Archive:
    return Archive(file, tuple(f"https://{folder}/{file}" for folder in folders), what, bytes, sha256)


FACTS = {
    "hmdb51": Facts(
        51,
        {1: (3570, 1530), 2: (3570, 1530), 3: (3570, 1530)},
        (
            _at(
                "test_train_splits.rar", "serre-lab.clps.brown.edu/wp-content/uploads/2013/10",
                what="split lists, under 1 MB",
                sha256="229c94f845720d01eb3946d39f39292ea962d50a18136484aa47c1eba251d2b7",
            ),
            _at(
                "hmdb51_org.rar", "serre-lab.clps.brown.edu/wp-content/uploads/2013/10",
                what="6,766 videos, about 2 GB",
                sha256="9e714a0d8b76104d76e932764a7ca636f929fff66279cda3f2e326fa912a328e",
            ),
        ),
        "CC BY 4.0",
        "Kuehne et al., HMDB: A Large Video Database for Human Motion Recognition, ICCV 2011",
    ),
    "ucf101": Facts(
        101,
        {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)},
        (
            _at(
                "UCF101TrainTestSplits-RecognitionTask.zip",
                "www.crcv.ucf.edu/data/UCF101", "www.crcv.ucf.edu/wp-content/uploads/2019/03",
                what="split lists", bytes=113_943,
                sha256="5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            ),
            _at(
                "UCF101.rar", "www.crcv.ucf.edu/data/UCF101", "www.crcv.ucf.edu/datasets/human-actions/ucf101",
                what="13,320 videos", bytes=6_932_971_618,
                sha256="ca8dfadb4c891cb11316f94d52b6b0ac2a11994e67a0cae227180cd160bd8e55",
            ),
        ),
        "none is stated; the authors offer it for research",
        "Soomro, Zamir and Shah, UCF101: A Dataset of 101 Human Actions Classes, arXiv:1212.0402, 2012",
    ),
    "kinetics400": Facts(
        400,
        {},
        tuple(
            _at(f"{part}.csv", "s3.amazonaws.com/kinetics/400/annotations", what=f"list of the {part} videos")
            for part in ("train", "val")
        ),
        "CC BY 4.0 for the lists; the videos remain their owners'",
        "Kay et al., The Kinetics Human Action Video Dataset, arXiv:1705.06950, 2017",
    ),
}  # fmt: skip
# What holds the lists when they are in place.
_LISTS = {
    "hmdb51": ("testTrainMulti_7030_splits",),
    "ucf101": ("ucfTrainTestlist",),
    "kinetics400": ("train.csv", "val.csv"),
}


def sources(name: str, mirror: str | None = None) -> list[Archive]:
    """The archives of a data set, the lists first. `mirror` (or $FLOWCLIP_MIRROR), like https://host/folder, stands in
    for the hosts: tried with the official path behind it, then with the file alone. Kinetics-400 has its lists only:
    its videos come as hundreds of archives, `by_hand` tells how. Raises InputError for another name or no such URL."""
    if name not in FACTS:
        raise InputError(f"data set {name!r}: expected one of {', '.join(FACTS)}")
    archives = list(FACTS[name].archives)
    if not (mirror := mirror or os.environ.get("FLOWCLIP_MIRROR")):
        return archives
    if urlsplit(mirror).scheme not in ("http", "https"):
        raise InputError(f"mirror {mirror!r}: expected an address like https://host/folder")
    mirror = mirror.rstrip("/")
    return [a._replace(urls=(*(mirror + urlsplit(url).path for url in a.urls), f"{mirror}/{a.file}")) for a in archives]


def by_hand(folder: Path) -> str:
    """How Kinetics-400's videos get into `folder`: one line."""
    return (
        f"the videos of Kinetics-400 are not fetched by this command (436 GB in hundreds of archives): {_CVDF}train/"
        f"k400_train_path.txt and {_CVDF}val/k400_val_path.txt list them, {_CVDF}replacement_for_corrupted_k400.tgz"
        f" holds 1,393 better copies; unpack them to {folder / 'train'} and {folder / 'val'}, with or without class"
        " folders, then run this command again"
    )


# --- fetching -------------------------------------------------------------------------------------------------


def fetch(archive: Archive, folder: str | Path, progress: Progress | None = None) -> Path:
    """Download `archive` into `folder` and return its path; a file that is there and right is left alone.

    It grows as <file>.part and is renamed when bytes and SHA-256 are right. What a dropped connection or a kill has
    left is continued where a digest can tell whether the halves belong together. Raises InputError (one line) when no
    address gives the file, with what to do by hand, or when the disk is too small.
    """
    path = Path(folder) / archive.file
    if path.exists():
        if fault := _fault(path, archive):
            raise InputError(f"{path}: {fault}; delete it to fetch it again, or unpack it yourself")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    faults = []
    for url in archive.urls:
        fault = _download(url, part, archive, progress)
        if not fault and (fault := _fault(part, archive)):
            part.unlink()  # going on from there could never come right
        if not fault:
            part.replace(path)
            return path
        faults.append(f"{url}: {fault}")
    known = [f"{archive.bytes:,} bytes"] if archive.bytes else []
    known += [f"SHA-256 {archive.sha256}"] if archive.sha256 else []
    raise InputError(
        f"{archive.file} cannot be fetched ({'; '.join(faults)}); get it from there or elsewhere by other means, put it"
        f" at {path}{' (' + ', '.join(known) + ')' if known else ''} and run the same command again, or name another"
        " server with --mirror or FLOWCLIP_MIRROR"
    )


def _fault(path: Path, archive: Archive) -> str:
    size = path.stat().st_size
    if archive.bytes not in (None, size):
        return f"holds {size:,} bytes, expected {archive.bytes:,}"
    if archive.sha256 and (digest := sha256(path)) != archive.sha256:
        return f"its SHA-256 is {digest}, expected {archive.sha256}"
    return ""


def _download(url: str, part: Path, archive: Archive, progress: Progress | None) -> str:
    """Bring `part` to its full length; returns what is wrong, or nothing."""
    import requests  # here: it takes a while, and few commands fetch

    idle, best, fault = 0, 0, ""
    while idle < TRIES:
        if idle:
            time.sleep(PAUSE * 2 ** (idle - 1))
        idle += 1
        start = part.stat().st_size if archive.sha256 and part.exists() else 0
        if start and start == archive.bytes:
            return ""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                range_ = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+)", answer.headers.get("Content-Range", ""))
                if answer.status_code == 416 or (answer.status_code == 206 and (not range_ or range_[1] != str(start))):
                    if range_ and int(range_[2]) == start:
                        return ""  # all of it was there
                    part.unlink(missing_ok=True)
                    fault = "the server cannot continue the file"
                    continue
                if answer.status_code not in (200, 206):
                    fault = f"{answer.status_code} {answer.reason}"
                    if answer.status_code in (429, 500, 502, 503, 504):
                        continue
                    return fault
                at = start if answer.status_code == 206 else 0  # 200: a server that starts anew
                length = answer.headers.get("Content-Length", "")
                total = at + int(length) if length.isdigit() else archive.bytes
                if archive.bytes not in (None, total):
                    return f"holds {total:,} bytes, expected {archive.bytes:,}"
                if total and total - at > (free := shutil.disk_usage(part.parent).free):
                    raise InputError(f"{part.parent}: {archive.file} needs {total - at:,} bytes, {free:,} are free")
                done = at
                with part.open("ab" if at else "wb") as file:
                    for block in answer.iter_content(1 << 16):
                        file.write(block)
                        done += len(block)
                        if progress:
                            progress(archive.file, done, total)
                if total in (None, done):
                    return ""
                fault = f"ended after {done:,} of {total:,} bytes"
        except requests.RequestException as error:
            fault = f"the connection failed ({type(error).__name__})"
        size = part.stat().st_size if part.exists() else 0
        if size > best:
            idle, best = 0, size  # it went on
    return fault


# --- unpacking ------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    name: str
    kind: str  # file, folder, or what makes it unwelcome
    size: int


def unpack(path: str | Path, folder: str | Path, nested: bool = True) -> None:
    """Unpack a zip, tar (.gz, .bz2, .xz) or rar file into `folder`, and rar files that lie in a rar (HMDB-51).

    Everything is written to a hidden folder inside `folder` first and moved when all of it is there; files that are
    in `folder` already are kept. Links, devices, absolute paths, drive letters and «..» are refused before anything is
    written, and looked for again before the move. Raises InputError (one line) for these, for a damaged archive, too
    small a disk, and where a rar file meets no tool.
    """
    path, folder = Path(path).absolute(), Path(folder)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an archive (zip, tar or rar)")
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=".unpack-"))
    try:
        with path.open("rb") as file:
            begin = file.read(4)
        if begin == b"Rar!":
            entries = _unrar(path, new)
        else:
            try:
                entries = _unzip(path, new) if begin[:2] == b"PK" else _untar(path, new)
            except InputError:
                raise
            except (*_DAMAGE, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                why = " ".join(str(error).split())[:60]
                raise InputError(
                    f"{path.name}: damaged, or no archive ({why}); delete it and fetch it again"
                ) from error
        sizes = Counter({entry.name: entry.size for entry in entries if entry.kind == "file"}.values())
        if sizes != Counter(_sizes(path, new)):
            raise InputError(f"{path.name}: did not unpack to the {sizes.total()} files it lists; fetch it again")
        for inner in sorted(new.rglob("*.rar")) if nested and begin == b"Rar!" else ():
            unpack(inner, inner.parent, nested=False)
            inner.unlink()
        _move(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError,
    RuntimeError, ValueError, struct.error,
)  # fmt: skip


def _check(path: Path, entries: Sequence[_Entry], folder: Path) -> None:
    for name, kind, _ in entries:
        fault = ""
        if kind not in ("file", "folder"):
            fault = f"is a {kind}"
        elif name[:1] in ("/", "\\") or re.match("[A-Za-z]:", name):
            fault = "is an absolute path"
        elif ".." in name.replace("\\", "/").split("/"):
            fault = "leads out of its folder"
        if fault:
            raise InputError(f"{path.name}: entry {name!r} {fault}; nothing was unpacked, do not use this archive")
    need, free = sum(entry.size for entry in entries), shutil.disk_usage(folder).free
    if need > free:
        raise InputError(f"{path.name}: unpacks to {need:,} bytes, {free:,} are free at {folder.parent}")


def _unzip(path: Path, folder: Path) -> list[_Entry]:
    with zipfile.ZipFile(path) as archive:
        entries = []
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            plain = "folder" if info.is_dir() else "file"
            unwelcome = "link" if kind == stat.S_IFLNK else "special file"
            fine = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            entries.append(_Entry(info.filename, plain if fine else unwelcome, info.file_size))
        _check(path, entries, folder)
        archive.extractall(folder)
    return entries


def _untar(path: Path, folder: Path) -> list[_Entry]:
    with tarfile.open(path) as archive:
        entries = []
        for member in archive.getmembers():
            kind = "link" if member.issym() or member.islnk() else "special file"
            kind = "file" if member.isreg() else "folder" if member.isdir() else kind
            entries.append(_Entry(member.name, kind, member.size))
        _check(path, entries, folder)
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(512) != bytes(512):  # tarfile takes a cut or a broken header for the end
            raise tarfile.ReadError("it ends too early")
        while archive.fileobj.read(1 << 20):
            pass  # to the checksum at the end of a .gz
        archive.extractall(folder, filter="data")
    return entries


def _listed_by_unrar(text: str) -> list[_Entry]:
    entries = []
    for key, value in re.findall(r"^ *(Name|Type|Size): (.*)$", text, re.MULTILINE):
        if key == "Name":
            entries.append(_Entry(value, "entry of no kind", 0))
        elif key == "Type":
            kind = {"File": "file", "Directory": "folder"}.get(value, value)
            entries[-1] = entries[-1]._replace(kind=kind)
        else:
            entries[-1] = entries[-1]._replace(size=int(value))
    return entries


def _listed_by_lsar(text: str) -> list[_Entry]:
    entries = []
    for item in json.loads(text)["lsarContents"]:
        marks = [key[5:].lower() for key, value in item.items() if key.startswith("XADIs") and value]
        kind = "folder" if marks == ["directory"] else marks[0] + " entry" if marks else "file"
        entries.append(_Entry(str(item["XADFileName"]), kind, int(item.get("XADFileSize", 0))))
    return entries


def _listed_by_bsdtar(text: str) -> list[_Entry]:
    kinds = {"-": "file", "d": "folder", "l": "link", "h": "link"}
    lines = re.findall(r"^(.)\S+ +\S+ +\S+ +\S+ +(\d+) (?:\S+ +){2}\S+ (.*)$", text, re.MULTILINE)
    return [_Entry(name, kinds.get(letter, "special file"), int(size)) for letter, size, name in lines]


# By tool: what lists, what reads the list, what unpacks. bsdtar comes last: it does not notice a wrong checksum inside.
_RAR = {
    "unrar": (["unrar", "vt", "-p-"], _listed_by_unrar, ["unrar", "x", "-p-", "-y", "{path}", "{folder}/"]),
    "unar": (
        ["lsar", "-j"],
        _listed_by_lsar,
        ["unar", "-quiet", "-no-directory", "-force-overwrite", "-output-directory", "{folder}", "{path}"],
    ),
    "bsdtar": (["bsdtar", "-tvf"], _listed_by_bsdtar, ["bsdtar", "-x", "-o", "-f", "{path}", "-C", "{folder}"]),
}


def rar_tools() -> list[str]:
    """The programs on the PATH that unpack rar files, best first. Raises InputError where there is none.

    unrar-free, which some systems install under the name unrar, cannot list what a file holds and is passed over.
    """
    found = [tool for tool, (listing, _, work) in _RAR.items() if shutil.which(listing[0]) and shutil.which(work[0])]
    if "unrar" in found and "Roshal" not in _run(["unrar"]).stdout:
        found.remove("unrar")
    if not found:
        raise InputError("no program for rar files: install unar (or unrar, not unrar-free; or bsdtar), then try again")
    return found


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="surrogateescape", env=os.environ | {"LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def _unrar(path: Path, folder: Path) -> list[_Entry]:
    faults = []
    for tool in rar_tools():
        listing, read, work = _RAR[tool]
        done = _run([*listing, str(path)])
        entries = read(done.stdout) if done.returncode == 0 else []
        if entries:
            _check(path, entries, folder)
            done = _run([word.format(path=path, folder=folder) for word in work])
            if done.returncode == 0:
                return entries
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        faults.append(f"{tool}: {' '.join(done.stdout.split())[-120:] or 'lists nothing'}")
    raise InputError(f"{path.name}: damaged, or not readable ({'; '.join(faults)}); delete it and fetch it again")


def _sizes(path: Path, folder: Path) -> Iterator[int]:
    """Bytes of the files below `folder`. Raises InputError for anything that is neither file nor folder."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            found = (Path(place) / name).lstat()
            if not stat.S_ISDIR(found.st_mode) and (not stat.S_ISREG(found.st_mode) or found.st_nlink > 1):
                raise InputError(f"{path.name}: {name!r} unpacked to a link or a special file; nothing was kept")
            if stat.S_ISREG(found.st_mode):
                yield found.st_size


def _move(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            _move(path, target)
        elif not os.path.lexists(target):
            path.rename(target)


# --- looking at what is there ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What of a data set is on the disk.

    classes: how many of the lists' classes have a video. splits: (train, test) by split, each (videos found, videos
    listed). files: videos found and videos named by any list, unused ones of HMDB-51 too. missing: needed by a split
    and not there. repeated: listed twice in one list. overlap: in train and test of a split. unlisted: on the disk and
    in no list. same_name: videos whose file names are equal. unreadable (name, why) and same_content: None unless each
    file was opened.
    """

    name: str
    folder: Path
    classes: int
    splits: dict[int, tuple[tuple[int, int], tuple[int, int]]]
    files: tuple[int, int]
    missing: tuple[str, ...]
    repeated: tuple[str, ...]
    overlap: dict[int, tuple[str, ...]]
    unlisted: tuple[str, ...]
    same_name: tuple[tuple[str, ...], ...]
    unreadable: tuple[tuple[str, str], ...] | None = None
    same_content: tuple[tuple[str, ...], ...] | None = None
    terms: bool = True  # text() ends with licence and citation

    @property
    def complete(self) -> bool:
        """The official classes and counts, all there, nothing listed twice or in train and test, nothing unreadable."""
        facts = FACTS[self.name]
        lists = {number: tuple(listed for _, listed in parts) for number, parts in self.splits.items()}
        wrong = self.missing or self.repeated or any(self.overlap.values()) or self.unreadable
        return not wrong and self.classes == facts.classes and lists == (facts.splits or lists)

    def text(self, names: int | None = 2) -> str:
        """The report, 100 columns wide; `names` of each list of names, None for all of them."""
        facts = FACTS[self.name]
        rows = [
            f"{self.name}  {self.folder}",
            f"classes       {self.classes:>9,} of {facts.classes:>9,}",
            f"videos        {self.files[0]:>9,} of {self.files[1]:>9,} in the lists",
        ]
        for number, parts in self.splits.items():
            wanted = facts.splits.get(number, (parts[0][1], parts[1][1]))
            row = f"split {number:<7}"
            for what, (found, _), want in zip(("training", "test"), parts, wanted, strict=True):
                row += f" {found:>9,} of {want:>9,} {what}  "
            rows.append(f"{row} {len(self.overlap[number]):,} in both")
            if (listed := (parts[0][1], parts[1][1])) != wanted:
                rows.append(f"              its lists have {listed[0]:,} and {listed[1]:,}: not the official ones")
        if lost := set(facts.splits) - set(self.splits):
            rows.append(f"no lists      of split {', '.join(map(str, sorted(lost)))}")
        unreadable = None if self.unreadable is None else [f"{name}: {why}" for name, why in self.unreadable]
        for what, found in (
            ("missing", self.missing),
            ("unreadable", unreadable),
            ("listed twice", self.repeated),
            ("in both", [name for overlap in self.overlap.values() for name in overlap]),
            ("in no list", self.unlisted),
            ("same name", [" = ".join(group) for group in self.same_name]),
            ("same content", None if self.same_content is None else [" = ".join(group) for group in self.same_content]),
        ):
            row = f"{what:<14}" + ("not looked at" if found is None else f"{len(found):>9,}")
            if found and names is not None:
                row += "   " + ", ".join([*found[:names], *["..."] * (len(found) > names)])
                row = row if len(row) <= 100 else row[:97] + "..."
            rows += [row, *([f"    {name}" for name in found or ()] if names is None else ())]
        rows.append(f"complete      {'yes' if self.complete else 'no'}")
        return "\n".join(rows + ([f"licence       {facts.licence}", f"cite          {facts.citation}"] * self.terms))


def inspect(
    name: str, folder: str | Path, open_all: bool = False, jobs: int | None = None, progress: Progress | None = None
) -> Report:
    """Compare lists and disk. `open_all` decodes and hashes each video too, on `jobs` threads (all cores).

    Raises InputError when the lists or the folders of videos are not there, or a list cannot be read.
    """
    sources(name)
    folder = Path(folder)
    place, classes, lists = datasets._READERS[name](folder)
    needed = {video.name for parts in lists.values() for part in parts for video in part}
    named = needed | (_unused(folder, classes) if name == "hmdb51" else set())
    if name == "kinetics400":
        there = [f"{part}/{video}" for part in ("train", "val") for video in datasets._videos(place / part, depth=1)]
    else:
        there = [video for video in datasets._videos(place, depth=1) if "/" in video]
    found = set(there)
    splits, overlap, repeated = {}, {}, []
    for number, parts in sorted(lists.items()):
        splits[number] = tuple((sum(video.name in found for video in part), len(part)) for part in parts)
        train, test = ([video.name for video in part] for part in parts)
        overlap[number] = tuple(sorted({*train} & {*test}))
        repeated += [video for part in (train, test) for video, count in Counter(part).items() if count > 1]
    label = {video.name: video.label for parts in lists.values() for part in parts for video in part}
    report = Report(
        name,
        folder,
        len({label[video] for video in needed & found}),
        splits,
        (len(named & found), len(named)),
        tuple(sorted(needed - found)),
        tuple(sorted(set(repeated))),
        overlap,
        tuple(sorted(found - named)),
        _alike((PurePosixPath(video).name.casefold(), video) for video in there),
    )
    if not open_all:
        return report
    hashes, unreadable = [], []
    threads = ThreadPoolExecutor(jobs or default_jobs())
    try:
        looks = threads.map(_look, [place / video for video in there])
        for done, (video, (digest, fault)) in enumerate(zip(there, looks, strict=True), 1):
            hashes.append((digest, video))
            unreadable += [(video, fault)] if fault else []
            if progress:
                progress("opening", done, len(there))
    finally:
        threads.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return replace(report, unreadable=tuple(unreadable), same_content=_alike(pair for pair in hashes if pair[0]))


def _look(path: Path) -> tuple[str, str]:
    """(SHA-256, why it cannot be read): the same reading as for features, so the same verdict."""
    from flowclip_core.data.video import read_frames

    try:
        digest = sha256(path)
        read_frames(path, lambda count: [0])
    except VideoError as error:
        return digest, str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return "", str(error.strerror)
    return digest, ""


def _unused(folder: Path, classes: Sequence[str]) -> set[str]:
    """All videos that HMDB-51's lists name, those with code 0 in each split too."""
    names = set()
    for file in (folder / _LISTS["hmdb51"][0]).glob("*_test_split*.txt"):
        inside = file.name.rpartition("_test_split")[0]
        names |= {f"{inside}/{line.rpartition(' ')[0].strip()}" for _, line in datasets._lines(file)}
    return names


def _alike(pairs: Iterator[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    groups = defaultdict(list)
    for key, name in pairs:
        groups[key].append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


# --- all of it ------------------------------------------------------------------------------------------------


def _tell(line: str) -> None:
    print(f"reproduce.sh: {line}", file=sys.stderr)


def home(name: str, root: Path) -> Path:
    """Where a data set lies or belongs below the user's data folder: <root>/<name>, or <root> where that is it already.

    Raises InputError for an unknown name.
    """
    if name not in FACTS:
        raise InputError(f"data set {name!r} is unknown; use {', '.join(FACTS)}")
    inside, marks = root / name, list(_LISTS[name])
    if name != "kinetics400":
        marks += ["UCF-101" if name == "ucf101" else "videos", *_class_folders(name)]
    return inside if inside.is_dir() or not any((root / mark).exists() for mark in marks) else root


def prepare(
    name: str,
    folder: str | Path,
    mirror: str | None = None,
    open_all: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
    say: Say = _tell,
) -> Report:
    """Make data set `name` complete in `folder` and report on it; what is complete is only looked at.

    Class folders and lists that lie elsewhere in `folder`, up to two levels deep, are linked and copied to where
    `datasets.load` looks. Archives are taken from `folder` or beside it where they are there, else fetched. `say` gets
    a line about each thing before it is done. Raises InputError as `fetch`, `unpack` and `inspect` do, and when
    another command works on the same folder.
    """
    folder = Path(folder)
    archives = sources(name, mirror)
    if not _lacking(name, folder):
        return inspect(name, folder, open_all, jobs, progress)
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".flowclip-data.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise InputError(f"{folder}: another command is preparing it; wait for that one") from None
    told = False
    try:
        for left in (*folder.glob(".unpack-*"), *folder.glob("videos/.unpack-*")):
            shutil.rmtree(left)  # from a command that was killed
        _arrange(name, folder)
        for archive in archives:
            if archive.what not in _lacking(name, folder):
                continue
            if not told:
                say(f"{name}: licence {FACTS[name].licence}; please cite {FACTS[name].citation}")
                told = True
            if archive.file.endswith(".rar"):
                rar_tools()  # before gigabytes come in, not after
            places = (folder / archive.file, folder.absolute().parent / archive.file)
            path = next((place for place in places if place.is_file()), places[0])
            if not path.exists():
                size = f", {archive.bytes:,} bytes" if archive.bytes else ""
                say(f"fetching {archive.what}{size}: {archive.urls[0]} -> {path}")
            fetch(archive, path.parent, progress)
            if not archive.file.endswith(".csv"):
                say(f"unpacking {path}")
                unpack(path, _videos_of(name, folder) if archive.file == "hmdb51_org.rar" else folder)
                _arrange(name, folder)
    finally:
        lock.release()
    if name == "kinetics400" and not all((folder / part).is_dir() for part in ("train", "val")):
        raise InputError(f"{folder}: the lists are there; {by_hand(folder)}")
    return replace(inspect(name, folder, open_all, jobs, progress), terms=not told)


def _lacking(name: str, folder: Path) -> list[str]:
    """What would have to be brought in: `what` of archives, or "videos" that no archive here has."""
    archives = FACTS[name].archives
    there, videos = [folder / part for part in _LISTS[name]], archives[-1].what
    if name == "kinetics400":
        lacking = [archive.what for archive, file in zip(archives, there, strict=True) if not file.is_file()]
        return lacking + ["videos"] * (not all((folder / part).is_dir() for part in ("train", "val")))
    if not there[0].is_dir():
        whole = all(_holds_videos(_videos_of(name, folder) / inside) for inside in _class_folders(name))
        return [archives[0].what] + [videos] * (not whole)
    if not _videos_of(name, folder).is_dir():
        return [videos]
    return [videos] * bool(inspect(name, folder).missing)


def _videos_of(name: str, folder: Path) -> Path:
    """Where the class folders of HMDB-51 or UCF-101 are, or belong."""
    if name == "ucf101":
        return folder / "UCF-101"
    direct = any(_holds_videos(folder / inside) for inside in _class_folders(name))
    return folder if direct and not (folder / "videos").is_dir() else folder / "videos"


def _class_folders(name: str) -> list[str]:
    role, joint = {"hmdb51": ("HMDB-51", "_"), "ucf101": ("UCF-101", "")}[name]
    return [text.replace(" ", joint) for text in CLASSES[role]]


def _holds_videos(folder: Path) -> bool:
    return folder.is_dir() and any(datasets._videos(folder))


def _places(folder: Path, skip: set[str], depth: int = 2) -> Iterator[Path]:
    yield folder
    for path in sorted(folder.iterdir()) if depth else ():
        if path.is_dir() and path.name not in skip and not path.name.startswith("."):
            yield from _places(path, skip, depth - 1)


def _arrange(name: str, folder: Path) -> None:
    """Link class folders and copy lists that lie elsewhere in `folder` to where the reader looks for them."""
    if name == "kinetics400":
        places = list(_places(folder, {"train", "val"}))
        for part, others in (("train", ("train",)), ("val", ("val", "validate"))):
            for kind in ("videos_{}", "{}_videos", "{}_video", "{}_256"):
                _link((place / kind.format(part) for place in places), folder / part)
            for kind in ("{}.csv", "kinetics_{}.csv", "kinetics400_{}.csv", "k400_{}.csv"):
                for file in (place / kind.format(other) for place in places for other in others):
                    if file.is_file() and not (folder / f"{part}.csv").exists():
                        _copy([file], folder / f"{part}.csv")
        return
    classes = _class_folders(name)
    places = list(_places(folder, {*classes}))
    lists = folder / _LISTS[name][0]
    for place in places:
        first = place / ("classInd.txt" if name == "ucf101" else f"{classes[0]}_test_split1.txt")
        if first.is_file() and not lists.exists():
            _copy(sorted(place.glob("*.txt" if name == "ucf101" else "*_test_split*.txt")), lists)
    videos = _videos_of(name, folder)
    for inside in classes:
        if not (videos / inside).exists():
            _link((place / inside for place in places if _holds_videos(place / inside)), videos / inside)


def _link(candidates: Iterator[Path], target: Path) -> None:
    for source in candidates:
        if source.is_dir() and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.symlink_to(os.path.relpath(source, target.parent), target_is_directory=True)
            except OSError as error:
                raise InputError(f"{source}: cannot be linked to {target} ({error.strerror}); move it there") from error


def _copy(files: Sequence[Path], target: Path) -> None:
    """One file to a file, several to a folder; the target appears when it is whole."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpack-") as new:
        whole = Path(new) / target.name
        if target.suffix:
            shutil.copyfile(files[0], whole)
        else:
            whole.mkdir()
            for file in files:
                shutil.copyfile(file, whole / file.name)
        whole.rename(target)


# --- published few-shot lists ---------------------------------------------------------------------------------


def read_list(file: str | Path, dataset: Dataset, say: Say = _tell) -> tuple[Video, ...]:
    """Training videos of split 1 that a published list names, in its order.

    Lines are «<video>.avi <label>» (a number from 0 or a class; ViFi-CLIP) or «<class folder>/<video>» without
    extension (Ju et al.). The class is that of the video, as the data set has it: labels of lists in use are swapped
    for four classes of HMDB-51. How many labels say otherwise is said in one line. Raises InputError with the number
    of the line for a video that is unknown, not on the disk, a test video, unused in split 1 or listed twice.
    """
    train, test = dataset.splits[1]
    index = defaultdict(set)
    used = {video.name: video for video in (*train, *test)}
    others = {video.name for split in dataset.splits.values() for part in split for video in part} - used.keys()
    for name in (*used, *others, *dataset.missing):
        bare = name.removesuffix(PurePosixPath(name).suffix)
        stem = bare.rpartition("/")[2]
        for key in {name, bare, stem, re.sub(r"_\d{6}_\d{6}$", "", stem)}:
            index[key].add(name)
    in_train, in_test = {video.name for video in train}, {video.name for video in test}
    chosen: dict[str, Video] = {}
    swapped, labelled = set(), 0
    count = 0
    for place, line in datasets._lines(Path(file)):
        words, _, label = line.rpartition(" ")
        names, given = set(), None
        for text, said in ((line, None), (words.strip(), label)):
            bare = text.removesuffix(next((end for end in datasets.EXTENSIONS if text.lower().endswith(end)), ""))
            inside, _, stem = bare.rpartition("/")
            if names := index.get(text) or index.get(bare) or index.get(stem) or set():
                given = said if said is not None else PurePosixPath(inside).name or None
                break
        if len(names) != 1:
            what = "is the name of several videos" if names else "is no video of the data set"
            raise InputError(f"{place}: {line!r} {what} {dataset.name}")
        name = names.pop()
        fault = "is listed twice" if name in chosen else ""
        if name not in in_train:
            fault = "is a test video of split 1" if name in in_test else "is not used in split 1"
            fault = "is not on the disk" if name in dataset.missing else fault
        if fault:
            raise InputError(f"{place}: {name} {fault}; expected training videos of split 1, each once")
        video = chosen[name] = used[name]
        if given is not None:
            labelled += 1
            right = given in (str(video.label), dataset.classes[video.label])
            if not right and class_text(given).casefold() != dataset.texts[video.label].casefold():
                swapped.add(dataset.classes[video.label])
                count += 1
    if not chosen:
        raise InputError(f"{file}: names no video")
    if count:
        few = ", ".join(sorted(swapped)[:4]) + (", ..." if len(swapped) > 4 else "")
        say(f"{file}: {count} of {labelled} labels are not those of their videos' folders ({few}); the folders count")
    return tuple(chosen.values())
