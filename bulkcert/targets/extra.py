"""The columns of a target file that the job does not use, as they are kept for the reports. Pure.

In: headers or keys, and their values. Out: names and values of limited length. Must never keep a
column under the name of a field of the provider: the next job would take it for the field.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson

from bulkcert.targets.records import column_of
from bulkcert.targets.rejected import REJECTED
from bulkcert.targets.tally import short_name

_LONGEST_VALUE = 1000  # characters


class ExtraColumns:
    """Decides which columns are kept, and under which names.

    Args:
        fields: the names of all fields of the provider.
        own: the columns that a run writes itself.
    """

    def __init__(self, fields: Collection[str] = (), own: Collection[str] = ()) -> None:
        self._refused = {*fields, *REJECTED}
        self._own = own

    def name(self, header: str, *, of_a_run: bool = False) -> str:
        """Return the name of a column that is kept; empty if it is not.

        Args:
            header: its header or key.
            of_a_run: a run has written the file.
        """
        name = short_name(column_of(header, self._own) if of_a_run else header)
        return "" if name in self._refused else name


def kept(value: Any) -> Any:
    """Return a value as it is kept: cut if it is long."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"
    if isinstance(value, dict | list):
        try:
            text = orjson.dumps(value).decode()
        except (TypeError, ValueError):  # nested too deeply
            return "…"
        return value if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
    return value
