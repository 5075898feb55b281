"""The state of a training under way, in a file: a killed training resumes from it."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from flowclip_core.errors import InputError, notice
from flowclip_core.files import to_json, write_atomically
from flowclip_core.model.hub import tensors_sum

Parameters = dict[str, nn.Parameter]


def write(
    path: Path,
    parameters: Parameters,
    optimiser: torch.optim.Optimizer,
    losses: list[float],
    counts: list[int],
    training: str,
) -> None:
    """Write parameters, momentum, losses and the numbers of ranks. training: names it among all others."""
    tensors = {f"value.{name}": value.detach().cpu() for name, value in parameters.items()}
    for name, value in parameters.items():
        tensors[f"momentum.{name}"] = optimiser.state[value]["momentum_buffer"].cpu()
    texts = {"losses": to_json(path, losses), "ranks": json.dumps(counts), "run": training}
    write_atomically(path, save(tensors, texts | {"sum": _checksum(tensors, texts)}))


def resume(
    path: Path | None, parameters: Parameters, optimiser: torch.optim.Optimizer, training: str, count: int
) -> tuple[list[float], list[int]]:
    """Losses of the steps that are done, and how many ranks did them, one number after the other.

    Nothing where there is no file; a damaged one, or another training's, is left aside with a notice.
    Raises InputError on a GPU, where another number of ranks would round otherwise.
    """
    if path is None or not path.exists():
        return [], []
    shapes = {
        f"{kind}.{name}": value.shape for name, value in parameters.items() for kind in ("value", "momentum")
    }
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            texts = file.metadata()
        losses, counts = json.loads(texts["losses"]), json.loads(texts.get("ranks", "[1]"))
        if "sum" in texts and (texts.pop("sum") != _checksum(tensors, texts) or texts["run"] != training):
            raise ValueError("another state than was written")
        if {name: value.shape for name, value in tensors.items()} != shapes:
            raise ValueError("the state of another run")
        if not all(map(math.isfinite, losses)) or not all(
            value.isfinite().all() for value in tensors.values()
        ):
            raise ValueError("values that are not finite")
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split())
        notice(f"{path}: not the state of this training, or damaged ({why}); it begins anew")
        return [], []
    if next(iter(parameters.values())).device.type != "cpu" and counts[-1] != count:
        raise InputError(
            f"{path}: {len(losses)} steps of this training were made by {counts[-1]} ranks, and this call has"
            f" {count}: start it with {counts[-1]}, or delete that file to begin it again"
        )
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"value.{name}"])
            optimiser.state[value]["momentum_buffer"] = tensors[f"momentum.{name}"].to(value.device)
    return losses, counts


def _checksum(tensors: dict[str, Tensor], texts: dict[str, str]) -> str:
    sums = tensors_sum({name: value.numpy() for name, value in tensors.items()})
    return f"{sums} {hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]}"
