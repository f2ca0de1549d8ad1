from __future__ import annotations

import pickle
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.wire import fields_of, need_tshark, summed, write_capture
from trio_ipv4._errors import ParseError
from trio_ipv4._values.checksum import internet_checksum
from trio_ipv4._values.header import Header
from trio_ipv4._values.icmp import ICMPType
from trio_ipv4._values.icmp_error import (
    ICMPDestinationUnreachable,
    ICMPParameterProblem,
    ICMPRedirect,
    ICMPTimeExceeded,
    UnreachableCode,
)
from trio_ipv4._values.icmp_extension import (
    ICMPExtension,
    InterfaceInformation,
    InterfaceRole,
    MPLSLabel,
    MPLSLabelStack,
    marshal_extensions,
    parse_extensions,
)
from trio_ipv4._values.icmp_message import ICMPEcho, ICMPMessage, ICMPOther, ICMPTimestamp, parse_icmp

if TYPE_CHECKING:
    from pathlib import Path

# A UDP datagram from 192.0.2.1, port 33434, to 198.51.100.2, port 33435: the header and 8 octets, as RFC 792 quotes it.
HEADER = Header(src="192.0.2.1", dst="198.51.100.2", total_len=60, id=7, ttl=1, protocol=17).with_checksum()
UDP = bytes.fromhex("829a 829b 0028 0000")
QUOTED = HEADER.marshal() + UDP

STACK = MPLSLabelStack([MPLSLabel(16014, ttl=255, traffic_class=4, bottom_of_stack=True)])
EN101 = InterfaceInformation(InterfaceRole.INCOMING, ifindex=15, address="192.168.0.1", name="en101", mtu=8192)
STRUCTURE = marshal_extensions([STACK, EN101])

# RFC 792's figures, filled in; the checksums were added up by hand from 16-bit words.
VECTORS = [
    ("0800 e7fc 0001 0002  1000", ICMPEcho(1, 2, b"\x10\0")),
    ("0000 effc 0001 0002  1000", ICMPEcho(1, 2, b"\x10\0", is_reply=True)),
    ("0801 f7fb 0001 0002  00", ICMPEcho(1, 2, b"\0", code=1)),
    ("0d00 f2f9 0001 0002  00000003 00000000 00000000", ICMPTimestamp(1, 2, originate=3)),
    (
        "0e00 f1ee 0001 0002  00000003 00000004 00000007",
        ICMPTimestamp(1, 2, originate=3, receive=4, transmit=7, is_reply=True),
    ),
    ("0303 fcfc 00000000", ICMPDestinationUnreachable(UnreachableCode.PORT_UNREACHABLE, b"")),
    ("0304 f71f 0000 05dc", ICMPDestinationUnreachable(4, b"", mtu=1500)),  # RFC 1191 section 4
    ("0304 fcfb 0000 0000", ICMPDestinationUnreachable(4, b"")),
    ("0310 b8aa 00000000  4445", ICMPDestinationUnreachable(16, b"DE")),
    ("0b00 f4ff 00000000", ICMPTimeExceeded(0, b"")),
    ("0b01 b0b9 00000000  4445", ICMPTimeExceeded(1, b"DE")),
    ("0c00 ebff 08000000", ICMPParameterProblem(0, b"", pointer=8)),
    ("0501 38fd c0000201", ICMPRedirect(1, "192.0.2.1", b"")),
    ("0a00 f5ff 00000000", ICMPOther(ICMPType.ROUTER_SOLICITATION, 0, bytes(4))),  # RFC 1256 section 3
    ("2a00 d3fe 0001 0200", ICMPOther(42, 0, b"\0\1\2\0")),
    ("ff07 00f8", ICMPOther(255, 7, b"")),
]

OCTET = st.integers(0, 0xFF)
WORD = st.integers(0, 0xFFFF)
DOUBLE_WORD = st.integers(0, 0xFFFF_FFFF)
ADDRESSES = st.builds(IPv4Address, DOUBLE_WORD)
OBJECTS = st.sampled_from([STACK, EN101, ICMPExtension(3, 2, b"\0\0\0\1"), ICMPExtension(0xDF, 0xFB, b"")])
EXTENSIONS = st.lists(OBJECTS, max_size=3).map(tuple)
# Short and long ones; and such as hold an extension structure where one would be looked for.
QUOTES = (
    st.binary(max_size=40)
    | st.integers(100, 1020).map(bytes)
    | st.binary(max_size=30).map(lambda octets: QUOTED + octets)
    | st.binary(max_size=8).map(lambda octets: QUOTED.ljust(128, b"x") + STRUCTURE + octets)
)
ECHOES = st.builds(ICMPEcho, WORD, WORD, st.binary(max_size=20), is_reply=st.booleans(), code=OCTET)
TIMESTAMPS = st.builds(
    ICMPTimestamp,
    WORD,
    WORD,
    originate=DOUBLE_WORD,
    receive=DOUBLE_WORD,
    transmit=DOUBLE_WORD,
    is_reply=st.booleans(),
    code=OCTET,
)
UNREACHABLES = st.builds(ICMPDestinationUnreachable, OCTET, QUOTES, extensions=EXTENSIONS) | st.builds(
    ICMPDestinationUnreachable, st.just(4), QUOTES, mtu=st.none() | st.integers(1, 0xFFFF), extensions=EXTENSIONS
)
EXCEEDED = st.builds(ICMPTimeExceeded, OCTET, QUOTES, extensions=EXTENSIONS)
PROBLEMS = st.builds(ICMPParameterProblem, OCTET, QUOTES, pointer=OCTET, extensions=EXTENSIONS)
REDIRECTS = st.builds(ICMPRedirect, OCTET, ADDRESSES, QUOTES)
OTHERS = st.builds(
    ICMPOther, OCTET.filter(lambda number: number not in (0, 3, 5, 8, 11, 12, 13, 14)), OCTET, st.binary(max_size=40)
)
EXTENSIBLE = UNREACHABLES | EXCEEDED | PROBLEMS
MESSAGES = ECHOES | TIMESTAMPS | EXTENSIBLE | REDIRECTS | OTHERS


def time_exceeded(quoted: bytes, length: int, rest: bytes = b"") -> bytes:
    """Write a message by hand; `length` is the sixth octet (RFC 4884 section 4.2)."""
    return summed(struct.pack("!BBHBBH", 11, 0, 0, 0, length, 0) + quoted + rest)


def parsed(octets: bytes) -> ICMPTimeExceeded:
    message = parse_icmp(octets)
    assert isinstance(message, ICMPTimeExceeded)
    return message


def error_of(data: bytes) -> ParseError:
    with pytest.raises(ParseError) as caught:
        parse_icmp(data)
    return caught.value


@pytest.mark.parametrize(("octets", "message"), VECTORS)
def test_a_message_has_the_octets_of_the_rfcs(octets: str, message: ICMPMessage) -> None:
    assert message.marshal() == bytes.fromhex(octets)
    assert parse_icmp(bytes.fromhex(octets)) == message
    assert [message.type, message.code] == list(bytes.fromhex(octets)[:2])


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message: ICMPMessage) -> None:
    wire = message.marshal()
    assert wire == summed(wire)
    back = parse_icmp(wire)
    assert back == message
    assert type(back) is type(message)
    assert hash(back) == hash(message)


@given(st.binary(max_size=40), st.sampled_from([0, 3, 5, 8, 10, 11, 12, 13, 14, 42, 255]))
def test_any_octets_are_a_message_or_a_parse_error(data: bytes, kind: int) -> None:
    for octets in (data, summed(data.ljust(4, b"\0")), summed(bytes([kind]) + data.ljust(3, b"\0"))):
        try:
            message = parse_icmp(octets)
        except ParseError as error:
            assert 0 <= error.offset <= len(octets)
        else:
            assert parse_icmp(message.marshal()) == message


@given(EXTENSIBLE, st.data())
def test_damage_that_the_checksum_hides_gives_a_message_or_a_parse_error(
    message: ICMPMessage, data: st.DataObject
) -> None:
    wire = bytearray(message.marshal())
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(1, len(wire) - 1))] = data.draw(OCTET)
    octets = summed(bytes(wire[: data.draw(st.integers(8, len(wire)))]))
    try:
        again = parse_icmp(octets)
    except ParseError as error:
        assert 8 <= error.offset <= len(octets)
    else:
        assert parse_icmp(again.marshal()) == again


@given(MESSAGES, st.data())
def test_any_other_damage_is_a_parse_error(message: ICMPMessage, data: st.DataObject) -> None:
    wire = message.marshal()
    index, flip = data.draw(st.integers(0, len(wire) - 1)), data.draw(st.integers(1, 0xFF))
    error_of(wire[:index] + bytes([wire[index] ^ flip]) + wire[index + 1 :])


@pytest.mark.parametrize(
    ("octets", "offset", "message"),
    [
        ("", 0, "the message has 4 octets at least, got 0"),
        ("0a00f5", 3, "the message has 4 octets at least, got 3"),
        ("0800f7ff 0000", 6, "the message has 8 octets at least, got 6"),
        ("0000ffff 000000", 7, "the message has 8 octets at least, got 7"),
        ("0300fcff 000000", 7, "the message has 8 octets at least, got 7"),
        ("0500faff", 4, "the message has 8 octets at least, got 4"),
        ("0b00f4ff", 4, "the message has 8 octets at least, got 4"),
        ("0c00f3ff", 4, "the message has 8 octets at least, got 4"),
        ("0d00f2ff 00000000 00000000 00000000 000000", 19, "the message has 20 octets at least, got 19"),
        ("0e00f1ff 00000000 00000000 00000000 000000", 19, "the message has 20 octets at least, got 19"),
        ("0800e7fa 00010002 1000", 2, "the checksum of the message is wrong: 0xe7fa"),
        ("00000000 00000000", 2, "the checksum of the message is wrong: 0x0000"),
    ],
)
def test_a_parse_error_says_where_and_what(octets: str, offset: int, message: str) -> None:
    error = error_of(bytes.fromhex(octets))
    assert (error.message, error.offset) == (message, offset)


def test_unused_octets_are_ignored() -> None:
    for octets, message in (
        ("0303 0000 ffff 05dc", ICMPDestinationUnreachable(3, b"")),  # An MTU has no place with this code.
        ("0304 0000 ff00 05dc", ICMPDestinationUnreachable(4, b"", mtu=1500)),
        ("0b00 0000 ffff ffff", ICMPTimeExceeded(0, b"")),
        ("0c00 0000 01ff ffff", ICMPParameterProblem(0, b"", pointer=1)),
        ("0d00 0000 0001 0002  00000003 00000000 00000000 ffff", ICMPTimestamp(1, 2, originate=3)),
    ):
        assert parse_icmp(summed(bytes.fromhex(octets))) == message


def test_any_bytes_like_object_can_be_parsed() -> None:
    mutable: Any = bytearray(b"x")
    wire = ICMPEcho(1, 2, mutable).marshal()
    for data in (bytearray(wire), memoryview(wire)):
        message = parse_icmp(data)
        assert message == ICMPEcho(1, 2, b"x")
        assert isinstance(message, ICMPEcho)
        assert type(message.data) is bytes
    with pytest.raises(TypeError, match="data must be bytes, got '0800'"):
        parse_icmp("0800")  # type: ignore[arg-type]


# The quote


def test_an_error_tells_the_header_and_the_payload_that_it_quotes() -> None:
    errors = (
        ICMPDestinationUnreachable(3, QUOTED),
        ICMPTimeExceeded(0, QUOTED),
        ICMPParameterProblem(0, QUOTED),
        ICMPRedirect(0, "192.0.2.9", QUOTED),
    )
    for error in errors:
        assert error.header == HEADER
        assert error.quoted_payload == UDP
        assert error.marshal()[8:] == QUOTED


def test_options_belong_to_the_quoted_header() -> None:
    header = attrs.evolve(HEADER, options=bytes.fromhex("94040000"))
    error = ICMPTimeExceeded(0, header.marshal() + UDP)
    assert error.header == header
    assert error.quoted_payload == UDP


@pytest.mark.parametrize("quoted", [b"", QUOTED[:19], b"\x60" + QUOTED[1:], b"octets of no datagram"])
def test_a_quote_without_a_header_has_none(quoted: bytes) -> None:
    error = ICMPTimeExceeded(0, quoted)
    assert error.header is None
    assert error.quoted_payload == b""
    assert error.quoted == quoted


# Extensions


@pytest.mark.parametrize(
    ("given_octets", "stored"), [(0, 128), (28, 128), (127, 128), (128, 128), (129, 132), (1017, 1020), (1020, 1020)]
)
def test_a_quote_before_extensions_is_padded_to_words_and_128_octets(given_octets: int, stored: int) -> None:
    error = ICMPTimeExceeded(0, b"x" * given_octets, extensions=[STACK, EN101])
    assert error.quoted == b"x" * given_octets + bytes(stored - given_octets)
    assert error.marshal() == time_exceeded(error.quoted, stored // 4, STRUCTURE)
    assert parse_icmp(error.marshal()) == error


@pytest.mark.parametrize("octets", [0, 28, 128, 129, 548, 1020, 1500])
def test_a_quote_without_extensions_is_as_it_was_given_and_has_no_length(octets: int) -> None:
    error = ICMPTimeExceeded(0, b"x" * octets)
    assert error.quoted == b"x" * octets
    assert error.marshal() == time_exceeded(error.quoted, 0)
    assert parse_icmp(error.marshal()) == error


@pytest.mark.parametrize("kind", [3, 11, 12])
def test_the_length_is_the_sixth_octet_of_the_three_kinds(kind: int) -> None:
    wire = summed(struct.pack("!BBHBBH", kind, 0, 0, 0, 33, 0) + bytes(132) + STRUCTURE)
    message = parse_icmp(wire)
    assert isinstance(message, ICMPDestinationUnreachable | ICMPTimeExceeded | ICMPParameterProblem)
    assert (message.quoted, message.extensions) == (bytes(132), (STACK, EN101))
    assert message.marshal() == wire


def test_a_redirect_has_no_extensions() -> None:
    message = ICMPRedirect(0, "0.33.0.0", bytes(128) + STRUCTURE)
    assert parse_icmp(message.marshal()) == message


def test_extensions_without_a_length_are_found_after_128_octets() -> None:
    # RFC 4884 section 5: some routers from before it.
    error = parsed(time_exceeded(QUOTED.ljust(128, b"\0"), 0, STRUCTURE))
    assert error == ICMPTimeExceeded(0, QUOTED, extensions=[STACK, EN101])
    assert error.header == HEADER


@pytest.mark.parametrize(
    "rest",
    [
        STRUCTURE[:2] + b"\0\0" + STRUCTURE[4:],  # no checksum
        STRUCTURE[:3] + b"\1" + STRUCTURE[4:],  # a wrong one
        b"\x10" + STRUCTURE[1:],  # another version
        summed(STRUCTURE + bytes(4)),  # an object of no length
        summed(STRUCTURE + b"\0\4\1"),
        STRUCTURE + b"\0\0\0\0",  # the checksum is right, the last object is none
        summed(STRUCTURE[:4]),  # no object
        b"payload of a long quote",
        b"\0",
    ],
)
def test_a_long_quote_is_no_extension(rest: bytes) -> None:
    quoted = QUOTED.ljust(128, b"x") + rest
    assert parsed(time_exceeded(quoted, 0)) == ICMPTimeExceeded(0, quoted)


def test_extensions_without_a_length_are_found_after_128_octets_only() -> None:
    quoted = QUOTED.ljust(132, b"x") + STRUCTURE
    assert parsed(time_exceeded(quoted, 0)) == ICMPTimeExceeded(0, quoted)


@pytest.mark.parametrize("length", [1, 31, 255])
def test_a_length_that_no_quote_can_have_counts_as_none(length: int) -> None:
    # Less than 128 octets with something behind, or past the end: RFC 792 calls this octet unused.
    assert parsed(time_exceeded(QUOTED, length)) == ICMPTimeExceeded(0, QUOTED)
    long = QUOTED.ljust(128, b"\0")
    assert parsed(time_exceeded(long, length, STRUCTURE)) == ICMPTimeExceeded(0, long, extensions=[STACK, EN101])


@pytest.mark.parametrize("octets", [28, 128, 256])
def test_a_length_that_ends_with_the_message_announces_nothing(octets: int) -> None:
    assert parsed(time_exceeded(bytes(octets), octets // 4)) == ICMPTimeExceeded(0, bytes(octets))


@pytest.mark.parametrize(
    ("rest", "offset", "message"),
    [
        (b"\0", 137, "an extension structure has at least 8 octets, got 1"),
        (b"\x10" + STRUCTURE[1:], 136, "the version of an extension structure must be 2, got 1"),
        (STRUCTURE[:3] + b"\1" + STRUCTURE[4:], 138, "the checksum of the extension structure is wrong: 0x"),
        (
            bytes.fromhex("20000000 00060901"),
            140,
            "the length of an object must be from 4 to 4, a multiple of 4, got 6",
        ),
        (bytes.fromhex("20000000 00080204 00010000"), 148, "the address has 4 octets, got 0"),
    ],
)
def test_malformed_extensions_that_a_length_announces_are_a_parse_error(rest: bytes, offset: int, message: str) -> None:
    error = error_of(time_exceeded(bytes(128), 32, rest))
    assert error.message.startswith(message)
    assert error.offset == offset


def test_extensions_that_a_length_announces_need_no_checksum() -> None:
    error = parsed(time_exceeded(bytes(128), 32, STRUCTURE[:2] + b"\0\0" + STRUCTURE[4:]))
    assert error.extensions == (STACK, EN101)


def test_a_quote_that_looks_like_one_with_extensions_keeps_its_octets() -> None:
    quoted = QUOTED.ljust(128, b"x") + STRUCTURE
    error = ICMPTimeExceeded(0, quoted)
    assert error.quoted == quoted
    assert error.marshal() == time_exceeded(quoted, len(quoted) // 4)
    assert parse_icmp(error.marshal()) == error


def test_a_quote_that_no_length_can_tell_is_refused_where_it_needs_one() -> None:
    deceptive = bytes(128) + marshal_extensions([ICMPExtension(9, 9, bytes(888))])
    for make in (ICMPDestinationUnreachable, ICMPTimeExceeded, ICMPParameterProblem):
        with pytest.raises(ValueError, match=r"^quoted must have from 0 to 1020 octets with extensions, got 1021$"):
            make(0, bytes(1021), extensions=[STACK])
        with pytest.raises(
            ValueError, match=r"^quoted must have from 0 to 1020 octets if it looks like one with extensions, got 1024$"
        ):
            make(0, deceptive)
    assert len(deceptive) == 1024


# Fields


def test_a_code_that_has_a_name_is_stored_by_name() -> None:
    for code in range(256):
        error = ICMPDestinationUnreachable(code, b"")
        assert error.code == code
        assert isinstance(error.code, UnreachableCode) == (code <= 15)


def test_unreachable_codes_have_the_rfcs_numbers() -> None:
    # RFC 792 page 4; RFC 1122 section 3.2.2.1; RFC 1812 section 5.2.7.1.
    assert [str(each) for each in UnreachableCode] == [
        "net unreachable",
        "host unreachable",
        "protocol unreachable",
        "port unreachable",
        "fragmentation needed",
        "source route failed",
        "net unknown",
        "host unknown",
        "source host isolated",
        "net prohibited",
        "host prohibited",
        "net unreachable for tos",
        "host unreachable for tos",
        "communication prohibited",
        "host precedence violation",
        "precedence cutoff",
    ]
    assert list(UnreachableCode) == list(range(16))


def test_a_type_that_has_a_name_is_stored_by_name() -> None:
    assert ICMPOther(9, 0, b"").type is ICMPType.ROUTER_ADVERTISEMENT
    assert type(ICMPOther(ICMPType.PHOTURIS, 0, b"").type) is ICMPType
    assert type(ICMPOther(4, 0, b"").type) is int
    assert type(parse_icmp(ICMPOther(41, 0, b"").marshal()).type) is int


def test_the_type_of_a_query_tells_whether_it_is_a_reply() -> None:
    assert ICMPEcho(1, 2).type is ICMPType.ECHO
    assert ICMPEcho(1, 2, is_reply=True).type is ICMPType.ECHO_REPLY
    assert ICMPTimestamp(1, 2).type is ICMPType.TIMESTAMP
    assert ICMPTimestamp(1, 2, is_reply=True).type is ICMPType.TIMESTAMP_REPLY


def test_the_extensions_of_an_extended_echo_can_be_read() -> None:
    # RFC 8335 section 2: identifier, sequence number and flags in a word, then an extension structure.
    request = ICMPOther(42, 0, bytes.fromhex("00010201 20000000 00080302 0000038f"))
    assert parse_extensions(request.body[4:]) == (ICMPExtension(3, 2, bytes.fromhex("0000038f")),)


@pytest.mark.parametrize(
    ("make", "arguments", "options", "error", "message"),
    [
        (ICMPEcho, (True, 0), {}, TypeError, "identifier must be an integer from 0 to 65535, got True"),
        (ICMPEcho, (65536, 0), {}, ValueError, "identifier must be from 0 to 65535, got 65536"),
        (ICMPEcho, (0, -1), {}, ValueError, "sequence must be from 0 to 65535, got -1"),
        (ICMPEcho, (0, 0, "x"), {}, TypeError, "data must be bytes, got 'x': encode it, 'x'.encode()"),
        (ICMPEcho, (0, 0), {"is_reply": 1}, TypeError, "is_reply must be True or False, got 1"),
        (ICMPEcho, (0, 0), {"code": 256}, ValueError, "code must be from 0 to 255, got 256"),
        (ICMPTimestamp, (None, 0), {}, TypeError, "identifier must be an integer from 0 to 65535, got None"),
        (ICMPTimestamp, (0, 65536), {}, ValueError, "sequence must be from 0 to 65535, got 65536"),
        (
            ICMPTimestamp,
            (0, 0),
            {"originate": 2**32},
            ValueError,
            "originate must be from 0 to 4294967295, got 4294967296",
        ),
        (
            ICMPTimestamp,
            (0, 0),
            {"receive": 0.5},
            TypeError,
            "receive must be an integer from 0 to 4294967295, got 0.5",
        ),
        (ICMPTimestamp, (0, 0), {"transmit": -1}, ValueError, "transmit must be from 0 to 4294967295, got -1"),
        (ICMPTimestamp, (0, 0), {"is_reply": None}, TypeError, "is_reply must be True or False, got None"),
        (ICMPTimestamp, (0, 0), {"code": True}, TypeError, "code must be an integer from 0 to 255, got True"),
        (ICMPDestinationUnreachable, (True, b""), {}, TypeError, "code must be an integer from 0 to 255, got True"),
        (ICMPDestinationUnreachable, (256, b""), {}, ValueError, "code must be from 0 to 255, got 256"),
        (ICMPDestinationUnreachable, (3, "x"), {}, TypeError, "quoted must be bytes, got 'x'"),
        (ICMPDestinationUnreachable, (4, b""), {"mtu": 0}, ValueError, "mtu must be from 1 to 65535, got 0"),
        (ICMPDestinationUnreachable, (4, b""), {"mtu": 65536}, ValueError, "mtu must be from 1 to 65535, got 65536"),
        (
            ICMPDestinationUnreachable,
            (4, b""),
            {"mtu": True},
            TypeError,
            "mtu must be an integer from 1 to 65535, got True",
        ),
        (
            ICMPDestinationUnreachable,
            (3, b""),
            {"mtu": 1500},
            ValueError,
            "mtu must be None with code 3, got 1500: only code 4 (fragmentation needed) has one",
        ),
        (
            ICMPDestinationUnreachable,
            (3, b""),
            {"extensions": [1]},
            TypeError,
            "extensions[0] must be an object of an ICMP extension, got 1",
        ),
        (ICMPTimeExceeded, (-1, b""), {}, ValueError, "code must be from 0 to 255, got -1"),
        (ICMPTimeExceeded, (0, 5), {}, TypeError, "quoted must be bytes, got 5"),
        (ICMPParameterProblem, (True, b""), {}, TypeError, "code must be an integer from 0 to 255, got True"),
        (ICMPParameterProblem, (0, None), {}, TypeError, "quoted must be bytes, got None"),
        (ICMPParameterProblem, (0, b""), {"pointer": 256}, ValueError, "pointer must be from 0 to 255, got 256"),
        (
            ICMPParameterProblem,
            (0, b""),
            {"pointer": True},
            TypeError,
            "pointer must be an integer from 0 to 255, got True",
        ),
        (ICMPRedirect, (256, "192.0.2.1", b""), {}, ValueError, "code must be from 0 to 255, got 256"),
        (ICMPRedirect, (0, True, b""), {}, TypeError, "gateway must be an IPv4Address or a dotted string"),
        (ICMPRedirect, (0, "router", b""), {}, ValueError, "gateway must be a numeric IPv4 address"),
        (ICMPRedirect, (0, "192.0.2.1", "x"), {}, TypeError, "quoted must be bytes, got 'x'"),
        (ICMPOther, (True, 0, b""), {}, TypeError, "type must be an integer from 0 to 255, got True"),
        (ICMPOther, (256, 0, b""), {}, ValueError, "type must be from 0 to 255, got 256"),
        (ICMPOther, (4, 256, b""), {}, ValueError, "code must be from 0 to 255, got 256"),
        (ICMPOther, (4, 0, "x"), {}, TypeError, "body must be bytes, got 'x'"),
        (ICMPOther, (8, 0, b""), {}, ValueError, "type must not be 8: ICMPEcho is the value for it"),
    ],
)
def test_a_bad_argument_is_named(
    make: Any, arguments: tuple[object, ...], options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        make(*arguments, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "ICMPEcho"),
        (3, "ICMPDestinationUnreachable"),
        (5, "ICMPRedirect"),
        (8, "ICMPEcho"),
        (11, "ICMPTimeExceeded"),
        (12, "ICMPParameterProblem"),
        (13, "ICMPTimestamp"),
        (14, "ICMPTimestamp"),
    ],
)
def test_a_type_that_has_a_value_of_its_own_is_no_other(number: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"^type must not be {number}: {name} is the value for it$"):
        ICMPOther(number, 0, bytes(16))
    wire = summed(bytes([number]) + bytes(19))
    assert type(parse_icmp(wire)).__name__ == name


def test_every_kind_is_a_message() -> None:
    kinds = {type(message) for _, message in VECTORS}
    assert len(kinds) == 7
    assert all(isinstance(message, ICMPMessage) for _, message in VECTORS)
    assert not isinstance(HEADER, ICMPMessage)


@given(MESSAGES)
def test_messages_are_values(message: ICMPMessage) -> None:
    assert pickle.loads(pickle.dumps(message)) == message
    assert attrs.evolve(message) == message
    assert not hasattr(message, "__dict__")
    for name in ("type", "code", "quoted", "note"):
        with pytest.raises(AttributeError):
            setattr(message, name, 1)


def test_optional_arguments_are_named() -> None:
    with pytest.raises(TypeError):
        ICMPEcho(1, 2, b"", True)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        ICMPDestinationUnreachable(4, b"", 1500)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        ICMPTimeExceeded(0, b"", [STACK])  # type: ignore[call-arg]


# tshark


def fields_of_icmp(capture: Path, messages: list[bytes], *fields: str) -> list[list[str]]:
    """Return these fields of each message, several values of one joined by a comma."""
    write_capture(capture, Header(src="192.0.2.9", dst="192.0.2.1", ttl=64, protocol=1), messages)
    return fields_of(capture, fields, "-E", "aggregator=,")


def test_tshark_reads_the_fields_of_each_message(tmp_path: Path) -> None:
    need_tshark()
    wanted = {
        ICMPEcho(258, 3, b"x"): {"type": "8", "ident": "258", "seq": "3"},
        ICMPEcho(258, 3, b"x", is_reply=True): {"type": "0", "ident": "258", "seq": "3"},
        ICMPTimestamp(258, 3, originate=1, receive=2, transmit=3, is_reply=True): {
            "type": "14",
            "ident": "258",
            "seq": "3",
            "originate_timestamp": "1",
            "receive_timestamp": "2",
            "transmit_timestamp": "3",
        },
        ICMPDestinationUnreachable(4, QUOTED, mtu=1400): {"type": "3", "code": "4", "mtu": "1400"},
        ICMPDestinationUnreachable(13, QUOTED): {"type": "3", "code": "13"},
        ICMPTimeExceeded(1, QUOTED): {"type": "11", "code": "1"},
        ICMPParameterProblem(0, QUOTED, pointer=20): {"type": "12", "pointer": "20"},
        ICMPRedirect(1, "192.0.2.7", QUOTED): {"type": "5", "code": "1", "redir_gw": "192.0.2.7"},
        ICMPOther(10, 0, bytes(4)): {"type": "10"},
    }
    names = ["type", "ident", "seq", "originate_timestamp", "receive_timestamp", "transmit_timestamp", "mtu", "pointer"]
    fields = [f"icmp.{name}" for name in [*names, "redir_gw", "code", "checksum.status"]]
    rows = fields_of_icmp(tmp_path / "messages.pcap", [message.marshal() for message in wanted], *fields)
    for expected, row in zip(wanted.values(), rows, strict=True):
        seen = dict(zip([*names, "redir_gw"], row[:-2], strict=True))
        assert {name: value for name, value in seen.items() if value} == {
            name: value for name, value in expected.items() if name != "code"
        }
        assert row[-2:] == [expected.get("code", "0"), "1"]


def test_tshark_reads_the_quoted_header(tmp_path: Path) -> None:
    need_tshark()
    errors = [
        ICMPDestinationUnreachable(3, QUOTED),
        ICMPTimeExceeded(0, QUOTED, extensions=[STACK]),
        ICMPParameterProblem(0, QUOTED),
        ICMPRedirect(0, "192.0.2.7", QUOTED),
    ]
    wire = [error.marshal() for error in errors]
    rows = fields_of_icmp(tmp_path / "quotes.pcap", wire, "ip.dst", "ip.ttl", "udp.dstport")
    assert rows == [["192.0.2.1,198.51.100.2", "64,1", "33435"]] * 4


@pytest.mark.parametrize("make", [ICMPDestinationUnreachable, ICMPTimeExceeded, ICMPParameterProblem])
def test_tshark_reads_the_extensions(tmp_path: Path, make: Any) -> None:
    need_tshark()
    labels = [MPLSLabel(16013, ttl=254, traffic_class=7), MPLSLabel(16014, ttl=255, bottom_of_stack=True)]
    objects = [MPLSLabelStack(labels), EN101, attrs.evolve(EN101, role=InterfaceRole.NEXT_HOP, ifindex=None)]
    error = make(0, QUOTED, extensions=[*objects, ICMPExtension(200, 7, b"1234")])
    fields = {
        "icmp.length": "32",
        "icmp.ext.version": "2",
        "icmp.ext.checksum.status": "1",
        "icmp.ext.class": "1,2,2,200",
        "icmp.ext.ctype": "1,15,199,7",
        "icmp.ext.length": "12,28,24,8",
        "icmp.mpls.label": "16013,16014",
        "icmp.mpls.exp": "7,0",
        "icmp.mpls.ttl": "254,255",
        "icmp.int_info.role": "0,3",
        "icmp.int_info.index": "15",
        "icmp.int_info.ipv4": "192.168.0.1,192.168.0.1",
        "icmp.int_info.name": "en101,en101",
        "icmp.int_info.mtu": "8192,8192",
        "icmp.ext.data": "31323334",
    }
    (row,) = fields_of_icmp(tmp_path / "extensions.pcap", [error.marshal()], *fields)
    assert dict(zip(fields, row, strict=True)) == fields


def test_the_checksum_of_a_message_is_the_internets() -> None:
    assert internet_checksum(ICMPEcho(1, 2, b"odd").marshal()) == 0
