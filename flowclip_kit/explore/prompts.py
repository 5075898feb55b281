"""What the prompts are made of, and where motion moves them.

Letters: K classes, H prompt vectors, T frames, D shared width, W text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowclip_core.config import PROMPTS, TINY
from flowclip_core.errors import InputError
from flowclip_kit.explore.memory import remember

if TYPE_CHECKING:
    from torch import Tensor

    from flowclip_core.model.backbone import Backbone
    from flowclip_core.model.flowclip import FlowCLIP

HAND_CRAFTED = dict(zip("ABC", PROMPTS.values(), strict=True))  # as Table 1 names them


def fill(template: str, names: Sequence[str]) -> list[str]:
    """The texts of a template such as "a common human action of {}.", which must have {} exactly once."""
    before, *rest = template.split("{}")
    if len(rest) != 1 or set("{}") & {*before, *rest[0]}:
        raise InputError(f'template "{template}": write {{}} exactly once, where the class name belongs')
    return [before + name + rest[0] for name in names]


def tokens(backbone: Backbone, text: str) -> pd.DataFrame:
    """The tokens of a text as the text tower gets them, with both borders: columns token, id, known.

    known: whether the embedded model met it in training; any other model knows all of them.
    """
    known, (start, end) = known_tokens(backbone), backbone.borders
    ids = backbone.tokenize(text)
    if len(ids) + 2 > backbone.context:
        raise InputError(f'"{text[:40]}...": {len(ids) + 2} tokens, the text tower takes {backbone.context}')
    rows = [(piece_of(backbone, i), i, known is None or i in known) for i in ids]
    return pd.DataFrame(
        [("[SOS]", start, True), *rows, ("[EOS]", end, True)], columns=["token", "id", "known"]
    )


def piece_of(backbone: Backbone, token: int) -> str:
    """A token as text, without CLIP's mark for the end of a word."""
    return backbone.tokenizer.decode([token]).strip() or f"<{token}>"


def known_tokens(backbone: Backbone) -> frozenset[int] | None:
    """Ids of the tokens the embedded model met in training; None for any other model, which knows all."""
    from flowclip_kit.demo import backbone as tiny

    return tiny.known_tokens() if backbone.name == TINY else None


@remember
def unseen(backbone: Backbone, texts: tuple[str, ...]) -> list[str]:
    """Words of the texts, as the tokenizer splits them, that the embedded model never met; signs last."""
    known = known_tokens(backbone)
    if known is None:
        return []
    words = set()
    for text in texts:
        word, met = "", True
        for i in backbone.tokenize(text):
            piece = backbone.tokenizer.decode([i])
            word, met = word + piece.strip(), met and i in known
            if piece.endswith(" "):  # the end of a word
                words |= set() if met else {word}
                word, met = "", True
    return sorted(words, key=lambda word: (not word[0].isalpha(), word))


@remember
def tree(backbone: Backbone, names: tuple[str, ...], vectors: int) -> str:
    """The prompt tree as text: what all classes share, then the class tokens, merged where they agree.

    vectors: H, how many prompt vectors stand before the class name.
    """
    from flowclip_core.model.prompt_tree import merge

    _, end = backbone.borders
    ids, parents, _ = merge([[*backbone.tokenize(f"{name}."), end] for name in names])
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)

    def lines(node: int, text: str) -> list[str]:
        """The subtree below a node, drawn to the right of its text."""
        blocks = [
            lines(child, "[EOS]" if ids[child] == end else piece_of(backbone, ids[child]))
            for child in children.get(node, [])
        ]
        if len(blocks) < 2:
            below = blocks[0] if blocks else [""]
        else:
            below = []
            for number, block in enumerate(blocks):
                last = number == len(blocks) - 1
                fork = "┬─" if number == 0 else "└─" if last else "├─"
                below += [
                    f"{fork if row == 0 else '  ' if last else '│ '} {line}" for row, line in enumerate(block)
                ]
        return [f"{text if row == 0 else ' ' * len(text)} {line}".rstrip() for row, line in enumerate(below)]

    shared = " ".join(["[SOS]", *(f"P_{h + 1}" for h in range(vectors))])
    return "\n".join(lines(-1, shared))


def vocabulary(backbone: Backbone) -> dict[str, int]:
    """Words with a token of their own: those the embedded model met, or all plain words of another model."""
    if backbone.name == TINY:
        import json

        from flowclip_kit.demo.world import WEIGHTS

        words = json.loads(WEIGHTS.with_name("tiny_clip.log.json").read_text())["words"]
        ids = {word: backbone.tokenize(word) for word in words if word.isalpha()}
        return {word: tokens[0] for word, tokens in ids.items() if len(tokens) == 1}
    entries = [(piece.removesuffix("</w>"), piece, i) for piece, i in backbone.tokenizer.encoder.items()]
    return {
        word: i for word, piece, i in entries if piece.endswith("</w>") and word.isascii() and word.isalpha()
    }


@remember
def vocabulary_table(backbone: Backbone) -> tuple[list[str], np.ndarray]:
    """The words of `vocabulary`, and their token embeddings, one unit-length row each."""
    import torch

    words = vocabulary(backbone)
    with torch.inference_mode():
        table = (
            backbone.embed_tokens(torch.tensor(list(words.values()), device=backbone.device)).cpu().numpy()
        )
    return list(words), table / np.linalg.norm(table, axis=1, keepdims=True)


def nearest(backbone: Backbone, vectors: np.ndarray, count: int = 3) -> list[str]:
    """For each vector (H,W) the words whose token embeddings are nearest, with their cosines, as text."""
    words, table = vocabulary_table(backbone)
    cosines = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) @ table.T
    rows = [(row, (-row).argsort(kind="stable")[:count]) for row in cosines]
    return [", ".join(f"{words[i]} {row[i]:.2f}" for i in best) for row, best in rows]


def vectors_of(model: FlowCLIP) -> np.ndarray:
    """The prompt vectors as learnt (H,W). Raises InputError for a model that has none."""
    return _vectors(model).detach().cpu().numpy()


def _vectors(model: FlowCLIP) -> Tensor:
    if model.prompts is None:
        raise InputError("this model has no learnt prompts; take a checkpoint of a model with map=True")
    return model.prompts.vectors


def nearest_words(model: FlowCLIP, motion: np.ndarray) -> pd.DataFrame:
    """The words nearest to each prompt vector (rows): as learnt, and shifted by a video's motion (D,)."""
    vectors = vectors_of(model)
    columns = {
        "as learnt": nearest(model.backbone, vectors),
        "after the shift": nearest(model.backbone, vectors + shift(model, motion)),
    }
    return pd.DataFrame(columns, [f"P_{h + 1}" for h in range(len(vectors))])


@remember
def motion_of(model: FlowCLIP, features: np.ndarray) -> np.ndarray:
    """The motion of a video: (T,D) -> (D,), the mean of its motion tokens; zeros without a motion stream."""
    import torch

    with torch.inference_mode():
        frames = torch.from_numpy(np.ascontiguousarray(features))[None].to(model.backbone.device)
        out = model.encode_video(frames)
    return out["motion"][0].cpu().numpy() if "motion" in out else np.zeros_like(features[0])


def shift(model: FlowCLIP, motion: np.ndarray) -> np.ndarray:
    """What the motion adapter adds to each prompt vector: (D,) -> (W,); zeros if prompts ignore motion."""
    import torch

    if model.prompts is None or model.prompts.adapter is None:
        return np.zeros(model.backbone.text_width, np.float32)
    with torch.inference_mode():
        return model.prompts.adapter(torch.from_numpy(motion).to(model.backbone.device)).cpu().numpy()


def about_shift(vectors: np.ndarray, added: np.ndarray) -> str:
    """How the shift (W,) compares with the prompt vectors (H,W), and what that means for nearby words."""
    ratios = np.linalg.norm(added) / np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    if ratios.max() < 1e-4:
        return "Motion does not shift these prompts."
    text = f"The shift is {ratios.min():.3g} to {ratios.max():.3g} times as long as the vectors"
    if ratios.min() < 1:
        return f"{text}: each keeps part of its own direction."
    moved = vectors + added
    moved = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    least = np.floor(1000 * (moved @ moved.T).min()) / 1000
    return (
        f"{text}: all now point the same way (cosines of {least:.3f} and more), so nearby words say little."
    )


@remember
def plain_texts(model: FlowCLIP) -> Tensor:
    """The class texts (K,D) of the prompt vectors as learnt."""
    import torch

    with torch.inference_mode():
        return model.tree(_vectors(model)[None])[0]


@remember
def moved_texts(model: FlowCLIP, motion: np.ndarray) -> np.ndarray:
    """How far a video's motion (D,) moves each class text: 1 - cosine before and after the shift, (K,)."""
    import torch
    import torch.nn.functional as F

    vectors = _vectors(model)
    with torch.inference_mode():
        added = torch.from_numpy(shift(model, motion)).to(vectors.device)
        moved = model.tree((vectors + added)[None])[0]
        return (1 - F.cosine_similarity(plain_texts(model), moved, dim=-1)).cpu().numpy()


def clip_scores(backbone: Backbone, features: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Scores (K,) of frozen CLIP for whole texts: the mean of the frames (T,D) at CLIP's own temperature."""
    import torch
    import torch.nn.functional as F

    with torch.inference_mode():
        video = torch.from_numpy(features.mean(0, keepdims=True)).to(backbone.device)
        cosine = F.cosine_similarity(encode(backbone, tuple(texts)), video, dim=-1)
        return (cosine * backbone.clip.logit_scale.exp()).softmax(-1).cpu().numpy()


@remember
def encode(backbone: Backbone, texts: tuple[str, ...]) -> Tensor:
    """Text features (K,D) of whole texts, the plain way."""
    import torch

    start, end = backbone.borders
    rows = [[start, *backbone.tokenize(text), end] for text in texts]
    length = max(map(len, rows))
    if length > backbone.context:
        raise InputError(f"a text has {length} tokens, the text tower takes {backbone.context}")
    with torch.inference_mode():
        padded = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=backbone.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=backbone.device)
        return backbone.encode_prompts(backbone.embed_tokens(padded), ends)


@remember
def scores_with(model: FlowCLIP, features: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
    """Scores (K,) of a video (T,D) whose prompts follow its own motion, or that of another video (T,D)."""
    import torch

    with torch.inference_mode():
        device = model.backbone.device
        motion = None if other is None else torch.from_numpy(motion_of(model, other))[None].to(device)
        frames = torch.from_numpy(np.ascontiguousarray(features))[None].to(device)
        return model(frames, prompt_motion=motion)["logits"].softmax(-1)[0].cpu().numpy()


def side_by_side(
    model: FlowCLIP,
    static: FlowCLIP | None,
    features: np.ndarray,
    template: str,
    other: np.ndarray | None = None,
) -> pd.DataFrame:
    """Scores of one video by kind of prompt: rows kinds, columns class names; each row adds up to 1.

    Hand-crafted prompts A, B, C and the template meet frozen CLIP, as in Table 1; learnt ones (of `static`)
    and motion-aware ones meet the model they were trained with. other: features (T,D) of a video whose
    motion the prompts follow instead, as one more row.
    """
    names, backbone = list(model.class_texts), model.backbone
    templates = {f"{letter}: {words}": f"{words} {{}}." for letter, words in HAND_CRAFTED.items()}
    templates["your template"] = template
    rows = {kind: clip_scores(backbone, features, fill(text, names)) for kind, text in templates.items()}
    if static is not None:
        rows["learnt"] = scores_with(static, features)
    rows["motion-aware"] = scores_with(model, features)
    if other is not None:
        rows["motion-aware, other motion"] = scores_with(model, features, other)
    return pd.DataFrame(rows, names).T
