"""Stands between a job and the simulator of EnOS: sees, changes or stops what passes.

It reads the action and the device of a request as EnOS writes them; other vendors' requests have
neither here. Override `GoBetween.before` and `after`, or use one of the classes below:

* `Forger` changes responses.
* `Crash` ends a run at one moment as a crash would.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from yarl import URL

from bulkcert import begun_runs

if TYPE_CHECKING:
    from harness import InProcessJob

_PASSED_HEADERS = ("Content-Type", "Location", "Retry-After")


@dataclass(frozen=True)
class Passing:
    """A request that passes.

    Attributes:
        action: the action; `get` or `refresh` for a call to the token service.
        device: its `assetId`; empty if it has none.
        body: the JSON of its body; None if it has none.
    """

    action: str
    device: str
    body: Any


class CutError(Exception):
    """Raised by `before` and `after` to cut the connection."""


class GoBetween:
    """Passes on requests and responses, and whatever a subclass makes of them."""

    async def before(self, passing: Passing) -> None:
        """Called before a request is passed on; may raise `CutError`."""

    async def after(self, passing: Passing, response: bytes) -> bytes:
        """Called with the body of each response; returns the body for the job, or raises
        `CutError`."""
        return response

    @asynccontextmanager
    async def serving(self, endpoint: str) -> AsyncIterator[str]:
        """Serve in front of an endpoint; yields the endpoint for the job."""
        self._endpoint = endpoint
        self._open: set[asyncio.Transport] = set()
        runner = web.ServerRunner(web.Server(self._pass_on), shutdown_timeout=0.01)
        async with aiohttp.ClientSession() as self._session:
            self._session._retry_connection = False  # what is passed on twice would be sent twice
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()

    def cut_all(self) -> None:
        """Cut every connection of the job; requests already passed on arrive all the same."""
        for transport in self._open:
            transport.abort()

    async def _pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.transport is None:  # cut meanwhile
            return web.Response()
        self._open.add(request.transport)
        query = request.rel_url.query
        passing = Passing(
            query.get("action") or request.path.rpartition("/")[2],
            query.get("assetId", ""),
            json.loads(body or b"null"),
        )
        kept = {k: v for k, v in request.headers.items() if k.startswith(("apim-", "Content-Type"))}
        try:
            await self.before(passing)
            url = URL(self._endpoint + request.raw_path, encoded=True)
            async with self._session.request(
                request.method, url, data=body or None, headers=kept, allow_redirects=False
            ) as response:
                content = await self.after(passing, await response.read())
        except (CutError, aiohttp.ClientError):
            if request.transport:
                request.transport.abort()
            return web.Response()
        passed = {
            name: response.headers[name] for name in _PASSED_HEADERS if name in response.headers
        }
        return web.Response(body=content, status=response.status, headers=passed)


class Forger(GoBetween):
    """Changes responses.

    Args:
        changes: by action, a function from the JSON of a response to the one for the job.
    """

    def __init__(self, **changes: Callable[[Any], Any]) -> None:
        self.changes = changes

    async def after(self, passing: Passing, response: bytes) -> bytes:
        change = self.changes.get(passing.action)
        return json.dumps(change(json.loads(response))).encode() if change else response


class Crash(GoBetween):
    """Ends a run at one moment as a crash would, and lets the next run pass.

    It keeps a copy of the run directory, and of what the user's state folder remembers of it, as
    they are at that moment, cuts off the run, and puts the copies in place when the run has ended.

    Args:
        when: whether the moment has come: called before each request is passed on, and again with
            its response.
    """

    def __init__(self, when: Callable[[Passing, bytes | None], bool]) -> None:
        self._when = when
        self._job: InProcessJob | None = None
        self.happened = False
        self._remembered: list[tuple[Path, bytes]] = []

    async def before(self, passing: Passing) -> None:
        self._crash_if_due(passing, None)

    async def after(self, passing: Passing, response: bytes) -> bytes:
        self._crash_if_due(passing, response)
        return response

    def _crash_if_due(self, passing: Passing, response: bytes | None) -> None:
        job = self._job
        if job is None or passing.action == "get":  # a run without a token sends nothing
            return
        if not self.happened and self._when(passing, response):
            self.happened = True
            unfinished = shutil.ignore_patterns("*.partial")
            shutil.copytree(job.run_dir, self._copy(job), ignore=unfinished)
            self._remembered = [
                (run.file, run.file.read_bytes()) for run in begun_runs.recall().runs
            ]
            job.running.stop()
            self.cut_all()
        if self.happened:
            raise CutError

    async def crash(self, job: InProcessJob) -> None:
        """Run the job until it crashes."""
        assert await self.run_until_crash(job), "the moment never came"

    async def run_until_crash(self, job: InProcessJob) -> bool:
        """Run the job until it crashes; False if it finishes before."""
        self._job, self.happened = job, False
        await job.run_alone()
        self._job = None
        if self.happened:
            shutil.rmtree(job.run_dir)
            self._copy(job).rename(job.run_dir)
            for file, content in self._remembered:
                file.write_bytes(content)
        return self.happened

    @staticmethod
    def _copy(job: InProcessJob) -> Path:
        return job.folder / "at the crash"
