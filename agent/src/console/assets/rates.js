// Computes rates from consecutive responses of one incarnation of one agent, kept for two minutes,
// and shows them all on a page.

import { h } from "./dom.js";
import { about, bytes, count, seconds } from "./format.js";
import { agentLine, sparkline, table } from "./parts.js";

const KEEP = 60;
// Quantiles need a window of more than two responses to be meaningful.
const WINDOW_MS = 30000;

// A counter that was never incremented has no series yet.
const number = (sample, name) => sample.values[name] ?? 0;

export class Samples {
  #samples = [];

  // Adds a response, and drops the earlier ones if they are of another agent or incarnation.
  add(answer) {
    const last = this.#samples.at(-1);
    const same = last && last.agent.agent_id === answer.agent.agent_id && last.agent.incarnation === answer.agent.incarnation;
    if (!same || answer.agent.uptime_ms < last.agent.uptime_ms) this.#samples = [];
    this.#samples.push(answer);
    if (this.#samples.length > KEEP) this.#samples.shift();
  }

  get latest() {
    return this.#samples.at(-1);
  }

  value(name) {
    return this.latest ? number(this.latest, name) : undefined;
  }

  // The rate per second between each two responses.
  rates(name) {
    const rates = [];
    for (let i = 1; i < this.#samples.length; i += 1) {
      const [before, after] = [this.#samples[i - 1], this.#samples[i]];
      const [passed, more] = [after.agent.uptime_ms - before.agent.uptime_ms, number(after, name) - number(before, name)];
      if (passed > 0) rates.push(Math.max(0, (more * 1000) / passed));
    }
    return rates;
  }

  // The values of a gauge.
  values(name) {
    return this.#samples.map((sample) => number(sample, name));
  }

  // The quantile of the latest half minute, in seconds: the upper bound of its bucket. Undefined
  // without observations.
  latency(quantile) {
    const after = this.latest;
    const before = this.#samples.find((sample) => after.agent.uptime_ms - sample.agent.uptime_ms <= WINDOW_MS);
    const all = after ? after.write_latency.count - before.write_latency.count : 0;
    if (all <= 0) return undefined;
    const bounds = after.write_latency.buckets;
    const found = bounds.find(([, number], i) => number - before.write_latency.buckets[i][1] >= all * quantile);
    return found ? found[0] : Infinity;
  }
}

const COUNTERS = [
  ["produced_records", "Records in", about, "/s", "acknowledged with an offset"],
  ["produced_bytes", "Bytes in", bytes, "/s", "as sent, compressed"],
  ["produced_batches", "Batches in", about, "/s", ""],
  ["fetch_requests", "Fetches", about, "/s", "from consumers, long polls included"],
  ["tail_read_bytes", "Bytes read from memory", bytes, "/s", "by consumers at the end of a partition"],
  ["store_puts", "Object store PUTs", about, "/s", "billed per request"],
  ["store_gets", "Object store GETs", about, "/s", "billed per request"],
  ["store_bytes_put", "Bytes written to the object store", bytes, "/s", ""],
  ["store_bytes_get", "Bytes read from the object store", bytes, "/s", ""],
  ["flushes", "Flushes", about, "/s", "WAL objects, each with batches of many partitions"],
  ["grpc_requests", "gRPC requests", about, "/s", ""],
  ["grpc_errors", "gRPC errors", about, "/s", "of a call, or of one item of a call"],
  ["kafka_requests", "Kafka requests", about, "/s", ""],
  ["kafka_errors", "Kafka errors", about, "/s", "an answer counts once for each of its error codes"],
  ["cpu_seconds", "CPU", about, " cores", ""],
];

const GAUGES = [
  ["active_partitions", "Partitions led", count],
  ["connections", "Client connections", count],
  ["queue_bytes", "Bytes admitted and not stored yet", bytes],
  ["tail_bytes", "Tail cache", bytes],
  ["cache_bytes", "Block cache", bytes],
  ["resident_bytes", "Memory of the process", bytes],
];

export const counterNow = (samples, name) => samples.rates(name).at(-1);

const bound = (value) => (value === undefined ? "no appends" : value === Infinity ? "over 65 s" : `\u2264 ${seconds(value)}`);

function counterRows(samples) {
  return COUNTERS.map(([name, title, show, unit, note]) => {
    const rates = samples.rates(name);
    const now = rates.at(-1);
    return {
      key: name,
      cells: [
        [title, note && [" ", h("span", { class: "note" }, note)]],
        now === undefined ? "measuring" : `${show(now)}${unit}`,
        rates.length ? `${show(Math.max(...rates))}${unit}` : "",
        sparkline(rates),
      ],
    };
  });
}

function gaugeRows(samples) {
  return GAUGES.map(([name, title, show]) => ({
    key: name,
    cells: [title, show(samples.value(name)), sparkline(samples.values(name))],
  }));
}

export const rates = {
  title: () => "Rates",
  load: async () => ({}),
  render(_, __, { samples }) {
    if (!samples.latest) return [h("p", { class: "quiet" }, "Measuring.")];
    const latency = [
      { key: "p50", cells: ["p50", bound(samples.latency(0.5))] },
      { key: "p99", cells: ["p99", bound(samples.latency(0.99))] },
    ];
    return [
      agentLine(samples.latest.agent, "These are the counters of this agent only. For the whole cluster, and for longer than two minutes, use Prometheus."),
      table({
        id: "counters",
        caption: "Rates between the last two refreshes",
        columns: [{ title: "Metric" }, { title: "Now", number: true }, { title: "Maximum", number: true }, { title: "Last two minutes" }],
        rows: counterRows(samples),
      }),
      table({
        id: "latency",
        caption: "Append latency in the last half minute",
        columns: [{ title: "Quantile" }, { title: "Latency", number: true }],
        rows: latency,
      }),
      table({
        id: "gauges",
        caption: "Current values",
        columns: [{ title: "Metric" }, { title: "Now", number: true }, { title: "Last two minutes" }],
        rows: gaugeRows(samples),
      }),
    ];
  },
};
