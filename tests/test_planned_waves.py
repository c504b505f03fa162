"""The order and the waves of a plan, as `[rollout]` wants them."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_folder import toml, write_csv
from stores import manifest

from bulkcert import load_job
from bulkcert.errors import TargetsError, TargetsRejectedError
from bulkcert.job import Job
from bulkcert.model import Change, State, Target
from bulkcert.plan import Plan, build
from bulkcert.rules.ordering import Kind
from bulkcert.rules.rollout import CANARY, OrderKey, Rollout, Size, size, waves
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import WaveOfRun
from bulkcert.store.sqlite import SqlitePlan, SqliteReader, SqliteStore
from bulkcert.store.sqlite.rollout import Breakdown
from bulkcert.targets import TargetFile


class Planner:
    """Plans a job with a rollout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = RunDirectory(folder / "run")
        self.directory.path.mkdir()

    def job(self, targets: str, **sections: Mapping[str, Any]) -> Job:
        document = {
            "provider": "enos",
            "action": "revoke",
            "targets": targets,
            "connection": {"endpoint": "https://example.com", "org_id": "o1"},
        }
        (self.folder / "job.toml").write_text(toml(document | sections))
        return load_job(self.folder / "job.toml")

    def plan(
        self,
        header: str,
        rows: Sequence[Sequence[object]],
        *,
        columns: Mapping[str, str] | None = None,
        **rollout: Any,
    ) -> Plan:
        write_csv(self.folder / "fleet.csv", rows, header)
        more = {"columns": columns} if columns else {}
        job = self.job("fleet.csv", rollout=rollout, **more)
        return build(job, TargetFile.of(job), self.directory.checkpoint, self.directory)

    def plan_objects(self, objects: Sequence[Mapping[str, Any]], **rollout: Any) -> Plan:
        lines = "".join(json.dumps(each) + "\n" for each in objects)
        (self.folder / "fleet.jsonl").write_text(lines)
        job = self.job("fleet.jsonl", rollout=rollout)
        return build(job, TargetFile.of(job), self.directory.checkpoint, self.directory)

    @property
    def claimed(self) -> list[str]:
        """The devices in the order in which they are claimed, wave by wave."""
        names = []
        with closing(SqliteStore(self.directory.checkpoint)) as store:
            for wave in store.waves():
                with store.transaction():
                    found = store.claim(10_000, wave=wave.number)
                names += [str(operation.fields["assetId"]) for operation in found]
        return names


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return Planner(tmp_path)


RISKS = [("A", 1, "9"), ("B", 2, ""), ("C", 3, "10"), ("D", 4, "9.0"), ("E", 5, "-1")]


def test_numbers_are_ordered_as_numbers_and_what_is_empty_comes_last(planner: Planner) -> None:
    planner.plan("assetId,certSn,risk", RISKS, order=["risk"])
    assert planner.claimed == ["E", "A", "D", "C", "B"]
    planner.directory.remove_run()
    planner.plan("assetId,certSn,risk", RISKS, order=["-risk"])
    assert planner.claimed == ["C", "A", "D", "E", "B"]


def test_dates_are_ordered_as_moments(planner: Planner) -> None:
    rows = [
        ("A", 1, "2026-11-26T10:00:00Z"),
        ("B", 2, "2026-11-26T10:00:00+08:00"),
        ("C", 3, "2026-11-26"),
        ("D", 4, "  "),
    ]
    planner.plan("assetId,certSn,expires", rows, order=["expires"])
    assert planner.claimed == ["C", "B", "A", "D"]


def test_one_odd_value_makes_a_column_text_and_says_so(planner: Planner) -> None:
    rows = [("A", 1, "9"), ("B", 2, "10"), ("C", 3, "n/a"), ("D", 4, "")]
    plan = planner.plan("assetId,certSn,risk", rows, order=["-risk"])
    assert planner.claimed == ["C", "A", "B", "D"]
    assert plan.warnings == (
        "The column risk is ordered as text, not as numbers: line 4 has 'n/a'.",
    )


def test_a_later_column_decides_where_an_earlier_one_does_not(planner: Planner) -> None:
    rows = [("A", 1, "x", "2"), ("B", 2, "y", "1"), ("C", 3, "x", "1"), ("D", 4, "x", "2")]
    planner.plan("assetId,certSn,site,risk", rows, order=["-site", "risk"])
    assert planner.claimed == ["B", "C", "A", "D"]


def test_a_column_may_be_one_that_the_job_uses_or_a_run_writes(planner: Planner) -> None:
    rows = [("A", 30), ("B", 20), ("C", 10)]
    planner.plan("Asset,certSn", rows, columns={"assetId": "Asset"}, order=["certSn"])
    assert planner.claimed == ["C", "B", "A"]
    planner.directory.remove_run()
    for name in ("Asset", "assetId"):
        planner.plan("Asset,certSn", rows, columns={"assetId": "Asset"}, order=[f"-{name}"])
        assert planner.claimed == ["C", "B", "A"]
        planner.directory.remove_run()
    header = "line,assetId,certSn,outcome,finished_at"
    of_a_run = [(2, "A", 1, "succeeded", "2026-11-26"), (3, "B", 2, "succeeded", "2026-11-25")]
    planner.plan(header, of_a_run, order=["finished_at"])
    assert planner.claimed == ["B", "A"]


def test_keys_of_json_lines_are_columns_too(planner: Planner) -> None:
    objects = [
        {"assetId": "A", "certSn": 1, "risk": 10},
        {"assetId": "B", "certSn": 2, "risk": None},
        {"assetId": "C", "certSn": 3, "risk": 9.5},
        {"assetId": "D", "certSn": 4},
    ]
    planner.plan_objects(objects, order=["risk"])
    assert planner.claimed == ["C", "A", "B", "D"]


@pytest.mark.parametrize("key", ["order", "spread_by"])
def test_a_column_that_is_not_there_is_refused(planner: Planner, key: str) -> None:
    rollout = {"order": ["-rist"]} if key == "order" else {"canary": 1, "spread_by": "rist"}
    with pytest.raises(TargetsError) as caught:
        planner.plan("assetId,certSn,risk", RISKS, **rollout)
    line = (planner.folder / "job.toml").read_text().splitlines()
    number = next(n for n, text in enumerate(line, 1) if text.startswith(f'"{key}"'))
    assert caught.value.problem == (
        f"{planner.folder / 'job.toml'}:{number}: rollout.{key} names the column 'rist',"
        f" which is not in the header, line 1 of {planner.folder / 'fleet.csv'}"
    )
    assert caught.value.next_step.endswith("Did you mean 'risk'?")
    with pytest.raises(
        TargetsError, match=f"{key} names the column 'rist', which is on no line of"
    ):
        planner.plan_objects([{"assetId": "A", "certSn": 1}], **rollout)
    assert not planner.directory.checkpoint.exists()


def test_bad_rows_are_reported_before_a_key_that_no_good_row_could_have(planner: Planner) -> None:
    with pytest.raises(TargetsRejectedError):
        planner.plan_objects([{"assetId": "A", "certSn": "-", "risk": 1}], order=["risk"])


def test_repeated_rows_are_found_by_file_order_whatever_the_rollout(planner: Planner) -> None:
    rows = [("A", 1, 1), ("B", 2, 5), ("A", 1, 9), ("C", 3, 7)]
    plan = planner.plan("assetId,certSn,risk", rows, order=["-risk"], waves=["50%"])
    assert [(row.line, row.reason) for row in plan.repeated] == [
        (4, "the same operation as line 2; it is done once")
    ]
    assert planner.claimed == ["C", "B", "A"]
    assert [(wave.name, wave.targets) for wave in plan.waves] == [("50%", 1), ("rest", 2)]
    assert plan.sample.fields["assetId"] == "C"


def test_the_waves_of_a_plan(planner: Planner) -> None:
    rows = [(f"A{n}", n + 1, n % 3, f"P{n % 2}") for n in range(40)]
    plan = planner.plan(
        "assetId,certSn,risk,site",
        rows,
        order=["-risk"],
        canary=4,
        spread_by="site",
        waves=["5%", "50%"],
    )
    assert [(wave.name, wave.targets) for wave in plan.waves] == [
        *((CANARY, 4), ("50%", 16), ("rest", 20))
    ]
    first = plan.waves[0]
    assert (first.first.line, first.first.fields["assetId"]) == (4, "A2")
    assert first.last.line == 13
    assert planner.claimed[:6] == ["A2", "A5", "A8", "A11", "A14", "A17"]
    assert plan.warnings == ("The wave 5% is dropped: canary is as large.",)
    with closing(SqliteReader(planner.directory.checkpoint)) as reader:
        assert reader.waves() == [
            WaveOfRun(0, CANARY, 4),
            WaveOfRun(1, "50%", 16),
            WaveOfRun(2, "rest", 20),
        ]
        assert [record.line for record in reader.records()] == list(range(2, 42))


def test_the_breakdown_of_a_plan(planner: Planner) -> None:
    rows = [(f"A{n}", n + 1, n, f"P{n % 25}" if n else "", "x") for n in range(60)]
    plan = planner.plan(
        "assetId,certSn,risk,site,note", rows, order=["-risk", "certSn"], canary=2, spread_by="site"
    )
    assert plan.unused_columns == ("note",)
    site, risk, serial = plan.breakdown
    assert (site.column, site.kind, site.empty) == ("site", Kind.TEXT, 1)
    assert len(site.values) == 20
    assert site.values[0] == ("P1", 3)
    assert (site.other_values, site.other_targets) == (5, 60 - 1 - sum(n for _, n in site.values))
    assert risk == Breakdown("risk", Kind.NUMBERS, (), 60, 60, 0, "0", "59")
    assert serial.highest == "60"
    assert plan.warnings == (
        "The canary is 2 targets, but site has 26 different values: it can't contain one of each.",
    )


def test_few_numbers_are_counted_one_by_one(planner: Planner) -> None:
    [risk] = planner.plan("assetId,certSn,risk", RISKS, order=["risk"]).breakdown
    assert risk.values == (("-1", 1), ("10", 1), ("9", 1), ("9.0", 1))
    assert (risk.lowest, risk.highest, risk.empty, risk.other_values) == ("-1", "10", 1, 0)


def test_without_a_rollout_nothing_is_reordered_and_there_is_no_index(tmp_path: Path) -> None:
    planned(tmp_path / "store", [("b", ""), ("a", "")], None)
    with closing(sqlite3.connect(tmp_path / "store")) as db:
        assert db.execute("SELECT id, wave FROM operations").fetchall() == [(1, 0), (2, 0)]
        assert db.execute("SELECT count(*) FROM waves").fetchone() == (0,)
        assert db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'open%'").fetchall() == []


def test_the_next_operations_of_a_wave_are_found_by_the_index(tmp_path: Path) -> None:
    planned(tmp_path / "store", [("b", ""), ("a", "")], Rollout(sizes=(size(1),)))
    seen = []
    with closing(SqliteStore(tmp_path / "store")) as store, store.transaction():
        store._db.set_trace_callback(seen.append)
        store.claim(10, wave=1)
        store._db.set_trace_callback(None)
        [query] = [text for text in seen if "json_group_array" in text]
        plan = [row[3] for row in store._db.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert any("USING INDEX open_operations (wave=? AND id>?)" in step for step in plan)


def test_what_is_added_to_a_target_belongs_to_its_wave_and_its_place(tmp_path: Path) -> None:
    rollout = Rollout(order=(OrderKey("risk", True),), sizes=(size(1),))
    planned(tmp_path / "store", [("1", ""), ("2", "")], rollout)
    with closing(SqliteStore(tmp_path / "store")) as store, store.transaction():
        [operation] = store.claim(9, wave=0)
        found = [{"assetId": "1", "certSn": serial} for serial in (1, 2)]
        store.record([Change(operation.id, State.IN_FLIGHT, State.PLANNED, 1, fan_out=found)])
        assert [each.line for each in store.claim(9, wave=0)] == [operation.line]
    with closing(SqliteReader(tmp_path / "store")) as reader:
        assert [record.line for record in reader.records()] == [2, 3, 3]


def planned(path: Path, values: Sequence[tuple[str, str]], rollout: Rollout | None) -> None:
    """Plan targets with these values of risk and site, on lines 2, 3, ..."""
    plan = SqlitePlan(path, rollout)
    names = {"risk": 0, "site": 1}
    columns = rollout.columns if rollout else {}
    for number, target in enumerate(values):
        chosen = [target[names[name]] for name in columns]
        plan.add(Target(number + 2, {"assetId": str(number)}), number, None, chosen)
    plan.roll_out()
    plan.finish(manifest(adds_operations=False))


RISK = st.one_of(st.integers(-3, 3).map(str), st.sampled_from(["", "2.5", "-0.5"]))
SITE = st.sampled_from(["", "P1", "P2", "P3"])
SIZES = st.one_of(st.integers(1, 30), st.integers(1, 100).map("{}%".format)).map(size)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(RISK, SITE), min_size=1, max_size=40),
    st.lists(SIZES, max_size=3),
    st.integers(0, 12),
    st.booleans(),
    st.booleans(),
)
def test_every_target_has_its_place_and_its_wave(
    values: list[tuple[str, str]], sizes: list[Size], canary: int, descending: bool, spread: bool
) -> None:
    rollout = Rollout(
        order=(OrderKey("risk", descending),),
        canary=canary,
        spread_by="site" if spread else "",
        sizes=(*[Size(CANARY, targets=canary)] * bool(canary), *sizes),
    )
    with tempfile.TemporaryDirectory() as folder:
        planned(Path(folder) / "store", values, rollout)
        with closing(sqlite3.connect(Path(folder) / "store")) as db:
            rows = db.execute("SELECT id, line - 2, wave FROM operations ORDER BY id").fetchall()
    ranked = sorted(
        range(len(values)),
        key=lambda n: (not values[n][0], float(values[n][0] or 0) * (-1 if descending else 1)),
    )
    places = [target for _, target, _ in rows]
    assert [place for place, _, _ in rows] == list(range(1, len(values) + 1))
    first, rest = set(places[:canary]), set(places[canary:])
    assert places == [n for n in ranked if n in first] + [n for n in ranked if n in rest]
    divided, _ = waves(len(values), rollout.sizes)
    by_wave = Counter(wave for _, _, wave in rows)
    assert [by_wave[n] for n in range(len(by_wave))] == [wave.targets for wave in divided]
    assert [wave for _, _, wave in rows] == sorted(wave for _, _, wave in rows)
    if spread:
        _assert_even(values, ranked, first)
    elif canary:
        assert first == set(ranked[:canary])


def _assert_even(values: list[tuple[str, str]], ranked: list[int], canary: set[int]) -> None:
    """The canary has as many of each site as of any other, unless a site has no more."""
    most = max((sum(values[n][1] == site for n in canary) for _, site in values), default=0)
    for site in {site for _, site in values}:
        of_site = [n for n in ranked if values[n][1] == site]
        chosen = [n for n in of_site if n in canary]
        assert len(chosen) >= most - 1 or len(chosen) == len(of_site)
        assert chosen == of_site[: len(chosen)]
