"""What the kit needs installed, and whether this interpreter has it.

Standard library only, and runnable as a file, because reproduce.sh asks before anything is installed:
`python -I flowclip_kit/environment.py requirements|check|extra NAME|lock-hash|stamp SOURCE|stamped|lock FD`.
"""

from __future__ import annotations

import errno
import hashlib
import operator
import os
import platform
import re
import sys
import sysconfig
import time
from pathlib import Path

PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "environment.yml"
LOCK = ROOT / "requirements.lock"
EXTRAS = ROOT / "requirements-extras.lock"
VENV = ROOT / ".venv"

_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)(?:[._-]?(?P<phase>a|b|rc)[._-]?(?P<number>\d*))?"
    r"(?:[._-]?post[._-]?(?P<post>\d*))?(?:[._-]?dev[._-]?(?P<dev>\d*))?(?:\+[a-z0-9._-]+)?",
    re.IGNORECASE,
)
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*?)\s*(?:\[[^]]*\])?\s*(?P<range>[<>=!][^;]*)?(?:;\s*(?P<marker>.+))?"
)
_COMPARISON = re.compile(r"(?P<name>\w+)\s*(?P<sign>==|!=)\s*(?P<quote>['\"])(?P<value>[^'\"]*)(?P=quote)")


def requirements(path: Path | str = ENVIRONMENT) -> list[str]:
    """Items of the `- pip:` list of an environment.yml: one item a line, comments and quotes removed.

    Reads the block style that the file keeps to, not all of YAML. Raises ValueError without such a list.
    """
    found, indent = [], None
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = _without_comment(line).rstrip()
        item = text.lstrip()
        if not item:
            continue
        depth = len(text) - len(item)
        if indent is not None:
            if depth <= indent:
                break
            found.append(_unquoted(item.removeprefix("-").strip()))
        elif re.fullmatch(r"-\s+pip\s*:", item):
            indent = depth
    if not found:
        raise ValueError(f"{path}: no '- pip:' list with one package a line")
    return found


def _without_comment(line: str) -> str:
    """A `#` starts a comment at the line's start or after a space, except inside a quoted item."""
    quoted = re.match(r"\s*-\s*('(?:[^']|'')*'|\"[^\"]*\")", line)
    start = quoted.end() if quoted else 0
    return line[:start] + re.sub(r"(^|\s)#.*", "", line[start:])


def _unquoted(item: str) -> str:
    if len(item) > 1 and item[0] == item[-1] and item[0] in "'\"":
        return item[1:-1].replace("''", "'") if item[0] == "'" else item[1:-1]
    return item


def split_requirement(requirement: str) -> tuple[str, str, str]:
    """Name, version range and marker of one requirement ("" where absent); ValueError if it is none."""
    match = _REQUIREMENT.fullmatch(requirement.strip())
    if not match:
        raise ValueError(f"{requirement!r}: not «name», «name>=1.2» or «name>=1.2; marker»")
    return match["name"], (match["range"] or "").strip(), (match["marker"] or "").strip()


def version_key(version: str) -> tuple:
    """Sort key, PEP 440's order: dev < a < b < rc < release < post. The local part (+cpu) does not count."""
    match = _VERSION.fullmatch(version.strip())
    if not match:
        raise ValueError(f"{version!r}: not a version")
    release = [int(part) for part in match["release"].split(".")]
    while release and release[-1] == 0:
        release.pop()
    after = (1, int(match["post"] or 0)) if match["post"] is not None else (0, 0)
    unfinished = (0, int(match["dev"] or 0)) if match["dev"] is not None else (1, 0)
    if match["phase"]:
        before = (("a", "b", "rc").index(match["phase"].lower()), int(match["number"] or 0))
    else:
        # 2.14.dev1 comes before 2.14a1, a finished release after every rc.
        before = (-1, 0) if match["dev"] is not None and match["post"] is None else (3, 0)
    return int(match["epoch"] or 0), tuple(release), before, after, unfinished


def satisfies(version: str, range_: str) -> bool:
    """Whether a version lies in a range such as ">=2.14,<3" ("" holds all). Pre-releases count by order."""
    for part in filter(None, (part.strip() for part in range_.split(","))):
        match = re.fullmatch(r"(>=|<=|==|!=|>|<)\s*(\S+)", part)
        if not match:
            raise ValueError(f"{range_!r}: only >=, <=, ==, !=, > and < with a version are understood")
        sign, bound = match[1], version_key(match[2])
        # PEP 440: <3 leaves out 3.0rc1 and >2 leaves out 2.0.post1, so finished bounds are compared whole.
        parts = 2 if sign in "<>" and bound[2:] == version_key("0")[2:] else None
        if not _COMPARE[sign](version_key(version)[:parts], bound[:parts]):
            return False
    return True


def applies(marker: str) -> bool:
    """Whether an environment marker on sys_platform and platform_machine holds here ("" always does)."""
    values = {"sys_platform": sys.platform, "platform_machine": platform.machine()}

    def holds(comparison: str) -> bool:
        match = _COMPARISON.fullmatch(comparison.strip())
        if not match or match["name"] not in values:
            raise ValueError(f"{marker!r}: only sys_platform and platform_machine, == or !=, are understood")
        return (values[match["name"]] == match["value"]) == (match["sign"] == "==")

    branches = re.split(r"\s+or\s+", marker.strip()) if marker.strip() else []
    return not branches or any([all([holds(c) for c in re.split(r"\s+and\s+", b)]) for b in branches])


def versions(names: list[str]) -> dict[str, str | None]:
    """Installed version of each distribution; None where it is absent."""
    # Imported here: it takes longer than all that `stamped` does, which every call of reproduce.sh waits for.
    from importlib import metadata

    found = {}
    for name in names:
        try:
            # A half-removed distribution has metadata without a version: absent, like one without metadata.
            found[name] = metadata.version(name) or None
        except (metadata.PackageNotFoundError, KeyError):
            found[name] = None
    return found


def missing(wanted: list[str]) -> list[str]:
    """Those of the requirements that apply on this platform and that the running Python does not satisfy."""
    lacking = []
    for requirement in wanted:
        name, range_, marker = split_requirement(requirement)
        if applies(marker):
            have = versions([name])[name]
            if have is None or not satisfies(have, range_):
                lacking.append(requirement)
    return lacking


def extra(name: str) -> str:
    """What an extra lacks here: the pins of its section in requirements-extras.lock whose packages are
    absent.

    A package that is there stays as it is, whatever its version. ValueError when there is no such extra.
    """
    _, *parts = re.split(r"^# \[([a-z]+)\]\n", EXTRAS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    if name not in sections:
        raise ValueError(f"extra {name!r} is unknown; use {', '.join(sections)}")
    pins = re.split(r"\n(?=\S)", sections[name].strip())
    have = versions([pin.partition("==")[0] for pin in pins])
    return "".join(f"{pin}\n" for pin in pins if have[pin.partition("==")[0]] is None)


def lock_hash() -> str:
    """Hex SHA-256 of requirements.lock."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def source() -> str:
    """Where this Python's packages came from, for records: the file set-up took, or "own environment"."""
    stamp = VENV / "flowclip-stamp"
    if Path(sys.prefix).resolve() != VENV.resolve() or not stamp.exists():
        return "own environment"
    return stamp.read_text(encoding="utf-8").splitlines()[0]


def _stamp_rest() -> str:
    """What must not have changed since set-up for its work to count."""
    needs = hashlib.sha256(ENVIRONMENT.read_bytes()).hexdigest()
    return f"lock {lock_hash()}\nneeds {needs}\npython {platform.python_version()}\nat {ROOT}\n"


def write_stamp(taken_from: str) -> None:
    """Declare .venv complete: set-up's last act, so that a kill at any moment leaves no stamp."""
    # For those who take .venv without reproduce.sh, such as an editor that runs a notebook.
    Path(sysconfig.get_path("purelib"), "flowclip.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    part = VENV / "flowclip-stamp.part"
    part.write_text(f"{taken_from}\n{_stamp_rest()}", encoding="utf-8")
    part.replace(VENV / "flowclip-stamp")


def stamped() -> bool:
    """Whether .venv was completed for today's requirements.lock, environment.yml and this Python."""
    try:
        return (VENV / "flowclip-stamp").read_text(encoding="utf-8").partition("\n")[2] == _stamp_rest()
    except OSError:
        return False


def hold_lock(descriptor: int, path: Path = Path(f"{VENV}.lock")) -> None:
    """Lock the file `path` that the calling shell holds open. The lock is the shell's: it ends with it,
    however.

    Where the file system has no locks, or such as lock nothing, the shells of this machine queue in the file
    itself.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "PID" in line]
        who = f" ({lines[-1].removeprefix('unfinished ')})" if lines else ""
        print(
            f"reproduce.sh: another set-up of this checkout is running{who}; waiting for it", file=sys.stderr
        )
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    except OSError:
        locks = False
    else:
        with path.open("a") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks = False
            except OSError:
                locks = True
    if not locks:
        print(f"reproduce.sh: {path}: this file system has no locks that hold; other machines must not set up this"
              " checkout meanwhile", file=sys.stderr)  # fmt: skip
        _queue(path)


def _queue(path: Path) -> None:
    """Wait until no process before ours in the file `path` is alive. The file may be emptied meanwhile."""
    mine, told = f"unfinished {platform.node()}, PID {os.getppid()}", False
    while True:
        lines = path.read_text(encoding="utf-8").splitlines()
        if mine not in lines:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{mine}\n")
            continue
        before = [line for line in lines[: lines.index(mine)] if _alive(line)]
        if not before:
            return
        if not told:
            print(
                f"reproduce.sh: waiting for another set-up ({before[0].removeprefix('unfinished ')})",
                file=sys.stderr,
            )
            told = True
        time.sleep(0.5)


def _alive(line: str) -> bool:
    """Whether the process that wrote a line runs on this machine."""
    host, _, pid = line.removeprefix("unfinished ").partition(", PID ")
    if host != platform.node() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def main(arguments: list[str]) -> int:
    """Entry point of the file as a script; 0 yes or done, 1 no, 2 wrong use."""
    match arguments:
        case ["requirements"]:
            print(*requirements(), sep="\n")
        case ["check"]:
            lacking = missing(requirements())
            if sys.version_info < PYTHON:
                lacking.insert(0, "python>=" + ".".join(map(str, PYTHON)))
            if lacking:
                print(*lacking, sep="\n")
                return 1
        case ["extra", name]:
            print(extra(name), end="")
        case ["lock-hash"]:
            print(lock_hash())
        case ["stamp", taken_from]:
            write_stamp(taken_from)
        case ["stamped"]:
            return 0 if stamped() else 1
        case ["lock", descriptor]:
            hold_lock(int(descriptor))
        case _:
            print("environment.py: requirements | check | extra NAME | lock-hash", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, ValueError) as problem:
        sys.exit(f"reproduce.sh: {problem}")
