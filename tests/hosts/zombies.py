"""The zombie trial: hosts that are stopped beyond the end of their lease, and continued.

    python tests/hosts/zombies.py --cycles 1000 --switch on

In each cycle a process sends as fast as its pacer allows, is stopped (SIGSTOP) at a random moment,
stays so until others may have taken over, and is continued. It uses the real lease, switch, pacer
and transport; the store is a page of shared memory. The judge is a server that knows when each
lease ended. A request that arrives later is *late*: another host may have looked already, and sent
the same. With the switch there must be none. Without it there are some, because a process may be
stopped between the check of its lease and the write.

With `--worst`, each process stops itself between the check and the write.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import mmap
import os
import random
import select
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from bulkcert.hosts.lease import Lease, stand_still_in_time
from bulkcert.hosts.switch import Switch
from bulkcert.providers.call import Request
from bulkcert.providers.clock import boot_time_s
from bulkcert.providers.transport import Transport
from bulkcert.ratelimit import Pacer
from bulkcert.timings import Timings

TTL_S = 0.3
GRACE_S = 0.1
STAND_STILL_S = 0.1
COMMIT_EVERY_S = 0.03
COMMIT_TAKES_S = 0.002
PATIENCE_S = 30.0
SENT = 3
"""A process is not stopped before so many requests have arrived."""
AT_ONCE = 4
"""Requests that one process has open."""

_TIMESTAMPS = 35  # SO_TIMESTAMPNS, also the type of the message
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Board:
    """What the store knows of each life, in memory that all processes share.

    Args:
        lives: how many there will be.
    """

    _ROW = struct.Struct("=dqq")

    def __init__(self, lives: int) -> None:
        self._memory = mmap.mmap(-1, lives * self._ROW.size)

    def _get(self, life: int, kind: str, at: int) -> float:
        return float(struct.unpack_from(kind, self._memory, life * self._ROW.size + at)[0])

    def _set(self, life: int, kind: str, at: int, value: float) -> None:
        struct.pack_into(kind, self._memory, life * self._ROW.size + at, value)

    def commit(self, life: int, begun_s: float) -> bool:
        """A commit of a host; False if it was fenced."""
        if self._get(life, "=q", 16):
            return False
        self._set(life, "=d", 0, begun_s)
        return True

    def ends_at(self, life: int) -> float:
        """When a lease ends, by its last commit."""
        return self._get(life, "=d", 0) + TTL_S

    def clear(self, life: int) -> None:
        """Nothing is known of it."""
        self._ROW.pack_into(self._memory, life * self._ROW.size, float("-inf"), 0, 0)

    def fence(self, life: int) -> None:
        self._set(life, "=q", 16, 1)

    def arrived(self, life: int) -> int:
        """How many requests of a life have arrived."""
        return int(self._get(life, "=q", 8))

    def count(self, life: int) -> None:
        self._set(life, "=q", 8, self.arrived(life) + 1)


# ---- the judge


class Judge:
    """A server that notes late requests. Each has the number of its life as its path.

    Args:
        board: the store.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.late: dict[int, list[float]] = {}  # by life: how many seconds
        self.requests = 0

    def serve(self, stop: int) -> None:
        """Serve until there is something to read from a descriptor, and nothing else."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._listening, selectors.EVENT_READ)
            ready.register(stop, selectors.EVENT_READ)
            over = False
            while not over:
                found = [key.fileobj for key, _ in ready.select()]
                over = found == [stop]
                for each in found:
                    if each is self._listening:
                        connected, _ = self._listening.accept()
                        connected.setsockopt(socket.SOL_SOCKET, _TIMESTAMPS, 1)
                        ready.register(connected, selectors.EVENT_READ)
                    elif isinstance(each, socket.socket) and not self._answer(each):
                        ready.unregister(each)
                        each.close()

    def _answer(self, connected: socket.socket) -> bool:
        """Answer a request; False if the connection has ended."""
        with contextlib.suppress(OSError):
            # each is one small write, so it is read as a whole
            text, notes, _, _ = connected.recvmsg(65536, 256)
            if text:
                life = int(text.split(b" ", 2)[1][1:])
                self._note(life, _arrival(notes))
                connected.sendall(_OK)
                return True
        return False

    def _note(self, life: int, at_s: float) -> None:
        self.requests += 1
        self._board.count(life)
        late_s = at_s - self._board.ends_at(life)
        if late_s >= 0:
            self.late.setdefault(life, []).append(late_s)


def _arrival(notes: list[tuple[int, int, bytes]]) -> float:
    """When the kernel got what was read, on the clock of the leases. The judge may be slow."""
    now = boot_time_s()
    for level, kind, content in notes:
        if (level, kind) == (socket.SOL_SOCKET, _TIMESTAMPS):
            seconds, nanoseconds = struct.unpack("@ll", content[: struct.calcsize("@ll")])
            return now - (time.time() - (seconds + nanoseconds / 1e9))
    return now


# ---- a host


@dataclass(frozen=True)
class Trial:
    """What is tried.

    Attributes:
        has_switch: hosts have a switch.
        worst: they stop themselves between check and write, instead of being stopped at random.
        rate: requests per second of one process.
        endpoint: of the judge.
    """

    has_switch: bool
    worst: bool
    rate: float
    endpoint: str = ""


async def send(trial: Trial, board: Board, life: int) -> None:
    """Send until the lease is lost."""
    lease = Lease(
        uuid.UUID(int=life),
        ttl_s=TTL_S,
        stand_still_s=STAND_STILL_S,
        switch=Switch() if trial.has_switch else None,
    )
    pacer = Pacer(trial.rate, may_leave=lease.may_act)
    transport = Transport(
        trial.endpoint, pacer, timeout_s=5, permit=lease, timings=Timings(rest_s=0)
    )
    request = Request("POST", f"/{life}", body=b'{"reason": 1}')

    def sign() -> Mapping[str, str]:
        """Called between the check and the write."""
        if trial.worst and board.arrived(life) >= SENT:
            os.kill(os.getpid(), signal.SIGSTOP)
        return {}

    async def work() -> None:
        while not lease.over:
            await transport.send(request, lambda source: None, sign)

    for target, given in ((_commit, (lease, board, life)), (stand_still_in_time, (lease,))):
        threading.Thread(target=target, args=given, daemon=True).start()
    working = [asyncio.create_task(work()) for _ in range(AT_ONCE)]
    while not lease.over:  # noqa: ASYNC110 - it ends in another thread
        await asyncio.sleep(0.005)
    transport.abort()
    for task in working:
        task.cancel()
    await asyncio.wait(working)
    await transport.close()


def _commit(lease: Lease, board: Board, life: int) -> None:
    """The writer's thread."""
    while True:
        begun_s = boot_time_s()
        time.sleep(COMMIT_TAKES_S)
        if not board.commit(life, begun_s):
            break
        lease.extend(begun_s)
        time.sleep(COMMIT_EVERY_S)
    lease.end()


# ---- a cycle


@dataclass
class Cycle:
    """What came of one cycle.

    Attributes:
        killed: the switch has killed the process.
        after_s: how long after the end of its lease it was dead; 0 if it was not killed.
        early: processes before it, which the switch has killed because this machine was busy.
        problem: why the cycle says nothing.
    """

    killed: bool = False
    after_s: float = 0.0
    early: int = 0
    problem: str = ""


def cycle(trial: Trial, board: Board, life: int, rng: random.Random) -> Cycle:
    """Start a host, stop it, and continue it when others may have taken over."""
    early = 0
    while True:
        board.clear(life)
        process = os.fork()
        if process == 0:
            _in_child(lambda: asyncio.run(send(trial, board, life)))
        handle = os.pidfd_open(process)
        try:
            if _until(lambda: board.arrived(life) >= SENT, handle):
                found = _stop(trial, board, life, rng, process, handle)
            else:
                found = Cycle(problem="nothing was sent")
        finally:
            os.close(handle)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        if found is not None:
            found.early = early
            return found
        early += 1


def _stop(
    trial: Trial, board: Board, life: int, rng: random.Random, process: int, handle: int
) -> Cycle | None:
    """Stop a host and continue it; None if it has ended before."""
    if trial.worst:
        _until(lambda: _state(process) in "TZ")
    else:
        time.sleep(rng.uniform(0, 0.1))
        os.kill(process, signal.SIGSTOP)
    if _ended(handle, 0):
        return None
    if _ended(handle, TTL_S + GRACE_S + rng.uniform(0, 0.1)):
        return Cycle(killed=True, after_s=boot_time_s() - board.ends_at(life))
    board.fence(life)
    os.kill(process, signal.SIGCONT)
    return Cycle(problem="" if _ended(handle, PATIENCE_S) else "it goes on for ever")


def _state(process: int) -> str:
    with open(f"/proc/{process}/stat", encoding="utf-8") as file:  # noqa: PTH123
        return file.read().rpartition(") ")[2][0]


def _until(condition: Callable[[], bool], handle: int | None = None) -> bool:
    """Wait for a condition, or for the end of a process; False if neither comes."""
    end = time.monotonic() + PATIENCE_S
    while not condition() and not (handle is not None and _ended(handle, 0)):
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def _ended(handle: int, within_s: float) -> bool:
    return bool(select.select([handle], [], [], within_s)[0])


def _in_child(program: Callable[[], object]) -> NoReturn:
    """Run a program in a process that was forked, and nothing else."""
    code = 1
    try:
        program()
        code = 0
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(code)


# ---- all cycles


@dataclass
class Verdict:
    """What came of a trial.

    Attributes:
        cycles: how many there were.
        killed: in how many the switch has killed the process.
        early: processes that it has killed before they were stopped, on a busy machine.
        longest_after_s: the longest time between the end of a lease and the death of its process.
        requests: how many have arrived.
        late: how many of them were late.
        late_cycles: in how many cycles.
        latest_s: by how much, at most.
        problems: cycles that say nothing.
    """

    cycles: int
    killed: int
    early: int
    longest_after_s: float
    requests: int
    late: int
    late_cycles: int
    latest_s: float
    problems: list[str]

    def __str__(self) -> str:
        return (
            f"{self.cycles:,} cycles, {self.requests:,} requests; {self.killed:,} processes killed,"
            f" at most {self.longest_after_s * 1000:.1f} ms after the end of their leases;"
            f" {self.late:,} late requests in {self.late_cycles:,} cycles"
            + (f", up to {self.latest_s * 1000:.0f} ms after the end" if self.late else "")
            + (f"; killed before they were stopped: {self.early:,}" if self.early else "")
            + "".join(f"\n{problem}" for problem in self.problems)
        )


def carry_out(trial: Trial, cycles: int, side_by_side: int, seed: int) -> Verdict:
    """Try it. This process must have no threads: it forks."""
    board = Board(cycles)
    judge = Judge(board)
    trial = Trial(trial.has_switch, trial.worst, trial.rate, judge.endpoint)

    def some(first: int) -> list[object]:
        rng = random.Random(f"{seed} {first}")
        return [vars(cycle(trial, board, n, rng)) for n in range(first, cycles, side_by_side)]

    until, end = os.pipe()

    def judged() -> list[object]:
        judge.serve(until)
        return [judge.requests, sorted(judge.late.items())]

    judging = _reporting(judged)
    reports = [_reporting(lambda first=first: some(first)) for first in range(side_by_side)]
    done = [Cycle(**each) for report in reports for each in json.loads(_read(report))]
    os.write(end, b".")
    requests, late = json.loads(_read(judging))
    seconds = [late_s for _, each in late for late_s in each]
    return Verdict(
        cycles=len(done),
        killed=sum(each.killed for each in done),
        early=sum(each.early for each in done),
        longest_after_s=max((each.after_s for each in done), default=0.0),
        requests=requests,
        late=len(seconds),
        late_cycles=len(late),
        latest_s=max(seconds, default=0.0),
        problems=[each.problem for each in done if each.problem],
    )


def _reporting(program: Callable[[], list[object]]) -> int:
    """Run a program in a child; returns where its report can be read."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)

        def report() -> None:
            with os.fdopen(writing, "w") as file:
                json.dump(program(), file)

        _in_child(report)
    os.close(writing)
    return reading


def _read(report: int) -> str:
    with os.fdopen(report) as file:
        text = file.read()
    os.wait()
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--switch", choices=["on", "off"], default="on")
    parser.add_argument("--worst", action="store_true")
    parser.add_argument("--side-by-side", type=int, default=6, metavar="PROCESSES")
    parser.add_argument("--rate", type=float, default=300.0, help="of each process")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    trial = Trial(given.switch == "on", given.worst, given.rate)
    verdict = carry_out(trial, given.cycles, given.side_by_side, given.seed)
    sys.stdout.write(f"switch {given.switch}: {verdict}\n")
    if trial.has_switch:
        return 1 if verdict.late or verdict.problems else 0
    if not verdict.late:
        sys.stdout.write("Some should have been late without it: this trial shows nothing.\n")
    return 0 if verdict.late else 1


if __name__ == "__main__":
    sys.exit(main())
