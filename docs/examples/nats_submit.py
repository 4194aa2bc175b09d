# pip install nats-py;  eval "$(hivebus env)";  python nats_submit.py echo hello
import asyncio
import json
import sys
from os import environ as env

import nats


async def main() -> None:
    login = {"user": env["NATS_USER"], "password": env["NATS_PASSWORD"]}
    client = await nats.connect(env["NATS_URL"], inbox_prefix=env["NATS_INBOX_PREFIX"].encode(), **login)
    task = {"type": "hello", "executor": "command", "parameters": {"argv": sys.argv[1:]}}
    reply = await client.request("hive.cmd.task.submit", json.dumps(task).encode(), timeout=10)
    answer = json.loads(reply.data)
    print(f"accepted {answer['task_id']}" if answer["accepted"] else f"{answer['code']}: {answer['reason']}")
    await client.close()


asyncio.run(main())
