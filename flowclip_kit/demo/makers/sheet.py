"""A contact sheet of the demo world: `python -m flowclip_kit.demo.makers.sheet OUT.png [--all]`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from flowclip_kit.demo.figures import Nuisance, film
from flowclip_kit.demo.world import CLASSES, LOOKS, action_of, spaced

SHOWN = {
    "figures-h": [*list(CLASSES["figures-h"])[:10], "kick_ball", "push_up"],
    "figures-u": [
        *list(CLASSES["figures-u"])[:6],
        *("GolfSwing", "Archery", "Cartwheel", "PullUps", "JumpRope", "Fencing"),
    ],
}

GAP = 3  # white pixels between two frames


def strip(name: str, label: str, seed: int, frames: int = 5) -> np.ndarray:
    """Stills of a class side by side, from first to last phase: (64, frames * (80 + GAP) - GAP, 3) uint8."""
    rng = np.random.default_rng(seed)
    action = action_of(name, label)
    nuisance = Nuisance(LOOKS[name], frames, rng)
    nuisance.mirror = False
    nuisance.strip *= 0.35  # full noise would double the size of the picture
    end = (frames - 1) / frames if action.cyclic else 1.0
    stills = film(action, nuisance, np.linspace(0, end, frames))
    padded = [np.pad(still, ((0, 0), (0, GAP), (0, 0)), constant_values=255) for still in stills]
    return np.concatenate(padded, 1)[:, :-GAP]


def contact_sheet(shown: dict[str, list[str]] | None = None, seed: int = 31, columns: int = 2):
    """A PIL picture: a line of stills per class, sets one under the other or side by side, 128 colours."""
    from PIL import Image, ImageDraw

    lines = [(name, label) for name, labels in (shown or SHOWN).items() for label in labels]
    rows = -(-len(lines) // columns)
    wide, high, text = 5 * (80 + GAP) - GAP, 64 + 3, 112
    sheet = Image.new("RGB", (columns * (wide + text) + 8, rows * high + 3), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, label) in enumerate(lines):
        x, y = (i // rows) * (wide + text) + 4, (i % rows) * high + 3
        draw.text((x, y + 18), f"{name}\n{spaced(label)}", fill="black")
        sheet.paste(Image.fromarray(strip(name, label, seed + i)), (x + text - 4, y))
    return sheet.quantize(128, dither=Image.Dither.NONE)


def main(arguments: list[str]) -> int:
    everything = "--all" in arguments
    paths = [a for a in arguments if not a.startswith("--")]
    if len(paths) != 1:
        print("usage: python -m flowclip_kit.demo.makers.sheet OUT.png [--all]", file=sys.stderr)
        return 2
    shown = {name: list(CLASSES[name]) for name in LOOKS} if everything else None
    contact_sheet(shown).save(Path(paths[0]), optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
