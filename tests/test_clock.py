"""The provider's clock counts, whatever the time of day is on this machine."""

from __future__ import annotations

import time
from pathlib import Path

import preload
import pytest
from processes import staged

from bulkcert.providers import clock as clock_module
from bulkcert.providers.clock import ProviderClock

DATE = {"Date": "Sat, 21 Nov 2026 12:00:00 GMT"}
DATE_S = 1795262400.0


def test_until_an_answer_tells_the_time_it_is_that_of_this_machine() -> None:
    assert abs(ProviderClock().now() - time.time()) < 1


def test_an_answer_tells_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, machine = ProviderClock(), [100.0, 5.0]
    monkeypatch.setattr(clock_module.time, "time", lambda: machine[0])
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: machine[1])
    clock.learn(DATE)
    assert clock.now() == DATE_S
    machine[:] = [-1e9, 65.0]  # somebody sets the clock, and a minute passes
    assert clock.now() == DATE_S + 60


@pytest.mark.parametrize("date", ["", "soon", "Sat, 99 Nov 2026 12:00:00 GMT", "1795262400", "\0"])
def test_a_date_that_is_none_changes_nothing(date: str) -> None:
    clock = ProviderClock()
    clock.learn({})
    clock.learn({"Date": date})
    assert abs(clock.now() - time.time()) < 1
    clock.learn(DATE)
    clock.learn({"Date": date})
    assert abs(clock.now() - DATE_S) < 1


@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_a_wrong_clock_makes_no_second_certificate(ahead_s: int, tmp_path: Path) -> None:
    library = preload.built("shifted_clock", tmp_path)
    if library is None:
        pytest.skip("there is no C compiler")
    shift = tmp_path / "shift"
    shift.write_text(f"{ahead_s}\n")
    behaviour = {"cut_after": 0.5, "list_cert": "serial", "renew_revokes_old": False, "seed": 1}
    with staged(tmp_path, targets=40, clock_window=60, **behaviour) as scene:
        scene.write(action="renew")
        environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}
        ended = scene.run(environment=scene.simulator.credentials | environment)
        assert ended.code == 0, ended
        assert scene.violations(clock_slack_s=3600 + 1) == []
