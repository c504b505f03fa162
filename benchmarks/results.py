"""Keeps what was measured, and makes the table of it.

In: rows, as they are measured. Out: `results/NAME.json`, one file for each benchmark, and
README.md, which is made from all of them. A row that was not measured this time stays as it was.
The figures in docs/performance.md are brought up to date, too: there `<!--cost|bare loop|ratio of
CPU-->1.25<!---->` names the benchmark, the key of the row and the figure.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"
_README = _HERE / "README.md"
_GUIDE = _HERE.parent / "docs" / "performance.md"
_QUOTED = re.compile(r"<!--([^|>]+)\|([^|>]+)\|([^|>]+)-->[^<]*<!---->")

ORDER = ("pacing", "sources", "cost", "hotspots", "commits", "scale", "startup", "uvloop", "keys")

_HEAD = """\
# What was measured

Made by `python -m benchmarks` from `results/*.json`; do not edit. Without arguments it measures
everything in a short form, with `--full` in full (about half an hour), with a name that part alone.
A line changes only when it is measured again. All ratios are taken side by side in one run, in
alternation; figures are medians where there is more than one. What they mean for a run is in
[docs/performance.md](../docs/performance.md).

CPU is user and system time of a process with all its children. "load" is the number of processes
that were busy on the machine in the minute before. Where it is well above 1, the machine had other
things to do: times on the wall, rates and pacing suffer from that, CPU times less, ratios least.
The server is nginx with a fixed answer on the same machine, for pacing `bulkcert simulate`.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured.

    Attributes:
        full: sizes that take minutes; else the short form.
        seconds: length of each pacing run, if not the usual one.
        options: `NAME=VALUE`, options of `bulkcert simulate` for the pacing runs.
    """

    full: bool = False
    seconds: float | None = None
    options: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """These settings as they are typed."""
        words = ["--full"] if self.full else []
        if self.seconds is not None:
            words.append(f"--seconds {self.seconds:g}")
        words += [f"--option {option}" for option in self.options]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        key: tells it from the others of its benchmark; what is measured again replaces it.
        what: what was measured, for people.
        n: how many operations, rows, keys or starts.
        figures: name (with the unit) and value, in order.
    """

    key: str
    what: str
    n: int
    figures: Mapping[str, float | str]


def keep(benchmark: str, settings: Settings, row: Row) -> None:
    """Write a row to the benchmark's file, and make the table anew."""
    path = _RESULTS / f"{benchmark}.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    rows[row.key] = {
        "what": row.what,
        "command": f"python -m benchmarks {benchmark} {settings.words}".rstrip(),
        "n": row.n,
        "figures": dict(row.figures),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
    }
    _RESULTS.mkdir(exist_ok=True)
    _replace(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write_table()


def write_table() -> None:
    """Make README.md from all results."""
    parts = [_HEAD]
    for benchmark in ORDER:
        path = _RESULTS / f"{benchmark}.json"
        if not path.exists():
            continue
        parts.append(f"\n## {benchmark}\n")
        parts.append("| what | n | figures | command | date (UTC), load | machine |")
        parts.append("| --- | --: | --- | --- | --- | --- |")
        for row in json.loads(path.read_text()).values():
            figures = "<br>".join(f"{name}: **{shown(v)}**" for name, v in row["figures"].items())
            parts.append(
                f"| {row['what']} | {row['n']:,} | {figures} | `{row['command']}` |"
                f" {row['date']}, {row['load']:.1f} | {row['machine']} |"
            )
    _replace(_README, "\n".join(parts) + "\n")
    _quote()


def _quote() -> None:
    """Bring the figures in docs/performance.md up to date."""

    def figure(found: re.Match[str]) -> str:
        benchmark, key, name = found.groups()
        path = _RESULTS / f"{benchmark}.json"
        rows = json.loads(path.read_text()) if path.exists() else {}
        value = rows.get(key, {}).get("figures", {}).get(name)
        text = "not measured" if value is None else shown(value)
        return f"<!--{benchmark}|{key}|{name}-->{text}<!---->"

    if _GUIDE.exists():
        _replace(_GUIDE, _QUOTED.sub(figure, _GUIDE.read_text()))


def shown(value: float | str) -> str:
    """A value with as many digits as mean something."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """Processor, cores, system and Python of this machine."""
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
