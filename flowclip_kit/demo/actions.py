"""Poses, props and actions of the demo world: plain tables for the renderer (figures.py)."""

from __future__ import annotations

from itertools import pairwise
from math import cos, radians, sin

from flowclip_kit.demo.figures import Action, Key, Point, Pose, Shape, Shapes, State

#                     lean   near arm   far arm    near leg   far leg     what one still of it is called
POSES: dict[str, tuple[Pose, str]] = {
    "stand": ((0, 8, 15, -8, 0, 5, 0, -5, -3), "standing"),
    "sit": ((4, 30, 62, 22, 55, 88, 0, 82, -5), "sitting"),
    "half_sit": ((38, 55, 75, 45, 65, 58, -28, 52, -32), "bending"),
    "climb": ((8, 155, 175, 100, 150, 72, 0, 5, -12), "climbing"),
    "climb_other": ((8, 100, 150, 155, 175, 5, -12, 72, 0), "climbing"),
    "bend": ((92, 10, 5, 16, 12, 38, -22, 32, -26), "bending"),
    "hold": ((-4, 18, 88, 10, 82, 5, 0, -5, -3), "standing"),
    "ready": ((0, 25, 110, 15, 30, 12, 0, -12, -10), "standing"),
    "wind": ((-14, 200, 245, 70, 85, 35, 20, -14, -22), "leaning"),
    "release": ((14, 120, 128, -10, 10, 28, 5, -25, -40), "leaning"),
    "follow": ((28, 48, 55, -35, -15, 35, -8, -30, -50), "leaning"),
    "stumble": ((28, 65, 85, 45, 70, 28, -32, 12, -45), "bending"),
    "kneel": ((45, 60, 70, 40, 50, 25, -80, 15, -86), "kneeling"),
    "prone": ((86, 125, 150, 110, 140, -86, -90, -90, -92), "lying"),
    "wave": ((0, 150, 150, -8, 0, 5, 0, -5, -3), "standing"),
    "wave_other": ((0, 158, 222, -8, 0, 5, 0, -5, -3), "standing"),
    "clap_open": ((0, 105, 150, 35, 60, 6, 0, -6, -3), "standing"),
    "clap_shut": ((2, 58, 105, 52, 102, 6, 0, -6, -3), "standing"),
    "swing_back": ((8, -35, -5, 60, 80, -38, -92, 5, -5), "kicking"),
    "swing_front": ((-16, -45, -25, 55, 75, 72, 62, -6, -10), "kicking"),
    "guard": ((6, 35, 140, 50, 150, 20, -5, -20, -28), "standing"),
    "jab": ((16, 90, 90, 35, 140, 28, 0, -25, -35), "standing"),
    "jab_other": ((16, 35, 140, 90, 90, 28, 0, -25, -35), "standing"),
    "run": ((18, -55, 30, 50, 140, 66, -5, -28, -80), "running"),
    "run_pass": ((18, 0, 85, 5, 90, 5, -8, 35, -95), "running"),
    "run_other": ((18, 50, 140, -55, 30, -28, -80, 66, -5), "running"),
    "run_pass_other": ((18, 5, 90, 0, 85, 35, -95, 5, -8), "running"),
    "plank": ((68, 4, 0, 8, 4, -60, -62, -60, -62), "lying"),
    "plank_low": ((84, -75, 10, -70, 12, -78, -80, -78, -80), "lying"),
    "low_squat": ((62, 6, 2, 10, 6, 78, -28, 72, -32), "crouching"),
    "rack": ((0, 35, 150, 30, 145, 12, -6, -6, -10), "standing"),
    "overhead": ((0, 172, 178, 178, 182, 8, 0, -8, -4), "standing"),
    "shove": ((26, 62, 74, 56, 70, 42, 8, -32, -48), "leaning"),
    "shove_other": ((26, 62, 74, 56, 70, -32, -48, 42, 8), "leaning"),
    "haul": ((0, 140, 165, 50, 110, 8, 0, -8, -4), "standing"),
    "haul_other": ((0, 50, 110, 140, 165, 8, 0, -8, -4), "standing"),
    "star": ((0, 140, 150, -140, -150, 28, 26, -28, -26), "jumping"),
    "straight": ((0, 12, 8, -12, -8, 4, 2, -4, -2), "standing"),
    "address": ((38, 12, 8, 16, 12, 14, -8, 4, -10), "bending"),
    "backswing": ((20, -95, -125, -88, -118, 14, -8, 4, -10), "standing"),
    "finish": ((-6, 140, 205, 130, 195, 8, -2, -10, -30), "standing"),
    "dribble": ((16, 35, 95, 10, 40, 30, -14, -8, -34), "standing"),
    "dribble_low": ((20, 30, 62, 10, 40, 32, -16, -8, -36), "standing"),
    "bow_rest": ((0, 55, 60, 40, 65, 14, 0, -14, -6), "standing"),
    "bow_draw": ((-3, 90, 90, -85, 86, 16, 0, -16, -6), "standing"),
    "bow_aim": ((-3, 90, 90, 60, 100, 16, 0, -16, -6), "standing"),
    "hang": ((0, 174, 180, 182, 184, 8, -30, 2, -36), "hanging"),
    "chin": ((-4, 75, 178, 68, 184, 14, -42, 8, -48), "hanging"),
    "squat_arms": ((0, 88, 90, 86, 88, 6, 0, -4, -3), "standing"),
    "squat": ((36, 88, 90, 86, 88, 92, -26, 86, -30), "crouching"),
    "lunge": ((0, 35, -60, 30, -60, 84, 0, -16, -84), "kneeling"),
    "hips": ((0, 35, -60, 30, -60, 5, 0, -5, -3), "standing"),
    "lunge_other": ((0, 35, -60, 30, -60, -16, -84, 84, 0), "kneeling"),
    "skip": ((0, 22, 72, -22, -72, 10, -12, 2, -18), "jumping"),
    "hammer_up": ((4, 150, 205, 30, 60, 16, -4, -14, -20), "standing"),
    "hammer_down": ((26, 48, 70, 35, 60, 22, -6, -16, -26), "bending"),
    "sweep": ((18, 30, 50, 50, 66, 16, 0, -16, -24), "standing"),
    "sweep_far": ((30, 58, 72, 66, 78, 22, 0, -20, -32), "bending"),
    "en_garde": ((0, 50, 105, -120, -190, 38, -4, -26, -44), "standing"),
    "thrust": ((20, 88, 90, -75, -70, 82, 2, -52, -58), "leaning"),
    "juggle": ((-4, 20, 112, 15, 62, 6, 0, -6, -3), "standing"),
    "juggle_other": ((-4, 20, 62, 15, 112, 6, 0, -6, -3), "standing"),
    "drum": ((10, 30, 118, 30, 70, 86, 0, 78, -6), "sitting"),
    "drum_other": ((10, 30, 70, 30, 118, 86, 0, 78, -6), "sitting"),
}


def key(pose: str, x: float = 0.0, lift: float = 0.0, place: str | Point = "hand", span: float = 1.0) -> Key:
    angles, word = POSES[pose]
    return Key(angles, word, x, lift, place, span)


def turned(pose: str, degrees: float, word: str, x: float = 0.0) -> Key:
    """The whole pose rolled forward by `degrees`."""
    lean, *limbs = POSES[pose][0]
    return Key((lean + degrees, *(angle - degrees for angle in limbs)), word, x)


# --- props: (shapes behind the figure, shapes before it) ---


def _stick(points: dict[str, Point], turn: float, length: float, radius: float, colour: str) -> Shape:
    """A stick held in the near hand, `turn` degrees forward of the forearm."""
    (ex, ey), (hx, hy) = points["elbow"], points["hand"]
    ux, uy = (hx - ex), (hy - ey)
    norm = (ux * ux + uy * uy) ** 0.5 or 1.0
    c, s = cos(radians(turn)) * length / norm, sin(radians(turn)) * length / norm
    return (hx, hy, hx + ux * c - uy * s, hy + uy * c + ux * s, radius, colour)


def _chair(points: dict[str, Point], state: State) -> Shapes:
    return [
        (-0.17, 0.16, 0.14, 0.22, 0, "prop"),
        (-0.19, 0.16, -0.14, 0.56, 0, "prop"),
        (-0.17, 0, -0.13, 0.18, 0, "prop"),
        (0.09, 0, 0.13, 0.18, 0, "prop"),
    ], []


def _ladder(points: dict[str, Point], state: State) -> Shapes:
    rungs = [(0.13, y / 100, 0.36, y / 100, 0.018, "prop") for y in range(8, 160, 13)]
    return [(0.13, 0, 0.13, 1.6, 0.022, "prop"), (0.36, 0, 0.36, 1.6, 0.022, "prop"), *rungs], []


def _box(points: dict[str, Point], state: State) -> Shapes:
    x, y = points["prop"]
    tape = (x + 0.07, y - 0.09, x + 0.12, y + 0.11, 0, "light")
    return [], [(x - 0.02, y - 0.09, x + 0.22, y + 0.11, 0, "prop"), tape]


def _ball(points: dict[str, Point], state: State) -> Shapes:
    x, y = points["prop"]
    return [], [(x, y, x, y, 0.075, "prop")]


def _barbell(points: dict[str, Point], state: State) -> Shapes:
    x, y = points["prop"]
    plates = [(x + side, y - 0.09, x + side, y + 0.09, 0.035, "prop") for side in (-0.32, 0.32)]
    return [], [(x - 0.4, y, x + 0.4, y, 0.018, "metal"), *plates]


def _cart(points: dict[str, Point], state: State) -> Shapes:
    x, y = points["prop"]
    wheels = [(x + side, 0.06, x + side, 0.06, 0.06, "dark") for side in (0.16, 0.42)]
    return [], [(x, y, x + 0.1, 0.2, 0.02, "metal"), (x + 0.08, 0.13, x + 0.5, 0.38, 0, "prop"), *wheels]


def _flag(points: dict[str, Point], state: State) -> Shapes:
    x, y = points["prop"]
    cloth: list[Shape] = [
        (x, y - 0.1, x + 0.34, y + 0.1, 0, "prop"),
        (x, y - 0.03, x + 0.34, y + 0.03, 0, "light"),
    ]
    return [(x, 0, x, 1.4, 0.02, "metal")], cloth


def _club(points: dict[str, Point], state: State) -> Shapes:
    club = _stick(points, 12, 0.36, 0.016, "metal")
    return [], [club, (*club[2:4], *club[2:4], 0.035, "dark"), (0.36, 0.03, 0.36, 0.03, 0.028, "light")]


def _bow(points: dict[str, Point], state: State) -> Shapes:
    (x, y), (fx, fy) = points["hand"], points["far_hand"]
    tips = ((x - 0.1, y + 0.27), (x - 0.1, y - 0.27))
    arc = [(tx, ty, x + 0.02, y + (ty - y) / 2, 0.022, "prop") for tx, ty in tips]
    arc += [(x + 0.02, y + (ty - y) / 2, x + 0.04, y, 0.022, "prop") for _, ty in tips]
    drawn = state.word == "standing" and fx < x - 0.12
    pulled = (fx, fy) if drawn else (x - 0.1, y)
    string = [(tx, ty, *pulled, 0.01, "light") for tx, ty in tips]
    return [], [*arc, *string, (*pulled, x + 0.12, y, 0.013, "wood")]


def _bar(points: dict[str, Point], state: State) -> Shapes:
    posts = [(x, 0, x, 1.27, 0.025, "prop") for x in (-0.42, 0.42)]
    return [*posts, (-0.42, 1.27, 0.42, 1.27, 0.025, "prop")], []


def _goal(points: dict[str, Point], state: State) -> Shapes:
    net = [(0.62 + i * 0.09, 0.0, 0.62 + i * 0.09, 0.66, 0.006, "light") for i in range(1, 5)]
    frame = [(0.62, 0, 0.62, 0.68, 0.026, "light"), (0.62, 0.68, 1.1, 0.68, 0.026, "light")]
    return [*net, *frame], _ball(points, state)[1]


def _rope(points: dict[str, Point], state: State) -> Shapes:
    (x, y), rope = points["prop"], []
    for hand, side in (("hand", 0.2), ("far_hand", -0.2)):
        hx, hy = points[hand]
        turn = ((hx, hy), (hx + side * 0.4, (hy + y) / 2), (x + side, y + (hy - y) * 0.1), (x, y))
        rope += [(*start, *end, 0.016, "prop") for start, end in pairwise(turn)]
    return [], rope


def _hammer(points: dict[str, Point], state: State) -> Shapes:
    handle = _stick(points, 75, 0.24, 0.018, "wood")
    x, y = handle[2:4]
    anvil: list[Shape] = [(0.42, 0, 0.7, 0.3, 0, "prop"), (0.38, 0.3, 0.74, 0.38, 0, "prop")]
    return anvil, [handle, (x - 0.05, y - 0.03, x + 0.05, y + 0.03, 0.035, "metal")]


def _broom(points: dict[str, Point], state: State) -> Shapes:
    x, y = points["prop"]
    hx, hy = points["hand"]
    top = (hx + (hx - x) * 0.45, hy + (hy - y) * 0.45)
    return [], [(*top, x, y, 0.018, "wood"), (x - 0.09, y - 0.04, x + 0.09, y - 0.01, 0.03, "prop")]


def _sword(points: dict[str, Point], state: State) -> Shapes:
    return [], [_stick(points, 0, 0.42, 0.014, "light"), _stick(points, 0, 0.04, 0.045, "prop")]


def _balls(points: dict[str, Point], state: State) -> Shapes:
    """Three balls on one arc between the hands; each is thrown a third of a cycle after the one before."""
    (ax, ay), (bx, by) = points["hand"], points["far_hand"]
    shapes = []
    for i in range(3):
        t = (state.phase + i / 3) % 1.0
        x, y = ax + 0.05 + (bx - ax) * t, ay + 0.06 + (by - ay) * t
        place = (x + 0.1 * sin(6.2832 * t), y + 2.2 * t * (1 - t))
        shapes.append((*place, *place, 0.055, "prop"))
    return [], shapes


def _drum(points: dict[str, Point], state: State) -> Shapes:
    hands = (("elbow", "hand"), ("far_elbow", "far_hand"))
    sticks = [_stick({"elbow": points[a], "hand": points[b]}, -30, 0.2, 0.016, "wood") for a, b in hands]
    drum: list[Shape] = [(0.3, 0.06, 0.62, 0.36, 0, "prop"), (0.28, 0.36, 0.64, 0.4, 0, "light")]
    return [(-0.13, 0, 0.13, 0.22, 0, "dark")], [*drum, *sticks]


def _bag(points: dict[str, Point], state: State) -> Shapes:
    return [(0.6, 1.0, 0.6, 1.6, 0.015, "metal"), (0.6, 0.58, 0.6, 0.95, 0.11, "prop")], []


def _treadmill(points: dict[str, Point], state: State) -> Shapes:
    return [
        (-0.45, -0.02, 0.45, 0.035, 0, "dark"),
        (0.42, 0.03, 0.5, 0.62, 0.022, "prop"),
        (0.5, 0.62, 0.34, 0.66, 0.026, "prop"),
    ], []


# --- actions ---

FLOOR_BOX, BALL_AT_FEET, FOOT = (0.34, 0.10), (0.3, 0.075), (0.1, 0.075)


def _all(*actions: Action) -> dict[str, Action]:
    return {action.base: action for action in actions}


def _steps(pose: str, other: str, *places: tuple) -> tuple[Key, ...]:
    """Key frames of two poses in turn, one at each place (x, lift, place of the prop)."""
    return tuple(key((pose, other)[i % 2], *place) for i, place in enumerate(places))


# fmt: off
ACTIONS: dict[str, Action] = _all(
    # run backwards, these eight are the other half of a time-reversed pair
    Action("sit", (key("stand", 0.25), key("half_sit", 0.15), key("sit", 0)), prop=_chair),
    Action("climb", _steps("climb", "climb_other", *((0, 0.12 * i) for i in range(5))), prop=_ladder),
    Action("pick box", (key("stand", 0, 0, FLOOR_BOX), key("bend", -0.08, 0, FLOOR_BOX, 0.1),
                        key("bend", -0.08), key("hold")), prop=_box),
    Action("throw ball", (key("ready", -0.1), key("wind", -0.15), key("release", 0),
                          key("follow", 0.05, 0, (1.2, 0.8))), prop=_ball),
    Action("fall", (key("stand", -0.25), key("stumble", -0.2), key("kneel", -0.1), key("prone", 0.05))),
    Action("lift barbell", (key("low_squat", -0.12), key("rack"), key("overhead")), prop=_barbell),
    Action("push cart", _steps("shove", "shove_other", *((-0.55 + 0.16 * i,) for i in range(5))), prop=_cart),
    Action("raise flag",
           _steps("haul", "haul_other", *((-0.08, 0, (0.24, 0.3 + 0.25 * i)) for i in range(5))), prop=_flag),
    # figures-h
    Action("wave", (key("wave"), key("wave_other")), cyclic=True),
    Action("clap", (key("clap_open"), key("clap_shut")), cyclic=True),
    Action("kick ball", (key("stand", -0.15, 0, BALL_AT_FEET), key("swing_back", -0.1, 0, BALL_AT_FEET),
                         key("swing_front", 0, 0, (0.5, 0.12)), key("stand", 0.05, 0, (1.6, 0.4))),
           prop=_ball),
    Action("punch", (key("guard"), key("jab", 0.06)), cyclic=True),
    Action("run", (key("run", 0, 0.05), key("run_pass"), key("run_other", 0, 0.05), key("run_pass_other")),
           cyclic=True),
    Action("push up", (key("plank"), key("plank_low")), cyclic=True),
    # figures-u
    Action("jumping jack", (key("straight"), key("star", 0, 0.06)), cyclic=True),
    Action("golf swing", (key("address", -0.1), key("backswing", -0.1), key("address", -0.1, span=0.6),
                          key("finish", -0.1)), prop=_club),
    Action("basketball dribble", (key("dribble"), key("dribble_low", span=0.6),
                                  key("dribble_low", 0, 0, (0.32, 0.08), 0.6),
                                  key("dribble", 0, 0, (0.3, 0.3), 0.4)), cyclic=True, prop=_ball),
    Action("archery", (key("bow_rest"), key("bow_aim"), key("bow_draw", span=1.5), key("bow_draw")),
           prop=_bow),
    Action("cartwheel", tuple(turned("star", 90 * i, "upside down" if i == 2 else "rolling", -0.5 + 0.25 * i)
                              for i in range(5))),
    Action("pull ups", (key("hang", 0, 1.27), key("chin", 0, 1.27)), cyclic=True, prop=_bar, hangs=True),
    Action("boxing", (key("jab", 0.02), key("guard", span=0.7), key("jab_other", 0.02),
                      key("guard", span=0.7)), cyclic=True, prop=_bag),
    Action("jogging", (key("run", 0, 0.05), key("run_pass", 0, 0.04), key("run_other", 0, 0.05),
                       key("run_pass_other", 0, 0.04)), cyclic=True, prop=_treadmill),
    Action("soccer kick", (key("run", -0.55, 0, FOOT), key("run_other", -0.35, 0, FOOT),
                           key("swing_back", -0.2, 0, FOOT), key("swing_front", -0.1, 0, (0.3, 0.12)),
                           key("stand", -0.05, 0, (0.85, 0.35))), prop=_goal),
    Action("squats", (key("squat_arms"), key("squat", -0.14)), cyclic=True),
    Action("lunges", (key("hips"), key("lunge"), key("hips"), key("lunge_other")), cyclic=True),
    Action("jump rope", (key("skip", 0, 0.0, (0, 1.3)), key("skip", 0, 0.04, (0.5, 0.6)),
                         key("skip", 0, 0.12, (0, 0.03)), key("skip", 0, 0.04, (-0.5, 0.6))),
           cyclic=True, prop=_rope),
    Action("hammering", (key("hammer_up", -0.1), key("hammer_down", -0.1)), cyclic=True, prop=_hammer),
    Action("sweeping", (key("sweep", -0.2, 0, (0.2, 0.05)), key("sweep_far", -0.15, 0, (0.6, 0.05))),
           cyclic=True, prop=_broom),
    Action("fencing", (key("en_garde", -0.15), key("thrust", 0.08)), cyclic=True, prop=_sword),
    Action("juggling", (key("juggle"), key("juggle_other")), cyclic=True, prop=_balls),
    Action("drumming", (key("drum", -0.1), key("drum_other", -0.1)), cyclic=True, prop=_drum),
    Action("handstand", (turned("star", 180, "upside down"), turned("overhead", 180, "upside down")),
           cyclic=True),
)
# fmt: on
