// The record browser: one page of one partition. It does not refresh on its own, so that the shown
// records stay in place.

import { h } from "./dom.js";
import { count, plural, time } from "./format.js";
import { badge, crumbs, field, link, table } from "./parts.js";

const LIMITS = [10, 20, 50, 100];
const USUAL = 20;

const STOPPED = {
  end: "This is the end of the partition.",
  bytes: "The page is full: it reads at most 1 MiB and shows at most 1 MiB of contents. Continue with Newer.",
  damage: "The following records could not be read.",
};

function limitOf(parameters) {
  const limit = Number(parameters.limit ?? USUAL);
  return LIMITS.includes(limit) ? limit : USUAL;
}

// Parses a time as people write it: milliseconds, or ISO 8601, in UTC unless it names an offset.
function milliseconds(text) {
  const trimmed = text.trim();
  if (/^\d+$/.test(trimmed)) return Number(trimmed);
  const iso = trimmed.replace(" ", "T");
  const ms = Date.parse(/(Z|[+-]\d\d:?\d\d)$/i.test(iso) || !iso.includes("T") ? iso : `${iso}Z`);
  return Number.isNaN(ms) ? undefined : ms;
}

function form(topic, parameters) {
  const start = parameters.offset !== undefined ? "offset" : parameters.time !== undefined ? "time" : "newest";
  const at = parameters.offset ?? parameters.time ?? "";
  const option = (value, text, chosen) => h("option", { value, selected: String(value) === String(chosen) }, text);
  return h(
    "form",
    { class: "filter", "data-read": topic, "data-key": "read" },
    h("div", {}, h("label", { for: "partition" }, "Partition"), h("input", { id: "partition", name: "partition", type: "number", min: 0, step: 1, required: true, value: parameters.partition ?? "0" })),
    h("div", {}, h("label", { for: "start" }, "Start"), h("select", { id: "start", name: "start", "data-chosen": start }, option("newest", "Newest records", start), option("offset", "From offset", start), option("time", "From time (UTC)", start))),
    h("div", {}, h("label", { for: "at" }, "Offset or time"), h("input", { id: "at", name: "at", type: "text", value: at, autocomplete: "off", spellcheck: "false", placeholder: "0 or 2026-01-31 08:00" })),
    h("div", {}, h("label", { for: "limit" }, "Records"), h("select", { id: "limit", name: "limit", "data-chosen": limitOf(parameters) }, LIMITS.map((limit) => option(limit, limit, limitOf(parameters))))),
    h("button", { type: "submit" }, "Read"),
  );
}

// The address that the form leads to.
export function asked(topic, values) {
  const parameters = { partition: values.partition, limit: values.limit };
  if (values.start === "offset") parameters.offset = values.at.trim() || "0";
  if (values.start === "time") parameters.time = values.at.trim();
  return link(["topics", topic, "records"], parameters);
}

function headers(record) {
  if (!record.headers_total) return h("span", { class: "note" }, "none");
  const hidden = record.headers_total - record.headers.length;
  return h(
    "details",
    {},
    h("summary", {}, plural(record.headers_total, "header")),
    h("dl", { class: "headers" }, record.headers.map(([key, value]) => h("div", {}, h("dt", {}, field(key)), h("dd", {}, field(value))))),
    hidden > 0 && badge(`${plural(hidden, "more header")} not shown`, "warn"),
  );
}

function unreadable(data) {
  if (!data.unreadable.length) return null;
  const rows = data.unreadable.map((damage) => ({
    key: String(damage.from),
    cells: [damage.to > damage.from ? `${count(damage.from)} to ${count(damage.to - 1)}` : `from ${count(damage.from)}`, h("code", {}, damage.code), damage.message],
  }));
  return table({ id: "unreadable", caption: "Records that could not be shown", columns: [{ title: "Offsets" }, { title: "Code" }, { title: "Reason" }], rows });
}

function steps(data, parameters) {
  const limit = limitOf(parameters);
  const to = (offset) => link(["topics", data.topic, "records"], { partition: data.partition, offset, limit });
  const step = (name, offset, there) => (there ? h("a", { href: to(offset), class: "button" }, name) : h("span", { class: "button off" }, name));
  return h(
    "nav",
    { class: "pager", "aria-label": "Parts of the partition", "data-key": "steps" },
    step("Oldest", data.log_start_offset, data.from > data.log_start_offset),
    step("Older", Math.max(data.log_start_offset, data.from - limit), data.from > data.log_start_offset),
    step("Newer", data.next, data.next < data.high_watermark),
    h("a", { href: link(["topics", data.topic, "records"], { partition: data.partition, limit }), class: "button" }, "Newest"),
  );
}

export const records = {
  still: true,
  title: ({ names }) => `Records of ${names[0]}`,
  async load(get, { names, parameters }) {
    const wanted = { topic: names[0], partition: parameters.partition ?? "0", offset: parameters.offset, limit: limitOf(parameters) };
    if (parameters.time !== undefined) {
      wanted.timestamp = milliseconds(parameters.time);
      if (wanted.timestamp === undefined) throw Object.assign(new Error(`\u201c${parameters.time}\u201d is no time; write it like 2026-01-31 08:00, or in milliseconds`), { code: "INVALID_REQUEST", status: 400 });
    }
    return get("records", wanted);
  },
  render(data, { names, parameters }) {
    const top = [crumbs(["Topics", "#/topics"], [names[0], link(["topics", names[0]])], ["Records"]), form(names[0], parameters)];
    if (!data) return top;
    const rows = data.records.map((record) => ({
      key: String(record.offset),
      cells: [count(record.offset), h("time", { datetime: time(record.timestamp_ms).replace(" ", "T"), class: "stamp" }, time(record.timestamp_ms)), field(record.key), field(record.value), headers(record)],
    }));
    const held = data.high_watermark > data.log_start_offset ? `holds offsets ${count(data.log_start_offset)} to ${count(data.high_watermark - 1)}` : "holds no records";
    return [
      ...top,
      h("p", { class: "quiet", "data-key": "held" }, `Partition ${data.partition} ${held}. `, data.stopped ? STOPPED[data.stopped] : ""),
      unreadable(data),
      table({
        id: "records",
        caption: plural(data.records.length, "record"),
        columns: [{ title: "Offset", number: true }, { title: "Time (UTC)" }, { title: "Key" }, { title: "Value" }, { title: "Headers" }],
        rows,
        empty: "No records from this position on.",
      }),
      steps(data, parameters),
    ].filter(Boolean);
  },
  say: (data) => `${plural(data.records.length, "record")} read`,
};
