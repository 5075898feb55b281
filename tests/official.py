"""Trees that look like the official HMDB-51 and UCF-101, and rar files, for tests: names and lists, tiny
videos."""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.demo.world import encode

HMDB_CLASSES = [text.replace(" ", "_") for text in CLASSES["HMDB-51"]]
UCF_CLASSES = [text.replace(" ", "") for text in CLASSES["UCF-101"]]
HMDB_VIDEOS = 6766
UCF_BLOCKS = (
    (7, 3783),
    (7, 3734),
    (7, 3696),
    (4, 2107),
)  # groups and clips: test of split 1, 2, 3; never tested
# In the manner of the real ones: brackets, quotes, & ; ! ( ) # + and a title that holds another class's name.
TITLES = (
    "April_09", "(Rad)Schlag_die_Bank!", "It's_Me_&_You;_Part_2", "#20_Rhythm",
    "96-_Torwarttraining[1]", "RATRACE+1",
    "_I_ll_Just_Wave_My_Hand_", "Sit_stand_up!!", "prelinger_Let'sB1947", "50_FIRST_DATES",
)  # fmt: skip


def tiny_video() -> bytes:
    """An .avi of two frames, 16 x 16."""
    return encode(np.arange(2 * 16 * 16 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 16, 16, 3))


def hmdb_names() -> dict[str, list[str]]:
    """Class -> file names: 6,766 in all, at least 101 a class, no two alike."""
    k = len(HMDB_CLASSES)
    names = {}
    for label, inside in enumerate(HMDB_CLASSES):
        extra = HMDB_VIDEOS - 101 * k
        count = 101 + extra * (label + 1) ** 2 // k**2 - extra * label**2 // k**2
        names[inside] = [
            f"{TITLES[i % len(TITLES)]}_{inside}_{'fhul'[i % 4]}_{'cn'[i % 2]}m_np{1 + i % 2}"
            f"_{('ba', 'fr', 'le', 'ri')[i % 4]}_{('bad', 'med', 'goo')[i % 3]}_{i}.avi"
            for i in range(count)
        ]
    return names


def ucf_names() -> dict[str, list[list[str]]]:
    """Class -> 25 groups of file names, 13,320 in all; files in HandstandPushups begin with
    v_HandStandPushups."""
    names: dict[str, list] = {inside: [] for inside in UCF_CLASSES}
    for groups, clips in UCF_BLOCKS:
        cells, cell = groups * len(UCF_CLASSES), 0
        for inside, own in names.items():
            stem = inside.replace("HandstandP", "HandStandP")
            for _ in range(groups):
                count = clips * (cell + 1) // cells - clips * cell // cells
                own.append([f"v_{stem}_g{len(own) + 1:02d}_c{clip:02d}.avi" for clip in range(1, count + 1)])
                cell += 1
    return names


def hmdb_lists() -> dict[str, str]:
    """The 153 files <class>_test_split<n>.txt: 70 videos of code 1 and 30 of code 2, the rest 0."""
    files = {}
    for inside, names in hmdb_names().items():
        for split in (1, 2, 3):
            codes = dict.fromkeys(names[30 * (split - 1) : 30 * split], 2)
            rest = [name for name in names[split:] + names[:split] if name not in codes]
            codes |= dict.fromkeys(rest[:70], 1)
            text = "".join(f"{name} {codes.get(name, 0)} \n" for name in names)
            files[f"{inside}_test_split{split}.txt"] = text
    return files


def ucf_lists(classes: Sequence[str] = UCF_CLASSES) -> dict[str, str]:
    """classInd.txt and the three pairs of lists, lines ended as Windows does."""
    files = {"classInd.txt": "".join(f"{i} {name}\r\n" for i, name in enumerate(classes, 1))}
    chosen = {name: groups for name, groups in ucf_names().items() if name in classes}
    for split in (1, 2, 3):
        train, test = [], []
        for number, (inside, groups) in enumerate(chosen.items(), 1):
            for group, clips in enumerate(groups):
                if group // 7 == split - 1:
                    test += [f"{inside}/{name}\r\n" for name in clips]
                else:
                    train += [f"{inside}/{name} {number}\r\n" for name in clips]
        files |= {f"trainlist0{split}.txt": "".join(train), f"testlist0{split}.txt": "".join(test)}
    return files


def build_hmdb(
    folder: Path, videos: bool | bytes = False, inside: str = "videos", classes: Sequence[str] = HMDB_CLASSES
) -> Path:
    """An HMDB-51 tree below `folder`. videos: write them too, as `tiny_video()` or these bytes. classes: a
    subset."""
    lists = {
        file: text for file, text in hmdb_lists().items() if file.rpartition("_test_split")[0] in classes
    }
    _write(folder / "testTrainMulti_7030_splits", lists)
    _fill(folder / inside, {name: own for name, own in hmdb_names().items() if name in classes}, videos)
    return folder


def build_ucf(
    folder: Path, videos: bool | bytes = False, inside: str = "UCF-101", classes: Sequence[str] = UCF_CLASSES
) -> Path:
    """A UCF-101 tree below `folder`, alike."""
    _write(folder / "ucfTrainTestlist", ucf_lists(classes))
    names = {name: [*itertools.chain(*groups)] for name, groups in ucf_names().items() if name in classes}
    _fill(folder / inside, names, videos)
    return folder


def _write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def _fill(folder: Path, names: dict[str, list[str]], videos: bool | bytes) -> None:
    """One file with many names where the disk can do that: 13,320 files of their own take too long."""
    if videos is False:
        return
    first, content = None, tiny_video() if videos is True else videos
    for inside, own in names.items():
        (folder / inside).mkdir(parents=True, exist_ok=True)
        for name in own:
            path = folder / inside / name
            try:
                os.link(first, path)
            except (TypeError, OSError):  # the first of all, or too many links to it
                path.write_bytes(content)
                first = path


def rar(entries: Iterable[tuple[str, bytes, int]]) -> bytes:
    """A rar file (version 3, stored) of (name with "/", content, Unix mode): links and bad names as asked
    for."""

    def block(kind: int, flags: int, body: bytes) -> bytes:
        rest = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(rest) & 0xFFFF) + rest

    data = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, content, mode in entries:
        coded = name.replace("/", "\\").encode()
        body = struct.pack(
            "<IIBIIBBHI",
            len(content),
            len(content),
            3,
            zlib.crc32(content),
            0x5A210000,
            20,
            0x30,
            len(coded),
            mode,
        )
        data += block(0x74, 0x80E0 if mode & 0o040000 == mode & 0o170000 else 0x8000, body + coded) + content
    return data + block(0x7B, 0x4000, b"")
