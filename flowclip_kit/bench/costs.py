"""Does what `list --profile paper` says about hours come true here?

    ./reproduce.sh bench costs [--record]

The same timing of single steps, then the work itself, with all processes busy as in a table:

- the demo: some cells of Table 5 (tiny-clip, stored features, everything that `train_and_test` does) are
  predicted and run, in a results folder of their own;
- full size: one training step of the full model on random features, with more videos than were timed, for the
  class lists of the three data sets.

Printed are predicted over real.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowclip_core.errors import InputError
from flowclip_kit.bench import _common as common
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.datasets.formats import Dataset
from flowclip_kit.distributed.process_pool import Pool, default_jobs
from flowclip_kit.distributed.rank import Rank
from flowclip_kit.experiments import estimates, speed
from flowclip_kit.experiments.catalogue import FULL, table5
from flowclip_kit.experiments.devices import lanes, pick_device
from flowclip_kit.experiments.experiment import Options, resolve
from flowclip_kit.experiments.runs import Workshop
from flowclip_kit.profiles import PROFILES, BackboneConfig

VARIANTS = ("baseline", "mmb", "full")
# Videos of a step at full size, each list's so that a step takes some twenty seconds.
STEPS = {"HMDB-51": 32, "UCF-101": 12, "Kinetics-400": 4}


def size(dataset: Dataset) -> estimates.Size:
    """What a prediction has to know of a data set."""
    splits = {number: (len(split.train), len(split.test)) for number, split in dataset.splits.items()}
    return estimates.Size(len(dataset.classes), splits)


def demo(name: str, shots: int, seeds: int) -> list[str]:
    """Cells of Table 5 under a drawn profile, predicted and run: means over seeds."""
    profile = resolve(name, "table5", Options())
    with (
        tempfile.TemporaryDirectory() as folder,
        Workshop(profile, Options(results=Path(folder))) as workshop,
    ):
        workshop.open(profile.roles.values())
        sets = workshop.sets
        cells = [
            cell for cell in table5(profile, k=shots) if cell.variant in VARIANTS and cell.config.seed < seeds
        ]
        texts = {name: found.texts for name, found in sets.items()}
        kinds = estimates.kinds([cell.config for cell in cells])
        here = speed.measure(profile.backbone, workshop.device, workshop.precision, kinds, texts)
        sizes = {name: size(found) for name, found in sets.items()}
        workshop.make(cells, "costs")
        lines = [
            f"{name}, Table 5 at k = {shots}, {seeds} runs a cell, {here.jobs} processes at once",
            f"{'data set':12} {'variant':10} {'train s':>9} {'predicted':>10} {'ratio':>6}"
            f" {'test s':>8} {'predicted':>10} {'ratio':>6}",
        ]
        total = {"real": 0.0, "said": 0.0}
        for dataset in sets:
            for variant in VARIANTS:
                configs = [c.config for c in cells if (c.config.dataset, c.variant) == (dataset, variant)]
                spent = [workshop.record(config)["seconds"] for config in configs]
                real = [statistics.mean(seconds[part] for seconds in spent) for part in ("train", "test")]
                said = estimates.seconds(configs[0], here, sizes)
                total["real"] += sum(real)
                total["said"] += sum(said)
                lines.append(
                    f"{dataset:12} {variant:10} {real[0]:>9.2f} {said[0]:>10.2f} {said[0] / real[0]:>6.2f}"
                    f" {real[1]:>8.2f} {said[1]:>10.2f} {said[1] / real[1]:>6.2f}"
                )
        lines.append(f"together     predicted / real {total['said'] / total['real']:.2f}")
    return lines


def _step(load, names: Sequence[str], videos: int) -> float:
    """Seconds of one training step of the full model."""
    from flowclip_core.model.flowclip import FlowCLIP

    tower = load()
    model, store = FlowCLIP(FULL, tower, names), speed.random_store(tower.width)
    speed.random_training(model, store, 1)
    began = time.perf_counter()
    speed.random_training(model, store, videos)
    return time.perf_counter() - began


def full_size(backbone: str, lists: Sequence[str]) -> list[str]:
    """A step of the full model at a backbone's size, predicted and done by every process at once."""
    device, jobs = pick_device("auto"), default_jobs()
    kinds = {role: speed.kind_of(role, FULL) for role in lists}
    here = speed.measure(BackboneConfig(backbone, None), device, "float32", kinds.values(), CLASSES)
    lines = [
        f"full size, {backbone} with random weights, one step of full, {here.jobs} processes at once",
        f"{'class names':13} {'videos':>6} {'s a step':>9} {'predicted':>10} {'ratio':>6}",
    ]
    load, _ = lanes(BackboneConfig(backbone, None), device, "float32", here.jobs, None, Rank())
    with Pool(here.jobs, threads=1 if device == "cpu" else min(8, jobs)) as pool:
        for role in lists:
            videos, cost = STEPS[role], here[kinds[role]]
            work = [(one, CLASSES[role], videos) for one in load[: here.jobs]]
            real = statistics.mean(s for _, s in pool.map(_step, work))
            said = cost.step + videos * cost.video
            lines.append(f"{role:13} {videos:>6} {real:>9.2f} {said:>10.2f} {said / real:>6.2f}")
    return lines


def main() -> int:
    """The command line; 2 for wrong input."""

    def run(options: common.Options) -> str:
        seeds = PROFILES[options.profile].seeds
        if not 1 <= options.seeds <= seeds or options.shots < 1:
            raise InputError(f"--seeds: expected 1 to {seeds}; --shots: from 1 on")
        lines = demo(options.profile, options.shots, options.seeds)
        return "\n".join(lines + (["", *full_size(options.backbone, options.lists)] if options.lists else []))

    options: dict[str, dict[str, Any]] = {
        "--profile": {"default": "demo", "choices": ("demo", "smoke")},
        "--shots": {"type": int, "default": 16},
        "--seeds": {"type": int, "default": 2},
        "--backbone": {"default": "ViT-B-16"},
        "--lists": {
            "nargs": "*",
            "default": list(STEPS),
            "choices": list(STEPS),
            "help": "at full size; none: skip",
        },
    }
    return common.run("costs", run, options)


if __name__ == "__main__":
    sys.exit(main())
