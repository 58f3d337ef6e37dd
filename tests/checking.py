"""What the checks in these folders share. hack/ sets PYTHONPATH so that they find it."""

import sys
import time

PATIENCE = 120


def fail(what):
    sys.exit(f"error: {what}")


def wait_for(what, condition, explain=None):
    """Asks again until the condition gives something; two minutes at most. `explain` says what was there instead."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    fail(f"{what} did not happen within {PATIENCE} s{f': {explain()}' if explain else ''}")
