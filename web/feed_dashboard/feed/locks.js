// Web Locks, as signs of life: who holds one is alive, and the browser lets go of it for whoever is not. They are there
// in secure contexts only; without them nobody is told.

/**
 * Be alive, until the signal.
 * @param {string} name
 * @param {(held: boolean) => void} then called once it is so, or with false where it cannot be
 * @param {AbortSignal} [signal]
 */
export function hold(name, then, signal) {
  const holding = () => {
    then(true);
    return aborted(signal);
  };
  if (navigator.locks) navigator.locks.request(name, holding).catch(() => then(false));
  else then(false);
}

/**
 * Be told, once, when the one who held `name` is gone.
 * @param {string} name
 * @param {AbortSignal} signal until when it is of interest
 * @param {() => void} gone
 */
export function whenGone(name, signal, gone) {
  navigator.locks?.request(name, { mode: "shared", signal }, () => gone()).catch(() => {});
}

/** Resolves at the signal; never without one. @param {AbortSignal} [signal] @returns {Promise<void>} */
export function aborted(signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) resolve();
    signal?.addEventListener("abort", () => resolve());
  });
}
