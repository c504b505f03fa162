"""When operations may be claimed, over both changes of daylight saving time."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkcert.rules.window import Opening, Window, opening

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    """Unix time of a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def window(*openings: str, closed: str = "") -> Window:
    days = frozenset([date.fromisoformat(closed)] if closed else [])
    return Window([opening(text) for text in openings], BERLIN, days)


NIGHTS = window("Mon-Fri 22:00-05:00", "Sat-Sun 00:00-24:00")


@pytest.mark.parametrize(
    ("text", "days", "begin", "end"),
    [
        ("Mon-Fri 22:00-05:00", {0, 1, 2, 3, 4}, 1320, 1740),
        ("Sat-Sun 00:00-24:00", {5, 6}, 0, 1440),
        ("Fri-Mon 01:30-02:30", {4, 5, 6, 0}, 90, 150),
        ("mon,WED 8:00-9:00".replace("8:", "08:").replace("9:", "09:"), {0, 2}, 480, 540),
        ("Sun 12:00 - 12:01", {6}, 720, 721),
    ],
)
def test_openings_are_read(text: str, days: set[int], begin: int, end: int) -> None:
    assert opening(text) == Opening(frozenset(days), begin, end)


OPENINGS = st.builds(
    lambda days, begin, length: Opening(days, begin, begin + length),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1439),
)


@given(OPENINGS)
def test_openings_are_written_as_they_are_read(given: Opening) -> None:
    assert opening(str(given)) == given


@pytest.mark.parametrize(
    "text", ["Mon-Fri 22:00-05:00", "Sat-Sun 00:00-24:00", "Mon,Wed-Thu,Sat 08:30-09:00"]
)
def test_openings_are_written_in_few_words(text: str) -> None:
    assert str(opening(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("22:00-05:00", "days and hours"),
        ("Mon", "days and hours"),
        ("Mon 22-05", "days and hours"),
        ("Mon 22:00-05:60", "does not exist"),
        ("Mon 24:00-05:00", "does not exist"),
        ("Mon 22:00-24:01", "does not exist"),
        ("Mon 05:00-05:00", "has no hours"),
        ("Tag 22:00-05:00", "names no day"),
        ("Mon-Fri-Sun 22:00-05:00", "names no day"),
    ],
)
def test_what_is_no_opening_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        opening(text)


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-26 20:59", False),  # Thursday, 21:59 in Berlin
        ("2026-11-26 21:00", True),
        ("2026-11-27 03:59", True),  # the hours of Thursday
        ("2026-11-27 04:00", False),
        ("2026-11-28 04:30", True),  # Saturday
        ("2026-11-29 22:59", True),
        ("2026-11-29 23:00", False),  # Monday 00:00: the hours of Monday begin at 22:00
    ],
)
def test_a_day_names_the_day_on_which_the_hours_begin(moment: str, is_open: bool) -> None:
    assert NIGHTS.is_open(at(moment)) is is_open


def test_nothing_is_open_on_a_closed_day_or_in_the_hours_that_begin_on_it() -> None:
    holiday = window("Mon-Sun 22:00-05:00", closed="2026-12-24")
    assert holiday.is_open(at("2026-12-23 22:59"))
    assert not holiday.is_open(at("2026-12-23 23:00"))  # midnight: the 24th begins
    assert not holiday.is_open(at("2026-12-24 21:30"))
    assert not holiday.is_open(at("2026-12-25 03:00"))  # still the hours of the 24th
    assert holiday.is_open(at("2026-12-25 21:00"))
    assert holiday.next_change(at("2026-12-23 22:00")) == at("2026-12-23 23:00")
    assert holiday.next_change(at("2026-12-23 23:00")) == at("2026-12-25 21:00")


def test_an_hour_that_is_repeated_is_open_twice() -> None:
    """On 2026-10-25 the clocks in Berlin go back from 03:00 to 02:00, at 01:00 UTC."""
    early = window("Sun 02:00-03:00")
    assert early.is_open(at("2026-10-25 00:00"))
    assert early.is_open(at("2026-10-25 01:59"))
    assert early.next_change(at("2026-10-24 12:00")) == at("2026-10-25 00:00")
    assert early.next_change(at("2026-10-25 00:00")) == at("2026-10-25 02:00")
    assert early.open_s(at("2026-10-24 12:00"), at("2026-10-25 12:00")) == 7200
    half = window("Sun 02:00-02:30")
    assert [half.is_open(at(f"2026-10-25 {time}")) for time in ("00:29", "00:30", "01:00")] == [
        *(True, False, True)
    ]


def test_hours_that_are_skipped_are_not_open_and_those_around_them_are() -> None:
    """On 2026-03-29 the clocks in Berlin go forward from 02:00 to 03:00, at 01:00 UTC."""
    skipped = window("Sun 02:15-02:45")
    assert skipped.open_s(at("2026-03-28 00:00"), at("2026-03-30 00:00")) == 0
    around = window("Sun 01:00-04:00")
    assert around.open_s(at("2026-03-28 00:00"), at("2026-03-30 00:00")) == 7200
    begins_in_it = window("Sun 02:30-04:00")
    assert begins_in_it.next_change(at("2026-03-28 00:00")) == at("2026-03-29 01:00")
    assert begins_in_it.open_s(at("2026-03-28 00:00"), at("2026-03-30 00:00")) == 3600


def test_a_window_that_never_opens_or_closes_has_no_next_change() -> None:
    always = window("Mon-Sun 00:00-24:00")
    assert always.is_open(0)
    assert always.next_change(0) is None
    assert always.when_open_for(100, 50) == 150
    never = window()
    assert not never.is_open(0)
    assert never.next_change(0) is None
    assert never.when_open_for(0, 1) is None


def test_nothing_is_searched_for_without_end() -> None:
    minute_a_week = window("Mon 00:00-00:01")
    assert minute_a_week.when_open_for(at("2026-11-26"), 10**9) is None
    assert minute_a_week.since_open_for(at("2026-11-26"), 10**9) is None
    far = at("9999-12-31 23:59")
    assert Window([opening("Mon 00:00-00:01")], ZoneInfo("Asia/Shanghai")).is_open(far) is False
    assert NIGHTS.next_change(far) is None
    assert NIGHTS.since_open_for(far, 1) is None


def test_a_night_in_which_clocks_go_back_over_midnight_has_one_evening_twice() -> None:
    """On 2010-11-07 the clocks in St. John's went back from 00:01 to 23:01."""
    newfoundland = Window([opening("Sat 23:30-23:45")], ZoneInfo("America/St_Johns"))
    begin, end = at("2010-11-06 12:00"), at("2010-11-07 12:00")
    assert list(newfoundland.spans(begin, end)) == [
        (at("2010-11-07 02:00"), at("2010-11-07 02:15")),
        (at("2010-11-07 03:00"), at("2010-11-07 03:15")),
    ]


def test_an_offset_that_is_not_in_whole_minutes() -> None:
    """Until 1972 the clocks in Monrovia were 44 minutes and 30 seconds behind UTC."""
    monrovia = Window([opening("Mon-Sun 10:00-11:00")], ZoneInfo("Africa/Monrovia"))
    assert list(monrovia.spans(at("1971-06-01"), at("1971-06-02"))) == [
        (at("1971-06-01 10:44:30"), at("1971-06-01 11:44:30"))
    ]


def test_when_the_needed_hours_have_passed() -> None:
    thursday = at("2026-11-26 21:00")
    assert NIGHTS.when_open_for(thursday, 7 * 3600) == thursday + 7 * 3600
    assert NIGHTS.when_open_for(thursday - 60, 3600) == thursday + 3600
    assert NIGHTS.when_open_for(thursday, 7 * 3600 + 1) == at("2026-11-27 21:00") + 1


@pytest.mark.parametrize(
    ("zone", "hours", "opens"),
    [
        ("America/New_York", "Sun 02:30-03:30", "2027-03-14 07:00"),
        ("Australia/Lord_Howe", "Sun 02:10-02:40", "2026-10-03 15:30"),
        ("Pacific/Chatham", "Sun 03:00-04:00", "2026-09-26 14:00"),
        ("America/St_Johns", "Sun 02:30-03:30", "2027-03-14 05:30"),
    ],
)
def test_hours_of_which_the_beginning_is_skipped_begin_to_the_second(
    zone: str, hours: str, opens: str
) -> None:
    drawn = Window([opening(hours)], ZoneInfo(zone))
    assert drawn.next_change(at(opens) - 7200) == at(opens)


def test_since_when_the_needed_hours_last() -> None:
    noon = at("2026-11-26 12:00")  # the night before ended at 04:00
    assert NIGHTS.since_open_for(noon, 3600) == at("2026-11-26 03:00")
    assert NIGHTS.since_open_for(noon, 7 * 3600) == at("2026-11-25 21:00")
    assert NIGHTS.since_open_for(noon, 7 * 3600 + 1) == at("2026-11-25 04:00") - 1
    assert NIGHTS.since_open_for(at("2026-11-26 22:00"), 60) == at("2026-11-26 21:59")


def test_it_is_not_open_for_no_time_at_all() -> None:
    midnight = at("2026-11-26 23:00")
    assert NIGHTS.is_open(midnight)
    assert list(NIGHTS.spans(midnight, midnight)) == []


@given(st.integers(1, 60 * 86_400))
def test_what_is_needed_fits_exactly_on_both_sides(needed_s: int) -> None:
    moment = at("2026-11-26 22:00")
    since, until = NIGHTS.since_open_for(moment, needed_s), NIGHTS.when_open_for(moment, needed_s)
    assert since is not None
    assert until is not None
    assert NIGHTS.open_s(since, moment) == NIGHTS.open_s(moment, until) == needed_s


@st.composite
def openings(draw: st.DrawFn) -> Opening:
    begin = draw(st.integers(0, 1439))
    days = draw(st.frozensets(st.integers(0, 6), min_size=1))
    return Opening(days, begin, begin + draw(st.integers(1, 1440)))


@given(
    st.lists(openings(), max_size=3),
    st.sampled_from(["Europe/Berlin", "Asia/Shanghai", "Australia/Lord_Howe", "America/St_Johns"]),
    st.integers(int(at("2026-01-01")) // 60, int(at("2027-12-31")) // 60),
)
def test_nothing_changes_before_the_next_change(
    spans: list[Opening], zone: str, minute: int
) -> None:
    drawn = Window(spans, ZoneInfo(zone))
    change = drawn.next_change(minute * 60)
    last = minute + 3000 if change is None else min(int(change) // 60, minute + 3000)
    states = {drawn.is_open(each * 60) for each in range(minute, last, 7)}
    states.add(drawn.is_open(minute * 60))
    assert len(states) == 1
    if change is not None:
        assert drawn.is_open(change) not in states
        assert drawn.is_open(change - 60) in states or change - 60 < minute * 60


@settings(max_examples=30)
@given(
    st.lists(st.integers(int(at("2026-10-20")), int(at("2026-10-30"))), min_size=2, max_size=5),
    st.lists(openings(), min_size=1, max_size=3),
)
def test_what_was_asked_before_does_not_change_an_answer(
    moments: list[int], spans: list[Opening]
) -> None:
    asked = Window(spans, BERLIN)
    for moment in moments:
        fresh = Window(spans, BERLIN)
        assert asked.next_change(moment) == fresh.next_change(moment)
        assert asked.open_s(moment, moment + 10**5) == fresh.open_s(moment, moment + 10**5)
