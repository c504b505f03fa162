"""The operations that one process has claimed and not begun to send: what is next for each of them.

In: an operation, what to do for it, and for a retry or a look-up the time at which it is due. Out:
the next one to start, and what is due. The time is passed in. Nothing here waits, and no operation
is changed.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bulkcert.lifecycle import LookUp, RetryLater, Send
from bulkcert.model import Operation

MOST_WAITING = 10_000
"""While this many operations wait for a retry or a look-up, none are claimed: memory is bounded."""


class Waits(NamedTuple):
    """The operations that wait until they are looked up or sent again.

    Attributes:
        operations: how many there are.
        next_s, last_s: seconds until the first and the last of them are due.
        in_doubt: at least one of them may have been executed.
        idle: there is nothing else to do.
    """

    operations: int = 0
    next_s: float = 0.0
    last_s: float = 0.0
    in_doubt: bool = False
    idle: bool = False


NOTHING_WAITS = Waits()


@dataclass(slots=True, order=True)
class Task:
    """What to do next for one operation, and when."""

    due: float
    number: int
    operation: Operation = field(compare=False)
    effect: Send | LookUp | RetryLater = field(compare=False)


class TaskQueue:
    """Tasks that are ready to start, in the order in which they came, and tasks that are due later.

    All times are on the clock of the event loop, in seconds.
    """

    def __init__(self) -> None:
        self._ready: deque[Task] = deque()
        self._later: list[Task] = []  # heap by due time
        self._at_end: list[Task] = []  # likewise, of what lets all others go first
        self._numbers = itertools.count()

    @property
    def ready(self) -> int:
        """Number of tasks that may start."""
        return len(self._ready)

    @property
    def waiting(self) -> int:
        """Number of tasks that are due later."""
        return len(self._later) + len(self._at_end)

    @property
    def full(self) -> bool:
        """Whether as many tasks wait as may."""
        return self.waiting >= MOST_WAITING

    @property
    def in_doubt(self) -> int:
        """Number of operations that may have been executed."""
        tasks = itertools.chain(self._later, self._at_end, self._ready)
        return sum(task.operation.in_doubt for task in tasks)

    def waits(self, now: float, *, idle: bool) -> Waits:
        """Describe what is due later.

        Args:
            now: the time.
            idle: there is nothing else to do.
        """
        tasks = [*self._later, *self._at_end]
        if not tasks:
            return NOTHING_WAITS
        due = [task.due for task in tasks]
        return Waits(
            operations=len(tasks),
            next_s=max(0.0, min(due) - now),
            last_s=max(0.0, max(due) - now),
            in_doubt=any(task.operation.in_doubt for task in tasks),
            idle=idle,
        )

    def task(self, operation: Operation, effect: Send | LookUp) -> Task:
        """Return a new task that may start at any time."""
        return Task(0.0, next(self._numbers), operation, effect)

    def add(self, task: Task) -> None:
        """Add a task that may start."""
        self._ready.append(task)

    def add_later(self, due: float, operation: Operation, effect: LookUp | RetryLater) -> None:
        """Add a task that is due at a time."""
        at_end = isinstance(effect, LookUp) and effect.at_end
        heap = self._at_end if at_end else self._later
        heapq.heappush(heap, Task(due, next(self._numbers), operation, effect))

    def take(self) -> Task:
        """Take the next task that may start; there must be one."""
        return self._ready.popleft()

    def take_due(self, now: float, *, all_claimed: bool) -> list[Task]:
        """Take the tasks that are due.

        Args:
            now: the time.
            all_claimed: nothing comes any more that would have to go first.
        """
        due = []
        for heap in self._heaps(all_claimed):
            while heap and heap[0].due <= now:
                due.append(heapq.heappop(heap))
        return due

    def next_due(self, *, all_claimed: bool) -> float | None:
        """Return when `take_due` will have something; None if nothing waits for a time."""
        return min((heap[0].due for heap in self._heaps(all_claimed) if heap), default=None)

    def take_ready(self) -> list[Task]:
        """Take all tasks that may start."""
        tasks = list(self._ready)
        self._ready.clear()
        return tasks

    def take_all(self) -> list[Task]:
        """Keep nothing any more, and return all that was kept."""
        tasks = [*self._ready, *self._later, *self._at_end]
        for kept in (self._ready, self._later, self._at_end):
            kept.clear()
        return tasks

    def _heaps(self, all_claimed: bool) -> Sequence[list[Task]]:
        """What may be taken up as soon as it is due."""
        if all_claimed or self.full:
            return self._later, self._at_end
        return (self._later,)
