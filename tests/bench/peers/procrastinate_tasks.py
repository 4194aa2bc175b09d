"""procrastinate on Postgres with fsync: submitted in batches, the job's row is the result."""

from __future__ import annotations

import os

import psycopg
from procrastinate import App, JobContext, PsycopgConnector

from tests.bench.peers import probe

CONNECTIONS = 20
BATCH = 500

app = App(connector=PsycopgConnector(conninfo=os.environ["PEER_POSTGRES"], min_size=4, max_size=CONNECTIONS))


@app.task(name="noop")
async def noop() -> None:
    """Do nothing, and succeed."""


stamp = app.task(name="stamp")(probe.stamp)
hold = app.task(name="hold")(probe.hold)


@app.periodic(cron="* * * * * */10")
@app.task(name="stalled", pass_context=True)
async def stalled(context: JobContext, timestamp: int) -> None:
    """What its documentation says to have: jobs of workers whose heart beats no more are tried again."""
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.retry_job(job)


class Procrastinate:
    poll_s = 0.05

    async def open(self) -> None:
        await app.open_async()
        self._reader = await psycopg.AsyncConnection.connect(os.environ["PEER_POSTGRES"], autocommit=True)

    async def flood(self, count: int) -> None:
        for start in range(0, count, BATCH):
            await noop.batch_defer_async(*({} for _ in range(min(BATCH, count - start))))

    async def stamp(self, port: int, sent_ns: int) -> None:
        await stamp.defer_async(port=port, sent_ns=sent_ns)

    async def hold(self, port: int) -> None:
        await hold.defer_async(port=port)

    async def ended(self) -> int:
        query = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded' AND task_name <> 'stalled'"
        row = await (await self._reader.execute(query)).fetchone()
        return int(row[0])

    async def lag_ms(self) -> None:
        return None


CLIENT = Procrastinate
