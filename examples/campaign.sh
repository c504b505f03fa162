#!/usr/bin/env bash
# Carry out one job from start to finish: check it, rehearse it, run it until it is over, list what
# failed, and verify. Safe to run again at any time: it continues where it stopped.
#
#   export ENOS_APP_KEY=... ENOS_APP_SECRET=...
#   examples/campaign.sh jobs/revoke-key-compromise.toml          asks before the first request
#   examples/campaign.sh jobs/revoke-key-compromise.toml --yes    from cron, or any other script
#
# The exit code is that of the last `bulkcert` command that mattered; README.md explains them.
set -u

job=$1
shift
retry_after_s=${RETRY_AFTER_S:-60}

# Without this, the loop below would start over after Ctrl-C.
trap 'exit 3' INT TERM

bulkcert plan "$job" || exit

# Rehearse, unless the run has begun. A rehearsal sends nothing to the provider.
if ! bulkcert status "$job" > /dev/null 2>&1; then
    bulkcert run "$job" --rehearse || exit
fi

# Exit code 3 means stopped early: the same command continues.
while
    bulkcert run "$job" "$@"
    status=$?
    [ "$status" -eq 3 ]
do
    echo "Continuing in $retry_after_s s ..." >&2
    sleep "$retry_after_s"
done
[ "$status" -eq 2 ] && exit 2

# A list of what needs a person. `results` can be used while a run is in progress, too.
bulkcert results "$job" --outcome failed --outcome unknown --format csv -o "${job%.toml}-to-do.csv"

# Read every device back, and compare. Not for jobs that only read.
bulkcert verify "$job" > "${job%.toml}-differences.jsonl" || status=1
exit "$status"
