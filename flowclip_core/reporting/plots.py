"""Figures from summary tables: marks differ by shape as well as colour, printed values are hollow.

Figures are made without pyplot, so nothing global changes; the SVG of the same summary has the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flowclip_core import paths
from flowclip_core.errors import InputError
from flowclip_core.reporting import tables

# Okabe and Ito's colours, told apart with any kind of colour vision; the shape says the same once more.
STYLE = {
    "baseline": ("#000000", "o"),
    "mcb": ("#E69F00", "s"),
    "mmb": ("#56B4E9", "^"),
    "mmb+map": ("#009E73", "D"),
    "full": ("#D55E00", "P"),
}
CONTROL_STYLE = {
    "": ("#000000", "o"),
    "_shuffled": ("#0072B2", "s"),
    "_reversed": ("#CC79A7", "v"),
    "_repeated": ("#999999", "D"),
}
GREY = "0.55"
SETTINGS = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "flowclip",  # else every SVG has new ids
}


def accuracy_over_k(summary: pd.DataFrame, paper: pd.DataFrame, caption: str = "") -> Figure:
    """Top-1 accuracy over k, the training videos a class (Table 5): measured filled, printed hollow.

    One row of axes per data set. On the paper's own data the printed values share its axes; in the demo world
    they stand in axes of their own on the right, since they concern other data. Bars are 95 % Student t
    intervals. paper: `tables.load_paper("table5")`, whose competitors are drawn in grey.
    """
    demo = tables.is_demo(summary)
    panels = summary.groupby("dataset")
    with mpl.rc_context(SETTINGS):
        fig, axes = _grid(len(panels), 2 if demo else 1, height=3.4 if demo else 4.2, sharey="row")
        for (dataset, rows), row_axes in zip(panels, axes, strict=True):
            role = rows["role"].iloc[0]
            printed = paper[(paper["dataset"] == role) & (paper["metric"] == "top1")]
            trained = rows[rows["metric"] == "top1"]
            _measured(row_axes[0], trained)
            _zero_shot(row_axes[0], rows)
            _printed(row_axes[-1], printed)
            n = "/".join(map(str, sorted(trained["n"].unique())))
            row_axes[0].set_title(f"measured, {dataset}, n = {n}", loc="left")
            if demo:
                row_axes[-1].set_title(f"printed, {role} (other data)", loc="left")
            for ax in row_axes:
                _k_axis(ax, sorted({*trained["k"], *printed["k"]}))
            row_axes[0].set_ylabel("top-1 accuracy, %")
        present = [name for name in tables.variants(summary) if name in STYLE]
        handles = [_mark(*STYLE[name], name, line="-") for name in present]
        if (summary["metric"] == "zero_shot_top1").any():
            handles.append(Line2D([], [], color="0.3", ls="--", lw=1.2, label="CLIP, zero-shot"))
        if paper["dataset"].isin(summary["role"]).any():
            handles.append(_mark("0.2", "o", "printed", hollow=True))
            handles.append(_mark(GREY, "o", "printed competitor", hollow=True, line=":"))
        _finish(fig, handles, [tables.DEMO_NOTE] * demo + [caption] * bool(caption))
    return fig


def controls(summary: pd.DataFrame, caption: str = "") -> Figure:
    """What each variant keeps when the frames of test videos are shuffled, reversed, or one is repeated.

    One column of axes per data set: top-1 accuracy above and, where there are time-reversed pairs, their
    order below (chance 50). Largest k; bars are 95 % Student t intervals. Raises InputError without controls.
    """
    metrics = [name for name in ("top1", "order") if (summary["metric"] == name + "_shuffled").any()]
    if not metrics:
        raise InputError("the results hold no controls (metrics top1_shuffled, ...); nothing to draw")
    panels = summary.groupby("dataset")
    names = [name for name in tables.variants(summary) if name in STYLE]
    with mpl.rc_context(SETTINGS):
        fig, axes = _grid(len(metrics), len(panels), height=2.9, sharey="row")
        for column, (dataset, rows) in enumerate(panels):
            largest = rows["k"].max()
            for ax, metric in zip(axes[:, column], metrics, strict=True):
                _by_control(ax, rows[rows["k"] == largest], metric, names)
            n = "/".join(map(str, sorted(rows.loc[rows["metric"] == "top1", "n"].unique())))
            axes[0, column].set_title(f"{dataset}, k = {largest}, n = {n}", loc="left")
        for ax, metric in zip(axes[:, 0], metrics, strict=True):
            ax.set_ylabel({"top1": "top-1 accuracy, %", "order": "true order preferred, %"}[metric])
        handles = [_mark(*CONTROL_STYLE[suffix], name) for suffix, name in tables.CONTROLS.items()]
        if "order" in metrics:
            handles.append(Line2D([], [], color="0.3", ls=":", lw=1, label="order at chance"))
        _finish(fig, handles, [tables.DEMO_NOTE] * tables.is_demo(summary) + [caption] * bool(caption))
    return fig


def figures(target: str, summary: pd.DataFrame) -> dict[str, Figure]:
    """The figures of a target by file name: <target>, and <target>_controls where controls were run."""
    drawn = {target: accuracy_over_k(summary, tables.load_paper(target))}
    if (summary["metric"] == "top1_shuffled").any():
        drawn[f"{target}_controls"] = controls(summary)
    return drawn


def figure_bytes(
    target: str, summary: pd.DataFrame, folder: Path, kinds: tuple[str, ...] = ("svg", "png")
) -> dict[Path, bytes]:
    """What `write_figures` would write, by path: folder/figures/<name>.<kind>.

    The SVG carries no date and a fixed salt: the same summary gives the same bytes under the same matplotlib.
    """
    found = {}
    for name, figure in figures(target, summary).items():
        for kind in kinds:
            buffer = io.BytesIO()
            with mpl.rc_context(SETTINGS):
                figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
            found[Path(folder) / "figures" / f"{name}.{kind}"] = buffer.getvalue()
    return found


def write_figures(target: str, summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Write folder/figures/<target>.{svg,png}, and <target>_controls.* where there are controls.

    Each file appears whole or not at all. Returns the paths.
    """
    return [paths.write_atomically(path, data) for path, data in figure_bytes(target, summary, folder).items()]


def _grid(rows: int, columns: int, height: float, **shared: str) -> tuple[Figure, np.ndarray]:
    fig = Figure(figsize=(9.5, height * rows + 1.0), layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False, **shared)


def _measured(ax: Axes, trained: pd.DataFrame) -> None:
    for place, name in enumerate(STYLE):
        rows = trained[trained["variant"] == name].sort_values("k")
        color, marker = STYLE[name]
        x = rows["k"] * 2 ** (0.07 * (place - 2))  # side by side, or the intervals would cover each other
        ax.vlines(x, rows["low"], rows["high"], color=color, lw=1.2)
        ax.plot(x, rows["mean"], color=color, marker=marker, ms=6, lw=1.4)


def _zero_shot(ax: Axes, rows: pd.DataFrame) -> None:
    for mean in rows.loc[rows["metric"] == "zero_shot_top1", "mean"]:
        ax.axhline(mean, color="0.3", ls="--", lw=1.2, zorder=0)


def _printed(ax: Axes, printed: pd.DataFrame) -> None:
    if printed.empty:
        return
    ends = {}
    for place, name in enumerate(STYLE):
        rows = printed[printed["method"] == name].sort_values("k")
        color, marker = STYLE[name]
        x = rows["k"] * 2 ** (0.07 * (place - 2))
        ax.plot(x, rows["value"], color=color, marker=marker, ls="", ms=6.5, mfc="white", mew=1.3)
    for name, rows in printed[printed["source"] == "printed competitor"].groupby("method"):
        rows = rows.sort_values("k")
        ax.plot(rows["k"], rows["value"], color=GREY, marker="o", ls=":", ms=4, mfc="white", lw=0.8, zorder=1)
        ends[name] = rows["value"].iloc[-1]
    lowest, highest = ax.get_ylim()
    heights = _spread(np.array([*ends.values()]), (highest - lowest) / 14)
    last = printed["k"].max()
    for (name, value), height in zip(ends.items(), heights, strict=True):
        leader = {"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkB": 3}
        ax.annotate(name, (last, value), (last * 1.22, height), color="0.35", fontsize=8.5, va="center",
                    annotation_clip=False, arrowprops=leader)  # fmt: skip


def _by_control(ax: Axes, rows: pd.DataFrame, metric: str, names: list[str]) -> None:
    for place, suffix in enumerate(tables.CONTROLS):
        color, marker = CONTROL_STYLE[suffix]
        cells = rows[rows["metric"] == metric + suffix].set_index("variant").reindex(names)
        x = np.arange(len(names)) + 0.16 * (place - 1.5)
        ax.vlines(x, cells["low"], cells["high"], color=color, lw=1.2)
        ax.plot(x, cells["mean"], color=color, marker=marker, ls="", ms=6.5)
    if metric == "order":
        ax.set_ylim(-4, 104)
        ax.axhline(50, color="0.3", ls=":", lw=1, zorder=0)
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.grid(axis="y", color="0.9")


def _k_axis(ax: Axes, ks: Iterable[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ks), [str(k) for k in ks])
    ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    ax.set_xlabel("k, training videos a class")
    ax.grid(axis="y", color="0.9")


def _mark(color: str, marker: str, label: str, hollow: bool = False, line: str = "") -> Line2D:
    fill = "white" if hollow else color
    return Line2D([], [], color=color, marker=marker, ls=line, lw=1.2, mfc=fill, label=label)


def _spread(values: np.ndarray, gap: float) -> np.ndarray:
    """Heights for labels: least squares from the values while at least `gap` apart, in their order."""
    n, order = len(values), np.argsort(values)
    room = gap * np.arange(n)
    free = values[order] - room
    # What remains is to keep these from falling: isotonic regression, by its max-min formula.
    level = [max(min(free[a:b].mean() for b in range(i + 1, n + 1)) for a in range(i + 1)) for i in range(n)]
    heights = np.empty(n)
    heights[order] = level + room
    return heights


def _finish(fig: Figure, handles: list[Line2D], notes: list[str]) -> None:
    columns = len(handles) if len(handles) < 6 else 4
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    if notes:
        fig.suptitle("\n".join(notes), fontsize=10, x=0.01, ha="left", color="0.25")
    # Lay out once; otherwise every file written from the figure does it again, which is most of the time.
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
