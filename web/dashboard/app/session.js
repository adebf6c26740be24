// The token of whoever looks: handed to the server, which puts it into a cookie that no script can read. Nothing of it
// is kept here but when it ends and what it lets one subscribe to.

/** Begin a session. @param {URL} base @returns what the token says of itself @throws {Error} with the server's words */
export async function signIn(base, token) {
  let response;
  try {
    response = await fetch(new URL("session", base), { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  } catch {
    throw new Error("The server cannot be reached, or this is no token.");
  }
  if (response.ok) return claimsOf(token);
  const told = await response.json().catch(() => ({}));
  throw new Error(`${response.status}: ${told.detail ?? response.statusText}`);
}

/** End it. @throws {Error} */
export async function signOut(base) {
  const response = await fetch(new URL("session", base), { method: "DELETE" });
  if (!response.ok) throw new Error(`${response.status}: ${response.statusText}`);
}

/**
 * What a token says, unverified: the server has done that, and this is only shown.
 *
 * @returns {{expires: ?number, subscribe: string[]}} milliseconds since 1970, patterns
 */
export function claimsOf(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(payload), (byte) => byte.charCodeAt(0))));
    const subscribe = claims.feed?.subscribe;
    return {
      expires: typeof claims.exp === "number" ? claims.exp * 1000 : null,
      subscribe: Array.isArray(subscribe) ? subscribe.filter((pattern) => typeof pattern === "string") : [],
    };
  } catch {
    return { expires: null, subscribe: [] };
  }
}
