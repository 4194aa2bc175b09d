"""Submits one program as a task, prints what becomes of it, then what it printed. Outlives a restart of the server.

    python docs/examples/submit_and_follow.py echo hello

It finds the server of this machine by itself, or the one that HIVEBUS_URL and HIVEBUS_KEY name (`hivebus env`).
"""

import asyncio
import sys

import hivebus

ENDS = ("hivebus.task.completed", "hivebus.task.failed", "hivebus.task.cancelled")


async def main(argv: list[str]) -> int:
    async with hivebus.connect() as bus:
        task = hivebus.SubmitTask(type="example", executor="command", parameters={"argv": argv})
        # Sent with an Idempotency-Key: however often a lost connection makes it be sent again, there is one task.
        accepted = await bus.submit(task)
        # From the position before it: nothing that happens to the task is missed, however quick it is.
        events = bus.events(after=accepted["position"] - 1, noun="task", id=accepted["task_id"])
        async for event in events:
            print(event["sequence"], event["type"].removeprefix("hivebus."), flush=True)
            if event["type"] in ENDS:
                break
        ended = await bus.result(accepted["task_id"])
    if ended["status"] != "completed":
        print(f"{ended['status']}: {ended['error']}", file=sys.stderr)
        return 1
    print(ended["result"]["stdout"], end="")
    return 0


try:
    sys.exit(asyncio.run(main(sys.argv[1:])))
except hivebus.HivebusError as error:
    print(f"{error.code}: {error.sentence} {error.remedy}", file=sys.stderr)
    sys.exit(2)
