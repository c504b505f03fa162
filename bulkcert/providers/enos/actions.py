"""What EnOS can be asked to do, as plain declarations.

Source: the vendor's pages "Revoke Certificate", "Renew Certificate" and "List Certificate"
(connect-service v2.0).
"""

from __future__ import annotations

from bulkcert.providers.base import Action, Field, Provider, shown, text, whole_number
from bulkcert.providers.enos.requests import sample

REVOKE_REASONS = {
    "UNSPECIFIED": 0,
    "KEY_COMPROMISE": 1,
    "AFFILIATION_CHANGED": 3,
    "SUPERSEDED": 4,
    "CESSATION_OF_OPERATION": 5,
    "CERTIFICATE_HOLD": 6,
    "PRIVILEGE_WITHDRAWN": 9,
}
"""RevokeReason by name. The numbers 2, 7, 8 and 10 are not in use."""


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


def _known_reasons() -> str:
    return "known are " + ", ".join(f"{name} ({n})" for name, n in REVOKE_REASONS.items())


ASSET_ID = Field("assetId", text)
PRODUCT_KEY = Field("productKey", text)
DEVICE_KEY = Field("deviceKey", text)
CERT_SN = Field("certSn", whole_number)
REASON = Field("reason", revoke_reason)

DEVICE = ((ASSET_ID,), (PRODUCT_KEY, DEVICE_KEY))

REVOKE = Action(
    name="revoke",
    changes=True,
    identifiers=DEVICE,
    required=(CERT_SN,),
    optional=(REASON,),
)

ENOS = Provider(
    name="enos",
    actions={action.name: action for action in (REVOKE,)},
    connection_required=("org_id",),
    connection_optional=(),
    requests_per_second=500,
    credentials=("ENOS_APP_KEY", "ENOS_APP_SECRET"),
    sample=sample,
)
