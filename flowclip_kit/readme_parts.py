"""The README's generated parts: its numbers stand between marks that name the command which makes them."""

from __future__ import annotations

import pandas as pd

ROWS = {
    "baseline": "baseline: spatial stream, fixed prompt",
    "mcb": "baseline + communication block (MCB)",
    "mmb": "baseline + motion stream (MMB)",
    "mmb+map": "MMB + motion-aware prompts (MAP)",
    "full": "full: MMB + MAP + MCB",
}
NAMES = {"figures-h": "HMDB-51", "figures-u": "UCF-101"}  # demo set -> whose role it plays


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


def verdicts(frame: pd.DataFrame) -> str:
    """How many claims of the paper came to which verdict, as a list. frame: of `claims.load`."""
    printed, audits = frame["kind"].isin(["value", "difference"]), frame["kind"] == "audit"
    checked = int((frame.loc[printed, "verdict"] != "not run").sum())
    audit = frame.loc[audits, "verdict"].value_counts()
    agree, wrong, apart = (
        audit.get(name, 0) for name in ("reproduced", "inconsistent in print", "settings differ")
    )
    count = frame.loc[~printed & ~audits, "verdict"].value_counts()
    return "\n".join(
        [
            f"- {len(frame)} printed numbers and statements are registered, each with its tolerance.",
            f"- Printed scores and gaps, which need the paper's own data: {checked} of {int(printed.sum())}"
            " checked so far.",
            "- Orders, trends, costs and open choices, judged in the demo world:"
            f" {', '.join(f'{number} {verdict}' for verdict, number in count.items())}.",
            f"- The paper's own arithmetic: {agree} of {int(audits.sum())} checks agree, {wrong} are"
            f" inconsistent in print, {apart} compare settings that differ.",
        ]
    )
