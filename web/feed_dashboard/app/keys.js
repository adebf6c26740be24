// The keyboard: which key does what, for the page and for its help.

/** @import { Action } from "./types.js" */

/**
 * What the keys are called, what they do, and the name of the action in `act`.
 * @type {{keys: string[], label?: string, does: string, act: Action}[]}
 */
export const KEYS = [
  { keys: ["/"], does: "Filter the events", act: "focusFilter" },
  { keys: [" "], label: "Space", does: "Pause, and go on", act: "pause" },
  { keys: ["j", "ArrowDown"], label: "j or ↓", does: "Next row (older)", act: "nextRow" },
  { keys: ["k", "ArrowUp"], label: "k or ↑", does: "Previous row (newer)", act: "previousRow" },
  { keys: ["PageDown"], label: "Page down", does: "A page of rows further", act: "nextPage" },
  { keys: ["PageUp"], label: "Page up", does: "A page of rows back", act: "previousPage" },
  { keys: ["Enter"], does: "Open the row", act: "openRow" },
  { keys: ["g", "Home"], label: "g or Home", does: "To the newest event, live", act: "newest" },
  { keys: ["o"], does: "Load older events", act: "loadOlder" },
  { keys: ["c"], does: "Clear the list", act: "clear" },
  { keys: ["t"], does: "Time travel: go to an id or a time, replay", act: "toggleTravel" },
  { keys: ["p"], does: "Publish", act: "togglePublish" },
  { keys: ["r"], does: "Reconnect now", act: "retry" },
  { keys: ["l"], does: "Light, dark, or as the device prefers", act: "theme" },
  { keys: ["1"], does: "To the topics", act: "focusTopics" },
  { keys: ["2"], does: "To the events", act: "focusEvents" },
  { keys: ["3"], does: "To the pictures", act: "focusPictures" },
  { keys: ["?"], does: "This help", act: "help" },
  { keys: ["Escape"], label: "Esc", does: "Close what is open", act: "escape" },
];

/** @type {Action[]} */
const MOVES = ["nextRow", "previousRow", "nextPage", "previousPage"]; // for as long as a key is held
const WRITTEN_IN = "input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]";
const OPERATED = "button, a[href], summary, input, [role=tab]"; // these have a use of their own for Space and Enter
const SCROLLED = "pre[tabindex], aside"; // and these for the keys that move

/**
 * The action of a key press, or null: keys that are written with, or that the element in focus needs, are left alone.
 *
 * @param {KeyboardEvent} event @param {boolean} single whether keys without Ctrl, Alt and the like do anything (WCAG 2.1.4)
 */
export function actionOf(event, single) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return null;
  const found = KEYS.find(({ keys }) => keys.includes(event.key));
  if (!found || (event.repeat && !MOVES.includes(found.act))) return null;
  if (found.act === "escape") return found.act;
  const { target } = event;
  if (!(target instanceof Element)) return null;
  if (target.closest(WRITTEN_IN) || document.querySelector("dialog[open]")) return null;
  if (target.closest(OPERATED) && [" ", "Enter"].includes(event.key)) return null;
  if (target.closest(SCROLLED) && event.key.length > 1) return null;
  return single || event.key.length > 1 ? found.act : null;
}
