"""`predict`: name the action in one video, by the embedded tiny CLIP where no other is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flowclip_core import predict
from flowclip_core.config import TINY
from flowclip_core.errors import InputError
from flowclip_core.predict import Prediction
from flowclip_kit.datasets.decoders import read_frames


def classify(
    video: str | Path,
    labels: Sequence[str] | None = None,
    *,
    checkpoint: str | Path | None = None,
    backbone: str | None = None,
    pretrained: str | None = None,
    decoder: str = "pyav",
    device: str = "cpu",
) -> Prediction:
    """`flowclip_core.classify`, with the embedded tiny CLIP by default, which says which words it has never
    seen."""
    if labels is None and checkpoint is None:
        raise InputError(
            "--labels: give the class names (or --label, --labels-file), or a --checkpoint that has its own"
        )
    if checkpoint is not None and backbone is None:
        from flowclip_core.model import hub

        made_with = hub.read_settings(hub.find(checkpoint))["backbone"]
        backbone, pretrained = made_with["name"], pretrained or made_with["pretrained"]
    given = backbone or TINY
    if given == TINY:
        given, pretrained = partial(_tiny, pretrained, device), None
    found = predict.classify(
        video,
        labels,
        checkpoint=checkpoint,
        backbone=given,
        pretrained=pretrained,
        read=partial(read_frames, decoder=decoder),
        device=device,
    )
    if backbone not in (None, TINY):
        return found
    from flowclip_kit.demo.pretrain import unknown_words

    unknown = sorted({word for label, _ in found.top for word in unknown_words(label)})
    more = [f"It has never seen the words: {', '.join(unknown)}."] if unknown else []
    return replace(found, notes=[*found.notes, *more])


def _tiny(pretrained: str | None, device: str):
    from flowclip_kit.demo.backbone import load_backbone

    return load_backbone(TINY, pretrained, device=device)
