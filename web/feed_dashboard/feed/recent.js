// The ids of the last events, so that none is handed on twice. Ids are opaque: they cannot be compared, only known.

import { copyOf, idOf } from "./event.js";

const MOST = 10_000;

/** Remembers at least the last 10,000 ids, and at most twice as many. */
export class Recent {
  #newer = new Set();
  #older = new Set();

  /** @param {string} id */
  add(id) {
    this.#newer.add(copyOf(id));
    if (this.#newer.size < MOST) return;
    this.#older = this.#newer;
    this.#newer = new Set();
  }

  /**
   * @param {string} id
   * @returns {boolean}
   */
  has(id) {
    return this.#newer.has(id) || this.#older.has(id);
  }

  /**
   * Which of these is the last one that is known.
   * @param {string[]} envelopes
   * @returns {number} -1: none
   */
  lastOf(envelopes) {
    return envelopes.findLastIndex((envelope) => this.has(idOf(envelope)));
  }
}
