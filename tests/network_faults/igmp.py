"""Send one IGMP message by this host's own IP stack: `igmp.py query3|query2|report2|report3|leave2 GROUP SOURCE`."""

from __future__ import annotations

import socket
import struct
import sys

from network_faults.frames import ROUTER_ALERT, checksum


def message(kind: str, group: str) -> tuple[bytes, str]:
    """Return the message, and where it goes (RFC 2236, RFC 3376)."""
    address = socket.inet_aton(group)
    return {
        "query3": (struct.pack("!BBH4sBBH", 0x11, 10, 0, address, 2, 125, 0), "224.0.0.1"),
        "query2": (struct.pack("!BBH4s", 0x11, 10, 0, address), "224.0.0.1"),
        "report2": (struct.pack("!BBH4s", 0x16, 0, 0, address), group),
        "report3": (struct.pack("!BBHHHBBH4s", 0x22, 0, 0, 0, 1, 2, 0, 0, address), "224.0.0.22"),
        "leave2": (struct.pack("!BBH4s", 0x17, 0, 0, address), "224.0.0.2"),
    }[kind]


def main() -> None:
    kind, group, source = sys.argv[1:4]
    octets, to = message(kind, group)
    octets = octets[:2] + struct.pack("!H", checksum(octets)) + octets[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as raw:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, ROUTER_ALERT)
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
        raw.sendto(octets, (to, 0))


if __name__ == "__main__":
    main()
