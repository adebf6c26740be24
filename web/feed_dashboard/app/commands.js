// Texts to copy: commands for a shell, a snippet of JavaScript, and an event as the stream carries it. Pure.
//
// What is in an event was written by a stranger, and ends in somebody's shell: it is quoted, and what a terminal would
// obey (control characters, and those that turn the direction of writing) is escaped.

/** @import { FeedEvent, Publishable } from "./types.js" */

const OBEYED = /[\p{Cc}\p{Cf}\u2028\u2029]/gu;
const NOT_PLAIN = /[^\P{Cc}\n\t]|\p{Cf}/u;

/** A word of a POSIX shell. @param {string} text */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * The URL of a topic or pattern below `base`.
 * @param {URL | string} base
 * @param {string} topic
 * @param {Record<string, string>} query
 */
export function urlOf(base, topic, query = {}) {
  const url = new URL(`events/${topic.split("/").map(encodeURIComponent).join("/")}`, base);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return url.href.replaceAll("%2A", "*");
}

/**
 * The command that publishes the same once more.
 *
 * @param {URL | string} base @param {Publishable} event @param {boolean} withToken the server has a key
 */
export function curlPublish(base, event, withToken = false) {
  const token = withToken ? [`-H "Authorization: Bearer $FEED_TOKEN"`] : [];
  /** @type {Record<string, string>} */
  const query = event.type === "message" ? {} : { type: event.type };
  if (!event.json && NOT_PLAIN.test(event.text)) {
    return curl([...token, ...asJson(escaped(JSON.stringify(event.text)))], urlOf(base, event.topic, query));
  }
  // A tab in JSON stands between tokens, where it cannot be escaped, and a terminal would complete a word by it.
  const data = event.json ? asJson(escaped(event.text.replaceAll("\t", " "))) : [`--data-raw ${quoted(event.text)}`];
  return curl([...token, ...data], urlOf(base, event.topic, query));
}

/**
 * The command that follows the event's topic, from after this event on.
 * @param {URL | string} base
 * @param {FeedEvent} event
 */
export function curlSubscribe(base, event, withToken = false) {
  const token = withToken ? [`-H "Authorization: Bearer $FEED_TOKEN"`] : [];
  const resume = event.id ? [`-H ${quoted(`Last-Event-ID: ${event.id}`)}`] : [];
  return curl(["-N", ...token, ...resume], urlOf(base, event.topic));
}

/** The same for a page. @param {URL | string} base @param {FeedEvent} event */
export function javaScript(base, event) {
  /** @type {Record<string, string>} */
  const query = event.id ? { after: event.id } : {};
  const name = event.type === "message" ? "message" : event.type;
  return [
    `const source = new EventSource(${literal(urlOf(base, event.topic, query))});`,
    `source.addEventListener(${literal(name)}, (event) => console.log(event.lastEventId, event.data));`,
  ].join("\n");
}

/** The event as `curl -N` shows it (WHATWG HTML, 9.2.5). @param {FeedEvent} event */
export function frame(event) {
  const type = event.type === "message" ? "" : `event: ${event.type}\n`;
  const data = event.text.split(/\r\n|\r|\n/).map((line) => `data: ${line}\n`);
  return `id: ${event.id}\n${type}${data.join("")}\n`;
}

/**
 * JSON with line breaks and indents. Only space between tokens is touched: parsed and written again, a 30-digit number
 * would be another one.
 * @param {string} json
 */
export function pretty(json) {
  /** @param {number} depth */
  const indent = (depth) => `\n${"  ".repeat(depth)}`;
  let depth = 0;
  let empty = false; // a bracket was opened, and nothing stands in it yet
  let text = "";
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gs)) {
    const closes = token === "}" || token === "]";
    if (closes) depth -= 1;
    if (closes ? !empty : empty) text += indent(depth);
    text += token === ":" ? ": " : token;
    empty = token === "{" || token === "[";
    if (empty) depth += 1;
    if (token === ",") text += indent(depth);
  }
  return text;
}

/** @param {string} text */
function asJson(text) {
  return [`-H 'Content-Type: application/json'`, `--data-raw ${quoted(text)}`];
}

/** @param {string[]} options @param {string} url */
function curl(options, url) {
  return ["curl", ...options, quoted(url)].join(" ");
}

// Valid in a string of JSON or JavaScript, the only place where these can stand.
/** @param {string} text */
function escaped(text) {
  return text.replace(OBEYED, (character) =>
    Array.from({ length: character.length }, (_, at) => `\\u${character.charCodeAt(at).toString(16).padStart(4, "0")}`).join(""),
  );
}

/** @param {string} text */
function literal(text) {
  return escaped(JSON.stringify(text)).replaceAll("<", "\\u003c");
}
