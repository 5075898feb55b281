"""Tables: our runs beside the printed numbers, as fixed-width text."""

from __future__ import annotations

import itertools
import math

import pandas as pd

from flowclip_core import paths
from flowclip_core.demo import world
from flowclip_core.errors import InputError
from flowclip_core.experiments.tidy import numbers, read_csv

PAPER = "table method source mmb map mcb dataset k metric value spread".split()
VARIANTS = ["clip", "baseline", "mcb", "mmb", "mmb+map", "full"]
CONTROLS = {
    "": "in order",
    "_shuffled": "shuffled",
    "_reversed": "reversed",
    "_repeated": "one frame repeated",
}
PARTS = {"top1_pairs": "pairs", "top1_rest": "rest", "order": "order"}
WIDTH = 100  # characters of a text table's line that a notebook shows without wrapping
DEMO_NOTE = "demo world, not evidence about the paper's data"


def load_paper(table: str) -> pd.DataFrame:
    """The printed numbers of one table, tidy: method is a variant's name or that of a printed competitor.

    value and spread are percent as printed (spread nan where none is). Raises InputError when absent.
    """
    path = paths.root() / "results" / "paper" / f"{table}.csv"
    frame = read_csv(path, PAPER, "part of the checkout")
    for name in ("k", "value"):
        frame[name] = numbers(frame, name, path)
    return frame.assign(k=frame["k"].astype(int), spread=pd.to_numeric(frame["spread"]))


def is_demo(summary: pd.DataFrame) -> bool:
    """Whether these results come from the demo world, so that printed numbers concern other data."""
    return bool(summary["dataset"].isin(world.NAMES).any())


def variants(summary: pd.DataFrame) -> list[str]:
    """The variants present, in the paper's order. Raises InputError on a name the paper does not have."""
    present = set(summary["variant"])
    if present - set(VARIANTS):
        unknown = ", ".join(sorted(present - set(VARIANTS)))
        raise InputError(f"unknown variant {unknown} in the results; expected {', '.join(VARIANTS)}")
    return [name for name in VARIANTS if name in present]


def order_blind_cap(pair_classes: int, classes: int) -> float:
    """Best top-1 accuracy in percent of a model that is perfect but for the direction of time.

    Between two classes that are each other's reversal it must guess, so it loses half of the pairs' share.
    """
    return 100 * (1 - pair_classes / classes / 2)


def caption(summary: pd.DataFrame, pair_share: dict[str, tuple[int, int]] | None = None, note: str = "") -> str:
    """What must be read with the numbers: data, what helps the method by construction, what ± means.

    pair_share: data set -> (classes in time-reversed pairs, all classes); needed for the demo world, where
    the share is chosen by its makers. Raises ValueError when it is missing there. note: a line on the model,
    from `experiments.model_note`.
    """
    lines = [note] if note else []
    if is_demo(summary):
        datasets = list(summary["dataset"].unique())
        if missing := [name for name in datasets if name not in (pair_share or {})]:
            raise ValueError(f"demo results need pair_share (pair classes, classes) for {', '.join(missing)}")
        lines.append(DEMO_NOTE)
        for name in datasets:
            paired, classes = pair_share[name]
            share, cap = 100 * paired / classes, order_blind_cap(paired, classes)
            lines += [
                f"{name}: {paired} of {classes} classes ({share:.1f} %) differ from another only by the",
                "  direction of time, which helps the method by construction;",
                f"  a model blind to order but otherwise perfect reaches {cap:.1f} %",
            ]
    lines.append("measured: mean over n runs ± half the 95 % Student t interval over runs (none for one run);")
    lines.append("  all runs share one set of test videos, whose own spread is not in it")
    if (summary["metric"] == "order").any():
        lines.append("pairs, rest: top-1 of the classes with and without a time-reversed twin")
        lines.append("order: share of pair videos whose true name scores above its reverse (chance 50)")
    return "\n".join(lines)


def table5(summary: pd.DataFrame, pair_share: dict[str, tuple[int, int]] | None = None, note: str = "") -> pd.DataFrame:
    """Table 5 for display: rows (data set, variant); columns measured top-1 by k, printed, pairs/rest/order.

    Cells are text such as «62.5 ± 2.1»; the data set's label names n; attrs["caption"] holds `caption(...)`.
    The row «clip» is zero-shot, under k=0. In the demo the printed columns are marked as other data.
    """
    blocks = {}
    printed_name = "printed, other data" if is_demo(summary) else "printed"
    for _, rows in summary.groupby("dataset"):
        trained = rows[rows["metric"] == "top1"]
        ks, largest = sorted(trained["k"].unique()), trained["k"].max()
        lines = {}
        for variant in variants(rows):
            ours = rows[rows["variant"] == variant]
            zero_shot = variant == "clip"
            prefix, at = ("zero_shot_", 0) if zero_shot else ("", largest)
            measured = {f"k={k}": _cell(ours, "top1", k) for k in ks}
            if (rows["variant"] == "clip").any():
                measured = {"k=0": _cell(ours, "zero_shot_top1", 0)} | measured
            line = {("measured top-1", k): cell for k, cell in measured.items()}
            line |= {(printed_name, f"k={k}"): _cell(ours, "top1", k, printed=True) for k in ks}
            if (rows["metric"] == "order").any():
                group = f"measured, k={largest}" + (" (clip: k=0)" if "k=0" in measured else "")
                line |= {(group, name): _cell(ours, prefix + metric, at) for metric, name in PARTS.items()}
            lines[variant] = line
        blocks[_block_name(rows, trained)] = pd.DataFrame(lines).T
    frame = pd.concat(blocks, names=["data set", "variant"]).fillna("")
    frame = frame.loc[:, (frame != "").any()]
    frame.attrs["caption"] = caption(summary, pair_share, note)
    return frame


def controls(summary: pd.DataFrame) -> pd.DataFrame:
    """Controls for display: what is left when test frames are shuffled, reversed, or one is repeated.

    Rows (data set, variant); columns the four orders of frames; cells «top-1 | order» at the largest k.
    """
    blocks = {}
    for dataset, rows in summary.groupby("dataset"):
        trained = rows[rows["metric"] == "top1"]
        largest = trained["k"].max()
        lines = {}
        for variant in variants(trained):
            ours = rows[rows["variant"] == variant]
            cells = {
                name: [_cell(ours, metric + suffix, largest, spread=False) for metric in ("top1", "order")]
                for suffix, name in CONTROLS.items()
            }
            lines[variant] = {name: " | ".join(cell for cell in pair if cell) for name, pair in cells.items()}
        blocks[f"{dataset}, k={largest}, {_runs(trained[trained['k'] == largest])}"] = pd.DataFrame(lines).T
    frame = pd.concat(blocks, names=["data set", "variant"])
    if (summary["metric"] == "top1_shuffled").any():
        frame.attrs["caption"] = "frames changed at test only; top-1 | order, means over runs, percent"
    else:
        frame.attrs["caption"] = "this profile runs no controls; top-1, means over runs, percent"
    return frame.loc[:, (frame != "").any()]


def text_table(frame: pd.DataFrame) -> str:
    """A frame of text cells as fixed-width text: caption, then one block of rows per first index level.

    A group of columns (first column level) that would make lines wrap in a notebook goes below the others.
    Unlike a DataFrame's own repr this does not change with the pandas version, so a notebook's output can be
    checked.
    """
    blocks = [frame.attrs["caption"]] if frame.attrs.get("caption") else []
    if frame.index.nlevels == 1:
        blocks.append(_folded(frame))
    else:
        for name in frame.index.get_level_values(0).unique():
            rows = frame.loc[name]
            blocks.append(f"{name}\n{_folded(rows.loc[:, (rows != '').any()])}")
    return "\n\n".join(blocks) + "\n"


def differences(paired: pd.DataFrame) -> pd.DataFrame:
    """Paired differences for display: rows (data set, difference), columns k; cells «+13.5 ± 2.0, 3/3».

    paired: rows of `stats.paired_difference`, of several differences if wished. A cell's last part counts
    the runs in which the difference is positive.
    """
    lines = {}
    for row in paired.itertuples():
        label = (f"{row.dataset}", f"{row.variant} - {row.reference}")
        half = "" if math.isnan(row.low) else f" ± {(row.high - row.low) / 2:.1f}"
        lines.setdefault(label, {})[f"k={row.k}"] = f"{row.mean:+.1f}{half}, {row.wins}/{row.n}"
    index = pd.MultiIndex.from_tuples(lines, names=["data set", "difference"])
    frame = pd.DataFrame(list(lines.values()), index=index)
    frame.attrs["caption"] = "points, paired by run ± half the 95 % t interval, runs with gain / runs"
    return frame.fillna("").sort_index(level=0, sort_remaining=False)


def _cell(rows: pd.DataFrame, metric: str, k: int, printed: bool = False, spread: bool = True) -> str:
    found = rows[(rows["metric"] == metric) & (rows["k"] == k)]
    if found.empty:
        return ""
    row = found.iloc[0]
    if printed:
        return "" if math.isnan(row["paper"]) else f"{row['paper']:.1f}"
    half = (row["high"] - row["low"]) / 2
    return f"{row['mean']:.1f}" + (f" ± {half:.1f}" if spread and not math.isnan(half) else "")


def _runs(rows: pd.DataFrame) -> str:
    low, high = rows["n"].min(), rows["n"].max()
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def _block_name(rows: pd.DataFrame, trained: pd.DataFrame) -> str:
    role, dataset = rows["role"].iloc[0], rows["dataset"].iloc[0]
    return f"{dataset}, {_runs(trained)}" + (f"; printed: {role}" if trained["paper"].notna().any() else "")


def _folded(frame: pd.DataFrame) -> str:
    groups = [name[0] if isinstance(name, tuple) else "" for name in frame.columns]
    parts: list[list[int]] = [[]]
    for _, members in itertools.groupby(range(len(groups)), key=groups.__getitem__):
        group = list(members)
        wider = parts[-1] + group
        if parts[-1] and max(map(len, _block(frame.iloc[:, wider]).splitlines())) > WIDTH:
            parts.append(group)
        else:
            parts[-1] = wider
    return "\n\n".join(_block(frame.iloc[:, part]) for part in parts)


def _block(frame: pd.DataFrame) -> str:
    """Left-aligned columns; with two levels of them, a line above the header names each group."""
    heads = [name if isinstance(name, tuple) else ("", name) for name in frame.columns]
    columns = [[head[1], *frame.iloc[:, i]] for i, head in enumerate(heads)]
    columns = [[frame.index.names[-1] or "", *frame.index], *columns]
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    above, end = " " * widths[0], 0
    for group, members in itertools.groupby(head[0] for head in heads):
        start, end = end, end + len(list(members))
        room = sum(widths[1 + start : 1 + end]) + 2 * (end - start - 1)
        widths[end] += max(0, len(group) - room)  # a long group name widens its last column
        above += "  " + group.ljust(room)
    lines = []
    for row in zip(*columns, strict=True):
        cells = (str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    head = [*([above.rstrip()] if above.strip() else []), lines[0]]
    rule = "-" * max(map(len, [*head, *lines]))
    return "\n".join([*head, rule, *lines[1:]])
