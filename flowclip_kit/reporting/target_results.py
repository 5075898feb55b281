"""What a notebook, a terminal and `verify` show of one target: its runs, summary, differences, figures and
verdicts."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowclip_kit import experiments
from flowclip_kit.experiments.catalogue import TARGETS
from flowclip_kit.reporting import claims, stats, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class View:
    """The finished runs of a target, and all that is derived from them.

    runs: tidy table. hits: run key -> (N,) bool, the test videos it names right. about: provenance.
    """

    target: str
    runs: pd.DataFrame
    hits: dict[str, np.ndarray]
    about: dict

    @functools.cached_property
    def tested(self) -> pd.DataFrame:
        """The runs on test videos; those that chose a learning rate (split 0) are left out."""
        return self.runs[self.runs["split"] > 0]

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """Means and both intervals beside the printed values: see `stats.summarise`."""
        return stats.summarise(self.tested, tables.load_paper(self.target), self.hits)

    @functools.cached_property
    def paired(self) -> pd.DataFrame | None:
        """The differences that the paper speaks of, paired by run: see `stats.paired_difference`."""
        there = set(self.tested["variant"])
        asked = self.about.get("compare", TARGETS[self.target].compare)
        pairs = [pair for pair in asked if there.issuperset(pair)]
        found = [stats.paired_difference(self.tested, *pair, hits=self.hits) for pair in pairs]
        return pd.concat(found, ignore_index=True) if found else None

    def table(self) -> str:
        """Measured beside printed, as text."""
        note = experiments.model_note(self.about)
        return tables.text_table(
            tables.measured(self.target, self.summary, experiments.pair_share(self.about), note)
        )

    def differences(self) -> str:
        """The paired differences as text."""
        return (
            "no differences are asked for"
            if self.paired is None
            else tables.text_table(tables.differences(self.paired))
        )

    def controls(self) -> str:
        """Frames shuffled, reversed, one repeated, as text."""
        return tables.text_table(tables.controls(self.summary))

    def verdicts(self, judged: pd.DataFrame | None = None) -> str:
        """What became of the paper's statements about this target, as text: what it judges, and how many
        wait.

        judged: the verdicts of the whole register, where they are at hand (`outputs.judged`); else they are
        made here.
        """
        own = [c for c in claims.register() if c.parts and {part.target for part in c.parts} == {self.target}]
        if judged is None:
            found = claims.measure(
                own, {self.target: self.runs}, self.hits, None, tables.is_demo(self.summary)
            )
        else:
            found = judged[judged["id"].isin([c.id for c in own])]
        waiting = found["verdict"] == "not run"
        said = claims.lines(found[~waiting]) if len(found[~waiting]) else ""
        reasons = found[waiting].groupby("reason", sort=False).size()
        rest = [f"{n} of {len(found)} claims not run: {reason}\n" for reason, n in reasons.items()]
        return "\n".join([said, "".join(rest)]) if rest else said

    def figures(self) -> dict[str, Figure]:
        """The target's figures by file name."""
        from flowclip_kit.reporting import plots

        axis = self.about.get("axis", TARGETS[self.target].axis)
        return plots.figures(self.target, self.summary, self.paired, axis)


def load(target: str, profile: str = "demo", source: str = "recorded", name: str = "") -> View:
    """The view of a target's runs.

    source: "recorded" (the tables in git), "run" (make the runs that are missing, then show them), or a
    folder that holds <profile>/<target>.csv. name: of a call with parameters of its own. Raises InputError when
    there is none.
    """
    return View(target, *experiments.load(target, profile, source, name))
