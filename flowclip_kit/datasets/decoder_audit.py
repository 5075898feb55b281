"""Which frames decord returns on one's own videos: read in order, and by seeking, as most published code
does.

Seeking returns other frames than those asked for, without an error, on some files (MPEG-4 AVI with B-frames
above all). Here a sample of a folder is read three ways and compared; the reference is PyAV's decode of the
whole stream.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import re
import signal
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from flowclip_core.data import video
from flowclip_core.errors import InputError, VideoError
from flowclip_kit.datasets import decoders
from flowclip_kit.datasets.disk import EXTENSIONS, first_of, printable
from flowclip_kit.distributed.process_pool import end, end_with_parent, ignore_sigint

PYAV, IN_ORDER, SEEKING = "pyav", "decord in order", "decord by seeking"
WIDTH = 100  # columns of the report
START_SECONDS = 120.0  # for a process to start and to import
NOT_OPENED = "cannot be opened"


@dataclass(frozen=True)
class Reading:
    """What one reader made of one video. Three in a row belong to one video: PYAV, IN_ORDER, SEEKING.

    name: path below the folder. frames: how many the reader counts. wanted: how many frames are compared,
    wrong: how many of these differ from PyAV's by more than decoders.TOLERANCE grey levels. For each of those
    the whole video is searched for the nearest frame that equals it: usual is the offset, in frames, that
    most have (1: the next frame came), furthest the largest of either sign, unplaced how many equal no frame.
    None: unknown, or none is wrong. error: empty, or one line; it starts with NOT_OPENED where decord could
    not, or must not, open the file.
    """

    name: str
    reader: str
    version: str
    codec: str = ""
    frames: int | None = None
    wanted: int | None = None
    wrong: int | None = None
    usual: int | None = None
    furthest: int | None = None
    unplaced: int | None = None
    error: str = ""


Read = Callable[[Path, int, Reading], Reading]


def audit(
    folder: str | Path,
    sample: int = 20,
    seed: int = 0,
    frames: int = 32,
    seconds: float = 60.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Reading]:
    """Readings of `sample` videos anywhere below `folder` (of all, where there are fewer), three each, by
    name.

    Compared are the centres of `frames` equal parts, which are what features are made of. The draw depends on
    `seed` and the file names. Everything is read in another process: a reading that takes more than
    `seconds`, or kills its process, becomes an error of its own and costs no other. progress(done, total)
    counts videos.

    Raises InputError where decord is absent, the folder holds no video, or a number makes no sense.
    """
    for option, value in (("sample", sample), ("frames", frames), ("seconds", seconds)):
        if not value > 0:
            raise InputError(f"{option} {value}: expected more than 0")
    decord = decoders.import_decord()
    folder = Path(folder)
    names = _videos(folder)
    if not names:
        kinds = " ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise InputError(f"{folder}: no video ({kinds}) in it or below; name a folder that holds some")
    drawn = sorted(np.random.default_rng([seed]).permutation(len(names))[:sample])
    readings: list[Reading] = []
    process = _Process()
    try:
        for done, number in enumerate(drawn, 1):
            skipped = ""
            for reader, read in READERS.items():
                version = av.__version__ if reader == PYAV else decord.__version__
                reading = Reading(printable(names[number]), reader, version, error=skipped)
                if not skipped:
                    try:
                        reading = process.run(seconds, read, folder / names[number], frames, reading)
                    except _Lost as error:
                        reading = replace(reading, error=str(error))
                        # There is nothing to compare with, and another try would end the same way.
                        skipped = f"not tried, {PYAV}: {error}" if reader == PYAV else ""
                readings.append(reading)
            if progress:
                progress(done, len(drawn))
    finally:
        process.end()
    return readings


def _videos(folder: Path) -> list[str]:
    """Names, relative to `folder`, of the video files in it and below, sorted; hidden ones are left out."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one that holds videos")
    names, seen = [], {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        # By real path, since a link to a folder above would lead round for ever.
        real = {
            name: os.path.realpath(Path(parent, name)) for name in sorted(folders) if not name.startswith(".")
        }
        folders[:] = [name for name, path in real.items() if path not in seen]
        seen.update(real.values())
        for name in files:
            if Path(name).suffix.lower() in EXTENSIONS and not name.startswith("."):
                names.append(Path(parent, name).relative_to(folder).as_posix())
    return sorted(names)


# --- in the reading process ---


@functools.lru_cache(maxsize=1)
def _reference(path: Path, frames: int) -> tuple[dict[int, np.ndarray], int]:
    """PyAV's picture of each wanted frame, and how many frames there are."""
    numbers: list[int] = []

    def pick(count: int) -> list[int]:
        numbers[:] = sorted(set(video.segment_centres(count, frames)))
        return numbers

    clip = video.read_frames(path, pick)
    return dict(zip(numbers, clip.frames, strict=True)), clip.count


def _by_pyav(path: Path, frames: int, reading: Reading) -> Reading:
    try:
        pictures, count = _reference(path, frames)
        reading = replace(reading, frames=count, wanted=len(pictures), wrong=0)
    except VideoError as error:
        reading = replace(reading, error=_line(error, path))
    with contextlib.suppress(VideoError, av.error.FFmpegError, OSError):
        container, stream = video.open_stream(path)
        with container:
            # The tag tells encoders apart (XVID, DX50); where it is not four letters it tells nothing.
            tag = stream.codec_context.codec_tag
            codec = stream.codec_context.codec.canonical_name
            reading = replace(reading, codec=f"{codec} {tag}" if tag.isalnum() and tag != codec else codec)
    return reading


def _by_decord(
    read: Callable[[object, Sequence[int]], Iterator[np.ndarray]], path: Path, frames: int, reading: Reading
) -> Reading:
    try:
        # What PyAV must not open, a playlist say, decord would open.
        container, _ = video.open_stream(path)
        with container:
            refused = decoders.no_decord(container.format.name)
    except (VideoError, av.error.FFmpegError, OSError) as error:
        refused = _line(error, path)
    if refused:
        return replace(reading, error=f"{NOT_OPENED} ({refused})")
    try:
        ours, _ = _reference(path, frames)
    except VideoError:
        ours = {}  # decord may read it all the same
    try:
        reader = decoders.import_decord().VideoReader(str(path.absolute()), num_threads=1)
        reading = replace(reading, frames=len(reader))
    except Exception as error:
        return replace(reading, error=f"{NOT_OPENED} ({_line(error, path)})")
    if not ours:
        return replace(reading, error=f"opened, but there is nothing of {PYAV} to compare with")
    reading = replace(reading, wanted=len(ours))
    try:
        pairs = zip(read(reader, list(ours)), ours.items(), strict=True)
        wrong = {number: theirs for theirs, (number, picture) in pairs if _differ(theirs, picture)}
    except Exception as error:
        return replace(reading, error=_line(error, path))
    if not wrong:
        return replace(reading, wrong=0)
    offsets = _offsets(path, wrong)
    usual, furthest = (max(offsets, key=key, default=None) for key in (offsets.count, abs))
    unplaced = len(wrong) - len(offsets)
    return replace(reading, wrong=len(wrong), usual=usual, furthest=furthest, unplaced=unplaced)


def _offsets(path: Path, wrong: dict[int, np.ndarray]) -> list[int]:
    """How many frames after the wanted one the nearest equal frame comes, for each picture with an equal."""
    nearest: dict[int, int] = {}
    for number, picture in enumerate(decoders.pictures(path)):
        for wanted, theirs in wrong.items():
            if wanted in nearest and abs(nearest[wanted]) <= abs(number - wanted):
                continue
            # A few pixels tell most frames apart.
            if not _differ(theirs[::16, ::16], picture[::16, ::16]) and not _differ(theirs, picture):
                nearest[wanted] = number - wanted
    return list(nearest.values())


def _differ(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape != b.shape or decoders.differs(a, b)


def _in_order(reader, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    wanted = set(numbers)
    for number in range(max(numbers) + 1):
        try:
            picture = reader.next()
        except StopIteration:
            raise EOFError(f"ends before frame {number}") from None
        if number in wanted:
            yield picture.asnumpy()


def _seeking(reader, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    yield from reader.get_batch(list(numbers)).asnumpy()


# Picklable: they are handed to the reading process.
READERS: dict[str, Read] = {
    PYAV: _by_pyav,
    IN_ORDER: functools.partial(_by_decord, _in_order),
    SEEKING: functools.partial(_by_decord, _seeking),
}


def _line(error: Exception, path: Path) -> str:
    """What an error says, in one line, without the file's path and decord's own source lines."""
    line = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
    line = re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", line)
    for place in (f"{path}: ", str(path.absolute()), str(path)):
        line = line.replace(place, "")
    return textwrap.shorten(line, 120, placeholder=" ...") or type(error).__name__


def _attempt(read: Read, path: Path, frames: int, reading: Reading) -> Reading:
    """What `read` makes of a video; whatever it raises becomes the reading's error, as not every error can
    travel."""
    try:
        return read(path, frames, reading)
    except Exception as error:
        return replace(reading, error=_line(error, path))


def _begin() -> None:
    """Start a reading process."""
    end_with_parent()
    # What FFmpeg and a crash write about damaged files would land in the report.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    decoders.import_decord()  # now, since a reading's time is for reading


# --- in the calling process ---


class _Lost(Exception):
    """No answer; the message says why."""


class _Process:
    """The reading process: started with the first reading, and again with the next one after it was lost."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def run(self, seconds: float, read: Read, path: Path, frames: int, reading: Reading) -> Reading:
        """What `read` returns. Raises _Lost, and ends the process, when it dies or takes longer than
        `seconds`."""
        worker = None
        try:
            if self._pool is None:
                context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
                self._pool = ProcessPoolExecutor(1, context, _begin)
                with ignore_sigint():
                    self._pool.submit(os.getpid).result(START_SECONDS)
            (worker,) = self._pool._processes.values()
            return self._pool.submit(_attempt, read, path, frames, reading).result(seconds)
        except TimeoutError:
            why = f"no end after {seconds:g} s"
        except BrokenProcessPool:
            if worker:
                worker.join(5)
            code = worker.exitcode if worker else None
            why = f"its process ended with code {code}"
            if code is not None and code < 0:
                why = f"crashed ({signal.Signals(-code).name})"
        self.end()
        raise _Lost(why)

    def end(self) -> None:
        """Kill the process, whatever it is doing; a later reading starts another."""
        if self._pool is not None:
            workers = list((self._pool._processes or {}).values())
            end(self._pool)
            self._pool = None
            for worker in workers:
                worker.join()


# --- reporting ---


def text(readings: Sequence[Reading]) -> str:
    """A report of at most WIDTH columns: a row per video where anything disagrees or fails, then counts."""
    videos = [readings[i : i + 3] for i in range(0, len(readings), 3)]
    rows = [(ours, what) for ours, *theirs in videos if (what := "; ".join(_disagreements(ours, *theirs)))]
    lines = []
    if rows:
        name_width = min(36, max(5, *(len(ours.name) for ours, _ in rows)))
        codec_width = min(14, max(5, *(len(ours.codec) for ours, _ in rows)))
        lines.append(f"{'video':{name_width}}  frames  {'codec':{codec_width}}  disagrees")
        for ours, what in rows:
            # The end of a long name tells more than its beginning.
            name = ours.name if len(ours.name) <= name_width else "…" + ours.name[1 - name_width :]
            count = "?" if ours.frames is None else ours.frames
            head = f"{name:{name_width}}  {count:>6}  {ours.codec[:codec_width]:{codec_width}}  "
            lines += textwrap.wrap(what, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
        lines.append("")
    for line in _summary(videos):
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="  " * line.startswith("-"))
    return "\n".join(lines) + "\n"


def _disagreements(ours: Reading, *theirs: Reading) -> Iterator[str]:
    if ours.error:
        yield f"{PYAV}: {ours.error}"
    counts = {reading.frames for reading in theirs if reading.frames not in (None, ours.frames)}
    if counts:
        yield f"decord counts {' or '.join(map(str, sorted(counts)))} frames"
    if len({reading.error for reading in theirs}) == 1 and theirs[0].error:
        yield f"decord: {theirs[0].error}"
        return
    for reading in theirs:
        if reading.error:
            yield f"{reading.reader}: {reading.error}"
        elif reading.wrong:
            yield f"{reading.reader}: {reading.wrong} of {reading.wanted} frames differ{_how_far(reading)}"


def _how_far(reading: Reading) -> str:
    def late(offset: int) -> str:
        return f"{abs(offset)} frame{'s' * (abs(offset) > 1)} too {'early' if offset < 0 else 'late'}"

    parts = []
    if reading.usual is not None and reading.furthest is not None:
        parts.append(f"mostly {late(reading.usual)}")
        if reading.furthest != reading.usual:
            parts.append(f"at most {late(reading.furthest)}")
    if reading.unplaced:
        parts.append(f"{reading.unplaced} equal{'s' * (reading.unplaced == 1)} no frame of the video")
    return "".join(f", {part}" for part in parts)


def _summary(videos: Sequence[Sequence[Reading]]) -> Iterator[str]:
    def count(what: str, names: list[str]) -> str:
        return f"- {what}: {len(names)}" + (f" ({first_of(names)})" if names else "")

    def failed(reading: Reading) -> bool:
        return bool(reading.error) and not reading.error.startswith(NOT_OPENED)

    compared = [(ours.name, order, seek) for ours, order, seek in videos if not ours.error]
    jumped = [seek for _, order, seek in compared if seek.wrong and seek.wrong > (order.wrong or 0)]
    furthest = max((abs(seek.furthest) for seek in jumped if seek.furthest is not None), default=0)
    differing = [name for name, order, _ in compared if order.wrong]
    closed = [ours.name for ours, *theirs in videos if any(r.error.startswith(NOT_OPENED) for r in theirs)]
    lost = [name for name, *theirs in compared if any(map(failed, theirs))]
    frames = sum(ours.wanted or 0 for ours, *_ in videos)
    yield f"{len(videos)} videos, {frames} frames of them compared with PyAV's:"
    yield count("decord by seeking returns other frames", [name for name, _, seek in compared if seek.wrong])
    yield count("decord in order returns other frames", differing)
    yield count("cannot be opened by decord", closed)
    yield count("opened by decord, then an error, a crash or no end", lost)
    yield count("cannot be read by PyAV", [ours.name for ours, *_ in videos if ours.error])
    if jumped:
        far = f", up to {furthest} frame{'s' * (furthest > 1)} off" if furthest else ""
        yield (
            f"Seeking returns other frames than a full decode: features would come from other moments{far}."
            " This kit never seeks, with either decoder."
        )
    elif compared:
        yield "In this sample seeking went wrong nowhere that reading in order was right."
    if differing:
        yield (
            "Where frames read in order differ too, decord gives other pixels (10 bits, interlaced colours),"
            " does not mirror what is to be mirrored, or counts other frames; there this kit takes PyAV's."
        )
