"""From what a user asks to what is to be run: a target, its profile, its data sets and its knobs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from flowclip_core.config import TINY
from flowclip_core.errors import InputError
from flowclip_kit.datasets import formats
from flowclip_kit.datasets.formats import Dataset
from flowclip_kit.demo import world
from flowclip_kit.experiments.catalogue import (
    ASIDE,
    KINETICS,
    TARGETS,
    Cell,
    Target,
    changed,
    listed,
    parameters,
)
from flowclip_kit.experiments.knobs import MODEL, TRAIN, short_key
from flowclip_kit.paths import root
from flowclip_kit.profiles import PAPER_ROLES, PROFILES, BackboneConfig, Profile


@dataclass(frozen=True)
class Options:
    """How and where to run, apart from the profile. What changes a number among these is part of a run's
    key."""

    data_root: Path | None = None
    dataset: str | None = None  # short form of the parameter `datasets`
    results: Path | None = None  # default: results/ of the checkout
    seeds: int | None = None  # short form of the parameter of that name
    device: str = "auto"
    jobs: int | None = None
    decoder: str = "pyav"
    backbone: str | None = None
    pretrained: str | None = None
    precision: str | None = None  # of the image tower; default: see `devices.pick_precision`
    decoders: int | None = None  # decoding processes of a GPU
    incomplete: str | None = None  # listed videos that are missing or unreadable: stop or skip
    class_names: str = "words"  # how they read in prompts: see `datasets.class_text`
    few_shot_lists: tuple[Path, ...] = ()  # published lists instead of seeded draws
    engine: str = "local"  # what makes the runs: worker processes, or ray
    memory: float | None = None  # GiB that the prompt trees of all processes may take while they train
    ray_address: str | None = None  # of a running Ray cluster; default: one of this machine
    log: str | Path | None = None  # of every training: `tensorboard`, or a folder for CSV files

    def skips(self, dataset: str) -> bool:
        """Whether listed videos may be missing or unreadable. Kinetics loses some every year."""
        return self.incomplete == "skip" or (self.incomplete is None and dataset == "kinetics400")

    @property
    def results_dir(self) -> Path:
        return self.results or root() / "results"


@dataclass(frozen=True)
class Experiment:
    """What one call asks of a target.

    profile: with the user's changes, and the data sets of this call. changes: the parameters that differ from
    the target's defaults, as the user wrote them. knobs: the keyword arguments of the target's function.
    name: that the user gave to this call, or empty.
    """

    target: str
    profile: Profile
    changes: Mapping[str, Any] = field(default_factory=dict)
    knobs: Mapping[str, Any] = field(default_factory=dict)
    given_name: str = ""
    by_option: bool = False  # whether --dataset, the short form, names the data set

    @classmethod
    def of(
        cls,
        target: str,
        profile: str = "demo",
        options: Options | None = None,
        given: Mapping[str, Any] | None = None,
        name: str = "",
        need: bool = True,
    ) -> Experiment:
        """What a call asks for, before any data are opened. given: parameters that the user sets.

        Raises InputError where the target, the profile, a parameter, a data set or a combination is unknown
        or cannot be.
        """
        options = options or Options()
        if target not in TARGETS:
            raise InputError(f"target {target!r} is unknown; ./reproduce.sh list shows all")
        if not re.fullmatch(r"[\w.+=-]{0,60}", name) or name.startswith("."):
            raise InputError(f"name={name!r:.80}: expected a folder's name: letters, digits and . _ + = -")
        changes = changed(target, {**_short_forms(options), **(given or {})})
        chosen = resolve(profile, target, replace(options, dataset=None), changes.get("datasets"), need)
        knobs = {knob: value for knob, value in changes.items() if knob not in ASIDE}
        if "datasets" in knobs:
            knobs["datasets"] = tuple(chosen.roles)
        found = cls(target, chosen, changes, knobs, name, options.dataset is not None)
        for cell in found.cells():
            _need_stored(cell, chosen)
        return found

    @property
    def about(self) -> Target:
        return TARGETS[self.target]

    def cells(self) -> list[Cell]:
        """The cells that depend on no score."""
        return self.about.cells(self.profile, **self.knobs)

    @property
    def tries(self) -> bool:
        """Whether it chooses learning rates on training videos set aside."""
        return any(cell.config.held_out for cell in self.cells())

    def then(self, scores: pd.DataFrame) -> list[Cell]:
        """The cells that depend on the scores of the others; none for most targets."""
        return self.about.then(self.profile, scores, **self.knobs) if self.about.then else []

    def widen(self, scores: pd.DataFrame, trials: Sequence[Cell]) -> list[Cell]:
        """More trials of learning rates beyond `trials`; none where no best rate lies at an edge."""
        return self.about.widen(self.profile, scores, trials, **self.knobs) if self.about.widen else []

    @property
    def name(self) -> str:
        """What the files of a call are told apart by that is not the target's own: its name or a short key.

        Empty where only the number of runs or the choice among the target's data sets is another, or where
        --dataset names the videos: that is still the target, and its results go where the target's go.
        """
        own = {name: value for name, value in self.changes.items() if name != "seeds"}
        if set(self.profile.roles) <= set(PAPER_ROLES) or (self.by_option and set(own) == {"datasets"}):
            own.pop("datasets", None)
        return self.given_name or (short_key(own) if own else "")

    @property
    def variants(self) -> list[str]:
        """The rows, in the order in which they were asked for."""
        return list(dict.fromkeys(cell.variant for cell in self.cells()))

    @property
    def compare(self) -> list[tuple[str, str]]:
        """(variant, reference): the target's pairs that are there, and every other row with `reference`."""
        rows = self.variants
        pairs = [pair for pair in self.about.compare if set(pair) <= set(rows)]
        if self.name:
            known = {self.reference, *(variant for pair in pairs for variant in pair)}
            pairs += [self.pair(row, self.reference) for row in rows if row not in known]
        return pairs

    @property
    def reference(self) -> str:
        """The row that others are compared with where nothing else is said: the full model, else the first
        trained one, else the first."""
        rows = self._trained or self.variants
        return "full" if "full" in rows else rows[0]

    def pair(self, row: str, reference: str) -> tuple[str, str]:
        """(variant, reference) of two rows. Where one alone is trained it is the variant, since runs pair
        with the one without training, and not the other way round (see `stats.paired_difference`)."""
        swap = reference in self._trained and row not in self._trained
        return (reference, row) if swap else (row, reference)

    @property
    def _trained(self) -> list[str]:
        return list(dict.fromkeys(cell.variant for cell in self.cells() if cell.config.train))

    @property
    def axis(self) -> str | None:
        """The column that the rows vary, where it is a single one: T, H, s or k."""
        if not self.name:
            return self.about.axis
        several = [
            name for name, value in self.knobs.items() if isinstance(value, tuple) and name in ("T", "H", "s")
        ]
        whole = {**parameters(self.target), **self.knobs}
        model = [name for name in ("T", "H", "s", "prompt", "tau", "lr", "steps", "epochs", "batch")
                 if isinstance(whole[name], list | tuple)]  # fmt: skip
        if len(model) == 1 and model[0] in ("T", "H", "s") and all("=" in row for row in self.variants):
            return model[0]
        return "k" if not several and not model and len(listed(whole["k"])) > 1 else None

    def check(self, tidy: pd.DataFrame) -> None:
        """Raises AssertionError where a results table is not that of this experiment: another set of rows,
        rows that were run with other settings than asked for, or some with fewer runs than others. tidy:
        test videos only."""
        models = {cell.variant: cell.config.model for cell in self.cells()}  # of trials of rates too
        rows = tidy[tidy["metric"] == "top1"]
        if set(rows["variant"]) != set(models):
            raise AssertionError(f"rows {sorted(set(rows['variant']))}, asked for {sorted(models)}")
        for row in rows.itertuples():
            model = models[row.variant]
            length = model.differences if model.mmb else 0  # Eq. 5
            parts = map(int, (model.mmb, model.map, model.mcb))
            asked = (model.frames, model.prompt_length, model.step, length, *parts)
            if (row.T, row.H, row.s, row.L, row.mmb, row.map, row.mcb) != asked:
                raise AssertionError(f"run {row.key} of {row.variant}: T, H, s, L and parts are not {asked}")
        trained = rows[rows["trained_on"] != ""].groupby(["dataset", "trained_on", "variant", "k"])
        per_set = trained.size().groupby("dataset").nunique()
        if (per_set > 1).any():
            raise AssertionError(f"cells with fewer runs than others: {trained.size().to_dict()}")
        seeds = self.changes.get("seeds")
        if seeds and len(trained) and set(trained["seed"].nunique()) != {seeds}:
            raise AssertionError(f"{trained['seed'].nunique().to_dict()} seeds, asked for {seeds}")

    @property
    def settings(self) -> list[str]:
        """Fields of the model and the training that this call names and a results table has no column for."""
        shown = {"T", "s", "H", "lr", "mmb", "map", "mcb", "prompt", "frames", "step"}
        named = [name for name in self.changes if name in MODEL | TRAIN]
        named += list(self.changes.get("settings") or {})
        for row in listed(self.changes.get("variants", ())):
            if isinstance(row, Mapping):
                named += [setting for change in row.values() for setting in change]
        return list(dict.fromkeys(setting for setting in named if setting in (MODEL | TRAIN) - shown))


def _short_forms(options: Options) -> dict[str, Any]:
    short = {"datasets": options.dataset, "seeds": options.seeds}
    if options.seeds is not None and options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: at least 1 run is needed")
    return {name: value for name, value in short.items() if value is not None}


def _need_stored(cell: Cell, profile: Profile) -> None:
    """Raises InputError where a cell takes frames or views that the profile does not store."""
    frames, train = cell.config.model.frames, cell.config.train
    if frames > profile.frames_stored:
        raise InputError(
            f"T={frames}: {profile.frames_stored} frames of a video are stored; take as many at most"
        )
    for views in (cell.config.evaluation.crops, train.crops if train else ()):
        if not set(views) <= set(profile.store_crops):
            raise InputError(f"crops={list(views)}: profile {profile.name} stores the views"
                             f" {', '.join(profile.store_crops)}")  # fmt: skip


def resolve(
    profile: str, target: str, options: Options, datasets: Sequence[str] | None = None, need: bool = True
) -> Profile:
    """The profile with the user's backbone and the data sets of this call. Raises InputError for one that is
    unknown.

    datasets: by the paper's names or their own; default: the target's. need: whether they must be there, as
    for a run; not to look at results.
    """
    found, about = with_backbone(profile, options), TARGETS[target]
    datasets = datasets or ((options.dataset,) if options.dataset else None)
    if options.few_shot_lists and not about.few_shot:
        raise InputError(
            f"--few-shot-list: {target} does not train on k videos a class; table4 and table5 do"
        )
    roles = {role: name for role, name in found.roles.items() if role in about.roles}
    if datasets:
        real = [name for name in datasets if name in PAPER_ROLES.values()]
        if real and PROFILES[profile].backbone.name == TINY and not options.backbone:
            raise InputError(f"--dataset {real[0]} holds real videos; take it with --profile quick or paper")
        if about.transfers:
            raise InputError(f"{target} trains on one data set and tests on another; leave --dataset"
                             f" {' '.join(datasets)} out")  # fmt: skip
        roles = _roles(datasets, found.roles)
    for name in roles.values() if need else ():
        need_data(name, options)
    if options.few_shot_lists and len(roles) > 1:
        raise InputError(
            f"--few-shot-list: say whose videos it names with --dataset {' or '.join(roles.values())}"
        )
    return replace(found, roles=roles)


def _roles(datasets: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """Role -> data set; the role is empty for one that is none of the paper's."""
    found: dict[str, str] = {}
    for name in datasets:
        role = next((role for role, own in known.items() if name in (role, own)), "")
        if role in found:
            raise InputError(f"datasets={list(datasets)}: name at most one data set that is not the paper's")
        found[role] = known.get(role, name)
    return found


def with_backbone(profile: str, options: Options) -> Profile:
    """The profile with the backbone that the user wants. Raises InputError when one of the two is unknown."""
    if profile not in PROFILES:
        raise InputError(f"--profile {profile!r} is unknown; use {', '.join(PROFILES)}")
    found = PROFILES[profile]
    backbone = found.backbone
    if options.backbone or options.pretrained:
        name = options.backbone or backbone.name
        pretrained = options.pretrained or (None if name == TINY else "openai")
        backbone = BackboneConfig(name, None if pretrained == "none" else pretrained)
    if backbone.name == TINY and backbone.pretrained:
        folder = world.weights_of(backbone.pretrained).parent
        backbone = replace(backbone, pretrained=str(folder.absolute()))
    return replace(found, backbone=backbone)


def need_data(name: str, options: Options) -> None:
    """Raises InputError for a data set that is unknown, or neither drawn nor said to lie in a folder that is
    there."""
    if name not in formats.NAMES:
        raise InputError(f"data set {name!r}: expected one of {', '.join(formats.NAMES)}")
    if options.data_root is not None and not options.data_root.is_dir():
        raise InputError(f"--data-root {options.data_root}: no such folder")
    if name not in world.NAMES and options.data_root is None:
        raise InputError(f"data set {name}: say where it lies with --data-root DIR")


def possible(
    asked: Experiment,
    sets: Mapping[str, Dataset],
    has: Callable[[str], Callable[[str], bool]],
    lists: Mapping[str, int],
    seeds: int | None = None,
) -> Experiment:
    """The experiment with the k and splits that its data sets, or the published lists, can give.

    sets: role -> data set, for targets that set training videos aside without these. has: role -> whether a
    video could be read. lists: hash of a published list -> its k. seeds: that the user asked for. Raises
    InputError for a k or a split that was asked for and cannot be.
    """
    profile, knobs = asked.profile, dict(asked.knobs)
    splits = profile.splits
    usual = parameters(asked.target)
    for role, dataset in sets.items():
        readable = has(role)
        if any(listed(knobs.get("k", usual["k"]))):
            shots = tuple(filter(None, listed(knobs.get("k", usual["k"]))))
            able = possible_shots(dataset, shots, readable)
            if "k" in asked.changes and able != shots:
                rarest = _rarest(dataset, readable)
                raise InputError(
                    f"k={max(shots)}: a class of {dataset.name} has only {rarest} training videos"
                )
            if "k" not in asked.changes:
                knobs["k"] = able if isinstance(usual["k"], tuple) else able[0]
        if role != KINETICS:
            splits = tuple(split for split in splits if split in dataset.splits)
            wanted = listed(knobs.get("splits") or ())
            if lost := [split for split in wanted if split not in dataset.splits]:
                raise InputError(
                    f"splits={lost[0]}: {dataset.name} has the splits {', '.join(map(str, dataset.splits))}"
                )
    profile = replace(profile, splits=splits)
    if not lists:
        return replace(asked, profile=profile, knobs=knobs)
    many = Counter(lists.values())
    if len({*many.values()}) > 1 or (asked.about.axis != "k" and len(many) > 1):
        said = ", ".join(f"{count} of k={k}" for k, count in sorted(many.items()))
        expected = "as many lists of each k" if asked.about.axis == "k" else "one k"
        raise InputError(f"--few-shot-list: {said}; expected {expected}")
    knobs["k"] = tuple(sorted(many))
    if not seeds and len(lists) > len(
        many
    ):  # ten lists are ten runs; a single one is trained on with every seed
        knobs["seeds"] = 1
    return replace(asked, profile=replace(profile, lists=tuple(lists.items())), knobs=knobs)


def possible_shots(
    dataset: Dataset, shots: tuple[int, ...], has: Callable[[str], bool] = lambda name: True
) -> tuple[int, ...]:
    """The k that every class can give; where even the smallest is too many, as many as the rarest class has.

    has: whether a video could be read.
    """
    rarest = _rarest(dataset, has)
    return tuple(k for k in shots if k <= rarest) or (rarest,)


def _rarest(dataset: Dataset, has: Callable[[str], bool]) -> int:
    readable = Counter(video.label for video in dataset.splits[1].train if has(video.name))
    if not (rarest := min(readable[label] for label in range(len(dataset.classes)))):
        raise InputError(
            f"{dataset.name}: no training video of a class can be read; see failed.csv of its features"
        )
    return rarest
