// The public API, as any other client calls it. Every call ends: with an answer, a problem, or after its time.

const ANSWER_MS_MAX = 10_000;
export const EVENTS_WAIT_S = 20;
const EVENTS_MAX = 200;

/** A problem document (RFC 9457), or an answer that is none. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? `the server answered with status ${status}`);
    this.status = status;
    this.remedy = document.remedy ?? "";
  }
}

/** No answer came: the program stopped, the network is down, or it took too long. */
export class Unreachable extends Error {}

async function call(path, { signal, wait_ms = 0, ...init } = {}) {
  const time = AbortSignal.timeout(ANSWER_MS_MAX + wait_ms);
  try {
    const response = await fetch(path, { ...init, signal: signal ? AbortSignal.any([signal, time]) : time });
    const text = await response.text();
    if (!response.ok) throw new Problem(response.status, parsed(text));
    return { text, headers: response.headers };
  } catch (error) {
    if (error instanceof Problem || signal?.aborted) throw error;
    if (time.aborted) throw new Unreachable(`no answer within ${(ANSWER_MS_MAX + wait_ms) / 1000} s`);
    if (!navigator.onLine) throw new Unreachable("this device is offline");
    throw new Unreachable("no connection; the program has stopped, or the network is down");
  }
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

async function read(path, signal) {
  return JSON.parse((await call(path, { signal })).text);
}

export const readStatus = (signal) => read("/api/status", signal);
export const readTasks = (limit, signal) => read(`/api/tasks?limit=${limit}`, signal);
export const readAgents = (signal) => read("/api/agents", signal);
export const readTask = (id, signal) => read(`/api/tasks/${encodeURIComponent(id)}`, signal);

/** Events after a position; with `wait_s` the answer comes with the first one, or when that time is over. */
export async function readEvents(after, wait_s, signal) {
  const path = `/api/events?after=${after}&wait=${wait_s}&limit=${EVENTS_MAX}`;
  const { text, headers } = await call(path, { signal, wait_ms: wait_s * 1000 });
  return {
    events: text.split("\n").filter(Boolean).map((line) => JSON.parse(line)),
    next: Number(headers.get("Hivebus-Next")),
    recorded: Number(headers.get("Hivebus-Position")),
  };
}

/** Cancel a task; the answer's sentence. */
export async function cancelTask(id) {
  const { text } = await call(`/api/tasks/${encodeURIComponent(id)}`, { method: "DELETE" });
  return JSON.parse(text).message;
}

/** Swap a one-time ticket or the key for the cookie. */
export async function openSession(words) {
  await call("/api/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(words),
  });
}
