"""Top-k accuracy in percent.

A true class that shares its score counts as below all that it shares it with, so equal scores for all classes
are no hit. Scores that are not finite are no scores: every function raises NotFinite for them.

Letters: N test videos, K classes.
"""

from __future__ import annotations

import numpy as np

from flowclip_core.errors import NotFinite


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rank (N,) of the true class, 0 = best. scores: (N,K); a tie counts against the true class."""
    need_finite(scores)
    true = scores[np.arange(len(labels)), labels]
    below: np.ndarray = (scores >= true[:, None]).sum(1) - 1
    return below


def accuracy(scores: np.ndarray, labels: np.ndarray, top: int = 1) -> float:
    """Percentage of videos whose true class is among the `top` best. scores: (N,K), labels: (N,)."""
    return float(100 * np.mean(ranks(scores, labels) < top))


def need_finite(scores: np.ndarray) -> None:
    """Raises NotFinite naming the first video and class whose score is not a finite number."""
    if not (finite := np.isfinite(scores)).all():
        video, label = np.argwhere(~finite)[0]
        raise NotFinite(
            f"test video {video}, class {label}: the score is {scores[video, label]},"
            " which is no number to rank"
        )
