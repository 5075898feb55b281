"""A training step and a test from stored features, and what the kit spares: texts, pictures, memory.

    ./reproduce.sh bench training [--record]

ViT-B/16's size with seeded random weights, HMDB-51's class names, all parts on, T = 8, random features; on a
CPU every core takes micro-batches of its own. Ways of the same work in turn, with the median of the rounds'
ratios:

- the whole step beside the two streams and the communication block alone, and beside the matmul peak of the
same run;
- one video named, by the tree and by 77 tokens for every class;
- texts that no motion shifts: encoded once, or again for each video as instance-conditioned code does;
- a draw of T frames from the feature store against encoding the same frames again.

Last, the largest stage of the paper: one step of 256 videos with Kinetics-400's class names, in a process of
its own, with the most memory that it held.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flowclip_core.config import ModelConfig
from flowclip_core.data.features import drawn_frames
from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.model.prompts import prompt_vectors
from flowclip_core.training import loop
from flowclip_kit.bench import _common as common
from flowclip_kit.bench.prompts import one_by_one
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.experiments.catalogue import BASELINE, FULL
from flowclip_kit.experiments.devices import gpu_name, pick_device

BATCH = 32


def stepper(tower: Backbone, config: ModelConfig, names, batch: int, lanes: int, run):
    """One training step on random features, as `loop.train` makes it."""
    model = FlowCLIP(config, tower, names).train()
    features = torch.randn(batch, config.frames, tower.width, generator=torch.Generator().manual_seed(0))
    features, targets = features.to(tower.device), (torch.arange(batch) % len(names)).to(tower.device)
    micro = loop.micro_batch_for(model, None, lanes)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loop.gradients(model, features, targets, micro, run)

    return step


def stored(folder: Path, width: int) -> FeatureStore:
    """A store of BATCH videos with random features, on the disk as real ones are."""
    np.save(
        folder / "features.npy",
        np.random.default_rng(0).normal(size=(BATCH, 1, 32, width)).astype(np.float16),
    )
    features = np.load(folder / "features.npy", mmap_mode="r")
    return FeatureStore(
        folder, features, ("centre",), pd.DataFrame({"name": [str(row) for row in range(BATCH)]})
    )


def measure(device: str, rounds: int, lanes: int) -> str:
    """All but the memory, as a text."""
    tower, names = load_backbone("ViT-B-16", None, device=device), list(CLASSES["HMDB-51"])
    hardware = f"{lanes} CPU cores" if device == "cpu" else gpu_name()
    lines = [
        "ViT-B/16, random weights, float32, HMDB-51's 51 class names, H = 5, T = 8,"
        f" on {hardware}, {rounds} rounds"
    ]
    with loop.lanes_of(lanes) as run, tempfile.TemporaryDirectory() as folder:
        full = FlowCLIP(FULL, tower, names).eval()
        features = torch.randn(1, 8, tower.width, generator=torch.Generator().manual_seed(0)).to(device)
        plainly = one_by_one(tower, names, cut=False)
        hand_made = prompt_vectors(tower, FULL.prompt)[None]
        store, rng = stored(Path(folder), tower.width), np.random.default_rng(0)
        pictures = torch.zeros(8, 3, tower.image_size, tower.image_size, dtype=torch.uint8)
        rows = np.arange(BATCH)

        def by_tree() -> torch.Tensor:
            return full(features)["logits"]

        def by_tokens() -> torch.Tensor:
            out = full.encode_video(features)
            return full.score_classes(out, torch.cat([part(out["prompts"]) for part in plainly], 1))["logits"]

        with torch.inference_mode():
            apart = (by_tree() - by_tokens()).norm() / by_tokens().norm()
        if not apart < 1e-4:
            raise InputError(f"one video is named differently by the two ways: {apart:.1e}")
        ways = {
            "step, all parts": stepper(tower, FULL, names, BATCH, lanes, run),
            "step, baseline": stepper(tower, BASELINE, names, BATCH, lanes, run),
            "one video, tree": torch.inference_mode()(by_tree),
            "one video, 77 tokens": torch.inference_mode()(by_tokens),
            "static texts, once": torch.inference_mode()(lambda: full.tree(hand_made)),
            "static texts, each video": torch.inference_mode()(
                lambda: full.tree(hand_made.expand(BATCH, -1, -1))
            ),
            "features, drawn": lambda: store.take(rows, drawn_frames(rng, BATCH, 32, 8)),
            "features, encoded": torch.inference_mode()(lambda: tower.encode_frames(pictures)),
        }
        for way in ways.values():
            way()  # buffers, pages
        spent = common.in_turn(ways, rounds)
        peak = common.matmul_peak(device, torch.float32, run, lanes)
        peaks = [peak(spent["step, all parts"][0]) for _ in range(rounds)]
    each = {name: BATCH for name in ways if not name.startswith(("one video", "features, encoded"))}
    spent = {name: [seconds / each.get(name, 1) for seconds in found] for name, found in spent.items()}
    lines += [f"{name:26} {statistics.median(found):10.6f} s a video" for name, found in spent.items()]
    step, rate = statistics.median(spent["step, all parts"]), statistics.median(peaks)
    lines.append(
        f"{'matmul peak':26} {rate:10.1f} GFLOP/s; a step is {step * rate / 159:.3f} s a video at 159"
    )
    pairs = [
        ("one video, 77 tokens", "one video, tree"),
        ("static texts, each video", "static texts, once"),
        ("features, encoded", "features, drawn"),
        ("step, all parts", "step, baseline"),
    ]
    for slow, fast in pairs:
        middle, least, most = common.ratio(spent[slow], spent[fast])
        lines.append(f"{slow} / {fast}: {middle:,.1f} ({least:,.1f} to {most:,.1f})")
    return "\n".join(lines)


def largest(device: str, lanes: int) -> float:
    """Peak memory in GiB of one step of 256 videos and 400 classes; runs in a process of its own."""
    tower = load_backbone("ViT-B-16", None, device=device)
    with loop.lanes_of(lanes) as run:
        stepper(tower, FULL, list(CLASSES["Kinetics-400"]), 256, lanes, run)()
    return torch.cuda.max_memory_reserved() / 2**30 if device == "cuda" else common.peak_mib() / 1024


def main() -> int:
    """The command line; 2 for wrong input."""

    def run(options: common.Options) -> str:
        if options.rounds < 1:
            raise InputError("--rounds: a number from 1 on is needed")
        if options.record and options.no_memory:
            raise InputError("--record takes all figures; leave --no-memory out")
        device = pick_device(options.device)
        lanes = default_jobs() if device == "cpu" else 1
        text = measure(device, options.rounds, lanes)
        if options.no_memory:
            return text
        gib = common.alone(largest, device, lanes)
        return f"{text}\npeak memory of one step, Kinetics-400's 400 class names, 256 videos: {gib:.2f} GiB"

    without = {"action": "store_true", "help": "leave the step of 256 videos out: minutes on a CPU"}
    rounds = {"type": int, "default": 5}
    return common.run(
        "training", run, {"--device": common.DEVICE, "--rounds": rounds, "--no-memory": without}
    )


if __name__ == "__main__":
    sys.exit(main())
