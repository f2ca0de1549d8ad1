"""Darwin's tables against XNU's headers and Go's tables, on whatever machine this is: none here runs Darwin."""

from __future__ import annotations

from ipaddress import IPv4Address

from trio_ipv4 import HeaderFlags
from trio_ipv4._abi import structs
from trio_ipv4._abi.darwin import DARWIN
from trio_ipv4._abi.platform import Layout
from trio_ipv4._conn import raw as raw_conn

GROUP = IPv4Address("239.1.2.3").packed
SOURCE = IPv4Address("192.0.2.1").packed

# What the headers of apple-oss-distributions/xnu define, as names and numbers.
IN_H = """
    IPPROTO_IP 0
    IP_HDRINCL 2                IP_TOS 3                    IP_TTL 4
    IP_MULTICAST_IF 9           IP_MULTICAST_TTL 10         IP_MULTICAST_LOOP 11
    IP_RECVTTL 24               IP_PKTINFO 26               IP_RECVTOS 27
    MCAST_JOIN_GROUP 80         MCAST_LEAVE_GROUP 81        MCAST_JOIN_SOURCE_GROUP 82
    MCAST_LEAVE_SOURCE_GROUP 83 MCAST_BLOCK_SOURCE 84       MCAST_UNBLOCK_SOURCE 85
    MCAST_INCLUDE 1             MCAST_EXCLUDE 2
"""
"""bsd/netinet/in.h"""
SOCKET_H = """
    SOL_SOCKET 0xffff           AF_INET 2
    SO_REUSEADDR 0x0004         SO_BROADCAST 0x0020         SO_REUSEPORT 0x0200
    SO_SNDBUF 0x1001            SO_RCVBUF 0x1002            SO_TYPE 0x1008
"""
"""bsd/sys/socket.h"""


def numbers(header: str) -> dict[str, int]:
    words = iter(header.split())
    return {name: int(number, 0) for name, number in zip(words, words, strict=True)}


def test_every_option_has_the_number_that_xnus_headers_give_it() -> None:
    ip, socket = numbers(IN_H), numbers(SOCKET_H)
    expected = {name: (ip["IPPROTO_IP"], number) for name, number in ip.items() if name.startswith(("IP_", "MCAST_"))}
    expected |= {name: (socket["SOL_SOCKET"], number) for name, number in socket.items() if name.startswith("SO_")}
    modes = {name: expected.pop(name)[1] for name in ("MCAST_INCLUDE", "MCAST_EXCLUDE")}
    assert {name: (option.level, option.name) for name, option in DARWIN.options.items()} == expected
    assert modes == {"MCAST_INCLUDE": DARWIN.mcast_include, "MCAST_EXCLUDE": DARWIN.mcast_exclude}
    assert socket["AF_INET"] == structs.AF_INET


def test_a_control_message_arrives_under_the_number_of_the_option_that_asks_for_it() -> None:
    # bsd/netinet/ip_input.c (ip_savecontrol) labels them IP_RECVTOS, IP_RECVTTL, IP_PKTINFO.
    ip = numbers(IN_H)
    asked = {"IP_TOS": "IP_RECVTOS", "IP_TTL": "IP_RECVTTL", "IP_PKTINFO": "IP_PKTINFO"}
    assert DARWIN.control == {name: (ip["IPPROTO_IP"], ip[option]) for name, option in asked.items()}


def test_only_the_multicast_ttl_is_an_octet() -> None:
    # As golang/net ipv4/sys_darwin.go sets them.
    octets = {name for name, option in DARWIN.options.items() if option.layout is Layout.OCTET}
    structures = {name for name, option in DARWIN.options.items() if option.layout is Layout.STRUCT}
    assert octets == {"IP_MULTICAST_TTL"}
    assert structures == {"IP_MULTICAST_IF"} | {name for name in numbers(IN_H) if name.endswith(("_GROUP", "_SOURCE"))}


def test_every_octet_is_where_xnus_structures_have_it() -> None:
    # bsd/netinet/in.h: sockaddr_in, ip_mreqn, in_pktinfo, and under #pragma pack(4) group_req and group_source_req.
    # bsd/sys/socket.h: sockaddr_storage, and cmsghdr, which __DARWIN_ALIGN32 pads.
    def storage(address: str) -> bytes:
        return bytes.fromhex(f"10 02 0000 {address}").ljust(128, b"\0")

    index = 0x01020304
    assert structs.sockaddr_in(DARWIN, SOURCE, 0x1234) == bytes.fromhex("10 02 1234 c0000201") + bytes(8)
    assert structs.ip_mreqn(DARWIN, GROUP, SOURCE, index) == bytes.fromhex("ef010203 c0000201 04030201")
    assert structs.in_pktinfo(DARWIN, index, SOURCE, GROUP) == bytes.fromhex("04030201 c0000201 ef010203")
    assert structs.group_req(DARWIN, index, GROUP) == bytes.fromhex("04030201") + storage("ef010203")
    request = structs.group_source_req(DARWIN, index, GROUP, SOURCE)
    assert request == bytes.fromhex("04030201") + storage("ef010203") + storage("c0000201")
    assert structs.cmsg(DARWIN, 0, 26, b"\1\2\3\4\5") == bytes.fromhex("11000000 00000000 1a000000 0102030405 000000")


def test_raw_packets_are_read_as_darwin_hands_them_up() -> None:
    # bsd/netinet/ip_input.c: host order, the header's 20 octets taken off ip_len. Go's ParseHeader reads them so too.
    delivered = bytes.fromhex("4500 0800 1234 0540 40 11 0000 c0000201 ef010203") + b"8 octets"
    header, payload = raw_conn._parse(DARWIN, delivered)
    assert (header.total_len, header.flags, header.fragment_offset) == (28, HeaderFlags.DONT_FRAGMENT, 5)
    assert (header.id, payload) == (0x1234, b"8 octets")
