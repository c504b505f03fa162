"""Organizations and instances: each row goes to its own, and to the job's if it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from apsaramq_vendor import APSARAMQ
from harness import in_this_process

from bulkcert.providers.apsaramq import requests as apsaramq
from bulkcert.providers.apsaramq.actions import APSARAMQ as APSARAMQ_PROVIDER
from bulkcert.providers.enos import requests as enos
from bulkcert.providers.enos.actions import ENOS as ENOS_PROVIDER

DEVICE = {"DeviceSn": "01", "CaSn": "0c"}


@pytest.mark.parametrize(
    ("fields", "instance"), [(DEVICE, "i-1"), (DEVICE | {"MqttInstanceId": "i-2"}, "i-2")]
)
def test_every_request_of_apsaramq_names_the_instance_of_its_row(
    fields: dict[str, Any], instance: str
) -> None:
    made = [apsaramq.change_request(name, "i-1", fields) for name in ("inactivate", "delete")]
    made += [apsaramq.get_request("i-1", fields), apsaramq.list_request("i-1", fields)]
    for request in made:
        assert dict(request.query)["MqttInstanceId"] == instance
        assert f"MqttInstanceId={instance}" in request.target
    for action in APSARAMQ_PROVIDER.actions.values():
        sample = APSARAMQ_PROVIDER.sample(action, {"instance_id": "i-1"}, fields)
        assert f"MqttInstanceId={instance}" in sample.request.target


@pytest.mark.parametrize("organization", ["o-1", "o-2"])
def test_every_request_of_enos_names_the_organization_of_its_row(organization: str) -> None:
    fields: dict[str, Any] = {"assetId": "A", "certSn": 1}
    if organization != "o-1":
        fields["orgId"] = organization
    for make in (enos.revoke_request, enos.renew_request, enos.list_request):
        request = make("o-1", fields)
        assert dict(request.query)["orgId"] == organization
        assert b"orgId" not in request.body
    for action in ENOS_PROVIDER.actions.values():
        sample = ENOS_PROVIDER.sample(action, {"org_id": "o-1"}, fields)
        assert f"orgId={organization}" in sample.request.target


@pytest.mark.system
@pytest.mark.parametrize("connection", [{}, {"instance_id": "i-0"}, {"instance_id": "i-1"}])
async def test_a_job_over_two_instances(tmp_path: Path, connection: dict[str, str]) -> None:
    rows = [
        DEVICE | {"MqttInstanceId": "i-1"},
        DEVICE | {"MqttInstanceId": "i-2"},
        {"DeviceSn": "02", "CaSn": "0c", "MqttInstanceId": "i-2"},
    ]
    async with in_this_process(tmp_path, APSARAMQ, "inactivate", rows, fleet=rows) as job:
        job.document["connection"] = {"endpoint": job.simulator.endpoint} | connection
        job.write()
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        # a second request for the same certificate would change nothing
        effects = [entry["effect"] for entry in job.entries("InactivateDeviceCertificate")]
        assert effects == ["inactivated"] * 3
