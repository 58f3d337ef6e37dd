// Building blocks of the pages: tables, pagers, cards, sparklines, fields of records.

import { h, s } from "./dom.js";
import { bytes, count, duration, groups, time, visible } from "./format.js";

// Builds #/path?name=value and leaves out empty parameters.
export function link(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== ""));
  const text = query.toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text && `?${text}`}`;
}

// A table in a region of its own that scrolls sideways if needed. `columns`: title, number. `rows`:
// key, cells; the first cell is the row's header.
export function table({ id, caption, columns, rows, empty }) {
  const head = columns.map(({ title, number }) => h("th", { scope: "col", class: number && "number" }, title));
  const body = rows.map(({ key, cells, className }) =>
    h(
      "tr",
      { "data-key": key, class: className },
      cells.map((cell, i) =>
        i === 0 ? h("th", { scope: "row", class: columns[i].number && "number" }, cell) : h("td", { class: columns[i].number && "number" }, cell),
      ),
    ),
  );
  if (!rows.length) body.push(h("tr", {}, h("td", { colspan: columns.length, class: "empty" }, empty ?? "Nothing.")));
  return h(
    "div",
    { class: "table", role: "region", tabindex: 0, "aria-labelledby": `${id}-caption`, "data-key": `table-${id}` },
    h("table", { id }, h("caption", { id: `${id}-caption` }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
  );
}

// Links to the previous and next range, and the position of the current one. `to` builds the link
// for an offset.
export function pager({ offset, limit }, total, what, to) {
  if (total <= limit && offset === 0) return null;
  const last = Math.min(offset + limit, total);
  const step = (name, at, there) => (there ? h("a", { href: to(at), class: "button", rel: name === "Previous" ? "prev" : "next" }, name) : h("span", { class: "button off" }, name));
  return h(
    "nav",
    { class: "pager", "aria-label": `Parts of the ${what}`, "data-key": `pager-${what}` },
    step("Previous", Math.max(0, offset - limit), offset > 0),
    h("span", {}, last > offset ? `${count(offset + 1)} to ${count(last)} of ${count(total)}` : `none here, ${count(total)} in total`),
    step("Next", offset + limit, last < total),
  );
}

// A key figure; `more` is shown below it.
export function card(title, value, { more, href, kind } = {}) {
  return h(
    "div",
    { class: `card${kind ? ` ${kind}` : ""}`, "data-key": `card-${title}` },
    h("dt", {}, href ? h("a", { href }, title) : title),
    h("dd", {}, h("span", { class: "value" }, value), more && h("span", { class: "more" }, more)),
  );
}

export const cards = (...all) => h("dl", { class: "cards", "data-key": "cards" }, all);

// The course of a value. Hidden from screen readers, because the value beside it says the same.
export function sparkline(values) {
  const [width, height] = [120, 26];
  const most = Math.max(...values, 0);
  const svg = s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true", focusable: "false", preserveAspectRatio: "none" });
  if (values.length < 2) return svg;
  const step = width / 59;
  const left = width - (values.length - 1) * step;
  const point = (value, i) => `${(left + i * step).toFixed(1)},${(height - 2 - (most ? value / most : 0) * (height - 4)).toFixed(1)}`;
  const line = values.map(point).join(" ");
  svg.append(s("polygon", { points: `${left.toFixed(1)},${height} ${line} ${width},${height}` }), s("polyline", { points: line }));
  return svg;
}

export const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);

// A time, and its age by the agent's clock.
export function when(ms, now) {
  if (ms === null || ms === undefined) return "never";
  const text = time(ms);
  const ago = now === undefined ? null : h("span", { class: "note" }, `${duration(now - ms)} ago`);
  return [h("time", { datetime: text.replace(" ", "T") }, text), ago];
}

// Names and their values.
export const facts = (key, pairs) =>
  h(
    "dl",
    { class: "facts", "data-key": key },
    pairs.filter(Boolean).map(([name, value]) => h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, value))),
  );

// The agent that served the data.
export const agentLine = (agent, note) =>
  h("p", { class: "quiet", "data-key": "agent-line" }, "Agent ", h("strong", {}, agent.agent_id || "not registered yet"), `, up for ${duration(agent.uptime_ms)}. `, note);

// A command to type on a page that is still empty.
export const command = (text) => h("code", { class: "command" }, text);

// Longer fields scroll on their own, by keyboard as well.
const [LONG, LINES] = [800, 10];
const SCROLLS = { tabindex: 0, role: "group", "aria-label": "A long field" };

// A key, a value or a header.
export function field(value) {
  if (value === null) return h("em", { class: "note" }, "null");
  if (value.size === 0) return h("em", { class: "note" }, "empty");
  const hex = value.encoding === "hex";
  const shown = hex ? groups(value.shown) : visible(value.shown);
  const long = shown.length > LONG || shown.split("\n").length > LINES;
  const notes = [];
  if (hex) notes.push(badge(`binary, ${bytes(value.size)}`));
  if (value.truncated) notes.push(badge(`truncated: the first ${bytes(hex ? value.shown.length / 2 : new TextEncoder().encode(value.shown).length)} of ${bytes(value.size)}`, "warn"));
  return h("div", { class: "field" }, h("pre", { class: `${hex ? "hex" : "text"}${long ? " long" : ""}`, dir: "auto", ...(long && SCROLLS) }, shown), notes);
}

export const crumbs = (...links) =>
  h("nav", { class: "crumbs", "aria-label": "You are here", "data-key": "crumbs" }, h("ol", {}, links.map(([text, href]) => h("li", {}, href ? h("a", { href }, text) : h("span", { "aria-current": "page" }, text)))));
