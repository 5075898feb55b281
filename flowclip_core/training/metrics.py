"""Scores of one test: top-1, top-5, and what the time-reversed pairs of classes show. All in percent.

Letters: N test videos, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rank (N,) of the true class, 0 = best. scores: (N,K); a tie counts against the true class."""
    true = scores[np.arange(len(labels)), labels]
    return (scores >= true[:, None]).sum(1) - 1


def accuracy(scores: np.ndarray, labels: np.ndarray, top: int = 1) -> float:
    """Percentage of videos whose true class is among the `top` best. scores: (N,K), labels: (N,)."""
    return float(100 * np.mean(ranks(scores, labels) < top))


def predicted(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The best class (N,) of each video, equal to its label exactly where `accuracy` counts it as right."""
    others = scores.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return np.where(ranks(scores, labels) == 0, labels, others.argmax(1))


def pair_metrics(
    scores: np.ndarray, labels: np.ndarray, pairs: Sequence[tuple[int, int]], suffix: str = ""
) -> dict[str, float]:
    """top1 over the classes that have a time-reversed twin (`pairs`), over the others (`rest`), and `order`.

    order: among videos of pair classes, how often the true name scores above its reverse; 50 is chance, and what a
    model blind to the order of frames comes to, but for the luck of the test videos. Empty where there are no pairs.
    """
    twin = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    if not twin:
        return {}
    paired = np.isin(labels, list(twin))
    if not paired.any():
        return {}
    true = scores[paired, labels[paired]]
    reverse = scores[paired, [twin[label] for label in labels[paired]]]
    found = {
        "top1_pairs": accuracy(scores[paired], labels[paired]),
        "order": float(100 * np.mean(true > reverse)),
    }
    if not paired.all():
        found["top1_rest"] = accuracy(scores[~paired], labels[~paired])
    return {f"{name}{suffix}": value for name, value in found.items()}
