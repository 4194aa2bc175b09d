"""Submit a task over JSON-RPC and wait for its end, with the standard library only.

eval "$(hivebus env)"
python docs/examples/jsonrpc.py echo hello
"""

import itertools
import json
import os
import sys
import urllib.request

ids = itertools.count(1)


def call(method, **params):
    """The result of a method; an error ends the program with its sentence and its remedy."""
    body = {"jsonrpc": "2.0", "id": next(ids), "method": method, "params": params}
    request = urllib.request.Request(
        os.environ["HIVEBUS_URL"] + "/api/",
        json.dumps(body).encode(),
        {"Authorization": "Bearer " + os.environ["HIVEBUS_KEY"], "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    if "error" in answer:
        data = answer["error"]["data"]
        sys.exit(f"{data['code']}: {data['reason']} {data['remedy']}")
    return answer["result"]


task = call("task.submit", type="example", executor="command", parameters={"argv": sys.argv[1:]})
after, ended = task["position"], None
while ended is None:
    page = call("event.list", id=task["task_id"], after=after, wait=20)
    after = page["next"]
    endings = [
        event["type"] for event in page["events"] if event["type"].endswith(("completed", "failed", "cancelled"))
    ]
    ended = endings[0] if endings else None
shown = call("task.show", task_id=task["task_id"], min_position=after)
print(shown["status"])
print((shown["result"] or {}).get("stdout", ""), end="")
