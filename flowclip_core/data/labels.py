"""Class names: how they read in a prompt, and what is said of those that read alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from flowclip_core.errors import InputError

# How class names are written in prompts.
STYLES = ("words", "raw")


def class_text(name: str, style: str = "words") -> str:
    """A class name as it stands in a prompt: one rule for data sets, `predict` and the explorers.

    A name that holds a space stays as it is: "using iPad". In any other "_" is a space, and

    - words: a capital after a small letter starts a new word: "ApplyEyeMakeup" -> "Apply Eye Makeup"
    - raw: "ApplyEyeMakeup" stays, as X-CLIP, ActionCLIP, ViFi-CLIP and Vita-CLIP feed UCF-101

    Raises InputError for another style.
    """
    if style not in STYLES:
        raise InputError(f"class names {style!r}: expected {' or '.join(map(repr, STYLES))}")
    if " " in name:
        return name
    text = name.replace("_", " ")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text) if style == "words" else text


def texts_of(names: Sequence[str], option: str = "labels") -> list[str]:
    """The texts of class names that a user gives: see `class_text`.

    Raises InputError unless they are two or more different names, and for a single text instead of a list,
    which would be taken letter by letter. What CLIP cannot tell apart is refused by
    `prompt_tree.class_tokens`.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{option}: a list of names is needed, got {names!r:.60}")
    names = [name.strip() for name in names]
    if len(set(names)) < 2:
        raise InputError(
            f"{option}: at least two different names are needed, got {', '.join(names) or 'none'}"
        )
    return [class_text(name) for name in names]


def twins(where: str, first: str, second: str) -> str:
    """The message about two classes that read alike."""
    if first == second:
        return f"{where}: at least two different names are needed, and class {first!r} is in it twice"
    why, spell = "", repr
    if unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", second):
        why, spell = " (they differ in Unicode form alone)", ascii
    elif first.casefold() == second.casefold():
        why = " (they differ in case alone)"
    return (
        f"{where}: classes {spell(first)} and {spell(second)} read the same to CLIP{why}; rename one of them"
    )


def caution(texts: Sequence[str]) -> str:
    """A warning about class texts that are numbers, or nothing."""
    numbers = [text for text in texts if text.replace(" ", "").isdigit()]
    if not numbers:
        return ""
    some = ", ".join(map(repr, numbers[:3])) + (", ..." if len(numbers) > 3 else "")
    return (
        f"{len(numbers)} of {len(texts)} class names are numbers ({some}): CLIP reads them literally,"
        " as it reads words; give the classes names"
    )
