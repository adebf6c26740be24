// Which numbers there are in the JSON that events carry, and how numbers are written. No DOM.

import { valuesAt } from "../feed/json.js";

const MAX_TOPICS = 200;
const MAX_FIELDS = 30; // of one topic
const MAX_CHARACTERS = 65_536; // longer data is not looked into: parsing it each second would be felt
const MAX_DIGITS = 40;
const MAX_LOOKS = 50; // a second, each at another topic
const AGAIN_MS = 10_000; // after which a topic is looked at again: it may have other fields now

/** @param {unknown} value @returns {value is Record<string, unknown>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * The names of an object's numbers: its own, and `outer.inner` of the objects in it. A number that is nobody's field has
 * the name "".
 * @param {unknown} value
 * @param {number} most
 * @returns {string[]} at most so many
 */
export function fieldsOf(value, most = MAX_FIELDS) {
  if (Number.isFinite(value)) return [""];
  /** @type {string[]} */
  const names = [];
  /** @param {Record<string, unknown>} object @param {string} prefix */
  const collect = (object, prefix) => {
    for (const name in object) {
      if (names.length >= most) return;
      const inner = object[name];
      if (Number.isFinite(inner)) names.push(prefix + name);
      else if (prefix === "" && isObject(inner)) collect(inner, `${name}.`);
    }
  };
  if (isObject(value)) collect(value, "");
  return names;
}

/**
 * The number that `fieldsOf` gave this name; of several the last one.
 * @param {string} json
 * @param {string} field
 * @returns {string | undefined} as it is written: a chart's place for it is only near
 */
export function numeralAt(json, field) {
  return valuesAt(json, field).findLast((text) => /^[-\d]/.test(text) && Number.isFinite(Number(text)));
}

/**
 * The value of JSON text.
 * @param {string} text
 * @returns {unknown} undefined for what is not JSON
 */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Which topics have numbers to draw, found by looking into some of their events. */
export class Fields {
  /** @type {Map<string, {at: number, names: Set<string>}>} */
  #topics = new Map();
  #second = 0;
  /** @type {Set<string>} topics */
  #looked = new Set(); // in this second
  /** Whether there was more than is offered: 200 topics, 30 fields of each. */
  more = false;

  /**
   * Look into an event, unless enough is known of its topic, or enough was looked at in this second.
   * @param {{topic: string, json: boolean, text: string}} event
   * @param {number} now milliseconds since 1970
   */
  look({ topic, json, text }, now) {
    if (!json || text.length > MAX_CHARACTERS) return;
    const second = Math.floor(now / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#looked.clear();
    }
    const known = this.#topics.get(topic);
    if (known && Math.abs(now - known.at) < AGAIN_MS) return;
    if (this.#looked.size >= MAX_LOOKS || this.#looked.has(topic)) return;
    this.#looked.add(topic);
    const names = fieldsOf(parsed(text), MAX_FIELDS + 1);
    if (known) known.at = now;
    if (names.length > 0) this.#remember(topic, names, now);
  }

  /** @param {string} topic @param {string[]} names @param {number} now */
  #remember(topic, names, now) {
    if (!this.#topics.has(topic) && this.#topics.size >= MAX_TOPICS) {
      this.more = true;
      return;
    }
    const known = this.#topics.get(topic) ?? { at: now, names: new Set() };
    this.#topics.set(topic, known);
    for (const name of names) {
      if (known.names.size < MAX_FIELDS) known.names.add(name);
      else if (!known.names.has(name)) this.more = true;
    }
  }

  /** The topics that have numbers, in the order in which they were seen. */
  topics() {
    return [...this.#topics.keys()];
  }

  /** The names of a topic's numbers. @param {string} topic */
  of(topic) {
    return [...(this.#topics.get(topic)?.names ?? [])];
  }
}

/** A number as it is written, without what no reader would read. @param {string} numeral */
export function brief(numeral) {
  return numeral.length > MAX_DIGITS ? `${numeral.slice(0, MAX_DIGITS)}…` : numeral;
}

/** @type {[number, string][]} */
const UNITS = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];

/**
 * A number in few characters: `17.2G`, `0.25`.
 * @param {number} value
 * @param {number} step what it has to be told apart by; without it, three digits
 */
export function short(value, step = Math.abs(value) / 100) {
  const [size, unit] = UNITS.find(([least]) => Math.abs(value) >= least) ?? [1, ""];
  if (value !== 0 && Math.abs(value) < 1e-3 && step < 1e-3) return value.toExponential(1);
  const digits = step > 0 ? Math.ceil(Math.log10(size / step) - 1e-9) : 0;
  return `${Number((value / size).toFixed(Math.min(6, Math.max(0, digits))))}${unit}`;
}

/** A number of bytes: `1.2 MB`. @param {number} value */
export function bytes(value) {
  const text = short(value);
  return /\D$/.test(text) ? `${text.slice(0, -1)} ${text.at(-1)}B` : `${text} B`;
}

/** A time span in milliseconds: `0.8 ms`, `12 ms`, `1.2 s`. @param {number} ms */
export function span(ms) {
  if (ms < 9.5) return `${Number(ms.toFixed(1))} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  return `${short(ms / 1000, ms / 10_000)} s`;
}

/**
 * A delay between two machines' clocks, and no more of it than is known. What is less than the clocks' uncertainty is
 * told as what it is certainly less than.
 * @param {number} ms
 * @param {{uncertainty: number} | null} clock
 */
export function delayText(ms, clock) {
  if (clock && ms <= clock.uncertainty) return `< ${Math.max(1, Math.ceil(ms + clock.uncertainty))} ms`;
  return span(Math.max(0, ms));
}
