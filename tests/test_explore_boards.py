"""The explorers' drawings and controls: they show what was computed, nothing overlaps."""

from __future__ import annotations

import base64
import io
import itertools
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from test_explore import VARIANTS, variant

from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.model.motion import pairs
from flowclip_kit.explore import checkpoints, drawings, motion, one_clip, prompts, widgets
from flowclip_kit.explore import clips as explore_clips

NOUNS = ("tree", "wall", "rope", "gate")
MANY = [f"{verb} {noun}" for verb in ("climb", "run", "push", "pick", "wave") for noun in NOUNS]
MANY += [f"passing {letter} football (in a game) again" for letter in "abcdefghijklmnopqrstuvwxyz"]
MANY += ["jog", "ski", "row", "brush hair", "<b>arm wrestling</b>"]  # 51, as HMDB has
LONG = (
    "a very long template that goes on about how a person in the video is doing what is called {}, it seems!"
)


@pytest.fixture(scope="module")
def model(tower):
    return checkpoints.load(tower)


@pytest.fixture(scope="module")
def footages(tower, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return {label: explore_clips.read_demo(tower, label, root=folder) for label in ("get_up", "wave")}


@pytest.fixture
def footage(footages):
    return footages["get_up"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


# --- drawings -----------------------------------------------------------------------------------------------


def crowded(fig: Figure, monkeypatch) -> list[str]:
    """What is wrong with the texts of a figure: small ones, ones outside, and ones that touch each other."""
    drawn, draw = [], Text.draw

    def record(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            drawn.append(self)
        return draw(self, renderer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", record)
        drawings.rendered(fig)
    wide, high = fig.bbox.size
    boxes = [(text, text.get_window_extent()) for text in drawn]
    wrong = [f"small: {text.get_text()!r}" for text in drawn if text.get_fontsize() < drawings.SMALL]
    wrong += [f"outside: {text.get_text()!r}" for text, box in boxes
              if box.x0 < -1 or box.y0 < -1 or box.x1 > wide + 1 or box.y1 > high + 1]  # fmt: skip
    level = [(text, box.padded(-1)) for text, box in boxes if text.get_rotation() in (0, 90)]
    for (text, box), (other, other_box) in itertools.combinations(level, 2):
        if box.overlaps(other_box):
            wrong.append(f"overlap: {text.get_text()!r} and {other.get_text()!r}")
    return wrong


def test_crowded_texts_are_found(monkeypatch):
    fig = Figure((3, 2), dpi=drawings.DPI)
    for x, y, text, size in (
        (0.1, 0.5, "one", 9),
        (0.12, 0.5, "two", 9),
        (0.95, 0.8, "too far", 9),
        (0.5, 0.2, "tiny", 7),
    ):
        fig.text(x, y, text, fontsize=size)
    assert crowded(fig, monkeypatch) == ["small: 'tiny'", "outside: 'too far'", "overlap: 'one' and 'two'"]


@pytest.mark.parametrize(("frames", "step", "order"), [
    (2, 1, "in order"), (8, 4, "reversed"), (8, 7, "shuffled"), (16, 9, "one frame repeated"),
    (32, 31, "reversed"),
])  # fmt: skip
def test_figures_of_motion_show_the_numbers_and_nothing_overlaps(footage, monkeypatch, frames, step, order):
    features = footage.features[explore_clips.choose(frames, order=order)]
    directions, shares = motion.plane(footage.features[explore_clips.choose(frames)], step)
    table, inside = motion.pair_table(features, step, directions), motion.inside(frames, step)
    sizes = drawings.size_map(motion.sizes(features), inside, (0, step))
    time = drawings.over_time(table)
    flow = drawings.arrows(table, shares, 20.0, (0, step))
    for fig in (sizes, time, flow):
        assert crowded(fig, monkeypatch) == []

    (image,) = sizes.axes[0].images
    np.testing.assert_allclose(image.get_array(), motion.sizes(features))
    assert np.array_equal(image.get_alpha() == 1, inside)
    (ramp,) = sizes.images  # the colour bar, with both ends named
    ends = [f"{value:.3g}" for value in image.get_clim()]
    assert [text.get_text() for text in sizes.texts] == ends and len(ramp.get_array()) > 100
    assert sizes.axes[0].lines[0].get_xydata().tolist() == [[step, 0]]
    lines = time.axes[0].lines
    assert len(lines) == step
    for distance, line in enumerate(lines, 1):
        rows = table[table["distance"] == distance]
        np.testing.assert_allclose(line.get_xydata(), rows[["time", "size"]])
        assert (line.get_color(), line.get_marker()) == (drawings.line_style(distance)[0], line.get_marker())
    ends = {text.get_text(): text.get_color() for text in time.axes[0].texts}
    assert ends == {str(number): drawings.line_style(number)[0] for number in range(1, min(step, 5) + 1)}
    assert (f"grey: 6 to {step}" in time.axes[0].get_title(loc="left")) == (step > 5)
    (quiver,) = [artist for artist in flow.axes[0].collections if hasattr(artist, "U")]
    np.testing.assert_allclose(np.stack([quiver.U, quiver.V], 1), table[["x", "y"]], atol=1e-4)
    (star,) = [line for line in flow.axes[0].lines if line.get_marker() == "*"]
    np.testing.assert_allclose(star.get_xydata()[0], table[["x", "y"]].mean(), atol=1e-4)
    assert f"first principal component ({shares[0]:.0%} of variance)" == flow.axes[0].get_xlabel()


def test_the_strip_shows_the_frames_and_frames_the_pair(footage):
    picked = explore_clips.choose(20)
    pictures, labels = footage.pictures[picked], one_clip.places(footage, picked)
    assert labels[3] == f"3\n{footage.numbers[picked[3]]}"
    plain, framed = (np.asarray(drawings.strip(pictures, labels, pair)) for pair in ((), (2, 19)))
    side = 620 // 16 - 4
    for place, picture in enumerate(pictures):
        x, y = place % 16 * (side + 4), place // 16 * (16 + side + 28) + 16
        tile = np.asarray(Image.fromarray(picture).resize((side, side)))
        np.testing.assert_array_equal(plain[y : y + side, x : x + side], tile)
        assert (framed[y : y + side, x : x + side] != tile).any() == (place in (2, 19))
        assert plain[y + side : y + side + 28, x : x + side].min() < 100, "a label below each"


def test_the_preview_plays_all_stored_frames(footage):
    text = drawings.preview(footage.pictures)
    data = re.search("base64,([^)]*)", text)
    sheet = Image.open(io.BytesIO(base64.b64decode(data[1])))
    assert sheet.size == (32 * 112, 112) and "steps(32, jump-none)" in text
    last = np.asarray(Image.fromarray(footage.pictures[-1]).resize((112, 112))).astype(int)
    assert np.abs(np.asarray(sheet)[:, -112:] - last).mean() < 8


def test_the_heat_map_shows_its_values_beside_a_colour_bar():
    values = np.linspace(0, 0.4, 6).reshape(2, 3)
    text = drawings.heat(values, ["<a>", "▶ " + "b" * 40], ["x", "y", "z"], "how far")
    cells = re.findall(r'<td style="background:(#\w+)[^>]*title="([^"]*)"', text)
    assert [float(value) for _, value in cells] == pytest.approx(values.ravel(), rel=1e-2)
    ramp = mpl.colormaps["cividis"]
    assert [color for color, _ in cells] == [mpl.colors.to_hex(ramp(value / 0.4)) for value in values.ravel()]
    assert "linear-gradient" in text and "</i> 0.4<" in text and "&lt;a&gt;" in text and "<a>" not in text
    assert drawings.marks(["a", "b"], {"b": "▶"}) == ["a", "▶ b"]


def test_tables_show_the_highest_classes_and_the_true_one_and_escape_names():
    scores = pd.DataFrame(
        [[0.1 - place / 1000 for place in range(10)]] * 2, ["first", "<second>"], [*"abcdefghij"]
    )
    scores.loc["<second>", "i"] = 0.9
    top = drawings.top_classes(scores, 4, "j")
    assert list(top.columns) == ["i", "a", "b", "✓ j"]
    assert list(drawings.top_classes(scores, 4, "a").columns) == ["i", "✓ a", "b", "c"]
    text = drawings.score_table(top, "<caption>", ["<second>"]).to_html()
    assert "90%" in text and "&lt;second&gt;" in text and "<second>" not in text and "&lt;caption&gt;" in text
    for text in (
        drawings.text_table(pd.DataFrame({"<b>": ["<i>"]}), "<u>").to_html(),
        drawings.text_box("<i>", "<u>"),
        drawings.token_boxes(pd.DataFrame([("<i>", 3, False)], columns=["token", "id", "known"]), "<u>"),
    ):
        assert "<i>" not in text and "<u>" not in text and "&lt;i&gt;" in text
    assert "dashed" in text and "?" in text


def test_what_is_left_out_has_an_ellipsis():
    assert drawings.cut("climb stairs", 7) == "climb…" and drawings.cut("climb", 5) == "climb"


# --- one clip -----------------------------------------------------------------------------------------------


def displayed(model, footage) -> list:
    out = motion.outcome(model, motion.middle_frames(model, footage), model.config.step)
    return [
        *one_clip.frames_and_changes(model, footage),
        *one_clip.differences(model, footage),
        *one_clip.token_maps(model, out),
        *one_clip.prompt_shift(model, out),
        *one_clip.communication(model, footage, out),
        *one_clip.scores_step_by_step(model, footage),
    ]


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_a_clip_goes_through_any_parts(tower, footage, monkeypatch, settings):
    model = variant(tower, settings)
    shown = displayed(model, footage)
    absent = [text for text in shown if isinstance(text, str)]
    assert len(absent) == (model.prompts is None) + (model.communication is None)
    assert all(text.startswith("Not drawn: ") and "\n" not in text for text in absent)
    assert [crowded(fig, monkeypatch) for fig in shown if isinstance(fig, Figure)].count([]) == sum(
        isinstance(fig, Figure) for fig in shown
    )


@pytest.mark.parametrize("tokens", ["pooled", "sequence"])
def test_what_the_communication_block_adds_is_drawn(tower, footage, tokens):
    model = variant(tower, {"video_tokens": tokens})
    out = motion.outcome(model, motion.middle_frames(model, footage), 2)
    _, added, video, cosines = one_clip.communication(model, footage, out)
    image = added.axes[0].images[0].get_array()
    np.testing.assert_allclose(image, out["texts_out"] - out["texts"], atol=1e-5)
    assert ("one vector for all" in added.axes[0].get_title(loc="left")) == (tokens == "pooled")
    rows = np.stack([out["video"], out["video_out"] - out["video"], out["video_out"]])
    np.testing.assert_allclose(video.axes[0].images[0].get_array(), rows, atol=1e-5)
    after = pd.Series(out["logits"] * model.config.tau, model.class_texts)
    np.testing.assert_allclose(cosines.data["after"], after[cosines.data.index], atol=1e-4)
    assert (cosines.data["before"] - cosines.data["after"]).abs().max() > 1e-4


def test_token_maps_separate_the_pairs_by_distance(model, footage):
    out = motion.outcome(model, motion.middle_frames(model, footage), 4)
    ax = one_clip.token_maps(model, out)[0].axes[0]
    (lines,) = [collection.get_segments() for collection in ax.collections]
    assert [line[0, 1] for line in lines] == [7 - 0.5, 7 + 6 - 0.5, 7 + 6 + 5 - 0.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2", "3", "4"]


# --- controls -----------------------------------------------------------------------------------------------


def state(explorer) -> dict[str, object]:
    return {name: panel.value for name, panel in explorer.panels.items()}


def changed(explorer, control: str, value: object) -> set[str]:
    """The panels that show something else after a control was moved."""
    before = state(explorer)
    getattr(explorer, control).value = value
    assert not explorer.error, control
    return {name for name, value in state(explorer).items() if value != before[name]}


def test_controls_of_the_motion_explorer(model, footage, monkeypatch, tmp_path):
    monkeypatch.setattr(motion, "telling_clip", lambda model: footage)
    explorer = widgets.MotionExplorer(model)
    everything = {"frames", "sizes", "time", "arrows", "scores"}
    assert explorer.menu.value == "get up" and "get up, clip 0" in explorer.title.value
    assert changed(explorer, "pair", (1, 3)) == {"frames", "sizes", "arrows"}
    assert changed(explorer, "step", 2) == {"sizes", "time", "arrows", "scores"}
    assert changed(explorer, "frames", 6) == everything
    assert changed(explorer, "order", "reversed") == everything
    assert changed(explorer, "range", (4, 28)) == everything
    assert explorer.pair.value == (1, 3) and len(explorer.pair.options) == len(pairs(6, 2))
    explorer.frames.value = 2
    assert explorer.step.max == explorer.step.value == 1 and not explorer.error
    scores, moved = motion.by_order(model, footage, 2, 1, 4, 28)
    for value in (f"{scores.loc['reversed', 'get up']:.0%}", f"{moved['reversed']:.2f}", "✓ get up"):
        assert value in explorer.panels["scores"].value

    before = state(explorer)
    explorer.path.value = str(tmp_path / "no.mp4")
    assert "no such file" in explorer.error and "\n" not in explorer.error and state(explorer) == before
    assert "no such file" in explorer.line.value
    explorer.frames.value = 5  # draws, but the path is as wrong as before
    assert "no such file" in explorer.error and state(explorer) != before
    explorer.path.value = ""
    assert not explorer.error and not explorer.line.value


def test_controls_of_the_prompt_explorer(tower, footages, monkeypatch):
    monkeypatch.setattr(motion, "telling_clip", lambda model: footages["get_up"])
    explorer = widgets.PromptExplorer(tower)
    assert changed(explorer, "template", "a photo of {}.") == {"scores", "tokens"}
    assert changed(explorer, "shown", "run") == {"tokens"}
    assert changed(explorer, "other", "wave") == {"scores", "words", "heat"}
    assert "wave, clip 0" in explorer.panels["words"].value
    assert "other motion" in explorer.panels["scores"].value
    assert changed(explorer, "names", "run, wave, jog") == {"scores", "tree", "heat"}
    assert "never seen by the embedded model: jog" in explorer.title.value
    explorer.template.value = "nothing"
    assert "{}" in explorer.error
    explorer.names.value = "run"
    assert "at least two" in explorer.error and "{}" in explorer.error
    explorer.template.value = "a photo of {}."
    assert "at least two" in explorer.error and "{}" not in explorer.error


def test_51_classes_and_long_words_are_readable(tower, footages, monkeypatch):
    monkeypatch.setattr(motion, "telling_clip", lambda model: None)
    heats = []
    monkeypatch.setattr(
        drawings, "heat", lambda *inputs, draw=drawings.heat: heats.append(inputs) or draw(*inputs)
    )
    explorer = widgets.PromptExplorer(tower, ", ".join(MANY), LONG)
    assert not explorer.error
    tree = explorer.panels["tree"].value
    assert tree.count("[EOS]") == len(MANY) and "overflow:auto" in tree
    values, rows, columns, title = heats[-1]
    assert values.shape == (len(rows), 20) == (17, 20) and f"the 20 of {len(MANY)}" in title
    motions = [motion.middle_frames(explorer.model, clip) for clip in explorer.seen.values()]
    moved = [prompts.moved_texts(explorer.model, prompts.motion_of(explorer.model, clip)) for clip in motions]
    most = np.sort((-np.max(moved, 0)).argsort(kind="stable")[:20])
    assert columns == [explorer.model.class_texts[i] for i in most]
    assert len(re.sub("<[^>]*>", "", explorer.title.value)) < 260 and "<b>arm" not in explorer.title.value


def test_only_new_questions_are_asked(tower, footages, monkeypatch):
    """Moving the pair, the tokens' class or back to an earlier clip asks no model anything."""
    monkeypatch.setattr(motion, "telling_clip", lambda model: footages["get_up"])
    names, asked = ["run", "wave", "get up"], []
    explorers = (
        widgets.MotionExplorer(checkpoints.load(tower, names)),
        widgets.PromptExplorer(tower, ", ".join(names)),
    )
    for owner, name in ((FlowCLIP, "forward"), (FlowCLIP, "encode_video"), (type(tower), "encode_prompts")):
        function = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *a, name=name, function=function, **k: asked.append(name) or function(*a, **k)
        )

    def questions(control: str, value: object) -> set[str]:
        asked.clear()
        for explorer in explorers:
            if hasattr(explorer, control):
                getattr(explorer, control).value = value
        return set(asked)

    assert {"forward", "encode_video"} <= questions("menu", "run")
    assert questions("pair", (1, 3)) == questions("shown", "wave") == questions("menu", "get up") == set()
    assert questions("template", "an {}.") == {"encode_prompts"}


def test_no_prompts_no_prompt_board(tower, tmp_path, monkeypatch):
    monkeypatch.setattr(motion, "telling_clip", lambda model: None)
    variant(tower, {"map": False}).save_pretrained(tmp_path)
    explorer = widgets.PromptExplorer(tower, "run, wave", checkpoint=str(tmp_path))
    assert "map=True" in explorer.error
    with pytest.raises(InputError):
        explorer.draw()


def test_a_model_of_32_frames_is_shown_at_32_frames(tower, footage, monkeypatch):
    monkeypatch.setattr(motion, "telling_clip", lambda model: footage)
    explorer = widgets.MotionExplorer(checkpoints.resized(checkpoints.load(tower), 32, 4))
    assert explorer.frames.value == 32 and explorer.step.max == 31 and not explorer.error
