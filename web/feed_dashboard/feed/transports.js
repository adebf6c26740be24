// The three ways to a stream. Each only opens, reports and ends, and knows nothing of trying again: for each, that is
// the connection's business. After `close` nothing is reported any more.

import { idOf } from "./event.js";
import { addressOf, NO_FEED, refusalOf, wordsOf } from "./history.js";
import { EventStreamParser } from "./sse.js";

const SSE = "text/event-stream";
const BATCH = "feed.batch"; // the subprotocol whose messages hold several events, one a line
const CONTROLS = ["feed.open", "feed.gap", "feed.live", "feed.position", "feed.closing"];

/**
 * What a transport reports. `ended` comes once, and last: with the answer if there was one and it could be seen.
 * @typedef {object} Reports
 * @property {(envelopes: string[], last: string) => void} events `last` is the id of the last one
 * @property {(type: string, id: string, data: object) => void} control
 * @property {(milliseconds: number) => void} retry what the server asks for between two tries
 * @property {() => void} alive a sign of life that says nothing else
 * @property {(answer: import("./history.js").Answer | null, detail: string) => void} ended
 */

/** The browser's own. It shows no status and no comments. Its own reconnecting is not used: see the connection. */
class EventSourceTransport {
  #source;

  constructor(asked, parameters, reports) {
    const url = addressOf(asked, "events", { ...parameters, envelope: 1 });
    this.#source = new EventSource(url, { withCredentials: asked.credentials === "include" });
    this.#source.onmessage = ({ data, lastEventId }) => reports.events([data], lastEventId);
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
    this.#source.onmessage = this.#source.onerror = null;
  }
}

/** `fetch` and a parser of our own: it sees the status, the heartbeats and what the server says of trying again. */
class FetchTransport {
  #abort = new AbortController();

  constructor(asked, parameters, reports) {
    this.#read(addressOf(asked, "events", { ...parameters, envelope: 1 }), asked.credentials, reports);
  }

  async #read(url, credentials, reports) {
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
      else if (response.headers.get("Content-Type")?.startsWith(SSE)) await this.#stream(response.body, reports);
      else detail = NO_FEED;
    } catch (error) {
      detail = wordsOf(error);
    }
    if (this.#abort.signal.aborted) return;
    this.close();
    reports.ended(answer, detail);
  }

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

  #report(frames, reports) {
    let envelopes = [];
    let last = "";
    const flush = () => {
      if (envelopes.length > 0) reports.events(envelopes, last);
      envelopes = [];
    };
    for (const { event, data, id, retry } of frames) {
      if (this.#abort.signal.aborted) return;
      if (event === "message") {
        envelopes.push(data);
        last = id;
      } else if (event !== undefined) {
        flush();
        reports.control(event, id, valueOf(data));
      } else if (retry !== undefined) {
        reports.retry(retry);
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

  #report(lines, reports) {
    let envelopes = [];
    const flush = () => {
      if (envelopes.length > 0) reports.events(envelopes, idOf(envelopes.at(-1)));
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

/** What a server says of the stream; nothing, if it cannot be read. */
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
 * @param {import("./history.js").Asked & {transport: string}} asked
 * @param {Record<string, string | number>} parameters where to begin
 * @param {Reports} reports
 * @returns {{close(): void}}
 * @throws what the browser's constructor throws, where a policy forbids it for example
 */
export function openTransport(asked, parameters, reports) {
  return new TRANSPORTS[asked.transport](asked, parameters, reports);
}
