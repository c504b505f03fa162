#!/bin/sh
# A check for a campaign: what must stay healthy, stays healthy.
#
#   [check]
#   command = ["./fleet_ok.sh", "https://monitoring.example.com/online/not-in-campaign", "9500", "9000"]
#
# The address answers with one number: how many of the devices are online that the campaign does not
# touch. At GOOD or more the run goes on; at BAD or fewer it ends; between them, and whenever the
# number can't be read, it holds.
#
# After a revocation the revoked devices lose their connections: that is the aim. So count the
# others, or ask whether the service itself answers.
set -u

url=${1?usage: fleet_ok.sh URL GOOD BAD} good=$2 bad=$3

run=$(cat) # how the run stands: name, wave, failed, requests_per_second, ...

if ! online=$(curl -fsS --max-time 8 "$url" 2>&1); then
    echo "can't read the number of devices online: $online"
    exit 1
fi
case $online in
'' | *[!0-9]*)
    echo "not a number of devices: $online"
    exit 1
    ;;
esac

echo "$online devices online that the campaign does not touch"
if [ "$online" -le "$bad" ]; then
    echo "$run" >&2 # for whoever starts it by hand
    exit 10 # end the run
fi
[ "$online" -ge "$good" ] # 0: go on, 1: hold
