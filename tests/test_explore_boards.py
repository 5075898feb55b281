"""The explorers' figures: drawings show the numbers they claim to, nothing overlaps, what was computed is
kept."""

from __future__ import annotations

import itertools
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.model.motion import pairs
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.explore import checkpoints, drawings, kept, motion, panels, prompts
from flowclip_kit.explore import clips as explore_clips

ORDERS = list(explore_clips.ORDERS)
MANY = [
    f"{verb} {thing}"
    for verb in "climb run push pick wave".split()
    for thing in "tree wall rope gate".split()
]
MANY += [f"passing {one} football (in a game) again" for one in "abcdefghijklmnopqrstuvwxyz"] + [
    "jog",
    "ski",
    "row",
]
MANY += ["brush hair", "arm wrestling"]
LONG = "a very long template that goes on about how a person in the video is doing what is commonly called {}, it seems!"


@pytest.fixture(scope="module")
def tower():
    return load_backbone()


@pytest.fixture(scope="module")
def model(tower):
    return checkpoints.load(tower)


@pytest.fixture(scope="module")
def footages(tower, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return {
        name: explore_clips.read(explore_clips.demo_clip(label, root=folder), tower, title=f"{name}, clip 0")
        for name, label in (("get up", "get_up"), ("wave", "wave"))
    }


@pytest.fixture
def footage(footages):
    return footages["get up"]


# --- nothing overlaps, nothing is cut, all can be read
# --------------------------------------------------------


def crowded(fig: Figure, monkeypatch) -> list[str]:
    """What is wrong with the texts of a figure: small ones, ones outside, and ones that touch each other."""
    drawn, draw = [], Text.draw

    def record(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            drawn.append(self)
        return draw(self, renderer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", record)
        drawings.pixels(fig)
    wide, high = fig.bbox.size
    boxes = [(text, text.get_window_extent()) for text in drawn]
    found = [f"small: {text.get_text()!r}" for text in drawn if text.get_fontsize() < drawings.SMALL]
    found += [f"outside: {text.get_text()!r}" for text, box in boxes
              if box.x0 < -1 or box.y0 < -1 or box.x1 > wide + 1 or box.y1 > high + 1]  # fmt: skip
    level = [(text, box.padded(-1)) for text, box in boxes if text.get_rotation() in (0, 90)]
    for (one, here), (other, there) in itertools.combinations(level, 2):
        if here.overlaps(there):
            found.append(f"overlap: {one.get_text()!r} and {other.get_text()!r}")
    return found


def test_crowded_texts_are_found(monkeypatch):
    fig = Figure((3, 2), dpi=drawings.DPI)
    for x, y, said, size in (
        (0.1, 0.5, "one", 9),
        (0.12, 0.5, "two", 9),
        (0.95, 0.8, "too far", 9),
        (0.5, 0.2, "tiny", 7),
    ):
        fig.text(x, y, said, fontsize=size)
    assert crowded(fig, monkeypatch) == ["small: 'tiny'", "outside: 'too far'", "overlap: 'one' and 'two'"]


@pytest.mark.parametrize("frames, step, order", [
    (2, 1, "in order"), (4, 1, "reversed"), (8, 4, "in order"), (8, 7, "shuffled"), (16, 3, "one frame repeated"),
    (32, 2, "shuffled"), (32, 31, "reversed"),
])  # fmt: skip
def test_nothing_overlaps_on_the_motion_board(model, footage, monkeypatch, frames, step, order):
    long = replace(footage, title="a very long name of a file of my own that goes on.mp4", own=True,
                   numbers=footage.numbers * 1000 + 10000)  # fmt: skip
    for clip in (footage, long):
        fig = panels.motion_board(model, clip, panels.View(frames, step, order=order, pair=(0, step)))
        assert crowded(fig, monkeypatch) == []


@pytest.mark.parametrize(
    "names", [["run", "get up"], ["run", "wave", "get up", "brush hair", "jog"], MANY, None]
)
def test_nothing_overlaps_on_the_prompt_board(tower, footages, monkeypatch, names):
    model, static = checkpoints.load(tower, names), checkpoints.load_static(tower, names)
    seen = {f"a video with a long name {number}": footages["wave"] for number in range(20)}
    for template, other in (("a photo of {}.", None), (LONG, footages["wave"])):
        tiles = drawings.Tiles()
        fig = panels.prompt_board(model, static, footages["get up"], template, seen, other, tiles=tiles)
        for part in (fig, *map(tiles.part, tiles.drawn)):
            assert crowded(part, monkeypatch) == []


def test_nothing_overlaps_in_one_clip(tower, footage, monkeypatch):
    for labels in (None, MANY):
        model = checkpoints.load(tower, labels)
        for fig in one_clip(model, footage):
            assert crowded(fig, monkeypatch) == []


def one_clip(model, footage) -> list:
    out = motion.outcome(model, panels.middle_frames(model, footage), model.config.step)
    return [panels.frames_and_differences(model, footage), panels.token_maps(model, out),
            panels.prompt_shift(model, out), panels.tree_picture(model), panels.communication(model, footage, out),
            panels.scores_step_by_step(model, footage)]  # fmt: skip


# --- the motion board shows what it claims
# --------------------------------------------------------------------


def star(ax) -> np.ndarray:
    (found,) = [line for line in ax.lines if line.get_marker() == "*"]
    return np.concatenate(found.get_data())


@pytest.mark.parametrize("order", ORDERS)
def test_every_drawing_of_the_motion_board_follows_the_order(model, footage, order):
    view = panels.View(frames=6, step=2, start=3, end=29, order=order, pair=(2, 4))
    fig = panels.motion_board(model, footage, view)
    strip, sizes, time, flow, bars, moves = fig.axes
    picked = explore_clips.choose(32, 6, 3, 29, order)
    features = footage.features[picked]
    scores, moved = motion.by_order(model, footage, 6, 2, 3, 29)

    assert [label.get_text() for label in strip.get_xticklabels()] == [
        f"{i}\n{n}" for i, n in enumerate(picked)
    ]
    side = footage.pictures.shape[1]
    step = side + max(1, side // 20)
    for place, number in enumerate(picked):
        np.testing.assert_array_equal(
            strip.images[0].get_array()[:, place * step : place * step + side], footage.pictures[number]
        )
    assert [patch.get_x() for patch in strip.patches] == [2 * step - 0.5, 4 * step - 0.5]

    far = np.linalg.norm(features[4] - features[2])
    assert sizes.images[0].get_array()[2, 4] == pytest.approx(far, abs=1e-4)
    assert [line.get_xydata().tolist() for line in sizes.lines] == [[[4, 2]]]
    steps = [np.linalg.norm(features[i + 2] - features[i]) / 2 for i in range(4)]
    np.testing.assert_allclose(time.lines[1].get_xydata(), np.stack([[1, 2, 3, 4], steps], 1), atol=1e-4)

    directions, _ = motion.plane(footage.features[explore_clips.choose(32, 6, 3, 29)], 2)
    arrows = np.stack([features[j] - features[i] for i, j in pairs(6, 2)]) @ directions
    np.testing.assert_allclose(star(flow), arrows.mean(0), atol=1e-3)
    (quiver,) = [one for one in flow.collections if hasattr(one, "U")]
    np.testing.assert_allclose(np.stack([quiver.U, quiver.V], 1), arrows, atol=1e-3)

    named = [label.get_text().removeprefix("✓ ") for label in bars.get_yticklabels()]
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], scores.loc[order, named], atol=1e-6)
    assert [text for text in bars.get_yticklabels() if "✓ get up" in text.get_text()]
    assert {scores.loc[order].idxmax(), scores.loc["in order"].idxmax()} <= set(named)
    before = [line.get_xdata() for line in bars.lines]
    assert len(before) == (order != "in order")
    for found in before:
        np.testing.assert_allclose(found, scores.loc["in order", named], atol=1e-6)
    assert [label.get_text() for label in moves.get_yticklabels()] == ORDERS
    np.testing.assert_allclose([bar.get_width() for bar in moves.patches], moved["distance"], atol=1e-6)


def test_time_reversed_turns_the_star_round(model, footage):
    ahead, back = (
        star(panels.motion_board(model, footage, panels.View(order=one)).axes[3]) for one in ORDERS[:2]
    )
    assert np.abs(ahead).max() > 0.1
    np.testing.assert_allclose(ahead, -back, atol=1e-3)


@pytest.mark.parametrize("step", [1, 4])
def test_arrows_stay_inside_their_axes_in_any_order(model, footage, step):
    limits = set()
    for order in ORDERS:
        flow = panels.motion_board(model, footage, panels.View(frames=16, step=step, order=order)).axes[3]
        limits.add((flow.get_xlim(), flow.get_ylim()))
        (quiver,) = [one for one in flow.collections if hasattr(one, "U")]
        assert max(np.abs(quiver.U).max(), np.abs(quiver.V).max()) <= flow.get_xlim()[1]
    assert len(limits) == 1, "arrows of two orders can be compared"


@pytest.mark.parametrize("frames, step", [(8, 1), (8, 3), (8, 7), (32, 5)])
def test_the_outline_goes_around_the_pairs_inside_s_and_no_others(frames, step):
    """From a cell to the left border: an odd number of crossings is inside."""
    ax = drawings.size_map(Figure().subplots(), np.ones((frames, frames)), motion.inside(frames, step))
    edges = np.array(ax.collections[0].get_segments())
    upright = edges[edges[:, 0, 0] == edges[:, 1, 0]]
    for i, j in itertools.product(range(frames), repeat=2):
        crossed = (upright[:, 0, 0] < j) & (upright[:, :, 1].min(1) < i) & (upright[:, :, 1].max(1) > i)
        assert bool(crossed.sum() % 2) == (0 < j - i <= step), (i, j)
    assert (
        len(ax.collections) == 2
        and ax.collections[0].get_linewidth()[0] > ax.collections[1].get_linewidth()[0]
    )


def test_every_distance_has_a_colour_of_its_own_or_is_grey(model, footage):
    time = panels.motion_board(model, footage, panels.View(frames=16, step=9)).axes[2]
    told = time.get_legend()
    key = dict(zip([text.get_text() for text in told.get_texts()], told.legend_handles, strict=True))
    assert list(key) == ["distance j - i (places):", "1", "2", "3", "4", "5", "6 to 9"]
    for distance, line in enumerate(time.lines, 1):
        same = key[str(distance)]
        assert (line.get_color(), line.get_marker()) == (same.get_color(), same.get_marker())
    (grey,) = time.collections
    assert (
        len({(line.get_color(), line.get_linestyle()) for line in time.lines}) == 5
        and len(grey.get_segments()) == 4
    )
    assert mpl.colors.to_rgba(key["6 to 9"].get_color()) == tuple(grey.get_colors()[0])


# --- the prompt board
# -----------------------------------------------------------------------------------------


def test_the_prompt_board_follows_the_other_video(tower, model, footages):
    static, tiles, own, other = (
        checkpoints.load_static(tower),
        drawings.Tiles(),
        footages["get up"],
        footages["wave"],
    )
    fig = panels.prompt_board(model, static, own, "a photo of {}.", {}, other, "run", tiles)
    said = fig.get_suptitle()
    assert own.title in said and other.title in said

    frames = {
        clip.title: torch.from_numpy(panels.middle_frames(model, clip))[None] for clip in footages.values()
    }
    with torch.inference_mode():
        outs = {title: model(one) for title, one in frames.items()}
        plain = model.tree(model.prompts.vectors[None])
        swapped = model(frames[own.title], prompt_motion=outs[other.title]["motion"])
    words = [text.get_text() for text in tiles.part("words").axes[0].texts]
    assert f"after the motion of {other.title}" in words
    (found, *_) = prompts.nearest(tower, swapped["prompts"][0].numpy())
    assert any(text.startswith(", ".join(f"{word} {cosine:.2f}" for word, cosine in found)) for text in words)

    heat = tiles.part("heat").axes[0]
    assert [label.get_text() for label in heat.get_yticklabels()] == [f"▷ {other.title}", f"▶ {own.title}"]
    moved = [
        1 - torch.cosine_similarity(plain[0], outs[title]["texts"][0], dim=-1)
        for title in (other.title, own.title)
    ]
    assert [label.get_text() for label in heat.get_xticklabels()] == list(model.class_texts)
    np.testing.assert_allclose(heat.images[0].get_array(), torch.stack(moved), atol=1e-4)
    assert torch.stack(moved).max() > 0.01

    ax = tiles.part("scores").axes[0]
    named = [label.get_text().removeprefix("✓ ") for label in ax.get_yticklabels()]
    rows = {line.get_label(): line.get_xdata() for line in ax.lines if not line.get_label().startswith("_")}
    wanted = dict(zip(model.class_texts, swapped["logits"].softmax(-1)[0].tolist(), strict=True))
    np.testing.assert_allclose(
        rows["motion-aware, swapped motion"], [wanted[name] for name in named], atol=1e-5
    )
    wanted = dict(zip(model.class_texts, outs[own.title]["logits"].softmax(-1)[0].tolist(), strict=True))
    np.testing.assert_allclose(rows["motion-aware"], [wanted[name] for name in named], atol=1e-5)
    assert "get up" in named and "learnt" in rows


def test_without_a_static_model_there_is_no_learnt_row(model, footage):
    assert (
        "learnt" not in prompts.side_by_side(model, None, panels.middle_frames(model, footage), "{}.").index
    )


def test_of_many_classes_the_heat_map_shows_those_that_move_most(tower, footages):
    model, tiles = checkpoints.load(tower, MANY), drawings.Tiles()
    fig = panels.prompt_board(model, None, footages["wave"], "a {}.", footages, tiles=tiles)
    heat = tiles.part("heat").axes[0]
    videos = [footages["get up"], footages["wave"]]
    motions = prompts.motions(model, np.stack([panels.middle_frames(model, one) for one in videos]))
    most = prompts.moved_texts(model, motions).max(0)
    shown = np.sort((-most).argsort()[:20])
    assert f"the 20 of {len(MANY)}" in heat.get_xlabel()
    assert [label.get_text() for label in heat.get_xticklabels()] == [
        drawings.cut(MANY[i], 18) for i in shown
    ]
    assert f"bright {most.max():.3g}" in heat.get_title(loc="left")
    assert max(map(len, fig.get_suptitle().split("\n"))) < 160 and fig.get_suptitle().endswith("more")
    assert f"first 16 of {len(MANY)}" in tiles.part("tree").axes[0].get_title(loc="left")


def test_what_is_left_out_is_counted():
    assert drawings.some(["a", "b", "c"], 100) == "a, b, c"
    assert drawings.some(["one", "two", "three"], 9) == "one, two and 1 more"
    assert drawings.cut("climb stairs", 7) == "climb…" and drawings.cut("climb", 5) == "climb"


def test_a_clip_of_a_data_set_shows_its_class_and_an_own_file_none(tower, footage):
    model = checkpoints.load(tower, ["get", "get up", "run"])
    assert panels.own_class(model, footage) == "get up"
    assert panels.own_class(model, replace(footage, title="get up")) == "get up"
    assert panels.own_class(model, replace(footage, title="get upstairs, clip 0")) is None
    assert panels.own_class(model, replace(footage, own=True)) is None


def test_bars_keep_the_winner_of_the_other_condition_and_the_true_class():
    import pandas as pd

    scores = pd.Series({name: 0.1 - place / 1000 for place, name in enumerate("abcdefghij")})
    before = pd.Series(0.0, scores.index) + (scores.index == "i") * 0.9
    ax = drawings.bars(Figure().subplots(), scores, before, top=4, true="j")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "i", "✓ j"]


def test_what_the_shift_means_for_the_words_is_computed():
    vectors = np.eye(3, dtype=np.float32)
    assert prompts.about_shift(vectors, vectors) == "motion does not shift these prompts"
    assert "0.5 to 0.5 times" in prompts.about_shift(vectors, vectors + [0.5, 0, 0])
    far = prompts.about_shift(vectors, vectors + [100, 0, 0])
    assert "100 to 100 times" in far and "say little" in far and "0.999 and more" in far


# --- parts that are off
# ---------------------------------------------------------------------------------------

VARIANTS = {
    "full": {}, "no motion stream": {"mmb": False}, "no prompts": {"map": False}, "no block": {"mcb": False},
    "CLIP": {"mmb": False, "map": False, "mcb": False, "spatial": False}, "residual": {"residual": True},
    "no streams": {"mmb": False, "spatial": False, "residual": True}, "sequence": {"video_tokens": "sequence"},
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
def test_a_clip_goes_through_any_parts(tower, footage, settings):
    model = variant(tower, settings)
    features = panels.middle_frames(model, footage)
    out = motion.outcome(model, features, 2)
    assert {name: out[name].shape for name in motion.shapes(model)} == motion.shapes(model)
    assert set(out) - set(motion.shapes(model)) == {"logits"}
    np.testing.assert_allclose(sum(motion.streams(model, out).values()), out["video"], atol=1e-4)
    table = motion.steps(model, features).pivot_table("score", "stage", "label", sort=False)[
        list(model.class_texts)
    ]
    np.testing.assert_allclose(table.iloc[-1], out["scores"], atol=1e-5)
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-5)
    texts = prompts.fill("a common human action of {}.", model.class_texts)
    np.testing.assert_allclose(table.iloc[0], prompts.hand_crafted(tower, features, texts), atol=1e-6)
    figures = one_clip(model, footage)
    absent = [one.data for one in figures if not isinstance(one, Figure)]
    assert len(absent) == (model.prompts is None) + (model.communication is None)
    assert all(said.startswith("*Not drawn: ") and "\n" not in said for said in absent)
    assert panels.motion_board(model, footage, panels.View(frames=4, step=1)).axes
    if model.prompts is None:
        with pytest.raises(InputError, match="map=True"):
            panels.prompt_board(model, None, footage, "{}", {})
    else:
        tiles = drawings.Tiles()
        panels.prompt_board(model, None, footage, "{}", {}, tiles=tiles)
        still = not tiles.part("heat").axes[0].images[0].get_array().max() > 1e-5
        assert still == (model.prompts.adapter is None)


def test_stages_add_one_part_each(tower, footage):
    model = variant(tower, {"residual": True})
    features = panels.middle_frames(model, footage)
    table = motion.steps(model, features).pivot_table("score", "stage", "label", sort=False)[
        list(model.class_texts)
    ]
    assert list(table.index) == [
        "CLIP, its own temperature", "CLIP, the model's temperature", "+ spatial stream", "+ mean of the frames",
        "+ motion stream", "+ motion-aware prompts", "+ communication block",
    ]  # fmt: skip
    out = motion.outcome(model, features, 2)
    texts = (
        prompts.encode(tower, [f"{model.config.prompt} {name}." for name in model.class_texts])
        .detach()
        .numpy()
    )
    video = out["spatial_tokens"].mean(0)
    for stage, more in (
        ("spatial stream", 0),
        ("mean of the frames", features.mean(0)),
        ("motion stream", out["motion"]),
    ):
        video = video + more
        cosine = texts @ video / np.linalg.norm(texts, axis=1) / np.linalg.norm(video)
        powers = np.exp(cosine / model.config.tau)
        np.testing.assert_allclose(table.loc[f"+ {stage}"], powers / powers.sum(), atol=1e-4)
    cosine = (
        (out["texts"] @ out["video"]) / np.linalg.norm(out["texts"], axis=1) / np.linalg.norm(out["video"])
    )
    powers = np.exp(cosine / model.config.tau)
    np.testing.assert_allclose(table.loc["+ motion-aware prompts"], powers / powers.sum(), atol=1e-4)


@pytest.mark.parametrize("tokens", ["pooled", "sequence"])
def test_what_the_communication_block_adds_is_drawn(tower, footage, tokens):
    model = variant(tower, {"video_tokens": tokens})
    out = motion.outcome(model, panels.middle_frames(model, footage), 2)
    texts, added, video, cosines = [
        ax for ax in panels.communication(model, footage, out).axes if ax.get_title(loc="left")
    ]
    np.testing.assert_allclose(added.images[0].get_array(), out["texts_out"] - out["texts"], atol=1e-5)
    assert ("one vector for all" in added.get_title(loc="left")) == (tokens == "pooled")
    rows = np.stack([out["video"], out["video_out"] - out["video"], out["video_out"]])
    np.testing.assert_allclose(video.images[0].get_array(), rows, atol=1e-5)
    named = [label.get_text().removeprefix("✓ ") for label in cosines.get_yticklabels()]
    after = dict(zip(model.class_texts, out["logits"] * model.config.tau, strict=True))
    np.testing.assert_allclose(cosines.lines[1].get_xdata(), [after[name] for name in named], atol=1e-4)
    assert np.abs(cosines.lines[0].get_xdata() - cosines.lines[1].get_xdata()).max() > 1e-4


def test_token_maps_part_the_pairs_by_distance(model, footage):
    out = motion.outcome(model, panels.middle_frames(model, footage), 4)
    ax = panels.token_maps(model, out).axes[0]
    (lines,) = [one.get_segments() for one in ax.collections]
    ends = [7 - 0.5, 7 + 6 - 0.5, 7 + 6 + 5 - 0.5]
    assert [line[0, 1] for line in lines] == ends
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2", "3", "4"]


# --- what was computed is kept
# --------------------------------------------------------------------------------


def test_only_new_questions_are_computed(tower, footages, monkeypatch):
    """Moving the pair, the tokens' class or back to an earlier clip asks no model anything."""
    model, static, asked = (
        checkpoints.load(tower, ["run", "wave", "get up"]),
        checkpoints.load_static(tower, ["run", "wave", "get up"]),
        [],
    )

    def board(clip: str, template: str = "a {}.", shown: str = "run") -> list[str]:
        asked.clear()
        panels.motion_board(model, footages[clip], panels.View(pair=(0, 1 + (shown == "run"))))
        panels.prompt_board(model, static, footages[clip], template, footages, shown=shown)
        return sorted(set(asked))

    for owner, name in ((FlowCLIP, "forward"), (FlowCLIP, "encode_video"), (type(model.tree), "forward")):
        monkeypatch.setattr(owner, name, told(getattr(owner, name), f"{owner.__name__}.{name}", asked))
    monkeypatch.setattr(prompts, "encode", told(prompts.encode, "encode", asked))
    monkeypatch.setattr(prompts, "vocabulary", told(prompts.vocabulary, "vocabulary", asked))
    assert {"FlowCLIP.forward", "encode"} <= set(board("get up"))
    assert board("get up", shown="wave") == []
    assert board("get up", "an {}.") == ["encode"]
    assert "encode" not in board("wave") and board("get up") == []
    with torch.no_grad():
        model.prompts.vectors.add_(1)
    assert "FlowCLIP.forward" in board("get up")


def told(function, name: str, asked: list):
    def call(*args, **kwargs):
        asked.append(name)
        return function(*args, **kwargs)

    return call


def test_kept_answers_are_of_one_model_as_it_is():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    a, b = np.zeros(2), np.zeros((2, 1))
    assert kept.answers(one).ask("what", a, 3, make=lambda: "first") == "first"
    assert kept.answers(one).ask("what", a.copy(), 3, make=lambda: "second") == "first"
    for owner, given in ((other, (a, 3)), (one, (b, 3)), (one, (a, 4)), (one, (a + 1, 3))):
        assert kept.answers(owner).ask("what", *given, make=lambda: "second") == "second"
    with torch.no_grad():
        one.weight.mul_(1)
    assert not kept.answers(one).has("what", a, 3)
    for number in range(kept.MOST + 1):
        kept.answers(one).ask("many", number, make=lambda: 0)
    assert not kept.answers(one).has("many", 0) and kept.answers(one).has("many", 1)


def test_videos_at_once_equal_one_by_one(model, footages):
    features = np.stack([panels.middle_frames(model, one) for one in footages.values()])
    motions = prompts.motions(model, features)
    for one, found, moved in zip(features, motions, prompts.moved_texts(model, motions), strict=True):
        out = motion.outcome(model, one, 4)
        np.testing.assert_allclose(found, out["motion"], atol=1e-4)
        with torch.inference_mode():
            plain = model.tree(model.prompts.vectors[None])[0]
            np.testing.assert_allclose(
                moved, 1 - torch.cosine_similarity(plain, torch.from_numpy(out["texts"]), dim=-1), atol=1e-4
            )
    for order in ORDERS:
        picked = explore_clips.choose(32, 8, order=order)
        one = motion.outcome(model, footages["wave"].features[picked], 4)["scores"]
        np.testing.assert_allclose(
            motion.by_order(model, footages["wave"], 8, 4)[0].loc[order], one, atol=1e-5
        )


# --- drawing
# --------------------------------------------------------------------------------------------------


def test_kept_pictures_of_texts_equal_matplotlibs_own():
    def draw(fig: Figure) -> None:
        for place, angle in enumerate((0, 45, 90, 0)):
            fig.text(
                0.1 + 0.2 * place, 0.5, "Wjg y", rotation=angle, rotation_mode="anchor", color=(0.8, 0.2, 0)
            )

    new, plain = drawings.figure(5, 2, draw), drawings.figure(5, 2, draw)
    with mpl.rc_context(drawings.SETTINGS):
        canvas = FigureCanvasAgg(plain)
        canvas.draw()
    wanted = np.asarray(canvas.buffer_rgba())[..., :3]
    assert wanted.min() < 100
    for _ in range(2):  # also from what is kept
        assert np.abs(drawings.pixels(new).astype(int) - wanted).max() <= 1


def test_tiles_lie_on_the_board_pixel_by_pixel(model, footage):
    tiles = drawings.Tiles()
    fig = panels.prompt_board(model, None, footage, "a {}.", {}, tiles=tiles)
    board = drawings.pixels(fig)
    words = drawings.pixels(tiles.part("words"))
    top, left = round(1.6 * drawings.DPI), round(5.5 * drawings.DPI)
    there = board[top : top + words.shape[0], left : left + words.shape[1]]
    np.testing.assert_array_equal(there, words)
