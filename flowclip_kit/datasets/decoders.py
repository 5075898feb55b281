"""Frames by decord, where it can be trusted: in order, and compared with PyAV's."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from flowclip_core.data import video
from flowclip_core.data.video import Clip
from flowclip_core.errors import InputError

DECODERS = ("pyav", "decord")
# decord's FFmpeg is old, and cannot be told what to open. These it knows by their first bytes, as nothing
# else.
FOR_DECORD = ("avi", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
TOLERANCE = (
    2  # grey levels between two decoders' pictures of one frame: about what FFmpeg's versions differ by
)


def read_frames(
    path: str | Path,
    pick: Callable[[int], Sequence[int]],
    decoder: str = "pyav",
    threads: int = 1,
    shrink: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Clip:
    """`flowclip_core.data.video.read_frames`, with decord's pictures where decoder="decord".

    decord then reads too, in order, and its pictures are compared with PyAV's. Where it must not open the
    file (it gets FOR_DECORD alone) or cannot, counts otherwise, or differs by more than TOLERANCE grey
    levels, PyAV's pictures are returned, and `Clip.decoder` says why: "pyav 18.1.0 (decord 0.6.0: other
    pixels in frame 7)". The comparison costs one more decoding pass; with `shrink` two, since PyAV then
    decodes once more beside decord.

    Raises InputError for an unknown or absent decoder, else as that does.
    """
    if decoder not in DECODERS:
        raise InputError(f"decoder {decoder!r}: expected one of {', '.join(DECODERS)}")
    if decoder == "pyav":
        return video.read_frames(path, pick, threads, shrink)
    decord, path = import_decord(), Path(path)
    clip = video.read_frames(path, pick, threads, shrink)
    packets, container = video.count_packets(path)
    numbers = list(pick(clip.count))
    frames = dict(zip(numbers, clip.frames, strict=True))
    doubt = no_decord(container) or _reread_with_decord(decord, path, frames, packets, clip.count, shrink)
    if doubt:
        return Clip(clip.frames, clip.count, f"{clip.decoder} (decord {decord.__version__}: {doubt})")
    return Clip(np.stack([frames[i] for i in numbers]), clip.count, f"decord {decord.__version__}")


def no_decord(container: str) -> str | None:
    """Why decord must not open such a file, by FFmpeg's name of its container; None where it may."""
    return None if container in FOR_DECORD else f"not asked, the file is {container}"


def pictures(path: Path) -> Iterator[np.ndarray]:
    """Every picture, uint8 (H,W,3), upright, as `read_frames` numbers them; its errors and FFmpeg's own."""
    return map(video.upright, video.decode(path, 1))


def import_decord():
    """The module decord, silenced. Raises InputError where it is absent or cannot be loaded."""
    try:
        decord = importlib.import_module("decord")
    except (ImportError, OSError) as error:
        advice = "pip install decord (decord2 where that has no wheel), or use decoder 'pyav'"
        raise InputError(f"decoder 'decord' is not installed: {advice}") from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _reread_with_decord(
    decord,
    path: Path,
    frames: dict[int, np.ndarray],
    packets: int,
    count: int,
    shrink: Callable[[np.ndarray], np.ndarray] | None,
) -> str | None:
    """Put decord's pictures in the place of PyAV's, or return what speaks against decord."""
    # Where the counts differ, decord repeats frames up to the promised number, or never ends.
    if packets != count:
        return f"not asked, the container holds {packets} frames and {count} decode"
    errors = decord.DECORDError, RuntimeError, AssertionError
    try:
        reader = decord.VideoReader(str(path.absolute()), num_threads=1)
    except errors:
        return "cannot read the file"
    if len(reader) != count:
        return f"counts {len(reader)} frames instead of {count}"
    # Whole pictures are compared: those that have shrunk are decoded again beside decord's, one at a time.
    again = video.decode(path, 1) if shrink else None
    theirs = {}
    for i in range(max(frames) + 1):
        try:
            picture = reader.next()
            picture = picture.asnumpy() if i in frames else None
        except StopIteration:
            return f"ends before frame {max(frames)}"
        except errors:
            return "cannot read the file"
        frame = next(again) if again else None
        if picture is None:
            continue
        ours = frames[i] if frame is None else video.upright(frame)
        if picture.shape != ours.shape:
            return f"shape {picture.shape} instead of {ours.shape}"
        if differs(picture, ours):
            return f"other pixels in frame {i}"
        theirs[i] = video.shrunk(picture, shrink)
    frames.update(theirs)
    return None


def differs(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two uint8 pictures of one shape are not the same frame: somewhere more than TOLERANCE apart."""
    return bool(np.abs(a.astype(np.int16) - b).max() > TOLERANCE)
