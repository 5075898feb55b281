"""From a target to its finished runs: data, stored features, the missing trainings, their records."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import psutil
from tqdm import tqdm

from flowclip_core.config import PROMPTS, EvalConfig, TrainConfig
from flowclip_core.errors import Diverged, InputError, NotFinite, notice
from flowclip_core.files import sha256
from flowclip_core.model import hub
from flowclip_core.training.metrics import accuracy
from flowclip_core.training.metrics import ranks as ranks_of
from flowclip_kit.datasets import formats
from flowclip_kit.datasets.extraction import Filled, Plan, ensure_features, extract, find, plan
from flowclip_kit.datasets.feature_store import ARRAY, FeatureStore, StoreConfig
from flowclip_kit.datasets.few_shot_lists import read_list, shots_of
from flowclip_kit.datasets.formats import Dataset, Video
from flowclip_kit.demo import world
from flowclip_kit.distributed.locks import Held, Lock, Waiting
from flowclip_kit.distributed.process_pool import PATIENCE, Pool, default_jobs, end_with_launcher
from flowclip_kit.distributed.rank import Rank, rank
from flowclip_kit.distributed.ray_pool import RayEngine, need_engine
from flowclip_kit.experiments import metrics
from flowclip_kit.experiments.catalogue import KINETICS, RATE_SEED, Cell
from flowclip_kit.experiments.devices import (
    check_prompts,
    gpu_name,
    lanes,
    load_once,
    one_gpu,
    pick_device,
    pick_precision,
    weights_hash,
)
from flowclip_kit.experiments.experiment import (
    Experiment,
    Options,
    need_data,
    possible,
)
from flowclip_kit.experiments.records import read_record, software, write_record
from flowclip_kit.experiments.results_table import hit_row, tidy_rows
from flowclip_kit.experiments.rivals import costs
from flowclip_kit.experiments.run_config import RunConfig, deciding, run_key
from flowclip_kit.experiments.training_log import LogTo, log_to, run_name, watched
from flowclip_kit.paths import stamp
from flowclip_kit.profiles import DEMO_ROLES, PAPER_ROLES, BackboneConfig, Profile

ALONE = Rank()
Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class Result:
    """The finished runs of one target: their tidy table, the videos they name right, and what all rests
    on."""

    tidy: pd.DataFrame
    hits: pd.DataFrame  # which test videos each run names right
    provenance: dict
    checkpoints: dict[str, Path]  # name -> trained weights that were kept
    name: str = ""  # of a call whose parameters are its own (see `plans.Plan.name`)


def open_dataset(name: str, options: Options, jobs: int) -> Dataset:
    """A demo world (drawn if need be) or a data set under --data-root."""
    missing = "skip" if name not in world.NAMES and options.skips(name) else "error"
    return formats.load(
        name, data_folder(name, options, jobs), missing=missing, class_names=options.class_names
    )


def data_folder(name: str, options: Options, jobs: int) -> Path:
    """Where a data set lies: the demo's are drawn if need be; others in --data-root or below it, by name."""
    if name in world.NAMES:
        with closing(Bar(f"drawing {name}", "videos")) as bar:
            return world.ensure(name, world.default_root(), jobs, progress=bar.update)
    need_data(name, options)
    assert options.data_root is not None  # need_data refuses a data set without it
    inside = options.data_root / name
    return inside if inside.is_dir() else options.data_root


def ensure(
    target: str,
    profile: str = "demo",
    options: Options | None = None,
    parameters: Mapping[str, Any] | None = None,
    name: str = "",
) -> Result:
    """All runs of `target` under `profile`, making only those that are missing (see `ensure_all`)."""
    return ensure_all([target], profile, options, parameters, name)[target]


def ensure_all(
    targets: Sequence[str],
    profile: str = "demo",
    options: Options | None = None,
    parameters: Mapping[str, Any] | None = None,
    name: str = "",
    say: Callable[[list[Experiment]], None] = lambda experiments: None,
) -> dict[str, Result]:
    """The finished runs of several targets; a run that they share is made once.

    parameters: what the user changes of each target (see `catalogue.parameters`). name: of that change. say:
    is told the experiments before any run. Raises InputError for an unknown target or parameter, data that
    are absent or unreadable, or weights that cannot be had. A kill at any moment loses at most the runs in
    work; two calls at once share the work. Ranks of torchrun or srun do too, and are together at each
    training of Kinetics-400's stage; the main one alone gets the results.
    """
    options, started = options or Options(), time.monotonic()
    chosen = {target: Experiment.of(target, profile, options, parameters, name) for target in targets}
    styles = {
        experiment.changes["class_names"]
        for experiment in chosen.values()
        if "class_names" in experiment.changes
    }
    if styles:
        options = replace(options, class_names=styles.pop())
    with Workshop(next(iter(chosen.values())).profile, options, rank(None, os.environ)) as workshop:
        asked = chosen.values()
        prompts = {cell.config.model.prompt for experiment in asked for cell in experiment.cells()}
        # in the targets' order, not a set's: with several data sets missing, a call always names the same one
        names = dict.fromkeys(name for experiment in asked for name in experiment.profile.roles.values())
        workshop.open(names, prompts)
        chosen = {target: workshop.possible(experiment) for target, experiment in chosen.items()}
        if workshop.main:
            say(list(chosen.values()))
        cells = {target: experiment.cells() for target, experiment in chosen.items()}
        about = targets[0] if len(targets) == 1 else f"{len(targets)} targets"
        made = workshop.make([cell for of_target in cells.values() for cell in of_target], about)
        for target, experiment in chosen.items():
            while experiment.about.widen and experiment.tries:
                scores = workshop.decide(workshop.tidy, experiment, workshop.sound(cells[target]))
                if not (more := experiment.widen(scores, cells[target])):
                    break
                made += workshop.make(more, target)
                cells[target] = cells[target] + more
        cells = {target: workshop.sound(of_target) for target, of_target in cells.items()}
        for target, experiment in chosen.items():
            if experiment.about.then and experiment.tries:
                more = experiment.then(workshop.decide(workshop.tidy, experiment, cells[target]))
                made += workshop.make(more, target)
                cells[target] = cells[target] + more
        if not workshop.main:
            return {}
        workshop.remark({cell.config for of_target in cells.values() for cell in of_target})
        return {
            target: Result(
                workshop.tidy(experiment, cells[target]),
                workshop.hits(cells[target]),
                workshop.provenance(experiment, cells[target], made, started),
                workshop.kept(target, cells[target]),
                experiment.name,
            )
            for target, experiment in chosen.items()
        }


class FewShotList(NamedTuple):
    """A published list of training videos, k of each class."""

    file: Path
    k: int
    videos: tuple[Video, ...]


class Workshop:
    """Open data sets, their feature stores, worker processes: where the runs of one call are made.

    profile: any of the call's profiles, for what they share (backbone, stored frames).
    """

    def __init__(self, profile: Profile, options: Options, rank: Rank = ALONE) -> None:
        self.profile, self.options, self.rank = profile, options, rank
        need_engine(options.engine, options.ray_address)
        if rank.of > 1:
            if options.engine != "local":
                raise InputError(
                    f"--engine {options.engine}: ranks of torchrun or srun share the work by themselves"
                )
            one_gpu(rank, os.environ)
        self.device = pick_device(options.device)
        self.precision = pick_precision(options.precision, self.device)
        self.jobs = options.jobs or (rank.cores if self.device == "cpu" else 1)
        self.folder = options.results_dir / "runs"
        self.log = log_to(options.log, options.results_dir)
        self.sets: dict[str, Dataset] = {}
        self.stores: dict[str, FeatureStore] = {}
        self.lists: dict[str, FewShotList] = {}  # by the hash of their names
        self._set_aside: dict[tuple[str, bool], Dataset] = {}
        self._parts: dict[tuple[str, int, bool | None], str] = {}
        self._keys: dict[RunConfig, str] = {}
        self._records: dict[str, dict] = {}
        self._failed: set[RunConfig] = set()  # trials of learning rates that diverged
        self._damage: set[str] = set()  # what was said of it
        # GiB of prompt trees a worker; on a GPU the training looks for itself
        self.memory = options.memory and options.memory / self.jobs
        if self.memory is None and self.device == "cpu":
            self.memory = min(4.0, 0.5 * psutil.virtual_memory().available / 2**30 / self.jobs / rank.beside)
        threads = 1 if self.device == "cpu" else min(8, default_jobs())
        self.pool = Pool(self.jobs, threads)
        self.engine: Pool | RayEngine = self.pool
        if options.engine == "ray":
            self.engine = RayEngine(
                self.jobs, self.device, self.folder, options.ray_address,
                lambda: [store.folder for store in self.stores.values()], threads,
            )  # fmt: skip

    def __enter__(self) -> Workshop:
        end_with_launcher()
        with ExitStack() as exits:
            exits.enter_context(self.pool)
            if self.engine is not self.pool:
                exits.enter_context(self.engine)
            if self.rank.of > 1:
                from flowclip_kit.distributed import ranks

                exits.push(lambda kind, *_: ranks.stop(failed=kind is not None))
                ranks.start(self.rank, self.device, self.folder)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._exits.__exit__(*error)

    @functools.cached_property
    def weights(self) -> str:
        """Hash of the backbone's weights, which are loaded for it: data that are missing are said before."""
        return weights_hash(self.profile.backbone)

    @property
    def main(self) -> bool:
        """Whether this process decides, writes and prints: all do but the other ranks."""
        return self.rank.number == 0

    def decide(self, choose: Callable[..., Chosen], *arguments: object) -> Chosen:
        """What `choose` returns, asked by the main rank alone: all do the same, however late a file is
        seen."""
        if self.rank.of == 1:
            return choose(*arguments)
        from flowclip_kit.distributed import ranks

        mine: Any = choose(*arguments) if self.main else None
        return ranks.from_main(mine)

    def open(self, names: Iterable[str], prompts: Collection[str] = PROMPTS.values()) -> None:
        """Load the data sets and encode what is not stored yet. Raises InputError for what is missing.

        prompts: those that the runs begin with.
        """
        # All of them before the long work: what is missing is said at once. Drawing a world is long work too.
        for name in sorted(names, key=lambda name: name in world.NAMES):
            if name in world.NAMES:
                _ = self.weights
            self.sets[name] = open_dataset(name, self.options, self.jobs)
            check_prompts(self.profile.backbone, self.sets[name], max(prompts, key=len))
        for file in self.options.few_shot_lists:
            ((name, dataset),) = self.sets.items()
            missing = "skip" if self.options.skips(name) else "error"
            found = read_list(file, dataset, missing=missing)
            digest = hashlib.sha256("\n".join(video.name for video in found).encode()).hexdigest()[:16]
            self.lists[digest] = FewShotList(file, shots_of(file, dataset, found, missing), found)
        for name, dataset in self.sets.items():
            bar = Bar(f"encoding {name}", "videos", shown=self.main)
            with closing(bar), self._towers(self.rank) as (towers, pool, decoders):
                self.stores[name] = ensure_features(
                    dataset, self._store_config(name), towers, pool,
                    decoders=decoders, allow_unreadable=self.options.skips(name), progress=bar.update,
                )  # fmt: skip

    def extract(self, name: str, rank: Rank) -> tuple[Plan, Filled, FeatureStore | None]:
        """Encode one data set, or a rank's share of it; the store is None as long as other shares are
        missing."""
        dataset = open_dataset(name, self.options, self.jobs)
        check_prompts(self.profile.backbone, dataset, min(PROMPTS.values(), key=len))
        wanted, store = find(plan(dataset, self._store_config(name)))
        filled, skips = Filled(), self.options.skips(name)
        if store is None:
            with (
                closing(Bar(f"encoding {name}", "videos")) as bar,
                self._towers(rank) as (towers, pool, decoders),
            ):
                share = rank.number, rank.of
                filled = extract(
                    wanted,
                    towers,
                    pool,
                    share,
                    decoders=decoders,
                    allow_unreadable=skips,
                    progress=bar.update,
                )
            wanted, store = find(wanted)
        return wanted, filled, store

    def _store_config(self, name: str) -> StoreConfig:
        profile = self.profile
        return StoreConfig(
            self.weights, profile.frames_stored, profile.store_crops, self.options.decoder, self.precision,
            centred=True,
        )  # fmt: skip

    @contextmanager
    def _towers(self, rank: Rank) -> Iterator[tuple[list, Pool, int]]:
        """What loads each lane's image tower, the processes they run in, and how many decode for each."""
        jobs = self.options.jobs or rank.cores
        found, decoders = lanes(
            self.profile.backbone, self.device, self.precision, jobs, self.options.decoders, rank
        )
        if len(found) <= self.jobs:
            yield found, self.pool, decoders
        else:  # training takes one GPU, encoding all of them
            with Pool(len(found), self.pool.threads) as pool:
                yield found, pool, decoders

    def possible(self, asked: Experiment) -> Experiment:
        """The experiment with the k and splits that its data sets, or the published lists, can give."""
        sets = {
            role: self._held_out(name, few_shot=True) if asked.tries else self.sets[name]
            for role, name in asked.profile.roles.items()
        }
        stores = {role: self.stores[name] for role, name in asked.profile.roles.items()}
        lists = {digest: found.k for digest, found in self.lists.items()}
        return possible(asked, sets, lambda role: stores[role].has, lists, asked.changes.get("seeds"))

    def dataset(self, config: RunConfig) -> Dataset:
        """What a run is trained on, and tested on unless it transfers."""
        if not config.held_out:
            return self.sets[config.dataset]
        return self._held_out(config.dataset, few_shot=config.k is not None)

    def _held_out(self, name: str, few_shot: bool) -> Dataset:
        """The data set with training videos in the place of its test videos. Few-shot tests are of split 1
        alone; closed-set ones are of all splits, so that a trial uses videos that none of them tests."""
        if (name, few_shot) not in self._set_aside:
            self._set_aside[name, few_shot] = formats.hold_out(
                self.sets[name], RATE_SEED, untested=not few_shot
            )
        return self._set_aside[name, few_shot]

    def key(self, config: RunConfig) -> str:
        """The run's name: settings, the splits' lists, the bytes of their videos and their decoder, the
        weights."""
        if config not in self._keys:
            trial = config.k is not None if config.held_out else None
            data = self._part(config.dataset, config.split, trial)
            if config.transfer:
                data += self._part(config.transfer.dataset, config.transfer.split, None)
            self._keys[config] = run_key(config, hashlib.sha256(data.encode()).hexdigest(), self.weights)
        return self._keys[config]

    def _part(self, name: str, split: int, trial: bool | None) -> str:
        """What identifies the data of a run. trial: of a learning rate, whether few-shot; None: no trial."""
        if (name, split, trial) not in self._parts:
            store = self.stores[name]
            dataset = self.sets[name] if trial is None else self._held_out(name, trial)
            shape = f"{store.crops} {store.features.shape[1:]}"
            shape += "" if store.precision == "float32" else f" {store.precision}"
            shape += "" if store.means is None else " centred"
            lists = dataset.splits[split]
            names = [video.name for video in (*lists.train, *lists.test) if store.has(video.name)]
            self._parts[name, split, trial] = (
                f"{dataset.fingerprint(split)} {store.fingerprint(names)} {shape}"
            )
        return self._parts[name, split, trial]

    def make(self, cells: Sequence[Cell], about: str) -> int:
        """Make the missing runs of `cells`, the longest first, and return how many there were.

        Transfers come last: they test the kept weights of other runs, which are made if need be.
        """
        rounds, total = self.decide(self._missing, cells)
        missing = sum(map(len, rounds))
        with closing(Bar(f"{about}, {total} runs", "runs", total, total - missing, self.main)) as bar:
            for needed in rounds:
                jointly = [run for run in needed if self.rank.of > 1 and _is_large(run[0])]
                for _ in self._jointly([self._task(*run, self._lanes(1)) for run in jointly]):
                    bar.add(1)
                apart = [run for run in needed if run not in jointly]
                tasks = [(self._task(*run, self._lanes(len(apart))),) for run in apart]
                for (task,), failure in self.engine.map(_run, tasks):
                    if isinstance(failure, str):
                        self._failed.add(task.config)
                        notice(f"{failure}; this rate is not chosen")
                    bar.add(1)
        return missing

    def sound(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells without the trials of learning rates that diverged, which have no score."""
        return [cell for cell in cells if cell.config not in self._failed]

    def _lanes(self, runs: int) -> int:
        """Cores for each of so many runs: where there are fewer of them than cores, none lies idle."""
        return max(1, self.jobs // runs) if runs and self.device == "cpu" and self.engine is self.pool else 1

    def task(self, config: RunConfig) -> Task:
        """A run as a worker process gets it, on one core."""
        return self._task(config, self.key(config), False, 1)

    def _task(self, config: RunConfig, key: str, keep: bool, lanes: int) -> Task:
        if self.key(config) != key:
            raise InputError(
                f"rank {self.rank.number} has other data or weights than the main one; all need the same"
            )
        return Task(
            config, key, keep, self.folder, self.dataset(config),
            self.sets[config.transfer.dataset] if config.transfer else None,
            (store := self.stores[(config.transfer or config).dataset]).folder, store.seal,
            self.key(replace(config, transfer=None)), self.weights, self.device, self.memory, lanes,
            self.lists[config.listed].videos if config.listed else None, self.log,
        )  # fmt: skip

    def _jointly(self, tasks: list[Task]) -> Iterator[Task]:
        """Make runs one after the other, each by all ranks; those that another command is at come last."""
        waiting = None
        while tasks:
            held = []
            for task in tasks:
                if isinstance(found := _run_jointly(task), Held):
                    held.append((task, found))
                else:
                    waiting = None
                    yield task
            tasks = [task for task, _ in held]
            if held:
                waiting = waiting or Waiting(self.main)
                waiting.go_on(held[0][1], PATIENCE)

    def _missing(self, cells: Sequence[Cell]) -> tuple[list[list[tuple[RunConfig, str, bool]]], int]:
        """The runs to make, in two rounds: settings, key, whether weights are kept. And how many there are in
        all."""
        keep: dict[RunConfig, bool] = {}
        transfers = list(dict.fromkeys(cell.config for cell in cells if cell.config.transfer))
        for cell in cells:
            source = replace(cell.config, transfer=None)
            if not cell.config.transfer:
                keep[source] = keep.get(source, False) or cell.keep
            elif cell.config.train:  # its weights are needed unless the test is done
                done = self._finished(cell.config, self.key(cell.config), False)
                keep[source] = keep.get(source, False) or not done
        rounds = []
        for configs in (sorted(keep, key=_cost, reverse=True), transfers):
            keys = {config: self.key(config) for config in configs}
            needed = [(config, key, keep.get(config, False)) for config, key in keys.items()]
            rounds.append([run for run in needed if not self._finished(*run)])
        return rounds, len(keep) + len(transfers)

    def _finished(self, config: RunConfig, key: str, keep: bool) -> bool:
        """Whether a run is there; one that is damaged is named, and made again."""
        record, why = _finished(self.folder, config, key, keep)
        if why and why not in self._damage:
            self._damage.add(why)
            notice(f"{why.removesuffix('; remove it and run again')}; the run is made again")
        elif record is not None:
            self._records[key] = record
        return record is not None

    def record(self, config: RunConfig) -> dict:
        """The record of a finished run."""
        key = self.key(config)
        if key not in self._records:
            record = read_record(self.folder / f"{key}.json")
            assert record is not None, f"{key}: not finished"
            self._records[key] = record
        return self._records[key]

    def tidy(self, asked: Experiment, cells: Sequence[Cell]) -> pd.DataFrame:
        """The tidy table of finished cells."""
        name = self.profile.name
        return pd.DataFrame(
            [row for cell in cells
             for row in tidy_rows(asked.target, name, cell, self.record(cell.config), asked.settings)]
        )  # fmt: skip

    def hits(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """Which test videos each run names right: one row a run."""
        records = {cell.config: self.record(cell.config) for cell in cells}
        return pd.DataFrame([hit_row(record) for record in records.values()])

    def remark(self, configs: Iterable[RunConfig]) -> None:
        """Say what in finished runs gives an answer that means less than it seems."""
        still, tied = _remarkable([self.record(config) for config in configs])
        for name, count in still.items():
            notice(
                f"{name}: {count} test videos do not move, all their frames are equal: what is said of them"
                " rests on the picture alone"
            )
        if tied:
            said = ", ".join(f"{count} of {name}" for name, count in tied.items())
            notice(f"equal scores in {said}, over all runs: they count as wrong, for order as half")

    def kept(self, target: str, cells: Sequence[Cell]) -> dict[str, Path]:
        """Name -> file of the weights that a target hands over: the first seed's on split 1."""
        files = {}
        for cell in cells:
            config = cell.config
            if cell.keep and (config.seed, config.split) == (0, 1):
                name = f"{target}-{config.dataset}-{cell.variant}" + (f"-k{config.k}" if config.k else "")
                files[name] = self.folder / f"{self.key(config)}.safetensors"
        return files

    def provenance(self, asked: Experiment, cells: Sequence[Cell], made: int, started: float) -> dict:
        """What a target's table rests on. made, started: of the whole call."""
        profile = asked.profile
        configs = list(dict.fromkeys(cell.config for cell in cells))
        records = [self.record(config) for config in configs]
        sources = {replace(config, transfer=None) for config in configs if config.transfer and config.train}
        spent = [record["seconds"] for record in [*records, *map(self.record, sources)]]
        trainings = dict.fromkeys(replace(config.train, lr=0.0) for config in configs if config.train)
        rates: dict[TrainConfig, set[float]] = {replace(train, lr=0.0): set() for train in trainings}
        for config in configs:
            if config.train:
                rates[replace(config.train, lr=0.0)].add(config.train.lr)
        return {
            "target": asked.target,
            "profile": profile.name,
            **own_call(asked),
            "runs": len(records),
            "trainings": len({replace(config, transfer=None) for config in configs if config.train}),
            "seeds": len({config.seed for config in configs if config.train and not config.held_out}),
            "backbone": asdict(profile.backbone) | {"weights": self.weights},
            "datasets": {
                name: {
                    "role": role,
                    "classes": len(found.classes),
                    "pair_classes": 2 * len(found.pairs),
                    "train": len(found.splits[1].train),
                    "test": len(found.splits[1].test),
                    "missing": len(found.missing),
                    "fingerprint": found.fingerprint(1)[:16],
                    "decoder": ", ".join(sorted(set(self.stores[name].index["decoder"]))),
                }
                for role, name in profile.roles.items()
                for found in [self.sets[name]]
            },
            "train": [asdict(train) | {"lr": sorted(rates[train])} for train in trainings],
            "evaluation": asdict(configs[-1].evaluation),
            "software": sorted({tuple(sorted(record["software"].items())) for record in records}),
            "devices": sorted({record["device"] for record in records}),
            "training_seconds": round(sum(part["train"] for part in spent), 1),
            "testing_seconds": round(sum(part["test"] for part in spent), 1),
            "peak_memory_gib": max(record["peak_memory_gib"] for record in records),
            **({"methods": costs(cells, self.record)} if any(cell.config.method for cell in cells) else {}),
            **self._unusual(),
            **{
                name: told for name, told in zip(("still", "ties"), _remarkable(records), strict=True) if told
            },
            "last_call": {"runs_made": made, "seconds": round(time.monotonic() - started, 1)},
        }

    def _unusual(self) -> dict:
        """What a call changed of how data are read, for its provenance; nothing where it is the usual way."""
        lists = [
            {"file": found.file.name, "videos": digest, "k": found.k} for digest, found in self.lists.items()
        ]
        lost = {name: len(store.failed) for name, store in self.stores.items() if store.failed}
        said = {"few_shot_lists": lists, "class_names": self.options.class_names, "unreadable": lost}
        said["precision"] = self.precision
        said["untested_classes"] = {
            name: found for name, one in self.sets.items() if (found := one.untested(1))
        }
        usual: dict[str, Any] = {
            "untested_classes": {},
            "few_shot_lists": [],
            "class_names": "words",
            "unreadable": {},
            "precision": "float32",
        }
        return {name: value for name, value in said.items() if value != usual[name]}


def own_call(asked: Experiment) -> dict:
    """What a provenance says of a call whose parameters are its own; nothing for a target as the paper has
    it."""
    if not asked.name:
        return {}
    found = {
        "name": asked.name,
        "parameters": dict(asked.changes),
        "variants": asked.variants,
        "compare": asked.compare,
        "axis": asked.axis,
    }
    return json.loads(json.dumps(found))  # as it is read again


def _remarkable(records: Sequence[dict]) -> tuple[dict[str, int], dict[str, int]]:
    """Test videos that do not move, by data set, and ties by metric over all runs; where there are any."""
    still: dict[str, int] = {}
    ties: Counter[str] = Counter()
    for record in records:
        name = (record["config"]["transfer"] or record["config"])["dataset"]
        if count := record.get("still"):
            still[name] = max(count, still.get(name, 0))
        ties.update(record.get("ties", {}))
    return still, dict(sorted(ties.items()))


class Bar:
    """A progress bar on stderr, in a notebook a widget, with the time left; nothing is shown for work already
    done."""

    def __init__(self, what: str, unit: str, total: int = 0, done: int = 0, shown: bool = True) -> None:
        usual: dict[str, Any] = {
            "disable": not shown,
            "desc": what,
            "unit": f" {unit}",
            "initial": done,
            "dynamic_ncols": True,
        }
        if "ipykernel" in sys.modules:  # tqdm.auto would also draw a widget in a plain terminal of IPython
            from tqdm.notebook import tqdm as widget

            self._make = functools.partial(widget, **usual)
        else:
            self._make = functools.partial(
                tqdm, **usual, file=sys.stderr, mininterval=0.2 if sys.stderr.isatty() else 15,
                bar_format="{desc}: {n_fmt}/{total_fmt}{unit} [{elapsed}, {remaining} left,"
                " {rate_noinv_fmt}]",
            )  # fmt: skip
        self._total = total
        self._bar: Any = None

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` are finished."""
        if self._bar is None:
            self._bar = self._make(total=total)
        self._bar.update(done - self._bar.n)

    def add(self, finished: int) -> None:
        """Show that `finished` more are done."""
        if self._bar is None:
            self._bar = self._make(total=self._total)
        self._bar.update(finished)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _finished(folder: Path, config: RunConfig, key: str, keep: bool) -> tuple[dict | None, str]:
    """A run's record if it is finished, weights that are kept included; else None and what is damaged, if
    anything."""
    path = folder / f"{key}.json"
    try:
        record = read_record(path)
        if record is None or (keep and not path.with_suffix(".safetensors").exists()):
            return None, ""
        if deciding(config) != deciding(record["config"]):
            return None, f"{path}: the record of a run with other settings"
        if keep:
            hub.need_whole(path.with_suffix(".safetensors"), record.get("checkpoint"))
    except InputError as damage:
        return None, str(damage)
    return record, ""


def _cost(config: RunConfig) -> float:
    """Rough relative time, to start the longest runs first."""
    model, train = config.model, config.train
    videos = 0 if train is None else train.total_steps(1000 * (config.k or 100)) * train.batch
    return (10 if model.map else 3 if model.mmb else 1) * videos


@functools.lru_cache(maxsize=16)  # a zero-shot test goes through eleven lists of classes
def _tree(backbone: BackboneConfig, device: str, texts: tuple[str, ...], prompt: str):
    from flowclip_core.model.prompt_tree import PromptTree

    loaded = load_once(backbone, device)
    return PromptTree(loaded, texts, len(loaded.tokenize(prompt)))


def open_store(folder: Path) -> FeatureStore:
    """The store in a folder, opened once in a process, and again where it was made again."""
    return opened(folder, tuple(stamp(folder / ARRAY)))


@functools.lru_cache(maxsize=8)
def opened(folder: Path, stamp: tuple[int, ...]) -> FeatureStore:
    """`open_store` for features of this stamp: equal sums do not say that it is the same file."""
    return FeatureStore.open(folder)


def _store(task: Task) -> FeatureStore:
    """The store of a task. Raises InputError where its key was taken from other features."""
    store = open_store(task.store)
    if store.seal != task.seal:
        raise InputError(f"{task.store}: these features were made again while runs were at them; run again")
    return store


@dataclass(frozen=True)
class Task:
    """One run as a worker process gets it."""

    config: RunConfig
    key: str
    keep: bool
    folder: Path
    dataset: Dataset
    tested: Dataset | None  # the data set of a transfer
    store: Path  # features of the data set that is tested on
    seal: str  # of that store
    source: str  # key of the run whose weights a transfer tests
    weights: str
    device: str
    memory: float | None
    lanes: int
    listed: tuple[Video, ...] | None  # a published few-shot list
    log: LogTo | None = None


@contextmanager
def _claimed(task: Task) -> Iterator[bool | Held]:
    """Whether the run is ours to make: False when it is finished, `Held` when another call is at it."""
    task.folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(task.folder / f"{task.key}.lock", f"run {task.key}")
    if not lock.take():
        yield lock.held
        return
    try:
        yield _finished(task.folder, task.config, task.key, task.keep)[0] is None
    finally:
        lock.release()


@contextmanager
def _named(task: Task) -> Iterator[None]:
    """A number that is not finite is said with the run that it is of, which leaves no weights behind."""
    config = task.config
    try:
        yield
    except NotFinite as error:
        if not (task.folder / f"{task.key}.json").exists():
            (task.folder / f"{task.key}.safetensors").unlink(missing_ok=True)
        said = [
            f"{config.dataset} split {config.split}",
            "all videos" if config.k is None else f"k={config.k}",
        ]
        said += [f"seed {config.seed}", f"T={config.model.frames}"]
        off = [f"{name} off" for name in ("mmb", "map", "mcb") if not getattr(config.model, name)]
        said += [config.method] if config.method else off
        said += [f"learning rate {config.train.lr:g}"] if config.train else ["not trained"]
        said += [f"tested on {config.transfer.dataset}"] if config.transfer else []
        raise type(error)(f"run {task.key} ({', '.join(said)}): {error}") from error


def _run(task: Task) -> bool | str | Held:
    """Make one run in a worker process and write its record; `Held` when another call is at it.

    A trial of a learning rate may diverge: what is said of it is returned, for it ends nothing but its own
    rate.
    """
    with _claimed(task) as ours:
        if isinstance(ours, Held):
            return ours
        if ours:
            try:
                with _named(task):
                    _write(task, transfer(task) if task.config.transfer else train_and_test(task))
            except Diverged as error:
                if not task.config.held_out:
                    raise
                return str(error)
        return True


def _run_jointly(task: Task) -> bool | Held:
    """`_run` by all ranks at once: the main one claims and writes."""
    from flowclip_kit.distributed import ranks

    with _claimed(task) if ranks.main() else nullcontext() as ours:
        ours = ranks.from_main(ours)
        if isinstance(ours, Held):
            return ours
        if ours:
            with _named(task):
                record = train_and_test(task)
                if ranks.main():
                    _write(task, record)
            ranks.from_main(None)  # the others wait until it is written
        return True


def _write(task: Task, record: dict) -> None:
    kept = {"checkpoint": sha256(task.folder / f"{task.key}.safetensors")} if task.keep else {}
    write_record(task.folder / f"{task.key}.json", {**record, **kept, "weights": task.weights})


def _is_large(config: RunConfig) -> bool:
    """Whether it is a training of Kinetics-400's stage (section 4.1), which several ranks make together."""
    large = {roles[KINETICS] for roles in (PAPER_ROLES, DEMO_ROLES)}
    alone = config.transfer or config.method
    return config.k is None and config.train is not None and not alone and config.dataset in large


def _untrained(task: Task, texts: tuple[str, ...]) -> Any:
    """FlowCLIP as it begins, or a method beside it, for these classes."""
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_kit.rivals import METHODS

    config, backbone = task.config, load_once(task.config.backbone, task.device)
    if config.method:
        return METHODS[config.method](backbone, texts, config.seed, config.model.frames)
    tree = _tree(config.backbone, task.device, texts, config.model.prompt)
    return FlowCLIP(config.model, backbone, texts, config.seed, tree)


def train_and_test(task: Task, change: Callable[[Any], object] = lambda model: None) -> dict:
    """The record of one run; its unfinished state and, if asked, its weights lie in the task's folder.

    change: is given the model before it is trained, to see what another beginning does.
    """
    from flowclip_core.training import loop
    from flowclip_kit.distributed import ranks

    config, split, store = task.config, task.dataset.splits[task.config.split], _store(task)
    model = _untrained(task, task.dataset.texts)
    change(model)
    readable = [video for video in split.train if store.has(video.name)]
    picked: list[Video] = []
    losses: list[float] = []
    counts: list[int] = []
    started = time.monotonic()
    if config.train:
        if task.listed:
            picked = [video for video in task.listed if store.has(video.name)]
        elif config.k is None:
            picked = readable
        else:
            picked = [readable[i] for i in formats.few_shot(readable, config.k, config.seed)]
        rows = store.rows([video.name for video in picked])
        labels = np.array([video.label for video in picked])
        unfinished = task.folder / f"{task.key}.partial"
        if config.method:
            from flowclip_kit.rivals import Recipe
            from flowclip_kit.rivals.training import train

            assert isinstance(config.train, Recipe)
            with watched(task.log, run_name(config, task.key)) as tell:
                losses = train(
                    model,
                    store,
                    labels,
                    config.train,
                    config.seed,
                    rows=rows,
                    checkpoint=unfinished,
                    log=tell,
                )
        else:
            with watched(task.log if ranks.main() else None, run_name(config, task.key)) as tell:
                log = loop.train(
                    model, store, labels, config.train, config.seed, rows=rows, checkpoint=unfinished,
                    memory=task.memory, lanes=task.lanes, ranks=ranks, log=tell,
                )  # fmt: skip
            losses, counts = log.losses, log.ranks
        if task.keep and ranks.main():
            model.save(task.folder / f"{task.key}.safetensors")
    trained = time.monotonic()
    tested = _test(model, task.dataset, config.split, store, config.evaluation)
    return _record(task, model, tested, trained - started, time.monotonic() - trained) | {
        "trained_on": [video.name for video in picked] if config.k else len(picked),
        "losses": [round(loss, 5) for loss in losses],
        **({"ranks": counts[0] if len(counts) == 1 else counts} if counts not in ([], [1]) else {}),
    }


def transfer(task: Task) -> dict:
    """The record of a zero-shot test: all classes of the other data set, and half of them drawn several
    times."""
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_core.training import loop
    from flowclip_kit.distributed import ranks

    config, other, store = task.config, task.tested, _store(task)
    assert other is not None and config.transfer is not None
    backbone, started = load_once(config.backbone, task.device), time.monotonic()

    def model_for(texts: tuple[str, ...]):
        weights = task.folder / f"{task.source}.safetensors"
        if config.train is None:
            return _untrained(task, texts)
        if config.method:
            return _untrained(task, texts).load(weights)
        tree = _tree(config.backbone, task.device, texts, config.model.prompt)
        return FlowCLIP.load(weights, backbone, texts, tree)

    model = model_for(other.texts)
    tested = _test(model, other, config.transfer.split, store, config.evaluation)
    halves = []
    for draw in range(config.transfer.draws):
        labels = formats.half_of_classes(other, draw)
        place = {label: number for number, label in enumerate(labels)}
        test = [video for video in other.splits[config.transfer.split].test if video.label in place]
        test = [video for video in test if store.has(video.name)]
        rows = store.rows([video.name for video in test])
        named = model_for(tuple(other.texts[label] for label in labels))
        scores = loop.score(named, store, config.evaluation, rows=rows, ranks=ranks)
        halves.append(accuracy(scores, np.array([place[video.label] for video in test])))
    tested["scores"] |= {"top1_half": float(np.mean(halves)), "half_sd": float(np.std(halves, ddof=1))}
    return _record(task, model, tested, 0.0, time.monotonic() - started) | {"halves": halves}


def _test(model, dataset: Dataset, split: int, store: FeatureStore, evaluation: EvalConfig) -> dict:
    """What a record says of a split's test videos.

    scores in percent; predictions {video: [label, predicted label, score and rank (0 = best) of the true
    one]}; ties, how many
    videos a tie decided, by metric; still, how many videos do not move, which have no motion to go by.
    """
    from flowclip_kit.distributed import ranks

    test = [video for video in dataset.splits[split].test if store.has(video.name)]
    rows, labels = store.rows([video.name for video in test]), np.array([video.label for video in test])
    found, scores = metrics.assess(
        model, store, labels, evaluation, rows=rows, pairs=dataset.pairs, ranks=ranks
    )
    named, places = metrics.predicted(scores, labels), ranks_of(scores, labels)
    predictions = {
        video.name: [int(label), int(guess), round(float(row[label]), 6), int(place)]
        for video, label, guess, row, place in zip(test, labels, named, scores, places, strict=True)
    }
    return {
        "scores": found,
        "predictions": predictions,
        "ties": metrics.ties(scores, labels, dataset.pairs),
        "still": int(store.still(rows).sum()),
    }


def _record(task: Task, model, tested: dict, training: float, testing: float) -> dict:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    return {
        "key": task.key,
        "config": asdict(task.config),
        **tested,
        "parameters": sum(value.numel() for value in model.trained().values()),
        "tokens_per_video": model.text_tokens if task.config.method else model.tree.tokens_per_video,
        "differences": task.config.model.differences if task.config.model.mmb else 0,
        "seconds": {"train": round(training, 3), "test": round(testing, 3)},
        "peak_memory_gib": round(peak, 3),
        "device": task.device if task.device == "cpu" else f"{task.device}: {gpu_name()}",
        "software": software_once(),
    }


@functools.lru_cache(maxsize=1)
def software_once() -> dict[str, str | None]:
    """`software()`, asked once in a process."""
    return software()
