"""Targets from Python and in notebooks: run one with knobs of your own, and look at what came out.

from flowclip_kit import ablate, run
runs = ablate({"full": {}, "s=6": {"step": 6}}, data="figures-h", k=16, seeds=5, steps=20)
runs.table(), runs.plot(), runs.differences("full"), runs.frame
run("figure3d", s=[1, 2, 6, 7], seeds=5).plot()
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit import experiments
from flowclip_kit.experiments import Experiment, Options, estimates
from flowclip_kit.experiments.catalogue import parameters
from flowclip_kit.experiments.knobs import check
from flowclip_kit.experiments.results_table import by_key
from flowclip_kit.reporting import stats, tables
from flowclip_kit.reporting.target_results import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Parameters of every notebook of a target, beside its knobs.
WHERE = {"profile": "demo", "source": "recorded", "name": "", "data_root": None}


class Study:
    """One call of a target: what it would run (`grid`), and what came out, run when it is first asked for.

    source: "run" (make what is missing), "recorded" (the tables in git; where a knob is not the default's, as
    "run"), or a folder of results (what is not there is made there). data_root, name, options: as on the
    command line. Raises InputError where the call cannot be.
    """

    def __init__(
        self,
        target: str,
        profile: str = "demo",
        source: str = "run",
        name: str = "",
        data_root: str | Path | None = None,
        options: Options | None = None,
        **knobs: Any,
    ) -> None:
        options = options or Options()
        if source not in ("run", "recorded"):
            options = replace(options, results=Path(source).absolute())
        if data_root is not None:
            options = replace(options, data_root=Path(data_root))
        self.options, self.source, self.knobs = options, source, knobs
        self.experiment = Experiment.of(target, profile, options, knobs, name, need=False)

    @property
    def grid(self) -> pd.DataFrame:
        """What the call expands to: one row per cell of the table, with the number of its runs and the
        minutes that one process is expected to take for them; of a recorded table, the runs it has."""
        asked = self.experiment
        if self._is_recorded:
            asked = replace(asked, knobs={**asked.knobs, "seeds": self.view.about["seeds"]})
        return estimates.grid_table(asked)

    @property
    def _is_recorded(self) -> bool:
        return self.source == "recorded" and not self.experiment.changes and not self.experiment.name

    @functools.cached_property
    def view(self) -> View:
        """The finished runs with their summary, differences and figures."""
        asked = self.experiment
        where = asked.target, asked.profile.name, self.source, asked.name
        if self.source != "run" and not asked.changes and not asked.name:
            return View(asked.target, *experiments.load(*where))
        if self.source not in ("run", "recorded") and asked.name:
            try:
                found = View(asked.target, *experiments.load(*where))
            except InputError:
                pass  # not there, or not whole: it is made
            else:
                if found.about.get("parameters") == experiments.own_call(asked)["parameters"]:
                    return found
        return self._made()

    def _made(self) -> View:
        from flowclip_kit.reporting import outputs

        asked = self.experiment
        result = experiments.ensure(
            asked.target, asked.profile.name, self.options, self.knobs, asked.given_name
        )
        if asked.name:
            outputs.write_tables(asked.target, asked.profile.name, result, self.options.results_dir)
        return View(asked.target, result.tidy, by_key(result.hits), result.provenance)

    def check(self) -> None:
        """Raises AssertionError where the results are not those that were asked for: see
        `Experiment.check`."""
        self.experiment.check(self.view.tested)

    @property
    def frame(self) -> pd.DataFrame:
        """The tidy results table: one row per run and metric, values in percent."""
        return self.view.runs

    def table(self):
        """Mean and both intervals of every cell, beside what is printed where the paper has it."""
        return self.view.table()

    def plot(self) -> Figure:
        """The main figure; `figures` has them all by name."""
        return next(iter(self.figures().values()))

    def figures(self) -> dict[str, Figure]:
        return self.view.figures()

    @property
    def reference(self) -> str:
        """See `Experiment.reference`."""
        return self.experiment.reference

    def differences(self, reference: str | None = None):
        """What each row gains over `reference`, paired by run; default: the pairs that the target compares.

        A row without training is what a trained `reference` gains over it.
        """
        if reference is None:
            return self.view.differences()
        rows = list(dict.fromkeys(self.view.tested["variant"]))
        if reference not in rows:
            raise InputError(f"differences({reference!r}): no such row; there are {', '.join(rows)}")
        found = [
            stats.paired_difference(self.view.tested, variant, other, hits=self.view.hits)
            for row in self.experiment.variants if row in rows and row != reference
            for variant, other in [self.experiment.pair(row, reference)]
        ]  # fmt: skip
        if not found:
            raise InputError(f"differences({reference!r}): there is no other row")
        return tables.differences(stats.as_family(pd.concat(found, ignore_index=True)))


def run(target: str, profile: str = "demo", **arguments: Any) -> Study:
    """A target with any of its knobs changed, run: run("figure3d", s=[1, 2, 6, 7], seeds=5).

    `flowclip_kit.knobs(target)` lists them with their defaults; for all other arguments see `Study`.
    """
    study = Study(target, profile, **arguments)
    _ = study.view
    return study


def ablate(
    variants: Mapping[str, Mapping[str, Any]] | Sequence[Any] | None = None,
    data: str | Sequence[str] | None = None,
    profile: str = "demo",
    **arguments: Any,
) -> Study:
    """A grid of your own, run: {row: {field: value}} over the fields of the model and of the training.

    data: the data sets ("folder", with data_root, for videos of your own). Every other knob and argument is
    as for `run("ablation", ...)`; a list makes an axis.
    """
    given = {"variants": variants, "datasets": data}
    return run(
        "ablation",
        profile,
        **{name: value for name, value in given.items() if value is not None},
        **arguments,
    )


def knobs(target: str = "ablation") -> dict[str, Any]:
    """The knobs of a target with their defaults."""
    return parameters(target)


def from_notebook(target: str, namespace: dict[str, Any]) -> Study:
    """The study that the parameters of a notebook ask for. namespace: its globals().

    Raises InputError naming a parameter that the target does not have, which papermill would set all the
    same, or whose value is of the wrong type.
    """
    known = {*WHERE, *parameters(target)}
    given = {name: namespace[name] for name in _set_by(namespace.get("In", ())) | known if name in namespace}
    if given.get("set", set) is not set:
        del namespace["set"]  # else the notebook's own cells would find it instead of Python's
    where = {name: given.pop(name, usual) for name, usual in WHERE.items()}
    for name, value in where.items():
        if not isinstance(value, str | Path) and not (name == "data_root" and value is None):
            raise InputError(f"{name}={value!r:.80}: expected text")
    check(target, given, parameters(target))
    return Study(target, **where, **given)


def _set_by(cells: Sequence[str]) -> set[str]:
    """The names that the parameters cell and the cell that papermill puts after it set."""
    names: set[str] = set()
    for source in cells:
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a cell with magics
            continue
        found = {target.id for node in tree.body if isinstance(node, ast.Assign)
                 for target in node.targets if isinstance(target, ast.Name)}  # fmt: skip
        if source.startswith("# Parameters") or {*WHERE} <= found:
            names |= found
    return names
