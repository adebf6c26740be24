// What the charts are drawn from: a ring of seconds, the delays in it, and the points of one field. No DOM, no clock of
// its own, and no more memory than it begins with, whatever comes.

/** A row of numbers for each of the last seconds, in one array that is used again and again. */
class Seconds {
  #cells;
  #length;
  #width;
  #newest = -Infinity; // the second that was written last, counted since 1970

  /**
   * `length` full seconds are kept beside the one that is running; each has `width` numbers.
   * @param {number} length
   * @param {number} width
   */
  constructor(length, width) {
    this.#length = length + 1;
    this.#width = width;
    this.#cells = new Uint32Array(this.#length * width);
  }

  /** The row of a second, to read; undefined for what is not kept. @param {number} second */
  row(second) {
    if (second > this.#newest || second <= this.#newest - this.#length) return undefined;
    return this.#cellsOf(second);
  }

  /** @param {number} second */
  #cellsOf(second) {
    const start = (second % this.#length) * this.#width;
    return this.#cells.subarray(start, start + this.#width);
  }

  /**
   * The row of a second, to write. The oldest make room; a clock that is set back begins anew.
   * @param {number} second
   */
  open(second) {
    if (second < this.#newest || second - this.#newest >= this.#length) {
      this.#cells.fill(0);
      this.#newest = second;
    }
    while (this.#newest < second) {
      this.#newest += 1;
      this.#cellsOf(this.#newest).fill(0);
    }
    return this.#cellsOf(second);
  }
}

/** @param {number} now */
const secondOf = (now) => Math.floor(now / 1000);

/** How many there were in each of the last seconds. Times are in milliseconds since 1970. */
export class Counts {
  #length;
  #seconds;
  #began = Infinity; // the first second that was watched whole
  #last = -Infinity;

  /** @param {number} length how many full seconds are kept */
  constructor(length) {
    this.#length = length;
    this.#seconds = new Seconds(length, 1);
  }

  /**
   * Also with 0: from the first time on, a second in which nothing came is a second without events.
   * @param {number} now
   * @param {number} count
   */
  add(now, count) {
    const second = secondOf(now);
    if (this.#began === Infinity || second < this.#last) this.#began = second + 1;
    this.#last = second;
    this.#seconds.open(second)[0] += count;
  }

  /**
   * The full seconds before `now`, oldest first; null for those that nobody watched. The running one is left out: it
   * would always look like a drop.
   * @param {number} now
   * @returns {(number | null)[]}
   */
  read(now) {
    const end = secondOf(now);
    return Array.from({ length: this.#length }, (_, place) => {
      const second = end - this.#length + place;
      return second < this.#began ? null : (this.#seconds.row(second)?.[0] ?? 0);
    });
  }

  /**
   * The mean of the last full seconds that were watched; null where there are none.
   * @param {number} now
   * @param {number} seconds
   */
  rate(now, seconds) {
    const counts = this.read(now).slice(-seconds).filter((count) => count !== null);
    return counts.length === 0 ? null : counts.reduce((sum, count) => sum + count, 0) / counts.length;
  }
}

const LEAST = 0.5; // ms; all below is one bucket, as times are whole milliseconds
const GROWTH = Math.log(1.1);
const BUCKETS = 202; // up to 27 hours

/** @param {number} ms */
const bucketOf = (ms) =>
  ms < LEAST ? 0 : Math.min(BUCKETS - 1, 1 + Math.floor(Math.log(ms / LEAST) / GROWTH));
/** @param {number} bucket */
const middleOf = (bucket) => (bucket === 0 ? 0 : LEAST * Math.exp((bucket - 0.5) * GROWTH));

/**
 * Delays in a histogram for each second, its buckets a tenth apart. Samples would have to be dropped at a high rate, and
 * a window would then be as long as the rate lets it; a histogram takes 240 KB at any rate, any window is a sum of its
 * rows, and what a quantile loses is at most a twentieth.
 */
export class Delays {
  #length;
  #seconds;

  /** @param {number} length how many full seconds are kept */
  constructor(length) {
    this.#length = length;
    this.#seconds = new Seconds(length, BUCKETS);
  }

  /**
   * A delay in milliseconds, of something that came at `now`. Less than none counts as none.
   * @param {number} now
   * @param {number} ms
   */
  add(now, ms) {
    this.#seconds.open(secondOf(now))[bucketOf(ms)] += 1;
  }

  /** Forget all: the clock that they were measured with was another one. */
  clear() {
    this.#seconds = new Seconds(this.#length, BUCKETS);
  }

  /**
   * Quantiles (0 to 1) of the last `window` seconds and the running one, in milliseconds; null where there is none.
   * @returns {(number | null)[]}
   * @param {number} now
   * @param {number} window
   * @param {number[]} wanted
   */
  quantiles(now, window, wanted) {
    const sum = new Uint32Array(BUCKETS);
    const end = secondOf(now);
    for (let second = end - window; second <= end; second += 1) this.#include(sum, second, 1);
    return quantilesOf(sum, wanted);
  }

  /**
   * The same for each full second before `now`, oldest first: a list for each quantile.
   * @returns {(number | null)[][]}
   * @param {number} now
   * @param {number} window
   * @param {number[]} wanted
   */
  over(now, window, wanted) {
    /** @type {(number | null)[][]} */
    const lists = wanted.map(() => []);
    const sum = new Uint32Array(BUCKETS);
    const end = secondOf(now);
    for (let second = end - this.#length; second < end; second += 1) {
      this.#include(sum, second, 1);
      // What was not kept was never included.
      if (second - window >= end - this.#length) this.#include(sum, second - window, -1);
      quantilesOf(sum, wanted).forEach((value, place) => lists[place].push(value));
    }
    return lists;
  }

  /** @param {Uint32Array} sum @param {number} second @param {1 | -1} sign */
  #include(sum, second, sign) {
    const row = this.#seconds.row(second);
    if (row) for (let bucket = 0; bucket < BUCKETS; bucket += 1) sum[bucket] += sign * row[bucket];
  }
}

/** @param {Uint32Array} buckets @param {number[]} wanted @returns {(number | null)[]} */
function quantilesOf(buckets, wanted) {
  let total = 0;
  for (const count of buckets) total += count;
  if (total === 0) return wanted.map(() => null);
  return wanted.map((quantile) => {
    let left = Math.max(1, Math.ceil(quantile * total));
    let bucket = -1;
    while (left > 0) left -= buckets[++bucket];
    return middleOf(bucket);
  });
}

/** The newest values of one field, by time. What comes late finds its place, what comes twice is there once. */
export class Points {
  #most;
  /** @type {string[]} */
  #ids = [];
  /** @type {number[]} seconds since 1970, rising: uPlot's first column */
  times = [];
  /** @type {number[]} what was read at each of them */
  values = [];
  /** The newest as it was written. */
  newest = "";

  /** @param {number} most how many are kept */
  constructor(most) {
    this.#most = most;
  }

  /** @param {number} time milliseconds since 1970 @param {string} numeral @param {string} id the event's */
  add(time, numeral, id) {
    const { times } = this;
    const seconds = time / 1000;
    let place = times.length;
    while (place > 0 && times[place - 1] > seconds) place -= 1;
    for (let same = place - 1; same >= 0 && times[same] === seconds; same -= 1) if (this.#ids[same] === id) return;
    if (times.length >= this.#most) {
      if (place === 0) return;
      for (const list of [times, this.values, this.#ids]) list.shift();
      place -= 1;
    }
    times.splice(place, 0, seconds);
    this.values.splice(place, 0, Number(numeral));
    if (place === times.length - 1) this.newest = numeral;
    this.#ids.splice(place, 0, id);
  }
}
