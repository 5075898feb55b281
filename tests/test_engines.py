"""Ray as an engine: the contract of `map`, workers that die, machines that see too little, the same bytes."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import in_workers
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import ROOT

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_kit.datasets.feature_store import FAILED, INDEX, FeatureStore
from flowclip_kit.datasets.formats import Dataset, Split, Video
from flowclip_kit.distributed import ray_pool
from flowclip_kit.distributed.process_pool import Pool
from flowclip_kit.distributed.ray_pool import RayEngine, need_engine
from flowclip_kit.experiments import runs
from flowclip_kit.experiments.catalogue import VARIANTS
from flowclip_kit.experiments.experiment import Options
from flowclip_kit.experiments.run_config import RunConfig
from flowclip_kit.experiments.runs import Task, Workshop
from flowclip_kit.profiles import SMOKE

# What may differ between two records of one run: how long it took, and the largest memory its process ever
# had.
MAY_DIFFER = {"seconds", "peak_memory_gib", "seal"}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def unseen() -> list[Path]:
    """What workers must see besides the checkout and the results; a test may add to it."""
    return []


@pytest.fixture(scope="module")
def engine(results, unseen):
    pytest.importorskip("ray", reason="Ray is not installed; ./reproduce.sh extra ray adds it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))  # for `in_workers`
        with RayEngine(2, "cpu", results, others=lambda: unseen) as engine:
            started(engine)
            yield engine


def started(engine: RayEngine) -> None:
    """Skip the test where Ray cannot be started."""
    try:
        list(engine.map(in_workers.double, [(1,)]))
    except InputError as error:
        if "does not start" not in str(error):
            raise
        pytest.skip("Ray gives itself 30 seconds to start, in which this busy machine could not")


def made(engine: RayEngine, work, *tasks: tuple) -> dict[tuple, object]:
    return dict(engine.map(work, list(tasks)))


def test_every_task_is_done_once_and_handed_back_with_its_result(engine):
    assert made(engine, in_workers.double) == {}
    tasks = [(number,) for number in range(9)]  # more than are handed to Ray at a time
    found = list(engine.map(in_workers.double, tasks))
    assert sorted(found) == [((number,), 2 * number) for number in range(9)]


def test_what_another_command_holds_is_asked_for_again_when_the_rest_is_done(engine, tmp_path):
    tasks = [(tmp_path / "held", 2), (tmp_path / "free", 0), (tmp_path / "free too", 0)]
    found = list(engine.map(in_workers.held_at_first, tasks))
    assert [result for _, result in found] == ["done"] * 3 and found[-1][0] == tasks[0]
    assert {path.name: len(path.read_text()) for path in tmp_path.iterdir()} == {
        "held": 3,
        "free": 1,
        "free too": 1,
    }


def test_workers_have_one_thread_our_folder_and_serve_many_tasks(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert made(engine, in_workers.surroundings, ()) == {(): (1, "1", str(tmp_path))}
    pids = made(engine, in_workers.where, *((0.001 * number,) for number in range(8)))
    assert len(set(pids.values())) <= 2


def test_D12_a_worker_that_dies_is_replaced_and_its_task_done_again(engine, tmp_path):
    assert made(engine, in_workers.dies, (tmp_path / "a", 1), (tmp_path / "b", 0)) == {
        (tmp_path / "a", 1): 2,
        (tmp_path / "b", 0): 1,
    }


def test_a_task_that_kills_every_worker_ends_in_one_line(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pool, "RETRIES", 1)
    with pytest.raises(InputError, match=r"a run was lost 2 times with its worker.*--jobs") as caught:
        made(engine, in_workers.dies, (tmp_path / "a", 99))
    assert "\n" not in str(caught.value) and (tmp_path / "a").read_text() == "xx"


def test_errors_arrive_as_they_were_raised(engine):
    with pytest.raises(InputError, match=r"^clap.avi: no such video$") as caught:
        made(engine, in_workers.refuses, ("clap.avi",))
    assert type(caught.value) is InputError
    with pytest.raises(KeyError, match=r"^'tokens'$"):
        made(engine, in_workers.breaks, ("tokens",))
    assert made(engine, in_workers.double, (3,)) == {(3,): 6}  # and it goes on serving


def test_a_machine_that_does_not_see_our_files_is_named(engine, unseen, tmp_path):
    unseen.append(tmp_path / "features")
    with pytest.raises(InputError, match=r"does not see .*features; the checkout, the results folder"):
        made(engine, in_workers.double, (1,))
    unseen[-1].mkdir()
    assert made(engine, in_workers.double, (1,)) == {(1,): 2}
    unseen.clear()


def test_leaving_early_leaves_nothing_behind(engine, results):
    hours = 3600.0
    for _ in engine.map(in_workers.where, [(0.0,), (hours,), (hours + 1,)]):
        break  # the generator is closed, as after Ctrl-C
    began = time.monotonic()
    assert made(engine, in_workers.double, (1,)) == {(1,): 2}
    assert time.monotonic() - began < hours / 2  # what was left is not waited for, however slow the machine
    assert [path.suffix for path in results.iterdir()] == [".part"]  # gone when the engine is left


@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_D12_a_killed_part_of_ray_ends_in_one_line_and_nothing_is_left(part, tmp_path, monkeypatch, capfd):
    pytest.importorskip("ray", reason="Ray is not installed; ./reproduce.sh extra ray adds it")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
    with RayEngine(1, "cpu", tmp_path) as engine:
        started(engine)
        name, results = engine._name, engine.map(in_workers.where, [(0.0,), (600.0,)])
        next(results)
        of_ours = [process for process in psutil.process_iter() if of_cluster(process, name)]
        (victim,) = [process for process in of_ours if Path(process.cmdline()[0]).name == part]
        victim.kill()
        began = time.monotonic()
        with pytest.raises(
            InputError, match=r"^--engine ray: .*; what is finished is kept: run the"
        ) as caught:
            next(results)
    print(f"{part}: {time.monotonic() - began:.0f} s")
    assert "\n" not in str(caught.value) and "Traceback" not in capfd.readouterr().err
    assert not [process for process in psutil.process_iter() if of_cluster(process, name)]
    assert not list(tmp_path.iterdir()) and not ray_pool._home(name).exists()


def of_cluster(process: psutil.Process, name: str) -> bool:
    try:
        return process.environ().get(ray_pool.NAME) == name and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_D12_a_cluster_with_a_token_is_joined_with_it(monkeypatch, tmp_path):
    """`ray start --head` switches tokens on where there is one; `ray.init(address)` does not."""
    monkeypatch.setattr("os.environ", {"HOME": str(tmp_path), "PATH": ""})
    asked = []

    def init(address, **how):
        asked.append((address, os.environ.get("RAY_AUTH_MODE"), "RAY_AUTH_TOKEN" in os.environ))
        raise ConnectionError("Failed to connect.\nand so on")

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init))
    with pytest.raises(
        InputError, match=r"^--ray-address h:1: no Ray cluster .* takes us.*\(Failed to connect\); .*TOKEN"
    ):
        ray_pool._connect(1, "cpu", 1, "h:1", "name")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    with pytest.raises(InputError, match="no Ray cluster"):
        ray_pool._connect(1, "cpu", 1, "h:1", "name")
    assert asked == [("h:1", None, False), ("h:1", "token", False)]
    del os.environ["RAY_AUTH_MODE"]
    (tmp_path / ".ray" / "auth_token").unlink()
    with pytest.raises(InputError, match=r"Ray does not start here \(Failed to connect\); try again"):
        ray_pool._connect(1, "cpu", 1, None, "name")
    assert asked[2:] == [("local", "token", True)] and not list((tmp_path / ".ray").iterdir())


# --- the same bytes


@pytest.fixture
def tasks(tmp_path):
    """The variants of one smoke training on made-up features: call it with a results folder."""
    labels = np.arange(18) % 3
    videos = tuple(Video(f"{number:02d}.avi", int(label)) for number, label in enumerate(labels))
    names = ("wave", "clap", "sit down")
    dataset = Dataset("few", tmp_path, names, names, {1: Split(videos[:12], videos[12:])})
    width = runs.load_once(SMOKE.backbone, "cpu").width
    store = tmp_path / "store"
    store.mkdir()
    rng = np.random.default_rng(0)
    np.save(store / "features.npy", rng.normal(size=(18, 1, SMOKE.frames_stored, width)).astype(np.float16))
    rows = [[video.name, 1, 1, "0" * 64, 40, "none"] for video in videos]
    pd.DataFrame(rows, columns=INDEX).to_csv(store / "index.csv", index=False)
    pd.DataFrame([], columns=FAILED).to_csv(store / "failed.csv", index=False)
    (store / "about.json").write_text(json.dumps({"crops": ["centre"], "frames": SMOKE.frames_stored}))
    seal = FeatureStore.open(store).seal

    def tasks(folder: Path) -> list[tuple[Task]]:
        return [
            (Task(
                RunConfig(
                    "few", 2, 0, 1, ModelConfig(**switches), SMOKE.few_shot, SMOKE.evaluation, SMOKE.backbone
                ),
                name, True, folder, dataset, None, store, seal, name, "weights", "cpu", 1.0, 1, None,
            ),)
            for name, switches in VARIANTS.items()
        ]  # fmt: skip

    return tasks


def test_records_and_weights_are_the_same_bytes_as_of_worker_processes(engine, tasks, tmp_path):
    with Pool(2) as pool:
        assert len(list(pool.map(runs._run, tasks(tmp_path / "local")))) == len(VARIANTS)
    assert len(list(engine.map(runs._run, tasks(tmp_path / "ray")))) == len(VARIANTS)
    for name in VARIANTS:
        ours, theirs = (
            json.loads((tmp_path / place / f"{name}.json").read_text()) for place in ("ray", "local")
        )
        assert ours.keys() == theirs.keys() and ours.keys() > MAY_DIFFER
        ours, theirs = (
            json.dumps({field: value for field, value in record.items() if field not in MAY_DIFFER})
            for record in (ours, theirs)
        )
        assert ours == theirs and '"losses": [' in ours
        ours, theirs = ((tmp_path / place / f"{name}.safetensors").read_bytes() for place in ("ray", "local"))
        assert ours == theirs


# --- what is asked for


def test_without_ray_one_line_says_how_to_get_it(monkeypatch):
    need_engine("local")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    need_engine("local")
    with pytest.raises(
        InputError, match=r"^--engine ray: Ray is not installed here; ./reproduce.sh extra ray"
    ):
        need_engine("ray")


def test_an_address_where_nothing_answers_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        need_engine("ray", address)
    with pytest.raises(
        InputError, match=f"--ray-address {address}: nothing answers there .*; start one with ray start"
    ):
        need_engine("ray", address)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "spark"}, "--engine 'spark' is unknown; use local, ray"),
        ({"ray_address": "auto"}, "--ray-address auto belongs to --engine ray"),
        ({"engine": "ray", "ray_address": "ray://head:10001"}, "expected HOST:PORT, or auto"),
        ({"engine": "ray", "ray_address": "head"}, "--ray-address head: expected HOST:PORT, or auto"),
        (
            {"engine": "ray", "ray_address": "localhost:99999"},
            "--ray-address localhost:99999: nothing answers there",
        ),
    ],
)
def test_an_engine_that_cannot_be_is_refused_before_any_work(options, said, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError, match=said):
        Workshop(SMOKE, replace(Options(), **options))


@pytest.mark.parametrize(("parent", "code"), [("ours", 0), ("another's", 1)])
def test_a_fork_server_ends_while_it_imports_where_its_parent_is_gone(parent, code):
    number = os.getpid() if parent == "ours" else os.getppid()
    program = """import flowclip_kit.distributed.fork_server, signal, sys
assert 'torch' in sys.modules and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)"""
    variables = os.environ | {"FLOWCLIP_FORK_SERVER_PARENT": str(number), "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=variables, cwd=ROOT).returncode == code
