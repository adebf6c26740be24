// A tab's part in a connection that it shares: the same to its owner as a connection of its own.
//
// A tab begins where it wants to, and the hub is somewhere else in the feed: what is between, the tab reads from pages
// of history, while what comes from the hub waits. The two are joined where they meet: at an event or a position that
// both know, or when a page that was asked for after the hub's first word holds nothing more. Each entry says after
// which id it comes, so a tab notices when it has missed one, and does the same again.
//
// With the state there are no pages: the hub gives it whole, when the tab joins and after it has missed something.

import { Connection } from "./connection.js";
import { idOf } from "./event.js";
import { readPage, refusalIn } from "./history.js";
import { electedLink, workerLink } from "./links.js";
import { Recent } from "./recent.js";
import { Waits } from "./waits.js";

/** @import { Begin, Deliver, Entry, FromHub, Guard, Link, NoPage, Options, Page, PlacedEntry, Refused, Resumed, State } from "./types.js" */

// In milliseconds.
const ANSWERING = 4_000; // until the hub has taken this tab on; an elected one may have to be elected first
const REPLYING = 5_000; // to whether it is there
const READING = 30_000; // one page

const PAGE = 1_000; // events
const MOST_WAITING = 20_000; // events of the hub's, while pages are read
const MOST_CHARACTERS = 16 << 20; // of them
const MOST_WORKERS = 3; // that die before another way is tried

export class Membership {
  #options;
  #deliver;
  #key;
  #last;
  /** @type {Link | null} */
  #link = null;
  #ways = [workerLink, electedLink];
  #deaths = 0;
  /** @type {number | undefined} */
  #answering;
  /** @type {number | undefined} */
  #listening;
  #heard = 0;
  /** @type {Connection | null} */
  #own = null; // a connection, where there is no way to share one

  /** @type {State} */
  #state = { name: "connecting" }; // the hub's
  /** @type {Refused | null} */
  #refused = null; // what a page was refused with
  #joined = false;
  #hub = ""; // up to where the hub has told
  #position; // up to where this tab has handed on
  #began = false;
  /** @type {Resumed | null} */
  #resumed = null; // how this tab came to where it is, until the hub's own story matters
  #resumesOwn = true;

  /** @type {PlacedEntry[] | null} */
  #waiting = null; // entries that have come while pages are read
  #waitingEvents = 0;
  #waitingCharacters = 0;
  #holes = 0; // how often what had waited was thrown away
  /** @type {AbortController | null} */
  #catching = null; // while pages are read
  #replayed = 0;
  #from = "";
  #waits = new Waits();
  /** @type {number | undefined} */
  #timer;
  #recent = new Recent();
  #overlaps = false; // what comes may have been handed on already

  /**
   * @param {Options} options
   * @param {Begin} begin
   * @param {Deliver} deliver
   */
  constructor(options, { after = "", last = 0 }, deliver) {
    this.#options = options;
    this.#position = after;
    this.#last = last;
    this.#deliver = deliver;
    const { base, topics, types, transport, credentials, latest, every } = options;
    this.#key = JSON.stringify([base, [...topics].sort(), [...types].sort(), transport, credentials, latest, every]);
  }

  start() {
    this.#connect();
  }

  retry() {
    if (this.#own) return this.#own.retry();
    this.#link?.post({ retry: true });
    this.#catchUpNow();
  }

  renew() {
    if (this.#own) return this.#own.renew();
    this.#link?.post({ renew: true });
    this.#catchUpNow();
  }

  /* Pages that were refused, or are waited for, are asked for again. */
  #catchUpNow() {
    if (!this.#refused && this.#timer === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#refused = null;
    this.#catchUp();
  }

  hurry() {
    if (this.#own) this.#own.hurry();
    else this.#link?.post({ hurry: true });
  }

  /** @param {boolean} offline */
  check(offline) {
    if (this.#own) this.#own.check(offline);
    else this.#link?.post({ check: offline ? "offline" : "silence" });
  }

  suspend() {
    this.#own?.suspend();
    this.#leave();
  }

  resume() {
    if (this.#own) this.#own.resume();
    else this.#connect();
  }

  close() {
    this.#own?.close();
    this.#leave();
  }

  /** Find a hub, by the first way that is there. */
  #connect() {
    this.#leave();
    const way = this.#ways[0];
    if (!way) return this.#connectAlone();
    /** @type {Link | null} */
    let link = null;
    /** @type {Guard} */
    const current = (then) => (...facts) => {
      if (link !== null && link === this.#link) then(...facts);
    };
    try {
      link = this.#link = way({
        key: this.#key,
        options: this.#options,
        position: () => this.#resumable(),
        receive: current((message) => this.#receive(message)),
        lost: current(() => this.#lost()),
        failed: current((again) => this.#failed(again)),
      });
      this.#await();
    } catch {
      this.#failed(false);
    }
  }

  /** Where a hub in this tab goes on. With the state it begins anew: it has not got what this tab holds. */
  #resumable() {
    const isThere = this.#began && !this.#catching && this.#waiting === null;
    return isThere && !this.#options.latest ? this.#position : "";
  }

  #connectAlone() {
    const begin = this.#began || this.#position ? { after: this.#position } : { last: this.#last };
    this.#own = new Connection(this.#options, begin, this.#deliver);
    this.#own.start();
  }

  #leave() {
    clearTimeout(this.#answering);
    this.#link?.close();
    this.#link = null;
    this.#lost();
  }

  /** What the hub said is of no use for what another one will say. */
  #lost() {
    this.#joined = false;
    clearTimeout(this.#listening);
    this.#stop();
    this.#waiting = null;
    if (this.#link) this.#await();
  }

  #await() {
    clearTimeout(this.#answering);
    if (this.#ways[0] === workerLink) this.#answering = setTimeout(() => this.#failed(false), ANSWERING);
  }

  /** A hub is silent when there is nothing to say, and when it is no more: after a while, ask. */
  #listen() {
    clearTimeout(this.#listening);
    const quiet = this.#options.quiet * 1000;
    const left = quiet - (performance.now() - this.#heard);
    this.#listening = setTimeout(() => {
      if (performance.now() - this.#heard < quiet) return this.#listen();
      const asked = performance.now();
      this.#link?.post({ ping: true });
      this.#listening = setTimeout(() => (this.#heard > asked ? this.#listen() : this.#failed(true)), REPLYING);
    }, Math.max(left, 0));
  }

  /** @param {boolean} again */
  #failed(again) {
    if (!again || ++this.#deaths >= MOST_WORKERS) this.#ways.shift();
    this.#connect();
  }

  /** @param {FromHub} message */
  #receive({ joined, entries, cost }) {
    this.#heard = performance.now();
    if (joined) this.#join(joined);
    if (!entries || !this.#joined) return;
    this.#take(entries);
    if (cost) this.#link?.post({ ack: cost });
  }

  /** @param {NonNullable<FromHub["joined"]>} joined */
  #join({ state, position }) {
    clearTimeout(this.#answering);
    this.#stop();
    this.#listen();
    this.#waiting = null;
    this.#joined = true;
    this.#refused = null;
    this.#hub = position;
    this.#state = state;
    this.#overlaps = false;
    if (this.#options.latest) {
      this.#resumed = null;
      this.#resumesOwn = true;
      return; // the whole state comes with this, and how the hub is
    }
    const wants = this.#position !== "" || (!this.#began && this.#last > 0);
    if (!wants) {
      this.#began = true;
      this.#resumed = null;
      if (position) this.#deliver([{ kind: "position", after: "", position }]);
      this.#position = position;
    } else if (this.#position !== position || !this.#began) {
      this.#miss();
      this.#catchUp();
    } else {
      this.#resumed = { after: position, replayed: 0 };
      this.#resumesOwn = true;
    }
    this.#tell();
  }

  /** Hand on what is next, and keep what is not. @param {Entry[]} entries */
  #take(entries) {
    /** @type {Entry[]} */
    const out = [];
    for (const entry of entries) {
      if (entry.kind === "state") {
        if (entry.state.name === "live" && this.#state.name !== "live") this.#resumesOwn = false;
        this.#state = entry.state;
        this.#hand(out);
        this.#tell();
        if (this.#waiting !== null) this.#catchUp();
        continue;
      }
      if (entry.kind === "closing") {
        out.push(entry);
        continue;
      }
      if (entry.kind === "anew") {
        this.#hub = this.#position = entry.position;
        this.#began = true;
        out.push(entry);
        continue;
      }
      if (entry.after !== this.#hub) this.#miss();
      this.#hub = entry.position;
      if (this.#waiting === null) this.#next(entry, out);
      else this.#keep(entry, this.#waiting);
    }
    this.#hand(out);
    if (this.#waiting === null) return;
    this.#tell();
    this.#catchUp();
  }

  /** @param {Entry[]} out */
  #hand(out) {
    if (out.length > 0) this.#deliver(out.splice(0));
  }

  /** Hand on an entry, without what was handed on already. @param {PlacedEntry} entry @param {Entry[]} out */
  #next(entry, out) {
    if (entry.kind === "events") {
      let { envelopes } = entry;
      if (this.#overlaps) envelopes = envelopes.slice(this.#recent.lastOf(envelopes) + 1);
      if (envelopes.length === 0) return;
      for (const envelope of envelopes) this.#recent.add(idOf(envelope));
      out.push({ ...entry, envelopes });
      this.#overlaps = false;
    } else if (entry.kind === "gap") {
      out.push(entry);
      this.#overlaps = false;
    } else if (!this.#overlaps) {
      out.push(entry);
    }
    if (!this.#overlaps) {
      this.#position = entry.position;
      this.#began = true;
    } else if (entry.position === this.#position) {
      this.#overlaps = false;
    }
  }

  /** @param {PlacedEntry} entry @param {PlacedEntry[]} waiting */
  #keep(entry, waiting) {
    waiting.push(entry);
    this.#waitingEvents += entry.envelopes?.length ?? 1;
    for (const envelope of entry.envelopes ?? []) this.#waitingCharacters += envelope.length;
    if (this.#waitingEvents > MOST_WAITING || this.#waitingCharacters > MOST_CHARACTERS) this.#discard();
  }

  /** There is a hole between this tab and what the hub says: pages from here on. */
  #miss() {
    if (this.#waiting === null) {
      this.#from = this.#position;
      this.#replayed = 0;
    }
    this.#discard();
  }

  #discard() {
    this.#waiting = [];
    this.#waitingEvents = this.#waitingCharacters = 0;
    this.#holes += 1;
  }

  /** Read pages until they meet what waits. */
  async #catchUp() {
    if (this.#catching || this.#refused || this.#timer !== undefined || !this.#joined) return;
    if (!["live", "replaying"].includes(this.#state.name)) return; // when it is, we are called again
    const catching = (this.#catching = new AbortController());
    while (this.#waiting !== null) {
      const holes = this.#holes;
      const begin = this.#position ? { after: this.#position, limit: PAGE } : { last: this.#last };
      const answer = await readPage(this.#options, begin, catching.signal, READING);
      if (catching !== this.#catching) return;
      if (!answer.page) return this.#troubled(answer);
      this.#waits.reset();
      this.#turn(answer.page);
      if (catching !== this.#catching) return; // somebody who was told has closed it
      const isAll = this.#began && answer.page.envelopes.length === 0 && holes === this.#holes;
      if (isAll || this.#meets(this.#waiting)) this.#met(this.#waiting);
      this.#began = true;
    }
    if (catching === this.#catching) this.#catching = null;
  }

  /** Hand on a page. @param {Page} page */
  #turn({ envelopes, next, gap }) {
    /** @type {Entry[]} */
    const out = [];
    let after = this.#position;
    if (gap) {
      const { requested, resumed_from: resumedFrom, reason } = gap;
      out.push({ kind: "gap", after, position: resumedFrom, gap: { requested, resumedFrom, reason } });
      after = resumedFrom;
    }
    for (const envelope of envelopes) this.#recent.add(idOf(envelope));
    if (envelopes.length > 0) out.push({ kind: "events", after, position: next, live: false, envelopes });
    else if (next !== after) out.push({ kind: "position", after, position: next });
    this.#position = next;
    this.#replayed += envelopes.length;
    this.#hand(out);
  }

  /** Whether what waits begins where the pages have come to, or before. @param {PlacedEntry[]} waiting */
  #meets(waiting) {
    if (this.#position === this.#hub) return true;
    return waiting.some(
      ({ after, position, envelopes = [] }) =>
        after === this.#position || position === this.#position || this.#recent.lastOf(envelopes) >= 0,
    );
  }

  /** @param {PlacedEntry[]} waiting */
  #met(waiting) {
    this.#waiting = null;
    this.#resumed = this.#from ? { after: this.#from, replayed: this.#replayed } : null;
    this.#resumesOwn = true;
    // Up to the last thing that both know, all of it was handed on.
    let known = waiting.findLastIndex(({ position }) => position === this.#position);
    if (known < 0) known = waiting.findLastIndex(({ envelopes = [] }) => this.#recent.lastOf(envelopes) >= 0) - 1;
    this.#overlaps = this.#position !== this.#hub;
    /** @type {Entry[]} */
    const out = [];
    for (const entry of waiting.slice(known + 1)) this.#next(entry, out);
    this.#hand(out);
    this.#tell();
  }

  /** @param {NoPage} answer */
  #troubled(answer) {
    this.#catching = null;
    this.#refused = refusalIn(answer);
    if (this.#refused) return this.#tell();
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#catchUp();
    }, this.#waits.next({ least: answer.retry }));
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#catching?.abort();
    this.#catching = null;
  }

  /** Say what state this tab is in: the hub's, but that it may have something to do itself. */
  #tell() {
    const { name } = this.#state;
    if (this.#waiting !== null && (name === "live" || name === "replaying")) {
      this.#say(this.#refused ?? { name: "replaying", after: this.#from });
    } else if (name === "live" && this.#resumesOwn) {
      this.#say({ name: "live", resumed: this.#resumed });
    } else {
      this.#say(this.#state);
    }
  }

  /** @param {State} state */
  #say(state) {
    this.#deliver([{ kind: "state", state }]);
  }
}
