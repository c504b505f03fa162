"""A life that the store refuses: the reason reaches whoever starts it, and nothing is left open."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bulkcert.errors import CommitsLostError
from bulkcert.hosts.life import SharedLife
from bulkcert.jobfile import load_job
from bulkcert.timings import HostTimings

JOB = Path(__file__).parent.parent.parent / "jobs" / "revoke-key-compromise.toml"


@pytest.mark.system
def test_a_store_that_has_lost_commits_refuses_a_host() -> None:
    closed = []

    def register(*_: Any) -> None:
        raise CommitsLostError

    store = SimpleNamespace(
        owner=uuid.uuid4(), register=register, close=lambda: closed.append(True)
    )
    place: Any = SimpleNamespace(open_for=lambda *_: store)
    with pytest.raises(CommitsLostError):
        SharedLife(place, load_job(JOB), [], HostTimings(), lambda _: None)
    assert closed
