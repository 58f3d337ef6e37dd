"""A Kafka client for tests/tests/kafka_listeners.rs: kafka-python by one listener of a running cluster.

Usage: kafka_listeners.py COMMAND BOOTSTRAP CA [ARGUMENTS]; without TLS if CA is empty. Prints one JSON document.
"""

import json
import sys
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer


def connection(bootstrap, ca):
    """Returns how to connect. Certificates must have the host names that the brokers advertise."""
    secure = {"security_protocol": "SSL", "ssl_cafile": ca, "ssl_check_hostname": True}
    return {"bootstrap_servers": bootstrap, **(secure if ca else {})}


def brokers(bootstrap, ca, count):
    """Prints the addresses of the brokers once there are so many."""
    client = KafkaAdminClient(**connection(bootstrap, ca))
    until = time.monotonic() + 60
    while len(found := client.describe_cluster()["brokers"]) != int(count) and time.monotonic() < until:
        time.sleep(0.1)
    client.close()
    return sorted(f"{broker['host']}:{broker['port']}" for broker in found)


def pass_records(bootstrap, ca, topic, count):
    """Produces numbered records, and prints those that a group reads."""
    producer = KafkaProducer(acks="all", **connection(bootstrap, ca))
    sent = [producer.send(topic, key=b"%d" % number, value=b"%d" % number) for number in range(int(count))]
    for future in sent:
        future.get(60)
    producer.close()
    consumer = KafkaConsumer(
        topic, group_id=f"readers of {topic}", auto_offset_reset="earliest", **connection(bootstrap, ca)
    )
    read = []
    until = time.monotonic() + 60
    while len(read) < int(count) and time.monotonic() < until:
        for batch in consumer.poll(timeout_ms=500).values():
            read.extend(int(record.value) for record in batch)
    consumer.close()
    return sorted(read)


if __name__ == "__main__":
    commands = {"brokers": brokers, "pass_records": pass_records}
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
