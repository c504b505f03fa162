"""Which records of a run are about a target that a person names as FIELD=VALUE.

In: such conditions, and records. Out: the records that meet them. Must never match a part of a
value: a device `A1` is not `A10`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import click

from bulkcert.jobfile.names import suggestion
from bulkcert.providers import installed_provider
from bulkcert.store.base import Record, StoreReader


class TargetFilter:
    """Conditions on the row of the target file, with its fields and its other columns.

    Conditions on the same field are alternatives; those on different fields must all be met.
    Without any, every record meets them.

    Args:
        conditions: each as FIELD=VALUE.

    Attributes:
        found: number of records that met the conditions so far.

    Raises:
        click.UsageError: one has another form.
    """

    def __init__(self, conditions: Iterable[str]) -> None:
        self.found = 0
        self._values: dict[str, set[str]] = {}
        for condition in conditions:
            name, _, value = condition.partition("=")
            if not (name and value):
                raise click.UsageError(f"Name a target as FIELD=VALUE, not as '{condition}'.")
            self._values.setdefault(name, set()).add(value)

    def __bool__(self) -> bool:
        return bool(self._values)

    def __str__(self) -> str:
        ways = (f"{name}={' or '.join(sorted(values))}" for name, values in self._values.items())
        return ", and ".join(ways)

    @property
    def containing(self) -> Sequence[str]:
        """Texts of which every record that matches contains one; see `StoreReader.records`."""
        return sorted(next(iter(self._values.values()), ()))

    def matching(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records that meet the conditions."""
        for record in records:
            if self._matches(record):
                self.found += 1
                yield record

    def refuse_unknown(self, reader: StoreReader) -> None:
        """Refuse a name that the targets of a run can't have.

        Raises:
            click.UsageError: there is no such field or column.
        """
        if not self._values:
            return
        manifest = reader.manifest()
        known = [*installed_provider(manifest.provider).actions[manifest.action].fields]
        known += [n for n in next(reader.records()).target if n not in known]
        for name in self._values:
            if name not in known:
                raise click.UsageError(
                    f"The targets of this run have no {name}: {suggestion(name, known)}."
                )

    def _matches(self, record: Record) -> bool:
        target = record.target
        return all(
            name in target and str(target[name]) in values for name, values in self._values.items()
        )
