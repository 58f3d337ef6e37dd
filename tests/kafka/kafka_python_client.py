"""kafka-python for tests/examples/kafka_clients, which runs this against Kafka and against agents and compares the output.

Usage: kafka_python_client.py SCENARIO BOOTSTRAP [ARGUMENTS]; prints what a client sees, without what differs between any two runs.
"""

import sys
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions, NewTopic
from kafka.errors import KafkaError

from showing import LIMIT, NOW, as_hex, eventually, show


def attempt(title, call):
    """Shows what a call returns or the name of its error."""
    try:
        show(title, call())
    except KafkaError as error:
        show(title, type(error).__name__)


def partitions_of(client, topic):
    found = client.describe_topics([topic])[0]
    return len(found["partitions"])


def create(client, topic, partitions, **config):
    client.create_topics([NewTopic(topic, partitions, 1, topic_configs=config)])
    eventually(lambda: partitions_of(client, topic), partitions)


def records(bootstrap):
    """Records with every codec, produced without and with idempotence, and read by a group."""
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        topic = f"kafka-python-{codec}"
        create(client, topic, 2)
        producer = KafkaProducer(
            bootstrap_servers=bootstrap, acks="all", compression_type=codec, linger_ms=5, enable_idempotence=codec is not None
        )
        futures = [
            producer.send(
                topic,
                partition=number % 2,
                key=None if number % 5 == 0 else b"key-%d" % number,
                value=b"value-%d" % number,
                headers=[("number", b"%d" % number), ("empty", b"")],
                timestamp_ms=NOW + number,
            )
            for number in range(500)
        ]
        producer.flush(LIMIT)
        places = [future.get(LIMIT) for future in futures]
        show(f"{codec} places", [(place.partition, place.offset, place.timestamp - NOW) for place in places[-3:]])
        producer.close()
        consumer = KafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=topic, auto_offset_reset="earliest", enable_auto_commit=False
        )
        found = []
        until = time.monotonic() + LIMIT
        while len(found) < 500 and time.monotonic() < until:
            for batch in consumer.poll(timeout_ms=500).values():
                found.extend(batch)
        consumer.commit()
        lines = sorted((one.partition, one.offset, one.timestamp - NOW, one.key, one.value, one.headers) for one in found)
        show(f"{codec} read", len(lines))
        show(f"{codec} first", lines[0])
        show(f"{codec} last", lines[-1])
        places = [TopicPartition(topic, number) for number in range(2)]
        show(f"{codec} committed", [consumer.committed(place) for place in places])
        show(f"{codec} ends", [consumer.end_offsets([place])[place] for place in places])
        found = consumer.offsets_for_times({places[0]: NOW + 100})[places[0]]
        show(f"{codec} at 100 ms", (found.offset, found.timestamp - NOW))
        consumer.close()
    client.close()


def admin(bootstrap):
    """The life of a topic and of a group."""
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    create(client, "kafka-python-admin", 2, **{"retention.ms": "3600000"})
    attempt("again", lambda: client.create_topics([NewTopic("kafka-python-admin", 2, 1)]))
    client.create_partitions({"kafka-python-admin": NewPartitions(total_count=4)})
    show("partitions", eventually(lambda: partitions_of(client, "kafka-python-admin"), 4))
    consumer = KafkaConsumer("kafka-python-admin", bootstrap_servers=bootstrap, group_id="kafka-python-group")
    until = time.monotonic() + LIMIT
    while len(consumer.assignment()) < 4 and time.monotonic() < until:
        consumer.poll(timeout_ms=200)
    show("assigned", sorted(place.partition for place in consumer.assignment()))
    consumer.close()
    client.delete_topics(["kafka-python-admin"])
    show("left", eventually(lambda: "kafka-python-admin" in client.list_topics(), False))
    client.close()


def dump(bootstrap, topic, partitions, count):
    """Prints records in a form that tests/examples/kafka_clients/protocols.rs writes, too."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, number) for number in range(int(partitions))])
    found = []
    until = time.monotonic() + LIMIT
    while len(found) < int(count) and time.monotonic() < until:
        for batch in consumer.poll(timeout_ms=500).values():
            found.extend(batch)
    consumer.close()
    for one in sorted(found, key=lambda one: (one.partition, one.offset)):
        headers = ",".join(f"{name}={as_hex(value)}" for name, value in one.headers)
        print(f"{one.partition} {one.offset} {one.timestamp} {as_hex(one.key)} {as_hex(one.value)} [{headers}]")


if __name__ == "__main__":
    {scenario.__name__: scenario for scenario in [records, admin, dump]}[sys.argv[1]](*sys.argv[2:])
