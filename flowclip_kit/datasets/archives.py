"""Published files: fetched until they are whole, and unpacked so that nothing lands outside its folder.

What a server or an archive sends is not trusted: a file gets its final name only once size and SHA-256 are
right, and no entry of an archive is written before all have been checked, nor outside a folder of its own.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flowclip_core.errors import InputError
from flowclip_core.files import sha256

TRIES, PAUSE = 4, 1.0  # attempts in a row that bring nothing; seconds between them, doubling
TIMEOUT = (10.0, 30.0)  # seconds until a server answers, and of silence

Progress = Callable[[str, int, int | None], None]  # what, done, total where it is known


class Archive(NamedTuple):
    """A published file. `urls`: tried in order; `bytes`, `sha256`: None where nobody states them."""

    file: str
    urls: tuple[str, ...]
    what: str
    bytes: int | None = None
    sha256: str | None = None


# --- fetching ---


def fetch(archive: Archive, folder: str | Path, progress: Progress | None = None) -> Path:
    """Download `archive` into `folder` and return its path; a file that is there and right is left alone.

    It grows as <file>.part and is renamed when bytes and SHA-256 are right. What a dropped connection or a
    kill has left is continued where a digest can tell whether the halves belong together. Raises InputError
    (one line) when no address gives the file, with what to do by hand, or when the disk is too small.
    """
    path = Path(folder) / archive.file
    if path.exists():
        if fault := _fault(path, archive):
            raise InputError(f"{path}: {fault}; delete it to fetch it again, or unpack it yourself")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    faults = []
    for url in archive.urls:
        fault = _download(url, part, archive, progress)
        if not fault and (fault := _fault(part, archive)):
            part.unlink()  # continuing from there could never come right
        if not fault:
            part.replace(path)
            return path
        faults.append(f"{url}: {fault}")
    known = [f"{archive.bytes:,} bytes"] if archive.bytes else []
    known += [f"SHA-256 {archive.sha256}"] if archive.sha256 else []
    raise InputError(
        f"{archive.file} cannot be fetched ({'; '.join(faults)}); get it from there or elsewhere by other"
        f" means, put it at {path}{' (' + ', '.join(known) + ')' if known else ''} and run the same command"
        " again, or name another server with --mirror or FLOWCLIP_MIRROR"
    )


def _fault(path: Path, archive: Archive) -> str:
    size = path.stat().st_size
    if archive.bytes not in (None, size):
        return f"holds {size:,} bytes, expected {archive.bytes:,}"
    if archive.sha256 and (digest := sha256(path)) != archive.sha256:
        return f"its SHA-256 is {digest}, expected {archive.sha256}"
    return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download(url: str, part: Path, archive: Archive, progress: Progress | None) -> str:
    """Bring `part` to its full length; returns what is wrong, or nothing."""
    tries, longest, fault = 0, 0, ""
    while tries < TRIES:
        if tries:
            time.sleep(PAUSE * 2 ** (tries - 1))
        tries += 1
        fault, again = _try(url, part, archive, progress)
        if not again:
            return fault
        if (size := _size(part)) > longest:
            tries, longest = 0, size  # it made progress
    return fault


def _try(url: str, part: Path, archive: Archive, progress: Progress | None) -> tuple[str, bool]:
    """One request: (what is wrong, or nothing; whether to try again)."""
    import requests  # here: it takes a while, and few commands fetch

    start = _size(part) if archive.sha256 else 0
    if start and start == archive.bytes:
        return "", False
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            status = answer.status_code
            sent = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+)", answer.headers.get("Content-Range", ""))
            if status == 416 or (status == 206 and (not sent or sent[1] != str(start))):
                if sent and int(sent[2]) == start:
                    return "", False  # all of it was there
                part.unlink(missing_ok=True)
                return "the server cannot continue the file", True
            if status not in (200, 206):
                return f"{status} {answer.reason}", status in (429, 500, 502, 503, 504)
            done = start if status == 206 else 0  # 200: a server that starts anew
            length = answer.headers.get("Content-Length", "")
            total = done + int(length) if length.isdigit() else archive.bytes
            if archive.bytes not in (None, total):
                return f"holds {total:,} bytes, expected {archive.bytes:,}", False
            if total and total - done > (free := shutil.disk_usage(part.parent).free):
                raise InputError(
                    f"{part.parent}: {archive.file} needs {total - done:,} bytes, {free:,} are free"
                )
            with part.open("ab" if done else "wb") as file:
                for block in answer.iter_content(1 << 16):
                    file.write(block)
                    done += len(block)
                    if progress:
                        progress(archive.file, done, total)
            return (
                (f"ended after {done:,} of {total:,} bytes", True)
                if total not in (None, done)
                else ("", False)
            )
    except requests.RequestException as error:
        return f"the connection failed ({type(error).__name__})", True


# --- unpacking ---


class _Entry(NamedTuple):
    name: str
    kind: str  # file, folder, or what makes it unwelcome
    size: int


def unpack(path: str | Path, folder: str | Path, nested: bool = True) -> None:
    """Unpack a zip, tar (.gz, .bz2, .xz) or rar file into `folder`, and rar files inside a rar (HMDB-51).

    Everything is written to a hidden folder inside `folder` first and moved once all of it is there; files
    that are in `folder` already are kept. Links, devices, absolute paths, drive letters and ".." are refused
    before anything is written, and looked for again before the move. Raises InputError (one line) for these,
    for a damaged archive, too small a disk, and where no tool can read a rar file.
    """
    path, folder = Path(path).absolute(), Path(folder)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an archive (zip, tar or rar)")
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=".unpack-"))
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        try:
            entries = (_unrar if magic == b"Rar!" else _unzip if magic[:2] == b"PK" else _untar)(path, new)
        except InputError:
            raise
        except _DAMAGE as error:
            why = " ".join(str(error).split())[:60]
            raise InputError(
                f"{path.name}: damaged, or no archive ({why}); delete it and fetch it again"
            ) from error
        sizes = Counter({entry.name: entry.size for entry in entries if entry.kind == "file"}.values())
        if sizes != Counter(_sizes(path, new)):
            raise InputError(
                f"{path.name}: did not unpack to the {sizes.total()} files it lists; fetch it again"
            )
        for inner in sorted(new.rglob("*.rar")) if nested and magic == b"Rar!" else ():
            unpack(inner, inner.parent, nested=False)
            inner.unlink()
        _move(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    struct.error, NotImplementedError, RuntimeError, ValueError, FileExistsError, NotADirectoryError,
    IsADirectoryError,
)  # fmt: skip


def _check(path: Path, entries: Sequence[_Entry], folder: Path) -> None:
    for name, kind, _ in entries:
        fault = ""
        if kind not in ("file", "folder"):
            fault = f"is a {kind}"
        elif name[:1] in ("/", "\\") or re.match("[A-Za-z]:", name):
            fault = "is an absolute path"
        elif ".." in name.replace("\\", "/").split("/"):
            fault = "leads out of its folder"
        if fault:
            raise InputError(
                f"{path.name}: entry {name!r} {fault}; nothing was unpacked, do not use this archive"
            )
    need, free = sum(entry.size for entry in entries), shutil.disk_usage(folder).free
    if need > free:
        raise InputError(f"{path.name}: unpacks to {need:,} bytes, {free:,} are free at {folder.parent}")


def _unzip(path: Path, folder: Path) -> list[_Entry]:
    with zipfile.ZipFile(path) as archive:
        entries = []
        for info in archive.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            kind = "folder" if info.is_dir() else "file"
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "link" if mode == stat.S_IFLNK else "special file"
            entries.append(_Entry(info.filename, kind, info.file_size))
        _check(path, entries, folder)
        archive.extractall(folder)
    return entries


def _untar(path: Path, folder: Path) -> list[_Entry]:
    with tarfile.open(path) as archive:
        entries = []
        for member in archive.getmembers():
            kind = "link" if member.issym() or member.islnk() else "special file"
            kind = "file" if member.isreg() else "folder" if member.isdir() else kind
            entries.append(_Entry(member.name, kind, member.size))
        _check(path, entries, folder)
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(512) != bytes(512):  # tarfile takes a cut or a broken header for the end
            raise tarfile.ReadError("it ends too early")
        while archive.fileobj.read(1 << 20):
            pass  # to the checksum at the end of a .gz
        archive.extractall(folder, filter="data")
    return entries


def _listed_by_unrar(text: str) -> list[_Entry]:
    entries = []
    for key, value in re.findall(r"^ *(Name|Type|Size): (.*)$", text, re.MULTILINE):
        if key == "Name":
            entries.append(_Entry(value, "entry of no kind", 0))
        elif key == "Type":
            kind = {"File": "file", "Directory": "folder"}.get(value, value)
            entries[-1] = entries[-1]._replace(kind=kind)
        else:
            entries[-1] = entries[-1]._replace(size=int(value))
    return entries


def _listed_by_lsar(text: str) -> list[_Entry]:
    entries = []
    for item in json.loads(text)["lsarContents"]:
        marks = [key[5:].lower() for key, value in item.items() if key.startswith("XADIs") and value]
        kind = "folder" if marks == ["directory"] else marks[0] + " entry" if marks else "file"
        entries.append(_Entry(str(item["XADFileName"]), kind, int(item.get("XADFileSize", 0))))
    return entries


def _listed_by_bsdtar(text: str) -> list[_Entry]:
    kinds = {"-": "file", "d": "folder", "l": "link", "h": "link"}
    lines = re.findall(r"^(.)\S+ +\S+ +\S+ +\S+ +(\d+) (?:\S+ +){2}\S+ (.*)$", text, re.MULTILINE)
    return [_Entry(name, kinds.get(letter, "special file"), int(size)) for letter, size, name in lines]


# By tool: what lists, what reads the list, what unpacks. bsdtar comes last: it misses a wrong checksum
# inside.
_RAR = {
    "unrar": (["unrar", "vt", "-p-"], _listed_by_unrar, ["unrar", "x", "-p-", "-y", "{path}", "{folder}/"]),
    "unar": (
        ["lsar", "-j"],
        _listed_by_lsar,
        ["unar", "-quiet", "-no-directory", "-force-overwrite", "-output-directory", "{folder}", "{path}"],
    ),
    "bsdtar": (
        ["bsdtar", "-tvf"],
        _listed_by_bsdtar,
        ["bsdtar", "-x", "-o", "-f", "{path}", "-C", "{folder}"],
    ),
}


def rar_tools() -> list[str]:
    """The programs on the PATH that unpack rar files, best first. Raises InputError where there is none.

    unrar-free, which some systems install under the name unrar, cannot list what a file holds and is passed
    over.
    """
    tools = [
        tool for tool, (lists, _, unpacks) in _RAR.items() if all(map(shutil.which, (lists[0], unpacks[0])))
    ]
    if "unrar" in tools and "Roshal" not in _run(["unrar"]).stdout:
        tools.remove("unrar")
    if not tools:
        raise InputError(
            "no program for rar files: install unar (or unrar, not unrar-free; or bsdtar), then try again"
        )
    return tools


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="surrogateescape", env=os.environ | {"LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def _unrar(path: Path, folder: Path) -> list[_Entry]:
    faults = []
    for tool in rar_tools():
        lists, read, unpacks = _RAR[tool]
        done = _run([*lists, str(path)])
        entries = read(done.stdout) if done.returncode == 0 else []
        if entries:
            _check(path, entries, folder)
            done = _run([word.format(path=path, folder=folder) for word in unpacks])
            if done.returncode == 0:
                return entries
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        faults.append(f"{tool}: {' '.join(done.stdout.split())[-120:] or 'lists nothing'}")
    raise InputError(
        f"{path.name}: damaged, or not readable ({'; '.join(faults)}); delete it and fetch it again"
    )


def _sizes(path: Path, folder: Path) -> Iterator[int]:
    """Bytes of the files below `folder`. Raises InputError for anything that is neither file nor folder."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            info = (Path(parent) / name).lstat()
            if stat.S_ISDIR(info.st_mode):
                continue
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
                raise InputError(
                    f"{path.name}: {name!r} unpacked to a link or a special file; nothing was kept"
                )
            yield info.st_size


def _move(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            _move(path, target)
        elif not os.path.lexists(target):
            path.rename(target)
