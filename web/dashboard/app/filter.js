// What the filter line means: a text, a regular expression, or a field and its value. Pure.

const FIELD = /^([\p{L}\p{N}_$.-]+)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*$/u;
const QUOTED = /^"(.*)"$|^'(.*)'$/;
const OWN = new Set(["id", "topic", "type"]);

const COMPARE = {
  "=": (value, wanted) => String(value) === wanted,
  "!=": (value, wanted) => String(value) !== wanted,
  ">": (value, wanted) => value > Number(wanted),
  ">=": (value, wanted) => value >= Number(wanted),
  "<": (value, wanted) => value < Number(wanted),
  "<=": (value, wanted) => value <= Number(wanted),
};

/**
 * A test of events for what somebody wrote.
 *
 * - `payment` passes where topic, type, id or data hold it, in any case of letters.
 * - `total=3`, `customer.name=Ann`, `total>100` (also `!=`, `<`, `>=`, `<=`) pass where the data is JSON and its field is
 *   so; `id`, `topic` and `type` are the event's own.
 * - With `regex` it is a regular expression on the same texts as the first.
 *
 * @param {string} text
 * @param {boolean} regex
 * @returns {(event: object) => boolean}
 * @throws {SyntaxError} for what is no regular expression
 */
export function filterOf(text, regex) {
  if (!text) return () => true;
  if (regex) {
    const expression = new RegExp(text, "iu");
    return (event) => texts(event).some((part) => expression.test(part));
  }
  const wanted = text.toLowerCase();
  const holds = (event) => texts(event).some((part) => part.toLowerCase().includes(wanted));
  const field = FIELD.exec(text);
  if (!field) return holds;
  const [, path, operator, written] = field;
  const value = QUOTED.exec(written)?.slice(1).join("") ?? written;
  const compare = COMPARE[operator];
  if (OWN.has(path)) return (event) => compare(event[path], value);
  return (event) => {
    if (!event.json) return holds(event);
    const found = fieldOf(JSON.parse(event.text), path); // not `data`, which each of 5,000 events would keep
    return found !== undefined && compare(found, value);
  };
}

/** The value at `a.b.0` of what was JSON; undefined where there is none. A name with dots in it is found too. */
export function fieldOf(value, path) {
  if (value === null || typeof value !== "object") return undefined;
  if (Object.hasOwn(value, path)) return value[path];
  const dot = path.indexOf(".");
  if (dot < 0 || !Object.hasOwn(value, path.slice(0, dot))) return undefined;
  return fieldOf(value[path.slice(0, dot)], path.slice(dot + 1));
}

/**
 * What is shown altogether: ticked topics (with what is below them), one type, and the filter line.
 *
 * @param {{show: Set<string>, type: string, filter: string, regex: boolean}} view
 */
export function passOf({ show, type, filter, regex }) {
  const pass = filterOf(filter, regex);
  return (event) => (!type || event.type === type) && (!show.size || isBelow(event.topic, show)) && pass(event);
}

/** Whether a topic or one that it is below is in the set. */
export function isBelow(topic, paths) {
  for (let end = topic.length; end > 0; end = topic.lastIndexOf("/", end - 1)) {
    if (paths.has(topic.slice(0, end))) return true;
  }
  return false;
}

function texts(event) {
  return [event.text, event.topic, event.type, event.id];
}
