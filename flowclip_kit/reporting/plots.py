"""Figures from summary tables: marks differ by shape as well as colour, printed values are hollow.

A thick pale bar is the 95 % Student t interval over runs, a thin one the 95 % bootstrap interval over
test videos. In the demo world printed values have axes of their own, below, since they concern other data.
Any grid can be drawn: rows that are not in the paper, no printed counterpart, one data set or several.
seaborn draws on figures made without pyplot, so nothing global changes; the SVG of the same summary has the
same bytes.
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flowclip_core.errors import InputError
from flowclip_kit.reporting import tables
from flowclip_kit.reporting.plot_style import (
    CONTROL_STYLE,
    GREY,
    SETTINGS,
    SHOTS,
    STYLE,
    family_style,
    mark,
    unique_styles,
)

AXES = {
    "k": "k, training videos a class",
    "T": "T, frames of a video",
    "H": "H, prompt vectors",
    "s": "s, largest step between frames",
}
MANY = 8  # so many lines over k can be told apart; more are rows
LABEL = 28  # characters of a pair's label on the y axis that fit into one line
ACCURACY, DIFFERENCE = "top-1 accuracy, %", "difference of top-1, points"
MEASURED, PRINTED = "measured", "printed"
# A mark: in which axes it stands (block, panel), at which place, its value and intervals.
MARK = "block panel at value low high video_low video_high both_low both_high label face".split()
# Width and opacity of the bars of three intervals, and their columns.
BARS = (
    (9.0, 0.15, ("both_low", "both_high")),
    (4.5, 0.35, ("low", "high")),
    (1.1, 1.0, ("video_low", "video_high")),
)


def accuracy(summary: pd.DataFrame, paper: pd.DataFrame, caption: str = "") -> Figure:
    """Top-1 accuracy, a column of axes per block: over k, T, H or s where one varies, else a line a variant.

    paper: `tables.load_paper`; its values are hollow, with their printed ± as a bar, competitors grey.
    """
    axis, blocks = tables.axis_of(summary), tables.blocks(summary)
    names = tables.variants(summary)
    top1 = [block.rows[block.rows["metric"] == "top1"] if axis is None else block.trained for block in blocks]
    measured = [rows.assign(label=rows["variant"] if axis in (None, "k") else "full") for rows in top1]
    theirs = [_printed_of(paper, block) for block in blocks]
    printed = [rows.assign(label=rows["method"] if axis in (None, "k") else "full") for rows in theirs]
    rivals = list(dict.fromkeys(paper.loc[paper["source"] == tables.COMPETITOR, "method"]))
    known = [name for name in tables.VARIANTS.get(summary["target"].iloc[0], ()) if name not in rivals]
    beside = [name for name in [*rivals, *known] if any(name in set(rows["label"]) for rows in printed)]
    own = list(dict.fromkeys([*names, *(name for name in beside if name in known)]))
    styles = {name: family_style(name) for name in own} | dict.fromkeys(rivals, (GREY, "o"))
    if axis == "k":
        flat = {"clip", *summary.loc[summary["trained_on"] == "", "variant"]}
        styles = unique_styles([name for name in own if name not in flat])
    elif axis:
        styles = {"full": STYLE["full"]}
    lines = [names, beside]
    if axis == "k" and len(own) > MANY and not beside:
        return _by_rows(
            [rows.assign(label=rows["variant"]) for rows in _top1(blocks)], blocks, names, ACCURACY, caption
        )
    with mpl.rc_context(SETTINGS):
        fig, axes = _figure(blocks, measured, printed, axis, lines, styles, tables.origin(paper), ACCURACY)
        handles = [] if axis is None else [mark(*style, name, line="-") for name, style in styles.items()]
        if axis:
            handles += _untrained(summary, blocks, axes[0])
        if axis == "k":
            for ax, rows in zip(axes[-1], printed, strict=True):
                _competitors_over_k(ax, rows[rows["source"] == tables.COMPETITOR])
        handles += [*_bars(summary, marks=axis is None), *_hollow(pd.concat(printed), tables.origin(paper))]
        _finish(fig, handles, _notes(summary, caption))
    return fig


def _untrained(summary: pd.DataFrame, blocks: list[tables.Block], axes: Iterable[Axes]) -> list[Line2D]:
    """A level line for everything that is not trained, in the axes of its data set; their handles."""
    handles = {}
    rows = summary[(summary["trained_on"] == "") & (summary["metric"] == "top1")]
    for ax, block in zip(axes, blocks, strict=True):
        for row in rows[rows["dataset"] == block.dataset].itertuples():
            clip = row.variant.startswith("clip")
            look: dict[str, Any] = {
                "color": STYLE["clip"][0] if clip else GREY,
                "ls": "--" if clip else ":",
                "lw": 1.2,
            }
            ax.axhline(row.mean, **look, zorder=0)
            label = f"{'clip' if clip else row.variant}, untrained"
            handles[label] = Line2D([], [], **look, label=label)
    return [*handles.values()]


def differences(paired: pd.DataFrame, paper: pd.DataFrame, caption: str = "") -> Figure:
    """What a variant gains over another in points of top-1, with a line at 0: over k where it varies, else a
    line per pair.

    paired: rows of `stats.paired_difference`, metric top1. Palest bars: runs and test videos at once, which
    decides. Hollow: the difference that the paper states, or else that of its printed values.
    """
    paired = paired.assign(label=paired["variant"] + " - " + paired["reference"])
    paired = paired.rename(columns={"low": "both_low", "high": "both_high"})
    paired = paired.rename(columns={"run_low": "low", "run_high": "high"})
    axis, blocks = "k" if paired["k"].nunique() > 1 else None, tables.blocks(paired)
    printed = [_printed_differences(paper, block) for block in blocks]
    labels = list(dict.fromkeys(paired["label"]))
    stated = [label for label in labels if any(label in set(rows["label"]) for rows in printed)]
    styles = unique_styles(labels) if axis else {label: family_style(label) for label in labels}
    if axis and len(labels) > MANY and not stated:
        return _by_rows([block.rows for block in blocks], blocks, labels, DIFFERENCE, caption)
    with mpl.rc_context(SETTINGS):
        measured = [block.rows for block in blocks]
        fig, axes = _figure(blocks, measured, printed, axis, [labels, stated], styles, PRINTED, DIFFERENCE)
        for ax in axes.flat:
            (ax.axhline if axis else ax.axvline)(0, color="0.3", lw=1, zorder=0)
        handles = [mark(*style, label, line="-") for label, style in styles.items()] if axis else []
        handles += _bars(paired, marks=axis is None)
        handles += [mark("0.2", "o", "printed difference", hollow=True)] * bool(stated)
        _finish(fig, handles, _notes(paired, caption))
    return fig


def _top1(blocks: list[tables.Block]) -> list[pd.DataFrame]:
    return [block.rows[block.rows["metric"] == "top1"] for block in blocks]


def _by_rows(
    measured: list[pd.DataFrame], blocks: list[tables.Block], labels: list[str], what: str, caption: str
) -> Figure:
    """A line a label with a mark for each k, where lines over k would be too many to tell apart.

    measured: rows of each block with a label. A difference gets a line at 0.
    """
    every = pd.concat(measured)
    shots = sorted(set(every["k"]))
    names = {k: f"k = {k}" if k else "untrained" for k in shots}
    trained = [k for k in shots if k]
    styles = {names[k]: SHOTS[trained.index(k) % len(SHOTS)] if k else (GREY, "v") for k in shots}
    places = {k: 0.2 * (trained.index(k) - (len(trained) - 1) / 2) if k else 0.0 for k in shots}
    marks = [
        _marks(
            rows,
            number,
            MEASURED,
            rows["label"].map(labels.index) + rows["k"].map(places),
            rows["k"].map(names),
        )
        for number, rows in enumerate(measured)
    ]
    with mpl.rc_context(SETTINGS):
        height = 0.46 * len(labels) + 0.95
        fig, axes = _axes(
            pd.concat(marks, ignore_index=True),
            {MEASURED: dict(enumerate(labels))},
            styles,
            [height],
            len(blocks),
            across=True,
        )
        for ax, block in zip(axes[0], blocks, strict=True):
            ax.set_title(_heading(block, with_k=False), loc="left")
            ax.set_xlabel(what)
            if what == DIFFERENCE:
                ax.axvline(0, color="0.3", lw=1, zorder=0)
        handles = [mark(*style, name) for name, style in styles.items()]
        _finish(fig, handles + _bars(every), _notes(every, caption))
    return fig


def controls(summary: pd.DataFrame, caption: str = "") -> Figure:
    """What each variant keeps when the frames of test videos are shuffled, reversed, or one is repeated.

    One column of axes per block: top-1 accuracy above and, where there are time-reversed pairs, their order
    below (chance 50). Largest k, CLIP untrained. Raises InputError without controls.
    """
    metrics = [name for name in ("top1", "order") if (summary["metric"] == name + "_shuffled").any()]
    if not metrics:
        raise InputError("the results hold no controls (metrics top1_shuffled, ...); nothing to draw")
    blocks = [block.at_most_shots() for block in tables.blocks(summary)]
    names = tables.variants(summary[summary["metric"] == metrics[0] + "_shuffled"])
    marks = []
    for (number, block), metric, (place, suffix) in itertools.product(
        enumerate(blocks), metrics, enumerate(tables.CONTROLS)
    ):
        rows = block.rows[(block.rows["metric"] == metric + suffix) & block.rows["variant"].isin(names)]
        at = rows["variant"].map(names.index) + 0.16 * (place - 1.5)  # of a row or a column
        marks.append(_marks(rows.assign(video_low=math.nan), number, metric, at, tables.CONTROLS[suffix]))
    styles = {name: CONTROL_STYLE[suffix] for suffix, name in tables.CONTROLS.items()}
    ticks: dict[str, dict[float, str]] = {metric: dict(enumerate(names)) for metric in metrics}
    with mpl.rc_context(SETTINGS):
        many = len(names) > MANY  # their names need lines of their own
        heights = [0.4 * len(names) + 0.95 if many else 2.9] * len(metrics)
        fig, axes = _axes(
            pd.concat(marks, ignore_index=True), ticks, styles, heights, len(blocks), across=many
        )
        for ax, block in zip(axes[0], blocks, strict=True):
            ax.set_title(_heading(block), loc="left")
        for row, metric in zip(axes, metrics, strict=True):
            what = {"top1": ACCURACY, "order": "true order preferred, %"}[metric]
            for ax in row if many else row[:1]:
                (ax.set_xlabel if many else ax.set_ylabel)(what)
                ax.xaxis.label.set_visible(True)  # of inner axes seaborn hides it
            if metric == "order":
                for ax in row:
                    (ax.set_xlim if many else ax.set_ylim)(-4, 104)
                    (ax.axvline if many else ax.axhline)(50, color="0.3", ls=":", lw=1, zorder=0)
        handles = [mark(*style, name) for name, style in styles.items()]
        if "order" in metrics:
            handles.append(Line2D([], [], color="0.3", ls=":", lw=1, label="order at chance"))
        _finish(fig, handles + _bars(summary.assign(video_low=math.nan)), _notes(summary, caption))
    return fig


def figures(
    target: str, summary: pd.DataFrame, paper: pd.DataFrame, paired: pd.DataFrame | None = None
) -> dict[str, Figure]:
    """The figures of a target by file name: <target>, <target>_controls where there are controls,
    <target>_differences.

    paper: from `tables.load_paper`. paired: rows of `stats.paired_difference` for the pairs to show, or None.
    """
    drawn = {target: accuracy(summary, paper)}
    if (summary["metric"] == "top1_shuffled").any():
        drawn[f"{target}_controls"] = controls(summary)
    if paired is not None and (paired["metric"] == "top1").any():
        drawn[f"{target}_differences"] = differences(paired[paired["metric"] == "top1"], paper)
    return drawn


def files(
    drawn: dict[str, Figure], folder: Path, kinds: tuple[str, ...] = ("svg", "png")
) -> dict[Path, bytes]:
    """The files of figures, folder/figures/<name>.<kind>, and what is to be in them: see `encoded`."""
    where = Path(folder) / "figures"
    return {
        where / f"{name}.{kind}": encoded(figure, kind) for name, figure in drawn.items() for kind in kinds
    }


def encoded(figure: Figure, kind: str, dpi: int = 120) -> bytes:
    """A figure as svg or png.

    The SVG carries no date and a fixed salt: the same summary gives the same bytes under the same matplotlib.
    """
    buffer = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _figure(
    blocks: list[tables.Block], measured: list[pd.DataFrame], printed: list[pd.DataFrame], axis: str | None,
    lines: list[list[str]], styles: dict[str, tuple[str, str]], origin: str, what: str,
) -> tuple[Figure, np.ndarray]:  # fmt: skip
    """One column of axes per block; in the demo a second row of axes for what is printed.

    measured, printed: rows of each block with a label, printed ones with value, spread, k and source. lines:
    labels of what is measured and of what is printed, top to bottom, where there is no axis.
    """
    apart = any(tables.is_demo(rows) for rows in measured) and any(map(len, printed))
    panels = [MEASURED, PRINTED] if apart else [MEASURED]
    alone = [name for name in lines[1] if name not in lines[0]]
    at_line = {MEASURED: lines[0] if apart else alone + lines[0], PRINTED: lines[1]}
    marks, values = [], set()
    for number, (rows, theirs) in enumerate(zip(measured, printed, strict=True)):
        if axis == "k":
            theirs = theirs[theirs["source"] != tables.COMPETITOR]
        theirs = theirs.assign(
            variant=theirs.get("method"), mean=theirs["value"], video_low=math.nan, video_high=math.nan
        )
        theirs = theirs.assign(
            low=theirs["value"] - theirs["spread"], high=theirs["value"] + theirs["spread"]
        )
        for group, panel in ((rows, MEASURED), (theirs, panels[-1])):
            if group.empty:
                continue
            if axis is None:
                at = group["label"].map(lambda label, order=at_line[panel]: order.index(label)).astype(float)
                if group is theirs and not apart:
                    at += 0.27 * ~group["label"].isin(alone)
            else:
                at = _values(group, axis)
                values |= {*at}
                at = at.map(math.log2) if axis in "kT" else at.astype(float)
                labels = list(styles)
                places = {label: place - (len(labels) - 1) / 2 for place, label in enumerate(labels)}
                side = group["label"].map(places)
                at += 0.07 * side + (0.04 if group is theirs and not apart else 0)
            marks.append(
                _marks(group, number, panel, at, group["label"], "hollow" if group is theirs else "filled")
            )
    frame = pd.concat(marks, ignore_index=True)
    ticks: dict[str, dict[float, str]]
    if axis is None:
        ticks = {panel: dict(enumerate(at_line[panel])) for panel in panels}
        line = (
            0.46 if any(len(name) > LABEL for name in lines[0]) else 0.31 if apart or not lines[1] else 0.38
        )
        heights = [line * len(at_line[panel]) + 0.95 for panel in panels]
    else:
        scale = math.log2 if axis in "kT" else float
        ticks = {panel: {scale(value): str(value) for value in sorted(values)} for panel in panels}
        heights = [3.4, 2.4] if apart else [3.8]
    fig, axes = _axes(frame, ticks, styles, heights, len(blocks), lines=axis is not None, across=axis is None)
    for number, (column, block) in enumerate(zip(axes.T, blocks, strict=True)):
        column[0].set_title(_heading(block, axis != "k"), loc="left")
        if apart:
            source = f"\ntrained on {block.trained_on}" * (bool(block.source) and not alone)
            column[1].set_title(f"{origin}, {block.role} (other data){source}", loc="left")
        for ax in column:
            if axis is None:
                ax.set_xlabel(what)
                continue
            ax.set_ylabel(what if number == 0 else "")
            ax.set_xlabel(AXES[axis])
            _at_least(ax, 6)
    if axis is None:
        for text in (text for row in axes for text in row[0].get_yticklabels()):
            text.set_color("0.4" if text.get_text() in alone else "black")
    return fig, axes


def _axes(
    marks: pd.DataFrame, ticks: dict[str, dict[float, str]], styles: dict[str, tuple[str, str]],
    heights: list[float], columns: int, lines: bool = False, across: bool = False,
) -> tuple[Figure, np.ndarray]:  # fmt: skip
    """Axes (panels, blocks) with marks and both intervals; lines join the filled ones.

    marks: columns `MARK`. ticks: panel -> place -> label. across: values run along x.
    """
    import seaborn.objects as so

    panels, at, value = list(ticks), *(("y", "x") if across else ("x", "y"))
    fig = Figure(figsize=(9.5, sum(heights) + 1.0), layout="constrained")
    plot = so.Plot(marks, **{at: "at", value: "value"}, color="label")
    plot = plot.facet("block", "panel", order={"col": list(range(columns)), "row": panels})
    for width, alpha, ends in BARS:
        known = marks.dropna(subset=list(ends))
        if len(known):
            spans = dict(zip((f"{value}min", f"{value}max"), ends, strict=True))
            plot = plot.add(
                so.Range(linewidth=width, alpha=alpha), data=known, orient=at, legend=False, **spans
            )
    if lines:
        joined = marks[marks["face"] == "filled"]
        plot = plot.add(so.Line(linewidth=1.4), data=joined, orient=at, legend=False)
    plot = plot.add(so.Dot(pointsize=7, stroke=1.3), marker="label", fill="face", legend=False)
    colours, shapes = ({name: style[i] for name, style in styles.items()} for i in (0, 1))
    plot = plot.scale(color=colours, marker=shapes, fill={"filled": True, "hollow": False})
    plot = plot.share(x="col", y="row" if across else False).label(x="", y="").theme(SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # seaborn's use of pandas
        plot.on(fig).plot()
    axes = np.array(fig.axes).reshape(len(panels), columns)
    axes[0, 0].get_gridspec().set_height_ratios(heights)
    for row, panel in zip(axes, panels, strict=True):
        for ax in row:
            ax.set_title("")
            ax.grid(axis="both" if across else "y", color="0.92")
            places, texts = list(ticks[panel]), list(ticks[panel].values())
            if across:
                ax.set_yticks(
                    places, [text.replace(" - ", "\n- ") if len(text) > LABEL else text for text in texts]
                )
                ax.set_ylim(max(places) + 0.6, -0.6)
                ax.tick_params(axis="y", length=0, labelleft=ax is row[0])
                ax.tick_params(axis="x", labelbottom=True)
            else:
                ax.set_xticks(places, texts)
                ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
                ax.set_xlim(min(places) - 0.5, max(places) + 0.5)
                ax.tick_params(axis="x", labelbottom=True)
    return fig, axes


def _marks(
    rows: pd.DataFrame, block: int, panel: str, at: pd.Series, label: pd.Series | str, face: str = "filled"
) -> pd.DataFrame:
    about = {"block": block, "panel": panel, "at": at, "value": rows["mean"], "label": label, "face": face}
    return rows.assign(**about).reindex(columns=MARK).astype(dict.fromkeys(MARK[2:10], float))


def _values(rows: pd.DataFrame, axis: str) -> pd.Series:
    """The number on the axis: k, or 8 for a variant 'T=8'."""
    return rows["k"] if axis == "k" else rows["variant"].str.partition("=")[2].astype(int)


def _heading(block: tables.Block, with_k: bool = True) -> str:
    """Data set and n, and what was trained on where that is another one."""
    return "\n".join([f"measured, {block.title(with_k)}", *([block.source] if block.source else [])])


def _printed_of(paper: pd.DataFrame, block: tables.Block) -> pd.DataFrame:
    same = (paper["dataset"] == block.role) & paper["trained_on"].isin(["", block.trained_on])
    return paper[same & (paper["metric"] == "top1")]


def _printed_differences(paper: pd.DataFrame, block: tables.Block) -> pd.DataFrame:
    """Columns label, k, value, spread, source, for the pairs of the block that the paper has numbers on."""
    scores = _printed_of(paper, block)
    gains = paper[(paper["metric"] == "top1_gain") & (paper["dataset"] == block.role)]
    found = []
    for row in block.rows.itertuples():
        label = f"{row.variant} - {row.reference}"
        stated = gains[(gains["method"] == row.variant) & (gains["note"] == f"over {row.reference}")]
        stated = stated.loc[stated["k"] == row.k, "value"]
        ours = scores.loc[(scores["method"] == row.variant) & (scores["k"] == row.k), "value"]
        theirs = scores.loc[(scores["method"] == row.reference) & scores["k"].isin([0, row.k]), "value"]
        if len(stated):
            found.append([label, row.k, stated.iloc[0], math.nan, "stated"])
        elif len(ours) and len(theirs):
            found.append([label, row.k, ours.iloc[0] - theirs.iloc[0], math.nan, "printed"])
    frame = pd.DataFrame(found, columns=["label", "k", "value", "spread", "source"])
    return frame.astype({"value": float, "spread": float})


def _competitors_over_k(ax: Axes, printed: pd.DataFrame) -> None:
    """Dotted lines over k with the methods' names at their ends."""
    if printed.empty:
        return
    ends = {}
    for name, rows in printed.groupby("label"):
        rows = rows.sort_values("k")
        ax.plot(
            np.log2(rows["k"]),
            rows["value"],
            color=GREY,
            marker="o",
            ls=":",
            ms=4,
            mfc="white",
            lw=0.8,
            zorder=1,
        )
        ends[name] = rows["value"].iloc[-1]
    lowest, highest = ax.get_ylim()
    heights = _spread(np.array([*ends.values()]), (highest - lowest) / 13)
    last = math.log2(printed["k"].max())
    for (name, value), height in zip(ends.items(), heights, strict=True):
        leader = {"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkB": 3}
        ax.annotate(name, (last, value), (last + 0.6, height), color="0.35", fontsize=8.5, va="center",
                    annotation_clip=False, arrowprops=leader)  # fmt: skip


def _at_least(ax: Axes, points: float) -> None:
    """A y axis that spans a few points at least, so that a tenth of a point does not look like a
    difference."""
    low, high = ax.get_ylim()
    if high - low < points:
        ax.set_ylim((low + high - points) / 2, (low + high + points) / 2)


def _bars(rows: pd.DataFrame, marks: bool = False) -> list[Line2D]:
    """Legend of the intervals that are there; marks: also of the means, where the y axis names their
    variants."""
    handles = [mark("0.2", "o", "mean over runs")] * marks
    for (width, alpha, (low, _)), over in zip(BARS, ("both", "runs", "test videos"), strict=True):
        if low in rows and rows[low].notna().any():
            handles.append(Line2D([], [], color="0.2", lw=width, alpha=alpha, label=f"95 % over {over}"))
    return handles


def _hollow(shown: pd.DataFrame, origin: str) -> list[Line2D]:
    """Legend of the printed values that are there."""
    competitors = shown["source"] == tables.COMPETITOR
    spread = " (± as printed)" if shown["spread"].notna().any() else ""
    handles = []
    if (~competitors).any():
        handles.append(mark("0.2", "o", origin + spread, hollow=True))
    if competitors.any():
        over_k = ":" if shown["k"].nunique() > 1 else ""
        handles.append(mark(GREY, "o", "printed competitor", hollow=True, line=over_k))
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


def _finish(fig: Figure, handles: list[Line2D], notes: Iterable[str]) -> None:
    widths = [0.6 + 0.08 * len(str(handle.get_label())) for handle in handles]  # inches, at 10 points
    most = len(handles) if sum(widths) < fig.get_figwidth() else int(fig.get_figwidth() / max(widths))
    columns = math.ceil(len(handles) / math.ceil(len(handles) / most))
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    if notes:
        fig.suptitle("\n".join(notes), fontsize=10, x=0.01, ha="left", color="0.25")
    # Lay out once; otherwise every file written from the figure does it again, which is most of the time.
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
