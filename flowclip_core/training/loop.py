"""Training and testing on stored features (section 4.1).

A step's batch is a pure function of (seed, step), so a run that is stopped and resumed equals the whole run. The loss
has no term across videos, so a step may run in micro-batches of any size without changing its gradient.

Letters: B videos of a batch, N test videos, T frames, K classes, D width.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from flowclip_core.config import EvalConfig, TrainConfig
from flowclip_core.data.features import FeatureStore, central_frames, drawn_frames
from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.paths import write_atomically
from flowclip_core.training import ranks

# Random streams of one run, kept apart so that changing one leaves the others as they are.
ORDER, DRAW, TEST, SHUFFLE = 1, 2, 3, 4
CHECKPOINT_SECONDS = 60.0


@dataclass
class Log:
    """What a training leaves behind besides the weights: the loss at every step."""

    losses: list[float]
    micro_batch: int


def batch_at(step: int, videos: int, config: TrainConfig, seed: int, store: FeatureStore, frames: int):
    """The step's videos (B,), crops (B,) and stored frames (B,T): a pure function of its arguments.

    Every epoch sees each video once, in a new order, with a new TSN draw and a random crop out of `config.crops`.
    """
    per_epoch = -(-videos // config.batch)
    epoch, number = divmod(step, per_epoch)
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(videos)
    picked = order[number * config.batch : (number + 1) * config.batch]
    rng = np.random.default_rng([seed, DRAW, step])
    views = np.array([store.crops.index(crop) for crop in config.crops])
    crops = views[rng.integers(0, len(views), len(picked))]
    return picked, crops, drawn_frames(rng, len(picked), store.features.shape[2], frames)


def train(
    model: FlowCLIP,
    store: FeatureStore,
    rows: np.ndarray,
    labels: np.ndarray,
    config: TrainConfig,
    seed: int,
    *,
    memory: float = 4.0,
    micro_batch: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    stop_after: int | None = None,
) -> Log:
    """Fit the trainable parts by SGD with momentum and a cosine schedule, from the loss of Eq. 3.

    rows, labels: (n,) rows of the store and class numbers of the training videos.
    memory: GiB that the activations of one micro-batch may take; `micro_batch` overrides it. When memory still runs
    out, the micro-batch is halved and the step done again.
    checkpoint: file that holds the state about once a minute; an existing one is resumed, and it is removed at the end.
    Ranks (see `ranks`) take part in every step; the main one alone reads and writes the checkpoint.
    stop_after: leave after this many steps with the state in `checkpoint` (to test resuming).
    """
    parameters = model.trained()
    missing = set(config.crops) - set(store.crops)
    if missing:
        raise InputError(f"{store.folder}: crops {sorted(missing)} are not stored; it holds {', '.join(store.crops)}")
    optimiser = torch.optim.SGD(
        parameters.values(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    total, device = config.total_steps(len(rows)), model.backbone.mean.device
    micro = micro_batch or _micro_batch(model, memory)
    checkpoint = checkpoint if ranks.main() else None
    first, losses = ranks.follow(parameters.values(), optimiser, *_resume(checkpoint, parameters, optimiser))
    saved = time.monotonic()
    model.train()
    for step in range(first, total):
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * config.lr * (1 + math.cos(math.pi * step / total))
        batch = batch_at(step, len(rows), config, seed, store, model.config.frames)
        picked, crops, frames = map(ranks.share, batch)
        features = torch.from_numpy(store.take(rows[picked], frames, crops)).to(device)
        targets = torch.from_numpy(labels[picked]).to(device)
        loss = None if len(picked) else 0.0  # fewer videos than ranks
        while loss is None:
            optimiser.zero_grad(set_to_none=True)
            try:
                loss = _step(model, features, targets, micro)
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if micro == 1 or not _out_of_memory(error):
                    raise
                micro = max(1, min(micro, len(targets)) // 2)
            # Out of the handler, whose traceback would hold on to the activations.
            if loss is None and device.type == "cuda":
                torch.cuda.empty_cache()
        losses.append(ranks.sum_gradients(parameters.values(), loss, len(picked) / len(batch[0])))
        optimiser.step()
        stop = stop_after is not None and step + 1 >= stop_after
        if checkpoint and (stop or time.monotonic() - saved > checkpoint_seconds):
            _checkpoint(checkpoint, parameters, optimiser, losses)
            saved = time.monotonic()
        if stop:
            break
    else:
        if checkpoint:
            checkpoint.unlink(missing_ok=True)
    model.eval()
    return Log(losses, micro)


def _step(model: FlowCLIP, features: Tensor, targets: Tensor, micro: int) -> float:
    """Accumulate the gradient of the mean loss over the batch; returns that loss."""
    loss = 0.0
    for part, target in zip(features.split(micro), targets.split(micro), strict=True):
        share = F.cross_entropy(model(part)["logits"], target, reduction="sum") / len(targets)
        share.backward()
        loss += share.item()
    return loss


def _micro_batch(model: FlowCLIP, memory: float) -> int:
    """Videos whose activations fit into `memory` GiB; a text block keeps about 24 floats per token and width."""
    if model.prompts is None or model.prompts.adapter is None:
        return 4096
    text = model.backbone.clip.transformer
    per_video = model.tree.tokens_per_video * text.width * text.layers * 24 * 4
    return max(1, int(memory * 2**30 / per_video))


def _out_of_memory(error: Exception) -> bool:
    # Only CUDA has an error class of its own; the CPU allocator raises a plain RuntimeError.
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in said or "not enough memory" in said


def _checkpoint(path: Path, parameters: dict, optimiser: torch.optim.Optimizer, losses: list[float]) -> None:
    tensors = {f"value.{name}": value.detach().cpu() for name, value in parameters.items()}
    for name, value in parameters.items():
        tensors[f"momentum.{name}"] = optimiser.state[value]["momentum_buffer"].cpu()
    write_atomically(path, save(tensors, {"losses": json.dumps(losses)}))


def _resume(path: Path | None, parameters: dict, optimiser: torch.optim.Optimizer) -> tuple[int, list[float]]:
    """First step still to do, and the losses before it."""
    if path is None or not path.exists():
        return 0, []
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, value in parameters.items():
            value.copy_(file.get_tensor(f"value.{name}"))
            optimiser.state[value]["momentum_buffer"] = file.get_tensor(f"momentum.{name}").to(value.device)
        losses = json.loads(file.metadata()["losses"])
    return len(losses), losses


IN_ORDER, SHUFFLED, REVERSED, REPEATED = "in order", "shuffled", "reversed", "repeated"
CONTROLS = (SHUFFLED, REVERSED, REPEATED)


def arrange(frames: np.ndarray, order: str, rng: np.random.Generator) -> np.ndarray:
    """The frame numbers (B,T) in another order: the controls of what a model takes from time."""
    if order == SHUFFLED:
        return rng.permuted(frames, axis=1)
    if order == REVERSED:
        return frames[:, ::-1]
    if order == REPEATED:
        return np.repeat(frames[:, frames.shape[1] // 2, None], frames.shape[1], axis=1)
    return frames


@torch.inference_mode()
def score(
    model: FlowCLIP, store: FeatureStore, rows: np.ndarray, config: EvalConfig, order: str = IN_ORDER, batch: int = 64
) -> np.ndarray:
    """Class scores (N,K): the mean over all views of softmax (Eq. 3), as peers fuse their 4 x 3 views.

    Draws depend on `config.seed` and a video's name alone, not on the batch or the model: every variant sees the same.
    """
    model.eval()
    frames, stored, device = model.config.frames, store.features.shape[2], model.backbone.mean.device
    fused = np.zeros((len(rows), len(model.class_texts)))
    for clip in range(config.clips):
        for start in ranks.share(range(0, len(rows), batch)):
            part = rows[start : start + batch]
            names = store.index["name"].iloc[part]
            picked = np.stack([_test_frames(name, clip, config, stored, frames, order) for name in names])
            for crop in config.crops:
                views = np.full(len(part), store.crops.index(crop))
                features = torch.from_numpy(store.take(part, picked, views)).to(device)
                fused[start : start + batch] += model(features)["logits"].softmax(-1).cpu().numpy()
    return ranks.add(torch.from_numpy(fused)).numpy() / (config.clips * len(config.crops))


def _test_frames(name: str, clip: int, config: EvalConfig, stored: int, frames: int, order: str) -> np.ndarray:
    video = zlib.crc32(name.encode())
    if config.clips == 1:
        picked = central_frames(stored, frames)[None]
    else:
        rng = np.random.default_rng([config.seed, TEST, clip, video])
        picked = drawn_frames(rng, 1, stored, frames)
    return arrange(picked, order, np.random.default_rng([config.seed, SHUFFLE, clip, video]))[0]
