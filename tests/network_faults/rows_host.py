"""Faults of the receiving host, between its driver and the program's socket; and of what reaches it."""

from __future__ import annotations

from typing import Final

from network_faults.fault import Fault, Topology, nft, on

TWO_LINKS: Final = Topology(hosts={"a": (0,), "b": (0, 1)})


def dropping(family: str, chain: str) -> str:
    """Return the command that drops the group's datagrams in such a chain of nftables."""
    rule = f"add rule {family} fw c ip daddr 239.1.2.3 udp dport 5000 counter drop"
    return nft(f"add table {family} fw", f"add chain {family} fw c {{ {chain} }}", rule)


def redirecting(group: str) -> str:
    """Return the command that redirects a group's frames to the device "hole" at ingress."""
    match = f"u32 match ip dst {group}/32 action mirred egress redirect dev hole"
    return f"tc filter add dev en0 ingress protocol ip {match}"


HOST: Final = (
    Fault(
        name="no_such_interface",
        title="the interface has gone: joining fails with ENODEV",
        codes=("no-such-interface",),
        interface="en1",
        topology=Topology(hosts={"a": (1,), "b": (1,)}),
        receive="--iface en1",
        transmit="--iface en1",
        before=(on("b", "ip link del en1"),),
        fails=True,
        cure=(
            on(
                "b",
                "ip link add en1 address 02:00:00:00:01:02 type veth peer name b-1 netns sw",
                "ip addr add 198.18.1.2/24 dev en1",
                "ip link set en1 up",
            ),
            on("sw", "ip link set b-1 master br1 up"),
        ),
        restart=True,
    ),
    Fault(
        name="link_down",
        title="the interface is down",
        codes=("interface-down",),
        after=(on("b", "ip link set en0 down"),),
        cure=(on("b", "ip link set en0 up"),),
    ),
    Fault(
        name="no_address",
        title="the interface has no IPv4 address, so that a join by address fails",
        codes=("no-address",),
        receive="--iface @198.18.0.2",
        before=(on("b", "ip addr flush dev en0"),),
        fails=True,
        cure=(on("b", "ip addr add 198.18.0.2/24 dev en0"),),
        restart=True,
    ),
    Fault(
        name="bridge_port",
        title="the interface is a port of a bridge on this host; the program joined on the port",
        codes=("interface-is-a-bridge-port",),
        before=(
            on(
                "b",
                "ip link add virbr type bridge mcast_snooping 0",
                "ip link set virbr up",
                "ip link set en0 master virbr",
            ),
        ),
        cure=(on("b", "ip link set en0 nomaster"),),
    ),
    Fault(
        name="xdp_drop",
        title="an XDP program drops the frames",
        codes=("dropped-by-xdp",),
        before=(on("b", "helper ebpf xdp en0 native"),),
        cure=(on("b", "ip link set en0 xdp off"),),
    ),
    Fault(
        name="nft_netdev_drop",
        title="nftables drops the datagrams at the device's ingress hook",
        codes=("dropped-at-ingress",),
        before=(on("b", dropping("netdev", "type filter hook ingress device en0 priority 0;")),),
        cure=(on("b", "nft delete table netdev fw"),),
    ),
    Fault(
        name="nft_input_drop",
        title="nftables drops the datagrams in the input hook",
        codes=("firewall-input",),
        before=(on("b", dropping("inet", "type filter hook input priority 0;")),),
        cure=(on("b", "nft delete table inet fw"),),
    ),
    Fault(
        name="rp_filter_strict",
        title="strict reverse-path filter: the source's route leads out by another interface",
        codes=("reverse-path-filter",),
        topology=TWO_LINKS,
        source="198.18.7.1",
        transmit="--frame --src 198.18.7.1",
        before=(on("b", "ip route add 198.18.7.0/24 via 198.18.1.254", "sysctl -qw net.ipv4.conf.en0.rp_filter=1"),),
        cure=(on("b", "ip route replace 198.18.7.0/24 dev en0"),),
    ),
    Fault(
        name="zero_source",
        title="the datagrams' source address is 0.0.0.0",
        codes=("martian-source",),
        transmit="--frame",
        faulty_transmit="--frame --src 0.0.0.0",
    ),
    Fault(
        name="bad_udp_checksum",
        title="the datagrams have a wrong UDP checksum",
        codes=("bad-udp-checksum",),
        transmit="--frame",
        faulty_transmit="--frame --bad-udp-csum",
    ),
    Fault(
        name="lost_fragments",
        title="large datagrams are sent in fragments, and not all arrive",
        codes=("fragments-lost",),
        transmit="--frame --size 1400 --fragments all",
        faulty_transmit="--frame --size 1400 --fragments first",
    ),
    Fault(
        name="cgroup_drop",
        title="a BPF program of the program's control group drops everything",
        codes=("cgroup-filter",),
        codes_without_pid=("socket-filter",),
        in_filtered_group=True,
    ),
    Fault(
        name="xdp_generic",
        title="a generic XDP program drops the frames",
        codes=("dropped-by-xdp",),
        before=(on("b", "helper ebpf xdp en0 generic"),),
        cure=(on("b", "ip link set en0 xdpgeneric off"),),
    ),
    Fault(
        name="tc_mirred",
        title="traffic control redirects the datagrams to another device at ingress",
        codes=("dropped-at-ingress",),
        before=(
            on(
                "b",
                "ip link add hole type veth peer name bottom",
                "ip link set hole up",
                "tc qdisc add dev en0 ingress",
                redirecting("239.1.2.3"),
            ),
        ),
        cure=(on("b", "tc qdisc del dev en0 ingress"),),
    ),
    Fault(
        name="tc_bpf",
        title="a BPF program of traffic control drops the datagrams at ingress",
        codes=("dropped-at-ingress",),
        before=(
            on(
                "b",
                "mkdir $RUN/bpf",
                "mount -t bpf none $RUN/bpf",
                "helper ebpf tc $RUN/bpf/drop",
                "tc qdisc add dev en0 clsact",
                "tc filter add dev en0 ingress bpf direct-action object-pinned $RUN/bpf/drop",
            ),
        ),
        cure=(on("b", "tc qdisc del dev en0 clsact"),),
    ),
    Fault(
        name="vlan_tagged",
        title="the frames carry a VLAN tag, for which there is no interface",
        codes=("vlan-tagged",),
        transmit="--frame",
        faulty_transmit="--frame --vlan 5",
    ),
    Fault(
        name="other_host_mac",
        title="the frames are for another station's hardware address",
        codes=("frame-for-another-mac",),
        transmit="--frame",
        faulty_transmit="--frame --mac 02:00:00:00:00:77",
    ),
    Fault(
        name="bad_ip_checksum",
        title="the IP headers have a wrong checksum",
        codes=("bad-ip-checksum",),
        transmit_on="sw",  # Into the port, past the bridge, which drops such frames itself.
        transmit="--frame --iface b-0 --smac 02:00:00:00:00:01",
        faulty_transmit="--frame --iface b-0 --smac 02:00:00:00:00:01 --bad-ip-csum",
    ),
    Fault(
        name="bad_udp_length",
        title="the UDP headers have a wrong length",
        codes=("bad-udp-length",),
        transmit="--frame",
        faulty_transmit="--frame --bad-length",
    ),
    Fault(
        name="own_source",
        title="the datagrams' source address is this host's own",
        codes=("source-is-own-address",),
        transmit="--frame",
        faulty_transmit="--frame --src 198.18.0.2",
    ),
    Fault(
        name="loopback_source",
        title="the datagrams' source address is in 127/8",
        codes=("martian-source",),
        transmit="--frame",
        faulty_transmit="--frame --src 127.0.0.5",
    ),
    Fault(
        name="rp_filter_no_source",
        title="strict reverse-path filter, and doctor is not told of the source",
        codes=("reverse-path-filter",),
        topology=TWO_LINKS,
        transmit="--frame --src 198.18.7.1",
        before=(on("b", "ip route add 198.18.7.0/24 via 198.18.1.254", "sysctl -qw net.ipv4.conf.en0.rp_filter=1"),),
        cure=(on("b", "sysctl -qw net.ipv4.conf.en0.rp_filter=2"),),
    ),
    Fault(
        name="rp_filter_all",
        title="strict reverse-path filter by conf.all, while that of the interface is 0",
        codes=("reverse-path-filter",),
        topology=TWO_LINKS,
        source="198.18.7.1",
        transmit="--frame --src 198.18.7.1",
        before=(on("b", "ip route add 198.18.7.0/24 via 198.18.1.254", "sysctl -qw net.ipv4.conf.all.rp_filter=1"),),
        cure=(on("b", "sysctl -qw net.ipv4.conf.all.rp_filter=0"),),
    ),
    Fault(
        name="rp_filter_loose",
        title="loose reverse-path filter: there is no route to the source at all",
        codes=("reverse-path-filter",),
        source="198.18.7.1",
        transmit="--frame --src 198.18.7.1",
        before=(on("b", "ip route del default", "sysctl -qw net.ipv4.conf.en0.rp_filter=2"),),
        cure=(on("b", "ip route add 198.18.7.0/24 dev en0"),),
    ),
    Fault(
        name="nft_prerouting_drop",
        title="nftables drops the datagrams in the prerouting hook",
        codes=("firewall-prerouting",),
        before=(on("b", dropping("inet", "type filter hook prerouting priority 0;")),),
        cure=(on("b", "nft delete table inet fw"),),
    ),
    Fault(
        name="nft_raw_drop",
        title="nftables drops the datagrams in the prerouting hook, before connection tracking",
        codes=("firewall-prerouting",),
        before=(on("b", dropping("ip", "type filter hook prerouting priority -300;")),),
        cure=(on("b", "nft delete table ip fw"),),
    ),
    Fault(
        name="nft_input_policy",
        title="the firewall drops what no rule accepts, as many do",
        codes=("firewall-input",),
        before=(
            on(
                "b",
                nft(
                    "add table inet fw",
                    "add chain inet fw in { type filter hook input priority 0",
                    "policy drop; }",
                    "add rule inet fw in ct state established,related accept",
                    "add rule inet fw in iifname lo accept",
                    "add rule inet fw in ip protocol igmp accept",
                    "add rule inet fw in tcp dport 22 accept",
                ),
            ),
        ),
        cure=(on("b", "nft add rule inet fw in ip daddr 239.1.2.3 udp dport 5000 accept"),),
    ),
    Fault(
        name="ipsec_required",
        title="an IPsec policy requires ESP of the datagrams, which come in clear text",
        codes=("ipsec-policy",),
        before=(
            on(
                "b",
                "ip xfrm policy add src 0.0.0.0/0 dst 239.1.2.3/32 dir in tmpl proto esp mode transport level required",
            ),
        ),
        cure=(on("b", "ip xfrm policy flush"),),
    ),
    Fault(
        name="ipsec_block",
        title="an IPsec policy blocks the datagrams",
        codes=("ipsec-policy",),
        before=(on("b", "ip xfrm policy add src 0.0.0.0/0 dst 239.1.2.3/32 dir in action block"),),
        cure=(on("b", "ip xfrm policy flush"),),
    ),
)
