"""What a notify command gets: every event, in order, whatever it does and however the run ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

import hypothesis
import pytest
from hypothesis import strategies as st
from stores import Disk, MemoryStore

from bulkcert import process_log
from bulkcert.event_log import EventType, Happened, RunEvent, following
from bulkcert.events import Detail, Event, Notice
from bulkcert.json_lines import as_json
from bulkcert.notifier import Notifier, StoredEvents
from bulkcert.outside_command import Ended
from bulkcert.timings import NotifyTimings
from tests.virtual_time import run_virtually, settle

TIMINGS = NotifyTimings()
TIMEOUT_S = 10.0
TAKES_S = 0.5
OK, FAILED = Ended(0), Ended(7, "curl: (7) connection refused")


class Log:
    """The log of a run with its durable cursor, which no crash loses."""

    def __init__(self, events: int = 0) -> None:
        self.events: list[RunEvent] = []
        self.cursor = 0
        self.closed = False
        self.unreadable = self.unwritable = False
        for _ in range(events):
            self.add()

    def add(
        self, kind: EventType = EventType.STATE, data: Mapping[str, Any] = MappingProxyType({})
    ) -> RunEvent:
        happened = Happened(1e9, kind, data)
        before = self.events[-1] if self.events else None
        self.events.append(following(before, "job", "46d4", happened))
        return self.events[-1]

    def outbox(self) -> Outbox:
        """What one process sees of it."""
        return Outbox(self)


class Outbox:
    """The same as `bulkcert.notifier.StoredEvents`, without threads."""

    def __init__(self, log: Log) -> None:
        self.log, self.last = log, log.cursor

    async def first(self) -> RunEvent | None:
        if self.log.unreadable:
            raise OSError("disk I/O error")
        return next(iter(self.log.events[self.last : self.last + 1]), None)

    async def passed(self, event: RunEvent) -> None:
        self.last = event.seq
        if self.log.unwritable:
            raise OSError("disk full")
        self.log.cursor = self.last

    async def close(self) -> None:
        self.log.closed = True


class Command:
    """Stands in for the command.

    Attributes:
        ends: how it ends, by what it is given; OK unless a test says otherwise.
        takes_s: how long that takes; it is killed after its time-out.
        got: when it began, and what it was given.
    """

    def __init__(self) -> None:
        self.ends: Callable[[Mapping[str, Any]], Ended] = lambda given: OK
        self.takes_s = TAKES_S
        self.got: list[tuple[float, Mapping[str, Any]]] = []
        self.running = self.most_running = 0
        self._closed = asyncio.Event()

    async def run(self, given: Mapping[str, Any], timeout_s: float) -> Ended:
        self.got.append((_now_s(), given))
        takes_s = self.takes_s
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(takes_s, timeout_s)):
                    await self._closed.wait()
                return Ended(None, problem="killed")
        finally:
            self.running -= 1
        if takes_s > timeout_s:
            return Ended(None, problem="no answer within 10 s")
        return self.ends(given)

    def close(self) -> None:
        self._closed.set()

    @property
    def taken(self) -> list[int | None]:
        """The numbers of what it was given, in order."""
        return [given.get("seq") for _, given in self.got]

    @property
    def times(self) -> list[float]:
        """When it began, each time, in seconds."""
        return [round(at - self.got[0][0], 3) for at, _ in self.got]


def _now_s() -> float:
    return asyncio.get_running_loop().time()


class Scene:
    """One process that notifies, on a virtual clock."""

    def __init__(self, log: Log) -> None:
        self.log, self.command = log, Command()
        self.said: list[Event] = []
        self.notifier = Notifier(self.command, TIMEOUT_S, log.outbox(), self.said.append)

    def happens(self, *what: Any) -> None:
        """Something happens in this process."""
        self.notifier.listen(self.log.add(*what))

    def notices(self) -> list[str]:
        return [event.text for event in self.said if isinstance(event, Notice)]

    def details(self) -> list[str]:
        return [event.text for event in self.said if isinstance(event, Detail)]


@contextlib.asynccontextmanager
async def notifying(log: Log) -> AsyncIterator[Scene]:
    scene = Scene(log)
    async with scene.notifier as entered:
        assert entered is scene.notifier
        await settle()
        yield scene


def played(play: Callable[[Scene], Any], events: int = 0) -> Scene:
    """Play a scene to the end of its process, and return it."""

    async def scene() -> Scene:
        async with notifying(Log(events)) as s:
            await play(s)
        return s

    return run_virtually(scene())


def test_each_event_is_given_in_order_with_its_hash_one_at_a_time() -> None:
    async def play(s: Scene) -> None:
        for _ in range(3):
            s.happens()
        await asyncio.sleep(10)
        s.happens()

    s = played(play)
    assert s.command.taken == [1, 2, 3, 4]
    assert s.command.most_running == 1
    assert s.log.cursor == 4
    assert s.log.closed
    for event, (_, given) in zip(s.log.events, s.command.got, strict=True):
        assert given == {**event.as_object(), "hash": event.hash}
        line = as_json(given).replace(f',"hash":"{event.hash}"'.encode(), b"")
        assert hashlib.sha256(line).hexdigest() == given["hash"]
    assert s.command.got[1][1]["previous"] == s.command.got[0][1]["hash"]
    assert s.said == s.log.events  # the listener of the run gets them too


def test_what_an_earlier_process_has_left_comes_first() -> None:
    async def play(s: Scene) -> None:
        s.happens()

    async def scene() -> list[int | None]:
        log = Log(4)
        log.cursor = 2
        async with notifying(log) as s:
            await play(s)
        return s.command.taken

    assert run_virtually(scene()) == [3, 4, 5]


def test_what_other_processes_log_is_noticed_soon() -> None:
    async def play(s: Scene) -> None:
        await asyncio.sleep(100)
        s.log.add()  # such as `bulkcert verify`
        await asyncio.sleep(TIMINGS.look_every_s + TAKES_S + 0.1)
        assert s.command.taken == [1]

    played(play)


def test_a_failed_try_is_repeated_later_and_later_and_said_once() -> None:
    async def play(s: Scene) -> None:
        fails = itertools.count()
        s.command.ends = lambda given: FAILED if next(fails) < 4 else OK
        s.happens()
        await asyncio.sleep(60)
        s.happens()

    s = played(play)
    assert s.command.taken == [1, 1, 1, 1, 1, 2]
    assert s.command.times[:5] == [0, 1.5, 4, 8.5, 17]
    assert s.notices() == [
        "The notify command has failed for event 1 (state): exit code 7: curl: (7) connection"
        " refused. It is tried again; the run goes on."
    ]
    assert len(s.details()) == 3


def test_after_a_success_the_delay_is_short_again_and_a_failure_is_said_again() -> None:
    async def play(s: Scene) -> None:
        fails = iter([FAILED, FAILED, OK, FAILED, OK])
        s.command.ends = lambda given: next(fails)
        s.happens()
        s.happens()
        await asyncio.sleep(60)

    s = played(play)
    assert s.command.taken == [1, 1, 1, 2, 2]
    assert s.command.times == [0, 1.5, 4, 4.5, 6]
    assert len(s.notices()) == 2


def test_an_event_that_is_never_taken_is_given_up_and_the_others_follow() -> None:
    async def play(s: Scene) -> None:
        s.command.ends = lambda given: FAILED if given["seq"] == 2 else OK
        for _ in range(3):
            s.happens()
        await asyncio.sleep(3600)

    s = played(play)
    assert s.command.taken == [1, *[2] * TIMINGS.most_tries, 3]
    assert s.notifier.given_up == 1
    assert s.log.cursor == 3
    assert s.notices()[1:] == [
        "The notify command has not taken event 2 (state) in 10 tries. Given up so far: 1 event;"
        " events.jsonl has all of them."
    ]


def test_a_command_that_always_fails_is_not_tried_at_a_high_rate() -> None:
    """However many events there are, and however fast it fails."""

    async def play(s: Scene) -> None:
        s.command.ends = lambda given: FAILED
        s.command.takes_s = 0
        for _ in range(60):
            for _ in range(1000):
                s.happens()
            await asyncio.sleep(60)

    s = played(play)
    in_the_hour = [at for at in s.command.times if at <= 3600]
    assert len(in_the_hour) <= 6 + 3600 / TIMINGS.longest_delay_s
    assert len(s.notices()) < 10


def test_an_outage_of_four_minutes_loses_nothing() -> None:
    async def play(s: Scene) -> None:
        over_s = _now_s() + 240
        s.command.ends = lambda given: OK if _now_s() > over_s else FAILED
        for _ in range(24):
            s.happens()
            await asyncio.sleep(10)
        await asyncio.sleep(120)

    s = played(play)
    assert sorted(set(s.command.taken), key=lambda seq: seq or 0) == list(range(1, 25))
    assert s.notifier.given_up == 0


def test_a_command_that_hangs_is_tried_again() -> None:
    async def play(s: Scene) -> None:
        s.command.takes_s = 60
        s.happens()
        await asyncio.sleep(11.5)
        s.command.takes_s = TAKES_S
        await asyncio.sleep(60)

    s = played(play)
    assert s.command.taken == [1, 1, 1]
    assert "no answer within 10 s" in s.notices()[0]


def test_a_fault_of_ours_counts_as_a_failed_try() -> None:
    async def play(s: Scene) -> None:
        def fault(given: Mapping[str, Any]) -> Ended:
            raise ValueError("embedded null byte")

        s.command.ends = fault
        s.happens()
        await asyncio.sleep(1)
        s.command.ends = lambda given: OK

    s = played(play)
    assert s.command.taken == [1, 1]
    assert "embedded null byte" in s.notices()[0]


class TestEnd:
    """The end of a process."""

    def test_what_is_left_is_passed_on_before_the_process_ends(self) -> None:
        async def play(s: Scene) -> None:
            for _ in range(5):
                s.happens()

        s = played(play)
        assert s.command.taken == [1, 2, 3, 4, 5]
        waiting = Notice("Waiting for the notify command, for at most 14 s.", warns=False)
        assert [event for event in s.said if isinstance(event, Notice)] == [waiting]

    def test_it_waits_no_longer_than_it_may_and_the_next_process_goes_on(self) -> None:
        log = Log()

        async def first() -> tuple[float, Scene]:
            async with notifying(log) as s:
                s.command.takes_s = 60
                s.happens()
                s.happens()
                begun_s = _now_s()
            return _now_s() - begun_s, s

        took_s, s = run_virtually(first())
        assert took_s == pytest.approx(TIMINGS.patience_s)
        assert s.command.running == 0
        assert s.notices()[-1] == (
            "The notify command has not taken event 1 (state) in time. What is left is passed on"
            " when the run is started again."
        )
        assert log.cursor == 0

        async def second() -> list[int | None]:
            async with notifying(log) as s:
                s.happens()
            return s.command.taken

        assert run_virtually(second()) == [1, 2, 3]

    def test_a_long_delay_is_cut_short_and_the_last_tries_come_soon(self) -> None:
        async def play(s: Scene) -> None:
            s.command.ends = lambda given: FAILED
            s.command.takes_s = 0
            s.happens()
            await asyncio.sleep(130)  # in the middle of a delay of a minute
            s.command.got.clear()

        s = played(play)
        assert s.command.times == pytest.approx([0, 1, 3, 7])

    def test_an_event_that_could_not_be_recorded_comes_last(self) -> None:
        async def play(s: Scene) -> None:
            s.happens()
            s.log.unwritable = True
            s.notifier.unrecorded = {"type": "ended", "recorded": False}

        s = played(play)
        assert s.command.taken == [1, None]
        assert s.command.got[-1][1] == {"type": "ended", "recorded": False}
        assert s.log.cursor == 0  # so event 1 comes again, from the next process
        [detail] = s.details()
        assert detail == "It can't be noted that event 1 (state) is passed on: disk full"

    def test_that_event_may_not_be_taken_in_time_either(self) -> None:
        async def play(s: Scene) -> None:
            s.command.takes_s = 60
            s.notifier.unrecorded = {"type": "ended", "recorded": False}

        assert played(play).notices()[-1] == (
            "The notify command has not taken the end of this process in time. It is not given it"
            " again."
        )

    def test_that_event_is_passed_on_even_if_the_log_can_not_be_read(self) -> None:
        async def play(s: Scene) -> None:
            s.log.unreadable = True
            await asyncio.sleep(10)
            s.notifier.unrecorded = {"type": "ended", "recorded": False}

        s = played(play, events=0)
        assert s.command.taken == [None]
        assert s.notices() == []
        text = "The events for the notify command can't be read: disk I/O error"
        assert set(s.details()) == {text}

    @pytest.mark.parametrize("ended_first", [False, True])
    def test_while_only_the_command_is_awaited_somebody_may_cut_that_short(
        self, ended_first: bool
    ) -> None:
        """That may be noticed a moment before the run is left."""

        async def scene() -> tuple[float, Scene]:
            async with notifying(Log()) as s:
                s.command.takes_s = 9
                s.happens(EventType.ENDED, {"exit_code": None})  # another process
                other = {"host": "ops2", "pid": 7}  # one of another host
                s.happens(EventType.ENDED, {"exit_code": 0, "process": other})
                s.notifier.hurry()  # has no effect as long as the run is at work
                await asyncio.sleep(3)
                assert s.command.running
                begun_s = _now_s()
                if ended_first:
                    process = process_log.this_process()
                    s.happens(EventType.ENDED, {"exit_code": 0, "process": process})
                    s.happens()  # such as the end of another process
                    s.notifier.hurry()
                asyncio.get_running_loop().call_later(2, s.notifier.hurry)
            return _now_s() - begun_s, s

        took_s, s = run_virtually(scene())
        assert took_s == pytest.approx(0 if ended_first else 2, abs=0.1)
        assert "What is left" in s.notices()[-1]

    @pytest.mark.parametrize(
        ("takes_s", "events", "works_s", "after_s"),
        [
            pytest.param(60, 1, 1000, 1, id="while the command runs"),
            pytest.param(60, 1, 0, 1, id="while it waits for the command at its end"),
            pytest.param(0, 1, 1000, 100, id="between two tries"),
            pytest.param(0, 0, 1000, 1, id="while nothing happens"),
        ],
    )
    def test_a_cancelled_process_leaves_at_once(
        self, takes_s: float, events: int, works_s: float, after_s: float
    ) -> None:
        async def scene() -> tuple[float, Log]:
            log = Log(events)

            async def work() -> None:
                async with notifying(log) as s:
                    s.command.takes_s = takes_s
                    s.command.ends = lambda given: FAILED
                    await asyncio.sleep(works_s)

            task = asyncio.create_task(work())
            await asyncio.sleep(after_s)
            begun_s = _now_s()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            return _now_s() - begun_s, log

        took_s, log = run_virtually(scene())
        assert took_s < 0.1
        assert log.closed

    def test_the_log_is_closed_when_nothing_uses_it_any_more(self) -> None:
        async def scene() -> int:
            async with notifying(Log()) as s:
                s.command.takes_s = 60
                s.happens()
            return s.command.running

        assert run_virtually(scene()) == 0

    def test_a_log_that_can_not_be_read_for_long_is_not_blamed_on_the_command(self) -> None:
        class Slow(Outbox):
            async def first(self) -> RunEvent | None:
                await asyncio.sleep(20)
                return await super().first()

        async def scene() -> Scene:
            s = Scene(Log(1))
            s.notifier._outbox = Slow(s.log)
            async with s.notifier:
                await settle()
            return s

        s = run_virtually(scene())
        assert s.notices() == ["Waiting for the notify command, for at most 14 s."]
        assert s.command.got == []

    def test_what_is_added_while_it_looks_for_the_last_time_is_passed_on(self) -> None:
        class Looking(Outbox):
            async def first(self) -> RunEvent | None:
                event = await super().first()
                await asyncio.sleep(0.1)
                return event

        async def scene() -> Scene:
            s = Scene(Log())
            s.notifier._outbox = Looking(s.log)
            async with s.notifier:
                await asyncio.sleep(0.05)
                s.happens()
            return s

        assert run_virtually(scene()).command.taken == [1]

    def test_an_exception_of_the_run_gets_through_after_its_events(self) -> None:
        async def scene() -> None:
            async with notifying(log):
                log.add()
                raise RuntimeError("a fault of ours")

        log = Log()
        with pytest.raises(RuntimeError, match="a fault of ours"):
            run_virtually(scene())
        assert log.cursor == 1


class SlowOutbox(Outbox):
    """Takes a moment for each step, in which the process may die."""

    async def first(self) -> RunEvent | None:
        await asyncio.sleep(0.1)
        return await super().first()

    async def passed(self, event: RunEvent) -> None:
        await asyncio.sleep(0.1)  # the command has it, and that is not noted yet
        await super().passed(event)
        await asyncio.sleep(0.1)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    processes=st.lists(
        st.tuples(
            st.integers(0, 2_000).map(lambda tenths: tenths**2 / 1e5),  # up to 40 s, mostly less
            st.integers(0, 4),
            st.lists(st.booleans(), max_size=15),
        ),
        max_size=6,
    )
)
def test_whenever_processes_die_each_event_is_given_at_least_once_in_order(
    processes: list[tuple[float, int, list[bool]]],
) -> None:
    """Each process: how long it lives, what happens in it, and whether each try succeeds."""
    log, tried, taken = Log(), list[int](), list[int]()

    async def process(dies_after_s: float, events: int, tries: list[bool]) -> None:
        scene, outcomes = Scene(log), iter(tries)
        scene.notifier._outbox = SlowOutbox(log)

        def ends(given: Mapping[str, Any]) -> Ended:
            tried.append(given["seq"])
            if next(outcomes, True):
                taken.append(given["seq"])
                return OK
            return FAILED

        scene.command.ends = ends
        await scene.notifier.__aenter__()
        for _ in range(events):
            scene.happens()
            await asyncio.sleep(0.3)
        await asyncio.sleep(dies_after_s)

    for dies_after_s, events, tries in processes:
        run_virtually(process(dies_after_s, events, tries))
    run_virtually(process(1000, 1, []))

    assert sorted(set(taken)) == [event.seq for event in log.events]
    for before, after in itertools.pairwise(tried):
        # a gap would be an event that nobody tried; only what was not noted comes again
        assert before <= after <= before + 1
    assert log.cursor == len(log.events)


class TestStoredEvents:
    """The outbox of a run, on its store."""

    async def test_it_begins_after_the_last_event_that_was_passed_on_and_notes_each(self) -> None:
        store = FragileStore(cursor=1)
        outbox = StoredEvents(store.opened)
        first = await outbox.first()
        assert first == await outbox.first() == store.disk.events[1]
        await outbox.passed(first)
        assert store.disk.notified == 2
        assert await outbox.first() == store.disk.events[2]
        await outbox.passed(store.disk.events[2])
        assert await outbox.first() is None
        await outbox.close()
        assert (store.times_opened, store.times_closed) == (1, 1)

    async def test_what_can_not_be_noted_is_not_passed_on_again_by_this_process(self) -> None:
        store = FragileStore(cursor=0)
        outbox = StoredEvents(store.opened)
        first = await outbox.first()
        assert first is not None
        store.is_full = True
        with pytest.raises(OSError, match="disk full"):
            await outbox.passed(first)
        assert await outbox.first() == store.disk.events[1]
        assert store.disk.notified == 0

    async def test_a_store_that_was_never_opened_need_not_be_closed(self) -> None:
        store = FragileStore(cursor=0)
        await StoredEvents(store.opened).close()
        assert store.times_closed == 0

    async def test_only_the_steward_passes_events_on_and_another_one_begins_where_it_was(
        self,
    ) -> None:
        store = FragileStore(cursor=0)
        outbox = StoredEvents(store.opened)
        first, second, _ = store.disk.events
        assert await outbox.first() == first
        await outbox.passed(first)
        store.is_steward = False
        assert await outbox.first() is None
        await outbox.passed(second)  # which had begun before
        assert store.disk.notified == 1
        store.disk.notified = 2  # by the other one, which is gone now
        store.is_steward = True
        assert await outbox.first() == store.disk.events[2]

    async def test_a_store_whose_connection_broke_is_opened_anew(self) -> None:
        store = FragileStore(cursor=0)
        outbox = StoredEvents(store.opened)
        store.is_full = True
        with pytest.raises(OSError, match="disk full"):
            await outbox.passed(store.disk.events[0])
        store.is_full = False
        assert await outbox.first() == store.disk.events[1]  # not again by this process
        assert (store.times_opened, store.times_closed) == (2, 1)


class FragileStore(MemoryStore):
    """Has three events; the disk may be full."""

    def __init__(self, cursor: int) -> None:
        super().__init__(Disk(notified=cursor))
        self.is_full, self.is_steward = False, True
        self.times_opened = self.times_closed = 0
        for _ in range(3):
            self.add_event(Happened(1e9, EventType.STATE, {}))

    def opened(self) -> FragileStore:
        self.times_opened += 1
        return self

    def events(self, after: int = 0, most: int | None = None) -> list[RunEvent]:
        assert most == 1  # there may be very many
        return super().events(after, most)

    def notifies(self, lease: UUID | None) -> bool:
        return self.is_steward

    def set_notified(self, seq: int) -> None:
        if self.is_full:
            raise OSError("disk full")
        super().set_notified(seq)

    def close(self) -> None:
        self.times_closed += 1
