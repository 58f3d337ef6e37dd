// The overview page.

import { h } from "./dom.js";
import { about, bytes, count, duration, plural } from "./format.js";
import { badge, card, cards, command, facts, sparkline, table } from "./parts.js";
import { counterNow } from "./rates.js";

const CONDITIONS = {
  object_store: ["Object store", "passed its check"],
  metadata: ["Metadata store", "responds"],
  joined: ["Joined", "is registered and renews its lease"],
  leases: ["Leases", "leads its share of the partitions"],
  serving: ["Serving", "is not draining"],
};

function rate(title, samples, name, show) {
  const now = counterNow(samples, name);
  return card(title, now === undefined ? "measuring" : `${show(now)}/s`, { more: sparkline(samples.rates(name)), href: "#/rates" });
}

function readiness(data) {
  const rows = data.conditions.map(({ condition, met, reason }) => {
    const [name, meaning] = CONDITIONS[condition] ?? [condition, ""];
    return { key: condition, cells: [name, met ? badge("yes", "good") : badge("no", "bad"), met ? meaning : reason] };
  });
  return table({
    id: "readiness",
    caption: data.ready ? "This agent is ready" : "This agent is not ready",
    columns: [{ title: "Condition" }, { title: "Met" }, { title: "Meaning, or reason" }],
    rows,
  });
}

export const overview = {
  title: () => "Overview",
  load: (get) => get("overview"),
  render(data, _, { samples }) {
    const { counts, agent } = data;
    const nothing = counts.topics === 0 && h("p", { class: "hint", "data-key": "hint" }, "No topics yet. Create one: ", command("streamhouse topic create orders --partitions 4"));
    return [
      cards(
        card("Topics", count(counts.topics), { href: "#/topics" }),
        card("Partitions", count(counts.partitions), {
          more: counts.leaderless ? `${count(counts.leaderless)} without a leader` : "all have a leader",
          kind: counts.leaderless ? "bad" : "",
        }),
        card("Agents", count(counts.agents), { href: "#/agents", more: `${plural(samples.value("active_partitions") ?? 0, "partition")} led by this one` }),
        rate("Records in", samples, "produced_records", about),
        rate("Bytes in", samples, "produced_bytes", bytes),
        rate("Fetches", samples, "fetch_requests", about),
      ),
      nothing,
      readiness(data),
      h("h2", { "data-key": "h2" }, "About"),
      facts("about", [
        ["Agent", agent.agent_id || "not registered yet"],
        ["Version", agent.version],
        ["Up for", duration(agent.uptime_ms)],
        ["Incarnation", agent.incarnation ? String(agent.incarnation) : "none yet"],
        ["Cluster", data.cluster_id || "unknown"],
        ["Metadata store", data.metadata_store],
        ["Object store", data.object_store],
        ["Last change of a topic, an agent or a leader", `${duration(data.changed_ms_ago)} ago`],
      ]),
    ].filter(Boolean);
  },
  say: (data) => `${plural(data.counts.topics, "topic")}, ${plural(data.counts.agents, "agent")}, ${data.ready ? "ready" : "not ready"}`,
};
