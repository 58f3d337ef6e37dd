"""A Kafka client for tests/tests/kafka_failures.rs: an idempotent producer and a reader that go on whatever happens.

Usage: kafka_failures.py COMMAND BOOTSTRAP TOPIC COUNT; prints one JSON document.
"""

import json
import sys
import time

from kafka import KafkaConsumer, KafkaProducer


def pipeline(bootstrap, topic, count):
    """Produces numbered records, many requests at a time, and prints where each is stored."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        acks="all",
        batch_size=2_000,
        linger_ms=1,
        max_in_flight_requests_per_connection=5,
        request_timeout_ms=5_000,
        delivery_timeout_ms=90_000,
        retry_backoff_ms=50,
    )
    futures = []
    for number in range(int(count)):
        futures.append(producer.send(topic, value=b"%d" % number))
        if number % 20 == 0:
            time.sleep(0.01)
    places = [future.get(90) for future in futures]
    producer.close()
    return [[place.partition, place.offset] for place in places]


def read(bootstrap, topic, count):
    """Reads records as a member of a group until there are this many, and a moment longer; prints their numbers by place."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id="readers",
        auto_offset_reset="earliest",
        auto_commit_interval_ms=200,
        request_timeout_ms=15_000,
        session_timeout_ms=10_000,
    )
    records = {}
    until = time.monotonic() + 90
    while len(records) < int(count) and time.monotonic() < until:
        for batch in consumer.poll(timeout_ms=200).values():
            records.update({f"{record.partition}-{record.offset}": int(record.value) for record in batch})
    for batch in consumer.poll(timeout_ms=500).values():
        records.update({f"{record.partition}-{record.offset}": int(record.value) for record in batch})
    consumer.close(autocommit=False)
    return records


if __name__ == "__main__":
    commands = {"pipeline": pipeline, "read": read}
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
