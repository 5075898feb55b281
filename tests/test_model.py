"""The model: counts, laws of the two streams, equality with open_clip, micro-batches, resuming."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import FULL_TEXT, SMALL, backbone, fixed

from flowclip_core.config import PROMPTS, EvalConfig, ModelConfig, TrainConfig
from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.model.motion import differences, pairs
from flowclip_core.model.prompt_tree import PromptTree
from flowclip_core.training import loop
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.experiments.catalogue import CLIP, VARIANTS

NAMES = ["sit down", "stand up", "kick ball", "kick", "smile"]


def video(batch: int = 3, frames: int = 8, width: int = 32) -> torch.Tensor:
    return 3 * fixed(batch, frames, width)


def test_full_model_has_the_stated_number_of_trainable_parameters():
    text = FULL_TEXT | {"layers": 1}
    tower = backbone({"embed_dim": 512, "vision_cfg": SMALL["vision_cfg"], "text_cfg": text})
    full = FlowCLIP(ModelConfig(), tower, NAMES).trained()
    assert sum(value.numel() for value in full.values()) == 8_441_888
    sizes = {
        "motion_stream": 3_152_384,
        "spatial_stream": 3_152_384,
        "prompts.adapter": 33_312,
        "prompts.vectors": 2_560,
        "communication": 2_101_248,
    }
    for part, size in sizes.items():
        assert sum(value.numel() for name, value in full.items() if name.startswith(part)) == size


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trained_part_gets_a_gradient_and_the_towers_get_none(small, variant):
    model = FlowCLIP(ModelConfig(**VARIANTS[variant]), small, NAMES)
    F.cross_entropy(model(video())["logits"], torch.tensor([0, 1, 2])).backward()
    for name, value in model.trained().items():
        assert value.grad is not None and value.grad.abs().sum() > 0, name
    assert all(value.grad is None for value in small.parameters())


def test_all_parts_off_equals_open_clip_zero_shot(small):
    images = (fixed(6, 3, 32, 32) * 127 + 128).to(torch.uint8)
    frames = small.encode_frames(images)
    plain = small.clip.encode_image((images / 255 - small.mean) / small.std)
    torch.testing.assert_close(frames, plain)
    texts = open_clip.get_tokenizer("ViT-B-16")([f"{PROMPTS[5]} {name}." for name in NAMES])
    expected = small.clip.encode_image((images / 255 - small.mean) / small.std, normalize=True)
    expected = expected @ small.clip.encode_text(texts, normalize=True).T / 0.07
    one_frame = FlowCLIP(replace(CLIP, frames=2, step=1), small, NAMES)(frames[:, None].expand(-1, 2, -1))
    torch.testing.assert_close(one_frame["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [4, 8, 16, 32])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_differences_against_a_loop(frames, step):
    features = video(2, frames, 5)
    slow = torch.stack([features[:, j] - features[:, i] for i, j in pairs(frames, step)], 1)
    torch.testing.assert_close(differences(features, step), slow)
    expected = sum(frames - d for d in range(1, step + 1))
    assert slow.shape[1] == expected == ModelConfig(frames=frames, step=step).differences
    assert (
        all(0 < j - i <= step for i, j in pairs(frames, step)) and len(set(pairs(frames, step))) == expected
    )


def test_a_still_clip_has_no_differences_and_time_reversed_ones_change_sign():
    still = fixed(2, 1, 5).expand(2, 8, 5)
    assert differences(still, 4).abs().max() == 0
    moving = video(2, 8, 5)
    backwards = differences(moving.flip(1), 1)
    torch.testing.assert_close(backwards, -differences(moving, 1).flip(1))
    with pytest.raises(InputError, match="T-1"):
        differences(moving, 8)


def test_without_positions_the_spatial_stream_is_blind_to_order_and_the_motion_stream_is_not(small):
    model = FlowCLIP(ModelConfig(map=False, mcb=False), small, NAMES).eval()
    frames = video()
    there, back = model(frames), model(frames.flip(1))
    torch.testing.assert_close(
        there["spatial_tokens"].mean(1), back["spatial_tokens"].mean(1), rtol=1e-4, atol=1e-5
    )
    assert (there["motion"] - back["motion"]).abs().max() > 1e-2
    coded = FlowCLIP(ModelConfig(map=False, mcb=False, positions="learned"), small, NAMES).eval()
    with torch.no_grad():
        coded.motion_modeling.spatial_stream.positions.mul_(100)
    moved = coded(frames)["spatial_tokens"].mean(1) - coded(frames.flip(1))["spatial_tokens"].mean(1)
    assert moved.abs().max() > 1e-2


def test_a_zeroed_adapter_leaves_the_hand_crafted_prompt(small):
    model = FlowCLIP(ModelConfig(mcb=False), small, NAMES).eval()
    static = FlowCLIP(ModelConfig(map=False, mcb=False), small, NAMES).eval()
    assert not torch.allclose(model(video())["texts"], static(video())["texts"])
    with torch.no_grad():
        for value in model.prompts.adapter.parameters():
            value.zero_()
    torch.testing.assert_close(model(video())["texts"], static(video())["texts"], rtol=1e-4, atol=1e-5)


def test_map_without_motion_gives_every_video_the_same_prompts(small):
    out = FlowCLIP(ModelConfig(mmb=False, mcb=False), small, NAMES)(video())
    assert "motion" not in out and torch.equal(out["texts"][0], out["texts"][2])
    moved = FlowCLIP(ModelConfig(mcb=False), small, NAMES)(video())["texts"]
    assert not torch.allclose(moved[0], moved[2])


def test_pooled_video_token_gives_every_class_the_same_vector_and_a_sequence_does_not(small):
    for tokens, same in (("pooled", True), ("sequence", False)):
        out = FlowCLIP(ModelConfig(map=False, video_tokens=tokens), small, NAMES).eval()(video())
        added = out["texts_out"] - out["texts"]
        assert torch.allclose(added, added[:, :1], atol=1e-5) is same


def test_readings_change_what_they_name(small):
    plain = FlowCLIP(ModelConfig(), small, NAMES).eval()(video())["logits"]
    for change in (
        {"norm_order": "post"},
        {"residual": True},
        {"tau": 0.01},
        {"video_tokens": "sequence"},
        {"step": 1},
    ):
        other = FlowCLIP(replace(ModelConfig(), **change), small, NAMES).eval()(video())["logits"]
        assert not torch.allclose(plain, other, atol=1e-4), change


def test_same_seed_same_parts_other_seed_other_parts(small):
    first, again, other = (FlowCLIP(ModelConfig(), small, NAMES, seed).trained() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["motion_stream.block.linear1.weight"], other["motion_stream.block.linear1.weight"]
    )
    alone = FlowCLIP(ModelConfig(map=False, mcb=False), small, NAMES, 3).trained()
    assert all(torch.equal(alone[name], first[name]) for name in alone)


def test_a_linear_head_starts_at_zero_and_scores_the_direction_of_the_mean_frame(small):
    model = FlowCLIP(replace(CLIP, head="linear"), small, NAMES)
    assert {name: tuple(value.shape) for name, value in model.trained().items()} == {
        "head.weight": (5, 32),
        "head.bias": (5,),
    }
    frames = video()
    assert not model(frames)["logits"].any()
    with torch.no_grad():
        model.head.weight.copy_(fixed(5, 32))
        model.head.bias.copy_(fixed(5) * 2)
    found = model(frames)["logits"].detach()
    for row, one in zip(found, frames, strict=True):
        mean = sum(one) / 8
        direction = mean / sum(float(x) ** 2 for x in mean) ** 0.5
        for score, weight, bias in zip(row, fixed(5, 32), fixed(5) * 2, strict=True):
            torch.testing.assert_close(score, sum(direction * weight) / 0.07 + bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(2 * frames)["logits"], found, rtol=1e-4, atol=1e-4)


def test_a_linear_head_learns(small, store):
    model = FlowCLIP(replace(CLIP, head="linear"), small, NAMES)
    config = TrainConfig(lr=0.05, batch=20, epochs=40, crops=("centre",))
    losses = loop.train(model, store, np.arange(20) % 5, config, 0).losses
    assert losses[0] == pytest.approx(np.log(5), rel=1e-5) and losses[-1] < 0.1


def test_without_an_adapter_the_prompts_are_learnt_and_blind_to_motion(small):
    model = FlowCLIP(ModelConfig(adapter_width=0, mcb=False), small, NAMES)
    out = model(video())
    assert out["motion"].std(0).min() > 0 and out["prompts"].shape == (1, 5, 32)
    assert torch.equal(out["texts"][0], out["texts"][1]) and torch.equal(out["texts"][0], out["texts"][2])
    names = set(model.trained())
    assert "prompts.vectors" in names and not any("adapter" in name for name in names)
    assert any(name.startswith("motion_stream") for name in names)
    whole = set(FlowCLIP(ModelConfig(mcb=False), small, NAMES).trained())
    assert names < whole and all(name.startswith("prompts.adapter") for name in whole - names)
    F.cross_entropy(out["logits"], torch.tensor([0, 1, 2])).backward()
    assert model.prompts.vectors.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": 8},
        {"step": 0},
        {"tau": 0},
        {"norm_order": "none"},
        {"spatial": False},
        {"adapter_width": -1},
        {"head": "none"},
        {"head": "linear", "map": False},
        {"head": "linear", "mcb": False},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        ModelConfig(**wrong)


def test_wrong_feature_shape_names_both_shapes(small):
    with pytest.raises(InputError, match=r"\(3, 4, 32\).*T=8"):
        FlowCLIP(ModelConfig(), small, NAMES)(video(3, 4))


# --- training


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    """20 videos of 5 classes, 16 stored frames, two crops; class and time both show in the features."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 5
    features = rng.normal(size=(5, 1, 1, 32))[labels] + np.linspace(-1, 1, 16)[:, None] * rng.normal(
        size=(20, 1, 1, 32)
    )
    features = np.repeat(features, 2, axis=1) + 0.1 * rng.normal(size=(20, 2, 16, 32))
    index = pd.DataFrame({"name": [f"{i}.avi" for i in range(20)], "sha256": "0" * 64})
    return FeatureStore(tmp_path, features.astype(np.float16), ("centre", "left"), index)


def fit(small, store, seed=0, config=None, variant="full", **how):
    model = FlowCLIP(ModelConfig(**VARIANTS[variant]), small, NAMES, seed)
    settings = config or TrainConfig(lr=0.01, batch=8, epochs=None, steps=7, crops=("centre", "left"))
    log = loop.train(model, store, np.arange(20) % 5, settings, seed, **how)
    return model, log


def test_training_lowers_the_loss_and_repeats_bit_by_bit(small, store):
    config = TrainConfig(lr=0.05, batch=8, epochs=12, crops=("centre",))
    log = fit(small, store, config=config)[1]
    assert len(log.losses) == 36 and np.mean(log.losses[-5:]) < 0.5 * np.mean(log.losses[:5])
    assert fit(small, store, config=config)[1].losses == log.losses
    assert fit(small, store, seed=1, config=config)[1].losses != log.losses


def test_a_rate_of_zero_changes_nothing_and_another_every_part(small, store):
    before = {name: value.clone() for name, value in FlowCLIP(ModelConfig(), small, NAMES).trained().items()}
    for lr, moved in ((0.0, False), (0.01, True)):
        config = TrainConfig(lr=lr, batch=8, epochs=None, steps=2, crops=("centre",))
        after = fit(small, store, config=config)[0].trained()
        assert all(torch.equal(before[name], after[name]) is not moved for name in before)


@pytest.mark.parametrize("variant", ["mcb", "mmb+map", "full"])
def test_micro_batches_and_lanes_change_no_bit(small, store, variant, monkeypatch):
    """With one thread a process, as tables are made."""
    monkeypatch.setattr(loop, "SUMMED", 6)  # batches of 8 take two sums
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole, log = fit(small, store, variant=variant)
        for how in (
            {"micro_batch": 1},
            {"micro_batch": 3},
            {"micro_batch": 5},
            {"micro_batch": 2, "lanes": 2},
        ):
            parts, part_log = fit(small, store, variant=variant, **how)
            assert part_log.losses == log.losses, how
            assert all(
                torch.equal(value, whole.trained()[name]) for name, value in parts.trained().items()
            ), how
        assert torch.get_num_threads() == 1
        monkeypatch.setattr(loop, "SUMMED", 32)
        assert fit(small, store, variant=variant)[1].losses == pytest.approx(log.losses, rel=1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("changes", [{}, {"video_tokens": "sequence"}, {"adapter_width": 0}])
@pytest.mark.parametrize("videos", [1, 7])
def test_a_step_has_the_gradient_of_the_plain_loss(small, variant, changes, videos):
    model = FlowCLIP(ModelConfig(**VARIANTS[variant], **changes), small, NAMES)
    features, targets = video(videos), torch.arange(videos) % 5
    loss = torch.nn.functional.cross_entropy(model(features)["logits"], targets)
    trained = model.trained()
    expected = torch.autograd.grad(loss, list(trained.values()))
    assert loop.gradients(model, features, targets, 3) == pytest.approx(loss.item(), rel=1e-6)
    for (name, value), gradient in zip(trained.items(), expected, strict=True):
        assert (value.grad - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, name


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"
        ),
    ],
)
def test_out_of_memory_halves_the_micro_batch_and_goes_on(small, store, monkeypatch, error):
    expected, _ = fit(small, store)
    forward = PromptTree.forward

    def short_of_memory(tree, vectors):
        if vectors.requires_grad and len(vectors) > 2:
            raise error
        return forward(tree, vectors)

    monkeypatch.setattr(PromptTree, "forward", short_of_memory)
    found, log = fit(small, store)
    assert log.micro_batch == 2
    for name, value in expected.trained().items():
        torch.testing.assert_close(found.trained()[name], value, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(PromptTree, "forward", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(RuntimeError, match="memory"):  # not even one video fits
        fit(small, store)


def test_resumed_equals_whole(small, store, tmp_path):
    whole, log = fit(small, store)
    path = tmp_path / "run.partial"
    for stop in (2, 5):
        fit(small, store, checkpoint=path, stop_after=stop)
        assert path.exists()
    resumed, resumed_log = fit(small, store, checkpoint=path)
    assert resumed_log.losses == log.losses and not path.exists()
    assert all(torch.equal(value, whole.trained()[name]) for name, value in resumed.trained().items())


def test_a_log_hears_every_step_in_order_and_changes_no_loss(small, store, tmp_path):
    plain, path = fit(small, store)[1].losses, tmp_path / "run.partial"
    heard = {stop: [] for stop in (None, 3)}
    for stop, said in heard.items():
        found = fit(
            small, store, checkpoint=path, stop_after=stop, log=lambda *told, said=said: said.append(told)
        )
        assert found[1].losses == plain[:stop], "a log changed the losses"
    rates = [0.005 * (1 + math.cos(math.pi * step / 7)) for step in range(7)]
    expected = [(step + 1, *both) for step, both in enumerate(zip(plain, rates, strict=True))]
    assert heard[None] == expected and heard[3] == expected[:3]
    again: list = []
    fit(small, store, checkpoint=path, log=lambda *told: again.append(told))
    assert again == expected, "the log of a resumed training must hold the steps before it too"


def test_batches_are_epochs_and_draws_lie_in_their_segments(store):
    config = TrainConfig(batch=8, epochs=1, crops=("left",))
    batches = [loop.batch_at(step, 20, config, 0, store, 8) for step in range(3)]
    assert sorted(np.concatenate([picked for picked, _, _ in batches])) == list(range(20))
    for _, crops, frames in batches:
        assert (crops == 1).all() and (frames // 2 == np.arange(8)).all()
    assert not np.array_equal(batches[0][2], loop.batch_at(3, 20, config, 0, store, 8)[2])


def test_views_are_fused_by_mean_softmax(small, store):
    model = FlowCLIP(ModelConfig(map=False), small, NAMES).eval()
    rows = np.arange(20)
    config = EvalConfig(clips=3, crops=("centre", "left"), seed=5)
    slow = np.zeros((20, 5))
    for clip in range(3):
        for crop in (0, 1):
            for row in rows:
                frames = loop._test_frames(f"{row}.avi", clip, config, 16, 8, loop.IN_ORDER)
                view = torch.from_numpy(store.take(rows[row : row + 1], frames[None], np.array([crop])))
                slow[row] += model(view)["logits"].softmax(-1)[0].detach().numpy() / 6
    np.testing.assert_allclose(loop.score(model, store, config, rows=rows, batch=7), slow, atol=1e-6)
    np.testing.assert_allclose(loop.score(model, store, config, rows=rows[::-1]), slow[::-1], atol=1e-6)
    other = loop.score(model, store, replace(config, seed=6), rows=rows)
    assert np.abs(other - slow).max() > 1e-6


def test_controls_rearrange_the_same_frames():
    frames, rng = np.arange(16).reshape(2, 8), np.random.default_rng(0)
    assert (loop.arrange(frames, loop.REVERSED, rng) == frames[:, ::-1]).all()
    shuffled = loop.arrange(frames, loop.SHUFFLED, rng)
    assert (np.sort(shuffled) == frames).all() and (shuffled != frames).any()
    assert (loop.arrange(frames, loop.REPEATED, rng) == frames[:, 4:5]).all()
    assert (loop.arrange(frames, loop.IN_ORDER, rng) == frames).all()


@pytest.mark.parametrize(
    "config", [ModelConfig(), ModelConfig(adapter_width=0), ModelConfig(map=False, mcb=False)]
)
def test_a_checkpoint_serves_other_classes(small, tmp_path, config):
    model = FlowCLIP(config, small, NAMES, seed=9).eval()
    path, others = model.save(tmp_path / "parts.safetensors"), ["walk", "run", "kick"]
    loaded, tree = FlowCLIP.load(path, small, others), PromptTree(small, others, 5)
    assert loaded.class_texts == tuple(others) and loaded.config == config
    slow = FlowCLIP(config, small, others, seed=1).eval()
    with torch.no_grad():
        for name, value in slow.trained().items():
            value.copy_(model.trained()[name])
    found = loaded(video())["logits"]
    assert torch.equal(found, slow(video())["logits"])
    assert torch.equal(found, FlowCLIP.load(path, small, others, tree)(video())["logits"])
    assert not torch.allclose(
        found, FlowCLIP(config, small, others, seed=1).eval()(video())["logits"], atol=1e-3
    )
    # The same classes in another order are the same scores in another order.
    turned = FlowCLIP.load(path, small, NAMES[::-1])(video())["logits"]
    torch.testing.assert_close(turned.flip(1), model(video())["logits"], rtol=1e-4, atol=1e-4)


def test_class_lists_have_distinct_names():
    assert all(len(set(names)) == len(names) for names in CLASSES.values())


def test_a_zero_start_shifts_nothing_and_still_learns(small):
    motion = fixed(2, small.width)
    for start, still in (("random", False), ("zero", True)):
        model = FlowCLIP(ModelConfig(adapter_start=start), small, ["run", "wave"])
        shifted = model.prompts(motion)
        assert torch.equal(shifted, model.prompts.vectors.expand_as(shifted)) == still
        shifted.square().sum().backward()
        assert model.prompts.adapter[2].weight.grad.abs().max() > 0


def test_activation_and_position_scale_reach_the_streams(small):
    def video(**changes) -> torch.Tensor:
        model = FlowCLIP(ModelConfig(**changes), small, ["run", "wave"])
        return model.encode_video(fixed(2, 8, small.width))["video"]

    assert not torch.equal(video(), video(activation="gelu"))
    one, ten = (
        FlowCLIP(ModelConfig(positions="learned", position_std=std), small, ["run"]) for std in (0.1, 1.0)
    )
    (name,) = [name for name in one.trained() if "spatial" in name and "positions" in name]
    assert torch.allclose(10 * one.trained()[name], ten.trained()[name])
