"""Instructions per operation of a small run: does a change spend CPU that nobody has seen?

    make bench-check                                compare this checkout with the recorded figures
    make bench-check ARGS='--against ../before'     with another checkout, both measured now
    make bench-check ARGS=--record                  record the figures of this checkout

Time varies by a tenth from run to run; the number of instructions does not. They are counted by
`perf stat` where the processor's counters can be read, else by `valgrind --tool=callgrind`, which
is slower by a factor of fifty. The two have a record each, since they do not count the same.

Two runs that differ in nothing but their length are measured, and one is subtracted from the other,
so that starting and ending drop out. What remains are the operations: planned, claimed, sent,
recorded, and shown to nobody. The server is a process of its own and is not counted. Intervals are
as much longer as the counter is slower, see `benchmarks.stretched`. A figure outside the bounds is
measured again twice, and the median counts.

Exit code 0: within the bounds, or not comparable; 1: outside of them; 2: nothing was measured.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
import signal
import sqlite3
import ssl
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from benchmarks import nginx, stand_in, stretched, workload
from benchmarks.checkouts import check_import, existing_folder
from benchmarks.cost import bulkcert_run
from benchmarks.processes import MissingError, ProgramError
from benchmarks.results import RESULTS

TOLERANCE = 0.03
"""A figure may differ by this much; the measure itself varies by 1 %."""

RECORD = RESULTS / "instructions.json"
SCHEMES = ("http", "https")

SHORT, LONG = 300, 1_300
"""Operations of the two runs. The difference is long enough for a dozen commits."""

IN_FLIGHT = 64
"""As in `benchmarks.cost`."""

ROUNDS = 3

_PACKAGES = ("aiohttp", "multidict", "orjson", "yarl")
"""What else the loop of a run spends its instructions in."""

_STRETCHED = [sys.executable, "-P", str(Path(stretched.__file__))]
"""By its path, because another checkout may not have it."""

_PERF = re.compile(r"^(\d+),[^,]*,instructions", re.MULTILINE)
_CALLGRIND = re.compile(r"^==\d+== Collected *: (\d+)$", re.MULTILINE)
_CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a figure depends on besides the code of this checkout.

    Attributes:
        python: implementation and minor version, processor architecture, and whether the
            interpreter was built with optimization by profile. With another one, a figure says
            nothing about a change.
        versions: of the interpreter and of the libraries that a run spends its time in; a
            difference may come from there.
    """

    python: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls) -> Self:
        """Return those of this process."""
        optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
        minor = ".".join(platform.python_version_tuple()[:2])
        return cls(
            f"{platform.python_implementation()} {minor}, {platform.machine()},"
            f" {'with' if optimized else 'without'} PGO",
            {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _PACKAGES},
                "sqlite": sqlite3.sqlite_version,
                "openssl": ssl.OPENSSL_VERSION.split()[1],
            },
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison has shown.

    Attributes:
        within: whether the figure is within the bounds; None if the two can't be compared.
        text: what to say about it.
    """

    within: bool | None
    text: str


def compared(figure: float, recorded: float, *, tolerance: float = TOLERANCE) -> Verdict:
    """Compare two figures, in instructions per operation."""
    change = figure / recorded - 1
    within = abs(change) <= tolerance
    side = "more" if change > 0 else "less"
    text = f"{figure:,.0f} instructions per operation, {abs(change):.1%} {side} than"
    text += f" {recorded:,.0f}; {'within' if within else 'outside of'} ±{tolerance:.0%}"
    return Verdict(within, text)


def differences(now: Conditions, then: Conditions) -> list[str]:
    """Return which versions are not the recorded ones."""
    return [
        f"{name} {version}, recorded with {then.versions.get(name, 'none')}"
        for name, version in now.versions.items()
        if version != then.versions.get(name)
    ]


def judged(figure: float, entry: Mapping[str, Any], now: Conditions) -> Verdict:
    """Compare a figure with a recorded one, if they can be compared.

    Args:
        figure: in instructions per operation.
        entry: what was recorded, see `entry_of`.
        now: the conditions under which `figure` was measured.
    """
    then = Conditions(entry["python"], entry["versions"])
    if then.python != now.python:
        return Verdict(
            None,
            f"{figure:,.0f} instructions per operation; not comparable: this is {now.python},"
            f" and {entry['instructions']:,} was recorded with {then.python}",
        )
    verdict = compared(figure, entry["instructions"])
    if verdict.within:
        return verdict
    others = "".join(f"\n    another version: {one}" for one in differences(now, then))
    return Verdict(verdict.within, verdict.text + others)


def entry_of(figures: Sequence[float], now: Conditions) -> dict[str, Any]:
    """Return what is recorded: the median of some figures, how far they lie apart, and where."""
    middle = statistics.median(figures)
    return {
        "instructions": round(middle),
        "range": f"{min(figures) / middle - 1:+.1%} to {max(figures) / middle - 1:+.1%}",
        "rounds": len(figures),
        **asdict(now),
        "machine": f"{platform.system()} {platform.release().split('-')[0]}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    }


@dataclass(frozen=True, slots=True)
class Counter:
    """A program that counts the instructions of another in user mode.

    Attributes:
        name: what it is called, here and in the record.
        command: it begins a command with this.
        counted: finds the number in its output.
        slower: by which factor a program is slower under it.
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
    50,
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
        """Measure one checkout once."""
        short, long = (self._run(checkout, n) for n in (SHORT, LONG))
        return (long - short) / (LONG - SHORT)

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
                    _record(counter, scheme, scale)
                elif arguments.against:
                    passed &= _compare_checkouts(arguments.against, scheme, scale, folder)
                else:
                    passed &= _compare(counter, scheme, scale)
    return 0 if passed else 1


def _record(counter: Counter, scheme: str, scale: Scale) -> None:
    figures = [scale.weigh(_CHECKOUT) for _ in range(ROUNDS)]
    record = _recorded()
    entry = record.setdefault(counter.name, {})[scheme] = entry_of(figures, Conditions.here())
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{scheme}: recorded {entry['instructions']:,}, range {entry['range']}", flush=True)


def _compare(counter: Counter, scheme: str, scale: Scale) -> bool:
    entry = _recorded().get(counter.name, {}).get(scheme)
    figures = [scale.weigh(_CHECKOUT)]
    if entry is None:
        print(f"{scheme}: {figures[0]:,.0f} instructions per operation; none recorded")
        return True
    now = Conditions.here()
    verdict = judged(figures[0], entry, now)
    if verdict.within is False:
        figures += [scale.weigh(_CHECKOUT) for _ in range(ROUNDS - 1)]
        verdict = judged(statistics.median(figures), entry, now)
    print(f"{scheme}: {verdict.text}", flush=True)
    return verdict.within is not False


def _compare_checkouts(before: Path, scheme: str, scale: Scale, folder: Path) -> bool:
    check_import(before, folder)
    scale.warm_up(before)
    pairs = [(scale.weigh(before), scale.weigh(_CHECKOUT))]
    if not compared(pairs[0][1], pairs[0][0]).within:
        pairs += [(scale.weigh(before), scale.weigh(_CHECKOUT)) for _ in range(ROUNDS - 1)]
    verdict = compared(*(statistics.median(side) for side in reversed([*zip(*pairs, strict=True)])))
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
