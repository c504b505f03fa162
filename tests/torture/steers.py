"""Steers a run from outside while it is tortured, and logs what was in force, and when.

In: what to do, from the scenario. Out: a `campaign_history.Steering`: spans in which nothing may
leave, rates, and every go. A span begins when somebody said that it is in force: `bulkcert control`
itself, or the run's own report in its store, which names the very pause or check. It ends before
anything is done to lift it. So whatever leaves in between is the fault of the run.

Works in a thread of its own, while processes of the run are started and killed in another one.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from campaign_history import Go, Quiet, Rate, Steering
from processes import Command

IN_FORCE_WITHIN_S = 15.0
"""How long it may take until a run reports that it stands still. If it does not, there is no span:
the process may have been killed, or be waiting for responses that never come."""

CONTROL_S = 60.0
"""How long `bulkcert control` may take, on a busy machine."""

WINDOW_SHIFT_S = 12 * 3600
"""By how much the clock is set to close a window, and again to open it: clocks of a campaign only
go forward."""

REOPENING_SHIFT_S = 18 * 3600
"""By how much the clock is set to open a window that has closed by itself."""


@dataclass(frozen=True)
class Steer:
    """One thing that is done to a run.

    Attributes:
        what: pause, PAUSE, rate, stop, window, closing, check hold, check abort. A window closes by
            `window` because the clock is set, and by `closing` because it is time.
        after_s: how long after the one before.
        for_s: how long it lasts.
        value: the rate.
    """

    what: str
    after_s: float
    for_s: float = 0.0
    value: int = 0

    def __str__(self) -> str:
        return f"{self.what}{f' {self.value}' if self.value else ''}"


class SteeredRun(Protocol):
    """A run, as whoever steers it knows it."""

    @property
    def word(self) -> object:
        """What names it on the command line."""

    def is_planned(self) -> bool:
        """Whether it is there."""

    def report(self) -> dict[str, Any]:
        """The figures of the last process; empty if there are none yet."""


@dataclass(frozen=True)
class LocalRun:
    """A run in its directory."""

    run_dir: Path

    @property
    def word(self) -> object:
        return self.run_dir

    def is_planned(self) -> bool:
        return (self.run_dir / "checkpoint.sqlite3").exists()

    def report(self) -> dict[str, Any]:
        path = (self.run_dir / "checkpoint.sqlite3").absolute().as_uri()
        with contextlib.closing(sqlite3.connect(f"{path}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            with contextlib.suppress(sqlite3.OperationalError):  # busy, or just begun
                row = db.execute("SELECT * FROM sessions ORDER BY id DESC LIMIT 1").fetchone()
                if row is not None:
                    return dict(row) | {"reasons": json.loads(row["reasons"] or "[]")}
        return {}


@dataclass
class Steersman:
    """Steers a run.

    Args:
        job: its job file.
        run: the run.
        steers: what is done to it.
        shift_clock: sets the clock of the run forward, by seconds.
        is_running: whether a process works on the run.
        closes_at: when the window closes by itself, as Unix time of this process; infinite if it
            does not.
        environment: of the commands.
    """

    job: Path
    run: SteeredRun
    steers: list[Steer]
    shift_clock: Callable[[int], object]
    is_running: Callable[[], bool]
    closes_at: float = math.inf
    environment: Mapping[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    _quiet: list[Quiet] = field(default_factory=list)
    _rates: list[Rate] = field(default_factory=list)
    _goes: list[Go] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)
    _controls: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self._thread = threading.Thread(target=self._steer, daemon=True)
        self.check_says(0)

    @property
    def steering(self) -> Steering:
        """What was done so far."""
        with self._lock:
            return Steering(
                quiet=list(self._quiet),
                rates=list(self._rates),
                goes=list(self._goes),
                controls=list(self._controls),
            )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Steer for as long as the context lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    def check_says(self, code: int, reason: str = "") -> None:
        """Let the outside check end like this from now on."""
        answer = self.job.parent / "answer"
        new = answer.with_suffix(".new")
        new.write_text(f"{code} {reason}\n")
        new.replace(answer)

    # ---- on the thread

    def _steer(self) -> None:
        try:
            for steer in self.steers:
                if not self._pass(steer.after_s):
                    return
                self._do(steer)
            while self._pass(0.2):
                pass
        except Exception as error:
            self.failures.append(f"steering failed: {type(error).__name__}: {error}")

    def _pass(self, seconds: float) -> bool:
        """Let time pass, and say go whenever the run waits for it; False when all is over."""
        end = time.monotonic() + seconds
        while not self._over.wait(min(0.1, max(0.0, end - time.monotonic()))):
            self._say_go()
            if time.monotonic() >= end:
                return True
        return False

    def _do(self, steer: Steer) -> None:
        if not self.run.is_planned() and steer.what != "closing":  # which comes, whatever there is
            return
        self.done.append(str(steer))
        self._number += 1
        name = f"{steer.what} {self._number}"
        match steer.what:
            case "pause":
                begin = self._control("pause")
                self._last(begin, "paused", steer.for_s, lambda: self._control("resume"))
            case "PAUSE":
                file = self.job.parent / "run" / "PAUSE"
                file.write_text(name)
                begin = self._reported(name)
                self._last(begin, "paused by PAUSE", steer.for_s, file.unlink)
            case "rate":
                begin = self._control("rate", str(steer.value))
                end = self._wait(steer.for_s)
                self._control("rate", "max")
                if begin is not None:
                    with self._lock:
                        self._rates.append(Rate(steer.value, begin, end))
            case "stop":
                self._control("stop")
            case "window":
                before = self.run.report().get("updated_at") or 0.0
                self.shift_clock(WINDOW_SHIFT_S)
                begin = self._reported("closed", before + WINDOW_SHIFT_S / 2)
                self._last(
                    begin,
                    "outside its window",
                    steer.for_s,
                    lambda: self.shift_clock(WINDOW_SHIFT_S),
                )
            case "closing":
                self._wait(max(0.0, self.closes_at - time.time()))
                self._last(
                    self.closes_at,
                    "outside its window",
                    steer.for_s,
                    lambda: self.shift_clock(REOPENING_SHIFT_S),
                )
            case "check hold":
                self.check_says(1, name)
                begin = self._reported(name)
                self._last(begin, "held", steer.for_s, lambda: self.check_says(0))
            case "check abort":
                self.check_says(10, name)
                self._wait(steer.for_s)
                self.check_says(0)
            case _:
                raise ValueError(steer.what)

    def _last(
        self, begin: float | None, why: str, for_s: float, lift: Callable[[], object]
    ) -> None:
        """Let something last for a while, then lift it."""
        span = Quiet(why, math.inf if begin is None else begin)
        with self._lock:
            self._quiet.append(span)
        end = self._wait(for_s)
        with self._lock:
            self._quiet[self._quiet.index(span)] = span._replace(end=end)
        lift()

    def _wait(self, seconds: float) -> float:
        """Wait, but no longer than the run; return the time."""
        self._over.wait(seconds)
        return time.time()

    def _control(self, verb: str, value: str = "") -> float | None:
        """Run `bulkcert control`; return when it said that it is in force, or None."""
        why = ("--why", f"{verb} {self._number}")
        words = ("control", verb, self.run.word, *filter(None, [value]), *why)
        command = Command(words, self.job.parent, dict(self.environment), measured=False)
        ended = command.wait(CONTROL_S)
        at = time.time()
        if ended.code not in {0, 1, 2}:
            self.failures.append(f"control {verb} {value}: exit code {ended.code}: {ended.err}")
        if ended.code == 2 and "over" not in ended.err:
            self.failures.append(f"control {verb} {value}: {ended.err}")
        if ended.code:
            self.done.append(f"{verb} not in force")
            return None
        if verb != "stop":
            with self._lock:
                self._controls.append((verb, value))
        return at

    def _say_go(self) -> None:
        """Say go, if that is what the run waits for."""
        if not self.run.is_planned():
            return
        for reason in self.run.report().get("reasons", ()):
            _, found, wave = reason.partition("(go ")
            if found and wave.rstrip(")") not in self._said:
                go = Go(wave.rstrip(")"), time.time())
                with self._lock:  # it may be on record even if nobody confirms it
                    self._goes.append(go)
                if self._control("go", go.wave) is not None:
                    self._said.add(go.wave)

    # ---- what the run reports

    def _reported(self, text: str, after: float = 0.0) -> float | None:
        """Wait until the run reports a reason with this text, and that nothing is under way, or
        until no process works on it; return the time then, or None."""
        end = time.monotonic() + IN_FORCE_WITHIN_S
        while time.monotonic() < end and not self._over.is_set():
            if not self.is_running():
                return time.time()
            report = self.run.report()
            if (
                any(text in reason for reason in report.get("reasons", ()))
                and not report["open_requests"]
                and report["updated_at"] > after
            ):
                return time.time()
            time.sleep(0.02)
        return None
