"""Runs with a notify command, against the simulator: what arrives, and that no run is held up."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from enos_vendor import ENOS, devices
from harness import SHORT_WAITS, InProcessJob, in_this_process

from bulkcert.errors import BulkcertError
from bulkcert.event_log import chain_fault
from bulkcert.report.summary import RESUMABLE, STOPPED_BY_RULES
from bulkcert.timings import NotifyTimings

pytestmark = pytest.mark.system

GETS = "cat >> got.jsonl"
LITTLE_PATIENCE = dataclasses.replace(
    SHORT_WAITS,
    notify=NotifyTimings(
        first_delay_s=0.05, longest_delay_s=0.2, look_every_s=0.05, patience_s=0.5, say_after_s=0.1
    ),
)
MUCH_PATIENCE = dataclasses.replace(
    SHORT_WAITS, notify=NotifyTimings(look_every_s=0.05, patience_s=60.0)
)


class NotifiedJob:
    """A revocation in waves, with a notify command."""

    def __init__(self, job: InProcessJob) -> None:
        self.job = job
        self.notifies(GETS)

    def notifies(self, script: str, timeout: str = "10s") -> None:
        """Have a script run for each event, in the folder of the job."""
        self.job.write(notify={"command": ["sh", "-c", script], "timeout": timeout})

    async def run(self, **options: Any) -> int:
        """Run the job; return its exit code."""
        try:
            return (await self.job.run(**options)).exit_code
        except BulkcertError as error:
            return error.exit_code

    @property
    def got(self) -> list[dict[str, Any]]:
        """What the command has kept."""
        file = self.job.folder / "got.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def log(self) -> list[bytes]:
        """The lines of events.jsonl."""
        return (self.job.run_dir / "events.jsonl").read_bytes().splitlines()

    def has_all(self) -> bool:
        """Whether the command has got each event once, in order, with its hash."""
        lines = self.log()
        assert chain_fault(lines) == ""
        hashes = [hashlib.sha256(line).hexdigest() for line in lines]
        events = [
            {**json.loads(line), "hash": hash_} for line, hash_ in zip(lines, hashes, strict=True)
        ]
        return self.got == events


@contextlib.asynccontextmanager
async def notified(folder: Path, count: int = 40, **sections: Any) -> AsyncIterator[NotifiedJob]:
    rollout = {"canary": 3, "waves": ["50%"]}
    async with in_this_process(
        folder, ENOS, "revoke", devices(count), **{"rollout": rollout} | sections
    ) as job:
        job.timings = MUCH_PATIENCE
        yield NotifiedJob(job)


async def test_everything_that_happens_arrives_once_and_in_order(tmp_path: Path) -> None:
    async with notified(tmp_path) as n:
        assert await n.run() == 0
        assert n.has_all()
        assert [event["type"] for event in n.got[:2]] == ["started", "wave"]
        assert (n.got[-1]["type"], n.got[-1]["exit_code"]) == ("ended", 0)
        assert n.job.violations() == []


async def test_whoever_is_notified_gets_no_credentials(tmp_path: Path) -> None:
    async with notified(tmp_path) as n:
        n.notifies("env > environment; mkdir tried || exit 0; echo simulator-secret; exit 1")
        assert await n.run() == 0
        assert "simulator-" not in (tmp_path / "environment").read_text()
        assert "exit code 1: ********." in n.job.notices()[0]


@pytest.mark.parametrize(
    ("script", "takes_all"),
    [
        ("sleep 0.1", True),
        ("exec <&-", True),
        ("yes | head -c 3000000; yes >&2 | head -c 3000000 & exit 0", True),
        ("sleep 1000 & exit 0", True),
        ("kill -STOP $$", False),
        ("exit 1", False),
        ("cat > /dev/null; yes", False),
        ("trap '' TERM HUP INT; (sleep 1000; :) & while :; do sleep 1000; done", False),
        ("exec /no/such/program", False),
    ],
)
async def test_whatever_the_command_does_the_run_ends_as_it_would_have(
    tmp_path: Path, script: str, takes_all: bool
) -> None:
    """What the command has not taken is passed on by the next process, also after the run."""
    async with notified(tmp_path) as n:
        n.notifies(script, timeout="0.3s" if not takes_all else "10s")
        n.job.timings = MUCH_PATIENCE if takes_all else LITTLE_PATIENCE
        assert await n.run() == 0
        assert n.job.outcomes() == ["succeeded"] * 40
        assert n.job.violations() == []
        left = any("What is left is passed on" in text for text in n.job.notices())
        assert left != takes_all
        n.notifies(GETS)
        n.job.timings = MUCH_PATIENCE
        assert await n.run() == 0
        assert n.has_all() == (not takes_all)
        assert n.job.violations() == []


@pytest.mark.parametrize(
    ("sections", "options", "code"),
    [
        ({}, {"until": "canary"}, RESUMABLE),
        ({"rollout": {"canary": 3, "confirm": ["canary"]}}, {"wait": False}, RESUMABLE),
        ({"check": {"command": ["sh", "-c", "exit 10"]}}, {}, STOPPED_BY_RULES),
    ],
)
async def test_every_early_end_arrives(
    tmp_path: Path, sections: dict[str, Any], options: dict[str, Any], code: int
) -> None:
    async with notified(tmp_path, **sections) as n:
        assert await n.run(**options) == code
        assert n.has_all()
        assert (n.got[-1]["type"], n.got[-1]["exit_code"]) == ("ended", code)
        assert n.got[-1]["why"]


async def test_a_provider_that_can_not_be_used_arrives(tmp_path: Path) -> None:
    async with notified(tmp_path) as n:
        n.job.credentials["ENOS_APP_SECRET"] = "another"
        code = await n.run()
        assert code != 0
        assert n.has_all()
        assert n.got[-1]["type"] == "ended"
        assert n.got[-1]["why"]


async def test_a_rehearsal_notifies_nobody(tmp_path: Path) -> None:
    async with notified(tmp_path) as n:
        assert await n.run(rehearsal=True) == 0
        assert n.got == []


async def test_a_command_that_is_added_to_a_run_gets_everything(tmp_path: Path) -> None:
    """`[notify]` may change within a run, without more ado."""
    async with notified(tmp_path) as n:
        del n.job.document["notify"]
        n.job.write()
        assert await n.run(until="canary") == RESUMABLE
        n.notifies(GETS)
        assert await n.run() == 0
        assert n.has_all()
        assert [event["type"] for event in n.got].count("started") == 2
