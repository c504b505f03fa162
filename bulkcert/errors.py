"""What stops a run, before it begins or in the middle of it. Every error says what to do next.

The outcome of a single operation is never an exception; see `bulkcert.model`.

    BulkcertError                      exit code 2: nothing was sent
    ├── PlatformError                  the operating system or SQLite is not supported
    ├── PluginError                    the provider of an installed package can't be used
    ├── JobError                       the job file can't be used
    ├── ConfirmationError              the run was not confirmed
    ├── ApprovalError                  approvals are missing, or can't be given or checked
    ├── InterruptionError              exit code 3: a signal came before anything was sent
    ├── CredentialsError               credentials are missing, or not accepted
    ├── TargetsError                   the target file can't be used
    │   └── TargetsRejectedError       some of its rows are bad
    │       └── TargetsProtectedError  some of its rows must not be touched
    ├── ProtectionError                a never-touch list can't be used, or the plan is too large
    ├── StoreUrlError                  the URL of a shared store can't be used
    ├── RunDirectoryError              the run directory or the shared store can't be used
    │   ├── RepetitionError            the plan was begun before, in another run
    │   └── ResultNotKeptError         the result of an executed request can't be written
    ├── RevocationListError            a certificate revocation list can't be used
    ├── ControlError                   what is asked of a run makes no sense now
    ├── MaterialError                  the keys and certificates of a run can't be fetched
    ├── EvidenceError                  a pack of evidence can't be made, or not be checked
    ├── OutputError                    the output of a command can't be written
    ├── MetricsError                   metrics can't be served there
    ├── EndpointError                  the endpoint is not trusted, or not the provider's
    ├── OverrideError                  there is no such abort to override, or no such wave
    ├── StoppedByRulesError            exit code 4: the run has stopped itself
    ├── ProviderUnusableError          exit code 3: the provider can't be used for now
    └── StoreError                     exit code 3: the store can't be read or written
        ├── StoreVersionError          exit code 3: a shared store needs another bulkcert
        ├── LeaseLostError             exit code 3: other hosts have taken over from this one
        └── CommitsLostError           exit code 3: a shared store has forgotten commits

Once a run has sent requests, any of them ends it with exit code 3, apart from 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bulkcert.model import Rejection


class BulkcertError(Exception):
    """Base of all errors that end a command.

    Args:
        problem: what is wrong, in one sentence.
        next_step: what the user can do about it.
        for_log: the problem without any text of the provider, which may name a device; only needed
            where `problem` has such text.

    Attributes:
        exit_code: the exit code of the command.
        figures: what a command with `--json` prints beside the error, such as the summary of the
            run that it ended.
    """

    exit_code = 2
    figures: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, problem: str, next_step: str = "", *, for_log: str = "") -> None:
        super().__init__(f"{problem}\n{next_step}" if next_step else problem)
        self.problem = problem
        self.next_step = next_step
        self.for_log = for_log


class PlatformError(BulkcertError):
    """The operating system, or its version of SQLite, is not supported."""


class PluginError(BulkcertError):
    """The provider of an installed package can't be used, or the package is not installed."""


class JobError(BulkcertError):
    """The job file can't be used: bad syntax, unknown keys, wrong values, or secrets."""


class ConfirmationError(BulkcertError):
    """The run was not confirmed, or there is nobody to ask."""


class ApprovalError(BulkcertError):
    """Approvals of the plan are missing or stale, or can't be given or checked."""


class InterruptionError(BulkcertError):
    """A signal ended the command before it sent anything."""

    exit_code = 3


class CredentialsError(BulkcertError):
    """Credentials are missing from the environment, or the provider does not accept them."""


class TargetsError(BulkcertError):
    """The target file can't be used: missing, unreadable, empty, or without a needed column."""


class TargetsRejectedError(TargetsError):
    """Some rows of the target file are bad.

    Args:
        problem: what is wrong, in one sentence.
        next_step: what the user can do about it.
        first: the first rejections to show, in line order.
        total: how many rejections there are.
    """

    def __init__(
        self, problem: str, next_step: str, *, first: Sequence[Rejection], total: int
    ) -> None:
        super().__init__(problem, next_step)
        self.first = first
        self.total = total


class TargetsProtectedError(TargetsRejectedError):
    """Some rows of the target file are on a never-touch list."""


class ProtectionError(BulkcertError):
    """A list of what must never be touched can't be used, or would protect nothing; or the plan has
    more operations than `protect.max_operations` allows."""


class StoreUrlError(BulkcertError):
    """The URL of a shared store can't be used: it has a password, or leads there without TLS."""


class RunDirectoryError(BulkcertError):
    """The run directory can't be used: in use, of another job, not a run's, or not writable; or the
    run in a shared store can't."""


class RepetitionError(RunDirectoryError):
    """The plan was begun before, in another run; a plan is carried out once."""


class ResultNotKeptError(RunDirectoryError):
    """The result of a request that was executed can't be written; its operation is in doubt."""


class RevocationListError(BulkcertError):
    """A certificate revocation list can't be used: unreadable, forged, or not supported."""


class ControlError(BulkcertError):
    """A run can't be steered so: it is over, or it has no such wave, or the rate is too high."""


class MaterialError(BulkcertError):
    """The keys and certificates of a run can't be fetched from its store, or not all of them."""


class EvidenceError(BulkcertError):
    """A pack of evidence can't be made, or it can't be checked."""


class OutputError(BulkcertError):
    """The output of a command can't be written."""


class MetricsError(BulkcertError):
    """Metrics can't be served at the address: the port is taken, or it is not of this machine."""


class EndpointError(BulkcertError):
    """The endpoint is not trusted (TLS), or is not the provider's."""


class OverrideError(BulkcertError):
    """What was said about an abort or a wave does not fit the run."""


class StoppedByRulesError(BulkcertError):
    """The run has stopped itself by its own rules."""

    exit_code = 4


class ProviderUnusableError(BulkcertError):
    """The provider can't be used for now, and trying further operations would not help."""

    exit_code = 3


class StoreError(BulkcertError):
    """The store can't be read or written. What it recorded before is still good."""

    exit_code = 3


class StoreVersionError(StoreError):
    """The tables of a shared store are of a version that this program can't use."""


class LeaseLostError(StoreError):
    """Other hosts have taken over what this one was working on, because it was silent for too long.

    It forgets what it has in memory, records nothing of it, and begins anew.
    """

    def __init__(self) -> None:
        super().__init__(
            "This host was silent for so long that the others have taken over its operations."
        )


class CommitsLostError(StoreError):
    """The shared store has forgotten what it had confirmed, such as after a restore or a failover.

    What was sent since is not known any more, so nothing more may be sent before that is found out.
    """

    def __init__(self) -> None:
        super().__init__(
            "The shared store has lost commits that it had confirmed: it was restored, or a standby"
            " has taken its place.",
            "Stop all hosts, and make sure that there is only one server. Then let the run go on"
            " with `bulkcert store recheck --run NAME`: everything that is not finished is looked"
            " up before anything is sent again.",
        )
