"""Naming the action in a video: what the scores are, and what the reader is told about them."""

from __future__ import annotations

import csv
import json
import math
from types import SimpleNamespace

import av
import huggingface_hub
import open_clip
import pytest
import torch
from PIL import Image

from flowclip_core import FlowCLIP, ModelConfig
from flowclip_core.data.video import segment_centres
from flowclip_core.errors import InputError
from flowclip_kit.demo import world
from flowclip_kit.demo.backbone import load_backbone, load_tiny_clip
from flowclip_kit.predict import classify, videos_in


def well_formed(found, labels) -> None:
    scores = [score for _, score in found.top]
    assert {label for label, _ in found.top} == set(labels) and len(scores) == len(labels)
    assert scores == sorted(scores, reverse=True) and min(scores) >= 0
    assert sum(scores) == pytest.approx(1, abs=1e-5)


def test_the_embedded_model_on_a_real_clip_says_what_it_does_not_know(clips):
    labels = ["wave", "arm wrestling", "clap", "juggling"]
    found = classify(clips / "arm_wrestling.mp4", labels)
    well_formed(found, labels)
    assert found.frames == 280 and found.model == "tiny-clip zero-shot"
    assert "drawn figures" in found.notes[0]
    assert found.notes[1:] == ["It has never seen the words: arm, wrestling."]
    assert classify(clips / "arm_wrestling.mp4", ["wave", "clap"]).notes == found.notes[:1]


def test_random_weights_are_called_random(clips):
    labels = ("arm wrestling", "flipping a pancake", "juggling")
    found = classify(str(clips / "arm_wrestling.mp4"), labels, backbone="ViT-B-16", pretrained="none")
    well_formed(found, labels)
    assert found.frames == 280 and found.model == "ViT-B-16 zero-shot"
    assert len(found.notes) == 1 and "random weights" in found.notes[0]


@pytest.mark.parametrize(("name", "label"), [("figures-h", "push_up"), ("figures-u", "Archery")])
def test_zero_shot_equals_open_clip_by_hand(name, label, tmp_path):
    video = tmp_path / "clip.avi"
    video.write_bytes(world.encode(world.render(name, label, 3)))
    labels = [world.spaced(other) for other in world.CLASSES[name]]
    found = classify(video, labels)
    well_formed(found, labels)

    model, tokenizer = load_tiny_clip(), open_clip.get_tokenizer("ViT-B-16")
    about = open_clip.get_model_preprocess_cfg(model)
    look = open_clip.image_transform(
        about["size"], is_train=False, mean=about.get("mean"), std=about.get("std")
    )
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    picked = [Image.fromarray(frames[i]) for i in segment_centres(len(frames), 8)]
    with torch.inference_mode():
        seen = model.encode_image(torch.stack([look(picture) for picture in picked])).mean(0)
        texts = model.encode_text(tokenizer([f"a common human action of {text}." for text in labels]))
        cosine = torch.nn.functional.cosine_similarity(texts, seen[None], dim=-1)
        scores = (cosine * math.exp(model.logit_scale)).softmax(-1)
    assert found.top[0][0] == labels[int(scores.argmax())]
    ours = dict(found.top)
    assert max(abs(ours[text] - float(score)) for text, score in zip(labels, scores, strict=True)) < 5e-3


def test_the_answer_follows_the_video_and_not_the_order_of_the_labels(tmp_path):
    labels = ["wave", "push up", "climb up"]
    answers = []
    for label in ("wave", "push_up"):
        video = tmp_path / f"{label}.avi"
        video.write_bytes(world.encode(world.render("figures-h", label, 0)))
        found, turned = classify(video, labels), classify(video, labels[::-1])
        assert dict(turned.top) == pytest.approx(dict(found.top), abs=1e-5)
        answers.append(found.top[0][0])
    assert answers == ["wave", "push up"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> SimpleNamespace:
    """A video, and the parts of a small model as a file and as a folder."""
    home = tmp_path_factory.mktemp("parts")
    (home / "clip.avi").write_bytes(world.encode(world.render("figures-h", "wave", 0)))
    model = FlowCLIP(ModelConfig(), load_backbone(), ["wave", "clap", "sit down"], seed=3)
    model.save_pretrained(home / "folder")
    return SimpleNamespace(
        video=home / "clip.avi", file=model.save(home / "parts.safetensors"), folder=home / "folder"
    )


def test_a_file_a_folder_and_a_repository_of_the_same_parts_give_the_same_answer(parts, monkeypatch):
    plain = classify(parts.video, checkpoint=parts.file)
    assert plain.model == "tiny-clip with parts.safetensors"
    assert dict(plain.top) != dict(
        classify(parts.video, ["wave", "clap", "sit down"]).top
    )  # the parts take part
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(parts.folder))
    monkeypatch.chdir(parts.folder)
    for checkpoint, name in (
        (parts.folder, "folder"),
        (".", "folder"),
        ("someone/actions", "someone/actions"),
    ):
        found = classify(parts.video, checkpoint=checkpoint)
        assert found.top == plain.top and found.model == f"tiny-clip with {name}"
    other = classify(parts.video, ["run", "punch"], checkpoint=parts.folder)
    assert other.top == classify(parts.video, ["run", "punch"], checkpoint=parts.file).top


def test_checkpoints_that_cannot_be_had_are_one_line(parts, monkeypatch, tmp_path):
    def away(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", away)
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "pytorch_model.bin").write_bytes(b"\x80")
    for checkpoint, why in (
        (tmp_path, "lacks model.safetensors and config.json"),
        (tmp_path / "pickle", "pytorch_model.bin, a pickle"),
        (tmp_path / "absent", "no such file or folder"),
        ("absent.safetensors", "absent.safetensors: no such file or folder"),
        ("someone/actions", "someone/actions: no such file or folder here, and as a repository"),
    ):
        with pytest.raises(InputError, match=why) as error:
            classify(parts.video, checkpoint=checkpoint)
        assert "\n" not in str(error.value)


def test_many_videos_load_the_model_once_and_an_unreadable_one_stops_no_other(
    parts, tmp_path, capsys, monkeypatch
):
    from flowclip_kit import cli
    from flowclip_kit.demo import backbone

    loaded, load = [], backbone.load_backbone
    monkeypatch.setattr(
        backbone, "load_backbone", lambda *words, **more: loaded.append(words) or load(*words, **more)
    )
    (tmp_path / "in").mkdir()
    for name in ("b.avi", "in/a.avi"):
        (tmp_path / name).write_bytes(parts.video.read_bytes())
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no video")
    words = ["predict", str(tmp_path), "--labels", "wave,clap"]
    assert cli.main([*words, "--json"]) == 2
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["video"] for row in rows] == [str(tmp_path / "b.avi"), str(tmp_path / "in" / "a.avi")]
    assert "broken.mp4" in said.err and len(said.err.splitlines()) == 1 and len(loaded) == 1
    assert rows[0]["top"] == classify(parts.video, ["wave", "clap"]).as_dict()["top"]
    assert cli.main([*words[:1], str(tmp_path / "b.avi"), str(parts.video), *words[2:], "--csv"]) == 0
    table = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert table[0] == ["video", "label", "score", "cosine"] and len(table) == 5
    assert cli.main([*words, "--csv", "--json"]) == 2


def test_a_folder_without_a_video_is_named(tmp_path):
    with pytest.raises(InputError, match="no video in this folder"):
        videos_in([tmp_path])
