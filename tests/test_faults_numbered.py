"""Every kind of fault has its rows or its tests, under its number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NUMBERS = "A1 A2 A3 A4 A5 B6 B7 C8 C9 C10 D11 D12 E13 E14 E15 E16 F17 F18 F19".split()
TESTS = "\n".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_is_tried(number):
    assert re.search(rf'Fault\(\s*"{number}"|fault\("{number}"|def test_{number}_|"{number}",', TESTS)
