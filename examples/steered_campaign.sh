#!/usr/bin/env bash
# A campaign from the plan to the proof, with everything that can be done on the way: two people
# approve it, it begins with ten devices, waits for a go, is slowed down and paused from another
# terminal, stops itself when the provider refuses too much, and goes on when both agree that it may.
# Everything goes to a simulator that this script starts on a free port, so it can be tried anywhere.
#
#   examples/steered_campaign.sh             in a new folder, whose name it prints
#   examples/steered_campaign.sh FOLDER      in an empty folder
#
# It takes about half a minute and needs ssh-keygen. The exit code is 0 if all went as it should.
set -eu

folder=${1:-$(mktemp -d)}
cd "$folder"
export XDG_STATE_HOME=$PWD/state # what bulkcert remembers of runs; yours stays as it is
job=pumps.toml run=runs/pumps
say() { printf '\n==> %s\n' "$*"; }
expect() { # expect CODE COMMAND...: the step ends with this exit code
    wanted=$1 && shift
    printf '$ %s\n' "$*"
    "$@" && code=0 || code=$?
    [ "$code" -eq "$wanted" ] || fail "exit code $code instead of $wanted"
}
fail() { echo "$*" >&2 && exit 1; }
begin() { # begin COMMAND...: what runs in the first terminal; its screen goes to terminal-1.log
    printf '[terminal 1] $ %s\n' "$*"
    "$@" > terminal-1.log 2>&1 & first=$!
}
reach() { # reach PATTERN: wait until `bulkcert status --json` shows it
    until bulkcert status $run --json 2> status.err | tr -s ' \n' ' ' | grep -Eq "$1"; do
        kill -0 $first 2>> status.err || fail "the run has ended before: $1" # see terminal-1.log
        sleep 0.1
    done
}
ended() { # ended CODE: the first terminal is back at its prompt
    wait $first && code=0 || code=$?
    first=
    [ "$code" -eq "$1" ] || fail "exit code $code instead of $1; see terminal-1.log"
    printf '[terminal 1] %s\n' "ended with exit code $code; its screen:" && cat terminal-1.log
}

say "A fleet of 2,000 pumps and three that somebody must not lose, in $PWD"
{
    echo assetId,certSn,model,risk
    seq 2000 | awk '{ printf "pump-%04d,%d,P%d,%d\n", $1, 10000 + $1, $1 % 4, $1 % 10 ? 1 : 3 }'
    printf 'ward-%d,%d,P1,3\n' 1 20001 2 20002 3 20003
} > fleet.csv
cat > never-touch.csv << 'END'
assetId,owner,note
ward-*,"Dr. Chen, ext. 4711",infusion pumps in use
END

say "The provider. For six of the pumps it will not let anybody revoke anything"
foreign=pump-1311,pump-1312,pump-1313,pump-1314,pump-1315,pump-1316
mkfifo simulator
bulkcert simulate --port 0 --fleet fleet.csv --ledger ledger.jsonl --latency 0.05 \
    --read-only $foreign > simulator 2> simulator.err &
simulator=$! first=
trap 'kill $simulator $first 2> /dev/null' EXIT
while IFS='=' read -r name value && [ -n "$name" ]; do
    case $name in *[!A-Z_]*) break ;; esac
    export "$name=$value"
done < simulator

say "Two people with a key each, and the file that says whose approval counts"
for name in alice bob; do
    ssh-keygen -q -t ed25519 -N "" -C $name -f $name # your own should have a passphrase
    echo "$name $(cut -d' ' -f1,2 $name.pub)" >> approvers
done

say "The rules of the campaign"
cat > fleet-ok.sh << 'END'
#!/bin/sh
# what must stay healthy: here, a file says so; yours asks your monitoring
cat trouble 2> /dev/null && exit 1
echo "all other devices are online"
END
chmod +x fleet-ok.sh
tee $job << END
provider = "enos"
action = "revoke"
targets = "fleet.csv"
connection = { endpoint = "$ENDPOINT", org_id = "o1" }
parameters = { reason = "KEY_COMPROMISE" }
limits = { requests_per_second = 400, in_flight = 100 }

[approval]
required = 2
signers = "approvers"

[protect]
never = "never-touch.csv"
max_operations = 2_000

[rollout]
order = ["-risk"]
canary = 10
spread_by = "model"
waves = ["10%"]
between = "1s"
confirm = ["canary"]

[abort]
canary = 1
failed = "2% of 500"
99403 = 3

[check]
command = ["./fleet-ok.sh"]
every = "5s"
END

say "The plan is refused: three of the targets must not be touched. It is made without them"
expect 2 bulkcert plan $job
expect 0 bulkcert plan $job --skip-protected

say "One approval is not enough"
expect 0 bulkcert approve $job --skip-protected --key alice
expect 2 bulkcert run $job --skip-protected
expect 0 bulkcert approve $job --skip-protected --key bob

say "The canary: ten pumps, of each model. Then the run waits for a go"
begin bulkcert run $job --skip-protected
reach '"reasons": \[ "waiting \(go canary\)" \]'
expect 0 bulkcert status $run

say "On, but slowly"
expect 0 bulkcert control rate $run 50 --why "the help desk wants to see the first calls"
expect 0 bulkcert control go $run canary
reach '"name": "10%", "state": "[a-z_]+", "total": 190, "succeeded": [1-9]'

say "The help desk is flooded: pause. Nothing leaves any more until somebody resumes"
expect 0 bulkcert control pause $run --why "help desk is flooded"
expect 0 bulkcert status $run
expect 0 bulkcert control resume $run
expect 0 bulkcert control rate $run max

say "The provider refuses more than three pumps with 99403, and the run stops itself"
ended 4
expect 4 bulkcert run $job
expect 0 bulkcert results $run --outcome failed --format csv -o refused.csv
cut -d, -f2,3,6,9,10 refused.csv

say "These pumps belong to somebody else. Going on needs both people again, by the id of the abort"
abort=$(bulkcert status $run --json | grep -A 1 '"abort":' | sed -n 's/.*"id": "\(.*\)".*/\1/p')
why="they are on loan, and their owner revokes them"
expect 2 bulkcert run $job --override "$abort" --why "$why"
expect 0 bulkcert approve $job --skip-protected --override "$abort" --key alice
expect 0 bulkcert approve $job --skip-protected --override "$abort" --key bob
begin bulkcert run $job --override "$abort" --why "$why"
ended 1

say "The proof: every pump is read back"
expect 0 bulkcert verify $run
expect 0 bulkcert status $run

say "And by the provider's own ledger"
revoked=$(grep '"action":"revoke"' ledger.jsonl | grep -c '"executed":true')
twice=$(grep '"action":"revoke"' ledger.jsonl | grep '"executed":true' | grep -o '"device":"[^"]*"' |
    sort | uniq -d | wc -l)
touched=$(grep -c '"device":"assetId=ward-' ledger.jsonl) || true
echo "$revoked pumps revoked, $twice of them twice; $touched requests about those that must not be touched"
[ "$revoked $twice $touched" = "1994 0 0" ]
