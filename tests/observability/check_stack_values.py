#!/usr/bin/env python3
"""Holds what documents and scripts say of the chart kube-prometheus-stack to tests/observability/kube-prometheus-stack.yml: the version,
the keys of its values, which of them are defaults, the label and the annotation of the dashboard. Called by hack/check-observability.sh.

usage: check_stack_values.py [CHART-FOLDER]
With a folder, such as `helm pull kube-prometheus-stack --repo https://prometheus-community.github.io/helm-charts --untar --version VERSION`
makes, holds that file to the chart too: do so before the version in hack/versions.sh is raised.
"""

import pathlib
import re
import sys

import yaml

FACTS = pathlib.Path("tests/observability/kube-prometheus-stack.yml")
GUIDE = pathlib.Path("docs/observability.md")
SCRIPT = pathlib.Path("hack/kind-up.sh")
BLOCK = re.compile(r"^```ya?ml[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DASHBOARDS = "grafana.sidecar.dashboards."
ABSENT = "absent"

breaches = []


def expect(what, found, wanted):
    if found != wanted or type(found) is not type(wanted):
        breaches.append(f"{what}: {found!r}, not {wanted!r}")


def flat(values, prefix=""):
    """The leaves of a tree, by their path with dots; an empty part is a leaf."""
    if not isinstance(values, dict) or not values and prefix:
        return {prefix.rstrip("."): values}
    return {path: leaf for key, part in values.items() for path, leaf in flat(part, f"{prefix}{key}.").items()}


def commented_defaults(block):
    """The last parts of the keys that a block's comments call defaults."""
    return set(re.findall(r"(\w+): [^#\n]*# the default\b", block))


def check_block(where, block, defaults, documented):
    """A block is values of the chart if its only keys are parts of it."""
    values = yaml.safe_load(block)
    if not isinstance(values, dict) or not values.keys() <= {key.split(".")[0] for key in defaults}:
        return
    called = commented_defaults(block)
    for key, value in flat(values).items():
        documented[key] = value
        if key not in defaults:
            breaches.append(f"{where}: {FACTS} does not have {key}")
        else:
            expect(f"{where}: whether {key}: {value} is the default", key.split(".")[-1] in called, value == defaults[key])


def check_text(where, text, defaults):
    """Keys in the text, such as `prometheus.prometheusSpec.ruleSelector`, and the sentences that give their defaults."""
    parts = "|".join(sorted({key.split(".")[0] for key in defaults}))
    for key in re.findall(rf"`((?:{parts})(?:\.\w+)+)`", text):
        if not any(known == key or known.startswith(key + ".") for known in defaults):
            breaches.append(f"{where}: {FACTS} does not have {key}")
    for keys, value in re.findall(rf"((?:`(?:{parts})(?:\.\w+)+`(?:,? and |, )?)+),? (?:are |is )?(\w+) by default", text.replace("\n", " ")):
        for key in re.findall(r"`([\w.]+)`", keys):
            expect(f"{where}: default of {key}", yaml.safe_load(value), defaults.get(key, ABSENT))
    for key in re.findall(r"`(\w+NilUsesHelmValues)`", text):
        breaches.append(f"{where}: {key} needs its whole path, for users to set it")


def check_documents(defaults):
    documented = {}
    for path in sorted(pathlib.Path("docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        for block in BLOCK.findall(text):
            # Several documents in a block, or placeholders, are no values.
            if re.match(r"[a-zA-Z-]+:\s*\n", block) and "\n---" not in block:
                check_block(path, block, defaults, documented)
        check_text(path, BLOCK.sub("", text), defaults)
    return documented


def check_script(defaults):
    set_by_script = re.findall(r"\b((?:grafana|prometheus)(?:\.\w+)+)=", SCRIPT.read_text(encoding="utf-8"))
    for key in set_by_script:
        if key not in defaults:
            breaches.append(f"{SCRIPT}: {FACTS} does not have {key}")
    return set(set_by_script)


def check_dashboard(defaults, documented, set_by_script):
    """The sidecar finds the dashboard by its label, and its folder by what the documented values say."""
    guide = GUIDE.read_text(encoding="utf-8")
    label = f'{defaults[DASHBOARDS + "label"]}: "{defaults[DASHBOARDS + "labelValue"]}"'
    expect(f"{GUIDE}: whether it names the label {label}", f"the label `{label}`" in guide, True)
    annotation = re.search(r"the annotation `(\w+): \w+`", guide)
    expect("annotation of the dashboard's folder", annotation and annotation[1], documented.get(DASHBOARDS + "folderAnnotation"))
    expect("whether Grafana makes folders", documented.get(DASHBOARDS + "provider.foldersFromFilesStructure"), True)
    expect(f"documented values that {SCRIPT} does not set", documented.keys() - set_by_script, set())


def check_chart(folder, facts):
    """The facts against a chart with its dependencies."""
    chart = yaml.safe_load((folder / "Chart.yaml").read_text(encoding="utf-8"))
    expect("version of the chart", chart["version"], facts["chart"])
    versions = {part["name"]: part["version"] for part in chart["dependencies"]}
    own = flat(yaml.safe_load((folder / "values.yaml").read_text(encoding="utf-8")))
    values = {}
    for name, version in facts["dependencies"].items():
        expect(f"version of the part {name}", versions.get(name), version)
        part = flat(yaml.safe_load((folder / "charts" / name / "values.yaml").read_text(encoding="utf-8")))
        values |= {f"{name}.{key}": value for key, value in part.items()}
    # The chart's own values go over those of its parts.
    values |= own
    for key, default in facts["values"].items():
        expect(f"default of {key} in the chart", values.get(key, ABSENT), default)
    rules = "".join(path.read_text(encoding="utf-8") for path in (folder / "templates").rglob("*.yaml"))
    missing = [alert for alert in facts["alerts"] if not re.search(rf"alert: {alert}\b", rules)]
    expect("alerts that the chart does not have", missing, [])


def main():
    facts = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    pinned = re.search(r"^KUBE_PROMETHEUS_STACK_VERSION=(.*)$", pathlib.Path("hack/versions.sh").read_text(encoding="utf-8"), re.MULTILINE)
    expect("version of the chart", facts["chart"], pinned and pinned[1])
    documented = check_documents(facts["values"])
    versions = set(re.findall(r"values of the chart \((.*?)\)", GUIDE.read_text(encoding="utf-8")))
    expect(f"{GUIDE}: version of the chart", versions, {facts["chart"]})
    check_dashboard(facts["values"], documented, check_script(facts["values"]))
    if len(sys.argv) > 1:
        check_chart(pathlib.Path(sys.argv[1]), facts)
    for breach in breaches:
        print(breach, file=sys.stderr)
    sys.exit(bool(breaches))


main()
