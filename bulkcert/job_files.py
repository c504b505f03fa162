"""The files of a job, for hosts that have none of them: the job file, and the files that it names.

In: a job, or its files as a shared store has them. Out: the files, or the job. The target file is
not among them: its rows are in the store. Must never contain a credential or a private key; a user
name and a password for a proxy are left out, as they are everywhere.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from bulkcert import durable
from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.jobfile import load_job
from bulkcert.jobfile.location import locate
from bulkcert.pem import has_private_key

JOB = "job.toml"
"""The name of the job file; no other file has it."""

_ELSEWHERE = "elsewhere"
"""The folder of the files that are not in the folder of the job."""

_PUBLIC_KEY = "select.public_key"
"""Its file may have the private key itself, which must not leave this machine."""

_FILES = (
    *("approval.signers", "approval.revoked", "protect.never"),
    *("connection.ca_file", _PUBLIC_KEY, "keys.operator"),
)
"""The keys whose values may name a file."""

_COMMANDS = ("check.command", "notify.command")
"""The keys whose values have words, each of which may name a file in the folder of the job."""

Files = Mapping[str, bytes]


def files_of(job: Job) -> dict[str, bytes]:
    """Return the files of a job, by the names that they have in the folder of the job.

    Returns:
        The files; none if the job can't be given away: it was built by a program, came from a pipe,
        is written in an unusual way, or names a file with a private key for another purpose.
    """
    file = locate(job.file) if job.file else None
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8-sig")
        document = tomllib.loads(text)
        wanted = tomllib.loads(text)
        text = _without_proxy_password(text, wanted)
        files: dict[str, bytes] = {}
        for key, name, path in _named(document, file.parent):
            kept = name
            if key == _PUBLIC_KEY:
                kept = job.select["public_key"]  # its digest
            elif key in _FILES and not _is_inside(name):
                kept = f"{_ELSEWHERE}/{len(files)}-{path.name}"
            if kept != name:
                text = _renamed(text, name, kept)
                section, _, last = key.partition(".")
                wanted[section][last] = kept
            if key != _PUBLIC_KEY:
                files[kept] = path.read_bytes()
        if tomllib.loads(text) != wanted or JOB in files:
            return {}
        if any(has_private_key(each.decode("latin-1")) for each in files.values()):
            return {}
    except (OSError, ValueError):
        return {}
    return {JOB: text.encode(), **files}


def unpacked(files: Files, folder: Path, name: str) -> Job:
    """Write the files of a job into a folder, and load the job.

    Args:
        files: what `files_of` has returned on another host.
        folder: where to write them; what is there is replaced.
        name: the name of the job, which the file need not have.

    Raises:
        JobError: they can't be written, or the job can't be loaded here.
    """
    try:
        for each, content in files.items():
            if not _is_inside(each):
                raise JobError(
                    f"The shared store has a file of the job outside its folder: {each!r}.",
                    "Find out who has changed the tables.",
                )
            path = folder / each
            durable.make_directory(path.parent)
            durable.write(path, content)
        job = dataclasses.replace(load_job(folder / JOB), name=name)
        for section in (job.rules.check, job.notify):
            for word in section.command if section else ():
                if word in files:
                    (folder / word).chmod(0o700)
    except OSError as error:
        raise JobError(
            f"The files of the job can't be written into {folder}: {error.strerror or error}",
            "Free some space there, or name another directory with --run-dir.",
        ) from error
    return job


def _named(document: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str, Path]]:
    """The files that a job names: the key, the name as it is written, and the file."""
    for key in (*_FILES, *_COMMANDS):
        section, _, last = key.partition(".")
        values = document.get(section)
        value = values.get(last) if isinstance(values, dict) else None
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str) or "\0" in name:
                continue
            if key in _COMMANDS and not _is_inside(name):
                continue  # a program of the host
            path = folder / name
            if path.is_file():
                yield key, name, path


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in the folder of the job, or below it."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and bool(path.parts)


def _renamed(text: str, name: str, kept: str) -> str:
    """The text of a job file in which a value has changed."""
    for quote in ('"', "'"):
        text = text.replace(f"{quote}{name}{quote}", f"{quote}{kept}{quote}")
    return text


def _without_proxy_password(text: str, document: dict[str, Any]) -> str:
    """The text of a job file without user name and password for a proxy; the document likewise."""
    connection = document.get("connection")
    proxy = connection.get("proxy") if isinstance(connection, dict) else None
    if not isinstance(proxy, str) or "@" not in proxy:
        return text
    public = urlsplit(proxy)._replace(netloc=urlsplit(proxy).netloc.rpartition("@")[2]).geturl()
    document["connection"]["proxy"] = public
    return re.sub(re.escape(proxy), lambda _: public, text)
