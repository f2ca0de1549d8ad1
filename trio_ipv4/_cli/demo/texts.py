"""What the demo says between the facts, for someone new to multicast."""

from __future__ import annotations

from typing import Final

from trio_ipv4._cli.demo.events import Step

TITLE: Final = "trio-ipv4 {version}: multicast on {interface}, step by step"
INTRODUCTION: Final = (
    "Multicast sends one datagram to everybody who wants it. It goes to a group: an address, from 224.0.0.0 to "
    "239.255.255.255, that belongs to no machine; whoever wants to hear it joins. This demo uses three groups, "
    "picked at random, on the loopback interface: nothing leaves this machine."
)
BEFORE: Final = Step(
    1,
    "Nobody has joined",
    "Three sockets are open already, one for each group, but an open socket hears no group by itself. We ask the "
    "kernel, now and later: its tables of memberships and of their filters, /proc/net/igmp and /proc/net/mcfilter, are "
    "the witness.",
)
JOIN: Final = Step(
    2,
    "Three receivers join",
    "Each receiver is a task in one trio nursery. By joining it becomes a member: the kernel notes that this socket "
    "wants this group, on this interface, from these sources. On a real network it would also tell the routers "
    "(by IGMP), so that they forward the group to here.",
)
SEND: Final = Step(
    3,
    "Two senders send to each group",
    "Senders need not be members. TTL (the number of routers a datagram may cross, plus one) and TOS (its "
    "priority) are set for each datagram, so that we can see whether it arrives as it was sent.",
)
HEAR: Final = Step(
    4,
    "The kernel decides who hears what",
    "What a receiver's filter refuses is dropped by the kernel, and never reaches the program. With what it hands over "
    "it tells where and when that arrived. B and C refuse 127.0.0.2: when what 127.0.0.1 sent after it arrives, we "
    "know that it was refused, and is not just late.",
)
CANCEL: Final = Step(
    5,
    "The nursery is cancelled",
    "That ends the three tasks, and on its way out each one leaves its group, although its socket is still open. "
    "Leaving matters: where a membership stays behind, the kernel keeps taking, and routers keep sending, what nobody "
    "reads.",
)
CONFIRMED: Final = "the kernel confirms every step, in {checks} checks."
REFUTED: Final = "the kernel does not confirm every step: {failed} of {checks} checks failed."
BROKEN: Final = "the demo could not go on: {problem}."
DOWN: Final = "the loopback interface, {interface}, is down; 'ip link set {interface} up', as root, sets it up"
NO_LOOPBACK: Final = "this network namespace has no loopback interface"
NO_TABLES: Final = "the kernel's tables of memberships, in /proc/net, can't be read ({error}); the demo needs Linux"
