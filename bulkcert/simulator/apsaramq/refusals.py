"""How ApsaraMQ for MQTT and its gateway refuse calls: codes, messages and HTTP statuses.

In: a code. Out: its message and HTTP status. The vendor's API reference and its notice "MQTT
OpenAPI status code adjustment" give different statuses for the same code; both are here.
"""

from __future__ import annotations

from typing import NamedTuple


class RefusedError(Exception):
    """Refuses a call with a code; may be raised anywhere while the call is handled.

    Attributes:
        detail: what follows the code's message.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


class Refusal(NamedTuple):
    """What belongs to a code of the service.

    Attributes:
        status: HTTP status in the API reference.
        noticed: HTTP status in the vendor's notice.
    """

    message: str
    status: int
    noticed: int


_PERMISSION = "An error occurred while validating the permissions of the instance."

SERVICE = {
    "ParameterFieldCheckFailed": Refusal(
        "Failed to validate the parameters. The parameters may be missing or invalid.", 400, 400
    ),
    "FindDeviceBySnError": Refusal(
        "Failed to find the device certificate by the SN. Please check sn is valid", 500, 400
    ),
    "MqttInstanceNotFound": Refusal("Specified instance is not found", 500, 400),
    "MqttOwnerCheckError": Refusal("Failed to validate the instance permission", 500, 403),
    "InternalError": Refusal(
        "An error occurred while processing your request. Try again later.", 500, 417
    ),
    "SystemOverFlow": Refusal(
        "An error occurred while processing your request. Please try again.", 500, 403
    ),
    "ApiNotSupport": Refusal("The specified API is not supported.", 404, 404),
    "InstancePermissionCheckFailed": Refusal(_PERMISSION, 400, 400),
    "PermissionCheckFailed": Refusal(_PERMISSION, 400, 400),
    "CheckAccountInfoFailed": Refusal(
        "An error occurred while checking the account information by the STS token.", 400, 400
    ),
}
"""Codes of the service."""

GATEWAY = {
    "Throttling": ("Request was denied due to request throttling.", 400),
    "Throttling.User": ("Request was denied due to user flow control.", 400),
    "Throttling.Api": ("Request was denied due to api flow control.", 400),
    "ServiceUnavailable": (
        "The request has failed due to a temporary failure of the server.",
        503,
    ),
    "InvalidAccessKeyId.NotFound": ("Specified access key is not found.", 404),
    "SignatureDoesNotMatch": ("Specified signature is not matched with our calculation.", 400),
    "SignatureNonceUsed": ("Specified signature nonce was used already.", 400),
    "InvalidTimeStamp.Expired": ("Specified time stamp or date value is expired.", 400),
    "InvalidTimeStamp.Format": ("Specified time stamp or date value is not well formatted.", 400),
    "MissingSecurityToken": ("SecurityToken is mandatory for this action.", 400),
    "InvalidSecurityToken.Expired": ("Specified SecurityToken is expired.", 403),
    "InvalidSecurityToken.Malformed": ("Specified SecurityToken is malformed.", 403),
    "InvalidSecurityToken.MismatchWithAccessKey": (
        "Specified SecurityToken mismatch with the AccessKey.",
        403,
    ),
    "MissingAccessKeyId": ("AccessKeyId is mandatory for this action.", 400),
    "MissingSignatureNonce": ("SignatureNonce is mandatory for this action.", 400),
    "InvalidApi.NotFound": ("Specified api is not found, please check your url and method.", 404),
    "UnsupportedHTTPMethod": ("This http method is not supported.", 400),
    "NoPermission": ("You are not authorized to do this action.", 403),
    "Forbidden.RAM": ("User not authorized to operate on the specified resource.", 403),
}
"""Codes of the gateway, with message and HTTP status. The vendor's pages disagree on statuses."""
