"""The demo world and its tiny CLIP: laws of the stills, the files, the captions and the weights."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowclip_core.errors import InputError
from flowclip_core.files import sha256
from flowclip_kit.demo import backbone, figures, world
from flowclip_kit.demo.actions import ACTIONS
from flowclip_kit.demo.makers import captions, pretrain
from flowclip_kit.experiments import devices, loading
from flowclip_kit.experiments.experiment import Experiment, Options
from flowclip_kit.profiles import DEMO

PAIRS = [(name, *pair) for name in world.LOOKS for pair in world.pairs(name)]
SMALL = {
    "figures-h": ("sit_down", "stand_up"),
    "figures-u": ("PushCart", "PullCart"),
    "figures-k": ("sit down", "golf swing"),
}
TEMPLATES = (
    "human action of",
    "a human action of",
    "a common human action of",
    "the common human action of",
    "a popular human action of",
)


def still(name: str, action: figures.Action, phase: float, seed: int) -> np.ndarray:
    return figures.Nuisance(world.LOOKS[name], 1, np.random.default_rng(seed)).frame(action.at(phase), 0)


# --- stills and films ---


@pytest.mark.parametrize(("name", "forward", "backward"), PAIRS)
def test_the_classes_of_a_pair_show_the_same_stills_in_opposite_order(name, forward, backward):
    a, b = world.action_of(name, forward), world.action_of(name, backward)
    films = [[still(name, action, i / 8, seed=5).tobytes() for i in range(9)] for action in (a, b)]
    assert films[0] == films[1][::-1]
    assert films[0] != films[1]
    assert len(set(films[0])) == 9


def test_there_are_five_pairs_of_sixteen_and_three_of_twenty_four():
    assert [(len(world.CLASSES[n]), len(world.pairs(n))) for n in world.NAMES] == [(16, 5), (24, 3), (40, 8)]


def test_same_seed_same_bytes_other_seed_other_bytes():
    first = world.render("figures-u", "GolfSwing", 3)
    assert first.shape == (32, 64, 80, 3) and first.dtype == np.uint8
    assert world.encode(first) == world.encode(world.render("figures-u", "GolfSwing", 3))
    assert not np.array_equal(first, world.render("figures-u", "GolfSwing", 4))
    assert not np.array_equal(first, world.render("figures-u", "Archery", 3))


def test_speed_and_trim_favour_no_direction_of_time():
    action, draws = ACTIONS["sit"], 4000
    rng = np.random.default_rng(0)
    phases = np.stack([figures.warped_phases(action, 9, rng) for _ in range(draws)])
    assert np.all(np.diff(phases, axis=1) > 0)
    backwards = 1 - phases[:, ::-1]
    assert np.allclose(phases.mean(axis=0), backwards.mean(axis=0), atol=0.01)
    assert np.allclose(phases.std(axis=0), backwards.std(axis=0), atol=0.01)


def test_the_camera_has_no_clock():
    walks = np.stack(
        [figures.Nuisance(world.LOOKS["figures-h"], 32, np.random.default_rng(i)).camera for i in range(400)]
    )
    spread = walks.astype(float).std(axis=0).mean(axis=1)
    assert spread[0] > 0.5  # it does not start at zero
    assert abs(spread[0] - spread[-1]) < 0.35  # and both ends look alike


def test_a_capsule_covers_its_area():
    nuisance = figures.Nuisance(world.LOOKS["figures-h"], 1, np.random.default_rng(0))
    canvas = np.zeros((3, 64, 80), np.float32)
    nuisance._capsule(canvas, 20.3, 30.1, 50.7, 41.2, 4.0, np.ones((3, 1, 1), np.float32))
    length = np.hypot(50.7 - 20.3, 41.2 - 30.1)
    assert canvas[0].sum() == pytest.approx(2 * 4.0 * length + np.pi * 16, rel=0.01)


def test_the_figure_stands_on_the_ground_and_keeps_its_bones():
    for action in ACTIONS.values():
        for i in range(9):
            state = action.at(i / 8)
            points = state.joints()
            assert np.hypot(*np.subtract(points["hip"], points["neck"])) == pytest.approx(figures.TORSO)
            assert np.hypot(*np.subtract(points["far_knee"], points["far_foot"])) == pytest.approx(
                figures.LEG
            )
            if not action.hangs:
                joints = [p for n, p in points.items() if n not in ("prop", "grip")]
                assert min(y for _, y in joints) == pytest.approx(figures.LIMB + state.lift)


# --- files ---


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    return {
        name: world.ensure(name, root, size=world.Size(labels, train=2, test=1))
        for name, labels in SMALL.items()
    }


def frames_of(path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height, stream.average_rate) == (
            "mpeg4",
            80,
            64,
            12,
        )
        return sum(1 for _ in container.decode(stream))


def test_each_set_has_the_layout_of_the_set_it_stands_for(small_world):
    for folder in small_world.values():
        videos = list(folder.rglob("*.avi"))
        assert len(videos) == 6 and all(frames_of(v) == 32 for v in videos[:2])
    h, u, k = small_world.values()
    for split in (1, 2, 3):
        for label in SMALL["figures-h"]:
            lines = (h / f"testTrainMulti_7030_splits/{label}_test_split{split}.txt").read_text().splitlines()
            assert sorted(line.split()[1] for line in lines) == ["1", "1", "2"]
            assert all((h / "videos" / label / line.split()[0]).exists() for line in lines)
        index = dict(
            line.split()[::-1] for line in (u / "ucfTrainTestlist/classInd.txt").read_text().splitlines()
        )
        train = (u / f"ucfTrainTestlist/trainlist{split:02d}.txt").read_text().splitlines()
        test = (u / f"ucfTrainTestlist/testlist{split:02d}.txt").read_text().splitlines()
        assert (len(train), len(test)) == (4, 2)
        assert all(index[line.split("/")[0]] == line.split()[1] for line in train)
        names = {line.split()[0] for line in train} | set(test)
        assert len(names) == 6 and all((u / "UCF-101" / name).exists() for name in names)
        assert all(re.fullmatch(r"(\w+)/v_\1_g\d\d_c\d\d\.avi", name) for name in names)
    for part, count in (("train", 4), ("val", 2)):
        rows = list(csv.DictReader((k / f"{part}.csv").read_text().splitlines()))
        assert len(rows) == count and {row["split"] for row in rows} == {part}
        for row in rows:
            video = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}.avi"
            assert (k / part / row["label"] / video).exists()
    assert (h / "time_reversed_pairs.csv").read_text() == "a,b\nsit_down,stand_up\n"
    assert (u / "time_reversed_pairs.csv").read_text() == "a,b\nPushCart,PullCart\n"


def test_splits_differ_and_have_the_promised_sizes():
    drawn = [world.test_videos("figures-h", "run", split, world.WHOLE) for split in (1, 2, 3)]
    assert all(len(part) == world.TEST and set(range(40, 88)) < part for part in drawn)
    assert len({frozenset(part) for part in drawn}) == 3


@pytest.mark.parametrize("name", world.NAMES)
def test_a_world_with_more_test_videos_has_the_same_training_videos(name):
    label = next(iter(world.CLASSES[name]))
    for split in (1, 2, 3):
        small, large = (
            world.test_videos(name, label, split, world.Size(test=test)) for test in (world.DRAWN, 64)
        )
        assert small < large and len(large) == 64
        assert set(range(24 + 64)) - large == set(range(24 + world.DRAWN)) - small
    assert len(world.test_videos(name, label, 1, world.Size(train=4, test=2))) == 2


def test_a_second_call_returns_at_once_and_other_sizes_are_refused(small_world, monkeypatch):
    root, size = small_world["figures-h"].parent, world.Size(SMALL["figures-h"], 2, 1)
    monkeypatch.setattr(world, "_write_class", None)
    assert world.ensure("figures-h", root, size=size) == small_world["figures-h"]
    with pytest.raises(InputError, match="delete it"):
        world.ensure("figures-h", root)
    with pytest.raises(InputError, match="figures-x: no such demo set"):
        world.ensure("figures-x", root)


def test_a_killed_ensure_leaves_no_orphan_and_no_half_video_and_two_at_once_finish_it(tmp_path):
    root = backbone.FOLDER.parents[2]
    script = tmp_path / "run.py"
    size = world.Size(("run", "wave"), 10, 4)
    script.write_text(
        "from pathlib import Path\nfrom flowclip_kit.demo import world\nif __name__ == '__main__':\n"
        f"    world.ensure('figures-h', Path({str(tmp_path)!r}), 2, size=world.{size})\n"
    )

    def start() -> psutil.Popen:
        return psutil.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(root)})

    process = start()
    deadline = time.time() + 15
    while not list(tmp_path.rglob("*.avi")) and time.time() < deadline:
        time.sleep(0.02)
    children = process.children(recursive=True)
    process.kill()
    process.wait()
    assert children
    assert not psutil.wait_procs(children, timeout=60)[1]
    videos = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.avi")}
    assert videos and all(frames_of(path) == 32 for path in videos)
    assert not (tmp_path / "figures-h/complete.txt").exists()

    other = start()
    folder = world.ensure("figures-h", tmp_path, size=size)
    assert other.wait(120) == 0
    assert (folder / "complete.txt").exists() and len(list(folder.rglob("*.avi"))) == 28
    assert all(path.stat().st_mtime_ns == before for path, before in videos.items())


def test_renderer_and_world_need_no_torch():
    modules = "flowclip_kit.demo.world, flowclip_kit.demo.makers.captions"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=backbone.FOLDER.parents[2], check=False)
    assert done.returncode == 0


# --- captions ---


@pytest.mark.parametrize("base", sorted(captions.PAIRED))
def test_captions_cannot_tell_the_direction_of_time(base):
    counts = {}
    for i in range(9):
        told = []
        for action, phase in ((ACTIONS[base], i / 8), (ACTIONS[base].reversed(), 1 - i / 8)):
            nuisance = figures.Nuisance(pretrain.WEB, 1, np.random.default_rng(i))
            seen = captions.describe(action.at(phase), nuisance)
            rng = np.random.default_rng(7)
            told.append([captions.caption(seen, rng) for _ in range(200)])
        assert told[0] == told[1]
        words = [word for text in told[0] for word in text.replace(".", " ").split()]
        assert not {"up", "down"} & set(words)
        if base not in ("sit", "climb"):
            counts[i] = [sum(words.count(w) for w in (verb.split()[0],)) for verb in captions.VERBS[base]]
    for one, other in counts.values():  # a fair coin, early and late in the action alike
        assert abs(one - other) < 5 * (one + other) ** 0.5


def test_captions_say_every_word_of_templates_and_classes():
    drawn = pretrain.web_stills(400, seed=1, jobs=1)[1]
    rng = np.random.default_rng(0)
    said = {
        word
        for _ in range(40)
        for s in drawn
        for word in captions.caption(s, rng).replace(".", " . ").split()
    }
    assert said == set(captions.vocabulary())
    classes = {
        word for name in world.NAMES for label in world.CLASSES[name] for word in world.spaced(label).split()
    }
    assert classes | set(" ".join(TEMPLATES).split()) | {"."} <= said


def test_the_word_table_gives_the_tokenizer_s_ids():
    import open_clip

    rng = np.random.default_rng(0)
    for s in pretrain.web_stills(100, seed=1, jobs=1)[1]:
        text = captions.caption(s, rng)
        ids = pretrain.tokens(text)
        assert open_clip.tokenize([text])[0, : len(ids)].tolist() == ids


def test_unknown_words_are_named():
    for name in world.NAMES:
        for label in world.CLASSES[name]:
            assert backbone.unknown_words(f"a popular human action of {world.spaced(label)}.") == []
    assert backbone.unknown_words("human action of Walking a dog.") == ["Walking", "dog"]


# --- weights ---


def test_shipped_weights_load_to_the_bit_and_leave_random_numbers_alone():
    import torch

    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, other = backbone.load_tiny_clip().state_dict(), backbone.load_tiny_clip().state_dict()
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(value.isfinite().all() for value in one.values())


def test_an_altered_weights_file_is_refused_in_one_line(tmp_path):
    for path in backbone.FOLDER.glob("tiny_clip.*"):
        shutil.copy(path, tmp_path / path.name)
    data = bytearray((tmp_path / "tiny_clip.safetensors").read_bytes())
    data[-7] ^= 1
    (tmp_path / "tiny_clip.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"tiny_clip\.safetensors: altered") as caught:
        backbone.load_tiny_clip(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "tiny_clip.safetensors").unlink()
    with pytest.raises(InputError, match="missing"):
        backbone.load_tiny_clip(tmp_path)


@pytest.fixture
def another(tmp_path) -> Path:
    """A folder as `makers.pretrain` writes it, with other weights than the embedded ones."""
    folder = tmp_path / "another"
    shutil.copytree(backbone.FOLDER, folder, ignore=shutil.ignore_patterns("figures*"))
    weights = load_file(folder / "tiny_clip.safetensors")
    weights["visual.conv1.weight"] = weights["visual.conv1.weight"] * 1.5
    save_file(weights, folder / "tiny_clip.safetensors")
    log = json.loads((folder / "tiny_clip.log.json").read_text())
    log["sha256"] = sha256(folder / "tiny_clip.safetensors")
    (folder / "tiny_clip.log.json").write_text(json.dumps(log))
    return folder


def test_another_pretraining_is_another_model_with_runs_of_its_own(another, monkeypatch):
    own, other = backbone.load_backbone(), backbone.load_backbone("tiny-clip", str(another))
    assert other.pretrained == str(another) and own.weights_hash != other.weights_hash
    picture = torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)
    assert not torch.equal(own.encode_frames(picture), other.encode_frames(picture))
    monkeypatch.chdir(another.parent)
    asked = Experiment.of("table5", "demo", Options(pretrained="another")).profile.backbone
    assert asked.pretrained == str(another)  # processes elsewhere find it
    assert devices.weights_hash(asked) == sha256(another / "tiny_clip.safetensors")
    assert devices.weights_hash(asked) != devices.weights_hash(DEMO.backbone) == sha256(world.WEIGHTS)
    about = {"datasets": ["figures-h"], "backbone": {"name": "tiny-clip", "pretrained": asked.pretrained}}
    assert "another pre-training, another" in loading.model_note(about)
    with pytest.raises(InputError, match="brings its own weights, or takes those of a folder"):
        Experiment.of("table5", "demo", Options(pretrained=str(another.parent)))


def test_three_steps_of_pretraining_are_reproducible(monkeypatch):
    import torch

    monkeypatch.setattr(pretrain, "BATCH", 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:

        def trained(seed: int) -> bytes:
            images, stills = pretrain.web_stills(64, seed, jobs=1)
            trainer = pretrain.Trainer(3, seed)
            for step in range(3):
                assert np.isfinite(trainer.step(step, *pretrain.draw_batch(images, stills, seed, step)))
            return trainer.weights()

        first = trained(0)
        assert first == trained(0)
        assert first != trained(1)
    finally:
        torch.set_num_threads(threads)


def test_the_compact_text_tower_equals_open_clip_s():
    import open_clip
    import torch

    trainer = pretrain.Trainer(1, 0)
    texts = ["push up", "a common human action of golf swing.", "a woman on the beach"]
    with torch.no_grad():
        trainer.table.mul_(1.5)  # so that forgetting to scatter shows
        short = trainer.encode_text(texts)
        full = trainer.scattered().eval().encode_text(open_clip.tokenize(texts))
    assert torch.allclose(short, full, atol=1e-5)


@pytest.mark.parametrize("name", list(world.LOOKS))
def test_shipped_clip_knows_stills_but_not_the_order_of_time(name):
    clips, labels = pretrain.fresh_clips(name, 4)
    scores = pretrain.zero_shot(backbone.load_tiny_clip(), name, clips, labels)
    assert scores["top1"] > 2.5 * 100 / len(world.CLASSES[name])
    assert 25 <= scores["order"] <= 75


def test_the_log_tells_what_was_trained():
    log = json.loads((backbone.FOLDER / "tiny_clip.log.json").read_text())
    assert set(log["words"]) == set(captions.vocabulary())
    assert log["world"] == world.VERSION and list(log["loss"])[-1] == str(log["steps"])
