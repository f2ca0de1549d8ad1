from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._codec.interface_table import InterfaceTable
from trio_ipv4._codec.rtnetlink import (
    Done,
    Failure,
    Interrupted,
    Message,
    NewAddress,
    NewGroup,
    NewLink,
    NewSettings,
    Overrun,
    RemovedAddress,
    RemovedGroup,
    RemovedLink,
    Route,
    address_dump_request,
    group_dump_request,
    input_route_request,
    link_dump_request,
    parse_messages,
)
from trio_ipv4._errors import ParseError
from trio_ipv4._values.interface import InterfaceFlags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ipv4._values.interface import Interface

T = TypeVar("T")
ByteOrder = Literal["little", "big"]
BYTE_ORDERS: list[ByteOrder] = ["little", "big"]
UP = InterfaceFlags.UP | InterfaceFlags.MULTICAST


class Writer:
    """Writes what a kernel of either byte order would; the numbers are those of linux/netlink.h and its like."""

    def __init__(self, byte_order: ByteOrder = sys.byteorder) -> None:
        self.order = "<" if byte_order == "little" else ">"

    def pack(self, layout: str, *values: int) -> bytes:
        return struct.pack(self.order + layout, *values)

    def message(self, kind: int, body: bytes = b"", *, flags: int = 0, sequence: int = 0) -> bytes:
        header = self.pack("IHHII", 16 + len(body), kind, flags, sequence, 0)
        return header + body + bytes(-len(body) % 4)

    def attribute(self, kind: int, value: bytes) -> bytes:
        return self.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    def link(
        self, kind: int = 16, index: int = 2, name: bytes | None = b"eth0", mtu: int | None = 1500, **more: Any
    ) -> bytes:
        body = self.pack("BxHiII", more.pop("family", 0), 1, index, int(UP), 0)
        body += b"" if name is None else self.attribute(3, name + b"\0")
        body += self.attribute(0x8000 | 18, more.pop("information", b""))
        body += self.attribute(44, bytes(4))  # IFLA_EVENT
        body += b"" if mtu is None else self.attribute(4, self.pack("I", mtu))
        return self.message(kind, body + more.pop("extra", b""), **more)

    def address(
        self, kind: int = 20, *, local: str | None = "192.0.2.1", peer: str | None = None, **more: Any
    ) -> bytes:
        body = self.pack(
            "BBBBI",
            more.pop("family", 2),
            more.pop("prefix_len", 24),
            more.pop("ifa_flags", 0),
            253,
            more.pop("index", 2),
        )
        for number, text in ((1, peer), (2, local)):
            body += b"" if text is None else self.attribute(number, IPv4Address(text).packed)
        return self.message(kind, body + self.attribute(3, b"eth0\0"), **more)

    def group(self, kind: int = 56, *, index: int = 2, group: str | None = "239.1.2.3", **more: Any) -> bytes:
        body = self.pack("BBBBI", more.pop("family", 2), 32, 0x80, 0, index)
        body += b"" if group is None else self.attribute(7, IPv4Address(group).packed)
        # struct ifa_cacheinfo: preferred, valid, created, changed.
        times = self.pack("IIII", 2**32 - 1, 2**32 - 1, more.pop("created", 12345), 99999)
        return self.message(kind, body + self.attribute(6, more.pop("times", times)), **more)


W = Writer()


@pytest.mark.parametrize("order", BYTE_ORDERS)
def test_links_and_addresses_are_read_in_order(order: ByteOrder) -> None:
    w = Writer(order)
    data = w.link(sequence=5) + w.address(local="192.0.2.1", peer="192.0.2.1") + w.address(21) + w.link(17)
    address = IPv4Interface("192.0.2.1/24")
    assert parse_messages(data, order) == (
        NewLink(5, 2, "eth0", 1500, UP),
        NewAddress(0, 2, address, address.ip, 253, False),
        RemovedAddress(0, 2, address, address.ip),
        RemovedLink(0, 2),
    )


def test_the_local_address_of_a_point_to_point_link_is_its_own() -> None:
    (message,) = parse_messages(W.address(local="10.0.0.1", peer="10.0.0.2", prefix_len=32))
    assert message == NewAddress(0, 2, IPv4Interface("10.0.0.1/32"), IPv4Address("10.0.0.2"), 253, False)


def test_without_a_local_address_the_other_one_is_it() -> None:
    (message,) = parse_messages(W.address(local=None, peer="10.0.0.2"))
    assert message == NewAddress(0, 2, IPv4Interface("10.0.0.2/24"), IPv4Address("10.0.0.2"), 253, False)


@pytest.mark.parametrize(
    ("flags", "is_secondary"),
    [(0, False), (0x01, True), (0x80, False), (0x81, True), (0xFE, False), (0xFF, True)],  # 0x80 is IFA_F_PERMANENT.
)
def test_secondary_addresses_are_marked(flags: int, is_secondary: bool) -> None:
    (message,) = parse_messages(W.address(ifa_flags=flags))
    assert isinstance(message, NewAddress)
    assert message.is_secondary is is_secondary


def test_the_least_and_the_greatest_numbers_are_read() -> None:
    assert parse_messages(W.link(index=1, mtu=0) + W.link(17, index=2**31 - 1)) == (
        NewLink(0, 1, "eth0", 0, UP),
        RemovedLink(0, 2**31 - 1),
    )
    (message,) = parse_messages(W.link(index=2**31 - 1, mtu=2**32 - 1, sequence=2**32 - 1))
    assert message == NewLink(2**32 - 1, 2**31 - 1, "eth0", 2**32 - 1, UP)
    every = W.address(index=1, local="0.0.0.0", prefix_len=0)
    one = W.address(index=2**31 - 1, local="255.255.255.255", prefix_len=32)
    low, high = IPv4Interface("0.0.0.0/0"), IPv4Interface("255.255.255.255/32")
    assert parse_messages(every + one) == (
        NewAddress(0, 1, low, low.ip, 253, False),
        NewAddress(0, 2**31 - 1, high, high.ip, 253, False),
    )


def test_a_bridges_word_on_its_ports_is_not_about_links() -> None:
    assert parse_messages(W.link(16, family=7) + W.link(17, family=7)) == ()


@pytest.mark.parametrize(
    "data",
    [
        W.address(family=10),
        W.address(family=1),
        W.address(local=None),
        W.link(name=None),
        W.link(mtu=None),
        W.message(32, bytes(12)),
        W.message(1),
        W.message(2, bytes(20)),
        b"",
    ],
    ids=["IPv6", "AF_UNIX", "no address", "no name", "no MTU", "rule", "NOOP", "acknowledgement", "nothing"],
)
def test_what_an_interface_does_not_hold_is_passed_over(data: bytes) -> None:
    assert parse_messages(data) == ()
    assert parse_messages(data + W.link(17)) == (RemovedLink(0, 2),)


def test_a_removed_link_needs_no_attributes() -> None:
    assert parse_messages(W.link(17, name=None, mtu=None)) == (RemovedLink(0, 2),)


def test_the_end_of_a_dump_is_told_and_its_failure() -> None:
    assert parse_messages(W.message(3, W.pack("i", 0), sequence=7)) == (Done(7),)
    assert parse_messages(W.message(3, W.pack("i", -105), sequence=7)) == (Failure(7, 105),)
    assert parse_messages(W.message(2, W.pack("i", -1) + bytes(16), sequence=8)) == (Failure(8, 1),)
    assert parse_messages(W.message(4, sequence=9)) == (Overrun(9),)


def test_only_a_negative_number_is_a_failure() -> None:
    assert parse_messages(W.message(3, W.pack("i", 1), sequence=7)) == (Done(7),)
    assert parse_messages(W.message(2, W.pack("i", 1) + bytes(16), sequence=8)) == ()


def test_an_interrupted_dump_is_told_before_the_message_that_says_so() -> None:
    assert parse_messages(W.message(3, W.pack("i", 0), flags=0x12, sequence=7)) == (Interrupted(7), Done(7))
    assert parse_messages(W.link(flags=0x10)) == (Interrupted(0), NewLink(0, 2, "eth0", 1500, UP))
    assert parse_messages(W.message(1, flags=0x10, sequence=7)) == (Interrupted(7),)
    assert parse_messages(W.message(3, W.pack("i", 0), flags=0xFFFF - 0x10, sequence=7)) == (Done(7),)


def test_names_are_any_octets_up_to_a_zero() -> None:
    (message,) = parse_messages(W.link(name=b"\xffth\0junk"))
    assert isinstance(message, NewLink)
    assert message.name == "\udcffth"
    (message,) = parse_messages(W.link(name="größe".encode()))
    assert isinstance(message, NewLink)
    assert message.name == "größe"


@pytest.mark.parametrize("order", BYTE_ORDERS)
def test_kind_master_names_and_hardware_address_are_read(order: ByteOrder) -> None:
    w = Writer(order)
    information = w.attribute(1, b"veth\0") + w.attribute(4, b"bridge\0") + w.attribute(0x8000 | 5, b"\xff")
    names = w.attribute(53, b"first-of-two-long-names\0") + w.attribute(99, b"x") + w.attribute(53, b"second\0")
    extra = w.attribute(10, w.pack("I", 7)) + w.attribute(0x8000 | 52, names) + w.attribute(1, bytes(range(6)))
    (message,) = parse_messages(w.link(information=information, extra=extra), order)
    assert message == NewLink(
        *(0, 2, "eth0", 1500, UP),
        kind="veth",
        master=7,
        master_kind="bridge",
        alternative_names=("first-of-two-long-names", "second"),
        hardware_address=bytes(range(6)),
    )


@pytest.mark.parametrize("master", [0, 2**31, 2**32 - 1])
def test_what_is_no_index_is_no_master(master: int) -> None:
    (message,) = parse_messages(W.link(extra=W.attribute(10, W.pack("I", master))))
    assert message == NewLink(0, 2, "eth0", 1500, UP)


@pytest.mark.parametrize("kind", [18, 52])
def test_a_nested_attribute_cannot_be_longer_than_what_holds_it(kind: int) -> None:
    with pytest.raises(ParseError, match="the length of an attribute must be from 4 to 8, got 9"):
        parse_messages(W.link(extra=W.attribute(kind, W.pack("HH", 9, 1) + bytes(4))))


@pytest.mark.parametrize("order", BYTE_ORDERS)
def test_settings_say_that_a_link_has_ipv4(order: ByteOrder) -> None:
    w = Writer(order)

    def settings(index: int, family: int = 2) -> bytes:
        return w.message(80, w.pack("Bxxx", family) + w.attribute(1, w.pack("i", index)) + w.attribute(2, bytes(4)))

    assert parse_messages(settings(7) + settings(2**31 - 1), order) == (NewSettings(0, 7), NewSettings(0, 2**31 - 1))
    # "all", "default", IPv6, and a message about no link at all.
    assert parse_messages(settings(-1) + settings(-2) + settings(7, family=10), order) == ()
    assert parse_messages(w.message(80, w.pack("Bxxx", 2)), order) == ()


@pytest.mark.parametrize("order", BYTE_ORDERS)
def test_a_route_says_whether_this_host_takes_the_packet(order: ByteOrder) -> None:
    w = Writer(order)

    def route(flags: int) -> bytes:
        fixed = w.pack("BBBBBBBBI", 2, 32, 32, 0, 0, 0, 0, 5, flags)
        return w.message(24, fixed + w.attribute(1, bytes((239, 1, 2, 3))))

    assert parse_messages(route(0x8000_0000) + route(0x2000_0000), order) == (Route(0, True), Route(0, False))


@pytest.mark.parametrize("order", BYTE_ORDERS)
def test_a_question_for_an_input_route_names_the_packet_and_where_it_comes_in(order: ByteOrder) -> None:
    w = Writer(order)
    source, group = IPv4Address("198.18.0.1"), IPv4Address("239.1.2.3")
    # struct rtmsg, then RTA_DST, RTA_SRC, RTA_IIF and RTA_IP_PROTO (linux/rtnetlink.h).
    body = (
        w.pack("BBBBBBBBI", 2, 32, 32, 0, 0, 0, 0, 0, 0) + w.attribute(1, group.packed) + w.attribute(2, source.packed)
    )
    body += w.attribute(3, w.pack("I", 7)) + w.attribute(27, b"\x11")
    request = input_route_request(9, 7, source, group, order)
    assert request == w.pack("IHHII", 16 + len(body), 26, 1, 9, 0) + body


@pytest.mark.parametrize("order", BYTE_ORDERS)
def test_groups_are_read_with_the_time_of_their_join(order: ByteOrder) -> None:
    w = Writer(order)
    data = w.group(58, sequence=4) + w.group(56, index=2**31 - 1, created=2**32 - 1) + w.group(57) + w.group(created=0)
    group = IPv4Address("239.1.2.3")
    assert parse_messages(data, order) == (
        NewGroup(4, 2, group, 12345),
        NewGroup(0, 2**31 - 1, group, 2**32 - 1),
        RemovedGroup(0, 2, group),
        NewGroup(0, 2, group, 0),
    )


@pytest.mark.parametrize("kind", [56, 57, 58])
def test_what_is_no_group_of_ipv4_is_passed_over(kind: int) -> None:
    for data in (W.group(kind, family=10), W.group(kind, group=None), W.group(kind, group="192.0.2.1")):
        assert parse_messages(data + W.link(17)) == (RemovedLink(0, 2),)


def test_a_group_that_is_left_needs_no_time() -> None:
    assert parse_messages(W.group(57, times=b"")) == (RemovedGroup(0, 2, IPv4Address("239.1.2.3")),)
    for times in (b"", bytes(15)):
        with pytest.raises(ParseError, match=f"IFA_CACHEINFO must have 16 octets or more, got {len(times)}"):
            parse_messages(W.group(56, times=times))
    parse_messages(W.group(56, times=bytes(17)))


def test_the_last_of_equal_attributes_counts() -> None:
    (message,) = parse_messages(W.link(extra=W.attribute(4, W.pack("I", 9000))))
    assert isinstance(message, NewLink)
    assert message.mtu == 9000


@pytest.mark.parametrize("flags", [0x8000, 0x4000, 0xC000])
def test_the_flags_of_an_attribute_are_no_part_of_its_type(flags: int) -> None:
    data = W.link(name=None, extra=W.attribute(flags | 3, b"eth1\0"))
    assert parse_messages(data) == (NewLink(0, 2, "eth1", 1500, UP),)


def test_padding_may_lack_behind_the_last_attribute() -> None:
    body = W.link(name=None)[16:] + W.attribute(3, b"eth1\0")[:-3]
    assert parse_messages(W.message(16, body)) == (NewLink(0, 2, "eth1", 1500, UP),)


def test_padding_may_lack_behind_the_last_message() -> None:
    data = W.message(3, W.pack("i", 0) + b"\0")
    assert parse_messages(data[:-3]) == (Done(0),)


def test_parsing_takes_linear_time() -> None:
    data = W.link() * 2_000 + W.message(16, W.link()[16:] + W.attribute(9, b"") * 20_000)
    assert len(parse_messages(data)) == 2_001


@pytest.mark.parametrize(
    ("data", "offset", "message"),
    [
        (b"\x10", 0, "a netlink message has at least 16 octets, got 1"),
        (W.link() + bytes(15), len(W.link()), "a netlink message has at least 16 octets, got 15"),
        (bytes(16), 0, "the length of a netlink message must be from 16 to 16, got 0"),
        (W.pack("IHHII", 15, 1, 0, 0, 0), 0, "the length of a netlink message must be from 16 to 16, got 15"),
        (W.pack("IHHII", 17, 1, 0, 0, 0), 0, "the length of a netlink message must be from 16 to 16, got 17"),
        (W.message(16, bytes(15)), 16, "a netlink message of type 16 has at least 16 octets after its header, got 15"),
        (W.message(20, bytes(7)), 16, "a netlink message of type 20 has at least 8 octets after its header, got 7"),
        (W.message(3, bytes(3)), 16, "a netlink message of type 3 has at least 4 octets after its header, got 3"),
        (W.message(2), 16, "a netlink message of type 2 has at least 4 octets after its header, got 0"),
        (W.link(index=0), 20, "an interface index must be from 1 to 2147483647, got 0"),
        (W.link(17, index=-1), 20, "an interface index must be from 1 to 2147483647, got -1"),
        (W.address(index=2**31), 20, "an interface index must be from 1 to 2147483647, got 2147483648"),
        (W.address(prefix_len=33), 17, "the prefix length must be from 0 to 32, got 33"),
        (
            W.message(17, W.link()[16:32] + W.pack("HH", 3, 3)),
            32,
            "the length of an attribute must be from 4 to 4, got 3",
        ),
        (
            W.message(17, W.link()[16:32] + W.attribute(1, bytes(6)) + W.pack("HH", 65, 3) + bytes(60)),
            44,
            "the length of an attribute must be from 4 to 64, got 65",
        ),
        (
            W.message(17, W.link()[16:32] + W.pack("HH", 9, 3) + bytes(4)),
            32,
            "the length of an attribute must be from 4 to 8, got 9",
        ),
        (W.message(17, W.link()[16:32] + b"\4"), 32, "an attribute has at least 4 octets, got 1"),
        (W.message(17, W.link()[16:32] + W.pack("HH", 4, 3)[:3]), 32, "an attribute has at least 4 octets, got 3"),
        (
            W.link(mtu=None, extra=W.attribute(4, b"\0\0")),
            len(W.link(mtu=None)) + 4,
            "an attribute of 32 bits must have 4 octets, got 2",
        ),
        (
            W.link(mtu=None, extra=W.attribute(4, bytes(5))),
            len(W.link(mtu=None)) + 4,
            "an attribute of 32 bits must have 4 octets, got 5",
        ),
    ],
)
def test_a_parse_error_says_where_and_what(data: bytes, offset: int, message: str) -> None:
    for before in (b"", W.link(), W.link(17) + W.address()):
        with pytest.raises(ParseError) as caught:
            parse_messages(before + data)
        assert (caught.value.message, caught.value.offset) == (message, len(before) + offset)


NOISE = st.binary(max_size=120)
MESSAGES = st.builds(
    W.message,
    st.sampled_from([1, 2, 3, 4, 16, 17, 20, 21, 56, 57, 58]) | st.integers(0, 0xFFFF),
    NOISE,
    flags=st.integers(0, 0xFFFF),
)
DAMAGED = st.builds(
    lambda data, at, octet: data[: at % len(data)] + bytes([octet]) + data[at % len(data) + 1 :],
    st.sampled_from([W.link(), W.address(), W.group(), W.link(17) + W.address(21), W.message(3, bytes(4))]),
    st.integers(0, 200),
    st.integers(0, 255),
)


@given(st.lists(NOISE | MESSAGES | DAMAGED, max_size=4).map(b"".join), st.sampled_from(BYTE_ORDERS))
def test_any_octets_are_messages_or_a_parse_error(data: bytes, byte_order: ByteOrder) -> None:
    try:
        messages = parse_messages(data, byte_order)
    except ParseError as error:
        offset, messages = error.offset, ()
    else:
        offset = 0
    assert 0 <= offset <= len(data)
    assert set(InterfaceTable(messages).interfaces) <= {each.index for each in messages if isinstance(each, NewLink)}


@given(st.sampled_from([W.link(), W.address(), W.group(), W.message(3, bytes(4))]), st.integers(1, 200))
def test_a_message_cut_short_is_a_parse_error(data: bytes, cut: int) -> None:
    with pytest.raises(ParseError):
        parse_messages(data[: max(1, len(data) - cut)])


def test_requests_have_the_octets_that_the_kernel_reads() -> None:
    # Without statistics: IFLA_EXT_MASK (29), RTEXT_FILTER_SKIP_STATS (8).
    little, big = bytes.fromhex("0800 1d00 08000000"), bytes.fromhex("0008 001d 00000008")
    assert link_dump_request(1, "little") == bytes.fromhex("28000000 1200 0103 01000000 00000000") + bytes(16) + little
    assert link_dump_request(1, "big") == bytes.fromhex("00000028 0012 0301 00000001 00000000") + bytes(16) + big
    assert address_dump_request(2, "little") == bytes.fromhex("18000000 1600 0103 02000000 00000000 02") + bytes(7)
    assert address_dump_request(2, "big") == bytes.fromhex("00000018 0016 0301 00000002 00000000 02") + bytes(7)
    assert group_dump_request(3, "little") == bytes.fromhex("18000000 3a00 0103 03000000 00000000 02") + bytes(7)
    assert group_dump_request(3, "big") == bytes.fromhex("00000018 003a 0301 00000003 00000000 02") + bytes(7)
    assert link_dump_request(3) == link_dump_request(3, sys.byteorder)


def dump() -> list[Message]:
    """Ask this machine's kernel, which answers on the same host: no traffic."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        return [*ask(netlink, link_dump_request(1)), *ask(netlink, address_dump_request(2))]


def ask(netlink: socket.socket, request: bytes) -> list[Message]:
    netlink.send(request)
    messages: list[Message] = []
    while not any(isinstance(each, Done | Failure) for each in messages):
        messages += parse_messages(netlink.recv(1 << 17))
    return messages


def steady(observe: Callable[[], T]) -> tuple[Mapping[int, Interface], T]:
    """Observe what did not change meanwhile: other tests make interfaces, too."""
    for _ in range(100):
        before, seen, after = dump(), observe(), dump()
        if before == after and not any(isinstance(each, Interrupted) for each in after):
            return InterfaceTable(after).interfaces, seen
    raise AssertionError("this machine's interfaces change all the time")


def ip(*arguments: str) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = json.loads(subprocess.check_output(["ip", "-j", *arguments]))
    return [each for each in answer if each]


@pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink is Linux's")
def test_a_dump_of_this_machine_ends_and_is_complete() -> None:
    assert [each for each in dump() if isinstance(each, Done | Failure)] == [Done(1), Done(2)]
    interfaces, names = steady(socket.if_nameindex)
    assert {index: interface.name for index, interface in interfaces.items()} == dict(names)


@pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink is Linux's")
@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
def test_a_dump_of_this_machine_says_what_ip_says() -> None:
    interfaces, links = steady(lambda: ip("addr"))
    assert {each["ifindex"]: (each["ifname"], each["mtu"]) for each in links} == {
        index: (interface.name, interface.mtu) for index, interface in interfaces.items()
    }
    for each in links:
        interface = interfaces[each["ifindex"]]
        flags = {flag.name for flag in interface.flags} - {"RUNNING"}  # ip says NO-CARRIER where it lacks.
        assert flags == set(each["flags"]) & set(InterfaceFlags.__members__)
        owned = [f"{info['local']}/{info['prefixlen']}" for info in each["addr_info"] if info["family"] == "inet"]
        assert [str(address) for address in interface.addresses] == list(dict.fromkeys(owned))
