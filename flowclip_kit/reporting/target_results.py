"""What notebooks, pages, terminals and `verify` show of a target: findings, tables, figures, verdicts."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowclip_kit import experiments
from flowclip_kit.experiments import hashed
from flowclip_kit.experiments.catalogue import TARGETS
from flowclip_kit.reporting import claims, findings, stats, tables
from flowclip_kit.reporting.rendering import Folded, Table
from flowclip_kit.rivals import METHODS

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
    def paper(self) -> pd.DataFrame:
        """The printed values to stand beside: see `tables.load_paper`; none for a grid of the user's."""
        printed = tables.load_paper(self.target)
        return printed.iloc[:0] if self.about.get("name") else printed

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """Means and both intervals beside the printed values: see `stats.summarise`."""
        summary = stats.summarise(self.tested, self.paper, self.hits)
        place = {variant: number for number, variant in enumerate(self.about.get("variants", ()))}
        rows = summary["variant"].map(place).fillna(len(place)).argsort(kind="stable")
        return summary.iloc[rows].reset_index(drop=True)

    @functools.cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """(variant, reference) of the differences to show, as far as there are runs of both.

        Those that the call asked for; else those that the target names, and each variant that is in none of
        them against the baseline, or the first trained one where there is no baseline.
        """
        present = tables.variants(self.tested)
        trained = set(self.tested.loc[self.tested["trained_on"] != "", "variant"])
        compare = TARGETS[self.target].compare if self.target in TARGETS else ()
        if "compare" in self.about:
            compare = tuple((variant, reference) for variant, reference in self.about["compare"])
        else:
            first = next((name for name in ("baseline", *present) if name in trained), "")
            known = {*tables.VARIANTS.get(self.target, ()), *itertools.chain(*compare), first}
            compare += tuple((name, first) for name in present if name in trained - known)
        return [pair for pair in dict.fromkeys(compare) if set(pair) <= set(present)]

    @functools.cached_property
    def paired(self) -> pd.DataFrame | None:
        """The differences of `pairs`, run by run, as one family: see `stats.paired_difference` and
        `stats.as_family`; None without any."""
        found = [stats.paired_difference(self.tested, *pair, hits=self.hits) for pair in self.pairs]
        return stats.as_family(pd.concat(found, ignore_index=True)) if found else None

    def findings(self, judged: pd.DataFrame | None = None) -> findings.Findings:
        """A few sentences computed from the numbers. judged: as for `verdicts`."""
        path = hashed.recorded("thumbnails")
        weak = pd.read_csv(path) if tables.is_demo(self.summary) and path.exists() else None
        verdicts = self._own_verdicts(judged)
        return findings.of_target(self.summary, self.paired, verdicts, self.summed_up, weak)

    def table(self) -> Table:
        """Measured beside printed."""
        note = experiments.model_note(self.about)
        shares = experiments.pair_share(self.about)
        return tables.measured(self.summary, self.paper, shares, note, self.others)

    @property
    def others(self) -> list[str]:
        """The rows of methods beside the paper's, which the provenance tells the costs of."""
        return [row for row in self.about.get("methods", ()) if row.startswith(tuple(METHODS))]

    def differences(self) -> Table | None:
        """The paired differences, or None where no two variants are compared."""
        return None if self.paired is None else tables.differences(self.paired)

    @functools.cached_property
    def summed_up(self) -> pd.DataFrame | None:
        """All data sets and k at once, see `stats.overall`; None without a baseline or with one k."""
        trained = self.tested[self.tested["trained_on"] != ""]
        fits = "baseline" in set(trained["variant"]) and trained["k"].nunique() > 1
        if not fits or trained["seed"].nunique() < 2:
            return None
        order = list(dict.fromkeys(self.summary["variant"]))
        return stats.overall(self.tested).sort_values(
            "variant", key=lambda names: names.map(order.index), kind="stable", ignore_index=True
        )

    def overall(self) -> Table | None:
        """Variants over all data sets and k at once, or None (see `summed_up`)."""
        return None if self.summed_up is None else tables.overall(self.summed_up)

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
        if self.about.get("name"):  # a grid of the user's own judges nothing that is printed
            return pd.DataFrame(columns=claims.CLAIMS, dtype=str)
        own = [c for c in claims.register() if c.parts and {part.target for part in c.parts} == {self.target}]
        if judged is not None:
            return judged[judged["id"].isin([claim.id for claim in own])]
        return claims.measure(own, {self.target: self.runs}, self.hits, None, tables.is_demo(self.summary))

    def figures(self) -> dict[str, Figure]:
        """The target's figures by file name."""
        from flowclip_kit.reporting import plots

        return plots.figures(self.target, self.summary, self.paper, self.paired)

    def provenance(self) -> Folded:
        """Data, weights, settings, software and time that the numbers rest on."""
        return Folded("Provenance", json.dumps(self.about, indent=1))


def load(target: str, profile: str = "demo", source: str = "recorded", name: str = "") -> View:
    """The view of a target's runs.

    source: "recorded" (the tables in git), "run" (make the runs that are missing, then show them), or a
    folder that holds <profile>/<target>.csv. name: of a call with parameters of its own, whose table is
    <profile>/<target>-<name>/<target>.csv. Raises InputError when there is none.
    """
    return View(target, *experiments.load(target, profile, source, name))


def own_runs(profile: str, source: str) -> list[View]:
    """The grids of the user's own below a source."""
    return [load(run.target, profile, source, run.name) for run in experiments.own_runs(profile, source)]
