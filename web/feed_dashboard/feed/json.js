// Values out of JSON text, as they are written there. Pure.
//
// Parsed, a number of 20 digits would be another one, 1.10 would be 1.1, and of duplicate keys one would be left.

const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/y;
const SCALAR = /[^\s,[\]{}":]+/y;
const SPACE = /\s*/y;
const NESTED = /"[^"\\]*(?:\\.[^"\\]*)*"|[[\]{}]/g;

/**
 * The values at `a.b.0` of JSON: there are several where keys are there twice. A name with dots in it is found too, and
 * what is not an object or array is at "".
 * @param {string} json of what is not JSON, as much as can be read
 * @param {string} path
 * @returns {string[]} each as it is written
 */
export function valuesAt(json, path) {
  const reader = new Reader(json);
  reader.match(SPACE);
  if (path === "" && !reader.isNested) return [reader.skip()].filter(Boolean);
  reader.search(path);
  return reader.found;
}

/** Reads once through a text. What is not JSON ends it. */
class Reader {
  /** @type {string[]} */
  found = [];
  #text;
  #at = 0;

  /** @param {string} text */
  constructor(text) {
    this.#text = text;
  }

  get isNested() {
    const mark = this.#text[this.#at];
    return mark === "{" || mark === "[";
  }

  /** What is here and matches; "" if that is nothing. @param {RegExp} expression */
  match(expression) {
    expression.lastIndex = this.#at;
    const [found] = expression.exec(this.#text) ?? [""];
    this.#at += found.length;
    return found;
  }

  /** Look for this path in the value that begins here. @param {string} path */
  search(path) {
    if (!this.isNested) {
      this.skip();
      return;
    }
    const isObject = this.#text[this.#at++] === "{";
    this.match(SPACE);
    for (let place = 0; this.#at < this.#text.length && !this.#takes(isObject ? "}" : "]"); place += 1) {
      const name = isObject ? this.#name() : String(place);
      if (name === path) this.found.push(this.skip());
      else if (name !== null && path.startsWith(`${name}.`)) this.search(path.slice(name.length + 1));
      else this.skip();
      this.match(SPACE);
      if (this.#takes(",")) this.match(SPACE);
    }
  }

  /** Past the value that begins here, which is given. */
  skip() {
    const start = this.#at;
    if (!this.isNested) {
      this.match(this.#text[start] === '"' ? STRING : SCALAR);
    } else {
      let depth = 0;
      NESTED.lastIndex = start;
      do {
        const mark = NESTED.exec(this.#text)?.[0][0];
        if (mark === undefined) break;
        if (mark !== '"') depth += mark === "{" || mark === "[" ? 1 : -1;
      } while (depth > 0);
      this.#at = depth > 0 ? start : NESTED.lastIndex;
    }
    if (this.#at === start) this.#at = this.#text.length;
    return this.#text.slice(start, this.#at);
  }

  /** A key, and past its colon; null where there is none. @returns {string | null} */
  #name() {
    const written = this.match(STRING);
    this.match(SPACE);
    if (!written || !this.#takes(":")) {
      this.#at = this.#text.length;
      return null;
    }
    this.match(SPACE);
    return written.includes("\\") ? JSON.parse(written) : written.slice(1, -1);
  }

  /** @param {string} mark */
  #takes(mark) {
    if (this.#text[this.#at] !== mark) return false;
    this.#at += 1;
    return true;
  }
}
