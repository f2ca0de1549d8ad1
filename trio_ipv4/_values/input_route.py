"""What a host does with a packet that comes in."""

from __future__ import annotations

import enum
from typing import final


@final
class InputRoute(enum.Enum):
    """What the kernel's input route does with a packet; `input_route` asks for it."""

    REFUSED = "refused"
    """It drops the packet: the group is not joined there, the membership's filter refuses the source, the source is
    not valid there, or nobody here has the address."""
    LOCAL = "local"
    """It hands the packet to this host's own sockets. A multicast router may send it on besides."""
    FORWARD = "forward"
    """It sends the packet on, and no socket here gets it."""
