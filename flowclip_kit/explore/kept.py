"""What was computed a moment ago. An explorer asks the same of the same model at every move of a control."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import nn

MOST = 128  # answers kept for one model
T = TypeVar("T")


class Answers:
    """The latest answers about one model, by what was asked; the oldest go. They are shared: nobody writes
    into them.

    What is asked is compared by value, arrays by their bytes, so that no clip is taken for another.
    """

    def __init__(self, model: nn.Module) -> None:
        self._values = [*model.parameters()]  # looked for once: that costs more than most answers
        self._state, self.known = self._versions(), OrderedDict()

    def _versions(self) -> list[int]:
        return [value._version for value in self._values]

    @property
    def stale(self) -> bool:
        """Whether a parameter was changed in place since."""
        return self._state != self._versions()

    def ask(self, what: str, *given: object, make: Callable[[], T]) -> T:
        """The answer to `what` about `given`: arrays, strings, numbers, tuples of them; made where it is not
        known."""
        key = _key(what, given)
        if key not in self.known:
            self.known[key] = make()
            if len(self.known) > MOST:
                self.known.popitem(last=False)
        self.known.move_to_end(key)
        return self.known[key]

    def has(self, what: str, *given: object) -> bool:
        """Whether the answer is known."""
        return _key(what, given) in self.known


def _key(what: str, given: tuple) -> tuple:
    return (what, *((one.shape, one.tobytes()) if isinstance(one, np.ndarray) else one for one in given))


_answers: weakref.WeakKeyDictionary[nn.Module, Answers] = weakref.WeakKeyDictionary()


def answers(model: nn.Module) -> Answers:
    """What is known of a model or a backbone as it is: after a change of its parameters, nothing."""
    if model not in _answers or _answers[model].stale:
        _answers[model] = Answers(model)
    return _answers[model]
