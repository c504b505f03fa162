"""docs/glossary.md: each term stands once, in one sentence, and lives where it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/glossary.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| term ", "| --- "))
]
NEEDED = (
    *("job", "target", "operation", "step", "attempt", "look-up", "outcome", "state", "in doubt"),
    *("idempotent", "settling time", "fan-out", "next page", "run", "run directory", "store"),
    *("checkpoint", "session", "ceiling", "pacer", "source", "tripped", "half-open", "probe"),
    *("circuit breaker", "action handler", "channel", "call", "ledger", "rehearsal", "simulator"),
    *("provider", "action", "plan", "attempt result", "look-up result", "response", "last error"),
    *("step data", "queue", "ready slot", "recorded result", "durable"),
)


def names(path: Path) -> set[str]:
    """Return every name that a module defines: classes, functions, attributes, constants."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                found.add(node.name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Assign(targets=[ast.Attribute(attr=name)]):
                found.add(name)
    return found


def test_it_has_every_term_once() -> None:
    terms = [row[0] for row in ROWS]
    assert set(NEEDED) <= set(terms)
    assert len(terms) == len(set(terms))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_term_has_one_sentence_and_lives_where_it_says(row: list[str]) -> None:
    _, meaning, where = row
    assert meaning[0].isupper()
    assert re.fullmatch(r"[^.]+(\.\w[^.]*)*\.", meaning), "one sentence"
    place = re.fullmatch(r"`([\w/]+\.py)`(?:: (`\w+`(?:, `\w+`)*))?", where)
    assert place
    path = ROOT / place[1]
    assert path.is_file()
    for name in re.findall(r"\w+", place[2] or ""):
        assert name in names(path)
