"""The verdicts: what the runs say of every claim of `reporting.register`.

`verdict` is the one place where a verdict is decided; nothing in results/claims.csv but the claims themselves
is typed by hand.
"""

from __future__ import annotations

import functools
import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit import experiments, paths
from flowclip_kit.experiments.results_table import read_csv
from flowclip_kit.reporting import stats
from flowclip_kit.reporting.register import KINDS, Claim, Part, register, untrained
from flowclip_kit.reporting.rendering import CHIPS, WIDTH, Table, unfolded
from flowclip_kit.reporting.tables import DEMO_NOTE

__all__ = [
    "Claim",
    "Measured",
    "Part",
    "counts_by_verdict",
    "csv_text",
    "lines",
    "listing",
    "load",
    "measure",
]
__all__ += ["register", "verdict"]

REPRODUCED, DIFFERENT, UNDECIDED, FEW, NOT_RUN, INCONSISTENT = VERDICTS = [
    "reproduced",
    "different",
    "undecided",
    "too few seeds",
    "not run",
    "inconsistent in print",
]

CLAIMS = (
    "id place kind statement printed protocol cells tolerance why profile "
    "seeds mean low high video_low video_high verdict reason"
).split()

OF_PRINT = ("value", "difference")  # kinds that compare a measured amount with a printed one
# Fewer give no interval worth reading: two seeds' t interval is nine standard deviations wide to each side.
SEEDS = 3
IN_THE_DEMO = "demo world ("  # how the reason of a verdict from the demo begins
DEMO = "the demo world is no evidence about printed values"
ROUNDING = 1e-9  # of sums of decimal numbers held in binary


@dataclass(frozen=True)
class Measured:
    """Seeds, mean, 95 % interval over seeds and over test videos (nan where there is none) of one part.

    trained: False where nothing is trained, so that there are no seeds and the mean is exact.
    """

    n: int
    mean: float
    low: float
    high: float
    video_low: float = math.nan
    video_high: float = math.nan
    name: str = ""
    trained: bool = True


def verdict(
    kind: str,
    measured: Sequence[Measured | None] = (),
    printed: float = 0.0,
    tolerance: float = math.nan,
    asks: str = "same",
    demo: bool = False,
    beside_print: bool = False,
    audit: tuple[bool, str] | None = None,
) -> tuple[str, str]:
    """(verdict, reason) of one claim from what was measured of its parts, None where a part has no run.

    A part that asks for a gain holds when its intervals, over seeds and over test videos, lie above zero. Any
    other holds when they lie within the tolerance of the printed number (of zero for trends and assumptions);
    values and differences are judged by the interval over seeds alone, since the paper's test videos are the
    same. One part that is wholly outside makes the claim different; all must hold for reproduced; anything
    else is undecided. A count has no interval. An audit concerns print alone. beside_print: the parts are
    compared with printed numbers, which the demo cannot be.
    """
    if kind == "audit":
        assert audit is not None
        agrees, said = audit
        return (REPRODUCED if agrees else INCONSISTENT), said
    if demo and (beside_print or kind in OF_PRINT):
        return NOT_RUN, DEMO
    parts = [part for part in measured if part is not None]
    if not measured or len(parts) < len(measured):
        return (
            NOT_RUN,
            f"{len(parts)} of {len(measured)} parts have runs" if measured else "no runs compare it",
        )
    if kind == "count":
        gap = parts[0].mean - printed
        near = abs(gap) <= tolerance + ROUNDING
        return (REPRODUCED if near else DIFFERENT), f"counted {parts[0].mean:.4f}, {gap:+.4f} from print"
    seeds = min((part.n for part in parts if part.trained), default=SEEDS)
    if seeds < SEEDS:
        return FEW, f"{seeds} seed{'s' * (seeds > 1)}; an interval worth reading needs at least {SEEDS}"
    centre = printed if kind in OF_PRINT else 0.0
    judged = [_part_verdict(part, kind, asks, centre, tolerance) for part in parts]
    together = judged[0] if len(set(judged)) == 1 else DIFFERENT if DIFFERENT in judged else UNDECIDED
    said = _reason(parts, judged, kind, asks, centre, tolerance)
    if kind == "assumption":
        said += {REPRODUCED: "; does not matter", DIFFERENT: "; matters", UNDECIDED: "; open"}[together]
    return together, said


def _intervals(part: Measured, kind: str) -> list[tuple[float, float]]:
    found = [(part.low, part.high) if part.trained else (part.mean, part.mean)]
    if kind not in OF_PRINT and not math.isnan(part.video_low):
        found.append((part.video_low, part.video_high))
    return found


def _part_verdict(part: Measured, kind: str, asks: str, centre: float, tolerance: float) -> str:
    judged = {_side(low, high, asks, centre, tolerance) for low, high in _intervals(part, kind)}
    return {1: REPRODUCED, -1: DIFFERENT}.get(judged.pop(), UNDECIDED) if len(judged) == 1 else UNDECIDED


def _side(low: float, high: float, asks: str, centre: float, tolerance: float) -> int:
    """1 where the interval is wholly where the claim wants it, -1 where it is wholly elsewhere, 0 across a
    bound."""
    if asks == "gain":
        return int(low > 0) - int(high < 0)
    floor = -math.inf if asks == "no more" else centre - tolerance - ROUNDING
    ceiling = centre + tolerance + ROUNDING
    return int(floor <= low and high <= ceiling) - int(high < floor or low > ceiling)


def _weakest(measured: Sequence[Measured], judged: Sequence[str], kind: str, asks: str, centre: float) -> int:
    """Which part stands in the way of the claim most."""

    def standing(number: int) -> tuple[int, float]:
        bounds = np.array(
            [*_intervals(measured[number], kind), (measured[number].mean,) * 2]
        )  # one seed: mean alone
        low, high = np.nanmin(bounds), np.nanmax(bounds)
        room = {"gain": low, "no more": -high}.get(asks, -max(high - centre, centre - low))
        return [DIFFERENT, UNDECIDED, REPRODUCED].index(judged[number]), room

    return min(range(len(measured)), key=standing)


def _reason(measured, judged, kind: str, asks: str, centre: float, tolerance: float) -> str:
    number = _weakest(measured, judged, kind, asks, centre)
    part, sign = measured[number], "" if kind == "value" else "+"
    over = (
        f"{part.low:{sign}.2f} to {part.high:{sign}.2f} over {part.n} seeds"
        if part.trained
        else "nothing trained"
    )
    if len(_intervals(part, kind)) == 1 and kind not in OF_PRINT and part.trained:
        over += ", no interval over test videos for this metric"
    if len(_intervals(part, kind)) > 1:
        over += f", {part.video_low:{sign}.2f} to {part.video_high:{sign}.2f} over test videos"
    wanted = {"gain": "zero", "no more": f"{tolerance:g}"}.get(asks, f"{centre:g} ± {tolerance:g}")
    lies = {
        REPRODUCED: {"gain": "above", "no more": "not above"}.get(asks, "within"),
        DIFFERENT: {"gain": "below", "no more": "above"}.get(asks, "outside"),
        UNDECIDED: {"gain": "not clear of", "no more": "across"}.get(asks, "across a bound of"),
    }[judged[number]]
    said = f"{part.mean:{sign}.2f} ({over}): {lies} {wanted}"
    if len(measured) > 1:
        holds = sum(part == REPRODUCED for part in judged)
        said = f"{holds} of {len(judged)} parts hold; weakest {part.name}: {said}"
    return said


def measure(
    claims: Sequence[Claim],
    tables: dict[str, pd.DataFrame],
    hits: dict[str, np.ndarray],
    counts: pd.DataFrame | None,
    demo: bool,
) -> pd.DataFrame:
    """The claims with what was measured and their verdicts: one row a claim, columns `CLAIMS`, all text.

    tables: target -> tidy table; hits: run key -> (N,) bool, top-1 right or wrong; counts:
    `experiments.costs.counts`. Where a claim has several parts, mean to video_high are those of the part that
    stands in its way most. In the demo nothing is measured for values, differences and comparisons with
    printed scores.
    """
    profiles = sorted({name for tidy in tables.values() for name in tidy["profile"]})
    profile = " ".join(profiles) or ("demo" if demo else "paper")
    # Split 0 holds the runs that chose a learning rate, on training videos set aside.
    tables = {target: tidy[tidy["split"] != 0] for target, tidy in tables.items()}
    paired = functools.cache(functools.partial(_paired, tables, hits or None))
    rows = []
    for claim in claims:
        beside_print = any(part.less_name for part in claim.parts)
        against_print = beside_print or claim.kind in OF_PRINT
        printed = float(claim.printed) if claim.kind in (*OF_PRINT, "count") else 0.0
        if claim.kind == "count":
            measured = [_counted(part, counts) for part in claim.parts]
        elif demo and against_print:
            measured = []
        else:
            measured = [_measured(part, tables, hits, paired) for part in claim.parts]
        audit = claim.check() if claim.check else None
        said, why = verdict(
            claim.kind, measured, printed, claim.tolerance, claim.asks, demo, beside_print, audit
        )
        if said != NOT_RUN and claim.parts and claim.parts[0].target in tables:
            if against_print:
                why += _other_views(tables[claim.parts[0].target])
            elif demo:
                why = f"{_where(claim, tables)}: {why}"
        shown = _shown(claim, [part for part in measured if part], printed)
        about = [getattr(claim, name) for name in CLAIMS[:7]]
        rows.append([*about, _plain(claim.tolerance), claim.why, profile, *shown, said, why])
    return pd.DataFrame(rows, columns=CLAIMS, dtype=str)


def _where(claim: Claim, tables: dict[str, pd.DataFrame]) -> str:
    """What a claim about the paper's data was really measured on, in the demo."""
    found = []
    for part in claim.parts:
        rows = tables[part.target]
        found.append(rows.loc[rows["role"] == part.role, ["dataset", "views"]])
    rows = pd.concat(found)
    return f"{IN_THE_DEMO}{', '.join(rows['dataset'].unique())}, {' '.join(rows['views'].unique())} view)"


def _other_views(tidy: pd.DataFrame) -> str:
    views = " ".join(sorted(set(tidy["views"]) - {"4x3"}))
    return f"; {views} views where the paper has 4x3" if views else ""


def _measured(
    part: Part, tables: dict[str, pd.DataFrame], hits: dict[str, np.ndarray], paired
) -> Measured | None:
    if part.target not in tables:
        return None
    if untrained(part.variant) and part.reference and not untrained(part.reference):
        # Runs without training are a reference, never a variant: measured the other way round and turned.
        turned = _pair(part, paired(part.target, part.reference, part.variant, part.metric))
        found = turned and [turned[0], *(-turned[i] for i in (1, 3, 2, 5, 4))]
    elif part.reference and not part.less_k and not part.less_metric:
        found = _pair(part, paired(part.target, part.variant, part.reference, part.metric))
    else:
        found = _sum(part, tables[part.target], hits)
    if not found:
        return None
    n, *values = found
    mean, low, high, video_low, video_high = (float(value) - part.less for value in values)
    trained = bool(part.trained_on)
    return Measured(int(n), mean, low, high, video_low, video_high, str(part), trained)


def _paired(tables, hits, target: str, variant: str, reference: str, metric: str) -> pd.DataFrame | None:
    rows = tables[target][tables[target]["metric"] == metric]
    there = {variant, reference} <= set(rows["variant"])
    return stats.paired_difference(rows, variant, reference, metric, hits) if there else None


def _pair(part: Part, gains: pd.DataFrame | None) -> list | None:
    """n, mean, low, high, video_low, video_high of what one variant gains over another."""
    if gains is None:
        return None
    chosen = (gains["role"] == part.role) & (gains["trained_on"] == part.trained_on) & (gains["k"] == part.k)
    names = ["n", "mean", "low", "high", "video_low", "video_high"]
    return gains.loc[chosen, names].iloc[0].tolist() if chosen.any() else None


def _sum(part: Part, rows: pd.DataFrame, hits: dict[str, np.ndarray]) -> list | None:
    """Like `_pair`, of a score, or of a signed sum of scores of runs that share seed and split."""
    spread = part.metric == "split_sd"
    names = [(part.variant, 1), *([(part.reference, -1)] if part.reference else [])]
    ks = [(part.k, 1), *([(part.less_k, -1)] if part.less_k else [])]
    metrics = [
        ("top1" if spread else part.metric, 1),
        *([(part.less_metric, -1)] if part.less_metric else []),
    ]
    rows = rows[(rows["role"] == part.role) & (rows["trained_on"] == part.trained_on)]
    terms = []
    for (variant, sign), (k, of_k), (metric, of_metric) in itertools.product(names, ks, metrics):
        runs = rows[(rows["variant"] == variant) & (rows["k"] == k) & (rows["metric"] == metric)]
        runs = runs.set_index(["seed", "split"])
        if not runs.index.is_unique:
            raise InputError(f"results hold two runs of one seed and split for {part}; remove one")
        terms.append((sign * of_k * of_metric, runs))
    values = pd.concat([sign * runs["value"] for sign, runs in terms], axis=1, join="inner").sum(axis=1)
    if values.empty or (spread and values.index.get_level_values("split").nunique() < 2):
        return None
    by_seed = values.groupby("seed")
    mean, low, high = stats.t_interval((by_seed.std() if spread else by_seed.mean()).round(4))
    videos = (math.nan, math.nan)
    if hits and metrics == [("top1", 1)] and not spread:
        # Per split: the signed sum of hits, averaged over seeds, one number a test video.
        splits = sorted(set(values.index.get_level_values("split")))
        scored: dict[int, list[Any]] = {split: [] for split in splits}
        for run in values.index:
            scored[run[1]].append(
                100 * sum(sign * hits[runs["key"][run]].astype(float) for sign, runs in terms)
            )
        videos = stats.bootstrap_interval([np.mean(one, axis=0) for one in scored.values()])[1:]
    return [by_seed.ngroups, mean, low, high, *videos]


def _counted(part: Part, counts: pd.DataFrame | None) -> Measured | None:
    """A count by the paper's rule; of the full model with L=7 differences, the number that its Table 3
    fits."""
    if counts is None:
        return None
    rows = counts[(counts["counting"] == "paper's rule") & (counts["metric"] == part.metric)]
    rows = rows[rows["dataset"] == part.role] if part.role else rows
    found = []
    for name in filter(None, (part.variant, part.reference)):
        own = rows[rows["variant"] == name]
        own = own[pd.to_numeric(own["L"]).isin([0, 7])]  # 0: without differences, or the number of parameters
        if own.empty:
            return None
        found.append(float(own["value"].iloc[0]))
    counted = found[0] - sum(found[1:])
    return Measured(1, counted, counted, counted, name=str(part), trained=False)


def _shown(claim: Claim, measured: list[Measured], printed: float) -> list[str]:
    if not measured:
        return [""] * 6
    centre = printed if claim.kind in OF_PRINT else 0.0
    judged = [_part_verdict(part, claim.kind, claim.asks, centre, claim.tolerance) for part in measured]
    part = measured[_weakest(measured, judged, claim.kind, claim.asks, centre)]
    numbers = [part.mean, part.low, part.high, part.video_low, part.video_high]
    seeds = str(min(part.n for part in measured)) if part.trained else ""
    # + 0.0: no '-0.0000'.
    return [seeds, *("" if math.isnan(number) else f"{round(number, 4) + 0.0:.4f}" for number in numbers)]


def _plain(number: float) -> str:
    """Without an exponent and without zeros at the end."""
    return "" if math.isnan(number) else f"{number:.5f}".rstrip("0").rstrip(".")


def load(profile: str = "demo", source: str = "recorded") -> pd.DataFrame:
    """The verdicts as text, columns `CLAIMS`.

    source: "recorded" (for the demo results/claims.csv, in git), "run" (those of this checkout's own runs),
    or a folder of results (see `experiments.results_folder`). Raises InputError when there is none, or when
    it holds an unknown kind or verdict.
    """
    results = paths.root() / "results"
    if source == "recorded" and profile == "demo":
        path = results / "claims.csv"
    else:
        own = str(results) if source in ("recorded", "run") else source
        path = experiments.results_folder(profile, own) / "claims.csv"
    frame = read_csv(path, CLAIMS, "made by ./reproduce.sh all")
    for name, known in (("kind", KINDS), ("verdict", VERDICTS)):
        unknown = frame[~frame[name].isin(known)]
        if len(unknown):
            row = unknown.iloc[0]
            raise InputError(
                f"{path}: {name} of {row['id']} is '{row[name]}', expected one of {', '.join(known)};"
                " make it again"
            )
    return frame


def csv_text(frame: pd.DataFrame) -> str:
    """The text of claims.csv."""
    return frame[CLAIMS].to_csv(index=False, lineterminator="\n")


def _note(frame: pd.DataFrame) -> str:
    """The line that must stand above verdicts which come from the demo world; empty where there are none."""
    drawn = frame["reason"].str.startswith(IN_THE_DEMO).any()
    return f"orders, trends, assumptions: {DEMO_NOTE}" if drawn else ""


def counts_by_verdict(frame: pd.DataFrame) -> Table:
    """How many claims of each kind came to each verdict."""
    counted = pd.crosstab(frame["kind"], frame["verdict"]).reindex(
        index=KINDS, columns=VERDICTS, fill_value=0
    )
    counted.loc["all"] = counted.sum()
    counted["all"] = counted.sum(axis=1)
    counted.index.name, counted.columns.name = "kind", None
    shown = counted.astype(str).replace("0", ".")
    css = shown.apply(lambda column: column.map(lambda cell: _chip_css(column.name) if cell != "." else ""))
    return Table(shown, _note(frame), _note(frame), ((shown, css),))


def _chip_css(verdict: object) -> str:
    background, colour = CHIPS.get(str(verdict), ("", ""))
    return f"background-color: {background}; color: {colour}" if background else "font-weight: bold"


def listing(frame: pd.DataFrame) -> Table:
    """Each claim in full: where it stands, what it says, and the reason of its verdict."""
    paragraphs = []
    for row in frame.itertuples():
        paragraph = [f"{row.verdict:<{len(INCONSISTENT)}}  {row.id}"]
        for text in (f"{row.place}: {row.statement}", row.reason):
            paragraph += textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="      ")
        paragraphs.append("\n".join(paragraph))
    text = "\n\n".join(filter(None, [_note(frame), "\n".join(paragraphs)])) + "\n"
    return _page(frame, text, {"place": "place", "statement": "claim", "printed": "printed", "reason": "why"})


def lines(frame: pd.DataFrame, rest: Sequence[str] = ()) -> Table:
    """One line a claim: its verdict, what was measured, the intervals over seeds and test videos, its id.

    rest: lines that follow, on claims without a verdict.
    """
    shown = frame.assign(
        mean=[f"{float(mean):+.1f}" if mean else "" for mean in frame["mean"]],
        seeds=[_range(*ends) for ends in zip(frame["low"], frame["high"], strict=True)],
        videos=[_range(*ends) for ends in zip(frame["video_low"], frame["video_high"], strict=True)],
    )
    names = {"mean": "mean", "seeds": "over seeds", "videos": "over videos", "id": "claim"}
    rows = shown.set_index("verdict")[list(names)].rename(columns=names)
    parts = [_note(frame), unfolded(rows) if len(frame) else "", "\n".join(rest)]
    text = "\n\n".join(filter(None, parts)) + "\n"
    columns = {"statement": "claim", "mean": "mean", "seeds": "over seeds", "videos": "over videos"}
    return _page(shown, text, columns, rest)


def waiting(frame: pd.DataFrame) -> Table:
    """How many claims of each kind wait, and for what."""
    counted = frame.groupby(["kind", "reason"]).size().reset_index(name="claims").astype(str)
    shown = counted[["claims", "kind", "reason"]]
    text = "\n".join(f"{row.claims:>4}  {row.kind:<10}  {row.reason}" for row in shown.itertuples()) + "\n"
    return Table(text, panels=((shown, pd.DataFrame("", shown.index, shown.columns)),))


def _page(frame: pd.DataFrame, text: str, columns: dict[str, str], notes: Sequence[str] = ()) -> Table:
    shown = frame[["verdict", *columns]].rename(columns=columns).reset_index(drop=True)
    css = pd.DataFrame("", shown.index, shown.columns)
    return Table(
        text, notes="\n".join(filter(None, [_note(frame), *notes])), panels=((shown, css),) * bool(len(shown))
    )


def _range(low: str, high: str) -> str:
    return f"{float(low):.1f}..{float(high):.1f}" if low else ""
