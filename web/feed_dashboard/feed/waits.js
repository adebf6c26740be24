// When to try again. All times are in milliseconds.

/** @import { Said } from "./types.js" */

const FIRST = 1_000;
const LONGEST = 30_000; // of our own choice
const SHORTEST = 100;
const LONGEST_TOLD = 300_000; // that a server can have us wait

/** The waits between tries that fail: each is a random time up to 1, 2, 4 … 30 s. A crowd must not come back at once. */
export class Waits {
  #failures = 0;

  /** What was tried has worked: the next wait is a short one. */
  reset() {
    this.#failures = 0;
  }

  /**
   * The next one.
   * @param {Said} said
   * @returns {number}
   */
  next({ told, least }) {
    const own = Math.random() * Math.min(LONGEST, FIRST * 2 ** Math.min(this.#failures++, 10));
    const wait = told !== undefined && Number.isFinite(told) ? bounded(told) : Math.max(own, bounded(least ?? 0));
    return Math.max(SHORTEST, Math.round(wait));
  }
}

/** @param {number} told */
function bounded(told) {
  return Math.min(told, LONGEST_TOLD);
}
