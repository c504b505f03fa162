"""What an operator can do about the failures of EnOS, and what its remarks mean. Plain data.

Source: the column "Solution" of the error tables on the vendor's pages, in our words, and their
sections on permissions. `docs/providers/enos.md` has the same table.
"""

from __future__ import annotations

from bulkcert.providers.advice import Advice

ADVICE = (
    Advice(
        99403,
        "Grant the application full access to Device Management in this organization (read is"
        " enough for list), and check connection.org_id.",
    ),
    Advice(
        11404,
        "Make sure that the device is registered in this organization, and check how the target"
        " names it.",
    ),
    Advice(
        11833,
        "The certificate or its key belongs to another device. Check certSn, and use a key pair of"
        " its own for each device.",
    ),
    Advice(
        99400,
        "Name the device by its assetId, or by its productKey together with its deviceKey.",
        "device identifier",
    ),
    Advice(99400, "Check connection.org_id.", "orgId"),
    Advice(99400, "Give the number of a certificate in certSn, 0 or more.", "certSn"),
    Advice(99400, "Give the number of a certificate in certSn, 0 or more.", "serial number"),
    Advice(
        99400,
        "Check certSn against the device's own list of certificates (action list).",
        "certificate list bound to the device",
    ),
    Advice(
        99400,
        "A revoked certificate can't be renewed: apply for a new one.",
        "been revoked",
    ),
    Advice(
        99400,
        "An expired certificate can't be renewed: apply for a new one.",
        "expired",
    ),
    Advice(
        99400,
        "Ask for fewer days with validDay (EnOS takes 730 if it is left out), or raise the longest"
        " validity in the settings of the product.",
        "exceeds",
    ),
    Advice(
        99400,
        "Turn on authentication by certificates, in both directions, for the product.",
        "bi-directional",
    ),
    Advice(99400, "The texts after message and detail message say what is wrong."),
    Advice(99404, "Make sure that what the target names exists in this organization."),
    Advice(
        99500,
        "An internal error of EnOS. If it does not go away, give the request ids in results.jsonl"
        " to your EnOS administrator.",
    ),
    Advice(
        429,
        "Lower limits.requests_per_second, or ask your EnOS administrator to raise the limit of"
        " the application.",
    ),
)

OTHER_VALIDITY = "other_validity"
NO_CA = "no_ca"
SURPLUS = "surplus"
STILL_VALID = "other_valid"

REMARKS = {
    OTHER_VALIDITY: "new certificate is not valid for as long as it should be, for another reason"
    " than the end of its CA",
    NO_CA: "new certificate could not be checked against its CA, which the provider did not send",
    SURPLUS: "renewal was repeated, and an earlier attempt may have issued another certificate:"
    " results.jsonl names it as surplus",
    STILL_VALID: "device still has another valid certificate, with which it can connect",
}
"""What is worth knowing about operations that succeeded, by the name in `result["remarks"]`."""
