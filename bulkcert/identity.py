"""What the rows of a target file are about: which name the same device, which the same operation.

In: a job, and the checked fields of rows. Out: values to compare, and rejections of rows that can't
be carried out beside another. Must never take two operations for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

from bulkcert.job import Job
from bulkcert.model import Fields, Target
from bulkcert.targets.row import GoodRows


class Identities:
    """What rows are about: which of them name the same device, and which the same operation.

    Args:
        job: defines the fields, and gives values to those that a row leaves out.
    """

    def __init__(self, job: Job) -> None:
        action = job.action
        self._common = job.common
        self._ways = [[field.name for field in way] for way in action.identifiers]
        names = {name for way in self._ways for name in way}
        self._places = [f.name for f in action.fields.values() if f.option and f.name not in names]
        # a signing request is a parameter: it does not say which certificate is meant
        self._certificate = [
            f.name for f in action.required if not f.pem and f.name not in self._places
        ]
        self._parameters = [name for name in action.fields if name not in names]
        self._request = next((f for f in action.fields.values() if f.pem), None)
        self.takes_request = self._request is not None
        # what matters of a row depends on the fields that it has, and a file has few combinations
        self._shapes: dict[tuple[str, ...], _Shape] = {}

    def operations(self, rows: GoodRows) -> list[tuple[object, ...]]:
        """Return what names the operation of each row; see `operation`."""
        get, shape, many = rows.columns.get, self._of(tuple(rows.columns)), len(rows.cells)
        columns = [get(name, repeat(default, many)) for name, default in shape.operation]
        return list(zip(*columns, strict=True))

    @property
    def shapes(self) -> set[tuple[str, ...]]:
        """The combinations of fields that the rows so far have."""
        return set(self._shapes)

    def device(self, fields: Fields) -> tuple[object, ...]:
        """Return what names the device of a row; equal names are one device."""
        get = fields.get
        return tuple([get(name, default) for name, default in self._shape(fields).device])

    def operation(self, fields: Fields) -> tuple[object, ...]:
        """Return what names the operation of a row; equal names are one operation."""
        get = fields.get
        return tuple([get(name, default) for name, default in self._shape(fields).operation])

    def parameters(self, fields: Fields) -> list[object]:
        """Return how the operation of a row is carried out."""
        return [fields.get(name, self._common.get(name)) for name in self._parameters]

    def names_device_twice(self, fields: Iterable[str]) -> bool:
        """Whether rows with these fields name their device in more than one way, and the request in
        only one."""
        return self._of(tuple(fields)).twice

    def request(self, fields: Fields) -> object:
        """Return the signing request of a row, or None."""
        request = self._request
        return request and fields.get(request.name, self._common.get(request.name))

    def public_key(self, fields: Fields) -> object:
        """Return the public key in the signing request of a row."""
        request, field = self.request(fields), self._request
        assert field is not None
        return request if field.public_key is None else field.public_key(str(request))

    def _shape(self, fields: Fields) -> _Shape:
        return self._of(tuple(fields))

    def _of(self, given: tuple[str, ...]) -> _Shape:
        shape = self._shapes.get(given)
        if shape is None:
            known = {*self._common, *given}
            # the first way that is complete, as in the request
            number, way = next(
                (n, way) for n, way in enumerate(self._ways) if known.issuperset(way)
            )
            names = (*way, *self._places)
            device: list[tuple[str, object]] = [(name, self._common.get(name)) for name in names]
            device.append(("", number))  # no field has this name
            shape = self._shapes[given] = _Shape(
                device,
                [*device, *((name, self._common.get(name)) for name in self._certificate)],
                set(way) <= set(given)
                and any(
                    known.issuperset(other) and not set(given).isdisjoint({*other} - {*way})
                    for other in self._ways
                ),
            )
        return shape


class _Shape(NamedTuple):
    """What matters of rows with the same fields.

    Attributes:
        device, operation: the fields that name them, each with its default.
        twice: the device is named in more than one way.
    """

    device: list[tuple[str, object]]
    operation: list[tuple[str, object]]
    twice: bool


def shared_keys(
    identities: Identities, pairs: Iterable[tuple[int, Target, Target]]
) -> Iterator[tuple[int, str]]:
    """Find rows of one device with the same key: one certificate would count for both.

    Args:
        identities: what rows are about.
        pairs: the id of a later row, the first row and the later one, device by device.

    Yields:
        The id of a row, and what is wrong with it.
    """
    group = 0
    lines: dict[object, int] = {}
    for later_id, first, later in pairs:
        if first.line != group:
            group, lines = first.line, {identities.public_key(first.fields): first.line}
        if identities.device(first.fields) != identities.device(later.fields) or (
            identities.operation(first.fields) == identities.operation(later.fields)
        ):
            continue  # different devices with the same hash, or one operation with two parameters
        line = lines.setdefault(identities.public_key(later.fields), later.line)
        if line != later.line:
            reason = f"the same signing request as line {line}, or one for the same key"
            yield later_id, f"{reason}; each certificate needs its own"
