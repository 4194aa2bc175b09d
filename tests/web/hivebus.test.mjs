// hivebus.js in node, against the real program that HIVEBUS_URL and HIVEBUS_KEY name; run by test_hivebus_js.py.
import assert from "node:assert/strict";
import test from "node:test";

import { Problem, Unreachable, connect } from "../../entrypoints/web/hivebus.js";

const { HIVEBUS_URL: url, HIVEBUS_KEY: key } = process.env;
const ENDS_MS_MAX = 15_000;
const TASK = { type: "noop", executor: "python", parameters: { function: "noop" } };

function bus_for(t, options = {}) {
  const bus = connect({ url, key, ...options });
  t.after(() => bus.close());
  return bus;
}

/** The value that `within` gets, or a failure after the deadline. */
function told(within) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("it was not told in time")), ENDS_MS_MAX);
    within((value) => {
      clearTimeout(timer);
      resolve(value);
    });
  });
}

test("calls are answered, and what is refused has a code, a remedy and a place", async (t) => {
  const bus = bus_for(t);
  assert.equal(bus.state, "idle");
  const { agents } = await bus.call("agent.list");
  assert.equal(agents.length, 2);
  assert.deepEqual([bus.state, bus.server.serverInfo.name], ["live", "hivebus"]);
  await assert.rejects(bus.call("task.show", { task_id: "nobody" }), (error) =>
    error instanceof Problem && error.status === 404 && error.code === "unknown_task" && error.remedy !== "");
  await assert.rejects(bus.call("task.submit", { type: "hello", parameters: {}, colour: 1 }), { pointer: "/colour" });
  await assert.rejects(bus.call("task.submit", { ...TASK, name: "ä".repeat(600_000) }), RangeError);
  assert.equal(await bus.call("ping"), "pong");
});

test("a command given twice under one key is one task", async (t) => {
  const bus = bus_for(t);
  const one = await bus.call("task.submit", { ...TASK, idempotency_key: "js" });
  const again = await bus.call("task.submit", { ...TASK, idempotency_key: "js" });
  assert.deepEqual([again.task_id, again.repeated], [one.task_id, true]);
});

test("a batch is answered one by one, in its order", async (t) => {
  const [pong, refused, tasks] = await bus_for(t).batch([["ping"], ["task.fly", {}], ["task.list", { limit: 1 }]]);
  assert.equal(pong.value, "pong");
  assert.equal(refused.reason.code, "unknown_action");
  assert.ok(Array.isArray(tasks.value.tasks));
});

test("a subscription tells all events from a position on, in order, until it is closed", async (t) => {
  const bus = bus_for(t);
  const { task_id } = await bus.call("task.submit", TASK);
  const seen = [];
  const subscription = await told((done) => {
    const following = bus.subscribe({ noun: "task" }, 0, ({ events, from, to }) => {
      assert.ok(from < to);
      seen.push(...events);
      if (seen.some(({ subject, type }) => subject === `task/${task_id}` && type === "hivebus.task.completed")) done(following);
    });
  });
  const { events } = await bus.call("event.list", { noun: "task", limit: 1000 });
  assert.deepEqual(seen.map(({ id }) => id), events.slice(0, seen.length).map(({ id }) => id));
  assert.ok(subscription.position >= Number(seen.at(-1).sequence));
  assert.throws(() => bus.subscribe({ noun: "task" }, 0, () => {}), /subscribed to already/);
  subscription.close();
  const before = seen.length;
  const { position } = await bus.call("task.submit", TASK);
  await told((done) => bus.subscribe({}, position - 1, ({ to }) => to > position && done()));
  assert.equal(seen.length, before);
});

test("a subscription without a position begins now", async (t) => {
  const bus = bus_for(t);
  await bus.call("task.submit", { ...TASK, wait: "recorded" });
  const first = told((done) => {
    const following = bus.subscribe({ verb: "submitted" }, null, ({ events }) => events.length > 0 && done(events[0]));
    t.after(() => following.close());
  });
  await bus.call("ping"); // answered behind the subscription
  const { task_id } = await bus.call("task.submit", TASK);
  assert.equal((await first).subject, `task/${task_id}`);
});

test("a filter that the server refuses is told to the one who asked", async (t) => {
  const refused = await told((done) => bus_for(t).subscribe({ colour: "red" }, 0, () => {}, done));
  assert.ok(refused instanceof Problem);
  assert.equal(refused.status, 422);
});

test("a key that is not known locks, and nothing is tried again", async (t) => {
  const bus = bus_for(t, { key: "hive_0_wrong" });
  await assert.rejects(bus.call("ping"), { code: "unauthenticated" });
  assert.equal(bus.state, "locked");
  await assert.rejects(bus.call("ping"), { code: "unauthenticated" });
});

test("a server that is away is said, with the time of the next try, and calls fail at once", async (t) => {
  const bus = bus_for(t, { url: "http://127.0.0.1:9" });
  const states = [];
  bus.addEventListener("state", ({ detail }) => states.push(detail));
  await assert.rejects(bus.call("ping"), Unreachable);
  await assert.rejects(bus.call("ping"), Unreachable);
  assert.deepEqual(states.map(({ state }) => state), ["connecting", "lost"]);
  assert.ok(states[1].retry_ms >= 500 && states[1].retry_ms <= 1000);
  bus.close();
  assert.equal(bus.state, "closed");
  await assert.rejects(bus.call("ping"), /closed here/);
});
