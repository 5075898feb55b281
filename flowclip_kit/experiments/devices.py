"""The frozen model where work is done: which devices there are, and one loaded model a process."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from flowclip_core.config import PRECISIONS, TINY
from flowclip_core.data.features import Encoder
from flowclip_core.errors import InputError
from flowclip_core.files import sha256
from flowclip_kit.datasets.formats import Dataset
from flowclip_kit.demo import world
from flowclip_kit.distributed.rank import Rank
from flowclip_kit.profiles import BackboneConfig

if TYPE_CHECKING:
    from flowclip_core.model.backbone import Backbone

TINY_CONTEXT = 77  # tokens that the embedded model takes


def pick_device(device: str) -> str:
    """`cuda` where it is asked for or found, else `cpu`. Raises InputError when it is asked for and not
    there."""
    if device == "cpu":
        return device
    if device not in ("auto", "cuda"):
        raise InputError(f"--device {device!r} is unknown; use auto, cpu or cuda")
    signs = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/dxg")
    if device == "auto" and sys.platform == "linux" and not any(Path(sign).exists() for sign in signs):
        return "cpu"  # spares the import of torch where there is nothing to find
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError(
            "--device cuda: torch finds no CUDA device here; leave the option out to use the CPU"
        )
    return "cpu"


def one_gpu(rank: Rank, environment: MutableMapping[str, str]) -> None:
    """Let this process and its workers see one GPU: of several processes on a machine each takes its own.

    Before torch looks for GPUs. One without a GPU of its own finds none. SLURM binds its tasks itself.
    """
    if rank.bound or rank.beside == 1:
        return
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    mine = [str(rank.local)] if seen is None else seen.split(",")[rank.local :]
    environment["CUDA_VISIBLE_DEVICES"] = "".join(mine[:1])


def gpu_name() -> str:
    """Name of the CUDA device in use."""
    import torch

    return torch.cuda.get_device_name()


def pick_precision(precision: str | None, device: str) -> str:
    """The image tower's arithmetic: as asked for, else float32. In half precision small motion is lost in the
    tower, before it is stored.

    Raises InputError for another name.
    """
    if precision is None:
        return "float32"
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision!r} is unknown; use {', '.join(PRECISIONS)}")
    return precision


def weights_hash(backbone: BackboneConfig) -> str:
    """Hash of the backbone's weights; for the embedded model that of its file, without importing torch."""
    if backbone.name == TINY:
        return sha256(world.weights_of(backbone.pretrained))
    from flowclip_kit.demo.backbone import load_backbone

    return load_backbone(backbone.name, backbone.pretrained).weights_hash


def check_prompts(backbone: BackboneConfig, dataset: Dataset, prompt: str) -> None:
    """Raises InputError for classes of `dataset` that the text tower cannot take behind `prompt`, or not tell
    apart.

    Before anything is decoded: `PromptTree` would say so when all features are there.
    """
    most = [_at_most(text) for text in dataset.texts]
    known = [count for count in most if count is not None]
    if backbone.name == TINY and known == most and 2 + len(prompt) + max(known) <= TINY_CONTEXT:
        return  # short, plain names: spares the tokenizer's import, which takes seconds
    from flowclip_core.model.prompt_tree import class_tokens
    from flowclip_kit.weights import tokenizer_of

    tokenizer, context = tokenizer_of(backbone.name, backbone.pretrained)
    try:
        class_tokens(dataset.texts, tokenizer, len(tokenizer.encode(prompt)), context)
    except InputError as error:
        raise InputError(f"{dataset.name} in {dataset.folder}: {error}") from error


def _at_most(text: str) -> int | None:
    """More tokens than this a text never has, its full stop among them; None where only the tokenizer can
    tell."""
    plain = text.isascii() and "&" not in text  # nothing that the tokenizer's cleaning would lengthen
    return len("".join(text.split())) + 1 if plain else None


@functools.lru_cache(maxsize=1)
def load_once(backbone: BackboneConfig, device: str) -> Backbone:
    """The backbone, kept by this process for its next task."""
    from flowclip_kit.demo.backbone import load_backbone

    return load_backbone(backbone.name, backbone.pretrained, device=device)


def load_tower(backbone: BackboneConfig, device: str, precision: str) -> Backbone:
    """A backbone that encodes frames in `precision`, kept alike."""
    if precision == "float32":
        return load_once(backbone, device)
    return _load_other(backbone, device, precision)


@functools.lru_cache(maxsize=1)
def _load_other(backbone: BackboneConfig, device: str, precision: str) -> Backbone:
    from flowclip_kit.demo.backbone import load_backbone
    from flowclip_kit.weights import cast_image_tower

    tower = load_backbone(backbone.name, backbone.pretrained, device=device)
    return cast_image_tower(tower, precision)


def lanes(
    backbone: BackboneConfig, device: str, precision: str, jobs: int, decoders: int | None, rank: Rank
) -> tuple[list[Callable[[], Encoder]], int]:
    """What loads the tower of each lane of this process, and how many processes decode for a lane.

    A CPU has `jobs` lanes of one core, which decode in a thread: a decoder beside them would take its time
    from the towers. On GPUs there is one lane each, fed by the cores; of several processes on a machine each
    takes one GPU.
    """
    if device == "cpu":
        return [functools.partial(load_tower, backbone, device, precision)] * jobs, decoders or 0
    import torch

    count = torch.cuda.device_count()
    mine = [rank.local % count] if rank.beside > 1 else list(range(count))
    loads: list[Callable[[], Encoder]] = [
        functools.partial(load_tower, backbone, f"cuda:{number}", precision) for number in mine
    ]
    return loads, decoders or max(1, rank.cores // len(mine))
