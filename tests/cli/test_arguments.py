"""What people write on the command line; and the payload of our probes."""

from __future__ import annotations

import inspect
import math
import re
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import pytest
from cyclopts import App, CycloptsError, Parameter
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._cli import arguments
from trio_ipv4._cli.arguments import Destination, GroupPort, Rate, reads, reads_each
from trio_ipv4._cli.probe import PROBE_SIZE, Probe, parse_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.pure

GROUP = IPv4Address("239.1.2.3")
DSCP_NAMES = {"CS0": 0, "CS6": 48, "AF11": 10, "AF41": 34, "AF43": 38, "EF": 46, "VA": 44, "LE": 1}
"""Some of IANA's registry "Differentiated Services Field Codepoints", with its decimal values."""

GOOD = [
    (arguments.read_address, "198.18.0.1", IPv4Address("198.18.0.1")),
    (arguments.read_host, "198.18.0.1", IPv4Address("198.18.0.1")),
    (arguments.read_group, "239.1.2.3", GROUP),
    (arguments.read_group_port, "239.1.2.3", GroupPort(GROUP)),
    (arguments.read_group_port, "239.1.2.3:5000", GroupPort(GROUP, 5000)),
    (arguments.read_destination, "239.1.2.3:1", Destination(GROUP, 1)),
    (arguments.read_destination, "239.1.2.3:65535", Destination(GROUP, 65535)),
    (arguments.read_duration, "3", 3.0),
    (arguments.read_duration, "3s", 3.0),
    (arguments.read_duration, "500ms", 0.5),
    (arguments.read_duration, "20us", 20e-6),
    (arguments.read_duration, "2m", 120.0),
    (arguments.read_duration, "2min", 120.0),
    (arguments.read_duration, "1.5h", 5400.0),
    (arguments.read_duration, ".5 d", 43200.0),
    (arguments.read_rate, "100", Rate(datagrams=100)),
    (arguments.read_rate, "100/s", Rate(datagrams=100)),
    (arguments.read_rate, "0.5/s", Rate(datagrams=0.5)),
    (arguments.read_rate, "10kpps", Rate(datagrams=10_000)),
    (arguments.read_rate, "5Mbit/s", Rate(bits=5_000_000)),
    (arguments.read_rate, "2 gbps", Rate(bits=2_000_000_000)),
    (arguments.read_tos, "184", 184),
    (arguments.read_tos, "0xb8", 184),
    (arguments.read_tos, "0XB8", 184),
    (arguments.read_tos, "0", 0),
    (arguments.read_tos, "010", 10),
    (arguments.read_interface_name, "en0.5", "en0.5"),
    (arguments.read_interface_name, "enx" * 30, "enx" * 30),
    (arguments.read_interface_name, "en\u20030", "en\u20030"),
    (arguments.within(1, 255), "1", 1),
    (arguments.within(1, 255), "255", 255),
]

WRONG = [
    (arguments.read_interface_name, ["", ".", "..", "en/0", "en 0", "en0:1", "x" * 128, "ä" * 64], "as en0"),
    (arguments.read_address, ["", "1.2.3", "256.1.1.1", "1.2.3.4/24", "01.2.3.4", "name", "::1"], "198.18.0.1"),
    (
        arguments.read_host,
        ["239.1.2.3", "0.0.0.0", "255.255.255.255"],
        "the address of one host, as 198.18.0.1",
    ),
    (arguments.read_group, ["10.0.0.1", "240.0.0.0", "223.255.255.255"], "from 224.0.0.0 to 239.255.255.255"),
    (
        arguments.read_group_port,
        ["239.1.2.3:", "239.1.2.3:0", "239.1.2.3:65536", "239.1.2.3:-1", "239.1.2.3:٣", f"239.1.2.3:{'9' * 5000}"],
        "as 239.1.2.3:5000",
    ),
    (arguments.read_destination, ["239.1.2.3", "239.1.2.3:0"], "as 239.1.2.3:5000"),
    (arguments.read_destination, ["198.18.0.1:5000"], "from 224.0.0.0 to 239.255.255.255"),
    (
        arguments.read_duration,
        ["", "0", "0s", "-1s", "3x", "3S", "s", "1e3", "inf", "٣s"],
        "3s, 500ms, 2m or 1h",
    ),
    (arguments.read_rate, ["", "0/s", "-1/s", "1kb", "k", "pps", "1/m"], "100/s, 10kpps or 5Mbit/s"),
    (
        arguments.read_tos,
        ["", "256", "-1", "0x100", "0x", "af44", "cs8", "1.0"],
        "as 0xb8, or .* as EF or AF41",
    ),
    (arguments.within(1, 255), ["", "0", "256", "1.0", "-1", "x", "1_0", "٣"], "from 1 to 255"),
]


@pytest.mark.parametrize(("read", "text", "value"), GOOD)
def test_a_text_means_a_value(read: Callable[[str], object], text: str, value: object) -> None:
    assert read(text) == pytest.approx(value) if isinstance(value, float) else read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "right"), [(read, text, right) for read, texts, right in WRONG for text in texts]
)
def test_a_wrong_text_is_named_with_what_is_right(read: Callable[[str], object], text: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"^must be .*{right}") as caught:
        read(text)
    # A group is told by itself, without its port.
    assert str(caught.value).endswith((f", got {text!r}", f", got {text.partition(':')[0]!r}"))


@pytest.mark.parametrize("read", list(dict.fromkeys(read for read, *_ in GOOD)))
@given(text=st.one_of(st.text(), st.from_regex(r"[0-9a-z.:/ ]{0,12}", fullmatch=True)))
def test_any_text_is_read_or_refused_with_words(read: Callable[[str], object], text: str) -> None:
    try:
        read(text)
    except ValueError as error:
        assert re.match("must be .*, got ", str(error), re.DOTALL)


@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_what_is_printed_is_read_again(address: IPv4Address, port: int) -> None:
    group = IPv4Address(0xE000_0000 | int(address) >> 4)
    for value in (GroupPort(group), GroupPort(group, port)):
        assert arguments.read_group_port(str(value)) == value
    assert arguments.read_destination(str(Destination(group, port))) == Destination(group, port)


@given(st.floats(1e-6, 1e9), st.sampled_from(["us", "ms", "s", "m", "h", "d"]))
def test_a_duration_is_more_than_0_and_grows_with_its_unit(number: float, unit: str) -> None:
    text = f"{number:.9f}"
    seconds = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert math.isclose(arguments.read_duration(text + unit), float(text) * seconds)


@pytest.mark.parametrize(("name", "dscp"), DSCP_NAMES.items())
def test_a_code_point_has_the_registry_s_number(name: str, dscp: int) -> None:
    assert arguments.read_tos(name) == arguments.read_tos(name.lower()) == dscp * 4


# As parameters


def parse(words: Sequence[str], **annotations: Any) -> dict[str, Any]:
    """Return what the parameters are, as cyclopts has it."""
    app = App(default_parameter=Parameter(negative=""))

    def command(**values: Any) -> dict[str, Any]:
        return values

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
    command.__annotations__ = annotations
    app.default(command)
    found: dict[str, Any] = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    return found


def test_a_wrong_option_is_named_beside_the_reader_s_words() -> None:
    with pytest.raises(CycloptsError) as caught:
        parse(["--at", "10.0.0.1"], at=arguments.Group)
    expected = "Invalid value for --at: must be a group, from 224.0.0.0 to 239.255.255.255, got '10.0.0.1'"
    assert str(caught.value) == expected


def test_an_option_with_fields_is_one_text() -> None:
    assert parse(["--at", "239.1.2.3:1"], at=arguments.OneGroupPort) == {"at": Destination(GROUP, 1)}
    with pytest.raises(CycloptsError, match="Unknown option"):
        parse(["--at.port", "1"], at=arguments.OneGroupPort)


def test_each_of_several_is_read() -> None:
    several = Annotated[tuple[IPv4Address, ...], reads_each(arguments.read_group, "GROUP")]
    assert parse(["--at", "239.1.2.3", "--at", "224.0.0.1"], at=several) == {"at": (GROUP, IPv4Address("224.0.0.1"))}
    assert parse(["--at=239.1.2.3"], at=several) == {"at": (GROUP,)}
    with pytest.raises(CycloptsError, match=r"Invalid value for --at: must be a group, .* got '10\.0\.0\.1'"):
        parse(["--at", "239.1.2.3", "--at", "10.0.0.1"], at=several)


def test_a_reader_that_is_no_name_is_a_parameter_too() -> None:
    read = Annotated[int, reads(arguments.within(1, 3), "N")]
    assert parse(["--count", "3"], count=read) == {"count": 3}
    with pytest.raises(CycloptsError, match="from 1 to 3, got '4'"):
        parse(["--count", "4"], count=read)


# Probes

FIELDS = st.builds(Probe, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@given(FIELDS, st.integers(PROBE_SIZE, 2000))
def test_a_probe_is_read_as_it_was_written(probe: Probe, size: int) -> None:
    payload = probe.marshal(size)
    assert len(payload) == size
    assert parse_probe(payload) == attrs.astuple(probe)


def test_the_layout_of_a_probe_is_as_documented() -> None:
    payload = Probe(0x01020304, 0x05060708, 0x090A0B0C).marshal(30)
    assert payload[:8] == b"trioipv4"
    assert payload[8:12] == bytes([1, 2, 3, 4])
    assert payload[12:20] == bytes([0, 0, 0, 0, 5, 6, 7, 8])
    assert payload[20:28] == bytes([0, 0, 0, 0, 9, 10, 11, 12])
    assert payload[28:] == b"\0\0"
    assert PROBE_SIZE == 28


@given(st.one_of(st.binary(), st.builds(lambda rest: b"trioipv4" + rest, st.binary(max_size=30))))
def test_any_octets_are_a_probe_or_something_else(octets: bytes) -> None:
    fields = parse_probe(octets)
    assert (fields is not None) == (octets[:8] == b"trioipv4" and len(octets) >= 28)
    if fields is not None:
        assert Probe(*fields).marshal()[:28] == octets[:28]
