"""docs/vendor-pages.md: each statement has what is done about it, and tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs/vendor-pages.md").read_text()
TABLES = DOCUMENT[DOCUMENT.index("\n## EnOS: ") :]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TABLES.splitlines()
    if line.startswith("| ") and not line.startswith(("| statement ", "| --- "))
]


@cache
def names_in(path: str) -> frozenset[str]:
    """Names of the tests in a file."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, functions))


def test_all_four_pages_are_covered() -> None:
    assert len(re.findall(r"^## ", TABLES, re.M)) == 4
    assert len(ROWS) > 140


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_statement_names_tests_that_exist(row: list[str]) -> None:
    statement, done, shown_by = row
    assert statement
    assert done
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown_by)
    assert len(named) == shown_by.count("::") > 0
    for path, name in named:
        assert name in names_in(path), f"{path}::{name}"
