"""Reports of a group's members, as they are on the wire."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import SourceFilter
from trio_ipv4._codec.igmp_report import igmp_report
from trio_ipv4._values.checksum import internet_checksum

GROUP = IPv4Address("239.1.2.3")
addresses = st.integers(1, 0xDFFF_FFFF).map(IPv4Address)


@pytest.mark.parametrize(
    ("version", "sources", "octets"),
    [
        (1, SourceFilter.any(), "12 00 fcfa ef010203"),
        (2, SourceFilter.include("192.0.2.1"), "16 00 f8fa ef010203"),
        (3, SourceFilter.any(), "22 00 eaf9 0000 0001 02 00 0000 ef010203"),
        (3, SourceFilter.exclude("192.0.2.1"), "22 00 eaf9 0000 0001 02 00 0000 ef010203"),
        (
            3,
            SourceFilter.include("192.0.2.9", "192.0.2.1"),
            "22 00 67ec 0000 0001 01 00 0002 ef010203 c0000201 c0000209",
        ),
    ],
)
def test_the_octets_are_those_of_the_rfc(version: int, sources: SourceFilter, octets: str) -> None:
    """RFC 1112 appendix I, RFC 2236 section 2, RFC 9776 section 4.2."""
    assert igmp_report(version, GROUP, sources).hex() == octets.replace(" ", "")


@given(st.sampled_from([1, 2, 3]), st.sets(addresses, max_size=5), st.booleans())
def test_a_report_asks_for_no_less_than_the_filter(version: int, sources: set[IPv4Address], include: bool) -> None:
    wanted = SourceFilter.include(*sources) if include else SourceFilter.exclude(*sources)
    report = igmp_report(version, GROUP, wanted)
    assert internet_checksum(report) == 0
    if version < 3:
        assert (report[0], report[4:]) == ({1: 0x12, 2: 0x16}[version], GROUP.packed)
        return
    assert report[:2] == bytes([0x22, 0])
    assert report[4:8] == bytes([0, 0, 0, 1])
    kind, _, number = report[8], report[9], int.from_bytes(report[10:12], "big")
    assert report[12:16] == GROUP.packed
    named = {IPv4Address(report[at : at + 4]) for at in range(16, len(report), 4)}
    assert len(named) == number
    assert (kind, named) == ((1, sources) if include else (2, set()))
