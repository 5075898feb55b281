"""Does decoding hold up the image tower, and does memory grow with the number of videos?

    ./reproduce.sh bench extraction VIDEOS [--record]

VIDEOS is a folder of real videos. The backbone has its full size and seeded random weights: time and memory
do not depend on what weights say. Two figures come out:

- throughput of decode + encode over that of encode alone: in turn, in the same processes, on the same videos,
whose
  frames lie in memory for the second; the median of the rounds' ratios, and all of them;
- peak memory of one lane's process and of the command that drives it, for few and for ten times as many
videos
  (copies, of few frames: encoding takes the time, the number of videos might take the memory).

On a GPU the share of time that it waits for decoding is in the first table.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowclip_core.config import PRECISIONS
from flowclip_core.errors import InputError, VideoError
from flowclip_kit.bench import _common as common
from flowclip_kit.datasets import extraction
from flowclip_kit.datasets.disk import videos_in
from flowclip_kit.datasets.extraction import fill, plan
from flowclip_kit.datasets.feature_store import StoreConfig
from flowclip_kit.datasets.formats import Dataset, Split, Video
from flowclip_kit.distributed.process_pool import Pool, default_jobs
from flowclip_kit.distributed.rank import Rank
from flowclip_kit.experiments.devices import gpu_name, lanes, pick_device, pick_precision
from flowclip_kit.profiles import BackboneConfig


@dataclass(frozen=True)
class Case:
    """One way of extracting, for one process."""

    backbone: BackboneConfig
    device: str
    precision: str
    frames: int
    crops: tuple[str, ...]

    @property
    def store(self) -> StoreConfig:
        return StoreConfig("benchmark", self.frames, self.crops, precision=self.precision)


def readable(folder: Path) -> list[str]:
    """Videos below `folder` that can be decoded."""
    found = []
    for name in videos_in(folder, depth=2):
        try:
            extraction.read_frames(folder / name, lambda count: [0])
        except VideoError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        found.append(name)
    if not found:
        raise InputError(f"{folder}: no readable video in it or two folders below")
    return found


def as_dataset(folder: Path, names: Sequence[str]) -> Dataset:
    """The named videos as a data set; its classes mean nothing."""
    return Dataset(
        "benchmark", folder, ("any",), ("any",), {1: Split(tuple(Video(name, 0) for name in names), ())}
    )


def both_ways(case: Case, folder: Path, names: list[str], load, decoders: int, rounds: int) -> list[dict]:
    """Runs in a lane's process: seconds of encoding these videos alone, then with their decoding, `rounds`
    times."""
    encoder = load()
    size = encoder.image_size
    pictures = []
    for name in names:
        frames = extraction._decode(folder, name, case.store, size)[1]
        assert frames is not None, name  # `readable` has read it
        pictures.append(frames)
    extraction._encode(pictures[0], encoder, case.crops).features()  # the first time is slower
    measured = []
    for _ in range(rounds):
        began = time.perf_counter()
        for one in pictures:
            extraction._encode(one, encoder, case.crops).features()
        alone = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as cache:
            os.environ["FLOWCLIP_CACHE"] = cache
            wanted = plan(as_dataset(folder, names), case.store)
            filled = fill(wanted, wanted.parts, 0, load, decoders)
        measured.append(
            {"alone": alone, "both": filled.seconds, "waited": filled.waited, "videos": len(names)}
        )
    return measured


def peak(case: Case, folder: Path, videos: int) -> tuple[float, float]:
    """Peaks in MiB, of lane and command, while `videos` copies are extracted; in a process of its own."""
    names = readable(folder)
    with tempfile.TemporaryDirectory() as place:
        copies = Path(place, "videos")
        copies.mkdir()
        for number in range(videos):
            name = names[number % len(names)]
            (copies / f"{number:05d}{Path(name).suffix}").symlink_to((folder / name).absolute())
        os.environ["FLOWCLIP_CACHE"] = str(Path(place, "cache"))
        found, decoders = lanes(case.backbone, case.device, case.precision, 1, None, Rank())
        with Pool(1) as pool:
            dataset = as_dataset(copies, [path.name for path in copies.iterdir()])
            store = extraction.ensure_features(dataset, case.store, found[:1], pool, decoders=decoders)
            assert len(store.index) == videos
            return pool.submit(common.peak_mib).result(), common.peak_mib()


def measure(case: Case, folder: Path, rounds: int, few: int, memory_frames: int) -> str:
    """Both measurements as a text."""
    names = readable(folder)
    jobs = default_jobs() if case.device == "cpu" else 1
    found, decoders = lanes(case.backbone, case.device, case.precision, jobs, None, Rank())
    with Pool(len(found)) as pool:
        tasks = [(case, folder, names, load, decoders, rounds) for load in found]
        lanes_measured = [result for _, result in pool.map(both_ways, tasks)]
    pictures = sum(one[0]["videos"] for one in lanes_measured) * case.frames * len(case.crops)
    alone, both = (
        [sum(lane[i][key] for lane in lanes_measured) for i in range(rounds)] for key in ("alone", "both")
    )
    waited = sum(one["waited"] for lane in lanes_measured for one in lane)
    ratios = [a / b for a, b in zip(alone, both, strict=True)]
    hardware = f"{jobs} CPU cores" if case.device == "cpu" else gpu_name()
    lines = [
        f"{case.backbone.name}, random weights, {case.precision}, on {hardware}; {len(names)} videos a lane,"
        f" {case.frames} frames x {len(case.crops)} crops",
        f"encode alone      {len(found) * pictures / statistics.median(alone):8.2f} pictures/s",
        f"decode + encode   {len(found) * pictures / statistics.median(both):8.2f} pictures/s",
        f"ratio             {statistics.median(ratios):8.3f} (median of {rounds}:"
        f" {', '.join(f'{ratio:.3f}' for ratio in sorted(ratios))})",
        f"towers waited     {100 * waited / sum(both):8.1f} % of the time for decoding",
    ]
    if few:
        small = replace(case, frames=memory_frames, crops=("centre",))
        peaks = {videos: common.alone(peak, small, folder, videos) for videos in (few, 10 * few)}
        lines += ["", f"peak memory, MiB, {memory_frames} frames x 1 crop, one lane"]
        lines += [
            f"{videos:6d} videos     lane {a:8.0f}   command {b:8.0f}" for videos, (a, b) in peaks.items()
        ]
        sums = [sum(both) for both in peaks.values()]
        lines.append(f"ratio             {sums[1] / sums[0]:8.3f}")
    return "\n".join(lines)


def main() -> int:
    """The command line; 2 for wrong input."""

    def run(options: common.Options) -> str:
        if not options.videos.is_dir():
            raise InputError(f"{options.videos}: no such folder; expected one of real videos")
        if min(options.rounds, options.frames, options.memory_frames) < 1 or options.few < 0:
            raise InputError("--rounds, --frames and --memory-frames: expected 1 or more; --few: 0 or more")
        device = pick_device(options.device)
        precision = pick_precision(options.precision, device)
        crops = tuple(options.crops.split(","))
        case = Case(BackboneConfig(options.backbone, None), device, precision, options.frames, crops)
        return measure(case, options.videos, options.rounds, options.few, options.memory_frames)

    options: dict[str, dict[str, Any]] = {
        "videos": {"type": Path},
        "--backbone": {"default": "ViT-B-16"},
        "--device": common.DEVICE,
        "--precision": {"choices": PRECISIONS},
        "--frames": {"type": int, "default": 32},
        "--crops": {"default": "centre", "help": "separated by commas"},
        "--rounds": {"type": int, "default": 3},
        "--few": {
            "type": int,
            "default": 20,
            "help": "videos of the smaller memory measurement; 0 leaves it out",
        },
        "--memory-frames": {"type": int, "default": 4},
    }
    return common.run("extraction VIDEOS", run, options)


if __name__ == "__main__":
    sys.exit(main())
