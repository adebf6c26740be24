// The three ways to a stream. Each only opens, reports and ends, and knows nothing of trying again: for each, that is
// the connection's business. After `close` nothing is reported any more.

import { resumeOf } from "./event.js";
import { addressOf, NO_FEED, refusalOf, wordsOf } from "./history.js";
import { EventStreamParser } from "./sse.js";

/** @import { Asked, Frame, NoPage, OpenTransport, Query, Reports, Transport } from "./types.js" */

const SSE = "text/event-stream";
const BATCH = "feed.batch"; // the subprotocol whose messages hold several events, one a line
const CONTROLS = ["feed.open", "feed.gap", "feed.live", "feed.position", "feed.closing"];
const MARKS = ["feed.deleted"]; // events of the log that over SSE keep their name

/** The browser's own. It shows no status and no comments. Its own reconnecting is not used: see the connection. */
class EventSourceTransport {
  #source;

  /** @param {Asked} asked @param {Query} parameters @param {Reports} reports */
  constructor(asked, parameters, reports) {
    const url = addressOf(asked, "events", { ...parameters, envelope: 1 });
    this.#source = new EventSource(url, { withCredentials: asked.credentials === "include" });
    for (const type of ["message", ...MARKS]) {
      this.#source.addEventListener(type, ({ data, lastEventId }) => reports.events([data], lastEventId));
    }
    for (const type of CONTROLS) {
      this.#source.addEventListener(type, ({ data, lastEventId }) =>
        reports.control(type, lastEventId, valueOf(data)),
      );
    }
    this.#source.onerror = () => {
      this.close();
      reports.ended(null, "");
    };
  }

  close() {
    this.#source.close();
    this.#source.onerror = null;
  }
}

/** `fetch` and a parser of our own: it sees the status, the heartbeats and what the server says of trying again. */
class FetchTransport {
  #abort = new AbortController();

  /** @param {Asked} asked @param {Query} parameters @param {Reports} reports */
  constructor(asked, parameters, reports) {
    this.#read(addressOf(asked, "events", { ...parameters, envelope: 1 }), asked.credentials, reports);
  }

  /** @param {URL} url @param {RequestCredentials} credentials @param {Reports} reports */
  async #read(url, credentials, reports) {
    /** @type {NoPage | null} */
    let answer = null;
    let detail = "";
    try {
      const response = await fetch(url, {
        headers: { Accept: SSE },
        credentials,
        cache: "no-store",
        signal: this.#abort.signal,
      });
      if (response.status !== 200) answer = await refusalOf(response);
      else if (response.body && response.headers.get("Content-Type")?.startsWith(SSE))
        await this.#stream(response.body, reports);
      else detail = NO_FEED;
    } catch (error) {
      detail = wordsOf(error);
    }
    if (this.#abort.signal.aborted) return;
    this.close();
    reports.ended(answer, detail);
  }

  /** @param {ReadableStream<Uint8Array>} body @param {Reports} reports */
  async #stream(body, reports) {
    const reader = body.getReader();
    const parser = new EventStreamParser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.#abort.signal.aborted) return;
      reports.alive();
      this.#report(parser.push(value), reports);
    }
  }

  /** @param {Frame[]} frames @param {Reports} reports */
  #report(frames, reports) {
    /** @type {string[]} */
    let envelopes = [];
    let last = "";
    const flush = () => {
      if (envelopes.length > 0) reports.events(envelopes, last);
      envelopes = [];
    };
    for (const frame of frames) {
      if (this.#abort.signal.aborted) return;
      if ("retry" in frame) {
        reports.retry(frame.retry);
      } else if ("event" in frame && (frame.event === "message" || MARKS.includes(frame.event))) {
        envelopes.push(frame.data);
        last = frame.id;
      } else if ("event" in frame) {
        flush();
        reports.control(frame.event, frame.id, valueOf(frame.data));
      }
    }
    if (!this.#abort.signal.aborted) flush();
  }

  close() {
    this.#abort.abort();
  }
}

/** A WebSocket. It shows no status either, and no pings. */
class WebSocketTransport {
  #socket;
  #closed = false;

  /** @param {Asked} asked @param {Query} parameters @param {Reports} reports */
  constructor(asked, parameters, reports) {
    const url = addressOf(asked, "ws", parameters);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.#socket = new WebSocket(url, BATCH);
    this.#socket.onmessage = ({ data }) => this.#report(data.split("\n"), reports);
    this.#socket.onclose = ({ reason }) => {
      if (this.#closed) return;
      this.close();
      reports.ended(null, reason);
    };
  }

  /** @param {string[]} lines @param {Reports} reports */
  #report(lines, reports) {
    /** @type {string[]} */
    let envelopes = [];
    const flush = () => {
      if (envelopes.length > 0) reports.events(envelopes, resumeOf(envelopes.at(-1) ?? ""));
      envelopes = [];
    };
    for (const line of lines) {
      if (this.#closed) return;
      if (line.startsWith('{"type":"feed.')) {
        flush();
        const { type, id, data } = valueOf(line);
        reports.control(type, id ?? "", data ?? {});
      } else {
        envelopes.push(line);
      }
    }
    if (!this.#closed) flush();
  }

  close() {
    this.#closed = true;
    this.#socket.onmessage = null;
    this.#socket.close();
  }
}

/** What a server says of the stream; nothing, if it cannot be read. @param {string} text */
function valueOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

const TRANSPORTS = { eventsource: EventSourceTransport, fetch: FetchTransport, websocket: WebSocketTransport };

/** The names of the transports. */
export const TRANSPORT_NAMES = Object.keys(TRANSPORTS);

/**
 * Open a stream.
 * @param {Asked & {transport: Transport}} asked
 * @param {Query} parameters where to begin
 * @param {Reports} reports
 * @returns {OpenTransport}
 * @throws what the browser's constructor throws, where a policy forbids it for example
 */
export function openTransport(asked, parameters, reports) {
  return new TRANSPORTS[asked.transport](asked, parameters, reports);
}
