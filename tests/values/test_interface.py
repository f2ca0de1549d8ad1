from __future__ import annotations

import pickle
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Any

import attrs
import pytest

from trio_ipv4._values.interface import (
    MAX_IFINDEX,
    Interface,
    InterfaceChange,
    InterfaceChangeKind,
    InterfaceFlags,
    to_ifindex,
)

UP = InterfaceFlags.UP | InterfaceFlags.MULTICAST
HOME = IPv4Interface("192.0.2.1/24")

NAMES_BY_BIT = [
    *("UP", "BROADCAST", "DEBUG", "LOOPBACK", "POINTOPOINT", "NOTRAILERS", "RUNNING", "NOARP"),
    *("PROMISC", "ALLMULTI", "MASTER", "SLAVE", "MULTICAST", "PORTSEL", "AUTOMEDIA", "DYNAMIC"),
    *("LOWER_UP", "DORMANT", "ECHO"),
]
"""IFF_* from 1<<0 on: enum net_device_flags, linux/if.h."""


def make(**fields: Any) -> Interface:
    return Interface(**{"index": 2, "name": "eth0", "mtu": 1500, "flags": UP, "addresses": (HOME,), **fields})


def test_interfaces_are_equal_by_value() -> None:
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make(mtu=1499)
    assert make() != make(addresses=())


def test_addresses_keep_their_order_and_are_a_tuple() -> None:
    second = IPv4Interface("198.51.100.1/32")
    assert make(addresses=iter([HOME, second])).addresses == (HOME, second)
    assert make(addresses=[second, HOME]).addresses == (second, HOME)


def test_an_interface_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(make())) == make()


def test_an_interface_cannot_be_changed() -> None:
    interface = make()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        interface.mtu = 9000  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del interface.mtu
    with pytest.raises((AttributeError, TypeError)):
        interface.speed = 1  # type: ignore[attr-defined]
    assert interface == make()


def test_a_change_of_one_field_validates_again() -> None:
    assert attrs.evolve(make(), mtu=9000) == make(mtu=9000)
    with pytest.raises(ValueError, match="mtu must be from 0 to 4294967295, got -1"):
        attrs.evolve(make(), mtu=-1)


def test_flags_have_the_kernels_numbers() -> None:
    assert dict(InterfaceFlags.__members__) == {name: 1 << bit for bit, name in enumerate(NAMES_BY_BIT)}


def test_flags_without_a_name_are_kept() -> None:
    assert make(flags=1 << 31 | 1).flags == 1 << 31 | 1
    assert InterfaceFlags.UP in make(flags=1 << 31 | 1).flags


@pytest.mark.parametrize(
    ("flag", "name"), [("UP", "is_up"), ("MULTICAST", "is_multicast"), ("LOOPBACK", "is_loopback")]
)
def test_properties_follow_their_flag(flag: str, name: str) -> None:
    assert getattr(make(flags=InterfaceFlags[flag]), name) is True
    assert getattr(make(flags=~InterfaceFlags[flag] & 0xFFFF_FFFF), name) is False


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"index": 0}, ValueError, "index must be from 1 to 2147483647, got 0"),
        ({"index": MAX_IFINDEX + 1}, ValueError, "index must be from 1 to 2147483647, got 2147483648"),
        ({"index": True}, TypeError, "index must be an integer from 1 to 2147483647, got True"),
        ({"name": b"eth0"}, TypeError, "name must be a string, got b'eth0'"),
        ({"name": None}, TypeError, "name must be a string, got None"),
        ({"mtu": 2**32}, ValueError, "mtu must be from 0 to 4294967295, got 4294967296"),
        ({"mtu": False}, TypeError, "mtu must be an integer from 0 to 4294967295, got False"),
        ({"flags": -1}, ValueError, "flags must be from 0 to 4294967295, got -1"),
        ({"flags": "UP"}, TypeError, "flags must be an integer from 0 to 4294967295, got 'UP'"),
        ({"addresses": ["192.0.2.1/24"]}, TypeError, "addresses must be IPv4Interface values, got '192.0.2.1/24'"),
        ({"addresses": [IPv4Address("192.0.2.1")]}, TypeError, "addresses must be IPv4Interface values, got IPv4Addr"),
    ],
)
def test_an_interface_names_the_field_at_fault(fields: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make(**fields)
    assert str(caught.value).startswith(message)


def test_an_index_comes_from_an_interface_or_an_integer() -> None:
    assert to_ifindex(make(index=7), "ifindex") == 7
    assert to_ifindex(7, "ifindex") == 7
    assert to_ifindex(None, "ifindex") is None


@pytest.mark.parametrize("value", ["eth0", IPv4Address("192.0.2.1"), HOME])
def test_a_value_cannot_resolve_names_and_addresses(value: object) -> None:
    with pytest.raises(TypeError, match=r"ifindex must be .* only a connection can resolve names and addresses"):
        to_ifindex(value, "ifindex")


@pytest.mark.parametrize("value", [True, 2.0, IPv6Address("::1"), b"eth0"])
def test_what_names_no_interface_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="ifindex must be an integer from 1 to 2147483647, got "):
        to_ifindex(value, "ifindex")


@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_an_index_is_a_positive_c_int(value: int) -> None:
    with pytest.raises(ValueError, match=f"ifindex must be from 1 to 2147483647, got {value}"):
        to_ifindex(value, "ifindex")


def test_changes_are_values() -> None:
    change = InterfaceChange(InterfaceChangeKind.ADDED, make())
    assert change == InterfaceChange(InterfaceChangeKind.ADDED, make())
    assert hash(change) == hash(InterfaceChange(InterfaceChangeKind.ADDED, make()))
    assert change != InterfaceChange(InterfaceChangeKind.REMOVED, make())
    assert pickle.loads(pickle.dumps(change)) == change
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del change.kind


@pytest.mark.parametrize(
    ("kind", "interface", "message"),
    [
        ("added", make(), "kind must be an InterfaceChangeKind, got 'added'"),
        (None, make(), "kind must be an InterfaceChangeKind, got None"),
        (InterfaceChangeKind.ADDED, 2, "interface must be an Interface, got 2"),
        (InterfaceChangeKind.REMOVED, None, "interface must be an Interface, got None"),
    ],
)
def test_a_change_names_the_field_at_fault(kind: Any, interface: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        InterfaceChange(kind, interface)
    assert str(caught.value) == message
