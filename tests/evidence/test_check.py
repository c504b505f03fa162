"""What the check of a pack finds, with the real ssh-keygen: one test for each way to tamper."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from approval_job import People
from evidence_pack import PACKER, Pack, checked, finished_run, packed, signers_file
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkcert.approval.signers import read_signers
from bulkcert.errors import ApprovalError, EvidenceError
from bulkcert.evidence.archive import ArchiveWriter
from bulkcert.evidence.check import check
from bulkcert.evidence.manifest import MANIFEST, SIGNATURE, SUMS
from bulkcert.plan_hash import PlanHash

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, people: People) -> Path:
    """A pack that nobody has touched."""
    folder = tmp_path_factory.mktemp("sound")
    return packed(finished_run(folder / "run", people), people, folder / "pack.tar.gz")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, people: People) -> Path:
    """A pack of another run."""
    folder = tmp_path_factory.mktemp("other")
    run = finished_run(folder / "run", people, name="other", run_id="2" * 32)
    return packed(run, people, folder / "pack.tar.gz")


def test_an_untouched_pack_is_intact(sound: Path, people: People) -> None:
    found = checked(sound, people)
    assert (found.faults, found.unchecked) == ((), "")
    assert found.signer is not None
    assert found.signer.name == PACKER
    assert found.manifest is not None
    assert (found.manifest.run, found.manifest.total, found.manifest.approvals) == ("fleet", 6, 2)
    assert found.manifest.last_event.seq == 5


def test_a_column_with_the_name_of_a_field_is_not_a_fault(people: People, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", people, extra_columns=("Site", "certSn"))
    assert checked(packed(run, people, tmp_path / "pack.tar.gz"), people).faults == ()


def test_an_event_that_others_have_received_must_be_in_it(sound: Path, people: People) -> None:
    received = Pack(sound).manifest.last_event.hash
    assert checked(sound, people, received).faults == ()
    [fault] = checked(sound, people, received, "0" * 64).faults
    assert fault == f"no event has the hash {'0' * 64}, which somebody has received"


# ---- changed by somebody who can't sign

Tamper = Callable[[Pack, Pack], None]


def _swap_approvals(pack: Pack, other: Pack) -> None:
    first, second = "approvals/1.approval", "approvals/2.approval"
    for end in ("", ".sig"):
        files = pack.files
        files[first + end], files[second + end] = files[second + end], files[first + end]


def _take(*names: str) -> Tamper:
    def tamper(pack: Pack, other: Pack) -> None:
        pack.files.update({name: other.files[name] for name in names})

    return tamper


def _another_head(pack: Pack, other: Pack) -> None:
    _take(SUMS, SIGNATURE, MANIFEST)(pack, other)


def _edit(name: str, before: bytes, after: bytes) -> Tamper:
    return lambda pack, other: pack.edit(name, before, after)


def _cut(name: str, lines: int = 1) -> Tamper:
    return lambda pack, other: pack.cut(name, lines)


def _remove(name: str) -> Tamper:
    return lambda pack, other: pack.files.__delitem__(name)


def _add(name: str, content: bytes) -> Tamper:
    return lambda pack, other: pack.files.update({name: content})


def _reorder(pack: Pack, other: Pack) -> None:
    pack.files["plan.json"] = pack.files.pop("plan.json")


UNSIGNED: dict[str, tuple[Tamper, str]] = {
    "a truncated chain": (
        _cut("events.jsonl", 2),
        "the chain ends with event 3, and event 5 was the last one",
    ),
    "the last event is gone": (
        _cut("events.jsonl"),
        "events.jsonl was cut: it has 4 lines, and 5 were signed",
    ),
    "the last result is gone": (
        _cut("results.jsonl"),
        "results.jsonl was cut: it has 5 lines, and 6 were signed",
    ),
    "the last entry of the history is gone": (
        _cut("history.jsonl"),
        "history.jsonl was cut: it has 5 lines, and 6 were signed",
    ),
    "an edited result": (
        _edit("results.jsonl", b'"failed"', b'"succeeded"'),
        "results.jsonl has 6 succeeded, and the manifest 5",
    ),
    "an edited message": (
        _edit("results.jsonl", b"no permission", b"no such thing"),
        "results.jsonl was edited: it is not the one that was signed",
    ),
    "an edited event": (
        _edit("events.jsonl", b'"ann"', b'"bob"'),
        "the chain of events is broken: events.jsonl, line 4 does not follow",
    ),
    "a result twice": (
        lambda pack, other: pack.edit(
            "results.jsonl", pack.lines("results.jsonl")[0], pack.lines("results.jsonl")[0] * 2
        ),
        "results.jsonl was extended: it has 7 lines, and 6 were signed",
    ),
    "an edited text": (_edit("README.txt", b"sha256sum -c", b"true"), "README.txt was edited"),
    "the report of another run": (_take("report.html"), "report.html is about another run"),
    "a removed file": (_remove("summary.json"), "summary.json is missing"),
    "a removed approval": (_remove("approvals/2.approval"), "approvals/2.approval is missing"),
    "an added file": (_add("more.txt", b"more"), "more.txt was added: it was not signed"),
    "an added approval": (
        _add("approvals/3.approval", b"I do"),
        "approvals/3.approval was added: it was not signed",
    ),
    "another order": (_reorder, "the files are not in the order in which they were signed"),
    "swapped approvals": (_swap_approvals, "approvals/1.approval.sig was edited"),
    "an edited manifest": (
        _edit(MANIFEST, b'"rehearsal": false', b'"rehearsal": true'),
        "MANIFEST was changed: it is not the one that was signed",
    ),
    "a manifest that is none": (_add(MANIFEST, b"{}"), "MANIFEST was changed: it has other fields"),
    "a manifest that is not JSON": (_add(MANIFEST, b"{"), "MANIFEST was changed: it is not JSON"),
    "edited digests": (
        _edit(SUMS, b"README.txt", b"READYOU.txt"),
        "nobody vouches for it: SHA256SUMS, edited after it was signed",
    ),
    "no digests": (_remove(SUMS), "SHA256SUMS is missing, or not in its place"),
    "no signature": (_remove(SIGNATURE), "SHA256SUMS.sig is missing, or not in its place"),
    "no manifest": (_remove(MANIFEST), "MANIFEST is missing, or not in its place"),
    "rubbish for a signature": (_add(SIGNATURE, b"rubbish"), "its signature is damaged"),
    "the head of another pack": (_another_head, "events.jsonl was edited"),
    "the files of another run": (
        _take("events.jsonl", "results.jsonl", "history.jsonl", "summary.json"),
        "events.jsonl has events of run 'other'",
    ),
    "a huge manifest": (_add(MANIFEST, b" " * 5_000_000), "MANIFEST has more than 4,194,304 bytes"),
    "a huge file": (_add("README.txt", bytes(2_000_000)), "README.txt has 1,9"),
}


@pytest.mark.parametrize(("tamper", "said"), UNSIGNED.values(), ids=UNSIGNED)
def test_what_was_changed_after_signing_is_found(
    sound: Path, other: Path, people: People, tmp_path: Path, tamper: Tamper, said: str
) -> None:
    pack = Pack(sound)
    tamper(pack, Pack(other))
    found = checked(pack.write(tmp_path / "pack.tar.gz"), people)
    assert said in "\n".join(found.faults)


# ---- signed again


def test_a_pack_that_was_signed_again_with_another_key_is_not_intact(
    sound: Path, people: People, tmp_path: Path
) -> None:
    pack = Pack(sound)
    pack.edit("results.jsonl", b"no permission", b"no such thing")
    pack.seal(people, by="mallory")
    path = pack.write(tmp_path / "pack.tar.gz")
    found = checked(path, people)
    assert found.signer is found.manifest is None
    [fault] = found.faults
    assert fault.startswith("nobody vouches for it: SHA256SUMS, signed with SHA256:")
    assert fault.endswith("which is not the key of a signer")
    assert check(path, read_signers(signers_file(people, "mallory"))).faults == ()


def test_a_signature_for_something_else_is_none(
    sound: Path, people: People, tmp_path: Path
) -> None:
    pack = Pack(sound)
    pack.seal(people, namespace="approval@bulkcert")
    [fault] = checked(pack.write(tmp_path / "pack.tar.gz"), people).faults
    assert fault.endswith("signed for another purpose, not for evidence@bulkcert")


# ---- contradictions, signed by somebody who may


def _shortened_chain(pack: Pack, other: Pack) -> dict[str, object]:
    pack.cut("events.jsonl")
    return {}


def _edited_event(pack: Pack, other: Pack) -> dict[str, object]:
    pack.edit("events.jsonl", b'"ann"', b'"bob"')
    return {}


def _event_of_another_run(pack: Pack, other: Pack) -> dict[str, object]:
    pack.chain((3, {"run": "other"}))
    return {"last_event": pack.last_event}


def _plan_of_another_run(pack: Pack, other: Pack) -> dict[str, object]:
    pack.files["plan.json"] = other.files["plan.json"]
    return {}


def _edited_plan(pack: Pack, other: Pack) -> dict[str, object]:
    pack.edit("plan.json", b'"in_flight": 1000', b'"in_flight": 2000')
    return {}


def _event_of_another_plan(pack: Pack, other: Pack) -> dict[str, object]:
    pack.chain((5, {"plan": "0" * 64}))
    return {"last_event": pack.last_event}


def _better_results(pack: Pack, other: Pack) -> dict[str, object]:
    pack.edit("results.jsonl", b'"failed"', b'"succeeded"')
    return {}


def _better_everywhere(pack: Pack, other: Pack) -> dict[str, object]:
    pack.edit("results.jsonl", b'"failed"', b'"succeeded"')
    summary = pack.json("summary.json") | {"succeeded": 6, "failed": 0}
    pack.files["summary.json"] = orjson.dumps(summary)
    return {"outcomes": {**pack.manifest.outcomes, "succeeded": 6, "failed": 0}}


def _strange_sections(pack: Pack, other: Pack) -> dict[str, object]:
    plan = PlanHash(pack.json("plan.json")["contents"] | {"approval": {"required": "two"}})
    pack.files["plan.json"] = orjson.dumps(plan.as_object())
    return {}


def _other_device(pack: Pack, other: Pack) -> dict[str, object]:
    pack.edit("results.jsonl", b'"A4"', b'"A9"')
    return {}


def _other_targets(pack: Pack, other: Pack) -> dict[str, object]:
    for name in ("results.jsonl", "targets.jsonl"):
        pack.edit(name, b'"A4"', b'"A9"')
    return {}


def _summary_of_another_run(pack: Pack, other: Pack) -> dict[str, object]:
    pack.files["summary.json"] = other.files["summary.json"]
    return {}


def _verification_of_another_run(pack: Pack, other: Pack) -> dict[str, object]:
    pack.edit("verify.jsonl", b"agrees", b"differs")
    return {}


def _better_verified(pack: Pack, other: Pack) -> dict[str, object]:
    verified = pack.manifest.verified
    assert verified is not None
    return {"verified": verified._replace(agrees=7)}


def _not_said_to_be_a_rehearsal(pack: Pack, other: Pack) -> dict[str, object]:
    return {"rehearsal": True}


def _report_of_another_run(pack: Pack, other: Pack) -> dict[str, object]:
    pack.files["report.html"] = other.files["report.html"]
    return {}


def _report_before_an_amendment(pack: Pack, other: Pack) -> dict[str, object]:
    pack.edit("report.html", pack.manifest.plan.encode(), b"0" * 64)
    return {}


def _approvals_of_another_run(pack: Pack, other: Pack) -> dict[str, object]:
    names = [name for name in pack.files if name.startswith("approvals")]
    pack.files.update({name: other.files[name] for name in names})
    return {}


def _another_statement(pack: Pack, other: Pack) -> dict[str, object]:
    for end in (".approval", ".approval.sig"):
        pack.files[f"approvals/1{end}"] = other.files[f"approvals/1{end}"]
    return {}


def _signature_of_somebody_else(pack: Pack, other: Pack) -> dict[str, object]:
    files = pack.files
    files["approvals/1.approval.sig"] = files["approvals/2.approval.sig"]
    return {}


def _more_signers(pack: Pack, other: Pack) -> dict[str, object]:
    pack.files["approvals/1.signers"] += b"# and others\n"
    return {}


def _one_approval_less(pack: Pack, other: Pack) -> dict[str, object]:
    pack.files["approvals.json"] = orjson.dumps(pack.json("approvals.json")[:1])
    return {"approvals": 1}


def _no_approvals(pack: Pack, other: Pack) -> dict[str, object]:
    pack.files["approvals.json"] = b"[]"
    return {"approvals": 0}


def _no_events(pack: Pack, other: Pack) -> dict[str, object]:
    del pack.files["events.jsonl"]
    return {}


def _no_verification(pack: Pack, other: Pack) -> dict[str, object]:
    del pack.files["verify.jsonl"]
    return {}


def _rubbish(pack: Pack, other: Pack) -> dict[str, object]:
    pack.files["summary.json"] = b"[" * 100_000
    return {}


Contradict = Callable[[Pack, Pack], dict[str, object]]

SIGNED: list[tuple[Contradict, str]] = [
    (_shortened_chain, "the chain ends with event 4, and event 5 was the last one"),
    (_edited_event, "the chain of events is broken: events.jsonl, line 4 does not follow"),
    (_event_of_another_run, "events.jsonl has events of run 'other'"),
    (_plan_of_another_run, "plan.json is another plan than that of the manifest"),
    (_edited_plan, "the hash in plan.json is not that of the plan in it"),
    (_event_of_another_plan, "events.jsonl ends with another plan than that of the manifest"),
    (_better_results, "results.jsonl has 6 succeeded, and the manifest 5"),
    (_better_everywhere, "the last end of a process has 5 succeeded, and the manifest 6"),
    (_strange_sections, "plan.json is another plan than that of the manifest"),
    (_other_device, "results.jsonl has other targets than targets.jsonl"),
    (_other_targets, "targets.jsonl has other targets than the plan"),
    (_summary_of_another_run, "summary.json has another plan than the manifest"),
    (_verification_of_another_run, "verify.jsonl is not what the last verification"),
    (_better_verified, "events.jsonl has another verification than the manifest"),
    (_not_said_to_be_a_rehearsal, "the manifest says that it was a rehearsal"),
    (_report_of_another_run, "report.html is about another run"),
    (_report_before_an_amendment, "report.html is about another plan"),
    (_approvals_of_another_run, "approvals.json has other approvals than events.jsonl"),
    (_another_statement, "approval 1, by alice, has another statement"),
    (_signature_of_somebody_else, "approval 1, by alice, "),
    (_more_signers, "approval 1, by alice, was judged by other signers than those of its plan"),
    (_one_approval_less, "1 person has approved, not 2"),
    (_no_approvals, "the plan needs 2 approvals, and there are none"),
    (_no_events, "the manifest lacks events.jsonl, and gives no reason"),
    (_no_verification, "the manifest lacks verify.jsonl, and gives no reason"),
    (_rubbish, "summary.json does not have the form in which bulkcert writes it"),
]


@pytest.mark.parametrize(
    ("contradict", "said"), SIGNED, ids=lambda each: getattr(each, "__name__", "")
)
def test_files_that_contradict_each_other_are_found_whoever_signed_them(
    sound: Path, other: Path, people: People, tmp_path: Path, contradict: Contradict, said: str
) -> None:
    pack = Pack(sound)
    pack.seal(people, **contradict(pack, Pack(other)))
    found = checked(pack.write(tmp_path / "pack.tar.gz"), people)
    assert said in "\n".join(found.faults)


def test_sealing_a_pack_again_without_a_change_changes_nothing(
    sound: Path, people: People, tmp_path: Path
) -> None:
    pack = Pack(sound)
    pack.chain()
    pack.seal(people, last_event=pack.last_event)
    assert checked(pack.write(tmp_path / "pack.tar.gz"), people).faults == ()


# ---- hostile archives


def _archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=form) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = kind, 0o644, 315_532_800
    for attribute, value in more.items():
        setattr(member, attribute, value)
    return member


HOSTILE = {
    "a way out": (_member("evidence/../../etc/passwd"), "'evidence/../../etc/passwd', which"),
    "an absolute name": (_member("/etc/passwd"), "'/etc/passwd', which is not the name"),
    "a symbolic link": (_member("evidence/a", tarfile.SYMTYPE, linkname="/etc"), "a symbolic link"),
    "a hard link": (_member("evidence/a", tarfile.LNKTYPE, linkname="b"), "a hard link"),
    "a device": (_member("evidence/a", tarfile.CHRTYPE), "a device"),
    "a pipe": (_member("evidence/a", tarfile.FIFOTYPE), "a pipe"),
    "a folder": (_member("evidence/a", tarfile.DIRTYPE), "a folder"),
    "a name that acts on a terminal": (_member("evidence/\x1b[2Ja"), r"'evidence/\x1b[2Ja', which"),
    "a long name": (_member("evidence/" + "a" * 200), "'././@LongLink', which"),
    "an owner": (_member("evidence/a", uname="root"), "something that bulkcert does not write"),
    "another mode": (_member("evidence/a", mode=0o4755), "something that bulkcert does not write"),
}


@pytest.mark.parametrize(("member", "said"), HOSTILE.values(), ids=HOSTILE)
def test_what_does_not_belong_into_a_pack_is_refused_unseen(
    sound: Path, people: People, tmp_path: Path, member: tarfile.TarInfo, said: str
) -> None:
    pack = Pack(sound)
    with tarfile.open(sound) as archive:
        own = [(each, pack.files[each.name.removeprefix("evidence/")]) for each in archive]
    path = tmp_path / "pack.tar.gz"
    path.write_bytes(_archive(*own, (member, b"")))
    found = checked(path, people)
    assert found.signer is not None
    [fault] = found.faults
    assert fault.startswith("the pack is damaged: ")
    assert said in fault


def test_a_pack_that_is_cut_off(sound: Path, people: People, tmp_path: Path) -> None:
    path = tmp_path / "pack.tar.gz"
    path.write_bytes(sound.read_bytes()[:-1000])
    found = checked(path, people)
    assert found.faults[0] == "the pack is damaged: it is cut off"
    assert found.unchecked == "report.html"  # the last one, and it compresses worst


def test_a_pack_that_goes_on_for_ever_is_not_read_for_ever(
    sound: Path, people: People, tmp_path: Path
) -> None:
    pack = Pack(sound)
    pack.files |= {f"more-{number}": bytes(1000) for number in range(1000)}
    found = checked(pack.write(tmp_path / "pack.tar.gz"), people)
    assert found.faults[0] == "more-0 was added: it was not signed"
    assert found.faults[-1] == "the pack is damaged: too much is wrong to go on"
    assert len(found.faults) == 102


def test_extended_headers_are_refused_unread(people: People, tmp_path: Path) -> None:
    path = tmp_path / "pack.tar.gz"
    member = _member("evidence/SHA256SUMS", pax_headers={"comment": "x" * 100})
    path.write_bytes(_archive((member, b""), form=tarfile.PAX_FORMAT))
    with pytest.raises(EvidenceError, match="which is not the name of a part of a pack"):
        checked(path, people)


def test_a_file_that_unpacks_to_far_more_is_not_unpacked(people: People, tmp_path: Path) -> None:
    path = tmp_path / "pack.tar.gz"
    path.write_bytes(_archive((_member("evidence/SHA256SUMS"), bytes(50_000_000))))
    [fault] = checked(path, people).faults
    assert fault == "the pack is damaged: SHA256SUMS has more than 4,194,304 bytes"


NOT_PACKS = {
    "text": b"text",
    "nothing": b"",
    "something else, compressed": gzip.compress(b"text"),
    "an archive of something else": _archive((_member("notes.txt"), b"text")),
    "an empty archive": _archive(),
}


@pytest.mark.parametrize("content", NOT_PACKS.values(), ids=NOT_PACKS)
def test_what_is_not_a_pack_could_not_be_checked(
    people: People, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "pack.tar.gz"
    path.write_bytes(content)
    with pytest.raises(EvidenceError, match="is not a pack of evidence") as caught:
        checked(path, people)
    assert caught.value.exit_code == 2


def test_what_can_t_be_read_could_not_be_checked(people: People, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "is not a file"), ("", "is not a file"), ("no", "can't be read")):
        with pytest.raises(EvidenceError, match=said):
            checked(tmp_path / name, people)


def test_without_ssh_keygen_nothing_is_checked(
    sound: Path, people: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    signers = read_signers(signers_file(people, PACKER))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ApprovalError, match="need `ssh-keygen`, which is not installed"):
        check(sound, signers)


# ---- any change


@settings(max_examples=50)
@given(data=st.data())
def test_any_byte_that_is_changed_removed_or_inserted_is_found(
    sound: Path, people: People, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    packed_bytes = data.draw(st.booleans())  # change the file itself, or what is packed in it
    content = sound.read_bytes() if packed_bytes else gzip.decompress(sound.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.sampled_from([0, 1, 7]))  # of what is replaced
    new = data.draw(st.binary(min_size=not length, max_size=7))
    changed = content[:at] + new + content[at + length :]
    path = tmp_path_factory.getbasetemp() / "changed.tar.gz"
    path.write_bytes(changed if packed_bytes else gzip.compress(changed, 1))
    try:
        intact = not checked(path, people).faults
    except EvidenceError:
        return
    # such as a byte of the header of gzip, which says nothing about what is packed
    assert intact == (_unpacked(path) == _unpacked(sound))


@settings(max_examples=25)
@given(data=st.data())
def test_any_file_that_is_removed_doubled_moved_or_exchanged_is_found(
    sound: Path, people: People, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    pack = Pack(sound)
    members = list(pack.files.items())
    at = data.draw(st.integers(0, len(members) - 1))
    to = data.draw(st.integers(0, len(members) - 1).filter(lambda other: other != at))
    name, content = members[at]
    match data.draw(st.sampled_from(["remove", "double", "move", "exchange"])):
        case "remove":
            del members[at]
        case "double":
            members.insert(to, members[at])
        case "move":
            members.insert(to, members.pop(at))
        case "exchange":
            members[at], members[to] = (name, members[to][1]), (members[to][0], content)
            if members[to][1] == members[at][1]:
                return  # two people have signed the same text, and with the same signers
    path = tmp_path_factory.getbasetemp() / "members.tar.gz"
    path.write_bytes(_packed(members))
    try:
        assert checked(path, people).faults
    except EvidenceError:
        assert members[0][0] != SUMS


def _packed(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with ArchiveWriter(buffer, last=True) as archive:
        for name, content in members:
            archive.add(name, len(content), io.BytesIO(content))
    return buffer.getvalue()


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return b""
