#!/usr/bin/env python3
"""Holds what consumers read against what a producer of numbered records was told, and says how long acknowledgements ever stopped.

Called by hack/kind-test.sh: ledger.py COUNT ACKS READ PHASES

ACKS has a line "TIME TOPIC-PARTITION@OFFSET" for each of COUNT records, in the order in which they were produced; READ a line
"PARTITION OFFSET NUMBER" for each record that is stored; PHASES a line "TIME LIMIT NAME" for each thing that was done meanwhile.
Fails if a record is missing, stored twice, elsewhere than the producer was told or out of order, if offsets have gaps, or if no record
at all was acknowledged for longer than a phase's limit in seconds. The producer prints acknowledgements in the order of its records, so
a pause of one partition shows as a pause: no partition had a longer one.
"""

import datetime
import sys


def seconds(text):
    """RFC 3339 in UTC with up to nine decimals."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp() + float("0." + (fraction or "0"))


def read_acks(path):
    """The place of each record, and the time when the producer said so."""
    places, times = [], []
    for line in open(path):
        time, place = line.split()
        partition, offset = place.rsplit("-", 1)[1].split("@")
        places.append((int(partition), int(offset)))
        times.append(seconds(time))
    return places, times


def read_stored(path):
    """The number that is stored at each place."""
    stored, problems = {}, []
    for line in open(path):
        partition, offset, number = map(int, line.split())
        if (partition, offset) in stored:
            problems.append(f"{partition}@{offset} was read twice")
        stored[partition, offset] = number
    return stored, problems


def compare(count, places, stored):
    """Says everything that is wrong."""
    if len(places) != count:
        yield f"{count} records were produced and {len(places)} acknowledged"
    for number, place in enumerate(places):
        if stored.get(place) != number:
            yield f"record {number} was acknowledged at {place[0]}@{place[1]}, where {stored.get(place, 'nothing')} is stored"
    numbers = list(stored.values())
    if len(numbers) != count or len(set(numbers)) != len(numbers):
        yield f"{count} records were produced, {len(numbers)} are stored, {len(set(numbers))} of them different"
    last = {}
    for (partition, offset), number in sorted(stored.items()):
        before_offset, before_number = last.get(partition, (-1, -1))
        if offset != before_offset + 1:
            yield f"partition {partition} has offset {offset} after {before_offset}"
        if number <= before_number:
            yield f"partition {partition} has record {number} after {before_number}"
        last[partition] = (offset, number)


def pauses(times, phases):
    """For each phase: how many acknowledgements, and the longest time before one that came in it."""
    result = [[0, 0.0] for _ in phases]
    phase = 0
    for before, time in zip(times, times[1:]):
        while phase + 1 < len(phases) and phases[phase + 1][0] <= time:
            phase += 1
        result[phase][0] += 1
        result[phase][1] = max(result[phase][1], time - before)
    return result


def main():
    count = int(sys.argv[1])
    places, times = read_acks(sys.argv[2])
    stored, problems = read_stored(sys.argv[3])
    problems += compare(count, places, stored)
    phases = []
    for line in open(sys.argv[4]):
        time, limit, name = line.rstrip("\n").split(" ", 2)
        phases.append((seconds(time), float(limit), name))
    print(f"    {'meanwhile':42} {'acknowledged':>12} {'longest pause':>14} {'allowed':>8}")
    for (_, limit, name), (acked, pause) in zip(phases, pauses(times, phases)):
        print(f"    {name:42} {acked:12} {pause:12.2f} s {limit:6.0f} s")
        if pause > limit:
            problems.append(f"{name}: nothing was acknowledged for {pause:.1f} s, {limit:.0f} s are allowed")
        if acked == 0:
            problems.append(f"{name}: nothing was acknowledged")
    for problem in problems[:20]:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        partitions = len({partition for partition, _ in stored})
        print(f"    {count} records in {partitions} partitions: each stored once, where its acknowledgement says, in order, without gaps")
    sys.exit(bool(problems))


main()
