// Which release serves, and how far the next one has come.

import { element, fill, offer } from "./elements.js";

const STAGES = ["candidate", "shadow", "canary", "stable"];
const MEANING = {
  candidate: "loaded, no traffic",
  shadow: "compared, not shown",
  canary: "a share of users",
  stable: "everybody",
};

/** The stage of release `version`, for people. */
function roleOf(state, version) {
  if (version === state.stable) return `${version}, stable`;
  if (version === state.candidate) return `${version}, candidate`;
  return `${version}`;
}

/** Fill the header's line, the two selects and the panel from the answer of /v1/releases. */
export function showReleases(state, { serving, selects, panel }) {
  const { rollout } = state;
  fill(serving, element("span", { class: "badge stable" }, `Release ${state.stable}`),
    rollout && element("span", { class: "badge" }, `${rollout.version} in ${share(rollout)}`));
  const answering = new Set([state.stable, state.candidate, ...(state.models?.recommender ?? [])].filter((n) => n != null));
  const options = [...answering].sort((a, b) => b - a).map((version) => [String(version), roleOf(state, version)]);
  for (const select of selects) offer(select, options);
  const shown = JSON.stringify(state);
  if (panel.dataset.shown === shown) return;
  panel.dataset.shown = shown;
  fill(panel,
    element("p", { class: "note" }, rollout
      ? `Release ${rollout.version} is on its way, ${share(rollout)}; everybody else gets release ${state.stable}.`
      : `Release ${state.stable} answers everybody; no rollout is under way.`),
    rollout && stages(rollout),
    state.history?.length > 0 && past(state.history));
}

function share({ stage, percent, shadow_percent: shadow }) {
  if (stage === "canary") return `canary at ${percent} %`;
  return stage === "shadow" && shadow ? `shadow of ${shadow} %` : stage;
}

function stages(rollout) {
  const at = STAGES.indexOf(rollout.stage);
  return element("ol", { class: "stages" }, STAGES.map((stage, n) => element("li",
    { class: n < at ? "passed" : null, "aria-current": n === at ? "step" : null },
    element("b", {}, stage), element("span", {}, n === at && stage === "canary" ? `${rollout.percent} % of users` : MEANING[stage]))));
}

function past(history) {
  const newest = [...history].reverse().slice(0, 8);
  return element("ol", { class: "past", "aria-label": "What happened, newest first" }, newest.map((entry) => element("li", {},
    element("time", { datetime: entry.at }, moment(new Date(entry.at))),
    element("b", {}, `${entry.action} ${entry.from == null ? entry.to : `${entry.from} → ${entry.to}`}`),
    entry.reason && element("span", {}, entry.reason))));
}

const moment = (at) => `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`;
