"""The queue of the dispatcher: what is ready, what is due, and what lets all others go first."""

from __future__ import annotations

import pytest

from bulkcert.lifecycle import LookUp, RetryLater, Send
from bulkcert.model import Operation
from bulkcert.taskqueue import TaskQueue, Waits

NOW = 100.0
MOST_WAITING = 10_000
RETRY, LOOK_UP, AT_END = RetryLater(), LookUp(), LookUp(at_end=True)


def operation(number: int, *, in_doubt: bool = False) -> Operation:
    return Operation(number, number, {}, in_doubt=in_doubt)


def test_what_is_ready_starts_in_the_order_in_which_it_came() -> None:
    queue = TaskQueue()
    for number in (3, 1, 2):
        queue.add(queue.task(operation(number), Send()))
    assert (queue.ready, queue.waiting) == (3, 0)
    taken = [queue.take() for _ in range(3)]
    assert [task.operation.id for task in taken] == [3, 1, 2]
    assert len({task.number for task in taken}) == 3
    assert queue.ready == 0


def test_what_is_due_is_taken_in_the_order_of_its_times() -> None:
    queue = TaskQueue()
    for number, due in ((1, NOW + 1), (2, NOW), (3, NOW - 2), (4, NOW)):
        queue.add_later(due, operation(number), RETRY)
    assert queue.next_due(all_claimed=False) == NOW - 2
    due_now = queue.take_due(NOW, all_claimed=False)
    assert [task.operation.id for task in due_now] == [3, 2, 4]
    assert queue.take_due(NOW, all_claimed=False) == []
    assert queue.next_due(all_claimed=False) == NOW + 1
    assert (queue.ready, queue.waiting) == (0, 1)


def test_times_of_what_was_taken_are_forgotten() -> None:
    queue = TaskQueue()
    assert queue.next_due(all_claimed=True) is None
    queue.add_later(NOW, operation(1), LOOK_UP)
    assert queue.take_due(NOW, all_claimed=True)
    assert queue.next_due(all_claimed=True) is None


def test_what_lets_others_go_first_is_taken_when_all_are_claimed() -> None:
    queue = TaskQueue()
    queue.add_later(NOW, operation(1), AT_END)
    queue.add_later(NOW + 1, operation(2), LOOK_UP)
    assert queue.next_due(all_claimed=False) == NOW + 1
    assert queue.take_due(NOW, all_claimed=False) == []
    assert queue.next_due(all_claimed=True) == NOW
    assert [task.operation.id for task in queue.take_due(NOW, all_claimed=True)] == [1]


def test_what_lets_others_go_first_is_taken_when_the_queue_is_full() -> None:
    queue = TaskQueue()
    queue.add_later(NOW, operation(0), AT_END)
    for number in range(2, MOST_WAITING):
        queue.add_later(NOW + 1, operation(number), RETRY)
    assert not queue.full
    assert queue.next_due(all_claimed=False) == NOW + 1
    queue.add(queue.task(operation(MOST_WAITING), Send()))  # does not wait
    assert not queue.full
    queue.add_later(NOW + 1, operation(1), AT_END)
    assert queue.full
    assert queue.next_due(all_claimed=False) == NOW


def test_what_waits_is_described() -> None:
    queue = TaskQueue()
    queue.add(queue.task(operation(1, in_doubt=True), LOOK_UP))
    assert queue.waits(NOW, idle=True) == Waits(0, 0.0, 0.0, in_doubt=False, idle=False)
    queue.add_later(NOW + 9, operation(2), AT_END)
    queue.add_later(NOW - 1, operation(3), RETRY)
    assert queue.waits(NOW, idle=False) == Waits(2, 0.0, 9.0)
    queue.add_later(NOW + 2, operation(4, in_doubt=True), LOOK_UP)
    assert queue.waits(NOW, idle=True) == Waits(3, 0.0, 9.0, in_doubt=True, idle=True)
    assert queue.waits(NOW - 3, idle=True).next_s == 2.0
    assert queue.waits(NOW + 10, idle=True).last_s == 0.0


@pytest.mark.parametrize("at_end", [False, True])
def test_doubts_count_wherever_they_wait(at_end: bool) -> None:
    queue = TaskQueue()
    queue.add(queue.task(operation(1, in_doubt=True), LOOK_UP))
    queue.add(queue.task(operation(2), Send()))
    queue.add_later(NOW, operation(3, in_doubt=True), AT_END if at_end else LOOK_UP)
    assert queue.in_doubt == 2


def test_everything_is_given_back_once() -> None:
    queue = TaskQueue()
    queue.add(queue.task(operation(1), Send()))
    queue.add_later(NOW, operation(2), RETRY)
    queue.add_later(NOW, operation(3), AT_END)
    assert sorted(task.operation.id for task in queue.take_all()) == [1, 2, 3]
    assert queue.take_all() == []
    assert (queue.ready, queue.waiting) == (0, 0)
