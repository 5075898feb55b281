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
from flowclip_kit.datasets.formats import Dataset, Lists, Video, read_lists
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.experiments.experiment import Options
from flowclip_kit.experiments.runs import data_folder, open_dataset
from flowclip_kit.explore import drawings

NAMED = 10  # missing videos that are named


def open_set(name: str, data_root: str | None = None) -> Dataset:
    """A demo set, drawn if need be, or a data set below `data_root`; missing videos are left out.

    Raises InputError for lists that nothing can be trained on, such as those that name a video twice.
    """
    return open_dataset(name, _options(data_root), default_jobs())


def lists(name: str, data_root: str | None = None) -> Lists:
    """The lists of a data set as they are, whatever is wrong with them: see `formats.read_lists`."""
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
            videos = [part[label] for label in range(len(dataset.classes))]
            row |= {f"{name}, fewest of a class": min(videos), f"{name}, most of a class": max(videos)}
        rows[number] = row
    return pd.DataFrame(rows).T.rename_axis("split")


def balance(dataset: Dataset, split: int = 1) -> pd.DataFrame:
    """Videos by class (rows): columns training and test."""
    parts = [Counter(video.label for video in part) for part in dataset.splits[split]]
    table = [[part[label] for part in parts] for label in range(len(dataset.classes))]
    return pd.DataFrame(table, dataset.texts, ["training", "test"])


def overlap(lists: Lists) -> pd.DataFrame:
    """What training and test share, by split (rows).

    listed twice: names that a split holds more than once. in both: those in training and test. equal files in
    both: test videos with the same bytes as a training video of another name; missing videos do not count.
    recordings in both: groups of videos cut from one recording, which UCF-101 numbers in its names (`_g01_`).
    """
    folder, splits = lists.folder, lists.splits
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
    """The recording that a video of UCF-101 was cut from: "v_Archery_g01" of v_Archery_g01_c02.avi."""
    match = re.match(r"(.+_g\d\d)_c\d\d", PurePath(name).name)
    return match and match[1]


def overview(dataset: Dataset) -> str:
    """Classes, missing videos by name, time-reversed pairs and counts as text."""
    twins = [f"{dataset.texts[a]} / {dataset.texts[b]}" for a, b in dataset.pairs]
    count, rest = len(dataset.missing), len(dataset.missing) - NAMED
    names = ": " + ", ".join(dataset.missing[:NAMED]) if count else ""
    names += f" and {rest} more" if rest > 0 else ""
    lines = [
        f"{dataset.name}: {len(dataset.classes)} classes, {count} listed videos missing{names}",
        f"time-reversed pairs: {', '.join(twins) or 'none known'}",
        "",
        counts(dataset).T.to_string(),
    ]
    return "\n".join(lines)


@drawings.styled
def balance_picture(dataset: Dataset, split: int = 1) -> Figure:
    """Videos of each class, training and test; classes by name."""
    table = balance(dataset, split)
    fig, ax = drawings.panel(10.5, 3.6, 0.63, 1.3, 0.1, 0.43)
    x = np.arange(len(table))
    ax.bar(x - 0.2, table["training"], 0.38, color=drawings.BLUE, label="training")
    ax.bar(x + 0.2, table["test"], 0.38, color="white", ec=drawings.ORANGE, hatch="///", label="test")
    every = max(1, len(table) // 60)
    ax.set_xticks(
        x[::every], table.index[::every], rotation=60, ha="right", rotation_mode="anchor", fontsize=8
    )
    ax.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    ax.set(xlabel="class", ylabel="videos", title=f"{dataset.name}, split {split}")
    ax.xaxis.set_label_coords(0.5, -0.65)
    ax.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return fig


@drawings.styled
def sample_sheet(
    dataset: Dataset, split: int = 1, chosen: Sequence[str] | None = None, classes: int = 12, frames: int = 5
) -> Figure:
    """The first test video of some classes, a few frames each; a video that cannot be read is named instead.

    chosen: class names as words; by default `classes` of them, spread evenly over the list. Raises InputError
    for an unknown name.
    """
    first: dict[int, Video] = {}
    for video in sorted(dataset.splits[split].test, key=lambda video: (video.label, video.name)):
        first.setdefault(video.label, video)
    if unknown := [name for name in chosen or () if name not in dataset.texts]:
        raise InputError(f"{dataset.name} has no class {unknown[0]!r}")
    present = sorted(first)
    labels = [present[i] for i in segment_centres(len(present), min(classes, len(present)))]
    if chosen:
        labels = [label for label in map(dataset.texts.index, chosen) if label in first]
    shown = [first[label] for label in labels]
    rows = -(-len(shown) // 2)

    fig = Figure((10.5, 0.2 + 1.15 * rows), dpi=drawings.DPI)
    grid = fig.add_gridspec(rows, 2, left=0.01, right=0.99, top=0.96, bottom=0.01, hspace=0.4, wspace=0.04)
    for place, video in enumerate(shown):
        ax = fig.add_subplot(grid[place % rows, place // rows])
        ax.set_axis_off()
        path = dataset.folder / video.name
        title = f"{dataset.texts[video.label]}: {path.name}"
        try:
            ax.imshow(_strip(path, frames), interpolation="nearest")
        except VideoError as error:
            title += f", {str(error).removeprefix(f'{path}: ')}"
        ax.set_title(title[:70], fontsize=8)
    return fig


def _strip(path: Path, frames: int) -> np.ndarray:
    """Some frames of a video, whole, side by side: (64, w, 3) uint8."""

    def shrink(picture: np.ndarray) -> np.ndarray:
        return resize(picture[None], 64)[0].permute(1, 2, 0).numpy()

    clip = read_frames(path, lambda count: segment_centres(count, frames), shrink=shrink)
    return np.concatenate(
        [np.pad(picture, ((0, 0), (0, 3), (0, 0)), constant_values=255) for picture in clip.frames], 1
    )
