"""A life of a host that can't begin."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bulkcert.errors import CommitsLostError
from bulkcert.hosts.life import SharedLife
from bulkcert.hosts.switch import Switch
from bulkcert.timings import HostTimings


def test_a_life_that_can_not_begin_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def register(*_: object) -> None:
        raise CommitsLostError

    monkeypatch.setattr(Switch, "prove", lambda notify: None)
    store = SimpleNamespace(
        owner=uuid.uuid4(), register=register, close=lambda: closed.append(True)
    )
    place = SimpleNamespace(open_for=lambda timings, elapsed_s: store)
    job = SimpleNamespace(connection=SimpleNamespace(source_addresses=(), proxy=""))
    with pytest.raises(CommitsLostError):
        SharedLife(cast(Any, place), cast(Any, job), (), HostTimings(), print)
    assert closed == [True]
