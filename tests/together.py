"""What one rank of test_ranks.py does: trains the small model a few steps, tests it, writes down what it has.

Without a launcher the only rank; imported by the test as well, to be the single process that ranks must equal.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from conftest import SMALL, backbone
from safetensors.torch import save_file

from flowclip_core.config import EvalConfig, ModelConfig, TrainConfig
from flowclip_core.data.extraction import rank
from flowclip_core.data.features import FeatureStore
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.training import loop, ranks

NAMES = ("brush hair", "cartwheel", "catch", "clap hands")
# 19 videos and then the twentieth alone, so that shares are unequal and some are empty.
CONFIG = TrainConfig(lr=0.02, batch=19, epochs=2, crops=("centre",))


class Wide(FeatureStore):
    """A store whose features are float64."""

    def take(self, *which) -> np.ndarray:
        return super().take(*which).astype(np.float64)


def store(folder: Path) -> FeatureStore:
    features = np.random.default_rng(0).normal(size=(20, 1, 16, 32)).astype(np.float16)
    index = pd.DataFrame({"name": [f"{i}.avi" for i in range(20)], "sha256": "0" * 64})
    return FeatureStore(folder, features, ("centre",), index)


def work(folder: Path, number: int = 0) -> dict[str, torch.Tensor]:
    """Gradients of both batches at the initial weights, trained weights whole and resumed, losses, scores."""
    small, exact, found = backbone(SMALL), backbone(SMALL, dtype=torch.float64), {}

    def fit(config: TrainConfig, seed: int = 3, tower=small, **how) -> tuple[FlowCLIP, loop.Log]:
        dtype = tower.mean.dtype
        model = FlowCLIP(ModelConfig(), tower, NAMES, seed).to(dtype)
        features = Wide(**vars(store(folder))) if dtype == torch.float64 else store(folder)
        return model, loop.train(model, features, np.arange(20), np.arange(20) % 4, config, 3, **how)

    for step in (1, 2):
        # In float64, as float32 rounds a batch's own parts apart by up to 1e-6 in one process already.
        model, _ = fit(replace(CONFIG, lr=0.0, epochs=None, steps=step), tower=exact)
        found |= {f"gradient {step} {name}": value.grad for name, value in model.trained().items()}
    whole, log = fit(CONFIG, seed=3 + number)  # the main rank's initial weights are everyone's
    found |= {f"trained {name}": value.detach() for name, value in whole.trained().items()}
    # Each rank names a file of its own: only the main one's is there to resume from.
    partial = folder / f"{number}.partial"
    fit(CONFIG, checkpoint=partial, stop_after=3)
    found["written"] = torch.tensor(partial.exists())
    resumed, resumed_log = fit(CONFIG, seed=3 + number, checkpoint=partial)
    found |= {f"resumed {name}": value.detach() for name, value in resumed.trained().items()}
    found["losses"], found["resumed losses"] = torch.tensor(log.losses), torch.tensor(resumed_log.losses)
    scored = FlowCLIP(ModelConfig(), small, NAMES, 3)
    views = EvalConfig(clips=2, crops=("centre",))
    found["scores"] = torch.from_numpy(loop.score(scored, store(folder), np.arange(20), views, batch=8))
    return found | {"ranks": torch.tensor(ranks.count())}


if __name__ == "__main__":
    folder, us = Path(sys.argv[1]), rank(None, os.environ)
    ranks.start(us, "cpu", folder)
    torch.set_num_threads(1)
    told = ranks.from_main([1, "two"] if ranks.main() else None)
    assert told == [1, "two"]
    save_file(work(folder, us.number), folder / f"{us.number}.safetensors")
    ranks.stop(failed=False)
