"""A user's sending program, right, or wrong in every way: 20 datagrams a second. Standard library alone.

The first line of output says that it is ready, the last how many it sent.
"""

from __future__ import annotations

import argparse
import collections
import os
import socket
import struct
import time

from network_faults.frames import ETH_P_IP, Frame
from network_faults.programs import Count, Life, tell

# linux/in.h
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DO = 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--group", default="239.1.2.3")
    add("--port", type=int, default=5000)
    add("--iface", action="append", help="a name; any: the routes choose")
    add("--ttl", type=int)
    add("--loop", type=int, default=1)
    add("--size", type=int, default=64)
    add("--rate", type=float, default=20)
    add("--burst", type=int, default=1)
    add("--bind", default="")
    add("--sport", type=int, default=0)
    add("--df", action="store_true")
    add("--no-send", action="store_true")
    add("--seconds", type=float, default=900)
    add("--count", default="", help="keep the number of datagrams in this file")
    frame = parser.add_argument_group("frames made by hand").add_argument
    frame("--frame", action="store_true")
    frame("--src", default="198.18.0.1")
    frame("--mac", default="", help="of the receiver")
    frame("--smac", default="", help="of the sender")
    frame("--vlan", type=int, default=-1)
    frame("--ethertype", type=lambda text: int(text, 0), default=ETH_P_IP)
    frame("--fragments", default="", choices=["", "first", "last", "all"])
    frame("--options", action="store_true")
    frame("--bad-ip-csum", action="store_true")
    frame("--bad-udp-csum", action="store_true")
    frame("--no-udp-csum", action="store_true")
    frame("--bad-length", action="store_true")
    return parser.parse_args()


class Frames:
    """Send by a packet socket for each interface."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.sockets = [packet_socket(name) for name in options.iface or ["en0"]]
        self.own = bytes.fromhex(options.smac.replace(":", ""))
        self.frame = Frame(
            group=options.group,
            port=options.port,
            source=options.src,
            source_port=options.sport or 40000,
            ttl=1 if options.ttl is None else options.ttl,
            to=options.mac,
            vlan=options.vlan,
            ethertype=options.ethertype,
            fragments=options.fragments,
            options=options.options,
            bad_ip_checksum=options.bad_ip_csum,
            bad_udp_checksum=options.bad_udp_csum,
            no_udp_checksum=options.no_udp_csum,
            bad_length=options.bad_length,
        )

    def send(self, number: int, payload: bytes) -> None:
        for each in self.sockets:
            for octets in self.frame.make(self.own or each.getsockname()[4], number, payload):
                each.send(octets)


class Datagrams:
    """Send by a UDP socket, as most do."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.to = options.group, options.port
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if options.ttl is not None:
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, options.ttl)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, options.loop)
        if options.df:
            self.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        name = (options.iface or ["en0"])[0]
        if name != "any":
            request = struct.pack("=4s4sI", bytes(4), bytes(4), socket.if_nametoindex(name))
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        if options.bind or options.sport:
            self.socket.bind((options.bind, options.sport))

    def send(self, _: int, payload: bytes) -> None:
        self.socket.sendto(payload, self.to)


def packet_socket(name: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind((name, 0))
    return made


def main() -> None:
    options = parse()
    life, count = Life(options.seconds), Count(options.count)
    sender = Frames(options) if options.frame else Datagrams(options)
    errors: collections.Counter[str] = collections.Counter()
    tell(ready=True, pid=os.getpid(), fail=None)
    while life.goes_on():
        for _ in range(0 if options.no_send else options.burst):
            try:
                sender.send(count.number, (b"#%08d " % count.number).ljust(options.size, b"x"))
                count.add()
            except OSError as error:
                errors[str(error)] += 1
        time.sleep(1 / options.rate)
    tell(sent=count.number, errors=errors)


if __name__ == "__main__":
    main()
