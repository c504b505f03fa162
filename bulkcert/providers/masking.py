"""Takes secrets out of what a provider says. Pure.

A refusal may quote the text that should have been signed, and with it a token. It is masked before
it is cut to a length: what is left of a secret that was cut could no longer be recognized.
"""

from __future__ import annotations

from functools import lru_cache
from html import escape
from urllib.parse import quote

from bulkcert.providers.base import MASK


def masked(value: object, secrets: tuple[str, ...]) -> object:
    """The value, without secrets if it is text."""
    if isinstance(value, str):
        for form in _forms(secrets):
            if form in value:
                value = value.replace(form, MASK)
    return value


@lru_cache(maxsize=8)
def _forms(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """How the secrets may be written, the longest first: plainly, percent-encoded once or twice as
    in a text to be signed, or escaped for HTML."""
    forms = set()
    for secret in filter(None, secrets):
        once = quote(secret, safe="")
        forms |= {secret, once, quote(once, safe=""), escape(secret)}
    return tuple(sorted(forms, key=len, reverse=True))
