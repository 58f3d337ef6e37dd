#!/usr/bin/env python3
"""Checks what promtool does not: that the alert rules are as users know them, that the operator can render them, that each has its
tests and its runbook. Called by hack/check-observability.sh; prints each breach, ends with 1 if there is any.

usage: check_rules.py QUERIES-FILE
QUERIES-FILE is written: every query of the dashboard, of the runbooks, and of the alerts as the operator writes them for a cluster, as a
recording rule, for promtool to parse.
"""

import json
import pathlib
import re
import sys

import yaml

RULES = pathlib.Path("config/prometheus/streamhouse.rules.yml")
# The chart's copy of the alerts about clients, for those that name no cluster.
OF_NO_CLUSTER = pathlib.Path("charts/streamhouse-operator/files/clients.rules.yml")
TESTS = pathlib.Path("config/prometheus/tests")
RUNBOOKS = pathlib.Path("docs/runbooks")
DASHBOARD = pathlib.Path("grafana/dashboards/streamhouse-overview.json")
GUIDE = pathlib.Path("docs/observability.md")
METRICS = [pathlib.Path("docs/reference/metrics.md"), pathlib.Path("docs/reference/operator-metrics.md")]
PAGES = "https://github.com/streamhouse/streamhouse/blob/main/docs/runbooks"
CLUSTER = 'streamhouse_cluster=~".*"'

GROUPS = ["consumer", "producer", "agent", "system", "engine", "kafka", "operator"]
# Groups that the operator renders for each cluster.
OF_A_CLUSTER = {"consumer", "producer", "agent", "engine", "kafka"}
# The alerts that users rely on: the number compared with, and how long.
PROMISED = {
    "HighConsumerLag": ("10000", "5m"), "CriticalConsumerLag": ("100000", "5m"), "ConsumerLagGrowing": ("5000", None),
    "ConsumerStalled": (None, "10m"), "HighProducerErrorRate": ("10", "5m"), "CriticalProducerErrorRate": ("100", "2m"),
    "HighProducerLatency": ("0.1", "5m"), "VeryHighProducerLatency": ("1", "2m"), "ProducerThroughputDrop": ("50", "10m"),
    "AgentDown": (None, "1m"), "AgentNotReady": (None, "5m"), "NoActivePartitions": (None, "5m"), "HighAgentgRPCErrors": ("10", "5m"),
    "HighAgentWriteLatency": ("0.5", "5m"), "HighCPUUsage": ("80", "10m"), "HighMemoryUsage": ("90", "5m"), "DiskSpaceLow": ("10", "5m"),
}
SUFFIXES = re.compile(r"_(bucket|sum|count)$")

breaches = []


def breach(where, what):
    breaches.append(f"{where}: {what}")


def minutes(duration):
    return float(duration[:-1]) * {"s": 1 / 60, "m": 1, "h": 60}[duration[-1]]


def known_metrics():
    return {name for page in METRICS for name in re.findall(r"^\| `(\w+)`", page.read_text(encoding="utf-8"), re.MULTILINE)}


def check_expression(name, group, text, known):
    selectors = re.findall(r"\b(streamhouse_\w+|up|node_\w+)(\{[^}]*\}|\b(?!\{))", text)
    selectors = [(metric, labels) for metric, labels in selectors if metric != "streamhouse_cluster"]
    if not selectors:
        breach(name, "its expression has no selector")
    for metric, labels in selectors:
        if metric.startswith("streamhouse_") and metric not in known and SUFFIXES.sub("", metric) not in known:
            breach(name, f"there is no metric {metric} in docs/reference")
        if (CLUSTER in labels) != (group in OF_A_CLUSTER):
            breach(name, f"the selector {metric}{labels} must{'' if group in OF_A_CLUSTER else ' not'} have {CLUSTER}")
    for window in re.findall(r"(?:rate|increase)\([^\[]*\[(\w+)\]", text):
        if minutes(window) < 2:
            breach(name, f"it looks only {window} back, which a scrape interval of a minute leaves empty")


def check_threshold(name, rule):
    threshold = rule["annotations"].get("threshold")
    if threshold is None:
        return
    times = len(re.findall(rf"[<>] {re.escape(threshold)}(?![\d.])", rule["expr"]))
    if times != 1:
        breach(name, f"its expression compares {times} times with its threshold {threshold}: the operator would replace all or none")


def check_promise(name, rule):
    if name not in PROMISED:
        return
    threshold, duration = PROMISED[name]
    if rule["annotations"].get("threshold") != threshold or rule.get("for") != duration:
        breach(name, f"users rely on the threshold {threshold} for {duration}")


def check_texts(name, rule):
    labels, annotations = rule["labels"], rule["annotations"]
    if set(labels) != {"severity", "component"} or labels["severity"] not in ("critical", "warning", "info"):
        breach(name, "its labels are not a severity (critical, warning or info) and a component")
    if set(annotations) - {"threshold"} != {"summary", "description", "runbook_url"}:
        breach(name, "its annotations are not summary, description and runbook_url, and threshold where it has one")
    if "$value" not in annotations["description"]:
        breach(name, "its description does not tell the value")
    if annotations["runbook_url"] != f"{PAGES}/{name}.md":
        breach(name, "its runbook_url is not that of its page")
    page = RUNBOOKS / f"{name}.md"
    if not page.exists():
        breach(name, f"it has no {page}")
        return
    begin = f"# {name}\n\n{labels['severity'].capitalize()}, `{labels['component']}`. "
    if not page.read_text(encoding="utf-8").startswith(begin):
        breach(page, f"it does not begin with {begin!r}")
    for part in ("What it means", "Impact", "Diagnose", "Fix"):
        if f"\n## {part}\n" not in page.read_text(encoding="utf-8"):
            breach(page, f"it does not say {part!r}")


def check_tests(name, group):
    fires = silent = absent = 0
    file = TESTS / f"{group}.yml"
    for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
        for case in test["alert_rule_test"]:
            if case["alertname"] == name:
                fires += bool(case.get("exp_alerts"))
                silent += not case.get("exp_alerts")
                absent += not test["input_series"]
    if not fires or silent < 4 or not absent:
        breach(file, f"{name} needs tests that it fires, does not fire too early, just below, on recovery, without traffic, without series")


def check_rules(known):
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    if [group["name"] for group in groups] != [f"streamhouse-{name}" for name in GROUPS]:
        breach(RULES, f"its groups are not streamhouse- with {GROUPS}")
    names = []
    for group in groups:
        kind = group["name"].removeprefix("streamhouse-")
        for rule in group["rules"]:
            name = rule["alert"]
            names.append(name)
            check_expression(name, kind, rule["expr"], known)
            check_threshold(name, rule)
            check_promise(name, rule)
            check_texts(name, rule)
            check_tests(name, kind)
    for name in set(PROMISED) - set(names):
        breach(RULES, f"the alert {name} is missing, which users rely on")
    if len(set(names)) != len(names):
        breach(RULES, "two alerts have one name")
    return names


def anchors(page):
    """What a link to a heading of the page is called."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def check_links(page):
    for link, anchor in re.findall(r"\]\(([^)#:]+)#?([^):]*)\)", page.read_text(encoding="utf-8")):
        target = page.parent / link
        if not target.exists() or anchor and anchor not in anchors(target):
            breach(page, f"its link to {link}{'#' if anchor else ''}{anchor} leads nowhere")


def check_runbooks(names):
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    check_links(GUIDE)
    for page in RUNBOOKS.glob("*.md"):
        if page.stem not in names and page.name != "README.md":
            breach(page, "there is no such alert")
        check_links(page)
    if re.findall(r"^\| \[(\w+)\]", index, re.MULTILINE) != names:
        breach(RUNBOOKS / "README.md", "its tables do not list the alerts in the order of the rules")


def queries(known):
    """Every query that stands somewhere else or is made of ours: (where it stands, the query)."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for annotation in board["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"]
            for variable, value in (("$__rate_interval", "5m"), ("$__range", "1h"), ("$put_price", "1"), ("$get_price", "1"),
                                    ("$storage_price", "1")):
                text = text.replace(variable, value)
            yield f"panel {panel['id']}", text
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        kind = group["name"].removeprefix("streamhouse-")
        for rule in group["rules"]:
            # As the operator writes it for a cluster.
            cluster = 'streamhouse_cluster="prod"' if kind in ("consumer", "producer") else 'streamhouse_cluster="prod",namespace="streaming"'
            yield rule["alert"], rule["expr"].replace(CLUSTER, cluster)
    for group in yaml.safe_load(OF_NO_CLUSTER.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"{rule['alert']} of clients without a cluster", rule["expr"]
    for page in sorted(RUNBOOKS.glob("*.md")):
        for block in re.findall(r"```promql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                query = re.sub(r"\s+#.*", "", line)
                if query:
                    for metric in re.findall(r"\bstreamhouse_(?:agent|consumer|producer|operator|group|topic)_\w+", query):
                        if metric not in known and SUFFIXES.sub("", metric) not in known:
                            breach(page, f"there is no metric {metric} in docs/reference")
                    yield page.stem, query


def main():
    known = known_metrics()
    check_runbooks(check_rules(known))
    rules = [{"record": "query", "expr": query, "labels": {"number": str(number), "where": where}}
             for number, (where, query) in enumerate(queries(known))]
    pathlib.Path(sys.argv[1]).write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}, width=1000), encoding="utf-8")
    for line in breaches:
        print(line, file=sys.stderr)
    sys.exit(1 if breaches else 0)


main()
