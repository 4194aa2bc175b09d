// npm install @nats-io/transport-node;  eval "$(hivebus env)";  node nats_submit.mjs echo hello
import { connect } from "@nats-io/transport-node";

const { NATS_URL: servers, NATS_USER: user, NATS_PASSWORD: pass, NATS_INBOX_PREFIX: inboxPrefix } = process.env;
const client = await connect({ servers, user, pass, inboxPrefix });
const task = { type: "hello", executor: "command", parameters: { argv: process.argv.slice(2) } };
const reply = await client.request("hive.cmd.task.submit", JSON.stringify(task), { timeout: 10_000 });
const answer = reply.json();
console.log(answer.accepted ? `accepted ${answer.task_id}` : `${answer.code}: ${answer.reason}`);
await client.close();
