"""What each series means, and its value in a snapshot: the one table of all of them.

In: a snapshot. Out: values by label. Every label is from a closed set, and every value of it is
there from the start: a series that appears late hides its first increase, and an alert on one that
is missing never fires. Times are Unix timestamps, not ages, so that they stay true in a file that
nobody updates. docs/metrics.md is made from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, StrEnum
from typing import NamedTuple, TypeVar

from bulkcert.metrics.figures import Figures
from bulkcert.rules.gate import ReasonKind

EXIT_CODES = range(5)
"""What a process may end with."""

_Member = TypeVar("_Member", bound=Enum)


class Kind(StrEnum):
    """The types of series, as Prometheus names them."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Series(NamedTuple):
    """A series, or several that differ in one label.

    Attributes:
        name: its name, with the suffix.
        kind: its type.
        meaning: what it means, in a sentence.
        values: its value, by the value of its label; the key is empty if it has none.
        label: the name of that label.
    """

    name: str
    kind: Kind
    meaning: str
    values: Callable[[Figures], Mapping[str, float]]
    label: str = ""


def _gauge(name: str, meaning: str, value: Callable[[Figures], float]) -> Series:
    return Series(name, Kind.GAUGE, meaning, lambda figures: {"": value(figures)})


def _counter(name: str, meaning: str, value: Callable[[Figures], float]) -> Series:
    return Series(name, Kind.COUNTER, meaning, lambda figures: {"": value(figures)})


def _by_name(counts: Mapping[_Member, int]) -> Mapping[str, float]:
    return {member.name.lower(): count for member, count in counts.items()}


def _flags(members: Iterable[object], are_set: Iterable[object]) -> Mapping[str, float]:
    found = set(are_set)
    return {str(member): float(member in found) for member in members}


SERIES = (
    Series(
        "bulkcert_operations",
        Kind.GAUGE,
        "Operations of the run by outcome; they add up to all of them.",
        lambda figures: _by_name(figures.operations),
        label="outcome",
    ),
    _counter(
        "bulkcert_requests_total",
        "Requests of any kind that were sent: attempts, look-ups, and calls for tokens.",
        lambda figures: figures.requests,
    ),
    Series(
        "bulkcert_attempts_total",
        Kind.COUNTER,
        "Attempts to carry out an operation, by what their results mean.",
        lambda figures: _by_name(figures.attempts),
        label="result",
    ),
    Series(
        "bulkcert_lookups_total",
        Kind.COUNTER,
        "Look-ups of what may have happened or is to be done, by what their results mean.",
        lambda figures: _by_name(figures.lookups),
        label="result",
    ),
    _counter(
        "bulkcert_throttled_responses_total",
        "Responses of the provider that asked to slow down.",
        lambda figures: figures.throttled,
    ),
    _gauge(
        "bulkcert_request_rate",
        "Requests per second, as an average over the last ten seconds.",
        lambda figures: figures.rate,
    ),
    _gauge(
        "bulkcert_request_rate_ceiling",
        "Most requests that the plan allows in any second.",
        lambda figures: figures.ceiling,
    ),
    _gauge(
        "bulkcert_request_rate_limit",
        "Most requests that people allow in any second: the ceiling, or less by `control rate`.",
        lambda figures: figures.limit,
    ),
    _gauge(
        "bulkcert_busiest_second_requests",
        "Most requests that this process has sent in any rolling second.",
        lambda figures: figures.busiest_second,
    ),
    _gauge(
        "bulkcert_open_requests",
        "Requests that have left and have not ended.",
        lambda figures: figures.open_requests,
    ),
    _gauge(
        "bulkcert_open_requests_limit",
        "Most requests that may be open at once, `limits.in_flight`.",
        lambda figures: figures.most_open_requests,
    ),
    Series(
        "bulkcert_not_sending",
        Kind.GAUGE,
        "1 for each reason why nothing is sent, or less than could be; else 0.",
        lambda figures: _flags(ReasonKind, figures.reasons),
        label="reason",
    ),
    _gauge(
        "bulkcert_wave",
        "Number of the current wave, from 1; 0 if the run has no waves, or has not begun.",
        lambda figures: figures.wave,
    ),
    _gauge("bulkcert_waves", "How many waves the run has.", lambda figures: figures.waves),
    _gauge(
        "bulkcert_deadline_timestamp_seconds",
        "When the run must be over; 0 if there is no deadline.",
        lambda figures: figures.deadline_at,
    ),
    _gauge(
        "bulkcert_estimated_end_timestamp_seconds",
        "When the run is expected to be over; 0 if there is no estimate.",
        lambda figures: figures.ends_at,
    ),
    _gauge(
        "bulkcert_last_outcome_timestamp_seconds",
        "When this process last settled an operation; 0 if it has settled none.",
        lambda figures: figures.settled_at,
    ),
    _gauge(
        "bulkcert_updated_timestamp_seconds",
        "When these figures were taken: twice a second while a process works on the run.",
        lambda figures: figures.updated_at,
    ),
    _gauge(
        "bulkcert_run_started_timestamp_seconds",
        "When the first process began to work on the run; 0 if none has.",
        lambda figures: figures.run_started_at,
    ),
    _gauge(
        "bulkcert_process_started_timestamp_seconds",
        "When this process began to work on the run; 0 if it has not.",
        lambda figures: figures.process_started_at,
    ),
    _gauge(
        "bulkcert_process_ended_timestamp_seconds",
        "When this process ended its work; 0 before that, also if it was killed.",
        lambda figures: figures.process_ended_at,
    ),
    Series(
        "bulkcert_exited",
        Kind.GAUGE,
        "1 for the exit code with which this process has ended its work; all are 0 before that.",
        lambda figures: _flags(
            EXIT_CODES, () if figures.exit_code is None else [figures.exit_code]
        ),
        label="code",
    ),
    Series(
        "bulkcert_events_total",
        Kind.COUNTER,
        "Events that were added to the log of the run, by type.",
        lambda figures: {str(kind): count for kind, count in figures.events.items()},
        label="type",
    ),
    _gauge(
        "bulkcert_event_log_length",
        "Events in the log of the run: the number of the last one.",
        lambda figures: figures.log_length,
    ),
    _gauge(
        "bulkcert_hosts",
        "Processes that work on the run, this one included; 0 when this one has ended.",
        lambda figures: figures.hosts,
    ),
)
"""All series but those that have a form of their own: `INFO` and `DURATION`."""

INFO = "bulkcert_run_info"
"""Its value is 1, and its labels are what does not change while the run goes on."""

INFO_MEANING = "Always 1; the labels say what the run is about."

DURATION = "bulkcert_request_duration_seconds"
"""The histogram of the durations of requests."""

DURATION_MEANING = (
    "How long attempts and look-ups took, from when their first request left until the result was"
    " known."
)
