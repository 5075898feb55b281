"""Where the explorers' clips come from: menus, files, uploads, data sets; what is wrong with one is one line.

And what `lab` opens, and a data set at a glance.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import nbformat
import numpy as np
import pytest

from flowclip_core.errors import InputError
from flowclip_kit.datasets import formats
from flowclip_kit.demo import world
from flowclip_kit.explore import checkpoints, clips, dataset_report, lab, motion, widgets

SIZE = world.Size(("sit_down", "stand_up", "wave"), 3, 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return world.ensure("figures-h", tmp_path_factory.mktemp("world"), size=SIZE)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
    """A cache of these tests' own; no search for the clip to open with."""
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(motion, "telling_clip", lambda model: None)


@pytest.fixture
def explorer(tower) -> widgets.MotionExplorer:
    return widgets.MotionExplorer(checkpoints.load(tower))


@pytest.fixture
def drawn(monkeypatch) -> list[str]:
    """The titles of the clips that were drawn since."""
    titles, draw = [], widgets.MotionExplorer.draw

    def counted(self):
        titles.append(self.footage.title)
        return draw(self)

    monkeypatch.setattr(widgets.MotionExplorer, "draw", counted)
    return titles


def shown(explorer) -> list:
    return [panel.value for panel in explorer.panels.values()]


def upload(explorer, name: str, content: bytes) -> None:
    about = {
        "name": name,
        "content": content,
        "type": "",
        "size": len(content),
        "last_modified": datetime.now(),
    }
    explorer.upload.value = (about,)


def video(label: str = "wave") -> bytes:
    return world.encode(world.render("figures-h", label, 1))


def test_uploads_are_drawn_once_named_in_the_list_and_previewed(explorer, drawn):
    preview = explorer.preview.value
    upload(explorer, "mine.avi", video())
    assert drawn == ["mine.avi"] and not explorer.error
    assert explorer.menu.value == "own: mine.avi" and explorer.preview.value != preview
    assert explorer.footage.label == "" and explorer.number.max == 0
    before = shown(explorer)
    upload(explorer, "broken.mp4", video()[:900])
    assert drawn == ["mine.avi"] and shown(explorer) == before and explorer.menu.value == "own: mine.avi"
    assert "broken.mp4" in explorer.error and "\n" not in explorer.error
    explorer.step.value = 2  # draws the clip that was there, and the line stays
    assert drawn == ["mine.avi"] * 2 and "broken.mp4" in explorer.error
    upload(explorer, "mine.avi", video())
    assert not explorer.error


def test_the_list_switches_between_own_files_and_classes(explorer, drawn, tmp_path):
    path = tmp_path / "own.avi"
    path.write_bytes(video())
    explorer.path.value = str(path)
    assert explorer.path.value == "" and explorer.menu.value == "own: own.avi"
    before = explorer.footage
    explorer.menu.value = "get up"
    assert explorer.number.max == world.TEST - 1
    explorer.menu.value = "own: own.avi"
    assert drawn == ["own.avi", "get up, clip 0", "own.avi"]
    assert explorer.footage is before  # not read again
    path.write_bytes(video("get_up"))
    explorer.path.value = str(path)  # a file that was changed is
    assert abs(explorer.footage.features - before.features).max() > 0.01


def test_what_takes_a_moment_is_said(explorer, monkeypatch):
    lines, read = [], clips.read
    monkeypatch.setattr(clips, "read", lambda *args: lines.append(explorer.line.value) or read(*args))
    explorer.number.value = 2
    assert len(lines) == 1 and "reading" in lines[0] and explorer.line.value == ""


def test_real_files_upright_and_broken(explorer, clips):
    for name in ("arm_wrestling.mp4", "rotated_90.mov"):
        explorer.path.value = str(clips / name)
        assert explorer.footage.title == name and not explorer.error
    explorer.path.value = str(clips / "corrupted.mp4")
    assert "corrupted.mp4" in explorer.error and "\n" not in explorer.error
    assert explorer.footage.title == "rotated_90.mov"


def test_a_data_set_is_offered_by_class_and_number(tower, root, drawn):
    data = formats.load("figures-h", root)
    explorer = widgets.MotionExplorer(checkpoints.load(tower, data.texts), data)
    assert explorer.labels == ["sit down", "stand up", "wave"] and explorer.number.max == 1
    explorer.menu.value = "wave"
    explorer.number.value = 1
    first, second = sorted(video.name for video in data.splits[1].test if data.texts[video.label] == "wave")
    assert drawn[-2:] == [f"wave, {Path(first).name}", f"wave, {Path(second).name}"]
    assert explorer.footage.label == "wave" and not explorer.footage.demo


def test_a_first_clip_that_cannot_be_read_leaves_the_explorer_usable(tower, root, tmp_path):
    shutil.copytree(root, tmp_path / "set")
    data = formats.load("figures-h", tmp_path / "set")
    first = clips.clips_of(data)["sit down"][0]
    first.write_bytes(b"no video")
    for explorer in (
        widgets.MotionExplorer(checkpoints.load(tower, data.texts), data),
        widgets.PromptExplorer(tower, dataset=data),
    ):
        assert first.name in explorer.error and not any(shown(explorer))
        explorer.number.value = 1
        assert not explorer.error and all(shown(explorer))


def test_bad_class_names_are_a_line_too(tower, root):
    explorer = widgets.PromptExplorer(tower, names="run", dataset=formats.load("figures-h", root))
    assert "at least two" in explorer.error
    explorer.names.value = "run, wave"
    assert not explorer.error and all(shown(explorer)) and explorer.shown.value == "run"
    explorer.shown.value = "wave"
    explorer.names.value = "jog, wave"
    assert explorer.shown.value == "wave"


def test_clips_that_were_seen_and_own_files_can_lend_their_motion(tower, root, tmp_path):
    explorer = widgets.PromptExplorer(tower, dataset=formats.load("figures-h", root))
    path = tmp_path / "own.avi"
    path.write_bytes(video())
    explorer.path.value = str(path)
    explorer.menu.value = "wave"
    assert [title.split(",")[0] for title in explorer.seen] == ["sit down", "own.avi", "wave"]
    before = explorer.panels["words"].value
    explorer.other.value = "own: own.avi"
    assert not explorer.error and explorer.panels["words"].value != before


# --- lab ----------------------------------------------------------------------------------------------------


def test_lab_works_on_copies_and_keeps_the_users_changes(tmp_path, capsys):
    originals, folder = tmp_path / "notebooks", tmp_path / "copies"

    def write(path: Path, source: str, output: str = "") -> None:
        path.parent.mkdir(exist_ok=True)
        cell = nbformat.v4.new_code_cell(source)
        cell.outputs = [nbformat.v4.new_output("stream", text=output)] if output else []
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)

    def text(name: str) -> str:
        return (folder / name).read_text()

    for name in ("run.ipynb", "changed.ipynb"):
        write(originals / name, "1")
    before = [path.read_bytes() for path in sorted(originals.iterdir())]
    assert lab.prepare(originals, folder) == folder
    write(folder / "run.ipynb", "1", "an output")
    write(folder / "changed.ipynb", "my own")
    lab.prepare(originals, folder)
    assert "an output" in text("run.ipynb") and "my own" in text("changed.ipynb")
    assert [path.read_bytes() for path in sorted(originals.iterdir())] == before
    for name in ("run.ipynb", "changed.ipynb"):
        write(originals / name, "22")
    capsys.readouterr()
    lab.prepare(originals, folder)
    assert '"22"' in text("run.ipynb") and "my own" in text("changed.ipynb")
    assert "changed.ipynb has changes of yours" in capsys.readouterr().err
    (folder / "run.ipynb").write_text("{")
    lab.prepare(originals, folder)
    assert "run.ipynb has changes of yours" in capsys.readouterr().err


# --- data sets ----------------------------------------------------------------------------------------------


def test_overlap_is_found_in_the_lists_themselves(root, tmp_path):
    whole = formats.read_lists("figures-h", root)
    folder = whole.folder
    assert not dataset_report.overlap(whole).any(axis=None)
    train, test = whole.splits[1]
    leaky = dataset_report.overlap(
        whole._replace(splits={1: (train, [*test, train[0]]), 2: ([*train, train[0]], test)})
    )
    assert leaky.loc[1].tolist() == [1, 1, 0, 0] and leaky.loc[2].tolist() == [1, 0, 0, 0]
    copy = replace_bytes(folder, tmp_path / "copy", test[0].name, (folder / train[0].name).read_bytes())
    copied = whole._replace(folder=copy, splits={1: (train, test)})
    assert dataset_report.overlap(copied).loc[1].tolist() == [0, 0, 1, 0]
    (copy / test[0].name).unlink()
    assert not dataset_report.overlap(copied).any(axis=None)
    named = [formats.Video(f"Archery/v_Archery_g{group}_c{clip}.avi", 0) for group, clip in ("11", "12", "21")
             for group, clip in [(f"0{group}", f"0{clip}")]]  # fmt: skip
    copied = whole._replace(folder=copy, splits={1: (named[:1], named[1:])})
    assert dataset_report.overlap(copied).loc[1, "recordings in both"] == 1


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
