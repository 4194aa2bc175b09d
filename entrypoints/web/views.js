// The status line and the three tables, from answers of the API.

import { html } from "./dom.js";
import { ago, count, duration, elapsed, known, line, short, time, title, unknown } from "./format.js";

const FINAL = new Set(["completed", "failed", "cancelled", "expired"]);

export const ended = (task) => FINAL.has(task.status);

export function state(word) {
  return html`<span class="state" data-state="${word}">${word}</span>`;
}

// --- status ----------------------------------------------------------------------------------------------------------

/** The status line; `age_ms` is how long ago the answer came, so that the uptime goes on; `away`: nobody answers now. */
export function statusLine(status, age_ms, away) {
  const why = (field) => status.unknown?.[field] ?? "the server gave no value";
  const now = (value) => (away ? unknown("the server does not answer") : value);
  const { recorded, applied } = status.positions;
  const failing = Object.entries(status.services).filter(([, word]) => word !== null && word !== "healthy");
  const services = Object.entries(status.services)
    .map(([name, word]) => `${name}: ${word ?? `unknown, ${why(`services.${name}`)}`}`)
    .join("\n");
  const items = [
    ["Status", now(html`${state(status.status)}${failing.length > 0 && html`<small> ${failing.map(([name]) => name).join(", ")}</small>`}`), services],
    ["Version", known(status.version, why("version"))],
    ["Uptime", now(known(status.uptime, why("uptime"), (s) => elapsed(s * 1000 + age_ms))), "since the program started"],
    ["Broker", now(known(status.services.broker, why("services.broker"), state))],
    ["Queue depth", known(status.metrics.queued_tasks, why("metrics.queued_tasks"), count), "tasks that wait for an agent"],
    ["Live tasks", known(status.metrics.live_tasks, why("metrics.live_tasks"), count), "tasks that have not ended"],
    ["Alerts", known(status.metrics.alerts, why("metrics.alerts"), alerts), "what is not as it should be: hivebus alert list"],
    ["Lag", lag(recorded, applied), `recorded position ${recorded ?? "unknown"}, applied to the views ${applied ?? "unknown"}`],
  ];
  return html`${items.map(([name, value, hint]) => html`<div ${hint && html`title="${hint}"`}><dt>${name}</dt><dd>${value}</dd></div>`)}`;
}

function alerts(number) {
  return html`<span class="state" data-state="${number > 0 ? "degraded" : "healthy"}">${count(number)}</span>`;
}

function lag(recorded, applied) {
  if (recorded === null || applied === null) return unknown("the server gave no positions");
  return html`${count(recorded - applied)}<small> at ${count(recorded)}</small>`;
}

// --- tasks -----------------------------------------------------------------------------------------------------------

export function taskRows(tasks, agents, now_ms) {
  if (tasks.length === 0) {
    return html`<tr data-key="empty" class="empty"><td colspan="7">No task was submitted yet. Paste the line above into a shell; the task appears here at once.</td></tr>`;
  }
  return html`${tasks.map((task) => taskRow(task, agents, now_ms))}`;
}

function taskRow(task, agents, now_ms) {
  return html`
    <tr data-key="${task.id}" data-open="${task.id}">
      <th scope="row">
        <span class="title">
          <button type="button" class="name" data-open="${task.id}" title="${task.id}">${line(task.name ?? task.type)}</button>
          ${task.name && html`<span class="type">${line(task.type)}</span>`}
        </span>
        ${remark(task)}
      </th>
      <td>${taskState(task)}</td>
      <td class="wide">${agentName(task.agent_id, agents, ended(task) ? "no attempt was made" : "no agent has it yet")}</td>
      <td class="number wide">${age(task, now_ms)}</td>
      <td class="number">${took(task, now_ms)}</td>
      <td class="number wide">${exitCode(task)}</td>
      <td class="action wide">${cancelButton(task)}</td>
    </tr>`;
}

export function taskState(task) {
  if (task.unassignable) return state("unassignable");
  if (task.cancelling && !ended(task)) return state("cancelling");
  if (task.status !== "running" || !(task.progress > 0)) return state(task.status);
  return html`${state("running")}<small> ${Math.floor(task.progress * 100)} %</small>`;
}

function remark(task) {
  const before = task.error && !ended(task) ? `Last attempt: ${task.error}` : task.error;
  const text = task.unassignable ?? task.current_step ?? before;
  if (!text) return "";
  return html`<span class="remark" title="${title(text)}">${line(text)}</span>`;
}

export function agentName(id, agents, reason) {
  if (id === null || id === undefined) return unknown(reason);
  const name = agents.find((agent) => agent.id === id)?.name;
  return html`<span title="${id}">${name === undefined ? short(id) : line(name)}</span>`;
}

export function exitCode(task) {
  const reason = ended(task) ? "the result holds no exit code" : "the task has not ended";
  return known(task.exit_code, task.unknown?.exit_code ?? reason, (code) =>
    html`<span class="${code === 0 ? "" : "bad"}">${code}</span>`);
}

function age(task, now_ms) {
  return html`<span title="created ${task.created_at}">${ago(now_ms - Date.parse(task.created_at))}</span>`;
}

export function took(task, now_ms) {
  if (!task.started_at) return unknown(ended(task) ? "it was never started" : "it has not started");
  const started_ms = Date.parse(task.started_at);
  if (task.completed_at) return duration(Math.max(0, Date.parse(task.completed_at) - started_ms));
  if (task.status === "running") return html`<span class="going">${elapsed(now_ms - started_ms)}</span>`;
  return unknown("it waits for its next attempt");
}

export function cancelButton(task) {
  if (ended(task)) return "";
  return html`<button type="button" data-cancel="${task.id}" aria-label="Cancel ${line(task.name ?? task.type)}"
    aria-disabled="${task.cancelling}">Cancel</button>`;
}

// --- agents ----------------------------------------------------------------------------------------------------------

export function agentRows(agents) {
  if (agents.length === 0) {
    return html`<tr data-key="empty" class="empty"><td colspan="5">No agent. Spawn one: <code>hivebus agent spawn --help</code></td></tr>`;
  }
  return html`${agents.map((agent) => html`
    <tr data-key="${agent.id}">
      <th scope="row" title="${agent.id}">${line(agent.name)}</th>
      <td class="wide">${line(agent.type)}</td>
      <td>${state(agent.status)}</td>
      <td class="number">${count(agent.running.length)}<small> of ${count(agent.slots)}</small></td>
      <td class="number">${known(agent.tasks_completed, agent.unknown?.tasks_completed ?? "the server gave no value", count)}</td>
    </tr>`)}`;
}

// --- events ----------------------------------------------------------------------------------------------------------

export function eventRows(events) {
  if (events.length === 0) {
    return html`<tr data-key="empty" class="empty"><td colspan="4">Nothing has happened yet.</td></tr>`;
  }
  return html`${events.map((event) => html`
    <tr data-key="${event.id}">
      <td>${time(event.time, { millis: true })}</td>
      <td title="position ${event.sequence}">${line(event.type.replace(/^hivebus\./, ""))}</td>
      <td>${subject(event.subject)}</td>
      <td class="wide" title="${event.actor}">${actor(event.actor)}</td>
    </tr>`)}`;
}

function subject(text) {
  // The noun stands in the event's type already; the whole is in the title.
  const [noun, id = text] = text.split("/", 2);
  if (noun !== "task") return html`<span title="${text}">${short(id)}</span>`;
  return html`<button type="button" class="name" data-open="${id}" title="${text}">${short(id)}</button>`;
}

export function actor(text) {
  const [kind, id = ""] = text.split(":", 2);
  return line(id ? `${kind}:${short(id)}` : text);
}
