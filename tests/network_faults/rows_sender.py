"""Faults of the sender, seen from its own host."""

from __future__ import annotations

from functools import partial
from typing import Final

from network_faults.fault import Beside, Fault, Topology, nft, on
from network_faults.rows_network import ROUTED, ROUTER

AtSender: Final = partial(Fault, where="a", role="sender", pid="transmit")

SENDER: Final = (
    AtSender(
        name="ttl_1",
        title="sent with TTL 1 to a receiver behind a router",
        codes=("ttl-too-small",),
        receiver_address="198.18.1.2",
        topology=ROUTED,
        beside=ROUTER,
        receive="--iface en1",
        transmit="--ttl 8",
        faulty_transmit="",
    ),
    AtSender(
        name="tx_ttl_0",
        title="IP_MULTICAST_TTL 0: the datagrams stay in the host, which has a member",
        codes=("ttl-zero",),
        beside=(Beside("own", "a", "receive"),),
        faulty_transmit="--ttl 0",
    ),
    AtSender(
        name="tx_firewall",
        title="the sender's firewall drops what goes out",
        codes=("firewall-output",),
        before=(
            on(
                "a",
                nft(
                    "add table inet fw",
                    "add chain inet fw out { type filter hook output priority 0; }",
                    "add rule inet fw out ip daddr 239.1.2.3 counter drop",
                ),
            ),
        ),
        sends=False,
        cure=(on("a", "nft delete table inet fw"),),
    ),
    AtSender(
        name="tx_no_route",
        title="no route for the group: sendto fails",
        codes=("no-multicast-route",),
        interface=None,
        transmit="--iface any",
        before=(on("a", "ip route del default"),),
        sends=False,
        cure=(on("a", "ip route add 224.0.0.0/4 dev en0"),),
    ),
    AtSender(
        name="tx_wrong_interface",
        title="the sender chose no interface; its default route leads by en1",
        codes=("sends-on-another-interface",),
        topology=Topology(hosts={"a": (0, 1), "b": (0,)}),
        faulty_transmit="--iface any",
        before=(on("a", "ip route replace default via 198.18.1.254 dev en1"),),
    ),
    Fault(
        name="loop_off",
        title="sender and receiver on one host; the sender has IP_MULTICAST_LOOP 0 (from the receiver's side)",
        codes=("loopback-off",),
        where="a",
        receive_on="a",
        faulty_transmit="--loop 0",
    ),
    *(
        AtSender(
            name=f"tx_{kind}",
            title=f"the route for groups is of the type {kind}: sendto fails",
            codes=("route-forbids",),
            interface=None,
            transmit="--iface any",
            before=(on("a", f"ip route add {kind} 224.0.0.0/4"),),
            sends=False,
            cure=(on("a", "ip route replace 224.0.0.0/4 dev en0"),),
        )
        for kind in ("prohibit", "blackhole", "unreachable")
    ),
    AtSender(
        name="tx_on_lo",
        title="the sender sends on the loopback interface",
        codes=("sends-on-another-interface",),
        faulty_transmit="--iface lo",
    ),
    AtSender(
        name="tx_mtu",
        title="the datagrams are larger than the MTU, and must not be fragmented: sendto says EMSGSIZE",
        codes=("larger-than-the-mtu",),
        codes_without_pid=("not-sending",),
        faulty_transmit="--size 3000 --df",
        sends=False,
    ),
    AtSender(
        name="tx_silent",
        title="the program has a socket, and sends nothing",
        codes=("not-sending",),
        faulty_transmit="--no-send",
        sends=False,
    ),
    AtSender(
        name="tx_stopped",
        title="the sender is stopped",
        codes=("program-stopped", "not-sending"),
        after=(on("a", "kill -STOP $(cat $RUN/transmit.pid)"),),
        sends=False,
        cure=(on("a", "kill -CONT $(cat $RUN/transmit.pid)"),),
    ),
    AtSender(
        name="tx_egress",
        title="nftables drops what goes out at the device's egress hook: sendto says nothing",
        codes=("firewall-output",),
        before=(
            on(
                "a",
                nft(
                    "add table netdev fw",
                    "add chain netdev fw out { type filter hook egress device en0 priority 0; }",
                    "add rule netdev fw out ip daddr 239.1.2.3 counter drop",
                ),
            ),
        ),
        cure=(on("a", "nft delete table netdev fw"),),
    ),
)
