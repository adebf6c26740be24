// Buttons that copy a text, and say that they did.

import { html } from "../vendor/lit-html/lit-html.js";

/** @import { OnButton } from "./types.js" */

const SAID_MS = 1500;

/**
 * A button that copies what `text()` gives when it is pressed.
 * @param {string} label
 * @param {() => string} text
 * @param {string} [title]
 */
export function copyButton(label, text, title = `Copy ${label}`) {
  return html`<button type="button" class="quiet copy" title=${title} data-copy=${label} @click=${(/** @type {OnButton} */ event) =>
    copied(event.currentTarget, text())}>${label}</button>`;
}

/** Copy a text, and have the button say so. @param {HTMLElement} button @param {string} text */
export async function copied(button, text) {
  button.dataset.said = (await copy(text)) ? "Copied" : "Not copied: select it by hand";
  button.setAttribute("aria-description", button.dataset.said);
  setTimeout(() => {
    delete button.dataset.said;
    button.removeAttribute("aria-description");
  }, SAID_MS);
}

// The clipboard's own interface is there in secure contexts only, and plain HTTP on another machine is not one.
/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text, className: "offscreen" });
    const before = document.activeElement;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (before instanceof HTMLElement) before.focus();
    return done;
  }
}
