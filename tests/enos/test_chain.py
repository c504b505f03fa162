"""`certChainURL`: which URLs are fetched, how often, and what is read from them."""

from __future__ import annotations

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from test_issuance import CA, KEY, authority, certificate
from virtual_time import run_virtually

from bulkcert.errors import JobError
from bulkcert.providers.call import CallKind, CallResult, OnDeparture, Request, Response, Signer
from bulkcert.providers.enos.chain import LARGEST_CHAIN, Chains, read_chain
from bulkcert.providers.enos.issuance import Issued

URL = "https://portal.example.com/enos/CA/cacert/ECC"


class Web:
    """What URLs lead to, and what was asked for."""

    def __init__(self, *responses: Response | CallResult) -> None:
        self.asked: list[tuple[str, Request]] = []
        self.closed = 0
        self._responses = list(responses)

    def open_channel(self, endpoint: str) -> _Channel:
        return _Channel(self, endpoint)

    def respond(self, endpoint: str, request: Request) -> Response | CallResult:
        self.asked.append((endpoint, request))
        return self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]


class _Channel:
    pace = None  # type: ignore[assignment] - nothing here is paced

    def __init__(self, web: Web, endpoint: str) -> None:
        self._web, self._endpoint = web, endpoint

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | CallResult:
        assert sign is None  # no credentials leave
        await asyncio.sleep(0.1)
        return self._web.respond(self._endpoint, request)

    async def close(self) -> None:
        self._web.closed += 1


def page(body: bytes, status: int = 200) -> Response:
    return Response(status, {}, body, 0.0)


def chains(web: Web, *, allow_http: bool = False) -> Chains:
    return Chains(web.open_channel, allow_http=allow_http, retry_s=60.0)


def test_the_ca_is_fetched_once_for_all_who_need_it() -> None:
    async def check() -> None:
        web = Web(page(CA.encode()))
        fetching = chains(web)
        issued = [Issued(number, "pem", chain_url=f"{URL}?v=1&x=%20") for number in range(20)]
        results = await asyncio.gather(*[fetching.complete(each) for each in issued])
        assert {(each.ca_pem, problem) for each, problem in results} == {(CA, "")}
        ((endpoint, request),) = web.asked
        assert endpoint == "https://portal.example.com"
        assert (request.method, request.target) == ("GET", "/enos/CA/cacert/ECC?v=1&x=%20")
        assert request.headers == (("Accept", "*/*"),)
        assert web.closed == 1
        await asyncio.sleep(24 * 3600)
        assert (await fetching.complete(issued[0]))[0].ca_pem == CA
        assert len(web.asked) == 1

    run_virtually(check())


def test_the_ca_of_an_earlier_certificate_will_do_if_it_has_signed_this_one() -> None:
    async def check() -> None:
        web = Web(page(b""))
        completing = chains(web)
        without = Issued(77, certificate())
        assert await completing.complete(without, "the list") == (
            without,
            "the list has neither caCert nor certChainURL",
        )
        await completing.complete(Issued(78, certificate(78), authority(KEY)))  # not its CA
        assert (await completing.complete(without))[0] == without
        await completing.complete(Issued(78, certificate(78), CA))
        assert await completing.complete(without) == (Issued(77, certificate(), CA), "")
        other = Issued(77, certificate(by=KEY))
        assert (await completing.complete(other))[0] == other
        assert web.asked == []

    run_virtually(check())


def test_a_certificate_that_is_followed_by_its_ca_needs_no_other() -> None:
    async def check() -> None:
        kept = Issued(77, certificate() + CA)
        assert await chains(Web(page(b""))).complete(kept) == (kept, "")

    run_virtually(check())


def test_a_response_with_its_ca_is_left_as_it_is() -> None:
    async def check() -> None:
        web = Web(page(b""))
        issued = Issued(1, "pem", "ca", URL)
        assert await chains(web).complete(issued) == (issued, "")
        assert web.asked == []

    run_virtually(check())


def test_what_failed_is_tried_again_after_a_minute() -> None:
    async def check() -> None:
        web = Web(CallResult(CallKind.NOT_SENT, message="no connection: x"), page(CA.encode()))
        fetching, issued = chains(web), Issued(1, "pem", chain_url=URL)
        _, problem = await fetching.complete(issued)
        assert problem.endswith("certChainURL could not be fetched: no connection: x")
        await asyncio.sleep(59)
        assert (await fetching.complete(issued))[1] == problem
        assert len(web.asked) == 1
        await asyncio.sleep(2)
        assert (await fetching.complete(issued))[0].ca_pem == CA

    run_virtually(check())


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (page(b"", 404), "certChainURL could not be fetched: HTTP 404"),
        (page(CA.encode(), 302), "certChainURL could not be fetched: HTTP 302"),
        (page(b"<html>"), "certChainURL leads to something other than a certificate"),
    ],
)
def test_what_is_not_a_certificate_is_a_reason(response: Response, reason: str) -> None:
    async def check() -> None:
        issued = Issued(1, "pem", chain_url=URL)
        expected = issued, f"the response has no caCert, and {reason}"
        assert await chains(Web(response)).complete(issued) == expected

    run_virtually(check())


def test_a_response_with_neither_the_ca_nor_its_url_says_so() -> None:
    async def check() -> None:
        issued, reason = Issued(1, "pem"), "the response has neither caCert nor certChainURL"
        assert await chains(Web()).complete(issued) == (issued, reason)

    run_virtually(check())


def test_a_hundred_urls_are_remembered_and_no_more() -> None:
    async def check() -> None:
        web = Web(page(CA.encode()))
        fetching = chains(web)
        for _ in range(2):
            for number in range(100):
                await fetching.complete(Issued(1, "pem", chain_url=f"{URL}?{number}"))
        assert len(web.asked) == 100
        for number in range(1000):
            await fetching.complete(Issued(1, "pem", chain_url=f"{URL}?{number}"))
            assert len(fetching._fetched) <= 100

    run_virtually(check())


def test_a_ca_that_came_with_another_certificate_is_used_and_a_hundred_are_remembered() -> None:
    async def check() -> None:
        fetching, signed = chains(Web()), certificate()
        without = Issued(77, signed)
        assert (await fetching.complete(without))[0] == without
        await fetching.complete(
            Issued(77, signed, authority(ec.generate_private_key(ec.SECP256R1())))
        )
        assert (await fetching.complete(without))[0] == without  # it was not signed by that one
        for number in range(150):
            await fetching.complete(Issued(77, signed, authority(days=3650 + number)))
        assert len(fetching._seen) == 100
        completed, problem = await fetching.complete(without)
        assert (completed.ca_pem, problem) == (authority(days=3650), "")

    run_virtually(check())


def test_a_url_without_a_path_leads_to_the_root() -> None:
    async def check() -> None:
        web = Web(page(CA.encode()))
        await chains(web).complete(Issued(1, "pem", chain_url="https://portal.example.com"))
        assert [(endpoint, request.target) for endpoint, request in web.asked] == [
            ("https://portal.example.com", "/")
        ]

    run_virtually(check())


def test_a_channel_that_can_t_be_opened_is_a_reason_like_any_other() -> None:
    async def check() -> None:
        def open_channel(endpoint: str) -> _Channel:
            raise JobError("connection.ca_file can't be used", "Fix it.")

        fetching = Chains(open_channel, allow_http=False, retry_s=60.0)
        issued = Issued(1, "pem", chain_url=URL)
        assert (await fetching.complete(issued))[0] == issued
        assert "ca_file can't be used" in (await fetching.complete(issued))[1]

    run_virtually(check())


@pytest.mark.parametrize(
    ("url", "allow_http", "fetched"),
    [
        (URL, False, True),
        ("https://portal.example.com", False, True),
        ("https://[::1]:8443/ca", False, True),
        ("http://127.0.0.1:8765/ca", True, True),
        ("http://127.0.0.1:8765/ca", False, False),  # no plain HTTP
        ("http://portal.example.com/ca", False, False),
        ("https://user:secret@portal.example.com/ca", False, False),
        ("https://portal.example.com\\@other/ca", False, False),
        ("https://portal.example.com/a b", False, False),
        ("https://portal.example.com/ä", False, False),
        ("https://portal.example.com/a\r\nX-Header: 1", False, False),
        ("https://[::1", False, False),
        ("file:///etc/passwd", False, False),
        ("//portal.example.com/ca", False, False),
        ("52739", False, False),
    ],
)
def test_only_an_acceptable_url_is_fetched(url: str, allow_http: bool, fetched: bool) -> None:
    async def check() -> None:
        web = Web(page(CA.encode()))
        issued = Issued(1, "pem", chain_url=url)
        completed, problem = await chains(web, allow_http=allow_http).complete(issued)
        assert (bool(completed.ca_pem), bool(web.asked)) == (fetched, fetched)
        assert fetched or "certChainURL is not an http" in problem

    run_virtually(check())


def test_a_chain_may_be_pem_or_der_and_nothing_else_is_kept() -> None:
    der = x509.load_pem_x509_certificate(CA.encode()).public_bytes(Encoding.DER)
    assert read_chain(der) == CA
    assert read_chain(CA.encode()) == CA
    assert read_chain(f"subject=/CN=CA\r\n{CA}and\n{certificate()}".encode()) == (
        CA + certificate()
    )


def test_a_chain_of_64_kib_is_read() -> None:
    assert read_chain(CA.encode().ljust(65_536)) == CA
    assert read_chain(CA.encode().ljust(65_537)) == ""


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (CA * (LARGEST_CHAIN // len(CA) + 1)).encode(),
    ],
)
def test_anything_else_is_not_a_chain(body: bytes) -> None:
    assert read_chain(body) == ""
