// The page's life: come in, follow the events, say when the server is gone, and come back by itself.

import { bus, cancelTask, openSession, readAgents, readEvents, readStatus, readTask, readTasks } from "./api.js";
import { taskDialog } from "./dialog.js";
import { html, render, say } from "./dom.js";
import { clockOf, count } from "./format.js";
import { Problem, Unreachable } from "./hivebus.js";
import { agentRows, eventRows, statusLine, taskRows } from "./views.js";

const TASKS_MAX = 50;
const EVENTS_SHOWN_MAX = 50;
const BEHIND_MAX = 200;
const REFRESH_MS_MIN = 500;
const STATUS_EVERY_MS = 5_000;
const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 30_000;
const NOTE_MS = 8_000;

const $ = (id) => document.getElementById(id);

/** All that the page knows. `after` is the position up to which it has seen the events; null before the first look. */
const seen = {
  status: null, status_ms: 0,
  tasks: [], total: 0, agents: [], events: [], after: null, tables: false,
  open: null, task: null, failure: null, refused: null, shown: 0,
};

// --- the life --------------------------------------------------------------------------------------------------------

/** Ends what belongs to one life of the connection. */
let life = new AbortController();

bus.addEventListener("state", ({ detail: { state, error, retry_ms } }) => {
  life.abort();
  life = new AbortController();
  const { signal } = life;
  if (state === "live") live(signal);
  else if (state === "lost") lost(error, retry_ms, signal).then(connect, () => {});
  else if (state === "locked") askForKey(error, signal);
});

const connect = () => bus.open().catch(() => {}); // what came of it is told as a state

async function start() {
  for (let retry_ms = RETRY_MS_MIN; ; retry_ms = Math.min(retry_ms * 2, RETRY_MS_MAX)) {
    try {
      await comeIn();
      break;
    } catch (error) {
      await lost(error, retry_ms, new AbortController().signal);
    }
  }
  if (!document.hidden) connect();
}

// A tab that nobody looks at holds no connection; it resumes where it was.
document.addEventListener("visibilitychange", () => {
  if (bus.state === "locked") return;
  if (document.hidden) bus.close();
  else connect();
});

/** Swap the link's ticket for the cookie. A ticket that was used does no harm to a browser that has its cookie. */
async function comeIn() {
  const url = new URL(location.href);
  const ticket = url.searchParams.get("ticket");
  if (ticket === null) return;
  try {
    await openSession({ ticket });
  } catch (error) {
    if (!(error instanceof Problem) || error.status >= 500) throw error;
    seen.refused = error;
  }
  url.searchParams.delete("ticket");
  history.replaceState(null, "", url);
}

/** While the connection holds: look around, then follow. A call that fails is told, and all is asked for again. */
async function live(signal) {
  for (let retry_ms = RETRY_MS_MIN; !signal.aborted; retry_ms = Math.min(retry_ms * 2, RETRY_MS_MAX)) {
    try {
      await lookAround();
      if (signal.aborted) return;
      connected();
      retry_ms = RETRY_MS_MIN;
      await follow(signal);
    } catch (error) {
      if (signal.aborted) return;
      await lost(error, retry_ms, signal).catch(() => {}); // the connection ended meanwhile
    }
  }
}

async function lookAround() {
  await refreshStatus();
  const { recorded } = seen.status.positions;
  // A new data directory begins again; a long absence is not caught up event by event.
  if (seen.after === null || seen.after > recorded || recorded - seen.after > BEHIND_MAX) await readTail(recorded);
  await refreshTables();
}

async function readTail(recorded) {
  seen.events = [];
  seen.after = Math.max(0, recorded - EVENTS_SHOWN_MAX);
  const { events, next } = await readEvents(seen.after);
  take({ events, to: next });
}

/** Show what happens as it is told, and the status and the tables after it, until the connection ends. */
async function follow(signal) {
  const refused = new AbortController();
  const until = AbortSignal.any([signal, refused.signal]);
  let wake = () => {};
  const following = bus.subscribe({}, seen.after, (batch) => {
    take(batch);
    wake();
  }, (problem) => refused.abort(problem));
  try {
    for (;;) {
      // Now and then without any event: the status holds measurements.
      const told = new Promise((resolve) => (wake = resolve));
      if (!behind()) await Promise.race([told, pause(STATUS_EVERY_MS, until)]);
      await refreshStatus();
      if (behind()) await refreshTables();
      await pause(REFRESH_MS_MIN, until);
    }
  } finally {
    following.close();
  }
}

/** Whether the tables show less than the events: the views are applied a moment after an event is recorded. */
const behind = () => seen.tables && seen.shown < seen.after;

function take({ events, to }) {
  seen.after = Math.max(seen.after, to);
  say($("events-count"), `up to position ${count(seen.after)}`);
  if (events.length === 0) return;
  seen.events = [...events.reverse(), ...seen.events].slice(0, EVENTS_SHOWN_MAX);
  render($("events-rows"), eventRows(seen.events));
}

async function refreshStatus() {
  seen.status = await readStatus();
  seen.status_ms = Date.now();
  showStatus();
}

async function refreshTables() {
  const [tasks, agents] = await Promise.all([readTasks(TASKS_MAX), readAgents(), refreshDialog()]);
  Object.assign(seen, {
    tasks: tasks.tasks, total: tasks.pagination.total, agents: agents.agents, tables: true,
    shown: Math.min(tasks.position, agents.position),
  });
  show();
}

// --- showing ---------------------------------------------------------------------------------------------------------

function showStatus() {
  const away = document.body.dataset.link === "lost";
  if (seen.status) render($("status"), statusLine(seen.status, Date.now() - seen.status_ms, away));
}

function show() {
  if (!seen.tables) return;
  $("door").hidden = true;
  $("fleet").hidden = false;
  showTasks();
  render($("agents-rows"), agentRows(seen.agents));
  say($("agents-count"), count(seen.agents.length));
  render($("events-rows"), eventRows(seen.events));
}

function showTasks() {
  render($("tasks-rows"), taskRows(seen.tasks, seen.agents, Date.now()));
  const shown = seen.tasks.length;
  say($("tasks-count"), shown < seen.total ? `latest ${count(shown)} of ${count(seen.total)}` : count(seen.total));
  showDialog();
}

function connected() {
  seen.refused = null;
  document.body.dataset.link = "live";
  $("link").dataset.state = "live";
  $("lost").hidden = true;
  document.title = "Hivebus";
  showStatus();
  sayLive();
}

function sayLive() {
  const { status } = seen.status;
  say($("link"), status === "healthy" ? "live" : `live, ${status}`);
}

let note_timer = 0;

/** Say what came of a click; in the dialog while it is open, for the page behind it is inert. */
function note(sentence) {
  for (const id of ["note", "task-note"]) say($(id), (id === "task-note") === $("task").open ? sentence : "");
  clearTimeout(note_timer);
  if (sentence) note_timer = setTimeout(() => note(""), NOTE_MS);
}

// The time goes on between two answers: ages, running times and the uptime. Not while the server is away.
setInterval(() => {
  if (document.hidden || document.body.dataset.link !== "live") return;
  showStatus();
  sayLive();
  if (seen.tables) showTasks();
}, 1_000);

// --- the server is away ----------------------------------------------------------------------------------------------

let since = null;

/** Say why, and when the next try comes; resolves when it does, or sooner by the button or the network. */
async function lost(error, retry_ms, signal) {
  if (document.body.dataset.link !== "lost") since = new Date();
  document.body.dataset.link = "lost";
  document.title = "Hivebus (no server)";
  $("link").dataset.state = "lost";
  say($("link"), "no server");
  $("lost").hidden = false;
  const kept = seen.tables ? " What you see below is from before." : "";
  say($("lost-why"), `Lost the server at ${clockOf(since)}: ${reason(error)}.${kept}`);
  seen.failure = `Lost the server: ${reason(error)}.`;
  showStatus();
  showDialog();
  await countdown(retry_ms, signal);
  say($("lost-next"), "Trying now");
}

function reason(error) {
  if (error instanceof Problem) return `${error.message} ${error.remedy}`.trim().replace(/\.$/, "");
  if (error instanceof Unreachable) return error.message;
  console.error(error);
  return `the page failed over its answer (${error.message})`;
}

async function countdown(ms, signal) {
  const until = Date.now() + ms;
  const skip = new Promise((resolve) => {
    document.querySelector("[data-retry]").addEventListener("click", resolve, { once: true, signal });
    window.addEventListener("online", resolve, { once: true, signal });
  });
  for (let left = ms; left > 0; left = until - Date.now()) {
    say($("lost-next"), `Next try in ${Math.ceil(left / 1000)} s.`);
    const skipped = await Promise.race([skip.then(() => true), pause(Math.min(left, 1_000), signal).then(() => false)]);
    if (skipped) return;
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

// --- the key ---------------------------------------------------------------------------------------------------------

/** Show the form until a key opened a session. */
async function askForKey(error, signal) {
  const refused = seen.refused;
  seen.refused = null;
  document.body.dataset.link = "locked";
  $("link").dataset.state = "locked";
  $("lost").hidden = true;
  $("fleet").hidden = true;
  $("task").close();
  say($("link"), "needs the key");
  const hadSession = seen.tables;
  say($("door-why"), refused ? refused.message : hadSession ? error.message : "");
  $("door").hidden = false;
  $("key").focus();
  for (;;) {
    await new Promise((resolve) => $("door").addEventListener("submit", resolve, { once: true, signal }));
    say($("door-why"), "Asking");
    try {
      await openSession({ key: $("key").value.trim() });
      $("key").value = "";
      $("door").hidden = true;
      connect();
      return;
    } catch (failure) {
      say($("door-why"), failure instanceof Problem ? failure.message : `No answer: ${reason(failure)}.`);
      $("key").select();
    }
  }
}

$("door").addEventListener("submit", (event) => event.preventDefault());

// --- one task --------------------------------------------------------------------------------------------------------

function openTask(id) {
  Object.assign(seen, { open: id, task: null, failure: null });
  showDialog();
  if (!$("task").open) $("task").showModal();
  $("task").querySelector(".body").scrollTop = 0;
  refreshDialog();
}

/** Read the open task. Its failure is shown in the dialog and ends nothing else. */
async function refreshDialog() {
  const id = seen.open;
  if (id === null) return;
  try {
    const task = await readTask(id);
    if (seen.open === id) Object.assign(seen, { task, failure: null });
  } catch (error) {
    if (seen.open === id && bus.state === "live") seen.failure = `This task could not be read: ${reason(error)}.`;
  }
  showDialog();
}

function showDialog() {
  const id = seen.open;
  if (id === null) return;
  const task = seen.task ?? seen.tasks.find((row) => row.id === id) ?? null;
  render($("task-content"), taskDialog(id, task, seen.agents, seen.failure, Date.now()));
}

$("task").addEventListener("close", () => {
  Object.assign(seen, { open: null, task: null, failure: null });
  render($("task-content"), html``);
  note("");
});

async function cancel(button) {
  if (button.getAttribute("aria-disabled") === "true") return;
  const id = button.dataset.cancel;
  button.setAttribute("aria-disabled", "true");
  try {
    note(await cancelTask(id));
  } catch (error) {
    button.setAttribute("aria-disabled", "false");
    note(`Not cancelled: ${reason(error)}.`);
  }
}

// --- clicks ----------------------------------------------------------------------------------------------------------

async function copy(button) {
  const source = $(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    note("Copied.");
  } catch {
    // Without https a browser gives no clipboard to a page of another host than loopback.
    getSelection().selectAllChildren(source);
    note("This browser does not let the page copy; the text is selected, press Ctrl+C.");
  }
}

document.addEventListener("click", (event) => {
  const found = (selector) => event.target.closest(selector);
  if (found("[data-cancel]")) cancel(found("[data-cancel]"));
  else if (found("[data-copy]")) copy(found("[data-copy]"));
  else if (found("[data-close]") || event.target === $("task")) $("task").close();
  else if (found("[data-open]") && getSelection().isCollapsed) openTask(found("[data-open]").dataset.open);
});

start();
