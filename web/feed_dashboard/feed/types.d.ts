// The types of feed.js and its parts, for editors and type checkers: no browser loads this file. Those of the first
// part are what a page sees.

import type { FeedEvent } from "./event.js";

export type Transport = "eventsource" | "websocket" | "fetch";

/** What `connect` takes; its defaults stand there. */
export interface FeedOptions extends CommonOptions {
  /** Only these. */
  types?: readonly string[];
  /** Resume after this id; `earliest`: with the oldest retained event. */
  after?: string;
  /** Else begin with the newest so many, at most 1,000; neither: begin now. */
  last?: number;
  /** In place of `after` and `last`: loads what the page shows, and returns where to begin. */
  load?: Load;
  latest?: false;
}

/** What `connect` takes for the state: of each topic the newest event, then what changes. */
export interface LatestOptions extends CommonOptions {
  latest: true;
  /** Milliseconds, 100 to 60,000: each topic comes at most once in such a time. */
  every?: number;
}

/** Ask for the position, then read the data, then return the position. It is run at first, and after every gap. */
export type Load = () => Promise<string>;

export interface CommonOptions {
  /** Patterns; all topics unless given. */
  topics?: readonly string[];
  /** Where the feed is: the directory that holds `events` and `ws`. */
  base?: string | URL;
  transport?: Transport;
  /** One connection for all tabs that ask for the same. */
  shared?: boolean;
  /** `include` for a feed of another origin that needs a cookie. */
  credentials?: RequestCredentials;
  /** Seconds of silence after which the connection is checked. */
  quiet?: number;
}

/** What is: topics with their newest events. */
export type Latest = ReadonlyMap<string, FeedEvent>;

/** What the connection is doing: a `name`, and facts. */
export type State = Connecting | Replaying | Live | Waiting | Offline | Refused | Closed;

/** The stream is being opened, or `load` is running. */
export interface Connecting {
  readonly name: "connecting";
}

/** What came after an id is on its way. */
export interface Replaying {
  readonly name: "replaying";
  readonly after: string;
}

export interface Live {
  readonly name: "live";
  /** After which id it went on, with how many events; null where it began with now. */
  readonly resumed: Resumed | null;
}

export interface Resumed {
  readonly after: string;
  readonly replayed: number;
}

/** It is tried again at `retryAt`. */
export interface Waiting {
  readonly name: "waiting";
  /** Milliseconds since 1970. */
  readonly retryAt: number;
  /** `unreachable`, `ended`, `load` where that has failed, or the server's own: `shutdown`, `busy`, `slow`, `kicked`, `token-expired`. */
  readonly reason: string;
  readonly detail: string;
}

/** The browser has no network. It is tried again when it has, and now and then. */
export interface Offline {
  readonly name: "offline";
}

/**
 * Refused, until `feed.retry()`. Only by a problem document of the feed itself: whatever else answers is a proxy in
 * front, and it is tried again.
 */
export interface Refused {
  readonly name: "refused";
  /** The answer's. */
  readonly status: number;
  /** `expired` is the token, `invalid` are topics or types. */
  readonly reason: "unauthenticated" | "expired" | "forbidden" | "invalid";
  readonly detail: string;
}

/** By `feed.close()`. */
export interface Closed {
  readonly name: "closed";
}

/** Events between the two ids may be gone, from the log itself. */
export interface Gap {
  requested: string;
  resumedFrom: string;
  reason: string;
}

/** The server ends the stream. It is opened again, after as many milliseconds. */
export interface Closing {
  reason: string;
  retry: number;
}

/** What a `Feed` dispatches: the `detail` of each event. */
export interface FeedEventMap {
  event: FeedEvent;
  /** The same, once for each batch, before the single ones: for pages that show many. */
  events: FeedEvent[];
  state: State;
  /** With `latest`: `feed.state`, which is whole. Each time that the connection has become live. */
  live: Latest;
  gap: Gap;
  closing: Closing;
  /** What `load` has thrown. */
  error: unknown;
  /** Nothing for this page, but the feed has moved on. */
  position: { id: string };
}

type Listener<K extends keyof FeedEventMap> =
  | ((event: CustomEvent<FeedEventMap[K]>) => void)
  | { handleEvent(event: CustomEvent<FeedEventMap[K]>): void }
  | null;

/** An `EventTarget` with these events and no others: another name is a mistake. */
export interface FeedEventTarget extends EventTarget {
  addEventListener<K extends keyof FeedEventMap>(
    type: K,
    listener: Listener<K>,
    options?: AddEventListenerOptions | boolean,
  ): void;
  removeEventListener<K extends keyof FeedEventMap>(
    type: K,
    listener: Listener<K>,
    options?: EventListenerOptions | boolean,
  ): void;
}

/* The parts among themselves. */

/** All options, whether they go together or not. */
export interface AnyOptions extends CommonOptions, Omit<FeedOptions, "latest">, Omit<LatestOptions, "latest"> {
  latest?: boolean;
}

/** What one subscription asks for, as plain values, which can be passed to a worker. */
export interface Asked {
  /** The directory that holds `events` and `ws`. */
  base: string;
  topics: string[];
  types: string[];
  credentials: RequestCredentials;
  /** Only what is, and then what changes. */
  latest?: boolean;
}

/** What a connection is for. */
export interface Options extends Asked {
  transport: Transport;
  /** Seconds. */
  quiet: number;
  /** Milliseconds. */
  every?: number;
}

/** What a `Feed` is connected by: a connection, a part in one, or one that follows what was loaded. */
export interface Source {
  start(): void;
  retry(): void;
  renew(): void;
  hurry(): void;
  check(offline: boolean): void;
  suspend(): void;
  resume(): void;
  close(): void;
}

/** What an address asks for besides: empty ones are left out. */
export type Query = Record<string, string | number | undefined>;

/** Where to begin; neither: now. */
export interface Begin {
  after?: string;
  last?: number;
}

/** A page of history: its events are JSON texts. */
export interface Page {
  envelopes: string[];
  /** What to resume after, behind the page. */
  next: string;
  gap?: GapOnTheWire | null;
}

/** A gap as the server writes it. */
export interface GapOnTheWire {
  requested: string;
  resumed_from: string;
  reason: string;
}

/** A page of history, or why there is none. */
export type Answer = PageAnswer | NoPage;

export interface PageAnswer {
  status: 200;
  detail: "";
  ours: true;
  retry: null;
  page: Page;
}

export interface NoPage {
  /** 0 if there was no answer; never 200. */
  status: number;
  /** Why it is not 200. */
  detail: string;
  /** Whether it is the feed that answered, with a problem document of this very status, and nothing in front of it. */
  ours: boolean;
  /** Milliseconds after which to come back, if the answer says so. */
  retry: number | null;
  page: null;
}

/** What the bytes of a stream held: an event, a new reconnection time in milliseconds, or a comment, which on a quiet
 * stream is the sign of life. */
export type Frame = { event: string; data: string; id: string } | { retry: number } | { comment: string };

/** What a transport reports. `ended` comes once, and last: with the answer if there was one and it could be seen. */
export interface Reports {
  /** `last` is the id of the last one. */
  events(envelopes: string[], last: string): void;
  control(type: string, id: string, data: Control): void;
  /** What the server asks for between two tries. */
  retry(milliseconds: number): void;
  /** A sign of life that says nothing else. */
  alive(): void;
  ended(answer: Answer | null, detail: string): void;
}

/** What the server says of a stream. Which of these is there depends on the type, and none is if it cannot be read. */
export type Control = Partial<GapOnTheWire & Closing & { replayed: number }>;

export interface OpenTransport {
  close(): void;
}

/** How long somebody says to wait, in milliseconds. */
export interface Said {
  /** The feed wants it to be so long. */
  told?: number;
  /** Not less than that, as anybody may say. */
  least?: number | null;
}

/** What is in an event. */
export interface EventParts {
  id: string;
  topic: string;
  type: string;
  time: string;
  json: boolean;
  text: string;
}

/** Makes a listener of another one that is not called any more once nobody listens to what it is of. */
export type Guard = <F extends unknown[]>(then: (...facts: F) => void) => (...facts: F) => void;

/** What is handed on, in order. `after` and `position` are ids: what came before this, and what to resume after behind
 * it. */
export type Entry = EventsEntry | PositionEntry | GapEntry | AnewEntry | ClosingEntry | StateEntry;

/** Those that are somewhere in the feed. */
export type PlacedEntry = EventsEntry | PositionEntry | GapEntry;

export interface EventsEntry {
  kind: "events";
  after: string;
  position: string;
  live: boolean;
  /** JSON texts. */
  envelopes: string[];
}

export interface PositionEntry {
  kind: "position";
  after: string;
  position: string;
  envelopes?: undefined;
}

export interface GapEntry {
  kind: "gap";
  after: string;
  position: string;
  gap: Gap;
  envelopes?: undefined;
}

/** The whole state follows. */
export interface AnewEntry {
  kind: "anew";
  position: string;
  after?: undefined;
  envelopes?: undefined;
}

export interface ClosingEntry {
  kind: "closing";
  closing: Closing;
  after?: undefined;
  position?: undefined;
  envelopes?: undefined;
}

export interface StateEntry {
  kind: "state";
  state: State;
  after?: undefined;
  position?: undefined;
  envelopes?: undefined;
}

export type Deliver = (entries: Entry[]) => void;

/** What some entries weigh, for a tab to confirm. */
export interface Cost {
  events: number;
  characters: number;
}

/** Tab to hub; how one joins is for the link to say. One of these. */
export interface ToHub {
  ack?: Cost;
  retry?: true;
  renew?: true;
  hurry?: true;
  check?: "offline" | "silence";
  ping?: true;
  leave?: true;
}

/** Hub to tab: one of these; a cost comes with its entries, and with `joined` the whole state if it is asked for. */
export interface FromHub {
  joined?: { state: State; position: string };
  entries?: Entry[];
  cost?: Cost;
  pong?: true;
}

/** How a tab joins in a SharedWorker; `life` is a lock that it holds, or "". */
export interface Join {
  key: string;
  options: Options;
  life: string;
}

/** A `MessagePort`, or a `BroadcastChannel` that only this tab and the hub know. */
export type Port = MessagePort | BroadcastChannel;

/** A way from a tab to the hub that it shares with the other tabs. */
export interface Link {
  post(message: ToHub): void;
  close(): void;
}

/** What a tab joins with. */
export interface Joining {
  /** The same for those who share. */
  key: string;
  options: Options;
  /** Where a new hub of this tab goes on; "": now. */
  position(): string;
  receive(message: FromHub): void;
  /** There is another hub: it will say that one has joined. */
  lost(): void;
  /** This way leads nowhere, or not any more; `again` if it did. */
  failed(again: boolean): void;
}

/** What `globalThis` is in a SharedWorker. */
export interface SharedWorkerScope {
  addEventListener(type: "connect", listener: (event: MessageEvent & { ports: [MessagePort] }) => void): void;
}
