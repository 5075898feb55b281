"""Settings: every choice that decides a number is a named field here, with the paper's value as its default.

A variant changes one field (`dataclasses.replace`); the kit names a run by a hash of all of them.
"""

from __future__ import annotations

import functools
import math
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass

from flowclip_core.errors import InputError

# Hand-crafted prompts A, B, C (Table 1); the number of words is the number H of prompt vectors.
PROMPTS = {3: "human action of", 4: "a human action of", 5: "a common human action of"}
# The demo's embedded model, the one backbone that is no open_clip name.
TINY = "tiny-clip"
# What the image tower may compute in.
PRECISIONS = ("float32", "bfloat16", "float16")
# Views of a frame that can be stored: the ends and the middle of its long side, and the middle mirrored.
CROPS = ("left", "centre", "right", "mirrored")
# Beyond these a setting is a slip or an attack, not a choice: a model of that size could not even be built.
MOST_FRAMES, MOST_DIFFERENCES, MOST_HEADS, WIDEST_ADAPTER, LONGEST_PROMPT = 1024, 2**13, 1024, 2**16, 1000


def need_choice(name: str, value: str, *allowed: str) -> None:
    """Raises InputError unless the value is one of those allowed."""
    if value not in allowed:
        raise InputError(f"{name}={value!r} is not one of {', '.join(allowed)}")


def need_range(name: str, value: float | None, least: float, most: float = math.inf) -> None:
    """Raises InputError unless the value, if there is one, is `least` to `most`."""
    if value is not None and not least <= value <= most:
        raise InputError(
            f"{name}={value} must be {least} " + ("or more" if most == math.inf else f"to {most}")
        )


def need_crops(name: str, crops: Sequence[str]) -> None:
    """Raises InputError unless `crops` names at least one crop that can be stored, and none twice."""
    if not crops or len(set(crops)) < len(crops) or not set(crops) <= set(CROPS):
        raise InputError(f"{name}={tuple(crops)} must be some of {', '.join(CROPS)}, each once")


_hints = functools.cache(typing.get_type_hints)


def need_types(settings: typing.Any) -> None:
    """Raises InputError for a field of a settings class that is of another type than declared, or not finite.

    A list, as JSON has them, becomes the tuple that it stands for.
    """
    for name, hint in _hints(type(settings)).items():  # type: ignore[arg-type]  # a class has a hash
        value = getattr(settings, name)
        if isinstance(value, list) and typing.get_origin(hint) is tuple:
            object.__setattr__(settings, name, value := tuple(value))
        if not _fits(value, hint):
            declared = type(settings).__annotations__[name]
            finite = " and finite" if isinstance(value, float) and _fits(0.0, hint) else ""
            raise InputError(
                f"{name}={value!r:.60} must be {declared}{finite} (in {type(settings).__name__})"
            )


def _fits(value: object, hint: typing.Any) -> bool:
    """Whether a value is of an annotated type: True is no number, an int also a float, a float finite."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, option) for option in inside)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, inside[0]) and _fits(item, inside[1]) for key, item in value.items()
        )
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        hints = [inside[0]] * len(value) if inside[-1] is ... else inside
        return len(value) == len(hints) and all(map(_fits, value, hints))
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
    return type(value) is hint if hint in (int, bool) else isinstance(value, hint)


@dataclass(frozen=True)
class ModelConfig:
    """The parts that are on, their sizes, and every open reading of the paper (section 3).

    Three switches make the rows of Tables 4 and 5: `mmb` (section 3.2), `map` (3.3), `mcb` (3.4). `map`
    without `mmb` has no motion to follow: its prompts are learnt but the same for every video.
    """

    mmb: bool = True  # the motion stream beside the spatial one, Eq. 4 to 6
    map: bool = True  # learnt prompt vectors, shifted by the motion of each video, Eq. 7
    mcb: bool = True  # cross-attention between video and texts before they are matched, Eq. 2
    spatial: bool = True  # False: mean of the frame features, the paper's CLIP row
    frames: int = 8  # T
    step: int = 4  # s, the largest distance between the two frames of a difference
    prompt: str = PROMPTS[5]  # hand-crafted words; with `map` they initialise P_1..P_H, one vector a word
    heads: int = 8  # of every attention; not stated, 64 wide each in CLIP
    adapter_width: int = 32  # of the motion adapter: the largest power of two that fits Table 3; 0: none
    adapter_start: str = "random"  # its output layer; or "zero": the prompts are not shifted at first
    activation: str = "relu"  # of the streams' feed-forward nets; or "gelu", as in CLIP's own blocks
    norm_order: str = "pre"  # or "post": section 3.2 says only "standard architecture"
    positions: str = "none"  # or "learned": the paper names no positional code in the two streams
    position_std: float = 0.01  # of learnt positions at first, as CLIP's own; frame features have some 1.3
    video_tokens: str = "pooled"  # or "sequence": what the texts attend to in the communication block
    residual: bool = False  # True: the mean frame feature is added to V; Eq. 6 has no such term
    tau: float = 0.07  # Eq. 3; CLIP itself ends at 0.01
    head: str = "text"  # or "linear": learnt class vectors instead of texts, a control the paper lacks

    def __post_init__(self) -> None:
        need_types(self)
        need_choice("norm_order", self.norm_order, "pre", "post")
        need_choice("positions", self.positions, "none", "learned")
        need_choice("adapter_start", self.adapter_start, "random", "zero")
        need_choice("activation", self.activation, "relu", "gelu")
        need_range("position_std", self.position_std, 0)
        need_choice("video_tokens", self.video_tokens, "pooled", "sequence")
        need_choice("head", self.head, "text", "linear")
        need_range("frames", self.frames, 2, MOST_FRAMES)
        need_range("heads", self.heads, 1, MOST_HEADS)
        need_range("adapter_width", self.adapter_width, 0, WIDEST_ADAPTER)  # 0: no adapter
        if not 1 <= self.step < self.frames:
            raise InputError(
                f"step s={self.step} needs 1 <= s <= T-1 with T={self.frames} frames (section 3.2)"
            )
        if self.differences > MOST_DIFFERENCES:
            raise InputError(
                f"step={self.step} and frames={self.frames} make {self.differences} frame differences,"
                f" expected at most {MOST_DIFFERENCES}; take a smaller step"
            )
        if self.tau <= 0:
            raise InputError(f"tau={self.tau} must be above 0")
        if not self.prompt.split() or len(self.prompt) > LONGEST_PROMPT:
            raise InputError(
                f"prompt={self.prompt!r:.60} must have words, in at most {LONGEST_PROMPT} characters"
            )
        if self.mmb and not self.spatial:
            raise InputError("mmb=True needs spatial=True: Eq. 6 adds both streams")
        if self.head == "linear" and (self.map or self.mcb):
            raise InputError("head='linear' has no texts, so map and mcb must be off")

    @property
    def differences(self) -> int:
        """L, the number of frame differences: sum of T-d over the distances d = 1..s (Eq. 5)."""
        return self.step * self.frames - self.step * (self.step + 1) // 2

    @property
    def prompt_length(self) -> int:
        """H, the number of words of the hand-crafted prompt and so of prompt vectors."""
        return len(self.prompt.split())


@dataclass(frozen=True)
class TrainConfig:
    """SGD with a cosine schedule (section 4.1). Exactly one of `steps` and `epochs` says how long."""

    lr: float = 0.0015
    batch: int = 32
    epochs: int | None = 50  # the paper prints only 10 for Kinetics-400; peers use 50 elsewhere
    steps: int | None = None
    momentum: float = 0.9  # not stated; the usual value
    weight_decay: float = 0.0  # not stated
    warmup: float = 0.0  # share of the steps in which the rate rises in a line; not stated
    jitter: int | None = None  # stored frames that a T-segment offers a draw; None: all of it
    crops: tuple[str, ...] = CROPS  # stored views that training draws from

    def __post_init__(self) -> None:
        need_types(self)
        if (self.steps is None) == (self.epochs is None):
            raise InputError(f"give either steps or epochs, got steps={self.steps} and epochs={self.epochs}")
        for name in ("lr", "weight_decay"):
            need_range(name, getattr(self, name), 0)
        for name in ("batch", "epochs", "steps"):
            need_range(name, getattr(self, name), 1)
        need_range("jitter", self.jitter, 1)
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup={self.warmup} must be at least 0 and below 1, a share of the steps")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum={self.momentum} must be at least 0 and below 1")
        need_crops("crops", self.crops)

    def total_steps(self, videos: int) -> int:
        """Number of optimiser steps when one epoch sees `videos` videos."""
        return self.steps or (self.epochs or 0) * -(-videos // self.batch)

    def rate(self, step: int, total: int) -> float:
        """Learning rate of a step, from 0, of `total`: a cosine from lr to 0, times the rise of `warmup`."""
        rise = min(1.0, (step + 1) / (self.warmup * total)) if self.warmup else 1.0
        return 0.5 * self.lr * (1 + math.cos(math.pi * step / total)) * rise


@dataclass(frozen=True)
class EvalConfig:
    """The test views: `clips` draws of T frames times `crops`, fused by adding their softmax scores.

    One clip is the middle stored frame of each T-segment; more clips are seeded random draws (section 4.1:
    "randomly sample 4 clips in a video and crop frames 3 times").
    """

    clips: int = 4
    crops: tuple[str, ...] = ("left", "centre", "right")
    seed: int = 0
    controls: bool = False  # also score with the test frames shuffled, reversed, and one frame repeated

    def __post_init__(self) -> None:
        need_types(self)
        need_range("clips", self.clips, 1)
        need_range("seed", self.seed, 0)
        need_crops("crops", self.crops)

    @property
    def views(self) -> str:
        return f"{self.clips}x{len(self.crops)}"
