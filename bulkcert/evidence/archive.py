"""Files in a tar archive, compressed with gzip, each in the one form in which it can be written.

In: names and content, streamed. Out: an archive that every tar can unpack, the same bytes for the
same content; and the same back from an archive that anybody may have made. Reading accepts a header
only if it is byte for byte the one that writing makes, so links, devices, attributes, long names
and everything else that an archive may contain are refused without looking at them. It must never
write to the disk, nor keep more than a bounded part in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

from bulkcert.quantities import count
from bulkcert.values import shown

FOLDER = "evidence/"
"""All files are in this folder, so that unpacking scatters nothing."""

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,40}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,40}", re.ASCII)
_BLOCK = tarfile.BLOCKSIZE
_MTIME_S = 315_532_800
"""1980-01-01: tar warns of files from 1970."""

_END = bytes(2 * _BLOCK)
_CHUNK = 256 * 1024
_LONGEST_LINE = 16 * 1024 * 1024
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
}


class ArchiveError(Exception):
    """An archive is damaged, or not one of ours; the text is a sentence without a full stop."""


def is_name(name: str) -> bool:
    """Whether a file in an archive may have this name, below `FOLDER`."""
    return _NAME.fullmatch(name) is not None


def header(name: str, size: int) -> bytes:
    """The header of a file.

    Args:
        name: its name below `FOLDER`.
        size: its length in bytes.
    """
    info = tarfile.TarInfo(FOLDER + name)
    info.size, info.mode, info.mtime = size, 0o644, _MTIME_S  # all else is 0 or empty
    return info.tobuf(tarfile.GNU_FORMAT)  # whose sizes have no limit


class ArchiveWriter:
    """Writes an archive, or a part of one: parts written one after the other are one archive.

    A context manager.

    Args:
        file: where to.
        last: no part follows.
    """

    def __init__(self, file: IO[bytes], *, last: bool) -> None:
        # no name and no time
        self._file = gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
        self._last = last

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._last:
            self._file.write(_END)
        self._file.close()

    def add(self, name: str, size: int, content: IO[bytes]) -> None:
        """Add a file.

        Args:
            name: its name below `FOLDER`.
            size: its length in bytes.
            content: read to its end.
        """
        assert is_name(name)
        self._file.write(header(name, size))
        while chunk := content.read(_CHUNK):
            self._file.write(chunk)
        self._file.write(bytes(-size % _BLOCK))


class Entry:
    """A file in an archive, which can be read once, from its beginning to its end.

    Attributes:
        name: its name below `FOLDER`.
        size: its length in bytes, as its header has it.
        lines_read: how many line ends were in what was read so far.
    """

    def __init__(self, stream: _Stream, name: str, size: int) -> None:
        self._stream = stream
        self._left = size
        self._padding = -size % _BLOCK
        self._digest = hashlib.sha256()
        self.name = name
        self.size = size
        self.lines_read = 0

    @property
    def sha256(self) -> str:
        """The digest of what was read so far, in hexadecimal digits."""
        return self._digest.hexdigest()

    def chunks(self) -> Iterator[bytes]:
        """Read it in parts; if it was read in part, the rest.

        Raises:
            ArchiveError: the archive is damaged.
        """
        while self._left:
            chunk = self._stream.read(min(_CHUNK, self._left))
            self._left -= len(chunk)
            self._digest.update(chunk)
            self.lines_read += chunk.count(b"\n")
            yield chunk
        padding, self._padding = self._padding, 0
        if any(self._stream.read(padding)):
            raise ArchiveError(f"there is something between {self.name} and what follows")

    def lines(self) -> Iterator[bytes]:
        """Read it in lines, without their line ends.

        Raises:
            ArchiveError: the archive is damaged, or a line is longer than any that is written.
        """
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > _LONGEST_LINE:
                raise ArchiveError(f"{self.name} has a line of more than {_LONGEST_LINE:,} bytes")
        if rest:
            yield rest

    def skip(self) -> None:
        """Read the rest, and nothing else."""
        for _ in self.chunks():
            pass

    def content(self) -> bytes:
        """Read it as a whole; the caller has looked at its size."""
        return b"".join(self.chunks())


class ArchiveReader:
    """Reads the files of an archive, in order. Whatever it contains, memory stays bounded.

    Args:
        file: the archive.

    Attributes:
        is_pack: it has begun like an archive of ours.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._stream = _Stream(file)
        self.is_pack = False

    def next(self) -> Entry | None:
        """Return the next file, once the one before was read; None at the end.

        Raises:
            ArchiveError: the archive is damaged, or has something that is not written into one.
        """
        block = self._stream.read(_BLOCK)
        if not any(block):
            if any(self._stream.read(len(_END) - _BLOCK)) or not self._stream.is_over():
                raise ArchiveError("there is something behind its end")
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise ArchiveError("it is not a tar archive, or damaged") from error
        self.is_pack = self.is_pack or info.name.startswith(FOLDER)
        name = info.name.removeprefix(FOLDER)
        if info.type in _KINDS:
            raise ArchiveError(f"it contains {shown(info.name)}, {_KINDS[info.type]}")
        if not info.name.startswith(FOLDER) or not is_name(name):
            raise ArchiveError(
                f"it contains {shown(info.name)}, which is not the name of a part of a pack"
            )
        if info.size < 0 or block != header(name, info.size):
            raise ArchiveError(f"the header of {name} has something that bulkcert does not write")
        return Entry(self._stream, name, info.size)


class _Stream:
    """What an archive contains, unpacked."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = gzip.GzipFile(fileobj=file, mode="rb")

    def read(self, size: int) -> bytes:
        """Read exactly this number of bytes."""
        content = self._up_to(size)
        if len(content) < size:
            missing = count(size - len(content), "byte")
            raise ArchiveError(f"it is cut off: at least {missing} more should follow")
        return content

    def is_over(self) -> bool:
        return not self._up_to(1)

    def _up_to(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except EOFError:
            raise ArchiveError("it is cut off") from None
        except (gzip.BadGzipFile, zlib.error):
            raise ArchiveError("it is not compressed with gzip, or damaged") from None
