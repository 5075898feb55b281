"""The reproduction kit for "Seeing in Flowing": the paper's experiments, and any of your own.

`run` and `ablate` are the experiments from Python (see `flowclip_kit.studies`), `knobs` lists what they take.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ablate", "knobs", "run"]


def __getattr__(name: str) -> Any:
    """The public functions, loaded when first asked for: the command line starts without pandas."""
    if name in __all__:
        import importlib

        return getattr(importlib.import_module("flowclip_kit.studies"), name)
    raise AttributeError(f"module 'flowclip_kit' has no attribute {name!r}")
