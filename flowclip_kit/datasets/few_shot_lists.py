"""Few-shot lists that others have published, read against a data set: which training videos they name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from flowclip_core.errors import InputError, notice
from flowclip_kit.datasets.disk import folded, without_extension
from flowclip_kit.datasets.formats import Dataset, Video, class_text, lines_of

TIMES = r"_\d{6}_\d{6}$"  # of a clip of Kinetics; some copies have left them out


def read_list(
    file: str | Path, dataset: Dataset, say: Callable[[str], None] = notice, missing: str = "error"
) -> tuple[Video, ...]:
    """Training videos of split 1 that a published list names, in its order.

    Lines are «<video>.avi <label>» (a number from 0 or a class; ViFi-CLIP) or «<class folder>/<video>»
    without extension (Ju et al.); what `disk.folded` leaves out of a name does not count. The class is that
    of the video, as
    the data set has it: labels of lists in use are swapped for four classes of HMDB-51. How many labels say
    otherwise is said in one line. missing="skip" leaves out, and says, videos that are not on the disk.
    Raises InputError with the number of the line for a video that is unknown, not on the disk, a test video,
    unused in split 1 or listed twice, and for a number that is no label.
    """
    train, test = dataset.splits[1]
    index, stems = defaultdict(set), defaultdict(set)
    used = {video.name: video for video in (*train, *test)}
    others = {
        video.name for split in dataset.splits.values() for part in split for video in part
    } - used.keys()
    for name in (*used, *others, *dataset.missing):
        bare = name.removesuffix(PurePosixPath(name).suffix)
        stem = bare.rpartition("/")[2]
        for key in {name, bare, stem, re.sub(TIMES, "", stem)}:
            index[key].add(name)
            index[folded(key)].add(name)
        stems[stem].add(name)
    in_train, in_test = {video.name for video in train}, {video.name for video in test}
    chosen: dict[str, Video] = {}
    gone: list[str] = []
    swapped, labelled = set(), 0
    count = 0
    for place, line in lines_of(Path(file)):
        words, label = ["", *line.rsplit(None, 1)][-2:]
        names, given = set(), None
        for text, said in ((line, None), (words, label)):
            text = text.replace("\\", "/")
            bare = without_extension(text)
            inside, _, stem = bare.rpartition("/")
            found = (
                *map(index.get, (text, bare, stem, folded(bare), folded(stem))),
                stems.get(re.sub(TIMES, "", stem)),
            )
            if names := next(filter(None, found), set()):
                given = said if said is not None else PurePosixPath(inside).name or None
                break
        if len(names) != 1:
            what = "is the name of several videos" if names else "is no video of the data set"
            raise InputError(f"{place}: {line!r} {what} {dataset.name}")
        (name,) = names
        fault = "is listed twice" if name in chosen else ""
        if name in dataset.missing and missing == "skip":
            gone.append(name)
            continue
        if name not in in_train:
            fault = "is a test video of split 1" if name in in_test else "is not used in split 1"
            fault = "is not on the disk" if name in dataset.missing else fault
        if fault:
            raise InputError(f"{place}: {name} {fault}; expected training videos of split 1, each once")
        video = chosen[name] = used[name]
        if given is not None:
            labelled += 1
            if given.isdigit() and given not in dataset.classes and int(given) >= len(dataset.classes):
                last = len(dataset.classes) - 1
                raise InputError(
                    f"{place}: label {given} is none of the {last + 1} classes; they count from 0 to {last}"
                )
            right = given in (str(video.label), dataset.classes[video.label])
            if (
                not right
                and class_text(given).casefold() != class_text(dataset.classes[video.label]).casefold()
            ):
                swapped.add(dataset.classes[video.label])
                count += 1
    if not chosen:
        raise InputError(f"{file}: names no video")
    if gone:
        say(f"{file}: {len(gone)} videos are not on the disk and left out, the first is {gone[0]}")
    if count:
        few = ", ".join(sorted(swapped)[:4]) + (", ..." if len(swapped) > 4 else "")
        say(
            f"{file}: {count} of {labelled} labels are not those of their videos' folders ({few}); the folders count"
        )
    return tuple(chosen.values())


def shots_of(file: str | Path, dataset: Dataset, listed: Sequence[Video], missing: str = "error") -> int:
    """k, the videos a class of a list that has been read. missing="skip": of the fullest class.

    Raises InputError for a list that does not name equally many videos of every class.
    """
    sizes = Counter(video.label for video in listed)
    few = min(range(len(dataset.classes)), key=lambda label: sizes[label])
    most = max(sizes.values())
    if (sizes[few] != most and missing == "error") or not sizes[few]:
        raise InputError(
            f"{file}: names {sizes[few]} videos of class {dataset.classes[few]!r} and {most} of another; expected as"
            " many of each"
        )
    return most
