"""The experiments: each table and panel of the paper as a function of its knobs (read it beside the paper).

A function returns cells: one training and its test, with its place in the table. What a function names in its
signature is what the paper sets or varies there; all other knobs are those of `grid`. Variants differ in
named settings of the model and in nothing else. Targets share runs: what two of them ask for under equal
settings is trained once.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flowclip_core.config import PROMPTS, ModelConfig, TrainConfig
from flowclip_core.errors import InputError
from flowclip_kit.experiments import rivals as beside
from flowclip_kit.experiments.knobs import FIELDS, KNOBS, MODEL, TRAIN, check, prompt_of
from flowclip_kit.experiments.run_config import RunConfig, Transfer
from flowclip_kit.profiles import Profile

if TYPE_CHECKING:
    import pandas as pd

HMDB, UCF, KINETICS = "HMDB-51", "UCF-101", "Kinetics-400"
BOTH = (HMDB, UCF)

# Rows of Tables 4 and 5, in the paper's order.
VARIANTS: dict[str, dict[str, Any]] = {
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

# Open readings of the paper, one setting of the model or the training changed at a time.
OPEN: dict[str, dict[str, Any]] = {
    "post-norm": {"norm_order": "post"},
    "tau .01": {"tau": 0.01},
    "learned positions": {"positions": "learned"},
    "large learned positions": {"positions": "learned", "position_std": 1.3},  # as large as the features
    "outer residual": {"residual": True},
    "gelu": {"activation": "gelu"},
    "warm-up": {"warmup": 0.1},
    "no jitter": {"jitter": 1},
}
OPEN_OF_FULL: dict[str, dict[str, Any]] = {
    "sequence tokens": {"video_tokens": "sequence"},
    "s=1": {"step": 1},
    "adapter from zero": {"adapter_start": "zero"},
}


def _changes(model: ModelConfig) -> dict[str, Any]:
    """What a model changes of the full one."""
    return {name: getattr(model, name) for name in sorted(MODEL)
            if getattr(model, name) != getattr(FULL, name)}  # fmt: skip


# What each row of `readings` changes of the full model and its training; two are controls, not in the paper.
READINGS: dict[str, dict[str, Any]] = {
    "default": {},
    **OPEN,
    **OPEN_OF_FULL,
    "prompts without motion": {"adapter_width": 0},
    "baseline": _changes(BASELINE),
    **{f"baseline, {name}": _changes(BASELINE) | changes for name, changes in OPEN.items()},
    "linear probe": _changes(replace(CLIP, head="linear")),
}
# Every row that has a name: what it changes of the full model.
NAMED: dict[str, dict[str, Any]] = {
    name: _changes(ModelConfig(**switches)) for name, switches in VARIANTS.items()
} | READINGS | {"clip": _changes(CLIP)}  # fmt: skip

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

    cells: called with a profile and any knobs (see `parameters`). axis: the column that a panel varies.
    compare: (variant, reference) pairs whose difference the paper speaks of. then: more cells, which depend
    on the scores of the first ones.
    """

    title: str
    about: str
    roles: tuple[str, ...]
    cells: Callable[..., list[Cell]]
    axis: str | None = None
    compare: tuple[tuple[str, str], ...] = ()
    then: Callable[..., list[Cell]] | None = None
    part_of: str | None = None  # a target whose recorded table has all its default rows
    widen: Callable[..., list[Cell]] | None = None  # more trials of learning rates, before `then`; until none

    @property
    def transfers(self) -> bool:
        """Whether it trains on one data set and tests on another, so that it cannot do with a single one."""
        return self.cells in (table6, table7)

    @property
    def few_shot(self) -> bool:
        """Whether it trains on k videos a class, so that a published list of them can be replayed."""
        return self.cells in (table4, table5, ablation, rivals)


# --- any grid -----------------------------------------------------------------------------------------------


def grid(
    profile: Profile,
    *,
    datasets: Sequence[str] | str = BOTH,
    variants: Sequence[str | Mapping] | str | Mapping = ("full",),
    k: Sequence[int | None] | int | None = None,
    T: Sequence[int] | int = 8,
    s: Sequence[int] | int = 4,
    H: Sequence[int] | int = 5,
    prompt: Sequence[str] | str | None = None,
    tau: Sequence[float] | float = 0.07,
    lr: Sequence[float] | float | None = None,
    steps: Sequence[int] | int | None = None,
    epochs: Sequence[int] | int | None = None,
    batch: Sequence[int] | int | None = None,
    seeds: int | None = None,
    splits: Sequence[int] | int | None = 1,
    clips: int | None = None,
    crops: Sequence[str] | str | None = None,
    settings: Mapping[str, Any] | None = None,
    controls: bool = False,
    keep: bool = False,
    trained_on: Callable[[str], str | None] = lambda role: None,
) -> list[Cell]:
    """Every combination of the knobs that are lists; None: as the profile has it.

    A knob is explained in `knobs.KNOBS`. Three arguments are no knobs: controls also scores the test frames
    in other orders where the profile wants it; keep saves all weights (else those of the full model at the
    largest k and the first seed); trained_on names, for a tested data set, the one to train on (zero-shot,
    section 4.4). Raises InputError for a variant, field or combination that cannot be.
    """
    evaluation = replace(profile.evaluation, controls=controls and profile.evaluation.controls)
    evaluation = replace(evaluation, **_given(clips=clips, crops=None if crops is None else listed(crops)))
    model = {"T": T, "s": s, "H": H, "prompt": prompt, "tau": tau}
    train = _given(lr=lr, steps=steps, epochs=epochs, batch=batch)
    rows = list(_rows(variants_of(variants), model, train, settings or {}))
    ks = listed(k)
    cells = []

    def add(role: str, source: str | None, split: int, k: int | None) -> None:
        usual = (
            profile.few_shot
            if k
            else profile.kinetics
            if (source or role) == KINETICS
            else profile.closed_set
        )
        transfer = Transfer(profile.roles[role], split) if source else None
        trained_split = 1 if source == KINETICS else split
        for name, config, changes in rows:
            run = RunConfig(
                profile.roles[role], None, 0, split, config, None, evaluation, profile.backbone, transfer
            )
            if not trains(config):
                if k == ks[0]:
                    cells.append(Cell(role, name, run))
                continue
            run = replace(run, dataset=profile.roles[source or role], k=k, split=trained_split)
            run = replace(run, train=_training(usual, changes))
            for seed, drawn in _draws(profile, k, seeds):
                first = k is not None and k == max(filter(None, ks)) and name == "full" and seed == 0
                kept = not source and (keep or first)
                cells.append(Cell(role, name, replace(run, seed=seed, listed=drawn), source or role, kept))

    for role in (role for role in listed(datasets) if role in profile.roles):
        source = trained_on(role)
        usual_splits = profile.splits if splits is None else listed(splits)
        for split in (1,) if role == KINETICS else usual_splits:
            for shots in ks:
                add(role, source, split, shots)
    return cells


def listed(value: Any) -> tuple:
    """The values of a knob, one or several."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def trains(model: ModelConfig) -> bool:
    """Whether a model has anything to train; CLIP as it is has not."""
    return model.spatial or model.map or model.mcb or model.head != "text"


def variants_of(variants: Sequence[str | Mapping] | str | Mapping) -> dict[str, dict[str, Any]]:
    """Name -> fields of the model and the training that a row changes of the full model.

    Raises InputError for a name that is unknown or stands twice, and for a field that neither settings class
    has.
    """
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, changes: Mapping[str, Any]) -> None:
        if name in found:
            raise InputError(f"variants: {name!r} is there twice")
        if not isinstance(changes, Mapping):
            raise InputError(f"variants: {name!r} is {changes!r:.60}, expected {{field: value}}")
        found[name] = {FIELDS.get(field, field): value for field, value in changes.items()}
        if unknown := [field for field in found[name] if field not in MODEL | TRAIN | {"H"}]:
            raise InputError(f"variants: {name!r} sets {unknown[0]!r}, which is no field of the model or the"
                             " training;"
                             f" there are {', '.join(sorted(MODEL | TRAIN))}")  # fmt: skip
        if "H" in found[name]:
            found[name]["prompt"] = prompt_of(found[name].pop("H"))

    for row in listed(variants):
        if isinstance(row, Mapping):
            for name, changes in row.items():
                add(name, changes)
        elif row in NAMED:
            add(row, NAMED[row])
        else:
            raise InputError(f"variants: {row!r} is unknown; name one of {', '.join(NAMED)}, or say what it"
                             " changes:"
                             f" {{{row!r}: {{field: value}}}}")  # fmt: skip
    return found


def _rows(
    variants: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any],
    train: Mapping[str, Any],
    more: Mapping[str, Any],
) -> Iterator[tuple[str, ModelConfig, dict[str, Any]]]:
    """(name, model, changes of the training) of every variant at every point of the axes.

    A row's name says what it is on the axes, except on those that make no difference to it.
    """
    if unknown := [field for field in more if FIELDS.get(field, field) not in MODEL | TRAIN]:
        raise InputError(f"settings: {unknown[0]!r} is no field of the model or the training; there are"
                         f" {', '.join(sorted(MODEL | TRAIN))}")  # fmt: skip
    knobs = {**model, **train}
    for field, value in more.items():
        letter = {"frames": "T", "step": "s"}.get(field, field)
        knobs[letter] = (value,) if field == "crops" else value
    if knobs["prompt"] is not None:
        words = {len(text.split()) for text in listed(knobs["prompt"]) if isinstance(text, str)}
        if isinstance(knobs["H"], tuple) or (knobs["H"] != 5 and words != {knobs["H"]}):
            raise InputError(f"H={knobs['H']} and prompt={knobs['prompt']!r}: a prompt has as many words as"
                             " vectors;"
                             " leave H out")  # fmt: skip
        del knobs["H"]
    else:
        del knobs["prompt"]
    axes = {name: value for name, value in knobs.items() if isinstance(value, list | tuple)}
    seen = []
    for name, changes in variants.items():
        for point in itertools.product(*axes.values()):
            at = dict(zip(axes, point, strict=True))
            if both := [axis for axis in at if _field(axis) in changes]:
                raise InputError(
                    f"variants: {name!r} sets {_field(both[0])}, which is also the axis {both[0]}; take one"
                )
            merged = {_field(knob): value for knob, value in {**knobs, **at}.items() if knob != "H"}
            if "H" in knobs:
                merged["prompt"] = prompt_of({**knobs, **at}["H"])
            merged |= changes
            if "step" not in changes and "s" not in at and merged["step"] == FULL.step:
                merged["step"] = min(FULL.step, max(1, merged["frames"] - 1))
            config = ModelConfig(**{field: value for field, value in merged.items() if field in MODEL})
            training = {field: value for field, value in merged.items() if field in TRAIN}
            shown = [axis for axis in at if _matters(axis, config)]
            row = tuple(at[axis] for axis in shown)
            if (name, row) in seen:
                continue
            seen.append((name, row))
            labels = ", ".join(_label(axis, at[axis]) for axis in shown)
            alone = len(variants) == 1 and labels
            yield labels if alone else f"{name} {labels}".strip(), config, training if trains(config) else {}


def _field(knob: str) -> str:
    return "prompt" if knob == "H" else FIELDS.get(knob, knob)


def _label(axis: str, value: Any) -> str:
    if axis == "prompt":
        return str(value)
    return f"{axis}={value:g}" if isinstance(value, float) else f"{axis}={value}"


def _matters(axis: str, model: ModelConfig) -> bool:
    """Whether a model is another one for another value on an axis."""
    return model.mmb if axis == "s" else axis not in TRAIN or trains(model)


def _training(usual: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """A profile's training with some fields changed; steps take the place of epochs, and the other way
    round."""
    if "steps" in changes and "epochs" not in changes:
        changes = {**changes, "epochs": None}
    elif "epochs" in changes and "steps" not in changes:
        changes = {**changes, "steps": None}
    return replace(usual, **changes)


def _draws(profile: Profile, k: int | None, seeds: int | None) -> Iterator[tuple[int, str | None]]:
    """(seed, published list) of every run of a cell. Lists of equal k follow each other with seeds of their
    own, so that a run is still named by variant, k and seed."""
    seeds = seeds or (profile.seeds if k else profile.closed_seeds)
    lists: list[str | None] = [digest for digest, size in profile.lists if size == k]
    for number, drawn in enumerate(lists or [None]):
        yield from ((number * seeds + seed, drawn) for seed in range(seeds))


# --- the paper's tables and panels -------------------------------------------------------------------------

FIVE = tuple(VARIANTS)
ONE_DRAW = {"jitter": 1}


def table1(profile: Profile, *, variants=("clip", "mmb+map"), H=(3, 4, 5), **knobs: Any) -> list[Cell]:
    """Closed-set: CLIP with hand-crafted prompts A, B, C against motion-aware prompts of equal length,
    without MCB."""
    letters = {f"clip H={h}": f"clip {letter}" for letter, h in zip("ABC", PROMPTS, strict=True)}
    cells = grid(profile, variants=variants, H=H, **knobs)
    return [replace(cell, variant=letters.get(cell.variant, cell.variant)) for cell in cells]


def table2(profile: Profile, *, prompt=INITIALISATIONS, **knobs: Any) -> list[Cell]:
    """Closed-set: three hand-crafted prompts that initialise the H=5 vectors of the full model."""
    return grid(profile, prompt=prompt, **knobs)


def table4(
    profile: Profile, *, datasets=(KINETICS,), variants=FIVE, rivals=False, k=5, **knobs: Any
) -> list[Cell]:
    """5-shot on Kinetics-400: the five variants."""
    return _with_rivals(profile, rivals, datasets=datasets, variants=variants, k=k, **knobs)


def table5(
    profile: Profile, *, variants=("clip", *FIVE), rivals=False, k=(2, 4, 8, 16), **knobs: Any
) -> list[Cell]:
    """Few-shot (section 4.3): five variants, k videos a class by seeded lists from split-1 train, split-1
    test."""
    return _with_rivals(profile, rivals, variants=variants, k=k, controls=True, **knobs)


def table6(
    profile: Profile, *, variants=("clip", "full"), rivals=False, splits=None, **knobs: Any
) -> list[Cell]:
    """Zero-shot from Kinetics-400: the full model, closed-set there, tested on the three splits of the two
    others."""
    return _zero_shot(profile, lambda role: KINETICS, rivals, variants=variants, splits=splits, **knobs)


def table7(
    profile: Profile, *, variants=("clip", "baseline", "full"), rivals=False, splits=None, **knobs: Any
) -> list[Cell]:
    """Zero-shot between HMDB-51 and UCF-101: trained on a split of one, tested on the same split of the
    other."""
    other = {HMDB: UCF, UCF: HMDB}
    return _zero_shot(profile, other.__getitem__, rivals, variants=variants, splits=splits, **knobs)


def _zero_shot(profile: Profile, trained_on: Callable[[str], str], rivals: Any, **knobs: Any) -> list[Cell]:
    """Untrained CLIP is also scored on half of the classes, like a transfer."""
    return _with_rivals(profile, rivals, trained_on=trained_on, **knobs)


def table8(
    profile: Profile, *, datasets=(*BOTH, KINETICS), variants=("full",), rivals=False, splits=None,
    **knobs: Any,
) -> list[Cell]:  # fmt: skip
    """Closed-set: the full model on all three splits (Kinetics-400 has one)."""
    knobs |= {"datasets": datasets, "variants": variants, "splits": splits}
    return _with_rivals(profile, rivals, keep=True, **knobs)  # Tables 6 and 7 test them too


def _with_rivals(profile: Profile, rivals: bool | Mapping[str, float], **knobs: Any) -> list[Cell]:
    """A grid, and where `rivals` asks for them other methods on the same videos with the same steps.

    rivals: True for trials of their rates on videos set aside, and what is not trained; or the rates, by row.
    With an `lr` of the call all are trained at that. Zero-shot takes the methods that can name unseen
    classes.
    """
    own = grid(profile, **knobs)
    if rivals is False:
        return own
    transfers = "trained_on" in knobs
    methods = [name for name, method in beside.METHODS.items() if method.unseen or not transfers]
    full = grid(profile, **knobs | {"variants": "full"})
    others = beside.of_methods(full, methods, beside.EQUAL)
    if knobs.get("lr") is not None:
        return own + others
    if rivals is not True:
        return own + beside.at_rates(others, rivals)
    trials = beside.trials(others, {cell.variant: beside.RATES for cell in others}, RATE_SEED)
    return own + [cell for cell in others if not cell.config.train] + trials


def _at_their_best(table: Callable[..., list[Cell]]) -> Callable[..., list[Cell]]:
    """What makes a table's rivals at their best rates, once those were tried; nothing where none are asked
    for."""

    def then(profile: Profile, scores: pd.DataFrame, *, rivals: bool = False, **knobs: Any) -> list[Cell]:
        if not rivals or knobs.get("lr") is not None:
            return []
        found = table(profile, rivals=best_rates(scores), **knobs)
        return [cell for cell in found if cell.config.method and cell.config.train]

    return then


def figure3a(
    profile: Profile, *, variants=("clip", "baseline", "mmb", "mmb+map", "full"), H=3, **knobs: Any
) -> list[Cell]:
    """Closed-set: the parts added one by one, at H=3 as in section 4.2."""
    cells = grid(profile, variants=variants, H=H, **knobs)
    named = {"mmb+map": "mmb+map H=3", "full": "full H=3"} if H == 3 else {}
    return [replace(cell, variant=named.get(cell.variant, cell.variant)) for cell in cells]


def figure3b(profile: Profile, *, T=(4, 8, 16, 32), settings=ONE_DRAW, **knobs: Any) -> list[Cell]:
    """Closed-set: number T of frames. Four frames have no pair further apart than 3, so s is 3 there.

    Training draws the same frame of a segment each time: out of 32 stored frames a segment would offer 8, 4,
    2 and 1 draws at T = 4, 8, 16 and 32, so that the number of frames would not vary alone.
    """
    return grid(profile, T=T, settings=settings, **knobs)


def figure3c(profile: Profile, *, H=(3, 4, 5), **knobs: Any) -> list[Cell]:
    """Closed-set: number H of prompt vectors."""
    return grid(profile, H=H, **knobs)


def figure3d(profile: Profile, *, s=(1, 2, 3, 4, 5), **knobs: Any) -> list[Cell]:
    """Closed-set: largest temporal step s of the frame differences."""
    return grid(profile, s=s, **knobs)


# --- beyond the paper --------------------------------------------------------------------------------------


def ablation(profile: Profile, *, variants=("baseline", "mmb", "full"), k=16, **knobs: Any) -> list[Cell]:
    """Any grid of your own, few-shot or (k=none) on all training videos."""
    return grid(profile, variants=variants, k=k, controls=True, **knobs)


def readings(
    profile: Profile, *, variants=tuple(READINGS), k=16, lr=None, seeds=None, **knobs: Any
) -> list[Cell]:
    """Which learning rate suits each reading: one run at each rate, tested on training videos set aside."""
    found = []
    for rate in profile.rates if lr is None else listed(lr):
        found += grid(profile, variants=variants, k=k, lr=rate, seeds=1, **knobs)
    return [
        replace(cell, config=replace(cell.config, seed=RATE_SEED, held_out=True), keep=False)
        for cell in found if cell.config.train
    ]  # fmt: skip


def readings_at_their_best(
    profile: Profile, tried: pd.DataFrame, *, variants=tuple(READINGS), k=16, lr=None, **knobs: Any
) -> list[Cell]:
    """Every reading at the rate with its highest mean over the data sets, tested on the test videos.

    Raises InputError for a reading that diverged at every rate.
    """
    rates = best_rates(tried)
    found = grid(profile, variants=variants, k=k, **knobs)
    if lost := [cell.variant for cell in found if cell.config.train and cell.variant not in rates]:
        raise InputError(
            f"readings, {lost[0]}: every learning rate that was tried failed on a data set; try lower ones"
        )
    cells = []
    for cell in found:
        if cell.config.train:
            train = replace(cell.config.train, lr=rates[cell.variant])
            cell = replace(cell, config=replace(cell.config, train=train), keep=False)
        cells.append(cell)
    return cells


def rate_means(tried: pd.DataFrame) -> dict[str, dict[float, float]]:
    """Variant -> {learning rate: mean top-1 over data sets on the videos set aside (split 0)}.

    tried: tidy table. A rate without a score on one of the data sets, where training diverged, is left out.
    """
    scores = tried[(tried["split"] == 0) & (tried["metric"] == "top1")]
    found = scores.groupby(["variant", "lr"])["value"].agg(["mean", "count"])
    means = found.loc[found["count"] == found["count"].max(), "mean"].round(6)
    return {
        str(variant): {float(rate): float(mean) for rate, mean in of_variant.droplevel(0).items()}
        for variant, of_variant in means.groupby("variant")
    }


def best_rates(tried: pd.DataFrame) -> dict[str, float]:
    """Variant -> learning rate with the highest mean of `rate_means`, the smallest of equals."""
    return {variant: beside.best_rate(scores) for variant, scores in rate_means(tried).items()}


OURS = ("clip", "baseline", "mmb", "mmb+map", "prompts without motion", "full")


def rivals(
    profile: Profile, *, variants=OURS, methods=None, budget="equal", k=(2, 4, 8, 16), lr=beside.RATES,
    **knobs: Any,
) -> list[Cell]:  # fmt: skip
    """Other methods on the same features, lists, seeds and views. With the budget `equal` and several rates:
    what is not trained, and a run of everything else at each rate, on training videos set aside."""
    cells = _rivals(profile, variants, methods, budget, k, **knobs)
    if budget == beside.PUBLISHED:
        return cells
    if not isinstance(lr, list | tuple):
        return beside.at_rates(cells, {cell.variant: lr for cell in cells})
    trials = beside.trials(cells, {cell.variant: lr for cell in cells}, RATE_SEED)
    return [cell for cell in cells if not cell.config.train] + trials


def wider_rates(profile: Profile, scores: pd.DataFrame, trials: Sequence[Cell], **knobs: Any) -> list[Cell]:
    """Trials at the next rate of every row whose best lies at an edge of those it tried (`rivals.edges`)."""
    rates = beside.wider(rate_means(scores), beside.rates_tried(trials)) if len(scores) else {}
    cells = [cell for cell in trials if cell.config.held_out]
    return beside.trials(cells, rates, RATE_SEED)


def rivals_at_their_best(
    profile: Profile, scores: pd.DataFrame, *, variants=OURS, methods=None, budget="equal", k=(2, 4, 8, 16),
    lr=beside.RATES, **knobs: Any,
) -> list[Cell]:  # fmt: skip
    """All methods at the rate with the highest mean over the data sets; none where none is to be chosen."""
    if budget == beside.PUBLISHED or not isinstance(lr, list | tuple):
        return []
    cells = _rivals(profile, variants, methods, budget, k, **knobs)
    return beside.at_rates([cell for cell in cells if cell.config.train], best_rates(scores))


def _rivals(profile: Profile, variants, methods, budget, k, seeds=None, **knobs: Any) -> list[Cell]:
    seeds = seeds or (max(5, profile.seeds) if profile.seeds > 1 else 1)
    own = grid(profile, variants=variants, k=k, seeds=seeds, controls=True, **knobs)
    full = grid(profile, variants="full", k=k, seeds=seeds, controls=True, **knobs)
    return [replace(cell, keep=False) for cell in own] + beside.of_methods(full, methods, budget)


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
        then=_at_their_best(table4),
        widen=wider_rates,
        compare=_STEPS,
    ),
    "table5": Target(
        "Table 5: few-shot",
        "five variants trained on k = 2, 4, 8, 16 videos a class",
        BOTH,
        table5,
        then=_at_their_best(table5),
        widen=wider_rates,
        axis="k",
        compare=_STEPS,
    ),
    "table6": Target(
        "Table 6: zero-shot from Kinetics-400",
        "the full model, trained closed-set on Kinetics-400, names the actions of two other data sets",
        (HMDB, UCF, KINETICS),
        table6,
        then=_at_their_best(table6),
        widen=wider_rates,
        compare=(("full", "clip"),),
    ),
    "table7": Target(
        "Table 7: zero-shot between HMDB-51 and UCF-101",
        "Baseline and full model, trained on one data set and tested on the other, both ways",
        BOTH,
        table7,
        then=_at_their_best(table7),
        widen=wider_rates,
        compare=(("full", "baseline"), ("full", "clip"), ("baseline", "clip")),
    ),
    "table8": Target(
        "Table 8: closed-set on all three data sets",
        "the full model on every official split, beside printed competitors",
        (HMDB, UCF, KINETICS),
        table8,
        then=_at_their_best(table8),
        widen=wider_rates,
    ),
    "figure3a": Target(
        "Figure 3a: the parts, one by one",
        "CLIP, Baseline, then motion stream, prompts and communication block, closed-set, H = 3",
        BOTH,
        figure3a,
        compare=(("mmb", "baseline"), ("mmb+map H=3", "mmb"), ("full H=3", "mmb+map H=3"),
                 ("baseline", "clip")),
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
        compare=(*tuple((f"s={s}", "s=1") for s in (2, 3, 4, 5)), ("s=5", "s=4")),
    ),
    "ablation": Target(
        "Ablation: a grid of your own",
        "any variants, k, T, s, H, temperature, rate and training; not in the paper",
        BOTH,
        ablation,
        compare=(("mmb", "baseline"), ("full", "mmb"), ("full", "baseline")),
        part_of="table5",
    ),
    "readings": Target(
        "Open readings and two controls",
        "one unstated choice changed at a time, each at its own learning rate; not in the paper",
        BOTH,
        readings,
        compare=(
            *((name, "baseline" if name.startswith("baseline") else "default")
              for name in READINGS if name not in ("default", "baseline")),
            ("default", "baseline"),
        ),
        then=readings_at_their_best,
    ),
    "rivals": Target(
        "Rivals: other methods on the same features",
        "what a user would pick instead, with equal lists, seeds, views and steps; not in the paper",
        BOTH,
        rivals,
        compare=beside.PAIRS,
        then=rivals_at_their_best,
        widen=wider_rates,
    ),
}  # fmt: skip
# What `all` makes: the paper's tables and panels; table3 is counted, not trained.
PAPER_TARGETS = ("table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8",
                 "figure3a", "figure3b", "figure3c", "figure3d")  # fmt: skip
# All that can be made, in the order in which it is shown.
ALL_TARGETS = tuple(dict.fromkeys((*PAPER_TARGETS, *TARGETS)))


# Parameters of a call that decide no cell.
ASIDE = {"class_names": "words"}


def parameters(target: str) -> dict[str, Any]:
    """The knobs of a target with their defaults, in the order of `knobs.KNOBS`."""
    found = dict(ASIDE)
    for function in (grid, TARGETS[target].cells):
        found |= {one.name: one.default for one in inspect.signature(function).parameters.values()}
    return {name: found[name] for name in KNOBS if name in found}


def changed(target: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a call changes of a target's defaults; 'paper' among the variants becomes the target's own rows.

    Raises InputError naming a parameter that the target does not have, or whose value is of the wrong type.
    """
    usual = parameters(target)
    found = check(target, given, usual)
    if "datasets" in found:
        found["datasets"] = listed(found["datasets"])
    if "variants" in found:
        rows = ([*usual["variants"]] if row == "paper" else [row] for row in listed(found["variants"]))
        found["variants"] = tuple(itertools.chain.from_iterable(rows))
    return {name: value for name, value in found.items() if value != usual[name]}
