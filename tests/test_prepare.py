"""`data NAME`: downloads that break off, archives that bite, trees that lie otherwise, published few-shot lists."""

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
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import pytest
from official import build_hmdb, build_ucf, hmdb_names, rar, tiny_video, ucf_lists, ucf_names
from test_datasets import hmdb, kinetics, one_line, put, ucf

from flowclip_core.__main__ import main
from flowclip_core.data import datasets, prepare
from flowclip_core.data.prepare import Archive, fetch, inspect, read_list, unpack
from flowclip_core.errors import InputError

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
HALF = 2 << 16  # whole blocks of 64 KiB in the half of it that comes before a drop, and in half of the rest
THEN = 3 << 16
FILE, FOLDER, LINK = 0o100644, 0o040755, 0o120777


# --- a server with faults -------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `files`; `asked`: (path, Range header) of each request. `faults`: path -> list of faults, one a request:
    drop (half of what was asked for, then the line is cut), stall (the same, then silence), a status, whole (Range is
    ignored), shifted (10 bytes too early), short (announces and sends 100 bytes less)."""

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


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "FLOWCLIP_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(prepare, "PAUSE", 0.0)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


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
    assert len(server.asked) == 7 > prepare.TRIES


def test_a_server_that_goes_on_elsewhere_is_not_believed(server, tmp_path):
    assert fetch(offered(server, "drop", "shifted", bytes=None), tmp_path).read_bytes() == CONTENT
    assert [range_ for _, range_ in server.asked] == [None, f"bytes={HALF}-", None]


def test_a_killed_download_goes_on_where_it_was(server, tmp_path):
    archive = offered(server, "stall")
    code = f"from flowclip_core.data.prepare import *; fetch(Archive(*{tuple(archive)!r}), {str(tmp_path)!r})"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=datasets.Path(prepare.__file__).parents[2])
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
        lambda: fetch(offered(server), tmp_path), str(path), "holds 15 bytes, expected 307,200", "unpack it yourself"
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


def test_sources_have_their_digests_and_a_mirror_takes_the_place_of_the_hosts(monkeypatch):
    monkeypatch.delenv("FLOWCLIP_MIRROR", raising=False)
    for name in ("hmdb51", "ucf101"):
        assert all(re.fullmatch("[0-9a-f]{64}", archive.sha256) for archive in prepare.sources(name))
        assert all(url.startswith("https://") for archive in prepare.sources(name) for url in archive.urls)
    assert [archive.file for archive in prepare.sources("kinetics400")] == ["train.csv", "val.csv"]
    lists = prepare.sources("hmdb51", "https://mirror.example/x/")[0]
    assert lists.urls == (
        "https://mirror.example/x/wp-content/uploads/2013/10/test_train_splits.rar",
        "https://mirror.example/x/test_train_splits.rar",
    )
    monkeypatch.setenv("FLOWCLIP_MIRROR", "http://other.example")
    assert {url.split("/")[2] for archive in prepare.sources("ucf101") for url in archive.urls} == {"other.example"}
    one_line(lambda: prepare.sources("ucf101", "ftp://x"), "'ftp://x'", "https://host/folder")
    one_line(lambda: prepare.sources("figures-h"), "expected one of hmdb51, ucf101, kinetics400")


# --- archives -------------------------------------------------------------------------------------------------

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
            info.type = {FILE: tarfile.REGTYPE, FOLDER: tarfile.DIRTYPE, LINK: tarfile.SYMTYPE}.get(kind, kind)
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.size, info.linkname = 0, data.decode()
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


MAKE = {"zip": zipped, "tar": tarred, "tar.gz": lambda entries: tarred(entries, "w:gz"), "rar": rar}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["zip", "tar", "tar.gz", "rar:unrar", "rar:unar", "rar:bsdtar"])
def kind(request, monkeypatch) -> str:
    kind, _, tool = request.param.partition(":")
    if tool:
        try:
            there = prepare.rar_tools()
        except InputError:
            there = []
        if tool not in there:
            pytest.skip(f"no {tool} on this machine")
        monkeypatch.setattr(prepare, "rar_tools", lambda: [tool])
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
    spoilt = whole.replace(body[100:140], bytes(40)) if kind == "zip" else whole[:500] + b"spoilt!" + whole[507:]
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
    monkeypatch.setattr(prepare, "_move", stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "x.zip", tmp_path / "o")
    assert inside(tmp_path / "o") == []
    monkeypatch.undo()
    # A kill cannot tidy up: what it leaves is hidden from the readers.
    put(tmp_path / "o" / ".unpack-abc" / "wave" / "c.avi")
    assert list(datasets._videos(tmp_path / "o", depth=2)) == []


def test_rar_in_rar(tmp_path):
    tools_or_skip()
    inner = {name: rar([(f"{name}/1.avi", name.encode(), FILE)]) for name in ("wave", "walk")}
    put(tmp_path / "x.rar").write_bytes(rar([(f"{name}.rar", content, FILE) for name, content in inner.items()]))
    unpack(tmp_path / "x.rar", tmp_path / "o")
    assert tree(tmp_path / "o") == {"wave/1.avi": b"wave", "walk/1.avi": b"walk"}
    evil = rar([("../../evil.avi", b"x", FILE)])
    put(tmp_path / "y.rar").write_bytes(rar([("wave.rar", inner["wave"], FILE), ("zz.rar", evil, FILE)]))
    one_line(lambda: unpack(tmp_path / "y.rar", tmp_path / "p"), "zz.rar", "leads out")
    assert inside(tmp_path / "p") == [] and not list(tmp_path.rglob("evil*"))


def tools_or_skip() -> None:
    try:
        prepare.rar_tools()
    except InputError as error:
        pytest.skip(str(error))


def tool(folder: Path, listing: str, work: str, banner: str = "UNRAR 6 freeware  Alexander Roshal") -> None:
    """A program called unrar that says and does as told; $3 is the folder."""
    script = f'#!/bin/sh\ncase "$1" in\nvt) echo \'{listing}\';;\nx) cd "$5" && {work};;\n*) echo "{banner}";;\nesac\n'
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
    # Said before gigabytes come in.
    monkeypatch.setattr(prepare, "fetch", lambda *_: pytest.fail("fetched"))
    one_line(lambda: prepare.prepare("hmdb51", tmp_path / "h", say=lambda line: None), "install unar")


# --- the official trees ---------------------------------------------------------------------------------------

COUNTS = {
    "hmdb51": {n: (3570, 1530) for n in (1, 2, 3)},
    "ucf101": {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)},
}
BUILD = {"hmdb51": build_hmdb, "ucf101": build_ucf}


def no_network(monkeypatch) -> None:
    monkeypatch.setattr(prepare, "fetch", lambda *_: pytest.fail("fetched"))


@pytest.mark.parametrize("name", BUILD)
def test_the_whole_of_an_official_tree(name, tmp_path, monkeypatch):
    no_network(monkeypatch)
    folder = BUILD[name](tmp_path / name, b"x")
    before = inside(folder)
    report = prepare.prepare(name, folder, say=lambda line: pytest.fail(line))
    assert report.complete and inside(folder) == before
    assert report.splits == {n: ((a, a), (b, b)) for n, (a, b) in COUNTS[name].items()}
    assert report.classes == len(datasets.load(name, folder).classes) == {"hmdb51": 51, "ucf101": 101}[name]
    assert report.files == ((6766, 6766) if name == "hmdb51" else (13320, 13320))
    lines = report.text().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 110 and f"{report.files[0]:,}" in lines[2]
    assert [line.split()[0] for line in lines[-3:]] == ["complete", "licence", "cite"] and "yes" in lines[-3]


def test_the_names_are_as_odd_as_the_real_ones():
    names = [name for own in hmdb_names().values() for name in own]
    assert len(set(names)) == 6766 and all(sum(c in name for name in names) > 50 for c in "[]'&;!()#+")
    pushups = [name for group in ucf_names()["HandstandPushups"] for name in group]
    assert len(ucf_names()["HandstandPushups"]) == 25 and all(n.startswith("v_HandStandPushups_g") for n in pushups)
    assert ucf_lists()["classInd.txt"].startswith("1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n")


@pytest.mark.parametrize(
    ("name", "videos", "lists"),
    [
        ("hmdb51", "", "testTrainMulti_7030_splits"),
        ("hmdb51", "hmdb51_org", "splits/testTrainMulti_7030_splits"),
        ("hmdb51", "videos/hmdb51_org", ""),
        ("ucf101", "", "ucfTrainTestlist"),
        ("ucf101", "videos", "annotations"),
        ("ucf101", "UCF101/UCF-101", ""),
    ],
)
def test_usual_layouts_are_taken_as_they_are(name, videos, lists, tmp_path, monkeypatch):
    no_network(monkeypatch)
    monkeypatch.setitem(prepare.FACTS, name, prepare.FACTS[name]._replace(classes=3, splits={}))
    whole, folder = {"hmdb51": hmdb, "ucf101": ucf}[name](tmp_path / "whole"), tmp_path / "new"
    for source, target in (("UCF-101" if name == "ucf101" else "videos", videos), (prepare._LISTS[name][0], lists)):
        shutil.copytree(whole / source, folder / target, dirs_exist_ok=True)
    # Frames of other projects have class folders of the same names: they hold no videos.
    put(folder / "rawframes" / ("kick" if name == "hmdb51" else "YoYo") / "v" / "img_1.jpg")
    before = {path for path in folder.rglob("*") if path.is_file()}
    report = prepare.prepare(name, folder, say=lambda line: pytest.fail(line))
    assert report.complete, report.text()
    assert before <= {path for path in folder.rglob("*") if path.is_file()}  # nothing was moved
    assert datasets.load(name, folder).missing == ()
    assert prepare.prepare(name, folder) == report


def test_what_is_wrong_is_named(tmp_path):
    folder = build_hmdb(tmp_path, b"x")
    names = hmdb_names()
    wave, walk = names["wave"], names["walk"]
    put(folder / "videos" / "wave" / "new.avi")
    put(folder / "videos" / "wave" / walk[0].upper())
    (folder / "videos" / "wave" / wave[0]).unlink()
    spare = next(name for name in wave if all(f"{name} 0" in text(folder, "wave", n) for n in (1, 2, 3)))
    (folder / "videos" / "wave" / spare).unlink()
    shutil.rmtree(folder / "videos" / "golf")
    for name, code in ((walk[0], "1"), (walk[40], "1")):  # walk[0] is in the test, walk[40] in training
        with (folder / "testTrainMulti_7030_splits" / "walk_test_split1.txt").open("a") as file:
            file.write(f"{name} {code}\n")
    report = inspect("hmdb51", folder)
    golf = [f"golf/{name}" for name in names["golf"]]
    assert not report.complete and report.classes == 50
    assert report.overlap == {1: (f"walk/{walk[0]}",), 2: (), 3: ()} and report.repeated == (f"walk/{walk[40]}",)
    assert report.unlisted == (f"wave/{walk[0].upper()}", "wave/new.avi")
    assert report.same_name == ((f"walk/{walk[0]}", f"wave/{walk[0].upper()}"),)
    assert set(report.missing) < {*golf, f"wave/{wave[0]}"} and f"wave/{wave[0]}" in report.missing
    assert f"wave/{spare}" not in report.missing  # no split needs it
    assert report.files == (6766 - 2 - len(golf), 6766)
    assert report.splits[1] == ((3572 - 70, 3572), (1530 - 31, 1530))
    whole = {n: ((3570, 3570), (1530, 1530)) for n in (1, 2, 3)}
    fine = replace(report, classes=51, splits=whole, missing=(), repeated=(), overlap={n: () for n in (1, 2, 3)})
    assert fine.complete and replace(fine, unreadable=()).complete
    faults = ("classes", "splits", "missing", "repeated", "overlap")
    assert not any(replace(fine, **{fault: getattr(report, fault)}).complete for fault in faults)
    assert not replace(fine, unreadable=(("wave/new.avi", "damaged"),)).complete
    assert (
        not replace(fine, splits={1: whole[1]}).complete
        and "of split 2, 3" in replace(fine, splits={1: whole[1]}).text()
    )
    shown = report.text()
    assert "its lists have 3,572 and 1,530: not the official ones" in shown and "complete      no" in shown
    assert len(shown.splitlines()) <= 25 and golf[99] not in shown
    assert set(report.missing) <= {line.strip() for line in report.text(names=None).splitlines()}


def text(folder: Path, inside: str, split: int) -> str:
    return (folder / "testTrainMulti_7030_splits" / f"{inside}_test_split{split}.txt").read_text()


def test_opening_each_video_finds_the_unreadable_and_the_copies(tmp_path):
    folder, video = hmdb(tmp_path), tiny_video()
    files = sorted((folder / "videos").rglob("*.avi"))
    for number, file in enumerate(files):
        file.write_bytes(video + b"JUNK" + bytes(4 + 2 * number))  # readable, each different
    files[0].write_bytes(video[: len(video) // 2])
    files[1].write_bytes(b"")
    files[2].write_bytes(b"<html>")
    files[3].write_bytes(files[4].read_bytes())
    assert inspect("hmdb51", folder).unreadable is None
    seen = []
    report = inspect("hmdb51", folder, open_all=True, jobs=2, progress=lambda *said: seen.append(said))
    names = [file.relative_to(folder / "videos").as_posix() for file in files]
    assert [name for name, _ in report.unreadable] == names[:3] and all(why for _, why in report.unreadable)
    assert report.same_content == ((names[3], names[4]),)
    assert seen[-1] == ("opening", 9, 9) and not report.complete
    assert f"unreadable    {3:>9}" in report.text() and "not looked at" not in report.text()


def test_kinetics_counts_by_its_own_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "fetch", lambda *_: pytest.fail("fetched"))
    folder = kinetics(tmp_path / "k")
    lost = next((folder / "train").rglob("*.mp4"))
    lost.unlink()
    put(folder / "train" / "other" / "x_000001_000011.mp4")
    report = prepare.prepare("kinetics400", folder)
    assert report.splits == {1: ((11, 12), (4, 4))} and len(report.missing) == 1 and not report.complete
    assert report.unlisted == ("train/other/x_000001_000011.mp4",) and report.classes == 4
    # As mmaction2 lays it out.
    other = tmp_path / "m"
    for part in ("train", "val"):
        shutil.copytree(folder / part, other / f"videos_{part}")
        put(other / "annotations" / f"kinetics_{part}.csv", (folder / f"{part}.csv").read_text())
    assert prepare.prepare("kinetics400", other).splits == report.splits


def test_kinetics_videos_come_by_hand(server, tmp_path):
    whole = kinetics(tmp_path / "k")
    for part in ("train", "val"):
        server.files[f"/kinetics/400/annotations/{part}.csv"] = (whole / f"{part}.csv").read_bytes()
    said = []
    call = lambda: prepare.prepare("kinetics400", tmp_path / "new", server.url, say=said.append)  # noqa: E731
    one_line(call, str(tmp_path / "new"), "436 GB", "k400_val_path.txt", "run this command again")
    assert len(server.asked) == 2 and "licence" in said[0] and len(said) == 3
    for part in ("train", "val"):
        shutil.copytree(whole / part, tmp_path / "new" / part)
    assert call().splits == {1: ((12, 12), (4, 4))} and len(server.asked) == 2


# --- all of it ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_ucf(server, tmp_path, monkeypatch) -> Path:
    """UCF-101's archives on the server: of three classes, the videos as a zip."""
    whole = ucf(tmp_path / "whole")
    archives = []
    for file, inside in (("lists.zip", "ucfTrainTestlist"), ("videos.zip", "UCF-101")):
        entries = [(f"{inside}/{name}", content, FILE) for name, content in tree(whole / inside).items()]
        server.files[f"/data/{file}"] = content = zipped(entries)
        urls = ("https://nowhere.example/data/" + file,)
        archives.append(Archive(file, urls, inside, len(content), digest(content)))
    facts = prepare.FACTS["ucf101"]._replace(classes=3, splits={1: (9, 3)}, archives=tuple(archives))
    monkeypatch.setitem(prepare.FACTS, "ucf101", facts)
    return whole


def test_prepare_fetches_what_is_missing_and_that_once(server, small_ucf, tmp_path):
    said = []
    report = prepare.prepare("ucf101", tmp_path / "new", server.url, say=said.append)
    assert report.complete and [path for path, _ in server.asked] == ["/data/lists.zip", "/data/videos.zip"]
    assert sum("licence" in line for line in said) == 1 and "licence" not in report.text()  # said once
    assert f"{server.url}/data/videos.zip -> {tmp_path / 'new' / 'videos.zip'}" in said[3]
    assert f"{len(server.files['/data/videos.zip']):,} bytes" in said[3]
    for file in ("lists.zip", "videos.zip"):
        (tmp_path / "new" / file).unlink()
    assert prepare.prepare("ucf101", tmp_path / "new", server.url, say=said.append).complete
    assert len(server.asked) == 2 and len(said) == 5
    # One video is gone, and what a killed command left is swept: the archive comes again and the rest stays.
    videos = tmp_path / "new" / "UCF-101" / "YoYo"
    (videos / "v_YoYo_g01_c01.avi").unlink()
    put(videos / "v_YoYo_g02_c01.avi", "mine")
    put(tmp_path / "new" / ".unpack-left" / "x.avi")
    assert prepare.prepare("ucf101", tmp_path / "new", server.url, say=said.append).complete
    assert [path for path, _ in server.asked[2:]] == ["/data/videos.zip"]
    assert (videos / "v_YoYo_g02_c01.avi").read_text() == "mine"
    assert not list((tmp_path / "new").glob(".unpack-*"))


def test_prepare_takes_archives_that_lie_around(server, small_ucf, tmp_path):
    for file, place in (("lists.zip", tmp_path / "new"), ("videos.zip", tmp_path)):
        put(place / file).write_bytes(server.files[f"/data/{file}"])
    assert prepare.prepare("ucf101", tmp_path / "new", say=lambda line: None).complete
    assert server.asked == []


def test_prepare_completes_what_is_there(server, small_ucf, tmp_path):
    shutil.copytree(small_ucf / "UCF-101", tmp_path / "new" / "mine")
    shutil.rmtree(tmp_path / "new" / "mine" / "YoYo")
    assert prepare.prepare("ucf101", tmp_path / "new", server.url, say=lambda line: None).complete
    assert len(server.asked) == 2 and (tmp_path / "new" / "UCF-101" / "ApplyEyeMakeup").is_symlink()
    assert not (tmp_path / "new" / "mine" / "YoYo").exists()


def test_two_commands_do_not_share_a_folder(small_ucf, tmp_path):
    (tmp_path / "new").mkdir()
    with filelock.FileLock(tmp_path / "new" / ".flowclip-data.lock"):
        one_line(lambda: prepare.prepare("ucf101", tmp_path / "new"), "another command")


def test_hmdb_from_its_rar_files(server, tmp_path, monkeypatch):
    tools_or_skip()
    whole = hmdb(tmp_path / "whole")
    lists = [(name, content, FILE) for name, content in tree(whole).items() if name.startswith("testTrain")]
    classes = {}
    for name, content in tree(whole / "videos").items():
        classes.setdefault(name.partition("/")[0], []).append((name, content, FILE))
    contents = {
        "test_train_splits.rar": rar(lists),
        "hmdb51_org.rar": rar([(f"{name}.rar", rar(own), FILE) for name, own in classes.items()]),
    }
    facts = prepare.FACTS["hmdb51"]
    archives = tuple(a._replace(sha256=digest(contents[a.file])) for a in facts.archives)
    facts = facts._replace(classes=3, splits={1: (6, 3), 2: (6, 3)}, archives=archives)
    monkeypatch.setitem(prepare.FACTS, "hmdb51", facts)
    server.files |= {f"/{name}": content for name, content in contents.items()}
    report = prepare.prepare("hmdb51", tmp_path / "new", server.url, say=lambda line: None)
    assert report.complete and (tmp_path / "new" / "videos" / "kick").is_dir()


# --- few-shot lists -------------------------------------------------------------------------------------------


def test_a_list_of_vifi_and_one_of_ju(tmp_path):
    dataset = datasets.load("hmdb51", hmdb(tmp_path))
    train = dataset.splits[1].train
    chosen = (train[5], train[0], train[1], train[2])
    vifi = "".join(f"{video.name.rpartition('/')[2]} {video.label}\n" for video in chosen)
    ju = "".join(f"{video.name.removesuffix('.avi')}\n\n" for video in chosen)
    words = ju.replace("_ball/", " ball/").replace("brush_hair/", "brush hair/")
    named = "".join(f"{video.name} {dataset.classes[video.label]}\n" for video in chosen)
    refuse = lambda line: pytest.fail(line)  # noqa: E731
    assert read_list(put(tmp_path / "1.txt", vifi), dataset, refuse) == chosen
    assert read_list(put(tmp_path / "2.txt", ju), dataset, refuse) == chosen
    assert read_list(put(tmp_path / "3.txt", words), dataset, refuse) == chosen and " " in words
    assert read_list(put(tmp_path / "4.txt", named), dataset, refuse) == chosen


def test_the_folder_counts_where_a_label_contradicts(tmp_path):
    dataset = datasets.load("hmdb51", hmdb(tmp_path))
    swap = {0: 0, 1: 2, 2: 1}  # kick and kick_ball, as a list in use has them
    lines = [f"{video.name.rpartition('/')[2]} {swap[video.label]}\n" for video in dataset.splits[1].train]
    said = []
    assert read_list(put(tmp_path / "l.txt", "".join(lines)), dataset, said.append) == dataset.splits[1].train
    assert len(said) == 1 and "4 of 6 labels" in said[0] and "(kick, kick_ball)" in said[0]
    moved = put(tmp_path / "m.txt", "kick/" + dataset.splits[1].train[0].name.partition("/")[2].removesuffix(".avi"))
    assert read_list(moved, dataset, said.append)[0].label == 0 and "1 of 1 labels" in said[1]


def test_a_line_that_is_no_training_video_is_refused_by_its_number(tmp_path):
    dataset = datasets.load("hmdb51", hmdb(tmp_path))
    (first, second), test = dataset.splits[1].train[:2], dataset.splits[1].test[0]
    good = f"{first.name} 0\n"
    for line, said in (
        (f"{test.name} 0", "is a test video of split 1"),
        (f"{first.name.removesuffix('.avi')}", "is listed twice"),
        ("nobody.avi 0", "is no video of the data set hmdb51"),
        ("brush_hair/nobody", "is no video of the data set hmdb51"),
    ):
        file = put(tmp_path / "l.txt", good + "\n" + line + "\n")
        one_line(lambda file=file: read_list(file, dataset), "l.txt, line 3:", said)
    (tmp_path / "videos" / second.name).unlink()
    missing = datasets.load("hmdb51", tmp_path, missing="skip")
    file = put(tmp_path / "l.txt", f"{second.name} 0")
    one_line(lambda: read_list(file, missing), "line 1:", "is not on the disk")
    one_line(lambda: read_list(put(tmp_path / "l.txt", "\n"), dataset), "names no video")
    one_line(lambda: read_list(tmp_path / "none.txt", dataset), "none.txt: no such file")


def test_names_that_are_not_unique_need_their_folder(tmp_path):
    for name in ("a", "b"):
        for number in range(4):
            put(tmp_path / name / f"{number}.avi")
    dataset = datasets.load("folder", tmp_path)
    video = dataset.splits[1].train[0]
    assert read_list(put(tmp_path / "l.txt", f"{video.name} 0"), dataset) == (video,)
    bare = put(tmp_path / "l.txt", video.name.rpartition("/")[2] + " 0")
    one_line(lambda: read_list(bare, dataset), "line 1", "is the name of several videos")


def test_kinetics_lists_with_spaces_and_without_times(tmp_path):
    dataset = datasets.load("kinetics400", kinetics(tmp_path))
    train = [video for video in dataset.splits[1].train if " " in video.name][:2]
    lines = [train[0].name.removeprefix("train/").removesuffix(".mp4")]
    lines += [re.sub(r"_\d{6}_\d{6}\.mp4$", "", train[1].name.removeprefix("train/"))]
    refuse = lambda line: pytest.fail(line)  # noqa: E731
    assert read_list(put(tmp_path / "l.txt", "\n".join(lines)), dataset, refuse) == tuple(train)


def test_ucf_lists(tmp_path):
    dataset = datasets.load("ucf101", ucf(tmp_path))
    train = dataset.splits[1].train
    lines = [video.name.removesuffix(".avi") for video in train]
    assert any("HandStandPushups" in line for line in lines)
    assert read_list(put(tmp_path / "l.txt", "\n".join(lines)), dataset, lambda line: pytest.fail(line)) == train


# --- the command ----------------------------------------------------------------------------------------------


def test_a_data_set_has_a_folder_of_its_own_unless_the_root_is_it_already(tmp_path):
    assert prepare.home("hmdb51", tmp_path) == tmp_path / "hmdb51"
    build_hmdb(tmp_path)
    assert prepare.home("hmdb51", tmp_path) == tmp_path
    assert prepare.home("ucf101", tmp_path) == tmp_path / "ucf101"
    (tmp_path / "hmdb51").mkdir()
    assert prepare.home("hmdb51", tmp_path) == tmp_path / "hmdb51"  # as `table5 --data-root` looks
    (tmp_path / "train.csv").write_text("label\n")
    assert prepare.home("kinetics400", tmp_path) == tmp_path
    with pytest.raises(InputError, match="'imagenet' is unknown; use hmdb51, ucf101, kinetics400"):
        prepare.home("imagenet", tmp_path)


def test_the_command_reports_and_its_exit_code_says_whether_all_is_there(tmp_path, capfd):
    build_hmdb(tmp_path / "hmdb51", videos=True)
    command = ["data", "hmdb51", "--data-root", str(tmp_path)]
    assert main(command) == 0
    said = capfd.readouterr().out
    assert "6,766 of     6,766" in said and re.search(r"complete\s+yes", said)
    data = datasets.load("hmdb51", tmp_path / "hmdb51")
    (data.folder / data.splits[2].test[7].name).unlink()
    server = ["--mirror", "http://localhost:9/none"]
    assert main(command + server) == 2  # what is missing would have to be fetched
    err = capfd.readouterr().err
    assert err.splitlines()[-1].startswith("reproduce.sh: ") and "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "named"), [("data", "name"), ("data hmdb51", "--data-root"), ("data x --data-root .", "'x'")]
)
def test_a_wrong_data_command_is_refused_in_one_line(words, named, capfd):
    assert main(words.split()) == 2
    err = capfd.readouterr().err
    assert named in err and err.count("\n") == 1
