"""The data sets as their authors publish them: one reader for each layout on disk, demo and real data alike.

A reader looks at names only and opens no video, so that a data set loads in a fraction of a second.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flowclip_core.data.labels import STYLES, caution, class_text
from flowclip_core.errors import InputError, notice
from flowclip_kit.class_texts import check_texts
from flowclip_kit.datasets.disk import (
    EXTENSIONS,
    check,
    difference,
    folded,
    is_junk,
    look,
    meant,
    some,
    spelt,
    videos_in,
)

__all__ = ["EXTENSIONS", "STYLES", "class_text", "videos_in"]  # where others look for them
TEST_SHARE = 0.3  # of a folder data set without lists
NAMED = 20  # files that one message names
_FETCH = "; ./reproduce.sh data {} --data-root DIR says what is missing, and fetches it"


class Video(NamedTuple):
    """`name`: path below the video folder, with forward slashes; `label`: index into the classes."""

    name: str
    label: int


class Split(NamedTuple):
    """Training and test videos, in the order of the official lists."""

    train: tuple[Video, ...]
    test: tuple[Video, ...]


@dataclass(frozen=True)
class Dataset:
    """A data set of K classes.

    folder: what the videos' names are relative to. classes: K official names. texts: their names in prompts.
    splits: by official number, from 1. pairs: labels (a, b) of classes that are each other run backwards.
    missing: names that the lists hold and the disk does not (empty unless loaded with missing="skip").
    """

    name: str
    folder: Path
    classes: tuple[str, ...]
    texts: tuple[str, ...]
    splits: dict[int, Split]
    pairs: tuple[tuple[int, int], ...] = ()
    missing: tuple[str, ...] = ()

    def fingerprint(self, split: int) -> str:
        """SHA-256 over class names, texts and the ordered lists of one split: what a result depends on."""
        train, test = self.splits[split]
        content = json.dumps([self.classes, self.texts, train, test])
        return hashlib.sha256(content.encode()).hexdigest()

    def untested(self, split: int) -> list[str]:
        """Classes without a test video: a score says nothing of them."""
        tested = {video.label for video in self.splits[split].test}
        return [name for label, name in enumerate(self.classes) if label not in tested]


# What a reader hands on: the video folder, the official class names, (train, test) by number of the split.
Lists = tuple[Path, list[str], dict[int, tuple[list[Video], list[Video]]]]
Say = Callable[[str], None]


def load(
    name: str, root: str | Path, missing: str = "error", class_names: str = "words", say: Say = notice
) -> Dataset:
    """Read the lists and folders of data set `name` below `root`.

    - hmdb51, figures-h: videos/<class>/<video>.avi (or the class folders directly below root), and
      testTrainMulti_7030_splits/<class>_test_split<n>.txt
    - ucf101, figures-u: UCF-101/<Class>/<video>.avi, and classInd.txt, trainlist0<n>.txt, testlist0<n>.txt in
      ucfTrainTestlist/
    - kinetics400, figures-k: train.csv, val.csv, and train/[<any folder>/]<youtube id>[_<start>_<end>].mp4
    (or
      another extension), val/ alike
    - folder: <class>/[<any folder>/]<video>, with train.csv and test.csv (header video,label; paths below
    root);
      or train/<class>/<video> and test/ (or val/) alike; or neither: then 30 % of each class, always the same
      ones, are for the test
    - any of them: time_reversed_pairs.csv (header a,b; official class names)

    Classes are in the order of classInd.txt, else alphabetical. Each has a training video in every split; no
    video is listed twice in one. A listed name that is not on the disk, and that one name there equals but
    for case, Unicode form, slashes, underscores or extension, means that one. missing="skip" drops listed
    videos that are not on the disk (Kinetics loses some every year) and keeps their names in
    `Dataset.missing`. All else raises InputError (one line), which names all files that cannot be a video.
    class_names: a style of `class_text`. say: gets a line on what is taken otherwise than it stands, or left
    out.
    """
    if missing not in ("error", "skip"):
        raise InputError(f"missing={missing!r}: expected 'error' or 'skip'")
    root = Path(root)
    folder, classes, lists = read_lists(name, root, say)
    texts = tuple(class_text(name, class_names) for name in classes)
    check_texts(classes, texts, str(root))
    listed = {video.name: video.label for parts in lists.values() for part in parts for video in part}
    absent, bad = check(folder, listed)
    if bad:
        raise InputError(
            f"{folder}: {len(bad)} of {len(listed)} videos cannot be read: {'; '.join(bad[:NAMED])}"
            f"{'; ...' * (len(bad) > NAMED)}; rename them or take them out"
        )
    if absent and missing == "error":
        raise InputError(f"{folder}: {_lost(folder, listed, absent)}")
    gone = set(absent)
    splits = {
        number: Split(*(tuple(video for video in part if video.name not in gone) for part in lists[number]))
        for number in sorted(lists)
    }
    for number, split in splits.items():
        try:
            _check_split(f"{root}: split {number}", split, classes)
        except InputError as error:
            raise InputError(f"{error}{_instead(folder, absent, listed)}") from None
    if said := caution(texts):
        say(f"{root}: {said}")
    dataset = Dataset(name, folder, tuple(classes), texts, splits, _pairs(root, classes), tuple(absent))
    for number in splits:
        if found := dataset.untested(number):
            where = f"{root}: split {number}"
            say(f"{where}: {len(found)} classes have no test video ({some(found)}), no score tells of them")
    return dataset


def read_lists(name: str, root: str | Path, say: Say = notice) -> Lists:
    """Of data set `name` the video folder, the class names and the lists (train, test) by number of the
    split.

    The layouts are those of `load`, and so is what a listed name may mean; videos that are not on the disk
    are listed too. Raises InputError (one line) for an unknown name, for lists that are absent or broken, and
    for listed names that several files fit.
    """
    if name not in _READERS:
        raise InputError(f"data set {name!r}: expected one of {', '.join(NAMES)}")
    _need_folder(Path(root), f"the data set {name}")
    folder, classes, lists = _READERS[name](Path(root), say)
    if _READERS[name] is _kinetics:  # goes by the video's identity, whatever else its name says
        return folder, classes, lists
    listed = dict.fromkeys(video.name for parts in lists.values() for part in parts for video in part)
    absent, _ = check(folder, listed)
    if not absent:
        return folder, classes, lists
    for video in absent:
        del listed[video]
    depth = max(name.replace("\\", "/").count("/") for name in absent)
    found = meant(absent, (name for name in videos_in(folder, depth) if name not in listed))
    if found.several:
        fits = "; ".join(f"{video} fits {some(several)}" for video, several in found.several[:3])
        raise InputError(
            f"{folder}: {len(found.several)} listed videos are not there and several files could be meant: {fits}; keep"
            " one of each, or list it"
        )
    if found.one:
        first = next(iter(found.one.items()))
        ways = dict.fromkeys(difference(*pair) for pair in found.one.items())
        say(
            f"{folder}: {len(found.one)} of {len(listed) + len(absent)} listed videos are there under a name that"
            f" differs in {', or '.join(ways)}, and are taken: {first[0]} is {first[1]}"
        )
    for parts in lists.values():
        for part in parts:
            part[:] = [video._replace(name=found.one.get(video.name, video.name)) for video in part]
    return folder, classes, lists


def few_shot(train: Sequence[Video], k: int, seed: int) -> tuple[int, ...]:
    """Indices into `train` of k videos of every class, class by class.

    Which ones depends on the seed and the videos' names alone, not on the order of the list. For one seed the
    draws are nested: k=4 holds the two of k=2, so that a larger k adds videos and exchanges none.
    Raises InputError naming a class with fewer than k videos.
    """
    if k < 1:
        raise InputError(f"k={k}: expected at least one training video per class")
    by_class = defaultdict(list)
    for index, video in enumerate(train):
        by_class[video.label].append(index)
    drawn = []
    for label in range(max(by_class, default=-1) + 1):
        indices = sorted(by_class[label], key=lambda index: _draw(seed, train[index].name))
        if len(indices) < k:
            of = f" ({PurePosixPath(train[indices[0]].name).parent.name})" if indices else ""
            raise InputError(f"class {label}{of} has {len(indices)} training videos, k={k} needs more")
        drawn += indices[:k]
    return tuple(drawn)


def hold_out(dataset: Dataset, seed: int, share: float = 1 / 3) -> Dataset:
    """Split 1 without its test videos: a seeded `share` of each class's training videos stands in their
    place.

    For choosing settings: what is chosen on these videos has not seen the test. Raises InputError when a
    class has too few videos to leave one on each side.
    """
    import numpy as np  # here, so that reading a data set needs no more than its lists

    kept: list[Video] = []
    held: list[Video] = []
    for label, name in enumerate(dataset.classes):
        own = [video for video in dataset.splits[1].train if video.label == label]
        order = np.random.default_rng([seed, label]).permutation(len(own))
        aside = int(len(own) * share)
        if not 0 < aside < len(own):
            raise InputError(
                f"class {name!r} has {len(own)} training videos: too few to set {share:.0%} aside"
            )
        held += [own[i] for i in order[:aside]]
        kept += [own[i] for i in order[aside:]]
    return replace(dataset, splits={1: Split(tuple(kept), tuple(held))})


def half_of_classes(dataset: Dataset, draw: int) -> list[int]:
    """Labels of half of the classes (rounded down), in order: number `draw` of a seeded series, as peers do
    it."""
    import numpy as np

    chosen = np.random.default_rng([draw]).permutation(len(dataset.classes))[: len(dataset.classes) // 2]
    return sorted(int(label) for label in chosen)


def _draw(seed: int | str, name: str) -> bytes:
    """A video's place in a seeded shuffle: unlike a generator's, the same in every version of a library."""
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def _hmdb(root: Path, say: Say) -> Lists:
    folder = root / "videos" if (root / "videos").is_dir() else root
    lists = root / "testTrainMulti_7030_splits"
    _need_folder(lists, f"the official lists <class>_test_split1.txt{_FETCH.format('hmdb51')}")
    found = [re.fullmatch(r"([^.].*)_test_split(\d+)\.txt", file.name) for file in lists.iterdir()]
    classes = sorted({match[1] for match in found if match})
    splits = {int(match[2]): ([], []) for match in found if match}
    if not splits:
        raise InputError(f"{lists}: holds no <class>_test_split1.txt; expected the official lists")
    for number, (train, test) in splits.items():
        for label, name in enumerate(classes):
            for place, line in lines_of(lists / f"{name}_test_split{number}.txt"):
                video, code = [*line.rsplit(None, 1), ""][:2]
                if code not in ("0", "1", "2"):
                    raise InputError(f"{place}: expected «<video>.avi» and 0, 1 or 2, got {line!r}")
                if code != "0":
                    (train if code == "1" else test).append(Video(f"{name}/{video}", label))
    return folder, classes, splits


def _ucf(root: Path, say: Say) -> Lists:
    folder, lists = root / "UCF-101", root / "ucfTrainTestlist"
    _need_folder(folder, f"one folder of videos per class{_FETCH.format('ucf101')}")
    _need_folder(lists, f"classInd.txt, trainlist01.txt and testlist01.txt{_FETCH.format('ucf101')}")
    classes = []
    for place, line in lines_of(lists / "classInd.txt"):
        number, name = [*line.split(None, 1), ""][:2]
        if number != str(len(classes) + 1) or not name:
            raise InputError(f"{place}: expected «{len(classes) + 1} <Class>», got {line!r}")
        classes.append(name)
    labels = _Labels(classes, "classInd.txt")
    found = [re.fullmatch(r"(?:train|test)list(\d+)\.txt", file.name) for file in lists.iterdir()]
    splits = {}
    # Without any list at all the error names the first that is expected.
    for number in {match[1] for match in found if match} or {"01"}:
        splits[int(number)] = ([], [])
        for kind, part in zip(("train", "test"), splits[int(number)], strict=True):
            for place, line in lines_of(lists / f"{kind}list{number}.txt"):
                video, code = re.fullmatch(r"(.+?)(?:\s+(\d+))?", line).groups()
                # The folder is the class: HandstandPushups holds files called v_HandStandPushups.
                inside, slash, _ = video.replace("\\", "/").partition("/")
                if not slash:
                    raise InputError(
                        f"{place}: expected «<Class>/<video>» and perhaps its number, got {line!r}"
                    )
                label = labels.of(inside, place)
                if code not in (None, str(label + 1)):
                    raise InputError(
                        f"{place}: {line!r} does not fit the classes of classInd.txt, where {classes[label]} is"
                        f" {label + 1} of 1 to {len(classes)}"
                    )
                part.append(Video(video, label))
    return folder, classes, splits


def _kinetics(root: Path, say: Say) -> Lists:
    parts, doubled = [], []
    for part in ("train", "val"):
        _need_folder(root / part, f"the videos of {part}.csv{_FETCH.format('kinetics400')}")
        # By file name: copies spell the folders differently (spaces, quotes, brackets), and convert.
        on_disk = defaultdict(list)
        for name in videos_in(root / part, depth=2):
            on_disk[PurePosixPath(name).stem].append(f"{part}/{name}")
        rows = _rows(root / f"{part}.csv", ("label", "youtube_id", "time_start", "time_end"))
        count = Counter(row["youtube_id"] for _, row in rows)
        named = []
        for place, row in rows:
            if row.get("split") == "test":
                continue  # some releases append the test rows, which have no label
            try:
                start, end = int(float(row["time_start"])), int(float(row["time_end"]))
            except ValueError:
                raise InputError(f"{place}: time_start and time_end must be seconds") from None
            identity, label = row["youtube_id"], row["label"]
            stem = f"{identity}_{start:06d}_{end:06d}"
            # Some copies have left the times out, which is clear where the list has one clip of that video.
            stems = (stem, identity) if count[identity] == 1 else (stem,)
            names = next(filter(None, map(on_disk.get, stems)), [f"{part}/{label}/{stem}.mp4"])
            if len(names) > 1:
                own = [name for name in names if folded(name.split("/")[1]) == folded(label)]
                names = own if len(own) == 1 else names
            doubled += [some(names)] * (len(names) > 1)
            named.append((place, names[0], label))
        parts.append(named)
    if doubled:
        raise InputError(
            f"{root}: {len(doubled)} listed videos are there more than once: {'; '.join(doubled[:3])}; keep one of each"
        )
    return root, *_labelled(*parts)


def _folder(root: Path, say: Say) -> Lists:
    if (root / "train.csv").exists() or (root / "test.csv").exists():
        parts = []
        for part in ("train", "test"):
            rows = _rows(root / f"{part}.csv", ("video", "label"))
            parts.append([(place, row["video"], row["label"]) for place, row in rows])
        return root, *_labelled(*parts)
    left = Left(root)
    folders = left.folders(root)
    by_name = {name.lower(): name for name in folders}
    others = [name for name in ("test", "val", "valid", "validation") if name in by_name]
    if "train" in by_name and others and len(by_name) == 1 + len(others):
        train, test = root / by_name["train"], root / by_name[others[0]]
        if not any(videos_in(train)) and left.folders(train):
            lists = _parts(root, train, test, left)
            left.say(say, [by_name[name] for name in others[1:]])
            return lists
    if len(folders) < 2:
        inner = [f"{name}, which holds {len(left.folders(root / name))} folders" for name in folders]
        hint = f" ({inner[0]}: if these are the classes, name it with --data-root)" if inner else ""
        raise InputError(f"{root}: holds {len(folders)} class folders{hint}; expected two or more")
    train, test = [], []
    for label, name in enumerate(folders):
        videos = left.videos(root / name)
        if len(videos) < 2:
            raise InputError(f"{root / name}: holds {len(videos)} videos ({_kinds()}); expected two or more")
        held_out = sorted(videos, key=lambda video: _draw("hold-out", video))
        held_out = set(held_out[: max(1, round(TEST_SHARE * len(videos)))])
        for video in videos:
            (test if video in held_out else train).append(Video(video, label))
    left.say(say)
    return root, folders, {1: (train, test)}


def _parts(root: Path, train: Path, test: Path, left: Left) -> Lists:
    """The lists of train/<class>/<video> and test/<class>/<video>."""
    classes, lists = left.folders(train), ([], [])
    labels = _Labels(classes, f"{train.name}/")
    for part, videos in zip((train, test), lists, strict=True):
        for name in left.folders(part):
            label = labels.of(name, str(part / name))
            videos += [Video(video, label) for video in left.videos(part / name)]
    if bare := [
        name for label, name in enumerate(classes) if label not in {video.label for video in lists[0]}
    ]:
        raise InputError(f"{train / bare[0]}: holds 0 videos ({_kinds()}); expected one or more")
    return root, classes, {1: lists}


def _kinds() -> str:
    return " ".join(sorted(extension[1:] for extension in EXTENSIONS))


class Left:
    """What is left out of a data set of class folders, to be said in one line."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.others: list[str] = []
        self.junk: list[str] = []

    def folders(self, folder: Path) -> list[str]:
        """Names of the folders that may be classes; files beside them are left out."""
        entries = sorted(folder.iterdir())
        self.junk += [self._name(path) for path in entries if is_junk(path.name)]
        entries = [path for path in entries if not is_junk(path.name) and not path.name.startswith(".")]
        loose = [path for path in entries if not path.is_dir() and path.suffix.lower() in EXTENSIONS]
        self.others += [self._name(path) for path in loose]
        return [path.name for path in entries if path.is_dir()]

    def videos(self, folder: Path) -> list[str]:
        """Names, below the root, of all videos in a class folder."""
        found = look(folder, peek=True)
        inside = self._name(folder)
        self.others += [f"{inside}/{name}" for name in found.others]
        self.junk += [f"{inside}/{name}" for name in found.junk]
        return [f"{inside}/{name}" for name in found.videos]

    def say(self, say: Say, folders: Sequence[str] = ()) -> None:
        """Say it, if there is anything."""
        others, junk = list(dict.fromkeys(self.others)), list(dict.fromkeys(self.junk))
        said = [f"{len(others)} files that are no videos of a class ({some(others)})"] * bool(others)
        said += [f"{len(junk)} names that systems leave behind ({some(junk)})"] * bool(junk)
        said += [f"the folders {some(folders)}"] * bool(folders)
        if said:
            say(f"{self.root}: left out: {', '.join(said)}")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


_READERS = {
    "hmdb51": _hmdb,
    "ucf101": _ucf,
    "kinetics400": _kinetics,
    "figures-h": _hmdb,
    "figures-u": _ucf,
    "figures-k": _kinetics,
    "folder": _folder,
}
NAMES = tuple(_READERS)


def _labelled(*parts: list[tuple[str, str, str]]) -> tuple[list[str], dict]:
    """Classes and the one split of two lists (train, test) of (place for a message, video, class name)."""
    classes = sorted({label for _, _, label in parts[0]})
    labels = _Labels(classes, "train.csv")
    split = ([], [])
    for rows, videos in zip(parts, split, strict=True):
        for place, name, label in rows:
            path = PurePosixPath(name)
            if not path.name or path.is_absolute() or ".." in path.parts:
                raise InputError(f"{place}: video {name!r} must be a path inside the data set's folder")
            videos.append(Video(str(path), labels.of(label, place)))
    return classes, {1: split}


class _Labels:
    """Labels by class name; a name that one class equals when both are folded is that class."""

    def __init__(self, classes: Sequence[str], source: str) -> None:
        self._of = {name: label for label, name in enumerate(classes)}
        self._source = source
        self._folded = defaultdict(list)
        for name in classes:
            self._folded[folded(name)].append(name)

    def of(self, name: str, place: str) -> int:
        """Raises InputError for a name of no class."""
        if name in self._of:
            return self._of[name]
        near = self._folded.get(folded(name), [])
        if len(near) != 1:
            raise InputError(f"{place}: label {name!r} is not a class of {self._source}")
        return self._of[near[0]]


def _check_split(where: str, split: Split, classes: Sequence[str]) -> None:
    names = Counter(video.name for part in split for video in part)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"{where}: {twice[0]} is listed more than once ({len(twice)} such videos)")
    trained = {video.label for video in split.train}
    if idle := [name for label, name in enumerate(classes) if label not in trained]:
        raise InputError(
            f"{where}: {len(idle)} classes have no training video, the first is {idle[0]!r}; each needs one"
        )
    if not split.test:
        raise InputError(f"{where}: no test video")


def _pairs(root: Path, classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    file = root / "time_reversed_pairs.csv"
    if not file.exists():
        return ()
    labels = {name: label for label, name in enumerate(classes)}
    pairs, used = [], set()
    for place, row in _rows(file, ("a", "b")):
        if unknown := [row[side] for side in "ab" if row[side] not in labels]:
            raise InputError(f"{place}: {unknown[0]!r} is not one of the {len(classes)} classes")
        pair = labels[row["a"]], labels[row["b"]]
        if len({*pair} - used) < 2:
            raise InputError(f"{place}: a class has one time-reversed partner, which is another class")
        used.update(pair)
        pairs.append(pair)
    return tuple(pairs)


def _need_folder(folder: Path, what: str) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {what}")


def _lost(folder: Path, listed: dict[str, int], absent: Sequence[str]) -> str:
    """What is not on the disk, and the way out: folders of classes of which nothing is there, and videos.

    listed: label by name.
    """
    there = {listed[name] for name in listed.keys() - set(absent)}
    bare = {name: name.rpartition("/")[0] for name in absent if listed[name] not in there}
    folders = [inside for inside in dict.fromkeys(bare.values()) if not (folder / inside).is_dir()]
    videos = [name for name in absent if bare.get(name) not in folders]
    found = [f"{len(folders)} class folder{'s' * (len(folders) > 1)} ({some(folders)})"] * bool(folders)
    found += [f"{len(videos)} of {len(listed)} listed videos ({some(videos)})"] * bool(videos)
    way = ", or go on without them with --incomplete skip"
    if bare:  # every class needs a training video: to skip them would only end in the next error
        way = " (--incomplete skip leaves out videos, not whole classes)"
    return f"{' and '.join(found)} are not there; complete the folder{way}{_instead(folder, absent, listed)}"


def _instead(folder: Path, absent: Sequence[str], listed: Container[str]) -> str:
    """What is on the disk in the place of listed videos, for a message: often the same file in another
    folder."""
    if not absent:
        return ""
    there = [name for name in videos_in(folder, 3) if name not in listed]
    moved = meant(
        (PurePosixPath(name.replace("\\", "/")).name for name in absent), map(os.path.basename, there)
    )
    for file, other in moved.one.items():  # one name in the list and one on the disk: the folder is another
        listed_as, lies = (
            next(n for n in names if n.endswith(end)) for names, end in ((absent, file), (there, other))
        )
        return f"; in the place of {spelt(listed_as)} there is {spelt(lies)}"
    return f"; {len(there)} videos there are in no list ({some(there)})" if there else ""


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """(place for a message, line) for the lines of a text file that hold something, without the spaces around
    it.

    Raises InputError when the file is absent or no text in UTF-8.
    """
    for number, line in enumerate(_read(file).split("\n"), 1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def _rows(file: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """(place for a message, row) for the rows of a CSV file that has `columns`, and perhaps others."""
    text = _read(file)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{file}, line {line}: holds a NUL byte, so it is no text; write the list again")
    table = csv.DictReader(io.StringIO(text), strict=True)
    rows, begun = [], 1
    try:
        header = table.fieldnames or []
        if not set(columns) <= set(header):
            raise InputError(f"{file}: expected the header {','.join(columns)}, got {','.join(header)!r}")
        begun = table.line_num + 1
        for row in table:
            place = f"{file}, line {table.line_num}"
            if any("\n" in cell for cell in row.values() if isinstance(cell, str)):
                raise csv.Error("a cell goes on in the next line")
            begun = table.line_num + 1
            if None in row or None in map(row.get, columns):
                raise InputError(f"{place}: expected {len(header)} cells; a cell with a comma needs quotes")
            rows.append((place, {column: (cell or "").strip() for column, cell in row.items()}))
    except csv.Error as error:
        raise InputError(
            f"{file}, line {begun}: {error}; a cell that begins with a quote ends with one, in the same line"
        ) from error
    if not rows:
        raise InputError(f"{file}: holds no rows")
    return rows


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; the data set needs it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text in UTF-8 ({type(error).__name__})") from error
