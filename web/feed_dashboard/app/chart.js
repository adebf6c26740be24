// One chart: uPlot in the page's colours and type, as wide as its place. What it shows is also told in words beside it.

/** @import { ChartOptions } from "./types.js" */

/* global uPlot */

const HEIGHT = 100; // as in pictures.css
const FONT = 12;
const CHARACTER = 6.7; // px of an axis label at that size, at most
const SHORTEST = 6; // characters, so that charts below each other begin at one line
const DASHES = [4, 3];
const FEW = 30; // values are dots too, as one alone makes no line

/**
 * The page's colours as they are now, by the names of its custom properties without the dashes.
 * @param {Element} element
 * @returns {Record<string, string>}
 */
export function coloursOf(element) {
  const style = getComputedStyle(element);
  const names = ["text", "soft", "line", "accent", "wait"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim() || "gray"]));
}

/** A chart in an element that holds nothing else. */
export class Chart {
  #plot;
  #place;
  /** @type {Record<string, string>} */
  #colours = {};
  #resize;

  /** @param {HTMLElement} place @param {ChartOptions} options */
  constructor(place, { lines, x, write, range }) {
    this.#place = place;
    const colour = (/** @type {string} */ name) => () => this.#colours[name];
    const axis = { stroke: colour("soft"), font: `${FONT}px system-ui, sans-serif`, ticks: { show: false }, gap: 4 };
    const grid = { stroke: colour("line"), width: 1 };
    this.#plot = new uPlot(
      {
        width: Math.max(1, place.clientWidth),
        height: HEIGHT,
        padding: [8, 16, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: false }, y: range ? { range: (_, min, max) => range(min ?? 0, max ?? 0) } : {} },
        axes: [
          { ...axis, size: 20, grid: { show: false }, ...x },
          {
            ...axis,
            grid,
            space: 30,
            size: (_, texts) => 8 + CHARACTER * Math.max(SHORTEST, ...(texts ?? []).map((text) => text.length)),
            values: (_, splits, __, ___, step) => splits.map((value) => write(value, step)),
          },
        ],
        series: [
          {},
          ...lines.map((line) => ({
            stroke: colour(line.colour),
            width: 1.5,
            dash: line.dashed ? DASHES : undefined,
            fill: line.filled ? () => faint(this.#colours[line.colour]) : undefined,
            paths: line.stepped ? uPlot.paths.stepped?.({ align: 1 }) : undefined,
            points: { size: 4, fill: colour(line.colour), show: (/** @type {uPlot} */ plot) => line.dots === true && plot.data[0].length <= FEW },
          })),
        ],
      },
      [[], ...lines.map(() => [])],
      place,
    );
    this.theme();
    this.#resize = new ResizeObserver(() => this.#fit());
    this.#resize.observe(place);
  }

  /** @param {uPlot.AlignedData} columns times in seconds, then a list for each line */
  draw(columns) {
    this.#plot.setData(columns);
  }

  /** Read the page's colours again. */
  theme() {
    this.#colours = coloursOf(this.#place);
    if (this.#plot.data[0].length > 0) this.#plot.redraw(false); // uPlot cannot paint again what it never painted
  }

  close() {
    this.#resize.disconnect();
    this.#plot.destroy();
  }

  #fit() {
    const width = this.#place.clientWidth;
    if (width > 0 && width !== this.#plot.width) this.#plot.setSize({ width, height: HEIGHT });
  }
}

/** @param {string} colour */
const faint = (colour) => (/^#[0-9a-f]{6}$/i.test(colour) ? `${colour}26` : "transparent");
