"""Show which multicast streams are announced by SAP (RFC 2974).

    python sap_browser.py [INTERFACE] [--seconds 60]

Joins both groups of SAP on an interface, by default the loopback. Prints each session once, with its IPv4 multicast
streams over RTP, and again when it is deleted. Anybody can announce anything.
"""

import argparse
import re
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import NamedTuple

import trio

from trio_ipv4 import SourceFilter, open_udp

GROUPS, PORT = ("224.2.127.254", "239.255.255.255"), 9875  # RFC 2974 section 3: global, and of the local scope.
IPV6, DELETION, ENCRYPTED, COMPRESSED = 0x10, 0x04, 0x02, 0x01  # Section 6: bits of the first octet.
CLOCKS = {"10": 44_100, "11": 44_100, "14": 90_000, "26": 90_000, "32": 90_000, "33": 90_000}  # RFC 3551 section 6.


class Stream(NamedTuple):
    """A stream of a session."""

    group: str
    port: int
    clock: int  # Of its timestamps, in Hz.
    sources: SourceFilter

    def __str__(self) -> str:
        names = " ".join(map(str, sorted(self.sources.sources)))
        which = f"{self.sources.mode.name.lower()} {names}" if names else "any source"
        return f"{self.group}:{self.port}, {self.clock} Hz, {which}"


class Announcement(NamedTuple):
    """A session, or its end."""

    identity: bytes
    is_deletion: bool
    name: str
    streams: list[Stream]


def read(payload: bytes) -> Announcement | None:
    """Read a SAP packet; None for one that can't be read."""
    if len(payload) < 8 or payload[0] >> 5 != 1 or payload[0] & (IPV6 | ENCRYPTED | COMPRESSED):
        return None
    content = payload[8 + 4 * payload[1] :]  # Behind the authentication.
    sdp = content if content.startswith(b"v=0") else content.partition(b"\0")[2]  # Its media type may come first.
    text = sdp.decode(errors="replace").replace("\r\n", "\n")
    try:
        found = re.search(r"^s=(.*)", text, re.MULTILINE)
        name = "".join(filter(str.isprintable, found[1])) if found else "?"  # Nothing that commands the terminal.
        return Announcement(payload[2:8], bool(payload[0] & DELETION), name, read_sdp(text))
    except ValueError:  # An address that is none.
        return None


def read_sdp(text: str) -> list[Stream]:
    """Return the multicast streams of a session description (RFC 8866)."""
    session, *parts = re.split(r"^(?=m=)", text, flags=re.MULTILINE)
    return [stream for part in parts if (stream := read_media(session, part)) is not None]


def read_media(session: str, part: str) -> Stream | None:
    """Read the description of one stream. What it does not say, the session says for all."""

    def find(pattern: str) -> re.Match[str] | None:
        return re.search(pattern, part, re.MULTILINE) or re.search(pattern, session, re.MULTILINE)

    media, group = re.match(r"m=\w+ (\d+)\S* RTP/AVP (\d+)", part), find(r"^c=IN IP4 ([\d.]+)")
    if not media or not group or not IPv4Address(group[1]).is_multicast:
        return None
    clock = find(rf"^a=rtpmap:{media[2]} [^/]+/([1-9]\d*)")
    sources = find(r"^a=source-filter: ?(incl|excl) IN IP4 \S+ ([\d. ]+)")  # RFC 4570 section 3
    make = SourceFilter.include if sources and sources[1] == "incl" else SourceFilter.exclude
    return Stream(
        group[1],
        int(media[1]),
        int(clock[1]) if clock else CLOCKS.get(media[2], 8000),
        make(*(sources[2].split() if sources else ())),
    )


async def browse(interface: str, tell: Callable[[Announcement], object]) -> None:
    """Tell of each announcement, once."""
    known: set[bytes] = set()
    conn = open_udp("0.0.0.0", PORT, share_port=True)
    async with conn, conn.joined(interface, GROUPS[0]), conn.joined(interface, GROUPS[1]):
        async for datagram in conn:
            found = read(datagram.payload)
            if found is not None and found.is_deletion == (found.identity in known):
                known ^= {found.identity}
                tell(found)


def show(announcement: Announcement) -> None:
    """Print a session, or its end."""
    words = ["deleted"] if announcement.is_deletion else list(map(str, announcement.streams))
    print(f"{announcement.name}: {'; '.join(words)}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Show which multicast streams are announced.")
    parser.add_argument("interface", nargs="?", default="lo")
    parser.add_argument("--seconds", type=float, default=60, help="how long to listen; by default 60")
    options = parser.parse_args()
    with trio.move_on_after(options.seconds):
        await browse(options.interface, show)


if __name__ == "__main__":
    trio.run(main)
