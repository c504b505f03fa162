"""What a run shares with other runs of this user on this machine: the limits, and who they are.

In: the job and its endpoint. Out: the files of the limits that its requests are subject to, and one
sentence for the user when others share them. Must not be so narrow that two runs of one account
miss each other: where it is not known what a provider limits, the runs share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bulkcert.job import Job
from bulkcert.providers.base import Provider
from bulkcert.quantities import count, number
from bulkcert.ratelimit import UTILIZATION
from bulkcert.slots import FileSlots, Other, SlotFile

_PORTS: dict[str, int] = {"http": 80, "https": 443}


def endpoint_scope(provider: Provider, endpoint: str) -> tuple[str, str, str]:
    """What all limits of an endpoint have in common, however its URL is written."""
    url = urlsplit(endpoint)
    port = url.port or _PORTS.get(url.scheme)
    return provider.name, url.hostname or "", str(port)


def account_limits(job: Job, credentials: Mapping[str, str]) -> list[tuple[str, ...]]:
    """What identifies the limit of an account within the scope of its endpoint: one name for each
    thing that two runs may have in common, see `Provider.accounts`."""
    known = {**credentials, **job.connection.options}
    names = [name for name in job.provider.accounts if name in known]
    return [("account", name, known[name]) for name in names] or [("account",)]


def account_scopes(job: Job, endpoint: str, credentials: Mapping[str, str]) -> list[str]:
    """What identifies an account in a shared store: one name for each thing that two runs may have
    in common, which shows the endpoint, and neither account nor key."""
    provider, host, port = endpoint_scope(job.provider, endpoint)

    def scope(limit: Sequence[str]) -> str:
        digest = hashlib.sha256(json.dumps(limit).encode()).hexdigest()[:16]
        return f"{provider} {host}:{port} {digest}"

    return [scope(limit) for limit in account_limits(job, credentials)]


class SharedLimits:
    """All shared limits that one run is subject to.

    Args:
        folder: where the files are; None for a run that shares nothing.
        scope: what the limits have in common, such as the endpoint.
        run: the name of the run.
        elapsed_s: the machine's clock.
        notify: called with a sentence that names the processes that share a limit, or says why
            this process goes on alone.
    """

    def __init__(
        self,
        folder: Path | None,
        scope: Sequence[str],
        run: str,
        elapsed_s: Callable[[], float],
        notify: Callable[[str], object],
    ) -> None:
        self._folder, self._scope, self._run, self._elapsed_s = folder, scope, run, elapsed_s
        self._notify = notify
        self._files: list[SlotFile] = []
        self._named: set[Other] = set()
        self._failed = False

    def add(
        self, ceiling: float, *limits: Sequence[str], utilization: float = UTILIZATION
    ) -> FileSlots | None:
        """The slots of one more limit; None for a run that shares nothing.

        Args:
            ceiling: the limit.
            limits: what identifies it within the scope; several if it has several names.
            utilization: share of it that the steady rate uses.
        """
        if self._folder is None:
            return None
        files = [
            SlotFile(
                self._folder,
                [*self._scope, *limit],
                ceiling,
                self._run,
                self._elapsed_s,
                self._name,
                self._fail,
            )
            for limit in limits
        ]
        self._files += files
        return FileSlots(files, utilization)

    def leave(self) -> None:
        """This process sends nothing more."""
        for file in self._files:
            file.leave()

    def _name(self, file: SlotFile) -> None:
        """Say once that the run shares a ceiling, and again if there are more who do."""
        if file.others <= self._named:
            return
        self._named |= file.others
        processes = count(len(file.others), "other process", "other processes")
        names = "; ".join(f"run {run}, pid {pid}" for run, pid in sorted(file.others))
        self._notify(
            f"This run shares the ceiling of {number(file.ceiling)}/s with {processes} on this"
            f" account: {names}."
        )

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._notify(
                f"{self._folder} can't be used: {error.strerror or error}. Other runs of this"
                " account are not seen, and together with them this one may exceed its ceiling."
            )
