// What is, out of a stream of state: of each topic the newest event. The one place that knows how the one becomes the
// other, for a page and for the hub that several pages share.

/** @import { FeedEvent } from "./event.js" */

const DELETED = "feed.deleted";

/** @template V what is kept of an event */
export class Fold {
  /** @type {Map<string, V>} */
  state = new Map();
  /** Whether nothing is missing, up to where the stream has come. */
  isWhole = false;
  /** @type {Set<string>} topics that may be gone: nothing was heard of them since `forget` */
  #doubtful = new Set();

  /** Take what happened to a topic. @param {FeedEvent} event @param {V} value */
  add({ topic, type }, value) {
    this.#doubtful.delete(topic);
    if (type === DELETED) this.state.delete(topic);
    else this.state.set(topic, value);
  }

  /** Begin anew: the whole state follows. What was there stays until `complete`, so that no page is empty meanwhile. */
  forget() {
    this.#doubtful = new Set(this.state.keys());
    this.isWhole = false;
  }

  /** The state is whole: what did not come again is gone. */
  complete() {
    for (const topic of this.#doubtful) this.state.delete(topic);
    this.#doubtful.clear();
    this.isWhole = true;
  }

  /** What is known to be so, for somebody who has nothing yet. @returns {V[]} */
  known() {
    return [...this.state].filter(([topic]) => !this.#doubtful.has(topic)).map(([, value]) => value);
  }
}
