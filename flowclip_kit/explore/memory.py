"""Remember answers: an explorer asks the same of the same model at every move of a control."""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pandas as pd

MOST = 128  # answers kept for each function and model
Answer = TypeVar("Answer")


def key_of(value: Any) -> Any:
    """What a value is compared by: arrays by shape and bytes, tables by their content."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, pd.DataFrame | pd.Series):
        return value.to_csv()
    return tuple(map(key_of, value)) if isinstance(value, list | tuple) else value


def remember(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Keep the latest answers of `function(model, *args)`, for each model; they are shared, so read-only.

    Arguments are compared by content, so no clip is taken for another. A model whose parameters have
    changed in place since, by training say, is asked again.
    """
    answers: weakref.WeakKeyDictionary[Any, OrderedDict] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembered(model: Any, *args: Any) -> Answer:
        version = sum(parameter._version for parameter in model.parameters())
        key = version, key_of(args)
        known = answers.setdefault(model, OrderedDict())
        if key not in known:
            known[key] = function(model, *args)
            if len(known) > MOST:
                known.popitem(last=False)
        known.move_to_end(key)
        return known[key]

    return remembered
