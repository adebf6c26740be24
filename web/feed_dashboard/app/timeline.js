// What of the feed is shown: its newest events as they come, or a window that stands still, is read on in the past, or
// in which a range happens again. No document here.

import { wordsOf } from "../feed/history.js";
import { History } from "./history.js";
import { replay } from "./replay.js";
import { Rows } from "./rows.js";
import { placeOf } from "./travel.js";

/** @import { FeedEvent, Frozen, Pass, Row, Told, Travel } from "./types.js" */

const PAGE = 200; // events of one page of the past
const SEARCHED = 10; // pages that one wish for older events may read where none of them passes the filter

/** The rows, and where in time they are. */
export class Timeline {
  /** What came, and comes. */
  live;
  /** @type {?Frozen} what is shown instead; null while the list follows the feed */
  frozen = null;
  /** @type {Travel} what somebody wrote into the bar, and what came of it */
  travel = { open: false, place: "", from: "", to: "", speed: 1, error: "", busy: false, replay: null };
  loadingOlder = false;
  noOlder = false; // the oldest event that is kept is shown
  #pass;
  #told;
  #base;
  #history;
  /** @type {ReturnType<typeof replay> | null} */
  #ride = null;
  #reading = new AbortController();

  /**
   * @param {URL} base
   * @param {Pass} pass
   * @param {Told} told
   */
  constructor(base, pass, told) {
    this.#base = base;
    this.#history = new History({ base });
    this.#pass = pass;
    this.#told = told;
    this.live = new Rows(pass);
  }

  /** Begin anew, with other topics. @param {string[]} topics */
  begin(topics) {
    this.follow();
    this.live.clear();
    this.#history = new History({ base: this.#base, topics });
  }

  get rows() {
    return this.frozen?.rows ?? this.live;
  }

  /** Whether newer events are only added for somebody who reads on, and should not move what is in view. */
  get standsStill() {
    return this.frozen?.reason === "past";
  }

  /** @param {FeedEvent[]} events */
  received(events) {
    const passed = this.live.append(events);
    if (this.frozen) this.frozen.fresh += passed;
  }

  /** @param {Pass} pass */
  filter(pass) {
    this.#pass = pass;
    this.live.filter(pass);
    this.frozen?.rows.filter(pass);
  }

  clear() {
    if (!this.travel.replay) this.#reading.abort(); // what it brings would stand before what was cleared, with a hole
    this.noOlder = false;
    this.live.clear();
    this.frozen?.rows.clear();
    if (this.frozen) this.frozen.fresh = 0; // those are gone, too
  }

  /** Keep the list as it is; what comes is counted. @param {Frozen["reason"]} reason */
  freeze(reason) {
    return (this.frozen ??= { rows: this.live.copy(), reason, fresh: 0 });
  }

  /** Show the newest again. */
  follow() {
    this.#reading.abort();
    this.travel.replay = null;
    this.noOlder = false;
    this.frozen = null;
  }

  /** Read on backwards, until something passes the filter. */
  async loadOlder() {
    if (this.loadingOlder || this.noOlder || this.travel.replay) return;
    const { rows } = this.freeze("scroll");
    this.loadingOlder = true;
    await this.#read(async (signal) => {
      for (let pages = 0; pages < SEARCHED; pages++) {
        const before = rows.all[0]?.event.id;
        const page = await (before ? this.#history.older(before, PAGE, signal) : this.#history.newest(PAGE, signal));
        if (page.gap) {
          // What is shown is of a log that is gone: nothing here comes before it.
          this.#told.gap(page.gap);
          this.noOlder = true;
          break;
        }
        this.noOlder = page.end;
        // They stay when the list goes on, where they are what comes right before it, and there is room for them.
        const stay = before && before === this.live.all[0]?.event.id && this.live.hasRoomFor(page.events);
        if (stay) this.live.prepend(page.events);
        const passed = rows.prepend(page.events);
        this.#told.older(page.events);
        if (passed || page.end) break;
      }
    });
    this.loadingOlder = false;
    this.#told.now();
  }

  /** Read on forwards, where the window is in the past. */
  async loadNewer() {
    const rows = this.frozen?.rows;
    const newest = rows?.all.at(-1)?.event.id;
    if (this.travel.busy || !rows || !newest) return;
    await this.#read(async (signal) => {
      const page = await this.#history.newer(newest, PAGE, signal);
      if (page.gap) this.#told.gap(page.gap);
      const [oldest] = rows.all;
      rows.append(page.events);
      if (oldest !== rows.all[0]) this.noOlder = false;
    });
  }

  /**
   * To the id or time that was asked for. Gives the row that was meant, if there is one.
   * @returns {Promise<Row | null>}
   */
  async go() {
    const place = placeOf(this.travel.place);
    if (!place) {
      this.#fail("Say an id, a time such as 14:05 or 2026-11-21 14:05, or how long ago: 10 min.");
      return null;
    }
    return this.#read(async (signal) => {
      const page = await (place.time
        ? this.#history.since(place.time, PAGE, signal)
        : this.#history.at(place.id, PAGE, signal));
      if (page.gap) this.#told.gap(page.gap);
      if (!page.events.length) {
        this.#fail("There are no events from there on.");
        return null;
      }
      const rows = new Rows(this.#pass);
      rows.append(page.events);
      this.frozen = { rows, reason: "past", fresh: 0 };
      this.noOlder = false;
      return rows.shown.find((row) => row.event.id === place.id) ?? rows.shown[0] ?? null;
    });
  }

  /** Have the range that was asked for happen again. */
  async replay() {
    const { travel } = this;
    const from = boundOf(travel.from);
    const to = boundOf(travel.to);
    if (from === undefined || to === undefined) {
      this.#fail(`${from !== undefined ? "The end" : "The beginning"} is neither an id nor a time.`);
      return;
    }
    await this.#read(async (signal) => {
      const rows = new Rows(this.#pass);
      const state = { done: 0, at: "", skipped: 0, paused: false, over: "" };
      this.frozen = { rows, reason: "replay", fresh: 0 };
      travel.replay = state;
      const ride = replay({
        history: this.#history,
        from,
        to,
        speed: travel.speed,
        signal,
        emit: (events) => rows.append(events),
        gap: (gap) => this.#told.gap(gap),
        progress: (progress) => {
          Object.assign(state, progress);
          this.#told.soon();
        },
      });
      this.#ride = ride;
      await ride.done.then(
        () => (state.over = "That was all of it."),
        (error) => (state.over = signal.aborted ? "Stopped." : wordsOf(error)),
      );
    });
  }

  holdReplay() {
    const { replay: state } = this.travel;
    if (!state) return;
    state.paused = !state.paused;
    if (state.paused) this.#ride?.pause();
    else this.#ride?.resume();
    this.#told.now();
  }

  stopReplay() {
    this.#reading.abort();
  }

  /** @param {number} speed */
  set speed(speed) {
    this.travel.speed = speed;
    if (this.#ride && this.travel.replay && !this.travel.replay.over) this.#ride.speed = speed;
    this.#told.now();
  }

  /**
   * One thing of the past is read at a time: the next one stops it.
   * @template T
   * @param {(signal: AbortSignal) => Promise<T>} work
   * @returns {Promise<T | null>}
   */
  async #read(work) {
    this.#reading.abort();
    this.#reading = new AbortController();
    const { signal } = this.#reading;
    this.travel.busy = true;
    this.travel.error = "";
    this.#told.now();
    try {
      return await work(signal);
    } catch (error) {
      if (!signal.aborted) this.#fail(wordsOf(error));
      return null;
    } finally {
      if (signal === this.#reading.signal) this.travel.busy = false;
      this.#told.now();
    }
  }

  /** @param {string} text */
  #fail(text) {
    this.travel.open = true;
    this.travel.error = text;
    this.#told.now();
  }
}

/**
 * One end of a range: an id or a time; null where nothing was written, undefined for what is neither.
 * @param {string} written
 */
function boundOf(written) {
  if (!written.trim()) return null;
  const place = placeOf(written);
  return place?.id ?? place?.time;
}
