"""The waiting times of a run, value by value: the documents and the operators rely on them."""

from __future__ import annotations

import dataclasses

import pytest

from bulkcert.timings import (
    BreakerTimings,
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
    ],
)
def test_nobody_can_change_them(timings: Timings) -> None:
    for field in dataclasses.fields(timings):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(timings, field.name, 1.0)
        assert field.name in (type(timings).__doc__ or ""), "undocumented"
