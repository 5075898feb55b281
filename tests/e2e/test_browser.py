"""The notebooks in a real JupyterLab: `./reproduce.sh test --browser` moves every control.

Prints the reaction time of each control, median and worst: from the key press until the kernel is idle again
and the page shows something new.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from conftest import hearing

from flowclip_kit.demo import world
from flowclip_kit.paths import root

NOTEBOOKS = ("index", "one_clip", "data", "explore_motion", "explore_prompts")
FLAGS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync", "disable-dev-shm-usage",
         "disable-background-networking", "disable-component-update")  # fmt: skip
SETTINGS = {  # no news, no question for a kernel
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"autoStartDefaultKernel": True},
}
SECONDS = 60


@pytest.fixture(scope="module")
def chromium(request):
    if not request.config.getoption("--browser"):
        pytest.skip("needs --browser")
    found = [*filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))]
    if not found and "CHROMIUM" not in os.environ:
        pytest.skip("no browser: install chromium, or name one with CHROMIUM")
    api = pytest.importorskip("playwright.sync_api", reason="no browser: ./reproduce.sh extra browser")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or found[0], args=[f"--{flag}" for flag in FLAGS]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def screenshots(request, tmp_path_factory):
    folder = request.config.getoption("--screenshots") or tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Lab:
    """JupyterLab as `./reproduce.sh lab` starts it, on a copy of the checkout's notebooks."""

    def __init__(self, scratch: Path) -> None:
        for name in ("notebooks", "flowclip_core", "flowclip_kit"):
            shutil.copytree(
                root() / name, scratch / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_*")
            )
        for name in ("reproduce.sh", "environment.yml", "pyproject.toml", "requirements.lock"):
            shutil.copy(root() / name, scratch / name)
        (scratch / "results").mkdir()  # where `lab` puts its copies of the notebooks
        for name in ("paper", "recorded", "claims.csv"):
            (scratch / "results" / name).symlink_to(root() / "results" / name)
        for name, value in SETTINGS.items():
            file = scratch / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(value))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = os.environ | {
            "VIRTUAL_ENV": sys.prefix,
            "JUPYTER_CONFIG_DIR": str(scratch / "config"),
            "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
        }
        env.pop("PYTHONPATH", None)
        self.notebooks, self.log = scratch / "notebooks", scratch / "lab.log"
        options = ["--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
        options += ["--allow-root"] if os.name == "posix" and os.geteuid() == 0 else []
        with hearing(), self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(scratch / "reproduce.sh"), "lab", *options],
                env=env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.url, end = "", time.time() + SECONDS
        while not self.url:
            said = re.search(r"(http://[0-9.]+:\d+)/lab/tree/index\.ipynb\?token=(\w+)", self.log.read_text())
            if said:
                self.url, self.token = said.groups()
            elif self.process.poll() is not None or time.time() > end:
                self.process.terminate()
                self.process.wait(30)
                raise AssertionError(self.log.read_text()[-2000:])
            time.sleep(0.2)

    def ready(self, name: str) -> bool:
        """Whether the notebook's kernel runs, and a page is connected to it."""
        with urllib.request.urlopen(f"{self.url}/api/sessions?token={self.token}", timeout=SECONDS) as answer:
            sessions = json.load(answer)
        kernels = [session["kernel"] for session in sessions if session["path"] == f"{name}.ipynb"]
        return any(kernel["execution_state"] == "idle" and kernel["connections"] for kernel in kernels)


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        yield lab
    finally:
        if lab.process.poll() is None:
            lab.process.terminate()
            lab.process.wait(30)


def opened(chromium, lab: Lab, name: str):
    """The page of a notebook whose kernel is ready."""
    page = chromium.new_page(viewport={"width": 1440, "height": 1500})
    page.set_default_timeout(SECONDS * 1000)
    page.goto(f"{lab.url}/lab/tree/{name}.ipynb?token={lab.token}&reset", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    # The page says idle before its kernel runs; widgets of cells that are sent until then never load.
    end = time.time() + SECONDS
    while not lab.ready(name):
        assert time.time() < end, f"{name}: no kernel"
        page.wait_for_timeout(250)
    page.wait_for_timeout(2000)
    return page


WATCH = """() => {
    window.indicator = document.querySelector('.jp-Notebook-ExecutionIndicator'); window.wasBusy = false;
    new MutationObserver(() => { window.wasBusy ||= window.indicator.dataset.status === 'busy' })
        .observe(window.indicator, {attributes: true});
}"""


def run_all(page) -> None:
    """Run all cells, and wait until the kernel was busy with them and is idle."""
    page.evaluate(WATCH)  # the kernel may be busy for a moment only
    began = False
    while not began:  # a menu that has only just appeared may not answer yet
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(3000)
        began = page.evaluate("() => window.wasBusy")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    failed = page.locator(".jp-OutputArea-output").filter(has_text="Traceback (most recent call last)")
    assert not failed.count(), failed.first.inner_text()[-1500:]
    assert page.get_by_text("model not found").count() == 0


FRAMES = ".widget-image"
STATE = """() => [...document.querySelectorAll('.widget-image, .widget-html-content')]
    .map(panel => panel.src || panel.innerHTML).join()"""
IDLE = "document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status === 'idle'"


def reaction(page, act) -> float:
    """Milliseconds from `act` until the explorer shows something else and the kernel is idle."""
    before = page.evaluate(STATE)
    began = time.perf_counter()
    act()
    page.wait_for_function(
        f"before => ({STATE})() !== before && {IDLE}", arg=before, polling=10, timeout=20_000
    )
    return 1000 * (time.perf_counter() - began)


def settled(page) -> None:
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    page.wait_for_timeout(250)


def labelled(page, name: str, kind: str):
    """The control with that label: each has one."""
    box = page.locator(".widget-inline-hbox").filter(has=page.locator(f".widget-label:text-is('{name}')"))
    return box.locator(kind).first


def report(name: str, times: dict[str, list[float]], capsys) -> None:
    with capsys.disabled():
        print(f"\n{name}: reaction in ms, median / worst of n")
        for control, values in times.items():
            print(f"  {control:<16} {statistics.median(values):6.0f} / {max(values):6.0f}  n={len(values)}")


BOX = ".jp-OutputArea-output .widget-vbox"


def picture(page, file: Path) -> None:
    page.locator(BOX).first.evaluate("box => box.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(300)
    page.screenshot(path=str(file))


def on_one_screen(page, screenshots: Path, name: str, controls: list[str]) -> None:
    """Controls and class scores fit on a laptop's screen; a picture of that and of a large one."""
    for width, height in ((1920, 1080), (1366, 768)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(500)
        picture(page, screenshots / f"{name}-{width}x{height}.png")
    needed = [labelled(page, control, "*") for control in controls]
    needed.append(page.locator("table:has(caption:text('class scores'))").first)
    for part in needed:
        place = part.bounding_box()
        assert place["x"] >= 0 and place["x"] + place["width"] <= 1366, part
        assert place["y"] >= 0 and place["y"] + place["height"] <= 768, part
    page.set_viewport_size({"width": 1440, "height": 1500})


@pytest.mark.parametrize("name", NOTEBOOKS[:3])
def test_plain_notebooks_run(chromium, lab, screenshots, name):
    page = opened(chromium, lab, name)
    run_all(page)
    if page.locator(".jp-OutputArea-output img").count():
        page.locator(".jp-OutputArea-output img").last.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    page.screenshot(path=str(screenshots / f"{name}.png"))
    page.close()


def test_a_notebook_that_was_not_run_shows_its_picture(chromium, lab):
    page = opened(chromium, lab, "explore_motion")
    page.locator(".jp-MarkdownOutput img").first.wait_for()
    assert page.get_by_text("model not found").count() == 0
    page.close()


def test_every_control_of_the_motion_explorer(chromium, lab, screenshots, capsys):
    page = opened(chromium, lab, "explore_motion")
    run_all(page)
    page.wait_for_selector(FRAMES)
    on_one_screen(page, screenshots, "explore_motion", ["clip of", "own file", "T, frames", "pair i, j"])
    times: dict[str, list[float]] = {}

    def press(control: str, handle, key: str, repeat: int = 4) -> None:
        handle.focus()
        for _ in range(repeat):
            times.setdefault(control, []).append(reaction(page, lambda: handle.press(key)))
            settled(page)
        picture(page, screenshots / f"explore_motion-{control.replace(' ', '_')}.png")

    press("T", labelled(page, "T, frames", ".noUi-handle"), "ArrowRight")
    press("s", labelled(page, "s, step", ".noUi-handle"), "ArrowLeft", 2)
    handles = page.locator(".widget-inline-hbox").filter(has_text="start, end").locator(".noUi-handle")
    press("start", handles.nth(0), "PageUp", 2)  # by more than one, or the same frames may be chosen
    press("end", handles.nth(1), "PageDown", 2)
    press("pair", labelled(page, "pair i, j", ".noUi-handle"), "ArrowRight")
    for order in ("reversed", "shuffled", "one frame repeated", "in order"):
        button = page.locator(".widget-toggle-button").filter(has_text=re.compile(f"^{order}$"))
        times.setdefault("order", []).append(reaction(page, lambda one=button: one.press("Enter")))
        settled(page)
        picture(page, screenshots / f"explore_motion-{order.replace(' ', '_')}.png")
    menu = labelled(page, "clip of", "select")
    for label in ("get up", "wave"):
        times.setdefault("clip of", []).append(
            reaction(page, lambda one=label: menu.select_option(label=one))
        )
        settled(page)
    press("clip number", labelled(page, "clip number", ".noUi-handle"), "ArrowRight", 2)
    own_file(page, lab, times, screenshots / "explore_motion-own.png")
    page.close()
    report("explore_motion", times, capsys)


def test_every_control_of_the_prompt_explorer(chromium, lab, screenshots, capsys):
    page = opened(chromium, lab, "explore_prompts")
    run_all(page)
    page.wait_for_selector("table:has(caption:text('class scores'))")
    on_one_screen(page, screenshots, "explore_prompts", ["class names", "template", "clip of", "motion of"])
    times: dict[str, list[float]] = {}

    def write(control: str, text: str) -> None:
        field = labelled(page, control, "input")
        field.fill(text)
        times.setdefault(control, []).append(reaction(page, lambda: field.press("Enter")))
        settled(page)
        picture(page, screenshots / f"explore_prompts-{control.replace(' ', '_')}.png")

    for control, label in (("motion of", "stand up"), ("tokens of", "climb up"), ("clip of", "climb down")):
        menu = labelled(page, control, "select")
        times[control] = [reaction(page, lambda menu=menu, one=label: menu.select_option(label=one))]
        settled(page)
        picture(page, screenshots / f"explore_prompts-{control.replace(' ', '_')}.png")
    number = labelled(page, "clip number", ".noUi-handle")
    times["clip number"] = [reaction(page, lambda: number.press("ArrowRight"))]
    settled(page)
    write("template", "a photo of a person, {}.")
    write("class names", "climb up, climb down, arm wrestling, brush hair, wave")
    own_file(page, lab, times, screenshots / "explore_prompts-own.png")
    page.close()
    report("explore_prompts", times, capsys)


def upload(page, name: str, content: bytes) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="upload a video").click()
    chooser.value.set_files({"name": name, "mimeType": "video/x-msvideo", "buffer": content})


def own_file(page, lab: Lab, times: dict, file: Path) -> None:
    """A path, an upload, a broken file: one line for the last, and the explorer goes on."""
    own = lab.notebooks.parent / "own clip.avi"
    own.write_bytes(world.encode(world.render("figures-u", "Cartwheel", 1)))
    field = labelled(page, "own file", "input")
    field.fill(str(own))
    times["path"] = [reaction(page, lambda: field.press("Enter"))]
    settled(page)
    choices = labelled(page, "clip of", "select").inner_text().replace("\xa0", " ")
    assert "own: own clip.avi" in choices
    broken = own.with_name("broken.mp4")
    broken.write_bytes(own.read_bytes()[:900])
    field.fill(str(broken))
    field.press("Enter")
    line = page.locator("[role=alert]").first
    line.wait_for()
    assert "broken.mp4" in line.inner_text() and "Traceback" not in line.inner_text()
    # More than tornado takes by default; and one that can be read, which ends the complaint.
    upload(page, "broken upload.mp4", own.read_bytes()[:900] + bytes(11 << 20))
    page.wait_for_function(
        "() => document.querySelector('[role=alert]')?.innerText.includes('broken upload.mp4')"
    )
    upload(page, "up.avi", world.encode(world.render("figures-u", "Archery", 1)))
    page.wait_for_function("() => document.querySelectorAll('[role=alert]').length === 0", timeout=20_000)
    settled(page)
    picture(page, file)


def test_the_server_is_for_this_machine_wants_its_token_and_ends_with_one_ctrl_c(lab):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{lab.url}/api/contents", timeout=10)
    with urllib.request.urlopen(f"{lab.url}/api/kernels?token={lab.token}", timeout=10) as answer:
        assert json.load(answer), "the notebooks above have kernels"
    family = psutil.Process(lab.process.pid)
    listening = {c.laddr.ip for c in family.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    children = family.children(recursive=True)
    assert children
    lab.process.send_signal(signal.SIGINT)
    assert lab.process.wait(30) == 0
    assert not psutil.wait_procs(children, timeout=10)[1], "stray kernels"
