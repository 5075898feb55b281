"""One clip through the model, step by step: what notebooks/one_clip.ipynb displays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import IPython.display as ipd
import numpy as np
import pandas as pd

from flowclip_kit.explore import clips, drawings, motion, prompts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler
    from PIL.Image import Image

    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_kit.explore.clips import Footage

WIDTH = 960  # pixels of the strips of frames


def show(*parts: Figure | Image | Styler | str) -> None:
    """Display drawings one below the other."""
    for part in parts:
        value = drawings.rendered(part)
        ipd.display(ipd.Image(value) if isinstance(value, bytes) else ipd.HTML(value))


def frames_and_changes(model: FlowCLIP, footage: Footage) -> tuple[Image, Image]:
    """The T frames as the model sees them, and what changes in the pictures over s places (dark: much)."""
    step, picked = model.config.step, clips.choose(model.config.frames)
    pictures, numbers = footage.pictures[picked], footage.numbers[picked]
    change = np.abs(pictures[step:].astype(np.int16) - pictures[:-step]).max(-1, keepdims=True)
    dark = np.repeat((255 - change).astype(np.uint8), 3, -1)
    spans = [f"{i} to {i + step}\n{numbers[i]} to {numbers[i + step]}" for i in range(len(dark))]
    frames = drawings.strip(pictures, places(footage, picked), (0, step), WIDTH)
    return frames, drawings.strip(dark, spans, width=WIDTH)


def places(footage: Footage, picked: np.ndarray) -> list[str]:
    """Below each frame its place among the T, which pairs and maps count by, and its number in the video."""
    return [f"{place}\n{number}" for place, number in enumerate(footage.numbers[picked])]


def differences(model: FlowCLIP, footage: Footage) -> tuple[Figure, Figure]:
    """How much any two frames differ in their features, and the differences over time."""
    features, step = motion.middle_frames(model, footage), model.config.step
    pairs = motion.pair_table(features, step, motion.plane(features, step)[0])
    sizes = drawings.size_map(motion.sizes(features), motion.inside(len(features), step), (0, step))
    return sizes, drawings.over_time(pairs)


def token_maps(model: FlowCLIP, out: Mapping[str, np.ndarray]) -> list[Figure]:
    """Differences, motion tokens and spatial tokens of the forward pass, those the model has."""
    titles = {
        "differences": "frame differences, Eq. 4",
        "motion_tokens": "motion tokens, Eq. 5",
        "spatial_tokens": "spatial tokens, Eq. 5",
    }
    figures = []
    for name in [name for name in titles if name in out] or ["frames"]:
        fig = drawings.matrix(out[name], titles.get(name, "frame features: no streams"), "place")
        if name in ("differences", "motion_tokens"):
            drawings.by_distance(fig, model.config.frames, model.config.step)
        figures.append(fig)
    return figures


def prompt_shift(model: FlowCLIP, out: Mapping[str, np.ndarray]) -> list[Figure | Styler | str]:
    """The learnt prompt vectors, the shift that motion adds to each, and the nearest words around it."""
    if model.prompts is None:
        return ["Not drawn: this model has no learnt prompts (map=False); it uses the hand-crafted one."]
    vectors = prompts.vectors_of(model)
    added = out["prompts"] - vectors
    names = [f"P_{h + 1}" for h in range(len(vectors))]
    words = prompts.nearest_words(model, out.get("motion", np.zeros_like(out["video"])))
    return [
        drawings.matrix(vectors, "prompt vectors as learnt", "", names, 5),
        drawings.matrix(added, "their shift by this video's motion", "", names, 5),
        drawings.text_table(words, "nearest words (cosine). " + prompts.about_shift(vectors, added[0])),
    ]


def communication(
    model: FlowCLIP, footage: Footage, out: Mapping[str, np.ndarray]
) -> list[Figure | Styler | str]:
    """What the communication block adds to the texts and to V, and how near they are before and after."""
    if model.communication is None:
        return [
            "Not drawn: this model has no communication block (mcb=False); V meets the texts as they are."
        ]
    added = out["texts_out"] - out["texts"]
    same = np.abs(added - added.mean(0)).max() < 1e-3 * max(np.abs(added).max(), 1e-9)
    video = np.stack([out["video"], out["video_out"] - out["video"], out["video_out"]])
    cosines = {}
    for stage, end in (("before", ""), ("after", "_out")):
        texts, token = out[f"texts{end}"], out[f"video{end}"]
        lengths = np.linalg.norm(texts, axis=1) * np.linalg.norm(token)
        cosines[stage] = texts @ token / np.maximum(lengths, 1e-12)
    table = pd.DataFrame(cosines, list(model.class_texts)).sort_values("after", ascending=False)[:10]
    return [
        drawings.matrix(out["texts"], "texts T", "class"),
        drawings.matrix(added, "added to the texts" + (": one vector for all" if same else ""), "class"),
        drawings.matrix(video, "video token", "", ["V", "added", "V'"], 6),
        drawings.score_table(table, "cosine of V and each text, before and after", [footage.label]).format(
            "{:.2f}"
        ),
    ]


def scores_step_by_step(model: FlowCLIP, footage: Footage) -> tuple[Styler, Styler]:
    """Class scores before and after each part, and for the same clip with its frames in other orders."""
    stages = motion.stages(model, motion.middle_frames(model, footage))
    orders, _ = motion.by_order(model, footage, model.config.frames, model.config.step)
    return (
        drawings.score_table(drawings.top_classes(stages, 6, footage.label), "before and after each part"),
        drawings.score_table(
            drawings.top_classes(orders, 6, footage.label), "the same frames in another order"
        ),
    )
