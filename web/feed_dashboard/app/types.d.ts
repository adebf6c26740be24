// Types that several parts of the dashboard share, for editors and type checkers: no browser loads this file.

import type { FeedEvent } from "../feed/event.js";
import type { Gap, Transport } from "../feed/types.js";
import type { History } from "./history.js";
import type { Rows } from "./rows.js";
import type { Topics } from "./topics.js";

export type { Feed, FeedEvent } from "../feed.js";
export type { Asked, Gap, GapOnTheWire, Query, Resumed, State, Transport } from "../feed/types.js";
export type { Dashboard } from "./dashboard.js";
export type { History } from "./history.js";
export type { List } from "./list.js";
export type { Painter } from "./painter.js";
export type { Pictures } from "./pictures.js";

/** What a listener in a template is called with. */
type On<E extends Element> = Event & { readonly target: E; readonly currentTarget: E };

export type OnInput = On<HTMLInputElement | HTMLTextAreaElement>;
export type OnTick = On<HTMLInputElement>;
export type OnSelect = On<HTMLSelectElement>;
/** Its `target` may be what is in the button. */
export type OnButton = Event & { readonly currentTarget: HTMLButtonElement };
export type Submitted = On<HTMLFormElement>;

/** A test of events. */
export type Pass = (event: FeedEvent) => boolean;

/** What can be written as a command. */
export type Publishable = Pick<FeedEvent, "topic" | "type" | "text" | "json">;

export type Theme = "auto" | "light" | "dark";
export type Pane = "events" | "topics" | "pictures";

/** Of the inspector. */
export type Tab = "data" | "frame";

/** What a key does. */
export type Action =
  | "pause"
  | "nextRow"
  | "previousRow"
  | "nextPage"
  | "previousPage"
  | "openRow"
  | "newest"
  | "loadOlder"
  | "clear"
  | "toggleTravel"
  | "togglePublish"
  | "retry"
  | "theme"
  | "help"
  | "escape"
  | "focusFilter"
  | "focusTopics"
  | "focusEvents"
  | "focusPictures";

/** What is charted. "" is the field of a number that is in none. */
export interface Choice {
  topic: string;
  field: string;
}

/** What to add to this machine's clock for the server's, in milliseconds, and how far off that may be. */
export interface Offset {
  offset: number;
  uncertainty: number;
}

/** What `/metrics` says: for each name the values, by node. */
export type Figures = Map<string, Map<string, number>>;

/** A place in the feed: an event's id, or a time. */
export type Place = { id: string; time?: undefined } | { id?: undefined; time: Date };

/** The bar of time travel. */
export interface Travel {
  open: boolean;
  place: string;
  from: string;
  to: string;
  speed: number;
  error: string;
  busy: boolean;
  replay: Ride | null;
}

/** How far a replay is. */
export interface Progress {
  done: number;
  /** The time of the last event. */
  at: string;
  /** Milliseconds of silence left out so far. */
  skipped: number;
}

export interface Ride extends Progress {
  paused: boolean;
  /** How it ended, in words. */
  over: string;
}

/** What of the page is in its address. */
export interface View {
  /** The patterns that are subscribed to. */
  topics: string[];
  /** The topics that are ticked; none: all of them. */
  show: Set<string>;
  /** One type, or "" for all. */
  type: string;
  filter: string;
  /** The filter is a regular expression. */
  regex: boolean;
  transport: Transport;
  chart: Choice | null;
}

/** An event as the page keeps it. */
export interface Row {
  /** Its place: rows are in the order of their numbers, and those of one window have no gap. */
  n: number;
  event: FeedEvent;
  /** When it was committed, in milliseconds since 1970. */
  ms: number;
  /** How much later it was here, by this machine's clock; null for what was replayed. */
  delay: number | null;
}

/** A window that does not follow the feed. */
export interface Frozen {
  rows: Rows;
  reason: "pause" | "scroll" | "select" | "past" | "replay";
  /** Events that came since, and pass. */
  fresh: number;
}

/** A page of the past. */
export interface Page {
  /** Oldest first. */
  events: FeedEvent[];
  /** The position read to: to be asked from when going on in the same direction. */
  next: string;
  /** Events may be missing before these. */
  gap: Gap | null;
  /** Nothing more is there in this direction now. */
  end: boolean;
}

/** One end of a range of the past: an id, a time, or null for as far as there is anything. */
export type Bound = string | Date | number | null;

/** What the panel of topics shows. */
export interface TopicsState {
  topics: Topics;
  patterns: string[];
  /** The topics that are ticked. */
  show: Set<string>;
  search: string;
  /** Branches that somebody has folded or unfolded. */
  open: Map<string, boolean>;
  error: string;
}

/** What its controls do. */
export interface TopicsAct {
  search(text: string): void;
  tick(path: string, ticked: boolean): void;
  fold(path: string, open: boolean): void;
  showAll(): void;
  removePattern(pattern: string): void;
  addPattern(event: Submitted): void;
}

/** What the bar of time travel does. */
export interface TravelAct {
  set(name: TravelField, value: string): void;
  speed(speed: number): void;
  close(): void;
  pauseReplay(): void;
  stopReplay(): void;
  go(event: Submitted): void;
  replay(event: Submitted): void;
}

export type TravelField = "place" | "from" | "to";

/** What is in the form that publishes. */
export interface Fields {
  topic: string;
  type: string;
  key: string;
  data: string;
  json: boolean;
}

export type AnswerKind = "" | "good" | "bad";

/** What a replay is of, and whom it tells. */
export interface ReplayOptions {
  history: History;
  /** The first event: its id, or a time from which on; null: the oldest. */
  from: Bound;
  /** The last one, in the same way; null: the newest of now. */
  to: Bound;
  /** 1: as it was; 10: ten times as fast; Infinity: as fast as possible. */
  speed: number;
  /** A batch of at most 500. */
  emit(events: FeedEvent[]): void;
  /** After each batch. */
  progress?(progress: Progress): void;
  /** Told between the events between which others may be missing. */
  gap?(gap: Gap): void;
  /** Stops it: nothing is emitted afterwards. */
  signal?: AbortSignal;
  clock?: Timers;
}

export interface Timers {
  now(): number;
  set(callback: () => void, ms: number): number;
  clear(timer: number): void;
}

export interface PicturesOptions {
  /** The directory that holds `events` and `metrics`. */
  base: string | URL;
  /** What is charted at first. */
  chart?: Choice | null;
  /** Told when somebody chooses another. */
  onChart?(chart: Choice | null): void;
}

export interface ChartOptions {
  lines: Line[];
  /** How times are written. */
  x: uPlot.Axis;
  /** How values are written. */
  write(value: number, step: number): string;
  /** Of the values. */
  range?(min: number, max: number): [number, number];
}

interface Line {
  /** By the name of the page's custom property. */
  colour: string;
  dashed?: boolean;
  filled?: boolean;
  stepped?: boolean;
  dots?: boolean;
}

/** What a timeline tells. */
export interface Told {
  /** There is something to draw. */
  soon(): void;
  /** Somebody waits for it. */
  now(): void;
  gap(gap: Gap): void;
  older(events: FeedEvent[]): void;
}

/** What is done about the list. */
export interface ListAct {
  open(row: Row): void;
  /** It was scrolled, to its top or not. */
  scrolled(top: boolean): void;
  /** Its end is near. */
  end(): void;
}

/** A state of the connection in words. */
export interface Described {
  word: string;
  kind: "good" | "wait" | "bad";
  note: string;
  canRetry: boolean;
}

/** What came of asking for `/metrics`. */
export interface MetricsAnswer {
  /** 0: no answer. */
  status: number;
  /** By the feed itself. */
  refused: boolean;
  /** Milliseconds since 1970, on this machine. */
  asked: number;
  answered: number;
  figures: Figures;
}
