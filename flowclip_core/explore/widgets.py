"""Controls wired to the panels: what is computed and drawn lies elsewhere and is tested without them.

A control moves, the figure is drawn again from features that were encoded once. Whatever goes wrong on the way is one
line above the figure, which then stays as it was.
"""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as ipw
from IPython.display import display

from flowclip_core.demo import world
from flowclip_core.explore import clips, drawings, panels, parts
from flowclip_core.explore.clips import Footage
from flowclip_core.model.motion import pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flowclip_core.data.datasets import Dataset
    from flowclip_core.model.backbone import Backbone
    from flowclip_core.model.flowclip import FlowCLIP

WIDE = ipw.Layout(width="430px")
STYLE = {"description_width": "120px"}
MOST_FRAMES = 16
VIEW = "application/vnd.jupyter.widget-view+json"


def one_line(error: Exception) -> str:
    """What an error says, in one line; the kind of error where it says nothing of use to a reader by itself."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {said}"


class Live:
    """A picture, the line above it, and `refresh`, which draws again or says in that line why not."""

    def __init__(self, draw: Callable[[], Figure]) -> None:
        self.draw = draw
        self.picture = ipw.Image(format="png", layout=ipw.Layout(width="100%", max_width="1080px"))
        self.line = ipw.HTML()
        self.error = ""
        self.seconds = 0.0

    def refresh(self, *_: object) -> None:
        """Draw again. An error is told and changes nothing else."""
        began = time.perf_counter()
        try:
            self.picture.value = drawings.png(self.draw())
            self.tell("")
        except Exception as error:  # a callback's error would vanish into the log
            self.tell(one_line(error))
        self.seconds = time.perf_counter() - began

    def tell(self, error: str) -> None:
        """Show one line, or none."""
        self.error = error
        self.line.value = f'<div role="alert"><b>Not shown:</b> {html.escape(error)}</div>' if error else ""


class Source:
    """Which clip: a class and a number, or a file by path or upload. `footage` is the last one that could be read."""

    def __init__(self, backbone: Backbone, dataset: Dataset | None, changed: Callable[[str], None]) -> None:
        self.backbone, self.changed, self.read = backbone, changed, {}
        self.listed = clips.clips_of(dataset) if dataset else None
        names = list(self.listed) if self.listed else [world.spaced(label) for label in clips.demo_classes()]
        self.labels = dict(zip(names, names if self.listed else clips.demo_classes(), strict=True))
        self.menu = ipw.Dropdown(
            options=names, description="clip of" if not self.listed else "clip", style=STYLE, layout=WIDE
        )
        self.number = ipw.IntSlider(
            0, 0, world.TEST - 1, description="clip number", style=STYLE, layout=WIDE, continuous_update=False
        )
        self.path = ipw.Text(
            description="own file, path",
            placeholder="a video file; empty: the clip above",
            style=STYLE,
            layout=WIDE,
            continuous_update=False,
        )
        self.upload = ipw.FileUpload(
            accept="video/*,.avi,.mkv,.mov,.mp4,.webm", description="upload a video", layout=ipw.Layout(width="200px")
        )
        self.footage: Footage | None = None
        for control in (self.menu, self.number, self.path):
            control.observe(self._move, "value")
        self.upload.observe(self._uploaded, "value")

    @property
    def controls(self) -> list[ipw.Widget]:
        return [self.menu, *([] if self.listed else [self.number]), self.path, self.upload]

    def clip(self, name: str, number: int = 0) -> Footage:
        """The clip of that name in the menu, read once."""
        if self.listed:
            return self._read(self.listed[name], name)
        return self._read(clips.demo_clip(self.labels[name], number), f"{name}, clip {number}")

    def load(self) -> None:
        """Read what the controls say. Raises VideoError, and then keeps the footage there was."""
        path = self.path.value.strip()
        self.footage = self._read(Path(path), None) if path else self.clip(self.menu.value, self.number.value)

    def _read(self, path: Path, title: str | None) -> Footage:
        if path not in self.read:
            self.read[path] = clips.read(path, self.backbone, title=title)
        return self.read[path]

    def _move(self, change: dict) -> None:
        if change["owner"] is not self.path and self.path.value:
            with self.path.hold_trait_notifications():
                self.path.unobserve(self._move, "value")
                self.path.value = ""
                self.path.observe(self._move, "value")
        self._try(self.load)

    def _uploaded(self, change: dict) -> None:
        if change["new"]:
            self._try(lambda: self._take(change["new"][0]))

    def _take(self, file: dict) -> None:
        self.path.value = str(clips.save_upload(file["name"], bytes(file["content"])))

    def _try(self, act: Callable[[], None]) -> None:
        error = ""
        try:
            act()
        except Exception as problem:
            error = one_line(problem)
        self.changed(error)


class MotionExplorer:
    """Sliders for the clip, T, s, range, order and pair over `panels.motion_board`."""

    def __init__(self, model: FlowCLIP, dataset: Dataset | None = None) -> None:
        self.model = model
        self.source = Source(model.backbone, dataset, self._changed)
        self.frames = ipw.IntSlider(
            model.config.frames, 2, MOST_FRAMES, description="T, frames", style=STYLE, layout=WIDE
        )
        self.step = ipw.IntSlider(
            model.config.step, 1, model.config.frames - 1, description="s, largest step", style=STYLE, layout=WIDE
        )
        self.range = ipw.IntRangeSlider(
            value=(0, clips.STORED), min=0, max=clips.STORED, description="start and end", style=STYLE, layout=WIDE
        )
        self.order = ipw.ToggleButtons(
            options=list(clips.ORDERS), description="frames are", style={"button_width": "135px"}
        )
        self.pair = ipw.SelectionSlider(
            options=[("0 and 1", (0, 1))], description="pair i and j", style=STYLE, layout=WIDE
        )
        self.board: Figure | None = None
        self.live = Live(self._draw)
        self._offer_pairs()
        for control in (self.frames, self.step):
            control.observe(self._resized, "value")
        for control in (self.range, self.order, self.pair):
            control.observe(self._moved, "value")
        self._quiet = False
        left, right = self.source.controls, [self.frames, self.step, self.range, self.pair]
        self.box = ipw.VBox(
            [ipw.HBox([ipw.VBox(left), ipw.VBox(right)]), self.order, self.live.line, self.live.picture]
        )
        self.source.load()
        self.live.refresh()

    @property
    def view(self) -> panels.View:
        """What the controls say."""
        start, end = self.range.value
        return panels.View(self.frames.value, self.step.value, start, end, self.order.value, self.pair.value)

    def _draw(self) -> Figure:
        self.board = panels.motion_board(self.model, self.source.footage, self.view, self.board)
        return self.board

    def _changed(self, error: str) -> None:
        self.live.tell(error) if error else self.live.refresh()

    def _moved(self, _: dict) -> None:
        if not self._quiet:
            self.live.refresh()

    def _resized(self, _: dict) -> None:
        if self._quiet:
            return
        self._quiet = True  # one drawing, although other controls follow
        self.step.max = self.frames.value - 1
        self._offer_pairs()
        self._quiet = False
        self.live.refresh()

    def _offer_pairs(self) -> None:
        found = sorted(pairs(self.frames.value, min(self.step.value, self.frames.value - 1)))
        kept = self.pair.value if self.pair.value in found else found[0]
        self.pair.options = [(f"{i} and {j}", (i, j)) for i, j in found]
        self.pair.value = kept


class PromptExplorer:
    """Class names, template, clip and another video's motion over `panels.prompt_board`."""

    def __init__(
        self, backbone: Backbone, names: str = "", template: str = "a common human action of {}.",
        checkpoint: str | None = None, dataset: Dataset | None = None,
    ) -> None:  # fmt: skip
        self.backbone, self.checkpoint = backbone, checkpoint
        self.source = Source(backbone, dataset, self._changed)
        own = ", ".join(self.source.labels) if not dataset else ", ".join(dataset.texts)
        wide = ipw.Layout(width="870px")
        self.names = ipw.Text(
            names or own, description="class names", style=STYLE, layout=wide, continuous_update=False
        )
        self.template = ipw.Text(template, description="template", style=STYLE, layout=WIDE, continuous_update=False)
        self.shown = ipw.Dropdown(description="tokens of", style=STYLE, layout=WIDE)
        self.other = ipw.Dropdown(
            options=["(its own)", *self.source.labels], description="motion of", style=STYLE, layout=WIDE
        )
        self.tiles = drawings.Tiles()
        self.live = Live(self._draw)
        self.seen = panels.reference_clips(backbone)
        self._quiet = False
        self._load_model()
        self.names.observe(self._renamed, "value")
        for control in (self.template, self.shown, self.other):
            control.observe(self._moved, "value")
        left, right = self.source.controls, [self.template, self.shown, self.other]
        self.box = ipw.VBox(
            [self.names, ipw.HBox([ipw.VBox(left), ipw.VBox(right)]), self.live.line, self.live.picture]
        )
        self.source.load()
        self.live.refresh()

    def _load_model(self) -> None:
        names = parts.class_names(self.names.value)
        model, static = parts.load(self.backbone, names, self.checkpoint), parts.load_static(self.backbone, names)
        self.model, self.static = model, static
        self._quiet = True
        self.shown.options = names
        self._quiet = False

    def _draw(self) -> Figure:
        other = None if self.other.value == self.other.options[0] else self.source.clip(self.other.value)
        footage = self.source.footage
        return panels.prompt_board(
            self.model, self.static, footage, self.template.value, self.seen, other, self.shown.value, self.tiles
        )

    def _changed(self, error: str) -> None:
        self.live.tell(error) if error else self.live.refresh()

    def _moved(self, _: dict) -> None:
        if not self._quiet:
            self.live.refresh()

    def _renamed(self, _: dict) -> None:
        try:
            self._load_model()
        except Exception as error:
            self.live.tell(one_line(error))
        else:
            self.live.refresh()


def show(explorer: MotionExplorer | PromptExplorer) -> None:
    """Display an explorer; where no kernel runs, its picture as it stands is shown in its place."""
    said = {
        VIEW: {"version_major": 2, "version_minor": 0, "model_id": explorer.box.model_id},
        "text/plain": "an explorer",
    }
    display(said | {"image/png": base64.b64encode(explorer.live.picture.value).decode()}, raw=True)
