"""Packs the evidence of a run into one signed file.

In: the store of a run, its run directory, and something that signs. Out: a new file that is
complete or not there. Everything is read in one snapshot of the store, also while the run goes on;
the signature, for which somebody may have to touch a key, is made after it. Files that are too
large for the memory are put aside in the folder of the new file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from bulkcert import durable
from bulkcert.errors import EvidenceError
from bulkcert.evidence.archive import ArchiveWriter
from bulkcert.evidence.contents import Chunks, Contents
from bulkcert.evidence.manifest import MANIFEST, SIGNATURE, SUMS, Manifest, Part
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import StoreReader

_IN_MEMORY = 1024 * 1024


def pack(
    reader: StoreReader, directory: RunDirectory, output: Path, sign: Callable[[bytes], bytes]
) -> Manifest:
    """Write a pack.

    Args:
        reader: the store of the run.
        directory: the run directory.
        output: the new file.
        sign: returns the signature of what it is given.

    Returns:
        What the pack is about.

    Raises:
        EvidenceError: the file exists already, or can't be written.
    """
    refuse_existing(output)
    try:
        with tempfile.TemporaryFile(dir=output.parent) as body:
            with reader.snapshot(), ArchiveWriter(body, last=True) as archive:
                manifest = _write_files(reader, directory, archive, output.parent)
            signature = sign(manifest.sums())
            refuse_existing(output)
            with durable.replacing(output, 0o600) as file:
                _write_head(file, manifest, signature)
                body.seek(0)
                shutil.copyfileobj(body, file)
    except OSError as error:
        raise EvidenceError(
            f"{output} can't be written: {error.strerror or error}",
            "Check that its folder exists and has space, or name another file with -o.",
        ) from error
    return manifest


def refuse_existing(output: Path) -> None:
    """Refuse to replace a file: it may be evidence itself.

    Raises:
        EvidenceError: there is one.
    """
    if os.path.lexists(output):
        raise EvidenceError(
            f"{output} exists already, and evidence is never replaced.",
            "Name another file with -o, or move this one away.",
        )


def _write_files(
    reader: StoreReader, directory: RunDirectory, archive: ArchiveWriter, folder: Path
) -> Manifest:
    """Write all files but those at the beginning, and return what they are."""
    parts = {}
    with contextlib.closing(Contents(reader, directory)) as contents:
        for name, chunks in contents.files():
            # a header has the length, so it is written when that is known
            with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=os.fspath(folder)) as aside:
                parts[name] = part = _copy(chunks, aside)
                aside.seek(0)
                archive.add(name, part.bytes, aside)
        return contents.manifest(parts)


def _copy(chunks: Chunks, file: IO[bytes]) -> Part:
    """Write a stream to a file, and return what was written."""
    digest, size, lines = hashlib.sha256(), 0, 0
    for chunk in chunks:
        file.write(chunk)
        digest.update(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n")
    return Part(digest.hexdigest(), size, lines)


def _write_head(file: IO[bytes], manifest: Manifest, signature: bytes) -> None:
    """Write the files that come first: they are made last."""
    with ArchiveWriter(file, last=False) as archive:
        for name, content in (
            (SUMS, manifest.sums()),
            (SIGNATURE, signature),
            (MANIFEST, manifest.as_bytes()),
        ):
            archive.add(name, len(content), io.BytesIO(content))
