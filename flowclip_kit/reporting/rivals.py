"""What the target `rivals` says: a table of methods, two questions answered, the rates that were chosen."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit import paths
from flowclip_kit.experiments.catalogue import rate_means
from flowclip_kit.experiments.results_table import numbers, read_csv
from flowclip_kit.experiments.rivals import BLOCK, CONDITIONING, MOTION, edges
from flowclip_kit.reporting import stats, tables

ELSEWHERE = ["method", "dataset", "k", "metric", "value", "source", "protocol"]

# Question -> (what the answer calls it, pairs (with, without) whose differences decide it).
QUESTIONS = {
    "Is it motion that steers the prompts, or does any conditioning on the video do as much?": (
        "motion",
        MOTION,
    ),
    "Is it the two-stream block, or any temporal layer?": ("the two-stream block", BLOCK),
}


def table(
    summary: pd.DataFrame, costs: Mapping[str, Mapping[str, float]], metric: str = "top1"
) -> pd.DataFrame:
    """Methods as rows: a score for each data set and k, "mean ± over runs (± over videos)", and costs.

    summary: see `stats.summarise`. costs: variant -> parameters, seconds, text_tokens (of the provenance).
    A row that is not trained has one score for all k.
    """
    rows = summary[summary["metric"] == metric]
    columns = rows.loc[rows["trained_on"] != "", ["dataset", "k"]].drop_duplicates().itertuples(index=False)
    columns = [tuple(column) for column in columns]
    lines = {}
    for variant in tables.variants(rows.assign(target="rivals")):
        of_variant = rows[rows["variant"] == variant]
        line = {}
        for dataset, k in columns:
            found = of_variant[(of_variant["dataset"] == dataset) & of_variant["k"].isin([k, 0])]
            line[dataset, f"k={k}"] = _cell(found.iloc[0]) if len(found) else ""
        cost = costs.get(variant, {})
        line["", "parameters"] = f"{cost['parameters']:,.0f}" if cost else ""
        line["", "train s"] = f"{cost['seconds']:.1f}" if cost else ""
        line["", "text tokens"] = f"{cost['text_tokens']:.0f}" if cost else ""
        lines[variant] = line
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    return frame


def _cell(row: pd.Series) -> str:
    text = f"{row['mean']:.1f}"
    if pd.notna(row["high"]):
        text += f" ± {(row['high'] - row['low']) / 2:.1f}"
    if pd.notna(row["video_high"]):
        text += f" (± {(row['video_high'] - row['video_low']) / 2:.1f})"
    return text


def established(paired: pd.DataFrame) -> pd.Series:
    """+1, -1, 0 by row: established above zero, below it, or not; see `stats.side`."""
    return pd.Series([stats.side(row) for row in paired.itertuples()], paired.index, dtype=int)


def gain(paired: pd.DataFrame, variant: str, reference: str) -> str:
    """One difference in words: "full over CoOp: +3.1 points on average over 8 cells, ..."; or empty."""
    rows = paired[(paired["variant"] == variant) & (paired["reference"] == reference)]
    if rows.empty:
        return ""
    signs = established(rows)
    return (
        f"{variant} over {reference}: {rows['mean'].mean():+.1f} points on average over {len(rows)} cells,"
        f" established in {(signs > 0).sum()}, the other way in {(signs < 0).sum()}"
    )


def verdict(paired: pd.DataFrame, pairs: tuple[tuple[str, str], ...]) -> str:
    """What the cells of some pairs say together.

    "yes": every pair is established in more than half of its cells, and the other way in none. "no": one is
    established the other way in more than half. "undecided": otherwise. "not run": no pair is there.
    """
    decided = []
    for variant, reference in pairs:
        rows = paired[(paired["variant"] == variant) & (paired["reference"] == reference)]
        if len(rows):
            signs = established(rows)
            won, lost = (signs > 0).sum(), (signs < 0).sum()
            decided.append(
                "yes" if won > len(rows) / 2 and not lost else "no" if lost > len(rows) / 2 else ""
            )
    if not decided:
        return "not run"
    return "no" if "no" in decided else "yes" if set(decided) == {"yes"} else "undecided"


ANSWERS = {
    "yes": "It is {what}: it beats each of the others in more than half of the cells.",
    "no": "It is not {what}: one of the others beats it.",
    "undecided": "Undecided: {what} does not beat each of the others in more than half of the cells.",
    "not run": "Not run: no method to compare {what} with is here.",
}


def answers(paired: pd.DataFrame | None) -> list[str]:
    """The two questions, each with its answer and the differences that decide it; paired: `View.paired`."""
    found = []
    if paired is None:
        paired = pd.DataFrame(columns=["variant", "reference", *stats.DIFFERENCE[3:]])
    for question, (what, pairs) in QUESTIONS.items():
        gains = [sentence for pair in pairs if (sentence := gain(paired, *pair))]
        answer = ANSWERS[verdict(paired, pairs)].format(what=what)
        found.append(f"{question} {answer}" + (f" ({'; '.join(gains)}.)" if gains else ""))
    found += [f"Conditioning alone: {said}." for pair in CONDITIONING if (said := gain(paired, *pair))]
    return found


def brief(paired: pd.DataFrame | None) -> list[str]:
    """Each question with its answer and the mean difference to each other method, a line each."""
    if paired is None:
        return [
            f"{question} {ANSWERS['not run'].format(what=what)}" for question, (what, _) in QUESTIONS.items()
        ]
    means = paired.groupby(["variant", "reference"])["mean"].mean()
    found = []
    for question, (what, pairs) in QUESTIONS.items():
        points = [f"{pair[1]} {means[pair]:+.1f}" for pair in pairs if pair in means.index]
        said = f"{question} {ANSWERS[verdict(paired, pairs)].format(what=what)}"
        found.append(said + (f" Points of {pairs[0][0]} over {', '.join(points)}." if points else ""))
    return found


def sweep(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean top-1 on the videos set aside: variants as rows, learning rates as columns. runs: tidy table."""
    tried = runs[(runs["split"] == 0) & (runs["metric"] == "top1")]
    return tried.pivot_table("value", "variant", "lr", sort=False).sort_index(axis=1).round(1)


def at_the_edge(runs: pd.DataFrame) -> list[str]:
    """Variants whose best rate is the smallest or the largest that worked, with no equal beside it."""
    return [variant for variant, scores in rate_means(runs).items() if edges(scores, scores)]


def elsewhere() -> pd.DataFrame:
    """Scores of these methods in other papers, under protocols of their own; no claim is judged by them.

    Raises InputError where the file is absent or a value is no percentage.
    """
    path = paths.root() / "results" / "paper" / "elsewhere.csv"
    frame = read_csv(path, ELSEWHERE, "part of the checkout")
    frame["value"], frame["k"] = numbers(frame, "value", path), numbers(frame, "k", path).astype(int)
    if not frame["value"].between(0, 100).all():
        raise InputError(f"{path}: holds a value that is no percentage; restore the file from git")
    return frame


def methods() -> pd.DataFrame:
    """Every method: the frames it takes, how its authors train it, what differs from the publication here."""
    from flowclip_kit.rivals import METHODS

    rows = {}
    for name, method in METHODS.items():
        recipe = method.published(16)
        trained = "nothing"
        if recipe:
            trained = f"{recipe.optimiser}, {recipe.lr:g}, {recipe.epochs} epochs of {recipe.batch}"
        unseen = "yes" if method.unseen else "no"
        rows[name] = {"T": method.frames, "as published, 16 shots": trained, "names unseen classes": unseen,
                      "differs in": method.kind.DEVIATES}  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")
