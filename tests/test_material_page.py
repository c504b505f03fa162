"""docs/material.md: an envelope can be opened without this program, as the page says."""

from __future__ import annotations

import base64
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from code_blocks import python_blocks
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from operator_key import OperatorKey
from shared_run import SharedRun

from bulkcert.envelope import Binding, operator_key, seal

PAGE = Path(__file__).parents[1] / "docs" / "material.md"
CONTENT = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"

pytestmark = pytest.mark.system


def rsa_pair() -> tuple[bytes, str]:
    key = rsa.generate_private_key(65537, 3072)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, operator_key(public)


@pytest.mark.parametrize("kind", ["x25519", "rsa"])
def test_the_script_opens_what_the_query_prints(
    kind: str, tmp_path: Path, shared_store: str
) -> None:
    new = OperatorKey()
    private, public = (new.private, new.public) if kind == "x25519" else rsa_pair()
    run = SharedRun(tmp_path, shared_store, 2)
    with run.reader() as reader:
        run_id = reader.manifest().run_id
    for number in (1, 2):
        run.execute(
            "INSERT INTO bulkcert.material (run, operation, attempt, kind, name, content)"
            " VALUES (run(), %s, 1, 'key', 'A', %s)",
            number,
            seal(CONTENT, public, Binding(run_id, number, 1, "key")),
        )
    (query,) = PAGE.read_text().split("```sql\n")[1:]
    query = query.partition("```")[0].replace("'renew'", f"'{run.name}'")
    with closing(psycopg.connect(run.dsn)) as db:
        lines = [" ".join(map(str, row)) for row in db.execute(query.encode())]
    (script,) = python_blocks(PAGE)
    (tmp_path / "open_material.py").write_text(script)
    (tmp_path / "ops-private.pem").write_bytes(private)
    opened = subprocess.run(
        [sys.executable, "open_material.py", "ops-private.pem"],
        input="\n".join(lines).encode(),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert opened.stdout == CONTENT * 2
    assert base64.b64decode(lines[0].split()[-1])[:8] == b"BULKCERT"
