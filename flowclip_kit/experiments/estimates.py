"""What a profile takes on this machine before it is begun: gigabytes and hours of its features, hours of its
runs."""

from __future__ import annotations

import functools
import heapq
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from flowclip_core.config import TINY, ModelConfig, TrainConfig
from flowclip_kit.datasets.acquire import FACTS
from flowclip_kit.experiments.catalogue import ALL_TARGETS, FULL, PAPER_TARGETS, TARGETS, Cell, Target
from flowclip_kit.experiments.experiment import Experiment
from flowclip_kit.experiments.run_config import RunConfig
from flowclip_kit.experiments.speed import TEST_BATCH, TRAIN_BATCH, Speed, amounts, held, known_speed, speed
from flowclip_kit.paths import root
from flowclip_kit.profiles import Profile

HELD_OUT = 1 / 3  # of the training videos, where a learning rate is chosen


@dataclass(frozen=True)
class Estimate:
    """Of one data set: how many videos and pictures, bytes of its stored features, hours of encoding."""

    dataset: str
    videos: int
    pictures: int
    bytes: int
    hours: float


def of_profile(profile: Profile, pictures_per_second: float) -> list[Estimate]:
    """Estimates for the real data sets of a profile, none for those that are drawn."""
    views, found = profile.frames_stored * len(profile.store_crops), []
    for name in profile.roles.values():
        if name in FACTS:
            videos = FACTS[name].videos
            pictures = videos * views
            hours = pictures / pictures_per_second / 3600
            found.append(
                Estimate(name, videos, pictures, 2 * pictures * _width(profile.backbone.name), hours)
            )
    return found


@functools.lru_cache
def _width(backbone: str) -> int:
    """D of an open_clip model, without building it."""
    import open_clip

    return open_clip.get_model_config(backbone)["embed_dim"]


# --- the runs -----------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """Classes of a data set, and its videos of (train, test) by split."""

    classes: int
    splits: Mapping[int, tuple[int, int]]


OFFICIAL = {name: Size(facts.classes, facts.expected) for name, facts in FACTS.items()}


class Pass(NamedTuple):
    """A part of a run: videos through training or test, `batch` at a time, and what each of them asks for."""

    train: bool
    videos: float
    batch: int
    asked: np.ndarray  # see `speed.amounts`


@dataclass(frozen=True)
class Forecast:
    """Of one target: runs that train, runs that only test, hours with all processes at work, peak GiB of a
    process."""

    target: str
    trainings: int
    tests: int
    hours: float
    gib: float


def runs(cells: Iterable[Cell]) -> tuple[list[RunConfig], list[RunConfig]]:
    """The distinct runs behind some cells: trainings and plain tests, then transfers, which test their
    weights."""
    configs = list(dict.fromkeys(cell.config for cell in cells))
    sources = {replace(one, transfer=None): None for one in configs if one.train or not one.transfer}
    return list(sources), [one for one in configs if one.transfer]


def rounds(target: Target, profile: Profile) -> list[list[RunConfig]]:
    """A target's distinct runs under a profile, in parts that wait for each other; data sets can give all k
    and splits.

    Cells that depend on scores are as many whatever the scores.
    """
    own = replace(profile, roles={role: name for role, name in profile.roles.items() if role in target.roles})
    cells = target.cells(own)
    found = list(runs(cells))
    if target.then:
        scores = pd.DataFrame(
            [(0, "top1", cell.variant, cell.config.train.lr, 0.0) for cell in cells if cell.config.train],
            columns=["split", "metric", "variant", "lr", "value"],
        )
        more = target.then(own, scores)
        found += runs(more) if more else []
    return found


def seen(train: TrainConfig, videos: int) -> int:
    """Videos that pass through a training on `videos` of them; the last batch of an epoch can be smaller."""
    per_epoch = -(-videos // train.batch)
    epochs, rest = divmod(train.total_steps(videos), per_epoch)
    return epochs * videos + rest * train.batch


def passes(config: RunConfig, sizes: Mapping[str, Size], tokens: Mapping[str, int]) -> list[Pass]:
    """The work of one run. tokens: of each data set's prompt tree at H=5."""
    model, found = config.model, []

    def test(name: str, videos: float, share: float = 1.0) -> None:
        """All views of some videos, with a share of the classes."""
        classes, nodes = _classes(sizes[name].classes, share), _nodes(tokens[name], model, share)
        views = config.evaluation.clips * len(config.evaluation.crops)
        if not model.map:  # the texts are the same for all videos: one tree, once
            found.append(Pass(False, 1.0, 1, amounts(ModelConfig(), 0, nodes, 1) * [0, 0, 0, 0, 1, 1]))
        found.append(Pass(False, videos * views, TEST_BATCH, amounts(model, classes, nodes, TEST_BATCH)))

    size = sizes[config.dataset]
    training, testing = size.splits[config.split]
    if config.held_out:
        training, testing = training - int(training * HELD_OUT), int(training * HELD_OUT)
    if config.train and not config.transfer:
        videos = training if config.k is None else config.k * size.classes
        total = seen(config.train, videos)
        nodes, steps = _nodes(tokens[config.dataset], model), config.train.total_steps(videos)
        asked = amounts(model, size.classes, nodes, total / steps)
        found.append(Pass(True, total, min(config.train.batch, videos), asked))
    if transfer := config.transfer:
        testing = sizes[transfer.dataset].splits[transfer.split][1]
        for _ in range(transfer.draws):
            test(transfer.dataset, testing / 2, 0.5)
    orders = 4 if config.evaluation.controls else 1  # in order, and three controls
    test((transfer or config).dataset, testing * orders)
    return found


def _classes(classes: int, share: float) -> int:
    return int(classes * share)


def _nodes(tokens: int, model: ModelConfig, share: float = 1.0) -> int:
    """Nodes of a tree for this model's H, behind which a share of the class nodes stands."""
    prefix = FULL.prompt_length + 1
    return model.prompt_length + 1 + round((tokens - prefix) * share)


def seconds(work: Sequence[Pass], here: Speed) -> float:
    """Of one run, in one process while all are busy."""
    return float(sum(one.videos * one.asked @ (here.train if one.train else here.view) for one in work))


def gib(work: Sequence[Pass], here: Speed) -> float:
    """Peak of a process."""
    kept = [0.0]
    for one in work:
        videos = int(min(one.batch, one.videos, TRAIN_BATCH if one.train else TEST_BATCH))
        prices = here.train_bytes if one.train else here.view_bytes
        kept.append(float(held(one.asked, videos, here.rows) @ prices))
    return float(here.base_bytes + max(kept)) / 2**30


def makespan(spent: Iterable[float], jobs: int) -> float:
    """Seconds until the last is done, when each process takes the longest that is left."""
    free = [0.0] * jobs
    for one in sorted(spent, reverse=True):
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def forecast(profile: Profile, here: Speed, sizes: Mapping[str, Size] = OFFICIAL) -> list[Forecast]:
    """One row a target, and `all`: the paper's tables and panels, with runs that they share made once."""
    found: list[Forecast] = []
    work: dict[RunConfig, list[Pass]] = {}

    def add(name: str, parts: list[list[RunConfig]]) -> None:
        for one in {config for part in parts for config in part} - set(work):
            work[one] = passes(one, sizes, here.tokens)
        every = [config for part in parts for config in part]
        trainings = sum(bool(one.train and not one.transfer) for one in every)
        spent = sum(makespan([seconds(work[one], here) for one in part], here.jobs) for part in parts)
        peak = max((gib(work[one], here) for one in every), default=0.0)
        found.append(Forecast(name, trainings, len(every) - trainings, spent / 3600, peak))

    parts = {name: rounds(TARGETS[name], profile) for name in ALL_TARGETS if name in TARGETS}
    for name, one in parts.items():
        add(name, one)
    together = zip(*(one for name, one in parts.items() if name in PAPER_TARGETS), strict=True)
    add("all", [list(dict.fromkeys(config for part in same for config in part)) for same in together])
    return found


# --- of one call --------------------------------------------------------------------------------------------


def expected_seconds(profile: Profile, configs: Iterable[RunConfig]) -> list[float]:
    """Seconds that one process takes for each run, as far as known without measuring; else nan.

    On drawn data: from the recorded runs of the demo, by steps. On real data: from this machine's speed,
    where `speed` has measured it before.
    """
    if profile.backbone.name == TINY:
        step, test = _demo_prices()
        return [step * config.train.total_steps(400) + test if config.train else test for config in configs]
    here = known_speed(profile.backbone)
    if here is None:
        return [math.nan for _ in configs]
    return [
        seconds(passes(config, OFFICIAL, here.tokens), here) if config.dataset in OFFICIAL else math.nan
        for config in configs
    ]


@functools.lru_cache
def _demo_prices() -> tuple[float, float]:
    """Seconds of a training step and of a test in the recorded runs of the demo."""
    steps = runs_made = training = testing = 0.0
    for path in sorted((root() / "results" / "recorded" / "demo").glob("*.provenance.json")):
        about = json.loads(path.read_text())
        steps += about["trainings"] * about["train"][0]["steps"] if about["train"] else 0
        runs_made += about["runs"]
        training += about["training_seconds"]
        testing += about["testing_seconds"]
    return (training / steps, testing / runs_made) if steps and runs_made else (math.nan, math.nan)


def expected(profile: Profile, cells: Iterable[Cell], jobs: int) -> tuple[int, float]:
    """(distinct runs, seconds until the last is done with `jobs` processes, nan where nothing is known)."""
    trained, transfers = runs(cells)
    return len(trained) + len(transfers), sum(
        makespan(expected_seconds(profile, part), jobs) for part in (trained, transfers)
    )


def grid_table(experiment: Experiment) -> pd.DataFrame:
    """One row per cell of an experiment's table: where it is tested, its settings, runs and minutes."""
    cells = experiment.cells()
    rows = []
    for cell, spent in zip(
        cells, expected_seconds(experiment.profile, [cell.config for cell in cells]), strict=True
    ):
        config, model, train = cell.config, cell.config.model, cell.config.train
        tested = config.transfer or config
        length = {"steps": train.steps or f"{train.epochs} epochs"} if train else {"steps": 0}
        rows.append({
            "data set": tested.dataset, "variant": cell.variant,
            "k": "all" if train and not config.k else config.k or 0, "split": tested.split, "T": model.frames,
            "s": model.step if model.mmb else 0, "H": model.prompt_length, "tau": model.tau,
            "lr": train.lr if train else 0.0, **length, "batch": train.batch if train else 0,
            "runs": 1, "minutes": spent / 60,
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    keys = [name for name in frame if name not in ("runs", "minutes")]
    return frame.groupby(keys, sort=False, as_index=False)[["runs", "minutes"]].sum().round({"minutes": 1})


# --- as text ------------------------------------------------------------------------------------------------


def text(profile: Profile) -> list[str]:
    """Lines about the runs and the stored features of a profile's real data sets, none for those that are
    drawn.

    Measures this machine's speed if need be.
    """
    if not any(name in FACTS for name in profile.roles.values()):
        return []
    here, where = speed(profile.backbone)
    lines = [
        "all runs of a target, from stored features, none of them made yet",
        f"{'target':12} {'trainings':>9} {'tests alone':>12} {'hours here':>11} {'GiB a process':>14}",
    ]
    for one in forecast(profile, here):
        lines.append(
            f"{one.target:12} {one.trainings:>9,} {one.tests:>12,} {one.hours:>11,.1f} {one.gib:>14.1f}"
        )
    several = f"{here.jobs} processes at once" if here.jobs > 1 else "one process"
    lines += [
        f"hours of {several}, as measured on {where}: every training step, every test view; all: the paper's"
        " tables",
        "and panels, what they share once; not counted: encoding (below), start, slow disks, figures,"
        " notebooks; GiB:",
        "what a process holds, on a GPU of its memory; features stay on the disk",
        "",
        f"stored features  every video is encoded once: {profile.frames_stored} frames x"
        f" {len(profile.store_crops)} crops, {profile.backbone.name}",
        f"{'data set':12} {'videos':>9} {'pictures':>12} {'GB':>7} {'GB while made':>14} {'hours here':>11}",
    ]
    for store in of_profile(profile, here.pictures):
        size = store.bytes / 1e9
        lines.append(
            f"{store.dataset:12} {store.videos:>9,} {store.pictures:>12,} {size:>7.1f} {2 * size:>14.1f}"
            f" {store.hours:>11,.1f}"
        )
    lines.append(
        f"hours of encoding alone, at {here.pictures:,.1f} pictures/s as measured on {where}; decoding goes"
        " on beside it where there are cores for it; n machines with --shard i/n take 1/n"
    )
    return lines
