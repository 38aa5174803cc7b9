// How long answers take: this page's own requests by phase, and everybody's out of /metrics.

import { element, fill, milliseconds, table } from "./elements.js";

const KEPT = 60;
const PHASES = [["features", "User's row"], ["model", "Model"], ["rest", "The gateway's own"], ["network", "Network and browser"]];
const samples = [];

/** Remember an answer's `timings_ms`. */
export function remember({ features, model, total, round_trip }) {
  samples.push({ features, model, rest: Math.max(0, total - features - model), network: Math.max(0, round_trip - total), total, round_trip });
  if (samples.length > KEPT) samples.shift();
}

/** The value below which `share` of the values lie (nearest rank). */
export function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

/** Show what is known; `text` is the content of /metrics, or null. */
export function showLatency(place, text) {
  const fold = (name) => samples.map((sample) => sample[name]);
  const line = (title, values) => [title, milliseconds(percentile(values, 0.5)), milliseconds(percentile(values, 0.99))];
  const phases = PHASES.map(([name, title]) => line(element("span", { class: `swatch ${name}` }, title), fold(name)));
  const releases = text ? perRelease(text) : [];
  fill(place,
    sparkline(),
    table(`Asked by this page: ${samples.length === KEPT ? `the last ${KEPT}` : samples.length}`, ["Phase", "p50", "p99"],
      samples.length ? [...phases, line("Gateway in all", fold("total")), line("Seen here", fold("round_trip"))] : []),
    releases.length > 0 && table("Asked of this gateway by everybody", ["Release", "Requests", "p50", "p99"], releases));
}

/** A bar a request, its phases stacked; the tallest one fills the height. */
function sparkline() {
  const height = 56;
  const highest = Math.max(...samples.map((sample) => sample.round_trip), 1);
  const label = samples.length
    ? `${samples.length} requests, the slowest seen here after ${milliseconds(highest)}` : "No request yet";
  const bars = samples.flatMap((sample, n) => {
    let top = height;
    return PHASES.map(([name]) => {
      const tall = (sample[name] / highest) * height;
      top -= tall;
      return element("rect", { class: name, x: n * 5, y: top.toFixed(2), width: 4, height: tall.toFixed(2) });
    });
  });
  return element("svg", { class: "spark", viewBox: `0 0 ${KEPT * 5} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, bars);
}

/** Rows [release, requests, p50, p99] of `leanrec_request_seconds`, recommendations only. */
function perRelease(text) {
  const buckets = new Map();
  for (const [, given, value] of text.matchAll(/^leanrec_request_seconds_bucket\{([^}]*)\} (\S+)/gm)) {
    const labels = Object.fromEntries([...given.matchAll(/(\w+)="([^"]*)"/g)].map(([, name, inner]) => [name, inner]));
    if (!labels.route?.includes("recommendations") || !/^\d+$/.test(labels.release)) continue;
    const upTo = labels.le === "+Inf" ? Infinity : Number(labels.le);
    const release = buckets.get(labels.release) ?? new Map();
    buckets.set(labels.release, release.set(upTo, (release.get(upTo) ?? 0) + Number(value)));
  }
  return [...buckets].sort(([a], [b]) => b - a).map(([release, counts]) => {
    const cumulative = [...counts].sort(([a], [b]) => a - b);
    const total = cumulative.at(-1)[1];
    const quantile = (share) => milliseconds(total ? within(cumulative, share * total) * 1e3 : null);
    return [release, total.toLocaleString("en"), quantile(0.5), quantile(0.99)];
  }).filter(([, requests]) => requests !== "0");
}

/** Where the cumulative histogram [[upper bound, count], ...] reaches `rank`, linear inside a bucket. */
function within(cumulative, rank) {
  let [below, counted] = [0, 0];
  for (const [upTo, count] of cumulative) {
    if (count >= rank) return upTo === Infinity ? below : below + ((upTo - below) * (rank - counted)) / (count - counted);
    [below, counted] = [upTo, count];
  }
  return below;
}
