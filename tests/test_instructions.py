"""The guard of the instructions per operation: what it reads, and how it judges."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import stretched
from benchmarks.figures import Conditions, Verdict, compared, entry_of, is_enough, judged
from benchmarks.instructions import (
    CALLGRIND,
    PERF,
    RECORD,
    SCHEMES,
    Counter,
)
from benchmarks.processes import ProgramError

CALLGRIND_OUTPUT = """\
==29506== Callgrind, a call-graph generating cache profiler
Recorded 300 operations.
==29506== Events    : Ir
==29506== Collected : 3947433946
==29506==
==29506== I   refs:      3,947,433,946
"""

PERF_OUTPUT = (
    "Recorded 300 operations.\n2212345678,,instructions:u,812345678,100.00,1.52,insn per\n"
)

UNREADABLE = "<not supported>,,instructions:u,0,100.00,,\n"

HERE = Conditions("CPython 3.11, x86_64, with PGO", {"python": "3.11.7", "aiohttp": "3.14.1"})
RECORDED = entry_of([1_000_000.0], HERE)


@pytest.mark.parametrize(
    ("counter", "output", "instructions"),
    [(CALLGRIND, CALLGRIND_OUTPUT, 3_947_433_946), (PERF, PERF_OUTPUT, 2_212_345_678)],
)
def test_the_number_is_found_in_what_a_counter_prints(
    counter: Counter, output: str, instructions: int
) -> None:
    assert counter.instructions(output) == instructions


@pytest.mark.parametrize(("counter", "output"), [(PERF, UNREADABLE), (CALLGRIND, PERF_OUTPUT)])
def test_no_number_is_an_error(counter: Counter, output: str) -> None:
    with pytest.raises(ProgramError, match=f"{counter.name} has counted nothing"):
        counter.instructions(output)


@pytest.mark.parametrize(
    ("figure", "within", "change"),
    [
        (1_000_000, True, "0.0%"),
        (1_029_000, True, "2.9% more"),
        (971_000, True, "2.9% less"),
        (1_031_000, False, "3.1% more"),
        (969_000, False, "3.1% less"),  # a record that is out of date hides the next change
    ],
)
def test_a_figure_may_differ_by_three_percent(figure: int, within: bool, change: str) -> None:
    verdict = compared(figure, 1_000_000)
    assert verdict.within is within
    assert change in verdict.text
    assert f"{figure:,} instructions per operation" in verdict.text


def test_a_figure_of_another_python_is_not_compared() -> None:
    other = replace(HERE, python="CPython 3.14, x86_64, with PGO")
    verdict = judged(2_000_000, RECORDED, other)
    assert verdict.within is None
    assert "not comparable" in verdict.text
    assert other.python in verdict.text
    assert HERE.python in verdict.text


def test_other_versions_are_named_where_they_may_be_the_cause() -> None:
    newer = replace(HERE, versions={**HERE.versions, "aiohttp": "3.15.0"})
    assert judged(1_000_000, RECORDED, newer).text == judged(1_000_000, RECORDED, HERE).text
    verdict = judged(1_100_000, RECORDED, newer)
    assert verdict.within is False
    assert verdict.text.endswith("another version: aiohttp 3.15.0, recorded with 3.14.1")


@pytest.mark.parametrize(
    ("measured", "rounds", "within", "enough"),
    [
        (1, None, True, True),
        (1, None, None, True),  # not comparable, however often
        (1, None, False, False),
        (2, None, True, False),  # of two, each may be the odd one
        (3, None, False, True),
        (1, 5, True, False),
        (5, 5, False, True),
        (1, 1, False, True),
    ],
)
def test_a_figure_out_of_bounds_is_measured_again(
    measured: int, rounds: int | None, within: bool | None, enough: bool
) -> None:
    assert is_enough(measured, rounds, Verdict(within, "")) is enough


def test_a_record_is_a_median_with_its_range_and_conditions() -> None:
    entry = entry_of([1_010_000.0, 1_000_000.0, 980_000.0], HERE)
    assert entry["instructions"] == 1_000_000
    assert entry["range"] == "-2.0% to +1.0%"
    assert (entry["python"], entry["versions"]) == (HERE.python, HERE.versions)
    assert entry == json.loads(json.dumps(entry))


def test_what_is_recorded_can_be_compared() -> None:
    for entries in json.loads(RECORD.read_text()).values():
        assert set(entries) <= set(SCHEMES)
        for entry in entries.values():
            same = Conditions(entry["python"], entry["versions"])
            assert judged(entry["instructions"], entry, same).within is True


STRETCH = """
from benchmarks.stretched import stretch
stretch(50)
from bulkcert.run import Run
from bulkcert.timings import Timings
given = Run.__init__.__kwdefaults__["timings"]
print(given == Timings(), given.commit_every_s, given.gate_every_s)
print(given.lateness.check_every_s, given.metrics.write_every_s)
"""


@pytest.mark.system
def test_intervals_are_stretched_wherever_they_are_a_default() -> None:
    command = [sys.executable, "-c", STRETCH]
    root = Path(stretched.__file__).parent.parent
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert ended.stdout.split() == ["True", "1.5", "1.0", "0.5", "25.0"]
