"""The picture of the method, Figure 1 in the kit's own names: `python -m flowclip_kit.book_figures`.

Writes notebooks/images/method.svg; the same libraries give the same bytes.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from flowclip_core.files import write_atomically
from flowclip_kit.demo.makers.sheet import strip
from flowclip_kit.paths import root

PICTURE = Path("notebooks") / "images" / "method.svg"
FROZEN, TRAINED, DATA = ("#e8eaed", "#9aa0a6"), ("#fde3c8", "#d9822b"), ("white", "#9aa0a6")  # face, edge
SETTINGS: dict[Any, Any] = {"svg.hashsalt": "flowclip", "font.family": "DejaVu Sans", "font.size": 9}
STILLS = 4


def method() -> Figure:
    """Frames -> CLIP -> MMB, MAP, MCB -> scores; grey boxes are frozen, orange ones are trained."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(11, 4.1), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 110), ylim=(0, 41))
        axes.axis("off")

        axes.text(1, 37.8, "T frames of a video", color="0.35")
        for number in range(STILLS):
            still = strip("figures-h", "get_up", 38, STILLS)[:, number * 83 : number * 83 + 80]
            left, top = 1 + 6.5 * (number % 2), 36.6 - 6.3 * (number // 2)
            axes.imshow(still, extent=(left, left + 6.2, top - 6, top), aspect="auto")

        _box(axes, (17.5, 24.5, 12, 9), "CLIP\nimage tower", FROZEN)
        _box(axes, (33.5, 26, 6.5, 6), "$I$\n(T, D)", DATA)
        _box(axes, (44.5, 31.5, 18, 6.5), "spatial stream $T_s$\nover the T frames", TRAINED)
        _box(axes, (44.5, 20.5, 18, 8.5), "motion stream $T_m$\nover $I_{t+d} - I_t$,\nd = 1 ... s", TRAINED)
        _box(axes, (67, 26, 13.5, 6), "$V$ = mean($S$)\n+ mean($M$)", DATA)
        _box(axes, (85, 13.5, 10.5, 18.5), "cross-\nattention\n$V \\rightleftarrows T$", TRAINED)

        _box(axes, (1, 4.6, 13.2, 7), "class names\n“get up”, “wave”", DATA)
        _box(axes, (44.5, 4.1, 18, 8), "$P_1 ... P_H$ + adapter($M$)\n[class name]", TRAINED)
        _box(axes, (67, 3.6, 12, 9), "CLIP\ntext tower", FROZEN)

        for start, end in (
            ((14, 29), (17.5, 29)),
            ((29.5, 29), (33.5, 29)),
            ((40, 30.4), (44.5, 34.4)),
            ((40, 27.6), (44.5, 25)),
            ((62.5, 34.4), (67, 30.6)),
            ((62.5, 25), (67, 27.8)),
            ((80.5, 29), (85, 29)),
            ((53.5, 20.5), (53.5, 12.1)),
            ((14.2, 8.1), (44.5, 8.1)),
            ((62.5, 8.1), (67, 8.1)),
            ((79, 9.6), (85, 15.5)),
            ((95.5, 22.7), (98.6, 22.7)),
        ):
            arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color="0.35", lw=1.1)
            axes.add_patch(arrow)
        axes.text(54.5, 15.6, "mean($M$)", color="0.35")
        axes.text(79.4, 14.6, "$T$", color="0.35")
        axes.text(42.6, 39.4, "MMB, Eq. 4–6", weight="bold")
        axes.text(42.6, 1, "MAP, Eq. 7", weight="bold")
        axes.text(85, 33.2, "MCB, Eq. 2", weight="bold")

        axes.text(99, 30.2, "softmax(cos/$\\tau$)", color="0.35", fontsize=8.5)
        for number, (name, score) in enumerate((("get up", 8.5), ("fall down", 3), ("wave", 1))):
            base = 26 - 4.4 * number
            axes.barh(base, score, height=1.5, left=99, color=TRAINED[1] if number == 0 else FROZEN[1])
            axes.text(99, base + 1.2, name, fontsize=8.5)
        for base, (face, edge), text in ((7.4, FROZEN, "frozen"), (4.1, TRAINED, "trained")):
            axes.add_patch(FancyBboxPatch((99, base), 2, 1.6, boxstyle="square,pad=0", fc=face, ec=edge))
            axes.text(102, base + 0.2, text)
    return figure


def _box(axes: Axes, place: tuple[float, float, float, float], text: str, style: tuple[str, str]) -> None:
    left, bottom, wide, high = place
    shape = FancyBboxPatch(
        (left, bottom), wide, high, boxstyle="round,pad=0,rounding_size=1", fc=style[0], ec=style[1], lw=1.2
    )
    axes.add_patch(shape)
    axes.text(left + wide / 2, bottom + high / 2, text, ha="center", va="center", linespacing=1.35)


def encoded(kind: str = "svg") -> bytes:
    """The picture's file, without a date."""
    buffer = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        method().savefig(buffer, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: python -m flowclip_kit.book_figures")
    print(write_atomically(root() / PICTURE, encoded()))
