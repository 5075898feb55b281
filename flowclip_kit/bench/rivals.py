"""One training step of every rival, and of the full model, at ViT-B/16's size: seconds and memory.

    ./reproduce.sh bench rivals [--record]

Seeded random weights, HMDB-51's class names, random features of 32 videos, each method with the frames it
takes and its own optimiser. Every method runs in a process of its own; memory is the most that steps add to
what the process held before.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_kit.bench import _common as common
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.experiments.devices import gpu_name, pick_device
from flowclip_kit.rivals import METHODS, Recipe
from flowclip_kit.rivals.training import add_gradients, optimiser_of

OURS = "FlowCLIP, all parts"
BATCH = 32


def stepper(name: str, tower: Backbone, texts: list[str], batch: int):
    """A function that takes one training step on random features, and the number of trained parameters."""
    model: Any  # FlowCLIP takes its step as a rival does
    recipe: Recipe | None
    if name == OURS:
        model, recipe = FlowCLIP(ModelConfig(), tower, texts), Recipe()
        model.videos_at_once = model.tree.at_once
    else:
        model, recipe = METHODS[name](tower, texts), METHODS[name].recipe
        assert recipe is not None  # `main` takes the methods that are trained
    shape, generator = (batch, model.config.frames, tower.width), torch.Generator().manual_seed(0)
    videos = torch.randn(shape, generator=generator).to(tower.device)
    targets = (torch.arange(batch) % len(texts)).to(tower.device)
    if name != OURS:
        model.start(videos, targets)
    optimiser = optimiser_of(replace(recipe, lr=1e-6), list(model.trained().values()))
    model.train()

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = add_gradients(model, videos, targets, recipe)
        optimiser.step()
        return loss

    return step, sum(value.numel() for value in model.trained().values())


def measure(
    name: str, device: str, rounds: int, tower: Backbone, texts: list[str], batch: int = BATCH
) -> dict:
    """Median seconds of a step, the GiB that steps add, and the number of trained parameters."""
    step, parameters = stepper(name, tower, texts, batch)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**30
    else:
        before = _peak()
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        step()  # its loss is read, so a GPU has gone through all but the optimiser
        seconds.append(time.perf_counter() - began)
    after = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else _peak()
    return {"seconds": statistics.median(seconds[1:]), "gib": after - before, "parameters": parameters}


def _peak() -> float:
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / (2**20 if sys.platform != "darwin" else 2**30)


def lines(found: dict[str, dict]) -> list[str]:
    """One line a method."""
    rows = [f"{'method':22}{'parameters':>12}{'s a step':>10}{'GiB':>8}"]
    for name, row in found.items():
        rows.append(f"{name:22}{row['parameters']:>12,}{row['seconds']:>10.3f}{row['gib']:>8.2f}")
    return rows


def main() -> int:
    """The command line; 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="./reproduce.sh bench rivals", allow_abbrev=False)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help=f"write the figures into {common.README}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.rounds < 1:
            raise InputError("--rounds: a number from 1 on is needed")
        device = pick_device(options.device)
    except InputError as error:
        print(f"reproduce.sh: {error}", file=sys.stderr)
        return 2
    if options.one:
        tower = load_backbone("ViT-B-16", None, device=device)
        print(json.dumps(measure(options.one, device, options.rounds, tower, list(CLASSES["HMDB-51"]))))
        return 0
    found = {}
    for name in (OURS, *(name for name, method in METHODS.items() if method.recipe)):
        command = [
            sys.executable,
            "-P",
            __file__,
            "--device",
            device,
            "--rounds",
            str(options.rounds),
            "--one",
            name,
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    hardware = f"{default_jobs()} CPU cores" if device == "cpu" else gpu_name()
    said = f"ViT-B/16, random weights, float32, HMDB-51's 51 class names, {BATCH} videos, on {hardware}\n"
    said += "\n".join(lines(found))
    print(said)
    if options.record:
        common.record("rivals", "rivals", said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
