"""Record batches as kafka-python has them, for core/tests/kafka_python.rs.

`encode` prints one JSON line for each batch that it builds; `decode` reads lines with the bytes of batches back to back
and prints what it finds in them. Bytes are hexadecimal; null is null.
"""

import json
import sys

import lz4.frame
import snappy
from kafka.record import default_records
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

# (timestamp, key, value, headers)
RECORDS = [
    (1_700_000_000_000, b"key", b"value", [("header", b"one"), ("header", b"two"), ("none", None), ("", b"")]),
    (1_700_000_000_005, None, b"no key", []),
    (1_699_999_999_000, b"tombstone", None, []),
    (1_700_000_000_001, b"", b"", [("empty", b"")]),
    (1_700_000_000_002, None, None, [("schlüssel-日本", bytes(range(256)))]),
    (1_700_000_100_000, b"long" * 100, b"again and again " * 20_000, []),
] + [(1_700_000_000_000 + n, b"k%d" % n, b"record %d of many that look the same" % n, []) for n in range(1000)]


def lz4_with_everything(payload):
    return lz4.frame.compress(
        payload, block_linked=True, block_checksum=True, content_checksum=True, block_size=lz4.frame.BLOCKSIZE_MAX256KB
    )


def text(data):
    return None if data is None else bytes(data).hex()


def record(offset, timestamp, key, value, headers):
    headers = [[name, text(data)] for name, data in headers]
    return {"offset": offset, "timestamp": timestamp, "key": text(key), "value": text(value), "headers": headers}


def encode_one(name, codec, producer, transactional=False):
    producer_id, epoch, sequence = producer
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], transactional, producer_id, epoch, sequence, 1 << 30)
    for offset, fields in enumerate(RECORDS):
        assert builder.append(offset, *fields) is not None
    batch = bytes(builder.build())
    return {
        "name": name,
        "codec": codec,
        "producer": producer,
        "transactional": transactional,
        "bytes": batch.hex(),
        "records": [record(offset, *fields) for offset, fields in enumerate(RECORDS)],
    }


def encode():
    for codec in CODECS:
        yield encode_one(codec, codec, [-1, -1, -1])
        yield encode_one(codec + " idempotent", codec, [1 << 40, 32_000, (1 << 31) - 1])
    yield encode_one("transactional", "lz4", [5, 6, 7], transactional=True)
    default_records.lz4_encode = lz4_with_everything
    yield encode_one("lz4 linked, with checksums", "lz4", [-1, -1, -1])
    default_records.snappy_encode = snappy.compress
    yield encode_one("snappy without frame", "snappy", [-1, -1, -1])


def decode_one(data):
    records = MemoryRecords(data)
    while records.has_next():
        batch = records.next_batch()
        head = {
            "crc_is_right": batch.validate_crc(),
            "base_offset": batch.base_offset,
            "leader_epoch": batch.leader_epoch,
            "magic": batch.magic,
            "attributes": batch.attributes,
            "last_offset_delta": batch.last_offset_delta,
            "max_timestamp": batch.max_timestamp,
            "producer": [batch.producer_id, batch.producer_epoch, batch.base_sequence],
        }
        found = [record(r.offset, r.timestamp, r.key, r.value, r.headers) for r in batch]
        yield {"head": head, "records": found}


if __name__ == "__main__":
    if sys.argv[1] == "encode":
        answers = encode()
    else:
        # All of the input before the first answer, so that neither side waits for the other.
        runs = sys.stdin.read().splitlines()
        answers = (list(decode_one(bytes.fromhex(json.loads(run)))) for run in runs)
    for answer in answers:
        print(json.dumps(answer))
