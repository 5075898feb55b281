"""Name the action in one video: any CLIP of open_clip, with or without trained parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowclip_core.config import ModelConfig
from flowclip_core.data.labels import caution, texts_of
from flowclip_core.data.video import Clip, read_frames, resize_and_crop, segment_centres
from flowclip_core.errors import InputError, NotFinite

if TYPE_CHECKING:
    from flowclip_core.model.backbone import Backbone

# Without a checkpoint: the paper's CLIP row, hand-crafted prompt and mean of the frame features.
CLIP = ModelConfig(mmb=False, map=False, mcb=False, spatial=False)
# exp of more is no scale of cosines; CLIP ends at log 100.
LARGEST_SCALE = 50.0


@dataclass(frozen=True)
class Prediction:
    """Scores of one video: `top` holds (label, score) by falling score, scores adding up to 1 over all
    labels.

    cosines: how near video and text are, whatever the other labels: for labels that may both be true. None
    for a model that scores without texts.
    """

    video: str
    top: list[tuple[str, float]]
    frames: int  # in the video
    model: str
    notes: list[str]  # what the reader must know to take the scores for what they are
    cosines: list[float] | None = None  # in the order of `top`

    def as_dict(self) -> dict:
        """For JSON."""
        top = [{"label": label, "score": round(score, 6)} for label, score in self.top]
        for row, cosine in zip(top, self.cosines or (), strict=False):
            row["cosine"] = round(cosine, 6)
        return {
            "video": self.video,
            "top": top,
            "frames": self.frames,
            "model": self.model,
            "notes": self.notes,
        }


def classify(
    video: str | Path,
    labels: Sequence[str] | None = None,
    *,
    checkpoint: str | Path | None = None,
    backbone: str | Path | Backbone | Callable[[], Backbone] | None = None,
    pretrained: str | None = None,
    read: Callable[..., Clip] = read_frames,
    device: str = "cpu",
) -> Prediction:
    """Score the class names `labels`, a list, for one video; they read as those of data sets do, see
    `class_text`.

    Without a checkpoint this is zero-shot CLIP: hand-crafted prompt C of Table 1 and the mean of T = 8 frame
    features. A checkpoint brings trained parts: a folder (written by table5, or by
    `FlowCLIP.save_pretrained`), a file (by `FlowCLIP.save`), or a repository of the hub, «user/name».
    `labels` may then be left out, to use its own classes, or be other names, which is the paper's zero-shot
    transfer. backbone: a name, a loaded one or what loads it; by default the checkpoint's, or OpenAI's
    ViT-B/16. read: decodes the video, see `read_frames`.
    Raises VideoError for an unreadable video, InputError for unusable labels, weights or checkpoints, and
    NotFinite where a number on the way to the scores is not finite.
    """
    texts = texts_of(labels) if labels is not None else None
    if texts is None and checkpoint is None:
        raise InputError("labels: give the class names, or a checkpoint that has its own")
    # The video first: a wrong path is told before a model is loaded.
    clip = read(video, lambda n: segment_centres(n, CLIP.frames))

    import torch

    from flowclip_core.model import hub
    from flowclip_core.model.backbone import load_backbone
    from flowclip_core.model.flowclip import FlowCLIP

    if checkpoint is not None:
        parts = hub.find(checkpoint)
        made_with = hub.read_settings(parts)["backbone"]
        if backbone is None:
            backbone, pretrained = made_with["name"], pretrained or made_with["pretrained"]
    if backbone is None:
        backbone, pretrained = "ViT-B-16", pretrained or "openai"
    if isinstance(backbone, str | Path):
        frozen = load_backbone(backbone, pretrained, device=device)
    else:
        frozen = backbone if isinstance(backbone, torch.nn.Module) else backbone()
    if checkpoint is None:
        scale = float(frozen.clip.logit_scale)
        if abs(scale) > LARGEST_SCALE:
            raise NotFinite(
                f"backbone {frozen.name}: its logit_scale is {scale:g}, expected the logarithm of some 100"
            )
        tau = 1 / math.exp(scale)
        model = FlowCLIP(replace(CLIP, tau=tau), frozen, texts).eval()
    else:
        model = FlowCLIP.load(parts, frozen, texts)
    if model.config.frames != CLIP.frames:
        clip = read(video, lambda n: segment_centres(n, model.config.frames))
    with torch.inference_mode():
        features = frozen.encode_frames(resize_and_crop(clip.frames, frozen.image_size, ("centre",))[0])
        if not features.isfinite().all():
            raise NotFinite(
                f"{video}: a feature that {frozen.name} makes of it is no finite number, so nothing is answered"
            )
        logits = model(features[None])["logits"][0]
        if not logits.isfinite().all():
            raise NotFinite(f"{video}: the model's logits are not all finite numbers, so nothing is answered")
        scores = logits.softmax(-1)
    order = scores.argsort(descending=True).tolist()
    cosines = (logits * model.config.tau).tolist() if model.config.head == "text" else None  # Eq. 3
    notes = [frozen.about, *filter(None, [caution(model.class_texts)])]
    if (clip.frames == clip.frames[:1]).all():
        notes.append("All frames that it looks at are equal: nothing moves, the answer rests on one picture.")
    if (alike := int((scores == scores.max()).sum())) > 1:
        notes.append(f"The first {alike} names have the same score: their order says nothing.")
    name = "zero-shot"
    if checkpoint is not None:  # of a repository «user/name», of a path its last part
        name = f"with {Path(checkpoint).absolute().name if Path(checkpoint).exists() else checkpoint}"
    return Prediction(
        str(video),
        [(model.class_texts[i], float(scores[i])) for i in order],
        clip.count,
        f"{frozen.name} {name}",
        notes,
        [cosines[i] for i in order] if cosines else None,
    )
