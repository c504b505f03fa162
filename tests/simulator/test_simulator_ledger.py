"""The ledger has every request once, in order and with its exact time; limits count exactly."""

from __future__ import annotations

import asyncio
import errno
import itertools
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendor_clients import serving, until

from bulkcert.simulator import Behaviour
from bulkcert.simulator.clock import Clock
from bulkcert.simulator.ledger import Ledger, LedgerError
from bulkcert.simulator.window import BusiestSecond, FixedWindow, SlidingWindow, TokenBucket

SECOND = 1_000_000
arrivals = st.lists(st.integers(0, 4 * SECOND), max_size=60).map(sorted)


def most_in_a_second(times: list[int]) -> int:
    """The most arrivals in a second, by counting the second after each arrival."""
    return max((sum(start <= at < start + SECOND for at in times) for start in times), default=0)


class TestWindows:
    @given(arrivals)
    def test_the_busiest_second_is_exact(self, times: list[int]) -> None:
        busiest = BusiestSecond()
        for at in times:
            busiest.add(at)
        assert busiest.count == most_in_a_second(times)

    @given(arrivals, st.integers(1, 20))
    def test_a_sliding_window_admits_exactly_its_limit(self, times: list[int], limit: int) -> None:
        window = SlidingWindow(limit)
        admitted: list[int] = []
        for at in times:
            in_window = sum(at - SECOND < earlier <= at for earlier in admitted)
            assert window.admits(at) is (in_window < limit)
            if in_window < limit:
                admitted.append(at)
        assert most_in_a_second(admitted) <= limit

    def test_refused_arrivals_can_count(self) -> None:
        window = SlidingWindow(1, counts_refused=True)
        assert [window.admits(at) for at in (0, SECOND // 2, SECOND, 2 * SECOND)] == [
            *(True, False, False, True)
        ]

    @given(arrivals, st.integers(1, 20))
    def test_a_fixed_window_starts_with_each_second(self, times: list[int], limit: int) -> None:
        window = FixedWindow(limit)
        admitted = [at for at in times if window.admits(at)]
        for _, group in itertools.groupby(admitted, key=lambda at: at // SECOND):
            assert len(list(group)) <= limit

    @given(arrivals, st.integers(1, 20))
    def test_a_bucket_admits_at_most_its_content_plus_its_rate(
        self, times: list[int], limit: int
    ) -> None:
        bucket = TokenBucket(limit)
        admitted = [at for at in times if bucket.admits(at)]
        assert most_in_a_second(admitted) <= 2 * limit
        assert len(admitted) >= min(limit, len(times))

    def test_a_limit_of_0_admits_everything(self) -> None:
        for window in (SlidingWindow(0), FixedWindow(0), TokenBucket(0)):
            assert all(window.admits(0) for _ in range(1000))


def test_the_clock_never_goes_back() -> None:
    clock = Clock()
    times = [clock.now_us() for _ in range(1000)]
    assert times == sorted(times)


@pytest.mark.system
async def test_every_request_is_in_the_ledger_once() -> None:
    async with serving(Behaviour(limit=0, latency_spread=0.02)) as client:
        await client.listed("other")
        await asyncio.gather(*(client.revoke(n, f"A{n}") for n in range(1, 201)))
        entries = client.simulator.ledger
        summary = client.simulator.summary()
    entries.sort(key=lambda entry: entry["n"])
    assert [entry["n"] for entry in entries] == list(range(1, 203))
    times = [round(entry["at"] * SECOND) for entry in entries]
    assert times == sorted(times)
    assert {entry["device"] for entry in entries if entry["action"] == "revoke"} == {
        f"assetId=A{n}" for n in range(1, 201)
    }
    assert all(entry["device"] == f"assetId=A{entry['certSn']}" for entry in entries[2:])
    assert all(entry["executed"] for entry in entries[2:])
    assert all(entry["answered_at"] >= entry["at"] for entry in entries)
    assert summary["busiest_second"] == most_in_a_second(times)
    assert summary["busiest_second_of"] == {"127.0.0.1": summary["busiest_second"]}
    assert summary["codes"] == {"token.get": {"0": 1}, "list": {"0": 1}, "revoke": {"0": 200}}
    assert summary["executed"] == {"revoke": 200}
    assert (summary["requests"], summary["open"]) == (202, 0)
    assert summary["first_at"] == entries[0]["at"]
    assert summary["last_at"] == entries[-1]["at"]
    assert summary["connections"]["accepted"] > 1


@pytest.mark.system
async def test_a_line_has_every_documented_field() -> None:
    async with serving() as client:
        await client.revoke(52739)
        line = orjson.loads((await client.send("GET", "/_simulator/ledger?after=1")).body)
    assert {name: value for name, value in line.items() if not name.endswith("at")} == {
        "n": 2,
        "source": "127.0.0.1",
        "provider": "enos",
        "action": "revoke",
        "scope": "o1",
        "device": "assetId=A1",
        "certSn": 52739,
        "executed": True,
        "effect": "revoked",
        "code": 0,
        "status": 200,
        "fault": None,
        "issued": None,
    }
    assert list(line)[:2] == ["n", "at"]


@pytest.mark.system
@pytest.mark.parametrize("in_file", [False, True])
async def test_the_ledger_is_served_while_it_grows(tmp_path: Path, in_file: bool) -> None:
    path = tmp_path / "ledger.jsonl"
    async with serving(Behaviour(limit=0), ledger=path if in_file else None) as client:

        async def served(after: int) -> list[int]:
            response = await client.send("GET", f"/_simulator/ledger?after={after}")
            return [orjson.loads(line)["n"] for line in response.body.splitlines()]

        assert await served(0) == []
        for _ in range(3):
            await client.token_call()
        assert await served(0) == [1, 2, 3]
        assert await served(2) == [3]
        assert await served(3) == await served(99) == []
        await asyncio.gather(*(client.token_call() for _ in range(1500)))
        assert sorted(await served(0)) == list(range(1, 1504))
        assert len(await served(1030)) == 473
        assert [entry["n"] for entry in client.simulator.ledger] == await served(0)
        assert (await client.send("GET", "/_simulator/ledger?after=x")).status == 400
        assert (
            client.simulator.summary()["requests"] == 1503
        )  # requests about the simulator itself do not count
    if in_file:
        lines = path.read_bytes().splitlines()
        assert sorted(orjson.loads(line)["n"] for line in lines) == list(range(1, 1504))
    assert len(client.simulator.ledger) == 1503


@pytest.mark.system
async def test_summary_and_device_pages() -> None:
    async with serving() as client:
        await client.revoke(5)
        await client.mq()
        summary = (await client.send("GET", "/_simulator/summary")).json
        assert summary["executed"] == {"revoke": 1, "InactivateDeviceCertificate": 1}
        state = await client.send("GET", "/_simulator/device?assetId=A1")
        assert state.json == [{"cert_sn": 5, "status": "revoked", "reason": 1, "pem": None}]
        state = await client.send("GET", "/_simulator/device?CaSn=007&DeviceSn=0042")
        assert state.json[0]["status"] == "inactive"
        assert (await client.send("GET", "/_simulator/device?assetId=A9")).json == []
        assert (await client.send("GET", "/_simulator/nothing")).status == 404


@pytest.mark.system
async def test_the_limit_is_exact() -> None:
    async with serving(Behaviour(limit=50)) as client:
        await client.listed("other")
        responses = await asyncio.gather(*(client.revoke(n, f"A{n}") for n in range(1, 101)))
        entries = sorted(client.simulator.ledger, key=lambda entry: entry["n"])
    times = [round(entry["at"] * SECOND) for entry in entries]
    window = SlidingWindow(50)
    assert [entry["code"] != 429 for entry in entries] == [window.admits(at) for at in times]
    refused = [response for response in responses if response.status == 429]
    assert refused
    assert refused[0].json == {"message": "API rate limit exceeded"}
    assert sum(entry["executed"] for entry in entries) == 100 - len(refused)
    assert all(not entry["executed"] for entry in entries if entry["code"] == 429)


@pytest.mark.system
@pytest.mark.parametrize("headers", ["none", "x-ratelimit", "retry-after"])
async def test_headers_of_requests_over_the_limit(headers: str) -> None:
    behaviour = Behaviour(limit=1, limit_headers=headers, retry_after=7)
    async with serving(behaviour) as client:
        await client.token_call()
        response = await client.token_call()
    assert response.status == 429
    assert response.headers.get("X-RateLimit-Remaining-Second") == (
        None if headers == "none" else "0"
    )
    assert response.headers.get("Retry-After") == ("7" if headers == "retry-after" else None)


@pytest.mark.system
async def test_a_connection_closes_after_its_last_request() -> None:
    async with serving(Behaviour(keep_alive_requests=2)) as client:
        closing = [(await client.token_call()).headers.get("Connection") for _ in range(4)]
        assert closing == [None, "close", None, "close"]
        assert client.simulator.summary()["connections"]["accepted"] == 2


@pytest.mark.system
async def test_a_call_is_executed_though_the_client_left() -> None:
    async with serving(Behaviour(latency=0.05)) as client:
        client.token = (await client.token_call()).json["data"]["accessToken"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.revoke(), 0.01)
        await until(lambda: not client.simulator.summary()["open"])
        entry = client.simulator.ledger[-1]
    assert (entry["executed"], entry["code"]) == (True, 0)
    assert (entry["status"], entry["answered_at"], entry["fault"]) == (None, None, None)


@pytest.mark.system
async def test_a_request_still_open_at_the_end_is_in_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    async with serving(Behaviour(faults_on="revoke", slow_first_byte=1.0), ledger=path) as client:
        await client.listed("other")
        waiting = asyncio.create_task(client.revoke())
        await until(lambda: client.simulator.certificates("assetId=A1"))
    await asyncio.gather(waiting, return_exceptions=True)
    entry = orjson.loads(path.read_bytes().splitlines()[-1])
    assert (entry["action"], entry["executed"], entry["status"]) == ("revoke", True, None)
    assert (entry["code"], entry["fault"]) == (0, "slow_first_byte")


async def test_a_cancelled_write_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.open()
    for n in range(1, 51):
        ledger.end(ledger.arrive(n, "127.0.0.1"))
        writing = asyncio.create_task(ledger.flush())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await ledger.close()
    lines = path.read_bytes().splitlines()
    assert [orjson.loads(line)["n"] for line in lines] == list(range(1, 51))


async def test_a_ledger_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.open()
    ledger.end(ledger.arrive(0, "127.0.0.1"))
    with monkeypatch.context() as patch:
        patch.setattr("bulkcert.simulator.ledger.os.write", write)
        with pytest.raises(LedgerError, match="No space left"):
            await ledger.flush()
    await ledger.close()  # the line was kept, and can be written now
    assert len(path.read_bytes().splitlines()) == len(ledger.entries()) == 1


def test_it_listens_on_loopback_only() -> None:
    from bulkcert.simulator import Simulator

    with pytest.raises(ValueError, match="not a loopback address"):
        Simulator(host="192.0.2.1")
