"""Print events as they are recorded, with the standard library only; after a lost connection it goes on where it was.

eval "$(hivebus env)"
python docs/examples/follow.py [AFTER]
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

last_id = sys.argv[1] if len(sys.argv) > 1 else "0"
while True:
    request = urllib.request.Request(
        os.environ["HIVEBUS_URL"] + "/api/events",
        headers={
            "Authorization": "Bearer " + os.environ["HIVEBUS_KEY"],
            "Accept": "text/event-stream",
            "Last-Event-ID": last_id,
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as stream:
            had_id = last_id
            for line in stream:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    had_id = value
                elif name == "data":
                    event = json.loads(value)
                    print(event["sequence"], event["type"], event["subject"], flush=True)
                elif not name:
                    last_id = had_id  # the event is whole
    except urllib.error.HTTPError as error:
        sys.exit(json.load(error)["detail"])
    except OSError as error:
        print(f"{error}; again in a second", file=sys.stderr)
    time.sleep(1)
