#!/usr/bin/env python3
"""Looks whether a Prometheus that was set up by the Prometheus Operator watches a cluster on Kubernetes as it should: its targets and
their labels, every alert, the dashboard's queries about the operator and its variables. Called by hack/lib-watch.sh, with the
standard library only.

usage: check_cluster.py URL CLUSTER NAMESPACE AGENTS OPERATOR-NAMESPACE RESOURCES
CLUSTER in NAMESPACE has so many AGENTS; the operator looks after so many RESOURCES, all ready.
"""

import collections
import json
import re
import sys
import time

from checking import fail, wait_for
from live import DASHBOARD, RULES, Prometheus, check_variables, filled, note

# The chart's alerts about clients that name no cluster.
OF_NO_CLUSTER = RULES.parent.parent.parent / "charts/streamhouse-operator/files/clients.rules.yml"
# Prometheus scrapes and evaluates every five seconds.
WINDOW = "20s"


def check_targets(prometheus, expected):
    """Every target is up, there are no others, and each says what alerts and dashboard ask for."""
    found = {}

    def look():
        targets = (prometheus.ask("/api/v1/targets", state="active") or {"activeTargets": []})["activeTargets"]
        found["targets"] = collections.Counter(
            (target["labels"]["job"], target["labels"].get("streamhouse_cluster"), target["labels"]["namespace"],
             "pod" in target["labels"], target["health"]) for target in targets)
        return found["targets"] == expected

    wait_for("that all targets are up", look, lambda: f"expected {dict(expected)}, found {dict(found['targets'])}")
    note(f"{expected.total()} targets by two ServiceMonitors: up, with the labels of cluster, namespace and pod")


def alert_names(file):
    return re.findall(r"- alert: (\w+)$", file.read_text(encoding="utf-8"), re.MULTILINE)


def check_alerts(prometheus):
    # Those about clients are there twice: for clients that name the cluster, and for those that name none.
    expected = collections.Counter(alert_names(RULES) + alert_names(OF_NO_CLUSTER))
    found = {}

    def look():
        answer = prometheus.ask("/api/v1/rules") or {"groups": []}
        found["rules"] = [rule for group in answer["groups"] for rule in group["rules"]]
        return collections.Counter(rule["name"] for rule in found["rules"] if rule["health"] == "ok") == expected

    def differences():
        names = collections.Counter(rule["name"] for rule in found["rules"])
        return dict(missing=dict(expected - names), further=dict(names - expected))

    wait_for("that every alert is evaluated", look,
             lambda: [(rule["name"], rule["health"], rule.get("lastError")) for rule in found["rules"] if rule["health"] != "ok"]
             or differences())
    firing = [rule["name"] for rule in found["rules"] if rule["state"] == "firing"]
    if firing:
        fail(f"alerts fire about a cluster that is well: {firing}")
    note(f"{expected.total()} alerts, from the cluster's PrometheusRule and the operator's: each evaluated, none fires")


def plausible(title, rows, resources):
    last = [row[-1] for row in rows]
    match title:
        case "Operator leader":
            return last == [1]
        case "Missing CRDs":
            return last == [0]
        case "Time since the last success":
            return len(rows) == 3 and all(0 <= value < 300 for value in last)
        case "Resources":
            return sum(last) == resources
        case "Drift corrected":
            return all(value >= 0 for value in last)
        case "Reconciliation duration P99":
            return all(0 < value < 60 for value in last)
    return max(map(max, rows)) > 0


def check_operator(prometheus, cluster, namespace, resources):
    """The dashboard's row about the operator, which the check without Kubernetes cannot fill."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    begin = next(number for number, panel in enumerate(panels) if panel["type"] == "row" and panel["title"] == "Operator")
    rest = panels[begin + 1:]
    end = next((number for number, panel in enumerate(rest) if panel["type"] == "row"), len(rest))
    queries = [(panel["title"], filled(target["expr"], WINDOW, cluster, namespace)) for panel in rest[:end] for target in panel["targets"]]
    if len(queries) < 7:
        fail(f"the dashboard asks only {len(queries)} things about the operator")
    for title, query in queries:
        seen = {}

        def look():
            now = time.time()
            seen["rows"] = prometheus.series(query, now - 20, now)
            return seen["rows"] and plausible(title, seen["rows"], resources)

        wait_for(f"a plausible answer for the panel {title!r}", look, lambda: f"{seen['rows']} for {query}")
    note(f"{len(queries)} queries of the dashboard about the operator are plausible")


def main():
    base, cluster, namespace, agents, operator_namespace, resources = sys.argv[1:]
    prometheus = Prometheus(base)
    check_targets(prometheus, collections.Counter({
        ("streamhouse-agents", cluster, namespace, True, "up"): int(agents),
        ("streamhouse-operator", None, operator_namespace, True, "up"): 1,
    }))
    check_alerts(prometheus)
    check_operator(prometheus, cluster, namespace, int(resources))
    check_variables(prometheus, time.time() - 60, cluster, {"cluster": {cluster}, "namespace": {namespace}})


main()
