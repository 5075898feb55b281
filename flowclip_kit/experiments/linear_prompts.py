"""How nonlinear is MAP? First-order prompts (`rivals.linear_prompts`) beside the true ones.

python -m flowclip_kit.experiments.linear_prompts [--record]
"""

from __future__ import annotations

import argparse
import inspect
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from flowclip_core.config import ModelConfig, TrainConfig
from flowclip_core.errors import InputError
from flowclip_kit.datasets import formats
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.datasets.formats import Dataset
from flowclip_kit.experiments import hashed, runs
from flowclip_kit.experiments.devices import load_once
from flowclip_kit.experiments.experiment import Options, resolve
from flowclip_kit.profiles import PROFILES


@dataclass(frozen=True)
class Study:
    """course: by training step, the error of first-order texts and how far motion moves the texts (see
    `rivals.linear_prompts.relative_error`). scores: top-1 by (trained with, tested with). cost: seconds and
    passes of the text tower."""

    course: pd.DataFrame
    scores: pd.DataFrame
    cost: pd.DataFrame

    @property
    def csv(self) -> str:
        """The three tables below each other, `part` naming them."""
        parts = [table.assign(part=name) for name, table in vars(self).items()]
        table = pd.concat(parts).set_index("part").reset_index()
        return table.to_csv(index=False, float_format="%.4f", lineterminator="\n")

    @classmethod
    def read(cls, path: Path) -> Study:
        """What `csv` was written from. Raises InputError where the file is absent or is none."""
        try:
            parts = pd.read_csv(path).groupby("part")
            found = {name: part.drop(columns="part").dropna(axis=1).reset_index(drop=True)
                     for name, part in parts}  # fmt: skip
            return cls(found["course"].astype({"step": int}), found["scores"],
                       found["cost"].astype({"videos": int, "passes": int}))  # fmt: skip
        except (OSError, KeyError, ValueError) as error:
            raise InputError(
                f"{path}: no table of this study ({error}); make it with"
                " python -m flowclip_kit.experiments.linear_prompts --record"
            ) from error

    def findings(self) -> list[str]:
        """What came out, in sentences."""
        first, last = self.course.iloc[0], self.course.iloc[-1]
        error = self.course["error"]
        kind = "nearly linear" if error.max() < 0.1 else "far from linear" if error.max() > 0.5 else "bent"
        score = self.scores.set_index(["trained with", "tested with"])["top1"]
        true, tested, trained = (
            score[row] for row in [("true", "true"), ("true", "linear"), ("linear", "linear")]
        )
        seconds, videos = self.cost.set_index("what")["seconds"], self.cost["videos"].iloc[0]
        return [
            f"First-order texts miss {100 * first['error']:.0f} % of the motion's effect before training"
            f" and {100 * last['error']:.0f} % after {last['step']:.0f} steps"
            f" (at most {100 * error.max():.0f} %): the way from motion to texts is {kind}"
            f" over the range that training uses.",
            f"Motion moves the texts by {100 * last['effect']:.1f} % of their length at the end.",
            f"A trained model scores {true:.1f} % with its true prompts and {tested:.1f} % when they are"
            f" linearised at test; one that is trained with linearised prompts scores {trained:.1f} %.",
            f"Texts of {videos} test videos take {seconds['true texts']:.2f} s by the tree"
            f" and {seconds['linear texts']:.2f} s to first order, the expansion included.",
        ]


def study(
    profile: str = "demo",
    dataset: str = "HMDB-51",
    k: int = 16,
    seed: int = 0,
    steps: int | None = None,
    marks: tuple[float, ...] = (0, 0.1, 0.25, 0.5, 0.75, 1),
    options: Options | None = None,
) -> Study:
    """The full model trained on k videos a class, in the true way and with linearised prompts.

    dataset: by the paper's name or its own. steps: default the profile's few-shot ones. marks: shares of the
    training at which the error is taken, on the test videos.
    """
    options = options or Options(jobs=1)
    chosen = resolve(profile, "table5", options, (dataset,))
    (name,) = chosen.roles.values()
    train = chosen.few_shot if steps is None else replace(chosen.few_shot, steps=steps, epochs=None)
    with runs.Workshop(chosen, options) as workshop:
        workshop.open([name])
        data, store = workshop.sets[name], workshop.stores[name]
        backbone, evaluation = (
            load_once(chosen.backbone, workshop.device),
            replace(chosen.evaluation, controls=False),
        )
    return measure(backbone, data, store, train, evaluation, k, seed, marks)


def measure(
    backbone, data: Dataset, store: FeatureStore, train: TrainConfig, evaluation, k: int, seed: int, marks
) -> Study:
    """`study` on an opened data set."""
    import torch

    from flowclip_core.data.features import central_frames
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_core.training import loop
    from flowclip_kit.rivals import Recipe
    from flowclip_kit.rivals.linear_prompts import (
        LinearPrompts,
        expansion,
        hidden,
        linear_texts,
        relative_error,
    )
    from flowclip_kit.rivals.training import train as train_rival

    split = data.splits[1]
    readable = [video for video in split.train if store.has(video.name)]
    picked = [readable[i] for i in formats.few_shot(readable, k, seed)]
    test = [video for video in split.test if store.has(video.name)]
    rows, labels = store.rows([v.name for v in picked]), np.array([v.label for v in picked])
    tested, truth = store.rows([v.name for v in test]), np.array([v.label for v in test])
    config = ModelConfig()
    centre = np.tile(central_frames(store.features.shape[2], config.frames), (len(tested), 1))
    frames = torch.from_numpy(store.take(tested, centre, np.full(len(tested), store.crops.index("centre"))))
    frames = frames.to(backbone.device)

    def top1(model) -> float:
        return loop.evaluate(model, store, truth, evaluation, rows=tested)["top1"]

    model, course = FlowCLIP(config, backbone, data.texts, seed), []
    total = train.total_steps(len(rows))
    with tempfile.TemporaryDirectory() as folder:
        for step in sorted({round(mark * total) for mark in marks}):
            if step:
                state = Path(folder, "state")
                loop.train(model, store, labels, train, seed, rows=rows, checkpoint=state, stop_after=step)
            course.append({"step": step, **relative_error(model.eval(), frames)})
    scores = [("true", "true", top1(model)), ("true", "linear", top1(LinearPrompts(model).eval()))]
    with torch.inference_mode():
        began, motion = time.perf_counter(), model.encode_video(frames)
        model.tree(motion["prompts"])
        by_tree, began = time.perf_counter() - began, time.perf_counter()
    with torch.no_grad():
        linear_texts(*expansion(model), hidden(model, model.encode_video(frames)["motion"]))
        to_first_order = time.perf_counter() - began
    linear = LinearPrompts(FlowCLIP(config, backbone, data.texts, seed))
    fields = {name: getattr(train, name) for name in train.__dataclass_fields__}
    began = time.perf_counter()
    train_rival(linear, store, labels, Recipe(**fields), seed, rows=rows)
    training = time.perf_counter() - began
    scores += [("linear", "linear", top1(linear)), ("linear", "true", top1(linear.model.eval()))]
    passes = 1 + config.adapter_width
    cost = [("true texts", len(tested), len(tested), by_tree),
            ("linear texts", len(tested), passes, to_first_order),
            ("training with linear prompts", len(rows), passes * total, training)]  # fmt: skip
    return Study(
        pd.DataFrame(course),
        pd.DataFrame(scores, columns=["trained with", "tested with", "top1"]),
        pd.DataFrame(cost, columns=["what", "videos", "passes", "seconds"]),
    )


def from_notebook(namespace: dict) -> Study:
    """The study that the parameters of notebooks/linear_prompts.ipynb ask for. namespace: its globals().

    With the source "recorded" the recorded one; its other parameters must then be the usual ones.
    """
    names = ("dataset", "k", "seed", "steps")
    asked = {name: namespace[name] for name in names}
    if namespace["source"] == "recorded":
        usual = {name: inspect.signature(study).parameters[name].default for name in names}
        if asked != usual:
            raise InputError(f"{asked}: only {usual} is recorded; take source = 'run'")
        return Study.read(hashed.recorded("linear_prompts", namespace["profile"]))
    options = Options(jobs=1, data_root=namespace["data_root"] and Path(namespace["data_root"]))
    return study(namespace["profile"], **asked, options=options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo", choices=sorted(PROFILES))
    parser.add_argument("--record", action="store_true", help="keep the tables in results/recorded")
    asked = parser.parse_args()
    found = study(asked.profile)
    print("\n".join(found.findings()))
    if asked.record:
        hashed.record("linear_prompts", asked.profile, found.csv)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
