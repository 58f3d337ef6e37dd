// Consumer groups, and one group with its progress in each partition and its members.

import { h } from "./dom.js";
import { count, plural } from "./format.js";
import { badge, command, crumbs, facts, link, pager, table, when } from "./parts.js";
import { filterForm } from "./topics.js";

const stateBadge = (state) => badge(state, state === "Stable" ? "good" : state === "Empty" ? "" : "warn");

export const groups = {
  title: () => "Consumer groups",
  load: (get, { parameters }) => get("groups", { filter: parameters.filter, offset: parameters.offset }),
  render(data, { parameters }) {
    const rows = data.groups.map((group) => ({
      key: group.group_id,
      cells: [h("a", { href: link(["groups", group.group_id]) }, group.group_id), stateBadge(group.state), count(group.members), count(group.partitions), count(group.lag), when(group.last_commit_ms), group.protocol],
    }));
    const empty = data.total ? `No group's name holds \u201c${parameters.filter}\u201d.` : ["No groups yet. Consume with one: ", command("streamhouse consume orders --group billing --from-beginning")];
    return [
      filterForm("groups", "groups", parameters),
      table({
        id: "groups",
        caption: data.matched === data.total ? plural(data.total, "group") : `${count(data.matched)} of ${plural(data.total, "group")}`,
        columns: [
          { title: "Group" },
          { title: "State" },
          { title: "Members", number: true },
          { title: "Partitions", number: true },
          { title: "Lag", number: true },
          { title: "Last commit (UTC)" },
          { title: "Protocol" },
        ],
        rows,
        empty,
      }),
      h("p", { class: "quiet", "data-key": "note" }, "Partitions and lag cover the partitions with a committed offset: lag is the number of records between it and the high watermark."),
      pager(data, data.matched, "groups", (offset) => link(["groups"], { ...parameters, offset })),
    ].filter(Boolean);
  },
  say: (data) => plural(data.matched, "group"),
};

function places(data) {
  const rows = data.partitions.map((place) => ({
    key: `${place.topic}/${place.partition}`,
    cells: [
      h("a", { href: link(["topics", place.topic]) }, `${place.topic}-${place.partition}`),
      place.committed === null ? "none" : count(place.committed),
      place.high_watermark === null ? badge("gone", "warn") : count(place.high_watermark),
      count(place.lag),
      place.member_id ? h("code", {}, place.member_id) : "none",
      when(place.committed_at_ms),
    ],
  }));
  return table({
    id: "places",
    caption: plural(data.total, "partition"),
    columns: [
      { title: "Partition" },
      { title: "Committed", number: true },
      { title: "High watermark", number: true },
      { title: "Lag", number: true },
      { title: "Assigned to" },
      { title: "Committed at (UTC)" },
    ],
    rows,
    empty: "No committed offsets and no assigned partitions.",
  });
}

function members(data) {
  const rows = data.members.map((member) => ({
    key: member.member_id,
    cells: [h("code", {}, member.member_id), member.client_id, member.client_host, member.group_instance_id || "none", count(member.partitions), member.software || "unknown"],
  }));
  const more = data.members_total - data.members.length;
  return table({
    id: "members",
    caption: `${plural(data.members_total, "member")}${more > 0 ? `, ${count(more)} of them not shown` : ""}`,
    columns: [{ title: "Member" }, { title: "Client" }, { title: "Host" }, { title: "Instance" }, { title: "Partitions", number: true }, { title: "Software" }],
    rows,
    empty: "The group has no members.",
  });
}

export const group = {
  title: ({ names }) => `Group ${names[0]}`,
  load: (get, { names, parameters }) => get("group", { id: names[0], offset: parameters.offset }),
  render: (data) =>
    [
      crumbs(["Groups", "#/groups"], [data.group_id]),
      facts("facts", [
        ["State", stateBadge(data.state)],
        ["Lag", plural(data.lag, "record")],
        ["Members", count(data.members_total)],
        ["Generation", count(data.generation)],
        ["Protocol", data.protocol],
        ["Assignor", data.assignor || "none"],
        ["Coordinator", data.coordinator ? h("a", { href: link(["agents", data.coordinator]) }, data.coordinator) : badge("none", "bad")],
      ]),
      places(data),
      pager(data, data.total, "partitions", (offset) => link(["groups", data.group_id], { offset })),
      members(data),
      h("p", { class: "quiet", "data-key": "note" }, "The software is that of Kafka clients that are connected to the agent that serves this page."),
    ].filter(Boolean),
  say: (data) => `${data.state}, lag ${plural(data.lag, "record")}`,
};
