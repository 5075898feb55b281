"""Where the explorers' clips come from: menus, files, uploads, data sets; what is wrong with one is one
line."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_kit.datasets import formats
from flowclip_kit.demo import world
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.explore import checkpoints, clips, dataset_report, panels, widgets

SIZE = world.Size(("sit_down", "stand_up", "wave"), 3, 2)


@pytest.fixture(scope="module")
def tower():
    return load_backbone()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return world.ensure("figures-h", tmp_path_factory.mktemp("world"), size=SIZE)


@pytest.fixture
def explorer(tower, tmp_path, monkeypatch) -> widgets.MotionExplorer:
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    return widgets.MotionExplorer(checkpoints.load(tower))


@pytest.fixture
def drawn(monkeypatch) -> list[str]:
    """The titles of the clips that were drawn since."""
    titles, board = [], panels.motion_board

    def counted(model, footage, *rest):
        titles.append(footage.title)
        return board(model, footage, *rest)

    monkeypatch.setattr(panels, "motion_board", counted)
    return titles


def upload(explorer, name: str, content: bytes) -> None:
    about = {
        "name": name,
        "content": content,
        "type": "",
        "size": len(content),
        "last_modified": datetime.now(),
    }
    explorer.source.upload.value = (about,)


def video(label: str = "wave") -> bytes:
    return world.encode(world.render("figures-h", label, 1))


def test_uploads_are_drawn_once_and_broken_ones_told(explorer, drawn):
    upload(explorer, "mine.avi", video())
    assert drawn == ["mine.avi"] and not explorer.live.error
    before = explorer.live.picture.value
    upload(explorer, "broken.mp4", video()[:900])
    assert drawn == ["mine.avi"] and explorer.live.picture.value == before
    assert "broken.mp4" in explorer.live.error and "\n" not in explorer.live.error
    explorer.step.value = 2  # draws the clip that was there, and the line stays
    assert drawn == ["mine.avi"] * 2 and "broken.mp4" in explorer.live.error
    upload(explorer, "mine.avi", video())
    assert not explorer.live.error


def test_a_menu_takes_over_from_a_path_with_one_drawing(explorer, drawn, tmp_path):
    path = tmp_path / "own.avi"
    path.write_bytes(video())
    explorer.source.path.value = str(path)
    explorer.source.menu.value = "get up"
    assert drawn == ["own.avi", "get up, clip 0"] and explorer.source.path.value == ""


def test_a_file_that_was_changed_is_read_again(explorer, drawn, tmp_path):
    path = tmp_path / "own.avi"
    path.write_bytes(video())
    explorer.source.path.value = str(path)
    before = explorer.footage.features
    path.write_bytes(video("get_up"))
    explorer.source.menu.value = "get up"
    explorer.source.path.value = str(path)
    assert abs(explorer.footage.features - before).max() > 0.01
    kept = explorer.footage
    explorer.source.menu.value = "wave"
    explorer.source.path.value = str(path)
    assert explorer.footage is kept  # not read again


def test_what_takes_a_moment_is_said(explorer, monkeypatch):
    said, read = [], clips.read
    monkeypatch.setattr(
        clips, "read", lambda *a, **k: (said.append(explorer.live.line.value), read(*a, **k))[1]
    )
    explorer.source.number.value = 2
    assert len(said) == 1 and "reading" in said[0] and explorer.live.line.value == ""


def test_real_files_upright_and_broken(explorer, clips):
    source = explorer.source
    for name in ("arm_wrestling.mp4", "rotated_90.mov"):
        source.path.value = str(clips / name)
        assert explorer.footage.title == name and not explorer.live.error
    source.path.value = str(clips / "corrupted.mp4")
    assert "corrupted.mp4" in explorer.live.error and "\n" not in explorer.live.error
    assert explorer.footage.title == "rotated_90.mov"


# --- data sets
# ------------------------------------------------------------------------------------------------


def test_a_data_set_is_offered_by_class_and_number(tower, root, drawn):
    data = formats.load("figures-h", root)
    explorer = widgets.MotionExplorer(checkpoints.load(tower, data.texts), data)
    assert explorer.source.labels == ["sit down", "stand up", "wave"] and explorer.source.number.max == 1
    explorer.source.menu.value = "wave"
    explorer.source.number.value = 1
    first, second = sorted(video.name for video in data.splits[1].test if data.texts[video.label] == "wave")
    assert drawn[-2:] == [f"wave, {Path(first).name}", f"wave, {Path(second).name}"]
    assert not explorer.footage.own and not explorer.footage.demo


def test_a_first_clip_that_cannot_be_read_leaves_the_explorer_usable(tower, root, tmp_path):
    shutil.copytree(root, tmp_path / "set")
    data = formats.load("figures-h", tmp_path / "set")
    first = clips.clips_of(data)["sit down"][0]
    first.write_bytes(b"no video")
    for explorer in (
        widgets.MotionExplorer(checkpoints.load(tower, data.texts), data),
        widgets.PromptExplorer(tower, dataset=data),
    ):
        assert first.name in explorer.live.error and not explorer.live.picture.value
        widgets.show(explorer)
        explorer.source.number.value = 1
        assert not explorer.live.error and explorer.live.picture.value


def test_bad_class_names_are_a_line_too(tower, root):
    explorer = widgets.PromptExplorer(tower, names="run", dataset=formats.load("figures-h", root))
    assert "at least two" in explorer.live.error
    explorer.names.value = "run, wave"
    assert not explorer.live.error and explorer.live.picture.value and explorer.shown.value == "run"
    explorer.shown.value = "wave"
    explorer.names.value = "jog, wave"
    assert explorer.shown.value == "wave"


def test_clips_that_were_seen_and_files_of_ones_own_can_lend_their_motion(tower, root, tmp_path):
    explorer = widgets.PromptExplorer(tower, dataset=formats.load("figures-h", root))
    path = tmp_path / "own.avi"
    path.write_bytes(video())
    explorer.source.path.value = str(path)
    explorer.source.menu.value = "wave"
    assert [title.split(",")[0] for title in explorer.seen] == ["sit down", "own.avi", "wave"]
    before = explorer.live.picture.value
    explorer.other.value = "own.avi"
    assert not explorer.live.error and explorer.live.picture.value != before


def test_overlap_is_found_in_the_lists_themselves(root, tmp_path):
    folder, classes, splits = formats.read_lists("figures-h", root)
    assert not dataset_report.overlap((folder, classes, splits)).any(axis=None)
    train, test = splits[1]
    leaky = dataset_report.overlap(
        (folder, classes, {1: (train, [*test, train[0]]), 2: ([*train, train[0]], test)})
    )
    assert leaky.loc[1].tolist() == [1, 1, 0, 0] and leaky.loc[2].tolist() == [1, 0, 0, 0]
    copy = replace_bytes(folder, tmp_path / "copy", test[0].name, (folder / train[0].name).read_bytes())
    assert dataset_report.overlap((copy, classes, {1: (train, test)})).loc[1].tolist() == [0, 0, 1, 0]
    (copy / test[0].name).unlink()
    assert not dataset_report.overlap((copy, classes, {1: (train, test)})).any(axis=None)
    named = [formats.Video(f"Archery/v_Archery_g{group}_c{clip}.avi", 0) for group, clip in ("11", "12", "21")
             for group, clip in [(f"0{group}", f"0{clip}")]]  # fmt: skip
    assert (
        dataset_report.overlap((copy, classes, {1: (named[:1], named[1:])})).loc[1, "recordings in both"] == 1
    )


def replace_bytes(folder: Path, copy: Path, name: str, content: bytes) -> Path:
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(content)
    return copy


def test_a_leaky_set_is_reported_before_it_is_refused(root, tmp_path, monkeypatch):
    videos = tmp_path / "data"
    for part, names in (("train", ("1", "2")), ("test", ("2", "3"))):
        rows = [f"{label}/{name}.avi,{label}" for label in ("a", "b") for name in names]
        videos.mkdir(exist_ok=True)
        (videos / f"{part}.csv").write_text("\n".join(["video,label", *rows, ""]))
    for label in "ab":
        (videos / label).mkdir()
        for name in "123":
            (videos / label / f"{name}.avi").write_bytes(f"{label}{name}".encode())
    found = dataset_report.lists("folder", str(videos))
    assert dataset_report.overlap(found).loc[1].tolist() == [2, 2, 0, 0]
    with pytest.raises(InputError, match="listed more than once"):
        dataset_report.open_set("folder", str(videos))


def test_counts_balance_and_missing_videos_by_name(root):
    data = formats.load("figures-h", root)
    assert dataset_report.counts(data).loc[1, ["training", "test"]].tolist() == [9, 6]
    assert dataset_report.balance(data).loc["sit down"].tolist() == [3, 2]
    lacking = replace(data, missing=tuple(f"lost{n}.avi" for n in range(12)))
    assert "12 listed videos missing: lost0.avi" in dataset_report.overview(
        lacking
    ) and "and 2 more" in dataset_report.overview(lacking)
    assert "missing:" not in dataset_report.overview(data)


def test_the_sample_sheet_shows_the_classes_asked_for(root):
    data = formats.load("figures-h", root)
    sheet = dataset_report.sample_sheet(data, chosen=["wave", "sit down"])
    assert [ax.get_title(loc="left").split(":")[0] for ax in sheet.axes] == ["wave", "sit down"]
    for ax in sheet.axes:
        assert np.asarray(ax.images[0].get_array()).std() > 1
    assert len(dataset_report.sample_sheet(data, classes=2).axes) == 2
    with pytest.raises(InputError, match="no class 'waves'"):
        dataset_report.sample_sheet(data, chosen=["waves"])
    assert dataset_report.balance_picture(data).axes


# --- models ---------------------------------------------------------------------------------------------------


def test_captions_say_what_scores_mean(tower, small):
    shipped, untrained = checkpoints.load(tower), checkpoints.load(small, ["run", "wave"])
    assert checkpoints.about(shipped, demo=True) == "demo world, not evidence about the paper's data"
    assert (
        "demo" not in checkpoints.about(shipped, demo=False)
        and checkpoints.about(shipped, demo=False) == tower.about
    )
    for demo in (True, False):
        assert "untrained" in checkpoints.about(untrained, demo) and "untrained" not in checkpoints.about(
            shipped, demo
        )
    assert "untrained" in checkpoints.about(checkpoints.resized(untrained, 4, 2), False)


def test_a_checkpoint_brings_its_backbone_and_no_foreign_companion(tower, tmp_path):
    other = load_backbone("ViT-B-32", None)
    folder = tmp_path / "parts"
    FlowCLIP(ModelConfig(), other, ["run", "wave"]).save_pretrained(folder)
    found = checkpoints.backbone(checkpoint=folder)
    assert found.name == other.name and found.weights_hash == other.weights_hash
    assert checkpoints.load(found, None, folder).class_texts == ("run", "wave")
    assert (
        checkpoints.load_static(tower) is not None and checkpoints.load_static(tower, beside=folder) is None
    )
    shipped = checkpoints.SHIPPED[checkpoints.STATIC]
    assert (
        checkpoints.load_static(tower, beside=checkpoints.SHIPPED[checkpoints.FULL], checkpoint=shipped)
        is not None
    )


def test_a_model_of_32_frames_is_shown_at_32_frames(tower, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path))
    model = checkpoints.resized(checkpoints.load(tower), 32, 4)
    explorer = widgets.MotionExplorer(model)
    assert explorer.frames.value == 32 and explorer.view.frames == 32 and explorer.step.max == 31
