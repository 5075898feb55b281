"""The demo world: three generated sets of videos, written as real files in the layouts of the real data sets.

figures-h (16 classes) stands in for HMDB-51, figures-u (24) for UCF-101, figures-k (all 40, both looks) for
Kinetics-400. Five of 16 and three of 24 are pairs of classes that show the same stills in opposite order:
only motion tells them apart. It shows how the software and the mechanism work; it is no evidence about the
real data sets.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from flowclip_core.errors import InputError
from flowclip_core.files import naming, unfinished, write_atomically
from flowclip_kit.demo.actions import ACTIONS
from flowclip_kit.demo.figures import Action, Look, Nuisance, film, warped_phases
from flowclip_kit.distributed import locks
from flowclip_kit.distributed.process_pool import end, end_with_parent, ignore_sigint
from flowclip_kit.paths import cache_dir

NAMES = ("figures-h", "figures-u", "figures-k")
VERSION = "1"
FRAMES, RATE = 32, 12
WEIGHTS = (
    Path(__file__).parent / "weights" / "tiny_clip.safetensors"
)  # here, so that hashing it needs no torch
TRAIN, TEST = 24, 64
DRAWN = 16  # test videos of a split that its lists draw; those beyond are tested in every split


def weights_of(pretrained: str | None) -> Path:
    """The weights of the tiny CLIP: its own, or those in a folder that `makers.pretrain` wrote.

    Raises InputError for a folder without them.
    """
    if pretrained in (None, "", "none"):
        return WEIGHTS
    path = Path(str(pretrained)) / WEIGHTS.name
    if not path.is_file():
        raise InputError(
            f"--pretrained {pretrained}: backbone tiny-clip brings its own weights, or takes those of a"
            " folder that python -m flowclip_kit.demo.makers.pretrain wrote; leave the option out"
        )
    return path


LOOKS = {
    "figures-h": Look(("street", "room", "night", "grass"), (33.0, 41.0), noise=(5.0, 9.0), clutter=(1, 5)),
    "figures-u": Look(("gym", "grass", "beach", "street"), (36.0, 43.0), noise=(4.0, 7.0), clutter=(0, 3),
                      light=(0.9, 1.2), pose_noise=5.0),
}  # fmt: skip

# class name -> (action, run backwards?); the two classes of a pair stand beside each other, forward one first
_H = {
    "sit_down": ("sit", False), "stand_up": ("sit", True),
    "climb_up": ("climb", False), "climb_down": ("climb", True),
    "pick_up_box": ("pick box", False), "put_down_box": ("pick box", True),
    "throw_ball": ("throw ball", False), "catch_ball": ("throw ball", True),
    "fall_down": ("fall", False), "get_up": ("fall", True),
    "wave": ("wave", False), "clap": ("clap", False), "kick_ball": ("kick ball", False),
    "punch": ("punch", False), "run": ("run", False), "push_up": ("push up", False),
}  # fmt: skip
_U = {
    "LiftBarbell": ("lift barbell", False), "LowerBarbell": ("lift barbell", True),
    "PushCart": ("push cart", False), "PullCart": ("push cart", True),
    "RaiseFlag": ("raise flag", False), "LowerFlag": ("raise flag", True),
} | {
    name.title().replace(" ", ""): (name, False)
    for name in (
        "jumping jack", "golf swing", "basketball dribble", "archery", "cartwheel", "pull ups", "boxing",
        "jogging", "soccer kick", "squats", "lunges", "jump rope", "hammering", "sweeping", "fencing",
        "juggling", "drumming", "handstand",
    )
}  # fmt: skip


def spaced(name: str) -> str:
    """A class name as words: "sit_down" -> "sit down", "PushCart" -> "push cart"."""
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).replace("_", " ").strip()


CLASSES = {
    "figures-h": _H,
    "figures-u": _U,
    "figures-k": {spaced(name): what for name, what in (_H | _U).items()},
}


def action_of(name: str, label: str) -> Action:
    """The action behind class `label` of set `name`."""
    base, backwards = CLASSES[name][label]
    return ACTIONS[base].reversed() if backwards else ACTIONS[base]


def pairs(name: str, classes: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """The pairs of classes (among `classes`) that differ only by the direction of time."""
    table = CLASSES[name]
    forward = {table[label][0]: label for label in classes or table if not table[label][1]}
    backward = {table[label][0]: label for label in classes or table if table[label][1]}
    return [(label, backward[base]) for base, label in forward.items() if base in backward]


def render(name: str, label: str, index: int, frames: int = FRAMES) -> np.ndarray:
    """Video number `index` of a class: (frames, 64, 80, 3) uint8. The same arguments give the same bytes."""
    rng = np.random.default_rng([zlib.crc32(f"{name}/{label}/{VERSION}".encode()), index])
    look = LOOKS[name] if name in LOOKS else LOOKS[NAMES[index % 2]]
    action = action_of(name, label)
    nuisance = Nuisance(look, frames, rng)
    return film(action, nuisance, warped_phases(action, frames, rng))


def encode(frames: np.ndarray) -> bytes:
    """An .avi file of `frames` (T, H, W, 3) uint8: 12 a second, codec mpeg4 as in HMDB-51 and UCF-101."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        options = {"qmin": "3", "qmax": "3", "threads": "1"}
        stream = container.add_stream("mpeg4", rate=Fraction(RATE), options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


# --- layouts ---


@dataclass(frozen=True)
class Size:
    """How much of a set to write. The default is the whole world; tests write less."""

    classes: tuple[str, ...] | None = None
    train: int = TRAIN
    test: int = TEST


WHOLE = Size()


def video_path(name: str, label: str, index: int, size: Size) -> str:
    """Path of a video inside its set, in the layout of the set it stands in for."""
    if name == "figures-h":
        return f"videos/{label}/figures_{label}_{index:03d}.avi"
    if name == "figures-u":
        return f"UCF-101/{label}/v_{label}_g{index + 1:02d}_c01.avi"
    part = "train" if index < size.train else "val"
    return f"{part}/{label}/{_kinetics_id(label, index)}_000000_{FRAMES // RATE:06d}.avi"


def default_root() -> Path:
    """Where the demo sets are kept: a folder of the cache named after the world's version and test videos."""
    return cache_dir() / "demo" / f"{VERSION}-{TEST}"


def _kinetics_id(label: str, index: int) -> str:
    return f"fig{zlib.crc32(f'{label}/{index}'.encode()):08x}"


def test_videos(name: str, label: str, split: int, size: Size) -> set[int]:
    """Numbers of the test videos of a class in split 1, 2 or 3. Kinetics has one split.

    A world with more test videos has the same training videos, and the test videos of a smaller one first.
    """
    total, drawn = size.train + size.test, min(size.test, DRAWN)
    if name == "figures-k":
        return set(range(size.train, total))
    rng = np.random.default_rng([zlib.crc32(f"{name}/{label}/split".encode()), split])
    listed = rng.permutation(size.train + drawn)[:drawn]
    return {*map(int, listed), *range(size.train + drawn, total)}


def _lists(name: str, size: Size) -> dict[str, str]:
    """All text files of a set: {path: content}."""
    labels = list(size.classes or CLASSES[name])
    total = size.train + size.test
    table = [("a", "b"), *pairs(name, labels)]
    files = {"time_reversed_pairs.csv": "".join(f"{a},{b}\n" for a, b in table)}
    for split in (1, 2, 3):
        parts = {label: test_videos(name, label, split, size) for label in labels}
        if name == "figures-h":
            for label in labels:
                codes = {
                    Path(video_path(name, label, i, size)).name: 1 + (i in parts[label]) for i in range(total)
                }
                lines = "".join(f"{video} {code}\n" for video, code in codes.items())
                files[f"testTrainMulti_7030_splits/{label}_test_split{split}.txt"] = lines
        elif name == "figures-u":
            index, train, test = "", "", ""
            for number, label in enumerate(sorted(labels), 1):
                index += f"{number} {label}\n"
                for i in range(total):
                    video = video_path(name, label, i, size).removeprefix("UCF-101/")
                    train += f"{video} {number}\n" * (i not in parts[label])
                    test += f"{video}\n" * (i in parts[label])
            files[f"ucfTrainTestlist/trainlist{split:02d}.txt"] = train
            files[f"ucfTrainTestlist/testlist{split:02d}.txt"] = test
            files["ucfTrainTestlist/classInd.txt"] = index
    if name == "figures-k":
        for part, numbers in (("train", range(size.train)), ("val", range(size.train, total))):
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            writer.writerows(
                [label, _kinetics_id(label, i), 0, FRAMES // RATE, part] for label in labels for i in numbers
            )
            files[f"{part}.csv"] = text.getvalue()
    return files


# --- writing ---


def _write_class(folder: Path, name: str, label: str, size: Size) -> int:
    """Write the videos of one class that are not there yet; returns how many."""
    written = sum(_write_video(folder, name, label, index, size) for index in range(size.train + size.test))
    locks.sweep((folder / video_path(name, label, size.train + size.test - 1, size)).parent, ".*.part")
    return written


def _write_video(folder: Path, name: str, label: str, index: int, size: Size) -> bool:
    """Write one video unless it is there; returns whether it was written."""
    path = folder / video_path(name, label, index, size)
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not write_atomically: 7,040 fsyncs would cost more than drawing. `ensure` syncs once, at the end.
    part = path.with_name(f"{unfinished(path)}part")
    try:
        with naming(path):
            part.write_bytes(encode(render(name, label, index)))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return True


def ensure_video(name: str, label: str, index: int, root: Path, size: Size = WHOLE) -> Path:
    """The file of one video of set `name`, drawn if need be; a later `ensure` draws only the others."""
    folder = Path(root) / name
    _write_video(folder, name, label, index, size)
    return folder / video_path(name, label, index, size)


def ensure(
    name: str,
    root: Path,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    size: Size = WHOLE,
) -> Path:
    """Write set `name` to `root`/<name>/ if it is not there; returns that folder.

    Safe to stop at any time and to start twice at once: a video appears whole or not at all, with the same
    bytes whoever draws it. A marker file says that everything is there; with it a call returns at once.
    `progress(done, total)` counts videos and is called after each class. Raises InputError for an unknown
    name, and for a folder that holds another version or size of the set.
    """
    if name not in NAMES:
        raise InputError(f"{name}: no such demo set; choose one of {', '.join(NAMES)}")
    folder = Path(root) / name
    labels = list(size.classes or CLASSES[name])
    marker, begun = folder / "complete.txt", folder / "world.txt"
    counts = f"{size.train} training and {size.test} test videos each"
    summary = f"{name} v{VERSION}: {len(labels)} classes, {counts}\n"
    if begun.exists() and begun.read_text() != summary:
        raise InputError(
            f'{folder}: holds "{begun.read_text().strip()}", not "{summary.strip()}"; delete it first'
        )
    if marker.exists():
        return folder
    for path, text in {"world.txt": summary, **_lists(name, size)}.items():
        write_atomically(folder / path, text)
    each = size.train + size.test
    if jobs <= 1:
        for done, label in enumerate(labels, 1):
            _write_class(folder, name, label, size)
            progress(done * each, len(labels) * each)
    else:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(jobs, len(labels)), context, end_with_parent)
        try:
            with ignore_sigint():  # the workers start with the first tasks
                futures = [pool.submit(_write_class, folder, name, label, size) for label in labels]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                progress(done * each, len(labels) * each)
        except BrokenProcessPool as error:
            raise InputError(
                f"{folder}: a drawing process was killed, most likely for lack of memory; run the same"
                f" command again with fewer --jobs (now {jobs})"
            ) from error
        except BaseException:
            end(pool)  # a class takes many seconds, and its videos that are there stay
            raise
        pool.shutdown()
    if hasattr(os, "sync"):  # not on Windows
        os.sync()
    write_atomically(marker, summary)
    return folder
