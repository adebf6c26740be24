// What `/metrics` says, and how far this machine's clock is from the server's. No DOM.

import { refusalIn, refusalOf } from "../feed/history.js";

/** @import { Figures, MetricsAnswer, Offset } from "./types.js" */

const MAX_CHARACTERS = 4_000_000; // of an answer: 100 workers say 1.3 MB
const TIMEOUT_MS = 4_000;
const SAMPLES = 12; // of the clock: a minute of them, in which two clocks drift apart by 3 ms at most

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)/;
const NODE = /(?:^|,)node="((?:[^"\\]|\\.)*)"/;

/**
 * Prometheus's text format: a Map for each name, from the node to its value. What is not understood is left out.
 * @param {string} text
 * @returns {Figures}
 */
export function figuresOf(text) {
  /** @type {Figures} */
  const figures = new Map();
  for (const line of text.slice(0, MAX_CHARACTERS).split("\n")) {
    const [, name, labels = "", value] = SAMPLE.exec(line) ?? [];
    if (!name?.startsWith("feed_") || !Number.isFinite(Number(value))) continue;
    const nodes = figures.get(name) ?? new Map();
    figures.set(name, nodes.set(NODE.exec(labels)?.[1] ?? "", Number(value)));
  }
  return figures;
}

/** All nodes together; undefined where none says it. @param {Figures} figures @param {string} name */
export function sum(figures, name) {
  const values = figures.get(name);
  return values && [...values.values()].reduce((total, value) => total + value, 0);
}

/**
 * The largest of any node: for what all of them have in common, the log for one. Undefined where none says it.
 * @param {Figures} figures
 * @param {string} name
 */
export function max(figures, name) {
  const values = figures.get(name);
  return values && Math.max(...values.values());
}

/**
 * What this machine's clock lacks to the server's. The server's time was read somewhere between asking and
 * answering: so half a round trip is what each sample can be wrong by, and the shortest one is believed.
 */
export class Clock {
  /** @type {Offset[]} */
  #samples = [];

  /**
   * All in milliseconds; the first two on this machine, the last one on the server. Whether the clock was set.
   * @param {number} asked
   * @param {number} answered
   * @param {number} server
   */
  add(asked, answered, server) {
    const uncertainty = Math.max(0, answered - asked) / 2 + 1; // times are whole milliseconds here
    const sample = { offset: server - (asked + answered) / 2, uncertainty };
    const { best } = this;
    const moved = best !== null && Math.abs(best.offset - sample.offset) > best.uncertainty + uncertainty;
    if (moved) this.#samples = []; // one of the two clocks was set: what was measured before it means nothing now
    this.#samples.push(sample);
    if (this.#samples.length > SAMPLES) this.#samples.shift();
    return moved;
  }

  /** What to add to the time here, in milliseconds; null before there is a sample.
   * @returns {Offset | null} */
  get best() {
    if (this.#samples.length === 0) return null;
    return this.#samples.reduce((best, sample) => (sample.uncertainty < best.uncertainty ? sample : best));
  }
}

/**
 * Ask once.
 * @param {URL} url
 * @param {AbortSignal} signal
 * @returns {Promise<MetricsAnswer>}
 */
export async function ask(url, signal) {
  const asked = Date.now();
  try {
    const response = await fetch(url, {
      headers: { Accept: "text/plain" },
      cache: "no-store",
      signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
    });
    const answered = Date.now(); // before the body, which takes its time
    const figures = response.ok ? figuresOf(await response.text()) : new Map();
    const refused = !response.ok && refusalIn(await refusalOf(response)) !== null;
    return { status: response.status, refused, asked, answered, ...onTheWire(url, asked), figures };
  } catch {
    return { status: 0, refused: false, asked, answered: Date.now(), figures: new Map() };
  }
}

/**
 * The same two times as the browser's network side saw them, where it says: without the page's own work in between,
 * which is most of a round trip to a near server.
 * @param {URL} url
 * @param {number} since
 */
function onTheWire(url, since) {
  const [entry] = performance.getEntriesByName(url.href, "resource").slice(-1);
  const { requestStart, responseStart } = /** @type {Partial<PerformanceResourceTiming>} */ (entry ?? {});
  performance.clearResourceTimings(); // a full buffer takes no more, and nobody else here reads it
  // Not `timeOrigin`, as the clock may have been set since; and `now` is a whole millisecond, half of one too early.
  const origin = Date.now() + 0.5 - performance.now();
  if (!requestStart || !responseStart || origin + requestStart < since - 1) return {};
  return { asked: origin + requestStart, answered: origin + responseStart };
}
