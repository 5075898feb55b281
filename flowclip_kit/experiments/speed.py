"""How fast this machine encodes, trains and tests: each kind of run timed for a moment, once, and kept in the
cache folder.

Real training and real tests on random features with random weights, which cost the same, while every process
is busy.
"""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from flowclip_kit.experiments.devices import gpu_name, lanes, pick_device, pick_precision
from flowclip_kit.paths import cache_dir, root
from flowclip_kit.profiles import PAPER_ROLES, BackboneConfig

SAMPLE = 8  # pictures that a lane encodes to be timed
FEW, MANY = 3, 32  # videos of a timed step, beside one of a single video: FEW where that took over a second


class Kind(NamedTuple):
    """What decides how long a step takes: a data set's class list, and the sizes of the parts that are on."""

    dataset: str
    model: ModelConfig

    def __str__(self) -> str:
        m = self.model
        parts = [name for name in ("spatial", "mmb", "map", "mcb") if getattr(m, name)]
        sizes = (
            f"T={m.frames} L={m.differences * m.mmb} H={m.prompt_length} adapter={m.adapter_width * m.map}"
        )
        return " ".join([self.dataset, *parts, sizes, m.head, m.video_tokens])


@dataclass(frozen=True)
class Cost:
    """Seconds and memory of one kind of run, in one process while all are busy."""

    step: float  # seconds of a training step, whatever its videos
    video: float  # and of each video in it
    once: float  # of a test, whatever its videos
    view: float  # and of each view of a video
    gib: float  # peak of the process, on a GPU of its memory

    def __post_init__(self) -> None:
        if not all(0 <= value < float("inf") for value in asdict(self).values()):
            raise ValueError(f"{self} is no cost")


@dataclass(frozen=True)
class Speed:
    """This machine at work."""

    pictures: float  # encoded a second by all lanes together
    jobs: int  # processes that train at once
    costs: dict[str, Cost]  # by `Kind`, as text

    @classmethod
    def read(cls, stored: Any) -> Speed:
        """From JSON. Raises ValueError, TypeError or KeyError where it is not what was written."""
        found = cls(float(stored["pictures"]), int(stored["jobs"]), {
            str(kind): Cost(**cost) for kind, cost in dict(stored["costs"]).items()
        })  # fmt: skip
        if not 0 < found.pictures < float("inf") or found.jobs < 1:
            raise ValueError("no speed")
        return found

    def __getitem__(self, kind: Kind) -> Cost:
        return self.costs[str(kind)]


def speed(backbone: BackboneConfig, kinds: Iterable[Kind]) -> tuple[Speed, str]:
    """This machine's speed with a backbone and the paper's class lists, and what was measured; once, then
    kept.

    Measured anew for other kinds, on another device, with another version of torch or of this kit's model,
    and where the file is broken.
    """
    device = pick_device("auto")
    precision = pick_precision(None, device)
    where = f"{_hardware(device)} in {precision}"
    path, key, code = cache_dir() / "speed.json", f"{backbone.name} on {where}", _code()
    known, wanted = _known(path), {str(kind): kind for kind in kinds}
    with suppress(ValueError, TypeError, KeyError):
        if (
            known[key]["code"] == code
            and (found := Speed.read(known[key]["speed"])).costs.keys() >= wanted.keys()
        ):
            return found, where
    notice(
        f"measuring how fast {backbone.name} encodes, trains and tests here, once, for a few minutes; remove"
        f" {path} to have it done again on a quiet machine"
    )
    texts = {name: CLASSES[role] for role, name in PAPER_ROLES.items()}
    found = measure(BackboneConfig(backbone.name, None), device, precision, wanted.values(), texts)
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
    files = [*(root() / "flowclip_core").glob("*/*.py"), Path(__file__)]
    for file in sorted(file for file in files if file.parent.name in ("model", "training", "experiments")):
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
    kinds: Iterable[Kind],
    texts: Mapping[str, Sequence[str]],
) -> Speed:
    """Time everything with all lanes at work; of many CPU cores as many as there is memory for, scaled up.

    texts: class names by data set.
    """
    # A model of ViT-L/14's size takes 1.7 GB, and as much again while it is built.
    fitting = max(1, int(psutil.virtual_memory().available / 2**30 / 4))
    jobs = default_jobs()
    found, _ = lanes(backbone, device, precision, min(jobs, fitting), None, Rank())
    trains = len(found) if device == "cpu" else 1  # all GPUs encode, one trains
    # The smallest first: what a large one has held stays with its process.
    ordered = sorted(dict.fromkeys(kinds), key=lambda kind: (kind.model.map, len(texts[kind.dataset])))
    with Pool(len(found), threads=1 if device == "cpu" else min(8, jobs)) as pool:
        list(pool.map(_rate, [(load, 1) for load in found]))  # loads the towers
        rates = [rate for _, rate in pool.map(_rate, [(load,) for load in found])]
        work = [(found[number % trains], kind, texts[kind.dataset]) for number, kind in enumerate(ordered)]
        costs = {str(kind): cost for (_, kind, _), cost in pool.map(cost_of, work)}
    scale, trainers = (jobs / len(found), jobs) if device == "cpu" else (1, 1)
    return Speed(float(sum(rates) * scale), trainers, costs)


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


def cost_of(load, kind: Kind, texts: Sequence[str]) -> Cost:
    """What one kind of run costs: `loop.train` and `loop.score` on one random video, then on several."""
    import torch

    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_core.training import loop

    tower = load()
    cuda = tower.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(tower.device)
    model, store = FlowCLIP(kind.model, tower, texts), random_store(tower.width)

    def train(videos: int) -> None:
        random_training(model, store, videos)

    def test(videos: int) -> None:
        loop.score(model, store, EvalConfig(1, ("centre",)), rows=np.arange(videos))

    once, view = _fixed_and_each(test)
    step, video = _fixed_and_each(train) if model.trained() else (0.0, 0.0)
    held = torch.cuda.max_memory_reserved(tower.device) / 2**30 if cuda else _peak_gib()
    return Cost(step, video, once, view, held)


def _fixed_and_each(work) -> tuple[float, float]:
    """Seconds of some work whatever the number of videos, and for each of them."""

    def timed(videos: int) -> float:
        began = time.perf_counter()
        work(videos)
        return time.perf_counter() - began

    work(1)  # what happens only once, whatever the kind
    one = timed(1)
    several = FEW if one > 1 else MANY
    each = max(0.0, (timed(several) - one) / (several - 1))
    return max(0.0, one - each), each


def _peak_gib() -> float:
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / (2**30 if sys.platform == "darwin" else 2**20)


def random_store(width: int) -> FeatureStore:
    """Features of MANY videos that are not."""
    features = np.random.default_rng(0).normal(0, 0.5, (MANY, 1, 32, width)).astype(np.float16)
    index = pd.DataFrame({"name": [str(row) for row in range(MANY)]})
    return FeatureStore(Path("random"), features, ("centre",), index)


def random_training(model, store: FeatureStore, videos: int):
    """The log of one training step on `videos` of them."""
    from flowclip_core.training import loop

    labels = np.arange(videos) % len(model.class_texts)
    settings = TrainConfig(batch=videos, epochs=None, steps=1, crops=("centre",))
    return loop.train(model, store, labels, settings, 0, rows=np.arange(videos))


def kind_of(dataset: str, model: ModelConfig) -> Kind:
    """The kind of a run on a data set: two that differ in words, rate or norm order cost the same."""
    plain = replace(ModelConfig(), **{
        name: getattr(model, name) for name in (
            "mmb", "map", "mcb", "spatial", "frames", "step", "adapter_width", "head", "video_tokens"
        )
    }, prompt=" ".join(["a"] * model.prompt_length))  # fmt: skip
    if not model.mmb:
        plain = replace(plain, step=1)
    if not model.map:
        plain = replace(plain, adapter_width=0, prompt="a")
    return Kind(dataset, plain)
