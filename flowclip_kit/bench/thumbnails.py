"""A weak reference beside Baseline: a linear probe on thumbnails, without CLIP and blind to order.

    ./reproduce.sh bench thumbnails [--record]

A video is the mean and the standard deviation, over T = 8 frames, of each value of an 8 x 8 thumbnail. What
such a probe reaches needs neither a pre-trained model nor motion. It sees the training videos of the demo's
runs; its weight decay, one for each protocol, is the best on training videos set aside. --record writes
results/recorded/demo/thumbnails.csv, which the findings of Table 5 and Figure 3a name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from flowclip_core.data.video import read_frames, segment_centres
from flowclip_kit.bench import _common as common
from flowclip_kit.datasets import formats
from flowclip_kit.datasets.formats import Dataset, Video
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.experiments import hashed
from flowclip_kit.experiments.catalogue import RATE_SEED
from flowclip_kit.experiments.experiment import Options
from flowclip_kit.experiments.runs import open_dataset
from flowclip_kit.reporting import stats

SIDE, FRAMES = 8, 8
SHOTS = (2, 4, 8, 16, None)  # None: all training videos (closed-set)
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NAMES = ("figures-h", "figures-u")


def describe(frames: np.ndarray) -> np.ndarray:
    """(T,H,W,3) frames -> (6 SIDE^2,) mean and standard deviation over T of their thumbnails' values."""
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).double() / 255
    values = F.adaptive_avg_pool2d(pictures, SIDE).flatten(1)
    return torch.cat([values.mean(0), values.std(0, correction=0)]).numpy()


def probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, decay: float) -> np.ndarray:
    """Predicted labels (n,) of test (n,d) by a softmax regression on train (m,d), whose loss is the mean
    cross-entropy and `decay` times the sum of the squared weights."""
    middle, spread = train.mean(0), train.std(0) + 1e-6
    x, y = torch.from_numpy((train - middle) / spread), torch.from_numpy(labels)
    weights = torch.zeros(x.shape[1] + 1, int(labels.max()) + 1, dtype=x.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(x @ weights[1:] + weights[0], y) + decay * weights[1:].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        logits = torch.from_numpy((test - middle) / spread) @ weights[1:] + weights[0]
    return logits.argmax(1).numpy()


def hits(
    values: dict[str, np.ndarray], train: Sequence[Video], test: Sequence[Video], decay: float
) -> np.ndarray:
    """Which test videos (n,) the probe names right."""
    x, y = (np.stack([values[video.name] for video in part]) for part in (train, test))
    labels, true = (np.array([video.label for video in part]) for part in (train, test))
    return probe(x, labels, y, decay) == true


def drawn(dataset: Dataset, k: int | None, seed: int, split: int = 1) -> list[Video]:
    """The training videos of a run."""
    train = dataset.splits[split].train
    return list(train) if k is None else [train[place] for place in formats.few_shot(train, k, seed)]


def measure(draws: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row for each data set and k (0: all training videos, mean of three splits), percent; the decays."""
    sets = {name: open_dataset(name, Options(), default_jobs()) for name in NAMES}
    values = {name: described(dataset) for name, dataset in sets.items()}

    def chosen(k: int | None) -> float:
        """The decay with the highest mean over the data sets on videos set aside."""
        means = []
        for decay in DECAYS:
            scores = []
            for name, dataset in sets.items():
                aside = formats.hold_out(dataset, RATE_SEED, untested=k is None)
                scores.append(
                    hits(values[name], drawn(aside, k, RATE_SEED), aside.splits[1].test, decay).mean()
                )
            means.append(np.mean(scores))
        return DECAYS[int(np.argmax(means))]

    decays = {"few-shot": chosen(max(filter(None, SHOTS))), "closed-set": chosen(None)}
    rows = []
    for name, dataset in sets.items():
        for k in SHOTS:
            decay = decays["few-shot" if k else "closed-set"]
            runs = [(1, seed) for seed in range(draws)] if k else [(split, 0) for split in dataset.splits]
            found = [hits(values[name], drawn(dataset, k, seed, split), dataset.splits[split].test, decay)
                     for split, seed in runs]  # fmt: skip
            scores = [100 * one.mean() for one in found]
            mean, low, high = stats.t_interval(scores) if k else (np.mean(scores), np.nan, np.nan)
            by_split = [np.mean(found, 0)] if k else found
            videos = stats.bootstrap_interval([100 * one.astype(float) for one in by_split])[1:]
            about = {"dataset": name, "k": k or 0, "n": draws if k else 1, "mean": mean}
            spread = (low, high, *videos)
            rows.append(about | dict(zip(("low", "high", "video_low", "video_high"), spread, strict=True)))
    return pd.DataFrame(rows), decays


def described(dataset: Dataset) -> dict[str, np.ndarray]:
    """Name -> `describe` of every video of a data set."""
    names = sorted({video.name for split in dataset.splits.values() for part in split for video in part})

    def one(name: str) -> np.ndarray:
        return describe(read_frames(dataset.folder / name, lambda n: segment_centres(n, FRAMES)).frames)

    with ThreadPoolExecutor(default_jobs()) as threads:
        return dict(zip(names, threads.map(one, names), strict=True))


def main() -> int:
    """The command line."""

    def run(options: common.Options) -> str:
        found, decays = measure(options.draws)
        if options.record:
            hashed.record("thumbnails", "demo", found)
        return f"weight decay {decays}\n{found.round(1).to_string(index=False)}"

    return common.run("thumbnails", run, {"--draws": {"type": int, "default": 10}})


if __name__ == "__main__":
    sys.exit(main())
