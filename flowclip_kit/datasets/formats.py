"""The data sets a model is trained and tested on: `load` gives one by name, and k-shot draws come from it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flowclip_core.data.labels import caution, class_text
from flowclip_core.errors import InputError
from flowclip_kit.class_texts import check_texts
from flowclip_kit.datasets.contents import copies
from flowclip_kit.datasets.disk import check_names, first_of
from flowclip_kit.datasets.layouts import (
    NAMES,
    Lists,
    Say,
    Video,
    instead_of,
    read_lists,
    read_pairs,
    say_once,
    shuffle_key,
)

__all__ = [
    "NAMES",
    "Dataset",
    "Lists",
    "Split",
    "Video",
    "few_shot",
    "half_of_classes",
    "hold_out",
    "load",
    "read_lists",
]
NAMED = 20  # files that one message names


class Split(NamedTuple):
    """Training and test videos, in the order of the official lists."""

    train: tuple[Video, ...]
    test: tuple[Video, ...]


@dataclass(frozen=True)
class Dataset:
    """A data set of K classes.

    folder: what the videos' names are relative to. classes: K official names. texts: their names in prompts.
    splits: by official number, from 1. pairs: labels (a, b) of classes that are each other run backwards.
    missing: names that are listed but not on the disk (empty unless loaded with missing="skip").
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
        """Classes without a test video: no score covers them."""
        tested = {video.label for video in self.splits[split].test}
        return [name for label, name in enumerate(self.classes) if label not in tested]


def load(
    name: str, root: str | Path, missing: str = "error", class_names: str = "words", say: Say = say_once
) -> Dataset:
    """Read the lists and folders of data set `name` below `root`.

    - hmdb51, figures-h: videos/<class>/<video>.avi (or the class folders directly below root), and
      testTrainMulti_7030_splits/<class>_test_split<n>.txt
    - ucf101, figures-u: UCF-101/<Class>/<video>.avi, and classInd.txt, trainlist0<n>.txt, testlist0<n>.txt in
      ucfTrainTestlist/
    - kinetics400, figures-k: train.csv, val.csv, and train/[<any folder>/]<youtube id>[_<start>_<end>].mp4
      (or another extension), val/ alike
    - folder: <class>/[<any folder>/]<video>, with train.csv and test.csv (header video,label; paths below
      root); or train/<class>/<video> and test/ (or val/) alike; or neither: then 30 % of each class, always
      the same videos, are for the test. Or metadata.csv or metadata.jsonl (file_name, label) in train/ and
      test/, or in root for all: file names are relative to it
    - any of them: time_reversed_pairs.csv (header a,b; official class names)

    Classes are in the order of classInd.txt, else alphabetical. Each has a training video in every split; no
    video is listed twice in one. A listed name that is not on the disk means the one file whose name differs
    from it only in case, Unicode form, slashes, underscores or extension. missing="skip" drops listed videos
    that are not on the disk (Kinetics loses some every year) and keeps their names in `Dataset.missing`.
    Anything else raises InputError (one line), which names all files that cannot be a video. class_names: a
    style of `class_text`. say: gets a line about everything that is not taken as it is, about how a folder
    was split, and about copies of training videos in its test part.
    """
    if missing not in ("error", "skip"):
        raise InputError(f"missing={missing!r}: expected 'error' or 'skip'")
    root = Path(root)
    lists = read_lists(name, root, say)
    folder, classes, labels = lists.folder, lists.classes, lists.labels()
    texts = tuple(class_text(name, class_names) for name in classes)
    check_texts(classes, texts, str(root))
    absent, bad = check_names(folder, labels)
    if bad:
        raise InputError(
            f"{folder}: {len(bad)} of {len(labels)} videos cannot be read: {'; '.join(bad[:NAMED])}"
            f"{'; ...' * (len(bad) > NAMED)}; rename them or take them out"
        )
    if absent and missing == "error":
        place = f"; listed first: {lists.places[absent[0]]}" if absent[0] in lists.places else ""
        raise InputError(f"{folder}: {_absence(folder, labels, absent)}{place}")
    gone = set(absent)
    splits = {
        number: Split(*(tuple(video for video in part if video.name not in gone) for part in parts))
        for number, parts in sorted(lists.splits.items())
    }
    for number, split in splits.items():
        where = f"{root}: split {number}"
        if fault := _fault(split, classes):
            raise InputError(f"{where}: {fault}{instead_of(folder, absent, labels)}")
        if name == "folder" and (same := copies(folder, *([video.name for video in part] for part in split))):
            pairs = [f"{test} = {train}" for train, test in same]
            say(
                f"{where}: {len(same)} test videos are copies of training videos ({first_of(pairs)}); delete"
                " one of each"
            )
    if warning := caution(texts):
        say(f"{root}: {warning}")
    dataset = Dataset(name, folder, tuple(classes), texts, splits, read_pairs(root, classes), tuple(absent))
    for number in splits:
        if bare := dataset.untested(number):
            say(
                f"{root}: split {number}: no score covers {len(bare)} classes without a test video"
                f" ({first_of(bare)})"
            )
    return dataset


def _fault(split: Split, classes: Sequence[str]) -> str:
    """Why nothing can be trained or tested on a split, or nothing."""
    names = Counter(video.name for part in split for video in part)
    if twice := [name for name, count in names.items() if count > 1]:
        return f"{twice[0]} is listed more than once ({len(twice)} such videos)"
    trained = {video.label for video in split.train}
    if idle := [name for label, name in enumerate(classes) if label not in trained]:
        return f"{len(idle)} classes have no training video, the first is {idle[0]!r}; each needs one"
    return "" if split.test else "no test video"


def _absence(folder: Path, labels: dict[str, int], absent: Sequence[str]) -> str:
    """What is not on the disk (whole class folders, videos) and the way out. labels: by name of all listed
    videos."""
    there = {labels[name] for name in labels.keys() - set(absent)}
    bare = {name: name.rpartition("/")[0] for name in absent if labels[name] not in there}
    folders = [parent for parent in dict.fromkeys(bare.values()) if not (folder / parent).is_dir()]
    videos = [name for name in absent if bare.get(name) not in folders]
    what = [f"{len(folders)} class folder{'s' * (len(folders) > 1)} ({first_of(folders)})"] * bool(folders)
    what += [f"{len(videos)} of {len(labels)} listed videos ({first_of(videos)})"] * bool(videos)
    way = ", or go on without them with --incomplete skip"
    if bare:  # every class needs a training video: to skip them would only end in the next error
        way = " (--incomplete skip leaves out videos, not whole classes)"
    return f"{' and '.join(what)} are not there; complete the folder{way}{instead_of(folder, absent, labels)}"


# --- draws ---


def few_shot(train: Sequence[Video], k: int, seed: int) -> tuple[int, ...]:
    """Indices into `train` of k videos of every class, class by class.

    Which ones depends on the seed and the videos' names alone, not on the order of the list. For one seed the
    draws are nested: k=4 holds the two of k=2, so a larger k adds videos and exchanges none.
    Raises InputError naming a class with fewer than k videos.
    """
    if k < 1:
        raise InputError(f"k={k}: expected at least one training video per class")
    by_class = defaultdict(list)
    for index, video in enumerate(train):
        by_class[video.label].append(index)
    drawn: list[int] = []
    for label in range(max(by_class, default=-1) + 1):
        indices = sorted(by_class[label], key=lambda index: shuffle_key(seed, train[index].name))
        if len(indices) < k:
            folder = f" ({PurePosixPath(train[indices[0]].name).parent.name})" if indices else ""
            raise InputError(f"class {label}{folder} has {len(indices)} training videos, k={k} needs more")
        drawn += indices[:k]
    return tuple(drawn)


def hold_out(dataset: Dataset, seed: int, share: float = 1 / 3, untested: bool = False) -> Dataset:
    """Split 1 with a seeded `share` of each class's training videos in the place of its test videos.

    For choosing settings: what is chosen on these videos has not seen the test of split 1 or, with
    `untested`, of any split: videos that one of them tests are then on neither side. Raises InputError when a
    class has too few videos to leave one on each side.
    """
    import numpy as np  # here, so that reading a data set needs no more than its lists

    kept: list[Video] = []
    held: list[Video] = []
    tested = {video.name for split in dataset.splits.values() for video in split.test} if untested else set()
    for label, name in enumerate(dataset.classes):
        own = [video for video in dataset.splits[1].train if video.label == label]
        own = [video for video in own if video.name not in tested]
        order = np.random.default_rng([seed, label]).permutation(len(own))
        aside = int(len(own) * share)
        if not 0 < aside < len(own):
            raise InputError(
                f"class {name!r} has {len(own)} training videos{' that no split tests' * untested}: too few"
                f" to set {share:.0%} aside and choose a learning rate; give one (-p lr=RATE)"
            )
        held += [own[i] for i in order[:aside]]
        kept += [own[i] for i in order[aside:]]
    return replace(dataset, splits={1: Split(tuple(kept), tuple(held))})


def half_of_classes(dataset: Dataset, draw: int) -> list[int]:
    """Sorted labels of half of the classes (rounded down): number `draw` of a seeded series, as peers do."""
    import numpy as np

    chosen = np.random.default_rng([draw]).permutation(len(dataset.classes))[: len(dataset.classes) // 2]
    return sorted(int(label) for label in chosen)
