"""Tidy tables: one row per run and metric, scores in percent, and which test videos each run names right; as
CSV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowclip_core.errors import InputError, NotFinite
from flowclip_core.files import write_atomically
from flowclip_kit import paths
from flowclip_kit.experiments.catalogue import ALL_TARGETS, Cell
from flowclip_kit.experiments.run_config import RunConfig

TIDY = (
    "target profile dataset role trained_on variant mmb map mcb T H s L prompt lr k seed split views metric"
    " value key"
).split()
WHOLE = ["mmb", "map", "mcb", "T", "H", "s", "L", "k", "seed", "split"]
VIDEOS = ["key", "n", "correct"]  # and top5, where it is known


def tidy_rows(
    target: str, profile: str, cell: Cell, record: dict, settings: Sequence[str] = ()
) -> list[dict]:
    """One row a metric of one run, with the columns of `TIDY`, and one of each further field of the model or
    the training that `settings` names (empty where nothing is trained).

    dataset: tested on; trained_on: the paper's name of what it was trained on, empty for frozen CLIP. T
    frames, H prompt vectors, s step, L differences (0 without motion stream). k: training videos a class, 0
    for all of them or
    none. split: the test's official number; 0 stands for training videos set aside.
    """
    config, model = cell.config, cell.config.model
    tested = config.transfer or config
    about = {
        "target": target,
        "profile": profile,
        "dataset": tested.dataset,
        "role": cell.role,
        "trained_on": (cell.trained_on or config.dataset) if config.train else "",
        "variant": cell.variant,
        **{switch: int(getattr(model, switch)) for switch in ("mmb", "map", "mcb")},
        "T": model.frames,
        "H": model.prompt_length,
        "s": model.step,
        "L": model.differences if model.mmb else 0,
        "prompt": model.prompt,
        "lr": config.train.lr if config.train else 0.0,
        "k": config.k or 0,
        "seed": config.seed,
        "split": 0 if config.held_out else tested.split,
        "views": config.evaluation.views,
    }
    rows = [{"metric": name, "value": value} for name, value in sorted(record["scores"].items())]
    more = {name: _setting(config, name) for name in settings}
    return [{**about, **row, "key": record["key"], **more} for row in rows]


def _setting(config: RunConfig, name: str) -> Any:
    value = getattr(config.model if hasattr(config.model, name) else config.train, name, "")
    return " ".join(value) if isinstance(value, tuple) else "" if value is None else value


def hit_row(record: dict) -> dict:
    """A run's row of the videos table: which test videos it names right, and for which the true name is among
    its first five, packed into hexadecimal digits; the second is empty where a record has no ranks."""
    predictions = record["predictions"].values()
    hits = np.array([label == predicted for label, predicted, *_ in predictions])
    among = np.array([said[3] < 5 for said in predictions if len(said) > 3], bool)
    return {"key": record["key"], "n": len(hits), "correct": _packed(hits), "top5": _packed(among)}


def _packed(hits: np.ndarray) -> str:
    return np.packbits(hits).tobytes().hex()


def hits_key(key: str, metric: str) -> str:
    """Where a run's hits by a metric stand: those of top-1 under its own key."""
    return key if metric == "top1" else f"{key} {metric}"


def among_five(key: str) -> str:
    """The key of a run's top-5 hits."""
    return hits_key(key, "top5")


def unpack(n: int, correct: str) -> np.ndarray:
    """The hits (N,) bool of a row that `hit_row` made. Raises ValueError when they are not n packed bits."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(correct), np.uint8)).astype(bool)
    if len(bits) != 8 * -(-n // 8) or bits[n:].any():
        raise ValueError(f"{len(bits)} bits for {n} videos")
    return bits[:n]


def by_key(hits: pd.DataFrame) -> dict[str, np.ndarray]:
    """Run key -> (N,) bool, the test videos that the run names right, and likewise `among_five`: rows of
    `hit_row`, unpacked."""
    found = {row.key: unpack(row.n, row.correct) for row in hits.itertuples()}
    known = hits[hits["top5"] != ""] if "top5" in hits else hits.iloc[:0]
    return found | {among_five(row.key): unpack(row.n, row.top5) for row in known.itertuples()}


def read_hits(path: Path) -> dict[str, np.ndarray]:
    """What `by_key` gives, of a file; in the order of the videos' names.

    Raises InputError when the file is absent or does not hold such rows.
    """
    found = {}
    table = read_csv(path, VIDEOS, "made by ./reproduce.sh", more=True)
    for line, row in enumerate(table.itertuples(False), 2):
        try:
            found[row.key] = unpack(int(row.n), row.correct)
            if among := getattr(row, "top5", ""):
                found[among_five(row.key)] = unpack(int(row.n), among)
        except ValueError:
            raise InputError(
                f"{path}: line {line} does not hold {row.n} packed bits; {_again(path, row.key)}"
            ) from None
    return found


def hits_csv(hits: pd.DataFrame) -> str:
    """The text of a videos table; runs in the order of their keys."""
    columns = [*VIDEOS, *(["top5"] if "top5" in hits else [])]
    return hits[columns].sort_values("key").to_csv(index=False, lineterminator="\n")


def read_tidy(path: Path) -> pd.DataFrame:
    """A results CSV in the columns of `TIDY` and any further ones, which stay text: one row per run and
    metric, value in percent.

    Raises InputError naming the file when it is absent, lacks a column or holds a value outside 0..100.
    """
    frame = read_csv(path, TIDY, "made by ./reproduce.sh", more=True)
    for name in [*WHOLE, "lr", "value"]:
        frame[name] = numbers(frame, name, path)
        if name in WHOLE and (frame[name] % 1 != 0).any():
            raise InputError(f"{path}: column {name} must hold whole numbers; {_again(path)}")
    wrong = frame[~frame["value"].between(0, 100)]
    if len(wrong):
        raise InputError(
            f"{path}: line {wrong.index[0] + 2} has value {wrong['value'].iloc[0]:g}, expected percent "
            f"between 0 and 100; {_again(path, wrong['key'].iloc[0])}"
        )
    return frame.astype(dict.fromkeys(WHOLE, int))


def save_tidy(tidy: pd.DataFrame, path: Path) -> Path:
    """Write results so that the same runs give the same bytes, whatever order they finished in.

    Values get 4 decimals. Raises InputError when a column of `TIDY` is missing.
    """
    return write_atomically(Path(path), tidy_csv(tidy))


def tidy_csv(tidy: pd.DataFrame) -> str:
    """The text that `save_tidy` writes. Raises InputError as it does, and NotFinite for a value that is no
    number."""
    missing = [name for name in TIDY if name not in tidy]
    if missing:
        raise InputError(f"results lack the columns {', '.join(missing)}; expected {','.join(TIDY)}")
    if not np.isfinite(tidy["value"]).all():
        row = tidy[~np.isfinite(tidy["value"])].iloc[0]
        raise NotFinite(f"run {row['key']}: its {row['metric']} is {row['value']}, so no table is written")
    columns = TIDY + [name for name in tidy if name not in TIDY]
    rows = tidy[columns].sort_values([name for name in TIDY if name != "value"], kind="stable")
    texts = {"value": rows["value"].map("{:.4f}".format), "lr": rows["lr"].map("{:g}".format)}
    return rows.assign(**texts).to_csv(index=False, lineterminator="\n")


def read_csv(path: Path, columns: list[str], origin: str, more: bool = False) -> pd.DataFrame:
    """The named columns of a CSV as text. Raises InputError when it is absent, broken, empty, or lacks one.

    origin: where such a file comes from, for the message. more: any further columns too.
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
        raise InputError(f"{path}: not a CSV table ({why}); {_again(path)}") from None
    missing = [name for name in columns if name not in frame]
    if missing or frame.empty:
        what = f"lacks column {', '.join(missing)}" if missing else "has no rows"
        raise InputError(f"{path}: {what}; expected {','.join(columns)} and at least one row")
    return frame[columns + [name for name in frame if more and name not in columns]]


def numbers(frame: pd.DataFrame, name: str, path: Path) -> pd.Series:
    """Column `name` as numbers. Raises InputError naming the first line that holds something else."""
    values = pd.to_numeric(frame[name], errors="coerce")
    if values.isna().any():
        line = values.index[values.isna()][0]
        raise InputError(
            f"{path}: line {line + 2}, column {name} is '{frame[name][line]}', expected a number;"
            f" {_again(path, frame['key'][line] if 'key' in frame else '')}"
        )
    return values


def _again(path: Path, key: str = "") -> str:
    """What mends a table. key: of the run that a wrong line is of: from a wrong record it would be as wrong
    again."""
    printed = paths.root() / "results"
    if {printed / "paper", printed / "recorded"} & {*path.absolute().parents}:
        return f"it is in git, which has it as it was: git checkout -- {path}"
    target, record = path.name.partition(".")[0], path.parent.parent / "runs" / f"{key}.json"
    again = f"run ./reproduce.sh {target if target in ALL_TARGETS else 'all'} again"
    return f"delete {record} if it says the same, then {again}" if key and record.exists() else again
