"""What `plan` shows of a renewal: the request that is sent, and what EnOS does by default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from enos_vendor import PrivateKey, signing_request

from bulkcert.cli import main
from bulkcert.keyspec import KINDS
from bulkcert.providers.enos.actions import RENEW, ROTATE

KEYS: dict[str, PrivateKey] = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "ECC": ec.generate_private_key(ec.SECP256R1()),
}
SUBJECT = "C=CN, ST=Shanghai, L=Shanghai, O=EnOS, OU=Meters, CN={assetId}"


def planned(folder: Path, more: str = "", action: str = "renew", **row: Any) -> str:
    """The output of `plan` for a job with one row."""
    job = folder / "job.toml"
    job.write_text(
        f'provider = "enos"\naction = "{action}"\ntargets = "t.jsonl"\n'
        f'[connection]\nendpoint = "https://apim.example.com"\norg_id = "o1"\n{more}'
    )
    (folder / "t.jsonl").write_text(json.dumps({"assetId": "A1", "certSn": 7} | row))
    ended = CliRunner().invoke(main, ["plan", str(job), "--run-dir", str(folder / "run")])
    assert ended.exit_code == 0, ended.output
    return ended.output


def body(output: str) -> dict[str, Any]:
    """The body of the request that `plan` shows."""
    return dict(json.loads(output.strip().splitlines()[-1]))


@pytest.mark.parametrize("authority", KEYS)
def test_the_authority_that_the_key_needs_is_part_of_the_request(
    tmp_path: Path, authority: str
) -> None:
    csr = signing_request("A1", KEYS[authority])
    shown = body(planned(tmp_path, csr=csr))
    assert shown == {"certSn": 7, "csr": csr, "issueAuthority": authority}
    asked = body(planned(tmp_path, csr=csr, issueAuthority="RSA"))
    assert asked["issueAuthority"] == "RSA"


@pytest.mark.parametrize(("kind", "authority"), [("rsa-2048", "RSA"), ("ecdsa-p256", "ECC")])
@pytest.mark.parametrize("action", [RENEW, ROTATE])
def test_the_authority_that_a_generated_key_needs_is_part_of_the_request(
    tmp_path: Path, action: Any, kind: str, authority: str
) -> None:
    keys = f'[keys]\ngenerate = "{kind}"\nsubject = "{SUBJECT}"\n'
    shown = body(planned(tmp_path, keys, action.name))
    assert shown == {"certSn": 7, "csr": "made for each device", "issueAuthority": authority}
    assert set(action.key_fields) == set(KINDS)


def test_the_defaults_of_the_vendor_are_named_unless_the_job_decides(tmp_path: Path) -> None:
    [line] = [each for each in planned(tmp_path).splitlines() if "where left out" in each]
    assert "validDay: 730" in line
    assert "csr: the old key pair is kept" in line
    decided = planned(tmp_path, "[parameters]\nvalidDay = 365\n")
    assert "validDay: 730" not in decided
    assert "validDay = 365" in decided
    assert body(decided)["validDay"] == 365
