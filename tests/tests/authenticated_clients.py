"""Kafka clients with a user and a password for tests/tests/authentication.rs: kafka-python and confluent-kafka.

Usage: authenticated_clients.py BOOTSTRAP USER PASSWORD_FILE. Prints as JSON, for each client and mechanism, the topics that the user sees, and
the errors that confluent-kafka gets with a wrong password; kafka-python tries that until its time is over and names no reason.
"""

import json
import pathlib
import sys
import time

import confluent_kafka
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient

LIMIT = 60
MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
REFUSED = "_AUTHENTICATION"


def kafka_python_topics(bootstrap, mechanism, user, password):
    client = KafkaAdminClient(
        bootstrap_servers=bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism=mechanism,
        sasl_plain_username=user,
        sasl_plain_password=password,
    )
    topics = client.list_topics()
    client.close()
    return sorted(topics)


def confluent_client(bootstrap, mechanism, user, password, errors):
    """Returns a client that adds the names of its errors to a list."""
    settings = {
        "bootstrap.servers": bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": mechanism,
        "sasl.username": user,
        "sasl.password": password,
        "error_cb": lambda error: errors.append(error.name()),
        # A wrong password is tried again and again, and agents count failures by address.
        "reconnect.backoff.ms": 5000,
    }
    return AdminClient(settings)


def confluent_topics(*given):
    return sorted(confluent_client(*given, []).list_topics(timeout=LIMIT).topics)


def confluent_refusal(*given):
    """Returns the error of the authentication, or else all errors and topics until the time is over."""
    seen = []
    client = confluent_client(*given, seen)
    until = time.monotonic() + LIMIT
    while REFUSED not in seen and time.monotonic() < until:
        client.poll(0)
        try:
            seen.extend(client.list_topics(timeout=1).topics)
        except confluent_kafka.KafkaException as error:
            seen.append(error.args[0].name())
    return REFUSED if REFUSED in seen else seen


def main(bootstrap, user, password_file):
    password = pathlib.Path(password_file).read_text(encoding="utf-8")
    of_each = lambda call, given: {mechanism: call(bootstrap, mechanism, user, given) for mechanism in MECHANISMS}
    return {
        "kafka-python": of_each(kafka_python_topics, password),
        "confluent-kafka": of_each(confluent_topics, password),
        "with a wrong password": of_each(confluent_refusal, "wrong"),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
