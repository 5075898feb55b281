"""Official trees through the command line: counted, encoded, trained and tested under the profile for real
data.

A part of the classes, with all their videos and lists; the embedded model stands in for ViT-B/16.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from official import build_hmdb, build_ucf, hmdb_names, ucf_names
from test_table5 import Call

from flowclip_kit.datasets import formats
from flowclip_kit.demo.world import encode
from flowclip_kit.experiments.catalogue import VARIANTS

HMDB = ("brush_hair", "kick", "kick_ball")
UCF = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Both sets as `data` leaves them: 317 and 393 videos, each class of another colour."""
    root = tmp_path_factory.mktemp("data")
    build_hmdb(root / "hmdb51", True, classes=HMDB)
    build_ucf(root / "ucf101", True, classes=UCF)
    for folder, classes in ((root / "hmdb51/videos", HMDB), (root / "ucf101/UCF-101", UCF)):
        for number, name in enumerate(classes):
            content = encode(np.full((2, 16, 16, 3), 60 * number + 40, dtype=np.uint8))
            for path in (folder / name).iterdir():
                path.unlink()  # a link to one file
                path.write_bytes(content)
    return root


def run(data: Path, folder: Path, *arguments: str) -> pd.DataFrame:
    """A target's tidy table under the quick profile."""
    options = ("--profile", "quick", "--backbone", "tiny-clip", "--seeds", "1", "--data-root", str(data))
    options += ("--name", "some", "--results", str(folder / "results"))
    call = Call((*arguments, *options), folder, data / "cache").end()
    assert "Traceback" not in call.err
    return pd.read_csv(
        folder / f"results/quick/{arguments[0]}-some/{arguments[0]}.csv", keep_default_na=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("quick")


def test_table5_on_the_official_layouts(data, folder):
    table = run(data, folder, "table5", "-p", "k=[2,16]")
    top1 = table[(table["metric"] == "top1") & (table["variant"] != "clip")]
    assert len(top1) == 2 * len(VARIANTS) * 2 and {*top1["dataset"]} == {"hmdb51", "ucf101"}
    assert {*top1["seed"]} == {0} and {*top1["views"].astype(str)} == {"1x1"}
    about = json.loads((folder / "results/quick/table5-some/table5.provenance.json").read_text())["datasets"]
    sizes = {name: (found["classes"], found["train"], found["test"]) for name, found in about.items()}
    hmdb = formats.load("hmdb51", data / "hmdb51").splits[1]
    ucf = formats.load("ucf101", data / "ucf101").splits[1]
    assert sizes == {"hmdb51": (3, 210, 90), "ucf101": (3, len(ucf.train), len(ucf.test))}
    assert (len(hmdb.train), len(hmdb.test)) == (210, 90)
    assert len(ucf.train) + len(ucf.test) == sum(len(clips) for name in UCF for clips in ucf_names()[name])
    assert top1[top1["k"] == 16]["value"].astype(float).mean() > 45  # chance 33: colours can be told apart


def test_a_published_list_is_what_is_trained_on(data, folder):
    names = {name: hmdb_names()[name] for name in HMDB}
    train = {
        video.name.partition("/")[2] for video in formats.load("hmdb51", data / "hmdb51").splits[1].train
    }
    chosen = [(video, label) for label, name in enumerate(HMDB) for video in names[name] if video in train]
    chosen = [pair for label in range(3) for pair in [p for p in chosen if p[1] == label][:2]]
    listed = folder / "train1_few_shot_2.txt"
    listed.write_text("".join(f"{video} {label}\n" for video, label in chosen))
    run(data, folder, "table5", "--dataset", "hmdb51", "--few-shot-list", str(listed))
    records = [json.loads(path.read_text()) for path in (folder / "results/runs").glob("*.json")]
    replayed = [record for record in records if record["config"]["listed"]]
    assert len(replayed) == len(VARIANTS)
    for record in replayed:
        assert record["trained_on"] == [f"{HMDB[label]}/{video}" for video, label in chosen]


def test_table7_trains_on_one_set_and_tests_on_the_other(data, folder):
    table = run(data, folder, "table7", "-p", "epochs=2")
    top1 = table[(table["metric"] == "top1") & (table["variant"] != "clip")]
    ways = {("hmdb51", "UCF-101", 1), ("ucf101", "HMDB-51", 1)}
    assert {*zip(top1["dataset"], top1["trained_on"], top1["split"], strict=True)} == ways
    assert len(top1) == 2 * 2 and {*table["metric"]} >= {"top1", "top5", "top1_half"}


def test_other_class_names_are_another_run(data, folder):
    before = {path.stem for path in (folder / "results/runs").glob("*.json")}
    run(data, folder, "figure3a", "--dataset", "ucf101", "--class-names", "raw", "-p", "epochs=2")
    about = json.loads((folder / "results/quick/figure3a-some/figure3a.provenance.json").read_text())
    assert about["class_names"] == "raw"
    texts = formats.load("ucf101", data / "ucf101", class_names="raw").texts
    assert (
        texts == UCF and len({path.stem for path in (folder / "results/runs").glob("*.json")} - before) == 5
    )
