// The page's wiring: what a person does, what the gateway is asked, where the answer goes.

import { byId, element, fill, offer } from "./elements.js";
import * as gateway from "./gateway.js";
import { remember, showLatency } from "./latency.js";
import { showReleases } from "./releases.js";
import { changesBetween, itemActions, slate, userHistory } from "./slates.js";

const POLL_MS = 5000;
const RECENT = "leanrec.recent";

let state = null; // what /v1/releases said last
let metrics = null; // the text of /metrics as last read
let whose = null; // the user last submitted: the field may hold half of another
let shown = null; // {user, answer, other, note, before} on the screen
let historyOf = null; // the user whose history is on the screen
let asking = null; // AbortController of the question under way
let repeating = null; // timer of "Ask every second"
let outage = null; // the sentence in the message, where it tells of what may pass

/** No network, too slow, too many requests, no service: the same question may be answered the next time. */
const mayPass = ({ status }) => status === 0 || status === 408 || status === 429 || status >= 500;

function say(sentence, passing = false) {
  outage = passing ? sentence : null;
  const stop = /\w$/.test(sentence) ? "." : "";
  const text = outage && repeating ? `${sentence}${stop} Asking again every second.` : (sentence ?? "");
  if (byId("message").textContent !== text) byId("message").textContent = text; // said once, not every second
  byId("message").hidden = !text;
}

/** Something was answered: an outage is over, a refusal still stands. */
const recovered = () => outage && say(null);

function refuse(error) {
  if (error.name === "AbortError") return;
  say(error.message, mayPass(error));
  if (error.status === 401) {
    stopRepeating();
    gateway.forgetKey();
    showDoor();
  }
}

function showDoor() {
  byId("desk").hidden = true;
  byId("key-form").hidden = false;
  byId("key").focus();
}

async function enter() {
  state = await gateway.releases();
  say(null);
  byId("key-form").hidden = true;
  byId("desk").hidden = false;
  byId("key").value = "";
  drawReleases();
  readMetrics();
}

const enterAndType = () => enter().then(() => byId("user").focus()).catch(refuse);

// What was asked in this tab: ids are personal data, so they go when the tab goes.
const recent = () => JSON.parse(sessionStorage.getItem(RECENT) ?? "[]");

function noteRecent(user) {
  const ids = [user, ...recent().filter((id) => id !== user)].slice(0, 8);
  sessionStorage.setItem(RECENT, JSON.stringify(ids));
  drawRecent();
}

function drawRecent() {
  const ids = recent();
  fill(byId("recent"), ids.map((value) => element("option", { value })));
  const chips = ids.slice(0, 5).map((id) => element("button", { type: "button", onclick: () => choose(id) }, id));
  fill(byId("suggestions"), byId("stranger"), chips);
}

function choose(id) {
  byId("user").value = id;
  byId("ask").requestSubmit();
}

function question() {
  const category = byId("category").value;
  return {
    user_id: whose,
    k: Number(byId("k").value),
    exclude_seen: byId("exclude-seen").checked,
    diversity: Number(byId("diversity").value),
    categories: category ? [category] : [],
    release: Number(byId("release").value) || null,
  };
}

/** A history that cannot be read now takes no list away: the gateway answers without it, too. */
async function historyFor(user, signal) {
  try {
    const history = userHistory(await gateway.user(user, signal));
    return () => { fill(byId("history"), history); historyOf = user; };
  } catch (error) {
    if (!mayPass(error)) throw error;
    return () => { fill(byId("history"), element("p", { class: "facts" }, `No history now: ${error.message}`)); historyOf = null; };
  }
}

/** Ask for the list (and the one to compare) and the history, and show all three; whether it was answered. */
async function ask({ before = null, again = false } = {}) {
  if (!whose) return false;
  const asked = question();
  const quiet = again && historyOf === whose; // until a user's history is there, it is wanted too
  asking?.abort();
  const { signal } = (asking = new AbortController());
  const against = Number(byId("against").value) || null;
  byId("answers").setAttribute("aria-busy", "true");
  try {
    const [answer, other, showHistory] = await Promise.all([
      gateway.recommend(asked, signal),
      against && gateway.recommend({ ...asked, release: against }, signal),
      quiet ? null : historyFor(asked.user_id, signal),
    ]);
    for (const given of [answer, other]) if (given) remember(given.timings_ms);
    if (quiet) recovered();
    else say(null);
    if (showHistory) {
      showHistory();
      noteRecent(asked.user_id);
    }
    drawAnswers({ user: asked.user_id, answer, other, before });
    showLatency(byId("latency"), metrics);
    if (!quiet) readMetrics();
    return true;
  } catch (error) {
    if (error.name !== "AbortError" && !mayPass(error)) stopRepeating();
    refuse(error);
    return false;
  } finally {
    if (asking?.signal === signal) {
      asking = null;
      byId("answers").removeAttribute("aria-busy");
    }
  }
}

/** What decides what is on the screen: asked again with the same outcome, nothing is touched. */
const essence = ({ user, answer, other }) =>
  JSON.stringify([user, ...[answer, other].map((a) => a && [a.release, a.stage, a.known, a.degraded, a.items])]);

function drawAnswers(next) {
  const changed = !shown || essence(next) !== essence(shown) || next.before;
  if (!changed) {
    shown.answer.request_id = next.answer.request_id;
    return;
  }
  shown = next;
  const { answer, other, before } = next;
  offerCategories(answer, other);
  const actions = (item) => itemActions(item, { openSimilar, send, scale: state.ratings });
  const since = before && changesBetween(before, answer.items);
  const own = { title: "Recommendations", changes: since?.changes, gone: since?.gone, note: since && "Marked: what the event changed." };
  if (!other) {
    fill(byId("answers"), slate(answer, { ...own, actions }));
  } else {
    const { changes, gone } = changesBetween(answer.items, other.items);
    const note = answer.release === other.release ? "The same release answered both." : "Marked: what differs from the list beside.";
    fill(byId("answers"), element("div", { class: "pair" },
      slate(answer, { ...own, title: null }),
      slate(other, { changes, gone, note })));
  }
  byId("status").textContent =
    `${answer.items.length} recommendations for ${next.user} from release ${answer.release}${other ? `, beside release ${other.release}` : ""}.`;
}

const categories = new Set();

function offerCategories(...answers) {
  for (const name of state.categories) categories.add(name);
  for (const answer of answers) for (const item of answer?.items ?? []) for (const name of item.categories) categories.add(name);
  offer(byId("category"), [...categories].sort().map((name) => [name, name]));
}

async function send(item, type, rating) {
  const { user, answer } = shown;
  try {
    await gateway.sendEvent({ user_id: user, item_id: item.item_id, type, rating, request_id: answer.request_id });
    byId("user").value = whose = user; // whoever else was being typed: the new list is that of the one who rated
    const renewed = await ask({ before: answer.items });
    byId("answers").focus({ preventScroll: true });
    const what = type === "rating" ? `The rating ${rating}` : "The click";
    byId("status").textContent = `${what} of ${item.title} is stored; the list ${renewed ? "is new" : "could not be renewed"}.`;
  } catch (error) {
    refuse(error);
  }
}

async function openSimilar(item) {
  try {
    const answer = await gateway.similar(item.item_id);
    if (!repeating) recovered();
    byId("similar-title").textContent = `Similar to ${item.title}`;
    fill(byId("similar-items"),
      element("p", { class: "facts" }, `Release ${answer.release} · by the angle between the items' vectors`),
      element("ol", { class: "slate" }, answer.items.map((near) => element("li", {},
        element("span", { class: "rank", "aria-hidden": "true" }, near.rank),
        element("div", { class: "what" }, element("b", {}, near.title), near.categories?.length > 0 && element("span", { class: "kinds" }, near.categories.join(" · "))),
        element("span", { class: "score" }, near.score.toFixed(2)),
        element("div", { class: "actions" },
          element("button", { type: "button", "aria-label": `Similar to ${near.title}`, onclick: () => openSimilar(near) }, "Similar"))))));
    const dialog = byId("similar");
    if (!dialog.open) {
      dialog.dataset.of = item.title;
      dialog.showModal();
    }
    dialog.scrollTop = 0;
    byId("similar-title").focus();
  } catch (error) {
    refuse(error);
  }
}

/** Back to the button that opened the dialog, or to the one that took its place when the list was drawn anew. */
function leaveSimilar() {
  const label = `Similar to ${byId("similar").dataset.of}`;
  const buttons = [...byId("answers").querySelectorAll("button")];
  if (document.activeElement?.getAttribute("aria-label") === label) return;
  (buttons.find((button) => button.getAttribute("aria-label") === label) ?? byId("answers")).focus({ preventScroll: true });
}

function stopRepeating() {
  clearInterval(repeating);
  repeating = null;
  byId("repeat").setAttribute("aria-pressed", "false");
  if (outage) say(outage, true);
}

function drawReleases() {
  offerCategories();
  showReleases(state, { serving: byId("serving"), selects: [byId("release"), byId("against")], panel: byId("rollout") });
}

async function readMetrics() {
  metrics = await gateway.metrics().catch(() => null);
  showLatency(byId("latency"), metrics);
}

/** The releases and everybody's latency, while somebody looks. */
async function poll() {
  if (document.hidden) return;
  if (byId("desk").hidden) return outage && gateway.hasKey() && enterAndType();
  try {
    state = await gateway.releases();
    if (!repeating) recovered(); // while it repeats, the question itself says when it is answered
    drawReleases();
    await readMetrics();
  } catch (error) {
    refuse(error);
  }
}

function listen() {
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    gateway.keepKey(byId("key").value);
    enterAndType();
  });
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    whose = byId("user").value.trim() || whose;
    ask();
  });
  byId("ask").addEventListener("change", (event) => event.target.id !== "user" && ask());
  byId("diversity").addEventListener("input", (event) => {
    byId("diversity-value").textContent = event.target.value;
  });
  byId("stranger").addEventListener("click", () => choose(`new-${Date.now().toString(36)}`));
  byId("repeat").addEventListener("click", () => {
    if (repeating) return stopRepeating();
    if (whose) ask();
    else byId("ask").requestSubmit();
    if (!whose) return; // the field has said what it misses
    byId("repeat").setAttribute("aria-pressed", "true");
    repeating = setInterval(() => document.hidden || asking || ask({ again: true }), 1000);
  });
  byId("similar").addEventListener("close", leaveSimilar);
  setInterval(poll, POLL_MS);
}

const given = gateway.takeFragment();
listen();
drawRecent();
if (gateway.hasKey()) enter().then(() => given.get("user") && choose(given.get("user"))).catch((error) => { showDoor(); refuse(error); });
else showDoor();
