"""What an operator can do about a failure: one small table per provider. Pure.

In: a code and its text, as a run recorded them. Out: one or two sentences for people, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Advice(NamedTuple):
    """What to do about one kind of failure.

    Attributes:
        code: the provider's code. Text also stands for the codes that continue it after a dot.
        text: what to do, in one or two sentences.
        says: the advice is only for responses whose text contains this, in any letter case.
    """

    code: int | str
    text: str
    says: str = ""


def advise(table: Iterable[Advice], code: int | str | None, message: str = "") -> str:
    """The first advice in a table that fits a code and its text; empty if there is none."""
    family = str(code).partition(".")[0]
    said = message.lower()
    for advice in table:
        if advice.code in (code, family) and advice.says.lower() in said:
            return advice.text
    return ""
