"""The class names of the paper's three data sets as they stand in prompts, in alphabetical order.

Needed where no data are: to count what the method costs at its real sizes (Table 3).
Sources: HMDB-51's class folders and UCF-101's classInd.txt, both as `labels.class_text` spells them;
Kinetics-400's names come with torchvision's video models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

_HMDB = """brush hair, cartwheel, catch, chew, clap, climb, climb stairs, dive, draw sword, dribble, drink,
eat, fall floor, fencing, flic flac, golf, handstand, hit, hug, jump, kick, kick ball, kiss, laugh, pick,
pour, pullup, punch, push, pushup, ride bike, ride horse, run, shake hands, shoot ball, shoot bow, shoot gun,
sit, situp, smile, smoke, somersault, stand, swing baseball, sword, sword exercise, talk, throw, turn, walk,
wave"""
_UCF = """Apply Eye Makeup, Apply Lipstick, Archery, Baby Crawling, Balance Beam, Band Marching, Baseball
Pitch, Basketball, Basketball Dunk, Bench Press, Biking, Billiards, Blow Dry Hair, Blowing Candles, Body
Weight Squats, Bowling, Boxing Punching Bag, Boxing Speed Bag, Breast Stroke, Brushing Teeth, Clean And Jerk,
Cliff Diving, Cricket Bowling, Cricket Shot, Cutting In Kitchen, Diving, Drumming, Fencing, Field Hockey
Penalty, Floor Gymnastics, Frisbee Catch, Front Crawl, Golf Swing, Haircut, Hammer Throw, Hammering, Handstand
Pushups, Handstand Walking, Head Massage, High Jump, Horse Race, Horse Riding, Hula Hoop, Ice Dancing,
Javelin Throw, Juggling Balls, Jump Rope, Jumping Jack, Kayaking, Knitting, Long Jump, Lunges, Military
Parade, Mixing, Mopping Floor, Nunchucks, Parallel Bars, Pizza Tossing, Playing Cello, Playing Daf, Playing
Dhol, Playing Flute, Playing Guitar, Playing Piano, Playing Sitar, Playing Tabla, Playing Violin, Pole
Vault, Pommel Horse, Pull Ups, Punch, Push Ups, Rafting, Rock Climbing Indoor, Rope Climbing, Rowing, Salsa
Spin, Shaving Beard, Shotput, Skate Boarding, Skiing, Skijet, Sky Diving, Soccer Juggling, Soccer Penalty,
Still Rings, Sumo Wrestling, Surfing, Swing, Table Tennis Shot, Tai Chi, Tennis Swing, Throw Discus,
Trampoline Jumping, Typing, Uneven Bars, Volleyball Spiking, Walking With Dog, Wall Pushups, Writing On
Board, Yo Yo"""


class _ByRole(Mapping):
    """Reads one list at a time: importing torchvision takes seconds, and most callers do not need it."""

    def __iter__(self) -> Iterator[str]:
        return iter(("HMDB-51", "UCF-101", "Kinetics-400"))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, role: str) -> tuple[str, ...]:
        return _kinetics() if role == "Kinetics-400" else _SHORT[role]


@cache
def _kinetics() -> tuple[str, ...]:
    from torchvision.models.video import R3D_18_Weights

    return tuple(R3D_18_Weights.DEFAULT.meta["categories"])


_SHORT = {
    role: tuple(name.strip() for name in names.replace("\n", " ").split(","))
    for role, names in (("HMDB-51", _HMDB), ("UCF-101", _UCF))
}
CLASSES: Mapping[str, tuple[str, ...]] = _ByRole()
