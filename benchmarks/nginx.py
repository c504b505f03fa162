"""A server that costs next to nothing: nginx with fixed answers, as a child process on loopback.

One location answers the token call and one the certificate API of EnOS; the rest answers as
ApsaraMQ does, with the serial number that was asked for.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import background

_CONFIGURATION = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    log_format ended_at '$msec';
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
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

_ANSWERS = {
    "token": '{"status":0,"msg":"SUCCESS","business":null,'
    '"data":{"accessToken":"1f2c7b4e9a6d4c0fb1de5a8c3e7f9012","expire":7200}}',
    "revoked": '{"code":0,"msg":"OK","requestId":"e3391ff8-6e0c-4b6f-9d3b-0d3c1c9f2a11",'
    '"data":null}',
    "inactivated": '{"RequestId":"020F6A43-19E6-4B6E-B846-44EB31DF0001",'
    '"DeviceSn":"$arg_DeviceSn"}',
}


class MissingError(Exception):
    """A program or package that a benchmark needs is not installed."""


@contextmanager
def serving(folder: Path, log: Path | None = None) -> Iterator[str]:
    """Serve until the block ends; yields the endpoint.

    Args:
        folder: for its own files.
        log: where to note when each request to the certificate API of EnOS was answered: one line
            for each, Unix time in seconds.

    Raises:
        MissingError: nginx is not installed.
    """
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        raise MissingError("nginx is not installed")
    folder = folder / "nginx"
    folder.mkdir()
    port = free_port()
    logged = "" if log is None else f"access_log {log} ended_at;"
    (folder / "nginx.conf").write_text(
        _CONFIGURATION.format(folder=folder, port=port, log=logged, **_ANSWERS)
    )
    command = [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    with background(command, cwd=folder) as process:
        for _ in range(200):
            if process.poll() is not None:
                raise MissingError(f"nginx ended: {(folder / 'error.log').read_text()[-500:]}")
            if _answers(port):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    """A port of the loopback address that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/connect-service/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
