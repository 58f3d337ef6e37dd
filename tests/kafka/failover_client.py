"""Producers and a group of confluent-kafka that go on while tests/examples/kafka_clients stops agents.

Usage: failover_client.py BOOTSTRAP TOPIC PARTITIONS; prints `acknowledged N read M` now and then. After SIGTERM it stops producing, waits
until everything is read, compares the log with what was acknowledged, and prints one line of JSON.
"""

import json
import signal
import sys
import threading
import time
from collections import Counter

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

LIMIT = 120
RATE = 1000
stopping = threading.Event()
ending = threading.Event()


def produce(bootstrap, topic, partitions, outcomes):
    """Numbers the records of each partition; a later record has a greater number."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})

    def deliver(error, message):
        if error:
            outcomes["errors"].append(error.name())
        else:
            outcomes["acknowledged"].append((message.partition(), int(message.value())))

    number = 0
    while not stopping.is_set():
        for partition in range(partitions):
            producer.produce(topic, partition=partition, value=b"%d" % number, on_delivery=deliver)
        number += 1
        producer.poll(partitions / RATE)
    outcomes["unsent"] = producer.flush(LIMIT)


def consume(bootstrap, topic, read, errors):
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 500,
            "session.timeout.ms": 10000,
            "heartbeat.interval.ms": 1000,
            "partition.assignment.strategy": "cooperative-sticky",
        }
    )
    consumer.subscribe([topic])
    while not ending.is_set():
        for message in consumer.consume(500, 0.2):
            if message.error():
                errors.append(message.error().name())
            else:
                read.add((message.partition(), int(message.value())))
    consumer.close()


def read_log(bootstrap, topic, partitions):
    """All records, by partition and in their order."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "log", "enable.auto.commit": False})
    log = []
    for partition in range(partitions):
        place = TopicPartition(topic, partition, OFFSET_BEGINNING)
        _, end = consumer.get_watermark_offsets(place, timeout=LIMIT)
        consumer.assign([place])
        records = []
        until = time.monotonic() + LIMIT
        while (not records or records[-1][0] < end - 1) and end > 0 and time.monotonic() < until:
            records += [(one.offset(), int(one.value())) for one in consumer.consume(10000, 0.5) if not one.error()]
        log.append([value for _, value in records])
    consumer.close()
    return log


def main(bootstrap, topic, partitions):
    outcomes = {"acknowledged": [], "errors": [], "unsent": None}
    read, errors = set(), []
    threads = [threading.Thread(target=consume, args=(bootstrap, topic, read, errors)) for _ in range(2)]
    producer = threading.Thread(target=produce, args=(bootstrap, topic, partitions, outcomes))
    for thread in [*threads, producer]:
        thread.start()
    while not stopping.is_set():
        print(f"acknowledged {len(outcomes['acknowledged'])} read {len(read)}", flush=True)
        stopping.wait(0.2)
    producer.join()
    acknowledged = set(outcomes["acknowledged"])
    until = time.monotonic() + LIMIT
    while not acknowledged <= read and time.monotonic() < until:
        time.sleep(0.2)
    ending.set()
    for thread in threads:
        thread.join()
    log = read_log(bootstrap, topic, partitions)
    stored = Counter((partition, value) for partition, values in enumerate(log) for value in values)
    result = {
        "acknowledged": len(acknowledged),
        "delivery_errors": outcomes["errors"][:5],
        "unsent": outcomes["unsent"],
        "lost": sum(stored[record] == 0 for record in acknowledged),
        "twice": sum(count > 1 for count in stored.values()),
        "out_of_order": sum(values != sorted(values) for values in log),
        "unread": len(acknowledged - read),
        "consumer_errors": sorted(set(errors)),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
