"""Puts the operations of a plan in the order in which they are carried out, and in waves.

In: planned operations in the order of the target file, and the values of the columns that
`[rollout]` names. Out: the same operations with new ids, from 1, in the order of the rollout, each
in its wave; and what to show of both. SQLite sorts, in files, so that memory stays flat. Must never
lose an operation, nor do this before the repeated and the bad ones are gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from bulkcert.model import Target
from bulkcert.quantities import count
from bulkcert.rules.ordering import Column, Kind
from bulkcert.rules.rollout import Rollout, waves
from bulkcert.values import shown

_ROWS_PER_STATEMENT = 200
_MOST_VALUES = 20

OPEN_OPERATIONS = (
    "CREATE INDEX open_operations ON operations (wave, id) WHERE state IN ('planned', 'in_flight')"
)
"""The index by which `claim` finds the next operations of a wave."""


@dataclass(frozen=True, slots=True)
class PlannedWave:
    """One wave of a plan. There is one operation for each target.

    Attributes:
        name: see `bulkcert.rules.rollout.Wave`.
        targets: number of targets.
        first, last: the first and the last of them.
    """

    name: str
    targets: int
    first: Target
    last: Target


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The targets of a plan by the values of one column.

    Attributes:
        column: its name, as written in the job.
        kind: what its values are.
        values: the most frequent values, with the number of targets. Empty for numbers and dates
            that have more values than fit.
        other_values, other_targets: how many more values there are, and how many targets have them.
        empty: number of targets without a value.
        lowest, highest: the ends of a range of numbers or dates; empty for text.
    """

    column: str
    kind: Kind
    values: tuple[tuple[str, int], ...]
    other_values: int
    other_targets: int
    empty: int
    lowest: str
    highest: str


@dataclass(frozen=True, slots=True)
class RolledOut:
    """How the operations of a plan are rolled out.

    Attributes:
        waves: in the order in which they run.
        breakdown: one for each column that `[rollout]` names.
        notes: what people should know of it, one sentence each.
    """

    waves: tuple[PlannedWave, ...] = ()
    breakdown: tuple[Breakdown, ...] = ()
    notes: tuple[str, ...] = ()


class RolloutTables:
    """Keeps the values of columns while a plan is built, and then rolls it out.

    Args:
        db: the plan, with a database `scratch` for what is not kept.
        rollout: what the job says.
    """

    def __init__(self, db: sqlite3.Connection, rollout: Rollout) -> None:
        self._db = db
        self._rollout = rollout
        self._names = list(rollout.columns)
        self._ordered = {key.column for key in rollout.order}
        self._columns = [Column(name) for name in self._names]
        self._rows: list[str | int | float | None] = []
        fields = [f"text{n} TEXT, key{n}" for n in range(len(self._columns))]
        db.execute(f"CREATE TABLE scratch.keys ({', '.join(['id INTEGER PRIMARY KEY', *fields])})")

    def add(self, operation_id: int, line: int, values: Sequence[str]) -> None:
        """Add the values of the next operation, one for each column.

        What a column consists of matters only if it is ordered by.
        """
        self._rows.append(operation_id)
        for column, value in zip(self._columns, values, strict=True):
            key = column.add(line, value) if column.name in self._ordered else None
            self._rows += (value or None, key)
        if len(self._rows) >= _ROWS_PER_STATEMENT * self._width:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        marks = f"({', '.join('?' * self._width)})"
        rows = len(self._rows) // self._width
        if rows:
            self._db.execute(
                f"INSERT INTO scratch.keys VALUES {', '.join([marks] * rows)}",  # noqa: S608 - marks
                self._rows,
            )
            self._rows.clear()

    @property
    def _width(self) -> int:
        return 1 + 2 * len(self._columns)

    def apply(self) -> RolledOut:
        """Give all operations their place and their wave."""
        self.flush()
        (total,) = self._db.execute("SELECT count(*) FROM operations").fetchone()
        if not total:
            return RolledOut()
        divided, dropped = waves(total, self._rollout.sizes)
        self._rank()
        self._place()
        self._db.execute(
            "CREATE TABLE scratch.unordered"
            " (id INTEGER PRIMARY KEY, line INTEGER, fields TEXT, extra TEXT)"
        )
        self._db.execute(
            "INSERT INTO scratch.unordered SELECT id, line, fields, extra FROM operations"
        )
        self._db.execute("DELETE FROM operations")
        for number, wave in enumerate(divided):
            self._db.execute(
                "INSERT INTO operations (id, line, fields, extra, wave)"
                " SELECT place, line, fields, extra, ?"
                " FROM scratch.places JOIN scratch.unordered USING (id)"
                " WHERE place > ? AND place <= ? ORDER BY place",
                (number, wave.begin, wave.end),
            )
            self._db.execute(
                "INSERT INTO waves VALUES (?, ?, ?)", (number, wave.name, wave.targets)
            )
        self._db.execute(OPEN_OPERATIONS)
        return RolledOut(
            waves=tuple(
                PlannedWave(
                    wave.name, wave.targets, self._target(wave.begin + 1), self._target(wave.end)
                )
                for wave in divided
            ),
            breakdown=tuple(map(self._breakdown, range(len(self._columns)))),
            notes=(*dropped, *self._as_text(), *self._uncovered()),
        )

    def _rank(self) -> None:
        """Rank all operations in the order of the columns, then of the file."""
        order = []
        for key in self._rollout.order:
            number = self._number(key.column)
            by = f"text{number}" if self._columns[number].kind is Kind.TEXT else f"key{number}"
            order.append(f"{by} {'DESC' if key.descending else 'ASC'} NULLS LAST")
        self._db.execute("CREATE TABLE scratch.ranks (rank INTEGER PRIMARY KEY, id INTEGER)")
        self._db.execute(
            # only names of columns and directions are inserted
            "INSERT INTO scratch.ranks (id)"  # noqa: S608
            f" SELECT id FROM scratch.keys ORDER BY {', '.join([*order, 'id'])}"
        )

    def _place(self) -> None:
        """Put the canary first, then everything else, each in the order of the ranks."""
        self._db.execute("CREATE TABLE scratch.canary (rank INTEGER PRIMARY KEY)")
        candidates = "SELECT rank, rank AS turn FROM scratch.ranks"
        if self._rollout.spread_by and self._rollout.canary:
            # one of each value in turn; only the name of a column is inserted
            candidates = f"""
                SELECT rank, row_number() OVER (PARTITION BY {self._spread} ORDER BY rank) AS turn
                FROM scratch.ranks JOIN scratch.keys USING (id)
                """  # noqa: S608
        self._db.execute(
            # only the queries above are inserted
            "INSERT INTO scratch.canary"  # noqa: S608
            f" SELECT rank FROM ({candidates}) ORDER BY turn, rank LIMIT ?",
            (self._rollout.canary,),
        )
        self._db.execute("CREATE TABLE scratch.places (place INTEGER PRIMARY KEY, id INTEGER)")
        for which in ("IN", "NOT IN"):
            # only these two words are inserted
            self._db.execute(
                "INSERT INTO scratch.places (id) SELECT id FROM scratch.ranks"  # noqa: S608
                f" WHERE rank {which} (SELECT rank FROM scratch.canary) ORDER BY rank"
            )

    @property
    def _spread(self) -> str:
        """The column that the canary is spread over."""
        return f"text{self._number(self._rollout.spread_by)}"

    def _number(self, column: str) -> int:
        return self._names.index(column)

    def _target(self, place: int) -> Target:
        line, fields = self._db.execute(
            "SELECT line, fields FROM operations WHERE id = ?", (place,)
        ).fetchone()
        return Target(line, orjson.loads(fields))

    def _breakdown(self, number: int) -> Breakdown:
        column = self._columns[number]
        text, key = f"text{number}", f"key{number}"
        total, given = self._db.execute(
            f"SELECT count(*), count({text}) FROM scratch.keys"  # noqa: S608 - a column
        ).fetchone()
        rows = self._db.execute(
            # only the name of a column is inserted
            f"SELECT {text}, count(*), count(*) OVER () FROM scratch.keys"  # noqa: S608
            f" WHERE {text} IS NOT NULL GROUP BY {text} ORDER BY 2 DESC, 1 LIMIT ?",
            (_MOST_VALUES,),
        ).fetchall()
        different = rows[0][2] if rows else 0
        values = tuple((value, targets) for value, targets, _ in rows)
        ends = ["", ""]
        if column.kind is not Kind.TEXT:
            ends = [
                self._db.execute(
                    f"SELECT {text} FROM scratch.keys WHERE {text} IS NOT NULL"  # noqa: S608
                    f" ORDER BY {key} {direction}, id LIMIT 1"
                ).fetchone()[0]
                for direction in ("ASC", "DESC")
            ]
            values = values if different <= _MOST_VALUES else ()
        return Breakdown(
            column=column.name,
            kind=column.kind,
            values=values,
            other_values=different - len(values),
            other_targets=given - sum(targets for _, targets in values),
            empty=total - given,
            lowest=ends[0],
            highest=ends[1],
        )

    def _as_text(self) -> list[str]:
        """Say which columns are ordered as text although most of their values are not."""
        return [
            f"The column {column.name} is ordered as text, not as {usual}: line {line} has"
            f" {shown(value)}."
            for column in self._columns
            if column.exception
            for usual, line, value in [column.exception]
        ]

    def _uncovered(self) -> list[str]:
        """Say if the canary is too small for all values that it is to be spread over."""
        if not self._rollout.spread_by:
            return []
        (different,) = self._db.execute(
            # only the name of a column is inserted
            f"SELECT count(*) FROM (SELECT 1 FROM scratch.keys GROUP BY {self._spread})"  # noqa: S608
        ).fetchone()
        if different <= self._rollout.canary:
            return []
        canary, column = count(self._rollout.canary, "target"), self._rollout.spread_by
        return [
            f"The canary is {canary}, but {column} has {different:,} different values: it can't"
            " contain one of each."
        ]
