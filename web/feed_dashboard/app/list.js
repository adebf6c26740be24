// The list of events: only the rows in view are in the document, newest on top.
//
// All rows have one height, so that a place is a multiplication. While the list is at its top it follows the feed; once
// somebody scrolls or selects, the page freezes it (see app.js), as rows that run away cannot be read.

import { html, nothing, render } from "../vendor/lit-html/lit-html.js";

/** @import { ListAct, Row } from "./types.js" */

const SPARE = 6; // rows drawn beyond each edge
const LINE = 300; // characters of data in a row
const ROW = "--row"; // the height's custom property, in px

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
  hourCycle: "h23",
});
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

/** The time of a row, with its day if that is not today. @param {number} ms @param {Date} [today] */
export function timeText(ms, today = new Date()) {
  const time = new Date(ms);
  return (time.toDateString() === today.toDateString() ? "" : `${day.format(time)} `) + clock.format(time);
}

/** The scrolling list. */
export class List {
  #root;
  #act;
  #spacer = document.createElement("div");
  #window = document.createElement("div");
  /** @type {Row[]} */
  #rows = []; // oldest first
  /** @type {Row | null} */
  #selected = null;
  #height = 32; // px, until that says another one

  /**
   * @param {HTMLElement} root what scrolls; it has the role grid
   * @param {ListAct} act
   */
  constructor(root, act) {
    this.#root = root;
    this.#act = act;
    this.#spacer.className = "spacer";
    this.#window.className = "window";
    // A grid's rows have to be its own, or a rowgroup's.
    this.#spacer.role = "presentation";
    this.#window.role = "rowgroup";
    this.#spacer.append(this.#window);
    root.append(this.#spacer);
    this.#measure();
    root.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => {
      this.#measure();
      this.#draw();
    }).observe(root);
    // The row under the pointer when it goes down is the one that was meant: until the click another may be there.
    /** @type {Row | null} */
    let meant = null;
    root.addEventListener("pointerdown", (event) => {
      meant = this.#rowAt(event.target);
    });
    root.addEventListener("click", () => {
      if (meant && !String(getSelection())) this.#act.open(meant);
      meant = null;
    });
  }

  /** Whether the newest row is in view, and the list follows. */
  get atTop() {
    return this.#root.scrollTop < this.#height / 2;
  }

  /** How many rows fit. */
  get page() {
    return Math.max(1, Math.floor(this.#root.clientHeight / this.#height) - 1);
  }

  /**
   * Show these. Where rows came or went on top, and the list is not there or is not to follow, what is in view stays in
   * view.
   *
   * @param {Row[]} rows oldest first @param {Row | null} selected
   * @param {boolean} follows whether the newest row is to be in view while the list is at its top
   */
  show(rows, selected, follows = true) {
    const stays = (!follows || !this.atTop) && this.#rows.length && rows.length;
    const moved = stays ? rowsOnTop(this.#rows, rows) : 0;
    this.#rows = [...rows]; // as they are now: the window they are of goes on
    this.#selected = selected;
    this.#draw();
    if (!moved) return;
    this.#root.scrollTop += moved * this.#height;
    this.#draw();
  }

  /** Scroll as far as needed for a row to be seen. @param {Row} row */
  reveal(row) {
    const at = this.#rows.length - 1 - this.#rows.indexOf(row);
    const top = at * this.#height;
    const { scrollTop, clientHeight } = this.#root;
    if (top < scrollTop) this.#root.scrollTop = top;
    else if (top + this.#height > scrollTop + clientHeight) this.#root.scrollTop = top + this.#height - clientHeight;
    this.#draw();
  }

  toTop() {
    this.#root.scrollTop = 0;
  }

  focus() {
    this.#root.focus({ preventScroll: true });
  }

  #measure() {
    this.#height = Number.parseFloat(getComputedStyle(this.#root).getPropertyValue(ROW)) || this.#height;
  }

  #scrolled() {
    this.#draw();
    this.#act.scrolled(this.atTop);
    const { scrollTop, clientHeight, scrollHeight } = this.#root;
    if (scrollTop > 0 && scrollTop + clientHeight > scrollHeight - 2 * this.#height) this.#act.end();
  }

  #draw() {
    const count = this.#rows.length;
    const first = Math.max(0, Math.floor(this.#root.scrollTop / this.#height) - SPARE);
    const last = Math.min(count, first + Math.ceil(this.#root.clientHeight / this.#height) + 2 * SPARE);
    this.#spacer.style.height = `${count * this.#height}px`;
    this.#window.style.transform = `translateY(${first * this.#height}px)`;
    this.#root.setAttribute("aria-rowcount", String(count));
    const today = new Date();
    const drawn = [];
    for (let at = first; at < last; at++) drawn.push(this.#row(this.#rows[count - 1 - at], at, today));
    render(drawn, this.#window);
    const active = this.#selected && this.#window.querySelector("[aria-selected=true]");
    if (active) this.#root.setAttribute("aria-activedescendant", active.id);
    else this.#root.removeAttribute("aria-activedescendant");
  }

  /** @param {Row} row @param {number} at @param {Date} today */
  #row({ n, event, ms }, at, today) {
    const selected = n === this.#selected?.n;
    return html`<div role="row" class="row" id=${`row${n}`} data-n=${n} data-testid="event" aria-rowindex=${at + 1}
      aria-selected=${selected}>
      <span role="gridcell" class="time" title=${event.time} data-testid="event-time">${timeText(ms, today)}</span>
      <span role="gridcell" class="topic" title=${event.topic} data-testid="event-topic"><bdi>${event.topic}</bdi></span>
      <span role="gridcell" class="type" title=${event.type} data-testid="event-type"
        >${event.type === "message" ? nothing : html`<bdi>${event.type}</bdi>`}</span>
      <span role="gridcell" class="data" data-testid="event-data"><bdi>${event.text.slice(0, LINE)}</bdi></span>
      <span role="gridcell" class="id" title=${event.id} data-testid="event-id">${event.id}</span>
    </div>`;
  }

  /** @param {EventTarget | null} target */
  #rowAt(target) {
    if (!(target instanceof Element)) return null;
    const n = Number(target.closest("[data-n]")?.getAttribute("data-n") ?? NaN);
    return this.#rows.find((row) => row.n === n) ?? null;
  }
}

/**
 * How many more rows there are on top now; less than none where older ones took the place of the newest.
 * @param {Row[]} before
 * @param {Row[]} rows
 */
function rowsOnTop(before, rows) {
  const newest = rows[rows.length - 1].n;
  const newestBefore = before[before.length - 1].n;
  if (rows[0].n < before[0].n && newest < newestBefore) return -rowsAfter(before, newest);
  return rowsAfter(rows, newestBefore);
}

/** @param {Row[]} rows @param {number} n */
function rowsAfter(rows, n) {
  let count = 0;
  while (count < rows.length && rows[rows.length - 1 - count].n > n) count += 1;
  return count < rows.length ? count : 0;
}
