"""The bytes of a request."""

from __future__ import annotations

import pytest
from yarl import URL

from bulkcert.providers.call import Request
from bulkcert.providers.wire import Wire
from bulkcert.version import VERSION

REVOKE = Request(
    "POST",
    "/certificates?assetId=a%20b",
    body=b'{"certSn":1}',
    headers=(("Content-Type", "application/json"),),
)
SIGNED = {"apim-signature": "5ca1ab1e"}


def lines(wire: Wire, request: Request = REVOKE) -> list[str]:
    head, separator, body = wire.bytes_of(request, SIGNED).partition(b"\r\n\r\n")
    assert separator
    assert body == request.body
    return head.decode().split("\r\n")


def test_a_request_is_written_as_it_is_with_the_headers_that_http_needs() -> None:
    first, *headers = lines(Wire("https://apim.example:8443/gateway"))
    assert first == "POST /gateway/certificates?assetId=a%20b HTTP/1.1"
    assert headers == [
        "Host: apim.example:8443",
        "Accept: application/json",
        "Accept-Encoding: identity",
        "Cache-Control: no-cache",
        f"User-Agent: bulkcert/{VERSION}",
        "Content-Type: application/json",
        "apim-signature: 5ca1ab1e",
        "Content-Length: 12",
    ]


@pytest.mark.parametrize(("method", "length"), [("GET", []), ("POST", ["Content-Length: 0"])])
def test_only_a_request_that_might_have_a_body_says_that_it_has_none(
    method: str, length: list[str]
) -> None:
    written = lines(Wire("https://apim.example"), Request(method, "/list"))
    assert [line for line in written if line.startswith("Content-Length")] == length


def test_signed_headers_replace_others_of_the_same_name() -> None:
    wire = Wire("https://apim.example")
    signed = {"host": "signed.example", "Content-Type": "text/plain"}
    written = wire.bytes_of(REVOKE, signed).decode()
    assert "host: signed.example\r\n" in written
    assert "Host:" not in written
    assert written.count("Content-Type") == 1
    assert "Content-Type: text/plain" in written


def test_a_proxy_that_passes_requests_on_is_asked_for_the_whole_url() -> None:
    proxy = URL("http://somebody:p%40ss@proxy.example:3128")
    first, *headers = lines(Wire("http://127.0.0.1:8080", proxy))
    assert first == "POST http://127.0.0.1:8080/certificates?assetId=a%20b HTTP/1.1"
    assert "Host: 127.0.0.1:8080" in headers
    assert "Proxy-Authorization: Basic c29tZWJvZHk6cEBzcw==" in headers


@pytest.mark.parametrize("evil", ["a\r\nX: 1", "a\nX: 1", "a\rX: 1", "a\0", "\x7f", "\x1b[1m", "é"])
def test_no_value_gets_a_line_of_its_own_or_another_character_set(evil: str) -> None:
    wire = Wire("https://apim.example")
    for request in (
        REVOKE._replace(target=evil),
        REVOKE._replace(headers=(("X-Name", evil),)),
    ):
        with pytest.raises(ValueError, match=r"control characters|ascii"):
            wire.bytes_of(request, SIGNED)
    with pytest.raises(ValueError, match=r"control characters|ascii"):
        wire.bytes_of(REVOKE, {"apim-signature": evil})
