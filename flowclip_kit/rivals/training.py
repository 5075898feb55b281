"""Training a rival on stored features: FlowCLIP's own draws, its authors' optimiser and schedule.

A step's batch is a pure function of (seed, step), the one that FlowCLIP sees; a run that is stopped and
resumed equals the whole run.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flowclip_core.data.features import Reader, as_features, central_frames
from flowclip_core.errors import Diverged, InputError, NotFinite, notice
from flowclip_core.files import to_json, write_atomically
from flowclip_core.model.hub import LARGEST, need_sound
from flowclip_core.training.loop import CHECKPOINT_SECONDS, Watch, batch_at, labelled_rows, one_thread
from flowclip_kit.rivals.contract import Rival
from flowclip_kit.rivals.linear_prompts import LinearPrompts
from flowclip_kit.rivals.recipes import Recipe


def train(
    model: Rival | LinearPrompts,
    features: np.ndarray | Tensor | Reader,
    labels: Sequence[int] | np.ndarray,
    recipe: Recipe,
    seed: int = 0,
    *,
    rows: np.ndarray | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    stop_after: int | None = None,
    log: Watch | None = None,
) -> list[float]:
    """Fit the trained parts of a rival in place; returns the loss of every step.

    features, labels, rows, seed, log: as of `flowclip_core.train`. checkpoint: holds the state about once a
    minute; one of the same training is resumed, and it is removed at the end. stop_after: leave after this
    many steps. Raises InputError for labels that do not fit and crops that are not stored, Diverged where the
    loss or a trained part is no finite number any more.
    """
    store = as_features(features)
    rows, labels = labelled_rows(store, labels, rows, len(model.class_texts))
    device = model.backbone.device
    if missing := [crop for crop in recipe.crops if crop not in store.crops]:
        raise InputError(f"{store.where}: crops {missing} are not stored; it holds {', '.join(store.crops)}")
    model.start(_middle(model, store, rows), torch.from_numpy(labels).to(device))
    parameters, total = model.trained(), recipe.total_steps(len(rows))
    if not parameters:
        return []
    optimiser = optimiser_of(recipe, list(parameters.values()))
    settings = f"{type(model).__name__} {model.config} {model.class_texts} {recipe} {seed}".encode()
    run = hashlib.sha256(settings + rows.tobytes() + labels.tobytes()).hexdigest()[:16]
    losses = _resume(checkpoint, parameters, optimiser, run)
    saved = time.monotonic()
    for step, loss in enumerate(losses):
        if log:
            log(step + 1, loss, rate_at(step, total, recipe))
    model.train()
    with one_thread(device.type == "cpu"):
        for step in range(len(losses), total):
            for group in optimiser.param_groups:
                group["lr"] = rate_at(step, total, recipe)
            picked, crops, frames = batch_at(step, len(rows), recipe, seed, store, model.config.frames)
            videos = torch.from_numpy(store.take(rows[picked], frames, crops)).to(
                device, model.backbone.mean.dtype
            )
            optimiser.zero_grad(set_to_none=True)
            losses.append(add_gradients(model, videos, torch.from_numpy(labels[picked]).to(device), recipe))
            optimiser.step()
            if log:
                log(step + 1, losses[-1], rate_at(step, total, recipe))
            try:
                if not math.isfinite(losses[-1]):
                    raise NotFinite(f"the loss is {losses[-1]}")
                if step + 1 == total:
                    need_sound("the trained part", parameters, LARGEST)
            except NotFinite as error:
                if checkpoint:
                    checkpoint.unlink(missing_ok=True)
                raise Diverged(
                    f"step {step + 1} of {total}, learning rate {recipe.lr:g}: {error}; train at a lower rate"
                ) from None
            stop = stop_after is not None and step + 1 >= stop_after
            if checkpoint and (stop or time.monotonic() - saved > checkpoint_seconds):
                _checkpoint(checkpoint, parameters, optimiser, losses, run)
                saved = time.monotonic()
            if stop:
                break
        else:
            if checkpoint:
                checkpoint.unlink(missing_ok=True)
    model.eval()
    return losses


def rate_at(step: int, total: int, recipe: Recipe) -> float:
    """Learning rate of a step: a half cosine from `lr` to 0, its beginning replaced by the warm-up."""
    warm = round(recipe.warm_up * total)
    if step < warm:
        return recipe.lr * (step + 1) / (warm + 1) if recipe.warm_up_lr is None else recipe.warm_up_lr
    return 0.5 * recipe.lr * (1 + math.cos(math.pi * step / total))


def optimiser_of(recipe: Recipe, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)


def add_gradients(model: Rival | LinearPrompts, videos: Tensor, targets: Tensor, recipe: Recipe) -> float:
    """Add the gradient of the batch's mean loss, some videos at a time; returns that loss."""
    size, loss = model.videos_at_once or len(videos), 0.0
    for part, target in zip(videos.split(size), targets.split(size), strict=True):
        share = F.cross_entropy(
            model(part)["logits"], target, reduction="sum", label_smoothing=recipe.smoothing
        ) / len(videos)
        share.backward()
        loss += share.item()
    return loss


def _middle(model: Rival | LinearPrompts, store: Reader, rows: np.ndarray) -> Tensor:
    """The middle frame of each T-segment (N,T,D), in the centre crop if it is stored."""
    frames = np.tile(central_frames(store.features.shape[2], model.config.frames), (len(rows), 1))
    crop = store.crops.index("centre") if "centre" in store.crops else 0
    taken = store.take(rows, frames, np.full(len(rows), crop))
    return torch.from_numpy(taken).to(model.backbone.device, model.backbone.mean.dtype)


def _checkpoint(path: Path, parameters: dict, optimiser, losses: list[float], run: str) -> None:
    tensors = {f"value.{name}": value.detach().cpu() for name, value in parameters.items()}
    for name, value in parameters.items():
        tensors |= {f"{kind}.{name}": held.cpu() for kind, held in optimiser.state[value].items()}
    write_atomically(path, save(tensors, {"losses": to_json("the losses", losses), "run": run}))


def _resume(path: Path | None, parameters: dict, optimiser, run: str) -> list[float]:
    """Losses of the steps that are done; a state that is damaged or another run's is left aside."""
    if path is None or not path.exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = file.metadata()
        losses = json.loads(about["losses"])
        if about["run"] != run:
            raise ValueError("the state of another run")
        values = {name: tensors.pop(f"value.{name}") for name in parameters}
        if any(values[name].shape != value.shape for name, value in parameters.items()):
            raise ValueError("parts of other shapes")
        if not all(value.isfinite().all() for value in [*values.values(), *tensors.values()]):
            raise ValueError("values that are not finite")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        notice(f"{path}: not the state of this training, or damaged ({error}); it begins anew")
        return []
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(values[name])
    for key, held in tensors.items():
        kind, _, name = key.partition(".")
        optimiser.state[parameters[name]][kind] = held.to(parameters[name].device)
    return losses
