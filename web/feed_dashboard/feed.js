// A feed's events in a page, over one connection for all tabs of the browser. For any page: it imports nothing but its
// own parts in `feed/`, and needs no build step.
//
//     import { connect } from "https://feed.example.org/assets/feed.js";
//
//     const feed = connect({ topics: ["orders/*"], last: 50 });
//     feed.addEventListener("event", ({ detail: event }) => show(event.topic, event.data));
//     feed.addEventListener("state", () => status(feed.state.name));
//     feed.addEventListener("gap", () => reload());
//
//     connect({ after: "k3f9a2-184467" }); // go on where an earlier page was: its `feed.lastEventId`
//
//     const board = connect({ topics: ["scores/*"], latest: true }); // what is, then what changes
//     board.addEventListener("live", () => show(board.state)); // a Map of topics with their newest events
//
//     connect({ topics: ["orders/*"], load: async () => position }); // what is in a database of your own
//
// **Events.** Each once and in order, over every broken connection. They are dispatched as CustomEvents, with `detail`
// (see `FeedEventMap` and `State` in feed/types.d.ts, which says all that they hold):
//
//     event      a FeedEvent: `id`, `topic`, `type`, `time`, `data`, and `text`, the data as it was published
//     events     the same as an array, once for each batch, before the single ones: for pages that show many
//     state      `feed.connection`; its `name`: connecting, replaying, live, waiting, offline, refused, closed
//     live       with `latest`: `feed.state`, which is whole
//     gap        `{requested, resumedFrom, reason}`: events between the two may be gone, from the log itself
//     closing    `{reason, retry}`: the server ends the stream; it is opened again
//     position   `{id}`: nothing for this page, but the feed has moved on
//     error      what `load` has thrown; it is run again
//
// **State.** With `latest` the feed keeps `feed.state`. After a gap all of it comes again; what was there stays until
// it is whole, and what has gone goes then, just before `live`. With `load` the application keeps the state: `load`
// asks for the position, then reads the data, then returns the position. It is run at first and after every gap, and
// what has happened after that position comes as events.
//
// It waits as long as the stream said, else a random time up to 1, 2, 4 … 30 s, and not less than an answer's
// `Retry-After` says; not at all once the network is back or the page is looked at. After `quiet` seconds without a word it asks for a page of history, and opens a new stream if
// this one has not brought what is there: a proxy may hold it back, or a router have forgotten it.
//
// **Transports.** `eventsource`, `websocket` and `fetch` bring the same. `fetch` sees heartbeats and statuses itself;
// for the others a page of history is asked for now and then.
//
// **Sharing.** Tabs of one origin that ask for the same base, topics, types, transport and credentials share one
// connection: browsers allow six for each host over HTTP/1.1. It lives in a SharedWorker; where there is none, or its
// script may not be loaded, in one of the tabs, elected with Web Locks and heard over a BroadcastChannel; where these
// are missing too (a page without TLS), in each tab. What a tab wants from before, it reads from pages of history. A
// tab that cannot keep up with 20,000 events or 16 Mi characters under way reads on from these pages too, and holds up
// nobody. `shared: false` gives a page a connection of its own.
//
// **What a page has to allow.** With a Content-Security-Policy: `script-src` and `connect-src` the feed's origin (and
// `wss:` of it for the WebSocket), `worker-src` the page's own. With Trusted Types: the policy `feed`, for the worker's
// address. Without any of it for workers the tabs elect one.
//
// **From another origin.** List the page's origin in FEED_ORIGINS. The worker's script would be of another origin, so
// the tabs elect one. A feed that needs a token takes it from the cookie that `POST /session` sets, with
// `credentials: "include"` in both places; that works between ports and subdomains of one site. After a new session, or the end of
// one, call `renew()`: a connection that is there would go on with what it was opened with.
//
// What comes from a feed is text by anybody: show it with `textContent`, never as markup.

import { Connection } from "./feed/connection.js";
import { eventOf } from "./feed/event.js";
import { Fold } from "./feed/fold.js";
import { Loading } from "./feed/loading.js";
import { Membership } from "./feed/membership.js";
import { TRANSPORT_NAMES } from "./feed/transports.js";

/** @import { FeedEvent } from "./feed/event.js" */
/** @import { AnyOptions, Begin, Deliver, Entry, EventsEntry, FeedEventMap, FeedEventTarget, FeedOptions, Gap, Latest, LatestOptions, Source, State } from "./feed/types.js" */

export { FeedEvent } from "./feed/event.js";

/**
 * Connect to a feed.
 * @overload
 * @param {LatestOptions} options
 * @returns {Feed<Latest>}
 * @throws {TypeError} for options that mean nothing
 */
/**
 * @overload
 * @param {FeedOptions} [options]
 * @returns {Feed}
 * @throws {TypeError} for options that mean nothing
 */
/** @param {AnyOptions} [options] @returns {Feed<any>} */
export function connect(options = {}) {
  return new Feed(options);
}

/** @param {boolean} right @param {string} words */
function check(right, words) {
  if (!right) throw new TypeError(words);
}

/**
 * A feed as a page sees it. Dispatches `event`, `events`, `state`, `live`, `gap`, `closing`, `position` and `error`.
 * @template {State | Latest} [S=State]
 */
export class Feed extends /** @type {new () => FeedEventTarget} */ (EventTarget) {
  /** @type {Source} */
  #source;
  /** @type {State} */
  #connection = Object.freeze({ name: "connecting" });
  /** @type {Fold<FeedEvent> | null} */
  #fold;
  #lastEventId = "";
  #single = false;
  #unlisten = new AbortController();

  /** See `connect`. @param {AnyOptions} [options] */
  constructor({
    topics = ["**"],
    types = [],
    base = new URL("../", import.meta.url),
    after = "",
    last = 0,
    latest = false,
    every,
    load,
    transport = "eventsource",
    shared = true,
    credentials = "same-origin",
    quiet = 30,
    ...others
  } = {}) {
    super();
    // A slip would else subscribe to everything: `topic` instead of `topics`.
    check(Object.keys(others).length === 0, `${Object.keys(others)[0]}: not an option of connect`);
    check(Array.isArray(topics) && topics.length > 0, "topics: an array of patterns");
    check(Array.isArray(types), "types: an array of names");
    check(typeof after === "string", "after: an event's id");
    check(Number.isInteger(last) && last >= 0 && last <= 1_000, "last: a whole number up to 1,000");
    check(TRANSPORT_NAMES.includes(transport), `transport: one of ${TRANSPORT_NAMES.join(", ")}`);
    check(quiet > 0 && quiet <= 86_400, "quiet: a number of seconds");
    const begins = after !== "" || last > 0;
    check(!latest || !load, "latest and load: take latest if the feed's events are the state, load if a database has it");
    check(!latest || types.length === 0, "types: not with latest, as a topic's newest event may be of any type");
    check(!latest || !begins, "after and last: not with latest, which begins with the whole state");
    check(every === undefined || latest, "every: only with latest");
    check(every === undefined || (Number.isInteger(every) && every >= 100 && every <= 60_000), "every: 100 to 60,000 ms");
    check(load === undefined || typeof load === "function", "load: a function that returns a position");
    check(!load || !begins, "after and last: not with load, which returns where to begin");
    const asked = { topics: [...topics], types: [...types], base: new URL(base, globalThis.location?.href).href };
    const options = { ...asked, transport, credentials, quiet, latest, every };
    this.#lastEventId = after === "earliest" ? "" : after;
    this.#fold = latest ? new Fold() : null;
    /** @param {Begin} begin @param {Deliver} deliver */
    const open = (begin, deliver) => new (shared ? Membership : Connection)(options, begin, deliver);
    /** @type {Deliver} */
    const take = (entries) => this.#take(entries);
    this.#source = load
      ? new Loading(
          load,
          (position, deliver) => open({ after: position }, deliver),
          take,
          (error) => this.#dispatch("error", error),
        )
      : open({ after, last }, take);
    this.#listen();
    this.#source.start();
  }

  /** What the connection is doing, with the facts. Frozen; a new one with each `state` event. */
  get connection() {
    return this.#connection;
  }

  /** With `latest` the topics that there are, with their newest events; else the same as `connection`. */
  get state() {
    return /** @type {S} */ (this.#fold ? this.#fold.state : this.#connection);
  }

  /**
   * Wait until `state` is whole. With `latest` only.
   * @returns {Promise<S>}
   * @throws {TypeError} without `latest`
   * @throws {Error} if the feed refuses, or is closed
   */
  async whole() {
    const fold = this.#fold;
    if (!fold) throw new TypeError("whole: only with latest");
    const stopping = new AbortController();
    await new Promise((resolve, reject) => {
      const look = () => {
        const { name } = this.#connection;
        if (name === "refused") reject(new Error(this.#connection.detail));
        else if (name === "closed") reject(new Error("The feed was closed."));
        else if (fold.isWhole) resolve(null);
      };
      for (const type of /** @type {const} */ (["live", "state"])) {
        this.addEventListener(type, look, { signal: stopping.signal });
      }
      look();
    }).finally(() => stopping.abort());
    return this.state;
  }

  /** After which event to resume: `connect({ after: feed.lastEventId })`. "" before there is one. */
  get lastEventId() {
    return this.#lastEventId;
  }

  /** Try now: from waiting, offline and refused. A connection that is there stays as it is. */
  retry() {
    this.#source.retry();
  }

  /** Open the connection anew, for all that share it: after a session has begun or ended. Nothing is missed. */
  renew() {
    this.#source.renew();
  }

  /** End it. The connection ends with the last one that shares it. */
  close() {
    if (this.#isClosed) return;
    this.#unlisten.abort();
    this.#source.close();
    this.#become({ name: "closed" });
  }

  /** @type {FeedEventTarget["addEventListener"]} */
  addEventListener(type, ...rest) {
    this.#single ||= type === "event"; // else they need not even be made into events of the DOM
    super.addEventListener(type, ...rest);
  }

  get #isClosed() {
    return this.#connection.name === "closed";
  }

  #listen() {
    const { signal } = this.#unlisten;
    const source = this.#source;
    /** @param {EventTarget | undefined} target @param {string} type @param {(event: Event) => void} then */
    const on = (target, type, then) => target?.addEventListener?.(type, then, { signal });
    on(globalThis, "online", () => source.hurry());
    on(globalThis, "offline", () => source.check(true));
    on(globalThis, "pagehide", () => source.suspend());
    on(globalThis, "pageshow", (event) => /** @type {PageTransitionEvent} */ (event).persisted && source.resume());
    const page = globalThis.document;
    on(page, "freeze", () => source.suspend());
    on(page, "resume", () => source.resume());
    on(page, "visibilitychange", () => {
      if (page.visibilityState !== "visible") return;
      source.hurry();
      source.check(false);
    });
  }

  /** @param {Entry[]} entries */
  #take(entries) {
    for (const entry of entries) {
      if (this.#isClosed) return;
      if (entry.position) this.#lastEventId = entry.position;
      if (entry.kind === "events") this.#events(entry);
      else if (entry.kind === "state") this.#become(entry.state);
      else if (entry.kind === "position") this.#dispatch("position", { id: entry.position });
      else if (entry.kind === "gap") this.#gap(entry.gap);
      else if (entry.kind === "anew") this.#fold?.forget();
      else this.#dispatch("closing", entry.closing);
    }
  }

  /** @param {EventsEntry} entry */
  #events({ envelopes, live }) {
    const events = envelopes.map((envelope) => eventOf(envelope, live));
    for (const event of events) this.#fold?.add(event, event);
    this.#dispatch("events", events);
    if (!this.#single) return;
    for (const event of events) {
      if (this.#isClosed) return;
      this.#dispatch("event", event);
    }
  }

  /** @param {Gap} gap */
  #gap(gap) {
    this.#fold?.forget();
    this.#dispatch("gap", gap);
  }

  /** @param {State} state */
  #become(state) {
    // Where the connection is in another tab, or in a worker, that may not have noticed yet.
    const offline = globalThis.navigator?.onLine === false && ["connecting", "waiting"].includes(state.name);
    if (offline) state = { name: "offline" };
    const isLive = state.name === "live";
    const isNew = JSON.stringify(state) !== JSON.stringify(this.#connection);
    const isWhole = this.#fold !== null && isLive && (isNew || !this.#fold.isWhole);
    if (isWhole) this.#fold?.complete();
    if (isNew) {
      if (state.name === "live" && state.resumed) Object.freeze(state.resumed);
      this.#connection = Object.freeze(state);
      this.#dispatch("state", state);
    }
    if (isWhole && !this.#isClosed) this.#dispatch("live", /** @type {Latest} */ (this.state));
  }

  /** @template {keyof FeedEventMap & string} K @param {K} type @param {FeedEventMap[K]} detail */
  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
