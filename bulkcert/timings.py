"""How long a run waits, and for what: every waiting time and span that a test may want to vary.

Frozen data with the defaults that a run uses. `bulkcert.run.Run` takes one `Timings` and passes it
down. What an operator may choose is not here but in the job file. What is a promise, such as the
headroom below the ceiling, is a constant of its module.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PacerTimings:
    """How the pacer gives way to a provider that throttles.

    Attributes:
        first_pause_s: longest first pause after a throttled response without a Retry-After. The
            next one is twice as long, and so on.
        longest_pause_s: limit of that doubling.
        longest_obeyed_s: a Retry-After is obeyed for at most this long; then the provider is asked
            again.
        climb_step: share of the full rate by which the rate climbs back after a cut.
        climb_every_s: time between two such steps.
        longest_sleep_s: a long pause is slept in parts of this length. While the machine is
            suspended, timers stand still, and a pause should end on time.
    """

    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    longest_obeyed_s: float = 3600.0
    climb_step: float = 0.1
    climb_every_s: float = 1.0
    longest_sleep_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerTimings:
    """When the circuit breaker half-opens, and how it probes.

    Attributes:
        window_s: span of the results that the failure share is taken over.
        half_open_after_s: the breaker half-opens after the provider has been failing for this long.
        probe_every_s: time between two probes while it is half-open.
        minimum_sample: minimum sample before the failure share counts.
        agreeing_refusals: refusals in a row, for reasons that may concern the whole account, after
            which the run stops.
    """

    window_s: float = 5.0
    half_open_after_s: float = 5.0
    probe_every_s: float = 1.0
    minimum_sample: int = 50
    agreeing_refusals: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTimings:
    """When a source address is tripped, and when it is given up.

    Attributes:
        failures_to_trip: failures in a row that trip a source.
        probe_every_s: time between two probes of a tripped source.
        probes_to_give_up: failed probes after which a tripped source is given up, if other sources
            got responses before each of them.
    """

    failures_to_trip: int = 10
    probe_every_s: float = 1.0
    probes_to_give_up: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LatenessTimings:
    """When a request that has left counts as late: it may still be on the way to the provider.

    Attributes:
        margin_s: an acknowledgement may take this much longer than the round trip, or as much as
            acknowledgements on the same connection usually deviate, if that is more.
        check_every_s: requests are checked at most this often.
        kernel_gives_up_s: the kernel sends again what is not acknowledged for this long
            (TCP_USER_TIMEOUT); then it breaks the connection.
    """

    margin_s: float = 0.02
    check_every_s: float = 0.01
    kernel_gives_up_s: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandTimings:
    """How long to wait for an outside command, besides its time-out.

    Attributes:
        read_every_s: of a command that prints more than anybody reads, a part is read and thrown
            away this often.
        last_output_s: when a command has ended, the end of its output is awaited for at most this
            long: a process that it started may keep the output open.
    """

    read_every_s: float = 0.005
    last_output_s: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyTimings:
    """How patient a run is with the command that gets its events.

    Attributes:
        first_delay_s: time between the first failed try and the next one. It doubles with each
            further one, until one succeeds.
        longest_delay_s: limit of that doubling.
        most_tries: of one event; then the next one follows. With these delays, a chat that does not
            answer for four minutes misses nothing, and an event that it never takes delays the
            others by five.
        look_every_s: other processes add events as well, so the log is looked at this often.
        patience_s: at the end of its process, the command gets what is left for at most this long.
        say_after_s: whoever waits for that is told so after this time.
    """

    first_delay_s: float = 1.0
    longest_delay_s: float = 60.0
    most_tries: int = 10
    look_every_s: float = 2.0
    patience_s: float = 15.0
    say_after_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTimings:
    """How long somebody who steers a run waits for it.

    Attributes:
        patience_s: a control that is not in force after this long has not reached the run.
        look_every_s: time between two looks at what the run has noted.
    """

    patience_s: float = 10.0
    look_every_s: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsTimings:
    """How often metrics are written, and how long those who scrape them may take.

    Attributes:
        write_every_s: time between two writes of the file.
        last_write_s: the end of a run waits for the last write for at most this long.
        request_s: a connection is closed after this time, whatever it has sent or read by then.
        accept_every_s: time between two connections that are accepted, so that no number of them
            takes much of the processor.
        retry_accept_s: how long to wait when no connection can be accepted, because too many files
            are open.
    """

    write_every_s: float = 0.5
    last_write_s: float = 2.0
    request_s: float = 5.0
    accept_every_s: float = 0.005
    retry_accept_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTimings:
    """How often somebody who watches a run looks at it.

    Attributes:
        every_s: time between two looks, and between two lines.
        share: looking takes at most this share of the time, and of a processor. What takes long is
            looked at less often.
    """

    every_s: float = 1.0
    share: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTimings:
    """The times that several hosts on one run must agree on.

    What must be true of them together is checked when the object is made. docs/model/constants.md
    gives the reason for each inequality, and says for which of them the model of the protocol has a
    counterexample.

    Attributes:
        ttl_s: a lease is valid for this long after the begin of its last commit that is known to be
            applied.
        grace_s: others fence a host when they saw its beats unchanged for `ttl_s + grace_s`.
        user_timeout_s: after this long the kernel gives up what it could not deliver to the
            provider (TCP_USER_TIMEOUT).
        beat_every_s: a host commits at least this often.
        stand_still_s: with less than this left of its lease, a host sends nothing.
        kill_s: how late the switch may kill: the slack of its timer, and a process in the kernel.
        drift: how much faster one monotonic clock may run than another. chrony may slew one by a
            tenth.
        connect_timeout_s: for a connection to the store; whole seconds.
        idle_in_transaction_s: a host that stands still in a transaction keeps others waiting for
            this long; then the server ends its connection.
        statement_s: longest wait for a statement of a commit.
        answer_s: longest wait for an answer of the store, whatever has become of its server.
        lock_patience_s: a migration waits this long for a table. Whoever comes after it waits, too.
        watch_every_s: time between two looks at the other hosts. A look that takes as long says
            nothing about them.
        claim_ahead_s: operations are claimed for this long ahead at the present rate.
        commit_every_s: commits of a host are at least this far apart.
        new_life_patience_s: a host that was fenced tries to begin anew for this long, should the
            store be out of reach.
        utilization: share of the ceiling that the steady rate of all hosts uses.
        slot_s: a slot is used within this time, or dropped.
        lead_s: a slot begins at least this much later than it is reserved.
        ready_s: so many seconds' worth of requests get ready at the same time. Slots are only
            reserved for them, and each begins `lead_s` later at the earliest.
        horizon_s: nothing is reserved while the next slot is further ahead than this.
        batch_share: most slots in one reservation, as a share of the rate, where many hosts share
            it. Few hosts may reserve more: together the slots of half the horizon.

    Raises:
        ValueError: an inequality does not hold.
    """

    ttl_s: float = 6.0
    grace_s: float = 2.0
    user_timeout_s: float = 3.0
    beat_every_s: float = 1.0
    stand_still_s: float = 1.5
    kill_s: float = 0.5
    drift: float = 0.1
    connect_timeout_s: int = 3
    idle_in_transaction_s: float = 2.0
    statement_s: float = 2.0
    answer_s: float = 3.0
    lock_patience_s: float = 5.0
    watch_every_s: float = 1.0
    claim_ahead_s: float = 0.3
    commit_every_s: float = 0.05
    new_life_patience_s: float = 120.0
    utilization: float = 0.95
    slot_s: float = 0.02
    lead_s: float = 0.05
    ready_s: float = 0.4
    horizon_s: float = 0.3
    batch_share: float = 0.02

    def __post_init__(self) -> None:
        broken = [text for text, is_met in self._inequalities().items() if not is_met]
        if broken:
            raise ValueError(f"The times of several hosts contradict each other: {broken}")

    def _inequalities(self) -> dict[str, bool]:
        """What must be true of the values, whatever the job says."""
        return {
            "user_timeout_s > grace_s": self.user_timeout_s > self.grace_s,
            "ttl_s >= 1.2 * (user_timeout_s + grace_s)": (
                self.ttl_s >= 1.2 * (self.user_timeout_s + self.grace_s) - 1e-9
            ),
            "grace_s >= kill_s + 2 * drift * ttl_s": (
                self.grace_s >= self.kill_s + 2 * self.drift * self.ttl_s
            ),
            "beat_every_s + statement_s + stand_still_s < ttl_s": (
                self.beat_every_s + self.statement_s + self.stand_still_s < self.ttl_s
            ),
            "beat_every_s < idle_in_transaction_s <= ttl_s / 2": (
                self.beat_every_s < self.idle_in_transaction_s <= self.ttl_s / 2
            ),
            "statement_s <= ttl_s / 2": self.statement_s <= self.ttl_s / 2,
            "statement_s < answer_s <= ttl_s / 2": (
                self.statement_s < self.answer_s <= self.ttl_s / 2
            ),
            "commit_every_s < claim_ahead_s <= ttl_s / 6": (
                self.commit_every_s < self.claim_ahead_s <= self.ttl_s / 6
            ),
            "slot_s + lead_s < horizon_s": self.slot_s + self.lead_s < self.horizon_s,
            "lead_s + slot_s < ready_s": self.lead_s + self.slot_s < self.ready_s,
            "batch_share <= 0.02": self.batch_share <= 0.02,
            # what is left of the ceiling is for the network's jitter and the mapping of clocks
            "(1 + slot_s) * utilization < 1": (1 + self.slot_s) * self.utilization < 1,
        }

    @property
    def fence_after_s(self) -> float:
        """A host whose beats did not change for this long is fenced."""
        return self.ttl_s + self.grace_s

    @property
    def silent_after_s(self) -> float:
        """A host whose beats did not change for this long is said to be silent."""
        return self.beat_every_s + self.grace_s

    def takeover_wait_s(self, settling_s: float, request_timeout_s: float) -> float:
        """How long after taking over, by the answer to it, a look-up shows what was executed.

        Args:
            settling_s: of the run; a request that was given up may still be executed for this long.
            request_timeout_s: of the run.
        """
        return self.user_timeout_s + max(settling_s, request_timeout_s)

    def recheck_wait_s(self, settling_s: float, request_timeout_s: float) -> float:
        """The same after lost commits: a host that has not noticed sends until its deadline."""
        return self.ttl_s + self.takeover_wait_s(settling_s, request_timeout_s)

    def span_s(self, rate: float) -> float:
        """What is reserved now has left after this time.

        So long is a quarantine of the pace, and so long a newcomer reserves nothing.

        Args:
            rate: slots per second.
        """
        batch_s = max(1 / rate, self.batch_share, self.horizon_s / 2)
        return self.horizon_s + batch_s + self.slot_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """All waiting times of a run.

    Attributes:
        first_look_s: an action that is not idempotent and in doubt is looked up after this time.
            Its effect can mostly be seen then; if not, it is looked up again after the settling
            time, `[retry] settling_seconds` of the job.
        first_backoff_s: upper bound of the random delay before the first retry. It doubles with
            each further one.
        longest_backoff_s: limit of that doubling.
        dns_timeout_s: how long finding the addresses of a host may take.
        connect_timeout_s: how long a connection may take to establish.
        rest_s: a connection is not used again for this long after a response, so that a surplus
            response that follows is noticed.
        first_call_patience_s: how long the first call of a run is tried before the provider counts
            as unusable. At the start, somebody is watching.
        token_patience_s: the same for an access token later on: a short outage of the token service
            should not end a run.
        first_alone_s: how long the first request for an operation goes alone, at most: its response
            may say that everybody has to pause.
        redirect_pause_s: how long all senders pause after a redirect, which may be a throttle.
        chain_retry_s: a CA certificate that could not be fetched is tried again after this long.
        commit_every_s: commits to the store are at least this far apart. After a `kill -9`, the
            next run looks up what was not committed; a commit for each result would cost more.
        progress_every_s: time between two `Progress` events.
        gate_every_s: the rules of a run, and what people ask of it, are looked at this often.
        lookups_after_abort_s: after an abort, what may have been executed is looked up for at most
            this long.
        lock_patience_s: how long a run waits for the lock of its run directory. `bulkcert status`
            holds that lock for an instant, which must not keep a run from starting.
        events_patience_s: how long the copy of the event log waits for somebody who has locked its
            file. Nothing else is recorded meanwhile, and the next event completes the file.
        longest_comparison_s: how long a plan is compared with earlier runs, at most.
        pacer, circuit_breaker, sources, lateness, commands, metrics, notify, hosts: see there.
    """

    first_look_s: float = 2.0
    first_backoff_s: float = 0.3
    longest_backoff_s: float = 30.0
    dns_timeout_s: float = 5.0
    connect_timeout_s: float = 10.0
    rest_s: float = 0.1
    first_call_patience_s: float = 10.0
    token_patience_s: float = 60.0
    first_alone_s: float = 1.0
    redirect_pause_s: float = 1.0
    chain_retry_s: float = 60.0
    commit_every_s: float = 0.03
    progress_every_s: float = 0.5
    gate_every_s: float = 0.2
    lookups_after_abort_s: float = 60.0
    longest_comparison_s: float = 20.0
    lock_patience_s: float = 0.3
    events_patience_s: float = 0.2
    pacer: PacerTimings = PacerTimings()
    circuit_breaker: BreakerTimings = BreakerTimings()
    sources: SourceTimings = SourceTimings()
    lateness: LatenessTimings = LatenessTimings()
    commands: CommandTimings = CommandTimings()
    metrics: MetricsTimings = MetricsTimings()
    notify: NotifyTimings = NotifyTimings()
    hosts: HostTimings = HostTimings()

    def __post_init__(self) -> None:
        if self.lateness.kernel_gives_up_s > self.hosts.user_timeout_s:
            raise ValueError("kernel_gives_up_s is longer than other hosts wait for it")
        if self.gate_every_s > self.hosts.beat_every_s:
            raise ValueError("gate_every_s is longer than beat_every_s, and each look is a beat")
