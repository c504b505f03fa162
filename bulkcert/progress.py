"""The progress of one process of a run: how far, how fast, and what delays it.

In: changes that have become durable, and the figures of the pacer and of the circuit breaker. Out:
`Settled` and `Progress` events, and the figures that the store keeps. Decides nothing.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from bulkcert import event_log
from bulkcert.circuit_breaker import BreakerState, CircuitBreaker
from bulkcert.event_log import Happened
from bulkcert.events import Detail, Listener, Notice, Progress, Settled
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    Change,
    LookupKind,
    LookupResult,
    Operation,
    Outcome,
    Slowdown,
    State,
    code_and_text,
)
from bulkcert.quantities import duration, rate
from bulkcert.ratelimit import Pacer
from bulkcert.rules.gate import Reason, ReasonKind
from bulkcert.store.base import OUTCOMES, Session
from bulkcert.taskqueue import NOTHING_WAITS, Waits
from bulkcert.timeleft import TimeLeft

_SENT_AGAIN = frozenset(
    {
        *(AttemptKind.IN_DOUBT, AttemptKind.NOT_SENT, AttemptKind.THROTTLED),
        *(LookupKind.FAILED, LookupKind.NOT_SENT, LookupKind.THROTTLED),
    }
)

_MOST_CODES = 100
"""Codes that are counted apart; a provider that invents codes must not fill the memory."""

RATE_SPAN_S = 10.0
"""The rate is an average over this many seconds."""

SHORTEST_NOTED_PAUSE_S = 0.1
"""A shorter pause, after a stray, is over before anybody has read of it."""

SHORTEST_NOTED_WAIT_S = 1.0
"""Likewise, of operations that wait, where there is nothing else to do."""

UNTHROTTLED_S = 10.0
"""The log says that a slowdown is over when there was none for so long: strays come in bursts."""

FINAL_STATES = (State.SUCCEEDED, State.ALREADY_DONE, State.FAILED, State.UNKNOWN)


class ProgressTracker:
    """Keeps the figures of one process.

    Args:
        counts: operations by state when the process began.
        pacer: counts what was sent, and says whether the provider throttles.
        breaker: says whether the provider fails.
        on_event: called with a `Settled` for each operation that is settled; must not raise.
        log: called with what belongs into the event log of the run.
        clock: seconds since some moment; should go on while this machine is suspended.

    Attributes:
        held: why the rules let nothing leave; to be set by whoever knows them.
    """

    def __init__(
        self,
        counts: dict[State, int],
        pacer: Pacer,
        breaker: CircuitBreaker,
        on_event: Listener,
        clock: Callable[[], float] = time.monotonic,
        log: Callable[[Happened], object] = lambda happened: None,
    ) -> None:
        self.recount(counts)
        self._pacer = pacer
        self._breaker = breaker
        self._on_event, self._log = on_event, log
        self._clock = clock
        self._retried: Counter[str] = Counter()
        self._notices: list[str] = []
        self._breaker_state = breaker.state
        self._throttled_at: float | None = None  # recently, and the log says so
        self.held: tuple[Reason, ...] = ()  # by the rules
        self._aside = ""  # what else the last tick had to say
        self._utilization = 0.0  # that the log knows of
        self._utilization_at = float("-inf")
        self.start()

    def start(self) -> None:
        """Start the clock again: the time before the first operation does not count."""
        self._started_at = time.time()
        self._clock_at_start = self._clock()
        # (time, requests) at the last few ticks
        self._ticks = deque([(self._clock_at_start, 0)])
        self._time_left = TimeLeft(self._clock_at_start, self.settled)

    def recount(self, counts: Mapping[State, int]) -> None:
        """Begin with what the store has, of all hosts.

        Args:
            counts: operations by state.
        """
        self.total = sum(counts.values())
        self._settled = {state: counts.get(state, 0) for state in FINAL_STATES}
        self._settled[State.FAILED] += counts.get(State.FLAWED, 0)

    def retry(self) -> None:
        """Count failed and unknown operations as open again, before the work begins."""
        self._settled[State.FAILED] = self._settled[State.UNKNOWN] = 0
        self.start()

    @property
    def throttled(self) -> int:
        """Responses of the provider that asked to slow down."""
        return self._pacer.throttled_responses

    @property
    def settled(self) -> int:
        """Operations in a final state."""
        return sum(self._settled.values())

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """Operations by outcome; those under way are pending."""
        counts = Counter({Outcome.PENDING: max(0, self.total - self.settled)})
        for state, many in self._settled.items():
            counts[OUTCOMES[state]] += many
        return dict(counts)

    def observe(self, result: AttemptResult | LookupResult) -> None:
        """Count a result after which something is sent again, by its code."""
        if result.kind not in _SENT_AGAIN:
            return
        if result.kind in (AttemptKind.THROTTLED, LookupKind.THROTTLED):
            self.detail(
                f"throttled with {result.code}: pausing for {duration(self._pacer.pause_left_s)},"
                f" then {rate(self._pacer.rate)}"
            )
        if result.code is not None:
            code = str(result.code)
        elif result.kind in (AttemptKind.NOT_SENT, LookupKind.NOT_SENT):
            code = "not_sent"
        else:
            code = "no_response"
        if code not in self._retried and len(self._retried) >= _MOST_CODES:
            code = "other"
        self._retried[code] += 1

    def waits(self, operation: Operation, looked_up: bool, delay_s: float) -> None:
        """Report that an operation is sent or looked up later, and why."""
        error, what = operation.last_error, "looked up" if looked_up else "sent"
        if what == "sent" and (error is not None or operation.in_doubt):
            what = "sent again"
        reason = "" if error is None else code_and_text(error.code, error.message)
        after = f", after {reason}" if reason else ""
        self.detail(f"line {operation.line}: {what} in {duration(delay_s)}{after}")

    def detail(self, text: str) -> None:
        """Send a `Detail`."""
        self._on_event(Detail(text))

    def notify(self, text: str) -> None:
        """Send a `Notice`, and keep it for everybody who looks at this process later."""
        self._notices.append(text)
        self._on_event(Notice(text))

    def durable(self, changes: Sequence[Change]) -> None:
        """Count changes that have become durable."""
        for change in changes:
            if change.fan_out:
                self.total += len(change.fan_out) - 1
            if change.next_page is not None:
                self.total += 1
            if change.finished_at is not None:
                state = State.FAILED if change.state is State.FLAWED else change.state
                self._settled[state] += 1
                self._on_event(
                    Settled(
                        change.line,
                        change.fields,
                        OUTCOMES[state],
                        change.code,
                        change.message,
                        change.request_id,
                        change.attempts,
                        datetime.fromtimestamp(change.finished_at, UTC),
                        change.result,
                    )
                )

    def tick(self, waits: Waits = NOTHING_WAITS) -> Progress:
        """Return the progress now. The rate is an average since the ticks of some seconds ago.

        Args:
            waits: the operations that wait until they are looked up or sent again.
        """
        now, requests = self._clock(), self._pacer.departures
        self._follow_breaker()
        self._follow_throttle(now)
        self._follow_utilization(now)
        ticks = self._ticks
        pause_left_s = self._pacer.pause_left_s
        idle = requests == ticks[-1][1]
        self._time_left.observe(
            now, self.settled, paused=idle and pause_left_s > 0, held=idle and bool(self.held)
        )
        while len(ticks) > 1 and ticks[0][0] < now - RATE_SPAN_S:
            ticks.popleft()
        then, requests_then = ticks[0]
        ticks.append((now, requests))
        span_s = max(now - then, 1e-6)
        left = self.total - self.settled
        self._aside = _waiting(waits) or self._pacer.sharing
        return Progress(
            total=self.total,
            settled=dict(self._settled),
            requests=requests,
            rate=(requests - requests_then) / span_s,
            note=" · ".join(filter(None, (self.delay, self._aside))),
            left_s=self._time_left.seconds(left, pause_left_s, waits.last_s),
            reasons=self.reasons,
            rate_limit=self._pacer.lowered_to,
        )

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why nothing is sent, or less than could be; empty if nothing delays the run."""
        reasons = list(self.held)
        if self._breaker.state is BreakerState.HALF_OPEN:
            failing_for, every_s = self._breaker.failing_for_s, self._breaker.timings.probe_every_s
            probes = f"failing for {duration(failing_for)}, one probe every {every_s:g} s"
            reasons.append(Reason(ReasonKind.HALF_OPEN, f"provider {probes}"))
        if throttling := self._throttling:
            reasons.append(Reason(ReasonKind.THROTTLED, throttling))
        return tuple(reasons)

    @property
    def _throttling(self) -> str:
        """How the provider slows the run down, as a phrase; empty if it does not."""
        if (pause_s := self._pacer.pause_left_s) >= SHORTEST_NOTED_PAUSE_S:
            return f"pausing for {duration(pause_s)}"
        return f"slowed to {rate(self._pacer.rate)}" if self._pacer.slowed else ""

    @property
    def delay(self) -> str:
        """The same for people, in one line; empty if nothing delays the run."""
        return " · ".join(map(str, self.reasons))

    def session(
        self, rate: float, exit_code: int | None = None, left_s: float | None = None
    ) -> Session:
        """The figures that the store keeps.

        Args:
            rate: requests per second, recently.
            exit_code: of the process; None while it runs.
            left_s: estimated seconds until the run is over.
        """
        aside = self._aside or self._pacer.utilization_reason
        return Session(
            started_at=self._started_at,
            # the time of day may jump
            updated_at=self._started_at + self._clock() - self._clock_at_start,
            requests=self._pacer.departures,
            throttled=self._pacer.throttled_responses,
            busiest_second=self._pacer.busiest_second,
            rate=rate,
            note=" ".join([*self._notices, aside if exit_code is None else ""]).strip(),
            exit_code=exit_code,
            retried=dict(self._retried),
            slowdown=self._pacer.slowdown,
            left_s=left_s,
            reasons=tuple(map(str, self.reasons)),
        )

    def _follow_utilization(self, now: float) -> None:
        """Log which share of the ceiling is used, when it changes; not each time of several."""
        utilization, reason = round(self._pacer.utilization, 3), self._pacer.utilization_reason
        if not reason or utilization == self._utilization:
            return
        if now >= self._utilization_at + RATE_SPAN_S:
            self._utilization, self._utilization_at = utilization, now
            self.detail(f"pacing: {reason}")

    def _follow_breaker(self) -> None:
        """Report each change of the circuit breaker."""
        before, now = self._breaker_state, self._breaker.state
        if now is not before:
            self._breaker_state = now
            reason = self._breaker.commonest_reason if before is BreakerState.CLOSED else ""
            was, is_now = (each.name.lower().replace("_", "-") for each in (before, now))
            self.detail(f"circuit breaker: {was}, now {is_now}" + (f": {reason}" if reason else ""))
            code = self._breaker.commonest_code if reason else ""
            self._log(event_log.breaker(time.time(), was, is_now, code))

    def _follow_throttle(self, now: float) -> None:
        """Log when the provider begins to slow the run down, and when it has ceased to."""
        detail = self._throttling
        if detail:
            if self._throttled_at is None:
                self._log(event_log.throttled(time.time(), detail))
            self._throttled_at = now
        elif self._throttled_at is not None and now > self._throttled_at + UNTHROTTLED_S:
            self._throttled_at = None
            self._log(event_log.throttled(time.time(), "", over=True))


def _waiting(waits: Waits) -> str:
    """What waits to be sent or looked up, where there is nothing else to do, for people."""
    if not waits.idle or waits.next_s < SHORTEST_NOTED_WAIT_S:
        return ""
    what = "in doubt, look-up" if waits.in_doubt else "to repeat, next"
    return f"{waits.operations:,} {what} in {duration(waits.next_s)}"


def slowdown_left(session: Session, now_s: float) -> Slowdown | None:
    """What is left of the slowdown that an earlier process noted.

    Args:
        session: the figures of that process.
        now_s: Unix time in seconds.
    """
    if session.slowdown is None:
        return None
    since_s = max(0.0, now_s - session.updated_at)  # the clock may have been set back
    return session.slowdown._replace(pause_s=session.slowdown.pause_s - since_s)
