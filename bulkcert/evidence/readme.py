"""The `README.txt` of a pack: what it is, and how anybody checks it without this program. Pure.

In: what the pack is about. Out: text. The commands in it are what the tests execute.
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkcert.evidence import NAMESPACE
from bulkcert.evidence.manifest import HEAD, MANIFEST, SIGNATURE, SUMS
from bulkcert.plan_hash import grouped
from bulkcert.values import printable

_REHEARSAL = """
REHEARSAL. Nothing of this was sent to a provider: a simulator stood in for it.
"""

_TEXT = """\
Evidence of a run of bulkcert
{rehearsal}
Run:      {run}
Action:   {action} at {provider}, {endpoint}
Plan:     {plan}
State:    {state}

WHAT IS HERE

{files}

HOW TO CHECK IT WITHOUT BULKCERT

You need a file of signers, in the format of OpenSSH's allowed_signers, with the public key of
whoever is to vouch for this run, and that person's name in it. Get it from them, not from whoever
gave you this pack: a signers file that comes with the pack proves nothing. Then, in this folder:

SIGNERS=/path/to/your/signers; NAME=name-in-that-file

1. The files are those that were signed:

sha256sum -c --strict {sums}

2. That person signed them:

ssh-keygen -Y verify -f "$SIGNERS" -I "$NAME" -n {namespace} -s {signature} < {sums}

3. No event was changed, removed or inserted since it was recorded:

python3 -c '
import hashlib, json
seq, previous = 0, 64 * "0"
for line in open("events.jsonl", "rb"):
    event, seq = json.loads(line), seq + 1
    assert (event["seq"], event["previous"]) == (seq, previous), f"broken in line {{seq}}"
    previous = hashlib.sha256(line[:-1]).hexdigest()
last = json.load(open("{manifest}"))["last_event"]
assert (last["seq"], last["hash"]) == (seq, previous), "cut off, or not the events of this run"
print("events: OK,", seq)
'

There are {number} files in this folder, and nothing else belongs here: sha256sum does not notice
what was added. `bulkcert evidence --check FILE --signers "$SIGNERS"` does all of this, and also
checks that the files agree with each other.

WHAT IT DOES NOT PROVE

Whoever has the key could have recorded something else before they signed. The hash of an event that
somebody outside has received at the time, as [notify] sends it, proves that the events up to that
one existed then.
"""

_ABOUT = {
    "README.txt": "this text",
    "plan.json": "the plan: what identifies it, section by section, and its hash",
    "targets.jsonl": "the targets, in the order in which they run; its SHA-256 is in the plan",
    "approvals.json": "who has approved it; the statements, signatures and signers are beside it",
    "events.jsonl": "what happened to the run; each event has the SHA-256 of the line before",
    "results.jsonl": "one object for each operation, in the order of the target file",
    "history.jsonl": "each attempt and look-up, in the order in which they were recorded",
    "verify.jsonl": "what the last `verify` saw of each device",
    "summary.json": "the counts and figures of the run",
    "campaign.json": "its waves, what people asked of it, what stopped it, how it was changed",
    "report.html": "the same for people, as a page",
    MANIFEST: "what this pack is about; digest, length and lines of each file",
    SUMS: f"the digests of all files and of {MANIFEST}: this is what is signed",
    SIGNATURE: "the signature",
}


def readme(
    *,
    run: str,
    provider: str,
    action: str,
    endpoint: str,
    plan: str,
    rehearsal: bool,
    finished: bool,
    files: Sequence[str],
) -> bytes:
    """Write the text.

    Args:
        run, provider, action, endpoint, plan, rehearsal, finished: see
            `bulkcert.evidence.manifest.Manifest`.
        files: all files of the pack but those of `HEAD`.
    """
    named = [name for name in (*files, *HEAD) if "/" not in name]
    listed = [f"    {name:15} {_ABOUT[name]}" for name in named]
    text = _TEXT.format(
        rehearsal=_REHEARSAL if rehearsal else "",
        run=printable(run),
        action=printable(action),
        provider=printable(provider),
        endpoint=printable(endpoint),
        plan=grouped(plan),
        state="finished" if finished else "NOT FINISHED: some operations are still to be done",
        files="\n".join(listed),
        namespace=NAMESPACE,
        sums=SUMS,
        signature=SIGNATURE,
        manifest=MANIFEST,
        number=len(files) + len(HEAD),
    )
    return text.encode()
