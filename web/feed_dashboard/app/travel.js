// Time travel: where somebody wants to go, and the bar that asks.

import { html, nothing } from "../vendor/lit-html/lit-html.js";

/** @import { OnInput, OnSelect, Place, Ride, Travel, TravelAct, TravelField } from "./types.js" */

export const SPEEDS = [
  { speed: 1, label: "1×" },
  { speed: 10, label: "10×" },
  { speed: Infinity, label: "As fast as possible" },
];

/** @type {Record<string, number>} milliseconds */
const UNITS = { s: 1e3, m: 6e4, h: 36e5, d: 864e5 };

/**
 * What was written as a place in the feed: an id, a time of today (`14:05`), a date and time that a browser reads, or how
 * long ago (`10 min`, `2 h`). Pure.
 *
 * @param {string} text
 * @returns {Place | null} null for what is neither
 */
export function placeOf(text, now = new Date()) {
  const written = text.trim();
  if (!written) return null;
  const ago = /^(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)(?:\s+ago)?$/i.exec(written);
  if (ago) return timeOr(now.getTime() - Number(ago[1]) * UNITS[ago[2][0].toLowerCase()]);
  const clock = /^([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?$/.exec(written);
  if (clock) {
    const time = new Date(now);
    const seconds = Number(clock[3] ?? 0);
    time.setHours(Number(clock[1]), Number(clock[2]), Math.floor(seconds), Math.round((seconds % 1) * 1000));
    return { time };
  }
  // A day or a month alone is one of here, as a time is: without one a browser would take it for UTC.
  if (/^\d{4}-\d{2}-\d{2}$/.test(written)) return timeOr(`${written}T00:00`);
  // `2026-11` would be an id by its letters, too: an epoch is longer than a year.
  if (/^\d{4}-\d{2}$/.test(written)) return timeOr(`${written}-01T00:00`);
  if (/^[A-Za-z0-9]+-\d+$/.test(written)) return { id: written };
  // Of `order 42` a browser would make a year.
  return /\d{4}/.test(written) && /\d[-/. :,]\w/.test(written) ? timeOr(written) : null;
}

/** @param {string | number} written */
function timeOr(written) {
  const time = new Date(written);
  return Number.isNaN(time.getTime()) ? null : { time };
}

/**
 * The bar.
 * @param {Travel} travel
 * @param {TravelAct} act
 */
export function travelBar(travel, act) {
  const { replay } = travel;
  /** @param {TravelField} name */
  const field = (name) => (/** @type {OnInput} */ event) => act.set(name, event.target.value);
  /** @param {TravelField} name @param {string} label @param {string} hint */
  const input = (name, label, hint) => html`<label class="field">${label}
    <input .value=${travel[name]} @input=${field(name)} placeholder=${hint} data-testid=${`travel-${name}`}
      spellcheck="false" autocapitalize="none" autocomplete="off" /></label>`;
  return html`
    <div class="heading">
      <h2 id="travel-heading">Time travel</h2>
      <button type="button" class="quiet" data-testid="travel-close" @click=${act.close}>Close <kbd>Esc</kbd></button>
    </div>
    <div class="rides">
      <form @submit=${act.go}>
        ${input("place", "Go to", "id, 14:05, or 10 min")}
        <button data-testid="travel-go" ?disabled=${travel.busy}>Go</button>
      </form>
      <form @submit=${act.replay}>
        ${input("from", "Replay from", "the oldest kept")} ${input("to", "to", "now")}
        <label class="field">at
          <select data-testid="travel-speed" @change=${(/** @type {OnSelect} */ event) => act.speed(SPEEDS[event.target.selectedIndex].speed)}>
            ${SPEEDS.map(({ speed, label }) => html`<option .selected=${speed === travel.speed}>${label}</option>`)}
          </select></label>
        ${replay && !replay.over
          ? html`<button type="button" data-testid="replay-pause" @click=${act.pauseReplay}>${replay.paused ? "Go on" : "Hold"}</button>
              <button type="button" data-testid="replay-stop" @click=${act.stopReplay}>Stop</button>`
          : html`<button data-testid="replay" ?disabled=${travel.busy}>Replay</button>`}
      </form>
    </div>
    ${travel.error ? html`<p class="error" role="alert" data-testid="travel-error">${travel.error}</p>` : nothing}
    ${replay ? html`<p class="hint" data-testid="replay-progress">${progressText(replay)}</p>` : nothing}
  `;
}

/** @param {Ride} ride */
function progressText({ done, at, skipped, paused, over }) {
  const events = `${done.toLocaleString("en")} ${done === 1 ? "event" : "events"} replayed`;
  const silence = skipped >= 1000 ? `, ${Math.round(skipped / 1000).toLocaleString("en")} s of silence left out` : "";
  if (over) return `${events}${silence}. ${over}`;
  return `${paused ? "Held" : "Replaying"}: ${events}${at ? `, at ${at}` : ""}${silence}`;
}
