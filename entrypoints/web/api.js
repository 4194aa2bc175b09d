// What the page asks of the program, over the one connection of hivebus.js.

import { Problem, Unreachable, connect } from "./hivebus.js";

const SESSION_MS_MAX = 10_000;
const EVENTS_MAX = 200;

export const bus = connect();

export const readStatus = () => bus.call("system.status");
export const readTasks = (limit) => bus.call("task.list", { limit });
export const readAgents = () => bus.call("agent.list");
export const readTask = (task_id) => bus.call("task.show", { task_id });

/** A page of events after a position: {events, next, position}. */
export const readEvents = (after) => bus.call("event.list", { after, limit: EVENTS_MAX });

/** Cancel a task; the answer's sentence. */
export async function cancelTask(task_id) {
  return (await bus.call("task.cancel", { task_id, idempotency_key: newKey() })).message;
}

/** Swap a one-time ticket or the key for the cookie. */
export async function openSession(words) {
  const signal = AbortSignal.timeout(SESSION_MS_MAX);
  const headers = { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch("/api/session", { method: "POST", headers, body: JSON.stringify(words), signal });
  } catch {
    throw new Unreachable(signal.aborted ? `no answer within ${SESSION_MS_MAX / 1000} s` : "no connection to the program");
  }
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
}

// crypto.randomUUID is there on https and loopback only.
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
