"""Runs and their names: every setting counts, nothing else does; what is missing is made, and nothing twice."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import fixed
from safetensors.torch import load_file

from flowclip_core.config import (
    DEMO,
    PAPER,
    PROFILES,
    QUICK,
    BackboneConfig,
    EvalConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    run_key,
)
from flowclip_core.data.datasets import Dataset, Split, Video
from flowclip_core.data.features import FeatureStore
from flowclip_core.errors import InputError
from flowclip_core.experiments import catalogue, records, runs
from flowclip_core.experiments.catalogue import CLIP, VARIANTS, table5
from flowclip_core.experiments.runs import Options

BASE = RunConfig("set", k=4, seed=0)
# Fields whose other values cannot be made up, or stand only together with another field's.
OTHER = {
    (ModelConfig, "norm_order"): {"norm_order": "post"},
    (ModelConfig, "positions"): {"positions": "learned"},
    (ModelConfig, "video_tokens"): {"video_tokens": "sequence"},
    (TrainConfig, "epochs"): {"epochs": 51},
    (TrainConfig, "steps"): {"steps": 50, "epochs": None},
    (RunConfig, "k"): {"k": None},
    (RunConfig, "train"): {"train": None},
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
    still = replace(BASE, model=replace(BASE.model, mmb=False))  # the mean of frames has no motion stream
    found = {}
    for part in ("model", "train", "evaluation", "backbone"):
        config = getattr(BASE, part)
        for field in fields(config):
            base = still if (part, field.name) == ("model", "spatial") else BASE
            found[f"{part}.{field.name}"] = replace(base, **{part: altered(getattr(base, part), field.name)})
    for field in fields(RunConfig):
        if not dataclasses.is_dataclass(getattr(BASE, field.name)) or (RunConfig, field.name) in OTHER:
            found[field.name] = altered(BASE, field.name)
    return found


# --- names of runs --------------------------------------------------------------------------------------------


def test_every_setting_changes_the_key():
    others = variations()
    expected = sum(len(fields(c)) for c in (RunConfig, ModelConfig, TrainConfig, EvalConfig, BackboneConfig))
    assert len(others) == expected - 3  # model, evaluation and backbone of a run change by their fields
    keys = {name: run_key(config, "data", "weights") for name, config in others.items()}
    # How the weights are named is no setting: the hash of the weights says what they are.
    named = next(name for name in keys if name.endswith("pretrained"))
    assert keys.pop(named) == run_key(BASE, "data", "weights")
    keys |= {"": run_key(BASE, "data", "weights")}
    keys |= {"data": run_key(BASE, "other", "weights"), "weights": run_key(BASE, "data", "other")}
    keys["the two exchanged"] = run_key(BASE, "weights", "data")
    twice = [name for name, key in keys.items() if Counter(keys.values())[key] > 1]
    assert not twice
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys.values())


def test_the_key_of_equal_settings_is_equal_however_they_were_made():
    again = RunConfig("set", k=4, seed=0, model=ModelConfig(mmb=True, map=True, mcb=True), train=TrainConfig(lr=0.0015))
    assert run_key(again, "data", "weights") == run_key(BASE, "data", "weights")
    read = json.loads(json.dumps(asdict(BASE)))
    rebuilt = RunConfig(
        **read
        | {"model": ModelConfig(**read["model"]), "backbone": BackboneConfig(**read["backbone"])}
        | {"train": TrainConfig(**read["train"]), "evaluation": EvalConfig(**read["evaluation"])}
    )
    assert run_key(rebuilt, "data", "weights") == run_key(BASE, "data", "weights")


def test_a_new_schema_is_a_new_key(monkeypatch):
    before = run_key(BASE, "data", "weights")
    monkeypatch.setattr("flowclip_core.config.SCHEMA", -1)
    assert run_key(BASE, "data", "weights") != before


# --- catalogue ------------------------------------------------------------------------------------------------


def place(cell):
    return (cell.config.dataset, cell.variant, cell.config.k, cell.config.seed)


def shown(profile):
    """The profile with the data sets that Table 5 shows."""
    return runs.resolve(profile.name, "table5", Options(data_root=Path(__file__).parent))


@pytest.mark.parametrize(("profile", "seeds"), [(DEMO, 3), (PAPER, 10), (QUICK, 3)])
def test_table5_has_every_cell_of_the_paper_once(profile, seeds):
    cells = table5(shown(profile))
    trained = [cell for cell in cells if cell.config.train]
    sets = list(shown(profile).roles.values())
    variants = ["baseline", "mcb", "mmb", "mmb+map", "full"]
    grid = {(d, v, k, s) for d in sets for v in variants for k in (2, 4, 8, 16) for s in range(seeds)}
    assert len(sets) == 2 and len(trained) == len(grid) == 40 * seeds
    assert set(map(place, trained)) == grid
    assert [place(cell) for cell in cells if not cell.config.train] == [(d, "clip", None, 0) for d in sets]
    assert {(cell.role, cell.config.dataset) for cell in cells} == set(shown(profile).roles.items())
    assert len({run_key(cell.config, "", "") for cell in cells}) == len(cells)
    kept = [place(cell) for cell in cells if cell.keep]
    assert kept == [(d, "full", 16, 0) for d in sets]


def test_variants_differ_in_the_switches_alone():
    assert [tuple(VARIANTS[name].values()) for name in ("baseline", "mcb", "mmb", "mmb+map", "full")] == [
        (False, False, False),
        (False, False, True),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]
    for cell in table5(shown(DEMO)):
        if cell.config.train:
            same = replace(cell.config, k=2, seed=0, dataset="", model=replace(cell.config.model, **VARIANTS["full"]))
            assert same == RunConfig("", 2, 0, train=DEMO.few_shot, evaluation=DEMO.evaluation, backbone=DEMO.backbone)
        else:
            switched_off = dict(mmb=False, map=False, mcb=False, spatial=False)
            assert cell.config.model == CLIP == replace(ModelConfig(), **switched_off)


def test_the_paper_profile_has_the_printed_settings():
    cell = next(cell for cell in table5(shown(PAPER)) if cell.variant == "full")
    train, model, test = cell.config.train, cell.config.model, cell.config.evaluation
    assert (train.lr, train.batch, cell.config.split) == (0.0015, 32, 1)
    assert (model.frames, model.step, model.differences, model.tau) == (8, 4, 22, 0.07)
    assert model.prompt.split() == "a common human action of".split()
    assert (test.clips, test.crops, test.views) == (4, ("left", "centre", "right"), "4x3")
    assert cell.config.backbone == BackboneConfig("ViT-B-16", "openai")
    assert list(PAPER.roles) == ["HMDB-51", "UCF-101", "Kinetics-400"]


# --- options --------------------------------------------------------------------------------------------------


def test_resolve_applies_the_options(tmp_path):
    assert shown(DEMO).roles == {"HMDB-51": "figures-h", "UCF-101": "figures-u"}
    assert runs.resolve("demo", "table5", Options(dataset="figures-u")).roles == {"UCF-101": "figures-u"}
    assert runs.resolve("paper", "table5", Options(dataset="folder", data_root=tmp_path)).roles == {"": "folder"}
    assert runs.resolve("demo", "table5", Options(seeds=1)).seeds == 1
    assert shown(DEMO).seeds == 3 and shown(PAPER).backbone == BackboneConfig("ViT-B-16", "openai")

    def backbone(profile, **options):
        return runs.resolve(profile, "table5", Options(data_root=tmp_path, **options)).backbone

    assert backbone("demo", backbone="ViT-B-32") == BackboneConfig("ViT-B-32", "openai")
    assert backbone("demo", backbone="ViT-B-32", pretrained="none") == BackboneConfig("ViT-B-32", None)
    assert backbone("paper", pretrained="laion2b_s34b_b88k") == BackboneConfig("ViT-B-16", "laion2b_s34b_b88k")
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
        runs.resolve(profile, "table5", Options(**options))


def test_an_unknown_target_or_device_is_refused():
    with pytest.raises(InputError, match="target 'table9' is unknown"):
        runs.ensure("table9")
    with pytest.raises(InputError, match="--device 'tpu'"):
        runs.pick_device("tpu")


def counted(*counts: int) -> Dataset:
    """A data set whose classes have so many training videos, and two test videos each."""
    train = tuple(Video(f"{c}/{i}.avi", c) for c, count in enumerate(counts) for i in range(count))
    test = tuple(Video(f"{c}/test{i}.avi", c) for c in range(len(counts)) for i in range(2))
    names = tuple(f"class {c}" for c in range(len(counts)))
    return Dataset("set", Path("videos"), names, names, {1: Split(train, test)}, pairs=((0, 1),))


@pytest.mark.parametrize(
    ("counts", "shots"), [((20, 16), (2, 4, 8, 16)), ((20, 15), (2, 4, 8)), ((5, 4), (2, 4)), ((1, 9), (1,))]
)
def test_possible_shots_are_those_that_every_class_can_give(counts, shots):
    assert runs.possible_shots(counted(*counts), (2, 4, 8, 16)) == shots


# --- making what is missing -----------------------------------------------------------------------------------


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
    """A store of made-up features, 32 wide, without videos behind it."""
    names = sorted({video.name for split in dataset.splits.values() for part in split for video in part})
    index = pd.DataFrame({"name": names, "decoder": "none"}).assign(sha256=[f"content of {name}" for name in names])
    return FeatureStore(folder, fixed(len(names), 1, 32, 32).half().numpy(), ("centre",), index)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """`ensure` with small data sets, and a training that only writes down that it took place."""
    sets = {"figures-h": replace(counted(16, 20), name="figures-h"), "figures-u": counted(18, 17, 16)}
    trained: list[str] = []

    def train_and_test(cell, key, folder, dataset, store, device, memory):
        trained.append(key)
        if cell.keep:
            (folder / f"{key}.safetensors").write_bytes(b"weights")
        return {
            "key": key,
            "config": asdict(cell.config),
            "scores": {"top1": 50.0 + cell.config.seed},
            "seconds": {"train": 2.0, "test": 1.0},
            "software": {"python": "3"},
            "device": device,
            "peak_memory_gib": 1.0,
        }

    monkeypatch.setattr(runs, "Pool", Inline)
    monkeypatch.setattr(runs, "weights_hash", lambda backbone: "weights")
    monkeypatch.setattr(runs, "open_dataset", lambda name, options, jobs: sets[name])
    monkeypatch.setattr(runs, "ensure_features", lambda dataset, *a, **o: stored(dataset, tmp_path))
    monkeypatch.setattr(runs, "open_store", lambda folder: None)
    monkeypatch.setattr(runs, "train_and_test", train_and_test)
    return sets, trained


def test_all_cells_are_made_once_and_only_the_missing_ones_again(lab, tmp_path):
    _, trained = lab
    options = Options(results=tmp_path / "results")
    first = runs.ensure("table5", "demo", options)
    assert len(trained) == len(set(trained)) == 122
    assert len(first.tidy) == 122 and set(first.tidy["key"]) == set(trained)
    assert first.provenance["last_call"]["runs_made"] == 122 and first.provenance["training_seconds"] == 244
    assert list(first.checkpoints) == ["table5-figures-h-full-k16", "table5-figures-u-full-k16"]
    assert all(path.read_bytes() == b"weights" for path in first.checkpoints.values())

    again = runs.ensure("table5", "demo", options)
    assert len(trained) == 122 and again.provenance["last_call"]["runs_made"] == 0
    pd.testing.assert_frame_equal(again.tidy, first.tidy)

    gone = trained[7]
    (tmp_path / "results" / "runs" / f"{gone}.json").unlink()
    kept = next(iter(first.checkpoints.values()))
    kept.unlink()  # the record alone is not enough where weights are kept
    assert runs.ensure("table5", "demo", options).provenance["last_call"]["runs_made"] == len({gone, kept.stem})
    assert set(trained[122:]) == {gone, kept.stem} and kept.exists()


def test_keys_do_not_depend_on_how_and_where_it_runs(lab, tmp_path):
    found = []
    for number, options in enumerate([{}, {"jobs": 1}, {"jobs": 7}, {"device": "cpu"}]):
        options = Options(results=tmp_path / str(number), **options)
        found.append(runs.ensure("table5", "demo", options).tidy)
    for other in found[1:]:
        pd.testing.assert_frame_equal(other, found[0])


def test_keys_depend_on_the_data(lab, tmp_path, monkeypatch):
    sets, _ = lab

    def keys() -> list[str]:
        result = runs.ensure("table5", "demo", Options(results=tmp_path / "results", dataset="figures-h"))
        return list(result.tidy["key"])

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
            patch.setattr(runs, "ensure_features", lambda data, *a, c=column, **o: changed(stored(data, tmp_path), c))
            assert not set(keys()) & set(before)
    assert not set(renamed) & set(before) and not set(shorter) & set(before)
    assert keys() == before


def changed(store: FeatureStore, column: str) -> FeatureStore:
    return replace(store, index=store.index.assign(**{column: ["other", *store.index[column][1:]]}))


def test_seeds_and_a_single_data_set_take_runs_of_the_whole(lab, tmp_path):
    _, trained = lab
    options = Options(results=tmp_path / "results")
    runs.ensure("table5", "demo", options)
    part = runs.ensure("table5", "demo", replace(options, seeds=1, dataset="figures-u"))
    assert len(trained) == 122 and len(part.tidy) == 21
    assert set(part.tidy["seed"]) == {0} and set(part.tidy["dataset"]) == {"figures-u"}


def test_a_set_with_few_videos_gets_the_k_it_can(lab, tmp_path):
    sets, _ = lab
    sets["figures-h"] = replace(counted(9, 5), name="figures-h")
    result = runs.ensure("table5", "demo", Options(results=tmp_path / "results", dataset="figures-h", seeds=1))
    assert sorted(result.tidy["k"].unique()) == [0, 2, 4]
    assert list(result.checkpoints) == ["table5-figures-h-full-k4"]


# --- records --------------------------------------------------------------------------------------------------


def test_records_read_back_and_absent_ones_are_none(tmp_path):
    record = {"key": "12", "scores": {"top1": 1 / 3}, "name": "«wave»"}
    assert records.read_record(records.write_record(tmp_path / "runs" / "12.json", record)) == record
    assert records.read_record(tmp_path / "13.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": ', b"\xff\xfe", b"[]", b"{}", b"3", b"null"])
def test_a_broken_record_is_one_line_that_names_it(content, tmp_path):
    (tmp_path / "12.json").write_bytes(content)
    with pytest.raises(InputError, match="12.json: not a run record.*remove it") as error:
        records.read_record(tmp_path / "12.json")
    assert "\n" not in str(error.value)


def test_a_broken_record_stops_the_table_and_removing_it_mends_it(lab, tmp_path):
    _, trained = lab
    options = Options(results=tmp_path / "results", dataset="figures-h", seeds=1)
    runs.ensure("table5", "demo", options)
    path = tmp_path / "results" / "runs" / f"{trained[3]}.json"
    path.write_text("{")
    with pytest.raises(InputError, match=path.name):
        runs.ensure("table5", "demo", options)
    path.unlink()
    assert runs.ensure("table5", "demo", options).provenance["last_call"]["runs_made"] == 1


# --- one real run ---------------------------------------------------------------------------------------------


@pytest.fixture
def real(small, tmp_path, monkeypatch):
    """Runs of one small cell, with the small backbone and made-up features: call it with a folder for the record."""
    dataset = counted(5, 4)
    store = stored(dataset, tmp_path)
    monkeypatch.setattr(runs, "load_once", lambda backbone, device: small)
    monkeypatch.setattr(runs, "open_store", lambda folder: store)
    train = TrainConfig(lr=0.01, batch=4, epochs=None, steps=3, crops=("centre",))
    config = RunConfig("set", k=4, seed=1, train=train, evaluation=DEMO.evaluation, backbone=BackboneConfig("small"))
    cell = catalogue.Cell("", "full", config, keep=True)
    runs._tree.cache_clear()

    def make(folder: Path, cell: catalogue.Cell = cell) -> dict | None:
        assert runs._run(cell, "key", folder, dataset, store.folder, "weights", "cpu", 4.0)
        return records.read_record(folder / "key.json")

    yield make, cell
    runs._tree.cache_clear()


def lasting(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in ("seconds", "peak_memory_gib")}


def test_a_run_interrupted_between_weights_and_record_is_done_again(real, tmp_path, monkeypatch):
    make, cell = real
    whole = make(tmp_path / "whole")
    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, "write_record", interrupt)
        make(folder)
    assert (folder / "key.safetensors").exists() and not (folder / "key.json").exists()
    (folder / "key.safetensors").write_bytes(b"what a kill may have left")
    assert lasting(make(folder)) == lasting(whole)
    ours, theirs = (load_file(place / "key.safetensors") for place in (folder, tmp_path / "whole"))
    assert ours and ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".lock"}


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_a_record_holds_what_its_table_and_a_reader_need(real, tmp_path):
    make, cell = real
    record = make(tmp_path / "a")
    assert record["config"] == json.loads(json.dumps(asdict(cell.config)))
    assert record["key"] == "key" and record["weights"] == "weights" and record["device"] == "cpu"
    assert len(record["losses"]) == 3 and all(math.isfinite(loss) for loss in record["losses"])
    assert Counter(name[0] for name in record["trained_on"]) == {"0": 4, "1": 4}
    predictions = record["predictions"]
    assert sorted(predictions) == ["0/test0.avi", "0/test1.avi", "1/test0.avi", "1/test1.avi"]
    right = [label == guess for label, guess, _ in predictions.values()]
    assert record["scores"]["top1"] == pytest.approx(100 * np.mean(right))
    assert all(0 <= score <= 100 for score in record["scores"].values())
    controls = {"top1_shuffled", "top1_reversed", "top1_repeated", "order", "order_reversed", "top1_pairs"}
    assert controls <= record["scores"].keys()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(real, tmp_path):
    make, cell = real
    first, again = make(tmp_path / "a"), make(tmp_path / "b")
    other = make(tmp_path / "c", replace(cell, config=replace(cell.config, seed=2)))
    assert lasting(first) == lasting(again)
    assert first["losses"] != other["losses"] and first["trained_on"] != other["trained_on"]


def test_profiles_are_found_by_their_names():
    assert {name: profile.name for name, profile in PROFILES.items()} == {name: name for name in PROFILES}
