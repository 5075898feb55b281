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
from flowclip_kit.experiments.results_table import hits_key, read_csv
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

REPRODUCED, DIFFERENT, UNDECIDED, FEW, NOT_RUN, INCONSISTENT, SETTINGS = VERDICTS = [
    "reproduced",
    "different",
    "undecided",
    "too few seeds",
    "not run",
    "inconsistent in print",
    "settings differ",
]

CLAIMS = (
    "id place kind statement printed protocol cells tolerance why profile seeds mean se df low high"
    " run_low run_high video_low video_high p p_bh p_holm verdict reason"
).split()

OF_PRINT = ("value", "difference")  # kinds that compare a measured amount with a printed one
# Fewer give no interval worth reading: two seeds' t interval is nine standard deviations wide to each side.
SEEDS = 3
PRINTED_RUNS = 10  # of section 4.3
IN_THE_DEMO = "demo world ("  # how the reason of a verdict from the demo begins
DEMO = "the demo world is no evidence about printed values"
ROUNDING = 1e-9  # of sums of decimal numbers held in binary


@dataclass(frozen=True)
class Measured:
    """One part as it was measured; nan where there is nothing of the kind.

    n: seeds. se, df: standard error that decides, and its degrees of freedom: of `stats.crossed`, beside
    print its run_se. run_low to video_high: 95 % intervals over seeds and over test videos, to be seen.
    error: standard error of the printed mean. trained: False where nothing is, so that there are no seeds.
    """

    n: int
    mean: float
    se: float = math.nan
    df: float = math.nan
    run_low: float = math.nan
    run_high: float = math.nan
    video_low: float = math.nan
    video_high: float = math.nan
    error: float = 0.0
    name: str = ""
    trained: bool = True

    @property
    def half(self) -> float:
        """Half of the 95 % interval."""
        return self.se * float(stats.stdtrit(self.df, 1 - stats.LEVEL / 2))


def verdict(
    kind: str,
    measured: Sequence[Measured | None] = (),
    printed: float = 0.0,
    tolerance: float = math.nan,
    asks: str = "same",
    demo: bool = False,
    beside_print: bool = False,
    audit: tuple[bool | None, str] | None = None,
    p: float = math.nan,
) -> tuple[str, str]:
    """(verdict, reason) of one claim from what was measured of its parts, None where a part has no run.

    A part that asks for a gain holds when its mean is above zero and its two-sided p at most 5 %; p, of an
    order, is that value adjusted for all orders of its table. Any other asks for equality with the printed
    number (zero for trends and assumptions), and holds when two one-sided tests (TOST) at 5 % place it within
    the margin: the tolerance and one standard error of the printed mean. "no more" needs the upper test
    alone. A part is contradicted when it lies on the other side, or outside the margin, with 2.5 % to one
    side, divided by the number of parts, of which any could be so by chance.

    One part that is contradicted makes the claim different; all must hold for reproduced; anything else is
    undecided, and so is a claim of which a part has no standard error. Values and differences take the one
    over seeds on given test videos, since the paper's are the same; frozen CLIP then has no spread at all. A
    count has none either. An audit concerns print alone; its check is None where two settings differ.
    beside_print: the parts are compared with printed numbers, which the demo cannot be.
    """
    if kind == "audit":
        assert audit is not None
        agrees, said = audit
        return {True: REPRODUCED, False: INCONSISTENT, None: SETTINGS}[agrees], said
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
    tests = [_test(part, kind, asks, centre, tolerance, len(parts), p) for part in parts]
    judged = [test.verdict for test in tests]
    together = judged[0] if len(set(judged)) == 1 else DIFFERENT if DIFFERENT in judged else UNDECIDED
    said = _reason(parts, tests, kind, asks, centre)
    if kind == "assumption":
        said += {REPRODUCED: "; does not matter", DIFFERENT: "; matters", UNDECIDED: "; open"}[together]
    return together, said


@dataclass(frozen=True)
class _Test:
    """What became of one part: its verdict, p of the test that decided, its margin, how near it is."""

    verdict: str
    p: float
    margin: float
    room: float


def _test(
    part: Measured, kind: str, asks: str, centre: float, tolerance: float, parts: int, p: float = math.nan
) -> _Test:
    gap, margin = part.mean - centre, tolerance + part.error
    beyond = {"gain": -gap, "no more": gap - margin}.get(asks, abs(gap) - margin)
    if not part.trained and kind in OF_PRINT:
        return _Test(DIFFERENT if beyond > ROUNDING else REPRODUCED, math.nan, margin, -beyond)
    if math.isnan(part.se):
        return _Test(UNDECIDED, math.nan, margin, -math.inf)
    if asks == "gain":
        p = 2 * stats.above(abs(gap), part.se, part.df) if math.isnan(p) else p
        holds, out = p <= stats.LEVEL and gap > 0, p if gap < 0 else 1.0
    else:
        one = stats.above(margin - gap, part.se, part.df)
        p = one if asks == "no more" else stats.equivalence(gap, part.se, part.df, margin)
        holds, out = p <= stats.LEVEL, 2 * stats.above(beyond, part.se, part.df)
    out *= parts
    said = REPRODUCED if holds else DIFFERENT if out <= stats.LEVEL else UNDECIDED
    return _Test(said, min(out, 1.0) if said == DIFFERENT else p, margin, -beyond / part.se)


def _weakest(tests: Sequence[_Test]) -> int:
    """Which part stands in the way of the claim most."""
    rank = [DIFFERENT, UNDECIDED, REPRODUCED].index
    return min(range(len(tests)), key=lambda number: (rank(tests[number].verdict), tests[number].room))


def _reason(measured, tests, kind: str, asks: str, centre: float) -> str:
    number = _weakest(tests)
    part, test, sign = measured[number], tests[number], "" if kind == "value" else "+"
    over = "nothing trained"
    if not math.isnan(part.se):
        given = " on the same test videos" if kind in OF_PRINT else " and test videos"
        who = f"over {part.n} seeds{given}" if part.trained else "over test videos, nothing trained"
        over = f"{part.mean - part.half:{sign}.2f} to {part.mean + part.half:{sign}.2f} {who}"
    elif part.trained:
        videos = kind in OF_PRINT or not math.isnan(part.video_low)
        over = "no spread to judge by" if videos else "no interval over test videos for this metric"
        over += f"; {part.run_low:{sign}.2f} to {part.run_high:{sign}.2f} over {part.n} seeds"
    wanted = {"gain": "zero", "no more": f"{test.margin:.3g}"}.get(asks, f"{centre:g} ± {test.margin:.3g}")
    lies = {
        REPRODUCED: {"gain": "above", "no more": "not above"}.get(asks, "within"),
        DIFFERENT: {"gain": "below", "no more": "above"}.get(asks, "outside"),
        UNDECIDED: {"gain": "not clear of", "no more": "not clear of"}.get(
            asks, "not clear of the bounds of"
        ),
    }[test.verdict]
    said = f"{part.mean:{sign}.2f} ({over}): {lies} {wanted}"
    if not math.isnan(test.p):
        adjusted = ", adjusted for its table" if kind == "order" else ""
        said += f" (p {_p(test.p)}{adjusted})"
    if len(measured) > 1:
        holds = sum(test.verdict == REPRODUCED for test in tests)
        said = f"{holds} of {len(tests)} parts hold; weakest {part.name}: {said}"
    return said


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def measure(
    claims: Sequence[Claim],
    tables: dict[str, pd.DataFrame],
    hits: dict[str, np.ndarray],
    counts: pd.DataFrame | None,
    demo: bool,
) -> pd.DataFrame:
    """The claims with what was measured and their verdicts: one row a claim, columns `CLAIMS`, all text.

    tables: target -> tidy table; hits: of `results_table.by_key`; counts:
    `experiments.costs.counts`. Where a claim has several parts, mean to p are those of the part that stands
    in its way most. p_bh and p_holm: p of an order, adjusted among the orders of its table after Benjamini
    and Hochberg, which decides, and after Holm. In the demo nothing is measured for values, differences and
    comparisons with printed scores.
    """
    profiles = sorted({name for tidy in tables.values() for name in tidy["profile"]})
    profile = " ".join(profiles) or ("demo" if demo else "paper")
    # Split 0 holds the runs that chose a learning rate, on training videos set aside.
    tables = {target: tidy[tidy["split"] != 0] for target, tidy in tables.items()}
    paired = functools.cache(functools.partial(_paired, tables, hits or None))
    beside = [any(part.less_name for part in claim.parts) for claim in claims]
    measured: list[list[Measured | None]] = []
    for claim, beside_print in zip(claims, beside, strict=True):
        if claim.kind == "count":
            measured.append([_counted(part, counts) for part in claim.parts])
        elif demo and (beside_print or claim.kind in OF_PRINT):
            measured.append([])
        else:
            measured.append([_measured(claim, part, tables, hits, paired) for part in claim.parts])
    own, bh, holm = _p_values(claims, measured)
    rows = []
    for number, claim in enumerate(claims):
        parts, against_print = measured[number], beside[number] or claim.kind in OF_PRINT
        printed = float(claim.printed) if claim.kind in (*OF_PRINT, "count") else 0.0
        audit, p = claim.check() if claim.check else None, bh[number]
        said, why = verdict(
            claim.kind, parts, printed, claim.tolerance, claim.asks, demo, beside[number], audit, p
        )
        if said != NOT_RUN and claim.parts and claim.parts[0].target in tables:
            if against_print:
                why += _other_views(tables[claim.parts[0].target])
            elif demo:
                why = f"{_where(claim, tables)}: {why}"
        shown = _shown(claim, [part for part in parts if part], printed, own[number])
        about = [getattr(claim, name) for name in CLAIMS[:7]]
        shown += [_number(value) for value in (p, holm[number])]
        rows.append([*about, _plain(claim.tolerance), claim.why, profile, *shown, said, why])
    return pd.DataFrame(rows, columns=CLAIMS, dtype=str)


def _p_values(
    claims: Sequence[Claim], measured: Sequence[Sequence[Measured | None]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p of every order, as it is and adjusted among the orders of its table (see `stats.adjusted`); else
    nan."""
    own = np.full(len(claims), math.nan)
    families: dict[str, list[int]] = {}
    for number, (claim, parts) in enumerate(zip(claims, measured, strict=True)):
        part = parts[0] if claim.kind == "order" and parts else None
        if part and not math.isnan(part.se) and (part.n >= SEEDS or not part.trained):
            own[number] = 2 * stats.above(abs(part.mean), part.se, part.df)
            families.setdefault(claim.parts[0].target, []).append(number)
    bh, holm = own.copy(), own.copy()
    for members in families.values():
        bh[members], holm[members] = stats.adjusted(own[members])
    return own, bh, holm


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
    claim: Claim, part: Part, tables: dict[str, pd.DataFrame], hits: dict[str, np.ndarray], paired
) -> Measured | None:
    if part.target not in tables:
        return None
    sign = 1
    if untrained(part.variant) and part.reference and not untrained(part.reference):
        # Runs without training are a reference, never a variant: measured the other way round and turned.
        found, sign = _pair(part, paired(part.target, part.reference, part.variant, part.metric)), -1
    elif part.reference and not part.less_k and not part.less_metric:
        found = _pair(part, paired(part.target, part.variant, part.reference, part.metric))
    else:
        found = _sum(part, tables[part.target], hits)
    if not found:
        return None
    of = dict(zip(stats.SPREADS, map(float, found), strict=True))
    n = int(of["n"])
    if claim.kind in OF_PRINT:
        of |= {"se": of["run_se"], "df": n - 1}
    names = ["run_low", "run_high", "video_low", "video_high"]
    turned = names if sign > 0 else ["run_high", "run_low", "video_high", "video_low"]
    ends = {name: sign * of[at] - part.less for name, at in zip(names, turned, strict=True)}
    asked = claim.own_error and claim.asks != "gain" and not math.isnan(of["run_se"])
    error = of["run_se"] * math.sqrt(n / PRINTED_RUNS) if asked else 0.0
    mean, trained = sign * of["mean"] - part.less, bool(part.trained_on)
    return Measured(n, mean, of["se"], of["df"], **ends, error=error, name=str(part), trained=trained)


def _paired(tables, hits, target: str, variant: str, reference: str, metric: str) -> pd.DataFrame | None:
    rows = tables[target][tables[target]["metric"] == metric]
    there = {variant, reference} <= set(rows["variant"])
    return stats.paired_difference(rows, variant, reference, metric, hits) if there else None


def _pair(part: Part, gains: pd.DataFrame | None) -> list | None:
    """What one variant gains over another, as `stats.spreads` gives it."""
    if gains is None:
        return None
    chosen = (gains["role"] == part.role) & (gains["trained_on"] == part.trained_on) & (gains["k"] == part.k)
    return gains.loc[chosen, stats.SPREADS].iloc[0].tolist() if chosen.any() else None


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
    videos = None
    keys = [
        [(sign, hits_key(runs["key"][run], metrics[0][0])) for sign, runs in terms] for run in values.index
    ]
    known = len(metrics) == 1 and not spread and all(key in hits for of_run in keys for _, key in of_run)
    if hits and known:
        signed: list[Any] = [sum(sign * hits[key].astype(float) for sign, key in of_run) for of_run in keys]
        videos = stats.by_split(signed, values.index.to_frame(index=False))
    return stats.spreads(
        (by_seed.std() if spread else by_seed.mean()).round(4), videos, trained=bool(part.trained_on)
    )


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
    return Measured(1, counted, name=str(part), trained=False)


def _shown(claim: Claim, measured: list[Measured], printed: float, p: float) -> list[str]:
    """The numbers of the part that stands in the claim's way most; p is of an order, or of that part."""
    if not measured:
        return [""] * 11
    centre = printed if claim.kind in OF_PRINT else 0.0
    tests = [_test(part, claim.kind, claim.asks, centre, claim.tolerance, len(measured)) for part in measured]
    number = _weakest(tests)
    part = measured[number]
    p = tests[number].p if math.isnan(p) and claim.kind != "count" else p
    numbers = [part.mean, part.se, part.df, part.mean - part.half, part.mean + part.half]
    numbers += [part.run_low, part.run_high, part.video_low, part.video_high, p]
    seeds = str(min(part.n for part in measured)) if part.trained else ""
    return [seeds, *map(_number, numbers)]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{round(value, 4) + 0.0:.4f}"  # + 0.0: no '-0.0000'


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
    counted = pd.crosstab(frame["verdict"], frame["kind"]).reindex(
        index=VERDICTS, columns=KINDS, fill_value=0
    )
    counted.loc["all"] = counted.sum()
    counted["all"] = counted.sum(axis=1)
    counted.index.name, counted.columns.name = "verdict", None
    shown = counted.astype(str).replace("0", ".")
    css = shown.apply(lambda row: row.map(lambda cell: _chip_css(row.name) if cell != "." else ""), axis=1)
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
    """One line a claim: its verdict, what was measured, the interval that decides, its p value, its id.

    rest: lines that follow, on claims without a verdict.
    """
    shown = frame.assign(
        mean=[f"{float(mean):+.1f}" if mean else "" for mean in frame["mean"]],
        interval=[_range(*ends) for ends in zip(frame["low"], frame["high"], strict=True)],
        p=[_p(float(p)) if p else "" for p in frame["p_bh"].where(frame["p_bh"] != "", frame["p"])],
    )
    names = {"mean": "mean", "interval": "95 %", "p": "p", "id": "claim"}
    rows = shown.set_index("verdict")[list(names)].rename(columns=names)
    parts = [_note(frame), unfolded(rows) if len(frame) else "", "\n".join(rest)]
    text = "\n\n".join(filter(None, parts)) + "\n"
    columns = {"statement": "claim", "mean": "mean", "interval": "95 %", "p": "p"}
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
