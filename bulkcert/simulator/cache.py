"""A cache between clients and vendors, as an HTTP proxy may have one.

In: GET requests, and the responses to them. Out: an earlier response with its `Age`, while it is
fresh. It never looks at what a response says.
"""

from __future__ import annotations

from dataclasses import replace

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.exchange import Request, Response


class Cache:
    """Responses by URL and action; empty for ever if there is no cache."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._life_us = int(behaviour.cache_for * SECOND_US)
        self._obeys = behaviour.cache_obeys
        self._stored: dict[tuple[str, ...], tuple[int, Response]] = {}

    def find(self, request: Request) -> Response | None:
        """The response to an earlier request of this kind, if it may be used."""
        if not self._stored or request.method != "GET":
            return None
        if self._obeys and "no-cache" in request.headers.get("Cache-Control", "").lower():
            return None
        at_us, response = self._stored.get(_key(request), (0, None))
        age_us = request.at_us - at_us
        if response is None or age_us >= self._life_us:
            return None
        age = ("Age", str(age_us // SECOND_US))
        return replace(response, headers=(*response.headers, age), fault="cached")

    def store(self, request: Request, response: Response) -> None:
        """Keep a response, if it may be used again."""
        good = response.status == 200 and response.fault is None
        if self._life_us and request.method == "GET" and good:
            self._stored[_key(request)] = request.at_us, response


def _key(request: Request) -> tuple[str, ...]:
    return request.path, request.query, request.headers.get("x-acs-action", "")
