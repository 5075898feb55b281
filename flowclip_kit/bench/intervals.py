"""How often the rules behind the verdicts are wrong, and how often they see what is there: simulated.

    ./reproduce.sh bench intervals [--record]

Gains of a variant over another are drawn as value = mean + seed + video + rest, with the variances of the
recorded comparisons of Table 5, and judged as `reporting.claims` judges them. Same seed, same figures.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np

from flowclip_kit.bench import _common as common
from flowclip_kit.reporting import stats, target_results
from flowclip_kit.reporting.claims import REPRODUCED, Measured, verdict
from flowclip_kit.reporting.register import POINT

PAGE = "notebooks/statistics.md"
VIDEOS = 1024  # of figures-h, the smaller of the demo's two test lists
FAMILY, TRUE, GAIN = 20, 10, 3.0  # claims of a family, how many are true, and their points
RULES = ("over seeds alone", "over videos alone", "both must clear", "crossed")


class Variances(NamedTuple):
    """What one value of a comparison owes to its seed, its test video and neither, in squared points."""

    seed: float
    video: float
    rest: float


def recorded(target: str = "table5") -> dict[str, Variances]:
    """Variances of the recorded comparisons, by the method of moments: their mean, and where seeds differ
    most."""
    view = target_results.load(target)
    top1 = view.tested[view.tested["metric"] == "top1"]
    of_run = top1.set_index(["variant", "dataset", "k", "split", "seed"])["key"].sort_index()
    found = []
    for variant, reference in view.pairs:
        for place in of_run[variant].index.droplevel("seed").unique():
            keys = zip(of_run[(variant, *place)], of_run[(reference, *place)], strict=True)
            x = np.array([100.0 * view.hits[a] - 100.0 * view.hits[b] for a, b in keys])
            rest = stats.rest_variance(x) * x.size
            seed = x.mean(axis=1).var(ddof=1) - rest / x.shape[1]
            found.append(Variances(seed, x.mean(axis=0).var(ddof=1) - rest / len(x), rest))
    typical = Variances(*np.mean(found, axis=0))
    return {"as recorded": typical, "seeds differ most": max(found)._replace(video=typical.video)}


def gains(
    rng: np.random.Generator, of: Variances, n: int, repeats: int, videos: int = VIDEOS, gain: float = 0.0
) -> np.ndarray:
    """Values (repeats, n, videos) of as many experiments, in points."""
    x = rng.normal(gain, np.sqrt(of.rest), (repeats, n, videos))
    x += rng.normal(0, np.sqrt(of.seed), (repeats, n, 1))
    return x + rng.normal(0, np.sqrt(of.video), (repeats, 1, videos))


def called_gains(x: np.ndarray) -> dict[str, float]:
    """Percent of experiments (repeats, n, V) that each of `RULES` calls a gain; nominal of none: 2.5."""
    mean, of_seed, of_video = x.mean(axis=(1, 2)), x.mean(axis=2), x.mean(axis=1)
    n, videos = x.shape[1:]
    above = [
        mean > stats.stdtrit(count - 1, 0.975) * values.std(axis=1, ddof=1) / np.sqrt(count)
        for values, count in ((of_seed, n), (of_video, videos))
    ]
    crossed = np.array([stats.crossed([one]).low > 0 for one in x])
    return {
        name: 100 * float(one.mean())
        for name, one in zip(RULES, (*above, above[0] & above[1], crossed), strict=True)
    }


def covered(x: np.ndarray, truth: float) -> float:
    """Percent of experiments whose crossed interval holds the truth; nominal 95."""
    found = [stats.crossed([one]) for one in x]
    return 100 * float(np.mean([one.low <= truth <= one.high for one in found]))


def families(rng: np.random.Generator, of: Variances, n: int, repeats: int, true: int) -> dict[str, float]:
    """Of `FAMILY` variants over one reference, `true` of which gain: what each correction calls gains.

    Percent, by correction: families with a false one, false ones among those called (expected), true ones
    found. All share seeds, videos and the reference, of which comes half of every variance.
    """
    half = Variances(*(value / 2 for value in of))
    names = ("none", "Benjamini-Hochberg", "Holm")
    any_false, share, power = (dict.fromkeys(names, 0.0) for _ in range(3))
    for _ in range(repeats):
        ours, reference = gains(rng, half, n, FAMILY), gains(rng, half, n, 1)
        ours[:true] += GAIN
        found = [stats.crossed([x]) for x in ours - reference]
        p, positive = np.array([one.p for one in found]), np.array([one.mean > 0 for one in found])
        for name, values in zip(names, (p, *stats.adjusted(p)), strict=True):
            called = values <= stats.LEVEL
            wrong = int((called & ~positive)[:true].sum() + called[true:].sum())
            any_false[name] += wrong > 0
            share[name] += wrong / max(int(called.sum()), 1)
            power[name] += (called & positive)[:true].mean() if true else 0.0
    parts = zip(("any false", "false share", "found"), (any_false, share, power), strict=True)
    return {f"{part}, {name}": 100 * of_name[name] / repeats for part, of_name in parts for name in names}


def called_same(
    rng: np.random.Generator, sd: float, n: int, repeats: int, widened: bool = True
) -> tuple[float, float]:
    """Percent of values called reproduced: a printed mean of 10 runs of the same truth; one just too far off.

    sd: of runs, in points. widened: by one standard error of the printed mean, as `verdict` does it.
    """
    runs, tolerance = rng.normal(50, sd, (repeats, n)), POINT + 0.05
    mean, error = runs.mean(axis=1), runs.std(axis=1, ddof=1) / np.sqrt(10) * widened
    se = runs.std(axis=1, ddof=1) / np.sqrt(n)
    off = 50 + tolerance + sd / np.sqrt(10) * widened

    def share(printed: np.ndarray) -> float:
        said = [
            verdict("value", [Measured(n, *at[:2], n - 1, error=at[2])], at[3], tolerance)[0]
            for at in zip(mean, se, error, printed, strict=True)
        ]
        return 100 * float(np.mean([one == REPRODUCED for one in said]))

    return share(50 + rng.normal(0, sd / np.sqrt(10), repeats)), share(np.full(repeats, off))


def measure(options: common.Options) -> str:
    """All tables as a text."""
    rng, repeats, sizes = np.random.default_rng(0), options.repeats, (3, 10)
    found = recorded()
    lines = [
        f"{repeats} simulated experiments a row, {VIDEOS} test videos; recorded standard deviations, points:"
    ]
    lines += [
        f"  {name:18} seeds {of.seed**0.5:.1f}, videos {of.video**0.5:.1f}, rest {of.rest**0.5:.1f}"
        for name, of in found.items()
    ]
    lines += ["", "A gain is called where there is none, percent (nominal 2.5 to one side)"]
    lines += [f"{'':18} {'seeds':>5} " + "".join(f"{rule:>19}" for rule in RULES) + f"{'95 % covers':>13}"]
    for name, of in found.items():
        for n in sizes:
            x = gains(rng, of, n, repeats)
            shown = "".join(f"{rate:19.1f}" for rate in called_gains(x).values())
            lines.append(f"{name:18} {n:5} {shown}{covered(x, 0.0):13.1f}")
    lines += ["", f"A gain of {GAIN:g} points is seen, percent"]
    for n in sizes:
        rates = called_gains(gains(rng, found["as recorded"], n, repeats, gain=GAIN))
        lines.append(f"{'as recorded':18} {n:5} " + "".join(f"{rate:19.1f}" for rate in rates.values()))
    head = f"{'correction':20}" + "".join(
        f"{part:>19}" for part in ("with a false one", "false among called", "found")
    )
    for true in (0, TRUE):
        lines += ["", f"Families of {FAMILY} claims, {true} of them true, {sizes[-1]} seeds, percent", head]
        shares = families(rng, found["as recorded"], sizes[-1], repeats // 10, true)
        for name in ("none", "Benjamini-Hochberg", "Holm"):
            values = [shares[f"{part}, {name}"] for part in ("any false", "false share", "found")]
            values = values[: 2 + bool(true)]
            lines.append(f"{name:20}" + "".join(f"{value:19.1f}" for value in values))
    heads = ("truth the same", "... without error", "just too far")
    lines += ["", "A printed value is called reproduced, percent"]
    lines += [f"{'sd of runs':>10} {'seeds':>5}" + "".join(f"{name:>19}" for name in heads)]
    for sd in (0.5, 1.0, 2.0):
        for n in sizes:
            same, off = called_same(rng, sd, n, repeats)
            lines.append(
                f"{sd:10.1f} {n:5}{same:19.1f}{called_same(rng, sd, n, repeats, False)[0]:19.1f}{off:19.1f}"
            )
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    options = {"--repeats": {"type": int, "default": 4000, "help": "experiments a row (default: 4000)"}}
    return common.run("intervals", measure, options, PAGE)


if __name__ == "__main__":
    sys.exit(main())
