"""Drawings of the explorers: tidy data and axes in, axes out. Marks differ by shape or line as well as by colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flowclip_core.explore.prompts import Node

# Okabe and Ito's colours; the shape or the line says the same once more.
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
DISTANCE = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", ":"), ("#CC79A7", "D", "-."), ("#56B4E9", "v", "-"))
KINDS = (
    ("#000000", "o"),
    (BLUE, "s"),
    (ORANGE, "^"),
    (GREEN, "D"),
    ("#CC79A7", "v"),
    ("#56B4E9", "P"),
    ("#999999", "X"),
)
HATCH = ("", "///", "...", "xxx")
SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titley": 1.02,  # a fixed place: finding one costs a layout of all tick labels
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    # Nearly half of the time to draw is text; without these two it is a third less.
    "text.hinting": "none",
    "text.parse_math": False,
}
DPI = 90


def figure(width: float, height: float, draw: Callable[[Figure], object]) -> Figure:
    """A figure that `draw` fills, without pyplot: nothing global changes."""
    fig = Figure((width, height), dpi=DPI)
    redraw(fig, draw)
    return fig


def redraw(fig: Figure, draw: Callable[[Figure], object]) -> None:
    """Let `draw` fill the figure, again if it was filled: its axes stay, emptied, since making them is slow."""
    for ax in fig.axes:
        for artist in (*ax.lines, *ax.patches, *ax.collections, *ax.images, *ax.texts, *ax.tables):
            artist.remove()
        if ax.get_legend():
            ax.get_legend().remove()
    with mpl.rc_context(SETTINGS):
        draw(fig)


def pixels(fig: Figure) -> np.ndarray:
    """The figure as (h,w,3) uint8."""
    with mpl.rc_context(SETTINGS):
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def png(fig: Figure) -> bytes:
    """The figure as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels(fig)).save(file, "PNG", compress_level=1)
    return file.getvalue()


class Tiles:
    """Parts of a picture that are drawn again only when what they show has changed."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, Figure, np.ndarray]] = {}
        self.drawn: list[str] = []  # by the last call of `draw_on`

    def draw_on(
        self, fig: Figure, tiles: Mapping[str, tuple[Sequence[float], object, Callable[[Figure], object]]]
    ) -> None:
        """Put tiles on a figure: name -> ((left, top, width, height) in inches, what it shows, how to draw it)."""
        self.drawn = []
        for name, ((left, top, width, height), shows, draw) in tiles.items():
            key = width, height, shows
            if name not in self._kept or self._kept[name][0] != key:
                old = self._kept.get(name)
                part = old[1] if old and old[0][:2] == key[:2] else Figure((width, height), dpi=DPI)
                redraw(part, draw)
                self._kept[name] = key, part, pixels(part).copy()
                self.drawn.append(name)
            array = self._kept[name][2]
            fig.figimage(
                array, round(left * DPI), round((fig.get_figheight() - top) * DPI) - len(array), origin="upper"
            )


# --- motion ---------------------------------------------------------------------------------------------------


def strip(ax: Axes, pictures: np.ndarray, numbers: Sequence[int], marked: Sequence[int] = ()) -> Axes:
    """The chosen frames (T,S,S,3) side by side with their numbers in the video; the `marked` places framed, i and j."""
    count, size = len(pictures), pictures.shape[1]
    gap = max(1, size // 20)
    sheet = np.full((size, count * (size + gap) - gap, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        sheet[:, place * (size + gap) : place * (size + gap) + size] = picture
    _image(ax, sheet, aspect="equal")
    for name, place, style in zip("ij", marked, ((ORANGE, "-"), (BLUE, "--")), strict=False):
        box = Rectangle((place * (size + gap) - 0.5, -0.5), size, size, fill=False, ec=style[0], lw=3, ls=style[1])
        ax.add_patch(box)
        ax.text(place * (size + gap) + 0.06 * size, 0.06 * size, name, va="top", fontweight="bold", fontsize=10,
                bbox={"fc": "white", "ec": style[0], "pad": 1.5})  # fmt: skip
    ax.set_xticks([place * (size + gap) + size / 2 for place in range(count)], [str(number) for number in numbers])
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("frame of the video")
    return ax


def size_map(ax: Axes, sizes: np.ndarray, inside: np.ndarray, marked: tuple[int, int] | None = None) -> Axes:
    """|I_j - I_i| as a map (T,T); the pairs inside s are outlined, the chosen one has a cross."""
    _image(ax, sizes, cmap="cividis")
    outlines = [Rectangle((j - 0.5, i - 0.5), 1, 1) for i, j in zip(*np.nonzero(inside), strict=True)]
    ax.add_collection(PatchCollection(outlines, facecolor="none", edgecolor="white", lw=1.4))
    if marked is not None:
        ax.plot(marked[1], marked[0], "X", color=ORANGE, mec="white", ms=9)
    _places(ax, len(sizes), "place j", "place i")
    ax.spines[:].set_visible(False)
    ax.set_title(f"|I_j - I_i|, dark 0, bright {sizes.max():.3g}; outlined: in s", loc="left")
    return ax


def over_time(ax: Axes, table: pd.DataFrame, frames: int) -> Axes:
    """Size of the differences per frame of distance over time, one line a distance, named at its end."""
    for distance, rows in table.groupby("distance"):
        color, marker, line = DISTANCE[(distance - 1) % len(DISTANCE)]
        faint = distance > len(DISTANCE)  # more lines than can be told apart
        ax.plot(rows["time"], rows["size"], color="0.75" if faint else color, marker="" if faint else marker, ls=line,
                ms=4, lw=0.8 if faint else 1.3, zorder=1 if faint else 2)  # fmt: skip
        if not faint:
            last = rows.iloc[-1]
            ax.annotate(str(distance), (last["time"], last["size"]), (6, 0), textcoords="offset points", va="center",
                        color=color, fontweight="bold")  # fmt: skip
    ax.set_xlim(-0.3, frames - 0.3)
    ax.set_ylim(0, max(float(table["size"].max()) * 1.08, 1e-6))
    ax.locator_params(nbins=5)
    ax.set_xlabel("place between i and j")
    ax.set_ylabel("|I_j - I_i| / (j - i)")
    ax.set_title("motion over time; a line for each distance j - i", loc="left")
    return ax


def arrows(
    ax: Axes, table: pd.DataFrame, shares: np.ndarray, reach: float, marked: tuple[int, int] | None = None
) -> Axes:
    """Each difference as an arrow from the origin, in the plane that the clip in order varies along most.

    reach: half the width of the axes, the same for all orders of a clip so that arrows can be compared.
    """
    for distance, rows in table.groupby("distance"):
        color, marker, _ = DISTANCE[(distance - 1) % len(DISTANCE)]
        zero = np.zeros(len(rows))
        ax.quiver(zero, zero, rows["x"], rows["y"], angles="xy", scale_units="xy", scale=1, color=color, alpha=0.55,
                  width=0.006)  # fmt: skip
        ax.plot(rows["x"], rows["y"], marker, color=color, ms=4.5, mec="white", mew=0.5)
    mean = table[["x", "y"]].mean()
    ax.plot(mean["x"], mean["y"], "*", color=BLACK, ms=13, mec="white")
    if marked is not None and len(one := table[(table["i"] == marked[0]) & (table["j"] == marked[1])]):
        ax.plot(one["x"], one["y"], "X", color=ORANGE, mec=BLACK, ms=9)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(-reach, reach)
    ax.set_aspect("equal")
    ax.axhline(0, color="0.85", lw=0.8, zorder=0)
    ax.axvline(0, color="0.85", lw=0.8, zorder=0)
    ax.locator_params(nbins=4)
    ax.set_xlabel(f"first direction ({shares[0]:.0%} of the size)")
    ax.set_ylabel(f"second direction ({shares[1]:.0%})")
    ax.set_title("I_j - I_i, star: mean, cross: pair", loc="left")
    return ax


def bars(
    ax: Axes, scores: pd.Series, before: pd.Series | None = None, title: str = "class scores", top: int = 16
) -> Axes:
    """Class scores as bars, highest first; `before`: hollow diamonds, the same classes under another condition."""
    rows = scores.sort_values(ascending=False, kind="stable").head(top)
    y = np.arange(len(rows))
    ax.barh(y, rows, color=BLUE, height=0.7)
    if before is not None:
        ax.plot(before[rows.index], y, "D", mfc="none", mec=BLACK, ms=5, clip_on=False)
    ax.set_yticks(y, rows.index)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("score" + (" (diamond: in order)" if before is not None else ""))
    ax.set_title(title, loc="left")
    ax.tick_params(axis="y", length=0)
    return ax


def grouped(ax: Axes, table: pd.DataFrame, title: str = "", top: int = 5, legend: str = "right") -> Axes:
    """Scores of a few classes (those that score highest anywhere) by row of the table: one mark and hue a row."""
    chosen = table.max().sort_values(ascending=False, kind="stable").index[:top]
    room = 0.78 / max(len(table), 1)
    for place, (name, row) in enumerate(table[chosen].iterrows()):
        color, marker = KINDS[place % len(KINDS)]
        y = np.arange(len(chosen)) - 0.39 + room * (place + 0.5)
        ax.hlines(y, 0, row, color=color, lw=1.2)
        ax.plot(row, y, marker, color=color, ms=5, label=str(name), clip_on=False)
    ax.set_yticks(range(len(chosen)), chosen)
    ax.set_ylim(len(chosen) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    for place in range(1, len(chosen)):
        ax.axhline(place - 0.5, color="0.9", lw=0.8)
    ax.set_xlabel("score")
    ax.set_title(title, loc="left")
    ax.tick_params(axis="y", length=0)
    place = {"right": ("upper left", (1.0, 1.0)), "below": ("upper left", (-0.05, -0.16))}[legend]
    ax.legend(frameon=False, fontsize=8, loc=place[0], bbox_to_anchor=place[1])
    return ax


def moves(ax: Axes, table: pd.DataFrame) -> Axes:
    """How far V moves in each order of the frames."""
    y = np.arange(len(table))
    for place, (value, hatch) in enumerate(zip(table["distance"], HATCH, strict=False)):
        ax.barh(place, value, height=0.6, color="white", ec=BLUE, hatch=hatch)
    ax.set_yticks(y, table.index)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlim(0, max(float(table["distance"].max()) * 1.15, 1e-6))
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlabel("|V - V in order|")
    ax.set_title("how far the video token V moves", loc="left")
    ax.tick_params(axis="y", length=0)
    return ax


def matrix(ax: Axes, values: np.ndarray, title: str, rows: str, columns: str) -> Axes:
    """Any intermediate (N,D) as a map, zero in the middle of a scale that differs in lightness on both sides."""
    most = max(float(np.abs(values).max()), 1e-9)
    shown = ax.imshow(values, cmap="PuOr", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    ax.set_title(title, loc="left")
    ax.set_ylabel(rows)
    ax.set_xlabel(columns)
    bar = ax.figure.colorbar(shown, ax=ax, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    return ax


# --- prompts --------------------------------------------------------------------------------------------------


def tokens(ax: Axes, table: pd.DataFrame) -> Axes:
    """One text as boxes, a token each; words that the model never saw have a dashed frame and a question mark."""
    x = 0.0
    for row in table.itertuples():
        wide = 0.8 + 0.55 * len(row.token)
        color, line = ("0.25", "-") if row.known else (ORANGE, "--")
        ax.add_patch(Rectangle((x, 0), wide, 1, fc="white", ec=color, ls=line, lw=1.5))
        ax.text(x + wide / 2, 0.5, row.token + ("" if row.known else " ?"), ha="center", va="center", fontsize=9)
        ax.text(x + wide / 2, -0.28, str(row.id), ha="center", va="center", fontsize=6.5, color="0.4")
        x += wide + 0.3
    ax.set_xlim(-0.2, max(x, 40))
    ax.set_ylim(-0.6, 1.25)
    ax.set_axis_off()
    return ax


def tree(ax: Axes, nodes: Sequence[Node], title: str = "") -> Axes:
    """The prompt tree: square nodes are shared by all classes, round ones belong to some, a class ends on the right."""
    for node in nodes:
        if node.parent >= 0:
            parent = nodes[node.parent]
            ax.plot([parent.x, node.x], [parent.y, node.y], color="0.7", lw=1, zorder=0)
        box = {"boxstyle": "square,pad=0.25" if node.shared else "round,pad=0.2", "fc": "white", "lw": 1.1}
        if node.text != "[EOS]":
            box["ec"] = BLUE if node.shared else "0.4"
            ax.text(node.x, node.y, node.text, ha="center", va="center", fontsize=7.5, bbox=box)
        if node.leaf:
            ax.plot(node.x, node.y, "o", color=BLACK, ms=3.5)
            ax.text(node.x + 0.15, node.y, node.leaf, va="center", fontsize=7.5)
    last = max(node.x for node in nodes)
    ax.set_xlim(-0.6, last + 1.6)
    ax.set_ylim(max(node.y for node in nodes) + 0.8, -0.8)
    ax.set_title(title, loc="left")
    ax.set_axis_off()
    return ax


def nearest(
    ax: Axes, before: Sequence[Sequence[tuple[str, float]]], after: Sequence[Sequence[tuple[str, float]]]
) -> Axes:
    """The nearest words of each prompt vector, before and after the motion shift, as a table."""
    cells = [[f"P_{h}", *(", ".join(f"{word} {cosine:.2f}" for word, cosine in row) for row in pair)]
             for h, pair in enumerate(zip(before, after, strict=True), 1)]  # fmt: skip
    ax.set_axis_off()
    table = ax.table(cells, colLabels=["", "learnt", "after the motion shift"], colWidths=[0.08, 0.46, 0.46],
                     loc="upper left", cellLoc="left")  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.scale(1, 1.35)
    for (row, _), cell in table.get_celld().items():
        cell.set_linewidth(0.4)
        cell.set_edgecolor("0.7")
        if row == 0:
            cell.set_text_props(fontweight="bold")
    ax.set_title("nearest words of the prompt vectors (cosine)", loc="left")
    return ax


def heat(ax: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], marked: int | None = None) -> Axes:
    """How far each video (row) moves each class text (column); the chosen video's row has a pointer."""
    _image(ax, values, cmap="cividis", aspect="auto", vmin=0, vmax=max(values.max(), 1e-6))
    ax.set_yticks(range(len(rows)), [("▶ " if place == marked else "") + name for place, name in enumerate(rows)])
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0, labelsize=7.5)
    ax.spines[:].set_visible(False)
    ax.set_ylabel("video")
    ax.set_xlabel("class text")
    ax.set_title(f"how far motion moves each text: 1 - cosine, dark 0, bright {values.max():.2f}", loc="left")
    return ax


def fix_labels(ax: Axes, left: float = 0.45, below: float = 0.33) -> Axes:
    """Axis labels at fixed distances in inches: finding a place for them costs a layout of all tick labels."""
    box = ax.get_position()
    wide, high = box.width * ax.figure.get_figwidth(), box.height * ax.figure.get_figheight()
    ax.yaxis.set_label_coords(-left / wide, 0.5)
    ax.xaxis.set_label_coords(0.5, -below / high)
    return ax


def _image(ax: Axes, values: np.ndarray, **how: object) -> None:
    """A map on axes that may have held one of another size: imshow alone would keep those limits."""
    ax.imshow(values, interpolation="nearest", **how)
    ax.set_xlim(-0.5, values.shape[1] - 0.5)
    ax.set_ylim(values.shape[0] - 0.5, -0.5)


def _places(ax: Axes, count: int, x: str, y: str) -> None:
    ticks = range(0, count, max(1, -(-count // 6)))
    ax.set_xticks(ticks)
    ax.set_yticks(ticks)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
