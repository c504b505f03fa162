"""The records and documents of the benchmarks; nothing is measured here."""

from __future__ import annotations

import importlib
import re
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import profile, results, scale
from benchmarks.commits import plan_store
from benchmarks.results import BENCHMARKS, DOCUMENT, RESULTS, ROOT, shown, table
from bulkcert.model import State
from bulkcert.store.sqlite import SqliteReader


def _row(n: int, figures: dict[str, float | str], **changes: object) -> dict[str, object]:
    origin = {"command": "python -m benchmarks x", "machine": "2 × CPU", "load": 0.5}
    return {"n": n, "figures": figures, **origin, "date": "2026-11-22 01:00", **changes}


def test_the_generated_tables_match_the_recorded_results() -> None:
    document = DOCUMENT.read_text()
    assert document == results.with_tables(document), "run: python -m benchmarks --tables"


def test_each_benchmark_has_one_table_in_the_document() -> None:
    names = re.findall(r"<!-- generated:(\w+) -->", DOCUMENT.read_text())
    assert sorted(names) == sorted(BENCHMARKS)


def test_each_record_belongs_to_a_benchmark() -> None:
    guards = {"instructions"}  # these have no table
    assert {path.stem for path in RESULTS.glob("*.json")} == set(BENCHMARKS) | guards


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_can_be_started_and_is_in_the_readme(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{name}").run)
    assert f"| `{name}` |" in (ROOT / "benchmarks" / "README.md").read_text()


def test_a_changed_record_makes_the_document_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {"a": _row(1, {"figure": 1.0})}
    monkeypatch.setattr(results, "recorded", lambda benchmark: changed)
    document = DOCUMENT.read_text()
    assert document != results.with_tables(document)


def test_text_outside_the_markers_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "recorded", lambda benchmark: {})
    document = "before\n<!-- generated:x -->\nold\n<!-- /generated -->\nafter\n"
    expected = "before\n<!-- generated:x -->\nNot measured.\n<!-- /generated -->\nafter\n"
    assert results.with_tables(document) == expected


def test_rows_are_lines_when_there_are_more_of_them_than_figures() -> None:
    rows = {label: _row(10, {"per s": 1.5}) for label in ("a", "b", "c")}
    assert table(rows).splitlines()[:4] == [
        "|   |  n | per s |",
        "| - | -: | ----: |",
        "| a | 10 |  1.50 |",
        "| b | 10 |  1.50 |",
    ]


def test_rows_are_columns_when_there_are_fewer_of_them_than_figures() -> None:
    rows = {"a": _row(1000, {"s": 0.25, "kind": "fast"}), "b": _row(7, {"s": 12.0})}
    assert table(rows).splitlines()[:5] == [
        "|      |     a |    b |",
        "| ---- | ----: | ---: |",
        "| n    | 1,000 |    7 |",
        "| s    | 0.250 | 12.0 |",
        "| kind |  fast |      |",
    ]


def test_the_lines_below_a_table_say_how_it_was_measured() -> None:
    rows = {
        "a": _row(1, {"s": 1.0}, load=0.9, date="2026-11-22 01:30"),
        "b": _row(1, {"s": 1.0}, load=0.5, command="python -m benchmarks x --full"),
    }
    assert table(rows).splitlines()[-2:] == [
        "`python -m benchmarks x`, `python -m benchmarks x --full`\\",
        "2026-11-22 01:00 to 2026-11-22 01:30 UTC, load 0.5 to 0.9; 2 × CPU",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.84213, "0.842"),
        (1.1, "1.10"),
        (97.52, "97.5"),
        (328.17, "328.2"),
        (3047.2, "3,047"),
        (30_001, "30,001"),
        ("1.12 to 1.51", "1.12 to 1.51"),
    ],
)
def test_figures_have_three_digits_or_are_whole(value: float | str, text: str) -> None:
    assert shown(value) == text


def test_each_path_that_marks_a_part_of_the_profile_exists() -> None:
    marks = {mark for marks in (profile.ANYWHERE | profile.INNERMOST).values() for mark in marks}
    ours = {mark for mark in marks if mark.startswith(("bulkcert/", "benchmarks/"))}
    assert not [mark for mark in sorted(ours) if not (ROOT / mark).exists()]
    assert ours


def test_samples_are_counted_by_the_first_part_that_they_belong_to() -> None:
    samples = (
        "main (bulkcert/run.py:1);load (importlib/x.py:3);f (aiohttp/y.py:4) 5\n"
        "main (bulkcert/run.py:1);send (aiohttp/client.py:10) 3\n"
        "main (bulkcert/run.py:1);send (aiohttp/client.py:12) 2\n"
        "main (bulkcert/run.py:1) 1\n"
    )
    assert profile.count_parts(samples) == {"imports": 5, "aiohttp": 5, "the rest": 1}


def test_the_half_way_state_is_one_that_a_store_can_have(tmp_path: Path) -> None:
    n = 200
    path = plan_store(tmp_path, n)
    scale.edit_half_way(path, n)
    assert scale.settled(path) == n // 2
    with closing(SqliteReader(path)) as reader:
        counts = reader.counts()
        records = list(reader.records([State.SUCCEEDED]))
    assert counts == {
        State.SUCCEEDED: n // 2,
        State.IN_FLIGHT: scale.IN_FLIGHT,
        State.PLANNED: n - n // 2 - scale.IN_FLIGHT,
    }
    assert len(records) == n // 2
