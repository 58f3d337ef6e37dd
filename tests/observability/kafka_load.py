"""Kafka clients for check_live.py: kafka-python produces, reads in a group, and asks for what does not exist.

usage: kafka_load.py BOOTSTRAP TOPIC GROUP RECORDS-A-SECOND
It prints `running` and works until a line comes from its standard input. Then it stops producing, reads everything, commits, and prints its
counts as one line of JSON. Its connections stay open until its standard input ends.
"""

import json
import sys
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

PARTITIONS = 2
VALUE = b"v" * 100
TICK = 0.1
PATIENCE = 100


class KafkaLoad:
    def __init__(self, bootstrap, topic, group, rate):
        self.topic, self.per_tick = topic, max(1, int(rate * TICK))
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        try:
            self.admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
        except TopicAlreadyExistsError:
            pass
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", compression_type="gzip", linger_ms=20)
        self.consumer = KafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=group, client_id=f"{group}-reader", auto_offset_reset="earliest", enable_auto_commit=False)
        self.finishing = threading.Event()
        self.acknowledged = None
        self.read = 0

    def produce(self):
        sent = []
        while not self.finishing.wait(TICK):
            sent += [self.producer.send(self.topic, VALUE) for _ in range(self.per_tick)]
            # An answer with an error.
            try:
                self.admin.delete_topics([f"{self.topic}-missing"])
            except KafkaError:
                pass
        self.producer.flush(PATIENCE)
        for each in sent:
            each.get(PATIENCE)
        self.acknowledged = len(sent)

    def consume(self):
        """Reads until it has read all records that were acknowledged."""
        while self.acknowledged is None or self.read < self.acknowledged:
            for records in self.consumer.poll(timeout_ms=200).values():
                self.read += len(records)
        self.consumer.commit()


def main():
    bootstrap, topic, group, rate = sys.argv[1:]
    load = KafkaLoad(bootstrap, topic, group, float(rate))
    threads = [threading.Thread(target=work, daemon=True) for work in (load.produce, load.consume)]
    for thread in threads:
        thread.start()
    print("running", flush=True)
    sys.stdin.readline()
    load.finishing.set()
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            sys.exit(f"{load.read} of {load.acknowledged} records were read within {PATIENCE} s")
    print(json.dumps({"acknowledged": load.acknowledged, "read": load.read}), flush=True)
    sys.stdin.read()


main()
