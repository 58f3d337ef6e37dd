#!/usr/bin/env python3
"""Runs every query of the dashboard against a real Prometheus that scrapes a real agent, producer and consumer, with Kafka clients beside
them, and compares the answers with what the run counted itself; runs every query of docs/observability.md, which must have an answer;
checks that no alert fires in a healthy cluster; and compares docs/reference/metrics.md with what was scraped (UPDATE_DOCS=1 writes it).
Called by hack/check-live.sh with the folder of the programs and a Python that has kafka-python; needs prometheus; listens on free ports of
127.0.0.1; a minute."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

from checking import PATIENCE, fail, wait_for
from live import DASHBOARD, PRICES, RULES, Prometheus, check_variables, documented_queries, filled, note

REFERENCE = pathlib.Path("docs/reference/metrics.md")
GUIDE = pathlib.Path("docs/observability.md")
TOPIC, GROUP = "orders", "billing"
# Of the Kafka clients.
KAFKA_TOPIC, KAFKA_GROUP = "clicks", "visits"
# Labels that the scrape configuration gives to agents, as the operator's ServiceMonitor does, and clients may bring.
CLUSTER, NAMESPACE = "live", "streaming"
RATE = 2000
KAFKA_RATE = 500
# Four and one of the load, one that is created during the run, two of the Kafka clients.
PARTITIONS = 8
# No latency, time or lag of the run is as long, in seconds; how long the checks wait for programs says nothing about that.
LONGEST = 60

# Panels that this run cannot fill, and why. That they are empty is checked, too.
EMPTY = {
    "Certificates expire in": "no TLS here",
    "Operator leader": "no operator here", "Missing CRDs": "no operator here", "Time since the last success": "no operator here",
    "Drift corrected": "no operator here", "Reconciliations": "no operator here", "Reconciliation duration P99": "no operator here",
    "Resources": "no operator here",
}
# Panels whose values are zero when all goes well.
ZERO = {"Kafka throttle time", "Invariant violations", "Failed runs of background jobs", "Orphans deleted", "Incarnations to sweep",
        # No authentication, and nobody has a quota.
        "Authentications", "Denied requests", "Requests over quota", "Throttle time by quota"}
# Queries that may be zero: nothing of an agent that is gone has to be looked for here; a scrape may find nothing under way.
MAY_BE_ZERO = {("PUT and GET requests", "LIST and HEAD"), ("Age of the oldest write", "{{stage}}"), ("Memory by use", "queue"),
               ("Memory by use", "{{use}}"), ("Members of groups", "{{group}}")}

# Metrics of an agent that this run does not show: (name, type, labels, meaning).
WITH_TLS = [
    ("streamhouse_agent_certificate_not_after_seconds", "gauge", "`listener`",
     "When the certificate that a listener serves now expires, in seconds since 1970."),
    ("streamhouse_agent_tls_handshake_errors_total", "counter", "`listener`", "Connections that failed before they were secure."),
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Programs:
    """The processes of the run; they end with it, even if it is killed."""

    def __init__(self, folder):
        self.folder = folder
        self.running = []

    def start(self, name, *command, stdin=subprocess.DEVNULL):
        log = open(self.folder / f"{name}.log", "wb")
        out = open(self.folder / f"{name}.out", "wb")
        command = ["setpriv", "--pdeathsig", "KILL", *map(str, command)]
        process = subprocess.Popen(command, stdin=stdin, stdout=out, stderr=log, cwd=self.folder)
        self.running.append((name, process))
        return process

    def said(self, name, pattern):
        """What a program wrote to its standard output, as soon as it matches."""

        def look():
            for running, process in self.running:
                if running == name and process.poll() not in (None, 0):
                    fail(f"{name} ended with {process.returncode}: {(self.folder / f'{name}.log').read_text()[-2000:]}")
            return re.search(pattern, (self.folder / f"{name}.out").read_text(), re.MULTILINE)

        return wait_for(f"{name}: {pattern}", look)

    def stop(self):
        for _, process in reversed(self.running):
            if process.poll() is None:
                process.kill()
            process.wait()


def labels(job):
    return {"streamhouse_cluster": CLUSTER, **({"namespace": NAMESPACE} if job == "streamhouse-agents" else {})}


def settings(agent, producer, consumer):
    jobs = {"streamhouse-agents": agent, "streamhouse-producers": producer, "streamhouse-consumers": consumer}
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES.resolve())],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [target], "labels": labels(job)}]} for job, target in jobs.items()],
    }


def run(folder, programs, bin_folder, kafka_python):
    """Starts everything, lets it write, fall behind, fail and catch up; returns Prometheus, the time, and what was counted."""
    programs.start(
        "agent", bin_folder / "streamhouse-agent", "--dev", "--data-dir", folder / "data", "--grpc-listen", "127.0.0.1:0",
        "--http-listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", "--maintenance-interval", "500ms", "--object-grace", "1m", "--cache-memory", "1MiB")
    listening = programs.said("agent", r"^listening .*")[0]
    grpc, http, kafka = (re.search(rf"{name}=(\S+)", listening)[1] for name in ("grpc", "http", "kafka"))
    load = programs.start("load", bin_folder / "examples" / "observed_load", grpc, TOPIC, GROUP, RATE, stdin=subprocess.PIPE)
    producer, consumer = programs.said("load", r"^serving producer=(\S+) consumer=(\S+)$").groups()
    script = pathlib.Path(__file__).with_name("kafka_load.py")
    kafka_load = programs.start(
        "kafka", kafka_python, script, kafka, KAFKA_TOPIC, KAFKA_GROUP, KAFKA_RATE, stdin=subprocess.PIPE)
    (folder / "prometheus.yml").write_text(json.dumps(settings(http, producer, consumer)))
    port, begin = free_port(), time.time()
    programs.start("prometheus", "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                   f"--web.listen-address=127.0.0.1:{port}")
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    wait_for("the targets' scrape", lambda: prometheus.value("sum(up)") == 3)
    note("everything runs and is scraped")

    def tell(order):
        load.stdin.write(f"{order}\n".encode())
        load.stdin.flush()

    sent = f'sum(streamhouse_producer_records_sent_total{{topic="{TOPIC}"}})'
    lag = "sum(streamhouse_consumer_lag_records)"
    tell("send")
    programs.said("kafka", "^running$")
    send_no_request(kafka)
    # A partition that is taken while Prometheus looks.
    subprocess.run([bin_folder / "streamhouse", "--bootstrap", grpc, "topic", "create", "late", "--partitions", "1"], check=True,
                   stdout=subprocess.DEVNULL, timeout=PATIENCE)
    wait_for("10,000 records", lambda: prometheus.value(sent) > 10_000)
    tell("hold")
    wait_for("a lag", lambda: prometheus.value(lag) > 10_000)
    note(f"a lag of {prometheus.value(lag):.0f} records while nothing is read")
    tell("fail")
    wait_for("refused records", lambda: prometheus.value("sum(streamhouse_producer_send_errors_total)") > 200)
    note(f"{prometheus.value('sum(streamhouse_producer_send_errors_total)'):.0f} records were refused")
    tell("heal")
    tell("read")
    wait_for("catching up", lambda: prometheus.value(lag) < 1_000)
    wait_for("segments", lambda: prometheus.value("streamhouse_agent_segments_rolled_total") > 0)
    tell("finish")
    counts = json.loads(programs.said("load", r"^\{.*\}$")[0])
    kafka_load.stdin.write(b"finish\n")
    kafka_load.stdin.flush()
    counts["kafka"] = json.loads(programs.said("kafka", r"^\{.*\}$")[0])
    wait_for("the last scrape", lambda: prometheus.value(sent) == counts["acknowledged"] and prometheus.value(lag) == 0
             and prometheus.value("sum(streamhouse_consumer_last_committed_offset)") == counts["read"])
    # The coordinator looks every few seconds.
    for group, topic, of_clients in ((GROUP, TOPIC, counts), (KAFKA_GROUP, KAFKA_TOPIC, counts["kafka"])):
        of_group = f'{{group="{group}",topic="{topic}"}}'
        wait_for(f"the coordinator's word on {group}", lambda of_group=of_group, read=of_clients["read"]: prometheus.value(
            f"streamhouse_group_committed_offset{of_group}") == read and prometheus.value(f"streamhouse_group_lag_records{of_group}") == 0)
        produced = f'streamhouse_topic_produced_records_total{{topic="{topic}"}}'
        wait_for(f"the agent's count of {topic}",
                 lambda produced=produced, sent=of_clients["acknowledged"]: prometheus.value(produced) == sent)
    read_again(bin_folder, grpc, counts)
    # Their rate, too: it is what the dashboard shows.
    wait_for("reads from the object store", lambda: prometheus.value("sum(rate(streamhouse_agent_cache_misses_total[5s]))") > 0)
    # A rate's window reaches beyond the end: only then the sum of the rates is what was counted.
    for counter in ("streamhouse_consumer_records_consumed_total", "streamhouse_topic_fetched_records_total", "streamhouse_agent_cache_misses_total"):
        wait_for("standing still", lambda counter=counter: prometheus.value(f"sum(rate({counter}[5s]))") == 0)
    return prometheus, begin, counts


def send_no_request(kafka):
    """Sends the Kafka listener a frame that it refuses, and waits until it has closed the connection."""
    host, port = kafka.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        if connection.recv(1):
            fail("the Kafka listener answers what is no request")


def read_again(bin_folder, grpc, counts):
    """Reads the topic from its beginning: what has left the agent's memory by then comes from the object store."""
    command = [bin_folder / "streamhouse", "--bootstrap", grpc, "consume", TOPIC, "--from-beginning", "--exit-at-end", "--format", r"%o\n"]
    offsets = subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE).stdout.splitlines()
    if len(offsets) != counts["acknowledged"]:
        fail(f"the command line reads {len(offsets)} records of {counts['acknowledged']}")


def compare(prometheus, counts):
    """Counters against what the load counted itself: they must be equal."""
    acknowledged, refused, read = counts["acknowledged"], counts["refused"], counts["read"]
    if acknowledged != read:
        fail(f"{acknowledged} records were acknowledged and {read} read")
    kafka = counts["kafka"]["acknowledged"]
    if kafka != counts["kafka"]["read"]:
        fail(f"of Kafka clients {kafka} records were acknowledged and {counts['kafka']['read']} read")
    for query, expected in {
        "sum(streamhouse_producer_records_sent_total)": acknowledged,
        "sum(streamhouse_producer_send_errors_total)": refused,
        "sum(streamhouse_producer_batch_size_records_sum)": acknowledged + refused,
        "sum(streamhouse_producer_pending_records)": 0,
        "sum(streamhouse_agent_produced_records_total)": acknowledged + kafka,
        "sum(streamhouse_agent_batch_size_records_sum)": acknowledged + kafka,
        f'sum(streamhouse_topic_produced_records_total{{topic="{KAFKA_TOPIC}"}})': kafka,
        f'sum(streamhouse_topic_fetched_records_total{{topic="{KAFKA_TOPIC}"}})': kafka,
        f'sum(streamhouse_topic_fetched_records_total{{topic="{TOPIC}"}})': 2 * acknowledged,
        'sum(streamhouse_agent_kafka_connections{software="kafka-python"}) > bool 1': 1,
        'sum(streamhouse_agent_kafka_refused_frames_total)': 1,
        'sum(streamhouse_agent_kafka_errors_total{api="DeleteTopics",code="UNKNOWN_TOPIC_OR_PARTITION"}) > bool 10': 1,
        f'sum(streamhouse_consumer_records_consumed_total{{group="{GROUP}",topic="{TOPIC}"}})': read,
        "sum(streamhouse_consumer_current_offset)": read,
        "sum(streamhouse_consumer_last_committed_offset)": read,
        "sum(streamhouse_consumer_lag_records)": 0,
        "sum(streamhouse_agent_flush_total) - sum(streamhouse_agent_flush_duration_seconds_count)": 0,
        "sum(streamhouse_agent_queue_bytes)": 0,
        "sum(streamhouse_agent_invariant_violations_total)": 0,
        "sum(streamhouse_agent_active_partitions)": PARTITIONS,
        'streamhouse_agent_cluster_partitions{kind="topic",state="led"}': PARTITIONS,
        'sum(streamhouse_agent_cluster_partitions{state="leaderless"})': 0,
        "streamhouse_agent_unswept_lives": 0,
    }.items():
        if (found := prometheus.value(query)) != expected:
            fail(f"{query} is {found:g}, and the run counted {expected}")
    note(f"{acknowledged} records acknowledged and read, {refused} refused, {kafka} of Kafka clients: producers, agent and consumers count the same")


def plausible(title, legend, rows, counts, prometheus):
    """Whether the answers to one query of a panel can be true. Each row is a series over the run."""
    highest, total = max(map(max, rows)), sum(map(sum, rows))
    near = lambda value, expected, share: abs(value - expected) <= share * expected
    if title in ("Producer throughput", "Consumer throughput", "Records acknowledged"):
        # The sum of a rate a second over the seconds of the run is what was counted; the command line has read a topic once more.
        acknowledged, kafka = counts["acknowledged"], counts["kafka"]["acknowledged"]
        expected = {"{{topic}} fetched records": 2 * acknowledged + kafka, "{{group}} {{topic}} records": acknowledged}
        expected = expected.get(legend, acknowledged + kafka)
        # What was counted before the first scrape is in no rate; on a busy machine that comes late.
        unseen = prometheus.value("sum(min_over_time(streamhouse_agent_produced_records_total[1h]))")
        return legend.endswith("bytes") and highest > 0 or 0.9 * expected - unseen <= total <= 1.1 * expected
    if title == "Error rates" and not legend.startswith("Kafka"):
        # What was refused before the first scrape that shows it is in no rate. The agent counts the refused requests' items, each a
        # batch of several records.
        least = counts["refused"] / 4 if legend.startswith("producer") else 0
        return least < total < counts["refused"] * 1.3
    if title == "Consumer lag":
        return 10_000 < highest < counts["acknowledged"] if legend.endswith("records") else 1 < highest < LONGEST
    if title in ("Agents up", "Agents ready"):
        return rows[0][-1] == 1
    if title == "Agent active partitions":
        return rows[0][-1] == PARTITIONS
    if title in ("Stored bytes", "Cost of storage"):
        # Rolling batches into segments changes little: a header, an index and a footer.
        stored = prometheus.value("sum(streamhouse_agent_produced_bytes_total)")
        return near(rows[0][-1], stored if title == "Stored bytes" else stored / 2**30 * float(PRICES["storage_price"]), 0.1)
    if title == "Request cost per GiB written":
        requests = "sum(streamhouse_agent_object_store_requests_total{{operation=~'{}'}})"
        price = (prometheus.value(requests.format("put|list")) * 0.005 + prometheus.value(requests.format("get|head")) * 0.0004) / 1000
        whole = price / prometheus.value("sum(streamhouse_agent_produced_bytes_total)") * 2**30
        return whole / 5 < sorted(rows[0])[len(rows[0]) // 2] < whole * 5
    if title == "Reads from memory" and legend == "cache hits":
        return 0 <= highest <= 1
    if title == "Batch sizes":
        return 1 <= highest < (2000 if legend.endswith("records") else 1 << 20)
    if title in ZERO:
        return highest == 0
    if (title, legend) in MAY_BE_ZERO:
        return 0 <= highest < 1 << 30
    if "latency" in title.lower() or "time" in title.lower() or "duration" in title.lower():
        return 0 < highest < LONGEST
    return highest > 0


def check_panels(prometheus, begin, counts):
    end = time.time()
    queries, zero, wrong = 0, 0, []
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        title = panel["title"]
        for target in panel.get("targets", []):
            queries += 1
            query = filled(target["expr"], "5s", CLUSTER, NAMESPACE)
            rows = prometheus.series(query, begin, end)
            if title in EMPTY:
                if rows:
                    fail(f"panel {title!r} is listed as empty ({EMPTY[title]}), and is not")
                continue
            what = f"panel {title!r}, {target['legendFormat']}"
            if not rows:
                wrong.append(f"{what}: no data for {query}")
            elif not plausible(title, target["legendFormat"], rows, counts, prometheus):
                wrong.append(f"{what}: values that cannot be: {rows} for {query}")
            else:
                zero += max(map(max, rows)) == 0
    if wrong:
        fail("\n".join(wrong))
    note(f"{queries} queries of the dashboard are plausible, {zero} of them zero as they should be; {len(EMPTY)} panels are empty as expected")


def check_panels_of_kafka_clients(prometheus, begin):
    """The first row has data about a topic and a group that only Kafka clients use, without any metric of a client."""
    panels = [panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["id"] < 100]
    for panel in panels:
        queries = [filled(target["expr"].replace("$topic", KAFKA_TOPIC).replace("$group", KAFKA_GROUP), "5s", CLUSTER, NAMESPACE)
                   for target in panel["targets"]]
        queries = [re.sub(r"streamhouse_(producer|consumer)_", r"absent_\1_", query) for query in queries]
        rows = [row for query in queries for row in prometheus.series(query, begin, time.time())]
        # The group keeps up.
        least = 0 if panel["title"] == "Consumer lag" else 1e-9
        if not rows or max(map(max, rows)) < least:
            fail(f"panel {panel['title']!r} is empty for Kafka clients: {queries}")
    if len(panels) != 7:
        fail(f"the first row has {len(panels)} panels")
    note(f"the {len(panels)} panels of the first row have data about Kafka clients")


def check_documented_queries(prometheus):
    """Each query of the guide has an answer with a finite value; those marked "kubernetes" can be evaluated, and have none here."""
    wrong, count = [], {"": 0, "kubernetes": 0}
    for line, marker, query in documented_queries(GUIDE.read_text(encoding="utf-8")):
        if marker not in count:
            fail(f"{GUIDE}:{line}: unknown marker {marker!r}")
        count[marker] += 1
        values = prometheus.values(query)
        if marker == "" and not values:
            wrong.append(f"{GUIDE}:{line}: no finite value for {query}")
        if marker == "kubernetes" and values:
            wrong.append(f"{GUIDE}:{line}: marked kubernetes, and has values here: {query}")
    if wrong:
        fail("\n".join(wrong))
    if not count[""]:
        fail(f"{GUIDE} has no queries")
    note(f"{count['']} queries of {GUIDE} have answers; {count['kubernetes']} that need Kubernetes are valid")


def check_alerts(prometheus):
    rules = [rule for group in prometheus.ask("/api/v1/rules")["groups"] for rule in group["rules"]]
    for rule in rules:
        if rule["health"] != "ok":
            fail(f"the rule {rule['name']} cannot be evaluated: {rule.get('lastError')}")
        if rule["state"] == "firing":
            fail(f"the alert {rule['name']} fires: {rule['alerts']}")
    note(f"{len(rules)} alert rules evaluated, none fires")


def check_reference(prometheus, begin):
    """docs/reference/metrics.md, from what was scraped."""
    meaning = {}
    for entry in prometheus.ask("/api/v1/targets/metadata"):
        meaning[entry["metric"]] = (entry["type"], entry["help"])
    labels = {}
    for series in prometheus.ask("/api/v1/series", start=begin, **{"match[]": '{__name__=~"streamhouse_.+"}'}):
        name = series["__name__"]
        name = name if name in meaning else re.sub(r"_(bucket|sum|count)$", "", name)
        labels.setdefault(name, set()).update(set(series) - {"__name__", "job", "instance", "le", "streamhouse_cluster", "namespace"})
    parts = {part: [(name, meaning[name][0], ", ".join(f"`{label}`" for label in sorted(labels[name])), meaning[name][1])
                    for name in sorted(labels) if name.startswith(f"streamhouse_{part.lower()}_")]
             for part in ("Agent", "Topic", "Group", "Producer", "Consumer")}
    parts = {"Agent": parts["Agent"], "Agent, with TLS": WITH_TLS, "Topic, from agents": parts["Topic"],
             "Group, from its coordinator": parts["Group"], "Producer": parts["Producer"], "Consumer": parts["Consumer"]}
    lines = ["# Metrics", "", "Made from a run (`UPDATE_DOCS=1 hack/check-live.sh`); do not edit. Durations are in seconds, sizes in bytes. Besides these,",
             "agents show `process_cpu_seconds_total` and `process_resident_memory_bytes`. The operator's: [operator-metrics.md](operator-metrics.md).",
             "[The guide](../observability.md) says how all of them are scraped."]
    for part, rows in parts.items():
        lines += ["", f"## {part}", "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        lines += [f"| `{name}` | {kind} | {names} | {text} |" for name, kind, names, text in rows]
    text = "\n".join(lines) + "\n"
    if os.environ.get("UPDATE_DOCS") == "1":
        REFERENCE.write_text(text, encoding="utf-8")
        note(f"{REFERENCE} written")
    elif not REFERENCE.exists() or REFERENCE.read_text(encoding="utf-8") != text:
        fail(f"{REFERENCE} is not what the programs show: UPDATE_DOCS=1 hack/check-live.sh writes it anew")
    else:
        note(f"{REFERENCE} is what the programs show")


def main():
    bin_folder, kafka_python = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        programs = Programs(folder)
        try:
            prometheus, begin, counts = run(folder, programs, bin_folder, kafka_python)
            compare(prometheus, counts)
            check_documented_queries(prometheus)
            check_panels(prometheus, begin, counts)
            check_panels_of_kafka_clients(prometheus, begin)
            offered = {"cluster": {CLUSTER}, "namespace": {NAMESPACE}, "topic": {TOPIC, f"{TOPIC}-small", KAFKA_TOPIC}, "group": {GROUP, KAFKA_GROUP}}
            check_variables(prometheus, begin, CLUSTER, offered)
            check_alerts(prometheus)
            check_reference(prometheus, begin)
        finally:
            programs.stop()


main()
