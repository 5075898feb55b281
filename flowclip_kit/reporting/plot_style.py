"""How all figures look: colours and shapes of the variants, and settings that no matplotlibrc changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import matplotlib as mpl
from matplotlib.lines import Line2D

# Okabe and Ito's colours, told apart with any kind of colour vision; the shape says the same once more.
STYLE = {
    "clip": ("#0072B2", "v"),
    "baseline": ("#000000", "o"),
    "mcb": ("#E69F00", "s"),
    "mmb": ("#56B4E9", "^"),
    "mmb+map": ("#009E73", "D"),
    "full": ("#D55E00", "P"),
    "linear probe": ("#CC79A7", "X"),
}
CONTROL_STYLE = {
    "": ("#000000", "o"),
    "_shuffled": ("#0072B2", "s"),
    "_reversed": ("#CC79A7", "v"),
    "_repeated": ("#999999", "D"),
}
GREY = "#8c8c8c"
# Marks of k where rows have names of their own: darker is more, grey is untrained.
SHOTS = (("#9ecae1", "o"), ("#4292c6", "s"), ("#08519c", "^"), ("#062654", "D"), ("#D55E00", "P"))
# matplotlib's own in place of a user's matplotlibrc; the rest is about windows, of which we open none.
WINDOWS = ("backend", "interactive", "toolbar", "webagg", "tk.", "figure.raise_window", "savefig.directory")
SETTINGS = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith(WINDOWS)} | {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "flowclip",  # else every SVG has new ids
}


def family_style(variant: str) -> tuple[str, str]:
    """Colour and shape of a variant's family: 'clip A' as clip, 'baseline, post-norm' as baseline, 'T=8' as
    full; of a pair 'mmb - baseline' that of its variant."""
    variant = variant.split(" - ")[0]
    return STYLE.get(variant) or STYLE.get(variant.replace(",", " ").split()[0], STYLE["full"])


def unique_styles(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Each label in its family's style; one whose style is taken gets another."""
    labels, styles = list(labels), dict[str, tuple[str, str]]()
    known, wanted = list(STYLE.values()), [family_style(label) for label in labels]
    colours, shapes = zip(*known, strict=True)
    mixed = [(colour, shape) for shape, colour in itertools.product(shapes, colours)]
    spare = (style for style in [*reversed(known), *mixed] if style not in (*wanted, *styles.values()))
    for label, style in zip(labels, wanted, strict=True):
        styles[label] = next(spare, style) if style in styles.values() else style
    return styles


def mark(color: str, marker: str, label: str, hollow: bool = False, line: str = "") -> Line2D:
    """A legend's handle."""
    fill = "white" if hollow else color
    return Line2D([], [], color=color, marker=marker, ls=line, lw=1.2, mfc=fill, label=label)
