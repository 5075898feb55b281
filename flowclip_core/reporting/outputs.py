"""The files of a target: tidy CSV, summary, figures, executed notebook; their recorded copies, and their check."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from flowclip_core import environment
from flowclip_core.config import PROFILES
from flowclip_core.errors import InputError
from flowclip_core.experiments import Result, model_note, pair_share
from flowclip_core.experiments.catalogue import TARGETS
from flowclip_core.experiments.tidy import read_tidy, save_tidy, tidy_csv
from flowclip_core.paths import root, sha256, write_atomically
from flowclip_core.reporting import stats, tables

RECORDED = Path("results") / "recorded"
# Videos of the official archives (README of each); the demo sets are drawn in seconds.
VIDEOS = {"hmdb51": 6766, "ucf101": 13320}


def write(target: str, profile: str, result: Result, results: Path) -> list[Path]:
    """Write results/<profile>/<target>.{csv,summary.csv,provenance.json,html}, figures/ and checkpoints/.

    When nothing has changed since the last call the notebook and the figures are left as they are.
    """
    folder = results / profile
    data = _write_data(target, result.tidy, result.provenance, folder)
    html, figure = folder / f"{target}.html", folder / "figures" / f"{target}.svg"
    seal = folder / f".{target}.made"
    made = _fingerprint(target, data[0])
    if not (html.exists() and figure.exists() and seal.exists() and seal.read_text() == made):
        from flowclip_core.reporting import notebooks, plots

        seal.unlink(missing_ok=True)
        plots.write_figures(target, _summary(target, read_tidy(data[0])), folder)
        notebook = root() / "notebooks" / f"{target}.ipynb"
        notebooks.execute(notebook, {"profile": profile, "source": str(results)}, html, cwd=root())
        write_atomically(seal, made)
    kept = []
    for name, path in result.checkpoints.items():
        copy = folder / "checkpoints" / f"{name}.safetensors"
        write_atomically(copy, path.read_bytes())
        kept.append(copy)
    return [*data, html, *sorted((folder / "figures").glob(f"{target}[._]*")), *kept]


def as_text(target: str, result: Result) -> str:
    """The table for a terminal, measured beside printed."""
    return _text(target, result.tidy, result.provenance)


def record(target: str, profile: str, result: Result) -> list[Path]:
    """Copy the results into results/recorded/<profile>, which is in git, and renew the README's copy of the table.

    Raises InputError before anything is written when the README lacks the marks that hold a demo table.
    """
    from flowclip_core.reporting import plots

    if profile == "demo":
        _around_table(target)
    folder = root() / RECORDED / profile
    about = {name: value for name, value in result.provenance.items() if name != "last_call"}  # differs at every call
    written = _write_data(target, result.tidy, about, folder)
    tidy = read_tidy(written[0])  # as `verify` will find it
    written += plots.write_figures(target, _summary(target, tidy), folder)
    if profile == "demo":
        written.append(write_atomically(root() / "README.md", _readme(target, tidy, about)))
    return written


def verify() -> tuple[list[str], list[str]]:
    """Rebuild every recorded summary, figure and README table from the recorded runs: (files checked, differences).

    Figures are compared byte by byte only where the software of the lock file is installed, since other versions draw
    otherwise; elsewhere they only must be there.
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

    for csv in _recorded_tables():
        try:
            _verify_table(csv, compare)
        except InputError as error:  # a file without which the others cannot be checked; the message names it
            checked.append(csv.relative_to(root()).as_posix())
            wrong.append(str(error).replace(f"{root()}{os.sep}", ""))
    return checked, wrong


def _recorded_tables() -> list[Path]:
    """The run tables of which any file is recorded, or which the README shows."""
    folders = [folder for folder in (root() / RECORDED).glob("*") if folder.is_dir()]
    found = {folder / f"{target}.csv" for folder in folders for target in TARGETS if [*folder.rglob(f"{target}[._]*")]}
    readme = root() / "README.md"
    text = readme.read_text() if readme.exists() else ""
    shown = {root() / RECORDED / "demo" / f"{target}.csv" for target in TARGETS if _marks(target)[0] in text}
    return sorted(found | shown)


def _verify_table(csv: Path, compare: Callable[[Path, bytes | str | None, str], None]) -> None:
    """Compare all that is recorded of one table. Raises InputError where a file is absent or unreadable."""
    target, about = csv.stem, csv.with_suffix(".provenance.json")
    tidy, provenance = read_tidy(csv), _read_json(about)
    if provenance != _sealed(provenance):
        raise InputError(f"{about}: was changed after it was recorded")
    if provenance["table"] != sha256(csv):
        raise InputError(f"{csv}: is not the table that {about.name} was recorded with")
    compare(about, _json(provenance), "itself, read and written again")
    compare(csv, tidy_csv(tidy), "itself, read and written again")
    summary = _summary(target, tidy)
    compare(csv.with_suffix(".summary.csv"), _summary_csv(summary), csv.name)
    from flowclip_core.reporting import plots

    same_software = environment.source() == "requirements.lock"
    for path, drawn in plots.figure_bytes(target, summary, csv.parent, kinds=("svg",)).items():
        compare(path, drawn if same_software else None, csv.name)
        compare(path.with_suffix(".png"), None, csv.name)
    if csv.parent.name == "demo":
        compare(root() / "README.md", _readme(target, tidy, provenance), csv.name)


def overview(profile: str) -> str:
    """What can be run under a profile and what it costs, from the recorded calls."""
    if profile not in PROFILES:
        raise InputError(f"--profile {profile!r} is unknown; use {', '.join(PROFILES)}")
    chosen = PROFILES[profile]
    lines = [f"profile {profile}: {chosen.about}", ""]
    for name, target in TARGETS.items():
        cells = target.cells(_only(chosen, target.roles))
        trained = sum(cell.config.train is not None for cell in cells)
        data = ", ".join(_only(chosen, target.roles).roles.values())
        recorded = root() / RECORDED / profile / f"{name}.provenance.json"
        videos = sum(VIDEOS.get(name, 0) for name in _only(chosen, target.roles).roles.values())
        pictures = videos * chosen.frames_stored * len(chosen.store_crops) / 1e6
        cost = f"not measured yet; before them {videos:,} videos are encoded once, {pictures:.1f} million pictures"
        if recorded.exists():
            about = _read_json(recorded)
            minutes = (about["training_seconds"] + about["testing_seconds"]) / 60
            cost = f"{minutes:.0f} core minutes, {about['peak_memory_gib']:.1f} GiB a process, as recorded"
        lines += [f"{name}  {target.title}", f"  {target.about}", f"  {trained} trainings on {data}; {cost}"]
    lines += ["", "other profiles: " + ", ".join(name for name in PROFILES if name != profile)]
    return "\n".join(lines)


def _only(profile, roles):
    return replace(profile, roles={role: name for role, name in profile.roles.items() if role in roles})


def _write_data(target: str, tidy: pd.DataFrame, provenance: dict, folder: Path) -> list[Path]:
    csv = save_tidy(tidy, folder / f"{target}.csv")
    summary = write_atomically(folder / f"{target}.summary.csv", _summary_csv(_summary(target, read_tidy(csv))))
    about = _sealed(provenance | {"table": sha256(csv)})
    return [csv, summary, write_atomically(folder / f"{target}.provenance.json", _json(about))]


def _sealed(provenance: dict) -> dict:
    """The provenance with a hash of itself, which shows a later change."""
    said = {name: value for name, value in provenance.items() if name != "seal"}
    return said | {"seal": hashlib.sha256(_json(said).encode()).hexdigest()}


def _fingerprint(target: str, csv: Path) -> str:
    """Hash of all that the figures and the notebook are made from."""
    sources = [csv, root() / "notebooks" / f"{target}.ipynb", root() / "results" / "paper" / f"{target}.csv"]
    sources += sorted((root() / "flowclip_core" / "reporting").glob("*.py"))
    digest = hashlib.sha256(environment.lock_hash().encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _summary(target: str, tidy: pd.DataFrame) -> pd.DataFrame:
    return stats.summarise(tidy, tables.load_paper(target))


def _summary_csv(summary: pd.DataFrame) -> str:
    return summary.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def _text(target: str, tidy: pd.DataFrame, provenance: dict) -> str:
    return tables.text_table(tables.table5(_summary(target, tidy), pair_share(provenance), model_note(provenance)))


def _json(content: dict) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


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


def _marks(target: str) -> tuple[str, str]:
    return f"<!-- {target}: made by ./reproduce.sh {target} --record -->", f"<!-- {target}: end -->"


def _readme(target: str, tidy: pd.DataFrame, provenance: dict) -> str:
    """The README with this table between its two marks."""
    before, after = _around_table(target)
    return f"{before}\n\n```text\n{_text(target, tidy, provenance).rstrip()}\n```\n\n{after}"


def _around_table(target: str) -> tuple[str, str]:
    """The README before and after the table, marks included. Raises InputError when a mark is missing."""
    readme = root() / "README.md"
    begin, end = _marks(target)
    before, found, rest = (readme.read_text() if readme.exists() else "").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"{readme}: lacks the lines {begin} and {end}, in this order; put them where the table goes")
    return before + begin, end + after
