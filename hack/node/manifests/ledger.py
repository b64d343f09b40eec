"""The writer of the demo: `ledger.py write FILE` appends records for ever, `ledger.py check FILE` counts and verifies.

A record is a line: number, the hash of the record before it, a hash of both. It is synced before the next one is made.
"""

import hashlib
import os
import sys
import time


def record(number: int, previous: str) -> str:
    text = f"{number} {previous}"
    return f"{text} {hashlib.sha256(text.encode()).hexdigest()}"


def write(path: str) -> None:
    number, previous = 0, "-"
    with open(path, "a") as log:
        while True:
            number += 1
            line = record(number, previous)
            previous = line.split()[-1]
            log.write(line + "\n")
            log.flush()
            os.fsync(log.fileno())
            time.sleep(0.02)


def check(path: str) -> int:
    number, previous = 0, "-"
    with open(path) as log:
        for line in log:
            if not line.endswith("\n"):
                break  # the last record may be torn: it was never acknowledged
            if line.rstrip("\n") != record(number + 1, previous):
                sys.exit(f"record {number + 1} is damaged")
            number, previous = number + 1, line.split()[-1]
    return number


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        print(check(sys.argv[2]))
