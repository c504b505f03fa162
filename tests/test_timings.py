"""The waiting times of a run, value by value: the documents and the operators rely on them."""

from __future__ import annotations

import dataclasses
import re

import pytest

from bulkcert.timings import (
    BreakerTimings,
    HostTimings,
    LatenessTimings,
    NotifyTimings,
    PacerTimings,
    SourceTimings,
    Timings,
)


def test_the_defaults_are_what_the_documents_say() -> None:
    assert dataclasses.asdict(Timings()) == {
        "first_look_s": 2.0,
        "first_backoff_s": 0.3,
        "longest_backoff_s": 30.0,
        "connect_timeout_s": 10.0,
        "rest_s": 0.1,
        "dns_timeout_s": 5.0,
        "first_call_patience_s": 10.0,
        "token_patience_s": 60.0,
        "first_alone_s": 1.0,
        "redirect_pause_s": 1.0,
        "chain_retry_s": 60.0,
        "commit_every_s": 0.03,
        "progress_every_s": 0.5,
        "gate_every_s": 0.2,
        "lookups_after_abort_s": 60.0,
        "longest_comparison_s": 20.0,
        "lock_patience_s": 0.3,
        "events_patience_s": 0.2,
        "pacer": {
            "first_pause_s": 1.0,
            "longest_pause_s": 60.0,
            "longest_obeyed_s": 3600.0,
            "climb_step": 0.1,
            "climb_every_s": 1.0,
            "longest_sleep_s": 5.0,
        },
        "circuit_breaker": {
            "window_s": 5.0,
            "half_open_after_s": 5.0,
            "probe_every_s": 1.0,
            "minimum_sample": 50,
            "agreeing_refusals": 30,
        },
        "sources": {"failures_to_trip": 10, "probe_every_s": 1.0, "probes_to_give_up": 5},
        "notify": {
            "first_delay_s": 1.0,
            "longest_delay_s": 60.0,
            "most_tries": 10,
            "look_every_s": 2.0,
            "patience_s": 15.0,
            "say_after_s": 1.0,
        },
        "commands": {"read_every_s": 0.005, "last_output_s": 0.2},
        "metrics": {
            "write_every_s": 0.5,
            "last_write_s": 2.0,
            "request_s": 5.0,
            "accept_every_s": 0.005,
            "retry_accept_s": 1.0,
        },
        "hosts": {
            "ttl_s": 6.0,
            "grace_s": 2.0,
            "user_timeout_s": 3.0,
            "beat_every_s": 1.0,
            "stand_still_s": 1.5,
            "kill_s": 0.5,
            "drift": 0.1,
            "connect_timeout_s": 3,
            "idle_in_transaction_s": 2.0,
            "statement_s": 2.0,
            "answer_s": 3.0,
            "lock_patience_s": 5.0,
            "watch_every_s": 1.0,
            "claim_ahead_s": 0.3,
            "commit_every_s": 0.05,
            "new_life_patience_s": 120.0,
            "utilization": 0.95,
            "slot_s": 0.02,
            "lead_s": 0.05,
            "ready_s": 0.4,
            "horizon_s": 0.3,
            "batch_share": 0.02,
        },
        "lateness": {"margin_s": 0.02, "check_every_s": 0.01, "kernel_gives_up_s": 3.0},
    }


@pytest.mark.parametrize(
    "timings",
    [
        Timings(),
        PacerTimings(),
        BreakerTimings(),
        SourceTimings(),
        LatenessTimings(),
        NotifyTimings(),
        HostTimings(),
    ],
)
def test_nobody_can_change_them(timings: Timings) -> None:
    for field in dataclasses.fields(timings):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(timings, field.name, 1.0)
        assert field.name in (type(timings).__doc__ or ""), "undocumented"


@pytest.mark.parametrize(
    ("name", "value", "inequality"),
    [
        ("user_timeout_s", 2.0, "user_timeout_s > grace_s"),
        ("ttl_s", 5.9, "ttl_s >= 1.2"),
        ("kill_s", 0.9, "grace_s >= kill_s"),
        ("stand_still_s", 3.0, "beat_every_s + statement_s + stand_still_s < ttl_s"),
        ("idle_in_transaction_s", 1.0, "beat_every_s < idle_in_transaction_s"),
        ("idle_in_transaction_s", 3.1, "idle_in_transaction_s <= ttl_s / 2"),
        ("statement_s", 3.1, "statement_s <= ttl_s / 2"),
        ("answer_s", 2.0, "statement_s < answer_s"),
        ("claim_ahead_s", 0.05, "commit_every_s < claim_ahead_s"),
        ("claim_ahead_s", 1.1, "claim_ahead_s <= ttl_s / 6"),
        ("ready_s", 0.07, "lead_s + slot_s < ready_s"),
        ("horizon_s", 0.07, "slot_s + lead_s < horizon_s"),
        ("batch_share", 0.03, "batch_share <= 0.02"),
        ("utilization", 0.985, "(1 + slot_s) * utilization < 1"),
    ],
)
def test_times_of_hosts_that_contradict_each_other_are_refused(
    name: str, value: float, inequality: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(inequality)):
        HostTimings(**{name: value})


def test_whoever_waits_for_the_kernel_waits_as_long_as_the_kernel() -> None:
    assert LatenessTimings().kernel_gives_up_s == HostTimings().user_timeout_s
    with pytest.raises(ValueError, match="kernel_gives_up_s"):
        Timings(lateness=LatenessTimings(kernel_gives_up_s=3.1))


def test_a_host_looks_at_the_rules_at_least_as_often_as_it_must_beat() -> None:
    with pytest.raises(ValueError, match="gate_every_s"):
        Timings(gate_every_s=1.1)
