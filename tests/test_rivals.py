"""Every rival equals a slow twin written another way, in logits and in the gradient of all that it trains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import FULL_TEXT, SMALL, backbone, fixed
from test_prompt_tree import naive
from torch import Tensor

from flowclip_core.errors import Diverged, InputError
from flowclip_core.model.prompt_tree import PromptTree
from flowclip_core.model.prompts import prompt_vectors
from flowclip_kit.rivals import METHODS, Recipe
from flowclip_kit.rivals.contract import Rival, block
from flowclip_kit.rivals.training import rate_at, train

NAMES = ["sit down", "stand up", "kick ball", "kick", "smile"]
PROMPT = "a common human action of"
TRAINED = [name for name, method in METHODS.items() if method.recipe]


@pytest.fixture(scope="module")
def tower():
    return backbone(SMALL, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------- slow twins


def length_one(vector: Tensor) -> Tensor:
    return vector / sum(x * x for x in vector).sqrt()


def dots(video: Tensor, texts: Tensor) -> Tensor:
    """Cosines (K,) of one video (D,) with texts (K,D)."""
    return torch.stack([length_one(video) @ length_one(text) for text in texts])


def mean_of(frames: Tensor) -> Tensor:
    return sum(frames) / len(frames)


def hand_crafted(tower) -> Tensor:
    return naive(tower, NAMES, prompt_vectors(tower, PROMPT)[None])[0]


def layer_norm(x: Tensor, norm) -> Tensor:
    mean = x.sum(-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / x.shape[-1]
    return (x - mean) / (variance + norm.eps) ** 0.5 * norm.weight + norm.bias


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Head by head, query by query, of (N,D) and (M,D)."""
    size, rows = query.shape[1] // heads, []
    for q in query:
        parts = []
        for head in range(heads):
            at = slice(head * size, (head + 1) * size)
            weights = torch.stack([(q[at] @ k[at] / math.sqrt(size)).exp() for k in key])
            parts.append(sum(w * v[at] for w, v in zip(weights / weights.sum(), value, strict=True)))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def feed_forward(x: Tensor, first, second) -> Tensor:
    up = x @ first.weight.T + first.bias
    return up / (1 + (-1.702 * up).exp()) @ second.weight.T + second.bias


def transformer(x: Tensor, part) -> Tensor:
    """A pre-norm block of CLIP on (T,D)."""
    normed, width = layer_norm(x, part.ln_1), x.shape[1]
    weight, bias = part.attn.in_proj_weight, part.attn.in_proj_bias
    q, k, v = (
        normed @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width] for i in range(3)
    )
    out = part.attn.out_proj
    x = x + attention(q, k, v, 8) @ out.weight.T + out.bias
    return x + feed_forward(layer_norm(x, part.ln_2), part.mlp[0], part.mlp[2])


def linear_probe(model, frames: Tensor) -> Tensor:
    return model.scale * dots(mean_of(frames), model.weights)


def tip_adapter(model, frames: Tensor) -> Tensor:
    video = length_one(mean_of(frames))
    logits = list(model.scale * dots(video, hand_crafted(model.backbone)))
    for key, label in zip(model.keys, LABELS, strict=True):
        logits[label] = logits[label] + 1.0 * (-5.5 * (1 - video @ key)).exp()
    return torch.stack(logits)


def coop(model, frames: Tensor) -> Tensor:
    return model.scale * dots(mean_of(frames), naive(model.backbone, NAMES, model.vectors[None])[0])


def cocoop(model, frames: Tensor) -> Tensor:
    video = length_one(mean_of(frames))
    first, _, second = model.net
    hidden = [
        max(row @ video + bias, torch.zeros_like(bias)) for row, bias in zip(*first.parameters(), strict=True)
    ]
    shift = sum(h * column for h, column in zip(hidden, second.weight.T, strict=True)) + second.bias
    prompts = torch.stack([vector + shift for vector in model.vectors])
    return model.scale * dots(video, naive(model.backbone, NAMES, prompts[None])[0])


def ju(model, frames: Tensor) -> Tensor:
    tower, texts = model.backbone, []
    start, end = (tower.embed_tokens(torch.tensor(token)) for token in tower.borders)
    for name in NAMES:
        words = list(tower.embed_tokens(torch.tensor(tower.tokenize(name))))
        rows = [model.table.weight[place] for place in range(77)]
        rows[0], rows[17 : 17 + len(words)], rows[33 + len(words)] = start, words, end
        texts.append(tower.encode_prompts(torch.stack(rows)[None], torch.tensor([33 + len(words)]))[0])
    tokens = torch.stack([frame + at for frame, at in zip(frames, model.positions.weight, strict=True)])
    for part in model.blocks:
        tokens = transformer(tokens, part)
    return dots(mean_of(tokens), torch.stack(texts)) / 0.07


def transf(model, frames: Tensor) -> Tensor:
    tokens = torch.stack([frame + model.positions.weight[t] for t, frame in enumerate(frames)])
    for part in model.blocks:
        tokens = transformer(tokens, part)
    video = mean_of([token + frame for token, frame in zip(tokens, frames, strict=True)])
    return model.scale * dots(video, hand_crafted(model.backbone))


def lstm(model, frames: Tensor) -> Tensor:
    part, width, tokens = model.lstm, frames.shape[1], []
    hidden = cell = torch.zeros_like(frames[0])
    for frame in frames:
        gates = part.weight_ih_l0 @ frame + part.bias_ih_l0 + part.weight_hh_l0 @ hidden + part.bias_hh_l0
        let, forget, new, out = (gates[i * width : (i + 1) * width] for i in range(4))
        cell = 1 / (1 + (-forget).exp()) * cell + 1 / (1 + (-let).exp()) * new.tanh()
        hidden = 1 / (1 + (-out).exp()) * cell.tanh()
        tokens.append(frame + hidden)
    return model.scale * dots(mean_of(tokens), hand_crafted(model.backbone))


def xclip(model, frames: Tensor) -> Tensor:
    names = hand_crafted(model.backbone)
    tokens = transformer(
        torch.stack([f + at for f, at in zip(frames, model.positions, strict=True)]), model.mit
    )
    visual, texts = layer_norm(frames, model.norm_visual), names
    for layer in model.layers:
        query = layer_norm(texts, layer.norm_attention) @ layer.query.weight.T
        mixed = attention(query, visual @ layer.key.weight.T, visual @ layer.value.weight.T, 8)
        texts = texts + mixed @ layer.out.weight.T + layer.out.bias
        texts = texts + feed_forward(layer_norm(texts, layer.norm_mlp), layer.mlp[0], layer.mlp[2])
    texts = torch.stack([name + model.alpha * text for name, text in zip(names, texts, strict=True)])
    return model.scale * dots(mean_of([t + f for t, f in zip(tokens, frames, strict=True)]), texts)


def spotting(model, frames: Tensor) -> Tensor:
    tower, scores = model.backbone, []
    seen = [length_one(frame) for frame in frames]
    for number, name in enumerate(NAMES):
        tokens = [tower.borders[0], *tower.tokenize(f"{PROMPT} {name}."), tower.borders[1]]
        rows = tower.embed_tokens(torch.tensor(tokens + [0] * (77 - len(tokens))))
        weights = [0.0] * len(frames)
        for place in range(1, len(tokens)):
            word = length_one(tower.encode_prompts(rows[None], torch.tensor([place]))[0])
            likes = [(word @ frame / 0.01).exp() for frame in seen]
            weights = [w + x / sum(likes) / (len(tokens) - 1) for w, x in zip(weights, likes, strict=True)]
        video = sum(w * frame for w, frame in zip(weights, seen, strict=True))
        scores.append(video @ length_one(hand_crafted(tower)[number]))
    return model.scale * torch.stack(scores)


TWINS = {
    "linear probe": linear_probe,
    "Tip-Adapter-F": tip_adapter,
    "CoOp": coop,
    "CoCoOp": cocoop,
    "Ju et al.": ju,
    "ActionCLIP Transf": transf,
    "ActionCLIP LSTM": lstm,
    "X-CLIP head": xclip,
    "BIKE spotting": spotting,
}
LABELS = [2, 0, 2, 4]


def stirred(tower, name: str, frames: int = 4) -> Rival:
    """A model whose parts are all away from where they start; zero biases would hide errors."""
    model = METHODS[name](tower, NAMES, frames=frames)
    model.start(
        3 * fixed(len(LABELS), frames, tower.width).to(tower.mean.dtype).flip(0), torch.tensor(LABELS)
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.trained().values():
            value.add_(0.2 * torch.randn(value.shape, generator=generator).to(value))
    return model


def test_every_method_has_a_twin():
    assert TWINS.keys() == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_equals_its_slow_twin_in_logits_andadd_gradients(tower, name):
    model = stirred(tower, name)
    frames = 3 * fixed(2, 4, tower.width).to(torch.float64)
    fast, slow = model(frames)["logits"], torch.stack([TWINS[name](model, video) for video in frames])
    assert apart(fast, slow) < 1e-9
    if parameters := model.trained():
        weights = torch.randn(fast.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        both = [torch.autograd.grad((way * weights).sum(), [*parameters.values()]) for way in (fast, slow)]
        for part, found, expected in zip(parameters, *both, strict=True):
            # Keys shift all scores of a query alike, so attention's key bias has no gradient but rounding.
            key_bias = slice(tower.width, 2 * tower.width)
            if part.endswith("in_proj_bias"):
                assert found[key_bias].abs().max() < 1e-9 and expected[key_bias].abs().max() < 1e-9
                found, expected = (
                    torch.cat([x[: tower.width], x[2 * tower.width :]]) for x in (found, expected)
                )
            assert expected.norm() > 0 and apart(found, expected) < 1e-9, part


def apart(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


# ------------------------------------------------------------------------------------------------- counts


def test_parameter_counts_at_vit_b16_size():
    text = FULL_TEXT | {"layers": 1}
    tower = backbone({"embed_dim": 512, "vision_cfg": SMALL["vision_cfg"], "text_cfg": text})
    sizes = {
        name: {part: value.numel() for part, value in METHODS[name](tower, NAMES).trained().items()}
        for name in METHODS
        if name != "Ju et al."
    }
    total = {name: sum(parts.values()) for name, parts in sizes.items()}
    pre_norm = 3_152_384
    assert sum(value.numel() for value in block(512).parameters()) == pre_norm
    assert total["CoCoOp"] == 35_360 == 4 * 512 + 512 * 32 + 32 + 32 * 512 + 512
    assert total["ActionCLIP Transf"] == 77 * 512 + 6 * pre_norm
    assert total["CoOp"] == 16 * 512 and total["linear probe"] == len(NAMES) * 512
    assert total["BIKE spotting"] == total["Tip-Adapter-F"] == 0  # its keys come with the training videos
    mit = sum(size for part, size in sizes["X-CLIP head"].items() if part.startswith(("mit.", "positions")))
    assert mit == 8 * 512 + pre_norm
    ju = METHODS["Ju et al."](tower, NAMES).trained()
    assert sum(value.numel() for value in ju.values()) == 77 * 512 + 16 * 512 + pre_norm


# --------------------------------------------------------------------------------------------------- laws


def test_ju_s_prompts_behind_the_name_depend_on_its_length(tower):
    """The vectors are a table by position: a longer name pushes those behind it to other rows."""
    model = METHODS["Ju et al."](tower, ["kick", "kick the red ball"])
    short, long = model.ends.tolist()
    assert long > short and model.texts().shape == (2, tower.width)
    gradient = torch.autograd.grad(model.texts()[0].sum(), model.table.weight)[0].abs().sum(1)
    assert (
        gradient[short - 1] > 0 and not gradient[short:].any()
    )  # 16 behind a name of one token: rows 18 to 33
    gradient = torch.autograd.grad(model.texts()[1].sum(), model.table.weight)[0].abs().sum(1)
    assert gradient[short] > 0 and gradient[long - 1] > 0 and not gradient[17 : 17 + long - 33].any()


def test_ju_s_names_must_fit_between_the_vectors(tower):
    with pytest.raises(InputError, match="shorten the name"):
        METHODS["Ju et al."](tower, [" ".join(["kick"] * 50)])


def test_cocoop_gives_each_video_prompts_of_its_own_and_coop_does_not(tower):
    frames = 3 * fixed(2, 8, tower.width).to(torch.float64)
    own, shared = (METHODS[name](tower, NAMES)(frames)["texts"] for name in ("CoCoOp", "CoOp"))
    assert own.shape == (2, 5, tower.width) and (own[0] - own[1]).abs().max() > 1e-3
    assert shared.shape == (5, tower.width)


def test_a_linear_probe_starts_as_zero_shot_clip(tower):
    frames = 3 * fixed(2, 8, tower.width).to(torch.float64)
    model = METHODS["linear probe"](tower, NAMES)
    texts = PromptTree(tower, NAMES, 5)(prompt_vectors(tower, PROMPT)[None])[0]
    cosine = torch.nn.functional.cosine_similarity(frames.mean(1)[:, None], texts[None], dim=-1)
    torch.testing.assert_close(model(frames)["logits"], cosine * tower.clip.logit_scale.exp())


def test_concept_spotting_follows_the_frame_that_a_word_is_like(tower):
    model = METHODS["BIKE spotting"](tower, NAMES)
    frames = 3 * fixed(1, 8, tower.width).to(torch.float64)
    ends = model.share[0].bool().nonzero().max()
    frames[0, 5] = model.words[ends]  # the [EOS] of the first class
    weights = model(frames)["weights"]
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 5, dtype=torch.float64))
    assert weights[0, 0, 5] > 1 / model.share[0].bool().sum() * 0.9
    assert torch.allclose(model(frames.flip(1))["logits"], model(frames)["logits"])  # a set of frames


@pytest.mark.parametrize("name", ["linear probe", "Tip-Adapter-F", "CoOp", "CoCoOp", "BIKE spotting"])
def test_methods_without_a_temporal_layer_do_not_see_the_order(tower, name):
    model, frames = stirred(tower, name), 3 * fixed(2, 4, tower.width).to(torch.float64)
    torch.testing.assert_close(model(frames.flip(1))["logits"], model(frames)["logits"])


@pytest.mark.parametrize("name", ["Ju et al.", "ActionCLIP Transf", "ActionCLIP LSTM", "X-CLIP head"])
def test_methods_with_a_temporal_layer_see_the_order(tower, name):
    model, frames = stirred(tower, name), 3 * fixed(2, 4, tower.width).to(torch.float64)
    assert (model(frames.flip(1))["logits"] - model(frames)["logits"]).abs().max() > 1e-3


def test_same_seed_same_parts_and_no_draw_from_the_caller_s_stream(tower):
    for name in TRAINED:
        state = torch.random.get_rng_state()
        first, again, other = (METHODS[name](tower, NAMES, seed).trained() for seed in (3, 3, 4))
        assert torch.equal(state, torch.random.get_rng_state())
        assert all(torch.equal(first[part], again[part]) for part in first)
        if name not in ("linear probe", "Tip-Adapter-F"):  # nothing of theirs is drawn
            assert any(not torch.equal(first[part], other[part]) for part in first)


def test_frames_of_another_shape_are_refused(tower):
    with pytest.raises(InputError, match=r"T=8, D=32"):
        METHODS["CoOp"](tower, NAMES)(torch.zeros(2, 7, 32))


# ----------------------------------------------------------------------------------------------- training

FEATURES = 3 * fixed(10, 1, 32, 32).numpy()  # ten videos, 32 stored frames
TARGETS = np.arange(10) % 5


def quick(name: str, **changes) -> Recipe:
    optimiser = METHODS[name].recipe.optimiser
    fields = {
        "lr": 0.01,
        "batch": 4,
        "epochs": None,
        "steps": 4,
        "crops": ("centre",),
        "optimiser": optimiser,
    }
    return Recipe(**fields | changes)


@pytest.mark.parametrize("name", TRAINED)
def test_training_moves_every_trained_part_and_no_frozen_one(small, name):
    model = METHODS[name](small, NAMES)
    model.start(torch.from_numpy(FEATURES[:, 0, : model.config.frames]), torch.from_numpy(TARGETS))
    before = {part: value.detach().clone() for part, value in model.trained().items()}
    frozen = {part: value.clone() for part, value in small.state_dict().items()}
    fresh = METHODS[name](small, NAMES)
    losses = train(fresh, FEATURES, TARGETS, quick(name))
    assert len(losses) == 4 and before.keys() == fresh.trained().keys()
    for part, value in fresh.trained().items():
        assert not torch.equal(value, before[part]), part
    assert all(torch.equal(value, frozen[part]) for part, value in small.state_dict().items())
    assert all(value.grad is None for value in small.parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_a_resumed_training_equals_a_whole_one(small, name, tmp_path):
    whole, resumed = (METHODS[name](small, NAMES) for _ in range(2))
    losses = train(whole, FEATURES, TARGETS, quick(name))
    state = tmp_path / "state"
    train(METHODS[name](small, NAMES), FEATURES, TARGETS, quick(name), checkpoint=state, stop_after=2)
    assert state.exists()
    told: list = []
    log = lambda *said: told.append(said)  # noqa: E731
    assert train(resumed, FEATURES, TARGETS, quick(name), checkpoint=state, log=log) == losses
    assert not state.exists() and [said[:2] for said in told] == list(enumerate(losses, 1))
    assert all(torch.equal(value, resumed.trained()[part]) for part, value in whole.trained().items())


@pytest.mark.parametrize("damage", ["bytes", "another run", "nan"])
def test_a_damaged_or_foreign_state_is_left_aside(small, tmp_path, damage, capsys):
    name, state = "CoOp", tmp_path / "state"
    train(METHODS[name](small, NAMES), FEATURES, TARGETS, quick(name), checkpoint=state, stop_after=2)
    seed = 1 if damage == "another run" else 0
    if damage == "bytes":
        state.write_bytes(state.read_bytes()[:-9])
    if damage == "nan":
        content = bytearray(state.read_bytes())
        content[-4:] = np.float32("nan").tobytes()
        state.write_bytes(content)
    found = train(METHODS[name](small, NAMES), FEATURES, TARGETS, quick(name), seed, checkpoint=state)
    assert found == train(METHODS[name](small, NAMES), FEATURES, TARGETS, quick(name), seed)
    assert "begins anew" in capsys.readouterr().err


def test_micro_batches_change_no_gradient(tower, monkeypatch):
    videos, targets = 3 * fixed(5, 4, tower.width).to(torch.float64), torch.tensor([0, 1, 2, 3, 4])
    from flowclip_kit.rivals import training

    found = {}
    for size in (5, 2):
        monkeypatch.setattr(METHODS["CoCoOp"].kind, "videos_at_once", size)
        model = stirred(tower, "CoCoOp")
        loss = training.add_gradients(model, videos, targets, quick("CoCoOp", smoothing=0.1))
        found[size] = [torch.tensor([loss], dtype=torch.float64), *(v.grad for v in model.trained().values())]
    for whole, parts in zip(*found.values(), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_the_rate_warms_up_then_follows_half_a_cosine():
    cosine = [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert [rate_at(step, 10, Recipe(lr=1.0)) for step in range(10)] == pytest.approx(cosine)
    linear = [rate_at(step, 10, Recipe(lr=1.0, warm_up=0.3)) for step in range(10)]
    assert linear == pytest.approx([0.25, 0.5, 0.75, *cosine[3:]])
    constant = [rate_at(step, 10, Recipe(lr=1.0, warm_up=0.2, warm_up_lr=1e-5)) for step in range(10)]
    assert constant == pytest.approx([1e-5, 1e-5, *cosine[2:]])


def test_recipes_that_make_no_sense_are_refused():
    for wrong, match in (
        ({"optimiser": "adam"}, "sgd, adamw"),
        ({"warm_up": 1.0}, "below 1"),
        ({"lr": -1.0}, "lr"),
    ):
        with pytest.raises(InputError, match=match):
            Recipe(**wrong)


def test_training_that_diverges_says_the_step_and_the_rate(small):
    with pytest.raises(Diverged, match=r"step \d of 4, learning rate 1e\+30"):
        train(METHODS["CoOp"](small, NAMES), FEATURES, TARGETS, quick("CoOp", lr=1e30))


def test_labels_and_crops_that_do_not_fit_are_refused(small):
    model = METHODS["CoOp"](small, NAMES)
    with pytest.raises(InputError, match="expected one each"):
        train(model, FEATURES, TARGETS[:3], quick("CoOp"))
    with pytest.raises(InputError, match="5 classes"):
        train(model, FEATURES, TARGETS + 1, quick("CoOp"))
    with pytest.raises(InputError, match="'left'"):
        train(model, FEATURES, TARGETS, quick("CoOp", crops=("left",)))


def test_coop_trains_longer_with_more_videos_as_published():
    assert [METHODS["CoOp"].published(k).epochs for k in (1, 2, 4, 8, 16, None)] == [
        50,
        100,
        100,
        200,
        200,
        200,
    ]
    assert all(METHODS[name].published(4) == METHODS[name].recipe for name in METHODS if name != "CoOp")
