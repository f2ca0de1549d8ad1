"""A user's receiving program, with every mistake that a program can make as an option. Standard library alone.

The first line of output says that it is ready, the last what it got.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import os
import select
import socket
import struct
import time

from network_faults.programs import Count, Life, tell

# linux/in.h
IP_PKTINFO = 8
MCAST_JOIN_GROUP = 42
MCAST_BLOCK_SOURCE = 43
MCAST_LEAVE_GROUP = 45
MCAST_JOIN_SOURCE_GROUP = 46
MCAST_LEAVE_SOURCE_GROUP = 47
IP_MULTICAST_ALL = 49
SO_BINDTODEVICE = 25  # asm-generic/socket.h
SO_ATTACH_FILTER = 26
UDP_GRO = 104  # linux/udp.h
BPF_RET = 0x06  # linux/bpf_common.h


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--group", default="239.1.2.3")
    add("--port", type=int, default=5000)
    add("--iface", action="append", help="a name; any: the routes choose; @198.18.0.2: by address")
    add("--source", action="append", default=[])
    add("--exclude", action="append", default=[])
    add("--sources-n", type=int, default=0, help="join so many sources, 198.18.9.1 and on")
    add("--bind", default="", help="an address; group: that of the group")
    add("--no-join", action="store_true")
    add("--include-empty", action="store_true", help="end with the filter INCLUDE {}")
    add("--joins", type=int, default=1, help="join so many groups; the last is the right one")
    add("--dead-fd", action="store_true", help="join on one socket, read another")
    add("--closed-fd", action="store_true", help="the same, and close the one that has joined")
    add("--leave-after", type=float, default=0)
    add("--all", type=int, help="IP_MULTICAST_ALL")
    add("--rcvbuf", type=int)
    add("--no-read", action="store_true")
    add("--slow", type=float, default=0, help="seconds of work for each datagram")
    add("--bpf-reject", action="store_true")
    add("--dev", default="", help="SO_BINDTODEVICE")
    add("--connect", default="", help="ADDRESS:PORT")
    add("--no-reuse", action="store_true")
    add("--reuseport", action="store_true")
    add("--v6", action="store_true", help="a dual-stack socket")
    add("--v6only", action="store_true")
    add("--gro", action="store_true")
    add("--seconds", type=float, default=900)
    add("--count", default="", help="keep the number of datagrams in this file")
    return parser.parse_args()


class Receiver:
    """A socket, its memberships, and what it got."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.fail: str | None = None
        self.joined = 0
        self.seen: collections.Counter[str] = collections.Counter()
        self.socket = self.open()
        separate = options.dead_fd or options.closed_fd
        self.joining = socket.socket(socket.AF_INET, socket.SOCK_DGRAM) if separate else self.socket
        if not options.no_join and self.fail is None:
            self.join_all()
        if options.closed_fd:
            self.joining.close()
        self.finish()

    def open(self) -> socket.socket:
        options = self.options
        six = options.v6 or options.v6only
        opened = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        if six:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, options.v6only)
        if not options.no_reuse:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.reuseport:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if options.rcvbuf:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.rcvbuf)
        if options.dev:
            opened.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, options.dev.encode())
        if options.gro:
            opened.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        if options.all is not None:
            opened.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, options.all)
        if not six:
            opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        address = options.group if options.bind == "group" else options.bind
        try:
            opened.bind(((f"::ffff:{address}" if address else "::") if six else address, options.port))
        except OSError as error:
            self.fail = f"bind: {error}"
        return opened

    def join_all(self) -> None:
        number = self.options.joins
        groups = [f"239.77.0.{each}" for each in range(1, number)] + [self.options.group]
        try:
            for interface in self.options.iface or ["en0"]:
                for group in groups:
                    self.join(group, interface)
                    self.joined += 1
        except OSError as error:
            self.fail = f"join {self.joined + 1}: {error}"

    def join(self, group: str, interface: str) -> None:
        options, joining = self.options, self.joining
        if interface.startswith("@"):
            request = socket.inet_aton(group) + socket.inet_aton(interface[1:])
            joining.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            return
        index = 0 if interface == "any" else socket.if_nametoindex(interface)
        sources = options.source or [f"198.18.9.{each}" for each in range(1, options.sources_n + 1)]
        for source in sources:
            joining.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, group_request(index, group, source))
        if not sources:
            joining.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, group_request(index, group))
        for source in options.exclude:
            joining.setsockopt(socket.IPPROTO_IP, MCAST_BLOCK_SOURCE, group_request(index, group, source))
        if options.include_empty:
            self.include_nobody(group_request(index, group, "198.18.0.9"))

    def include_nobody(self, request: bytes) -> None:
        """Have the filter INCLUDE {}, and stay a member: MCAST_MSFILTER with this filter would leave.

        To leave a source of EXCLUDE {} is refused, and yet changes the mode (ip_mc_source in net/ipv4/igmp.c).
        """
        with contextlib.suppress(OSError):  # EADDRNOTAVAIL
            self.joining.setsockopt(socket.IPPROTO_IP, MCAST_LEAVE_SOURCE_GROUP, request)

    def finish(self) -> None:
        if self.options.connect:
            host, port = self.options.connect.split(":")
            self.socket.connect((host, int(port)))
        if self.options.bpf_reject:
            program = ctypes.create_string_buffer(struct.pack("=HBBI", BPF_RET, 0, 0, 0))
            request = struct.pack("@HP", 1, ctypes.addressof(program))
            self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, request)
        self.socket.setblocking(False)

    def run(self, life: Life, count: Count) -> None:
        left = False
        while life.goes_on():
            if not left and 0 < self.options.leave_after < time.monotonic() - life.begin:
                index = socket.if_nametoindex("en0")
                self.joining.setsockopt(socket.IPPROTO_IP, MCAST_LEAVE_GROUP, group_request(index, self.options.group))
                left = True
            if self.options.no_read:
                time.sleep(0.2)
            elif select.select([self.socket], [], [], 0.2)[0]:
                self.take(count)

    def take(self, count: Count) -> None:
        try:
            _, control, _, address = self.socket.recvmsg(65536, 256)
        except OSError:
            return
        to, index = "?", 0
        for level, kind, data in control:
            if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                index, to = struct.unpack_from("=I", data)[0], socket.inet_ntoa(data[8:12])
        self.seen[f"{address[0]}>{to}@{index}"] += 1
        count.add()
        time.sleep(self.options.slow)


def address_storage(address: str) -> bytes:
    return struct.pack("=HH4s120x", socket.AF_INET, 0, socket.inet_aton(address))


def group_request(index: int, group: str, source: str = "") -> bytes:
    """Pack struct group_req, or group_source_req."""
    return struct.pack("=I4x", index) + address_storage(group) + (address_storage(source) if source else b"")


def main() -> None:
    options = parse()
    life, count = Life(options.seconds), Count(options.count)
    receiver = Receiver(options)
    tell(ready=True, pid=os.getpid(), fail=receiver.fail, fd=receiver.socket.fileno())
    receiver.run(life, count)
    tell(total=count.number, seen=receiver.seen, fail=receiver.fail)


if __name__ == "__main__":
    main()
