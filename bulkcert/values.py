"""Parse single values from CSV, JSON or TOML, and quote values in messages.

In: one value, of any type. Out: the parsed value, or a `ValueError` whose text completes the
sentence "certSn ...", such as "is empty". Pure. Must never raise anything else, nor put a value of
unbounded length or with unprintable characters into a message.
"""

from __future__ import annotations

import unicodedata

from bulkcert.spreadsheet import damage, damage_to_number

INT64_MAX = 2**63 - 1
"""The largest number that the providers and SQLite can store."""

_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(
    map(chr, range(0xFE00, 0xFE10))
)
"""Characters that Unicode calls printable, and that look like nothing."""


def text(value: object) -> str:
    """Parse opaque text; only surrounding spaces are removed.

    Raises:
        ValueError: the value is not text, is empty, or contains a character that can't be seen.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {kind_of(value)}")
    value = value.strip(" ")
    if not value:
        raise ValueError("is empty")
    if not value.isprintable() or not (value.isascii() or _INVISIBLE.isdisjoint(value)):
        culprit = next(c for c in value if not c.isprintable() or c in _INVISIBLE)
        name = unicodedata.name(culprit, "")
        kind = "unprintable" if not culprit.isprintable() else "invisible"
        raise ValueError(
            f"contains the {kind} character {culprit!a}" + (f", {name}" if name else "")
        )
    return value


def identifier(value: object) -> str:
    """Parse text that says which device is meant.

    Raises:
        ValueError: it is not text, see `text`, or a spreadsheet has visibly damaged it.
    """
    name = text(value)
    if found := damage(name):
        raise ValueError(f"{found}: {shown(name)}")
    return name


def serial_text(value: object) -> str:
    """Parse a serial number that is opaque text: leading zeros and letter case matter.

    Raises:
        ValueError: it is not text, see `text`, or a spreadsheet has visibly damaged it.
    """
    number = text(value)
    if found := damage_to_number(number):
        raise ValueError(f"{found}: {shown(number)}")
    return number


def whole_number(value: object) -> int:
    """Parse a whole number from 0 to `INT64_MAX`, given as a number or as decimal digits.

    Raises:
        ValueError: the value is not a whole number, or is outside that range.
    """
    if isinstance(value, str):
        digits = value.strip(" ")
        if not digits:
            raise ValueError("is empty")
        if not (digits.isascii() and digits.removeprefix("-").isdigit()):
            found = damage_to_number(digits)
            raise ValueError(
                f"must be a whole number, not {shown(digits)}" + (f": it {found}" if found else "")
            )
        # converting very long strings of digits is slow, so check their length first
        value = int(digits) if len(digits) <= 30 else INT64_MAX + 1
    elif isinstance(value, float) and abs(value) > INT64_MAX:
        # orjson returns integers of more than 64 bits as floats
        raise ValueError("is beyond 64 bits")
    elif isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, not {kind_of(value)}")
    if value < 0:
        raise ValueError("must not be negative")
    if value > INT64_MAX:
        raise ValueError("is beyond 64 bits")
    return value


def shown(value: object, longest: int = 40) -> str:
    """Return a value as quoted in a message, cut to `longest` characters."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"about 2**{value.bit_length() - 1}"  # Python refuses to print very long integers
    quoted = repr(value)
    return quoted if len(quoted) <= longest else f"{quoted[:longest]}…"


def kind_of(value: object) -> str:
    """Describe a value in words that fit after "must be text, not"."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {shown(value)}"
        case str():
            return f"text {shown(value)}"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
        case _:
            return type(value).__name__


def printable(text: str) -> str:
    """Return text as one line that is safe to show on a terminal.

    Whatever could move the cursor, change the terminal or reorder the text is shown as an escape:
    control characters, line breaks, marks for the direction of writing, and invalid characters.
    """
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    # Zs: spaces of all kinds, which Chinese and French texts use
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()
