#!/bin/sh
# Posts the events of a run to a chat. Most chats have "incoming webhooks" that take {"text": "..."}.
#
#   [notify]
#   command = ["./to_chat.sh"]
#
# The address is a secret, so it is not in the job file but in the environment of the run: CHAT_URL.
# With exit code 0 the chat has the event. Otherwise bulkcert tries again, so it may come twice; its
# number shows that. With the number and the hash in it, the chat is a witness outside the run.
set -eu

post=$(python3 -c '
import json, sys

event = json.load(sys.stdin)
around = ("seq", "at", "run", "plan", "type", "previous", "hash")
what = ", ".join(f"{name} {value}" for name, value in event.items() if name not in around)
run, number, kind = event["run"], event.get("seq", "(not recorded)"), event["type"]
text = f"{run}: event {number}, {kind}: {what}"
if "hash" in event:
    text += " [" + event["hash"] + "]"
print(json.dumps({"text": text}))
')
printf '%s' "$post" | curl -fsS --max-time 8 -o /dev/null \
    -H 'Content-Type: application/json' --data-binary @- "${CHAT_URL?is not set}"
