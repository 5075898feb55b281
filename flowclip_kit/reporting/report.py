"""One HTML file: findings, verdicts at a glance, every figure; folded, every table, claim and cost.

It needs nothing beside itself and loads nothing.
"""

from __future__ import annotations

import base64
import re
from html import escape

import pandas as pd
from matplotlib.figure import Figure

from flowclip_kit import experiments
from flowclip_kit.experiments import costs as counted
from flowclip_kit.experiments.catalogue import ALL_TARGETS, TARGETS
from flowclip_kit.paths import root
from flowclip_kit.profiles import PROFILES
from flowclip_kit.reporting import claims, costs, findings, plots, tables, target_results
from flowclip_kit.reporting.rendering import CHIPS, Table, chip
from flowclip_kit.reporting.target_results import View

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a }
body { max-width: 78rem; margin: 1.5rem auto; padding: 0 1.2rem }
h1 { line-height: 1.2; margin: 0 } h2 { margin: 2rem 0 .5rem; font-size: 1.25rem } .note { color: #666 }
img { max-width: 100%; height: auto; background: white } .findings li { margin: .2rem 0; max-width: 62rem }
details { border-top: 1px solid #ddd; padding: .35rem 0 } summary { cursor: pointer; font-weight: 600 }
summary .note { font-weight: 400 } details > :not(summary) { margin-left: 1rem }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(27rem, 1fr)); gap: 1rem }
.small figure { margin: 0 } .small figcaption { font-size: 13px; color: #444 }
table { border-collapse: collapse; font-size: 13px }
td, th { text-align: left; vertical-align: top; padding: .2rem .7rem }
table.glance td, table.glance th { border-bottom: 1px solid #e4e4e0; padding: .3rem .8rem .3rem 0 }
"""


def html(profile: str, source: str, verdicts: pd.DataFrame) -> str:
    """The report of all targets of a source that are there. verdicts: of `outputs.judged`."""
    folder = experiments.results_folder(profile, source)
    there = [name for name in ALL_TARGETS if (folder / f"{name}.csv").exists()]
    own = target_results.own_runs(profile, source)
    shown = {name: target_results.load(name, profile, source) for name in there if name in TARGETS}
    demo = any(tables.is_demo(view.summary) for view in [*shown.values(), *own])
    figures: dict[str, dict[str, Figure]] = {name: view.figures() for name, view in shown.items()}
    sections = {name: _target(name, view, figures[name], verdicts) for name, view in shown.items()}
    if "table3" in there:
        counts, paper = counted.read_counts(folder / "table3.csv"), tables.load_paper("table3")
        figures["table3"] = {"table3": costs.figure(counts, paper)}
        sections["table3"] = _costs(counts, paper, figures["table3"])
    parts = [
        f"<h1>flowclip: profile {profile}</h1>",
        f"<p>{escape(PROFILES[profile].about)}."
        + (f" <b>{escape(tables.DEMO_NOTE.capitalize())}.</b>" if demo else "")
        + f'<br><span class="note">{escape(_origin(shown, own, source))}</span></p>',
        f'<div class="findings">{_findings(shown, verdicts, demo)._repr_html_()}</div>',
        "<h2>At a glance</h2>",
        _glance(shown, there, verdicts),
        "<h2>Figures</h2>",
        _small_multiples(there, figures),
        "<h2>Own runs</h2>" if own else "",
        *(_own(view) for view in own),
        "<h2>Details</h2>",
        *(sections[name] for name in there),
        _claims(verdicts),
        _fold("What it cost", _cost(shown | {_title(view): view for view in own})._repr_html_(), "cost"),
        _fold("How to read this", how_to_read(), "how-to-read"),
    ]
    body = "\n".join(filter(None, parts))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>flowclip: {profile}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def how_to_read() -> str:
    """notebooks/how_to_read.md as HTML, without its title; other pages are named, not linked to."""
    from nbconvert.filters import markdown2html

    text = (root() / "notebooks" / "how_to_read.md").read_text(encoding="utf-8")
    alone = re.sub(r"\[([^\]]+)\]\((\w+\.md)\)", r"\1 (notebooks/\2)", text.partition("\n")[2])
    return str(markdown2html(alone))


def _findings(shown: dict[str, View], verdicts: pd.DataFrame, demo: bool) -> findings.Findings:
    """What all claims come to, after the main experiment's own findings where it was run."""
    main = shown["table5"].findings(verdicts)[:3] if "table5" in shown else []
    return findings.Findings([*main, *findings.of_all(verdicts, demo)])


def _origin(shown: dict[str, View], own: list[View], source: str) -> str:
    """Whose runs these are, of which commits, and how long they took."""
    abouts = [view.about for view in [*shown.values(), *own]]
    commits = {dict(map(tuple, software)).get("commit", "") for about in abouts
               for software in about.get("software", ())}  # fmt: skip
    minutes = sum(about["training_seconds"] + about["testing_seconds"] for about in abouts) / 60
    which = "The recorded runs" if source == "recorded" else "Your own runs"
    text = f"{which}: {len(abouts)} targets, {minutes:.0f} core minutes of training and testing"
    return text + (f", commit {', '.join(sorted(commits - {''}))}." if commits - {""} else ".")


def _glance(shown: dict[str, View], there: list[str], verdicts: pd.DataFrame) -> str:
    """A line a target: what it asks, and how many of its claims came to each verdict."""
    by_id = {claim.id: {part.target for part in claim.parts} for claim in claims.register()}
    lines = []
    for name in there:
        own = verdicts[[by_id.get(claim) == {name} for claim in verdicts["id"]]]
        counts = own["verdict"].value_counts()
        chips = " ".join(chip(word, f"{counts[word]} {word}") for word in CHIPS if word in counts)
        title = TARGETS[name].title if name in TARGETS else costs.TITLE
        lines.append(f'<tr><td><a href="#{name}">{escape(title)}</a></td><td>{chips}</td></tr>')
    rest = verdicts[verdicts["kind"] == "audit"]["verdict"].value_counts()
    chips = " ".join(chip(word, f"{rest[word]} {word}") for word in CHIPS if word in rest)
    lines.append(f'<tr><td><a href="#audit">Sums over printed numbers</a></td><td>{chips}</td></tr>')
    return f'<table class="glance">{"".join(lines)}</table>'


def _small_multiples(there: list[str], figures: dict[str, dict[str, Figure]]) -> str:
    """Every target's own figure, small, as a link to its section."""
    cells = []
    for name in there:
        data = base64.b64encode(plots.encoded(figures[name][name], "png", dpi=72)).decode()
        title = TARGETS[name].title if name in TARGETS else costs.TITLE
        picture = f'<img alt="{name}, small" src="data:image/png;base64,{data}">'
        cells.append(
            f'<figure><a href="#{name}">{picture}</a><figcaption>{escape(title)}</figcaption></figure>'
        )
    return f'<div class="small">{"".join(cells)}</div>'


def _target(name: str, view: View, figures: dict[str, Figure], verdicts: pd.DataFrame) -> str:
    title, about = TARGETS[name].title, TARGETS[name].about
    parts: list[Table | None] = [view.table(), view.overall(), view.differences(), view.verdicts(verdicts)]
    shown = [view.findings(verdicts)._repr_html_(), *(_image(figure, alt) for alt, figure in figures.items())]
    return _fold(title, "\n".join([*shown, *(part._repr_html_() for part in parts if part)]), name, about)


def _own(view: View) -> str:
    """A grid of the user's own: what was changed, findings, figures, tables."""
    parts: list[Table | None] = [view.table(), view.overall(), view.differences()]
    shown = [view.findings()._repr_html_(), *(_image(figure, alt) for alt, figure in view.figures().items())]
    changed = ", ".join(f"{name}={value}" for name, value in view.about.get("parameters", {}).items())
    return _fold(
        _title(view), "\n".join([*shown, *(part._repr_html_() for part in parts if part)]), "", changed
    )


def _title(view: View) -> str:
    return f"{view.target}-{view.about.get('name', 'own')}"


def _costs(counts: pd.DataFrame, paper: pd.DataFrame, figures: dict[str, Figure]) -> str:
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in costs.conclusions(counts, paper))
    shown = [f"<ul>{sentences}</ul>", *(_image(figure, name) for name, figure in figures.items())]
    return _fold(costs.TITLE, "\n".join([*shown, costs.table(counts, paper)._repr_html_()]), "table3")


def _claims(verdicts: pd.DataFrame) -> str:
    """A fold for what waits, one for what is inconsistent in print, and one a kind for the rest."""
    waiting = verdicts["verdict"] == claims.NOT_RUN
    inconsistent = verdicts["verdict"] == claims.INCONSISTENT
    folds = [_fold("Every claim, counted", claims.counts_by_verdict(verdicts)._repr_html_(), "verdicts")]
    groups = [("Inconsistent in print", "audit", verdicts[inconsistent])]
    groups += [
        (f"Claims: {kind}", "", rows)
        for kind, rows in verdicts[~waiting & ~inconsistent].groupby("kind", sort=False)
    ]
    groups.append(("What waits for real data or for runs", "", verdicts[waiting]))
    folds += [_fold(f"{title} ({len(rows)})", claims.listing(rows)._repr_html_(), name)
              for title, name, rows in groups
              if len(rows)]  # fmt: skip
    return "\n".join(folds)


def _fold(title: str, inside: str, name: str = "", about: str = "") -> str:
    mark = f' id="{escape(name)}"' if name else ""
    more = f' <span class="note">{escape(about)}</span>' if about else ""
    return f"<details{mark}><summary>{escape(title)}{more}</summary>\n{inside}\n</details>"


def _image(figure: Figure, name: str) -> str:
    data = base64.b64encode(plots.encoded(figure, "svg")).decode()
    return f'<img alt="{escape(name)}" src="data:image/svg+xml;base64,{data}">'


def _cost(shown: dict[str, View]) -> Table:
    """Core minutes of each target's own runs; runs that targets share are in each of them."""
    lines = {}
    for name, view in shown.items():
        about = view.about
        lines[name] = {
            "trainings": str(about["trainings"]),
            "training, core min": f"{about['training_seconds'] / 60:.1f}",
            "test, core min": f"{about['testing_seconds'] / 60:.1f}",
            "peak GiB a process": f"{about['peak_memory_gib']:.1f}",
            "device": ", ".join(about["devices"]),
        }
    frame = pd.DataFrame(lines).T.rename_axis("target")
    frame.attrs["caption"] = "runs that targets share count in each of them"
    return Table.of(frame, notes=frame.attrs["caption"])
