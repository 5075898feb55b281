"""How fast this machine encodes, trains and tests: measured once, in about a minute, and kept in the cache
folder.

Nothing about the method's cost is assumed: small models of each kind run through the real training and the
real test on random features, and what a video costs is fitted to their times and memory. Random weights do:
they cost the same.

Letters: T frames, L differences, K classes, H prompt vectors, D shared width.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from flowclip_core.config import EvalConfig, ModelConfig, TrainConfig
from flowclip_core.errors import notice
from flowclip_core.files import to_json, write_atomically
from flowclip_kit import environment
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.distributed.process_pool import Pool, default_jobs
from flowclip_kit.distributed.rank import Rank
from flowclip_kit.experiments.catalogue import BASELINE, FULL, VARIANTS
from flowclip_kit.experiments.devices import gpu_name, lanes, pick_device, pick_precision
from flowclip_kit.paths import cache_dir, root
from flowclip_kit.profiles import PAPER_ROLES, BackboneConfig

SAMPLE = 8  # pictures that a lane encodes to be timed
SECONDS = 2.5  # about so long is each probe, but one step of LEAST videos at least
LEAST, MOST = 2, 32  # videos of a probe's batch
TEST_BATCH, TRAIN_BATCH = 64, 32  # videos that `loop.score` and `loop.train` take at a time, at most

MMB, MAP = ModelConfig(**VARIANTS["mmb"]), ModelConfig(**VARIANTS["mmb+map"])
# What is timed, by growing memory: the kinds of variants, each part at two sizes (HMDB-51's names; a slice of
# Kinetics-400's).
PROBES = (
    (BASELINE, "short"),
    (MMB, "short"),
    (replace(MMB, frames=32), "short"),
    (replace(BASELINE, mcb=True), "short"),
    (replace(BASELINE, mcb=True), "long"),
    (MAP, "short"),
    (MAP, "long"),
)


def amounts(model: ModelConfig, classes: int, tokens: int, batch: float) -> np.ndarray:
    """What one video asks for (6,): its share of a step, tokens of the two streams (T + L) and pairs of them
    (T² + L²), class texts of the communication block (K), a prompt tree and the tokens in it.

    tokens: `PromptTree.tokens_per_video`. Static texts cost a video nothing; prompts that no motion shifts
    are encoded once a step.
    """
    steered = model.map and model.mmb and model.adapter_width > 0
    trees = 1.0 if steered else 1.0 / batch if model.map else 0.0
    streams = np.array([model.frames * model.spatial, model.differences * model.mmb])
    return np.array(
        [1 / batch, streams.sum(), (streams**2).sum(), classes * model.mcb, trees, trees * tokens]
    )


def held(asked: np.ndarray, videos: int, rows: float) -> np.ndarray:
    """What `videos` at a time keep in memory (6,): all of `amounts`, but no more trees than one pass takes.

    rows: nodes of all trees of a pass (`PromptTree.at_once`).
    """
    whole = asked * videos
    if whole[4]:
        whole[4:] *= min(1.0, max(1.0, rows * whole[4] // whole[5]) / whole[4])
    return whole


@dataclass(frozen=True)
class Speed:
    """This machine at work: prices are of each of `amounts`, in one process while all of them are busy."""

    pictures: float  # encoded a second by all lanes together
    jobs: int  # processes that train at once
    train: tuple[float, ...]  # seconds, in training
    view: tuple[float, ...]  # seconds, in a test view
    train_bytes: tuple[float, ...]
    view_bytes: tuple[float, ...]
    base_bytes: float  # of a process that has loaded the towers
    rows: float  # nodes of all trees that one pass takes
    tokens: dict[str, int]  # nodes of the prompt tree at H=5, by data set

    @classmethod
    def read(cls, said: Any) -> Speed:
        """From JSON. Raises ValueError, TypeError or KeyError where it is not what was written."""
        fields: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in dict(said).items()
        }
        found = cls(**fields)
        prices = [*found.train, *found.view, *found.train_bytes, *found.view_bytes]
        if len(prices) != 24 or not all(0 <= price < float("inf") for price in prices):
            raise ValueError("no prices")
        rates = [found.pictures, found.jobs, found.base_bytes, found.rows, sum(found.train), sum(found.view)]
        rates += [found.tokens[name] for name in PAPER_ROLES.values()]
        if not all(0 < rate < float("inf") for rate in rates):
            raise ValueError("no speed")
        return found


def official() -> dict[str, Sequence[str]]:
    """The class names of the paper's data sets."""
    return {name: CLASSES[role] for role, name in PAPER_ROLES.items()}


def speed(backbone: BackboneConfig) -> tuple[Speed, str]:
    """This machine's speed with a backbone and the paper's class lists, and what was measured; once, then
    kept.

    Measured anew on another device, with another version of torch or of this kit's model, and where the file
    is broken.
    """
    device = pick_device("auto")
    precision = pick_precision(None, device)
    where = f"{_hardware(device)} in {precision}"
    path, key, code = cache_dir() / "speed.json", f"{backbone.name} on {where}", _code()
    known = _known(path)
    with suppress(ValueError, TypeError, KeyError):
        if known[key]["code"] == code:
            return Speed.read(known[key]["speed"]), where
    notice(
        f"measuring how fast {backbone.name} encodes, trains and tests here, once, for about a minute; remove"
        f" {path} to have it done again on a quiet machine"
    )
    found = measure(BackboneConfig(backbone.name, None), device, precision, official())
    known[key] = {"code": code, "speed": asdict(found)}
    with suppress(OSError):  # then it is measured again next time
        write_atomically(path, to_json(path, known, indent=1) + "\n")
    return found, where


def known_speed(backbone: BackboneConfig) -> Speed | None:
    """What `speed` has measured before on this machine, at once."""
    device = pick_device("auto")
    key = f"{backbone.name} on {_hardware(device)} in {pick_precision(None, device)}"
    with suppress(ValueError, TypeError, KeyError):
        return Speed.read(_known(cache_dir() / "speed.json")[key]["speed"])
    return None


def _known(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _code() -> str:
    """Hash of what is measured, and how."""
    digest = hashlib.sha256(str(environment.versions(["torch"])).encode())
    files = [*(root() / "flowclip_core").glob("*/*.py"), *(root() / "flowclip_kit").glob("*/*.py")]
    for file in sorted(
        file for file in files if file.parent.name in ("model", "training") or file.stem == "speed"
    ):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _hardware(device: str) -> str:
    """This machine, as far as its speed depends on it; the cache may be shared with others."""
    if device == "cuda":
        import torch

        return f"{torch.cuda.device_count()} x {gpu_name()}"
    return f"{default_jobs()} cores of {platform.node()}"


def measure(
    backbone: BackboneConfig,
    device: str,
    precision: str,
    lists: Mapping[str, Sequence[str]],
    at_least: float = SECONDS,
) -> Speed:
    """Time everything with all lanes at work at once; of many CPU cores as many as there is memory for,
    scaled up.

    lists: class names of the data sets whose trees are to be sized. at_least: seconds of a probe, about.
    """
    # A model of ViT-L/14's size takes 1.7 GB, and as much again while it is built.
    fitting = max(1, int(psutil.virtual_memory().available / 2**30 / 4))
    jobs = default_jobs()
    found, _ = lanes(backbone, device, precision, min(jobs, fitting), None, Rank())
    trains = len(found) if device == "cpu" else 1  # all GPUs encode, one trains
    short, kinetics = CLASSES["HMDB-51"], CLASSES["Kinetics-400"]
    names = {"short": short, "long": kinetics[::4]}
    with Pool(len(found), threads=1 if device == "cpu" else min(8, jobs)) as pool:
        list(pool.map(_prepare, [(load,) for load in found]))
        rates = [rate for _, rate in pool.map(_rate, [(load,) for load in found])]
        made = [probed for _, probed in pool.map(probe, [(load, names, at_least) for load in found[:trains]])]
        ((_, tokens),) = pool.map(_tokens, [(found[0], dict(lists))])
    prices = {name: tuple(np.mean([one[name] for one in made], 0).tolist()) for name in made[0]}
    return Speed(
        float(sum(rates) * (jobs / len(found) if device == "cpu" else 1)),
        jobs if device == "cpu" else 1,
        base_bytes=prices.pop("base_bytes")[0],
        rows=prices.pop("rows")[0],
        tokens=tokens,
        **prices,
    )


def _prepare(load) -> bool:
    _rate(load, 1)
    return True


def _rate(load, sample: int = SAMPLE) -> float:
    """Pictures a second of one lane."""
    import torch

    tower = load()
    pictures, rounds = (sample, 1) if tower.device.type == "cpu" else (16 * sample, 8)
    views = torch.zeros(pictures, 3, tower.image_size, tower.image_size, dtype=torch.uint8)
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(rounds):
            answer = tower.encode_frames(views)
        answer.sum().item()  # a GPU answers when it is done
    return rounds * pictures / (time.perf_counter() - began)


def _tokens(load, lists: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Nodes of each class list's tree at H=5."""
    from flowclip_core.model.prompt_tree import PromptTree

    return {
        name: PromptTree(load(), names, FULL.prompt_length).tokens_per_video for name, names in lists.items()
    }


def probe(load, names: Mapping[str, Sequence[str]], at_least: float = SECONDS) -> dict[str, list[float]]:
    """The prices of one process: `PROBES` through the real `loop.train` and `loop.score` on random
    features."""
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_core.model.prompt_tree import PromptTree
    from flowclip_core.training import loop

    tower = load()
    trees = {name: PromptTree(tower, texts, FULL.prompt_length) for name, texts in names.items()}
    store = random_store(tower.width)
    device = tower.device.type
    base = _held(device)
    rows: dict[str, list[tuple[np.ndarray, float, np.ndarray, float]]] = {"view": [], "train": []}
    together = float(max(tree.at_once * tree.tokens_per_video for tree in trees.values()))
    models = [(FlowCLIP(config, tower, names[size], tree=trees[size]), size) for config, size in PROBES]
    for name, measured in rows.items():  # the test first: what training frees stays with the process
        for model, size in models:

            def train(videos: int, steps: int, model=model) -> None:
                random_training(model, store, videos, steps)

            def view(videos: int, steps: int, model=model) -> None:
                for _ in range(steps):
                    loop.score(model, store, EvalConfig(1, ("centre",)), rows=np.arange(videos))

            videos, seconds, peak = _timed(view if name == "view" else train, device, at_least)
            asked = amounts(model.config, len(names[size]), trees[size].tokens_per_video, videos)
            measured.append((asked, seconds, held(asked, videos, together), max(0.0, peak - base)))
    found = {"base_bytes": [base], "rows": [together]}
    for name, measured in rows.items():
        demands, spent, kept, peaks = (np.array(column) for column in zip(*measured, strict=True))
        found[name] = _fit(demands / spent[:, None], np.ones(len(spent)))  # relative errors count
        found[f"{name}_bytes"] = _fit(kept, peaks)
    return found


def random_store(width: int) -> FeatureStore:
    """Features of TEST_BATCH videos that are not."""
    features = np.random.default_rng(0).normal(0, 0.5, (TEST_BATCH, 1, 32, width)).astype(np.float16)
    index = pd.DataFrame({"name": [str(row) for row in range(TEST_BATCH)]})
    return FeatureStore(Path("random"), features, ("centre",), index)


def random_training(model, store: FeatureStore, videos: int, steps: int):
    """The log of a training on `videos` of them at a time."""
    from flowclip_core.training import loop

    labels = np.arange(videos) % len(model.class_texts)
    settings = TrainConfig(batch=videos, epochs=None, steps=steps, crops=("centre",))
    return loop.train(model, store, labels, settings, 0, rows=np.arange(videos))


def _fit(asked: np.ndarray, costs: np.ndarray) -> list[float]:
    """Prices of 0 or more that explain the costs best."""
    from scipy.optimize import nnls

    scale = np.maximum(asked.max(0), 1e-30)
    return (nnls(asked / scale, costs)[0] / scale).tolist()


def _timed(work: Callable[[int, int], None], device: str, at_least: float) -> tuple[int, float, float]:
    """(videos of a step, seconds a video, bytes of the process at most). work: gets videos and steps."""
    work(1, 1)
    began = time.perf_counter()
    work(1, 1)
    once = time.perf_counter() - began
    videos = int(min(max(at_least / once, LEAST), MOST))
    steps = max(1, int(at_least / (videos * once)))
    if videos * once < at_least / 4:
        work(videos, 1)  # other shapes warm up again
    with _peak(device) as peak:
        began = time.perf_counter()
        work(videos, steps)
        spent = time.perf_counter() - began
    return videos, spent / (videos * steps), max(peak)


@contextmanager
def _peak(device: str) -> Iterator[list[float]]:
    """Bytes that are held meanwhile; the largest is the peak."""
    seen, done = [_held(device)], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(_held(device))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def _held(device: str) -> float:
    """Bytes of this process, on a GPU those of its memory."""
    if device == "cuda":
        import torch

        return float(torch.cuda.memory_reserved())
    return float(psutil.Process(os.getpid()).memory_info().rss)
