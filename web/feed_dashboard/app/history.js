// The past, a page at a time: what is asked of the feed's history pages, and what their answers mean. No DOM.

import { eventOf } from "../feed/event.js";
import { readPage } from "../feed/history.js";

/** @import { Gap, GapOnTheWire, Page, Query } from "./types.js" */

const TIMEOUT_MS = 15_000; // of a page, its body included

/** A page that could not be had: what the feed, or a proxy in front of it, says to that. */
export class HistoryError extends Error {
  name = "HistoryError";

  /** @param {number} status 0: there was no answer @param {string} detail */
  constructor(status, detail) {
    super(status ? `${status}: ${detail}` : detail);
    this.status = status;
    this.detail = detail;
  }
}

/**
 * The past of some topics and types. Every method takes how many events are wanted at most (1 to 1,000; a page ends
 * at 1 MiB too, so fewer are not the end) and what stops it. They reject with a `HistoryError`, or with what the signal
 * was aborted with.
 */
export class History {
  #asked;

  /** @param {{base: string | URL, topics?: string[], types?: string[], credentials?: RequestCredentials}} options */
  constructor({ base, topics = ["**"], types = [], credentials = "same-origin" }) {
    this.#asked = { base: String(base), topics, types, credentials };
  }

  /**
   * The newest. @returns {Promise<Page>} `next` and `end` are of going back from there
   * @param {number} limit
   * @param {AbortSignal} [signal]
   */
  async newest(limit, signal) {
    // `last` alone begins with the oldest of them, and ends at 1 MiB: before the newest, if they are large.
    const newest = await this.#page({ last: 1 }, signal);
    if (newest.events.length === 0 || limit === 1) return newest;
    const page = await this.older(newest.events[0].id, limit - 1, signal);
    return { ...page, events: [...page.events, ...newest.events] };
  }

  /**
   * What came before an id. @returns {Promise<Page>}
   * @param {string} id
   * @param {number} limit
   * @param {AbortSignal} [signal]
   */
  older(id, limit, signal) {
    return this.#page({ before: id, limit }, signal);
  }

  /**
   * What came after an id, or after `earliest`: the oldest retained. @returns {Promise<Page>}
   * @param {string} id
   * @param {number} limit
   * @param {AbortSignal} [signal]
   */
  async newer(id, limit, signal) {
    const page = await this.#page({ after: id, limit }, signal);
    if (!page.end || page.next === id) return page;
    // An empty page may only lead up to where the log was lost. The gap is at the beginning of the next one.
    return this.#page({ after: page.next, limit }, signal);
  }

  /**
   * What was committed at a time or later. @param {Date | number} time @returns {Promise<Page>}
   * @param {number} limit
   * @param {AbortSignal} [signal]
   */
  since(time, limit, signal) {
    return this.#page({ since: new Date(time).toISOString(), limit }, signal);
  }

  /**
   * The event with this id, and what came after it. @returns {Promise<Page>}
   * @param {string} id
   * @param {number} limit
   * @param {AbortSignal} [signal]
   */
  at(id, limit, signal) {
    return this.newer(predecessorOf(id), limit, signal);
  }

  /** @param {Query} parameters @returns {Promise<Page>} */
  async #page(parameters, signal = new AbortController().signal) {
    const answer = await readPage(this.#asked, parameters, signal, TIMEOUT_MS);
    signal.throwIfAborted();
    if (!answer.page) throw new HistoryError(answer.status, answer.detail);
    const { envelopes, next, gap = null } = answer.page;
    const events = envelopes.map((envelope) => eventOf(envelope, false));
    return { events, next, gap: gap && gapOf(gap), end: events.length === 0 && gap === null };
  }
}

/** In the words that a stream's `gap` has in feed.js. @param {GapOnTheWire} gap @returns {Gap} */
function gapOf({ requested, resumed_from: resumedFrom, reason }) {
  return { requested, resumedFrom, reason };
}

/**
 * The number in an id, by which ids of one log are in order.
 * @param {string} id
 * @returns {number} NaN for what is not an id
 */
export function numberOf(id) {
  return Number(/-(\d+)$/.exec(id)?.[1] ?? NaN);
}

/**
 * The id that is resumed after to have this event first. Where an id is known, the one before it is too.
 * @param {string} id
 * @returns {string}
 */
export function predecessorOf(id) {
  const number = numberOf(id);
  return number >= 1 ? `${id.slice(0, id.lastIndexOf("-"))}-${number - 1}` : id;
}
