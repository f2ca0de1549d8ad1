"""Faults of the network between: switches, routers, IGMP. And senders that are to blame, seen from the receiver."""

from __future__ import annotations

from typing import Final

from network_faults.fault import NOT_RUN, Beside, Fault, Topology, nft, on

SHORT: Final = "mcast_query_interval 100 mcast_membership_interval 300"
"""A membership ages out after 3 s without a report; a query comes each second."""
ROUTED: Final = Topology(hosts={"a": (0,), "b": (1,)}, router=True)
ROUTER: Final = (Beside("route", "r", "route", "en0 en1"),)
MACVLAN: Final = Topology(hosts={"a": (0,), "b": (0,), "c": ()})
MAKE_MACVLAN: Final = (
    on("b", "ip link add mv0 link en0 type macvlan mode bridge", "ip link set mv0 netns c name en0"),
    on("c", "ip addr add 198.18.0.3/24 dev en0", "ip link set en0 up", "ip route add default via 198.18.0.254"),
)
RFC_4604: Final = (
    on(
        "sw",
        nft(
            "add table bridge fw",
            "add chain bridge fw in { type filter hook prerouting priority -350; }",
            "add rule bridge fw in ether type ip ip protocol igmp @th,0,8 0x16 ip daddr 232.0.0.0/8 drop",
        ),
    ),
)
"""A switch for which IGMPv2 reports don't count in 232/8, as RFC 4604 has it."""

NETWORK: Final = (
    Fault(
        name="nobody_sends",
        title="nobody sends",
        codes=("not-on-the-wire",),
        faulty_transmit=NOT_RUN,
        sends=False,
    ),
    Fault(
        name="snooping_no_querier",
        title="the switch snoops, and nobody queries: the membership ages out",
        codes=("snooping-without-querier",),
        topology=Topology(hosts={"a": (0,), "b": (0,), "c": (0,)}, bridge=SHORT),
        probe=True,
        # A querier was there once, and went: without any, ever, a Linux bridge floods.
        after=(
            on("sw", "ip link set br0 type bridge mcast_querier 0"),
            on("c", "helper igmp query3 0.0.0.0 198.18.0.3"),
        ),
        settle=5.0,
        between=4.0,
        cure=(
            on("sw", "ip link set br0 type bridge mcast_snooping 0"),
        ),  # Its own querier would wait for the other one.
    ),
    Fault(
        name="igmp_out_blocked",
        title="the host's firewall drops outgoing IGMP: no switch learns of the membership",
        codes=("igmp-reports-blocked",),
        topology=Topology(bridge=SHORT),
        probe=True,
        before=(
            on(
                "b",
                nft(
                    "add table inet fw",
                    "add chain inet fw out { type filter hook output priority 0; }",
                    "add rule inet fw out ip protocol igmp counter drop",
                ),
            ),
        ),
        between=4.0,
        cure=(on("b", "nft delete table inet fw"),),
    ),
    Fault(
        name="force_igmp_v2_ssm",
        title="force_igmp_version=2: a source-specific join is reported without its source",
        codes=("igmp-version-forced",),
        target="232.1.2.3:5000",
        source="198.18.0.1",
        receive="--group 232.1.2.3 --source 198.18.0.1",
        transmit="--group 232.1.2.3",
        prepare=RFC_4604,
        # A query that came before may still be answered by version 3, within a second.
        before=(on("b", "sysctl -qw net.ipv4.conf.en0.force_igmp_version=2", "sleep 1.1"),),
        cure=(on("b", "sysctl -qw net.ipv4.conf.en0.force_igmp_version=0"),),
        restart=True,
    ),
    Fault(
        name="container_bridge",
        title="the program is in a container on a NAT bridge, to which the host forwards no multicast",
        codes=("not-on-the-wire",),
        where="c",
        interface="eth0",
        source="198.18.0.1",
        topology=Topology(hosts={"a": (0,), "b": (0,), "c": ()}),
        prepare=(
            on(
                "b",
                "ip link add docker0 type bridge",
                "ip link set docker0 up",
                "ip addr add 172.17.0.1/16 dev docker0",
                "ip link add vethc type veth peer name eth0 netns c",
                "ip link set vethc master docker0 up",
                "sysctl -qw net.ipv4.ip_forward=1",
                nft(
                    "add table ip nat",
                    "add chain ip nat post { type nat hook postrouting priority 100; }",
                    "add rule ip nat post ip saddr 172.17.0.0/16 oifname != docker0 masquerade",
                ),
            ),
            on("c", "ip addr add 172.17.0.2/16 dev eth0", "ip link set eth0 up", "ip route add default via 172.17.0.1"),
        ),
        receive_on="c",
        receive="--iface eth0",
        transmit="--ttl 8",
        beside=(Beside("host_receive", "b", "receive", "--port 5999"),),
        beside_healthy=(Beside("route", "b", "route", "en0 docker0"),),
    ),
    Fault(
        name="router_no_daemon",
        title="on a router that forwards unicast only",
        codes=("router-without-multicast",),
        where="r",
        role="router",
        source="198.18.0.1",
        pid=None,
        topology=ROUTED,
        receive="--iface en1",
        transmit="--ttl 8",
        beside_healthy=ROUTER,
    ),
    Fault(
        name="router_ttl",
        title="on a router: the datagrams come with TTL 1",
        codes=("ttl-too-small",),
        where="r",
        role="router",
        source="198.18.0.1",
        pid=None,
        topology=ROUTED,
        beside=ROUTER,
        receive="--iface en1",
        transmit="--ttl 8",
        faulty_transmit="",
    ),
    Fault(
        name="no_carrier",
        title="the cable's other end is down",
        codes=("no-carrier",),
        after=(on("sw", "ip link set b-0 down"),),
        cure=(on("sw", "ip link set b-0 up"),),
    ),
    Fault(
        name="port_isolated",
        title="sender and receiver are at isolated ports of the switch",
        codes=("not-on-the-wire",),
        source="198.18.0.1",
        before=(on("sw", "for port in a-0 b-0; do ip link set $port type bridge_slave isolated on; done"),),
        cure=(on("sw", "ip link set b-0 type bridge_slave isolated off"),),
    ),
    Fault(
        name="same_mac",
        title="the sender sends to 239.129.2.3, whose hardware address is that of 239.1.2.3",
        codes=("same-mac-other-group",),
        topology=Topology(snooping=False),  # A switch that tells groups by their hardware addresses forwards both.
        faulty_transmit="--group 239.129.2.3",
    ),
    Fault(
        name="queries_lost",
        title="the switch's queries don't reach the host, and its membership ages out",
        codes=("igmp-queries-blocked", "snooping-without-querier"),
        topology=Topology(bridge=SHORT),
        probe=True,
        before=(
            on(
                "sw",
                nft(
                    "add table bridge fw",
                    "add chain bridge fw out { type filter hook output priority 0; }",
                    "add rule bridge fw out oifname b-0 ip protocol igmp drop",
                ),
            ),
        ),
        settle=3.5,
        between=4.0,
        cure=(on("sw", "nft delete table bridge fw"),),
    ),
    Fault(
        name="queries_blocked",
        title="the host's firewall drops incoming IGMP: no query is answered",
        codes=("igmp-queries-blocked",),
        topology=Topology(bridge=SHORT),
        probe=True,
        before=(
            on(
                "b",
                nft(
                    "add table inet fw",
                    "add chain inet fw in { type filter hook input priority 0; }",
                    "add rule inet fw in ip protocol igmp counter drop",
                ),
            ),
        ),
        settle=3.5,
        between=4.0,
        cure=(on("b", "nft delete table inet fw"),),
    ),
    Fault(
        name="query_options_dropped",
        title="the host's firewall drops IP options, which every query has",
        codes=("igmp-queries-blocked",),
        topology=Topology(bridge=SHORT),
        probe=True,
        before=(
            on(
                "b",
                nft(
                    "add table ip fw",
                    "add chain ip fw in { type filter hook prerouting priority -300; }",
                    "add rule ip fw in ip option ra exists counter drop",
                ),
            ),
        ),
        settle=3.5,
        between=4.0,
        cure=(on("b", "nft delete table ip fw"),),
    ),
    Fault(
        name="pruned_by_another",
        title="another host behind the same port left by IGMPv2, and the switch leaves at once",
        codes=("pruned-by-another",),
        topology=Topology(hosts={"a": (0,), "b": (0,), "c": (0,)}, bridge="mcast_igmp_version 2"),
        probe=True,
        prepare=(
            on(
                "sw",
                "ip link add hub type bridge mcast_snooping 0",
                "ip link add trunk type veth peer name far",
                "ip link set hub up",
                "ip link set b-0 master hub",
                "ip link set c-0 master hub",
                "ip link set far master hub up",
                "ip link set trunk master br0 up",
                "ip link set trunk type bridge_slave fastleave on",
            ),
            # The second report of a join, which would mend it, comes soon.
            on(
                "b",
                "sysctl -qw net.ipv4.conf.en0.igmpv2_unsolicited_report_interval=300",
                "sysctl -qw net.ipv4.conf.en0.force_igmp_version=2",
                "sleep 1.1",
            ),
        ),
        # The port's first two queries, a second apart, are answered within a second: that would mend it, too.
        after=(on("b", "sleep 1.2"),),
        again=(on("c", "helper igmp leave2 239.1.2.3 198.18.0.3"),),
        settle=0.3,
        between=0.3,
        cure=(
            on(
                "sw",
                "ip link set trunk type bridge_slave fastleave off",
                "for n in 0 1; do ip link set br0 type bridge mcast_querier $n; done",
            ),
        ),
    ),
    Fault(
        name="old_querier",
        title="the querier speaks IGMPv2, so that a source-specific join is reported without its source",
        codes=("old-querier",),
        target="232.1.2.3:5000",
        source="198.18.0.1",
        receive="--group 232.1.2.3 --source 198.18.0.1",
        transmit="--group 232.1.2.3",
        # Its queries say how often it asks, so that the host forgets an old querier within 3 s.
        topology=Topology(bridge="mcast_query_interval 100"),
        prepare=RFC_4604,
        before=(
            on(
                "sw",
                "ip link set br0 type bridge mcast_igmp_version 2",
                "for n in 0 1; do ip link set br0 type bridge mcast_querier $n; done",
                "sleep 1.1",
            ),
        ),
        cure=(on("sw", "ip link set br0 type bridge mcast_igmp_version 3", "sleep 4"),),
        restart=True,
    ),
    Fault(
        name="macvlan_parent",
        title="the sender is on the parent of the receiver's macvlan",
        codes=("not-on-the-wire",),
        where="c",
        topology=MACVLAN,
        prepare=MAKE_MACVLAN,
        receive_on="c",
        faulty_transmit_on="b",
    ),
    Fault(
        name="router_without_multicast",
        title="the router between forwards unicast only",
        codes=("not-on-the-wire",),
        interface="en1",
        source="198.18.0.1",
        topology=ROUTED,
        receive="--iface en1",
        transmit="--ttl 8",
        beside_healthy=ROUTER,
    ),
    Fault(
        name="router_wrong_interface",
        title="on a router: it expects the source on another interface",
        codes=("wrong-incoming-interface",),
        where="r",
        role="router",
        source="198.18.0.1",
        pid=None,
        topology=ROUTED,
        receive="--iface en1",
        transmit="--ttl 8",
        beside_healthy=ROUTER,
        beside_faulty=(Beside("wrong_route", "r", "route", "en0 en1 --iif en1"),),
    ),
    Fault(
        name="router_threshold",
        title="on a router: its threshold is greater than the TTL",
        codes=("ttl-too-small",),
        where="r",
        role="router",
        source="198.18.0.1",
        pid=None,
        topology=ROUTED,
        receive="--iface en1",
        transmit="--ttl 8",
        beside_healthy=ROUTER,
        beside_faulty=(Beside("wrong_route", "r", "route", "en0 en1 --threshold 32"),),
    ),
    Fault(
        name="mtu_on_the_path",
        title="the datagrams are larger than the MTU behind the router, and must not be fragmented",
        codes=("not-on-the-wire",),
        interface="en1",
        source="198.18.0.1",
        topology=ROUTED,
        beside=ROUTER,
        receive="--iface en1",
        transmit="--ttl 8 --size 1200 --df",
        before=(on("r", "ip link set en1 mtu 1000"),),
        cure=(on("r", "ip link set en1 mtu 1500"),),
    ),
)
