from __future__ import annotations

import pickle
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import attrs
import pytest

from trio_ipv4._values.group import GroupReq
from trio_ipv4._values.interface import Interface, InterfaceFlags
from trio_ipv4._values.source_filter import SourceFilter

EN0 = Interface(2, "en0", 1500, InterfaceFlags.UP)
GROUP = "224.0.0.250"


def test_an_interface_is_kept_as_its_index() -> None:
    assert GroupReq(EN0, GROUP).interface == 2
    assert GroupReq(EN0, GROUP) == GroupReq(2, GROUP)
    assert GroupReq(None, GROUP).interface is None


def test_a_group_is_kept_as_an_address() -> None:
    assert GroupReq(EN0, GROUP).group == IPv4Address(GROUP)
    assert GroupReq(EN0, GROUP) == GroupReq(EN0, IPv4Address(GROUP))


def test_every_source_is_heard_by_default() -> None:
    assert GroupReq(EN0, GROUP).sources == SourceFilter.any()
    assert GroupReq(EN0, GROUP) != GroupReq(EN0, GROUP, sources=SourceFilter.none())


def test_requests_are_values() -> None:
    request = GroupReq(EN0, GROUP, sources=SourceFilter.include("192.0.2.1"))
    assert {request: 1}[GroupReq(2, GROUP, sources=SourceFilter.include("192.0.2.1"))] == 1
    assert pickle.loads(pickle.dumps(request)) == request
    assert attrs.evolve(request, interface=3) == GroupReq(3, GROUP, sources=SourceFilter.include("192.0.2.1"))
    assert eval(repr(request)) == request


def test_a_request_cannot_be_changed() -> None:
    request = GroupReq(EN0, GROUP)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        request.interface = 3  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del request.group


@pytest.mark.parametrize(
    ("interface", "group", "error", "message"),
    [
        ("en0", GROUP, TypeError, r"interface must be an Interface or an index, got 'en0': only a connection"),
        (IPv4Address("192.0.2.1"), GROUP, TypeError, r"interface must be an Interface or an index"),
        (True, GROUP, TypeError, r"interface must be an integer from 1 to 2147483647, got True"),
        (0, GROUP, ValueError, r"interface must be from 1 to 2147483647, got 0"),
        (2, "192.0.2.1", ValueError, r"group must be a multicast address, 224.0.0.0 to 239.255.255.255, got 192.0.2.1"),
        (2, "all-hosts.example", ValueError, r"group must be a numeric .* \(host names are not looked up here\)"),
        (2, "ff02::1", ValueError, r"group must be a numeric .* \(that looks like an IPv6 address\)"),
        (2, IPv6Address("ff02::1"), TypeError, r"group must be an IPv4Address or a dotted string"),
        (2, True, TypeError, r"group must be an IPv4Address or a dotted string such as '.*', got True"),
    ],
)
def test_a_request_names_the_field_at_fault(interface: Any, group: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GroupReq(interface, group)


@pytest.mark.parametrize("sources", [None, ["192.0.2.1"], "192.0.2.1"])
def test_sources_are_a_source_filter(sources: Any) -> None:
    with pytest.raises(TypeError, match="sources must be a SourceFilter, got "):
        GroupReq(EN0, GROUP, sources=sources)
