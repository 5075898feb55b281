"""What is known of a method without torch: its name, where it is, how its authors train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from flowclip_core.config import TrainConfig
from flowclip_core.errors import InputError

if TYPE_CHECKING:
    from flowclip_core.model.backbone import Backbone
    from flowclip_kit.rivals.contract import Rival


@dataclass(frozen=True)
class Recipe(TrainConfig):
    """How a rival is trained: a cosine schedule behind a warm-up, and cross-entropy.

    warm_up: share of the steps; they rise linearly to `lr`, or stay at `warm_up_lr` where that is given.
    """

    optimiser: str = "sgd"  # or "adamw"
    warm_up: float = 0.0
    warm_up_lr: float | None = None
    smoothing: float = 0.0  # of the labels

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimiser not in ("sgd", "adamw"):
            raise InputError(f"optimiser={self.optimiser!r} is not one of sgd, adamw")
        for name in ("warm_up", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 0 and below 1")


@dataclass(frozen=True)
class Method:
    """A method that runs can name.

    home: "module:Class" of its `Rival`. recipe: its authors', None where nothing is trained. frames: the T
    they take. unseen: whether it can name classes that it was not trained on. fewer: (k, epochs) where they
    train for other epochs below k videos a class, smallest k first; a warm-up lasts as many epochs as before.
    """

    home: str
    recipe: Recipe | None = None
    frames: int = 8
    unseen: bool = False
    fewer: tuple[tuple[int, int], ...] = ()

    @property
    def kind(self) -> type[Rival]:
        module, name = self.home.split(":")
        return getattr(import_module(module), name)

    def published(self, k: int | None) -> Recipe | None:
        """The authors' recipe for k training videos a class (None: all of them)."""
        for below, epochs in self.fewer:
            if k is not None and k < below and self.recipe is not None and self.recipe.epochs:
                warm_up = self.recipe.warm_up * self.recipe.epochs / epochs
                return replace(self.recipe, epochs=epochs, warm_up=warm_up)
        return self.recipe

    def __call__(
        self, backbone: Backbone, class_texts: Sequence[str], seed: int = 0, frames: int | None = None
    ) -> Rival:
        """See `Rival`; frames: T, by default its authors'."""
        return self.kind(backbone, class_texts, seed, frames or self.frames)
