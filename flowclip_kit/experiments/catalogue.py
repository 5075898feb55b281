"""The experiments: each table and panel of the paper as a function that returns its cells (read it beside the
paper).

A cell is one training and its test, with its place in the table. Variants differ in named settings of the
model and in nothing else. Targets share runs: what two of them ask for under equal settings is trained once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from flowclip_core.config import PROMPTS, ModelConfig
from flowclip_core.errors import InputError
from flowclip_kit.experiments.run_config import RunConfig, Transfer
from flowclip_kit.profiles import Profile

HMDB, UCF, KINETICS = "HMDB-51", "UCF-101", "Kinetics-400"
BOTH = (HMDB, UCF)

# Rows of Tables 4 and 5, in the paper's order.
VARIANTS: dict[str, dict[str, bool]] = {
    "baseline": {"mmb": False, "map": False, "mcb": False},
    "mcb": {"mmb": False, "map": False, "mcb": True},
    "mmb": {"mmb": True, "map": False, "mcb": False},
    "mmb+map": {"mmb": True, "map": True, "mcb": False},
    "full": {"mmb": True, "map": True, "mcb": True},
}
BASELINE, FULL = ModelConfig(**VARIANTS["baseline"]), ModelConfig(**VARIANTS["full"])
# The CLIP row: hand-crafted prompt, mean of the frame features, nothing trained.
CLIP = ModelConfig(mmb=False, map=False, mcb=False, spatial=False)
INITIALISATIONS = (PROMPTS[5], "the common human action of", "a popular human action of")  # Table 2

# Seed of the runs that choose a learning rate: none of the seeds that are reported.
RATE_SEED = 100


@dataclass(frozen=True)
class Cell:
    """One run and where it belongs. role: the paper's data set that it is tested on.

    trained_on: the paper's data set it is trained on, empty where nothing is. keep: its weights are saved.
    """

    role: str
    variant: str
    config: RunConfig
    trained_on: str = ""
    keep: bool = False


@dataclass(frozen=True)
class Target:
    """One table or panel: what it asks, and its cells under a profile.

    axis: the column that a panel varies. compare: (variant, reference) pairs whose difference the paper
    speaks of.
    then: more cells, which depend on the scores of the first ones.
    """

    title: str
    about: str
    roles: tuple[str, ...]
    cells: Callable[[Profile], list[Cell]]
    axis: str | None = None
    compare: tuple[tuple[str, str], ...] = ()
    then: Callable[[Profile, pd.DataFrame], list[Cell]] | None = None

    @property
    def transfers(self) -> bool:
        """Whether it trains on one data set and tests on another, so that it cannot do with a single one."""
        return self.cells in (table6, table7)

    @property
    def few_shot(self) -> bool:
        """Whether it trains on k videos a class, so that a published list of them can be replayed."""
        return self.cells in (table4, table5)


def table1(profile: Profile) -> list[Cell]:
    """Closed-set: CLIP with hand-crafted prompts A, B, C against motion-aware prompts of equal length,
    without MCB."""
    cells = []
    for role in profile.roles:
        cells += [
            _clip(profile, role, f"clip {letter}", PROMPTS[h])
            for letter, h in zip("ABC", PROMPTS, strict=True)
        ]
        cells += closed_set(
            profile, role, {f"mmb+map H={h}": replace(FULL, mcb=False, prompt=PROMPTS[h]) for h in PROMPTS}
        )
    return cells


def table2(profile: Profile) -> list[Cell]:
    """Closed-set: three hand-crafted prompts that initialise the H=5 vectors of the full model."""
    return [
        cell
        for role in profile.roles
        for cell in closed_set(
            profile, role, {words: replace(FULL, prompt=words) for words in INITIALISATIONS}
        )
    ]


def table4(profile: Profile) -> list[Cell]:
    """5-shot on Kinetics-400: the five variants."""
    return few_shot(profile, profile.kinetics_shots)


def table5(profile: Profile) -> list[Cell]:
    """Few-shot (section 4.3): five variants, k videos a class by seeded lists from split-1 train, split-1
    test."""
    controls = profile.evaluation.controls
    clip = [_clip(profile, role, "clip", controls=controls) for role in profile.roles]
    return clip + few_shot(profile, profile.shots, controls)


def table6(profile: Profile) -> list[Cell]:
    """Zero-shot from Kinetics-400: the full model, closed-set there, tested on the three splits of the two
    others."""
    cells = []
    for role in BOTH:
        cells += [_clip(profile, role, "clip", split=split, halves=True) for split in profile.splits]
        for split in profile.splits:
            cells += _zero_shot(profile, KINETICS, role, {"full": FULL}, trained_split=1, split=split)
    return cells


def table7(profile: Profile) -> list[Cell]:
    """Zero-shot between HMDB-51 and UCF-101: trained on a split of one, tested on the same split of the
    other."""
    cells = []
    for source, role in (BOTH, BOTH[::-1]):
        for split in profile.splits:
            cells.append(_clip(profile, role, "clip", split=split, halves=True))
            models = {"baseline": BASELINE, "full": FULL}
            cells += _zero_shot(profile, source, role, models, trained_split=split, split=split)
    return cells


def table8(profile: Profile) -> list[Cell]:
    """Closed-set: the full model on all three splits (Kinetics-400 has one)."""
    cells = []
    for role in profile.roles:
        for split in (1,) if role == KINETICS else profile.splits:
            cells += closed_set(
                profile, role, {"full": FULL}, split=split, keep=True
            )  # Tables 6 and 7 test them too
    return cells


def figure3a(profile: Profile) -> list[Cell]:
    """Closed-set: the parts added one by one, at H=3 as in section 4.2."""
    models = {
        name: ModelConfig(**switches, prompt=PROMPTS[3])
        for name, switches in VARIANTS.items()
        if name != "mcb"
    }
    models = {name + (" H=3" if model.map else ""): model for name, model in models.items()}
    cells = []
    for role in profile.roles:
        cells += [_clip(profile, role, "clip", PROMPTS[3]), *closed_set(profile, role, models)]
    return cells


def figure3b(profile: Profile) -> list[Cell]:
    """Closed-set: number T of frames. Four frames have no pair further apart than 3, so s is 3 there."""
    models = {f"T={t}": replace(FULL, frames=t, step=min(FULL.step, t - 1)) for t in (4, 8, 16, 32)}
    return [cell for role in profile.roles for cell in closed_set(profile, role, models)]


def figure3c(profile: Profile) -> list[Cell]:
    """Closed-set: number H of prompt vectors."""
    models = {f"H={h}": replace(FULL, prompt=prompt) for h, prompt in PROMPTS.items()}
    return [cell for role in profile.roles for cell in closed_set(profile, role, models)]


def figure3d(profile: Profile) -> list[Cell]:
    """Closed-set: largest temporal step s of the frame differences."""
    models = {f"s={s}": replace(FULL, step=s) for s in (1, 2, 3, 4, 5)}
    return [cell for role in profile.roles for cell in closed_set(profile, role, models)]


# Open readings of the paper, one setting changed at a time, and two controls that the paper lacks.
READINGS: dict[str, ModelConfig] = {
    "default": FULL,
    "post-norm": replace(FULL, norm_order="post"),
    "tau .01": replace(FULL, tau=0.01),
    "sequence tokens": replace(FULL, video_tokens="sequence"),
    "learned positions": replace(FULL, positions="learned"),
    "outer residual": replace(FULL, residual=True),
    "s=1": replace(FULL, step=1),
    "prompts without motion": replace(FULL, adapter_width=0),
    "baseline": BASELINE,
    "baseline, post-norm": replace(BASELINE, norm_order="post"),
    "baseline, tau .01": replace(BASELINE, tau=0.01),
    "baseline, learned positions": replace(BASELINE, positions="learned"),
    "baseline, outer residual": replace(BASELINE, residual=True),
    "linear probe": replace(CLIP, head="linear"),
}


def readings(profile: Profile) -> list[Cell]:
    """Which learning rate suits each reading: one run at each rate, tested on training videos set aside."""
    return [
        replace(cell, config=replace(cell.config, seed=RATE_SEED, held_out=True))
        for rate in profile.rates
        for cell in _readings(profile, dict.fromkeys(READINGS, rate), seeds=1)
    ]


def readings_at_their_best(profile: Profile, tried: pd.DataFrame) -> list[Cell]:
    """Every reading at the rate with its highest mean over the data sets, tested on the test videos.

    Raises InputError for a reading that diverged at every rate.
    """
    rates = best_rates(tried)
    if lost := [variant for variant in READINGS if variant not in rates]:
        raise InputError(
            f"readings, {lost[0]}: every learning rate that was tried failed on a data set; try lower ones"
        )
    return _readings(profile, rates, profile.seeds)


def best_rates(tried: pd.DataFrame) -> dict[str, float]:
    """Variant -> learning rate with the highest mean top-1 over data sets on the videos set aside (split 0).

    tried: tidy table. Of equal means the smaller rate is taken. A rate without a score on one of the data
    sets, where training diverged, is not taken.
    """
    scores = tried[(tried["split"] == 0) & (tried["metric"] == "top1")]
    found = scores.groupby(["variant", "lr"])["value"].agg(["mean", "count"])
    means = found.loc[found["count"] == found["count"].max(), "mean"].round(6)
    return {variant: float(found.droplevel(0).idxmax()) for variant, found in means.groupby("variant")}


def _readings(profile: Profile, rates: dict[str, float], seeds: int) -> list[Cell]:
    k = max(profile.shots)
    return [
        Cell(
            role,
            variant,
            _config(profile, role, model, replace(profile.few_shot, lr=rates[variant]), k, seed),
            role,
        )
        for role in profile.roles
        for variant, model in READINGS.items()
        for seed in range(seeds)
    ]


def _config(profile: Profile, role: str, model: ModelConfig, train, k=None, seed=0, split=1, controls=False):
    evaluation = replace(profile.evaluation, controls=controls)
    return RunConfig(profile.roles[role], k, seed, split, model, train, evaluation, profile.backbone)


def _clip(
    profile: Profile,
    role: str,
    variant: str,
    prompt: str = CLIP.prompt,
    split=1,
    halves=False,
    controls=False,
):
    """One untrained run. halves: also scored on half of the classes, like a transfer."""
    config = _config(profile, role, replace(CLIP, prompt=prompt), None, split=split, controls=controls)
    transfer = Transfer(config.dataset, split) if halves else None
    return Cell(role, variant, replace(config, transfer=transfer))


def closed_set(
    profile: Profile, role: str, models: dict[str, ModelConfig], split: int = 1, keep: bool = False
) -> list[Cell]:
    """Models trained on all training videos of a split (section 4.2), every seed. keep: their weights are
    saved."""
    train = profile.kinetics if role == KINETICS else profile.closed_set
    return [
        Cell(role, variant, _config(profile, role, model, train, None, seed, split), role, keep)
        for variant, model in models.items()
        for seed in range(profile.closed_seeds)
    ]


def _zero_shot(
    profile: Profile, source: str, role: str, models: dict, trained_split: int, split: int
) -> list[Cell]:
    transfer = Transfer(profile.roles[role], split)
    return [
        Cell(role, cell.variant, replace(cell.config, transfer=transfer), source)
        for cell in closed_set(profile, source, models, trained_split)
    ]


def few_shot(profile: Profile, shots: Iterable[int], controls: bool = False) -> list[Cell]:
    """The five variants trained on k videos a class (section 4.3), every k and seed, or every published
    list."""
    cells = []
    for role in profile.roles:
        for variant, switches in VARIANTS.items():
            for k, seed, listed in _draws(profile, shots):
                config = _config(
                    profile, role, ModelConfig(**switches), profile.few_shot, k, seed, controls=controls
                )
                keep = variant == "full" and k == max(shots) and seed == 0
                cells.append(Cell(role, variant, replace(config, listed=listed), role, keep))
    return cells


def _draws(profile: Profile, shots: Iterable[int]) -> Iterator[tuple[int, int, str | None]]:
    """(k, seed, published list): every k with every seed. Lists of equal k follow each other with seeds of
    their own, so that a run is still named by variant, k and seed."""
    for k in shots:
        lists = [digest for digest, size in profile.lists if size == k] or [None]
        for number, listed in enumerate(lists):
            yield from ((k, number * profile.seeds + seed, listed) for seed in range(profile.seeds))


_STEPS = (
    ("mmb", "baseline"),
    ("mmb+map", "mmb"),
    ("full", "mmb+map"),
    ("mcb", "baseline"),
    ("full", "baseline"),
)

TARGETS = {
    "table1": Target(
        "Table 1: motion-aware against hand-crafted prompts",
        "three prompts for frozen CLIP, three lengths of learnt prompts steered by motion, closed-set",
        BOTH,
        table1,
        compare=tuple((f"mmb+map H={h}", f"clip {letter}") for letter, h in zip("ABC", PROMPTS, strict=True)),
    ),
    "table2": Target(
        "Table 2: initial words of the prompts",
        "the full model from three hand-crafted prompts of five words, closed-set",
        BOTH,
        table2,
        compare=tuple((words, INITIALISATIONS[0]) for words in INITIALISATIONS[1:]),
    ),
    "table4": Target(
        "Table 4: 5-shot on Kinetics-400",
        "five variants trained on 5 videos a class",
        (KINETICS,),
        table4,
        compare=_STEPS,
    ),
    "table5": Target(
        "Table 5: few-shot",
        "five variants trained on k = 2, 4, 8, 16 videos a class",
        BOTH,
        table5,
        axis="k",
        compare=_STEPS,
    ),
    "table6": Target(
        "Table 6: zero-shot from Kinetics-400",
        "the full model, trained closed-set on Kinetics-400, names the actions of two other data sets",
        (HMDB, UCF, KINETICS),
        table6,
        compare=(("full", "clip"),),
    ),
    "table7": Target(
        "Table 7: zero-shot between HMDB-51 and UCF-101",
        "Baseline and full model, trained on one data set and tested on the other, both ways",
        BOTH,
        table7,
        compare=(("full", "baseline"), ("full", "clip"), ("baseline", "clip")),
    ),
    "table8": Target(
        "Table 8: closed-set on all three data sets",
        "the full model on every official split, beside printed competitors",
        (HMDB, UCF, KINETICS),
        table8,
    ),
    "figure3a": Target(
        "Figure 3a: the parts, one by one",
        "CLIP, Baseline, then motion stream, prompts and communication block, closed-set, H = 3",
        BOTH,
        figure3a,
        compare=(("mmb", "baseline"), ("mmb+map H=3", "mmb"), ("full H=3", "mmb+map H=3"), ("baseline", "clip")),
    ),
    "figure3b": Target(
        "Figure 3b: number of frames",
        "the full model with T = 4, 8, 16, 32 frames, closed-set",
        BOTH,
        figure3b,
        axis="T",
        compare=(("T=8", "T=4"), ("T=8", "T=16"), ("T=8", "T=32")),
    ),
    "figure3c": Target(
        "Figure 3c: number of prompt vectors",
        "the full model with H = 3, 4, 5 prompt vectors, closed-set",
        BOTH,
        figure3c,
        axis="H",
        compare=(("H=4", "H=3"), ("H=5", "H=4"), ("H=5", "H=3")),
    ),
    "figure3d": Target(
        "Figure 3d: largest temporal step",
        "the full model with differences of frames up to s = 1..5 apart, closed-set",
        BOTH,
        figure3d,
        axis="s",
        compare=tuple((f"s={s}", "s=1") for s in (2, 3, 4, 5)) + (("s=5", "s=4"),),
    ),
    "readings": Target(
        "Open readings and two controls",
        "one unstated choice changed at a time, each at its own learning rate; not in the paper",
        BOTH,
        readings,
        compare=tuple((name, "baseline" if name.startswith("baseline") else "default")
                      for name in READINGS if name not in ("default", "baseline")) + (("default", "baseline"),),
        then=readings_at_their_best,
    ),
}  # fmt: skip
# What `all` makes: the paper's tables and panels; table3 is counted, not trained.
PAPER_TARGETS = ("table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8",
                 "figure3a", "figure3b", "figure3c", "figure3d")  # fmt: skip
# All that can be made, in the order in which it is shown.
ALL_TARGETS = tuple(dict.fromkeys((*PAPER_TARGETS, *TARGETS)))
