"""Other flows that go wrong beside ours, so that every counter of the receiving host grows for other reasons, too."""

from __future__ import annotations

import sys
import time

from network_faults.frames import Frame
from network_faults.programs import Life, tell
from network_faults.transmit import packet_socket

GROUP, PORT, RATE = "239.8.8.8", 5999, 10


def main() -> None:
    flow = Frame(group=GROUP, port=PORT)
    kinds = (
        flow._replace(bad_udp_checksum=True),
        flow,
        flow._replace(fragments="first", source_port=40001),
        flow._replace(port=7000),  # No socket is there.
        flow._replace(source="127.0.0.9"),  # Source validation refuses it.
    )
    life, out, number = Life(900), packet_socket(sys.argv[1]), 0
    own = out.getsockname()[4]
    tell(ready=True, fail=None)
    while life.goes_on():
        for kind in kinds:
            for octets in kind.make(own, number, b"noise".ljust(1400 if kind.fragments else 64)):
                out.send(octets)
            number += 1
        time.sleep(1 / RATE)


if __name__ == "__main__":
    main()
