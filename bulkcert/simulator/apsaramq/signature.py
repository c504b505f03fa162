"""Alibaba Cloud's request signatures: V3 (`ACS3-HMAC-SHA256`) and the older V1 for RPC calls.

In: a request as received. Out: its parameters, who signed it, when and with which nonce, and the
signature that it should have. The rules are those of the vendor's pages "V3 request body and
signature mechanism" and "Request syntax and signature method V1". Parameters are decoded and
encoded again, because clients sign one encoding and send another.

The vendor's older clients send the parameters of a POST as a form: some of them, or all, with V1
even the signature. V1 signs the parameters wherever they are; V3 signs those of the query, and the
body as a whole.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from bulkcert.simulator.exchange import Request

ALGORITHM = "ACS3-HMAC-SHA256"
_FORM_TYPE = "application/x-www-form-urlencoded"
_MUST_BE_SIGNED = {"host"}


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request says about its sender; empty where it says nothing."""

    access_key_id: str = ""
    signature: str = ""
    date: str = ""
    nonce: str = ""
    security_token: str = ""
    signed_headers: tuple[str, ...] = ()


def parameters(request: Request) -> list[tuple[str, str]]:
    """The decoded parameters of the query, then those of a form, including repeated ones."""
    return _query(request) + _form(request)


def is_v3(request: Request) -> bool:
    """Whether a request is signed with V3; otherwise it is a V1 request, signed or not."""
    return "Authorization" in request.headers


def read_v3(request: Request) -> Credential:
    """Read the credential from the `Authorization` and `x-acs-*` headers."""
    headers = request.headers
    algorithm, _, rest = headers.get("Authorization", "").partition(" ")
    if algorithm != ALGORITHM:
        return Credential()
    fields = dict(part.partition("=")[::2] for part in rest.split(","))
    return Credential(
        fields.get("Credential", ""),
        fields.get("Signature", ""),
        headers.get("x-acs-date", ""),
        headers.get("x-acs-signature-nonce", ""),
        headers.get("x-acs-security-token", ""),
        tuple(fields.get("SignedHeaders", "").split(";")),
    )


def read_v1(query: dict[str, str]) -> Credential:
    """Read the credential from the query parameters."""
    return Credential(
        query.get("AccessKeyId", ""),
        query.get("Signature", ""),
        query.get("Timestamp", ""),
        query.get("SignatureNonce", ""),
        query.get("SecurityToken", ""),
    )


def is_fully_signed(request: Request, credential: Credential) -> bool:
    """Whether the V3 signature covers the host, every `x-acs-*` header and the body."""
    signed = set(credential.signed_headers)
    needed = {name.lower() for name in request.headers if name.lower().startswith("x-acs-")}
    digest = hashlib.sha256(request.body).hexdigest()
    return (
        signed >= needed | _MUST_BE_SIGNED and request.headers.get("x-acs-content-sha256") == digest
    )


def sign_v3(request: Request, signed_headers: Iterable[str], secret: str) -> str:
    """The V3 signature of a request and the given headers, in lower-case hex."""
    lines = "".join(f"{name}:{request.headers.get(name, '').strip()}\n" for name in signed_headers)
    canonical = "\n".join(
        (
            request.method,
            request.path,
            _canonical_query(_query(request)),
            lines,
            ";".join(signed_headers),
            request.headers.get("x-acs-content-sha256", ""),
        )
    )
    text = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def string_to_sign_v1(request: Request) -> str:
    """The text of a request that its V1 signature covers."""
    pairs = [(name, value) for name, value in parameters(request) if name != "Signature"]
    return f"{request.method}&%2F&{quote(_canonical_query(pairs), safe='')}"


def sign_v1(request: Request, secret: str) -> str:
    """The V1 signature of a request, in base64."""
    text = string_to_sign_v1(request)
    digest = hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def _query(request: Request) -> list[tuple[str, str]]:
    return parse_qsl(request.query, keep_blank_values=True)


def _form(request: Request) -> list[tuple[str, str]]:
    if not request.headers.get("Content-Type", "").lower().startswith(_FORM_TYPE):
        return []
    return parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True)


def _canonical_query(pairs: Iterable[tuple[str, str]]) -> str:
    return "&".join(
        f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(pairs)
    )
