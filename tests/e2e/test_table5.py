"""Table 5 through the command line, as a user has it: run, run again, killed, twice at once, on videos of
one's own.

And every table and panel at once, in this process and without notebooks, which have tests of their own.

Worlds and features come from the user's cache where they are already there, and from a cache of this session
where they are not; the tests about kills and about two calls at once have caches of their own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import ROOT, hearing
from matplotlib.figure import Figure
from safetensors import safe_open
from test_outputs import counts_text, tree

from flowclip_core.files import write_atomically
from flowclip_kit.cli import main
from flowclip_kit.experiments.catalogue import PAPER_TARGETS, TARGETS, VARIANTS
from flowclip_kit.experiments.results_table import TIDY, among_five, read_hits
from flowclip_kit.profiles import PROFILES
from flowclip_kit.reporting import claims, notebooks, outputs, plots, tables

LONGEST = 600  # seconds for one call on a busy machine; a quiet one needs some 20
SMOKE = ("table5", "--profile", "smoke")
ONE_SET = (*SMOKE, "--dataset", "figures-h")


@dataclass
class Call:
    """A command in a session of its own, as in a terminal of its own; every process it starts carries
    `mark`."""

    arguments: tuple[str, ...]
    folder: Path  # holds the log files; the working directory
    cache: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FLOWCLIP_CACHE": str(self.cache),
            "FLOWCLIP_TEST_MARK": self.mark,
            **self.variables,
        }
        with hearing(), self._log("out").open("w") as out, self._log("err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flowclip_kit", *self.arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def end(self, code: int = 0) -> Call:
        """Wait until it ends with exit code `code`."""
        found = self.process.wait(LONGEST)
        assert found == code, self.err
        return self

    @property
    def out(self) -> str:
        return self._log("out").read_text()

    @property
    def err(self) -> str:
        return self._log("err").read_text()

    @property
    def complaints(self) -> list[str]:
        """The lines of stderr that are no bar and do not announce what is done."""
        announced = r"\d+ runs on .*; |\d+ training and \d+ test videos \(| left, .*/s\]$"
        return [line for line in re.split("[\r\n]+", self.err) if line and not re.search(announced, line)]

    def left(self, seconds: float) -> list[psutil.Process]:
        """Its processes that are still alive after at most `seconds`."""
        deadline = time.monotonic() + seconds
        while (alive := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return alive

    def _log(self, stream: str) -> Path:
        return self.folder / f"{self.mark}.{stream}"

    def _alive(self) -> list[psutil.Process]:
        alive = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("FLOWCLIP_TEST_MARK") == self.mark
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
            except psutil.Error:
                pass
        return alive


@dataclass(frozen=True)
class Results:
    """What a finished call left behind."""

    folder: Path
    call: Call

    @property
    def csv(self) -> bytes:
        return (self.folder / "smoke/table5.csv").read_bytes()

    @property
    def tidy(self) -> pd.DataFrame:
        return tidy(self.csv)

    @property
    def provenance(self) -> dict:
        return json.loads((self.folder / "smoke/table5.provenance.json").read_text())

    def records(self) -> dict[str, int]:
        """When each record was written, by its key."""
        return {path.stem: path.stat().st_mtime_ns for path in (self.folder / "runs").glob("*.json")}


def tidy(csv: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(csv), keep_default_na=False, dtype={"value": str})


def rows_of(csv: bytes, dataset: str) -> bytes:
    """The table's lines of one data set, under its header."""
    head, *lines = csv.splitlines(keepends=True)
    return head + b"".join(line for line in lines if f",{dataset},".encode() in line)


@pytest.fixture(scope="module")
def first(cache, tmp_path_factory) -> Results:
    """The whole table, made once."""
    folder = tmp_path_factory.mktemp("first")
    return Results(
        folder / "results", Call((*SMOKE, "--results", str(folder / "results")), folder, cache).end()
    )


def test_a_call_makes_the_table_and_all_that_belongs_to_it(first):
    assert first.csv.splitlines()[0].decode().split(",") == TIDY
    table = first.tidy
    top1 = table[table["metric"] == "top1"]
    trained, clip = top1[top1["variant"] != "clip"], top1[top1["variant"] == "clip"]
    assert len(trained) == 2 * 5 * 4 * 1 and (trained["trained_on"] == trained["role"]).all()
    assert set(trained["variant"]) == set(VARIANTS) and set(trained["k"]) == {2, 4, 8, 16}
    assert dict(zip(table["dataset"], table["role"], strict=True)) == {
        "figures-h": "HMDB-51",
        "figures-u": "UCF-101",
    }
    assert len(clip) == 2 and set(clip["k"]) == {0} and set(clip["trained_on"]) == {""}
    assert len(first.records()) == table["key"].nunique() == 42
    hits = read_hits(first.folder / "smoke/table5.videos.csv")
    shares = {key: f"{100 * found.mean():.4f}" for key, found in hits.items()}
    top5 = table[table["metric"] == "top5"]
    among = dict(zip(map(among_five, top5["key"]), top5["value"], strict=True))
    assert shares == dict(zip(top1["key"], top1["value"], strict=True)) | among

    folder = first.folder / "smoke"
    summary = pd.read_csv(folder / "table5.summary.csv", keep_default_na=False)
    assert len(summary) == len(table) and set(summary["n"]) == {1}  # one run a cell
    about = first.provenance
    assert about["runs"] == about["last_call"]["runs_made"] == 42
    assert set(about["datasets"]) == {"figures-h", "figures-u"} and len(about["software"]) == 1
    page = (folder / "table5.html").read_text()
    assert page.rstrip().endswith("</html>") and "demo world, not evidence" in page
    assert page.count('<details class="folded">') >= 3  # parameters, the run's own, imports
    for kind in ("svg", "png"):
        figures = {path.name for path in (folder / "figures").glob(f"*.{kind}")}
        assert figures == {f"table5{more}.{kind}" for more in ("", "_controls", "_differences")}
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {f"table5-figures-{name}-full-k16" for name in "hu"}
    for path in (folder / "checkpoints").iterdir():
        assert {file.name for file in path.iterdir()} == {"model.safetensors", "config.json", "README.md"}
        assert f"data: {path.name[7:16]}, split 1" in (path / "README.md").read_text()
    assert_whole(first.folder)
    assert "demo world, not evidence" in first.call.out and "Traceback" not in first.call.err
    for line in first.call.out.split("written:\n")[1].splitlines():
        assert (first.call.folder / line.strip()).is_file()


def test_a_second_call_trains_nothing_and_leaves_the_same_bytes(first):
    def made() -> dict[str, bytes]:
        files = [path for path in (first.folder / "smoke").rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files if "provenance" not in path.name}

    before, records = made(), first.records()
    again = Call(first.call.arguments, first.call.folder, first.call.cache).end()
    assert made() == before and first.records() == records
    assert again.out == first.call.out
    assert first.provenance["last_call"]["runs_made"] == 0


def test_another_seed_adds_runs_with_other_values(first, tmp_path):
    more = Results(tmp_path / "results", first.call)
    shutil.copytree(first.folder, more.folder)
    Call((*ONE_SET, "--seeds", "2", "--results", str(more.folder)), tmp_path, first.call.cache).end()
    assert first.records().items() <= more.records().items() and len(more.records()) == 42 + 20
    table = more.tidy[more.tidy["k"] > 0]
    old, new = (table[table["seed"] == seed].sort_values(["variant", "k", "metric"]) for seed in (0, 1))
    before = first.tidy[(first.tidy["dataset"] == "figures-h") & (first.tidy["k"] > 0)]
    assert old["value"].tolist() == before.sort_values(["variant", "k", "metric"])["value"].tolist()
    assert len(old) == len(new) and not set(old["key"]) & set(new["key"])
    differ = (old["value"].to_numpy() != new["value"].to_numpy()).mean()
    assert differ > 0.5


# --- everything ---------------------------------------------------------------------------------------------


def runs_of_all() -> int:
    """How many runs the paper's tables and panels need, each once: those tested, and those whose weights
    are."""
    smoke, needed = PROFILES["smoke"], set()
    for target in filter(TARGETS.get, PAPER_TARGETS):
        roles = {role: name for role, name in smoke.roles.items() if role in TARGETS[target].roles}
        configs = [cell.config for cell in TARGETS[target].cells(replace(smoke, roles=roles))]
        needed |= {*configs, *(replace(config, transfer=None) for config in configs if config.train)}
    return len(needed)


def test_all_makes_every_table_and_panel_once(cache, tmp_path, monkeypatch, capfd):
    def execute(notebook, parameters, html, cwd):
        executed.append(notebook.stem)
        return write_atomically(html, "<html></html>")

    executed, results = [], tmp_path / "results"
    monkeypatch.setenv("FLOWCLIP_CACHE", str(cache))
    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(plots, "figures", lambda target, *_: {target: Figure(figsize=(1, 1))})
    monkeypatch.setattr(outputs, "_counted", counts_text)
    command = ["all", "--profile", "smoke", "--results", str(results)]
    assert main(command) == 0
    out, _err = capfd.readouterr()
    folder = results / "smoke"
    for name in PAPER_TARGETS:
        assert all((folder / f"{name}.{kind}").exists() for kind in ("csv", "html")), name
        assert all((folder / "figures" / f"{name}.{kind}").exists() for kind in ("svg", "png")), name
    assert executed == [*PAPER_TARGETS, "verdicts"]
    assert_whole(results)

    made = {path.stem for path in (results / "runs").glob("*.json")}
    assert len(made) == runs_of_all()
    for target in filter(TARGETS.get, PAPER_TARGETS):
        summary = pd.read_csv(folder / f"{target}.summary.csv", keep_default_na=False)
        assert tuple(tables.variants(summary)) == tables.VARIANTS[target] and set(summary["n"]) == {1}
        splits = set(summary.loc[summary["role"] != "Kinetics-400", "splits"])
        assert splits == (
            {3} if target in ("table6", "table7", "table8") else set() if target == "table4" else {1}
        )
        rows = tidy((folder / f"{target}.csv").read_bytes())
        assert set(rows["key"]) <= made
        assert json.loads((folder / f"{target}.provenance.json").read_text())["last_call"][
            "runs_made"
        ] == len(made)
    zero_shot = tidy((folder / "table7.csv").read_bytes())
    crossed = zero_shot[zero_shot["trained_on"] != ""]
    assert (crossed["trained_on"] != crossed["role"]).all() and {"top1_half", "half_sd"} <= set(
        crossed["metric"]
    )

    frame = claims.load("smoke", str(results))
    register = claims.register()
    assert frame["id"].tolist() == [claim.id for claim in register]
    trained = [any(part.trained_on for part in claim.parts) for claim in register]
    assert set(frame.loc[trained, "verdict"]) == {"not run", "too few seeds"}
    assert str(claims.counts_by_verdict(frame)).rstrip() in out
    report = (folder / "report.html").read_text()
    assert all(f'id="{name}"' in report for name in PAPER_TARGETS)

    before = {name: data for name, data in tree(results).items() if "provenance" not in name}
    assert main(command) == 0
    assert {name: data for name, data in tree(results).items() if "provenance" not in name} == before
    for target in filter(TARGETS.get, PAPER_TARGETS):
        assert json.loads((folder / f"{target}.provenance.json").read_text())["last_call"]["runs_made"] == 0
    assert len(executed) == len(PAPER_TARGETS) + 1


# --- two at once, and Ctrl-C -------------------------------------------------------------------------------

# What first appears in a cache (c) and a results folder (r), in this order, during a call that starts with
# nothing.
STAGES = {
    "drawing": ("c", "demo/*/figures-h/videos/*/*.avi"),
    "encoding": ("c", "features/**/*.safetensors"),
    "training": ("r", "runs/*.json"),
    "reporting": ("r", "smoke/figures/*.svg"),
}


def seen(stage: str, cache: Path, results: Path) -> set[tuple[Path, int]]:
    """The files of a stage with their identity: a file that is written again has another inode."""
    place, pattern = STAGES[stage]
    found = set()
    for path in (cache if place == "c" else results).glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            found.add((path, path.stat().st_ino))
    return found


@dataclass(frozen=True)
class Watched:
    """Two calls at once from nothing, and what could be seen from outside meanwhile."""

    results: Results
    calls: list[Call]
    starts: dict[str, float]  # stage -> seconds after the start
    length: float
    written: list[tuple[str, int]]  # every record that was ever seen, with its inode


@pytest.fixture(scope="module")
def twice(tmp_path_factory) -> Watched:
    folder = tmp_path_factory.mktemp("twice")
    cache, results = folder / "cache", folder / "results"
    begun, starts, written = time.monotonic(), {}, {}
    calls = [Call((*ONE_SET, "--results", str(results)), folder, cache) for _ in range(2)]
    while any(call.process.poll() is None for call in calls) and time.monotonic() - begun < LONGEST:
        for stage in STAGES:
            if stage not in starts and seen(stage, cache, results):
                starts[stage] = time.monotonic() - begun
        written |= dict.fromkeys((path.stem, inode) for path, inode in seen("training", cache, results))
        time.sleep(0.05)
    length = time.monotonic() - begun
    return Watched(Results(results, calls[0]), [call.end() for call in calls], starts, length, list(written))


def test_two_calls_at_once_share_the_work_and_agree(first, twice):
    assert list(twice.starts) == list(STAGES)
    assert twice.results.csv == rows_of(
        first.csv, "figures-h"
    )  # another folder, another cache, the same bytes
    one, other = (call.out for call in twice.calls)
    assert one == other and "Traceback" not in twice.calls[0].err + twice.calls[1].err
    keys = [key for key, _ in twice.written]
    assert len(keys) == len(set(keys)) == 21, "a run was trained twice"
    assert_whole(twice.results.folder)
    assert not [process for call in twice.calls for process in call.left(5)]


def assert_whole(folder: Path) -> None:
    """No file under a final name is half written; hidden names are unfinished work."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith(".") or path.suffix in (".lock", ".part", ".partial"):
            continue
        data = path.read_bytes()
        match path.suffix:
            case ".json":
                json.loads(data)
            case ".csv":
                assert (
                    data.endswith(b"\n")
                    and len(pd.read_csv(io.BytesIO(data), keep_default_na=False).columns) > 1
                )
            case ".npy":
                np.load(path, mmap_mode="r", allow_pickle=False)
            case ".safetensors":
                with safe_open(path, "np") as file:
                    assert all(file.get_tensor(name) is not None for name in file.keys())  # noqa: SIM118 - no dict
            case ".avi":
                assert struct.unpack("<I", data[4:8])[0] + 8 == len(data), path
            case ".svg":
                xml.etree.ElementTree.fromstring(data)
            case ".png":
                assert data.endswith(b"IEND\xaeB`\x82"), path
            case ".html":
                assert data.rstrip().endswith(b"</html>"), path
            case _:
                assert path.suffix in (".txt", ".out", ".err", ".md"), f"what is {path}?"


@pytest.mark.parametrize("stage", ["drawing", "importing", "training"])
def test_ctrl_c_stops_all_of_it_and_says_one_line(stage, cache, tmp_path):
    own, results = tmp_path / "cache" if stage == "drawing" else cache, tmp_path / "results"
    call = Call((*ONE_SET, "--results", str(results)), tmp_path, own)

    def reached() -> bool:
        if stage == "importing":  # the fork server has begun to import torch
            commands = [
                " ".join(process.cmdline()) for process in psutil.Process(call.process.pid).children()
            ]
            return any("forkserver" in command for command in commands)
        return bool(seen(stage, own, results))

    while call.process.poll() is None and not reached():
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(call.process.pid, signal.SIGINT)  # what a terminal does
    call.end(130)
    said = call.complaints
    assert len(said) == 1 and said[0].startswith("reproduce.sh: stopped"), call.err
    assert not call.left(LONGEST / 10)


# --- videos of one's own ------------------------------------------------------------------------------------


def cut(source: Path, targets: list[Path], frames: int = 40) -> None:
    """Write consecutive pieces of `source` to `targets`, small, in the container that each name asks for."""
    with av.open(str(source)) as video:
        decoded = video.decode(video.streams.best("video"))
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(target), "w") as out:
                stream = out.add_stream("mpeg4" if target.suffix == ".avi" else "libx264", rate=12)
                stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
                for _, frame in zip(range(frames), decoded, strict=False):
                    picture = frame.reformat(128, 96, "rgb24").to_ndarray()
                    out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                out.mux(stream.encode())


SOURCES = {
    "arm wrestling": ("arm_wrestling.mp4", ".mp4"),
    "flipping pancake": ("flipping_pancake.mkv", ".mkv"),
    "juggling balls": ("test_mpeg4.avi", ".avi"),
}


@pytest.fixture(scope="module")
def own_videos(tmp_path_factory):
    """Three classes of four short videos, one in each common container."""
    from conftest import CLIPS

    if not CLIPS.is_dir():
        pytest.skip(f"no real clips at {CLIPS}; name a folder with FLOWCLIP_TEST_VIDEOS")
    folder = tmp_path_factory.mktemp("own") / "videos"
    for label, (source, suffix) in SOURCES.items():
        cut(CLIPS / source, [folder / label / f"{i}{suffix}" for i in range(4)])
    return folder


def of_folder(videos: Path, place: Path, cache: Path) -> Call:
    asked = ("--dataset", "folder", "--data-root", str(videos), "--results", str(place / "results"))
    return Call((*SMOKE, *asked), place, cache)


def test_a_folder_of_videos_goes_the_whole_way(own_videos, cache, tmp_path):
    call = of_folder(own_videos, tmp_path, tmp_path / "cache").end()
    results = Results(tmp_path / "results", call)
    table = results.tidy
    trained = table[(table["metric"] == "top1") & (table["variant"] != "clip")]
    assert set(trained["variant"]) == set(VARIANTS) and len(trained) == 5
    assert set(trained["k"]) == {2}  # three training videos a class
    assert not table["metric"].str.contains("pairs|order").any()
    assert set(table["dataset"]) == {"folder"} and set(table["role"]) == {""}
    about = results.provenance["datasets"]["folder"]
    assert (about["classes"], about["train"], about["test"]) == (3, 9, 3)
    assert_whole(results.folder)
    page = (results.folder / "smoke/table5.html").read_text()
    summary = pd.read_csv(results.folder / "smoke/table5.summary.csv", keep_default_na=False)
    assert set(summary["paper"]) == {""}
    for said in (call.out, page):
        assert "folder, n = 1" in said
        assert "demo world" not in said and "printed, other data" not in said and "printed: " not in said
    assert "printed" not in call.out and "HMDB" not in call.out


@pytest.mark.parametrize("kind", ["corrupted", "text"])
def test_an_unreadable_video_in_the_folder_is_named_in_one_line(kind, own_videos, clips, cache, tmp_path):
    shutil.copytree(own_videos, tmp_path / "videos")
    bad = tmp_path / "videos/arm wrestling" / f"{kind}.mp4"
    if kind == "corrupted":
        bad.write_bytes((clips / "corrupted.mp4").read_bytes())
    else:
        bad.write_text("This is no video.\n" * 100)
    call = of_folder(tmp_path / "videos", tmp_path, tmp_path / "cache").end(2)
    said = call.complaints
    assert len(said) == 1 and bad.name in said[0] and "Traceback" not in call.err
    assert not call.out and not list((tmp_path / "results").rglob("*.*"))
    assert not call.left(10)
