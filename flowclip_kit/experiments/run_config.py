"""One run: the settings that decide its scores, and the key that names it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from flowclip_core.config import EvalConfig, ModelConfig, TrainConfig, need_range, need_types
from flowclip_kit.profiles import BackboneConfig

# Raised whenever the same settings would give another number; part of every run key.
SCHEMA = 2


@dataclass(frozen=True)
class Transfer:
    """A zero-shot test (section 4.4): a model trained on one data set meets the videos and class names of
    another.

    Two protocols are scored, since 'three standard splits' has two meanings among peers: all classes of the
    split, and half of the classes, drawn `draws` times.
    """

    dataset: str
    split: int = 1
    draws: int = 10

    def __post_init__(self) -> None:
        need_types(self)
        need_range("split", self.split, 1)
        need_range("draws", self.draws, 2)  # their spread is told


@dataclass(frozen=True)
class RunConfig:
    """One training and its test: all that decides its scores, except the bytes of data and weights (see
    `run_key`).

    A run with `transfer` trains nothing itself: it tests the weights of the run that is the same but for
    `transfer`.
    """

    dataset: str
    k: int | None  # training videos a class; None: all of them (closed-set)
    seed: int
    split: int = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig | None = field(default_factory=TrainConfig)  # None: nothing is trained (the CLIP row)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    transfer: Transfer | None = None
    held_out: bool = False  # tested on training videos set aside, to choose a learning rate
    listed: str | None = None  # hash of a published few-shot list, whose videos stand in for a seeded draw
    method: str | None = None  # another method, of `rivals.METHODS`, that has the place of FlowCLIP

    def __post_init__(self) -> None:
        need_types(self)
        need_range("k", self.k, 1)
        need_range("seed", self.seed, 0)
        need_range("split", self.split, 1)


def deciding(config: RunConfig | dict) -> dict:
    """The settings that decide a run's scores, as JSON has them. config: or such a dict, of a record."""
    settings: dict = json.loads(
        json.dumps(config if isinstance(config, dict) else asdict(config), allow_nan=False)
    )
    settings.get("backbone", {}).pop("pretrained", None)  # how weights are named is no setting
    return settings


def run_key(config: RunConfig, data: str, weights: str) -> str:
    """Name of a run: 16 hex digits over the resolved settings, defaults included, and the hashes of data and
    weights.

    Defaults are hashed too, so changing one never hands back an old result as a new one. How the weights were
    named, by
    tag or file, is left out: their hash says what they are.
    """
    said = {"config": deciding(config), "data": data, "weights": weights, "schema": SCHEMA}
    return hashlib.sha256(json.dumps(said, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]
