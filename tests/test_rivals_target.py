"""The target `rivals`: its cells under both budgets, the choice of rates, and a method added by one line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from flowclip_core.errors import InputError
from flowclip_kit.bench import rivals as bench
from flowclip_kit.datasets.extraction import FAILED, INDEX
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.datasets.formats import Dataset, Split, Video
from flowclip_kit.experiments import rerun, runs
from flowclip_kit.experiments.catalogue import (
    OURS,
    RATE_SEED,
    TARGETS,
    parameters,
    rivals,
    rivals_at_their_best,
    wider_rates,
)
from flowclip_kit.experiments.experiment import Experiment
from flowclip_kit.experiments.loading import load
from flowclip_kit.experiments.rivals import PUBLISHED, RATES, costs
from flowclip_kit.experiments.run_config import run_key
from flowclip_kit.profiles import DEMO, SMOKE
from flowclip_kit.reporting import tables
from flowclip_kit.rivals import METHODS, Method, Recipe
from flowclip_kit.rivals.contract import Rival

UNTRAINED = {"clip", "BIKE spotting"}
EVERY = {*OURS, *METHODS}


def scores(cells, value) -> pd.DataFrame:
    """The tidy rows of trials, each with the score that `value` gives to (variant, rate)."""
    rows = [(0, "top1", cell.variant, cell.config.train.lr, value(cell.variant, cell.config.train.lr))
            for cell in cells if cell.config.held_out]  # fmt: skip
    return pd.DataFrame(rows, columns=["split", "metric", "variant", "lr", "value"])


def test_everything_that_is_trained_is_tried_at_every_rate_on_videos_set_aside():
    cells = rivals(DEMO)
    trials = [cell for cell in cells if cell.config.held_out]
    assert {cell.variant for cell in cells} == EVERY
    assert {cell.variant for cell in cells if not cell.config.held_out} == UNTRAINED
    assert {(cell.config.seed, cell.config.k) for cell in trials} == {(RATE_SEED, 16)}
    assert len(trials) == len(EVERY - UNTRAINED) * len(RATES) * 2


def test_with_equal_budgets_all_have_the_steps_batch_views_and_lists_of_flowclip():
    trials = rivals(DEMO)
    best = {variant: RATES[number % 4 + 1] for number, variant in enumerate(sorted(EVERY - UNTRAINED))}
    tried = scores(trials, lambda variant, rate: float(rate == best[variant]))
    assert wider_rates(DEMO, tried, trials) == []
    final = rivals_at_their_best(DEMO, tried)
    assert {cell.variant for cell in final} == EVERY - UNTRAINED
    lengths = {(c.config.train.steps, c.config.train.epochs, c.config.train.batch, c.config.train.crops,
                c.config.model.frames, c.config.evaluation) for c in final}  # fmt: skip
    assert len(lengths) == 1
    cells = {(c.role, c.config.k, c.config.seed) for c in final if c.variant == "full"}
    for variant, rate in best.items():
        own = [cell for cell in final if cell.variant == variant]
        assert {(c.role, c.config.k, c.config.seed) for c in own} == cells and len(own) == len(cells)
        assert {cell.config.train.lr for cell in own} == {rate} and not any(c.config.held_out for c in own)
    assert not any(cell.keep for cell in final)


def test_a_best_rate_at_the_edge_asks_for_the_next_one_also_where_that_failed():
    trials = rivals(DEMO, methods=("CoOp",), variants=("full",))
    tried = scores(trials, lambda variant, rate: rate if variant == "CoOp" else float(rate == 0.03))
    more = wider_rates(DEMO, tried, trials)
    assert {(cell.variant, cell.config.train.lr) for cell in more} == {("CoOp", 1.0)} and len(more) == 2
    assert wider_rates(DEMO, tried, trials + more) == []  # it diverged: the largest that works is taken


def test_published_budgets_are_the_authors_own():
    cells = rivals(DEMO, budget=PUBLISHED)
    assert {cell.variant for cell in cells} == EVERY and not any(cell.config.held_out for cell in cells)
    ju = next(cell.config for cell in cells if cell.variant == "Ju et al.")
    assert (ju.model.frames, ju.train.lr, ju.train.batch, ju.train.optimiser) == (16, 1e-4, 64, "adamw")
    coop = {cell.config.k: cell.config.train.epochs for cell in cells if cell.variant == "CoOp"}
    assert coop == {2: 100, 4: 100, 8: 200, 16: 200}
    assert next(cell.config for cell in cells if cell.variant == "full").train == DEMO.few_shot
    assert all(c.config.train is None or c.config.train.crops == DEMO.few_shot.crops for c in cells)
    assert rivals_at_their_best(DEMO, pd.DataFrame(), budget=PUBLISHED) == []


def test_a_single_rate_is_taken_as_it_is():
    cells = rivals(DEMO, lr=0.05, methods=("CoOp",))
    assert {cell.config.train.lr for cell in cells if cell.config.train} == {0.05}
    assert not any(cell.config.held_out for cell in cells)


def test_what_is_unknown_is_refused():
    for knobs, match in (
        ({"methods": ("CoOp", "mine")}, "'mine' is unknown"),
        ({"budget": "mine"}, "equal or"),
    ):
        with pytest.raises(InputError, match=match):
            rivals(DEMO, **knobs)
        with pytest.raises(InputError, match=match):
            Experiment.of("rivals", "demo", given=knobs)
    with pytest.raises(InputError, match="no parameter 'methods'"):
        Experiment.of("table5", "demo", given={"methods": ["CoOp"]})


def test_every_pair_that_is_compared_is_there():
    assert {name for pair in TARGETS["rivals"].compare for name in pair} <= EVERY


def test_another_method_or_recipe_is_another_run_and_none_keeps_the_old_names():
    (cell,) = [c for c in rivals(DEMO, lr=0.1, methods=("CoOp",), k=2, seeds=1, datasets=("HMDB-51",))
               if c.variant == "CoOp"]  # fmt: skip
    changes = [
        {},
        {"method": "CoCoOp"},
        {"train": replace(cell.config.train, smoothing=0.1)},
        {"method": None},
    ]
    assert len({run_key(replace(cell.config, **change), "data", "weights") for change in changes}) == 4


# ----------------------------------------------------------------------------- beside the paper's own rows


@pytest.mark.parametrize("target", [name for name in TARGETS if "rivals" in parameters(name)])
def test_a_table_takes_rivals_beside_its_rows_and_on_the_same_videos(target):
    about, transfers = TARGETS[target], TARGETS[target].transfers
    own, cells = about.cells(DEMO), about.cells(DEMO, rivals=True)
    assert cells[: len(own)] == own and about.then(DEMO, scores([], None)) == []
    others = {name for name in METHODS if METHODS[name].unseen or not transfers}
    trials = [cell for cell in cells if cell.config.held_out]
    assert {cell.variant for cell in cells} - {cell.variant for cell in own} == others
    assert {cell.variant for cell in trials} == others - UNTRAINED
    assert not any(cell.config.transfer for cell in trials) and all(c.role == c.trained_on for c in trials)
    assert len(trials) == len(others - UNTRAINED) * len(RATES) * len({cell.role for cell in trials})
    untrained = [cell.config for cell in cells if cell.variant == "BIKE spotting"]
    assert untrained and all(c.transfer is None or c.dataset == c.transfer.dataset for c in untrained)

    final = about.then(DEMO, scores(trials, lambda variant, rate: float(rate == 0.03)), rivals=True)
    full = [cell for cell in own if cell.variant == "full"]
    place = [
        (c.role, c.config.k, c.config.seed, c.config.split, c.config.transfer, c.config.evaluation)
        for c in full
    ]
    for name in others - UNTRAINED:
        theirs = [cell for cell in final if cell.variant == name]
        assert place == [(c.role, c.config.k, c.config.seed, c.config.split, c.config.transfer,
                          c.config.evaluation) for c in theirs]  # fmt: skip
        assert {cell.config.train.lr for cell in theirs} == {0.03} and not any(cell.keep for cell in theirs)
    given = about.cells(DEMO, rivals=True, lr=0.05)
    assert {c.config.train.lr for c in given if c.config.train} == {0.05}
    assert {c.variant for c in given} == {c.variant for c in cells} and not any(
        c.config.held_out for c in given
    )


def test_rows_of_other_methods_stand_in_a_block_of_their_own():
    rows = [
        ("h", "H", "H", name, 2, "top1", value)
        for name, value in (("CoOp", 70.0), ("full", 60.0), ("mmb", 50.0))
    ]
    summary = pd.DataFrame(rows, columns=["dataset", "role", "trained_on", "variant", "k", "metric", "mean"])
    nothing = ["low", "high", "video_low", "video_high", "paper", "split_sd"]
    summary = summary.assign(target="table5", n=3, splits=1, **dict.fromkeys(nothing, np.nan))
    table = tables.measured(summary, tables.load_paper("table5").iloc[:0], apart=["CoOp"])
    (ours, theirs) = table.text.index.unique(0)
    assert theirs == f"{ours}; run by the kit, equal conditions"
    assert table.text.loc[ours].index.tolist() == ["mmb", "full"]
    assert table.text.loc[theirs].index.tolist() == ["CoOp"]


# ------------------------------------------------------------------------------------- a method, one line


class Toy(Rival):
    """Nearest class by the first frame, moved by a learnt vector."""

    def build(self) -> None:
        self.register_buffer("texts", self.hand_crafted(), persistent=False)
        self.shift = torch.nn.Parameter(torch.zeros(self.backbone.width))

    def encode(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        video = frames[:, 0] + self.shift
        return {"video": video, "logits": torch.nn.functional.normalize(video, dim=-1) @ self.texts.T}


@pytest.fixture
def task(tmp_path):
    """How a run on made-up features is asked for: call it with a cell's settings."""
    labels = np.arange(18) % 3
    videos = tuple(Video(f"{number:02d}.avi", int(label)) for number, label in enumerate(labels))
    names = ("wave", "clap", "sit down")
    dataset = Dataset("few", tmp_path, names, names, {1: Split(videos[:12], videos[12:])})
    width, store = runs.load_once(SMOKE.backbone, "cpu").width, tmp_path / "store"
    store.mkdir()
    features = np.random.default_rng(0).normal(size=(18, 1, SMOKE.frames_stored, width))
    np.save(store / "features.npy", features.astype(np.float16))
    rows = [[video.name, 1, 1, "0" * 64, 40, "none"] for video in videos]
    pd.DataFrame(rows, columns=INDEX).to_csv(store / "index.csv", index=False)
    pd.DataFrame([], columns=FAILED).to_csv(store / "failed.csv", index=False)
    (store / "about.json").write_text(json.dumps({"crops": ["centre"], "frames": SMOKE.frames_stored}))
    seal = FeatureStore.open(store).seal
    return lambda config: runs.Task(
        config, "key", False, tmp_path, dataset, None, store, seal, "key", "weights", "cpu", 1.0, 1, None
    )


def test_a_new_method_is_a_class_and_one_line(monkeypatch, task):
    monkeypatch.setitem(METHODS, "toy", Method(f"{__name__}:Toy", Recipe(lr=0.1, batch=4, epochs=2)))
    cells = rivals(SMOKE, methods=("toy",), lr=0.1, k=2, datasets=("HMDB-51",))
    (cell,) = [cell for cell in cells if cell.variant == "toy"]
    record = runs.train_and_test(task(cell.config))
    assert record["parameters"] == 64 and record["tokens_per_video"] == 0 and len(record["losses"]) == 3
    assert set(record["scores"]) >= {"top1", "top5", "top1_shuffled", "top1_reversed", "top1_repeated"}
    assert len(record["predictions"]) == 6 and len(record["trained_on"]) == 6
    assert costs([cell], lambda config: record)["toy"]["parameters"] == 64


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_run_as_any_cell(task, name):
    cells = rivals(SMOKE, methods=(name,), lr=0.01, k=2, datasets=("HMDB-51",))
    (cell,) = [cell for cell in cells if cell.variant == name]
    record = runs.train_and_test(task(cell.config))
    assert len(record["losses"]) == (3 if METHODS[name].recipe else 0)
    assert (record["parameters"] > 0) == bool(METHODS[name].recipe)
    assert (record["tokens_per_video"] > 0) == (name == "CoCoOp")
    assert 0 <= record["scores"]["top1"] <= 100


def test_the_benchmark_steps_each_method_and_counts_what_it_trains(small):
    names = ["wave", "clap", "sit down"]
    found = {
        name: bench.measure(name, "cpu", 1, small, names, 4)
        for name in (bench.OURS, *(name for name in METHODS if METHODS[name].recipe))
    }
    assert all(row["seconds"] > 0 and row["gib"] >= 0 for row in found.values())
    assert found["CoCoOp"]["parameters"] == 4 * 32 + 32 * 2 + 2 + 2 * 32 + 32
    assert found["Tip-Adapter-F"]["parameters"] == 4 * 32 and found["linear probe"]["parameters"] == 3 * 32
    lines = bench.lines(found)
    assert len(lines) == 1 + len(found) and all(len(line) == len(lines[0]) for line in lines)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.unseen])
def test_what_names_unseen_classes_takes_its_trained_parts_to_them(task, name):
    cells = TARGETS["table7"].cells(SMOKE, rivals=True, lr=0.01, splits=1)
    config = next(cell.config for cell in cells if cell.variant == name)
    asked = task(config)
    names = ("jump", "run", "fall down")
    asked = replace(
        asked, tested=replace(asked.dataset, classes=names, texts=names), source=asked.key, keep=True
    )
    if config.train:
        runs.train_and_test(replace(asked, config=replace(config, transfer=None)))
    record = runs.transfer(asked)
    assert len(record["predictions"]) == 6 and 0 <= record["scores"]["top1_half"] <= 100
    assert len(record["halves"]) == config.transfer.draws and bool(record["parameters"]) == bool(config.train)


def test_parts_that_belong_to_classes_fit_no_others(small, tmp_path):
    path = METHODS["linear probe"](small, ["wave", "clap"]).save(tmp_path / "parts")
    with pytest.raises(InputError, match=r"holds the parts .*\(2, 32\).*has .*\(3, 32\)"):
        METHODS["linear probe"](small, ["wave", "clap", "sit"]).load(path)


@pytest.mark.parametrize("target", ["rivals", "readings", "table5", "table7"])
def test_every_recorded_run_is_a_cell_of_todays_settings(target):
    """Trials of rates beyond the list too, which depend on scores: `verify --rerun` chooses among all."""
    tidy, _, about = load(target, "demo")
    cells = rerun.cells_of(Experiment.of(target, "demo", given={"seeds": about["seeds"]}), tidy)
    found = set()
    for cell in cells:
        config, tested = cell.config, cell.config.transfer or cell.config
        split, lr = 0 if config.held_out else tested.split, config.train.lr if config.train else 0.0
        found.add((cell.variant, tested.dataset, config.k or 0, config.seed, split, lr))
    columns = ["variant", "dataset", "k", "seed", "split", "lr"]
    assert found == set(tidy[columns].itertuples(index=False, name=None))
