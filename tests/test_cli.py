"""The command line's contract: bad input is one line on stderr and exit code 2, at once, with nothing left
behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file
from test_estimates import here
from test_outputs import checkout_in, small, tree

from flowclip_core import FlowCLIP, ModelConfig
from flowclip_core.files import write_atomically
from flowclip_kit import cli, experiments
from flowclip_kit.cli import main
from flowclip_kit.demo import world
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.experiments import estimates
from flowclip_kit.experiments.catalogue import PAPER_TARGETS, TARGETS
from flowclip_kit.reporting import notebooks, outputs

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
        ("table5 --profile smoke --engine spark", "--engine"),
        (
            "table5 --profile smoke --dataset figures-h --ray-address auto",
            "--ray-address auto belongs to --engine ray",
        ),
        ("extract figures-h --engine ray", "--engine"),
        ("table5 --profile smoke --device tpu", "--device"),
        ("table5 --profile smoke --decoder ffmpeg", "--decoder"),
        (
            "table5 --profile smoke --backbone ViT-XXL --pretrained none",
            "'ViT-XXL' is unknown; use tiny-clip",
        ),
        (
            "table5 --profile smoke --backbone ViT-B-16 --pretrained absent.pt",
            "--pretrained absent.pt: no such file",
        ),
        ("table5 --profile smoke --backbone ViT-B-16 --pretrained laion9", "laion9"),
        (
            "table5 --profile smoke --pretrained openai",
            "--pretrained openai: backbone tiny-clip brings its own",
        ),
        ("table9", "table9"),
        ("figure3", "figure3"),
        ("figure3e", "figure3e"),
        ("table1 -p profile=demo", "table1 has no parameter 'profile' (--profile is an option of its own)"),
        ("table1 -p", "-p"),
        ("table3 -p k=2", "table3 takes no parameters"),
        ("all -p k=2", "all takes no parameters"),
        ("table5 --record -p k=2", "--record keeps a profile as it is; leave out -p"),
        ("table3 --profile huge", "--profile 'huge' is unknown; use demo, quick, paper"),
        ("figure3b --profile paper", "--data-root"),
        ("readings --profile quick", "data set hmdb51: say where it lies with --data-root DIR"),
        ("all --profile huge", "--profile 'huge' is unknown; use demo, quick, paper"),
        ("all --profile paper", "data set hmdb51: say where it lies with --data-root DIR"),
        (
            "all --dataset figures-h",
            "table6 trains on one data set and tests on another; leave --dataset figures-h out",
        ),
        ("all --record --seeds 2", "--record --seeds 2: profile demo has 3 runs a cell"),
        ("table1 --record --decoder decord", "--record keeps a profile as it is; leave out --decoder"),
        (
            "table7 --dataset hmdb51",
            "--dataset hmdb51 holds real videos; take it with --profile quick or paper",
        ),
        (
            "table7 --dataset hmdb51 --profile quick --data-root .",
            "table7 trains on one data set and tests on another",
        ),
        ("table6 --dataset figures-h --profile smoke", "leave --dataset figures-h out"),
        ("report --profile huge", "--profile 'huge' is unknown; use demo, quick, paper"),
        (
            "report --profile quick",
            "recorded/quick: no tables of profile quick; make them with ./reproduce.sh all",
        ),
        ("report --profile quick --results .", "--results .: no tables of profile quick in it"),
        ("report --results .", "--results .: no tables of profile demo in it"),
        ("report table5", "table5"),
        ("notebook", "required: name"),
        (
            "notebook table9",
            "notebook 'table9' is unknown; use ablation, colab, data, explore_motion, explore_prompts",
        ),
        ("notebook ../notebooks/table1", "is unknown"),
        ("notebook table1 -p novalue", "-p novalue: expected NAME=VALUE"),
        ("notebook table1 -p", "-p"),
        (
            "notebook table1 -p profil=demo --results .",
            "table1.ipynb has no parameter profil; its parameters: profile, source",
        ),
        ("notebook table1 --profile demo", "--profile"),
        ("verify --profile demo", "--profile"),
        ("verify --rerun 0", "--rerun: a whole number from 1 on is needed"),
        ("list --profile huge", "huge"),
        ("predict", "video"),
        ("doctor now", "now"),
        ("doctor --data-root absent", "--data-root absent: no such folder"),
        ("table5 --profile smoke --precision float8", "--precision"),
        ("table5 --profile smoke --incomplete maybe", "--incomplete"),
        ("table5 --profile smoke --class-names upper", "--class-names"),
        ("table5 --profile smoke --few-shot-list absent.txt", "--few-shot-list: say whose videos it names"),
        ("table1 --few-shot-list absent.txt", "--few-shot-list: table1 does not train on k videos a class"),
        ("table5 --record --class-names raw", "--record keeps a profile as it is; leave out --class-names"),
        (
            "table5 --record --few-shot-list a.txt",
            "--record keeps a profile as it is; leave out --few-shot-list",
        ),
        ("extract", "required: name"),
        ("extract hmdb51", "data set hmdb51: say where it lies with --data-root DIR"),
        ("extract nowhere --data-root . --backbone tiny-clip", "nowhere"),
        (
            "extract figures-h --profile demo --shard 3/2",
            "--shard '3/2': expected i/n with i from 1 to n, like 1/4",
        ),
        ("extract figures-h --profile huge", "--profile 'huge' is unknown"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(arguments, named, refused):
    assert named in refused(*arguments.split())


def test_ray_is_refused_where_it_is_not_installed(refused, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    for target in ("table5", "readings", "all"):
        said = refused(target, "--profile", "smoke", "--engine", "ray")
        assert "--engine ray: Ray is not installed here; ./reproduce.sh extra ray adds it" in said


def test_cuda_is_refused_where_there_is_none(refused, monkeypatch, clip):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in (("table5", "--profile", "smoke"), ("predict", clip, *LABELS)):
        assert "--device cuda: torch finds no CUDA device" in refused(*command, "--device", "cuda")


@pytest.mark.parametrize("place", ["file", "file/inside"])
@pytest.mark.parametrize("command", ["table5 --profile smoke", "table3", "all", "report", "notebook table1"])
def test_a_results_folder_that_cannot_be_written_is_refused_before_any_work(place, command, refused):
    Path("file").write_text("")
    assert f"{place}: cannot be written" in refused(*command.split(), "--results", place)


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


# --- predict


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ((), "--labels: give the class names"),
        (("--labels", ""), "at least two different names"),
        (("--labels", "wave"), "at least two different names are needed, got wave"),
        (("--labels", "wave,wave"), "at least two different names"),
        (("--labels", "wave, wave "), "at least two different names"),
        (("--labels", "wave,,clap"), "two commas follow each other"),
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
    assert [line.split(None, 3) for line in lines[1:4]] == [
        [f"{one['score']:.1%}", "cosine", f"{one['cosine']:.3f}", one["label"]] for one in found["top"]
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


# --- the other commands


def test_list_doctor_and_help_succeed(monkeypatch, capfd):
    monkeypatch.setattr(estimates, "speed", lambda backbone, kinds: (here(), "a machine"))
    assert main(["list"]) == main(["list", "--profile", "paper"]) == main(["doctor"]) == 0
    out, err = capfd.readouterr()
    assert (
        "table5" in out
        and "40 trainings on" not in out.split("profile paper")[0]
        and "torch" in out
        and not err
    )
    assert "400 trainings on hmdb51, ucf101" in out and "table3  Table 3: parameters and multiply-adds" in out
    assert all(f"\n{name}  " in out for name in (*TARGETS, "all"))
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout without results of its own, whose figures, counts and notebooks cost nothing; runs are made
    up."""
    folder = checkout_in(tmp_path / "checkout", monkeypatch)
    monkeypatch.setattr(cli, "root", lambda: folder)
    for name in (*PAPER_TARGETS, "verdicts"):
        write_atomically(folder / "notebooks" / f"{name}.ipynb", name)
    write_atomically(folder / "flowclip_kit/experiments/costs.py", "")

    def execute(notebook, parameters, html, cwd):
        said = " ".join(f"{name}={value}" for name, value in parameters.items())
        return write_atomically(html, f"{notebook.stem}: {said}")

    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(notebooks, "typed", lambda notebook, given, folder: given)
    monkeypatch.setattr(experiments, "ensure_all", lambda targets, profile, options, *_, **__: {
        target: small(profile) for target in targets})  # fmt: skip
    return folder


def test_verify_follows_the_record_and_names_what_was_altered(checkout, capfd):
    written = outputs.record("demo", {"table5": small(), "table3": None})
    assert main(["verify"]) == 0
    out, err = capfd.readouterr()
    n = len(outputs.verify()[0])
    assert out == f"{n} of {n} recorded files follow from their runs\n" and not err
    csv = next(path for path in written if path.name == "table5.csv")
    csv.write_text(csv.read_text().replace("0,1,1x1,top1,", "1,1,1x1,top1,", 1))
    assert main(["verify"]) == 1
    assert "DIFFERENT  results/recorded/demo/table5.csv" in capfd.readouterr().err


def test_a_target_shows_its_table_and_names_its_files(checkout, capfd):
    assert main(["table5", "--profile", "smoke", "--results", "out"]) == 0
    table, files = capfd.readouterr().out.split("\nwritten:\n")
    assert "demo world, not evidence" in table and "figures-h, n = 1" in table
    assert [line.strip() for line in files.splitlines()] == [
        *(
            f"out/smoke/table5.{kind}"
            for kind in ("csv", "videos.csv", "provenance.json", "summary.csv", "html")
        ),
        *(
            f"out/smoke/figures/table5{more}.{kind}"
            for more in ("", "_differences")
            for kind in ("png", "svg")
        ),
    ]
    assert (
        Path("out/smoke/table5.html").read_text() == f"table5: profile=smoke source={Path('out').absolute()}"
    )
    assert set(tree(checkout / "results")) == {
        f"paper/{name}" for name in tree(checkout / "results" / "paper")
    }


def test_table3_is_counted_without_runs(checkout, monkeypatch, capfd):
    monkeypatch.setattr(experiments, "ensure_all", None)  # not called
    outputs.record("demo", {"table5": small()})
    capfd.readouterr()
    assert main(["table3", "--results", "out", "--record"]) == 0
    out = capfd.readouterr().out
    assert "HMDB-51, 51 texts" in out and "out/demo/table3.html" in out
    assert (checkout / "results/recorded/demo/table3.csv").read_bytes() == Path(
        "out/demo/table3.csv"
    ).read_bytes()


@pytest.mark.parametrize("given", [("--results", "out"), ()])
def test_runs_of_the_paper_profile_never_touch_the_printed_numbers(given, checkout, capfd):
    before = tree(checkout / "results" / "paper")
    assert main(["table5", "--profile", "paper", "--data-root", ".", *given]) == 0
    results = Path(given[1]) if given else checkout / "results"
    assert (results / "paper-runs/table5.csv").exists() and (
        results / "paper-runs/figures/table5.svg"
    ).exists()
    assert tree(checkout / "results" / "paper") == before and (not given or not (results / "paper").exists())


def test_all_makes_every_table_and_panel_then_verdicts_and_report(monkeypatch, checkout, capfd):
    called = []

    def stub(name, written):
        def call(*given):
            called.append((name, given[0]))
            return [Path("out") / written]

        return call

    def made(targets, profile, options, *_, **__):
        called.append(("runs", tuple(targets)))
        return dict.fromkeys(targets, SimpleNamespace())

    monkeypatch.setattr(experiments, "ensure_all", made)
    for name in ("write", "write_costs", "write_verdicts", "write_report", "record"):
        monkeypatch.setattr(outputs, name, stub(name, f"{name}.txt"))
    monkeypatch.setattr(outputs, "verdict_counts", lambda profile, folder: f"verdicts of {profile}")
    assert main(["all", "--profile", "smoke", "--results", "out", "--record"]) == 0
    trained = tuple(name for name in PAPER_TARGETS if name in TARGETS)
    assert len(PAPER_TARGETS) == 12 and len(trained) == 11
    assert called[0] == ("runs", trained)
    assert [given if name == "write" else name for name, given in called[1:]] == [
        "table1", "table2", "write_costs", *trained[2:], "write_verdicts", "write_report", "record",
    ]  # fmt: skip
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == "verdicts of smoke" and "  out/write_report.txt" in out.splitlines()
    *lines, last = err.splitlines()
    assert lines == [f"reproduce.sh: writing {name}" for name in PAPER_TARGETS]
    assert re.fullmatch(r"reproduce.sh: \d+ s; open .*", last)


def test_report_names_its_file(checkout, monkeypatch, capfd):
    monkeypatch.setattr("flowclip_kit.reporting.report.html", lambda *given: "report")
    monkeypatch.setattr("flowclip_kit.reporting.outputs.judged", lambda *given: None)
    assert main(["report"]) == 2 and "no tables of profile demo" in capfd.readouterr().err
    assert not Path("checkout/results/demo").exists()
    write_atomically(Path("checkout/results/recorded/demo/table3.csv"), "")
    assert main(["report"]) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("checkout/results/demo/report.html\n", "")
    assert Path("checkout/results/demo/report.html").read_text() == "report"


def test_notebook_hands_its_parameters_on(checkout, capfd):
    assert (
        main(["notebook", "table5.ipynb", "-p", "profile=smoke", "-p", "source=a=b", "--results", "out"]) == 0
    )
    assert capfd.readouterr().out == "out/table5.html\n"
    assert Path("out/table5.html").read_text() == "table5: profile=smoke source=a=b"


def test_a_notebook_without_a_record_says_so_in_one_line():
    arguments = ["notebook", "table1", "-p", "profile=quick", "--results", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-P", "-m", "flowclip_kit", *arguments], env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert (
        "results/recorded/quick/table1.csv: no such file; expected a table made by ./reproduce.sh"
        in done.stderr
    )
    assert "table1.ipynb, code cell" in done.stderr
    assert [path.name for path in Path("out").iterdir()] == ["table1.failed.ipynb"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            RuntimeError("table5.ipynb, code cell 3 ('x'): KeyError: 'x'; see y"),
            1,
            "table5.ipynb, code cell 3",
        ),
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(28, "No space left on device"), 2, "No space left"),
    ],
)
def test_what_goes_wrong_while_reporting_is_one_line_too(error, code, said, monkeypatch, capfd):
    def fail(*_):
        raise error

    monkeypatch.setattr(experiments, "ensure_all", lambda *_, **_words: {"table5": SimpleNamespace()})
    monkeypatch.setattr(outputs, "write", fail)
    assert main(["table5", "--results", "results"]) == code
    out, err = capfd.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_a_reader_that_leaves_early_causes_no_complaint():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-P", "-m", "flowclip_kit", "list"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
