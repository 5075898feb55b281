"""What the motion block is fed, and what follows from it: plain arrays in, tidy tables and arrays out.

Letters: T frames, L differences, K classes, D width, s the largest step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowclip_core.model import motion
from flowclip_kit.demo import world
from flowclip_kit.explore import checkpoints, clips, prompts
from flowclip_kit.explore.memory import remember

if TYPE_CHECKING:
    from flowclip_core.model.flowclip import FlowCLIP


def middle_frames(model: FlowCLIP, footage: clips.Footage) -> np.ndarray:
    """The features (T,D) the model is tested on: the middle stored frame of each of T equal parts."""
    return footage.features[clips.choose(model.config.frames)]


def sizes(features: np.ndarray) -> np.ndarray:
    """How much any two frames differ: |I_j - I_i| in row i, column j. (T,D) -> (T,T)."""
    return np.linalg.norm(features[None] - features[:, None], axis=-1)


def inside(frames: int, step: int) -> np.ndarray:
    """(T,T) bool: True at (i, j) for the pairs of Eq. 4, 0 < j-i <= s, all that the motion stream gets."""
    distance = np.arange(frames) - np.arange(frames)[:, None]
    return (distance > 0) & (distance <= step)


def differences(features: np.ndarray, step: int) -> np.ndarray:
    """I_j - I_i for the pairs of Eq. 4 in the model's order, nearest pairs first: (T,D) -> (L,D)."""
    import torch

    return motion.differences(torch.from_numpy(np.ascontiguousarray(features))[None], step)[0].numpy()


def plane(features: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components (D,2) of the differences; the shares (2,) of variance they explain.

    Uncentred: the mean difference is what the motion stream is after, and a clip run backwards keeps its
    plane. The largest entry of a component is positive, so that a clip always gives the same picture.
    """
    # All differences lie in the span of the T frames: decomposing L x T is much quicker than L x D.
    span, _ = np.linalg.qr(features.T)  # (D,T)
    _, strength, components = np.linalg.svd(differences(features, step) @ span, full_matrices=False)
    components = components @ span.T
    if len(components) < 2:  # T = 2 has a single difference
        components = np.vstack([components, np.zeros_like(components)])
        strength = np.append(strength, 0.0)
    largest = components[[0, 1], np.abs(components[:2]).argmax(1)]
    directions = (components[:2] * np.sign(largest)[:, None]).T
    return directions, strength[:2] ** 2 / max(float((strength**2).sum()), 1e-12)


def pair_table(features: np.ndarray, step: int, directions: np.ndarray) -> pd.DataFrame:
    """One row a difference: i, j, distance j-i, time (their middle), size per place, and x, y in the plane.

    features: (T,D). directions: (D,2), see `plane`.
    """
    vectors = differences(features, step)
    table = pd.DataFrame(motion.pairs(len(features), step), columns=["i", "j"])
    table["distance"] = table["j"] - table["i"]
    table["time"] = (table["i"] + table["j"]) / 2
    table["size"] = np.linalg.norm(vectors, axis=1) / table["distance"]
    table[["x", "y"]] = vectors @ directions
    return table


def outcome(model: FlowCLIP, features: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """Every intermediate of one video (T,D) by name, and `scores` (K,), which add up to 1.

    The model is taken at this T and s: see `checkpoints.resized`.
    """
    return {name: value[0] for name, value in outcomes(model, features[None], step).items()}


@remember
def outcomes(model: FlowCLIP, features: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """As `outcome`, for videos (N,T,D) in one pass."""
    import torch

    with torch.inference_mode():
        frames = torch.from_numpy(np.ascontiguousarray(features)).to(model.backbone.device)
        out = checkpoints.resized(model, features.shape[1], step)(frames)
        out["scores"] = out["logits"].softmax(-1)
    return {name: value.detach().float().cpu().numpy() for name, value in out.items()}


def streams(model: FlowCLIP, out: Mapping[str, Any]) -> dict[str, Any]:
    """What V is the sum of, by name: Eq. 6, or what the switches `spatial`, `mmb` and `residual` leave of it.

    out: intermediates, arrays or tensors, with or without the batch axis.
    """
    terms = {}
    if "spatial_tokens" in out:
        terms["spatial stream"] = out["spatial_tokens"].mean(-2)
    if model.config.residual or not terms:
        terms["mean of the frames"] = out["frames"].mean(-2)
    if "motion" in out:
        terms["motion stream"] = out["motion"]
    return terms


def by_order(
    model: FlowCLIP, footage: clips.Footage, frames: int, step: int, start: int = 0, end: int = clips.STORED
) -> tuple[pd.DataFrame, pd.Series]:
    """Class scores by order of the frames (rows orders, columns classes); how far V moves from "in order"."""
    picked = [clips.choose(frames, start, end, order) for order in clips.ORDERS]
    out = outcomes(model, footage.features[picked], step)
    moved = np.linalg.norm(out["video"] - out["video"][0], axis=1)
    orders = list(clips.ORDERS)
    return pd.DataFrame(out["scores"], orders, list(model.class_texts)), pd.Series(moved, orders)


def telling_clip(model: FlowCLIP) -> clips.Footage | None:
    """The demo clip that shows time's direction best: the first of some class with a time-reversed twin.

    Best: named right in order and as its twin when reversed, judged by the product of both scores. None where
    the model lacks the classes.
    """
    best, highest = None, 0.0
    for pair in world.pairs("figures-h"):
        for label, twin in (pair, pair[::-1]):
            words = world.spaced(label), world.spaced(twin)
            if {*words} <= {*model.class_texts}:
                footage = clips.read_demo(model.backbone, label)
                scores, _ = by_order(model, footage, model.config.frames, model.config.step)
                score = float(scores.loc["in order", words[0]] * scores.loc["reversed", words[1]])
                if score > highest:
                    best, highest = footage, score
    return best


def stages(model: FlowCLIP, features: np.ndarray) -> pd.DataFrame:
    """Class scores read out before and after each part (rows stages, columns classes); each row adds up to 1.

    The first stage is CLIP at its own temperature; all later ones compare V and texts by Eq. 3. It is one
    model, trained whole: a stage says what its parts have added so far, not what a model without the later
    ones would have learnt. A linear head reads V alone, so there are no stages before it.
    """
    import torch
    import torch.nn.functional as F

    from flowclip_core.model.prompts import prompt_vectors

    config, names = model.config, list(model.class_texts)
    texts = prompts.fill(f"{config.prompt} {{}}.", names)
    scores = {"CLIP, its own temperature": prompts.clip_scores(model.backbone, features, texts)}
    with torch.inference_mode():
        out = model(torch.from_numpy(np.ascontiguousarray(features))[None].to(model.backbone.device))
        if model.head is not None:
            scores["linear head"] = out["logits"].softmax(-1)[0].cpu().numpy()
            return pd.DataFrame(scores, names).T
        plain = model.tree(prompt_vectors(model.backbone, config.prompt)[None])
        read_outs = {"CLIP, the model's temperature": (out["frames"].mean(1), plain)}
        video = torch.zeros(())
        for name, term in streams(model, out).items():
            video = video + term
            read_outs[f"+ {name}"] = video, plain
        if not config.spatial:  # V is CLIP's own: no stage of the model's
            read_outs.popitem()
        if model.prompts is not None:
            kind = "learnt" if model.prompts.adapter is None else "motion-aware"
            read_outs[f"+ {kind} prompts"] = out["video"], out["texts"]
        if model.communication is not None:
            read_outs["+ communication block"] = out["video_out"], out["texts_out"]
        for stage, (video, class_vectors) in read_outs.items():
            cosine = F.cosine_similarity(class_vectors, video[:, None], dim=-1)[0]
            scores[stage] = (cosine / config.tau).softmax(-1).cpu().numpy()
    return pd.DataFrame(scores, names).T
