// The topics that were seen: a tree with counts and rates, to tick what is shown, and to search.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { live } from "../vendor/lit-html/directives/live.js";

/** @import { FeedEvent, OnInput, OnTick, TopicsAct, TopicsState } from "./types.js" */

const MOST_NODES = 2_000; // a feed may have a topic for each order: beyond this they are counted together,
const MOST_CHILDREN = 500; // and of one branch, so that there is room for others
const SIBLINGS = 50; // shown of one node's children: the busiest
const OPEN_DEPTH = 2;
const SMOOTHING = 0.3; // of a rate, for a second: it follows within five

/** A topic, or what several begin with. Counts are of it and of all below it. */
class Node {
  /** @type {Map<string, Node>} */
  children = new Map();
  count = 0;
  rate = 0; // events a second, smoothed
  fresh = 0; // since the last second's tick

  /** @param {string} path @param {string} name */
  constructor(path, name) {
    this.path = path;
    this.name = name;
  }
}

/** Counts events by topic. */
export class Topics {
  root = new Node("", "");
  /** Events of topics that came when there were too many to tell them apart. */
  others = 0;
  #nodes = 0;

  /** Count events; those that are not `live` are not part of a rate. @param {FeedEvent[]} events */
  add(events) {
    for (const event of events) {
      let node = this.root;
      count(node, event);
      for (const name of event.topic.split("/")) {
        const next = node.children.get(name) ?? this.#grow(node, name);
        if (!next) {
          this.others += 1;
          break;
        }
        node = next;
        count(node, event);
      }
    }
  }

  /** A second has passed. */
  tick() {
    const visit = (/** @type {Node} */ node) => {
      node.rate += SMOOTHING * (node.fresh - node.rate);
      if (node.rate < 0.05 && !node.fresh) node.rate = 0;
      node.fresh = 0;
      node.children.forEach(visit);
    };
    visit(this.root);
  }

  clear() {
    this.root = new Node("", "");
    this.others = 0;
    this.#nodes = 0;
  }

  /** @param {Node} parent @param {string} name */
  #grow(parent, name) {
    if (this.#nodes >= MOST_NODES || parent.children.size >= MOST_CHILDREN) return undefined;
    this.#nodes += 1;
    const node = new Node(parent.path ? `${parent.path}/${name}` : name, name);
    parent.children.set(name, node);
    return node;
  }
}

/** @param {Node} node @param {FeedEvent} event */
function count(node, event) {
  node.count += 1;
  if (event.live) node.fresh += 1;
}

/** A node's children that hold the searched text, themselves or below. @param {Node} node @param {string} search */
function found(node, search) {
  /** @type {(child: Node) => boolean} */
  const has = (child) => child.path.toLowerCase().includes(search) || [...child.children.values()].some(has);
  return [...node.children.values()].filter((child) => !search || has(child));
}

/**
 * The busiest, in the order they were seen in: if they changed places, a tick would go to another than was meant.
 * @param {Node[]} nodes
 */
function shownOf(nodes) {
  if (nodes.length <= SIBLINGS) return nodes;
  const busiest = new Set(nodes.toSorted((a, b) => b.count - a.count).slice(0, SIBLINGS));
  return nodes.filter((node) => busiest.has(node));
}

/** `0.3/s`, `12/s`: what a rate is called; nothing for none. @param {number} rate */
export function rateText(rate) {
  if (rate < 0.05) return "";
  return `${rate < 9.95 ? rate.toFixed(1) : Math.round(rate).toLocaleString("en")}/s`;
}

/** The panel. @param {TopicsState} state @param {TopicsAct} act */
export function topicsPanel(state, act) {
  const { topics, patterns, show, search, error } = state;
  const wanted = search.toLowerCase();
  const children = found(topics.root, wanted);
  return html`
    <h2 id="topics-heading">Topics</h2>
    <input
      type="search"
      class="wide"
      aria-label="Search topics"
      placeholder="Search topics"
      data-testid="topic-search"
      .value=${live(search)}
      @input=${(/** @type {OnInput} */ event) => act.search(event.target.value)}
    />
    <div class="tree" role="group" aria-label="Topics seen; tick to show only these" data-testid="tree">
      ${children.length
        ? html`<ul>${branches(children, 0, state, wanted, act)}</ul>`
        : html`<p class="hint">${search ? "No topic seen so far holds that." : "None seen yet."}</p>`}
      ${topics.others
        ? html`<p class="hint">${number(topics.others)} events of more topics than are told apart here.</p>`
        : nothing}
    </div>
    ${show.size
      ? html`<button type="button" class="quiet" data-testid="show-all" @click=${() => act.showAll()}>
          Show all topics (${show.size} ticked)
        </button>`
      : nothing}
    <form class="patterns" @submit=${act.addPattern}>
      <h3 id="patterns-heading">Subscribed to</h3>
      <ul class="chips" aria-labelledby="patterns-heading" data-testid="patterns">
        ${patterns.map(
          (pattern) => html`<li>
            <code>${pattern}</code>
            <button type="button" class="quiet" aria-label=${`Unsubscribe from ${pattern}`} ?hidden=${patterns.length < 2}
              @click=${() => act.removePattern(pattern)}>×</button>
          </li>`,
        )}
      </ul>
      <div class="joined">
        <input name="pattern" aria-label="Pattern to subscribe to" placeholder="orders/*" spellcheck="false"
          autocapitalize="none" autocomplete="off" data-testid="pattern" />
        <button data-testid="add-pattern">Add</button>
      </div>
      ${error ? html`<p class="error" role="alert" data-testid="pattern-error">${error}</p>` : nothing}
    </form>
  `;
}

/**
 * @param {Node[]} nodes
 * @param {number} depth
 * @param {TopicsState} state
 * @param {string} wanted
 * @param {TopicsAct} act
 * @returns {unknown}
 */
function branches(nodes, depth, state, wanted, act) {
  const more = nodes.length - SIBLINGS;
  return html`${shownOf(nodes).map((node) => branch(node, depth, state, wanted, act))}
  ${more > 0 ? html`<li class="hint">and ${number(more)} more: search for them</li>` : nothing}`;
}

/** @param {Node} node @param {number} depth @param {TopicsState} state @param {string} wanted @param {TopicsAct} act */
function branch(node, depth, state, wanted, act) {
  const inner = node.children.size > 0;
  const open = inner && (state.open.get(node.path) ?? (depth < OPEN_DEPTH || Boolean(wanted)));
  return html`<li>
    <div class="branch" data-testid="branch">
      ${inner
        ? html`<button type="button" class="fold" aria-expanded=${open} aria-label=${`Topics below ${node.path}`}
            @click=${() => act.fold(node.path, !open)}></button>`
        : html`<span class="fold"></span>`}
      <label title=${node.path}>
        <input type="checkbox" .checked=${live(state.show.has(node.path))} data-testid="tick"
          @change=${(/** @type {OnTick} */ event) => act.tick(node.path, event.target.checked)} />
        <bdi>${node.name}</bdi>
      </label>
      <span class="rate">${rateText(node.rate)}</span>
      <span class="count">${number(node.count)}</span>
    </div>
    ${open ? html`<ul>${branches(found(node, wanted), depth + 1, state, wanted, act)}</ul>` : nothing}
  </li>`;
}

/** @param {number} count */
function number(count) {
  return count.toLocaleString("en");
}
