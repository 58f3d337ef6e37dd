// The Kafka clients that are connected to the agent that serves the page.

import { h } from "./dom.js";
import { count, plural } from "./format.js";
import { badge, link, pager, table } from "./parts.js";

export const clients = {
  title: () => "Kafka clients",
  load: (get, { parameters }) => get("clients", { offset: parameters.offset }),
  render(data, { parameters }) {
    const rows = data.software.map((row) => ({
      key: `${row.name} ${row.version}`,
      cells: [row.name || badge("not named"), row.version || "none", count(row.connections), count(row.client_ids), count(row.hosts)],
    }));
    return [
      table({
        id: "clients",
        caption: `${plural(data.connections, "connection")} of Kafka clients to this agent`,
        columns: [
          { title: "Software" },
          { title: "Version" },
          { title: "Connections", number: true },
          { title: "Client ids", number: true },
          { title: "Addresses", number: true },
        ],
        rows,
        empty: "No Kafka client is connected to this agent.",
      }),
      h("p", { class: "quiet", "data-key": "note" }, "Clients name their software themselves, in ApiVersions from version 3 on; older ones do not."),
      pager(data, data.total, "clients", (offset) => link(["clients"], { ...parameters, offset })),
    ].filter(Boolean);
  },
  say: (data) => plural(data.connections, "connection"),
};
