"""Accuracy and pair metrics against loops."""

import numpy as np
import pytest

from flowclip_core.training.metrics import accuracy
from flowclip_kit.experiments import metrics

SCORES = np.array([[5.0, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5], [1, 1, 0, 0, 0, 0], [3, 0, 1, 5, 2, 4]])
LABELS = np.array([0, 0, 1, 2])


def test_accuracy_against_a_loop():
    for top in (1, 2, 5):
        hits = [
            sum(row > row[label]) + sum(row == row[label]) - 1 < top
            for row, label in zip(SCORES, LABELS, strict=True)
        ]
        assert accuracy(SCORES, LABELS, top) == 100 * np.mean(hits)


def test_a_tie_is_no_hit():
    assert accuracy(np.ones((3, 4)), np.array([0, 1, 2])) == 0


def test_the_predicted_class_is_the_label_exactly_where_accuracy_counts_a_hit():
    rng = np.random.default_rng(0)
    scores, labels = (
        rng.integers(0, 3, (300, 4)).astype(float),
        rng.integers(0, 4, 300),
    )  # three values: many ties
    before = scores.copy()
    found = metrics.predicted(scores, labels)
    assert (scores == before).all()
    tied = 0
    for row, label, guess in zip(scores, labels, found, strict=True):
        alone = all(row[label] > row[other] for other in range(4) if other != label)
        assert bool(guess == label) is alone
        assert alone or row[guess] == max(row[other] for other in range(4) if other != label)
        tied += not alone and row[label] == row.max()
    assert accuracy(scores, labels) == 100 * np.mean(found == labels)
    assert tied > 50 and 0 < np.mean(found == labels) < 1
    untied = rng.random((300, 4))
    assert (metrics.predicted(untied, labels) == untied.argmax(1)).all()


def test_pairs_rest_and_order_by_hand():
    found = metrics.pair_metrics(SCORES, LABELS, [(0, 1)], "_shuffled")
    # Videos 0, 1, 2 are of the pair (0, 1): the first is right, the second prefers the reverse, the third
    # ties: half.
    assert found == {
        "top1_pairs_shuffled": pytest.approx(100 / 3),
        "order_shuffled": 50.0,
        "top1_rest_shuffled": 0.0,
    }


def test_without_pairs_nothing_is_said():
    assert metrics.pair_metrics(SCORES, LABELS, []) == {}
