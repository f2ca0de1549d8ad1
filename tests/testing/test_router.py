"""The lab's router: unicast by the kernel's routes, groups by its multicast routing entries."""

from __future__ import annotations

import errno
import os
import socket
import threading
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4.testing import Lab, LabHost

GROUP = "239.1.2.3"
IP_RECVTTL = 12  # linux/in.h
IP_RECVERR = 11  # linux/in.h
MSG_ERRQUEUE = 0x2000  # linux/socket.h


@pytest.fixture
def routed(needs_lab: None) -> Iterator[Lab]:
    with open_lab({"a": [0], "b": [1], "c": [2]}, router=True) as lab:
        yield lab


def udp(host: LabHost) -> socket.socket:
    endpoint = host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    endpoint.settimeout(5)
    endpoint.bind(("0.0.0.0", 5000))
    endpoint.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    return endpoint


def join(endpoint: socket.socket, group: str = GROUP) -> None:
    request = IPv4Address(group).packed + bytes(4)  # By the default route.
    endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def receive(endpoint: socket.socket) -> tuple[bytes, int, str]:
    """Return payload, TTL and source."""
    payload, control, _, (source, _) = endpoint.recvmsg(100, 100)
    (ttl,) = (int.from_bytes(data, "little") for _, kind, data in control if kind == socket.IP_TTL)
    return payload, ttl, source


def send(endpoint: socket.socket, payload: bytes, destination: str, ttl: int) -> None:
    for option in (socket.IP_TTL, socket.IP_MULTICAST_TTL):
        endpoint.setsockopt(socket.IPPROTO_IP, option, ttl)
    endpoint.sendto(payload, (destination, 5000))


def test_forwards_unicast_and_takes_one_from_the_ttl(routed: Lab) -> None:
    with udp(routed["a"]) as here, udp(routed["b"]) as there:
        send(here, b"hello", str(routed["b"].addresses[0]), ttl=9)
        assert receive(there) == (b"hello", 8, str(routed["a"].addresses[0]))


def test_tells_the_sender_when_the_ttl_is_used_up(routed: Lab) -> None:
    with udp(routed["a"]) as here:
        here.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        send(here, b"hello", str(routed["b"].addresses[0]), ttl=1)
        with pytest.raises(
            OSError, match=os.strerror(errno.EHOSTUNREACH)
        ):  # What Linux makes of ICMP's "time exceeded".
            here.recv(100)
        (error,) = (data for _, kind, data in here.recvmsg(100, 200, MSG_ERRQUEUE)[1] if kind == IP_RECVERR)
        assert error[5] == 11  # sock_extended_err.ee_type: "time exceeded" (linux/errqueue.h, RFC 792)
        assert IPv4Address(error[20:24]) == routed["router"].addresses[0]


def test_forwards_groups_to_every_other_link(routed: Lab) -> None:
    with udp(routed["a"]) as here, udp(routed["b"]) as there, udp(routed["c"]) as beyond:
        join(there)
        join(beyond)
        send(here, b"hello", GROUP, ttl=5)
        assert receive(there) == receive(beyond) == (b"hello", 4, str(routed["a"].addresses[0]))


def test_forwards_in_both_directions(routed: Lab) -> None:
    with udp(routed["a"]) as here, udp(routed["b"]) as there:
        for endpoint in (here, there):
            join(endpoint)
            endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        send(here, b"ping", GROUP, ttl=2)
        assert receive(there) == (b"ping", 1, str(routed["a"].addresses[0]))
        send(there, b"pong", GROUP, ttl=2)
        assert receive(here) == (b"pong", 1, str(routed["b"].addresses[0]))


def test_keeps_groups_with_ttl_1_on_their_link(routed: Lab) -> None:
    with udp(routed["a"]) as here, udp(routed["b"]) as there:
        join(there)
        send(here, b"near", GROUP, ttl=1)
        send(here, b"far", GROUP, ttl=2)
        assert receive(there)[0] == b"far"


def test_keeps_link_local_groups_on_their_link(routed: Lab) -> None:
    with udp(routed["a"]) as here, udp(routed["b"]) as there:
        join(there)
        join(there, "224.0.0.251")
        send(here, b"near", "224.0.0.251", ttl=255)
        send(here, b"far", GROUP, ttl=255)
        assert receive(there)[0] == b"far"


def test_a_host_on_all_links_has_a_router_too(needs_lab: None) -> None:
    with open_lab(links=2, router=True) as lab:
        assert len(lab["a"].interfaces) == len(lab["router"].interfaces) == 2
        assert "default via 198.18.0.254 dev en0" in lab["a"].ip("route")


def test_its_thread_ends_with_the_lab(needs_lab: None) -> None:
    before = threading.active_count()
    with open_lab(links=2, router=True):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
