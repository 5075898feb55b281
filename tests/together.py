"""What one rank of test_ranks.py does: trains the small model a few steps, tests it, writes down what it has.

Without a launcher the only rank; imported by the test as well, to be the single process that ranks must
equal.
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
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.training import loop
from flowclip_kit.datasets.feature_store import FeatureStore
from flowclip_kit.distributed import ranks
from flowclip_kit.distributed.rank import rank

NAMES = ("brush hair", "cartwheel", "catch", "clap hands")
FULL = ModelConfig()
# 19 videos and then the twentieth alone, so that shares are unequal and fewer than there are ranks.
CONFIG = TrainConfig(lr=0.02, batch=19, epochs=2, crops=("centre",))


def store(folder: Path) -> FeatureStore:
    features = np.random.default_rng(0).normal(size=(20, 1, 16, 32)).astype(np.float16)
    index = pd.DataFrame({"name": [f"{i}.avi" for i in range(20)], "sha256": "0" * 64})
    return FeatureStore(folder, features, ("centre",), index)


def work(folder: Path, number: int = 0) -> dict[str, torch.Tensor]:
    """Weights of three variants trained whole, one also resumed by as many ranks and by others; losses,
    scores."""
    small, found = backbone(SMALL), {}

    def fit(
        config: TrainConfig, seed: int = 3, model: ModelConfig = FULL, **how
    ) -> tuple[FlowCLIP, loop.Log]:
        made = FlowCLIP(model, small, NAMES, seed)
        return made, loop.train(made, store(folder), np.arange(20) % 4, config, 3, ranks=ranks, **how)

    for what, switches in (("static", {"map": False}), ("plain", {"map": False, "mmb": False, "mcb": False})):
        model, log = fit(CONFIG, seed=3 + number, model=ModelConfig(**switches))
        found |= {f"{what} {name}": value.detach() for name, value in model.trained().items()}
        found[f"{what} losses"] = torch.tensor(log.losses)
    # Seven videos, four at a time, one pass each: shares are uneven, and one batch is smaller than there are
    # ranks.
    model = FlowCLIP(ModelConfig(), small, NAMES, 3)
    seven = replace(CONFIG, batch=3)
    log = loop.train(
        model, store(folder), np.arange(7) % 4, seven, 3, rows=np.arange(7), micro_batch=1, ranks=ranks
    )
    found |= {f"seven {name}": value.detach() for name, value in model.trained().items()}
    found["seven losses"] = torch.tensor(log.losses)
    if (folder / "given").exists():  # which another number of ranks began
        given, log = fit(CONFIG, seed=3 + number, checkpoint=folder / ("given" if not number else "none"))
        found |= {f"given {name}": value.detach() for name, value in given.trained().items()}
        found["given losses"], found["given ranks"] = torch.tensor(log.losses), torch.tensor(log.ranks)
    fit(CONFIG, seed=3 + number, checkpoint=folder / f"{number}.left", stop_after=3)
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
    found["scores"] = torch.from_numpy(loop.score(scored, store(folder), views, batch=8, ranks=ranks))
    return found | {"ranks": torch.tensor(ranks.count())}


def resumed(checkpoint: Path) -> tuple[FlowCLIP, loop.Log]:
    """The training that `work` makes, from a checkpoint on."""
    model = FlowCLIP(ModelConfig(), backbone(SMALL), NAMES, 3)
    found = store(checkpoint.parent)
    return model, loop.train(model, found, np.arange(20) % 4, CONFIG, 3, checkpoint=checkpoint, ranks=ranks)


if __name__ == "__main__":
    folder, us = Path(sys.argv[1]), rank(None, os.environ)
    ranks.start(us, "cpu", folder)
    torch.set_num_threads(1)
    told = ranks.from_main([1, "two"] if ranks.main() else None)
    assert told == [1, "two"]
    save_file(work(folder, us.number), folder / f"{us.number}.safetensors")
    ranks.stop(failed=False)
