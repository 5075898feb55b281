"""The register of claims as one Markdown file per claim, the form that reproduction trackers take in.

`python -m flowclip_kit.claim_files DIR [--profile NAME]`: fields in the front matter, evidence below.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_core.files import write_atomically

PAPER = "https://doi.org/10.1145/3581783.3612490"
FIELDS = ("id", "kind", "verdict", "place", "printed", "protocol", "tolerance", "profile", "seeds")


def markdown(claim: dict[str, str]) -> str:
    """The file of one claim, a row of claims.csv with empty strings for what is not known."""
    fields = [f"{name}: {json.dumps(claim[name], ensure_ascii=False)}" for name in FIELDS if claim[name]]
    lines = ["---", f"paper: {PAPER}", *fields, "---", "", f"# {claim['statement']}", ""]
    lines += [f"**{claim['verdict']}**: {claim['reason']}", "", f"- Where in the paper: {claim['place']}"]
    if claim["mean"]:
        over = {"": "both", "run_": "runs", "video_": "videos"}
        spreads = "".join(_interval(claim, prefix, what) for prefix, what in over.items())
        p = claim["p_bh"] or claim["p"]
        lines.append(f"- Measured: {claim['mean']}{spreads}" + (f", p {p}" if p else ""))
    lines += [f"- Cells: {claim['cells']}", f"- Rule: {claim['why']}"]
    return "\n".join(lines) + "\n"


def write(claims: pd.DataFrame, folder: Path) -> list[Path]:
    """Write <id>.md for every claim into `folder`, and index.md with all of them.

    Raises InputError for an id that is no plain file name.
    """
    written, rows = [], ["# Claims", "", "| claim | kind | verdict |", "| --- | --- | --- |"]
    for claim in claims.fillna("").astype(str).to_dict("records"):
        if not re.fullmatch(r"\w[\w.+-]*", claim["id"]):
            raise InputError(
                f"claim {claim['id']!r}: its id must be a plain file name of letters, digits and .+-"
            )
        written.append(write_atomically(folder / f"{claim['id']}.md", markdown(claim)))
        statement = claim["statement"].replace("|", "\\|")
        rows.append(f"| [{statement}]({claim['id']}.md) | {claim['kind']} | {claim['verdict']} |")
    return [*written, write_atomically(folder / "index.md", "\n".join(rows) + "\n")]


def _interval(claim: dict[str, str], prefix: str, over: str) -> str:
    low, high = claim[f"{prefix}low"], claim[f"{prefix}high"]
    return f", {low} to {high} over {over}" if low else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 2 for wrong input."""
    from flowclip_kit.reporting import claims

    parser = argparse.ArgumentParser(
        prog="python -m flowclip_kit.claim_files", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--profile", default="demo", help="whose verdicts (default: demo)")
    parser.add_argument(
        "--source", default="recorded", help="recorded, or a results folder (default: recorded)"
    )
    options = parser.parse_args(arguments)
    try:
        written = write(claims.load(options.profile, options.source), options.folder)
    except InputError as error:
        print(f"claim_files: {error}", file=sys.stderr)
        return 2
    print(f"{len(written) - 1} claims in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
