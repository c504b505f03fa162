"""What stops a run before or in the middle of it. Every error says what to do next.

An outcome of a single operation is never an exception; see `bulkcert.model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkcert.model import Rejection


class BulkcertError(Exception):
    """Base of all errors that end a command.

    Args:
        problem: what is wrong, in one sentence.
        next_step: what the operator can do about it.
    """

    exit_code = 2

    def __init__(self, problem: str, next_step: str = "") -> None:
        super().__init__(f"{problem}\n{next_step}" if next_step else problem)
        self.problem = problem
        self.next_step = next_step


class JobError(BulkcertError):
    """The job file can't be used: syntax, unknown keys, wrong values, secrets."""


class TargetsError(BulkcertError):
    """The target file can't be used as a whole: missing, unreadable, no such column, empty."""


class TargetsRejectedError(BulkcertError):
    """Some lines of the target file are bad.

    Args:
        first: the first rejections, in line order, for showing.
        total: how many there are.
    """

    def __init__(
        self, problem: str, next_step: str, *, first: Sequence[Rejection], total: int
    ) -> None:
        super().__init__(problem, next_step)
        self.first = first
        self.total = total


class CredentialsError(BulkcertError):
    """Credentials are missing from the environment, or the provider does not accept them."""


class RunDirectoryError(BulkcertError):
    """The run directory can't be used: in use, changed job, foreign content, not writable."""


class EndpointError(BulkcertError):
    """The endpoint is not to be trusted (TLS) or not the provider's."""


class ProviderUnusableError(BulkcertError):
    """The provider can't be worked with for now; trying further operations is of no use."""

    exit_code = 3


class StoreError(BulkcertError):
    """The checkpoint can't be written or read; what it recorded before stays good."""

    exit_code = 3
