"""The table of verdicts: why a group may not arrive, how it shows, what proves it, and what mends it.

The codes are stable: scripts rely on them. A new cause is a row here, and a rule in `decide`. The page "Nothing
arrives" of the manual has the same rows: `tools/causes_page.py` writes it, and a test compares them.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import attrs

Where: TypeAlias = Literal["program", "host", "network", "sender", "router"]


@attrs.frozen
class Cause:
    """A reason for which a group does not arrive.

    Args:
        where: Where it has to be mended.
        title: Its name within a sentence.
        symptom: What people notice.
        proof: What shows it, and whom it can be told apart from.
        cure: What mends it, each a command or a sentence. Names in braces are those of the case: `group`, `port`,
            `interface`, `source`.
    """

    where: Where
    title: str
    symptom: str
    proof: str
    cure: tuple[str, ...]


_FIND_RULE: Final = "To find it, as root: nft --handle list ruleset"

HEALTHY: Final = "healthy"

CAUSES: Final = {
    # The interface
    "no-such-interface": Cause(
        "host",
        "there is no such interface",
        "Joining fails with ENODEV.",
        "No link has the name.",
        ("Name one that exists: trio-ipv4 interfaces",),
    ),
    "interface-down": Cause(
        "host",
        "the interface is down",
        "Nothing is received. Joining works.",
        "The interface lacks the flag UP.",
        ("ip link set {interface} up",),
    ),
    "no-carrier": Cause(
        "host",
        "the interface has no carrier",
        "Nothing is received. Joining works.",
        "The interface is up, and the kernel reports no carrier: the cable, the switch's port, or the peer of a veth.",
        ("Look at the cable, and at the other end: ip link show {interface}",),
    ),
    "no-address": Cause(
        "host",
        "the interface has no IPv4 address",
        "A join by address fails with ENODEV. Sending has the source 0.0.0.0.",
        "No address is on the interface, and nobody has joined the group there. A join by name or index needs none.",
        ("ip address add ADDRESS/LENGTH dev {interface}", "Join by the interface's name or index, not by its address."),
    ),
    "interface-is-a-bridge-port": Cause(
        "host",
        "the interface is a port of a bridge on this host",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The interface has a bridge as its master. Frames pass the port, and IP sees them on the bridge alone.",
        ("Join on the bridge, and give it the address.",),
    ),
    # The kernel, from the driver up to the socket
    "dropped-by-xdp": Cause(
        "host",
        "an XDP program drops the frames",
        "Nothing is received, and tcpdump sees nothing either.",
        "An XDP program is attached to the interface. The kernel's drop reasons name it (root).",
        ("ip link set dev {interface} xdp off",),
    ),
    "vlan-tagged": Cause(
        "host",
        "the frames have a VLAN tag",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The frames on the wire have a tag that no VLAN interface takes off.",
        (
            "Have the switch send them without a tag.",
            "Join on a VLAN interface: ip link add link {interface} name {interface}.ID type vlan id ID",
        ),
    ),
    "frame-for-another-mac": Cause(
        "host",
        "the frames are addressed to another station",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The frames on the wire have a hardware address that is neither the group's nor this interface's.",
        ("Look at the sender, or at the switch or access point that rewrites the frames.",),
    ),
    "dropped-at-ingress": Cause(
        "host",
        "a rule drops the frames before IP: nftables' ingress hook, or traffic control",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The wire shows the datagrams; a packet socket behind the ingress rules does not.",
        ("Take away the rule that drops the group: nft list ruleset; tc filter show dev {interface} ingress",),
    ),
    "bad-ip-checksum": Cause(
        "sender",
        "the IP header's checksum is wrong",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The checksum of the headers on the wire is wrong; Ip InHdrErrors and IpExt InCsumErrors grow.",
        ("Look at the sender's checksum offload: ethtool -K DEVICE tx off",),
    ),
    "martian-source": Cause(
        "sender",
        "the source address is one that no datagram may have",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The datagrams on the wire come from 0.0.0.0, 127/8, 240/4 or a group. The input route refuses it.",
        ("Give the sender an address, and have it send from there.",),
    ),
    "source-is-own-address": Cause(
        "network",
        "the datagrams come in from an address of this host's own",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The source on the wire is an address of this host: two hosts have it, or the frames came back by a loop.",
        (
            "Give one of the two hosts another address, or look for the loop.",
            "If both ends are this host on purpose: sysctl -w net.ipv4.conf.{interface}.accept_local=1",
        ),
    ),
    "reverse-path-filter": Cause(
        "host",
        "the reverse-path filter",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The input route refuses the source, for 224.0.0.1 as well, not a neighbour. IPReversePathFilter grows.",
        (
            "sysctl -w net.ipv4.conf.{interface}.rp_filter=2",
            "If {source} is on the link of {interface}: ip route add {source} dev {interface}",
        ),
    ),
    "fragments-lost": Cause(
        "network",
        "fragments are lost",
        "Small datagrams arrive, large ones don't.",
        "Fragments arrive, and never all of a datagram. Ip ReasmReqds grows, ReasmOKs does not.",
        ("Send datagrams that fit the MTU, or let the firewall on the way pass fragments.",),
    ),
    "firewall-prerouting": Cause(
        "host",
        "a firewall on this host drops the datagrams in the prerouting hook",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The wire shows the datagrams, the input route accepts them, and IpExt InMcastPkts does not grow.",
        (f"Accept UDP to {{group}} port {{port}} before the rule that drops it. {_FIND_RULE}",),
    ),
    "firewall-input": Cause(
        "host",
        "a firewall on this host drops the datagrams in the input hook",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "IpExt InMcastPkts grows, Ip InDelivers does not. The rule's own counter (CAP_NET_ADMIN).",
        (f"Accept UDP to {{group}} port {{port}} before the rule that drops it. {_FIND_RULE}",),
    ),
    "ipsec-policy": Cause(
        "host",
        "an IPsec policy demands that the datagrams are protected, and they are not",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "XfrmInNoPols or XfrmInPolBlock grows, and the drops of the sockets.",
        ("Leave the group out of the policy: ip xfrm policy",),
    ),
    "bad-udp-checksum": Cause(
        "sender",
        "the UDP checksum is wrong",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The checksum of the datagrams on the wire is wrong. Udp InCsumErrors and InErrors grow.",
        ("Look at the sender's checksum offload (ethtool -K DEVICE tx off), and for a NAT between.",),
    ),
    "bad-udp-length": Cause(
        "sender",
        "the length in the UDP header is wrong",
        "Nothing is received, while tcpdump on the interface sees every datagram.",
        "The UDP header of the datagrams on the wire promises more than there is. Udp InErrors grows alone.",
        ("Look at the program that makes the datagrams.",),
    ),
    # The wire shows something near it
    "other-port": Cause(
        "program",
        "the datagrams go to another port",
        "Nothing is received, and no error.",
        "The wire shows the group with other ports only. Which of the two is wrong can't be told.",
        ("Use the port that the sender uses, or have it use {port}.",),
    ),
    "same-mac-other-group": Cause(
        "program",
        "the datagrams go to another group, which has the same hardware address",
        "Nothing is received. The switch forwards frames, and tcpdump shows some.",
        "The wire shows a group whose lower 23 bits are the same (RFC 1112 section 6.4), and not this one.",
        ("Use the group that the sender uses, or have it use {group}.",),
    ),
    # The program
    "not-a-member": Cause(
        "program",
        "the program is not a member of the group",
        "Nothing is received, and no error.",
        "The group is not in /proc/net/igmp; the socket holds no membership of it. Our own receiver hears the group.",
        ("Join the group in the program, on the socket that it reads.",),
    ),
    "socket-not-a-member": Cause(
        "program",
        "the socket that is read is no member of the group, and hears only its own",
        "Nothing is received, although this host is a member.",
        "The socket has IP_MULTICAST_ALL 0, and no membership of the group.",
        ("Join the group on the socket that is read.",),
    ),
    "joined-on-another-interface": Cause(
        "program",
        "the group was joined on another interface",
        "Nothing is received, and no error.",
        "The group is in /proc/net/igmp under another interface only. Our own receiver hears it on {interface}.",
        ("Join on {interface}, by its name or index.",),
    ),
    "dead-membership": Cause(
        "program",
        "the membership is dead: its interface was deleted, and made anew",
        "It was received until then, and nothing since.",
        "The socket says that it is a member, and /proc/net/igmp has no such membership (--pid).",
        ("Leave and join again, on the same socket, or restart the program.",),
    ),
    "member-of-nobody": Cause(
        "program",
        "the membership accepts no source at all: INCLUDE with an empty list",
        "Nothing is received, and no error.",
        "The input route refuses every source for the group, and accepts it for 224.0.0.1.",
        ("Join the group, or a source of it.",),
    ),
    "source-not-included": Cause(
        "program",
        "the source-specific join names other sources",
        "Nothing is received, and no error.",
        "The datagrams come from a source that the membership's filter does not include.",
        ("Join the source that sends, or, outside of 232.0.0.0/8, the group with every source.",),
    ),
    "source-excluded": Cause(
        "program",
        "the program blocks the source that sends",
        "Nothing is received from that source, and no error.",
        "The membership's filter excludes the source.",
        ("Unblock the source (MCAST_UNBLOCK_SOURCE), or don't block it.",),
    ),
    "membership-limit": Cause(
        "program",
        "the socket has as many memberships as it may",
        "The join fails with ENOBUFS.",
        "The socket holds net.ipv4.igmp_max_memberships groups, and this one is not among them.",
        ("sysctl -w net.ipv4.igmp_max_memberships=256", "Use a socket for each {limit} groups."),
    ),
    "source-limit": Cause(
        "program",
        "the membership has as many sources as it may",
        "The join of one more source fails with ENOBUFS.",
        "The filter holds net.ipv4.igmp_max_msf sources, and the one that sends is not among them.",
        ("sysctl -w net.ipv4.igmp_max_msf=64",),
    ),
    "bound-to-another-address": Cause(
        "program",
        "the socket is bound to another address",
        "Nothing is received. Joining works.",
        "The socket on the port is bound to an address that is neither the group nor 0.0.0.0.",
        ("Bind to 0.0.0.0, or to {group}.",),
    ),
    "bound-to-another-interface": Cause(
        "program",
        "the socket is bound to another interface",
        "Nothing is received. Joining works.",
        "SO_BINDTODEVICE of the socket names another interface than the one by which the datagrams come in.",
        ("Bind to {interface}, or to no interface.",),
    ),
    "socket-is-connected": Cause(
        "program",
        "the socket is connected",
        "Nothing is received. Joining works.",
        "The socket has a peer: connect(2) has also set its own address to a unicast one.",
        ("Don't connect the socket that receives.",),
    ),
    "ipv6-only-socket": Cause(
        "program",
        "the socket is for IPv6 alone",
        "Nothing is received.",
        "The socket on the port is an IPv6 one with IPV6_V6ONLY 1.",
        ("Use an IPv4 socket, or set IPV6_V6ONLY to 0 before binding.",),
    ),
    "socket-filter": Cause(
        "program",
        "the socket's BPF filter rejects the datagrams",
        "Nothing is received. Joining works.",
        "The socket has a BPF program, and its drops grow while its queue has room (--pid).",
        ("Mend the filter, or detach it (SO_DETACH_FILTER).",),
    ),
    "cgroup-filter": Cause(
        "host",
        "a BPF program of the socket's control group rejects the datagrams",
        "Nothing is received. Joining works.",
        "The socket's drops grow while its queue has room, and it has no BPF program itself (--pid).",
        ("Look for IPAddressDeny= of its systemd service, or for its container's policy: bpftool cgroup tree",),
    ),
    "program-does-not-read": Cause(
        "program",
        "the program does not read its socket",
        "Nothing is received. The queue is full.",
        "The socket's queue never falls, and its drops grow. Our own receiver misses nothing.",
        ("Look at the program: which task should read this socket?",),
    ),
    "program-stopped": Cause(
        "program",
        "the program is stopped",
        "Nothing is received.",
        "Its state in /proc/PID/stat is T: stopped by a signal, or by a debugger.",
        ("kill -CONT {pid}",),
    ),
    "receive-buffer-overflow": Cause(
        "program",
        "the receive buffer overflows",
        "Gaps.",
        "The socket's drops grow, its queue is near the buffer's size at times, and it is read.",
        ("Read faster. For bursts, set a larger SO_RCVBUF, and net.core.rmem_max.",),
    ),
    "other-network-namespace": Cause(
        "program",
        "the program runs in another network namespace, as in a container",
        "Nothing is received, while the host hears the group.",
        "Its socket belongs to another network namespace than the one that the datagrams reach.",
        ("Run it in this one (docker run --network host), or connect the container: macvlan, or a relay.",),
    ),
    "port-in-use": Cause(
        "host",
        "another program holds the port, and does not share it",
        "bind fails with EADDRINUSE.",
        "Our own receiver can't bind the port either, though it asks to share it.",
        ("End that program, or have it set SO_REUSEADDR. Then start yours again.",),
    ),
    "cross-talk": Cause(
        "program",
        "the program hears another group, which another program has joined",
        "Data of another group are among its own.",
        "Another group comes in with the same port, and the socket is bound to 0.0.0.0 with IP_MULTICAST_ALL 1.",
        ("Set IP_MULTICAST_ALL to 0, or bind to {group}.",),
    ),
    "duplicates": Cause(
        "network",
        "each datagram comes twice",
        "The program counts twice as many datagrams as were sent.",
        "The same payload comes from the same source twice within 50 ms, by one interface or by two.",
        ("Join on one interface only, or look for the loop in the network.",),
    ),
    # The network
    "not-on-the-wire": Cause(
        "network",
        "the datagrams do not reach this host",
        "Nothing is received, and tcpdump sees nothing.",
        "The wire is silent, also after a report of this host's. The cause is at the sender or on the way.",
        (
            "On the sender's host: trio-ipv4 doctor {group}:{port} --sender",
            "On a router between: trio-ipv4 doctor {group}:{port} --router",
        ),
    ),
    "snooping-without-querier": Cause(
        "network",
        "a switch that snoops, and nobody queries",
        "It works for some minutes after each join, and then stops.",
        "A report of our own brings the datagrams back. No query is heard: in 130 s that is certain.",
        (
            "Turn the switch's snooping off. Of a Linux bridge: ip link set BRIDGE type bridge mcast_snooping 0",
            (
                "Turn on its IGMP querier. Of a Linux bridge: ip link set BRIDGE type bridge mcast_querier 1; "
                "it begins when no other querier was heard for 255 s."
            ),
        ),
    ),
    "pruned-by-another": Cause(
        "network",
        "another host's leave has cut off this one, too",
        "It works until another host behind the same port of the switch leaves the group.",
        "A report of our own brings the datagrams back, and there is a querier.",
        ("Turn off fast leave (immediate leave) on the switch's port.",),
    ),
    "igmp-queries-blocked": Cause(
        "host",
        "a firewall on this host drops the IGMP queries",
        "It works for some minutes after each join, and then stops.",
        "Queries are on the wire, and this host does not answer them; a report of our own brings the datagrams back.",
        (f"Accept IGMP before the rule that drops it, or drops IP options. {_FIND_RULE}",),
    ),
    "igmp-reports-blocked": Cause(
        "host",
        "a firewall on this host drops the IGMP reports that it sends",
        "Nothing is received through a switch that snoops.",
        "The join of a new group sends nothing: Ip OutRequests grows, IpExt OutMcastPkts does not.",
        (f"Accept IGMP on its way out, before the rule that drops it. {_FIND_RULE}",),
    ),
    "igmp-version-forced": Cause(
        "host",
        "force_igmp_version makes this host report without the source",
        "A router or switch that does source-specific multicast never sends the channel.",
        "net.ipv4.conf.{interface}.force_igmp_version (or that of all) is 1 or 2, and the wire is silent.",
        ("Allow version 3, and join again: sysctl -w net.ipv4.conf.{interface}.force_igmp_version=0",),
    ),
    "old-querier": Cause(
        "network",
        "the querier speaks an old version of IGMP, so this host reports without the source",
        "A router or switch that does source-specific multicast never sends the channel.",
        "/proc/net/igmp says V2 or V1, nothing forces it, and the wire is silent.",
        ("Set the querier, a switch or a router, to IGMP version 3.",),
    ),
    # The sender's side
    "no-multicast-route": Cause(
        "sender",
        "there is no route to the group",
        "Sending fails with ENETUNREACH, and joining without an interface with ENODEV.",
        "The kernel's routes have none to the group.",
        (
            "ip route add 224.0.0.0/4 dev DEVICE",
            "Name the interface: IP_MULTICAST_IF, or conn.joined(interface, ...).",
        ),
    ),
    "route-forbids": Cause(
        "sender",
        "a route forbids the group: of type unreachable, prohibit or blackhole",
        "Sending fails with EHOSTUNREACH, EACCES or EINVAL.",
        "The kernel's answer about the route to the group is that error.",
        ("Take away that route, or add a better one for the group: ip route show; ip rule show",),
    ),
    "loopback-off": Cause(
        "sender",
        "the sender on this host has IP_MULTICAST_LOOP 0",
        "Other hosts hear, this one doesn't.",
        "The datagrams go out by the interface, and no receiver on this host hears them.",
        ("Set IP_MULTICAST_LOOP to 1 on the socket that sends.",),
    ),
    "sends-on-another-interface": Cause(
        "sender",
        "this host sends by another interface",
        "Sending works, and nobody hears.",
        "The datagrams go out by another interface; the routes lead there, and IP_MULTICAST_IF is not set.",
        ("Set IP_MULTICAST_IF to {interface}.", "ip route add 224.0.0.0/4 dev {interface}"),
    ),
    "ttl-zero": Cause(
        "sender",
        "the datagrams are sent with TTL 0",
        "Sending works, and only this host hears.",
        "Copies that this host hears of itself have TTL 0, and none go out.",
        ("Set IP_MULTICAST_TTL to 1 or more.",),
    ),
    "ttl-too-small": Cause(
        "sender",
        "the TTL is too small for the routers on the way",
        "Receivers behind a router hear nothing.",
        "The datagrams have TTL 1 (the default), or less than a router's threshold, and a router is on the way.",
        ("Set IP_MULTICAST_TTL to the number of routers on the way and one more.",),
    ),
    "firewall-output": Cause(
        "sender",
        "a firewall on the sender's host drops what goes out",
        "Sending fails with EPERM.",
        "Ip OutDiscards grows, and none go out.",
        (f"Accept UDP to {{group}} port {{port}} before the rule that drops it. {_FIND_RULE}",),
    ),
    "larger-than-the-mtu": Cause(
        "sender",
        "the datagrams are larger than the MTU, and may not be fragmented",
        "Sending fails with EMSGSIZE.",
        "None go out, no counter grows, and the socket has IP_MTU_DISCOVER DO (--pid).",
        ("Send smaller datagrams, or set IP_MTU_DISCOVER to IP_PMTUDISC_DONT.",),
    ),
    "not-sending": Cause(
        "sender",
        "the program does not send",
        "Nobody hears.",
        "None go out, no counter grows, and nothing in the socket's options forbids it (--pid).",
        ("Look at the program: does it reach the call that sends? strace -p {pid} -e trace=network",),
    ),
    # On a router
    "router-without-multicast": Cause(
        "router",
        "this router does not route multicast",
        "Receivers behind it hear nothing.",
        "No routing daemon has told the kernel an interface: /proc/net/ip_mr_vif is empty.",
        ("Run a multicast routing daemon: pimd, FRR's pimd, smcroute or mrouted.",),
    ),
    "wrong-incoming-interface": Cause(
        "router",
        "the router expects the group from another interface",
        "Receivers behind it hear nothing.",
        "/proc/net/ip_mr_cache counts packets that came by the wrong interface (the RPF check).",
        ("Correct the route to the source, or the routing daemon's configuration.",),
    ),
}
"""By their codes."""
