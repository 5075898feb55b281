"""Runs and their names: every setting counts, nothing else does; what is missing is made, and nothing
twice."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import fixed
from safetensors.torch import load_file

from flowclip_core.config import EvalConfig, ModelConfig, TrainConfig
from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.datasets.formats import Dataset, Split, Video
from flowclip_kit.experiments import catalogue, records, rerun, results_table, runs
from flowclip_kit.experiments.catalogue import CLIP, READINGS, TARGETS, VARIANTS, Cell, best_rates, table5
from flowclip_kit.experiments.experiment import Experiment, Options, possible_shots, resolve
from flowclip_kit.experiments.run_config import RunConfig, Transfer, run_key
from flowclip_kit.experiments.training_log import log_to, run_name
from flowclip_kit.profiles import DEMO, PAPER, PROFILES, QUICK, SMOKE, BackboneConfig

BASE = RunConfig("set", k=4, seed=0)
SENT = replace(BASE, transfer=Transfer("other", split=2))
# Where a field cannot be changed alone.
STARTS = {
    "model.spatial": replace(
        BASE, model=replace(BASE.model, mmb=False)
    ),  # the mean of frames has no motion stream
    "model.head": replace(
        BASE, model=replace(BASE.model, map=False, mcb=False)
    ),  # and a linear head no texts
}
# Fields whose other values cannot be made up, or stand only together with another field's.
OTHER = {
    (ModelConfig, "norm_order"): {"norm_order": "post"},
    (ModelConfig, "positions"): {"positions": "learned"},
    (ModelConfig, "video_tokens"): {"video_tokens": "sequence"},
    (ModelConfig, "head"): {"head": "linear"},
    (TrainConfig, "epochs"): {"epochs": 51},
    (TrainConfig, "momentum"): {"momentum": 0.8},
    (TrainConfig, "steps"): {"steps": 50, "epochs": None},
    (RunConfig, "k"): {"k": None},
    (RunConfig, "train"): {"train": None},
    (RunConfig, "transfer"): {"transfer": Transfer("other")},
    (RunConfig, "listed"): {"listed": "0123456789abcdef"},
    (RunConfig, "method"): {"method": "CoOp"},
    (BackboneConfig, "pretrained"): {"pretrained": None},
}


def altered(config, name: str):
    """The config with one field changed."""
    if change := OTHER.get((type(config), name)):
        return replace(config, **change)
    value = getattr(config, name)
    if isinstance(value, bool):
        return replace(config, **{name: not value})
    if isinstance(value, int | float):
        return replace(config, **{name: value + 1 if name != "step" else value - 1})
    if isinstance(value, str):
        return replace(config, **{name: value + " other"})
    return replace(config, **{name: value[:-1]})  # a tuple


def variations() -> dict[str, RunConfig]:
    """BASE with every field of every settings class changed, one at a time, by the field's name."""
    found = {}
    for part in ("model", "train", "evaluation", "backbone", "transfer"):
        for one in fields(getattr(SENT, part)):
            name = f"{part}.{one.name}"
            base = STARTS.get(name, SENT if part == "transfer" else BASE)
            found[name] = replace(base, **{part: altered(getattr(base, part), one.name)})
    for one in fields(RunConfig):
        if not dataclasses.is_dataclass(getattr(BASE, one.name)) or (RunConfig, one.name) in OTHER:
            found[one.name] = altered(BASE, one.name)
    return found


# --- names of runs ------------------------------------------------------------------------------------------


def test_every_setting_changes_the_key():
    others = variations()
    parts = (RunConfig, ModelConfig, TrainConfig, EvalConfig, BackboneConfig, Transfer)
    expected = sum(len(fields(part)) for part in parts)
    assert len(others) == expected - 3  # model, evaluation and backbone of a run change by their fields
    keys = {name: run_key(config, "data", "weights") for name, config in others.items()}
    # How the weights are named is no setting: the hash of the weights says what they are.
    named = next(name for name in keys if name.endswith("pretrained"))
    assert keys.pop(named) == run_key(BASE, "data", "weights")
    unchanged = {"": BASE, "sent": SENT, "without texts": STARTS["model.head"]}
    keys |= {name: run_key(config, "data", "weights") for name, config in unchanged.items()}
    keys |= {"data": run_key(BASE, "other", "weights"), "weights": run_key(BASE, "data", "other")}
    keys["the two exchanged"] = run_key(BASE, "weights", "data")
    twice = [name for name, key in keys.items() if Counter(keys.values())[key] > 1]
    assert not twice
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys.values())


def test_the_key_of_equal_settings_is_equal_however_they_were_made():
    again = RunConfig(
        "set", k=4, seed=0, model=ModelConfig(mmb=True, map=True, mcb=True), train=TrainConfig(lr=0.0015)
    )
    assert run_key(again, "data", "weights") == run_key(BASE, "data", "weights")
    sent = replace(BASE, transfer=Transfer("other", draws=3))
    read = json.loads(json.dumps(asdict(sent)))
    rebuilt = RunConfig(
        **read
        | {"model": ModelConfig(**read["model"]), "backbone": BackboneConfig(**read["backbone"])}
        | {"train": TrainConfig(**read["train"]), "evaluation": EvalConfig(**read["evaluation"])}
        | {"transfer": Transfer(**read["transfer"])}
    )
    assert (
        run_key(rebuilt, "data", "weights")
        == run_key(sent, "data", "weights")
        != run_key(BASE, "data", "weights")
    )


def test_a_new_schema_is_a_new_key(monkeypatch):
    before = run_key(BASE, "data", "weights")
    monkeypatch.setattr("flowclip_kit.experiments.run_config.SCHEMA", -1)
    assert run_key(BASE, "data", "weights") != before


# --- catalogue ----------------------------------------------------------------------------------------------

H, U, K = "HMDB-51", "UCF-101", "Kinetics-400"
OWN, FROZEN = [(H, H), (U, U)], [(H, ""), (U, "")]  # tested on, trained on
FIVE = ["baseline", "mcb", "mmb", "mmb+map", "full"]
WORDS = ["a common human action of", "the common human action of", "a popular human action of"]
ONE, THREE, CLOSED = [1], [1, 2, 3], [0]
# Rows of the paper: (variants, tested and trained on, k, splits of the test), and how many seeds of each.
ROWS = {
    "table1": [
        (["clip A", "clip B", "clip C"], FROZEN, CLOSED, ONE, "once"),
        (["mmb+map H=3", "mmb+map H=4", "mmb+map H=5"], OWN, CLOSED, ONE, "closed"),
    ],
    "table2": [(WORDS, OWN, CLOSED, ONE, "closed")],
    "table4": [(FIVE, [(K, K)], [5], ONE, "few")],
    "table5": [(["clip"], FROZEN, CLOSED, ONE, "once"), (FIVE, OWN, [2, 4, 8, 16], ONE, "few")],
    "table6": [
        (["clip"], FROZEN, CLOSED, THREE, "once"),
        (["full"], [(H, K), (U, K)], CLOSED, THREE, "closed"),
    ],
    "table7": [
        (["clip"], FROZEN, CLOSED, THREE, "once"),
        (["baseline", "full"], [(H, U), (U, H)], CLOSED, THREE, "closed"),
    ],
    "table8": [(["full"], OWN, CLOSED, THREE, "closed"), (["full"], [(K, K)], CLOSED, ONE, "closed")],
    "figure3a": [
        (["clip"], FROZEN, CLOSED, ONE, "once"),
        (["baseline", "mmb", "mmb+map H=3", "full H=3"], OWN, CLOSED, ONE, "closed"),
    ],
    "figure3b": [(["T=4", "T=8", "T=16", "T=32"], OWN, CLOSED, ONE, "closed")],
    "figure3c": [(["H=3", "H=4", "H=5"], OWN, CLOSED, ONE, "closed")],
    "figure3d": [(["s=1", "s=2", "s=3", "s=4", "s=5"], OWN, CLOSED, ONE, "closed")],
}
OFF = {"mmb": False, "map": False, "mcb": False}
NO_STREAMS = OFF | {"spatial": False}
THREE_WORDS, FOUR_WORDS = {"prompt": "human action of"}, {"prompt": "a human action of"}
# What each row changes of the full model with T=8, s=4, H=5; a row that is not here goes by its name in
# `BY_NAME`.
BY_NAME = {
    "clip": NO_STREAMS,
    "baseline": OFF,
    "mcb": OFF | {"mcb": True},
    "mmb": OFF | {"mmb": True},
    "mmb+map": {"mcb": False},
    "full": {},
}
CHANGES = {
    "table1": {
        "clip A": NO_STREAMS | THREE_WORDS,
        "clip B": NO_STREAMS | FOUR_WORDS,
        "clip C": NO_STREAMS,
        "mmb+map H=3": {"mcb": False} | THREE_WORDS,
        "mmb+map H=4": {"mcb": False} | FOUR_WORDS,
        "mmb+map H=5": {"mcb": False},
    },
    "table2": {words: {"prompt": words} for words in WORDS},
    "figure3a": {
        "clip": NO_STREAMS | THREE_WORDS,
        "baseline": OFF | THREE_WORDS,
        "mmb": OFF | {"mmb": True} | THREE_WORDS,
        "mmb+map H=3": {"mcb": False} | THREE_WORDS,
        "full H=3": THREE_WORDS,
    },
    "figure3b": {"T=4": {"frames": 4, "step": 3}, "T=8": {}, "T=16": {"frames": 16}, "T=32": {"frames": 32}},
    "figure3c": {"H=3": THREE_WORDS, "H=4": FOUR_WORDS, "H=5": {}},
    "figure3d": {f"s={s}": {"step": s} for s in (1, 2, 3, 4, 5)},
}


def place(cell: Cell) -> tuple:
    """Tested on, trained on, variant, k, split of the test, seed."""
    config = cell.config
    return (
        cell.role,
        cell.trained_on,
        cell.variant,
        config.k or 0,
        (config.transfer or config).split,
        config.seed,
    )


def shown(profile, target="table5"):
    """The profile with the data sets that a target shows."""
    return resolve(profile.name, target, Options(data_root=Path(__file__).parent))


@pytest.mark.parametrize(
    ("profile", "few", "closed"), [(DEMO, 3, 3), (PAPER, 10, 3), (QUICK, 3, 3), (SMOKE, 1, 1)]
)
@pytest.mark.parametrize("target", ROWS)
def test_a_target_has_every_row_of_the_paper_once(target, profile, few, closed):
    profile, seeds = shown(profile, target), {"once": 1, "few": few, "closed": closed}
    cells = TARGETS[target].cells(profile)
    expected = [
        (role, trained_on, variant, k, split, seed)
        for variants, roles, shots, splits, often in ROWS[target]
        for variant, (role, trained_on), k, split in itertools.product(variants, roles, shots, splits)
        if split in profile.splits  # quick: split 1 alone
        for seed in range(seeds[often])
    ]
    assert Counter(map(place, cells)) == Counter(expected)
    assert profile.splits == ((1,) if profile.name == "quick" else (1, 2, 3))
    assert len({(cell.role, run_key(cell.config, "", "")) for cell in cells}) == len(cells)
    changes = {
        variant: CHANGES.get(target, BY_NAME)[variant]
        for variants, *_ in ROWS[target]
        for variant in variants
    }
    for cell in cells:
        config = cell.config
        assert config.model == replace(ModelConfig(), **changes[cell.variant])
        assert (config.transfer or config).dataset == profile.roles[cell.role]
        assert config.backbone == profile.backbone and not config.held_out
        controls = profile.evaluation.controls and target == "table5"
        assert config.evaluation == replace(profile.evaluation, controls=controls)
        if not cell.trained_on:
            assert config.train is None and config.dataset == profile.roles[cell.role]
            continue
        assert config.dataset == profile.roles[cell.trained_on]
        assert (config.k is not None) == (target in ("table4", "table5"))
        alone = profile.kinetics if cell.trained_on == K else profile.closed_set
        assert config.train == (alone if config.k is None else profile.few_shot)


@pytest.mark.parametrize("profile", [DEMO, PAPER])
def test_transfers_train_where_the_paper_does_and_test_on_every_split_of_the_others(profile):
    for target in ROWS:
        for cell in TARGETS[target].cells(shown(profile, target)):
            tested = cell.config.transfer
            assert (tested is not None) == (target in ("table6", "table7")) == TARGETS[target].transfers
            if tested is None:
                continue
            assert tested.draws == 10
            if not cell.trained_on:
                assert (cell.config.dataset, cell.config.split) == (tested.dataset, tested.split)
            else:
                assert cell.config.dataset != tested.dataset and cell.role != cell.trained_on
                assert cell.config.split == (1 if cell.trained_on == K else tested.split)


def test_the_weights_that_stay_are_those_of_the_first_full_model():
    def kept(target):
        return [place(cell) for cell in TARGETS[target].cells(shown(DEMO, target)) if cell.keep]

    assert kept("table5") == [(role, role, "full", 16, 1, 0) for role in (H, U)]
    assert kept("table4") == [(K, K, "full", 5, 1, 0)]
    whole = [
        (role, role, "full", 0, split, seed) for role in (H, U) for split in (1, 2, 3) for seed in range(3)
    ]
    assert kept("table8") == whole + [
        (K, K, "full", 0, 1, seed) for seed in range(3)
    ]  # Tables 6 and 7 test them
    assert kept("ablation") == kept("table5")
    assert not any(kept(name) for name in TARGETS if name not in ("ablation", "table4", "table5", "table8"))


def test_the_names_of_the_five_variants_mean_their_switches():
    assert [tuple(VARIANTS[name].values()) for name in ("baseline", "mcb", "mmb", "mmb+map", "full")] == [
        (False, False, False),
        (False, False, True),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]
    assert replace(ModelConfig(), mmb=False, map=False, mcb=False, spatial=False) == CLIP
    assert ModelConfig() == catalogue.FULL and replace(ModelConfig(), **OFF) == catalogue.BASELINE


def test_the_paper_profile_has_the_printed_settings():
    cell = next(cell for cell in table5(shown(PAPER)) if cell.variant == "full")
    train, model, test = cell.config.train, cell.config.model, cell.config.evaluation
    assert (train.lr, train.batch, cell.config.split) == (0.0015, 32, 1)
    assert (model.frames, model.step, model.differences, model.tau) == (8, 4, 22, 0.07)
    assert model.prompt.split() == "a common human action of".split()
    assert (test.clips, test.crops, test.views) == (4, ("left", "centre", "right"), "4x3")
    assert cell.config.backbone == BackboneConfig("ViT-B-16", "openai")
    assert list(PAPER.roles) == ["HMDB-51", "UCF-101", "Kinetics-400"]
    closed = {cell.role: cell.config.train for cell in catalogue.table8(shown(PAPER, "table8"))}
    assert [(closed[role].lr, closed[role].batch) for role in (H, U)] == [(0.0025, 128)] * 2
    assert (closed[K].lr, closed[K].batch, closed[K].epochs) == (0.0012, 256, 10)


# T, H, s and L as the model has them: L by hand from Eq. 5.
SIZES = {
    ("figure3b", "T=4"): (4, 5, 3, 6),
    ("figure3b", "T=8"): (8, 5, 4, 22),
    ("figure3b", "T=16"): (16, 5, 4, 54),
    ("figure3b", "T=32"): (32, 5, 4, 118),
    ("figure3c", "H=3"): (8, 3, 4, 22),
    ("figure3c", "H=4"): (8, 4, 4, 22),
    ("figure3c", "H=5"): (8, 5, 4, 22),
    ("figure3d", "s=1"): (8, 5, 1, 7),
    ("figure3d", "s=2"): (8, 5, 2, 13),
    ("figure3d", "s=3"): (8, 5, 3, 18),
    ("figure3d", "s=5"): (8, 5, 5, 25),
    ("table1", "clip A"): (8, 3, 4, 0),
    ("figure3a", "mmb"): (8, 3, 4, 22),
}


@pytest.mark.parametrize(("target", "variant"), SIZES)
def test_a_panel_varies_the_sizes_of_the_model_and_says_so(small, target, variant):
    frames, words, step, length = SIZES[target, variant]
    cell = next(cell for cell in TARGETS[target].cells(shown(DEMO, target)) if cell.variant == variant)
    out = FlowCLIP(cell.config.model, small, ["sit", "stand up"])(fixed(2, frames, 32))
    assert len(out["differences"][0] if length else ()) == length
    assert not cell.config.model.map or out["prompts"].shape[1] == words
    row = results_table.tidy_rows(target, "demo", cell, made_up("key", top1=50.0))[0]
    assert [row[name] for name in ("T", "H", "s", "L")] == [frames, words, step, length]
    assert (
        TARGETS[target].axis in (None, "k")
    ) or f"{TARGETS[target].axis}={row[TARGETS[target].axis]}" == variant


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_target_compares_and_varies_is_among_its_rows(target):
    asked = TARGETS[target]
    cells = asked.cells(shown(DEMO, target))
    variants = [cell.variant for cell in cells]
    assert {name for pair in asked.compare for name in pair} <= set(variants)
    assert all(one != other for one, other in asked.compare) and len(set(asked.compare)) == len(asked.compare)
    row = results_table.tidy_rows(target, "demo", cells[-1], made_up("key", top1=50.0))[0]
    assert asked.axis is None or asked.axis in row
    tested = {K} if target == "table4" else {H, U, K} if target == "table8" else {H, U}
    assert {cell.role for cell in cells} == tested <= set(asked.roles)


# --- readings -----------------------------------------------------------------------------------------------


def test_a_reading_changes_one_setting_of_the_full_model_or_of_the_baseline():
    for name, model in READINGS.items():
        base = asdict(READINGS["baseline" if name.startswith("baseline") else "default"])
        changed = [field for field, value in asdict(model).items() if value != base[field]]
        assert len(changed) == (0 if name in ("default", "baseline") else 1) or name == "linear probe"
    assert READINGS["linear probe"] == replace(CLIP, head="linear")
    assert len(set(READINGS.values())) == len(READINGS)
    assert set(READINGS) == {
        "default", "post-norm", "tau .01", "sequence tokens", "learned positions", "outer residual", "s=1",
        "prompts without motion", "baseline", "baseline, post-norm", "baseline, tau .01",
        "baseline, learned positions", "baseline, outer residual", "linear probe",
    }  # fmt: skip


@pytest.mark.parametrize("profile", [DEMO, PAPER, SMOKE])
def test_every_reading_gets_the_same_rates_on_videos_set_aside(profile):
    profile = shown(profile, "readings")
    tried = catalogue.readings(profile)
    assert len(set(profile.rates)) == len(profile.rates) > 1
    expected = itertools.product(profile.roles, READINGS, profile.rates)
    assert Counter((cell.role, cell.variant, cell.config.train.lr) for cell in tried) == Counter(expected)
    reported = range(max(profile.seeds, profile.closed_seeds))
    for cell in tried:
        assert cell.config.held_out and cell.config.seed not in reported and not cell.keep
        assert cell.config.model == READINGS[cell.variant] and cell.trained_on == cell.role
        same = replace(cell.config.train, lr=profile.few_shot.lr)
        assert (same, cell.config.k) == (profile.few_shot, 16)


def scored(*rows: tuple) -> pd.DataFrame:
    """Tidy rows of (dataset, variant, lr, split, metric, value)."""
    return pd.DataFrame(rows, columns=["dataset", "variant", "lr", "split", "metric", "value"])


def test_the_best_rate_has_the_highest_mean_over_data_sets_of_videos_set_aside():
    tried = [
        ("h", "a", 0.1, 0, "top1", 50.0), ("u", "a", 0.1, 0, "top1", 60.0),
        ("h", "a", 0.2, 0, "top1", 70.0), ("u", "a", 0.2, 0, "top1", 30.0),  # the best of one data set alone
        ("h", "a", 0.4, 0, "top1", 40.0), ("u", "a", 0.4, 0, "top1", 69.0),
        # The same mean but for its last digit: still a tie, and the smaller rate wins.
        ("h", "b", 0.4, 0, "top1", 200 / 3), ("u", "b", 0.4, 0, "top1", 0.0),
        ("h", "b", 0.2, 0, "top1", 100 * (1 / 3)), ("u", "b", 0.2, 0, "top1", 100 * (1 / 3)),
        ("h", "b", 0.1, 0, "top1", 33.0), ("u", "b", 0.1, 0, "top1", 33.0),
    ]  # fmt: skip
    assert best_rates(scored(*tried)) == {"a": 0.1, "b": 0.2}
    unasked = [
        ("h", "a", 0.4, 1, "top1", 99.0),
        ("h", "a", 0.2, 0, "top5", 99.0),
        ("h", "c", 0.1, 1, "top1", 99.0),
    ]
    assert best_rates(scored(*unasked, *tried)) == {"a": 0.1, "b": 0.2}
    assert best_rates(scored(*tried).sample(frac=1, random_state=0)) == {"a": 0.1, "b": 0.2}


# --- options ------------------------------------------------------------------------------------------------


def test_resolve_applies_the_options(tmp_path):
    assert shown(DEMO).roles == {"HMDB-51": "figures-h", "UCF-101": "figures-u"}
    assert shown(DEMO, "table4").roles == {"Kinetics-400": "figures-k"}
    assert shown(DEMO, "table6").roles == DEMO.roles == shown(DEMO, "table8").roles
    assert resolve("demo", "table5", Options(dataset="figures-u")).roles == {"UCF-101": "figures-u"}
    assert resolve("paper", "table5", Options(dataset="folder", data_root=tmp_path)).roles == {"": "folder"}
    fewer = Experiment.of("table8", "paper", Options(seeds=1, data_root=tmp_path))
    assert {cell.config.seed for cell in fewer.cells()} == {0} and PAPER.closed_seeds > 1 and not fewer.name
    assert shown(DEMO).seeds == 3 and shown(PAPER).backbone == BackboneConfig("ViT-B-16", "openai")

    def backbone(profile, **options):
        return resolve(profile, "table5", Options(data_root=tmp_path, **options)).backbone

    assert backbone("demo", backbone="ViT-B-32") == BackboneConfig("ViT-B-32", "openai")
    assert backbone("demo", backbone="ViT-B-32", pretrained="none") == BackboneConfig("ViT-B-32", None)
    assert backbone("paper", pretrained="laion2b_s34b_b88k") == BackboneConfig(
        "ViT-B-16", "laion2b_s34b_b88k"
    )
    assert backbone("paper", backbone="tiny-clip") == BackboneConfig("tiny-clip", None)


@pytest.mark.parametrize(
    ("profile", "options", "message"),
    [
        ("nonsense", {}, "--profile 'nonsense' is unknown; use demo, quick, paper, smoke"),
        ("demo", {"seeds": 0}, "--seeds 0"),
        ("demo", {"seeds": -1}, "--seeds -1"),
    ],
)
def test_options_that_cannot_be_are_refused(profile, options, message):
    with pytest.raises(InputError, match=message):
        Experiment.of("table5", profile, Options(**options))


@pytest.mark.parametrize("target", TARGETS)
def test_a_transfer_needs_two_data_sets_and_refuses_to_be_given_one(target):
    options = Options(dataset="figures-u")
    if target in ("table6", "table7"):
        with pytest.raises(
            InputError, match=f"^{target} trains on one data set.*leave --dataset figures-u out$"
        ):
            runs.ensure(target, "smoke", options)
    else:
        assert list(resolve("smoke", target, options).roles.values()) == ["figures-u"]


def test_an_unknown_target_or_device_is_refused():
    with pytest.raises(InputError, match="target 'table9' is unknown"):
        runs.ensure("table9")
    with pytest.raises(InputError, match="target 'nonsense' is unknown"):
        runs.ensure_all(["table5", "nonsense"])
    with pytest.raises(InputError, match="--device 'tpu'"):
        runs.pick_device("tpu")


def counted(*counts: int, name: str = "set", splits: int = 1) -> Dataset:
    """A data set whose classes have so many training videos, and two test videos each, not in the order of
    names.

    A further split tests on two videos that the one before trains on.
    """
    found = {}
    for split in range(splits):
        train, test = [], []
        for c, count in enumerate(counts):
            own = [Video(f"{c}/{i}.avi", c) for i in range(count)] + [
                Video(f"{c}/test{i}.avi", c) for i in (0, 1)
            ]
            own = own[2 * split :] + own[: 2 * split]
            train += own[:-2]
            test += own[:-3:-1]
        found[split + 1] = Split(tuple(train), tuple(test))
    classes = tuple(
        f"{verb} {name}" for verb in ("swim", "kick", "smile", "read a book", "sit")[: len(counts)]
    )
    return Dataset(name, Path(name), classes, classes, found, pairs=((0, 1),))


@pytest.mark.parametrize(
    ("counts", "shots"), [((20, 16), (2, 4, 8, 16)), ((20, 15), (2, 4, 8)), ((5, 4), (2, 4)), ((1, 9), (1,))]
)
def test_possible_shots_are_those_that_every_class_can_give(counts, shots):
    assert possible_shots(counted(*counts), (2, 4, 8, 16)) == shots


# --- making what is missing ---------------------------------------------------------------------------------


class Inline:
    """A pool without processes that notes what it was asked for."""

    def __init__(self, *arguments, **options) -> None:
        self.arguments = arguments, options

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def map(self, work, tasks):
        for task in tasks:
            yield task, work(*task)


def stored(dataset: Dataset, folder: Path) -> FeatureStore:
    """A store of made-up features, 32 wide, without videos behind it: a direction of each class, one of time,
    noise."""
    names = sorted({video.name for split in dataset.splits.values() for part in split for video in part})
    index = pd.DataFrame({"name": names, "decoder": "none"}).assign(
        sha256=[f"content of {name}" for name in names]
    )
    rng = np.random.default_rng(len(names))
    labels = np.array([int(name.partition("/")[0]) for name in names])
    features = rng.normal(size=(9, 1, 1, 32))[labels] + 3 * rng.normal(size=(len(names), 1, 32, 32))
    features = features + np.linspace(-1, 1, 32)[:, None] * rng.normal(size=(9, 1, 1, 32))[labels]
    return FeatureStore(folder / dataset.name, features.astype(np.float16), ("centre",), index)


def made_up(key: str, **scores: float) -> dict:
    """The record of a run that never was; its predictions are for a hundred videos."""
    right = round(scores["top1"])
    return {
        "key": key,
        "config": {},
        "scores": scores,
        "predictions": {f"{i:03}.avi": [1, int(i < right), 0.5] for i in range(100)},
        "seconds": {"train": 2.0, "test": 1.0},
        "software": {"python": "3"},
        "device": "cpu",
        "peak_memory_gib": 1.0,
    }


@dataclass
class Lab:
    """Data sets of `ensure`, and what it has had made."""

    sets: dict[str, Dataset]
    folder: Path  # of the records
    trained: list[str] = field(default_factory=list)
    transferred: list[str] = field(default_factory=list)
    configs: dict[str, RunConfig] = field(default_factory=dict)
    score: Callable[[RunConfig], float] = lambda config: 50.0 + config.seed % 50

    def weights(self) -> set[str]:
        return {path.stem for path in self.folder.glob("*.safetensors")}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """`ensure` with small data sets, and runs that only write down that they took place."""
    sets = {
        "figures-h": counted(24, 26, name="figures-h", splits=3),
        "figures-u": counted(25, 24, 24, name="figures-u", splits=3),
        "figures-k": counted(24, 24, 24, 24, name="figures-k"),
    }
    lab = Lab(sets, tmp_path / "results" / "runs")

    def train_and_test(task):
        assert task.config.transfer is None and task.dataset.name == task.config.dataset == task.store.name
        lab.trained.append(task.key)
        lab.configs[task.key] = task.config
        if task.keep:
            (task.folder / f"{task.key}.safetensors").write_bytes(b"weights")
        return made_up(task.key, top1=lab.score(task.config)) | {"config": asdict(task.config)}

    def transfer(task):
        assert task.tested.name == task.config.transfer.dataset == task.store.name
        lab.transferred.append(task.key)
        lab.configs[task.key] = task.config
        source = replace(task.config, transfer=None)
        assert task.config.train is None or lab.configs[task.source] == source
        assert (task.folder / f"{task.source}.safetensors").exists() == (task.config.train is not None)
        scores = {"top1": lab.score(task.config), "top1_half": 60.0, "half_sd": 1.0}
        record = made_up(task.key, **scores) | {"config": asdict(task.config)}
        return record | {"seconds": {"train": 0.0, "test": 1.0}}

    monkeypatch.setattr(runs, "Pool", Inline)
    monkeypatch.setattr(runs, "weights_hash", lambda backbone: "weights")
    monkeypatch.setattr(runs, "open_dataset", lambda name, options, jobs: sets[name])
    monkeypatch.setattr(runs, "ensure_features", lambda dataset, *a, **o: stored(dataset, tmp_path))
    monkeypatch.setattr(runs, "train_and_test", train_and_test)
    monkeypatch.setattr(runs, "transfer", transfer)
    return lab


def test_all_cells_are_made_once_and_only_the_missing_ones_again(lab, tmp_path):
    options = Options(results=tmp_path / "results")
    first = runs.ensure("table5", "demo", options)
    assert len(lab.trained) == len(set(lab.trained)) == 122 and not lab.transferred
    assert len(first.tidy) == 122 and set(first.tidy["key"]) == set(lab.trained) == set(first.hits["key"])
    assert first.provenance["last_call"]["runs_made"] == 122 and first.provenance["training_seconds"] == 244
    assert (first.provenance["runs"], first.provenance["trainings"], first.provenance["seeds"]) == (
        122,
        120,
        3,
    )
    assert list(first.checkpoints) == ["table5-figures-h-full-k16", "table5-figures-u-full-k16"]
    assert all(path.read_bytes() == b"weights" for path in first.checkpoints.values())

    again = runs.ensure("table5", "demo", options)
    assert len(lab.trained) == 122 and again.provenance["last_call"]["runs_made"] == 0
    pd.testing.assert_frame_equal(again.tidy, first.tidy)
    pd.testing.assert_frame_equal(again.hits, first.hits)

    gone = lab.trained[7]
    (lab.folder / f"{gone}.json").unlink()
    kept = next(iter(first.checkpoints.values()))
    kept.unlink()  # the record alone is not enough where weights are kept
    assert runs.ensure("table5", "demo", options).provenance["last_call"]["runs_made"] == len(
        {gone, kept.stem}
    )
    assert set(lab.trained[122:]) == {gone, kept.stem} and kept.exists()


def write_list(path: Path, dataset: Dataset, k: int, seed: int) -> Path:
    train = dataset.splits[1].train
    videos = [train[i] for i in runs.formats.few_shot(train, k, seed)]
    path.write_text("".join(f"{video.name} {video.label}\n" for video in videos))
    return path


def test_published_lists_take_the_place_of_the_draws(lab, tmp_path):
    dataset, results = lab.sets["figures-h"], tmp_path / "results"
    files = [write_list(tmp_path / f"{seed}.txt", dataset, 2, seed) for seed in (5, 6)]
    found = runs.ensure(
        "table5", "demo", Options(results=results, dataset="figures-h", few_shot_lists=tuple(files))
    )
    trained = found.tidy[found.tidy["variant"] != "clip"]
    assert len(trained) == 5 * 2 and {*trained["k"]} == {2} and {*trained["seed"]} == {0, 1}  # a run a list
    assert not trained.duplicated(["variant", "seed"]).any()
    assert [(one["file"], one["k"]) for one in found.provenance["few_shot_lists"]] == [
        ("5.txt", 2),
        ("6.txt", 2),
    ]
    listed = {lab.configs[key].listed for key in trained["key"]}
    assert len(listed) == 2 and None not in listed

    one = Options(
        results=results, dataset="figures-h", few_shot_lists=(files[0].rename(tmp_path / "other name"),)
    )
    again = runs.ensure("table5", "demo", one).tidy.query("variant != 'clip'")
    assert len(again) == 5 * 3 and {*again["seed"]} == {0, 1, 2}  # one list: every seed
    assert len(set(again["key"]) & set(trained["key"])) == 5  # how the file is called does not matter
    drawn = runs.ensure("table5", "demo", Options(results=results, dataset="figures-h")).tidy
    assert not set(drawn["key"]) & {*trained["key"], *again["key"]}


def test_lists_of_several_k_make_the_columns_of_the_table(lab, tmp_path):
    files = tuple(write_list(tmp_path / f"{k}.txt", lab.sets["figures-u"], k, k) for k in (4, 2))
    options = Options(results=tmp_path / "results", dataset="figures-u", few_shot_lists=files, seeds=2)
    found = runs.ensure("table5", "demo", options)
    trained = found.tidy[found.tidy["variant"] != "clip"]
    assert sorted(Counter(trained["k"]).items()) == [(2, 10), (4, 10)] and {*trained["seed"]} == {0, 1}
    assert list(found.checkpoints) == ["table5-figures-u-full-k4"]


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("table1", {"dataset": "figures-h"}, "--few-shot-list: table1 does not train on k videos a class"),
        ("table5", {}, "say whose videos it names with --dataset figures-h or figures-u"),
    ],
)
def test_lists_that_fit_no_target_are_refused(target, options, said, lab, tmp_path):
    with pytest.raises(InputError, match=said):
        runs.ensure(target, "demo", Options(few_shot_lists=(tmp_path / "list.txt",), **options))


@pytest.mark.parametrize("ks", [(2, 2, 4), (2, 4, 4)])
def test_more_lists_of_one_k_than_of_another_are_refused_before_any_training(ks, lab, tmp_path):
    files = tuple(write_list(tmp_path / f"{i}.txt", lab.sets["figures-h"], k, i) for i, k in enumerate(ks))
    with pytest.raises(
        InputError, match=r"--few-shot-list: .* of k=2, .* of k=4; expected as many lists of each k"
    ):
        runs.ensure("table5", "demo", Options(dataset="figures-h", few_shot_lists=files))
    files = [write_list(tmp_path / f"k{k}.txt", lab.sets["figures-k"], k, 0) for k in (2, 4)]
    with pytest.raises(InputError, match="1 of k=2, 1 of k=4; expected one k"):
        runs.ensure("table4", "demo", Options(dataset="figures-k", few_shot_lists=tuple(files)))
    assert not lab.trained


def test_k_goes_as_far_as_the_videos_that_can_be_read():
    train = tuple(Video(f"{label}/{i}.avi", label) for label in (0, 1) for i in range(8))
    dataset = Dataset("tiny", Path(), ("a", "b"), ("a", "b"), {1: Split(train, train[:1])})
    assert possible_shots(dataset, (2, 4, 8, 16)) == (2, 4, 8)
    assert possible_shots(dataset, (2, 4, 8, 16), lambda name: name != "1/3.avi") == (2, 4)
    assert possible_shots(dataset, (16,), lambda name: name != "1/3.avi") == (7,)
    with pytest.raises(InputError, match="no training video of a class can be read"):
        possible_shots(dataset, (2,), lambda name: name.startswith("0"))


def test_a_list_of_unequal_classes_is_refused(lab, tmp_path):
    file = write_list(tmp_path / "list.txt", lab.sets["figures-h"], 2, 0)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match=r"list.txt: names 1 videos of class '.*' and 2 of another"):
        runs.ensure("table5", "demo", Options(dataset="figures-h", few_shot_lists=(file,)))


def test_keys_do_not_depend_on_how_and_where_it_runs(lab, tmp_path):
    found = []
    for number, options in enumerate([{}, {"jobs": 1}, {"jobs": 7}, {"device": "cpu"}]):
        options = Options(results=tmp_path / str(number), seeds=1, **options)
        found.append(runs.ensure("table5", "demo", options).tidy)
    for other in found[1:]:
        pd.testing.assert_frame_equal(other, found[0])


def test_keys_depend_on_the_data(lab, tmp_path, monkeypatch):
    sets = lab.sets

    def keys() -> list[str]:
        options = Options(results=tmp_path / "results", dataset="figures-h", seeds=1)
        return list(runs.ensure("table5", "demo", options).tidy["key"])

    before, dataset = keys(), sets["figures-h"]
    assert keys() == before
    split = dataset.splits[1]
    sets["figures-h"] = replace(dataset, texts=("other", "words"))
    renamed = keys()
    sets["figures-h"] = replace(dataset, splits={1: Split(split.train[1:], split.test)})
    shorter = keys()
    sets["figures-h"] = dataset
    for column in ("sha256", "decoder"):  # the bytes of a video, and what made pictures of them
        with monkeypatch.context() as patch:
            patch.setattr(
                runs, "ensure_features", lambda data, *a, c=column, **o: changed(stored(data, tmp_path), c)
            )
            assert not set(keys()) & set(before)
    assert not set(renamed) & set(before) and not set(shorter) & set(before)
    assert keys() == before


def changed(store: FeatureStore, column: str, name: str | None = None) -> FeatureStore:
    """The store with another entry for one video, the first if none is named."""
    table = store.index.copy()
    table.loc[table["name"] == (name or table["name"][0]), column] = "other"
    return replace(store, index=table)


def test_seeds_and_a_single_data_set_take_runs_of_the_whole(lab, tmp_path):
    options = Options(results=tmp_path / "results")
    runs.ensure("table5", "demo", options)
    part = runs.ensure("table5", "demo", replace(options, seeds=1, dataset="figures-u"))
    assert len(lab.trained) == 122 and len(part.tidy) == 21
    assert set(part.tidy["seed"]) == {0} and set(part.tidy["dataset"]) == {"figures-u"}


def test_a_set_with_few_videos_gets_the_k_it_can(lab, tmp_path):
    lab.sets["figures-h"] = counted(9, 5, name="figures-h")
    options = Options(results=tmp_path / "results", dataset="figures-h", seeds=1)
    result = runs.ensure("table5", "demo", options)
    assert sorted(result.tidy["k"].unique()) == [0, 2, 4]
    assert list(result.checkpoints) == ["table5-figures-h-full-k4"]


def test_a_set_with_one_split_gets_the_splits_it_has(lab, tmp_path):
    lab.sets["figures-h"] = counted(9, 5, name="figures-h", splits=2)
    options = Options(results=tmp_path / "results", seeds=1)
    whole = runs.ensure("table8", "demo", options).tidy
    assert [sorted(found["split"]) for _, found in whole.groupby("dataset")] == [
        [1, 2],
        [1],
        [1, 2],
    ]  # h, k, u
    lab.sets["folder"] = counted(9, 5, name="folder")
    for target in ("table8", "figure3d"):
        part = runs.ensure(target, "demo", replace(options, dataset="folder", data_root=tmp_path)).tidy
        assert set(part["dataset"]) == set(part["trained_on"]) == {"folder"} and set(part["split"]) == {1}
        assert set(part["role"]) == {""}


# --- what targets share, and transfers ----------------------------------------------------------------------


def sources(configs) -> set[RunConfig]:
    """The runs that train, and the frozen ones that are tested on their own set: all that a transfer is
    not."""
    return {replace(config, transfer=None) for config in configs if config.train or not config.transfer}


def test_what_targets_share_is_made_once(lab, tmp_path):
    options = Options(results=tmp_path / "results")
    lab.score = lambda config: 50 - 10 * abs((config.train.lr if config.train else 0) - 0.2)
    targets = [target for target in TARGETS if target != "rivals"]  # tests/test_rivals_target.py has them
    found = runs.ensure_all(targets, "smoke", options)
    cells = {target: TARGETS[target].cells(shown(SMOKE, target)) for target in targets}
    cells["readings"] += catalogue.readings_at_their_best(shown(SMOKE, "readings"), found["readings"].tidy)
    configs = [cell.config for of_target in cells.values() for cell in of_target]
    transfers = {config for config in configs if config.transfer}
    assert Counter(lab.configs[key] for key in lab.trained) == Counter(sources(configs))
    assert Counter(lab.configs[key] for key in lab.transferred) == Counter(transfers)
    assert len(lab.trained) < len([config for config in configs if not config.transfer])  # they do share
    made = len(lab.trained) + len(lab.transferred)
    assert found["readings"].provenance["last_call"]["runs_made"] == made == len(lab.configs)
    for target, of_target in cells.items():
        result, columns = found[target], ["role", "trained_on", "variant", "k", "split", "seed"]
        runs_of = result.tidy.drop_duplicates(["role", "key"])
        assert len(runs_of) == len(of_target) and set(result.tidy["target"]) == {target}
        if target != "readings":  # whose trials have no official split
            assert set(map(tuple, runs_of[columns].values)) == set(map(place, of_target))
        assert set(result.hits["key"]) == set(result.tidy["key"]) and result.hits["key"].is_unique
        assert all(
            lab.configs[row.key] in {cell.config for cell in of_target} for row in result.hits.itertuples()
        )

    again = runs.ensure_all(targets, "smoke", options)
    for target in targets:
        alone = runs.ensure(target, "smoke", options)
        assert (
            alone.provenance["last_call"]["runs_made"]
            == again[target].provenance["last_call"]["runs_made"]
            == 0
        )
        pd.testing.assert_frame_equal(alone.tidy, found[target].tidy)
        pd.testing.assert_frame_equal(alone.hits, found[target].hits)
        assert alone.checkpoints == found[target].checkpoints
    assert len(lab.trained) + len(lab.transferred) == made


def test_a_transfer_trains_what_is_missing_and_keeps_its_weights(lab, tmp_path):
    options = Options(results=tmp_path / "results")
    first = runs.ensure("table7", "smoke", options)
    # Two models, three splits, both ways; frozen CLIP on three splits of both.
    assert (
        len(lab.trained) == len(set(lab.trained)) == 12
        and len(lab.transferred) == len(set(lab.transferred)) == 18
    )
    assert lab.weights() == set(lab.trained) and all(lab.configs[key].train for key in lab.trained)
    assert first.provenance["last_call"]["runs_made"] == 30
    assert (first.provenance["runs"], first.provenance["trainings"]) == (18, 12)
    assert (first.provenance["training_seconds"], first.provenance["testing_seconds"]) == (24.0, 30.0)
    assert set(first.tidy["key"]) == set(lab.transferred) and first.checkpoints == {}
    frozen = first.tidy[first.tidy["variant"] == "clip"]
    assert set(frozen["trained_on"]) == {""} and set(frozen["metric"]) == {"top1", "top1_half", "half_sd"}

    assert runs.ensure("table7", "smoke", options).provenance["last_call"]["runs_made"] == 0
    tested = next(key for key in lab.transferred if lab.configs[key].train)
    (lab.folder / f"{tested}.json").unlink()
    runs.ensure("table7", "smoke", options)  # the weights are there: only the test is done again
    assert len(lab.trained) == 12 and lab.transferred[18:] == [tested]
    (lab.folder / f"{lab.trained[4]}.safetensors").unlink()
    runs.ensure("table7", "smoke", options)  # nothing needs them: their test is done
    assert len(lab.trained) == 12 and len(lab.transferred) == 19
    source = lab.configs[lab.trained[4]]
    asked = next(key for key in lab.transferred if replace(lab.configs[key], transfer=None) == source)
    (lab.folder / f"{asked}.json").unlink()
    runs.ensure("table7", "smoke", options)
    assert lab.trained[12:] == [lab.trained[4]] and lab.weights() == set(lab.trained)

    # Table 8 trains the same full models: only its third data set is new.
    before = len(lab.trained)
    runs.ensure("table8", "smoke", options)
    assert {lab.configs[key].dataset for key in lab.trained[before:]} == {"figures-k"}


def test_three_tests_of_one_training(lab, tmp_path):
    result = runs.ensure("table6", "smoke", Options(results=tmp_path / "results"))
    assert len(lab.trained) == 1 and lab.configs[lab.trained[0]].dataset == "figures-k"
    assert Counter(lab.configs[key].transfer.dataset for key in lab.transferred) == {
        "figures-h": 6,
        "figures-u": 6,
    }
    assert result.provenance["trainings"] == 1 and result.provenance["training_seconds"] == 2.0
    full = result.tidy[(result.tidy["variant"] == "full") & (result.tidy["metric"] == "top1")]
    assert set(zip(full["dataset"], full["role"], full["trained_on"], full["split"], strict=True)) == {
        (name, role, K, split) for name, role in (("figures-h", H), ("figures-u", U)) for split in (1, 2, 3)
    }


@pytest.fixture
def keyed(lab, tmp_path):
    """Call it with changes of the stores for the function config -> key."""

    def keyed(**stores: FeatureStore) -> Callable[[RunConfig], str]:
        with runs.Workshop(SMOKE, Options(results=tmp_path)) as workshop:
            workshop.open(lab.sets)
            workshop.stores |= stores
            return workshop.key

    return keyed


def test_the_key_of_a_transfer_follows_the_data_of_its_training_and_of_its_test(lab, keyed, tmp_path):
    sets, plain = lab.sets, RunConfig("figures-h", None, 0, split=2)
    sent = replace(plain, transfer=Transfer("figures-u", split=3))
    key = keyed()
    before = key(sent)
    others = [
        replace(sent, transfer=replace(sent.transfer, **change)) for change in ({"split": 1}, {"draws": 9})
    ]
    others += [
        replace(sent, transfer=Transfer("figures-k")),
        replace(sent, split=1),
        replace(sent, seed=1),
        plain,
    ]
    assert len({before, *map(key, others)}) == 7

    for name, own in (("figures-h", True), ("figures-u", False), ("figures-k", None)):
        store = stored(sets[name], tmp_path)
        for column in ("sha256", "decoder"):
            after = keyed(**{name: changed(store, column)})
            assert (after(sent) != before) is (own is not None)
            assert (after(plain) != key(plain)) is bool(
                own
            )  # what is tested elsewhere is no matter of the training
    dataset = sets["figures-u"]
    sets["figures-u"] = replace(dataset, texts=("other", "words", "here"))
    assert keyed()(sent) != before and keyed()(plain) == key(plain)
    split = dataset.splits[3]
    for number, same in ((3, False), (2, True)):
        shorter = Split(split.train, split.test[1:])
        sets["figures-u"] = replace(dataset, splits=dataset.splits | {number: shorter})
        assert (keyed()(sent) == before) is same


def test_the_key_of_a_trial_does_not_know_the_test_videos(lab, keyed, tmp_path):
    config, dataset = RunConfig("figures-h", 4, 100), lab.sets["figures-h"]
    trial, key = replace(config, held_out=True), keyed()
    assert key(trial) != key(config)
    for part, name in zip(
        Split._fields, (dataset.splits[1].train[0].name, dataset.splits[1].test[0].name), strict=True
    ):
        after = keyed(**{"figures-h": changed(stored(dataset, tmp_path), "sha256", name)})
        assert after(config) != key(config)
        assert (after(trial) != key(trial)) is (part == "train")


def test_readings_are_tested_at_the_rate_that_was_best_on_videos_set_aside(lab, tmp_path):
    profile = shown(SMOKE, "readings")
    low, high = profile.rates
    liking = {model: (low, high)[number % 2] for number, model in enumerate(READINGS.values())}

    def score(config: RunConfig) -> float:
        if not config.held_out:  # the test would choose the other rate; nobody is to ask it
            return 90.0 if config.train.lr != liking[config.model] else 10.0
        better = config.train.lr == liking[config.model]
        # One data set alone would choose the other rate.
        return {"figures-h": 60.0 if better else 20.0, "figures-u": 30.0 if better else 50.0}[config.dataset]

    lab.score = score
    found = runs.ensure("readings", "smoke", Options(results=tmp_path / "results")).tidy
    tried, final = found[found["split"] == 0], found[found["split"] == 1]
    assert len(tried) + len(final) == len(found)
    assert len(tried) == 2 * 2 * len(READINGS) and len(final) == 2 * len(READINGS)
    assert set(tried["seed"]) == {catalogue.RATE_SEED} and set(final["seed"]) == {0}
    for row in found.itertuples():
        assert lab.configs[row.key].held_out is (row.split == 0)
    assert {row.variant: row.lr for row in final.itertuples()} == {
        name: liking[READINGS[name]] for name in READINGS
    }
    assert set(final["value"]) == {10.0}


# --- tidy tables and hits -----------------------------------------------------------------------------------


def test_a_tidy_row_says_what_was_trained_where_and_tested_where():
    train = TrainConfig(lr=0.0025)
    trained = RunConfig("hmdb51", None, 2, split=3, train=train)
    sent = replace(trained, transfer=Transfer("ucf101", split=2))
    frozen = RunConfig("ucf101", None, 0, split=3, model=CLIP, train=None)
    aside = replace(trained, k=16, split=1, held_out=True, model=replace(ModelConfig(), **OFF))
    record = made_up("12e45", top5=90.0, top1=50.0)
    expected = {
        Cell(H, "full", trained, H): ("hmdb51", H, H, "full", 22, 0.0025, 0, 2, 3),
        Cell(U, "full", sent, H): ("ucf101", U, H, "full", 22, 0.0025, 0, 2, 2),
        Cell(U, "clip", frozen): ("ucf101", U, "", "clip", 0, 0.0, 0, 0, 3),
        Cell(H, "baseline", aside, H): ("hmdb51", H, H, "baseline", 0, 0.0025, 16, 2, 0),
        Cell("", "full", trained, ""): ("hmdb51", "", "hmdb51", "full", 22, 0.0025, 0, 2, 3),
    }
    columns = ["dataset", "role", "trained_on", "variant", "L", "lr", "k", "seed", "split"]
    for cell, row in expected.items():
        rows = results_table.tidy_rows("table7", "paper", cell, record)
        assert [list(found) for found in rows] == [results_table.TIDY] * 2
        assert [(found["metric"], found["value"], found["key"]) for found in rows] == [
            ("top1", 50.0, "12e45"),
            ("top5", 90.0, "12e45"),
        ]
        assert all(tuple(found[name] for name in columns) == row for found in rows)
        assert {found["views"] for found in rows} == {"4x3"}


def test_a_tidy_table_comes_back_as_it_was_in_any_order(tmp_path):
    train = TrainConfig(lr=0.0015)
    configs = [
        replace(RunConfig("hmdb51", 4, seed), train=replace(train, lr=lr))
        for seed in (0, 1)
        for lr in (0.0015, 0.00125, 0.2, 0.00005, 1.0)
    ]
    configs += [RunConfig("hmdb51", None, 0, split=split, model=CLIP, train=None) for split in (1, 2, 3)]
    rows = []
    for number, config in enumerate(configs):
        cell = Cell(H, "clip" if config.train is None else "full", config, H)
        record = made_up(f"{number}e{number}", top1=100 / 3, top1_half=number + 0.12345, half_sd=0.0)
        rows += results_table.tidy_rows("table6", "paper", cell, record)
    frame = pd.DataFrame(rows)
    path = results_table.save_tidy(frame, tmp_path / "table6.csv")
    back = results_table.read_tidy(path)
    assert (
        list(back) == results_table.TIDY
        and back.dtypes[results_table.WHOLE].map(pd.api.types.is_integer_dtype).all()
    )
    keys = ["key", "metric"]
    pd.testing.assert_frame_equal(
        back.sort_values(keys, ignore_index=True), frame.sort_values(keys, ignore_index=True),
        atol=6e-5, rtol=0, check_dtype=False,
    )  # fmt: skip
    assert set(back["lr"]) == {0.0015, 0.00125, 0.2, 0.00005, 1.0, 0.0}  # to the last digit
    assert set(back.loc[back["variant"] == "clip", "trained_on"]) == {""}
    mixed = results_table.save_tidy(back.sample(frac=1, random_state=0), tmp_path / "mixed.csv")
    assert mixed.read_bytes() == path.read_bytes() and b",0.0015,4," in path.read_bytes()


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 1530])
def test_hits_are_packed_without_loss(n, tmp_path):
    hits = np.random.default_rng(n).random(n) < 0.4
    predictions = {f"{i:04d}.avi": [1, int(hit), 0.5] for i, hit in enumerate(hits)}
    row = results_table.hit_row({"key": "12e45", "predictions": predictions})
    assert row["n"] == n and len(row["correct"]) == 2 * math.ceil(n / 8)
    np.testing.assert_array_equal(results_table.unpack(n, row["correct"]), hits)
    none = results_table.hit_row({"key": "0e1", "predictions": {name: [1, 0, 0.5] for name in predictions}})
    path = tmp_path / "table5.videos.csv"
    path.write_text(results_table.hits_csv(pd.DataFrame([row, none])))
    back = results_table.read_hits(path)
    assert list(back) == ["0e1", "12e45"] and back["12e45"].dtype == bool
    np.testing.assert_array_equal(back["12e45"], hits)
    assert len(back["0e1"]) == n and not back["0e1"].any()


@pytest.mark.parametrize(
    ("n", "correct"),
    [("9", "ff"), ("8", "ff00"), ("9", "ffc0"), ("9", "fg80"), ("9", "ff8"), ("9.5", "ff80"), ("", "")],
)
def test_hits_that_are_not_n_packed_bits_are_refused(n, correct, tmp_path):
    path = tmp_path / "table5.videos.csv"
    path.write_text(f"key,n,correct\n0e1,9,ff80\n12e45,{n},{correct}\n")
    with pytest.raises(InputError, match=r"table5\.videos\.csv: line 3 does not hold.*table5 again"):
        results_table.read_hits(path)
    path.write_text("key,n,correct\n0e1,9,ff80\n")
    assert results_table.read_hits(path)["0e1"].tolist() == [True] * 9


# --- records ------------------------------------------------------------------------------------------------


def test_records_read_back_and_absent_ones_are_none(tmp_path):
    record = made_up("12", top1=33.0, top5=100 / 3 * 2.97) | {"name": "«wave»"}
    back = records.read_record(records.write_record(tmp_path / "runs" / "12.json", record))
    assert back == record | {"seal": back["seal"]}
    assert records.read_record(tmp_path / "13.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": ', b"\xff\xfe", b"[]", b"{}", b"3", b"null"])
def test_a_broken_record_is_one_line_that_names_it(content, tmp_path):
    (tmp_path / "12.json").write_bytes(content)
    with pytest.raises(InputError, match=r"12\.json: not a run record.*remove it") as error:
        records.read_record(tmp_path / "12.json")
    assert "\n" not in str(error.value)


def test_a_broken_record_is_named_and_its_run_made_again(lab, tmp_path, capfd):
    options = Options(results=tmp_path / "results", dataset="figures-h", seeds=1)
    first = runs.ensure("table5", "demo", options).tidy
    path = lab.folder / f"{lab.trained[3]}.json"
    path.write_text("{")
    capfd.readouterr()
    again = runs.ensure("table5", "demo", options)
    assert again.provenance["last_call"]["runs_made"] == 1 and lab.trained[-1] == path.stem
    pd.testing.assert_frame_equal(again.tidy, first)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "made again" in line]
    assert path.name in line


# --- recorded runs made again ---


def test_runs_made_again_are_one_of_each_kind_before_a_second(monkeypatch):
    kinds = ["untrained", "mmb+map+mcb", "baseline", "baseline, zero-shot", "CoOp"]
    of = {f"{number:02}": kinds[min(number % 7, 4)] for number in range(60)}
    for count in (1, 4, 5, 11):
        chosen = rerun.choose(of, count, seed=3)
        numbers = Counter(of[key] for key in chosen)
        assert len({*chosen}) == len(chosen) == count and max(numbers.values()) <= -(-count // 5) + 1
        assert len(numbers) == min(count, 5), "a kind is left out where there is room for it"
        assert chosen == rerun.choose(of, count, seed=3) and (
            count < 4 or chosen != rerun.choose(of, count, seed=4)
        )
    assert [of[key] for key in rerun.choose(of, 3, 0)] == ["untrained", "baseline", "mmb+map+mcb"]


def test_what_moved_further_than_rounding_moves_it_is_told(lab, tmp_path, monkeypatch):
    """Runs of table5 as a record, then made again by code that scores otherwise."""
    found = runs.ensure("table5", "demo", Options(results=tmp_path / "results"))
    (tmp_path / "table5.csv").write_text("")
    (tmp_path / "rounding.csv").write_text(
        "variant,k,moved\nmmb,16,0.1\nmmb,16,0\nmcb,16,1.2\nfull,4,-3\nfull,16,-2\nfull,16,0.5\n"
    )
    monkeypatch.setattr(rerun, "results_folder", lambda *_: tmp_path)
    monkeypatch.setattr(rerun, "load", lambda *_: (found.tidy, results_table.by_key(found.hits), {}))
    monkeypatch.setattr(rerun, "root", lambda: tmp_path)
    monkeypatch.setattr(rerun, "ROUNDING", Path("rounding.csv"))
    usual = lab.score
    nudges = pd.read_csv(tmp_path / "rounding.csv")
    alike = [replace(BASE, k=k) for k in (2, 16, None)]
    alike += [replace(BASE, model=ModelConfig(**VARIANTS[name])) for name in ("mmb", "mcb", "mmb+map")]
    limits = [rerun.bound(config, nudges) for config in alike]
    assert limits == [6, 4, 4, 1, 2.4, 6], "the bound is that of the nearest k with the same parts"
    for trained, untrained, bad in (
        (0, 0, set()),
        (1, 0, set()),
        (-4, 0, {"baseline", "mcb", "mmb"}),  # twice the largest move of a nudge: only with MAP
        (7, 0, {"baseline", "mcb", "mmb", "mmb+map", "mmb+map+mcb"}),
        (0, 1, {"untrained"}),
    ):
        lab.score = lambda config, t=trained, u=untrained: usual(config) + (t if config.train else u)
        lab.trained.clear()
        made, unknown = rerun.rerun(7)
        assert len(made) == len(lab.trained) == 7 and unknown == []
        assert {one.kind for one in made if not one.holds} == bad, (
            f"moved by {trained} and {untrained} points"
        )
        assert {round(one.moved.top1, 6) for one in made} <= {trained, untrained}
        assert all(one.moved.equal == 100 - abs(one.moved.top1) for one in made)
    lab.score = usual
    monkeypatch.setattr(runs, "weights_hash", lambda backbone: "others")
    with pytest.raises(InputError, match=r"none of its \d+ runs has a key of today's"):
        rerun.rerun(1)


# --- real runs ----------------------------------------------------------------------------------------------


@pytest.fixture
def home(small, tmp_path, monkeypatch):
    """Runs of the small backbone on made-up features of two data sets: call it with a folder for a workshop
    there."""
    sets = {"a": counted(6, 5, 7, name="a", splits=2), "b": counted(3, 3, 3, 3, 3, name="b", splits=2)}
    stores = {name: stored(dataset, tmp_path) for name, dataset in sets.items()}
    monkeypatch.setattr(runs, "Pool", Inline)
    monkeypatch.setattr(runs, "weights_hash", lambda backbone: "weights")
    monkeypatch.setattr(runs, "open_dataset", lambda name, options, jobs: sets[name])
    monkeypatch.setattr(runs, "ensure_features", lambda dataset, *a, **o: stores[dataset.name])
    monkeypatch.setattr(runs, "load_once", lambda backbone, device: small)
    monkeypatch.setattr(runs, "open_store", lambda folder: stores[folder.name])
    runs._tree.cache_clear()

    def home(folder: Path) -> runs.Workshop:
        workshop = runs.Workshop(DEMO, Options(results=folder, device="cpu"))
        workshop.open(sets)
        return workshop

    yield home
    runs._tree.cache_clear()


REAL = RunConfig(
    "a", k=4, seed=1, train=TrainConfig(lr=0.05, batch=4, epochs=None, steps=3, crops=("centre",)),
    evaluation=DEMO.evaluation, backbone=BackboneConfig("small"),
)  # fmt: skip


def made(workshop: runs.Workshop, config: RunConfig = REAL, keep: bool = False) -> dict:
    """The record of one run, made if need be."""
    workshop.make([Cell("", "full", config, "a", keep)], "test")
    return workshop.record(config)


def lasting(record: dict) -> dict:
    return {
        name: value for name, value in record.items() if name not in ("seconds", "peak_memory_gib", "seal")
    }


def test_a_run_interrupted_between_weights_and_record_is_done_again(home, tmp_path, monkeypatch):
    there = home(tmp_path / "whole")
    whole, key = made(there, keep=True), there.key(REAL)
    workshop = home(tmp_path / "interrupted")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_record", interrupt)
        with pytest.raises(KeyboardInterrupt):
            made(workshop, keep=True)
    weights = workshop.folder / f"{key}.safetensors"
    assert weights.exists() and not (workshop.folder / f"{key}.json").exists()
    weights.write_bytes(b"what a kill may have left")
    assert lasting(made(workshop, keep=True)) == lasting(whole)
    ours, theirs = (load_file(place / weights.name) for place in (workshop.folder, there.folder))
    assert ours and ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    assert {path.suffix for path in workshop.folder.iterdir()} == {".json", ".safetensors"}


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_a_record_holds_what_its_table_and_a_reader_need(home, tmp_path):
    workshop = home(tmp_path)
    record = made(workshop)
    assert record["config"] == json.loads(json.dumps(asdict(REAL)))
    assert (record["key"], record["weights"], record["device"]) == (workshop.key(REAL), "weights", "cpu")
    assert len(record["losses"]) == 3 and all(math.isfinite(loss) for loss in record["losses"])
    assert Counter(name[0] for name in record["trained_on"]) == {"0": 4, "1": 4, "2": 4}
    assert all(0 <= score <= 100 for score in record["scores"].values())
    controls = {"top1_shuffled", "top1_reversed", "top1_repeated", "order", "order_reversed", "top1_pairs"}
    assert controls <= record["scores"].keys()
    assert not list(workshop.folder.glob("*.safetensors"))  # nobody asked for its weights


def test_the_same_seed_gives_the_same_run_and_another_seed_another(home, tmp_path):
    first, again = made(home(tmp_path / "a")), made(home(tmp_path / "b"))
    other = made(home(tmp_path / "c"), replace(REAL, seed=2))
    assert lasting(first) == lasting(again)
    assert first["losses"] != other["losses"] and first["trained_on"] != other["trained_on"]


def test_every_run_has_a_log_of_its_own_which_changes_neither_key_nor_record(home, tmp_path, monkeypatch):
    plain, workshop = home(tmp_path / "plain"), home(tmp_path / "logged")
    workshop.log = log_to(tmp_path / "logs", tmp_path)
    for config in (REAL, other := replace(REAL, seed=2)):
        record = made(workshop, config)
        assert lasting(record) == lasting(made(plain, config)), "a log changed a run"
        table = pd.read_csv(tmp_path / "logs" / f"{run_name(config, workshop.key(config))}.csv")
        assert list(table) == ["step", "loss", "rate"] and list(table["step"]) == [1, 2, 3]
        assert list(table["loss"].round(5)) == record["losses"] and table["rate"][0] == config.train.lr
    assert run_name(REAL, "key") == "a-split1-k4-mmb+map+mcb-lr0.05-seed1-key" != run_name(other, "key")

    said: list = []

    class Writer:  # what torch.utils.tensorboard offers
        def __init__(self, folder, purge_step):
            self.folder = Path(folder)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            said.append("closed")

        def add_scalar(self, tag, value, step):
            said.append((self.folder.name, tag, step))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    workshop.log = log_to("tensorboard", tmp_path)
    assert workshop.log == (tmp_path / "logs", True)
    made(workshop, third := replace(REAL, seed=3))
    name = run_name(third, workshop.key(third))
    assert said[:2] == [(name, "loss", 1), (name, "learning rate", 1)] and said[6:] == ["closed"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"--log tensorboard: .* not installed; .*--log DIR"):
        log_to("tensorboard", tmp_path)


def test_hits_follow_the_names_of_the_videos_and_their_mean_is_top1(home, tmp_path):
    workshop = home(tmp_path)
    configs = [REAL, replace(REAL, k=None, split=2), replace(REAL, train=None, model=CLIP, k=None)]
    cells = [Cell("", "x", config, "") for config in configs]
    workshop.make(cells, "test")
    table = workshop.hits(cells + cells[:1])
    assert table["key"].tolist() == list(map(workshop.key, configs))  # one row a run
    seen = []
    for config, row in zip(configs, table.itertuples(), strict=True):
        record, hits = workshop.record(config), results_table.unpack(row.n, row.correct)
        listed = [video.name for video in workshop.sets["a"].splits[config.split].test]
        assert list(record["predictions"]) == sorted(listed) != listed and row.n == len(listed) == 6
        labels = {video.name: video.label for video in workshop.sets["a"].splits[config.split].test}
        right = [record["predictions"][name][:2] == [labels[name]] * 2 for name in sorted(listed)]
        assert hits.tolist() == right
        assert 100 * hits.mean() == pytest.approx(record["scores"]["top1"])
        seen += right
    assert 0 < sum(seen) < len(seen)


def test_videos_set_aside_are_tested_and_test_videos_never_seen(home, tmp_path):
    workshop = home(tmp_path)
    split = workshop.sets["a"].splits[1]
    train, test = ({video.name for video in part} for part in split)
    for k in (2, None):
        record = made(workshop, replace(REAL, seed=100, k=k, held_out=True))
        tested = set(record["predictions"])
        assert tested < train and Counter(name[0] for name in tested) == {"0": 2, "1": 1, "2": 2}
        if k is None:
            assert record["trained_on"] == len(train) - len(tested)
        else:
            used = set(record["trained_on"])
            assert used <= train - tested and not (used | tested) & test
        assert tested == {
            video.name for video in workshop.dataset(replace(REAL, held_out=True)).splits[1].test
        }


# --- transfers against a slow twin --------------------------------------------------------------------------


def by_hand(small, config: RunConfig, weights: Path | None, texts, store: FeatureStore, videos) -> np.ndarray:
    """Probabilities (N,K) from the tensors of a file in a new model, one video after another."""
    model = FlowCLIP(config.model, small, texts, config.seed).eval()
    if weights:
        tensors = load_file(weights)
        assert tensors.keys() == model.trained().keys()
        for name, value in model.trained().items():
            value.data.copy_(tensors[name])
    found = []
    for video in videos:
        row = store.index["name"].tolist().index(video.name)
        frames = torch.from_numpy(
            store.features[row, 0, 2::4].astype(np.float32)
        )  # the middle of every eighth
        with torch.no_grad():
            found.append(model(frames[None])["logits"].softmax(-1)[0].numpy())
    return np.array(found)


def share_right(scores: np.ndarray, labels: list[int], top: int = 1) -> float:
    return 100 * np.mean([label in np.argsort(-row)[:top] for row, label in zip(scores, labels, strict=True)])


@pytest.mark.parametrize("variant", ["full", "baseline", "clip"])
def test_a_transfer_scores_the_trained_weights_on_the_other_set(home, small, tmp_path, variant):
    workshop = home(tmp_path)
    model = CLIP if variant == "clip" else ModelConfig(**VARIANTS[variant])
    source = replace(REAL, k=None, model=model, evaluation=EvalConfig(clips=1, crops=("centre",)))
    if variant == "clip":
        source = replace(source, dataset="b", train=None, split=2)
    config = replace(source, transfer=Transfer("b", split=2, draws=6))
    record = made(workshop, config)
    weights = workshop.folder / f"{workshop.key(source)}.safetensors"
    assert (
        weights.exists() == (variant != "clip") == (workshop.folder / f"{workshop.key(source)}.json").exists()
    )
    weights = weights if weights.exists() else None
    assert "trained_on" not in record and record["seconds"]["train"] == 0

    other, store = workshop.sets["b"], workshop.stores["b"]
    test = list(other.splits[2].test)
    labels = [video.label for video in test]
    scores = by_hand(small, config, weights, other.texts, store, test)
    assert record["predictions"] == {
        video.name: [video.label, int(row.argmax()), pytest.approx(row[video.label], abs=2e-6)]
        for video, row in zip(test, scores, strict=True)
    }
    assert record["scores"]["top1"] == pytest.approx(share_right(scores, labels))
    assert record["scores"]["top5"] == pytest.approx(share_right(scores, labels, top=5))
    halves = []
    for draw in range(6):
        drawn = runs.formats.half_of_classes(other, draw)
        videos = [video for video in test if video.label in drawn]
        assert len(drawn) == 2 and len(videos) == 4
        few = by_hand(small, config, weights, [other.texts[label] for label in drawn], store, videos)
        halves.append(share_right(few, [drawn.index(video.label) for video in videos]))
    assert record["halves"] == pytest.approx(halves) and len(set(halves)) > 1
    assert record["scores"]["top1_half"] == pytest.approx(statistics.mean(halves))
    assert record["scores"]["half_sd"] == pytest.approx(statistics.stdev(halves))
    if weights:  # a test of the untrained parts, or of the first set's classes, would show
        fresh = by_hand(small, config, None, other.texts, store, test)
        assert np.abs(fresh - scores).max() > 1e-3


def test_profiles_are_found_by_their_names():
    assert {name: profile.name for name, profile in PROFILES.items()} == {name: name for name in PROFILES}
