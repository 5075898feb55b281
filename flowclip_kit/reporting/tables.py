"""Tables: our runs beside the printed numbers, as fixed-width text."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit import paths
from flowclip_kit.demo import world
from flowclip_kit.experiments.catalogue import INITIALISATIONS, READINGS
from flowclip_kit.experiments.results_table import numbers, read_csv
from flowclip_kit.profiles import DEMO_ROLES

PAPER = "table method source mmb map mcb trained_on dataset k metric value spread note".split()
COMPETITOR = "printed competitor"  # the source of rows that are not the authors' own
ROLES = ["HMDB-51", "UCF-101", "Kinetics-400"]
# Rows of each target, top to bottom.
VARIANTS: dict[str, tuple[str, ...]] = {
    "table1": ("clip A", "clip B", "clip C", "mmb+map H=3", "mmb+map H=4", "mmb+map H=5"),
    "table2": INITIALISATIONS,
    "table4": ("baseline", "mcb", "mmb", "mmb+map", "full"),
    "table5": ("clip", "baseline", "mcb", "mmb", "mmb+map", "full"),
    "table6": ("clip", "full"),
    "table7": ("clip", "baseline", "full"),
    "table8": ("full",),
    "figure3a": ("clip", "baseline", "mmb", "mmb+map H=3", "full H=3"),
    "figure3b": ("T=4", "T=8", "T=16", "T=32"),
    "figure3c": ("H=3", "H=4", "H=5"),
    "figure3d": ("s=1", "s=2", "s=3", "s=4", "s=5"),
    "readings": tuple(READINGS),
}
CONTROLS = {
    "": "in order",
    "_shuffled": "shuffled",
    "_reversed": "reversed",
    "_repeated": "one frame repeated",
}
SCORES = {"top1": "top-1", "top5": "top-5"}
PARTS = {"top1_pairs": "pairs", "top1_rest": "rest", "order": "order"}
HALVES = "half of the classes"
VIDEOS = "test videos"
WIDTH = 100  # characters of a text table's line that a notebook shows without wrapping
DEMO_NOTE = "demo world, not evidence about the paper's data"


@dataclass(frozen=True)
class Block:
    """What stands together in a table or a panel: models trained on one data set and tested on one, and CLIP.

    role and trained_on are the paper's data sets; rows come from a summary or from paired differences.
    """

    dataset: str
    role: str
    trained_on: str
    rows: pd.DataFrame

    @property
    def trained(self) -> pd.DataFrame:
        """The top-1 rows whose n counts runs; CLIP without training has one run. All rows where there is no
        other."""
        rows = self.rows[self.rows["metric"] == "top1"]
        trained = rows[~rows["variant"].str.startswith("clip")]
        return trained if len(trained) else rows

    @property
    def source(self) -> str:
        """«trained on ...» where that is another data set than the one tested on, else empty."""
        if self.trained_on in ("", self.role, self.dataset):
            return ""
        return f"trained on {DEMO_ROLES[self.trained_on] if self.dataset in world.NAMES else self.trained_on}"

    def title(self, with_k: bool = True) -> str:
        """Such as «figures-k, k = 5, n = 3» or «figures-h, n = 3, 3 splits»."""
        rows = self.trained
        counts = [_range("k", rows["k"])] if with_k and rows["k"].max() > 0 else []
        counts.append(_range("n", rows["n"]))
        if "splits" in rows and rows["splits"].max() > 1:
            counts.append(f"{rows['splits'].max()} splits")
        return ", ".join([self.dataset, *counts])


def blocks(rows: pd.DataFrame) -> list[Block]:
    """The blocks of a summary, or of paired differences, in the order of the paper's data sets.

    Rows without training (trained_on empty) stand in each block of their data set.
    """
    sets = rows[["dataset", "role"]].drop_duplicates().itertuples(index=False)
    found = []
    for dataset, role in sorted(
        sets, key=lambda one: (ROLES.index(one[1]) if one[1] in ROLES else 9, one[0])
    ):
        own = rows[rows["dataset"] == dataset]
        for source in sorted(set(own["trained_on"]) - {""}) or [""]:
            found.append(Block(dataset, role, source, own[own["trained_on"].isin(["", source])]))
    return found


def load_paper(target: str) -> pd.DataFrame:
    """The printed numbers of a table or panel, columns `PAPER`: method is a variant's name or a printed
    competitor.

    k: whole number; value and spread: as printed (spread nan where none is); the other columns are text. The
    panels of Figure 3 share figure3.csv. «readings» are not in the paper: no rows.
    Raises InputError when the file is absent, broken, or holds nothing of this table.
    """
    if target == "readings":
        return pd.DataFrame({name: pd.Series(dtype=str) for name in PAPER}).astype(
            {"k": int, "value": float, "spread": float}
        )
    file = "figure3" if target.startswith("figure3") else target
    path = paths.root() / "results" / "paper" / f"{file}.csv"
    frame = read_csv(path, PAPER, "part of the checkout")
    for name in ("k", "value"):
        frame[name] = numbers(frame, name, path)
    spread = numbers(frame[frame["spread"] != ""], "spread", path).reindex(frame.index).astype(float)
    frame = frame.assign(k=frame["k"].astype(int), spread=spread)
    frame = frame[frame["table"] == target].reset_index(drop=True)
    if frame.empty:
        raise InputError(f"{path}: no row has table {target}; take the file from the checkout again")
    return frame


def origin(paper: pd.DataFrame) -> str:
    """«printed», or «derived» where the scores only follow from printed ones by arithmetic (Figure 3)."""
    sources = set(paper.loc[paper["metric"].isin(SCORES), "source"])
    return "derived" if sources == {"derived"} else "printed"


def is_demo(rows: pd.DataFrame) -> bool:
    """Whether these results come from the demo world, so that printed numbers concern other data."""
    return bool(rows["dataset"].isin(world.NAMES).any())


def variants(summary: pd.DataFrame) -> list[str]:
    """The variants of a target's summary, top to bottom. Raises InputError on a name the target does not
    have."""
    target, present = summary["target"].iloc[0], set(summary["variant"])
    known = VARIANTS.get(target, ())
    if unknown := sorted(present - set(known)):
        expected = ", ".join(known) or "none"
        raise InputError(
            f"unknown variant {', '.join(unknown)} in the results of {target}; expected {expected}"
        )
    return [name for name in known if name in present]


def order_blind_cap(pair_classes: int, classes: int) -> float:
    """Best top-1 accuracy in percent of a model that is perfect but for the direction of time.

    Between two classes that are each other's reversal it must guess, so it loses half of the pairs' share.
    """
    return 100 * (1 - pair_classes / classes / 2)


def caption(
    summary: pd.DataFrame, pair_share: dict[str, tuple[int, int]] | None = None, note: str = ""
) -> str:
    """What must be read with the numbers: data, what helps the method by construction, what each ± means.

    pair_share: data set -> (classes in time-reversed pairs, all classes); needed for the demo world, where
    the share is chosen by its makers. Raises ValueError when it is missing there. note: a line on the model,
    from `experiments.model_note`.
    """
    lines = [note] if note else []
    metrics, found = set(summary["metric"]), blocks(summary)
    if is_demo(summary):
        datasets = list(dict.fromkeys(block.dataset for block in found))
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
    runs = " and ".join(dict.fromkeys(_range("n", block.trained["n"]) for block in found))
    lines.append(
        f"measured: mean over runs ({runs}) ± half the 95 % Student t interval over them (none for one)"
    )
    if summary["variant"].str.startswith("clip").any():
        lines.append("  clip: CLIP as it is; nothing is trained, so there is no spread over runs")
    if summary["video_low"].notna().any():
        lines.append(
            f"{VIDEOS}: ± half the 95 % bootstrap interval of top-1 over the videos that all runs share;"
        )
        lines.append("  another spread than that over runs, so it stands apart")
    else:
        lines.append("  all runs share one set of test videos, whose own spread is not in it")
    if summary["splits"].max() > 1 and summary["video_low"].notna().any():
        lines.append(
            "  the splits' test lists share videos, here taken as separate: this interval is too narrow"
        )
    if summary["splits"].max() > 1:
        lines.append("splits: runs are averaged over the splits first; sd between the splits of a run")
    if "top1_half" in metrics:
        lines.append(f"{HALVES}: mean ± sd over draws of them, each with its own videos and names only")
    if "order" in metrics:
        lines.append("pairs, rest: top-1 of the classes with and without a time-reversed twin")
        lines.append("order: share of pair videos whose true name scores above its reverse (chance 50)")
    return "\n".join(lines)


def measured(
    target: str, summary: pd.DataFrame, pair_share: dict[str, tuple[int, int]] | None = None, note: str = ""
) -> pd.DataFrame:
    """A target for display: rows (block, variant), cells text such as «62.5 ± 2.1», caption in
    attrs["caption"].

    A block is one data set, for zero-shot one pair of them; its name gives n. Groups of columns, as far as
    there is
    something in them: measured, the half width of top-1's interval over test videos, printed or derived with
    its spread, parts of the demo's top-1, sd between splits, the protocol with half of the classes. In the
    demo printed columns are marked as other data. `table5` has columns by k instead. Arguments as for
    `caption`.
    """
    if target == "table5":
        return table5(summary, pair_share, note)
    paper = load_paper(target)
    key = ["method", "dataset", "trained_on", "k", "metric"]
    spreads = paper[paper["source"] != COMPETITOR].set_index(key)["spread"].to_dict()
    printed = origin(paper)
    group = printed + (", other data" if is_demo(summary) else "")
    frames = {}
    for block in blocks(summary):
        lines = {}
        for variant in variants(block.rows):
            ours = block.rows[block.rows["variant"] == variant]
            line = {("measured", name): _cell(ours, metric) for metric, name in SCORES.items()}
            line[VIDEOS, "top-1 ±"] = _half(ours, "top1", "video_")
            line |= {(group, name): _printed(ours, metric, spreads) for metric, name in SCORES.items()}
            line |= {("parts", name): _cell(ours, metric) for metric, name in PARTS.items()}
            line["splits", "sd"] = _number(ours, "top1", "split_sd")
            halves = _number(ours, "top1_half", "mean"), _number(ours, "half_sd", "mean")
            line[HALVES, "top-1 ± sd"] = " ± ".join(cell for cell in halves if cell)
            lines[variant] = line
        frames[_block_name(block, printed)] = pd.DataFrame(lines).T
    said = caption(summary, pair_share, note)
    if printed == "derived":
        said += "\nderived: follows from the printed tables by arithmetic, see results/paper/figure3.csv"
    return _joined(frames, said)


def table5(
    summary: pd.DataFrame, pair_share: dict[str, tuple[int, int]] | None = None, note: str = ""
) -> pd.DataFrame:
    """Table 5 for display: rows (data set, variant); columns top-1 by k, its spread over test videos,
    printed, parts.

    Cells are text such as «62.5 ± 2.1»; the data set's label names n; attrs["caption"] holds `caption(...)`.
    The row «clip» is untrained, under k=0. In the demo the printed columns are marked as other data.
    """
    frames = {}
    printed_name = "printed, other data" if is_demo(summary) else "printed"
    for block in blocks(summary):
        rows = block.rows
        ks = sorted(rows.loc[rows["metric"] == "top1", "k"].unique())
        largest = ks[-1]
        lines = {}
        for variant in variants(rows):
            ours = rows[rows["variant"] == variant]
            at = 0 if variant == "clip" else largest
            line = {("measured top-1", f"k={k}"): _cell(ours, "top1", k) for k in ks}
            line |= {
                (f"{VIDEOS}, top-1 ±", f"k={k}"): _half(ours[ours["k"] == k], "top1", "video_") for k in ks
            }
            line |= {(printed_name, f"k={k}"): _number(ours[ours["k"] == k], "top1", "paper") for k in ks}
            group = f"measured, k={largest}" + (" (clip: k=0)" if 0 in ks else "")
            line |= {(group, name): _cell(ours, metric, at) for metric, name in PARTS.items()}
            lines[variant] = line
        frames[_block_name(block, "printed", with_k=False)] = pd.DataFrame(lines).T
    return _joined(frames, caption(summary, pair_share, note))


def controls(summary: pd.DataFrame) -> pd.DataFrame:
    """Controls for display: what is left when test frames are shuffled, reversed, or one is repeated.

    Rows (block, variant); columns the four orders of frames; cells «top-1 | order» at the largest k (CLIP:
    k=0).
    """
    frames = {}
    for block in blocks(summary):
        lines = {}
        for variant in variants(block.rows):
            ours = block.rows[block.rows["variant"] == variant]
            ours = ours[ours["k"] == ours["k"].max()]
            cells = {
                name: [_number(ours, metric + suffix, "mean") for metric in ("top1", "order")]
                for suffix, name in CONTROLS.items()
            }
            lines[variant] = {name: " | ".join(cell for cell in pair if cell) for name, pair in cells.items()}
        at = block.trained["k"].max()
        shown = Block(block.dataset, block.role, block.trained_on, block.rows[block.rows["k"].isin([0, at])])
        frames[_block_name(shown, "")] = pd.DataFrame(lines).T
    if (summary["metric"] == "top1_shuffled").any():
        said = "frames changed at test only; top-1 | order, means over runs, percent"
    else:
        said = "this profile runs no controls; top-1, means over runs, percent"
    return _joined(frames, said)


def differences(paired: pd.DataFrame) -> pd.DataFrame:
    """Paired differences for display: rows (data set, difference), a column for each k where there are
    several.

    Cells such as «+13.5 ± 2.0 (videos ± 4.1), 3/3»: points, half the interval over runs, half the one over
    test videos, runs with a gain / runs. paired: rows of `stats.paired_difference`, of several differences if
    wished.
    """
    lines = {}
    for block in blocks(paired):
        name = (f"{block.source}, tested on " if block.source else "") + block.dataset
        for row in block.rows.itertuples():
            metric = (
                ""
                if row.metric == "top1"
                else f", {SCORES.get(row.metric, PARTS.get(row.metric, row.metric))}"
            )
            label = (name, f"{row.variant} - {row.reference}{metric}")
            lines.setdefault(label, {})[f"k={row.k}" if row.k else "points"] = difference_text(row)
    index = pd.MultiIndex.from_tuples(lines, names=["data set", "difference"])
    frame = pd.DataFrame(list(lines.values()), index=index).fillna("")
    said = "points, paired by run ± half the 95 % t interval, runs with gain / runs"
    if paired["video_low"].notna().any():
        said += f"\n(videos ± half the 95 % bootstrap interval over {VIDEOS}, paired by video)"
    frame.attrs["caption"] = said
    return frame


def difference_text(row) -> str:
    """A row of `stats.paired_difference` as text, such as «+13.5 ± 2.0 (videos ± 4.1), 3/3»."""
    half = "" if math.isnan(row.low) else f" ± {(row.high - row.low) / 2:.1f}"
    videos = "" if math.isnan(row.video_low) else f" (videos ± {(row.video_high - row.video_low) / 2:.1f})"
    return f"{round(row.mean, 1) + 0.0:+.1f}{half}{videos}, {row.wins}/{row.n}"


def text_table(frame: pd.DataFrame) -> str:
    """A frame of text cells as fixed-width text: caption, then one block of rows per first index level.

    A group of columns (first column level, or each column where there is one level) that would make lines
    wrap in a notebook goes below the others. Unlike a DataFrame's own repr this does not change with the
    pandas version, so a notebook's output can be checked.
    """
    parts = [frame.attrs["caption"]] if frame.attrs.get("caption") else []
    if frame.index.nlevels == 1:
        parts.append(_folded(frame))
    else:
        for name in frame.index.get_level_values(0).unique():
            rows = frame.loc[name]
            parts.append(f"{name}\n{_folded(rows.loc[:, (rows != '').any()])}")
    return "\n\n".join(parts) + "\n"


def _joined(frames: dict[str, pd.DataFrame], said: str) -> pd.DataFrame:
    frame = pd.concat(frames, names=["data set", "variant"]).fillna("")
    frame = frame.loc[:, (frame != "").any()]
    frame.attrs["caption"] = said
    return frame


def _row(rows: pd.DataFrame, metric: str) -> pd.Series | None:
    found = rows[rows["metric"] == metric]
    if len(found) > 1:
        first = found.iloc[0]
        raise ValueError(
            f"{len(found)} rows of {metric} for {first['variant']} on {first['dataset']}; expected one k"
        )
    return None if found.empty else found.iloc[0]


def _cell(rows: pd.DataFrame, metric: str, k: int | None = None) -> str:
    """Mean ± half the interval over runs of the rows of one variant; empty where there are none."""
    rows = rows if k is None else rows[rows["k"] == k]
    return " ± ".join(part for part in (_number(rows, metric, "mean"), _half(rows, metric)) if part)


def _number(rows: pd.DataFrame, metric: str, column: str) -> str:
    row = _row(rows, metric)
    return "" if row is None or math.isnan(row[column]) else f"{row[column]:.1f}"


def _half(rows: pd.DataFrame, metric: str, kind: str = "") -> str:
    row = _row(rows, metric)
    if row is None or math.isnan(row[f"{kind}low"]):
        return ""
    return f"{(row[f'{kind}high'] - row[f'{kind}low']) / 2:.1f}"


def _printed(rows: pd.DataFrame, metric: str, spreads: dict[tuple, float]) -> str:
    value, row = _number(rows, metric, "paper"), _row(rows, metric)
    if not value:
        return ""
    spread = spreads.get((row["variant"], row["role"], row["trained_on"], row["k"], metric), math.nan)
    return value if math.isnan(spread) else f"{value} ± {spread:.1f}"


def _range(name: str, values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{name} = {low}" if low == high else f"{name} = {low} to {high}"


def _block_name(block: Block, printed: str, with_k: bool = True) -> str:
    said = f"{block.source}, tested on " if block.source else ""
    shown = printed and block.rows.loc[block.rows["metric"] == "top1", "paper"].notna().any()
    return said + block.title(with_k) + (f"; {printed}: {block.role}" if shown else "")


def _folded(frame: pd.DataFrame) -> str:
    groups = [name[0] if isinstance(name, tuple) else name for name in frame.columns]
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
