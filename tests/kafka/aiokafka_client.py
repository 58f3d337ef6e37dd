"""aiokafka for tests/examples/kafka_clients, which runs this against Kafka and against agents and compares the output.

Usage: aiokafka_client.py SCENARIO BOOTSTRAP; prints what a client sees, without what differs between any two runs.
"""

import asyncio
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError

from showing import LIMIT, NOW, show


async def create(bootstrap, topic, partitions):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
        await known(admin, topic, partitions)
    finally:
        await admin.close()


async def known(admin, topic, partitions):
    """Waits until every broker knows that a topic has this many partitions. Any of them answers, and one may learn of a change a moment
    after another one has made it."""
    until = time.monotonic() + LIMIT
    found, times = None, 0
    while times < 10 and time.monotonic() < until:
        described = await admin.describe_topics([topic])
        found = len(described[0]["partitions"])
        times = times + 1 if found == partitions else 0
        await asyncio.sleep(0.1)
    return found


async def records(bootstrap):
    """Records with every codec by an idempotent producer, read by a group of two."""
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        topic = f"aiokafka-{codec}"
        await create(bootstrap, topic, 4)
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, compression_type=codec, enable_idempotence=True, linger_ms=5
        )
        await producer.start()
        futures = [
            await producer.send(
                topic,
                partition=number % 4,
                key=None if number % 5 == 0 else b"key-%d" % number,
                value=b"value-%d" % number,
                headers=[("number", b"%d" % number)],
                timestamp_ms=NOW + number,
            )
            for number in range(400)
        ]
        places = await asyncio.gather(*futures)
        show(f"{codec} places", [(place.partition, place.offset) for place in places[-4:]])
        await producer.stop()
        found = await read_by_group(bootstrap, topic, 400)
        lines = sorted((one.partition, one.offset, one.timestamp - NOW, one.key, one.value, one.headers) for one in found)
        show(f"{codec} read", len(lines))
        show(f"{codec} first", lines[0])
        show(f"{codec} last", lines[-1])


async def read_by_group(bootstrap, topic, count):
    members = [
        AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=topic,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=500,
        )
        for _ in range(2)
    ]
    await asyncio.gather(*(member.start() for member in members))
    until = time.monotonic() + LIMIT
    while sorted(len(member.assignment()) for member in members) != [2, 2] and time.monotonic() < until:
        await asyncio.sleep(0.1)
    found = {}
    while len(found) < count and time.monotonic() < until:
        for member in members:
            for batch in (await member.getmany(timeout_ms=100)).values():
                found.update({(one.partition, one.offset): one for one in batch})
    for member in members:
        await member.commit()
    show("committed", [await members[0].committed(TopicPartition(topic, number)) for number in range(4)])
    for member in members:
        await member.stop()
    return found.values()


async def admin(bootstrap):
    """The life of a topic, and places in it."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    await client.create_topics([NewTopic("aiokafka-admin", 1, 1)])
    show("partitions", await known(client, "aiokafka-admin", 1))
    await client.create_partitions({"aiokafka-admin": NewPartitions(3)})
    show("partitions", await known(client, "aiokafka-admin", 3))
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks=1)
    await producer.start()
    for number in range(10):
        await producer.send_and_wait("aiokafka-admin", b"%d" % number, partition=1, timestamp_ms=NOW + number)
    await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    place = TopicPartition("aiokafka-admin", 1)
    consumer.assign([place])
    show("beginning", list((await consumer.beginning_offsets([place])).values()))
    show("end", list((await consumer.end_offsets([place])).values()))
    found = (await consumer.offsets_for_times({place: NOW + 4}))[place]
    show("at 4 ms", (found.offset, found.timestamp - NOW))
    consumer.seek(place, 7)
    show("from 7", (await consumer.getone(place)).value)
    await consumer.stop()
    await client.delete_topics(["aiokafka-admin"])
    # Any broker answers, and one may learn of the deletion a moment after another one.
    until = time.monotonic() + LIMIT
    gone = 0
    while gone < 10 and time.monotonic() < until:
        gone = 0 if "aiokafka-admin" in await client.list_topics() else gone + 1
        await asyncio.sleep(0.1)
    show("left", gone < 10)
    await client.close()


async def acks(bootstrap):
    """What a producer is told with each number of acknowledgements."""
    await create(bootstrap, "aiokafka-acks", 1)
    for number in [0, 1, "all"]:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks=number)
        await producer.start()
        try:
            place = await producer.send_and_wait("aiokafka-acks", b"%s" % str(number).encode(), partition=0)
            show(f"acks {number}", place and (place.partition, place.offset))
        except KafkaError as error:
            show(f"acks {number}", type(error).__name__)
        await producer.stop()
        # The next producer has another connection, and nobody tells when the first record is there.
        await read_all(bootstrap, "aiokafka-acks", 1)
    found = await read_all(bootstrap, "aiokafka-acks", 3)
    show("read", found)


async def read_all(bootstrap, topic, count):
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    await consumer.seek_to_beginning(place)
    found = []
    until = time.monotonic() + LIMIT
    while len(found) < count and time.monotonic() < until:
        for batch in (await consumer.getmany(timeout_ms=200)).values():
            found.extend(one.value for one in batch)
    await consumer.stop()
    return found


if __name__ == "__main__":
    scenarios = {scenario.__name__: scenario for scenario in [records, admin, acks]}
    asyncio.run(scenarios[sys.argv[1]](sys.argv[2]))
