// Dark and light: as the device prefers, or as it was chosen here.

const KEY = "feed-theme";
const ORDER = ["auto", "light", "dark"];

/** What was chosen: `auto`, `light` or `dark`. */
export function theme() {
  const kept = read();
  return ORDER.includes(kept) ? kept : "auto";
}

/** Choose the next one, and tell all who look at `data-theme`. */
export function nextTheme() {
  const next = ORDER[(ORDER.indexOf(theme()) + 1) % ORDER.length];
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  applyTheme(next);
  return next;
}

/** Have the page in that theme. */
export function applyTheme(name = theme()) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}

function read() {
  try {
    return localStorage.getItem(KEY) ?? document.documentElement.dataset.theme;
  } catch {
    return document.documentElement.dataset.theme;
  }
}
