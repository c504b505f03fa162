"""The operations of a run in a shared store: claims them and records what happens to them.

Hosts never wait for each other's operations: each changes its own, and a claim skips those that
another one is claiming.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, LiteralString

import orjson

from bulkcert import event_log
from bulkcert.errors import StoreError
from bulkcert.model import Change, FieldValue, HistoryEntry, HistoryEvent, Operation, State
from bulkcert.rules.rollout import RETRY
from bulkcert.store.base import within_cap
from bulkcert.store.postgresql.material import add_material, read_requests
from bulkcert.store.postgresql.policy import Policy
from bulkcert.store.postgresql.rows import NOW, dumped, loaded

_INTENDED: LiteralString = "state = 'planned' AND step <> ALL(%(lookup_first)s)"
"""A claim intends an attempt."""

# The rows are named twice, so that the index is used whatever the statistics say: they may not know
# of this run yet.
_RECORD: LiteralString = f"""
    UPDATE bulkcert.operation AS o SET
        state = c.state, attempts = c.attempts, step = c.step, step_data = c.step_data,
        code = c.code, message = c.message, request_id = c.request_id, result = c.result,
        finished_at = c.finished_at,
        sent_at = CASE c.state WHEN 'in_flight' THEN {NOW} ELSE o.sent_at END,
        owner = CASE WHEN c.state IN ('planned', 'in_flight') THEN o.owner END
    FROM unnest(
        %s::bigint[], %s::text[], %s::text[], %s::int[], %s::int[], %s::text[], %s::text[],
        %s::text[], %s::text[], %s::text[], %s::double precision[]
    ) AS c (id, expected, state, attempts, step, step_data, code, message, request_id, result,
            finished_at)
    WHERE o.run = %s AND o.id = ANY(%s) AND o.id = c.id AND o.state = c.expected AND o.owner = %s
"""  # noqa: S608 - constants


class Operations(Policy):
    """The operations; see `bulkcert.store.base.Store`."""

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
            f" sent_at = CASE WHEN {_INTENDED} THEN {NOW} ELSE sent_at END"
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
                    step_data=loaded(step_data),
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
        allowed = within_cap(rows, most_begun - standing.begun)
        if new := [row[0] for row in allowed if not row[-1]]:
            self._execute(
                "UPDATE bulkcert.operation SET begun = true WHERE run = %s AND id = ANY(%s)",
                (self._run, new),
            )
            self.set_standing(replace(standing, begun=standing.begun + len(new)))
        return allowed

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
            f"SELECT coalesce(max(finished_at), {NOW}) FROM bulkcert.operation"  # noqa: S608
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
        self._add_to_target(change.operation_id, others, change.step, dumped(change.step_data))

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
        columns[7] = list(map(dumped, columns[7]))
        self._execute(
            "INSERT INTO bulkcert.history (run, operation, event, attempt, sent_at, ended_at,"
            " source, result, code, message, request_id)"
            " SELECT %s, entry.* FROM unnest(%s::bigint[], %s::text[], %s::int[],"
            " %s::double precision[], %s::double precision[], %s::text[], %s::text[], %s::text[],"
            " %s::text[], %s::text[]) AS entry",
            (self._run, *columns),
        )

    def retry_failed(self) -> int:
        """Put failed operations back to planned, flawed and unknown ones back in flight."""
        self._lock_run()
        (now_s,) = self._one(f"SELECT {NOW}")
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


def _values(change: Change) -> tuple[Any, ...]:
    """The values of a change in the order of `_RECORD`."""
    return (
        change.operation_id,
        str(change.expected),
        str(change.state),
        change.attempts,
        change.step,
        dumped(change.step_data),
        dumped(change.code),
        change.message,
        change.request_id,
        dumped(change.result),
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
