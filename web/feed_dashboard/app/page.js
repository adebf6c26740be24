// What the page looks like: its frame, drawn from the dashboard's state by lit-html, which writes text, never markup.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { live } from "../vendor/lit-html/directives/live.js";
import { copyButton } from "./copying.js";
import { inspector } from "./inspector.js";
import { KEYS } from "./keys.js";
import { delayText } from "./numbers.js";
import { publishPanel } from "./publish.js";
import { KEPT } from "./rows.js";
import { tokenBox } from "./session.js";
import { described, gapText } from "./status.js";
import { topicsPanel } from "./topics.js";
import { travelBar } from "./travel.js";
import { quoted, urlOf } from "./commands.js";
import { EVERYTHING, TRANSPORTS } from "./view.js";

/** @import { Dashboard, OnButton, OnInput, OnSelect, OnTick, Pane } from "./types.js" */

const TRANSPORT_NAMES = { eventsource: "EventSource", websocket: "WebSocket", fetch: "Fetch stream" };
const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };
/** @type {[Pane, string][]} */
const PANES = [
  ["events", "Events"],
  ["topics", "Topics"],
  ["pictures", "Pictures"],
];

/** The whole page. @param {Dashboard} it @param {number} now */
export function page(it, now) {
  return html`
    <a class="skip" href="#list">Skip to the events</a>
    ${header(it, described(it.state, now, it.ownLogin))} ${banners(it)}
    <nav class="panes" aria-label="Panes">
      ${PANES.map(
        ([name, label]) => html`<button type="button" aria-pressed=${it.pane === name} data-testid=${`pane-${name}`}
          @click=${() => it.show(name)}>${label}</button>`,
      )}
    </nav>
    <main data-pane=${it.pane}>
      <aside class="topics" aria-labelledby="topics-heading" id="topics" tabindex="-1">
        ${topicsPanel(
          {
            topics: it.topics,
            patterns: it.view.topics,
            show: it.view.show,
            search: it.search,
            open: it.open,
            error: it.patternError,
          },
          {
            search: (text) => it.searchTopics(text),
            tick: (path, ticked) => it.tick(path, ticked),
            fold: (path, open) => it.fold(path, open),
            showAll: () => it.showAll(),
            removePattern: (pattern) => it.removePattern(pattern),
            addPattern: (event) => {
              event.preventDefault();
              const pattern = /** @type {HTMLInputElement} */ (event.target.elements.namedItem("pattern"));
              it.addPattern(pattern.value.trim()).then(() => {
                if (!it.patternError) pattern.value = "";
              });
            },
          },
        )}
      </aside>
      <section class="events" aria-labelledby="events-heading">
        ${toolbar(it)}
        ${it.timeline.travel.open
          ? html`<section class="panel travel" aria-labelledby="travel-heading" data-testid="travel">
              ${travelBar(it.timeline.travel, {
                set: (name, value) => {
                  it.timeline.travel[name] = value;
                },
                speed: (speed) => {
                  it.timeline.speed = speed;
                },
                close: () => it.toggleTravel(false),
                pauseReplay: () => it.timeline.holdReplay(),
                stopReplay: () => it.timeline.stopReplay(),
                go: (event) => {
                  event.preventDefault();
                  it.go();
                },
                replay: (event) => {
                  event.preventDefault();
                  it.replay();
                },
              })}
            </section>`
          : nothing}
        ${list(it)}
        ${it.inspecting && it.selected
          ? html`<section class="panel inspector" aria-labelledby="inspector-heading" data-testid="inspector">
              ${inspector(
                { row: it.selected, tab: it.tab, content: it.content, base: it.base, withToken: it.withToken, clock: it.delay.clock },
                { tab: (name) => it.showTab(name), close: () => it.closeRow() },
              )}
            </section>`
          : nothing}
        ${it.publishing
          ? html`<section class="panel publish" aria-labelledby="publish-heading" data-testid="publish-panel">
              ${publishPanel(it.publisher, it.withToken, { close: () => it.togglePublish(false) })}
            </section>`
          : nothing}
      </section>
      <aside class="pictures" aria-label="Pictures" id="pictures" tabindex="-1"><div data-part="pictures"></div></aside>
    </main>
    ${help(it)}
    <p role="status" class="offscreen" data-testid="summary">${it.said}</p>
  `;
}

/** @param {Dashboard} it @param {ReturnType<typeof described>} state */
function header(it, state) {
  const id = it.lastEventId;
  return html`<header>
    <h1>feed</h1>
    <div class="connection">
      <p role="status" class="pill" data-kind=${state.kind} data-testid="connection">
        <span class="dot" aria-hidden="true"></span><strong data-testid="state">${state.word}</strong>
      </p>
      <span class="delay" title="How long events take to get here" data-testid="delay"
        >${it.state.name === "live" && it.delay.now !== null ? delayText(it.delay.now, it.delay.clock) : ""}</span>
      <span class="note" data-testid="note">${state.note}</span>
      ${state.canRetry
        ? html`<button type="button" data-testid="retry" @click=${() => it.retry()}>Retry now</button>`
        : nothing}
    </div>
    <div class="controls">
      <label class="field"
        >Over
        <select data-testid="transport" @change=${(/** @type {OnSelect} */ event) => it.transport(TRANSPORTS[event.target.selectedIndex])}>
          ${TRANSPORTS.map(
            (name) => html`<option value=${name} .selected=${name === it.view.transport}>${TRANSPORT_NAMES[name]}</option>`,
          )}
        </select></label
      >
      <p class="field last">
        Last id
        ${id
          ? html`<button type="button" class="quiet id" title="Copy the last event id" data-testid="last-id"
              @click=${(/** @type {OnButton} */ event) => it.copyId(event.currentTarget)}>${id}</button>`
          : html`<span class="hint" data-testid="last-id">none yet</span>`}
      </p>
      ${it.ownLogin
        ? nothing
        : html`<button type="button" class="quiet" data-testid="token" aria-expanded=${it.session.open} @click=${() => it.toggleSession()}>
            Token
          </button>`}
      <button type="button" class="quiet" data-testid="theme" title="Light, dark, or as the device prefers" @click=${() => it.nextTheme()}>
        <span class="offscreen">Colours: </span>${THEMES[it.theme]}
      </button>
      ${it.ownLogin ? nothing : html`<a href="docs">API</a>`}
      <button type="button" class="quiet" data-testid="help" aria-label="Help" @click=${() => it.help()}>?</button>
    </div>
  </header>`;
}

/** @param {Dashboard} it */
function banners(it) {
  return html`${it.gap
    ? html`<div class="banner" role="alert" data-testid="gap">
        <p><strong>Gap.</strong> ${gapText(it.gap)}</p>
        <button type="button" class="quiet" data-testid="gap-dismiss" @click=${() => it.dismissGap()}>Dismiss</button>
      </div>`
    : nothing}
  ${it.session.open
    ? tokenBox(it.session, { begin: (token) => it.signIn(token), end: () => it.signOut() })
    : nothing}`;
}

/** @param {Dashboard} it */
function toolbar(it) {
  const { view } = it;
  const { frozen } = it.timeline;
  return html`<div class="toolbar">
    <h2 id="events-heading" class="offscreen">Events</h2>
    <button type="button" aria-pressed=${Boolean(frozen)} data-testid="pause" title="Space" @click=${() => it.togglePause()}>
      ${frozen ? "Resume" : "Pause"}
    </button>
    ${frozen?.fresh
      ? html`<button type="button" class="primary" data-testid="fresh" @click=${() => it.newest()}>
          ${frozen.fresh.toLocaleString("en")} new
        </button>`
      : nothing}
    <button type="button" class="quiet" data-testid="clear" @click=${() => it.clear()}>Clear</button>
    <div class="joined filter">
      <input
        type="search"
        aria-label="Filter: a text, a field such as total>100, or a regular expression"
        placeholder="Filter: text, or field=value"
        spellcheck="false"
        autocapitalize="none"
        data-testid="filter"
        .value=${live(view.filter)}
        aria-invalid=${Boolean(it.filterError)}
        @input=${(/** @type {OnInput} */ event) => it.filter(event.target.value)}
      />
      <button type="button" aria-pressed=${view.regex} aria-label="Regular expression" title="Regular expression"
        data-testid="regex" @click=${() => it.toggleRegex()}>.*</button>
    </div>
    <select aria-label="Type" data-testid="type-filter" @change=${(/** @type {OnSelect} */ event) => it.type(event.target.value)}>
      <option value="" .selected=${!view.type}>All types</option>
      ${[...new Set([...(view.type ? [view.type] : []), ...it.types.keys()])].map(
        (type) => html`<option value=${type} .selected=${type === view.type}>${type}</option>`,
      )}
      ${it.moreTypes ? html`<option disabled>others: filter by type=…</option>` : nothing}
    </select>
    <button type="button" class="quiet" aria-expanded=${it.timeline.travel.open} data-testid="travel-open" @click=${() => it.toggleTravel()}>Time travel</button>
    <button type="button" class="quiet" aria-expanded=${it.publishing} data-testid="publish-open" @click=${() => it.togglePublish()}>Publish</button>
    <p class="count" data-testid="count">${countText(it)}</p>
    ${it.regexHeld
      ? html`<p class="error" role="alert" data-testid="regex-held">
          The regular expression in this page's address is not in use yet: one that was made to can stop the page.
          <button type="button" @click=${() => it.toggleRegex()}>Use it</button>
        </p>`
      : nothing}
    ${it.filterError ? html`<p class="error" role="alert" data-testid="filter-error">${it.filterError}</p>` : nothing}
  </div>`;
}

/** @param {Dashboard} it */
function countText({ timeline: { rows }, view }) {
  const filtered = view.filter || view.type || view.show.size;
  const number = (/** @type {number} */ count) => count.toLocaleString("en");
  const all = rows.all.length;
  const kept = all >= KEPT ? `the newest ${number(all)} kept` : `${number(all)} kept`;
  return filtered ? `${number(rows.shown.length)} shown of ${kept}` : kept;
}

/** @param {Dashboard} it */
function list(it) {
  const { shown, all } = it.timeline.rows;
  return html`<div class="list">
    <div class="columns" aria-hidden="true" ?hidden=${!shown.length}>
      <span>Time</span><span>Topic</span><span>Type</span><span>Data</span><span>Id</span>
    </div>
    <div class="rows" id="list" role="grid" tabindex="0" aria-label="Events, newest first" aria-colcount="5" aria-live="off"
      data-part="list" data-testid="events" ?hidden=${!shown.length}></div>
    ${shown.length ? nothing : all.length ? nothingPasses(it) : empty(it)}
    <div class="end" ?hidden=${!all.length || Boolean(it.timeline.travel.replay)}>
      ${it.timeline.noOlder
        ? html`<span class="hint" data-testid="no-older">Nothing older is kept.</span>`
        : html`<button type="button" class="quiet" data-testid="older" ?disabled=${it.timeline.loadingOlder} @click=${() => it.timeline.loadOlder()}>
            ${it.timeline.loadingOlder ? "Loading …" : "Load older events"}
          </button>`}
    </div>
  </div>`;
}

/** @param {Dashboard} it */
function nothingPasses(it) {
  return html`<div class="empty" data-testid="nothing-passes">
    <p>None of the ${it.timeline.rows.all.length.toLocaleString("en")} events kept here passes the filter.</p>
    <button type="button" @click=${() => it.resetFilter()} data-testid="reset-filter">Show all</button>
  </div>`;
}

/** @param {Dashboard} it */
function empty(it) {
  if (it.state.name === "refused") {
    return html`<div class="empty" data-testid="refused"><p>${it.state.detail}</p></div>`;
  }
  const { topics } = it.view;
  const first = topics[0];
  const pattern = topics.length === 1 && first !== EVERYTHING ? first : "hello";
  const topic = pattern.includes("*") ? "hello" : pattern;
  const token = it.withToken ? ` -H "Authorization: Bearer $FEED_TOKEN"` : "";
  const commands = [
    ["Follow a topic", `curl -N${token} ${quoted(urlOf(it.base, pattern))}`, "curl-subscribe"],
    ["Publish to it", `curl${token} -d 'Hello' ${quoted(urlOf(it.base, topic))}`, "curl-publish"],
    ["In a page", `new EventSource("${urlOf(it.base, pattern)}").onmessage = (event) => console.log(event.data)`, "js-subscribe"],
  ];
  return html`<div class="empty" data-testid="empty">
    <p><strong>No events yet.</strong> Three commands to try:</p>
    ${commands.map(
      ([label, command, testid]) => html`<div class="command">
        <h3>${label}</h3>
        <pre tabindex="0"><code data-testid=${testid}>${command}</code></pre>
        ${copyButton("Copy", () => command, `Copy: ${label.toLowerCase()}`)}
      </div>`,
    )}
    <p class="hint">Or <code>feed demo</code>, which publishes readings of its machine once a second.</p>
  </div>`;
}

/** @param {Dashboard} it */
function help(it) {
  return html`<dialog id="help" aria-labelledby="help-heading" data-testid="help-dialog">
    <div class="heading">
      <h2 id="help-heading">Keyboard</h2>
      <form method="dialog"><button class="quiet" data-testid="help-close">Close <kbd>Esc</kbd></button></form>
    </div>
    <dl class="keys">
      ${KEYS.map(({ keys, label, does }) => html`<div><dt><kbd>${label ?? keys[0]}</kbd></dt><dd>${does}</dd></div>`)}
    </dl>
    <label><input type="checkbox" .checked=${live(it.single)} @change=${(/** @type {OnTick} */ event) => it.keys(event.target.checked)} data-testid="single-keys" />
      Single keys do something (without it only those with a name: arrows, page up and down, Home, Enter, Esc)</label>
  </dialog>`;
}
