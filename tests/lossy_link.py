"""A connection to PostgreSQL that breaks at a COMMIT: before it arrives, or before its answer."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_COMMIT = b"COMMIT\0"


class LossyLink:
    """Passes bytes on between clients and a server.

    Args:
        dsn: the server.

    Attributes:
        dsn: the server behind this link.
        lose_commits: how many COMMITs are still to be lost, with their connection.
        lose_answers: how many answers to COMMIT are still to be lost, with their connection.
        keep_answers: likewise, but the connection goes on without a word.
    """

    def __init__(self, dsn: str) -> None:
        values = conninfo_to_dict(dsn)
        self._host, self._port = str(values.get("host", "")), int(values.get("port", 5432))
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=port, sslmode="disable")
        self.lose_commits = self.lose_answers = self.keep_answers = 0
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server

    def _pass_on(self, client: socket.socket) -> None:
        is_commit = False
        with client, self._connect() as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    if not (data := source.recv(1 << 16)):
                        return
                    if source is server:
                        if is_commit and self.lose_answers:
                            self.lose_answers -= 1
                            return
                        if is_commit and self.keep_answers:
                            self.keep_answers -= 1
                            continue
                        client.sendall(data)
                        continue
                    is_commit = _COMMIT in data
                    if is_commit and self.lose_commits:
                        self.lose_commits -= 1
                        return
                    server.sendall(data)
