"""A table in its four forms: text for terminals, HTML for notebooks and pages, LaTeX, Markdown."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

WIDTH = 100  # characters of a text table's line that a notebook shows without wrapping
COLUMNS = 8  # of an HTML table; with more, each data set gets a table of its own
GAIN, LOSS, OPEN = "#00664a", "#a03c00", "#666666"
# Verdict -> background and text colour of its chip; the chip always carries the word as well.
CHIPS = {
    "reproduced": ("#d5efe4", GAIN),
    "different": ("#fbe0d0", LOSS),
    "undecided": ("#eceae4", "#54504a"),
    "too few seeds": ("#eceae4", "#54504a"),
    "not run": ("#f4f4f2", "#757575"),
    "inconsistent in print": ("#f9e6f0", "#8a2b5f"),
    "settings differ": ("#f4f4f2", "#757575"),
}
CSS = {
    "": "border-collapse: collapse; font-size: 13px; margin: .4em 0 1em",
    "caption": "text-align: left; color: #666; padding-bottom: .5em; max-width: 75em",
    "th, td": "text-align: left; vertical-align: top; white-space: nowrap; padding: .2em .7em .2em 0",
    "th.col_heading": "border-bottom: 1px solid #aaa; font-weight: 600",
    "th.row_heading": "font-weight: 500",
    "td": "font-variant-numeric: tabular-nums",
    "td.wide": "white-space: normal; min-width: 18em",
    "small, .printed": "color: #767676; font-weight: 400",
}


@dataclass(frozen=True)
class Table:
    """Cells as text for a terminal, and the same values laid out for a page.

    text: index (block, row) or row, columns (group, name) or name; or ready text. caption: all its notes, for
    the terminal. notes: those that a page must show too. panels: (cells, CSS of each cell) for a page; in a
    cell a printed value stands in square brackets and a second line in small print. Rows that are only
    numbered have no heads.
    """

    text: pd.DataFrame | str
    caption: str = ""
    notes: str = ""
    panels: Sequence[tuple[pd.DataFrame, pd.DataFrame]] = field(default=())

    @classmethod
    def of(cls, frame: pd.DataFrame, notes: str = "", css: pd.DataFrame | None = None) -> Table:
        """A frame of text cells as it stands; its caption is in attrs["caption"]."""
        css = pd.DataFrame("", frame.index, frame.columns) if css is None else css
        return cls(frame, frame.attrs.get("caption", ""), notes, ((frame, css),))

    def __str__(self) -> str:
        if isinstance(self.text, str):
            return self.text
        text = self.text.copy()
        text.attrs["caption"] = self.caption
        return text_table(text)

    def __repr__(self) -> str:
        return str(self).rstrip("\n")

    def _repr_html_(self) -> str:
        notes = re.sub(r"\n +", " ", self.notes)
        lines = [escape(line) for line in notes.splitlines()]
        head = (
            f'<p style="font-size: 12px; color: #666; margin: 0 0 .6em">{"<br>".join(lines)}</p>'
            if lines
            else ""
        )
        return head + "".join(
            f'<div style="overflow-x: auto">{_styler(*part).to_html()}</div>' for part in self._parts()
        )

    def to_latex(self) -> str:
        """A LaTeX table a panel (booktabs, xcolor), without the intervals over test videos."""
        return "\n".join(
            _escaped(*panel)
            .to_latex(hrules=True, convert_css=True, multicol_align="c")
            .replace("±", r"$\pm$")
            for panel in self.panels
        )

    def to_markdown(self) -> str:
        """A Markdown table a panel, the best value of a column in bold."""
        return "\n".join(_markdown(*panel) for panel in self.panels)

    def _parts(self) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
        """The panels; one with too many columns for a page is cut at its data sets."""
        parts = []
        for shown, css in self.panels:
            if shown.shape[1] <= COLUMNS or shown.columns.nlevels == 1:
                parts.append((shown, css))
                continue
            for block in shown.columns.unique(0):
                at = shown.columns.get_level_values(0) == block
                rows = (shown.loc[:, at] != "").any(axis=1)
                parts.append((shown.loc[rows, at], css.loc[rows, at]))
        return parts


@dataclass(frozen=True)
class Folded:
    """Text that a page shows folded under its title."""

    title: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<details><summary>{escape(self.title)}</summary><pre>{escape(self.text)}</pre></details>"


def chip(verdict: str, text: str = "") -> str:
    """A verdict as a coloured label (HTML). text: what it says, by default the verdict."""
    background, colour = CHIPS[verdict]
    colours, shape = f"background: {background}; color: {colour}", "border-radius: .7em; padding: .05em .6em"
    return f'<span style="{colours}; {shape}; white-space: nowrap">{escape(text or verdict)}</span>'


def text_table(frame: pd.DataFrame) -> str:
    """A frame of text cells as fixed-width text: caption, then one block of rows per first index level.

    A group of columns (first column level, or each column where there is one level) that would make lines
    wrap in a notebook goes below the others. Unlike a DataFrame's own repr this does not change with the
    pandas version, so a notebook's output can be checked.
    """
    parts = [frame.attrs["caption"]] if frame.attrs.get("caption") else []
    if frame.index.nlevels == 1:
        parts.append(_folded(frame))
    else:
        for name in frame.index.get_level_values(0).unique():
            rows = frame.loc[name]
            parts.append(f"{name}\n{_folded(rows.loc[:, (rows != '').any()])}")
    return "\n\n".join(parts) + "\n"


def _styler(shown: pd.DataFrame, css: pd.DataFrame) -> Styler:
    from pandas.io.formats.style import Styler

    # A name from the content instead of a random one: the same table gives the same bytes.
    digest = hashlib.sha256(shown.to_json(orient="split").encode()).hexdigest()[:8]
    styler = Styler(shown.rename_axis(index=[None] * shown.index.nlevels), uuid=digest, cell_ids=False).apply(
        lambda _: css, axis=None
    )
    wide = pd.DataFrame("", shown.index, shown.columns).where(shown.map(len) < 60, "wide")
    styler = styler.hide() if isinstance(shown.index, pd.RangeIndex) else styler
    styler = styler.format(_markup).set_td_classes(wide)
    for axis in (0, 1):
        styler = styler.format_index(lambda label: escape(str(label)), axis=axis)
    return styler.set_table_styles([{"selector": name, "props": props} for name, props in CSS.items()])


def _escaped(shown: pd.DataFrame, css: pd.DataFrame) -> Styler:
    """For LaTeX: the first line of each cell."""
    lines = shown.map(lambda cell: cell.partition("\n")[0])
    styler = lines.style.hide() if isinstance(shown.index, pd.RangeIndex) else lines.style
    styler = styler.apply(lambda _: css, axis=None).format(escape="latex")
    return styler.format_index(escape="latex").format_index(escape="latex", axis=1)


def _markup(cell: str) -> str:
    if cell in CHIPS:
        return chip(cell)
    first, *small = escape(cell).split("\n")
    first = re.sub(r"(\[[\d. ±]+\])", r'<span class="printed">\1</span>', first)
    return first + "".join(f"<br><small>{line}</small>" for line in small)


def _markdown(shown: pd.DataFrame, css: pd.DataFrame) -> str:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", r"\|").replace("\n", "; ") for cell in cells) + " |"

    heads = [" ".join(name) if isinstance(name, tuple) else name for name in shown.columns]
    cells = shown.mask(css.map(lambda style: "bold" in style), shown.map("**{}**".format))
    if not isinstance(shown.index, pd.RangeIndex):
        cells = cells.reset_index()
        heads = [*(name or "" for name in shown.index.names), *heads]
    return (
        "\n".join([line(heads), "|" + " --- |" * len(heads), *map(line, cells.itertuples(index=False))])
        + "\n"
    )


def _folded(frame: pd.DataFrame) -> str:
    groups = [name[0] if isinstance(name, tuple) else name for name in frame.columns]
    parts: list[list[int]] = [[]]
    for _, members in itertools.groupby(range(len(groups)), key=groups.__getitem__):
        group = list(members)
        wider = parts[-1] + group
        if parts[-1] and max(map(len, unfolded(frame.iloc[:, wider]).splitlines())) > WIDTH:
            parts.append(group)
        else:
            parts[-1] = wider
    return "\n\n".join(unfolded(frame.iloc[:, part]) for part in parts)


def unfolded(frame: pd.DataFrame) -> str:
    """Left-aligned columns; with two levels of them, a line above the header names each group."""
    heads = [name if isinstance(name, tuple) else ("", name) for name in frame.columns]
    columns = [[head[1], *frame.iloc[:, i]] for i, head in enumerate(heads)]
    columns = [[frame.index.names[-1] or "", *frame.index], *columns]
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    above, end = " " * widths[0], 0
    for group, members in itertools.groupby(head[0] for head in heads):
        start, end = end, end + len(list(members))
        room = sum(widths[1 + start : 1 + end]) + 2 * (end - start - 1)
        widths[end] += max(0, len(group) - room)  # a long group name widens its last column
        above += "  " + group.ljust(room)
    lines = []
    for row in zip(*columns, strict=True):
        cells = (str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    head = [*([above.rstrip()] if above.strip() else []), lines[0]]
    rule = "-" * max(map(len, [*head, *lines]))
    return "\n".join([*head, rule, *lines[1:]])
