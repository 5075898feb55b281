"""Models for the explorers: trained parts that ship with the demo, or a checkpoint of one's own.

Shipped are two runs of the demo's few-shot preset on figures-h (largest k, seed 0, split 1): the full model,
which is Table 5's, and the same with prompts that are learnt but ignore motion. `python -m
flowclip_kit.explore.checkpoints` makes them again. They are shipped since a fresh clone has no checkpoints,
and training them first draws and encodes a data set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowclip_core.config import TINY, ModelConfig
from flowclip_core.data.labels import texts_of
from flowclip_core.errors import InputError
from flowclip_core.model import hub
from flowclip_kit.demo import world
from flowclip_kit.label_lists import split_names
from flowclip_kit.profiles import PROFILES
from flowclip_kit.reporting.tables import DEMO_NOTE

if TYPE_CHECKING:
    from flowclip_core.model.backbone import Backbone
    from flowclip_core.model.flowclip import FlowCLIP

FULL, STATIC = "full", "prompts-without-motion"
SHIPPED = {name: world.WEIGHTS.parent / f"figures-h-{name}" for name in (FULL, STATIC)}
TRAINED_ON = "figures-h"


def backbone(
    name: str = TINY, pretrained: str | None = None, checkpoint: str | Path | None = None
) -> Backbone:
    """The frozen model of that name, or the one that `checkpoint` was trained on, on a GPU where there is
    one."""
    from flowclip_kit.demo.backbone import load_backbone
    from flowclip_kit.experiments.devices import pick_device

    if checkpoint is not None and name == TINY and pretrained is None:
        made_with = hub.read_settings(hub.find(checkpoint))["backbone"]
        name, pretrained = made_with["name"], made_with["pretrained"]
    return load_backbone(name, pretrained, device=pick_device("auto"))


def load(
    backbone: Backbone, labels: Sequence[str] | None = None, checkpoint: str | Path | None = None
) -> FlowCLIP:
    """The full model: of `checkpoint`, else the shipped one with the embedded backbone, else with untrained
    parts.

    labels: other class names to ask for than its own; untrained parts need some.
    Raises InputError as `FlowCLIP.load` does, and for labels that are too few, empty or doubled.
    """
    from flowclip_core.model.flowclip import FlowCLIP

    names = None if labels is None else class_names(labels)
    if checkpoint is None and backbone.name == TINY:
        checkpoint = SHIPPED[FULL]
    if checkpoint is not None:
        return FlowCLIP.load(hub.find(checkpoint), backbone, names)
    if names is None:
        raise InputError(
            f"backbone {backbone.name} has no trained parts here: give class names, or a checkpoint"
        )
    model = FlowCLIP(ModelConfig(), backbone, names).eval()
    model.untrained = True
    return model


def load_static(
    backbone: Backbone,
    labels: Sequence[str] | None = None,
    beside: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> FlowCLIP | None:
    """A model whose prompts ignore motion, to compare with the full one: of `checkpoint`, else the shipped
    one.

    beside: the full model's checkpoint. None where the shipped one does not belong beside it: it was trained
    as the shipped full model was, with the embedded backbone.
    """
    from flowclip_core.model.flowclip import FlowCLIP

    if checkpoint is None:
        if beside is not None or backbone.name != TINY:
            return None
        checkpoint = SHIPPED[STATIC]
    return FlowCLIP.load(hub.find(checkpoint), backbone, None if labels is None else class_names(labels))


def class_names(labels: Sequence[str] | str) -> list[str]:
    """Class texts out of names in a list, or in a text as `predict --labels` takes it: see
    `labels.texts_of`."""
    names = split_names(labels, "class names") if isinstance(labels, str) else labels
    return texts_of(names, "class names")


def resized(model: FlowCLIP, frames: int, step: int) -> FlowCLIP:
    """The same trained parts for T = `frames` and s = `step`: nothing in them knows the number of tokens.

    Raises InputError for learned positions, which do, and unless 1 <= s <= T-1.
    """
    import copy

    config = replace(model.config, frames=frames, step=step)
    if config == model.config:
        return model
    if config.positions != "none":
        raise InputError("these parts have learned positions: T and s are fixed, as they were trained")
    other = copy.copy(model)  # shares all parts: only the settings are its own
    other.config = config
    return other


def about(model: FlowCLIP, demo: bool = True) -> str:
    """One line on what the scores of a model may mean. demo: for a drawn clip."""
    said = DEMO_NOTE if demo else model.backbone.about
    return f"its parts are untrained and their scores mean nothing; {said}" if _untrained(model) else said


def _untrained(model: FlowCLIP) -> bool:
    return getattr(model, "untrained", False)


def train(results: Path | None = None) -> dict[str, Path]:
    """Train both models as table5 does and write them into `SHIPPED`; runs that are there already are
    taken."""
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_kit.demo.backbone import load_backbone
    from flowclip_kit.experiments import model_card
    from flowclip_kit.experiments.catalogue import few_shot
    from flowclip_kit.experiments.runs import Options, Workshop, resolve

    options = Options(dataset=TRAINED_ON, results=results)
    profile = resolve("demo", "table5", options)
    kept = next(cell for cell in few_shot(profile, profile.shots, profile.evaluation.controls) if cell.keep)
    static = replace(kept, config=replace(kept.config, model=replace(kept.config.model, adapter_width=0)))
    backbone = load_backbone(TINY)
    with Workshop(profile, options) as workshop:
        workshop.open([TRAINED_ON])
        workshop.make([kept, static], "parts of the explorers")
        for name, cell in ((FULL, kept), (STATIC, static)):
            model = FlowCLIP.load(workshop.folder / f"{workshop.key(cell.config)}.safetensors", backbone)
            card = model_card.of_run(asdict(model.config), workshop.record(cell.config))
            model.save_pretrained(SHIPPED[name], model_card_kwargs=card)
    return SHIPPED


if __name__ == "__main__":
    if PROFILES["demo"].backbone.name != TINY or len(sys.argv) > 2:
        sys.exit("usage: python -m flowclip_kit.explore.checkpoints [RESULTS]")
    for folder in train(Path(sys.argv[1]) if len(sys.argv) > 1 else None).values():
        print(folder)
