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
    """The slow twin: all frames of a plain sequential decode, each pixel put where the display matrix
    says."""
    with av.open(str(path)) as container:
        return np.stack([_shown(frame) for frame in container.decode(container.streams.best("video"))])


def _shown(frame: av.VideoFrame) -> np.ndarray:
    picture, matrix = frame.to_ndarray(format="rgb24"), frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    a, b, _, c, d, *_ = (number >> 16 for number in struct.unpack("=9i", bytes(matrix)))
    y, x = np.mgrid[: frame.height, : frame.width]
    x, y = a * x + c * y, b * x + d * y
    x, y = x - x.min(), y - y.min()
    shown = np.empty((y.max() + 1, x.max() + 1, 3), np.uint8)
    shown[y, x] = picture
    return shown


def cut_short(path: Path, source: Path, share: float) -> Path:
    data = source.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def turn(path: Path, a: int, b: int, mirrored: bool = False) -> Path:
    """Let a .mov file say how it is to be shown, as phones do: (a b, -b a) of its display matrix, or
    mirrored."""
    data = path.read_bytes()
    start = data.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), data.index(b"tkhd"))
    c, d = (b, -a) if mirrored else (-b, a)
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
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
    """First a small preview, a frame shorter, then the video itself, of n frames and marked as the
    default."""
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


def make_still(path: Path, codec: str, pixels: str, muxer: str | None = None, n: int = 1) -> Path:
    """A picture file of n pictures: PNG, JPEG, GIF."""
    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    return path


def make_heic(path: Path) -> Path:
    """A HEIC picture, as phones take: one HEVC key frame, an item beside no track."""
    quiet = {"x265-params": "log-level=none"}
    film = make(path.with_suffix(".film.mp4"), 1, "libx265", options=quiet)
    with av.open(str(film)) as container:
        settings = container.streams.video[0].codec_context.extradata
        sample = next(bytes(packet) for packet in container.demux(video=0) if packet.size)
    film.unlink()

    def box(kind: bytes, *parts: bytes, version: int | None = None) -> bytes:
        body = (b"" if version is None else struct.pack(">I", version << 24)) + b"".join(parts)
        return struct.pack(">I4s", 8 + len(body), kind) + body

    def meta(offset: int) -> bytes:
        shape = box(b"ispe", struct.pack(">II", 64, 48), version=0)
        properties = box(b"ipco", box(b"hvcC", settings), shape)
        belongs = box(b"ipma", struct.pack(">IHBBB", 1, 1, 2, 0x81, 2), version=0)
        return box(
            b"meta",
            box(b"hdlr", struct.pack(">I4s13x", 0, b"pict"), version=0),
            box(b"pitm", struct.pack(">H", 1), version=0),
            box(b"iloc", struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, offset, len(sample)), version=0),
            box(b"iinf", struct.pack(">H", 1), box(b"infe", b"\0\1\0\0hvc1\0", version=2), version=0),
            box(b"iprp", properties, belongs),
            version=0,
        )

    head = box(b"ftyp", b"heic\0\0\0\0mif1heic")
    path.write_bytes(head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", sample))
    return path


def make_reference(path: Path, source: Path) -> Path:
    """The head of a .mov, that says its pictures lie in another file, `source`: an alias as QuickTime writes
    it."""
    data, name, full = source.read_bytes(), source.name.encode(), str(source.absolute()).encode()
    full += b"\0" * (len(full) % 2)
    alias = bytearray(150)
    alias[7], alias[10:15] = 2, b"\4disk"
    alias[50 : 51 + len(name)] = bytes([len(name)]) + name
    struct.pack_into(">hh", alias, 130, 1, 1)  # levels between the two files
    alias += (
        struct.pack(">HH", 2, len(full)) + full + struct.pack(">HH", 18, len(full)) + full + b"\xff\xff\0\0"
    )
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    new = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    moov = data.index(b"moov") - 4
    head, old = bytearray(data[moov:]), data.index(b"dref") - 4 - moov
    (size,) = struct.unpack_from(">I", head, old)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):  # what it lies in
        at = head.index(kind) - 4
        struct.pack_into(">I", head, at, struct.unpack_from(">I", head, at)[0] + len(new) - size)
    path.write_bytes(data[: struct.unpack_from(">I", data)[0]] + head[:old] + new + head[old + size :])
    return path
