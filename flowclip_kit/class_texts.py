"""Class names that users and data sets give: in one line, and refused where no prompt can hold them."""

from __future__ import annotations

import csv
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from flowclip_core.data import labels
from flowclip_core.data.labels import twins
from flowclip_core.errors import InputError

# What CLIP's tokenizer takes for the borders of a text, wherever it stands.
BORDERS = ("<start_of_text>", "<end_of_text>")
# Where CLIP's tokenizer (open_clip's SimpleTokenizer) cuts a text before it looks for tokens.
_PIECES = re.compile(r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def split_names(line: str, option: str = "--labels") -> list[str]:
    """The names in a line with commas between them, as in a row of CSV: one that holds a comma stands in
    quotes.

    Raises InputError for an empty name, naming a comma at the end, and for a quote that does not close.
    """
    check_signs(line, f"{option} {line!r}")
    try:
        (names,) = csv.reader([line], skipinitialspace=True, strict=True) if line.strip() else [[]]
    except csv.Error as error:
        raise InputError(
            f'{option} {line!r}: a quote that does not close; quotes go around a whole name, "like this, say"'
        ) from error
    names = [name.strip() for name in names]
    if len(names) > 1 and not names[-1]:
        raise InputError(f"{option} {line!r} ends with a comma: take it out, or name the class after it")
    if len(names) > 1 and not all(names):
        raise InputError(f"{option} {line!r}: a name is empty, two commas follow each other")
    return [name for name in names if name]


def joined(names: Iterable[str]) -> str:
    """The line that `split_names` reads as these names."""
    return ", ".join(
        '"' + name.replace('"', '""') + '"' if "," in name or name[:1] == '"' else name for name in names
    )


def texts_of(names: Sequence[str], option: str = "--labels") -> list[str]:
    """The texts of class names that a user gives. Raises InputError as `labels.texts_of` and `check_texts`
    do.
    """
    texts = labels.texts_of(names, option)
    check_texts([name.strip() for name in names], texts, option)
    return texts


def check_texts(names: Sequence[str], texts: Sequence[str], where: str) -> None:
    """Refuse class texts that are empty, hold invisible signs or what ends a text, or that CLIP reads alike.

    names: as the user knows them. This needs no tokenizer, whose import takes seconds;
    `prompt_tree.class_tokens` looks again, at the tokens. Raises InputError naming the class, or both that
    read alike.
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


def shown(name: str) -> str:
    """A name in a message: what cannot be printed is spelt out."""
    readable = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if readable != name:
        return f"'{readable}'"
    return repr(name) if name.isprintable() else ascii(name)


def check_signs(text: str, what: str) -> None:
    """Raises InputError, which starts with `what`, for a text that holds a sign nobody sees."""
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
