"""The claims register: what the paper prints, states or leaves open, and what would confirm or refute it.

Claims come from results/paper and from the sentences of the abstract and of sections 3.2 to 4.5;
`reporting.claims` measures them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any

import pandas as pd

from flowclip_kit.experiments.catalogue import BOTH, HMDB, INITIALISATIONS, KINETICS, UCF
from flowclip_kit.reporting import audit
from flowclip_kit.reporting.audit import BEST, CLASSES, LESSER, PROMPTS, SHOTS, Printed

KINDS = ["value", "difference", "order", "trend", "count", "assumption", "audit"]
POINT = 1.0  # points within which two accuracies count as the same

PROTOCOL = {
    "table1": "closed-set, MCB off, 4x3 views",
    "table2": "closed-set, H=5, 4x3 views",
    "table3": "counted by the paper's rule, T=8; of full with L=7",
    "table4": "5-shot, mean of 10 runs, 4x3 views",
    "table5": "k-shot, mean of 10 runs, 4x3 views",
    "table6": "trained closed-set on Kinetics-400, tested as it is on three splits, 4x3 views",
    "table7": "trained on one data set, tested as it is on three splits of the other, 4x3 views",
    "table8": "closed-set, best models, 4x3 views",
    "figure3a": "closed-set, H=3, 4x3 views",
    "figure3b": "closed-set, 4x3 views",
    "figure3c": "closed-set, all parts on, 4x3 views",
    "figure3d": "closed-set, 4x3 views",
    "rivals": "k-shot; each method at its own learning rate, chosen on training videos set aside",
    "readings": "16-shot; each reading at its own learning rate, chosen on training videos set aside",
}

SAME_VALUE = (
    "1 point, about what another copy of the videos, decoder or draw of test clips moves a score, "
    "half of the last printed digit, and one standard error of the printed mean: "
)
OWN_ERROR = "our own sd over seeds / sqrt(10), added when it is known, since none is printed of its 10 runs"
PRINTED_ERROR = "its printed spread / sqrt(3), of three splits"
ABOVE_ZERO = (
    "no tolerance: the two-sided p of a gain of zero, over seeds and test videos at once, must be 5 % at most"
)
ADJUSTED = f"{ABOVE_ZERO}, adjusted for all orders of its table after Benjamini and Hochberg"
EQUAL = f"1 point, as for values: less would not change the verdict on one; and {OWN_ERROR}"
SPREAD = (
    "half of the printed spread, the standard error of a standard deviation of three splits, and half a digit"
)
DIGIT = "half of the last printed digit: a count has no spread"
PRINT_ONLY = "exact on the printed digits; nothing is measured"

# Rows of Tables 4 and 5 that section 4.3 compares.
STEPS = (
    ("mcb", "baseline"),
    ("mmb", "baseline"),
    ("mmb+map", "mmb"),
    ("full", "mmb+map"),
    ("full", "baseline"),
)

# Section of the paper that speaks of a target.
SECTION = {
    "readings": "3.3",
    "table4": "4.3",
    "table5": "4.3",
    "table6": "4.4",
    "table7": "4.4",
    "table8": "4.5",
}

# Differences that the text gives in numbers: target, data set, k, variant, over what, points.
STATED = (
    ("table5", HMDB, 2, "mcb", "baseline", "13.7"),
    ("table5", HMDB, 2, "mmb", "baseline", "17.4"),
    ("table5", HMDB, 2, "mmb+map", "baseline", "18.5"),
    ("table5", HMDB, 2, "full", "baseline", "19.6"),
    ("table5", UCF, 2, "full", "X-CLIP", "6.0"),
    ("table5", UCF, 16, "full", "X-CLIP", "0.2"),
    ("table5", HMDB, 2, "mmb+map", "X-CLIP", "1.2"),
    ("table5", UCF, 2, "mmb+map", "X-CLIP", "2.0"),
    ("table4", KINETICS, 5, "full", "Ju et al.", "3.0"),
    ("table6", HMDB, 0, "full", "X-CLIP", "5.5"),
    ("table6", UCF, 0, "full", "X-CLIP", "4.4"),
    ("table7", UCF, 0, "full", "baseline", "28.9"),
    ("table7", HMDB, 0, "full", "baseline", "21.8"),
    ("table8", HMDB, 0, "full", "Ju et al.", "6.5"),
    ("table8", UCF, 0, "full", "Ju et al.", "2.7"),
    ("table8", KINETICS, 0, "full", "Ju et al.", "0.8"),
)

# Figure 3 prints no value; the text gives these differences, whose amounts stand in
# results/paper/figure3.csv.
STATED_OF_FIGURE3 = (
    ("figure3a", "mmb", "baseline"),
    ("figure3a", "mmb+map H=3", "mmb"),
    ("figure3a", "full H=3", "mmb+map H=3"),
    ("figure3c", "H=5", "H=3"),
)

# Who beats whom without an amount, or at more k than the amounts are given for.
ORDERS = (
    ("table1", BOTH, (0,), PROMPTS),
    ("table4", (KINETICS,), (5,), STEPS),
    ("table5", BOTH, SHOTS, STEPS),
    ("table5", (HMDB,), (8, 16), (("baseline", "clip"),)),  # with fewer it is printed below, see `BELOW_CLIP`
    ("table5", (UCF,), SHOTS, (("baseline", "clip"),)),
    ("table6", BOTH, (0,), (("full", "clip"),)),
    ("table7", BOTH, (0,), (("full", "baseline"), ("full", "clip"), ("baseline", "clip"))),
    ("figure3a", BOTH, (0,), (("full H=3", "clip"), ("full H=3", "baseline"), ("baseline", "clip"))),
    ("figure3d", BOTH, (0,), (("s=4", "s=1"),)),
    ("readings", BOTH, (16,), (("default", "prompts without motion"),)),
)

# Where Table 5 prints Baseline below frozen CLIP of Table 1: k, and how it is called.
BELOW_CLIP = ((2, "two"), (4, "four"))

# Open readings of both models: name, place, what, printed, taken (and other), the variant that differs.
READINGS = (
    (
        "norm-order",
        "section 3.2",
        "norms of the two streams",
        "standard architecture",
        "pre; other: post",
        "post-norm",
    ),
    (
        "positions",
        "section 3.2",
        "positional code of the streams",
        "",
        "none; other: learned",
        "learned positions",
    ),
    (
        "residual",
        "Eq. 6",
        "mean frame feature added to the video vector",
        "",
        "off; other: on",
        "outer residual",
    ),
    (
        "tau",
        "section 4.1",
        "fixed temperature in training and test",
        "0.07",
        "0.07; other: CLIP's 0.01",
        "tau .01",
    ),
    (
        "size-of-positions",
        "section 3.2",
        "learned positional code as large as the features",
        "",
        "none; other: learned, from deviation 1.3",
        "large learned positions",
    ),
    (
        "activation",
        "section 3.2",
        "activation of the two streams' feed-forward nets",
        "standard architecture",
        "ReLU; other: GELU",
        "gelu",
    ),
    (
        "warm-up",
        "section 4.2",
        "share of the steps in which the rate rises",
        "cosine",
        "none; other: a tenth",
        "warm-up",
    ),
    (
        "draws-of-a-segment",
        "section 4.1",
        "stored frames that a segment offers a training step",
        "randomly sample",
        "all; other: the middle one",
        "no jitter",
    ),
)

# Open settings that no run compares: name, place, what, printed, taken.
NOT_COMPARED = (
    (
        "training-crops",
        "section 4.1",
        "views of a frame that training draws from; the demo stores one",
        "",
        "left, centre, right, mirrored",
    ),
    (
        "epochs",
        "sections 4.2, 4.3",
        "length of training on HMDB-51 and UCF-101",
        "10 on Kinetics-400",
        "50 epochs",
    ),
    (
        "settings-of-figure3",
        "section 4.2",
        "settings of panels b, c, d",
        "",
        "H=5, all parts, T=8, s=4 (3 at T=4); panel b trains on one draw a segment",
    ),
    (
        "fusion-of-views",
        "section 4.1",
        "how 12 views become one score",
        "average of all views",
        "mean softmax score",
    ),
    ("momentum-and-decay", "section 4.2", "momentum and weight decay", "standard SGD", "0.9 and 0"),
    (
        "last-row-of-table4",
        "section 4.3; Table 4",
        "parts of the last row, whose ticks the text of the page gives for MAP and MCB alone",
        "61.5",
        "all three: section 4.3 calls it the integral model",
    ),
    (
        "map-without-mmb",
        "sections 3.3, 4.3; Tables 4, 5",
        "what MAP gives without MMB, which no row of the paper shows",
        "",
        "MAP takes its motion from MMB; without it learnt prompts ignore motion",
    ),
)

_COUNTED = {"params": "params", "gflops": "gmac"}


@dataclass(frozen=True)
class Part:
    """One quantity to measure, in percent or points: the score of `variant`, or what it gains over
    `reference`.

    trained_on: of the trained one of the two. less_k, less_metric: from it the same quantity at another k, or
    another metric of the same runs, is subtracted. less: so is a printed number, which less_name names.
    """

    target: str
    role: str
    variant: str
    reference: str = ""
    k: int = 0
    metric: str = "top1"
    less_k: int = 0
    less_metric: str = ""
    less: float = 0.0
    less_name: str = ""

    @property
    def trained_on(self) -> str:
        if self.target == "table3" or all(untrained(name) for name in (self.variant, self.reference) if name):
            return ""
        return _source(self.target, self.role)

    def __str__(self) -> str:
        where = " ".join(filter(None, [self.target, self.role]))
        where += f", trained on {self.trained_on}" if self.trained_on not in ("", self.role) else ""
        what = self.variant + (f" - {self.reference}" if self.reference else "")
        if self.less_k:
            what = f"({what} at k={self.k}) - (the same at k={self.less_k})"
        elif self.k:
            where += f", k={self.k}"
        what += f" - its {self.less_metric}" if self.less_metric else ""
        what += f", less {self.less:g} ({self.less_name})" if self.less_name else ""
        return f"{where}, {self.metric}: {what}"


@dataclass(frozen=True)
class Claim:
    """One number or sentence of the paper, and what would confirm or refute it.

    asks, of each part: "gain" (above zero), "same" (within the tolerance of the printed number, or of zero),
    "no more" (not above the tolerance). own_error: the standard error of the printed mean, unknown in print,
    is estimated by our runs and widens the tolerance. printed and protocol are the paper's. check, of an
    audit: whether the print agrees with itself, None where it compares two settings; and the arithmetic in
    words.
    """

    id: str
    place: str
    kind: str
    statement: str
    printed: str
    protocol: str
    parts: tuple[Part, ...]
    tolerance: float
    why: str
    asks: str = "same"
    check: Callable[[], tuple[bool | None, str]] | None = None
    own_error: bool = True

    @property
    def cells(self) -> str:
        return "; ".join(map(str, self.parts)) or "none"


def register(paper: pd.DataFrame | None = None) -> list[Claim]:
    """Every claim, in the order value, difference, order, trend, count, assumption, audit.

    paper: columns `audit.PRINT` as text, by default results/paper. Raises InputError when a number is
    missing, stands twice or is none.
    """
    paper = audit.read_paper() if paper is None else paper
    printed = audit.as_printed(paper)
    own = paper[paper["source"] == "printed"]
    spreads = {(row.table, row.method, row.dataset): row.spread for row in own.itertuples()}
    differences = _differences(printed, spreads)
    return [
        *_values(paper),
        *differences,
        *_orders(differences, printed),
        *_trends(printed),
        *_counts(paper),
        *_assumptions(),
        *_audits(printed),
    ]


def _values(paper: pd.DataFrame) -> list[Claim]:
    """Each accuracy printed for CLIP, Baseline and the method, and each printed ±."""
    own = paper[(paper["source"] == "printed") & paper["metric"].isin(["top1", "top5"])]
    claims = []
    for row in own.itertuples():
        k, protocol = int(row.k), PROTOCOL[row.table]
        place = f"{_title(row.table)}, row {row.method}, {row.dataset}" + (f", k={k}" if k else "")
        name = _id(row.table, "value", row.method, row.dataset, k, row.metric)
        who, where = _called(row.table, row.method), _where(row.dataset, k)
        said = f"{who} reaches {row.value} % {_spoken(row.metric)} on {where}"
        part = Part(row.table, row.dataset, row.method, "", k, row.metric)
        about = _within(row.value, row.spread)
        claims.append(Claim(name, place, "value", said, row.value, protocol, (part,), **about))
        if row.spread:
            name = _id(row.table, "spread", row.method, row.dataset, k)
            said = f"the sd of {row.method} over the three splits of {row.dataset} is {row.spread}"
            part, tolerance = (
                replace(part, metric="split_sd"),
                float(row.spread) / 2 + _half_digit(row.spread),
            )
            about = {"tolerance": tolerance, "why": SPREAD, "own_error": False}
            claims.append(Claim(name, place, "value", said, row.spread, protocol, (part,), **about))
    return claims


def _within(number: str, *spreads: str) -> dict[str, Any]:
    """Tolerance of a printed number, and why. spreads: printed ones over three splits, of all its terms."""
    error = math.hypot(*(float(spread) for spread in spreads if spread)) / math.sqrt(3)
    why = SAME_VALUE + (PRINTED_ERROR if error else OWN_ERROR)
    return {"tolerance": POINT + _half_digit(number) + error, "why": why, "own_error": not error}


def _differences(printed: Printed, spreads: dict[tuple[str, str, str], str]) -> list[Claim]:
    """Each gap printed in Table 1 or stated in the text, with its amount.

    spreads: (table, method, data set) -> printed spread over splits.
    """
    found = []
    for role in BOTH:
        for variant, reference in PROMPTS:
            for metric in ("top1", "top5"):
                gain = printed("table1", variant, role, f"{metric}_gain")
                found.append(("table1", role, 0, variant, reference, str(gain), metric))
        for target, variant, reference in STATED_OF_FIGURE3:
            gain = printed(target, variant, role, "top1_gain")
            found.append((target, role, 0, variant, reference, str(gain), "top1"))
    claims = []
    for target, role, k, variant, reference, gap, metric in [
        *found,
        *((*stated, "top1") for stated in STATED),
    ]:
        part = Part(target, role, variant, reference, k, metric)
        if reference in printed.rivals.get(target, ()):
            part = _over_rival(printed, target, role, variant, reference, k)
        where = "table1" if target == "table1" else f"s{_section(target)}"
        name = _id(where, "difference", f"{variant}-over-{reference}", role, k, metric)
        said = f"{variant} gains {gap} points of {_spoken(metric)} over {reference} on {_where(role, k)}"
        terms = [variant, *([part.reference] if part.reference else [])]  # a printed competitor cancels
        about = _within(gap, *(spreads.get((target, term, role), "") for term in terms))
        protocol = PROTOCOL[target]
        claims.append(Claim(name, _place(target), "difference", said, gap, protocol, (part,), **about))
    return claims


def _orders(differences: Sequence[Claim], printed: Printed) -> list[Claim]:
    """Who beats whom: each pair of `ORDERS`, and each difference without its amount."""
    found = [
        Part(target, role, variant, reference, k)
        for target, roles, shots, pairs in ORDERS
        for role in roles
        for k in shots
        for variant, reference in pairs
    ]
    found += [claim.parts[0] for claim in differences]
    claims = []
    for part in dict.fromkeys(found):
        other = part.reference or part.less_name.removesuffix(", printed")
        sides = [
            audit.best_clip(printed, part.role)
            if name == "clip"  # its one row here stands for the three prompts of Table 1
            else printed.numbers.get(
                (part.target, name, part.role, 0 if untrained(name) else part.k, part.metric)
            )
            for name in (part.variant, other)
        ]
        said = f"{part.variant} is above {other} in {_spoken(part.metric)} on {_where(part.role, part.k)}"
        where = "s3.3" if part.target == "readings" else part.target
        name = _id(where, "order", f"{part.variant}-over-{other}", part.role, part.k, part.metric)
        values = "{} over {}".format(*sides) if all(sides) else ""
        about = (PROTOCOL[part.target], (part,), math.nan, ADJUSTED, "gain")
        claims.append(Claim(name, _place(part.target), "order", said, values, *about))
    return claims


def _trends(printed: Printed) -> list[Claim]:
    """Sentences that several comparisons must bear out together."""
    claims = []

    def add(name, said, parts, role="", asks="gain", place="", values=""):
        target = parts[0].target
        name = ".".join(filter(None, [target, "trend", name, role and _short(role)]))
        said = f"{said}, {role}" if role else said
        limit = (math.nan, ABOVE_ZERO) if asks == "gain" else (POINT, EQUAL)
        about = (PROTOCOL[target], tuple(parts), *limit, asks)
        claims.append(Claim(name, place or _place(target), "trend", said, values, *about))

    over = partial(_over_rival, printed)
    gaps = [Part("table1", role, *pair, less=20.0, less_name="stated") for role in BOTH for pair in PROMPTS]
    said = "learnt prompts gain over 20 points on hand-crafted ones at every length"
    add("over-twenty-points", said, gaps, values="20")
    level = [over("table4", KINETICS, "mcb", "Ju et al.", 5)]
    add("mcb-matches-ju-et-al", "Baseline with MCB alone is level with Ju et al.", level, KINETICS, "same")
    best = [Part("table4", KINETICS, "full", other, 5) for other in LESSER]
    add("full-is-best", "all three parts together are best", best, KINETICS)
    for role in BOTH:
        best = [Part("table5", role, "full", other, k) for k in SHOTS for other in LESSER]
        add("full-is-best", "all three parts together are best at every k", best, role)
        rivals = [over("table5", role, "full", printed.best_rival("table5", role, k)[1], k) for k in SHOTS]
        said = "the full model is above the best competitor"
        add(
            "new-state-of-the-art",
            f"{said} at every k",
            rivals,
            role,
            place="abstract; section 4.3 on Table 5",
        )
        rivals = [over("table6", role, "full", printed.best_rival("table6", role)[1])]
        add("new-state-of-the-art", said, rivals, role, place="abstract; section 4.4 on Table 6")
        for rival in printed.rivals["table5"]:
            theirs = printed("table5", rival, role, k=2) - printed("table5", rival, role, k=16)
            less = f"the same of {rival}, printed"
            lead = Part("table5", role, "full", k=2, less_k=16, less=float(theirs), less_name=less)
            said = f"the lead over {rival} is larger at k=2 than at k=16"
            add(f"lead-over-{_slug(rival)}-falls", said, [lead], role)
        lead = Part("table5", role, "full", "baseline", 2, less_k=16)
        said = "the lead over Baseline is larger at k=2 than at k=16"
        add("lead-over-baseline-falls", said, [lead], role, place="implied by Table 5")

        eight = [Part("figure3b", role, "T=8", other) for other in ("T=4", "T=16", "T=32")]
        add("eight-frames-are-best", "of 4, 8, 16 and 32 frames, 8 are best", eight, role)
        more = [Part("figure3b", role, *pair) for pair in (("T=8", "T=16"), ("T=16", "T=32"))]
        add("more-frames-hurt", "beyond 8 frames, each doubling loses", more, role)
        longer = [Part("figure3c", role, *pair) for pair in (("H=4", "H=3"), ("H=5", "H=4"))]
        add("longer-prompts-help", "each further prompt vector gains", longer, role)
        steps = [Part("figure3d", role, f"s={s}", "s=1") for s in (2, 3, 4, 5)]
        add("long-steps-help", "every s above 1 is better than s=1", steps, role)
        add(
            "no-gain-beyond-four",
            "s=5 hardly gains over s=4",
            [Part("figure3d", role, "s=5", "s=4")],
            role,
            "no more",
        )
        for metric in ("top1", "top5"):
            words = [Part("table2", role, other, BEST, metric=metric) for other in INITIALISATIONS[1:]]
            said = f"three initial prompts give the same {_spoken(metric)}"
            add(f"initial-words.{metric}", said, words, role, "same")
    for k, word in BELOW_CLIP:
        below = [Part("table5", HMDB, "clip", "baseline", k)]
        values = f"{audit.best_clip(printed, HMDB)} over {printed('table5', 'baseline', HMDB, k=k)}"
        said, place = f"with {k} videos a class Baseline is below frozen CLIP", "implied by Tables 1 and 5"
        add(f"{word}-shot-baseline-below-clip", said, below, HMDB, place=place, values=values)
    said = "a batch of 32 and a rate of 0.0015 make few-shot training more stable than 128 and 0.0025"
    about = ("section 4.3", "trend", said, "", PROTOCOL["table5"], (), math.nan, "no runs compare it", "gain")
    return [*claims, Claim("table5.trend.batch-and-rate-stabilise", *about)]


def _over_rival(printed: Printed, table: str, role: str, variant: str, rival: str, k: int = 0) -> Part:
    return Part(
        table, role, variant, k=k, less=float(printed(table, rival, role, k=k)), less_name=f"{rival}, printed"
    )


def _counts(paper: pd.DataFrame) -> list[Claim]:
    """Table 3, counted by the paper's own rule."""
    claims = []
    for row in paper[(paper["table"] == "table3") & (paper["source"] == "printed")].itertuples():
        metric, gain, _ = row.metric.partition("_gain")
        part = Part("table3", row.dataset, row.method, "clip" if gain else "", metric=_COUNTED[metric])
        what = "million parameters" if metric == "params" else "GFLOPs"
        where = f" on {row.dataset}" if row.dataset else ""
        amount = f"{row.value} {what}"
        said = f"{row.method} " + (f"adds {amount} to clip" if gain else f"takes {amount}") + where
        name = _id("table3", "count", row.method, row.dataset, 0, row.metric)
        place = (
            f"Table 3, row {row.method}"
            + (" (gain)" if gain else "")
            + (f", {row.dataset}" if row.dataset else "")
        )
        claims.append(
            Claim(
                name,
                place,
                "count",
                said,
                row.value,
                PROTOCOL["table3"],
                (part,),
                _half_digit(row.value),
                DIGIT,
            )
        )
    return claims


def _assumptions() -> list[Claim]:
    """What the paper leaves open, what is taken here, and the runs that show whether it matters."""
    claims = []

    def add(name, place, said, printed, taken, parts=()):
        limit = (POINT, EQUAL) if parts else (math.nan, "no runs compare it")
        about = (PROTOCOL[parts[0].target] if parts else "as taken", tuple(parts), *limit)
        claims.append(
            Claim(f"assumption.{name}", place, "assumption", f"{said}; taken: {taken}", printed, *about)
        )

    def compared(variant, reference="default"):
        return [Part("readings", role, variant, reference, 16) for role in BOTH]

    for name, place, said, printed, taken, variant in READINGS:
        add(name, place, said, printed, taken, compared(variant))
        about = (f"{said}, in Baseline", printed, taken, compared(f"baseline, {variant}", "baseline"))
        add(f"{name}.baseline", place, *about)
    said, taken = "output layer of the motion adapter at the start", "random; other: zero, no shift at first"
    add("start-of-adapter", "section 3.3", said, "", taken, compared("adapter from zero"))
    said, taken = (
        "what the texts attend to in the communication block",
        "the pooled vector; other: the sequence [S; M]",
    )
    add("video-tokens", "section 3.4", said, "V as key and value", taken, compared("sequence tokens"))
    said = "differences in the trained model: the text has L=22, the printed cost L=7"
    add("motion-pairs", "section 4.2, Table 3", said, "s=4", "s=4, L=22; other: s=1, L=7", compared("s=1"))
    scores = [(table, role) for table in ("table6", "table7") for role in BOTH]
    halves = [Part(*at, "full", metric="top1_half", less_metric="top1") for at in scores]
    said, taken = "classes of a zero-shot test", "all of a split; other: half of them, 10 draws"
    add("zero-shot-protocol", "section 4.4", said, "three standard splits", taken, halves)
    prompts = [Part("table1", role, name, "clip A") for role in BOTH for name in ("clip B", "clip C")]
    said = "prompt of the CLIP row in Figure 3a"
    add("prompt-of-clip", "section 4.2", said, "hand-crafted prompts", "A; others: B, C", prompts)
    for reading in NOT_COMPARED:
        add(*reading)
    return claims


def _audits(p: Printed) -> list[Claim]:
    claims = []

    def add(name, place, said, check, *about, printed=""):
        args = ("print only", (), math.nan, PRINT_ONLY)
        claims.append(
            Claim(f"audit.{name}", place, "audit", said, printed, *args, check=partial(check, p, *about))
        )

    for target, role, k, variant, reference, gap in STATED:
        said = f"the gain of {variant} over {reference} on {_where(role, k)} follows from the table"
        name = _id(target, "gap", f"{variant}-over-{reference}", role, k)
        add(
            name,
            _place(target),
            said,
            audit.stated_gap,
            target,
            role,
            k,
            variant,
            reference,
            gap,
            printed=gap,
        )
    for rival in p.rivals["table5"]:
        for role in BOTH:
            said = f"the lead over {rival} shrinks with every larger k, {role}"
            name = f"gains-more-with-fewer.{_slug(rival)}.{_short(role)}"
            add(name, "section 4.3; Table 5", said, audit.lead_shrinks, role, rival)
    for name, place, said, check in audit.AUDITS_OF_BOTH:
        for role in BOTH:
            add(f"{name}.{_short(role)}", place, f"{said}, {role}", check, role)
    for role in CLASSES:
        said = f"the data set has the videos and splits that are stated, {role}"
        add(f"data-sets.{_short(role)}", "section 4.1", said, audit.counts_of_data, role)
        said = f"in closed-set top-1 the method is competitive with most others, {role}"
        add(f"competitive.{_short(role)}", "abstract; section 4.5; Table 8", said, audit.competitive, role)
        said = f"the additional cost is full less clip, {role}"
        add(f"table3.gain.{_short(role)}", "Table 3", said, audit.gain_of_table3, role, "gflops")
    for method in ("baseline", "full"):
        said = f"a class costs the same in all three columns, row {method}"
        add(f"table3.cost-per-class.{method}", "Table 3", said, audit.cost_per_class, method)
    for name, place, said, rule, *about in audit.AUDITS:
        add(name, place, said, rule, *about)
    return claims


# --- names --------------------------------------------------------------------------------------------------


def untrained(variant: str) -> bool:
    """Whether it is a row of frozen CLIP."""
    return variant.split(" ")[0] == "clip"


def _source(target: str, role: str) -> str:
    """The paper's data set that a target trains on when it tests on `role`."""
    return {"table6": KINETICS, "table7": {HMDB: UCF, UCF: HMDB}.get(role, role)}.get(target, role)


def _title(target: str) -> str:
    return re.sub(r"^(table|figure)", lambda found: found.group().capitalize() + " ", target)


def _section(target: str) -> str:
    return SECTION.get(target, "4.2")


def _place(target: str) -> str:
    return f"section {_section(target)}" + ("" if target == "readings" else f" on {_title(target)}")


def _where(role: str, k: int) -> str:
    return f"{role} at k={k}" if k else role


def _spoken(metric: str) -> str:
    return metric.replace("top", "top-")


def _called(target: str, variant: str) -> str:
    return f"full from «{variant}»" if target == "table2" else variant


def _short(role: str) -> str:
    return {HMDB: "hmdb", UCF: "ucf", KINETICS: "k400"}[role]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("=", "").replace("+", "-")).strip("-")


def _id(place: str, kind: str, name: str, role: str, k: int = 0, metric: str = "top1") -> str:
    at = f"k{k}" if k in SHOTS and place != "s3.3" else ""  # elsewhere there is one k only
    parts = [place, kind, _short(role) if role else "", _slug(name), at]
    return ".".join(filter(None, [*parts, "" if metric == "top1" else metric]))


def _half_digit(number: str) -> float:
    exponent = Decimal(number).as_tuple().exponent
    assert isinstance(exponent, int)  # else a nan or an infinity
    return float(Decimal(5).scaleb(exponent - 1))
