"""Gigabytes and hours before extraction and training, and what `doctor` finds and says how to get."""

from __future__ import annotations

import hashlib
import inspect
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
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.experiments import estimates
from flowclip_kit.experiments import speed as speeds
from flowclip_kit.experiments.catalogue import CLIP, FULL, PAPER_TARGETS, READINGS, TARGETS, VARIANTS
from flowclip_kit.experiments.experiment import Options
from flowclip_kit.experiments.run_config import RunConfig, Transfer
from flowclip_kit.experiments.speed import Speed
from flowclip_kit.profiles import PROFILES, BackboneConfig


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def here(jobs: int = 1, **changes) -> Speed:
    """A made-up machine: uneven prices, so that no two parts can stand for each other."""
    made = Speed(
        pictures=1000.0,
        jobs=jobs,
        train=(0.1, 0.001, 0.00001, 0.0003, 0.007, 0.002),
        view=(0.05, 0.0004, 0.000004, 0.0001, 0.003, 0.0009),
        train_bytes=(1e6, 1e5, 1e2, 2e4, 3e5, 7e5),
        view_bytes=(1e6, 1e4, 1e1, 2e3, 3e4, 2e4),
        base_bytes=1.5 * 2**30,
        rows=1600.0,
        tokens={"hmdb51": 177, "ucf101": 409, "kinetics400": 1578},
    )
    return replace(made, **changes)


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
        assert estimates.OFFICIAL[name].classes == facts.classes == len(speeds.official()[name])
        assert all(0 < test < train for train, test in facts.expected.values())
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
    work = [estimates.passes(one, estimates.OFFICIAL, machine.tokens) for one in configs]
    assert found["all"].hours == pytest.approx(sum(estimates.seconds(one, machine) for one in work) / 3600)
    apart = sum(found[name].hours for name in PAPER_TARGETS if name in TARGETS)
    assert found["all"].hours < apart - found["table8"].hours / 2  # table6 and table7 test what table8 trains
    assert found["all"].gib == max(row.gib for row in found.values() if row.target != "readings")


def test_processes_share_the_hours_but_not_a_run():
    one, four = rows(PAPER, here()), rows(PAPER, here(4))
    assert one["table5"].hours / 4 <= four["table5"].hours < 1.02 * one["table5"].hours / 4
    longest = max(
        estimates.seconds(estimates.passes(config, estimates.OFFICIAL, here().tokens), here())
        for part in estimates.rounds(TARGETS["table8"], PAPER)
        for config in part
    )
    assert rows(PAPER, here(64))["table8"].hours == pytest.approx(longest / 3600)
    assert estimates.makespan([3.0, 3.0, 2.0, 2.0, 2.0], 2) == 7.0 and estimates.makespan([], 2) == 0.0


def config(variant: str, dataset: str = "hmdb51", **changes) -> RunConfig:
    return replace(RunConfig(dataset, 16, 0, model=ModelConfig(**VARIANTS[variant])), **changes)


def spent(one: RunConfig, machine: Speed, sizes=estimates.OFFICIAL) -> float:
    return estimates.seconds(estimates.passes(one, sizes, machine.tokens), machine)


def test_more_classes_cost_more_where_texts_follow_the_video():
    """As many videos, a larger tree: it costs static texts once, motion-aware ones for every video."""
    machine, larger = here(), here(tokens={"hmdb51": 277})
    sizes = {"hmdb51": estimates.Size(51, {1: (3570, 1530)})}
    texts = machine.view[5] * 100
    for variant in ("baseline", "mmb", "mcb"):
        assert spent(config(variant), larger, sizes) - spent(
            config(variant), machine, sizes
        ) == pytest.approx(texts)
    trained, viewed = 50 * 16 * 51, 12 * 1530
    for variant in ("mmb+map", "full"):
        more = spent(config(variant), larger, sizes) - spent(config(variant), machine, sizes)
        assert more == pytest.approx(100 * (trained * machine.train[5] + viewed * machine.view[5]))
    # Prompts that no motion shifts are the same for all videos of a step.
    still = config("full", model=replace(FULL, adapter_width=0))
    more = spent(still, larger, sizes) - spent(still, machine, sizes)
    assert more == pytest.approx(100 * (50 * 26 * machine.train[5] + viewed / 64 * machine.view[5]))
    # The communication block looks at every class.
    twice = {"hmdb51": estimates.Size(102, {1: (3570, 1530)})}
    closed = config("mcb", k=None)
    assert spent(closed, machine, twice) - spent(closed, machine, sizes) == pytest.approx(
        51 * (50 * 3570 * machine.train[3] + viewed * machine.view[3])
    )
    assert spent(config("baseline", k=None), machine, twice) == spent(
        config("baseline", k=None), machine, sizes
    )
    smaller = here(tokens=here().tokens | {"kinetics400": 409})
    assert rows(PAPER, here())["table4"].hours > rows(PAPER, smaller)["table4"].hours


def test_what_a_video_asks_for():
    """A step's share, T + L, T² + L², K, trees, their nodes."""
    for variant, asked in (
        ("baseline", (1 / 32, 8, 64, 0, 0, 0)),
        ("mcb", (1 / 32, 8, 64, 51, 0, 0)),
        ("mmb", (1 / 32, 8 + 22, 64 + 484, 0, 0, 0)),
        ("full", (1 / 32, 8 + 22, 64 + 484, 51, 1, 177)),
    ):
        assert tuple(speeds.amounts(ModelConfig(**VARIANTS[variant]), 51, 177, 32)) == asked, variant
    assert tuple(speeds.amounts(CLIP, 51, 177, 64)) == (1 / 64, 0, 0, 0, 0, 0)


def test_a_transfer_tests_eleven_lists_of_classes():
    moved = config("full", k=None, transfer=Transfer("ucf101", 2))
    work = estimates.passes(moved, estimates.OFFICIAL, here().tokens)
    assert len(work) == 11 and not any(one.train for one in work)
    assert sum(one.videos for one in work) == pytest.approx(12 * 3734 * (1 + 10 / 2))
    assert {one.asked[3] for one in work} == {101, 50}
    assert sorted({one.asked[5] for one in work}) == [208, 409]  # six nodes before the classes


def test_controls_are_tested_too():
    plain, controls = config("full"), config("full", evaluation=replace(PAPER.evaluation, controls=True))
    passes = [estimates.passes(each, estimates.OFFICIAL, here().tokens) for each in (plain, controls)]
    views = [sum(one.videos for one in some if not one.train) for some in passes]
    assert views == [12 * 1530, 4 * 12 * 1530]


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


def test_memory_holds_one_pass_of_trees_and_what_is_summed_at_once():
    def peak(name: str, machine: Speed) -> float:
        one = config(name, "kinetics400", k=None, train=PAPER.kinetics)
        return estimates.gib(estimates.passes(one, estimates.OFFICIAL, machine.tokens), machine)

    assert (
        loop.SUMMED,
        inspect.signature(loop.score).parameters["batch"].default,
    ) == (speeds.TRAIN_BATCH, speeds.TEST_BATCH)
    asked = speeds.amounts(ModelConfig(), 400, 1578, 256)
    assert (speeds.held(asked, 32, 6400)[:4] == 32 * asked[:4]).all()  # all but the trees
    assert speeds.held(asked, 32, 6400)[4:] == pytest.approx(
        [4, 4 * 1578]
    )  # 6400 nodes are four trees of 1578
    assert speeds.held(asked, 32, 10)[4:] == pytest.approx([1, 1578])  # one at least
    assert speeds.held(asked, 2, 6400)[4:] == pytest.approx([2, 2 * 1578])  # two videos have two
    small, large = here(rows=1600.0), here(rows=6400.0)
    one = speeds.held(asked, 32, 1600) @ small.train_bytes
    assert peak("full", small) == pytest.approx(1.5 + one / 2**30)
    assert peak("full", large) > peak("full", small) > peak("mcb", small) > peak("baseline", small) > 1.5
    assert peak("mcb", large) == peak("mcb", small)


# --- the measuring ------------------------------------------------------------------------------------------


def test_the_speed_is_measured_once_for_each_model_and_kept(monkeypatch, cache):
    asked = []

    def measure(backbone, device, precision, lists):
        asked.append(backbone.name)
        return here(pictures=10.0 * len(asked))

    monkeypatch.setattr(speeds, "measure", measure)
    names = ("ViT-B-16", "ViT-B-32", "ViT-B-16")
    assert [speeds.speed(BackboneConfig(name))[0].pictures for name in names] == [10.0, 20.0, 10.0]
    assert asked == ["ViT-B-16", "ViT-B-32"]
    found, where = speeds.speed(BackboneConfig())
    assert found == here(pictures=10.0) and len(asked) == 2
    file, key = cache / "speed.json", f"ViT-B-16 on {where}"
    whole = json.loads(file.read_text())
    assert set(whole) == {f"{name} on {where}" for name in names}
    for broken in (  # each is measured again
        "[]", "{", "[[1]]", json.dumps({key: 3.5}), json.dumps({key: {"code": whole[key]["code"]}}),
        json.dumps({key: whole[key] | {"code": "of another version"}}),
        *(json.dumps({key: whole[key] | {"speed": whole[key]["speed"] | {name: value}}}) for name, value in (
            ("pictures", 0.0), ("pictures", "fast"), ("train", [1.0]), ("train", None),
            ("view", [-1.0, *range(1, 6)]), ("view", [float("nan")] * 6), ("jobs", 0), ("tokens", 3),
            ("tokens", {}), ("unknown", 1),
        )),
    ):  # fmt: skip
        before = len(asked)
        file.write_text(broken)
        assert speeds.speed(BackboneConfig())[0].pictures == 10.0 * (before + 1), broken
        assert speeds.speed(BackboneConfig())[0].pictures == 10.0 * len(asked) and len(asked) == before + 1
    monkeypatch.setattr(speeds, "_hardware", lambda device: "another machine")
    assert speeds.speed(BackboneConfig())[0].pictures == 10.0 * len(asked) and len(asked) == before + 2


def test_measuring_takes_every_process():
    lists = {role: ["run", "wave", "run fast"] for role in PAPER.roles.values()}
    found = speeds.measure(BackboneConfig(TINY, None), "cpu", "float32", lists, 0.01)
    assert Speed.read(json.loads(json.dumps(asdict(found)))) == found
    assert found.pictures > 1 and found.jobs == default_jobs() and found.base_bytes > 1e8
    assert set(found.tokens) == set(lists) and 6 + 6 <= found.tokens["hmdb51"] < 77


def test_the_probes_tell_all_prices_apart(small):
    """Costs made of known prices give these prices back."""
    tokens, prices = {"short": 177, "long": 420}, np.array(here().train)
    for batch in (2, 32):
        asked = np.array([
            speeds.amounts(model, {"short": 51, "long": 100}[size], tokens[size], batch if model.map else 32)
            for model, size in speeds.PROBES
        ])  # fmt: skip
        assert speeds._fit(asked / (asked @ prices)[:, None], np.ones(len(asked))) == pytest.approx(
            prices, rel=1e-6
        )


def test_a_probe_runs_the_real_training_and_test(small):
    names = {
        "short": ["run", "wave"],
        "long": [f"{word} {number}" for word in ("kick", "hop") for number in range(9)],
    }
    found = speeds.probe(lambda: small, names, 0.01)
    assert {name: len(prices) for name, prices in found.items()} == {
        "train": 6, "view": 6, "train_bytes": 6, "view_bytes": 6, "base_bytes": 1, "rows": 1,
    }  # fmt: skip
    assert all(price >= 0 for prices in found.values() for price in prices) and found["rows"][0] > 1
    assert sum(found["train"]) > 0 < sum(found["view"])


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
