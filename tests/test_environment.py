"""The one list of dependencies, its lock, what is installed here, and the stamp on .venv."""

from __future__ import annotations

import itertools
import platform
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flowclip_core.errors import InputError
from flowclip_kit import environment

REQUIREMENTS = list(map(Requirement, environment.requirements()))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SYSTEMS = list(itertools.product(("linux", "darwin", "win32"), ("x86_64", "arm64", "aarch64")))


def pins(text: str) -> list[Requirement]:
    """Every pin of a lock, without its hashes."""
    lines = re.findall(r"^[a-z0-9-]+==.*?(?= \\$)", text, re.MULTILINE)
    return [Requirement(line) for line in lines]


LOCKED = pins(environment.LOCK.read_text())


def applies(requirement: Requirement, system: str, machine: str) -> bool:
    world = {"sys_platform": system, "platform_machine": machine}
    world |= {"python_version": "3.11", "python_full_version": "3.11.9"}
    return requirement.marker is None or requirement.marker.evaluate(world)


# --- the list


def test_environment_yml_shows_the_same_list_to_conda():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip["pip"] == environment.requirements() and conda == ["python=3.11", "pip"]
    assert PROJECT["requires-python"] == ">=3.11" and "dependencies" not in PROJECT.get("dynamic", ())
    asked = "torch open_clip_torch jupyterlab papermill decord pandas matplotlib seaborn ipywidgets nbval"
    assert {requirement.name for requirement in REQUIREMENTS} >= {*asked.split()}


@pytest.mark.parametrize(("system", "machine"), SYSTEMS)
def test_exactly_one_decord_applies(system, machine):
    decords = [requirement for requirement in REQUIREMENTS if requirement.name.startswith("decord")]
    assert [applies(decord, system, machine) for decord in decords].count(True) == 1


# --- what is installed


@pytest.mark.parametrize("source", ["packaging", "pip"])
def test_missing_finds_what_is_absent_or_too_old_here(source, monkeypatch):
    if source == "pip":
        pytest.importorskip("pip")
        monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    here = f"sys_platform == '{sys.platform}'"
    wanted = [
        "pytest",
        "PyTest[dev] >=1",
        "pytest>=9999",
        "flowclip-no-such>=1",
        f"flowclip-no-such; {here}",
        "flowclip-no-such; sys_platform == 'plan9'",
    ]
    assert environment.missing(wanted) == wanted[2:5]
    assert environment.missing(environment.requirements()) == []
    monkeypatch.setattr(environment, "versions", lambda names: dict.fromkeys(names, "2.15.0rc1+cpu"))
    assert environment.missing(["torch>=2.14"]) == []  # a pre-release counts by its order


def test_versions():
    installed = {"pytest": pytest.__version__, "flowclip-no-such": None}
    assert environment.versions(installed) == installed


def test_check_runs_as_a_file_and_names_what_is_missing(tmp_path):
    """In a checkout that wants one package more."""
    (tmp_path / "flowclip_kit").mkdir()
    (tmp_path / "flowclip_core").symlink_to(ROOT / "flowclip_core")
    script = tmp_path / "flowclip_kit/environment.py"
    script.write_bytes((ROOT / "flowclip_kit/environment.py").read_bytes())
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = ['pytest', 'flowclip-no-such>=1']\n")

    def run(*words: object) -> tuple[int, str, str]:
        command = [sys.executable, "-I", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        return done.returncode, done.stdout, done.stderr

    assert run(script, "check") == (1, "flowclip-no-such>=1\n", "")
    assert run("-S", script, "stamped") == (1, "", "")  # without any package
    assert run(environment.__file__, "check") == (0, "\n", "")
    code, _, said = run(script, "nonsense")
    assert code == 2 and said.count("\n") == 1


# --- the lock


def test_every_requirement_is_pinned_once_within_its_range():
    assert len(LOCKED) > 100
    for requirement in REQUIREMENTS:
        name = canonicalize_name(requirement.name)
        named = [pin for pin in LOCKED if pin.name == name]
        assert named, f"{requirement}: not in requirements.lock; make the lock again (see pyproject.toml)"
        for pin in named:
            (version,) = (specifier.version for specifier in pin.specifier)
            assert requirement.specifier.contains(version, prereleases=True), (requirement, pin)
        for system in SYSTEMS:
            found = [pin for pin in named if applies(pin, *system)]
            assert len(found) == applies(requirement, *system), (requirement, system)


@pytest.mark.parametrize("path", [environment.LOCK, environment.EXTRAS], ids=lambda path: path.name)
def test_every_pin_has_a_hash_and_no_lock_names_a_host(path):
    text = path.read_text()
    blocks = re.findall(r"^[^# \n].*(?:\n    .*)*", text, re.MULTILINE)
    assert blocks and len(blocks) == len(pins(text)) and "://" not in text
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_an_extra_is_pinned_in_its_range_and_fits_the_lock(extra):
    found = pins("".join(environment.extra(extra).values()))
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        (pin,) = (pin for pin in found if pin.name == requirement.name)
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("=="))
    locked: dict[str, set] = {}
    for pin in LOCKED:
        locked.setdefault(pin.name, set()).add(pin.specifier)
    assert all(pin.specifier in locked.get(pin.name, {pin.specifier}) for pin in found)
    assert any(pin.name not in locked for pin in found)


def test_F17_the_installer_is_pinned_with_its_hash():
    assert list(environment.extra("uv")) == ["uv"]
    with pytest.raises(InputError, match="extra 'y' is unknown; use ray, browser, uv"):
        environment.extra("y")


# --- the stamp


def test_the_stamp_holds_until_what_it_names_changes(tmp_path, monkeypatch):
    for name in ("LOCK", "PROJECT"):
        copy = tmp_path / name
        copy.write_bytes(getattr(environment, name).read_bytes())
        monkeypatch.setattr(environment, name, copy)
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "STAMP", tmp_path / ".venv/stamp")
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda _: str(tmp_path))
    assert not environment.stamped()
    environment.write_stamp("requirements.lock")
    assert environment.stamped() and environment.source() == "own environment"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert environment.source() == "requirements.lock"
    lock_hash = environment.lock_hash()
    for path, word in ((environment.LOCK, b"torch=="), (environment.PROJECT, b"torch>=")):
        content = path.read_bytes()
        path.write_bytes(content.replace(word, b"other" + word))
        assert not environment.stamped()
        assert (environment.lock_hash() != lock_hash) == (path == environment.LOCK)
        path.write_bytes(content)
    assert environment.stamped()
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert not environment.stamped()
