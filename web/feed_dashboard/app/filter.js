// What the filter line means: a text, a regular expression, or a field and its value. Pure.

import { valuesAt } from "../feed/json.js";
import { compared } from "./decimals.js";

/** @import { FeedEvent, Pass, View } from "./types.js" */

const FIELD = /^([\p{L}\p{N}_$.-]+)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*$/u;
const QUOTED = /^"(.*)"$|^'(.*)'$/;
const OWN = /** @type {const} */ (["id", "topic", "type"]);

/**
 * `text` is a string's, or else JSON as it is written.
 * @type {Record<string, (value: {text: string, string: boolean}, wanted: string) => boolean>}
 */
const COMPARE = {
  "=": ({ text, string }, wanted) => text === wanted || (!string && compared(text, wanted) === 0),
  "!=": (value, wanted) => !COMPARE["="](value, wanted),
  ">": ({ text }, wanted) => compared(text, wanted) > 0,
  ">=": ({ text }, wanted) => compared(text, wanted) >= 0,
  "<": ({ text }, wanted) => compared(text, wanted) < 0,
  "<=": ({ text }, wanted) => compared(text, wanted) <= 0,
};

/**
 * A test of events for what somebody wrote.
 *
 * - `payment` passes where topic, type, id or data hold it, in any case of letters.
 * - `total=3`, `customer.name=Ann`, `total>100` (also `!=`, `<`, `>=`, `<=`) pass where the data is JSON and its field is
 *   so, of several with one name any of them; `id`, `topic` and `type` are the event's own. Numbers count as they are
 *   written, to the last digit: 1.10 is 1.1 and 11e-1, and nothing that is only near.
 * - With `regex` it is a regular expression on the same texts as the first.
 *
 * @param {string} text
 * @param {boolean} regex
 * @returns {Pass}
 * @throws {SyntaxError} for what is not a regular expression
 */
export function filterOf(text, regex) {
  if (!text) return () => true;
  if (regex) {
    const expression = new RegExp(text, "iu");
    return (event) => texts(event).some((part) => expression.test(part));
  }
  const wanted = text.toLowerCase();
  /** @type {Pass} */
  const holds = (event) => texts(event).some((part) => part.toLowerCase().includes(wanted));
  const field = FIELD.exec(text);
  if (!field) return holds;
  const [, path, operator, written] = field;
  const value = QUOTED.exec(written)?.slice(1).join("") ?? written;
  const compare = COMPARE[operator];
  const own = OWN.find((name) => name === path);
  if (own) return (event) => compare({ text: event[own], string: true }, value);
  return (event) => {
    if (!event.json) return holds(event);
    return valuesAt(event.text, path).some((json) => compare(read(json), value));
  };
}

/** @param {string} json */
function read(json) {
  const string = json.startsWith('"');
  return { text: string ? JSON.parse(json) : json, string };
}

/**
 * What is shown altogether: ticked topics (with what is below them), one type, and the filter line.
 *
 * @param {View} view
 * @returns {Pass}
 */
export function passOf({ show, type, filter, regex }) {
  const pass = filterOf(filter, regex);
  return (event) => (!type || event.type === type) && (!show.size || isBelow(event.topic, show)) && pass(event);
}

/** Whether a topic or one that it is below is in the set. @param {string} topic @param {Set<string>} paths */
export function isBelow(topic, paths) {
  for (let end = topic.length; end > 0; end = topic.lastIndexOf("/", end - 1)) {
    if (paths.has(topic.slice(0, end))) return true;
  }
  return false;
}

/** @param {FeedEvent} event */
function texts(event) {
  return [event.text, event.topic, event.type, event.id];
}
