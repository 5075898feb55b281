"""What `./reproduce.sh lab` opens: copies of the notebooks, so that the checkout stays clean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat

from flowclip_core.errors import notice
from flowclip_core.files import write_atomically
from flowclip_kit.paths import root

ORIGINALS = ".originals.json"  # in the folder of copies: the cells each copy was made from


def prepare(notebooks: Path | None = None, folder: Path | None = None) -> Path:
    """Bring the copies of the notebooks up to date and return their folder.

    A copy whose cells the user changed stays as it is; outputs alone do not count as a change. Both folders
    default to those of the checkout: notebooks/, and results/notebooks/, which git ignores.
    """
    notebooks, folder = notebooks or root() / "notebooks", folder or root() / "results" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    originals = folder / ORIGINALS
    known = json.loads(originals.read_text()) if originals.exists() else {}
    for notebook in sorted(notebooks.glob("*.ipynb")):
        copy, cells = folder / notebook.name, _cells(notebook)
        if copy.exists() and _cells(copy) == cells:
            pass  # the outputs of the user's last run stay
        elif copy.exists() and _cells(copy) != known.get(notebook.name):
            notice(f"{copy} has changes of yours and stays; delete it to get the new {notebook.name}")
            continue
        else:
            shutil.copy(notebook, copy)
        known[notebook.name] = cells
    write_atomically(originals, json.dumps(known))
    for page in notebooks.glob("*.md"):  # what the notebooks link to and show
        shutil.copy(page, folder)
    if (notebooks / "images").is_dir():
        shutil.copytree(notebooks / "images", folder / "images", dirs_exist_ok=True)
    return folder


def _cells(notebook: Path) -> list[str] | None:
    """The sources of all cells; None for a file that is no notebook, such as one cut short."""
    try:
        return [cell.source for cell in nbformat.read(notebook, as_version=4).cells]
    except (ValueError, nbformat.reader.NotJSONError):
        return None


if __name__ == "__main__":
    print(prepare())
