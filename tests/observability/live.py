"""A Prometheus that runs, and the dashboard's questions to it. For check_live.py and check_cluster.py."""

import json
import math
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request

from checking import fail

DASHBOARD = pathlib.Path("grafana/dashboards/streamhouse-overview.json")
RULES = pathlib.Path("config/prometheus/streamhouse.rules.yml")
PRICES = {"put_price": "0.005", "get_price": "0.0004", "storage_price": "0.023"}


def note(what):
    print(f"    {what}", flush=True)


# What this asks is on this machine or in a network of its own: no proxy leads there.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Prometheus:
    def __init__(self, base):
        self.base = base

    def ask(self, path, **parameters):
        url = f"{self.base}{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with DIRECT.open(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            # Not ready yet.
            if error.code == 503:
                return None
            fail(f"{parameters}: {error.read().decode()}")
        except urllib.error.URLError:
            return None

    def value(self, query):
        """The one number that a query gives; 0 without any series."""
        answer = self.ask("/api/v1/query", query=query)
        return float(answer["result"][0]["value"][1]) if answer and answer["result"] else 0.0

    def values(self, query):
        """The finite values of all series of a query now. A query that cannot be evaluated is a failure."""
        answer = self.ask("/api/v1/query", query=query) or {"result": []}
        return [value for series in answer["result"] if math.isfinite(value := float(series["value"][1]))]

    def series(self, query, begin, end):
        """Every series of a query over the run: its finite values."""
        answer = self.ask("/api/v1/query_range", query=query, start=begin, end=end, step=1) or {"result": []}
        rows = [[float(value) for _, value in series["values"]] for series in answer["result"]]
        return [finite for row in rows if (finite := [value for value in row if math.isfinite(value)])]


def documented_queries(markdown):
    """The promql blocks of a document: the line of each, the marker after the language, and the query."""
    for block in re.finditer(r"^```promql\b(.*)\n((?:.*\n)*?)```$", markdown, re.MULTILINE):
        yield markdown.count("\n", 0, block.start()) + 1, block[1].strip(), block[2].strip()


def filled(query, window, cluster, namespace):
    """A query of the dashboard as Grafana would send it with this cluster and namespace, and all topics and groups, chosen."""
    for name, value in {"__rate_interval": window, "__range": "10m", "cluster": cluster, "namespace": namespace, **PRICES}.items():
        query = query.replace(f"${name}", value)
    return re.sub(r"\$(topic|group)\b", ".*", query)


def check_variables(prometheus, begin, cluster, expected):
    """What the drop-down lists offer: for each variable named, these values and no other."""
    seen = set()
    for variable in json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]) if variable["type"] == "query" else None
        if not found or variable["name"] not in expected:
            continue
        seen.add(variable["name"])
        series = prometheus.ask("/api/v1/series", start=begin, **{"match[]": filled(found[1], "1m", cluster, ".*")})
        # A series without the label offers nothing: that of a producer before its first topic.
        values = {one[found[2]] for one in series if found[2] in one}
        if values != expected[variable["name"]]:
            fail(f"the variable {variable['name']} offers {values}, not {expected[variable['name']]}")
    if seen != set(expected):
        fail(f"the dashboard has no variables {set(expected) - seen}")
