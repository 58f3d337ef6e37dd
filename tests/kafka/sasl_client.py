"""A Kafka client with a user and a password, for the scenario `authentication` of tests/examples/kafka_clients.

Usage: sasl_client.py CLIENT BOOTSTRAP MECHANISM USER PASSWORD CA, where CLIENT is confluent-kafka or kafka-python, and CA a PEM file, or empty
for a listener without TLS. Lists the topics again and again. Prints "ok" after the first answer; prints "refused" and ends when the
authentication fails.
"""

import logging
import os
import sys
import time

LIMIT = 60
# A refused client connects again at once otherwise, and agents count failures by address.
BACKOFF_MS = 5000


def confluent(bootstrap, mechanism, user, password, ca):
    """Returns a function that lists the topics, and the errors that the client reports in the background."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    errors = []
    settings = {
        "bootstrap.servers": bootstrap,
        "security.protocol": "SASL_SSL" if ca else "SASL_PLAINTEXT",
        "sasl.mechanisms": mechanism,
        "sasl.username": user,
        "sasl.password": password,
        "error_cb": lambda error: errors.append(error.name()),
        "reconnect.backoff.ms": BACKOFF_MS,
    }
    client = AdminClient({**settings, **({"ssl.ca.location": ca} if ca else {})})

    def use():
        client.poll(0)
        try:
            client.list_topics(timeout=1)
        except KafkaException as error:
            return error.args[0].name()

    return use, lambda: "_AUTHENTICATION" in errors


class Disconnections(logging.Handler):
    """Ends when kafka-python connects in vain. It tries again until its time is over, and names no reason."""

    def __init__(self):
        super().__init__()
        # A connection that was accepted ends first, and then the next one.
        self.accepted = 0

    def emit(self, record):
        if "Connection lost" not in record.getMessage():
            return
        self.accepted -= 1
        if self.accepted < 0:
            print("refused", flush=True)
            os._exit(0)


def kafka_python(bootstrap, mechanism, user, password, ca):
    """The same with kafka-python. Of a refusal it sees the disconnection; the scenario asks the agent for the reason."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    disconnections = Disconnections()
    logging.getLogger("kafka").addHandler(disconnections)
    clients = []

    def use():
        try:
            if not clients:
                client = KafkaAdminClient(
                    bootstrap_servers=bootstrap,
                    security_protocol="SASL_SSL" if ca else "SASL_PLAINTEXT",
                    ssl_cafile=ca or None,
                    sasl_mechanism=mechanism,
                    sasl_plain_username=user,
                    sasl_plain_password=password,
                )
                clients.append(client)
            clients[0].list_topics()
            disconnections.accepted = 1
        except KafkaError as error:
            return repr(error)

    return use, lambda: False


def main(client, *given):
    use, is_refused = {"confluent-kafka": confluent, "kafka-python": kafka_python}[client](*given)
    until = time.monotonic() + LIMIT
    accepted = False
    while time.monotonic() < until:
        error = use()
        if error is None and not accepted:
            accepted = True
            print("ok", flush=True)
        if error is not None:
            print(error, file=sys.stderr, flush=True)
        if is_refused():
            print("refused", flush=True)
            return
        time.sleep(0.2)
    sys.exit("neither refused nor ended in time")


if __name__ == "__main__":
    main(*sys.argv[1:])
