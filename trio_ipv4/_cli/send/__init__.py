"""`trio-ipv4 send`: datagrams to a group, at an exact rate, by one interface or several."""

# run       one run: a task for each interface, rows, the summary
# sender    the datagrams of one interface
# records   what there is to show
# streams   files and standard input, read as they come
# payloads  where payloads come from; pure
# plan      what the command line asks for; pure
# pacing    when each datagram is due, and how late it was; pure

from __future__ import annotations

from typing import Annotated, Final

import trio
from cyclopts import App, Parameter

from trio_ipv4._cli.arguments import (
    MAX_PAYLOAD,
    TOS,
    TTL,
    Address,
    AsJSON,
    Count,
    For,
    InterfaceNames,
    OneGroupPort,
    Seconds,
    SendingRate,
    reads,
    within,
    wrong_usage,
)
from trio_ipv4._cli.output import choose_output
from trio_ipv4._cli.probe import PROBE_SIZE
from trio_ipv4._cli.send.plan import ONCE_A_SECOND, FileGiven, PayloadGiven, Plan, ProbesWanted
from trio_ipv4._cli.send.run import main

_NOT_A_FILE: Final = "must be a file, or - for standard input (a file whose name begins with -: ./-name), got {!r}"


def _read_file_name(text: str) -> str:
    """Read a file's name; "-" is standard input."""
    if text.startswith("-") and text != "-":
        raise ValueError(_NOT_A_FILE.format(text))
    return text


_FILE: Final = Parameter.combine(reads(_read_file_name, "FILE"), Parameter(allow_leading_hyphen=True))


def command(
    destination: Annotated[OneGroupPort, Parameter(name="GROUP:PORT")],
    payload: Annotated[str | None, Parameter(name="PAYLOAD")] = None,
    /,
    *,
    file: Annotated[str | None, _FILE] = None,
    lines: bool = False,
    hex: bool = False,  # noqa: A002  # It is the option's name.
    size: Annotated[int | None, reads(within(1, MAX_PAYLOAD), "N")] = None,
    interface: InterfaceNames = (),
    source: Address | None = None,
    ttl: TTL | None = None,
    tos: TOS | None = None,
    no_loop: bool = False,
    dont_fragment: bool = False,
    rate: SendingRate | None = None,
    count: Count | None = None,
    seconds: For = None,
    every: Seconds = 1.0,
    as_json: AsJSON = False,
) -> int:
    """Send datagrams to a group.

    A payload is sent once. A file, or standard input, is one datagram, or cut into many. Without a payload it sends
    numbered probes, one a second, until Ctrl-C: trio-ipv4 listen tells by them what was lost on the way.

        trio-ipv4 send 239.1.2.3:5000 hello --interface en0    one datagram
        trio-ipv4 send 239.1.2.3:5000 --rate 100/s --for 10s   1,000 probes

    No privilege is needed. The exit status is 0; 5 if an interface refused, 130 after Ctrl-C.

    Args:
        destination: Where to: a group with a port, as 239.1.2.3:5000.
        payload: The payload, as text, which is sent in UTF-8.
        file: Send what a file holds, as one datagram; - is standard input.
        lines: With --file: send each line as a datagram, as it comes.
        hex: The payload is in hexadecimal digits, as "de ad be ef".
        size: In octets. With --file: cut the file into datagrams of this size. Without a payload: the size of probes,
            28 or more.
        interface: The interface by which to send, from its own address. Give it several times to send by several.
            Default: the kernel's routes choose.
        source: The source address, one of this host's. Default: the first of the interface.
        ttl: The time to live, 1 to 255. Default: 1, so that no router forwards it.
        tos: The TOS octet, as 0xb8, or the name of a DSCP, as EF.
        no_loop: Members on this host do not get it.
        dont_fragment: Do not send what is longer than the MTU. Default: it is sent in fragments.
        rate: How fast, on each interface, as 100/s, 10kpps or 5Mbit/s of payload. Default: 1/s; with --lines, as they
            come.
        count: How many datagrams to send on each interface. Default: a payload once, a file to its end, probes without
            end.
        seconds: For how long, as 30s or 5m.
        every: How often to show how it goes. Default: 1s.
    """
    what = _choose_payload(payload, file, lines=lines, in_hex=hex, size=size)
    is_one = isinstance(what, PayloadGiven) or (isinstance(what, FileGiven) and not what.is_cut)
    plan = Plan(
        to=destination,
        what=what,
        interfaces=tuple(dict.fromkeys(interface)),
        source=source,
        ttl=ttl,
        tos=tos,
        loop=not no_loop,
        fragment=not dont_fragment,
        rate=rate or (None if lines else ONCE_A_SECOND),
        # Whoever gives a time for one payload wants it again and again.
        count=count or (1 if is_one and seconds is None else None),
        seconds=seconds,
        every=every,
    )
    return trio.run(main, choose_output(as_json=as_json), plan)


# By itself it would say ARGS for PAYLOAD.
app: Final = App(name="send", usage="Usage: trio-ipv4 send [OPTIONS] GROUP:PORT [PAYLOAD]")
app.default(command)


def _choose_payload(
    payload: str | None, file: str | None, *, lines: bool, in_hex: bool, size: int | None
) -> PayloadGiven | ProbesWanted | FileGiven:
    if payload is not None and file is not None:
        raise wrong_usage("send", "a payload and --file contradict each other: give one of them")
    if lines and file is None:
        raise wrong_usage("send", "--lines needs a file to read: --file FILE, or --file - for standard input")
    if lines and size is not None:
        raise wrong_usage("send", "--lines and --size contradict each other: cut the file by lines, or by size")
    if in_hex and payload is None:
        raise wrong_usage("send", "--hex says how the payload is written: give one, as 'de ad be ef'")
    if file is not None:
        return FileGiven(file, lines=lines, size=size)
    if payload is not None:
        if size is not None:
            raise wrong_usage("send", "--size is for --file and for probes: a payload has its own size")
        return PayloadGiven(_to_octets(payload, in_hex=in_hex))
    if size is not None and size < PROBE_SIZE:
        raise wrong_usage("send", f"--size must be at least {PROBE_SIZE}, the size of a probe, got {size}")
    return ProbesWanted(size or PROBE_SIZE)


def _to_octets(payload: str, *, in_hex: bool) -> bytes:
    try:
        # As the shell gave it, even if it is no text.
        octets = bytes.fromhex(payload) if in_hex else payload.encode("utf-8", "surrogateescape")
    except ValueError:
        raise wrong_usage(
            "send", f"with --hex the payload must be pairs of hexadecimal digits, as 'de ad be ef', got {payload!r}"
        ) from None
    if len(octets) > MAX_PAYLOAD:
        raise wrong_usage(
            "send",
            f"a datagram carries at most {MAX_PAYLOAD:,} octets, and the payload has {len(octets):,}: use --file",
        )
    return octets
