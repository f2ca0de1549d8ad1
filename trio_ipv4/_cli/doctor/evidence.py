"""What the witnesses of `doctor` saw: facts, and no conclusion.

Each class is what one witness says, of one phase of the examination. As JSON it is one line. `None` always means that
the witness could not see it; an empty tuple means that it looked, and there was nothing.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from typing import ClassVar, Literal, TypeAlias

import attrs

from trio_ipv4._cli.output import Record

Phase: TypeAlias = Literal["before", "joined", "test_join", "probe", "after"]
"""When a witness looked: before this command joined anything, while its own receiver was joined, while it joined a
group of nobody's, after a report of its own, or at the end, to name rules."""
Role: TypeAlias = Literal["receiver", "sender", "router"]
Route: TypeAlias = Literal["local", "forward", "refused"]
"""What the kernel's input route does with a packet."""


@attrs.frozen
class Privileges:
    """What this process may do."""

    net_raw: bool = False
    net_admin: bool = False
    bpf: bool = False
    """CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN: to watch what the kernel drops."""
    ptrace: bool = False


@attrs.frozen
class Question(Record):
    """What was asked."""

    event: ClassVar[str] = "start"

    group: IPv4Address
    port: int
    interface: str | None = None
    """The name of the interface that is examined: the one that was named, or the one that the routes choose."""
    ifindex: int | None = None
    """Its index. `None`: there is no such interface, or no route chooses one."""
    named: bool = False
    """Whether the interface was named."""
    source: IPv4Address | None = None
    pid: int | None = None
    role: Role = "receiver"
    receiver: IPv4Address | None = None
    """In the sender's role: where a receiver is."""
    probe: bool = False
    seconds: float = 3.0
    """How long each of the two looks took."""
    privileges: Privileges = Privileges()


@attrs.frozen
class Evidence(Record):
    """What a witness saw."""

    event: ClassVar[str] = "evidence"

    witness: str = attrs.field(init=False)
    phase: Phase = attrs.field(default="before", kw_only=True)


@attrs.frozen
class Skipped(Record):
    """A witness that could not look, and what it would need."""

    event: ClassVar[str] = "skipped"

    witness: str
    needs: str
    """A capability, as CAP_NET_RAW; an option, as --pid; or a part of the kernel."""


# Tables: no privilege, nothing is disturbed


@attrs.frozen
class Link:
    """An interface."""

    index: int
    name: str
    up: bool
    carrier: bool
    loopback: bool = False
    multicast: bool = True
    mtu: int = 1500
    kind: str | None = None
    """As IFLA_INFO_KIND has it: bridge, vlan, macvlan ... `None` for a plain device."""
    port_kind: str | None = None
    """What it is a port of, as IFLA_INFO_SLAVE_KIND has it: bridge, bond ..."""
    mode: str | None = None
    """Of a macvlan: private, vepa, bridge, passthru."""
    master: int | None = None
    lower: int | None = None
    """The device below it, as of a VLAN or a macvlan."""
    hardware_address: str | None = None
    addresses: tuple[IPv4Interface, ...] = ()
    xdp: Literal["native", "generic", "offloaded"] | None = None
    """The mode of an XDP program that is attached."""
    promiscuous: bool = False
    """Somebody listens to all frames, as tcpdump does."""
    isolated: bool = False
    """A bridge's port that may not talk to other such ports."""


@attrs.frozen
class Links(Evidence):
    """The interfaces of this host, and hints about where it runs."""

    witness: str = attrs.field(init=False, default="links")
    links: tuple[Link, ...] = ()
    vendor: str | None = None
    """Of the machine, as /sys/class/dmi/id/sys_vendor has it: clouds say who they are."""
    wsl: bool = False


@attrs.frozen
class Settings(Evidence):
    """Settings of the kernel under net.ipv4 and net.core, by their names, as `conf.all.rp_filter`."""

    witness: str = attrs.field(init=False, default="settings")
    values: dict[str, int] = attrs.field(factory=dict)


@attrs.frozen
class Way:
    """Which way the kernel's routes lead to an address. The fields are `None` where there is an `error`."""

    destination: IPv4Address
    ifindex: int | None = None
    gateway: IPv4Address | None = None
    source: IPv4Address | None = None
    """The address from which this host would send."""
    local: bool = False
    """The address is this host's own."""
    error: str | None = None
    """ENETUNREACH: no route. EHOSTUNREACH, EINVAL, EACCES: a route of type unreachable, blackhole, prohibit."""


@attrs.frozen
class Routes(Evidence):
    """Which way the routes lead: to the group, to `--source` and to `--receiver`; later, to each source on the wire."""

    witness: str = attrs.field(init=False, default="routes")
    ways: tuple[Way, ...] = ()


@attrs.frozen
class InputAnswer:
    """What the kernel would do with a datagram from a source that comes in by the interface."""

    source: IPv4Address
    group: Route
    """If it goes to the group."""
    all_hosts: Route
    """If it goes to 224.0.0.1, of which every interface is a member."""
    neighbour: bool = False
    """The source is an address on the interface's own network that nobody need have."""


@attrs.frozen
class InputRoutes(Evidence):
    """The kernel's input route, asked by RTM_GETROUTE with RTA_IIF."""

    witness: str = attrs.field(init=False, default="input_route")
    answers: tuple[InputAnswer, ...] = ()


@attrs.frozen
class Member:
    """A group that an interface has joined."""

    ifindex: int
    group: IPv4Address
    users: int
    seconds: float | None = None
    """For how long. `None`: this kernel doesn't tell (before Linux 6.15)."""


@attrs.frozen
class SourceCount:
    """How many members of the group include or exclude a source, on an interface."""

    ifindex: int
    source: IPv4Address
    including: int
    excluding: int


@attrs.frozen
class Memberships(Evidence):
    """The groups of every interface, and the sources of the group that was asked for."""

    witness: str = attrs.field(init=False, default="membership")
    members: tuple[Member, ...] = ()
    sources: tuple[SourceCount, ...] = ()
    versions: dict[str, int] = attrs.field(factory=dict)
    """Interface index, as text, and the version of IGMP that it speaks now."""


@attrs.frozen
class UDPSocket:
    """A UDP socket of this network namespace, as sock_diag lists it. Those of this command are left out."""

    inode: int
    family: Literal[4, 6]
    local: str
    """The address that it is bound to, as text: an IPv4 or an IPv6 one."""
    port: int
    peer: str | None = None
    """The address that it is connected to."""
    ifindex: int | None = None
    """The interface that it is bound to."""
    uid: int = 0
    queued: int = 0
    """In octets."""
    buffer: int = 0
    """SO_RCVBUF, in octets."""
    drops: int = 0
    option_memory: int | None = None
    """Octets; 0: it is a member of nothing, and has no filter of sources."""
    multicast_all: bool | None = None
    multicast_loop: bool | None = None
    only_ipv6: bool | None = None
    pids: tuple[int, ...] = ()
    """The processes that hold it, as far as they show it."""
    names: tuple[str, ...] = ()
    """Their names, in the same order."""
    peak: int | None = None
    """The most octets that were queued during the look; `None`: there was no look."""
    low: int | None = None
    """The least."""
    dropped: int | None = None
    """Datagrams that it dropped during the look."""
    fell: bool | None = None
    """The queue got shorter at some time during the look: somebody reads."""
    states: tuple[str, ...] = ()
    """The states of the processes, as /proc/PID/stat has them, in the same order."""


@attrs.frozen
class Sockets(Evidence):
    """The sockets on the port, and those that might send without looping back."""

    witness: str = attrs.field(init=False, default="sockets")
    sockets: tuple[UDPSocket, ...] = ()


@attrs.frozen
class OtherNamespace:
    """A process in another network namespace that has a socket on the port."""

    pid: int
    name: str
    member: bool
    """Somebody there is a member of the group."""


@attrs.frozen
class Elsewhere(Evidence):
    """Other network namespaces on this machine in which the port is open."""

    witness: str = attrs.field(init=False, default="elsewhere")
    processes: tuple[OtherNamespace, ...] = ()


# The program


@attrs.frozen
class Held:
    """A membership of a socket, as MCAST_MSFILTER tells it. It may be dead: the interface is gone, or was made anew."""

    ifindex: int
    group: IPv4Address
    mode: Literal["include", "exclude"]
    sources: tuple[IPv4Address, ...] = ()


@attrs.frozen
class ProgramSocket:
    """A UDP socket of the program, looked at through a duplicate of its descriptor."""

    descriptor: int
    inode: int
    family: Literal[4, 6]
    local: str
    port: int
    here: bool | None = None
    """It belongs to this network namespace."""
    peer: str | None = None
    ifindex: int | None = None
    multicast_all: bool | None = None
    only_ipv6: bool | None = None
    filter_length: int | None = None
    """Instructions of its BPF program; 0: none. One of eBPF counts as 1."""
    queued: int = 0
    buffer: int = 0
    drops: int = 0
    option_memory: int = 0
    multicast_ttl: int | None = None
    multicast_loop: bool | None = None
    multicast_interface: str | None = None
    """IP_MULTICAST_IF, as an address. 0.0.0.0: the routes choose, or it was set by an index, which is not told."""
    multicast_ifindex: int | None = None
    path_mtu_discovery: int | None = None
    memberships: tuple[Held, ...] = ()
    """Of the group that was asked for, and of every group that this host is in."""


@attrs.frozen
class Program(Evidence):
    """The program that was named by `--pid`."""

    witness: str = attrs.field(init=False, default="program")
    pid: int = 0
    name: str = ""
    state: str = ""
    """As /proc/PID/stat has it: R, S, D; T: stopped. Empty: there is no such process."""
    here: bool | None = None
    """It is in this network namespace. `None`: it doesn't show it."""
    refused: str | None = None
    """The errno by which its sockets could not be asked: EPERM, ESRCH, ENOSYS. EXDEV: asking would change them: it is
    in another class of the control groups net_cls or net_prio."""
    sockets: tuple[ProgramSocket, ...] = ()


# The looks: they take time


@attrs.frozen
class Counters(Evidence):
    """How much the kernel's counters grew during a look. They count all flows of this network namespace.

    The names are those of /proc/net/snmp and netstat, as `Ip.InReceives`, `Udp.InErrors`, `IpExt.InMcastPkts`; of
    /proc/net/dev with the interface, as `dev.en0.rx_packets`; of /proc/net/xfrm_stat, as `xfrm.XfrmInNoPols`. Those
    that did not grow are left out.
    """

    witness: str = attrs.field(init=False, default="counters")
    seconds: float = 0.0
    grown: dict[str, int] = attrs.field(factory=dict)


@attrs.frozen
class Flow:
    """Datagrams on the wire that are alike."""

    ifindex: int
    direction: Literal["in", "out", "other_host", "unicast"]
    """`other_host`: the frame is for another station's hardware address. `unicast`: it is for this one's, though the
    datagram is multicast, as access points do it."""
    source: IPv4Address
    destination: IPv4Address
    port: int | None
    """`None`: a later fragment, or no UDP."""
    ttl: int
    number: int
    protocol: int = 17
    vlan: int | None = None
    """The number in a VLAN tag that the frame still has."""
    fragment: Literal["first", "later"] | None = None
    faults: tuple[Literal["ip_checksum", "udp_checksum", "udp_length"], ...] = ()
    hardware_address: str | None = None
    """Where the frame is addressed to."""


@attrs.frozen
class Wire(Evidence):
    """Multicast datagrams on every interface, as a packet socket hears them: before this host's rules, after XDP."""

    witness: str = attrs.field(init=False, default="wire")
    seconds: float = 0.0
    flows: tuple[Flow, ...] = ()
    passed_ingress: dict[str, int] = attrs.field(factory=dict)
    """Interface index, as text, and how many frames of the group and port a second packet socket heard: one behind tc,
    nftables' ingress hook, VLAN tags and the handler of bridges."""
    whole: int = 0
    """Datagrams of the group whose fragments all came."""
    broken: int = 0
    """Datagrams of the group of which fragments are missing."""
    dropped: int = 0
    """Frames that came too fast to be looked at."""


@attrs.frozen
class IGMPSeen:
    """An IGMP message on the wire."""

    seconds: float
    """Since the look began."""
    ifindex: int
    outgoing: bool
    kind: Literal["query", "v1_report", "v2_report", "v3_report", "leave"]
    version: int | None
    source: IPv4Address
    groups: tuple[IPv4Address, ...] = ()


@attrs.frozen
class IGMP(Evidence):
    """The IGMP messages on the wire."""

    witness: str = attrs.field(init=False, default="igmp")
    seconds: float = 0.0
    messages: tuple[IGMPSeen, ...] = ()


@attrs.frozen
class HeardFrom:
    """What a receiver of ours heard from one source, by one interface."""

    source: IPv4Address
    ifindex: int | None
    number: int
    ttl: int | None = None
    """The greatest."""
    group: IPv4Address | None = None


@attrs.frozen
class Duplicated:
    """Datagrams that came twice within 50 ms: same source, same payload."""

    ifindexes: tuple[int, ...]
    """By which interfaces; one: both by that."""
    number: int
    group: IPv4Address | None = None


@attrs.frozen
class Twins(Evidence):
    """Sockets of ours that join nothing, and so hear what other programs' memberships let in.

    One for each group that this host is in, bound to that group and to the port, with IP_MULTICAST_ALL 1.
    """

    witness: str = attrs.field(init=False, default="twins")
    heard: tuple[HeardFrom, ...] = ()
    duplicated: tuple[Duplicated, ...] = ()
    refused: str | None = None
    """The errno of the bind that failed for the group that was asked for."""


@attrs.frozen
class OwnReceiver(Evidence):
    """A receiver of our own, made right: bound to the group, joined on the interface, IP_MULTICAST_ALL 0."""

    witness: str = attrs.field(init=False, default="own_receiver")
    seconds: float = 0.0
    heard: tuple[HeardFrom, ...] = ()
    drops: int = 0
    refused: str | None = None
    """The errno of what failed; the receiver then heard nothing."""
    refused_what: Literal["bind", "join"] | None = None
    raw: int | None = None
    """Datagrams for the port that a raw socket heard, which sits between IP and UDP. `None`: CAP_NET_RAW is missing."""
    members_before: bool | None = None
    """The interface was a member already, so that our join sent no report."""


@attrs.frozen
class Drop:
    """Packets of the group that the kernel threw away, for one reason, at one place."""

    reason: str
    """As enum skb_drop_reason has it, without SKB_DROP_REASON_."""
    place: str
    """The function of the kernel. Empty where symbols are hidden."""
    ifindex: int | None
    source: IPv4Address
    number: int
    protocol: int = 17
    port: int | None = None
    """Where the datagram was for. `None`: a later fragment."""
    here: bool | None = True
    """It was in this network namespace. `None`: the kernel doesn't show in which, so it may have been in another."""


@attrs.frozen
class Drops(Evidence):
    """What the kernel itself says of why it dropped packets to the group: the tracepoint skb:kfree_skb, by eBPF."""

    witness: str = attrs.field(init=False, default="drops")
    drops: tuple[Drop, ...] = ()


@attrs.frozen
class FreshJoin(Evidence):
    """What happened when a group of nobody's was joined, so that the kernel had to send a report."""

    witness: str = attrs.field(init=False, default="test_join")
    requests: int = 0
    """Growth of Ip.OutRequests."""
    sent: int = 0
    """Growth of IpExt.OutMcastPkts."""
    on_wire: int | None = None
    """Reports for this group that left, as the packet socket saw it."""
    version: int | None = None
    refused: str | None = None


@attrs.frozen
class OwnReport(Evidence):
    """What came after an IGMP report of ours, which said what is true: that this host is a member."""

    witness: str = attrs.field(init=False, default="own_report")
    revived: int = 0
    """Datagrams of the group that came within a second."""
    revived_by_frame: int | None = None
    """The same after a report past the local firewall, as a frame. `None`: it was not needed."""
    refused: str | None = None


@attrs.frozen
class Unicast(Evidence):
    """What became of one empty datagram to the source's discard port."""

    witness: str = attrs.field(init=False, default="unicast")
    answer: str | None = None
    """ECONNREFUSED: it is alive. EHOSTUNREACH: nobody there has the address. `None`: no answer."""
    hop: IPv4Address | None = None
    neighbour: str | None = None
    """The state of the next hop in the neighbour table: reachable, incomplete, failed ..."""


# Others' rules


@attrs.frozen
class Rule:
    """A rule of somebody's that drops, or may drop, what was looked for."""

    kind: Literal["nftables", "iptables", "tc", "ipsec", "bridge"]
    text: str
    """As the tool that shows it writes it."""
    hook: str | None = None
    """Where it is: ingress, prerouting, input, forward, output, postrouting, egress. A bridge's own rules for frames to
    this host count as ingress: IP has not seen them there."""
    remove: str | None = None
    """The command that takes it away; or, of a policy, that accepts the group before it."""
    counted: int | None = None
    """Packets, as the rule itself counts them."""
    matches: tuple[Literal["udp", "igmp"], ...] = ("udp",)
    """What it may drop: the group's datagrams, or IGMP."""
    certain: bool = False
    """It drops each of them. Else it depends on more than is known of them."""


@attrs.frozen
class Rules(Evidence):
    """Rules of the firewall, of traffic control, of IPsec, and settings of bridges on this host."""

    witness: str = attrs.field(init=False, default="rules")
    rules: tuple[Rule, ...] = ()
    seen: tuple[str, ...] = ()
    """The kinds that could be read."""


@attrs.frozen
class Bridge:
    """A bridge on this host."""

    ifindex: int
    snooping: bool
    querier: bool
    ports: tuple[int, ...] = ()


@attrs.frozen
class Bridges(Evidence):
    """The bridges on this host."""

    witness: str = attrs.field(init=False, default="bridges")
    bridges: tuple[Bridge, ...] = ()


# A router


@attrs.frozen
class VIF:
    """An interface that a multicast routing daemon uses (/proc/net/ip_mr_vif)."""

    number: int
    interface: str


@attrs.frozen
class CacheEntry:
    """A flow that a multicast router knows (/proc/net/ip_mr_cache)."""

    group: IPv4Address
    origin: IPv4Address
    incoming: int
    """The number of the interface from which it is expected; -1: not resolved yet."""
    packets: int
    wrong: int
    """Packets that came by another interface."""
    outgoing: tuple[tuple[int, int], ...] = ()
    """Pairs of an interface's number and the least TTL that is let through."""


@attrs.frozen
class Router(Evidence):
    """Multicast routing on this host."""

    witness: str = attrs.field(init=False, default="router")
    forwarding: bool = False
    """net.ipv4.ip_forward."""
    vifs: tuple[VIF, ...] = ()
    cache: tuple[CacheEntry, ...] = ()
