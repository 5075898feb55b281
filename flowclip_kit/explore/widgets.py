"""Controls wired to the panels: what is computed and drawn lies elsewhere and is tested without them.

A control moves, the figure is drawn again from features that were encoded once. Whatever goes wrong on the
way is one line above the figure, which then stays as it was.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as ipw
from IPython.display import display

from flowclip_core.errors import InputError
from flowclip_core.model.motion import pairs
from flowclip_kit.demo import world
from flowclip_kit.explore import checkpoints, clips, drawings, panels
from flowclip_kit.explore.clips import Footage
from flowclip_kit.label_lists import joined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flowclip_core.model.backbone import Backbone
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_kit.datasets.formats import Dataset

WIDE = ipw.Layout(width="430px")
STYLE = {"description_width": "120px"}
ITSELF = "(its own)"
KEPT = 64  # clips whose features are kept: 5 MB each at ViT-B/16's size
VIEW = "application/vnd.jupyter.widget-view+json"


def one_line(error: Exception) -> str:
    """What an error says, in one line; the kind of error where it says nothing of use to a reader by
    itself."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {said}"


class Live:
    """A picture, the line above it, and `refresh`, which draws again or says in that line why not."""

    def __init__(self, draw: Callable[[], Figure]) -> None:
        self.draw = draw
        self.picture = ipw.Image(format="png", layout=ipw.Layout(width="100%", max_width="1080px"))
        self.line = ipw.HTML()
        self.errors: dict[str, str] = {}  # what failed, each until it succeeds

    def refresh(self, *_: object) -> None:
        """Draw again. An error is told and changes nothing else."""
        self.attempt("drawing", self._draw)

    def attempt(self, what: str, act: Callable[[], object]) -> bool:
        """Do it; its error is told beside those of other parts, until doing it again succeeds."""
        self.errors.pop(what, None)
        try:
            act()
        except Exception as error:  # a callback's error would vanish into the log
            self.errors[what] = one_line(error)
        self._tell(
            f'<div role="alert"><b>Not shown:</b> {html.escape(self.error)}</div>' if self.errors else ""
        )
        return what not in self.errors

    @property
    def error(self) -> str:
        """All errors that stand, in one line."""
        return "; ".join(self.errors.values())

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Say what takes a moment, while it does."""
        before = self.line.value
        self._tell(f'<div role="status">{html.escape(doing)} ...</div>')
        try:
            yield
        finally:
            self._tell(before)

    def _draw(self) -> None:
        self.picture.value = drawings.png(self.draw())

    def _tell(self, line: str) -> None:
        self.line.value = line


class Source:
    """Which clip: a class and a number, or a file by path or upload. `footage` is the last one that could be
    read.

    chosen: called with each footage that a control brought, before it is drawn.
    """

    def __init__(
        self,
        backbone: Backbone,
        dataset: Dataset | None,
        live: Live,
        chosen: Callable[[Footage], None] = lambda footage: None,
    ) -> None:
        self.backbone, self.live, self.chosen = backbone, live, chosen
        self.listed = clips.clips_of(dataset) if dataset else None
        self.labels = list(self.listed or map(world.spaced, clips.demo_classes()))
        self.menu = ipw.Dropdown(options=self.labels, description="clip of", style=STYLE, layout=WIDE)
        self.number = ipw.IntSlider(
            0, 0, self._last(), description="clip number", style=STYLE, layout=WIDE, continuous_update=False
        )
        self.path = ipw.Text(
            description="own file, path",
            placeholder="a video file; empty: the clip above",
            style=STYLE,
            layout=WIDE,
            continuous_update=False,
        )
        self.upload = ipw.FileUpload(
            accept="video/*,.avi,.mkv,.mov,.mp4,.webm",
            description="upload a video",
            layout=ipw.Layout(width="200px"),
        )
        self.footage: Footage | None = None
        self._kept: dict[tuple[Path, int], Footage] = {}  # newest last
        self._quiet = False
        for control in (self.menu, self.number, self.path):
            control.observe(self._moved, "value")
        self.upload.observe(self._uploaded, "value")

    @property
    def controls(self) -> list[ipw.Widget]:
        return [self.menu, self.number, self.path, self.upload]

    def clip(self, name: str, number: int = 0) -> Footage:
        """A clip of that class. Raises VideoError where it cannot be read."""
        if self.listed:
            path = self.listed[name][number]
            return self._read(path, f"{name}, {path.name}")
        label = clips.demo_classes()[self.labels.index(name)]
        return self._read(clips.demo_clip(label, number), f"{name}, clip {number}", demo=True)

    def load(self) -> bool:
        """Read what the controls say, and draw; where that fails the line says so, and all else stays as it
        was."""
        return self._show(self._asked)

    def _show(self, find: Callable[[], Footage]) -> bool:
        def take() -> None:
            self.footage = find()
            self.chosen(self.footage)

        if done := self.live.attempt("clip", take):
            self.live.refresh()
        return done

    def _asked(self) -> Footage:
        path = self.path.value.strip()
        return self._read(Path(path).expanduser()) if path else self.clip(self.menu.value, self.number.value)

    def _read(self, path: Path, title: str | None = None, demo: bool = False) -> Footage:
        """Decode and encode a video, unless that was done lately and the file is as it was."""
        key = path, path.stat().st_mtime_ns if path.exists() else 0
        footage = self._kept.pop(key, None)
        if footage is None:
            with self.live.busy(f"reading {path.name}"):
                footage = clips.read(path, self.backbone, title=title, demo=demo)
        self._kept[key] = footage
        if len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept)))
        return footage

    def _last(self) -> int:
        """The highest number of the chosen class's clips."""
        return (len(self.listed[self.menu.value]) if self.listed else world.TEST) - 1

    def _moved(self, change: dict) -> None:
        if self._quiet:
            return
        if change["owner"] is not self.path:
            self._set(self.number, "max", self._last())
            self._set(self.path, "value", "")
        self.load()

    def _uploaded(self, change: dict) -> None:
        def keep() -> Footage:
            (file, *_) = change["new"]
            self._set(self.path, "value", str(clips.save_upload(file["name"], bytes(file["content"]))))
            return self._asked()

        if change["new"]:
            self._show(keep)

    def _set(self, control: ipw.Widget, name: str, value: object) -> None:
        """Change a control without the reaction to a user's change."""
        self._quiet = True
        try:
            setattr(control, name, value)
        finally:
            self._quiet = False


class Explorer:
    """What both explorers have: a source of clips, a picture with its line, and controls that draw it
    again."""

    def __init__(self, backbone: Backbone, dataset: Dataset | None) -> None:
        self.live = Live(self._draw)
        self.source = Source(backbone, dataset, self.live, self._chosen)
        self._quiet = False

    def _draw(self) -> Figure:
        raise NotImplementedError

    def _chosen(self, footage: Footage) -> None:
        """Another clip is there."""

    @property
    def footage(self) -> Footage:
        if self.source.footage is None:
            raise InputError("choose a clip that can be read")
        return self.source.footage

    def _moved(self, _: dict) -> None:
        if not self._quiet:
            self.live.refresh()

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Several controls change, and the drawing follows once, later."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False


class MotionExplorer(Explorer):
    """Sliders for the clip, T, s, range, order and pair over `panels.motion_board`."""

    def __init__(self, model: FlowCLIP, dataset: Dataset | None = None) -> None:
        super().__init__(model.backbone, dataset)
        self.model = model
        most = clips.STORED if model.config.positions == "none" else model.config.frames
        self.frames = ipw.IntSlider(
            model.config.frames, 2, most, description="T, frames", style=STYLE, layout=WIDE
        )
        self.step = ipw.IntSlider(
            model.config.step,
            1,
            model.config.frames - 1,
            description="s, largest step",
            style=STYLE,
            layout=WIDE,
        )
        self.range = ipw.IntRangeSlider(
            value=(0, clips.STORED),
            min=0,
            max=clips.STORED,
            description="start and end",
            style=STYLE,
            layout=WIDE,
        )
        self.order = ipw.ToggleButtons(
            options=list(clips.ORDERS), description="frames are", style={"button_width": "155px"}
        )
        self.pair = ipw.SelectionSlider(
            options=[("0 and 1", (0, 1))], description="pair i and j", style=STYLE, layout=WIDE
        )
        self.board: Figure | None = None
        self._offer_pairs()
        for control in (self.frames, self.step):
            control.observe(self._resized, "value")
        for control in (self.range, self.order, self.pair):
            control.observe(self._moved, "value")
        left, right = self.source.controls, [self.frames, self.step, self.range, self.pair]
        self.box = ipw.VBox(
            [ipw.HBox([ipw.VBox(left), ipw.VBox(right)]), self.order, self.live.line, self.live.picture]
        )
        self.source.load()

    @property
    def view(self) -> panels.View:
        """What the controls say."""
        start, end = self.range.value
        return panels.View(self.frames.value, self.step.value, start, end, self.order.value, self.pair.value)

    def _draw(self) -> Figure:
        self.board = panels.motion_board(self.model, self.footage, self.view, self.board)
        return self.board

    def _resized(self, _: dict) -> None:
        if not self._quiet:
            with self._quietly():
                self.step.max = self.frames.value - 1
                self._offer_pairs()
            self.live.refresh()

    def _offer_pairs(self) -> None:
        found = sorted(pairs(self.frames.value, self.step.value))
        kept = self.pair.value if self.pair.value in found else found[0]
        self.pair.options = [(f"{i} and {j}", (i, j)) for i, j in found]
        self.pair.value = kept


class PromptExplorer(Explorer):
    """Class names, template, clip and another video's motion over `panels.prompt_board`.

    checkpoint, static_checkpoint: see `parts.load` and `parts.load_static`.
    """

    def __init__(
        self,
        backbone: Backbone,
        names: str = "",
        template: str = "a common human action of {}.",
        checkpoint: str | None = None,
        dataset: Dataset | None = None,
        static_checkpoint: str | None = None,
    ) -> None:
        super().__init__(backbone, dataset)
        self.backbone, self.checkpoints = backbone, (checkpoint, static_checkpoint)
        own = joined(dataset.texts if dataset else self.source.labels)
        wide = ipw.Layout(width="870px")
        self.names = ipw.Text(
            names or own, description="class names", style=STYLE, layout=wide, continuous_update=False
        )
        self.template = ipw.Text(
            template, description="template", style=STYLE, layout=WIDE, continuous_update=False
        )
        self.shown = ipw.Dropdown(description="tokens of", style=STYLE, layout=WIDE)
        self.other = ipw.Dropdown(
            options=[ITSELF, *self.source.labels], description="motion of", style=STYLE, layout=WIDE
        )
        self.tiles = drawings.Tiles()
        self.model = self.static = None
        self.own: dict[str, Footage] = {}  # files of one's own, whose motion may be swapped in
        self.seen = {} if dataset else panels.reference_clips(backbone)
        self.live.attempt("class names", self._load_model)
        self.names.observe(self._renamed, "value")
        for control in (self.template, self.shown, self.other):
            control.observe(self._moved, "value")
        left, right = self.source.controls, [self.template, self.shown, self.other]
        self.box = ipw.VBox(
            [self.names, ipw.HBox([ipw.VBox(left), ipw.VBox(right)]), self.live.line, self.live.picture]
        )
        self.source.load()

    def _load_model(self) -> None:
        names, (checkpoint, static) = checkpoints.class_names(self.names.value), self.checkpoints
        model = checkpoints.load(self.backbone, names, checkpoint)
        self.model, self.static = model, checkpoints.load_static(self.backbone, names, checkpoint, static)
        with self._quietly():
            kept = self.shown.value
            self.shown.options = names
            self.shown.value = kept if kept in names else names[0]

    def _chosen(self, footage: Footage) -> None:
        self.seen.pop(footage.title, None)
        self.seen[footage.title] = footage
        if footage.own:
            self.own[footage.title] = footage
            with self._quietly():
                kept = self.other.value
                self.other.options = [ITSELF, *self.source.labels, *self.own]
                self.other.value = kept

    def _draw(self) -> Figure:
        if self.model is None:
            raise InputError("the drawing waits for class names")
        name, other = self.other.value, None
        if name != ITSELF:
            other = self.own[name] if name in self.own else self.source.clip(name)
        return panels.prompt_board(
            self.model,
            self.static,
            self.footage,
            self.template.value,
            self.seen,
            other,
            self.shown.value,
            self.tiles,
        )

    def _renamed(self, _: dict) -> None:
        if self.live.attempt("class names", self._load_model):
            self.live.refresh()


def show(explorer: Explorer) -> None:
    """Display an explorer; where no kernel runs, its picture as it stands is shown in its place."""
    said = {
        VIEW: {"version_major": 2, "version_minor": 0, "model_id": explorer.box.model_id},
        "text/plain": "an explorer",
    }
    if explorer.live.picture.value:
        said["image/png"] = base64.b64encode(explorer.live.picture.value).decode()
    display(said, raw=True)
