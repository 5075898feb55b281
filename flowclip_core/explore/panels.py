"""The explorers' figures, composed of drawings: what a notebook shows as it stands and a slider redraws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowclip_core.errors import InputError
from flowclip_core.explore import clips, drawings, motion, parts, prompts
from flowclip_core.explore.clips import Footage

if TYPE_CHECKING:
    from flowclip_core.model.backbone import Backbone
    from flowclip_core.model.flowclip import FlowCLIP


@dataclass(frozen=True)
class View:
    """What the motion explorer is set to. start, end: of the stored frames. pair: places i and j of the chosen pair."""

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
    reach = 1.15 * max(float(np.abs(motion.differences(forward, view.step) @ directions).max()), 1e-6)
    before = None if view.order == "in order" else scores.loc["in order"]

    def draw(fig: Figure) -> None:
        strip, sizes, time, flow, bars, moves = fig.axes or _motion_axes(fig)
        drawings.strip(strip, footage.pictures[picked], footage.numbers[picked], view.pair)
        drawings.size_map(sizes, motion.sizes(features), motion.inside(view.frames, view.step), view.pair)
        drawings.over_time(time, motion.over_time(features, view.step), view.frames)
        drawings.arrows(flow, flat, shares, reach, view.pair)
        drawings.bars(bars, scores.loc[view.order], before, f"class scores, {view.order}", top=8)
        drawings.moves(moves, moved)
        fig.suptitle(
            f"{footage.title}: {parts.about(model, footage.own)}", x=0.01, ha="left", fontsize=9.5, color="0.25"
        )

    return _drawn(11.5, 8.6, draw, fig)


def _motion_axes(fig: Figure) -> list[Axes]:
    rows = fig.add_gridspec(3, 1, height_ratios=(1.15, 2.6, 2.6), hspace=0.46, left=0.085, right=0.985, top=0.94,
                            bottom=0.07)  # fmt: skip
    middle = rows[1].subgridspec(1, 3, wspace=0.36, width_ratios=(1, 1.3, 1))
    last = rows[2].subgridspec(1, 2, wspace=0.35, width_ratios=(1.3, 1))
    return [drawings.fix_labels(fig.add_subplot(place)) for place in (rows[0], *middle, *last)]


def _drawn(width: float, height: float, draw: Callable[[Figure], object], fig: Figure | None) -> Figure:
    if fig is None:
        return drawings.figure(width, height, draw)
    drawings.redraw(fig, draw)
    return fig


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
    """Tokens, tree, nearest words, scores by kind of prompt, and where the videos `seen` so far move the texts.

    shown: the class whose tokens are drawn, by default the first. other: the video whose motion the prompts follow.
    tiles: of an earlier board, so that only what has changed is drawn.
    """
    if model.prompts is None:
        raise InputError("these parts have no learnt prompts; take a checkpoint of a model with map=True")
    backbone, names = model.backbone, list(model.class_texts)
    shown = shown if shown in names else names[0]
    table = prompts.tokens(backbone, prompts.fill(template, [shown])[0])
    features = middle_frames(model, footage)
    steer = features if other is None else middle_frames(model, other)
    vectors = model.prompts.vectors.detach().cpu().numpy()
    moved = motion.outcome(model, steer, model.config.step)["prompts"]
    before, after = prompts.nearest(backbone, vectors), prompts.nearest(backbone, moved)
    nodes = prompts.tree(backbone, names[:16], [f"P_{h + 1}" for h in range(len(vectors))])
    scores = prompts.side_by_side(model, static, features, template, None if other is None else steer)
    clips_seen = {title: clip for title, clip in seen.items() if title != footage.title} | {footage.title: footage}
    motions = np.stack([motion.outcome(model, middle_frames(model, clip), model.config.step)["motion"]
                        for clip in clips_seen.values()])  # fmt: skip
    unseen = prompts.unseen(backbone, [*names, template.replace("{}", " ")])

    title = "prompt tree; squares: shared by all classes" + (f" (first 16 of {len(names)})" * (len(names) > 16))
    values = prompts.moved_texts(model, motions)
    heat_key = tuple(clips_seen), tuple(names), values.tobytes()

    def tokens(fig: Figure) -> None:
        drawings.tokens(_axes(fig, (0.03, 0.0, 0.96, 1.0)), table)

    def tree(fig: Figure) -> None:
        drawings.tree(_axes(fig, (0.04, 0.0, 0.94, 0.92)), nodes, title)

    def words(fig: Figure) -> None:
        drawings.nearest(_axes(fig, (0.03, 0.0, 0.94, 0.85)), before, after)

    def heat(fig: Figure) -> None:
        drawings.heat(_axes(fig, (0.24, 0.23, 0.74, 0.69)), values, list(clips_seen), names, len(clips_seen) - 1)

    def scored(fig: Figure) -> None:
        ax = _axes(fig, (0.21, 0.32, 0.74, 0.61))
        drawings.grouped(ax, scores, "scores by kind of prompt", top=5, legend="below")

    def draw(fig: Figure) -> None:
        said = f"{footage.title}: {parts.about(model, footage.own)}"
        if unseen:
            said += f"\nnever seen by the embedded model: {', '.join(unseen)}"
        fig.suptitle(said, x=0.01, ha="left", fontsize=9.5, color="0.25")
        (tiles or drawings.Tiles()).draw_on(
            fig,
            {
                "tokens": ((0, 0.5, 11.5, 0.75), table.to_csv(), tokens),
                "tree": ((0, 1.35, 5.6, 3.5), tuple(names), tree),
                "words": ((5.7, 1.35, 5.8, 2.0), str((before, after)), words),
                "heat": ((0, 4.9, 5.9, 4.7), heat_key, heat),
                "scores": ((5.9, 3.5, 5.6, 6.0), scores.to_csv(), scored),
            },
        )

    return drawings.figure(11.5, 9.6, draw)


def _axes(fig: Figure, place: tuple[float, float, float, float]) -> Axes:
    return fig.axes[0] if fig.axes else fig.add_axes(place)


def middle_frames(model: FlowCLIP, footage: Footage) -> np.ndarray:
    """The features (T,D) that the model tests on: the middle stored frame of each of T parts."""
    return footage.features[clips.choose(len(footage.features), model.config.frames)]


# --- one clip, step by step -----------------------------------------------------------------------------------


def frames_and_differences(footage: Footage, picked: np.ndarray, step: int) -> Figure:
    """Frames as the model sees them; what differs between two of them, in pictures and in features."""
    features = footage.features[picked]
    pictures = footage.pictures[picked].astype(np.int16)
    far = min(step, len(picked) - 1)
    changed = np.abs(pictures[far:] - pictures[:-far]).max(-1)
    changed = np.repeat((255 - changed.clip(0, 255)).astype(np.uint8)[..., None], 3, -1)

    def draw(fig: Figure) -> None:
        rows = fig.add_gridspec(3, 1, height_ratios=(1, 1, 2.4), hspace=0.45, left=0.07, right=0.98, top=0.95,
                                bottom=0.08)  # fmt: skip
        ax = drawings.strip(fig.add_subplot(rows[0]), footage.pictures[picked], footage.numbers[picked], (0, far))
        ax.set_title("frames I_1 ... I_T", loc="left")
        ax = drawings.strip(
            fig.add_subplot(rows[1]),
            changed,
            [f"{footage.numbers[picked[i]]} to {footage.numbers[picked[i + far]]}" for i in range(len(changed))],
        )
        ax.set_title("what changes in the pictures over s frames (dark: much)", loc="left")
        ax.set_xlabel("frames of the video")
        last = rows[2].subgridspec(1, 2, wspace=0.3)
        inside = motion.inside(len(picked), step)
        drawings.size_map(fig.add_subplot(last[0]), motion.sizes(features), inside, (0, far))
        drawings.over_time(fig.add_subplot(last[1]), motion.over_time(features, step), len(picked))

    return drawings.figure(10.5, 6.8, draw)


def token_maps(out: Mapping[str, np.ndarray]) -> Figure:
    """Differences, motion tokens and spatial tokens of the forward pass, a row each."""
    names = {
        "differences": "frame differences, Eq. 4",
        "motion_tokens": "motion tokens",
        "spatial_tokens": "spatial tokens, Eq. 5",
    }

    def draw(fig: Figure) -> None:
        axes = fig.subplots(1, 3, gridspec_kw={"wspace": 0.42, "left": 0.05, "right": 0.97, "top": 0.9, "bottom": 0.15})
        for ax, (name, title) in zip(axes, names.items(), strict=True):
            drawings.matrix(ax, out[name], title, "frame" if name == "spatial_tokens" else "pair", "dimension")

    return drawings.figure(11, 3.4, draw)


def prompt_shift(model: FlowCLIP, out: Mapping[str, np.ndarray]) -> Figure:
    """The learnt prompt vectors, the shift that motion adds to each, and what words lie nearest before and after."""
    vectors = model.prompts.vectors.detach().cpu().numpy()
    backbone = model.backbone
    before, after = prompts.nearest(backbone, vectors), prompts.nearest(backbone, out["prompts"])

    def draw(fig: Figure) -> None:
        grid = fig.add_gridspec(2, 2, width_ratios=(1, 1.3), hspace=0.75, wspace=0.25, left=0.06, right=0.985, top=0.92,
                                bottom=0.14)  # fmt: skip
        drawings.matrix(fig.add_subplot(grid[0, 0]), vectors, "prompt vectors as learnt", "vector", "dimension")
        drawings.matrix(
            fig.add_subplot(grid[1, 0]), out["prompts"] - vectors, "shift by this video's motion", "vector", "dimension"
        )
        drawings.nearest(fig.add_subplot(grid[:, 1]), before, after)

    return drawings.figure(11, 3.8, draw)


def tree_picture(model: FlowCLIP) -> Figure:
    """The prompt tree of a model's classes, with the prefix they share."""
    names = list(model.class_texts)[:24]
    vectors = [f"P_{h + 1}" for h in range(model.config.prompt_length)]
    nodes = prompts.tree(model.backbone, names, vectors)
    title = f"{len(nodes)} nodes in the place of {len(names)} x {model.backbone.context} tokens"

    def draw(fig: Figure) -> None:
        drawings.tree(fig.add_axes((0.02, 0.02, 0.96, 0.9)), nodes, title)

    return drawings.figure(10, 0.9 + 0.24 * len(names), draw)


def scores_step_by_step(model: FlowCLIP, footage: Footage, picked: np.ndarray) -> Figure:
    """Class scores before and after each part, and beside them the same clip with its frames in other orders."""
    stages = motion.steps(model, footage.features[picked]).pivot_table("score", "stage", "label", sort=False)
    orders, _ = motion.by_order(model, footage, model.config.frames, model.config.step)

    def draw(fig: Figure) -> None:
        axes = fig.subplots(1, 2, gridspec_kw={"wspace": 0.3, "left": 0.09, "right": 0.98, "top": 0.85, "bottom": 0.34})
        drawings.grouped(axes[0], stages, "before and after each part", legend="below")
        drawings.grouped(axes[1], orders, "the same frames in another order", legend="below")
        fig.suptitle(parts.about(model, footage.own), x=0.01, ha="left", fontsize=9.5, color="0.25")

    return drawings.figure(11, 5.2, draw)


def reference_clips(backbone: Backbone, names: Sequence[str] | None = None) -> dict[str, Footage]:
    """A demo clip of every class, read: what the heat map compares with. Only the embedded model reads them so fast."""
    if backbone.name != parts.TINY:
        return {}
    found = {}
    for label in names or clips.demo_classes():
        title = clips.world.spaced(label)
        found[title] = clips.read(clips.demo_clip(label, 1), backbone, title=title)
    return found
