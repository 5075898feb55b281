"""The official layouts, read from trees of empty files: quirks kept, damage named in one line."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flowclip_core.data.labels import class_text
from flowclip_core.errors import InputError
from flowclip_kit.datasets.formats import (
    Dataset,
    Split,
    Video,
    few_shot,
    half_of_classes,
    hold_out,
    load,
)

HMDB_NAMES = {
    "brush_hair": [
        "April_09_(brush)_hair!_u_nm_np1.avi",
        "it's_#1_&_only;_hair+np2.avi",
        "plain.avi",
        "spare.avi",
    ],
    "kick": ["a_kick.avi", "b_kick.avi", "c_kick.avi", "d[1]_kick.avi"],
    "kick_ball": ["a_ball.avi", "b_ball.avi", "c_ball.avi", "d'ball.avi"],
}


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def hmdb(root: Path, videos: str = "videos") -> Path:
    """Three classes of four videos: two train, one test, one unused; split n begins one video further on."""
    for name, files in HMDB_NAMES.items():
        for file in files[:3]:
            put(root / videos / name / file)
        for number in (1, 2):
            # The last video is unused in every split, and not on the disk: HMDB lists such videos too.
            codes = ["1", "1", "2"] if number == 1 else ["2", "1", "1"]
            lines = [f"{file} {code} \n" for file, code in zip(files, [*codes, "0"], strict=True)]
            put(root / "testTrainMulti_7030_splits" / f"{name}_test_split{number}.txt", "".join(lines))
    return root


def ucf(root: Path) -> Path:
    classes = ["ApplyEyeMakeup", "YoYo", "HandstandPushups"]  # the order of classInd.txt, not of the alphabet
    put(root / "ucfTrainTestlist/classInd.txt", "".join(f"{i} {c}\r\n" for i, c in enumerate(classes, 1)))
    train, test = [], []
    for number, name in enumerate(classes, 1):
        stem = "HandStandPushups" if name == "HandstandPushups" else name
        for group in range(1, 5):
            video = f"{name}/v_{stem}_g{group:02d}_c01.avi"
            put(root / "UCF-101" / video)
            (test if group == 1 else train).append(f"{video} {number}" if group > 1 else video)
    put(root / "ucfTrainTestlist/trainlist01.txt", "\r\n".join(train) + "\r\n")
    put(root / "ucfTrainTestlist/testlist01.txt", "\r\n".join(test) + "\r\n")
    return root


KINETICS = ["tai chi", "massaging person's head", "tying knot (not on a tie)", 'saying "hi", waving']


def kinetics(root: Path, cc: bool = False, flat: bool = False, extension: str = ".mp4") -> Path:
    for part, count in (("train", 3), ("val", 1)):
        rows = ["label,youtube_id,time_start,time_end,split" + (",is_cc" if cc else "")]
        for index, label in enumerate(KINETICS):
            for i in range(count):
                identity = f"-{part}_{index}{i}xyz"
                quoted = '"' + label.replace('"', '""') + '"'
                rows.append(f"{quoted},{identity},{i + 3},{i + 13},{part}" + (",0" if cc else ""))
                folder = root / part if flat else root / part / label
                put(folder / f"{identity}_{i + 3:06d}_{i + 13:06d}{extension}")
        if part == "val":
            rows.append(",unlabelled1,1,11,test" + (",0" if cc else ""))
        put(root / f"{part}.csv", "\n".join(rows) + "\n")
    return root


def folder(root: Path) -> Path:
    for name, count in (("wave_hand", 2), ("JumpRope", 5)):
        for i in range(count):
            put(root / name / f"{i}{('.avi', '.MP4', '.mkv')[i % 3]}")
        put(root / name / ".hidden.avi")
        put(root / name / "notes.txt")
    put(root / ".cache" / "x.avi")
    return root


BUILD = {"hmdb51": hmdb, "ucf101": ucf, "kinetics400": kinetics, "folder": folder}


def one_line(call, *parts: str) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("brush_hair", "brush hair"),
        ("ApplyEyeMakeup", "Apply Eye Makeup"),
        ("YoYo", "Yo Yo"),
        ("TaiChi", "Tai Chi"),
        ("HandstandPushups", "Handstand Pushups"),
        ("tying knot (not on a tie)", "tying knot (not on a tie)"),
        ("massaging person's head", "massaging person's head"),
    ],
)
def test_class_text(name, text):
    assert class_text(name) == class_text(name, "words") == text
    assert class_text(text) == text
    assert class_text(name, "raw") == name.replace("_", " ")
    assert class_text(class_text(name, "raw")) == text  # the words can still be found in it


def test_class_names_as_they_are(tmp_path):
    words = load("ucf101", ucf(tmp_path / "u"))
    raw = load("ucf101", tmp_path / "u", class_names="raw")
    assert words == load("ucf101", tmp_path / "u", class_names="words") and raw.splits == words.splits
    assert raw.texts == raw.classes == words.classes and raw.texts[1] == "YoYo" and words.texts[1] == "Yo Yo"
    assert raw.fingerprint(1) != words.fingerprint(1)  # they are other prompts: no result is shared
    hmdb_ = [load("hmdb51", hmdb(tmp_path / "h"), class_names=style) for style in ("words", "raw")]
    assert (
        hmdb_[0] == hmdb_[1] and hmdb_[0].texts[0] == "brush hair"
    )  # no capitals, nothing to tell them apart
    for call in (
        lambda: class_text("YoYo", "Raw"),
        lambda: load("ucf101", tmp_path / "u", class_names="Raw"),
    ):
        one_line(call, "class names 'Raw'", "'words' or 'raw'")


def test_two_classes_must_not_read_the_same(tmp_path):
    for name in ("WaveHand", "Wave_Hand"):
        for number in range(2):
            put(tmp_path / name / f"{number}.avi")
    one_line(lambda: load("folder", tmp_path), "'WaveHand' and 'Wave_Hand' read the same")
    assert load("folder", tmp_path, class_names="raw").texts == ("WaveHand", "Wave Hand")


def test_hmdb_reads_codes_and_odd_names(tmp_path):
    data = load("hmdb51", hmdb(tmp_path))
    assert data.classes == ("brush_hair", "kick", "kick_ball")  # the label order trap: kick before kick_ball
    assert data.texts == ("brush hair", "kick", "kick ball")
    assert sorted(data.splits) == [1, 2]
    train, test = data.splits[1]
    assert train[:2] == tuple(Video(f"brush_hair/{name}", 0) for name in HMDB_NAMES["brush_hair"][:2])
    assert test == tuple(Video(f"{name}/{files[2]}", i) for i, (name, files) in enumerate(HMDB_NAMES.items()))
    assert data.splits[2].test[0] == Video(f"brush_hair/{HMDB_NAMES['brush_hair'][0]}", 0)
    assert all((data.folder / video.name).is_file() for video in train + test)


def test_hmdb_without_the_videos_folder(tmp_path):
    beside, below = load("hmdb51", hmdb(tmp_path / "a", videos=".")), load("hmdb51", hmdb(tmp_path / "b"))
    assert beside.splits == below.splits
    assert beside.folder == tmp_path / "a"


def test_ucf_takes_the_class_from_the_folder(tmp_path):
    data = load("ucf101", ucf(tmp_path))
    assert data.classes == ("ApplyEyeMakeup", "YoYo", "HandstandPushups")
    assert data.texts[1] == "Yo Yo"
    assert Video("HandstandPushups/v_HandStandPushups_g02_c01.avi", 2) in data.splits[1].train
    assert data.splits[1].test[2] == Video("HandstandPushups/v_HandStandPushups_g01_c01.avi", 2)
    assert [len(part) for part in data.splits[1]] == [9, 3]


@pytest.mark.parametrize("cc", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("extension", [".mp4", ".avi"])
def test_kinetics_variants(tmp_path, cc, flat, extension):
    data = load("kinetics400", kinetics(tmp_path, cc, flat, extension))
    assert data.classes == tuple(sorted(KINETICS)) == data.texts
    assert [len(part) for part in data.splits[1]] == [12, 4]
    assert all((data.folder / video.name).is_file() for part in data.splits[1] for video in part)
    label = data.classes.index('saying "hi", waving')
    inside = "" if flat else 'saying "hi", waving/'
    assert data.splits[1].test[3] == Video(f"val/{inside}-val_30xyz_000003_000013{extension}", label)


def test_kinetics_folders_may_be_spelt_otherwise(tmp_path):
    kinetics(tmp_path)
    (tmp_path / "train/tai chi").rename(tmp_path / "train/tai_chi")
    data = load("kinetics400", tmp_path)
    assert (
        Video("train/tai_chi/-train_00xyz_000003_000013.mp4", data.classes.index("tai chi"))
        in data.splits[1].train
    )


def test_demo_names_use_the_same_readers(tmp_path):
    for name, build in (("figures-h", hmdb), ("figures-u", ucf), ("figures-k", kinetics)):
        data = load(name, build(tmp_path / name))
        assert data.name == name
        assert data.splits


def test_folder_without_lists_holds_out_the_same_videos_every_time(tmp_path):
    data = load("folder", folder(tmp_path / "a"))
    assert data.classes == ("JumpRope", "wave_hand")
    train, test = data.splits[1]
    assert [sum(video.label == label for video in test) for label in (0, 1)] == [2, 1]
    assert len(train) + len(test) == len(set(train) | set(test)) == 7
    again = load("folder", folder(tmp_path / "b"))
    assert again.splits == data.splits
    put(tmp_path / "b" / "zebra_ride" / "1.avi")
    put(tmp_path / "b" / "zebra_ride" / "2.avi")
    more = load("folder", tmp_path / "b")
    assert set(test) < set(more.splits[1].test)  # another class changes nothing in the old ones


def test_how_a_folder_is_split_and_copies_on_both_sides_are_said_once(tmp_path, capsys):
    for name, text in (("a/0", "x"), ("a/1", "same"), ("b/0", "same"), ("b/1", "y"), ("b/2", "")):
        put(tmp_path / "train" / f"{name}.avi", text)
    for name, text in (("a/2", "z"), ("a/3", "same"), ("b/3", "x"), ("b/4", "w"), ("b/5", "")):
        put(tmp_path / "test" / f"{name}.avi", text)
    for _ in range(2):
        load("folder", tmp_path)
    split, copied = capsys.readouterr().err.splitlines()
    assert split.endswith(f"{tmp_path}: 5 training and 5 test videos (of train/ and test/)")
    pairs = "test/a/3.avi = train/a/1.avi, test/b/3.avi = train/a/0.avi"
    assert f"split 1: 2 test videos are copies of training videos ({pairs})" in copied
    lines = []
    load("folder", folder(tmp_path / "own"), say=lines.append)
    assert "4 training and 3 test videos" in lines[0] and "30% of each class is held out" in lines[0]


def test_folder_with_lists(tmp_path):
    folder(tmp_path)
    put(tmp_path / "train.csv", '\ufeffvideo,label\nwave_hand/0.avi,wave\n./JumpRope/0.avi,"jump, rope"\n')
    put(tmp_path / "test.csv", "video,label\nwave_hand/1.MP4,wave\n")
    data = load("folder", tmp_path)
    assert data.classes == ("jump, rope", "wave")
    assert data.splits[1] == Split(
        (Video("wave_hand/0.avi", 1), Video("JumpRope/0.avi", 0)), (Video("wave_hand/1.MP4", 1),)
    )


def video_folder(root: Path, rows: dict[str, str]) -> Path:
    """Files of a video folder on the Hugging Face hub: metadata by place, and five videos of two classes."""
    for name in ("train/0.mp4", "train/a/1.mp4", "train/2.mp4", "test/3.mp4", "test/4.mp4"):
        put(root / name, name)
    for place, text in rows.items():
        put(root / place, text)
    return root


TRAIN = [("0.mp4", "wave"), ("a/1.mp4", "jump, rope"), ("./2.mp4", "wave")]
TEST = [("3.mp4", "jump, rope"), ("4.mp4", "wave")]


def as_csv(rows, folder: str = "") -> str:
    return "file_name,text,label\n" + "".join(f'{folder}{name},said,"{label}"\n' for name, label in rows)


def as_json(rows, folder: str = "") -> str:
    return "".join(json.dumps({"label": label, "file_name": folder + name}) + "\n" for name, label in rows)


@pytest.mark.parametrize("write", [as_csv, as_json])
def test_metadata_of_a_video_folder_say_the_classes_wherever_they_lie(write, tmp_path):
    end = "csv" if write is as_csv else "jsonl"
    both = {f"train/metadata.{end}": write(TRAIN), f"test/metadata.{end}": write(TEST)}
    apart = load("folder", video_folder(tmp_path / "apart", both))
    one = {
        f"metadata.{end}": write(TRAIN, "train/")
        + write(TEST, "test/").removeprefix("file_name,text,label\n")
    }
    together = load("folder", video_folder(tmp_path / "one", one))
    assert apart.classes == ("jump, rope", "wave") and together.splits == apart.splits
    train = Video("train/0.mp4", 1), Video("train/a/1.mp4", 0), Video("train/2.mp4", 1)
    assert apart.splits[1] == Split(train, (Video("test/3.mp4", 0), Video("test/4.mp4", 1)))
    loose = {f"metadata.{end}": write([(f"{i}.mp4", "ab"[i % 2]) for i in range(8)])}
    for number in range(8):
        put(tmp_path / "drawn" / f"{number}.mp4", str(number))
    drawn = load("folder", video_folder(tmp_path / "drawn", loose))
    assert [len(part) for part in drawn.splits[1]] == [6, 2], "30 % of each class are for the test"


@pytest.mark.parametrize(
    ("file", "text", "parts"),
    [
        ("train/metadata.csv", as_csv([*TRAIN, ("gone.mp4", "wave")]), ["train/gone.mp4", "csv, line 5"]),
        ("train/metadata.csv", "file_name,caption\n0.mp4,x\n", ["metadata.csv, line 1", "file_name,caption"]),
        ("train/metadata.csv", as_csv([*TRAIN, ("a/../0.mp4", "wave")]), ["line 5", "inside"]),
        ("train/metadata.csv", as_csv([*TRAIN, ("{root}/train/0.mp4", "wave")]), ["line 5", "inside"]),
        ("train/metadata.csv", as_csv([*TRAIN, ("./0.mp4", "wave")]), ["line 5", "second time", "line 2"]),
        ("train/metadata.csv", as_csv([*TRAIN, ("3.mp4", "")]), ["line 5", "no label"]),
        ("test/metadata.csv", as_csv([("3.mp4", "sit")]), ["line 2", "'sit' is not a class of train/"]),
        ("test/metadata.csv", None, ["test: holds no metadata.csv"]),
        ("train/metadata.jsonl", as_json(TRAIN), ["train: holds metadata.csv and metadata.jsonl; keep one"]),
        ("metadata.jsonl", as_json(TRAIN, "train/") + '{"file_name": 1}', ["line 4", "label", "'file_name'"]),
        ("metadata.jsonl", "[]\n", ["metadata.jsonl, line 1", "JSON object"]),
        ("metadata.jsonl", '{"file_name": "a", "label": [1]}', ["line 1", "label [1]", "a text"]),
        ("metadata.jsonl", as_json([("test/3.mp4", "x"), *TRAIN]), ["line 1", "'x' has one video"]),
    ],
)  # fmt: skip
def test_bad_metadata_are_named_by_file_and_line(file, text, parts, tmp_path):
    video_folder(tmp_path, {"train/metadata.csv": as_csv(TRAIN), "test/metadata.csv": as_csv(TEST)})
    (tmp_path / file).unlink(missing_ok=True)
    if text is not None:
        put(tmp_path / file, text.replace("{root}", str(tmp_path)))
    one_line(lambda: load("folder", tmp_path), *parts)


@pytest.mark.parametrize("name", BUILD)
def test_bad_roots(tmp_path, name):
    one_line(lambda: load(name, tmp_path / "nowhere"), "nowhere", "no such folder")
    one_line(lambda: load(name, tmp_path), str(tmp_path))
    file = put(tmp_path / "file")
    one_line(lambda: load(name, file), str(file), "no such folder")


def test_unknown_data_set(tmp_path):
    one_line(lambda: load("hmdb", tmp_path), "'hmdb'", "hmdb51", "folder")
    one_line(lambda: load("hmdb51", tmp_path, missing="ignore"), "missing")


@pytest.mark.parametrize(
    ("name", "file", "text", "parts"),
    [
        ("hmdb51", "testTrainMulti_7030_splits/kick_test_split2.txt", None, ["kick_test_split2.txt"]),
        (
            "hmdb51",
            "testTrainMulti_7030_splits/kick_test_split2.txt",
            "a_kick.avi 3",
            ["line 1", "0, 1 or 2"],
        ),
        (
            "hmdb51",
            "testTrainMulti_7030_splits/kick_test_split1.txt",
            "a_kick.avi 2",
            ["no training video", "'kick'"],
        ),
        (
            "hmdb51",
            "testTrainMulti_7030_splits/kick_test_split1.txt",
            "b_kick.avi 1\nb_kick.avi 2",
            ["more than once"],
        ),
        ("ucf101", "ucfTrainTestlist/classInd.txt", None, ["classInd.txt", "no such file"]),
        ("ucf101", "ucfTrainTestlist/classInd.txt", "ApplyEyeMakeup\n", ["classInd.txt", "line 1"]),
        ("ucf101", "ucfTrainTestlist/testlist01.txt", None, ["testlist01.txt", "no such file"]),
        ("ucf101", "ucfTrainTestlist/trainlist02.txt", "YoYo/v_YoYo_g01_c01.avi 2", ["testlist02.txt"]),
        (
            "ucf101",
            "ucfTrainTestlist/trainlist01.txt",
            "Toyo/v_YoYo_g02_c01.avi 2",
            ["line 1", "'Toyo'", "classInd"],
        ),
        ("ucf101", "ucfTrainTestlist/trainlist01.txt", "YoYo/v_YoYo_g02_c01.avi 3", ["line 1", "classInd"]),
        ("kinetics400", "val.csv", None, ["val.csv", "no such file"]),
        ("kinetics400", "val.csv", "label,id,start,end\n", ["val.csv", "youtube_id", "label,id,start,end"]),
        ("kinetics400", "val.csv", "label,youtube_id,time_start,time_end\n", ["val.csv", "no rows"]),
        (
            "kinetics400",
            "val.csv",
            "label,youtube_id,time_start,time_end\ncooking,a,1,2\n",
            ["line 2", "'cooking'"],
        ),
        (
            "kinetics400",
            "val.csv",
            "label,youtube_id,time_start,time_end\ntai chi,a,one,2\n",
            ["line 2", "seconds"],
        ),
        (
            "kinetics400",
            "val.csv",
            "label,youtube_id,time_start,time_end\na, b,a,1,2\n",
            ["line 2", "quotes"],
        ),
        ("folder", "train.csv", "video,label\nwave_hand/0.avi,wave\n", ["test.csv", "no such file"]),
        (
            "folder",
            "train.csv",
            "path,class\nwave_hand/0.avi,wave\n",
            ["train.csv", "video,label", "path,class"],
        ),
        ("folder", "one_video/1.avi", "", ["one_video", "holds 1 video (1.avi)", "two or more"]),
        ("folder", "Jump_Rope/.empty", "", ["Jump_Rope", "holds 0 videos"]),
        ("folder", "time_reversed_pairs.csv", "a,b\nJumpRope,sit\n", ["line 2", "'sit'"]),
        ("folder", "time_reversed_pairs.csv", "a,b\nJumpRope,JumpRope\n", ["line 2", "partner"]),
    ],
)
def test_bad_lists(tmp_path, name, file, text, parts):
    BUILD[name](tmp_path)
    if text is None:
        (tmp_path / file).unlink()
    else:
        put(tmp_path / file, text)
    one_line(lambda: load(name, tmp_path), *parts)


def test_no_lists_at_all(tmp_path):
    ucf(tmp_path / "u")
    hmdb(tmp_path / "h")
    for file in [*(tmp_path / "u/ucfTrainTestlist").glob("*list01.txt"), *tmp_path.glob("h/test*/*.txt")]:
        file.unlink()
    one_line(lambda: load("ucf101", tmp_path / "u"), "trainlist01.txt", "no such file")
    one_line(lambda: load("hmdb51", tmp_path / "h"), "testTrainMulti_7030_splits", "_test_split1.txt")


def test_hidden_companions_of_lists_are_no_classes(tmp_path):
    put(hmdb(tmp_path) / "testTrainMulti_7030_splits/._kick_test_split1.txt", "no text for us")
    assert len(load("hmdb51", tmp_path).classes) == 3


def test_lists_that_are_not_text(tmp_path):
    ucf(tmp_path)
    (tmp_path / "ucfTrainTestlist/trainlist01.txt").write_bytes(b"\xff\xfe\x00\x81")
    one_line(lambda: load("ucf101", tmp_path), "trainlist01.txt", "UTF-8")


def test_classes_that_read_alike(tmp_path):
    folder(tmp_path)
    for i in range(2):
        put(tmp_path / "Jump_Rope" / f"{i}.avi")
    one_line(lambda: load("folder", tmp_path), "'JumpRope' and 'Jump_Rope' read the same")


@pytest.mark.parametrize("video", ["../elsewhere.avi", "{root}/wave_hand/0.avi", ""])
def test_folder_lists_stay_inside(tmp_path, video):
    folder(tmp_path / "data")
    put(tmp_path / "elsewhere.avi")
    put(tmp_path / "data/train.csv", "video,label\n" + video.format(root=tmp_path / "data") + ",wave\n")
    put(tmp_path / "data/test.csv", "video,label\nwave_hand/1.MP4,wave\n")
    one_line(lambda: load("folder", tmp_path / "data"), "train.csv, line 2", "inside")


@pytest.mark.parametrize("name", ["hmdb51", "ucf101", "kinetics400"])
def test_missing_videos_are_counted_or_skipped(tmp_path, name):
    whole = load(name, BUILD[name](tmp_path))
    gone = [whole.splits[1].train[0].name, whole.splits[1].test[0].name]
    for video in gone:
        (whole.folder / video).unlink()
    one_line(
        lambda: load(name, tmp_path),
        f"2 of {len({v.name for s in whole.splits.values() for p in s for v in p})}",
        gone[0],
        gone[1],
        "complete the folder, or go on without them with --incomplete skip",
    )
    left = load(name, tmp_path, missing="skip")
    assert sorted(left.missing) == sorted(gone)
    assert left.splits[1].train == whole.splits[1].train[1:]
    assert left.splits[1].test == whole.splits[1].test[1:]
    assert left.fingerprint(1) != whole.fingerprint(1)


@pytest.mark.parametrize(
    ("name", "inside"),
    [("hmdb51", ["kick_ball"]), ("ucf101", ["YoYo"]), ("kinetics400", ["train/tai chi", "val/tai chi"])],
)
def test_a_missing_class_folder_is_named(tmp_path, name, inside):
    whole = load(name, BUILD[name](tmp_path))
    listed = {video.name for split in whole.splits.values() for part in split for video in part}
    other = next(video.name for video in whole.splits[1].test if video.name.rpartition("/")[0] not in inside)
    for folder_ in inside:
        shutil.rmtree(whole.folder / folder_)
    folders = f"{len(inside)} class folder{'s' * (len(inside) - 1)} ({', '.join(inside)})"
    message = one_line(
        lambda: load(name, tmp_path), f"{whole.folder}: {folders} are not there; complete the folder"
    )
    assert "listed videos" not in message and "leaves out videos, not whole classes" in message
    one_line(
        lambda: load(name, tmp_path, missing="skip"), "no training video"
    )  # so this way out is not offered
    (whole.folder / other).unlink()
    one_line(
        lambda: load(name, tmp_path),
        f"{folders} and 1 of {len(listed)} listed videos ({other}) are not there",
    )
    for folder_ in inside:  # a folder with nothing in it: its videos are named, and no more is offered
        (whole.folder / folder_).mkdir()
    message = one_line(lambda: load(name, tmp_path), f"of {len(listed)} listed videos (", "not whole classes")
    assert inside[0] + "/" in message and "class folder" not in message


def test_a_folder_list_naming_a_missing_file(tmp_path):
    folder(tmp_path)
    put(
        tmp_path / "train.csv", "video,label\nwave_hand/0.avi,wave\nnowhere/0.avi,jump\nJumpRope/0.avi,jump\n"
    )
    put(tmp_path / "test.csv", "video,label\nwave_hand/1.MP4,wave\n")
    one_line(lambda: load("folder", tmp_path), "1 of 4", "nowhere/0.avi")


def test_a_class_whose_training_videos_are_all_missing(tmp_path):
    data = load("kinetics400", kinetics(tmp_path))
    for video in data.splits[1].train:
        if video.label == 1:
            (data.folder / video.name).unlink()
    one_line(lambda: load("kinetics400", tmp_path, missing="skip"), "no training video", data.classes[1])


def test_pairs_are_labels(tmp_path):
    ucf(tmp_path)
    assert load("ucf101", tmp_path).pairs == ()
    put(tmp_path / "time_reversed_pairs.csv", "a,b\nHandstandPushups,ApplyEyeMakeup\n")
    assert load("ucf101", tmp_path).pairs == ((2, 0),)


def videos_of(counts: list[int]) -> tuple[Video, ...]:
    return tuple(Video(f"class{label}/{i}.avi", label) for label, n in enumerate(counts) for i in range(n))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_few_shot_laws(k):
    train = videos_of([4, 30, 9])
    drawn = few_shot(train, k, seed=0)
    assert [train[i].label for i in drawn] == [label for label in range(3) for _ in range(k)]
    assert len(set(drawn)) == 3 * k
    assert few_shot(train, k, seed=0) == drawn
    assert few_shot(train, k, seed=1) != drawn
    mixed = random.Random(5).sample(train, len(train))
    assert [mixed[i] for i in few_shot(mixed, k, seed=0)] == [train[i] for i in drawn]
    assert set(drawn) <= set(few_shot(train, 4, seed=0))  # nested


def test_few_shot_draws_every_video_alike():
    train = videos_of([10])
    hits = [0] * 10
    for seed in range(2000):
        for index in few_shot(train, 2, seed):
            hits[index] += 1
    # 400 expected, standard deviation 18.
    assert min(hits) > 320 and max(hits) < 480


def test_few_shot_names_the_class_that_is_too_small():
    one_line(lambda: few_shot(videos_of([4, 3]), 4, 0), "class 1", "class1", "3 training videos", "k=4")
    one_line(lambda: few_shot((Video("b/1.avi", 1),), 1, 0), "class 0", "0 training videos")
    one_line(lambda: few_shot(videos_of([4]), 0, 0), "k=0")


def listed(counts: list[int]) -> Dataset:
    """A data set of two splits whose first has so many training videos a class, and two test videos each."""
    names = tuple(f"class{label}" for label in range(len(counts)))
    test = tuple(Video(f"{name}/test{i}.avi", label) for label, name in enumerate(names) for i in range(2))
    train = videos_of(counts)
    return Dataset("d", Path("d"), names, names, {1: Split(train, test), 2: Split(test, train)}, ((0, 1),))


def test_a_third_of_each_class_is_held_out_and_no_test_video_stays():
    counts = [3, 4, 5, 6, 24, 25, 26, 70, 99]
    data = listed(counts)
    (number, (kept, held)), *none = hold_out(data, 100).splits.items()
    assert number == 1 and not none
    assert not set(kept) & set(held) and not (set(kept) | set(held)) & set(data.splits[1].test)
    assert sorted(kept + held) == sorted(data.splits[1].train)
    aside = [sum(video.label == label for video in held) for label in range(len(counts))]
    assert aside == [count // 3 for count in counts]
    again = hold_out(data, 100)
    assert again.splits[1] == Split(kept, held) and again.fingerprint(1) != data.fingerprint(1)
    assert (again.classes, again.texts, again.pairs) == (data.classes, data.texts, data.pairs)
    other = hold_out(data, 101).splits[1]
    assert set(other.test) != set(held) and len(other.test) == len(held)
    assert len(hold_out(data, 100, share=1 / 2).splits[1].test) == sum(count // 2 for count in counts)


def test_what_any_split_tests_is_on_neither_side_where_that_is_asked():
    data = listed([9, 12])
    other = tuple(data.splits[1].train[place] for place in (0, 4, 9, 10, 20))
    data = replace(data, splits={1: data.splits[1], 3: Split(data.splits[1].test, other)})
    kept, held = hold_out(data, 100, untested=True).splits[1]
    free = set(data.splits[1].train) - set(other)
    assert {*kept, *held} == free and not set(kept) & set(held)
    assert [sum(video.label == label for video in held) for label in (0, 1)] == [7 // 3, 9 // 3]
    assert {*hold_out(data, 100).splits[1].train} & set(other)
    data = replace(data, splits={1: data.splits[1], 3: Split(other, data.splits[1].train[:8])})
    one_line(lambda: hold_out(data, 100, untested=True), "'class0'", "1 training videos that no split tests",
             "-p lr=RATE")  # fmt: skip


def test_every_video_is_held_out_alike():
    data, hits = listed([9, 9]), [0] * 18
    for seed in range(900):
        for video in hold_out(data, seed).splits[1].test:
            hits[data.splits[1].train.index(video)] += 1
    # 300 expected, standard deviation 14.
    assert min(hits) > 240 and max(hits) < 360


def test_hold_out_names_the_class_that_is_too_small():
    one_line(lambda: hold_out(listed([9, 2]), 100), "'class1'", "2 training videos", "33%")
    one_line(lambda: hold_out(listed([9, 9]), 100, share=1), "'class0'", "100%")


@pytest.mark.parametrize("classes", [2, 5, 24, 101])
def test_half_of_the_classes_is_drawn_anew_and_the_same_every_time(classes):
    data = listed([1] * classes)
    draws = [half_of_classes(data, draw) for draw in range(10)]
    assert all(len(set(draw)) == len(draw) == classes // 2 for draw in draws)
    assert all(draw == sorted(draw) and set(draw) <= set(range(classes)) for draw in draws)
    assert draws == [half_of_classes(data, draw) for draw in range(10)]
    assert len(set(map(tuple, draws))) == 10 or classes < 24
    assert len(set().union(*draws)) > 0.9 * classes or classes < 24


def test_fingerprint_follows_labels_names_and_texts_only(tmp_path):
    def print_of(
        train=(("a.avi", 0), ("b.avi", 1)), test=(("c.avi", 0),), classes=("x", "y"), texts=("x", "y")
    ):
        split = Split(tuple(Video(*v) for v in train), tuple(Video(*v) for v in test))
        return Dataset("d", tmp_path, classes, texts, {1: split}).fingerprint(1)

    prints = [
        print_of(),
        print_of(train=(("a.avi", 0), ("b.avi", 0))),
        print_of(train=(("a.avi", 0), ("B.avi", 1))),
        print_of(train=(("b.avi", 1), ("a.avi", 0))),
        print_of(train=(("a.avi", 0), ("b.avi", 1), ("c.avi", 0)), test=()),
        print_of(classes=("x", "z")),
        print_of(texts=("x", "z")),
    ]
    assert len(set(prints)) == len(prints)
    assert print_of() == prints[0] and len(prints[0]) == 64
    one, other = load("hmdb51", hmdb(tmp_path / "a")), load("hmdb51", hmdb(tmp_path / "b"))
    assert one.fingerprint(1) == other.fingerprint(1) != one.fingerprint(2)


def test_presence_costs_one_look_per_folder_not_per_video(tmp_path, monkeypatch):
    names = [f"C{label:02d}/v_{i}.avi" for label in range(10) for i in range(40)]
    for name in names:
        put(tmp_path / "UCF-101" / name)
    put(tmp_path / "ucfTrainTestlist/classInd.txt", "".join(f"{i + 1} C{i:02d}\n" for i in range(10)))
    put(tmp_path / "ucfTrainTestlist/trainlist01.txt", "".join(f"{n} {int(n[1:3]) + 1}\n" for n in names[1:]))
    put(tmp_path / "ucfTrainTestlist/testlist01.txt", names[0])
    looks = []
    for call in ("stat", "scandir", "listdir"):
        real = getattr(os, call)
        monkeypatch.setattr(os, call, lambda *a, real=real, **k: looks.append(a) or real(*a, **k))
    assert len(load("ucf101", tmp_path).splits[1].train) == 399
    assert 10 <= len(looks) < 60


def test_import_is_light():
    code = "import sys, flowclip_kit.datasets.formats; sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
