"""`renew` and `apply` issue real certificates, by the vendor's rules, that OpenSSL accepts."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from base64 import b64decode
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from vendor_clients import Client, Response, serving, until

from bulkcert.simulator import Behaviour

pytestmark = pytest.mark.system

SUBJECT = {
    NameOID.COUNTRY_NAME: "CN",
    NameOID.STATE_OR_PROVINCE_NAME: "Shanghai",
    NameOID.LOCALITY_NAME: "Shanghai",
    NameOID.ORGANIZATION_NAME: "EnOS",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "Meters",
    NameOID.COMMON_NAME: "meter 1",
}
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def make_csr(key: Key | None = None, hashed: Any = None, **changes: str) -> str:
    """A CSR in PEM. `changes` replace attributes of the subject by name; "" removes one."""
    values = SUBJECT | {getattr(NameOID, name): value for name, value in changes.items()}
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in values.items() if value])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    key = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashed or SHA256()).public_bytes(Encoding.PEM).decode()


def certificate(response: Response) -> x509.Certificate:
    return x509.load_pem_x509_certificate(response.json["data"]["cert"].encode())


async def ecc(client: Client, action: str = "renew", device: str = "A1", **fields: Any) -> Response:
    document = {"certSn": 5, "issueAuthority": "ECC", **fields}
    return await client.enos(action, device, document)


@pytest.mark.parametrize("authority", ["RSA", "ecc"])
async def test_a_renewal_with_a_csr_issues_what_it_asks_for(authority: str) -> None:
    key: Key = rsa_key() if authority == "RSA" else ec.generate_private_key(ec.SECP256R1())
    async with serving() as client:
        fields = {"csr": make_csr(key), "validDay": 220, "issueAuthority": authority}
        response = await ecc(client, **fields)
        data = response.json["data"]
        entry = client.simulator.ledger[-1]
        old, new = client.simulator.certificates("assetId=A1")
        listed = await client.listed()
    made = certificate(response)
    root = x509.load_pem_x509_certificate(data["caCert"].encode())
    assert str(made.serial_number) == data["certSN"]
    assert made.public_key() == key.public_key()
    assert made.not_valid_after_utc - made.not_valid_before_utc == timedelta(days=220)
    assert {attribute.oid: attribute.value for attribute in made.subject} == SUBJECT
    made.verify_directly_issued_by(root)
    assert data["certChainURL"].endswith(f"/enos/CA/cacert/{authority.upper()}")
    assert (entry["executed"], entry["effect"]) == (True, "renewed")
    assert entry["issued"] == made.serial_number
    assert (old.cert_sn, old.status, old.reason) == (5, "revoked", 4)
    assert (new.cert_sn, new.status, new.pem) == (made.serial_number, "valid", data["cert"])
    assert listed[0]["revokerReason"] == "SUPERSEDED"
    assert listed[1]["cert"] == data["cert"]
    assert listed[1]["subject"] == "CN=meter 1, OU=Meters, O=EnOS, L=Shanghai, ST=Shanghai, C=CN"
    assert listed[1]["issueAuthority"] == authority.upper()


async def test_serial_numbers_of_renewals_are_consecutive() -> None:
    async with serving() as client:
        await client.listed("other")
        responses = await asyncio.gather(*(ecc(client, device=f"A{n}") for n in range(20)))
        serials = [int(response.json["data"]["certSN"]) for response in responses]
        issued = [entry["issued"] for entry in client.simulator.ledger[2:]]
    assert sorted(serials) == list(range(min(serials), min(serials) + 20))
    assert sorted(issued) == sorted(serials)


async def test_a_renewal_without_a_csr_keeps_key_and_subject() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    async with serving() as client:
        first = await ecc(client, csr=make_csr(key))
        second = await ecc(client, certSn=certificate(first).serial_number)
        third = await ecc(client, device="A2")
        fourth = await ecc(client, device="A2", certSn=certificate(third).serial_number)
    assert certificate(second).public_key() == key.public_key()
    assert certificate(second).subject == certificate(first).subject
    assert certificate(third).public_key() == certificate(fourth).public_key()


async def test_a_renewal_cannot_be_repeated() -> None:
    async with serving() as client:
        assert (await ecc(client)).code == 0
        again = await ecc(client)
        assert (again.code, "has been revoked" in again.json["msg"]) == (99400, True)
        assert client.simulator.ledger[-1]["executed"] is False
    async with serving(Behaviour(renew_revokes_old=False)) as client:
        assert (await ecc(client)).code == 0
        assert (await ecc(client)).code == 0
        assert len(client.simulator.certificates("assetId=A1")) == 3


async def test_a_renewal_whose_response_is_lost_leaves_its_certificate() -> None:
    async with serving(Behaviour(faults_on="renew", cut_after=1.0)) as client:
        await client.listed("other")
        with pytest.raises(aiohttp.ClientError):
            await ecc(client)
        listed = await client.listed()
        entry = client.simulator.ledger[2]
    assert [item["certStatus"] for item in listed] == [1, 0]
    assert (entry["executed"], entry["status"]) == (True, None)
    assert str(entry["issued"]) == listed[1]["certSN"]


async def test_an_expired_certificate_cannot_be_renewed(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.jsonl"
    fleet.write_text('{"assetId": "A1", "certSn": 5, "effetiveDate": 1000, "expireDate": 2000}\n')
    async with serving(fleet=fleet) as client:
        response = await ecc(client)
        assert (response.code, "has expired" in response.json["msg"]) == (99400, True)
        assert (await client.listed())[0]["certStatus"] == 2


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"certSn": None}, "certSn is missing"),
        ({"certSn": 6}, "bound to other devices"),
        ({"validDay": 1096}, "exceeds the maximum certificate validity period"),
        ({"validDay": 0}, "validDay is not a positive Integer"),
        ({"validDay": "220"}, "validDay is not a positive Integer"),
        ({"issueAuthority": "DSA"}, "issueAuthority is neither"),
        ({"issueAuthority": 1}, "issueAuthority is neither"),
        ({"csr": "nonsense"}, "Invalid cert request!"),
        ({"csr": 17}, "Invalid cert request!"),
        ({"csr": make_csr(COMMON_NAME="")}, "the subject has no CN"),
        ({"csr": make_csr(LOCALITY_NAME="x" * 65)}, "more than 64 characters"),
        ({"csr": make_csr(hashed=SHA384())}, "not signed with SHA256"),
        ({"csr": make_csr(ec.generate_private_key(ec.SECP384R1()))}, "neither RSA"),
        ({"csr": make_csr(), "issueAuthority": "RSA"}, "not for issueAuthority RSA"),
        ({"csr": make_csr(rsa_key())}, "not for issueAuthority ECC"),
    ],
)
async def test_invalid_renewals_are_refused(fields: dict[str, Any], text: str) -> None:
    async with serving() as client:
        (item,) = await client.listed()
        response = await ecc(client, **{"certSn": int(item["certSN"]), **fields})
        states = [state.status for state in client.simulator.certificates("assetId=A1")]
    assert response.code == 99400
    assert text in response.json["msg"]
    assert states == ["valid"]


async def test_a_csr_with_a_wrong_signature_is_refused() -> None:
    lines = make_csr(COMMON_NAME="genuine").splitlines()
    der = bytearray(b64decode("".join(lines[1:-1])))
    at = der.index(b"genuine")
    der[at : at + 7] = b"forgery"
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()
    async with serving() as client:
        assert "its signature is wrong" in (await ecc(client, csr=forged)).json["msg"]


async def test_a_key_or_name_of_another_device_is_refused() -> None:
    csr = make_csr()
    async with serving() as client:
        assert (await ecc(client, csr=csr)).code == 0
        taken = await ecc(client, device="A2", csr=csr)
        assert (taken.code, taken.json["msg"]) == (
            11833,
            "certificate already bind to another device",
        )
        same_name = await ecc(client, "apply", "A3", csr=make_csr(COMMON_NAME="A4"))
        assert same_name.code == 0
        duplicate = await ecc(client, "apply", "A4", csr=make_csr(COMMON_NAME="A4"))
        assert "Duplicate subject" in duplicate.json["msg"]


@pytest.mark.parametrize(("supersedes", "states"), [(False, "valid"), (True, "revoked")])
async def test_apply_issues_another_certificate(supersedes: bool, states: str) -> None:
    async with serving(Behaviour(apply_revokes_old=supersedes)) as client:
        assert "csr is missing" in (await ecc(client, "apply")).json["msg"]
        response = await client.enos("apply", "A1", {"csr": make_csr(rsa_key()), "validDay": 365})
        entry = client.simulator.ledger[-1]
        old, new = client.simulator.certificates("assetId=A1")
    assert (entry["effect"], entry["issued"]) == ("applied", new.cert_sn)
    assert (old.status, new.status) == (states, "valid")
    assert response.json["data"]["issueAuthority"] == "RSA"


async def test_the_validity_follows_the_products_rules() -> None:
    behaviour = Behaviour(product_default_valid_day=30, bad_valid_day="default", ca_life=40)
    async with serving(behaviour) as client:
        default = certificate(await ecc(client))
        assert default.not_valid_after_utc - default.not_valid_before_utc == timedelta(days=30)
        odd = certificate(await ecc(client, device="A2", validDay=-1))
        assert odd.not_valid_after_utc - odd.not_valid_before_utc == timedelta(days=30)
        response = await ecc(client, device="A3", validDay=1000)
        root = x509.load_pem_x509_certificate(response.json["data"]["caCert"].encode())
        assert certificate(response).not_valid_after_utc == root.not_valid_after_utc
    async with serving(Behaviour(bi_directional_auth=False)) as client:
        assert "bi-directional" in (await ecc(client)).json["msg"]
    async with serving(Behaviour(product_max_valid_day=365)) as client:
        # the default of 730 days exceeds it
        assert "exceeds the maximum" in (await ecc(client)).json["msg"]


@pytest.mark.parametrize(
    ("choice", "authority"), [("RSA", "RSA"), ("same", "ECC"), ("refused", None)]
)
async def test_a_renewal_without_an_authority(choice: Any, authority: str | None) -> None:
    async with serving(Behaviour(renew_authority=choice)) as client:
        serial = int((await ecc(client)).json["data"]["certSN"])
        response = await client.enos("renew", "A1", {"certSn": serial})
    if authority:
        assert response.json["data"]["issueAuthority"] == authority
    else:
        assert response.code == 99400


async def test_a_new_certificate_may_come_without_its_ca() -> None:
    async with serving(Behaviour(ca_cert=False)) as client:
        data = (await ecc(client)).json["data"]
        assert "caCert" not in data
        url = data["certChainURL"].removeprefix(client.simulator.endpoint)
        root = x509.load_pem_x509_certificate((await client.send("GET", url)).body)
    x509.load_pem_x509_certificate(data["cert"].encode()).verify_directly_issued_by(root)


async def test_cert_in_a_list_is_pem_or_the_serial_number() -> None:
    async with serving(Behaviour(list_cert="pem")) as client:
        (item,) = await client.listed()
        made = x509.load_pem_x509_certificate(item["cert"].encode())
        assert str(made.serial_number) == item["certSN"]
    async with serving(Behaviour(list_cert="base64")) as client:
        (item,) = await client.listed()
        made = x509.load_der_x509_certificate(b64decode(item["cert"], validate=True))
        assert str(made.serial_number) == item["certSN"]
    async with serving(Behaviour(list_cert="serial")) as client:
        await ecc(client)
        assert [item["cert"] == item["certSN"] for item in await client.listed()] == [True, True]


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")
@pytest.mark.parametrize("authority", ["RSA", "ECC"])
async def test_openssl_accepts_certificates_and_revocation_lists(
    tmp_path: Path, authority: str
) -> None:
    async with serving() as client:

        async def verify(pem: str) -> tuple[int, str]:
            """Have OpenSSL verify a certificate against the published CA and revocation list."""
            for name in ("cacert", "crl"):
                response = await client.send("GET", f"/enos/CA/{name}/{authority}")
                (tmp_path / name).write_bytes(response.body)
            (tmp_path / "cert").write_text(pem)
            done = await asyncio.to_thread(
                subprocess.run,
                ["openssl", "verify", "-crl_check", "-CAfile", "cacert", "-CRLfile", "crl", "cert"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            return done.returncode, done.stderr

        fields = {"issueAuthority": authority}
        first = (await ecc(client, **fields)).json["data"]
        assert await verify(first["cert"]) == (0, "")
        second = (await ecc(client, certSn=int(first["certSN"]), **fields)).json["data"]
        assert await verify(second["cert"]) == (0, "")
        status, problem = await verify(first["cert"])
        assert status != 0
        assert "certificate revoked" in problem


async def test_public_files_are_served_in_the_chosen_format() -> None:
    async with serving(Behaviour(crl_format="der", crl_every=86_400)) as client:
        await client.revoke(5, "A1", reason=1)
        await client.revoke(6, "A2", reason=0)
        response = await client.send("GET", "/enos/CA/crl")
        revocations = x509.load_der_x509_crl(response.body)
        assert sorted(entry.serial_number for entry in revocations) == [5, 6]
        reasons = [list(entry.extensions) for entry in revocations]
        assert sorted(len(extensions) for extensions in reasons) == [0, 1]
        await client.revoke(7, "A3")
        assert (
            await client.send("GET", "/enos/CA/crl/RSA")
        ).body == response.body  # still today's list
        root = x509.load_pem_x509_certificate((await client.send("GET", "/enos/CA/cacert")).body)
        assert revocations.is_signature_valid(root.public_key())  # type: ignore[arg-type]
        assert (await client.send("POST", "/enos/CA/crl", b"x")).status == 405
        actions = [entry["action"] for entry in client.simulator.ledger]
    assert actions == ["token.get", "revoke", "revoke", "crl", "revoke", "crl", "cacert", "crl"]


async def test_the_sample_of_the_vendors_page_is_renewed() -> None:
    """A request with the header of the page, a device named in both ways, and 220 days."""
    csr = make_csr(rsa_key()).replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
    device = {"assetId": "KloXinjW", "productKey": "ymcDiAHd", "deviceKey": "TT6MyEFaO7"}
    async with serving() as client:
        document = {"certSn": 2667, "csr": csr, "validDay": 220}
        response = await client.enos("renew", device, document)
        assert list(response.json) == ["code", "msg", "requestId", "data"]
        assert list(response.json["data"]) == [
            *("certChainURL", "caCert", "cert", "certSN", "issueAuthority"),
        ]
        made = certificate(response)
        assert made.not_valid_after_utc - made.not_valid_before_utc == timedelta(days=220)
        assert str(made.serial_number) == response.json["data"]["certSN"]
        url = response.json["data"]["certChainURL"].removeprefix(client.simulator.endpoint)
        chain = (await client.send("GET", url)).body.decode()
        assert chain.strip() == response.json["data"]["caCert"]


async def test_revocation_lists_name_their_issuer_and_have_numbers_of_their_own() -> None:
    async with serving() as client:

        async def numbers(name: str) -> list[int]:
            root = x509.load_pem_x509_certificate(
                (await client.send("GET", f"/enos/CA/cacert/{name}")).body
            )
            identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            found = []
            for _ in range(3):
                text = (await client.send("GET", f"/enos/CA/crl/{name}")).body
                extensions = x509.load_pem_x509_crl(text).extensions
                issuer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
                assert issuer.key_identifier == identifier.digest
                found.append(extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
            return found

        assert await numbers("RSA") == [1, 2, 3]  # also within one second
        assert await numbers("ECC") == [1, 2, 3]


async def test_the_clock_of_the_authority_may_be_behind() -> None:
    async with serving(Behaviour(ca_clock_behind=3600)) as client:
        made = certificate(await ecc(client, validDay=10))
        old, new = await client.listed()
    begins_s = made.not_valid_before_utc.timestamp()
    assert 3590 < time.time() - begins_s < 3700
    assert new["signDate"] == begins_s * 1000
    assert new["expireDate"] - new["signDate"] == 10 * 86_400_000
    assert old["certStatus"] == 1


async def test_stopping_with_a_certificate_still_ordered() -> None:
    async with serving() as client:
        await client.listed("other")
        waiting = asyncio.create_task(ecc(client))
        await until(lambda: client.simulator.summary()["open"])
    with pytest.raises(aiohttp.ClientError):
        await waiting
