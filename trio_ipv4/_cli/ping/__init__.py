"""`trio-ipv4 ping`: unicast and multicast side by side, with a responder at the other end."""

# The modules, from the top; each imports only what is below it:
#
#   __init__           the command, and what its options mean together
#   asking, serving    the two sides: who asks, and who answers
#   remarks            what is said of what goes wrong
#   records            what is shown
#   plan               what to ask
#   allowance          how many requests are answered
#   protocol           ssmping's messages
#   statistics         requests, answers, and their figures

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Annotated, Final, NoReturn, TypeAlias

import trio
from cyclopts import App, Parameter

from trio_ipv4._cli.arguments import (
    MAX_PAYLOAD,
    TTL,
    AsJSON,
    Count,
    For,
    Group,
    InterfaceNames,
    Port,
    Seconds,
    read_address,
    read_duration,
    reads,
    within,
    wrong_usage,
)
from trio_ipv4._cli.output import choose_output
from trio_ipv4._cli.ping import protocol
from trio_ipv4._cli.ping.asking import ask
from trio_ipv4._cli.ping.plan import Asking
from trio_ipv4._cli.ping.serving import Serving, serve

_SMALLEST: Final = protocol.SMALLEST
_LEAST_INTERVAL: Final = 0.01
"""In seconds."""
_LINK_ALONE: Final = 1
_MOST_SIZES: Final = 64


def read_target(text: str) -> IPv4Address:
    """Read whom to ask: an address, or a group."""
    if re.search("[A-Za-z]", text):
        raise ValueError(f"must be an IPv4 address, as 198.18.0.1: names are not looked up, got {text!r}")
    address = read_address(text)
    if address.is_unspecified or address == IPv4Address("255.255.255.255"):
        raise ValueError(f"must be the address of a host, as 198.18.0.1, or a group, as 239.1.2.234, got {text!r}")
    return address


def read_sizes(text: str) -> tuple[int, ...]:
    """Read sizes in octets, separated by commas."""
    sizes = tuple(map(within(_SMALLEST, MAX_PAYLOAD), text.split(",")))
    if len(sizes) > _MOST_SIZES:
        raise ValueError(f"must be at most {_MOST_SIZES} sizes, got {len(sizes)}")
    return tuple(dict.fromkeys(sizes))


def read_interval(text: str) -> float:
    """Read a duration that is no shorter than requests may follow each other."""
    seconds = read_duration(text)
    if seconds < _LEAST_INTERVAL:
        raise ValueError(f"must be at least {_LEAST_INTERVAL * 1000:.0f}ms, got {text!r}")
    return seconds


_Target: TypeAlias = Annotated[IPv4Address, reads(read_target, "GROUP|ADDRESS")]
_Sizes: TypeAlias = Annotated[tuple[int, ...], reads(read_sizes, "N[,N...]")]
_Interval: TypeAlias = Annotated[float, reads(read_interval, "DURATION")]

_USAGE: Final = """\
Usage: trio-ipv4 ping [OPTIONS] ADDRESS
       trio-ipv4 ping [OPTIONS] GROUP
       trio-ipv4 ping --serve [OPTIONS] [GROUP...]
"""

app: Final = App(name="ping", usage=_USAGE)


@app.default
def command(
    *targets: Annotated[_Target, Parameter(name="GROUP|ADDRESS")],
    serve_requests: Annotated[bool, Parameter(name="--serve")] = False,
    group: Group | None = None,
    interface: InterfaceNames = (),
    count: Count | None = None,
    interval: _Interval | None = None,
    size: _Sizes | None = None,
    ttl: TTL | None = None,
    wait: Seconds | None = None,
    seconds: For = None,
    port: Port = protocol.PORT,
    limit: Count | None = None,
    as_json: AsJSON = False,
) -> int:
    """Ask a responder, which answers by unicast and by multicast: loss, round trip and distance of both.

    The responder is 'trio-ipv4 ping --serve' or ssmpingd at ADDRESS. With a GROUP instead, every 'trio-ipv4 ping
    --serve GROUP' is asked: so it tells who listens. ssmpingd does not hear groups. ssmping and asmping can ask
    'trio-ipv4 ping --serve'.

        trio-ipv4 ping --serve                     on one host: answer
        trio-ipv4 ping 198.18.0.2 --count 5        on another: does multicast come?
        trio-ipv4 ping --serve 239.7.7.7           answer those who ask the group, too
        trio-ipv4 ping 239.7.7.7                   who listens to the group?

    No privilege is needed. The exit status is 0 if unicast and multicast came, 1 if unicast alone, 4 if multicast
    alone, 3 if nothing; 130 after Ctrl-C, 2 for wrong usage, 5 if the kernel refused.

    Args:
        targets: Whom to ask: the address of a responder, or a group. With --serve: groups in which to hear requests
            and to answer, none or several.
        serve_requests: Be the responder.
        group: In which group the responder at ADDRESS is to answer. Default: 232.43.211.234. In 232.0.0.0/8 it is
            joined for this source alone, otherwise for any. ssmpingd answers only in groups that end in .234.
        interface: Join on this interface, and ask a GROUP there. May be repeated. Default: where the route to ADDRESS
            leads; for a GROUP, every interface. With --serve: hear requests there alone; by default everywhere.
        count: Stop after so many requests. Default: go on until Ctrl-C.
        interval: From one request to the next. Default: 1s.
        size: Size of the UDP payload of requests and answers in octets; several take turns, as 64,1400,8000.
            Default: 42, which is the smallest.
        ttl: TTL of requests. Default: 64, to a GROUP 1, so that they stay on the link. Answers always have 64.
        wait: How long an answer may take. Default: 3s.
        seconds: How long to go on, as 30s or 5m.
        port: UDP port of the responder. Default: 4321.
        limit: With --serve: how many requests to answer in a second; those with long answers count for several.
            Default: 100.
    """
    output = choose_output(as_json=as_json)
    if serve_requests:
        _refuse_with_serve(group=group, count=count, interval=interval, size=size, ttl=ttl, wait=wait)
        return trio.run(serve, output, Serving(_groups(targets), tuple(interface), port, limit or 100, seconds))
    target = _one_target(targets, group)
    if limit is not None:
        _refuse("--limit goes with --serve: it is how many requests are answered in a second")
    to_group = target.is_multicast
    asking = Asking(
        target=target,
        group=target if to_group else group or protocol.DEFAULT_GROUP,
        port=port,
        interfaces=tuple(interface),
        count=count,
        interval=interval or 1.0,
        sizes=size or (),
        ttl=ttl or (_LINK_ALONE if to_group else protocol.ANSWER_TTL),
        wait=wait or 3.0,
        seconds=seconds,
    )
    return trio.run(ask, output, asking)


def _one_target(targets: tuple[IPv4Address, ...], group: IPv4Address | None) -> IPv4Address:
    if len(targets) != 1:
        _refuse(f"name one ADDRESS or GROUP to ask, or give --serve to answer; got {len(targets)}")
    (target,) = targets
    if target.is_multicast and group is not None:
        _refuse(f"--group goes with an ADDRESS: the members of {target} answer in that group itself")
    if protocol.is_source_specific(target):
        _refuse(
            f"nobody can be asked in {target}: in 232.0.0.0/8 members name the sources that they hear. Ask a responder "
            f"by its address: ping ADDRESS --group {target}"
        )
    return target


def _groups(targets: tuple[IPv4Address, ...]) -> tuple[IPv4Address, ...]:
    for target in targets:
        if not target.is_multicast:
            _refuse(f"--serve takes groups, from 224.0.0.0 to 239.255.255.255, got {target}")
    return tuple(dict.fromkeys(targets))


def _refuse_with_serve(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            _refuse(f"--{name} is for who asks: it can't go with --serve")


def _refuse(message: str) -> NoReturn:
    raise wrong_usage("ping", message)
