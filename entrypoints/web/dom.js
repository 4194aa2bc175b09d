// An escaping template tag, and a patch that changes only what differs: focus, selection and scroll stay where they are.

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

// Control characters and those that turn the direction of text: a task's output must not disguise itself.
// Joiners (200c, 200d) stay: Persian and emoji need them.
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]/g;

class Markup {
  constructor(text) {
    this.text = text;
  }
}

/** Markup from a template; every value is escaped, unless it is markup itself or a list of it. */
export function html(strings, ...values) {
  return new Markup(strings.map((string, index) => string + (index < values.length ? written(values[index]) : "")).join(""));
}

function written(value) {
  if (value instanceof Markup) return value.text;
  if (Array.isArray(value)) return value.map(written).join("");
  if (value === null || value === undefined || value === false) return "";
  return visible(String(value)).replace(/[&<>"']/g, (character) => ESCAPES[character]);
}

/** Text with its invisible characters written out. */
export function visible(text) {
  return text
    .replaceAll("\r\n", "\n")
    .replace(INVISIBLE, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Make the children of `target` what the markup says. Children with the same `data-key` stay the same elements. */
export function render(target, markup) {
  const template = document.createElement("template");
  template.innerHTML = markup.text;
  dropIndentation(template.content);
  const held = target.contains(document.activeElement) ? document.activeElement : null;
  const row = held?.closest("[data-key]");
  patchChildren(target, template.content);
  // A button that is gone (a task ended) hands the focus to its row, not to the top of the page.
  if (held && !held.isConnected && row?.isConnected) row.querySelector("button")?.focus({ preventScroll: true });
}

/** Set a text only if it is another one, so that a live region does not speak twice. */
export function say(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

function dropIndentation(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const blank = [];
  while (walker.nextNode()) {
    const text = walker.currentNode;
    if (text.data.includes("\n") && !text.data.trim() && text.parentNode.nodeName !== "PRE") blank.push(text);
  }
  blank.forEach((text) => text.remove());
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function patch(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
    old.replaceWith(fresh);
  } else if (old.nodeType === Node.TEXT_NODE) {
    old.data = fresh.data;
  } else {
    patchAttributes(old, fresh);
    patchChildren(old, fresh);
  }
}

function patchAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function patchChildren(parent, fresh) {
  const wanted = [...fresh.childNodes];
  const keys = new Set(wanted.map(keyOf));
  // First what left: rows that keep their order are then never moved, and a moved row would lose the focus.
  for (const child of [...parent.childNodes]) {
    if (!keys.has(keyOf(child))) child.remove();
  }
  const known = new Map([...parent.children].map((child) => [keyOf(child), child]));
  let cursor = parent.firstChild;
  for (const next of wanted) {
    const key = keyOf(next);
    const match = key !== null ? known.get(key) : cursor !== null && keyOf(cursor) === null ? cursor : undefined;
    if (!match) {
      parent.insertBefore(next, cursor);
      continue;
    }
    if (match === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(match, cursor);
    patch(match, next);
  }
  while (cursor !== null) {
    const following = cursor.nextSibling;
    cursor.remove();
    cursor = following;
  }
}
