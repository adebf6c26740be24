// The page at `/`: the feed's events as they come, what state the connection is in, and a form to publish.
//
// Whatever comes from the feed reaches the page as text nodes, never as markup. Addresses are relative to the page's
// own, as the application may stand behind a path prefix.

const MAX_ROWS = 500;
const MAX_CHARACTERS = 4000; // of one event's data: 500 times 256 KiB would be too much for a page
const REPLAYED = 50; // events shown at first

const REASONS = {
  shutdown: "The server is stopping.",
  busy: "The server has no room for another stream now.",
  "token-expired": "The token has expired.",
  slow: "This page read too slowly.",
  kicked: "This stream was ended on the server.",
};

const element = (id) => document.getElementById(id);
const address = (path) => new URL(path, document.baseURI);

/* The connection */

let source;
let lastId = "";
let farewell = ""; // what the server said when it ended the stream

function connect() {
  source?.close();
  const url = address("events/**");
  url.searchParams.set("envelope", "1");
  // A new EventSource knows nothing of what the last one received.
  if (lastId) url.searchParams.set("last_event_id", lastId);
  else url.searchParams.set("last", REPLAYED);
  source = new EventSource(url);
  source.addEventListener("message", received);
  source.addEventListener("feed.open", moved);
  source.addEventListener("feed.position", moved);
  source.addEventListener("feed.gap", gap);
  source.addEventListener("feed.live", live);
  source.addEventListener("feed.closing", closing);
  source.addEventListener("error", broken);
  state("Connecting");
}

function state(word, note = "") {
  // A live region speaks whenever it is touched: touch it only for something new.
  if (element("state").textContent !== word) element("state").textContent = word;
  if (element("note").textContent !== note) element("note").textContent = note;
  element("dot").dataset.state = word;
  element("connect").hidden = word !== "Closed";
}

function moved(event) {
  if (!event.lastEventId) return;
  lastId = event.lastEventId;
  element("last-id").textContent = lastId;
}

function received(event) {
  moved(event);
  show(event.data);
}

function live() {
  farewell = "";
  state("Live");
}

function closing(event) {
  const { reason } = JSON.parse(event.data);
  farewell = REASONS[reason] ?? `The server ended the stream: ${reason}.`;
}

function broken() {
  if (source.readyState === EventSource.CLOSED) {
    state("Closed", farewell || "The browser has given up on this stream. Connecting again resumes after the last event id.");
  } else {
    state("Reconnecting", farewell || "The connection broke. The browser is trying again.");
  }
}

function gap(event) {
  moved(event);
  const { requested, resumed_from: resumed, reason } = JSON.parse(event.data);
  const why = reason === "expired" ? "what came after it is no longer kept" : "the log here does not know it";
  element("gap-text").textContent =
    `Events may be missing. This page asked for what came after ${requested}, but ${why}. It goes on after ${resumed}.`;
  element("gap").hidden = false;
}

element("connect").addEventListener("click", connect);
element("gap-dismiss").addEventListener("click", () => {
  element("gap").hidden = true;
});

/* The events */

const ENVELOPE = /^\{"id":"(?:[^"\\]|\\.)*","topic":"(?:[^"\\]|\\.)*","type":"(?:[^"\\]|\\.)*","data":(.*),"time":"[^"]*"\}$/s;

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
  hourCycle: "h23",
});
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

let waiting = []; // for the next frame

function show(envelope) {
  if (waiting.push(envelope) === 1) requestAnimationFrame(paint);
  if (waiting.length > MAX_ROWS) waiting.shift(); // a hidden page gets no frames
}

function paint() {
  const events = element("events");
  events.prepend(...waiting.map(row).reverse());
  waiting = [];
  while (events.rows.length > MAX_ROWS) events.lastElementChild.remove();
  element("empty").hidden = true;
  element("table").hidden = false;
  const count = events.rows.length;
  element("count").textContent = count < MAX_ROWS ? `${count} shown` : `the newest ${count} shown`;
}

function row(envelope) {
  const event = JSON.parse(envelope);
  const time = new Date(event.time);
  const today = time.toDateString() === new Date().toDateString();
  const content = element("row").content.cloneNode(true);
  const cell = (name) => content.querySelector(`[data-testid="event-${name}"]`);
  cell("time").dateTime = cell("time").title = event.time;
  cell("time").textContent = (today ? "" : `${day.format(time)} `) + clock.format(time);
  cell("topic").textContent = event.topic;
  cell("type").textContent = event.type;
  cell("id").textContent = event.id;
  const text = dataText(event.data, envelope);
  cell("data").textContent = text.slice(0, MAX_CHARACTERS);
  if (text.length > MAX_CHARACTERS) {
    cell("cut").textContent = `and ${(text.length - MAX_CHARACTERS).toLocaleString()} more characters`;
    cell("cut").hidden = false;
  }
  return content;
}

// JSON is cut out of the text as it came: parsed and written again, a 30-digit number would be another one.
function dataText(data, envelope) {
  return typeof data === "string" ? data : (ENVELOPE.exec(envelope)?.[1] ?? JSON.stringify(data));
}

/* The form */

const form = element("publish");
const fields = form.elements;
const NO_ANSWER = "No answer, so it may have been published or not. Publishing again will not double it.";
let key = ""; // the same until there is an answer, so that a second try publishes nothing twice
let sending = false;

form.addEventListener("input", () => {
  key = "";
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (sending) return;
  sending = true;
  answer("", "Publishing …");
  try {
    await publish(envelopeOf(fields));
  } catch (error) {
    answer("bad", error instanceof SyntaxError ? `Not sent: the data is not JSON. ${error.message}` : NO_ANSWER);
  }
  sending = false;
});

// In the body and not in the path, where browsers resolve `.` and `..` before anybody could refuse them.
function envelopeOf({ topic, type, data, format }) {
  const json = format.value === "json";
  if (json) JSON.parse(data.value); // so that what is sent as it is stays in its place in the body
  const parts = [`"topic":${JSON.stringify(topic.value)}`, `"data":${json ? data.value : JSON.stringify(data.value)}`];
  if (type.value) parts.push(`"type":${JSON.stringify(type.value)}`);
  return `{${parts.join(",")}}`;
}

async function publish(body) {
  key ||= newKey();
  const response = await fetch(address("events"), {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": key },
    body,
  });
  const told = await response.json().catch(() => ({}));
  if (response.status < 500) key = "";
  if (response.ok) answer("good", `${response.status}: published as ${told.id}`);
  else answer("bad", `${response.status}: ${told.detail ?? response.statusText}`);
}

// crypto.randomUUID is there in secure contexts only, and plain HTTP on another machine is none.
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (number) => number.toString(36)).join("-");
}

function answer(kind, text) {
  element("answer").dataset.kind = kind;
  element("answer").textContent = text;
}

/* The beginning */

element("curl-publish").textContent = `curl -d 'Hello' ${address("events/hello")}`;
element("curl-subscribe").textContent = `curl -N ${address("events/hello")}`;
element("publish-panel").open = matchMedia("(min-width: 60rem)").matches;
connect();
