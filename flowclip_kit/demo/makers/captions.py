"""Captions of single stills. They describe what one frame shows and cannot tell which way time runs.

A still knows its action by the action's base name, the same for both classes of a time-reversed pair, so
nothing that is said can depend on the direction. The verbs of a pair are drawn by a coin (throw or catch; sit
or stand by the pose of that very frame), and "up" and "down" are never said of such a frame; other frames say
them ("push up", "arms down", "upside down").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowclip_kit.demo.actions import ACTIONS
from flowclip_kit.demo.figures import COLOURS, Nuisance, State
from flowclip_kit.demo.world import CLASSES

PEOPLE = ("a person", "a man", "a woman", "a figure", "someone", "the person")
FRAMES = (
    "{}", "{}.", "a photo of {}.", "a picture of {}.", "a still of {}", "this is {}", "human action of {}.",
    "a human action of {}.", "a common human action of {}.", "the common human action of {}.",
    "a popular human action of {}.",
)  # fmt: skip
PLACE_WORDS = {
    "street": "on the street", "room": "in a room", "night": "at night", "grass": "on the grass",
    "gym": "in a gym", "beach": "on the beach",
}  # fmt: skip
# base action -> what one says of it; sit is decided by the pose, see `action_words`
VERBS = {
    "climb": ("climb", "climbing"), "pick box": ("pick box", "put box"), "fall": ("fall", "get"),
    "throw ball": ("throw ball", "catch ball"), "lift barbell": ("lift barbell", "lower barbell"),
    "push cart": ("push cart", "pull cart"), "raise flag": ("raise flag", "lower flag"),
    "wave": ("wave", "waving"), "clap": ("clap", "clapping"), "punch": ("punch", "punching"),
    "kick ball": ("kick ball", "kicking a ball"), "run": ("run", "running"),
    "push up": ("push up", "push up face down"),
}  # fmt: skip
PROP_WORDS = {
    "sit": "chair", "climb": "ladder", "pick box": "box", "throw ball": "ball", "lift barbell": "barbell",
    "push cart": "cart", "raise flag": "flag", "kick ball": "ball", "golf swing": "club",
    "basketball dribble": "ball", "archery": "bow", "pull ups": "bar", "boxing": "bag",
    "jogging": "treadmill", "soccer kick": "ball", "jump rope": "rope", "hammering": "hammer",
    "sweeping": "broom", "fencing": "sword", "juggling": "balls", "drumming": "drum",
}  # fmt: skip
PAIRED = frozenset(base for table in CLASSES.values() for base, backwards in table.values() if backwards)


@dataclass(frozen=True)
class Still:
    """All that a caption may mention of one frame."""

    base: str
    word: str
    arms: str
    shirt: str
    trousers: str
    prop: str
    place: str
    near: bool


def describe(state: State, nuisance: Nuisance) -> Still:
    """What can be said of a frame."""
    arms = ""
    if max(state.pose[1], state.pose[3]) > 130:
        arms = "arms up"
    elif max(state.pose[1:5]) < 30:
        arms = "arms down"
    seen = (nuisance.shirt, nuisance.trousers, nuisance.prop, nuisance.place, nuisance.near)
    return Still(state.action.base, state.word, arms, *seen)


def action_words(still: Still) -> tuple[str, ...]:
    """What the action in this still may be called."""
    if still.base == "sit":
        return {"sitting": ("sit", "sitting"), "standing": ("stand", "standing")}.get(
            still.word, ("sit", "stand")
        )
    return VERBS.get(still.base, (still.base,))


def caption(still: Still, rng: np.random.Generator) -> str:
    """A caption drawn anew: frame, person, perhaps the action, up to four attributes in any order."""
    chance = rng.random(10)
    thing = PROP_WORDS.get(still.base)
    sayable = (
        (0.6, still.word),
        (0.6, f"in a {still.shirt} shirt"),
        (0.2, f"in {still.trousers} trousers"),
        (0.5, thing and f"with {'' if thing == 'balls' else 'a '}{still.prop} {thing}"),
        (0.5, PLACE_WORDS[still.place]),
        (0.15, "close" if still.near else "far away"),
        (0.25, still.arms if still.base not in PAIRED else ""),
    )
    attributes = [words for p, (often, words) in zip(chance, sayable, strict=False) if words and p < often]
    rng.shuffle(attributes)
    attributes = attributes[:4]
    person = PEOPLE[rng.integers(len(PEOPLE))]
    if chance[7] < 0.7:
        choices = action_words(still)
        action = choices[rng.integers(len(choices))]
        if chance[8] < 0.3:  # keywords only; half of them nothing but the action, as in a prompt
            parts = [action, *attributes[:1]] if chance[9] < 0.5 else [action]
        elif chance[9] < 0.5:
            parts = [person, action, *attributes]
        else:
            parts = [person, *attributes, action]
    else:
        parts = [person, *attributes]
    return FRAMES[rng.integers(len(FRAMES))].format(" ".join(parts))


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted; "." included."""
    poses = [key.word for action in ACTIONS.values() for key in action.keys]
    texts = [*PEOPLE, *FRAMES, *PLACE_WORDS.values(), *PROP_WORDS.values(), *COLOURS, *ACTIONS, *poses]
    texts += [text for choices in VERBS.values() for text in choices]
    texts += ["sit sitting stand standing with a in shirt trousers close far away arms up down"]
    return sorted({word for text in texts for word in text.replace("{}", " ").replace(".", " . ").split()})
