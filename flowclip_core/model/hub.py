"""Trained parts that travel: checkpoint files, folders with a model card, repositories of the Hugging Face
hub.

A checkpoint is a safetensors file of the trained parts; its metadata holds the settings, the class texts and
which backbone they belong to. A folder holds the same as `model.safetensors`, the settings again as a
readable `config.json`, and a model card `README.md`. No function here needs the towers, and all but
`read_parts` do without torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from flowclip_core.config import LONGEST_PROMPT, TINY, ModelConfig
from flowclip_core.errors import InputError, NotFinite, shown
from flowclip_core.files import sha256, to_json, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, SETTINGS, CARD = "model.safetensors", "config.json", "README.md"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HUB_SECONDS = 5.0  # to find out whether the hub can be reached

# What trained parts may hold: beyond it they are damaged or hostile. What SGD makes of them is near 1.
LARGEST = 1e6
# Classes of a checkpoint, and letters of a name: the tree of all names grows with the square of their tokens.
MOST_CLASSES, LONGEST_NAME = 4096, LONGEST_PROMPT

PAPER = "«Seeing in Flowing: Adapting CLIP for Action Recognition with Motion Prompts Learning»"
DOI = "https://doi.org/10.1145/3581783.3612490"
UNRECORDED = "No run record came with it."
# Model card: settings of the model that are parts, and what they are called.
PARTS = {
    "spatial": "spatial stream",
    "mmb": "motion stream",
    "map": "learnt prompts",
    "mcb": "communication block",
}


# --- reading
# --------------------------------------------------------------------------------------------------


def find(name: str | Path, **download) -> Path:
    """The file or folder `name`; where there is none, the hub's repository «user/name», fetched into the
    hub's cache.

    download: revision, cache_dir, token, force_download, local_files_only, as huggingface_hub has them.
    Raises InputError where there is neither, or the hub cannot be reached and its cache has no copy.
    """
    if Path(name).exists():
        return Path(name)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name), re.ASCII) or str(name).endswith(".safetensors"):
        raise InputError(
            f"{name}: no such file or folder; give a checkpoint, or a repository of the hub as user/name"
        )
    import huggingface_hub
    from huggingface_hub import errors

    offline = download.pop("local_files_only", False)
    asked = {key: download[key] for key in ("revision", "token") if key in download}
    try:
        try:
            if not offline:
                huggingface_hub.HfApi().model_info(str(name), timeout=HUB_SECONDS, **asked)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
            raise
        except Exception:  # whatever keeps the hub away: a copy in the cache will do
            offline = True
        folder = Path(
            huggingface_hub.snapshot_download(
                str(name), allow_patterns=[WEIGHTS, SETTINGS], local_files_only=offline, **download
            )
        )
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{name}: the repository has no revision {download.get('revision')!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: no such file or folder here, and no repository on the hub that is open to you"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{name}: no such file or folder here, and as a repository it is not in the hub's cache, nor can the hub be"
            " reached; fetch its files where there is a network and give their folder"
        ) from error
    except Exception as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{name}: the repository cannot be fetched ({why})") from error
    if missing := [file for file in (WEIGHTS, SETTINGS) if not (folder / file).is_file()]:
        raise InputError(
            f"{name}: the repository has no {' and no '.join(missing)}, as push_to_hub writes them;"
            " a pickle such as pytorch_model.bin is not loaded"
        )
    return folder


def read_parts(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file written by `FlowCLIP.save`, or of a folder written by `save_pretrained`.

    wanted: tensors of the names, shapes and types that are to be in it; their values do not matter ("meta"
    will do).
    Raises InputError for anything else, before a tensor of another shape is read, and for tensors that are
    not those that were saved; NotFinite as `need_sound` does.
    """
    about = read_settings(path)
    file = path / WEIGHTS if path.is_dir() else path
    try:
        with safe_open(file, "pt") as opened:
            there = {(name, tuple(opened.get_slice(name).get_shape())) for name in opened.keys()}
            if wrong := there ^ {(name, tuple(value.shape)) for name, value in wanted.items()}:
                raise InputError(f"{path}: its parts do not fit: {sorted({name for name, _ in wrong})[:3]}")
            parts = {name: opened.get_tensor(name) for name in opened.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error})") from error
    for name, value in parts.items():
        if value.dtype != wanted[name].dtype:
            raise InputError(
                f"{path}: its part {name} is {value.dtype}, expected {wanted[name].dtype}; save it as that"
            )
    need_sound(f"{path}: its part", parts)
    _need_saved(file, about, {name: value.numpy() for name, value in parts.items()})
    return parts


def need_whole(path: Path, sha: str | None) -> None:
    """Raises InputError unless the file is the checkpoint of this SHA-256, or without one, looks as one
    does."""
    if sha is not None:
        if sha256(path) != sha:
            raise InputError(f"{path}: these are not the weights that the run saved")
        return
    about = read_settings(path)
    try:
        with safe_open(path, "np") as opened:
            _need_saved(path, about, {name: opened.get_tensor(name) for name in opened.keys()})
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def need_sound(what: str, parts: Mapping[str, Tensor], limit: float = LARGEST) -> None:
    """Raises NotFinite naming the first of trained parts that is not finite or not below `limit`: what it is,
    and its name."""
    for name, value in parts.items():
        if not (largest := float(value.detach().abs().max())) < limit:
            raise NotFinite(f"{what} {name} holds {largest:g}; below {limit:g} is expected")


def _need_saved(file: Path, about: Mapping, tensors: Mapping[str, np.ndarray]) -> None:
    if "tensors" in about and about["tensors"] != tensors_sum(tensors):
        raise InputError(
            f"{file}: damaged, its tensors are not those that were saved; save or fetch it again"
        )
    if wrong := [
        name for name, value in tensors.items() if value.dtype.kind == "f" and not np.isfinite(value).all()
    ]:
        raise InputError(f"{file}: {wrong[0]} holds values that are not finite; save or fetch it again")


def tensors_sum(tensors: Mapping[str, np.ndarray]) -> str:
    """Checksum of named tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(
            f"{name} {tensors[name].dtype} {tensors[name].shape} ".encode() + tensors[name].tobytes()
        )
    return digest.hexdigest()[:32]


def read_settings(path: Path) -> dict:
    """What a checkpoint, or a folder with one, says of itself: `model`, `class_texts`, `backbone`.

    Raises InputError for a file or a folder that is none of ours, for a folder whose two files disagree, for
    settings that no model can have, and for more classes or longer names than one is built for.
    """
    if path.is_dir():
        return _folder_settings(path)
    try:
        with safe_open(path, "np") as file:
            said = (file.metadata() or {}).get("flowclip", "{}")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    try:
        about = json.loads(said)
    except (ValueError, RecursionError):
        about = None
    if not _well_formed(about):
        raise InputError(f"{path}: a safetensors file, but not one that flowclip saved")
    try:
        ModelConfig(**about["model"])
        _need_names(about["class_texts"])
    except TypeError as error:
        raise InputError(f"{path}: saved by another version of flowclip ({error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return about


def _need_names(names: Sequence[str]) -> None:
    if len(names) > MOST_CLASSES:
        raise InputError(f"class_texts has {len(names):,} names, expected {MOST_CLASSES:,} at most")
    if odd := [name for name in names if not name.strip() or len(name) > LONGEST_NAME]:
        raise InputError(f"class_texts has the name {odd[0]!r:.60}, expected 1 to {LONGEST_NAME} letters")
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise InputError(f"class_texts has {twice!r} twice; every class needs a name of its own")


def _well_formed(about: object) -> bool:
    def texts(*values: object) -> bool:
        return all(isinstance(value, str) for value in values)

    if not isinstance(about, dict) or not {"model", "class_texts", "backbone"} <= about.keys():
        return False
    names, tower = about["class_texts"], about["backbone"]
    return (
        isinstance(about["model"], dict)
        and (isinstance(names, list) and len(names) > 0 and texts(*names))
        and (
            isinstance(tower, dict)
            and texts(tower.get("name"), tower.get("weights"), tower.get("pretrained") or "")
        )
    )


def _folder_settings(folder: Path) -> dict:
    if missing := [file for file in (WEIGHTS, SETTINGS) if not (folder / file).is_file()]:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if WEIGHTS in missing and pickles:
            raise InputError(
                f"{folder}: holds {pickles[0]}, a pickle, which can run code and is not loaded; what is needed is"
                f" {WEIGHTS} and {SETTINGS}, as save_pretrained writes them"
            )
        raise InputError(f"{folder}: lacks {' and '.join(missing)}; give a folder that save_pretrained wrote")
    about = read_settings(folder / WEIGHTS)
    try:
        said = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["flowclip"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{folder / SETTINGS}: not the settings of a flowclip model ({error})") from error
    if said != about:
        keys = [key for key in sorted(about) if not isinstance(said, dict) or said.get(key) != about[key]]
        raise InputError(
            f"{folder}: {SETTINGS} and {WEIGHTS} disagree about {' and '.join(keys) or 'what there is to say'};"
            " they are not of one model, save it again"
        )
    return about


def class_names(path: Path, about: Mapping, class_texts: Sequence[str] | None, transfer: bool) -> list[str]:
    """The class names to load a checkpoint with: its own, or with `transfer` the others that are given.

    Raises InputError for others without `transfer`, for none with it, for doubled or empty names, and for a
    linear head that is to transfer.
    """
    own = about["class_texts"]
    if transfer and about["model"].get("head") == "linear":
        raise InputError(
            f"{path}: its linear head knows its own {len(own)} classes alone; leave transfer=True out"
        )
    if class_texts is None:
        if transfer:
            raise InputError(
                f"{path}: transfer=True needs the names of the other classes, as class_texts=[...]"
            )
        return list(own)
    if isinstance(class_texts, str) or not all(isinstance(name, str) for name in class_texts):
        raise InputError(f"class_texts: a list of names is needed, got {class_texts!r:.60}")
    given = list(class_texts)
    if not given or not all(name.strip() for name in given):
        raise InputError("class_texts: a name is empty" if given else "class_texts: no names in it")
    if doubled := [name for number, name in enumerate(given) if name in given[:number]]:
        raise InputError(f"class_texts: {doubled[0]!r} is in it twice; every class needs a name of its own")
    if given == own or transfer:
        return given
    differ = [f"{len(given)} classes, not {len(own)}"] * (len(given) != len(own))
    if other := [name for name in given if name not in own]:
        differ.append(f"{other[0]!r} is none of its own")
    elif not differ:
        differ.append("its own names, in another order")
    raise InputError(
        f"{path}: class_texts are not the classes it was trained on ({', '.join(differ)}); leave them out to take its"
        " own, or say transfer=True to name other classes with it, the paper's zero-shot transfer"
    )


# --- writing
# --------------------------------------------------------------------------------------------------


def write_folder(
    folder: Path, checkpoint: bytes, about: Mapping, training: str = UNRECORDED, demo: bool = False
) -> list[Path]:
    """Write model.safetensors, config.json and README.md, each whole; files that are equal already are left
    alone.

    checkpoint, about: what `FlowCLIP.save` writes, and the settings in it. training, demo: see `card`.
    Raises InputError where `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give the name of a folder")
    contents = {
        WEIGHTS: checkpoint,
        SETTINGS: (to_json(folder / SETTINGS, {"flowclip": about}, indent=2, sort_keys=True) + "\n").encode(),
        CARD: card(about, training, demo).encode(),
    }
    for name, content in contents.items():
        path = folder / name
        if not (path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content):
            write_atomically(path, content)
    return [folder / name for name in contents]


def card(about: Mapping, training: str = UNRECORDED, demo: bool = False) -> str:
    """The model card, Markdown: what the parts are, whose they are, how they were trained and scored, how to
    load them.

    training: Markdown, how they were trained and what they score. demo: whether the data are generated ones.
    """
    tower, names, model = about["backbone"], about["class_texts"], about["model"]
    weights = Path(tower["pretrained"]).name if tower["pretrained"] else None
    source = (
        "its own weights"
        if tower["name"] == TINY
        else f"weights `{weights}`"
        if weights
        else "random weights"
    )
    parts = [part for name, part in PARTS.items() if model.get(name)] + ["linear head"] * (
        model.get("head") == "linear"
    )
    lines = [
        "---",
        "library_name: flowclip",
        "pipeline_tag: video-classification",
        "tags:\n- action-recognition\n- clip",
        "---",
        "",
        f"# Trained parts of FlowCLIP for {len(names)} actions",
        "",
        f"The method of {PAPER} ([ACM MM 2023]({DOI})), made with flowclip, which is not the authors'.",
        "Only what training changes is in here; the frozen CLIP is loaded beside it.",
        "",
    ]
    if demo or tower["name"] == TINY:
        lines += ["**demo world: not evidence about the paper's data**", ""]
    lines += [
        f"- backbone: {tower['name']} with {source}, weights hash `{tower['weights']}`",
        f"- trained parts: {', '.join(parts) or 'none'}",
        f"- input: {model.get('frames')} frames; prompt «{model.get('prompt')}»; all settings in `{SETTINGS}`",
        f"- classes: {', '.join(_plain(name) for name in names)}",
        "",
        "## Training and score",
        "",
        training,
        "",
        "## Use",
        "",
        "```python",
        "from flowclip_core import FlowCLIP" + ("" if tower["name"] == TINY else ", load_backbone"),
        *["from flowclip_kit.demo.backbone import load_backbone"] * (tower["name"] == TINY),
        f"backbone = load_backbone({json.dumps(tower['name'])}, pretrained={json.dumps(weights) if weights else None})",
        'model = FlowCLIP.from_pretrained("FOLDER or user/name", backbone=backbone)',
        "```",
        "",
        "Other classes: `class_texts=[...], transfer=True`. Another backbone is refused.",
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """A class name that stays one line and plain text in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", shown(" ".join(text.split())))
