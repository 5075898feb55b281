"""The class names of the paper's three data sets, as they stand in prompts: the sizes the method is used at."""

from torchvision.models.video import R3D_18_Weights

HMDB = """brush hair, cartwheel, catch, chew, clap, climb, climb stairs, dive, draw sword, dribble, drink, eat, fall
floor, fencing, flic flac, golf, handstand, hit, hug, jump, kick, kick ball, kiss, laugh, pick, pour,
pullup, punch, push, pushup, ride bike, ride horse, run, shake hands, shoot ball, shoot bow, shoot gun, sit,
situp, smile, smoke, somersault, stand, swing baseball, sword, sword exercise, talk, throw, turn, walk, wave"""
UCF = """Apply Eye Makeup, Apply Lipstick, Archery, Baby Crawling, Balance Beam, Band Marching, Baseball Pitch,
Basketball, Basketball Dunk, Bench Press, Biking, Billiards, Blow Dry Hair, Blowing Candles, Body Weight
Squats, Bowling, Boxing Punching Bag, Boxing Speed Bag, Breast Stroke, Brushing Teeth, Clean And Jerk, Cliff
Diving, Cricket Bowling, Cricket Shot, Cutting In Kitchen, Diving, Drumming, Fencing, Field Hockey Penalty,
Floor Gymnastics, Frisbee Catch, Front Crawl, Golf Swing, Haircut, Hammer Throw, Hammering, Handstand
Pushups, Handstand Walking, Head Massage, High Jump, Horse Race, Horse Riding, Hula Hoop, Ice Dancing,
Javelin Throw, Juggling Balls, Jump Rope, Jumping Jack, Kayaking, Knitting, Long Jump, Lunges, Military
Parade, Mixing, Mopping Floor, Nunchucks, Parallel Bars, Pizza Tossing, Playing Cello, Playing Daf, Playing
Dhol, Playing Flute, Playing Guitar, Playing Piano, Playing Sitar, Playing Tabla, Playing Violin, Pole
Vault, Pommel Horse, Pull Ups, Punch, Push Ups, Rafting, Rock Climbing Indoor, Rope Climbing, Rowing, Salsa
Spin, Shaving Beard, Shotput, Skate Boarding, Skiing, Skijet, Sky Diving, Soccer Juggling, Soccer Penalty,
Still Rings, Sumo Wrestling, Surfing, Swing, Table Tennis Shot, Tai Chi, Tennis Swing, Throw Discus,
Trampoline Jumping, Typing, Uneven Bars, Volleyball Spiking, Walking With Dog, Wall Pushups, Writing On
Board, Yo Yo"""

CLASSES = {
    "HMDB-51": [name.strip() for name in HMDB.replace("\n", " ").split(",")],
    "UCF-101": [name.strip() for name in UCF.replace("\n", " ").split(",")],
    "Kinetics-400": list(R3D_18_Weights.DEFAULT.meta["categories"]),
}
assert [len(names) for names in CLASSES.values()] == [51, 101, 400]
