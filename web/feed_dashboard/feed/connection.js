// One connection to a feed, over whatever transport, for as long as it is wanted: the one place that decides when it
// is tried again, from where, and what state it is in.
//
// The browser's own reconnecting is not used: an `EventSource` tells nobody when it will try again, and any status but
// 200 ends it for ever. Each try is a transport of its own; what an earlier one still says is not listened to.

import { copyOf, resumeOf } from "./event.js";
import { NO_FEED, readPage, refusalIn, wordsOf } from "./history.js";
import { openTransport } from "./transports.js";
import { Waits } from "./waits.js";

/** @import { Answer, Begin, Closing, Control, Deliver, Entry, Guard, OpenTransport, Options, Said, State } from "./types.js" */

// In milliseconds.
const OPENING = 15_000; // until the stream says its first word
const ASKING = 10_000; // for a page that shows how things stand
const ARRIVING = 2_000; // for an event that the log has, to come over the stream
const STEADY = 5_000; // after a shorter time live, the waits go on growing
const TURN = 16; // what arrives within it is handed on together

const MOST_TOGETHER = 1_000; // events

const BUSY = new Set([429, 503]);

export class Connection {
  #options;
  #deliver;
  #position;
  #last;
  #resumes; // whether it began, or begins, after an id that somebody named
  /** @type {State} */
  #state = { name: "connecting" };
  /** @type {Attempt | null} */
  #attempt = null;
  /** @type {number | undefined} */
  #timer; // until the next try
  #waits = new Waits();
  #expired = false; // the last stream ended because the token did
  #turn;

  /**
   * @param {Options} options
   * @param {Begin} begin
   * @param {Deliver} deliver
   */
  constructor(options, { after = "", last = 0 }, deliver) {
    this.#options = options;
    this.#position = after;
    this.#resumes = after !== "";
    this.#last = last;
    this.#deliver = deliver;
    this.#turn = new Turn((entries) => this.#deliver(entries));
  }

  /** Begin. */
  start() {
    this.#open();
  }

  /** Somebody wants it now: from waiting, offline and refused. Else it stays as it is. */
  retry() {
    if (["waiting", "offline", "refused"].includes(this.#state.name)) this.#open();
  }

  /** The credentials have changed: a stream that is there ends, and another one resumes after it. */
  renew() {
    if (this.#state.name !== "closed") this.#open();
  }

  /** There is reason to hope: the network is back, or somebody looks. */
  hurry() {
    if (["waiting", "offline"].includes(this.#state.name) && this.#timer !== undefined) this.#open();
  }

  /**
   * There is reason to doubt: `offline` if the network is said to be gone, else a long silence is looked into.
   * @param {boolean} offline
   */
  check(offline) {
    const attempt = this.#attempt;
    if (offline && this.#state.name === "waiting") this.#say({ name: "offline" });
    else if (attempt?.opened && (offline || attempt.silence >= this.#options.quiet * 1000)) this.#ask(attempt);
  }

  /** Let go of the stream, as the page is put aside. `resume` goes on where it was. */
  suspend() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#attempt?.drop();
    this.#attempt = null;
    this.#turn.flush();
  }

  /** After `suspend`. A refusal stays one. */
  resume() {
    if (!["closed", "refused"].includes(this.#state.name)) this.#open();
  }

  close() {
    if (this.#state.name === "closed") return;
    this.suspend();
    this.#state = { name: "closed" };
    this.#turn.close();
  }

  #open() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#attempt?.drop();
    const attempt = (this.#attempt = new Attempt());
    // Offline it is tried all the same, now and then: this machine may have no network, and the feed be on it.
    if (this.#state.name !== "offline" || navigator.onLine !== false) this.#say({ name: "connecting" });
    attempt.watch(OPENING, () => this.#ended(attempt, null, `No answer within ${OPENING / 1000} s.`));
    const { latest, every } = this.#options;
    const begin = this.#position ? { after: this.#position } : { last: this.#last };
    attempt.replays = Boolean(this.#position || this.#last || latest);
    /** @type {Guard} */
    const current = (report) => (...facts) => {
      if (attempt !== this.#attempt || attempt.over) return;
      attempt.heard = performance.now();
      report(...facts);
    };
    try {
      attempt.transport = openTransport(this.#options, { ...begin, every: every && `${every}ms` }, {
        events: current((envelopes, last) => this.#events(attempt, envelopes, last || resumeOf(envelopes.at(-1) ?? ""))),
        control: current((type, id, data) => this.#control(attempt, type, id, data)),
        retry: current((milliseconds) => (attempt.retry = milliseconds)),
        alive: current(() => {}),
        ended: current((answer, detail) => this.#ended(attempt, answer, detail)),
      });
    } catch (error) {
      this.#ended(attempt, null, wordsOf(error));
    }
  }

  /** @param {Attempt} attempt @param {string[]} envelopes @param {string} position */
  #events(attempt, envelopes, position) {
    if (!attempt.opened) return this.#ended(attempt, null, NO_FEED);
    const after = this.#position;
    this.#position = position ||= after;
    if (this.#options.latest) envelopes = envelopes.map(copyOf); // each may be kept for long
    this.#turn.add({ kind: "events", after, position, live: attempt.liveSince !== undefined, envelopes });
  }

  /** @param {Attempt} attempt @param {string} type @param {string} id @param {Control} data */
  #control(attempt, type, id, data) {
    const after = this.#position;
    if (id) this.#position = id;
    const position = this.#position;
    switch (type) {
      case "feed.open":
        attempt.opened = true;
        this.#expired = false;
        this.#turn.add({ kind: "position", after, position });
        attempt.after = position;
        if (attempt.replays) this.#say({ name: "replaying", after: position });
        else this.#live(attempt, 0);
        attempt.watch(this.#options.quiet * 1000, () => this.#quiet(attempt));
        break;
      case "feed.live":
        if (position !== after) this.#turn.add({ kind: "position", after, position });
        this.#live(attempt, data.replayed ?? 0);
        break;
      case "feed.gap":
        attempt.after = position;
        this.#turn.add({
          kind: "gap",
          after,
          position,
          gap: {
            requested: data.requested ?? after,
            resumedFrom: data.resumed_from ?? position,
            reason: data.reason ?? "unknown",
          },
        });
        if (this.#options.latest && attempt.liveSince !== undefined) {
          attempt.liveSince = undefined; // the whole state comes again, and then it is live again
          this.#say({ name: "replaying", after: position });
        }
        break;
      case "feed.closing":
        if (data.reason !== undefined && data.retry !== undefined) {
          attempt.closing = { reason: data.reason, retry: data.retry };
          this.#turn.add({ kind: "closing", closing: { ...attempt.closing } });
        }
        this.#ended(attempt, null, "");
        break;
      default:
        if (position !== after) this.#turn.add({ kind: "position", after, position });
    }
  }

  /** @param {Attempt} attempt @param {number} replayed */
  #live(attempt, replayed) {
    attempt.liveSince = performance.now();
    this.#say({ name: "live", resumed: this.#resumes ? { after: attempt.after, replayed } : null });
    this.#resumes = true; // the next time it will be so
  }

  /**
   * The attempt is over. `answer` says why, if it could be seen.
   * @param {Attempt} attempt
   * @param {Answer | null} answer
   * @param {string} detail
   */
  async #ended(attempt, answer, detail) {
    attempt.end();
    if (attempt.liveSince !== undefined && performance.now() - attempt.liveSince > STEADY) this.#waits.reset();
    const { closing } = attempt;
    if (closing?.reason === "token-expired") this.#expired = true;
    if (closing) return this.#wait(closing.reason, detail, { told: closing.retry });
    if (attempt.opened) return this.#wait("ended", detail, { told: attempt.retry });
    if (navigator.onLine === false) return this.#wait("unreachable", detail);
    // EventSource and WebSocket see no status. A page of history is judged as they are.
    const seen = answer ?? (await readPage(this.#options, { limit: 1 }, attempt.left.signal, ASKING));
    if (attempt !== this.#attempt) return;
    if (seen.status === 200) detail ||= "The feed answers, but its stream does not open: something may hold it up.";
    this.#judge(seen, detail || seen.detail);
  }

  /** @param {Answer} answer @param {string} words */
  #judge(answer, words) {
    const refusal = refusalIn(answer);
    if (!refusal) return this.#wait("unreachable", words, { least: answer.retry });
    const expired = refusal.reason === "unauthenticated" && this.#expired;
    this.#say(expired ? { ...refusal, reason: "expired" } : refusal);
  }

  /**
   * Try again, when the feed said, or after a wait that grows.
   * @param {string} reason
   * @param {string} detail
   * @param {Said} [said]
   */
  #wait(reason, detail, said = {}) {
    const delay = this.#waits.next(said);
    this.#timer = setTimeout(() => this.#open(), delay);
    if (navigator.onLine === false) this.#say({ name: "offline" });
    else this.#say({ name: "waiting", retryAt: Date.now() + delay, reason, detail });
  }

  /** @param {Attempt} attempt */
  #quiet(attempt) {
    const left = this.#options.quiet * 1000 - attempt.silence;
    if (left <= 0) this.#ask(attempt);
    else attempt.watch(left, () => this.#quiet(attempt));
  }

  /** A silent stream may be a quiet feed, or dead: a proxy buffers it, a NAT has forgotten it. Ask for what it must
   * have brought.
   * @param {Attempt} attempt
   */
  async #ask(attempt) {
    if (attempt.asking) return;
    attempt.asking = true;
    const { heard } = attempt;
    const asked = this.#position;
    const begin = { limit: 1, after: asked };
    const { status, page, ours, detail } = await readPage(this.#options, begin, attempt.left.signal, ASKING);
    if (attempt !== this.#attempt || attempt.over) return;
    if (page && (page.envelopes.length > 0 || page.gap)) await attempt.pause(ARRIVING + (this.#options.every ?? 0));
    if (attempt !== this.#attempt || attempt.over) return;
    attempt.asking = false;
    const alive =
      attempt.heard !== heard ||
      (page && page.envelopes.length === 0 && !page.gap) ||
      (BUSY.has(status) && ours); // it has no time for pages, which says nothing of the stream
    if (alive) {
      attempt.heard = performance.now();
      attempt.watch(this.#options.quiet * 1000, () => this.#quiet(attempt));
    } else if (page) {
      this.#open();
    } else {
      attempt.end();
      this.#wait("unreachable", detail);
    }
  }

  /** @param {State} state */
  #say(state) {
    this.#state = state;
    this.#turn.add({ kind: "state", state });
    this.#turn.flush();
  }
}

/** One try: its transport, what has been seen of it, and its timer. */
class Attempt {
  /** @type {OpenTransport | null} */
  transport = null;
  opened = false;
  replays = false;
  after = "";
  /** @type {number | undefined} */
  liveSince;
  /** @type {Closing | null} */
  closing = null;
  /** @type {number | undefined} */
  retry;
  heard = performance.now();
  asking = false;
  over = false;
  /** Ends what is being asked on its behalf. */
  left = new AbortController();
  /** @type {number | undefined} */
  #timer;

  /** Milliseconds since anything was heard. */
  get silence() {
    return performance.now() - this.heard;
  }

  /** One timer at a time. @param {number} delay @param {() => void} then */
  watch(delay, then) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(then, delay);
  }

  /** @param {number} delay @returns {Promise<void>} */
  pause(delay) {
    return new Promise((resolve) => {
      this.watch(delay, resolve);
    });
  }

  /** The stream is over; why may still be asked. */
  end() {
    this.over = true;
    clearTimeout(this.#timer);
    this.transport?.close();
  }

  /** Nobody wants to know anything of it any more. */
  drop() {
    this.end();
    this.left.abort();
  }
}

/** Collects what arrives in one turn of the event loop, and under load in one moment, into one list. */
class Turn {
  #deliver;
  /** @type {Entry[]} */
  #entries = [];
  #together = 0;
  #due = false;
  #flushed = -Infinity;
  #delivering = false;
  #channel = new MessageChannel(); // a hidden page's timers are held back by a second and more, and this is not

  /** @param {Deliver} deliver */
  constructor(deliver) {
    this.#deliver = deliver;
    this.#channel.port1.onmessage = () => this.flush();
  }

  /** @param {Entry} entry */
  add(entry) {
    const before = this.#entries.at(-1);
    if (entry.kind === "events" && before?.kind === "events" && before.live === entry.live) {
      for (const envelope of entry.envelopes) before.envelopes.push(envelope);
      before.position = entry.position;
    } else {
      this.#entries.push(entry);
    }
    this.#together += entry.envelopes?.length ?? 1;
    if (this.#together >= MOST_TOGETHER) this.flush();
    else if (!this.#due) this.#schedule();
  }

  #schedule() {
    this.#due = true;
    const since = performance.now() - this.#flushed;
    if (since > TURN || globalThis.document?.hidden) this.#channel.port2.postMessage(null);
    else setTimeout(() => this.flush(), TURN - since);
  }

  /** In order, also where somebody who is told something does something about it at once. */
  flush() {
    this.#due = false;
    if (this.#delivering) return;
    this.#delivering = true;
    try {
      while (this.#entries.length > 0) {
        const entries = this.#entries;
        this.#entries = [];
        this.#together = 0;
        this.#flushed = performance.now();
        this.#deliver(entries);
      }
    } finally {
      this.#delivering = false;
    }
  }

  close() {
    this.#channel.port1.close();
  }
}
