"""Published few-shot lists, read against a data set: which training videos they name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from flowclip_core.data.labels import class_text
from flowclip_core.errors import InputError
from flowclip_kit.datasets.disk import first_of, folded, without_extension
from flowclip_kit.datasets.formats import Dataset, Video
from flowclip_kit.datasets.layouts import Say, lines_of, say_once

TIMES = r"_\d{6}_\d{6}$"  # of a Kinetics clip; some copies leave them out


def read_list(
    file: str | Path, dataset: Dataset, say: Say = say_once, missing: str = "error"
) -> tuple[Video, ...]:
    """Training videos of split 1 that a published list names, in its order.

    Lines are "<video>.avi <label>" (a number from 0, or a class; ViFi-CLIP) or "<class folder>/<video>"
    without extension (Ju et al.); what `disk.folded` makes equal does not count. The class is the video's own
    in the data set: lists in use swap the labels of four HMDB-51 classes. How many labels disagree is said in
    one line. missing="skip" leaves out, and names, videos that are not on the disk. Raises InputError with
    the line number for a video that is unknown, not on the disk, a test video, unused in split 1 or listed
    twice, and for a number that is no label.
    """
    train, test = ({video.name: video for video in part} for part in dataset.splits[1])
    find = _index(dataset)
    chosen: dict[str, Video] = {}
    gone: list[str] = []
    swapped: list[str] = []  # the class, for each label that disagrees
    labelled = 0
    for place, line in lines_of(Path(file)):
        names, label = find(line)
        if len(names) != 1:
            what = "is the name of several videos" if names else "is no video of the data set"
            raise InputError(f"{place}: {line!r} {what} {dataset.name}")
        (name,) = names
        if name in dataset.missing and missing == "skip":
            gone.append(name)
            continue
        fault = ""
        if name in dataset.missing:
            fault = "is not on the disk"
        elif name in test:
            fault = "is a test video of split 1"
        elif name not in train:
            fault = "is not used in split 1"
        elif name in chosen:
            fault = "is listed twice"
        if fault:
            raise InputError(f"{place}: {name} {fault}; expected training videos of split 1, each once")
        video = chosen[name] = train[name]
        if label is None:
            continue
        labelled += 1
        own = dataset.classes[video.label]
        last = len(dataset.classes) - 1
        if label.isdigit() and label not in dataset.classes and int(label) > last:
            raise InputError(
                f"{place}: label {label} is none of the {last + 1} classes; they count from 0 to {last}"
            )
        if label != str(video.label) and class_text(label).casefold() != class_text(own).casefold():
            swapped.append(own)
    if not chosen:
        raise InputError(f"{file}: names no video")
    if gone:
        say(f"{file}: {len(gone)} videos are not on the disk and left out, the first is {gone[0]}")
    if swapped:
        say(
            f"{file}: {len(swapped)} of {labelled} labels are not those of their videos' folders"
            f" ({first_of(sorted({*swapped}), 4)}); the folders count"
        )
    return tuple(chosen.values())


def _index(dataset: Dataset):
    """line -> (the videos of the data set that it may name, its label or None)."""
    index, stems = defaultdict(set), defaultdict(set)
    listed = {video.name for split in dataset.splits.values() for part in split for video in part}
    for name in (*listed, *dataset.missing):
        bare = name.removesuffix(PurePosixPath(name).suffix)
        stem = bare.rpartition("/")[2]
        for key in {name, bare, stem, re.sub(TIMES, "", stem)}:
            index[key].add(name)
            index[folded(key)].add(name)
        stems[stem].add(name)

    def find(line: str) -> tuple[set[str], str | None]:
        video, label = ["", *line.rsplit(None, 1)][-2:]
        for text, given in ((line, None), (video, label)):
            text = text.replace("\\", "/")
            bare = without_extension(text)
            parent, _, stem = bare.rpartition("/")
            keys = (text, bare, stem, folded(bare), folded(stem))
            for names in (*map(index.get, keys), stems.get(re.sub(TIMES, "", stem))):
                if names:
                    return names, given if given is not None else PurePosixPath(parent).name or None
        return set(), None

    return find


def shots_of(file: str | Path, dataset: Dataset, listed: Sequence[Video], missing: str = "error") -> int:
    """k, the videos per class of a list that was read. missing="skip": of the fullest class.

    Raises InputError for a list that does not name equally many videos of every class.
    """
    sizes = Counter(video.label for video in listed)
    fewest = min(range(len(dataset.classes)), key=lambda label: sizes[label])
    most = max(sizes.values())
    if (sizes[fewest] != most and missing == "error") or not sizes[fewest]:
        raise InputError(
            f"{file}: names {sizes[fewest]} videos of class {dataset.classes[fewest]!r} and {most} of"
            " another; expected equally many of each"
        )
    return most
