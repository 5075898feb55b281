"""What a profile takes on this machine before it is begun: gigabytes and hours of its features, hours of its
runs."""

from __future__ import annotations

import functools
import heapq
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from flowclip_core.config import TINY, TrainConfig
from flowclip_kit.datasets.acquire import FACTS
from flowclip_kit.experiments.catalogue import ALL_TARGETS, PAPER_TARGETS, TARGETS, Cell, Target
from flowclip_kit.experiments.experiment import Experiment
from flowclip_kit.experiments.run_config import RunConfig
from flowclip_kit.experiments.speed import Kind, Speed, kind_of, known_speed, speed
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


def tested(config: RunConfig) -> Kind:
    """The kind of a run's test, which for a transfer sees another data set than its training."""
    return kind_of((config.transfer or config).dataset, config.model)


def seconds(config: RunConfig, here: Speed, sizes: Mapping[str, Size] = OFFICIAL) -> tuple[float, float]:
    """Of one run's training and of its test, in one process while all are busy.

    Other methods are counted as the full model: `config.model` says so.
    """
    size = sizes[config.dataset]
    training, testing = size.splits[config.split]
    if config.held_out:
        training, testing = training - int(training * HELD_OUT), int(training * HELD_OUT)
    train = 0.0
    if config.train and not config.transfer:
        videos = training if config.k is None else config.k * size.classes
        cost, steps = here[kind_of(config.dataset, config.model)], config.train.total_steps(videos)
        train = steps * cost.step + seen(config.train, videos) * cost.video
    cost, times = here[tested(config)], 4.0 if config.evaluation.controls else 1.0  # in order, three controls
    if transfer := config.transfer:
        testing = sizes[transfer.dataset].splits[transfer.split][1]
        times += transfer.draws / 4  # half of the classes, of the videos
    views = config.evaluation.clips * len(config.evaluation.crops)
    return train, cost.once + times * testing * views * cost.view


def kinds(configs: Iterable[RunConfig]) -> list[Kind]:
    """Everything whose cost `seconds` of these runs needs to know."""
    trained = (kind_of(one.dataset, one.model) for one in configs if one.train and not one.transfer)
    return list(dict.fromkeys([*trained, *map(tested, configs)]))


def makespan(spent: Iterable[float], jobs: int) -> float:
    """Seconds until the last is done, when each process takes the longest that is left."""
    free = [0.0] * jobs
    for one in sorted(spent, reverse=True):
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def all_rounds(profile: Profile) -> dict[str, list[list[RunConfig]]]:
    """`rounds` of every target of a profile."""
    return {name: rounds(TARGETS[name], profile) for name in ALL_TARGETS if name in TARGETS}


def forecast(profile: Profile, here: Speed, sizes: Mapping[str, Size] = OFFICIAL) -> list[Forecast]:
    """One row a target, and `all`: the paper's tables and panels, with runs that they share made once."""
    found: list[Forecast] = []

    def add(name: str, parts: list[list[RunConfig]]) -> None:
        every = [config for part in parts for config in part]
        trainings = sum(bool(one.train and not one.transfer) for one in every)
        spent = sum(makespan([sum(seconds(one, here, sizes)) for one in part], here.jobs) for part in parts)
        peak = max((here[kind].gib for kind in kinds(every)), default=0.0)
        found.append(Forecast(name, trainings, len(every) - trainings, spent / 3600, peak))

    parts = all_rounds(profile)
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

    def known(config: RunConfig) -> float:
        with suppress(KeyError):  # data of one's own, or a kind that has not been timed
            return sum(seconds(config, here))
        return math.nan

    return [known(config) for config in configs]


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
    """The cells of an experiment's table by variant: where they are tested, their settings, runs and minutes.

    Cells that differ only in split, learning rate, k or data set, and are there in every combination,
    share a row that lists them.
    """
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
            "lr": f"{train.lr:g}" if train else "", **length, "batch": train.batch if train else 0,
            "runs": 1, "minutes": spent / 60,
        })  # fmt: skip
    spent_on = ["runs", "minutes"]
    frame = pd.DataFrame(rows)
    frame = frame.groupby([*frame.columns.drop(spent_on)], sort=False, as_index=False)[spent_on].sum()
    for listed in ("split", "lr", "k", "data set"):
        frame[listed] = frame[listed].astype(str)
        alike = frame.groupby([*frame.columns.drop([listed, *spent_on])], sort=False, as_index=False)
        frame = alike.agg({listed: ", ".join, "runs": "sum", "minutes": "sum"})
    columns = [name for name in rows[0] if name != "variant"]
    return frame.round({"minutes": 1}).set_index("variant")[columns]


# --- as text ------------------------------------------------------------------------------------------------


def text(profile: Profile) -> list[str]:
    """Lines about the runs and the stored features of a profile's real data sets, none for those that are
    drawn.

    Measures this machine's speed if need be.
    """
    if not any(name in FACTS for name in profile.roles.values()):
        return []
    every = [config for parts in all_rounds(profile).values() for part in parts for config in part]
    here, where = speed(profile.backbone, kinds(every))
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
