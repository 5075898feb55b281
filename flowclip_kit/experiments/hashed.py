"""Recorded studies that no stored runs give again: since that takes minutes, `verify` looks at a hash."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from flowclip_core.files import sha256, write_atomically
from flowclip_kit.paths import root

STUDIES = ("rates", "linear_prompts", "thumbnails", "pretraining")


def recorded(study: str, profile: str = "demo") -> Path:
    """Where a study is recorded."""
    return root() / "results" / "recorded" / profile / f"{study}.csv"


def record(study: str, profile: str, table: pd.DataFrame | str) -> Path:
    """Record a study and its hash. table: numbers get 4 decimals; or the CSV as it is to be."""
    if not isinstance(table, str):
        table = table.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    path = write_atomically(recorded(study, profile), table)
    write_atomically(path.with_suffix(".sha256"), f"{sha256(path)}  {path.name}\n")
    return path
