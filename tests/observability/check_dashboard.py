#!/usr/bin/env python3
"""Checks the dashboard without a Grafana: by the types that Grafana publishes (grafana-foundation-sdk, made from its schema), and by
what the operator and the other scripts rely on. Called by hack/check-observability.sh; prints each breach, ends with 1 if there is any.
"""

import enum
import json
import pathlib
import re
import sys
import types
import typing

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.runtime import panelcfg_config
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as schema
from grafana_foundation_sdk.models import prometheus

DASHBOARD = pathlib.Path("grafana/dashboards/streamhouse-overview.json")
RUNBOOKS = pathlib.Path("docs/runbooks")
METRICS = [pathlib.Path("docs/reference/metrics.md"), pathlib.Path("docs/reference/operator-metrics.md")]

OF_ANY_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
VARIABLES = ["datasource", "cluster", "namespace", "topic", "group", "put_price", "get_price", "storage_price"]
FIRST_PANELS = ["Producer throughput", "Consumer throughput", "Consumer lag", "Producer latency P50/P95/P99", "Agent active partitions",
                "Error rates", "Batch sizes"]
# What Prometheus' data source reads of an annotation.
ANNOTATION = {"expr", "step", "titleFormat", "textFormat", "tagKeys", "useValueForTime"}
BUILT_IN = {"__rate_interval", "__range"}
AGENT = 'streamhouse_cluster=~"$cluster",namespace=~"$namespace"'
CLIENT = 'streamhouse_cluster=~"$cluster|"'
SUFFIXES = re.compile(r"_(bucket|sum|count)$")

breaches = []


def breach(where, what):
    breaches.append(f"{where}: {what}")


def fits(value, hint, module):
    """Whether a value is of the type that the schema names."""
    if isinstance(hint, str):
        hint = getattr(module, hint)
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if hint in (typing.Any, object):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice, module) for choice in choices)
    if origin is typing.Literal:
        return value in choices
    if origin is list:
        return isinstance(value, list) and all(fits(item, choices[0], module) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, choices[0]) and fits(item, choices[1], module) for key, item in value.items())
    if isinstance(hint, typing.ForwardRef):
        return fits(value, hint.__forward_arg__, module)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Dataquery:
        return isinstance(value, prometheus.Dataquery)
    if isinstance(value, dict) and hasattr(hint, "from_json"):
        # The SDK leaves some parts as they were read.
        return read_as(value, hint)
    return isinstance(value, hint)


def read_as(value, hint):
    """Whether a plain object has the fields of the schema's class, and no others."""
    before = len(breaches)
    parsed = hint.from_json(value)
    check_types(parsed, hint.__name__)
    check_known(value, json.loads(JSONEncoder().encode(parsed)), hint.__name__)
    return len(breaches) == before


def check_types(value, where):
    """Checks the fields of an object of the schema, and those below."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            check_types(item, f"{where}[{number}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            check_types(item, f"{where}.{key}")
    elif hasattr(value, "to_json") and not isinstance(value, enum.Enum):
        module = sys.modules[type(value).__module__]
        for base in reversed(type(value).__mro__):
            for name, hint in getattr(base, "__annotations__", {}).items():
                field = getattr(value, name)
                if not fits(field, hint, module):
                    breach(f"{where}.{name}", f"{field!r} is not of the type {hint}")
                check_types(field, f"{where}.{name}")


def check_known(ours, theirs, where):
    """What the schema does not know is lost on the way through its types."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key not in theirs:
                # An absent value and null are the same to Grafana; an annotation's query has what its data source knows.
                if value is not None and not (where.startswith("dashboard.annotations.") and key in ANNOTATION):
                    breach(f"{where}.{key}", "Grafana's schema has no such field")
            else:
                check_known(value, theirs[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs)):
            check_known(one, other, f"{where}[{number}]")
    elif ours != theirs:
        breach(where, f"{ours!r} becomes {theirs!r} in Grafana's schema")


def check_schema(text):
    register_default_plugins()
    parsed = schema.Dashboard.from_json(json.loads(text))
    check_types(parsed, "dashboard")
    check_known(json.loads(text), json.loads(JSONEncoder().encode(parsed)), "dashboard")


def check_source(where, source):
    if source != {"type": "prometheus", "uid": "${datasource}"}:
        breach(where, "the data source is not the variable `datasource`")


def check_query(where, query, known):
    for name in re.findall(r"\$\{?(\w+)", query):
        if name not in BUILT_IN and name not in VARIABLES:
            breach(where, f"there is no variable ${name}")
    for name in re.findall(r"\b(?:streamhouse_(?!cluster\b)|process_|node_)\w+(?=\{|\[|\s|\))", query):
        if name not in known and SUFFIXES.sub("", name) not in known:
            breach(where, f"there is no metric {name}")
    for selector in re.findall(r"\b(?:streamhouse_(?:agent|group|topic)_\w+|up|process_\w+)\{([^}]*)\}", query):
        if AGENT not in selector and where != "variable namespace":
            breach(where, f"the selector {{{selector}}} does not follow the variables cluster and namespace")
    for selector in re.findall(r"\bstreamhouse_(?:producer|consumer)_\w+\{([^}]*)\}", query):
        if CLIENT not in selector:
            breach(where, f"the selector {{{selector}}} does not follow the variable cluster")


def check_panel(panel, known):
    where = f"panel {panel['id']} ({panel['title']})"
    check_source(where, panel["datasource"])
    if panelcfg_config(panel["type"]) is None:
        breach(where, f"Grafana has no panel of the type {panel['type']}")
    if not panel["description"].endswith("."):
        breach(where, "it has no description")
    if not panel["fieldConfig"]["defaults"]["unit"]:
        breach(where, "it has no unit")
    if not panel["targets"]:
        breach(where, "it has no query")
    for target in panel["targets"]:
        check_source(where, target["datasource"])
        check_query(where, target["expr"], known)
        if not target["legendFormat"]:
            breach(where, "a query has no legend")
    for link in panel["links"]:
        page = RUNBOOKS / link["url"].rsplit("/", 1)[1]
        if not page.exists():
            breach(where, f"there is no {page}")


def check_grid(panels):
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            breach(f"panel {panel['id']}", "it is wider than the page")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["id"])
                if other != panel["id"]:
                    breach(f"panel {panel['id']}", f"it lies on panel {other}")
                    return


def check_conventions(dashboard, known):
    for name in ("id", "__inputs", "__requires"):
        if name in dashboard:
            breach("dashboard", f"it has {name}, which an import would ask about")
    if dashboard["uid"] != "streamhouse-overview":
        breach("dashboard", "its uid is in links; it must stay streamhouse-overview")
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    if list(variables) != VARIABLES:
        breach("dashboard", f"its variables are {list(variables)}, not {VARIABLES}")
    for name in ("cluster", "namespace", "topic", "group"):
        if variables[name].get("allValue") != ".*" or not variables[name]["includeAll"]:
            breach(f"variable {name}", "all of its values do not include a missing label: allValue must be .*")
        check_source(f"variable {name}", variables[name]["datasource"])
        check_query(f"variable {name}", variables[name]["query"]["query"].replace("label_values", ""), known)
    panels = dashboard["panels"]
    if [panel["title"] for panel in panels[: len(FIRST_PANELS)]] != FIRST_PANELS:
        breach("dashboard", f"its first panels are not {FIRST_PANELS}")
    if len({panel["id"] for panel in panels}) != len(panels):
        breach("dashboard", "two panels have one number")
    for panel in panels:
        if panel["type"] != "row":
            check_panel(panel, known)
    check_grid(panels)


def main():
    text = DASHBOARD.read_text(encoding="utf-8")
    named = {name for page in METRICS for name in re.findall(r"^\| `(\w+)`", page.read_text(encoding="utf-8"), re.MULTILINE)}
    known = named | OF_ANY_PROCESS
    check_schema(text)
    check_conventions(json.loads(text), known)
    for line in breaches:
        print(f"{DASHBOARD}: {line}", file=sys.stderr)
    sys.exit(1 if breaches else 0)


main()
