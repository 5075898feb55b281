"""One HTML file with every table, figure, verdict and cost of a profile; it needs nothing beside itself."""

from __future__ import annotations

import base64
import html as markup

import pandas as pd
from matplotlib.figure import Figure

from flowclip_core.errors import InputError
from flowclip_kit import experiments
from flowclip_kit.experiments import costs as counted
from flowclip_kit.experiments.catalogue import ALL_TARGETS, TARGETS
from flowclip_kit.profiles import PROFILES
from flowclip_kit.reporting import claims, costs, plots, tables, target_results

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color:
#1a1a1a } h1, h2 { line-height: 1.2 } h2 { margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem }
pre { font-size: 12.5px; line-height: 1.35; overflow-x: auto; background: #f7f7f5; padding: .8rem }
img { max-width: 100%; height: auto } nav a { margin-right: 1rem } .note { color: #555 }
table { border-collapse: collapse; font-size: 14px } td, th { text-align: left; vertical-align: top }
td, th { padding: .3rem .6rem; border-bottom: 1px solid #ddd }
.reproduced { color: #00664a } .different { color: #a03c00 }
"""


def html(profile: str, source: str, verdicts: pd.DataFrame) -> str:
    """The report of all targets of a source that are there. verdicts: of `outputs.judged`.

    Raises InputError when there is not one table.
    """
    folder = experiments.results_folder(profile, source)
    there = [name for name in ALL_TARGETS if (folder / f"{name}.csv").exists()]
    if not there:
        raise InputError(f"{folder}: no tables of profile {profile}; make them with ./reproduce.sh all")
    shown = {name: target_results.load(name, profile, source) for name in there if name in TARGETS}
    demo = any(tables.is_demo(one.summary) for one in shown.values())
    parts = [
        f"<h1>flowclip: profile {profile}</h1>",
        f"<p>{markup.escape(PROFILES[profile].about)}.</p>",
        f"<p class=note>{markup.escape(tables.DEMO_NOTE[:1].upper() + tables.DEMO_NOTE[1:])}.</p>"
        if demo
        else "",
        "<nav>"
        + "".join(f'<a href="#{name}">{name}</a>' for name in (*there, "verdicts", "cost"))
        + "</nav>",
        "<h2>Verdicts at a glance</h2>",
        _pre(claims.counts_by_verdict(verdicts)),
    ]
    for name in there:
        if name in shown:
            one = shown[name]
            parts.append(f'<h2 id="{name}">{markup.escape(TARGETS[name].title)}</h2>')
            parts.append(
                f"<p>{markup.escape(TARGETS[name].about[:1].upper() + TARGETS[name].about[1:])}.</p>"
            )
            parts.append(_pre(one.table()))
            parts += [_image(figure, figure_name) for figure_name, figure in one.figures().items()]
            if one.paired is not None:
                parts.append(_pre(one.differences()))
            parts.append(_pre(one.verdicts(verdicts)))
        else:
            found, paper = counted.read_counts(folder / f"{name}.csv"), tables.load_paper(name)
            parts.append(f'<h2 id="{name}">{costs.TITLE}</h2>')
            parts.append(_pre(tables.text_table(costs.table(found, paper))))
            parts.append(_image(costs.figure(found, paper), name))
            parts.append(
                "<ul>"
                + "".join(f"<li>{markup.escape(s)}</li>" for s in costs.conclusions(found, paper))
                + "</ul>"
            )
    parts += ['<h2 id="verdicts">Every claim</h2>', _claims(verdicts)]
    parts += ['<h2 id="cost">What it cost</h2>', _pre(_cost(shown))]
    body = "\n".join(filter(None, parts))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>flowclip: {profile}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _pre(text: str) -> str:
    return f"<pre>{markup.escape(text.rstrip())}</pre>"


def _image(figure: Figure, name: str) -> str:
    data = base64.b64encode(plots.encoded(figure, "svg")).decode()
    return f'<img alt="{markup.escape(name)}" src="data:image/svg+xml;base64,{data}">'


def _claims(verdicts: pd.DataFrame) -> str:
    """One block a kind, judged claims first; what could not be run is folded away."""
    blocks = []
    for kind, rows in verdicts.groupby("kind", sort=False):
        waiting = rows["verdict"] == "not run"
        if (~waiting).any():
            blocks.append(f"<h3>{kind}</h3>{_rows(rows[~waiting])}")
        if waiting.any():
            blocks.append(
                f"<details><summary>{kind}: {waiting.sum()} not run</summary>{_rows(rows[waiting])}</details>"
            )
    return "\n".join(blocks)


def _rows(rows: pd.DataFrame) -> str:
    lines = ["<tr><th>place<th>claim<th>printed<th>verdict<th>why</tr>"]
    for row in rows.itertuples():
        cells = [row.place, row.statement, row.printed, row.verdict, row.reason]
        marks = ["", "", "", f' class="{row.verdict.split()[0]}"', ""]
        lines.append(
            "<tr>"
            + "".join(f"<td{m}>{markup.escape(c)}" for c, m in zip(cells, marks, strict=True))
            + "</tr>"
        )
    return f"<table>{''.join(lines)}</table>"


def _cost(shown: dict[str, target_results.View]) -> str:
    """Core minutes of each target's own runs; runs that targets share are in each of them."""
    lines = {}
    for name, one in shown.items():
        about = one.about
        lines[name] = {
            "trainings": str(about["trainings"]),
            "training, core min": f"{about['training_seconds'] / 60:.1f}",
            "test, core min": f"{about['testing_seconds'] / 60:.1f}",
            "peak GiB a process": f"{about['peak_memory_gib']:.1f}",
            "device": ", ".join(about["devices"]),
        }
    frame = pd.DataFrame(lines).T
    frame.index.name = "target"
    frame.attrs["caption"] = "runs that targets share count in each of them"
    return tables.text_table(frame)
