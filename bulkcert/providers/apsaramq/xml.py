"""Reads responses in XML, the gateway's default format. It may come although JSON was asked for
(aliyun/alibaba-cloud-sdk-go#89).

In: the text of a body. Out: its elements by name. Pure; never raises. Declarations of document
types and entities are refused, so nothing is ever expanded or fetched.
"""

from __future__ import annotations

from typing import Any
from xml.parsers import expat

LONGEST = 100_000  # characters
DEEPEST = 10


class _RefusedError(Exception):
    """The document has something that no response of the gateway has."""


def xml_object(body: str) -> dict[str, Any] | None:
    """The elements below the root by name, each as an object of its own or as its text.

    Of several elements of one name the last one counts. Attributes are ignored.

    Returns:
        None if it is not XML, or not a response of the gateway: those have a `RequestId` or a
        `Code`.
    """
    body = body.lstrip()
    if not body.startswith("<") or len(body) > LONGEST:
        return None
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.CharacterDataHandler = reader.text
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _RefusedError):
        return None
    root = reader.last
    return root if isinstance(root, dict) and ("RequestId" in root or "Code" in root) else None


def _refuse(*_: object) -> None:
    raise _RefusedError


class _Reader:
    """Collects the elements of a document; `last` is the content of the last one that ended."""

    def __init__(self) -> None:
        self._open: list[tuple[dict[str, Any], list[str]]] = [({}, [])]
        self.last: dict[str, Any] | str = ""

    def start(self, name: str, attributes: object) -> None:
        if len(self._open) > DEEPEST:
            raise _RefusedError
        self._open.append(({}, []))

    def text(self, text: str) -> None:
        self._open[-1][1].append(text)

    def end(self, name: str) -> None:
        elements, texts = self._open.pop()
        self.last = elements or "".join(texts).strip()
        self._open[-1][0][name] = self.last
