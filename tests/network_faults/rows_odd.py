"""Set-ups that look odd, and are healthy: a doctor must not blame them."""

from __future__ import annotations

from functools import partial
from typing import Final

from network_faults.fault import HEALTHY, Beside, Fault, Topology, nft, on
from network_faults.rows_host import redirecting
from network_faults.rows_network import MACVLAN, MAKE_MACVLAN, ROUTED, ROUTER

Odd: Final = partial(Fault, codes=(HEALTHY,), hears="all")
OddSender: Final = partial(Odd, where="a", role="sender", pid="transmit")
TWO_LINKS: Final = Topology(hosts={"a": (0,), "b": (0, 1)})

OF_PROGRAM: Final = (
    Odd(
        name="bound_to_group",
        title="the socket is bound to the group",
        faulty_receive="--bind group",
    ),
    Odd(
        name="bound_to_right_device",
        title="the socket is bound to the interface",
        faulty_receive="--dev en0",
    ),
    Odd(
        name="all_zero_member",
        title="IP_MULTICAST_ALL is 0, and the socket is a member",
        faulty_receive="--all 0",
    ),
    Odd(
        name="port_held_alone",
        title="the program holds the port without SO_REUSEADDR",
        faulty_receive="--no-reuse",
    ),
    Odd(
        name="reuseport",
        title="two programs share the port by SO_REUSEPORT: they don't take turns with groups",
        beside_faulty=(Beside("other", "b", "receive", "--reuseport"),),
        faulty_receive="--reuseport",
    ),
    Odd(
        name="two_programs",
        title="another program receives the same",
        beside_faulty=(Beside("other", "b", "receive"),),
    ),
    Odd(
        name="other_program_deaf",
        title="another program on the port is bound to the unicast address, and hears nothing",
        beside_faulty=(Beside("other", "b", "receive", "--bind 198.18.0.2"),),
    ),
    Odd(
        name="also_elsewhere",
        title="a program in another network namespace has the same port and group",
        topology=Topology(hosts={"a": (0,), "b": (0,), "c": (1,)}),
        beside_faulty=(Beside("other", "c", "receive", "--iface en1"),),
    ),
    Odd(
        name="dual_stack",
        title="the socket is an IPv6 one that hears IPv4",
        faulty_receive="--v6",
    ),
    Odd(
        name="gro",
        title="the socket has UDP_GRO",
        faulty_receive="--gro",
    ),
    Odd(
        name="two_interfaces",
        title="the program joined on two interfaces; the datagrams come in by one",
        topology=TWO_LINKS,
        faulty_receive="--iface en1 --iface en0",
    ),
    Odd(
        name="excludes_another",
        title="the program blocks a source that does not send",
        faulty_receive="--exclude 198.18.0.9",
    ),
    Odd(
        name="includes_the_source",
        title="the program includes the source, and another, in the range for any source",
        faulty_receive="--source 198.18.0.1 --source 198.18.0.9",
    ),
    Odd(
        name="past_drops",
        title="the buffer overflowed once, and does so no more",
        beside_faulty=(Beside("burst", "a", "transmit", "--burst 200 --size 700 --rate 5 --seconds 0.1"),),
        faulty_receive="--rcvbuf 4608",
    ),
)

OF_HOST: Final = (
    Odd(
        name="no_multicast_flag",
        title="the interface lacks the flag MULTICAST: joining, sending and receiving work all the same",
        before=(on("b", "ip link set en0 multicast off"),),
    ),
    Odd(
        name="no_address_by_index",
        title="the interface has no address, and the program joined by its index",
        before=(on("b", "ip addr flush dev en0"),),
    ),
    Odd(
        name="promiscuous",
        title="tcpdump runs",
        before=(on("b", "ip link set en0 promisc on"),),
    ),
    Odd(
        name="rp_filter_right",
        title="strict reverse-path filter, and the route to the source leads out by the interface",
        source="198.18.0.1",
        before=(on("b", "sysctl -qw net.ipv4.conf.en0.rp_filter=1"),),
    ),
    Odd(
        name="rp_filter_loose_route",
        title="loose reverse-path filter, and the route to the source leads elsewhere",
        topology=TWO_LINKS,
        source="198.18.7.1",
        transmit="--frame --src 198.18.7.1",
        before=(on("b", "ip route add 198.18.7.0/24 via 198.18.1.254", "sysctl -qw net.ipv4.conf.en0.rp_filter=2"),),
    ),
    Odd(
        name="xdp_other",
        title="an XDP program drops another group",
        target="239.1.2.4:5000",
        receive="--group 239.1.2.4",
        transmit="--group 239.1.2.4",
        before=(on("b", "helper ebpf xdp en0 native"),),
    ),
    Odd(
        name="tc_other",
        title="traffic control redirects another group at ingress",
        before=(
            on(
                "b",
                "ip link add hole type veth peer name bottom",
                "ip link set hole up",
                "tc qdisc add dev en0 ingress",
                redirecting("239.1.2.4"),
            ),
        ),
    ),
    Odd(
        name="firewall_other",
        title="the firewall drops other ports, other groups, and all that no rule accepts; ours it accepts",
        before=(
            on(
                "b",
                nft(
                    "add table inet fw",
                    "add chain inet fw in { type filter hook input priority 0",
                    "policy drop; }",
                    "add rule inet fw in udp dport 5001 drop",
                    "add rule inet fw in ip daddr 239.1.2.4 drop",
                    "add rule inet fw in ip protocol igmp accept",
                    "add rule inet fw in udp dport 5000 counter accept",
                ),
            ),
        ),
    ),
    Odd(
        name="ipsec_other",
        title="an IPsec policy blocks another group",
        before=(on("b", "ip xfrm policy add src 0.0.0.0/0 dst 239.1.2.4/32 dir in action block"),),
    ),
    Odd(
        name="on_lo",
        title="sender and receiver are on the loopback interface",
        interface="lo",
        receive="--iface lo",
        transmit_on="b",
        transmit="--iface lo",
    ),
    Odd(
        name="on_one_host",
        title="sender and receiver are on one host",
        where="a",
        receive_on="a",
    ),
    Odd(
        name="on_a_bridge",
        title="the interface is a bridge on this host, and the program joined on it",
        interface="virbr",
        prepare=(
            on(
                "b",
                "ip addr flush dev en0",
                "ip link add virbr type bridge mcast_snooping 0",
                "ip link set virbr up",
                "ip link set en0 master virbr",
                "ip addr add 198.18.0.2/24 dev virbr",
                "ip route add default via 198.18.0.254",
            ),
        ),
        receive="--iface virbr",
    ),
    Odd(
        name="on_a_macvlan",
        title="the interface is a macvlan in a container",
        where="c",
        topology=MACVLAN,
        prepare=MAKE_MACVLAN,
        receive_on="c",
    ),
)

OF_WIRE: Final = (
    Odd(
        name="no_udp_checksum",
        title="the datagrams have no UDP checksum",
        transmit="--frame",
        faulty_transmit="--frame --no-udp-csum",
    ),
    Odd(
        name="ip_options",
        title="the datagrams have IP options",
        transmit="--frame",
        faulty_transmit="--frame --options",
    ),
    Odd(
        name="unicast_mac",
        title="the frames are for the host's own hardware address, as access points send them",
        transmit="--frame",
        faulty_transmit="--frame --mac 02:00:00:00:00:02",
    ),
    Odd(
        name="fragmented",
        title="the datagrams come in fragments, and all of them",
        transmit="--frame",
        faulty_transmit="--frame --size 1400 --fragments all",
    ),
    Odd(
        name="one_a_second",
        title="a datagram comes each second",
        faulty_transmit="--rate 1",
    ),
    Odd(
        name="source_nat_any",
        title="a NAT changes the source, and the program takes any",
        before=(
            on(
                "a",
                nft(
                    "add table ip nat",
                    "add chain ip nat post { type nat hook postrouting priority 100; }",
                    "add rule ip nat post ip daddr 239.1.2.3 snat to 198.18.0.77",
                ),
            ),
        ),
    ),
    Odd(
        name="igmp_v2",
        title="force_igmp_version=2, and a membership without sources",
        before=(on("b", "sysctl -qw net.ipv4.conf.en0.force_igmp_version=2"),),
    ),
    Odd(
        name="no_querier_flooded",
        title="nobody queries, and the switch forwards everything to everybody",
        topology=Topology(querier=False, snooping=False),
    ),
    Odd(
        name="igmp_blocked_flooded",
        title="the host's firewall drops IGMP, and the switch forwards everything to everybody",
        topology=Topology(querier=False, snooping=False),
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
    ),
    Odd(
        name="routed",
        title="a router that forwards multicast is between",
        interface="en1",
        source="198.18.0.1",
        topology=ROUTED,
        beside=ROUTER,
        receive="--iface en1",
        transmit="--ttl 8",
    ),
    OddSender(
        name="tx_loop_off",
        title="the sender has IP_MULTICAST_LOOP 0, and its receiver is elsewhere",
        faulty_transmit="--loop 0",
    ),
    OddSender(
        name="tx_bound",
        title="the sender is bound to an address and a port",
        faulty_transmit="--bind 198.18.0.1 --sport 5000",
    ),
    OddSender(
        name="tx_no_default_route",
        title="the sender chose its interface, and needs no route",
        before=(on("a", "ip route del default"),),
    ),
)

ODD: Final = (*OF_PROGRAM, *OF_HOST, *OF_WIRE)
