// The token of whoever looks: handed to the server, which puts it into a cookie that no script can read. Nothing of it
// is kept here but when it ends.

import { refusalOf, refusalText } from "../feed/history.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";

/** @import { Submitted } from "./types.js" */

const DONE = 204; // a proxy's page for signing in is 200

/** What the token box shows, and what it does. */
export class Session {
  open = false;
  error = "";
  busy = false;
  /** Whether the server has a key, as far as this page knows. */
  used = false;
  /** @type {?number} when the token ends, in milliseconds since 1970 */
  expires = null;
  #base;
  #changed;

  /** @param {URL} base @param {() => void} changed there is something new to show */
  constructor(base, changed) {
    this.#base = base;
    this.#changed = changed;
  }

  /**
   * Begin a session. Gives the patterns that the token lets one subscribe to, or null if it is refused.
   * @param {string} token
   */
  async begin(token) {
    const { expires, subscribe } = claimsOf(token);
    const begun = await this.#ask("POST", { Authorization: `Bearer ${token}` }, () => {
      this.used = true;
      this.open = false;
      this.expires = expires;
    });
    return begun ? subscribe : null;
  }

  /** End it. Gives whether it is. */
  async end() {
    return this.#ask("DELETE", {}, () => {
      this.expires = null;
    });
  }

  /**
   * @param {string} method
   * @param {Record<string, string>} headers
   * @param {() => void} done
   * @returns {Promise<boolean>}
   */
  async #ask(method, headers, done) {
    if (this.busy) return false;
    let answered = false;
    this.busy = true;
    this.error = "";
    this.#changed();
    try {
      const response = await fetch(new URL("session", this.#base), { method, headers });
      answered = response.status === DONE;
      if (answered) done();
      else this.error = refusalText(await refusalOf(response));
    } catch {
      this.error = "The server cannot be reached, or this is not a token."; // fetch refuses what a header cannot hold
    }
    this.busy = false;
    this.#changed();
    return answered;
  }
}

/**
 * What a token says, unverified: the server has done that, and this is only shown.
 *
 * @param {string} token
 * @returns {{expires: ?number, subscribe: string[]}} milliseconds since 1970, patterns
 */
export function claimsOf(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(payload), (byte) => byte.charCodeAt(0))));
    const subscribe = claims.feed?.subscribe;
    return {
      expires: typeof claims.exp === "number" ? claims.exp * 1000 : null,
      subscribe: Array.isArray(subscribe) ? subscribe.filter((pattern) => typeof pattern === "string") : [],
    };
  } catch {
    return { expires: null, subscribe: [] };
  }
}

/** The box. @param {Session} session @param {{begin(token: string): void, end(): void}} act */
export function tokenBox({ error, busy, expires }, act) {
  const submitted = (/** @type {Submitted} */ event) => {
    event.preventDefault();
    const field = /** @type {HTMLInputElement} */ (event.target.elements.namedItem("token"));
    const token = field.value.trim();
    field.value = "";
    if (token) act.begin(token);
  };
  return html`<form class="banner token" autocomplete="off" data-testid="token-box" @submit=${submitted}>
    <label class="field">
      Token
      <input type="password" name="token" autocomplete="off" spellcheck="false" data-testid="token-field" aria-describedby="token-hint" />
    </label>
    <button class="primary" ?disabled=${busy} data-testid="sign-in">Use it</button>
    <button type="button" class="quiet" ?disabled=${busy} data-testid="sign-out" @click=${act.end}>Forget the session</button>
    <p class="hint" id="token-hint">
      For a server with keys: <code>feed token --subscribe '**'</code> makes one. It becomes a cookie that no script can
      read, until it ends, and is kept nowhere else.
      ${expires ? html`The one in use ends at ${new Date(expires).toLocaleString()}.` : nothing}
    </p>
    ${error ? html`<p class="error" role="alert" data-testid="token-error">${error}</p>` : nothing}
  </form>`;
}
