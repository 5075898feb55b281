"""The benchmarks compare ways that agree, count what they say they count, and write where their marks are."""

from __future__ import annotations

import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import fixed
from test_features import write_video

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.model.prompt_tree import PromptTree
from flowclip_kit import readme_parts
from flowclip_kit.bench import _common as common
from flowclip_kit.bench import costs, extraction, pretraining, prompts, rounding, thumbnails, training
from flowclip_kit.experiments.speed import Cost, Speed


@pytest.fixture(autouse=True)
def little(monkeypatch, cache):
    """Small matrices, and the session's drawn worlds: what is tested is not the speed."""
    monkeypatch.setattr(common, "MATRICES", {"cpu": (64,), "cuda": (64,)})
    monkeypatch.setenv("FLOWCLIP_CACHE", str(cache))


NAMES = ["brush hair", "brush teeth", "climb", "climb stairs", "wave"]


def test_the_four_ways_give_the_same_texts_and_gradients(small):
    vectors = (0.1 * fixed(2, prompts.H, small.text_width)).requires_grad_()
    weights = fixed(2, len(NAMES), small.width)
    ways = prompts.ways_of(small, NAMES)
    exact, gradient = (
        prompts.forward(ways[prompts.NAIVE], vectors),
        prompts.both(ways[prompts.NAIVE], vectors, weights),
    )
    assert list(ways) == [prompts.NAIVE, prompts.CUT, prompts.PREFIX, prompts.TREE] and exact.shape == (
        2,
        5,
        32,
    )
    for name, parts in ways.items():
        assert prompts.apart(prompts.forward(parts, vectors), exact) < 2e-6, name
        assert prompts.apart(prompts.both(parts, vectors, weights), gradient) < 2e-6, name
    other = prompts.forward(prompts.ways_of(small, NAMES[::-1])[prompts.TREE], vectors)
    assert prompts.apart(other, exact) > 0.01  # another order of classes is seen


def test_useful_work_is_that_of_the_nodes(small):
    """Counted once more, node by node and layer by layer."""
    tree = PromptTree(small, NAMES, prompts.H)
    width, shared, layers = small.text_width, small.width, small.clip.transformer.layers
    layout, square = tree.layout, 2 * small.text_width**2
    depth = {}  # node -> tokens that it attends to
    for slot, token in enumerate(layout.tokens):
        if token >= 0:
            depth[slot] = tree.prefix + layout.depths[slot]
    prefix = [number + 1 for number in range(tree.prefix)]
    forward = attention = 0
    for layer in range(layers):
        last = layer == layers - 1
        asking = [depth[leaf] for leaf in layout.leaves] if last else prefix + list(depth.values())
        every = prefix + list(depth.values())
        keyed = prefix if layer == 0 else every
        asked = asking if layer else prefix
        forward += square * (2 * len(keyed) + len(asked))  # keys, values; queries
        forward += 9 * square * len(asking)
        attention += sum(4 * width * seen for seen in asking)
    forward += 2 * len(NAMES) * width * shared
    ahead, back = prompts.useful_gflop(tree, small)
    assert ahead == pytest.approx((forward + attention) / 1e9) and back == pytest.approx(
        (forward + 2 * attention) / 1e9
    )


def test_extraction_is_measured_with_any_backbone(tmp_path, capfd, monkeypatch):
    for seed in range(2):
        write_video(tmp_path / "videos" / f"{seed}.avi", seed)
    (tmp_path / "videos" / "broken.avi").write_bytes(b"no video")

    def run(*arguments: str) -> int:
        words = [
            "extraction",
            str(tmp_path / "videos"),
            "--backbone",
            "tiny-clip",
            "--few",
            "0",
            "--frames",
            "2",
        ]
        monkeypatch.setattr("sys.argv", words + list(arguments))
        return extraction.main()

    assert run("--rounds", "2") == 0
    out, err = capfd.readouterr()
    assert "2 videos a lane, 2 frames x 1 crops" in out and "(median of 2: " in out and "broken.avi" in err
    assert run("--rounds", "0") == 2 and "--rounds" in capfd.readouterr().err


def test_what_was_predicted_is_done_and_compared(monkeypatch, capfd):
    """With a made-up machine, so that the ratios are known to come from the two columns."""
    price = Cost(step=0.5, video=0.25, once=2.0, view=0.125, gib=1.0)
    monkeypatch.setattr(
        costs.speed, "measure", lambda _, __, ___, kinds, texts: Speed(1.0, 2, {str(k): price for k in kinds})
    )
    monkeypatch.setattr(costs, "STEPS", {"HMDB-51": 2})

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["costs", *arguments])
        return costs.main(), *capfd.readouterr()

    code, out, _ = run("--profile", "smoke", "--seeds", "1", "--shots", "2", "--backbone", "tiny-clip")
    rows = [line.split() for line in out.splitlines() if line.startswith("figures-")]
    assert code == 0 and [row[:2] for row in rows] == [
        [name, variant] for name in ("figures-h", "figures-u") for variant in costs.VARIANTS
    ]
    # Three steps, 2 videos a class: whole batches on figures-h, on figures-u a shorter last one.
    assert float(rows[0][3]) == pytest.approx(3 * price.step + (32 + 32 + 32) * price.video)
    assert float(rows[3][3]) == pytest.approx(3 * price.step + (32 + 16 + 32) * price.video)
    for row in rows:
        assert float(row[2]) > 0 < float(row[5]) and float(row[4]) > 1 < float(row[7])
    step = next(line.split() for line in out.splitlines() if line.startswith("HMDB-51 "))
    assert step[1] == "2" and float(step[3]) == price.step + 2 * price.video
    for wrong in (("--seeds", "0"), ("--seeds", "2", "--profile", "smoke"), ("--shots", "0")):
        code, _, err = run(*wrong)
        assert code == 2 and err.count("\n") == 1 and "--seeds" in err


def test_a_block_is_written_between_its_marks(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "root", lambda: tmp_path)
    readme = tmp_path / common.README
    readme.parent.mkdir(parents=True)
    marks = "<!-- x: made by ./reproduce.sh bench x --record -->", "<!-- x: end -->"
    readme.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    for said in ("new", "newer"):
        common.record("x", "x", said)
        assert readme.read_text() == f"before\n{marks[0]}\n\n```text\n{said}\n```\n\n{marks[1]}\nafter\n"
    with pytest.raises(InputError, match="lacks the lines"):
        common.record("y", "y", "said")


def test_a_nudge_is_the_last_bit_of_every_weight_and_another_seed_nudges_otherwise(small):
    plain, once, again, other = (FlowCLIP(ModelConfig(), small, NAMES) for _ in range(4))
    for model, seed in ((once, 1), (again, 1), (other, 2)):
        rounding.nudge(model, seed)
    for name, value in plain.trained().items():
        moved = (once.trained()[name] - value).abs()
        assert torch.equal(once.trained()[name], again.trained()[name])
        assert ((moved > 0) == (value != 0)).all(), f"{name}: a weight is not nudged"
        assert (moved <= 2.5e-7 * value.abs()).all(), f"{name}: nudged by more than its last bits"
        assert not value.any() or not torch.equal(once.trained()[name], other.trained()[name])


def test_ratios_pair_the_rounds():
    assert common.ratio([4.0, 6.0, 20.0], [2.0, 2.0, 2.0]) == (3.0, 2.0, 10.0)
    order = []
    spent = common.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b", "a", "b"] and [len(rounds) for rounds in spent.values()] == [2, 2]
    assert common.matmul_peak("cpu", torch.float32)(0.01) > 0.1


def test_lists_are_measured_with_every_core_at_work(small, monkeypatch):
    monkeypatch.setattr(prompts, "CLASSES", {"HMDB-51": NAMES})
    monkeypatch.setattr(prompts, "load_backbone", lambda *_, **__: small)
    said = prompts.measure("cpu", ["HMDB-51"], 1, 2)
    assert "on 2 CPU cores" in said and f"5 classes, {51 // 5} rounds" in said
    for name in (prompts.NAIVE, prompts.CUT, prompts.PREFIX, prompts.TREE):
        assert f"\n{name}" in said
    assert said.count("% of the peak (") == 2
    one_more = prompts.one_by_one(small, [*NAMES[:-1], "run"], cut=True)
    monkeypatch.setattr(prompts, "one_by_one", lambda *_, **__: one_more)  # another class list
    with pytest.raises(InputError, match="the ways disagree"):
        prompts.measure("cpu", ["HMDB-51"], 1, 1)


def test_a_step_is_timed_beside_what_it_spares(small, monkeypatch, capfd):
    monkeypatch.setattr(training, "CLASSES", {"HMDB-51": NAMES})
    monkeypatch.setattr(training, "load_backbone", lambda *_, **__: small)
    monkeypatch.setattr("sys.argv", ["training", "--rounds", "2", "--no-memory", "--device", "cpu"])
    assert training.main() == 0
    said = capfd.readouterr().out
    for name in (
        "step, all parts",
        "one video, 77 tokens",
        "static texts, once",
        "features, drawn",
        "matmul peak",
    ):
        assert f"\n{name} " in said
    assert "features, encoded / features, drawn: " in said and "s a video at 159" in said
    monkeypatch.setattr("sys.argv", ["training", "--rounds", "0"])
    assert training.main() == 2 and "--rounds" in capfd.readouterr().err
    monkeypatch.setattr("sys.argv", ["training", "--record", "--no-memory"])
    assert training.main() == 2 and "--no-memory" in capfd.readouterr().err


# --- thumbnails and pre-trainings


def test_a_description_knows_what_is_seen_and_not_in_which_order():
    frames = (255 * torch.rand(5, 24, 40, 3, generator=torch.Generator().manual_seed(0))).byte().numpy()
    found = thumbnails.describe(frames)
    assert found.shape == (6 * thumbnails.SIDE**2,)
    assert np.allclose(thumbnails.describe(frames[::-1]), found, atol=1e-12)
    other = frames.copy()
    other[2, 3:6, 5:10] = 255 - other[2, 3:6, 5:10]
    assert not np.allclose(thumbnails.describe(other), found, atol=1e-3)
    still = thumbnails.describe(np.repeat(frames[:1], 5, 0))
    assert np.allclose(still[3 * thumbnails.SIDE**2 :], 0, atol=1e-12)
    corner = frames[0, :3, :5].mean((0, 1)) / 255  # slow twin: the mean of a cell's pixels
    assert np.allclose(still[: thumbnails.SIDE**2 * 3].reshape(3, -1)[:, 0], corner)


def test_the_probe_separates_what_a_line_separates_and_nothing_else():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = rng.normal(size=(60, 4)) + 6 * np.eye(4)[labels]
    assert (thumbnails.probe(x[:30], labels[:30], x[30:], 1e-3) == labels[30:]).mean() > 0.95
    noise = rng.permutation(labels[:30])
    assert (thumbnails.probe(x[:30], noise, x[30:], 1e-3) == labels[30:]).mean() < 0.8
    order = rng.permutation(30)
    again = thumbnails.probe(x[:30][order], labels[:30][order], x[30:], 1e-1)
    assert (again == thumbnails.probe(x[:30], labels[:30], x[30:], 1e-1)).all()


def differences_of(*means: tuple[float, ...], clip=(50.0, 40.0, 45.0)) -> pd.DataFrame:
    """A study of pre-trainings: a row of differences for each tuple of means, one for each pre-training.
    clip: scores of their frozen CLIP."""
    rows = [
        {"dataset": "figures-h", "variant": "full", "reference": "mmb", "k": k, "n": 5, "mean": mean,
         "low": mean - 2, "high": mean + 2, "p": 0.1, "pretraining": seed}
        for k, of_k in enumerate(means, 1) for seed, mean in enumerate(of_k)
    ]  # fmt: skip
    scores = [rows[0] | {"variant": "clip", "reference": "", "mean": score, "pretraining": seed}
              for seed, score in enumerate(clip)]  # fmt: skip
    return pd.DataFrame(rows + scores)


def test_what_agrees_over_pretrainings_is_counted():
    said = readme_parts.pretraining(differences_of((3.0, 4.0, 5.0), (-1.0, -1.0, -3.0), (1.0, -1.0, 1.0)))
    assert "Of these 3 differences 2 have one sign under all 3 pre-trainings, and 1 have every" in said
    assert "| figures-h, 1 | full less mmb | +3.0 [+1.0, +5.0] | +4.0" in said
    assert "| figures-h | frozen clip, chance 6.2 % | 50.0 % | 40.0 % | 45.0 % |" in said
    lost = readme_parts.pretraining(
        differences_of((3.0, 4.0, -5.0), (-1.0, 2.0, 0.0), clip=(50.0, 40.0, 6.0))
    )
    assert "Pre-training 2 came to nothing" in lost and "nothing" not in said
    assert "Of these 2 differences 1 have one sign under the other 2 pre-trainings, and 1 have" in lost


def test_a_pretraining_is_made_once_and_the_shipped_one_never(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path))
    calls = []

    def make(command, **_):
        calls.append(command[-4:])
        folder = tmp_path / "demo" / "tiny_clip-2"
        folder.mkdir(parents=True)
        (folder / "tiny_clip.safetensors").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(pretraining.subprocess, "run", make)
    assert pretraining.weights(0) is None
    assert pretraining.weights(2) == pretraining.weights(2) == str(tmp_path / "demo" / "tiny_clip-2")
    assert calls == [["--seed", "2", "--out", str(tmp_path / "demo" / "tiny_clip-2")]]
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(pretraining.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match="pre-training with seed 1 failed"):
        pretraining.weights(1)
