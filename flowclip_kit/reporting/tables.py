"""Tables: our runs beside the printed numbers, their differences and their controls."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit import paths
from flowclip_kit.demo import world
from flowclip_kit.experiments.catalogue import INITIALISATIONS, OURS, READINGS
from flowclip_kit.experiments.results_table import numbers, read_csv
from flowclip_kit.profiles import DEMO_ROLES
from flowclip_kit.reporting import stats
from flowclip_kit.reporting.rendering import GAIN, LOSS, OPEN, WIDTH, Table, text_table
from flowclip_kit.rivals import METHODS

__all__ = ["WIDTH", "Table", "text_table"]

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
    "rivals": (*OURS, *METHODS),
    "ablation": ("clip", "baseline", "mcb", "mmb", "mmb+map", "full"),
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
RUN_HERE = "run by the kit, equal conditions"
DEMO_NOTE = "demo world, not evidence about the paper's data"
READ = "Mean ± half the 95 % interval over runs; below it, over test videos. Bold: highest in its column."
READ_PRINTED = " [Printed value{}.]"
READ_DIFFERENCES = (
    "Points of top-1, paired by run, ± half the 95 % interval over runs and test videos at once; below it,"
    " over either alone, and runs with a gain. Green and orange: established, p at most 5 % after Benjamini"
    " and Hochberg among all that is shown."
)

# A cell: where it stands as text (block, row, group, name), and on a page (panel, place; no panel: text
# alone). best: what makes the highest cell of a column bold.
CELL = "block row group name text panel place shown best css".split()


@dataclass(frozen=True)
class Block:
    """What stands together in a table or a panel: models of one training and one test set, and CLIP.

    role and trained_on are the paper's data sets; rows come from a summary or from paired differences.
    """

    dataset: str
    role: str
    trained_on: str
    rows: pd.DataFrame

    @property
    def trained(self) -> pd.DataFrame:
        """The top-1 rows whose n counts runs (what is not trained has one); all rows where there is no
        other."""
        rows = self.rows[self.rows["metric"] == "top1"]
        trained = rows[rows["trained_on"] != ""]
        return trained if len(trained) else rows

    @property
    def source(self) -> str:
        """'trained on ...' where that is another data set than the one tested on, else empty."""
        if self.trained_on in ("", self.role, self.dataset):
            return ""
        return f"trained on {DEMO_ROLES[self.trained_on] if self.dataset in world.NAMES else self.trained_on}"

    @property
    def name(self) -> str:
        """Such as 'figures-h' or 'trained on figures-k, tested on figures-h'."""
        return (f"{self.source}, tested on " if self.source else "") + self.dataset

    @property
    def place(self) -> str:
        """Such as 'figures-h' or 'figures-h (trained on figures-k)', for the middle of a sentence."""
        return self.dataset + (f" ({self.source})" if self.source else "")

    def title(self, with_k: bool = True) -> str:
        """Such as 'figures-k, k = 5, n = 3' or 'figures-h, n = 3, 3 splits'."""
        rows = self.trained
        counts = [_range("k", rows["k"])] if with_k and rows["k"].max() > 0 else []
        counts.append(_range("n", rows["n"]))
        if "splits" in rows and rows["splits"].max() > 1:
            counts.append(f"{rows['splits'].max()} splits")
        return ", ".join([self.dataset, *counts])

    def heading(self, printed: str = "", with_k: bool = True) -> str:
        """Name and counts; printed: what the printed values are called, which names their data set too."""
        beside = printed and self.rows.loc[self.rows["metric"] == "top1", "paper"].notna().any()
        source = f"{self.source}, tested on " if self.source else ""
        return source + self.title(with_k) + (f"; {printed}: {self.role}" if beside else "")

    def at_most_shots(self) -> Block:
        """The rows with the largest k, and those without training."""
        largest = self.trained["k"].max()
        return Block(self.dataset, self.role, self.trained_on, self.rows[self.rows["k"].isin([0, largest])])


def blocks(rows: pd.DataFrame) -> list[Block]:
    """The blocks of a summary, or of paired differences, in the order of the paper's data sets.

    Rows without training (trained_on empty) stand in each block of their data set.
    """
    sets = rows[["dataset", "role"]].drop_duplicates().itertuples(index=False)
    in_order = sorted(sets, key=lambda pair: (ROLES.index(pair[1]) if pair[1] in ROLES else 9, pair[0]))
    return [
        Block(dataset, role, source, own[own["trained_on"].isin(["", source])])
        for dataset, role in in_order
        for own in [rows[rows["dataset"] == dataset]]
        for source in sorted(set(own["trained_on"]) - {""}) or [""]
    ]


def load_paper(target: str) -> pd.DataFrame:
    """The printed numbers of a table or panel, columns `PAPER`: method is a variant's name or a printed
    competitor.

    k: whole number; value and spread: as printed (spread nan where none is); the other columns are text. The
    panels of Figure 3 share figure3.csv. A target that is not in the paper has no rows.
    Raises InputError when the file is absent, broken, or holds nothing of this table.
    """
    if not re.match("table|figure", target):
        types = {"k": int, "value": float, "spread": float}
        return pd.DataFrame({name: pd.Series(dtype=types.get(name, str)) for name in PAPER})
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
    """'printed', or 'derived' where the scores only follow from printed ones by arithmetic (Figure 3)."""
    sources = set(paper.loc[paper["metric"].isin(SCORES), "source"])
    return "derived" if sources == {"derived"} else "printed"


def is_demo(rows: pd.DataFrame) -> bool:
    """Whether these results come from the demo world, so that printed numbers concern other data."""
    return bool(rows["dataset"].isin(world.NAMES).any())


def variants(summary: pd.DataFrame) -> list[str]:
    """The variants of a summary, top to bottom: the paper's in its order, then others as they come."""
    present = list(dict.fromkeys(summary["variant"]))
    known = [name for name in VARIANTS.get(summary["target"].iloc[0], ()) if name in present]
    return known + [name for name in present if name not in known]


def axis_of(rows: pd.DataFrame) -> str | None:
    """What the results vary: 'k', else 'T', 'H' or 's' where variants are named like 'T=8', else None."""
    trained = rows[rows["trained_on"] != ""]
    if trained["k"].nunique() > 1:
        return "k"
    found = trained["variant"].str.extract(r"^([THs])=\d+$")[0]
    return str(found.iloc[0]) if len(found) and found.notna().all() and found.nunique() == 1 else None


def order_blind_cap(pair_classes: int, classes: int) -> float:
    """Best top-1 accuracy in percent of a model that is perfect but for the direction of time.

    Between two classes that are each other's reversal it must guess, so it loses half of the pairs' share.
    """
    return 100 * (1 - pair_classes / classes / 2)


def caption(
    summary: pd.DataFrame, pair_share: dict[str, tuple[int, int]] | None = None, note: str = ""
) -> str:
    """What must be read with the numbers: `notes`, and what each ± means."""
    metrics, several_splits = set(summary["metric"]), summary["splits"].max() > 1
    lines = notes(summary, pair_share, note)
    runs = " and ".join(dict.fromkeys(_range("n", block.trained["n"]) for block in blocks(summary)))
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
        if several_splits:
            lines.append(
                "  the splits' test lists share videos, here taken as separate: this interval is too narrow"
            )
    else:
        lines.append("  all runs share one set of test videos, whose own spread is not in it")
    if several_splits:
        lines.append("splits: runs are averaged over the splits first; sd between the splits of a run")
    if "top1_half" in metrics:
        lines.append(f"{HALVES}: mean ± sd over draws of them, each with its own videos and names only")
    if "order" in metrics:
        lines.append("pairs, rest: top-1 of the classes with and without a time-reversed twin")
        lines.append("order: share of pair videos whose true name scores above its reverse (chance 50)")
    return "\n".join(lines)


def notes(
    summary: pd.DataFrame, pair_share: dict[str, tuple[int, int]] | None = None, note: str = ""
) -> list[str]:
    """Lines without which the numbers mislead: the model, the data, what helps the method by construction.

    pair_share: data set -> (classes in time-reversed pairs, all classes); needed for the demo world, where
    the share is chosen by its makers. Raises ValueError when it is missing there. note: a line on the model,
    from `experiments.model_note`.
    """
    lines = [note] if note else []
    if is_demo(summary):
        shares = pair_share or {}
        datasets = list(dict.fromkeys(block.dataset for block in blocks(summary)))
        if missing := [name for name in datasets if name not in shares]:
            raise ValueError(f"demo results need pair_share (pair classes, classes) for {', '.join(missing)}")
        lines.append(DEMO_NOTE)
        for name in datasets:
            paired, classes = shares[name]
            share, cap = 100 * paired / classes, order_blind_cap(paired, classes)
            lines += [
                f"{name}: {paired} of {classes} classes ({share:.1f} %) differ from another only by the",
                "  direction of time, which helps the method by construction;",
                f"  a model blind to order but otherwise perfect reaches {cap:.1f} %",
            ]
    return lines


def measured(
    summary: pd.DataFrame,
    paper: pd.DataFrame,
    pair_share: dict[str, tuple[int, int]] | None = None,
    note: str = "",
    apart: Collection[str] = (),
) -> Table:
    """A target's scores: rows are variants, columns top-1 by k where it varies, else top-1 and top-5.

    A block is one data set, for zero-shot one pair of them; its name gives n. Beside them, as far as there is
    something: half the interval over test videos, the printed or derived value with its spread, parts of the
    demo's top-1, sd between splits, the protocol with half of the classes. In the demo printed values are
    marked as other data; untrained rows have k=0. paper: from `load_paper`; apart: rows of other methods, in
    blocks of their own; other arguments as for `caption`.
    """
    printed = origin(paper)
    group = printed + (", other data" if is_demo(summary) else "")
    spreads = {
        (row.method, row.dataset, row.trained_on, row.k, row.metric): row.spread
        for row in paper[paper["source"] != COMPETITOR].itertuples()
    }
    found = blocks(summary)
    over_k = any(block.rows["k"].nunique() > 1 for block in found)
    cells: list[tuple] = []
    for block in found:
        at = {(row.variant, row.metric, row.k): row for row in block.rows.itertuples()}
        ks = sorted(block.rows["k"].unique())
        columns = [("top1", k, f"k={k}") for k in ks] if over_k else [(m, ks[0], SCORES[m]) for m in SCORES]
        part_group = f"measured, k={ks[-1]}" + (" (clip: k=0)" if 0 in ks else "") if over_k else "parts"
        title = block.heading(printed, with_k=not over_k)
        for variant in sorted(variants(block.rows), key=lambda name: name in apart):
            beside: list[tuple] = []
            heading = f"{title}; {RUN_HERE}" if variant in apart else title

            def add(group: str, name: str, text: str, *page: Any, to=cells, row=(heading, variant)) -> None:
                to.append((*row, group, name, text, *(page or ("", "", "", math.nan)), ""))

            for metric, k, name in columns:
                row = at.get((variant, metric, k))
                score, videos, value = _score(row), _half(row, "video_"), _printed(row, spreads)
                shown = score + (f" [{value}]" if value else "") + (f"\nvideos ± {videos}" if videos else "")
                best = row.mean if row else math.nan
                add("measured top-1" if over_k else "measured", name, score, "scores", name, shown, best)
                if metric == "top1":
                    add(
                        f"{VIDEOS}, top-1 ±" if over_k else VIDEOS,
                        name if over_k else "top-1 ±",
                        videos,
                        to=beside,
                    )
                add(group, name, value, to=beside)
            cells += sorted(beside, key=lambda cell: cell[2] == group)
            k = ks[-1] if (variant, "top1", ks[-1]) in at else 0
            for metric, name in PARTS.items():
                part = _score(at.get((variant, metric, k)))
                add(part_group, name, part, "more", name, part, math.nan)
            row, half, sd = (at.get((variant, metric, k)) for metric in ("top1", "top1_half", "half_sd"))
            between = "" if row is None or math.isnan(row.split_sd) else f"{row.split_sd:.1f}"
            add("splits", "sd", between, "more", "sd of splits", between, math.nan)
            halves = f"{half.mean:.1f} ± {sd.mean:.1f}" if half and sd else ""
            add(HALVES, "top-1 ± sd", halves, "more", HALVES, halves, math.nan)
    legend = caption(summary, pair_share, note)
    if printed == "derived":
        legend += "\nderived: follows from the printed tables by arithmetic, see results/paper/figure3.csv"
    read = READ + (READ_PRINTED.format(", of other data" if is_demo(summary) else "") if len(paper) else "")
    return _table(cells, legend, [*notes(summary, pair_share, note), read], ["data set", "variant"])


def controls(summary: pd.DataFrame) -> Table:
    """What is left when test frames are shuffled, reversed, or one is repeated.

    Rows are variants, columns the four orders of frames; cells 'top-1 | order' at the largest k (CLIP: k=0).
    """
    cells = []
    for block in blocks(summary):
        shown = block.at_most_shots()
        for variant in variants(block.rows):
            ours = shown.rows[shown.rows["variant"] == variant]
            means = ours[ours["k"] == ours["k"].max()].set_index("metric")["mean"]
            for suffix, name in CONTROLS.items():
                values = [
                    f"{means[metric + suffix]:.1f}"
                    for metric in ("top1", "order")
                    if metric + suffix in means
                ]
                text = " | ".join(values)
                cells.append((shown.heading(), variant, "", name, text, "controls", name, text, math.nan, ""))
    if (summary["metric"] == "top1_shuffled").any():
        legend = "frames changed at test only; top-1 | order, means over runs, percent"
    else:
        legend = "this profile runs no controls; top-1, means over runs, percent"
    return _table(cells, legend, [legend[0].upper() + legend[1:] + "."], ["data set", "variant"])


def differences(paired: pd.DataFrame) -> Table:
    """Paired differences: rows are pairs of variants, a column for each k where there are several.

    Text such as '+13.5 ± 4.4 (2.0, 4.1), 3/3 *': points, half the interval over runs and test videos at once,
    over runs, over test videos; runs with a gain / runs; established. paired: rows of `stats.as_family`.
    """
    cells = []
    for block in blocks(paired):
        for row in block.rows.itertuples():
            metric = SCORES.get(row.metric, PARTS.get(row.metric, row.metric))
            label = f"{row.variant} - {row.reference}" + ("" if row.metric == "top1" else f", {metric}")
            name = f"k={row.k}" if row.k else "points"
            gain = f"{round(row.mean, 1) + 0.0:+.1f}" + (f" ± {_half(row)}" if _half(row) else "")
            runs, videos, established = _half(row, "run_"), _half(row, "video_"), stats.side(row)
            either = f" ({runs or '-'}, {videos or '-'})" if runs or videos else ""
            text = f"{gain}{either}, {row.wins}/{row.n}" + " *" * bool(established)
            alone = [f"{name} ± {half}" for name, half in (("runs", runs), ("videos", videos)) if half]
            shown = f"{gain}\n" + ", ".join([*alone, f"{row.wins}/{row.n} runs"])
            css = f"color: {[OPEN, GAIN, LOSS][established]}"
            cells.append((block.name, label, "", name, text, "points", name, shown, math.nan, css))
    legend = f"points, paired by run ± half the 95 % interval over runs and {VIDEOS} at once"
    legend += f"\n(half the one over runs alone, over {VIDEOS} alone), runs with gain / runs"
    legend += "\n*: established, p at most 5 % after Benjamini and Hochberg among all that is shown"
    return _table(cells, legend, [READ_DIFFERENCES], ["data set", "difference"])


def overall(found: pd.DataFrame) -> Table:
    """Variants over all data sets and k at once: rows of `stats.overall`."""
    lines: dict[str, dict[str, str]] = {}
    for row in found.itertuples():
        line = lines.setdefault(row.variant, {"IQM, %": f"{row.iqm:.1f}"})
        ends = "" if math.isnan(row.low) else f" [{row.low:.0f}, {row.high:.0f}]"
        line[f"above {row.over}, %"] = f"{row.share:.0f}{ends}"
    frame = pd.DataFrame.from_dict(lines, orient="index").fillna("").rename_axis("variant")
    frame.attrs["caption"] = (
        "all data sets and k at once: interquartile mean of top-1; share of runs above the other row's run of"
        "\nthe same seed, data set and k [95 % over seeds and cells; none where all agree]"
    )
    return Table.of(frame, notes=frame.attrs["caption"])


def _table(cells: Iterable[tuple], legend: str, notes: list[str], names: list[str]) -> Table:
    """The long table of cells, pivoted twice: for a terminal and, panel by panel, for a page."""
    frame = pd.DataFrame(list(cells), columns=CELL)
    groups = ["group", "name"] if frame["group"].any() else ["name"]
    text = _wide(frame, ["block", "row"], groups, "text")
    text.index.names, text.columns.names = names, [None] * len(groups)
    panels = []
    for _, panel in frame[frame["panel"] != ""].groupby("panel", sort=False):
        shown = _wide(panel, ["row"], ["block", "place"], "shown")
        best = panel.groupby(["block", "place"])["best"]
        bold = (panel["best"] == best.transform("max")) & (best.transform("count") > 1)
        styled = panel.assign(css=panel["css"].where(~bold, "font-weight: bold"))
        css = _wide(styled, ["row"], ["block", "place"], "css").reindex(
            shown.index, columns=shown.columns, fill_value=""
        )
        shown.index.name, shown.columns.names = names[1], [None, None]
        css.index.name, css.columns.names = names[1], [None, None]
        if shown.size:
            panels.append((shown, css))
    return Table(text, legend, "\n".join(notes), tuple(panels))


def _wide(cells: pd.DataFrame, index: list[str], columns: list[str], values: str) -> pd.DataFrame:
    """A pivot whose rows and columns keep the order in which they come; empty columns are left out."""
    wide = cells.pivot(index=index, columns=columns, values=values).fillna("")
    in_order = [pd.MultiIndex.from_frame(cells[names].drop_duplicates()) for names in (index, columns)]
    rows, heads = (order if order.nlevels > 1 else order.get_level_values(0) for order in in_order)
    wide = wide.reindex(index=rows, columns=heads)
    return wide if values == "css" else wide.loc[:, (wide != "").any()]


def _score(row: Any) -> str:
    """Mean ± half the interval over runs; empty where there is no row."""
    return "" if row is None else " ± ".join(filter(None, [f"{row.mean:.1f}", _half(row)]))


def _half(row: Any, kind: str = "") -> str:
    low = math.nan if row is None else getattr(row, f"{kind}low")
    return "" if math.isnan(low) else f"{(getattr(row, f'{kind}high') - low) / 2:.1f}"


def _printed(row: Any, spreads: dict[tuple, float]) -> str:
    if row is None or math.isnan(row.paper):
        return ""
    spread = spreads.get((row.variant, row.role, row.trained_on, row.k, row.metric), math.nan)
    return f"{row.paper:.1f}" + ("" if math.isnan(spread) else f" ± {spread:.1f}")


def _range(name: str, values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{name} = {low}" if low == high else f"{name} = {low} to {high}"
