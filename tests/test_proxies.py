"""Through an HTTP proxy or directly, and from which address: what works, and what an error says."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from enos_vendor import ENOS, devices
from harness import in_this_process
from http_proxy import HttpProxy
from raw_server import Authority, Pace, Server, answer, client_of, not_sent
from virtual_time import run_virtually

import bulkcert as library
from bulkcert.cli import main
from bulkcert.errors import JobError
from bulkcert.providers.call import CallKind, CallResult, Response
from bulkcert.providers.transport import Transport
from bulkcert.rehearsal import on_loopback

pytestmark = pytest.mark.system

SECRET = "p%40ss-w0rd"
VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """What was not closed warns when it is collected, and warnings are errors here."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _no_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def with_secret(url: str) -> str:
    return url.replace("://", f"://somebody:{SECRET}@")


# ---- through a proxy


@pytest.mark.parametrize("asks", [False, True], ids=["open", "asks for a password"])
async def test_requests_go_through_the_proxy_encrypted(asks: bool, authority: Authority) -> None:
    """By a name that only the proxy finds."""
    proxy = HttpProxy(credentials="somebody:p@ss-w0rd" if asks else "")
    context = authority.server_context("apim.invalid")
    async with Server(answer, tls=context) as server, proxy.serving() as url:
        url = with_secret(url) if asks else url
        endpoint = f"https://apim.invalid:{server.port}"
        async with client_of(endpoint, ca_file=authority.file, proxy=url) as client:
            for _ in range(3):
                assert isinstance(await client.send(), Response)
        assert proxy.asked == [f"CONNECT apim.invalid:{server.port} HTTP/1.1"]
        assert [heard.headers["Host"] for heard in server.executed] == [
            f"apim.invalid:{server.port}"
        ] * 3
        assert not any("proxy" in name.lower() for name in server.executed[0].headers)


async def test_requests_without_encryption_go_through_the_proxy_too() -> None:
    proxy = HttpProxy(credentials="somebody:p@ss-w0rd")
    async with Server(answer) as server, proxy.serving() as url:
        async with client_of(server.endpoint, proxy=with_secret(url)) as client:
            assert isinstance(await client.send("GET"), Response)
        assert proxy.asked == [f"GET {server.endpoint}/x?a=1 HTTP/1.1"]
        assert len(server.executed) == 1


REFUSALS = {
    "password": (HttpProxy(credentials="other:other"), CallKind.UNUSABLE, "407"),
    "policy": (HttpProxy(refusal="HTTP/1.1 403 Forbidden"), CallKind.NOT_SENT, "403"),
    "far end": (HttpProxy(refusal="HTTP/1.1 502 Bad Gateway"), CallKind.NOT_SENT, "502"),
}


@pytest.mark.parametrize(("proxy", "kind", "said"), REFUSALS.values(), ids=REFUSALS)
async def test_a_proxy_that_refuses_is_named_without_its_password(
    proxy: HttpProxy, kind: CallKind, said: str
) -> None:
    async with (
        proxy.serving() as url,
        client_of("https://apim.invalid", proxy=with_secret(url)) as client,
    ):
        result = await client.send()
        assert isinstance(result, CallResult)
        assert result.kind is kind
        assert result.message.startswith(f"no connection through the proxy {url}: ")
        assert said in result.message
        assert "somebody" not in result.message
        assert client.departures == []


async def test_an_unencrypted_request_that_the_proxy_refuses_was_not_sent() -> None:
    async with Server(answer) as server, HttpProxy(credentials="x:y").serving() as url:
        async with client_of(server.endpoint, proxy=with_secret(url)) as client:
            result = await client.send()
        assert isinstance(result, CallResult)
        assert result.kind is CallKind.UNUSABLE
        assert "407" in result.message
        assert server.executed == []


async def test_a_proxy_that_is_not_there_is_named_without_its_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    async with client_of("https://apim.invalid", proxy=with_secret(url)) as client:
        result = await client.send()
        assert not_sent(result)
        assert f"no connection through the proxy {url}: " in str(result)
        assert "somebody" not in str(result)
        assert "w0rd" not in str(result)


async def test_a_job_runs_through_its_proxy_and_records_no_password(tmp_path: Path) -> None:
    proxy = HttpProxy(credentials="somebody:p@ss-w0rd")
    async with (
        proxy.serving() as url,
        in_this_process(
            tmp_path, ENOS, "revoke", devices(3), connection={"proxy": with_secret(url)}
        ) as job,
    ):
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        assert job.violations() == []
        assert proxy.asked[0].startswith("POST http://127.0.0.1:")
    for file in job.run_dir.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert b"w0rd" not in content
    assert on_loopback(library.load_job(job.job_file)).connection.proxy == ""
    planned = CliRunner().invoke(main, ["plan", str(job.job_file)])
    assert f"  proxy          {url}\n" in planned.output
    assert "w0rd" not in planned.output


def test_a_proxy_that_says_nothing_is_given_up() -> None:
    async def scene() -> None:
        async with (
            HttpProxy(silent=True).serving() as url,
            client_of("https://apim.invalid", proxy=url) as client,
        ):
            began_at = asyncio.get_running_loop().time()
            assert not_sent(await client.send())
            assert 10 < asyncio.get_running_loop().time() - began_at < 60
            assert (client.pace.asked, client.departures) == (0, [])

    run_virtually(scene(), sockets_s=0.005)


# ---- proxy variables of the environment


@pytest.mark.parametrize("name", [*VARIABLES, *map(str.lower, VARIABLES)])
async def test_an_error_beside_a_proxy_variable_says_that_it_is_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"http://user:{SECRET}@proxy.invalid")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with client_of(f"http://127.0.0.1:{port}") as client:
        result = await client.send()
        assert not_sent(result)
        assert (
            f"({name.upper()} is set, but proxy variables of the environment are not used"
            in str(result)
        )
        assert "connection.proxy" in str(result)
        assert SECRET not in str(result)


@pytest.mark.parametrize("empty", [True, False])
async def test_nothing_is_said_of_proxies_where_none_is_set(
    empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if empty:
        monkeypatch.setenv("HTTPS_PROXY", "")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with client_of(f"http://127.0.0.1:{port}") as client:
        assert "proxy" not in str(await client.send()).lower()


# ---- from which address, to which


def finding(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses."""

    async def find(host: str, port: int, **options: Any) -> Any:
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in addresses
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", find)


@pytest.mark.parametrize(
    ("local", "found", "said"),
    [
        ("127.0.0.1", "::1", "127.0.0.1 is an IPv4 address, and apim.invalid has only IPv6 ones"),
        ("::1", "127.0.0.1", "::1 is an IPv6 address, and apim.invalid has only IPv4 ones"),
    ],
)
async def test_a_source_address_of_the_other_family_names_itself(
    local: str, found: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding(monkeypatch, found)
    async with client_of("http://apim.invalid", local_address=local) as client:
        result = await client.send()
        assert not_sent(result)
        assert said in str(result)


async def test_only_addresses_of_the_own_family_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server(answer) as server:
        finding(monkeypatch, "::1", "127.0.0.1")
        endpoint = f"http://apim.invalid:{server.port}"
        async with client_of(endpoint, local_address="127.0.0.1") as client:
            assert isinstance(await client.send(), Response)


@pytest.mark.parametrize(
    ("endpoint", "proxy", "local"),
    [
        ("https://[::1]:1", "", "127.0.0.1"),
        ("https://127.0.0.1", "", "::1"),
        ("https://apim.invalid", "http://u:p@[::1]:3128", "127.0.0.1"),
    ],
)
async def test_an_address_that_cannot_reach_the_endpoint_is_an_error_in_the_job(
    endpoint: str, proxy: str, local: str
) -> None:
    with pytest.raises(
        JobError, match=rf"source_addresses: {local} is an IPv[46] address"
    ) as error:
        Transport(endpoint, Pace(), timeout_s=1, local_address=local, proxy=proxy)
    assert "u:p" not in str(error.value)


def test_dns_that_does_not_respond_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async def never(*args: Any, **options: Any) -> Any:
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", never)
        async with client_of("https://apim.invalid") as client:
            began_at = loop.time()
            results = await asyncio.gather(*(client.send() for _ in range(3)))
            assert loop.time() - began_at == pytest.approx(5, abs=0.1)
            for result in results:
                assert not_sent(result)
                assert "DNS did not respond within 5 s" in str(result)

    run_virtually(scene())
