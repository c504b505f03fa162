"""What spreadsheets, reports and exports do to names and numbers, where it shows. Pure.

In: the text of a field that says which device or certificate is meant. Out: what has happened to
it, as a reason that completes the sentence "DeviceSn ...", or an empty text. Must never call
something damaged that a provider may have issued: `12E34567` is a serial number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SCIENTIFIC = re.compile(r"[+-]?\d+([.,]\d*E[+-]?\d+|E\+\d+)", re.IGNORECASE)
"""With a sign of the exponent or a decimal mantissa, as all spreadsheets write it. Without either,
such as 12E34567, it is a hexadecimal number. A whole mantissa with a negative exponent, such as
7E-12, is not taken for one either: no serial number is that small."""

_GROUPED = re.compile(r"\d{1,3}(,\d{2,3})*,\d{3}(\.\d+)?|\d{1,3}([ '’])\d{3}(\3\d{3})*([.,]\d+)?")
_GROUPED_BY_POINTS = re.compile(r"\d{1,3}(\.\d{3})+(,\d+)?")
"""Only in numbers: a device may be called 192.168.100.200."""

_DECIMAL = re.compile(r"\d+[.,]\d*")
_DIGITS_WITH_BLANKS = re.compile(r"\d+( +\d+)+")
_MONTH = "(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}([ T].*)?|\d{1,2}/\d{1,2}/\d{2,4}( .*)?"
    rf"|\d{{1,2}}-{_MONTH}(-\d{{2,4}})?|{_MONTH}-\d{{2,4}}",
    re.IGNORECASE,
)
_MASKED = re.compile(r"\*\*|…|\.\.\.|[•●∗＊×]{2}")
_ERROR = re.compile(r"#+|#(N/A|REF!|VALUE!|NAME\?|NUM!|NULL!|DIV/0!|SPILL!|CALC!)", re.IGNORECASE)
_KEPT_DIGITS = 15
_QUOTES = "\"'“”‘’`"
_MISSING = frozenset(("nan", "null", "none", "nil", "undefined", "n/a", "na", "<na>", "nat", "-"))
_LONGEST_MISSING = max(map(len, _MISSING))

_AS_TEXT = "export the column as text"


def damage(value: str) -> str:
    """Return what a spreadsheet or a report has visibly done to a name, or an empty text."""
    if value.isascii() and value.isalnum():
        return ""  # nearly all are; each damage leaves a mark
    if _SCIENTIFIC.fullmatch(value):
        return f"is in scientific notation, so digits are missing; {_AS_TEXT}"
    if value[0] == "=":
        return f"is a formula of a spreadsheet; {_AS_TEXT}"
    if value[0] in _QUOTES:
        return "begins with a quote or an apostrophe, which a spreadsheet adds to text; remove it"
    if _GROUPED.fullmatch(value):
        return f"has thousands separators; {_AS_TEXT}"
    if _ERROR.fullmatch(value):
        return "is an error value of a spreadsheet"
    if _MASKED.search(value):
        return "is masked, so some of its characters are missing"
    return ""


def may_be_cut(value: object) -> bool:
    """Whether a number may have lost its last digits: a spreadsheet keeps 15, and writes zeros in
    place of the others. A good number may look like that, too."""
    if isinstance(value, int):
        value = str(value) if value >= 10**_KEPT_DIGITS else ""
    if not isinstance(value, str) or len(value) <= _KEPT_DIGITS or value[-1] != "0":
        return False
    return value[0] != "0" and value.isdigit() and not value[_KEPT_DIGITS:].strip("0")


def any_may_be_cut(values: Iterable[object]) -> bool:
    """Whether `may_be_cut` may be true of one of these values; faster than to ask about each."""
    return max(map(len, map(str, values)), default=0) > _KEPT_DIGITS


def damage_to_number(value: str) -> str:
    """The same for a serial number, which consists of digits or hexadecimal digits."""
    if len(value) > _LONGEST_MISSING and value.isascii() and value.isalnum():
        return ""  # nearly all
    if value.lower() in _MISSING:
        return "stands for a missing value"
    if found := damage(value):
        return found
    if _GROUPED_BY_POINTS.fullmatch(value):
        return f"has thousands separators; {_AS_TEXT}"
    if _DECIMAL.fullmatch(value):
        return f"has become a decimal number; {_AS_TEXT}"
    if _DATE.fullmatch(value):
        return f"has become a date; {_AS_TEXT}"
    if _DIGITS_WITH_BLANKS.fullmatch(value):
        return f"has blanks between its digits; {_AS_TEXT}"
    if "*" in value:
        return "is masked, so some of its characters are missing"
    return ""
