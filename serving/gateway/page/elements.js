// Elements built without HTML strings: whatever is put in as text stays text.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "rect", "line", "title"]);

/** An element with attributes (`onclick` and the like take functions) and children (elements or text). */
export function element(tag, attributes = {}, ...children) {
  const made = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Put `children` in place of what `place` holds. */
export const fill = (place, ...children) => place.replaceChildren(...children.flat().filter(Boolean));

/** Give a select these [value, label] options after its first one, and keep what is chosen where it still is there. */
export function offer(select, options) {
  const chosen = select.value;
  const wanted = JSON.stringify(options);
  if (select.dataset.offered === wanted) return;
  select.dataset.offered = wanted;
  fill(select, select.options[0], options.map(([value, label]) => element("option", { value }, label)));
  select.value = options.some(([value]) => String(value) === chosen) ? chosen : "";
}

/** A table of rows [row header, number, ...]. */
export function table(caption, heads, rows) {
  const cell = (tag, n, content, scope) => element(tag, { class: n > 0 && "number", scope }, content);
  return element("div", { class: "scroll" }, element("table", {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, heads.map((head, n) => cell("th", n, head, "col")))),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((content, n) =>
      n === 0 ? cell("th", n, content, "row") : cell("td", n, content)))))));
}

export const milliseconds = (value) => (value == null ? "–" : `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`);
