"""The shared store, as one host uses it during a run: its life, and the store's contract."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import fields

import orjson

from bulkcert import event_log
from bulkcert.errors import CommitsLostError, ControlError
from bulkcert.model import State
from bulkcert.store.base import Host, Seen, Session
from bulkcert.store.postgresql import leases
from bulkcert.store.postgresql.commits import mark_lost
from bulkcert.store.postgresql.database import RUN_LOCK, explained
from bulkcert.store.postgresql.operations import Operations


class PostgresStore(Operations):
    """The shared store, as one host uses it during a run; see `bulkcert.store.base.Store`.

    One thread at a time may use it; that need not be the thread that opened it. Whoever steers a
    run does not register; whoever works on it does. It is one object, because it is one connection
    and one transaction at a time.

    Attributes:
        rechecked: the run goes on after the store has lost commits; known after `register`.
    """

    rechecked = False

    def register(
        self,
        host: Host,
        extend: Callable[[float], object] = lambda begun_s: None,
        on_trouble: Callable[[str], object] = lambda text: None,
    ) -> uuid.UUID:
        """Begin to work on the run, with a new lease.

        Args:
            host: this process.
            extend, on_trouble: see `bulkcert.store.postgresql.commits.Commits.hold_lease`.

        Raises:
            CommitsLostError: the store has lost commits since the run began.
        """

        def begin() -> None:
            self._lock_run()
            server, lost = self._one(
                "SELECT server, lost_commits_at IS NOT NULL FROM bulkcert.run WHERE id = %s",
                (self._run,),
            )
            if lost or server not in (None, self._commits.server):
                mark_lost(self._commits.db, self._run)  # for those who work on it
                return
            if server is None:
                self._execute(
                    "UPDATE bulkcert.run SET server = %s WHERE id = %s",
                    (self._commits.server, self._run),
                )
            leases.register(self._commits.db, self._run, self.owner, host)

        self.commit(begin)
        lost, self.rechecked = self._one(
            "SELECT lost_commits_at IS NOT NULL, rechecked_at IS NOT NULL FROM bulkcert.run"
            " WHERE id = %s",
            (self._run,),
        )
        if lost:
            raise CommitsLostError
        self._process = {"host": host.name, "pid": host.pid, "lease": str(self.owner)}
        # The lease permits nothing yet: nobody could see to it that the switch is disarmed in time.
        self._commits.hold_lease(self._run, self.owner, extend, on_trouble)
        return self.owner

    def leave(self) -> None:
        """End to work on the run, in the last transaction of this host.

        Nothing that it has sent may be under way any more.
        """
        leases.leave(self._commits.db, self.owner)

    def others(self) -> list[Seen]:
        """The other hosts that work on the run."""
        with explained():
            found = leases.live(self._commits.db, self._run)
        return [seen for seen in found if seen.id != self.owner]

    def counts(self) -> Mapping[State, int]:
        """Number of operations by state; to be called outside transactions."""
        with explained():
            return self.counts_of_wave(None)

    def keeps_hosts_waiting(self) -> bool:
        """Whether no host can commit at the moment, because somebody has, or is about to have, the
        run alone. To be called outside transactions."""
        with explained():
            (is_free,) = self._one(
                "SELECT pg_try_advisory_xact_lock_shared(%s, %s)", (RUN_LOCK, self._run)
            )
        return not is_free

    def fence(self, seen: Seen, by: str, silent_s: float) -> int | None:
        """End the lease of a host that was silent for too long, in a transaction of its own.

        Args:
            seen: the host, with the beats that it has had all that time.
            by: the name of this host.
            silent_s: for how long it was silent.

        Returns:
            How many operations it was working on; None if it has beaten since, or was fenced by
            somebody else.
        """

        def end() -> int | None:
            freed = leases.fence(self._commits.db, seen, by)
            if freed is not None:
                process = {"host": seen.host, "pid": seen.pid, "lease": str(seen.id)}
                self.add_event(
                    event_log.fenced(
                        self.now(), process, by=by, silent_s=silent_s, operations=freed
                    )
                )
            return freed

        return self.commit(end)

    def lost_commits(self) -> None:
        """Store that the shared store has lost commits, so that all hosts stop."""
        mark_lost(self._commits.db, self._run)

    def note_session(self, session: Session) -> None:
        """Store the figures of this process, replacing earlier ones of the same process."""
        figures = {each.name: getattr(session, each.name) for each in fields(session)} | {
            "retried": dict(session.retried),
            "slowdown": session.slowdown and list(session.slowdown),
        }
        self._execute(
            "INSERT INTO bulkcert.session (run, owner, figures) VALUES (%s, %s, %s)"
            " ON CONFLICT (run, owner) DO UPDATE SET figures = excluded.figures",
            (self._run, self.owner, orjson.dumps(figures).decode()),
        )

    def keep_hosts_away(self) -> str:
        """Let no host begin until the transaction ends; return the name of one that is there."""
        self._lock_run()
        rows = self._execute(
            "SELECT host FROM bulkcert.lease WHERE run = %s AND state = 'live'"
            " AND beat_at > bulkcert.now_s() - %s ORDER BY number LIMIT 1",
            (self._run, self._timings.fence_after_s),
        )
        return next((str(host) for (host,) in rows), "")

    def recheck(self, *, force: bool = False) -> int:
        """Let the run go on after the store has lost commits; return how many operations that puts
        in doubt.

        What is not settled may have been executed, so all of it is looked up first. Where nothing
        was written down that a look-up could compare with, an attempt counts as late: what can't
        be repeated without harm isn't.

        Args:
            force: also if nobody has noticed that something is lost.

        Raises:
            ControlError: nothing is lost, or hosts still work on the run.
        """
        host = self.keep_hosts_away()
        (lost,) = self._one(
            "SELECT lost_commits_at IS NOT NULL OR server <> %s FROM bulkcert.run WHERE id = %s",
            (self._commits.server, self._run),
        )
        if not (lost or force):
            raise ControlError(
                "No host has noticed that the store has lost commits of this run.",
                "If you know that it has, because it was restored while no host was running, add"
                " --force.",
            )
        if host:
            raise ControlError(
                f"{host} still works on the run.",
                f"Stop all hosts, and wait for {self._timings.fence_after_s:g} s.",
            )
        self._execute(
            "UPDATE bulkcert.run SET server = %s, lost_commits_at = NULL,"
            " rechecked_at = bulkcert.now_s() WHERE id = %s",
            (self._commits.server, self._run),
        )
        self._execute(
            "UPDATE bulkcert.lease SET state = 'fenced', ended_by = 'recheck',"
            " ended_at = bulkcert.now_s() WHERE run = %s AND state = 'live'",
            (self._run,),
        )
        return self._commits.db.execute(
            "UPDATE bulkcert.operation SET state = 'in_flight', owner = NULL,"
            " late = late OR step_data IS NULL"
            " WHERE run = %s AND state IN ('planned', 'in_flight')",
            (self._run,),
        ).rowcount
