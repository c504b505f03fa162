"""What people and rules have decided about a run in a shared store, and the log of all that."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

import orjson

from bulkcert import event_log
from bulkcert.control import ControlEntry, Verb, control_after
from bulkcert.event_log import Happened, RunEvent
from bulkcert.model import State
from bulkcert.rules.abort import Settled
from bulkcert.rules.check import CheckResult
from bulkcert.rules.gate import Standing
from bulkcert.store.base import Abort, StoredApproval, WaveOfRun
from bulkcert.store.manifest import RunManifest
from bulkcert.store.postgresql import steward
from bulkcert.store.postgresql.campaign import (
    read_aborts,
    read_controls,
    read_events,
    read_standing,
    read_waves,
)
from bulkcert.store.postgresql.pace import set_run_pace
from bulkcert.store.postgresql.rows import Rows, dumped, loaded


class Policy(Rows):
    """Waves, aborts, controls, checks and events; see `bulkcert.store.base.Store`."""

    def waves(self) -> list[WaveOfRun]:
        """The waves of the run, in order; none if it has no rollout."""
        return read_waves(self._execute, self._run)

    def lock_rules(self) -> None:
        """Let no other host judge or claim by the rules until the transaction ends."""
        self._share_run()
        self._lock_standing()

    def standing(self) -> Standing:
        """Where the campaign stands."""
        return read_standing(self._execute, self._run)

    def set_standing(self, standing: Standing) -> None:
        """Store where the campaign stands."""
        self._execute(
            "UPDATE bulkcert.standing SET wave = %s, over_at = %s, begun = %s, held_since = %s,"
            " held_seen = %s WHERE run = %s",
            (
                *(standing.wave, standing.over_at, standing.begun),
                *(standing.held_since, standing.held_seen, self._run),
            ),
        )

    def check_result(self) -> CheckResult | None:
        """What the outside check has said last, whichever host ran it."""
        return steward.check_result(self._commits.db, self._run)

    def set_check_result(self, result: CheckResult) -> None:
        """Store what the outside check, which this host runs for all, has said."""
        steward.set_check_result(self._commits.db, self._run, self.owner, result)

    def be_steward(self) -> bool:
        """Whether this host runs the outside commands for all; see the contract."""
        return steward.be_steward(self._commits.db, self._run, self.owner)

    def resign(self) -> None:
        """Let another host run the outside commands, if this one does."""
        steward.resign(self._commits.db, self._run, self.owner)

    def notifies(self, lease: uuid.UUID | None) -> bool:
        """Whether a process gives the events to the command; see the contract."""
        return steward.notifies(self._commits.db, self._run, lease)

    def add_settled(self, settled: Sequence[tuple[int, Settled]]) -> list[Settled]:
        """Append settled operations; return all that this host has not judged yet."""
        self._execute(
            "INSERT INTO bulkcert.settled (run, operation, state, code, wave)"
            " SELECT %s, * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::int[])",
            (
                self._run,
                [number for number, _ in settled],
                [str(each.state) for _, each in settled],
                [dumped(each.code) for _, each in settled],
                [each.wave for _, each in settled],
            ),
        )
        # in the order of their ids, because whoever appends has the lock of the rules
        rows = list(
            self._execute(
                "SELECT id, state, code, wave FROM bulkcert.settled WHERE run = %s AND id > %s"
                " ORDER BY id",
                (self._run, self._judged or 0),
            )
        )
        self._judged = rows[-1][0]
        return [Settled(State(state), loaded(code), wave) for _, state, code, wave in rows]

    def settled(self, most: int | None) -> Iterator[Settled]:
        """The last settled operations since the last override, in order; see the contract."""
        (self._judged,) = self._one(
            "SELECT coalesce(max(id), 0) FROM bulkcert.settled WHERE run = %s", (self._run,)
        )
        rows = self._execute(
            "SELECT state, code, wave FROM ("
            " SELECT id, state, code, wave FROM bulkcert.settled WHERE run = %(run)s AND id >"
            "  (SELECT coalesce(max(settled), 0) FROM bulkcert.abort"
            "   WHERE run = %(run)s AND overridden_at IS NOT NULL)"
            " ORDER BY id DESC LIMIT %(most)s) AS last ORDER BY id",
            {"run": self._run, "most": most},
        )
        for state, code, wave in rows:
            yield Settled(State(state), loaded(code), wave)

    def aborts(self) -> list[Abort]:
        """What has stopped the run, in order."""
        return read_aborts(self._execute, self._run)

    def add_abort(self, abort: Abort) -> None:
        """Store that a rule has stopped the run."""
        self._lock_standing()
        self._execute(
            "INSERT INTO bulkcert.abort (run, number, id, at, rule, text)"
            " SELECT %(run)s, 1 + count(*), %(id)s, %(at)s, %(rule)s, %(text)s"
            " FROM bulkcert.abort WHERE run = %(run)s",
            {"run": self._run, **abort._asdict()},
        )
        self._set_pace()

    def override_abort(
        self, abort_id: str, at: float, who: str, why: str, *, forget: bool = True
    ) -> None:
        """Store that somebody decided to go on; see the contract."""
        self._execute(
            "UPDATE bulkcert.abort SET overridden_at = %(at)s, who = %(who)s, why = %(why)s,"
            " settled = CASE WHEN %(forget)s THEN (SELECT coalesce(max(id), 0)"
            " FROM bulkcert.settled WHERE run = %(run)s) ELSE 0 END"
            " WHERE run = %(run)s AND id = %(id)s",
            {
                "run": self._run,
                "id": abort_id,
                "at": at,
                "who": who,
                "why": why,
                "forget": forget,
            },
        )
        # what the check said, and for how long, is part of what somebody goes on in spite of
        steward.forget_check(self._commits.db, self._run)

    def controls(self, after: int = 0) -> list[ControlEntry]:
        """What people asked of the run, in order, after the entry with this number.

        In a transaction nobody can ask for more until it ends.
        """
        self._share_run()
        return read_controls(self._execute, self._run, after)

    def add_control(self, at: float, who: str, why: str, verb: Verb, value: str = "") -> int:
        """Append what somebody asks of the run; return its number."""
        # the lock orders the numbers as the commits: who has read number 7 will find no new 6
        self._lock_run()
        (number,) = self._one(
            "INSERT INTO bulkcert.control"
            " SELECT %(run)s, coalesce(max(id), 0) + 1, %(at)s, %(who)s, %(why)s, %(verb)s,"
            " %(value)s FROM bulkcert.control WHERE run = %(run)s RETURNING id",
            {
                "run": self._run,
                "at": at,
                "who": who,
                "why": why,
                "verb": str(verb),
                "value": value,
            },
        )
        self._set_pace()
        return int(number)

    def policy_version(self) -> int:
        """Grows with each control and each abort."""
        rows = self._execute("SELECT version FROM bulkcert.pace_run WHERE run = %s", (self._run,))
        return max((int(version) for (version,) in rows), default=0)

    def _set_pace(self) -> None:
        """Have the reservations of slots obey what people and rules ask of the run."""
        control = control_after(read_controls(self._execute, self._run, 0))
        set_run_pace(
            self._commits.db,
            self._run,
            held=control.paused is not None,
            rate=control.requests_per_second,
            version=control.last_id + len(self.aborts()),
        )

    def add_event(self, happened: Happened) -> RunEvent:
        """Append to the event log; return the event.

        A host that has a lease is named in it. Its time is that of the store: no two hosts have the
        same clock.
        """
        happened = happened._replace(at=round(self.now(), 3))
        if self._process:
            happened = happened.by(self._process)
        self._execute("SELECT FROM bulkcert.chain WHERE run = %s FOR UPDATE", (self._run,))
        last = "SELECT line FROM bulkcert.event WHERE run = %s ORDER BY seq DESC LIMIT 1"
        before = [RunEvent.parse(line.encode()) for (line,) in self._execute(last, (self._run,))]
        (stored,) = self._one("SELECT manifest FROM bulkcert.run WHERE id = %s", (self._run,))
        manifest = RunManifest.from_entries(orjson.loads(stored))
        event = event_log.following(
            before[0] if before else None, manifest.run, manifest.plan.hash, happened
        )
        self._execute(
            "INSERT INTO bulkcert.event VALUES (%s, %s, %s)",
            (self._run, event.seq, event.line.decode()),
        )
        return event

    def events(self, after: int = 0, most: int | None = None) -> list[RunEvent]:
        """The event log, in order, after the event with this number; at most so many of them."""
        return read_events(self._execute, self._run, after, most)

    def notified(self) -> int:
        """The number of the last event that `[notify]` need not be given any more."""
        (seq,) = self._one("SELECT notified FROM bulkcert.chain WHERE run = %s", (self._run,))
        return int(seq)

    def set_notified(self, seq: int) -> None:
        """Store that number, unless a higher one is stored."""
        self._execute(
            "UPDATE bulkcert.chain SET notified = greatest(notified, %s) WHERE run = %s",
            (seq, self._run),
        )

    def add_approval(self, approval: StoredApproval) -> None:
        """Keep an approval."""
        self._execute(
            "INSERT INTO bulkcert.approval"
            " (run, at, abort, who, key, expires_at, statement, signature, signers)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (self._run, *approval),
        )

    def update_manifest(self, manifest: RunManifest) -> None:
        """Replace what is stored about the run."""
        self._execute(
            "UPDATE bulkcert.run SET manifest = %s WHERE id = %s",
            (orjson.dumps(manifest.as_entries()).decode(), self._run),
        )
