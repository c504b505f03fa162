"""Keys, signing requests and certificates in a shared store.

In: a function that runs a query, and the number of a run. Out: rows as typed values. Nothing here
can open the envelope of a key. Must never replace a key, nor pass over one that it can't add: a
certificate could be issued whose key is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import LiteralString

from bulkcert.model import Material, MaterialKind
from bulkcert.store.postgresql.campaign import Query

_ADD: LiteralString = """
    INSERT INTO bulkcert.material (run, operation, attempt, kind, name, content)
    SELECT %s, * FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::text[], %s::bytea[])
"""


def add_material(query: Query, run: int, material: Sequence[Material]) -> None:
    """Add material.

    A certificate that is already there stays: a look-up may find it more than once.

    Raises:
        psycopg.errors.UniqueViolation: the attempt of an operation has another key already.
    """
    made = [each for each in material if each.kind in (MaterialKind.KEY, MaterialKind.CSR)]
    issued = [each for each in material if each not in made]
    if made:
        query(_ADD, _columns(run, made))
    if issued:
        chains = {m.content for m in issued if m.kind is MaterialKind.CHAIN}
        # sorted, so that no two hosts wait for each other; mostly they are known, and nobody waits
        by_digest = sorted((sha256(chain).digest(), chain) for chain in chains)
        query(
            "INSERT INTO bulkcert.ca_chain SELECT %s, new.*"
            " FROM unnest(%s::bytea[], %s::bytea[]) AS new (sha256, content) WHERE NOT EXISTS"
            "  (SELECT FROM bulkcert.ca_chain AS known"
            "   WHERE known.run = %s AND known.sha256 = new.sha256)"
            " ON CONFLICT DO NOTHING",
            (run, [digest for digest, _ in by_digest], [chain for _, chain in by_digest], run),
        )
        query(_ADD + "ON CONFLICT DO NOTHING", _columns(run, issued))


def _columns(run: int, material: Sequence[Material]) -> tuple[object, ...]:
    return (
        run,
        [each.operation_id for each in material],
        [each.attempt for each in material],
        [str(each.kind) for each in material],
        [each.name for each in material],
        [
            sha256(each.content).digest() if each.kind is MaterialKind.CHAIN else each.content
            for each in material
        ],
    )


def read_requests(query: Query, run: int, operation_ids: Collection[int]) -> dict[int, str]:
    """The signing requests of operations, by their ids, as far as they have one."""
    rows = query(
        "SELECT operation, content FROM bulkcert.material"
        " WHERE run = %s AND operation = ANY(%s) AND kind = 'csr' ORDER BY attempt",
        (run, list(operation_ids)),
    )
    return {operation: bytes(content).decode() for operation, content in rows}


def read_material(query: Query, run: int, operation_ids: Collection[int]) -> list[Material]:
    """All material of operations, each in the order of attempts."""
    rows = query(
        "SELECT m.operation, m.attempt, m.kind, m.name, coalesce(c.content, m.content)"
        " FROM bulkcert.material AS m"
        " LEFT JOIN bulkcert.ca_chain AS c"
        "  ON m.kind = 'chain' AND c.run = m.run AND c.sha256 = m.content"
        " WHERE m.run = %s AND m.operation = ANY(%s) ORDER BY m.operation, m.attempt, m.kind",
        (run, list(operation_ids)),
    )
    return [
        Material(operation, attempt, MaterialKind(kind), name, bytes(content))
        for operation, attempt, kind, name, content in rows
    ]
