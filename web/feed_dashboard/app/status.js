// What the state of the connection is called, in words. Pure.

/** @import { Described, Gap, Resumed, State } from "./types.js" */

/** @type {Record<string, string>} */
const REASONS = {
  unreachable: "The server cannot be reached.",
  ended: "The stream broke off.",
  shutdown: "The server is stopping.",
  busy: "The server has no room for another stream now.",
  slow: "This page read too slowly.",
  kicked: "This stream was ended on the server.",
  "token-expired": "The token has expired.",
};

const WORDS = {
  connecting: "Connecting",
  replaying: "Catching up",
  live: "Live",
  waiting: "Reconnecting",
  offline: "Offline",
  closed: "Closed",
  unauthenticated: "Token needed",
  expired: "Token expired",
  forbidden: "Not allowed",
  invalid: "Refused",
};

/** Where the application around the feed has a login of its own. */
const OWN_LOGIN_WORDS = { unauthenticated: "Sign in first", expired: "Sign in again" };

/** @type {Partial<Record<State["name"], "good" | "wait">>} */
const KINDS = { live: "good", connecting: "wait", replaying: "wait", waiting: "wait" };

/**
 * @param {State} state `feed.state` @param {number} now milliseconds since 1970
 * @param {boolean} ownLogin whether it is the application around the feed that knows who looks
 * @returns {Described}
 */
export function described(state, now, ownLogin = false) {
  const words = ownLogin ? { ...WORDS, ...OWN_LOGIN_WORDS } : WORDS;
  return {
    word: words[state.name === "refused" ? state.reason : state.name],
    kind: KINDS[state.name] ?? "bad",
    note: noteOf(state, now),
    canRetry: ["waiting", "offline", "refused"].includes(state.name),
  };
}

/** @param {State} state @param {number} now */
function noteOf(state, now) {
  switch (state.name) {
    case "replaying":
      return state.after ? `after ${state.after}` : "";
    case "live":
      return state.resumed ? resumedText(state.resumed) : "";
    case "waiting": {
      const seconds = Math.max(0, Math.ceil((state.retryAt - now) / 1000));
      return `in ${seconds} s. ${REASONS[state.reason] ?? state.detail ?? ""}`.trim();
    }
    case "offline":
      return "This device has no network. It goes on by itself.";
    case "refused":
      return state.detail ?? "";
    default:
      return "";
  }
}

/** @param {Resumed} resumed */
function resumedText({ after, replayed }) {
  const events = replayed === 1 ? "1 event" : `${replayed.toLocaleString("en")} events`;
  return `resumed after ${after}, ${replayed ? `${events} replayed` : "nothing to replay"}`;
}

/** Why events may be missing. @param {Gap} gap */
export function gapText({ requested, resumedFrom, reason }) {
  const why = reason === "expired" ? "what came after it is no longer kept" : "the log here does not know it";
  return `Events are gone. This page asked for what came after ${requested}, but ${why}. It goes on after ${resumedFrom}.`;
}
