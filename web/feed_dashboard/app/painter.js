// When the page is drawn: at most ten times a second for what the feed brings, at once for what somebody does.

const EVERY_MS = 100;

/** Calls `paint` in an animation frame, however often it is asked to. */
export class Painter {
  #paint;
  #timer = 0;
  #frame = 0;
  #last = -Infinity;

  /** @param {() => void} paint */
  constructor(paint) {
    this.#paint = paint;
  }

  /** Something has come. */
  soon() {
    if (this.#timer || this.#frame) return;
    const wait = this.#last + EVERY_MS - performance.now();
    if (wait <= 0) this.now();
    else this.#timer = setTimeout(() => this.now(), wait);
  }

  /** Somebody waits for it. A hidden page has no frames: it is drawn once it is seen. */
  now() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#last = performance.now();
      this.#paint();
    });
  }
}
