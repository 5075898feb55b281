"""The knobs of an experiment: keyword arguments in Python, -p NAME=VALUE in a shell, parameters of a
notebook.

`catalogue.parameters` lists the knobs of a target with their defaults, which are the paper's; here is what
each of them means and takes. It needs no packages, so that --help answers before anything is installed.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from flowclip_core.config import CROPS, PROMPTS, ModelConfig, TrainConfig
from flowclip_core.data.labels import STYLES
from flowclip_core.errors import InputError


@dataclass(frozen=True)
class Knob:
    """One parameter. kind: type of a single value. many: a list of values is allowed, and makes an axis."""

    about: str
    kind: type
    many: bool = True


KNOBS = {
    "datasets": Knob("data sets, by the paper's names or their own; folder: videos of your own", str),
    "variants": Knob(
        "rows: names, or {name: {field: value}} over the fields of the model and the training;"
        " 'paper' in a list stands for the target's own rows",
        dict,
    ),
    "rivals": Knob(
        "true: other methods too, at rates chosen on videos set aside (zero-shot: those that name unseen"
        " classes)", bool, False
    ),
    "methods": Knob("other methods, by their names in flowclip_kit.rivals.METHODS; none: all of them", str),
    "budget": Knob(
        "equal: FlowCLIP's steps, rates chosen alike; published: as the authors train", str, False
    ),
    "k": Knob("training videos per class; none: all of them", int),
    "T": Knob("frames per video", int),
    "s": Knob("largest distance of the two frames of a difference; the usual 4 becomes T-1 where T < 5", int),
    "H": Knob("prompt vectors: 3, 4 and 5 have the paper's words, any other number needs `prompt`", int),
    "prompt": Knob("hand-crafted words that initialise the prompt vectors, one vector a word", str),
    "tau": Knob("temperature of the softmax", float),
    "lr": Knob("learning rate (readings, rivals: the rates to try)", float),
    "steps": Knob("training steps, instead of epochs", int),
    "epochs": Knob("training epochs, instead of steps", int),
    "batch": Knob("videos per step", int),
    "seeds": Knob("runs per cell", int, many=False),
    "splits": Knob("official splits", int),
    "clips": Knob("draws of T frames from each test video", int, many=False),
    "crops": Knob(f"views of each test frame: {', '.join(CROPS)}", str),
    "class_names": Knob(f"how class names read in prompts: {' or '.join(STYLES)}", str, many=False),
    "settings": Knob(
        "{field: value}: other settings of model and training; a list makes an axis", dict, False
    ),
}  # fmt: skip

# What the user may call the paper's letters, as the settings classes do.
FIELDS = {"T": "frames", "s": "step"}
MODEL = {field.name for field in fields(ModelConfig)}
TRAIN = {field.name for field in fields(TrainConfig)}
KINDS = {
    str: "a word or text", bool: "true or false", int: "a whole number", float: "a number",
    dict: "a name or {name: {field: value}}",
}  # fmt: skip


def value_of(text: str) -> Any:
    """A value as a command line writes it: JSON, a Python literal, a list of bare words, or a bare word."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    words = {"none": None, "true": True, "false": False}
    if text.startswith("[") and text.endswith("]") and "{" not in text:
        return [value_of(word.strip()) for word in text[1:-1].split(",")]
    if text[:1] in ("[", "{"):
        raise InputError(f'{text}: expected JSON or a Python literal, such as {{"mine": {{"step": 6}}}}')
    return words.get(text.lower(), text)


def from_shell(words: list[str]) -> dict[str, Any]:
    """NAME=VALUE words as a dict. Raises InputError for a word without =, or a name that is given twice."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise InputError(f"-p {word}: expected NAME=VALUE")
        if name in found:
            raise InputError(f"-p {word}: {name} is given twice; a list makes an axis: {name}=[1, 2]")
        try:
            found[name] = value_of(text.strip())
        except InputError as error:
            raise InputError(f"-p {name}={error}") from None
    return found


def check(target: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with lists as tuples. known: the target's parameters with their defaults.

    `set` is short for `settings`. Raises InputError naming the parameter that the target does not have, or
    whose value has the wrong type.
    """
    given = {"settings" if name == "set" else name: value for name, value in given.items()}
    for name in given:
        if name not in known:
            raise InputError(
                f"{target} has no parameter {name!r}{_meant(name, known)}; it has {', '.join(known)}"
            )
    return {name: _typed(name, value, known[name]) for name, value in given.items()}


def _meant(name: str, known: Mapping[str, Any]) -> str:
    letters = {field: letter for letter, field in FIELDS.items()} | {
        "data": "datasets",
        "dataset": "datasets",
    }
    if name in letters:
        return f", did you mean {letters[name]}?"
    if name in ("profile", "source", "name", "data_root"):
        return f" (--{name.replace('_', '-')} is an option of its own)"
    if name in MODEL | TRAIN:
        return f" (settings={{{name!r}: ...}} sets that field)"
    near = difflib.get_close_matches(name, known, 1)
    return f", did you mean {near[0]}?" if near else ""


def _typed(name: str, value: Any, default: Any) -> Any:
    knob = KNOBS[name]
    if value is None and (default is None or name in ("k", "splits")):
        return None
    if name == "settings":
        if not isinstance(value, Mapping):
            raise InputError(f"{name}={value!r:.80}: expected {{field: value}}")
        return {field: tuple(one) if isinstance(one, list) else one for field, one in value.items()}
    values = list(value) if isinstance(value, list | tuple) else [value]
    if name == "variants":
        wrong = [one for one in values if not isinstance(one, str | Mapping)]
    elif knob.kind is float:
        wrong = [one for one in values if isinstance(one, bool) or not isinstance(one, int | float)]
        values = values if wrong else [float(one) for one in values]
    else:
        wrong = [one for one in values if type(one) is not knob.kind and not (name == "k" and one is None)]
    several = isinstance(value, list | tuple)
    if wrong or not values or (several and not knob.many):
        lists = ", or a list of them" if knob.many else ""
        raise InputError(f"{name}={value!r:.80}: expected {KINDS[knob.kind]}{lists}")
    if len({json.dumps(one, sort_keys=True) for one in values}) < len(values):
        raise InputError(f"{name}={value!r:.80}: names a value twice")
    return tuple(values) if several else values[0]


def prompt_of(H: int) -> str:
    """The paper's hand-crafted prompt of H words. Raises InputError where the paper has none."""
    if H not in PROMPTS:
        known = ", ".join(map(str, PROMPTS))
        raise InputError(f"H={H}: the paper has prompts of {known} words; give your own with prompt='...'")
    return PROMPTS[H]


def short_key(changes: Mapping[str, Any]) -> str:
    """Six hex digits that name what a call changes of a target's defaults."""
    return hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:6]
