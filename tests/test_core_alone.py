"""The core is a library: features of one's own in an array, no kit beside it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from conftest import ROOT, SMALL, fixed
from safetensors.torch import save_file

from flowclip_core import EvalConfig, FlowCLIP, ModelConfig, TrainConfig, evaluate, load_backbone, train
from flowclip_core import encode_video as encode
from flowclip_core.data.features import as_features, central_frames, drawn_frames
from flowclip_core.errors import InputError

NAMES = ["brush hair", "cartwheel", "catch"]

SCRIPT = """
import sys
sys.modules["flowclip_kit"] = None  # not importable

import numpy as np
from flowclip_core import FlowCLIP, ModelConfig, TrainConfig, evaluate, load_backbone, train

draw, labels = np.random.default_rng(0), np.arange(60) % 3
features = draw.normal(size=(3, 1, 32))[labels] + 0.5 * draw.normal(size=(60, 16, 32))  # (N,F,D)
model = FlowCLIP(ModelConfig(), load_backbone(sys.argv[1]), ["brush hair", "cartwheel", "catch"])
before = evaluate(model, features[30:], labels[30:])
log = train(model, features[:30], labels[:30], TrainConfig(lr=0.02, epochs=None, steps=40), seed=0)
after = evaluate(model, features[30:], labels[30:])
print(len(log.losses), before["top1"], after["top1"], "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLIP as open_clip saves one."""
    path = tmp_path_factory.mktemp("clip")
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    save_file(open_clip.model.CLIP(**SMALL).state_dict(), path / "open_clip_model.safetensors")
    return path


@pytest.fixture(scope="module")
def small(folder):
    return load_backbone(folder)


def videos(count: int, frames: int = 16) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 3
    return fixed(count, frames, 32).numpy() + fixed(3, 1, 32).numpy()[labels], labels


def test_a_script_trains_on_an_array_where_there_is_no_kit(folder):
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) <= 15
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, cwd=ROOT, check=True
    )
    steps, before, after, _ = done.stdout.split()
    assert steps == "40" and float(before) < 60 < 90 < float(after)


def test_arrays_tensors_and_crops_are_taken_alike(small):
    features, labels = videos(9)
    settings = TrainConfig(lr=0.02, batch=4, epochs=1)
    four = np.stack([features] * 4, 1)
    found = []
    for given, changes in (
        (features, {}), (torch.from_numpy(features), {}), (features[:, None], {}),
        (four, {"crops": ("mirrored",)}), (four, {}),
    ):  # fmt: skip
        model = FlowCLIP(ModelConfig(), small, NAMES)
        found.append(train(model, given, labels, replace(settings, **changes), seed=1).losses)
    assert found[0] == found[1] == found[2] == found[3]
    assert found[4] != found[0]  # which crop is drawn comes before which frames
    model = FlowCLIP(ModelConfig(), small, NAMES)
    assert train(model, features, labels, settings, seed=2).losses != found[0]


def test_a_store_that_lacks_a_crop_is_refused_and_an_array_is_not(small):
    features, labels = videos(6)
    model = FlowCLIP(ModelConfig(), small, NAMES)
    with pytest.raises(InputError, match=r"crops \['left'"):
        train(model, as_features(features), labels, TrainConfig(epochs=1))
    assert evaluate(model, features, labels, EvalConfig(clips=2)).keys() == {"top1", "top5"}


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.zeros((3, 32)), [0, 1, 2], r"expected \(N,F,D\)"),
        (np.zeros((3, 9, 16, 32)), [0, 1, 2], "C up to 4"),
        (np.zeros((3, 16, 32)), [0, 1], "labels"),
        (np.zeros((3, 16, 32)), [0, 1, 3], "classes 0 to 2"),
        (np.zeros((3, 4, 32)), [0, 1, 2], "T=8 cannot be drawn from 4"),
    ],
)
def test_unusable_arrays_are_refused_by_the_name_of_the_argument(small, features, labels, said):
    with pytest.raises(InputError, match=said):
        train(FlowCLIP(ModelConfig(), small, NAMES), features, labels, TrainConfig(epochs=1))


@pytest.mark.parametrize("frames", range(2, 17))
def test_any_number_of_frames_up_to_the_stored_ones(small, frames):
    features, labels = videos(4)
    model = FlowCLIP(ModelConfig(frames=frames, step=1), small, NAMES)
    train(model, features, labels, TrainConfig(epochs=1))
    assert 0 <= evaluate(model, features, labels)["top1"] <= 100


@pytest.mark.parametrize(("stored", "frames"), [(32, 8), (32, 12), (32, 32), (32, 1), (17, 5)])
def test_draws_lie_in_segments_by_the_floor_rule(stored, frames):
    drawn = drawn_frames(np.random.default_rng(0), 500, stored, frames)
    for t in range(frames):
        begin, end = t * stored // frames, (t + 1) * stored // frames
        assert {*drawn[:, t]} == {*range(begin, end)}
        assert central_frames(stored, frames)[t] == (begin * 2 + (end - begin)) // 2 or stored % frames
        assert begin <= central_frames(stored, frames)[t] < end
    for draw in (central_frames, lambda *counts: drawn_frames(np.random.default_rng(0), 1, *counts)):
        with pytest.raises(InputError, match=f"T={stored + 1} cannot be drawn from {stored}"):
            draw(stored, stored + 1)


def test_draws_where_t_divides_are_those_of_equal_segments():
    one, other = (np.random.default_rng(7) for _ in range(2))
    assert np.array_equal(drawn_frames(one, 5, 32, 8), np.arange(8) * 4 + other.integers(0, 4, size=(5, 8)))


def test_training_leaves_the_number_of_threads_as_it_was(small):
    features, labels = videos(6)
    before = torch.get_num_threads()
    train(FlowCLIP(ModelConfig(), small, NAMES), features, labels, TrainConfig(epochs=1))
    assert torch.get_num_threads() == before


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"lacks open_clip_config.json and open_clip_model.safetensors"):
        load_backbone(tmp_path)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).write_text("{")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(tmp_path)


def test_frame_features_of_a_video(small, clips):
    features = encode(
        clips / "RATRACE_wave_f_nm_np1_fr_goo_37.avi", small, frames=8, crops=("left", "centre")
    )
    assert features.shape == (2, 8, small.width) and not torch.equal(features[0], features[1])
    assert not features.is_inference()  # a model can be trained on them


def test_help_shows_what_the_model_takes():
    said = inspect.getdoc(FlowCLIP.__init__)
    assert "class_texts:" in said and "seed:" in said


# --- readings that the paper leaves open


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    plain, warm = TrainConfig(lr=0.1), TrainConfig(lr=0.1, warmup=0.25)
    assert plain.rate(0, 8) == 0.1 and plain.rate(4, 8) == pytest.approx(0.05)
    assert [warm.rate(step, 8) / plain.rate(step, 8) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("frames", [4, 8, 16, 32])
def test_jitter_leaves_every_t_the_same_choice(frames):
    """With one frame a segment nothing is left to chance; with two as much as T allows."""
    rng = np.random.default_rng(0)
    one, two, every = (drawn_frames(rng, 400, 32, frames, jitter) for jitter in (1, 2, None))
    assert (one == one[0]).all() and (one[0] * frames // 32 == np.arange(frames)).all()
    assert [len(set(two[:, segment])) for segment in range(frames)] == [min(2, 32 // frames)] * frames
    assert len(set(every[:, 0])) == 32 // frames
