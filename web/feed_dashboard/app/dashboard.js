// The dashboard's state and what can be done to it. What it looks like is page.js's, when it is drawn painter.js's.

import { connect } from "../feed.js";
import { readPage, refusalIn, wordsOf } from "../feed/history.js";
import { copied } from "./copying.js";
import { passOf } from "./filter.js";
import { contentOf } from "./inspector.js";
import { Publisher } from "./publish.js";
import { Session } from "./session.js";
import { described } from "./status.js";
import { applyTheme, chosenTheme, themeAfter } from "./theme.js";
import { Timeline } from "./timeline.js";
import { Topics } from "./topics.js";
import { EVERYTHING, writeView } from "./view.js";

/** @import { Action, Asked, Choice, Feed, FeedEvent, Gap, List, Painter, Pane, Pictures, Row, State, Tab, Transport, View } from "./types.js" */

const BEGIN_WITH = 200; // events shown at first
const MOST_PATTERNS = 100; // that the server takes
const MOST_TYPES = 200; // told apart
const ASK_MS = 5_000;
const SMOOTHING = 0.3; // of the rate, for a second

/** Everything the page shows, and its actions. */
export class Dashboard {
  /** @type {View} */
  view;
  base;
  timeline;
  /** @type {Row | null} */
  selected = null;
  inspecting = false;
  /** @type {Tab} */
  tab = "data"; // of the inspector
  topics = new Topics();
  /** @type {Map<string, number>} */
  types = new Map();
  search = "";
  /** @type {Map<string, boolean>} branches that somebody has folded or unfolded */
  open = new Map();
  filterError = "";
  patternError = "";
  /** A regular expression that came with the address, and may take for ever: somebody has to want it. */
  regexHeld;
  /** @type {Gap | null} */
  gap = null;
  publisher;
  publishing = false;
  session;
  /** Whether the application around the feed knows who looks: then nobody is asked for a token. */
  ownLogin;
  theme = chosenTheme();
  /** @type {Pane} */
  pane = "events"; // the one that is seen where there is room for one
  single = true; // keys of one character do something
  said = ""; // the summary for screen readers
  /** @type {{row?: Row, tab?: Tab, text: string}} */
  #content = { text: "" }; // of the inspector, as it was laid out last
  /** @type {Feed | undefined} */
  #feed;
  #painter;
  /** @type {Pictures | undefined} */
  #pictures;
  /** @type {List | undefined} */
  #list;
  #asking = new AbortController(); // the last pattern that the server was asked about
  #arrived = 0; // events in this second
  #rate = 0;

  /** @param {{base: URL, view: View, painter: Painter, ownLogin?: boolean}} parts */
  constructor({ base, view, painter, ownLogin = false }) {
    this.base = base;
    this.ownLogin = ownLogin;
    this.view = view;
    this.regexHeld = view.regex && view.filter !== "";
    this.#painter = painter;
    const changed = () => painter.now();
    this.publisher = new Publisher(base, changed);
    this.session = new Session(base, changed);
    this.timeline = new Timeline(base, this.#pass(), {
      soon: () => painter.soon(),
      now: changed,
      gap: (gap) => this.#gapSeen(gap),
      older: (events) => this.topics.add(events),
    });
  }

  /** Start, once the parts of the page that draw themselves are there. @param {List} list @param {Pictures} pictures */
  begin(list, pictures) {
    this.#list = list;
    this.#pictures = pictures;
    this.#subscribe();
  }

  /** @returns {State} */
  get state() {
    return this.#feed?.state ?? { name: "connecting" };
  }

  /* With what the feed refuses; "" where it does not. */
  get #refusal() {
    return this.state.name === "refused" ? this.state.reason : "";
  }

  get word() {
    return described(this.state, 0, this.ownLogin).word;
  }

  get lastEventId() {
    return this.#feed?.lastEventId ?? "";
  }

  /** Whether there are types that are not told apart. */
  get moreTypes() {
    return this.types.size >= MOST_TYPES;
  }

  /** The milliseconds that events take to get here now, null if that is not known, and how well it is known. */
  get delay() {
    return { now: this.#pictures?.delay.now ?? null, clock: this.#pictures?.clock ?? null };
  }

  /** What the inspector shows: laid out once, and not with each of ten paintings a second. */
  get content() {
    const { selected, tab } = this;
    if (selected && (this.#content.row !== selected || this.#content.tab !== tab)) {
      this.#content = { row: selected, tab, text: contentOf(selected.event, tab) };
    }
    return this.#content.text;
  }

  /** Whether a command to copy has to have a token. */
  get withToken() {
    if (this.ownLogin) return false;
    return this.session.used || ["unauthenticated", "expired", "forbidden"].includes(this.#refusal);
  }

  /* The connection */

  #subscribe() {
    this.#feed?.close();
    const { topics, transport } = this.view;
    this.timeline.begin(topics);
    const feed = connect({ base: this.base, topics, transport, last: BEGIN_WITH });
    this.#feed = feed;
    /** @template D @param {(detail: D) => void} listener @returns {(event: CustomEvent<D>) => void} */
    const mine = (listener) => (event) => {
      if (feed === this.#feed) listener(event.detail);
    };
    feed.addEventListener("events", mine((events) => this.#received(events)));
    feed.addEventListener("state", mine(() => this.#stateChanged()));
    feed.addEventListener("gap", mine((gap) => this.#gapSeen(gap)));
    feed.addEventListener("position", mine(() => this.#painter.soon()));
  }

  /** @param {FeedEvent[]} events */
  #received(events) {
    this.timeline.received(events);
    this.topics.add(events);
    for (const { type, live } of events) {
      if (this.types.has(type) || this.types.size < MOST_TYPES) this.types.set(type, (this.types.get(type) ?? 0) + 1);
      if (live) this.#arrived += 1;
    }
    this.#pictures?.add(events, Date.now());
    this.publisher.arrived(events, performance.now());
    this.#painter.soon();
  }

  #stateChanged() {
    if (!this.ownLogin && ["unauthenticated", "expired"].includes(this.#refusal)) this.session.open = true;
    if (this.state.name === "live") this.session.open = false;
    this.#painter.now();
  }

  /** @param {Gap} gap */
  #gapSeen(gap) {
    this.gap = gap;
    this.#painter.now();
  }

  /** A second has passed. @param {number} now */
  second(now) {
    this.topics.tick();
    this.#rate += SMOOTHING * (this.#arrived - this.#rate);
    this.#arrived = 0;
    this.#pictures?.tick(now);
    this.#painter.soon();
  }

  retry() {
    this.#feed?.retry();
  }

  /** @param {Transport} name */
  transport(name) {
    this.view.transport = name;
    this.#share();
    this.#again();
  }

  dismissGap() {
    this.gap = null;
    this.#painter.now();
  }

  /* Forget what is shown, and subscribe anew. */
  #again() {
    this.topics.clear();
    this.types.clear();
    this.gap = null;
    this.selected = null;
    this.inspecting = false;
    this.patternError = "";
    this.#subscribe();
    this.#list?.toTop();
    this.#painter.now();
  }

  /* The view */

  #pass() {
    try {
      this.filterError = "";
      return passOf(this.regexHeld ? { ...this.view, filter: "" } : this.view);
    } catch (error) {
      this.filterError = wordsOf(error);
      return passOf({ ...this.view, filter: "" });
    }
  }

  #refilter() {
    this.timeline.filter(this.#pass());
    this.#share();
    this.#painter.now();
  }

  #share() {
    try {
      history.replaceState(null, "", location.pathname + writeView(this.view));
    } catch {
      // Some browsers allow it a hundred times in half a minute: then a later change takes this one along.
    }
  }

  /** @param {string} text */
  filter(text) {
    this.regexHeld = false;
    this.view.filter = text;
    this.#refilter();
  }

  toggleRegex() {
    if (!this.regexHeld) this.view.regex = !this.view.regex;
    this.regexHeld = false;
    this.#refilter();
  }

  /** @param {string} name */
  type(name) {
    this.view.type = name;
    this.#refilter();
  }

  /**
   * Show this topic and what is below it, and what else is ticked; none ticked: all.
   * @param {string} path
   * @param {boolean} ticked
   */
  tick(path, ticked) {
    if (ticked) this.view.show.add(path);
    else this.view.show.delete(path);
    this.#refilter();
  }

  showAll() {
    this.view.show.clear();
    this.#refilter();
  }

  resetFilter() {
    Object.assign(this.view, { filter: "", type: "" });
    this.showAll();
  }

  /** @param {Choice | null} choice */
  chart(choice) {
    this.view.chart = choice;
    this.#share();
  }

  /** @param {string} text */
  searchTopics(text) {
    this.search = text;
    this.#painter.now();
  }

  /** @param {string} path @param {boolean} open */
  fold(path, open) {
    this.open.set(path, open);
    this.#painter.now();
  }

  /**
   * Subscribe to a pattern too, if the server takes it; the first one takes the place of everything.
   * @param {string} pattern
   */
  async addPattern(pattern) {
    if (!pattern) return;
    /** @type {Asked} */
    const asked = { base: String(this.base), topics: [pattern], types: [], credentials: "same-origin" };
    this.#asking.abort();
    this.#asking = new AbortController();
    const { signal } = this.#asking;
    const answer = await readPage(asked, { limit: 1 }, signal, ASK_MS);
    if (signal !== this.#asking.signal) return;
    this.patternError = refusalIn(answer)?.detail ?? ""; // else something is wrong with the server, and not with it
    const { topics } = this.view;
    if (this.patternError || topics.includes(pattern) || topics.length >= MOST_PATTERNS) this.#painter.now();
    else this.#patterns(this.#seesEverything ? [pattern] : [...topics, pattern]);
  }

  /** @param {string} pattern */
  removePattern(pattern) {
    this.#patterns(this.view.topics.filter((topic) => topic !== pattern));
  }

  /** @param {string[]} topics */
  #patterns(topics) {
    this.view.topics = topics.length ? topics.slice(0, MOST_PATTERNS) : [EVERYTHING];
    this.#share();
    this.#again();
  }

  get #seesEverything() {
    const { topics } = this.view;
    return topics.length === 1 && topics[0] === EVERYTHING;
  }

  /* The list */

  togglePause() {
    if (this.timeline.frozen) this.newest();
    else this.timeline.freeze("pause");
    this.#painter.now();
  }

  /** Follow the feed again. */
  newest() {
    this.timeline.follow();
    this.select(null);
    this.#list?.toTop();
  }

  /** The list was scrolled, to its top or not. @param {boolean} top */
  scrolled(top) {
    const { frozen } = this.timeline;
    if (!top) this.timeline.freeze("scroll");
    else if (frozen?.reason === "scroll") this.newest();
    else if (frozen?.reason === "past") this.timeline.loadNewer();
    this.#painter.soon();
  }

  clear() {
    this.timeline.clear();
    this.select(null);
  }

  /** Select a row, which stays: the list stands still. @param {Row | null} row @param {boolean} [inspect] */
  select(row, inspect = this.inspecting) {
    this.selected = row;
    this.inspecting = Boolean(row) && inspect;
    if (!this.inspecting) this.#content = { text: "" };
    if (this.inspecting) this.publishing = false; // there is room for one of them
    if (row) this.timeline.freeze("select");
    this.#painter.now();
  }

  openRow(row = this.selected) {
    if (row) this.select(row, true);
  }

  closeRow() {
    this.inspecting = false;
    if (this.timeline.frozen?.reason === "select") this.newest();
    this.#list?.focus();
    this.#painter.now();
  }

  /** To another row: `by` further down, which is older. @param {number} by */
  move(by) {
    const { shown } = this.timeline.rows;
    if (!shown.length) return;
    const at = this.selected ? shown.findIndex((row) => row.n === this.selected?.n) : -1;
    const next = at < 0 ? shown.length - 1 : Math.min(shown.length - 1, Math.max(0, at - by));
    this.select(shown[next]);
    this.#reveal();
    if (next === 0 && by > 0) this.timeline.loadOlder();
  }

  /** @param {Tab} name */
  showTab(name) {
    this.tab = name;
    this.#painter.now();
  }

  #reveal() {
    this.#list?.show(this.timeline.rows.shown, this.selected, !this.timeline.standsStill);
    if (this.selected) this.#list?.reveal(this.selected);
  }

  /* Time travel */

  async go() {
    const row = await this.timeline.go();
    if (!row) return;
    this.select(row, false);
    this.#reveal();
  }

  replay() {
    this.select(null);
    this.#list?.toTop();
    this.timeline.replay();
  }

  /* Panels */

  togglePublish(open = !this.publishing) {
    this.publishing = open;
    if (open) this.inspecting = false;
    this.#focus(open ? "#topic" : "#list");
  }

  toggleTravel(open = !this.timeline.travel.open) {
    this.timeline.travel.open = open;
    if (!open && this.timeline.travel.replay) this.newest();
    this.#focus(open ? "[data-testid=travel-place]" : "#list");
  }

  toggleSession(open = !this.session.open) {
    this.session.open = open;
    this.session.error = "";
    this.#focus(open ? "[data-testid=token-field]" : "#list");
  }

  /** @param {Pane} pane */
  show(pane) {
    this.pane = pane;
    this.#painter.now();
  }

  nextTheme() {
    this.theme = themeAfter(this.theme);
    applyTheme(this.theme);
    this.#pictures?.theme();
    this.#painter.now();
  }

  /** @param {boolean} single */
  keys(single) {
    this.single = single;
    this.#painter.now();
  }

  help() {
    const dialog = document.getElementById("help");
    if (dialog instanceof HTMLDialogElement) dialog.showModal();
  }

  /** @param {HTMLElement} button */
  async copyId(button) {
    await copied(button, this.lastEventId);
  }

  /** @param {string} token */
  async signIn(token) {
    const subscribe = await this.session.begin(token);
    if (!subscribe) return;
    this.#pictures?.refresh();
    // The default view may be more than this token allows: what it does allow is what its bearer wants.
    if (this.#seesEverything && subscribe.length && !subscribe.includes(EVERYTHING)) this.#patterns(subscribe);
    else this.#feed?.renew();
  }

  async signOut() {
    if (!(await this.session.end())) return;
    this.#feed?.renew(); // for the other tabs, which have the same connection
    this.#again();
  }

  /** What screen readers are told now and then; the list itself would flood them. */
  summarise() {
    const rate = Math.round(this.#rate);
    const { rows, frozen } = this.timeline;
    const fresh = frozen?.fresh ? `, ${frozen.fresh} new since it was paused` : "";
    this.said = `${this.word}. ${rows.all.length} events kept${rate ? `, ${rate} a second` : ""}${fresh}.`;
    this.#painter.soon();
  }

  /** What a key does (see keys.js). Gives whether it did anything. @param {Action} action */
  act(action) {
    /** @type {Record<Action, () => unknown>} */
    const actions = {
      pause: () => this.togglePause(),
      nextRow: () => this.move(1),
      previousRow: () => this.move(-1),
      nextPage: () => this.move(this.#list?.page ?? 1),
      previousPage: () => this.move(-(this.#list?.page ?? 1)),
      openRow: () => this.openRow(),
      newest: () => this.newest(),
      loadOlder: () => this.timeline.loadOlder(),
      clear: () => this.clear(),
      toggleTravel: () => this.toggleTravel(),
      togglePublish: () => this.togglePublish(),
      retry: () => this.retry(),
      theme: () => this.nextTheme(),
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
    else if (this.timeline.travel.open) this.toggleTravel(false);
    else this.#focus("#list");
    return true;
  }

  // At once, as the next key may follow; what is not there yet, once it is drawn.
  /** @param {string} selector @param {Pane} [pane] */
  #focus(selector, pane = this.pane) {
    this.pane = pane;
    this.#painter.now();
    /** @type {HTMLElement | null} */
    const element = document.querySelector(selector);
    if (element?.checkVisibility()) element.focus();
    else requestAnimationFrame(() => /** @type {HTMLElement | null} */ (document.querySelector(selector))?.focus());
  }
}
