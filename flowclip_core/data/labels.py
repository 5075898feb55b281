"""Class names: how they are given, how they read in a prompt, and which of them are refused."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

from flowclip_core.errors import InputError

# How class names are written in prompts.
STYLES = ("words", "raw")
# What CLIP's tokenizer takes for the borders of a text, wherever it stands.
BORDERS = ("<start_of_text>", "<end_of_text>")
# Where CLIP's tokenizer (open_clip's SimpleTokenizer) cuts a text before it looks for tokens.
_PIECES = re.compile(r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def class_text(name: str, style: str = "words") -> str:
    """A class name as it stands in a prompt: one rule for data sets, `predict` and the explorers.

    A name that holds a space is left as it is: «using iPad» stays. In any other «_» is a space, and

    - words: a capital after a small letter starts a new word: «brush_hair» -> «brush hair», «ApplyEyeMakeup»
    ->
      «Apply Eye Makeup»
    - raw: «ApplyEyeMakeup» stays, as X-CLIP, ActionCLIP, ViFi-CLIP and Vita-CLIP feed UCF-101

    Raises InputError for another style.
    """
    if style not in STYLES:
        raise InputError(f"class names {style!r}: expected {' or '.join(map(repr, STYLES))}")
    if " " in name:
        return name
    text = name.replace("_", " ")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text) if style == "words" else text


def texts_of(names: Sequence[str], option: str = "--labels") -> list[str]:
    """The texts of class names that a user gives: see `class_text`.

    Raises InputError unless they are two or more names that CLIP can tell apart, for one that `check_texts`
    refuses, and for a single text in the place of a list, which would be taken letter by letter.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{option}: a list of names is needed, got {names!r:.60}")
    names = [name.strip() for name in names]
    if len(set(names)) < 2:
        raise InputError(
            f"{option}: at least two different names are needed, got {', '.join(names) or 'none'}"
        )
    texts = [class_text(name) for name in names]
    check_texts(names, texts, option)
    return texts


# --- what no prompt can hold
# ----------------------------------------------------------------------------------


def check_texts(names: Sequence[str], texts: Sequence[str], where: str) -> None:
    """Refuse class texts that are empty, hold what nobody sees or what ends a text, or that CLIP reads alike.

    names: as the user knows them. It needs no tokenizer, whose import takes seconds;
    `prompt_tree.class_tokens` looks again, at the tokens. Raises InputError naming the class, of two that
    read alike both.
    """
    seen: dict[tuple[str, ...], int] = {}
    for number, (name, text) in enumerate(zip(names, texts, strict=True)):
        if not text.strip():
            raise InputError(f"{where}: class {name!r} is empty; every class needs a name")
        check_signs(text, f"{where}: class {shown(name)}")
        pieces = _pieces(text)
        if held := [border for border in BORDERS if border in (*pieces, *_pieces(name))]:
            raise InputError(
                f"{where}: class {name!r} holds {held[0]}, which is where a text ends for CLIP; rename it"
            )
        if (other := seen.setdefault(pieces, number)) != number:
            raise InputError(twins(where, names[other], name))


def twins(where: str, one: str, other: str) -> str:
    """What is said of two classes that read alike."""
    if one == other:
        return f"{where}: at least two different names are needed, and class {one!r} is in it twice"
    why, say = "", repr
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        why, say = " (they differ in Unicode form alone)", ascii
    elif one.casefold() == other.casefold():
        why = " (they differ in case alone)"
    return f"{where}: classes {say(one)} and {say(other)} read the same to CLIP{why}; rename one of them"


def caution(texts: Sequence[str]) -> str:
    """What is to be said of class texts that are numbers, or nothing."""
    numbers = [text for text in texts if text.replace(" ", "").isdigit()]
    if not numbers:
        return ""
    some = ", ".join(map(repr, numbers[:3])) + (", ..." if len(numbers) > 3 else "")
    return (
        f"{len(numbers)} of {len(texts)} class names are numbers ({some}): CLIP reads them literally, as it reads"
        " words; give the classes names"
    )


def shown(name: str) -> str:
    """A name in a message: what cannot be printed is spelt out."""
    seen = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return f"'{seen}'" if seen != name else repr(name) if name.isprintable() else ascii(name)


def check_signs(text: str, what: str) -> None:
    # Cc: control characters; Cf: zero-width and other unseen signs; Cs: bytes that are no UTF-8.
    for sign in text:
        if (category := unicodedata.category(sign)) == "Cs":
            raise InputError(f"{what}: its name is no UTF-8; rename it")
        if category in ("Cc", "Cf", "Zl", "Zp"):
            name = unicodedata.name(sign, "a control character")
            raise InputError(f"{what}: holds U+{ord(sign):04X} ({name}), which nobody sees; take it out")


def _pieces(text: str) -> tuple[str, ...]:
    """What CLIP's tokenizer sees of a text, up to what ftfy mends: equal ones are one text to CLIP."""
    plain = html.unescape(html.unescape(unicodedata.normalize("NFC", f"{text}.")))
    return tuple(_PIECES.findall(plain.lower()))
