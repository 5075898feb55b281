"""A data set at a glance: splits, counts, class balance, overlap, a sample of its videos."""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flowclip_core.data.video import read_frames, resize, segment_centres
from flowclip_core.errors import InputError, VideoError
from flowclip_core.files import sha256
from flowclip_kit.datasets.formats import Dataset, Lists, read_lists
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.experiments.experiment import Options
from flowclip_kit.experiments.runs import data_folder, open_dataset
from flowclip_kit.explore import drawings

NAMED = 10  # missing videos that are named


def open_set(name: str, data_root: str | None = None) -> Dataset:
    """A demo set, drawn if need be, or a data set below `data_root`; listed videos that are missing are left
    out.

    Raises InputError for lists that nothing can be trained on, like those that name a video twice: see
    `overlap`.
    """
    return open_dataset(name, _options(data_root), default_jobs())


def lists(name: str, data_root: str | None = None) -> Lists:
    """The lists of a data set as they are, whatever is wrong with them: see `datasets.read_lists`."""
    return read_lists(name, data_folder(name, _options(data_root), default_jobs()))


def _options(data_root: str | None) -> Options:
    return Options(data_root=Path(data_root) if data_root else None, incomplete="skip")


def counts(dataset: Dataset) -> pd.DataFrame:
    """Videos by split (rows): training, test, and the fewest and most of a class in each."""
    rows = {}
    for number, split in dataset.splits.items():
        train, test = (Counter(video.label for video in part) for part in split)
        row = {"training": len(split.train), "test": len(split.test)}
        for name, part in (("training", train), ("test", test)):
            found = [part[label] for label in range(len(dataset.classes))]
            row |= {f"{name}, fewest of a class": min(found), f"{name}, most of a class": max(found)}
        rows[number] = row
    return pd.DataFrame(rows).T.rename_axis("split")


def balance(dataset: Dataset, split: int = 1) -> pd.DataFrame:
    """Videos by class (rows): columns training and test."""
    parts = [Counter(video.label for video in part) for part in dataset.splits[split]]
    table = [[part[label] for part in parts] for label in range(len(dataset.classes))]
    return pd.DataFrame(table, dataset.texts, ["training", "test"])


def overlap(found: Lists) -> pd.DataFrame:
    """By split (rows), what training and test share.

    listed twice: names that a split holds more than once. in both: those of them in training and test. equal
    files in
    both: test videos whose bytes a training video of another name has, too; videos that are not there count
    as none.
    recordings in both: groups of videos cut from one recording, which UCF-101 numbers in its names (`_g01_`).
    """
    folder, _, splits = found
    size, digest = functools.cache(_size), functools.cache(sha256)
    rows = {}
    for number, split in splits.items():
        train, test = ([video.name for video in part] for part in split)
        rivals = defaultdict(list)  # only files of one size can be equal, and few are
        for name in {*train}:
            rivals[size(folder / name)].append(folder / name)
        equal = 0
        for path in (folder / name for name in {*test} - {*train}):
            others = rivals.get(size(path), []) if size(path) else []
            equal += bool(others) and digest(path) in map(digest, others)
        groups = [{_recording(name) for name in part} - {None} for part in (train, test)]
        rows[number] = {
            "listed twice": sum(count > 1 for count in Counter(train + test).values()),
            "in both": len({*train} & {*test}),
            "equal files in both": equal,
            "recordings in both": len(groups[0] & groups[1]),
        }
    return pd.DataFrame(rows).T.rename_axis("split")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _recording(name: str) -> str | None:
    """The recording that a video of UCF-101 was cut from: «v_Archery_g01» of v_Archery_g01_c02.avi."""
    found = re.match(r"(.+_g\d\d)_c\d\d", PurePath(name).name)
    return found and found[1]


def overview(dataset: Dataset) -> str:
    """Classes, missing videos by name, time-reversed pairs and counts as text."""
    twins = [f"{dataset.texts[a]} / {dataset.texts[b]}" for a, b in dataset.pairs]
    some, rest = dataset.missing[:NAMED], len(dataset.missing) - NAMED
    missing = (": " + ", ".join(some) + (f" and {rest} more" if rest > 0 else "")) if some else ""
    lines = [
        f"{dataset.name}: {len(dataset.classes)} classes, {len(dataset.missing)} listed videos missing{missing}",
        f"time-reversed pairs: {', '.join(twins) or 'none known'}",
        "",
        counts(dataset).T.to_string(),
    ]
    return "\n".join(lines)


def balance_picture(dataset: Dataset, split: int = 1) -> Figure:
    """Videos of each class, training and test; classes by name."""
    table = balance(dataset, split)

    def draw(fig: Figure) -> None:
        ax = fig.add_axes((0.06, 0.36, 0.93, 0.52))
        x = np.arange(len(table))
        ax.bar(x - 0.2, table["training"], 0.38, color=drawings.BLUE, label="training")
        ax.bar(x + 0.2, table["test"], 0.38, color="white", ec=drawings.ORANGE, hatch="///", label="test")
        every = max(1, len(table) // 60)
        ax.set_xticks(
            x[::every], table.index[::every], rotation=60, ha="right", rotation_mode="anchor", fontsize=8
        )
        ax.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        ax.set_ylabel("videos")
        ax.set_xlabel("class")
        ax.set_title(f"{dataset.name}, split {split}", loc="left")
        ax.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))

    return drawings.figure(10.5, 3.6, draw)


def sample_sheet(
    dataset: Dataset, split: int = 1, chosen: Sequence[str] | None = None, classes: int = 12, frames: int = 5
) -> Figure:
    """The first test video of some classes, a few frames each; a video that cannot be read is named instead.

    chosen: which classes, as they read in prompts; else `classes` of them, evenly out of the list. Raises
    InputError for another name.
    """
    first = {}
    for video in sorted(dataset.splits[split].test, key=lambda video: (video.label, video.name)):
        first.setdefault(video.label, video)
    if unknown := [name for name in chosen or () if name not in dataset.texts]:
        raise InputError(f"{dataset.name} has no class {unknown[0]!r}")
    there = sorted(first)
    labels = [there[i] for i in segment_centres(len(there), min(classes, len(there)))]
    if chosen:
        labels = [label for label in map(dataset.texts.index, chosen) if label in first]
    shown = [first[label] for label in labels]
    rows = -(-len(shown) // 2)

    def draw(fig: Figure) -> None:
        grid = fig.add_gridspec(
            rows, 2, left=0.01, right=0.99, top=0.96, bottom=0.01, hspace=0.4, wspace=0.04
        )
        for place, video in enumerate(shown):
            ax = fig.add_subplot(grid[place % rows, place // rows])
            ax.set_axis_off()
            title = f"{dataset.texts[video.label]}: {PurePath(video.name).name}"
            try:
                ax.imshow(_strip(dataset.folder / video.name, frames), interpolation="nearest")
            except VideoError as error:
                title += f", {str(error).removeprefix(f'{dataset.folder / video.name}: ')}"
            ax.set_title(title[:70], loc="left", fontsize=8)

    return drawings.figure(10.5, 0.2 + 1.15 * rows, draw)


def _strip(path: Path, frames: int) -> np.ndarray:
    """Some frames of a video, whole, side by side: (64, w, 3) uint8."""

    def shrink(picture: np.ndarray) -> np.ndarray:
        return resize(picture[None], 64)[0].permute(1, 2, 0).numpy()

    clip = read_frames(path, lambda count: segment_centres(count, frames), shrink=shrink)
    return np.concatenate(
        [np.pad(picture, ((0, 0), (0, 3), (0, 0)), constant_values=255) for picture in clip.frames], 1
    )
