"""The explorers' figures, composed of drawings: what a notebook shows as it stands and a slider redraws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowclip_core.errors import InputError
from flowclip_kit.explore import checkpoints, clips, drawings, motion, prompts
from flowclip_kit.explore.clips import Footage

if TYPE_CHECKING:
    from IPython.display import Markdown

    from flowclip_core.model.backbone import Backbone
    from flowclip_core.model.flowclip import FlowCLIP

MOST_COLUMNS, MOST_ROWS, MOST_LEAVES = 20, 18, 16  # of the heat map and the tree on a board


@dataclass(frozen=True)
class View:
    """What the motion explorer is set to. start, end: of the stored frames. pair: places i and j of the
    chosen pair."""

    frames: int = 8
    step: int = 4
    start: int = 0
    end: int = clips.STORED
    order: str = "in order"
    pair: tuple[int, int] = (0, 1)


def motion_board(model: FlowCLIP, footage: Footage, view: View, fig: Figure | None = None) -> Figure:
    """Frames, size map, motion over time, arrows, scores and moves of V for one clip and one setting.

    fig: a figure that this function made, to be drawn again.
    """
    stored = len(footage.features)
    end = min(view.end, stored)
    picked = clips.choose(stored, view.frames, view.start, end, view.order)
    forward = footage.features[clips.choose(stored, view.frames, view.start, end)]
    features = footage.features[picked]
    scores, moved = motion.by_order(model, footage, view.frames, view.step, view.start, end)
    directions, shares = motion.plane(forward, view.step)
    flat = motion.arrows(features, view.step, directions)
    reach = 1.15 * drawings.above_noise(np.ptp(forward @ directions, axis=0).max())  # holds them in any order
    before = None if view.order == "in order" else scores.loc["in order"]

    def draw(fig: Figure) -> None:
        strip, sizes, time, flow, bars, moves = fig.axes or _motion_axes(fig)
        drawings.strip(strip, footage.pictures[picked], _places(footage, picked), view.pair)
        drawings.size_map(sizes, motion.sizes(features), motion.inside(view.frames, view.step), view.pair)
        drawings.over_time(time, motion.over_time(features, view.step), view.frames)
        drawings.distance_key(time, view.step, 0.55)
        drawings.arrows(flow, flat, shares, reach, view.pair)
        drawings.bars(
            bars,
            scores.loc[view.order],
            before,
            f"class scores, {view.order}",
            true=own_class(model, footage),
        )
        drawings.moves(moves, moved)
        _head(fig, said_of(model, footage))

    return drawings.figure(drawings.WIDTH, 9, draw, fig)


def _motion_axes(fig: Figure) -> list[Axes]:
    places = (0.75, 0.7, 10.35, 1.15), (0.75, 2.85, 2.4, 2.4), (4.15, 2.85, 3.2, 2.4), (8.65, 2.85, 2.4, 2.4)
    return [drawings.place(fig, *one) for one in (*places, (1.95, 6.4, 4.1, 2.05), (8.0, 6.4, 3.05, 2.05))]


def _places(footage: Footage, picked: np.ndarray) -> list[str]:
    """Under each frame its place among the T, which pairs and maps count by, and its number in the video."""
    return [f"{place}\n{footage.numbers[one]}" for place, one in enumerate(picked)]


def _head(fig: Figure, *lines: str) -> None:
    fig.suptitle("\n".join(filter(None, lines)), x=0.01, ha="left", fontsize=9.5, color="0.25")


def said_of(model: FlowCLIP, footage: Footage) -> str:
    """Which clip, and what its scores may mean."""
    return f"{drawings.cut(footage.title, 40)}: {checkpoints.about(model, footage.demo)}"


def own_class(model: FlowCLIP, footage: Footage) -> str | None:
    """The class that a clip of a data set shows, where the model has it; its title begins with it."""
    found = [name for name in model.class_texts if f"{footage.title},".startswith(f"{name},")]
    return None if footage.own else max(found, key=len, default=None)


def prompt_board(
    model: FlowCLIP,
    static: FlowCLIP | None,
    footage: Footage,
    template: str,
    seen: Mapping[str, Footage],
    other: Footage | None = None,
    shown: str | None = None,
    tiles: drawings.Tiles | None = None,
) -> Figure:
    """Tokens, tree, nearest words, scores by kind of prompt, and where the videos `seen` so far move the
    texts.

    shown: the class whose tokens are drawn, by default the first. other: the video whose motion the prompts
    follow.
    tiles: of an earlier board, so that only what has changed is drawn.
    """
    if model.prompts is None:
        raise InputError("these parts have no learnt prompts; take a checkpoint of a model with map=True")
    backbone, names, tiles = model.backbone, list(model.class_texts), tiles or drawings.Tiles()
    shown, true = shown if shown in names else names[0], own_class(model, footage)
    filled = prompts.fill(template, names)
    table = prompts.tokens(backbone, filled[names.index(shown)])
    features, steering = middle_frames(model, footage), footage if other is None else other
    steer = middle_frames(model, steering)
    nodes = prompts.tree(
        backbone, names[:MOST_LEAVES], [f"P_{h + 1}" for h in range(len(model.prompts.vectors))]
    )
    scores = prompts.side_by_side(model, static, features, template, None if other is None else steer)
    unseen = [word if word.isalnum() else f"«{word}»" for word in prompts.unseen(backbone, [*names, *filled])]
    words = shift_words(model, steer) + (steering.title,)

    chosen = dict(seen)
    for clip in (steering, footage):
        chosen.pop(clip.title, None)
        chosen[clip.title] = clip
    chosen = dict(list(chosen.items())[-MOST_ROWS:])
    motions = prompts.motions(model, np.stack([middle_frames(model, clip) for clip in chosen.values()]))
    values = prompts.moved_texts(model, motions)
    columns = prompts.most_moved(values, MOST_COLUMNS)
    marks = dict(zip((list(chosen).index(steering.title), len(chosen) - 1), "▷▶", strict=True))
    heat = values[:, columns], list(chosen), [names[i] for i in columns], len(names), marks

    title = "prompt tree; squares: shared by all classes" + _first(MOST_LEAVES, len(names))

    def draw_tokens(fig: Figure) -> None:
        drawings.tokens(_axes(fig, 0.3, 0.02, 10.8, 0.75), table)

    def draw_tree(fig: Figure) -> None:
        drawings.tree(_axes(fig, 0.2, 0.3, 5.2, 3.4), nodes, title)

    def draw_words(fig: Figure) -> None:
        before, after, note, whose = words
        drawings.nearest(_axes(fig, 0.2, 0.3, 5.4, 2.25), before, after, whose, note)

    def draw_heat(fig: Figure) -> None:
        drawings.heat(_axes(fig, 1.95, 0.45, 3.85, 3.2), *heat)

    def draw_scores(fig: Figure) -> None:
        drawings.grouped(_axes(fig, 1.75, 0.45, 3.3, 3.5), scores, "scores by kind of prompt", 5, true)

    def draw(fig: Figure) -> None:
        swap = f"its prompts follow the motion of {drawings.cut(other.title, 40)}" if other else ""
        _head(
            fig,
            said_of(model, footage),
            swap,
            unseen and f"never seen by the embedded model: {drawings.some(unseen, 100)}",
        )
        tiles.draw_on(
            fig,
            {
                "tokens": ((0, 0.75, 11.25, 0.85), table.to_csv(), draw_tokens),
                "tree": ((0, 1.6, 5.5, 3.75), tuple(names), draw_tree),
                "words": ((5.5, 1.6, 5.75, 2.65), str(words), draw_words),
                "heat": ((0, 5.4, 6.0, 5.0), (values.tobytes(), *map(str, heat[1:])), draw_heat),
                "scores": ((6.0, 4.3, 5.25, 6.1), (scores.to_csv(), true), draw_scores),
            },
        )

    return drawings.figure(drawings.WIDTH, 10.5, draw)


def _axes(fig: Figure, left: float, top: float, width: float, height: float) -> Axes:
    return fig.axes[0] if fig.axes else drawings.place(fig, left, top, width, height)


def _first(shown: int, count: int) -> str:
    return f" (first {shown} of {count})" if count > shown else ""


def shift_words(model: FlowCLIP, features: np.ndarray) -> tuple[drawings.Words, drawings.Words, str]:
    """The nearest words of the prompt vectors as learnt, and after the shift by a video (T,D); what to make
    of them."""
    vectors = model.prompts.vectors.detach().cpu().numpy()
    moved = vectors + prompts.shift(model, prompts.motions(model, features[None]))
    found = [prompts.nearest(model.backbone, one) for one in (vectors, moved)]
    return *found, prompts.about_shift(vectors, moved)


def middle_frames(model: FlowCLIP, footage: Footage) -> np.ndarray:
    """The features (T,D) that the model tests on: the middle stored frame of each of T parts."""
    return footage.features[clips.choose(len(footage.features), model.config.frames)]


# --- one clip, step by step
# -----------------------------------------------------------------------------------


def frames_and_differences(model: FlowCLIP, footage: Footage) -> Figure:
    """Frames as the model sees them; what differs between two of them, in pictures and in features."""
    step, picked = model.config.step, clips.choose(len(footage.features), model.config.frames)
    features, numbers = footage.features[picked], footage.numbers[picked]
    pictures = footage.pictures[picked].astype(np.int16)
    changed = np.abs(pictures[step:] - pictures[:-step]).max(-1)
    changed = np.repeat((255 - changed.clip(0, 255)).astype(np.uint8)[..., None], 3, -1)
    ends = [f"{i} to {i + step}\n{numbers[i]} to {numbers[i + step]}" for i in range(len(changed))]

    def draw(fig: Figure) -> None:
        frames, between, sizes, time = (drawings.place(fig, *one) for one in (
            (0.75, 0.65, 9.7, 1.15), (0.75, 2.85, 9.7, 1.15), (0.75, 5.15, 2.6, 2.6), (5.0, 5.15, 5.3, 2.6)
        ))  # fmt: skip
        drawings.strip(frames, footage.pictures[picked], _places(footage, picked), (0, step))
        frames.set_title("the T frames; the paper counts their places from 1", loc="left", y=1.2)
        drawings.strip(between, changed, ends, rows="places\nframes")
        between.set_title(f"what changes in the pictures over s = {step} places (dark: much)", loc="left")
        inside = motion.inside(len(picked), step)
        drawings.size_map(sizes, motion.sizes(features), inside, (0, step))
        drawings.over_time(time, motion.over_time(features, step), len(picked))
        drawings.distance_key(time, step, 0.55)

    return drawings.figure(10.7, 8.5, draw)


def token_maps(model: FlowCLIP, out: Mapping[str, np.ndarray]) -> Figure:
    """Differences, motion tokens and spatial tokens of the forward pass, those that there are, a row each."""
    names = {
        "differences": "frame differences, Eq. 4",
        "motion_tokens": "motion tokens, Eq. 5",
        "spatial_tokens": "spatial tokens, Eq. 5",
    }
    found = [name for name in names if name in out] or ["frames"]

    def draw(fig: Figure) -> None:
        for number, name in enumerate(found):
            ax = drawings.place(fig, 0.65 + 3.65 * number, 0.35, 2.65, 2.8)
            drawings.matrix(ax, out[name], names.get(name, "frame features: no streams"), "place")
            if len(out[name]) == model.config.differences and name != "spatial_tokens":
                drawings.by_distance(ax, model.config.frames, model.config.step)

    return drawings.figure(0.2 + 3.65 * len(found), 3.75, draw)


def prompt_shift(model: FlowCLIP, out: Mapping[str, np.ndarray]) -> Figure | Markdown:
    """The learnt prompt vectors, the shift that motion adds to each, and what words lie nearest before and
    after."""
    if model.prompts is None:
        return _absent(
            "these parts have no learnt prompts (map=False); the hand-crafted one is used as it is"
        )
    vectors = model.prompts.vectors.detach().cpu().numpy()
    before, after = (prompts.nearest(model.backbone, one) for one in (vectors, out["prompts"]))
    names = [f"P_{h + 1}" for h in range(len(vectors))]

    def draw(fig: Figure) -> None:
        shift = out["prompts"] - vectors, "their shift by this video's motion"
        for top, (values, title) in ((0.35, (vectors, "prompt vectors as learnt")), (2.25, shift)):
            drawings.matrix(drawings.place(fig, 0.65, top, 4.1, 1.1), values, title, "vector", names=names)
        words = drawings.place(fig, 5.4, 0.35, 5.3, 2.9)
        drawings.nearest(words, before, after, note=prompts.about_shift(vectors, out["prompts"]))

    return drawings.figure(10.8, 3.9, draw)


def tree_picture(model: FlowCLIP, most: int = 24) -> Figure:
    """The prompt tree of a model's first classes, with the prefix they share."""
    names = list(model.class_texts)[:most]
    vectors = [f"P_{h + 1}" for h in range(model.config.prompt_length)]
    nodes = prompts.tree(model.backbone, names, vectors)
    title = f"{len(nodes)} nodes in the place of {len(names)} x {model.backbone.context} tokens"
    title += _first(most, len(model.class_texts))

    def draw(fig: Figure) -> None:
        drawings.tree(drawings.place(fig, 0.2, 0.35, 9.6, 0.3 + 0.24 * len(names)), nodes, title)

    return drawings.figure(10, 0.75 + 0.24 * len(names), draw)


def communication(model: FlowCLIP, footage: Footage, out: Mapping[str, np.ndarray]) -> Figure | Markdown:
    """What the communication block adds to the texts and to V, and the cosines of V and the texts before and
    after."""
    if model.communication is None:
        return _absent("these parts have no communication block (mcb=False); V meets the texts as they are")
    added = out["texts_out"] - out["texts"]
    one = np.abs(added - added.mean(0)).max() < 1e-3 * max(np.abs(added).max(), 1e-9)
    title = "added to the texts" + (": one vector for all" if one else "")
    seen = np.stack([out["video"], out["video_out"] - out["video"], out["video_out"]])
    cosines = [
        pd.Series(_cosines(out[f"texts{end}"], out[f"video{end}"]), model.class_texts) for end in ("", "_out")
    ]

    def draw(fig: Figure) -> None:
        for left, values, title_ in ((0.65, out["texts"], "texts T"), (4.3, added, title)):
            drawings.matrix(drawings.place(fig, left, 0.35, 2.75, 2.0), values, title_, "class")
        video = drawings.place(fig, 0.65, 3.25, 6.55, 0.8)
        drawings.matrix(video, seen, "video token", "", names=["V", "added", "V'"])
        drawings.before_after(drawings.place(fig, 8.95, 0.5, 1.9, 3.2), *cosines, "V beside each text", "cosine",
                              true=own_class(model, footage))  # fmt: skip

    return drawings.figure(11, 4.6, draw)


def _cosines(texts: np.ndarray, video: np.ndarray) -> np.ndarray:
    return texts @ video / np.maximum(np.linalg.norm(texts, axis=1) * np.linalg.norm(video), 1e-12)


def scores_step_by_step(model: FlowCLIP, footage: Footage) -> Figure:
    """Class scores before and after each part, and beside them the same clip with its frames in other
    orders."""
    stages = motion.steps(model, middle_frames(model, footage)).pivot_table(
        "score", "stage", "label", sort=False
    )
    orders, _ = motion.by_order(model, footage, model.config.frames, model.config.step)
    true = own_class(model, footage)

    def draw(fig: Figure) -> None:
        left, right = (drawings.place(fig, at, 0.95, 3.7, 3.0) for at in (1.75, 7.2))
        drawings.grouped(left, stages, "before and after each part", true=true)
        drawings.grouped(right, orders, "the same frames in another order", true=true)
        _head(fig, said_of(model, footage))

    return drawings.figure(11.1, 5.6, draw)


def _absent(why: str) -> Markdown:
    from IPython.display import Markdown

    return Markdown(f"*Not drawn: {why}.*")


def reference_clips(backbone: Backbone) -> dict[str, Footage]:
    """A demo clip of every class, read: what the heat map compares with. Only the embedded model reads them
    so fast."""
    if backbone.name != checkpoints.TINY:
        return {}
    found = {}
    for label in clips.demo_classes():
        title = clips.world.spaced(label)
        found[title] = clips.read(clips.demo_clip(label, 1), backbone, title=title, demo=True)
    return found
