"""The decoder audit: finds where seeking goes wrong, and comes to its end whatever a decoder does."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stuck
from clips import cut_short, every_frame, has_decord, make

from flowclip_core.data.video import segment_centres
from flowclip_core.errors import InputError
from flowclip_kit.datasets import decoder_audit
from flowclip_kit.datasets.decoder_audit import IN_ORDER, PYAV, SEEKING, Reading, audit, text

needs_decord = pytest.mark.skipif(not has_decord(), reason="decord is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    (folder / "deep" / "er").mkdir(parents=True)
    make(folder / "deep" / "er" / "b_frames.AVI", 100, tag="XVID", b=2)
    make(folder / "no_b_frames.avi", 100, tag="XVID")
    make(folder / "short.mp4", 5, "libx264")
    return folder


def by_reader(readings: list[Reading], name: str) -> dict[str, Reading]:
    return {reading.reader: reading for reading in readings if reading.name == name}


# --- what it finds ---


@needs_decord
def test_seeking_is_found_wrong_where_it_is_and_nowhere_else(made, capfd):
    seen = []
    readings = audit(made, progress=lambda done, total: seen.append((done, total)))
    names = ["deep/er/b_frames.AVI", "no_b_frames.avi", "short.mp4"]
    assert [reading.name for reading in readings] == [name for name in names for _ in range(3)]
    assert [reading.reader for reading in readings] == [PYAV, IN_ORDER, SEEKING] * 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert not [reading.error for reading in readings if reading.error]
    assert [reading.frames for reading in readings] == [100] * 6 + [5] * 3
    assert [reading.wanted for reading in readings] == [32] * 6 + [
        5
    ] * 3  # a frame that is picked twice counts once
    wrong = [reading.wrong for reading in readings]
    assert wrong[2] > 0 and wrong[:2] + wrong[3:] == [0] * 8
    assert [reading.codec for reading in readings[::3]] == ["mpeg4 XVID", "mpeg4 XVID", "h264 avc1"]
    said = text(readings)
    assert f"{IN_ORDER}:" not in said and f"{SEEKING}: {wrong[2]} of 32 frames differ" in said
    assert "decord by seeking returns other frames: 1 (deep/er/b_frames.AVI)" in said
    assert "features would come from other moments" in said
    assert capfd.readouterr() == ("", "") and not multiprocessing.active_children()


@needs_decord
@pytest.mark.parametrize("frames", [1, 7, 32])
def test_what_is_counted_equals_a_plain_comparison(made, frames):
    import decord

    path = made / "deep" / "er" / "b_frames.AVI"
    centres = segment_centres(100, frames)
    sought = decord.VideoReader(str(path), num_threads=1).get_batch(centres).asnumpy().astype(int)
    plain = sum(int(np.abs(a - b).max() > 2) for a, b in zip(sought, every_frame(path)[centres], strict=True))
    assert by_reader(audit(path.parent, frames=frames), path.name)[SEEKING].wrong == plain


@needs_decord
def test_damaged_files_are_told_and_cost_no_other(made, tmp_path, capfd):
    (tmp_path / "text.mp4").write_text("no video\nat all\n" * 20)
    whole = make(tmp_path / "whole.mp4", 60, "libx264", keys=5, muxer={"movflags": "faststart"})
    cut_short(tmp_path / "cut.mp4", whole, 0.9)
    cut_short(tmp_path / "cut.avi", made / "no_b_frames.avi", 0.6)
    readings = audit(tmp_path)
    assert len(readings) == 12
    for name in ("text.mp4", "cut.mp4", "cut.avi"):
        for reading in by_reader(readings, name).values():
            assert reading.error and "\n" not in reading.error and reading.wrong is None
            assert str(tmp_path) not in reading.error and ".cc:" not in reading.error
    assert [reading.wrong for reading in by_reader(readings, "whole.mp4").values()] == [0, 0, 0]
    assert "damaged or cut short" in by_reader(readings, "cut.avi")[PYAV].error
    said = text(readings)
    assert "- cannot be read by PyAV: 3 (cut.avi, cut.mp4, text.mp4)" in said
    assert by_reader(readings, "text.mp4")[SEEKING].error.startswith(decoder_audit.NOT_OPENED)
    assert "whole.mp4" not in said
    assert capfd.readouterr() == ("", "")


@needs_decord
def test_other_pixels_are_not_taken_for_other_moments(tmp_path):
    make(tmp_path / "ten_bits.mkv", 12, "ffv1", pixels="yuv420p10le")
    readings = audit(tmp_path)
    assert [reading.wrong for reading in readings] == [0, 12, 12]
    assert "other moments" not in text(readings) and "other pixels" in text(readings)


# --- a decoder that does not come back ---


@needs_decord
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (stuck.hang, "no end after 2 s"),
        (stuck.crash, "crashed (SIGSEGV)"),
        (stuck.leave, "ended with code 3"),
    ],
)
def test_a_reading_that_is_lost_costs_itself_alone(made, monkeypatch, fault, said):
    monkeypatch.setitem(decoder_audit.READERS, IN_ORDER, fault)
    before = time.monotonic()
    readings = audit(made, seconds=2)
    assert time.monotonic() - before < 300  # without the bound it would never end
    lost = by_reader(readings, "no_b_frames.avi")
    assert said in lost[IN_ORDER].error and lost[IN_ORDER].wrong is None
    assert lost[PYAV].wrong == lost[SEEKING].wrong == 0
    for name in ("short.mp4", "deep/er/b_frames.AVI"):
        other = by_reader(readings, name)
        assert not other[IN_ORDER].error and not other[SEEKING].error
    assert by_reader(readings, "deep/er/b_frames.AVI")[SEEKING].wrong > 0
    assert "an error, a crash or no end: 1 (no_b_frames.avi)" in text(readings)
    assert not multiprocessing.active_children()


@needs_decord
def test_without_a_reference_there_is_one_wait_not_three(made, monkeypatch):
    monkeypatch.setitem(decoder_audit.READERS, PYAV, stuck.hang)
    readings = audit(made, seconds=2)
    lost = by_reader(readings, "no_b_frames.avi")
    assert lost[PYAV].error == "no end after 2 s"
    assert lost[IN_ORDER].error == lost[SEEKING].error == f"not tried, {PYAV}: no end after 2 s"
    assert not by_reader(readings, "short.mp4")[SEEKING].error


@needs_decord
def test_a_program_that_stops_leaves_no_process(made):
    def stop(done: int, total: int) -> None:
        assert multiprocessing.active_children()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(made, progress=stop)
    assert not multiprocessing.active_children()


# --- which videos ---


class Idle:
    """A reading process that opens nothing."""

    def run(self, seconds, read, path, frames, reading) -> Reading:
        assert path.exists()
        return replace(reading, frames=frames, wanted=frames, wrong=0)

    def end(self) -> None:
        pass


@pytest.fixture
def unread(monkeypatch):
    if not has_decord():
        pytest.skip("decord is not installed")
    monkeypatch.setattr(decoder_audit, "_Process", Idle)


def sampled(folder: Path, **options) -> list[str]:
    return [reading.name for reading in audit(folder, **options)[::3]]


def test_the_sample_is_drawn_by_the_seed(tmp_path, unread):
    for folder in "ab":
        for number in range(15):
            path = tmp_path / folder / f"{number}.webm"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    first = sampled(tmp_path, sample=6, seed=1)
    assert len(set(first)) == 6 and first == sorted(first)
    assert sampled(tmp_path, sample=6, seed=1) == first != sampled(tmp_path, sample=6, seed=2)
    assert len(set(sampled(tmp_path, sample=31))) == 30


def test_videos_anywhere_below_are_found_once(tmp_path, unread):
    for name in (
        "a.mp4",
        "x/y/z/b.MKV",
        "x/c.avi",
        "x/notes.txt",
        ".hidden/d.avi",
        "x/.e.avi",
        "folder.mp4/f.mpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "x" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert sampled(tmp_path) == ["a.mp4", "folder.mp4/f.mpg", "x/c.avi", "x/y/z/b.MKV"]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 exist on Linux")
def test_a_name_that_is_not_utf8_can_be_told(tmp_path, unread):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xf6\xdfe.avi")).touch()
    readings = audit(tmp_path)
    assert readings[0].name == r"gr\xf6\xdfe.avi"
    assert text(readings).encode()


@needs_decord
def test_bad_input_is_named_in_one_line(tmp_path):
    for options, said in [
        ({"folder": tmp_path}, rf"{tmp_path}: no video \(.* avi .*name a folder"),
        ({"folder": tmp_path / "absent"}, "absent: no such folder"),
        ({"folder": tmp_path, "sample": 0}, "sample 0: expected more than 0"),
        ({"folder": tmp_path, "seconds": float("nan")}, "seconds nan"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            audit(**options)
        assert "\n" not in str(caught.value)


def test_without_decord_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)  # what an import of a package that is not there meets
    with pytest.raises(InputError, match="pip install decord"):
        audit(tmp_path)


# --- telling ---


def three(name: str, ours: dict, order: dict, seek: dict) -> list[Reading]:
    facts = zip((PYAV, IN_ORDER, SEEKING), (ours, order, seek), strict=True)
    return [Reading(name, reader, "1.0", "mpeg4 XVID", **fact) for reader, fact in facts]


FINE = {"frames": 100, "wanted": 32, "wrong": 0}
WORLD = [
    *three("fine.avi", FINE, FINE, FINE),
    *three("jumps.avi", FINE, FINE, FINE | {"wrong": 29}),
    *three("class/" + "a_very_long_name_" * 9 + "x.avi", FINE, FINE | {"wrong": 3}, FINE | {"wrong": 30}),
    *three(
        "miscounted.avi", FINE, FINE | {"frames": 133}, {"frames": 133, "wanted": 32, "error": "ends early"}
    ),
    *three("closed.mkv", FINE, *[{"error": f"{decoder_audit.NOT_OPENED} (" + "why " * 60 + ")"}] * 2),
    *three(
        "broken.mp4",
        {"error": "damaged at frame 3"},
        *[{"frames": 9, "error": "nothing to compare with"}] * 2,
    ),
]


def test_the_report_counts_and_fits():
    lines = text(WORLD).splitlines()
    assert max(map(len, lines)) <= 100
    rows = lines[1 : lines.index("")]
    named = [row.split()[0] for row in rows if not row.startswith(" ")]
    assert named[0] == "jumps.avi" and named[2:] == ["miscounted.avi", "closed.mkv", "broken.mp4"]
    assert named[1].startswith("…") and named[1].endswith("a_very_long_name_x.avi")
    told = " ".join(" ".join(lines[lines.index("") :]).split())
    assert "6 videos, 160 frames of them" in told
    for what, count in [
        ("decord by seeking returns other frames", 2),
        ("decord in order returns other frames", 1),
        ("cannot be opened by decord", 1),
        ("opened by decord, then an error, a crash or no end", 1),
        ("cannot be read by PyAV", 1),
    ]:
        assert f"- {what}: {count} (" in told
    assert "decord counts 133 frames; decord by seeking: ends early" in " ".join(" ".join(rows).split())


def test_the_report_of_a_sound_sample_has_no_table():
    said = text(WORLD[:3])
    assert "disagrees" not in said and "fine.avi" not in said
    assert said.count(": 0\n") == 5 and "nowhere" in said and "other moments" not in said


def test_the_names_of_many_are_cut_after_three():
    readings = [replace(reading, name=f"{i}.avi") for i in range(4) for reading in WORLD[3:6]]
    assert "other frames: 4 (0.avi, 1.avi, 2.avi, ...)" in text(readings)
    assert len([line for line in text(readings).splitlines() if "29 of 32" in line]) == 4
