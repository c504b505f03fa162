"""The torture run: carries out hundreds of seeded scenarios, and reports which failed.

    python -m tests.torture --seeds 1..300 [--jobs 4] [--kinds revoke,renew] [--keep FOLDER]

Prints one line per seed. For a seed that failed it also prints the violations and the command that
runs this seed alone. The exit code is 1 if any seed failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # as pytest has it

import preload  # noqa: E402 - found by the line above
from scenarios import KINDS, scenario_of  # noqa: E402 - found by the line above
from torture import Report, carry_out  # noqa: E402 - found by the line above


def main() -> int:
    arguments = _arguments()
    first, _, last = arguments.seeds.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    kinds = [name for name in arguments.kinds.split(",") if name]
    failed, codes, ends = [], Counter[int](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        root = Path(arguments.keep or scratch)
        clock = preload.built("shifted_clock", Path(scratch))
        if clock is None:
            _print("clocks are not changed: there is no C compiler")

        def run(seed: int) -> Report:
            folder = root / str(seed)
            folder.mkdir(parents=True)
            return carry_out(scenario_of(seed, kinds), folder, clock)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            for future in as_completed([pool.submit(run, seed) for seed in seeds]):
                report = future.result()
                codes.update(report.codes)
                ends.update(report.ends)
                _print_report(report, kinds)
                if report.violations:
                    failed.append(report.scenario.seed)
    _print(f"{len(seeds)} seeds, {sum(codes.values())} processes; disturbances: {_counts(ends)}")
    _print(f"exit codes: {_counts(codes)}")
    _print(
        f"failed: {', '.join(map(str, sorted(failed)))}"
        if failed
        else "all runs kept their promises"
    )
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seeds", default="1..100", help="A..B, or one seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="scenarios at a time")
    parser.add_argument("--kinds", default="", help=f"some of {', '.join(KINDS)}; default: all")
    parser.add_argument("--keep", default="", help="folder in which everything is kept")
    return parser.parse_args()


def _print_report(report: Report, kinds: list[str]) -> None:
    scenario = report.scenario
    outcomes = " ".join(
        f"{count} {name}"
        for name in ("succeeded", "already_done", "failed", "unknown")
        if (count := report.summary.get(name))
    )
    verdict = "FAILED" if report.violations else "ok"
    _print(f"seed {scenario.seed}: {verdict}, {report.seconds:.0f} s, {outcomes}; {scenario}")
    if report.violations:
        for violation in report.violations[:20]:
            _print(f"    {violation}")
        only = f" --kinds {','.join(kinds)}" if kinds else ""
        _print(
            f"    reproduce: python -m tests.torture --seeds {scenario.seed}{only} --keep FOLDER"
        )


def _counts(counts: Counter[int] | Counter[str]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in counts.most_common()) or "nothing"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
