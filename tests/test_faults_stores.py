"""Damaged stores, records and states are named and made again; equal names, sizes and times are not equal
videos."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from damage import changed, cheap, copy, pristine, record, store, tables, videos, words
from fault_table import Fault, answer, check

from flowclip_kit import doctor
from flowclip_kit.datasets import feature_store as features
from flowclip_kit.datasets.feature_store import FeatureStore

__all__ = ["cheap", "pristine"]  # fixtures


def in_store(file: str, change: Callable) -> Callable[[Path], list[str]]:
    def given(folder: Path) -> list[str]:
        changed(store(folder) / file, change)
        return words(folder)

    return given


def in_array(index: object, value: object) -> Callable[[Path], list[str]]:
    def change(array: np.ndarray) -> None:
        array[index] = value

    return in_store("features.npy", change)


def in_record(change: Callable[[dict], None], seal: bool = False) -> Callable[[Path], list[str]]:
    """A changed record; without `seal` as one that was made before there were seals."""

    def given(folder: Path) -> list[str]:
        changed(record(folder), lambda said: None if seal else said.pop("seal", None))
        changed(record(folder), change)
        return words(folder)

    return given


def swapped_rows(array: np.ndarray) -> np.ndarray:
    return array[[1, 0, *range(2, len(array))]]


def flip(folder: Path) -> list[str]:
    path = store(folder) / "features.npy"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return words(folder)


def swap_records(folder: Path) -> list[str]:
    one, other = record(folder, 0), record(folder, 1)
    one.rename(one.with_suffix(".x"))
    other.rename(one)
    one.with_suffix(".x").rename(other)
    return words(folder)


def another_key(folder: Path) -> list[str]:
    shutil.copy(record(folder, 1), record(folder, 0))
    return words(folder)


def drop(name: str) -> Callable[[dict], None]:
    def change(said: dict) -> None:
        del said[name]

    return change


def wrong_guesses(said: dict) -> None:
    said["predictions"] = {name: [a, 1 - a, *more] for name, (a, _, *more) in said["predictions"].items()}
    said["scores"]["top1"] = 100.0


def other_guess(said: dict) -> None:
    name = next(iter(said["predictions"]))
    said["predictions"][name][1] = 1 - said["predictions"][name][1]


def garbage(suffix: str, content: bytes) -> Callable[[Path], list[str]]:
    """A resume state of the first run, whose record is gone."""

    def given(folder: Path) -> list[str]:
        trained = (
            path
            for path in (folder / "results/runs").glob("*.json")
            if json.loads(path.read_text())["losses"]
        )
        path = next(trained)
        path.unlink()
        path.with_suffix(suffix).write_bytes(content)
        return words(folder)

    return given


def broken_seal(folder: Path) -> list[str]:
    (folder / "results/smoke/.table5.made").write_bytes(b"\xff\xfe\0")
    return words(folder)


def edited_summary(folder: Path) -> list[str]:
    path = folder / "results/smoke/table5.summary.csv"
    path.write_text(path.read_text().replace("0", "1"))
    return words(folder)


def other_weights(folder: Path) -> list[str]:
    (path,) = (folder / "results/runs").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)
    return words(folder)


AGAIN, REMADE = (
    r"features-?.*made again|/folder-\w+: .*features are made again",
    r"\.json: .*the run is made again",
)
STORE = {
    "NaN in all features": in_array(..., np.nan),
    "NaN in one video's frames": in_array((3, 0, 5), np.nan),
    "all zeros": in_array(..., 0),
    "16 instead of 32 frames": in_store("features.npy", lambda array: array[:, :, :16]),
    "rows of features swapped": in_store("features.npy", swapped_rows),
    "index rows shuffled": in_store("index.csv", lambda rows: rows[::-1]),
    "an index row doubled": in_store("index.csv", lambda rows: [rows[0], *rows]),
    "an index row missing": in_store("index.csv", lambda rows: rows[1:]),
    "one flipped bit": flip,
    "another key": in_store("about.json", lambda said: said.update(weights="other")),
}
RECORD = {
    "the file of another key": another_key,
    "predictions edited": in_record(other_guess),
    "predictions edited, sealed": in_record(other_guess, seal=True),
    "a better score": in_record(lambda said: said["scores"].update(top1=99.5)),
    "all guesses wrong": in_record(wrong_guesses),
    "NaN for a score": in_record(lambda said: said["scores"].update(top1=float("nan"))),
    "losses NaN": in_record(lambda said: said.update(losses=[float("nan")])),
    "seconds NaN": in_record(lambda said: said["seconds"].update(train=float("nan"))),
    "a score that is a word": in_record(lambda said: said["scores"].update(top1="50")),
    "a list of scores": in_record(lambda said: said.update(scores=[50.0])),
    **{f"without {name}": in_record(drop(name)) for name in ("predictions", "software", "seconds")},
}
FAULTS = [
    *(Fault("E13", f"store: {name}", given, 0, AGAIN) for name, given in STORE.items()),
    *(Fault("E13", f"record: {name}", given, 0, REMADE) for name, given in RECORD.items()),
    Fault("E13", "two records swapped", swap_records, 0, REMADE),
    Fault(
        "E13",
        "garbage for a resume state",
        garbage(".partial", b"garbage" * 9),
        0,
        r"\.partial: not the state.*anew",
    ),
    Fault("E13", "an empty resume state", garbage(".partial", b""), 0, r"\.partial: not the state.*anew"),
    Fault("E13", "garbage for a seal", broken_seal, 0, "written:"),
    Fault("E13", "a changed summary", edited_summary, 0, "written:"),
    Fault(
        "E13", "other kept weights", other_weights, 0, r"\.safetensors: these are not the weights.*made again"
    ),
]


@pytest.fixture(scope="module")
def shared(pristine, tmp_path_factory) -> Path:
    """A copy that each fault leaves whole: what it damaged has been made again."""
    return copy(pristine, tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_damage_is_named_and_made_again(fault, pristine, shared, monkeypatch, capsys):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(shared / "cache"))
    if fault is FAULTS[0]:
        time.sleep(0.1)  # past a tick of the file system's clock
        assert answer(capsys, *words(shared))[0] == 0  # found whole, and noted as such
    check(fault, shared, capsys)
    assert tables(shared) == tables(pristine)
    time.sleep(0.1)
    code, _, err = answer(capsys, *words(shared))
    assert code == 0 and "again" not in err  # said once


def test_A3_videos_of_equal_names_sizes_and_times_have_features_of_their_own(
    pristine, tmp_path, monkeypatch, capsys
):
    copy(pristine, tmp_path)
    other = videos(tmp_path / "other", seed=500)
    listed = sorted(path.relative_to(other) for path in other.rglob("*.avi"))
    stats = [[(root / path).stat() for path in listed] for root in (tmp_path / "data", other)]
    here, there = ([(stat.st_size, stat.st_mtime) for stat in group] for group in stats)
    assert here == there
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    first = store(tmp_path)
    code, _, err = answer(capsys, *words(tmp_path, "other"))
    assert code == 0 and "features of other videos of the same names and sizes" in err
    keys = {path.stem for path in (pristine / "results/runs").glob("*.json")}
    both = {path.stem for path in (tmp_path / "results/runs").glob("*.json")}
    assert keys < both and len(both) == 2 * len(keys)
    stores = sorted(path.parent for path in (tmp_path / "cache/features").glob("*/about.json"))
    assert first in stores and len(stores) == 2
    arrays = [np.load(folder / "features.npy") for folder in stores]
    assert not np.array_equal(*arrays)
    before = {path: path.stat().st_ino for path in (folder / "features.npy" for folder in stores)}
    for data in ("data", "other", "data"):  # neither takes the other's, or its place
        assert answer(capsys, *words(tmp_path, data))[0] == 0
    assert {path: path.stat().st_ino for path in before} == before
    assert tables(tmp_path)["table5.csv"] == tables(pristine)["table5.csv"]


@pytest.mark.parametrize("how", ["moved", "copied", "touched"])
def test_A3_moved_copied_or_touched_videos_are_read_once_more_and_not_encoded(
    how, pristine, tmp_path, monkeypatch, capsys
):
    copy(pristine, tmp_path)
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    assert answer(capsys, *words(tmp_path))[0] == 0
    if how == "touched":
        for path in (tmp_path / "data").rglob("*.avi"):
            path.touch()
    else:
        (shutil.move if how == "moved" else shutil.copytree)(tmp_path / "data", tmp_path / "there")
    read, inode = [], (store(tmp_path) / "features.npy").stat().st_ino
    monkeypatch.setattr(features, "sha256", features.sha256)
    from flowclip_kit.datasets import contents

    monkeypatch.setattr(
        contents, "sha256", lambda path, sha256=contents.sha256: read.append(path) or sha256(path)
    )
    time.sleep(0.1)  # past a tick of the file system's clock
    counts = []
    for _ in range(2):
        assert answer(capsys, *words(tmp_path, "data" if how == "touched" else "there"))[0] == 0
        counts.append(len(read))
    assert counts == [10, 10]  # once
    assert (store(tmp_path) / "features.npy").stat().st_ino == inode
    assert tables(tmp_path) == tables(pristine)


def test_E13_a_store_without_sums_gets_them_unless_it_is_damaged(pristine, tmp_path, monkeypatch, capsys):
    copy(pristine, tmp_path)
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    folder = store(tmp_path)
    sums = (folder / "sums.json").read_bytes()
    inode = (folder / "features.npy").stat().st_ino
    (folder / "sums.json").unlink()
    (folder / "looked.json").unlink(missing_ok=True)
    code, _, err = answer(capsys, *words(tmp_path))
    assert code == 0 and "again" not in err
    assert (folder / "sums.json").read_bytes() == sums and (folder / "features.npy").stat().st_ino == inode
    assert tables(tmp_path) == tables(pristine)


@pytest.mark.parametrize(
    "given",
    [STORE[name] for name in list(STORE)[:4]] + [STORE[f"index rows {name}"] for name in ("shuffled",)],
)
def test_E13_a_store_without_sums_that_no_encoding_leaves_is_made_again(
    given, pristine, tmp_path, monkeypatch, capsys
):
    copy(pristine, tmp_path)
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    (store(tmp_path) / "sums.json").unlink()
    code, _, err = answer(capsys, *given(tmp_path))
    assert code == 0 and "made again" in err
    assert tables(tmp_path) == tables(pristine)


def test_E13_what_is_whole_of_a_damaged_store_is_not_encoded_again(pristine, tmp_path, monkeypatch, capsys):
    from flowclip_kit.datasets import extraction

    copy(pristine, tmp_path)
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(extraction, "SHARD_VIDEOS", 3)
    monkeypatch.setattr(extraction.plan, "__defaults__", (3,))
    monkeypatch.setattr(
        extraction.ensure_features,
        "__kwdefaults__",
        {**extraction.ensure_features.__kwdefaults__, "shard_videos": 3},
    )
    read = []
    monkeypatch.setattr(
        extraction,
        "read_frames",
        lambda path, *a, real=extraction.read_frames, **o: read.append(path) or real(path, *a, **o),
    )
    given = in_array((1, 0, 5), 1.0)
    whole = (store(tmp_path) / "features.npy").read_bytes()
    code, _, err = answer(capsys, *given(tmp_path))
    assert code == 0 and "but for 7 videos" in err and len(read) == 3
    assert (store(tmp_path) / "features.npy").read_bytes() == whole


def test_E13_doctor_and_verify_read_stores_wholly_and_mend_nothing(pristine, tmp_path, monkeypatch):
    """Even where no file's stamp says that it changed, as when a disk forgets a bit."""
    copy(pristine, tmp_path)
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    folder = store(tmp_path)
    time.sleep(0.1)
    FeatureStore.open(folder)
    assert doctor.stores() == (1, []) and doctor.records(tmp_path / "results")[1] == []
    flip(tmp_path)
    looked = json.loads((folder / "looked.json").read_text())
    looked["files"]["features.npy"] = features.stamp(folder / "features.npy")
    (folder / "looked.json").write_text(json.dumps(looked))
    FeatureStore.open(folder)  # nothing shows
    count, (line,) = doctor.stores()
    assert count == 1 and "1 of 10 videos, first" in line
    in_record(other_guess)(tmp_path)
    assert record(tmp_path).name in doctor.records(tmp_path / "results")[1][0]


def test_E13_a_store_as_large_as_that_of_kinetics_opens_without_being_read(tmp_path):
    """68 GB that take no room: a look at them would take minutes."""
    folder, videos, shape = tmp_path / "kinetics400-0", 260_000, (4, 32, 1024)
    folder.mkdir()
    with (folder / "features.npy").open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (videos, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        try:
            file.truncate(file.tell() + 2 * videos * int(np.prod(shape)))
        except OSError:
            pytest.skip("no sparse files here")
    names = [f"train/{i:06}.mp4" for i in range(videos)]
    row = {"bytes": 2_000_000, "modified": 1_600_000_000_000_000_000, "sha256": "0" * 64, "frames": 300}
    index = pd.DataFrame({"name": names, **row, "decoder": "pyav"})[features.INDEX]
    index.to_csv(folder / "index.csv", index=False)
    pd.DataFrame(columns=features.FAILED).to_csv(folder / "failed.csv", index=False)
    crops = ["left", "centre", "right", "mirrored"]
    (folder / "about.json").write_text(json.dumps({"weights": "w", "frames": 32, "crops": crops}))
    hashes = [features.sha256(folder / name) for name in ("failed.csv", "about.json")]
    sums = features.sums_of(dict.fromkeys(names, "0" * 16), (videos, *shape), *hashes)
    (folder / "sums.json").write_text(json.dumps(sums))
    files = {
        name: features.stamp(folder / name)
        for name in ("features.npy", *features.TABLES, "about.json", "sums.json")
    }
    (folder / "looked.json").write_text(json.dumps({"files": files, "seal": sums["seal"]}))
    assert (folder / "features.npy").stat().st_size > 68e9
    started = time.process_time()
    found = FeatureStore.open(folder)
    assert found.features.shape == (videos, *shape) and found.seal == sums["seal"]
    assert not found.take(np.array([videos - 1]), np.array([[31]])).any()
    seconds = time.process_time() - started
    print(f"opened in {seconds:.2f} s of CPU time")
    assert seconds < 5
