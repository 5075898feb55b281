"""What the explorers compute: laws that break when the maths does, and errors in one line."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch

from flowclip_core.config import ModelConfig
from flowclip_core.data.video import resize_and_crop
from flowclip_core.errors import InputError, VideoError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.model.motion import pairs
from flowclip_kit.demo import world
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.explore import checkpoints, motion, prompts
from flowclip_kit.explore import clips as explore_clips
from flowclip_kit.explore.memory import MOST, remember

WORDS = ("tree", "wall", "stairs", "rope", "ladder", "hill", "fence", "rock", "roof", "gate", "pole", "tower")
ORDERS = list(explore_clips.ORDERS)


@pytest.fixture(scope="module")
def model(tower):
    return checkpoints.load(tower)


@pytest.fixture(scope="module")
def footage(tower, tmp_path_factory):
    return explore_clips.read_demo(tower, "get_up", root=tmp_path_factory.mktemp("world"))


@pytest.fixture
def features(model, footage):
    return motion.middle_frames(model, footage)


# --- clips --------------------------------------------------------------------------------------------------


def test_a_demo_clip_is_a_test_video_and_the_set_finds_it(tmp_path):
    path = explore_clips.demo_clip("sit_down", 3, root=tmp_path)
    index = sorted(world.test_videos("figures-h", "sit_down", 1, world.WHOLE))[3]
    assert path == tmp_path / "figures-h" / world.video_path("figures-h", "sit_down", index, world.WHOLE)
    assert path.read_bytes() == world.encode(world.render("figures-h", "sit_down", index))
    for wrong in (("fly", 0), ("sit_down", world.TEST), ("sit_down", -1)):
        with pytest.raises(InputError):
            explore_clips.demo_clip(*wrong, root=tmp_path)


def test_chosen_frames_are_middles_of_the_range_and_their_order_is_a_permutation():
    choose = explore_clips.choose
    assert choose(8).tolist() == [2, 6, 10, 14, 18, 22, 26, 30]
    assert choose(4, 8, 16).tolist() == [9, 11, 13, 15]
    assert choose(8, order="reversed").tolist() == choose(8).tolist()[::-1]
    shuffled = choose(8, order="shuffled")
    assert sorted(shuffled) == choose(8).tolist() != shuffled.tolist()
    assert len(set(choose(8, order="one frame repeated"))) == 1
    for wrong in ((8, 5, 5), (8, -1, 5), (8, 0, 33), (1,), (8, 0, 32, "sorted")):
        with pytest.raises(InputError):
            choose(*wrong)


def test_uploads_keep_their_name_and_stay_inside_the_folder(tmp_path):
    path = explore_clips.save_upload("../../my clip.mp4", b"abc", tmp_path)
    assert path.name == "my clip.mp4" and tmp_path in path.parents and path.read_bytes() == b"abc"
    with pytest.raises(InputError, match="0 bytes"):
        explore_clips.save_upload("empty.mp4", b"", tmp_path)


def test_own_files_are_read_upright_and_broken_ones_are_one_line(clips, tower):
    read = explore_clips.read
    with av.open(str(clips / "rotated_90.mov")) as container:
        frame = next(container.decode(video=0))
    lying = frame.to_ndarray(format="rgb24")
    assert frame.rotation % 360 in (90, 270) and lying.shape[0] < lying.shape[1]
    upright = np.rot90(lying, frame.rotation // 90 % 4)
    wanted = resize_and_crop(upright[None], 64, ("centre",))[0, 0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(read(clips / "rotated_90.mov", tower).pictures[0], wanted)
    own = read(clips / "arm_wrestling.mp4", tower)
    assert (own.count, own.title, own.label) == (280, "arm_wrestling.mp4", "")
    with pytest.raises(VideoError) as error:
        read(clips / "corrupted.mp4", tower)
    assert "\n" not in str(error.value)


# --- motion -------------------------------------------------------------------------------------------------


def test_reversed_time_turns_every_difference_round(features):
    forward, backward = motion.differences(features, 3), motion.differences(features[::-1], 3)
    order = pairs(8, 3)
    for number, (i, j) in enumerate(order):
        np.testing.assert_allclose(backward[order.index((7 - j, 7 - i))], -forward[number], atol=1e-5)
    directions, _ = motion.plane(features, 3)
    means = [
        motion.pair_table(frames, 3, directions)[["x", "y"]].mean() for frames in (features, features[::-1])
    ]
    assert np.abs(means[0]).max() > 0.1
    np.testing.assert_allclose(means[0], -means[1], atol=1e-3)


@pytest.mark.parametrize("step", [1, 3, 7])
def test_the_pairs_and_their_sizes_equal_slow_loops(features, step):
    i, j = np.nonzero(motion.inside(8, step))
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(pairs(8, step))
    directions, _ = motion.plane(features, step)
    table, sizes = motion.pair_table(features, step, directions), motion.sizes(features)
    assert len(table) == len(motion.differences(features, step)) == len(pairs(8, step))
    for row, (i, j) in zip(table.itertuples(), pairs(8, step), strict=True):
        vector = features[j] - features[i]
        length = float(np.sqrt((vector**2).sum()))
        assert (row.i, row.j, row.distance, row.time) == (i, j, j - i, (i + j) / 2)
        assert sizes[i, j] == sizes[j, i] == pytest.approx(length, abs=1e-4)
        assert row.size == pytest.approx(length / (j - i), rel=1e-4)
        np.testing.assert_allclose([row.x, row.y], vector @ directions, atol=1e-3)


def test_the_plane_is_the_best_one_and_still_frames_have_none(features):
    vectors = motion.differences(features, 4)
    directions, shares = motion.plane(features, 4)
    np.testing.assert_allclose(directions.T @ directions, np.eye(2), atol=1e-4)
    explained = ((vectors @ directions) ** 2).sum(0) / (vectors**2).sum()
    np.testing.assert_allclose(shares, explained, rtol=1e-3)
    other = np.linalg.qr(np.random.default_rng(0).normal(size=directions.shape))[0]
    assert explained.sum() > ((vectors @ other) ** 2).sum() / (vectors**2).sum()
    still = features[[3] * 8]
    assert not motion.differences(still, 4).any() and not motion.plane(still, 4)[1].any()


def test_outcome_equals_the_model_and_other_lengths_share_its_weights(model, features, footage):
    out = motion.outcome(model, features, 4)
    with torch.inference_mode():
        plain = model(torch.from_numpy(features)[None])
    np.testing.assert_allclose(out["logits"], plain["logits"][0].numpy(), atol=1e-5)
    assert out["scores"].sum() == pytest.approx(1, abs=1e-5)
    longer = motion.outcome(model, footage.features[explore_clips.choose(12)], 2)
    assert longer["differences"].shape == (11 + 10, 64) and model.config.frames == 8
    with pytest.raises(InputError):
        motion.outcome(model, features, 8)


def test_orders_move_v_and_one_frame_has_no_motion(model, footage):
    scores, moved = motion.by_order(model, footage, 8, 4)
    assert moved["in order"] == 0 and (moved[ORDERS[1:]] > 0.1).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    for order in ORDERS:
        out = motion.outcome(model, footage.features[explore_clips.choose(8, order=order)], 4)
        np.testing.assert_allclose(scores.loc[order], out["scores"], atol=1e-5)
        assert out["differences"].any() == (order != "one frame repeated")


def test_the_first_clip_shows_the_direction_of_time(tower, model, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path))
    footage = motion.telling_clip(model)
    twins = dict(world.pairs("figures-h")) | {b: a for a, b in world.pairs("figures-h")}
    twin = {world.spaced(a): world.spaced(b) for a, b in twins.items()}[footage.label]
    scores, _ = motion.by_order(model, footage, 8, 4)
    assert scores.loc["in order"].idxmax() == footage.label and scores.loc["reversed"].idxmax() == twin
    assert scores.loc["in order", footage.label] * scores.loc["reversed", twin] > 0.9
    assert motion.telling_clip(checkpoints.load(tower, ["run", "get up"])) is None


# --- parts of the model that are off ------------------------------------------------------------------------

VARIANTS = {
    "full": {}, "no motion stream": {"mmb": False}, "no prompts": {"map": False}, "no block": {"mcb": False},
    "CLIP": {"mmb": False, "map": False, "mcb": False, "spatial": False}, "residual": {"residual": True},
    "no streams": {"mmb": False, "spatial": False, "residual": True},
    "sequence": {"video_tokens": "sequence"},
    "linear": {"map": False, "mcb": False, "head": "linear"}, "no adapter": {"adapter_width": 0},
}  # fmt: skip


def variant(tower, settings: dict) -> FlowCLIP:
    """A model with such parts, none of which is at its first value, where a linear head answers zero."""
    model = FlowCLIP(ModelConfig(frames=5, step=2, **settings), tower, ["run", "get up", "wave"]).eval()
    with torch.no_grad():
        for number, value in enumerate(model.trained().values()):
            value.add_(0.05 * torch.sin(torch.arange(value.numel()) + number).reshape(value.shape))
    return model


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_the_stages_go_from_clip_to_the_whole_model(tower, footage, settings):
    model = variant(tower, settings)
    features = motion.middle_frames(model, footage)
    out = motion.outcome(model, features, 2)
    np.testing.assert_allclose(sum(motion.streams(model, out).values()), out["video"], atol=1e-4)
    table = motion.stages(model, features)[list(model.class_texts)]
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(table.iloc[-1], out["scores"], atol=1e-5)
    texts = prompts.fill("a common human action of {}.", model.class_texts)
    np.testing.assert_allclose(table.iloc[0], prompts.clip_scores(tower, features, texts), atol=1e-6)


def test_stages_add_one_part_each(tower, footage):
    model = variant(tower, {"residual": True})
    features = motion.middle_frames(model, footage)
    table = motion.stages(model, features)[list(model.class_texts)]
    assert list(table.index) == [
        "CLIP, its own temperature", "CLIP, the model's temperature", "+ spatial stream",
        "+ mean of the frames", "+ motion stream", "+ motion-aware prompts", "+ communication block",
    ]  # fmt: skip
    out = motion.outcome(model, features, 2)
    texts = prompts.encode(
        tower, tuple(prompts.fill(f"{model.config.prompt} {{}}.", model.class_texts))
    ).numpy()
    video, wanted = np.zeros(64), {}
    terms = out["spatial_tokens"].mean(0), features.mean(0), out["motion"]
    for stage, term in zip(table.index[2:5], terms, strict=True):
        video = video + term
        wanted[stage] = texts, video
    wanted["+ motion-aware prompts"] = out["texts"], out["video"]
    for stage, (class_vectors, token) in wanted.items():
        cosine = class_vectors @ token / np.linalg.norm(class_vectors, axis=1) / np.linalg.norm(token)
        powers = np.exp(cosine / model.config.tau)
        np.testing.assert_allclose(table.loc[stage], powers / powers.sum(), atol=1e-4)


# --- prompts ------------------------------------------------------------------------------------------------


def test_unseen_words_are_flagged(tower, small):
    table = prompts.tokens(tower, "a common arm wrestling.")
    flagged = table.loc[~table["known"], "token"].tolist()
    assert flagged == ["arm", "wrestling"] == prompts.unseen(tower, ("a common arm wrestling",))
    assert table["id"].iloc[[0, -1]].tolist() == list(tower.borders)
    # As CLIP splits it: the comma is a token of its own, ".." and "!." are not two full stops and the like.
    for text in ("a photo of a person, run...", "Run!.", "sit down.run", "a (very) odd—text's end"):
        assert prompts.tokens(tower, text)["id"].tolist()[1:-1] == tower.tokenize(text)
    assert prompts.tokens(tower, "person, run.")["known"].tolist() == [True, True, False, True, True, True]
    assert prompts.unseen(tower, ("a person, Wrestling, wrestling", "run.")) == ["wrestling", ","]
    assert prompts.unseen(small, ("arm wrestling",)) == []  # another model knows all words
    assert prompts.tokens(small, "arm wrestling")["known"].all()


def test_templates_need_one_place_for_the_name():
    assert prompts.fill("a photo of {}.", ["run"]) == ["a photo of run."]
    for wrong in ("a photo", "{} and {}", "{name}", "{} {"):
        with pytest.raises(InputError, match="exactly once"):
            prompts.fill(wrong, ["run"])


@pytest.mark.parametrize("more", [0, 12])
def test_the_tree_spells_every_class_once(tower, more):
    """Read back from the drawing, by column: also where a large subtree is cut and copied."""
    names = ["climb up", "climb down", "run", "pick up box"] + [f"climb {word}" for word in WORDS[:more]]
    lines = prompts.tree(tower, tuple(names), 2).split("\n")
    assert len(lines) == len(names) and lines[0].startswith("[SOS] P_1 P_2 ")
    spelled, above = [], ""
    for line in lines:
        start = len(line) - len(line.lstrip(" │├└─"))
        above = above[:start].ljust(start) + line[start:]  # what a branch leaves out stands above it
        spelled.append(" ".join(above.replace("┬─", " ").split()))
    assert sorted(spelled) == sorted(f"[SOS] P_1 P_2 {name} . [EOS]" for name in names)
    assert "\n".join(lines).count("climb") == 1


def test_a_word_is_nearest_to_itself(tower):
    known = prompts.vocabulary(tower)
    for word in ("climb", "action"):
        vector = tower.embed_tokens(torch.tensor([known[word]])).detach().numpy()
        assert prompts.nearest(tower, vector)[0].startswith(f"{word} 1.00, ")


def test_the_shift_is_what_the_model_adds_and_static_prompts_have_none(tower, model, features):
    out = motion.outcome(model, features, 4)
    np.testing.assert_allclose(prompts.motion_of(model, features), out["motion"], atol=1e-4)
    added = out["prompts"] - prompts.vectors_of(model)
    np.testing.assert_allclose(added, np.tile(prompts.shift(model, out["motion"]), (5, 1)), atol=1e-4)
    plain = prompts.plain_texts(model)
    wanted = 1 - torch.cosine_similarity(plain, torch.from_numpy(out["texts"]), dim=-1)
    np.testing.assert_allclose(prompts.moved_texts(model, out["motion"]), wanted, atol=1e-4)
    assert wanted.max() > 0.01
    words = prompts.nearest_words(model, out["motion"])
    assert words["after the shift"].tolist() == prompts.nearest(tower, out["prompts"])
    static = checkpoints.load_static(tower)
    assert not prompts.shift(static, out["motion"]).any()
    assert prompts.moved_texts(static, out["motion"]).max() < 1e-5
    with pytest.raises(InputError, match="map=True"):
        prompts.vectors_of(variant(tower, {"map": False}))


def test_what_the_shift_means_for_the_words_is_computed():
    vectors = np.eye(3, dtype=np.float32)
    assert prompts.about_shift(vectors, np.zeros(3)) == "Motion does not shift these prompts."
    assert "0.5 to 0.5 times" in prompts.about_shift(vectors, np.array([0.5, 0, 0]))
    far = prompts.about_shift(vectors, np.array([100.0, 0, 0]))
    assert "100 to 100 times" in far and "say little" in far and "0.999 and more" in far


def test_clip_scores_are_open_clips(tower, features):
    texts = prompts.fill("a human action of {}.", ["run", "get up", "wave"])
    with torch.inference_mode():
        text = tower.clip.encode_text(tower.tokenizer(texts), normalize=True)
        video = torch.nn.functional.normalize(torch.from_numpy(features).mean(0), dim=-1)
        wanted = (text @ video * tower.clip.logit_scale.exp()).softmax(-1)
    np.testing.assert_allclose(prompts.clip_scores(tower, features, texts), wanted.numpy(), atol=1e-4)


def test_swapped_motion_changes_prompts_alone(tower, model, features):
    backwards = features[::-1].copy()
    own = prompts.scores_with(model, features)
    np.testing.assert_allclose(prompts.scores_with(model, features, features), own, atol=1e-5)
    with torch.inference_mode():
        steer = model(torch.from_numpy(backwards)[None])["motion"]
        wanted = model(torch.from_numpy(features)[None], prompt_motion=steer)["logits"].softmax(-1)[0]
    swapped = prompts.scores_with(model, features, backwards)
    np.testing.assert_allclose(swapped, wanted, atol=1e-5)
    assert abs(swapped - own).max() > 0.01
    static = checkpoints.load_static(tower)
    still = prompts.scores_with(static, features)
    np.testing.assert_allclose(prompts.scores_with(static, features, backwards), still, atol=1e-6)
    table = prompts.side_by_side(model, static, features, "a photo of {}.", backwards)
    assert list(table.columns) == list(model.class_texts) and len(table) == 7
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(table.iloc[-1], swapped, atol=1e-6)
    assert list(prompts.side_by_side(model, None, features, "{}").index[3:]) == [
        "your template",
        "motion-aware",
    ]


# --- models -------------------------------------------------------------------------------------------------


def test_shipped_models_are_small_and_above_chance(tower, model):
    size = sum(file.stat().st_size for folder in checkpoints.SHIPPED.values() for file in folder.iterdir())
    assert size < 3_000_000
    labels = list(world.CLASSES["figures-h"])[:10:2]
    for shipped in (model, checkpoints.load_static(tower)):
        right = 0
        for label in labels:
            index = min(world.test_videos("figures-h", label, 1, world.WHOLE))
            pictures = torch.from_numpy(world.render("figures-h", label, index)[:, :, 8:72])
            with torch.inference_mode():
                encoded = tower.encode_frames(pictures.permute(0, 3, 1, 2)).numpy()
            best = motion.outcome(shipped, encoded[explore_clips.choose(8)], 4)["scores"].argmax()
            right += shipped.class_texts[best] == world.spaced(label)
        assert right >= 2  # of 5; chance among 16 classes: 0.3


def test_models_for_other_names_and_other_towers(tower, small):
    assert checkpoints.load(tower, ["run", "wave"]).class_texts == ("run", "wave")
    assert checkpoints.class_names("a, b ,c") == ["a", "b", "c"]
    for wrong in ("run", "run,run", "run,,wave"):
        with pytest.raises(InputError):
            checkpoints.class_names(wrong)
    assert checkpoints.load(small, ["run", "wave"]).config == ModelConfig()
    assert checkpoints.load_static(small) is None
    with pytest.raises(InputError, match="no trained model"):
        checkpoints.load(small)


def test_captions_say_what_scores_mean(tower, small):
    shipped, untrained = checkpoints.load(tower), checkpoints.load(small, ["run", "wave"])
    assert checkpoints.about(shipped, demo=True) == "demo world, not evidence about the paper's data"
    assert checkpoints.about(shipped, demo=False) == tower.about
    for demo in (True, False):
        for model in (untrained, checkpoints.resized(untrained, 4, 2)):
            assert "untrained" in checkpoints.about(model, demo)


def test_a_checkpoint_brings_its_backbone_and_no_foreign_companion(tower, tmp_path):
    other, folder = load_backbone("ViT-S-32-alt", None), tmp_path / "checkpoint"
    FlowCLIP(ModelConfig(), other, ["run", "wave"]).save_pretrained(folder)
    backbone = checkpoints.backbone(checkpoint=folder)
    assert backbone.name == other.name and backbone.weights_hash == other.weights_hash
    assert checkpoints.load(backbone, None, folder).class_texts == ("run", "wave")
    assert checkpoints.load_static(tower) is not None
    assert checkpoints.load_static(tower, beside=folder) is None
    static = checkpoints.SHIPPED[checkpoints.STATIC]
    assert checkpoints.load_static(tower, beside=folder, checkpoint=static) is not None


# --- answers are remembered ---------------------------------------------------------------------------------


def test_remembered_answers_are_of_one_model_as_it_is():
    asked = []

    @remember
    def ask(model, *args):
        asked.append(args)
        return len(asked)

    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    a = np.zeros(2)
    assert ask(one, a, 3) == ask(one, a.copy(), 3) == 1
    assert [ask(one, np.zeros((2, 1)), 3), ask(one, a, 4), ask(one, a + 1, 3), ask(other, a, 3)] == [
        2,
        3,
        4,
        5,
    ]
    with torch.no_grad():
        one.weight.mul_(1)
    assert ask(one, a, 3) == 6
    for number in range(MOST):
        ask(one, number)
    assert ask(one, a, 3) > 6, "the oldest answers go"
