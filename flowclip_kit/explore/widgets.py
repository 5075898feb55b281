"""The explorers: controls, and panels that follow them.

A control moves, and the panels whose inputs changed are drawn again from features that were encoded once.
Whatever goes wrong on the way is one line above the panels, which then stay as they were.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as ipw
import numpy as np

from flowclip_core.errors import InputError
from flowclip_core.model.motion import pairs
from flowclip_kit.class_texts import joined
from flowclip_kit.demo import world
from flowclip_kit.explore import checkpoints, clips, drawings, motion, one_clip, prompts
from flowclip_kit.explore.clips import Footage
from flowclip_kit.explore.memory import key_of

if TYPE_CHECKING:
    from flowclip_core.model.backbone import Backbone
    from flowclip_core.model.flowclip import FlowCLIP
    from flowclip_kit.datasets.formats import Dataset

ITSELF = "(its own)"
KEPT = 64  # clips whose features are kept: 5 MB each at the size of ViT-B/16
ROWS, COLUMNS = 18, 20  # of the heat map, at most


def control(kind: type, label: str, width: int = 330, **settings: Any) -> Any:
    """A labelled control of the left column; text and number fields report when typing or dragging ends."""
    if kind in (ipw.Text, ipw.Textarea):
        settings["continuous_update"] = False
    return kind(
        description=label,
        style={"description_width": "90px"},
        layout=ipw.Layout(width=f"{width}px"),
        **settings,
    )


def side_by_side(left: list[ipw.Widget], right: list[ipw.Widget]) -> ipw.HBox:
    """Controls as wide as they are, and beside them what they change in the width that is left."""
    controls = ipw.VBox(left, layout=ipw.Layout(flex="0 0 auto"))
    return ipw.HBox([controls, ipw.VBox(right, layout=ipw.Layout(flex="1 1 0", min_width="0"))])


def one_line(error: Exception) -> str:
    """What an error says, in one line; with its type where the message alone may not help a reader."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"


def caption(model: FlowCLIP, footage: Footage) -> str:
    """Which clip, and what its scores may mean."""
    title = drawings.cut(footage.title, 40)
    return f"<b>{html.escape(title)}</b>: {html.escape(checkpoints.about(model, footage.demo))}"


class Explorer:
    """What both explorers share: the choice of a clip, the panels, and the line for what went wrong.

    footage: the last clip that could be read.
    """

    def __init__(self, backbone: Backbone, dataset: Dataset | None, panels: dict[str, type]) -> None:
        self.backbone = backbone
        self.listed = clips.clips_of(dataset) if dataset else None
        self.labels = list(self.listed or map(world.spaced, world.CLASSES["figures-h"]))
        self.own: dict[str, Path] = {}  # files of the user's own, by their name in the drop-down
        self.footage: Footage | None = None
        self.menu = control(ipw.Dropdown, "clip of", options=self.labels)
        self.number = control(ipw.IntSlider, "clip number", min=0, max=self._last_number())
        self.path = control(ipw.Text, "own file", placeholder="path of a video; Enter adds it to the list")
        self.upload = ipw.FileUpload(
            accept="video/*,.avi,.mkv,.mov,.mp4,.webm",
            description="upload a video",
            layout=ipw.Layout(width="226px", margin="2px 2px 2px 98px"),
        )
        self.preview = ipw.HTML(layout=ipw.Layout(margin="4px 2px 2px 98px"))
        self.title, self.line = ipw.HTML(), ipw.HTML()
        self.panels = {name: kind() for name, kind in panels.items()}
        self.errors: dict[str, str] = {}  # what failed, each until it succeeds
        self._drawn: dict[str, Any] = {}  # what each panel shows
        self._read: dict[tuple[Path, int], Footage] = {}  # newest last
        self._quiet = False
        self.menu.observe(self._clip_chosen, "value")
        self.number.observe(self._clip_chosen, "value")
        self.path.observe(self._path_given, "value")
        self.upload.observe(self._uploaded, "value")

    def draw(self) -> None:
        """Bring every panel up to date."""
        raise NotImplementedError

    def show(self, name: str, drawing: Callable[..., Any], *inputs: Any) -> None:
        """Let a panel show `drawing(*inputs)`, unless it does."""
        key = key_of(inputs)
        if self._drawn.get(name) != key:
            self.panels[name].value = drawings.rendered(drawing(*inputs))
            self._drawn[name] = key

    def redraw(self, *_: object) -> None:
        """Draw; an error is told and changes nothing else."""
        if not self._quiet:
            self.attempt("drawing", self.draw)

    def attempt(self, what: str, act: Callable[[], object]) -> bool:
        """Do it; its error is told beside the other ones, until doing it again succeeds."""
        self.errors.pop(what, None)
        try:
            act()
        except Exception as error:  # a callback's error would vanish into the log
            self.errors[what] = one_line(error)
        text = html.escape("; ".join(self.errors.values()))
        self.line.value = f'<div role="alert"><b>Not shown:</b> {text}</div>' if text else ""
        return what not in self.errors

    @property
    def error(self) -> str:
        """All errors that stand, in one line."""
        return "; ".join(self.errors.values())

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Controls change each other without a reaction to each change."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def clip(self, name: str, number: int = 0) -> Footage:
        """A clip of that class, or the file of one's own. Raises VideoError where it cannot be read."""
        if name in self.own:
            return self.read(self.own[name])
        if self.listed:
            path = self.listed[name][number]
            return self.read(path, f"{name}, {path.name}", name)
        label = list(world.CLASSES["figures-h"])[self.labels.index(name)]
        return self.read(clips.demo_clip(label, number), f"{name}, clip {number}", name, demo=True)

    def read(self, path: Path, title: str | None = None, label: str = "", demo: bool = False) -> Footage:
        """Decode and encode a video, unless that was done lately and the file is as it was."""
        key = path, path.stat().st_mtime_ns if path.exists() else 0
        footage = self._read.pop(key, None)
        if footage is None:
            before = self.line.value
            self.line.value = f'<div role="status">reading {html.escape(path.name)} ...</div>'
            try:
                footage = clips.read(path, self.backbone, title, label, demo)
            finally:
                self.line.value = before
        self._read[key] = footage
        if len(self._read) > KEPT:
            self._read.pop(next(iter(self._read)))
        return footage

    def open(self, footage: Footage) -> None:
        """Take a clip, and show which: its title, what its scores may mean, and a preview that plays."""
        self.footage = footage
        self.preview.value = drawings.preview(footage.pictures)

    def _last_number(self) -> int:
        name = self.menu.value
        return 0 if name in self.own else len(self.listed[name]) - 1 if self.listed else world.TEST - 1

    def load(self) -> None:
        """Read the clip that the controls name, and draw it."""
        if self.attempt("clip", lambda: self.open(self.clip(self.menu.value, self.number.value))):
            self.redraw()

    def _clip_chosen(self, _: object) -> None:
        if not self._quiet:
            with self.quietly():
                self.number.max = self._last_number()
            self.load()

    def _add(self, path: Path) -> None:
        """Read a file of one's own, and put its name into the drop-down, chosen."""
        self.open(self.read(path))
        name = f"own: {path.name}"
        self.own[name] = path
        with self.quietly():
            self.offer_own()
            self.menu.value, self.path.value = name, ""
            self.number.max = 0

    def offer_own(self) -> None:
        """Put files of one's own into the lists of clips."""
        chosen = self.menu.value
        self.menu.options = [*self.labels, *self.own]
        self.menu.value = chosen

    def _path_given(self, change: dict) -> None:
        path = change["new"].strip()
        if path and not self._quiet and self.attempt("clip", lambda: self._add(Path(path).expanduser())):
            self.redraw()
        elif not path and not self._quiet:
            self.load()

    def _uploaded(self, change: dict) -> None:
        for file in change["new"]:

            def keep(file: dict = file) -> None:
                self._add(clips.save_upload(file["name"], bytes(file["content"])))

            if self.attempt("clip", keep):
                self.redraw()


class MotionExplorer(Explorer):
    """Sliders for the clip, T, s, range, order and pair; frames, scores and differences follow."""

    def __init__(self, model: FlowCLIP, dataset: Dataset | None = None) -> None:
        images = dict.fromkeys(("frames", "sizes", "time", "arrows"), ipw.Image)
        super().__init__(model.backbone, dataset, {**images, "scores": ipw.HTML})
        self.model = model
        frames, step = model.config.frames, model.config.step
        most = clips.STORED if model.config.positions == "none" else frames
        self.frames = control(ipw.IntSlider, "T, frames", value=frames, min=2, max=most)
        self.step = control(ipw.IntSlider, "s, step", value=step, min=1, max=frames - 1)
        self.range = control(ipw.IntRangeSlider, "start, end", value=(0, clips.STORED), max=clips.STORED)
        self.pair = control(ipw.SelectionSlider, "pair i, j", options=[("0 and 1", (0, 1))])
        self.order = ipw.ToggleButtons(
            options=list(clips.ORDERS), description="frames are", style={"button_width": "128px"}
        )
        self._offer_pairs()
        for slider in (self.frames, self.step):
            slider.observe(self._resized, "value")
        for other in (self.range, self.order, self.pair):
            other.observe(self.redraw, "value")
        left = [self.menu, self.number, self.path, self.upload, self.frames, self.step, self.range, self.pair]
        right = [self.title, self.order, self.panels["frames"], self.panels["scores"]]
        below = [self.panels[name] for name in ("sizes", "time", "arrows")]
        top = side_by_side([*left, self.preview], right)
        self.box = ipw.VBox([self.line, top, ipw.HBox(below)])
        if not dataset and (footage := motion.telling_clip(model)):
            with self.quietly():
                self.menu.value = footage.label
        self.load()

    def draw(self) -> None:
        if self.footage is None:
            raise InputError("choose a clip that can be read")
        footage, frames, step, order = self.footage, self.frames.value, self.step.value, self.order.value
        start, end = self.range.value
        forward = footage.features[clips.choose(frames, start, end)]
        picked = clips.choose(frames, start, end, order)
        features = footage.features[picked]
        scores, moved = motion.by_order(self.model, footage, frames, step, start, end)
        directions, shares = motion.plane(forward, step)
        reach = 1.15 * drawings.scale_of(
            np.ptp(forward @ directions, axis=0).max()
        )  # holds them in any order
        differences = motion.pair_table(features, step, directions)
        self.title.value = caption(self.model, footage)
        places = one_clip.places(footage, picked)
        self.show("frames", drawings.strip, footage.pictures[picked], places, self.pair.value)
        self.show("scores", self._scores, scores, moved, footage.label, order)
        inside = motion.inside(frames, step)
        self.show("sizes", drawings.size_map, motion.sizes(features), inside, self.pair.value)
        self.show("time", drawings.over_time, differences)
        self.show("arrows", drawings.arrows, differences, shares, reach, self.pair.value)

    @staticmethod
    def _scores(scores, moved, true: str, order: str) -> str:
        """Class scores for every order of the frames, and how far V moves, the chosen order marked."""
        top = drawings.top_classes(scores, 8, true).T
        by_order = drawings.score_table(top, "class scores by order of the frames", [order])
        row = moved.to_frame("how far V moves, |V - V in order|").T.style.format("{:.2f}")
        return drawings.rendered(by_order) + drawings.rendered(row.set_table_styles(drawings.CELLS))

    def _resized(self, _: object) -> None:
        if not self._quiet:
            with self.quietly():
                self.step.max = self.frames.value - 1
                self._offer_pairs()
            self.redraw()

    def _offer_pairs(self) -> None:
        offered = sorted(pairs(self.frames.value, self.step.value))
        chosen = self.pair.value if self.pair.value in offered else offered[0]
        self.pair.options = [(f"{i} and {j}", (i, j)) for i, j in offered]
        self.pair.value = chosen


class PromptExplorer(Explorer):
    """Class names, template, clip and another video's motion; scores, tokens, words, tree and map follow.

    checkpoint, static_checkpoint: see `checkpoints.load` and `checkpoints.load_static`.
    model, static: what these give, once there are class names.
    """

    model: FlowCLIP | None = None
    static: FlowCLIP | None = None

    def __init__(
        self,
        backbone: Backbone,
        names: str = "",
        template: str = "a common human action of {}.",
        checkpoint: str | None = None,
        dataset: Dataset | None = None,
        static_checkpoint: str | None = None,
    ) -> None:
        names_of_panels = "scores", "tokens", "words", "tree", "heat"
        super().__init__(backbone, dataset, dict.fromkeys(names_of_panels, ipw.HTML))
        self.checkpoints = checkpoint, static_checkpoint
        names = names or joined(dataset.texts if dataset else self.labels)
        self.names = control(ipw.Text, "class names", 960, value=names)
        self.template = control(ipw.Text, "template", value=template)
        self.shown = control(ipw.Dropdown, "tokens of")
        self.other = control(ipw.Dropdown, "motion of", options=[ITSELF, *self.labels])
        self.seen: dict[str, Footage] = {}  # the clips of the heat map, newest last
        self.names.observe(self._renamed, "value")
        for other in (self.template, self.shown, self.other):
            other.observe(self.redraw, "value")
        left = [self.template, self.shown, self.menu, self.number, self.path, self.upload, self.other]
        right = [self.title, self.panels["scores"], self.panels["tokens"], self.panels["words"]]
        top = side_by_side([*left, self.preview], right)
        self.box = ipw.VBox([self.line, self.names, top, self.panels["tree"], self.panels["heat"]])
        if (
            self.attempt("class names", self._load_model)
            and self.model is not None
            and not dataset
            and backbone.name == checkpoints.TINY
        ):
            for label in self.labels:  # what the heat map compares with: only the embedded model is so quick
                self.seen[f"{label}, clip 1"] = self.clip(label, 1)
            if footage := motion.telling_clip(self.model):
                with self.quietly():
                    self.menu.value = footage.label
        self.load()

    def _load_model(self) -> None:
        names, (checkpoint, static) = checkpoints.class_names(self.names.value), self.checkpoints
        model = checkpoints.load(self.backbone, names, checkpoint)
        self.model, self.static = model, checkpoints.load_static(self.backbone, names, checkpoint, static)
        with self.quietly():
            chosen = self.shown.value
            self.shown.options = names
            self.shown.value = chosen if chosen in names else names[0]

    def open(self, footage: Footage) -> None:
        super().open(footage)
        self.seen.pop(footage.title, None)
        self.seen[footage.title] = footage

    def offer_own(self) -> None:
        super().offer_own()
        chosen = self.other.value
        self.other.options = [ITSELF, *self.labels, *self.own]
        self.other.value = chosen

    def _renamed(self, _: object) -> None:
        if self.attempt("class names", self._load_model):
            self.redraw()

    def draw(self) -> None:
        if self.model is None:
            raise InputError("the drawing waits for class names")
        if self.footage is None:
            raise InputError("choose a clip that can be read")
        model, footage, template = self.model, self.footage, self.template.value
        vectors = prompts.vectors_of(model)
        names = list(model.class_texts)
        filled = prompts.fill(template, names)
        other = None if self.other.value == ITSELF else self.clip(self.other.value)
        steering = other or footage
        features, steer = motion.middle_frames(model, footage), motion.middle_frames(model, steering)
        scores = prompts.side_by_side(
            model, self.static, features, template, None if other is None else steer
        )
        steer_motion = prompts.motion_of(model, steer)

        unseen = prompts.unseen(self.backbone, (*names, *filled))
        note = f"; never seen by the embedded model: {', '.join(unseen)}" if unseen else ""
        self.title.value = caption(model, footage) + html.escape(drawings.cut(note, 160))
        self.show("scores", self._scores, scores, footage.label)
        tokens = prompts.tokens(self.backbone, filled[names.index(self.shown.value)])
        self.show("tokens", drawings.token_boxes, tokens, "the text tower gets")
        about = prompts.about_shift(vectors, prompts.shift(model, steer_motion))
        heading = (
            f"nearest words of the prompt vectors (cosine); the shift is by the motion of {steering.title}"
        )
        self.show("words", self._words, prompts.nearest_words(model, steer_motion), heading, about)
        tree = prompts.tree(self.backbone, tuple(names), len(vectors))
        self.show("tree", drawings.text_box, tree, "prompt tree: every branch is encoded once")

        chosen = {**self.seen, steering.title: steering, footage.title: footage}
        rows = [title for title in chosen if title not in (steering.title, footage.title)][-ROWS + 2 :]
        rows = list(dict.fromkeys([*rows, steering.title, footage.title]))
        motions = [prompts.motion_of(model, motion.middle_frames(model, chosen[title])) for title in rows]
        moved = np.stack([prompts.moved_texts(model, vector) for vector in motions])
        most = np.sort((-moved.max(0)).argsort(kind="stable")[:COLUMNS])
        title = "how far the motion of each video moves each class text: 1 - cosine"
        title += f" (the {COLUMNS} of {len(names)} that move most)" if len(names) > COLUMNS else ""
        signs = {steering.title: "▷", footage.title: "▶"}
        columns = [names[i] for i in most]
        self.show("heat", drawings.heat, moved[:, most], drawings.marks(rows, signs), columns, title)

    @staticmethod
    def _scores(scores, true: str):
        return drawings.score_table(drawings.top_classes(scores, 6, true), "class scores by kind of prompt")

    @staticmethod
    def _words(table, caption: str, about: str) -> str:
        return drawings.rendered(drawings.text_table(table, caption)) + f"<small>{html.escape(about)}</small>"
