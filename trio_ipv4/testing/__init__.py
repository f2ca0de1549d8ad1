"""Helpers for people who test multicast code: private networks, the kernel's tables of memberships, and faults.

Linux only, and every network is made here: nothing is ever sent on, or joined on, the machine's own interfaces.
"""

# The layers, from the top; each imports only what is below it, and the public package:
#
#   __main__, _command     `python -m trio_ipv4.testing COMMAND`: root of a private user and network namespace
#   _lab                    bridges, cables, addresses: open_lab
#   _lab_host               a host of the lab
#   _multicast_router       the forwarding of groups on the lab's router
#   _systems                where the library's sockets on a host are made
#   _faults                 cancel_at_each_checkpoint
#   _namespaces             network namespaces without names: unshare, setns, and the way back
#   _tables                 /proc/net/igmp and /proc/net/mcfilter

from trio_ipv4.testing._faults import cancel_at_each_checkpoint as cancel_at_each_checkpoint
from trio_ipv4.testing._lab import Lab as Lab
from trio_ipv4.testing._lab import lab_available as lab_available
from trio_ipv4.testing._lab import open_lab as open_lab
from trio_ipv4.testing._lab_host import LabHost as LabHost
from trio_ipv4.testing._namespaces import private_network as private_network
from trio_ipv4.testing._tables import igmp_groups as igmp_groups
from trio_ipv4.testing._tables import source_filters as source_filters

__all__ = (
    "Lab",
    "LabHost",
    "cancel_at_each_checkpoint",
    "igmp_groups",
    "lab_available",
    "open_lab",
    "private_network",
    "source_filters",
)
