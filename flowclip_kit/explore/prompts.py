"""What the prompts are made of and where motion moves them.

Letters: K classes, H prompt vectors, N videos, D shared width, W text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowclip_core.config import PROMPTS, TINY
from flowclip_core.errors import InputError
from flowclip_kit.explore import kept

if TYPE_CHECKING:
    from torch import Tensor

    from flowclip_core.model.backbone import Backbone
    from flowclip_core.model.flowclip import FlowCLIP

HAND_CRAFTED = {letter: words for letter, words in zip("ABC", PROMPTS.values(), strict=True)}


def fill(template: str, names: Sequence[str]) -> list[str]:
    """The texts of a template such as «a common human action of {}.». Raises InputError unless it has {}
    once."""
    if (
        template.count("{}") != 1
        or template.replace("{}", "").count("{")
        or template.replace("{}", "").count("}")
    ):
        raise InputError(f"template «{template}»: write {{}} once, where the class name belongs")
    return [template.replace("{}", name) for name in names]


def tokens(backbone: Backbone, text: str) -> pd.DataFrame:
    """The tokens of a text as the text tower gets them, with both borders: columns token, id, known.

    known: whether the embedded model met it in training; True for all tokens of another model, which knows
    them all.
    """
    known, (start, end) = known_tokens(backbone), backbone.borders
    ids = backbone.tokenize(text)
    rows = [(piece_of(backbone, i), i, known is None or i in known) for i in ids]
    table = pd.DataFrame(
        [("[SOS]", start, True), *rows, ("[EOS]", end, True)], columns=["token", "id", "known"]
    )
    if len(table) > backbone.context:
        raise InputError(f"«{text[:40]}...»: {len(table)} tokens, the text tower takes {backbone.context}")
    return table


def piece_of(backbone: Backbone, token: int) -> str:
    """A token as it reads; CLIP marks the end of a word, which is left out."""
    return backbone.tokenizer.decode([token]).strip() or f"<{token}>"


def known_tokens(backbone: Backbone) -> frozenset[int] | None:
    """Ids of the tokens that the embedded model met in training; None for another model, which knows all."""
    from flowclip_kit.demo import backbone as tiny

    return tiny.known_tokens() if backbone.name == TINY else None


def unseen(backbone: Backbone, texts: Sequence[str]) -> list[str]:
    """Words of the texts, as the tokenizer parts them, that the embedded model never met; none for another
    model."""
    known = known_tokens(backbone)
    if known is None:
        return []
    return kept.answers(backbone).ask("unseen", tuple(texts), make=lambda: _unseen(backbone, texts, known))


def _unseen(backbone: Backbone, texts: Sequence[str], known: frozenset[int]) -> list[str]:
    found = set()
    for text in texts:
        word, met = "", True
        for i in backbone.tokenize(text):
            piece = backbone.tokenizer.decode([i])
            word, met = word + piece.strip(), met and i in known
            if piece.endswith(" "):  # the end of a word
                found |= set() if met else {word}
                word, met = "", True
    return sorted(found, key=lambda word: (not word[0].isalpha(), word))  # signs last


@dataclass(frozen=True)
class Node:
    """A node of the drawn tree. parent: its number, -1 at the root. x: depth, y: place. leaf: class name or
    empty."""

    text: str
    parent: int
    x: float
    y: float
    shared: bool
    leaf: str = ""


def tree(backbone: Backbone, names: Sequence[str], vectors: Sequence[str]) -> list[Node]:
    """The prompt tree to draw: [SOS] and the prompt vectors that all classes share, then the class tokens,
    merged.

    vectors: what to call P_1..P_H. A parent stands before its children, at the mean of their places.
    """
    from flowclip_core.model.prompt_tree import merge

    _, end = backbone.borders
    prefix = ["[SOS]", *vectors]
    ids, parents, leaves = merge([[*backbone.tokenize(f"{name}."), end] for name in names])
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    leaf_of = dict(zip(leaves, names, strict=True))
    y: dict[int, float] = {}

    def place(node: int) -> float:
        below = [place(child) for child in children.get(node, [])]
        y[node] = sum(below) / len(below) if below else float(sum(leaf in y for leaf in leaf_of))
        return y[node]

    middle, before = place(-1), len(prefix)
    nodes = [Node(text, number - 1, number, middle, True) for number, text in enumerate(prefix)]
    for node, (token, parent) in enumerate(
        zip(ids, parents, strict=True)
    ):  # behind the prefix, in the same order
        text = "[EOS]" if token == end else piece_of(backbone, token)
        above = before + parent
        nodes.append(Node(text, above, nodes[above].x + 1, y[node], False, leaf_of.get(node, "")))
    return nodes


def vocabulary(backbone: Backbone) -> dict[str, int]:
    """Whole words with a token of their own: those the embedded model met, or all plain words of another
    model."""
    if backbone.name == TINY:
        import json

        from flowclip_kit.demo.world import WEIGHTS

        words = json.loads(WEIGHTS.with_name("tiny_clip.log.json").read_text())["words"]
        found = {word: backbone.tokenize(word) for word in words if word.isalpha()}
        return {word: ids[0] for word, ids in found.items() if len(ids) == 1}
    whole = {
        piece.removesuffix("</w>"): i
        for piece, i in backbone.tokenizer.encoder.items()
        if piece.endswith("</w>")
    }
    return {word: i for word, i in whole.items() if word.isascii() and word.isalpha()}


def nearest(backbone: Backbone, vectors: np.ndarray, words: int = 3) -> list[list[tuple[str, float]]]:
    """The words whose token embeddings are nearest to each vector (H,W), with their cosines, nearest
    first."""
    names, table = kept.answers(backbone).ask("vocabulary", make=lambda: _vocabulary_table(backbone))
    cosines = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) @ table.T
    return [[(names[i], float(row[i])) for i in (-row).argsort(kind="stable")[:words]] for row in cosines]


def _vocabulary_table(backbone: Backbone) -> tuple[list[str], np.ndarray]:
    import torch

    known = vocabulary(backbone)
    with torch.inference_mode():
        table = (
            backbone.embed_tokens(torch.tensor(list(known.values()), device=backbone.device)).cpu().numpy()
        )
    return list(known), table / np.linalg.norm(table, axis=1, keepdims=True)


def motions(model: FlowCLIP, features: np.ndarray) -> np.ndarray:
    """The motion of each video: (N,T,D) features -> (N,D), mean of its motion tokens; zeros without a motion
    stream."""
    import torch

    def watch() -> np.ndarray:
        with torch.inference_mode():
            out = model.encode_video(
                torch.from_numpy(np.ascontiguousarray(features)).to(model.backbone.device)
            )
        return out["motion"].cpu().numpy() if "motion" in out else np.zeros_like(features[:, 0])

    return kept.answers(model).ask("motions", features, make=watch)


def shift(model: FlowCLIP, motions: np.ndarray) -> np.ndarray:
    """What the motion adapter adds to every prompt vector: (N,D) -> (N,W); zeros where prompts ignore
    motion."""
    import torch

    if model.prompts is None or model.prompts.adapter is None:
        return np.zeros((len(motions), model.backbone.text_width), np.float32)
    with torch.inference_mode():
        return model.prompts.adapter(torch.from_numpy(motions).to(model.backbone.device)).cpu().numpy()


def about_shift(vectors: np.ndarray, moved: np.ndarray) -> str:
    """How the shift of the prompt vectors (H,W) compares with them, and what that means for the words beside
    them."""
    lengths, shifts = np.linalg.norm(vectors, axis=1), np.linalg.norm(moved - vectors, axis=1)
    ratios = shifts / np.maximum(lengths, 1e-12)
    if ratios.max() < 1e-4:
        return "motion does not shift these prompts"
    between = f"{ratios.min():.3g} to {ratios.max():.3g}"
    said = f"the shift, |shift| = {shifts.mean():.3g}, is {between} times as long as the vectors"
    if ratios.min() < 1:
        return f"{said}: each keeps a part of its own direction"
    ways = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    least = np.floor(1000 * (ways @ ways.T).min()) / 1000
    return (
        f"{said}: all now point nearly one way (cosines {least:.3f} and more), so words near them say little"
    )


def moved_texts(model: FlowCLIP, motions: np.ndarray) -> np.ndarray:
    """How far the motion of each video moves each class text: 1 - cosine before and after the shift, (N,D) ->
    (N,K).

    Each row is kept: the usual question is about one new video among many.
    """
    import torch
    import torch.nn.functional as F

    known, vectors, added = kept.answers(model), model.prompts.vectors[None], shift(model, motions)

    def rows(added: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            before = known.ask("plain texts", make=lambda: model.tree(vectors))
            after = model.tree(vectors + torch.from_numpy(added).to(vectors.device)[:, None])
            return (1 - F.cosine_similarity(before, after, dim=-1)).cpu().numpy()

    new = [number for number, one in enumerate(added) if not known.has("moved texts", one)]
    found = dict(zip(new, rows(added[new]) if new else [], strict=True))
    return np.stack(
        [known.ask("moved texts", one, make=partial(found.get, i)) for i, one in enumerate(added)]
    )


def most_moved(values: np.ndarray, most: int) -> np.ndarray:
    """Numbers of the `most` columns of (N,K) with the largest entry in any row, in their own order."""
    return np.sort((-values.max(0)).argsort(kind="stable")[:most])


def hand_crafted(backbone: Backbone, features: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Scores (K,) of frozen CLIP for whole texts: the mean of the frames (T,D) beside each, at its own
    temperature."""
    import torch
    import torch.nn.functional as F

    with torch.inference_mode():
        said = kept.answers(backbone).ask("encode", tuple(texts), make=lambda: encode(backbone, texts))
        seen = torch.from_numpy(features.mean(0, keepdims=True)).to(backbone.device)
        cosine = F.cosine_similarity(said, seen, dim=-1)
        return (cosine * backbone.clip.logit_scale.exp()).softmax(-1).cpu().numpy()


def encode(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Text features (K,D) of whole texts, the plain way."""
    import torch

    start, end = backbone.borders
    rows = [[start, *backbone.tokenize(text), end] for text in texts]
    length = max(map(len, rows))
    if length > backbone.context:
        raise InputError(f"a text has {length} tokens, the text tower takes {backbone.context}")
    padded = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=backbone.device)
    ends = torch.tensor([len(row) - 1 for row in rows], device=backbone.device)
    return backbone.encode_prompts(backbone.embed_tokens(padded), ends)


def swapped(model: FlowCLIP, features: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    """Scores (K,) of a video (T,D) whose prompts follow another video's motion (T,D); None: its own."""
    import torch

    def score() -> np.ndarray:
        steer = (
            None if other is None else torch.from_numpy(motions(model, other[None])).to(model.backbone.device)
        )
        with torch.inference_mode():
            frames = torch.from_numpy(np.ascontiguousarray(features))[None].to(model.backbone.device)
            return model(frames, prompt_motion=steer)["logits"].softmax(-1)[0].cpu().numpy()

    return kept.answers(model).ask("swapped", features, other, make=score)


def side_by_side(
    model: FlowCLIP,
    static: FlowCLIP | None,
    features: np.ndarray,
    template: str,
    other: np.ndarray | None = None,
) -> pd.DataFrame:
    """Scores of one video by kind of prompt: rows kinds, columns class names; each row adds up to 1.

    Hand-crafted A, B, C and the template meet frozen CLIP, as in Table 1; learnt (where `static` is there)
    and motion-aware ones meet the model that was trained with them. other: features (T,D) of a video whose
    motion the prompts are to follow instead, as one more row.
    """
    names, backbone = list(model.class_texts), model.backbone
    rows = {
        f"{letter}: {words}": hand_crafted(backbone, features, [f"{words} {name}." for name in names])
        for letter, words in HAND_CRAFTED.items()
    }
    rows["your template"] = hand_crafted(backbone, features, fill(template, names))
    if static is not None:
        rows["learnt"] = swapped(static, features, None)
    rows["motion-aware"] = swapped(model, features, None)
    if other is not None:
        rows["motion-aware, swapped motion"] = swapped(model, features, other)
    return pd.DataFrame(rows, names).T
