"""Runs a program on a terminal of its own, for tests/tests/authentication.rs.

Usage: on_a_terminal.py END PROGRAM [ARGUMENT...]. Prints as JSON what the program shows until it ends, or until that ends with END; a program
that still runs then, because it waits for somebody to type, is killed.
"""

import json
import os
import pty
import signal
import sys


def main(end, *command):
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    shown = b""
    while not shown.endswith(end.encode()):
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # How Linux says that the other side is closed.
            break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return shown.decode()


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
