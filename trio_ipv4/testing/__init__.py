"""Helpers for people who test multicast code: a simulated network, private ones, and faults.

Every network is made here: nothing is ever sent on, or joined on, the machine's own interfaces. The simulated network
and the faults work everywhere; the lab and the kernel's tables are Linux's.
"""

# The layers, from the top; each imports only what is below it, and the public package:
#
#   __main__, _command     `python -m trio_ipv4.testing COMMAND`: root of a private user and network namespace
#   _lab                    bridges, cables, addresses: open_lab
#   _lab_host               a host of the lab
#   _simulation             hosts that exist only in this process: simulate
#   _hosts                  the shape that the hosts of both have
#   _multicast_router       the forwarding of groups on the lab's router
#   _systems                where the library's sockets on a host are made
#   _faults                 cancel_at_each_checkpoint
#   _namespaces             network namespaces without names: unshare, setns, and the way back
#   _tables                 /proc/net/igmp and /proc/net/mcfilter

from trio_ipv4.testing._faults import cancel_at_each_checkpoint as cancel_at_each_checkpoint
from trio_ipv4.testing._hosts import Host as Host
from trio_ipv4.testing._hosts import Link as Link
from trio_ipv4.testing._hosts import Network as Network
from trio_ipv4.testing._lab import Lab as Lab
from trio_ipv4.testing._lab import lab_available as lab_available
from trio_ipv4.testing._lab import open_lab as open_lab
from trio_ipv4.testing._lab_host import LabHost as LabHost
from trio_ipv4.testing._lab_host import LabLink as LabLink
from trio_ipv4.testing._namespaces import private_network as private_network
from trio_ipv4.testing._simulation.hosts import SimulatedHost as SimulatedHost
from trio_ipv4.testing._simulation.links import SimulatedLink as SimulatedLink
from trio_ipv4.testing._simulation.network import SimulatedNetwork as SimulatedNetwork
from trio_ipv4.testing._simulation.network import simulate as simulate
from trio_ipv4.testing._tables import igmp_groups as igmp_groups
from trio_ipv4.testing._tables import source_filters as source_filters

__all__ = (
    "Host",
    "Lab",
    "LabHost",
    "LabLink",
    "Link",
    "Network",
    "SimulatedHost",
    "SimulatedLink",
    "SimulatedNetwork",
    "cancel_at_each_checkpoint",
    "igmp_groups",
    "lab_available",
    "open_lab",
    "private_network",
    "simulate",
    "source_filters",
)
