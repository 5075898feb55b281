"""Table 3 counted anew: parameters and multiply-adds of CLIP, the Baseline and the full model at the paper's
sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.files import write_atomically
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.experiments.catalogue import BASELINE, CLIP, FULL
from flowclip_kit.experiments.results_table import numbers, read_csv

COLUMNS = ["table", "variant", "counting", "dataset", "classes", "L", "metric", "value"]
COUNTINGS = ("exact", "paper's rule", "per video")
METRICS = ("params", "trainable", "gmac", "params_gain", "gmac_gain")

ONE_STEP = ModelConfig(step=1)
# Readings that the parameters printed can tell apart: label -> (settings, what the streams are made of).
READINGS = {
    "full, adapter 64": (ModelConfig(step=1, adapter_width=64), "clip"),
    "full, torch streams": (ONE_STEP, "torch"),
}


def counts() -> pd.DataFrame:
    """What Table 3 prints, counted three ways; tidy, in the columns of `COLUMNS`, values to six decimals.

    table: always table3. variant: clip, baseline, full; a reading of `READINGS`; or a part of the full model,
    with L = 22 (`counting.PARTS`). L: frame differences, 22 as section 4.2 sets s = 4, or 7, neighbours
    alone; 0 without motion stream or where it does not matter. dataset: the paper's name of it, empty for
    parameters; classes: K.

    counting:
    - exact: every parameter once, every matrix product of 8 frames and K texts of 77 tokens. For the full
    model
      that is the price of each video when its texts are encoded plainly.
    - paper's rule: `counting.papers_rule`.
    - per video: texts that are the same for all videos cost a video nothing; the full model's go through the
    tree.
    metric: params and trainable (millions), gmac (thousand million multiply-adds), params_gain and gmac_gain
    (over clip in the same counting).

    OpenAI's ViT-B/16, 8 frames, H = 5. No weights, no data; the same on every machine.
    """
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_core.model.prompt_tree import PromptTree
    from flowclip_kit.experiments import counting

    tower, rows = counting.weightless(), []

    def row(variant: str, how: str, metric: str, value: int, dataset: str = "", differences: int = 0) -> None:
        classes = len(CLASSES[dataset]) if dataset else 0
        scale = 1e6 if metric in ("params", "trainable") else 1e9
        rows.append(("table3", variant, how, dataset, classes, differences, metric, round(value / scale, 6)))

    for dataset, names in CLASSES.items():
        tree = PromptTree(tower, names, FULL.prompt_length)
        by_tree = counting.tree_multiply_adds(
            tree.layout, tree.prefix, tower.text_width, tower.width, len(tower.clip.transformer.resblocks)
        )
        first = dataset == next(iter(CLASSES))  # parameters do not depend on the classes
        plain: dict[str, int] = {}
        for variant, config in (("clip", CLIP), ("baseline", BASELINE), ("full", ONE_STEP), ("full", FULL)):
            model = FlowCLIP(config, tower, names, tree=tree)
            length = config.differences if config.mmb else 0
            plain = counting.part_multiply_adds(model, known=plain)
            video = plain | {"text tower": by_tree if config.map else 0}
            params, work = counting.counted_by_the_papers_rule(model)
            row(variant, "exact", "gmac", sum(plain.values()), dataset, length)
            row(variant, "paper's rule", "gmac", work, dataset, length)
            row(variant, "per video", "gmac", sum(video.values()), dataset, length)
            if first and config != ONE_STEP:
                row(variant, "exact", "params", counting.parameters(model))
                row(variant, "exact", "trainable", counting.parameters(model, trained=True))
                row(variant, "paper's rule", "params", params)
            if config == FULL:
                for part in counting.PARTS:
                    row(part, "exact", "gmac", plain[part], dataset, length)
                    row(part, "per video", "gmac", video[part], dataset, length)
        if first:
            for part, size in counting.part_parameters(model).items():
                row(part, "exact", "params", size)
                row(part, "exact", "trainable", 0 if part.endswith("tower") else size)
            for variant, (config, streams) in READINGS.items():
                model = FlowCLIP(config, tower, names, tree=tree)
                params, _ = counting.counted_by_the_papers_rule(model, streams)
                row(variant, "paper's rule", "params", params)
    return _with_gains(pd.DataFrame(rows, columns=COLUMNS))


def _with_gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Add what Table 3's last line prints: full less clip, in every counting."""
    gains = []
    where = ["counting", "dataset", "metric"]
    clip = frame[frame["variant"] == "clip"].set_index(where)["value"]
    for row in frame[(frame["variant"] == "full") & frame["metric"].isin(("params", "gmac"))].to_dict(
        "records"
    ):
        less = clip[tuple(row[name] for name in where)]
        gains.append(row | {"metric": f"{row['metric']}_gain", "value": round(row["value"] - less, 6)})
    return pd.concat([frame, pd.DataFrame(gains)], ignore_index=True)


def counts_csv(frame: pd.DataFrame) -> str:
    """The text that `write_counts` writes: rows in the order of `counts()`, values with six decimals."""
    return (
        frame[COLUMNS]
        .assign(value=frame["value"].map("{:.6f}".format))
        .to_csv(index=False, lineterminator="\n")
    )


def write_counts(frame: pd.DataFrame, path: Path) -> Path:
    """Write `counts()` as CSV, whole or not at all."""
    return write_atomically(Path(path), counts_csv(frame))


def read_counts(path: Path) -> pd.DataFrame:
    """The table that `write_counts` wrote.

    Raises InputError naming the file when it is absent, lacks a column, holds an unknown counting or metric,
    something that is no count, or a row twice.
    """
    frame = read_csv(path, COLUMNS, "made by ./reproduce.sh table3")
    again = "make the file again with ./reproduce.sh table3"
    known = {"table": ("table3",), "counting": COUNTINGS, "metric": METRICS, "dataset": ("", *CLASSES)}
    for name, allowed in known.items():
        wrong = frame.loc[~frame[name].isin(allowed), name]
        if len(wrong):
            line, choice = wrong.index[0] + 2, ", ".join(filter(None, allowed))
            raise InputError(
                f"{path}: line {line}, column {name} is '{wrong.iloc[0]}', expected {choice}; {again}"
            )
    for name in ("classes", "L", "value"):
        frame[name] = numbers(frame, name, path)
        wrong = frame[
            ~np.isfinite(frame[name]) | (frame[name] < 0) | ((name != "value") & (frame[name] % 1 != 0))
        ]
        if len(wrong):
            kind = "a number of 0 or more" if name == "value" else "a whole number of 0 or more"
            raise InputError(
                f"{path}: line {wrong.index[0] + 2}, column {name} is {wrong[name].iloc[0]:g}, expected"
                f" {kind}; {again}"
            )
    double = frame[frame.duplicated([name for name in COLUMNS if name != "value"])]
    if len(double):
        raise InputError(f"{path}: line {double.index[0] + 2} says what an earlier line says; {again}")
    return frame.astype({"classes": int, "L": int, "value": float})
