"""Instructions per operation of a small run: does a change spend CPU that nobody has seen?

    make bench-check                                compare this checkout with the recorded figures
    make bench-check ARGS='--against ../before'     with another checkout, both measured now
    make bench-check ARGS=--record                  record the figures of this checkout

Time varies by a tenth from run to run; the number of instructions does not. They are counted by
`perf stat` where the processor's counters can be read, else by `valgrind --tool=callgrind`, which
is slower by a factor of fifty or more. Each has a record of its own: they do not count the same.

Two runs that differ in nothing but their length are measured, and one is subtracted from the other,
so that starting and ending drop out. What remains are the operations: planned, claimed, sent and
recorded, with no progress shown. The server is a process of its own and is not counted. Intervals
are as much longer as the counter is slower, see `benchmarks.stretched`. A figure outside the bounds
is measured again twice, and the median counts.

Exit code 0: within the bounds, or not comparable; 1: outside of them; 2: nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import nginx, stand_in, stretched, workload
from benchmarks.checkouts import check_import, existing_folder
from benchmarks.cost import bulkcert_run
from benchmarks.figures import ROUNDS, Conditions, compared, entry_of, is_enough, judged
from benchmarks.processes import MissingError, ProgramError
from benchmarks.results import RESULTS

RECORD = RESULTS / "instructions.json"
SCHEMES = ("http", "https")

SHORT, LONG = 300, 2_300
"""Operations of the two runs. The rest of a run varies by 10 million instructions, as much as ten
operations; so the figure varies by 0.5 %."""

IN_FLIGHT = 64
"""As in `benchmarks.cost`."""

_STRETCHED = [sys.executable, "-P", str(Path(stretched.__file__))]
"""By its path, because another checkout may not have it."""

_PERF = re.compile(r"^(\d+),[^,]*,instructions", re.MULTILINE)
_CALLGRIND = re.compile(r"^==\d+== Collected *: (\d+)$", re.MULTILINE)
_CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Counter:
    """A program that counts the instructions of another in user mode.

    Attributes:
        name: what it is called, here and in the record.
        command: it begins a command with this.
        counted: finds the number in its output.
        slower: by which factor a program is slower under it, with something to spare where other
            programs need the processor, too. With fewer operations between two commits than at full
            speed, each would cost more.
    """

    name: str
    command: tuple[str, ...]
    counted: re.Pattern[str]
    slower: int

    def instructions(self, output: str) -> int:
        """Return the number in the output of a program that was run under it.

        Raises:
            ProgramError: there is none.
        """
        found = self.counted.findall(output)
        if not found:
            raise ProgramError(f"{self.name} has counted nothing:\n{output[-2000:]}")
        return int(found[-1])


PERF = Counter("perf", ("perf", "stat", "-x", ",", "-e", "instructions:u"), _PERF, 1)
CALLGRIND = Counter(
    "callgrind",
    ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
    _CALLGRIND,
    100,
)


def usable_counter() -> Counter:
    """Return the one that works here.

    Raises:
        MissingError: there is none.
    """
    if shutil.which("perf"):
        # where the counters can't be read, perf says so and exits with 0
        tried = subprocess.run([*PERF.command, "true"], capture_output=True, text=True, check=False)
        if PERF.counted.search(tried.stderr):
            return PERF
    if shutil.which("valgrind"):
        return CALLGRIND
    raise MissingError("neither `perf stat -e instructions` nor valgrind works here")


class Scale:
    """Counts the instructions per operation of a checkout, always with the same work.

    Args:
        counter: counts them.
        folder: a scratch folder.
        endpoint: of the server, see `benchmarks.stand_in`.
        ca_file: of its certificate, for https.
    """

    def __init__(self, counter: Counter, folder: Path, endpoint: str, ca_file: Path | None) -> None:
        self._counter = counter
        self._folder = folder
        self._jobs = {}
        for n in (SHORT, LONG):
            place = folder / f"{endpoint.partition(':')[0]}-{n}"
            place.mkdir()
            targets = workload.enos_targets(place / "enos.csv", n)
            self._jobs[n] = workload.enos_job(
                place, targets, endpoint, in_flight=IN_FLIGHT, ca_file=ca_file
            )

    def weigh(self, checkout: Path) -> float:
        """Measure one checkout once, and print that: it takes a minute."""
        short, long = (self._run(checkout, n) for n in (SHORT, LONG))
        figure = (long - short) / (LONG - SHORT)
        print(f"  {checkout}: {long:,} - {short:,}; {figure:,.0f} per operation", flush=True)
        return figure

    def warm_up(self, checkout: Path) -> None:
        """Run it without counting, which compiles its modules."""
        bulkcert_run(self._folder, self._jobs[SHORT], SHORT, env=_environment(checkout))

    def _run(self, checkout: Path, n: int) -> int:
        usage = bulkcert_run(
            self._folder,
            self._jobs[n],
            n,
            program=[*self._counter.command, *_STRETCHED, str(self._counter.slower)],
            env=_environment(checkout),
        )
        return self._counter.instructions(usage.output)


def _environment(checkout: Path) -> dict[str, str]:
    return {**workload.environment(checkout), "PYTHONHASHSEED": "0"}


def main() -> int:
    """Measure, and compare or record; return the exit code."""
    arguments = _arguments()
    # A SystemExit unwinds the stack, which stops every program that was started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        counter = usable_counter()
    except MissingError as error:
        print(f"Nothing was measured: {error}. Install either, and try again.", file=sys.stderr)
        return 2
    print(f"Counting with {counter.name}: {LONG:,} operations less {SHORT:,}, on each scheme.")
    rounds = arguments.rounds
    passed = True
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        certificate = nginx.self_signed(folder)
        for scheme in arguments.scheme or SCHEMES:
            tls = certificate if scheme == "https" else None
            with stand_in.serving(folder, tls) as endpoint:
                scale = Scale(counter, folder, endpoint, tls[0] if tls else None)
                scale.warm_up(_CHECKOUT)
                if arguments.record:
                    _record(counter, scheme, scale, rounds or ROUNDS)
                elif arguments.against:
                    check_import(arguments.against, folder)
                    scale.warm_up(arguments.against)
                    passed &= _compare_checkouts(arguments.against, scheme, scale, rounds)
                else:
                    passed &= _compare(counter, scheme, scale, rounds)
    return 0 if passed else 1


def _record(counter: Counter, scheme: str, scale: Scale, rounds: int) -> None:
    figures = [scale.weigh(_CHECKOUT) for _ in range(rounds)]
    record = _recorded()
    entry = record.setdefault(counter.name, {})[scheme] = entry_of(figures, Conditions.here())
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{scheme}: recorded {entry['instructions']:,}, range {entry['range']}", flush=True)


def _compare(counter: Counter, scheme: str, scale: Scale, rounds: int | None) -> bool:
    entry = _recorded().get(counter.name, {}).get(scheme)
    if entry is None:
        print(f"{scheme}: nothing to compare with; none recorded with {counter.name}", flush=True)
        return True
    now, figures = Conditions.here(), list[float]()
    while True:
        figures.append(scale.weigh(_CHECKOUT))
        verdict = judged(statistics.median(figures), entry, now)
        if is_enough(len(figures), rounds, verdict):
            print(f"{scheme}: {verdict.text}", flush=True)
            return verdict.within is not False


def _compare_checkouts(before: Path, scheme: str, scale: Scale, rounds: int | None) -> bool:
    figures: dict[Path, list[float]] = {before: [], _CHECKOUT: []}
    while True:
        for checkout, measured in figures.items():
            measured.append(scale.weigh(checkout))
        recorded, figure = map(statistics.median, figures.values())
        verdict = compared(figure, recorded)
        if is_enough(len(figures[before]), rounds, verdict):
            print(f"{scheme}: {verdict.text}", flush=True)
            return verdict.within is True


def _recorded() -> dict[str, Any]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions")
    parser.add_argument(
        "--record", action="store_true", help=f"record the figures, as medians of {ROUNDS}"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help=f"measure so often, and judge by the median; by default once, and {ROUNDS} times if"
        " that is out of bounds",
    )
    parser.add_argument(
        "--against",
        type=existing_folder,
        metavar="CHECKOUT",
        help="compare with this checkout, measured now, instead of the record",
    )
    parser.add_argument(
        "--scheme", action="append", choices=SCHEMES, help="only this one; can be repeated"
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ProgramError as error:
        print(f"Nothing was measured: {error}", file=sys.stderr)
        sys.exit(2)
