"""The manifest of a pack: what it is about, and the digest and length of each file. Pure.

In: what the store says, and the files. Out: the bytes of `MANIFEST`, a JSON object, and of
`SHA256SUMS`, which is signed: the digests of all files and of `MANIFEST`, as `sha256sum -c` reads
them. And the manifest back; whatever this module would not write is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import orjson

from bulkcert.event_log import FIRST, RunEvent
from bulkcert.evidence.archive import is_name
from bulkcert.json_lines import as_json, utc
from bulkcert.model import Outcome

MANIFEST, SUMS, SIGNATURE = "MANIFEST", "SHA256SUMS", "SHA256SUMS.sig"
HEAD = (SUMS, SIGNATURE, MANIFEST)
"""They come first, so that nothing else is read before it is known who vouches for it."""

_FORMAT = "bulkcert evidence 1"
_DIGEST = re.compile("[0-9a-f]{64}")


class Part(NamedTuple):
    """One file of a pack.

    Attributes:
        sha256: its digest, in hexadecimal digits.
        bytes: its length.
        lines: number of its line ends.
    """

    sha256: str
    bytes: int
    lines: int


class LastEvent(NamedTuple):
    """The last event of the log; without any, its number is 0."""

    seq: int = 0
    at: str | None = None
    hash: str = FIRST


class Verified(NamedTuple):
    """What the last `verify` has recorded; `sha256` is the digest of what it has seen."""

    at: str
    agrees: int
    differs: int
    not_read: int
    sha256: str

    @classmethod
    def of(cls, event: RunEvent) -> Self:
        """Return what an event about a verification says."""
        return cls(utc(event.at), *(event.data[name] for name in cls._fields[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a pack is about. The attributes are the keys of `MANIFEST`, in their order.

    Attributes:
        run: the name of the run.
        run_id: what no other run has.
        number: which run of its job it is.
        provider, action, endpoint: what was done, and where.
        rehearsal: it was a rehearsal; nothing was sent to the endpoint.
        plan: the hash of the plan.
        as_of: the last moment that the pack knows of, RFC 3339 in UTC; None if nothing has happened
            yet. A signature has no time.
        finished: no operation is left to do.
        exit_code: as in `summary.json`.
        total: number of operations.
        outcomes: number of operations by outcome.
        history: number of attempts, look-ups and other entries of the history.
        approvals: how many of them are in the pack.
        verified: what the last `verify` has recorded; None if nobody has verified the run.
        last_event: the last event of the log.
        extra_columns: columns of the target file that the job does not use; the results have them,
            and `targets.jsonl` has not.
        left_out: files that are missing, and why.
        files: all files but those of `HEAD`, by name, in their order.
    """

    run: str
    run_id: str
    number: int
    provider: str
    action: str
    endpoint: str
    rehearsal: bool
    plan: str
    as_of: str | None
    finished: bool
    exit_code: int
    total: int
    outcomes: Mapping[str, int]
    history: int
    approvals: int
    verified: Verified | None
    last_event: LastEvent
    extra_columns: Sequence[str]
    left_out: Mapping[str, str]
    files: Mapping[str, Part]

    def as_object(self) -> dict[str, Any]:
        """Return the JSON object in `MANIFEST`."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        fields["verified"] = self.verified and self.verified._asdict()
        fields["last_event"] = self.last_event._asdict()
        fields["files"] = {name: part._asdict() for name, part in self.files.items()}
        return {"format": _FORMAT, **fields}

    def as_bytes(self) -> bytes:
        """Return the content of `MANIFEST`."""
        return as_json(self.as_object(), indent=True) + b"\n"

    def sums(self) -> bytes:
        """Return the content of `SHA256SUMS`."""
        digests = {MANIFEST: hashlib.sha256(self.as_bytes()).hexdigest()}
        digests |= {name: part.sha256 for name, part in self.files.items()}
        return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read a manifest.

        Raises:
            ValueError: it is not one.
        """
        try:
            fields: Any = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise ValueError("is not JSON") from error
        try:
            kind = fields.pop("format")
            fields["verified"] = fields["verified"] and Verified(**fields["verified"])
            fields["last_event"] = LastEvent(**fields["last_event"])
            fields["files"] = {name: Part(**part) for name, part in fields["files"].items()}
            manifest = cls(**fields)
            is_sound = kind == _FORMAT and _is_sound(manifest) and manifest.as_bytes() == content
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("has other fields than a manifest") from error
        if not is_sound:
            raise ValueError("is not a manifest as this version of bulkcert writes it")
        return manifest


def is_digest(text: str) -> bool:
    """Whether a text is a SHA-256 digest in hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def _is_sound(manifest: Manifest) -> bool:
    """Whether everything has the type that it should have."""
    counts = [manifest.number, manifest.exit_code, manifest.total, manifest.history]
    counts += [manifest.approvals, manifest.last_event.seq, *manifest.outcomes.values()]
    counts += [number for part in manifest.files.values() for number in part[1:]]
    texts = [manifest.run, manifest.run_id, manifest.provider, manifest.action, manifest.endpoint]
    texts += [*manifest.extra_columns, *manifest.left_out, *manifest.left_out.values()]
    texts += [manifest.as_of or "", manifest.last_event.at or ""]
    digests = [manifest.plan, manifest.last_event.hash]
    digests += [part.sha256 for part in manifest.files.values()]
    if (verified := manifest.verified) is not None:
        counts += verified[1:4]
        texts.append(verified.at)
        digests.append(verified.sha256)
    return (
        all(type(number) is int and number >= 0 for number in counts)
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(each, bool) for each in (manifest.rehearsal, manifest.finished))
        and all(map(is_digest, digests))
        and all(is_name(name) and name not in HEAD for name in manifest.files)
        and list(manifest.outcomes) == [str(outcome) for outcome in Outcome]
    )
