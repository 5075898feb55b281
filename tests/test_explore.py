"""The explorers' functions: laws that break when the maths does, errors in one line, own files upright."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch

from flowclip_core.config import ModelConfig
from flowclip_core.data.video import resize_and_crop
from flowclip_core.errors import InputError, VideoError
from flowclip_core.model.motion import pairs
from flowclip_kit.demo import world
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.explore import checkpoints, drawings, motion, panels, prompts, widgets
from flowclip_kit.explore import clips as explore_clips

WORDS = "tree wall stairs rope ladder hill fence rock roof gate pole tower".split()


@pytest.fixture(scope="module")
def tower():
    return load_backbone()


@pytest.fixture(scope="module")
def model(tower):
    return checkpoints.load(tower)


@pytest.fixture(scope="module")
def footage(tower, tmp_path_factory):
    return explore_clips.read(
        explore_clips.demo_clip("get_up", root=tmp_path_factory.mktemp("world")),
        tower,
        title="get up",
        demo=True,
    )


@pytest.fixture
def features(footage):
    return footage.features[explore_clips.choose(explore_clips.STORED, 8)]


# --- clips ----------------------------------------------------------------------------------------------------


def test_a_demo_clip_is_a_test_video_and_the_set_finds_it(tmp_path):
    path = explore_clips.demo_clip("sit_down", 3, root=tmp_path)
    index = sorted(world.test_videos("figures-h", "sit_down", 1, world.WHOLE))[3]
    assert path == tmp_path / "figures-h" / world.video_path("figures-h", "sit_down", index, world.WHOLE)
    assert path.read_bytes() == world.encode(world.render("figures-h", "sit_down", index))
    for wrong in (("fly", 0), ("sit_down", world.TEST), ("sit_down", -1)):
        with pytest.raises(InputError):
            explore_clips.demo_clip(*wrong, root=tmp_path)


def test_chosen_frames_are_middles_of_the_range_and_their_order_is_a_permutation():
    assert explore_clips.choose(32, 8).tolist() == [2, 6, 10, 14, 18, 22, 26, 30]
    assert explore_clips.choose(32, 4, 8, 16).tolist() == [9, 11, 13, 15]
    assert (
        explore_clips.choose(32, 8, order="reversed").tolist() == explore_clips.choose(32, 8).tolist()[::-1]
    )
    shuffled = explore_clips.choose(32, 8, order="shuffled")
    assert sorted(shuffled) == explore_clips.choose(32, 8).tolist() != shuffled.tolist()
    assert len(set(explore_clips.choose(32, 8, order="one frame repeated"))) == 1
    for wrong in ((32, 8, 5, 5), (32, 8, -1, 5), (32, 8, 0, 33), (32, 1)):
        with pytest.raises(InputError):
            explore_clips.choose(*wrong)


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
    picture = read(clips / "rotated_90.mov", tower).pictures[0]
    wanted = resize_and_crop(upright[None], 64, ("centre",))[0, 0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(picture, wanted)
    assert read(clips / "arm_wrestling.mp4", tower).count == 280
    with pytest.raises(VideoError) as error:
        read(clips / "corrupted.mp4", tower)
    assert "\n" not in str(error.value)


# --- motion ---------------------------------------------------------------------------------------------------


def test_reversed_time_turns_every_difference_round(features):
    ahead, back = motion.differences(features, 3), motion.differences(features[::-1], 3)
    found = pairs(8, 3)
    for number, (i, j) in enumerate(found):
        np.testing.assert_allclose(back[found.index((7 - j, 7 - i))], -ahead[number], atol=1e-5)
        np.testing.assert_array_equal(ahead[number], features[j] - features[i])
    directions, _ = motion.plane(features, 3)
    means = [motion.arrows(one, 3, directions)[["x", "y"]].mean() for one in (features, features[::-1])]
    np.testing.assert_allclose(means[0], -means[1], atol=1e-3)


@pytest.mark.parametrize("step", [1, 3, 7])
def test_s_bounds_the_pairs(features, step):
    i, j = np.nonzero(motion.inside(8, step))
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(pairs(8, step))
    assert {int(distance) for distance in j - i} == set(range(1, step + 1))
    assert len(i) == len(motion.differences(features, step)) == len(motion.over_time(features, step))


def test_sizes_and_motion_over_time_equal_slow_loops(features):
    table = motion.sizes(features)
    for i in range(8):
        for j in range(8):
            assert table[i, j] == pytest.approx(
                float(np.sqrt(((features[j] - features[i]) ** 2).sum())), abs=1e-4
            )
    for row, (i, j) in zip(motion.over_time(features, 4).itertuples(), pairs(8, 4), strict=True):
        assert (row.distance, row.time) == (j - i, (i + j) / 2)
        assert row.size == pytest.approx(table[i, j] / (j - i), rel=1e-4)


def test_the_plane_is_the_best_one_and_still_frames_have_none(features):
    found = motion.differences(features, 4)
    directions, shares = motion.plane(features, 4)
    np.testing.assert_allclose(directions.T @ directions, np.eye(2), atol=1e-4)
    kept = ((found @ directions) ** 2).sum(0) / (found**2).sum()
    np.testing.assert_allclose(shares, kept, rtol=1e-3)
    other = np.linalg.qr(np.random.default_rng(0).normal(size=directions.shape))[0]
    assert kept.sum() > ((found @ other) ** 2).sum() / (found**2).sum()
    assert (
        not motion.differences(features[[3] * 8], 4).any() and not motion.plane(features[[3] * 8], 4)[1].any()
    )


def test_outcome_equals_the_model_and_other_lengths_share_its_parts(model, features, footage):
    out = motion.outcome(model, features, 4)
    with torch.inference_mode():
        plain = model(torch.from_numpy(features)[None])
    np.testing.assert_allclose(out["logits"], plain["logits"][0].numpy(), atol=1e-5)
    assert out["scores"].sum() == pytest.approx(1, abs=1e-5)
    longer = motion.outcome(model, footage.features[explore_clips.choose(32, 12)], 2)
    assert longer["differences"].shape == (11 + 10, 64) and model.config.frames == 8
    with pytest.raises(InputError):
        motion.outcome(model, features, 8)


def test_orders_move_v_and_one_frame_has_no_motion(model, footage):
    scores, moved = motion.by_order(model, footage, 8, 4)
    assert moved.loc["in order", "distance"] == 0 and (moved["distance"][1:] > 0.1).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert scores.loc["in order"].idxmax() == "get up" and scores.loc["reversed"].idxmax() != "get up"
    for order in explore_clips.ORDERS:
        found = motion.outcome(model, footage.features[explore_clips.choose(32, 8, order=order)], 4)[
            "differences"
        ]
        assert found.any() == (order != "one frame repeated")


def test_the_stages_end_where_the_model_does(model, features):
    table = motion.steps(model, features).pivot_table("score", "stage", "label", sort=False)
    out = motion.outcome(model, features, 4)
    np.testing.assert_allclose(table.iloc[-1][list(model.class_texts)], out["scores"], atol=1e-5)
    assert len(table) == 6 and (table.iloc[0] - table.iloc[-1]).abs().max() > 0.1


# --- prompts --------------------------------------------------------------------------------------------------


def test_unseen_words_are_flagged(tower):
    table = prompts.tokens(tower, "a common arm wrestling.")
    flagged = table.loc[~table["known"], "token"].tolist()
    assert flagged == ["arm", "wrestling"] == prompts.unseen(tower, ["a common arm wrestling"])
    assert table["id"].iloc[[0, -1]].tolist() == list(tower.borders)
    # As CLIP parts it: the comma is a token of its own, «..» and «!.» are not two full stops and the like.
    for text in ("a photo of a person, run...", "Run!.", "sit down.run", "a (very) odd—text's end"):
        table = prompts.tokens(tower, text)
        assert table["id"].tolist()[1:-1] == tower.tokenize(text)
    assert prompts.tokens(tower, "person, run.")["known"].tolist() == [True, True, False, True, True, True]
    assert prompts.unseen(tower, ["a person, Wrestling, wrestling", "run."]) == ["wrestling", ","]


def test_another_model_knows_all_words(small):
    assert (
        prompts.unseen(small, ["arm wrestling"]) == []
        and prompts.tokens(small, "arm wrestling")["known"].all()
    )


def test_templates_need_one_place_for_the_name():
    assert prompts.fill("a photo of {}.", ["run"]) == ["a photo of run."]
    for wrong in ("a photo", "{} and {}", "{name}"):
        with pytest.raises(InputError):
            prompts.fill(wrong, ["run"])


@pytest.mark.parametrize("more", [0, 12])
def test_the_tree_spells_every_class_once(tower, more):
    """Also where the computed layout cuts a large subtree and copies what is above it."""
    names = ["climb up", "climb down", "run", "pick up box"] + [f"climb {word}" for word in WORDS[:more]]
    nodes = prompts.tree(tower, names, ["P_1", "P_2"])
    assert [node.text for node in nodes if node.shared] == ["[SOS]", "P_1", "P_2"]
    assert sum(node.text == "climb" for node in nodes) == 1
    for leaf in [node for node in nodes if node.leaf]:
        said, node = [], leaf
        while node.parent >= 0:
            assert nodes[node.parent].x < node.x
            node = nodes[node.parent]
            said.append(node.text)
        assert " ".join(said[::-1][3:]) == f"{leaf.leaf} ."
    assert sorted(node.leaf for node in nodes if node.leaf) == sorted(names)


def test_a_word_is_nearest_to_itself(tower):
    known = prompts.vocabulary(tower)
    for word in ("climb", "action"):
        vector = tower.embed_tokens(torch.tensor([known[word]])).detach().numpy()
        (row,) = prompts.nearest(tower, vector)
        assert row[0][0] == word and row[0][1] == pytest.approx(1, abs=1e-4) and row[0][1] > row[1][1]


def test_the_shift_is_what_the_model_adds_and_static_prompts_have_none(tower, model, features):
    out = motion.outcome(model, features, 4)
    added = out["prompts"] - model.prompts.vectors.detach().numpy()
    np.testing.assert_allclose(added, np.tile(prompts.shift(model, out["motion"][None]), (5, 1)), atol=1e-4)
    static = checkpoints.load_static(tower)
    assert not prompts.shift(static, out["motion"][None]).any()
    assert prompts.moved_texts(static, out["motion"][None]).max() < 1e-5


def test_hand_crafted_scores_are_open_clips(tower, features):
    names = ["run", "get up", "wave"]
    texts = prompts.fill("a human action of {}.", names)
    with torch.inference_mode():
        said = tower.clip.encode_text(tower.tokenizer(texts), normalize=True)
        seen = torch.nn.functional.normalize(torch.from_numpy(features).mean(0), dim=-1)
        wanted = (said @ seen * tower.clip.logit_scale.exp()).softmax(-1)
    np.testing.assert_allclose(prompts.hand_crafted(tower, features, texts), wanted.numpy(), atol=1e-4)


def test_swapped_motion_changes_prompts_alone(tower, model, features):
    own = prompts.swapped(model, features, None)
    np.testing.assert_allclose(prompts.swapped(model, features, features), own, atol=1e-5)
    assert abs(prompts.swapped(model, features, features[::-1].copy()) - own).max() > 0.01
    static = checkpoints.load_static(tower)
    still = prompts.swapped(static, features, None)
    np.testing.assert_allclose(prompts.swapped(static, features, features[::-1].copy()), still, atol=1e-6)
    table = prompts.side_by_side(model, static, features, "a photo of {}.", features)
    assert list(table.columns) == list(model.class_texts) and len(table) == 7
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-4)


# --- parts ----------------------------------------------------------------------------------------------------


def test_shipped_parts_are_small_and_above_chance(tower, model):
    size = sum(file.stat().st_size for folder in checkpoints.SHIPPED.values() for file in folder.iterdir())
    assert size < 3_000_000
    labels = list(world.CLASSES["figures-h"])[:10:2]
    for one in (model, checkpoints.load_static(tower)):
        right = 0
        for label in labels:
            index = min(world.test_videos("figures-h", label, 1, world.WHOLE))
            pictures = torch.from_numpy(world.render("figures-h", label, index)[:, :, 8:72]).permute(
                0, 3, 1, 2
            )
            with torch.inference_mode():
                features = tower.encode_frames(pictures).numpy()[explore_clips.choose(32, 8)]
            best = motion.outcome(one, features, 4)["scores"].argmax()
            right += one.class_texts[best] == world.spaced(label)
        assert right >= 2  # of 5; chance among 16 classes: 0.3


def test_models_for_other_names_and_other_towers(tower, small):
    assert checkpoints.load(tower, ["run", "wave"]).class_texts == ("run", "wave")
    assert checkpoints.class_names("a, b ,c") == ["a", "b", "c"]
    for wrong in ("run", "run,run", "run,,wave"):
        with pytest.raises(InputError):
            checkpoints.class_names(wrong)
    assert (
        checkpoints.load(small, ["run", "wave"]).config == ModelConfig()
        and checkpoints.load_static(small) is None
    )
    with pytest.raises(InputError, match="no trained parts"):
        checkpoints.load(small)


# --- panels and widgets ---------------------------------------------------------------------------------------


def test_a_figure_drawn_again_equals_a_new_one(model, footage):
    view = panels.View(step=2, order="reversed", pair=(1, 2))
    fig = panels.motion_board(model, footage, panels.View(frames=12))
    again, new = (drawings.png(panels.motion_board(model, footage, view, one)) for one in (fig, None))
    assert again == new


def test_controls_redraw_and_errors_are_one_line(model, footage, monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path))
    explorer = widgets.MotionExplorer(model)
    shown = [explorer.live.picture.value]
    for control, value in (
        ("step", 2),
        ("frames", 6),
        ("order", "reversed"),
        ("range", (4, 28)),
        ("pair", (1, 3)),
    ):
        getattr(explorer, control).value = value
        assert not explorer.live.error and explorer.live.picture.value != shown[-1], control
        shown.append(explorer.live.picture.value)
    assert explorer.view == panels.View(6, 2, 4, 28, "reversed", (1, 3))
    explorer.frames.value = 2
    assert explorer.step.max == explorer.step.value == 1 and not explorer.live.error
    before = explorer.live.picture.value
    explorer.source.path.value = str(tmp_path / "no.mp4")
    assert "no such file" in explorer.live.error and "\n" not in explorer.live.error
    assert explorer.live.picture.value == before
    explorer.frames.value = 5  # draws, but the path is as wrong as before
    assert "no such file" in explorer.live.error and explorer.live.picture.value != before
    explorer.source.path.value = ""
    assert not explorer.live.error


def test_prompt_controls_redraw_and_errors_are_one_line(tower, monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path))
    monkeypatch.setattr(panels, "reference_clips", lambda backbone: {})
    explorer = widgets.PromptExplorer(tower)
    for control, value in (
        ("template", "a photo of {}."),
        ("shown", "run"),
        ("other", "wave"),
        ("names", "run, wave, jog"),
    ):
        before = explorer.live.picture.value
        getattr(explorer, control).value = value
        assert not explorer.live.error and explorer.live.picture.value != before, control
    explorer.template.value = "nothing"
    assert "{}" in explorer.live.error
    explorer.names.value = "run"
    assert "at least two" in explorer.live.error and "{}" in explorer.live.error
    explorer.template.value = "a photo of {}."
    assert "at least two" in explorer.live.error and "{}" not in explorer.live.error


def test_only_tiles_that_changed_are_drawn_and_all_look_new(tower, model, footage):
    static, tiles = checkpoints.load_static(tower), drawings.Tiles()
    seen = {"get up": footage}
    panels.prompt_board(model, static, footage, "a photo of {}.", seen, tiles=tiles)
    assert tiles.drawn == ["tokens", "tree", "words", "heat", "scores"]
    again = panels.prompt_board(model, static, footage, "a picture of {}.", seen, shown="run", tiles=tiles)
    assert tiles.drawn == ["tokens", "scores"]
    new = panels.prompt_board(model, static, footage, "a picture of {}.", seen, shown="run")
    assert drawings.png(again) == drawings.png(new)
