// The client of Hivebus for browsers and node: JSON-RPC 2.0 over one WebSocket that comes back by itself.
//
//   const bus = connect();                                    // the page's own server, opened by the page's cookie
//   const bus = connect({ url: "http://127.0.0.1:3000", key });             // from node
//   const { tasks } = await bus.call("task.list", { limit: 10 });
//   const subscription = bus.subscribe({ noun: "task" }, 0, ({ events }) => console.log(events));
//   subscription.position                                     // store it, and give it as `after` the next time
//
// No dependencies. Node has a WebSocket from 22 on; node 20 with --experimental-websocket.

const PAUSE_MS_MIN = 1_000;
const PAUSE_MS_MAX = 30_000;
const OPEN_MS_MAX = 10_000;
const ANSWER_MS_MAX = 65_000;
const HEARTBEAT_MS = 30_000;
const BATCH_MAX = 50;
const WAITING_MAX = 1_000;
const FRAME_BYTES_MAX = 1024 * 1024;
const CLOSED_HERE = 1000;
const GIVEN_UP = 4000; // the first of the codes that are left to applications

/** The server said no: `status`, `code`, `message`, `remedy`, `pointer`, `retry_after_s`. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.reason ?? `the server answered with status ${status}`);
    this.name = "Problem";
    this.status = status;
    this.code = document.code ?? "internal";
    this.remedy = document.remedy ?? "";
    this.pointer = document.pointer ?? document.field ?? null;
    this.retry_after_s = document.retry_after_s ?? null;
  }
}

/** No answer came: the program stopped, the network is down, or it took too long. */
export class Unreachable extends Error {
  constructor(message) {
    super(message);
    this.name = "Unreachable";
  }
}

/** The bus of a server, which is the page's own without `url`. It connects with the first call or subscription. */
export const connect = (options) => new Bus(options);

/**
 * `state` says how it stands, and an event `state` tells each change, with {state, error, retry_ms} as its `detail`:
 *
 *   idle        nothing was asked yet
 *   connecting  calls wait for the connection
 *   live        calls are answered, subscriptions are told
 *   lost        calls fail with `error`; the next try comes in `retry_ms`, or with open()
 *   locked      the server takes neither key nor cookie; open() tries again
 *   closed      by close()
 */
export class Bus extends EventTarget {
  state = "idle";
  error = null;
  server = null;
  #url;
  #key;
  #connection = null;
  #opening = null;
  #subscriptions = new Map();
  #pause_ms = PAUSE_MS_MIN;
  #timer = 0;

  constructor({ url = globalThis.location?.origin, key = null } = {}) {
    super();
    this.#url = String(url).replace(/\/+$/, "");
    this.#key = key;
  }

  /** Connect now, and not after the pause. Resolves when it is live, rejects when this try failed. */
  open() {
    clearTimeout(this.#timer);
    this.#opening ??= this.#open().finally(() => (this.#opening = null));
    return this.#opening;
  }

  /** Let the connection go. Subscriptions keep their positions for another open(). */
  close() {
    clearTimeout(this.#timer);
    this.#become("closed");
    this.#let_go(new Unreachable("the connection was closed here"), CLOSED_HERE);
  }

  /** The result of a method. Rejects with Problem or Unreachable. Nothing is sent again by itself: give a command an
   *  `idempotency_key`, and it may be; the server carries it out once. */
  async call(method, params = {}) {
    return (await this.#live()).call(method, params);
  }

  /** At most 50 calls `[method, params]` in one frame; what Promise.allSettled gives of them, in their order. */
  async batch(calls) {
    if (calls.length < 1 || calls.length > BATCH_MAX) throw new RangeError(`a batch holds 1 to ${BATCH_MAX} calls`);
    return Promise.allSettled((await this.#live()).batch(calls));
  }

  /**
   * Tell `handler({events, from, to})` the events after a position (null: from now on), in order, none missing, none
   * twice, through lost connections. A filter, of noun, verb, id, agent and correlation_id, is subscribed to once at a
   * time. `failed(problem)` is called when the server refuses it. Returns {position, close()}.
   */
  subscribe(filter, after, handler, failed = () => {}) {
    const name = JSON.stringify(Object.entries(filter).sort());
    if (this.#subscriptions.has(name)) throw new Error(`this filter is subscribed to already: ${name}`);
    const close = () => {
      if (!this.#subscriptions.delete(name)) return;
      if (this.state === "live") this.#connection.leave(subscription).catch(() => {});
    };
    const subscription = { filter, position: after, id: null, handler, failed, close };
    this.#subscriptions.set(name, subscription);
    if (this.state === "live") this.#begin(subscription);
    else if (this.state === "idle") this.open().catch(() => {}); // told as a state
    return subscription;
  }

  // --- its life ---

  async #live() {
    if (this.state === "idle" || this.#opening !== null) await this.open();
    if (this.state !== "live") throw this.error ?? new Unreachable("the connection was closed here");
    return this.#connection;
  }

  async #open() {
    if (this.state === "live") return;
    this.#become("connecting");
    const connection = new Connection(this.#url, this.#key);
    this.#connection = connection;
    try {
      this.server = await connection.open();
    } catch (error) {
      if (connection === this.#connection) this.#lose(error);
      throw error;
    }
    if (connection !== this.#connection) throw new Unreachable("the connection was closed here");
    connection.ended = (error) => connection === this.#connection && this.#lose(error);
    connection.noticed = (notice) => this.dispatchEvent(new CustomEvent("notification", { detail: notice }));
    this.#pause_ms = PAUSE_MS_MIN;
    this.#become("live");
    for (const subscription of this.#subscriptions.values()) this.#begin(subscription);
  }

  async #begin(subscription) {
    const connection = this.#connection;
    try {
      await connection.enter(subscription);
    } catch (error) {
      if (connection !== this.#connection || error instanceof Unreachable) return; // it begins again with the next one
      subscription.close();
      subscription.failed(error);
    }
  }

  #lose(error) {
    this.#let_go(error, GIVEN_UP);
    if (error.status === 401 || error.status === 403) {
      this.#become("locked", error);
      return;
    }
    // Shortened by up to a half: a restarted server is not met by all pages at the same moment.
    const retry_ms = Math.round(this.#pause_ms * (1 - Math.random() / 2));
    this.#pause_ms = Math.min(this.#pause_ms * 2, PAUSE_MS_MAX);
    this.#timer = setTimeout(() => this.open().catch(() => {}), retry_ms);
    this.#become("lost", error, retry_ms);
  }

  #let_go(error, code) {
    const connection = this.#connection;
    this.#connection = null;
    connection?.close(error, code);
  }

  #become(state, error = null, retry_ms = null) {
    this.state = state;
    this.error = error;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, error, retry_ms } }));
  }
}

/** One WebSocket. It ends once and is not opened again. */
class Connection {
  ended = () => {};
  noticed = () => {};
  #url;
  #key;
  #socket = null;
  #number = 0;
  #waiting = new Map();
  #subscriptions = new Map();
  #heartbeat = 0;
  #end = null;

  constructor(url, key) {
    this.#url = url;
    this.#key = key;
  }

  /** What the server says of itself, once it is initialized. */
  async open() {
    const ticket = await this.#ticket();
    if (this.#end !== null) throw this.#end;
    await this.#connect(`${this.#url.replace(/^http/, "ws")}/ws?ticket=${encodeURIComponent(ticket)}`);
    const answer = await this.call("initialize", {
      protocolVersion: { major: 1, minor: 0, patch: 0 },
      clientInfo: { name: "hivebus.js", version: "1" },
      capabilities: { streaming: true, notifications: false },
    });
    // A browser cannot send a WebSocket's own ping, and does not notice a server that is gone without a word.
    this.#heartbeat = setInterval(() => {
      this.call("ping", {}, OPEN_MS_MAX).catch((error) => this.#over(error));
    }, HEARTBEAT_MS);
    return answer;
  }

  /** A one-time word for the address: a browser sends no header with a WebSocket, nor hears why one was refused. */
  async #ticket() {
    const headers = { "Content-Type": "application/json" };
    if (this.#key !== null) headers.Authorization = `Bearer ${this.#key}`;
    const signal = AbortSignal.timeout(OPEN_MS_MAX);
    const { status, text } = await fetch(`${this.#url}/api/ticket`, { method: "POST", headers, body: "{}", signal }).then(
      async (response) => ({ status: response.status, text: await response.text() }),
    ).catch(() => {
      throw new Unreachable(signal.aborted ? `no answer within ${OPEN_MS_MAX / 1000} s` : absence());
    });
    const document = parsed(text);
    if (status >= 400 || document.ticket === undefined) throw new Problem(status, document);
    return document.ticket;
  }

  #connect(address) {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(address);
      const slow = setTimeout(() => socket.close(GIVEN_UP), OPEN_MS_MAX);
      this.#socket = socket;
      socket.onopen = () => {
        clearTimeout(slow);
        resolve();
      };
      socket.onmessage = ({ data }) => this.#take(parsed(data));
      socket.onclose = ({ code, reason }) => {
        clearTimeout(slow);
        this.#over(new Unreachable(words(code, reason)));
        reject(this.#end);
      };
    });
  }

  call(method, params, answer_ms = ANSWER_MS_MAX, seen = () => {}) {
    return this.#send([[method, params]], answer_ms, seen)[0];
  }

  batch(calls) {
    return this.#send(calls, ANSWER_MS_MAX, () => {});
  }

  async enter(subscription) {
    const { filter, position } = subscription;
    const params = position === null ? { filter } : { filter, after: position };
    // `seen` is called before the next frame is read: the first batch may follow right behind the answer.
    await this.call("events/subscribe", params, ANSWER_MS_MAX, (answer) => {
      subscription.id = answer.subscription_id;
      subscription.position ??= answer.position;
      this.#subscriptions.set(subscription.id, subscription);
    });
  }

  leave({ id }) {
    this.#subscriptions.delete(id);
    return this.call("events/unsubscribe", { subscription_id: id });
  }

  close(error, code) {
    this.#over(error);
    this.#socket?.close(code);
  }

  #over(error) {
    if (this.#end !== null) return;
    this.#end = error;
    clearInterval(this.#heartbeat);
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#waiting.clear();
    this.#subscriptions.clear();
    this.ended(error);
  }

  #send(calls, answer_ms, seen) {
    if (this.#end !== null) throw this.#end;
    if (this.#waiting.size + calls.length > WAITING_MAX) throw new RangeError(`${WAITING_MAX} calls wait already`);
    const requests = calls.map(([method, params = {}]) => ({ jsonrpc: "2.0", id: ++this.#number, method, params }));
    const text = JSON.stringify(requests.length === 1 ? requests[0] : requests);
    if (new Blob([text]).size > FRAME_BYTES_MAX) throw new RangeError(`a message holds ${FRAME_BYTES_MAX} bytes at most`);
    this.#socket.send(text);
    return requests.map(({ id, method }) => new Promise((resolve, reject) => {
      const late = () => {
        this.#waiting.delete(id);
        reject(new Unreachable(`no answer to ${method} within ${answer_ms / 1000} s`));
      };
      this.#waiting.set(id, { resolve, reject, seen, timer: setTimeout(late, answer_ms) });
    }));
  }

  #take(message) {
    for (const part of Array.isArray(message) ? message : [message]) {
      if (part.method === "events/batch") this.#tell(part.params);
      else if (part.method !== undefined) this.noticed(part);
      else this.#answered(part);
    }
  }

  #answered({ id, result, error }) {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (error !== undefined) {
      waiting.reject(new Problem(error.data?.status ?? 500, { detail: error.message, ...error.data }));
      return;
    }
    waiting.seen(result);
    waiting.resolve(result);
  }

  #tell({ subscription_id, from, to, events }) {
    const subscription = this.#subscriptions.get(subscription_id);
    if (subscription === undefined) return; // it was left while this was under way
    const { position } = subscription;
    if (from > position) {
      this.close(new Unreachable(`events were skipped after position ${position}`), GIVEN_UP);
      return;
    }
    if (to <= position) return;
    const fresh = events.filter((event) => Number(event.sequence) > position);
    subscription.position = to;
    subscription.handler({ events: fresh, from: position, to });
  }
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

function absence() {
  if (globalThis.navigator?.onLine === false) return "this device is offline";
  return "no connection; the program has stopped, or the network is down";
}

function words(code, reason) {
  if (code === 1012) return "the program stopped";
  if (code === 1013) return "the server let go of a reader that was too slow";
  return code === 1006 ? absence() : `the connection was closed with ${code}${reason ? ` (${reason})` : ""}`;
}
