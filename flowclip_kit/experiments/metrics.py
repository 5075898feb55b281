"""What a run's test tells besides accuracy: predicted classes, ties, and time-reversed pairs of classes.

Ties: a true class that shares its score counts as below all that it shares it with, so a hit is always the
class that `predicted` names. `order` compares two names alone, so a tie there counts half: the name is as
likely as its reverse. `ties` says how many videos these rules decided.

Letters: N test videos, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flowclip_core.config import EvalConfig
from flowclip_core.training.metrics import accuracy, need_finite, ranks

if TYPE_CHECKING:
    from flowclip_core.data.features import Reader
    from flowclip_core.model.flowclip import FlowCLIP


def assess(
    model: FlowCLIP,
    store: Reader,
    labels: np.ndarray,
    config: EvalConfig,
    *,
    rows: np.ndarray | None = None,
    pairs: Sequence[tuple[int, int]] = (),
    **more: Any,
) -> tuple[dict[str, float], np.ndarray]:
    """Scores in percent by name, and the scores (n,K) with the frames in order.

    Top-1 and top-5; with `pairs` of classes that are each other reversed in time also `pair_metrics`; with
    `config.controls` the same with the frames out of order. The rest as for
    `flowclip_core.training.loop.score`.
    """
    from flowclip_core.training import loop

    scores = loop.score(model, store, config, rows=rows, **more)
    values = loop.accuracies(scores, labels) | pair_metrics(scores, labels, pairs)
    for order in loop.CONTROLS if config.controls else ():
        arranged = loop.score(model, store, config, rows=rows, order=order, **more)
        values[f"top1_{order}"] = accuracy(arranged, labels)
        values |= pair_metrics(arranged, labels, pairs, f"_{order}")
    return values, scores


def predicted(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The best class (N,) of each video, equal to its label exactly where `accuracy` counts it as right."""
    others = scores.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return np.where(ranks(scores, labels) == 0, labels, others.argmax(1))


def ties(scores: np.ndarray, labels: np.ndarray, pairs: Sequence[tuple[int, int]] = ()) -> dict[str, int]:
    """How many videos were decided by a tie, for each metric where there are any: `top1`, `top5`, `order`."""
    worst, true = ranks(scores, labels), scores[np.arange(len(labels)), labels]
    best = (scores > true[:, None]).sum(1)
    true, reverse = _against_reverse(scores, labels, pairs)
    found = {f"top{top}": int(np.sum((best < top) & (worst >= top))) for top in (1, 5)}
    found["order"] = int(np.sum(true == reverse))
    return {name: count for name, count in found.items() if count}


def pair_metrics(
    scores: np.ndarray, labels: np.ndarray, pairs: Sequence[tuple[int, int]], suffix: str = ""
) -> dict[str, float]:
    """top1 over the classes that have a time-reversed twin (`pairs`), over the others (`rest`), and `order`.

    order: among videos of pair classes, how often the true name scores above its reverse, a tie being half;
    50 is chance, and what a model blind to the order of frames comes to, but for the luck of the test videos.
    Empty where there are no pairs.
    """
    paired = _paired(labels, pairs)
    if not paired.any():
        return {}
    true, reverse = _against_reverse(scores, labels, pairs)
    found = {
        "top1_pairs": accuracy(scores[paired], labels[paired]),
        "order": float(100 * np.mean((true > reverse) + 0.5 * (true == reverse))),
    }
    if not paired.all():
        found["top1_rest"] = accuracy(scores[~paired], labels[~paired])
    return {f"{name}{suffix}": value for name, value in found.items()}


def _paired(labels: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Which videos (N,) are of a class with a time-reversed twin."""
    return np.isin(labels, [label for pair in pairs for label in pair])


def _against_reverse(scores: np.ndarray, labels: np.ndarray, pairs: Sequence[tuple[int, int]]):
    """Scores of the true class and of its time-reversed twin, of the videos that have one."""
    need_finite(scores)
    twin = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    videos = np.flatnonzero(_paired(labels, pairs))
    return scores[videos, labels[videos]], scores[videos, [twin[label] for label in labels[videos]]]
