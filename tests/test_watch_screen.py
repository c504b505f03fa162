"""The screen of `status --watch`: what it says of a run, and what fits a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from campaign_run import ENDED, STARTED, planned_run, settle, store_of, with_waves
from local_time import local_time

from bulkcert import event_log
from bulkcert.campaign_state import WaveState
from bulkcert.cli.hosts_screen import hosts_lines, hosts_object, short_names
from bulkcert.cli.verdict import Tone, verdict
from bulkcert.cli.watch import watch_line
from bulkcert.cli.watch_screen import bar, screen
from bulkcert.control import Verb
from bulkcert.event_log import Happened, RunEvent
from bulkcert.found_runs import RunState
from bulkcert.observer import Observer, RunView
from bulkcert.report.summary import ErrorKind
from bulkcert.store.base import Abort, HostNow, HostState, Session

NOW = 1_700_000_000.0
"""Tue 2023-11-14 22:13:20 UTC."""

SIZES = [(80, 24), (60, 15), (200, 50), (149, 30), (20, 8), (1, 1), (300, 3)]


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    with local_time("UTC"):
        yield


def logged(*happened: Happened) -> list[RunEvent]:
    events: list[RunEvent] = []
    for each in happened:
        events.append(event_log.following(events[-1] if events else None, "job", "ab" * 32, each))
    return events


def running(view: RunView, *reasons: str, **figures: Any) -> RunView:
    """The run, with a process that works on it."""
    noted: dict[str, Any] = {"requests": 45_000, "rate": 443.2, "left_s": 725.0, **figures}
    session = Session(NOW - 100, NOW - 0.4, reasons=reasons, **noted)
    host = HostNow(
        name="ops1",
        pid=4242,
        state=HostState.LIVE,
        began_at=NOW - 100,
        silent_s=0.4,
        session=session,
    )
    return replace(view, state=RunState.RUNNING, hosts=[host], gone=())


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """A run with everything that a screen can show, which nobody works on."""
    directory = planned_run(tmp_path_factory.mktemp("view"))
    with_waves(directory, 1, over=False)
    settle(directory, 3, 3)
    with store_of(directory) as store:
        store.add_control(NOW - 60, "ann@ops1", "help desk", Verb.RATE, "50")
        store.add_control(NOW - 90_000, "bob@ops2", "", Verb.GO, "canary")
    seen = Observer(directory, now=lambda: NOW).look()
    advice = "Grant the application full access to Device Management in this organization."
    errors = [
        ErrorKind(count=6_000, code=99403, message="Denied resource", advice=advice),
        ErrorKind(count=12, code=None, message="no response", advice=""),
    ]
    events = logged(
        STARTED._replace(at=NOW - 100),
        event_log.wave_begun(NOW - 99, "canary", 0, 20),
        event_log.throttled(NOW - 50, "pausing for 2.0 s"),
        event_log.throttled(NOW - 40, "", over=True),
        event_log.wave_begun(NOW - 30, "50%", 1, 50_000),
    )
    counts = {"succeeded": 40_000, "failed": 6_012, "unknown": 3, "pending": 53_985}
    summary = replace(seen.summary, total=100_100, **counts, errors=errors, busiest_second=489)
    return replace(seen, summary=summary, in_flight=100, events=events, last_start=events[0])


def shown(view: RunView, columns: int = 80, rows: int = 24) -> list[str]:
    return [line.plain.rstrip() for line in screen(view, columns, rows, coloured=False)]


GOLDEN = """\
job: paused by ann@ops1: help desk is flooded                           22:13:20
  slowed down by the provider: slowed to 9/s

[=========================xxx?>.................................] 45% of 100,100
40,000 succeeded · 6,012 failed · 3 unknown · 100 in flight · 53,985 pending
443/s of 50/s (ceiling 500/s) · 0 requests · busiest second 489 · 0 throttled
about 12 min 05 s left, once it goes on

waves     canary  done       2 of 2  100%
          50%     under way  1 of 2   50%
          rest    to come    0 of 2
errors    6,000 x 99403 Denied resource
              Grant the application full access to Device Management in this
              organization.
          12 x no response
controls  rate 50/s (not in force yet) by ann@ops1 at 22:12:20: help desk
          go after canary (not in force yet) by bob@ops2 at Mon 2023-11-13 21:1…
hosts     ops1, process 4242: 443/s, 0 open, noted 0.4 s ago
events    22:11:40  ann@ops1 started process 4242: 0 of 6 settled before
          22:11:41  wave canary has begun, 20 targets
          22:12:30  the provider slows the run down: pausing for 2.0 s
          22:12:40  the provider no longer slows the run down
          22:12:50  wave 50% has begun, 50,000 targets"""


def test_the_screen_of_a_terminal_of_the_usual_size(view: RunView) -> None:
    reasons = ("paused (by ann@ops1: help desk is flooded)", "throttled (slowed to 9/s)")
    assert "\n".join(shown(running(view, *reasons))) == GOLDEN


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_nothing_is_wider_or_higher_than_the_terminal(
    view: RunView, columns: int, rows: int
) -> None:
    long = "wide 宽 " * 40
    crowded = running(view, f"paused (by ann@ops1: {long})", note=long)
    crowded = replace(crowded, events=crowded.events * 40)
    for each in (view, running(view), crowded):
        lines = screen(each, columns, rows)
        assert len(lines) <= rows
        assert max(line.cell_len for line in lines) <= columns


def test_what_is_least_important_is_left_out_first(view: RunView) -> None:
    running_now = running(view)
    sizes = ((60, 12), (80, 24), (100, 40), (200, 50))
    small, usual, high, large = (shown(running_now, *size) for size in sizes)
    assert small[0].startswith("job: running, 443/s, about 12 min 05 s left")
    assert any(line.startswith("waves") for line in small)
    assert not any("events" in line or "hosts" in line for line in small)
    assert any(line.startswith("events") for line in usual)
    # there is room for blank lines between the sections, or for two columns
    assert (usual.count(""), high.count("")) == (2, 6)
    assert any(line.startswith("waves") and "controls" in line for line in large)


def test_of_many_waves_those_around_the_current_one_stay(view: RunView) -> None:
    wave = view.campaign.waves[0]
    many = [
        replace(wave, wave=wave.wave._replace(number=place, name=f"{place}%"), state=state)
        for place, state in enumerate([WaveState.DONE] * 30 + [WaveState.UNDER_WAY])
    ] + [replace(wave, state=WaveState.TO_COME)] * 30
    crowded = replace(view, campaign=replace(view.campaign, waves=many))
    text = "\n".join(shown(crowded))
    assert "30%" in text
    assert "20%" not in text


def test_the_last_events_stay(view: RunView) -> None:
    events = [event._replace(at=NOW - 100 + place) for place, event in enumerate(view.events * 9)]
    assert shown(replace(view, events=events))[-1].startswith("          22:12:24  wave 50%")


@pytest.mark.parametrize("columns", [100, 50, 20])
def test_a_command_that_takes_several_lines_is_one_to_a_shell(view: RunView, columns: int) -> None:
    aborted = replace(
        view,
        state=RunState.ABORTED,
        campaign=replace(view.campaign, abort=Abort("a1b2c3", NOW, "failed", "11 failed")),
    )
    lines = shown(aborted, columns)
    begin = next(place for place, line in enumerate(lines) if "    bulkcert" in line)
    command = "\n".join(lines[begin : lines.index("")])
    job_file = view.directory.path.parent.parent / "job.toml"
    expected = ["bulkcert", "run", str(job_file), "--override", "a1b2c3", "--why", "TEXT"]
    assert shlex.split(command.replace("\\\n", "")) == expected


def test_names_do_not_act_on_the_terminal(view: RunView) -> None:
    event = view.events[1]
    event = event._replace(data=event.data | {"wave": "\x1b[2J[bold]"})
    evil = replace(running(view, "held (check: \x1b[31m)"), events=[event])
    text = "".join(shown(evil))
    assert "\x1b" not in text
    assert "wave \\x1b[2J[bold] has begun" in text


def test_old_counts_come_with_their_age(view: RunView) -> None:
    assert "45% of 100,100, 8.0 s ago" in "".join(shown(replace(view, counted_at=NOW - 8)))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"succeeded": 0, "failed": 0, "pending": 10}, "[..........]"),
        ({"succeeded": 5, "failed": 0, "pending": 5}, "[=====.....]"),
        ({"succeeded": 999, "failed": 1, "pending": 0}, "[=========x]"),
        ({"succeeded": 1, "failed": 1, "pending": 9_998}, "[=x........]"),
        ({"succeeded": 0, "failed": 0, "pending": 0}, "[..........]"),
    ],
)
def test_what_is_not_nothing_can_be_seen_in_the_bar(
    counts: Mapping[str, int], expected: str
) -> None:
    assert bar(counts, 12, coloured=False).plain == expected
    assert bar(counts, 12).cell_len == 12
    assert bar(counts, 1).cell_len <= 2


# ---- does it go on?


@pytest.mark.parametrize(
    ("reasons", "tone", "sentence"),
    [
        ([], Tone.GOOD, "running, 443/s, about 12 min 05 s left"),
        (["paused (by the file PAUSE: ask Bob)"], Tone.WAITS, "paused by the file PAUSE: ask Bob"),
        (
            ["closed (window until Mon 2026-11-30 22:00, Europe/Berlin)"],
            Tone.WAITS,
            "outside its window until Mon 2026-11-30 22:00, Europe/Berlin",
        ),
        (["held (check: 3 are (still) off)"], Tone.WAITS, "held by its check: 3 are (still) off"),
        (
            ["waiting (between waves until 14:32:10)"],
            Tone.WAITS,
            "waiting between waves until 14:32:10",
        ),
        (["waiting (go 10%)"], Tone.WAITS, "wave 10% is over: somebody has to say go"),
        (
            ["throttled (pausing for 2.0 s)"],
            Tone.WAITS,
            "slowed down by the provider: pausing for 2.0 s",
        ),
        (
            ["half-open (provider failing for 12 s, one probe every 1 s)"],
            Tone.BAD,
            "the provider has been failing for 12 s, one probe every 1 s",
        ),
    ],
)
def test_each_reason_why_nothing_is_sent_is_a_sentence(
    view: RunView, reasons: list[str], tone: Tone, sentence: str
) -> None:
    assert verdict(running(view, *reasons)) == (tone, [sentence])


def test_a_run_that_is_only_slowed_down_is_running(view: RunView) -> None:
    assert verdict(running(view, "throttled (slowed to 120/s)")) == (
        Tone.GOOD,
        [
            "running, 443/s, about 12 min 05 s left",
            "slowed down by the provider: slowed to 120/s",
        ],
    )


def test_a_process_that_notes_nothing_any_more_is_a_bad_sign(view: RunView) -> None:
    now_running = running(view)
    silent = replace(now_running, hosts=[replace(now_running.hosts[0], silent_s=60.0)])
    tone, sentences = verdict(silent)
    assert tone is Tone.BAD
    assert sentences == ["no sign of life: process 4242 on ops1 has noted nothing for 1 min 00 s"]
    assert silent.ends_at is None


def test_how_a_process_has_ended_is_said(view: RunView) -> None:
    interrupted = replace(view, state=RunState.INTERRUPTED)
    assert verdict(interrupted) == (
        Tone.BAD,
        ["interrupted: its process 4242 on ops1 ended without a word, as if killed"],
    )
    stopped = replace(interrupted, last_end=logged(ENDED)[0])
    assert verdict(stopped) == (Tone.WAITS, ["interrupted: Stopped by a signal"])


def test_a_run_that_is_over_is_good_only_if_everything_is(view: RunView) -> None:
    over = replace(view, state=RunState.OVER)
    assert verdict(over) == (Tone.BAD, ["over: 6,012 failed and 3 unknown of 100,100 operations"])
    good = replace(over, summary=replace(over.summary, failed=0, unknown=0))
    assert verdict(good) == (Tone.GOOD, ["over: 100,100 operations, all of them done"])
    left_out = replace(good, summary=replace(good.summary, left_out=1))
    assert verdict(left_out) == (Tone.BAD, ["over: 1 row left out of 100,100 operations"])


def test_who_has_asked_to_stop_is_shown_while_it_does(view: RunView) -> None:
    with store_of(view.directory) as store:
        store.add_control(NOW - 1, "ann@ops1", "enough", Verb.STOP)
    seen = Observer(view.directory, now=lambda: NOW).look()
    stopping = running(replace(view, campaign=seen.campaign), open_requests=3)
    assert verdict(stopping)[1][:2] == [
        "stopping; 3 requests are open",
        "stopped, by ann@ops1: enough",
    ]


# ---- lines


def test_a_line_is_like_those_of_the_run_itself(view: RunView) -> None:
    assert watch_line(running(view, "throttled (slowed to 9/s)")) == (
        "46,015 of 100,100 (45%), 443/s of 50, 6,012 failed, 3 unknown, 12 min 05 s left,"
        " throttled (slowed to 9/s)"
    )


def test_a_line_of_a_run_without_a_process_says_why(view: RunView) -> None:
    assert watch_line(replace(view, state=RunState.INTERRUPTED)) == (
        "46,015 of 100,100 (45%), interrupted: its process 4242 on ops1 ended without a word, as if"
        " killed"
    )


# ---- several hosts


def host(number: int, *reasons: str, silent_s: float = 0.3, **columns: Any) -> HostNow:
    """A host of a shared store."""
    session = Session(NOW - 100, NOW, requests=1_000 * number, rate=150.0, open_requests=20)
    session.reasons = reasons
    usual: dict[str, Any] = {
        "lease": f"{number:08x}-0000",
        "name": f"ops{number}.example.com",
        "pid": 4240 + number,
        "address": f"10.0.0.{number}",
        "version": "1.0",
        "has_switch": True,
        "state": HostState.LIVE,
        "began_at": NOW - 100,
        "operations": 40,
        "session": session,
    }
    return HostNow(silent_s=silent_s, **usual | columns)


def shared(view: RunView, *hosts: HostNow, gone: Sequence[HostNow] = ()) -> RunView:
    return replace(view, state=RunState.RUNNING, hosts=hosts, gone=gone)


THREE = """\
job: running on 3 hosts, 300/s, about 3 min 00 s left                   22:13:20
  silent: ops3
  slowed down by the provider: slowed to 120/s (on ops2)

[=========================xxx?>.................................] 45% of 100,100
40,000 succeeded · 6,012 failed · 3 unknown · 100 in flight · 53,985 pending
300/s of 50/s (ceiling 500/s) · 0 requests · busiest second 489 · 0 throttled
about 3 min 00 s left, until 22:16:20

waves     canary  done       2 of 2  100%
          50%     under way  1 of 2   50%
          rest    to come    0 of 2
errors    6,000 x 99403 Denied resource
              Grant the application full access to Device Management in this
              organization.
          12 x no response
controls  rate 50/s (not in force yet) by ann@ops1 at 22:12:20: help desk
          go after canary (not in force yet) by bob@ops2 at Mon 2023-11-13 21:1…
hosts     ops3  silent for 5.0 s, fenced in 3.0 s  10.0.0.3  00000003
          ops1  150/s  20 open  10.0.0.1  00000001
          ops2  150/s  20 open  throttled (slowed to 120/s)  10.0.0.2  00000002
events    22:12:30  the provider slows the run down: pausing for 2.0 s
          22:12:40  the provider no longer slows the run down
          22:12:50  wave 50% has begun, 50,000 targets"""


def test_the_screen_shows_each_host_and_first_those_that_are_silent(view: RunView) -> None:
    slowed = "throttled (slowed to 120/s)"
    seen = shared(view, host(1), host(2, slowed), host(3, silent_s=5.0))
    assert "\n".join(shown(seen)) == THREE


def test_of_many_hosts_the_silent_ones_stay_and_the_rest_is_counted(view: RunView) -> None:
    hosts = [host(number, silent_s=6.0 if number == 12 else 0.3) for number in range(1, 13)]
    for columns, rows in SIZES:
        lines = screen(shared(view, *hosts), columns, rows)
        assert len(lines) <= rows
        assert max(line.cell_len for line in lines) <= columns
    lines = shown(shared(view, *hosts))
    assert lines[0].startswith("job: running on 12 hosts, 1,650/s")
    assert lines[1] == "  silent: ops12"
    first = next(place for place, line in enumerate(lines) if line.startswith("hosts"))
    assert [line.split()[-4:] for line in lines[first + 1 : first + 4]] == [
        ["20", "open", "10.0.0.1", "00000001"],
        ["20", "open", "10.0.0.2", "00000002"],
        ["open", "10.0.0.3", "00000003", "…"],
    ]


def test_what_holds_all_hosts_up_is_said_once_and_what_holds_some_with_where(
    view: RunView,
) -> None:
    paused, slowed = "paused (by ann@ops1)", "throttled (pausing for 2.0 s)"
    seen = shared(view, host(1, paused), host(2, paused, slowed), host(3, paused, slowed))
    tone, sentences = verdict(seen)
    assert (tone, seen.reasons) == (Tone.WAITS, (paused,))
    where = "slowed down by the provider: pausing for 2.0 s (on 2 of 3 hosts)"
    assert sentences == ["paused by ann@ops1", where]


def test_a_run_whose_hosts_are_all_silent_shows_no_sign_of_life(view: RunView) -> None:
    seen = shared(view, host(1, silent_s=4.0), host(2, silent_s=5.5))
    said = ["no sign of life: none of 2 hosts has noted anything for 4.0 s"]
    assert verdict(seen) == (Tone.BAD, said)
    assert (seen.rate, seen.ends_at) == (0, None)


def test_hosts_that_died_together_are_named(view: RunView) -> None:
    dead = [host(number, silent_s=60.0) for number in range(1, 6)]
    seen = replace(view, state=RunState.INTERRUPTED, hosts=(), gone=dead)
    names = "ops1, ops2, ops3 and 2 more"
    said = [f"interrupted: its hosts {names} ended without a word, as if killed"]
    assert verdict(seen) == (Tone.BAD, said)


HOSTS = """\
job: 4 hosts, 450/s of 500/s, 80 open, 160 taken
  host        rate  open  taken  requests  sends from      lease
  ops1       150/s    20     40     1,000  10.0.0.1 (dc1)  00000001
      bulkcert 1.0
  ops2       150/s    20     40     2,000  10.0.0.2        00000002
      throttled (slowed to 120/s)
      without a dead man's switch
      bulkcert 1.0
  ops3/4243      -    20     40     3,000  any address     00000003
      silent for 5.0 s, fenced in 3.0 s
      bulkcert 1.0
  ops3/99    150/s    20     40     3,000  10.0.0.3        00000005
      bulkcert 1.1
  total      450/s    80    160     9,000
Earlier:
  ops4.example.com, process 4244: fenced by ops1 at Tue 2023-11-14 22:13 UTC,
      after 1 min 20 s; 4,000 requests, lease 00000004"""


def test_the_hosts_in_columns_with_what_they_do_and_those_that_are_gone(view: RunView) -> None:
    fenced = host(4, state=HostState.FENCED, ended_at=NOW - 20, ending="fenced by ops1")
    live = (
        host(1, egress="dc1"),
        host(2, "throttled (slowed to 120/s)", has_switch=False),
        host(3, silent_s=5.0, address=""),
        host(3, pid=99, lease="00000005", version="1.1"),
    )
    lines = "\n".join(hosts_lines(shared(view, *live, gone=[fenced])))
    assert lines == HOSTS
    assert max(map(len, lines.split("\n"))) <= 80
    [silent] = [each for each in hosts_object(shared(view, *live))["hosts"] if not each["address"]]
    assert (silent["silent_seconds"], silent["lease"]) == (5.0, "00000003-0000")


def test_the_version_is_said_once_unless_it_differs(view: RunView) -> None:
    first, *_ = hosts_lines(shared(view, host(1), host(2)))
    assert first == "job: 2 hosts, 300/s of 500/s, 40 open, 80 taken, bulkcert 1.0"
    lines = list(hosts_lines(shared(view, host(1), host(2, version="1.1"))))
    assert [line for line in lines if "bulkcert" in line] == [
        *("      bulkcert 1.0", "      bulkcert 1.1"),
    ]


def test_a_note_that_all_hosts_have_is_there_once(view: RunView) -> None:
    def noting(number: int, note: str) -> HostNow:
        told = host(number)
        assert told.session is not None
        return replace(told, session=replace(told.session, note=note))

    lines = list(hosts_lines(shared(view, noting(1, "shares 200/s"), noting(2, "shares 200/s"))))
    assert [line for line in lines if "shares" in line] == ["  shares 200/s"]
    lines = list(hosts_lines(shared(view, noting(1, "shares 200/s"), noting(2, ""))))
    assert [line for line in lines if "shares" in line] == ["      shares 200/s"]


def test_a_long_name_of_a_host_loses_its_domain_and_its_middle() -> None:
    names = ("ip-10-0-12-34.eu-central-1.compute.internal", "campaign-worker-7c9d8b6f5-x2x9k")
    hosts = [host(1, name=name) for name in names]
    assert list(short_names(hosts).values()) == ["ip-10-0-12-34", "campaign-w…8b6f5-x2x9k"]


def test_the_process_of_a_run_that_is_not_shared_is_its_host(view: RunView) -> None:
    assert list(hosts_lines(running(view))) == [
        "job: 1 host, 443/s of 500/s, 0 open",
        "  host   rate  open  requests",
        "  ops1  443/s     0    45,000",
    ]
    assert list(hosts_lines(view)) == ["job: no host works on it"]
