#!/usr/bin/env python3
"""Holds docker-compose.yml, which no machine without Docker can start, against what users rely on: its services, their ports, that all
of them listen on this machine only, what Grafana comes up with, and that what it takes from the repository is there. Called by
hack/check-observability.sh."""

import pathlib
import re
import sys

import yaml

PORTS = {"postgres": {5432}, "minio": {9000, 9001}, "prometheus": {9090}, "alertmanager": {9093}, "node-exporter": {9100}, "grafana": {3000}}
# Where programs listen that are not told a port.
USUAL = {"postgres": {5432}, "grafana": {3000}}
JOBS = {"prometheus", "node", "streamhouse-agents", "streamhouse-producers", "streamhouse-consumers"}

breaches = []


def expect(what, found, wanted):
    if found != wanted:
        breaches.append(f"{what}: {found}, not {wanted}")


def text(part):
    return " ".join(part) if isinstance(part, list) else str(part or "")


def check_service(name, service):
    listens = text(service.get("command")) + " " + text([f"{key}={value}" for key, value in service.get("environment", {}).items()])
    addresses = re.findall(r"(?:address|listen_addresses|HTTP_ADDR)[= ](\S*?)(?::(\d+))?(?=[\s,\]]|$)", listens)
    expect(f"{name}: ports", {int(port) for _, port in addresses if port} or USUAL.get(name), PORTS[name])
    # Nothing at all is Alertmanager's way to say that it has no peers; a port alone would be open to everyone.
    expect(f"{name}: where it listens", {address for address, port in addresses if address or port}, {"127.0.0.1"})
    expect(f"{name}: its network", service.get("network_mode"), "host")
    expect(f"{name}: whether its image has a version", bool(re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]*\d[\w.-]*", service["image"])), True)
    if name != "node-exporter":
        expect(f"{name}: whether it is waited for", "healthcheck" in service, True)
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("./"):
            expect(f"{name}: whether {source} is there", pathlib.Path(source).exists(), True)


def load(path):
    return yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))


def main():
    compose = load("docker-compose.yml")
    expect("services", set(compose["services"]), set(PORTS))
    for name in PORTS.keys() & compose["services"].keys():
        check_service(name, compose["services"][name])
    postgres = compose["services"].get("postgres", {"environment": {}})
    expect("PostgreSQL's container", postgres.get("container_name"), "streamhouse-postgres")
    names = ("USER", "PASSWORD", "DB")
    expect("PostgreSQL's user, password and database", [postgres["environment"].get(f"POSTGRES_{name}") for name in names],
           ["streamhouse", "streamhouse_dev", "streamhouse_metadata"])
    grafana = compose["services"].get("grafana", {"environment": {}, "volumes": []})
    expect("Grafana's user", [grafana["environment"].get(f"GF_SECURITY_ADMIN_{part}") for part in ("USER", "PASSWORD")], ["admin", "admin"])
    (source,) = load(next(pathlib.Path("grafana/provisioning/datasources").glob("*.yml")))["datasources"]
    expect("Grafana's data source", (source["type"], source["url"], source["isDefault"]), ("prometheus", "http://127.0.0.1:9090", True))
    (provider,) = load(next(pathlib.Path("grafana/provisioning/dashboards").glob("*.yml")))["providers"]
    mounts = dict(reversed(volume.split(":")[:2]) for volume in grafana["volumes"])
    expect("Grafana's dashboards", mounts.get(provider["options"]["path"]), "./grafana/dashboards")
    expect("Grafana's provisioning", mounts.get("/etc/grafana/provisioning"), "./grafana/provisioning")
    expect("scrape jobs", {job["job_name"] for job in load("config/prometheus/prometheus.yml")["scrape_configs"]}, JOBS)
    for breach in breaches:
        print(breach, file=sys.stderr)
    sys.exit(bool(breaches))


main()
