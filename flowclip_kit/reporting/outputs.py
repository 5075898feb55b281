"""The files of a target: tidy CSV, summary, figures, executed notebook; their recorded copies, and their
check."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_core.files import sha256, write_atomically
from flowclip_core.model import hub
from flowclip_kit import environment, experiments, readme_parts
from flowclip_kit.distributed.locks import Lock
from flowclip_kit.experiments import Result, estimates, hashed, model_card, provenance_json, sealed
from flowclip_kit.experiments.catalogue import ALL_TARGETS, PAPER_TARGETS, TARGETS
from flowclip_kit.experiments.records import read_record
from flowclip_kit.experiments.rerun import ROUNDING
from flowclip_kit.experiments.results_table import by_key, hits_csv, save_tidy, tidy_csv
from flowclip_kit.paths import root
from flowclip_kit.profiles import PROFILES
from flowclip_kit.reporting import tables, target_results
from flowclip_kit.reporting.target_results import View

if TYPE_CHECKING:  # listing and judging do without matplotlib
    from matplotlib.figure import Figure

RECORDED = Path("results") / "recorded"
# Keys of a provenance that are there only where a call changed the protocol.
PROTOCOL = {"few_shot_lists": "published few-shot lists", "class_names": "raw class names"}
CLAIMS = Path("results") / "claims.csv"


def write(target: str, profile: str, result: Result, results: Path) -> list[Path]:
    """Write results/<profile>/<target>.{csv,summary.csv,videos.csv,provenance.json,html}, figures/ and
    checkpoints/.

    When nothing has changed since the last call the notebook and the figures are left as they are.
    """
    folder = experiments.results_folder(profile, str(results), target, result.name)
    data = write_tables(target, profile, result, results)
    html, summary = folder / f"{target}.html", data[0].with_suffix(".summary.csv")
    made, drawings = partial(_fingerprint, target, *data[:2]), f"{target}[._]*"
    with _Seal(folder / f".{target}.made", made, html, summary, figures=drawings) as stale:
        if stale:
            from flowclip_kit.reporting import notebooks

            shown = target_results.load(target, profile, str(results), result.name)
            write_atomically(summary, _summary_csv(shown.summary))
            notebooks.load()
            with ThreadPoolExecutor(1) as meanwhile:  # the notebook has a process of its own
                drawn = meanwhile.submit(lambda: _write_figures(shown.figures(), folder))
                _execute(profile, results, html, result.provenance)
            drawn.result()
    kept = []
    for name, path in result.checkpoints.items():
        about, record = hub.read_settings(path), read_record(path.with_suffix(".json"))
        card = model_card.of_run(about["model"], record)
        kept += hub.write_folder(folder / "checkpoints" / name, path.read_bytes(), about, **card)
    return [*data, summary, html, *sorted((folder / "figures").glob(f"{target}[._]*")), *kept]


def write_tables(target: str, profile: str, result: Result, results: Path) -> list[Path]:
    """The table, the videos table and the provenance of a target, without figures or notebook."""
    folder = experiments.results_folder(profile, str(results), target, result.name)
    return _write_data(target, result, result.provenance, folder)


def write_costs(profile: str, results: Path) -> list[Path]:
    """Table 3, which is counted and not trained: results/<profile>/table3.{csv,html} and figures/table3.*."""
    folder = experiments.results_folder(profile, str(results))
    csv, html = folder / "table3.csv", folder / "table3.html"
    parts = [
        *sorted((root() / "flowclip_core" / "model").glob("*.py")),
        root() / "flowclip_kit/experiments/costs.py",
    ]
    made = partial(_fingerprint, "table3", *parts)
    with _Seal(folder / ".table3.made", made, csv, html, figures="table3.*") as stale:
        if stale:
            write_atomically(csv, _counted())
            _write_figures(_cost_figures(csv), folder)
            _execute(profile, results, html)
    return [csv, html, *sorted((folder / "figures").glob("table3.*"))]


def write_verdicts(profile: str, results: Path) -> list[Path]:
    """results/<profile>/claims.csv from all tables that are there, and the notebook that sorts the
    verdicts."""
    from flowclip_kit.reporting import claims

    folder = experiments.results_folder(profile, str(results))
    csv, html = folder / "claims.csv", folder / "verdicts.html"
    with _Seal(
        folder / ".verdicts.made", lambda: _fingerprint("verdicts", *_tables(folder)), csv, html
    ) as stale:
        if stale:
            write_atomically(csv, claims.csv_text(judged(profile, str(results))))
            _execute(profile, results, html)
    return [csv, html]


def _tables(folder: Path) -> list[Path]:
    """The tables of a folder, in the order of the targets: what verdicts and report are made from."""
    return [path for name in ALL_TARGETS for path in sorted(folder.glob(f"{name}.*csv")) if path.exists()]


def judged(profile: str, source: str) -> pd.DataFrame:
    """Every claim of the register with its verdict, from all tables of a source that are there.

    Runs of another backbone than the profile's, or of a changed protocol, judge nothing: their claims stay
    'not run', with that reason.
    """
    from flowclip_kit.experiments import costs
    from flowclip_kit.reporting import claims

    folder, own = experiments.results_folder(profile, source), PROFILES[profile].backbone
    found, other = {}, {}
    hits: dict[str, Any] = {}
    for target in (*PAPER_TARGETS, "readings"):
        if target in TARGETS and (folder / f"{target}.csv").exists():
            tidy, more, about = experiments.load(target, profile, source)
            name, weights = about["backbone"]["name"], about["backbone"]["pretrained"]
            if changed := [what for key, what in PROTOCOL.items() if key in about]:
                other[target] = f"the runs changed the protocol: {', '.join(changed)}"
            elif (name, weights is None) == (
                own.name,
                own.pretrained is None,
            ):  # a file may hold the same weights
                found[target], hits = tidy, hits | more
            else:
                other[target] = (
                    f"the runs are of {name} with weights {weights or 'drawn at random'}, not of {own.name}"
                )
    counts = costs.read_counts(folder / "table3.csv") if (folder / "table3.csv").exists() else None
    register = claims.register()
    frame = claims.measure(
        register, found, hits, counts, demo=PROFILES[profile].roles == PROFILES["demo"].roles
    )
    for claim in register:
        if why := [other[part.target] for part in claim.parts if part.target in other]:
            frame.loc[frame["id"] == claim.id, "reason"] = why[0]
    return frame


def write_report(profile: str, results: Path, recorded: bool = False) -> list[Path]:
    """results/<profile>/report.html: every table, figure, verdict and cost in one file that needs no network.

    Shows the runs below `results`, also those of grids of the user's own; where there are none of the
    profile, or where `recorded` asks for them, the recorded ones.
    """
    from flowclip_kit.reporting import report

    folder, source = experiments.results_folder(profile, str(results)), _source(profile, results, recorded)
    shown, path = experiments.results_folder(profile, source), folder / "report.html"
    with _Seal(
        folder / ".report.made",
        lambda: _fingerprint("verdicts", *_tables(shown), *sorted(shown.glob("*-*/*.csv"))),
        path,
    ) as stale:
        if stale:
            write_atomically(path, report.html(profile, source, judged(profile, source)))
    return [path]


def write_card(profile: str, results: Path, recorded: bool = False) -> Path:
    """results/<profile>/card.md: the data set card of the tables that the report would show."""
    from flowclip_kit.reporting import dataset_card

    path = experiments.results_folder(profile, str(results)) / "card.md"
    return write_atomically(path, dataset_card.text(profile, _source(profile, results, recorded)))


def _source(profile: str, results: Path, recorded: bool) -> str:
    """Where the tables of a profile are: below `results`, or the recorded ones. Raises InputError where there
    are none, before anything is written."""
    folder = experiments.results_folder(profile, str(results))
    own = any((folder / f"{name}.csv").exists() for name in TARGETS) or any(folder.glob("*-*/*.csv"))
    if own and not recorded:
        return str(results)
    folder = experiments.results_folder(profile, "recorded")
    if not any((folder / f"{name}.csv").exists() for name in ALL_TARGETS):
        raise InputError(f"{folder}: no tables of profile {profile}; make them with ./reproduce.sh all")
    return "recorded"


def verdict_counts(profile: str, results: Path) -> str:
    """How many claims came to which verdict, for a terminal."""
    from flowclip_kit.reporting import claims

    return str(claims.counts_by_verdict(claims.load(profile, str(results))))


def as_text(target: str, result: Result | None, folder: Path) -> str:
    """The table for a terminal, measured beside printed. result: None for table3, whose counts lie in
    `folder`."""
    if result is not None:
        return str(_view(target, result).table())
    from flowclip_kit.experiments import costs
    from flowclip_kit.reporting import costs as shown

    return str(shown.table(costs.read_counts(folder / "table3.csv"), tables.load_paper("table3")))


def record(profile: str, results: dict[str, Result | None]) -> list[Path]:
    """Copy the results into results/recorded/<profile>, which is in git; renew the verdicts and the README's
    parts.

    results: by target, None for table3. Raises InputError before anything is written when the README lacks
    the marks of a part.
    """
    if profile == "demo":
        for part in README_PARTS:
            readme_parts.around(root() / "README.md", _marks(part))
    folder = root() / RECORDED / profile
    written = []
    for target, result in results.items():
        if result is None:
            written.append(write_atomically(folder / "table3.csv", _counted()))
            written += _write_figures(_cost_figures(written[-1]), folder)
        else:
            about = {
                name: value for name, value in result.provenance.items() if name != "last_call"
            }  # differs always
            written += _write_data(target, result, about, folder)
            shown = target_results.load(target, profile)  # as `verify` will find it
            written.append(
                write_atomically(written[-3].with_suffix(".summary.csv"), _summary_csv(shown.summary))
            )
            written += _write_figures(shown.figures(), folder)
    return list(dict.fromkeys(written + (_write_conclusions() if profile == "demo" else [])))


def _write_conclusions() -> list[Path]:
    """The verdicts on the recorded runs, and the README's parts."""
    from flowclip_kit.reporting import claims

    written = [write_atomically(root() / CLAIMS, claims.csv_text(judged("demo", "recorded")))]
    for part, text in README_PARTS.items():
        written.append(write_atomically(root() / "README.md", _readme(part, text())))
    return written


def renew() -> list[Path]:
    """Make again what no longer follows from the recorded runs, after a change of the code that derives it.

    No run, table or provenance is touched. Returns the summaries and figures that are others now, and the
    verdicts and README. Raises InputError where a recorded table is absent or unreadable.
    """
    from flowclip_kit.reporting import plots

    written = []
    for csv in _recorded_tables():
        if csv.stem == "table3":
            drawn = _cost_figures(csv)
        else:
            shown = target_results.load(csv.stem, csv.parent.name)
            drawn = shown.figures()
            path, text = csv.with_suffix(".summary.csv"), _summary_csv(shown.summary)
            if not path.exists() or path.read_text() != text:
                written.append(write_atomically(path, text))
        for path, data in plots.files(drawn, csv.parent, kinds=("svg",)).items():
            if not path.exists() or path.read_bytes() != data:
                written += _write_figures({path.stem: drawn[path.stem]}, csv.parent)
    return written + _write_conclusions()


def verify() -> tuple[list[str], list[str]]:
    """Rebuild every recorded summary, figure, count, verdict and README part: (files checked, differences).

    Figures are compared byte by byte only where the software of the lock file is installed, since other
    versions draw otherwise; elsewhere they only must be there.
    """
    checked: list[str] = []
    wrong: list[str] = []

    def compare(path: Path, expected: bytes | str | None, what: str) -> None:
        name = path.relative_to(root()).as_posix()
        checked.append(name)
        expected = expected.encode() if isinstance(expected, str) else expected
        if not path.exists():
            wrong.append(f"{name}: missing")
        elif expected is not None and path.read_bytes() != expected:
            wrong.append(f"{name}: does not follow from {what}")

    def attempt(path: Path, check: Callable[[], None]) -> None:
        try:
            check()
        except InputError as error:  # a file without which the others cannot be checked; the message names it
            checked.append(path.relative_to(root()).as_posix())
            wrong.append(str(error).replace(f"{root()}{os.sep}", ""))
        except (
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # altered in ways nobody foresaw
            checked.append(path.relative_to(root()).as_posix())
            wrong.append(
                f"{checked[-1]}: cannot be checked ({type(error).__name__}: {' '.join(str(error).split())})"
            )

    for name in hashed.STUDIES:
        for csv in sorted({path.with_suffix(".csv") for path in (root() / RECORDED).glob(f"*/{name}.*")}):
            attempt(csv, partial(_verify_hash, csv, compare))
    for csv in _recorded_tables():
        attempt(csv, partial(_verify_counts if csv.stem == "table3" else _verify_table, csv, compare))
    attempt(root() / "results" / "paper" / "SHA256SUMS", lambda: _verify_printed(compare))
    attempt(root() / CLAIMS, lambda: _verify_claims(compare))
    for csv, (page, marks, text) in PAGE_PARTS.items():
        if (root() / csv).exists():
            attempt(root() / csv, partial(_verify_part, root() / csv, page, marks, text, compare))
    return checked, wrong


def _recorded_tables() -> list[Path]:
    """The tables of which any file is recorded, or which the README shows."""
    folders = [folder for folder in (root() / RECORDED).glob("*") if folder.is_dir()]
    found = {
        folder / f"{name}.csv"
        for folder in folders
        for name in ALL_TARGETS
        if [*folder.rglob(f"{name}[._]*")]
    }
    return sorted(found | {root() / RECORDED / "demo" / "table5.csv"})


def _verify_table(csv: Path, compare: Callable[[Path, bytes | str | None, str], None]) -> None:
    """Compare all that is recorded of one table. Raises InputError where a file is absent or unreadable."""
    target, about, videos = csv.stem, csv.with_suffix(".provenance.json"), csv.with_suffix(".videos.csv")
    shown = View(target, *experiments.load(target, csv.parent.name))
    if shown.about != sealed(shown.about):
        raise InputError(f"{about}: was changed after it was recorded")
    for name, path in (("table", csv), ("videos", videos)):
        if shown.about[name] != sha256(path):
            raise InputError(f"{path}: is not the table that {about.name} was recorded with")
    compare(about, provenance_json(shown.about), "itself, read and written again")
    compare(csv, tidy_csv(shown.runs), "itself, read and written again")
    compare(csv.with_suffix(".summary.csv"), _summary_csv(shown.summary), csv.name)
    compare(videos, None, csv.name)
    _verify_figures(shown.figures(), csv, compare)


def _verify_hash(csv: Path, compare: Callable[[Path, bytes | str | None, str], None]) -> None:
    """The sweep or study is the one that was recorded; a re-run takes minutes, so its hash stands in."""
    if not csv.exists():
        return compare(csv, None, "the sweep")
    try:
        same = csv.with_suffix(".sha256").read_text().split()[0] == sha256(csv)
    except (OSError, IndexError) as error:
        raise InputError(f"{csv.with_suffix('.sha256')}: no hash of {csv.name} in it ({error})") from error
    compare(
        csv, None if same else b"", f"the sweep: its hash is not the one in {csv.with_suffix('.sha256').name}"
    )


def _verify_counts(csv: Path, compare: Callable[[Path, bytes | str | None, str], None]) -> None:
    compare(csv, _counted(), "the modules, counted again")
    _verify_figures(_cost_figures(csv), csv, compare)


def _verify_figures(
    drawn: dict[str, Figure], csv: Path, compare: Callable[[Path, bytes | str | None, str], None]
) -> None:
    """The SVG are drawn again; of the PNG, whose bytes depend on more libraries, it is asked that they are
    there."""
    from flowclip_kit.reporting import plots

    same_software = environment.source() == "requirements.lock"
    for path, data in plots.files(drawn, csv.parent, kinds=("svg",)).items():
        compare(path, data if same_software else None, csv.name)
        compare(path.with_suffix(".png"), None, csv.name)


def _verify_printed(compare: Callable[[Path, bytes | str | None, str], None]) -> None:
    """The printed numbers are those that were held against the paper: the sums were taken then."""
    folder = root() / "results" / "paper"
    said = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(folder.glob("*.csv")))
    try:
        sums = (folder / "SHA256SUMS").read_text()
    except OSError as error:
        raise InputError(f"{folder / 'SHA256SUMS'}: cannot be read ({error.strerror})") from error
    for line in sorted({*sums.splitlines()} | {*said.splitlines()}):
        name = line.partition("  ")[2]
        if line in said.splitlines():
            expected = None if line in sums.splitlines() else b""
            compare(folder / name, expected, "the paper: its sum is not the one in results/paper/SHA256SUMS")
        elif not (folder / name).exists():
            compare(folder / name, None, "the paper")


def _verify_claims(compare: Callable[[Path, bytes | str | None, str], None]) -> None:
    from flowclip_kit.reporting import claims

    compare(root() / CLAIMS, claims.csv_text(judged("demo", "recorded")), "the recorded tables")
    readme = root() / "README.md"
    stale = [part for part, text in README_PARTS.items() if _readme(part, text()) != readme.read_text()]
    compare(readme, b"" if stale else None, f"the recorded tables ({', '.join(stale)})")


def _verify_part(
    csv: Path,
    name: str,
    marks: tuple[str, str],
    text: Callable[[pd.DataFrame], str],
    compare: Callable[[Path, bytes | str | None, str], None],
) -> None:
    """The part of a page between these marks follows from the study that was recorded."""
    page, (begin, end) = root() / name, marks
    said = f"{begin}\n{text(pd.read_csv(csv, keep_default_na=False, na_values=['']))}\n{end}"
    compare(page, None if page.exists() and said in page.read_text() else b"", csv.name)


def overview(profile: str) -> str:
    """What can be run under a profile and what it costs: as recorded; with real data, as predicted for this
    machine."""
    from flowclip_kit.reporting import costs

    if profile not in PROFILES:
        raise InputError(f"--profile {profile!r} is unknown; use {', '.join(PROFILES)}")
    chosen = PROFILES[profile]
    ahead = estimates.text(chosen)
    lines = [f"profile {profile}: {chosen.about}", ""]
    for name in ALL_TARGETS:
        if name not in TARGETS:
            lines += [f"{name}  {costs.TITLE}", "  counted from the modules, nothing is trained"]
            continue
        target = TARGETS[name]
        own = replace(
            chosen, roles={role: data for role, data in chosen.roles.items() if role in target.roles}
        )
        configs = {replace(cell.config, transfer=None) for cell in target.cells(own) if cell.config.train}
        tries = any(config.held_out for config in configs)
        trained = f"{len(configs)}" + (" trainings to choose learning rates, then more" if tries else "")
        recorded = root() / RECORDED / profile / f"{name}.provenance.json"
        cost = "hours below" if ahead else "not measured yet"
        if recorded.exists():
            about = _read_json(recorded)
            minutes = (about["training_seconds"] + about["testing_seconds"]) / 60
            cost = f"{minutes:.0f} core minutes, {about['peak_memory_gib']:.1f} GiB a process, as recorded"
        data = ", ".join(own.roles.values())
        lines += [f"{name}  {target.title}", f"  {target.about}", f"  {trained} trainings on {data}; {cost}"]
    if ahead:
        lines += ["", *ahead]
    lines += [
        "",
        "all  every table and panel of the paper, then verdicts and report; runs that targets share are made"
        " once",
        "other profiles: " + ", ".join(name for name in PROFILES if name != profile),
    ]
    return "\n".join(lines)


class _Seal:
    """Says whether files are older than what they are made from, or not as they were made: `with _Seal(...)
    as stale`.

    Written at the end: what they were made from, then the hash of each. figures: pattern of those that belong
    to it. One call at a time makes them. made: fingerprint of what they are made from; no seal where it
    changes meanwhile.
    """

    def __init__(self, path: Path, made: Callable[[], str], *files: Path, figures: str | None = None) -> None:
        self.path, self.made, self.files, self.figures = path, made, files, figures
        self.lock = Lock(path.with_suffix(".lock"), f"{path.parent / path.stem[1:]}.* to be written")

    def _text(self, made: str) -> bytes:
        more = sorted((self.path.parent / "figures").glob(self.figures)) if self.figures else ()
        hashes = [f"{sha256(file)}  {file.name}\n" for file in (*self.files, *more)]
        return "".join([f"{made}\n", *hashes]).encode()

    def __enter__(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lock.__enter__()
        self.began = self.made()
        try:
            self.stale = self.path.read_bytes() != self._text(self.began)
        except OSError:
            self.stale = True
        if self.stale:
            self.path.unlink(missing_ok=True)
        return self.stale

    def __exit__(self, kind, *_: object) -> None:
        try:
            if kind is None and self.stale and self.made() == self.began:
                write_atomically(self.path, self._text(self.began))
        finally:
            self.lock.release()


def _view(target: str, result: Result) -> View:
    return View(target, result.tidy, by_key(result.hits), result.provenance)


def _write_data(target: str, result: Result, provenance: dict, folder: Path) -> list[Path]:
    csv = save_tidy(result.tidy, folder / f"{target}.csv")
    videos = write_atomically(folder / f"{target}.videos.csv", hits_csv(result.hits))
    about = sealed(provenance | {"table": sha256(csv), "videos": sha256(videos)})
    return [csv, videos, write_atomically(folder / f"{target}.provenance.json", provenance_json(about))]


def _write_figures(drawn: dict[str, Figure], folder: Path) -> list[Path]:
    from flowclip_kit.reporting import plots

    return [write_atomically(path, data) for path, data in plots.files(drawn, folder).items()]


def _cost_figures(csv: Path) -> dict[str, Figure]:
    """Table 3's figure, from its counts, by file name."""
    from flowclip_kit.experiments import costs
    from flowclip_kit.reporting import costs as shown

    return {"table3": shown.figure(costs.read_counts(csv), tables.load_paper("table3"))}


def _execute(profile: str, results: Path, html: Path, about: Mapping[str, Any] | None = None) -> None:
    """Run the notebook that bears the name of `html` on the results of a profile, and write it there.

    about: the provenance of the runs, which names the parameters of a call that has its own.
    """
    from flowclip_kit.reporting import notebooks

    notebook, about = root() / "notebooks" / f"{html.stem}.ipynb", about or {}
    parameters = {"profile": profile, "source": str(results)} | dict(about.get("parameters", {}))
    if "name" in about:
        parameters["name"] = about["name"]
    notebooks.execute(notebook, parameters, html, cwd=root())


def _counted() -> str:
    from flowclip_kit.experiments import costs

    return costs.counts_csv(costs.counts())


def _fingerprint(name: str, *made_from: Path) -> str:
    """Hash of all that the figures and the notebook `name` are made from."""
    sources = [*made_from, root() / "notebooks" / f"{name}.ipynb"]
    sources += sorted((root() / "results" / "paper").glob("*.csv"))
    sources += sorted((root() / "flowclip_kit" / "reporting").glob("*.py"))
    digest = hashlib.sha256(environment.lock_hash().encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _summary_csv(summary: pd.DataFrame) -> str:
    return summary.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not readable ({error}); record it again with ./reproduce.sh TARGET --record"
        ) from error


def _verdicts_of_the_demo() -> str:
    from flowclip_kit.reporting import claims

    nudged = root() / ROUNDING
    return readme_parts.verdicts(
        claims.load("demo", "recorded"), pd.read_csv(nudged) if nudged.exists() else None
    )


def _rivals_of_the_demo() -> str:
    from flowclip_kit.reporting import rivals

    if not (root() / RECORDED / "demo" / "rivals.csv").exists():
        return readme_parts.NO_RIVALS
    shown = target_results.load("rivals")
    return readme_parts.rivals(shown.summary, shown.about["methods"], rivals.brief(shown.paired))


# The README's generated parts: name in the marks -> what makes the text.
README_PARTS: dict[str, Callable[[], str]] = {
    "table5": lambda: readme_parts.table5(target_results.load("table5").summary),
    "verdicts": _verdicts_of_the_demo,
    "rivals": _rivals_of_the_demo,
}


# Parts of other pages: recorded study -> page, marks, what makes the text.
PAGE_PARTS: dict[Path, tuple[str, tuple[str, str], Callable[[pd.DataFrame], str]]] = {
    ROUNDING: ("notebooks/protocols.md", readme_parts.ROUNDING, readme_parts.rounding),
    RECORDED / "demo" / "pretraining.csv": (
        "notebooks/demo_world.md", readme_parts.PRETRAINING, readme_parts.pretraining,
    ),
}  # fmt: skip


def _marks(part: str) -> tuple[str, str]:
    made_by = "rivals" if part == "rivals" else "all --seeds 10"
    return f"<!-- {part}: made by ./reproduce.sh {made_by} --record -->", f"<!-- {part}: end -->"


def _readme(part: str, text: str) -> str:
    """The README with this part between its two marks."""
    before, after = readme_parts.around(root() / "README.md", _marks(part))
    return f"{before}\n{text.rstrip()}\n{after}"
