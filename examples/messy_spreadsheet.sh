#!/usr/bin/env bash
# From the spreadsheet that somebody sent to a fleet that is done: check it, leave the bad rows out,
# rehearse, run, correct what was left out, correct what failed. Everything goes to a simulator that
# this script starts on a free port, so it can be tried anywhere.
#
#   examples/messy_spreadsheet.sh             in a new folder, whose name it prints
#   examples/messy_spreadsheet.sh FOLDER      in an empty folder
#
# The exit code is 0 if every certificate of the fleet is revoked in the end.
set -eu

folder=${1:-$(mktemp -d)}
cd "$folder"
say() { printf '\n==> %s\n' "$*"; }
expect() { # expect CODE COMMAND...: the step ends with this exit code
    wanted=$1 && shift
    printf '$ %s\n' "$*"
    "$@" && code=0 || code=$?
    [ "$code" -eq "$wanted" ] || { echo "exit code $code instead of $wanted" >&2; exit 1; }
}

say "A simulator with six devices, in $PWD"
for n in 1 2 3 4 5 6; do
    printf '{"assetId": "pump-%s", "certSn": %s}\n' "$n" "$((1000 + n))"
done > devices.jsonl
mkfifo simulator
bulkcert simulate --port 0 --fleet devices.jsonl > simulator 2> /dev/null &
trap "kill $!" EXIT
while IFS='=' read -r name value && [ -n "$name" ]; do
    case $name in *[!A-Z_]*) break ;; esac
    export "$name=$value"
done < simulator

say "The spreadsheet: semicolons, an old encoding, and what people do to rows"
iconv -f UTF-8 -t CP1252 > fleet.csv << 'END'
Asset ID;certSn;Site
pump-1;1001;Köln
pump-2;1,00E+03;Köln
pump-1;1001;Köln
pumpe-3;1003;Zürich
pump-4;1004;Zürich
pump-5;1005;Zürich;see e-mail
pump-6;1006;Genève
;;
;;
END
cat > fleet.toml << END
provider = "enos"
action = "revoke"
targets = "fleet.csv"
connection = { endpoint = "$ENDPOINT", org_id = "o1" }
parameters = { reason = "CESSATION_OF_OPERATION" }
columns = { assetId = "Asset ID" }
END

say "The first check says what to add to the job file"
expect 2 bulkcert plan fleet.toml
cat >> fleet.toml << 'END'
[format]
delimiter = ";"
encoding = "cp1252"
END

say "The second lists every bad row, and a rehearsal shows what the good ones would do"
expect 2 bulkcert plan fleet.toml
expect 0 bulkcert plan fleet.toml --skip-rejected
expect 1 bulkcert run fleet.toml --skip-rejected --rehearse --quiet

say "The run: the bad rows are left out, and one device has another name"
expect 1 bulkcert run fleet.toml --skip-rejected --yes --quiet

say "The rows left out, corrected where they are listed, are the next run of the job"
rejected=runs/fleet/rejected.csv
cat "$rejected"
sed -i.orig -e 's/"1,00E+03"/1002/' \
    -e 's/pump-5;1005;Zürich;see e-mail,,,/,pump-5,1005,Zürich/' "$rejected"
expect 0 bulkcert run fleet.toml --targets "$rejected" --new --yes --quiet

say "What failed is a target file, too: correct the name, and run it"
expect 0 bulkcert results runs/fleet --outcome failed --format csv -o failed.csv
sed -i.orig 's/pumpe-3/pump-3/' failed.csv
expect 0 bulkcert run fleet.toml --targets failed.csv --new --yes --quiet

say "Everything that was done, with the column Site of the spreadsheet"
done=0
for run in runs/fleet runs/fleet-2 runs/fleet-3; do
    bulkcert results "$run" --outcome succeeded --format csv -o "$run/done.csv"
    cut -d, -f2,5,8,9 "$run/done.csv"
    done=$((done + $(wc -l < "$run/done.csv") - 1))
done
[ "$done" -eq 6 ]
