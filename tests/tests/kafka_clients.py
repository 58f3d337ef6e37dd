"""A Kafka client for tests/tests/kafka_clients.rs: kafka-python against a running cluster.

Usage: kafka_clients.py COMMAND BOOTSTRAP [ARGUMENTS]; prints one JSON document.
"""

import json
import sys
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, NewPartitions, NewTopic


def produce(bootstrap, topic, count, codec, first_timestamp):
    """Produces numbered records with keys, headers and timestamps, and prints their places."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        compression_type=None if codec == "none" else codec,
        linger_ms=5,
    )
    futures = [
        producer.send(
            topic,
            key=b"key-%d" % number,
            value=b"value-%d" % number,
            headers=[("number", b"%d" % number)],
            timestamp_ms=int(first_timestamp) + number,
        )
        for number in range(int(count))
    ]
    producer.flush(60)
    places = [future.get(10) for future in futures]
    producer.close()
    return [[place.partition, place.offset] for place in places]


def described(record):
    return {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": record.key and record.key.decode(),
        "value": record.value and record.value.decode(),
        "headers": [[name, value.decode()] for name, value in record.headers],
    }


def consume(bootstrap, topic, group, count):
    """Reads records as a member of a group, commits, and prints them."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=10_000,
    )
    records = []
    until = time.monotonic() + 60
    while len(records) < int(count) and time.monotonic() < until:
        for batch in consumer.poll(timeout_ms=500).values():
            records.extend(batch)
    consumer.commit()
    consumer.close()
    return [described(record) for record in records]


def offsets(bootstrap, topic, timestamp):
    """Prints the beginning, the end and the offset of a timestamp of partition 0."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    place = TopicPartition(topic, 0)
    found = consumer.offsets_for_times({place: int(timestamp)})[place]
    result = {
        "beginning": consumer.beginning_offsets([place])[place],
        "end": consumer.end_offsets([place])[place],
        "at": found and [found.offset, found.timestamp],
    }
    consumer.close()
    return result


def eventually(read, wanted):
    """Reads until the result is the wanted one: a broker may learn of a change a moment after another one has made it."""
    until = time.monotonic() + 30
    while (result := read()) != wanted and time.monotonic() < until:
        time.sleep(0.1)
    return result


def admin(bootstrap, topic):
    """Goes through the life of a topic."""
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    client.create_topics([NewTopic(topic, 2, 3, topic_configs={"retention.ms": "60000"})])
    eventually(lambda: topic in client.list_topics(), True)
    client.create_partitions({topic: NewPartitions(total_count=4)})
    partitions = eventually(lambda: len(client.describe_topics([topic])[0]["partitions"]), 4)
    client.delete_topics([topic])
    left = eventually(lambda: topic in client.list_topics(), False)
    client.close()
    return {"partitions": partitions, "left": left}


def inspect(bootstrap, topic, group):
    """Prints what administrators ask of a topic with records of an idempotent producer, and changes its settings."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    now = int(time.time() * 1000)
    for age in (5000, 1000, 3000):
        producer.send(topic, b"some bytes", partition=0, timestamp_ms=now - age)
        producer.flush(60)
    producer.close()
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    place = TopicPartition(topic, 0)
    greatest = client.list_partition_offsets({place: -3})[place]
    directories = client.describe_log_dirs([topic])
    sizes = {
        (partition["partition_index"], partition["partition_size"])
        for broker in directories
        for directory in broker["log_dirs"]
        for found in directory["topics"]
        for partition in found["partitions"]
    }
    page = client.describe_topic_partitions([topic], response_partition_limit=1)
    producers = client.describe_producers([place])[place].active_producers

    def policy():
        resource = ConfigResource("topic", topic)
        found = client.describe_configs([resource], config_filter="all")
        return found["topic"][topic]["cleanup.policy"]["value"]

    change = {"cleanup.policy": ("append", "compact"), "min.insync.replicas": "2"}
    client.alter_configs([ConfigResource("topic", topic, change)])
    changed = eventually(policy, "delete,compact")
    client.alter_group_offsets(group, {place: OffsetAndMetadata(1, "", -1)})
    deleted = client.delete_group_offsets(group, [place])
    reassigned = client.list_partition_reassignments()
    client.close()
    return {
        "greatest": [greatest.offset, greatest.timestamp - now],
        "sized": sorted(index for index, size in sizes if size > 0),
        "page": [len(page["topics"][0]["partitions"]), page["next_cursor"]["partition_index"]],
        "last_sequences": [found.last_sequence for found in producers],
        "policy": changed,
        "deleted": [error.__name__ for error in deleted.values()],
        "reassigned": len(reassigned),
    }


if __name__ == "__main__":
    commands = {
        "produce": produce,
        "consume": consume,
        "offsets": offsets,
        "admin": admin,
        "inspect": inspect,
    }
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
