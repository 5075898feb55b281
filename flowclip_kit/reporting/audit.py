"""What the paper prints, digit by digit, and whether its arithmetic agrees with itself.

A check takes the printed numbers p, and mostly a data set, and returns whether they agree, None where they
belong to different settings, and the sum in words. It holds no verdict: another printed digit may turn it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import pairwise

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit import paths
from flowclip_kit.experiments.catalogue import BOTH, HMDB, INITIALISATIONS, KINETICS, UCF
from flowclip_kit.experiments.results_table import read_csv

FILES = (*(f"table{number}" for number in range(1, 9)), "figure3")
PRINT = "table method source trained_on dataset k metric value spread".split()

# Rows of Tables 4 and 5 below the full model; pairs of rows of Table 1; k of Table 5; first row of Table 2.
LESSER = ("baseline", "mcb", "mmb", "mmb+map")
PROMPTS = (("mmb+map H=3", "clip A"), ("mmb+map H=4", "clip B"), ("mmb+map H=5", "clip C"))
SHOTS = (2, 4, 8, 16)
BEST = INITIALISATIONS[0]

D, FEED_FORWARD, FRAMES = 512, 2048, 8  # section 4.1; of the standard block of that width; section 4.2
# Section 4.1: classes, videos ("about", "around", "more than"), those for training and for testing.
CLASSES = {HMDB: 51, UCF: 101, KINETICS: 400}
VIDEOS = {HMDB: 7000, UCF: 13_000, KINETICS: 240_000}
TRAIN_VIDEOS = {HMDB: 3570, UCF: 9537, KINETICS: 230_000}
TEST_VIDEOS = {HMDB: 1530, UCF: 3783, KINETICS: 19_000}


@dataclass(frozen=True)
class Printed:
    """The printed numbers, exact.

    numbers: (table, method, data set, k, metric) -> number; rivals: table -> the methods that are not the
    paper's own.
    """

    numbers: dict[tuple[str, str, str, int, str], Decimal]
    rivals: dict[str, tuple[str, ...]]

    def __call__(self, table: str, method: str, dataset: str, metric: str = "top1", k: int = 0) -> Decimal:
        try:
            return self.numbers[table, method, dataset, k, metric]
        except KeyError:
            raise InputError(
                f"results/paper: {table} lacks {metric} of {method} on {dataset or 'no data set'}, k={k}, "
                "of which a claim speaks; restore the file from git"
            ) from None

    def best_rival(self, table: str, dataset: str, k: int = 0) -> tuple[Decimal, str]:
        """Top-1 and name of the best competitor in a column."""
        there = [name for name in self.rivals[table] if (table, name, dataset, k, "top1") in self.numbers]
        return max((self(table, name, dataset, k=k), name) for name in there)


def read_paper() -> pd.DataFrame:
    """All files of results/paper as text, one row a printed number. Raises InputError when one is absent."""
    folder = paths.root() / "results" / "paper"
    return pd.concat([read_csv(folder / f"{name}.csv", PRINT, "part of the checkout") for name in FILES])


def as_printed(paper: pd.DataFrame) -> Printed:
    """paper: columns `PRINT` as text. Raises InputError when a number stands twice or is none."""
    numbers = {}
    for row in paper[paper["source"] != "derived"].itertuples():
        key = (row.table, row.method, row.dataset, int(row.k), row.metric)
        what = f"results/paper: {row.table}, {row.metric} of {row.method} on {row.dataset}, k={row.k}"
        if key in numbers:
            raise InputError(f"{what} stands there twice; restore the file from git")
        try:
            numbers[key] = Decimal(row.value)
        except InvalidOperation:
            raise InputError(
                f"{what} is '{row.value}', expected a number; restore the file from git"
            ) from None
    others = paper[paper["source"] == "printed competitor"]
    rivals = {table: tuple(dict.fromkeys(others.loc[others["table"] == table, "method"])) for table in FILES}
    return Printed(numbers, rivals)


def best_clip(p, role):
    """Frozen CLIP's best top-1 in Table 1."""
    return max(p("table1", name, role) for _, name in PROMPTS)


def _agree(found: Decimal, stated: Decimal, sum_: str) -> tuple[bool, str]:
    return found == stated, f"{sum_} = {found}, " + ("as printed" if found == stated else f"printed {stated}")


def stated_gap(p, table, role, k, variant, reference, gap):
    one, other = (p(table, name, role, k=k) for name in (variant, reference))
    return _agree(one - other, Decimal(gap), f"{one} - {other}")


def _gaps_of_table1(p, role):
    wrong, gaps = [], 0
    for variant, reference in PROMPTS:
        for metric in ("top1", "top5"):
            one, other = (p("table1", name, role, metric) for name in (variant, reference))
            agrees, said = _agree(
                one - other, p("table1", variant, role, f"{metric}_gain"), f"{one} - {other}"
            )
            gaps += 1
            wrong += [] if agrees else [said]
    return not wrong, "; ".join(wrong) or f"all {gaps} gaps add up"


def _gain_of_mcb(p, role):
    on, off = p("table2", BEST, role), p("table1", "mmb+map H=5", role)
    stated = p("figure3a", "full H=3", role, "top1_gain")
    return None, f"{on} - {off} = {on - off} at H=5, {stated} stated at H=3"


def _longer_prompts(p, role):
    short, long = (p("table1", f"mmb+map H={h}", role) for h in (3, 5))
    stated = p("figure3c", "H=5", role, "top1_gain")
    return None, f"{long - short:+} from H=3 ({short}) to H=5 ({long}) without MCB, {stated:+} stated with it"


def _full_at_h3(p, role):
    a = p("table1", "mmb+map H=3", role) + p("figure3a", "full H=3", role, "top1_gain")
    c = p("table2", BEST, role) - p("figure3c", "H=5", role, "top1_gain")
    return a == c, f"{a} from Table 1 and the gain of MCB, {c} from Table 2 and the gain of H=5"


def _baseline_closed_set(p, role):
    few = p("table5", "baseline", role, k=16)
    gains = [p("figure3a", name, role, "top1_gain") for name in ("mmb+map H=3", "mmb")]
    found = p("table1", "mmb+map H=3", role) - sum(gains)
    return None, (
        f"{found} from Table 1 less {gains[0]} and {gains[1]}, {few} with 16 videos a class in Table 5, "
        "trained with another batch and rate"
    )


def _best_prior(p, role):
    named, (best, rival) = p("table6", "X-CLIP", role), p.best_rival("table6", role)
    return best == named, f"X-CLIP {named}, best earlier row {rival} {best}"


def _best_model(p, role):
    pairs = [
        (p("table2", BEST, role, metric), p("table8", "full", role, metric)) for metric in ("top1", "top5")
    ]
    said = ", ".join(f"{name} {a} and {b}" for name, (a, b) in zip(("top-1", "top-5"), pairs, strict=True))
    return all(a == b for a, b in pairs), f"{said} in Tables 2 and 8"


def lead_shrinks(p, role, rival):
    leads = [p("table5", "full", role, k=k) - p("table5", rival, role, k=k) for k in SHOTS]
    return all(
        a > b for a, b in pairwise(leads)
    ), f"{', '.join(map(str, leads))} points at k = {', '.join(map(str, SHOTS))}"


def _initial_words(p, role):
    ranges = []
    for metric in ("top1", "top5"):
        values = [p("table2", words, role, metric) for words in INITIALISATIONS]
        ranges.append(max(values) - min(values))
    return max(ranges) < 1, f"largest differences {ranges[0]} (top-1) and {ranges[1]} (top-5)"


def _full_is_best(table, shots, p, role):
    rows = [*LESSER, *p.rivals[table]]
    above = [
        (name, k) for k in shots for name in rows if p(table, name, role, k=k) >= p(table, "full", role, k=k)
    ]
    return (
        not above,
        f"above it: {', '.join(f'{name} at k={k}' for name, k in above) or 'none'} of {len(rows)} rows",
    )


def competitive(p, role):
    """Against most methods: level with (within a point of) more than half of them, or above."""
    ours = p("table8", "full", role)
    others = [p("table8", name, role) for name in p.rivals["table8"]
              if ("table8", name, role, 0, "top1") in p.numbers]  # fmt: skip
    level, rank = sum(other <= ours + 1 for other in others), 1 + sum(other > ours for other in others)
    said = (
        f"{ours} is number {rank} of {len(others) + 1}, level with or above {level} of {len(others)} others"
    )
    return 2 * level > len(others), said


def _zero_shot_above_clip(p, role):
    ours, clip = p("table7", "full", role), best_clip(p, role)
    said = (
        f"{ours} after training on the other data set, {clip} without any training (best prompt of Table 1)"
    )
    return ours >= clip, said


def counts_of_data(p, role):
    """Section 4.1 beside the official lists: about that many videos, and that many in each split."""
    from flowclip_kit.datasets.acquire import FACTS

    facts = FACTS[role.lower().replace("-", "")]
    train, test, parts = TRAIN_VIDEOS[role], TEST_VIDEOS[role], TRAIN_VIDEOS[role] + TEST_VIDEOS[role]
    if not facts.splits:
        return VIDEOS[
            role
        ] < parts < facts.videos, f"{train} + {test} = {parts}, more than {VIDEOS[role]} stated"
    said = "; ".join(f"split {number} has {a} and {b}" for number, (a, b) in facts.splits.items())
    near = abs(facts.videos - VIDEOS[role]) < 0.05 * VIDEOS[role]
    return near and set(facts.splits.values()) == {(train, test)}, (
        f"about {VIDEOS[role]} stated, official lists {facts.videos}; "
        f"{train} and {test} stated of all splits: {said}"
    )


def _share(k, low, high, p, role):
    share = 100 * k * CLASSES[role] / TRAIN_VIDEOS[role]
    return low < share < high, f"{k} x {CLASSES[role]} of {TRAIN_VIDEOS[role]} videos = {share:.1f} %"


def _over_twenty(p):
    least = min(p("table1", variant, role, "top1_gain") for role in BOTH for variant, _ in PROMPTS)
    return least > 20, f"the least gap is {least}"


def gain_of_table3(p, role, metric):
    full, clip = (p("table3", name, role, metric) for name in ("full", "clip"))
    return _agree(full - clip, p("table3", "full", role, f"{metric}_gain"), f"{full} - {clip}")


def _rounded_gain(p):
    gains = [p("table3", "full", role, "gflops_gain") for role in (HMDB, UCF, KINETICS)]
    return {round(gain, 2) for gain in gains} == {
        Decimal("0.03")
    }, f"printed gains {', '.join(map(str, gains))}"


def _cost_of_stream(p):
    costs = {
        role: p("table3", "baseline", role, "gflops") - p("table3", "clip", role, "gflops")
        for role in TRAIN_VIDEOS
    }
    said = ", ".join(f"{cost} ({role})" for role, cost in costs.items())
    # Each cost is the difference of two figures rounded to .001, so two of them may be .002 apart.
    return max(costs.values()) - min(costs.values()) <= Decimal("0.002"), f"baseline less clip is {said}"


def cost_per_class(p, method):
    cost = {role: p("table3", method, role, "gflops") for role in CLASSES}
    per_class = (cost[KINETICS] - cost[UCF]) / (CLASSES[KINETICS] - CLASSES[UCF])
    found = cost[UCF] - per_class * (CLASSES[UCF] - CLASSES[HMDB])
    # Rounding of the three figures to .001 explains .0012 at most.
    agrees = abs(found - cost[HMDB]) <= Decimal("0.0012")
    return agrees, f"{UCF} and {KINETICS} give {found:.3f} for {HMDB}, printed {cost[HMDB]}"


def _trainable(p):
    attention, norms = 4 * D * D + 4 * D, 4 * D
    block = attention + 2 * D * FEED_FORWARD + FEED_FORWARD + D + norms
    stated = p("table3", "full", "", "params_gain")
    total = 2 * block + 2 * attention
    agrees = abs(Decimal(total) / 10**6 - stated) <= Decimal("0.05")
    return agrees, (
        f"two standard blocks of width {D} hold {2 * block / 1e6:.2f} million, with two cross-attentions "
        f"{total / 1e6:.2f}; stated {stated}"
    )


def _motion_pairs(p):
    per_token = Decimal(2 * D * FEED_FORWARD) / 10**9
    gain = p("table3", "full", UCF, "gflops_gain")
    differences = {s: sum(FRAMES - d for d in range(1, s + 1)) for s in (1, 4)}
    need = {s: per_token * (FRAMES + number) for s, number in differences.items()}
    return abs(need[4] - gain) <= Decimal("0.001"), (
        f"the feed-forward layers alone take {need[4]:.3f} for {FRAMES} frames and {differences[4]} "
        f"differences, {need[1]:.3f} for {differences[1]}; printed {gain}"
    )


# Name, place, what should hold, check; once for each of the two smaller data sets.
AUDITS_OF_BOTH = (
    ("table1.gaps", "Table 1", "the gap rows are differences of the rows above", _gaps_of_table1),
    (
        "mcb-gain",
        "section 4.2; Tables 1, 2",
        "what MCB gains at H=5 (Table 2 less 1), beside what is stated at H=3",
        _gain_of_mcb,
    ),
    (
        "longer-prompts",
        "section 4.2; Table 1",
        "what more prompt vectors gain without MCB, beside what is stated with it",
        _longer_prompts,
    ),
    (
        "full-at-h3",
        "section 4.2; Tables 1, 2",
        "Figures 3a and 3c give the same full model at H=3",
        _full_at_h3,
    ),
    (
        "baseline-closed-set",
        "section 4.2; Tables 1, 5",
        "Baseline on all videos, by the stated gains, beside Baseline on 16 a class",
        _baseline_closed_set,
    ),
    ("best-prior-zero-shot", "section 4.4; Table 6", "X-CLIP is the best earlier method", _best_prior),
    (
        "best-model",
        "Tables 2, 8",
        "the chosen settings score the same in both closed-set tables",
        _best_model,
    ),
    (
        "robust-zero-shot",
        "section 4.4; Tables 1, 7",
        "trained on the other data set, the full model is not below frozen CLIP",
        _zero_shot_above_clip,
    ),
    (
        "initial-words",
        "section 4.2; Table 2",
        "three initial prompts differ by less than a point",
        _initial_words,
    ),
    (
        "table5.full-is-best",
        "section 4.3; Table 5",
        "the full model is the best row",
        partial(_full_is_best, "table5", SHOTS),
    ),
    (
        "share-of-videos",
        "sections 4.1, 4.3",
        "2 videos a class are less than 2 % of all",
        partial(_share, 2, 0, 2),
    ),
)

# Name, place, what should hold, check, what it is about.
AUDITS = (
    (
        "share-of-videos.around-one.ucf",
        "sections 4.1, 4.3",
        "2 videos a class are around 1 % of UCF-101",
        partial(_share, 2, 0.5, 1.5),
        UCF,
    ),
    (
        "share-of-videos.k400",
        "sections 4.1, 4.3",
        "5 videos a class are less than 1 % of Kinetics-400",
        partial(_share, 5, 0, 1),
        KINETICS,
    ),
    (
        "table4.full-is-best",
        "section 4.3; Table 4",
        "the full model is the best row",
        partial(_full_is_best, "table4", (5,)),
        KINETICS,
    ),
    ("over-twenty-points", "section 4.2; Table 1", "every top-1 gap is over 20 points", _over_twenty),
    (
        "table3.params",
        "Table 3",
        "the additional parameters are full less clip",
        gain_of_table3,
        "",
        "params",
    ),
    (
        "table3.rounded-gain",
        "section 4.2; Table 3",
        "the three additional costs round to 0.03",
        _rounded_gain,
    ),
    ("table3.stream", "Table 3", "the spatial stream costs the same for each data set", _cost_of_stream),
    (
        "trainable",
        "sections 3.2, 4.2; Table 3",
        "the modules described hold 4.2 million parameters",
        _trainable,
    ),
    (
        "motion-pairs",
        "section 4.2; Table 3",
        "the additional cost pays for the differences of s=4",
        _motion_pairs,
    ),
)
