"""README and pages: links lead somewhere, commands exist, snippets run, generated parts follow."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from flowclip_core.errors import InputError
from flowclip_kit import book, book_figures, claim_files, environment, readme_parts, samples
from flowclip_kit.bench import first_use
from flowclip_kit.parser import parser
from flowclip_kit.paths import root

PAGES = [root() / "README.md", *(book._file(page) for page in book.pages())]
BY_NAME = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(root()).as_posix())


def markdown(path: Path) -> str:
    """The Markdown of a page: all of it, or a notebook's Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def anchors(path: Path) -> set[str]:
    """Places that GitHub and the book give a page's headings."""
    prose = book.FENCE.sub("", markdown(path))
    titles = re.findall(r"^#{1,3} (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def dead(path: Path) -> list[str]:
    """Targets of a page's relative links and pictures that are not in the checkout."""
    found = []
    for _, _, target, _ in book.LINK.findall(book.FENCE.sub("", markdown(path))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, place = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (place and place not in anchors(file)):
            found.append(target)
    return found


# --- links --------------------------------------------------------------------------------------------------


@BY_NAME
def test_links_lead_somewhere(path):
    assert dead(path) == []


def test_the_link_test_sees(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A b\n[a](page.md#a-b) [b](none.md) ![c](none.png) [d](page.md#c)\n```\n[e](e.md)\n```\n"
    )
    assert dead(page) == ["none.md", "none.png", "page.md#c"]


def test_every_page_and_notebook_is_in_the_book():
    files = {path.stem for pattern in ("*.md", "*.ipynb") for path in (root() / "notebooks").glob(pattern)}
    assert sorted(Path(page).name for names in book.chapters().values() for page in names) == sorted(files)


# --- commands -----------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """Every command line of ours in a fenced block or in code, without comments and environment variables."""
    lines = []
    for path in PAGES:
        text = markdown(path)
        blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
        for line in [*blocks, *re.findall(r"`([^`\n]+)`", book.FENCE.sub("", text))]:
            if match := re.search(r"(?:\./reproduce\.sh|-m flowclip_kit) (.*)", line):
                lines.append(match[1].partition("  #")[0].strip())
    return sorted(set(lines))


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_pages_exist(line, capsys):
    words = ["table5" if word in ("TARGET", "COMMAND") else word for word in shlex.split(line)]
    if words[0] == "test" and (own := [word for word in words[1:] if word.startswith("tests/")]):
        assert all((root() / word).exists() for word in own)
    if "--help" in words:
        with pytest.raises(SystemExit) as end:
            parser().parse_args(words)
        assert end.value.code == 0
    elif words[0] in ("bench", "extra", "notebook"):  # NAME stands for any
        folder, suffix = {"bench": ("flowclip_kit/bench", ".py"), "notebook": ("notebooks", ".ipynb")}.get(
            words[0], ("", "")
        )
        assert words[1] == "NAME" or words[0] == "extra" or (root() / folder / f"{words[1]}{suffix}").exists()
    else:
        parser().parse_args(words)


def test_the_readme_is_short_and_names_its_commands():
    readme = (root() / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    assert "./reproduce.sh table5" in readme and "./reproduce.sh test" in readme


def test_modules_that_pages_run_exist():
    text = "\n".join(markdown(path) for path in PAGES)
    names = set(re.findall(r"python3? -m (flowclip_kit(?:\.\w+)+)", text))
    assert names and all(importlib.util.find_spec(name) for name in names)


# --- snippets -----------------------------------------------------------------------------------------------


def snippets() -> list:
    found = []
    for path in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", markdown(path), re.MULTILINE | re.DOTALL)
        found += [pytest.param(block, id=f"{path.stem}-{number}") for number, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize("code", snippets())
def test_snippets_run_as_they_stand_outside_the_checkout(code, tmp_path):
    if "ablate(" in code:  # minutes of training: tests/test_ablation.py makes the same call at smoke scale
        compile(code, "snippet", "exec")
        return
    code = code.replace('"ViT-B-16", pretrained=None', '"RN50", pretrained=None')  # smaller, the same calls
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment_with_kit(tmp_path), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if "backward" in code:
        assert re.findall(r"(?m)^(\w+)\s+([a-z ]+) \(", done.stdout) == [
            ("forward", "get up"),
            ("backward", "fall down"),
        ]


def environment_with_kit(home: Path) -> dict[str, str]:
    import os

    return os.environ | {
        "PYTHONPATH": str(root()),
        "HF_HUB_OFFLINE": "1",
        "FLOWCLIP_CACHE": str(home / "cache"),
    }


def test_a_sample_clip_of_no_class_names_them_all():
    with pytest.raises(InputError, match=r"no such class; use one of .*fall down.*wave"):
        samples.sample_clip("juggle")


# --- generated parts ----------------------------------------------------------------------------------------


def row(variant: str, metric: str, k: int, mean: float, half: float, dataset: str = "figures-h") -> dict:
    return {"dataset": dataset, "variant": variant, "metric": metric, "k": k, "n": 3, "mean": mean,
            "low": mean - half, "high": mean + half}  # fmt: skip


def test_five_rows_at_the_largest_k_with_the_shuffled_control():
    cells = [
        row(name, metric, k, k + number + (10 if metric == "top1" else 0), 0.25)
        for number, name in enumerate(readme_parts.ROWS)
        for metric in ("top1", "top1_shuffled", "order")
        for k in (2, 16)
    ]
    cells.append(row("clip", "top1", 0, 45, 0))
    lines = readme_parts.table5(pd.DataFrame(cells)).splitlines()
    assert "n = 3" in lines[0] and "k = 16" in lines[0]
    assert lines[2].count("|") == 4 and "HMDB-51" in lines[2]
    assert [line.split("|")[2:4] for line in lines[4:]] == [
        [f" {26 + number}.0 ± 0.2 ", f" {16 + number}.0 ± 0.2 "] for number in range(5)
    ]


def test_verdicts_are_counted_by_what_they_rest_on():
    rows = [("value", "not run")] * 3 + [("difference", "reproduced")] + [("order", "undecided")] * 2
    rows += [("audit", "inconsistent in print"), ("audit", "reproduced")]
    nudged = pd.DataFrame({"moved": [0.0, 0.4, -2.3]})
    text = readme_parts.verdicts(pd.DataFrame(rows, columns=["kind", "verdict"]), nudged)
    assert [float(number) for number in re.findall(r"[\d.]*\d", text)] == [8, 1, 4, 2, 1, 2, 1, 0, 2.3, 1]


def test_the_picture_of_the_method_is_the_one_that_its_script_draws():
    assert book_figures.encoded() == book_figures.encoded()
    if environment.source() == "requirements.lock":
        assert (root() / book_figures.PICTURE).read_bytes() == book_figures.encoded()


def test_minutes_of_table5_are_those_that_were_recorded():
    seconds, cores = first_use.table_seconds("x\non 2 CPU cores\ncold     208.1 s\nwarm 1 s\n")
    assert (seconds, cores) == (208.1, 2)
    with pytest.raises(InputError, match="bench table --record"):
        first_use.table_seconds("cold")


def test_minutes_of_the_first_use_stand_between_their_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n{}\nold\n{}\nafter\n".format(*first_use.MARKS))
    first_use.record("new", readme)
    assert readme.read_text() == "before\n{}\nnew\n{}\nafter\n".format(*first_use.MARKS)
    readme.write_text("before\n")
    with pytest.raises(InputError, match="lacks the lines"):
        first_use.record("new", readme)


def test_every_recorded_claim_becomes_a_file_with_its_evidence(tmp_path, capsys):
    import yaml

    assert claim_files.main([str(tmp_path / "claims")]) == 0
    register = pd.read_csv(root() / "results" / "claims.csv", dtype=str).fillna("")
    files = {path.stem: path.read_text() for path in (tmp_path / "claims").glob("*.md")}
    assert files.keys() == {*register["id"], "index"}
    for claim in register.to_dict("records"):
        _, front, text = files[claim["id"]].split("---\n", 2)
        assert {name: yaml.safe_load(front).get(name, "") for name in claim_files.FIELDS} == {
            name: claim[name] for name in claim_files.FIELDS
        }
        assert claim["statement"] in text and claim["reason"] in text and claim["mean"] in text
    assert capsys.readouterr().out.startswith(f"{len(register)} claims")


# --- the book -----------------------------------------------------------------------------------------------


def test_links_to_other_files_lead_to_the_repository_or_stand_as_code(tmp_path, monkeypatch):
    page, known = Path("notebooks/page.md"), {"notebooks/other.md", "README.md"}
    text = "[a](other.md#x) [b](../flowclip_core/config.py) [c](../README.md#y)\n```\n[d](../setup.py)\n```\n"
    plain = book.relink(text, page, known, tmp_path)
    assert plain.split("\n")[0] == "[a](other.md#x) `flowclip_core/config.py` [c](../index.md#y)"
    assert "[d](../setup.py)" in plain
    monkeypatch.setenv("FLOWCLIP_REPOSITORY", "me/kit")
    assert "[b](https://github.com/me/kit/tree/main/flowclip_core/config.py)" in book.relink(
        text, page, known, tmp_path
    )


def test_dead_links_of_a_book_are_named(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">x</a><a href="b.html#away">y</a><img src="c.png">'
    )
    (tmp_path / "b.html").write_text('<p id="here"></p><a href="https://example.org/x">z</a>')
    assert sorted(book.dead_links(tmp_path)) == ["a.html: b.html has no #away", "a.html: no c.png"]


def test_a_book_without_its_tools_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "TOOLS", ("flowclip_no_such_tool",))
    with pytest.raises(InputError, match=r"flowclip_no_such_tool .*\./reproduce\.sh extra book"):
        book.build(tmp_path / "book")
    assert not [*tmp_path.iterdir()]


@pytest.mark.filterwarnings("ignore")  # Sphinx and its extensions warn each other of their futures
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in book.TOOLS),
    reason="the book's tools are not installed",
)
def test_the_book_is_built_without_a_warning_and_all_its_links_lead_somewhere(tmp_path):
    first = book.build(tmp_path / "book")
    assert first.exists() and (tmp_path / "book" / "searchindex.js").exists()
    api = (tmp_path / "book" / "api.html").read_text()
    assert 'id="flowclip_core.training.loop.train"' in api
    pages = {path.stem: path.read_text() for path in (tmp_path / "book" / "notebooks").glob("*.html")}
    assert "tag_hide-input" in pages["table5"]


# --- other machines -----------------------------------------------------------------------------------------


def test_workflows_forms_and_machines_are_well_formed():
    import yaml

    kinds = [
        *(root() / ".github").rglob("*.yml"),
        root() / "binder" / "environment.yml",
        root() / "CITATION.cff",
    ]
    for path in kinds:
        assert yaml.safe_load(path.read_text()), path
    for path in (root() / ".github" / "workflows").glob("*.yml"):
        steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
        assert all(("uses" in step) != ("run" in step) for step in steps), path
    for path in (root() / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        fields = {field["id"]: field for field in yaml.safe_load(path.read_text())["body"]}
        assert "reproduce.sh doctor" in fields["doctor"]["attributes"]["label"], path
    json.loads((root() / ".devcontainer" / "devcontainer.json").read_text())


def test_binder_has_what_the_kit_needs():
    import yaml
    from packaging.requirements import Requirement

    pip = {
        folder: yaml.safe_load((root() / folder / "environment.yml").read_text())["dependencies"][-1]["pip"]
        for folder in (".", "binder")
    }
    by_conda = {"torch", "torchvision"}
    for_tests = {"nbval", "pytest", "pytest-xdist", "ruff", "mypy"}
    needed = {line for line in pip["."] if Requirement(line).name not in by_conda | for_tests}
    assert needed <= set(pip["binder"])
