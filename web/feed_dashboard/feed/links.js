// The ways from a tab to the hub that it shares with the other tabs. Both carry the same messages; see the hub.

import { Hub, PROTOCOL } from "./hub.js";
import { aborted, hold, whenGone } from "./locks.js";

/** @import { Joining, Link } from "./types.js" */

const STOLEN_AFTER = 4_000; // milliseconds without an answer: the browser may have stopped the tab with the lock

/** @type {TrustedTypesPolicy | undefined} */
let policy; // a second one of its name would be refused

/** The address of a script that a worker runs, as a page with Trusted Types has to have it. @param {URL} url */
function scriptUrl(url) {
  const types = globalThis.trustedTypes;
  if (!types) return url.href;
  try {
    policy ??= types.createPolicy("feed", { createScriptURL: (address) => (address === url.href ? address : null) });
    return policy.createScriptURL(url.href);
  } catch {
    return url.href; // not allowed, or there is one of another copy of this module: it may not even be asked for
  }
}

/**
 * By a SharedWorker.
 * @param {Joining} joining
 * @returns {Link}
 * @throws where there is none, or it may not be
 */
export function workerLink({ key, options, receive, failed }) {
  const url = new URL("./worker.js", import.meta.url);
  const worker = new SharedWorker(scriptUrl(url), { type: "module", name: `feed/${PROTOCOL}` });
  const closing = new AbortController();
  const { port } = worker;
  const life = `feed/${PROTOCOL}/tab/${random()}`;
  worker.onerror = (event) => {
    event.preventDefault();
    failed(false);
  };
  port.onmessage = ({ data }) => {
    if (data.life) whenGone(data.life, closing.signal, () => failed(true));
    else receive(data);
  };
  /** @param {boolean} held */
  const join = (held) => port.postMessage({ join: { key, options, life: held ? life : "" } });
  hold(life, (held) => closing.signal.aborted || join(held), closing.signal);
  return {
    post: (message) => port.postMessage(message),
    close() {
      port.postMessage({ leave: true });
      port.onmessage = worker.onerror = null;
      port.close();
      closing.abort();
    },
  };
}

/**
 * By election: whose tab holds the lock runs the hub, and all speak with it over channels, each tab over its own.
 * @param {Joining} joining
 * @returns {Link}
 * @throws where there are no such locks or channels
 */
export function electedLink({ key, options, position, receive, lost, failed }) {
  if (!navigator.locks) throw new TypeError("no Web Locks");
  const name = `feed/${PROTOCOL}/${key}`;
  const tab = random();
  const hall = new BroadcastChannel(name);
  const own = new BroadcastChannel(`${name}/${tab}`);
  const closing = new AbortController();
  const { signal } = closing;
  /** @type {Map<string, () => void>} */
  const admitted = new Map(); // how to let go of each tab, while this one leads
  /** @type {Hub | null} */
  let hub = null;
  let queued = false;
  /** @type {number | undefined} */
  let stealing;

  /** @param {Hub} leading @param {string} member */
  const admit = (leading, member) => {
    const before = admitted.get(member);
    admitted.set(
      member,
      leading.add(new BroadcastChannel(`${name}/${member}`), () => {}),
    );
    before?.(); // it has asked twice, as it did not know yet who leads
  };
  const join = () => {
    hall.postMessage({ join: tab });
    clearTimeout(stealing);
    stealing = setTimeout(() => stand({ steal: true }), STOLEN_AFTER * (1 + Math.random()));
  };
  const lead = async () => {
    if (signal.aborted) return;
    hub = new Hub(options, position(), () => {});
    hall.postMessage({ leader: tab });
    lost();
    admit(hub, tab);
    await aborted(signal);
  };
  /** @param {LockOptions} how */
  const stand = async (how) => {
    try {
      await navigator.locks.request(name, how, lead);
    } catch {
      // Given up; or another tab has taken the lock, as this one did not answer; or there may be no locks here.
    }
    if (hub === null) {
      if (!signal.aborted) failed(false);
      return;
    }
    hub.close();
    hub = null;
    admitted.clear();
    if (signal.aborted) return;
    lost();
    queue();
    join();
  };
  const queue = async () => {
    if (queued) return;
    queued = true;
    await stand({ signal });
    queued = false;
  };

  hall.onmessage = ({ data }) => {
    if (data.join && hub) admit(hub, data.join);
    else if (data.leader && !hub) {
      lost();
      join();
    }
  };
  own.onmessage = ({ data }) => {
    clearTimeout(stealing);
    receive(data);
  };
  queue();
  join();
  return {
    post: (message) => own.postMessage(message),
    close() {
      own.postMessage({ leave: true });
      clearTimeout(stealing);
      own.onmessage = hall.onmessage = null;
      own.close();
      hall.close();
      closing.abort();
    },
  };
}

function random() {
  return Math.random().toString(36).slice(2);
}
