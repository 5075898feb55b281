"""The files of a target: tidy CSV, summary, figures, executed notebook; their recorded copies, and the check of those."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd

from flowclip_core import environment
from flowclip_core.config import PROFILES
from flowclip_core.errors import InputError
from flowclip_core.experiments import Result, pair_share
from flowclip_core.experiments.catalogue import TARGETS
from flowclip_core.experiments.tidy import read_tidy, save_tidy, tidy_csv
from flowclip_core.paths import root, write_atomically
from flowclip_core.reporting import stats, tables

RECORDED = Path("results") / "recorded"


def write(target: str, profile: str, result: Result, results: Path) -> list[Path]:
    """Write results/<profile>/<target>.{csv,summary.csv,provenance.json,html}, figures/ and checkpoints/.

    When nothing has changed since the last call the notebook and the figures are left as they are.
    """
    folder = results / profile
    data = _write_data(target, result.tidy, result.provenance, folder)
    html = folder / f"{target}.html"
    seal = folder / f".{target}.made"
    made = _fingerprint(target, data[0])
    if not (html.exists() and seal.exists() and seal.read_text() == made):
        from flowclip_core.reporting import notebooks, plots

        seal.unlink(missing_ok=True)
        plots.write_figures(target, _summary(target, result.tidy), folder)
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
    """Copy the results into results/recorded/<profile>, which is in git, and renew the README's copy of the table."""
    from flowclip_core.reporting import plots

    folder = root() / RECORDED / profile
    written = _write_data(target, result.tidy, result.provenance, folder)
    written += plots.write_figures(target, _summary(target, result.tidy), folder)
    readme = root() / "README.md"
    text = readme.read_text()
    if _marks(target)[0] in text and profile == "demo":
        write_atomically(readme, _with_block(text, target, _text(target, result.tidy, result.provenance)))
        written.append(readme)
    return written


def verify() -> tuple[list[str], list[str]]:
    """Rebuild every recorded summary, figure and README table from the recorded runs: (files checked, differences).

    Figures are compared byte by byte only where the software of the lock file is installed, since other versions draw
    otherwise; elsewhere they are not counted.
    """
    checked, wrong = [], []

    def compare(path: Path, expected: bytes | str, what: str) -> None:
        name = str(path.relative_to(root()))
        checked.append(name)
        expected = expected.encode() if isinstance(expected, str) else expected
        if not path.exists():
            wrong.append(f"{name}: missing")
        elif path.read_bytes() != expected:
            wrong.append(f"{name}: does not follow from {what}")

    for csv in sorted((root() / RECORDED).glob("*/*.csv")):
        if csv.name.endswith(".summary.csv"):
            continue
        target, about = csv.stem, csv.with_suffix(".provenance.json")
        tidy, provenance = read_tidy(csv), _read_json(about)
        compare(csv, tidy_csv(tidy), "itself, read and written again")
        summary = _summary(target, tidy)
        compare(csv.with_suffix(".summary.csv"), _summary_csv(summary), csv.name)
        compare(about, _json(provenance), "itself, read and written again")
        digest = provenance.get("table")
        if digest != hashlib.sha256(csv.read_bytes()).hexdigest():
            wrong.append(f"{csv.relative_to(root())}: is not the table that {about.name} was written for")
        if csv.parent.name == "demo":
            readme = root() / "README.md"
            block = _text(target, tidy, provenance)
            compare(readme, _with_block(readme.read_text(), target, block), csv.name)
        if environment.source() == "requirements.lock":
            from flowclip_core.reporting import plots

            for path, drawn in plots.figure_bytes(target, summary, csv.parent, kinds=("svg",)).items():
                compare(path, drawn, csv.name)
    return checked, wrong


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
        cost = "not measured yet"
        if recorded.exists():
            about = _read_json(recorded)
            minutes = (about["training_seconds"] + about["testing_seconds"]) / 60
            cost = f"{minutes:.0f} core minutes, {about['peak_memory_gib']:.1f} GiB a process, as recorded"
        lines += [f"{name}  {target.title}", f"  {target.about}", f"  {trained} trainings on {data}; {cost}"]
    lines += ["", "other profiles: " + ", ".join(name for name in PROFILES if name != profile)]
    return "\n".join(lines)


def _only(profile, roles):
    from dataclasses import replace

    return replace(profile, roles={role: name for role, name in profile.roles.items() if role in roles})


def _write_data(target: str, tidy: pd.DataFrame, provenance: dict, folder: Path) -> list[Path]:
    csv = save_tidy(tidy, folder / f"{target}.csv")
    said = provenance | {"table": hashlib.sha256(csv.read_bytes()).hexdigest()}
    summary = write_atomically(folder / f"{target}.summary.csv", _summary_csv(_summary(target, read_tidy(csv))))
    return [csv, summary, write_atomically(folder / f"{target}.provenance.json", _json(said))]


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
    return tables.text_table(tables.table5(_summary(target, tidy), pair_share(provenance)))


def _json(content: dict) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); record it again with ./reproduce.sh TARGET --record") from error


def _marks(target: str) -> tuple[str, str]:
    return f"<!-- {target}: made by ./reproduce.sh {target} --record -->", f"<!-- {target}: end -->"


def _with_block(text: str, target: str, block: str) -> str:
    """The README with the table between its two marks replaced. Raises InputError when a mark is missing."""
    begin, end = _marks(target)
    if begin not in text or end not in text:
        raise InputError(f"README.md: the marks {begin} and {end} are missing")
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    return f"{before}{begin}\n\n```text\n{block.rstrip()}\n```\n\n{end}{after}"
