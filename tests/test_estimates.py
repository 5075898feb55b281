"""Gigabytes and hours before extraction and training, and what `doctor` finds and says how to get."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from official import build_hmdb, build_ucf
from test_features import write_video

from flowclip_core.config import TINY, ModelConfig, TrainConfig
from flowclip_core.errors import InputError
from flowclip_core.training import loop
from flowclip_kit import doctor
from flowclip_kit.cli import main
from flowclip_kit.datasets.acquire import FACTS
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.experiments import estimates
from flowclip_kit.experiments import speed as speeds
from flowclip_kit.experiments.catalogue import CLIP, FULL, PAPER_TARGETS, READINGS, TARGETS, VARIANTS
from flowclip_kit.experiments.experiment import Options
from flowclip_kit.experiments.run_config import RunConfig, Transfer
from flowclip_kit.experiments.speed import Cost, Kind, Speed
from flowclip_kit.profiles import PAPER_ROLES, PROFILES, BackboneConfig


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@functools.cache
def paper_kinds() -> tuple[Kind, ...]:
    rounds = estimates.all_rounds(PROFILES["paper"]).values()
    return tuple(estimates.kinds([one for parts in rounds for part in parts for one in part]))


def cost(kind: Kind) -> Cost:
    """Uneven, so that no two parts can stand for each other."""
    model, classes = kind.model, len(CLASSES[next(r for r, n in PAPER_ROLES.items() if n == kind.dataset)])
    share = 1 + model.mmb / 8 + classes * (model.mcb / 1e3 + model.map / 10) + model.frames / 1e2
    return Cost(0.01 * share, 0.1 * share, 0.002 * share, 0.03 * share, 1.5 + share / 100)


def here(jobs: int = 1, pictures: float = 1000.0) -> Speed:
    """A made-up machine."""
    return Speed(pictures, jobs, {str(kind): cost(kind) for kind in paper_kinds()})


def rows(profile, speed: Speed, **changes) -> dict[str, estimates.Forecast]:
    return {row.target: row for row in estimates.forecast(profile, speed, **changes)}


PAPER, QUICK = PROFILES["paper"], PROFILES["quick"]


def test_what_kinetics_takes():
    hmdb, ucf, kinetics = estimates.of_profile(PAPER, 1000.0)
    assert (hmdb.videos, ucf.videos) == (6766, 13320) and 250_000 < kinetics.videos < 270_000
    for one in (hmdb, ucf, kinetics):
        assert one.pictures == one.videos * 32 * 4 and one.bytes == one.pictures * 512 * 2
        assert one.hours == pytest.approx(one.pictures / 3.6e6)
    assert estimates.of_profile(PROFILES["demo"], 1000.0) == estimates.text(PROFILES["demo"]) == []


# --- runs ---------------------------------------------------------------------------------------------------


def test_the_sizes_are_those_of_the_facts():
    for name, facts in FACTS.items():
        assert all(0 < test < train for train, test in facts.expected.values())
        assert estimates.OFFICIAL[name].classes == facts.classes
    assert all(sum(split) == FACTS["ucf101"].videos for split in FACTS["ucf101"].expected.values())
    assert sum(FACTS["kinetics400"].expected[1]) == FACTS["kinetics400"].videos


@pytest.mark.parametrize("profile", [PAPER, QUICK], ids=lambda profile: profile.name)
def test_the_counts_are_those_of_the_catalogue(profile):
    found, every = rows(profile, here()), set()
    for name, target in TARGETS.items():
        own = replace(
            profile, roles={role: data for role, data in profile.roles.items() if role in target.roles}
        )
        cells = target.cells(own)
        trained = {replace(cell.config, transfer=None) for cell in cells if cell.config.train}
        tests = {cell.config for cell in cells if cell.config.transfer or not cell.config.train}
        if name in PAPER_TARGETS:
            every |= trained | tests
        if name == "readings":  # and, once the rates are known, every reading with every seed
            assert (found[name].trainings, found[name].tests) == (
                len(trained) + len(profile.roles) // 2 * 2 * len(READINGS) * profile.seeds, 0,
            )  # fmt: skip
        elif name == "rivals":  # likewise every trained method, at four k, with five seeds or more
            methods = {cell.variant for cell in cells if cell.config.train}
            assert found[name].trainings == len(trained) + len(profile.roles) // 2 * 2 * len(
                methods
            ) * 4 * max(5, profile.seeds)
        else:
            assert (found[name].trainings, found[name].tests) == (len(trained), len(tests)), name
    assert list(found) == [*TARGETS, "all"]
    assert found["all"].trainings + found["all"].tests == len(every)
    assert found["table5"].trainings == 5 * 4 * 2 * profile.seeds


def test_twice_the_seeds_take_twice_the_hours():
    once = rows(PAPER, here())
    twice = rows(replace(PAPER, seeds=20, closed_seeds=6), here())
    for name in (
        "table2",
        "table4",
        "table8",
        "figure3b",
        "figure3c",
        "figure3d",
    ):  # nothing there without a seed
        assert twice[name].hours == pytest.approx(2 * once[name].hours), name
        assert (twice[name].trainings, twice[name].gib) == (2 * once[name].trainings, once[name].gib)
    assert once["table5"].hours < twice["table5"].hours < 2 * once["table5"].hours  # CLIP is tested once


def test_shared_runs_are_made_once_in_all():
    found, machine = rows(PAPER, here()), here()
    targets = [TARGETS[name] for name in PAPER_TARGETS if name in TARGETS]
    configs = {one for target in targets for part in estimates.rounds(target, PAPER) for one in part}
    assert found["all"].hours == pytest.approx(sum(spent(one, machine) for one in configs) / 3600)
    apart = sum(found[name].hours for name in PAPER_TARGETS if name in TARGETS)
    assert found["all"].hours < apart - found["table8"].hours / 2  # table6 and table7 test what table8 trains
    assert found["all"].gib == max(row.gib for row in found.values() if row.target != "readings")


def test_processes_share_the_hours_but_not_a_run():
    one, four = rows(PAPER, here()), rows(PAPER, here(4))
    assert one["table5"].hours / 4 <= four["table5"].hours < 1.02 * one["table5"].hours / 4
    every = [config for part in estimates.rounds(TARGETS["table8"], PAPER) for config in part]
    longest = max(spent(config, here()) for config in every)
    assert rows(PAPER, here(64))["table8"].hours == pytest.approx(longest / 3600)
    assert estimates.makespan([3.0, 3.0, 2.0, 2.0, 2.0], 2) == 7.0 and estimates.makespan([], 2) == 0.0


def config(variant: str, dataset: str = "hmdb51", **changes) -> RunConfig:
    return replace(RunConfig(dataset, 16, 0, model=ModelConfig(**VARIANTS[variant])), **changes)


def spent(one: RunConfig, machine: Speed) -> float:
    return sum(estimates.seconds(one, machine))


def test_a_run_costs_its_steps_its_videos_and_its_views():
    machine = here()
    for variant in ("baseline", "mcb", "full"):
        one, price = config(variant), cost(speeds.kind_of("hmdb51", config(variant).model))
        train, test = estimates.seconds(one, machine)
        # 50 epochs of 26 batches, the last of 16 videos; 4 clips x 3 crops of 1,530 videos
        assert train == pytest.approx(50 * (26 * price.step + 16 * 51 * price.video)), variant
        assert test == pytest.approx(price.once + 12 * 1530 * price.view), variant
    controls = config("full", evaluation=replace(PAPER.evaluation, controls=True))
    views = [estimates.seconds(each, machine)[1] - price.once for each in (config("full"), controls)]
    assert views[1] == pytest.approx(4 * views[0])  # shuffled, reversed and repeated too


def test_a_transfer_tests_the_whole_list_and_ten_halves():
    """Half of the classes, so half of the videos, each against half of the texts."""
    moved = config("full", k=None, transfer=Transfer("ucf101", 2))
    price = cost(speeds.kind_of("ucf101", moved.model))
    train, test = estimates.seconds(moved, here())
    assert train == 0 and test == pytest.approx(price.once + 12 * 3734 * (1 + 10 / 4) * price.view)


def test_words_and_rates_cost_nothing_and_sizes_do():
    def kind(**changes) -> str:
        return str(speeds.kind_of("hmdb51", replace(FULL, **changes)))

    assert kind() == kind(prompt="some other words of it") == kind(norm_order="post", tau=0.01, heads=4)
    sizes: list[dict] = [
        {},
        {"frames": 16},
        {"step": 2},
        {"prompt": "a b"},
        {"mcb": False},
        {"adapter_width": 0},
    ]
    assert len({kind(**changes) for changes in sizes}) == len(sizes)
    static = {"map": False, "mcb": False}
    assert kind(**static) == kind(**static, prompt="a", adapter_width=0)


@pytest.mark.parametrize(
    "settings", [{"epochs": 3}, {"epochs": None, "steps": 7}, {"epochs": None, "steps": 50}]
)
@pytest.mark.parametrize("videos", [5, 32, 33, 100])
def test_videos_seen_are_those_of_the_batches(settings, videos):
    train = TrainConfig(**settings)
    store = FeatureStore(Path("none"), np.zeros((videos, 4, 8, 1), np.float16), train.crops, pd.DataFrame())
    batches = [
        loop.batch_at(step, videos, train, 0, store, 8)[0] for step in range(train.total_steps(videos))
    ]
    assert estimates.seen(train, videos) == sum(map(len, batches))


# --- the measuring ------------------------------------------------------------------------------------------


def test_the_speed_is_measured_once_for_each_model_and_kept(monkeypatch, cache):
    asked = []

    def measure(backbone, *_):
        asked.append(backbone.name)
        return here(pictures=10.0 * len(asked))

    def pictures(name: str = "ViT-B-16") -> float:
        return speeds.speed(BackboneConfig(name), paper_kinds())[0].pictures

    monkeypatch.setattr(speeds, "measure", measure)
    assert [pictures(name) for name in ("ViT-B-16", "ViT-B-32", "ViT-B-16")] == [10.0, 20.0, 10.0]
    assert asked == ["ViT-B-16", "ViT-B-32"]
    found, where = speeds.speed(BackboneConfig(), paper_kinds()[:3])  # some of what is known
    assert found == here(pictures=10.0) and len(asked) == 2
    file, key = cache / "speed.json", f"ViT-B-16 on {where}"
    whole = json.loads(file.read_text())
    assert set(whole) == {f"{name} on {where}" for name in asked}
    costs = whole[key]["speed"]["costs"]
    some = next(iter(costs))
    for broken in (  # each is measured again
        "[]", "{", "[[1]]", json.dumps({key: 3.5}), json.dumps({key: {"code": whole[key]["code"]}}),
        json.dumps({key: whole[key] | {"code": "of another version"}}),
        *(json.dumps({key: whole[key] | {"speed": whole[key]["speed"] | changed}}) for changed in (
            {"pictures": 0.0}, {"pictures": "fast"}, {"jobs": 0}, {"costs": {}}, {"costs": 3},
            {"costs": costs | {some: costs[some] | {"view": -1.0}}},
            {"costs": costs | {some: costs[some] | {"step": float("nan")}}},
            {"costs": costs | {some: costs[some] | {"unknown": 1.0}}},
        )),
    ):  # fmt: skip
        before = len(asked)
        file.write_text(broken)
        assert pictures() == 10.0 * (before + 1), broken
        assert pictures() == 10.0 * len(asked) and len(asked) == before + 1
    monkeypatch.setattr(speeds, "_hardware", lambda device: "another machine")
    assert pictures() == 10.0 * len(asked) and len(asked) == before + 2


def test_measuring_takes_every_process_and_the_real_training():
    models = [CLIP, ModelConfig(**VARIANTS["baseline"]), FULL]
    kinds = [speeds.kind_of("hmdb51", model) for model in models]
    found = speeds.measure(
        BackboneConfig(TINY, None), "cpu", "float32", kinds, {"hmdb51": ["run", "wave", "run fast"]}
    )
    assert Speed.read(json.loads(json.dumps(asdict(found)))) == found
    assert found.pictures > 1 and found.jobs == default_jobs()
    clip, baseline, full = (found[kind] for kind in kinds)
    assert clip.step == clip.video == 0 < baseline.step + baseline.video  # nothing to train
    assert full.view > 0 and full.gib > 0.05


@pytest.mark.parametrize(("each", "fixed"), [(0.01, 0.05), (0.0, 0.02)])
def test_fixed_and_growing_seconds_are_told_apart(each, fixed, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speeds.time, "perf_counter", lambda: now[0])

    def work(videos: int) -> None:
        now[0] += fixed + each * videos

    assert speeds._fixed_and_each(work) == pytest.approx((fixed, each))


def test_list_says_gigabytes_and_hours(monkeypatch, capfd):
    monkeypatch.setattr(speeds, "measure", lambda *_: here(2))
    assert main(["list", "--profile", "paper"]) == 0
    said = capfd.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("kinetics400  "))
    assert row.split()[1:] == ["260,325", "33,321,600", "34.1", "68.2", "9.3"]
    assert "hours of encoding alone, at 1,000.0 pictures/s as measured on" in said
    table = {
        line.split()[0]: line.split()[1:]
        for line in said.splitlines()
        if re.match(r"\w+ +[\d,]+ +[\d,]+ +\S+ +\S+$", line)
    }
    assert list(table) == [*TARGETS, "all"]
    for row in estimates.forecast(PAPER, here(2)):
        assert table[row.target] == [
            f"{row.trainings:,}", f"{row.tests:,}", f"{row.hours:,.1f}", f"{row.gib:.1f}",
        ]  # fmt: skip
    assert "hours of 2 processes at once" in said
    assert main(["list", "--profile", "quick"]) == 0 and "\nall " in capfd.readouterr().out
    assert main(["list"]) == 0 and "hours here" not in capfd.readouterr().out
    assert main(["list", "--profile", "nonsense"]) == 2
    assert capfd.readouterr().err.count("\n") == 1


# --- doctor -------------------------------------------------------------------------------------------------


def found(*findings: doctor.Finding) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in findings}


def test_doctor_counts_data_and_says_how_to_get_what_is_missing(tmp_path):
    build_ucf(tmp_path / "data/ucf101", b"no video, but there")
    build_hmdb(tmp_path / "data/hmdb51", b"no video, but there")
    gone = next((tmp_path / "data/hmdb51/videos").rglob("*_1.avi"))
    gone.unlink()
    about = found(*doctor.look(Options(data_root=tmp_path / "data")))
    assert not about["ucf101"].fault and "13,320 of 13,320 videos, 101 classes" in about["ucf101"].text
    assert about["hmdb51"].fault and "6,765 of 6,766 videos" in about["hmdb51"].text
    fetch = f"./reproduce.sh data hmdb51 --data-root {tmp_path / 'data'}"
    assert f"{fetch} says what is missing" in about["hmdb51"].text
    assert doctor.verdict([*about.values()], tmp_path) == f"To be mended: hmdb51. Next: {fetch}"
    assert not about["kinetics400"].fault and "./reproduce.sh data kinetics400" in about["kinetics400"].text
    without = doctor.look(Options())
    assert "not looked for" in found(*without)["ucf101"].text
    assert doctor.verdict(without).endswith("needs no data. Next: ./reproduce.sh table5")


def test_doctor_knows_the_weights_by_their_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "not here; fetched from the hub at first use" in found(*doctor.look(Options()))["weights"].text
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    said = found(*doctor.look(Options(pretrained=str(file))))["weights"].text
    assert hashlib.sha256(b"weights").hexdigest() in said and str(file) in said
    assert "nothing to fetch" in found(*doctor.look(Options(backbone=TINY)))["weights"].text
    for wrong, said in (
        ({"pretrained": str(tmp_path / "absent.safetensors")}, "absent.safetensors: no such file"),
        ({"pretrained": "nosuchtag"}, "has no such weights"),
        ({"backbone": "NoSuchNet"}, "'NoSuchNet' is unknown"),
    ):
        with pytest.raises(InputError, match=said):
            doctor.look(Options(**wrong))
    with pytest.raises(InputError, match="absent: no such folder"):
        doctor.look(Options(data_root=tmp_path / "absent"))


def test_doctor_fails_where_data_are_incomplete(tmp_path, capfd):
    (tmp_path / "hmdb51/videos").mkdir(parents=True)
    assert main(["doctor", "--data-root", str(tmp_path)]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert any(line.startswith("hmdb51 ") and "./reproduce.sh data hmdb51" in line for line in lines)


def test_the_decoder_audit_through_the_command(tmp_path, capfd):
    for seed in range(3):
        write_video(tmp_path / f"{seed}.avi", seed)
    assert main(["doctor", "--decoders", str(tmp_path), "--sample", "2"]) == 0
    assert "2 videos, 18 frames of them compared" in capfd.readouterr().out
    assert main(["doctor", "--decoders", str(tmp_path / "absent")]) == 2
    assert "absent: no such folder" in capfd.readouterr().err
