"""Gigabytes and hours before extraction, and what `doctor` finds and says how to get."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from official import build_hmdb, build_ucf
from test_features import write_video

from flowclip_core import doctor
from flowclip_core.__main__ import main
from flowclip_core.config import PROFILES, TINY, BackboneConfig
from flowclip_core.errors import InputError
from flowclip_core.experiments import estimates
from flowclip_core.experiments.runs import Options


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_kinetics_takes():
    hmdb, ucf, kinetics = estimates.of_profile(PROFILES["paper"], 1000.0)
    assert (hmdb.videos, ucf.videos) == (6766, 13320) and 250_000 < kinetics.videos < 270_000
    for one in (hmdb, ucf, kinetics):
        assert one.pictures == one.videos * 32 * 4 and one.bytes == one.pictures * 512 * 2
        assert one.hours == pytest.approx(one.pictures / 3.6e6)
    assert estimates.of_profile(PROFILES["demo"], 1000.0) == estimates.text(PROFILES["demo"]) == []


def test_the_speed_is_measured_once_for_each_model_and_kept(monkeypatch, cache):
    asked = []

    def measure(backbone, device, precision):
        asked.append(backbone.name)
        return 10.0 * len(asked)

    monkeypatch.setattr(estimates, "measure", measure)
    names = ("ViT-B-16", "ViT-B-32", "ViT-B-16")
    assert [estimates.speed(BackboneConfig(name))[0] for name in names] == [10.0, 20.0, 10.0]
    assert asked == ["ViT-B-16", "ViT-B-32"]
    (cache / "speed.json").write_text("[]")  # no file of ours
    assert estimates.speed(BackboneConfig())[0] == 30.0


def test_measuring_loads_the_model_in_every_lane():
    assert estimates.measure(BackboneConfig(TINY, None), "cpu", "float32") > 1


def test_list_says_gigabytes_and_hours(monkeypatch, capfd):
    monkeypatch.setattr(estimates, "measure", lambda *_: 1000.0)
    assert main(["list", "--profile", "paper"]) == 0
    said = capfd.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("kinetics400  "))
    assert row.split()[1:] == ["260,325", "33,321,600", "34.1", "68.2", "9.3"]
    assert "hours of encoding alone, at 1,000.0 pictures/s as measured on" in said


# --- doctor ---------------------------------------------------------------------------------------------------


def found(*findings: doctor.Finding) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in findings}


def test_doctor_counts_data_and_says_how_to_get_what_is_missing(tmp_path):
    build_ucf(tmp_path / "data/ucf101", b"no video, but there")
    build_hmdb(tmp_path / "data/hmdb51", b"no video, but there")
    gone = next((tmp_path / "data/hmdb51/videos").rglob("*_1.avi"))
    gone.unlink()
    about = found(*doctor.look(Options(data_root=tmp_path / "data")))
    assert not about["ucf101"].fault and "13,320 of 13,320 videos, 101 classes" in about["ucf101"].said
    assert about["hmdb51"].fault and "6,765 of 6,766 videos" in about["hmdb51"].said
    assert "data hmdb51 --data-root DIR says what is missing" in about["hmdb51"].said
    assert not about["kinetics400"].fault and "./reproduce.sh data kinetics400" in about["kinetics400"].said
    assert "not looked for" in found(*doctor.look(Options()))["ucf101"].said


def test_doctor_knows_the_weights_by_their_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "not here; fetched from the hub at first use" in found(*doctor.look(Options()))["weights"].said
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    said = found(*doctor.look(Options(pretrained=str(file))))["weights"].said
    assert hashlib.sha256(b"weights").hexdigest() in said and str(file) in said
    assert "nothing to fetch" in found(*doctor.look(Options(backbone=TINY)))["weights"].said
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


def test_the_speed_file_is_plain_json(cache, monkeypatch):
    monkeypatch.setattr(estimates, "measure", lambda *_: 5.0)
    rate, where = estimates.speed(BackboneConfig())
    assert json.loads((cache / "speed.json").read_text()) == {f"ViT-B-16 on {where}": rate}
