"""Run `bulkcert` with longer intervals: `python benchmarks/stretched.py FACTOR run JOB ...`.

For a program that counts instructions and is slower than the processor by that factor. Whatever
happens at intervals, such as a commit, then happens once for as many operations as it does at full
speed; else its share would grow, and vary with the load of the machine.
"""

from __future__ import annotations

import sys
from dataclasses import is_dataclass
from math import inf
from typing import Any

from bulkcert import timings

_INTERVALS = {
    "check_every_s": inf,
    "commit_every_s": inf,
    "gate_every_s": timings.HostTimings().beat_every_s,  # no longer than that, on any host
    "progress_every_s": inf,
    "write_every_s": inf,
}
"""How long each of them may become."""


def stretch(factor: float) -> None:
    """Multiply the defaults of some intervals. To be called before anything else is imported."""
    for kind in (timings.LatenessTimings, timings.MetricsTimings, timings.Timings):
        defaults: dict[str, Any] = kind.__init__.__kwdefaults__ or {}
        for name, value in defaults.items():
            if name in _INTERVALS:
                defaults[name] = min(value * factor, _INTERVALS[name])
            elif is_dataclass(value):
                defaults[name] = type(value)()  # with the defaults of now


if __name__ == "__main__":
    factor = float(sys.argv.pop(1))
    stretch(factor)
    sys.setswitchinterval(factor * sys.getswitchinterval())  # between the threads
    from bulkcert.cli import main  # takes the intervals as they are now

    main()
