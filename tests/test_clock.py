"""The provider's clock decides, whatever the time of day is on this machine."""

from __future__ import annotations

import string
import time
from pathlib import Path

import preload
import pytest
from enos_vendor import ENOS, devices
from harness import as_a_process
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers import clock as clock_module
from bulkcert.providers.clock import ProviderClock, boot_time_s, retry_after_s, unix_time

DATE = {"Date": "Sat, 21 Nov 2026 12:00:00 GMT"}
DATE_S = 1795262400.0


def test_until_a_response_has_a_date_the_time_is_that_of_this_machine() -> None:
    assert abs(ProviderClock().now() - time.time()) < 1


def test_a_response_sets_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = [100.0, 5.0]
    clock = ProviderClock(lambda: machine[1])
    monkeypatch.setattr(clock_module.time, "time", lambda: machine[0])
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


# ---- Retry-After


def wait_s(value: str, now_s: float = DATE_S, **headers: str) -> float | None:
    return retry_after_s({"Retry-After": value} | headers, now_s)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("0", 0), ("1", 1), ("60", 60), (" 7 ", 7), ("007", 7), ("86400", 86400)),
        *(("1.5", 1.5), ("2.", 2), ("9" * 5000, 1e9)),
        *(("", None), (" ", None), ("-1", None), ("1e3", None), ("soon", None), ("1 2", None)),
        *(("٣", None), ("²", None), (".5", None), ("0x10", None), ("1_0", None), ("inf", None)),
        *(("nan", None), ("Fri", None), ("x" * 8000, None), ("5s", None)),
        ("Fri, 31 Feb 2026 00:00:00", None),
        ("Fri, 01 Jan 2027 00:00:00 +99999999999999999999", None),
        ("Fri, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Fri, 01 Jan 2027 99:99:99 GMT", None),
        ("Fri, 99999999999999999999 Jan 2027 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds(value: str, seconds: float | None) -> None:
    assert wait_s(value) == seconds


@pytest.mark.parametrize("zone", ["GMT", "UTC", "-0000", "+0000", ""])
def test_retry_after_as_a_date_counts_from_the_date_of_the_response(zone: str) -> None:
    """Both are by the provider's clock, which may be far from ours."""
    value = f"Sat, 21 Nov 2026 12:00:30 {zone}".strip()
    date = f"Sat, 21 Nov 2026 12:00:00 {zone}".strip()
    assert wait_s(value, now_s=0.0, Date=date) == 30
    assert wait_s("Sat, 21 Nov 2026 13:00:30 +0100", now_s=0.0, Date=date) == 30


def test_without_a_date_it_counts_from_the_provider_s_time_as_known() -> None:
    elapsed = [7.0]
    clock = ProviderClock(lambda: elapsed[0])
    clock.learn(DATE)
    elapsed[0] += 60
    assert wait_s("Sat, 21 Nov 2026 12:01:30 GMT", clock.now()) == 30
    assert wait_s("Sat, 21 Nov 2026 12:01:30 GMT", clock.now(), Date="soon") == 30


def test_a_date_in_the_past_means_now() -> None:
    assert wait_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_an_enormous_date_is_still_a_number() -> None:
    seconds = wait_s("Fri, 31 Dec 9999 23:59:59 -2359")
    assert seconds is not None
    assert 1e8 < seconds < float("inf")


@given(value=st.text(string.printable, max_size=40), date=st.text(string.printable, max_size=40))
def test_any_header_is_read_or_ignored(value: str, date: str) -> None:
    seconds = wait_s(value, Date=date)
    assert seconds is None or 0 <= seconds < float("inf")


def test_the_time_since_the_start_of_the_machine_does_not_stand_still() -> None:
    before = boot_time_s()
    assert before >= time.monotonic() - 1  # it also counts the time while it was suspended
    assert boot_time_s() >= before


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
