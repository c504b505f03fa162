"""Asks a person at the terminal whether a run may begin, or a yes-or-no question.

In: what the run would do. Out: whether the person confirms. The question is shown on the terminal
that the answer comes from, wherever standard error goes, and never on standard output.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
from dataclasses import dataclass

from bulkcert.cli import console
from bulkcert.cli.format import as_text
from bulkcert.cli.plan_screen import account
from bulkcert.job import Job
from bulkcert.model import Fields
from bulkcert.quantities import count


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a person is asked to confirm.

    Attributes:
        job: the job.
        fields: the fields of the first target.
        to_do: number of operations that are still to do.
        in_doubt: how many of them an earlier process left in doubt.
    """

    job: Job
    fields: Fields
    to_do: int
    in_doubt: int = 0

    def text(self, columns: int | None = None) -> str:
        """Return the question. It names everything that makes a run the wrong one."""
        job, action = self.job, self.job.action
        where = f"{job.provider.name} at {job.connection.endpoint}, {account(job, self.fields)}"
        if job.store:
            where += f", kept in {job.store}"
        to_do = count(self.to_do, "operation is", "operations are")
        lines = [f"{action.name} on {where}: {to_do} still to do."]
        if self.in_doubt:
            are = "is" if self.in_doubt == 1 else "are"
            lines.append(f"{self.in_doubt:,} of them may have happened, and {are} looked up first.")
        if job.select:
            lines.append("Each of them may turn out to be several certificates of one device.")
        if action.undone_by:
            lines.append(f"This is not a rehearsal. It can be undone with {action.undone_by}.")
            question = "Start? [y/N] "
        else:
            lines.append("This is not a rehearsal, and it can't be undone.")
            question = f"Type the number of operations, {self.to_do}, to start: "
        return "\n".join(("", as_text(lines, columns), question))

    def confirms(self, answer: str) -> bool:
        """Whether an answer is a yes."""
        if self.job.action.undone_by:
            return _is_yes(answer)
        return answer.strip().replace(",", "") == str(self.to_do)


def can_ask() -> bool:
    """Whether there is somebody to ask."""
    return bool(sys.stdin) and sys.stdin.isatty()


def confirmed(question: Question) -> bool:
    """Ask, and return whether the answer is a yes. Ctrl-C and the end of the input are a no."""
    return question.confirms(_answer(question.text(console.columns())))


def agrees(question: str) -> bool:
    """Ask a question whose answer is yes or no."""
    return _is_yes(_answer(question))


def passphrase(question: str) -> bytes | None:
    """Ask for a passphrase on the terminal, without showing it; None if there is no terminal."""
    if not can_ask():
        return None
    try:
        return getpass.getpass(question).encode()
    except (EOFError, OSError):
        return None


def _is_yes(answer: str) -> bool:
    return answer.strip().lower() in ("y", "yes")


def _answer(question: str) -> str:
    _show(question)
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = ""
    if not answer.endswith("\n"):
        _show("\n")
    return answer


def _show(text: str) -> None:
    """Write on the terminal."""
    if sys.stderr.isatty():
        console.write_on_terminal(text)
        return
    with contextlib.suppress(OSError):
        terminal = os.open(os.ttyname(sys.stdin.fileno()), os.O_WRONLY | os.O_NOCTTY)
        try:
            os.write(terminal, text.encode(errors="backslashreplace"))
        finally:
            os.close(terminal)
