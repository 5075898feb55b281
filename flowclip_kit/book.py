"""`./reproduce.sh book`: the pages and notebooks of notebooks/ as one HTML book, with search and an API page.

Notebooks are shown with their stored outputs; nothing is executed and nothing is fetched. Sphinx, MyST-NB and
the theme come with `./reproduce.sh extra book`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flowclip_core.errors import InputError
from flowclip_kit.paths import root

TOOLS = ("sphinx", "myst_nb", "sphinx_book_theme")
# Caption of the sidebar -> pages of notebooks/ in reading order, those that are there; all others come last.
CHAPTERS = {
    "Start": ("index", "how_to_read", "explorers", "run_online", "colab"),
    "Guides": ("demo_world", "real_data", "clusters", "protocols", "statistics", "command_line", "python",
               "developing"),
    "Look closer": ("one_clip", "explore_motion", "explore_prompts", "data"),
    "Results": ("verdicts", "readings", *(f"table{number}" for number in range(1, 9)),
                *(f"figure3{panel}" for panel in "abcd")),
    "Beyond the paper": ("ablation", "rivals"),
}  # fmt: skip
TOP = ("CONTRIBUTING", "CHANGELOG", "flowclip_kit/bench/README")
# Chapter -> {module of flowclip_core: what of it, or all that is public}.
API = {
    "Using it": {
        "config": "ModelConfig, TrainConfig, EvalConfig",
        "model.backbone": "load_backbone, Backbone",
        "data.features": "encode_video",
        "training.loop": "train, evaluate",
        "predict": "classify, Prediction",
    },
    "The model": {"model.flowclip": "", "model.motion": "", "model.prompts": "", "model.prompt_tree": "",
                  "model.communication": ""},
    "Measuring": {"training.metrics": ""},
    "Reading videos": {"data.video": ""},
}  # fmt: skip
SETTINGS = {
    "project": "flowclip",
    "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"],
    "root_doc": "index",
    "html_theme": "sphinx_book_theme",
    "html_title": "flowclip",
    "html_copy_source": False,
    "html_show_sourcelink": False,
    "html_show_copyright": False,
    "html_theme_options": {"home_page_in_toc": True, "use_download_button": False, "navbar_persistent": []},
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "nb_ipywidgets_js": {},  # the stored picture of a control stands for it
    "myst_heading_anchors": 3,
    "default_role": "code",  # docstrings quote names in single backticks
    "autodoc_member_order": "bysource",
    "autodoc_typehints": "signature",
    "toc_object_entries": False,
    "suppress_warnings": ["mystnb.unknown_mime_type"],
}
# ![text](target) or [text](target "title"); one level of brackets inside the text.
LINK = re.compile(
    r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)?)((?:\s+\"[^\"]*\")?)\)"
)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def build(folder: Path) -> Path:
    """Build the book into `folder`, replacing an older one whole, and return its first page.

    Raises InputError where the tools are missing, and RuntimeError for a dead link or a warning of Sphinx's.
    """
    if missing := [name for name in TOOLS if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"book: {', '.join(missing)} not installed here; ./reproduce.sh extra book installs it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".book-", dir=folder.parent) as temporary:
        source, made = Path(temporary) / "source", Path(temporary) / "html"
        stage(source)
        warnings = _sphinx(source, made)
        if warnings := warnings + dead_links(made):
            raise RuntimeError(f"book: {len(warnings)} problems, the first: {warnings[0]}")
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder / "index.html"


def pages() -> list[str]:
    """Every page, as a path in the checkout without its suffix."""
    return [*(page for names in chapters().values() for page in names), *TOP]


def chapters() -> dict[str, list[str]]:
    """The sidebar: caption -> pages of notebooks/, of which none is left out."""
    folder = root() / "notebooks"
    rest = sorted({path.stem for path in folder.iterdir() if path.suffix in (".md", ".ipynb")})
    found = {}
    for caption, names in CHAPTERS.items():
        found[caption] = [f"notebooks/{name}" for name in names if name in rest]
        rest = [name for name in rest if name not in names]
    found["Beyond the paper"] += [f"notebooks/{name}" for name in rest]
    return {caption: names for caption, names in found.items() if names}


def stage(source: Path) -> None:
    """Copy pages, notebooks and pictures to `source`, in the checkout's layout; README.md is the first page.

    Links to files that are no page lead to GitHub where $FLOWCLIP_REPOSITORY is the repository's OWNER/NAME;
    else the file's path stands there as code.
    """
    known = {str(_file(page).relative_to(root())) for page in pages()} | {"README.md"}
    for page in pages():
        path = _file(page)
        name = path.relative_to(root())
        text = path.read_text(encoding="utf-8")
        _write(source / name, _edit(path, text, partial(relink, page=name, known=known, source=source)))
    readme = relink((root() / "README.md").read_text(encoding="utf-8"), Path("README.md"), known, source)
    _write(source / "index.md", readme + _tables_of_contents())
    _write(source / "api.md", _api())


def relink(text: str, page: Path, known: set[str], source: Path) -> str:
    """The Markdown `text` of `page` with links as the book needs them; pictures are copied to `source`."""
    repository = os.environ.get("FLOWCLIP_REPOSITORY")

    def replace(match: re.Match) -> str:
        picture, words, target, title = match.groups()
        parts = urlsplit(target)
        if parts.scheme or not parts.path:
            return match[0]
        path = posixpath.normpath(posixpath.join(page.parent.as_posix(), unquote(parts.path)))
        if picture:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root() / path, source / path)
            return match[0]
        if path == "README.md":
            target = posixpath.relpath("index.md", page.parent.as_posix() or ".") + target[len(parts.path) :]
            return f"[{words}]({target}{title})"
        if path in known:
            return match[0]
        return f"[{words}](https://github.com/{repository}/tree/main/{path})" if repository else f"`{path}`"

    return outside_code(text, lambda piece: LINK.sub(replace, piece))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """`text` with `change` made to all that is not a fenced block."""
    pieces, end = [], 0
    for fence in FENCE.finditer(text):
        pieces += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, change(text[end:])])


def dead_links(folder: Path) -> list[str]:
    """Links inside the built book whose page or place on it is not there: one line each."""
    read = {
        path.relative_to(folder).as_posix(): _Links(path)
        for path in sorted(folder.rglob("*.html"))
        if "_static" not in path.parts
    }
    dead = []
    for name, page in read.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
            path = path if parts.path else name
            if not (folder / path).exists():
                dead.append(f"{name}: no {path}")
            elif parts.fragment and path in read and unquote(parts.fragment) not in read[path].places:
                dead.append(f"{name}: {path} has no #{parts.fragment}")
    return dead


class _Links(HTMLParser):
    """What an HTML page points to, and the places on it that others can point to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.places: set[str] = {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.targets.add(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def _file(page: str) -> Path:
    """The Markdown file or notebook of a page; a page may turn from one into the other."""
    for suffix in (".md", ".ipynb"):
        if (path := root() / f"{page}{suffix}").exists():
            return path
    raise InputError(f"book: neither {page}.md nor {page}.ipynb is there")


def _edit(path: Path, text: str, change: Callable[[str], str]) -> str:
    """A page with `change` made to its Markdown: the whole of it, or the Markdown cells of a notebook, whose
    long cell of parameters is folded."""
    if path.suffix == ".md":
        return change(text)
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = change("".join(cell["source"]))
        elif "parameters" in (tags := cell["metadata"].get("tags", [])):
            tags.append("hide-input")
    return json.dumps(notebook)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _tables_of_contents() -> str:
    shown = chapters() | {"Reference": ["api", *TOP]}
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```\n"
        for caption, names in shown.items()
    )


def _api() -> str:
    """The API page: docstrings of flowclip_core."""
    text = (
        "# API\n\n`flowclip_core`, from its docstrings. [In Python](notebooks/python.md) shows it in use.\n"
    )
    for chapter, modules in API.items():
        text += f"\n## {chapter}\n"
        for module, members in modules.items():
            directive = f".. automodule:: flowclip_core.{module}\n   :members: {members}".rstrip()
            text += f"\n### {module}\n\n```{{eval-rst}}\n{directive}\n```\n"
    return text


def _sphinx(source: Path, made: Path) -> list[str]:
    """Run Sphinx on `source`, and return what it warned of."""
    import io

    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    heard = io.StringIO()
    with docutils_namespace():
        application = Sphinx(source, None, made, made.parent / "doctrees", "html", confoverrides=SETTINGS,
                             status=None, warning=heard, freshenv=True)  # fmt: skip
        application.build(force_all=True)
    shutil.rmtree(made / ".doctrees", ignore_errors=True)
    plain = re.sub(r"\x1b\[[\d;]*m", "", heard.getvalue())
    return [line.replace(f"{source}{os.sep}", "") for line in plain.splitlines() if line.strip()]
