"""`trio-ipv4 listen`: who sends to a group, how fast, and what is lost."""

# session    the course of it: join, count, show, leave, drain, sum up
# receivers  the connections, and the loop over each batch
# sinks      what is done with each datagram beside counting it
# rebuild    packets for captures
# flows      statistics of each flow
# sequence   what was lost, by the numbers of our own probes and RTP
# records    what there is to show
# figures    rates, durations and the like, as people read them

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Final

import trio
from cyclopts import Parameter

from trio_ipv4 import SourceFilter
from trio_ipv4._cli.arguments import (
    AsJSON,
    Count,
    For,
    GroupPort,
    InterfaceNames,
    Seconds,
    read_group_port,
    read_host,
    reads,
    reads_each,
    within,
    wrong_usage,
)
from trio_ipv4._cli.listen.session import Wanted, listen
from trio_ipv4._cli.listen.sinks import PrintedAs
from trio_ipv4._cli.output import Text, choose_output

_MAX_BUFFER: Final = (1 << 30) - 1
"""SO_RCVBUF is a C int, and Linux doubles it (socket(7))."""
_GROUPS: Final = reads_each(read_group_port, "GROUP[:PORT]")
_SOURCES: Final = reads_each(read_host, "ADDRESS")


def command(
    groups: Annotated[tuple[GroupPort, ...], Parameter(name="GROUP[:PORT]"), _GROUPS],
    /,
    *,
    interface: InterfaceNames = (),
    source: Annotated[tuple[IPv4Address, ...], _SOURCES] = (),
    exclude: Annotated[tuple[IPv4Address, ...], _SOURCES] = (),
    count: Count | None = None,
    seconds: For = None,
    every: Seconds | None = None,
    expect: Annotated[int | None, reads(within(0, 10**18), "N")] = None,
    printed_as: Annotated[PrintedAs | None, Parameter(name="--print")] = None,
    raw: bool = False,
    pcap: Path | None = None,
    buffer: Annotated[int | None, reads(within(1, _MAX_BUFFER), "OCTETS")] = None,
    as_json: AsJSON = False,
) -> int:
    """Show who sends to groups, how fast, and what is lost.

    There is a row for each source, group and interface: rates, loss, jitter,
    TTL and more. Loss, duplicates and reordered datagrams are known where the
    payload has numbers: those of trio-ipv4 send, and RTP. What the kernel
    dropped here, because the receive buffer was full, is told apart. The TTL
    is what is left on arrival. The sender chose the start, so trio-ipv4 ping
    measures hops.

        trio-ipv4 listen 239.1.2.3:5000     who sends here? is anything lost?
        trio-ipv4 listen 239.1.2.3          on which ports? (needs CAP_NET_RAW)

    A group with a port needs no privilege. The exit status is 0 if each group
    delivered; 1 if one did not (--expect), or --count was not reached; 130
    after Ctrl-C; 5 if the kernel refused.

    Args:
        groups: One or several, as 239.1.2.3:5000. Without a port: every UDP port.
        interface: Join on this interface, also if it comes later; may be repeated. Default: all that are up and support
            multicast, as they come and go. lo is none of them.
        source: Hear only this source; may be repeated.
        exclude: Hear every source but this one; may be repeated.
        count: Stop after so many datagrams.
        seconds: Stop after this time, as 10s or 5m. Default: at Ctrl-C.
        every: How often the flows are shown. Default: 1s; with --print or --raw at the end only.
        expect: So many datagrams each group has to deliver; 0 allows silence. Default: 1; with --count: 0, since the
            count itself has to be reached.
        printed_as: Print a line for each datagram, its payload as text or in hexadecimal.
        raw: Write the payloads to standard output, one after the other, and all else to standard error.
        pcap: Write the datagrams to this file, for Wireshark and tcpdump.
        buffer: The size of the receive buffer for each group, in octets. Default: 4194304. The kernel may grant less
            (sysctl net.core.rmem_max).
    """
    _check(groups, source, exclude, raw=raw, as_json=as_json)
    wanted = Wanted(
        groups=groups,
        interfaces=tuple(interface),
        sources=SourceFilter.include(*source) if source else SourceFilter.exclude(*exclude),
        count=count,
        seconds=seconds,
        every=every or (None if printed_as or raw else 1.0),
        expect=expect if expect is not None else int(count is None),
        printed_as=printed_as,
        raw=raw,
        pcap=pcap,
        buffer=buffer,
    )
    output = Text(to_stderr=True) if raw else choose_output(as_json=as_json)
    return trio.run(listen, output, wanted)


def _check(
    groups: tuple[GroupPort, ...],
    source: tuple[IPv4Address, ...],
    exclude: tuple[IPv4Address, ...],
    *,
    raw: bool,
    as_json: bool,
) -> None:
    """Refuse what can't go together.

    Raises:
        CycloptsError: It says what to write instead.
    """
    if source and exclude:
        raise wrong_usage("listen", "--source and --exclude can't go together: --source alone hears nobody else")
    if raw and as_json:
        raise wrong_usage("listen", "--raw and --json can't go together: --json --print hex has the payloads, too")
    whole = {each.group for each in groups if each.port is None}
    for each in groups:
        if each.port is not None and each.group in whole:
            raise wrong_usage("listen", f"{each.group} without a port has all of {each} already: name one of them")
