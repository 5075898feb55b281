"""Which frames decord returns on one's own videos: in order, and by seeking, as most published code reads
them.

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
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from flowclip_core.data import video
from flowclip_core.errors import InputError, VideoError
from flowclip_kit.datasets import decoders
from flowclip_kit.datasets.formats import EXTENSIONS
from flowclip_kit.distributed.process_pool import end_with_parent, ignore_sigint

if TYPE_CHECKING:
    import pandas as pd

PYAV, IN_ORDER, SEEKING = "pyav", "decord in order", "decord by seeking"
WIDTH = 100  # columns of the report
START_SECONDS = 120.0  # for a process to start and to import
NOT_OPENED = "cannot be opened"
COUNTS = ("frames", "wanted", "wrong", "usual", "furthest", "unplaced")  # of a Reading


@dataclass(frozen=True)
class Reading:
    """What one reader made of one video. Three in a row belong to one video: PYAV, IN_ORDER, SEEKING.

    name: path below the folder. frames: how many the reader counts. wanted: how many frames are compared,
    wrong: how many of these differ from PyAV's by more than decoders.TOLERANCE grey levels. For each of those
    the whole video is searched for the nearest frame that it equals: usual is the offset, in frames, that
    most have (1: the next frame came), furthest the largest of either sign, unplaced how many equal no frame.
    None: not known, or none is wrong.
    error: empty, or one line; it starts with NOT_OPENED where decord could not, or must not, even open the
    file.
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


def audit(
    folder: str | Path,
    sample: int = 20,
    seed: int = 0,
    frames: int = 32,
    seconds: float = 60.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Reading]:
    """Readings of `sample` videos anywhere below `folder` (of all, where there are fewer), three for each, by
    name.

    Compared are the centres of `frames` equal parts, which are what features are made of. The draw depends on
    `seed` and the files' names. Everything is read in another process: a reading that takes more than
    `seconds`, or kills its process, is told as an error of its own and costs no other. progress(done, total)
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
    versions = {PYAV: av.__version__, IN_ORDER: decord.__version__, SEEKING: decord.__version__}
    readings: list[Reading] = []
    child = _Child()
    try:
        for done, number in enumerate(drawn, 1):
            # A name that is not UTF-8 must not break the table, or the file it is written to.
            name = names[number].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            without = ""
            for reader, read in READERS.items():
                reading = Reading(name, reader, versions[reader], error=without)
                if not without:
                    try:
                        reading = child.ask(seconds, read, folder / names[number], frames, reading)
                    except _Lost as error:
                        reading = replace(reading, error=str(error))
                        # There is nothing to compare with, and another try would end the same way.
                        without = f"not tried, {PYAV}: {error}" if reader == PYAV else ""
                readings.append(reading)
            if progress:
                progress(done, len(drawn))
    finally:
        child.end()
    return readings


def _videos(folder: Path) -> list[str]:
    """Names, relative to `folder`, of the video files in it and below, sorted; hidden ones are left out."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one that holds videos")
    names, seen = [], {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        # By real path, since a link to a folder above would lead round for ever.
        real = {
            name: os.path.realpath(Path(place, name)) for name in sorted(folders) if not name.startswith(".")
        }
        folders[:] = [name for name, path in real.items() if path not in seen]
        seen.update(real.values())
        for name in files:
            if Path(name).suffix.lower() in EXTENSIONS and not name.startswith("."):
                names.append(Path(place, name).relative_to(folder).as_posix())
    return sorted(names)


# --- in the reading process
# -----------------------------------------------------------------------------------


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
        # What PyAV may not open, a playlist say, decord would.
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
    wrong = {}
    try:
        for theirs, (number, picture) in zip(read(reader, list(ours)), ours.items(), strict=True):
            if _differ(theirs, picture):
                wrong[number] = theirs
    except Exception as error:
        return replace(reading, wanted=len(ours), error=_line(error, path))
    reading = replace(reading, wanted=len(ours), wrong=len(wrong))
    if wrong and (offsets := _offsets(path, wrong)):
        usual, furthest = max(offsets, key=offsets.count), max(offsets, key=abs)
        reading = replace(reading, usual=usual, furthest=furthest)
    return replace(reading, unplaced=len(wrong) - len(offsets)) if wrong else reading


def _offsets(path: Path, wrong: dict[int, np.ndarray]) -> list[int]:
    """How many frames after the wanted one is the nearest that equals each picture; without those that none
    equals."""
    found: dict[int, int] = {}
    for number, picture in enumerate(decoders.pictures(path)):
        for wanted, theirs in wrong.items():
            if wanted in found and abs(found[wanted]) <= abs(number - wanted):
                continue
            # A few pixels tell most frames apart.
            if not _differ(theirs[::16, ::16], picture[::16, ::16]) and not _differ(theirs, picture):
                found[wanted] = number - wanted
    return list(found.values())


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
READERS: dict[str, Callable[[Path, int, Reading], Reading]] = {
    PYAV: _by_pyav,
    IN_ORDER: functools.partial(_by_decord, _in_order),
    SEEKING: functools.partial(_by_decord, _seeking),
}


def _line(error: Exception, path: Path) -> str:
    """What an error says, in one line, without the file's path and decord's own source lines."""
    said = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
    said = re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", said)
    for place in (f"{path}: ", str(path.absolute()), str(path)):
        said = said.replace(place, "")
    return textwrap.shorten(said, 120, placeholder=" ...") or type(error).__name__


def _serve(pipe) -> None:
    """Answer one request after the other until the other end closes."""
    end_with_parent()
    # What FFmpeg and a crash write about damaged files would fall into the report; errors travel through the
    # pipe.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    decoders.import_decord()  # now, since a reading's time is for reading
    pipe.send(None)
    while True:
        try:
            read, path, frames, reading = pipe.recv()
        except EOFError:
            return
        try:
            reading = read(path, frames, reading)
        except Exception as error:
            reading = replace(reading, error=_line(error, path))
        pipe.send(reading)


# --- in the asking process
# ------------------------------------------------------------------------------------


class _Lost(Exception):
    """No answer; the message says why."""


class _Child:
    """The reading process: started with the first request, and again with the next one after it was lost."""

    def __init__(self) -> None:
        self._process: multiprocessing.Process | None = None
        self._pipe = None

    def ask(
        self,
        seconds: float,
        read: Callable[[Path, int, Reading], Reading],
        path: Path,
        frames: int,
        reading: Reading,
    ) -> Reading:
        """What `read` answers. Raises _Lost, and ends the process, when it dies or takes longer than
        `seconds`."""
        if self._process is None:
            context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
            self._pipe, theirs = context.Pipe()
            with ignore_sigint():
                self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
                self._process.start()
            theirs.close()
            self._receive(START_SECONDS)
        try:
            self._pipe.send((read, path, frames, reading))
        except OSError:
            raise self._lost() from None
        return self._receive(seconds)

    def _receive(self, seconds: float):
        try:
            if self._pipe.poll(seconds):
                return self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        self.end()
        raise _Lost(f"no end after {seconds:g} s")

    def _lost(self) -> _Lost:
        self._process.join(5)
        code = self._process.exitcode
        self.end()
        if code is not None and code < 0:
            return _Lost(f"crashed ({signal.Signals(-code).name})")
        return _Lost(f"its process ended with code {code}")

    def end(self) -> None:
        """Kill the process, whatever it is doing; a later request starts another."""
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process = None


# --- telling
# --------------------------------------------------------------------------------------------------


def frame(readings: Sequence[Reading]) -> pd.DataFrame:
    """The readings as a table, one row each, for a CSV file; numbers that are not known are empty."""
    import pandas as pd

    table = pd.DataFrame(
        [asdict(reading) for reading in readings], columns=[field.name for field in fields(Reading)]
    )
    return table.astype(dict.fromkeys(COUNTS, "Int64"))


def text(readings: Sequence[Reading]) -> str:
    """A report of at most WIDTH columns: a row for each video where anything disagrees or fails, then
    counts."""
    videos = [readings[i : i + 3] for i in range(0, len(readings), 3)]
    rows = [(ours, said) for ours, *theirs in videos if (said := "; ".join(_disagreements(ours, *theirs)))]
    lines = []
    if rows:
        name_width = min(36, max(5, *(len(ours.name) for ours, _ in rows)))
        codec_width = min(14, max(5, *(len(ours.codec) for ours, _ in rows)))
        rest = WIDTH - name_width - codec_width - 12
        lines.append(f"{'video':{name_width}}  frames  {'codec':{codec_width}}  disagrees")
        for ours, said in rows:
            # The end of a long name tells more than its beginning.
            name = ours.name if len(ours.name) <= name_width else "…" + ours.name[1 - name_width :]
            count = "?" if ours.frames is None else ours.frames
            head = f"{name:{name_width}}  {count:>6}  {ours.codec[:codec_width]:{codec_width}}  "
            for part in textwrap.wrap(said, rest):
                lines.append(head + part)
                head = " " * len(head)
        lines.append("")
    return (
        "\n".join(
            lines
            + [
                part
                for line in _summary(videos)
                for part in textwrap.wrap(line, WIDTH, subsequent_indent="  " * line.startswith("-"))
            ]
        )
        + "\n"
    )


def _disagreements(ours: Reading, *theirs: Reading) -> Iterator[str]:
    if ours.error:
        yield f"{PYAV}: {ours.error}"
    counts = {reading.frames for reading in theirs} - {None, ours.frames}
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
    def said(offset: int) -> str:
        return f"{abs(offset)} frame{'s' * (abs(offset) > 1)} too {'early' if offset < 0 else 'late'}"

    parts = []
    if reading.usual is not None:
        parts.append(f"mostly {said(reading.usual)}")
        if reading.furthest != reading.usual:
            parts.append(f"at most {said(reading.furthest)}")
    if reading.unplaced:
        parts.append(f"{reading.unplaced} equal{'s' * (reading.unplaced == 1)} no frame of the video")
    return "".join(f", {part}" for part in parts)


def _summary(videos: Sequence[Sequence[Reading]]) -> Iterator[str]:
    def listed(what: str, found: list[str]) -> str:
        names = f" ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})" if found else ""
        return f"- {what}: {len(found)}{names}"

    def failed(reading: Reading) -> bool:
        return bool(reading.error) and not reading.error.startswith(NOT_OPENED)

    compared = [(ours.name, order, seek) for ours, order, seek in videos if not ours.error]
    jumped = [seek for _, order, seek in compared if seek.wrong and seek.wrong > (order.wrong or 0)]
    furthest = max((abs(seek.furthest) for seek in jumped if seek.furthest is not None), default=0)
    differing = [name for name, order, _ in compared if order.wrong]
    yield f"{len(videos)} videos, {sum(ours.wanted or 0 for ours, *_ in videos)} frames of them compared with PyAV's:"
    yield listed("decord by seeking returns other frames", [name for name, _, seek in compared if seek.wrong])
    yield listed("decord in order returns other frames", differing)
    unopened = [
        ours.name for ours, *theirs in videos if any(one.error.startswith(NOT_OPENED) for one in theirs)
    ]
    yield listed("cannot be opened by decord", unopened)
    yield listed(
        "opened by decord, then an error, a crash or no end",
        [name for name, *theirs in compared if any(map(failed, theirs))],
    )
    yield listed("cannot be read by PyAV", [ours.name for ours, *_ in videos if ours.error])
    if jumped:
        far = f", up to {furthest} frame{'s' * (furthest > 1)} off" if furthest else ""
        yield (
            f"Seeking returns other frames than a full decode: features would come from other moments{far}. This kit"
            " never seeks, with either decoder."
        )
    elif compared:
        yield "In this sample seeking went wrong nowhere that reading in order was right."
    if differing:
        yield (
            "Where frames read in order differ too, decord gives other pixels (10 bits, interlaced colours), does not"
            " mirror what is to be mirrored, or counts other frames; there this kit takes PyAV's."
        )
