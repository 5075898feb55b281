"""What is no video, or shows no end, is refused in one line; the same file gets one answer whatever reads
it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from clips import cut_short, every_frame, has_decord, make, make_heic, make_reference, make_still, repeat
from fault_table import Fault, check

from flowclip_core.data import video
from flowclip_core.errors import VideoError
from flowclip_kit.datasets import decoder_audit, decoders
from flowclip_kit.datasets.decoders import read_frames
from flowclip_kit.distributed.process_pool import Pool
from flowclip_kit.explore import clips as explorer

pytestmark = pytest.mark.usefixtures("watchdog")
needs_decord = pytest.mark.skipif(not has_decord(), reason="decord is not installed")

# --- F18: what is no video
# ------------------------------------------------------------------------------------

M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"


def other(path: Path) -> Path:
    """A sound video beside `path`, which `path` then names."""
    return make(path.with_name("other.avi"), 8, tag="XVID")


def concat(path: Path, *names: str) -> None:
    path.write_text("ffconcat version 1.0\n" + "".join(f"file {name}\n" for name in names))


def nested(path: Path) -> None:
    """A list that names itself."""
    concat(path, path.name)


def onto_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe.avi"))
    concat(path, "pipe.avi")


TEXT = "cannot be read as a video: it is a text, such as a playlist; give the video itself"
KIND = "cannot be read as a video: expected AVI, MP4, .*; playlists and pictures are no videos"
STILL = r"a still picture \(.*\), no video"
NO_VIDEOS = {  # name: what makes it, what is said of it
    "list.avi": (lambda path: concat(path, other(path).name), TEXT),
    "list.m3u8": (lambda path: path.write_text(f"{M3U8}{other(path).name}\n#EXT-X-ENDLIST\n"), TEXT),
    "live.m3u8": (
        lambda path: path.write_text(f"{M3U8}{other(path).name}\n"),
        TEXT,
    ),  # has no end: more may come
    "elsewhere.m3u8": (
        lambda path: path.write_text(f"{M3U8}http://nowhere.invalid/a.ts\n#EXT-X-ENDLIST\n"),
        TEXT,
    ),
    "hidden.m3u8": (
        lambda path: path.write_bytes(f"#EXTM3U\n#\1\n{M3U8}{other(path).name}\n".encode()),
        KIND,
    ),
    "itself.mp4": (nested, TEXT),
    "pipe_inside.mp4": (onto_a_pipe, TEXT),
    "session.sdp": (
        lambda path: path.write_text(
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n"
        ),
        TEXT,
    ),
    "manifest.mpd": (
        lambda path: path.write_text('<?xml version="1.0"?>\n<MPD type="dynamic"></MPD>\n'),
        TEXT,
    ),
    "art.ans": (
        lambda path: path.write_bytes(b"\33[31m" + b"red \33[0m\n" * 9),
        KIND,
    ),  # FFmpeg draws such texts
    "reference.mov": (
        lambda path: make_reference(path, make(path.with_name("other.mov"), 8)),
        "its video stream holds no frames",
    ),
    "picture.png": (lambda path: make_still(path, "png", "rgb24"), KIND),
    "moving.png": (lambda path: make_still(path, "apng", "rgb24", "apng", 5), KIND),
    "picture.avi": (lambda path: make_still(path, "mjpeg", "yuvj420p", "image2"), KIND),
    "numbered_%03d.jpg": (
        lambda path: path.write_bytes(b"\xff\xd8\xff\xe0"),
        KIND,
    ),  # to FFmpeg: a row of files
    "picture.heic": (make_heic, STILL),
    "picture.gif": (lambda path: make_still(path, "gif", "rgb8"), STILL),
    "pipe.avi": (lambda path: os.mkfifo(path), "not a regular file"),
}
FAULTS = [
    Fault("F18", name, lambda folder, name=name: predict(folder / name), 2, f"{name}: {said}")
    for name, (_, said) in NO_VIDEOS.items()
]


def predict(path: Path) -> list[object]:
    NO_VIDEOS[path.name][0](path)
    return ["predict", path, "--labels", "run,walk"]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults(fault, tmp_path, capsys):
    check(fault, tmp_path, capsys)


def test_F18_what_is_refused_is_never_shown_to_decord(tmp_path, monkeypatch):
    class Trap:
        __version__ = "0"

        def VideoReader(self, *_, **__):  # noqa: N802
            pytest.fail("decord was given the file")

    monkeypatch.setattr(decoders, "import_decord", Trap)
    for name in NO_VIDEOS:
        path = tmp_path / f"of {name}" / name
        path.parent.mkdir()
        NO_VIDEOS[name][0](path)
        with pytest.raises(VideoError):
            read_frames(path, lambda n: [0], "decord")
        if not name.startswith("pipe.") and name != "reference.mov":  # a sound head, which decord may open
            reading = decoder_audit._by_decord(
                decoder_audit._in_order, path, 4, decoder_audit.Reading(name, decoder_audit.IN_ORDER, "0")
            )
            assert reading.error.startswith(decoder_audit.NOT_OPENED) or name == "picture.gif"


@needs_decord
def test_F18_decord_reads_no_reference_either(tmp_path):
    make_reference(tmp_path / "reference.mov", make(tmp_path / "other.mov", 8))
    (tmp_path / "other.mov").rename(tmp_path / "other.hidden")
    for reading in decoder_audit.audit(tmp_path):
        assert reading.error and not reading.wanted


def test_F18_an_upload_is_refused_like_a_path(tmp_path, small):
    concat(tmp_path / "list.avi", str(other(tmp_path / "list.avi")))
    upload = explorer.save_upload("clip.avi", (tmp_path / "list.avi").read_bytes(), tmp_path / "uploads")
    with pytest.raises(VideoError, match=f"clip.avi: {TEXT}"):
        explorer.read(upload, small)


def test_F18_an_upload_stays_in_its_folder(tmp_path):
    for name in ("..", "../..", "a/..", "", "x" * 300 + ".avi"):
        path = explorer.save_upload(name, b"no video", tmp_path / "uploads")
        assert path.is_file() and path.parent.parent == tmp_path / "uploads"


def test_F18_a_gif_of_several_pictures_is_a_video(tmp_path):
    path = make_still(tmp_path / "moving.gif", "gif", "rgb8", n=7)
    clip = read_frames(path, range)
    assert clip.count == 7 and np.array_equal(clip.frames, every_frame(path))


def test_F18_what_shows_no_end_is_ended(tmp_path, monkeypatch):
    path = make(tmp_path / "long.avi", 30)
    monkeypatch.setattr(video, "MAX_FRAMES", 29)
    with pytest.raises(VideoError, match="long.avi: more than 29 frames; cut it into shorter videos"):
        read_frames(path, lambda n: [0])
    monkeypatch.setattr(video, "MAX_FRAMES", 30)
    assert read_frames(path, lambda n: [0]).count == 30
    monkeypatch.setattr(video, "MAX_SECONDS", -1.0)
    with pytest.raises(
        VideoError, match="long.avi: no end after -1 s and 0 frames; cut it into shorter videos"
    ):
        read_frames(path, lambda n: [0])


def test_F18_the_bounds_are_far_from_real_videos(tmp_path):
    path = repeat(make(tmp_path / "one.avi", 199, tag="XVID"), tmp_path / "long.avi", 100)
    start = time.monotonic()
    assert read_frames(path, lambda n: [0, n - 1]).count == 19_900
    assert time.monotonic() - start < video.MAX_SECONDS / 20
    assert video.MAX_FRAMES >= 50 * 19_900


def test_pictures_are_let_go_at_once(tmp_path):
    """A frame whose side data were asked for waits, with its picture, for the garbage collector."""
    frames = list(video.decode(make(tmp_path / "a.mp4", 3, "libx264"), 1))
    gc.collect()
    gc.disable()
    try:
        for frame in frames:
            video.upright(frame)
        left = {type(thing).__name__ for thing in gc.get_objects()}
    finally:
        gc.enable()
    assert "SideDataContainer" not in left


def test_F18_media_are_opened_in_one_place():
    source = Path(video.__file__).parents[2]
    modules = [*source.glob("flowclip_core/**/*.py"), *source.glob("flowclip_kit/**/*.py")]
    opened = {
        path.relative_to(source).as_posix(): path.read_text().count("av.open(")
        - path.read_text().count('"w"')
        for path in modules
        if "av.open(" in path.read_text()
    }
    assert {name: count for name, count in opened.items() if count > 0} == {"flowclip_core/data/video.py": 1}
    readers = {path.name for path in modules if ".VideoReader(" in path.read_text()}
    assert readers == {"decoders.py", "decoder_audit.py"}


# --- A4: one answer whatever the threads
# ----------------------------------------------------------------------


def answer(path: Path, threads: int = 1) -> object:
    try:
        clip = read_frames(path, lambda n: [0, n // 2, n - 1], threads=threads)
        return clip.count, clip.frames.tobytes()
    except VideoError as error:
        return str(error)


def damaged(path: Path, share: float) -> Path:
    """H.264 whose packets after this share of them say that their first slice is longer than they are."""
    source = make(path, 30, "libx264", b=2, size=(96, 64))
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = source.read_bytes()
    for packet in packets[int(share * len(packets)) :: 5]:
        data = data.replace(packet, b"\x7f" + packet[1:])
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_A4_many_threads_refuse_what_one_refuses(tmp_path, share):
    path = damaged(tmp_path / "damaged.mp4", share)
    one = answer(path)
    assert one == f"{path}: cannot be read as a video: Invalid data found when processing input"
    assert [answer(path, threads) for threads in (0, 2, 3, 4, 16)] == [one] * 5


def test_A4_real_clips_in_other_threads_and_processes(clips):
    paths = [
        clips / "sample_with_invalid_nalu.mp4",
        clips / "corrupted.mp4",
        clips / "discard_first_keyframe.mp4",
    ]
    here = [answer(path) for path in paths]
    assert "Invalid data" in here[0] and here[2][0] == 25
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(answer, paths, [4] * 3)) == here
    with Pool(2) as pool:
        assert [pool.submit(answer, path, 4).result() for path in paths] == here


# --- A5: how far seeking is off
# -------------------------------------------------------------------------------


class Seeker:
    """A decord whose pictures, asked for by number, are those of other frames."""

    def __init__(self, pictures: np.ndarray, offsets: dict[int, int]) -> None:
        self.pictures, self.offsets = pictures, offsets

    def __len__(self) -> int:
        return len(self.pictures)

    def get_batch(self, numbers: list[int]) -> Seeker:
        return Seeker(np.stack([self.pictures[n + self.offsets.get(n, 0)] for n in numbers]), {})

    def asnumpy(self) -> np.ndarray:
        return self.pictures


@pytest.mark.parametrize(
    ("offsets", "found", "said"),
    [
        ({}, (0, None, None, None), ""),
        ({7: 1}, (1, 1, 1, 0), "1 of 10 frames differ, mostly 1 frame too late"),
        ({7: -1, 17: -1, 27: 12}, (3, -1, 12, 0), "mostly 1 frame too early, at most 12 frames too late"),
        ({7: 2, 17: 33}, (2, 2, 2, 1), "mostly 2 frames too late, 1 equals no frame"),
    ],
)
def test_A5_how_far_seeking_is_off_is_said(tmp_path, monkeypatch, offsets, found, said):
    path = make(tmp_path / "a.mp4", 50, "libx264", options={"crf": "1"})
    pictures = np.concatenate(
        [every_frame(path), 255 - every_frame(path)[:1]]
    )  # number 50 is none of the video's
    module = type("decord", (), {"VideoReader": lambda *_, **__: Seeker(pictures, offsets)})
    monkeypatch.setattr(decoders, "import_decord", lambda: module)
    reading = decoder_audit._by_decord(
        decoder_audit._seeking, path, 10, decoder_audit.Reading("a.mp4", decoder_audit.SEEKING, "0")
    )
    assert (reading.wrong, reading.usual, reading.furthest, reading.unplaced) == found
    ours = decoder_audit.Reading("a.mp4", decoder_audit.PYAV, "0", frames=50, wanted=10, wrong=0)
    report = " ".join(
        decoder_audit.text(
            [ours, decoder_audit.Reading("a.mp4", decoder_audit.IN_ORDER, "0"), reading]
        ).split()
    )
    assert said in report and ("frame off" in report or "frames off" in report) == bool(offsets)


@needs_decord
def test_A5_genuine_clips(clips, tmp_path):
    """HMDB-51's are off, by a frame or by twenty; UCF-101's are not."""
    for name in (
        "RATRACE_wave_f_nm_np1_fr_goo_37",
        "TrumanShow_wave_f_nm_np1_fr_med_26",
        "v_ApplyEyeMakeup_g01_c02",
    ):
        (tmp_path / f"{name}.avi").symlink_to(clips / f"{name}.avi")
    found = [
        (reading.wrong, reading.usual, reading.furthest, reading.unplaced)
        for reading in decoder_audit.audit(tmp_path)
        if reading.reader == decoder_audit.SEEKING
    ]
    assert found == [(32, -1, -1, 0), (19, -20, -20, 0), (0, None, None, None)]


# --- reports of others, tried
# ---------------------------------------------------------------------------------


def run(code: str, *words: object, seconds: float = 240) -> str:
    """What a script prints, in a process that ends if it hangs."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=seconds
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_damaged_files_end_within_seconds_beside_torchvision(tmp_path):
    """Frame threads, an error or another size half-way, and a reader that leaves: a hang at close in PyAV
    #1861."""
    whole = make(tmp_path / "whole.mp4", 60, "libx264", b=2, keys=10, muxer={"movflags": "faststart"})
    cut_short(tmp_path / "cut.mp4", whole, 0.7)
    damaged(tmp_path / "damaged.mp4", 0.5)
    small, large = (
        make(tmp_path / f"{size[0]}.h264", 30, "libx264", b=2, size=size).read_bytes()
        for size in ((64, 48), (96, 64))
    )
    (tmp_path / "sizes.h264").write_bytes(small + large)
    code = """
import sys
import torchvision
from flowclip_core.data.video import read_frames
from flowclip_core.errors import VideoError
def leave(picture):
    raise KeyError("left early")
for path in sys.argv[1:]:
    for threads in (1, 4):
        for shrink in (None, leave):
            try:
                print(read_frames(path, lambda n: [n // 2], threads=threads, shrink=shrink).count)
            except (VideoError, KeyError) as error:
                print(error)
"""
    said = run(
        code, *(tmp_path / f"{name}" for name in ("cut.mp4", "damaged.mp4", "sizes.h264", "whole.mp4"))
    )
    lines = said.splitlines()
    assert len(lines) == 16 and lines[12:] == ["60", "'left early'"] * 2
    assert lines[0] == lines[2] and lines[4] == lines[6] and lines[8] == lines[10]
    assert "the picture size changes within the video (64x48, 96x64)" in lines[8]


@pytest.mark.skipif("libx265" not in av.codecs_available, reason="PyAV was built without libx265")
@pytest.mark.parametrize("threads", [1, 4])
def test_many_decoders_of_hevc_come_to_an_end(tmp_path, threads):
    """More decoders than cores, of pictures coded in rows that wait for each other."""
    path = make(
        tmp_path / "hevc.mp4",
        30,
        "libx265",
        size=(320, 256),
        options={"x265-params": "log-level=none:wpp=1:slices=4"},
    )
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from flowclip_core.data.video import read_frames
def count(_):
    return read_frames(sys.argv[1], lambda n: [n - 1], threads=int(sys.argv[2])).count
with ThreadPoolExecutor(8) as decoders:
    print(set(decoders.map(count, range(32))))
"""
    assert run(code, path, threads) == "{30}\n"


def test_colours_are_those_of_the_files_own_range_and_matrix(clips):
    """BT.601 in full range: grey 0 is black and 255 white. The kit's colours are FFmpeg's own."""
    path = clips / "bt601_full_range.mp4"
    with av.open(str(path)) as container:
        planes = next(container.decode(video=0)).to_ndarray().astype(float)
    y, u, v = planes[:240], planes[240:300].reshape(120, 160), planes[300:360].reshape(120, 160)
    u, v = (np.kron(plane, np.ones((2, 2))) - 128 for plane in (u, v))
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1)
    ours = read_frames(path, lambda n: [0]).frames[0]
    limited = 1.164 * (y - 16)[..., None] + 1.138 * (rgb - y[..., None])
    right, wrong = (np.abs(colours.clip(0, 255) - ours).mean() for colours in (rgb, limited))
    assert right < 3 < 6 < wrong  # not 0: between stored colours FFmpeg interpolates otherwise
