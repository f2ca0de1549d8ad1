"""Search for UPnP devices with SSDP on every interface that is named, as they come and go; or answer as one.

    python ssdp_search.py [--interface NAME ...] [--target ssdp:all]
    python ssdp_search.py [--interface NAME ...] --answer http://192.0.2.1/description.xml

Each interface has a handler of its own. Devices answer a search by unicast to the port that it came from, so that each
handler searches from a port of its own, not from the one that it shares with other programs, and from the address that
this host has there. Meanwhile it hears devices that announce themselves to the group.

Without --interface it stays on the loopback. To try it: answer in one terminal, search in another.
"""

import argparse
import contextlib
import functools

import trio

from trio_ipv4 import Datagram, Interface, PacketConn, open_udp, serve_group

GROUP = "239.255.255.250"
PORT = 1900
MAX_WAIT = 1  # seconds in which a device chooses when to answer
SEARCH = (
    f'M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}:{PORT}\r\nMAN: "ssdp:discover"\r\nMX: {MAX_WAIT}\r\nST: {{target}}\r\n\r\n'
)
ANSWER = (
    "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nEXT:\r\nLOCATION: {location}\r\n"
    "SERVER: example\r\nST: {target}\r\nUSN: uuid:00000000-0000-1000-8000-000000000000::{target}\r\n\r\n"
)
DEVICE = "upnp:rootdevice"


async def search(target: str, conn: PacketConn, interface: Interface) -> None:
    """Search on one interface, and print who answers and who announces himself."""
    async with open_udp(interface.addresses[0].ip) as asking, trio.open_nursery() as nursery:
        asking.multicast_interface = interface.index
        asking.multicast_ttl = 2  # UPnP Device Architecture 2.0, section 1.1.2
        nursery.start_soon(ask, asking, target)
        nursery.start_soon(show, asking, interface, target, "HTTP/1.1 200", "ST")
        nursery.start_soon(show, conn, interface, target, "NOTIFY", "NT")


async def ask(conn: PacketConn, target: str) -> None:
    for _ in range(3):  # UDP loses.
        # An interface that is just about to go may refuse; then this handler is about to be cancelled.
        with contextlib.suppress(OSError):
            await conn.send_to(SEARCH.format(target=target).encode(), (GROUP, PORT))
        await trio.sleep(MAX_WAIT)


async def show(conn: PacketConn, interface: Interface, target: str, start: str, field: str) -> None:
    """Print each device once whose messages begin so, and name the target in that field."""
    seen = set()
    async for datagram in conn:
        first, fields = read(datagram)
        name = fields.get("USN", "?"), fields.get("LOCATION", "?")
        # A device that leaves says so to the group, too.
        wanted = target in ("ssdp:all", fields.get(field)) and fields.get("NTS") != "ssdp:byebye"
        if first.startswith(start) and wanted and name not in seen:
            seen.add(name)
            print(f"{interface.name}: {datagram.peer[0]} is {name[0]}, see {name[1]}", flush=True)


async def answer(location: str, conn: PacketConn, interface: Interface) -> None:
    """Answer searches on one interface, to whoever sent them."""
    print(f"{interface.name}: ready", flush=True)
    async for datagram in conn:
        first, fields = read(datagram)
        if first.startswith("M-SEARCH") and fields.get("ST") in ("ssdp:all", DEVICE):
            with contextlib.suppress(OSError):
                await conn.send_to(ANSWER.format(location=location, target=DEVICE).encode(), datagram.peer)


def read(datagram: Datagram) -> tuple[str, dict[str, str]]:
    """Return the first line of a message, and its fields by their names in capitals."""
    first, *rest = datagram.payload.decode(errors="replace").splitlines() or [""]
    pairs = (line.partition(":") for line in rest)
    return first, {name.strip().upper(): value.strip() for name, _, value in pairs}


async def main() -> None:
    parser = argparse.ArgumentParser(description="Search for UPnP devices, or answer as one.")
    parser.add_argument("--interface", action="append", help="the interfaces to use; the loopback if there is none")
    parser.add_argument("--target", default="ssdp:all")
    parser.add_argument("--answer", metavar="LOCATION")
    options = parser.parse_args()
    names = options.interface or ["lo"]

    def where(interface: Interface) -> bool:
        return interface.name in names and interface.is_up and bool(interface.addresses)

    answering = functools.partial(answer, options.answer)
    searching = functools.partial(search, options.target)
    await serve_group(answering if options.answer else searching, GROUP, PORT, where=where)


if __name__ == "__main__":
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        pass  # Ctrl-C is how it ends.
