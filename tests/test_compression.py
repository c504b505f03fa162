"""A compression that nobody asked for is undone, in bounded memory, or named."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.call import Response
from bulkcert.providers.compression import TooLargeError, decompressed
from bulkcert.providers.decoding import not_json


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (gzip.compress(b"{}"), "gzip"),
        (gzip.compress(b"{}"), "X-GZIP"),
        (gzip.compress(b"{}"), " identity , gzip "),
        (gzip.compress(b"{}"), ""),  # compressed without saying so
        (gzip.compress(b"{}"), "identity"),
        (gzip.compress(b"{}"), "deflate"),
        (gzip.compress(b"{") + gzip.compress(b"}"), "gzip"),
        (gzip.compress(b"{}") + b"\0\0", "gzip"),
        (gzip.compress(gzip.compress(b"{}")), "gzip, gzip"),
        (zlib.compress(b"{}"), "deflate"),
        (zlib.compress(b"{}"), "gzip"),
        (zlib.compress(b"{}", wbits=-15), "deflate"),
        (b"{}", "gzip"),  # it only says so
        (b" {}", "deflate"),
        (b"\xef\xbb\xbf{}", "br"),
        (b"{}", "identity"),
        (b"{}", ""),
    ],
)
def test_a_compression_that_was_not_asked_for_is_undone(content: bytes, encoding: str) -> None:
    assert decompressed(content, encoding, 1000).strip(b" \xef\xbb\xbf") == b"{}"


@pytest.mark.parametrize(
    ("content", "encoding", "said"),
    [
        (b"\x1b\x01", "br", "a body in the encoding br, which was not asked for"),
        (b"\x1b\x01", "gzip, ZSTD", "a body in the encoding zstd, which was not asked for"),
        (b"\x1b\x01", "x" * 100, f"a body in the encoding {'x' * 40}, which was not asked for"),
        (gzip.compress(b"{}" * 50)[:-12], "gzip", "gzip data that is cut off"),
        (gzip.compress(b"{}")[:15] + b"\xff" * 9, "gzip", "gzip data that is damaged"),
        (gzip.compress(b"") * 51, "gzip", "gzip data in too many parts"),
        (b"\x1f", "gzip, " * 4 + "gzip", "a body that is compressed again and again"),
        (b"\xff\xff", "deflate", "deflate data that is damaged"),
    ],
)
def test_a_compression_that_cannot_be_undone_is_named(
    content: bytes, encoding: str, said: str
) -> None:
    with pytest.raises(ValueError) as error:
        decompressed(content, encoding, 1000)
    assert str(error.value) == said
    assert not_json(Response(200, {}, b"", 0.0, said)) == f"HTTP 200 with {said}"


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
def test_the_limit_counts_what_is_decompressed_and_memory_stays_bounded(encoding: str) -> None:
    content = gzip.compress(bytes(50_000_000))
    if encoding == "gzip, gzip":
        content = gzip.compress(content)
    assert decompressed(gzip.compress(bytes(1000)), "gzip", 1000) == bytes(1000)
    with pytest.raises(TooLargeError):
        decompressed(gzip.compress(bytes(1001)), "gzip", 1000)
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            decompressed(content, encoding, 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate", "br", "", "gzip, deflate"]))
def test_any_bytes_are_decompressed_or_named(content: bytes, encoding: str) -> None:
    for body in (content, b"\x1f\x8b\x08" + content):
        with suppress(ValueError):
            assert len(decompressed(body, encoding, 100)) <= 100
