from __future__ import annotations

import pickle
import sysconfig
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import ControlMessage, Datagram, Header, RawDatagram
from trio_ipv4._values.datagram import make_by_class, make_by_slots, make_datagram

if TYPE_CHECKING:
    from collections.abc import Callable

PEER = ("192.0.2.1", 5353)
ASKED = ControlMessage(
    dst="192.0.2.2", ifindex=2, local="192.0.2.2", ttl=9, tos=4, timestamp_ns=1, drops=0, src="192.0.2.1"
)
HEADER = Header(src="192.0.2.1", dst="192.0.2.2", protocol=253)


def received(peer: Any = PEER, **changes: Any) -> Datagram:
    return Datagram(b"question", peer, control=attrs.evolve(ASKED, **changes))


def test_a_reply_goes_back_from_the_address_that_was_asked() -> None:
    reply = received().reply(b"answer")
    assert reply == Datagram(b"answer", PEER, control=ControlMessage(src="192.0.2.2"))
    assert reply.control.marshal()


def test_a_reply_to_a_group_goes_out_where_the_question_came_in() -> None:
    # Without a source: `local` is a hint that follows the routes, which may lead to another interface.
    reply = received(dst=IPv4Address("224.0.0.251")).reply(b"answer")
    assert reply.control == ControlMessage(ifindex=2)
    assert reply.peer == PEER


def test_a_reply_to_a_link_local_peer_goes_out_where_the_question_came_in() -> None:
    for peer in (("169.254.0.1", 1), ("169.254.255.254", 1)):
        assert received(peer).reply(b"").control == ControlMessage(src="192.0.2.2", ifindex=2)
    for peer in (("169.253.255.255", 1), ("169.255.0.0", 1)):
        assert received(peer).reply(b"").control == ControlMessage(src="192.0.2.2")


@pytest.mark.parametrize("broadcast", ["192.0.2.255", "255.255.255.255"])
def test_a_reply_to_a_broadcast_goes_out_where_the_question_came_in(broadcast: str) -> None:
    assert received(dst=IPv4Address(broadcast)).reply(b"", tos=8).control == ControlMessage(ifindex=2, tos=8)


@pytest.mark.parametrize("destination", ["224.0.0.251", "255.255.255.255"])
def test_a_host_without_an_address_can_reply(destination: str) -> None:
    assert received(dst=IPv4Address(destination), local=None).reply(b"").control == ControlMessage(ifindex=2)


def test_a_sender_without_an_address_gets_no_reply() -> None:
    for control in ({}, {"dst": IPv4Address("255.255.255.255")}, {"local": None}):
        with pytest.raises(ValueError, match=r"no address yet \(0\.0\.0\.0\).*255\.255\.255\.255.*ifindex="):
            received(("0.0.0.0", 68), **control).reply(b"")


def test_a_reply_without_a_destination_is_left_to_the_routes() -> None:
    assert received(dst=None, ifindex=None).reply(b"").control == ControlMessage(src="192.0.2.2")


def test_a_reply_has_the_type_of_service_that_it_is_given() -> None:
    assert received().reply(b"", tos=0xB8).control == ControlMessage(src="192.0.2.2", tos=0xB8)
    with pytest.raises(ValueError, match="tos must be from 0 to 255, got 256"):
        received().reply(b"", tos=256)


def test_the_type_of_service_of_a_reply_is_named() -> None:
    with pytest.raises(TypeError):
        received().reply(b"", 0xB8)  # type: ignore[misc]


@pytest.mark.parametrize("make", [make_by_class, make_by_slots])
def test_what_the_kernel_handed_over_is_a_datagram_like_any(make: Callable[..., Datagram]) -> None:
    made = make(b"payload", PEER, ASKED)
    assert type(made) is Datagram
    assert (made, hash(made)) == (like := Datagram(b"payload", PEER, control=ASKED), hash(like))
    assert make(b"payload", PEER, ASKED, True) == attrs.evolve(like, truncated=True)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.payload = b""  # type: ignore[misc]


def test_free_threaded_python_makes_datagrams_without_a_change_of_class() -> None:
    assert make_datagram is (make_by_slots if sysconfig.get_config_var("Py_GIL_DISABLED") else make_by_class)


def test_a_reply_needs_the_local_address() -> None:
    for datagram in (received(local=None), Datagram(b"", PEER)):
        with pytest.raises(ValueError, match=r"control\.local must not be None: .*ControlFlags\.DST or INTERFACE"):
            datagram.reply(b"answer")


@pytest.mark.parametrize(
    "peer",
    [("192.0.2.1", 5353), (IPv4Address("192.0.2.1"), 5353), (IPv4Interface("192.0.2.1/24"), 5353)],
)
def test_a_peer_is_kept_as_a_string_and_a_port(peer: Any) -> None:
    assert Datagram(b"", peer).peer == PEER
    assert type(Datagram(b"", peer).peer[0]) is str


@pytest.mark.parametrize(
    ("peer", "error", "message"),
    [
        ("192.0.2.1:80", TypeError, "peer must be a tuple"),
        (["192.0.2.1", 80], TypeError, "peer must be a tuple"),
        (("192.0.2.1",), TypeError, "peer must be a tuple"),
        (("192.0.2.1", 80, 0), TypeError, "peer must be a tuple"),
        (None, TypeError, "peer must be a tuple"),
        (("localhost", 80), ValueError, r"the address of peer must be .*host names are not looked up here"),
        (("::1", 80), ValueError, r"the address of peer must be .*looks like an IPv6 address"),
        (("", 80), ValueError, "the address of peer must be a numeric"),
        (("127.1", 80), ValueError, "the address of peer must be a numeric"),
        ((2130706433, 80), TypeError, "the address of peer must be an IPv4Address or a dotted string"),
        ((True, 80), TypeError, "the address of peer must be"),
        (("192.0.2.1", -1), ValueError, "the port of peer must be from 0 to 65535, got -1"),
        (("192.0.2.1", 65536), ValueError, "the port of peer must be from 0 to 65535, got 65536"),
        (("192.0.2.1", True), TypeError, "the port of peer must be an integer"),
        (("192.0.2.1", "80"), TypeError, "the port of peer must be an integer"),
        (("192.0.2.1", None), TypeError, "the port of peer must be an integer"),
    ],
)
def test_what_is_no_endpoint_is_refused(peer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Datagram(b"", peer)


@pytest.mark.parametrize("payload", ["text", None, 3, [1, 2]])
def test_a_payload_is_octets(payload: Any) -> None:
    with pytest.raises(TypeError, match="payload must be bytes, got"):
        Datagram(payload, PEER)
    with pytest.raises(TypeError, match="payload must be bytes, got"):
        RawDatagram(HEADER, payload)


def test_a_payload_is_a_copy_of_what_could_change() -> None:
    buffer = bytearray(b"one")
    datagram = Datagram(buffer, PEER)
    raw = RawDatagram(HEADER, memoryview(buffer))
    buffer[:] = b"two"
    assert (datagram.payload, raw.payload) == (b"one", b"one")
    assert type(datagram.payload) is type(raw.payload) is bytes


@pytest.mark.parametrize("fields", [{"control": None}, {"control": b""}, {"truncated": 1}, {"truncated": None}])
def test_other_fields_are_of_their_types(fields: Any) -> None:
    with pytest.raises(TypeError):
        Datagram(b"", PEER, **fields)
    with pytest.raises(TypeError):
        RawDatagram(HEADER, b"", **fields)


def test_a_raw_datagram_has_a_header() -> None:
    with pytest.raises(TypeError, match="header must be a Header, got b''"):
        RawDatagram(b"", b"")  # type: ignore[arg-type]


def test_defaults() -> None:
    datagram, raw = Datagram(b"", PEER), RawDatagram(HEADER, b"")
    assert (datagram.control, datagram.truncated) == (raw.control, raw.truncated) == (ControlMessage(), False)


@given(st.binary(), st.integers(0, 2**32 - 1), st.integers(0, 65535), st.booleans())
def test_datagrams_are_values(payload: bytes, address: int, port: int, truncated: bool) -> None:
    for value in (
        Datagram(payload, (IPv4Address(address), port), control=ASKED, truncated=truncated),
        RawDatagram(HEADER, payload, control=ASKED, truncated=truncated),
    ):
        same = attrs.evolve(value)
        assert (same, hash(same)) == (value, hash(value))
        assert pickle.loads(pickle.dumps(value)) == value
        assert attrs.evolve(value, truncated=not truncated) != value


def test_the_repr_is_readable() -> None:
    datagram = Datagram(b"x", PEER, control=ControlMessage(ttl=1))
    shown = "Datagram(payload=b'x', peer=('192.0.2.1', 5353), control=ControlMessage(ttl=1), truncated=False)"
    assert repr(datagram) == shown
    assert eval(shown) == datagram


@pytest.mark.parametrize("value", [Datagram(b"", PEER), RawDatagram(HEADER, b"")])
def test_a_datagram_cannot_be_changed(value: Any) -> None:
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, None)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            delattr(value, field.name)
    with pytest.raises((AttributeError, TypeError)):
        value.more = 1
