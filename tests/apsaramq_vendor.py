"""ApsaraMQ for MQTT for the harness: its `Vendor` value, and rows of target files."""

from __future__ import annotations

from harness import Vendor
from job_folder import Row

CREDENTIALS = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "simulator-id",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "simulator-secret",
}
CA = "007269004887000001"
INSTANCE = "post-cn-7mz2d000001"
SENDS = {
    "inactivate": "InactivateDeviceCertificate",
    "activate": "ActiveDeviceCertificate",
    "delete": "DeleteDeviceCertificate",
    "get": "GetDeviceCertificate",
}
"""The vendor's name of each action."""


def devices(count: int) -> list[Row]:
    """Rows of a target file; the serial numbers begin with zeros and have letters of both cases."""
    return [{"DeviceSn": f"00aF{number:04}", "CaSn": CA} for number in range(count)]


APSARAMQ = Vendor(
    name="apsaramq",
    credentials=CREDENTIALS,
    connection={"instance_id": INSTANCE},
    limits={"requests_per_second": 5000, "requests_per_second_per_source_ip": 5000},
    behaviour={"limit": 0, "mq_source_limit": 0, "retry_after": 0},
)
