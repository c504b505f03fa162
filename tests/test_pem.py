"""Of PEM text only the certificate signing request is used, and private keys go nowhere."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from bulkcert.errors import JobError, TargetsRejectedError
from bulkcert.jobfile import load_job
from bulkcert.model import Rejection, Target
from bulkcert.pem import has_private_key, signing_request
from bulkcert.plan import build
from bulkcert.providers.enos.actions import RENEW
from bulkcert.rundir import RunDirectory
from bulkcert.targets import TargetFile

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A1")])
REQUEST = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(KEY, hashes.SHA256())
CSR = REQUEST.public_bytes(PEM).decode()
PUBLIC_KEY = (
    KEY.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
)
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def private_key(form: serialization.PrivateFormat, password: bytes | None = None) -> str:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    return KEY.private_bytes(PEM, form, encryption).decode()


PRIVATE_KEYS = {
    "PKCS#8": private_key(serialization.PrivateFormat.PKCS8),
    "encrypted": private_key(serialization.PrivateFormat.PKCS8, b"secret"),
    "traditional": private_key(serialization.PrivateFormat.TraditionalOpenSSL),
    "OpenSSH": private_key(serialization.PrivateFormat.OpenSSH),
    "PuTTY": "PuTTY-User-Key-File-3: ssh-rsa\nPrivate-Lines: 1\nAAAAsecretAAAA\nPrivate-MAC: 1\n",
    "SSH2": "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nAAAAsecretAAAA\n",
    "PGP": "-----BEGIN PGP PRIVATE KEY BLOCK-----\nAAAAsecretAAAA\n",
    "without its beginning": "AAAAsecretAAAA\n-----END RSA PRIVATE KEY-----\n",
}


def secret_of(key: str) -> str:
    return max(key.splitlines(), key=len)[5:25] if "secret" not in key else "AAAAsecretAAAA"


def rows(content: str, folder: Path | None = None, name: str = "t.csv") -> list[Target | Rejection]:
    if folder is None:
        return list(TargetFile(None, RENEW, {}, {}, stdin=io.BytesIO(content.encode())))
    path = folder / name
    path.write_text(content)
    return list(TargetFile(path, RENEW, {}, {}))


def in_csv(cell: str) -> str:
    return f'assetId,certSn,csr\nA1,1001,"{cell}"\n'


# ---- the request alone


@pytest.mark.parametrize(
    "text",
    [
        CSR,
        f"\n\n  {CSR}  \n",
        CSR.replace("\n", "\r\n"),
        CSR.replace("\n", "\n    "),
        f"Certificate Request:\n    Data:\n{CSR}",
        PUBLIC_KEY + CSR + CERTIFICATE,
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + CSR,
    ],
    ids=range(7),
)
def test_only_the_request_is_kept(text: str) -> None:
    assert signing_request(text) == (CSR, REQUEST.public_bytes(DER))
    [target] = rows(in_csv(text))
    assert isinstance(target, Target)
    assert target.fields["csr"] == CSR


def test_the_label_of_a_request_is_kept() -> None:
    labelled = CSR.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
    assert signing_request(labelled)[0] == labelled


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CSR + CSR, "contains 2 certificate signing requests; give only one"),
        (CERTIFICATE, "is a certificate, not a certificate signing request"),
        (PUBLIC_KEY, "is a public key, not a certificate signing request"),
        (CSR[:100], "is not a readable certificate signing request in PEM"),
        (CSR.replace("M", "!", 1), "is not a readable certificate signing request in PEM"),
        ("", "is not a readable certificate signing request in PEM"),
    ],
    ids=range(6),
)
def test_anything_else_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        signing_request(text)
    assert str(caught.value) == reason


# ---- private keys


@pytest.mark.parametrize("kind", PRIVATE_KEYS)
@pytest.mark.parametrize("place", ["cell before", "cell after", "other column", "file", "jsonl"])
def test_a_private_key_is_refused_and_never_quoted(tmp_path: Path, kind: str, place: str) -> None:
    key = PRIVATE_KEYS[kind]
    match place:
        case "cell before":
            content = in_csv(key + CSR)
        case "cell after":
            content = in_csv(CSR + key)
        case "other column":
            content = f'assetId,certSn,csr,note\nA1,1001,"{CSR}","{key}"\n'
        case "file":
            (tmp_path / "d.pem").write_text(CSR + key)
            content = in_csv("d.pem")
        case _:
            content = json.dumps({"assetId": "A1", "certSn": 1001, "csr": CSR, "note": key})
    [found] = rows(content, tmp_path, "t.jsonl" if place == "jsonl" else "t.csv")
    assert isinstance(found, Rejection)
    assert found.field == ("csr" if place == "file" else "")
    assert found.reason.startswith("contains a private key, which must not leave the machine ")
    assert "quote" not in found.reason
    assert secret_of(key) not in found.reason


def test_a_private_key_in_escaped_json_is_refused() -> None:
    key = PRIVATE_KEYS["PKCS#8"]
    content = json.dumps({"assetId": "A1", "certSn": 1, "csr": CSR + key})
    [found] = rows(content.replace("PRIVATE KEY", "PRIVATE\\u0020KEY"))
    assert isinstance(found, Rejection)
    assert found.field == ""
    assert found.reason.startswith("contains a private key")


def test_a_private_key_beside_the_request_is_refused_wherever_it_comes_from() -> None:
    with pytest.raises(ValueError, match=r"^contains a private key"):
        signing_request(CSR + PRIVATE_KEYS["PKCS#8"])


def test_a_number_is_no_signing_request() -> None:
    [found] = rows(json.dumps({"assetId": "A1", "certSn": 1, "csr": 5}))
    assert found == Rejection(1, "csr", "must be PEM text, or the path of a PEM file")


def test_text_about_keys_is_not_a_key() -> None:
    assert not has_private_key("PRIVATE KEY LOST, see the Private-Office")
    assert not has_private_key("PuTTY-installed")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            REQUEST.public_bytes(DER),
            "names the file 'd.pem', which is not PEM; `openssl req -infor",
        ),
        (
            pkcs12.serialize_key_and_certificates(
                b"d", KEY, None, None, serialization.BestAvailableEncryption(b"secret")
            ),
            "names the file 'd.pem', which is not PEM",
        ),
        (CSR.encode() + b" " * 70_000, "names the file 'd.pem', which is larger than 64 KiB"),
        (b"\xff\xfe" + CSR.encode("utf-16-le"), ""),
        (b"\xef\xbb\xbf" + CSR.encode(), ""),
        ("friendlyName: Gerät\n".encode() + CSR.encode(), ""),
    ],
    ids=["DER", "PKCS#12", "too large", "UTF-16", "UTF-8 with a BOM", "UTF-8"],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "d.pem").write_bytes(content)
    [found] = rows(in_csv("d.pem"), tmp_path)
    if reason:
        assert isinstance(found, Rejection)
        assert found.reason.startswith(reason)
    else:
        assert isinstance(found, Target)
        assert found.fields["csr"] == CSR


def test_a_key_without_its_first_line_is_not_quoted_as_the_name_of_a_file(tmp_path: Path) -> None:
    body = "".join(PRIVATE_KEYS["traditional"].splitlines()[1:-1])
    [found] = rows(in_csv(body), tmp_path)
    assert isinstance(found, Rejection)
    assert found.reason.startswith("names a file that cannot be read: ")
    assert body[:10] not in found.reason


def test_no_report_of_a_plan_contains_a_refused_private_key(
    tmp_path: Path,
) -> None:
    key = PRIVATE_KEYS["PKCS#8"]
    (tmp_path / "d.pem").write_text(key + CSR)
    (tmp_path / "t.csv").write_text(in_csv("d.pem") + f'A2,1002,"{CSR}{key}"\n')
    (tmp_path / "job.toml").write_text(
        'provider = "enos"\naction = "renew"\ntargets = "t.csv"\n'
        '[connection]\nendpoint = "https://apim.example.com"\norg_id = "o1"\n'
    )
    job = load_job(tmp_path / "job.toml")
    targets = TargetFile(job.targets, job.action, job.parameters, job.columns)
    with pytest.raises(TargetsRejectedError) as caught:
        build(job, targets, tmp_path / "plan", RunDirectory(tmp_path / "run"))
    assert secret_of(key) not in f"{caught.value}{caught.value.first}"
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert written
    assert not any(secret_of(key).encode() in path.read_bytes() for path in written)


def test_a_private_key_in_a_job_file_is_refused_like_a_credential(tmp_path: Path) -> None:
    key = PRIVATE_KEYS["PKCS#8"]
    (tmp_path / "job.toml").write_text(
        'provider = "enos"\naction = "renew"\ntargets = "t.csv"\n'
        '[connection]\nendpoint = "https://apim.example.com"\norg_id = "o1"\n'
        f'[parameters]\ncsr = """\n{CSR}{key}"""\n'
    )
    with pytest.raises(JobError) as caught:
        load_job(tmp_path / "job.toml")
    assert "parameters.csr contains a private key, which must not be in a job" in str(caught.value)
    assert secret_of(key) not in str(caught.value)
