// Server-Sent Events out of bytes, as the WHATWG HTML standard (9.2.6) reads them. Pure: bytes in, frames out, however
// the bytes were split.

/** @import { Frame } from "./types.js" */

const LINE_END = /\r\n|\n|\r/g; // the three that end a line; U+2028 and its kin do not
const LONGEST = 64 << 20; // characters of one frame: beyond it this is not a feed

/** A parser for one stream. */
export class EventStreamParser {
  #decoder = new TextDecoder(); // takes off one BOM, as the standard says
  #rest = ""; // of a line that has not ended
  #afterCr = false; // and so an LF that comes next ends no line of its own
  #id = "";
  #event = "";
  /** @type {string[]} */
  #data = [];
  #size = 0;

  /**
   * @param {Uint8Array} bytes
   * @returns {Frame[]}
   * @throws {RangeError} for a frame without an end
   */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return [];
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text === "" ? false : text.endsWith("\r");
    text = this.#rest + text;
    /** @type {Frame[]} */
    const frames = [];
    let start = 0;
    for (const { 0: end, index } of text.matchAll(LINE_END)) {
      this.#line(text.slice(start, index), frames);
      start = index + end.length;
    }
    this.#rest = text.slice(start);
    if (this.#rest.length + this.#size > LONGEST) throw new RangeError("a frame of the stream does not end");
    return frames;
  }

  /** @param {string} line @param {Frame[]} frames */
  #line(line, frames) {
    if (line === "") return this.#dispatch(frames);
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "") frames.push({ comment: value });
    else if (name === "data") {
      this.#data.push(value);
      this.#size += value.length;
    } else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) frames.push({ retry: Number(value) });
  }

  /** @param {Frame[]} frames */
  #dispatch(frames) {
    if (this.#data.length > 0) {
      frames.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.#id });
    }
    this.#event = "";
    this.#data = [];
    this.#size = 0;
  }
}
