"""A member of a group of the consumer protocol (KIP-848), for tests/tests/kafka_consumer_groups: librdkafka.

Usage: consumer_group_member.py BOOTSTRAP GROUP TOPIC CLIENT_ID; prints the value of each record after an attempt to commit
its offset, until it is told to end.
"""

import signal
import sys

from confluent_kafka import Consumer, KafkaException

running = True


def end(*_):
    global running
    running = False


def main(bootstrap, group, topic, client_id):
    signal.signal(signal.SIGTERM, end)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "client.id": client_id,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    while running:
        records = consumer.consume(100, timeout=0.2)
        values = []
        for record in records:
            if record.error() is None:
                values.append(record.value().decode())
            else:
                print(record.error(), file=sys.stderr, flush=True)
        if not values:
            continue
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as error:
            # The partitions have moved, or the coordinator has: another member, or this one, reads them again.
            print(error, file=sys.stderr, flush=True)
        print("\n".join(values), flush=True)
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
