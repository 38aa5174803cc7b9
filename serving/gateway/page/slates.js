// Recommendations, how two lists differ, and a user's history.

import { element, milliseconds } from "./elements.js";

const DEGRADED = {
  stale_row: "Degraded: the user's row is an older one, for the feature store did not answer",
  popular_items: "Degraded: popular items, for the model did not answer",
};

/** For each item of `after` "new", places gained (or lost, below 0), or 0; and the items of `before` that are gone. */
export function changesBetween(before, after) {
  const ranks = new Map(before.map((item) => [item.item_id, item.rank]));
  const here = new Set(after.map((item) => item.item_id));
  const changes = new Map(after.map((item) =>
    [item.item_id, ranks.has(item.item_id) ? ranks.get(item.item_id) - item.rank : "new"]));
  return { changes, gone: before.filter((item) => !here.has(item.item_id)) };
}

function mark(change) {
  if (change === "new") return element("span", { class: "badge new" }, "new");
  if (change === "gone") return element("span", { class: "badge gone" }, "gone");
  if (!change) return null;
  const words = `${Math.abs(change)} ${change > 0 ? "up" : "down"}`;
  return element("span", { class: "badge", title: words }, element("span", { "aria-hidden": "true" }, change > 0 ? "▲ " : "▼ "), words);
}

/** One answer as a card. `changes` marks items, `gone` names those that are not here any more. */
export function slate(answer, { title = null, changes = new Map(), gone = [], actions = null, note = null }) {
  const top = Math.max(...answer.items.map((item) => item.score), Number.MIN_VALUE);
  const release = `Release ${answer.release}, ${answer.stage}`;
  const time = `${milliseconds(answer.timings_ms.total)} in the gateway`;
  return element("article", { class: "card" },
    element("h2", {}, title ?? release),
    element("p", { class: "facts" }, title ? `${release} · ${time}` : time),
    !answer.known && element("p", { class: "note" }, "Nobody here is stored under this id, so these are popular items."),
    answer.degraded && element("p", { class: "degraded" }, `${DEGRADED[answer.degraded] ?? `Degraded: ${answer.degraded}`}.`),
    answer.items.length === 0 && element("p", { class: "note" }, "Nothing is left under these filters."),
    element("ol", { class: "slate" }, answer.items.map((item) => row(item, top, changes.get(item.item_id), actions))),
    gone.length > 0 && element("p", { class: "note" }, mark("gone"), ` ${gone.map((item) => item.title).join(" · ")}`),
    note && element("p", { class: "note" }, note));
}

function row(item, top, change, actions) {
  const share = Math.max(0, Math.min(1, item.score / top));
  const bar = element("i", {});
  bar.style.width = `${(share * 100).toFixed(1)}%`;
  return element("li", {},
    element("span", { class: "rank", "aria-hidden": "true" }, item.rank),
    element("div", { class: "what" },
      element("b", {}, item.title), " ", mark(change),
      item.categories?.length > 0 && element("span", { class: "kinds" }, item.categories.join(" · ")),
      item.because?.length > 0 && element("span", { class: "why" }, "because you liked ", element("em", {}, item.because.join(" and ")))),
    actions && element("div", { class: "actions" }, actions(item)),
    element("span", { class: "score" }, element("span", { class: "unseen" }, "score "), item.score.toPrecision(3),
      element("span", { class: "meter", "aria-hidden": "true" }, bar)));
}

/** The ratings offered on a scale: its whole numbers, from 1 on where it begins at 0; five steps where they are many. */
export function ratingsOn([least, most]) {
  const first = Math.ceil(least || 1);
  const whole = Array.from({ length: most - first < 10 ? Math.floor(most - first) + 1 : 0 }, (_, n) => first + n);
  return whole.length ? whole : [0, 1, 2, 3, 4].map((n) => least + ((most - least) * n) / 4);
}

/** The buttons of one item: similar ones, and a rating on demand. `send(type, rating)` stores an event. */
export function itemActions(item, { openSimilar, send, scale }) {
  const place = element("div", { class: "buttons" });
  const showPlain = () => place.replaceChildren(
    element("button", { type: "button", "aria-label": `Similar to ${item.title}`, onclick: () => openSimilar(item) }, "Similar"),
    element("button", { type: "button", "aria-label": `Rate ${item.title}`, onclick: showRating }, "Rate"));
  const showRating = () => {
    const rate = (rating) => element("button",
      { type: "button", class: "star", "aria-label": `${rating} of ${scale[1]}`, onclick: () => send(item, "rating", rating) }, String(rating));
    place.replaceChildren(element("span",
      { class: "rating", role: "group", "aria-label": `Rate ${item.title}`, onkeydown: (event) => event.key === "Escape" && back() },
      ratingsOn(scale).map(rate),
      element("button", { type: "button", onclick: () => send(item, "click", null) }, "Clicked")));
    place.querySelector("button").focus();
  };
  const back = () => {
    showPlain();
    place.lastChild.focus();
  };
  showPlain();
  return place;
}

/** What a user rated, newest first, and the attributes that are stored. */
export function userHistory(user) {
  if (!user.known) return [element("p", { class: "note" }, "Nothing is stored under this id.")];
  const attributes = Object.entries(user.attributes ?? {}).filter(([, value]) => value !== null && value !== "");
  return [
    attributes.length > 0 && element("p", { class: "facts" }, attributes.map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(" · ")),
    user.history.length === 0 && element("p", { class: "note" }, "No ratings yet."),
    element("ol", { class: "history" }, user.history.map((item) => element("li", {},
      element("span", {}, item.title),
      item.rating != null && element("span", { class: "stars" }, element("span", { class: "unseen" }, "rated "), item.rating,
        element("span", { "aria-hidden": "true" }, " ★"))))),
  ];
}
