"""How the EnOS certificate service refuses calls: codes and messages.

In: what is wrong. Out: an error to raise. Most errors share the code 99400; only the message tells
them apart. Messages that the vendor publishes are used verbatim. Where the vendor only describes an
error, the message contains the words that clients look for.
"""

from __future__ import annotations

BAD_ARGUMENT = 99400
NO_PERMISSION = 99403
INTERNAL_ERROR = 99500
NO_DEVICE = 11404
NO_PRODUCT = 11611
BOUND_ELSEWHERE = 11833

INTERNAL_ERRORS = (
    "Internal error of certificate service.",
    "Internal error of product service.",
    "Internal error of IoT Hub service.",
)

MESSAGES = {
    NO_PERMISSION: "Denied resource: no permission",
    99404: "The object does not exist",
    INTERNAL_ERROR: INTERNAL_ERRORS[0],
    NO_DEVICE: "Device cannot be found",
    NO_PRODUCT: "Product cannot be found",
    BOUND_ELSEWHERE: "certificate already bind to another device",
}


class RefusedError(Exception):
    """Refuses a call; may be raised anywhere while the call is handled."""

    def __init__(self, code: int, message: str = "") -> None:
        self.code = code
        self.message = message or MESSAGES.get(code, "Refused")
        super().__init__(self.message)


def bad_device() -> RefusedError:
    """The call identifies no device, or two."""
    return RefusedError(BAD_ARGUMENT, "invalid argument: The device identifier is invalid")


def not_bound() -> RefusedError:
    """The certificate does not belong to the device."""
    return RefusedError(
        BAD_ARGUMENT,
        "The certificate list bound to the device does not have the certificate, "
        "or the certificate is bound to other devices.",
    )


def missing(name: str) -> RefusedError:
    """A mandatory parameter is missing."""
    return RefusedError(BAD_ARGUMENT, f"Invalid Argument {name}:{name} is missing")


def bad_parameter(detail: str) -> RefusedError:
    """A parameter has an invalid value."""
    return RefusedError(
        BAD_ARGUMENT,
        "When calling Certificate Services, the call parameters are invalid."
        f"message: {detail}, detail message:",
    )


def bad_request(detail: str) -> RefusedError:
    """The certificate request (CSR) is invalid."""
    return RefusedError(BAD_ARGUMENT, f"Invalid cert request!message: {detail}, detail message:")


def failed(what: str, detail: str) -> RefusedError:
    """The certificate service failed to do what the call asked for."""
    return RefusedError(BAD_ARGUMENT, f"{what} cert is failed!message: {detail}, detail message:")
