"""The README's generated parts: its numbers stand between marks that name the command which makes them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit.demo import world
from flowclip_kit.rivals import METHODS

ROWS = {
    "baseline": "baseline: spatial stream, fixed prompt",
    "mcb": "baseline + communication block (MCB)",
    "mmb": "baseline + motion stream (MMB)",
    "mmb+map": "MMB + motion-aware prompts (MAP)",
    "full": "full: MMB + MAP + MCB",
}
ROUNDING = "<!-- rounding: made by ./reproduce.sh bench rounding --record -->", "<!-- rounding: end -->"
PRETRAINING = (
    "<!-- pretraining: made by ./reproduce.sh bench pretraining --record -->",
    "<!-- pretraining: end -->",
)
NAMES = {"figures-h": "HMDB-51", "figures-u": "UCF-101"}  # demo set -> whose role it plays


def around(page: Path, marks: tuple[str, str]) -> tuple[str, str]:
    """A page before and after a part, marks included. Raises InputError when a mark is missing."""
    before, begin, rest = (page.read_text() if page.exists() else "").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise InputError(
            f"{page}: lacks the lines {marks[0]} and {marks[1]}, in this order; put them where the part goes"
        )
    return before + begin, end + after


def table5(summary: pd.DataFrame) -> str:
    """Five rows of Table 5 as Markdown: top-1 at the largest k, frames in order and shuffled at test.

    summary: of `stats.summarise`, one row per data set, variant, k and metric.
    """
    trained = summary[summary["variant"].isin(list(ROWS))]
    trained = trained[trained["k"] == trained["k"].max()]
    cells = trained.set_index(["dataset", "variant", "metric"])
    datasets = list(dict.fromkeys(trained["dataset"]))
    heads = [f"{name} (as {NAMES.get(name, name)}) | frames shuffled" for name in datasets]
    k, n = int(trained["k"].max()), int(trained["n"].max())
    lines = [
        f"Top-1 in percent: mean of n = {n} runs ± half the 95 % t interval; k = {k} videos a class.",
        "",
        f"| trained parts | {' | '.join(heads)} |",
        f"| --- |{' ---: | ---: |' * len(datasets)}",
    ]
    for variant in [name for name in ROWS if name in set(trained["variant"])]:
        row = [ROWS[variant]]
        for dataset in datasets:
            for metric in ("top1", "top1_shuffled"):
                known = (dataset, variant, metric) in cells.index
                row.append(_mean(cells.loc[(dataset, variant, metric)]) if known else "")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _mean(cell: pd.Series) -> str:
    half = (cell["high"] - cell["low"]) / 2
    return f"{cell['mean']:.1f}" if pd.isna(half) else f"{cell['mean']:.1f} ± {half:.1f}"


def verdicts(frame: pd.DataFrame, nudged: pd.DataFrame | None) -> str:
    """How many claims of the paper came to which verdict, and how far a run can be trusted, as a list.

    frame: of `claims.load`. nudged: of `bench.rounding.measure`, if it was.
    """
    printed, audits = frame["kind"].isin(["value", "difference"]), frame["kind"] == "audit"
    checked = int((frame.loc[printed, "verdict"] != "not run").sum())
    audit = frame.loc[audits, "verdict"].value_counts()
    agree, wrong, apart = (
        audit.get(name, 0) for name in ("reproduced", "inconsistent in print", "settings differ")
    )
    count = frame.loc[~printed & ~audits, "verdict"].value_counts()
    lines = [
        f"- {len(frame)} printed numbers and statements are registered. Scores and gaps, which need the"
        f" paper's own data: {checked} of {int(printed.sum())} checked.",
        "- Orders, trends, costs and open choices, judged in the demo world:"
        f" {', '.join(f'{number} {verdict}' for verdict, number in count.items())}.",
        f"- The paper's own arithmetic: {agree} of {int(audits.sum())} checks agree, {wrong} are"
        f" inconsistent in print, {apart} compare settings that differ.",
    ]
    if nudged is not None:
        most = nudged["moved"].abs().max()
        lines.append(
            f"- On other hardware or code the same run may move by {most:.1f} points of top-1, as far as"
            " [rounding alone](notebooks/protocols.md#exactness) moved one."
        )
    return "\n".join(lines)


def rounding(found: pd.DataFrame) -> str:
    """How far rounding alone moves a run, in a sentence. found: of `bench.rounding.measure`."""
    cells = []
    for (variant, k), own in found.groupby(["variant", "k"], sort=False):
        cells.append(
            f"{variant}, k = {k}: up to {own['moved'].abs().max():.1f} ({own['equal'].mean():.0f} % of the"
            " answers equal)"
        )
    count, data = found["nudge"].nunique(), ", ".join(dict.fromkeys(found["dataset"]))
    text = (
        f"Changing every initial weight by about its last bit, {count} times a cell, moves top-1 on {data} by"
        f" so many points: {'; '.join(cells)}. Another processor or version, which rounds otherwise, may move"
        " a trained run as far."
    )
    return textwrap.fill(text, 140)


def pretraining(found: pd.DataFrame) -> str:
    """Frozen CLIP and the differences of Table 5 by pre-training as Markdown, and how many of them agree.

    found: of `bench.pretraining.measure`. A pre-training whose frozen CLIP names the classes little better
    than chance on every data set came to nothing: it is shown, and counts for nothing.
    """
    seeds = sorted(set(found["pretraining"]))
    pairs = found[found["reference"].fillna("") != ""]
    clip = found[found["variant"] == "clip"].pivot_table("mean", "dataset", "pretraining", sort=False)
    chance = pd.Series({name: 100 / len(world.CLASSES[name]) for name in clip.index})
    lost = [seed for seed in seeds if (clip[seed] < 1.5 * chance).all()]
    lines = [
        "Points of top-1 with 95 % intervals over runs and test videos,"
        f" n = {int(pairs['n'].max())} runs a cell; pre-training 0 is the one that is shipped.",
        "",
        f"| data set, k | | {' | '.join(f'pre-training {seed}' for seed in seeds)} |",
        f"| --- | --- |{' ---: |' * len(seeds)}",
    ]
    for dataset, row in clip.iterrows():
        cells = " | ".join(f"{row[seed]:.1f} %" for seed in seeds)
        lines.append(f"| {dataset} | frozen clip, chance {chance[dataset]:.1f} % | {cells} |")
    same = wholly = 0
    for (dataset, k, variant, reference), rows in pairs.groupby(
        ["dataset", "k", "variant", "reference"], sort=False
    ):
        own = rows.set_index("pretraining").loc[seeds]
        cells = " | ".join(f"{row.mean:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" for row in own.itertuples())
        lines.append(f"| {dataset}, {k} | {variant} less {reference} | {cells} |")
        own = own.drop(lost)
        same += (own["mean"] > 0).nunique() == 1
        wholly += bool((own["low"] > 0).all() or (own["high"] < 0).all())
    said = [f"Pre-training {seed} came to nothing: its frozen CLIP is at chance." for seed in lost]
    said.append(
        f"Of these {len(pairs) // len(seeds)} differences {same} have one sign under the other"
        f" {len(seeds) - len(lost)} pre-trainings, and {wholly} have every interval on one side of zero."
        if lost
        else f"Of these {len(pairs) // len(seeds)} differences {same} have one sign under all {len(seeds)}"
        f" pre-trainings, and {wholly} have every interval on one side of zero."
    )
    return "\n".join([*lines, "", *said])


NO_RIVALS = "Other methods on the same features ([rivals](notebooks/rivals.ipynb)): not recorded yet."
# Rows of FlowCLIP that stand with the other methods; Table 5 has those that it shares with them.
OURS = ("full", "prompts without motion", "mmb")


def rivals(summary: pd.DataFrame, costs: Mapping[str, Mapping[str, float]], answers: Sequence[str]) -> str:
    """What other methods score beside FlowCLIP, as Markdown with two methods a line, below the answers.

    summary: of `stats.summarise`. costs: variant -> "parameters", those that it trains. answers: see
    `reporting.rivals.brief`.
    """
    rows = summary[summary["metric"] == "top1"]
    trained = rows[rows["trained_on"] != ""]
    k, n = int(trained["k"].max()), int(trained["n"].max())
    cells = rows[rows["k"].isin([0, k])].set_index(["dataset", "variant"])
    datasets = list(dict.fromkeys(rows["dataset"]))
    names = [name for name in (*OURS, *METHODS) if name in set(rows["variant"])]
    shown = [
        [
            name,
            *(_mean(cells.loc[(dataset, name)]) for dataset in datasets),
            f"{costs[name]['parameters']:,.0f}",
        ]
        for name in names
    ]
    empty = [""] * len(shown[0])
    shown = [
        left + right for left, right in zip(shown[::2], [*shown[1::2], empty][: len(shown[::2])], strict=True)
    ]
    head = ["method", *datasets, "trained parameters"] * 2
    return "\n".join(
        [
            "- Other methods on the same features ([rivals](notebooks/rivals.ipynb)), each at its best"
            f" learning rate: top-1 in percent, mean of n = {n} runs ± half the 95 % t interval, k = {k}.",
            *(f"- {answer}" for answer in answers),
            "",
            f"| {' | '.join(head)} |",
            f"|{(' --- |' + ' ---: |' * (len(datasets) + 1)) * 2}",
            *(f"| {' | '.join(row)} |" for row in shown),
        ]
    )
