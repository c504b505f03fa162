"""What an operator can do about the failures of ApsaraMQ. Plain data.

Source: the error table, the description and the limits on the vendor's pages, in our words.
`docs/providers/apsaramq.md` has the same table.
"""

from __future__ import annotations

from bulkcert.providers.advice import Advice

NOT_FOUND = "FindDeviceBySnError"
"""No such certificate is registered."""

_ENVIRONMENT = "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
_PERMISSIONS = (
    "Grant the RAM user or role the permissions that the action needs; docs/providers/apsaramq.md"
    " lists them."
)
_PLATINUM = (
    "Use an instance of the Enterprise Platinum Edition: no other edition supports operations on"
    " certificates."
)
_RAISE_THE_LIMIT = (
    "Lower limits.requests_per_second, or have the limit of the account raised by the support of"
    " ApsaraMQ for MQTT (DingTalk group 35228338)."
)

ADVICE = (
    Advice(
        "ParameterFieldCheckFailed",
        "Check DeviceSn and CaSn: one of them is missing or not valid. A CaSn has at most 128"
        " bytes.",
    ),
    Advice(
        NOT_FOUND,
        "Check DeviceSn and CaSn against a list of the CA; leading zeros and letter case count. A"
        " certificate that was never used to connect is not registered.",
    ),
    Advice(
        "MqttInstanceNotFound",
        "Check connection.instance_id, and that the endpoint is in the same region.",
    ),
    Advice("MqttOwnerCheckError", "Use an access key of the account that the instance belongs to."),
    Advice("InstancePermissionCheckFailed", _PERMISSIONS),
    Advice("PermissionCheckFailed", _PERMISSIONS),
    Advice("Forbidden", _PERMISSIONS),
    Advice("NoPermission", _PERMISSIONS),
    Advice("ApiNotSupport", _PLATINUM),
    Advice("Throttling", _RAISE_THE_LIMIT),
    Advice("SystemOverFlow", _RAISE_THE_LIMIT),
    Advice(429, _RAISE_THE_LIMIT),
    Advice(
        "InternalError",
        "An internal error of ApsaraMQ. If it does not go away, give the request ids in"
        " results.jsonl to the vendor's support.",
    ),
    Advice("InvalidAccessKeyId", f"Check {_ENVIRONMENT}."),
    Advice("SignatureDoesNotMatch", f"Check {_ENVIRONMENT}, and that they belong together."),
    Advice("InvalidTimeStamp", "Set the clock of this machine: it is more than 15 minutes off."),
    Advice(
        "InvalidSecurityToken",
        "A token can't be renewed from here. Get new STS credentials, set all three"
        " ALIBABA_CLOUD_* variables, and run the same command: it continues from here.",
    ),
    Advice(
        "CheckAccountInfoFailed",
        "Get new STS credentials, set all three ALIBABA_CLOUD_* variables, and run the same"
        " command.",
    ),
    Advice(
        "MissingSecurityToken",
        "If the access key belongs to an STS token, set ALIBABA_CLOUD_SECURITY_TOKEN too.",
    ),
)
