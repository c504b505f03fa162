"""Is a pack of evidence intact, who vouches for it, and what is it about?

In: a file that anybody may have made, and who may sign. Out: `Checked`: the signer, the manifest,
and everything that is wrong, in words. Nothing but the digests and the signature is read before the
signature is known to be that of a signer, and then nothing that is much longer than what was
signed. It must never unpack a file of the pack to the disk, apart from signatures and what they are
made for, which ssh-keygen gets in a private folder.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bulkcert.approval.signers import Signers
from bulkcert.approval.ssh_keygen import Signer, Verifier
from bulkcert.errors import EvidenceError
from bulkcert.evidence import NAMESPACE
from bulkcert.evidence.agreement import contradictions
from bulkcert.evidence.archive import ArchiveError, ArchiveReader, Entry
from bulkcert.evidence.facts import Facts
from bulkcert.evidence.manifest import HEAD, MANIFEST, SIGNATURE, SUMS, Manifest, Part
from bulkcert.quantities import count

_MOST_BYTES = 4 * 1024 * 1024
"""Of each file that is read before it is known who vouches for it."""

_MOST_FAULTS = 100

_LONGER = 1024 * 1024
"""Bytes that a file may be longer than what was signed; one that is longer still is not read."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a pack.

    Attributes:
        signer: who vouches for it; None if nobody does who may sign.
        manifest: what it is about; None unless somebody vouches for it.
        faults: everything that is wrong, in sentences without a full stop; none if it is intact.
        unchecked: what was not looked at because of them, likewise; empty if all was.
    """

    signer: Signer | None
    manifest: Manifest | None
    faults: tuple[str, ...]
    unchecked: str = ""


def check(path: Path, signers: Signers, witnessed: Collection[str] = ()) -> Checked:
    """Check a pack.

    Args:
        path: the file.
        signers: who may sign.
        witnessed: hashes of events that must be in it.

    Raises:
        EvidenceError: it can't be read, or is not a pack.
        ApprovalError: ssh-keygen is missing.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for somebody who writes
            raise EvidenceError(f"{path} is not a file.", "Name the file of a pack.")
        with path.open("rb") as file:
            return _Check(file, signers, witnessed).run(path)
    except OSError as error:
        raise EvidenceError(
            f"{path} can't be read: {error.strerror or error}", "Make it readable for this user."
        ) from error


class _Check:
    """One look at one pack, from its beginning to its end."""

    def __init__(self, file: IO[bytes], signers: Signers, witnessed: Collection[str]) -> None:
        self._witnessed = witnessed
        self._archive = ArchiveReader(file)
        self._signers = signers
        self._faults: list[str] = []
        self._signer: Signer | None = None
        self._manifest: Manifest | None = None

    def run(self, path: Path) -> Checked:
        try:
            unchecked = self._head()
        except ArchiveError as error:
            if not self._archive.is_pack:
                raise EvidenceError(
                    f"{path} is not a pack of evidence: {error}.",
                    "Name a file that `bulkcert evidence` has written.",
                ) from None
            self._faults.append(f"the pack is damaged: {error}")
            unchecked = "all that follows"
        if self._manifest is not None:
            unchecked = self._files(self._manifest)
        return Checked(self._signer, self._manifest, tuple(self._faults), unchecked)

    def _head(self) -> str:
        """Read what comes first; return what can't be checked after that."""
        if (sums := self._next(SUMS)) is None or (signature := self._next(SIGNATURE)) is None:
            return "all other files"
        with Verifier(self._signers, namespace=NAMESPACE) as verifier:
            signer = verifier.signer(sums, signature)
        if isinstance(signer, str):
            self._faults.append(f"nobody vouches for it: {SUMS}, {signer}")
            return "all other files: nothing says what was signed"
        self._signer = signer
        if (content := self._next(MANIFEST)) is None:
            return "all other files"
        try:
            manifest = Manifest.parse(content)
        except ValueError as error:
            manifest, why = None, f"{MANIFEST} was changed: it {error}"
        else:
            why = f"{MANIFEST} was changed: it is not the one that was signed"
        if manifest is None or manifest.sums() != sums:
            self._faults.append(why)
            return "all other files"
        self._manifest = manifest
        return ""

    def _next(self, name: str) -> bytes | None:
        """Read a file of the head; None if something else is there.

        Raises:
            ArchiveError: the pack is damaged, or the file is larger than any that is written.
        """
        entry = self._archive.next()
        if entry is None or entry.name != name:
            self._faults.append(f"{name} is missing, or not in its place")
            return None
        if entry.size > _MOST_BYTES:
            raise ArchiveError(f"{name} has more than {_MOST_BYTES:,} bytes")
        return entry.content()

    def _files(self, manifest: Manifest) -> str:
        """Read all other files, and compare them with each other and with what was signed.

        Returns:
            What can't be checked.
        """
        facts = Facts(witnessed=self._witnessed, extra_columns=manifest.extra_columns)
        seen: list[str] = []
        unread = ""
        try:
            while (entry := self._archive.next()) is not None:
                self._file(entry, manifest, facts, seen)
                if len(self._faults) > _MOST_FAULTS:  # it could go on for ever
                    raise ArchiveError("too much is wrong to go on")
        except ArchiveError as error:
            self._faults.append(f"the pack is damaged: {error}")
            unread = ", ".join(name for name in manifest.files if name not in seen)
        else:
            self._faults += [f"{name} is missing" for name in manifest.files if name not in seen]
            if sorted(seen) == sorted(manifest.files) and seen != list(manifest.files):
                self._faults.append("the files are not in the order in which they were signed")
        self._faults += contradictions(manifest, facts)
        return unread

    def _file(self, entry: Entry, manifest: Manifest, facts: Facts, seen: list[str]) -> None:
        """Read one file to its end."""
        name, part = entry.name, manifest.files.get(entry.name)
        if name in seen or name in HEAD:
            self._faults.append(f"{name} is there twice")
            part = None
        elif part is None:
            self._faults.append(f"{name} was added: it was not signed")
        if (more := entry.size - (part.bytes if part else 0)) > _LONGER:
            raise ArchiveError(f"{name} has {more:,} bytes too many")
        if part is None:
            entry.skip()
            return
        facts.read(entry)
        seen.append(name)
        self._faults += _changes(entry, part)


def _changes(entry: Entry, part: Part) -> Iterator[str]:
    """How a file differs from the one that was signed."""
    if entry.sha256 == part.sha256:
        return
    lines = count(entry.lines_read, "line")
    if entry.lines_read < part.lines:
        yield f"{entry.name} was cut: it has {lines}, and {part.lines:,} were signed"
    elif entry.lines_read > part.lines:
        yield f"{entry.name} was extended: it has {lines}, and {part.lines:,} were signed"
    else:
        yield f"{entry.name} was edited: it is not the one that was signed"
