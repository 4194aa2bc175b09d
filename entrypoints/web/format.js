// How values look. What is unknown is a dash that says why.

import { html } from "./dom.js";

const CELL_CHARACTERS_MAX = 400;
const DAY_MS = 86_400_000;
const TITLE_CHARACTERS_MAX = 2_000;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const digits = new Intl.NumberFormat();

/** A dash, with the reason for people who point at it and for people who listen. */
export function unknown(reason) {
  return html`<span class="unknown" title="${reason}">–<span class="spoken"> unknown: ${reason}</span></span>`;
}

/** A value of the API, or the dash with the reason that the API gives, else with ours. */
export function known(value, reason, show = String) {
  return value === null || value === undefined ? unknown(reason) : show(value);
}

export const count = (value) => digits.format(value);

/** A text as one line; what is longer than a line can show is in the dialog. */
export function line(text) {
  const flat = text.slice(0, CELL_CHARACTERS_MAX).replaceAll("\n", " ⏎ ");
  return text.length > CELL_CHARACTERS_MAX ? `${flat}…` : flat;
}

export const title = (text) => (text.length > TITLE_CHARACTERS_MAX ? `${text.slice(0, TITLE_CHARACTERS_MAX)}…` : text);

/** The end of an id: ids made in the same second begin alike. */
export const short = (id) => (id.length > 12 ? `…${id.slice(-8)}` : id);

/** A time of this place; the whole of it, as the API wrote it, in the title. */
export function time(text, { millis = false } = {}) {
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return html`<span>${text}</span>`;
  const fraction = millis ? `.${String(date.getMilliseconds()).padStart(3, "0")}` : "";
  const before = Math.abs(Date.now() - date) > DAY_MS || date.getDate() !== new Date().getDate() ? `${day.format(date)} ` : "";
  return html`<time datetime="${text}" title="${text}">${before}${clock.format(date)}${fraction}</time>`;
}

export const clockOf = (date) => clock.format(date);

/** Milliseconds in two units at most: 34 ms, 4.2 s, 42 s, 3 min 5 s, 2 h 10 min, 4 d 3 h. */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(Math.floor(ms / 100) / 10).toFixed(1)} s`;
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return both(s, 60, "min", 1, "s");
  if (s < 86_400) return both(s, 3600, "h", 60, "min");
  return both(s, 86_400, "d", 3600, "h");
}

/** As `duration`, in whole seconds: for what still runs. */
export const elapsed = (ms) => duration(Math.max(0, Math.floor(ms / 1000)) * 1000).replace(".0 s", " s").replace("0 ms", "0 s");

/** How long ago, in one unit: ages are compared, not measured. */
export function ago(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

function both(s, large, largeName, small, smallName) {
  const rest = Math.floor((s % large) / small);
  return `${Math.floor(s / large)} ${largeName}${rest ? ` ${rest} ${smallName}` : ""}`;
}
