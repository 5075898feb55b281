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


class Classifier:
    """`classify` for many videos: the same arguments, and the backbone is loaded once, with the first video.

    name = Classifier(["cooking", "running"], backbone="ViT-B-16", pretrained="openai")
    for video in videos_in(["clips"]):
        print(video, name(video).top[0])
    """

    def __init__(self, labels: Sequence[str] | None = None, **settings) -> None:
        """labels, settings: those of `classify`."""
        self.labels, self.settings, self._backbone = labels, settings, None

    def __call__(self, video: str | Path) -> Prediction:
        """The prediction for one video. Raises as `classify` does."""
        settings = dict(self.settings)
        if self._backbone is None and Path(video).is_file():  # a wrong path is told before a model is loaded
            self._backbone = self._load()
        if self._backbone is not None:
            settings |= {"backbone": self._backbone, "pretrained": None}
        return classify(video, self.labels, **settings)

    def _load(self):
        from flowclip_core.model import hub
        from flowclip_kit.demo.backbone import load_backbone

        name, pretrained = self.settings.get("backbone"), self.settings.get("pretrained")
        if name is None and (checkpoint := self.settings.get("checkpoint")) is not None:
            origin = hub.read_settings(hub.find(checkpoint))["backbone"]
            name, pretrained = origin["name"], pretrained or origin["pretrained"]
        return load_backbone(name or TINY, pretrained, device=self.settings.get("device", "cpu"))


def videos_in(paths: Sequence[Path | str]) -> list[Path]:
    """The video files that `paths` name: files as they are, folders by what video files they hold, sorted.

    Raises InputError for a folder without any.
    """
    from flowclip_kit.datasets.formats import EXTENSIONS

    videos: list[Path] = []
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            found = sorted(
                file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file()
            )
            if not found:
                raise InputError(
                    f"{path}: no video in this folder; expected files such as .mp4, .avi or .mov"
                )
        videos += found
    return videos
