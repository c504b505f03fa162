"""The shared store during a run: claims operations and records changes.

Isolation is READ COMMITTED, so a row is locked by one statement and what depends on it is read by
the next: a statement that waited for a lock still sees everything else as it was before. Hosts
never wait for each other's operations: each changes its own, and a claim skips those that another
one is claiming. Every other row that is locked has one purpose; see the schema.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, LiteralString, TypeVar

import orjson

from bulkcert import event_log
from bulkcert.control import ControlEntry, Verb, control_after
from bulkcert.errors import CommitsLostError, ControlError, StoreError
from bulkcert.event_log import Happened, RunEvent
from bulkcert.model import Change, FieldValue, HistoryEntry, HistoryEvent, Operation, State
from bulkcert.rules.abort import Settled
from bulkcert.rules.check import CheckResult
from bulkcert.rules.gate import Standing
from bulkcert.rules.rollout import RETRY
from bulkcert.store.base import Abort, Host, Seen, Session, StoredApproval, WaveOfRun
from bulkcert.store.manifest import RunManifest
from bulkcert.store.postgresql import leases, steward
from bulkcert.store.postgresql.campaign import (
    read_aborts,
    read_controls,
    read_events,
    read_standing,
    read_waves,
)
from bulkcert.store.postgresql.commits import Commits, mark_lost
from bulkcert.store.postgresql.database import RUN_LOCK, explained, run_id
from bulkcert.store.postgresql.material import add_material, read_requests
from bulkcert.store.postgresql.pace import set_run_pace
from bulkcert.timings import HostTimings

T = TypeVar("T")

_NOW: LiteralString = "(SELECT bulkcert.now_s())"
"""The clock of the database, read once in a statement: one for all hosts."""

_INTENDED: LiteralString = "state = 'planned' AND step <> ALL(%(lookup_first)s)"
"""A claim intends an attempt."""

# The rows are named twice, so that the index is used whatever the statistics say: they may not know
# of this run yet.
_RECORD: LiteralString = f"""
    UPDATE bulkcert.operation AS o SET
        state = c.state, attempts = c.attempts, step = c.step, step_data = c.step_data,
        code = c.code, message = c.message, request_id = c.request_id, result = c.result,
        finished_at = c.finished_at,
        sent_at = CASE c.state WHEN 'in_flight' THEN {_NOW} ELSE o.sent_at END,
        owner = CASE WHEN c.state IN ('planned', 'in_flight') THEN o.owner END
    FROM unnest(
        %s::bigint[], %s::text[], %s::text[], %s::int[], %s::int[], %s::text[], %s::text[],
        %s::text[], %s::text[], %s::text[], %s::double precision[]
    ) AS c (id, expected, state, attempts, step, step_data, code, message, request_id, result,
            finished_at)
    WHERE o.run = %s AND o.id = ANY(%s) AND o.id = c.id AND o.state = c.expected AND o.owner = %s
"""  # noqa: S608 - constants


class PostgresStore:
    """The shared store, as one host uses it during a run; see `bulkcert.store.base.Store`.

    One thread at a time may use it; that need not be the thread that opened it. Whoever steers a
    run does not register; whoever works on it does.

    Args:
        dsn: the shared store.
        run: the name of the run.
        timings: how long the shared store is waited for.
        elapsed_s: the clock by which leases end.
        answer_s: longest wait for an answer of the database; None for no limit.

    Attributes:
        number: the number of the run.
        owner: what operations are marked with while this host works on them: its lease.
        rechecked: the run goes on after the store has lost commits; known after `register`.
    """

    def __init__(
        self,
        dsn: str,
        run: str,
        *,
        timings: HostTimings = HostTimings(),
        elapsed_s: Callable[[], float] = time.monotonic,
        answer_s: float | None = None,
    ) -> None:
        self.owner = uuid.uuid4()
        self._elapsed_s, self._timings = elapsed_s, timings
        self.rechecked = False
        self._commits = Commits(dsn, timings, elapsed_s, answer_s)
        try:
            self._run = self.number = run_id(self._commits.db, run)
        except BaseException:
            self.close()
            raise
        self._process: Mapping[str, Any] = {}  # in the log, while it has a lease
        self._has_share = False
        self._wave: int | None = None
        self._claimed_up_to = (0, 0)  # wave and id
        self._judged: int | None = None  # id of the last row of `settled` that was judged

    @property
    def shared(self) -> bool:
        """Whether other hosts may work on the run at the same time."""
        return True

    def now(self) -> float:
        """The clock of the database, as far as it is known from the last transaction."""
        return self._commits.now()

    # ---- a life

    def register(
        self,
        host: Host,
        extend: Callable[[float], object] = lambda begun_s: None,
        on_trouble: Callable[[str], object] = lambda text: None,
    ) -> uuid.UUID:
        """Begin to work on the run, with a new lease.

        Args:
            host: this process.
            extend, on_trouble: see `bulkcert.store.postgresql.commits.Commits.hold_lease`.

        Raises:
            CommitsLostError: the store has lost commits since the run began.
        """

        def begin() -> None:
            self._lock_run()
            server, lost = self._one(
                "SELECT server, lost_commits_at IS NOT NULL FROM bulkcert.run WHERE id = %s",
                (self._run,),
            )
            if lost or server not in (None, self._commits.server):
                mark_lost(self._commits.db, self._run)  # for those who work on it
                return
            if server is None:
                self._execute(
                    "UPDATE bulkcert.run SET server = %s WHERE id = %s",
                    (self._commits.server, self._run),
                )
            leases.register(self._commits.db, self._run, self.owner, host)

        begun_s = self._elapsed_s()
        self.commit(begin)
        lost, self.rechecked = self._one(
            "SELECT lost_commits_at IS NOT NULL, rechecked_at IS NOT NULL FROM bulkcert.run"
            " WHERE id = %s",
            (self._run,),
        )
        if lost:
            raise CommitsLostError
        self._process = {"host": host.name, "pid": host.pid, "lease": str(self.owner)}
        self._commits.hold_lease(self._run, self.owner, extend, on_trouble)
        extend(begun_s)
        return self.owner

    def leave(self) -> None:
        """End to work on the run, in the last transaction of this host.

        Nothing that it has sent may be under way any more.
        """
        leases.leave(self._commits.db, self.owner)

    def others(self) -> list[Seen]:
        """The other hosts that work on the run."""
        with explained():
            found = leases.live(self._commits.db, self._run)
        return [seen for seen in found if seen.id != self.owner]

    def counts(self) -> Mapping[State, int]:
        """Number of operations by state; to be called outside transactions."""
        with explained():
            return self.counts_of_wave(None)

    def fence(self, seen: Seen, by: str, silent_s: float) -> int | None:
        """End the lease of a host that was silent for too long, in a transaction of its own.

        Args:
            seen: the host, with the beats that it has had all that time.
            by: the name of this host.
            silent_s: for how long it was silent.

        Returns:
            How many operations it was working on; None if it has beaten since, or was fenced by
            somebody else.
        """

        def end() -> int | None:
            freed = leases.fence(self._commits.db, seen, by)
            if freed is not None:
                process = {"host": seen.host, "pid": seen.pid, "lease": str(seen.id)}
                self.add_event(
                    event_log.fenced(
                        self.now(), process, by=by, silent_s=silent_s, operations=freed
                    )
                )
            return freed

        return self.commit(end)

    def lost_commits(self) -> None:
        """Store that the shared store has lost commits, so that all hosts stop."""
        mark_lost(self._commits.db, self._run)

    def obey(self, control: int) -> None:
        """Note with the next commit that a control is in force on this host."""
        self._commits.control = control

    def hurry(self) -> None:
        """Give up soon if the store can't be used; may be called from any thread."""
        self._commits.hurry()

    # ---- transactions

    def commit(self, work: Callable[[], T]) -> T:
        """Call a function in a transaction, again where that is needed; see the contract."""
        before, tries = self._position, 0

        def begun() -> T:
            nonlocal tries
            tries += 1
            self._has_share = False
            if tries > 1:
                self._wave, self._claimed_up_to, self._judged = before
            return work()

        try:
            return self._commits.run(begun)
        except BaseException:
            self._wave, self._claimed_up_to, self._judged = before
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Return a context whose writes are durable when it exits; there is one attempt."""
        before, self._has_share = self._position, False
        try:
            with self._commits.transaction():
                yield
        except BaseException:
            self._wave, self._claimed_up_to, self._judged = before
            raise

    @property
    def _position(self) -> tuple[Any, ...]:
        return self._wave, self._claimed_up_to, self._judged

    def lock_rules(self) -> None:
        """Let no other host judge or claim by the rules until the transaction ends."""
        self._share_run()
        self._lock_standing()

    def claim(
        self,
        most: int,
        lookup_first: Collection[int] = (),
        *,
        wave: int | None = None,
        most_begun: int | None = None,
    ) -> list[Operation]:
        """Take the next operations in target order that no host has taken; see the contract.

        With several hosts the order is that of the targets only by and large: what another host
        has given back is claimed when nothing else is left.
        """
        if wave != self._wave:
            self._wave, self._claimed_up_to = wave, (0, 0)
        self._share_run()
        rows = self._free(most, wave)
        if not rows and self._claimed_up_to != (0, 0):
            self._claimed_up_to = (0, 0)
            rows = self._free(most, wave)
        if most_begun is not None:
            # what another host has left counts already, wherever it is in the order
            rows = self._begin(rows, most_begun) or self._free(most, wave, begun=True)
        if not rows:
            return []
        self._claimed_up_to = (rows[-1][1], rows[-1][0])
        self._execute(
            "UPDATE bulkcert.operation SET owner = %(owner)s,"  # noqa: S608 - constants
            f" attempts = attempts + ({_INTENDED})::int,"
            f" state = CASE WHEN {_INTENDED} THEN 'in_flight' ELSE state END,"
            f" sent_at = CASE WHEN {_INTENDED} THEN {_NOW} ELSE sent_at END"
            " WHERE run = %(run)s AND id = ANY(%(ids)s)",
            {
                "owner": self.owner,
                "run": self._run,
                "ids": [row[0] for row in rows],
                "lookup_first": list(lookup_first),
            },
        )
        # an operation has a request since the change that its step's data came with
        begun = [row[0] for row in rows if row[6] is not None]
        requests = read_requests(self._execute, self._run, begun) if begun else {}
        claimed = []
        for id_, _, line, target, state, step, step_data, attempts, sent_at, late, _ in rows:
            planned = state == State.PLANNED
            intended = planned and step not in lookup_first
            claimed.append(
                Operation(
                    id=id_,
                    line=line,
                    fields=orjson.loads(target),
                    state=State.PLANNED if planned and not intended else State.IN_FLIGHT,
                    step=step,
                    step_data=_loaded(step_data),
                    attempts=attempts + intended,
                    in_doubt=not planned,
                    sent_at=None if planned else sent_at,
                    late=late,
                    csr=requests.get(id_),
                )
            )
        return claimed

    def _free(self, most: int, wave: int | None, *, begun: bool = False) -> list[Any]:
        """Lock the next operations that no host works on, or the first that were claimed before."""
        of_wave: LiteralString = "" if wave is None else "AND wave = %s"
        of_begun: LiteralString = "AND begun" if begun else ""
        after = (0, 0) if begun else self._claimed_up_to
        return list(
            self._execute(
                # only the conditions above are inserted
                "SELECT id, wave, line, fields, state, step, step_data, attempts, sent_at,"  # noqa: S608
                " late, begun"
                " FROM bulkcert.operation WHERE run = %s AND owner IS NULL"
                " AND state IN ('planned', 'in_flight') AND (wave, id) > (%s, %s)"
                f" {of_wave} {of_begun} ORDER BY wave, id LIMIT %s FOR UPDATE SKIP LOCKED",
                (self._run, *after, *(() if wave is None else (wave,)), most),
            )
        )

    def _begin(self, rows: Sequence[Any], most_begun: int) -> list[Any]:
        """Mark operations as claimed; return those up to the last that may be."""
        self._lock_standing()
        standing = self.standing()
        left = most_begun - standing.begun
        allowed = []
        for row in rows:
            if not row[-1]:
                if left <= 0:  # an amendment may have lowered the cap
                    break
                left -= 1
            allowed.append(row)
        if new := [row[0] for row in allowed if not row[-1]]:
            self._execute(
                "UPDATE bulkcert.operation SET begun = true WHERE run = %s AND id = ANY(%s)",
                (self._run, new),
            )
            self.set_standing(replace(standing, begun=standing.begun + len(new)))
        return allowed

    def waves(self) -> list[WaveOfRun]:
        """The waves of the run, in order; none if it has no rollout."""
        return read_waves(self._execute, self._run)

    def end_of_wave(self, wave: int | None) -> float | None:
        """When the last operation of a wave was settled; see the contract."""
        values = {"run": self._run, "wave": wave}
        of_wave: LiteralString = "" if wave is None else "AND wave = %(wave)s"
        # two searches, because each has an index of its own
        (is_open,) = self._one(
            "SELECT EXISTS (SELECT FROM bulkcert.operation WHERE run = %(run)s"  # noqa: S608
            f" AND owner IS NULL AND state IN ('planned', 'in_flight') {of_wave})"
            " OR EXISTS (SELECT FROM bulkcert.operation WHERE run = %(run)s"
            f" AND owner IS NOT NULL {of_wave})",
            values,
        )
        if is_open:
            return None
        (end_s,) = self._one(
            f"SELECT coalesce(max(finished_at), {_NOW}) FROM bulkcert.operation"  # noqa: S608
            f" WHERE run = %(run)s {of_wave}",
            values,
        )
        return float(end_s)

    def others_work(self) -> bool:
        """Whether other hosts work on operations."""
        (work,) = self._one(
            "SELECT EXISTS (SELECT FROM bulkcert.operation"
            " WHERE run = %s AND owner IS NOT NULL AND owner <> %s)",
            (self._run, self.owner),
        )
        return bool(work)

    def counts_of_wave(self, wave: int | None) -> dict[State, int]:
        """Number of operations of a wave by state; None for all of them."""
        rows = self._execute(
            "SELECT state, count(*) FROM bulkcert.operation"
            " WHERE run = %s AND (%s::int IS NULL OR wave = %s) GROUP BY state",
            (self._run, wave, wave),
        )
        return {State(state): many for state, many in rows}

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
                [_dumped(each.code) for _, each in settled],
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
        return [Settled(State(state), _loaded(code), wave) for _, state, code, wave in rows]

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
            yield Settled(State(state), _loaded(code), wave)

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

    def record(self, changes: Sequence[Change]) -> None:
        """Apply the changes in order. Raises `StoreError` if one finds another state or owner."""
        applied = 0
        for part in _parts(changes):
            columns = zip(*map(_values, part), strict=True)
            ids = [change.operation_id for change in part]
            values = (*map(list, columns), self._run, ids, self.owner)
            applied += self._commits.db.execute(_RECORD, values).rowcount
        if applied != len(changes):
            raise StoreError(
                f"{len(changes) - applied} operations were not in the state they should"
                " be in: another host has taken them over.",
                "Run again.",
            )
        for change in changes:
            if change.fan_out:
                self._fan_out(change)
            if change.next_page is not None:
                self._add_to_target(change.operation_id, [change.next_page])
        if material := [each for change in changes for each in change.material]:
            add_material(self._execute, self._run, material)

    def _fan_out(self, change: Change) -> None:
        first, *others = change.fan_out
        self._execute(
            "UPDATE bulkcert.operation SET fields = %s WHERE run = %s AND id = %s",
            (orjson.dumps(first).decode(), self._run, change.operation_id),
        )
        self._add_to_target(change.operation_id, others, change.step, _dumped(change.step_data))

    def _add_to_target(
        self,
        operation_id: int,
        added: Sequence[dict[str, FieldValue]],
        step: int = 0,
        step_data: str | None = None,
    ) -> None:
        """Add planned operations to the target of another one, unless it has them."""
        if not added:
            return
        (last,) = self._one(
            "UPDATE bulkcert.added SET last_operation = last_operation + %s WHERE run = %s"
            " RETURNING last_operation",
            (len(added), self._run),
        )
        self._execute(
            "INSERT INTO bulkcert.operation"
            " (run, id, line, fields, extra, step, step_data, wave, added_as)"
            " SELECT run, %s + number, line, added.fields, extra, %s, %s, wave,"
            "  md5(%s || added.fields)"
            " FROM bulkcert.operation AS o,"
            "  unnest(%s::text[]) WITH ORDINALITY AS added (fields, number)"
            " WHERE run = %s AND id = %s"
            " ON CONFLICT (run, line, added_as) WHERE added_as IS NOT NULL DO NOTHING",
            (
                last - len(added),
                step,
                step_data,
                f"{step} ",
                [orjson.dumps(each).decode() for each in added],
                self._run,
                operation_id,
            ),
        )

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Keep what happened to operations, in this order."""
        if not entries:
            return
        columns = [list(column) for column in zip(*entries, strict=True)]
        columns[1] = list(map(str, columns[1]))
        columns[7] = list(map(_dumped, columns[7]))
        self._execute(
            "INSERT INTO bulkcert.history (run, operation, event, attempt, sent_at, ended_at,"
            " source, result, code, message, request_id)"
            " SELECT %s, entry.* FROM unnest(%s::bigint[], %s::text[], %s::int[],"
            " %s::double precision[], %s::double precision[], %s::text[], %s::text[], %s::text[],"
            " %s::text[], %s::text[]) AS entry",
            (self._run, *columns),
        )

    def note_session(self, session: Session) -> None:
        """Store the figures of this process, replacing earlier ones of the same process."""
        figures = {each.name: getattr(session, each.name) for each in fields(session)} | {
            "retried": dict(session.retried),
            "slowdown": session.slowdown and list(session.slowdown),
        }
        self._execute(
            "INSERT INTO bulkcert.session (run, owner, figures) VALUES (%s, %s, %s)"
            " ON CONFLICT (run, owner) DO UPDATE SET figures = excluded.figures",
            (self._run, self.owner, orjson.dumps(figures).decode()),
        )

    def update_manifest(self, manifest: RunManifest) -> None:
        """Replace what is stored about the run."""
        self._execute(
            "UPDATE bulkcert.run SET manifest = %s WHERE id = %s",
            (orjson.dumps(manifest.as_entries()).decode(), self._run),
        )

    def count_begun(self) -> None:
        """Count what was claimed before the run had a cap."""
        self._lock_run()
        self._execute(
            "UPDATE bulkcert.operation SET begun = true"
            " WHERE run = %s AND NOT begun AND (attempts > 0 OR state <> 'planned')",
            (self._run,),
        )
        (begun,) = self._one(
            "SELECT count(*) FROM bulkcert.operation WHERE run = %s AND begun", (self._run,)
        )
        self._lock_standing()
        self.set_standing(replace(self.standing(), begun=begun))

    def retry_failed(self) -> int:
        """Put failed operations back to planned, flawed and unknown ones back in flight."""
        self._lock_run()
        (now_s,) = self._one(f"SELECT {_NOW}")
        self._execute(
            "INSERT INTO bulkcert.history"
            " (run, operation, event, attempt, ended_at, source, result, message)"
            " SELECT run, id, %s, attempts, %s, '', '', '' FROM bulkcert.operation"
            " WHERE run = %s AND state IN ('failed', 'flawed', 'unknown') ORDER BY id",
            (str(HistoryEvent.RETRIED), now_s, self._run),
        )
        waves = len(self.waves())
        retried = self._commits.db.execute(
            "UPDATE bulkcert.operation SET attempts = 0, finished_at = NULL, wave = %s,"
            " state = CASE state WHEN 'failed' THEN 'planned' ELSE 'in_flight' END"
            " WHERE run = %s AND state IN ('failed', 'flawed', 'unknown')",
            (waves, self._run),
        ).rowcount
        if waves and retried:
            self._execute(
                "INSERT INTO bulkcert.wave VALUES (%s, %s, %s, %s)",
                (self._run, waves, f"{RETRY}-{waves}", retried),
            )
        if retried:
            self.add_event(event_log.retried(now_s, retried))
        return retried

    def recheck(self) -> int:
        """Let the run go on after the store has lost commits; return how many operations that puts
        in doubt.

        What is not settled may have been executed, so all of it is looked up first. Where nothing
        was written down that a look-up could compare with, an attempt counts as late: what can't
        be repeated without harm isn't.

        Raises:
            ControlError: nothing is lost, or hosts still work on the run.
        """
        self._lock_run()
        lost, host = self._one(
            "SELECT r.lost_commits_at IS NOT NULL OR r.server <> %s,"
            " (SELECT l.host FROM bulkcert.lease l WHERE l.run = r.id AND l.state = 'live'"
            "  AND l.beat_at > bulkcert.now_s() - %s LIMIT 1)"
            " FROM bulkcert.run r WHERE r.id = %s",
            (self._commits.server, self._timings.fence_after_s, self._run),
        )
        if not lost:
            raise ControlError("The store has lost no commits of this run.")
        if host is not None:
            raise ControlError(
                f"{host} still works on the run.",
                f"Stop all hosts, and wait for {self._timings.fence_after_s:g} s.",
            )
        self._execute(
            "UPDATE bulkcert.run SET server = %s, lost_commits_at = NULL,"
            " rechecked_at = bulkcert.now_s() WHERE id = %s",
            (self._commits.server, self._run),
        )
        self._execute(
            "UPDATE bulkcert.lease SET state = 'fenced', ended_by = 'recheck',"
            " ended_at = bulkcert.now_s() WHERE run = %s AND state = 'live'",
            (self._run,),
        )
        return self._commits.db.execute(
            "UPDATE bulkcert.operation SET state = 'in_flight', owner = NULL,"
            " late = late OR step_data IS NULL"
            " WHERE run = %s AND state IN ('planned', 'in_flight')",
            (self._run,),
        ).rowcount

    def close(self) -> None:
        """Close the store."""
        self._commits.close()

    def _share_run(self) -> None:
        """Keep the run from being steered until the transaction ends.

        Nothing may be claimed after a pause has committed, so whoever claims has this lock before
        it looks at the controls. Many hosts may have it at once. In a transaction that has it
        `_lock_run` must not be called: two that wait for each other's share wait for ever.

        The lock of a row would let every host in that shares it before one that waits to have it
        alone. Measured with ten hosts: a pause waited for 20 s, and with this lock for 0.05 s.
        """
        if not self._has_share:
            self._execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", (RUN_LOCK, self._run))
            self._has_share = True

    def _lock_run(self) -> None:
        self._execute("SELECT pg_advisory_xact_lock(%s, %s)", (RUN_LOCK, self._run))

    def _lock_standing(self) -> None:
        self._execute("SELECT FROM bulkcert.standing WHERE run = %s FOR UPDATE", (self._run,))

    def _execute(self, query: LiteralString, values: Any = ()) -> Iterable[Any]:
        return self._commits.db.execute(query, values)

    def _one(self, query: LiteralString, values: Any = ()) -> Any:
        (row,) = self._execute(query, values)
        return row


def _dumped(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _loaded(value: str | None) -> Any:
    return None if value is None else orjson.loads(value)


def _values(change: Change) -> tuple[Any, ...]:
    """The values of a change in the order of `_RECORD`."""
    return (
        change.operation_id,
        str(change.expected),
        str(change.state),
        change.attempts,
        change.step,
        _dumped(change.step_data),
        _dumped(change.code),
        change.message,
        change.request_id,
        _dumped(change.result),
        change.finished_at,
    )


def _parts(changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """Split changes into one part per statement; no operation occurs twice in a part."""
    part: dict[int, Change] = {}
    for change in changes:
        if change.operation_id in part:
            yield list(part.values())
            part = {}
        part[change.operation_id] = change
    if part:
        yield list(part.values())
