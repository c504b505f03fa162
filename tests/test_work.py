"""`bulkcert work --wait`: what is waited for, and for how long. Joining is an acceptance test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bulkcert.cli import work as command
from bulkcert.errors import RunDirectoryError

AWAY = RunDirectoryError("The shared store can't be used: refused", "Make sure that it can.")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said while it waits; a second passes with each look."""
    said: list[str] = []
    clock = SimpleNamespace(now_s=0.0)

    def sleep(seconds: float) -> None:
        clock.now_s += 1

    monkeypatch.setattr(command.time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(command.time, "sleep", sleep)
    monkeypatch.setattr(command.console, "write", lambda text, **data: said.append(text))
    monkeypatch.setattr(command, "_may_be_joined", lambda place, run: run.begun)
    return said


def answers(*looks: Any) -> Callable[[str], list[Any]]:
    """The runs of a store as they are at each look; the last answer stays."""

    def each() -> Iterator[Any]:
        yield from looks
        while True:
            yield looks[-1]

    given = each()

    def shared_runs(url: str) -> list[Any]:
        answer = next(given)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    return shared_runs


def run(*, begun: bool) -> Any:
    return SimpleNamespace(name="job", begun=begun)


def test_the_store_and_the_begin_of_the_run_are_waited_for(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = (AWAY, AWAY, [], [run(begun=False)], [run(begun=True)])
    monkeypatch.setattr(command, "shared_runs", answers(*looks))
    assert command._begun("postgresql:///x", "job", 60).begun
    assert said == [
        "Waiting for the shared store: The shared store can't be used: refused",
        "Waiting for the run 'job' to begin.",
    ]


@pytest.mark.parametrize(
    ("looks", "problem"),
    [
        ([AWAY], "can't be used"),
        ([[], AWAY], "can't be used"),
        ([[run(begun=False)]], "has not begun"),
        ([[]], "has no run 'job'"),
    ],
)
def test_nothing_is_waited_for_for_ever(
    said: list[str], monkeypatch: pytest.MonkeyPatch, looks: list[Any], problem: str
) -> None:
    monkeypatch.setattr(command, "shared_runs", answers(*looks))
    with pytest.raises(RunDirectoryError, match=problem):
        command._begun("postgresql:///x", "job", 5)
    assert said
