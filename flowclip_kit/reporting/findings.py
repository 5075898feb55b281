"""Findings: what the numbers of a target, or of all targets, come to, in a few computed sentences."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import pandas as pd

from flowclip_kit.reporting import stats, tables

LONG_NAMES = {
    "mmb": "The motion stream (mmb)",
    "mcb": "The communication block (mcb)",
    "full": "The full model",
}


class Findings(list[str]):
    """Sentences: lines in a terminal, a list on a page."""

    def __repr__(self) -> str:
        return "\n".join(f"- {sentence}" for sentence in self)

    def _repr_html_(self) -> str:
        return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in self) + "</ul>"


def of_target(
    summary: pd.DataFrame,
    paired: pd.DataFrame | None,
    verdicts: pd.DataFrame,
    summed_up: pd.DataFrame | None = None,
    thumbnails: pd.DataFrame | None = None,
) -> Findings:
    """Which scores are highest, which differences established, how strong the baseline is, what shuffled
    frames do, which claims hold.

    paired: rows of `stats.paired_difference` or None. verdicts: of the claims about this target, as text.
    summed_up: rows of `stats.overall` or None. thumbnails: of `bench.thumbnails.measure`, in the demo.
    """
    sentences = [_setting(summary) + _highest(summary)]
    if paired is not None:
        sentences.append(" ".join(_difference(paired, *pair) for pair in _main_pairs(paired)))
    if summed_up is not None and "clip" in set(summed_up["over"]):
        sentences.append(_reference(summed_up))
    if thumbnails is not None and (weak := _thumbnails(summary, thumbnails)):
        sentences.append(weak)
    if (summary["metric"] == "top1_shuffled").any():
        sentences.append(_shuffled(summary))
    if len(verdicts):
        sentences.append(_claims(verdicts))
    return Findings(sentences)


def of_all(verdicts: pd.DataFrame, demo: bool) -> Findings:
    """What all claims together come to: orders and trends, printed amounts, the print's own arithmetic."""

    def count(kinds: tuple[str, ...], *names: str) -> int:
        rows = verdicts[verdicts["kind"].isin(kinds)]
        return int(rows["verdict"].isin(names).sum() if names else len(rows))

    stated, amounts, audits = ("order", "trend"), ("value", "difference"), ("audit",)
    judged = count(stated) - count(stated, "not run")
    world = "In the demo world, " if demo else ""
    exact, wrong = count(("count",), "reproduced"), count(audits, "inconsistent in print")
    checked = count(amounts) - count(amounts, "not run")
    sentences = [
        f"{world}{count(stated, 'reproduced')} of the {judged} orders and trends that have runs hold,"
        f" {count(stated, 'different')} {_are(count(stated, 'different'))} contradicted,"
        f" {judged - count(stated, 'reproduced', 'different')} remain open.",
        f"{checked} of {count(amounts)} printed values and differences are checked"
        + (": they concern the paper's data, which the demo world is not." if demo else "."),
        f"{exact} of {count(('count',))} costs in Table 3 follow to the last digit from"
        " the authors' own way of counting.",
        f"{wrong} of {count(audits)} sums over printed numbers do not add up, whatever is run.",
    ]
    return Findings(sentences)


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _setting(summary: pd.DataFrame) -> str:
    n = sorted(set(summary.loc[summary["trained_on"] != "", "n"])) or [1]
    runs = f"{n[0]} run{'s' * (n[0] > 1)}" if n[0] == n[-1] else f"{n[0]} to {n[-1]} runs"
    return (
        f"In the demo world, {runs} a cell: " if tables.is_demo(summary) else f"{runs} a cell: ".capitalize()
    )


def _highest(summary: pd.DataFrame) -> str:
    """The best mean of each block, at the largest k."""
    said = []
    for block in tables.blocks(summary):
        rows = block.trained[block.trained["k"] == block.trained["k"].max()]
        best = rows.loc[rows["mean"].idxmax()]
        at = f" (k = {best['k']})" if best["k"] else ""
        spread = f" [{best['low']:.1f}, {best['high']:.1f}]" if not math.isnan(best["low"]) else ""
        said.append(f"{best['variant']} with {best['mean']:.1f} %{spread} on {block.place}{at}")
    return ("highest " if summary["variant"].nunique() > 1 else "") + f"top-1 is {', '.join(said)}."


def _main_pairs(paired: pd.DataFrame) -> list[tuple[str, str]]:
    """The first pair and the last one: one step, and all of them together."""
    pairs = list(dict.fromkeys(zip(paired["variant"], paired["reference"], strict=True)))
    return pairs if len(pairs) <= 2 else [pairs[0], pairs[-1]]


def _difference(paired: pd.DataFrame, variant: str, reference: str) -> str:
    """One pair at the largest k: where it is established, and where it is not."""
    rows = paired[(paired["variant"] == variant) & (paired["reference"] == reference)]
    established: list[str] = []
    open_: list[str] = []
    for block in tables.blocks(rows):
        row = next(block.rows[block.rows["k"] == block.rows["k"].max()].itertuples())
        (established if stats.side(row) else open_).append(f"{_points(row)} on {block.place}")
    said = f"{LONG_NAMES.get(variant, variant)} against {reference}"
    said += f": {'; '.join(established)}" if established else ""
    return said + (f"; not established: {'; '.join(open_)}." if established and open_ else
                   f": not established ({'; '.join(open_)})." if open_ else ".")  # fmt: skip


def _points(row: Any) -> str:
    spread = "" if math.isnan(row.low) else f" [{row.low:.1f}, {row.high:.1f}]"  # of seeds and videos at once
    return f"{round(row.mean, 1) + 0.0:+.1f}{spread} points"


def _reference(summed_up: pd.DataFrame) -> str:
    """How far the reference of most gains is itself above doing nothing."""
    iqm = summed_up.groupby("variant")["iqm"].first()
    row = next(summed_up.query("variant == 'baseline' and over == 'clip'").itertuples())
    ends = "" if math.isnan(row.low) else f" [{row.low:.0f}, {row.high:.0f}]"
    return (
        f"How strong the reference is: over all data sets and k, the interquartile mean of baseline is"
        f" {iqm['baseline']:.1f} %, that of frozen clip {iqm['clip']:.1f} %; {row.share:.0f} %{ends} of its"
        " runs are above clip."
    )


def _thumbnails(summary: pd.DataFrame, thumbnails: pd.DataFrame) -> str:
    """What a probe without CLIP reaches on the training videos that Baseline sees, or nothing."""
    own = summary[(summary["metric"] == "top1") & (summary["variant"] == "baseline")]
    own = own[(own["trained_on"] == own["role"]) & (own["k"] == own["k"].max())]
    both = own.merge(thumbnails, on=["dataset", "k"], suffixes=("", "_weak"))
    said = [
        f"{row.mean_weak:.1f} % on {row.dataset} (baseline {row.mean:.1f} %)" for row in both.itertuples()
    ]
    start = "A linear probe on 8 x 8 thumbnails, without CLIP and blind to order, reaches "
    return f"{start}{', '.join(said)}." if said else ""


def _shuffled(summary: pd.DataFrame) -> str:
    """What shuffling the frames takes from the model that loses most by it."""
    said = []
    for block in tables.blocks(summary):
        means = block.at_most_shots().rows.pivot_table("mean", "variant", "metric", sort=False)
        lost = (means["top1"] - means["top1_shuffled"]).dropna()
        name = lost.idxmax()
        said.append(
            f"{name} from {means['top1'][name]:.1f} to {means['top1_shuffled'][name]:.1f} % on {block.place}"
        )
    return f"Shuffled frames cost most: {'; '.join(said)}."


def _claims(verdicts: pd.DataFrame) -> str:
    counts = verdicts["verdict"].value_counts()
    waiting = int(counts.get("not run", 0))
    wait = f"{waiting} {'waits' if waiting == 1 else 'wait'} for runs or for the paper's data"
    if waiting == len(verdicts):
        return f"Of the paper's {waiting} claims on it none can be judged here: {wait}."
    words = {"reproduced": "hold", "different": _are(counts.get("different", 0)) + " contradicted",
             "undecided": "remain open", "too few seeds": "have too few runs"}  # fmt: skip
    said = [f"{counts[name]} {words[name]}" for name in words if name in counts] + [wait] * bool(waiting)
    return f"Of the paper's {len(verdicts)} claims on it {', '.join(said)}."
