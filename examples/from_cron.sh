#!/usr/bin/env bash
# Work on one campaign from cron or a timer: with a bare environment, from any folder, as often as
# wanted. A call goes on where the one before was stopped, killed or cut off by a reboot. While one
# is at work, and once the campaign is over, it does nothing.
#
#   */10 * * * *  /srv/campaigns/from_cron.sh /srv/campaigns/november.toml /etc/bulkcert.env
#
# With --new, a call begins the next round once the one before is over, as for weekly renewals; the
# first line still continues whatever was interrupted:
#
#   0 2 * * 1     /srv/campaigns/from_cron.sh /srv/campaigns/renew.toml /etc/bulkcert.env --new
#
# The second file has lines such as ENOS_APP_KEY=…, and should be readable for its owner only. cron
# knows few folders: BULKCERT names the command where it is not among them.
#
# The exit code is that of `bulkcert run`; README.md explains it. cron mails what is printed: the
# warnings and the result.
set -eu

job=$1
credentials=$2
new=${3:-}
bulkcert=${BULKCERT:-bulkcert}

# The run is beside the job file, so the job file is enough to find it.
case $("$bulkcert" status "$job" --json 2>/dev/null || true) in
    *'"state": "running"'*) exit 0 ;;
    *'"state": "over"'*) [ -n "$new" ] || exit 0 ;;
    *'"state": "interrupted"'*) new= ;; # it goes on first
esac

set -a # what the file sets is for bulkcert, too
. "$credentials"
set +a
exec "$bulkcert" run "$job" --yes --quiet ${new:+"$new"}
