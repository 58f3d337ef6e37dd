"""A real agent on the embedded default, and what the command line puts into it for the console's check. Everything ends with the check,
also when that is killed."""

import json
import pathlib
import re
import subprocess
import urllib.request

from checking import PATIENCE, fail, wait_for

# A browser must show these and do nothing about them.
SCRIPT = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
OTHER_WAY = "abc\u202edef\u0007"
LONG = 10_000
MANY = 55


class Cluster:
    def __init__(self, folder, programs):
        self.folder = pathlib.Path(folder)
        self.programs = pathlib.Path(programs).resolve()
        self.running = {}
        self.grpc = self.http = "127.0.0.1:0"

    def spawn(self, name, program, *arguments, stdin=subprocess.DEVNULL):
        command = ["setpriv", "--pdeathsig", "KILL", self.programs / program, *arguments]
        out, log = open(self.folder / f"{name}.out", "wb"), open(self.folder / f"{name}.log", "ab")
        process = subprocess.Popen([str(part) for part in command], stdin=stdin, stdout=out, stderr=log, cwd=self.folder)
        self.running[name] = process
        return process

    def put_user(self, user, password):
        """Stores a user, before the agent starts."""
        command = [self.programs / "streamhouse-agent", "user", "put", user, "--password-file", "-", "--dev", "--data-dir", "data"]
        done = subprocess.run(command, input=f"{password}\n".encode(), capture_output=True, timeout=PATIENCE, cwd=self.folder)
        if done.returncode:
            fail(f"streamhouse-agent user put: {done.stderr.decode()}")

    def start_agent(self, *options):
        """On free ports the first time, on the same ones later."""
        self.spawn("agent", "streamhouse-agent", "--dev", "--data-dir", "data", "--agent-id", "agent-0", "--zone", "zone-a",
                   "--grpc-listen", self.grpc, "--http-listen", self.http, "--kafka-listen", "127.0.0.1:0", *options)

        def said():
            if self.running["agent"].poll() is not None:
                fail(f"the agent ended: {(self.folder / 'agent.log').read_text()[-2000:]}")
            text = (self.folder / "agent.out").read_text()
            return "ready" in text and re.search(r"^listening grpc=(\S+) http=(\S+)", text, re.MULTILINE)

        self.grpc, self.http = wait_for("the agent's readiness", said).groups()

    def stop(self, name):
        process = self.running.pop(name)
        process.terminate()
        process.wait(PATIENCE)

    def stop_all(self):
        for process in self.running.values():
            process.kill()
            process.wait()

    def cli(self, *arguments, given=None):
        """What the command line answers."""
        command = [self.programs / "streamhouse", "--bootstrap", self.grpc, *map(str, arguments)]
        done = subprocess.run(command, input=given, capture_output=True, timeout=PATIENCE)
        if done.returncode:
            fail(f"streamhouse {' '.join(map(str, arguments))}: {done.stderr.decode()}")
        return done.stdout

    def ask(self, *arguments):
        return json.loads(self.cli("-o", "json", *arguments))

    def produce(self, topic, lines, *arguments):
        given = b"".join(line if isinstance(line, bytes) else line.encode() for line in (part for line in lines for part in (line, "\n")))
        self.cli("produce", topic, *arguments, given=given)

    def read(self, topic, partition, offset, number):
        """Records as the command line reads them."""
        out = self.cli("consume", topic, "--partition", partition, "--offset", offset, "--max-messages", number, "--exit-at-end", "-f", "json")
        return [json.loads(line) for line in out.splitlines()]

    def data(self, path):
        """The console's own data."""
        with urllib.request.urlopen(f"http://{self.http}/console/api/{path}", timeout=PATIENCE) as answer:
            return json.load(answer)

    def counter(self, name):
        """A counter as Prometheus sees it."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=PATIENCE) as answer:
            return float(re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)[1])


def fill(cluster):
    """Topics, records of every kind, a group that is behind, one that reads now, and a producer that goes on."""
    for name, partitions in {"orders": 4, "payments": 3, "shipments": 2, "odd": 1}.items():
        cluster.cli("topic", "create", name, "--partitions", partitions)
    cluster.cli("topic", "alter", "orders", "--config", "retention.ms=86400000")
    order = '{{"order":{0},"item":"two pounds of tea","total":"{1}.{2:02} EUR"}}'
    lines = [f"customer-{i % 17}:" + order.format(i, 3 + i % 40, i * 7 % 100) for i in range(240)]
    cluster.produce("orders", lines, "--key-separator", ":", "--header", "source=web-1", "--header", "traceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-01")
    cluster.produce("shipments", [f"parcel {i}" for i in range(30)])
    odd = [f"plain\t{SCRIPT}", f"{SCRIPT}\tkey", b"bytes\t\xff\x00\x1b\x7f", "nothing\tNULL", "empty\t", f"long\t{'x' * LONG}", f"turned\t{OTHER_WAY}"]
    cluster.produce("odd", odd, "--key-separator", "\\t", "--null-value", "NULL", "--header", f"{SCRIPT}={SCRIPT}")
    cluster.cli("consume", "orders", "--group", "billing", "--from-beginning", "--exit-at-end")
    cluster.produce("orders", [line.replace("tea", "coffee") for line in lines[:37]], "--key-separator", ":", "--header", "source=web-2")
    cluster.cli("topic", "delete-records", "orders", "--partition", 1, "--before-offset", 5)
    cluster.spawn("settlement", "streamhouse", "--bootstrap", cluster.grpc, "consume", "payments", "--group", "settlement", "--from-beginning")
    wait_for("a member of the group", lambda: {"settlement"} & {group["group_id"] for group in cluster.ask("group", "list") if group["state"] == "Stable"})


def flow(cluster):
    """A producer that goes on until the end of the check."""
    lines = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "yes", '{"payment":"settled"}'], stdout=subprocess.PIPE)
    cluster.running["lines"] = lines
    cluster.spawn("flow", "streamhouse", "--bootstrap", cluster.grpc, "produce", "payments", "--rate", 400, "--linger", "20ms", stdin=lines.stdout)
