from __future__ import annotations

import enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._values import fields

ADDRESSES = st.builds(IPv4Address, st.integers(0, 2**32 - 1))


@given(ADDRESSES)
def test_an_address_and_its_string_convert_to_the_same(address: IPv4Address) -> None:
    assert fields.to_address(address, "src") is address
    assert fields.to_address(str(address), "src") == address


def test_an_interfaces_address_loses_its_prefix() -> None:
    address = fields.to_address(IPv4Interface("192.0.2.1/24"), "src")
    assert type(address) is IPv4Address
    assert address == IPv4Address("192.0.2.1")
    assert fields.to_endpoint((IPv4Interface("192.0.2.1/24"), 7), "endpoint") == ("192.0.2.1", 7)


@pytest.mark.parametrize("value", [True, False, 0, 0x7F000001, None, b"\x7f\0\0\1", IPv6Address("::1"), ["127.0.0.1"]])
def test_an_address_is_never_made_of_anything_but_a_string(value: object) -> None:
    with pytest.raises(TypeError, match=r"src must be an IPv4Address or a dotted string") as caught:
        fields.to_address(value, "src")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("localhost", r"\(host names are not looked up here\)"),
        ("::1", r"\(that looks like an IPv6 address\)"),
        ("fe80::1%eth0", r"\(that looks like an IPv6 address\)"),
        ("1.2.3", ""),
        ("1.2.3.4.5", ""),
        ("1.2.3.256", ""),
        ("010.0.0.1", ""),
        ("192.0.2.1/24", ""),
        (" 1.2.3.4", ""),
        ("", ""),
    ],
)
def test_a_string_that_is_no_address_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=r"^src must be a numeric IPv4 address") as caught:
        fields.to_address(text, "src")
    assert f"got {text!r}" in str(caught.value)
    assert caught.match(hint + "$")


@given(st.text())
def test_any_string_is_an_address_or_a_value_error(text: str) -> None:
    try:
        result = str(fields.to_address(text, "src"))
    except ValueError as error:
        result = str(error)
    assert result == text or f"got {text!r}" in result


@pytest.mark.parametrize("group", ["224.0.0.0", "239.255.255.255", "232.1.1.1"])
def test_a_group_is_a_multicast_address(group: str) -> None:
    assert fields.to_group(group, "group") == IPv4Address(group)


@pytest.mark.parametrize("address", ["223.255.255.255", "240.0.0.0", "0.0.0.0", "255.255.255.255"])
def test_a_group_outside_class_d_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=rf"group must be .* 224.0.0.0 to 239.255.255.255, got {address}"):
        fields.to_group(address, "group")


@pytest.mark.parametrize("address", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "239.255.255.255"])
def test_a_source_that_the_kernel_would_never_match_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=rf"sources must be a unicast address, got {address}"):
        fields.to_unicast(address, "sources")


@pytest.mark.parametrize("address", ["0.0.0.1", "127.0.0.1", "223.255.255.255", "240.0.0.0"])
def test_everything_else_is_unicast(address: str) -> None:
    assert fields.to_unicast(address, "sources") == IPv4Address(address)


@given(st.integers(), st.integers(), st.integers())
def test_an_integer_passes_exactly_within_its_range(number: int, lowest: int, highest: int) -> None:
    if lowest <= number <= highest:
        assert fields.to_integer(number, "ttl", lowest, highest) == number
    else:
        with pytest.raises(ValueError, match=f"ttl must be from {lowest} to {highest}, got {number}$"):
            fields.to_integer(number, "ttl", lowest, highest)


class Code(enum.IntEnum):
    BELOW = 9
    LOWEST = 10
    HIGHEST = 46
    ABOVE = 47


def test_an_enum_member_passes_for_its_number() -> None:
    for code in (Code.LOWEST, Code.HIGHEST):
        assert fields.to_integer(code, "dscp", 10, 46) == code.value
    for code in (Code.BELOW, Code.ABOVE):
        with pytest.raises(ValueError, match=f"dscp must be from 10 to 46, got {code.value}"):
            fields.to_integer(code, "dscp", 10, 46)


@pytest.mark.parametrize("port", [0, 1, 0xFFFE, 0xFFFF, Code.HIGHEST])
def test_a_port_has_16_bits(port: int) -> None:
    assert fields.to_endpoint(("192.0.2.1", port), "peer") == ("192.0.2.1", port)


@pytest.mark.parametrize("port", [-1, 0x10000])
def test_a_port_of_more_than_16_bits_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=f"the port of peer must be from 0 to 65535, got {port}"):
        fields.to_endpoint(("192.0.2.1", port), "peer")


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, Fraction(1), b"\1"])
def test_what_only_looks_like_an_integer_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"ttl must be an integer from 1 to 255, got ") as caught:
        fields.to_integer(value, "ttl", 1, 255)
    assert repr(value) in str(caught.value)


def test_none_says_absent_and_is_not_an_integer() -> None:
    assert fields.to_optional_integer(None, "ttl", 1, 255) is None
    assert fields.to_optional_integer(1, "ttl", 1, 255) == 1
    with pytest.raises(ValueError, match="ttl must be from 1 to 255, got 0"):
        fields.to_optional_integer(0, "ttl", 1, 255)


@given(st.binary())
def test_octets_are_made_immutable(data: bytes) -> None:
    assert fields.to_octets(data, "payload") is data
    assert fields.to_octets(bytearray(data), "payload") == data
    assert fields.to_octets(memoryview(data), "payload") == data
    assert type(fields.to_octets(bytearray(data), "payload")) is bytes


@pytest.mark.parametrize("value", ["text", 5, None, [1, 2], True])
def test_octets_are_never_made_of_a_number_or_a_string(value: object) -> None:
    with pytest.raises(TypeError, match="payload must be bytes, got "):
        fields.to_octets(value, "payload")


def test_an_endpoint_holds_its_address_as_a_string() -> None:
    assert fields.to_endpoint((IPv4Address("192.0.2.1"), 53), "peer") == ("192.0.2.1", 53)
    assert fields.to_endpoint(("192.0.2.1", 0), "peer") == ("192.0.2.1", 0)


@pytest.mark.parametrize("value", ["192.0.2.1:53", ("192.0.2.1",), ("::1", 53, 0, 0), ["192.0.2.1", 53], None])
def test_an_endpoint_is_a_tuple_of_two(value: object) -> None:
    with pytest.raises(TypeError, match=r"peer must be a tuple \(address, port\), got "):
        fields.to_endpoint(value, "peer")


def test_an_endpoint_says_which_half_is_wrong() -> None:
    with pytest.raises(ValueError, match="the address of peer must be a numeric IPv4 address"):
        fields.to_endpoint(("localhost", 53), "peer")
    with pytest.raises(ValueError, match="the port of peer must be from 0 to 65535, got 65536"):
        fields.to_endpoint(("192.0.2.1", 65536), "peer")
    with pytest.raises(TypeError, match="the port of peer must be an integer from 0 to 65535, got True"):
        fields.to_endpoint(("192.0.2.1", True), "peer")


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_a_boolean_is_true_or_false(value: object) -> None:
    assert fields.to_bool(True, "share_port") is True
    assert fields.to_bool(False, "share_port") is False
    with pytest.raises(TypeError, match="share_port must be True or False, got "):
        fields.to_bool(value, "share_port")


def test_an_absent_source_is_none_and_never_the_unspecified_address() -> None:
    assert fields.to_source(None, "src") is None
    assert fields.to_source("192.0.2.1", "src") == IPv4Address("192.0.2.1")
    with pytest.raises(ValueError, match=r"src must not be 0\.0\.0\.0"):
        fields.to_source("0.0.0.0", "src")


def test_a_long_string_for_octets_is_shown_by_its_beginning() -> None:
    with pytest.raises(TypeError, match=r"encode it, 'abcdefghijklmnopqrst'\.encode\(\)$"):
        fields.to_octets("abcdefghijklmnopqrstuvwxyz", "payload")
