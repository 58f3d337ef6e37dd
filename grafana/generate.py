#!/usr/bin/env python3
"""Writes grafana/dashboards/streamhouse-overview.json, or with --check says whether that file is what it would write.

The dashboard is edited here, where a panel is five lines, and not in its 5,000 lines of JSON. Needs nothing but Python 3.
Panels keep their numbers, which links to a panel contain, as long as new ones are added at the end of their row's hundred.
"""

import json
import pathlib
import sys

FILE = pathlib.Path(__file__).parent / "dashboards" / "streamhouse-overview.json"
RUNBOOKS = "https://github.com/streamhouse/streamhouse/blob/main/docs/runbooks"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

# What the variables choose. A series without the label matches as long as all are chosen. Clients need not carry the name of the
# cluster they talk to, nor live in its namespace: those without the name are always shown.
AGENT = 'streamhouse_cluster=~"$cluster",namespace=~"$namespace"'
PRODUCER = 'streamhouse_cluster=~"$cluster|",topic=~"$topic"'
CONSUMER = 'streamhouse_cluster=~"$cluster|",topic=~"$topic",group=~"$group"'
GROUP = 'streamhouse_cluster=~"$cluster|",group=~"$group"'
COORDINATOR = f'{AGENT},topic=~"$topic",group=~"$group"'
TOPIC = f'{AGENT},topic=~"$topic"'
OPERATOR = ""
PROCESS = f'job="streamhouse-agents",{AGENT}'


def rate(series, by="", labels=AGENT):
    group = f"sum by ({by}) " if by else "sum"
    return f"{group}(rate({series}{{{labels}}}[$__rate_interval]))"


def quantile(share, histogram, by="", labels=AGENT):
    return f"histogram_quantile({share}, {rate(histogram + '_bucket', f'{by}, le' if by else 'le', labels)})"


def quantiles(histogram, labels=AGENT):
    return [(quantile(share, histogram, "", labels), f"P{share * 100:.0f}") for share in (0.5, 0.95, 0.99)]


def of_agents(series, clients, labels=TOPIC):
    """What agents count by topic, of clients of every protocol; what clients count, for topics that no agent shows."""
    return f"{rate(series, 'topic', labels)} or {rate(clients, 'topic', PRODUCER)}"


def mean(histogram, by="", labels=AGENT):
    return f"{rate(histogram + '_sum', by, labels)} / {rate(histogram + '_count', by, labels)}"


def requests(operations):
    """Requests of these operations to the object store, a second."""
    return rate("streamhouse_agent_object_store_requests_total", "", f'operation=~"{operations}",{AGENT}')


# What an hour of this rate of requests costs. Failed requests are paid for, too; deletions are free.
DOLLARS_A_SECOND = f"({requests('put|list')} * $put_price + {requests('get|head')} * $get_price) / 1000"


def panel(title, description, targets, unit, kind="timeseries", alerts=(), steps=(), right=(), width=8, **more):
    """A panel: targets are (query, legend); steps are (value, colour); right is (regular expression of legends, unit) for the axis
    on the right side; alerts name runbooks."""
    lines = bool(steps) and kind == "timeseries"
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": more.get("fill", 10),
        "showPoints": "never",
        "spanNulls": False,
        "axisLabel": more.get("axis", ""),
        "axisSoftMin": 0,
        "stacking": {"mode": "normal" if more.get("stack") else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if lines else "off"},
    }
    defaults = {
        "unit": unit,
        "color": {"mode": "palette-classic" if kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"value": None, "color": more.get("base", "green")}]
                       + [{"value": value, "color": colour} for value, colour in steps]},
    }
    if kind == "timeseries":
        defaults["custom"] = custom
    if "mappings" in more:
        defaults["mappings"] = more["mappings"]
    overrides = []
    if right:
        pattern, right_unit = right
        overrides.append({
            "matcher": {"id": "byRegexp", "options": f"/{pattern}/"},
            "properties": [
                {"id": "unit", "value": right_unit},
                {"id": "custom.axisPlacement", "value": "right"},
                {"id": "custom.axisLabel", "value": more.get("right_axis", "")},
                {"id": "custom.fillOpacity", "value": 0},
            ],
        })
    options = {
        "timeseries": {
            "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "stat": {
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "orientation": "auto",
            "textMode": "auto",
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
        },
    }[kind]
    return {
        "title": title,
        "type": kind,
        "description": description,
        "datasource": SOURCE,
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "editorMode": "code", "range": True, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(targets)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": options,
        "links": [{"title": f"Runbook: {name}", "type": "link", "icon": "doc", "tooltip": "", "url": f"{RUNBOOKS}/{name}.md",
                   "tags": [], "asDropdown": False, "targetBlank": True, "includeVars": False, "keepTime": False} for name in alerts],
        "gridPos": {"h": more.get("height", 8), "w": width},
    }


YES_NO = [{"type": "value", "options": {"0": {"text": "no", "color": "red", "index": 0}, "1": {"text": "yes", "color": "green", "index": 1}}}]
NO_YES = [{"type": "value", "options": {"0": {"text": "no", "color": "green", "index": 0}, "1": {"text": "yes", "color": "red", "index": 1}}}]

OVERVIEW = [
    panel("Producer throughput", "Records and bytes (compressed) that agents acknowledged, from clients of every protocol.",
          [(of_agents("streamhouse_topic_produced_records_total", "streamhouse_producer_records_sent_total"), "{{topic}} records"),
           (of_agents("streamhouse_topic_produced_bytes_total", "streamhouse_producer_bytes_sent_total"), "{{topic}} bytes")],
          "short", axis="records/s", right=(".* bytes$", "binBps"), right_axis="bytes/s", alerts=["ProducerThroughputDrop"], width=12),
    panel("Consumer throughput", "Records returned by poll and their decompressed bytes, by group; records and bytes (compressed) that agents gave to"
          " readers of every protocol, by topic.",
          [(rate("streamhouse_consumer_records_consumed_total", "group, topic", CONSUMER), "{{group}} {{topic}} records"),
           (rate("streamhouse_consumer_bytes_consumed_total", "group, topic", CONSUMER), "{{group}} {{topic}} bytes"),
           (rate("streamhouse_topic_fetched_records_total", "topic", TOPIC), "{{topic}} fetched records"),
           (rate("streamhouse_topic_fetched_bytes_total", "topic", TOPIC), "{{topic}} fetched bytes")],
          "short", axis="records/s", right=(".* bytes$", "binBps"), right_axis="bytes/s", alerts=["ConsumerStalled"], width=12),
    panel("Consumer lag", "Records between a group's position and the log end, and the age of the next record. For groups whose consumers"
          " export no metrics: records after the committed offsets, from the coordinator.",
          [(f"sum by (group, topic) (streamhouse_consumer_lag_records{{{CONSUMER}}})"
            f" or max by (group, topic) (streamhouse_group_lag_records{{{COORDINATOR}}})", "{{group}} {{topic}} records"),
           (f"max by (group, topic) (streamhouse_consumer_lag_seconds{{{CONSUMER}}})", "{{group}} {{topic}} age")],
          "short", axis="records", right=(".* age$", "s"), right_axis="age", steps=[(10_000, "orange"), (100_000, "red")],
          alerts=["HighConsumerLag", "CriticalConsumerLag", "ConsumerLagGrowing"], width=12),
    panel("Producer latency P50/P95/P99", "From send to acknowledgement; the longest of each batch. For Kafka clients: from the arrival of a request with"
          " records to its answer.",
          quantiles("streamhouse_producer_send_duration_seconds", PRODUCER)
          + [(query, f"Kafka {legend}") for query, legend in quantiles("streamhouse_agent_kafka_request_duration_seconds", f'api="Produce",{AGENT}')],
          "s", steps=[(0.1, "orange"), (1, "red")],
          alerts=["HighProducerLatency", "VeryHighProducerLatency"], width=12),
    panel("Agent active partitions", "Partitions that each agent leads.",
          [(f"sum by (instance) (streamhouse_agent_active_partitions{{{AGENT}}})", "{{instance}}")],
          "short", axis="partitions", stack=True, alerts=["NoActivePartitions"]),
    panel("Error rates", "Records that failed permanently in producers, and errors that agents returned to gRPC and to Kafka clients, by code.",
          [(rate("streamhouse_producer_send_errors_total", "topic", PRODUCER), "producer {{topic}}"),
           (rate("streamhouse_agent_grpc_errors_total", "code"), "agent {{code}}"),
           (rate("streamhouse_agent_kafka_errors_total", "code"), "Kafka {{code}}")],
          "short", axis="errors/s", steps=[(10, "orange"), (100, "red")],
          alerts=["HighProducerErrorRate", "CriticalProducerErrorRate", "HighAgentgRPCErrors", "HighKafkaErrorRatio"]),
    panel("Batch sizes", "Records and uncompressed bytes of producers' batches; records and bytes (compressed) of all batches that agents"
          " acknowledged: mean and P95.",
          [(mean("streamhouse_producer_batch_size_records", "topic", PRODUCER), "{{topic}} mean records"),
           (quantile(0.95, "streamhouse_producer_batch_size_records", "topic", PRODUCER), "{{topic}} P95 records"),
           (mean("streamhouse_producer_batch_size_bytes", "topic", PRODUCER), "{{topic}} mean bytes"),
           (quantile(0.95, "streamhouse_producer_batch_size_bytes", "topic", PRODUCER), "{{topic}} P95 bytes"),
           (mean("streamhouse_agent_batch_size_records"), "agents mean records"),
           (quantile(0.95, "streamhouse_agent_batch_size_records"), "agents P95 records"),
           (mean("streamhouse_agent_batch_size_bytes"), "agents mean bytes"),
           (quantile(0.95, "streamhouse_agent_batch_size_bytes"), "agents P95 bytes")],
          "short", axis="records", right=(".* bytes$", "bytes"), right_axis="bytes"),
]

AGENTS = [
    panel("Agents up", "Agents that Prometheus can scrape.", [(f"sum(up{{{PROCESS}}})", "up")], "short", "stat",
          base="red", steps=[(1, "green")], alerts=["AgentDown", "AgentsAbsent"], width=4, height=4),
    panel("Agents ready", "Agents that have joined the cluster and hold their share of the leases.",
          [(f"sum(streamhouse_agent_ready{{{AGENT}}})", "ready")], "short", "stat",
          base="red", steps=[(1, "green")], alerts=["AgentNotReady"], width=4, height=4),
    panel("Invariant violations", "Violations in the selected time range. Any value but 0 is a bug or data changed from outside.",
          [(f"sum(increase(streamhouse_agent_invariant_violations_total{{{AGENT}}}[$__range]))", "broken")], "short", "stat",
          steps=[(0.1, "red")], alerts=["InvariantViolated"], width=4, height=4),
    panel("Client connections", "Open client connections.",
          [(f"sum(streamhouse_agent_connections{{{AGENT}}})", "connections")], "short", "stat", base="blue", width=4, height=4),
    panel("Coordinator slots led", "Coordinator slots that have a leader. Members of groups without one cannot join.",
          [(f"sum(streamhouse_agent_coordinator_slots{{{AGENT}}})", "slots")], "short", "stat", base="red", steps=[(1, "green")],
          width=4, height=4),
    panel("Certificates expire in", "Time until the first certificate expires, by listener; empty without TLS.",
          [(f"min by (listener) (streamhouse_agent_certificate_not_after_seconds{{{AGENT}}}) - time()", "{{listener}}")], "s", "stat",
          base="red", steps=[(14 * 86_400, "green")], alerts=["CertificateExpiring"], width=4, height=4),
    panel("Records acknowledged", "Records that each agent acknowledged.",
          [(rate("streamhouse_agent_produced_records_total", "instance"), "{{instance}}")], "short", axis="records/s", stack=True, width=6),
    panel("Write latency", "Latency of appends in the agent, including the wait for the flush.",
          quantiles("streamhouse_agent_write_latency_seconds"), "s", steps=[(0.5, "red")], alerts=["HighAgentWriteLatency"],
          width=6),
    panel("Upload and commit time P99", "P99 of the upload of a WAL object and of its commit, retries included.",
          [(quantile(0.99, "streamhouse_agent_flush_duration_seconds"), "upload P99"),
           (quantile(0.99, "streamhouse_agent_commit_duration_seconds"), "commit P99"),
           (quantile(0.5, "streamhouse_agent_flush_duration_seconds"), "upload P50"),
           (quantile(0.5, "streamhouse_agent_commit_duration_seconds"), "commit P50")],
          "s", width=6),
    panel("Age of the oldest write", "Age of the oldest WAL object being uploaded or committed. Normally below a second.",
          [(f"max by (stage) (streamhouse_agent_write_stage_age_seconds{{{AGENT}}})", "{{stage}}")], "s", steps=[(30, "red")],
          alerts=["WritesStalled"], width=6),
    panel("gRPC requests", "Requests per second by method.", [(rate("streamhouse_agent_grpc_requests_total", "method"), "{{method}}")], "reqps"),
    panel("gRPC latency P99", "P99 by method. Fetches include the wait for records that the consumer requested.",
          [(quantile(0.99, "streamhouse_agent_grpc_request_duration_seconds", "method"), "{{method}}")], "s"),
    panel("Lease changes", "Partitions gained and lost, by reason.",
          [(rate("streamhouse_agent_lease_changes_total", "reason"), "{{reason}}")], "short", axis="changes/s"),
    panel("Memory by use", "Bytes admitted and not yet acknowledged (queue), newest batches (tail), block cache, reads, answers, and the segment"
          " that is being written.",
          [(f"sum(streamhouse_agent_queue_bytes{{{AGENT}}})", "queue"), (f"sum(streamhouse_agent_tail_bytes{{{AGENT}}})", "tail"),
           (f"sum(streamhouse_agent_cache_bytes{{{AGENT}}})", "cache"),
           (f"sum by (use) (streamhouse_agent_memory_used_bytes{{{AGENT}}})", "{{use}}")], "bytes", stack=True),
    panel("CPU", "CPU usage of each agent in cores.", [(rate("process_cpu_seconds_total", "instance", PROCESS), "{{instance}}")], "short",
          axis="cores", alerts=["HighCPUUsage"]),
    panel("Resident memory", "Resident memory of each agent, and its bound with the agents' settings.",
          [(f"sum by (instance) (process_resident_memory_bytes{{{PROCESS}}})", "{{instance}}"),
           (f"max(streamhouse_agent_memory_bound_bytes{{{AGENT}}})", "bound")], "bytes", alerts=["HighMemoryUsage"]),
    panel("Age of the last success of background jobs", "Time since the last success, by job; the maximum of all agents.",
          [(f"max by (task) (streamhouse_agent_job_last_success_age_seconds{{{AGENT}}})", "{{task}}")], "s", steps=[(900, "red")],
          alerts=["BackgroundJobStalled", "MetadataUnreachable", "LeaseRenewalFailing"], width=12),
    panel("Failed runs of background jobs", "Failed runs by job; they are retried.",
          [(rate("streamhouse_agent_job_failures_total", "task"), "{{task}}")], "short", axis="failures/s",
          alerts=["LeaseRenewalFailing", "BackgroundJobStalled"], width=12),
    panel("Partitions of the cluster", "Partitions of topics, and coordinator slots of groups, led or leaderless.",
          [(f"max by (kind, state) (streamhouse_agent_cluster_partitions{{{AGENT}}})", "{{kind}} {{state}}")], "short", axis="partitions",
          alerts=["PartitionsLeaderless"], width=24),
]

STORAGE = [
    panel("Request cost per GiB written", "Cost of object store requests per GiB produced. Prices are variables of the dashboard.",
          [(f"{DOLLARS_A_SECOND} / ({rate('streamhouse_agent_produced_bytes_total')} > 0) * 2^30",
            "US$ per GiB written")], "currencyUSD", "stat", base="blue", width=6),
    panel("Cost of requests", "Cost of object store requests in 30 days at the current rate, without storage and traffic.",
          [(f"{DOLLARS_A_SECOND} * 86400 * 30", "US$ in 30 days"),
           (f"{requests('put|list')} * $put_price / 1000 * 86400 * 30", "PUT and LIST"),
           (f"{requests('get|head')} * $get_price / 1000 * 86400 * 30", "GET and HEAD")], "currencyUSD", width=9),
    panel("PUT and GET requests", "Charged requests. The number of PUTs depends on the number of agents, not of partitions.",
          [(requests("put"), "PUT"), (requests("get"), "GET"), (requests("list|head"), "LIST and HEAD")], "reqps", width=9),
    panel("Object store requests by outcome", "Attempts by outcome. already_exists and not_found may be expected.",
          [(rate("streamhouse_agent_object_store_requests_total", "operation, outcome"), "{{operation}} {{outcome}}")], "reqps",
          alerts=["ObjectStoreErrors", "ObjectStoreThrottled"]),
    panel("Object store latency P99", "P99 of one attempt, by operation.",
          [(quantile(0.99, "streamhouse_agent_object_store_request_duration_seconds", "operation"), "{{operation}}")], "s"),
    panel("Bytes to and from the object store", "Bytes per second by operation.",
          [(rate("streamhouse_agent_object_store_bytes_total", "operation"), "{{operation}}")], "binBps"),
    panel("Flushes", "WAL objects by the reason of their flush: the interval, or the size.",
          [(rate("streamhouse_agent_flush_total", "reason"), "{{reason}}")], "short", axis="flushes/s"),
    panel("Size of a WAL object", "Mean and P95. Larger objects cost fewer requests per byte.",
          [(mean("streamhouse_agent_flush_size_bytes"), "mean"),
           (quantile(0.95, "streamhouse_agent_flush_size_bytes"), "P95")], "bytes"),
    panel("Segments written", "Segments written by rolling WAL ranges.",
          [(rate("streamhouse_agent_segments_rolled_total", "instance"), "{{instance}}")], "short", axis="segments/s"),
    panel("Reads from memory", "Share of block reads answered by the cache, and bytes read from the tail.",
          [(f"{rate('streamhouse_agent_cache_hits_total')} / ({rate('streamhouse_agent_cache_hits_total')}"
            f" + {rate('streamhouse_agent_cache_misses_total')})", "cache hits"),
           (rate("streamhouse_agent_tail_read_bytes_total"), "from the tail")],
          "percentunit", right=("from the tail", "binBps"), right_axis="bytes/s"),
    panel("Objects waiting for deletion", "Unreferenced objects of the whole cluster within their grace period.",
          [(f"max(streamhouse_agent_garbage_waiting_objects{{{AGENT}}})", "waiting")], "short", axis="objects", alerts=["OrphansGrowing"]),
    panel("Orphans deleted", "Uncommitted objects of ended incarnations, deleted in the selected time range.",
          [(f"sum(increase(streamhouse_agent_orphans_deleted_total{{{AGENT}}}[$__range]))", "orphans")], "short", "stat", base="blue",
          alerts=["OrphansGrowing"]),
    panel("Stored bytes", "Stored bytes of the partitions that each agent leads, without objects that wait for deletion.",
          [(f"sum by (instance) (streamhouse_agent_stored_bytes{{{AGENT}}})", "{{instance}}")], "bytes", stack=True),
    panel("Cost of storage", "Cost of the stored bytes per month. The price is a variable of the dashboard.",
          [(f"sum(streamhouse_agent_stored_bytes{{{AGENT}}}) / 2^30 * $storage_price", "US$ a month")], "currencyUSD", "stat", base="blue"),
    panel("Incarnations to sweep", "Ended incarnations whose orphans are not deleted yet, and the age of the oldest.",
          [(f"max(streamhouse_agent_unswept_lives{{{AGENT}}})", "incarnations"),
           (f"max(streamhouse_agent_unswept_life_age_seconds{{{AGENT}}})", "oldest")], "short", axis="incarnations", right=("oldest", "s"),
          right_axis="age", alerts=["OrphansNotSwept"]),
]

GROUPS = [
    panel("Lag by partition", "The twenty partitions with the largest lag in records.",
          [(f"topk(20, sum by (group, topic, partition) (streamhouse_consumer_lag_records{{{CONSUMER}}}))", "{{group}} {{topic}}-{{partition}}")],
          "short", axis="records", alerts=["HighConsumerLag", "ConsumerStalled"], width=12),
    panel("Lag in time by partition", "The twenty partitions with the oldest next record.",
          [(f"topk(20, max by (group, topic, partition) (streamhouse_consumer_lag_seconds{{{CONSUMER}}}))", "{{group}} {{topic}}-{{partition}}")],
          "s", alerts=["ConsumerLagGrowing"], width=12),
    panel("Time in poll", "Duration of polls that returned records, by group.",
          [(quantile(0.5, "streamhouse_consumer_poll_duration_seconds", "group", GROUP), "{{group}} P50"),
           (quantile(0.99, "streamhouse_consumer_poll_duration_seconds", "group", GROUP), "{{group}} P99")], "s"),
    panel("Uncommitted records", "Records that a group would read again after a crash.",
          [(f"sum by (group, topic) (streamhouse_consumer_current_offset{{{CONSUMER}}}"
            f" - streamhouse_consumer_last_committed_offset{{{CONSUMER}}})", "{{group}} {{topic}}")], "short", axis="records"),
    panel("Progress of committed offsets", "Records per second by group and topic. For groups whose consumers export no metrics: from the coordinator.",
          [(f"sum by (group, topic) (clamp_min(deriv(streamhouse_consumer_last_committed_offset{{{CONSUMER}}}[$__rate_interval]), 0))"
            f" or max by (group, topic) (clamp_min(deriv(streamhouse_group_committed_offset{{{COORDINATOR}}}[$__rate_interval]), 0))",
            "{{group}} {{topic}}")], "short", axis="records/s"),
    panel("Records waiting in producers", "Records that wait or are in flight to agents.",
          [(f"sum by (topic) (streamhouse_producer_pending_records{{{PRODUCER}}})", "{{topic}}")], "short", axis="records", width=12),
    panel("Producer request time P99", "P99 from the request with a batch to the agent's answer.",
          [(quantile(0.99, "streamhouse_producer_batch_flush_duration_seconds", "topic", PRODUCER), "{{topic}}")], "s",
          alerts=["HighProducerLatency"], width=12),
    panel("Members of groups", "Members by group, from their coordinators. ConsumerStalled fires for groups that have lag and no members.",
          [(f"max by (group) (streamhouse_group_members{{{AGENT},group=~\"$group\"}})", "{{group}}")], "short", axis="members",
          alerts=["ConsumerStalled"]),
    panel("Groups by state", "Number of groups by state, from their coordinators.",
          [(f"count by (state) (max by (group, state) (streamhouse_group_state{{{AGENT},group=~\"$group\"}}))", "{{state}}")], "short", axis="groups"),
    panel("Records by topic, from agents", "Records produced and fetched per topic, from agents.",
          [(rate("streamhouse_topic_produced_records_total", "topic", TOPIC), "{{topic}} produced"),
           (rate("streamhouse_topic_fetched_records_total", "topic", TOPIC), "{{topic}} fetched")],
          "short", axis="records/s"),
]

OPERATORS = [
    panel("Operator leader", "Whether a replica of the operator leads.", [(f"max(streamhouse_operator_leader{{{OPERATOR}}})", "leader")], "short",
          "stat", mappings=YES_NO, base="red", steps=[(1, "green")], alerts=["OperatorNoLeader"], width=4, height=4),
    panel("Missing CRDs", "Whether a custom resource definition that the operator needs is missing.",
          [(f"max(streamhouse_operator_crd_missing{{{OPERATOR}}})", "missing")], "short", "stat", mappings=NO_YES, steps=[(1, "red")],
          alerts=["OperatorCRDMissing"], width=4, height=4),
    panel("Time since the last success", "Time since the last successful reconciliation, by kind. Grows while there are no resources.",
          [(f"time() - max by (kind) (streamhouse_operator_last_success_timestamp_seconds{{{OPERATOR}}})", "{{kind}}")], "s", "stat",
          steps=[(1800, "red")], alerts=["OperatorNotConverging"], width=8, height=4),
    panel("Drift corrected", "Changes by others that the operator reverted in the selected time range.",
          [(f"sum by (kind) (increase(streamhouse_operator_drift_corrected_total{{{OPERATOR}}}[$__range]))", "{{kind}}")], "short", "stat",
          base="blue", alerts=["OperatorDriftRecurring"], width=8, height=4),
    panel("Reconciliations", "Reconciliations by kind and outcome: error is retried, terminal waits for a change.",
          [(rate("streamhouse_operator_reconciles_total", "kind, outcome", OPERATOR), "{{kind}} {{outcome}}")], "short",
          axis="reconciles/s", alerts=["OperatorReconcileErrors"]),
    panel("Reconciliation duration P99", "P99 by kind.",
          [(quantile(0.99, "streamhouse_operator_reconcile_duration_seconds", "kind", OPERATOR), "{{kind}}")], "s"),
    panel("Resources", "By kind and readiness.",
          [(f"max by (kind, ready) (streamhouse_operator_resources{{{OPERATOR}}})", "{{kind}} ready={{ready}}")], "short", axis="resources",
          alerts=["OperatorResourcesNotReady"]),
]

KAFKA = [
    panel("Kafka connections", "Open connections of Kafka clients by the software that they name; _unnamed are clients that name none.",
          [(f"sum by (software, version) (streamhouse_agent_kafka_connections{{{AGENT}}})", "{{software}} {{version}}")], "short",
          axis="connections", stack=True),
    panel("Kafka requests", "Requests of Kafka clients per second, by API.",
          [(rate("streamhouse_agent_kafka_requests_total", "api"), "{{api}}")], "reqps"),
    panel("Kafka latency P99", "P99 by API. Fetches include the wait for records that the consumer requested, joins that for the other members.",
          [(quantile(0.99, "streamhouse_agent_kafka_request_duration_seconds", "api"), "{{api}}")], "s"),
    panel("Kafka errors", "Answers with an error, by Kafka's error code. Rebalances and the first join of a member are part of the protocol.",
          [(rate("streamhouse_agent_kafka_errors_total", "api, code"), "{{api}} {{code}}")], "short", axis="errors/s",
          alerts=["HighKafkaErrorRatio"]),
    panel("Kafka queue time P99", "P99 of the time that requests wait for memory, and records for their partition's lease, by API.",
          [(quantile(0.99, "streamhouse_agent_kafka_request_queue_seconds", "api"), "{{api}}")], "s", steps=[(0.5, "red")],
          alerts=["HighKafkaQueueTime"]),
    panel("Kafka throttle time", "Seconds that answers tell clients to wait, per second, by API.",
          [(rate("streamhouse_agent_kafka_throttle_seconds_total", "api"), "{{api}}")], "s"),
    panel("Refused Kafka frames", "Frames that ended their connection, by reason.",
          [(rate("streamhouse_agent_kafka_refused_frames_total", "reason"), "{{reason}}")], "short", axis="frames/s",
          alerts=["KafkaFramesRefused"]),
    panel("Kafka requests by version", "Requests of Kafka clients per second, by API and version.",
          [(rate("streamhouse_agent_kafka_requests_total", "api, version"), "{{api}} v{{version}}")], "reqps"),
    panel("Bytes by listener", "Bytes that listeners exchange with their clients, without those of TLS.",
          [(rate("streamhouse_agent_listener_received_bytes_total", "listener"), "{{listener}} received"),
           (rate("streamhouse_agent_listener_sent_bytes_total", "listener"), "{{listener}} sent")], "binBps"),
]

SECURITY = [
    panel("Authentications", "Authentications of clients per second, by mechanism and outcome.",
          [(rate("streamhouse_agent_authentications_total", "mechanism, outcome"), "{{mechanism}} {{outcome}}")], "short",
          axis="authentications/s", alerts=["AuthenticationsFailing", "UnauthenticatedAccess"]),
    panel("Denied requests", "Requests for a resource that no ACL allows, per second, by operation and type of the resource.",
          [(rate("streamhouse_agent_authorization_denied_total", "operation, resource"), "{{operation}} {{resource}}")], "short",
          axis="requests/s"),
    panel("Requests over quota", "Requests and connections that exceeded a quota, per second, by the quota's name.",
          [(rate("streamhouse_agent_quota_throttled_total", "quota"), "{{quota}}")], "reqps"),
    panel("Throttle time by quota", "Seconds that clients over a quota are told to wait, per second, by the quota's name.",
          [(rate("streamhouse_agent_quota_throttle_seconds_total", "quota"), "{{quota}}")], "s"),
]

# New rows at the end: their panels' numbers depend on their place.
ROWS = [(None, OVERVIEW), ("Agents", AGENTS), ("Storage and cost", STORAGE), ("Consumer groups and producers", GROUPS), ("Operator", OPERATORS),
        ("Kafka clients", KAFKA), ("Security and quotas", SECURITY)]


def placed():
    """The panels in rows, numbered, from left to right and from top to bottom."""
    y, panels = 0, []
    for row, (title, members) in enumerate(ROWS):
        if title:
            panels.append({"id": row * 100, "type": "row", "title": title, "collapsed": False, "panels": [],
                           "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
            y += 1
        x, tallest = 0, 0
        for number, member in enumerate(members, 1):
            size = member["gridPos"]
            if x + size["w"] > 24:
                x, y, tallest = 0, y + tallest, 0
            panels.append({"id": row * 100 + number, **member, "gridPos": {**size, "x": x, "y": y}})
            x, tallest = x + size["w"], max(tallest, size["h"])
        y += tallest
    return panels


def choice(name, label, series, description):
    """A variable whose values are those of a label; all of them, and a missing label too, unless some are chosen."""
    query = f"label_values({series}, {label})"
    return {
        "name": name, "type": "query", "label": name, "description": description, "datasource": SOURCE, "hide": 0,
        "query": {"query": query, "refId": f"streamhouse-{name}"}, "refresh": 2, "sort": 1, "regex": "",
        "multi": True, "includeAll": True, "allValue": ".*", "skipUrlSync": False, "options": [],
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def price(name, label, dollars):
    value = {"selected": True, "text": dollars, "value": dollars}
    return {"name": name, "type": "textbox", "label": label, "hide": 0, "skipUrlSync": False, "query": dollars,
            "description": "AWS list price of S3 Standard in us-east-1; put your own here.", "options": [value], "current": value}


def dashboard():
    return {
        "uid": "streamhouse-overview",
        "title": "StreamHouse overview",
        "description": "Producers, consumers, agents, storage and its cost, consumer groups, the operator, Kafka clients, security and quotas.",
        "tags": ["streamhouse"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"title": "Runbooks", "type": "link", "icon": "doc", "tooltip": "What to do about each alert", "url": f"{RUNBOOKS}/README.md",
                   "tags": [], "asDropdown": False, "targetBlank": True, "includeVars": False, "keepTime": False}],
        "annotations": {"list": [
            {"name": "Alerts", "datasource": SOURCE, "enable": True, "hide": False, "iconColor": "red",
             "expr": 'ALERTS{alertstate="firing",severity=~"critical|warning",component=~"consumer|producer|agent|metadata|object-store|operator|system",'
                     'streamhouse_cluster=~"$cluster|"}',
             "titleFormat": "{{alertname}}", "tagKeys": "severity,component", "step": "60s"},
        ]},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "label": "data source", "query": "prometheus", "hide": 0, "refresh": 1, "regex": "",
             "multi": False, "includeAll": False, "skipUrlSync": False, "options": [], "current": {}},
            choice("cluster", "streamhouse_cluster", "streamhouse_agent_build_info", "Which clusters"),
            choice("namespace", "namespace", 'streamhouse_agent_build_info{streamhouse_cluster=~"$cluster"}', "Which namespaces of agents"),
            choice("topic", "topic", '{__name__=~"streamhouse_(producer_records_sent|consumer_records_consumed|topic_(produced|fetched)_records)_total",'
                   'streamhouse_cluster=~"$cluster|"}', "Which topics"),
            choice("group", "group", '{__name__=~"streamhouse_(consumer_records_consumed_total|group_members)",'
                   'streamhouse_cluster=~"$cluster|"}', "Which consumer groups"),
            price("put_price", "US$ for 1,000 PUT or LIST", "0.005"),
            price("get_price", "US$ for 1,000 GET or HEAD", "0.0004"),
            price("storage_price", "US$ for a GiB a month", "0.023"),
        ]},
        "panels": placed(),
    }


def main():
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        if not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
            sys.exit(f"{FILE.name} is not what grafana/generate.py writes: change that script, and run it")
    elif not sys.argv[1:]:
        FILE.write_text(text, encoding="utf-8")
    else:
        sys.exit("usage: grafana/generate.py [--check]")


if __name__ == "__main__":
    main()
