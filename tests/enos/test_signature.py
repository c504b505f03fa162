"""Signatures and token digests, compared with independent vectors.

The official vector is on the vendor's page "Invoke API with access token"; the others were computed
by hand, by its rules.
"""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.call import Request
from bulkcert.providers.enos.requests import list_request, renew_request, revoke_request
from bulkcert.providers.enos.signature import signature, token_digest

APP_KEY = "5acb82e7-a11e-4300-9164-c8b20b638e8b"
APP_SECRET = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
TIMESTAMP_MS = 1572574909697
TOKEN = "APIMTOKEN-0001"

OFFICIAL_TOKEN = "xxxxaaaxxxx"
OFFICIAL_SECRET = "xxxappSecretxxx"
OFFICIAL_QUERY = (("k3", "v3"), ("k1", "v1"), ("k2", "v2"))


def official_body(description: str) -> bytes:
    return f'{{\n  "count": 20,\n  "page": 1,\n  "desc": "{description}"\n}}'.encode()


@pytest.mark.parametrize(
    ("description", "digest"),
    [
        ("描述", "59828328f6c1f9771015dc74e4929ae30f518a35a3d2353972c2ea46556fc981"),
        # The English pages translate the text but keep the digest above, which is wrong there.
        ("description", "ad6dc6fc97f4290f3724e94eab38168d8613c41c3a4569b4b8b0efbce96a816c"),
        ("Description", "01585cdfb5f355f29eb74c7285c6ba457f45783c39bc496062823341d50a03c7"),
    ],
)
def test_the_official_vector_is_right_and_its_translations_differ(
    description: str, digest: str
) -> None:
    body = official_body(description)
    assert signature(OFFICIAL_TOKEN, OFFICIAL_QUERY, body, TIMESTAMP_MS, OFFICIAL_SECRET) == digest


def test_the_digest_of_a_token_call_is_right() -> None:
    digest = "d23085d5da6d2086f439cdab0a3d4547f57a1ac82f372637aed6d43649f74255"
    assert token_digest(APP_KEY, TIMESTAMP_MS, APP_SECRET) == digest


DEVICE = (("orgId", "o15"), ("assetId", "A1"))


@pytest.mark.parametrize(
    ("query", "body", "digest"),
    [
        pytest.param(
            (("action", "list"), *DEVICE),
            b"",
            "3a37a17a168f029b63c81fd2d175bdf782058b6191c35d2723da57befa289ebc",
            id="list",
        ),
        pytest.param(
            (("action", "revoke"), *DEVICE),
            b'{"certSn":52739,"reason":4}',
            "e95ab8b9e794317199c9a483cadf29102dae46707b67c72b25dbd26af26a6464",
            id="revoke",
        ),
        pytest.param(
            (("action", "revoke"), *DEVICE),
            b'{"certSn": 52739, "reason": 4}',
            "ccfb05d20a46f32ff7d46ce6fe8da475873fed014bb6faf90dc9349e0c9e3df1",
            id="revoke, a body with blanks",
        ),
        pytest.param(
            (
                ("action", "renew"),
                ("orgId", "o15"),
                ("productKey", "pk 1"),
                ("deviceKey", "dk/ä+"),
            ),
            b'{"certSn":52770,"validDay":220,"issueAuthority":"RSA"}',
            "92170bb78bcbb2ac0b1b4dfc934be51600fa71ea4678ea65bd083fdff9736515",
            id="renew, decoded values",
        ),
    ],
)
def test_signatures_match_the_vectors(
    query: tuple[tuple[str, str], ...], body: bytes, digest: str
) -> None:
    assert signature(TOKEN, query, body, TIMESTAMP_MS, APP_SECRET) == digest
    assert signature(TOKEN, reversed(query), body, TIMESTAMP_MS, APP_SECRET) == digest


@pytest.mark.parametrize(
    ("call", "digest"),
    [
        (
            list_request("o15", {"assetId": "A1"}),
            "3a37a17a168f029b63c81fd2d175bdf782058b6191c35d2723da57befa289ebc",
        ),
        (
            revoke_request("o15", {"assetId": "A1", "certSn": 52739, "reason": 4}),
            "e95ab8b9e794317199c9a483cadf29102dae46707b67c72b25dbd26af26a6464",
        ),
        (
            renew_request(
                "o15",
                {
                    "productKey": "pk 1",
                    "deviceKey": "dk/ä+",
                    "certSn": 52770,
                    "validDay": 220,
                    "issueAuthority": "RSA",
                },
            ),
            "92170bb78bcbb2ac0b1b4dfc934be51600fa71ea4678ea65bd083fdff9736515",
        ),
    ],
    ids=["list", "revoke", "renew"],
)
def test_our_requests_match_those_of_the_vectors(call: Request, digest: str) -> None:
    assert signature(TOKEN, call.query, call.body, TIMESTAMP_MS, APP_SECRET) == digest


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(org_id=names, product_key=names, device_key=names)
def test_what_is_signed_is_what_the_server_decodes(
    org_id: str, product_key: str, device_key: str
) -> None:
    request = list_request(org_id, {"productKey": product_key, "deviceKey": device_key})
    assert request.target.isascii()
    decoded = parse_qsl(urlsplit(request.target).query, strict_parsing=True, keep_blank_values=True)
    assert sorted(decoded) == sorted(request.query)


@given(
    query=st.dictionaries(st.text("kabAB19", min_size=1, max_size=3), names, max_size=5),
    body=st.binary(max_size=50),
)
def test_parameters_are_joined_in_byte_order_and_the_body_is_unchanged(
    query: dict[str, str], body: bytes
) -> None:
    in_order = sorted(query, key=str.encode)
    joined = "".join(name + query[name] for name in in_order).encode()
    expected = hashlib.sha256(b"T" + joined + body + b"17secret").hexdigest()
    assert signature("T", query.items(), body, 17, "secret") == expected
