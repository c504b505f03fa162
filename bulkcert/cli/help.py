"""What every command says about itself beside its options: arguments, exit codes, variables.

In: the name of a command. Out: the end of its help text; docs/cli.md and the man page are made from
the same tables. Pure data and text, and quick to import.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

_NOT_READ = "the run can't be found or read"

ARGUMENTS: Mapping[str, str] = {
    "JOB": "the job file",
    "RUN": "a run: its directory, its job file, or its name; `bulkcert runs` lists them",
    "[DIR]": "a folder; by default the current one",
    "[RUN]": "a run, as for the other commands; none with --check",
    "NAME": "the name of a run in a shared store; `bulkcert runs` lists them",
    "FIELD=VALUE...": "what names the target: a field or column of the target file, and its value"
    " in full",
    "VERB": "`pause`, `resume`, `stop`, `rate` or `go`",
    "[VALUE]": "of `rate`: requests per second, or `max`, all that the plan allows; of `go`: the"
    " wave that the run may leave, such as `canary` or `10%`",
    "ACTION": "`init`, `check` or `migrate`",
    "[URL]": "the database, such as `postgresql://bulkcert@db/bulkcert`, without a password; by"
    " default that in `BULKCERT_STORE`",
    "SHELL": "`bash`, `zsh` or `fish`",
}
"""What each argument of a command means."""

EXIT_CODES: Mapping[str, Mapping[int, str]] = {
    "": {
        0: "every operation succeeded or was already done",
        1: "the run is over, and some operations failed, are unknown or were left out",
        2: "nothing was sent: wrong usage, job file, target file or credentials",
        3: "stopped early; the same command continues the run",
        4: "stopped by its own rules; the message says how to go on",
    },
    "plan": {
        0: "the job can be run",
        2: "it can't: the usage, the job file or the target file is wrong",
        3: "stopped by a signal",
    },
    "approve": {
        0: "the approval is kept",
        2: "nothing was kept: the job can't be run, or the key's approval would not count",
        3: "stopped by a signal",
    },
    "run": {
        0: "every operation succeeded or was already done",
        1: "the run is over, and some operations failed, are unknown or were left out",
        2: "nothing was sent: wrong usage, job file, target file, credentials or approvals, or not"
        " confirmed",
        3: "stopped early by a signal, --until, --no-wait, a provider that can't be used, a full"
        " disk or a fault of bulkcert; the same command continues the run",
        4: "stopped by its own rules: the same command sends nothing until --override or --amend",
    },
    "work": {
        0: "the run is over: every operation succeeded or was already done",
        1: "the run is over, and some operations failed, are unknown or were left out",
        2: "nothing was sent: wrong usage, no such run, or it has not begun, or credentials",
        3: "this host has left; others go on, and so does the same command",
        4: "the run was stopped by its own rules; the message says how to go on",
    },
    "control": {
        0: "it is in force; or it is recorded, and no process works on the run",
        1: "it is recorded, but was not in force within 10 s",
        2: "nothing was changed: wrong usage, or the run is over, or does not wait for that wave,"
        " or can't be read or written",
        3: "stopped by a signal while it waited; what is recorded stays recorded",
    },
    "runs": {0: "the runs were listed, even if there are none", 2: "the folder can't be read"},
    "status": {
        0: "the figures were printed, whatever they are; or somebody left the screen",
        2: f"{_NOT_READ}, or is gone",
    },
    "hosts": {0: "the hosts were printed, even if there are none", 2: _NOT_READ},
    "results": {0: "the records were printed", 2: f"{_NOT_READ}, or the output can't be written"},
    "history": {0: "the history was printed", 2: f"{_NOT_READ}, or has no such device"},
    "verify": {
        0: "everything agrees",
        1: "something differs, or a revoked certificate is not in the list of its CA",
        2: "nothing differs, but something could not be checked",
        3: "stopped early by a signal",
    },
    "report": {0: "the page was written", 2: f"{_NOT_READ}, or the page can't be written"},
    "material": {
        0: "all that the store has is written, and fits together",
        1: "it is written, but something does not fit, is missing or can't be opened",
        2: f"nothing was written, or not everything: {_NOT_READ}, the key is not the operator's, or"
        " the folder is not empty or can't be written",
        3: "stopped by a signal",
    },
    "evidence": {
        0: "the pack was written; or, with --check, it is intact",
        1: "with --check: it is not intact, or whoever signed it is not in the signers file",
        2: "nothing was written: wrong usage, the run can't be read, the key can't be used or the"
        " file exists; or, with --check, it could not be checked",
        3: "stopped by a signal",
    },
    "store": {
        0: "it is done; or, of `check`, the database is fit",
        1: "of `check`: a run would be in danger there",
        2: "wrong usage, or the database can't be used",
    },
    "simulate": {
        0: "it was stopped",
        1: "the ledger can't be written",
        2: "wrong usage, or the port is taken",
    },
    "completion": {0: "the script was printed", 2: "wrong usage"},
}
"""The exit codes of each command, and of `bulkcert` as a whole under the empty name."""

VARIABLES: Mapping[str, str] = {
    "ENOS_APP_KEY": "EnOS: access key of the application",
    "ENOS_APP_SECRET": "EnOS: secret key of the application",
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "ApsaraMQ: id of the access key",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "ApsaraMQ: secret of the access key",
    "ALIBABA_CLOUD_SECURITY_TOKEN": "ApsaraMQ: STS token, for a temporary access key (optional)",
    "BULKCERT_STORE": "the URL of a shared store",
    "BULKCERT_EGRESS": "with a shared store: the name of the way out of the network that this host"
    " uses, where addresses have a limit; hosts behind the same one share its limit, as do all"
    " without a name",
    "BULKCERT_NEVER": "a list of what must never be touched, besides that of the job",
    "XDG_STATE_HOME": "the folder whose `bulkcert/` remembers the runs and the plans that were"
    " begun, and lets runs on one account share its ceiling; by default `~/.local/state`",
    "NO_COLOR": "if set, no colours on the terminal",
}
"""What each environment variable means."""

_CREDENTIALS = tuple(name for name in VARIABLES if name.startswith(("ENOS", "ALIBABA")))
_NEVER, _NAMES, _COLOURS = "BULKCERT_NEVER", "XDG_STATE_HOME", "NO_COLOR"
_EGRESS = "BULKCERT_EGRESS"

ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "": tuple(VARIABLES),
    "plan": (_NEVER, _COLOURS),
    "approve": (_NEVER, _COLOURS),
    "run": (*_CREDENTIALS, "BULKCERT_STORE", _EGRESS, _NEVER, _NAMES, _COLOURS),
    "work": (*_CREDENTIALS, "BULKCERT_STORE", _EGRESS, _NEVER, _NAMES, _COLOURS),
    "control": (_NAMES, _COLOURS),
    "runs": (_NAMES, _COLOURS),
    "status": (_NAMES, _COLOURS),
    "hosts": (_NAMES, _COLOURS),
    "results": (_NAMES, _COLOURS),
    "history": (_NAMES, _COLOURS),
    "verify": (*_CREDENTIALS, _NAMES, _COLOURS),
    "report": (_NAMES, _COLOURS),
    "material": ("BULKCERT_STORE", _NAMES, _COLOURS),
    "evidence": (_NAMES, _COLOURS),
    "store": ("BULKCERT_STORE", _COLOURS),
    "simulate": (_COLOURS,),
    "completion": (_COLOURS,),
}
"""The variables that each command reads, and `bulkcert` as a whole under the empty name."""

_WIDTH = 76
"""Of the lines below, which click indents by two: all fits 80 columns."""


def epilog(command: str = "", arguments: Sequence[str] = ()) -> str:
    """Return the end of the help text.

    Args:
        command: the command; empty for `bulkcert` itself.
        arguments: its arguments, as its usage shows them.
    """
    meanings = {name: ARGUMENTS[name] for name in arguments}
    codes = {str(code): meaning for code, meaning in EXIT_CODES[command].items()}
    variables = {name: VARIABLES[name] for name in ENVIRONMENT[command]}
    blocks = {"Arguments": meanings, "Exit codes": codes, "Environment variables": variables}
    return "\n\n".join(_block(title, entries) for title, entries in blocks.items() if entries)


def _block(title: str, entries: Mapping[str, str]) -> str:
    """A list that click leaves as it is."""
    longest = max(map(len, entries))
    lines = [
        textwrap.fill(
            f"{name:{longest}}  {meaning}",
            _WIDTH,
            initial_indent="  ",
            subsequent_indent=" " * (longest + 4),
        )
        for name, meaning in entries.items()
    ]
    return "\n".join(("\b", f"{title}:", *lines))
