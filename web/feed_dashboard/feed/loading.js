// State that lives in a database of the page's own: the application loads it, and the stream goes on where that was.
// After a gap it is loaded again. To its owner this is the same as a connection.
//
// While the application loads there is no stream, and none is needed: it begins after the position that was asked for
// before the data was read, so all that happens meanwhile comes then.

import { wordsOf } from "./history.js";
import { Waits } from "./waits.js";

/** @import { Deliver, Entry, Load, Source, State } from "./types.js" */

export class Loading {
  #load;
  #open;
  #deliver;
  #failed;
  /** @type {Source | null} */
  #source = null;
  #running = false; // one at a time: an older one that ends late would overwrite what a newer one has loaded
  #away = false; // nobody wants to know
  #wasLive = true; // since it was loaded
  /** @type {number | undefined} */
  #timer; // until the next try
  #waits = new Waits();

  /**
   * @param {Load} load
   * @param {(after: string, deliver: Deliver) => Source} open makes what follows the feed after a position
   * @param {Deliver} deliver
   * @param {(error: unknown) => void} failed told what `load` has thrown
   */
  constructor(load, open, deliver, failed) {
    this.#load = load;
    this.#open = open;
    this.#deliver = deliver;
    this.#failed = failed;
  }

  start() {
    this.#run();
  }

  retry() {
    if (this.#source) this.#source.retry();
    else this.hurry();
  }

  renew() {
    if (this.#source) this.#source.renew();
    else this.hurry();
  }

  hurry() {
    if (this.#source) this.#source.hurry();
    else if (this.#timer !== undefined) this.#run();
  }

  /** @param {boolean} offline */
  check(offline) {
    this.#source?.check(offline);
  }

  suspend() {
    this.#away = true;
    this.#stop();
    this.#source?.suspend();
  }

  resume() {
    this.#away = false;
    if (this.#source) this.#source.resume();
    else this.#run();
  }

  close() {
    this.#away = true;
    this.#stop();
    this.#source?.close();
    this.#source = null;
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async #run() {
    this.#stop();
    if (this.#running) return;
    this.#running = true;
    this.#say({ name: "connecting" });
    const loaded = await this.#position();
    this.#running = false;
    if (this.#away) return;
    if (typeof loaded === "string") return this.#follow(loaded);
    this.#failed(loaded.error);
    if (!this.#away) this.#wait(wordsOf(loaded.error));
  }

  /** What `load` returns, or why it has not. @returns {Promise<string | {error: unknown}>} */
  async #position() {
    await null; // `connect` returns before, so that what it returns can be used in `load`
    try {
      const position = await this.#load();
      if (typeof position === "string" && position !== "") return position;
      return { error: new TypeError("load: has to return the position that it asked for before it read its data") };
    } catch (error) {
      return { error };
    }
  }

  /** @param {string} position */
  #follow(position) {
    this.#wasLive = false;
    const source = (this.#source = this.#open(position, (entries) => {
      if (source === this.#source) this.#take(entries);
    }));
    source.start();
  }

  /** @param {Entry[]} entries */
  #take(entries) {
    const gap = entries.findIndex(({ kind }) => kind === "gap");
    const before = gap < 0 ? entries : entries.slice(0, gap + 1);
    if (before.some((entry) => entry.kind === "state" && entry.state.name === "live")) {
      this.#wasLive = true;
      this.#waits.reset();
    }
    const source = this.#source;
    if (gap >= 0) this.#source = null; // what comes after the gap is in what is loaded now, or comes again
    this.#deliver(before);
    if (gap < 0) return;
    source?.close();
    if (this.#away) return;
    // A position that leads to a gap each time must not make pages load without a pause.
    if (this.#wasLive) this.#run();
    else this.#wait("The feed has no events any more where load began.");
  }

  /** @param {string} detail */
  #wait(detail) {
    const delay = this.#waits.next({});
    this.#timer = setTimeout(() => this.#run(), delay);
    this.#say({ name: "waiting", retryAt: Date.now() + delay, reason: "load", detail });
  }

  /** @param {State} state */
  #say(state) {
    this.#deliver([{ kind: "state", state }]);
  }
}
