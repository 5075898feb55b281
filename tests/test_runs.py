"""What a run leaves: records, tidy tables, hits; and real runs, held against a slow twin."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_experiments import OFF, H, U, counted, made_up
from test_workshop import Inline, stored

from flowclip_core.config import EvalConfig, ModelConfig, TrainConfig
from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.experiments import records, results_table, runs
from flowclip_kit.experiments.catalogue import CLIP, VARIANTS, Cell
from flowclip_kit.experiments.experiment import Options
from flowclip_kit.experiments.run_config import RunConfig, Transfer
from flowclip_kit.experiments.training_log import log_to, run_name
from flowclip_kit.profiles import DEMO, BackboneConfig

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
    ranked = {name: [*said, (i % 9) * (1 - said[1])] for i, (name, said) in enumerate(predictions.items())}
    row = results_table.hit_row({"key": "2e2", "predictions": ranked})
    path.write_text(results_table.hits_csv(pd.DataFrame([row, none])))
    back = results_table.read_hits(path)
    assert list(back) == ["0e1", "2e2", results_table.among_five("2e2")]  # the other has no ranks
    assert back[results_table.among_five("2e2")].tolist() == [said[3] < 5 for said in ranked.values()]


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
        among = results_table.by_key(table)[results_table.among_five(row.key)]
        assert 100 * among.mean() == pytest.approx(record["scores"]["top5"])
        seen += right
    assert 0 < sum(seen) < len(seen)


def test_videos_set_aside_are_tested_and_test_videos_never_seen(home, tmp_path):
    workshop = home(tmp_path)
    splits = workshop.sets["a"].splits
    train, test = ({video.name for video in part} for part in splits[1])
    elsewhere = {video.name for split in splits.values() for video in split.test}
    assert train & elsewhere  # split 2 tests some that split 1 trains on
    for k in (2, None):
        config = replace(REAL, seed=100, k=k, held_out=True)
        record = made(workshop, config)
        tested, aside = set(record["predictions"]), workshop.dataset(config).splits[1]
        assert tested == {video.name for video in aside.test} < train
        if k is None:  # closed-set is tested on every split
            assert not tested & elsewhere and not {video.name for video in aside.train} & elsewhere
            assert record["trained_on"] == len(aside.train) == len(train - elsewhere) - len(tested)
        else:
            assert Counter(name[0] for name in tested) == {"0": 2, "1": 1, "2": 2}
            used = set(record["trained_on"])
            assert used <= train - tested and not (used | tested) & test


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
        video.name: [
            video.label,
            int(row.argmax()),
            pytest.approx(row[video.label], abs=2e-6),
            sorted(row, reverse=True).index(row[video.label]),
        ]
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
