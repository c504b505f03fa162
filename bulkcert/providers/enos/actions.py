"""The actions of EnOS and their fields, as plain declarations.

Source: the vendor's pages "Revoke Certificate", "Renew Certificate" and "List Certificate"
(connect-service v2.0).
"""

from __future__ import annotations

from bulkcert.model import FieldValue
from bulkcert.pem import signing_request as pem_request
from bulkcert.providers.base import Action, Field, Key, Provider
from bulkcert.providers.enos.advice import ADVICE, REMARKS
from bulkcert.providers.enos.inventory import RESULT_COLUMNS
from bulkcert.providers.enos.requests import sample
from bulkcert.providers.enos.selection import SELECT, issue_authority
from bulkcert.providers.enos.verification import ca_of_list, difference, remarks_on, revoked, seen
from bulkcert.values import identifier, shown, whole_number

REVOKE_REASONS = {
    "UNSPECIFIED": 0,
    "KEY_COMPROMISE": 1,
    "AFFILIATION_CHANGED": 3,
    "SUPERSEDED": 4,
    "CESSATION_OF_OPERATION": 5,
    "CERTIFICATE_HOLD": 6,
    "PRIVILEGE_WITHDRAWN": 9,
}
"""RevokeReason by name. The numbers 2, 7, 8 and 10 are unused."""


def revoke_reason(value: object) -> int:
    """Parse a RevokeReason, given by name (in any letter case) or by number."""
    if isinstance(value, str):
        name = value.strip(" ").upper().replace("-", "_").replace(" ", "_")
        if name in REVOKE_REASONS:
            return REVOKE_REASONS[name]
        if not (name.isascii() and name.isdigit()):
            raise ValueError(f"is not a revocation reason: {shown(value)}; {_known_reasons()}")
    number = whole_number(value)
    if number not in REVOKE_REASONS.values():
        raise ValueError(f"is not a revocation reason: {number}; {_known_reasons()}")
    return number


def reason_name(value: FieldValue) -> str:
    """Show a RevokeReason with its name and number."""
    return next((f"{name} ({n})" for name, n in REVOKE_REASONS.items() if n == value), str(value))


def _known_reasons() -> str:
    return "known are " + ", ".join(f"{name} ({n})" for name, n in REVOKE_REASONS.items())


def valid_days(value: object) -> int:
    """Parse a validity in days. What is too long for a product, only EnOS knows."""
    days = whole_number(value)
    if days < 1:
        raise ValueError("must be 1 day or more")
    return days


def signing_request(value: object) -> str:
    """Parse a certificate signing request in PEM. Its signature must match its key.

    Returns:
        The request alone, whatever stands beside it.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    if not isinstance(value, str):
        raise ValueError("must be PEM text, or the path of a PEM file")
    pem, der = pem_request(value)
    try:
        request = x509.load_der_x509_csr(der)
        good = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ValueError(f"is not a readable certificate signing request ({error})") from None
    if not good:
        raise ValueError("is a certificate signing request whose signature does not match its key")
    return pem


def public_key(value: FieldValue) -> bytes:
    """Return the public key of a parsed signing request, in DER."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_pem_x509_csr(str(value).encode()).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


ASSET_ID = Field("assetId", identifier, meaning="the device, by its asset id", example="pump-0007")
PRODUCT_KEY = Field(
    "productKey",
    identifier,
    meaning="the device's product; goes with deviceKey",
    example="1aCqXpNh",
)
DEVICE_KEY = Field(
    "deviceKey", identifier, meaning="the device's key within its product", example="JhKm3x9QpL"
)
CERT_SN = Field(
    "certSn",
    whole_number,
    type="whole number",
    meaning="serial number of the certificate",
    example=52739,
)
REASON = Field(
    "reason",
    revoke_reason,
    reason_name,
    type="name or number",
    meaning=f"why the certificate is revoked: {', '.join(REVOKE_REASONS)}",
    default="left to EnOS",
    example="KEY_COMPROMISE",
)
VALID_DAY = Field(
    "validDay",
    valid_days,
    type="whole number from 1",
    meaning="days for which the new certificate is valid",
    default="730, the default of EnOS",
    example=365,
)
ISSUE_AUTHORITY = Field(
    "issueAuthority",
    issue_authority,
    type="`RSA` or `ECC`",
    meaning="which authority issues the new certificate",
    default="what the key of `csr` needs; without `csr` left to EnOS",
    example="ECC",
)
CSR = Field(
    "csr",
    signing_request,
    pem=True,
    public_key=public_key,
    type="PEM text",
    meaning="certificate signing request; a target file may have the path of a PEM file instead",
    default="the old key pair is kept",
    example="-----BEGIN CERTIFICATE REQUEST-----\n...\n-----END CERTIFICATE REQUEST-----\n",
)

CRL_WARNING = (
    "EnOS publishes its revocation list daily at 00:00: until then, whoever relies on that list"
    " still accepts a revoked certificate, and a connection that is open goes on"
)

ORGANIZATION = Key(
    "org_id",
    identifier,
    meaning="id of your organization in EnOS, for every target without its own `orgId`",
    default="none; then every target needs an `orgId`",
    example="o15444172373271",
)

ORG_ID = Field(
    "orgId",
    identifier,
    option="org_id",
    meaning="the organization that the device belongs to",
    default="`connection.org_id`",
    example="o15444172373271",
)

KEY_FIELDS = {"rsa-2048": {"issueAuthority": "RSA"}, "ecdsa-p256": {"issueAuthority": "ECC"}}
"""Each authority signs only its own kind of key."""

DEVICE = ((ASSET_ID,), (PRODUCT_KEY, DEVICE_KEY))

NEW_CERTIFICATE = ("certSn", "replaces", "certificate_file", "key_file", "expires_at")
"""Columns of the results of a renewal: its `certSn` is the new one, and `replaces` the old."""

REVOKE = Action(
    name="revoke",
    meaning="revoke certificates; this can't be undone",
    changes=True,
    identifiers=DEVICE,
    required=(CERT_SN,),
    optional=(ORG_ID, REASON),
    select=SELECT,
    selects="certSn",
    select_needs=("issued_before", "public_key"),
    verified_by="list",
    revokes=True,
    warning=CRL_WARNING,
)

RENEW = Action(
    name="renew",
    meaning="issue a new certificate for each old one",
    requests=2,  # the look-up that comes first, and the renewal
    changes=True,
    identifiers=DEVICE,
    required=(CERT_SN,),
    optional=(ORG_ID, VALID_DAY, ISSUE_AUTHORITY, CSR),
    select=SELECT,
    selects="certSn",
    verified_by="list",
    makes_keys=True,
    key_fields=KEY_FIELDS,
    result_columns=NEW_CERTIFICATE,
)

ROTATE = Action(
    name="rotate",
    meaning="renew with a new key, check the new certificate, then revoke the old one",
    changes=True,
    identifiers=DEVICE,
    required=(CERT_SN,),
    optional=(ORG_ID, VALID_DAY, ISSUE_AUTHORITY, CSR, REASON),
    select=SELECT,
    selects="certSn",
    verified_by="list",
    revokes=True,
    makes_keys=True,
    key_fields=KEY_FIELDS,
    needs_keys=True,
    requests=3,  # a provider that revokes the old certificate itself leaves one look-up after it
    result_columns=NEW_CERTIFICATE,
    warning=CRL_WARNING,
)

LIST = Action(
    name="list",
    meaning="list the certificates of devices",
    changes=False,
    identifiers=DEVICE,
    optional=(ORG_ID,),
    result_columns=RESULT_COLUMNS,
)

ENOS = Provider(
    name="enos",
    actions={action.name: action for action in (REVOKE, RENEW, ROTATE, LIST)},
    connection_required=(),
    connection_optional=(ORGANIZATION,),
    requests_per_second=500,
    limit_is_assumed=True,
    credentials=("ENOS_APP_KEY", "ENOS_APP_SECRET"),
    accounts=("org_id", "ENOS_APP_KEY"),
    handler="bulkcert.providers.enos.handler:connect",
    sample=sample,
    difference=difference,
    remarks_on=remarks_on,
    seen=seen,
    revoked=revoked,
    ca_of_list=ca_of_list,
    advice=ADVICE,
    remarks=REMARKS,
    simulated=True,
)
