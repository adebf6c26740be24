// The dashboard's state and what can be done to it. What it looks like is page.js's, when it is drawn painter.js's.

import { connect } from "../feed.js";
import { copied } from "./copying.js";
import { History } from "./history.js";
import { passOf } from "./filter.js";
import { Publisher } from "./publish.js";
import { replay } from "./replay.js";
import { KEPT, Rows } from "./rows.js";
import { signIn, signOut } from "./session.js";
import { described } from "./status.js";
import { nextTheme } from "./theme.js";
import { Topics } from "./topics.js";
import { placeOf } from "./travel.js";
import { EVERYTHING, writeView } from "./view.js";

const BEGIN_WITH = 200; // events shown at first
const PAGE = 200; // events of one page of the past
const MOST_TYPES = 200; // told apart
const SEARCHED = 10; // pages that one wish for older events may read where none of them passes the filter

/** Everything the page shows, and its actions. */
export class Dashboard {
  /** @type {import("./view.js").View} */
  view;
  base;
  feed;
  /** What came, and comes. */
  live;
  /** What is shown instead: null while the list follows the feed, else `{ rows, reason, fresh, newest, oldest }`. */
  frozen = null;
  selected = null;
  tab = "data"; // of the inspector
  inspecting = false;
  topics = new Topics();
  /** @type {Map<string, number>} */
  types = new Map();
  search = "";
  /** @type {Map<string, boolean>} folded or not, by path; by depth where nobody has said */
  open = new Map();
  patternError = "";
  filterError = "";
  gap = null;
  publisher;
  publishing = false;
  travel = { open: false, place: "", from: "", to: "", speed: 1, error: "", busy: false, replay: null };
  session = { open: false, error: "", busy: false, expires: null, used: false };
  pane = "events";
  single = true; // keys of one character
  loadingOlder = false;
  noOlder = false;
  said = ""; // the summary for screen readers
  rate = 0;
  #painter;
  #pictures;
  #list;
  #history;
  #past = new AbortController(); // what is being read of the past
  #arrived = 0; // events since the last tick

  #ride = null;

  constructor({ base, view, painter }) {
    this.base = base;
    this.view = view;
    this.#painter = painter;
    this.publisher = new Publisher(base, () => painter.now());
    this.live = new Rows(this.#pass());
  }

  /** The parts of the page that draw themselves. */
  begin(list, pictures) {
    this.#list = list;
    this.#pictures = pictures;
    this.#subscribe();
  }

  get rows() {
    return this.frozen?.rows ?? this.live;
  }

  get state() {
    return this.feed?.state ?? { name: "connecting" };
  }

  get word() {
    return described(this.state, null, 0).word;
  }

  get lastEventId() {
    return this.feed?.lastEventId ?? "";
  }

  /** Milliseconds that events take to get here, now; null if that is not known. */
  get delay() {
    return this.#pictures?.delay?.now ?? null;
  }

  delayOf(row) {
    return row.delay === null ? null : row.delay + (this.#pictures.clock?.offset ?? 0);
  }

  /** Whether a command to copy has to have a token. */
  get withToken() {
    return this.session.used || this.state.name === "refused";
  }

  /* The connection */

  #subscribe() {
    this.feed?.close();
    this.#past.abort();
    const { topics, transport } = this.view;
    this.#history = new History({ base: this.base, topics });
    const feed = connect({ base: this.base, topics, transport, last: BEGIN_WITH });
    this.feed = feed;
    const mine = (listener) => (event) => {
      if (feed === this.feed) listener(event.detail);
    };
    feed.addEventListener("events", mine((events) => this.#received(events)));
    feed.addEventListener("state", mine(() => this.#stateChanged()));
    feed.addEventListener("gap", mine((gap) => this.#gapSeen(gap)));
    feed.addEventListener("position", mine(() => this.#painter.soon()));
  }

  #received(events) {
    const passed = this.live.append(events);
    if (this.frozen) this.frozen.fresh += passed;
    this.topics.add(events);
    for (const { type, live } of events) {
      if (this.types.has(type) || this.types.size < MOST_TYPES) this.types.set(type, (this.types.get(type) ?? 0) + 1);
      if (live) this.#arrived += 1;
    }
    this.#pictures.add(events, Date.now());
    this.publisher.arrived(events, performance.now());
    this.#painter.soon();
  }

  #stateChanged() {
    const { state } = this;
    if (state.name === "refused" && ["unauthenticated", "expired"].includes(state.reason)) this.session.open = true;
    if (state.name === "live") this.session.open = false;
    this.#painter.now();
  }

  #gapSeen(gap) {
    this.gap = gap;
    this.#painter.now();
  }

  /** A second has passed. */
  second(now) {
    this.topics.tick();
    this.rate += 0.3 * (this.#arrived - this.rate);
    this.#arrived = 0;
    this.#pictures.tick(now);
    this.#painter.soon();
  }

  retry() {
    this.feed.retry();
  }

  transport(name) {
    this.view.transport = name;
    this.#share();
    this.#again();
  }

  dismissGap() {
    this.gap = null;
    this.#painter.now();
  }

  /** Forget what is shown, and subscribe anew. */
  #again() {
    this.#thaw();
    this.live.clear();
    this.topics.clear();
    this.types.clear();
    this.noOlder = false;
    this.gap = null;
    this.select(null);
    this.#subscribe();
    this.#painter.now();
  }

  /* What is shown */

  #pass() {
    try {
      this.filterError = "";
      return passOf(this.view);
    } catch (error) {
      this.filterError = error.message;
      return passOf({ ...this.view, filter: "" });
    }
  }

  #refilter() {
    const pass = this.#pass();
    this.live.filter(pass);
    this.frozen?.rows.filter(pass);
    this.#share();
    this.#painter.now();
  }

  #share() {
    history.replaceState(null, "", location.pathname + writeView(this.view));
  }

  filter(text) {
    this.view.filter = text;
    this.#refilter();
  }

  toggleRegex() {
    this.view.regex = !this.view.regex;
    this.#refilter();
  }

  type(name) {
    this.view.type = name;
    this.#refilter();
  }

  tick(path, ticked) {
    if (ticked) this.view.show.add(path);
    else this.view.show.delete(path);
    this.#refilter();
  }

  showAll() {
    this.view.show.clear();
    this.#refilter();
  }

  chart(choice) {
    this.view.chart = choice;
    this.#share();
  }

  resetFilter() {
    Object.assign(this.view, { filter: "", type: "" });
    this.showAll();
  }

  searchTopics(text) {
    this.search = text;
    this.#painter.now();
  }

  fold(path, open) {
    this.open.set(path, open);
    this.#painter.now();
  }

  addPattern(pattern) {
    const { topics } = this.view;
    if (!pattern || topics.includes(pattern)) return;
    this.view.topics = topics.length === 1 && topics[0] === EVERYTHING ? [pattern] : [...topics, pattern];
    this.#share();
    this.#again();
  }

  removePattern(pattern) {
    const left = this.view.topics.filter((topic) => topic !== pattern);
    this.view.topics = left.length ? left : [EVERYTHING];
    this.#share();
    this.#again();
  }

  /* Pausing, and going on */

  /** Keep the list as it is; what comes is counted. */
  freeze(reason) {
    if (this.frozen) {
      if (reason === "pause") this.frozen.reason = reason;
      return;
    }
    this.frozen = { rows: this.live.copy(), reason, fresh: 0, atEnd: true };
    this.#painter.now();
  }

  #thaw() {
    this.#past.abort();
    this.travel.replay = null;
    this.frozen = null;
  }

  togglePause() {
    if (this.frozen) this.newest();
    else this.freeze("pause");
  }

  /** Follow the feed again. */
  newest() {
    this.#thaw();
    this.noOlder = false;
    this.select(null);
    this.#list.toTop();
    this.#painter.now();
  }

  scrolled(top) {
    if (!top) this.freeze("scroll");
    else if (this.frozen?.reason === "scroll") this.newest();
    else if (this.frozen?.reason === "past") this.#loadNewer();
  }

  clear() {
    this.live.clear();
    this.frozen?.rows.clear();
    this.select(null);
    this.#painter.now();
  }

  /* One row */

  select(row, inspect = this.inspecting) {
    this.selected = row;
    this.inspecting = Boolean(row) && inspect;
    if (this.inspecting) this.publishing = false; // there is room for one of them
    if (row) this.freeze("select");
    this.#painter.now();
  }

  openRow(row = this.selected) {
    if (row) this.select(row, true);
  }

  closeRow() {
    this.inspecting = false;
    if (this.frozen?.reason === "select") this.newest();
    this.#list.focus();
    this.#painter.now();
  }

  /** To another row: `by` further down, which is older. */
  move(by) {
    const { shown } = this.rows;
    if (!shown.length) return;
    const at = this.selected ? shown.findIndex((row) => row.n === this.selected.n) : -1;
    const next = at < 0 ? shown.length - 1 : Math.min(shown.length - 1, Math.max(0, at - by));
    this.select(shown[next]);
    this.#list.show(this.rows.shown, this.selected);
    this.#list.reveal(this.selected);
    if (next === 0 && by > 0) this.loadOlder();
  }

  movePage(direction) {
    this.move(direction * this.#list.page);
  }

  showTab(name) {
    this.tab = name;
    this.#painter.now();
  }

  /* The past */

  /** Read on backwards, until something passes the filter. */
  async loadOlder() {
    if (this.loadingOlder || this.noOlder || this.travel.replay) return;
    this.freeze("scroll");
    const { frozen } = this;
    const signal = this.#reading();
    this.loadingOlder = true;
    this.#painter.now();
    try {
      for (let pages = 0; pages < SEARCHED; pages++) {
        const before = frozen.rows.all[0]?.event.id;
        const page = await (before ? this.#history.older(before, PAGE, signal) : this.#history.newest(PAGE, signal));
        if (signal.aborted) return;
        this.noOlder = page.end;
        const passed = frozen.rows.prepend(page.events);
        // They stay when the list goes on, where there is room for them.
        if (frozen.atEnd && this.live.all.length + page.events.length <= KEPT) this.live.prepend(page.events);
        this.topics.add(page.events);
        if (passed || page.end) break;
      }
    } catch (error) {
      if (!signal.aborted) this.travel = { ...this.travel, open: true, error: error.message };
    } finally {
      this.loadingOlder = false;
      this.#painter.now();
    }
  }

  async #loadNewer() {
    const { frozen } = this;
    if (this.travel.busy || frozen.atEnd || !frozen.rows.all.length) return;
    await this.#travelling(async (signal) => {
      const page = await this.#history.newer(frozen.rows.all.at(-1).event.id, PAGE, signal);
      if (signal.aborted) return;
      frozen.rows.append(page.events);
      frozen.atEnd = page.end;
    });
  }

  set(name, value) {
    this.travel[name] = value;
    this.#painter.now();
  }

  /** To an id or a time. */
  async go() {
    const place = placeOf(this.travel.place);
    if (!place) {
      this.#travelError("Say an id, a time such as 14:05 or 2026-11-21 14:05, or how long ago: 10 min.");
      return;
    }
    await this.#travelling(async (signal) => {
      const page = await (place.id ? this.#history.at(place.id, PAGE, signal) : this.#history.since(place.time, PAGE, signal));
      if (signal.aborted) return;
      if (!page.events.length) {
        this.#travelError("There are no events from there on.");
        return;
      }
      const rows = new Rows(this.#pass());
      rows.append(page.events);
      this.frozen = { rows, reason: "past", fresh: 0, atEnd: page.end };
      this.noOlder = false;
      if (page.gap) this.#gapSeen(toldByPage(page.gap));
      const first = rows.shown.find((row) => row.event.id === place.id) ?? rows.shown[0] ?? null;
      this.select(first, false);
      this.#list.show(rows.shown, first);
      if (first) this.#list.reveal(first);
    });
  }

  /** Have a range happen again, in this list. */
  async replay() {
    const from = this.travel.from.trim() ? placeOf(this.travel.from) : {};
    const to = this.travel.to.trim() ? placeOf(this.travel.to) : {};
    if (!from || !to) {
      this.#travelError(`${from ? "The end" : "The beginning"} is neither an id nor a time.`);
      return;
    }
    const rows = new Rows(this.#pass());
    await this.#travelling(async (signal) => {
      this.select(null);
      this.frozen = { rows, reason: "replay", fresh: 0, atEnd: false };
      this.noOlder = true;
      this.#list.toTop();
      const state = { done: 0, at: "", skipped: 0, paused: false, over: "" };
      this.travel.replay = state;
      const ride = replay({
        history: this.#history,
        from: from.id ?? from.time ?? null,
        to: to.id ?? to.time ?? null,
        speed: this.travel.speed,
        signal,
        emit: (events) => {
          rows.append(events);
          this.#painter.soon();
        },
        gap: (gap) => this.#gapSeen(toldByPage(gap)),
        progress: (progress) => {
          Object.assign(state, progress);
          this.#painter.soon();
        },
      });
      this.#ride = ride;
      try {
        await ride.done;
        state.over = "That was all of it.";
      } catch (error) {
        if (!signal.aborted) throw error;
        state.over = "Stopped.";
      }
    });
  }

  pauseReplay() {
    const { replay: state } = this.travel;
    state.paused = !state.paused;
    if (state.paused) this.#ride.pause();
    else this.#ride.resume();
    this.#painter.now();
  }

  stopReplay() {
    this.#past.abort();
  }

  speed(speed) {
    this.travel.speed = speed;
    if (this.travel.replay && !this.travel.replay.over) this.#ride.speed = speed;
    this.#painter.now();
  }

  #reading() {
    this.#past.abort();
    this.#past = new AbortController();
    return this.#past.signal;
  }

  async #travelling(work) {
    const signal = this.#reading();
    this.travel.busy = true;
    this.travel.error = "";
    this.#painter.now();
    try {
      await work(signal);
    } catch (error) {
      if (!signal.aborted) this.travel.error = error.message;
    } finally {
      this.travel.busy = false;
      this.#painter.now();
    }
  }

  #travelError(text) {
    this.travel.error = text;
    this.#painter.now();
  }

  /* Panels, and the token */

  togglePublish(open = !this.publishing) {
    this.publishing = open;
    if (open) this.inspecting = false;
    this.#painter.now();
    this.#focus(open ? "#topic" : "#list");
  }

  toggleTravel(open = !this.travel.open) {
    this.travel.open = open;
    if (!open && this.travel.replay) this.newest();
    this.#painter.now();
    this.#focus(open ? "[data-testid=travel-place]" : "#list");
  }

  toggleSession(open = !this.session.open) {
    this.session.open = open;
    this.session.error = "";
    this.#painter.now();
    this.#focus(open ? "[data-testid=token-field]" : "#list");
  }

  show(pane) {
    this.pane = pane;
    this.#painter.now();
  }

  theme() {
    nextTheme();
    this.#pictures.theme();
    this.#painter.now();
  }

  keys(single) {
    this.single = single;
    this.#painter.now();
  }

  help() {
    document.getElementById("help").showModal();
  }

  async copyId(button) {
    await copied(button, this.lastEventId);
  }

  /** What screen readers are told now and then; the list itself would flood them. */
  summarise() {
    const rate = Math.round(this.rate);
    const fresh = this.frozen?.fresh ? `, ${this.frozen.fresh} new since it was paused` : "";
    this.said = `${this.word}. ${this.rows.all.length} events kept${rate ? `, ${rate} a second` : ""}${fresh}.`;
    this.#painter.soon();
  }

  /** What a key does (see keys.js). Gives whether it did anything. */
  act(action) {
    const actions = {
      pause: () => this.togglePause(),
      nextRow: () => this.move(1),
      previousRow: () => this.move(-1),
      nextPage: () => this.movePage(1),
      previousPage: () => this.movePage(-1),
      openRow: () => this.openRow(),
      newest: () => this.newest(),
      loadOlder: () => this.loadOlder(),
      clear: () => this.clear(),
      toggleTravel: () => this.toggleTravel(),
      togglePublish: () => this.togglePublish(),
      retry: () => this.retry(),
      theme: () => this.theme(),
      help: () => this.help(),
      escape: () => this.#escape(),
      focusFilter: () => this.#focus("[data-testid=filter]", "events"),
      focusTopics: () => this.#focus("#topics", "topics"),
      focusEvents: () => this.#focus("#list", "events"),
      focusPictures: () => this.#focus("#pictures", "pictures"),
    };
    return actions[action]() !== false;
  }

  #escape() {
    if (document.querySelector("dialog[open]")) return false; // it closes by itself
    if (this.session.open) this.toggleSession(false);
    else if (this.inspecting) this.closeRow();
    else if (this.publishing) this.togglePublish(false);
    else if (this.travel.open) this.toggleTravel(false);
    else this.#focus("#list");
    return true;
  }

  // At once, as the next key may follow; what is not there yet, once it is drawn.
  #focus(selector, pane = this.pane) {
    this.pane = pane;
    this.#painter.now();
    const element = document.querySelector(selector);
    if (element?.checkVisibility()) element.focus();
    else requestAnimationFrame(() => document.querySelector(selector)?.focus());
  }

  async signIn(token) {
    await this.#signing(async () => {
      const claims = await signIn(this.base, token);
      this.session.used = true;
      this.session.open = false;
      this.session.expires = claims.expires;
      const { topics } = this.view;
      const everything = topics.length === 1 && topics[0] === EVERYTHING;
      // The default view is more than this token may see: what it may is what its bearer wants.
      if (everything && claims.subscribe.length && !claims.subscribe.includes(EVERYTHING)) {
        this.view.topics = claims.subscribe.slice(0, 100);
        this.#share();
        this.#again();
      } else this.feed.retry();
    });
  }

  async signOut() {
    await this.#signing(async () => {
      await signOut(this.base);
      this.session.expires = null;
      this.#again();
    });
  }

  async #signing(work) {
    if (this.session.busy) return;
    this.session.busy = true;
    this.session.error = "";
    this.#painter.now();
    try {
      await work();
    } catch (error) {
      this.session.error = error.message;
    } finally {
      this.session.busy = false;
      this.#painter.now();
    }
  }
}

// A page of history says it in the contract's words, a stream's event in those of JavaScript.
function toldByPage({ requested, resumed_from: resumedFrom, reason }) {
  return { requested, resumedFrom, reason };
}
