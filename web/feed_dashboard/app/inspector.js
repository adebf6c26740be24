// One event, opened: its facts, the data laid out, the frame as the stream carries it, and texts to copy.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { curlPublish, curlSubscribe, frame, javaScript, pretty } from "./commands.js";
import { copyButton } from "./copying.js";
import { timeText } from "./list.js";
import { delayText } from "./numbers.js";

/** @import { FeedEvent, Offset, Row, Tab } from "./types.js" */

const MOST = 100_000; // characters laid out: the rest can be copied, and would take long to draw

/**
 * What is laid out of an event: the data, or the frame. It takes as long as the data is large.
 * @param {FeedEvent} event
 * @param {Tab} tab
 */
export function contentOf(event, tab) {
  return tab === "frame" ? frame(event) : event.json ? pretty(event.text) : event.text;
}

/**
 * The panel. `content` is what `contentOf` gives.
 *
 * @param {{row: Row, tab: Tab, content: string, base: URL, withToken: boolean, clock: Offset | null}} state
 * @param {{tab(name: Tab): void, close(): void}} act
 */
export function inspector({ row, tab, content, base, withToken, clock }, act) {
  const { event } = row;
  const cut = content.length - MOST;
  /** @type {Tab[]} */
  const tabs = ["data", "frame"];
  return html`
    <div class="heading">
      <h2 id="inspector-heading"><bdi>${event.topic}</bdi></h2>
      <button type="button" class="quiet" aria-label="Close the event" data-testid="inspector-close" @click=${act.close}>
        Close <kbd>Esc</kbd>
      </button>
    </div>
    <dl class="facts">
      <div><dt>Id</dt><dd data-testid="inspector-id">${event.id}</dd></div>
      <div><dt>Type</dt><dd><bdi>${event.type}</bdi></dd></div>
      <div><dt>Time</dt><dd>${timeText(row.ms)} <span class="hint">${event.time}</span></dd></div>
      <div><dt>Data</dt><dd>${event.json ? "JSON" : "text"}, ${event.text.length.toLocaleString("en")} characters</dd></div>
      ${row.delay === null
        ? nothing
        : html`<div><dt>Delay</dt><dd>${delayText(row.delay + (clock?.offset ?? 0), clock)}</dd></div>`}
    </dl>
    <div class="bar">
      <div class="segmented" role="group" aria-label="Show">
        ${tabs.map(
          (name) => html`<button type="button" aria-pressed=${tab === name} data-testid=${`show-${name}`}
            @click=${() => act.tab(name)}>${name === "frame" ? "Raw frame" : event.json ? "JSON" : "Text"}</button>`,
        )}
      </div>
      <div class="copies" role="group" aria-label="Copy">
        <span class="hint" aria-hidden="true">Copy</span>
        ${copyButton("Data", () => event.text)} ${copyButton("Id", () => event.id)}
        ${copyButton("curl publish", () => curlPublish(base, event, withToken))}
        ${copyButton("curl subscribe", () => curlSubscribe(base, event, withToken))}
        ${copyButton("JavaScript", () => javaScript(base, event))}
      </div>
    </div>
    <pre class="content" tabindex="0" aria-label="The event's content" data-testid="inspector-content">${content.slice(0, MOST)}</pre>
    ${cut > 0 ? html`<p class="hint">and ${cut.toLocaleString("en")} more characters: copy the data to have them all</p>` : nothing}
  `;
}
