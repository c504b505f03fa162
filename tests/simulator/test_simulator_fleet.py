"""Fleet files in every format, and the fleet that they describe."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bulkcert.simulator import Simulator
from bulkcert.simulator.enos.fleet import VALID, Fleet, Identity
from bulkcert.simulator.fleet_file import read_rows

CSV = "assetId,certSn\r\nA1,5\r\nA2,6\r\n"
JSONL = '{"assetId": "A1", "certSn": 5}\n\n{"assetId": "A2", "certSn": "6"}\n'


def make_fleet(*, open_world: bool = False) -> Fleet:
    return Fleet(open_world=open_world, signed_at_s=0, life_days=1)


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a BOM"])
@pytest.mark.parametrize(("name", "text"), [("fleet.csv", CSV), ("fleet.jsonl", JSONL)])
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_is_read(
    tmp_path: Path, name: str, text: str, mark: str, packed: bool
) -> None:
    content = (mark + text).encode()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    fleet = make_fleet()
    for _, row in read_rows(path):
        fleet.add_row(row)
    assert fleet.bound(fleet.known(Identity("A1"))[0]) == [0]
    assert list(fleet.serial) == [5, 6]
    assert fleet.known(Identity("A3")) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("fleet.txt", "", "neither .csv nor .jsonl"),
        ("fleet.csv", "assetId,certSn\nA1,5\n,6\n", "row 2: neither assetId nor"),
        ("fleet.csv", "assetId,certSn\nA1,five\n", "row 1: invalid literal"),
        ("fleet.csv", "assetId,certSn\nA1,-5\n", "row 1"),
        ("fleet.csv", "assetId,certSn,issueAuthority\nA1,5,DSA\n", "row 1"),
        ("fleet.csv", "CaSn,DeviceSn\n007,\n", "row 1: CaSn or DeviceSn is missing"),
        ("fleet.csv", "CaSn,DeviceSn,MqttInstanceId\n1,2,i\n1,3,\n", "in some rows only"),
        ("fleet.jsonl", "{", "unexpected end"),
    ],
)
async def test_invalid_files_are_refused(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        async with Simulator(fleet=path):
            pass


def test_devices_may_belong_to_organizations() -> None:
    fleet = make_fleet()
    fleet.add_row({"assetId": "A1", "certSn": 5, "orgId": "o1"})
    fleet.add_row({"assetId": "A1", "certSn": 6, "orgId": "o2"})
    for org_id, serial in (("o1", 5), ("o2", 6)):
        (device,) = fleet.devices(Identity("A1", org_id=org_id))
        assert [fleet.serial[row] for row in fleet.bound(device)] == [serial]
    assert fleet.devices(Identity("A1", org_id="o3")) == []
    assert len(fleet.known(Identity("A1"))) == 2  # as the pages about the simulator ask
    with pytest.raises(ValueError, match="orgId is in some rows only"):
        fleet.add_row({"assetId": "A2", "certSn": 7})


def test_without_organizations_devices_belong_to_all() -> None:
    fleet = make_fleet()
    fleet.add_row({"assetId": "A1"})
    serials = []
    for org_id in ("o1", "o2", ""):
        identity = Identity("A1", org_id=org_id)
        (device,) = fleet.devices(identity)
        serials += [fleet.serial[row] for row in fleet.rows(device, identity)]
    assert len(set(serials)) == 1


def test_bare_devices_have_no_certificate() -> None:
    fleet = Fleet(open_world=False, signed_at_s=0, life_days=1, bare_devices=True)
    fleet.add_row({"assetId": "A1"})
    fleet.add_row({"assetId": "A2", "certSn": 5})
    for name, expected in (("A1", []), ("A2", [5])):
        (device,) = fleet.devices(Identity(name))
        assert [fleet.serial[row] for row in fleet.rows(device, Identity(name))] == expected


def test_new_serials_follow_the_ones_in_the_file() -> None:
    fleet = make_fleet()
    for serial in (7, 1_500_000_000, 2**63, 9):
        fleet.add_row({"assetId": "A1", "certSn": serial})
    assert [fleet.new_serial() for _ in range(3)] == [*range(1_500_000_001, 1_500_000_004)]
    assert make_fleet().new_serial() > 1_000_000_000


def test_both_names_lead_to_the_same_device() -> None:
    fleet = make_fleet(open_world=True)
    both = Identity("A1", "p", "d")
    (device,) = fleet.devices(both)
    assert fleet.known(Identity("A1")) == fleet.known(Identity("", "p", "d")) == [device]
    assert fleet.known(Identity("", "p", "")) == []
    (row,) = fleet.rows(device, both, serial=5)
    assert fleet.rows(device, both, serial=6) == [row]
    assert fleet.status(row, 0) == VALID
