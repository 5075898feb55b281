"""What the tests of faults share: a fault is an input, the exit code that it must give, and the line that
says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from flowclip_kit.cli import main


class Fault(NamedTuple):
    """One way in which a user's input, or a file on the disk, is wrong.

    number: the kind of fault, a letter and a number ('B6'). given: makes the input in an empty folder and
    returns the words of the command line. line: a regular expression that a line of what the command says
    must match; with code 2 it is the last line on stderr.
    """

    number: str
    name: str
    given: Callable[[Path], Sequence[object]]
    code: int
    line: str

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


def answer(capsys, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, run in this process."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def check(fault: Fault, folder: Path, capsys) -> None:
    """The command ends with the code, says the line, and never with a traceback."""
    code, out, err = answer(capsys, *fault.given(folder))
    assert code == fault.code, err or out
    assert "Traceback" not in err
    said = [line for line in (err if fault.code == 2 else out + err).splitlines() if line.strip()]
    said = said[-1:] if fault.code == 2 else said  # notices may come before it
    assert any(re.search(fault.line, line) for line in said), said
