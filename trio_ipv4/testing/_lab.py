"""The network lab: hosts that are network namespaces, on links that are bridges.

Everything is built by iproute2's `ip`, one process and one script for each namespace: the switch first, which makes
every cable and hands the far ends to the hosts, then the hosts. Nothing is made in the namespace of the caller.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final, final

from trio_ipv4 import InterfaceFlags, UnsupportedError
from trio_ipv4.testing._lab_host import PROGRAMS, LabHost, LabLink, find_program, run_script, wait_until
from trio_ipv4.testing._multicast_router import MAXVIFS, forward_multicast, igmp_socket
from trio_ipv4.testing._namespaces import Namespace
from trio_ipv4.testing._systems import beside_lab

ROUTER: Final = "router"
_MAX_HOSTS: Final = 253  # .254 is the router.

_BRIDGE: Final = (
    # No spanning tree, no delay: ports forward as soon as their cable is in. By default queries would be IGMPv2, and
    # hosts that hear one stop naming sources (RFC 3376 section 7.2.1).
    "stp_state 0 forward_delay 0 mcast_snooping 1 mcast_igmp_version 3 mcast_querier 1"
)
_SYSCTLS: Final = {
    # A namespace inherits the IPv4 settings of the machine's first one (net.core.devconf_inherit_init_net): these are
    # the kernel's own defaults, so that a lab is the same everywhere. IPv6 is off: the wire is quiet.
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
}


@contextlib.contextmanager
def open_lab(
    hosts: Iterable[str] | Mapping[str, Iterable[int]] = ("a", "b"), *, links: int = 1, router: bool = False
) -> Iterator[Lab]:
    """Make a private network of hosts, and take it away at the end.

    Each host has an interface ``en<i>`` on each link `i`, with MTU 1500 and the address ``198.18.<i>.<n>/24`` (RFC
    2544's range for test networks), where hosts are counted from 1. It has no IPv6, no reverse-path filter, and no
    route but those to its links: without a router it has none for 224.0.0.0/4 either, so that a datagram to a group
    needs an interface. All of it is ready when the block begins.

    Link `i` is a bridge, `lab.bridge(i)`, that snoops and queries IGMPv3; the port to host `a` on link 0 is called
    `a-0`. As every Linux bridge it floods all groups to all hosts for the first 10 seconds (one query response
    interval), and forwards them only to members from then on. Its table can be seen at once:
    `bridge mdb show dev br0` in `lab.switch`. A leave counts at once, without a last query, since a port has one host.

    Works as root, or under `python -m trio_ipv4.testing COMMAND ...`; Linux. Takes some tens of milliseconds, in which
    it blocks. No residue: when the block ends, or the process, however it does, the kernel removes everything as soon
    as no socket and no process is left in it. Labs don't see each other; any number may be open.

    Args:
        hosts: Up to 253 names of 1 to 11 letters, digits and underscores, beginning with a letter; or a mapping from
            names to the links that each is on: `{"a": [0], "b": [1]}`.
        links: How many links there are, 1 to 32; a mapping that names more makes more.
        router: Whether there is one host more, "router", `198.18.i.254`, on every link, that forwards between them:
            unicast, and every group but those of 224.0.0.0/24, if the TTL is greater than 1, whether anybody is a
            member or not. It is the other hosts' default route, by their first link.

    Raises:
        OSError: The kernel refused, or a program is missing: `lab_available()` says beforehand. `PermissionError`:
            without CAP_SYS_ADMIN. `TimeoutError`: the links were not up after 10 seconds.
        subprocess.CalledProcessError: `ip` refused.
        UnsupportedError: This is not Linux.
        ValueError: A name or a number is out of range.
    """
    plan, links = _plan(hosts, links, router=router)
    with contextlib.ExitStack() as stack:
        switch = LabHost("switch", stack.enter_context(Namespace()))
        made = [LabLink(switch, number) for number in range(links)]
        members = {name: LabHost(name, stack.enter_context(Namespace()), ends, made) for name, ends in plan.items()}
        lab = Lab(switch, members, made)
        _connect(switch, members.values(), links)
        for host in members.values():
            _configure(host, router=router)
        wait_until(lambda: _is_ready(lab))
        if router:
            indexes = [each.index for each in members[ROUTER].interfaces]
            igmp = stack.enter_context(members[ROUTER].call(igmp_socket))
            stack.enter_context(forward_multicast(igmp, indexes))
        stack.enter_context(beside_lab())
        yield lab


def lab_available() -> str | None:
    """Return `None` if a lab can be made here, or the reason why not, by making one of a single host.

    Takes some ten milliseconds.
    """
    if sys.platform != "linux":
        return f"network labs need Linux, and this is {sys.platform}"
    try:
        for program in PROGRAMS:
            find_program(program)
        with open_lab(("a",)):
            return None
    except OSError as error:
        reason = error.strerror if error.filename is None else str(error)
    except (UnsupportedError, subprocess.CalledProcessError) as error:
        reason = str(error)
    return f"no network lab can be made here: {reason}"


@final
class Lab(Mapping[str, LabHost]):
    """A private network: a mapping from names to hosts. Made by `open_lab`.

    `lab.switch` is where the bridges are, a host without addresses. Once the lab has ended, whatever enters a host, or
    asks it, raises `trio.ClosedResourceError`.
    """

    def __init__(self, switch: LabHost, hosts: Mapping[str, LabHost], links: Sequence[LabLink]) -> None:
        self.switch: Final = switch
        self._hosts: Final = hosts
        self._links: Final = tuple(links)

    @property
    def links(self) -> Sequence[LabLink]:
        """The links, to which hosts attach further interfaces."""
        return self._links

    def bridge(self, link: int) -> str:
        """Return the name, in `lab.switch`, of the bridge that is a link."""
        return f"br{link}"

    def __getitem__(self, name: str) -> LabHost:
        try:
            return self._hosts[name]
        except KeyError:
            raise KeyError(f"no host {name!r} in this lab, only {', '.join(self._hosts)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def __repr__(self) -> str:
        return f"<Lab of {', '.join(self._hosts)}>"


def _plan(
    hosts: Iterable[str] | Mapping[str, Iterable[int]], links: int, *, router: bool
) -> tuple[dict[str, dict[str, IPv4Interface]], int]:
    """Return for each host its interfaces' names and addresses, in the links' order; and the number of links."""
    if isinstance(hosts, str):
        raise TypeError(f"hosts must be a collection of names, got the single string {hosts!r}")
    names = list(hosts)
    if isinstance(hosts, Mapping):
        attached = {name: sorted(set(hosts[name])) for name in names}
        links = max([links, *(link + 1 for each in attached.values() for link in each)])
    else:
        attached = {name: list(range(links)) for name in names}
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,10}", name):  # With "-31", the 15 octets of an interface's name.
            raise ValueError(
                f"a host's name must be 1 to 11 letters, digits and underscores, a letter first, got {name!r}"
            )
    if len(attached) != len(names) or (router and ROUTER in names):
        raise ValueError(f"hosts must have different names, the router's {ROUTER!r} included, got {names!r}")
    if len(names) > _MAX_HOSTS:
        raise ValueError(f"hosts must be at most {_MAX_HOSTS}, got {len(names)}")
    if not 1 <= links <= MAXVIFS or any(link < 0 for each in attached.values() for link in each):
        raise ValueError(f"links must be 1 to {MAXVIFS}, numbered from 0, got {links} and {attached!r}")
    plan = {name: _ends(attached[name], number) for number, name in enumerate(names, 1)}
    if router:
        plan[ROUTER] = _ends(range(links), 254)
    return plan, links


def _ends(links: Iterable[int], number: int) -> dict[str, IPv4Interface]:
    return {f"en{link}": IPv4Interface(f"198.18.{link}.{number}/24") for link in links}


def _link(end: IPv4Interface) -> int:
    return end.packed[2]


def _connect(switch: LabHost, hosts: Iterable[LabHost], links: int) -> None:
    """Make the bridges, and the cables from their ports to the hosts, in the switch."""
    switch.call(_set_sysctls, forward=False)
    ends = [(host, name, end) for host in hosts for name, end in host._ends.items()]
    script = []
    for link in range(links):
        script += [
            f"link add br{link} address 02:00:00:00:{link:02x}:ff type bridge {_BRIDGE}",
            f"link set br{link} up",
        ]
    for host, name, end in ends:
        port = f"{host.name}-{_link(end)}"
        far = f"name {name} address 02:00:00:00:{_link(end):02x}:{end.packed[3]:02x} netns {host.namespace}"
        # A router wants every group (RFC 4541 section 2.1.1), and this one sends no queries by which a bridge knows it.
        wants_all = 2 if host.name == ROUTER else 1
        script += [
            f"link add {port} master br{_link(end)} up type veth peer {far}",
            f"link set {port} type bridge_slave mcast_fast_leave on mcast_router {wants_all}",
        ]
    switch.call(run_script, script)


def _configure(host: LabHost, *, router: bool) -> None:
    host.call(_set_sysctls, forward=host.name == ROUTER)
    script = []
    for name, end in host._ends.items():
        # The host's end comes up last: when its port forwards, both ends work.
        script += [f"address add {end} broadcast + dev {name}", f"link set {name} up"]
    if router and host.name != ROUTER and host._ends:
        first = next(iter(host._ends.values()))
        script.append(f"route add default via {first.network.network_address + 254}")
    host.call(run_script, script)


def _is_ready(lab: Lab) -> bool:
    links = json.loads(lab.switch.ip("-details", "-json", "link", "show"))
    ports = [link["linkinfo"] for link in links if link.get("linkinfo", {}).get("info_slave_kind") == "bridge"]
    forwarding = all(port["info_slave_data"]["state"] == "forwarding" for port in ports)
    every = (interface for host in lab.values() for interface in host.interfaces)
    return forwarding and all(InterfaceFlags.RUNNING in interface.flags for interface in every)


def _set_sysctls(*, forward: bool) -> None:
    settings = {"ipv4/ip_forward": "1" if forward else "0", **_SYSCTLS}  # First: it resets others.
    for name, value in settings.items():
        try:
            Path("/proc/sys/net", name).write_text(value, encoding="ascii")
        except FileNotFoundError:
            if not name.startswith("ipv6"):  # A kernel may lack IPv6.
                raise
