"""How data sets lie on the disk: one reader for each published layout, demo and real data alike.

A reader looks at names alone and opens no video (only, in a plain folder, files whose extension says
nothing), so a data set loads in a fraction of a second.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flowclip_core.errors import InputError, notice
from flowclip_kit.datasets.disk import (
    EXTENSIONS,
    check_names,
    difference,
    first_of,
    folded,
    is_junk,
    list_files,
    match_names,
    printable,
    videos_in,
)

TEST_SHARE = 0.3  # of a folder data set without lists
TESTS = ("test", "val", "valid", "validation")  # folders that stand beside train/, the first that is there
METADATA = ("metadata.csv", "metadata.jsonl")  # of a video folder on the Hugging Face hub
_FETCH = "; ./reproduce.sh data {} --data-root DIR says what is missing, and fetches it"

Say = Callable[[str], None]
say_once: Say = functools.cache(notice)  # a command may open a data set twice


class Video(NamedTuple):
    """`name`: path below the video folder, with forward slashes; `label`: index into the classes."""

    name: str
    label: int


class Lists(NamedTuple):
    """What a reader returns: the video folder, the official class names, (train, test) by split number.

    places: file and line that list a video, by its name, for messages; not every reader fills it.
    """

    folder: Path
    classes: list[str]
    splits: dict[int, tuple[list[Video], list[Video]]]
    places: dict[str, str] = {}  # noqa: RUF012  (never written to)

    def labels(self) -> dict[str, int]:
        """The label of every listed video, by name."""
        return {video.name: video.label for parts in self.splits.values() for part in parts for video in part}


def read_lists(name: str, root: str | Path, say: Say = say_once) -> Lists:
    """The lists of data set `name` as they are, naming the files on the disk that listed names mean.

    The layouts are those of `formats.load`. Videos that are not on the disk stay in the lists. Raises
    InputError (one line) for an unknown name, for absent or broken lists, and for listed names that several
    files fit.
    """
    if name not in _READERS:
        raise InputError(f"data set {name!r}: expected one of {', '.join(NAMES)}")
    _need_folder(Path(root), f"the data set {name}")
    lists = _READERS[name](Path(root), say)
    if _READERS[name] is _kinetics:  # matches videos by identity, whatever else their names say
        return lists
    folder, listed = lists.folder, lists.labels()
    absent, _ = check_names(folder, listed)
    if not absent:
        return lists
    depth = max(name.replace("\\", "/").count("/") for name in absent)
    present = listed.keys() - set(absent)
    matches = match_names(absent, (name for name in videos_in(folder, depth) if name not in present))
    if matches.several:
        fits = "; ".join(f"{video} fits {first_of(files)}" for video, files in matches.several[:3])
        raise InputError(
            f"{folder}: {len(matches.several)} listed videos are not there and several files could be meant:"
            f" {fits}; keep one of each, or list it"
        )
    if matches.unique:
        video, file = next(iter(matches.unique.items()))
        ways = dict.fromkeys(difference(*pair) for pair in matches.unique.items())
        say(
            f"{folder}: {len(matches.unique)} of {len(listed)} listed videos are there under a name that"
            f" differs in {', or '.join(ways)}, and are used: {video} is {file}"
        )
    for parts in lists.splits.values():
        for part in parts:
            part[:] = [video._replace(name=matches.unique.get(video.name, video.name)) for video in part]
    return lists


def instead_of(folder: Path, absent: Sequence[str], listed: dict[str, int]) -> str:
    """What is on the disk in the place of listed videos, for a message: often the same file in another
    folder."""
    if not absent:
        return ""
    unlisted = [name for name in videos_in(folder, 3) if name not in listed]
    files = (PurePosixPath(name.replace("\\", "/")).name for name in absent)
    for file, other in match_names(files, map(os.path.basename, unlisted)).unique.items():
        name = next(name for name in absent if name.endswith(file))
        found = next(name for name in unlisted if name.endswith(other))
        return f"; in the place of {printable(name)} there is {printable(found)}"
    return f"; {len(unlisted)} videos there are in no list ({first_of(unlisted)})" if unlisted else ""


def shuffle_key(seed: int | str, name: str) -> bytes:
    """A video's place in a seeded shuffle: unlike a generator's, the same in every version of a library."""
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


# --- one reader per layout ---


def _hmdb(root: Path, say: Say) -> Lists:
    folder = root / "videos" if (root / "videos").is_dir() else root
    lists = root / "testTrainMulti_7030_splits"
    _need_folder(lists, f"the official lists <class>_test_split1.txt{_FETCH.format('hmdb51')}")
    names = [re.fullmatch(r"([^.].*)_test_split(\d+)\.txt", file.name) for file in lists.iterdir()]
    classes = sorted({match[1] for match in names if match})
    splits: dict = {int(match[2]): ([], []) for match in names if match}
    if not splits:
        raise InputError(f"{lists}: holds no <class>_test_split1.txt; expected the official lists")
    for number, (train, test) in splits.items():
        for label, name in enumerate(classes):
            for place, line in lines_of(lists / f"{name}_test_split{number}.txt"):
                video, code = [*line.rsplit(None, 1), ""][:2]
                if code not in ("0", "1", "2"):
                    raise InputError(f'{place}: expected "<video>.avi" and 0, 1 or 2, got {line!r}')
                if code != "0":
                    (train if code == "1" else test).append(Video(f"{name}/{video}", label))
    return Lists(folder, classes, splits)


def _ucf(root: Path, say: Say) -> Lists:
    folder, lists = root / "UCF-101", root / "ucfTrainTestlist"
    _need_folder(folder, f"one folder of videos per class{_FETCH.format('ucf101')}")
    _need_folder(lists, f"classInd.txt, trainlist01.txt and testlist01.txt{_FETCH.format('ucf101')}")
    classes: list[str] = []
    for place, line in lines_of(lists / "classInd.txt"):
        number, name = [*line.split(None, 1), ""][:2]
        if number != str(len(classes) + 1) or not name:
            raise InputError(f'{place}: expected "{len(classes) + 1} <Class>", got {line!r}')
        classes.append(name)
    labels = _Labels(classes, "classInd.txt")
    names = [re.fullmatch(r"(?:train|test)list(\d+)\.txt", file.name) for file in lists.iterdir()]
    splits: dict = {}
    # Without any list the error names the first one expected.
    for number in {match[1] for match in names if match} or {"01"}:
        splits[int(number)] = ([], [])
        for kind, part in zip(("train", "test"), splits[int(number)], strict=True):
            for place, line in lines_of(lists / f"{kind}list{number}.txt"):
                video, code = re.findall(r"^(.+?)(?:\s+(\d+))?$", line)[0]
                # The folder is the class: HandstandPushups holds files called v_HandStandPushups.
                parent, slash, _ = video.replace("\\", "/").partition("/")
                if not slash:
                    raise InputError(
                        f'{place}: expected "<Class>/<video>", perhaps with its number, got {line!r}'
                    )
                label = labels.of(parent, place)
                if code not in ("", str(label + 1)):
                    raise InputError(
                        f"{place}: {line!r} does not fit the classes of classInd.txt, where {classes[label]}"
                        f" is {label + 1} of 1 to {len(classes)}"
                    )
                part.append(Video(video, label))
    return Lists(folder, classes, splits)


def _kinetics(root: Path, say: Say) -> Lists:
    parts, copies = [], []
    for part in ("train", "val"):
        _need_folder(root / part, f"the videos of {part}.csv{_FETCH.format('kinetics400')}")
        # By file name: copies spell the folders differently (spaces, quotes, brackets), and re-encode.
        files = defaultdict(list)
        for file in videos_in(root / part, depth=2):
            files[PurePosixPath(file).stem].append(f"{part}/{file}")
        rows = _rows(root / f"{part}.csv", ("label", "youtube_id", "time_start", "time_end"))
        clips = Counter(row["youtube_id"] for _, row in rows)
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
            # Some copies drop the times, which is unambiguous where the list has one clip of that video.
            stems = (stem, identity) if clips[identity] == 1 else (stem,)
            names = next(filter(None, map(files.get, stems)), [f"{part}/{label}/{stem}.mp4"])
            if len(names) > 1:
                own = [name for name in names if folded(name.split("/")[1]) == folded(label)]
                names = own if len(own) == 1 else names
            copies += [first_of(names)] * (len(names) > 1)
            named.append((place, names[0], label))
        parts.append(named)
    if copies:
        raise InputError(
            f"{root}: {len(copies)} listed videos are there more than once: {'; '.join(copies[:3])}; keep one"
            " of each"
        )
    return _by_name(root, *parts)


def _folder(root: Path, say: Say) -> Lists:
    if (root / "train.csv").exists() or (root / "test.csv").exists():
        parts = []
        for part in ("train", "test"):
            rows = _rows(root / f"{part}.csv", ("video", "label"))
            parts.append([(place, row["video"], row["label"]) for place, row in rows])
        lists, rule, scan = _by_name(root, *parts), "listed in train.csv and test.csv", None
    elif described := _described(root):
        (lists, rule), scan = described, None
    else:
        scan = _Scan(root)
        folders = scan.folders(root)
        by_name = {name.lower(): name for name in folders}
        tests = [by_name[name] for name in TESTS if name in by_name]
        train = root / by_name.get("train", "")
        apart = train != root and tests and len(by_name) == 1 + len(tests)
        if apart and not any(videos_in(train)) and scan.folders(train):
            scan.unused = tests[1:]
            lists, rule = (
                _train_and_test(root, train, root / tests[0], scan),
                f"of {train.name}/ and {tests[0]}/",
            )
        else:
            lists = _drawn(root, folders, scan)
            rule = f"no lists, no train/: {_HELD_OUT}"
    ((training, test),) = lists.splits.values()
    say(f"{root}: {len(training)} training and {len(test)} test videos ({rule})")
    if scan:
        scan.report(say)
    return lists


_HELD_OUT = f"{TEST_SHARE:.0%} of each class is held out, always the same videos"
Row = tuple[str, str, str]  # place for a message, video below the root, class name


def _described(root: Path) -> tuple[Lists, str] | None:
    """The lists of a folder with metadata.csv or metadata.jsonl in it, or in its train/, and how they came
    about."""
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    tests = [name for name in TESTS if name in folders]
    if file := _metadata(root):
        by_folder: dict[str, list[Row]] = defaultdict(list)
        for row in _metadata_rows(file, root):
            by_folder[row[1].partition("/")[0].lower()].append(row)
        tests = [name for name in TESTS if name in by_folder]
        if tests and by_folder.keys() <= {"train", *TESTS} and "train" in by_folder:
            train, test = by_folder["train"], by_folder[tests[0]]
            return _by_name(root, train, test, source=file.name), f"listed in {file.name}"
        rows = [row for own in by_folder.values() for row in own]
    elif "train" in folders and (file := _metadata(folders["train"])):
        rows = _metadata_rows(file, root)
        if tests:
            folder = folders[tests[0]]
            if (other := _metadata(folder)) is None:
                raise InputError(f"{folder}: holds no {file.name}, and {file.parent.name}/ does; add one")
            name = f"{file.parent.name}/{file.name}"
            rule = f"listed in {name} and {folder.name}/{other.name}"
            return _by_name(root, rows, _metadata_rows(other, root), source=name), rule
    else:
        return None
    by_class = defaultdict(list)
    for row in rows:
        by_class[row[2]].append(row)
    held_out: set[str] = set()
    for label, own in by_class.items():
        if len(own) < 2:
            raise InputError(f"{own[0][0]}: class {label!r} has one video; expected two or more")
        held_out |= _held_out([video for _, video, _ in own])
    parts = [[row for row in rows if (row[1] in held_out) == test] for test in (False, True)]
    return _by_name(root, *parts, source=file.name), f"listed in {file.name}: {_HELD_OUT}"


def _metadata(folder: Path) -> Path | None:
    """The metadata file of a folder, if there is one. Raises InputError for two."""
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise InputError(f"{folder}: holds {' and '.join(METADATA)}; keep one of them")
    return found[0] if found else None


def _metadata_rows(file: Path, root: Path) -> list[Row]:
    """The rows of a metadata file, whose `file_name` is relative to it. Raises InputError with file and
    line."""
    columns, rows, first = ("file_name", "label"), [], dict[str, str]()
    for place, row in _rows(file, columns) if file.suffix == ".csv" else _json_rows(file, columns):
        name = _inside(row["file_name"], place)
        name = (file.parent.relative_to(root) / name).as_posix()
        if not row["label"]:
            raise InputError(f"{place}: {row['file_name']} has no label")
        if name in first:
            raise InputError(f"{place}: {row['file_name']} is listed a second time, after {first[name]}")
        first[name] = place
        rows.append((place, name, row["label"]))
    return rows


def _json_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(place for a message, these columns) for the lines of a file with a JSON object in each."""
    empty = True
    for place, line in lines_of(file):
        empty = False
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not set(columns) <= row.keys():
            got = f"the keys {', '.join(map(repr, row))}" if isinstance(row, dict) else repr(line[:80])
            raise InputError(f"{place}: expected a JSON object with {' and '.join(columns)}, got {got}")
        values = {column: row[column] for column in columns}
        if wrong := [name for name, value in values.items() if type(value) not in (str, int)]:
            raise InputError(f"{place}: {wrong[0]} {values[wrong[0]]!r:.80}: expected a text")
        yield place, {column: str(value).strip() for column, value in values.items()}
    if empty:
        raise InputError(f"{file}: holds no rows")


def _held_out(videos: Sequence[str]) -> set[str]:
    """The videos of a class that are for the test: always the same ones."""
    shuffled = sorted(videos, key=lambda video: shuffle_key("hold-out", video))
    return set(shuffled[: max(1, round(TEST_SHARE * len(videos)))])


def _drawn(root: Path, classes: list[str], scan: _Scan) -> Lists:
    """<class>/<video>: a fixed part of each class, chosen by the videos' names, is for the test."""
    if len(classes) < 2:
        inner = [f"{name}, which holds {len(scan.folders(root / name))} folders" for name in classes]
        hint = f" ({inner[0]}: if these are the classes, name it with --data-root)" if inner else ""
        raise InputError(f"{root}: holds {len(classes)} class folders{hint}; expected two or more")
    train: list[Video] = []
    test: list[Video] = []
    for label, name in enumerate(classes):
        videos = scan.videos(root / name, "two")
        held_out = _held_out(videos)
        for video in videos:
            (test if video in held_out else train).append(Video(video, label))
    return Lists(root, classes, {1: (train, test)})


def _train_and_test(root: Path, train: Path, test: Path, scan: _Scan) -> Lists:
    """train/<class>/<video> and test/<class>/<video>."""
    classes = scan.folders(train)
    parts: tuple[list[Video], list[Video]] = ([], [])
    labels = _Labels(classes, f"{train.name}/")
    for folder, videos, least in ((train, parts[0], "one"), (test, parts[1], "")):
        for name in scan.folders(folder):
            label = labels.of(name, str(folder / name))
            videos += [Video(video, label) for video in scan.videos(folder / name, least)]
    return Lists(root, classes, {1: parts})


class _Scan:
    """Looks through class folders and notes what is left out, to be reported in one line."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.others: list[str] = []
        self.junk: list[str] = []
        self.unused: list[str] = []  # folders

    def folders(self, folder: Path) -> list[str]:
        """Names of the folders that may be classes; files beside them are left out."""
        entries = sorted(folder.iterdir())
        self.junk += [self._name(path) for path in entries if is_junk(path.name)]
        entries = [path for path in entries if not is_junk(path.name) and not path.name.startswith(".")]
        loose = [path for path in entries if not path.is_dir() and path.suffix.lower() in EXTENSIONS]
        self.others += [self._name(path) for path in loose]
        return [path.name for path in entries if path.is_dir()]

    def videos(self, folder: Path, least: str) -> list[str]:
        """Names, below the root, of all videos of a class. Raises InputError for fewer than `least`."""
        listing = list_files(folder, peek=True)
        if len(listing.videos) < ("", "one", "two").index(least):
            what = [f"{len(listing.videos)} video{'s' * (len(listing.videos) != 1)}"]
            what += [f"{len(listing.others)} other files"] * bool(listing.others)
            names = [*listing.videos, *listing.others]
            raise InputError(
                f"{folder}: holds {' and '.join(what)}{f' ({first_of(names)})' if names else ''}; expected"
                f" {least} or more videos"
            )
        parent = self._name(folder)
        self.others += [f"{parent}/{name}" for name in listing.others]
        self.junk += [f"{parent}/{name}" for name in listing.junk]
        return [f"{parent}/{name}" for name in listing.videos]

    def report(self, say: Say) -> None:
        """Say what was left out, if anything was."""
        others, junk = list(dict.fromkeys(self.others)), list(dict.fromkeys(self.junk))
        lines = [f"{len(others)} files that are not videos of a class ({first_of(others)})"] * bool(others)
        lines += [f"{len(junk)} leftovers of operating systems ({first_of(junk)})"] * bool(junk)
        lines += [f"the folders {first_of(self.unused)}"] * bool(self.unused)
        if lines:
            say(f"{self.root}: left out: {', '.join(lines)}")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


_READERS: dict[str, Callable[[Path, Say], Lists]] = {
    "hmdb51": _hmdb,
    "ucf101": _ucf,
    "kinetics400": _kinetics,
    "figures-h": _hmdb,
    "figures-u": _ucf,
    "figures-k": _kinetics,
    "folder": _folder,
}
NAMES = tuple(_READERS)


def _by_name(root: Path, *parts: list[Row], source: str = "train.csv") -> Lists:
    """The one split of two lists (train, test). source: where the training videos stand, for a message."""
    classes = sorted({label for _, _, label in parts[0]})
    labels, places = _Labels(classes, source), dict[str, str]()
    split: tuple[list[Video], list[Video]] = ([], [])
    for rows, videos in zip(parts, split, strict=True):
        for place, name, label in rows:
            videos.append(Video(_inside(name, place), labels.of(label, place)))
            places.setdefault(videos[-1].name, place)
    return Lists(root, classes, {1: split}, places)


def _inside(name: str, place: str) -> str:
    """The name of a video, written one way. Raises InputError for one that leads out of the folder."""
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise InputError(f"{place}: video {name!r} must be a path inside the data set's folder")
    return str(path)


class _Labels:
    """Labels by class name; a name that equals exactly one class once both are folded is that class."""

    def __init__(self, classes: Sequence[str], source: str) -> None:
        self._of = {name: label for label, name in enumerate(classes)}
        self._source = source
        self._folded = defaultdict(list)
        for name in classes:
            self._folded[folded(name)].append(name)

    def of(self, name: str, place: str) -> int:
        """Raises InputError for a name that is no class."""
        if name in self._of:
            return self._of[name]
        near = self._folded.get(folded(name), [])
        if len(near) != 1:
            raise InputError(f"{place}: label {name!r} is not a class of {self._source}")
        return self._of[near[0]]


# --- files of text ---


def read_pairs(root: Path, classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Labels of classes that are each other run backwards, from time_reversed_pairs.csv if it is there."""
    file = root / "time_reversed_pairs.csv"
    if not file.exists():
        return ()
    labels = {name: label for label, name in enumerate(classes)}
    pairs: list[tuple[int, int]] = []
    used: set[int] = set()
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


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """(place for a message, stripped line) for the lines of a text file that are not blank.

    Raises InputError when the file is absent or not UTF-8 text.
    """
    for number, line in enumerate(_read(file).split("\n"), 1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def _rows(file: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """(place for a message, row) for the rows of a CSV file that has at least these columns."""
    text = _read(file)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{file}, line {line}: holds a NUL byte, so it is not text; write the list again")
    table = csv.DictReader(io.StringIO(text), strict=True)
    rows, line = [], 1  # where a row begins
    try:
        header = table.fieldnames or []
        if not set(columns) <= set(header):
            raise InputError(
                f"{file}, line 1: expected the header {','.join(columns)}, got {','.join(header)!r}"
            )
        line = table.line_num + 1
        for row in table:
            place = f"{file}, line {table.line_num}"
            if any("\n" in cell for cell in row.values() if isinstance(cell, str)):
                raise csv.Error("a cell goes on in the next line")
            line = table.line_num + 1
            if None in row or None in map(row.get, columns):
                raise InputError(f"{place}: expected {len(header)} cells; a cell with a comma needs quotes")
            rows.append((place, {column: (cell or "").strip() for column, cell in row.items()}))
    except csv.Error as error:
        raise InputError(
            f"{file}, line {line}: {error}; a cell that begins with a quote ends with one, in the same line"
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
        raise InputError(f"{file}: cannot be read as UTF-8 text ({type(error).__name__})") from error
