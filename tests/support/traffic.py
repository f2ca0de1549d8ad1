"""What arrives at a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_ipv4 import PacketConn


async def heard(conn: PacketConn, silence: float = 0.5) -> list[bytes]:
    """Return the payloads that arrive, up to a silence of so many seconds. A datagram takes a thousandth of that."""
    payloads = []
    with trio.move_on_after(silence) as quiet:
        async for datagram in conn:
            payloads.append(datagram.payload)
            quiet.deadline = trio.current_time() + silence
    return payloads
