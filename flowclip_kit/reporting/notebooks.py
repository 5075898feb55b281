"""Notebooks run strictly: known parameters only, this interpreter's kernel, all cells or no HTML.

papermill and nbclient let things pass that would make a report wrong: an unknown parameter only warns, a
user's own 'python3' kernel may belong to another interpreter, SystemExit(0) ends a notebook as a success.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from flowclip_core import files
from flowclip_core.errors import InputError
from flowclip_kit import paths, surroundings

# Parameters that may name a file or folder, which is then the caller's; others are never taken for one.
PATHS = ("checkpoint", "data_root", "folder", "pretrained", "source", "static_checkpoint", "video")
SOURCES = ("recorded", "run")  # of a table that are no folder
# Of an executed notebook: what a reader of results seldom opens, one click away.
FOLDED = """
{% block input %}
{% set tags = cell.metadata.get('tags', []) %}
{% set title = "Parameters and their defaults" if 'parameters' in tags else
   "Parameters of this run" if 'injected-parameters' in tags else
   "Code" if 'import ' in cell.source or cell.metadata.get('jupyter', {}).get('source_hidden') else '' %}
{% if title %}<details class="folded"><summary style="cursor: pointer; color: #555; margin-left: 5em">{{ title
}}</summary>{{ super() }}</details>{% else %}{{ super() }}{% endif %}
{% endblock input %}
"""
START_TIMEOUT = 120  # seconds for the kernel to answer; on a busy machine importing it alone takes many


def execute(notebook: Path, parameters: dict[str, Any], html: Path, cwd: Path, timeout: int = 3600) -> Path:
    """Run `notebook` with `parameters` in the folder `cwd` and write it as one self-contained HTML file.

    timeout: seconds per cell. Run one notebook at a time: the process environment is set meanwhile.

    Raises InputError when the notebook is absent, lacks one of the parameters, or one of its cells raised
    InputError; RuntimeError with one line naming notebook, cell and error when a cell fails otherwise or
    never ran. A failed run leaves no file `html`, but the notebook as far as it came as <name>.failed.ipynb.
    """
    notebook, html = Path(notebook), Path(html)
    failed = html.with_name(f"{html.stem}.failed.ipynb")
    with _quiet(), tempfile.TemporaryDirectory(prefix="flowclip-") as folder, _own_kernel(Path(folder)):
        load()
        import nbformat
        import papermill

        document = _read(notebook, nbformat)
        _refuse_unknown(notebook, parameters, papermill.inspect_notebook(document))
        executed = Path(folder) / "executed.ipynb"
        try:
            done = _apart(
                Path(folder),
                lambda: papermill.execute_notebook(
                    document,
                    executed,
                    parameters,
                    kernel_name="python3",
                    cwd=Path(cwd).resolve(),
                    execution_timeout=timeout,
                    start_timeout=START_TIMEOUT,
                    progress_bar=False,
                ),
            )
            _refuse_unfinished(done)
        except Exception as error:
            html.unlink(missing_ok=True)
            where = ""
            if executed.is_file():
                files.write_atomically(failed, executed.read_bytes())
                where = f"; see {failed}"
            raise _one_line(error, notebook, executed, where) from None
        files.write_atomically(html, _html(done, notebook, html))
    failed.unlink(missing_ok=True)
    return html


def typed(notebook: Path, given: dict[str, str], folder: Path) -> dict[str, Any]:
    """Parameters from a command line, each of the type of its default; paths that exist are of `folder`.

    A default of None takes a list, a tuple or a dict as Python writes it, None, and any other text as it
    stands.
    Raises InputError for one that the notebook lacks or that is of another type.
    """
    with _quiet():
        import nbformat
        import papermill

        known = papermill.inspect_notebook(_read(notebook, nbformat))
    _refuse_unknown(notebook, given, known)
    found = {name: _as(name, text, ast.literal_eval(known[name]["default"])) for name, text in given.items()}
    for name, value in found.items():
        if name not in PATHS or not isinstance(value, str) or not value:
            continue
        path = folder / Path(value).expanduser()
        if path.exists() and not (name == "source" and value in SOURCES):
            found[name] = str(path.resolve())
    return found


def _as(name: str, text: str, default: Any) -> Any:
    """The value that a command line's `text` means where `default` is the usual one."""
    if isinstance(default, str):
        return text
    words = {"true": True, "false": False, "none": None}
    try:
        value = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if default is None:
        if text.strip()[:1] in ("[", "(", "{") and value == text:
            raise InputError(f'-p {name}={text}: expected a list as Python writes it, like ["a", "b"]')
        return value if value is None or isinstance(value, (list, tuple, dict)) else text
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, bool) or not isinstance(default, (int, float)):
        right = type(value) is type(default)
    else:
        right = whole or (isinstance(default, float) and isinstance(value, float))
    if not right:
        kinds = {
            bool: "True or False",
            int: "a whole number",
            float: "a number",
            list: "a list",
            tuple: "a tuple",
        }
        raise InputError(f"-p {name}={text}: expected {kinds.get(type(default), 'a dict')}, like {default!r}")
    return type(default)(value)


def load() -> None:
    """Import all that `execute` needs; for callers that go on in another thread meanwhile.

    matplotlib looks whether IPython is loaded, and fails where another thread is in the middle of loading it.
    """
    # jsonschema would load it for a check that notebooks do not need, and it compiles a grammar for seconds.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: not to be found
    with _quiet():
        import ipykernel.kernelspec  # noqa: F401
        import IPython  # noqa: F401
        import nbconvert  # noqa: F401
        import nbformat  # noqa: F401
        import papermill  # noqa: F401


def _read(notebook: Path, nbformat: Any) -> Any:
    if not notebook.is_file():
        raise InputError(f"{notebook}: no such notebook; expected one of the .ipynb files in notebooks/")
    try:
        document = nbformat.read(notebook, as_version=4)
    except Exception as error:  # nbformat raises many kinds, all of which mean the same
        raise InputError(f"{notebook}: not a notebook ({str(error).splitlines()[0]})") from None
    # A notebook saved elsewhere may name a kernel nobody has here, or none.
    document.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    return document


def _refuse_unknown(notebook: Path, parameters: dict[str, Any], known: dict[str, Any]) -> None:
    unknown = sorted(parameters.keys() - known.keys())
    if unknown:
        names = ", ".join(known) or "none"
        raise InputError(f"{notebook.name} has no parameter {', '.join(unknown)}; its parameters: {names}")


def _refuse_unfinished(done: Any) -> None:
    for cell in done.cells:
        finished = cell.metadata.get("papermill", {}).get("status") == "completed"
        if cell.cell_type == "code" and cell.source.strip() and not finished:
            raise RuntimeError("the notebook ended here, the cells that follow never ran")


def _apart(folder: Path, run: Callable[[], Any]) -> Any:
    """What `run` returns, called in a thread: nbclient takes a main thread's signals to itself, and loses
    them.

    folder: its kernel's files; by these the kernel is known and killed when this thread is stopped meanwhile.
    """
    done: Future = Future()

    def work() -> None:
        import asyncio

        from jupyter_core.utils import ensure_event_loop

        loop = ensure_event_loop()  # which nobody would close
        try:
            done.set_result(run())
        except BaseException as error:
            done.set_exception(error)
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    threading.Thread(target=work, name="notebook", daemon=True).start()
    try:
        return done.result()
    except KeyboardInterrupt:
        for child in psutil.Process().children():
            try:
                if any(str(folder) in word for word in child.cmdline()):
                    child.kill()
            except psutil.Error:
                pass
        raise


def _one_line(error: Exception, notebook: Path, executed: Path, where: str) -> Exception:
    """The error to raise: InputError if the user's input was at fault inside the cell, else RuntimeError."""
    kind = getattr(error, "ename", "") or type(error).__name__
    said = (str(getattr(error, "evalue", error)).strip().splitlines() or [""])[0]
    at = f"{notebook.name}, {_last_started(executed)}"
    if kind in ("InputError", "VideoError"):
        return InputError(f"{said} ({at}{where})")
    if not said or kind == "AssertionError":
        said = " ".join(filter(None, (f"{said}," * bool(said), _failed_line(error))))
    return RuntimeError(f"{at}: {kind}: {said or 'it said no more'}{where}")


def _failed_line(error: Exception) -> str:
    """The source line that raised a cell's error: the last at which IPython's traceback points; empty without
    one."""
    lines = getattr(error, "traceback", None)
    text = "\n".join(lines) if isinstance(lines, (list, tuple)) else str(lines or "")
    pointed = re.findall(r"^-+> *\d+ +(.*)$", re.sub(r"\x1b\[[0-9;]*m", "", text), re.MULTILINE)
    return f"at '{pointed[-1].strip()}'" if pointed else ""


def _last_started(executed: Path) -> str:
    if not executed.is_file():
        return "before its first cell"
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    code = [cell for cell in code if "injected-parameters" not in cell["metadata"].get("tags", [])]
    started = [n for n, cell in enumerate(code, 1) if cell["metadata"].get("papermill", {}).get("start_time")]
    if not started:
        return "before its first cell"
    first_line = ("".join(code[started[-1] - 1]["source"]).strip().splitlines() or [""])[0]
    return f"code cell {started[-1]} ('{first_line}')"


def _html(done: Any, notebook: Path, html: Path) -> str:
    """The executed notebook as one file that needs no network: images inside, no scripts from elsewhere.

    Inside the checkout its links to the pages beside the notebook lead there.
    """
    from nbconvert import HTMLExporter

    # The template would fetch these three from the network; tables and figures need none of them.
    blank = "".join(
        f"{{% block html_head_js_{name} %}}{{% endblock %}}" for name in ("requirejs", "mathjax", "mermaidjs")
    )
    exporter = HTMLExporter(raw_template="{% extends 'index.html.j2' %}" + blank + FOLDED, embed_images=True)
    for output in [output for cell in done.cells for output in cell.get("outputs", [])]:
        if "image/png" in output.get(
            "data", {}
        ):  # a widget's picture stays; the widget needs a kernel and a network
            output["data"].pop("application/vnd.jupyter.widget-view+json", None)
    body, _ = exporter.from_notebook_node(done, resources={"metadata": {"name": notebook.stem}})
    pages = notebook.absolute().parent
    if html.absolute().is_relative_to(pages.parent):
        body = re.sub(r'href="(\w+\.md)', rf'href="{os.path.relpath(pages, html.absolute().parent)}/\1', body)
    return str(body)


@contextmanager
def _own_kernel(folder: Path) -> Iterator[None]:
    """Make 'python3' this interpreter, and keep everything Jupyter and IPython write inside `folder`.

    JUPYTER_PATH is searched before a user's own kernels; IPYTHONDIR, JUPYTER_CONFIG_DIR and what
    `surroundings` cleans keep a user's start-up files, modules and settings out of the result. Restores the
    environment.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpecManager

    spec = get_kernel_dict()
    # Quiet: errors reach us anyway, and a kernel that starts while all is stopped finds its folders gone.
    quiet = ("-W", "ignore::UserWarning:IPython.paths")
    spec["argv"] = [sys.executable, *quiet, *spec["argv"][1:], "--log-level=50"]
    files.write_atomically(folder / "kernels" / "python3" / "kernel.json", json.dumps(spec))
    before = dict(os.environ)
    for name in surroundings.CLEAN:
        os.environ.pop(name, None)
    os.environ |= surroundings.clean({}) | {
        "JUPYTER_PATH": os.pathsep.join(filter(None, [str(folder), before.get("JUPYTER_PATH")])),
        "PYTHONPATH": str(paths.root()),  # and not the caller's: a module there may hide one of ours
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    try:
        found = KernelSpecManager().get_kernel_spec("python3").argv[0]
        if found != sys.executable:
            raise RuntimeError(f"kernel python3 belongs to {found}, expected {sys.executable}")
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries that run notebooks: what matters reaches the user as one error."""
    loggers = [logging.getLogger(name) for name in ("papermill", "traitlets", "jupyter_client", "nbclient")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
