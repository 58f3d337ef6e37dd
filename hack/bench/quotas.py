"""Measures clients against their quotas, for hack/bench/quotas.sh: confluent-kafka, and the command line by gRPC.

Usage: quotas.py PROGRAMS KAFKA SECONDS. The clients run at the same time, each under a client id with one quota. Prints a table of the rates and
their ratios to the limit.
"""

import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from confluent_kafka import Consumer, Producer

LIMIT = 1_000_000
RECORD = 10_240
TOLERANCE = 0.1
START = 60
# A client may use a second's worth at once: this much before the time is taken.
BURST_SECONDS = 2


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Agent:
    """An agent with its data in a temporary folder, which ends with the block."""

    def __init__(self, programs, folder):
        self.programs = programs
        ports = {name: f"127.0.0.1:{free_port()}" for name in ("grpc", "http", "kafka")}
        self.grpc, self.http, self.kafka = ports.values()
        options = [f"--{name}-listen={address}" for name, address in ports.items()]
        options += [f"--advertised-{name}-address={address}" for name, address in ports.items()]
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMHOUSE_")}
        self.log = open(f"{folder}/agent.log", "wb")
        command = [f"{programs}/streamhouse-agent", "--dev", f"--data-dir={folder}/data", *options]
        self.process = subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log)

    def __enter__(self):
        until = time.monotonic() + START
        while time.monotonic() < until and self.process.poll() is None:
            try:
                return urllib.request.urlopen(f"http://{self.http}/ready", timeout=2) and self
            except OSError:
                time.sleep(0.1)
        self.__exit__()
        sys.exit(f"the agent is not ready: {open(self.log.name).read()[-2000:]}")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def streamhouse(self, *arguments):
        command = [f"{self.programs}/streamhouse", "--bootstrap", self.grpc, *arguments]
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout


def set_quota(kafka, bootstrap, client_id, quota):
    command = ["java", "-cp", f"{kafka}/lib/*", "kafka.admin.ConfigCommand", "--bootstrap-server", bootstrap, "--alter"]
    command += ["--entity-type", "clients", "--entity-name", client_id, "--add-config", f"{quota}={LIMIT}"]
    subprocess.run(command, check=True, capture_output=True)


def kafka_producer(agent, client_id, seconds):
    """Returns the bytes that were acknowledged per second."""
    settings = {"bootstrap.servers": agent.kafka, "client.id": client_id, "linger.ms": 50, "batch.size": 200_000}
    producer = Producer({**settings, "queue.buffering.max.kbytes": 1024})
    acknowledged = []

    def delivered(error, message):
        if error is None:
            acknowledged.append(len(message.value()))

    def produce_for(time_seconds):
        until = time.monotonic() + time_seconds
        while time.monotonic() < until:
            try:
                producer.produce("kafka-producer", os.urandom(RECORD), on_delivery=delivered)
            except BufferError:
                producer.poll(0.05)
            producer.poll(0)

    produce_for(BURST_SECONDS)
    before, begin = len(acknowledged), time.monotonic()
    produce_for(seconds)
    rate = sum(acknowledged[before:]) / (time.monotonic() - begin)
    producer.purge()
    return rate


def kafka_consumer(agent, client_id, seconds):
    """Returns the bytes that were read per second."""
    settings = {"bootstrap.servers": agent.kafka, "client.id": client_id, "group.id": client_id, "auto.offset.reset": "earliest"}
    consumer = Consumer({**settings, "fetch.max.bytes": 200_000, "message.max.bytes": 200_000, "max.partition.fetch.bytes": 200_000, "queued.max.messages.kbytes": 512})
    consumer.subscribe(["filled"])

    def read_until(until):
        size = 0
        while time.monotonic() < until:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                size += len(message.value())
        return size

    while read_until(time.monotonic() + 0.1) == 0:
        pass
    read_until(time.monotonic() + BURST_SECONDS)
    begin = time.monotonic()
    size = read_until(begin + seconds)
    rate = size / (time.monotonic() - begin)
    consumer.close()
    return rate


def grpc_producer(agent, client_id, seconds):
    options = ["--duration", f"{seconds}s", "--warmup", f"{BURST_SECONDS}s", "--record-size", str(RECORD), "--compressibility", "0"]
    options += ["--batch-size", "200000", "--max-request-size", "200000", "--buffer-memory", "1000000", "--client-id", client_id]
    return bytes_per_second(agent.streamhouse("bench", "produce", "--topic", "grpc-producer", *options, "--output", "json"))


def grpc_consumer(agent, client_id, seconds):
    options = ["--records", str(LIMIT * seconds // RECORD), "--client-id", client_id]
    return bytes_per_second(agent.streamhouse("bench", "consume", "--topic", "filled", *options, "--output", "json"))


def bytes_per_second(printed):
    report = json.loads(printed)
    throughput = report.get("produced") or report.get("consumed")
    return throughput["bytes"] / throughput["seconds"]


CLIENTS = [
    ("confluent-kafka", "producer_byte_rate", "kafka-producer", kafka_producer),
    ("confluent-kafka", "consumer_byte_rate", "kafka-consumer", kafka_consumer),
    ("streamhouse bench, gRPC", "producer_byte_rate", "grpc-producer", grpc_producer),
    ("streamhouse bench, gRPC", "consumer_byte_rate", "grpc-consumer", grpc_consumer),
]


def main(programs, kafka, seconds):
    seconds = int(seconds)
    with tempfile.TemporaryDirectory() as folder, Agent(programs, folder) as agent:
        for topic in ("kafka-producer", "grpc-producer", "filled"):
            agent.streamhouse("topic", "create", topic, "--partitions", "1")
        records = (seconds + 10) * LIMIT // RECORD
        fill = ["--records", str(records), "--warmup", "0s", "--record-size", str(RECORD), "--compressibility", "0"]
        agent.streamhouse("bench", "produce", "--topic", "filled", *fill)
        for _, quota, client_id, _ in CLIENTS:
            set_quota(kafka, agent.kafka, client_id, quota)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = [pool.submit(measure, agent, client_id, seconds) for _, _, client_id, measure in CLIENTS]
            rates = [future.result() for future in running]
    print("| client | quota | limit, bytes/s | measured | ratio |\n|---|---|---|---|---|")
    for (client, quota, _, _), rate in zip(CLIENTS, rates):
        print(f"| {client} | `{quota}` | {LIMIT:,} | {rate:,.0f} | {rate / LIMIT:.3f} |")
    wrong = [rate for rate in rates if abs(rate / LIMIT - 1) > TOLERANCE]
    sys.exit(f"{len(wrong)} ratios are off by more than {TOLERANCE:.0%}" if wrong else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
