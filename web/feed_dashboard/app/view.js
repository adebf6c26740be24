// What of the page is in its address, so that a view can be shared. Never a token. Pure.

/** @import { Transport, View } from "./types.js" */

/** @type {Transport[]} */
export const TRANSPORTS = ["eventsource", "websocket", "fetch"];
export const EVERYTHING = "**";
const MOST_TOPICS = 100; // as many as the server takes
const MOST_SHOWN = 500;

/** @param {string} search what follows the address, `?topic=…` @returns {View} */
export function readView(search) {
  const query = new URLSearchParams(search);
  const topic = query.get("chart");
  const field = query.get("field");
  const topics = [...new Set(query.getAll("topic").filter(Boolean))].slice(0, MOST_TOPICS);
  return {
    topics: topics.length ? topics : [EVERYTHING],
    show: new Set(query.getAll("show").filter(Boolean).slice(0, MOST_SHOWN)),
    type: query.get("type") ?? "",
    filter: query.get("filter") ?? "",
    regex: query.get("regex") === "1",
    transport: TRANSPORTS.find((name) => name === query.get("transport")) ?? TRANSPORTS[0],
    // No pattern; and "" is the field of a number that is in none.
    chart: topic && !topic.includes("*") && field !== null ? { topic, field } : null,
  };
}

/** The other way round; what is as it is anyway is left out. @param {View} view */
export function writeView({ topics, show, type, filter, regex, transport, chart }) {
  const query = new URLSearchParams();
  if (topics.length !== 1 || topics[0] !== EVERYTHING) for (const topic of topics) query.append("topic", topic);
  for (const path of show) query.append("show", path);
  if (type) query.set("type", type);
  if (filter) query.set("filter", filter);
  if (filter && regex) query.set("regex", "1");
  if (transport !== TRANSPORTS[0]) query.set("transport", transport);
  if (chart) query.set("chart", chart.topic);
  if (chart) query.set("field", chart.field);
  const text = query.toString().replaceAll("%2F", "/").replaceAll("%2A", "*");
  return text && `?${text}`;
}
