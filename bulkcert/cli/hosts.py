"""`bulkcert hosts`: show the hosts that work on a run, and those that have."""

from __future__ import annotations

import click

from bulkcert.cli import console
from bulkcert.cli.format import as_text
from bulkcert.cli.hosts_screen import hosts_lines, hosts_object
from bulkcert.cli.options import json_option, run_argument
from bulkcert.observer import Observer
from bulkcert.rundir import RunDirectory


@click.command
@run_argument
@json_option
def hosts(directory: RunDirectory, as_json: bool) -> None:
    """Show the hosts that work on a run, each with its rate, its lease and where it sends from.

    "taken" is how many operations a host has claimed and not settled yet. Below a host stands what
    holds it up, or for how long it has been silent: the others fence it after a few seconds, and
    take over what it had. Hosts that have left or were fenced come last.

    \b
    Examples:
      bulkcert hosts revoke-key-compromise
      bulkcert hosts revoke-key-compromise --json
    """
    directory.require_access()
    view = Observer(directory, briefly=True).look()
    if as_json:
        console.print_json(hosts_object(view))
    else:
        console.print_text(as_text(hosts_lines(view), console.columns("stdout")))
