"""Shared by the tests: small towers, fixed inputs, real clips where they are present."""

from __future__ import annotations

import faulthandler
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import open_clip
import pytest
import torch
from torch import Tensor

from flowclip_core.model.backbone import Backbone
from flowclip_kit.demo import world
from flowclip_kit.demo.backbone import load_backbone

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which have a core each
    torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
CLIPS = Path(os.environ.get("FLOWCLIP_TEST_VIDEOS") or ROOT.parent / "shared" / "videos")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--slow, and options of tests/e2e/test_browser.py."""
    parser.addoption("--slow", action="store_true", help="also run tests marked slow, as CI does")
    parser.addoption("--browser", action="store_true", help="move every control of the notebooks in Chromium")
    parser.addoption(
        "--screenshots", type=Path, help="folder for the browser's screenshots (default: a temporary one)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test marked slow tries harder, or once more, what a quicker test has tried: CI alone runs it, and who
    names it."""
    if config.getoption("--slow") or any("::" in word for word in config.args):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow, as .ci/run does")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


# Tests that kill processes at certain moments, or start Ray, which gives itself 30 seconds.
MANY = ("test_kills", "test_machines", "test_table5", "test_engines", "test_ranks")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """A file's tests keep together; those that start many processes come one after another, and first."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "many processes" if Path(file).stem in MANY else file

    return Scheduling(config, log)


# Two towers of a test's size; 77 tokens, CLIP's vocabulary.
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
# The text tower of ViT-B/16 at its full width; fewer blocks where a test would take minutes.
FULL_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8}


def fixed(*shape: int) -> Tensor:
    """Uneven numbers in [-1, 1], the same on every machine; ones and zeros would hide swapped axes."""
    return torch.sin(torch.arange(1.0, 1 + math.prod(shape))).reshape(shape)


def backbone(config: dict, seed: int = 0, dtype: torch.dtype = torch.float32) -> Backbone:
    """A random backbone whose biases are not zero: an untrained tower would hide errors in the attention
    mask."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = open_clip.model.CLIP(**config, quick_gelu=True)
        for name, value in clip.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(value, std=0.2)
    return Backbone(clip.to(dtype), "test", None)


@contextmanager
def hearing() -> Iterator[None]:
    """Processes started inside hear SIGINT and SIGHUP, also where the suite itself was told to ignore them:
    what `&` in a script and nohup ignore is inherited, what has a handler is not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    for number, handler in before.items():
        if handler == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def small() -> Backbone:
    return backbone(SMALL)


@pytest.fixture(scope="session")
def tower() -> Backbone:
    """The embedded tiny CLIP."""
    return load_backbone()


@pytest.fixture
def clips() -> Path:
    """The folder of real clips; the test is skipped where it is absent."""
    if not CLIPS.is_dir():
        pytest.skip(f"no real clips at {CLIPS}; name a folder with FLOWCLIP_TEST_VIDEOS")
    return CLIPS


@pytest.fixture
def watchdog():
    """Ends the tests, with where they were, if this one hangs."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """For whole commands: the user's cache if it holds both worlds, which take long to draw; nothing is
    removed."""
    if all((world.default_root() / name / "complete.txt").exists() for name in ("figures-h", "figures-u")):
        return world.default_root().parent.parent
    together = tmp_path_factory.getbasetemp()  # of this process, inside that of all test processes
    return (together.parent if "PYTEST_XDIST_WORKER" in os.environ else together) / "cache"
