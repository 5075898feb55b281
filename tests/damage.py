"""A small data set with its features, runs and tables, made by commands in this process; and ways to damage
it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, backbone
from test_features import write_video
from test_outputs import files_of_sketches, sketches

from flowclip_core.files import write_atomically
from flowclip_kit.cli import main
from flowclip_kit.experiments import devices, runs
from flowclip_kit.reporting import notebooks, outputs, plots

LISTS = {"train.csv": range(3), "test.csv": range(3, 5)}
CLASSES = ("clap", "wave")


class Inline:
    """A pool without processes."""

    def __init__(self, jobs: int, threads: int = 1) -> None:
        self.jobs, self.threads = jobs, threads

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def map(self, work, tasks, told=lambda count: None):
        for task in tasks:
            yield task, work(*task)


@pytest.fixture(scope="module")
def cheap():
    """Commands with a small tower, without processes, notebooks, drawings or text tables."""
    tower = backbone(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "Pool", Inline)
        patch.setattr(runs, "weights_hash", lambda backbone: "weights")
        for module in (runs, devices):
            patch.setattr(module, "load_once", lambda backbone, device: tower)
        patch.setattr(notebooks, "load", lambda: None)
        patch.setattr(
            notebooks, "execute", lambda notebook, parameters, html, cwd: write_atomically(html, "shown")
        )
        patch.setattr(outputs, "as_text", lambda *arguments: "")  # the table for a terminal, slow to lay out
        patch.setattr(plots, "figures", sketches)
        patch.setattr(plots, "files", files_of_sketches)
        runs._tree.cache_clear()
        runs.opened.cache_clear()
        yield
        runs._tree.cache_clear()


def videos(folder: Path, seed: int = 0) -> Path:
    """Two classes of five videos; those of another seed differ in what they show alone."""
    for label, name in enumerate(CLASSES):
        for i in range(5):
            write_video(folder / name / f"{i}.avi", seed + 10 * label + i, frames=4 + i)
            os.utime(folder / name / f"{i}.avi", (1_600_000_000, 1_600_000_000))
    for file, numbers in LISTS.items():
        rows = [f"{name}/{i}.avi,{name}\n" for name in CLASSES for i in numbers]
        (folder / file).write_text("video,label\n" + "".join(rows))
    return folder


def words(folder: Path, data: str = "data") -> list[str]:
    """The command that makes, or finds, all there is in a folder."""
    place = ["--data-root", str(folder / data), "--results", str(folder / "results")]
    return ["table5", "--profile", "smoke", "--dataset", "folder", "--device", "cpu", "--jobs", "1", *place]


@pytest.fixture(scope="module")
def pristine(cheap, tmp_path_factory) -> Path:
    """A folder with data, cache and results, made by one command."""
    folder = tmp_path_factory.mktemp("pristine")
    videos(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWCLIP_CACHE", str(folder / "cache"))
        assert main(words(folder)) == 0
    return folder


def tables(folder: Path) -> dict[str, bytes]:
    """What a user reads: scores, right videos, summary and figures."""
    found = (folder / "results" / "smoke").glob("*.csv"), (folder / "results" / "smoke" / "figures").glob("*")
    return {path.name: path.read_bytes() for files in found for path in files}


def copy(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def store(folder: Path) -> Path:
    (about,) = (folder / "cache" / "features").glob("*/about.json")
    return about.parent


def record(folder: Path, number: int = 0) -> Path:
    return sorted((folder / "results" / "runs").glob("*.json"))[number]


def changed(path: Path, change: Callable) -> None:
    """A JSON file, or an array, after `change`, with the times it had."""
    before = path.stat()
    if path.suffix == ".npy":
        array = np.load(path)
        other = change(array)
        np.save(path, array if other is None else other)
    elif path.suffix == ".csv":
        head, *rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join([head, *change(rows)]))
    else:
        said = json.loads(path.read_text())
        change(said)
        path.write_text(json.dumps(said))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
