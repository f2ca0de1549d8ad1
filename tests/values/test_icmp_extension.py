from __future__ import annotations

import pickle
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._errors import ParseError
from trio_ipv4._values.icmp_extension import (
    ICMPExtension,
    ICMPExtensionObject,
    InterfaceInformation,
    InterfaceRole,
    MPLSLabel,
    MPLSLabelStack,
    marshal_extensions,
    parse_extensions,
    read_extensions,
)

LABEL = MPLSLabel(16014, ttl=255, traffic_class=4, bottom_of_stack=True)
EN101 = InterfaceInformation(InterfaceRole.INCOMING, ifindex=15, address="192.168.0.1", name="en101", mtu=8192)

# Objects as Go's tests have them, by RFC 4950 section 3 and RFC 5837 section 4.
OBJECTS = [
    ("0004 0101", MPLSLabelStack([])),
    ("0008 0101  03e8e9ff", MPLSLabelStack([LABEL])),
    (
        "000c 0101  03e8defe 03e8e1ff",
        MPLSLabelStack([MPLSLabel(16013, ttl=254, traffic_class=7), MPLSLabel(16014, ttl=255, bottom_of_stack=True)]),
    ),
    ("0004 0200", InterfaceInformation(InterfaceRole.INCOMING)),
    ("0010 020a  00000010 08656e3130310000", InterfaceInformation(InterfaceRole.INCOMING, ifindex=16, name="en101")),
    ("001c 020f  0000000f 00010000c0a80001 08656e3130310000 00002000", EN101),
    (
        "0028 020f  0000000f 00020000fe800000000000000000000000000001 08656e3130310000 00002000",
        attrs.evolve(EN101, address=IPv6Address("fe80::1")),
    ),
    ("0008 0241  000005dc", InterfaceInformation(InterfaceRole.SUB_IP, mtu=1500)),
    ("000c 0284  00010000c0000201", InterfaceInformation(InterfaceRole.OUTGOING, address="192.0.2.1")),
    ("0008 02c2  04656e30", InterfaceInformation(InterfaceRole.NEXT_HOP, name="en0")),
    # RFC 8335 section 2.1: an interface by its index; and classes that nobody has.
    ("0008 0302  0000038f", ICMPExtension(3, 2, bytes.fromhex("0000038f"))),
    ("0004 ffff", ICMPExtension(255, 255, b"")),
    ("0008 0102  01020304", ICMPExtension(1, 2, b"\1\2\3\4")),
]

OCTET = st.integers(0, 0xFF)
DOUBLE_WORD = st.integers(0, 0xFFFF_FFFF)
LABELS = st.builds(
    MPLSLabel, st.integers(0, 2**20 - 1), ttl=OCTET, traffic_class=st.integers(0, 7), bottom_of_stack=st.booleans()
)
NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=15)
INTERFACES = st.builds(
    InterfaceInformation,
    st.sampled_from(InterfaceRole),
    ifindex=st.none() | DOUBLE_WORD,
    address=st.none() | st.ip_addresses(),
    name=st.none() | NAMES,
    mtu=st.none() | DOUBLE_WORD,
)
WORDS = st.integers(0, 4).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))
OTHERS = st.tuples(OCTET, OCTET, WORDS).filter(lambda each: each[0] != 2 and each[:2] != (1, 1))
EXTENSIONS = (
    st.builds(MPLSLabelStack, st.lists(LABELS, max_size=4))
    | INTERFACES
    | OTHERS.map(lambda arguments: ICMPExtension(*arguments))
)
STRUCTURES = st.lists(EXTENSIONS, min_size=1, max_size=4).map(tuple)


def unsummed(objects: str) -> bytes:
    """Give these objects a header whose checksum says that there is none (RFC 4884 section 7)."""
    return bytes.fromhex("20000000" + objects)


def error_of(data: bytes) -> ParseError:
    with pytest.raises(ParseError) as caught:
        parse_extensions(data)
    return caught.value


@pytest.mark.parametrize(("octets", "value"), OBJECTS)
def test_an_object_has_the_octets_of_the_rfcs(octets: str, value: ICMPExtensionObject) -> None:
    assert parse_extensions(unsummed(octets)) == (value,)
    assert marshal_extensions([value])[4:] == bytes.fromhex(octets)
    assert bytes([value.class_num, value.c_type]) + value.data == bytes.fromhex(octets)[2:]


def test_a_structure_is_its_header_and_its_objects_in_order() -> None:
    octets = "".join(octets for octets, _ in OBJECTS)
    values = tuple(value for _, value in OBJECTS)
    assert parse_extensions(unsummed(octets)) == values
    assert marshal_extensions(values)[4:] == bytes.fromhex(octets)


def test_the_header_has_version_two_and_the_checksum_of_the_structure() -> None:
    # 2000 + 0000 + 0008 + 0101 + 03e8 + e9ff = 10ef0, folded 0ef1, inverted f10e.
    assert marshal_extensions([MPLSLabelStack([LABEL])]) == bytes.fromhex("2000f10e 00080101 03e8e9ff")


def test_a_checksum_that_comes_out_as_none_is_written_as_its_equal() -> None:
    # 2000 + 0004 + dffb = ffff, inverted 0000: that would say that there is none.
    wire = marshal_extensions([ICMPExtension(0xDF, 0xFB, b"")])
    assert wire == bytes.fromhex("2000ffff 0004dffb")
    assert parse_extensions(wire) == (ICMPExtension(0xDF, 0xFB, b""),)


@given(STRUCTURES)
def test_objects_come_back_as_they_were(objects: tuple[ICMPExtensionObject, ...]) -> None:
    wire = marshal_extensions(iter(objects))
    assert wire[2:4] != b"\0\0"
    assert parse_extensions(wire) == objects
    assert [hash(each) for each in parse_extensions(wire)] == [hash(each) for each in objects]


@given(STRUCTURES, st.binary(max_size=9))
def test_offsets_count_from_the_start_of_the_whole(objects: tuple[ICMPExtensionObject, ...], front: bytes) -> None:
    wire = marshal_extensions(objects)
    assert read_extensions(front + wire, len(front)) == objects
    with pytest.raises(ParseError) as caught:
        read_extensions(front + b"\x10" + wire[1:], len(front))
    assert caught.value.offset == len(front)


@given(st.binary(max_size=80))
def test_any_octets_are_objects_or_a_parse_error(data: bytes) -> None:
    for octets in (data, b"\x20\0\0\0" + data, b"\x20\0\0\0" + (4 + len(data)).to_bytes(2, "big") + b"\2" + data[1:]):
        try:
            objects = parse_extensions(octets)
        except ParseError as error:
            assert 0 <= error.offset <= len(octets)
        else:
            assert parse_extensions(marshal_extensions(objects)) == objects


@given(STRUCTURES, st.data())
def test_any_damage_to_a_structure_is_a_parse_error(
    objects: tuple[ICMPExtensionObject, ...], data: st.DataObject
) -> None:
    wire = marshal_extensions(objects)
    index, flip = data.draw(st.integers(0, len(wire) - 1)), data.draw(st.integers(1, 0xFF))
    damaged = wire[:index] + bytes([wire[index] ^ flip]) + wire[index + 1 :]
    if damaged[2:4] != b"\0\0":  # That says that there is no checksum.
        error_of(damaged)


@pytest.mark.parametrize(
    ("octets", "offset", "message"),
    [
        ("", 0, "an extension structure has at least 8 octets, got 0"),
        ("20000000", 4, "an extension structure has at least 8 octets, got 4"),
        ("20000000 000401", 7, "an extension structure has at least 8 octets, got 7"),
        ("10000000 00040101", 0, "the version of an extension structure must be 2, got 1"),
        ("2000f10f 00080101 03e8e9ff", 2, "the checksum of the extension structure is wrong: 0xf10f"),
        ("20000000 00030101", 4, "the length of an object must be from 4 to 4, a multiple of 4, got 3"),
        ("20000000 00000101", 4, "the length of an object must be from 4 to 4, a multiple of 4, got 0"),
        ("20000000 00080101", 4, "the length of an object must be from 4 to 4, a multiple of 4, got 8"),
        ("20000000 0006ff01 0000 0000", 4, "the length of an object must be from 4 to 8, a multiple of 4, got 6"),
        ("20000000 00040101 0008ff01 0000", 8, "the length of an object must be from 4 to 6, a multiple of 4, got 8"),
        ("20000000 00040101 000401", 11, "the header of an object has 4 octets, got 3"),
        ("20000000 00040208", 8, "the interface index has 4 octets, got 0"),
        ("20000000 0008020c 00000001", 12, "the address family has 4 octets, got 0"),
        ("20000000 00080204 00010000", 12, "the address has 4 octets, got 0"),
        ("20000000 000c0204 00020000 fe800000", 16, "the address has 16 octets, got 4"),
        ("20000000 000c0204 00030000 c0000201", 8, "the address family must be 1 or 2, got 3"),
        ("20000000 00040202", 8, "the name has 4 octets, got 0"),
        ("20000000 00080202 00656e30", 8, "the length of a name must be from 4 to 64, a multiple of 4, got 0"),
        ("20000000 000c0202 07656e30 ffffffff", 8, "the length of a name must be from 4 to 64, a multiple of 4, got 7"),
        ("20000000 00080202 44656e30", 8, "the length of a name must be from 4 to 64, a multiple of 4, got 68"),
        ("20000000 00080202 08656e30", 12, "the name has 8 octets, got 4"),
        ("20000000 00080202 04000000", 9, "a name must have from 1 to 63 octets other than zero, got b''"),
        ("20000000 00080202 04650065", 9, "a name must have from 1 to 63 octets other than zero, got b'e\\x00e'"),
        ("20000000 00080203 04656e30", 12, "the MTU has 4 octets, got 0"),
    ],
)
def test_a_parse_error_says_where_and_what(octets: str, offset: int, message: str) -> None:
    error = error_of(bytes.fromhex(octets))
    assert (error.message, error.offset) == (message, offset)


def test_reserved_bits_and_octets_behind_the_fields_are_ignored() -> None:
    # RFC 4884 section 7: the 12 bits behind the version. RFC 5837 section 4: two bits of the type, 16 of the address.
    odd = bytes.fromhex("2fff0000 0014 023d  0000000f 0001ffffc0a80001 00002000")
    assert parse_extensions(odd) == (attrs.evolve(EN101, name=None),)
    assert parse_extensions(unsummed("000c 0201  000005dc ffffffff")) == (
        InterfaceInformation(InterfaceRole(0), mtu=1500),
    )


@pytest.mark.parametrize("bits", range(16))
@pytest.mark.parametrize("role", InterfaceRole)
def test_the_type_of_an_interface_tells_its_role_and_its_fields(role: InterfaceRole, bits: int) -> None:
    fields = {"ifindex": 1, "address": IPv4Address("192.0.2.1"), "name": "en0", "mtu": 0}
    there: dict[str, Any] = {
        name: value for (name, value), bit in zip(fields.items(), (8, 4, 2, 1), strict=True) if bits & bit
    }
    information = InterfaceInformation(role, **there)
    assert information.c_type == role * 64 + bits
    assert parse_extensions(marshal_extensions([information])) == (information,)
    assert [name for name in fields if getattr(information, name) is not None] == list(there)


@pytest.mark.parametrize("length", range(1, 64))
def test_a_name_is_padded_to_words_with_its_length_before_it(length: int) -> None:
    wire = InterfaceInformation(InterfaceRole.INCOMING, name="x" * length).data
    assert len(wire) == wire[0] == (length + 4) // 4 * 4
    assert wire[1:] == b"x" * length + bytes(wire[0] - 1 - length)


def test_a_name_that_is_no_utf_8_is_kept() -> None:
    (value,) = parse_extensions(unsummed("0008 0202  0465ff30"))
    assert isinstance(value, InterfaceInformation)
    assert value.name == "e\udcff0"
    assert value.data == b"\x04e\xff0"
    # Two escaped octets that are a character together are this character.
    assert InterfaceInformation(InterfaceRole.INCOMING, name="\udcc3\udca9").name == "é"


def test_an_address_has_neither_prefix_nor_scope() -> None:
    for given_one, stored in (
        ("192.0.2.1", IPv4Address("192.0.2.1")),
        (IPv4Interface("192.0.2.1/24"), IPv4Address("192.0.2.1")),
        (IPv6Address("fe80::1%eth0"), IPv6Address("fe80::1")),
        (IPv6Interface("fe80::1/64"), IPv6Address("fe80::1")),
    ):
        address = InterfaceInformation(InterfaceRole.INCOMING, address=given_one).address
        assert address == stored
        assert type(address) is type(stored)


def make_label(**fields: Any) -> MPLSLabel:
    return MPLSLabel(**{"label": 1, "ttl": 1, **fields})


def make_information(**fields: Any) -> InterfaceInformation:
    return InterfaceInformation(**{"role": InterfaceRole.INCOMING, **fields})


def make_extension(**fields: Any) -> ICMPExtension:
    return ICMPExtension(**{"class_num": 9, "c_type": 9, "data": b"", **fields})


@pytest.mark.parametrize(
    ("make", "fields", "error", "message"),
    [
        (make_label, {"label": True}, TypeError, "label must be an integer from 0 to 1048575, got True"),
        (make_label, {"label": 2**20}, ValueError, "label must be from 0 to 1048575, got 1048576"),
        (make_label, {"label": -1}, ValueError, "label must be from 0 to 1048575, got -1"),
        (make_label, {"ttl": 256}, ValueError, "ttl must be from 0 to 255, got 256"),
        (make_label, {"ttl": None}, TypeError, "ttl must be an integer from 0 to 255, got None"),
        (make_label, {"traffic_class": 8}, ValueError, "traffic_class must be from 0 to 7, got 8"),
        (make_label, {"bottom_of_stack": 1}, TypeError, "bottom_of_stack must be True or False, got 1"),
        (MPLSLabelStack, {"labels": [LABEL, 3]}, TypeError, "labels[1] must be an MPLSLabel, got 3"),
        (MPLSLabelStack, {"labels": "ab"}, TypeError, "labels[0] must be an MPLSLabel, got 'a'"),
        (
            MPLSLabelStack,
            {"labels": [LABEL] * 16383},
            ValueError,
            "labels must have from 0 to 16382 entries, got 16383",
        ),
        (make_information, {"role": True}, TypeError, "role must be an integer from 0 to 3, got True"),
        (make_information, {"role": 4}, ValueError, "role must be from 0 to 3, got 4"),
        (make_information, {"ifindex": True}, TypeError, "ifindex must be an integer from 0 to 4294967295, got True"),
        (make_information, {"ifindex": 2**32}, ValueError, "ifindex must be from 0 to 4294967295, got 4294967296"),
        (make_information, {"mtu": -1}, ValueError, "mtu must be from 0 to 4294967295, got -1"),
        (make_information, {"mtu": "1500"}, TypeError, "mtu must be an integer from 0 to 4294967295, got '1500'"),
        (make_information, {"address": True}, TypeError, "address must be an IPv4Address or a dotted string"),
        (make_information, {"address": "fe80::1"}, ValueError, "address must be a numeric IPv4 address"),
        (make_information, {"name": b"en0"}, TypeError, "name must be a string, got b'en0'"),
        (make_information, {"name": ""}, ValueError, "name must have from 1 to 63 octets in UTF-8, none of them zero"),
        (
            make_information,
            {"name": "e\0"},
            ValueError,
            "name must have from 1 to 63 octets in UTF-8, none of them zero",
        ),
        (make_information, {"name": "é" * 32}, ValueError, "name must have from 1 to 63 octets in UTF-8, none of them"),
        (make_information, {"name": "\ud800"}, ValueError, "name must be text that UTF-8 can write, got '\\ud800'"),
        (make_extension, {"class_num": True}, TypeError, "class_num must be an integer from 0 to 255, got True"),
        (make_extension, {"class_num": 256}, ValueError, "class_num must be from 0 to 255, got 256"),
        (make_extension, {"c_type": -1}, ValueError, "c_type must be from 0 to 255, got -1"),
        (make_extension, {"data": "x"}, TypeError, "data must be bytes, got 'x'"),
        (make_extension, {"data": b"x"}, ValueError, "data must have from 0 to 65528 octets, a multiple of 4, got 1"),
        (
            make_extension,
            {"data": bytes(65532)},
            ValueError,
            "data must have from 0 to 65528 octets, a multiple of 4, got 65532",
        ),
        (make_extension, {"class_num": 2}, ValueError, "class_num must not be 2: InterfaceInformation is the value"),
        (
            make_extension,
            {"class_num": 1, "c_type": 1},
            ValueError,
            "c_type must not be 1 with class_num 1: MPLSLabelStack is the value for it",
        ),
        (marshal_extensions, {"objects": []}, ValueError, "objects must have at least 1 object, got 0"),
        (
            marshal_extensions,
            {"objects": [EN101, LABEL]},
            TypeError,
            "objects[1] must be an object of an ICMP extension, got MPLSLabel(label=16014",
        ),
        (parse_extensions, {"data": "2000"}, TypeError, "data must be bytes, got '2000'"),
    ],
)
def test_a_bad_argument_is_named(make: Any, fields: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make(**fields)
    assert str(caught.value).startswith(message)


def test_the_longest_objects_fill_their_length() -> None:
    for longest in (MPLSLabelStack([LABEL] * 16382), ICMPExtension(9, 9, bytes(65528))):
        wire = marshal_extensions([longest])
        assert wire[4:6] == b"\xff\xfc"
        assert parse_extensions(wire) == (longest,)


def test_any_bytes_like_object_can_be_parsed() -> None:
    mutable: Any = bytearray(b"1234")
    wire = marshal_extensions([ICMPExtension(9, 9, mutable)])
    for data in (wire, bytearray(wire), memoryview(wire)):
        (value,) = parse_extensions(data)
        assert value == ICMPExtension(9, 9, b"1234")
        assert type(value.data) is bytes


def test_every_kind_is_an_object_of_an_extension() -> None:
    assert all(isinstance(value, ICMPExtensionObject) for _, value in OBJECTS)
    assert not isinstance(LABEL, ICMPExtensionObject)


@given(EXTENSIONS | LABELS)
def test_they_are_values(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert attrs.evolve(value) == value
    assert not hasattr(value, "__dict__")
    for field in (*attrs.fields(type(value)), attrs.fields(MPLSLabel).label):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, 1)


def test_optional_arguments_are_named() -> None:
    with pytest.raises(TypeError):
        MPLSLabel(1, 1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        InterfaceInformation(InterfaceRole.INCOMING, 1)  # type: ignore[call-arg]
