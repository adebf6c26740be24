// Dark and light: as the device prefers, or as it was chosen here. The documentation obeys the same choice.

/** @import { Theme } from "./types.js" */

const KEY = "feed-theme";
/** @type {Theme[]} */
const ORDER = ["auto", "light", "dark"];

/** What was chosen: `auto`, `light` or `dark`. */
export function chosenTheme() {
  try {
    const kept = localStorage.getItem(KEY);
    return ORDER.find((theme) => theme === kept) ?? ORDER[0];
  } catch {
    return ORDER[0]; // without storage a choice lasts as long as the page
  }
}

/** The one that comes after it. @param {Theme} theme */
export function themeAfter(theme) {
  return ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
}

/** Have the page in that theme, and the next one, too. @param {Theme} theme */
export function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // See above.
  }
}
