"""A made-up campaign that kept its rules, for the tests of the history checkers.

It is made up event by event, so that nothing is started: paused in its second wave, aborted in its
third, slowed down in its last. A test changes something in it, as a bug in the engine could, and
the checker must name that.
"""

from __future__ import annotations

from typing import Any

from campaign_history import Go, Quiet, Rate, Steering, check
from history import Circumstances, Entry, History

BEGUN = 1_000_000.0
TARGETS = 40
IN_FLIGHT = 4
TAKES_S = 0.2
EVERY_S = 0.05
BETWEEN_S = 2.0
WAVES = [("canary", 4), ("25%", 6), ("20", 10), ("rest", 20)]
FAILED = {13, 15, 17}
"""Operations that the provider refuses. The third one trips `abort.failed`."""


class Campaign:
    """A campaign that kept its rules: paused in its second wave, aborted in its third, slowed down
    in its last."""

    def __init__(self) -> None:
        job = {
            "provider": "enos",
            "action": "revoke",
            "limits": {"requests_per_second": 20, "in_flight": IN_FLIGHT},
            "rollout": {
                "canary": 4,
                "waves": ["25%", 20],
                "between": f"{BETWEEN_S:.0f}s",
                "confirm": ["canary", "20"],
            },
            "abort": {"failed": "20% of 10", "99500": 5},
            "protect": {"never": "never.csv", "max_operations": TARGETS},
        }
        self.at = BEGUN
        self.history = History(
            job=job,
            targets=[],
            ledger=[],
            operations=[],
            sessions=[],
            events=[],
            results=None,
            summary=None,
            files={},
            never=[{"assetId": "B*"}, {"assetId": "A0001", "certSn": "7"}],
        )
        self.pause = self.rate = Quiet("", 0)
        self.goes: list[Go] = []
        self._waves()
        self.history.tables["controls"] = [
            {"id": number, "verb": verb, "value": value, "at": at, "who": "ann@ops1", "why": ""}
            for number, (verb, value, at) in enumerate(
                [
                    ("go", "canary", self.goes[0].at),
                    ("pause", "", self.pause.begin),
                    ("resume", "", self.pause.end),
                    ("go", "20", self.goes[1].at),
                    ("rate", "8", self.rate.begin),
                ],
                1,
            )
        ]

    @property
    def steering(self) -> Steering:
        return Steering(
            quiet=[self.pause],
            rates=[Rate(8, self.rate.begin, self.rate.end)],
            goes=self.goes,
            controls=[("pause", ""), ("rate", "8")],
        )

    def violations(self, **circumstances: Any) -> list[str]:
        return check(self.history, Circumstances(**circumstances), self.steering)

    def _waves(self) -> None:
        number = 0
        for wave, (name, size) in enumerate(WAVES):
            self.history.tables["waves"].append({"number": wave, "name": name, "targets": size})
            for _ in range(size):
                number += 1
                self._operation(number, wave)
                if number == 7:
                    self.at += 1.0
                    self.pause = Quiet("paused", self.at, self.at + 5.0)
                    self.at += 6.0
                elif number == 17:
                    self._abort("failed", number)
            self.at += TAKES_S
            if name in {"canary", "20"}:
                self.at += 1.0
                self.goes.append(Go(name, self.at))
            self.at += BETWEEN_S + 0.1
            if name == "20":
                self.rate = Quiet("", self.at, self.at + 4.0)

    def _operation(self, number: int, wave: int) -> None:
        """Attempt it; the fifth of each ten also has a look-up."""
        self.at += EVERY_S if not self.rate.begin else 0.125
        failed = number in FAILED
        code = 99403 if failed else 0
        device = f"assetId=A{number:04}"
        operation = {
            "id": number,
            "line": number + 1,
            "fields": {"assetId": f"A{number:04}", "certSn": number},
            "wave": wave,
            "state": "failed" if failed else "succeeded",
            "code": code,
            "attempts": 1,
            "finished_at": self.at + TAKES_S,
        }
        self.history.operations.append(operation)
        for event in ["look_up", "attempt"] if number % 10 == 5 else ["attempt"]:
            self.send(number, event, self.at, code)
            if event == "look_up":
                self.at += EVERY_S if not self.rate.begin else 0.125
                operation["finished_at"] = self.at + TAKES_S
        settled = {"operation": number, "state": operation["state"], "code": code, "wave": wave}
        self.history.tables["settled"].append({"id": number, **settled})
        assert self.history.ledger[-1]["device"] == device

    def send(self, number: int, event: str, at: float, code: int = 0) -> None:
        """Add a request to both records."""
        self.history.events.append(
            {
                "operation": number,
                "event": event,
                "attempt": 1,
                "sent_at": at,
                "ended_at": at + TAKES_S,
                "code": code,
            }
        )
        self.history.ledger.append(
            {
                "n": len(self.history.ledger) + 1,
                "at": at + 0.001,
                "action": "revoke" if event == "attempt" else "list",
                "device": f"assetId=A{number:04}",
                "certSn": number if event == "attempt" else None,
                "executed": False,
                "code": code,
            }
        )

    def sort(self) -> None:
        """Number the requests by their arrival."""
        self.history.ledger.sort(key=lambda entry: float(entry["at"]))
        for number, entry in enumerate(self.history.ledger, 1):
            entry["n"] = number

    def _abort(self, rule: str, number: int) -> None:
        at = self.at + TAKES_S + 0.05
        self.at += 5.0
        self.history.tables["aborts"].append(
            {
                "number": 1,
                "id": "k7pf",
                "at": at,
                "rule": rule,
                "text": "",
                "settled": number,
                "overridden_at": self.at,
            }
        )

    # ---- for mutations

    def operation(self, number: int) -> Entry:
        return self.history.operations[number - 1]

    def first_of(self, wave: int) -> Entry:
        return next(o for o in self.history.operations if o["wave"] == wave)

    def move(self, number: int, to: float) -> None:
        """Let the requests of an operation leave and arrive at another time."""
        by_s = to - next(e["sent_at"] for e in self.history.events if e["operation"] == number)
        for event in self.history.events:
            if event["operation"] == number:
                event["sent_at"] += by_s
                event["ended_at"] += by_s
        for entry in self.history.ledger:
            if entry["device"] == f"assetId=A{number:04}":
                entry["at"] += by_s
        self.operation(number)["finished_at"] += by_s
        self.sort()

    @property
    def abort(self) -> Entry:
        return self.history.tables["aborts"][0]
