// What the page asks of the gateway. The key stays in this tab and never in an address.

const KEY = "leanrec.key";

/** What the gateway said when it refused, in its own sentence. */
export class GatewayError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Move `#key=...&user=...` out of the address: the key into this tab, the rest to the caller. */
export function takeFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("key")) keepKey(given.get("key"));
  if (given.has("key") || given.has("user")) history.replaceState(null, "", location.pathname + location.search);
  return given;
}

export const keepKey = (key) => sessionStorage.setItem(KEY, key.trim());
export const forgetKey = () => sessionStorage.removeItem(KEY);
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

async function ask(path, { body, signal } = {}) {
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: { "X-API-Key": sessionStorage.getItem(KEY) ?? "", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
      cache: "no-store",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof TypeError && /header|ByteString|ISO-8859/i.test(error.message)) {
      throw new GatewayError(401, "An API key holds only letters, digits and signs of ASCII; this one does not.");
    }
    throw new GatewayError(0, "The gateway does not answer; is it running, and is the network there?");
  }
  const text = await response.text();
  if (response.ok) return text;
  let sentence;
  try {
    sentence = JSON.parse(text).error.message;
  } catch {
    sentence = `The gateway answered with status ${response.status}.`;
  }
  throw new GatewayError(response.status, sentence);
}

const askJson = async (...parameters) => JSON.parse(await ask(...parameters));

/** The answer, with what it took from here and back as `timings_ms.round_trip`. */
export async function recommend(question, signal) {
  const start = performance.now();
  const answer = await askJson("/v1/recommendations", { body: { ...question, explain: true }, signal });
  answer.timings_ms.round_trip = performance.now() - start;
  return answer;
}

export const user = (id, signal) => askJson(`/v1/users?user_id=${encodeURIComponent(id)}`, { signal });
export const similar = (item) => askJson(`/v1/items/similar?item_id=${encodeURIComponent(item)}`);
export const releases = () => askJson("/v1/releases");
export const metrics = () => ask("/metrics");

/** Store one event of a user; `crypto.randomUUID` would want HTTPS. */
export function sendEvent(event) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return askJson("/v1/events", { body: { events: [{ event_id: id, timestamp: null, rating: null, ...event }] } });
}
