"""Serve what tests ask about the simulator itself, under `/_simulator/`.

In: HTTP requests that are neither counted nor limited. Out: the ledger as JSON Lines, its summary,
or the state of a device. Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import orjson
from aiohttp import web

from bulkcert.simulator.exchange import CertificateState, parse_query
from bulkcert.simulator.ledger import Ledger

INSPECTION_PATH = "/_simulator/"


class Inspection:
    """The pages about the simulator itself.

    Args:
        summary: returns the ledger's summary.
        states: returns the certificates of a device that is identified by these parameters.
    """

    def __init__(
        self,
        ledger: Ledger,
        summary: Callable[[], dict[str, Any]],
        states: Callable[[dict[str, str]], list[CertificateState]],
    ) -> None:
        self._ledger = ledger
        self._summary = summary
        self._states = states

    async def respond(self, http: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        """Respond to a request below `INSPECTION_PATH`."""
        parameters = parse_query(query)
        match path.removeprefix(INSPECTION_PATH):
            case "ledger":
                after = parameters.get("after") or "0"
                if not after.isdecimal():
                    return web.Response(status=400, text="after is not a number\n")
                return await self._send_ledger(http, int(after))
            case "summary":
                return json_response(self._summary())
            case "device":
                named = {name: value or "" for name, value in parameters.items()}
                return json_response([asdict(state) for state in self._states(named)])
        return web.Response(status=404, text="the pages are ledger, summary and device\n")

    async def _send_ledger(self, http: web.BaseRequest, after: int) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/jsonl"
        await response.prepare(http)
        async for block in self._ledger.blocks(after):
            await response.write(block)
        await response.write_eof()
        return response


def json_response(document: Any) -> web.Response:
    """A JSON document as a response of aiohttp."""
    return web.Response(body=orjson.dumps(document), content_type="application/json")
