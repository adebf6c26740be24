// An event out of its text. Pure: text in, values out.
//
// Data that was published as JSON is cut out of the text as it came. Parsed and written again, a 30-digit number would
// be another one, and of duplicate keys one would be left.

import { valuesAt } from "./json.js";

/** @import { EventParts, Page } from "./types.js" */

const STRING = String.raw`"([^"\\]*(?:\\.[^"\\]*)*)"`;
const ENVELOPE = new RegExp(
  String.raw`^\{"id":${STRING},(?:"resume":"[^"\\]*",)?"topic":${STRING},"type":${STRING},"data":(.*),"time":"([^"]*)"\}$`,
  "s",
);
const IDS = /^\{"id":"([^"\\]*)"(?:,"resume":"([^"\\]*)")?/;
const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[[\]{}]/g;
const PAGE = '{"events":[';

/** One event, as it was published. What is in it is text from anybody: show it as text, never as markup. */
export class FeedEvent {
  /** @type {unknown} */
  #data;
  #parsed = false;

  /**
   * @param {EventParts} parts
   * @param {boolean} live
   */
  constructor({ id, topic, type, time, json, text }, live) {
    /** Where it is in the feed: opaque, to resume after it. */
    this.id = id;
    this.topic = topic;
    this.type = type;
    /** When it was committed: RFC 3339, UTC, to the millisecond. */
    this.time = time;
    /** Whether it was published as JSON, and not as text. */
    this.json = json;
    /** The data as it was published, JSON included. */
    this.text = text;
    /** False if it was replayed, or loaded from history while catching up. */
    this.live = live;
  }

  /** The data as a value: parsed at the first use if it is JSON, else the text. */
  get data() {
    if (!this.json) return this.text;
    if (!this.#parsed) {
      this.#data = JSON.parse(this.text);
      this.#parsed = true;
    }
    return this.#data;
  }
}

/**
 * The event in an envelope: the JSON object of a WebSocket message, an NDJSON line, a piece of a history page.
 * @param {string} envelope
 * @param {boolean} live
 * @returns {FeedEvent}
 * @throws {SyntaxError} for what is not JSON
 */
export function eventOf(envelope, live) {
  const found = ENVELOPE.exec(envelope);
  if (found === null) return rewritten(envelope, live);
  const [, id, topic, type, raw, time] = found;
  const json = !raw.startsWith('"'); // a JSON string is text
  const text = json ? raw : unescaped(raw.slice(1, -1));
  return new FeedEvent({ id: unescaped(id), topic: unescaped(topic), type: unescaped(type), time, json, text }, live);
}

/**
 * The same where something on the way has ordered the fields in another way.
 * @param {string} envelope
 * @param {boolean} live
 */
function rewritten(envelope, live) {
  const { id, topic, type, time, data } = JSON.parse(envelope);
  const json = typeof data !== "string";
  const text = json ? (valuesAt(envelope, "data").at(-1) ?? "null") : data;
  return new FeedEvent({ id, topic, type, time, json, text }, live);
}

/** @param {string} text @returns {string} */
function unescaped(text) {
  return text.includes("\\") ? JSON.parse(`"${text}"`) : text;
}

/**
 * The id in an envelope.
 * @param {string} envelope
 * @returns {string} "" if there is none
 */
export function idOf(envelope) {
  return idsOf(envelope)[0];
}

/**
 * What to resume after, behind this envelope: within a snapshot of the state that is not the event's own id.
 * @param {string} envelope
 * @returns {string} "" if there is none
 */
export function resumeOf(envelope) {
  const [id, resume] = idsOf(envelope);
  return resume || id;
}

/** @param {string} envelope @returns {[id: string, resume: string]} */
function idsOf(envelope) {
  const found = IDS.exec(envelope);
  if (found !== null) return [found[1], found[2] ?? ""];
  try {
    const { id, resume } = JSON.parse(envelope);
    return [String(id ?? ""), String(resume ?? "")];
  } catch {
    return ["", ""];
  }
}

/** A copy: a piece of a text keeps all of that text in memory. @param {string} piece */
export function copyOf(piece) {
  return ` ${piece}`.slice(1);
}

/**
 * A page of history: its events as envelopes, each as it is in the page.
 * @param {string} text
 * @returns {Page}
 * @throws {SyntaxError} for what is not such a page
 */
export function pageOf(text) {
  if (!text.startsWith(PAGE)) {
    const { events, ...rest } = JSON.parse(text);
    if (!Array.isArray(events)) throw new SyntaxError("not a page of history");
    return pageOf(`{"events":${valuesAt(text, "events").at(-1)},${JSON.stringify(rest).slice(1)}`);
  }
  /** @type {string[]} */
  const envelopes = [];
  let depth = 0;
  let start = 0;
  TOKEN.lastIndex = PAGE.length;
  for (let token = TOKEN.exec(text); token !== null; token = TOKEN.exec(text)) {
    const [mark] = token[0];
    if (mark === '"') continue;
    if (mark === "{" || mark === "[") {
      if (depth++ === 0) start = token.index;
    } else if (depth === 0) {
      return { envelopes, ...checked(JSON.parse(`{${text.slice(token.index + 2)}`)) };
    } else if (--depth === 0) {
      envelopes.push(text.slice(start, TOKEN.lastIndex));
    }
  }
  throw new SyntaxError("a page of history that is cut off");
}

/** @param {Omit<Page, "envelopes">} rest */
function checked(rest) {
  if (typeof rest.next !== "string") throw new SyntaxError("not a page of history");
  return rest;
}
