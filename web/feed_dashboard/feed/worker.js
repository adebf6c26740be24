// The SharedWorker in which the hubs of all tabs of the browser live, one for each different subscription.

import { Hub, PROTOCOL } from "./hub.js";
import { hold, whenGone } from "./locks.js";

/** @import { Join, SharedWorkerScope } from "./types.js" */

/** @type {Map<string, Hub>} */
const hubs = new Map();
const life = `feed/${PROTOCOL}/worker/${Math.random().toString(36).slice(2)}`;
const alive = new Promise((resolve) => {
  hold(life, resolve);
});

/** @param {MessagePort} port @param {Join} join */
function admit(port, { key, options, life: tab }) {
  let hub = hubs.get(key);
  if (!hub) {
    hub = new Hub(options, "", () => {
      if (hubs.get(key) === hub) hubs.delete(key);
    });
    hubs.set(key, hub);
  }
  const left = new AbortController();
  const leave = hub.add(port, () => left.abort());
  if (tab) whenGone(tab, left.signal, leave);
}

const scope = /** @type {SharedWorkerScope} */ (/** @type {unknown} */ (globalThis));
scope.addEventListener("connect", ({ ports: [port] }) => {
  port.onmessage = ({ data: { join } }) => {
    if (!join) return;
    admit(port, join);
    alive.then((held) => {
      if (held) port.postMessage({ life });
    });
  };
});
