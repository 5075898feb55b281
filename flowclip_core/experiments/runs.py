"""From a target to its finished runs: data, stored features, the missing trainings, their records."""

from __future__ import annotations

import functools
import hashlib
import resource
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import psutil
from tqdm import tqdm

from flowclip_core.config import PAPER_ROLES, PROFILES, TINY, BackboneConfig, Profile, RunConfig, run_key
from flowclip_core.data import datasets
from flowclip_core.data.datasets import Dataset
from flowclip_core.data.features import FeatureStore, StoreConfig, ensure_features
from flowclip_core.demo import world
from flowclip_core.errors import InputError
from flowclip_core.experiments.catalogue import TARGETS, Cell
from flowclip_core.experiments.records import read_record, software, write_record
from flowclip_core.experiments.tidy import tidy_rows
from flowclip_core.paths import root, sha256
from flowclip_core.workers import Pool, default_jobs


@dataclass(frozen=True)
class Options:
    """How and where to run, apart from the profile; nothing here changes a number, but for the data and the model."""

    data_root: Path | None = None
    dataset: str | None = None  # only this data set, in the place of the profile's
    results: Path | None = None  # default: results/ of the checkout
    seeds: int | None = None
    device: str = "auto"
    jobs: int | None = None
    decoder: str = "pyav"
    backbone: str | None = None
    pretrained: str | None = None

    @property
    def results_dir(self) -> Path:
        return self.results or root() / "results"


@dataclass(frozen=True)
class Result:
    """The finished runs of one target: their tidy table, and what the table rests on."""

    tidy: pd.DataFrame
    provenance: dict
    checkpoints: dict[str, Path]  # name -> trained weights that were kept


def resolve(profile: str, target: str, options: Options) -> Profile:
    """The profile with the user's changes applied and the target's data sets only. Raises InputError when unknown."""
    if profile not in PROFILES:
        raise InputError(f"--profile {profile!r} is unknown; use {', '.join(PROFILES)}")
    found = PROFILES[profile]
    roles = {role: name for role, name in found.roles.items() if role in TARGETS[target].roles}
    if options.dataset in PAPER_ROLES.values() and found.backbone.name == TINY and not options.backbone:
        raise InputError(f"--dataset {options.dataset} holds real videos; take it with --profile quick or paper")
    if options.dataset:
        roles = {role: name for role, name in roles.items() if name == options.dataset} or {"": options.dataset}
    backbone = found.backbone
    if options.backbone or options.pretrained:
        name = options.backbone or backbone.name
        pretrained = options.pretrained or (None if name == TINY else "openai")
        backbone = BackboneConfig(name, None if pretrained == "none" else pretrained)
    if backbone.name == TINY and backbone.pretrained:
        raise InputError(f"backbone tiny-clip brings its own weights; leave --pretrained {backbone.pretrained} out")
    if options.data_root is not None and not options.data_root.is_dir():
        raise InputError(f"--data-root {options.data_root}: no such folder")
    if real := [name for name in roles.values() if name not in world.NAMES and options.data_root is None]:
        raise InputError(f"data set {real[0]}: say where it lies with --data-root DIR")
    if options.seeds is not None and options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: at least 1 run is needed")
    return replace(found, roles=roles, backbone=backbone, seeds=options.seeds or found.seeds)


def open_dataset(name: str, options: Options, jobs: int) -> Dataset:
    """A demo world (drawn if need be) or a data set under --data-root."""
    if name in world.NAMES:
        with closing(Bar(f"drawing {name}", "videos")) as bar:
            folder = world.ensure(name, world.default_root(), jobs, progress=bar.update)
        return datasets.load(name, folder)
    inside = options.data_root / name
    missing = "skip" if name == "kinetics400" else "error"
    return datasets.load(name, inside if inside.is_dir() else options.data_root, missing=missing)


def weights_hash(backbone: BackboneConfig) -> str:
    """Hash of the backbone's weights; for the embedded model that of its file, without importing torch."""
    if backbone.name == TINY:
        return sha256(world.WEIGHTS)
    from flowclip_core.model.backbone import load_backbone

    return load_backbone(backbone.name, backbone.pretrained).weights_hash


def ensure(target: str, profile: str = "demo", options: Options | None = None) -> Result:
    """All runs of `target` under `profile`, making only those that are missing.

    Raises InputError for an unknown target, data that are absent or unreadable, or weights that cannot be had. A kill
    at any moment loses at most the runs in work; two calls at once share the work.
    """
    options = options or Options()
    if target not in TARGETS:
        raise InputError(f"target {target!r} is unknown; ./reproduce.sh list shows all")
    chosen = resolve(profile, target, options)
    device = pick_device(options.device)
    jobs = options.jobs or (default_jobs() if device == "cpu" else 1)
    memory = min(4.0, 0.5 * psutil.virtual_memory().available / 2**30 / jobs)  # GiB of activations a worker
    weights = weights_hash(chosen.backbone)
    store_config = StoreConfig(weights, chosen.frames_stored, chosen.store_crops, options.decoder)
    sets, stores, shots = {}, {}, chosen.shots
    started = time.monotonic()
    with Pool(jobs, threads=1 if device == "cpu" else default_jobs()) as pool:
        for name in chosen.roles.values():  # all of them before the long work: what is missing is said at once
            sets[name] = open_dataset(name, options, jobs)
        for name in sets:
            with closing(Bar(f"encoding {name}", "videos")) as bar:
                stores[name] = ensure_features(
                    sets[name], store_config, functools.partial(load_once, chosen.backbone, device), pool,
                    allow_unreadable=name == "kinetics400", progress=bar.update,
                )  # fmt: skip
            shots = possible_shots(sets[name], shots)
        cells = TARGETS[target].cells(replace(chosen, shots=shots))
        keys = {cell: key_of(cell.config, sets[cell.config.dataset], stores, weights) for cell in cells}
        folder = options.results_dir / "runs"
        todo = [cell for cell in cells if not _finished(cell, folder, keys[cell])]
        tasks = [
            (cell, keys[cell], folder, sets[cell.config.dataset], stores[cell.config.dataset].folder, weights, device,
             memory)
            for cell in sorted(todo, key=_cost, reverse=True)
        ]  # fmt: skip
        about = f"{target}, {len(cells)} runs"
        with closing(Bar(about, "runs", total=len(cells), done=len(cells) - len(todo))) as bar:
            for _ in pool.map(_run, tasks):
                bar.add(1)
    rows, records, kept = [], [], {}
    for cell, key in keys.items():
        record = read_record(folder / f"{key}.json")
        records.append(record)
        rows += tidy_rows(target, profile, cell.role, cell.variant, record)
        if cell.keep:
            kept[f"{target}-{cell.config.dataset}-{cell.variant}-k{cell.config.k}"] = folder / f"{key}.safetensors"
    return Result(
        pd.DataFrame(rows),
        _provenance(target, chosen, records, sets, stores, len(todo), time.monotonic() - started),
        kept,
    )


def possible_shots(dataset: Dataset, shots: tuple[int, ...]) -> tuple[int, ...]:
    """The k that every class can give; where even the smallest is too many, as many as the rarest class has."""
    rarest = min(Counter(video.label for video in dataset.splits[1].train).values())
    return tuple(k for k in shots if k <= rarest) or (rarest,)


def key_of(config: RunConfig, dataset: Dataset, stores: dict[str, FeatureStore], weights: str) -> str:
    """The run's name: settings, the split's lists, the bytes of its videos and their decoder, the weights."""
    split, store = dataset.splits[config.split], stores[config.dataset]
    names = [video.name for video in (*split.train, *split.test) if store.has(video.name)]
    data = f"{dataset.fingerprint(config.split)} {store.fingerprint(names)} {store.crops} {store.features.shape[1:]}"
    return run_key(config, hashlib.sha256(data.encode()).hexdigest(), weights)


def pick_device(device: str) -> str:
    """`cuda` where it is asked for or found, else `cpu`. Raises InputError when it is asked for and not there."""
    if device == "cpu":
        return device
    if device not in ("auto", "cuda"):
        raise InputError(f"--device {device!r} is unknown; use auto, cpu or cuda")
    signs = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/dxg")
    if device == "auto" and sys.platform == "linux" and not any(Path(sign).exists() for sign in signs):
        return "cpu"  # spares the import of torch where there is nothing to find
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError("--device cuda: torch finds no CUDA device here; leave the option out to use the CPU")
    return "cpu"


class Bar:
    """A progress bar on stderr with the time left; nothing is shown for work already done."""

    def __init__(self, what: str, unit: str, total: int = 0, done: int = 0) -> None:
        self._make = functools.partial(
            tqdm, desc=what, unit=f" {unit}", file=sys.stderr, initial=done, dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 15,
            bar_format="{desc}: {n_fmt}/{total_fmt}{unit} [{elapsed}, {remaining} left]",
        )  # fmt: skip
        self._total, self._bar = total, None

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


def _finished(cell: Cell, folder: Path, key: str) -> bool:
    return (folder / f"{key}.json").exists() and (not cell.keep or (folder / f"{key}.safetensors").exists())


def _cost(cell: Cell) -> float:
    """Rough relative time, to start the longest runs first."""
    model, train = cell.config.model, cell.config.train
    steps = 0 if train is None else train.total_steps(1000 * (cell.config.k or 100))
    return (10 if model.map else 3 if model.mmb else 1) * steps


@functools.lru_cache(maxsize=1)
def load_once(backbone: BackboneConfig, device: str):
    from flowclip_core.model.backbone import load_backbone

    return load_backbone(backbone.name, backbone.pretrained, device=device)


@functools.lru_cache(maxsize=8)
def _tree(backbone: BackboneConfig, device: str, texts: tuple[str, ...], prompt: str):
    from flowclip_core.model.prompt_tree import PromptTree

    loaded = load_once(backbone, device)
    return PromptTree(loaded, texts, len(loaded.tokenize(prompt)))


@functools.lru_cache(maxsize=8)
def open_store(folder: Path) -> FeatureStore:
    return FeatureStore.open(folder)


def _run(
    cell: Cell, key: str, folder: Path, dataset: Dataset, store_folder: Path, weights: str, device: str, memory: float
) -> bool | None:
    """Train and test one cell in a worker process and write its record; None when another command is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return None
    try:
        if not _finished(cell, folder, key):
            record = train_and_test(cell, key, folder, dataset, open_store(store_folder), device, memory)
            write_record(folder / f"{key}.json", {**record, "weights": weights})
        return True
    finally:
        lock.release()


def train_and_test(
    cell: Cell, key: str, folder: Path | None, dataset: Dataset, store: FeatureStore, device: str, memory: float
) -> dict:
    """The record of one run. folder: where its unfinished state and its kept weights go; None to keep neither."""
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_core.training import loop, metrics

    config, split = cell.config, dataset.splits[cell.config.split]
    backbone = load_once(config.backbone, device)
    tree = _tree(config.backbone, device, dataset.texts, config.model.prompt)
    model = FlowCLIP(config.model, backbone, dataset.texts, config.seed, tree)
    readable = [video for video in split.train if store.has(video.name)]
    picked, losses, started = [], [], time.monotonic()
    if config.train:
        chosen = range(len(readable)) if config.k is None else datasets.few_shot(readable, config.k, config.seed)
        picked = [readable[i] for i in chosen]
        log = loop.train(
            model, store, store.rows([video.name for video in picked]),
            np.array([video.label for video in picked]), config.train, config.seed,
            memory=memory, checkpoint=folder and folder / f"{key}.partial",
        )  # fmt: skip
        losses = log.losses
        if cell.keep and folder:
            model.save(folder / f"{key}.safetensors")
    trained = time.monotonic()
    test = [video for video in split.test if store.has(video.name)]
    rows, labels = store.rows([video.name for video in test]), np.array([video.label for video in test])
    scores, found = loop.score(model, store, rows, config.evaluation), {}
    for order in (loop.IN_ORDER, *(loop.CONTROLS if config.evaluation.controls else ())):
        suffix = "" if order == loop.IN_ORDER else f"_{order}"
        arranged = scores if not suffix else loop.score(model, store, rows, config.evaluation, order)
        found[f"top1{suffix}"] = metrics.accuracy(arranged, labels)
        found |= metrics.pair_metrics(arranged, labels, dataset.pairs, suffix)
    found["top5"] = metrics.accuracy(scores, labels, top=5)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    return {
        "key": key,
        "config": asdict(config),
        "scores": found,
        "predictions": {
            video.name: [int(label), int(row.argmax()), round(float(row[label]), 6)]
            for video, label, row in zip(test, labels, scores, strict=True)
        },
        "trained_on": [video.name for video in picked] if config.k else len(picked),
        "losses": [round(loss, 5) for loss in losses],
        "parameters": sum(value.numel() for value in model.trained().values()),
        "tokens_per_video": tree.tokens_per_video,
        "differences": config.model.differences if config.model.mmb else 0,
        "seconds": {"train": round(trained - started, 3), "test": round(time.monotonic() - trained, 3)},
        "peak_memory_gib": round(peak, 3),
        "device": device if device == "cpu" else f"{device}: {gpu_name()}",
        "software": software_once(),
    }


def gpu_name() -> str:
    """Name of the CUDA device in use."""
    import torch

    return torch.cuda.get_device_name()


@functools.lru_cache(maxsize=1)
def software_once() -> dict[str, str]:
    """`software()`, asked once in a process."""
    return software()


def _provenance(
    target: str, profile: Profile, records: list[dict], sets: dict, stores: dict, made: int, seconds: float
) -> dict:
    spent = [record["seconds"] for record in records]
    return {
        "target": target,
        "profile": profile.name,
        "runs": len(records),
        "seeds": profile.seeds,
        "backbone": asdict(profile.backbone) | {"weights": records[0]["weights"]},
        "datasets": {
            name: {
                "classes": len(found.classes),
                "pair_classes": 2 * len(found.pairs),
                "train": len(found.splits[1].train),
                "test": len(found.splits[1].test),
                "fingerprint": found.fingerprint(1)[:16],
                "decoder": ", ".join(sorted(set(stores[name].index["decoder"]))),
            }
            for name, found in sets.items()
        },
        "train": asdict(profile.few_shot),
        "evaluation": asdict(profile.evaluation),
        "software": sorted({tuple(sorted(record["software"].items())) for record in records}),
        "devices": sorted({record["device"] for record in records}),
        "training_seconds": round(sum(part["train"] for part in spent), 1),
        "testing_seconds": round(sum(part["test"] for part in spent), 1),
        "peak_memory_gib": max(record["peak_memory_gib"] for record in records),
        "last_call": {"runs_made": made, "seconds": round(seconds, 1)},
    }
