"""Checkpoints: files, folders with a model card, repositories of the Hugging Face hub.

A checkpoint is a safetensors file of the trained parts; its metadata holds the settings, the class texts and
the backbone they belong to. A folder holds the same as `model.safetensors`, the settings again as a readable
`config.json`, and a model card `README.md`. Strangers write such files too, so sizes, types and values are
checked before anything is built from them. All but `read_parts` works without torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from flowclip_core.config import LONGEST_PROMPT, TINY, ModelConfig, need_types
from flowclip_core.errors import InputError, NotFinite, shown
from flowclip_core.files import sha256, to_json, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, SETTINGS, CARD = "model.safetensors", "config.json", "README.md"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HUB_SECONDS = 5.0  # to find out whether the hub can be reached

# A trained value beyond this is damaged or hostile: what SGD makes of the parts is near 1.
LARGEST = 1e6
# Classes of a checkpoint, and letters of a name: the tree of all names grows with the square of their tokens.
MOST_CLASSES, LONGEST_NAME = 4096, LONGEST_PROMPT


# --- finding


def find(name: str | Path, **download: Any) -> Path:
    """The file or folder `name`, or the hub's repository "user/name", fetched into the hub's cache.

    download: revision, cache_dir, token, force_download, local_files_only, as in huggingface_hub.
    Raises InputError where there is neither, or the hub cannot be reached and its cache has no copy.
    """
    if Path(name).exists():
        return Path(name)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name), re.ASCII) or str(name).endswith(".safetensors"):
        raise InputError(
            f"{name}: no such file or folder; give a checkpoint, or a repository of the hub as user/name"
        )
    from huggingface_hub import errors

    try:
        folder = _fetch(str(name), **download)
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{name}: the repository has no revision {download.get('revision')!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: no such file or folder here, and no repository on the hub that is open to you"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{name}: no such file or folder here, and as a repository it is not in the hub's cache, nor can"
            " the hub be reached; fetch its files where there is a network and give their folder"
        ) from error
    except Exception as error:
        raise InputError(f"{name}: the repository cannot be fetched ({_first_line(error)})") from error
    if missing := _missing(folder):
        raise InputError(
            f"{name}: the repository has no {' and no '.join(missing)}, as push_to_hub writes them;"
            " a pickle such as pytorch_model.bin is not loaded"
        )
    return folder


def _fetch(name: str, local_files_only: bool = False, **download: Any) -> Path:
    """The folder of a repository in the hub's cache, up to date where the hub answers within seconds."""
    import huggingface_hub
    from huggingface_hub import errors

    if not local_files_only:
        asked = {key: download[key] for key in ("revision", "token") if key in download}
        try:
            huggingface_hub.HfApi().model_info(name, timeout=HUB_SECONDS, **asked)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
            raise
        except Exception:  # whatever keeps the hub away: a copy in the cache will do
            local_files_only = True
    wanted = [WEIGHTS, SETTINGS]
    return Path(
        huggingface_hub.snapshot_download(
            name, allow_patterns=wanted, local_files_only=local_files_only, **download
        )
    )


def _missing(folder: Path) -> list[str]:
    return [file for file in (WEIGHTS, SETTINGS) if not (folder / file).is_file()]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


# --- reading


@contextmanager
def _opened(path: Path, framework: str = "np") -> Iterator[Any]:
    """The safetensors file; InputError where it cannot be read as one."""
    try:
        with safe_open(path, framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def read_parts(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file written by `FlowCLIP.save`, or of a folder written by `save_pretrained`.

    expected: tensors of the names, shapes and types that must be in it, without values (device "meta").
    Raises InputError for anything else, before a tensor of another shape is read, and for tensors that are
    not those that were saved; NotFinite as `need_sound` does.
    """
    about = read_settings(path)
    file = path / WEIGHTS if path.is_dir() else path
    with _opened(file, "pt") as opened:
        shapes = {(name, tuple(opened.get_slice(name).get_shape())) for name in sorted(opened.keys())}
        if wrong := shapes ^ {(name, tuple(value.shape)) for name, value in expected.items()}:
            raise InputError(f"{path}: its parts do not fit: {sorted({name for name, _ in wrong})[:3]}")
        tensors = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
    for name, value in tensors.items():
        if value.dtype != (dtype := expected[name].dtype):
            raise InputError(f"{path}: its part {name} is {value.dtype}, expected {dtype}; save it as that")
    need_sound(f"{path}: its part", tensors)
    _need_saved(file, about, {name: value.numpy() for name, value in tensors.items()})
    return tensors


def need_whole(path: Path, sha: str | None) -> None:
    """Raises InputError unless the file is a checkpoint with the tensors that were saved; with `sha`, unless
    that is its SHA-256."""
    if sha is not None:
        if sha256(path) != sha:
            raise InputError(f"{path}: these are not the weights that the run saved")
        return
    about = read_settings(path)
    with _opened(path) as file:
        _need_saved(path, about, {name: file.get_tensor(name) for name in sorted(file.keys())})


def need_sound(what: str, parts: Mapping[str, Tensor], limit: float = LARGEST) -> None:
    """Raises NotFinite naming the first part with a value that is not finite or not below `limit`."""
    for name, value in parts.items():
        if not (largest := float(value.detach().abs().max())) < limit:
            raise NotFinite(f"{what} {name} holds {largest:g}; below {limit:g} is expected")


def _need_saved(file: Path, about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    if "tensors" in about and about["tensors"] != tensors_sum(tensors):
        raise InputError(
            f"{file}: damaged, its tensors are not those that were saved; save or fetch it again"
        )
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise InputError(f"{file}: {name} holds values that are not finite; save or fetch it again")


def tensors_sum(tensors: Mapping[str, np.ndarray]) -> str:
    """Checksum of named tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {value.shape} ".encode() + value.tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class _Settings:
    """The types of what a checkpoint says of itself."""

    model: dict[str, object]
    class_texts: tuple[str, ...]
    name: str  # of the backbone it was trained on
    weights: str
    pretrained: str | None

    def __post_init__(self) -> None:
        need_types(self)


def read_settings(path: Path) -> dict[str, Any]:
    """What a checkpoint, or a folder with one, says of itself: `model`, `class_texts`, `backbone`.

    Raises InputError for a file or a folder that is none of ours, for a folder whose two files disagree, for
    settings that no model can have, and for more classes or longer names than one is built for.
    """
    if path.is_dir():
        return _folder_settings(path)
    with _opened(path) as file:
        text = (file.metadata() or {}).get("flowclip", "{}")
    try:
        about: dict[str, Any] = json.loads(text)
        origin = about["backbone"]
        settings = _Settings(
            about["model"], about["class_texts"], origin["name"], origin["weights"], origin.get("pretrained")
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: a safetensors file, but not one that flowclip saved") from error
    try:
        ModelConfig(**settings.model)  # type: ignore[arg-type]  # it checks its own types
        _need_names(settings.class_texts)
    except TypeError as error:
        raise InputError(f"{path}: saved by another version of flowclip ({error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return about


def _need_names(names: Sequence[str]) -> None:
    if not 1 <= len(names) <= MOST_CLASSES:
        raise InputError(f"class_texts has {len(names):,} names, expected 1 to {MOST_CLASSES:,}")
    for name in names:
        if not name.strip() or len(name) > LONGEST_NAME:
            raise InputError(f"class_texts has the name {name!r:.60}, expected 1 to {LONGEST_NAME} letters")
    if (double := _double(names)) is not None:
        raise InputError(f"class_texts has {double!r} twice; every class needs a name of its own")


def _double(names: Sequence[str]) -> str | None:
    return next((name for number, name in enumerate(names) if name in names[:number]), None)


def _folder_settings(folder: Path) -> dict[str, Any]:
    if missing := _missing(folder):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if WEIGHTS in missing and pickles:
            raise InputError(
                f"{folder}: holds {pickles[0]}, a pickle, which can run code and is not loaded; what is"
                f" needed is {WEIGHTS} and {SETTINGS}, as save_pretrained writes them"
            )
        raise InputError(f"{folder}: lacks {' and '.join(missing)}; give a folder that save_pretrained wrote")
    about = read_settings(folder / WEIGHTS)
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["flowclip"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{folder / SETTINGS}: not the settings of a flowclip model ({error})") from error
    if settings != about:
        told = settings if isinstance(settings, dict) else {}
        keys = [key for key in sorted(about) if told.get(key) != about[key]]
        raise InputError(
            f"{folder}: {SETTINGS} and {WEIGHTS} disagree about"
            f" {' and '.join(keys) or 'what there is to say'}; they are not of one model, save it again"
        )
    return about


def class_names(
    path: Path, about: Mapping[str, Any], class_texts: Sequence[str] | None, transfer: bool
) -> list[str]:
    """The class names to load a checkpoint with: its own, or with `transfer` the others that are given.

    Raises InputError for others without `transfer`, for none with it, for doubled or empty names, and for a
    linear head that is to transfer.
    """
    own: list[str] = about["class_texts"]
    if transfer and about["model"].get("head") == "linear":
        raise InputError(
            f"{path}: its linear head knows its own {len(own)} classes alone; leave transfer=True out"
        )
    if class_texts is None:
        if transfer:
            raise InputError(
                f"{path}: transfer=True needs the names of the other classes, as class_texts=[...]"
            )
        return own
    if isinstance(class_texts, str) or not all(isinstance(name, str) for name in class_texts):
        raise InputError(f"class_texts: a list of names is needed, got {class_texts!r:.60}")
    names = list(class_texts)
    _need_names(names)
    if names == own or transfer:
        return names
    differ = [f"{len(names)} classes, not {len(own)}"] if len(names) != len(own) else []
    if others := [name for name in names if name not in own]:
        differ.append(f"{others[0]!r} is none of its own")
    raise InputError(
        f"{path}: class_texts are not the classes it was trained on"
        f" ({', '.join(differ) or 'its own names, in another order'}); leave them out to take its own, or say"
        " transfer=True to name other classes with it, the paper's zero-shot transfer"
    )


# --- writing

UNRECORDED = "No run record came with it."
# Settings of the model that are parts, and what a model card calls them.
PARTS = {
    "spatial": "spatial stream",
    "mmb": "motion stream",
    "map": "learnt prompts",
    "mcb": "communication block",
}
DEMO_NOTE = "\n**demo world: not evidence about the paper's data**\n"


def write_folder(
    folder: Path, checkpoint: bytes, about: Mapping[str, Any], training: str = UNRECORDED, demo: bool = False
) -> list[Path]:
    """Write model.safetensors, config.json and README.md, each whole; equal files are left alone.

    checkpoint, about: what `FlowCLIP.save` writes, and the settings in it. training, demo: see `card`.
    """
    contents = {
        WEIGHTS: checkpoint,
        SETTINGS: (to_json(folder / SETTINGS, {"flowclip": about}, indent=2, sort_keys=True) + "\n").encode(),
        CARD: card(about, training, demo).encode(),
    }
    for name, content in contents.items():
        path = folder / name
        if not (path.is_file() and path.read_bytes() == content):
            write_atomically(path, content)
    return [folder / name for name in contents]


def card(about: Mapping[str, Any], training: str = UNRECORDED, demo: bool = False) -> str:
    """The model card, Markdown: what the parts are, whose they are, how they were trained, how to load them.

    training: Markdown, how they were trained and what they score. demo: whether on generated videos.
    """
    origin, model = about["backbone"], about["model"]
    weights = Path(origin["pretrained"]).name if origin["pretrained"] else None
    source, imports = (
        f"weights `{weights}`" if weights else "random weights",
        "from flowclip_core import FlowCLIP",
    )
    if tiny := origin["name"] == TINY:
        source = "its own weights"
        imports += "\nfrom flowclip_kit.demo.backbone import load_backbone"
    else:
        imports += ", load_backbone"
    parts = [title for name, title in PARTS.items() if model.get(name)]
    if model.get("head") == "linear":
        parts.append("linear head")
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return template.format(
        classes=len(about["class_texts"]),
        demo=DEMO_NOTE if demo or tiny else "",
        backbone=origin["name"],
        source=source,
        weights=origin["weights"],
        parts=", ".join(parts) or "none",
        frames=model.get("frames"),
        prompt=model.get("prompt"),
        settings=SETTINGS,
        names=", ".join(map(_plain, about["class_texts"])),
        training=training,
        imports=imports,
        loaded=f"{json.dumps(origin['name'])}, pretrained={json.dumps(weights) if weights else None}",
    )


def _plain(text: str) -> str:
    """A class name that stays one line and plain text in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", shown(" ".join(text.split())))
