"""A Kafka client (librdkafka) with the files of a User's Secret, for hack/lib-users.sh.

user_client.py anonymous FOLDER                            ends when it is refused without user and password
user_client.py until-refused FOLDER TOPIC                  produces until the credentials are refused; they may be at once
user_client.py produce FOLDER TOPIC NAMESPACE SECRET STOP  produces until the file STOP exists; reads the Secret all the time and goes on with
                                                           its credentials; fails if a record is not acknowledged
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import time

import confluent_kafka
from confluent_kafka.admin import AdminClient

LIMIT = 60
REFUSED = "_AUTHENTICATION"


def settings():
    """Returns librdkafka.conf of this directory, by which it names its other files."""
    lines = pathlib.Path("librdkafka.conf").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def read_secret(namespace, name):
    """Writes the files of the Secret; returns whether it exists."""
    command = ["kubectl", "--namespace", namespace, "get", "secret", name, "--ignore-not-found", "--output", "json"]
    text = subprocess.run(command, check=True, capture_output=True).stdout
    if not text.strip():
        return False
    for key, value in json.loads(text)["data"].items():
        pathlib.Path(key).write_bytes(base64.b64decode(value))
    return True


def anonymous():
    given = {key: value for key, value in settings().items() if not key.startswith("sasl.")}
    client = AdminClient(given | {"security.protocol": "SSL"})
    try:
        topics = client.list_topics(timeout=5).topics
    except confluent_kafka.KafkaException as error:
        print("refused:", error)
        return
    sys.exit(f"was told {sorted(topics)}")


class NumberProducer:
    """Produces numbers and counts what becomes of them."""

    def __init__(self, topic, given, **more):
        self.topic, self.acknowledged, self.failed, self.sent, self.errors = topic, 0, [], 0, []
        settings = {"enable.idempotence": True, "linger.ms": 0, "reconnect.backoff.max.ms": 2000, "error_cb": self.count_error}
        self.producer = confluent_kafka.Producer(given | settings | more)

    def count_error(self, error):
        self.errors.append(error.name())

    def count(self, error, _):
        if error:
            self.failed.append(str(error))
        else:
            self.acknowledged += 1

    def produce(self):
        self.producer.produce(self.topic, str(self.sent), on_delivery=self.count)
        self.sent += 1
        self.producer.poll(0.1)


def until_refused(topic):
    numbers = NumberProducer(topic, settings())
    end, told = time.monotonic() + LIMIT, False
    while REFUSED not in numbers.errors:
        if time.monotonic() > end:
            sys.exit(f"{numbers.acknowledged} records were acknowledged; errors: {numbers.errors}")
        numbers.produce()
        if numbers.acknowledged and not told:
            told = True
            print("acknowledged", flush=True)
    numbers.producer.purge()
    print(f"refused after {numbers.acknowledged} records")


def produce(topic, namespace, secret, stop):
    while not read_secret(namespace, secret):
        time.sleep(0.1)
    given = settings()
    numbers = NumberProducer(topic, given, **{"message.timeout.ms": LIMIT * 1000})
    begin, others, told = 0, 0, None
    while not os.path.exists(stop):
        numbers.produce()
        read_secret(namespace, secret)
        now = settings()
        if now["sasl.password"] != given["sasl.password"]:
            given, begin, others = now, numbers.sent, others + 1
            numbers.producer.set_sasl_credentials(now["sasl.username"], now["sasl.password"])
        # All until a number are acknowledged, so those with other credentials are too.
        line = f"acknowledged {max(numbers.acknowledged - begin, 0)}"
        line = f"with other credentials: {line}" if others else line
        if line != told:
            told = line
            print(line, flush=True)
    numbers.producer.flush(LIMIT)
    print(f"{numbers.sent} records, {numbers.acknowledged} acknowledged, {len(numbers.failed)} failed, with {others + 1} passwords")
    if numbers.failed or numbers.acknowledged != numbers.sent or others != 1:
        sys.exit(f"failed: {numbers.failed[:3]}; errors: {numbers.errors}")


def main():
    command, folder, *rest = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    rest = [os.path.abspath(part) if "/" in part else part for part in rest]
    os.chdir(folder)
    {"anonymous": anonymous, "until-refused": until_refused, "produce": produce}[command](*rest)


main()
