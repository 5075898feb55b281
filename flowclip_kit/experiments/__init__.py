"""Experiments: from a target and its knobs to finished runs and their table.

The names are imported when they are first used: the command line's help needs the catalogue and no packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    **dict.fromkeys(("Experiment", "Options"), "experiment"),
    **dict.fromkeys(("Result", "ensure", "ensure_all", "own_call"), "runs"),
    **dict.fromkeys(
        (
            "OwnRun",
            "load",
            "model_note",
            "own_runs",
            "pair_share",
            "provenance_json",
            "results_folder",
            "sealed",
        ),
        "loading",
    ),
}
__all__ = list(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"flowclip_kit.experiments.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
