"""Makers of small videos for tests, whole and damaged, and the slow twin that reads them."""

from __future__ import annotations

import functools
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def has_decord() -> bool:
    try:
        import decord  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def picture(i: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Picture i of a made video: a drifting ramp, and a bright bar whose place tells the number i."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([2 * x + i, 3 * y + 2 * i, x + y + 3 * i], axis=-1) % 128
    image[8:16, (5 * i) % (width - 8) :][:, :8] = 255
    return image.astype(np.uint8)


def make(
    path: Path,
    n: int,
    codec="mpeg4",
    tag=None,
    b=0,
    keys=12,
    size=(64, 48),
    times=None,
    options=None,
    muxer=None,
    pixels="yuv420p",
) -> Path:
    """Pictures 0..n-1, encoded; times: i -> milliseconds, for a variable rate."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = keys, b
        if tag:
            stream.codec_context.codec_tag = tag
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            if times:
                frame.pts, frame.time_base = times(i), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy_cut(source: Path, path: Path, first: int, last: int) -> Path:
    """Packets first..last-1 of a video as they are, from between key frames: not all of it decodes."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(old.demux(old.streams.video[0])):
            if first <= i < last and packet.size:
                packet.stream = stream
                new.mux(packet)
    return path


def make_audio(path: Path, cover: bool = False) -> Path:
    """A second of silence; its cover picture is a video stream of one frame to FFmpeg."""
    with av.open(str(path), "w") as container:
        if cover:
            image = container.add_stream("mjpeg")
            image.width, image.height, image.pix_fmt = 64, 48, "yuvj420p"
            image.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        if cover:
            container.mux(image.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
            container.mux(image.encode())
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@functools.cache
def every_frame(path: Path) -> np.ndarray:
    """The slow twin: all frames of a plain sequential decode."""
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.best("video")))
        return np.stack([np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90 % 4) for f in frames])


def cut_short(path: Path, source: Path, share: float) -> Path:
    data = source.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def turn(path: Path, a: int, b: int) -> Path:
    """Let a .mov file say how it is to be shown, as phones do: (a b, -b a) of its display matrix."""
    data = path.read_bytes()
    start = data.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), data.index(b"tkhd"))
    matrix = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:start] + matrix + data[start + 36 :])
    return path


def make_without_frames(path: Path) -> Path:
    """A container that promises a video and holds none of it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def make_two_streams(path: Path, n: int) -> Path:
    """First a small preview, a frame shorter, then the video itself, of n frames and marked as the default."""
    with av.open(str(path), "w") as container:
        streams = []
        for size in ((32, 24), (96, 64)):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            streams.append((stream, size))
        stream.disposition = av.stream.Disposition.default
        for i in range(n):
            for stream, size in streams[i == n - 1 :]:
                # Not the same pictures in small: which stream was read shows.
                image = picture(i if size[0] == 96 else 3 * i + 50, *size)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream, _ in streams:
            container.mux(stream.encode())
    return path


def repeat(source: Path, path: Path, times: int) -> Path:
    """An .avi without B-frames, so many times over: its packets as they are, which costs no encoding."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [(bytes(packet), packet.is_keyframe) for packet in old.demux(video=0) if packet.size]
        for i in range(times * len(packets)):
            data, key = packets[i % len(packets)]
            packet = av.Packet(data)
            packet.pts = packet.dts = i
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 25), key, stream
            new.mux(packet)
    return path
