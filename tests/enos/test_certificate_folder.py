"""The files of a new certificate: leaf, chain, fullchain."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkcert.errors import ResultNotKeptError
from bulkcert.providers.enos.certificate_folder import CertificateFolder
from bulkcert.providers.enos.issuance import Issued


@pytest.fixture
def folder(tmp_path: Path) -> CertificateFolder:
    made = CertificateFolder(tmp_path / "certificates")
    made.open()
    return made


def pem(content: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n"


LEAF, CA, OTHER_CA = map(pem, ("AAAA", "BBBB", "CCCC"))


def contents(folder: Path, files: dict[str, str]) -> dict[str, str]:
    return {kind: (folder / name).read_text() for kind, name in files.items()}


def test_a_certificate_with_its_ca_is_three_files(
    folder: CertificateFolder, tmp_path: Path
) -> None:
    files = folder.keep("A1+1", Issued(7, LEAF, CA), flawed=False)
    assert files == {
        "certificate_file": "certificates/A1+1.7.fullchain.pem",
        "leaf_file": "certificates/A1+1.7.leaf.pem",
        "chain_file": "certificates/A1+1.7.chain.pem",
        "fullchain_file": "certificates/A1+1.7.fullchain.pem",
    }
    assert contents(tmp_path, files) == {
        "certificate_file": LEAF + CA,
        "leaf_file": LEAF,
        "chain_file": CA,
        "fullchain_file": LEAF + CA,
    }


@pytest.mark.parametrize("flawed", [False, True])
def test_a_certificate_without_its_ca_is_one_file(
    folder: CertificateFolder, tmp_path: Path, flawed: bool
) -> None:
    files = folder.keep("A1+1", Issued(7, LEAF), flawed=flawed)
    name = f"certificates/A1+1.7{'.failed' if flawed else ''}.leaf.pem"
    assert files == {"certificate_file": name, "leaf_file": name}
    assert (tmp_path / name).read_text() == LEAF


def test_every_certificate_has_the_chain_of_its_own_ca(
    folder: CertificateFolder, tmp_path: Path
) -> None:
    """Even if the file of an earlier one is gone, or is written again after a crash."""
    chains = [CA, CA, OTHER_CA, CA, CA]
    kept = []
    for serial, ca in enumerate(chains):
        kept.append(folder.keep("A1+1", Issued(serial, LEAF, ca), flawed=False))
    (tmp_path / kept[4]["chain_file"]).unlink()
    kept += [folder.keep("A1+1", Issued(serial, LEAF, CA), flawed=False) for serial in (3, 5)]
    assert [(tmp_path / files["chain_file"]).read_text() for files in kept[:4]] == chains[:4]
    assert [(tmp_path / files["chain_file"]).read_text() for files in kept[5:]] == [CA, CA]


def test_a_file_that_can_not_be_written_keeps_the_operation_in_doubt(
    folder: CertificateFolder, tmp_path: Path
) -> None:
    (tmp_path / "certificates/A1+1.7.chain.pem").mkdir()
    with pytest.raises(ResultNotKeptError, match="can't be written"):
        folder.keep("A1+1", Issued(7, LEAF, CA), flawed=False)
