"""What notebooks call: the finished runs of a target, from wherever they are."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from flowclip_core.config import TINY
from flowclip_core.demo import world
from flowclip_core.errors import InputError
from flowclip_core.experiments.runs import Options, Result, ensure
from flowclip_core.experiments.tidy import read_tidy
from flowclip_core.paths import root

__all__ = ["Options", "Result", "ensure", "model_note", "pair_share", "provenance", "table"]


def table(target: str, profile: str = "demo", source: str = "recorded") -> pd.DataFrame:
    """The tidy table of a target: one row per run and metric, scores in percent.

    source: "recorded" (the tables in git), "run" (make the runs that are missing, then show them), or a folder that
    holds <profile>/<target>.csv. Raises InputError when there is none.
    """
    if source == "run":
        return ensure(target, profile).tidy
    return read_tidy(_folder(profile, source) / f"{target}.csv")


def provenance(target: str, profile: str = "demo", source: str = "recorded") -> dict:
    """What the table rests on: data, weights, settings, software, seconds. Same arguments as `table`."""
    if source == "run":
        return ensure(target, profile).provenance
    path = _folder(profile, source) / f"{target}.provenance.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no provenance beside the table; make both with ./reproduce.sh {target}") from error


def pair_share(about: dict) -> dict[str, tuple[int, int]]:
    """Data set -> (classes that differ from another only by the direction of time, all classes), from a provenance."""
    return {name: (data["pair_classes"], data["classes"]) for name, data in about["datasets"].items()}


def model_note(about: dict) -> str:
    """What must be said of the model behind a table, from its provenance; empty where the scores mean something."""
    name, pretrained = about["backbone"]["name"], about["backbone"]["pretrained"]
    if name == TINY:
        drawn = set(about["datasets"]) <= set(world.NAMES)
        return "" if drawn else "the embedded tiny CLIP knows drawn figures only: on real video its scores mean nothing"
    return "" if pretrained else f"{name} has random weights: its scores mean nothing"


def _folder(profile: str, source: str) -> Path:
    return (root() / "results" / "recorded" if source == "recorded" else Path(source)) / profile
