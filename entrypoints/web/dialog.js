// The whole of one task.

import { html } from "./dom.js";
import { count, duration, known, line, time, unknown } from "./format.js";
import { actor, agentName, cancelButton, ended, exitCode, took, taskState } from "./views.js";

const OUTPUTS = ["stdout", "stderr"];
const APART = new Set(["exit_code", "duration_s", "files", ...OUTPUTS]);

/** The dialog's content. `task` may still be the row of the list; `failure` says why there is no more. */
export function taskDialog(id, task, agents, failure, now_ms) {
  return html`
    <header>
      <h2 id="task-title">${task ? line(task.name ?? task.type) : "Task"}</h2>
      ${task && taskState(task)}
      ${task && cancelButton(task)}
      <button type="button" data-close autofocus>Close</button>
    </header>
    <div class="body" tabindex="-1">
      <p class="id"><code id="task-id">${id}</code> <button type="button" class="small" data-copy="task-id">Copy</button></p>
      ${failure && html`<p class="failure">${failure}</p>`}
      ${task?.unassignable && html`<p class="failure warn">Nobody can take it: ${task.unassignable}. Spawn such an agent, or cancel the task.</p>`}
      ${task?.error && html`<pre class="failure" tabindex="0">
${task.error}</pre>`}
      ${task && facts(task, agents, now_ms)}
      ${task?.history ? whole(task, agents) : task && !failure && html`<p class="quiet">Reading the rest</p>`}
    </div>`;
}

function facts(task, agents, now_ms) {
  const never = ended(task) ? "it was never started" : "it has not started";
  const labels = Object.entries(task.labels).map(([name, value]) => `${name}=${value}`);
  const items = [
    task.name && ["Name", task.name, "two"],
    ["Type", task.type],
    ["Executor", task.executor],
    ["Agent", agentName(task.agent_id, agents, ended(task) ? "no attempt was made" : "no agent has it yet")],
    ["Exit code", exitCode(task)],
    ["Took", took(task, now_ms)],
    ["Attempt", task.retry ? `${task.attempt} of ${task.retry.max_attempts}` : String(task.attempt)],
    ["Created", time(task.created_at, { millis: true })],
    ["Started", known(task.started_at, never, (text) => time(text, { millis: true }))],
    ["Completed", known(task.completed_at, "it has not ended", (text) => time(text, { millis: true }))],
    ["Priority", String(task.priority)],
    ["Requires", task.requires.join(", ") || "nothing"],
    ["Time limit", known(task.timeout_s, "not read yet", (s) => duration(s * 1000))],
    ["Project", task.project],
    ["Submitted by", task.actor],
    ["Correlation", html`<code>${task.correlation_id}</code>`, "two"],
    task.agent_type && ["Agent type", task.agent_type],
    task.not_before && ["Not before", time(task.not_before, { millis: true })],
    labels.length > 0 && ["Labels", labels.join(", ")],
  ];
  return html`<dl class="facts">${items.filter(Boolean).map(([name, value, span]) => html`<div class="${span ?? ""}"><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function whole(task, agents) {
  return html`
    ${block("parameters", "Parameters", json(task.parameters))}
    ${task.result ? resultOf(task.result) : html`<h3>Result</h3><p class="quiet">${ended(task) ? "The task ended without a result." : "The task has not ended."}</p>`}
    ${attemptsOf(task, agents)}
    ${historyOf(task)}`;
}

function resultOf(result) {
  const rest = Object.fromEntries(Object.entries(result).filter(([name, value]) => !APART.has(name) && value !== null));
  return html`
    ${OUTPUTS.filter((name) => name in result).map((name) => block(name, name, text(result[name])))}
    ${result.files?.length > 0 && block("files", "Files", json(result.files))}
    ${Object.keys(rest).length > 0 && block("result", "Result", json(rest))}`;
}

function block(id, heading, content) {
  const filled = content !== "";
  return html`<section>
    <h3>${heading} ${filled && html`<button type="button" class="small" data-copy="task-${id}">Copy</button>`}</h3>
    ${filled ? html`<pre id="task-${id}" tabindex="0">
${content}</pre>` : html`<p class="quiet">empty</p>`}
  </section>`;
}

const json = (value) => JSON.stringify(value, null, 2);
const text = (value) => (typeof value === "string" ? value : value === null ? "" : json(value));

function attemptsOf(task, agents) {
  if (task.attempts.length === 0) return html`<h3>Attempts</h3><p class="quiet">No attempt has ended yet.</p>`;
  return html`<table>
    <caption>Attempts <span>${count(task.attempts.length)}</span></caption>
    <thead><tr><th scope="col" class="number">No.</th><th scope="col">Outcome</th><th scope="col">Agent</th><th scope="col" class="wide">Started</th><th scope="col">Ended</th></tr></thead>
    <tbody>${task.attempts.map((attempt, index) => html`
      <tr data-key="${index}">
        <td class="number">${attempt.attempt}</td>
        <td>${attempt.outcome}${attempt.error && html`<span class="remark" title="${line(attempt.error)}">${line(attempt.error)}</span>`}</td>
        <td>${agentName(attempt.agent_id, agents, "the attempt names none")}</td>
        <td class="wide">${known(attempt.started_at, "it was never started", (at) => time(at, { millis: true }))}</td>
        <td>${attempt.ended_at ? time(attempt.ended_at, { millis: true }) : unknown("it has not ended")}</td>
      </tr>`)}</tbody>
  </table>`;
}

function historyOf(task) {
  return html`<table>
    <caption>History <span>${count(task.history.length)}</span></caption>
    <thead><tr><th scope="col" class="number">Position</th><th scope="col">Time</th><th scope="col">Event</th><th scope="col">Actor</th></tr></thead>
    <tbody>${task.history.map((event, index) => html`
      <tr data-key="${event.position}/${index}">
        <td class="number">${count(event.position)}</td>
        <td>${time(event.time, { millis: true })}</td>
        <td>${line(event.type)}</td>
        <td title="${event.actor}">${actor(event.actor)}</td>
      </tr>`)}</tbody>
  </table>`;
}
