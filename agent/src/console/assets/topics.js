// Topics, and one topic with its partitions and settings.

import { h } from "./dom.js";
import { bytes, count, plural } from "./format.js";
import { badge, command, crumbs, facts, link, pager, table, when } from "./parts.js";

const ORDERS = [
  ["name", "Name"],
  ["partitions", "Most partitions"],
  ["records", "Most records"],
  ["size", "Largest"],
];

export function filterForm(path, what, parameters, orders) {
  const sort = parameters.sort ?? "name";
  return h(
    "form",
    { class: "filter", role: "search", "data-go": path, "data-key": "filter" },
    h("div", {}, h("label", { for: "filter" }, `Find ${what}`), h("input", { id: "filter", name: "filter", type: "search", value: parameters.filter ?? "", maxlength: 249, autocomplete: "off", spellcheck: "false", "data-instant": true })),
    orders && h("div", {}, h("label", { for: "sort" }, "Order"), h("select", { id: "sort", name: "sort", "data-chosen": sort, "data-instant": true }, orders.map(([value, text]) => h("option", { value, selected: value === sort }, text)))),
    h("button", { type: "submit" }, "Find"),
  );
}

function state(topic) {
  const badges = [];
  if (topic.leaderless) badges.push(badge(`${plural(topic.leaderless, "partition")} without a leader`, "bad"));
  if (topic.managed_by) badges.push(badge(`managed by ${topic.managed_by}`));
  return badges.length ? badges : badge("ok", "good");
}

export const topics = {
  title: () => "Topics",
  load: (get, { parameters }) => get("topics", { filter: parameters.filter, sort: parameters.sort, offset: parameters.offset }),
  render(data, { parameters }) {
    const rows = data.topics.map((topic) => ({
      key: topic.name,
      cells: [h("a", { href: link(["topics", topic.name]) }, topic.name), count(topic.partitions), count(topic.records), bytes(topic.size_bytes), state(topic)],
    }));
    const empty = data.total ? `No topic's name holds \u201c${parameters.filter}\u201d.` : ["No topics yet. Create one: ", command("streamhouse topic create orders --partitions 4")];
    return [
      filterForm("topics", "topics", parameters, ORDERS),
      table({
        id: "topics",
        caption: data.matched === data.total ? plural(data.total, "topic") : `${count(data.matched)} of ${plural(data.total, "topic")}`,
        columns: [{ title: "Topic" }, { title: "Partitions", number: true }, { title: "Records", number: true }, { title: "Size", number: true }, { title: "State" }],
        rows,
        empty,
      }),
      pager(data, data.matched, "topics", (offset) => link(["topics"], { ...parameters, offset })),
    ].filter(Boolean);
  },
  say: (data) => plural(data.matched, "topic"),
};

function settings(config) {
  const own = config.filter((setting) => setting.own).length;
  const rows = config.map(({ key, value, own: mine }) => ({ key, cells: [h("code", {}, key), h("code", {}, value), mine ? badge("topic") : "default"] }));
  return h(
    "details",
    { "data-key": "settings" },
    h("summary", {}, `Settings: ${own ? `${count(own)} of ${count(config.length)} set for this topic` : "all defaults"}`),
    table({ id: "settings", caption: "Effective settings", columns: [{ title: "Setting" }, { title: "Value" }, { title: "Source" }], rows }),
  );
}

export const topic = {
  title: ({ names }) => `Topic ${names[0]}`,
  load: (get, { names, parameters }) => get("topic", { name: names[0], offset: parameters.offset }),
  render(data) {
    const rows = data.partitions.map((partition) => ({
      key: String(partition.partition),
      cells: [
        data.internal ? String(partition.partition) : h("a", { href: link(["topics", data.name, "records"], { partition: partition.partition }), "aria-label": `Partition ${partition.partition}: records` }, String(partition.partition)),
        partition.leader ? h("a", { href: link(["agents", partition.leader]) }, partition.leader) : badge("none", "bad"),
        count(partition.leader_epoch),
        count(partition.log_start_offset),
        count(partition.high_watermark),
        count(partition.high_watermark - partition.log_start_offset),
        bytes(partition.size_bytes),
      ],
    }));
    return [
      crumbs(["Topics", "#/topics"], [data.name]),
      facts("facts", [
        ["Partitions", count(data.total)],
        ["Records", count(data.records)],
        ["Size", bytes(data.size_bytes)],
        ["Created", when(data.created_at_ms)],
        data.managed_by && ["Managed by", data.managed_by],
        ["Id", h("code", {}, data.topic_id)],
      ]),
      table({
        id: "partitions",
        caption: plural(data.total, "partition"),
        columns: [
          { title: "Partition" },
          { title: "Leader" },
          { title: "Epoch", number: true },
          { title: "Log start", number: true },
          { title: "High watermark", number: true },
          { title: "Records", number: true },
          { title: "Size", number: true },
        ],
        rows,
      }),
      !data.internal && h("p", { class: "quiet", "data-key": "note" }, "Select a partition to browse its records."),
      pager(data, data.total, "partitions", (offset) => link(["topics", data.name], { offset })),
      settings(data.config),
    ].filter(Boolean);
  },
  say: (data) => plural(data.total, "partition"),
};
