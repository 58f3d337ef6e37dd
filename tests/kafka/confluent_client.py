"""confluent-kafka (librdkafka) for tests/examples/kafka_clients, which runs this against Kafka and against agents and compares the output.

Usage: confluent_client.py SCENARIO BOOTSTRAP [ARGUMENTS]; prints what a client sees, without what differs between any two runs.
"""

import hashlib
import sys
import time

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from showing import LIMIT, NOW, as_hex, eventually, show


def failure(error):
    """The name of an error, without its text."""
    if isinstance(error, KafkaException):
        error = error.args[0]
    return error.name() if isinstance(error, KafkaError) else type(error).__name__


def attempt(title, call):
    """Shows what a call returns or the name of its error."""
    try:
        result = call()
        show(title, "ok" if result is None else result)
        return result
    except (KafkaException, ValueError) as error:
        show(title, failure(error))
        return None


def short(name):
    return f"{name.topic}-{name.partition}" if isinstance(name, TopicPartition) else name[:20]


def each(title, futures, describe=lambda result: "ok"):
    """Shows the result of each of the futures that an admin call returns."""
    named = {short(name): future for name, future in futures.items()}
    for name, future in sorted(named.items()):
        try:
            show(f"{title} {name}", describe(future.result(LIMIT)))
        except KafkaException as error:
            show(f"{title} {name}", failure(error))


def create(admin, topic, partitions, **config):
    for future in admin.create_topics([NewTopic(topic, partitions, 1, config=config)]).values():
        future.result(LIMIT)
    eventually(lambda: known_partitions(admin, topic), partitions)


def known_partitions(admin, topic):
    found = admin.list_topics(timeout=LIMIT).topics.get(topic)
    return len(found.partitions) if found else 0


def described(message):
    return (
        message.partition(),
        message.offset(),
        message.timestamp()[0],
        message.timestamp()[1] - NOW,
        message.key(),
        message.value(),
        message.headers(),
    )


def read_all(bootstrap, topic, partitions, count, **config):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, **config})
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
    messages = []
    until = time.monotonic() + LIMIT
    while len(messages) < count and time.monotonic() < until:
        for message in consumer.consume(count - len(messages), 1.0):
            if message.error():
                raise KafkaException(message.error())
            messages.append(message)
    consumer.close()
    return messages


def show_messages(title, messages):
    lines = sorted(described(message) for message in messages)
    digest = hashlib.sha256(repr(lines).encode()).hexdigest()
    show(title, f"{len(lines)} records, {digest[:16]}")
    for line in lines[:2] + lines[-2:]:
        show(title, line)


def codecs(bootstrap):
    """Records of all kinds by an idempotent producer with every codec, read back as they were."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        topic = f"codec-{codec}"
        create(admin, topic, 3)
        places = []
        producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "compression.type": codec,
                "linger.ms": 20,
                "batch.num.messages": 100,
            }
        )
        for number in range(900):
            producer.produce(
                topic,
                partition=number % 3,
                key=None if number % 10 == 0 else b"key-%d" % number,
                value=None if number % 7 == 0 else b"value-%d " % number * (number % 20),
                headers=[("number", b"%d" % number), ("empty", b""), ("null", None)] if number % 2 else None,
                timestamp=NOW + number,
                on_delivery=lambda error, message: places.append((str(error), message.partition(), message.offset())),
            )
        show(f"{codec} unsent", producer.flush(LIMIT))
        show(f"{codec} places", hashlib.sha256(repr(sorted(places)).encode()).hexdigest()[:16])
        show_messages(codec, read_all(bootstrap, topic, 3, 900))


class Member:
    """A member of a group, which counts its rebalances."""

    def __init__(self, bootstrap, group, topic, **config):
        self.rebalances = 0
        self.read = []
        self.errors = []
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": 10000,
                "heartbeat.interval.ms": 500,
                **config,
            }
        )
        self.consumer.subscribe([topic], on_assign=self.changed, on_revoke=self.changed)

    def changed(self, _consumer, _partitions):
        self.rebalances += 1

    def poll(self):
        for message in self.consumer.consume(100, 0.1):
            if message.error():
                self.errors.append(failure(message.error()))
            else:
                self.read.append(message.value())

    def partitions(self):
        return sorted(partition.partition for partition in self.consumer.assignment())


def poll_until(members, condition):
    until = time.monotonic() + LIMIT
    while not condition() and time.monotonic() < until:
        for member in members:
            member.poll()
    return condition()


def has_shares(members, sizes):
    return lambda: sorted(len(member.partitions()) for member in members) == sizes


def produce_values(bootstrap, topic, first, last, partitions):
    producer = Producer({"bootstrap.servers": bootstrap})
    for number in range(first, last):
        producer.produce(topic, partition=number % partitions, value=b"%d" % number)
    show("unsent", producer.flush(LIMIT))


def committed(bootstrap, group, topic, partitions):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    found = consumer.committed([TopicPartition(topic, number) for number in range(partitions)], timeout=LIMIT)
    consumer.close()
    return [partition.offset for partition in found]


def groups(bootstrap):
    """Members come and go with every strategy of assignment; every record is read once."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for strategy in ["range", "roundrobin", "cooperative-sticky"]:
        topic = f"group-{strategy}"
        create(admin, topic, 6)
        config = {"partition.assignment.strategy": strategy}
        first = Member(bootstrap, topic, topic, **config)
        show(f"{strategy} alone", poll_until([first], has_shares([first], [6])))
        second = Member(bootstrap, topic, topic, **config)
        members = [first, second]
        show(f"{strategy} two", poll_until(members, has_shares(members, [3, 3])))
        shares = sorted(member.partitions() for member in members)
        show(f"{strategy} shares", sorted(sum(shares, [])) if strategy == "cooperative-sticky" else shares)
        produce_values(bootstrap, topic, 0, 600, 6)
        show(f"{strategy} read", poll_until(members, lambda: sum(len(member.read) for member in members) >= 600))
        for member in members:
            member.consumer.commit(asynchronous=False)
        second.consumer.close()
        show(f"{strategy} one left", poll_until([first], has_shares([first], [6])))
        produce_values(bootstrap, topic, 600, 660, 6)
        show(f"{strategy} rest", poll_until([first], lambda: len(first.read) + len(second.read) >= 660))
        first.consumer.commit(asynchronous=False)
        read = sorted(int(value) for value in first.read + second.read)
        show(f"{strategy} each once", read == list(range(660)))
        show(f"{strategy} errors", first.errors + second.errors)
        first.consumer.close()
        show(f"{strategy} committed", committed(bootstrap, topic, topic, 6))


def static_members(bootstrap):
    """A static member that comes back keeps its partitions, and the group does not rebalance."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topic = "static"
    create(admin, topic, 4)
    config = {"partition.assignment.strategy": "range", "session.timeout.ms": 30000}
    first = Member(bootstrap, topic, topic, **{**config, "group.instance.id": "one"})
    second = Member(bootstrap, topic, topic, **{**config, "group.instance.id": "two"})
    show("two", poll_until([first, second], has_shares([first, second], [2, 2])))
    # Both have seen the last generation.
    for _ in range(10):
        first.poll(), second.poll()
    before, rebalances = second.partitions(), first.rebalances
    second.consumer.close()
    second = Member(bootstrap, topic, topic, **{**config, "group.instance.id": "two"})
    show("back", poll_until([first, second], has_shares([first, second], [2, 2])))
    show("same partitions", second.partitions() == before)
    show("others undisturbed", first.rebalances == rebalances)
    usurper = Member(bootstrap, topic, topic, **{**config, "group.instance.id": "two"})
    show("fenced", poll_until([first, second, usurper], lambda: second.errors != []))
    show("error", second.errors[:1])
    described = admin.describe_consumer_groups([topic])[topic].result(LIMIT)
    show("state", described.state.name)
    show("members", sorted(member.group_instance_id for member in described.members))
    for member in [first, usurper]:
        member.consumer.close()


def topics(bootstrap):
    """The life of topics: created, refused, grown, deleted."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    each("validate", admin.create_topics([NewTopic("checked", 2, 1)], validate_only=True))
    show("validated only", known_partitions(admin, "checked"))
    each("create", admin.create_topics([NewTopic("made", 2, 1), NewTopic("other", 1, 1)]))
    show("partitions", eventually(lambda: known_partitions(admin, "made"), 2))
    each("again", admin.create_topics([NewTopic("made", 2, 1)]))
    each("again validated", admin.create_topics([NewTopic("made", 2, 1)], validate_only=True))
    each("none", admin.create_topics([NewTopic("empty", 0, 1)]))
    for name in ["bad name", "..", "x" * 250, "", "a/b"]:
        each("bad name", admin.create_topics([NewTopic(name, 1, 1)]))
    each("bad setting", admin.create_topics([NewTopic("bad", 1, 1, config={"retention.ms": "soon"})]))
    each("unknown setting", admin.create_topics([NewTopic("bad", 1, 1, config={"no.such": "1"})]))
    each("grow", admin.create_partitions([NewPartitions("made", 5)], validate_only=True))
    each("grow", admin.create_partitions([NewPartitions("made", 5)]))
    show("partitions", eventually(lambda: known_partitions(admin, "made"), 5))
    each("shrink", admin.create_partitions([NewPartitions("made", 3)]))
    each("same", admin.create_partitions([NewPartitions("made", 5)]))
    each("grow unknown", admin.create_partitions([NewPartitions("nothing", 5)]))
    each("describe", admin.describe_topics(TopicCollection(["made"])), lambda topic: (len(topic.partitions), topic.is_internal))
    each("describe", admin.describe_topics(TopicCollection(["nothing"])))
    each("delete", admin.delete_topics(["made", "nothing"]))
    show("partitions", eventually(lambda: known_partitions(admin, "made"), 0))
    each("create", admin.create_topics([NewTopic("made", 1, 1)]))
    show("partitions", eventually(lambda: known_partitions(admin, "made"), 1))
    show("empty", len(read_all_now(bootstrap, "made")))
    cluster = admin.describe_cluster().result(LIMIT)
    show("cluster", (cluster.controller.id in [node.id for node in cluster.nodes], cluster.cluster_id is not None))


def read_all_now(bootstrap, topic):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    messages = consumer.consume(100, 1.0)
    consumer.close()
    return messages


def entries(config, *names):
    return {name: (config[name].value, config[name].is_default) for name in names}


def configs(bootstrap):
    """Settings of topics: read, set, and set one by one."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    create(admin, "set", 1, **{"retention.ms": "3600000"})
    topic = lambda: ConfigResource(ResourceType.TOPIC, "set")
    names = ["retention.ms", "max.message.bytes", "cleanup.policy", "message.timestamp.type"]
    read = lambda: list(admin.describe_configs([topic()]).values())[0].result(LIMIT)
    show("created", entries(read(), *names))
    for title, kind, name, value in [
        ("set", AlterConfigOpType.SET, "max.message.bytes", "2000"),
        ("set", AlterConfigOpType.SET, "cleanup.policy", "compact"),
        ("delete", AlterConfigOpType.DELETE, "retention.ms", None),
        ("append", AlterConfigOpType.APPEND, "cleanup.policy", "delete"),
        ("subtract", AlterConfigOpType.SUBTRACT, "cleanup.policy", "delete"),
        ("append to no list", AlterConfigOpType.APPEND, "retention.ms", "1"),
        ("bad value", AlterConfigOpType.SET, "retention.ms", "soon"),
        ("negative", AlterConfigOpType.SET, "max.message.bytes", "-1"),
        ("unknown", AlterConfigOpType.SET, "no.such", "1"),
    ]:
        entry = ConfigEntry(name, value, incremental_operation=kind)
        resource = ConfigResource(ResourceType.TOPIC, "set", incremental_configs=[entry])
        outcomes = list(admin.incremental_alter_configs([resource]).values())
        attempt(f"{title} {name}", lambda: outcomes[0].result(LIMIT))
    wanted = {"max.message.bytes": ("2000", False), "cleanup.policy": ("compact", False), "retention.ms": ("604800000", True)}
    eventually(lambda: entries(read(), *wanted), wanted)
    show("altered", entries(read(), *names))
    whole = ConfigResource(ResourceType.TOPIC, "set", set_config={"retention.ms": "7200000"})
    attempt("alter all", lambda: list(admin.alter_configs([whole]).values())[0].result(LIMIT))
    wanted = {"max.message.bytes": ("1048588", True), "retention.ms": ("7200000", False)}
    eventually(lambda: entries(read(), *wanted), wanted)
    show("replaced", entries(read(), *names))
    unknown = ConfigResource(ResourceType.TOPIC, "nothing")
    attempt("unknown topic", lambda: list(admin.describe_configs([unknown]).values())[0].result(LIMIT))
    node = next(iter(admin.list_topics(timeout=LIMIT).brokers))
    broker = ConfigResource(ResourceType.BROKER, str(node))
    found = list(admin.describe_configs([broker]).values())[0].result(LIMIT)
    show("broker", [name in found for name in ["log.retention.ms", "message.max.bytes", "auto.create.topics.enable"]])


def group_admin(bootstrap):
    """Groups as an operator sees them."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    create(admin, "watched", 2)
    produce_values(bootstrap, "watched", 0, 10, 2)
    member = Member(bootstrap, "watchers", "watched", **{"client.id": "watcher", "partition.assignment.strategy": "range"})
    show("read", poll_until([member], lambda: len(member.read) >= 10))
    member.consumer.commit(asynchronous=False)
    listed = admin.list_consumer_groups().result(LIMIT)
    show("listed", [(group.group_id, group.state.name, group.type.name) for group in listed.valid if group.group_id == "watchers"])
    group = admin.describe_consumer_groups(["watchers"])["watchers"].result(LIMIT)
    show("described", (group.state.name, group.partition_assignor, group.is_simple_consumer_group))
    shares = [(one.client_id, sorted((part.topic, part.partition) for part in one.assignment.topic_partitions)) for one in group.members]
    show("members", shares)
    each("delete with members", admin.delete_consumer_groups(["watchers"]))
    offsets = lambda partitions: ConsumerGroupTopicPartitions("watchers", partitions)
    show_offsets = lambda result: [
        (part.topic, part.partition, failure(part.error) if part.error else part.offset) for part in result.topic_partitions
    ]
    each("alter with members", admin.alter_consumer_group_offsets([offsets([TopicPartition("watched", 0, 1)])]), show_offsets)
    member.consumer.close()
    group = admin.describe_consumer_groups(["watchers"])["watchers"].result(LIMIT)
    show("left", (group.state.name, len(group.members)))
    each("offsets", admin.list_consumer_group_offsets([offsets(None)]), show_offsets)
    each("alter", admin.alter_consumer_group_offsets([offsets([TopicPartition("watched", 0, 1)])]), show_offsets)
    each("offsets", admin.list_consumer_group_offsets([offsets(None)]), show_offsets)
    each("delete", admin.delete_consumer_groups(["watchers"]))
    each("delete unknown", admin.delete_consumer_groups(["nobody"]))
    each("describe unknown", admin.describe_consumer_groups(["nobody"]), lambda group: group.state.name)
    each("offsets unknown", admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("nobody")]), show_offsets)
    show("committed", committed(bootstrap, "watchers", "watched", 2))


def offsets(bootstrap):
    """Offsets by place and by time, records deleted from the beginning, and reading outside the log."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    create(admin, "timed", 1)
    producer = Producer({"bootstrap.servers": bootstrap, "batch.num.messages": 10})
    for number in range(100):
        producer.produce("timed", partition=0, value=b"%d" % number, timestamp=NOW + number * 1000)
    show("unsent", producer.flush(LIMIT))
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "offsets", "auto.offset.reset": "error"})
    show("watermarks", consumer.get_watermark_offsets(TopicPartition("timed", 0), timeout=LIMIT))
    for second in [-10, 0, 1, 50, 99, 100]:
        found = consumer.offsets_for_times([TopicPartition("timed", 0, NOW + second * 1000 - 500)], timeout=LIMIT)
        show(f"at {second} s", found[0].offset)
    place = TopicPartition("timed", 0)
    specs = {
        "earliest": OffsetSpec.earliest(),
        "latest": OffsetSpec.latest(),
        "time": OffsetSpec.for_timestamp(NOW + 5000),
        "greatest": OffsetSpec.max_timestamp(),
    }
    for title, spec in specs.items():
        level = IsolationLevel.READ_UNCOMMITTED
        found = admin.list_offsets({place: spec}, isolation_level=level)
        each(title, found, lambda result: (result.offset, result.timestamp - NOW if result.timestamp > 0 else result.timestamp))
    each("delete to 40", admin.delete_records([TopicPartition("timed", 0, 40)]), lambda result: result.low_watermark)
    each("delete to 20", admin.delete_records([TopicPartition("timed", 0, 20)]), lambda result: result.low_watermark)
    each("delete past the end", admin.delete_records([TopicPartition("timed", 0, 1000)]))
    each("delete unknown", admin.delete_records([TopicPartition("timed", 7, 1)]))
    show("watermarks", consumer.get_watermark_offsets(TopicPartition("timed", 0), timeout=LIMIT))
    for offset in [10, 40, 99, 101, 1000]:
        consumer.assign([TopicPartition("timed", 0, offset)])
        message = consumer.poll(10)
        show(f"from {offset}", message and (failure(message.error()) if message.error() else message.value()))
    consumer.close()


def refusals(bootstrap):
    """What a broker refuses, and the errors that a client gets."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    create(admin, "small", 1, **{"max.message.bytes": "2000"})
    outcomes = []
    deliver = lambda error, message: outcomes.append(failure(error) if error else "ok")
    producer = Producer({"bootstrap.servers": bootstrap, "message.timeout.ms": 5000})
    for value in [b"x" * 100, b"x" * 3000]:
        producer.produce("small", value=value, on_delivery=deliver)
        producer.flush(LIMIT)
    show("sizes", outcomes)
    outcomes.clear()
    attempt("partition", lambda: producer.produce("small", partition=3, value=b"x", on_delivery=deliver))
    # At once or on delivery: it depends on whether the client has read the topic's metadata by then.
    try:
        producer.produce("bad name", value=b"x", on_delivery=deliver)
    except KafkaException as error:
        outcomes.append(failure(error))
    producer.flush(LIMIT)
    show("bad name", outcomes)
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    created = lambda error, message: show("created", failure(error) if error else message.offset())
    producer.produce("made-by-producer", value=b"x", on_delivery=created)
    producer.flush(LIMIT)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "refused", "allow.auto.create.topics": False})
    consumer.subscribe(["absent"])
    message = consumer.poll(10)
    show("subscribe", message and failure(message.error()))
    attempt("commit", lambda: consumer.commit(offsets=[TopicPartition("absent", 0, 5)], asynchronous=False))
    consumer.close()
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "hasty", "session.timeout.ms": 1000})
    consumer.subscribe(["small"])
    message = consumer.poll(10)
    show("session time-out", message and failure(message.error()))
    consumer.close()


def write(bootstrap, topic, partitions, count):
    """Writes records of all kinds, for another protocol to read."""
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "zstd", "linger.ms": 20})
    for number in range(int(count)):
        producer.produce(
            topic,
            partition=number % int(partitions),
            key=[None, b"", b"key-%d" % number][number % 3],
            value=[None, b"", bytes(range(256)), b"value-%d" % number][number % 4],
            headers=[("name", b"%d" % number), ("name", b"again"), ("null", None), ("empty", b"")][: number % 5],
            timestamp=NOW + number,
        )
    show("unsent", producer.flush(LIMIT))


def dump(bootstrap, topic, partitions, count):
    """Prints records in a form that tests/examples/kafka_clients/protocols.rs writes, too."""
    for message in sorted(read_all(bootstrap, topic, int(partitions), int(count)), key=lambda one: (one.partition(), one.offset())):
        headers = ",".join(f"{name}={as_hex(value)}" for name, value in message.headers() or [])
        place = f"{message.partition()} {message.offset()} {message.timestamp()[1]}"
        print(f"{place} {as_hex(message.key())} {as_hex(message.value())} [{headers}]")


if __name__ == "__main__":
    scenarios = [codecs, groups, static_members, topics, configs, group_admin, offsets, refusals, write, dump]
    {scenario.__name__: scenario for scenario in scenarios}[sys.argv[1]](*sys.argv[2:])
