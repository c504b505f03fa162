"""Measures how much is under way when a run aborts.

    python tests/torture/overshoot.py [--aborts 50] [--latency 0.3] [--rate 500]

Revokes devices of which the provider knows only the first ones, a random number of them, so that
`[abort]` trips at full speed. Counts, for each abort, the attempts that were open when the
response arrived that tripped the rule, and those that left after it. The first may be at most
`in_flight`, the second should be none. The exit code is 1 otherwise.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # as pytest has it

from enos_vendor import ENOS  # noqa: E402 - found by the line above
from harness import ProcessJob  # noqa: E402 - found by the line above
from processes import SimulatorProcess  # noqa: E402 - found by the line above

UNKNOWN = 2000
"""Devices that the provider does not know: more than leave before the run stops."""

MOST_FAILED = 10
IN_FLIGHT = (20, 100, 1000)


class Overshoot(NamedTuple):
    """Attempts after the response that tripped the rule.

    Attributes:
        open: had left before it, and ended after it.
        left: left after it.
    """

    open: int
    left: int


def main() -> int:
    """Measure, and print the figures for each limit of requests in flight."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aborts", type=int, default=50)
    parser.add_argument("--latency", type=float, default=0.3)
    parser.add_argument("--rate", type=int, default=500)
    arguments = parser.parse_args()
    rng, exceeded = random.Random(1), False
    known = [{"assetId": f"A{number:04}", "certSn": number} for number in range(600)]
    for in_flight in IN_FLIGHT:
        found = []
        with tempfile.TemporaryDirectory() as name, simulator(Path(name), known, arguments) as it:
            for number in range(arguments.aborts):
                folder = Path(name) / str(number)
                folder.mkdir()
                rows = known[: rng.randrange(50, len(known))]
                found.append(abort(folder, it, rows, in_flight, arguments.rate))
        for what, most in (("open", in_flight), ("left", 0)):
            figures = [getattr(each, what) for each in found]
            sys.stdout.write(
                f"in_flight {in_flight}, {len(found)} aborts: {what} after the trip: median"
                f" {statistics.median(figures):g}, maximum {max(figures)}, allowed {most}\n"
            )
            sys.stdout.flush()
            exceeded |= max(figures) > most
    return exceeded


def simulator(folder: Path, known: list[dict[str, object]], options: argparse.Namespace) -> Any:
    """A simulator that knows some devices."""
    fleet = folder / "fleet.csv"
    fleet.write_text(
        "assetId,certSn\n" + "".join(f"{row['assetId']},{row['certSn']}\n" for row in known)
    )
    return SimulatorProcess(
        folder / "ledger.jsonl",
        files={"fleet": fleet},
        latency=options.latency,
        latency_spread=0.1,
        revoke_again="ok",
    )


def abort(
    folder: Path,
    simulator: SimulatorProcess,
    known: list[dict[str, object]],
    in_flight: int,
    rate: int,
) -> Overshoot:
    """Let a run abort, and count."""
    unknown = [{"assetId": f"X{number:04}", "certSn": number} for number in range(UNKNOWN)]
    job = ProcessJob(folder, ENOS, "revoke", [*known, *unknown], simulator)
    job.write(
        limits={"requests_per_second": rate, "in_flight": in_flight},
        abort={"failed": MOST_FAILED},
        circuit_breaker={"failing_share": 2},
    )
    # a plan is carried out once, so each run is by another user
    ended = job.run(environment={**job.credentials, "XDG_STATE_HOME": str(folder)})
    assert ended.code == 4, ended
    with sqlite3.connect(job.run_dir / "checkpoint.sqlite3") as db:
        (tripped,) = db.execute(
            "SELECT operation FROM settled WHERE state = 'failed' ORDER BY id LIMIT 1 OFFSET ?",
            (MOST_FAILED,),
        ).fetchone()
        (tripped_at,) = db.execute(
            "SELECT max(ended_at) FROM history WHERE operation = ?", (tripped,)
        ).fetchone()
        sent = db.execute("SELECT sent_at FROM history WHERE ended_at > ?", (tripped_at,))
        left = [sent_at > tripped_at for (sent_at,) in sent if sent_at is not None]
    db.close()
    return Overshoot(left.count(False), left.count(True))


if __name__ == "__main__":
    sys.exit(main())
