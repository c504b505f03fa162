"""Carries out scenarios with several hosts, and prints one row for each.

    python -m tests.hosts --list
    python -m tests.hosts [NAME ...] [--repeat N] [--keep FOLDER] [--quiet]

The exit code is 1 if anything happened that should not have.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as pytest has it

from hosts import scenarios
from hosts.judge import Figures
from hosts.network import INSIDE, enter
from hosts.scenario import Scenario, scenario

assert scenarios  # it fills `scenario`

HEADER = ("scenario", "steady/s", "busiest", "twice", "lost", "late", "unknown", "take-over")
WIDTHS = (30, 8, 7, 5, 5, 5, 7, 12)


def main() -> int:
    arguments = _arguments()
    known = scenario.by_name
    if arguments.list:
        for each in known.values():
            _print(f"{each.name:30} {each.text}")
        return 0
    if unknown := set(arguments.names) - known.keys():
        _print(f"no scenario is called {', '.join(sorted(unknown))}; --list shows them all")
        return 2
    import os

    enter()
    inside = INSIDE in os.environ
    if not inside:
        _print("hosts share this machine's loopback interface: namespaces need root")
    chosen = [known[name] for name in arguments.names] or list(known.values())
    rows = []
    with tempfile.TemporaryDirectory(prefix="hosts-") as scratch:
        root = Path(arguments.keep or scratch)
        for repetition in range(arguments.repeat):
            for each in chosen:
                if each.needs_namespaces and not inside:
                    _print(f"{each.name}: skipped, it needs network namespaces")
                    continue
                folder = root / f"{each.name}-{repetition + 1}"
                folder.mkdir(parents=True)
                rows.append(_play(each, folder, arguments.quiet))
    _print("\n" + _row(HEADER) + " verdict")
    for row, _ in rows:
        _print(row)
    failed = sum(not good for _, good in rows)
    _print(f"{failed} of {len(rows)} have failed" if failed else "all have kept their promises")
    return 1 if failed else 0


def _play(each: Scenario, folder: Path, quiet: bool) -> tuple[str, bool]:
    _print(f"\n{each.name}: {each.text}")
    began_at = time.monotonic()
    try:
        figures = each.play(folder, (lambda _: None) if quiet else lambda what: _print("  " + what))
    except Exception as error:  # whatever it is, the others are carried out
        traceback.print_exc()
        figures = Figures(complaints=[f"{type(error).__name__}: {str(error)[:2000]}"])
    for complaint in figures.complaints:
        _print(f"  WRONG: {complaint}")
    takeover = (
        f"{min(figures.takeover_s):.1f}-{max(figures.takeover_s):.1f} s"
        if figures.takeover_s
        else "-"
    )
    cells = (
        each.name,
        f"{figures.steady:.0f}",
        str(figures.busiest),
        *map(str, (figures.twice, figures.lost, figures.late, figures.unknown)),
        takeover,
    )
    good = not figures.complaints
    took = f"{time.monotonic() - began_at:.0f} s"
    row = f"{_row(cells)} {'ok' if good else 'FAILED'}, {took}"
    _print("  " + row)
    return row, good


def _row(cells: tuple[str, ...]) -> str:
    first, *rest = zip(cells, WIDTHS, strict=True)
    return " ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__)
    parser.add_argument("names", nargs="*", help="scenarios; all of them by default")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--repeat", type=int, default=1, help="carry out each so many times")
    parser.add_argument("--keep", default="", help="folder in which everything is kept")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")
    return parser.parse_args()


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
