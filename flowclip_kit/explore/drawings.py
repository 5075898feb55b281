"""Drawings of the explorers: arrays and tidy tables in; pictures, figures and HTML tables out.

Pictures and tables are used wherever they do: they take a tenth of a figure's time, and a slider redraws all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any, overload

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from pandas.io.formats.style import Styler
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colours; a mark or a line says the same once more.
BLUE, ORANGE, BLACK = "#0072B2", "#D55E00", "#000000"
DISTANCE = [
    (BLUE, "o", "-"),
    (ORANGE, "s", "--"),
    ("#009E73", "^", ":"),
    ("#CC79A7", "D", "-."),
    ("#56B4E9", "v", "-"),
]
TRUE = "✓"  # before the class that a clip shows
SMALL = 8  # points, the least that is easy to read
SETTINGS: dict[Any, Any] = {  # matplotlib's type of a key lists every setting
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titley": 1.02,  # a fixed place, see `panel`
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    # Text is nearly half of a figure's time; without these two it takes a third less.
    "text.hinting": "none",
    "text.parse_math": False,
}
styled = mpl.rc_context(SETTINGS)  # a decorator
DPI = 96  # a browser's: a point on the screen is a point


def panel(
    width: float, height: float, left: float, bottom: float, right: float, top: float
) -> tuple[Figure, Axes]:
    """A figure and its axes, without pyplot; all in inches, the last four are margins."""
    fig = Figure((width, height), dpi=DPI)
    wide, high = width - left - right, height - bottom - top
    ax = fig.add_axes((left / width, bottom / height, wide / width, high / height))
    # At fixed places: to find one, matplotlib lays out all tick labels, which takes a third of the time.
    ax.xaxis.set_label_coords(0.5, -0.22 / high)
    ax.yaxis.set_label_coords((0.18 - left) / wide, 0.5)
    return fig, ax


@overload
def rendered(drawing: Styler | str) -> str: ...
@overload
def rendered(drawing: Figure | Image.Image) -> bytes: ...
def rendered(drawing: Figure | Image.Image | Styler | str) -> bytes | str:
    """What a widget shows: a PNG file for figures and pictures, HTML for tables."""
    if isinstance(drawing, Styler):
        content = f"{drawing.caption}{drawing.data.to_csv()}"  # an id that is the same in every run
        return drawing.set_uuid(hashlib.sha256(content.encode()).hexdigest()[:10]).to_html()
    if isinstance(drawing, str):
        return drawing
    if isinstance(drawing, Figure):
        with mpl.rc_context(SETTINGS):
            canvas = FigureCanvasAgg(drawing)
            canvas.draw()
        drawing = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    file = io.BytesIO()
    drawing.save(file, "PNG", compress_level=1)
    return file.getvalue()


def cut(text: str, most: int) -> str:
    """Text of at most `most` letters, with an ellipsis where some are left out."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


# --- pictures -----------------------------------------------------------------------------------------------


def strip(
    pictures: np.ndarray, labels: Sequence[str], marked: Sequence[int] = (), width: int = 620
) -> Image.Image:
    """Pictures (T,S,S,3) in rows, each over its two lines of label; the `marked` ones framed, i and j.

    width: of the whole, in pixels.
    """
    columns = min(len(pictures), 16)
    size, gap, below, above = min(width // columns - 4, 96), 4, 28, 16
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (width, rows * (above + size + below)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    names = dict(zip(marked, (("i", ORANGE), ("j", BLUE)), strict=False))
    for place, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = place % columns * (size + gap), place // columns * (above + size + below) + above
        sheet.paste(Image.fromarray(picture).resize((size, size)), (x, y))
        pen.multiline_text((x + size / 2, y + size + 1), label, "#333", font, "ma", spacing=1, align="center")
        if place in names:
            name, color = names[place]
            pen.rectangle((x, y, x + size - 1, y + size - 1), outline=color, width=3)
            pen.text((x + size / 2, y - 3), name, color, font, "ms")
    return sheet


def preview(pictures: np.ndarray, side: int = 112, seconds: float = 3.0) -> str:
    """The stored frames (F,S,S,3) played in a loop: one picture of all frames that moves behind a window."""
    sheet = Image.new("RGB", (side * len(pictures), side))
    for place, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture).resize((side, side)), (place * side, 0))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        "<style>@keyframes flowclip-play {to {background-position: 100% 0}}</style>"
        f'<div role="img" aria-label="the clip" style="width:{side}px; height:{side}px; '
        f"animation:flowclip-play {seconds}s steps({len(pictures)}, jump-none) infinite; "
        f'background:url(data:image/jpeg;base64,{data}) 0 0 / auto 100%"></div>'
    )


# --- tables -------------------------------------------------------------------------------------------------

CELLS = [
    {"selector": "", "props": "border-collapse:collapse; font-size:12px; line-height:1.35"},
    {"selector": "td", "props": "padding:1px 4px; text-align:right; min-width:52px; border:0"},
    {"selector": "th", "props": "padding:1px 4px; text-align:right; font-weight:normal; border:0"},
    {"selector": "th.row_heading", "props": "white-space:nowrap"},
    {"selector": "caption", "props": "caption-side:top; text-align:left; font-weight:bold; padding:4px 0"},
]


def score_table(scores: pd.DataFrame, caption: str, marked: Sequence[str] = ()) -> Styler:
    """Scores between 0 and 1 as percentages on bars; the `marked` rows or columns stand out.

    Names of classes and files are the user's: they are escaped.
    """
    table = scores.style.format("{:.0%}").bar(vmin=0, vmax=1, color="#0072B255", width=92)
    for axis in (0, 1):
        table = table.format_index(lambda name: html.escape(cut(str(name), 28)), axis=axis)
        table = table.map_index(lambda name: "font-weight:bold" if name in marked else "", axis=axis)
    return table.set_table_styles(CELLS).set_caption(html.escape(caption))


def top_classes(scores: pd.DataFrame, top: int = 8, true: str = "") -> pd.DataFrame:
    """The columns of the classes that score highest in any row, and the `true` one, which is ticked."""
    order = scores.max().sort_values(ascending=False, kind="stable").index
    chosen = list(order[:top])
    if true in order and true not in chosen:
        chosen[-1] = true
    return scores[chosen].rename(columns={true: f"{TRUE} {true}"})


def text_table(table: pd.DataFrame, caption: str) -> Styler:
    """Words in cells, as they are."""
    styled_table = table.style.format(escape="html").format_index(escape="html", axis=1)
    return styled_table.set_table_styles(CELLS).set_caption(html.escape(caption))


def token_boxes(tokens: pd.DataFrame, caption: str) -> str:
    """One text as boxes, a token over its id each; dashed and with a question mark: never met in training."""
    box = "display:inline-block; text-align:center; margin:1px 3px; padding:0 6px; border:1.5px"
    boxes = [
        f'<span style="{box} {"solid #888" if row.known else f"dashed {ORANGE}"}">{html.escape(row.token)}'
        f"{'' if row.known else ' ?'}<br><small>{row.id}</small></span>"
        for row in tokens.itertuples()
    ]
    lines = f"<b>{html.escape(caption)}</b><br>{''.join(boxes)}"
    return f'<div style="font-size:12px; line-height:1.3">{lines}</div>'


def text_box(text: str, caption: str, height: int = 300) -> str:
    """Text in letters of one width, which scrolls where it is longer than `height` pixels."""
    return (
        f'<b style="font-size:12px">{html.escape(caption)}</b><pre style="max-height:{height}px; '
        f'overflow:auto; font-size:11px; line-height:1.25; margin:2px 0">{html.escape(text)}</pre>'
    )


def heat(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], caption: str) -> str:
    """A map (N,K) with a colour bar, as a table; a cell's value shows when the pointer rests on it."""
    top, color_map = scale_of(values.max()), mpl.colormaps["cividis"]
    names = [
        f'<span title="{html.escape(name)}">{html.escape(cut(name, 24))}</span>' for name in (*rows, *columns)
    ]
    lines = []
    for name, row in zip(names, values, strict=False):
        cells = [
            f'<td style="background:{mpl.colors.to_hex(color_map(value / top))}" title="{value:.3g}"></td>'
            for value in row
        ]
        lines.append(f"<tr><th>{name}</th>{''.join(cells)}</tr>")
    below = "".join(f'<th class="below">{name}</th>' for name in names[len(rows) :])
    ramp = ", ".join(mpl.colors.to_hex(color_map(place)) for place in np.linspace(0, 1, 9))
    return (
        "<style>.heat {font-size:12px; line-height:1.2} .heat table {border-collapse:collapse}"
        " .heat td {min-width:20px; height:14px}"
        " .heat th {font-weight:normal; text-align:right; padding:1px 6px}"
        " .heat .below {writing-mode:vertical-rl; transform:rotate(180deg); padding:4px 1px}"
        " .heat i {display:inline-block; width:120px; height:10px}"
        f" .heat i {{background:linear-gradient(90deg, {ramp})}}"
        f'</style><div class="heat"><b>{html.escape(caption)}</b> &nbsp; 0 <i></i> {top:.3g}'
        f"<table>{''.join(lines)}<tr><th></th>{below}</tr></table></div>"
    )


# --- figures ------------------------------------------------------------------------------------------------


@styled
def size_map(sizes: np.ndarray, inside: np.ndarray, marked: tuple[int, int]) -> Figure:
    """|I_j - I_i| as a map (T,T): strong colours for the pairs `inside` s, faint ones for all others."""
    fig, ax = panel(3.2, 2.75, 0.45, 0.42, 0.65, 0.42)
    image = ax.imshow(sizes, "cividis", interpolation="nearest", vmin=0, vmax=scale_of(sizes.max()))
    image.set_alpha(np.where(inside, 1.0, 0.3))
    ax.plot(marked[1], marked[0], "X", color=ORANGE, mec="white", ms=9)
    ticks = [0, (len(sizes) - 1) // 2, len(sizes) - 1] if len(sizes) > 2 else [0, 1]
    ax.set(xlabel="place j", ylabel="place i", xticks=ticks, yticks=ticks)
    ax.set_title("how much two frames differ, |I_j - I_i|\nstrong colours: the pairs that s lets in")
    color_bar(fig, ax, image)
    return fig


def color_bar(fig: Figure, ax: Axes, image: AxesImage) -> None:
    """A colour bar at the right edge of an image, with both ends named: matplotlib's own takes 40 ms more."""
    box, (low, high) = ax.bbox, image.get_clim()
    colors = image.get_cmap()(np.linspace(1, 0, round(box.height)), bytes=True)
    fig.figimage(np.repeat(colors[:, None], 10, 1), round(box.x1) + 8, round(box.y0))
    for value, y, side in ((low, box.y0, "bottom"), (high, box.y1, "top")):
        place = (round(box.x1) + 21) / fig.bbox.width, y / fig.bbox.height
        fig.text(*place, f"{value:.3g}", fontsize=SMALL, va=side)


def line_style(distance: int) -> tuple[str, str, str]:
    """Colour, mark and line of a distance; grey beyond those of `DISTANCE`, too many to tell apart."""
    return DISTANCE[distance - 1] if distance <= len(DISTANCE) else ("0.75", "", "-")


@styled
def over_time(pairs: pd.DataFrame) -> Figure:
    """Size of the differences per place of distance over time, a line for each distance, named at its end."""
    fig, ax = panel(3.2, 2.75, 0.6, 0.42, 0.35, 0.42)
    for distance, rows in pairs.groupby("distance"):
        color, marker, line = line_style(distance)
        ax.plot(
            rows["time"],
            rows["size"],
            line,
            color=color,
            marker=marker,
            ms=4,
            lw=1.2,
            zorder=2 if marker else 1,
        )
    ends = pairs.groupby("distance").last()[: len(DISTANCE)].sort_values("size")
    top = 1.1 * scale_of(pairs["size"].max())
    gap, at = 0.07 * top, -np.inf
    for distance, row in ends.iterrows():  # apart, where lines end close to each other
        at = max(row["size"], at + gap)
        ax.text(1.03, at / top, str(distance), color=line_style(distance)[0], va="center", fontsize=SMALL,
                fontweight="bold", transform=ax.transAxes)  # fmt: skip
    ax.set(xlabel="time (place between i and j)", ylabel="|I_j - I_i| / (j - i)", ylim=(0, top))
    ax.locator_params(nbins=3)
    longest = pairs["distance"].max()
    grey = f" (grey: {len(DISTANCE) + 1} to {longest})" if longest > len(DISTANCE) else ""
    ax.set_title(f"motion over time, a line for each\ndistance j - i{grey}")
    return fig


def scale_of(largest: float) -> float:
    """The end of an axis for values up to `largest`; 1 where there are only rounding errors."""
    return float(largest) if largest > 1e-6 else 1.0


@styled
def arrows(pairs: pd.DataFrame, shares: np.ndarray, reach: float, marked: tuple[int, int]) -> Figure:
    """Each difference as an arrow from the origin, in the plane of the first two principal components.

    reach: half the width of the axes, the same for all orders of a clip, so that they can be compared.
    """
    fig, ax = panel(3.2, 2.75, 0.75, 0.42, 0.5, 0.42)
    zero, styles = np.zeros(len(pairs)), pairs["distance"].map(line_style)
    ax.quiver(zero, zero, pairs["x"], pairs["y"], angles="xy", scale_units="xy", scale=1, alpha=0.55,
              width=0.006, color=[color for color, *_ in styles], zorder=1)  # fmt: skip
    for distance, rows in pairs[pairs["distance"] <= len(DISTANCE)].groupby("distance"):
        color, marker, _ = line_style(distance)
        ax.plot(rows["x"], rows["y"], marker, color=color, ms=4.5, mec="white", mew=0.5)
    ax.plot(*pairs[["x", "y"]].mean(), "*", color=BLACK, ms=13, mec="white")
    chosen = pairs[(pairs["i"] == marked[0]) & (pairs["j"] == marked[1])]
    ax.plot(chosen["x"], chosen["y"], "X", color=ORANGE, mec=BLACK, ms=9)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    ax.axhline(0, color="0.85", lw=0.8, zorder=0)
    ax.axvline(0, color="0.85", lw=0.8, zorder=0)
    ax.locator_params(nbins=3)
    ax.set_xlabel(f"first principal component ({shares[0]:.0%} of variance)", fontsize=SMALL)
    ax.set_ylabel(f"second ({shares[1]:.0%} of variance)", fontsize=SMALL)
    ax.set_title("differences I_j - I_i as arrows\nstar: their mean; cross: i and j")
    return fig


@styled
def matrix(
    values: np.ndarray, title: str, rows: str, names: Sequence[str] = (), width: float = 3.4
) -> Figure:
    """Any intermediate (N,D) as a map; zero is white. names: of the rows, where they are few."""
    fig, ax = panel(width, 2.2 if not names else 0.9 + 0.16 * len(names), 0.6, 0.4, 0.65, 0.3)
    most = scale_of(np.abs(values).max())
    image = ax.imshow(values, "PuOr", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    ax.set_title(title)
    ax.set(xlabel="dimension", ylabel=rows)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    if names:
        ax.set_yticks(range(len(names)), names)
    color_bar(fig, ax, image)
    return fig


def by_distance(fig: Figure, frames: int, step: int) -> Figure:
    """Lines between the distances of a `matrix` of pairs, and the distance beside each part that has room."""
    ax = fig.axes[0]
    counts = frames - np.arange(1, step + 1)
    ends = counts.cumsum()
    middles, labelled = ends - counts / 2 - 0.5, [0]
    for number, middle in enumerate(middles):
        if middle - middles[labelled[-1]] >= ends[-1] / 10:
            labelled.append(number)
    lines = [[(-0.5, end - 0.5), (1e4, end - 0.5)] for end in ends[:-1]]
    ax.add_collection(LineCollection(lines, colors=BLACK, lw=0.8), autolim=False)
    ax.set_yticks(middles[labelled], [str(number + 1) for number in labelled])
    ax.set_ylabel("pairs, by distance j - i")
    return fig


def marks(rows: Sequence[str], signs: Mapping[str, str]) -> list[str]:
    """Names of rows with a sign before some."""
    return [f"{signs[name]} {name}" if name in signs else name for name in rows]
