// Agents and their leases.

import { h } from "./dom.js";
import { count, duration, plural } from "./format.js";
import { badge, crumbs, facts, link, pager, table, when } from "./parts.js";

const state = (agent) => (agent.draining ? badge("draining", "warn") : badge("live", "good"));

export const agents = {
  title: () => "Agents",
  load: (get) => get("agents"),
  render(data) {
    const rows = data.agents.map((agent) => ({
      key: agent.agent_id,
      cells: [
        [h("a", { href: link(["agents", agent.agent_id]) }, agent.agent_id), agent.this && [" ", badge("this one")]],
        state(agent),
        count(agent.leases),
        count(agent.group_slots),
        agent.zone || "none",
        h("code", {}, agent.grpc_address),
        agent.version,
        String(agent.incarnation),
      ],
    }));
    return [
      table({
        id: "agents",
        caption: plural(data.agents.length, "agent"),
        columns: [
          { title: "Agent" },
          { title: "State" },
          { title: "Partitions led", number: true },
          { title: "Group slots", number: true },
          { title: "Zone" },
          { title: "gRPC address" },
          { title: "Version" },
          { title: "Incarnation", number: true },
        ],
        rows,
        empty: "No agent is registered.",
      }),
      facts("leases", [
        ["Lease duration", duration(data.lease_ttl_ms)],
        ["This agent's last renewal", when(data.own_renewal_ms, data.now_ms)],
        ["Ended incarnations not swept yet", count(data.ended_lives)],
      ]),
      h("p", { class: "quiet", "data-key": "note" }, "An agent is listed while it renews its lease. One lease covers everything that an agent leads; when it expires, other agents take over."),
    ];
  },
  say: (data) => plural(data.agents.length, "agent"),
};

export const agent = {
  title: ({ names }) => `Agent ${names[0]}`,
  load: (get, { names, parameters }) => get("agent", { id: names[0], offset: parameters.offset }),
  render(data) {
    const rows = data.partitions.map((lease) => ({
      key: `${lease.topic}/${lease.partition}`,
      cells: [
        lease.internal ? `${lease.topic}-${lease.partition}` : h("a", { href: link(["topics", lease.topic]) }, `${lease.topic}-${lease.partition}`),
        lease.internal ? "coordinator slot" : "partition",
        count(lease.leader_epoch),
      ],
    }));
    return [
      crumbs(["Agents", "#/agents"], [data.agent_id]),
      facts("facts", [
        ["State", [state(data), data.this && [" ", badge("this one")]]],
        ["Partitions led", count(data.leases)],
        ["Group slots", count(data.group_slots)],
        ["Node id", String(data.node_id)],
        ["Incarnation", String(data.incarnation)],
        ["Zone", data.zone || "none"],
        ["Version", data.version],
        ["gRPC", h("code", {}, data.grpc_address)],
        ["HTTP", h("code", {}, data.http_address)],
      ]),
      table({
        id: "leases",
        caption: plural(data.total, "lease"),
        columns: [{ title: "Lease" }, { title: "Kind" }, { title: "Epoch", number: true }],
        rows,
        empty: "This agent leads no partitions or coordinator slots.",
      }),
      pager(data, data.total, "leases", (offset) => link(["agents", data.agent_id], { offset })),
    ].filter(Boolean);
  },
  say: (data) => plural(data.total, "lease"),
};
