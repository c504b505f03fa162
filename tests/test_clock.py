"""The provider's clock decides, whatever the time of day is on this machine."""

from __future__ import annotations

import time
from pathlib import Path

import preload
import pytest
from enos_vendor import ENOS, devices
from harness import as_a_process

from bulkcert.providers import clock as clock_module
from bulkcert.providers.clock import ProviderClock, unix_time

DATE = {"Date": "Sat, 21 Nov 2026 12:00:00 GMT"}
DATE_S = 1795262400.0


def test_until_a_response_has_a_date_the_time_is_that_of_this_machine() -> None:
    assert abs(ProviderClock().now() - time.time()) < 1


def test_a_response_sets_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, machine = ProviderClock(), [100.0, 5.0]
    monkeypatch.setattr(clock_module.time, "time", lambda: machine[0])
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: machine[1])
    clock.learn(DATE)
    assert clock.now() == DATE_S
    machine[:] = [-1e9, 65.0]  # somebody sets this machine's clock, and a minute passes
    assert clock.now() == DATE_S + 60


@pytest.mark.parametrize("date", ["", "soon", "Sat, 99 Nov 2026 12:00:00 GMT", "1795262400", "\0"])
def test_a_header_that_is_not_a_date_changes_nothing(date: str) -> None:
    clock = ProviderClock()
    clock.learn({})
    clock.learn({"Date": date})
    assert abs(clock.now() - time.time()) < 1
    clock.learn(DATE)
    clock.learn({"Date": date})
    assert abs(clock.now() - DATE_S) < 1


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Sat, 21 Nov 2026 12:00:00 GMT", DATE_S),
        ("Sat, 21 Nov 2026 12:00:00 +0100", DATE_S - 3600),
        ("Saturday, 21-Nov-26 12:00:00 GMT", DATE_S),  # the obsolete forms of RFC 9110
        ("Sat Nov 21 12:00:00 2026", DATE_S),
        ("Sat, 21 Nov 2026 12:00:00 -0000", DATE_S),  # a time without a zone is UTC
        ("Sat, 21 Nov 2026 12:00:00", DATE_S),
        ("Sat, 21 Nov 99999999999 12:00:00 GMT", None),
        ("²", None),
        ("", None),
    ],
)
def test_a_date_is_read_in_each_form_that_http_allows(date: str, seconds: float | None) -> None:
    assert unix_time(date) == seconds


@pytest.mark.system
@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_a_wrong_clock_leads_to_no_second_certificate(ahead_s: int, tmp_path: Path) -> None:
    library = preload.built("shifted_clock", tmp_path)
    if library is None:
        pytest.skip("there is no C compiler")
    shift = tmp_path / "shift"
    shift.write_text(f"{ahead_s}\n")
    behaviour = {"cut_after": 0.5, "list_cert": "serial", "renew_revokes_old": False, "seed": 1}
    with as_a_process(tmp_path, ENOS, "revoke", devices(40), clock_window=60, **behaviour) as job:
        job.write(action="renew")
        environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}
        ended = job.run(environment=job.simulator.credentials | environment)
        assert ended.code == 0, ended
        assert job.violations(clock_slack_s=3600 + 1) == []
