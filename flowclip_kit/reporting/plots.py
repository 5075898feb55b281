"""Figures from summary tables: marks differ by shape as well as colour, printed values are hollow.

In all of them a thick pale bar is the 95 % Student t interval over runs and a thin one the 95 % bootstrap
interval over test videos; in the demo world printed values have axes of their own, since they concern other
data. Figures are made without pyplot, so nothing global changes; the SVG of the same summary has the same
bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flowclip_core.errors import InputError
from flowclip_kit.reporting import tables

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
GREY = "0.55"
AXES = {"T": "T, frames of a video", "H": "H, prompt vectors", "s": "s, largest step between frames"}
LABEL = 28  # characters of a pair's label on the y axis that fit into one line
# matplotlib's own, in the place of whatever a user's matplotlibrc says; the rest is of windows, which we open
# none.
WINDOWS = ("backend", "interactive", "toolbar", "webagg", "tk.", "figure.raise_window", "savefig.directory")
SETTINGS = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith(WINDOWS)} | {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "flowclip",  # else every SVG has new ids
}


def accuracy_over_k(summary: pd.DataFrame, paper: pd.DataFrame, caption: str = "") -> Figure:
    """Top-1 accuracy over k, the training videos a class (Table 5): measured filled, printed hollow.

    One row of axes per data set; in the demo the printed values stand on the right. paper:
    `tables.load_paper("table5")`, whose competitors are drawn in grey.
    """
    names, blocks = tables.variants(summary), tables.blocks(summary)
    styles = {name: STYLE[name] for name in names if name != "clip"}
    shown = []
    for block in blocks:
        printed = _printed_of(paper, block).rename(columns={"method": "label"})
        shown.append((block, block.trained.assign(label=block.trained["variant"]), printed))
    with mpl.rc_context(SETTINGS):
        fig, axes = _over_k(shown, styles, "top-1 accuracy, %")
        for (block, _, printed), row_axes in zip(shown, axes, strict=True):
            for mean in block.rows.loc[
                (block.rows["variant"] == "clip") & (block.rows["metric"] == "top1"), "mean"
            ]:
                row_axes[0].axhline(mean, color=STYLE["clip"][0], ls="--", lw=1.2, zorder=0)
            _competitors_over_k(row_axes[-1], printed[printed["source"] == tables.COMPETITOR])
        handles = [_mark(*style, name, line="-") for name, style in styles.items()]
        if "clip" in names:
            handles.append(Line2D([], [], color=STYLE["clip"][0], ls="--", lw=1.2, label="clip, untrained"))
        _finish(fig, [*handles, *_bars(summary), *_hollow(paper, blocks)], _notes(summary, caption))
    return fig


def accuracy_over_axis(summary: pd.DataFrame, paper: pd.DataFrame, axis: str, caption: str = "") -> Figure:
    """Top-1 accuracy over T, H or s (Figure 3b to 3d), variants named «T=8»: one column of axes per data set.

    axis: "T", "H" or "s". Printed or derived values are hollow, in the demo in a row of axes of their own.
    """
    blocks, ticks = tables.blocks(summary), [_place(name) for name in tables.variants(summary)]
    printed = [_printed_of(paper, block) for block in blocks]
    apart = tables.is_demo(summary) and any(map(len, printed))
    color, marker = STYLE["full"]
    with mpl.rc_context(SETTINGS):
        fig, axes = _grid([3.3, 2.0] if apart else [3.6], len(blocks))
        for column, (block, theirs) in enumerate(zip(blocks, printed, strict=True)):
            rows = block.trained.assign(x=block.trained["variant"].map(_place)).sort_values("x")
            ax, last = axes[0, column], axes[-1, column]
            _intervals(ax.vlines, rows["x"], rows, color)
            ax.plot(rows["x"], rows["mean"], color=color, marker=marker, ms=7, lw=1.4)
            x = theirs["method"].map(_place).to_numpy(float) * (
                1 if apart else 1.03
            )  # else one mark covers the other
            last.plot(x, theirs["value"], color=color, marker=marker, ls="", ms=8, mfc="white", mew=1.3)
            _titles(ax, last if apart else None, block, tables.origin(paper))
        for ax in axes.flat:
            if axis == "T":
                _log_axis(ax, ticks, AXES[axis])
                ax.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
            else:
                _ticks(ax, ticks, AXES[axis])
                ax.set_xlim(ticks[0] - 0.4, ticks[-1] + 0.4)
            _at_least(ax, 6)
        for ax in axes[:, 0]:
            ax.set_ylabel("top-1 accuracy, %")
        handles = [
            _mark(color, marker, "full, mean over runs", line="-"),
            *_bars(summary),
            *_hollow(paper, blocks),
        ]
        _finish(fig, handles, _notes(summary, caption))
    return fig


def accuracy_by_variant(summary: pd.DataFrame, paper: pd.DataFrame, caption: str = "") -> Figure:
    """Top-1 accuracy, one line per variant in the table's order, one column of axes per block of the table.

    Printed values are hollow, with their printed ± as a bar, competitors grey; in the demo they stand in a
    row of axes of their own.
    """
    blocks, ours = tables.blocks(summary), tables.variants(summary)
    printed = [_printed_of(paper, block).rename(columns={"method": "label"}) for block in blocks]
    measured = [block.rows[block.rows["metric"] == "top1"] for block in blocks]
    shown = [(block, rows.assign(label=rows["variant"]), theirs)
             for block, rows, theirs in zip(blocks, measured, printed, strict=True)]  # fmt: skip
    rivals = list(dict.fromkeys(paper.loc[paper["source"] == tables.COMPETITOR, "method"]))
    said = set().union(*(theirs["label"] for theirs in printed))
    theirs = [name for name in [*rivals, *tables.VARIANTS.get(summary["target"].iloc[0], ())] if name in said]
    with mpl.rc_context(SETTINGS):
        fig, _ = _by_line(shown, ours, theirs, tables.origin(paper), "top-1 accuracy, %")
        _finish(fig, [*_bars(summary, marks=True), *_hollow(paper, blocks)], _notes(summary, caption))
    return fig


def differences(
    paired: pd.DataFrame, paper: pd.DataFrame, axis: str | None = None, caption: str = ""
) -> Figure:
    """What a variant gains over another in points of top-1, with a line at 0.

    paired: rows of `stats.paired_difference`, metric top1. Hollow: the difference that the paper states, or
    else that of its printed values. axis "k": lines over k, one row of axes per data set; otherwise one line
    per pair, one column of axes per block, the printed ones in the demo in a row of axes of their own.
    """
    blocks = tables.blocks(paired)
    shown = [
        (block, block.rows.assign(label=_labels(block.rows)), _printed_differences(paper, block))
        for block in blocks
    ]
    labels = list(dict.fromkeys(_labels(paired)))
    theirs = [label for label in labels if any((printed["label"] == label).any() for _, _, printed in shown)]
    with mpl.rc_context(SETTINGS):
        if axis == "k":
            styles = _pair_styles(labels)
            fig, axes = _over_k(shown, styles, "difference of top-1, points")
            handles = [_mark(*style, label, line="-") for label, style in styles.items()] + _bars(paired)
        else:
            fig, axes = _by_line(shown, labels, theirs, "printed", "difference of top-1, points")
            handles = _bars(paired, marks=True)
        for ax in axes.flat:
            (ax.axhline if axis == "k" else ax.axvline)(0, color="0.3", lw=1, zorder=0)
        handles += [_mark("0.2", "o", "printed difference", hollow=True)] * bool(theirs)
        _finish(fig, handles, _notes(paired, caption))
    return fig


def controls(summary: pd.DataFrame, caption: str = "") -> Figure:
    """What each variant keeps when the frames of test videos are shuffled, reversed, or one is repeated.

    One column of axes per block: top-1 accuracy above and, where there are time-reversed pairs, their order
    below (chance 50). Largest k, CLIP untrained. Raises InputError without controls.
    """
    metrics = [name for name in ("top1", "order") if (summary["metric"] == name + "_shuffled").any()]
    if not metrics:
        raise InputError("the results hold no controls (metrics top1_shuffled, ...); nothing to draw")
    blocks = tables.blocks(summary)
    names = tables.variants(summary[summary["metric"] == metrics[0] + "_shuffled"])
    with mpl.rc_context(SETTINGS):
        fig, axes = _grid([2.9] * len(metrics), len(blocks), sharey="row")
        for column, block in enumerate(blocks):
            at = block.trained["k"].max()
            shown = tables.Block(
                block.dataset, block.role, block.trained_on, block.rows[block.rows["k"].isin([0, at])]
            )
            for ax, metric in zip(axes[:, column], metrics, strict=True):
                _by_control(ax, shown.rows, metric, names)
            _titles(axes[0, column], None, shown, "")
        for ax, metric in zip(axes[:, 0], metrics, strict=True):
            ax.set_ylabel({"top1": "top-1 accuracy, %", "order": "true order preferred, %"}[metric])
        handles = [_mark(*CONTROL_STYLE[suffix], name) for suffix, name in tables.CONTROLS.items()]
        if "order" in metrics:
            handles.append(Line2D([], [], color="0.3", ls=":", lw=1, label="order at chance"))
        _finish(fig, handles + _bars(summary.assign(video_low=math.nan)), _notes(summary, caption))
    return fig


def figures(
    target: str, summary: pd.DataFrame, paired: pd.DataFrame | None = None, axis: str | None = None
) -> dict[str, Figure]:
    """The figures of a target by file name: <target>, <target>_controls where there are controls,
    <target>_differences.

    paired: rows of `stats.paired_difference` for the pairs the target compares, or None. axis: what the
    target varies ("k", "T", "H", "s"), or None where its variants have no natural scale. Raises InputError
    where the printed values are absent or a variant is unknown.
    """
    paper = tables.load_paper(target)
    if axis == "k":
        drawn = {target: accuracy_over_k(summary, paper)}
    elif axis:
        drawn = {target: accuracy_over_axis(summary, paper, axis)}
    else:
        drawn = {target: accuracy_by_variant(summary, paper)}
    if (summary["metric"] == "top1_shuffled").any():
        drawn[f"{target}_controls"] = controls(summary)
    if paired is not None and (paired["metric"] == "top1").any():
        drawn[f"{target}_differences"] = differences(paired[paired["metric"] == "top1"], paper, axis)
    return drawn


def files(
    drawn: dict[str, Figure], folder: Path, kinds: tuple[str, ...] = ("svg", "png")
) -> dict[Path, bytes]:
    """The files of figures by path, folder/figures/<name>.<kind>, and what is to be in them: see
    `encoded`."""
    where = Path(folder) / "figures"
    return {
        where / f"{name}.{kind}": encoded(figure, kind) for name, figure in drawn.items() for kind in kinds
    }


def encoded(figure: Figure, kind: str) -> bytes:
    """A figure as svg or png.

    The SVG carries no date and a fixed salt: the same summary gives the same bytes under the same matplotlib.
    """
    buffer = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


Shown = list[
    tuple[tables.Block, pd.DataFrame, pd.DataFrame]
]  # block, measured and printed rows, both with a label


def _over_k(shown: Shown, styles: dict[str, tuple[str, str]], what: str) -> tuple[Figure, np.ndarray]:
    """One row of axes per block, lines over k; in the demo printed values in axes of their own, on the
    right."""
    demo = any(tables.is_demo(block.rows) for block, _, _ in shown)
    apart = demo and any(len(printed) for _, _, printed in shown)
    fig, axes = _grid([3.4 if demo else 4.2] * len(shown), 2 if apart else 1, sharey="row")
    for (block, rows, printed), row_axes in zip(shown, axes, strict=True):
        for place, (label, (color, marker)) in enumerate(styles.items()):
            beside = 2 ** (0.07 * (place - (len(styles) - 1) / 2))  # or the intervals would cover each other
            ours = rows[rows["label"] == label].sort_values("k")
            _intervals(row_axes[0].vlines, ours["k"] * beside, ours, color)
            row_axes[0].plot(ours["k"] * beside, ours["mean"], color=color, marker=marker, ms=6, lw=1.4)
            theirs = printed[printed["label"] == label].sort_values("k")
            row_axes[-1].plot(theirs["k"] * beside, theirs["value"], color=color, marker=marker, ls="", ms=6.5,
                              mfc="white", mew=1.3)  # fmt: skip
        _titles(row_axes[0], row_axes[1] if apart else None, block, "printed", with_k=False)
        for ax in row_axes:
            _log_axis(ax, sorted({*rows["k"], *printed["k"]}), "k, training videos a class")
        row_axes[0].set_ylabel(what)
    return fig, axes


def _by_line(
    shown: Shown, ours: list[str], theirs: list[str], origin: str, what: str
) -> tuple[Figure, np.ndarray]:
    """One column of axes per block, one line per label; in the demo printed values in axes of their own,
    below."""
    apart = any(tables.is_demo(block.rows) for block, _, _ in shown) and bool(theirs)
    alone = [name for name in theirs if name not in ours]
    lines = [ours, theirs] if apart else [alone + ours]
    line = 0.46 if any(len(name) > LABEL for name in ours) else 0.31 if apart or not theirs else 0.38
    heights = [line * len(names) + 0.95 for names in lines]
    fig, axes = _grid(heights, len(shown), sharex="col", sharey="row")
    for column, (block, rows, printed) in enumerate(shown):
        ax, last = axes[0, column], axes[-1, column]
        for i, row in enumerate(rows.itertuples()):
            color, marker = _style(row.variant)
            y = lines[0].index(row.label)
            _intervals(ax.hlines, [y], rows.iloc[[i]], color)
            ax.plot([row.mean], [y], color=color, marker=marker, ls="", ms=7.5)
        for row in printed.itertuples():
            competitor = row.source == tables.COMPETITOR
            color, marker = (GREY, "o") if competitor else _style(row.label.split(" - ")[0])
            y = lines[-1].index(row.label) + (0 if apart or row.label in alone else 0.27)
            last.hlines([y], row.value - row.spread, row.value + row.spread, color=color, lw=1.1)
            last.plot([row.value], [y], color=color, marker=marker, ls="", ms=5.5 if competitor else 8, mfc="white",
                      mew=1.3)  # fmt: skip
        _titles(ax, last if apart else None, block, origin, competitors=bool(alone))
    for names, row_axes in zip(lines, axes, strict=True):
        labels = [name.replace(" - ", "\n- ") if len(name) > LABEL else name for name in names]
        row_axes[0].set_yticks(range(len(names)), labels)
        row_axes[0].set_ylim(len(names) - 0.4, -0.6)
        for name, text in zip(names, row_axes[0].get_yticklabels(), strict=True):
            text.set_color("0.4" if name in alone else "black")
        for ax in row_axes:
            ax.tick_params(axis="x", labelbottom=True)
            ax.tick_params(axis="y", length=0)
            ax.set_xlabel(what)
            ax.grid(color="0.92")
    return fig, axes


def _grid(heights: list[float], columns: int, **shared: str) -> tuple[Figure, np.ndarray]:
    fig = Figure(figsize=(9.5, sum(heights) + 1.0), layout="constrained")
    return fig, fig.subplots(len(heights), columns, squeeze=False, height_ratios=heights, **shared)


def _titles(
    ax: Axes,
    apart: Axes | None,
    block: tables.Block,
    origin: str,
    with_k: bool = True,
    competitors: bool = False,
) -> None:
    """Data set and n above what is measured; the paper's data set above printed values that have their own
    axes.

    competitors: some of these stand there, which were not all trained on the same.
    """
    trained_on = [block.source] * bool(block.source)
    ax.set_title("\n".join([f"measured, {block.title(with_k)}", *trained_on]), loc="left")
    if apart is not None:
        trained_on = [f"trained on {block.trained_on}"] * (bool(block.source) and not competitors)
        apart.set_title("\n".join([f"{origin}, {block.role} (other data)", *trained_on]), loc="left")


def _style(variant: str) -> tuple[str, str]:
    """Colour and shape of a variant's family: «clip A» as clip, «baseline, post-norm» as baseline, «T=8» as
    full."""
    return STYLE.get(variant) or STYLE.get(variant.replace(",", " ").split()[0], STYLE["full"])


def _pair_styles(labels: list[str]) -> dict[str, tuple[str, str]]:
    """Each pair in its variant's style; a pair whose variant had one before takes one that is left."""
    styles, free = (
        {},
        [style for name, style in STYLE.items() if name not in {label.split(" - ")[0] for label in labels}],
    )
    for label in labels:
        own = _style(label.split(" - ")[0])
        styles[label] = free.pop() if own in styles.values() and free else own
    return styles


def _intervals(lines: Callable, at: Iterable[float], rows: pd.DataFrame, color: str) -> None:
    """Over runs thick and pale, over test videos thin; lines is the axes' hlines or vlines."""
    lines(at, rows["low"], rows["high"], color=color, lw=4.5, alpha=0.35)
    lines(at, rows["video_low"], rows["video_high"], color=color, lw=1.1)


def _printed_of(paper: pd.DataFrame, block: tables.Block) -> pd.DataFrame:
    same = (paper["dataset"] == block.role) & paper["trained_on"].isin(["", block.trained_on])
    return paper[same & (paper["metric"] == "top1")]


def _labels(paired: pd.DataFrame) -> pd.Series:
    return paired["variant"] + " - " + paired["reference"]


def _printed_differences(paper: pd.DataFrame, block: tables.Block) -> pd.DataFrame:
    """Columns label, k, value, spread, source, for the pairs of the block that the paper has numbers on."""
    scores = _printed_of(paper, block)
    gains = paper[(paper["metric"] == "top1_gain") & (paper["dataset"] == block.role)]
    found = []
    for label, row in zip(_labels(block.rows), block.rows.itertuples(), strict=True):
        stated = gains[(gains["method"] == row.variant) & (gains["note"] == f"over {row.reference}")]
        stated = stated.loc[stated["k"] == row.k, "value"]
        ours = scores.loc[(scores["method"] == row.variant) & (scores["k"] == row.k), "value"]
        theirs = scores.loc[(scores["method"] == row.reference) & scores["k"].isin([0, row.k]), "value"]
        if len(stated):
            found.append([label, row.k, stated.iloc[0], math.nan, "stated"])
        elif len(ours) and len(theirs):
            found.append([label, row.k, ours.iloc[0] - theirs.iloc[0], math.nan, "printed"])
    return pd.DataFrame(found, columns=["label", "k", "value", "spread", "source"])


def _competitors_over_k(ax: Axes, printed: pd.DataFrame) -> None:
    if printed.empty:
        return
    ends = {}
    for name, rows in printed.groupby("label"):
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
        ax.vlines(x, cells["low"], cells["high"], color=color, lw=4.5, alpha=0.35)
        ax.plot(x, cells["mean"], color=color, marker=marker, ls="", ms=6.5)
    if metric == "order":
        ax.set_ylim(-4, 104)
        ax.axhline(50, color="0.3", ls=":", lw=1, zorder=0)
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.grid(axis="y", color="0.9")


def _place(variant: str) -> int:
    """8 for «T=8»."""
    return int(variant.partition("=")[2])


def _ticks(ax: Axes, ticks: Iterable[int], name: str) -> None:
    ax.set_xticks(list(ticks), [str(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    ax.set_xlabel(name)
    ax.grid(axis="y", color="0.9")


def _log_axis(ax: Axes, ticks: Iterable[int], name: str) -> None:
    ax.set_xscale("log", base=2)
    _ticks(ax, ticks, name)


def _at_least(ax: Axes, points: float) -> None:
    """A y axis that spans a few points at least, so that a tenth of a point does not look like a
    difference."""
    low, high = ax.get_ylim()
    if high - low < points:
        ax.set_ylim((low + high - points) / 2, (low + high + points) / 2)


def _mark(color: str, marker: str, label: str, hollow: bool = False, line: str = "") -> Line2D:
    fill = "white" if hollow else color
    return Line2D([], [], color=color, marker=marker, ls=line, lw=1.2, mfc=fill, label=label)


def _bars(rows: pd.DataFrame, marks: bool = False) -> list[Line2D]:
    """Legend of the intervals that are there; marks: also of the means, where the y axis names their
    variants."""
    handles = [_mark("0.2", "o", "mean over runs")] * marks
    if rows["low"].notna().any():
        handles.append(Line2D([], [], color="0.2", lw=4.5, alpha=0.35, label="95 % over runs"))
    if rows["video_low"].notna().any():
        handles.append(Line2D([], [], color="0.2", lw=1.1, label="95 % over test videos"))
    return handles


def _hollow(paper: pd.DataFrame, blocks: list[tables.Block]) -> list[Line2D]:
    """Legend of the printed values that are there."""
    shown = pd.concat([_printed_of(paper, block) for block in blocks])
    competitors = shown["source"] == tables.COMPETITOR
    spread = " (± as printed)" if shown["spread"].notna().any() else ""
    handles = []
    if (~competitors).any():
        handles.append(_mark("0.2", "o", tables.origin(paper) + spread, hollow=True))
    if competitors.any():
        handles.append(
            _mark(GREY, "o", "printed competitor", hollow=True, line=":" if len(set(shown["k"])) > 1 else "")
        )
    return handles


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


def _notes(rows: pd.DataFrame, caption: str) -> list[str]:
    return [tables.DEMO_NOTE] * tables.is_demo(rows) + [caption] * bool(caption)


def _finish(fig: Figure, handles: list[Line2D], notes: list[str]) -> None:
    widths = [0.6 + 0.08 * len(handle.get_label()) for handle in handles]  # inches, at 10 points
    most = len(handles) if sum(widths) < fig.get_figwidth() else int(fig.get_figwidth() / max(widths))
    columns = math.ceil(len(handles) / math.ceil(len(handles) / most))
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    if notes:
        fig.suptitle("\n".join(notes), fontsize=10, x=0.01, ha="left", color="0.25")
    # Lay out once; otherwise every file written from the figure does it again, which is most of the time.
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
