// The page at `/`: puts its parts together and starts them. What each is for stands at the head of its file in app/.

import { Dashboard } from "./app/dashboard.js";
import { actionOf } from "./app/keys.js";
import { List } from "./app/list.js";
import { page } from "./app/page.js";
import { Painter } from "./app/painter.js";
import { Pictures } from "./app/pictures.js";
import { applyTheme, chosenTheme } from "./app/theme.js";
import { readView } from "./app/view.js";
import { render } from "./vendor/lit-html/lit-html.js";

const SUMMARY_MS = 15_000;

applyTheme(chosenTheme());
/** @param {string} selector @returns {HTMLElement} */
const part = (selector) => /** @type {HTMLElement} */ (document.querySelector(selector));
const root = part("#page");
const base = new URL(".", document.baseURI); // the application may stand behind a path prefix
const painter = new Painter(paint);
const ownLogin = document.documentElement.dataset.login === "own";
const dashboard = new Dashboard({ base, view: readView(location.search), painter, ownLogin });

/** @type {List} */
let list;
render(page(dashboard, Date.now()), root);
list = new List(part("[data-part=list]"), {
  open: (row) => dashboard.openRow(row),
  scrolled: (top) => dashboard.scrolled(top),
  end: () => dashboard.timeline.loadOlder(),
});
const pictures = new Pictures(part("[data-part=pictures]"), {
  base,
  chart: dashboard.view.chart,
  onChart: (choice) => dashboard.chart(choice),
});
dashboard.begin(list, pictures);

function paint() {
  render(page(dashboard, Date.now()), root);
  list.show(dashboard.timeline.rows.shown, dashboard.selected, !dashboard.timeline.standsStill);
  document.title = `${dashboard.word} · feed`;
}

addEventListener("keydown", (event) => {
  const action = actionOf(event, dashboard.single);
  if (!action) return;
  if (dashboard.act(action)) event.preventDefault();
});
setInterval(() => dashboard.second(Date.now()), 1000);
setInterval(() => dashboard.summarise(), SUMMARY_MS);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pictures.theme());
painter.now();
