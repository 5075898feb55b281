"""What is missing is made, and nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_experiments import BASE, H, K, U, counted, made_up, place, shown

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.datasets.formats import Dataset, Split, Video
from flowclip_kit.experiments import catalogue, rerun, results_table, runs
from flowclip_kit.experiments.catalogue import READINGS, TARGETS, VARIANTS
from flowclip_kit.experiments.experiment import Options, possible_shots
from flowclip_kit.experiments.run_config import RunConfig, Transfer
from flowclip_kit.profiles import SMOKE

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
    liking = {name: (low, high)[number % 2] for number, name in enumerate(READINGS)}
    names = {(cell.config.model, replace(cell.config.train, lr=0)): cell.variant
             for cell in catalogue.readings(profile)}  # fmt: skip

    def score(config: RunConfig) -> float:
        better = config.train.lr == liking[names[config.model, replace(config.train, lr=0)]]
        if not config.held_out:  # the test would choose the other rate; nobody is to ask it
            return 10.0 if better else 90.0
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
    assert {row.variant: row.lr for row in final.itertuples()} == liking
    assert set(final["value"]) == {10.0}


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
    monkeypatch.setattr(
        rerun, "load", lambda *_: (found.tidy, results_table.by_key(found.hits), found.provenance)
    )
    monkeypatch.setattr(rerun, "root", lambda: tmp_path)
    monkeypatch.setattr(rerun, "ROUNDING", Path("rounding.csv"))
    usual = lab.score
    nudges = pd.read_csv(tmp_path / "rounding.csv")
    alike = [replace(BASE, k=k) for k in (2, 16, None)]
    alike += [replace(BASE, model=ModelConfig(**VARIANTS[name])) for name in ("mmb", "mcb", "mmb+map")]
    limits = [rerun.bound(config, nudges) for config in alike]
    assert limits == [6, 6, 6, 1, 2.4, 6], "the bound is that of the cells with the same parts"
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
