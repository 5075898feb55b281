"""Tidy tables: one row per run and metric, scores in percent; made from records, saved and read as CSV."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_core.paths import write_atomically

TIDY = "target profile dataset role variant mmb map mcb k seed split views metric value key".split()
WHOLE = ["mmb", "map", "mcb", "k", "seed", "split"]


def tidy_rows(target: str, profile: str, role: str, variant: str, record: dict) -> list[dict]:
    """One row a metric of one run, with the columns of `TIDY`."""
    config = record["config"]
    evaluation, model = config["evaluation"], config["model"]
    prefix = "" if config["train"] else "zero_shot_"
    about = {
        "target": target,
        "profile": profile,
        "dataset": config["dataset"],
        "role": role,
        "variant": variant,
        **{switch: int(model[switch]) for switch in ("mmb", "map", "mcb")},
        "k": config["k"] or 0,
        "seed": config["seed"],
        "split": config["split"],
        "views": f"{evaluation['clips']}x{len(evaluation['crops'])}",
    }
    rows = [{"metric": prefix + name, "value": value} for name, value in sorted(record["scores"].items())]
    return [{**about, **row, "key": record["key"]} for row in rows]


def read_tidy(path: Path) -> pd.DataFrame:
    """A results CSV in the columns of `TIDY`: one row per run and metric, value in percent.

    Raises InputError naming the file when it is absent, lacks a column or holds a value outside 0..100.
    """
    frame = read_csv(path, TIDY, "made by ./reproduce.sh")
    for name in WHOLE + ["value"]:
        frame[name] = numbers(frame, name, path)
        if name != "value" and (frame[name] % 1 != 0).any():
            raise InputError(f"{path}: column {name} must hold whole numbers; make the file again")
    wrong = frame[~frame["value"].between(0, 100)]
    if len(wrong):
        raise InputError(
            f"{path}: line {wrong.index[0] + 2} has value {wrong['value'].iloc[0]:g}, expected percent "
            "between 0 and 100; make the file again"
        )
    return frame.astype(dict.fromkeys(WHOLE, int))


def save_tidy(tidy: pd.DataFrame, path: Path) -> Path:
    """Write results so that the same runs give the same bytes, whatever order they finished in.

    Values get 4 decimals. Raises InputError when a column of `TIDY` is missing.
    """
    return write_atomically(Path(path), tidy_csv(tidy))


def tidy_csv(tidy: pd.DataFrame) -> str:
    """The text that `save_tidy` writes."""
    missing = [name for name in TIDY if name not in tidy]
    if missing:
        raise InputError(f"results lack the columns {', '.join(missing)}; expected {','.join(TIDY)}")
    rows = tidy[TIDY].sort_values([name for name in TIDY if name != "value"], kind="stable")
    return rows.assign(value=rows["value"].map("{:.4f}".format)).to_csv(index=False, lineterminator="\n")


def read_csv(path: Path, columns: list[str], origin: str) -> pd.DataFrame:
    """The named columns of a CSV as text. Raises InputError when it is absent, broken, empty, or lacks one.

    origin: where such a file comes from, for the message.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a table {origin}")
    try:
        # Text first: a run key such as 12e45 would otherwise be read as a number, an empty role as nan.
        text = io.StringIO(path.read_text(encoding="utf-8"))
        frame = pd.read_csv(text, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' parser errors and undecodable text are both ValueErrors
        why = str(error).splitlines()[0]
        raise InputError(f"{path}: not a CSV table ({why}); make the file again") from None
    missing = [name for name in columns if name not in frame]
    if missing or frame.empty:
        what = f"lacks column {', '.join(missing)}" if missing else "has no rows"
        raise InputError(f"{path}: {what}; expected {','.join(columns)} and at least one row")
    return frame[columns]


def numbers(frame: pd.DataFrame, name: str, path: Path) -> pd.Series:
    """Column `name` as numbers. Raises InputError naming the first line that holds something else."""
    values = pd.to_numeric(frame[name], errors="coerce")
    if values.isna().any():
        line = values.index[values.isna()][0]
        raise InputError(
            f"{path}: line {line + 2}, column {name} is «{frame[name][line]}», expected a number; make the file again"
        )
    return values
