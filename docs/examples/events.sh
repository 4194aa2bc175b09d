#!/bin/sh
# Prints every event as a line of JSON, from a position on, through restarts of the server. Needs curl.
#
#     eval "$(hivebus env)"
#     sh docs/examples/events.sh            # everything, then what happens
#     sh docs/examples/events.sh 5000 '&type=task.failed'
set -eu
after=${1:-0}
filter=${2:-}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

while :; do
    # The key goes to curl by stdin: on the command line every user of the machine could read it.
    if printf 'header = "Authorization: Bearer %s"\n' "$HIVEBUS_KEY" |
        curl --config - --silent --show-error --fail --max-time 40 --dump-header "$folder/headers" \
            --output "$folder/events" "$HIVEBUS_URL/api/events?after=$after&limit=1000&wait=20$filter"; then
        cat "$folder/events"
        # Whole pages only: what was cut off is asked for again from the same position, so nothing comes twice.
        after=$(tr -d '\r' <"$folder/headers" | awk 'tolower($1) == "hivebus-next:" { print $2 }')
    else
        sleep 1
    fi
done
