"""What a notebook, a page, a terminal and `verify` show of one target: findings, tables, figures, verdicts."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowclip_kit import experiments
from flowclip_kit.experiments.catalogue import TARGETS
from flowclip_kit.reporting import claims, findings, stats, tables
from flowclip_kit.reporting.rendering import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class View:
    """The finished runs of a target, and all that is derived from them; any grid will do.

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
    def pairs(self) -> list[tuple[str, str]]:
        """(variant, reference) of the differences to show: those that the paper speaks of, then each variant of
        one's own against the baseline, or else against the first trained variant."""
        trained = set(self.tested.loc[self.tested["trained_on"] != "", "variant"])
        present = tables.variants(self.tested)
        pairs = [pair for pair in self._compared if set(pair) <= set(present)]
        known = tables.VARIANTS.get(self.target, ())
        first = "baseline" if "baseline" in trained else next((name for name in present if name in trained), "")
        own = [name for name in present if name in trained and name not in known and name != first]
        return pairs + [(name, first) for name in own]

    @property
    def _compared(self) -> tuple[tuple[str, str], ...]:
        return TARGETS[self.target].compare if self.target in TARGETS else ()

    @functools.cached_property
    def paired(self) -> pd.DataFrame | None:
        """The differences of `pairs`, run by run: see `stats.paired_difference`; None where there are none."""
        found = [stats.paired_difference(self.tested, *pair, hits=self.hits) for pair in self.pairs]
        return pd.concat(found, ignore_index=True) if found else None

    def findings(self, judged: pd.DataFrame | None = None) -> findings.Findings:
        """Two to four sentences computed from the numbers. judged: as for `verdicts`."""
        return findings.of_target(self.summary, self.paired, self._own_verdicts(judged))

    def table(self) -> Table:
        """Measured beside printed."""
        note = experiments.model_note(self.about)
        return tables.measured(self.target, self.summary, experiments.pair_share(self.about), note)

    def differences(self) -> Table | None:
        """The paired differences, or None where no two variants are compared."""
        return None if self.paired is None else tables.differences(self.paired)

    def controls(self) -> Table:
        """Frames shuffled, reversed, one repeated."""
        return tables.controls(self.summary)

    def verdicts(self, judged: pd.DataFrame | None = None) -> Table:
        """What became of the paper's statements about this target, and how many wait.

        judged: the verdicts of the whole register, where they are at hand (`outputs.judged`); else they are
        made here.
        """
        verdicts = self._own_verdicts(judged)
        waiting = verdicts["verdict"] == claims.NOT_RUN
        reasons = verdicts[waiting].groupby("reason", sort=False).size()
        notes = [f"{n} of {len(verdicts)} claims not run: {reason}" for reason, n in reasons.items()]
        return claims.lines(verdicts[~waiting], notes)

    def _own_verdicts(self, judged: pd.DataFrame | None = None) -> pd.DataFrame:
        own = [c for c in claims.register() if c.parts and {part.target for part in c.parts} == {self.target}]
        if judged is not None:
            return judged[judged["id"].isin([claim.id for claim in own])]
        return claims.measure(own, {self.target: self.runs}, self.hits, None, tables.is_demo(self.summary))

    def figures(self) -> dict[str, Figure]:
        """The target's figures by file name."""
        from flowclip_kit.reporting import plots

        return plots.figures(self.target, self.summary, self.paired)


def load(target: str, profile: str = "demo", source: str = "recorded") -> View:
    """The view of a target's runs.

    source: "recorded" (the tables in git), "run" (make the runs that are missing, then show them), or a
    folder that holds <profile>/<target>.csv. Raises InputError when there is none.
    """
    return View(target, *experiments.load(target, profile, source))
