// One connection for several tabs: it passes on what comes to all that have joined, and ends when the last one leaves.
//
// It lives in a SharedWorker, or in the tab that was elected. It keeps no events: a tab that needs earlier ones reads
// pages of history. What a tab has not yet confirmed is bounded: beyond that it is sent no events until it has caught
// up with what it was sent, and finds by `after` that it has missed some. So one stuck tab costs nobody else anything.
//
// Of a connection with the state it keeps the state, and gives it, whole, to who joins or has missed something: the log
// is read once, however many tabs there are, and what tabs hold agrees.

import { Connection } from "./connection.js";
import { eventOf } from "./event.js";
import { Fold } from "./fold.js";

/** @import { Cost, Entry, FromHub, Options, Port, State, ToHub } from "./types.js" */

/** In every name that tabs share: tabs with another protocol are among themselves. */
export const PROTOCOL = 2;

// What one tab may have under way.
const MOST_EVENTS = 20_000;
const MOST_CHARACTERS = 16 << 20;

export class Hub {
  /** @type {Set<Member>} */
  #members = new Set();
  #connection;
  #empty;
  /** @type {State} */
  #state = { name: "connecting" };
  #position;
  /** @type {Fold<string> | null} envelopes; null: what comes is not the state */
  #fold;

  /**
   * @param {Options} options
   * @param {string} after where to go on, if somebody had a connection before; "": now
   * @param {() => void} empty called when the last one has left
   */
  constructor(options, after, empty) {
    this.#position = after;
    this.#empty = empty;
    this.#fold = options.latest ? new Fold() : null;
    this.#connection = new Connection(options, { after }, (entries) => this.#pass(entries));
    this.#connection.start();
  }

  /**
   * Take a tab on.
   * @param {Port} port
   * @param {() => void} left called when it has left
   * @returns {() => void} lets go of it
   */
  add(port, left = () => {}) {
    const member = new Member(port, left, (message) => this.#heard(member, message));
    const leave = () => this.#remove(member);
    this.#members.add(member);
    if (this.#state.name === "refused") this.#connection.retry(); // it may bring a new token
    port.addEventListener("close", leave); // of a port whose tab is gone, where the browser says so
    const joined = { state: this.#state, position: this.#position };
    member.send(this.#fold ? { joined, entries: this.#whole(this.#fold) } : { joined });
    return leave;
  }

  close() {
    const members = [...this.#members];
    this.#members.clear(); // who looks for another hub now need not hear that this connection is closed
    for (const member of members) member.close();
    this.#connection.close();
  }

  /** @param {Member} member */
  #remove(member) {
    if (!this.#members.delete(member)) return;
    member.close();
    if (this.#members.size > 0) return;
    this.#connection.close();
    this.#empty();
  }

  /** @param {Entry[]} entries */
  #pass(entries) {
    for (const entry of entries) {
      if (entry.kind === "state") this.#state = entry.state;
      if (this.#fold) note(this.#fold, entry);
      this.#position = entry.position ?? this.#position;
    }
    const cost = costOf(entries);
    // With the state a tab that is behind is told nothing more: "live" would not be true of it.
    const unplaced = this.#fold ? [] : entries.filter(({ after }) => after === undefined);
    for (const member of this.#members) member.pass(entries, cost, unplaced);
  }

  /** What brings a tab to where the hub is, if it has missed something. @returns {Entry[]} */
  #rest() {
    if (this.#fold) return this.#whole(this.#fold);
    return [{ kind: "position", after: this.#position, position: this.#position }];
  }

  /** @param {Fold<string>} fold @returns {Entry[]} */
  #whole(fold) {
    const after = this.#position;
    return [
      { kind: "anew", position: after },
      { kind: "events", after, position: after, live: false, envelopes: fold.known() },
      { kind: "state", state: this.#state },
    ];
  }

  /** @param {Member} member @param {ToHub} message */
  #heard(member, message) {
    if (message.ack) member.acknowledge(message.ack, () => this.#rest());
    else if (message.ping) member.send({ pong: true });
    else if (message.leave) this.#remove(member);
    else if (message.retry) this.#connection.retry();
    else if (message.renew) this.#connection.renew();
    else if (message.hurry) this.#connection.hurry();
    else if (message.check) this.#connection.check(message.check === "offline");
  }
}

/** @param {Fold<string>} fold @param {Entry} entry */
function note(fold, entry) {
  if (entry.kind === "gap") fold.forget();
  else if (entry.kind === "state" && entry.state.name === "live") fold.complete();
  for (const envelope of entry.envelopes ?? []) fold.add(eventOf(envelope, false), envelope);
}

/** @param {Entry[]} entries @returns {Cost} */
function costOf(entries) {
  let events = 0;
  let characters = 0;
  for (const { envelopes = [] } of entries) {
    events += envelopes.length;
    for (const envelope of envelopes) characters += envelope.length;
  }
  return { events, characters };
}

/** A tab, as the hub sees it. */
class Member {
  #port;
  #events = 0;
  #characters = 0;
  #behind = false;
  #left;

  /** @param {Port} port @param {() => void} left @param {(message: ToHub) => void} heard */
  constructor(port, left, heard) {
    this.#port = port;
    this.#left = left;
    port.onmessage = ({ data }) => heard(data);
  }

  /** @param {FromHub} message */
  send(message) {
    this.#port.postMessage(message);
  }

  /** @param {Entry[]} entries @param {Cost} cost @param {Entry[]} unplaced those that a tab that is behind is sent */
  pass(entries, cost, unplaced) {
    if (this.#events + cost.events > MOST_EVENTS || this.#characters + cost.characters > MOST_CHARACTERS) {
      // A single one that is larger than the bound has to get through all the same.
      this.#behind ||= this.#events > 0;
    }
    if (this.#behind) {
      if (unplaced.length > 0) this.send({ entries: unplaced });
      return;
    }
    this.#events += cost.events;
    this.#characters += cost.characters;
    this.send(cost.events > 0 ? { entries, cost } : { entries });
  }

  /** @param {Cost} cost @param {() => Entry[]} rest what it has missed, and how to go on */
  acknowledge({ events, characters }, rest) {
    this.#events -= events;
    this.#characters -= characters;
    if (!this.#behind || this.#events > 0) return;
    this.#behind = false;
    this.send({ entries: rest() }); // not counted: what it weighs is bounded by what there is
  }

  close() {
    this.#port.onmessage = null;
    this.#port.close();
    this.#left();
  }
}
