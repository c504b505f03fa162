"""Makes a scenario from a seed: a job, a provider that misbehaves, and when its processes end.

In: a seed. Out: a `Scenario`, always the same one for the same seed. Everything is chosen from the
tables here: a new action is one more function in `KINDS`, a new fault one more name in
`ENOS_FAULTS`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from steers import Steer

Rows = tuple[str, list[tuple[object, ...]]]
"""A header and the rows below it."""

ENOS_FAULTS = (
    *("throttle_retry_after", "error_before", "error_after", "cut_before", "cut_after"),
    *("cut_inside", "page_before", "page_after", "token_expired", "system_overflow"),
    *("slow_first_byte", "byte_by_byte", "json_cut_short", "wrong_types", "html_ok", "redirect"),
    "execute_late",
)
MQ_FAULTS = tuple(name for name in ENOS_FAULTS if name not in {"token_expired", "system_overflow"})
"""Without faults that EnOS alone has: an expired token ends a run, and a system overflow pauses all
requests, for longer each time."""

ODD_FAULTS = (
    *("page_late", "overload_retry_after", "gzip_anyway", "large_header", "surplus"),
    *("contradiction", "throttle"),
)

MOST_THROTTLED = 0.005

SHARED = 1 / 8
"""Share of the seeds in which several hosts work on the run."""

ENDS = ("kill -9", "SIGTERM", "SIGINT twice", "SIGSTOP", "no room", "clock set")
"""What is done to a process. `no room`: no file may grow any more, as if a quota were used up.
`clock set`: the time of day changes, also for the processes after it. Some of these end the
process, others only disturb it."""

CLOCK_SHIFTS_S = {"enos": (-300_000, -400, 400, 300_000), "apsaramq": (-400, 400)}
"""By how much a clock is set wrong. ApsaraMQ rejects clocks that are wrong by over 15 minutes."""

RULES = ("rollout", "abort", "protect", "check")
"""The sections of a job's rules, other than its window, which depends on the time of day."""

CODES = {"enos": ("99400", "99403", "11833"), "apsaramq": ("MqttDeviceNotExist", "InternalError")}
"""Codes for `[abort]`."""

CHECK = {"command": ["./check.sh"], "every": "0.2s", "timeout": "10s", "patience": "1h"}
"""A check that says what `steers.Steersman.check_says` wants."""

CA = "007269004887000001"

FIRST_SERIAL = 52_700_000
"""Serial numbers that no text has by chance."""


@dataclass(frozen=True)
class End:
    """What is done to a process, after this many more requests."""

    how: str
    after_requests: int


@dataclass(frozen=True)
class Blow:
    """Something that is done to one of several hosts, or to the store that they share.

    Attributes:
        how: kill -9, SIGTERM, SIGSTOP, store crash, store silent, answer lost, commit lost.
        after_requests: how many requests after the one before.
        host: which host, from 0.
        for_s: how long it lasts.
    """

    how: str
    after_requests: int
    host: int
    for_s: float

    def __str__(self) -> str:
        return f"{self.how} after {self.after_requests}"


@dataclass
class Scenario:
    """Everything that a seed decides.

    Attributes:
        seed: the seed.
        kind: what the job does, see `KINDS`.
        job: the job file as a document, without its connection.
        targets, fleet: the target file, and the devices that the provider knows.
        behaviour: options of the simulator.
        ends: one for each process, except for the last ones, which run until the job is finished.
        verified: the run is verified at its end.
        steers: what is done to the run from outside, while its processes come and go.
        never: targets that must never be touched; the run leaves them out.
        has_window: the job has a change window; it is open for as long as the clock is right.
        closes_after_s: the window closes by itself this long after the job was written; None if it
            closes only when the clock is set.
        impatient: how many of the processes do not wait, see `--no-wait`, from 0 to 1.
        notify: how the command of `[notify]` behaves, see `onlookers`; empty if there is none.
        scraped: the metrics are scraped.
        watched: there is a watch screen.
        documented: a report and a pack of evidence are made at the end.
        hosts: how many work on the run at the same time, through a shared store; 0 for one process
            after the other, without a store.
        blows: what is done to them and to the store.
    """

    seed: int
    kind: str
    job: dict[str, Any] = field(default_factory=dict)
    targets: Rows = ("", [])
    fleet: Rows = ("", [])
    behaviour: dict[str, Any] = field(default_factory=dict)
    ends: list[End] = field(default_factory=list)
    verified: bool = False
    steers: list[Steer] = field(default_factory=list)
    never: Rows = ("", [])
    has_window: bool = False
    closes_after_s: float | None = None
    impatient: float = 0.0
    notify: str = ""
    scraped: bool = False
    watched: bool = False
    documented: bool = False
    hosts: int = 0
    blows: list[Blow] = field(default_factory=list)

    def __str__(self) -> str:
        limits = self.job["limits"]
        faults = [f"{name}={value}" for name, value in sorted(self.behaviour.items())]
        ends = [f"{end.how} after {end.after_requests}" for end in self.ends]
        rules = [name for name in RULES if name in self.job] + ["window"] * self.has_window
        return (
            f"{self.kind}, {len(self.targets[1])} targets,"
            f" {limits['requests_per_second']}/s, {limits['in_flight']} in flight,"
            f" {' '.join(faults)}; {', '.join(ends) or 'no end'};"
            f" {', '.join(rules) or 'no rules'};"
            f" {', '.join(map(str, self.steers)) or 'not steered'};"
            f" {', '.join(self.onlookers) or 'not looked at'}"
            + (f"; {self.hosts} hosts: {', '.join(map(str, self.blows))}" if self.hosts else "")
        )

    @property
    def onlookers(self) -> list[str]:
        """Who looks at the run."""
        return [
            *([f"{self.notify} notify"] if self.notify else []),
            *(name for name in ("scraped", "watched", "documented") if getattr(self, name)),
        ]


# ---- kinds of jobs: each fills in the job, its targets and the fleet

Fill = Callable[[Scenario, random.Random, int], None]
KINDS: dict[str, Fill] = {}


def kind(fill: Fill) -> Fill:
    KINDS[fill.__name__] = fill
    return fill


def _devices(count: int) -> Iterator[tuple[str, int]]:
    return ((f"A{number:04}", FIRST_SERIAL + number) for number in range(count))


def _most(rows: list[Any], rng: random.Random) -> list[Any]:
    """Return all of them, or all but a few."""
    return rng.sample(rows, max(0, len(rows) - rng.choice([0, 3])))


@kind
def revoke(scenario: Scenario, rng: random.Random, count: int) -> None:
    """Some certificates are revoked already, some do not exist."""
    scenario.job |= {"provider": "enos", "action": "revoke", "parameters": {"reason": 1}}
    rows = list(_devices(count))
    scenario.targets = ("assetId,certSn", rows)
    known = _most(rows, rng)
    revoked = rng.choice([0, 0, 5])
    fleet = [(*row, 1 if number < revoked else 0) for number, row in enumerate(known)]
    scenario.fleet = ("assetId,certSn,certStatus", fleet)
    scenario.behaviour["revoke_again"] = rng.choice(["refused", "unbound", "ok"])


@kind
def revoke_selected(scenario: Scenario, rng: random.Random, count: int) -> None:
    """Devices with no, one or several matching certificates."""
    select = {"status": "valid", "issued_before": "2026-01-01"}
    scenario.behaviour |= {"certificate_age": 1000, "certificate_life": 3650}
    scenario.job |= {"provider": "enos", "action": "revoke", "select": select}
    count = max(1, count // 2)
    names = [name for name, _ in _devices(count)]
    scenario.targets = ("assetId", [(name,) for name in names])
    fleet = [
        (name, FIRST_SERIAL + 10 * number + certificate, rng.choice([0, 0, 1]))
        for number, name in enumerate(names)
        for certificate in range(rng.choice([1, 1, 2, 3]))
    ]
    scenario.fleet = ("assetId,certSn,certStatus", fleet)


def _renewal(scenario: Scenario, rng: random.Random, count: int, action: str) -> None:
    scenario.job |= {"provider": "enos", "action": action, "parameters": {"validDay": 100}}
    rows = list(_devices(max(1, count // 2)))
    scenario.targets = scenario.fleet = ("assetId,certSn", rows)
    scenario.behaviour["renew_revokes_old"] = rng.choice([True, False])
    scenario.behaviour["list_cert"] = rng.choice(["issued", "serial", "pem"])


@kind
def renew(scenario: Scenario, rng: random.Random, count: int) -> None:
    """With new keys, or with the old ones."""
    _renewal(scenario, rng, count, "renew")
    if rng.random() < 0.6:
        subject = rng.choice([{}, {"subject": "C=SG, ST=S, L=L, O=O, OU=U, CN={assetId}"}])
        scenario.job["keys"] = {"generate": "ecdsa-p256", **subject}


@kind
def rotate(scenario: Scenario, rng: random.Random, count: int) -> None:
    _renewal(scenario, rng, count, "rotate")
    scenario.job["keys"] = {"generate": "ecdsa-p256"}


@kind
def list_devices(scenario: Scenario, rng: random.Random, count: int) -> None:
    scenario.job |= {"provider": "enos", "action": "list"}
    rows = list(_devices(count))
    scenario.targets = ("assetId", [row[:1] for row in rows])
    scenario.fleet = ("assetId,certSn", rows)


def _mqtt(scenario: Scenario, rng: random.Random, count: int, action: str) -> None:
    scenario.job |= {"provider": "apsaramq", "action": action}
    rows = [(f"00{number:04}", CA) for number in range(count)]
    scenario.targets = ("DeviceSn,CaSn", rows)
    before = 1 if action == "inactivate" else 0
    fleet = [(*row, before if number > 4 else 1 - before) for number, row in enumerate(rows)]
    scenario.fleet = ("DeviceSn,CaSn,Status", _most(fleet, rng))
    scenario.behaviour |= {
        "mq_source_limit": 0,
        "mq_already": rng.choice(["ok", "error"]),
        "mq_statuses": rng.choice(["pages", "notice"]),
    }


@kind
def inactivate(scenario: Scenario, rng: random.Random, count: int) -> None:
    _mqtt(scenario, rng, count, "inactivate")


@kind
def activate(scenario: Scenario, rng: random.Random, count: int) -> None:
    _mqtt(scenario, rng, count, "activate")


@kind
def delete(scenario: Scenario, rng: random.Random, count: int) -> None:
    _mqtt(scenario, rng, count, "delete")


@kind
def get(scenario: Scenario, rng: random.Random, count: int) -> None:
    _mqtt(scenario, rng, count, "get")


# ---- what all kinds share


def scenario_of(seed: int, kinds: Sequence[str] = ()) -> Scenario:
    """Make the scenario of a seed.

    Args:
        seed: the seed.
        kinds: kinds of jobs to choose from; a seed means something else with each choice.
    """
    rng = random.Random(seed)
    name = rng.choice(list(kinds) or [*KINDS, "revoke"])
    in_flight = rng.choice([1, 8, 100, 1000])
    count = rng.choice([1, 20, 40] if in_flight == 1 else [1, 20, 60, 120, 200])
    scenario = Scenario(seed, name, behaviour=_behaviour(rng, seed))
    KINDS[name](scenario, rng, count)
    faults = ENOS_FAULTS if scenario.job["provider"] == "enos" else MQ_FAULTS
    scenario.behaviour |= _faults(rng, faults) | _oddities(scenario)
    scenario.job |= {
        "limits": {
            "requests_per_second": rng.choice([60, 120, 200]),
            "in_flight": in_flight,
            # far above the latency: a request that timed out must not be executed much later
            "request_timeout_seconds": 2.0,
        },
        "retry": {"max_attempts": rng.choice([4, 8, 20]), "settling_seconds": 2.0},
        "circuit_breaker": {"stop_after_seconds": 8},
    }
    if in_flight == 1:
        scenario.behaviour["latency"] = min(0.02, scenario.behaviour["latency"])
    ends = rng.choice([0, 1, 2, 3])
    scenario.ends = [End(rng.choice(ENDS), rng.randrange(1, 2 + count // 2)) for _ in range(ends)]
    scenario.verified = rng.random() < 0.3 and not scenario.kind.startswith(("list", "get"))
    _campaign(scenario)
    _onlookers(scenario)
    _hosts(scenario)
    return scenario


# ---- rules, and what is done to the run from outside. Half of the scenarios have none.


def _campaign(scenario: Scenario) -> None:
    rng = random.Random(f"rules {scenario.seed}")  # its own, so that all else stays what it was
    if rng.random() < 0.5:
        return
    header, rows = scenario.targets
    columns = [(f"s{rng.randrange(4)}", rng.randrange(100)) for _ in rows]
    scenario.targets = (
        f"{header},site,risk",
        [(*row, *more) for row, more in zip(rows, columns, strict=True)],
    )
    if rng.random() < 0.8:
        scenario.job["rollout"] = _rollout(rng, len(rows))
    if rng.random() < 0.6:
        scenario.job["abort"] = _abort(scenario, rng)
    if rng.random() < 0.5 and not scenario.kind.startswith(("list", "get")):
        _protect(scenario, rng)
    if rng.random() < 0.4:
        scenario.job["check"] = CHECK
    clock_is_set = any(end.how == "clock set" for end in scenario.ends)
    scenario.has_window = (
        rng.random() < 0.3 and scenario.job["provider"] == "enos" and not clock_is_set
    )
    scenario.impatient = rng.choice([0.0, 0.0, 0.5])
    scenario.steers = _steers(scenario, rng)
    if scenario.has_window and random.Random(f"closes {scenario.seed}").random() < 0.5:
        scenario.closes_after_s = rng.uniform(2.0, 4.0)
        scenario.steers.insert(0, Steer("closing", after_s=0.0, for_s=rng.uniform(0.3, 1.5)))
    if scenario.steers:  # long enough to be steered
        scenario.job["limits"]["requests_per_second"] = rng.choice([30, 60])


def _rollout(rng: random.Random, count: int) -> dict[str, Any]:
    canary = rng.choice([0, 1, 3, 10])
    waves = rng.choice(
        [[], ["10%"], ["5%", "50%"], [max(canary + 1, count // 2)], ["0.5%", "30%", "80%"]]
    )
    names = [*(["canary"] if canary else []), *map(str, waves)]
    drawn = {
        "canary": canary,
        "spread_by": rng.choice(["", "site"]) if canary else "",
        "waves": waves,
        "order": rng.choice([[], ["-risk"], ["site", "risk"]]),
        "between": rng.choice(["", "0.3s", "1s"]),
        "confirm": rng.choice([[], ["all"], rng.sample(names, min(1, len(names)))]),
    }
    return {name: value for name, value in drawn.items() if value}


def _abort(scenario: Scenario, rng: random.Random) -> dict[str, Any]:
    canary = scenario.job.get("rollout", {}).get("canary")
    code = rng.choice(CODES[scenario.job["provider"]])
    limits: dict[str, Any] = {
        "failed": rng.choice(["10% of 20", "30% of 50", "2% of 500", 2, 10]),
        "unknown": rng.choice(["5% of 40", "0.5% of 1000", 0, 3]),
        code: rng.choice([0, 2]),
        **({"canary": rng.choice([0, 2])} if canary else {}),
    }
    return {name: limits[name] for name in rng.sample(list(limits), rng.choice([1, 2]))}


def _protect(scenario: Scenario, rng: random.Random) -> None:
    header, rows = scenario.targets
    section: dict[str, Any] = {}
    if "select" not in scenario.job:
        section["max_operations"] = len(rows)
    if len(rows) > 10 and rng.random() < 0.6:
        section["never"] = "never.csv"
        columns = header.count(",") - 1  # without site and risk
        names = ",".join(header.split(",")[:columns])
        scenario.never = (names, [row[:columns] for row in rng.sample(rows, 3)])
    if section:
        scenario.job["protect"] = section


def _steers(scenario: Scenario, rng: random.Random) -> list[Steer]:
    kinds = ["pause", "PAUSE", "rate", "stop", "pause", "rate"]
    kinds += ["window", "window"] * scenario.has_window
    kinds += ["check hold", "check hold", "check abort"] * ("check" in scenario.job)
    return [
        Steer(
            what,
            after_s=rng.uniform(0.1, 1.5),
            for_s=rng.uniform(2.0, 4.0) if what == "rate" else rng.uniform(0.3, 1.5),
            value=rng.choice([5, 10, 20]) if what == "rate" else 0,
        )
        for what in rng.sample(kinds, rng.choice([0, 1, 3, 5]))
    ]


# ---- who looks at it. Half of the scenarios have nobody.


def _onlookers(scenario: Scenario) -> None:
    rng = random.Random(f"seen {scenario.seed}")  # its own, so that all else stays what it was
    if rng.random() < 0.5:
        return
    scenario.notify = rng.choice(["", "fast", "slow", "failing", "hanging"])
    scenario.scraped = rng.random() < 0.5
    scenario.watched = rng.random() < 0.5
    scenario.documented = rng.random() < 0.5


# ---- how many hosts there are. One seed in eight has several.

BLOWS = {
    "kill -9": (0, 0),
    "SIGTERM": (0, 0),
    "SIGSTOP": (0.2, 12),
    "store crash": (0, 3),
    "store silent": (0.5, 5),
    "answer lost": (0, 0),
    "commit lost": (0, 0),
}
"""What may be done to them, and for how many seconds it lasts."""


def _hosts(scenario: Scenario) -> None:
    rng = random.Random(f"hosts {scenario.seed}")  # its own, so that all else stays what it was
    if rng.random() >= SHARED:
        return
    scenario.hosts = rng.choice([2, 2, 3])
    scenario.ends = []
    scenario.blows = [
        Blow(
            how,
            rng.randrange(1, 2 + len(scenario.targets[1]) // 2),
            rng.randrange(3),
            rng.uniform(*BLOWS[how]),
        )
        for how in rng.choices(list(BLOWS), k=rng.choice([1, 2, 4]))
    ]
    scenario.has_window, scenario.closes_after_s = False, None
    scenario.impatient, scenario.verified = 0.0, False
    scenario.notify, scenario.scraped, scenario.watched = "", False, False
    scenario.documented = False
    scenario.job["limits"]["requests_per_second"] = rng.choice([30, 60])
    known = {"pause", "rate", "stop"}
    scenario.steers = [steer for steer in scenario.steers if steer.what in known]


def _behaviour(rng: random.Random, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "latency": rng.choice([0.0, 0.005, 0.05, 0.3]),
        "latency_spread": rng.choice([0.0, 0.1]),
        "cut_style": rng.choice(["close", "reset"]),
        "keep_alive_requests": rng.choice([0, 0, 5]),
        "clock_window": rng.choice([0, 60]),
        "auth_error": rng.choice(["status", "code", "kong"]),
        "token_life": rng.choice([7200, 3]),
        "retry_after": rng.choice([0, 1]),
        "slow_first_byte_by": 3.0,  # longer than the time-out
        "byte_interval": 0.0005,
        **rng.choice([{}, {}, {}, {"outage_after": 30, "outage_for": 3}]),
    }


def _oddities(scenario: Scenario) -> dict[str, Any]:
    """What no vendor documents and some have done. Half of the scenarios have none."""
    rng = random.Random(f"odd {scenario.seed}")  # its own, so that all else stays what it was
    if rng.random() < 0.5:
        return {}
    faults = dict.fromkeys(rng.sample(ODD_FAULTS, rng.choice([0, 1, 3])), 0.02)
    for name in {"overload_retry_after", "throttle"} & faults.keys():
        faults[name] = MOST_THROTTLED
    forms = {
        "retry_after_form": rng.choice(["seconds", "date"]),
        "list_dates": rng.choice(["number", "text"]),
        "list_authority": rng.choice([True, False]),
        "mq_gateway_xml": rng.choice([False, True]),
        "bom": rng.choice([False, True]),
        "ca_clock_behind": rng.choice([0, 200, 1000]),
        "cache_for": rng.choice([0, 0, 2]),
    }
    if "list_cert" in scenario.behaviour:
        forms["ca_cert"] = rng.choice([True, False])
        forms["list_cert"] = rng.choice([scenario.behaviour["list_cert"], "base64"])
    # a selection fails where it can't judge an item, and a list shows it
    if "select" not in scenario.job and not scenario.job["action"].startswith(("list", "get")):
        forms["odd_items"] = rng.choice([False, True])
    return faults | forms


def _faults(rng: random.Random, names: Sequence[str]) -> dict[str, float]:
    chosen = rng.sample(names, rng.choice([0, 2, 4, 8]))
    total = rng.choice([0.05, 0.2, 0.35])
    faults = {name: round(total / len(chosen), 4) for name in chosen}
    if "throttle_retry_after" in faults:
        faults["throttle_retry_after"] = MOST_THROTTLED  # each one slows the whole run down
    return faults
