"""What the rows of a target file are about: which name the same device, which the same operation.

In: a job, and the checked fields of rows. Out: values to compare, and rejections of rows that can't
be carried out beside another. Must never take two operations for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bulkcert.job import Job
from bulkcert.model import Fields, Rejection, Target


class Identities:
    """What rows are about: which of them name the same device, and which the same operation."""

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

    def of(self, fields: Fields) -> tuple[tuple[object, ...], tuple[object, ...], object]:
        """Return what names the device and the operation of a row, and its signing request.

        Equal names are one device, or one operation.
        """
        known = {**self._common, **fields}
        # the first way that is complete, as in the request
        way = next(way for way in self._ways if all(name in known for name in way))
        device = (*way, *[known.get(name) for name in (*way, *self._places)])
        operation = (*device, *[known.get(name) for name in self._certificate])
        return device, operation, known.get(self._request.name) if self._request else None

    def parameters(self, fields: Fields) -> list[object]:
        """Return how the operation of a row is carried out."""
        known = {**self._common, **fields}
        return [known.get(name) for name in self._parameters]

    def names_device_twice(self, fields: Fields) -> bool:
        """Whether a row names its device in more than one way, and the request in only one."""
        way = next((way for way in self._ways if all(name in fields for name in way)), None)
        others = (name for other in self._ways for name in other)
        return way is not None and any(name in fields and name not in way for name in others)

    def public_key(self, fields: Fields) -> object:
        """Return the public key in the signing request of a row."""
        request, field = self.of(fields)[2], self._request
        assert field is not None
        return request if field.public_key is None else field.public_key(str(request))


def shared_keys(
    identities: Identities, pairs: Iterable[tuple[int, Target, Target]]
) -> Iterator[Rejection]:
    """Reject rows of one device with the same key: one certificate would count for both.

    Args:
        identities: what rows are about.
        pairs: the first row and a later one of each device, device by device.
    """
    group = 0
    lines: dict[object, int] = {}
    for _, first, later in pairs:
        if first.line != group:
            group, lines = first.line, {identities.public_key(first.fields): first.line}
        (device, operation, _), other = identities.of(first.fields), identities.of(later.fields)
        if device != other[0] or operation == other[1]:
            continue  # different devices with the same hash, or one operation with two parameters
        line = lines.setdefault(identities.public_key(later.fields), later.line)
        if line != later.line:
            reason = f"the same signing request as line {line}, or one for the same key"
            yield Rejection(later.line, "", f"{reason}; each certificate needs its own")
