"""Published few-shot lists: the ways they are written, labels that contradict, lines that name no training
video."""

from __future__ import annotations

import re

import pytest
from test_datasets import hmdb, kinetics, one_line, put, ucf

from flowclip_core.data.labels import class_text
from flowclip_kit.datasets import formats
from flowclip_kit.datasets.few_shot_lists import read_list


def test_a_list_of_vifi_and_one_of_ju(tmp_path):
    dataset = formats.load("hmdb51", hmdb(tmp_path))
    train = dataset.splits[1].train
    chosen = (train[5], train[0], train[1], train[2])
    vifi = "".join(f"{video.name.rpartition('/')[2]} {video.label}\n" for video in chosen)
    ju = "".join(f"{video.name.removesuffix('.avi')}\n\n" for video in chosen)
    words = ju.replace("_ball/", " ball/").replace("brush_hair/", "brush hair/")
    named = "".join(f"{video.name} {dataset.classes[video.label]}\n" for video in chosen)
    refuse = lambda line: pytest.fail(line)  # noqa: E731
    assert read_list(put(tmp_path / "1.txt", vifi), dataset, refuse) == chosen
    assert read_list(put(tmp_path / "2.txt", ju), dataset, refuse) == chosen
    assert read_list(put(tmp_path / "3.txt", words), dataset, refuse) == chosen and " " in words
    assert read_list(put(tmp_path / "4.txt", named), dataset, refuse) == chosen


def test_the_folder_counts_where_a_label_contradicts(tmp_path):
    dataset = formats.load("hmdb51", hmdb(tmp_path))
    swap = {0: 0, 1: 2, 2: 1}  # kick and kick_ball, as a list in use has them
    lines = [f"{video.name.rpartition('/')[2]} {swap[video.label]}\n" for video in dataset.splits[1].train]
    said = []
    assert read_list(put(tmp_path / "l.txt", "".join(lines)), dataset, said.append) == dataset.splits[1].train
    assert len(said) == 1 and "4 of 6 labels" in said[0] and "(kick, kick_ball)" in said[0]
    moved = put(
        tmp_path / "m.txt", "kick/" + dataset.splits[1].train[0].name.partition("/")[2].removesuffix(".avi")
    )
    assert read_list(moved, dataset, said.append)[0].label == 0 and "1 of 1 labels" in said[1]


def test_a_line_that_is_no_training_video_is_refused_by_its_number(tmp_path):
    dataset = formats.load("hmdb51", hmdb(tmp_path))
    (first, second), test = dataset.splits[1].train[:2], dataset.splits[1].test[0]
    good = f"{first.name} 0\n"
    for line, said in (
        (f"{test.name} 0", "is a test video of split 1"),
        (f"{first.name.removesuffix('.avi')}", "is listed twice"),
        ("nobody.avi 0", "is no video of the data set hmdb51"),
        ("brush_hair/nobody", "is no video of the data set hmdb51"),
    ):
        file = put(tmp_path / "l.txt", good + "\n" + line + "\n")
        one_line(lambda file=file: read_list(file, dataset), "l.txt, line 3:", said)
    (tmp_path / "videos" / second.name).unlink()
    missing = formats.load("hmdb51", tmp_path, missing="skip")
    file = put(tmp_path / "l.txt", f"{second.name} 0")
    one_line(lambda: read_list(file, missing), "line 1:", "is not on the disk")
    one_line(lambda: read_list(put(tmp_path / "l.txt", "\n"), dataset), "names no video")
    one_line(lambda: read_list(tmp_path / "none.txt", dataset), "none.txt: no such file")


def test_names_that_are_not_unique_need_their_folder(tmp_path):
    for name in ("a", "b"):
        for number in range(4):
            put(tmp_path / name / f"{number}.avi")
    dataset = formats.load("folder", tmp_path)
    video = dataset.splits[1].train[0]
    assert read_list(put(tmp_path / "l.txt", f"{video.name} 0"), dataset) == (video,)
    bare = put(tmp_path / "l.txt", video.name.rpartition("/")[2] + " 0")
    one_line(lambda: read_list(bare, dataset), "line 1", "is the name of several videos")


def test_kinetics_lists_with_spaces_and_without_times(tmp_path):
    dataset = formats.load("kinetics400", kinetics(tmp_path))
    train = [video for video in dataset.splits[1].train if " " in video.name][:2]
    lines = [train[0].name.removeprefix("train/").removesuffix(".mp4")]
    lines += [re.sub(r"_\d{6}_\d{6}\.mp4$", "", train[1].name.removeprefix("train/"))]
    refuse = lambda line: pytest.fail(line)  # noqa: E731
    assert read_list(put(tmp_path / "l.txt", "\n".join(lines)), dataset, refuse) == tuple(train)


def test_ucf_lists(tmp_path):
    dataset = formats.load("ucf101", ucf(tmp_path))
    train = dataset.splits[1].train
    lines = [video.name.removesuffix(".avi") for video in train]
    assert any("HandStandPushups" in line for line in lines)
    assert (
        read_list(put(tmp_path / "l.txt", "\n".join(lines)), dataset, lambda line: pytest.fail(line)) == train
    )


@pytest.mark.parametrize("style", ["words", "raw"])
def test_labels_are_compared_as_classes_however_the_prompts_spell_them(tmp_path, style):
    dataset = formats.load("ucf101", ucf(tmp_path), class_names=style)
    videos = dataset.splits[1].train
    for spell in (str, class_text, lambda name: class_text(name).replace(" ", "_").lower()):
        lines = [f"{spell(dataset.classes[video.label])}/{video.name.rpartition('/')[2]}" for video in videos]
        listed = put(tmp_path / "l.txt", "\n".join(lines))
        assert read_list(listed, dataset, lambda line: pytest.fail(line)) == videos
