"""Names of keys in messages: where a key is, and what a misspelt one was meant to be. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from bulkcert.values import shown

FORMER_NAMES = {"guard": "circuit_breaker"}
"""Names that earlier versions used, and what they are called now."""


def fold(name: str) -> str:
    """Reduce a name to its letters and digits in lower case, to compare spellings."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def place(section: str, key: str) -> str:
    """Return the place of a key as messages name it; anything but a plain name is quoted."""
    name = key if re.fullmatch(r"[\w-]{1,60}", key) else shown(key)
    return f"{section}.{name}" if section else name


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known name is nearest to an unknown one, and which ones are known."""
    by_fold = {fold(other): other for other in known}
    wanted = fold(FORMER_NAMES.get(name, name))
    close = difflib.get_close_matches(wanted, by_fold, n=1)
    every = f"known are {', '.join(by_fold.values())}"
    return f"the nearest is {by_fold[close[0]]}; {every}" if close else every
