"""`bulkcert status --watch` as people and scripts use it: terminals, signals, pipes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import pytest
from campaign_run import planned_run, process, settle, store_of
from harness import ProcessJob
from processes import BULKCERT, LIMIT_S, Command, bulkcert, until, without_credentials

from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Abort

pytestmark = pytest.mark.system

OPENED, CLOSED = b"\x1b[?1049h", b"\x1b[?1049l"
"""What begins the alternate screen of a terminal, and what ends it."""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return planned_run(tmp_path)


ON_A_TERMINAL = 'exec < "$0" > "$0" 2>&1; '
"""What makes a terminal that of the shell's session."""


class Person:
    """Somebody who watches a run on a terminal.

    Args:
        directory: the run.
        term: the kind of terminal.
        shell: what the shell does with the command.
        program: what to use instead of `bulkcert`.
    """

    def __init__(
        self,
        directory: RunDirectory,
        term: str = "xterm",
        shell: str = 'exec "$@"',
        program: Sequence[object] = (BULKCERT,),
    ) -> None:
        self.terminal, self._theirs = pty.openpty()  # kept open, to see what is left behind
        termios.tcsetwinsize(self._theirs, (24, 80))
        self.shown = b""
        self.modes = termios.tcgetattr(self._theirs)
        name = os.ttyname(self._theirs)
        command = [*map(str, program), "status", str(directory.path), "--watch"]
        self.process = subprocess.Popen(
            ["bash", "-c", ON_A_TERMINAL + shell, name, *command],
            env=without_credentials() | {"TERM": term, "NO_COLOR": "1"},
            start_new_session=True,
        )

    def read(self) -> None:
        """Read what is shown by now."""
        while select.select([self.terminal], [], [], 0)[0]:
            self.shown += os.read(self.terminal, 65536)

    def sees(self, what: Callable[[list[str]], object]) -> None:
        """Wait until the screen is as it should be."""

        def looks() -> object:
            self.read()
            return what(self.screen)

        until(looks)

    @property
    def screen(self) -> list[str]:
        """The lines of the last screen that was drawn in full."""
        text = self.shown.rpartition(OPENED)[2].decode(errors="replace")
        *_, last = re.split(r"\x1b\[H", text)
        return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", last).split("\r\n")

    def types(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def resizes(self, columns: int, rows: int) -> None:
        termios.tcsetwinsize(self.terminal, (rows, columns))

    def ended(self) -> int:
        """Wait for the end; the terminal must be as it was."""
        code = self.process.wait(LIMIT_S)
        self.read()
        assert termios.tcgetattr(self._theirs) == self.modes
        assert self.shown.count(OPENED) == self.shown.count(CLOSED)
        assert self.shown.rfind(b"\x1b[?25h") >= self.shown.rfind(b"\x1b[?25l")  # the cursor
        assert b"Traceback" not in self.shown
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()
        os.close(self.terminal)
        os.close(self._theirs)


def test_a_person_watches_a_run_resizes_the_terminal_and_leaves(directory: RunDirectory) -> None:
    paused = "job: paused by ann@ops1: incident 42"
    with (
        process(directory, reasons=["paused (by ann@ops1: incident 42)"]),
        Person(directory) as ann,
        Person(directory) as bob,
    ):
        for person in (ann, bob):
            person.sees(lambda s: s[0].startswith(paused))
            assert (len(person.screen), len(person.screen[0])) == (24, 80)
        settle(directory, 1, 3)
        ann.sees(lambda s: "50% of 6" in "".join(s))
        ann.resizes(100, 12)
        ann.sees(lambda s: (len(s), len(s[0])) == (12, 100))
        ann.types(b"x\x03")
        assert ann.ended() == 0
        bob.types(b"q")
        assert bob.ended() == 0


def test_signals_leave_the_terminal_as_it_was(directory: RunDirectory) -> None:
    with Person(directory) as ann, Person(directory) as bob:
        for person, number in ((ann, signal.SIGTERM), (bob, signal.SIGHUP)):
            person.sees(lambda s: s[0].startswith("job: not begun"))
            for _ in range(2):  # as the kernel and the shell send it
                person.process.send_signal(number)
            assert person.ended() == 0


def test_ctrl_z_gives_the_terminal_back_for_a_while(directory: RunDirectory) -> None:
    with Person(directory, shell='set -m; "$@"; read; fg') as person:
        person.sees(lambda s: s[0].startswith("job: not begun"))
        person.types(b"\x1a")
        until(lambda: (person.read(), person.shown.count(CLOSED))[1])
        person.types(b"\n")
        until(lambda: (person.read(), person.shown.count(OPENED) == 2)[1])
        person.sees(lambda s: s[0].startswith("job: not begun"))
        person.types(b"q")
        assert person.ended() == 0


SLOW = """
import time
from bulkcert.cli import main
from bulkcert.observer import Observer

look = Observer.look
Observer.look = lambda self: time.sleep(1000) if self._counted else look(self)
main()
"""


def test_a_look_that_takes_long_holds_nobody_up(directory: RunDirectory) -> None:
    with Person(directory, program=[sys.executable, "-c", SLOW]) as person:
        person.sees(lambda s: s[0].startswith("job: not begun"))
        time.sleep(1.5)  # it looks again by now, for a thousand seconds
        person.resizes(100, 12)
        person.sees(lambda s: (len(s), len(s[0])) == (12, 100))
        person.types(b"\x03")
        assert person.ended() == 0


def test_when_the_run_is_over_it_stays_on_the_terminal(directory: RunDirectory) -> None:
    with Person(directory) as person:
        person.sees(lambda s: s[0].startswith("job: not begun"))
        settle(directory, 1, 6)
        assert person.ended() == 0
        assert b"job: finished in" in person.shown.partition(CLOSED)[2]


def test_a_run_that_is_moved_away_ends_it_with_an_error(directory: RunDirectory) -> None:
    with Person(directory) as person:
        person.sees(lambda s: s[0].startswith("job: not begun"))
        directory.path.rename(directory.path.with_name("elsewhere"))
        assert person.ended() == 2
        assert b"no longer contains a run" in person.shown.partition(CLOSED)[2]


def test_a_terminal_without_screens_shows_lines(directory: RunDirectory) -> None:
    with Person(directory, "dumb") as person:
        until(lambda: (person.read(), person.shown.count(b", not begun\r\n") >= 2)[1])
        assert b"\x1b" not in person.shown
        person.types(b"\x03")
        assert person.ended() == 0


# ---- without a terminal


def test_a_line_comes_each_second_until_the_run_is_over(directory: RunDirectory) -> None:
    with Command(["status", directory.path, "--watch"], directory.path) as watcher:
        assert watcher.process.stdout
        lines = [watcher.process.stdout.readline().decode() for _ in range(2)]
        assert all(re.fullmatch(r"\S+Z 0 of 6 \(0%\), not begun\n", line) for line in lines)
        settle(directory, 1, 6)
        ended = watcher.wait()
    assert ended.code == 0
    assert ended.out.endswith(" 6 of 6 (100%), over: 6 operations, all of them done\n")


def test_what_only_a_person_can_let_go_on_is_not_waited_for(directory: RunDirectory) -> None:
    with store_of(directory) as store:
        store.add_abort(Abort("a1b2c3", 1e9, "failed", "11 of the last 500 settled failed"))
    ended = bulkcert("status", directory.path, "--watch", folder=directory.path)
    assert ended.code == 0
    assert ended.out.count("\n") == 1
    assert "stopped itself: 11 of the last 500 settled failed" in ended.out


def test_each_line_of_json_is_what_status_prints(directory: RunDirectory) -> None:
    words = ["status", directory.path, "--json"]
    with Command([*words, "--watch"], directory.path) as watcher:
        assert watcher.process.stdout
        first = json.loads(watcher.process.stdout.readline())
        assert first == json.loads(bulkcert(*words, folder=directory.path).out)
        directory.path.rename(directory.path.with_name("elsewhere"))
        ended = watcher.wait()
    assert ended.code == 2
    assert "no longer contains a run" in json.loads(ended.out.splitlines()[-1])["error"]["problem"]


def test_a_reader_that_has_seen_enough_ends_it_quietly(directory: RunDirectory) -> None:
    with Command(["status", directory.path, "--watch"], directory.path) as watcher:
        assert watcher.process.stdout
        watcher.process.stdout.readline()
        watcher.process.stdout.close()
        assert watcher.process.wait(LIMIT_S) == 128 + signal.SIGPIPE
        assert watcher.process.stderr
        assert watcher.process.stderr.read() == b""


# ---- a watcher does no harm


STOPPED = """
import os, signal, sys
from pathlib import Path
from bulkcert.observer import Observer
from bulkcert.rundir import RunDirectory

class Stopped(Observer):
    def _glance(self, *args):  # it has read, and its snapshot is open
        os.kill(os.getpid(), signal.SIGSTOP)

Stopped(RunDirectory(Path(sys.argv[1]))).look()
"""


def test_a_watcher_that_is_stopped_inside_a_snapshot_disturbs_nothing(job: ProcessJob) -> None:
    job.write(limits={"requests_per_second": 30})
    with job.start("--yes") as run:
        assert job.await_requests(5, run)
        watcher = subprocess.Popen([sys.executable, "-c", STOPPED, job.run_dir])
        with watcher:
            until(lambda: _state(watcher.pid) == "T")
            assert run.process.poll() is None
            assert run.wait().code == 0
            again = bulkcert("status", job.run_dir, "--json", folder=job.folder)
            assert json.loads(again.out)["succeeded"] == 60
            watcher.kill()
    assert job.outcome_counts() == {"succeeded": 60}


def _state(pid: int) -> str:
    """The state of a process, such as "T" for one that is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
