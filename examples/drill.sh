#!/usr/bin/env bash
# A drill: the revocation after a key compromise is rehearsed with all its rules, and ends with what a
# real one ends with, a report and a signed pack of evidence. Both say that it was a rehearsal. It calls
# nothing but a simulator that the rehearsal starts on this machine.
#
#   examples/drill.sh             in a new folder, whose name it prints
#   examples/drill.sh FOLDER      in an empty folder
#
# It takes a quarter of a minute and needs ssh-keygen. The exit code is 0 if all went as it should.
# docs/drill.md says how to hold a drill with people.
set -eu

folder=${1:-$(mktemp -d)}
cd "$folder"
export XDG_STATE_HOME=$PWD/state # what bulkcert remembers of runs; yours stays as it is
job=revoke.toml run=runs/revoke-rehearsal
say() { printf '\n==> %s\n' "$*"; }
expect() { # expect CODE COMMAND...: the step ends with this exit code
    wanted=$1 && shift
    printf '$ %s\n' "$*"
    "$@" && code=0 || code=$?
    [ "$code" -eq "$wanted" ] || { echo "exit code $code instead of $wanted" >&2 && exit 1; }
}

say "A fleet of 300 pumps whose key has leaked, in $PWD"
{
    echo assetId,certSn,model
    seq 300 | awk '{ printf "pump-%04d,%d,P%d\n", $1, 10000 + $1, $1 % 4 }'
} > affected.csv

say "Who may approve, and the key that signs the evidence"
for name in alice bob pki-office; do
    ssh-keygen -q -t ed25519 -N "" -C $name -f $name # your own should have a passphrase
done
for name in alice bob; do echo "$name $(cut -d' ' -f1,2 $name.pub)"; done > approvers
echo "pki-office $(cut -d' ' -f1,2 pki-office.pub)" > evidence-signers

say "The job, with the rules of your policy"
tee $job << 'END'
provider = "enos"
action = "revoke"
targets = "affected.csv"
connection = { endpoint = "https://apim.example.com", org_id = "o1" }
parameters = { reason = "KEY_COMPROMISE" }
limits = { requests_per_second = 200, in_flight = 50 }

[approval]
required = 2
signers = "approvers"

[protect]
max_operations = 300

[rollout]
canary = 10
spread_by = "model"
waves = ["25%"]
between = "10m"
confirm = ["canary"]

[abort]
canary = 1
failed = "2% of 100"
END

say "The plan, as the approvers would see it"
expect 0 bulkcert plan $job

say "The rehearsal: waits last a second, and nobody has to approve or say go"
expect 0 bulkcert run $job --rehearse --no-progress

say "What happened, for everybody: open it in a browser"
expect 0 bulkcert report $run -o drill.html

say "And for the auditor: packed, and signed"
expect 0 bulkcert evidence $run -o drill.tar.gz --key pki-office
expect 0 bulkcert evidence --check drill.tar.gz --signers evidence-signers

say "A pack that somebody else has signed is not accepted"
expect 0 bulkcert evidence $run -o forged.tar.gz --key alice
expect 1 bulkcert evidence --check forged.tar.gz --signers evidence-signers

say "Keep drill.html and drill.tar.gz with the minutes of the drill"
