"""Cells of other methods beside FlowCLIP's own, and the learning rate that each of them deserves.

Two budgets. `published`: every method as its authors train it (see `rivals.Method.published`). `equal`: each
with its own optimiser, schedule and loss, but FlowCLIP's steps, batch and views, and at the learning rate,
FlowCLIP's included, that is best on training videos set aside. All try the same list; where a best rate is
the smallest or largest that was tried, that method tries the next one, before any meets the test videos.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_kit.rivals import METHODS

EQUAL, PUBLISHED = "equal", "published"
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# (variant, reference) pairs that answer the two questions of `reporting.rivals`; what conditioning brings.
MOTION = (("full", "prompts without motion"), ("full", "CoCoOp"), ("full", "CoOp"))
BLOCK = tuple(
    ("mmb", other)
    for other in ("Ju et al.", "ActionCLIP Transf", "ActionCLIP LSTM", "X-CLIP head", "linear probe")
)
CONDITIONING = (("CoCoOp", "CoOp"),)
OURS_FIRST = tuple(("full", other) for other in (
    "clip", "baseline", "mmb", "mmb+map", "linear probe", "Tip-Adapter-F", "Ju et al.", "ActionCLIP Transf",
    "ActionCLIP LSTM", "X-CLIP head", "BIKE spotting"))  # fmt: skip
PAIRS = MOTION + BLOCK + CONDITIONING + OURS_FIRST
LEAST, MOST = 1e-6, 100.0  # how far the list is widened


def of_methods(cells: Sequence[Any], methods: Iterable[str] | None, budget: str) -> list[Any]:
    """The cells of other methods, on the data sets, k, seeds and views of the full model's `cells`.

    methods: names of `rivals.METHODS`, default all. Raises InputError for a method or budget that is unknown.
    """
    if budget not in (EQUAL, PUBLISHED):
        raise InputError(f"budget={budget!r}: expected {EQUAL} or {PUBLISHED}")
    methods = list(METHODS) if methods is None else list(methods)
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"methods: {unknown[0]!r} is unknown; there are {', '.join(METHODS)}")
    found = []
    for name in methods:
        for cell in cells:
            config, ours = cell.config, cell.config.train
            row = name if cell.variant == "full" else f"{name} {cell.variant}"
            recipe = METHODS[name].published(config.k)
            frames = METHODS[name].frames if budget == PUBLISHED else config.model.frames
            model = ModelConfig(mmb=False, map=False, mcb=False, frames=frames, step=min(4, frames - 1))
            config = replace(config, method=name, model=model)
            if recipe is None:
                config = replace(config, train=None, k=None, seed=0, listed=None)
                if config.transfer:  # nothing is trained, so there is no data set to train on
                    config = replace(config, dataset=config.transfer.dataset, split=config.transfer.split)
                found.append(replace(cell, variant=row, config=config, trained_on="", keep=False))
                continue
            recipe = replace(recipe, crops=ours.crops)
            if budget == EQUAL:
                length = {"steps": ours.steps, "epochs": ours.epochs, "batch": ours.batch}
                recipe = replace(recipe, lr=ours.lr, **length)
            found.append(replace(cell, variant=row, config=replace(config, train=recipe), keep=False))
    return list(dict.fromkeys(found))


def trials(cells: Iterable[Any], rates: Mapping[str, Iterable[float]], seed: int) -> list[Any]:
    """A run of each variant and data set at each of its rates, at the largest k, on videos set aside: of
    those that it is trained on, also where it is tested on another data set."""
    cells = [cell for cell in cells if cell.config.train]
    most = max((cell.config.k or math.inf for cell in cells), default=0)
    first: dict[tuple[str, str], Any] = {}
    for cell in cells:
        if (cell.config.k or math.inf) == most:
            first.setdefault((cell.trained_on, cell.variant), cell)
    return [
        replace(cell, role=role, keep=False, config=replace(
            cell.config, seed=seed, held_out=True, listed=None, transfer=None,
            train=replace(cell.config.train, lr=rate),
            evaluation=replace(cell.config.evaluation, controls=False)))
        for (role, variant), cell in first.items() for rate in rates.get(variant, ())
    ]  # fmt: skip


def at_rates(cells: Iterable[Any], rates: Mapping[str, float]) -> list[Any]:
    """The cells, each at its variant's rate. Raises InputError for one whose every rate failed."""
    found = []
    for cell in cells:
        config = cell.config
        if config.train:
            if cell.variant not in rates:
                raise InputError(f"rivals, {cell.variant}: every learning rate failed; try lower ones")
            config = replace(config, train=replace(config.train, lr=rates[cell.variant]))
        found.append(replace(cell, config=config))
    return found


def wider(
    means: Mapping[str, Mapping[float, float]], tried: Mapping[str, set[float]]
) -> dict[str, tuple[float, ...]]:
    """Variant -> the next rates to try, where its best one lies at an edge of those it tried.

    means: variant -> {rate: mean score}, of the rates that did not fail. tried: all rates, failed ones too.
    """
    found = {}
    for variant, scores in means.items():
        rate = best_rate(scores)
        beyond = [next_rate(rate, up) for up in edges(scores, tried[variant])]
        if new := tuple(rate for rate in beyond if LEAST <= rate <= MOST and rate not in tried[variant]):
            found[variant] = new
    return found


def best_rate(scores: Mapping[float, float]) -> float:
    """The rate with the highest score, the smallest of equals. scores: {rate: mean score}."""
    return min(scores, key=lambda rate: (-scores[rate], rate))


def edges(scores: Mapping[float, float], tried: Iterable[float]) -> list[bool]:
    """The directions (True: up) in which the best rate is the last that was tried.

    Where its neighbour on the other side scores the same, the score has levelled off and there is no edge.
    """
    best, rates = best_rate(scores), sorted(tried)
    place = rates.index(best)
    found = []
    for up, last in ((True, len(rates) - 1), (False, 0)):
        inward = place - 1 if up else place + 1
        level = 0 <= inward < len(rates) and scores.get(rates[inward]) == scores[best]
        if place == last and not level:
            found.append(up)
    return found


def next_rate(rate: float, up: bool) -> float:
    """The next number above or below on the scale 1, 3, 10, 30, ..."""
    power = math.floor(math.log10(rate))
    scale = [m * 10.0**p for p in range(power - 2, power + 3) for m in (1, 3)]
    far = [value for value in scale if (value > 1.2 * rate if up else value < rate / 1.2)]
    return float(f"{min(far) if up else max(far):.6g}")


def rates_tried(cells: Iterable[Any]) -> dict[str, set[float]]:
    """Variant -> the rates of its trials, those that diverged included."""
    found: dict[str, set[float]] = {}
    for cell in cells:
        if cell.config.held_out:
            found.setdefault(cell.variant, set()).add(cell.config.train.lr)
    return found


def costs(cells: Iterable[Any], record) -> dict[str, dict[str, float]]:
    """Variant -> trained parameters, mean seconds of a training, tokens that the text tower reads a video.

    record: config -> run record. Of several data sets and k, the largest counts.
    """
    found: dict[str, dict[str, float]] = {}
    seconds: dict[str, list[float]] = {}
    for cell in cells:
        if cell.config.held_out:
            continue
        about = record(cell.config)
        row = found.setdefault(cell.variant, {"parameters": 0, "seconds": 0.0, "text_tokens": 0})
        row["parameters"] = max(row["parameters"], about["parameters"])
        seconds.setdefault(cell.variant, []).append(about["seconds"]["train"])
        row["text_tokens"] = max(row["text_tokens"], text_tokens(cell.config, about))
    for variant, row in found.items():
        row["seconds"] = round(sum(seconds[variant]) / len(seconds[variant]), 3)
    return found


def text_tokens(config, record: Mapping[str, Any]) -> int:
    """Tokens that the text tower reads for each video; none where all videos share their texts."""
    model = config.model
    shared = not (model.map and model.mmb and model.adapter_width) and not config.method
    return 0 if shared else record["tokens_per_video"]
