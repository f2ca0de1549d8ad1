from __future__ import annotations

import pickle
from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._values.icmp import ICMPFilter, ICMPType

NAMES = {  # IANA's registry, and Go's strings
    0: "echo reply",
    3: "destination unreachable",
    5: "redirect",
    8: "echo",
    9: "router advertisement",
    10: "router solicitation",
    11: "time exceeded",
    12: "parameter problem",
    13: "timestamp",
    14: "timestamp reply",
    40: "photuris",
    42: "extended echo request",
    43: "extended echo reply",
}
FILTERS = st.builds(ICMPFilter, st.integers(0, 2**32 - 1))
TYPES = st.integers(0, 31)


def blocked(icmp_filter: ICMPFilter) -> set[int]:
    return {number for number in range(32) if icmp_filter.will_block(number)}


def test_types_have_the_registrys_numbers_and_names() -> None:
    assert {int(each): str(each) for each in ICMPType} == NAMES
    assert f"{ICMPType.DESTINATION_UNREACHABLE}" == "destination unreachable"
    assert f"{ICMPType.ECHO:02d}" == "08"
    assert ICMPType(8) is ICMPType.ECHO


def test_types_outside_the_registry_are_refused() -> None:
    with pytest.raises(ValueError, match="99 is not a valid ICMPType"):
        ICMPType(99)


def test_nothing_is_blocked_by_default() -> None:
    assert ICMPFilter() == ICMPFilter.accept_all()
    assert blocked(ICMPFilter.accept_all()) == set()
    assert blocked(ICMPFilter.block_all()) == set(range(32))


def test_a_set_bit_blocks() -> None:
    assert ICMPFilter().block(ICMPType.ECHO).mask == 1 << 8
    assert ICMPFilter(1 << 8).will_block(ICMPType.ECHO)
    assert ICMPFilter.block_all().accept(ICMPType.ECHO_REPLY).mask == 0xFFFF_FFFE


@given(FILTERS, st.lists(TYPES))
def test_blocking_blocks_these_types_too(icmp_filter: ICMPFilter, types: list[int]) -> None:
    assert blocked(icmp_filter.block(*types)) == blocked(icmp_filter) | set(types)


@given(FILTERS, st.lists(TYPES))
def test_accepting_blocks_these_types_no_longer(icmp_filter: ICMPFilter, types: list[int]) -> None:
    assert blocked(icmp_filter.accept(*types)) == blocked(icmp_filter) - set(types)


@given(st.integers(32, 255))
def test_a_type_that_the_kernel_never_filters_is_refused(number: int) -> None:
    message = f"type must be from 0 to 31, got {number}: the kernel never filters the types above"
    for refuse in (ICMPFilter().block, ICMPFilter.block_all().accept, ICMPFilter.block_all().will_block):
        with pytest.raises(ValueError, match=message):
            refuse(number)


@pytest.mark.parametrize("each", [ICMPType.PHOTURIS, ICMPType.EXTENDED_ECHO_REQUEST, ICMPType.EXTENDED_ECHO_REPLY])
def test_a_named_type_of_32_and_more_aliases_no_other(each: ICMPType) -> None:
    with pytest.raises(ValueError, match=f"type must be from 0 to 31, got {int(each)}"):
        ICMPFilter().block(ICMPType.ECHO, each)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (True, TypeError, "type must be an integer from 0 to 255, got True"),
        (8.0, TypeError, "type must be an integer from 0 to 255, got 8.0"),
        ("echo", TypeError, "type must be an integer from 0 to 255, got 'echo'"),
        (IPv4Address(8), TypeError, "type must be an integer from 0 to 255, got IPv4Address"),
        (-1, ValueError, "type must be from 0 to 255, got -1"),
        (256, ValueError, "type must be from 0 to 255, got 256"),
    ],
)
def test_what_is_no_type_is_refused(value: Any, error: type[Exception], message: str) -> None:
    for refuse in (ICMPFilter().block, ICMPFilter().accept, ICMPFilter().will_block):
        with pytest.raises(error) as caught:
            refuse(value)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (-1, ValueError, "mask must be from 0 to 4294967295, got -1"),
        (2**32, ValueError, "mask must be from 0 to 4294967295, got 4294967296"),
        (True, TypeError, "mask must be an integer from 0 to 4294967295, got True"),
        (None, TypeError, "mask must be an integer from 0 to 4294967295, got None"),
    ],
)
def test_a_mask_has_32_bits(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        ICMPFilter(mask)
    assert str(caught.value) == message


@given(FILTERS)
def test_filters_are_values(icmp_filter: ICMPFilter) -> None:
    assert eval(repr(icmp_filter)) == icmp_filter
    assert pickle.loads(pickle.dumps(icmp_filter)) == icmp_filter
    assert hash(ICMPFilter(icmp_filter.mask)) == hash(icmp_filter)


def test_a_filter_cannot_be_changed() -> None:
    icmp_filter = ICMPFilter()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        icmp_filter.mask = 1  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del icmp_filter.mask
    icmp_filter.block(8)
    assert icmp_filter == ICMPFilter()
