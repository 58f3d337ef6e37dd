"""What the client scripts beside this one share: how results are shown, and how long is waited for them."""

import time

LIMIT = 60
# An hour ago at a whole second: old enough to be told from the time of a run, young enough to be kept.
NOW = int(time.time() - 3600) * 1000


def show(title, value):
    print(f"{title}: {value}", flush=True)


def eventually(read, wanted):
    """Reads until the result is the wanted one: a broker may learn of a change a moment after another one has made it."""
    until = time.monotonic() + LIMIT
    while (result := read()) != wanted and time.monotonic() < until:
        time.sleep(0.1)
    return result


def as_hex(value):
    return "-" if value is None else f"<{value.hex()}>"
