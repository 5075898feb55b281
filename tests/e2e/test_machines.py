"""Table 5 on Ray that loses a node, is stopped or killed, and closed-set runs by two ranks of torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT
from test_engines import MAY_DIFFER
from test_table5 import LONGEST, ONE_SET, Call, assert_whole

from flowclip_kit.experiments import runs
from flowclip_kit.experiments.experiment import Options
from flowclip_kit.experiments.results_table import tidy_csv

FEW = {"k": [2, 4]}  # half of the table
HALF = (*ONE_SET, "-p", "k=[2,4]", "--name", "few")
TABLE, RUNS = "smoke/table5-few/table5.csv", 11


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="Ray is not installed; ./reproduce.sh extra ray adds it")


def until(holds, call: Call) -> None:
    deadline = time.monotonic() + LONGEST
    while not holds() and call.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if call.process.poll() == 2 and "Ray does not start here" in call.err:
        pytest.skip("Ray gives itself 30 seconds to start, in which this busy machine could not")
    if call.process.poll() == 2 and "Failed to startup worker" in call.err:
        pytest.skip("Ray gives a worker a minute to start, in which this busy machine could not")
    assert call.process.poll() is None, call.err


def lasting(results: Path) -> dict[str, dict]:
    """The records without what may differ, by key."""
    records = {path.stem: json.loads(path.read_text()) for path in (results / "runs").glob("*.json")}
    return {
        key: {name: value for name, value in record.items() if name not in MAY_DIFFER}
        for key, record in records.items()
    }


def in_work(results: Path) -> int:
    """How many runs have begun and not ended."""
    return len(list((results / "runs").glob("*.lock")))


@pytest.fixture(scope="module")
def local(cache, tmp_path_factory) -> Path:
    """The results of worker processes."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWCLIP_CACHE", str(cache))
        found = runs.ensure("table5", "smoke", Options(dataset="figures-h", results=folder), FEW, "few")
    assert len(lasting(folder)) == RUNS
    (folder / "table5.csv").write_text(tidy_csv(found.tidy))
    return folder


def test_D12_a_worker_killed_in_the_middle_of_a_run_changes_no_byte(ray, local, cache, tmp_path):
    results = tmp_path / "ray"
    call = Call((*HALF, "--engine", "ray", "--results", str(results)), tmp_path, cache)
    until(lambda: in_work(results) > 0 and len(list((results / "runs").glob("*.json"))) >= 2, call)
    for _ in range(100):
        with suppress(OSError, ValueError, StopIteration):  # done meanwhile
            held = next((results / "runs").glob("*.lock"))
            os.kill(json.loads(held.read_text())["pid"], signal.SIGKILL)
            break
        time.sleep(0.02)
    assert len(list((results / "runs").glob("*.json"))) < RUNS
    call.end()
    assert (results / TABLE).read_text() == (local / "table5.csv").read_text()
    assert lasting(results) == lasting(local) and not call.left(20)
    assert not [path.name for path in (results / "runs").iterdir() if path.name.endswith((".part", ".lock"))]


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_makes_the_whole_table_with_the_same_bytes(ray, local, cache, tmp_path):
    from ray.cluster_utils import Cluster

    results = tmp_path / "ray"
    soon = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}  # a lost node is noticed
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        other = cluster.add_node(num_cpus=1)
        asked = ("--engine", "ray", "--ray-address", cluster.address, "--results", str(results))
        call = Call((*HALF, *asked), tmp_path, cache)
        # Each node has one CPU, so two runs in work are one on each.
        until(lambda: in_work(results) == 2 and len(list((results / "runs").glob("*.json"))) >= 2, call)
        cluster.remove_node(other, allow_graceful=False)
        assert len(list((results / "runs").glob("*.json"))) < RUNS
        call.end()
    finally:
        cluster.shutdown()
    assert (results / TABLE).read_text() == (local / "table5.csv").read_text()
    assert len(lasting(results)) == RUNS and lasting(results) == lasting(local)
    assert_whole(results)
    assert not call.left(20)


def test_ctrl_c_stops_ray_too_and_says_one_line(ray, cache, tmp_path):
    results = tmp_path / "results"
    call = Call((*HALF, "--engine", "ray", "--results", str(results)), tmp_path, cache)
    until(lambda: in_work(results) > 0, call)
    os.killpg(call.process.pid, signal.SIGINT)  # what a terminal does
    call.end(130)
    said = call.complaints
    assert len(said) == 1 and said[0].startswith("reproduce.sh: stopped"), call.err
    assert not call.left(30)
    assert not list((results / "runs").glob(".*.part"))
    assert_whole(results)


@pytest.mark.slow
def test_D12_two_ranks_of_torchrun_equal_one_process_to_the_byte(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(cache))
    runs.ensure("table8", "smoke", Options(dataset="figures-k", results=tmp_path / "one"))
    words = ("table8", "--profile", "smoke", "--dataset", "figures-k", "--results", str(tmp_path / "two"))
    launcher = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "flowclip_kit", *words],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=LONGEST,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nwritten:") == 1  # the main rank alone prints
    alone, both = lasting(tmp_path / "one"), lasting(tmp_path / "two")
    (key,) = alone
    assert both.keys() == alone.keys() and both[key].pop("ranks") == 2
    assert both == alone
    ours, theirs = ((tmp_path / name / "runs" / f"{key}.safetensors").read_bytes() for name in ("two", "one"))
    assert ours == theirs
    assert not list((tmp_path / "two/runs").glob("*.partial")) and "Traceback" not in done.stderr
