"""Models for the explorers: the two that ship with the demo, or a checkpoint of the user's own.

Shipped are two runs of the demo's few-shot preset on figures-h (largest k, seed 0, split 1): the full model
of Table 5, and the same with prompts that are learnt but ignore motion. A fresh clone has no checkpoints, and
training them first draws and encodes a data set. `python -m flowclip_kit.explore.checkpoints` remakes them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowclip_core.config import TINY, ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.model import hub
from flowclip_kit.class_texts import split_names, texts_of
from flowclip_kit.demo import world
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
    """The frozen model of that name, or the one `checkpoint` was trained on; on a GPU where there is one."""
    from flowclip_kit.demo.backbone import load_backbone
    from flowclip_kit.experiments.devices import pick_device

    if checkpoint is not None and name == TINY and pretrained is None:
        settings = hub.read_settings(hub.find(checkpoint))["backbone"]
        name, pretrained = settings["name"], settings["pretrained"]
    return load_backbone(name, pretrained, device=pick_device("auto"))


def load(
    backbone: Backbone, labels: Sequence[str] | None = None, checkpoint: str | Path | None = None
) -> FlowCLIP:
    """The full model: of `checkpoint`, else the shipped one (embedded backbone only), else an untrained one.

    labels: class names other than the model's own; an untrained model needs some. Raises InputError as
    `FlowCLIP.load` does, and for labels that are too few, empty or doubled.
    """
    from flowclip_core.model.flowclip import FlowCLIP

    names = None if labels is None else class_names(labels)
    if checkpoint is None and backbone.name == TINY:
        checkpoint = SHIPPED[FULL]
    if checkpoint is not None:
        return FlowCLIP.load(hub.find(checkpoint), backbone, names)
    if names is None:
        raise InputError(
            f"no trained model ships with backbone {backbone.name}: give class names, or a checkpoint"
        )
    model = FlowCLIP(ModelConfig(), backbone, names).eval()
    model.untrained = True  # type: ignore[assignment]  # a mark of ours, not a part of the model
    return model


def load_static(
    backbone: Backbone,
    labels: Sequence[str] | None = None,
    beside: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> FlowCLIP | None:
    """A model whose prompts ignore motion, to compare with: of `checkpoint`, else the shipped one.

    beside: the full model's checkpoint. None where the shipped one does not belong beside it: it was trained
    like the shipped full model, with the embedded backbone.
    """
    from flowclip_core.model.flowclip import FlowCLIP

    if checkpoint is None:
        if beside is not None or backbone.name != TINY:
            return None
        checkpoint = SHIPPED[STATIC]
    return FlowCLIP.load(hub.find(checkpoint), backbone, None if labels is None else class_names(labels))


def class_names(labels: Sequence[str] | str) -> list[str]:
    """Class texts from a list of names, or from one line as for `predict --labels`; see `labels.texts_of`."""
    names = split_names(labels, "class names") if isinstance(labels, str) else labels
    return texts_of(names, "class names")


def resized(model: FlowCLIP, frames: int, step: int) -> FlowCLIP:
    """The same trained model at T = `frames` and s = `step`: no weight depends on the number of tokens.

    Raises InputError for learned positions, which do, and unless 1 <= s <= T-1.
    """
    import copy

    config = replace(model.config, frames=frames, step=step)
    if config == model.config:
        return model
    if config.positions != "none":
        raise InputError("this model has learned positions: T and s stay as they were in training")
    other = copy.copy(model)  # only the settings are its own
    other.config = config
    return other


def about(model: FlowCLIP, demo: bool = True) -> str:
    """What the scores of a model may mean, in one line. demo: for a clip of the demo world."""
    note = DEMO_NOTE if demo else model.backbone.about
    return (
        f"this model is untrained and its scores mean nothing; {note}"
        if hasattr(model, "untrained")
        else note
    )


def train(results: Path | None = None) -> dict[str, Path]:
    """Train both models as table5 does, or take runs that exist, and write them into `SHIPPED`."""
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_kit.demo.backbone import load_backbone
    from flowclip_kit.experiments import model_card
    from flowclip_kit.experiments.catalogue import table5
    from flowclip_kit.experiments.experiment import Options, resolve
    from flowclip_kit.experiments.runs import Workshop

    options = Options(dataset=TRAINED_ON, results=results)
    profile = resolve("demo", "table5", options)
    full = next(cell for cell in table5(profile) if cell.keep)
    static = replace(full, config=replace(full.config, model=replace(full.config.model, adapter_width=0)))
    backbone = load_backbone(TINY)
    with Workshop(profile, options) as workshop:
        workshop.open([TRAINED_ON])
        workshop.make([full, static], "models of the explorers")
        for name, cell in ((FULL, full), (STATIC, static)):
            model = FlowCLIP.load(workshop.folder / f"{workshop.key(cell.config)}.safetensors", backbone)
            card = model_card.of_run(asdict(model.config), workshop.record(cell.config))
            model.save_pretrained(SHIPPED[name], model_card_kwargs=card)
    return SHIPPED


if __name__ == "__main__":
    if PROFILES["demo"].backbone.name != TINY or len(sys.argv) > 2:
        sys.exit("usage: python -m flowclip_kit.explore.checkpoints [RESULTS]")
    for folder in train(Path(sys.argv[1]) if len(sys.argv) > 1 else None).values():
        print(folder)
