"""`data NAME`: the official trees, trees that lie otherwise, what is missing and how it comes, and the
command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from official import build_hmdb, build_ucf, hmdb_names, rar, tiny_video, ucf_lists, ucf_names
from test_archives import FILE, Server, digest, inside, serving, tools_or_skip, tree, zipped
from test_datasets import hmdb, kinetics, one_line, put, ucf

from flowclip_core.errors import InputError
from flowclip_kit.cli import main
from flowclip_kit.datasets import acquire, archives, formats
from flowclip_kit.datasets.acquire import inspect
from flowclip_kit.datasets.archives import Archive
from flowclip_kit.distributed.locks import Lock


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    yield from serving(monkeypatch)


def test_sources_have_their_digests_and_a_mirror_takes_the_place_of_the_hosts(monkeypatch):
    monkeypatch.delenv("FLOWCLIP_MIRROR", raising=False)
    for name in ("hmdb51", "ucf101"):
        assert all(re.fullmatch("[0-9a-f]{64}", archive.sha256) for archive in acquire.sources(name))
        assert all(url.startswith("https://") for archive in acquire.sources(name) for url in archive.urls)
    assert [archive.file for archive in acquire.sources("kinetics400")] == ["train.csv", "val.csv"]
    lists = acquire.sources("hmdb51", "https://mirror.example/x/")[0]
    assert lists.urls == (
        "https://mirror.example/x/wp-content/uploads/2013/10/test_train_splits.rar",
        "https://mirror.example/x/test_train_splits.rar",
    )
    monkeypatch.setenv("FLOWCLIP_MIRROR", "http://other.example")
    assert {url.split("/")[2] for archive in acquire.sources("ucf101") for url in archive.urls} == {
        "other.example"
    }
    one_line(lambda: acquire.sources("ucf101", "ftp://x"), "'ftp://x'", "https://host/folder")
    one_line(lambda: acquire.sources("figures-h"), "expected one of hmdb51, ucf101, kinetics400")


# --- the official trees ---

COUNTS = {
    "hmdb51": dict.fromkeys((1, 2, 3), (3570, 1530)),
    "ucf101": {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)},
}
BUILD = {"hmdb51": build_hmdb, "ucf101": build_ucf}


def no_network(monkeypatch) -> None:
    monkeypatch.setattr(acquire, "fetch", lambda *_: pytest.fail("fetched"))


@pytest.mark.parametrize("name", BUILD)
def test_the_whole_of_an_official_tree(name, tmp_path, monkeypatch):
    no_network(monkeypatch)
    folder = BUILD[name](tmp_path / name, b"x")
    before = inside(folder)
    report = acquire.prepare(name, folder, say=lambda line: pytest.fail(line))
    assert report.complete and inside(folder) == before
    assert report.splits == {n: ((a, a), (b, b)) for n, (a, b) in COUNTS[name].items()}
    assert report.classes == len(formats.load(name, folder).classes) == {"hmdb51": 51, "ucf101": 101}[name]
    assert report.files == ((6766, 6766) if name == "hmdb51" else (13320, 13320))
    lines = report.text().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 110 and f"{report.files[0]:,}" in lines[2]
    assert [line.split()[0] for line in lines[-3:]] == ["complete", "licence", "cite"] and "yes" in lines[-3]


def test_the_names_are_as_odd_as_the_real_ones():
    names = [name for own in hmdb_names().values() for name in own]
    assert len(set(names)) == 6766 and all(sum(c in name for name in names) > 50 for c in "[]'&;!()#+")
    pushups = [name for group in ucf_names()["HandstandPushups"] for name in group]
    assert len(ucf_names()["HandstandPushups"]) == 25 and all(
        n.startswith("v_HandStandPushups_g") for n in pushups
    )
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
    monkeypatch.setitem(acquire.FACTS, name, acquire.FACTS[name]._replace(classes=3, splits={}))
    whole, folder = {"hmdb51": hmdb, "ucf101": ucf}[name](tmp_path / "whole"), tmp_path / "new"
    for source, target in (
        ("UCF-101" if name == "ucf101" else "videos", videos),
        (acquire._LISTS[name][0], lists),
    ):
        shutil.copytree(whole / source, folder / target, dirs_exist_ok=True)
    # Frames of other projects have class folders of the same names: they hold no videos.
    put(folder / "rawframes" / ("kick" if name == "hmdb51" else "YoYo") / "v" / "img_1.jpg")
    before = {path for path in folder.rglob("*") if path.is_file()}
    report = acquire.prepare(name, folder, say=lambda line: pytest.fail(line))
    assert report.complete, report.text()
    assert before <= {path for path in folder.rglob("*") if path.is_file()}  # nothing was moved
    assert formats.load(name, folder).missing == ()
    assert acquire.prepare(name, folder) == report


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
    assert report.overlap == {1: (f"walk/{walk[0]}",), 2: (), 3: ()} and report.repeated == (
        f"walk/{walk[40]}",
    )
    assert report.unlisted == (f"wave/{walk[0].upper()}", "wave/new.avi")
    assert report.same_name == ((f"walk/{walk[0]}", f"wave/{walk[0].upper()}"),)
    assert set(report.missing) < {*golf, f"wave/{wave[0]}"} and f"wave/{wave[0]}" in report.missing
    assert f"wave/{spare}" not in report.missing  # no split needs it
    assert report.files == (6766 - 2 - len(golf), 6766)
    assert report.splits[1] == ((3572 - 70, 3572), (1530 - 31, 1530))
    whole = dict.fromkeys((1, 2, 3), ((3570, 3570), (1530, 1530)))
    fine = replace(
        report, classes=51, splits=whole, missing=(), repeated=(), overlap=dict.fromkeys((1, 2, 3), ())
    )
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
    assert f"unreadable    {3:>9}" in report.text() and "not checked" not in report.text()


def test_kinetics_counts_by_its_own_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(acquire, "fetch", lambda *_: pytest.fail("fetched"))
    folder = kinetics(tmp_path / "k")
    lost = next((folder / "train").rglob("*.mp4"))
    lost.unlink()
    put(folder / "train" / "other" / "x_000001_000011.mp4")
    report = acquire.prepare("kinetics400", folder)
    assert report.splits == {1: ((11, 12), (4, 4))} and len(report.missing) == 1 and not report.complete
    assert report.unlisted == ("train/other/x_000001_000011.mp4",) and report.classes == 4
    # As mmaction2 lays it out.
    other = tmp_path / "m"
    for part in ("train", "val"):
        shutil.copytree(folder / part, other / f"videos_{part}")
        put(other / "annotations" / f"kinetics_{part}.csv", (folder / f"{part}.csv").read_text())
    assert acquire.prepare("kinetics400", other).splits == report.splits


def test_kinetics_videos_come_by_hand(server, tmp_path):
    whole = kinetics(tmp_path / "k")
    for part in ("train", "val"):
        server.files[f"/kinetics/400/annotations/{part}.csv"] = (whole / f"{part}.csv").read_bytes()
    said = []
    call = lambda: acquire.prepare("kinetics400", tmp_path / "new", server.url, say=said.append)  # noqa: E731
    one_line(call, str(tmp_path / "new"), "436 GB", "k400_val_path.txt", "run this command again")
    assert len(server.asked) == 2 and "licence" in said[0] and len(said) == 3
    for part in ("train", "val"):
        shutil.copytree(whole / part, tmp_path / "new" / part)
    assert call().splits == {1: ((12, 12), (4, 4))} and len(server.asked) == 2


# --- all of it ---


@pytest.fixture
def small_ucf(server, tmp_path, monkeypatch) -> Path:
    """UCF-101's archives on the server: of three classes, the videos as a zip."""
    whole = ucf(tmp_path / "whole")
    offered = []
    for file, part in (("lists.zip", "ucfTrainTestlist"), ("videos.zip", "UCF-101")):
        entries = [(f"{part}/{name}", content, FILE) for name, content in tree(whole / part).items()]
        server.files[f"/data/{file}"] = content = zipped(entries)
        urls = ("https://nowhere.example/data/" + file,)
        offered.append(Archive(file, urls, part, len(content), digest(content)))
    facts = acquire.FACTS["ucf101"]._replace(classes=3, splits={1: (9, 3)}, archives=tuple(offered))
    monkeypatch.setitem(acquire.FACTS, "ucf101", facts)
    return whole


def test_prepare_fetches_what_is_missing_and_that_once(server, small_ucf, tmp_path):
    said = []
    report = acquire.prepare("ucf101", tmp_path / "new", server.url, say=said.append)
    assert report.complete and [path for path, _ in server.asked] == ["/data/lists.zip", "/data/videos.zip"]
    assert sum("licence" in line for line in said) == 1 and "licence" not in report.text()  # said once
    assert f"{server.url}/data/videos.zip -> {tmp_path / 'new' / 'videos.zip'}" in said[3]
    assert f"{len(server.files['/data/videos.zip']):,} bytes" in said[3]
    for file in ("lists.zip", "videos.zip"):
        (tmp_path / "new" / file).unlink()
    assert acquire.prepare("ucf101", tmp_path / "new", server.url, say=said.append).complete
    assert len(server.asked) == 2 and len(said) == 5
    # One video is gone, and what a killed command left is swept: the archive comes again and the rest stays.
    videos = tmp_path / "new" / "UCF-101" / "YoYo"
    (videos / "v_YoYo_g01_c01.avi").unlink()
    put(videos / "v_YoYo_g02_c01.avi", "mine")
    put(tmp_path / "new" / ".unpack-left" / "x.avi")
    assert acquire.prepare("ucf101", tmp_path / "new", server.url, say=said.append).complete
    assert [path for path, _ in server.asked[2:]] == ["/data/videos.zip"]
    assert (videos / "v_YoYo_g02_c01.avi").read_text() == "mine"
    assert not list((tmp_path / "new").glob(".unpack-*"))


def test_prepare_takes_archives_that_lie_around(server, small_ucf, tmp_path):
    for file, place in (("lists.zip", tmp_path / "new"), ("videos.zip", tmp_path)):
        put(place / file).write_bytes(server.files[f"/data/{file}"])
    assert acquire.prepare("ucf101", tmp_path / "new", say=lambda line: None).complete
    assert server.asked == []


def test_prepare_completes_what_is_there(server, small_ucf, tmp_path):
    shutil.copytree(small_ucf / "UCF-101", tmp_path / "new" / "mine")
    shutil.rmtree(tmp_path / "new" / "mine" / "YoYo")
    assert acquire.prepare("ucf101", tmp_path / "new", server.url, say=lambda line: None).complete
    assert len(server.asked) == 2 and (tmp_path / "new" / "UCF-101" / "ApplyEyeMakeup").is_symlink()
    assert not (tmp_path / "new" / "mine" / "YoYo").exists()


def test_two_commands_do_not_share_a_folder(small_ucf, tmp_path):
    (tmp_path / "new").mkdir()
    with Lock(tmp_path / "new" / ".flowclip-data.lock"):
        one_line(lambda: acquire.prepare("ucf101", tmp_path / "new"), "another command")


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
    facts = acquire.FACTS["hmdb51"]
    archives = tuple(a._replace(sha256=digest(contents[a.file])) for a in facts.archives)
    facts = facts._replace(classes=3, splits={1: (6, 3), 2: (6, 3)}, archives=archives)
    monkeypatch.setitem(acquire.FACTS, "hmdb51", facts)
    server.files |= {f"/{name}": content for name, content in contents.items()}
    report = acquire.prepare("hmdb51", tmp_path / "new", server.url, say=lambda line: None)
    assert report.complete and (tmp_path / "new" / "videos" / "kick").is_dir()


def test_no_program_for_rar_is_said_before_gigabytes_come_in(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    no_network(monkeypatch)
    one_line(lambda: acquire.prepare("hmdb51", tmp_path / "h", say=lambda line: None), "install unar")


# --- the command ---


def test_a_data_set_has_a_folder_of_its_own_unless_the_root_is_it_already(tmp_path):
    assert acquire.home("hmdb51", tmp_path) == tmp_path / "hmdb51"
    build_hmdb(tmp_path)
    assert acquire.home("hmdb51", tmp_path) == tmp_path
    assert acquire.home("ucf101", tmp_path) == tmp_path / "ucf101"
    (tmp_path / "hmdb51").mkdir()
    assert acquire.home("hmdb51", tmp_path) == tmp_path / "hmdb51"  # as `table5 --data-root` looks
    (tmp_path / "train.csv").write_text("label\n")
    assert acquire.home("kinetics400", tmp_path) == tmp_path
    with pytest.raises(InputError, match="'imagenet' is unknown; use hmdb51, ucf101, kinetics400"):
        acquire.home("imagenet", tmp_path)


def test_the_command_reports_and_its_exit_code_says_whether_all_is_there(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(archives, "PAUSE", 0.0)
    monkeypatch.setitem(acquire.FACTS, "hmdb51", acquire.FACTS["hmdb51"]._replace(classes=3, splits={}))
    hmdb(tmp_path / "hmdb51")
    command = ["data", "hmdb51", "--data-root", str(tmp_path)]
    assert main(command) == 0
    report = capfd.readouterr().out
    assert "9 of        12 in the lists" in report and re.search(r"complete\s+yes", report)
    data = formats.load("hmdb51", tmp_path / "hmdb51")
    (data.folder / data.splits[2].test[1].name).unlink()
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
