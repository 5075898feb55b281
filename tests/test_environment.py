"""The reader of environment.yml and versions against slow twins, the lock against ranges, reproduce.sh."""

from __future__ import annotations

import itertools
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from flowclip_core.errors import InputError
from flowclip_kit import environment
from flowclip_kit.experiments.catalogue import ALL_TARGETS
from flowclip_kit.parser import TARGETS, parser

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "reproduce.sh"


def pip_list(text: str) -> list[str]:
    """Slow twin: all of YAML."""
    return next(item["pip"] for item in yaml.safe_load(text)["dependencies"] if isinstance(item, dict))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock_lines(text: str | None = None) -> list[tuple[str, str, str]]:
    """Name, version and marker of every pin."""
    text = (ROOT / "requirements.lock").read_text() if text is None else text
    return re.findall(r"^([a-z0-9-]+)==(\S+?)(?: ; (.*?))? \\$", text, re.MULTILINE)


# ---- reader


ODD = [
    """
dependencies:
  - python=3.11
  - pip
  - pip:
      - torch>=2.14
      - av
""",
    """
dependencies:
- pip:
  - torch>=2.14   # why

  # a line of its own
  - 'av>=16'
- zlib
""",
    """
dependencies:
    -   pip:   # the list
        -    torch
        - "decord>=0.6; sys_platform == 'linux'"
name: x
""",
    """
dependencies:
  - pip:
    - decord>=0.6; sys_platform == 'linux' and platform_machine == 'x86_64'  # the last quote stays
    - decord2; sys_platform != 'linux'
""",
    """
dependencies:
  - pip:
      - 'decord; sys_platform == ''linux'''  # doubled quotes
      - '# not a comment'
      - a#b
""",
    """
dependencies:
  - pipx
  - 'pip:fake'
  - pip:
      - tqdm    \n
channels:
  - conda-forge
""",
]


@pytest.mark.parametrize("text", ODD)
def test_reader_agrees_with_yaml(tmp_path, text):
    path = tmp_path / "environment.yml"
    path.write_text(text)
    assert environment.requirements(path) == pip_list(text)


def test_reader_agrees_with_yaml_on_the_real_file():
    found = environment.requirements()
    assert found == pip_list((ROOT / "environment.yml").read_text()) and len(found) > 10


@pytest.mark.parametrize(
    "text", ["", "name: x\n", "dependencies:\n  - pip\n  - torch\n", "dependencies:\n  - pip:\n"]
)
def test_reader_without_a_list_names_the_file(tmp_path, text):
    path = tmp_path / "odd.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match="odd.yml: no '- pip:' list"):
        environment.requirements(path)


# ---- versions, markers


@pytest.mark.parametrize(
    ("version", "range_", "holds"),
    [
        ("2.15.0", ">=2.14", True),
        ("2.9", ">=2.14", False),
        ("2.13.0+cpu", ">=2.14", False),
        ("2.15.0+cpu", ">=2.14", True),
        ("2.15.0+cpu", "==2.15", True),
        ("2.14.0rc1", ">=2.14", False),
        ("2.15.0.dev20260101+cu130", ">=2.14", True),
        ("2.14.post1", ">=2.14", True),
        ("3.0rc1", "<3", False),
        ("1!0.1", ">=2.14", True),
        ("2.14", ">=2.1, <2.15,!=2.14.1", True),
        ("2.14.1", ">=2.1,!=2.14.1", False),
        ("0.1", "", True),
    ],
)
def test_version_ranges(version, range_, holds):
    assert environment.satisfies(version, range_) is holds


def test_versions_agree_with_packaging():
    draw = random.Random(0)
    releases = ["0", "1", "1.0", "1.0.1", "1.9", "1.10", "2.14", "2.14.0"]
    endings = ["", "a1", "b2", "rc1", "rc2", ".post1", ".dev3", "a1.dev2", "rc1.post2", ".post1.dev1"]
    texts = [r + e for r in releases for e in endings]
    for one, two in itertools.product(texts, texts):
        ours = (environment.version_key(one) > environment.version_key(two)) - (
            environment.version_key(one) < environment.version_key(two)
        )
        assert ours == (Version(one) > Version(two)) - (Version(one) < Version(two)), (one, two)
    for one in texts:
        version = one + draw.choice(["", "+cpu", "+cu132"])
        for sign, bound in itertools.product((">=", "<=", "==", "!=", "<", ">"), releases):
            want = SpecifierSet(sign + bound).contains(version, prereleases=True)
            assert environment.satisfies(version, sign + bound) == want, (version, sign + bound)


@pytest.mark.parametrize("bad", ["~=1.0", "==1.*", "1.0", ">=", ">=one"])
def test_ranges_that_are_not_understood_are_refused(bad):
    with pytest.raises(ValueError):
        environment.satisfies("1.0", bad)


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("machine", ["x86_64", "arm64", "aarch64"])
def test_markers_agree_with_packaging(monkeypatch, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    here = {"sys_platform": system, "platform_machine": machine}
    markers = [m for *_, m in map(environment.split_requirement, environment.requirements()) if m]
    markers += ["sys_platform=='linux' or platform_machine != \"arm64\" and sys_platform != 'win32'"]
    for marker in markers:
        assert environment.applies(marker) == Marker(marker).evaluate(here), marker
    assert environment.applies("")


def test_exactly_one_decord_applies():
    wanted = map(environment.split_requirement, environment.requirements())
    assert [environment.applies(m) for n, _, m in wanted if n.startswith("decord")].count(True) == 1


@pytest.mark.parametrize(
    "bad", ["python_version >= '3.8'", "extra == 'x'", "sys_platform", "(sys_platform == 'linux')"]
)
def test_markers_that_are_not_understood_are_refused(bad):
    with pytest.raises(ValueError, match="only sys_platform"):
        environment.applies(bad)


# ---- what is installed


def test_missing_finds_what_is_absent_too_old_or_for_here():
    here = f"sys_platform == '{sys.platform}'"
    wanted = [
        "pytest",
        "pytest>=1",
        "PyTest[dev] >=1",
        "pytest>=9999",
        "flowclip-no-such>=1",
        f"flowclip-no-such; {here}",
        "flowclip-no-such; sys_platform == 'plan9'",
    ]
    assert environment.missing(wanted) == [wanted[3], wanted[4], wanted[5]]


def test_this_environment_is_complete():
    assert environment.missing(environment.requirements()) == []


def test_versions():
    assert environment.versions(["pytest", "flowclip-no-such"]) == {
        "pytest": pytest.__version__,
        "flowclip-no-such": None,
    }


# ---- lock


def test_every_requirement_is_pinned_within_its_range():
    pins = lock_lines()
    assert len(pins) > 100
    for requirement in environment.requirements():
        name, range_, marker = environment.split_requirement(requirement)
        found = [(version, where) for pin, version, where in pins if pin == normal(name)]
        assert found, f"{requirement}: not in requirements.lock; make the lock again"
        for version, _ in found:
            assert environment.satisfies(version, range_), f"{requirement}: requirements.lock has {version}"
        for system, machine in itertools.product(("linux", "darwin"), ("x86_64", "arm64")):
            world = {"sys_platform": system, "platform_machine": machine}
            world |= {"python_version": "3.11", "python_full_version": "3.11.9"}
            pinned = [version for version, where in found if not where or Marker(where).evaluate(world)]
            assert len(pinned) == (not marker or Marker(marker).evaluate(world)), (requirement, world)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-extras.lock"])
def test_every_pin_has_a_hash_and_the_lock_names_no_host(name):
    text = (ROOT / name).read_text()
    for block in re.findall(r"^[a-z0-9-]+==.*(?:\n    .*)*", text, re.MULTILINE):
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert "://" not in text and len(lock_lines(text)) == len(re.findall("^[^# ]", text, re.MULTILINE))


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_pinned_in_its_range_and_fits_the_lock(extra, monkeypatch):
    monkeypatch.setattr(environment, "versions", lambda names: dict.fromkeys(names))  # nothing is here
    pins = lock_lines(environment.extra(extra))
    for requirement in EXTRAS[extra]:
        name, range_, _ = environment.split_requirement(requirement)
        assert [
            environment.satisfies(version, range_) for pin, version, _ in pins if pin == normal(name)
        ] == [True]
    locked = {}
    for name, version, _ in lock_lines():
        locked.setdefault(name, set()).add(version)
    assert all(version in locked.get(name, {version}) for name, version, _ in pins)
    assert any(name not in locked for name, *_ in pins)


def test_an_extra_leaves_out_what_is_installed_in_whatever_version(tmp_path, monkeypatch):
    one = "\n".join(
        (
            r"flowclip-no-such==1.0 ; python_version > '3' \\",
            "    --hash=sha256:aa \\",
            "    --hash=sha256:bb",
        )
    )
    (tmp_path / "lock").write_text(
        f"# How it is made\n# [ray]\npytest==0.1 \\\n    --hash=sha256:cc\n{one}\n# [x]\na==1\n"
    )
    monkeypatch.setattr(environment, "EXTRAS", tmp_path / "lock")
    assert environment.extra("ray") == f"{one}\n"
    with pytest.raises(ValueError, match="extra 'y' is unknown; use ray, x"):
        environment.extra("y")


def test_lock_hash_follows_the_bytes(tmp_path, monkeypatch):
    before = environment.lock_hash()
    copy = tmp_path / "requirements.lock"
    copy.write_bytes(environment.LOCK.read_bytes())
    monkeypatch.setattr(environment, "LOCK", copy)
    assert environment.lock_hash() == before
    copy.write_bytes(copy.read_bytes() + b"\n")
    assert environment.lock_hash() != before


def test_the_stamp_holds_until_what_it_names_changes(tmp_path, monkeypatch):
    for name in ("LOCK", "ENVIRONMENT"):
        copy = tmp_path / name
        copy.write_bytes(getattr(environment, name).read_bytes())
        monkeypatch.setattr(environment, name, copy)
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda _: str(tmp_path))
    assert not environment.stamped()
    environment.write_stamp("requirements.lock")
    assert environment.stamped() and environment.source() == "own environment"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert environment.source() == "requirements.lock"
    for path in (environment.LOCK, environment.ENVIRONMENT):
        content = path.read_bytes()
        path.write_bytes(content + b"#")
        assert not environment.stamped()
        path.write_bytes(content)
    assert environment.stamped()
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert not environment.stamped()


# ---- as scripts


def run(*command: str | Path, **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)),
        env=os.environ | settings,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_the_reader_runs_as_a_file_with_the_standard_library_alone():
    alone = run(sys.executable, "-I", "-S", environment.__file__, "requirements")
    assert alone.stdout.splitlines() == environment.requirements(), alone.stderr
    assert (
        run(sys.executable, "-I", "-S", environment.__file__, "lock-hash").stdout.strip()
        == environment.lock_hash()
    )
    assert run(sys.executable, "-I", environment.__file__, "nonsense").returncode == 2


def test_check_names_what_is_missing():
    bare = run(sys.executable, "-I", "-S", environment.__file__, "check")
    assert bare.returncode == 1 and "torch>=2.14" in bare.stdout.splitlines()
    assert run(sys.executable, environment.__file__, "check").returncode == 0


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_target_and_option_at_once(arguments):
    start = time.monotonic()
    done = run(SCRIPT, *arguments)
    assert done.returncode == 0 and not done.stderr and time.monotonic() - start < 10
    for target in (
        "table1 figure3a all readings report notebook data predict list verify lab test doctor extra".split()
    ):
        assert re.search(rf"^    {target}\b", done.stdout, re.MULTILINE), target


def test_every_command_explains_itself_and_all_its_options_without_packages():
    """The parser of a bare Python, which sees no installed package."""
    options = "profile data-root dataset results seeds device jobs decoder backbone pretrained record engine ray-address"
    wanted = {
        "table5": options,
        "predict": "labels label labels-file checkpoint json",
        "doctor": "decoders sample",
    }
    for command, named in wanted.items():
        done = run(SCRIPT, command, "--help")
        assert done.returncode == 0 and not done.stderr
        for option in named.split():
            assert re.search(rf"^  --{option}\b", done.stdout, re.MULTILINE), option
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from flowclip_kit.parser import parser; print(parser())"
    )
    assert run(sys.executable, "-I", "-S", "-c", code, str(ROOT)).returncode == 0


def test_no_option_lacks_its_help():
    (commands,) = parser()._subparsers._group_actions
    assert {*TARGETS} == {*ALL_TARGETS, "all"}
    assert {name for name in commands.choices} >= {*TARGETS, "lab", "test", "bench", "extra"}
    silent = [
        (name, action.dest)
        for name, one in commands.choices.items()
        for action in one._actions
        if not action.help
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tabel5"], "did you mean table5?"),
        (["table5", "--profil", "demo"], "did you mean --profile?"),
        (["table5", "--device", "gpu"], "choose from"),
    ],
)
def test_typos_are_told_what_was_meant(words, said):
    with pytest.raises(InputError, match=re.escape(said)):
        parser().parse_args(words)


@pytest.mark.parametrize("python", ["/nonexistent", "false"])
def test_a_python_that_does_not_do_is_one_line_and_exit_2(python):
    done = run(SCRIPT, "list", PYTHON=python)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and f"PYTHON={python}" in done.stderr


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What reproduce.sh needs to add an extra that is nowhere to be had, and an installer that notes its
    call."""
    for name in ("reproduce.sh", "environment.yml", "requirements.lock", "flowclip_kit/environment.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "requirements-extras.lock").write_text(
        "# [ray]\nflowclip-no-such==1.0 \\\n    --hash=sha256:aa\n"
    )
    (tmp_path / "active/bin").mkdir(parents=True)
    note = 'echo "$@" >"$NOTED"\nfor file; do :; done\ncat "$file" >>"$NOTED"\nexit "$CODE"'
    for name, does in (("python", f'exec "{sys.executable}" "$@"'), ("uv", note)):
        (tmp_path / "active/bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "active/bin" / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("code", [0, 1])
def test_an_extra_is_added_to_the_active_environment_without_its_dependencies(checkout, code):
    active, noted = checkout / "active", checkout / "noted"
    done = run(
        checkout / "reproduce.sh", "extra", "ray", VIRTUAL_ENV=str(active), NOTED=str(noted), CODE=str(code)
    )
    assert (done.returncode, done.stdout) == (2 * code, ""), done.stderr
    called, *pins = noted.read_text().splitlines()
    assert called.startswith(f"pip install --python {active}/bin/python --require-hashes --no-deps -r ")
    assert (
        pins == ["flowclip-no-such==1.0 \\", "    --hash=sha256:aa"] and not Path(called.split()[-1]).exists()
    )
    said = "it cannot be installed here" if code else f"added to {active}"
    assert (
        done.stderr.splitlines()[-1] == f"reproduce.sh: extra ray: {said}" + ", for the reason above" * code
    )


@pytest.mark.parametrize(
    ("extra", "said"), [((), "extra: which? ray or browser"), (("x",), "'x' is unknown; use ray")]
)
def test_an_unknown_extra_is_refused_in_one_line(checkout, extra, said):
    done = run(checkout / "reproduce.sh", "extra", *extra, VIRTUAL_ENV=str(checkout / "active"))
    assert (
        done.returncode == 2 and said in done.stderr.splitlines()[-1] and len(done.stderr.splitlines()) == 2
    )


def test_scripts_parse():
    for script in (SCRIPT, ROOT / ".ci" / "run"):
        assert run("bash", "-n", script).returncode == 0
        assert os.access(script, os.X_OK)
