"""The columns that lists of left-out rows have besides those of the target file.

A corrected `rejected.csv` is a target file: its own columns are ignored then. A row that could not
be copied into its columns says so in `rejected_text`, and is refused until that is empty.
`repeated.csv` never is one: its rows would be done twice. Nor is `protected.csv`.
"""

from __future__ import annotations

from collections.abc import Collection

from bulkcert.errors import TargetsError

REJECTED = ("rejected_line", "rejected_field", "rejected_reason", "rejected_text")
REPEATED = ("repeated_line", "repeated_field", "repeated_reason", "repeated_text")
PROTECTED = ("protected_line", "protected_field", "protected_reason", "protected_text")
LINE, FIELD, REASON, TEXT = range(4)

STILL_REJECTED = (
    f"still has a {REJECTED[TEXT]}: put what it says into the right columns, and empty it"
)


def is_rejected(names: Collection[str]) -> bool:
    """Whether a header, or the keys of an object, is that of rejected rows."""
    return REJECTED[LINE] in names


def refuse_left_out(name: str, names: Collection[str]) -> None:
    """Refuse a file of repeated rows, or of rows that must not be touched.

    Raises:
        TargetsError: it is one.
    """
    if REPEATED[LINE] in names:
        raise TargetsError(
            f"{name}: these rows repeat others of the target file they are from; used as targets,"
            " they would be done a second time",
            f"If they are not meant to be the same, remove the column {REPEATED[LINE]}.",
        )
    if PROTECTED[LINE] in names:
        raise TargetsError(
            f"{name}: these rows must not be touched; a run has left them out",
            f"If their owners agree now, remove the column {PROTECTED[LINE]}.",
        )
