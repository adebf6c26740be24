// A range of the past, once more, at its own pace or faster. No DOM; timers, so that a hidden page goes on.

import { HistoryError, numberOf } from "./history.js";

/** @import { Bound, FeedEvent, Gap, History, Page, ReplayOptions, Timers } from "./types.js" */

const PAGE = 500; // events; what is being emitted and the page after it are all that is held
const MOST = 500; // events in a batch
const LEAST = 20;
const TURN_MS = 10; // of work between two times that the loop is given back
const SILENCE_MS = 5_000; // longer ones are shortened to this
const LONGEST_WAIT_MS = 60_000;

/** What time it is, and how to wait. A test has its own. @type {Timers} */
const CLOCK = {
  now: () => performance.now(),
  set: (callback, ms) => setTimeout(callback, ms),
  clear: (timer) => clearTimeout(timer),
};

/** Begin to replay. @param {ReplayOptions} options @returns {Replay} */
export function replay(options) {
  return new Replay(options);
}

/** One that has begun. */
class Replay {
  #emit;
  #progress;
  #signal;
  #clock;
  #speed;
  #paused = false;
  #wake = () => {};
  #time = -Infinity; // where in the past it was at #since: milliseconds since 1970
  #since = 0;
  #done = 0;
  #skipped = 0;
  #batch = MOST;

  /** Settled when all is emitted. Rejects with what stopped it: a `HistoryError`, or the signal's reason. */
  done;

  /** @param {ReplayOptions} options */
  constructor({ history, from = null, to = null, speed, emit, progress = () => {}, gap = () => {}, signal, clock = CLOCK }) {
    this.#emit = emit;
    this.#progress = progress;
    this.#signal = signal ?? new AbortController().signal;
    this.#clock = clock;
    this.#speed = speed;
    this.#signal.addEventListener("abort", () => this.#wake(), { once: true });
    this.done = this.#run(pages(history, from, to, this.#signal), gap);
  }

  /** Hold where it is. */
  pause() {
    this.#from(this.#now());
    this.#paused = true;
    this.#wake();
  }

  resume() {
    this.#from(this.#now());
    this.#paused = false;
    this.#wake();
  }

  get speed() {
    return this.#speed;
  }

  /** From here on. @param {number} speed */
  set speed(speed) {
    this.#from(this.#now());
    this.#speed = speed;
    this.#wake();
  }

  /* What was committed until then is due. */
  #now() {
    return this.#paused ? this.#time : this.#time + (this.#clock.now() - this.#since) * this.#pace;
  }

  get #pace() {
    return this.#speed === Infinity ? 0 : this.#speed; // then the events move the time, and not the clock
  }

  /** @param {number} time */
  #from(time) {
    this.#time = time;
    this.#since = this.#clock.now();
  }

  /** @param {ReturnType<typeof pages>} range @param {(gap: Gap) => void} gap */
  async #run(range, gap) {
    for await (const page of range) {
      if (page.gap) gap(page.gap);
      await this.#play(page.events);
    }
  }

  /** @param {FeedEvent[]} events */
  async #play(events) {
    let place = 0;
    while (place < events.length) {
      const due = this.#due(events, place);
      if (due > place) this.#hand(events.slice(place, due));
      await this.#pause(due > place ? 0 : this.#wait(events[due]));
      this.#signal.throwIfAborted();
      place = due;
    }
  }

  /** The place up to which events are due. @param {FeedEvent[]} events @param {number} place */
  #due(events, place) {
    if (this.#paused) return place;
    const most = Math.min(events.length, place + this.#batch);
    if (this.#speed === Infinity) {
      this.#from(timeOf(events[most - 1]));
      return most;
    }
    const now = this.#reach(timeOf(events[place]));
    let due = place;
    while (due < most && timeOf(events[due]) <= now) due += 1;
    return due;
  }

  /**
   * The time in the past that it is now, seen from the event that comes next: silence before it is shortened.
   * @param {number} time
   */
  #reach(time) {
    const now = this.#now();
    const silence = time - now;
    if (silence <= SILENCE_MS) return now;
    if (now > -Infinity) this.#skipped += silence - SILENCE_MS;
    this.#from(now > -Infinity ? time - SILENCE_MS : time);
    return this.#time;
  }

  /** @param {FeedEvent[]} events */
  #hand(events) {
    const began = this.#clock.now();
    this.#emit(events);
    const took = this.#clock.now() - began;
    // A page that is slow to take them gets fewer at once, so that it can answer in between.
    this.#batch = took > TURN_MS ? Math.max(LEAST, this.#batch >> 1) : Math.min(MOST, this.#batch << 1);
    this.#done += events.length;
    this.#progress({ done: this.#done, at: events.at(-1)?.time ?? "", skipped: this.#skipped });
  }

  /** @param {FeedEvent} event */
  #wait(event) {
    if (this.#paused) return LONGEST_WAIT_MS;
    return Math.min(LONGEST_WAIT_MS, Math.max(0, (timeOf(event) - this.#now()) / this.#speed));
  }

  /** @param {number} ms @returns {Promise<void> | undefined} */
  #pause(ms) {
    if (this.#signal.aborted) return undefined;
    return new Promise((resolve) => {
      const timer = this.#clock.set(resolve, ms);
      this.#wake = () => {
        this.#clock.clear(timer);
        resolve();
      };
    });
  }
}

/** @param {FeedEvent} event */
const timeOf = (event) => Date.parse(event.time);

/**
 * The pages of a range. While one is played the next is read, and no more than that.
 * @param {History} history
 * @param {Bound} from
 * @param {Bound} to
 * @param {AbortSignal} signal
 */
async function* pages(history, from, to, signal) {
  const end = await endOf(history, to, signal);
  if (end === null) return;
  /** @type {Promise<Page> | null} */
  let reading = beginning(history, from, signal);
  while (reading) {
    /** @type {Page} */
    const page = await reading;
    const { events, next, gap } = page;
    const beyond = events.findIndex((event) => numberOf(event.id) > end.number || timeOf(event) > end.time);
    const over = page.end || beyond >= 0 || numberOf(next) >= end.number;
    reading = over ? null : history.newer(next, PAGE, signal);
    reading?.catch(() => {}); // it is awaited later, or never if the replay is stopped
    yield { events: beyond < 0 ? events : events.slice(0, beyond), gap };
  }
}

/**
 * Where a range ends: at the newest event of now at the latest, as the feed may grow faster than it is replayed.
 * @param {History} history
 * @param {Bound} to
 * @param {AbortSignal} signal
 */
async function endOf(history, to, signal) {
  const newest = (await history.newest(1, signal)).events.at(-1);
  if (!newest) return null;
  const last = numberOf(newest.id);
  if (to === null) return { number: last, time: Infinity };
  if (typeof to !== "string") return { number: last, time: Number(to) };
  const { gap } = await history.newer(to, 1, signal);
  if (gap?.reason === "unknown") throw new HistoryError(0, `The log does not know ${to}.`);
  return { number: Math.min(last, numberOf(to)), time: Infinity };
}

/** @param {History} history @param {Bound} from @param {AbortSignal} signal */
function beginning(history, from, signal) {
  if (from === null) return history.newer("earliest", PAGE, signal);
  return typeof from === "string" ? history.at(from, PAGE, signal) : history.since(from, PAGE, signal);
}
