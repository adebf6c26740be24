// Pages of history, and addresses: what is asked of the feed besides a stream. Every answer is a value, no error is
// thrown: what a page could not be had for decides what happens next.

import { pageOf } from "./event.js";

/** @import { Answer, Asked, NoPage, Query, Refused } from "./types.js" */

const PROBLEM = "application/problem+json";
const MOST_DETAIL = 2_000; // characters
const AGAIN = new Set([408, 425, 429]); // of 4xx: may be another answer the next time

/** Of an answer that a proxy gives in place of the feed. */
export const NO_FEED = "The answer did not come from the feed.";

/**
 * @param {Asked} asked
 * @param {string} path `events` or `ws`
 * @param {Query} parameters empty ones are left out
 * @returns {URL}
 */
export function addressOf({ base, topics, types, latest }, path, parameters) {
  const url = new URL(path, base);
  for (const topic of topics) url.searchParams.append("topic", topic);
  for (const type of types) url.searchParams.append("type", type);
  if (latest) url.searchParams.set("latest", "1");
  for (const [name, value] of Object.entries(parameters)) if (value) url.searchParams.set(name, String(value));
  return url;
}

/**
 * A page of what `asked` is about.
 * @param {Asked} asked
 * @param {Query} parameters `limit`, `after`, `last` …
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
    const page = pageIn(await response.text());
    return page ? { status: 200, detail: "", ours: true, retry: null, page } : noAnswer(NO_FEED);
  } catch (error) {
    return noAnswer(late.signal.aborted ? `No answer within ${timeout / 1000} s.` : wordsOf(error));
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", leave);
  }
}

/**
 * Null for what is not a page of the feed: a proxy may answer in its place.
 * @param {string} text
 */
function pageIn(text) {
  try {
    return pageOf(text);
  } catch {
    return null;
  }
}

/** @param {string} detail @returns {NoPage} */
function noAnswer(detail) {
  return { status: 0, detail, ours: false, retry: null, page: null };
}

/**
 * What an answer other than 200 says. Never rejects.
 * @param {Response} response
 * @returns {Promise<NoPage>}
 */
export async function refusalOf(response) {
  const { status, statusText, headers } = response;
  const problem = await problemIn(response);
  const said = typeof problem?.detail === "string" ? problem.detail.slice(0, MOST_DETAIL) : "";
  const detail = said || `${status} ${statusText}`.trim();
  const retry = waitIn(headers.get("Retry-After") ?? "", Date.parse(headers.get("Date") ?? "") || Date.now());
  return { status, detail, ours: problem !== null, retry, page: null };
}

/**
 * The feed's own problem document, null for another answer. Any status may be that of a proxy in front.
 * @param {Response} response
 */
async function problemIn(response) {
  const [kind] = (response.headers.get("Content-Type") ?? "").split(";");
  if (kind.trim().toLowerCase() !== PROBLEM) {
    response.body?.cancel().catch(() => {});
    return null;
  }
  const problem = await response.json().catch(() => null);
  return problem?.status === response.status ? problem : null;
}

/**
 * What is refused for good, as a state. Only the feed itself can do that: all else is a proxy speaking, for a while.
 * @param {Answer} answer
 * @returns {Refused | null} null: try again
 */
export function refusalIn({ status, ours, detail }) {
  if (!ours || status < 400 || status >= 500 || AGAIN.has(status)) return null;
  const reason = status === 401 ? "unauthenticated" : status === 403 ? "forbidden" : "invalid";
  return { name: "refused", status, reason, detail };
}

/** What the feed refuses, in words; or that it is not the feed who answers. @param {Answer} answer */
export function refusalText({ status, ours, detail }) {
  return `${status}: ${ours ? detail : NO_FEED}`;
}

const DATE = /^[A-Z][a-z]{2}, (\d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT)$/;
const DATE_OF_1985 = /^[A-Z][a-z]{5,8}, (\d\d)-([A-Z][a-z]{2})-(\d\d) (\d\d:\d\d:\d\d GMT)$/;
const DATE_OF_C = /^[A-Z][a-z]{2} ([A-Z][a-z]{2} [ \d]\d) (\d\d:\d\d:\d\d) (\d{4})$/;

/**
 * What the header `Retry-After` says (RFC 9110, 10.2.3): seconds, or a date in one of three ways (5.6.7).
 * @param {string} header
 * @param {number} now milliseconds since 1970, by the clock of whoever sent it
 * @returns {number | null} milliseconds, null where it says nothing that can be read
 */
export function waitIn(header, now) {
  if (/^\d+$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(dateIn(header, new Date(now).getUTCFullYear()));
  return Number.isNaN(date) ? null : Math.max(0, date - now);
}

/** @param {string} header @param {number} year */
function dateIn(header, year) {
  const found = DATE.exec(header);
  if (found) return found[1];
  const [, date, time, inYear] = DATE_OF_C.exec(header) ?? [];
  if (date) return `${date} ${inYear} ${time} GMT`;
  const [, day, month, digits, rest] = DATE_OF_1985.exec(header) ?? [];
  if (!day) return "";
  // Of the years that end so, the one that is not more than fifty ahead.
  const oldest = year - 49;
  return `${day} ${month} ${oldest + ((Number(digits) - (oldest % 100) + 100) % 100)} ${rest}`;
}

/** What to say of an error of the browser. @param {unknown} error */
export function wordsOf(error) {
  return error instanceof Error ? error.message : String(error);
}
