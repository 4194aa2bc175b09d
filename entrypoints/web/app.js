// The page's life: come in, follow the events, say when the server is gone, and come back by itself.

import {
  EVENTS_WAIT_S, Problem, Unreachable,
  cancelTask, openSession, readAgents, readEvents, readStatus, readTask, readTasks,
} from "./api.js";
import { taskDialog } from "./dialog.js";
import { html, render, say } from "./dom.js";
import { clockOf, count } from "./format.js";
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

async function live() {
  let retry_ms = RETRY_MS_MIN;
  for (;;) {
    await untilVisible();
    const life = new AbortController();
    const hide = () => document.hidden && life.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      await comeIn();
      await lookAround(life.signal);
      retry_ms = RETRY_MS_MIN;
      connected();
      await Promise.all([followEvents(life.signal), followStatus(life.signal)]);
    } catch (error) {
      const hidden = life.signal.aborted;
      life.abort();
      if (hidden) continue;
      if (error instanceof Problem && error.status === 401) {
        await askForKey(error);
        continue;
      }
      await lost(error, retry_ms);
      retry_ms = Math.min(retry_ms * 2, RETRY_MS_MAX);
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
  }
}

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

async function lookAround(signal) {
  await refreshStatus(signal);
  const { recorded } = seen.status.positions;
  // A new data directory begins again; a long absence is not caught up event by event.
  if (seen.after === null || seen.after > recorded || recorded - seen.after > BEHIND_MAX) await readTail(recorded, signal);
  await refreshTables(signal);
}

async function readTail(recorded, signal) {
  seen.events = [];
  seen.after = Math.max(0, recorded - EVENTS_SHOWN_MAX);
  take(await readEvents(seen.after, 0, signal));
}

async function followEvents(signal) {
  for (;;) {
    const answer = await readEvents(seen.after, behind() ? 0 : EVENTS_WAIT_S, signal);
    take(answer);
    if (answer.recorded - answer.next > BEHIND_MAX) await readTail(answer.recorded, signal);
    if (answer.events.length > 0 || behind()) {
      await refreshStatus(signal);
      await refreshTables(signal);
      await pause(REFRESH_MS_MIN, signal);
    }
  }
}

async function followStatus(signal) {
  for (;;) {
    await pause(STATUS_EVERY_MS, signal);
    await refreshStatus(signal);
  }
}

/** Whether the tables show less than the events: the views are applied a moment after an event is recorded. */
const behind = () => seen.tables && seen.shown < seen.after;

function take({ events, next }) {
  seen.after = Math.max(seen.after, next);
  if (events.length === 0) return;
  seen.events = [...events.reverse(), ...seen.events].slice(0, EVENTS_SHOWN_MAX);
  render($("events-rows"), eventRows(seen.events));
}

async function refreshStatus(signal) {
  seen.status = await readStatus(signal);
  seen.status_ms = Date.now();
  showStatus();
}

async function refreshTables(signal) {
  const [tasks, agents] = await Promise.all([readTasks(TASKS_MAX, signal), readAgents(signal), refreshDialog(signal)]);
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
  say($("events-count"), `up to position ${count(seen.after)}`);
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

async function lost(error, retry_ms) {
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
  await countdown(retry_ms);
  say($("lost-next"), "Trying now");
}

function reason(error) {
  if (error instanceof Problem) return `${error.message} ${error.remedy}`.trim().replace(/\.$/, "");
  if (error instanceof Unreachable) return error.message;
  console.error(error);
  return `the page failed over its answer (${error.message})`;
}

async function countdown(ms) {
  const until = Date.now() + ms;
  const skip = new Promise((resolve) => {
    document.querySelector("[data-retry]").addEventListener("click", resolve, { once: true });
    window.addEventListener("online", resolve, { once: true });
  });
  for (let left = ms; left > 0; left = until - Date.now()) {
    say($("lost-next"), `Next try in ${Math.ceil(left / 1000)} s.`);
    const skipped = await Promise.race([skip.then(() => true), pause(Math.min(left, 1_000)).then(() => false)]);
    if (skipped) return;
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

// A browser opens six connections to a host: tabs that nobody looks at must not hold them with long polls.
function untilVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
  });
}

// --- the key ---------------------------------------------------------------------------------------------------------

/** Show the form until a key opened a session. */
async function askForKey(error) {
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
    await new Promise((resolve) => $("door").addEventListener("submit", resolve, { once: true }));
    say($("door-why"), "Asking");
    try {
      await openSession({ key: $("key").value.trim() });
      $("key").value = "";
      $("door").hidden = true;
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
async function refreshDialog(signal) {
  const id = seen.open;
  if (id === null) return;
  try {
    const task = await readTask(id, signal);
    if (seen.open === id) Object.assign(seen, { task, failure: null });
  } catch (error) {
    if (signal?.aborted) throw error;
    if (seen.open === id) seen.failure = `This task could not be read: ${reason(error)}.`;
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

live();
