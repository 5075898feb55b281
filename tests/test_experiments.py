"""Which runs there are, and what they are called: every setting counts, nothing else does."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from dataclasses import asdict, fields, replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import fixed

from flowclip_core.config import EvalConfig, ModelConfig, TrainConfig
from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_kit.datasets.formats import Dataset, Split, Video
from flowclip_kit.experiments import catalogue, results_table, runs
from flowclip_kit.experiments.catalogue import CLIP, READINGS, TARGETS, VARIANTS, Cell, best_rates, table5
from flowclip_kit.experiments.experiment import Experiment, Options, possible_shots, resolve
from flowclip_kit.experiments.run_config import RunConfig, Transfer, run_key
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
    (ModelConfig, "adapter_start"): {"adapter_start": "zero"},
    (ModelConfig, "activation"): {"activation": "gelu"},
    (TrainConfig, "warmup"): {"warmup": 0.1},
    (TrainConfig, "jitter"): {"jitter": 2},
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
        alone = replace(alone, jitter=1) if target == "figure3b" else alone
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


def reading(name: str) -> tuple[ModelConfig, TrainConfig]:
    """Model and training of a row of `readings`."""
    (config,) = {cell.config for cell in catalogue.grid(DEMO, datasets=H, variants=name, k=16, seeds=1)}
    return config.model, config.train


def test_a_reading_changes_one_setting_of_the_full_model_or_of_the_baseline():
    both = {name: [*map(asdict, reading(name))] for name in READINGS}
    for name, of in both.items():
        base = both["baseline" if name.startswith("baseline") else "default"]
        changed = [field for one, usual in zip(of, base, strict=True)
                   for field, value in one.items() if value != usual[field]]  # fmt: skip
        own = {"default": [], "baseline": [], "large learned positions": ["positions", "position_std"]}
        expected = own.get(name, own.get(name.removeprefix("baseline, "), changed[:1]))
        assert changed == expected or name == "linear probe", name
    assert reading("linear probe")[0] == replace(CLIP, head="linear")
    assert len({reading(name) for name in READINGS}) == len(READINGS)
    assert both["warm-up"][1]["warmup"] == 0.1 and both["baseline, no jitter"][1]["jitter"] == 1
    of_full = {name for name in READINGS if f"baseline, {name}" not in READINGS and "baseline" not in name}
    assert of_full == {"default", "sequence tokens", "s=1", "adapter from zero", "prompts without motion",
                       "linear probe"}  # fmt: skip


def test_figure3b_offers_every_number_of_frames_the_same_draws():
    cells = catalogue.figure3b(shown(DEMO, "figure3b"))
    assert {cell.config.train.jitter for cell in cells} == {1}
    assert {cell.config.model.frames for cell in cells} == {4, 8, 16, 32}
    as_elsewhere = catalogue.figure3b(shown(DEMO, "figure3b"), settings={"jitter": None})
    assert {cell.config.train.jitter for cell in as_elsewhere} == {None}


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
        model, train = reading(cell.variant)
        assert cell.config.model == model and cell.trained_on == cell.role
        usual = replace(profile.few_shot, warmup=train.warmup, jitter=train.jitter)
        assert (replace(cell.config.train, lr=usual.lr), cell.config.k) == (usual, 16)


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


def test_profiles_are_found_by_their_names():
    assert {name: profile.name for name, profile in PROFILES.items()} == {name: name for name in PROFILES}
