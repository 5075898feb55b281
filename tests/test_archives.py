"""Downloads that break off and archives that bite: a server with faults, entries that lead out of their
folder."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from official import rar
from test_datasets import one_line, put

from flowclip_core.errors import InputError
from flowclip_kit.datasets import archives
from flowclip_kit.datasets.archives import Archive, fetch, unpack
from flowclip_kit.datasets.disk import videos_in

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
HALF = 2 << 16  # whole blocks of 64 KiB in the half of it that comes before a drop, and in half of the rest
THEN = 3 << 16
FILE, FOLDER, LINK = 0o100644, 0o040755, 0o120777


# --- a server with faults ---


class Server(ThreadingHTTPServer):
    """Serves `files`; `asked`: (path, Range header) of each request. `faults`: path -> list of faults, one a
    request: drop (half of what was asked for, then the line is cut), stall (the same, then silence), a
    status, whole (Range is ignored), shifted (10 bytes too early), short (announces and sends 100 bytes
    less)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        host, port = self.server_address
        return f"http://{host}:{port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, range_ = self.server, self.headers["Range"]
        server.asked.append((self.path, range_))
        faults = server.faults.get(self.path)
        fault = faults.pop(0) if faults else None
        content = server.files.get(self.path)
        if content is None or isinstance(fault, int):
            return self.send_error(fault or 404)
        content = content[:-100] if fault == "short" else content
        start = int(re.fullmatch(r"bytes=(\d+)-", range_)[1]) if range_ and fault != "whole" else 0
        start -= 10 * (fault == "shifted")
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        self.wfile.write(rest[: len(rest) // 2] if fault in ("drop", "stall") else rest)
        if fault == "stall":
            self.wfile.flush()
            self.server.over.wait(30)

    def log_message(self, *arguments: object) -> None:
        pass


def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server for as long as a test lasts; no proxy and no mirror stand before it, and nothing waits between
    tries."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "FLOWCLIP_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(archives, "PAUSE", 0.0)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    yield from serving(monkeypatch)


def offered(server: Server, *faults: object, content: bytes = CONTENT, **changes: object) -> Archive:
    server.files["/a/data.zip"] = content
    server.faults["/a/data.zip"] = list(faults)
    archive = Archive("data.zip", (server.url + "/a/data.zip",), "videos", len(content), digest(content))
    return archive._replace(**changes)


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_comes_whole_and_only_once(server, tmp_path):
    seen = []
    archive = offered(server)
    path = fetch(archive, tmp_path / "new", lambda *said: seen.append(said))
    assert path == tmp_path / "new" / "data.zip" and path.read_bytes() == CONTENT
    assert seen[-1] == ("data.zip", len(CONTENT), len(CONTENT))
    assert fetch(archive, tmp_path / "new") == path
    assert server.asked == [("/a/data.zip", None)]
    assert inside(tmp_path / "new") == ["data.zip"]


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["drop"], [None, f"bytes={HALF}-"]),
        (["drop", "drop"], [None, f"bytes={HALF}-", f"bytes={THEN}-"]),
        (["drop", "whole"], [None, f"bytes={HALF}-"]),  # a server that cannot go on sends all again
        ([503, 429], [None, None, None]),
    ],
)
def test_what_breaks_off_goes_on(server, tmp_path, faults, ranges):
    path = fetch(offered(server, *faults), tmp_path)
    assert path.read_bytes() == CONTENT
    assert [range_ for _, range_ in server.asked] == ranges


def test_a_line_that_breaks_again_and_again_is_borne_while_something_comes(server, tmp_path):
    archive = offered(server, *["drop"] * 6, content=CONTENT * 30)
    assert fetch(archive, tmp_path).read_bytes() == CONTENT * 30
    assert len(server.asked) == 7 > archives.TRIES


def test_a_server_that_goes_on_elsewhere_is_not_believed(server, tmp_path):
    assert fetch(offered(server, "drop", "shifted", bytes=None), tmp_path).read_bytes() == CONTENT
    assert [range_ for _, range_ in server.asked] == [None, f"bytes={HALF}-", None]


def test_a_killed_download_goes_on_where_it_was(server, tmp_path):
    archive = offered(server, "stall")
    call = f"fetch(Archive(*{tuple(archive)!r}), {str(tmp_path)!r})"
    code = f"from flowclip_kit.datasets.archives import *; {call}"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(archives.__file__).parents[2])
    part, end = tmp_path / "data.zip.part", time.time() + 60
    try:
        while time.time() < end and child.poll() is None and not (part.exists() and part.stat().st_size):
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    size = part.stat().st_size
    assert 0 < size <= HALF and not (tmp_path / "data.zip").exists()
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked[1:] == [("/a/data.zip", f"bytes={size}-")]
    assert not part.exists()


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
@pytest.mark.parametrize("known", [True, False])
def test_a_part_that_is_whole_or_too_long(server, tmp_path, left, known):
    put(tmp_path / "data.zip.part").write_bytes(left)
    archive = offered(server) if known else offered(server, bytes=None)
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    whole = left == CONTENT
    assert len(server.asked) == (0 if whole and known else 1 if whole else 2)


def test_without_a_digest_nothing_is_pieced_together(server, tmp_path):
    put(tmp_path / "data.zip.part").write_bytes(b"of another version")
    assert fetch(offered(server, "drop", sha256=None, bytes=None), tmp_path).read_bytes() == CONTENT
    assert [range_ for _, range_ in server.asked] == [None, None]


@pytest.mark.parametrize(
    ("faults", "changes", "said", "kept"),
    [
        ([404], {}, "404 Not Found", 0),
        (["short"], {}, "holds 307,100 bytes, expected 307,200", 0),
        (["short"], {"bytes": None}, f"its SHA-256 is {digest(CONTENT[:-100])}", 0),
        ([], {"sha256": "0" * 64}, f"its SHA-256 is {digest(CONTENT)}, expected {'0' * 64}", 0),
        (["drop", *[500] * 9], {}, "500 Internal Server Error", HALF),
        (["drop"] * 99, {"sha256": None}, "the connection failed (ChunkedEncodingError)", HALF),
    ],
)
def test_a_wrong_file_never_gets_its_name(server, tmp_path, faults, changes, said, kept):
    archive = offered(server, *faults, **changes)
    message = one_line(lambda: fetch(archive, tmp_path), archive.urls[0], said, str(tmp_path / "data.zip"))
    assert "--mirror" in message and f"put it at {tmp_path / 'data.zip'} (" in message
    assert not (tmp_path / "data.zip").exists()
    part = tmp_path / "data.zip.part"
    assert (part.stat().st_size if part.exists() else 0) == kept


def test_the_steps_by_hand_name_size_and_digest(server, tmp_path):
    archive = offered(server, 404, sha256="ab" * 32)
    one_line(lambda: fetch(archive, tmp_path), "307,200 bytes", "SHA-256 " + "ab" * 32)
    gone = archive._replace(urls=("http://" + "localhost:1/data.zip",))
    one_line(lambda: fetch(gone, tmp_path), "the connection failed (ConnectionError)")


def test_a_spoilt_part_is_given_up_and_the_next_try_is_clean(server, tmp_path):
    put(tmp_path / "data.zip.part").write_bytes(b"x" * 1000)
    one_line(lambda: fetch(offered(server), tmp_path), "SHA-256")
    assert fetch(offered(server), tmp_path).read_bytes() == CONTENT
    assert [range_ for _, range_ in server.asked] == ["bytes=1000-", None]


def test_the_next_address_is_tried(server, tmp_path):
    archive = offered(server)
    archive = archive._replace(urls=(server.url + "/none/data.zip", *archive.urls))
    assert fetch(archive, tmp_path).read_bytes() == CONTENT


def test_a_file_of_the_users_is_checked_and_left(server, tmp_path):
    path = put(tmp_path / "data.zip", "another edition")
    one_line(
        lambda: fetch(offered(server), tmp_path),
        str(path),
        "holds 15 bytes, expected 307,200",
        "unpack it yourself",
    )
    assert path.read_text() == "another edition" and server.asked == []


def test_a_disk_too_small_is_said_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    one_line(lambda: fetch(offered(server), tmp_path), "data.zip needs 307,200 bytes, 1,000 are free")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.avi", bytes(5000))
    put(tmp_path / "big.zip").write_bytes(content.getvalue())
    one_line(lambda: unpack(tmp_path / "big.zip", tmp_path / "o"), "unpacks to 5,000 bytes, 1,000 are free")
    assert inside(tmp_path / "o") == []


# --- unpacking ---

GOOD = [("wave", b"", FOLDER), ("wave/a [1]'s & ;!(x).avi", b"hello", FILE), ("wave/b.avi", b"world!", FILE)]
WHOLE = {"wave/a [1]'s & ;!(x).avi": b"hello", "wave/b.avi": b"world!"}
BAD = {
    "up": ([("ok.avi", b"x", FILE), ("../evil.avi", b"x", FILE)], "leads out of its folder"),
    "up inside": ([("a/../../evil.avi", b"x", FILE)], "leads out of its folder"),
    "absolute": ([("/evil.avi", b"x", FILE)], "is an absolute path"),
    "drive": ([("C:/evil.avi", b"x", FILE)], "is an absolute path"),
    "link": ([("ok.avi", b"x", FILE), ("link", b"..", LINK), ("link/evil.avi", b"x", FILE)], "is a link"),
}


def zipped(entries) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data, mode in entries:
            info = zipfile.ZipInfo(name + "/" * (mode == FOLDER))
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return content.getvalue()


def tarred(entries, mode: str = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data, kind in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = {FILE: tarfile.REGTYPE, FOLDER: tarfile.DIRTYPE, LINK: tarfile.SYMTYPE}.get(
                kind, kind
            )
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.size, info.linkname = 0, data.decode()
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


MAKE = {"zip": zipped, "tar": tarred, "tar.gz": lambda entries: tarred(entries, "w:gz"), "rar": rar}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(params=["zip", "tar", "tar.gz", "rar:unrar", "rar:unar", "rar:bsdtar"])
def kind(request, monkeypatch) -> str:
    kind, _, tool = request.param.partition(":")
    if tool:
        try:
            there = archives.rar_tools()
        except InputError:
            there = []
        if tool not in there:
            pytest.skip(f"no {tool} on this machine")
        monkeypatch.setattr(archives, "rar_tools", lambda: [tool])
    return kind


def test_an_archive_unpacks_whole_and_keeps_what_is_there(kind, tmp_path):
    path = put(tmp_path / f"x.{kind}")
    path.write_bytes(MAKE[kind](GOOD))
    unpack(path, tmp_path / "o")
    assert tree(tmp_path / "o") == WHOLE
    put(tmp_path / "o" / "wave" / "b.avi", "mine")
    (tmp_path / "o" / "wave" / "a [1]'s & ;!(x).avi").unlink()
    unpack(path, tmp_path / "o")
    assert tree(tmp_path / "o") == WHOLE | {"wave/b.avi": b"mine"}
    assert inside(tmp_path / "o") == ["wave"]


@pytest.mark.parametrize("case", BAD)
def test_no_entry_leaves_the_folder(kind, case, tmp_path):
    entries, said = BAD[case]
    path = put(tmp_path / "in" / f"x.{kind}")
    path.write_bytes(MAKE[kind](entries))
    one_line(lambda: unpack(path, tmp_path / "in" / "o"), path.name, said)
    assert inside(tmp_path / "in" / "o") == [] and not [p for p in tmp_path.rglob("*") if "evil" in p.name]
    assert not Path("/evil.avi").exists()


@pytest.mark.parametrize(
    ("data", "type_"), [(b"ok.avi", tarfile.LNKTYPE), (b"", tarfile.FIFOTYPE), (b"", tarfile.CHRTYPE)]
)
def test_tar_brings_neither_hard_links_nor_devices(tmp_path, data, type_):
    put(tmp_path / "x.tar").write_bytes(tarred([("ok.avi", b"x", FILE), ("odd", data, type_)]))
    said = "is a link" if type_ == tarfile.LNKTYPE else "is a special file"
    one_line(lambda: unpack(tmp_path / "x.tar", tmp_path / "o"), "'odd' " + said)
    assert inside(tmp_path / "o") == []


def test_backslashes_lead_out_too(tmp_path):
    for name, said in (("..\\evil.avi", "leads out"), ("\\evil.avi", "absolute"), ("c:evil.avi", "absolute")):
        put(tmp_path / "x.zip").write_bytes(zipped([(name, b"x", FILE)]))
        one_line(lambda: unpack(tmp_path / "x.zip", tmp_path / "o"), said)


def test_a_damaged_archive_is_one_line(kind, tmp_path):
    body = os.urandom(40000)
    whole = MAKE[kind]([("a.avi", body, FILE), ("b.avi", body[::-1], FILE)])
    spoilt = (
        whole.replace(body[100:140], bytes(40)) if kind == "zip" else whole[:500] + b"spoilt!" + whole[507:]
    )
    cases = {"cut": whole[: len(whole) // 2], "text": b"<html>not here any more</html>", "empty": b""}
    # A plain tar has no checksum of what it holds, and bsdtar does not look at a rar's: their SHA-256 tells.
    cases |= {"spoilt": spoilt} if kind in ("zip", "tar.gz") else {}
    for name, content in cases.items():
        path = put(tmp_path / f"{name}.{kind}")
        path.write_bytes(content)
        one_line(lambda path=path: unpack(path, tmp_path / "o"), path.name, "damaged", "again")
        assert inside(tmp_path / "o") == []
    one_line(lambda: unpack(tmp_path / "none.zip", tmp_path), "no such file")


def test_a_tar_cut_between_two_files_is_damaged(tmp_path):
    put(tmp_path / "x.tar").write_bytes(tarred([("a.avi", b"x", FILE), ("b.avi", b"y", FILE)])[:1024])
    one_line(lambda: unpack(tmp_path / "x.tar", tmp_path / "o"), "ends too early")


def test_a_file_where_a_folder_should_be_is_damage(tmp_path):
    put(tmp_path / "x.zip").write_bytes(zipped([("a", b"x", FILE), ("a/b.avi", b"y", FILE)]))
    one_line(lambda: unpack(tmp_path / "x.zip", tmp_path / "o"), "damaged")


def test_an_interrupted_unpacking_leaves_nothing_that_counts(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    put(tmp_path / "x.zip").write_bytes(zipped(GOOD))
    monkeypatch.setattr(archives, "_move", stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "x.zip", tmp_path / "o")
    assert inside(tmp_path / "o") == []
    monkeypatch.undo()
    # A kill cannot tidy up: what it leaves is hidden from the readers.
    put(tmp_path / "o" / ".unpack-abc" / "wave" / "c.avi")
    assert list(videos_in(tmp_path / "o", depth=2)) == []


def test_rar_in_rar(tmp_path):
    tools_or_skip()
    inner = {name: rar([(f"{name}/1.avi", name.encode(), FILE)]) for name in ("wave", "walk")}
    put(tmp_path / "x.rar").write_bytes(
        rar([(f"{name}.rar", content, FILE) for name, content in inner.items()])
    )
    unpack(tmp_path / "x.rar", tmp_path / "o")
    assert tree(tmp_path / "o") == {"wave/1.avi": b"wave", "walk/1.avi": b"walk"}
    evil = rar([("../../evil.avi", b"x", FILE)])
    put(tmp_path / "y.rar").write_bytes(rar([("wave.rar", inner["wave"], FILE), ("zz.rar", evil, FILE)]))
    one_line(lambda: unpack(tmp_path / "y.rar", tmp_path / "p"), "zz.rar", "leads out")
    assert inside(tmp_path / "p") == [] and not list(tmp_path.rglob("evil*"))


def tools_or_skip() -> None:
    try:
        archives.rar_tools()
    except InputError as error:
        pytest.skip(str(error))


def tool(folder: Path, listing: str, work: str, banner: str = "UNRAR 6 freeware  Alexander Roshal") -> None:
    """A program called unrar that says and does as told; $3 is the folder."""
    cases = f'vt) echo \'{listing}\';;\nx) cd "$5" && {work};;\n*) echo "{banner}";;\n'
    script = f'#!/bin/sh\ncase "$1" in\n{cases}esac\n'
    put(folder / "unrar", script).chmod(0o755)


VT = "  Name: wave/b.avi\n  Type: File\n  Size: 6\n Packed size: 6\n\n  Name: wave\n  Type: {}"


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_unrar_is_asked_first_and_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    put(tmp_path / "x.rar").write_bytes(b"Rar!\x1a\x07\x00")
    write = "/bin/mkdir wave && printf world! > wave/b.avi"
    cases = (
        (VT.format("Directory"), write, None),
        (VT.format("Unix symbolic link"), write, "is a Unix symbolic link"),
        (VT.format("Directory"), write + " && /bin/ln -s /bin wave/c", "unpacked to a link"),
        (VT.format("Directory"), write + " && /bin/ln wave/b.avi wave/c.avi", "unpacked to a link"),
        (
            VT.format("Directory"),
            "/bin/mkdir wave && printf wor > wave/b.avi",
            "did not unpack to the 1 files it lists",
        ),
        (VT.format("Directory"), "/bin/mkdir wave", "did not unpack to the 1 files it lists"),
        ("", "true", "lists nothing"),
    )
    for number, (listing, work, said) in enumerate(cases):
        tool(tmp_path / "bin", listing, work)
        out = tmp_path / str(number)
        if said:
            one_line(lambda out=out: unpack(tmp_path / "x.rar", out), "x.rar", said)
            assert inside(out) == []
        else:
            unpack(tmp_path / "x.rar", out)
            assert tree(out) == {"wave/b.avi": b"world!"}


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_without_a_program_for_rar_the_message_names_one(tmp_path, monkeypatch):
    put(tmp_path / "x.rar").write_bytes(rar(GOOD))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    one_line(lambda: unpack(tmp_path / "x.rar", tmp_path / "o"), "install unar")
    tool(tmp_path / "bin", "", "true", banner="unrar-free 0.1.3")
    one_line(lambda: unpack(tmp_path / "x.rar", tmp_path / "o"), "not unrar-free")
