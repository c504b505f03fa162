"""From the rows of a target file to operations in a store.

In: the rows, good and bad. Out: an operation for each good one, the lists of those that are left
out, and what the operator should be warned of. Must never take a row for good that was rejected,
nor plan one that must not be touched.
"""

from __future__ import annotations

from bulkcert.identity import Identities
from bulkcert.job import Job
from bulkcert.model import Rejection
from bulkcert.protection import ProtectedRows
from bulkcert.rejections import RowFile
from bulkcert.spreadsheet import any_may_be_cut, may_be_cut
from bulkcert.store.sqlite import SqlitePlan
from bulkcert.targets import TargetFile
from bulkcert.targets.chosen import ChosenColumns
from bulkcert.targets.row import GoodRows, Row


class RowPlanner:
    """Makes operations of the rows of a target file.

    Args:
        job: what to do.
        targets: the target file.
        identities: what its rows are about.
        store: takes the operations.
        rejected: takes the bad rows.
        protected: takes the rows that must not be touched.

    Attributes:
        keep_their_key: number of rows whose renewal keeps the key.
        named_twice: number of rows with a name of their device that is not sent.
        cut: number of rows with a number whose last digits a spreadsheet may have lost.
        unbounded: the first bad row that may contain several rows; None if there is none.
    """

    def __init__(
        self,
        job: Job,
        targets: TargetFile,
        identities: Identities,
        store: SqlitePlan,
        rejected: RowFile,
        protected: ProtectedRows,
    ) -> None:
        rollout = job.rules.rollout
        self._columns = ChosenColumns(job, rollout.columns, targets) if rollout else None
        self._targets, self._identities, self._store = targets, identities, store
        self._rejected, self._protected = rejected, protected
        self.keep_their_key = self.named_twice = self.cut = 0
        self.unbounded: Rejection | None = None

    def read(self) -> None:
        """Read the whole file."""
        by_columns = not (
            self._columns or self._protected.entries or self._identities.takes_request
        )
        for rows in self._targets.read():
            if not isinstance(rows, GoodRows):
                self._take(rows)
            elif by_columns:
                self._take_all(rows)
            else:
                for row in rows:
                    self._take(row)
        if self._columns:
            self._columns.require()

    def _take(self, row: Row) -> None:
        target, identities = row.found[0], self._identities
        if isinstance(target, Rejection):
            faults = [fault for fault in row.found if isinstance(fault, Rejection)]
            self._rejected.add(row, faults, self._targets.header)
            if row.unbounded:
                self.unbounded = self.unbounded or target
            return
        if self._protected.take(row, target, self._targets.header):
            return
        fields, device = target.fields, None
        if identities.takes_request:
            if identities.request(fields):
                device = hash(identities.device(fields))
            else:
                self.keep_their_key += 1
        operation = identities.operation(fields)
        values = self._columns.of(row) if self._columns else ()
        self._store.add(target, hash(operation), device, values)
        self.cut += any(map(may_be_cut, operation))
        self.named_twice += identities.names_device_twice(fields)

    def _take_all(self, rows: GoodRows) -> None:
        """The same for many rows, where neither a rule nor a signing request matters."""
        operations = self._identities.operations(rows)
        self._store.add_all(rows.line, rows.fields(), rows.extra, map(hash, operations))
        # what comes from the job is the same in all of them
        if any(map(may_be_cut, operations[0])) or any(map(any_may_be_cut, rows.columns.values())):
            self.cut += sum(any(map(may_be_cut, operation)) for operation in operations)
        self.named_twice += len(operations) * self._identities.names_device_twice(rows.columns)
