"""What the motion block is fed, and what follows from it: plain arrays in, tidy tables and arrays out.

Letters: T frames, L differences, K classes, D width, s the largest step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowclip_core.model import motion
from flowclip_kit.explore import checkpoints, clips, kept, prompts

if TYPE_CHECKING:
    from torch import Tensor

    from flowclip_core.model.flowclip import FlowCLIP


def sizes(features: np.ndarray) -> np.ndarray:
    """How much differs between any two frames: |I_j - I_i| in row i, column j. (T,D) -> (T,T)."""
    return np.linalg.norm(features[None] - features[:, None], axis=-1)


def inside(frames: int, step: int) -> np.ndarray:
    """(T,T) bool: True at (i, j) for the pairs of Eq. 4, 0 < j-i <= s; nothing else reaches the motion
    stream."""
    marked = np.zeros((frames, frames), bool)
    marked[tuple(np.array(motion.pairs(frames, step)).T)] = True
    return marked


def differences(features: np.ndarray, step: int) -> np.ndarray:
    """I_j - I_i for the pairs of Eq. 4 in the model's order, nearest first: (T,D) -> (L,D)."""
    import torch

    return motion.differences(torch.from_numpy(np.ascontiguousarray(features))[None], step)[0].numpy()


def over_time(features: np.ndarray, step: int) -> pd.DataFrame:
    """Columns distance, time, size: each difference at the middle of its two places, its size per frame of
    distance."""
    found = [
        (j - i, (i + j) / 2, float(np.linalg.norm(features[j] - features[i])) / (j - i))
        for i, j in motion.pairs(len(features), step)
    ]
    return pd.DataFrame(found, columns=["distance", "time", "size"])


def plane(features: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The two directions (D,2) that differences vary along most, and their shares (2,) of all squared size.

    About zero, not about the mean: the mean difference is what the motion stream is after, and a clip run
    backwards keeps its plane. The sign is fixed by the largest entry, so that the same clip gives the same
    picture.
    """
    span, _ = np.linalg.qr(
        features.T
    )  # (D,T): all differences lie in it, and a matrix L x T is soon decomposed
    _, strength, axes = np.linalg.svd(differences(features, step) @ span, full_matrices=False)
    axes = axes @ span.T
    if len(axes) < 2:  # T = 2 has one difference
        axes, strength = np.vstack([axes, np.zeros_like(axes)]), np.append(strength, 0.0)
    axes = axes[:2] * np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(1)])[:, None]
    return axes.T, strength[:2] ** 2 / max(float((strength**2).sum()), 1e-12)


def arrows(features: np.ndarray, step: int, directions: np.ndarray) -> pd.DataFrame:
    """Columns i, j, distance, x, y: each difference as an arrow from the origin in the plane of
    `directions`."""
    found = motion.pairs(len(features), step)
    xy = differences(features, step) @ directions
    return pd.DataFrame({"i": [i for i, _ in found], "j": [j for _, j in found],
                         "distance": [j - i for i, j in found], "x": xy[:, 0], "y": xy[:, 1]})  # fmt: skip


def outcome(model: FlowCLIP, features: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """All intermediates of one video by name, without the batch axis, and `scores` (K,), which add up to 1.

    features: (T,D). The model is taken at this T and s: see `parts.resized`.
    """
    return {name: value[0] for name, value in _outcomes(model, features[None], step).items()}


def _outcomes(model: FlowCLIP, features: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """As `outcome`, for videos (N,T,D) in one pass, with the batch axis."""
    import torch

    with torch.inference_mode():
        frames = torch.from_numpy(np.ascontiguousarray(features)).to(model.backbone.device)
        out = checkpoints.resized(model, features.shape[1], step)(frames)
        out["scores"] = out["logits"].softmax(-1)
    return {name: value.detach().float().cpu().numpy() for name, value in out.items()}


def shapes(model: FlowCLIP) -> dict[str, tuple[int, ...]]:
    """Name and shape of every intermediate that a model with these parts has for one video, in the order of
    Figure 1.

    Told by its settings, not by a pass: what `outcome` gives is held against it.
    """
    config, backbone = model.config, model.backbone
    classes, width = len(model.class_texts), backbone.width
    found = {"frames": (config.frames, width)}
    if config.mmb:
        found |= {"differences": (config.differences, width), "motion_tokens": (config.differences, width)}
    if config.spatial:
        found["spatial_tokens"] = config.frames, width
    if config.mmb:
        found["motion"] = (width,)
    found["video"] = (width,)
    if config.map:
        found["prompts"] = config.prompt_length, backbone.text_width
    return found | {
        "texts": (classes, width),
        "texts_out": (classes, width),
        "video_out": (width,),
        "scores": (classes,),
    }


def streams(
    model: FlowCLIP, out: dict[str, Tensor] | dict[str, np.ndarray]
) -> dict[str, Tensor] | dict[str, np.ndarray]:
    """What V is the sum of, by name: Eq. 6, or what the switches `spatial`, `mmb` and `residual` leave of it.

    out: intermediates with or without the batch axis.
    """
    found = {}
    if "spatial_tokens" in out:
        found["spatial stream"] = out["spatial_tokens"].mean(-2)
    if model.config.residual or not found:
        found["mean of the frames"] = out["frames"].mean(-2)
    if "motion" in out:
        found["motion stream"] = out["motion"]
    return found


def by_order(
    model: FlowCLIP, footage: clips.Footage, frames: int, step: int, start: int = 0, end: int | None = None
):
    """(scores, moved): tables by order of the frames (rows) of the class scores, and of how far V moves.

    scores: columns are class names. moved: columns `distance` |V - V in order| and `cosine` between the two.
    """
    stored = len(footage.features)
    features = footage.features[[clips.choose(stored, frames, start, end, order) for order in clips.ORDERS]]
    out = kept.answers(model).ask("by order", features, step, make=lambda: {
        name: value for name, value in _outcomes(model, features, step).items() if name in ("scores", "video")
    })  # fmt: skip
    scores = pd.DataFrame(out["scores"], list(clips.ORDERS), list(model.class_texts))
    moved = pd.DataFrame([move(out["video"][0], after) for after in out["video"]], list(clips.ORDERS))
    return scores, moved


def move(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How far a vector moved: its distance, and the cosine between the two."""
    norms = float(np.linalg.norm(before) * np.linalg.norm(after))
    return {
        "distance": float(np.linalg.norm(after - before)),
        "cosine": float(before @ after) / max(norms, 1e-12),
    }


def steps(model: FlowCLIP, features: np.ndarray) -> pd.DataFrame:
    """Class scores read out before and after each part: columns stage, label, score; each stage adds up to 1.

    The first stage is CLIP at its own temperature, as everywhere; all others compare V and texts by Eq. 3.
    One model,
    trained whole: a stage says what its parts have added so far, not what a model without the later ones
    would have learnt. A linear head reads V alone, so it has no stages before it.
    """
    import torch
    import torch.nn.functional as F

    from flowclip_core.model.prompts import prompt_vectors

    config, names = model.config, model.class_texts
    texts = [f"{config.prompt} {name}." for name in names]
    scores = {"CLIP, its own temperature": prompts.hand_crafted(model.backbone, features, texts)}
    with torch.inference_mode():
        out = model(torch.from_numpy(np.ascontiguousarray(features))[None].to(model.backbone.device))
        if model.head is None:
            hand = model.tree(prompt_vectors(model.backbone, config.prompt)[None])
            stages = {"CLIP, the model's temperature": (out["frames"].mean(1), hand)}
            video = 0
            for name, part in streams(model, out).items():
                video = video + part
                stages[f"+ {name}"] = video, hand
            if not config.spatial:  # V is CLIP's: no stage of its own
                stages.popitem()
            if model.prompts is not None:
                kind = "learnt" if model.prompts.adapter is None else "motion-aware"
                stages[f"+ {kind} prompts"] = out["video"], out["texts"]
            if model.communication is not None:
                stages["+ communication block"] = out["video_out"], out["texts_out"]
            for stage, (video, texts) in stages.items():
                cosine = F.cosine_similarity(texts, video[:, None], dim=-1)[0]
                scores[stage] = (cosine / config.tau).softmax(-1).cpu().numpy()
        else:
            scores["linear head"] = out["logits"].softmax(-1)[0].cpu().numpy()
    rows = [
        (stage, name, float(one))
        for stage, found in scores.items()
        for name, one in zip(names, found, strict=True)
    ]
    return pd.DataFrame(rows, columns=["stage", "label", "score"])
