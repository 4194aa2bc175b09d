// Prints every event as a line of JSON, from a position on, through restarts of the server.
//
//   eval "$(hivebus env)"
//   node --experimental-websocket docs/examples/follow.mjs 0        # node 22 and later: without the option
//
// hivebus.js has no dependencies: copy it from entrypoints/web, or from http://127.0.0.1:3000/hivebus.js.
import { connect } from "../../entrypoints/web/hivebus.js";

const { HIVEBUS_URL: url, HIVEBUS_KEY: key } = process.env;
const after = process.argv[2] === undefined ? null : Number(process.argv[2]);
const bus = connect({ url, key });

bus.addEventListener("state", ({ detail: { state, error, retry_ms } }) => {
  console.error(error === null ? state : `${state}: ${error.message}${retry_ms === null ? "" : `; next try in ${retry_ms} ms`}`);
  if (state === "locked") process.exit(2);
});

const { tasks } = await bus.call("task.list", { limit: 1 });
console.error(tasks.length === 0 ? "no task yet" : `the newest task is ${tasks[0].status}`);
const subscription = bus.subscribe({ noun: "task" }, after, ({ events }) => {
  for (const event of events) console.log(JSON.stringify(event));
  // A program that must not miss anything stores this, and begins there the next time.
  console.error(`up to position ${subscription.position}`);
});
