// The token of whoever looks: handed to the server, which puts it into a cookie that no script can read. Nothing of it
// is kept here but when it ends.

import { refusalOf, refusalText } from "../feed/history.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";

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

  /** Begin a session. Gives the patterns that the token lets one subscribe to, or null if it is refused. */
  async begin(token) {
    let claims = null;
    await this.#ask("POST", { Authorization: `Bearer ${token}` }, () => {
      claims = claimsOf(token);
      this.used = true;
      this.open = false;
      this.expires = claims.expires;
    });
    return claims && claims.subscribe;
  }

  /** End it. Gives whether it is. */
  async end() {
    let ended = false;
    await this.#ask("DELETE", {}, () => {
      ended = true;
      this.expires = null;
    });
    return ended;
  }

  async #ask(method, headers, done) {
    if (this.busy) return;
    this.busy = true;
    this.error = "";
    this.#changed();
    try {
      const response = await fetch(new URL("session", this.#base), { method, headers });
      if (response.status === DONE) done();
      else this.error = refusalText(await refusalOf(response));
    } catch {
      this.error = "The server cannot be reached, or this is no token."; // fetch refuses headers that are none
    }
    this.busy = false;
    this.#changed();
  }
}

/**
 * What a token says, unverified: the server has done that, and this is only shown.
 *
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
  const submitted = (event) => {
    event.preventDefault();
    const field = event.target.elements.token;
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
