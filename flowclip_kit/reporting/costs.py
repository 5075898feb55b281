"""Table 3 for reading: the counts beside the printed numbers, as text, figure and conclusions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit.experiments.costs import COUNTINGS, READINGS
from flowclip_kit.reporting.rendering import GAIN, LOSS, Table

if TYPE_CHECKING:  # tables alone do without matplotlib
    from matplotlib.figure import Figure

TITLE = "Table 3: parameters and multiply-adds"
EXACT, RULE, VIDEO = COUNTINGS
PARTS = ("spatial stream", "motion stream", "motion-aware prompts", "communication block")
# L = 7 is the reading that fits the print; 22 is what section 4.2 describes.
FITTED, DESCRIBED = 7, 22
MODELS = (("clip", 0), ("baseline", 0), ("full", FITTED), ("full", DESCRIBED))
# Printed metric -> ours, and the decimals it is printed with.
PRINTED = {"params": ("params", 1), "gflops": ("gmac", 3), "params_gain": ("params_gain", 1),
           "gflops_gain": ("gmac_gain", 3)}  # fmt: skip
CLOSE = 0.003  # three units of the last printed digit


def table(counts: pd.DataFrame, paper: pd.DataFrame) -> Table:
    """Table 3: a block of parameters, then one of multiply-adds a data set.

    counts: `experiments.costs.counts()`; paper: `tables.load_paper("table3")`. Columns: printed; the paper's
    rule, its difference to print, whether it rounds to the print; exact; trainable or per video. Raises
    InputError where a count is missing.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    block = "parameters, millions"
    for variant in ("clip", "baseline", "full"):
        rows[block, variant] = _cells(counts, paper, variant, "params", "", 0) | {
            "trainable": f"{_value(counts, variant, EXACT, 'trainable'):.3f}"
        }
    rows[block, "full - clip"] = _cells(counts, paper, "full", "params_gain", "", 0)
    for reading in READINGS:
        rows[block, reading] = _cells(counts, paper, reading, "params", "", 0, printed_as="full")
    for dataset, classes in _datasets(counts).items():
        block = (
            f"{dataset}, {classes} texts: multiply-adds of one video of 8 frames, thousand millions (GMAC)"
        )
        for variant, length in MODELS:
            label = f"{variant}, L={length}" if length else variant
            rows[block, label] = _cells(counts, paper, variant, "gflops", dataset, length)
        for length in (FITTED, DESCRIBED):
            label = f"full, L={length} - clip"
            rows[block, label] = _cells(counts, paper, "full", "gflops_gain", dataset, length)
    frame = pd.DataFrame(
        list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["block", "model"])
    ).fillna("")
    frame.attrs["caption"] = "\n".join(
        [
            "paper's rule: as thop 0.1.1 counts, with the image tower under two names; L: frame differences",
            "exact: every parameter once, every matrix product, K texts of 77 tokens",
            "per video: texts equal for all videos are encoded once, those of full in the prompt tree",
            f"adapter 64, torch streams: L={FITTED}, with one choice changed; printed: the row of full",
        ]
    )
    css = pd.DataFrame("", frame.index, frame.columns)
    css["printed"] = "color: #767676"
    css["to the digit"] = (
        frame["to the digit"].map({"yes": f"color: {GAIN}", "no": f"color: {LOSS}"}).fillna("")
    )
    return Table.of(frame, frame.attrs["caption"], css)


def conclusions(counts: pd.DataFrame, paper: pd.DataFrame) -> list[str]:
    """What Table 3 says and does not say, in sentences whose numbers are computed from `counts` and `paper`.

    Which way a sentence turns out follows from the numbers too. Raises InputError where a count is missing.
    """
    return [
        *_decoded(counts, paper),
        *_misprints(counts, paper),
        *_readings(counts, paper),
        *_trainable(counts, paper),
        *_work(counts, paper),
    ]


def figure(counts: pd.DataFrame, paper: pd.DataFrame | None = None) -> Figure:
    """Multiply-adds of one video on a log axis, a column of axes per data set.

    Above: each model in every counting and, with `paper`, as printed (hollow). Below: the parts of the full
    model (L = 22), its texts plainly and through the prompt tree.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from flowclip_kit.reporting import plots

    # Okabe and Ito's colours; shapes say the same.
    styles = {RULE: ("#D55E00", "s"), EXACT: ("#000000", "o"), VIDEO: ("#009E73", "D")}
    variants, parts = ("clip", "baseline", "full"), ("image tower", "text tower", *PARTS)
    names = {"image tower": "image tower, 8 frames", "text tower": "texts"}
    datasets = _datasets(counts)
    with mpl.rc_context(plots.SETTINGS):
        fig = Figure(figsize=(9.5, 6.2), layout="constrained")
        axes = fig.subplots(2, len(datasets), squeeze=False, sharex="row", sharey="row", height_ratios=(3, 4))
        for (upper, lower), (dataset, classes) in zip(axes.T, datasets.items(), strict=True):
            for place, (how, (color, marker)) in enumerate(styles.items()):
                shift = 0.24 * (place - 1)
                x = [
                    _value(counts, name, how, "gmac", dataset, DESCRIBED * (name == "full"))
                    for name in variants
                ]
                y = [row + shift for row in range(len(variants))]
                upper.plot(x, y, color=color, marker=marker, ls="", ms=6)
                if how != RULE:
                    x = [_value(counts, part, how, "gmac", dataset, DESCRIBED) for part in parts]
                    y = [row + shift - 0.12 for row in range(len(parts))]
                    lower.plot(x, y, color=color, marker=marker, ls="", ms=6)
            if paper is not None:
                x = [_print(paper, name, "gflops", dataset) for name in variants]
                y = [row - 0.24 for row in range(len(variants))]
                upper.plot(x, y, color="0.2", marker="s", ls="", ms=11, mfc="none")
            upper.set_title(f"{dataset}, {classes} texts", loc="left")
            upper.set_xscale("log")
            upper.set_xlim(110, 1800)
            upper.set_xticks([150, 300, 600, 1200], ["150", "300", "600", "1200"])
            upper.xaxis.set_minor_locator(mpl.ticker.NullLocator())
            lower.set_xscale("log")
            lower.set_xlim(1e-5, 1e4)
            lower.set_xticks([1e-4, 1e-2, 1, 100], ["0.0001", "0.01", "1", "100"])
            lower.xaxis.set_minor_locator(mpl.ticker.NullLocator())
            lower.set_xlabel("GMAC")
            for ax in (upper, lower):
                ax.grid(color="0.9")
        axes[0, 0].set_yticks(range(len(variants)), variants)
        axes[0, 0].set_ylim(len(variants) - 0.5, -0.5)
        axes[1, 0].set_yticks(range(len(parts)), [names.get(part, part) for part in parts])
        axes[1, 0].set_ylim(len(parts) - 0.5, -0.5)
        labels = {
            RULE: "the paper's rule",
            EXACT: "exact, every text 77 tokens",
            VIDEO: "per video: static texts once, others in the prompt tree",
        }
        handles = [
            Line2D([], [], color=color, marker=marker, ls="", label=labels[how])
            for how, (color, marker) in styles.items()
        ]
        if paper is not None:
            handles.insert(
                0, Line2D([], [], color="0.2", marker="s", ms=11, mfc="none", ls="", label="printed")
            )
        fig.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        title = "Multiply-adds of one video (GMAC, log axis): models above, parts of the full model below"
        fig.suptitle(title, fontsize=10, x=0.01, ha="left", color="0.25")
        fig.draw_without_rendering()  # lay out once, not again for every file
        fig.set_layout_engine("none")
    return fig


def _value(
    counts: pd.DataFrame, variant: str, how: str, metric: str, dataset: str = "", differences: int = 0
) -> float:
    said = {"variant": variant, "counting": how, "dataset": dataset, "L": differences, "metric": metric}
    found = counts.loc[(counts[list(said)] == pd.Series(said)).all(axis=1), "value"]
    if len(found) != 1:
        where = ", ".join(f"{name} {value}" for name, value in said.items() if value != "")
        raise InputError(
            f"the counts have {len(found)} rows with {where}, expected one; make them again with"
            " ./reproduce.sh table3"
        )
    return float(found.iloc[0])


def _print(paper: pd.DataFrame, variant: str, metric: str, dataset: str = "") -> float:
    rows = paper[(paper["method"] == variant) & (paper["metric"] == metric) & (paper["dataset"] == dataset)]
    if len(rows) != 1:
        raise InputError(
            f"results/paper/table3.csv has {len(rows)} rows {variant}, {metric}, {dataset or 'no data set'},"
            " expected one; take the file from the checkout again"
        )
    return float(rows["value"].iloc[0])


def _datasets(counts: pd.DataFrame) -> dict[str, int]:
    rows = counts[counts["dataset"] != ""].drop_duplicates("dataset")
    return dict(zip(rows["dataset"], rows["classes"], strict=True))


def _has(counts: pd.DataFrame, variant: str, how: str, metric: str) -> bool:
    rows = (counts["variant"] == variant) & (counts["counting"] == how) & (counts["metric"] == metric)
    return bool(rows.any())


def _cells(
    counts: pd.DataFrame, paper: pd.DataFrame, variant: str, metric: str, dataset: str, differences: int,
    printed_as: str = "",
) -> dict[str, str]:  # fmt: skip
    ours, digits = PRINTED[metric]
    sign = "+" if metric.endswith("gain") else ""
    printed = _print(paper, printed_as or variant, metric, dataset)
    rule = _value(counts, variant, RULE, ours, dataset, differences)
    cells = {
        "printed": f"{printed:{sign}.{digits}f}",
        "paper's rule": f"{rule:{sign}.3f}",
        "less printed": f"{round(rule - printed, 3) + 0.0:+.3f}",  # + 0.0 turns -0 into 0
        "to the digit": "yes" if _same(rule, printed, digits) else "no",
    }
    for how in (EXACT, VIDEO):
        if _has(counts, variant, how, ours):
            cells[how] = f"{_value(counts, variant, how, ours, dataset, differences):{sign}.3f}"
    return cells


def _same(value: float, printed: float, digits: int) -> bool:
    return round(value, digits) == round(printed, digits)


def _list(values: list[float], digits: int, sign: str = "") -> str:
    return " / ".join(f"{value:{sign}.{digits}f}" for value in values)


def _misses(counts: pd.DataFrame, paper: pd.DataFrame, dataset: str) -> dict[str, float]:
    """Rule less print of the three models on one data set, with the L that fits."""
    return {
        name: _value(counts, name, RULE, "gmac", dataset, length) - _print(paper, name, "gflops", dataset)
        for name, length in MODELS[:3]
    }


def _decoded(counts: pd.DataFrame, paper: pd.DataFrame) -> list[str]:
    exact, close, far = 0, 0, []
    for name, _ in MODELS[:3]:
        printed = _print(paper, name, "params")
        exact += (same := _same(_value(counts, name, RULE, "params"), printed, 1))
        far += [] if same else [f"parameters of {name}"]
    for dataset in _datasets(counts):
        for name, miss in _misses(counts, paper, dataset).items():
            printed = _print(paper, name, "gflops", dataset)
            same = _same(printed + miss, printed, 3)
            exact, close = exact + same, close + (not same and abs(miss) < CLOSE)
            far += [f"{dataset} {name}"] * (abs(miss) >= CLOSE and not same)
    total = exact + close + len(far)
    rest = f"; {len(far)} do not: {', '.join(far)}" if far else ""
    return [
        f"Of the {total} printed counts, {exact} follow to the last digit and {close} more within {CLOSE:g}"
        " from what thop 0.1.1 counts for 8 frames when CLIP's image tower can be reached under two names:"
        f" its parameters then count twice, its work four times, and attention not at all{rest}.",
        "The unit printed as GFLOPs is a thousand million multiply-adds (GMAC); floating-point operations are"
        " twice as many.",
    ]


def _fitting(counts: pd.DataFrame, paper: pd.DataFrame) -> list[str]:
    """Data sets on which the rule meets at least one printed value."""
    return [
        name for name in _datasets(counts) if min(map(abs, _misses(counts, paper, name).values())) < CLOSE
    ]


def _misprints(counts: pd.DataFrame, paper: pd.DataFrame) -> list[str]:
    said, fitting = [], _fitting(counts, paper)
    for dataset in _datasets(counts):
        misses = _misses(counts, paper, dataset)
        if dataset not in fitting:
            values = list(misses.values())
            side = "below" if min(values) > 0 else "above" if max(values) < 0 else "beside"
            sizes = sorted(map(abs, values))
            line = f"{dataset}: all printed values lie {side} the rule, by {sizes[0]:.3f} to {sizes[-1]:.3f}"
            if fitting:
                line += (
                    f". Every text costs the same whatever the data set, and {' and '.join(fitting)} fit, so"
                    " no reading of the model explains it; the column looks rounded or typed by hand"
                )
            said.append(line + ".")
            continue
        for name in [name for name, miss in misses.items() if abs(miss) >= CLOSE]:
            printed = _print(paper, name, "gflops", dataset)
            rule = printed + misses[name]
            line = f"{dataset}, {name}: printed {printed:.3f}, the rule gives {rule:.3f}"
            full, gain = (
                _print(paper, "full", "gflops", dataset),
                _print(paper, "full", "gflops_gain", dataset),
            )
            if name == "clip" and _same(full - gain, rule, 3):
                line += (
                    f", and so does the table itself: {full:.3f} - {gain:.3f} = {full - gain:.3f}. A misprint"
                )
            said.append(line + ".")
    return said


def _readings(counts: pd.DataFrame, paper: pd.DataFrame) -> list[str]:
    judged = _fitting(counts, paper)
    worst = {}
    for length in (FITTED, DESCRIBED):
        misses = [
            abs(_value(counts, "full", RULE, "gmac", name, length) - _print(paper, "full", "gflops", name))
            for name in judged
        ]
        worst[length] = max(misses, default=float("nan"))
    fit = {length: "fits" if miss < CLOSE else "does not fit" for length, miss in worst.items()}
    where = " and ".join(judged) or "no data set"
    params, printed = _value(counts, "full", RULE, "params"), _print(paper, "full", "params")
    said = [
        f"Motion stream: L={FITTED} differences (s=1) {fit[FITTED]} the printed full row on {where} (off by"
        f" at most {worst[FITTED]:.4f}), L={DESCRIBED} (s=4, as section 4.2 sets it) {fit[DESCRIBED]}"
        f" ({worst[DESCRIBED]:.4f})."
    ]
    changed = {
        "full, adapter 64": ("A hidden width of 32 in the motion adapter", "64"),
        "full, torch streams": (
            "A stream built like CLIP's own blocks",
            "one of torch's encoder layers, whose norms count,",
        ),
    }
    for reading, (ours, other) in changed.items():
        value = _value(counts, reading, RULE, "params")
        verb = {True: "fits", False: "does not fit"}
        said.append(
            f"{ours} {verb[_same(params, printed, 1)]} the printed {printed:.1f} M ({params:.3f}),"
            f" {other} {'would too' if _same(value, printed, 1) else 'would print'} {value:.1f}"
            f" ({value:.3f})."
        )
    return said


def _trainable(counts: pd.DataFrame, paper: pd.DataFrame) -> list[str]:
    parts = ", ".join(f"{part} {_value(counts, part, EXACT, 'trainable'):.3f}" for part in PARTS)
    total, seen = _value(counts, "full", EXACT, "trainable"), _value(counts, "full", RULE, "params_gain")
    printed = _print(paper, "full", "params_gain")
    return [
        f"The full model trains {total:.2f} M parameters ({parts}). The printed +{printed:.1f} M is what the"
        f" rule sees of them ({seen:.3f}): feed-forward nets and adapter, but no attention weights, norms or"
        " prompt vectors.",
        f"CLIP itself has {_value(counts, 'clip', EXACT, 'params'):.1f} M parameters, not"
        f" {_print(paper, 'clip', 'params'):.1f} M.",
    ]


def _work(counts: pd.DataFrame, paper: pd.DataFrame) -> list[str]:
    datasets = list(_datasets(counts))

    def over(variant: str, how: str, metric: str = "gmac", differences: int = DESCRIBED) -> list[float]:
        return [_value(counts, variant, how, metric, name, differences) for name in datasets]

    plain, tree, image = over("text tower", EXACT), over("text tower", VIDEO), over("image tower", EXACT)
    new = [sum(each) for each in zip(*(over(part, EXACT) for part in PARTS), strict=True)]
    once = over("clip", VIDEO, differences=0)
    printed = [_print(paper, "full", "gflops_gain", name) for name in datasets]
    every = " / ".join(datasets)
    return [
        f"Counted in full, the new parts add {_list(new, 3)} GMAC a video on {every} (printed:"
        f" {_list(printed, 3)}), texts left aside.",
        "The table charges every model with K texts a video. CLIP and Baseline encode theirs once and then"
        f" need {once[0]:.1f} GMAC a video, the image tower and little else.",
        "Motion-aware prompts differ from video to video, so their texts must be encoded anew: plainly"
        f" {_list(plain, 1)} GMAC a video, {_list([a / b for a, b in zip(plain, image, strict=True)], 1)}"
        f" times the image tower and {_list([a / b for a, b in zip(plain, new, strict=True)], 0)} times all"
        " new parts together.",
        f"The prompt tree gives the same texts for {_list(tree, 1)} GMAC,"
        f" {_list([a / b for a, b in zip(plain, tree, strict=True)], 0)} times less; the full model then"
        f" costs {_list([a / b for a, b in zip(over('full', VIDEO), once, strict=True)], 2)} times what CLIP"
        f" costs a video, plainly {_list([a / b for a, b in zip(over('full', EXACT), once, strict=True)], 1)}"
        " times.",
    ]
