"""Drawings of the explorers: tidy data and axes in, axes out. Marks differ by shape or line as well as by
colour."""

from __future__ import annotations

import io
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import FigureImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from flowclip_kit.explore.prompts import Node

# Okabe and Ito's colours; the shape or the line says the same once more.
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
DISTANCE = (
    (BLUE, "o", "-"),
    (ORANGE, "s", "--"),
    (GREEN, "^", ":"),
    ("#CC79A7", "D", "-."),
    ("#56B4E9", "v", "-"),
)
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
TRUE = "✓"  # before the name of the class that a clip shows
MARKS = {"▶": "this video", "▷": "the one whose motion the prompts follow"}  # of the rows of a heat map
SMALL = 8  # points, the least that is read with ease
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
DPI = 96  # a browser's: a point on the screen is a point
WIDTH = 11.25  # inches of a board, the 1080 pixels that the explorers show at most
LETTER = 0.062  # inches of a letter at 8 points, roughly; text that could be long is cut by it


def figure(
    width: float, height: float, draw: Callable[[Figure], object], fig: Figure | None = None
) -> Figure:
    """A figure that `draw` fills, without pyplot: nothing global changes.

    fig: one made here before, to be filled again: its axes stay, emptied, since making them is slow.
    """
    fig = fig or Figure((width, height), dpi=DPI)
    for ax in fig.axes:
        for artist in (*ax.lines, *ax.patches, *ax.collections, *ax.images, *ax.texts):
            artist.remove()
        if ax.get_legend():
            ax.get_legend().remove()
    with mpl.rc_context(SETTINGS):
        draw(fig)
    return fig


def place(fig: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place of the figure in inches, from its left and its top."""
    whole = fig.get_size_inches()
    return fix_labels(
        fig.add_axes((left / whole[0], 1 - (top + height) / whole[1], width / whole[0], height / whole[1]))
    )


def cut(text: str, most: int) -> str:
    """Text of at most `most` letters, with a sign where some are left out."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def above_noise(most: float) -> float:
    """The end of an axis for values up to `most`: 1 where there are none but rounding errors."""
    return float(most) if most > 1e-6 else 1.0


def some(words: Sequence[str], room: int) -> str:
    """Words with commas between them in about `room` letters, and how many more there are."""
    shown = list(words)
    while len(shown) > 1 and len(", ".join(shown)) > room:
        shown.pop()
    left = len(words) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


class _Renderer(RendererAgg):
    """Draws text from pictures of it: most of it is the same at every redraw, and most of a drawing's time is
    text."""

    pictures: ClassVar[OrderedDict[tuple, tuple[np.ndarray, int, int]]] = (
        OrderedDict()
    )  # shared by all figures

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None) -> None:
        if ismath or gc.get_clip_rectangle() is not None:  # a picture would keep the clip of one place
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        key = s, hash(prop), angle, gc.get_rgb(), self.dpi
        if key not in self.pictures:
            self.pictures[key] = self._picture(gc, s, prop, angle, ismath, mtext)
            if len(self.pictures) > 2000:
                self.pictures.popitem(last=False)
        self.pictures.move_to_end(key)
        picture, left, below = self.pictures[key]
        if picture.size:
            self.draw_image(gc, round(x) + left, round(self.height - y) + below, picture)

    def _picture(self, gc, s, prop, angle, ismath, mtext) -> tuple[np.ndarray, int, int]:
        """The text as RGBA, and where its left lower corner lies from the point it is drawn at."""
        room = (
            int(sum(self.get_text_width_height_descent(s, prop, ismath))) + 4
        )  # on all sides, for any angle
        alone = RendererAgg(2 * room, 2 * room, self.dpi)
        alone.draw_text(gc, room, room, s, prop, angle, ismath, mtext)
        drawn = np.asarray(alone.buffer_rgba())
        (rows,), (columns,) = np.nonzero(drawn[..., 3].any(1)), np.nonzero(drawn[..., 3].any(0))
        if not len(rows):
            return drawn[:0], 0, 0
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        return (
            drawn[top:bottom, left:right][::-1].copy(),
            left - room,
            room - bottom,
        )  # rows from below, as asked for


class _Canvas(FigureCanvasAgg):
    def get_renderer(self) -> _Renderer:
        size = *self.figure.bbox.size, self.figure.dpi
        if getattr(self, "_size", None) != size:  # a renderer knows the sizes of the texts that it has drawn
            self._size, self.renderer = size, _Renderer(*size)
        return self.renderer


def pixels(fig: Figure) -> np.ndarray:
    """The figure as (h,w,3) uint8."""
    with mpl.rc_context(SETTINGS):
        canvas = fig.canvas if isinstance(fig.canvas, _Canvas) else _Canvas(fig)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def png(fig: Figure) -> bytes:
    """The figure as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels(fig)).save(file, "PNG", compress_level=1)
    return file.getvalue()


class _Tile(FigureImage):
    """A picture put on a figure pixel by pixel; matplotlib's own would look for a resampling that changes
    nothing."""

    def make_image(self, renderer, magnification=1.0, unsampled=False):
        if magnification != 1 or renderer.dpi != self.figure.dpi:
            return super().make_image(renderer, magnification, unsampled)
        return self.get_array()[::-1], self.ox, self.oy, None


class Tiles:
    """Parts of a picture that are drawn again only when what they show has changed."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, Figure, np.ndarray]] = {}
        self.drawn: list[str] = []  # by the last call of `draw_on`

    def part(self, name: str) -> Figure:
        """The figure of one tile."""
        return self._kept[name][1]

    def draw_on(
        self, fig: Figure, tiles: Mapping[str, tuple[Sequence[float], object, Callable[[Figure], object]]]
    ) -> None:
        """Put tiles on a figure: name -> ((left, top, width, height) in inches, what it shows, how to draw
        it)."""
        self.drawn = []
        for name, ((left, top, width, height), shows, draw) in tiles.items():
            key = width, height, shows
            if name not in self._kept or self._kept[name][0] != key:
                old = self._kept.get(name)
                part = figure(width, height, draw, old[1] if old and old[0][:2] == key[:2] else None)
                self._kept[name] = key, part, np.insert(pixels(part), 3, 255, axis=2)  # RGBA
                self.drawn.append(name)
            array = self._kept[name][2]
            below = round((fig.get_figheight() - top) * DPI) - len(array)
            tile = _Tile(fig, offsetx=round(left * DPI), offsety=below, origin="upper")
            tile.set_data(array)
            fig.add_artist(tile)


# --- motion ---------------------------------------------------------------------------------------------------


def strip(
    ax: Axes,
    pictures: np.ndarray,
    labels: Sequence[str],
    marked: Sequence[int] = (),
    rows: str = "place\nframe",
) -> Axes:
    """Pictures (T,S,S,3) side by side, each over its label; the `marked` ones framed, i and j.

    rows: what the lines of the labels are, written before them.
    """
    count, size = len(pictures), pictures.shape[1]
    gap = max(1, size // 20)
    sheet = np.full((size, count * (size + gap) - gap, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        sheet[:, number * (size + gap) : number * (size + gap) + size] = picture
    _image(ax, sheet, aspect="equal")
    ax.set_anchor("W")
    for name, number, (color, line) in zip("ij", marked, ((ORANGE, "-"), (BLUE, "--")), strict=False):
        left = number * (size + gap)
        ax.add_patch(Rectangle((left - 0.5, -0.5), size, size, fill=False, ec=color, lw=3, ls=line))
        ax.annotate(
            name,
            (left, -0.5),
            (0, 4),
            textcoords="offset points",
            color=color,
            fontweight="bold",
            fontsize=10,
        )
    box = ax.get_position()
    wide = min(
        box.width * ax.figure.get_figwidth() / count, box.height * ax.figure.get_figheight()
    )  # inches of a one
    longest = max(len(line) for label in labels for line in label.split("\n"))
    shown = range(0, count, max(1, int(np.ceil((longest + 1) * LETTER / wide))))
    ax.set_xticks(
        [number * (size + gap) + size / 2 for number in shown], [labels[number] for number in shown]
    )
    ax.set_yticks([])
    ax.tick_params(length=0, labelsize=SMALL)
    ax.annotate(rows, (0, 0), (-8, -3.5), "axes fraction", textcoords="offset points", ha="right", va="top",
                fontsize=SMALL, color="0.35")  # fmt: skip
    ax.spines[:].set_visible(False)
    return ax


def size_map(ax: Axes, sizes: np.ndarray, inside: np.ndarray, marked: tuple[int, int] | None = None) -> Axes:
    """|I_j - I_i| as a map (T,T); a line around the pairs `inside` s, a cross on the chosen one."""
    _image(ax, sizes, cmap="cividis")
    padded = np.pad(inside, 1)
    edges = [
        [(j - 0.5, i - 0.5), (j - 0.5, i + 0.5)]
        for i, j in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    ]
    edges += [
        [(j - 0.5, i - 0.5), (j + 0.5, i - 0.5)]
        for i, j in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    ]
    for color, width in (("black", 3.4), ("white", 1.5)):  # one of them shows on any cell
        ax.add_collection(LineCollection(edges, colors=color, lw=width, capstyle="projecting", clip_on=False))
    if marked is not None:
        ax.plot(marked[1], marked[0], "X", color=ORANGE, mec="white", ms=9)
    ticks = range(0, len(sizes), max(1, -(-len(sizes) // 6)))
    ax.set_xticks(ticks)
    ax.set_yticks(ticks)
    ax.set_xlabel("place j")
    ax.set_ylabel("place i")
    ax.spines[:].set_visible(False)
    ax.set_title(
        f"|I_j - I_i|: dark 0, bright {sizes.max():.3g}\noutlined: the pairs that s lets in", loc="left"
    )
    return ax


def over_time(ax: Axes, table: pd.DataFrame, frames: int) -> Axes:
    """Size of the differences per place of distance over time, a line each; `distance_key` says which is which."""
    faint = []
    for distance, rows in table.groupby("distance"):
        color, marker, line = style(distance)
        if marker:
            ax.plot(rows["time"], rows["size"], color=color, marker=marker, ls=line, ms=4, lw=1.3)
        else:
            faint.append(rows[["time", "size"]].to_numpy())
    ax.add_collection(LineCollection(faint, colors=color, lw=0.8, zorder=1), autolim=False)
    ax.set_xlim(-0.3, frames - 0.7)
    ax.set_ylim(0, 1.08 * above_noise(table["size"].max()))
    ax.locator_params(nbins=5)
    ax.set_xlabel("time: the middle of i and j (place)")
    ax.set_ylabel("|I_j - I_i| / (j - i)  (per place)")
    ax.set_title("motion over time", loc="left")
    return ax


def style(distance: int) -> tuple[str, str, str]:
    """Colour, mark and line of a distance: more of them than `DISTANCE` has cannot be told apart, and are grey."""
    return DISTANCE[distance - 1] if distance <= len(DISTANCE) else ("0.75", "", "-")


def distance_key(ax: Axes, most: int, below: float) -> None:
    """What the colours and marks of distances mean, in one row `below` the axes (inches)."""
    handles = [Line2D([], [], ls="", label="distance j - i (places):")]
    for distance in range(1, min(most, len(DISTANCE) + 1) + 1):
        color, marker, line = style(distance)
        name = str(distance) if marker or most == distance else f"{distance} to {most}"
        handles.append(Line2D([], [], color=color, marker=marker, ls=line, ms=5, label=name))
    high = ax.get_position().height * ax.figure.get_figheight()
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -below / high), ncol=len(handles), frameon=False,
              fontsize=SMALL, borderpad=0, borderaxespad=0, handlelength=2.2, columnspacing=1.2)  # fmt: skip


def arrows(
    ax: Axes, table: pd.DataFrame, shares: np.ndarray, reach: float, marked: tuple[int, int] | None = None
) -> Axes:
    """Each difference as an arrow from the origin, in the plane that the clip in order varies along most.

    reach: half the width of the axes, the same for all orders of a clip so that arrows can be compared.
    """
    zero, shown = np.zeros(len(table)), table["distance"].map(style)
    ax.quiver(zero, zero, table["x"], table["y"], angles="xy", scale_units="xy", scale=1, alpha=0.55, width=0.006,
              color=[color for color, *_ in shown], zorder=1)  # fmt: skip
    for distance, rows in table[table["distance"] <= len(DISTANCE)].groupby("distance"):
        color, marker, _ = style(distance)
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
    ax.set_xlabel(f"first direction ({shares[0]:.0%} of size²)")
    ax.set_ylabel(f"second direction ({shares[1]:.0%})")
    ax.set_title("differences I_j - I_i\nstar: mean, cross: i and j", loc="left")
    return ax


def bars(
    ax: Axes,
    scores: pd.Series,
    before: pd.Series | None = None,
    title: str = "class scores",
    top: int = 8,
    true: str | None = None,
) -> Axes:
    """Class scores as bars, highest first; `before`: hollow diamonds, the same classes under another condition.

    Shown are the classes that score highest under either of them, and the `true` one, which is marked.
    """
    most = scores if before is None else pd.Series(np.maximum(scores, before[scores.index]), scores.index)
    rows = scores[_highest(most, top, true)].sort_values(ascending=False, kind="stable")
    y = np.arange(len(rows))
    ax.barh(y, rows, color=BLUE, height=0.7)
    if before is not None:
        ax.plot(before[rows.index], y, "D", mfc="none", mec=BLACK, ms=5, clip_on=False)
    ax.set_yticks(y, _named(rows.index, true))
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("score" + (" (diamond: in order)" if before is not None else ""))
    ax.set_title(title + _key_of(true, rows.index), loc="left")
    ax.tick_params(axis="y", length=0, pad=7)  # room for marks at zero
    return ax


def grouped(ax: Axes, table: pd.DataFrame, title: str = "", top: int = 5, true: str | None = None) -> Axes:
    """Scores of a few classes by row of the table: one mark and hue a row, named below.

    Shown are the classes that score highest in any row, and the `true` one, which is marked.
    """
    chosen = _highest(table.max(), top, true)
    room = 0.78 / max(len(table), 1)
    between = np.arange(len(chosen) - 1) + 0.5
    stems, colors = [[(0, y), (1, y)] for y in between], ["0.9"] * len(between)
    for number, (name, row) in enumerate(table[chosen].iterrows()):
        color, marker = KINDS[number % len(KINDS)]
        y = np.arange(len(chosen)) - 0.39 + room * (number + 0.5)
        stems += [[(0, one), (value, one)] for one, value in zip(y, row, strict=True)]
        colors += [color] * len(chosen)
        ax.plot(row, y, marker, color=color, ms=5, label=str(name), clip_on=False)
    ax.add_collection(LineCollection(stems, colors=colors, lw=1.2, zorder=1), autolim=False)
    ax.set_yticks(range(len(chosen)), _named(chosen, true))
    ax.set_ylim(len(chosen) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.set_xlabel("score")
    ax.set_title(title + _key_of(true, chosen), loc="left")
    ax.tick_params(axis="y", length=0, pad=7)  # room for marks at zero
    high = ax.get_position().height * ax.figure.get_figheight()
    ax.legend(frameon=False, fontsize=SMALL, loc="upper left", bbox_to_anchor=(0, -0.48 / high), borderpad=0,
              borderaxespad=0)  # fmt: skip
    return ax


def _highest(most: pd.Series, top: int, true: str | None) -> list[str]:
    chosen = list(most.sort_values(ascending=False, kind="stable").index[:top])
    return chosen if true is None or true in chosen else [*chosen[: top - 1], true]


def _named(names: Sequence[str], true: str | None) -> list[str]:
    return [f"{TRUE} {cut(name, 20)}" if name == true else cut(name, 22) for name in names]


def _key_of(true: str | None, names: Sequence[str]) -> str:
    return f"\n{TRUE} the clip's own class" if true in list(names) else ""


def moves(ax: Axes, table: pd.DataFrame) -> Axes:
    """How far V moves in each order of the frames."""
    y = np.arange(len(table))
    for number, (value, hatch) in enumerate(zip(table["distance"], HATCH, strict=False)):
        ax.barh(number, value, height=0.6, color="white", ec=BLUE, hatch=hatch)
    ax.set_yticks(y, table.index)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlim(0, 1.15 * above_noise(table["distance"].max()))
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlabel("|V - V in order|")
    ax.set_title("how far the video token V moves", loc="left")
    ax.tick_params(axis="y", length=0, pad=7)  # room for marks at zero
    return ax


def matrix(
    ax: Axes, values: np.ndarray, title: str, rows: str, columns: str = "dimension", names: Sequence[str] = ()
) -> Axes:
    """Any intermediate (N,D) as a map, zero in the middle of a scale that differs in lightness on both sides.

    names: of the rows, where they are few.
    """
    most = max(float(np.abs(values).max()), 1e-9)
    shown = ax.imshow(values, cmap="PuOr", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    ax.set_title(title, loc="left")
    ax.set_ylabel(rows)
    ax.set_xlabel(columns)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    if names:
        ax.set_yticks(range(len(names)), names)
    bar = ax.figure.colorbar(shown, ax=ax, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    return ax


def by_distance(ax: Axes, frames: int, step: int) -> Axes:
    """Rows of a `matrix` of pairs, parted by their distance, which stands beside each part where it has room."""
    counts = np.array([frames - distance for distance in range(1, step + 1)])
    ends = counts.cumsum()
    middles, shown = ends - counts / 2 - 0.5, []
    for number, middle in enumerate(middles):
        if not shown or middle - middles[shown[-1]] >= ends[-1] / 14:
            shown.append(number)
    ax.hlines(ends[:-1] - 0.5, *ax.get_xlim(), color=BLACK, lw=0.8)
    ax.set_yticks(middles[shown], [str(number + 1) for number in shown])
    ax.set_ylabel("pairs, by distance j - i (places)")
    return ax


def before_after(
    ax: Axes,
    before: pd.Series,
    after: pd.Series,
    title: str,
    value: str,
    top: int = 10,
    true: str | None = None,
) -> Axes:
    """A value of a few classes (those that are highest after) before, hollow, and after, filled."""
    chosen = _highest(after, top, true)
    y = np.arange(len(chosen))
    ax.hlines(y, before[chosen], after[chosen], color="0.6", lw=1.2)
    ax.plot(before[chosen], y, "D", mfc="white", mec=BLACK, ms=5, label="before")
    ax.plot(after[chosen], y, "o", color=BLUE, ms=6, label="after")
    ax.set_yticks(y, _named(chosen, true))
    ax.set_ylim(len(chosen) - 0.5, -0.5)
    ax.set_xlabel(value)
    ax.set_title(title + _key_of(true, chosen), loc="left")
    ax.tick_params(axis="y", length=0, pad=7)  # room for marks at zero
    high = ax.get_position().height * ax.figure.get_figheight()
    ax.legend(frameon=False, fontsize=SMALL, loc="upper left", bbox_to_anchor=(0, -0.5 / high), ncol=2, borderpad=0,
              borderaxespad=0)  # fmt: skip
    return ax


# --- prompts --------------------------------------------------------------------------------------------------


def tokens(ax: Axes, table: pd.DataFrame) -> Axes:
    """One text as boxes, a token each; those that the model never met have a dashed frame and a question mark.

    Where there is no room for all, the last ones are counted.
    """
    room = ax.get_position().width * ax.figure.get_figwidth() / LETTER
    x, rows = 0.0, [*table.itertuples()]
    for number, row in enumerate(rows):
        shown = row.token + ("" if row.known else " ?")
        wide = max(6, 1.2 * len(shown) + 2.5)
        left = len(rows) - number
        if x + wide > room - (14 if left > 1 else 0):
            ax.text(x + 0.5, 0.5, f"and {left} more", va="center")
            break
        color, line = ("0.25", "-") if row.known else (ORANGE, "--")
        ax.add_patch(Rectangle((x, 0), wide, 1, fc="white", ec=color, ls=line, lw=1.5))
        ax.text(x + wide / 2, 0.5, shown, ha="center", va="center", fontsize=9)
        ax.text(x + wide / 2, -0.4, str(row.id), ha="center", va="center", fontsize=SMALL, color="0.4")
        x += wide + 0.8
    ax.set_xlim(-0.2, room - 0.2)
    ax.set_ylim(-0.8, 1.2)
    ax.set_axis_off()
    return ax


def tree(ax: Axes, nodes: Sequence[Node], title: str = "") -> Axes:
    """The prompt tree: square nodes are shared by all classes, round ones belong to some, a class ends on the right.

    Columns are as wide as their words. Where there is no room for the last ones, a class ends where room does, with a
    sign that its last words are left out.
    """
    most, wide = 12, {}
    for node in nodes:
        said = 0 if node.text == "[EOS]" else len(cut(node.text, most))
        wide[round(node.x)] = max(wide.get(round(node.x), 0), said + (1.8 if node.shared else 2.6))
    wide[sum(node.shared for node in nodes)] += 4  # where the lines fan out
    name = max(len(cut(node.leaf, 24)) for node in nodes) + 3
    room = ax.get_position().width * ax.figure.get_figwidth() / LETTER
    ends = np.cumsum([wide[depth] for depth in sorted(wide)])
    last = max(int((ends <= room - name).sum()) - 1, 0)
    x = ends - [wide[depth] / 2 for depth in sorted(wide)]
    x[sum(node.shared for node in nodes)] += 2
    lines, dots = [], []
    for node in nodes:
        depth = round(node.x)
        if depth > last:
            if node.leaf:
                sign = "… " if depth > last + 1 else ""  # more than [EOS] is left out
                ax.text(ends[last], node.y, sign + cut(node.leaf, 24), va="center", fontsize=SMALL)
            continue
        if node.parent >= 0:
            lines.append([(x[round(nodes[node.parent].x)], nodes[node.parent].y), (x[depth], node.y)])
        if node.text != "[EOS]":
            box = {"boxstyle": "square,pad=0.25" if node.shared else "round,pad=0.2", "fc": "white", "lw": 1.1,
                   "ec": BLUE if node.shared else "0.4"}  # fmt: skip
            ax.text(
                x[depth], node.y, cut(node.text, most), ha="center", va="center", fontsize=SMALL, bbox=box
            )
        if node.leaf:
            dots.append((x[depth], node.y))
            ax.text(x[depth] + 0.9, node.y, cut(node.leaf, 24), va="center", fontsize=SMALL)
    ax.add_collection(LineCollection(lines, colors="0.7", lw=1, zorder=0), autolim=False)
    ax.plot(*np.reshape(dots, (-1, 2)).T, "o", color=BLACK, ms=3.5)
    ax.set_xlim(0, room)
    ax.set_ylim(max(node.y for node in nodes) + 0.8, -0.8)
    ax.set_title(title, loc="left")
    ax.set_axis_off()
    return ax


Words = Sequence[Sequence[tuple[str, float]]]


def nearest(
    ax: Axes, before: Words, after: Words, whose: str = "this video", note: str = "", most: int = 8
) -> Axes:
    """The nearest words of each prompt vector, learnt and after the shift by the motion of `whose` video, as a table.

    note: what to make of it, below. Of many vectors the first `most` are shown.
    """
    wide, high = ax.get_position().size * ax.figure.get_size_inches()
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(-high, 0)  # inches
    names = [f"P_{h + 1}" for h in range(len(before[:most]))]
    names += [f"and {len(before) - most} more"] if len(before) > most else []
    learnt, moved = ([", ".join(f"{cut(word, 9)} {cosine:.2f}" for word, cosine in row) for row in rows[:most]]
                     for rows in (before, after))  # fmt: skip
    heads = "", "learnt", f"after the motion of {cut(whose, 20)}"
    for x, head, lines in zip((0, 0.08, 0.54), heads, (names, learnt, moved), strict=True):
        ax.text(x, 0, head, fontweight="bold", fontsize=SMALL, va="top")
        ax.text(x, -0.3, "\n".join(lines), fontsize=SMALL, va="top", linespacing=1.6)
    ax.axhline(-0.2, color="0.7", lw=0.8)
    said = textwrap.fill(note, int(wide / LETTER))
    ax.text(0, -0.45 - 0.18 * len(names), said, fontsize=SMALL, va="top", style="italic")
    ax.set_title("nearest words of the prompt vectors (cosine)", loc="left")
    return ax


def heat(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    of: int,
    marks: Mapping[int, str],
) -> Axes:
    """How far each video (row) moves each class text (column).

    of: how many classes there are, where only some are shown. marks: signs before the names of some rows.
    """
    _image(ax, values, cmap="cividis", aspect="auto", vmin=0, vmax=max(values.max(), 1e-6))
    ax.set_yticks(
        range(len(rows)), [f"{marks.get(i, '')} {cut(name, 20)}".strip() for i, name in enumerate(rows)]
    )
    ax.set_xticks(range(len(columns)), [cut(name, 18) for name in columns], rotation=45, ha="right",
                  rotation_mode="anchor")  # fmt: skip
    ax.tick_params(length=0, labelsize=SMALL)
    ax.spines[:].set_visible(False)
    ax.set_ylabel("video")
    ax.set_xlabel(
        "class text" + (f" (the {len(columns)} of {of} that move most)" if len(columns) < of else "")
    )
    key = "".join(f"; {sign} {meaning}" for sign, meaning in MARKS.items() if sign in marks.values())
    scale = f"dark 0, bright {values.max():.3g}" if values.max() > 1e-5 else "none: these prompts ignore it"
    ax.set_title(f"how far motion moves each text: 1 - cosine\n{scale}{key}", loc="left", x=-0.4)
    fix_labels(ax, 1.6, 0.3 + 0.045 * max(len(cut(name, 18)) for name in columns))
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
