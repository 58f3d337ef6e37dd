#!/usr/bin/env python3
"""What hack/check-chart.sh checks of rendered objects, given as JSON documents one after the other.

usage: check_rendered.py definitions CRDS RENDERED RENDERED-WITHOUT-KEEP
       check_rendered.py rights RENDERED RENDERED-NAMESPACED
       check_rendered.py values VALUES SCHEMA
"""

import json
import sys

from schemas import documents

problems = []


def check(holds, problem):
    if not holds:
        problems.append(problem)


def definitions(crds, rendered, without_keep):
    """The chart's definitions are the repository's, and stay when the release goes, unless it is told otherwise."""
    wanted = {crd["metadata"]["name"]: crd["spec"] for crd in documents(crds)}
    for path, policy in ((rendered, "keep"), (without_keep, None)):
        made = {object["metadata"]["name"]: object for object in documents(path) if object["kind"] == "CustomResourceDefinition"}
        check(made.keys() == wanted.keys(), f"the chart has the definitions {sorted(made)}, the repository {sorted(wanted)}")
        for name in made.keys() & wanted.keys():
            check(made[name]["spec"] == wanted[name], f"{name} differs from crds/")
            found = made[name]["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            check(found == policy, f"{name} has the resource policy {found}, not {policy}")


def rules(role):
    return {(group, resource, verb, tuple(rule.get("resourceNames", [])))
            for rule in role["rules"] for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]}


def rights(rendered, namespaced):
    """No right is wider than it must be, and the namespaced operator has the same in its namespaces as the other everywhere."""
    roles = [object for object in documents(rendered) if object["kind"] in ("ClusterRole", "Role")]
    own = next(role for role in roles if role["metadata"]["name"] == "streamhouse-system:streamhouse-operator")
    for role in roles:
        for group, resource, verb, names in rules(role):
            what = f"{role['kind']} {role['metadata']['name']}: {verb} {resource}.{group}"
            check("*" not in (group, resource, verb), f"{what}: no wildcards")
            check(resource != "secrets" or verb in ("get", "create", "patch"), f"{what}: secrets may be read and written by name only")
            check(verb not in ("bind", "escalate", "impersonate"), f"{what}: gives power over others")
            check(group != "rbac.authorization.k8s.io", f"{what}: gives power over others")
            check(resource not in ("pods/exec", "pods/attach"), f"{what}: is not needed")
            check(resource != "nodes" or verb == "get", f"{what}: only the addresses of single nodes are read")
    split = [object for object in documents(namespaced) if object["kind"] in ("ClusterRole", "Role")]
    everywhere = [role["metadata"]["name"] for role in split if role["kind"] == "ClusterRole"
                  and not any(label.startswith("rbac.authorization.k8s.io/aggregate-to-") for label in role["metadata"]["labels"])]
    check(not everywhere, f"the namespaced operator has rights everywhere: {everywhere}")
    for namespace in ("orders", "billing"):
        here = [role for role in split if role["kind"] == "Role" and role["metadata"]["namespace"] == namespace
                and role["metadata"]["name"] == "streamhouse-operator"]
        check(len(here) == 1, f"the namespaced operator has {len(here)} roles in {namespace}")
        for role in here:
            check(rules(role) == rules(own), f"the rights in {namespace} are not those of the operator for all namespaces")


def values(values, schema):
    """Every value is in the schema and every property of the schema in values.yaml; every object says what it takes."""
    with open(values) as file:
        values = json.load(file)
    with open(schema) as file:
        schema = json.load(file)
    schema["properties"].pop("global")
    values.pop("global", None)

    def compare(values, schema, path):
        if "properties" not in schema or not isinstance(values, dict):
            return
        check(schema.get("additionalProperties") is False, f"{path}: additionalProperties is not false")
        missing = set(schema["properties"]) - set(values)
        optional = {"claims", "nodeAffinity", "podAffinity", "podAntiAffinity"}
        check(missing <= optional, f"{path}: {sorted(missing - optional)} are in the schema and not in values.yaml")
        check(set(values) <= set(schema["properties"]), f"{path}: {sorted(set(values) - set(schema['properties']))} are not in the schema")
        for name in set(values) & set(schema["properties"]):
            compare(values[name], schema["properties"][name], f"{path}.{name}")

    compare(values, schema, "values")


if __name__ == "__main__":
    {"definitions": definitions, "rights": rights, "values": values}[sys.argv[1]](*sys.argv[2:])
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))
