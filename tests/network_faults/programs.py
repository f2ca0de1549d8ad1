"""What the programs of a lab share: a count that others can read, and an end. Standard library alone."""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import time
from typing import Any

COUNT = struct.Struct("=Q")


class Count:
    """How many datagrams a program has received or sent: in a file that exists, so that even a stopped one tells it."""

    def __init__(self, file: str) -> None:
        self.number = 0
        self._memory: mmap.mmap | None = None
        if file:
            descriptor = os.open(file, os.O_RDWR)
            self._memory = mmap.mmap(descriptor, COUNT.size)
            os.close(descriptor)

    def add(self) -> None:
        self.number += 1
        if self._memory is not None:
            COUNT.pack_into(self._memory, 0, self.number)


class Life:
    """Some minutes at most, or until SIGTERM."""

    def __init__(self, seconds: float) -> None:
        self.begin = time.monotonic()
        self._end = self.begin + seconds
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self._end = 0

    def goes_on(self) -> bool:
        return time.monotonic() < self._end


def tell(**fields: Any) -> None:
    """Write a line for whoever started the program."""
    print(json.dumps(fields), flush=True)
