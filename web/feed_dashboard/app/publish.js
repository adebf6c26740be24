// The form that publishes, and what becomes of it: the server's own answer, and how long the event took to come back.

import { refusalIn, refusalOf, refusalText, wordsOf } from "../feed/history.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { curlPublish } from "./commands.js";
import { copyButton } from "./copying.js";
import { span } from "./numbers.js";

/** @import { AnswerKind, FeedEvent, Fields, OnInput, Submitted } from "./types.js" */

const PUBLISHED = 201;
const ARRIVALS = 1_000; // ids remembered, as an event may be here before the answer is
const OPEN = "It may have been published or not. Publishing again will not double it.";

/** What is in the form, what was answered, and how it is sent. */
export class Publisher {
  /** @type {Fields} */
  fields = { topic: "hello", type: "", key: "", data: "", json: false };
  /** @type {{kind: AnswerKind, text: string}} */
  answer = { kind: "", text: "" };
  sending = false;
  #base;
  #changed;
  #key = ""; // the same until there is an answer, so that a second try publishes nothing twice
  /** @type {Map<string, number>} */
  #arrived = new Map();
  /** @type {{id: string, sent: number} | null} */
  #waiting = null;

  /** @param {URL} base @param {() => void} changed there is something new to show */
  constructor(base, changed) {
    this.#base = base;
    this.#changed = changed;
  }

  /** Why the data cannot be sent as JSON; "" where it can. */
  get fault() {
    return this.fields.json && this.fields.data.trim() ? faultOf(this.fields.data) : "";
  }

  /** @template {keyof Fields} K @param {K} name @param {Fields[K]} value */
  set(name, value) {
    this.fields[name] = value;
    this.#key = "";
    this.#changed();
  }

  /**
   * Events that have come: one of them may be the one that was published here.
   * @param {FeedEvent[]} events
   * @param {number} now
   */
  arrived(events, now) {
    for (const event of events) if (event.live) this.#arrived.set(event.id, now);
    for (const id of this.#arrived.keys()) {
      if (this.#arrived.size <= ARRIVALS) break;
      this.#arrived.delete(id);
    }
    this.#match();
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    this.#waiting = null;
    this.#say("", "Publishing …");
    try {
      await this.#post(envelopeOf(this.fields), headerOf(this.fields.key));
    } catch (error) {
      this.#say("bad", error instanceof SyntaxError ? `Not sent: ${error.message}` : `No answer. ${OPEN}`);
    }
    this.sending = false;
    this.#changed();
  }

  /** The same as a command. @param {boolean} withToken */
  curl(withToken) {
    const { topic, type, data, json } = this.fields;
    return curlPublish(this.#base, { topic, type: type || "message", text: data, json }, withToken);
  }

  /** @param {string} body @param {string} key */
  async #post(body, key) {
    this.#key ||= key || newKey();
    const sent = performance.now();
    const response = await fetch(new URL("events", this.#base), {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": this.#key },
      body,
    });
    const id = await idIn(response);
    if (!id) {
      const refusal = await refusalOf(response);
      if (refusalIn(refusal)) this.#key = "";
      this.#say("bad", refusal.ours ? refusalText(refusal) : `${refusalText(refusal)} ${OPEN}`);
      return;
    }
    this.#key = "";
    this.#say("good", `${response.status}: published as ${id}`);
    this.#waiting = { id, sent };
    this.#match();
  }

  #match() {
    if (!this.#waiting) return;
    const { id, sent } = this.#waiting;
    const arrived = this.#arrived.get(id);
    if (arrived === undefined) return;
    const when = arrived < sent ? "it was there already: this key was used" : `delivered back in ${span(arrived - sent)}`;
    this.#say("good", `${this.answer.text}, ${when}`);
    this.#waiting = null;
  }

  /** @param {AnswerKind} kind @param {string} text */
  #say(kind, text) {
    this.answer = { kind, text };
    this.#changed();
  }
}

/**
 * The id of what the feed has published; "" for any other answer.
 * @param {Response} response
 * @returns {Promise<string>}
 */
async function idIn(response) {
  if (response.status !== PUBLISHED) return "";
  const told = await response.json().catch(() => null);
  return told?.id ?? "";
}

/**
 * The body of a publish. In the body and not in the path, where browsers resolve `.` and `..` before anybody could
 * refuse them.
 * @param {Omit<Fields, "key">} fields
 * @throws {SyntaxError} if the data is to be JSON and is not
 */
export function envelopeOf({ topic, type, data, json }) {
  const fault = json ? faultOf(data) : ""; // what is sent as it is has to stay in its place in the body
  if (fault) throw new SyntaxError(`the data is not JSON. ${fault}`);
  const parts = [`"topic":${JSON.stringify(topic)}`, `"data":${json ? data : JSON.stringify(data)}`];
  if (type) parts.push(`"type":${JSON.stringify(type)}`);
  return `{${parts.join(",")}}`;
}

/** @param {string} json */
function faultOf(json) {
  try {
    JSON.parse(json);
    return "";
  } catch (error) {
    return wordsOf(error);
  }
}

/**
 * The browser refuses some headers without a word from the server: with those nothing was published.
 * @param {string} key
 */
function headerOf(key) {
  if (/[^\t\x20-\x7e\x80-\xff]/.test(key)) throw new SyntaxError("an idempotency key is of visible ASCII characters.");
  return key;
}

// crypto.randomUUID is there in secure contexts only, and plain HTTP on another machine is not one.
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (number) => number.toString(36)).join("-");
}

/** The panel. @param {Publisher} publisher @param {boolean} withToken @param {{close(): void}} act */
export function publishPanel(publisher, withToken, act) {
  const { fields, answer, fault } = publisher;
  /** @param {Exclude<keyof Fields, "json">} name */
  const field = (name) => (/** @type {OnInput} */ event) => publisher.set(name, event.target.value);
  return html`
    <div class="heading">
      <h2 id="publish-heading">Publish</h2>
      <button type="button" class="quiet" data-testid="publish-close" @click=${act.close}>Close <kbd>Esc</kbd></button>
    </div>
    <form autocomplete="off" data-testid="publish-form" @submit=${(/** @type {Submitted} */ event) => {
      event.preventDefault();
      publisher.send();
    }}>
      <div class="field">
        <label for="topic">Topic</label>
        <input id="topic" data-testid="topic" .value=${fields.topic} @input=${field("topic")} spellcheck="false" autocapitalize="none" />
      </div>
      <div class="field">
        <label for="type">Type <span class="hint">optional</span></label>
        <input id="type" data-testid="type" placeholder="message" .value=${fields.type} @input=${field("type")} spellcheck="false" autocapitalize="none" />
      </div>
      <div class="field">
        <label for="key">Idempotency key <span class="hint">optional</span></label>
        <input id="key" data-testid="key" placeholder="a new one each time" .value=${fields.key} @input=${field("key")} spellcheck="false" autocapitalize="none" />
      </div>
      <div class="field data">
        <label for="data">Data</label>
        <textarea id="data" data-testid="data" rows="4" .value=${fields.data} @input=${field("data")} spellcheck="false"
          aria-describedby="json-check" aria-invalid=${Boolean(fault)}></textarea>
        <p id="json-check" class=${fault ? "error" : "hint"} data-testid="json-check">${
          fault ? `Not JSON: ${fault}` : fields.json && fields.data.trim() ? "Valid JSON" : ""
        }</p>
      </div>
      <fieldset class="choice">
        <legend class="hint">Send data as</legend>
        ${[false, true].map(
          (json) => html`<label><input type="radio" name="format" data-testid=${json ? "as-json" : "as-text"}
            .checked=${fields.json === json} @change=${() => publisher.set("json", json)} /> ${json ? "JSON" : "Text"}</label>`,
        )}
      </fieldset>
      <div class="bar">
        <button class="primary" data-testid="send">Publish</button>
        ${copyButton("curl", () => publisher.curl(withToken), "Copy as curl")}
        <output data-testid="answer" data-kind=${answer.kind || nothing}>${answer.text}</output>
      </div>
    </form>
  `;
}
