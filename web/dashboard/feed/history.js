// Pages of history, and addresses: what is asked of the feed besides a stream. Every answer is a value, no error is
// thrown: what a page could not be had for decides what happens next.

import { pageOf } from "./event.js";

const PROBLEM = "application/problem+json";
const MOST_DETAIL = 2_000; // characters of somebody else's error page are enough

/**
 * What one subscription asks for, as plain values, which can be passed to a worker.
 * @typedef {object} Asked
 * @property {string} base the directory that holds `events` and `ws`
 * @property {string[]} topics
 * @property {string[]} types
 * @property {RequestCredentials} credentials
 */

/**
 * @typedef {object} Answer
 * @property {number} status 0 if there was none
 * @property {string} detail why it is not 200
 * @property {boolean} ours whether it is the feed that answered, and nothing in front of it
 * @property {number | null} retry milliseconds after which to come back, if the answer says so
 * @property {{envelopes: string[], next: string, gap?: object} | null} page
 */

/**
 * @param {Asked} asked
 * @param {string} path `events` or `ws`
 * @param {Record<string, string | number>} parameters empty ones are left out
 * @returns {URL}
 */
export function addressOf({ base, topics, types }, path, parameters) {
  const url = new URL(path, base);
  for (const topic of topics) url.searchParams.append("topic", topic);
  for (const type of types) url.searchParams.append("type", type);
  for (const [name, value] of Object.entries(parameters)) if (value) url.searchParams.set(name, value);
  return url;
}

/**
 * A page of what `asked` is about.
 * @param {Asked} asked
 * @param {Record<string, string | number>} parameters `limit`, `last_event_id`, `last` …
 * @param {AbortSignal} signal
 * @param {number} timeout milliseconds for all of it
 * @returns {Promise<Answer>}
 */
export async function readPage(asked, parameters, signal, timeout) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), timeout);
  const leave = () => late.abort();
  signal.addEventListener("abort", leave);
  if (signal.aborted) leave();
  try {
    const response = await fetch(addressOf(asked, "events", parameters), {
      headers: { Accept: "application/json" },
      credentials: asked.credentials,
      cache: "no-store",
      signal: late.signal,
    });
    if (response.status !== 200) return await refusalOf(response);
    return { status: 200, detail: "", ours: true, retry: null, page: pageOf(await response.text()) };
  } catch (error) {
    const detail = late.signal.aborted ? `No answer within ${timeout / 1000} s.` : wordsOf(error);
    return { status: 0, detail, ours: false, retry: null, page: null };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", leave);
  }
}

/**
 * What an answer other than 200 says. Never rejects.
 * @param {Response} response
 * @returns {Promise<Answer>}
 */
export async function refusalOf(response) {
  const ours = response.headers.get("Content-Type")?.startsWith(PROBLEM) ?? false;
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  let detail = `${response.status} ${response.statusText}`.trim();
  if (ours) {
    const problem = await response.json().catch(() => ({}));
    if (typeof problem.detail === "string") detail = problem.detail.slice(0, MOST_DETAIL);
  } else {
    response.body?.cancel().catch(() => {});
  }
  return { status: response.status, detail, ours, retry: Number.isFinite(seconds) ? seconds * 1000 : null, page: null };
}

/** What to say of an error of the browser. */
export function wordsOf(error) {
  return error instanceof Error ? error.message : String(error);
}
