"""What an attempt or a look-up says, in a form that every store and report can keep. Pure.

The text of a provider may be of any length and have any characters, and its code may be any number.
SQLite takes whole numbers of at most 64 bits, and JSON only text without half a surrogate pair. A
result that could not be recorded would end the run, and end it again each time it is continued.
"""

from __future__ import annotations

from typing import TypeVar

from bulkcert.model import AttemptResult, LookupResult
from bulkcert.providers.decoding import LONGEST_ID, integer, one_line

LONGEST_RECORDED_MESSAGE = 2000
"""A message may quote the provider, whose own text is shorter, see `LONGEST_MESSAGE`."""

Result = TypeVar("Result", AttemptResult, LookupResult)


def bounded(result: Result) -> Result:
    """The result with a code, a message and a request id that can be recorded."""
    code, message, request_id = result.code, result.message, result.request_id
    kept = code
    if isinstance(code, str) or (code is not None and integer(code) is None):
        kept = one_line(code, LONGEST_ID) or None
    line = one_line(message, LONGEST_RECORDED_MESSAGE)
    name = None if request_id is None else one_line(request_id, LONGEST_ID) or None
    if (kept, line, name) == (code, message, request_id):
        return result
    return result._replace(code=kept, message=line, request_id=name)
