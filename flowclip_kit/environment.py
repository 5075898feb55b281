"""What the kit needs installed, whether this Python has it, and where it was installed from.

Set-up runs it as a file, before anything is installed, so it needs the standard library alone:
`python -I flowclip_kit/environment.py check | stamped | stamp SOURCE`.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # as a file; an isolated Python does not look beside it
    sys.path.insert(0, str(ROOT))

from flowclip_core.errors import InputError, notice  # noqa: E402

PROJECT = ROOT / "pyproject.toml"
LOCK = ROOT / "requirements.lock"
EXTRAS = ROOT / "requirements-extras.lock"
VENV = ROOT / ".venv"
STAMP = VENV / "flowclip-stamp"


# --- what is needed and what is there -----------------------------------------------------------------------


def requirements() -> list[str]:
    """The dependencies in pyproject.toml; those of the wheel where only that is installed."""
    if PROJECT.is_file():
        return tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    from importlib import metadata

    return [line for line in metadata.requires("flowclip") or () if "extra ==" not in line]


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version of each distribution; None where it is absent."""
    from importlib import metadata

    installed: dict[str, str | None] = {}
    for name in names:
        try:
            # A half-removed distribution has metadata without a version: absent, like one without metadata.
            installed[name] = metadata.version(name) or None
        except (metadata.PackageNotFoundError, KeyError):
            installed[name] = None
    return installed


def missing(wanted: Iterable[str]) -> list[str]:
    """The requirements that apply to this platform and that the running Python does not satisfy."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # any environment that pip made has pip's copy
        from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]

    lacking = []
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        version = versions([requirement.name])[requirement.name]
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            lacking.append(line)
    return lacking


def extra(name: str) -> dict[str, str]:
    """An extra's pins by package, from requirements-extras.lock. Raises InputError for an unknown extra."""
    _, *parts = re.split(r"^# \[([a-z]+)\]\n", EXTRAS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    if name not in sections:
        raise InputError(f"extra {name!r} is unknown; use {', '.join(sections)}")
    return {pin.partition("==")[0]: f"{pin}\n" for pin in re.split(r"\n(?=\S)", sections[name].strip())}


# --- what was installed from where --------------------------------------------------------------------------


def lock_hash() -> str:
    """Hex SHA-256 of requirements.lock; "none" outside a checkout."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest() if LOCK.is_file() else "none"


def source() -> str:
    """Where this Python's packages came from, for records: the file set-up took, or "own environment"."""
    if Path(sys.prefix).resolve() != VENV.resolve() or not STAMP.exists():
        return "own environment"
    return STAMP.read_text(encoding="utf-8").splitlines()[0]


def _conditions() -> str:
    """What must not have changed since set-up for its work to count."""
    needs = hashlib.sha256("\n".join(requirements()).encode()).hexdigest()
    return f"lock {lock_hash()}\nneeds {needs}\npython {platform.python_version()}\nat {ROOT}\n"


def write_stamp(taken_from: str) -> None:
    """Declare .venv complete: set-up's last act, so that a kill at any moment leaves no stamp."""
    # For programs that use .venv without reproduce.sh, such as an editor that runs a notebook.
    Path(sysconfig.get_path("purelib"), "flowclip.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    part = STAMP.with_suffix(".part")
    part.write_text(f"{taken_from}\n{_conditions()}", encoding="utf-8")
    part.replace(STAMP)


def stamped() -> bool:
    """Whether .venv was completed for today's lock and list of dependencies, and for the running Python."""
    try:
        return STAMP.read_text(encoding="utf-8").partition("\n")[2] == _conditions()
    except OSError:
        return False


def _check() -> int:
    lacking = missing(requirements())
    print(*lacking, sep="\n")
    return 1 if lacking else 0


def main(arguments: list[str]) -> int:
    """Entry point of the file as a script; 0 yes or done, 1 no. Raises InputError for other arguments."""
    match arguments:
        case ["check"]:
            return _check()
        case ["stamped"]:
            return 0 if stamped() else 1
        case ["stamp", taken_from]:
            write_stamp(taken_from)
            return 0
    raise InputError("environment.py: expected check, stamped or stamp SOURCE")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InputError, OSError) as problem:
        notice(str(problem))
        sys.exit(2)
