#!/usr/bin/env python3
"""Runs the health check that Argo CD gets (config/argocd/argocd-cm.yaml) on resources as the operator leaves them.

usage: check_health.py argocd-cm.yaml
"""

import sys

import lupa
import yaml

KINDS = ("StreamHouseCluster", "Topic", "User")


def resource(*conditions, generation=3, observed=3, **metadata):
    names = ("type", "status", "reason", "message")
    listed = [dict(zip(names, condition)) for condition in conditions]
    status = {"observedGeneration": observed, "conditions": listed} if listed else None
    return {"metadata": {"generation": generation, **metadata}, "status": status}


READY = ("Ready", "True", "AgentsReady", "3 agents serve")
NOT_READY = ("Ready", "False", "AgentsNotReady", "0 of 3 agents are ready")
STOPPED = ("Ready", "False", "AgentsStopped", "spec.stopped is set")
PENDING = ("Ready", "False", "DeletePending", "waiting for 3 agents to stop")
STALLED = ("Stalled", "True", "InvalidSpec", "spec.agents: correct it")
GOING_ON = ("Stalled", "False", "Progressing", "")
PAUSED = ("Paused", "True", "Paused", "spec.paused is set")
DEGRADED = ("Degraded", "True", "AgentsUnavailable", "image r/agent:1 cannot be pulled")

# A situation, the resource, what Argo CD shows.
CASES = (
    ("just created", resource(), "Progressing", "waiting for the operator"),
    ("serving", resource(READY, GOING_ON), "Healthy", "3 agents serve"),
    ("starting", resource(NOT_READY, GOING_ON), "Progressing", "0 of 3 agents are ready"),
    ("serving, with a problem", resource(READY, DEGRADED), "Healthy", "3 agents serve"),
    ("not serving, with a problem", resource(NOT_READY, DEGRADED), "Degraded", "image r/agent:1 cannot be pulled"),
    ("only the user can mend it", resource(READY, STALLED), "Degraded", "spec.agents: correct it"),
    ("a newer spec", resource(READY, observed=2), "Progressing", "waiting for the operator to see the newest spec"),
    ("paused", resource(READY, PAUSED), "Suspended", "spec.paused is set"),
    ("stopped", resource(STOPPED), "Suspended", "spec.stopped is set"),
    ("being deleted", resource(PENDING, STALLED, deletionTimestamp="2026-11-30T08:00:00Z"), "Progressing", "waiting for 3 agents to stop"),
)


def to_lua(lua, value):
    if isinstance(value, dict):
        return lua.table_from({key: to_lua(lua, part) for key, part in value.items() if part is not None})
    if isinstance(value, list):
        return lua.table_from([to_lua(lua, part) for part in value])
    return value


def main():
    with open(sys.argv[1]) as file:
        scripts = yaml.safe_load(file)["data"]
    problems = []
    if set(scripts) != {f"resource.customizations.health.streamhouse.io_{kind}" for kind in KINDS}:
        problems.append(f"the checks are of {sorted(scripts)}, not of {KINDS}")
    for name, script in scripts.items():
        lua = lupa.LuaRuntime(unpack_returned_tuples=True)
        check = lua.eval(f"function(obj) {script} end")
        for situation, found, status, message in CASES:
            health = check(to_lua(lua, found))
            if (health.status, health.message) != (status, message):
                problems.append(f"{name}, {situation}: {health.status}, {health.message!r}, not {status}, {message!r}")
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


main()
