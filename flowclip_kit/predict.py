"""`predict`: name the action in one video, by the embedded tiny CLIP where no other is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowclip_core import predict
from flowclip_core.config import TINY
from flowclip_core.errors import InputError
from flowclip_core.predict import Prediction
from flowclip_kit.class_texts import texts_of
from flowclip_kit.datasets.decoders import read_frames

if TYPE_CHECKING:
    from flowclip_core.model.backbone import Backbone


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
    """`flowclip_core.classify`, with the embedded tiny CLIP by default, which names the words it has never
    seen.
    """
    if labels is None and checkpoint is None:
        raise InputError(
            "--labels: give the class names (or --label, --labels-file), or a --checkpoint that has its own"
        )
    if labels is not None:
        texts_of(labels)  # says more of the names that it refuses
    prediction = predict.classify(
        video,
        labels,
        checkpoint=checkpoint,
        backbone=TINY if backbone is None and checkpoint is None else backbone,
        pretrained=pretrained,
        device=device,
        read=partial(read_frames, decoder=decoder),
        load=_load,
    )
    if not prediction.model.startswith(f"{TINY} "):
        return prediction
    from flowclip_kit.demo.backbone import unknown_words

    unknown = sorted({word for label, _ in prediction.top for word in unknown_words(label)})
    more = [f"It has never seen the words: {', '.join(unknown)}."] if unknown else []
    return replace(prediction, notes=[*prediction.notes, *more])


def _load(name: str | Path, pretrained: str | None, device: str) -> Backbone:
    from flowclip_kit.demo.backbone import load_backbone  # imports torch: not before the video could be read

    return load_backbone(name, pretrained, device=device)
