"""The command line's contract: bad input is one line on stderr and exit code 2, at once, with nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import huggingface_hub
import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from flowclip_core import FlowCLIP, ModelConfig, load_backbone
from flowclip_core.__main__ import main
from flowclip_core.demo import world
from flowclip_core.experiments import runs
from flowclip_core.experiments.tidy import TIDY
from flowclip_core.reporting import outputs

LABELS = ("--labels", "wave,clap")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder, and a cache that a refused command must not touch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A video of the demo world."""
    path = tmp_path_factory.mktemp("clip") / "wave.avi"
    path.write_bytes(world.encode(world.render("figures-h", "wave", 0)))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Untrained parts of the whole method on the embedded backbone, for three classes."""
    model = FlowCLIP(ModelConfig(), load_backbone(), ("wave", "clap", "sit down"))
    return model.save(tmp_path_factory.mktemp("checkpoint") / "three.safetensors")


@pytest.fixture
def refused(capfd):
    """Runs a command that must be refused; returns its one line."""

    def run(*arguments: object) -> str:
        before = set(Path().rglob("*"))
        assert main([str(argument) for argument in arguments]) == 2
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.startswith("reproduce.sh: ") and said.err.count("\n") == 1 and said.err.endswith("\n")
        assert set(Path().rglob("*")) == before, "a refused command left something behind"
        return said.err

    return run


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "TARGET"),
        ("table55", "table55"),
        ("table5 --frobnicate", "--frobnicate"),
        ("table5 --seed 1", "--seed"),  # no guessing at abbreviations
        ("table5 --profile huge", "--profile 'huge' is unknown; use demo, quick, paper"),
        ("table5 --profile smoke --dataset nowhere --data-root .", "nowhere"),
        ("table5 --profile smoke --dataset nowhere", "nowhere"),
        ("table5 --profile smoke --dataset folder", "--data-root"),
        ("table5 --profile smoke --dataset folder --data-root absent", "--data-root absent: no such folder"),
        ("table5 --profile smoke --data-root absent", "--data-root absent: no such folder"),
        ("table5 --profile paper", "--data-root"),
        ("table5 --profile paper --data-root absent", "--data-root absent: no such folder"),
        ("table5 --profile smoke --seeds 0", "--seeds: a whole number from 1 on is needed, got '0'"),
        ("table5 --profile smoke --seeds two", "'two'"),
        ("table5 --profile smoke --seeds -1", "--seeds"),
        ("table5 --profile smoke --jobs 0", "--jobs"),
        ("table5 --profile smoke --device tpu", "--device"),
        ("table5 --profile smoke --decoder ffmpeg", "--decoder"),
        ("table5 --profile smoke --backbone ViT-XXL --pretrained none", "'ViT-XXL' is unknown; use tiny-clip"),
        ("table5 --profile smoke --backbone ViT-B-16 --pretrained absent.pt", "--pretrained absent.pt: no such file"),
        ("table5 --profile smoke --backbone ViT-B-16 --pretrained laion9", "laion9"),
        ("table5 --profile smoke --pretrained openai", "tiny-clip brings its own weights"),
        ("list --profile huge", "huge"),
        ("predict", "video"),
        ("doctor now", "now"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(arguments, named, refused):
    assert named in refused(*arguments.split())


def test_cuda_is_refused_where_there_is_none(refused, monkeypatch, clip):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in (("table5", "--profile", "smoke"), ("predict", clip, *LABELS)):
        assert "--device cuda: torch finds no CUDA device" in refused(*command, "--device", "cuda")


@pytest.mark.parametrize("place", ["file", "file/inside"])
def test_a_results_folder_that_cannot_be_written_is_refused_before_any_work(place, refused):
    Path("file").write_text("")
    assert f"{place}: cannot be written" in refused("table5", "--profile", "smoke", "--results", place)


def test_weights_without_a_network_are_refused_at_once(refused, monkeypatch, clip):
    def offline(*_, **options):
        assert options["timeout"] <= 5
        raise ConnectionError("Name or service not known\nRetrying")

    def never(*_, **__):
        raise AssertionError("open_clip would try to download for minutes")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    monkeypatch.setattr(open_clip, "create_model", never)
    model = ("--backbone", "ViT-B-16", "--pretrained", "openai")
    for command in (("predict", clip, *LABELS), ("table5", "--profile", "smoke", "--dataset", "figures-h")):
        said = refused(*command, *model)
        assert "the hub cannot be reached" in said and "--pretrained FILE" in said and "safetensors" in said


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_weights_file_that_is_none_is_refused(name, refused, clip):
    Path(name).write_text("These are no weights.\n" * 9)
    assert name in refused("predict", clip, *LABELS, "--backbone", "RN50", "--pretrained", name)


# --- predict ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ((), "--labels: give the class names"),
        (("--labels", ""), "at least two different names"),
        (("--labels", "wave"), "at least two different names are needed, got wave"),
        (("--labels", "wave,wave"), "at least two different names"),
        (("--labels", "wave, wave "), "at least two different names"),
        (("--labels", "wave,,clap"), "at least two different names"),
        (("--labels", "wave," + "very " * 80 + "slowly"), "tokens"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(labels, named, refused, clip):
    assert named in refused("predict", clip, *labels)


def test_files_that_are_no_video_are_refused_by_name(refused):
    Path("empty.mp4").write_bytes(b"")
    Path("text.mp4").write_text("This is no video.\n" * 100)
    with av.open("sound.mp4", "w") as out:
        stream = out.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    Path("folder.mp4").mkdir()
    for name in ("absent.mp4", "empty.mp4", "text.mp4", "sound.mp4", "folder.mp4"):
        assert f"reproduce.sh: {name}: " in refused("predict", name, *LABELS)


def test_a_corrupted_video_is_refused_by_name(refused, clips):
    assert "corrupted.mp4: " in refused("predict", clips / "corrupted.mp4", *LABELS)


def test_json_holds_what_the_text_says(clip, capfd):
    assert main(["predict", str(clip), "--labels", "wave,clap,sit down", "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert err == "" and found["video"] == str(clip) and found["frames"] == world.FRAMES
    assert main(["predict", str(clip), "--labels", "wave,clap,sit down"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"{clip}: {world.FRAMES} frames, {found['model']}"
    assert [line.split(None, 1) for line in lines[1:4]] == [
        [f"{one['score']:.1%}", one["label"]] for one in found["top"]
    ]
    assert lines[4:] == found["notes"]


def test_a_checkpoint_brings_its_classes_or_takes_others(checkpoint, clip, capfd):
    def predict(*more: str) -> dict:
        assert main(["predict", str(clip), "--checkpoint", str(checkpoint), "--json", *more]) == 0
        return json.loads(capfd.readouterr().out)

    own, other = predict(), predict("--labels", "kick ball,run,punch,fall down")
    assert {one["label"] for one in own["top"]} == {"wave", "clap", "sit down"}
    assert {one["label"] for one in other["top"]} == {"kick ball", "run", "punch", "fall down"}
    for found in (own, other):
        assert sum(one["score"] for one in found["top"]) == pytest.approx(1, abs=1e-5)
        assert found["model"] == "tiny-clip with three.safetensors"


def test_checkpoints_that_do_not_fit_are_refused(checkpoint, refused, clip, small):
    def with_checkpoint(path: object, *more: str) -> str:
        return refused("predict", clip, "--checkpoint", path, *more)

    assert "absent.safetensors" in with_checkpoint("absent.safetensors")
    Path("text.safetensors").write_text("no tensors")
    assert "text.safetensors: not a readable safetensors file" in with_checkpoint("text.safetensors")
    assert "not a readable safetensors file" in with_checkpoint(clip)
    save_file({"a": torch.zeros(1)}, "foreign.safetensors")
    assert "not one that flowclip saved" in with_checkpoint("foreign.safetensors")
    FlowCLIP(ModelConfig(), small, ("wave", "clap")).save(Path("other.safetensors"))
    assert "made with backbone test" in with_checkpoint("other.safetensors", "--backbone", "tiny-clip")
    assert "backbone 'test' is unknown" in with_checkpoint("other.safetensors")
    cut = checkpoint.read_bytes()[:-1000]
    Path("cut.safetensors").write_bytes(cut)
    assert "cut.safetensors: not a readable safetensors file" in with_checkpoint("cut.safetensors")


# --- the other commands -------------------------------------------------------------------------------------


def test_list_doctor_and_help_succeed(capfd):
    assert main(["list"]) == main(["list", "--profile", "paper"]) == main(["doctor"]) == 0
    out, err = capfd.readouterr()
    assert "table5" in out and "40 trainings on" not in out.split("profile paper")[0] and "torch" in out and not err
    assert "400 trainings on hmdb51, ucf101" in out
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0


def finished() -> runs.Result:
    """A table as `ensure` hands it over, with made-up scores."""
    rows = [
        ["table5", "smoke", "hmdb51", "HMDB-51", variant, 0, 0, 0, k, 0, 1, "1x1", "top1", 50.0 + k, f"{variant}{k}"]
        for variant in ("baseline", "mcb", "mmb", "mmb+map", "full")
        for k in (2, 4)
    ]
    about = {"datasets": {"hmdb51": {"pair_classes": 0, "classes": 51}}}
    return runs.Result(pd.DataFrame(rows, columns=TIDY), about, {})


def test_verify_follows_the_record_and_names_what_was_altered(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(outputs, "root", lambda: tmp_path)
    Path("README.md").write_text("# nothing\n")
    written = outputs.record("table5", "smoke", finished())
    assert main(["verify"]) == 0
    out, err = capfd.readouterr()
    assert "recorded files follow from their runs" in out and not err and not out.startswith("0 of")
    csv = next(path for path in written if path.name == "table5.csv")
    csv.write_text(csv.read_text().replace("54.0000", "55.0000", 1))
    assert main(["verify"]) == 1
    assert "DIFFERENT  results/recorded/smoke/table5.csv" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("table5.ipynb, code cell 3 («x»): KeyError: 'x'; see y"), 1, "table5.ipynb, code cell 3"),
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(28, "No space left on device"), 2, "No space left"),
    ],
)
def test_what_goes_wrong_while_reporting_is_one_line_too(error, code, said, monkeypatch, capfd):
    def fail(*_):
        raise error

    monkeypatch.setattr(runs, "ensure", lambda *_: SimpleNamespace())
    monkeypatch.setattr(outputs, "write", fail)
    assert main(["table5", "--results", "results"]) == code
    out, err = capfd.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_a_reader_that_leaves_early_causes_no_complaint():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-P", "-m", "flowclip_core", "list"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
