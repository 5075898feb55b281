"""The paper's data sets on the disk: fetched, unpacked, arranged as `formats.load` reads them, and counted.

What the user already has is used as it is: linked or copied into place, never moved, overwritten or deleted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from flowclip_core.errors import InputError, VideoError, notice
from flowclip_core.files import sha256
from flowclip_kit.datasets.archives import Archive, Progress, fetch, rar_tools, unpack
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.datasets.disk import videos_in
from flowclip_kit.datasets.layouts import Say, lines_of, read_lists
from flowclip_kit.distributed.locks import Lock
from flowclip_kit.distributed.process_pool import default_jobs


class Facts(NamedTuple):
    """What is known of a data set; videos: in all; splits: (train, test) by number."""

    classes: int
    videos: int
    splits: dict[int, tuple[int, int]]  # empty: the copies in use differ, their own lists decide
    archives: tuple[Archive, ...]
    licence: str
    citation: str
    copy: tuple[int, int] = (0, 0)  # (train, test) of a copy in use, where there are no official counts

    @property
    def expected(self) -> dict[int, tuple[int, int]]:
        """Videos of (train, test) by split, of a copy in use where nothing else is known."""
        return self.splits or {1: self.copy}


# Addresses: mmaction2, tools/data/*/download_*.sh, and cvdfoundation/kinetics-dataset, k400_downloader.sh.
# SHA-256 of the rar files: torchvision's loaders (pytorch/vision, pull request 5335); of the zip:
# tensorflow/datasets, url_checksums, and torchvision. Bytes of UCF101.rar: what its server announces; of the
# others no source states them. Counts: the official lists (HMDB-51: 70 + 30 a class in each split), and what
# is left of Kinetics-400 in a copy in use. Licences: the data sets' cards on the hub.
_CVDF = "https://s3.amazonaws.com/kinetics/400/"


def _at(file: str, *folders: str, what: str, bytes: int | None = None, sha256: str | None = None) -> Archive:
    return Archive(file, tuple(f"https://{folder}/{file}" for folder in folders), what, bytes, sha256)


FACTS = {
    "hmdb51": Facts(
        51,
        6766,
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
        13320,
        {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)},
        (
            _at(
                "UCF101TrainTestSplits-RecognitionTask.zip",
                "www.crcv.ucf.edu/data/UCF101", "www.crcv.ucf.edu/wp-content/uploads/2019/03",
                what="split lists", bytes=113_943,
                sha256="5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            ),
            _at(
                "UCF101.rar",
                "www.crcv.ucf.edu/data/UCF101", "www.crcv.ucf.edu/datasets/human-actions/ucf101",
                what="13,320 videos", bytes=6_932_971_618,
                sha256="ca8dfadb4c891cb11316f94d52b6b0ac2a11994e67a0cae227180cd160bd8e55",
            ),
        ),
        "none is stated; the authors offer it for research",
        "Soomro, Zamir and Shah, UCF101: A Dataset of 101 Human Actions Classes, arXiv:1212.0402, 2012",
    ),
    "kinetics400": Facts(
        400,
        260325,
        {},
        tuple(
            _at(f"{part}.csv", "s3.amazonaws.com/kinetics/400/annotations", what=f"list of the {part} videos")
            for part in ("train", "val")
        ),
        "CC BY 4.0 for the lists; the videos remain their owners'",
        "Kay et al., The Kinetics Human Action Video Dataset, arXiv:1705.06950, 2017",
        copy=(240_436, 19_889),
    ),
}  # fmt: skip
# What holds the lists when they are in place.
_LISTS = {
    "hmdb51": ("testTrainMulti_7030_splits",),
    "ucf101": ("ucfTrainTestlist",),
    "kinetics400": ("train.csv", "val.csv"),
}


def sources(name: str, mirror: str | None = None) -> list[Archive]:
    """The archives of a data set, the lists first.

    `mirror` (or $FLOWCLIP_MIRROR), like https://host/folder, replaces the hosts: tried with the official path
    behind it, then with the file alone. Kinetics-400 has only its lists: its videos come as hundreds of
    archives, see `by_hand`. Raises InputError for another name and for a mirror that is no such URL.
    """
    if name not in FACTS:
        raise InputError(f"data set {name!r}: expected one of {', '.join(FACTS)}")
    archives = list(FACTS[name].archives)
    if not (mirror := mirror or os.environ.get("FLOWCLIP_MIRROR")):
        return archives
    if urlsplit(mirror).scheme not in ("http", "https"):
        raise InputError(f"mirror {mirror!r}: expected an address like https://host/folder")
    mirror = mirror.rstrip("/")
    return [
        archive._replace(
            urls=(*(mirror + urlsplit(url).path for url in archive.urls), f"{mirror}/{archive.file}")
        )
        for archive in archives
    ]


def by_hand(folder: Path) -> str:
    """How Kinetics-400's videos get into `folder`: one line."""
    return (
        "the videos of Kinetics-400 are not fetched by this command (436 GB in hundreds of archives):"
        f" {_CVDF}train/k400_train_path.txt and {_CVDF}val/k400_val_path.txt list them,"
        f" {_CVDF}replacement_for_corrupted_k400.tgz holds 1,393 better copies; unpack them to"
        f" {folder / 'train'} and {folder / 'val'}, with or without class folders, then run this command"
        " again"
    )


# --- looking at what is there ---


@dataclass(frozen=True)
class Report:
    """What of a data set is on the disk.

    classes: how many of the lists' classes have a video. splits: (train, test) by number, each (videos on the
    disk, videos listed). files: videos on the disk and videos named by any list, unused ones of HMDB-51 too.
    missing: needed by a split but not there. repeated: twice in one list. overlap: in train and test of a
    split. unlisted: on the disk but in no list. same_name: videos with equal file names. unreadable (name,
    why) and same_content: None unless every file was opened.
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
        """The official classes and counts; nothing missing, unreadable, listed twice or in train and test."""
        facts = FACTS[self.name]
        lists = {number: (train[1], test[1]) for number, (train, test) in self.splits.items()}
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
        for number, (train, test) in self.splits.items():
            listed = train[1], test[1]
            wanted = facts.splits.get(number, listed)
            rows.append(
                f"split {number:<7} {train[0]:>9,} of {wanted[0]:>9,} training   {test[0]:>9,} of"
                f" {wanted[1]:>9,} test   {len(self.overlap[number]):,} in both"
            )
            if listed != wanted:
                rows.append(
                    f"              its lists have {listed[0]:,} and {listed[1]:,}: not the official ones"
                )
        if lost := set(facts.splits) - set(self.splits):
            rows.append(f"no lists      of split {', '.join(map(str, sorted(lost)))}")
        for what, entries in (
            ("missing", self.missing),
            ("unreadable", self.unreadable),
            ("listed twice", self.repeated),
            ("in both", [name for overlap in self.overlap.values() for name in overlap]),
            ("in no list", self.unlisted),
            ("same name", self.same_name),
            ("same content", self.same_content),
        ):
            if entries is None:
                rows.append(f"{what:<14}not checked")
                continue
            joint = ": " if what == "unreadable" else " = "
            lines = [entry if isinstance(entry, str) else joint.join(entry) for entry in entries]
            row = f"{what:<14}{len(lines):>9,}"
            if lines and names is not None:
                row += "   " + ", ".join([*lines[:names], *["..."] * (len(lines) > names)])
                row = row if len(row) <= 100 else row[:97] + "..."
            rows += [row, *([f"    {line}" for line in lines] if names is None else ())]
        rows.append(f"complete      {'yes' if self.complete else 'no'}")
        terms = [f"licence       {facts.licence}", f"cite          {facts.citation}"]
        return "\n".join(rows + terms * self.terms)


def inspect(
    name: str,
    folder: str | Path,
    open_all: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare lists and disk. `open_all` decodes and hashes each video too, on `jobs` threads (all cores).

    Raises InputError when the lists or the folders of videos are not there, or a list cannot be read.
    """
    sources(name)
    folder = Path(folder)
    lists = read_lists(name, folder)
    labels = lists.labels()
    listed = labels.keys() | (_unused(folder, lists.classes) if name == "hmdb51" else set())
    files = _videos(name, lists.folder)
    present = set(files)
    splits, overlap, repeated = {}, {}, set()
    for number, parts in sorted(lists.splits.items()):
        train, test = ([video.name for video in part] for part in parts)
        there = [sum(video in present for video in part) for part in (train, test)]
        splits[number] = (there[0], len(train)), (there[1], len(test))
        overlap[number] = tuple(sorted({*train} & {*test}))
        repeated |= {video for part in (train, test) for video, count in Counter(part).items() if count > 1}
    report = Report(
        name,
        folder,
        classes=len({labels[video] for video in labels.keys() & present}),
        splits=splits,
        files=(len(listed & present), len(listed)),
        missing=tuple(sorted(labels.keys() - present)),
        repeated=tuple(sorted(repeated)),
        overlap=overlap,
        unlisted=tuple(sorted(present - listed)),
        same_name=_alike((PurePosixPath(video).name.casefold(), video) for video in files),
    )
    if not open_all:
        return report
    hashes, unreadable = [], []
    threads = ThreadPoolExecutor(jobs or default_jobs())
    try:
        results = threads.map(_open, [lists.folder / video for video in files])
        for done, (video, (digest, fault)) in enumerate(zip(files, results, strict=True), 1):
            hashes += [(digest, video)] * bool(digest)
            unreadable += [(video, fault)] * bool(fault)
            if progress:
                progress("opening", done, len(files))
    finally:
        threads.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return replace(report, unreadable=tuple(unreadable), same_content=_alike(hashes))


def _open(path: Path) -> tuple[str, str]:
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


def _videos(name: str, folder: Path) -> list[str]:
    """The videos on the disk, by the names that lists give them."""
    if name != "kinetics400":
        return [video for video in videos_in(folder, depth=1) if "/" in video] if folder.is_dir() else []
    parts = [part for part in ("train", "val") if (folder / part).is_dir()]
    return [f"{part}/{video}" for part in parts for video in videos_in(folder / part, depth=2)]


def _unused(folder: Path, classes: Sequence[str]) -> set[str]:
    """All videos that HMDB-51's lists name, those with code 0 in each split too."""
    names = set()
    for file in (folder / _LISTS["hmdb51"][0]).glob("*_test_split*.txt"):
        label = file.name.rpartition("_test_split")[0]
        names |= {f"{label}/{line.rpartition(' ')[0].strip()}" for _, line in lines_of(file)}
    return names


def _alike(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """The groups of several names that share a key."""
    groups = defaultdict(list)
    for key, name in pairs:
        groups[key].append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


# --- the whole way ---


def home(name: str, root: Path) -> Path:
    """Where a data set lies or belongs below the user's data folder: <root>/<name>, or <root> if that is it
    already.

    Raises InputError for an unknown name.
    """
    if name not in FACTS:
        raise InputError(f"data set {name!r} is unknown; use {', '.join(FACTS)}")
    marks = list(_LISTS[name])
    if name != "kinetics400":
        marks += ["UCF-101" if name == "ucf101" else "videos", *_class_folders(name)]
    folder = root / name
    return root if not folder.is_dir() and any((root / mark).exists() for mark in marks) else folder


def prepare(
    name: str,
    folder: str | Path,
    mirror: str | None = None,
    open_all: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
    say: Say = notice,
) -> Report:
    """Make data set `name` complete in `folder` and report on it; a complete one is only looked at.

    Class folders and lists that lie elsewhere in `folder`, up to two levels deep, are linked and copied to
    where `formats.load` looks. Archives are taken from `folder` or its parent where they are there, else
    fetched. `say` gets a line about each step before it is done. Raises InputError as `fetch`, `unpack` and
    `inspect` do, where a rar file would be needed but no program reads it, and when another command works on
    the same folder.
    """
    folder = Path(folder)
    archives = sources(name, mirror)
    if not (lacking := _lacking(name, folder)):
        return inspect(name, folder, open_all, jobs, progress)
    if not folder.is_dir() and any(a.file.endswith(".rar") and a.what in lacking for a in archives):
        rar_tools()  # before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / ".flowclip-data.lock")
    if not lock.take():
        raise InputError(f"{folder}: another command is preparing it ({lock.held.holder}); wait for that one")
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
                unpack(path, _video_folder(name, folder) if archive.file == "hmdb51_org.rar" else folder)
                _arrange(name, folder)
    finally:
        lock.release()
    if name == "kinetics400" and not all((folder / part).is_dir() for part in ("train", "val")):
        raise InputError(f"{folder}: the lists are there; {by_hand(folder)}")
    return replace(inspect(name, folder, open_all, jobs, progress), terms=not told)


def shortage(name: str, folder: str | Path, names: int | None = 2) -> str:
    """What of a data set is on the disk and what is still needed; empty where nothing is.

    It only looks: nothing is written or fetched, and absent lists are no error. names: see `Report.text`.
    """
    folder = Path(folder)
    if not (lacking := _lacking(name, folder)):
        return ""
    facts = FACTS[name]
    try:
        rows = [replace(inspect(name, folder), terms=False).text(names)]
    except InputError:  # without lists or videos there is nothing to compare
        videos = _videos(name, folder if name == "kinetics400" else _video_folder(name, folder))
        lists = sum((folder / part).exists() for part in _LISTS[name])
        rows = [
            f"{name}  {folder}",
            f"videos        {len(videos):>9,} of {facts.videos:>9,}",
            f"lists         {lists:>9,} of {len(_LISTS[name]):>9,}",
        ]
    files = {archive.what: f" ({archive.file})" for archive in facts.archives}
    rows += [f"still needed  {what}{files.get(what, '')}" for what in lacking]
    return "\n".join(rows)


def _lacking(name: str, folder: Path) -> list[str]:
    """What is still needed: `what` of archives, or "videos" that no archive here has."""
    archives = FACTS[name].archives
    lists, videos = [folder / part for part in _LISTS[name]], archives[-1].what
    if name == "kinetics400":
        lacking = [archive.what for archive, file in zip(archives, lists, strict=True) if not file.is_file()]
        return lacking + ["videos"] * (not all((folder / part).is_dir() for part in ("train", "val")))
    place = _video_folder(name, folder)
    if not lists[0].is_dir():
        whole = all(_holds_videos(place / label) for label in _class_folders(name))
        return [archives[0].what] + [videos] * (not whole)
    return [videos] * (not place.is_dir() or bool(inspect(name, folder).missing))


def _video_folder(name: str, folder: Path) -> Path:
    """Where the class folders of HMDB-51 or UCF-101 are, or belong."""
    if name == "ucf101":
        return folder / "UCF-101"
    direct = any(_holds_videos(folder / label) for label in _class_folders(name))
    return folder if direct and not (folder / "videos").is_dir() else folder / "videos"


def _class_folders(name: str) -> list[str]:
    role, space = {"hmdb51": ("HMDB-51", "_"), "ucf101": ("UCF-101", "")}[name]
    return [text.replace(" ", space) for text in CLASSES[role]]


def _holds_videos(folder: Path) -> bool:
    return folder.is_dir() and any(videos_in(folder))


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
    videos = _video_folder(name, folder)
    for label in classes:
        if not (videos / label).exists():
            _link((place / label for place in places if _holds_videos(place / label)), videos / label)


def _link(candidates: Iterator[Path], target: Path) -> None:
    for source in candidates:
        if source.is_dir() and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.symlink_to(os.path.relpath(source, target.parent), target_is_directory=True)
            except OSError as error:
                raise InputError(
                    f"{source}: cannot be linked to {target} ({error.strerror}); move it there"
                ) from error


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
