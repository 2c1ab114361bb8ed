"""The table in docs/failures.md names a test for each row, and has a row for each test of failures."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = [line for line in (ROOT / "docs/failures.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
NAMED = {
    (file, name) for row in ROWS for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.rpartition(" | ")[2])
}


def functions(file: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_row_names_a_test_that_exists() -> None:
    assert [row for row in ROWS[2:] if "::test_" not in row] == []
    missing = [f"{file}::{name}" for file, name in sorted(NAMED) if name not in functions(ROOT / file)]
    assert missing == []


def test_every_test_has_a_row() -> None:
    here = Path(__file__)
    tests = {
        (str(file.relative_to(ROOT)), name)
        for file in sorted(here.parent.glob("test_*.py"))
        # Generated inputs are one row, checked by the first test.
        if file != here and not file.name.startswith("test_generated")
        for name in functions(file)
    }
    assert tests - NAMED == set()
