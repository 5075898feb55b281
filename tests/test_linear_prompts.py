"""First-order prompts: equal to a slow twin by double backward, exact for small shifts, trained alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, backbone, fixed
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowclip_core.config import EvalConfig, ModelConfig, TrainConfig
from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.training import loop
from flowclip_kit.experiments import linear_prompts
from flowclip_kit.rivals import Recipe
from flowclip_kit.rivals.linear_prompts import LinearPrompts, expansion, linear_texts, relative_error
from flowclip_kit.rivals.training import train

NAMES = ["sit down", "stand up", "kick ball", "kick", "smile"]


@pytest.fixture
def model():
    return FlowCLIP(ModelConfig(adapter_width=4), backbone(SMALL, dtype=torch.float64), NAMES).double()


def slow(model: FlowCLIP, frames: torch.Tensor) -> torch.Tensor:
    """Logits with the Jacobian written out entry by entry, by backward passes alone."""
    out = model.encode_video(frames)
    first, _, last = model.prompts.adapter
    inner = torch.relu(out["motion"] @ first.weight.T + first.bias)
    start = model.prompts.vectors + last.bias
    jacobian = torch.autograd.functional.jacobian(lambda p: model.tree(p[None])[0], start, create_graph=True)
    texts = []
    for video in inner:
        shift = sum(a * column for a, column in zip(video, last.weight.T, strict=True))
        texts.append(model.tree(start[None])[0] + torch.einsum("kdhw,w->kd", jacobian, shift))
    return model.score_classes(out, torch.stack(texts))["logits"]


def test_logits_equal_those_of_the_whole_jacobian(model):
    frames = 3 * fixed(2, 8, 32).double()
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no second derivative
        expected = slow(model, frames).detach()
    torch.testing.assert_close(LinearPrompts(model).train()(frames)["logits"], expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        found = LinearPrompts(model).eval()(frames)["logits"]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gradients_of_the_training_equal_finite_differences(model):
    """Along a random direction of each trained parameter."""
    frames, labels = 3 * fixed(4, 8, 32).double(), torch.tensor([0, 1, 2, 4])
    linear, step = LinearPrompts(model), 1e-7
    parameters = linear.trained()
    loss = torch.nn.functional.cross_entropy(linear.train()(frames)["logits"], labels)
    gradients = torch.autograd.grad(loss, [*parameters.values()])

    @torch.no_grad()
    def moved(parameter: torch.Tensor, shift: torch.Tensor) -> float:
        parameter += shift
        logits = linear.eval()(frames)["logits"]
        parameter -= shift
        linear.train()  # forgets the texts
        return float(torch.nn.functional.cross_entropy(logits, labels))

    draws = torch.Generator().manual_seed(0)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
        slope = (moved(parameter, step * direction) - moved(parameter, -step * direction)) / (2 * step)
        found = float((gradient * direction).sum())
        assert found == pytest.approx(slope, rel=1e-5, abs=2e-8), name
    assert all(gradients[list(parameters).index(name)].abs().max() > 1e-5 for name in parameters
               if name.startswith("prompts."))  # fmt: skip


def test_the_error_falls_with_the_shift_and_is_none_without(model):
    frames, errors = 3 * fixed(3, 8, 32).double(), []
    for factor in (1e-2, 1e-1, 1e-1):
        with torch.no_grad():
            model.prompts.adapter[2].weight.mul_(factor)
        errors.append(relative_error(model, frames)["error"])
    assert (
        errors[0] / errors[1] == pytest.approx(10, rel=0.2) == errors[1] / errors[2]
    )  # second order is left
    with torch.no_grad():
        model.prompts.adapter[2].weight.zero_()
        base, derivatives = expansion(model)
        assert not derivatives.any()
        torch.testing.assert_close(base[None], model.tree(model.encode_video(frames)["prompts"])[:1])
        torch.testing.assert_close(linear_texts(base, derivatives, fixed(3, 4).double())[2], base)


def test_a_model_whose_prompts_do_not_move_is_refused(small):
    for config in (ModelConfig(map=False), ModelConfig(adapter_width=0), ModelConfig(mmb=False)):
        with pytest.raises(InputError, match="motion adapter"):
            LinearPrompts(FlowCLIP(config, small, NAMES))


def test_it_trains_and_is_tested_as_any_model(small):
    features, labels = 3 * fixed(10, 1, 32, 32).numpy(), np.arange(10) % 5
    linear = LinearPrompts(FlowCLIP(ModelConfig(adapter_width=4), small, NAMES))
    before = {name: value.detach().clone() for name, value in linear.trained().items()}
    losses = train(linear, features, labels, Recipe(lr=0.05, batch=5, epochs=2, crops=("centre",)))
    assert len(losses) == 4 and all(not torch.equal(v, before[name]) for name, v in linear.trained().items())
    score = loop.score(linear, features, EvalConfig(clips=1, crops=("centre",)))
    again = loop.score(linear, features, EvalConfig(clips=1, crops=("centre",)))
    assert np.allclose(score.sum(1), 1) and np.array_equal(score, again)


def test_the_training_of_rivals_is_flowclip_s_own_where_their_recipes_agree(small):
    """SGD, a cosine, no warm-up: the same steps as `flowclip_core.train`, but for rounding."""
    features, labels = 3 * fixed(10, 1, 32, 32).numpy(), np.arange(10) % 5

    class AsRival(FlowCLIP):
        videos_at_once = 2

        def start(self, frames, labels):
            pass

    settings = {"lr": 0.05, "batch": 4, "epochs": 2, "crops": ("centre",)}
    ours, rival = FlowCLIP(ModelConfig(), small, NAMES), AsRival(ModelConfig(), small, NAMES)
    expected = loop.train(ours, features, labels, TrainConfig(**settings)).losses
    assert train(rival, features, labels, Recipe(**settings)) == pytest.approx(expected, rel=1e-4)
    for name, value in ours.trained().items():
        torch.testing.assert_close(rival.trained()[name], value, rtol=1e-3, atol=1e-5)


def test_a_recorded_study_says_what_the_measured_one_says(tmp_path):
    course = pd.DataFrame({"step": [0, 150], "error": [0.5, 0.25], "effect": [0.125, 0.5]})
    names = [(a, b) for a in ("true", "linear") for b in ("true", "linear")]
    scores = pd.DataFrame([(*pair, 10.0 * n) for n, pair in enumerate(names)],
                          columns=["trained with", "tested with", "top1"])  # fmt: skip
    cost = pd.DataFrame({"what": ["true texts", "linear texts"], "videos": 4, "passes": [4, 33],
                         "seconds": [2.0, 1.0]})  # fmt: skip
    measured, path = linear_prompts.Study(course, scores, cost), tmp_path / "study.csv"
    path.write_text(measured.csv)
    read = linear_prompts.Study.read(path)
    assert read.findings() == measured.findings() and read.csv == measured.csv
    for name, table in vars(measured).items():
        pd.testing.assert_frame_equal(getattr(read, name), table)
    with pytest.raises(InputError, match="no table of this study"):
        linear_prompts.Study.read(tmp_path / "none.csv")
    asked = {"profile": "demo", "source": "recorded", "dataset": "HMDB-51", "k": 4, "seed": 0, "steps": None}
    with pytest.raises(InputError, match=r"'k': 16.* is recorded"):
        linear_prompts.from_notebook(asked)
