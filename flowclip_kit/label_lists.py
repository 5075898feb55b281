"""Class names in one line, as they stand in `--labels` and in a field of the explorers."""

from __future__ import annotations

import csv
from collections.abc import Iterable

from flowclip_core.data.labels import check_signs
from flowclip_core.errors import InputError


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
