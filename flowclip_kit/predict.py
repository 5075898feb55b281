"""`predict`: name the action in one video, by the embedded tiny CLIP where no other is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowclip_core import predict
from flowclip_core.config import TINY
from flowclip_core.errors import InputError
from flowclip_core.predict import Prediction
from flowclip_kit.class_texts import texts_of
from flowclip_kit.datasets import disk
from flowclip_kit.datasets.decoders import read_frames

DEEPEST = 8  # levels of folders that are looked through

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
    load: Callable[..., Backbone] | None = None,
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
        load=load or _load,
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


class Classifier:
    """`classify` for many videos: the same arguments, and the backbone is loaded once, with the first video.

    name = Classifier(["cooking", "running"], backbone="ViT-B-16", pretrained="openai")
    for video in videos_in(["clips"]):
        print(video, name(video).top[0])
    """

    def __init__(self, labels: Sequence[str] | None = None, **settings: Any) -> None:
        """labels, settings: those of `classify`."""
        self.labels, self.settings = labels, settings
        self._load = lru_cache(maxsize=1)(_load)

    def __call__(self, video: str | Path) -> Prediction:
        """The prediction for one video. Raises as `classify` does."""
        return classify(video, self.labels, **{"load": self._load} | self.settings)


def videos_in(paths: Sequence[Path | str]) -> list[Path]:
    """The video files that `paths` name: files as they are, folders by what video files they hold, sorted
    and without hidden ones.

    Raises InputError for a folder without any.
    """
    videos: list[Path] = []
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            found = [path / name for name in disk.videos_in(path, DEEPEST)]
            if not found:
                raise InputError(
                    f"{path}: no video in this folder; expected files such as .mp4, .avi or .mov"
                )
        videos += found
    return videos
