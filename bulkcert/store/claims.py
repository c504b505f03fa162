"""What may be claimed: applies the rules of a campaign inside the transactions of the store.

In: the changes that a transaction records. Out: the gate, and operations if it is open. Runs on the
thread of the store, so that what the rules decide is durable together with what they decide on.
The decisions are those of `bulkcert.rules`; here they meet the store, and nowhere else is anything
claimed.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from bulkcert import event_log
from bulkcert.control import Control, ControlEntry, control_after
from bulkcert.event_log import EventType, RunEvent
from bulkcert.model import Change, Operation, Outcome
from bulkcert.quantities import duration
from bulkcert.rules import NO_RULES, Rules
from bulkcert.rules.abort import AbortRules, Settled
from bulkcert.rules.check import CheckResult, Verdict
from bulkcert.rules.gate import Gate, Reason, ReasonKind, Situation, Standing, judge
from bulkcert.store.base import OUTCOMES, Abort, Store, WaveOfRun, pending_abort


class Claimed(NamedTuple):
    """What a claim has brought.

    Attributes:
        operations: what was claimed.
        more: there may be more to claim, now or when the gate has opened.
    """

    operations: Sequence[Operation] = ()
    more: bool = True


NOTHING_CLAIMED = Claimed()

_FORBID_LOOKUPS = frozenset({ReasonKind.PAUSED, ReasonKind.CLOSED})
"""Reasons for which nothing leaves, not even a look-up after an abort."""

LONGEST_GAP_S = 60.0
"""The gate is looked at far more often. A longer gap means that the time of day was set, or that
the machine was suspended; the check did not hold the run for that long."""

_NEXT_STEWARD_S = 15.0
"""A host that dies is fenced by then, and another one runs the check."""

_NOTED_S = 5.0
"""That the check still holds the run is noted this often."""


class Position(NamedTuple):
    """Where a campaign stands.

    Attributes:
        waves: all waves; none if the run has no rollout.
        standing: how far it is.
        gone: names of the waves after which somebody has said go.
        rate: requests per second that people allow; None for the job's own ceiling.
        held: nothing is sent, because of the rules.
    """

    waves: Sequence[WaveOfRun] = ()
    standing: Standing = Standing()
    gone: Collection[str] = ()
    rate: float | None = None
    held: bool = False


class Claims:
    """Judges what was settled, and claims what may be claimed.

    Args:
        rules: the rules of the job.
        until: name of the wave after which this process stops; empty for none.
        stop_after: number of the last control that was there before this process: it obeys no stop
            that is older. None for all that are there at the first transaction.
        pause_file: returns the reason in the file `PAUSE`, or None if there is no such file.
        check: returns what the last outside check said, on whatever host, or None; called in a
            transaction of the store.
        now: returns Unix time in seconds.

    Attributes:
        gate: whether operations may be claimed, as of the last transaction.
        pending: what has stopped the run, or None.
        capped: nothing more may be claimed, because of `protect.max_operations`.
    """

    def __init__(
        self,
        rules: Rules = NO_RULES,
        *,
        until: str = "",
        stop_after: int | None = None,
        pause_file: Callable[[], str | None] = lambda: None,
        check: Callable[[Store], CheckResult | None] = lambda store: store.check_result(),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rules, self._until = rules, until
        self._pause_file, self._check, self._now = pause_file, check, now
        self._most_begun = rules.protect.max_operations if rules.protect else None
        self._stop_after = stop_after
        self._failures = AbortRules(self._rules.abort) if self._rules.abort else None
        self._foreseen: AbortRules | None = None  # until the standing is read
        self._standing: Standing | None = None  # until it is read
        self._waves: list[str] = []
        self._sizes: list[WaveOfRun] = []
        self._control = Control()
        self._asked: Sequence[ControlEntry] = ()
        self._version = 0
        self._logged_waves: set[tuple[int, str]] = set()  # number, and what changed
        self._last_event = 0  # that was looked at for it
        self._logged_state: tuple[str, ...] = ()
        self._logged_check: tuple[Verdict, str] | None = None
        self.pending: Abort | None = None
        self.gate = Gate()
        self.capped = False

    def memory(self) -> Mapping[str, Any]:
        """What it has read and decided so far, for `restore`."""
        return vars(self) | self._copies()

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Forget everything since then. To be called when a transaction has been rolled back: what
        it has decided is not durable, and what others have done since is read again."""
        vars(self).update(memory)
        vars(self).update(self._copies())

    def _copies(self) -> dict[str, Any]:
        """Copies of what is not replaced, but changed."""
        failures = None if self._failures is None else self._failures.copy()
        return {"_failures": failures, "_logged_waves": self._logged_waves.copy()}

    # ---- in each transaction, in this order

    def begin(self, store: Store) -> None:
        """Read what other processes may have changed. Nothing else is read or written before.

        Until the transaction ends nobody can steer the run and, if it has rules that look at the
        run as a whole, no other host judges or claims.
        """
        self._asked = store.controls(self._control.last_id)
        if not store.shared:
            return
        self._version = store.policy_version()
        if self._rules.concern_the_run:
            store.lock_rules()
        if self._standing is not None:
            self._read_standing(store)

    def judge(self, store: Store, changes: Sequence[Change]) -> None:
        """Judge what a transaction has settled, and set the gate.

        Args:
            store: the store, in that transaction.
            changes: what it records.
        """
        if first := self._standing is None:
            self._read(store)
        if self._failures is not None:
            self._count(store, self._failures, changes)
        if self.capped and changes:  # what could be claimed may have been all there is
            self.capped = store.end_of_wave(None) is None
        self._look(store)
        if self.gate.reasons and (first or any(change.finished_at for change in changes)):
            self._end_wave(store)

    def claim(self, store: Store, most: int, lookup_first: Collection[int]) -> Claimed:
        """Claim operations, if the gate is open; see `Store.claim`."""
        while self.gate.is_open:
            assert self._standing is not None
            wave = self._standing.wave if self._waves else None
            operations = store.claim(most, lookup_first, wave=wave, most_begun=self._most_begun)
            if self._most_begun is not None:
                self._standing = store.standing()  # which counts what is claimed
            if operations:
                self._log_begin_of_wave(store)
                return Claimed(operations)
            counts = bool(self._waves) or self._most_begun is not None or store.shared
            end_s = store.end_of_wave(wave) if counts else None
            if self._most_begun is not None:
                used_up = end_s is None and self._standing.begun >= self._most_begun
                # what they have to leave may be claimed nevertheless
                self.capped = used_up and not store.others_work()
            # what other hosts are working on may come back, or lead to more
            by_others = store.shared and end_s is None
            if end_s is None or self.gate.last_wave:
                more = by_others or not self.gate.last_wave
                return Claimed(more=more and not self.capped)
            self._set_standing(store, replace(self._standing, over_at=end_s))
            self._look(store)
        return NOTHING_CLAIMED

    def stop_run(self, store: Store, rule: str, text: str) -> None:
        """Let nothing be claimed any more, unless a rule has stopped the run already."""
        if self.pending is None:
            self.pending = abort = Abort(secrets.token_hex(3), self._now(), rule, text)
            store.add_abort(abort)
            store.add_event(event_log.aborted(abort.at, abort.id, rule, text))

    def finish(self, store: Store) -> None:
        """Log the end of the current wave, if it is over; to be called when the work ends."""
        if self._standing is None:
            self._read_standing(store)
        wave = self._current_wave
        if wave is not None and (end_s := store.end_of_wave(wave.number)) is not None:
            self._log_end_of_wave(store, end_s)

    # ---- parts

    def _read(self, store: Store) -> None:
        """Read what earlier processes have left."""
        self._read_standing(store)
        self._control, self._asked = control_after(self._asked), ()
        if self._stop_after is None:
            self._stop_after = self._control.last_id
        if self._control.rate is not None:  # it does not show otherwise
            store.add_event(event_log.control(self._now(), self._control.rate, in_force=True))
        if self._failures is not None:
            for settled in store.settled(self._failures.longest):
                self._failures.judge(settled)
            self._foreseen = self._failures.copy()

    def _read_standing(self, store: Store) -> None:
        """Read how far the run is, by whatever process."""
        self._standing = store.standing()
        self.pending = pending_abort(store.aborts())
        self._sizes = store.waves()
        if self._sizes or store.shared:
            for event in store.events(self._last_event):
                self._last_event = event.seq
                self._note_logged(event, store.shared)

    def _note_logged(self, event: RunEvent, shared: bool) -> None:
        """Remember what is in the log, so that it is there once, whichever host has logged it."""
        data = event.data
        match event.type:
            case EventType.WAVE:
                self._logged_waves.add((data["number"], data["change"]))
            case EventType.CHECK if shared:
                self._logged_check = Verdict(data["verdict"]), data["reason"]
            case EventType.STATE if shared:
                self._logged_state = tuple(map(_without_words_of_check, data["reasons"]))

    def foresee(self, change: Change) -> bool:
        """Whether a rule stops the run as soon as a change is durable.

        To be called on the event loop, with each change that settles an operation, in the order in
        which they are recorded. The commit that decides takes a moment, in which much could leave.
        """
        if self._foreseen is None or not change.attempts:
            return False
        return bool(self._foreseen.judge(self._settled(change)))

    def _settled(self, change: Change) -> Settled:
        assert self._standing is not None
        # the waves before are over, and the next has not begun
        return Settled(change.state, change.code, self._standing.wave)

    def _count(self, store: Store, failures: AbortRules, changes: Sequence[Change]) -> None:
        """Judge each operation that was settled by an attempt of its own."""
        settled = [
            (change.operation_id, self._settled(change))
            for change in changes
            if change.finished_at is not None and change.attempts
        ]
        if not settled:
            return
        for each in store.add_settled(settled):
            if tripped := failures.judge(each):
                self.stop_run(store, tripped[0].rule, str(tripped[0]))

    def _look(self, store: Store) -> None:
        """Look at everything that the gate depends on, and set it."""
        assert self._standing is not None
        asked, self._asked = self._asked, ()
        self._control = control_after(asked, self._control)
        for entry in asked:
            store.add_event(event_log.control(self._now(), entry, in_force=True))
        if self._rules.rollout is not None:
            self._sizes = store.waves()
            self._waves = [wave.name for wave in self._sizes]
        now_s = self._now()
        check = self._recent_check(store, now_s)
        if check is not None and (check.verdict, check.reason) != self._logged_check:
            self._logged_check = (check.verdict, check.reason)
            store.add_event(event_log.checked(check))
        situation = Situation(now_s, self._control, self._pause_file(), check)
        if check is not None and check.verdict is Verdict.ABORT:
            self.stop_run(store, "check", f"the check says so: {check.reason}")
        stop = self._reason_to_stop()
        standing, gate = judge(self._rules, self._waves, self._standing, situation)
        if stop or self.pending:
            # no wave begins any more, and only what forbids look-ups too still matters
            forbids = tuple(each for each in gate.reasons if each.kind in _FORBID_LOOKUPS)
            standing, gate = self._standing, Gate(wave=self._standing.wave, reasons=forbids)
        self._set_standing(store, standing)
        self._be_patient(store, gate, now_s)
        self.gate = gate._replace(
            control_id=self._control.last_id,
            rate=self._control.requests_per_second,
            abort=self.pending.id if self.pending else "",
            stop=stop,
            version=self._version,
        )
        if not (stop or self.pending):
            self._log_state(store, now_s, gate.reasons)

    def _recent_check(self, store: Store, now_s: float) -> CheckResult | None:
        """What the outside check has said.

        In a shared store it outlives the host that ran it. That the next one has not been run for
        so long means that no host was there to run it.
        """
        rule = self._rules.check
        result = self._check(store) if rule is not None else None
        if rule is None or result is None or not store.shared:
            return result
        longest_s = rule.every_s + rule.timeout_s + _NEXT_STEWARD_S
        return result if result.ended_s > now_s - longest_s else None

    def _end_wave(self, store: Store) -> None:
        """Notice that the wave is over, although nothing is claimed at the moment."""
        assert self._standing is not None
        if self.gate.last_wave or self._standing.over_at is not None:
            return
        end_s = store.end_of_wave(self._standing.wave)
        if end_s is not None:
            self._set_standing(store, replace(self._standing, over_at=end_s))
            self._look(store)

    def _reason_to_stop(self) -> str:
        """Why this process should stop; empty if it should not."""
        assert self._standing is not None
        if self._until in self._waves:
            wave = self._waves.index(self._until)
            current, over = self._standing.wave, self._standing.over_at is not None
            if current > wave or (current == wave and over):
                return f"the wave {self._until} is over"
        stop = self._control.stop
        if stop is not None and stop.id > (self._stop_after or 0):
            return f"asked to by {stop.who}" + (f": {stop.why}" if stop.why else "")
        return ""

    def _be_patient(self, store: Store, gate: Gate, now_s: float) -> None:
        """Stop the run if the check alone has held it for too long."""
        assert self._standing is not None
        check = self._rules.check
        since, seen = self._standing.held_since, self._standing.held_seen
        if check is None or {reason.kind for reason in gate.reasons} != {ReasonKind.HELD}:
            since = seen = None
        elif since is None or seen is None:
            since = seen = now_s
        else:
            gap_s = now_s - seen
            if not 0 <= gap_s <= LONGEST_GAP_S:
                since += gap_s
            if not 0 <= gap_s < _NOTED_S:
                seen = now_s
        self._set_standing(store, replace(self._standing, held_since=since, held_seen=seen))
        if check is not None and since is not None and now_s - since > check.patience_s:
            held = f"the check has held the run for {duration(check.patience_s)}"
            self.stop_run(store, "check", f"{held}: {gate.reasons[0].detail}")

    def _set_standing(self, store: Store, standing: Standing) -> None:
        if standing != self._standing:
            store.set_standing(standing)
            self._standing = standing
        if standing.over_at is not None:
            self._log_end_of_wave(store, standing.over_at)

    # ---- the log

    def _log_state(self, store: Store, now_s: float, reasons: Sequence[Reason]) -> None:
        """Log what lets nothing leave, when that has changed."""
        state = tuple(map(_without_words_of_check, map(str, reasons)))
        if state != self._logged_state:
            self._logged_state = state
            store.add_event(event_log.state(now_s, reasons))

    def _log_begin_of_wave(self, store: Store) -> None:
        wave = self._current_wave
        if wave is not None and (wave.number, "begun") not in self._logged_waves:
            self._logged_waves.add((wave.number, "begun"))
            store.add_event(event_log.wave_begun(self._now(), wave.name, wave.number, wave.targets))

    def _log_end_of_wave(self, store: Store, over_at: float) -> None:
        self._log_begin_of_wave(store)  # it may have been empty
        wave = self._current_wave
        if wave is not None and (wave.number, "over") not in self._logged_waves:
            self._logged_waves.add((wave.number, "over"))
            outcomes: Counter[Outcome] = Counter()
            for state, many in store.counts_of_wave(wave.number).items():
                outcomes[OUTCOMES[state]] += many
            store.add_event(
                event_log.wave_over(over_at, wave.name, wave.number, wave.targets, outcomes)
            )

    @property
    def _current_wave(self) -> WaveOfRun | None:
        if self._standing is None or not self._sizes:
            return None
        return self._sizes[self._standing.wave]

    @property
    def position(self) -> Position:
        """Where the campaign stands, for a look ahead."""
        return Position(
            waves=self._sizes,
            standing=self._standing or Standing(),
            gone=self._control.goes.keys(),
            rate=self.gate.rate,
            held=bool(self.gate.reasons),
        )

    @property
    def wave(self) -> str | None:
        """The name of the current wave; None if the run has no waves."""
        wave = self._current_wave
        return wave.name if wave else None


def _without_words_of_check(reason: str) -> str:
    """A reason as far as it makes another state: what a check says changes all the time, and is
    logged by itself."""
    return str(ReasonKind.HELD) if reason.startswith(ReasonKind.HELD) else reason
