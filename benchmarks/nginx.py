"""The cheapest server there is: nginx with fixed responses, as a child process on loopback.

One location serves EnOS's token call and one its certificate API. Every other path gets ApsaraMQ's
response, with the serial number from the request.
"""

from __future__ import annotations

import ipaddress
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.processes import MissingError, ProgramError, background

_CONFIGURATION = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    log_format finished_at '$msec';
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096{tls};
        location /apim-token-service/ {{
            return 200 '{token}';
        }}
        location /connect-service/ {{
            {log}
            return 200 '{revoked}';
        }}
        location / {{
            return 200 '{inactivated}';
        }}
    }}
}}
"""

RESPONSES = {
    "token": '{"status":0,"msg":"SUCCESS","business":null,'
    '"data":{"accessToken":"1f2c7b4e9a6d4c0fb1de5a8c3e7f9012","expire":7200}}',
    "revoked": '{"code":0,"msg":"OK","requestId":"e3391ff8-6e0c-4b6f-9d3b-0d3c1c9f2a11",'
    '"data":null}',
    "inactivated": '{"RequestId":"020F6A43-19E6-4B6E-B846-44EB31DF0001",'
    '"DeviceSn":"$arg_DeviceSn"}',
}


@contextmanager
def serving(
    folder: Path, log: Path | None = None, tls: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """Serve for the length of the block, and yield the endpoint.

    Args:
        folder: where to keep nginx's own files.
        log: a file that gets one line for each response of EnOS's certificate API, with the Unix
            time in seconds at which it was sent.
        tls: paths of a certificate and its private key (PEM), to serve HTTPS.

    Raises:
        MissingError: nginx is not installed.
        ProgramError: nginx exited at its start.
    """
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        raise MissingError("nginx is not installed")
    folder = folder / ("nginx-tls" if tls else "nginx")
    folder.mkdir()
    port = free_port()
    parts = {
        "port": port,
        "tls": "",
        "log": "" if log is None else f"access_log {log} finished_at;",
    }
    if tls:
        parts["tls"] = f" ssl; ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]}"
    (folder / "nginx.conf").write_text(_CONFIGURATION.format(folder=folder, **parts, **RESPONSES))
    command: list[str | Path]
    command = [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    with background(command, cwd=folder) as process:
        for _ in range(200):
            if process.poll() is not None:
                raise ProgramError(f"nginx exited: {(folder / 'error.log').read_text()[-500:]}")
            if _accepts(port):
                break
            time.sleep(0.05)
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and its private key, both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bulkcert benchmarks")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    public_key = key.public_key()
    certificate = (
        x509.CertificateBuilder(name, name, public_key, x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "server.pem", folder / "server.key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def free_port() -> int:
    """Return a port of the loopback address that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
