"""Record what was measured, and write the tables of it.

In: rows, one at a time. Out: `results/BENCHMARK.json`, and the generated tables in
docs/performance.md. A table stands between two markers, `<!-- generated:BENCHMARK -->` and
`<!-- /generated -->`, and is replaced as a whole. Text outside the markers is never changed.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BENCHMARKS = (
    *("pacing", "sources", "cost", "alternatives", "profile"),
    *("commits", "scale", "startup", "uvloop", "keys"),
)

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"

_GENERATED = re.compile(
    r"(?P<start><!-- generated:(?P<benchmark>\w+) -->\n).*?(?P<end><!-- /generated -->)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure.

    Attributes:
        full: use the sizes for the record, which take minutes.
        seconds: length of each pacing run; None for the usual length.
        options: options of `bulkcert simulate` for the pacing runs, each as `NAME=VALUE`.
    """

    full: bool = False
    seconds: float | None = None
    options: tuple[str, ...] = ()

    @property
    def command_line(self) -> str:
        """These settings as options on the command line."""
        words = ["--full"] if self.full else []
        if self.seconds is not None:
            words.append(f"--seconds {self.seconds:g}")
        words += [f"--option {option}" for option in self.options]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        label: names the row within its benchmark. Measuring it again replaces it.
        n: number of operations, rows, keys or starts.
        figures: each value by its name, which includes the unit, in the order to show them.
    """

    label: str
    n: int
    figures: Mapping[str, float | str]


def record(benchmark: str, settings: Settings, row: Row) -> None:
    """Write a row to the benchmark's file and update the tables."""
    rows = recorded(benchmark)
    rows[row.label] = {
        "n": row.n,
        "figures": dict(row.figures),
        "command": f"python -m benchmarks {benchmark} {settings.command_line}".rstrip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "machine": _machine(),
        "load": round(os.getloadavg()[0], 1),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    _replace(RESULTS / f"{benchmark}.json", text)
    write_tables()


def recorded(benchmark: str) -> dict[str, Any]:
    """Read the recorded rows of a benchmark, by label; empty if it was never measured."""
    path = RESULTS / f"{benchmark}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_tables() -> None:
    """Bring every generated table up to date with the recorded results."""
    _replace(DOCUMENT, with_tables(DOCUMENT.read_text()))


def with_tables(document: str) -> str:
    """Return the document with the content of every generated block replaced."""

    def block(found: re.Match[str]) -> str:
        return found["start"] + table(recorded(found["benchmark"])) + found["end"]

    return _GENERATED.sub(block, document)


def table(rows: Mapping[str, Any]) -> str:
    """Format rows as a Markdown table, with a line below it that says how they were measured.

    Each row becomes a line, or a column if that makes the table narrower.
    """
    if not rows:
        return "Not measured.\n"
    names = list(dict.fromkeys(name for row in rows.values() for name in row["figures"]))
    grid = [["", "n", *names]]
    for label, row in rows.items():
        figures = row["figures"]
        cells = [shown(figures[name]) if name in figures else "" for name in names]
        grid.append([label, shown(row["n"]), *cells])
    if len(grid[0]) > len(grid):
        grid = [list(line) for line in zip(*grid, strict=True)]
    commands = ", ".join(f"`{command}`" for command in _each("command", rows))
    dates = sorted(_each("date", rows))
    loads = sorted(_each("load", rows))
    return (
        f"{_markdown(grid)}\n{commands}\\\n"
        f"{_span(dates)} UTC, load {_span(loads)}; {'; '.join(_each('machine', rows))}\n"
    )


def shown(value: float | str) -> str:
    """Format a value with three significant digits, and whole numbers in full."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:#.3g}" if value else "0"


def _markdown(grid: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        " | ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in grid
    ]
    rule = " | ".join(
        "-" * (width - 1) + (":" if number else "-") for number, width in enumerate(widths)
    )
    return "".join(f"| {line} |\n" for line in [lines[0], rule, *lines[1:]])


def _each(name: str, rows: Mapping[str, Any]) -> list[Any]:
    """Return the different values of one entry, in the order in which they first appear."""
    return list(dict.fromkeys(row[name] for row in rows.values()))


def _span(values: Sequence[Any]) -> str:
    return f"{values[0]} to {values[-1]}" if len(values) > 1 else f"{values[0]}"


def _machine() -> str:
    """Name the processor, its cores, the system and the Python version."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return (
        f"{os.cpu_count()} × {model}, {platform.system()} {platform.release().split('-')[0]},"
        f" Python {platform.python_version()}"
    )


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.rename(path)
