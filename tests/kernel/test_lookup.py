"""Interfaces: listed in this thread's network, resolved in a socket's own."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import subprocess
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

import pytest

from support.links import ip
from trio_ipv4 import Interface, InterfaceFlags, interface_by_index, interface_by_name, interfaces
from trio_ipv4._kernel.lookup import describe, is_loopback, name_of, resolve
from trio_ipv4._kernel.native import NativeSystem
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._kernel.system import Socket


@pytest.fixture
def udp() -> Iterator[Socket]:
    with udp_socket() as a_socket:
        yield a_socket


def udp_socket() -> contextlib.closing[Socket]:
    return contextlib.closing(NativeSystem().socket(socket.AF_INET, socket.SOCK_DGRAM, 0))


def test_the_list_is_what_ip_says() -> None:
    ip(
        "link add en0 type veth peer name en1",
        "address add 198.18.0.1/24 dev en0",
        "address add 198.18.0.2/24 dev en0",
        "address add 198.18.7.1/30 dev en0 label en0:7",
        "link set en0 mtu 1400 up",
    )
    expected = {
        each["ifindex"]: (
            each["ifname"],
            each["mtu"],
            [IPv4Interface(f"{a['local']}/{a['prefixlen']}") for a in each["addr_info"] if a["family"] == "inet"],
            "UP" in each["flags"],
            "LOOPBACK" in each["flags"],
            "MULTICAST" in each["flags"],
        )
        for each in json.loads(subprocess.check_output(["ip", "-json", "address", "show"]))
    }
    found = interfaces()
    assert {
        each.index: (each.name, each.mtu, list(each.addresses), each.is_up, each.is_loopback, each.is_multicast)
        for each in found
    } == expected
    assert [each.index for each in found] == sorted(expected)
    assert len(next(each for each in found if each.name == "en0").addresses) == 3


def test_many_interfaces_and_addresses_are_all_listed() -> None:
    # More than one netlink message, and than one SIOCGIFCONF buffer, holds.
    ip(*(f"address add 198.18.{n // 250}.{n % 250 + 1}/32 dev lo" for n in range(600)))
    (lo,) = interfaces()
    assert len(lo.addresses) == 601
    with udp_socket() as a_socket:
        assert resolve(a_socket, IPv4Address("198.18.2.100")) == 1


def test_an_interface_is_found_by_name_and_by_index() -> None:
    lo = interface_by_name("lo")
    assert lo == interface_by_index(1)
    assert (lo.index, lo.name, lo.is_loopback, lo.is_up) == (1, "lo", True, True)
    assert lo.addresses == (IPv4Interface("127.0.0.1/8"),)


@pytest.mark.parametrize("find", [lambda: interface_by_name("en9"), lambda: interface_by_index(99)])
def test_what_does_not_exist_is_enodev(find: Any) -> None:
    with pytest.raises(OSError, match=r"can't find the interface .*interfaces\(\) lists them") as caught:
        find()
    assert caught.value.errno == errno.ENODEV


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), ("lo", TypeError)])
def test_an_index_is_a_positive_integer(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="index must be"):
        interface_by_index(value)


def test_every_form_is_resolved(udp: Socket) -> None:
    assert resolve(udp, None) is None
    assert resolve(udp, "lo") == 1
    assert resolve(udp, 17) == 17  # An index is not looked up.
    assert resolve(udp, IPv4Address("127.0.0.1")) == 1
    assert resolve(udp, IPv4Interface("127.0.0.1/8")) == 1
    assert resolve(udp, Interface(5, "en0", 1500, InterfaceFlags.UP)) == 5


@pytest.mark.parametrize(
    ("value", "error", "number"),
    [
        ("en9", OSError, errno.ENODEV),
        ("", OSError, errno.ENODEV),
        ("lo\0", OSError, errno.ENODEV),
        ("x" * 16, OSError, errno.ENODEV),
        ("é" * 8, OSError, errno.ENODEV),
        ("1", OSError, errno.ENODEV),
        (IPv4Address("192.0.2.1"), OSError, errno.EADDRNOTAVAIL),
        (0, ValueError, None),
        (-1, ValueError, None),
        (2**31, ValueError, None),
        (True, TypeError, None),
        (1.0, TypeError, None),
        (b"lo", TypeError, None),
        ((1,), TypeError, None),
    ],
)
def test_what_names_no_interface_is_refused(
    udp: Socket, value: Any, error: type[Exception], number: int | None
) -> None:
    with pytest.raises(error) as caught:
        resolve(udp, value)
    assert getattr(caught.value, "errno", None) == number


def test_a_name_of_any_octets_is_found(udp: Socket) -> None:
    ip("link add é type veth peer name 1")
    for name in ("é", "1"):
        index = socket.if_nametoindex(name)
        assert resolve(udp, name) == index == interface_by_name(name).index
        assert name_of(udp, index) == name
        assert is_loopback(udp, index) is False


def test_a_label_names_its_interface(udp: Socket) -> None:
    ip("address add 127.0.5.5/32 dev lo label lo:5")
    assert resolve(udp, IPv4Address("127.0.5.5")) == 1


def test_interfaces_are_described(udp: Socket) -> None:
    assert describe(udp, 1) == "lo (interface index 1)"
    assert describe(udp, 99) == "interface index 99"
    assert (name_of(udp, 1), name_of(udp, 99)) == ("lo", None)
    assert (is_loopback(udp, 1), is_loopback(udp, 99)) == (True, False)


@pytest.mark.usefixtures("needs_lab")
def test_a_socket_speaks_of_its_own_network() -> None:
    with open_lab(("a",), links=3) as lab:
        a = lab["a"]
        with a.call(udp_socket) as there:
            en2 = a.interfaces[2]
            assert resolve(there, "en2") == en2.index
            assert resolve(there, a.addresses[2]) == en2.index
            assert describe(there, en2.index) == f"en2 (interface index {en2.index})"
            assert en2 in a.call(interfaces)
            with udp_socket() as here, pytest.raises(OSError, match="'en2'"):
                resolve(here, "en2")
            assert "en2" not in [each.name for each in interfaces()]
