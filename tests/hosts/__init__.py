"""Several hosts on one run, and everything that may happen to them.

In: real processes of `bulkcert`, a real PostgreSQL, the simulator as the provider. Out: a verdict
on each scenario, by the provider's own record of what arrived. Nothing here uses code of `bulkcert`
to judge it.

    python -m tests.hosts --list            the scenarios
    python -m tests.hosts NAME [NAME ...]   some of them; without a name all

The parts: `network` (where hosts are), `wire` (what arrives at the provider, by the kernel),
`database` (a server that can crash and forget), `store_proxy` (the way to it), `host` (one process
after the other on one machine), `lives` (who is alive, by the store), `world` (all of that
together), `judge` (what must hold), `scenarios`, and `rehearsal`.
"""
