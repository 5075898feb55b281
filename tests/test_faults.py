"""Faulty and unusual videos, through the whole extraction: the right frames, or one line that names the
file."""

from __future__ import annotations

import re
import shutil
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from clips import (
    copy_cut,
    cut_short,
    every_frame,
    make,
    make_audio,
    make_two_streams,
    make_without_frames,
    repeat,
    turn,
)
from test_features import Inline, Projection

from flowclip_core.data.video import resize_and_crop, segment_centres
from flowclip_core.errors import InputError
from flowclip_kit.datasets import formats
from flowclip_kit.datasets.extraction import ensure_features
from flowclip_kit.datasets.feature_store import FeatureStore, StoreConfig

CONFIG = StoreConfig("weights", frames=4, crops=("left", "centre", "mirrored"))
SOUND = ["run/a.avi", "run/b.avi", "walk/a.avi", "walk/b.avi"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("sound") / "sound.avi", 8)


@pytest.fixture
def root(tmp_path, monkeypatch, sound) -> Path:
    """A data set of two classes with two sound videos each; a test adds one to "walk"."""
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    for name in SOUND:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sound, path)
    return tmp_path / "data"


def ensure(root: Path, config: StoreConfig = CONFIG, **options) -> FeatureStore:
    return ensure_features(formats.load("folder", root), config, [Projection], Inline(), **options)


def expected(frames: np.ndarray, numbers: list[int], config: StoreConfig = CONFIG) -> np.ndarray:
    """What the store should hold (C,F,D) if these are the frames of the video and those the numbers
    picked."""
    views = resize_and_crop(frames[numbers], Projection.image_size, config.crops)
    return np.stack([Projection().encode_frames(view).half().numpy() for view in views])


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, rtol=2e-3, atol=2e-3)  # a float16 ulp: other batch sizes


# --- what cannot be read ---


def cut(path: Path, share: float, **options) -> None:
    cut_short(path, make(path.with_name(f".whole{path.suffix}"), 60, keys=5, **options), share)


# name: what makes it, what is said of it
UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "random.mp4": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(20000)),
        "cannot be read as a video",
    ),
    "text.avi": (lambda path: path.write_text("no video\n" * 50), "cannot be read as a video"),
    # 33 bytes that FFmpeg would read as the sound video beside them
    "list.avi": (
        lambda path: path.write_text("ffconcat version 1.0\nfile a.avi\n"),
        "it is a text, such as a playlist",
    ),
    "empty.mp4": (lambda path: path.touch(), "cannot be read as a video"),
    "cut.mp4": (lambda path: cut(path, 0.6, codec="libx264"), "cannot be read as a video"),
    "cut_after_its_head.mp4": (
        lambda path: cut(path, 0.8, codec="libx264", muxer={"movflags": "faststart"}),
        r"damaged|cannot be read as a video",
    ),
    "cut.avi": (lambda path: cut(path, 0.6, tag="XVID"), r"damaged or cut short after \d+ frames"),
    "no_frames.mp4": (make_without_frames, "no video stream"),
    "no_frames.avi": (make_without_frames, "holds no frames"),
    "audio.mp4": (make_audio, "no video stream"),
    "audio_with_cover.mp4": (lambda path: make_audio(path, cover=True), "no video stream"),
}


def assert_left_out(root: Path, name: str, reason: str) -> None:
    """Refused in one line; where it is allowed, left out, listed, and no harm to the others."""
    with pytest.raises(
        InputError, match=rf"1 of 5 videos of folder cannot be read: .*{name}: .*({reason})"
    ) as caught:
        ensure(root)
    message = str(caught.value)
    assert "\n" not in message and message.count(str(root / name)) == 1
    for _ in range(2):  # made, and found again
        store = ensure(root, allow_unreadable=True)
        assert list(store.index["name"]) == SOUND and not store.has(name)
        failed = pd.read_csv(store.folder / "failed.csv")
        assert list(failed["name"]) == [name]
        assert failed["error"][0].startswith(f"{root / name}: ") and failed["error"][0] in message
    frames = every_frame(root / "walk/a.avi")
    assert all(close(stored, expected(frames, segment_centres(8, 4))) for stored in store.features)


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_video_that_cannot_be_read_is_named_in_one_line_or_left_out(root, name, capfd):
    make_it, reason = UNREADABLE[name]
    make_it(root / "walk" / name)
    capfd.readouterr()  # what an encoder said
    assert_left_out(root, f"walk/{name}", reason)
    out, err = capfd.readouterr()  # notes on the data set, and nothing of FFmpeg's own
    assert not out and all(re.search("test videos \\(|are copies", line) for line in err.splitlines())


def test_a_real_clip_that_is_damaged(root, clips):
    shutil.copy(clips / "corrupted.mp4", root / "walk")
    assert_left_out(root, "walk/corrupted.mp4", "damaged|cannot be read as a video")


# --- what is unusual and can be read ---


def needs(*codecs: str) -> str:
    """The first of these encoders that is there."""
    for codec in codecs:
        if codec in av.codecs_available:
            return codec
    pytest.skip(f"this PyAV has no encoder {' or '.join(codecs)}")


def uneven(i: int) -> int:
    return 40 * i + i % 5 * 7 + (i > 20) * 900


def quarter_turn(path: Path) -> np.ndarray:
    lying = every_frame(make(path.with_name(".lying.mov"), 12, size=(64, 80)))
    turn(make(path, 12, size=(64, 80)), 0, 1)
    return np.rot90(lying, -1, axes=(1, 2))


def two_streams(path: Path) -> np.ndarray:
    """The second, which the file marks as its default; not simply the first."""
    make_two_streams(path, 21)
    with av.open(str(path)) as container:
        return np.stack(
            [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams[1])]
        )


def ten_bits(path: Path, codec: str, pixels: str = "yuv420p10le", options: dict | None = None) -> np.ndarray:
    frames = every_frame(make(path, 12, needs(codec), size=(96, 64), pixels=pixels, options=options))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).format.components[0].bits == 10
    return frames


# name: what makes it and returns all its frames (T,H,W,3), upright, by a plain decode
READABLE: dict[str, Callable[[Path], np.ndarray]] = {
    "one_frame.avi": lambda path: every_frame(make(path, 1)),
    "one_frame.mp4": lambda path: every_frame(make(path, 1, "libx264")),
    "fewer_frames_than_segments.mp4": lambda path: every_frame(make(path, 3, "libx264")),
    "b_frames.avi": lambda path: every_frame(make(path, 60, tag="XVID", b=2)),
    "turned.mov": quarter_turn,
    "uneven_rate.mp4": lambda path: every_frame(make(path, 40, "libx264", b=2, times=uneven)),
    "uneven_rate.mkv": lambda path: every_frame(make(path, 40, "libx264", b=2, times=uneven)),
    "two_streams.mp4": two_streams,
    "two_streams.mkv": two_streams,
    "miscounted.mkv": lambda path: every_frame(
        copy_cut(make(path.with_name(".whole.avi"), 100, tag="XVID", b=2), path, 17, 50)
    ),
    "av1.mp4": lambda path: every_frame(make(path, 12, needs("libsvtav1", "libaom-av1"), size=(96, 64))),
    "ten_bits_h264.mp4": lambda path: ten_bits(path, "libx264"),
    "ten_bits_h265.mp4": lambda path: ten_bits(path, "libx265", options={"x265-params": "log-level=none"}),
    "ten_bits_ffv1.mkv": lambda path: ten_bits(path, "ffv1"),
    "odd_size.avi": lambda path: every_frame(make(path, 10, b=1, size=(66, 50))),
}


def assert_stored(store: FeatureStore, name: str, frames: np.ndarray) -> None:
    """The stored features are those of the middle frames, and would show it if they were others."""
    row = store.rows([name])[0]
    centres = segment_centres(len(frames), CONFIG.frames)
    assert store.index["frames"][row] == len(frames)
    assert close(store.features[row], expected(frames, centres))
    if len(frames) > 1:
        assert not close(
            expected(frames, centres), expected(frames, [(i + 1) % len(frames) for i in centres])
        )


@pytest.mark.parametrize("name", READABLE)
def test_an_unusual_video_gives_the_right_frames(root, name):
    frames = READABLE[name](root / "walk" / name)
    store = ensure(root)
    assert len(store.index) == 5 and pd.read_csv(store.folder / "failed.csv").empty
    assert_stored(store, f"walk/{name}", frames)


@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("nasa_13013.mp4", 390, (270, 480)),
        ("rotated_90.mov", 3, (568, 320)),
        ("test_mpeg4.avi", 164, (240, 320)),
    ],
)
def test_real_clips_give_the_right_frames(root, clips, name, count, size):
    """Two video streams, the first of them small; a phone held upright; XviD with B-frames."""
    frames = every_frame(Path(shutil.copy(clips / name, root / "walk")))
    assert (len(frames), *frames.shape[1:3]) == (count, *size)
    assert_stored(ensure(root), f"walk/{name}", frames)


# --- large and long ---


def traced(root: Path, config: StoreConfig) -> tuple[FeatureStore, int, float]:
    """The store, the most memory in numpy's arrays and Python's objects meanwhile, and seconds."""
    expected(np.zeros((1, 32, 32, 3), np.uint8), [0], config)  # imports are not extraction
    tracemalloc.start()
    began = time.monotonic()
    try:
        store = ensure(root, config)
        return store, tracemalloc.get_traced_memory()[1], time.monotonic() - began
    finally:
        tracemalloc.stop()


def test_memory_holds_few_pictures_of_a_4k_video(root):
    config = replace(CONFIG, frames=16)
    short = make(root / "walk" / ".short.avi", 2, keys=1, size=(3840, 2160))
    repeat(short, root / "walk" / "4k.avi", 8)
    store, peak, _ = traced(root, config)
    # A picture is 25 MB, the 16 that are stored 398 MB. Two are needed while one is converted.
    assert peak < 4 * 3840 * 2160 * 3
    row = store.rows(["walk/4k.avi"])[0]
    assert store.index["frames"][row] == 16
    assert close(store.features[row], np.tile(expected(every_frame(short), [0, 1], config), (1, 8, 1)))


def test_a_very_long_video_takes_little_memory_and_time(root):
    part = make(root / "walk" / ".part.avi", 199, size=(32, 32))
    repeat(part, root / "walk" / "long.avi", 100)
    store, peak, seconds = traced(root, CONFIG)
    row = store.rows(["walk/long.avi"])[0]
    assert store.index["frames"][row] == 19900
    numbers = [i % 199 for i in segment_centres(19900, 4)]
    assert close(store.features[row], expected(every_frame(part), numbers))
    assert peak < 5e6  # all frames would be 61 MB
    assert seconds < 15  # on a busy machine; alone about one
