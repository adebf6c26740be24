// The events that the page keeps: a window of bounded size, oldest first, and which of them pass the filter.
//
// No document here: what is shown of a window is up to the list.

/** @import { FeedEvent, Pass, Row } from "./types.js" */

export const KEPT = 5_000; // rows
const KEPT_CHARACTERS = 16_000_000; // of data: 5,000 times 256 KiB would be too much for a page

/** A window on the feed. */
export class Rows {
  /** @type {Row[]} */
  all = [];
  /** @type {Row[]} those of `all` that pass */
  shown = [];
  #pass;
  #characters = 0;

  /** @param {Pass} pass */
  constructor(pass) {
    this.#pass = pass;
  }

  /** Newer events; the oldest make room. Gives how many of them pass. @param {FeedEvent[]} events */
  append(events) {
    let n = (this.all.at(-1)?.n ?? -1) + 1;
    let passed = 0;
    for (const event of events) {
      const row = rowOf(n++, event);
      this.all.push(row);
      this.#characters += event.text.length;
      if (!this.#pass(event)) continue;
      this.shown.push(row);
      passed += 1;
    }
    let surplus = 0;
    while (this.#isFull(this.all.length - surplus)) this.#characters -= this.all[surplus++].event.text.length;
    this.all.splice(0, surplus);
    const first = this.all[0]?.n ?? Infinity;
    const gone = this.shown.findIndex((row) => row.n >= first);
    this.shown.splice(0, gone < 0 ? this.shown.length : gone);
    return passed;
  }

  /** Whether none would have to make room for these. @param {FeedEvent[]} events */
  hasRoomFor(events) {
    const characters = events.reduce((sum, { text }) => sum + text.length, this.#characters);
    return this.all.length + events.length <= KEPT && characters <= KEPT_CHARACTERS;
  }

  /** Older events; the newest make room. Gives how many of them pass. @param {FeedEvent[]} events */
  prepend(events) {
    let n = (this.all[0]?.n ?? 0) - events.length;
    const rows = events.map((event) => rowOf(n++, event));
    const passed = rows.filter((row) => this.#pass(row.event));
    this.all.unshift(...rows);
    this.shown.unshift(...passed);
    for (const { event } of rows) this.#characters += event.text.length;
    while (this.#isFull(this.all.length)) this.#characters -= this.all.pop()?.event.text.length ?? 0;
    const last = this.all.at(-1)?.n ?? -Infinity;
    while ((this.shown.at(-1)?.n ?? -Infinity) > last) this.shown.pop();
    return passed.length;
  }

  /** Show what passes from now on. @param {Pass} pass */
  filter(pass) {
    this.#pass = pass;
    this.shown = this.all.filter((row) => pass(row.event));
  }

  /** The same rows, in a window of its own. */
  copy() {
    const rows = new Rows(this.#pass);
    rows.all = [...this.all];
    rows.shown = [...this.shown];
    rows.#characters = this.#characters;
    return rows;
  }

  clear() {
    this.all = [];
    this.shown = [];
    this.#characters = 0;
  }

  /** @param {number} length */
  #isFull(length) {
    return length > KEPT || (length > 1 && this.#characters > KEPT_CHARACTERS);
  }
}

/** @param {number} n @param {FeedEvent} event */
function rowOf(n, event) {
  const ms = Date.parse(event.time);
  return { n, event, ms, delay: event.live ? Date.now() - ms : null };
}
