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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flowclip_core.errors import InputError

EXTENSIONS = frozenset((".avi", ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"))
TEST_SHARE = 0.3  # of a folder data set without lists


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


# How class names are written in prompts.
STYLES = ("words", "raw")


def class_text(name: str, style: str = "words") -> str:
    """A class name as it stands in a prompt; «_» is a space in both styles, and nothing else is changed.

    - words: a capital after a small letter starts a new word: «brush_hair» -> «brush hair», «ApplyEyeMakeup» ->
      «Apply Eye Makeup»
    - raw: «ApplyEyeMakeup» stays, as X-CLIP, ActionCLIP, ViFi-CLIP and Vita-CLIP feed UCF-101

    Raises InputError for another style.
    """
    if style not in STYLES:
        raise InputError(f"class names {style!r}: expected {' or '.join(map(repr, STYLES))}")
    text = name.replace("_", " ")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text) if style == "words" else text


# What a reader hands on: the video folder, the official class names, (train, test) by number of the split.
Lists = tuple[Path, list[str], dict[int, tuple[list[Video], list[Video]]]]


def load(name: str, root: str | Path, missing: str = "error", class_names: str = "words") -> Dataset:
    """Read the lists and folders of data set `name` below `root`.

    - hmdb51, figures-h: videos/<class>/<video>.avi (or the class folders directly below root), and
      testTrainMulti_7030_splits/<class>_test_split<n>.txt
    - ucf101, figures-u: UCF-101/<Class>/<video>.avi, and classInd.txt, trainlist0<n>.txt, testlist0<n>.txt in
      ucfTrainTestlist/
    - kinetics400, figures-k: train.csv, val.csv, and train/[<any folder>/]<youtube id>_<start>_<end>.mp4 (or
      another extension), val/ alike
    - folder: <class>/<video>, with train.csv and test.csv (header video,label; paths below root); or without
      lists: then 30 % of each class, always the same ones, are for the test
    - any of them: time_reversed_pairs.csv (header a,b; official class names)

    Classes are in the order of classInd.txt, else alphabetical. Each has a training video in every split; no
    video is listed twice in one. missing="skip" drops listed videos that are not on the disk (Kinetics loses
    some every year) and keeps their names in `Dataset.missing`. All else raises InputError (one line).
    class_names: a style of `class_text`.
    """
    if missing not in ("error", "skip"):
        raise InputError(f"missing={missing!r}: expected 'error' or 'skip'")
    root = Path(root)
    folder, classes, lists = read_lists(name, root)
    texts = tuple(class_text(name, class_names) for name in classes)
    listed = {video.name: video.label for parts in lists.values() for part in parts for video in part}
    absent = _absent(folder, listed)
    if absent and missing == "error":
        raise InputError(f"{folder}: {_lost(folder, listed, absent)}")
    gone = set(absent)
    splits = {
        number: Split(*(tuple(video for video in part if video.name not in gone) for part in lists[number]))
        for number in sorted(lists)
    }
    for number, split in splits.items():
        _check_split(f"{root}: split {number}", split, classes)
    if same := [text for text, count in Counter(texts).items() if count > 1]:
        raise InputError(f"{root}: two classes read {same[0]!r} in a prompt; rename one of them")
    return Dataset(name, folder, tuple(classes), texts, splits, _pairs(root, classes), tuple(absent))


def read_lists(name: str, root: str | Path) -> Lists:
    """Of data set `name` the video folder, the class names and the lists (train, test) by number of the split.

    The layouts are those of `load`; videos that are not on the disk are listed too. Raises InputError (one line) for an
    unknown name, and for lists that are absent or broken.
    """
    if name not in _READERS:
        raise InputError(f"data set {name!r}: expected one of {', '.join(NAMES)}")
    _need_folder(Path(root), f"the data set {name}")
    return _READERS[name](Path(root))


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
    """Split 1 without its test videos: a seeded `share` of each class's training videos stands in their place.

    For choosing settings: what is chosen on these videos has not seen the test. Raises InputError when a class has too
    few videos to leave one on each side.
    """
    import numpy as np  # here, so that reading a data set needs no more than its lists

    kept: list[Video] = []
    held: list[Video] = []
    for label, name in enumerate(dataset.classes):
        own = [video for video in dataset.splits[1].train if video.label == label]
        order = np.random.default_rng([seed, label]).permutation(len(own))
        aside = int(len(own) * share)
        if not 0 < aside < len(own):
            raise InputError(f"class {name!r} has {len(own)} training videos: too few to set {share:.0%} aside")
        held += [own[i] for i in order[:aside]]
        kept += [own[i] for i in order[aside:]]
    return replace(dataset, splits={1: Split(tuple(kept), tuple(held))})


def half_of_classes(dataset: Dataset, draw: int) -> list[int]:
    """Labels of half of the classes (rounded down), in order: number `draw` of a seeded series, as peers do it."""
    import numpy as np

    chosen = np.random.default_rng([draw]).permutation(len(dataset.classes))[: len(dataset.classes) // 2]
    return sorted(int(label) for label in chosen)


def _draw(seed: int | str, name: str) -> bytes:
    """A video's place in a seeded shuffle: unlike a generator's, the same in every version of a library."""
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def _hmdb(root: Path) -> Lists:
    folder = root / "videos" if (root / "videos").is_dir() else root
    lists = root / "testTrainMulti_7030_splits"
    _need_folder(lists, "the official lists <class>_test_split1.txt")
    found = [re.fullmatch(r"([^.].*)_test_split(\d+)\.txt", file.name) for file in lists.iterdir()]
    classes = sorted({match[1] for match in found if match})
    splits = {int(match[2]): ([], []) for match in found if match}
    if not splits:
        raise InputError(f"{lists}: holds no <class>_test_split1.txt; expected the official lists")
    for number, (train, test) in splits.items():
        for label, name in enumerate(classes):
            for place, line in lines_of(lists / f"{name}_test_split{number}.txt"):
                video, _, code = line.rpartition(" ")
                if not video or code not in ("0", "1", "2"):
                    raise InputError(f"{place}: expected «<video>.avi» and 0, 1 or 2, got {line!r}")
                if code != "0":
                    (train if code == "1" else test).append(Video(f"{name}/{video.strip()}", label))
    return folder, classes, splits


def _ucf(root: Path) -> Lists:
    folder, lists = root / "UCF-101", root / "ucfTrainTestlist"
    _need_folder(folder, "one folder of videos per class")
    _need_folder(lists, "classInd.txt, trainlist01.txt and testlist01.txt")
    classes = []
    for place, line in lines_of(lists / "classInd.txt"):
        number, _, name = line.partition(" ")
        if number != str(len(classes) + 1) or not name:
            raise InputError(f"{place}: expected «{len(classes) + 1} <Class>», got {line!r}")
        classes.append(name)
    labels = {name: label for label, name in enumerate(classes)}
    found = [re.fullmatch(r"(?:train|test)list(\d+)\.txt", file.name) for file in lists.iterdir()]
    splits = {}
    # Without any list at all the error names the first that is expected.
    for number in {match[1] for match in found if match} or {"01"}:
        splits[int(number)] = ([], [])
        for kind, part in zip(("train", "test"), splits[int(number)], strict=True):
            for place, line in lines_of(lists / f"{kind}list{number}.txt"):
                video, code = re.fullmatch(r"(.+?)(?: +(\d+))?", line).groups()
                # The folder is the class: HandstandPushups holds files called v_HandStandPushups.
                label = labels.get(video.partition("/")[0])
                if label is None or "/" not in video or code not in (None, str(label + 1)):
                    raise InputError(f"{place}: {line!r} does not fit the classes of classInd.txt")
                part.append(Video(video, label))
    return folder, classes, splits


def _kinetics(root: Path) -> Lists:
    parts = []
    for part in ("train", "val"):
        _need_folder(root / part, f"the videos of {part}.csv")
        # By file name: copies spell the folders differently (spaces, quotes, brackets), and convert.
        on_disk = {PurePosixPath(name).stem: f"{part}/{name}" for name in videos_in(root / part, depth=1)}
        named = []
        for place, row in _rows(root / f"{part}.csv", ("label", "youtube_id", "time_start", "time_end")):
            if row.get("split") == "test":
                continue  # some releases append the test rows, which have no label
            try:
                start, end = int(float(row["time_start"])), int(float(row["time_end"]))
            except ValueError:
                raise InputError(f"{place}: time_start and time_end must be seconds") from None
            stem = f"{row['youtube_id']}_{start:06d}_{end:06d}"
            named.append((place, on_disk.get(stem, f"{part}/{row['label']}/{stem}.mp4"), row["label"]))
        parts.append(named)
    return root, *_labelled(*parts)


def _folder(root: Path) -> Lists:
    if (root / "train.csv").exists() or (root / "test.csv").exists():
        parts = []
        for part in ("train", "test"):
            rows = _rows(root / f"{part}.csv", ("video", "label"))
            parts.append([(place, row["video"], row["label"]) for place, row in rows])
        return root, *_labelled(*parts)
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise InputError(f"{root}: holds {len(classes)} class folders; expected two or more")
    train, test = [], []
    for label, name in enumerate(classes):
        videos = [f"{name}/{video}" for video in videos_in(root / name)]
        if len(videos) < 2:
            kinds = " ".join(sorted(extension[1:] for extension in EXTENSIONS))
            raise InputError(f"{root / name}: holds {len(videos)} videos ({kinds}); expected two or more")
        held_out = sorted(videos, key=lambda video: _draw("hold-out", video))
        held_out = set(held_out[: max(1, round(TEST_SHARE * len(videos)))])
        for video in videos:
            (test if video in held_out else train).append(Video(video, label))
    return root, classes, {1: (train, test)}


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
    labels = {name: label for label, name in enumerate(classes)}
    split = ([], [])
    for rows, videos in zip(parts, split, strict=True):
        for place, name, label in rows:
            path = PurePosixPath(name)
            if not path.name or path.is_absolute() or ".." in path.parts:
                raise InputError(f"{place}: video {name!r} must be a path inside the data set's folder")
            if not label or label not in labels:
                raise InputError(f"{place}: label {label!r} is not a class of train.csv")
            videos.append(Video(str(path), labels[label]))
    return classes, {1: split}


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


def videos_in(folder: Path, depth: int = 0) -> Iterator[str]:
    """Names of the video files in a folder and `depth` levels below, sorted; hidden ones are left out."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if depth and entry.is_dir():
            yield from (f"{entry.name}/{name}" for name in videos_in(folder / entry.name, depth - 1))
        elif PurePosixPath(entry.name).suffix.lower() in EXTENSIONS:
            yield entry.name


def _absent(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of `names` that are not there: one look per folder, since looking for each file takes long."""
    there: dict[str, set[str]] = {}
    absent = []
    for name in names:
        inside, _, file = name.rpartition("/")
        if inside not in there:
            path = folder / inside
            there[inside] = {entry.name for entry in os.scandir(path)} if path.is_dir() else set()
        if file not in there[inside]:
            absent.append(name)
    return absent


def _lost(folder: Path, listed: dict[str, int], absent: Sequence[str]) -> str:
    """What is not on the disk, and the way out: folders of classes of which nothing is there, and videos.

    listed: label by name.
    """

    def some(names: Sequence[str]) -> str:
        return f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"

    there = {listed[name] for name in listed.keys() - set(absent)}
    bare = {name: name.rpartition("/")[0] for name in absent if listed[name] not in there}
    folders = [inside for inside in dict.fromkeys(bare.values()) if not (folder / inside).is_dir()]
    videos = [name for name in absent if bare.get(name) not in folders]
    found = [f"{len(folders)} class folder{'s' * (len(folders) > 1)} {some(folders)}"] * bool(folders)
    found += [f"{len(videos)} of {len(listed)} listed videos {some(videos)}"] * bool(videos)
    way = ", or go on without them with --incomplete skip"
    if bare:  # every class needs a training video: to skip them would only end in the next error
        way = " (--incomplete skip leaves out videos, not whole classes)"
    return f"{' and '.join(found)} are not there; complete the folder{way}"


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """(place for a message, line) for the lines of a text file that hold something, without the spaces around it.

    Raises InputError when the file is absent or no text in UTF-8.
    """
    for number, line in enumerate(_read(file).split("\n"), 1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def _rows(file: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """(place for a message, row) for the rows of a CSV file that has `columns`, and perhaps others."""
    table = csv.DictReader(io.StringIO(_read(file)))
    rows = []
    try:
        header = table.fieldnames or []
        if not set(columns) <= set(header):
            raise InputError(f"{file}: expected the header {','.join(columns)}, got {','.join(header)!r}")
        for row in table:
            place = f"{file}, line {table.line_num}"
            if None in row or None in map(row.get, columns):
                raise InputError(f"{place}: expected {len(header)} cells; a cell with a comma needs quotes")
            rows.append((place, {column: (cell or "").strip() for column, cell in row.items()}))
    except csv.Error as error:
        raise InputError(f"{file}, line {table.line_num}: {error}") from error
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
