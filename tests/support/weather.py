"""Links that change all the time, and how long other tasks have to wait meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import math
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import trio

from support.links import ip

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def changing(blocks: Iterable[str], per_second: float = math.inf) -> Iterator[None]:
    """Have iproute2 carry out these blocks of lines, in the caller's network, at most so many of them in a second."""
    stop = threading.Event()
    with subprocess.Popen(["ip", "-force", "-batch", "-"], stdin=subprocess.PIPE, bufsize=0) as process:

        def change() -> None:
            assert process.stdin is not None
            begin = time.monotonic()
            for count, block in enumerate(blocks):
                while count > (time.monotonic() - begin) * per_second and not stop.is_set():
                    time.sleep(0.001)
                if stop.is_set():
                    return
                process.stdin.write(block.encode())

        thread = threading.Thread(target=change)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            process.kill()


def make_pairs(pairs: int) -> None:
    """Make links v0, w0, v1, w1, and so on, and set them up."""
    ip(*(f"link add v{number} type veth peer name w{number}" for number in range(pairs)))
    ip(*(f"link set {end}{number} up" for number in range(pairs) for end in "vw"))


def weather() -> Iterator[str]:
    """Yield changes of 400 such pairs, of their settings and addresses, and a link that comes and goes; without end."""
    kinds = ["link set v{0} mtu {1}", "address add 10.9.{2}.1/32 dev w{0}", "address flush dev w{0}"]
    for count in itertools.count():
        line = kinds[count % 3].format(count % 400, 1300 + count % 100, count % 250)
        yield "link add coming type bridge\nlink delete coming\n" if count % 8 == 0 else f"{line}\n"


class Pauses:
    """How long a task that is always ready to run has to wait."""

    def begin(self) -> None:
        """Forget what was before."""
        self.longest, self._last = 0.0, time.perf_counter()

    async def note(self) -> None:
        """Be ready to run, until it is cancelled."""
        self.begin()
        while True:
            await trio.lowlevel.checkpoint()
            now = time.perf_counter()
            self.longest, self._last = max(self.longest, now - self._last), now
