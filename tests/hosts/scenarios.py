"""The scenarios: each function is one. Its docstring says what is done; `judge` what must hold.

Times are seconds after the first request. A lease is over after 6 s of silence, and fenced after 8.
Most scenarios renew certificates, because a second renewal shows.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from processes import bulkcert, until

from hosts.judge import Figures, steady
from hosts.keys import fetched, missing_keys, operator
from hosts.newer import newer_version
from hosts.scenario import Log, scenario
from hosts.store_proxy import Fate, Trap
from hosts.world import (
    FAULTS,
    GRACE_S,
    TTL_S,
    World,
    devices,
    document,
    world,
)

BEYOND_S = TTL_S + GRACE_S + 4.0
"""A host that is stopped for so long is fenced by the others."""

CLAIM = b"SKIP LOCKED"


def _three(
    made: World, count: int, action: str = "revoke", hosts: int = 3, **sections: object
) -> None:
    """A campaign on three hosts, begun."""
    made.campaign("campaign", devices(count), **document(action, **sections))
    for _ in range(hosts):
        made.add()
    made.begin()


# ---- who dies


@scenario
def everything_at_once(folder: Path, log: Log) -> Figures:
    """Three hosts, one clock an hour wrong; 6 s: one is killed; 12 s: another is stopped for 15 s;
    18 s: the database crashes; 22 s: a new host."""
    rows = devices(15_000)
    with world(folder, rows, log, **FAULTS) as made:
        made.campaign("campaign", rows, **document("revoke"))
        first, second, third = (made.add() for _ in range(3))
        third.set_clock(3600)
        made.begin()
        made.at(6, "the first host is killed")
        made.kill(first)
        made.at(12, "the second host is stopped")
        second.stop()
        made.died_at[second.pid] = time.time()
        made.at(18, "the database crashes, and starts again")
        made.database.crash()
        made.database.start()
        made.at(22, "a fourth host joins")
        made.add().run_job()
        made.at(27, "the second host is continued")
        second.go_on()
        made.finish()
        return made.figures(codes=_DEAD | {second.name: {0, 1, -signal.SIGKILL}})


_DEAD = {"host1": {-signal.SIGKILL}}


@scenario
def nothing_wrong(folder: Path, log: Log) -> Figures:
    """Three hosts, and nothing happens."""
    rows = devices(10_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 10_000)
        made.finish()
        return made.figures()


@scenario
def all_hosts_lost(folder: Path, log: Log) -> Figures:
    """All three hosts are killed within two seconds; a fourth finishes."""
    rows = devices(8_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 8_000)
        for seconds, host in zip((5, 6, 7), list(made.hosts), strict=True):
            made.at(seconds, f"{host.name} is killed")
            made.kill(host)
        made.say("a fourth host joins")
        made.add().run_job()
        made.finish()
        return made.figures(codes={f"host{n}": {-signal.SIGKILL} for n in (1, 2, 3)})


@scenario
def zombies(folder: Path, log: Log) -> Figures:
    """Again and again a host is stopped beyond its lease and continued. Nothing may arrive from it
    after it was fenced. ZOMBIES in the environment: how many cycles, 6 by default."""
    cycles = int(os.environ.get("ZOMBIES", "6"))
    count = 3_500 * max(2, cycles // 2)
    rows = devices(count)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, count, "renew", hosts=4)
        survivor, *others = made.hosts
        done = 0
        while done < cycles:
            victims = others[: cycles - done]
            for host in victims:
                if not host.is_running:
                    host.run_job()
            for host in victims:
                until(lambda host=host: any(life.beats > 2 for life in made.lives.of(host.pid)))
            time.sleep(2)
            made.say(f"{len(victims)} hosts are stopped for {BEYOND_S:.0f} s")
            for host in victims:
                host.stop()
                made.died_at[host.pid] = time.time()
            time.sleep(BEYOND_S)
            for host in victims:
                host.go_on()
            done += len(victims)
            time.sleep(1)
            made.say(f"{done} cycles; {sum(h.is_running for h in victims)} have survived")
            if not survivor.is_running:
                break
        made.finish(600)
        codes = {host.name: {0, 1, -signal.SIGKILL} for host in others}
        return made.figures(codes=codes)


@scenario.in_namespaces
def packets_dropped_then_killed(folder: Path, log: Log) -> Figures:
    """All packets of a host are lost, it is killed, and then its network works again."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000, "renew")
        first = made.hosts[0]
        made.at(5, "the network of the first host is cut")
        first.place.cut()
        made.at(6.5, "the first host is killed")
        made.kill(first)
        made.at(8, "its network works again")
        first.place.heal()
        made.finish()
        return made.figures(codes=_DEAD)


@scenario.in_namespaces
def cut_off(folder: Path, log: Log) -> Figures:
    """A host is cut off from everything for longer than its lease, then its network works again."""
    rows = devices(8_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 8_000, "renew")
        first = made.hosts[0]
        made.at(5, "the network of the first host is cut")
        first.place.cut()
        made.at(5 + BEYOND_S, "it works again")
        first.place.heal()
        made.finish()
        return made.figures(codes={first.name: {0, 1, 3, -signal.SIGKILL}})


@scenario.in_namespaces
def blackout(folder: Path, log: Log) -> Figures:
    """The networks of all hosts are cut for 0.3 s, again and again: nobody dies."""
    rows = devices(6_000)
    with world(folder, rows, log) as made:
        _three(made, 6_000)
        for seconds in (4, 7, 10):
            made.at(seconds, "no packet arrives for 0.3 s")
            for host in made.hosts:
                host.place.cut()
            time.sleep(0.3)
            for host in made.hosts:
                host.place.heal()
        made.finish()
        return made.figures()


@scenario
def joins_leaves_and_joins(folder: Path, log: Log) -> Figures:
    """A host leaves in good order and joins again, twice."""
    rows = devices(9_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 9_000)
        third = made.hosts[2]
        for seconds in (4, 9):
            made.at(seconds, "the third host leaves")
            third.end()
            ended = third.wait(30)
            assert ended.code == 3, ended
            made.say("it joins again")
            third.run_job()
        made.finish()
        return made.figures()


@scenario
def works_without_files(folder: Path, log: Log) -> Figures:
    """Two hosts join with `bulkcert work`, and the one that has the files is killed."""
    rows = devices(5_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 5_000, "renew", hosts=1)
        for host in (made.add(), made.add()):
            host.work()
        made.at(6, "the first host is killed")
        made.kill(made.hosts[0])
        made.finish()
        return made.figures(codes=_DEAD)


# ---- the database


@scenario
def commit_answer_lost(folder: Path, log: Log) -> Figures:
    """The answer to a COMMIT is lost, again and again: at once, and by silence."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000, "renew")
        for second, fate in enumerate((Fate.ANSWER_LOST, Fate.LOST, Fate.ANSWER_LOST) * 2):
            made.at(3 + second, fate.value)
            for host in made.hosts:
                host.store.set_trap(Trap(b"COMMIT", fate))
        made.at(10, Fate.SILENCE.value)
        made.hosts[0].store.set_trap(Trap(b"COMMIT", Fate.SILENCE))
        made.finish()
        codes = {"host1": {0, 1, -signal.SIGKILL}}
        return made.figures(codes=codes)


@scenario
def commit_answer_late(folder: Path, log: Log) -> Figures:
    """The answer to a COMMIT is lost, and the host can connect again only 7.2 s later: its lease
    counts from the commit, not from the connection."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000, "renew")
        first = made.hosts[0]
        made.at(4, "the answer to a COMMIT is lost, and the way to the store is cut")
        trap = first.store.set_trap(Trap(b"COMMIT", Fate.ANSWER_LOST, first.store.close_way))
        assert trap.sprung.wait(30)
        time.sleep(7.2)
        made.say("the way to the store is open again")
        first.store.heal()
        made.finish()
        return made.figures(codes={first.name: {0, 1, -signal.SIGKILL}})


@scenario
def lost_commits(folder: Path, log: Log) -> Figures:
    """The database comes back with files that are 3 s old: every host must stop with exit code 3.
    Somebody says that the run may go on, and then it looks up what is not final."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000, "renew")
        made.at(5, "the files of the database are copied")
        copy = made.database.save(folder)
        made.at(8, "the database crashes, and starts with the copy")
        made.database.restore(copy)
        for host in made.hosts:
            ended = host.wait(60)
            assert ended.code == 3, (host.name, ended)
        made.say("all hosts have stopped; they are started again after `store recheck`")
        first = made.hosts[0]
        words = ("store", "recheck", "--run", first.run, "--why", "restored")
        until_s = time.monotonic() + 30.0
        # it is refused while their leases, as the copy has them, may still be valid
        while (ended := bulkcert(*words, folder=folder, environment=first.environment)).code:
            assert "still works on the run" in ended.err, ended
            assert time.monotonic() < until_s, ended
            time.sleep(0.5)
        for host in made.hosts:
            host.run_job()
        made.finish()
        return made.figures(forgotten=True)


@scenario
def database_away_for_a_moment(folder: Path, log: Log) -> Figures:
    """The database is silent for less than a lease, twice: nobody is fenced."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000)
        for seconds in (4, 10):
            made.at(seconds, "the database is stopped for 3 s")
            made.database.freeze()
            time.sleep(3)
            made.database.thaw()
        made.finish()
        figures = made.figures()
        figures.complaints += _fenced(made)
        return figures


@scenario
def database_away_for_long(folder: Path, log: Log) -> Figures:
    """The database is gone for longer than a lease, once silent and once crashed: the hosts stand
    still, go on, and nobody is fenced."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000)
        made.at(4, "the database is stopped for 12 s")
        made.database.freeze()
        time.sleep(12)
        made.database.thaw()
        made.at(22, "the database crashes, and is away for 12 s")
        made.database.crash()
        time.sleep(12)
        made.database.start()
        made.finish()
        figures = made.figures()
        figures.complaints += _fenced(made)
        return figures


def _fenced(made: World) -> list[str]:
    fenced = [life.id for life in made.lives.all if life.state == "fenced"]
    return [f"{len(fenced)} lives were fenced, though every host was well"] if fenced else []


@scenario
def killed_in_a_claim(folder: Path, log: Log) -> Figures:
    """The database crashes in the middle of a claim, three times."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000, "renew")
        for number, seconds in enumerate((4, 8, 12)):
            made.at(seconds)
            trap = made.hosts[number].store.set_trap(Trap(CLAIM, action=_crash_of(made)))
            assert trap.sprung.wait(30), "nobody has claimed anything"
            made.say("the database has crashed in a claim")
            made.database.start()
        made.finish()
        return made.figures()


def _crash_of(made: World) -> object:
    return made.database.crash


@scenario
def zombie_in_a_transaction(folder: Path, log: Log) -> Figures:
    """A host is stopped in the middle of its transaction, beyond its lease: its locks must not hold
    up anybody, nor its own fencing."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000, "renew")
        first = made.hosts[0]
        made.at(4)
        trap = first.store.set_trap(Trap(CLAIM, action=first.stop))
        assert trap.sprung.wait(30), "nobody has claimed anything"
        made.died_at[first.pid] = time.time()
        made.say("the first host is stopped in a transaction")
        time.sleep(BEYOND_S)
        made.say("it is continued")
        first.go_on()
        made.finish()
        return made.figures(codes={first.name: {0, 1, -signal.SIGKILL}})


@scenario
def database_clock_steps(folder: Path, log: Log) -> Figures:
    """The clock of the database is set an hour ahead, back, 30 ms ahead, and an hour back."""
    rows = devices(9_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 9_000)
        for seconds, shift_s in ((4, 3600.0), (8, 0.0), (12, 0.03), (15, 0.0), (18, -3600.0)):
            made.at(seconds, f"the clock of the database is wrong by {shift_s:g} s")
            made.database.set_clock(shift_s)
        made.finish()
        return made.figures(clock_slack_s=7300)


@scenario
def host_clocks_wrong(folder: Path, log: Log) -> Figures:
    """One host's clock is an hour ahead, another's an hour behind, and they are set meanwhile."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        made.campaign("campaign", rows, **document("renew"))
        first, second, third = (made.add() for _ in range(3))
        first.set_clock(3600)
        second.set_clock(-3600)
        made.begin()
        for seconds, shift_s in ((4, 3600), (7, -3600), (10, 0)):
            made.at(seconds, f"the clock of the third host is wrong by {shift_s} s")
            third.set_clock(shift_s)
        made.finish()
        return made.figures()


# ---- ceilings


@scenario
def two_campaigns(folder: Path, log: Log) -> Figures:
    """Two campaigns on one account, with two hosts each: together they keep its ceiling."""
    rows = devices(4_000) + devices(4_000, "B", 200_000)
    with world(folder, rows, log, **FAULTS) as made:
        made.campaign("first", rows[:4_000], **document("revoke"))
        made.campaign("second", rows[4_000:], **document("renew"))
        for number in range(4):
            made.add(made.campaigns[number % 2])
        made.begin()
        made.at(6, "a host of the first campaign is killed")
        made.kill(made.hosts[0])
        made.finish()
        return made.figures(codes=_DEAD)


@scenario
def two_accounts(folder: Path, log: Log) -> Figures:
    """Two campaigns on two accounts, one of each provider, with two hosts each: neither slows the
    other down."""
    meters = devices(3_000)
    sensors = [{"DeviceSn": f"00{number:06}", "CaSn": "00ca1"} for number in range(3_000)]
    with world(folder, [*meters, *sensors], log, **FAULTS, mq_source_limit=0) as made:
        made.campaign("meters", meters, **document("revoke", ceiling=200))
        made.campaign("sensors", sensors, **apsaramq("inactivate", ceiling=200))
        for number in range(4):
            made.add(made.campaigns[number % 2])
        made.begin()
        made.finish()
        figures = made.figures(ceiling=400)
        for provider in ("enos", "apsaramq"):
            at = [e["at"] for e in made.simulator.entries() if e["provider"] == provider]
            if steady(at) < 150 and not _is_busy():
                figures.complaints.append(f"{provider}: {steady(at):g}/s of 200")
        return figures


@scenario.in_namespaces
def limit_per_address(folder: Path, log: Log) -> Figures:
    """ApsaraMQ: 500/s for the account, 300/s for each address. Two hosts reach more than one
    address may send, and neither exceeds its own."""
    rows = [{"DeviceSn": f"00{number:06}", "CaSn": "00ca1"} for number in range(8_000)]
    with world(folder, rows, log, mq_source_limit=0) as made:
        made.campaign("campaign", rows, **apsaramq("inactivate"))
        for _ in range(2):
            host = made.add()
            host.environment["BULKCERT_EGRESS"] = host.name
        made.begin()
        made.finish()
        figures = made.figures()
        figures.complaints += [
            f"{most} requests arrived from {source} in a second"
            for source, most in figures.busiest_of.items()
            if most > 300
        ]
        if figures.steady < 350 and not _is_busy():
            figures.complaints.append(
                f"{figures.steady:g}/s is little more than one address may do"
            )
        return figures


def apsaramq(action: str, ceiling: int = 500) -> dict[str, object]:
    """A job of ApsaraMQ."""
    job = document(action, ceiling=ceiling)
    del job["parameters"]
    return job | {"provider": "apsaramq", "connection": {"instance_id": "i"}}


# ---- control, keys, versions


@scenario
def pause_and_rate(folder: Path, log: Log) -> Figures:
    """`control pause` and `control rate` are in force on all hosts when they return, while one host
    is stopped."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000)
        first, second, _ = made.hosts

        def control(*words: str) -> float:
            ended = bulkcert(
                *("control", words[0], "job.toml", *words[1:]),
                folder=first.folder,
                environment=first.environment | {"BULKCERT_STORE": second.url},
            )
            assert ended.code == 0, ended
            return time.time()

        made.at(5, "a pause")
        quiet = [(control("pause"), 0.0)]
        time.sleep(3)
        quiet[0] = (quiet[0][0], time.time())
        control("resume")
        made.say("resumed")
        made.at(11, "a host is stopped, then 100/s")
        first.stop()
        slow_from = control("rate", "100")
        time.sleep(4)
        slow_to = time.time()
        first.go_on()
        control("rate", "max")
        made.finish()
        figures = made.figures(codes={first.name: {0, 1, -signal.SIGKILL}})
        at = [float(line.split()[0]) for line in (folder / "arrivals").read_text().splitlines()]
        begin, end = quiet[0]
        if stray := [t for t in at if begin + 0.3 < t < end]:
            figures.complaints.append(f"{len(stray)} requests arrived in a pause")
        slow = [t for t in at if slow_from + 0.3 < t < slow_to]
        most = max((sum(a <= t < a + 1 for t in slow) for a in slow), default=0)
        if most > 100:
            figures.complaints.append(f"{most} requests arrived in a second at a rate of 100")
        return figures


@scenario
def keys_of_a_dead_host(folder: Path, log: Log) -> Figures:
    """Two hosts renew with keys of their own; one is killed and its disk is gone. Every certificate
    has its key in the store."""
    rows = devices(600)
    with world(folder, rows, log, **FAULTS) as made:
        owner = operator(folder)
        keys = {"generate": "ecdsa-p256", "operator": str(owner.public)}
        made.campaign("campaign", rows, **document("renew", ceiling=60, keys=keys))
        made.add()
        made.add()
        made.begin()
        made.at(4, "the first host is killed, and its disk is gone")
        made.kill(made.hosts[0])
        made.finish()
        output, wrong = fetched(made, owner)
        figures = made.figures(codes=_DEAD, gone=[made.hosts[0]], fetched=[output])
        figures.complaints += [*wrong, *missing_keys(made, output)]
        return figures


@scenario
def two_versions(folder: Path, log: Log) -> Figures:
    """A newer version of the program migrates the store while two hosts work; a host of it joins. A
    host of the old version that must connect again stops early, and says why."""
    rows = devices(6_000)
    with world(folder, rows, log, **FAULTS) as made:
        _three(made, 6_000, "renew", hosts=2)
        newer = newer_version(folder / "newer")
        third = made.add()
        third.environment["PYTHONPATH"] = str(newer)
        made.at(4, "a newer version migrates the store")
        migrated = bulkcert("store", "migrate", folder=folder, environment=third.environment)
        assert migrated.code == 0, migrated
        third.run_job()
        made.at(9, "the connections of the first host are reset")
        made.hosts[0].store.reset()
        made.finish()
        figures = made.figures(codes={"host1": {0, 1, 3}, "host2": {0, 1, 3}})
        for host in made.hosts[:2]:
            last = host.ended[-1]
            if last.code == 3 and "schema version" not in last.output:
                figures.complaints.append(f"{host.name} does not say why: {last.output[-800:]}")
        return figures


def _is_busy() -> bool:
    """Whether this machine has too much else to do to be fast."""
    return os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
