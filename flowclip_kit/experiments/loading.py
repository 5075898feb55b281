"""The finished runs of a target, from wherever they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from flowclip_core.config import TINY
from flowclip_core.errors import InputError
from flowclip_core.files import sha256, to_json
from flowclip_kit.demo import world
from flowclip_kit.experiments.catalogue import ALL_TARGETS, TARGETS
from flowclip_kit.experiments.results_table import by_key, read_hits, read_tidy
from flowclip_kit.experiments.runs import ensure
from flowclip_kit.paths import root
from flowclip_kit.profiles import PROFILES


class OwnRun(NamedTuple):
    """A call of a target with parameters of the user's own: its name, and the folder of its files."""

    target: str
    name: str
    folder: Path


def own_runs(profile: str, source: str) -> list[OwnRun]:
    """The calls below a source whose parameters were the user's own, those of a target together.

    Their table is <folder>/<target>.csv; `load(target, profile, source, name)` reads it.
    """
    found = []
    for target in ALL_TARGETS:
        for csv in sorted(results_folder(profile, source).glob(f"{target}-*/{target}.csv")):
            found.append(OwnRun(target, csv.parent.name.removeprefix(f"{target}-"), csv.parent))
    return found


def load(
    target: str, profile: str = "demo", source: str = "recorded", name: str = ""
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict]:
    """A target's tidy table (one row per run and metric, percent), the test videos that each run names right,
    and what all rests on (data, weights, settings, software, seconds).

    source: "recorded" (the tables in git), "run" (make the runs that are missing, then show them), or a
    folder that holds <profile>/<target>.csv (see `results_folder`). name: of a call with parameters of its
    own (see `own_runs`). Raises InputError when there is none.
    """
    if source == "run":
        made = ensure(target, profile)
        return made.tidy, by_key(made.hits), made.provenance
    folder = results_folder(profile, source, target, name)
    whole = TARGETS[target].part_of if target in TARGETS and not name else None
    if source == "recorded" and whole and not (folder / f"{target}.csv").exists():
        tidy, hits, about = load(whole, profile, source)
        rows = {(cell.variant, cell.config.k or 0) for cell in TARGETS[target].cells(PROFILES[profile])}
        present = [row in rows for row in zip(tidy["variant"], tidy["k"], strict=True)]
        return tidy[present].assign(target=target).reset_index(drop=True), hits, about
    path = folder / f"{target}.provenance.json"
    tidy = read_tidy(folder / f"{target}.csv")
    try:
        about = json.loads(path.read_text())
        if not isinstance(about, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: no provenance beside the table; make both with ./reproduce.sh {target}"
        ) from error
    hits = read_hits(folder / f"{target}.videos.csv")
    if about.get("seal") not in (None, sealed(about)["seal"]):
        raise InputError(
            f"{path}: was changed after it was written; make it again with ./reproduce.sh {target}"
        )
    for name, file in (("table", f"{target}.csv"), ("videos", f"{target}.videos.csv")):
        if about.get(name) not in (None, sha256(folder / file)):
            raise InputError(
                f"{folder / file}: is not the table that {path.name} was written with; make both again"
            )
    if lacking := set(tidy["key"]) - set(hits):
        files = f"{folder / target}.videos.csv: lacks run {min(lacking)} of {folder / target}.csv"
        raise InputError(f"{files}; make both again with ./reproduce.sh {target}")
    return tidy, hits, about


def sealed(provenance: dict) -> dict:
    """The provenance with a hash of itself, which shows a later change."""
    said = {name: value for name, value in provenance.items() if name != "seal"}
    return said | {"seal": hashlib.sha256(provenance_json(said).encode()).hexdigest()}


def provenance_json(provenance: dict) -> str:
    return to_json("provenance", provenance, indent=1, sort_keys=True) + "\n"


def pair_share(about: dict) -> dict[str, tuple[int, int]]:
    """Data set -> (classes that differ from another only by the direction of time, all classes), from a
    provenance."""
    return {name: (data["pair_classes"], data["classes"]) for name, data in about["datasets"].items()}


def model_note(about: dict) -> str:
    """What must be said of the model and the data behind a table, from its provenance; empty where all is as
    usual."""
    lists = [f"{one['file']} (k={one['k']})" for one in about.get("few_shot_lists", ())]
    lost = [f"{count} of {name}" for name, count in about.get("unreadable", {}).items()]
    said = [_weights_note(about)]
    said += [f"trained on published lists: {', '.join(lists)}"] if lists else []
    said += [f"class names in prompts: {about['class_names']}"] if "class_names" in about else []
    said += [f"videos that cannot be read, left out: {', '.join(lost)}"] if lost else []
    still = [f"{count} of {name}" for name, count in about.get("still", {}).items()]
    said += [f"test videos that do not move: {', '.join(still)}"] if still else []
    return "; ".join(filter(None, said))


def _weights_note(about: dict) -> str:
    name, pretrained = about["backbone"]["name"], about["backbone"]["pretrained"]
    if name == TINY:
        if not set(about["datasets"]) <= set(world.NAMES):
            return "the embedded tiny CLIP knows drawn figures only: on real video its scores mean nothing"
        return f"the tiny CLIP of another pre-training, {Path(pretrained).name}" if pretrained else ""
    return "" if pretrained else f"{name} has random weights: its scores mean nothing"


def results_folder(profile: str, source: str, target: str = "", name: str = "") -> Path:
    """Where the tables of a source lie: the recorded ones, or <source>/<profile>.

    The paper profile's own runs go to <source>/paper-runs: results/paper holds what is printed. Calls with
    parameters of their own have a folder each in there, <target>-<name>.
    """
    folder = Path(source) / ("paper-runs" if profile == "paper" else profile)
    if source == "recorded":
        folder = root() / "results" / "recorded" / profile
    return folder / f"{target}-{name}" if name else folder
