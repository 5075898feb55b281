"""Weights files that others made: which can be loaded, and what is said of those that cannot."""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from safetensors import safe_open

from flowclip_core.config import PRECISIONS, TINY
from flowclip_core.errors import InputError
from flowclip_core.model import backbone
from flowclip_core.model.backbone import WEIGHT_FILES, Backbone, cached, hub_files, model_name, need_finite

PIECES = re.compile(r"-\d{5}-of-\d{5}\.|\.index\.json$")  # names of weights that are cut in several files


def tokenizer_of(name: str = TINY, pretrained: str | None = None) -> tuple:
    """The tokenizer of the backbone called `name`, and how many tokens its text tower takes; no weights are
    loaded."""
    model = "ViT-B-16" if name == TINY else model_name(name, pretrained)
    text = (open_clip.get_model_config(model) or {}).get("text_cfg", {})
    return open_clip.get_tokenizer(model), text.get("context_length", 77)


def check_weights(name: str, pretrained: str | None) -> None:
    """Raises InputError for a name, a tag or a file that `load_backbone` could never take, without the
    network."""
    if name == TINY or pretrained in (None, "", "none"):
        return
    model, path = model_name(name, pretrained), Path(pretrained)
    known = model in open_clip.list_models()
    if known and path.exists() and pretrained not in open_clip.list_pretrained_tags_by_model(model):
        _check_kind(path, model)
    backbone.check_weights(name, pretrained)


def check_contents(name: str, pretrained: str | None) -> None:
    """Raises InputError, as `check_weights` does, and for a file that holds code or another model's
    weights.
    """
    check_weights(name, pretrained)
    if pretrained and (path := Path(pretrained)).suffix in WEIGHT_FILES:
        model = model_name(name, pretrained)
        if _is_torchscript(path):
            raise InputError(
                f"--pretrained {pretrained}: a TorchScript archive, which holds code and is not loaded; take"
                f" {_instead(model)}"
            )
        _check_shapes(path, model)


def weights_file(name: str, pretrained: str | None) -> Path | None:
    """Where the weights lie that `load_backbone(name, pretrained)` would read: a file, or one in the hub's
    cache.

    None for random weights, the embedded model, an unknown name or tag, and weights that are not there yet.
    """
    if name == TINY or pretrained in (None, "", "none"):
        return None
    if Path(pretrained).suffix in WEIGHT_FILES:
        return Path(pretrained) if Path(pretrained).is_file() else None
    return cached(*hub_files(model_name(name, pretrained), pretrained))


def _instead(model: str) -> str:
    """Which file open_clip loads, for a message."""
    repo, files = hub_files(model, "openai")
    return files[0] + (f" of {repo}" if repo else ", which open_clip saves,") + " in its place"


def _check_kind(path: Path, model: str) -> None:
    """Raises InputError for a folder of weights, a pointer of Git LFS, and a file whose ending says
    nothing."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        if own := [name for name in names if name.startswith("open_clip_") and name.endswith(WEIGHT_FILES)]:
            raise InputError(
                f"--pretrained {path}: a folder; give the file in it, --pretrained {path / own[-1]}"
            )
        what = "a folder without a weights file of open_clip"
        if any(PIECES.search(name) for name in names):
            what = "a folder with weights in several pieces, as transformers saves them"
        elif {"model.safetensors", "pytorch_model.bin"} & {*names}:
            what = "a folder with a model of transformers (Hugging Face), whose weights have other names"
        raise InputError(f"--pretrained {path}: {what}; take {_instead(model)}")
    if not path.is_file():
        return
    with path.open("rb") as file:
        begin = file.read(300)
    if begin.startswith(b"version https://git-lfs"):
        size = re.search(rb"size (\d+)", begin)
        of = f" of {int(size[1]):,} bytes" if size else ""
        raise InputError(
            f"--pretrained {path}: a pointer of Git LFS, not the weights{of}; run git lfs pull where it lies,"
            f" or take {_instead(model)}"
        )
    if path.suffix not in WEIGHT_FILES:
        raise InputError(f"--pretrained {path}: expected a file that ends in {', '.join(WEIGHT_FILES)}")


def _check_shapes(path: Path, model: str) -> None:
    """Raises InputError for a file with another library's names of weights, and for another model's
    weights."""
    shapes = _shapes(path)
    if PIECES.search(path.name):
        what = "one of several pieces, as transformers saves them"
    elif any(name.startswith(("text_model.", "vision_model.")) for name in shapes):
        what = "a model of transformers (Hugging Face), whose weights have other names"
    else:
        found, wanted = _sizes(shapes), _wanted_sizes(model)
        if not found or not wanted or found == wanted:
            return
        fits = [name for name in open_clip.list_models() if _wanted_sizes(name) == found]
        other = min(fits, key=len).removesuffix("-quickgelu") if fits else ""
        said = [", ".join(f"{what} {number}" for what, number in sizes.items()) for sizes in (found, wanted)]
        what = f"holds the weights of {other or 'another model'} ({said[0]}), not of {model} ({said[1]})"
        what += f"; use --backbone {other}" * bool(other)
        raise InputError(f"--pretrained {path}: {what}{', or' if other else ';'} take {_instead(model)}")
    raise InputError(f"--pretrained {path}: {what}; take {_instead(model)}")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a weights file by name, without reading the weights; none where that cannot be done."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        if zipped:
            weights = open_clip.factory.load_state_dict(str(path), device="meta", weights_only=True)
            return {name: tuple(value.shape) for name, value in weights.items()}
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
    except Exception:  # open_clip's reader will say what is wrong
        return {}


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """What tells CLIP's models apart; nothing for weights of another kind."""
    try:
        width, _, patch, _ = shapes["visual.conv1.weight"]
        blocks = sum(
            re.fullmatch(r"visual\.transformer\.resblocks\.\d+\.ln_1\.weight", name) is not None
            for name in shapes
        )
        places, (text, shared) = shapes["visual.positional_embedding"][0] - 1, shapes["text_projection"]
    except (KeyError, ValueError, IndexError):
        return {}
    size = round(places**0.5) * patch
    return {
        "width": width,
        "blocks": blocks,
        "patch": patch,
        "pixels": size,
        "text width": text,
        "shared width": shared,
    }


@functools.cache
def _wanted_sizes(model: str) -> dict[str, int]:
    """`_sizes` of an open_clip model by its settings; nothing where its image tower is no plain
    transformer."""
    config = open_clip.get_model_config(model) or {}
    image, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    found = [image.get("width"), image.get("layers"), image.get("patch_size"), image.get("image_size")]
    found += [text.get("width"), config.get("embed_dim")]
    names = ("width", "blocks", "patch", "pixels", "text width", "shared width")
    return dict(zip(names, found, strict=True)) if all(isinstance(size, int) for size in found) else {}


def _is_torchscript(path: Path) -> bool:
    """Whether a file is what torch.jit saves, as OpenAI's own weights files are."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).name == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def cast_image_tower(tower: Backbone, dtype: str) -> Backbone:
    """Cast the image tower alone to `float32`, `bfloat16` or `float16`; returns the backbone.

    The text tower and `weights_hash` stay those of float32, so a cast is to be named beside the hash.
    Raises InputError for another name, or for a second cast: what the first one rounded off is gone;
    NotFinite for weights that are too large for it.
    """
    if dtype not in PRECISIONS:
        raise InputError(f"precision {dtype!r} is unknown; use {', '.join(PRECISIONS)}")
    if getattr(torch, dtype) != tower.tower_dtype:
        if tower.tower_dtype != torch.float32:
            raise InputError(
                f"the image tower is {tower.tower_dtype} already; load the backbone again for {dtype}"
            )
        _ = tower.weights_hash  # kept from here on
        tower.clip.visual.to(getattr(torch, dtype))
        need_finite(tower.clip.visual, f"--precision {dtype}: backbone {tower.name}", "take float32")
    return tower
