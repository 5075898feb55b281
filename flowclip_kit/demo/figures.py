"""Jointed figures in motion, drawn with numpy: the renderer of the demo world.

A figure has 11 joints. A pose is 9 absolute angles in degrees: the torso's lean (0 upright, 90 leaning
forward flat), then upper and lower part of near arm, far arm, near leg, far leg (0 hanging down, 90 forward,
180 up). Lengths are in body units (one figure is about one unit tall), x to the right, y up from the ground.
An action is a list of key frames; a time-reversed action is the same list run backwards, so both directions
show exactly the same set of stills.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

TORSO, ARM, LEG, HEAD = 0.30, 0.17, 0.25, 0.085  # lengths; HEAD is a radius
LIMB, TRUNK = 0.052, 0.082  # radii
WIDTH, HEIGHT = 80, 64  # pixels of a frame
MARGIN = 10  # pixels the camera may wander before the background ends

Pose = tuple[float, ...]  # nine angles
Point = tuple[float, float]
# x0, y0, x1, y1, radius (0: a box from corner to corner), name of a colour
Shape = tuple[float, float, float, float, float, str]
Shapes = tuple[list[Shape], list[Shape]]  # drawn behind and before


@dataclass(frozen=True)
class Key:
    """A key frame: pose, hip x, height above ground, prop's place ("hand" or a point), time to the next."""

    pose: Pose
    word: str
    x: float = 0.0
    lift: float = 0.0
    place: str | Point = "hand"
    span: float = 1.0


@dataclass(frozen=True)
class Action:
    """Key frames with what surrounds them. `backwards` runs the same key frames from last to first."""

    base: str
    keys: tuple[Key, ...]
    cyclic: bool = False
    prop: Callable[[dict[str, Point], State], Shapes] | None = None
    hangs: bool = False  # the hands, not the lowest joint, carry the body
    backwards: bool = False

    def reversed(self) -> Action:
        return replace(self, backwards=not self.backwards)

    def at(self, phase: float) -> State:
        """The figure at `phase` in [0, 1] (a cyclic action takes any number; one cycle has length 1)."""
        phase = 1 - phase if self.backwards else phase
        keys = self.keys + self.keys[:1] if self.cyclic else self.keys
        spans = [key.span for key in keys[:-1]]
        left = (phase % 1.0 if self.cyclic else min(max(phase, 0.0), 1.0)) * sum(spans)
        i = 0
        while i < len(spans) - 1 and left > spans[i]:
            left -= spans[i]
            i += 1
        a, b, u = keys[i], keys[i + 1], min(left / spans[i], 1.0)
        u = u * u * (3 - 2 * u)
        pose = tuple(p + u * (q - p) for p, q in zip(a.pose, b.pose, strict=True))
        x, lift = a.x + u * (b.x - a.x), a.lift + u * (b.lift - a.lift)
        return State(self, pose, x, lift, (a.place, b.place, u), a.word if u < 0.5 else b.word, phase)


@dataclass(frozen=True)
class State:
    """An action at one instant. `phase` counts from the first key frame, whichever way time runs."""

    action: Action
    pose: Pose
    x: float
    lift: float
    place: tuple[str | Point, str | Point, float]
    word: str
    phase: float

    def joints(self, bias: np.ndarray | None = None) -> dict[str, Point]:
        """The 11 joints, "grip" (the middle of both hands) and "prop" (the prop's place) in body units."""
        pose = self.pose if bias is None else [p + b for p, b in zip(self.pose, bias, strict=True)]
        s = [math.sin(math.radians(angle)) for angle in pose]
        c = [math.cos(math.radians(angle)) for angle in pose]
        neck = (TORSO * s[0], TORSO * c[0])
        points = {"hip": (0.0, 0.0), "neck": neck, "head": (neck[0] * 1.37, neck[1] * 1.37)}
        chains = (
            ("elbow", "hand", neck, 1, ARM),
            ("far_elbow", "far_hand", neck, 3, ARM),
            ("knee", "foot", (0.0, 0.0), 5, LEG),
            ("far_knee", "far_foot", (0.0, 0.0), 7, LEG),
        )
        for middle, end, (x, y), i, length in chains:
            points[middle] = (x + length * s[i], y - length * c[i])
            points[end] = (points[middle][0] + length * s[i + 1], points[middle][1] - length * c[i + 1])
        held = min(y for _, y in points.values()) - LIMB
        if self.action.hangs:
            held = max(points["hand"][1], points["far_hand"][1])
        points = {name: (x + self.x, y - held + self.lift) for name, (x, y) in points.items()}
        (ax, ay), (bx, by) = points["hand"], points["far_hand"]
        grip = points["grip"] = ((ax + bx) / 2, (ay + by) / 2)
        (px, py), (qx, qy) = (grip if isinstance(place, str) else place for place in self.place[:2])
        u = self.place[2]
        points["prop"] = (px + u * (qx - px), py + u * (qy - py))
        return points


def warped_phases(action: Action, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Phases (T,) of `frames` frames. Trim and speed are as likely as their mirror images in time."""
    even = np.linspace(0.0, 1.0, frames)
    bend = rng.uniform(-0.6, 0.6)
    warped = even + bend * np.sin(2 * np.pi * even) / (2 * np.pi)  # w(1-t) = 1 - w(t)
    if action.cyclic:
        return rng.uniform() + rng.uniform(1.2, 2.6) * warped
    begin, end = rng.uniform(0.0, 0.1, 2)
    return begin + (1 - begin - end) * warped


# --- shapes ---


def body(points: dict[str, Point]) -> Shapes:
    """Shapes of the far and of the near half of the body, in drawing order."""

    def limb(a: str, b: str, colour: str, radius: float = LIMB) -> Shape:
        return (*points[a], *points[b], radius, colour)

    def shoe(knee: str, foot: str, colour: str) -> Shape:
        (kx, ky), (fx, fy) = points[knee], points[foot]
        return (fx, fy, fx + 0.24 * (ky - fy), fy - 0.24 * (kx - fx), 0.045, colour)

    (nx, ny), (hx, hy), (x, y) = points["neck"], points["head"], points["hip"]
    back = ((ny - y) * 0.1, (x - nx) * 0.1)  # towards the back of the head, a third of its radius
    far = [
        limb("neck", "far_elbow", "far_shirt"),
        limb("far_elbow", "far_hand", "far_skin", 0.042),
        limb("hip", "far_knee", "far_trousers"),
        limb("far_knee", "far_foot", "far_trousers", 0.047),
        shoe("far_knee", "far_foot", "dark"),
    ]
    near = [
        (hx - back[0], hy - back[1] + 0.012, hx - back[0], hy - back[1] + 0.012, HEAD, "hair"),
        (hx, hy, hx, hy, HEAD - 0.008, "skin"),
        limb("hip", "knee", "trousers"),
        limb("knee", "foot", "trousers", 0.047),
        shoe("knee", "foot", "dark"),
        (*points["hip"], nx, ny - 0.01, TRUNK, "shirt"),
        limb("neck", "elbow", "shirt"),
        limb("elbow", "hand", "skin", 0.042),
    ]
    return far, near


def film(action: Action, nuisance: Nuisance, phases: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of an action at `phases` (T,), with everything else fixed by `nuisance`."""
    return np.stack([nuisance.frame(action.at(float(phase)), t) for t, phase in enumerate(phases)])


# --- places, colours, camera ---

COLOURS = {
    "red": (205, 45, 45), "orange": (240, 140, 40), "yellow": (240, 210, 60), "green": (50, 150, 70),
    "blue": (50, 90, 200), "purple": (135, 70, 165), "white": (238, 238, 232), "black": (38, 38, 44),
}  # fmt: skip
SKINS = ((247, 211, 178), (226, 178, 136), (188, 132, 92), (132, 88, 60))
HAIRS = ((45, 34, 28), (110, 72, 40), (205, 165, 90), (150, 150, 150))
PLACES = {  # sky or wall (top, bottom), ground, clutter
    "street": ((150, 185, 220), (205, 215, 222), (128, 128, 132),
               ((176, 160, 150), (150, 150, 165), (190, 178, 160))),
    "room": ((226, 205, 178), (232, 216, 196), (150, 104, 70),
             ((170, 130, 100), (120, 140, 150), (190, 120, 110))),
    "night": ((18, 22, 48), (44, 46, 84), (52, 50, 66),
              ((66, 62, 90), (96, 90, 70), (40, 44, 70))),
    "grass": ((120, 180, 232), (190, 220, 240), (92, 160, 74),
              ((60, 124, 62), (84, 140, 70), (120, 96, 66))),
    "gym": ((120, 170, 172), (150, 188, 186), (196, 150, 100),
            ((90, 130, 140), (160, 170, 176), (110, 110, 130))),
    "beach": ((96, 184, 226), (200, 234, 240), (232, 208, 156),
              ((232, 190, 120), (220, 120, 96), (110, 150, 110))),
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What a data set looks like: its places, and ranges of its nuisances (pixels, degrees, grey levels)."""

    places: tuple[str, ...]
    scale: tuple[float, float] = (33.0, 43.0)
    noise: tuple[float, float] = (5.0, 9.0)
    clutter: tuple[int, int] = (0, 5)
    light: tuple[float, float] = (0.8, 1.15)
    pose_noise: float = 6.0


class Nuisance:
    """All that varies between two films of one action, drawn once; after that `frame` is a pure function."""

    def __init__(self, look: Look, frames: int, rng: np.random.Generator, width: int = WIDTH) -> None:
        self.place = look.places[rng.integers(len(look.places))]
        self.shirt, self.trousers, self.prop = (list(COLOURS)[i] for i in rng.integers(len(COLOURS), size=3))
        self.scale = rng.uniform(*look.scale)
        self.near = self.scale > (look.scale[0] + look.scale[1]) / 2
        self.ground = HEIGHT - rng.uniform(5.0, 9.0)
        self.centre = width / 2 - 0.5 + rng.uniform(-6.0, 6.0)
        self.mirror = rng.uniform() < 0.5
        self.gain, self.offset = rng.uniform(*look.light), rng.uniform(-10.0, 10.0)
        self.bias = rng.normal(0.0, look.pose_noise, 9)
        # Centred over time: a walk that began at zero would be a clock, as frame 0 would never be shifted.
        walk = np.cumsum(rng.normal(0.0, 0.45, (frames, 2)), axis=0)
        self.camera = np.clip(np.rint(walk - walk.mean(axis=0)), -MARGIN + 1, MARGIN - 1).astype(int)
        self.palette = self._palette(rng)
        self.background = self._background(look, rng, width)
        self.width = width
        self.xs, self.ys = np.arange(width, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32)
        # One strip of noise, read from another start in every frame: fresh normals would cost half the time.
        self.strip = rng.standard_normal(3 * HEIGHT * width + (2048 if frames > 1 else 1), dtype=np.float32)
        self.strip *= rng.uniform(*look.noise)
        self.starts = rng.integers(len(self.strip) - 3 * HEIGHT * width, size=frames)

    def _palette(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        named = {
            "shirt": COLOURS[self.shirt], "trousers": COLOURS[self.trousers], "prop": COLOURS[self.prop],
            "skin": SKINS[rng.integers(len(SKINS))], "hair": HAIRS[rng.integers(len(HAIRS))],
            "dark": (42, 36, 40), "wood": (150, 100, 60), "metal": (150, 154, 164), "light": (242, 240, 230),
        }  # fmt: skip
        shades = rng.normal(0.0, 8.0, (len(named), 3))
        palette = {
            name: np.array(rgb) + shade for (name, rgb), shade in zip(named.items(), shades, strict=True)
        }
        palette |= {f"far_{name}": palette[name] * 0.78 for name in ("shirt", "trousers", "skin")}
        return {name: rgb.astype(np.float32)[:, None, None] for name, rgb in palette.items()}

    def _background(self, look: Look, rng: np.random.Generator, width: int) -> np.ndarray:
        high, wide = HEIGHT + 2 * MARGIN, width + 2 * MARGIN
        top, bottom, ground, clutter = PLACES[self.place]
        tint = rng.normal(0.0, 8.0, (3, 1))
        level = np.linspace(0.0, 1.0, high)
        column = np.array(top)[:, None] * (1 - level) + np.array(bottom)[:, None] * level + tint
        horizon = int(self.ground + MARGIN - rng.uniform(2.0, 9.0))
        column[:, horizon:] = np.array(ground)[:, None] + tint + np.linspace(8.0, -14.0, high - horizon)
        picture = np.repeat(column[:, :, None], wide, axis=2).astype(np.float32)
        for _ in range(rng.integers(look.clutter[0], look.clutter[1] + 1)):
            x, w, h = rng.integers(0, wide - 6), rng.integers(5, 16), rng.integers(5, 26)
            hung = self.place in ("room", "gym") and rng.uniform() < 0.5
            y = int(horizon - h - (rng.integers(12, 30) if hung else 0))
            colour = np.array(clutter[rng.integers(len(clutter))], np.float32)
            colour = colour + rng.normal(0.0, 10.0, 3).astype(np.float32)
            picture[:, max(y, 0) : y + h, x : x + w] = colour[:, None, None]
            if w > 8 and h > 10:  # a window or a picture frame
                picture[:, max(y, 0) + 2 : y + h // 2, x + 2 : x + w - 2] = colour[:, None, None] * 0.85 + 30
        return picture

    def frame(self, state: State, t: int) -> np.ndarray:
        """Frame `t` showing `state`: (H, W, 3) uint8."""
        dx, dy = (int(c) for c in self.camera[t])
        top, left = MARGIN + dy, MARGIN + dx
        canvas = self.background[:, top : top + HEIGHT, left : left + self.width].copy()
        points = state.joints(self.bias)
        far, near = body(points)
        behind, before = state.action.prop(points, state) if state.action.prop else ((), ())
        x, y, scale = self.centre - dx, self.ground - dy, self.scale
        for x0, y0, x1, y1, radius, colour in (*behind, *far, *near, *before):
            paint = self._capsule if radius else self._box
            ends = (x + scale * x0, y - scale * y0, x + scale * x1, y - scale * y1)
            paint(canvas, *ends, scale * radius, self.palette[colour])
        if self.mirror:
            canvas = canvas[:, :, ::-1]
        canvas = canvas * np.float32(self.gain) + np.float32(self.offset)
        canvas += self.strip[self.starts[t] : self.starts[t] + canvas.size].reshape(canvas.shape)
        np.maximum(canvas, 0, out=canvas)
        np.minimum(canvas, 255, out=canvas)
        return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 0))

    def _capsule(
        self, canvas: np.ndarray, ax: float, ay: float, bx: float, by: float, r: float, colour: np.ndarray
    ) -> None:
        """Blend all points nearer than `r` to the segment a-b, with an edge one pixel soft."""
        x0, x1 = max(int(min(ax, bx) - r - 1), 0), min(int(max(ax, bx) + r + 3), self.width)
        y0, y1 = max(int(min(ay, by) - r - 1), 0), min(int(max(ay, by) + r + 3), HEIGHT)
        if x0 >= x1 or y0 >= y1:
            return
        dx, dy = self.xs[x0:x1] - ax, self.ys[y0:y1, None] - ay
        ex, ey = bx - ax, by - ay
        norm = ex * ex + ey * ey
        if norm > 1e-6:
            along = dx * (ex / norm) + dy * (ey / norm)
            np.maximum(along, 0, out=along)
            np.minimum(along, 1, out=along)
            dx, dy = dx - along * ex, dy - along * ey
        alpha = dx * dx + dy * dy
        np.sqrt(alpha, out=alpha)
        np.subtract(r + 0.5, alpha, out=alpha)
        np.maximum(alpha, 0, out=alpha)
        np.minimum(alpha, 1, out=alpha)
        patch = canvas[:, y0:y1, x0:x1]
        patch += (colour - patch) * alpha

    def _box(
        self, canvas: np.ndarray, ax: float, ay: float, bx: float, by: float, _: float, colour: np.ndarray
    ) -> None:
        """Blend the upright box with corners a and b; its edges cover a pixel in part."""
        ax, bx, ay, by = min(ax, bx), max(ax, bx), min(ay, by), max(ay, by)
        x0, x1 = max(int(ax), 0), min(int(bx) + 2, self.width)
        y0, y1 = max(int(ay), 0), min(int(by) + 2, HEIGHT)
        if x0 >= x1 or y0 >= y1:
            return
        cover_x = np.clip(np.minimum(self.xs[x0:x1] - ax, bx - self.xs[x0:x1]) + 0.5, 0, 1)
        cover_y = np.clip(np.minimum(self.ys[y0:y1] - ay, by - self.ys[y0:y1]) + 0.5, 0, 1)
        patch = canvas[:, y0:y1, x0:x1]
        patch += (colour - patch) * (cover_y[:, None] * cover_x)
