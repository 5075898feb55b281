"""Exact frames out of a video file, and square crops out of frames.

What counts as frame i is decided by decoding the whole stream once, in order. There is no seeking: on some
files it returns other frames, without an error (MPEG-4 AVI with B-frames, such as HMDB-51's).

A file is opened as one of CONTAINERS or not at all. FFmpeg knows formats that merely name other files or
addresses (playlists, FFmpeg's own scripts, sessions), whatever the file's own name ends in; such a video
would be another file than the one that is hashed, could be any file of the machine, and may have no end.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

from flowclip_core.config import CROPS
from flowclip_core.errors import InputError, VideoError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
# FFmpeg's names of what holds its pictures itself. Still pictures have formats of their own; a GIF may be a
# video.
CONTAINERS = (
    *(
        "avi",
        "mov",
        "matroska",
        "mpeg",
        "mpegts",
        "mpegvideo",
        "asf",
        "flv",
        "ogg",
        "rm",
        "gif",
        "mxf",
        "dv",
        "ivf",
    ),
    *("nut", "wtv", "m4v", "h264", "hevc"),
)
# Where a file shows no end: 11 hours at 25 frames a second, and reading that takes an hour a pass.
MAX_FRAMES = 1_000_000
MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class Clip:
    """Frames of one video.

    frames: uint8 (k,H,W,3), RGB, upright; or (k, ...), what `shrink` made of each. count: how many frames the
    video has, that is, how many decode.
    decoder: library and version that gave the frames, "pyav 18.1.0".
    """

    frames: np.ndarray
    count: int
    decoder: str


def read_frames(
    path: str | Path,
    pick: Callable[[int], Sequence[int]],
    threads: int = 1,
    shrink: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Clip:
    """Decode the best video stream of `path` in order and keep the frames that `pick` names.

    `pick(n)` gets the number of frames n and returns at least one number in 0..n-1, in any order, repeats
    allowed. It is asked again when the stream decodes to another number of frames than the container holds,
    so its answer must depend on n alone. The whole stream is decoded whatever is picked: n, and whether the
    file can be read, do not depend on `pick`. Memory holds the picked frames alone.

    Pictures are turned by multiples of 90 degrees and mirrored as the file says, which is how a player shows
    them. The pixels' aspect is not applied: a picture of 340x256 stored pixels stays one, though a player may
    show it 427 wide.

    `shrink` gets each picked picture, uint8 (H,W,3), upright, as soon as it is decoded, once however often it
    is picked, and returns an array of one and the same shape for all: memory then holds these and a single
    picture (32 pictures of 3840x2160 are 800 MB). What is said of pictures below holds before they shrink.

    A container that merely announces too many (or too few) frames is recounted. A stream that raises a
    decoding error, or has packets or frames marked as damaged (a file cut short), is unreadable as a whole,
    however many frames come before: without its tail every segment of the video would lie elsewhere. What
    leaves no mark cannot be seen: damage that a codec conceals, a Matroska file that ends early.

    Refused, too, is what is none of CONTAINERS (playlists, still pictures, FIFOs), a single still picture
    within one, and a file of more than MAX_FRAMES frames or one that takes more than MAX_SECONDS a pass.

    threads: of the codec. They change nothing but the time: they can lose an error and the frames after it,
    so whatever does not decode to as many frames as the container holds is decoded again, and judged, by one.

    Raises VideoError (one line, path first) for a file that is missing, no video, damaged, or changes its
    picture size, in whichever frame; ValueError where `pick` picks nothing or leaves 0..n-1.
    """
    path = Path(path)
    try:
        packets, _ = count_packets(path)
        numbers = _ask(pick, packets)
        count = None
        if threads != 1:
            with contextlib.suppress(VideoError, av.error.FFmpegError):
                frames, count = _decode(path, numbers, threads, shrink)
        if count != packets:
            frames, count = _decode(path, numbers, 1, shrink)
        if count != packets:
            numbers = _ask(pick, count)
            frames, count = _decode(path, numbers, 1, shrink)
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path}: cannot be read as a video: {' '.join(reason.split())}") from error
    return Clip(np.stack([frames[i] for i in numbers]), count, f"pyav {av.__version__}")


def _ask(pick: Callable[[int], Sequence[int]], count: int) -> list[int]:
    numbers = [int(i) for i in pick(count)]
    if not numbers or not 0 <= min(numbers) <= max(numbers) < count:
        raise ValueError(f"pick({count}) must return frame numbers in 0..{count - 1}, got {numbers}")
    return numbers


def open_stream(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """The opened file and its best video stream: the one way in which this kit opens a medium.

    Raises VideoError where there is none, or the file is none of CONTAINERS; and FFmpeg's own errors.
    """
    if not path.is_file():
        # A pipe is refused like a folder: reading it could wait for ever.
        raise VideoError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    with path.open("rb") as file:
        head = file.read(64)
    # Containers have their sizes and versions there, in bytes that no text holds.
    if head and head[:16].isascii() and not any(byte < 9 or 13 < byte < 32 for byte in head):
        raise VideoError(
            f"{path}: cannot be read as a video: it is a text, such as a playlist; give the video itself"
        )
    try:
        # An absolute path cannot be taken for a URL. Titles in old AVI files are often not UTF-8, and nobody
        # asks for them here. What a file refers to is under the same two lists.
        only = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
        container = av.open(str(path.absolute()), metadata_errors="ignore", container_options=only)
    except av.error.ArgumentError as error:
        known = "AVI, MP4, MOV, Matroska, WebM, MPEG, WMV, FLV, Ogg, GIF or the like"
        said = f"expected {known}; playlists and pictures are no videos"
        raise VideoError(f"{path}: cannot be read as a video: {said}") from error
    stream = container.streams.best("video")
    problem = None
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        problem = "no video stream"
    elif stream.codec_context is None:
        problem = "no decoder for its video codec"
    elif container.format.name.startswith("mov") and stream.frames == 1 and stream.duration is None:
        problem = "a still picture (HEIC, AVIF), no video"  # an item of the file, outside any track
    if problem:
        container.close()
        raise VideoError(f"{path}: {problem}")
    return container, stream


def count_packets(path: Path) -> tuple[int, str]:
    """Packets with a picture to show: the number of frames in all but a few files, within milliseconds.

    And FFmpeg's name of the container.
    """
    count = 0
    container, stream = open_stream(path)
    with container:
        for packet in _bounded(path, container.demux(stream)):
            if packet.is_corrupt:
                raise VideoError(f"{path}: damaged or cut short after {count} frames")
            count += packet.size > 0 and not packet.is_discard
    if not count:
        raise VideoError(f"{path}: its video stream holds no frames")
    if count == 1 and container.format.name == "gif":
        raise VideoError(f"{path}: a still picture (GIF of one frame), no video")
    return count, container.format.name


def _bounded(path: Path, things: Iterable[T]) -> Iterator[T]:
    """The packets or frames of a file; VideoError where no end is in sight."""
    end = time.monotonic() + MAX_SECONDS
    for number, thing in enumerate(things):
        if number > MAX_FRAMES:  # the last packet holds nothing
            raise VideoError(f"{path}: more than {MAX_FRAMES:,} frames; cut it into shorter videos")
        if time.monotonic() > end:
            said = f"no end after {MAX_SECONDS:g} s and {number:,} frames; cut it into shorter videos"
            raise VideoError(f"{path}: {said}")
        yield thing


def _decode(
    path: Path, numbers: Iterable[int], threads: int, shrink: Callable[[np.ndarray], np.ndarray] | None
) -> tuple[dict[int, np.ndarray], int]:
    """One pass over the whole stream: frames `numbers` (upright RGB, or shrunk) and how many frames there
    are."""
    wanted, frames, count, sizes = set(numbers), {}, 0, set()
    for count, frame in enumerate(decode(path, threads), 1):
        sizes.add((frame.width, frame.height)[:: -1 if _quarters(frame) % 2 else 1])
        if count - 1 in wanted:
            frames[count - 1] = shrunk(upright(frame), shrink)
    if not count:
        raise VideoError(f"{path}: no frame of its video stream decodes")
    if len(sizes) > 1:
        said = ", ".join(sorted(f"{width}x{height}" for width, height in sizes))
        raise VideoError(f"{path}: the picture size changes within the video ({said})")
    return frames, count


def decode(path: Path, threads: int) -> Iterator[av.VideoFrame]:
    """All frames in the order of showing; VideoError at a damaged one."""
    container, stream = open_stream(path)
    with container:
        stream.codec_context.thread_count = threads
        stream.codec_context.thread_type = "SLICE" if threads == 1 else "AUTO"
        for number, frame in enumerate(_bounded(path, container.decode(stream))):
            if frame.is_corrupt:
                raise VideoError(f"{path}: damaged at frame {number}")
            yield frame


def _quarters(frame: av.VideoFrame) -> int:
    """Quarter turns, against the clock, that put the picture upright."""
    return round(frame.rotation / 90) % 4


def upright(frame: av.VideoFrame) -> np.ndarray:
    picture = frame.to_ndarray(format="rgb24", threads=1)
    return np.rot90(picture[::-1] if _mirrored(frame) else picture, _quarters(frame))


def _mirrored(frame: av.VideoFrame) -> bool:
    """Whether the file says to mirror the picture; upside down first, then `_quarters` is right."""
    # Not frame.side_data: frame and data would hold each other, and the picture's memory, until they are
    # collected.
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    return a * d < b * c


def shrunk(picture: np.ndarray, shrink: Callable[[np.ndarray], np.ndarray] | None) -> np.ndarray:
    # A copy: a mere view, of a crop say, would keep the whole picture in memory.
    return picture if shrink is None else np.array(shrink(picture))


def segment_centres(n: int, segments: int) -> list[int]:
    """The centre frame of each of `segments` equal parts of n frames; shorter videos repeat frames."""
    if n < 1 or segments < 1:
        raise ValueError(f"segment_centres needs a frame and a segment at least, got {n} and {segments}")
    return [(2 * i + 1) * n // (2 * segments) for i in range(segments)]


def resize(frames: np.ndarray, size: int) -> torch.Tensor:
    """The short side becomes `size`: uint8 (T,H,W,3) -> torch uint8 (T,3,h,w), bicubic, antialiased.

    Each frame alone gives the same bits as all together. 98 % of the values and more equal open_clip's own
    transform, the others differ by 1 grey level, a few in 100,000 by 2.
    """
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    return transforms.resize(pictures, [size], InterpolationMode.BICUBIC, antialias=True)


def crop(pictures: torch.Tensor, size: int, crops: Sequence[str]) -> torch.Tensor:
    """Squares (T,3,h,w) -> (C,T,3,size,size) of pictures with h, w >= size; C = len(crops), in the order of
    crops.

    «left» and «right» are the ends of the long side (top and bottom of a portrait), «mirrored» is the centre
    flipped from left to right. Raises InputError for another name.
    """
    import torch

    if unknown := [name for name in crops if name not in CROPS]:
        raise InputError(f"crop {unknown[0]!r}: expected one of {', '.join(CROPS)}")
    spare_y, spare_x = pictures.shape[-2] - size, pictures.shape[-1] - size
    # round() halves to even, as the centre crop of torchvision and open_clip does.
    places = {"left": (0, 0), "right": (spare_y, spare_x), "centre": (round(spare_y / 2), round(spare_x / 2))}
    squares = []
    for name in crops:
        y, x = places["centre" if name == "mirrored" else name]
        square = pictures[..., y : y + size, x : x + size]
        squares.append(square.flip(-1) if name == "mirrored" else square)
    return torch.stack(squares)


def resize_and_crop(frames: np.ndarray, size: int, crops: Sequence[str]) -> torch.Tensor:
    """Square crops: uint8 (T,H,W,3) -> torch uint8 (C,T,3,size,size); `resize`, then `crop`."""
    return crop(resize(frames, size), size, crops)
