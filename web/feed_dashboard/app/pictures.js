// The pictures beside the events: how many come, how late they are, a field of theirs, and how the server is.
//
// The feed's events are counted as they come; nothing is drawn but once a second, and then only what can be seen.

import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { Chart } from "./chart.js";
import { History } from "./history.js";
import { ask, Clock, max, sum } from "./metrics.js";
import { brief, bytes, delayText, Fields, numeralAt, short, span } from "./numbers.js";
import { Counts, Delays, Points } from "./series.js";

/** @import { Choice, FeedEvent, Figures, OnSelect, PicturesOptions } from "./types.js" */

const WINDOW = 300; // seconds that the first two charts show
const SMOOTH = 10; // seconds that each point of the delays' chart is of
const SUMMARY = 60; // seconds that the delays' numbers are of
const NOW = 5; // seconds that are called now
const MAX_POINTS = 600;
const POINT_MS = 100; // between two points at least: at 1,000 events a second the chart still shows a minute
const MAX_CHIPS = 6;
const ASK_MS = 5_000;
const BEGIN_MS = 1_000; // for the first few, which meet a busy page and say little of the clocks
const BEGIN = 3;
const ASK_REFUSED_MS = 30_000; // until a token may have come
const OLD_MS = 12_000; // two answers are missing
const LABEL_MS = 5_000; // between two changes of what a screen reader is told

/** The fields that say most where they are there, best first. */
const TELLING = ["percent", "value", "count", "total", "price", ""];

/** @param {string} field */
const words = (field) => field || "the value";
/** @param {Choice | null} one @param {Choice | null} other */
const sameChoice = (one, other) => one?.topic === other?.topic && one?.field === other?.field;

/**
 * What is said of the server: name, text. Those that all nodes have in common are not added up.
 * @type {[string, (figures: Figures) => number | undefined, (value: number) => string][]}
 */
const SERVER = [
  ["Subscribers", (figures) => sum(figures, "feed_subscribers"), whole],
  ["Queued events", (figures) => sum(figures, "feed_queued_events"), whole],
  ["Deepest queue", (figures) => max(figures, "feed_queue_deepest_events"), whole],
  ["Lagging subscribers", (figures) => sum(figures, "feed_lagging_subscribers"), whole],
  ["Published since its start", (figures) => sum(figures, "feed_published_events_total"), whole],
  ["Events in the log", (figures) => max(figures, "feed_log_events"), whole],
  ["Size of the log", (figures) => max(figures, "feed_log_bytes"), bytes],
  ["Position of the log", (figures) => max(figures, "feed_log_position"), whole],
];

/** @param {number} value */
function whole(value) {
  return value.toLocaleString("en");
}

/** All of them. Times are in milliseconds since 1970, as of `Date.now()`. */
export class Pictures {
  #root;
  #base;
  #onChart;
  /** @type {Choice | null} */
  #chart = null;
  #counts = new Counts(WINDOW);
  #delays = new Delays(WINDOW);
  #fields = new Fields();
  #points = new Points(MAX_POINTS);
  #pointAt = -Infinity;
  /** @type {FeedEvent | null} */
  #passedOver = null; // the newest event that came too soon after a point
  #thinned = false;
  #clock = new Clock();
  /** @type {{status: number, refused: boolean, figures: Figures, at: number}} */
  #server = { status: -1, refused: false, figures: new Map(), at: 0 };
  #asking = false;
  #answers = 0;
  #askAt = 0;
  #labelAt = -Infinity;
  #labels = { rate: "", delay: "", field: "" };
  #charts;
  #end = new AbortController();
  /** @type {AbortController | null} */
  #filling = null;

  /**
   * The delays of the last minute in milliseconds, and `now`, the median of the last 5 s; null where none came.
   * @type {Record<"p50" | "p99" | "now", number | null>}
   */
  delay = { p50: null, p99: null, now: null };

  /** @param {HTMLElement} root an empty element @param {PicturesOptions} options */
  constructor(root, { base, chart = null, onChart = () => {} }) {
    this.#root = root;
    this.#base = base;
    this.#onChart = onChart;
    this.#render();
    this.#charts = this.#build();
    if (chart) this.choose(chart);
    else this.#show(Date.now());
  }

  /** `offset` is what to add to this machine's clock for the server's, in milliseconds; null while nobody knows. */
  get clock() {
    return this.#clock.best;
  }

  /** What is charted. */
  get chart() {
    return this.#chart;
  }

  /**
   * Chart something else. Nobody is told.
   * @param {Choice | null} chart
   */
  choose(chart) {
    if (sameChoice(chart, this.#chart)) return;
    this.#chart = chart;
    this.#points = new Points(MAX_POINTS);
    this.#pointAt = -Infinity;
    this.#passedOver = null;
    this.#thinned = false;
    this.#filling?.abort();
    this.#labelAt = -Infinity;
    if (chart) this.#fill(chart);
    this.#show(Date.now());
  }

  /**
   * Events that have come.
   * @param {FeedEvent[]} events
   * @param {number} now
   */
  add(events, now) {
    const offset = this.#clock.best?.offset ?? 0;
    let live = 0;
    for (const event of events) {
      this.#fields.look(event, now);
      if (event.topic === this.#chart?.topic) this.#point(event);
      if (!event.live) continue;
      live += 1;
      this.#delays.add(now, now + offset - Date.parse(event.time));
    }
    if (live > 0) this.#counts.add(now, live);
  }

  /** A second has passed. @param {number} now */
  tick(now) {
    this.#counts.add(now, 0);
    const [p50, p99] = this.#delays.quantiles(now, SUMMARY, [0.5, 0.99]);
    this.delay = { p50, p99, now: this.#delays.quantiles(now, NOW, [0.5])[0] };
    if (document.hidden) return;
    this.#takePassedOver();
    if (!this.#asking && now >= this.#askAt) this.#ask(now);
    if (this.#root.checkVisibility()) this.#show(now);
  }

  /** Ask the server for its figures with the next tick: there may be another token now. */
  refresh() {
    this.#askAt = 0;
  }

  /** The page's colours are others. */
  theme() {
    for (const chart of Object.values(this.#charts)) chart.theme();
  }

  close() {
    this.#end.abort();
    this.#filling?.abort();
    for (const chart of Object.values(this.#charts)) chart.close();
    render(nothing, this.#root);
  }

  /** @param {FeedEvent} event */
  #point(event) {
    const time = Date.parse(event.time);
    this.#thinned ||= this.#passedOver !== null;
    this.#passedOver = null;
    if (Math.abs(time - this.#pointAt) < POINT_MS) this.#passedOver = event;
    else this.#take(event, time);
  }

  /** @param {FeedEvent} event @param {number} time */
  #take(event, time) {
    this.#pointAt = time;
    const numeral = event.json && this.#chart ? numeralAt(event.text, this.#chart.field) : undefined;
    if (numeral !== undefined) this.#points.add(time, numeral, event.id);
  }

  /* The last one always counts: what follows it may be nothing. */
  #takePassedOver() {
    if (this.#passedOver) this.#take(this.#passedOver, Date.parse(this.#passedOver.time));
    this.#passedOver = null;
  }

  /** What was before the choice, so that a chart is not empty at the first click. @param {Choice} chart */
  async #fill({ topic }) {
    const stop = (this.#filling = new AbortController());
    try {
      const { events } = await new History({ base: this.#base, topics: [topic] }).newest(MAX_POINTS, stop.signal);
      for (const event of events) this.#point(event);
      this.#takePassedOver();
      this.#labelAt = -Infinity;
      this.#show(Date.now());
    } catch {
      // Without its past a chart begins with what comes.
    }
  }

  /** @param {number} now */
  async #ask(now) {
    this.#asking = true;
    const answer = await ask(new URL("metrics", this.#base), this.#end.signal);
    this.#asking = false;
    const { refused } = answer;
    const known = answer.figures.size > 0;
    if (known) this.#answers += 1;
    const soon = known && this.#answers < BEGIN;
    this.#askAt = now + (refused ? ASK_REFUSED_MS : soon ? BEGIN_MS : ASK_MS);
    this.#server = {
      status: answer.status,
      refused,
      figures: known || refused ? answer.figures : this.#server.figures,
      at: known ? answer.answered : this.#server.at,
    };
    const time = max(answer.figures, "feed_time_seconds");
    if (time === undefined) return;
    const first = this.clock === null;
    const moved = this.#clock.add(answer.asked, answer.answered, time * 1000);
    if (first || moved) this.#delays.clear();
  }

  /** @param {Choice | null} chart */
  #choose(chart) {
    this.choose(chart);
    this.#onChart(chart);
  }

  /* Drawing */

  #build() {
    /** @param {string} name @returns {HTMLElement} */
    const place = (name) => /** @type {HTMLElement} */ (this.#root.querySelector(`[data-plot="${name}"]`));
    /** @type {uPlot.Axis} */
    const recent = {
      splits: (_, __, least, most) => [0, 1, 2, 3, 4].map((part) => least + ((most - least) * (part + 1)) / 5),
      values: () => ["−4 min", "−3", "−2", "−1", "now"],
    };
    /** @type {(least: number, most: number) => [number, number]} */
    const fromZero = (_, most) => [0, Math.max(1, most * 1.1)];
    return {
      rate: new Chart(place("rate"), {
        lines: [{ colour: "accent", filled: true, stepped: true }],
        x: recent,
        write: short,
        range: fromZero,
      }),
      delay: new Chart(place("delay"), {
        lines: [{ colour: "accent" }, { colour: "wait", dashed: true }],
        x: recent,
        write: (value) => span(value),
        range: fromZero,
      }),
      field: new Chart(place("field"), {
        lines: [{ colour: "accent", dots: true }],
        x: { space: 70, incrs: STEPS, values: timeTexts },
        write: short,
      }),
    };
  }

  /** @param {number} now */
  #show(now) {
    this.#label(now);
    this.#render(now);
    const end = Math.floor(now / 1000);
    const times = Array.from({ length: WINDOW }, (_, place) => end - WINDOW + place);
    const counts = this.#counts.read(now);
    this.#charts.rate.draw([[...times, end], [...counts, counts.at(-1)]]); // a step is as wide as its second
    this.#charts.delay.draw([times, ...this.#delays.over(now, SMOOTH, [0.5, 0.99])]);
    if (this.#chart) this.#charts.field.draw([this.#points.times, this.#points.values]);
  }

  /** A label that changes each second would be read again and again. @param {number} now */
  #label(now) {
    if (Math.abs(now - this.#labelAt) < LABEL_MS) return;
    this.#labelAt = now;
    const { p50, p99 } = this.delay;
    this.#labels = {
      rate: `Events per second over the last 5 minutes. ${this.#rateText(now)}.`,
      delay:
        p50 === null || p99 === null
          ? "Delay over the last 5 minutes. No events in the last minute."
          : `Delay over the last 5 minutes. In the last minute: median ${this.#delayText(p50)}, ` +
            `99th percentile ${this.#delayText(p99)}.`,
      field: this.#chart
        ? `${this.#chart.topic}, ${words(this.#chart.field)}. Values: ${this.#points.values.length}. ${this.#fieldText()}.`
        : "",
    };
  }

  /** @param {number} ms */
  #delayText(ms) {
    return delayText(ms, this.clock);
  }

  /** @param {number} now */
  #rateText(now) {
    const rate = this.#counts.rate(now, NOW);
    if (rate === null) return "Nothing counted yet";
    return `${short(rate)} a second now, ${short(Math.max(...this.#counts.read(now).map(Number)))} at most`;
  }

  #fieldText() {
    const { values, newest } = this.#points;
    if (values.length === 0) return "No values yet";
    return `${brief(newest)} now, ${short(Math.min(...values))} to ${short(Math.max(...values))} here`;
  }

  #render(now = Date.now()) {
    render(
      html`${this.#rate(now)}${this.#delayPicture()}${this.#field()}${this.#serverPicture(now)}`,
      this.#root,
    );
  }

  /** @param {number} now */
  #rate(now) {
    return html`<section class="picture" aria-labelledby="picture-rate" data-testid="picture-rate">
      <h3 id="picture-rate">Events per second</h3>
      <p class="picture-numbers" data-testid="rate-numbers">${this.#rateText(now)}</p>
      <div class="plot" data-plot="rate" role="img" aria-label=${this.#labels.rate || "Events per second"}></div>
    </section>`;
  }

  #delayPicture() {
    const { p50, p99 } = this.delay;
    const text = (/** @type {number | null} */ ms) => (ms === null ? "–" : this.#delayText(ms));
    return html`<section class="picture" aria-labelledby="picture-delay" data-testid="picture-delay">
      <h3 id="picture-delay">Delay</h3>
      <p class="picture-numbers" data-testid="delay-numbers">
        <span class="key">p50</span> ${text(p50)} <span class="key dashed">p99</span> ${text(p99)}
      </p>
      <div class="plot" data-plot="delay" role="img" aria-label=${this.#labels.delay || "Delay"}></div>
      <p class="hint" data-testid="delay-note">
        From the commit to this page, in the last minute,
        ${this.clock ? `with clocks compared to ${span(this.clock.uncertainty)}` : "if the clocks agree"}.
      </p>
    </section>`;
  }

  #field() {
    const topics = this.#fields.topics();
    const chart = this.#chart;
    const offered = chart && !topics.includes(chart.topic) ? [chart.topic, ...topics] : topics;
    const names = chart ? this.#fields.of(chart.topic) : [];
    const fields = chart && !names.includes(chart.field) ? [chart.field, ...names] : names;
    return html`<section class="picture" aria-labelledby="picture-field" data-testid="picture-field">
      <h3 id="picture-field">Chart a field</h3>
      <p class="hint" ?hidden=${offered.length > 0}>Events whose data is JSON with numbers in it can be charted here.</p>
      <div class="picture-chips" ?hidden=${offered.length === 0}>${this.#chips(topics)}</div>
      <div class="picture-choice" ?hidden=${offered.length === 0}>
        <label for="chart-topic">Topic</label>
        <label for="chart-field">Field</label>
        ${options("chart-topic", offered, chart?.topic, (topic) => this.#topicChosen(topic))}
        ${options("chart-field", fields, chart?.field, (field) => chart && this.#choose({ ...chart, field }))}
      </div>
      <p class="hint" ?hidden=${!this.#fields.more}>There are more than are offered: 200 topics, 30 fields of each.</p>
      <div ?hidden=${!chart}>
        <p class="picture-numbers" data-testid="field-numbers">${this.#fieldText()}</p>
        <div class="plot" data-plot="field" role="img" aria-label=${this.#labels.field || "A field"}></div>
        <p class="hint" ?hidden=${!this.#thinned}>Of more than ten values a second, ten are drawn.</p>
      </div>
    </section>`;
  }

  /** @param {string} topic */
  #topicChosen(topic) {
    const field = telling(this.#fields.of(topic));
    this.#choose(topic && field !== undefined ? { topic, field } : null);
  }

  /** @param {string[]} topics */
  #chips(topics) {
    const choices = topics.map((topic) => ({ topic, field: telling(this.#fields.of(topic)) }));
    choices.sort((one, other) => rank(one.field) - rank(other.field));
    return choices.slice(0, MAX_CHIPS).map((choice) => {
      const chosen = sameChoice(choice, this.#chart);
      return html`<button
        type="button"
        class="chip"
        data-testid="chart-chip"
        title=${choice.topic}
        aria-pressed=${chosen}
        @click=${() => this.#choose(chosen ? null : choice)}
      >
        ${choice.topic} · ${words(choice.field)}
      </button>`;
    });
  }

  /** @param {number} now */
  #serverPicture(now) {
    const { figures } = this.#server;
    const note = this.#serverNote(now);
    const rows = SERVER.flatMap(([name, read, write]) => {
      const value = read(figures);
      return value === undefined ? [] : [{ name, text: write(value) }];
    });
    return html`<section class="picture" aria-labelledby="picture-server" data-testid="picture-server">
      <h3 id="picture-server">Server</h3>
      <p class="hint" data-testid="server-note" ?hidden=${note === ""}>${note}</p>
      <dl class="picture-figures">
        ${rows.map(({ name, text }) => html`<div><dt>${name}</dt><dd>${text}</dd></div>`)}
      </dl>
    </section>`;
  }

  /** @param {number} now */
  #serverNote(now) {
    const { status, refused, figures, at } = this.#server;
    if (status === -1) return "Asking …";
    if (refused) return "Needs a token with admin.";
    if (status !== 200 || now - at > OLD_MS) {
      const why = status === 0 ? "It does not answer" : `It answers ${status}`;
      return figures.size > 0 ? `${why}: these numbers are ${Math.round((now - at) / 1000)} s old.` : `${why}.`;
    }
    return "";
  }
}

/** @param {string} field */
const rank = (field) => (TELLING.includes(field) ? TELLING.indexOf(field) : TELLING.length);
/** @param {string[]} names */
const telling = (names) => TELLING.find((name) => names.includes(name)) ?? names[0];

/**
 * @param {string} id
 * @param {string[]} values
 * @param {string | undefined} chosen
 * @param {(value: string) => void} choose
 */
function options(id, values, chosen, choose) {
  return html`<select id=${id} data-testid=${id} @change=${(/** @type {OnSelect} */ event) => choose(event.target.value)}>
    <option value="" .selected=${chosen === undefined} ?hidden=${chosen !== undefined}>–</option>
    ${values.map((value) => html`<option .value=${value} .selected=${value === chosen}>${value || words(value)}</option>`)}
  </select>`;
}

const LABEL_PX = 24; // more than a chart's margin is wide

/* Between two times on an axis, in seconds: none that would be written alike. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 604_800];

const clockText = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minuteText = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const dayText = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** @param {uPlot} plot @param {number[]} times @param {number} _ @param {number} __ @param {number} step */
function timeTexts(plot, times, _, __, step) {
  const format = step < 60 ? clockText : step < 86_400 ? minuteText : dayText;
  const room = plot.bbox.width / devicePixelRatio - LABEL_PX / 2; // else the last one would be cut off
  return times.map((time) => (plot.valToPos(time, "x") > room ? "" : format.format(time * 1000)));
}
