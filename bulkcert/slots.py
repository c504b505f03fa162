"""The slots of a limit that several processes of this machine share.

In: how fast a process may send, and how many requests are ready. Out: slots, the moments at which
one of them may leave. Must never hand out a slot twice, nor keep a run from starting because its
file can't be used.

Each limit has one small file. A process that wants to send locks it for some microseconds, reserves
the next free slots, and moves the next one on. A slot is as long as the rate of the process says;
it is used within `SLOT_S` or not at all. So in any rolling second no more requests leave than there
are slots in 1 s + `SLOT_S`, whoever joins, stands still or dies at whatever moment: only the slots
that it had reserved are lost.

The time is that since the machine was started, which is the same for all its processes and which
nobody can set. The name of the file contains the machine's boot: what an earlier one left behind,
or another machine with the same home directory uses, is never read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import secrets
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from bulkcert.jitter import DEFAULT
from bulkcert.quantities import number

SLOT_S = 0.018
"""How late a slot may be used. At the steady rate, 1.018 s contain less than the ceiling."""

SHARED_UTILIZATION = 0.96
"""Share of the ceiling that the steady rate uses while there are others: then 2 % of the ceiling
are left unused even in the busiest second, as one process leaves them by itself."""

HORIZON_SLOTS = 8
HORIZON_S = 0.2
"""Slots are not reserved further ahead than this, or than so many slots at a low rate, by which the
processes take turns. The fewer are reserved, the less a death costs, and a pause soon holds."""

REACH_S = 0.016
"""How far back slots are reserved, to catch up on what was missed."""

BATCH_S = 0.01
"""The slots of this time may be reserved at once, if as many requests are ready."""

ALONE_S = 0.05
"""The same for a process that nobody shares the limit with; it need not have requests for them."""

LIVE_S = 5.0
"""A process that has not been heard of for this long does not count. By then its last request is
more than a second ago, and the kernel has given up what may not have arrived."""

HEARD_EVERY_S = 1.0
"""How often a process that sends is heard of."""

UNUSED_S = 24 * 3600.0
"""Files that nobody has used for this long are removed."""

LONGEST_AHEAD_S = 2 * 3600.0
"""No slot and no pause is further ahead: a file that says so was not written by a run. A provider
is obeyed for an hour, and 8 slots of the slowest rate take less than that."""

_BUSY_S = 0.001  # another process has the lock
_STUCK_S = 1.0
_FULL_S = 0.01  # late requests have taken all slots
_MAGIC = b"slots 1\n"
_HEAD = struct.Struct("<8s5d")
"""Magic, next slot, end of the pause, lowest ceiling, late requests, processes."""
_NEVER = float("-inf")


class Other(NamedTuple):
    """Another process that shares a limit: the name of its run, and its process id."""

    run: str
    pid: int


class Cut(NamedTuple):
    """How a provider has slowed down everybody who shares a limit.

    Attributes:
        at: what left before says nothing about the share; in seconds of the machine's clock, as are
            all times here.
        until: nothing leaves before.
        share: of the full rate, at the end of that pause.
    """

    at: float
    until: float
    share: float


class SharedSlots(Protocol):
    """The slots of the limits that a run shares with others, as a pacer takes them.

    They come from files of this machine, see `FileSlots`, or from a shared store, see
    `bulkcert.hosts.pace`. Everything is called on the event loop, and must not block.
    """

    def take(
        self, ready: int | None, share: float, now: float, narrower: SharedSlots | None
    ) -> float:
        """Take one slot, if its time has come.

        Args:
            ready: how many requests are ready to leave, or None if there must be exactly one slot.
            share: share of the full rate that this process uses.
            now: the machine's time.
            narrower: slots of a narrower limit, of which one is to be taken as well.

        Returns:
            0 if a slot was taken; otherwise after how many seconds to ask again.
        """

    def use(self, utilization: float) -> None:
        """Use this share of the limits from now on, while nobody else shares them."""

    def report_late(self, count: int) -> None:
        """Take this many slots of each second for requests of this process that may arrive yet."""

    def slow_down(self, cut: Cut) -> None:
        """Tell everybody that the provider has asked for a pause.

        Args:
            cut: when the request left that was answered so, and what follows.
        """

    @property
    def cut(self) -> Cut:
        """What others were told by the provider, as far as it is known here."""

    @property
    def sharing(self) -> str:
        """With whom the limits are shared, for people; empty for nobody."""

    @property
    def stuck(self) -> bool:
        """Whether somebody else is in the way, so that nothing can leave."""


class SlotFile:
    """One shared limit, as this process sees it.

    Args:
        folder: where the files are; created if needed.
        limit: what identifies the limit. It can't be told from the name of the file.
        ceiling: the limit, as this process knows it. The lowest one of all is in force.
        run: the name of this process's run, which the others show.
        elapsed_s: the machine's clock; see above.
        on_others: called with this object when more processes are found to share the limit.
        on_error: called once if the file can't be used. This process then goes on alone.

    Attributes:
        ceiling: the limit in force.
        utilization: share of the limit that this process uses when it is alone.
        others: the other processes, as of a moment ago.
        next_s: when the next free slot begins.
        paused_until_s: nothing may leave before.
    """

    def __init__(
        self,
        folder: Path,
        limit: Sequence[str],
        ceiling: float,
        run: str,
        elapsed_s: Callable[[], float],
        on_others: Callable[[SlotFile], object] = lambda file: None,
        on_error: Callable[[OSError], object] = lambda error: None,
    ) -> None:
        self.others: frozenset[Other] = frozenset()
        # requests are whole, so a rolling second has no room for half of one
        self.ceiling = self._own_ceiling = math.floor(ceiling) if ceiling >= 1 else ceiling
        self.utilization = DEFAULT
        self.next_s = self.paused_until_s = _NEVER
        self._folder, self._limit, self._run, self._elapsed_s = folder, limit, run, elapsed_s
        self._on_others, self._on_error = on_others, on_error
        self._key = secrets.token_hex(4)
        self._late = self._own_late = 0.0
        self._processes = 1.0
        self._heard_at = self._busy_since = _NEVER
        self._lock: int | None = None
        self._alone = self._closed = False

    def open(self, now: float) -> bool:
        """Lock the file and read it; return False if another process has it right now."""
        if self._alone:
            return True
        try:
            if not self._flock():
                self._busy_since = now if self._busy_since == _NEVER else self._busy_since
                return False
            self._read(now)
        except OSError as error:
            self._give_up(error)
        self._busy_since = _NEVER
        return True

    def close(self) -> None:
        """Write what has changed, and unlock."""
        if self._lock is None:
            return
        numbers = (self.next_s, self.paused_until_s, self.ceiling, self._late, self._processes)
        try:
            os.pwrite(self._lock, _HEAD.pack(_MAGIC, *numbers), 0)
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        except OSError as error:
            self._give_up(error)

    def rate(self, utilization: float) -> float:
        """Slots per second for a process that uses this share of the limit when it is alone."""
        if self.shared or self.ceiling < self._own_ceiling:
            utilization = min(utilization, SHARED_UTILIZATION)
        return utilization * self.ceiling - self._late

    @property
    def shared(self) -> bool:
        """Whether other processes have the same limit."""
        return self._processes > 1

    def pause(self, until_s: float) -> None:
        """Let nobody reserve a slot before a moment."""
        if until_s > self.paused_until_s:
            self.paused_until_s = until_s
            self._tell()

    def report_late(self, count: int) -> None:
        """Take this many slots of each second for requests of this process that may arrive yet."""
        if count != self._own_late:
            self._own_late = count
            self._tell()

    def use(self, utilization: float) -> None:
        """Use this share of the limit from now on, while nobody else shares it."""
        if utilization != self.utilization:
            self.utilization = utilization
            self._tell()

    def leave(self) -> None:
        """This process sends nothing more."""
        self._closed = True
        if self._lock is not None:
            self._tell()
            self._drop()

    @property
    def stuck(self) -> bool:
        """Whether a process has had the lock for so long that it must have been stopped."""
        since = self._busy_since
        return since != _NEVER and self._elapsed_s() > since + _STUCK_S

    def _tell(self) -> None:
        """Write at once what others should know; if the file is busy, the next use does."""
        self._heard_at = _NEVER
        self.refresh(self._elapsed_s())

    def refresh(self, now: float) -> None:
        """Read the file again, unless it is busy."""
        if self.open(now):
            self.close()

    def _flock(self) -> bool:
        while True:
            if self._lock is None:
                self._lock = _open(self._folder, self._limit, self._elapsed_s())
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if os.fstat(self._lock).st_nlink:
                return True
            self._drop()  # it was removed before it was locked

    def _read(self, now: float) -> None:
        assert self._lock is not None
        head = os.pread(self._lock, _HEAD.size, 0)
        if (numbers := _numbers(head, now)) is not None:
            self.next_s, paused_until_s, self.ceiling, self._late, self._processes = numbers
            self.paused_until_s = max(self.paused_until_s, paused_until_s)
        elif head:
            self.next_s = now + 1 + SLOT_S  # nobody knows what has just been sent
        if now >= self._heard_at + HEARD_EVERY_S:
            self._heard_at = now
            self._register(now)

    def _register(self, now: float) -> None:
        """Put this process into the list of those that share the limit, and read the list."""
        assert self._lock is not None
        try:
            rows = json.loads(os.pread(self._lock, 1 << 20, _HEAD.size))
            rows = {key: row for key, row in rows.items() if row["until"] > now}
        except (ValueError, AttributeError, KeyError, TypeError):
            rows = {}  # new, or its writer was killed; the others soon enter it again
        rows[self._key] = {
            "run": self._run,
            "pid": None if self._closed else os.getpid(),
            "ceiling": self._own_ceiling,
            "late": self._own_late,
            "utilization": self.utilization,
            "until": max(now, self.next_s + 2 / self._own_ceiling) + LIVE_S,
        }
        lowest = min(row["ceiling"] for row in rows.values())
        processes = sum(row["pid"] is not None for row in rows.values())
        if self.next_s > now - 1 - SLOT_S:
            if lowest < self.ceiling:
                # what has just left faster must be more than a second ago
                self.next_s = max(self.next_s, now) + 1 + SLOT_S
            elif processes != self._processes and any(
                row.get("utilization", DEFAULT) > DEFAULT for row in rows.values()
            ):
                # one that is alone counts what it sends itself; for two, 1 s + `SLOT_S` contain too
                # many slots at its rate, and without this gap both might use them in a second
                self.next_s = max(self.next_s, now) + SLOT_S
        self.ceiling, self._late = lowest, sum(row["late"] for row in rows.values())
        self._processes = processes
        text = json.dumps(rows).encode()
        os.ftruncate(self._lock, _HEAD.size + len(text))
        os.pwrite(self._lock, text, _HEAD.size)
        del rows[self._key]
        before = self.others
        self.others = frozenset(Other(r["run"], r["pid"]) for r in rows.values() if r["pid"])
        if self.others - before:
            self._on_others(self)

    def _give_up(self, error: OSError) -> None:
        self._drop()
        self._alone, self.ceiling, self.others = True, self._own_ceiling, frozenset()
        self._late, self._processes = 0.0, 1.0
        self._on_error(error)

    def _drop(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@dataclass(slots=True)
class Reserved:
    """Consecutive slots that one process has reserved.

    Attributes:
        next_s: when the first one begins that is left.
        length_s: how long each of them is.
        left: how many are left.
    """

    next_s: float = 0.0
    length_s: float = 0.0
    left: int = 0

    def drop_missed(self, now: float) -> None:
        """Drop the slots that it is too late for."""
        if self.left and (late_s := now - SLOT_S - self.next_s) > 0:
            missed = min(self.left, math.ceil(late_s / self.length_s))
            self.left -= missed
            self.next_s += missed * self.length_s

    def take(self) -> None:
        """Use the first one."""
        self.left -= 1
        self.next_s += self.length_s


class FileSlots:
    """Slots of limits that processes of this machine share, taken together.

    Args:
        files: of the limits.
        utilization: share of them that the steady rate uses.

    Attributes:
        cut: see `SharedSlots`. Each process has a share of its own, so it is only a pause.
    """

    def __init__(self, files: Sequence[SlotFile], utilization: float) -> None:
        self._files = tuple(files)
        self._utilization = utilization
        self.cut = Cut(_NEVER, _NEVER, 1.0)
        self._reserved = Reserved()
        self._reserved_at = _NEVER

    def take(
        self, ready: int | None, share: float, now: float, narrower: SharedSlots | None
    ) -> float:
        """See `SharedSlots`."""
        holder = self if narrower is None else narrower
        assert isinstance(holder, FileSlots)
        holder._reserved.drop_missed(now)
        if not holder._reserved.left:
            limits = self._limits(share)
            if holder is not self:
                limits += holder._limits(1.0)
            reserved = reserve(limits, ready, now)
            self._hear()
            if isinstance(reserved, float):
                return reserved
            holder._reserved, holder._reserved_at = reserved, now
        if holder._reserved.next_s > now:
            return holder._reserved.next_s - now
        if now > holder._reserved_at + HORIZON_S:
            # much may have happened since
            for file in self._files:
                file.refresh(now)
            self._hear()
            if (pause_s := self.cut.until - now) > 0:
                return pause_s
        holder._reserved.take()
        return 0.0

    def _hear(self) -> None:
        """Hear of a pause of another process."""
        until = max([file.paused_until_s for file in self._files])
        if until > self.cut.until:
            self.cut = Cut(_NEVER, until, 1.0)

    def _limits(self, share: float) -> list[tuple[SlotFile, float]]:
        return [(file, self._utilization * share) for file in self._files]

    def use(self, utilization: float) -> None:
        """See `SharedSlots`."""
        self._utilization = utilization
        for file in self._files:
            file.use(utilization)

    def report_late(self, count: int) -> None:
        """See `SharedSlots`."""
        for file in self._files:
            file.report_late(count)

    def slow_down(self, cut: Cut) -> None:
        """See `SharedSlots`."""
        for file in self._files:
            file.pause(cut.until)

    @property
    def sharing(self) -> str:
        """See `SharedSlots`."""
        if self.stuck:
            return "another run of this account has been stopped: end it"
        others = frozenset[Other]().union(*(file.others for file in self._files))
        if not others:
            return ""
        ceiling = min(file.ceiling for file in self._files)
        runs = " and run ".join(run for run, _ in sorted(others))
        return f"shares {number(ceiling)}/s with run {runs}"

    @property
    def stuck(self) -> bool:
        """See `SharedSlots`."""
        return any(file.stuck for file in self._files)


def reserve(
    limits: Sequence[tuple[SlotFile, float]], wanted: int | None, now: float
) -> Reserved | float:
    """Reserve slots for requests that are subject to several limits at the same time.

    Args:
        limits: each with the share of it that the steady rate uses.
        wanted: how many requests are ready, or None for exactly one. Fewer slots may be reserved,
            but at least one; and more, if nobody else shares the limits.
        now: the machine's time.

    Returns:
        The slots; or, if there are none, how long to wait, in seconds.
    """
    opened = []
    try:
        for file, _ in limits:
            if not file.open(now):
                return _BUSY_S
            opened.append(file)
        if (pause_s := max([file.paused_until_s for file in opened]) - now) > 0:
            return pause_s
        rates = [file.rate(utilization) for file, utilization in limits]
        slowest = min(rates)
        if slowest <= 0:
            return _FULL_S
        begin = max([file.next_s for file in opened])
        horizon = now + max(HORIZON_S, HORIZON_SLOTS / slowest)
        if begin > horizon:
            return begin - horizon
        begin = max(begin, now - REACH_S)
        count = 1
        if wanted is not None:
            shared = any(file.shared for file in opened)
            count = min(wanted, int(slowest * BATCH_S)) if shared else int(slowest * ALONE_S)
            count = max(1, count)
        last = begin + (count - 1) / slowest
        for file, rate in zip(opened, rates, strict=True):
            file.next_s = last + 1 / rate
        return Reserved(begin, 1 / slowest, count)
    finally:
        for file in opened:
            file.close()


def _numbers(head: bytes, now: float) -> tuple[float, float, float, float, float] | None:
    """The numbers at the beginning of a file; None if they make no sense."""
    if len(head) != _HEAD.size or not head.startswith(_MAGIC):
        return None
    _, next_s, paused_until_s, ceiling, late, processes = _HEAD.unpack(head)
    latest = now + LONGEST_AHEAD_S
    # a comparison with "not a number" is false
    good = next_s <= latest and paused_until_s <= latest and 0 < ceiling < math.inf
    if not good or not 0 <= late < math.inf or not processes >= 0:
        return None
    return next_s, paused_until_s, ceiling, late, processes


def _open(folder: Path, limit: Sequence[str], now: float) -> int:
    """Open the file of a limit; remove those that nobody has used for long."""
    if not folder.is_absolute():
        raise OSError("there is no home directory")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    boot = hashlib.sha256(_boot_id()).hexdigest()[:8]
    name = hashlib.sha256(json.dumps(limit).encode()).hexdigest()[:16]
    for path in folder.iterdir():
        with contextlib.suppress(OSError, struct.error):
            _remove_unused(path, now if path.name.endswith(boot) else None)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    return os.open(folder / f"{name}.{boot}", flags, 0o600)


def _boot_id() -> bytes:
    with contextlib.suppress(FileNotFoundError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()  # Linux
    command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]  # macOS
    # S603: the command is a constant
    if not (boot := subprocess.run(command, check=False, capture_output=True).stdout):  # noqa: S603
        raise OSError("the boot of this machine has no name")
    return boot


def _remove_unused(path: Path, now: float | None) -> None:
    """Remove a file that has not been used for long. Whoever locks it next sees that it is gone.

    Args:
        path: the file.
        now: the machine's time; None if the file is of another boot, or of another machine with the
            same home directory. Then the time of day must do.
    """
    lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if now is None:
            unused_s = time.time() - os.fstat(lock).st_mtime
        else:
            magic, next_s, paused_until_s, *_ = _HEAD.unpack(os.pread(lock, _HEAD.size, 0))
            unused_s = now - max(next_s, paused_until_s) if magic == _MAGIC else 0.0
        if unused_s > UNUSED_S:
            path.unlink()
    finally:
        os.close(lock)
