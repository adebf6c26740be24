// npm's eventsource: node eventsource.mjs URL [by-hand] TYPE…
import { EventSource } from "eventsource";

const [url, ...words] = process.argv.slice(2);
const types = words.filter((word) => word !== "by-hand");
// A program that does nothing else ends while it waits to reconnect: the timer does not keep it alive.
if (types.length < words.length) setInterval(() => {}, 1 << 30);
const source = new EventSource(url);
for (const type of ["message", ...types]) {
  source.addEventListener(type, (event) => {
    console.log(JSON.stringify({ id: event.lastEventId, type: event.type, data: event.data }));
  });
}
