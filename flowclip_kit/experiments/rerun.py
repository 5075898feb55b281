"""Recorded runs made again by today's code, and how far they are from their record."""

from __future__ import annotations

import itertools
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit.experiments.catalogue import TARGETS, VARIANTS, Cell
from flowclip_kit.experiments.experiment import Experiment, Options
from flowclip_kit.experiments.loading import load, results_folder
from flowclip_kit.experiments.results_table import hit_row, unpack
from flowclip_kit.experiments.rivals import rates_tried
from flowclip_kit.experiments.run_config import RunConfig
from flowclip_kit.experiments.runs import Workshop
from flowclip_kit.paths import root

ROUNDING = Path("results") / "recorded" / "demo" / "rounding.csv"  # made by ./reproduce.sh bench rounding
# Top-1 of a trained run may move so many times as far as nudges moved the recorded cells most like it:
# three runs rarely show the whole of a spread, and a fault moves a score further. At least by so many points:
# a nudge of the last bit is the smallest there is.
TIMES, LEAST = 2.0, 1.0
FIRST = ("untrained", "baseline", "mmb", "mmb+map", "mmb+map+mcb")  # kinds, where there is no room for all


@dataclass(frozen=True)
class Moved:
    """A run and its record: share of equal hits in percent, and how far scores moved, in points.

    top1: now less then. largest: of all scores, either way.
    """

    equal: float
    top1: float
    largest: float


@dataclass(frozen=True)
class Rerun:
    """One recorded run that was made again."""

    target: str
    kind: str
    config: RunConfig
    key: str
    moved: Moved
    bound: float  # of the move of top-1; 0 where nothing is trained

    @property
    def holds(self) -> bool:
        """Whether it is as recorded: to the last digit where nothing is trained, else within the bound."""
        if not self.bound:
            return self.moved.equal == 100 and self.moved.largest < 1e-4  # digits of the record
        return abs(self.moved.top1) <= self.bound

    def __str__(self) -> str:
        run = self.config
        videos = f"k={run.k}" if run.k else "all videos" if run.train else "not trained"
        to = f" to {run.transfer.dataset}" if run.transfer else ""
        allowed = f"at most {self.bound:.2f}" if self.bound else "none allowed"
        return (
            f"{self.target:9} {self.kind:20} {run.dataset}{to}, {videos}, seed {run.seed}:"
            f" {self.moved.equal:.1f} % of hits equal, top-1 moved {self.moved.top1:+.2f} points ({allowed})"
        )


def compare(then: Mapping, now: Mapping) -> Moved:
    """Two records of one run, the second beside the first."""
    hits = [_hits(record) for record in (then, now)]
    return moved(hits[0], then["scores"], now)


def moved(hits: np.ndarray, scores: Mapping[str, float], now: Mapping) -> Moved:
    """A run's record beside the hits (N,) and scores that were recorded of it."""
    change = {name: now["scores"][name] - value for name, value in scores.items()}
    equal = 100 * float((_hits(now) == hits).mean())
    return Moved(equal, change["top1"], max(map(abs, change.values())))


def _hits(record: Mapping) -> np.ndarray:
    row = hit_row({**record, "predictions": dict(sorted(record["predictions"].items()))})
    return unpack(row["n"], row["correct"])


def kind_of(config: RunConfig) -> str:
    """What a run exercises: nothing trained, which parts are on, and whether it is a transfer."""
    model = config.model
    parts = "+".join(name for name in ("mmb", "map", "mcb") if getattr(model, name)) or "baseline"
    kind = config.method or (parts if config.train else "untrained")
    return f"{kind}, zero-shot" if config.transfer else kind


def choose(runs: Mapping[str, str], count: int, seed: int) -> list[str]:
    """`count` of the runs, a seeded choice: one of each kind before there is a second of any. runs: key ->
    kind."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    rng = np.random.default_rng(seed)
    for key in rng.permutation(sorted(runs)):
        by_kind[runs[str(key)]].append(str(key))
    kinds = dict.fromkeys([*FIRST, *sorted(by_kind)])
    in_turn = itertools.zip_longest(*(by_kind[kind] for kind in kinds))
    return [key for round_ in in_turn for key in round_ if key][:count]


def bound(config: RunConfig, nudges: pd.DataFrame) -> float:
    """How far top-1 of a run may move, in points; 0 where nothing is trained.

    nudges: of `bench rounding`. The cells that are most like a run have motion-aware prompts or not, as the
    run, then the same other parts where there are such cells. Their k is left aside: how far one run moves
    says little about another of the same k.
    """
    if config.train is None:
        return 0.0
    alike = nudges
    for part in ("map", "mcb", "mmb"):
        has = alike["variant"].map(lambda name, part=part: VARIANTS[name][part])
        same = has == (getattr(config.model, part) and not config.method)
        alike = alike[same] if same.any() else alike
    return max(TIMES * alike["moved"].abs().max(), LEAST)


def cells_of(experiment: Experiment, tidy: pd.DataFrame) -> list[Cell]:
    """All cells of a recorded experiment, those that depend on recorded scores included."""
    cells = experiment.cells()
    while experiment.about.widen and experiment.tries:
        tried = rates_tried(cells)
        known = [lr in tried.get(name, ()) for name, lr in zip(tidy["variant"], tidy["lr"], strict=True)]
        if not (more := experiment.widen(tidy[known], cells)):
            break
        cells = cells + more
    return cells + experiment.then(tidy)


def rerun(count: int, seed: int = 0, profile: str = "demo") -> tuple[list[Rerun], list[str]]:
    """`count` recorded runs of a profile, made again; and the recorded runs that today's settings do not
    name.

    A run is found by its key, which holds settings, data and weights. As many as there are in `FIRST`, or
    fewer, are taken from Table 5, which has all of these kinds: its data sets are then the only ones that are
    read. Raises InputError where none is found.
    """
    if not (root() / ROUNDING).exists():
        raise InputError(
            f"{root() / ROUNDING}: not there; make it with ./reproduce.sh bench rounding --record"
        )
    nudges = pd.read_csv(root() / ROUNDING)
    folder = results_folder(profile, "recorded")
    targets = [name for name in TARGETS if (folder / f"{name}.csv").exists()]
    if count <= len(FIRST) and "table5" in targets:
        targets = ["table5"]
    loaded = {target: load(target, profile) for target in targets}
    asked = {
        target: Experiment.of(target, profile, given={"seeds": about["seeds"]})
        for target, (_, _, about) in loaded.items()
    }
    with tempfile.TemporaryDirectory() as place:
        options = Options(results=Path(place), device="cpu")
        with Workshop(next(iter(asked.values())).profile, options) as workshop:
            workshop.open({name for one in asked.values() for name in one.profile.roles.values()})
            cells, of, tables = {}, {}, {}
            for target, experiment in asked.items():
                tidy, hits, _ = loaded[target]
                tables[target] = tidy, hits
                for cell in cells_of(workshop.possible(experiment), tidy):
                    key = workshop.key(cell.config)
                    if key in hits and key not in cells:
                        cells[key], of[key] = cell, target
            recorded = {key for tidy, _ in tables.values() for key in tidy["key"]}
            if not cells:
                raise InputError(f"{folder}: none of its {len(recorded)} runs has a key of today's settings")
            keys = choose({key: kind_of(cell.config) for key, cell in cells.items()}, count, seed)
            workshop.make([cells[key] for key in keys], "recorded runs")
            found = []
            for key in keys:
                config, (tidy, hits) = cells[key].config, tables[of[key]]
                own = tidy[tidy["key"] == key]
                scores = dict(zip(own["metric"], own["value"], strict=True))
                now = workshop.record(config)
                found.append(
                    Rerun(of[key], kind_of(config), config, key, moved(hits[key], scores, now),
                          bound(config, nudges))
                )  # fmt: skip
    return found, sorted(recorded - cells.keys())
