"""Two hundred single mutations of the files that numbers come from: no traceback, and no other table without
a word."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, backbone
from damage import cheap, pristine, store, tables, words
from fault_table import answer
from test_outputs import recorded, template

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.model import hub
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.training import loop
from flowclip_kit.datasets import extraction
from flowclip_kit.reporting import outputs

__all__ = ["cheap", "pristine", "recorded", "template"]  # fixtures

COUNT = 200


# --- mutations ---


def bit(data: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :]


def byte(data: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + rng.bytes(1) + data[at + 1 :]


def truncation(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def zero(data: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + bytes(len(data[at : at + 64])) + data[at + 64 :]


def swap(data: bytes, rng: np.random.Generator) -> bytes:
    """Two blocks change places."""
    size = min(64, len(data) // 4)
    one, other = sorted(int(at) for at in rng.integers(0, len(data) // size, 2) * size)
    other = max(other, one + size)
    return (
        data[:one]
        + data[other : other + size]
        + data[one + size : other]
        + data[one : one + size]
        + data[other + size :]
    )


def nan(data: bytes, rng: np.random.Generator) -> bytes:
    """In the place of a number; in arrays, of sixteen."""
    numbers = list(re.finditer(rb"(?<![\w.])\d+(\.\d+)?(?![\w.])", data))
    if numbers and b"NUMPY" not in data[:8] and data[:1] in b"{[vknt":
        found = numbers[rng.integers(len(numbers))]
        return data[: found.start()] + b"NaN" + data[found.end() :]
    if len(data) < 128:
        return data  # none there; another mutation is drawn
    at = len(data) - 2 * int(rng.integers(16, len(data) // 4))
    return data[:at] + np.full(16, np.nan, np.float16).tobytes() + data[at + 32 :]


def number(data: bytes, rng: np.random.Generator) -> bytes:
    """Another digit in the place of one."""
    digits = [at for at, value in enumerate(data) if chr(value).isdigit()]
    at = digits[rng.integers(len(digits))] if digits else int(rng.integers(len(data)))
    return data[:at] + str(rng.integers(10)).encode() + data[at + 1 :]


def rows(data: bytes) -> list[bytes]:
    """Lines of a text; what else has no lines is cut into sixteen."""
    lines = data.splitlines(keepends=True)
    step = -(-len(data) // 16)
    return (
        lines
        if len(lines) > 3 and data[:1] in b"{[vknt"
        else [data[i : i + step] for i in range(0, len(data), step)]
    )


def deleted_row(data: bytes, rng: np.random.Generator) -> bytes:
    found = rows(data)
    del found[rng.integers(len(found))]
    return b"".join(found)


def doubled_row(data: bytes, rng: np.random.Generator) -> bytes:
    found = rows(data)
    at = rng.integers(len(found))
    return b"".join([*found[: at + 1], *found[at:]])


MUTATIONS = (bit, byte, truncation, zero, swap, nan, number, deleted_row, doubled_row)


def mutated(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """The name of a mutation, and what it makes of `data`, which is something else."""
    while True:
        change = MUTATIONS[rng.integers(len(MUTATIONS))]
        if (other := change(data, rng)) != data:
            return change.__name__, other


def write(path: Path, data: bytes) -> None:
    """As a file is damaged that nobody meant to change: in its place, with the times it had."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# --- what is mutated, and what may come of it ---


def one_of(pattern: str) -> Callable[[Path, np.random.Generator], Path]:
    def choose(folder: Path, rng: np.random.Generator) -> Path:
        found = sorted(folder.glob(pattern))
        return found[rng.integers(len(found))]

    return choose


def keys(found: dict[str, bytes]) -> set[str]:
    return {line.rsplit(",", 1)[1] for line in found["table5.csv"].decode().splitlines()[1:]}


# Of the whole command: files, and how many of the mutations they get.
FILES = {
    "records": (one_of("results/runs/*.json"), 45),
    "features": (one_of("cache/features/*/features.npy"), 25),
    "index": (one_of("cache/features/*/index.csv"), 15),
    "other files of a store": (one_of("cache/features/*/*[!xy].[jc]s*"), 20),
    "notes of contents": (one_of("cache/features/*.json"), 4),
    "kept weights": (one_of("results/runs/*.safetensors"), 8),
    "tables": (one_of("results/smoke/*.csv"), 8),
    "provenance and seals": (one_of("results/smoke/[.t]*[ne].[mj]*"), 5),
    "checkpoints": (one_of("results/smoke/checkpoints/*/*"), 5),
    "lists": (one_of("data/*.csv"), 10),
}
SHARDS, STATES, SAVED, RECORDED = 10, 15, 10, 20
assert sum(count for _, count in FILES.values()) + SHARDS + STATES + SAVED + RECORDED == COUNT


class Trials:
    """What came of each: kept (the same tables), refused (a line), other (a list: runs of other names), or
    failed."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.failures: list[str] = []

    def judge(self, what: str, try_it: Callable[[], str]) -> None:
        try:
            outcome = try_it()
        except Exception as error:  # what a user would see as a traceback
            outcome = f"traceback ({type(error).__name__}: {error})"
        kind = outcome.partition(" ")[0]
        self.found[kind] += 1
        if kind in ("traceback", "silent"):
            self.failures.append(f"{what}: {outcome}")


@pytest.fixture(scope="module")
def trials() -> Trials:
    return Trials()


@pytest.fixture
def folder(pristine, tmp_path, monkeypatch, capsys) -> Path:
    """A warm copy: a second call finds all that is there whole, and notes it."""
    shutil.copytree(pristine, tmp_path / "all")
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "all/cache"))
    time.sleep(0.1)
    assert answer(capsys, *words(tmp_path / "all"))[0] == 0
    return tmp_path / "all"


def restore(folder: Path, tree: dict[Path, bytes]) -> None:
    """What a trial left otherwise is as it was."""
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in tree]:
        path.unlink()
    for path, data in tree.items():
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def state(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    }


def call(folder: Path, capsys, expected: dict[str, bytes], listed: bool = False) -> str:
    """What the whole command comes to."""
    code, _, err = answer(capsys, *words(folder))
    if code == 2:
        return "refused" if err.splitlines()[-1].startswith("reproduce.sh: ") else f"traceback ({err})"
    if code:
        return f"silent (exit code {code})"
    if (found := tables(folder)) == expected:
        return "kept"
    if listed and not keys(found) & keys(expected):  # other lists are other runs, under other names
        return "other"
    return f"silent ({', '.join(name for name in expected if found.get(name) != expected[name])})"


def test_files_of_a_whole_command(folder, trials, capsys):
    rng, expected, tree = np.random.default_rng(0), tables(folder), state(folder)
    for kind, (choose, count) in FILES.items():
        for _ in range(count):
            path = choose(folder, rng)
            name, data = mutated(tree[path], rng)
            write(path, data)
            if kind in ("features", "index"):  # which finished runs do not ask for
                for gone in sorted((folder / "results/runs").glob("*.json"))[1:3]:
                    gone.unlink()
            trials.judge(
                f"{kind}, {path.name}, {name}", partial(call, folder, capsys, expected, kind == "lists")
            )
            restore(folder, tree)


def test_shards_of_an_unfinished_store(folder, trials, capsys, monkeypatch):
    rng, expected = np.random.default_rng(1), tables(folder)
    shutil.rmtree(store(folder))
    with monkeypatch.context() as patch:  # killed before the shards became a store
        patch.setattr(extraction, "_merge", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            answer(capsys, *words(folder))
    tree = state(folder)
    for _ in range(SHARDS):
        path = one_of("cache/features/*.shards/*.safetensors")(folder, rng)
        name, data = mutated(tree[path], rng)
        write(path, data)
        trials.judge(f"shards, {path.name}, {name}", lambda: call(folder, capsys, expected))
        restore(folder, tree)


def test_states_of_unfinished_trainings(folder, trials, capsys, monkeypatch):
    rng, expected = np.random.default_rng(2), tables(folder)
    trained = [
        path
        for path in sorted((folder / "results/runs").glob("*.json"))
        if json.loads(path.read_text())["losses"]
    ]
    trained = trained[:3]
    for path in trained:
        path.unlink()
    tree, train = state(folder), loop.train
    with monkeypatch.context() as patch:  # stopped after two of three steps
        patch.setattr(loop, "train", lambda *a, **o: train(*a, **o, stop_after=2))
        assert answer(capsys, *words(folder))[0] == 0
    tree |= {path.with_suffix(".partial"): path.with_suffix(".partial").read_bytes() for path in trained}
    restore(folder, tree)
    assert call(folder, capsys, expected) == "kept" and not list((folder / "results/runs").glob("*.partial"))
    restore(folder, tree)
    for number in range(STATES):
        path = trained[number % 3].with_suffix(".partial")
        name, data = mutated(tree[path], rng)
        write(path, data)
        trials.judge(f"states, {path.name}, {name}", lambda: call(folder, capsys, expected))
        restore(folder, tree)


def test_saved_models_and_their_settings(trials, tmp_path):
    rng, tower = np.random.default_rng(3), backbone(SMALL)
    model = FlowCLIP(ModelConfig(), tower, ("clap", "wave"))
    model.save_pretrained(tmp_path / "saved")
    expected = {name: value.detach().clone() for name, value in model.trained().items()}

    def load() -> str:
        try:
            found = FlowCLIP.load(tmp_path / "saved", tower)
        except InputError:
            return "refused"
        same = all(value.equal(expected[name]) for name, value in found.trained().items())
        return (
            "kept"
            if same and found.config == model.config and found.class_texts == model.class_texts
            else "silent"
        )

    tree = state(tmp_path)
    assert load() == "kept"
    for number in range(SAVED):
        path = tmp_path / "saved" / (hub.WEIGHTS, hub.SETTINGS)[number % 2]
        name, data = mutated(tree[path], rng)
        write(path, data)
        trials.judge(f"saved, {path.name}, {name}", load)
        restore(tmp_path, tree)


def test_recorded_files(recorded, trials):
    rng, root = np.random.default_rng(4), recorded.parents[2]
    tree, paths = state(root / "results"), sorted([*recorded.glob("*.*"), root / "results/claims.csv"])

    def verified() -> str:
        wrong = outputs.verify()[1]
        return "refused" if wrong else "silent"

    for _ in range(RECORDED):
        path = paths[rng.integers(len(paths))]
        name, data = mutated(tree[path], rng)
        write(path, data)
        trials.judge(f"recorded, {path.name}, {name}", verified)
        restore(root / "results", tree)


def test_none_was_a_traceback_or_silent(trials):
    """All together; runs last in this file."""
    print(f"of {sum(trials.found.values())} mutations: {dict(trials.found)}")
    assert not trials.failures, "\n".join(
        [f"{len(trials.failures)} of {sum(trials.found.values())}:", *trials.failures]
    )
    assert sum(trials.found.values()) == COUNT and trials.found["kept"] > COUNT // 2
