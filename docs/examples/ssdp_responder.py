"""Be found as a UPnP device: announce it by SSDP, and answer searches (UPnP Device Architecture 2.0, section 1).

    python ssdp_responder.py [--interface NAME ...] [--location URL] [--type TYPE] [--uuid UUID]

Each interface that is named, as they come and go, has a handler of its own, which tells the address that this host has
there: `{}` in the URL stands for it. Without --interface it stays on the loopback. Prints whom it has answered. Ctrl-C
and SIGTERM end it, and it says goodbye. It does not serve the description at that URL. Try it with ssdp_search.py.
"""

import argparse
import contextlib
import functools
import random
import signal
import time
import uuid

import trio

from trio_ipv4 import Endpoint, Interface, PacketConn, serve_group

GROUP, PORT = "239.255.255.250", 1900
MAX_AGE = 1800  # Seconds for which others may believe an announcement.
MAX_WAIT = 5  # Seconds; a search that allows more is answered sooner (section 1.3.3).


class Responder:
    """The device on one interface."""

    def __init__(self, conn: PacketConn, interface: Interface, names: dict[str, str], location: str) -> None:
        self.conn, self.interface, self.names = conn, interface, names
        self.fields = {
            "CACHE-CONTROL": f"max-age={MAX_AGE}",
            "LOCATION": location.format(interface.addresses[0].ip),
            "SERVER": "example/1 UPnP/2.0 example/1",
            "BOOTID.UPNP.ORG": str(int(time.time())),  # Greater after each start.
            "CONFIGID.UPNP.ORG": "1",
        }

    async def send(self, first: str, peer: Endpoint, **fields: str) -> None:
        lines = [first, *(f"{name}: {value}" for name, value in {**self.fields, **fields}.items()), "", ""]
        with contextlib.suppress(OSError):  # The interface is about to go, or nobody can have that address.
            await self.conn.send_to("\r\n".join(lines).encode(), peer)

    async def notify(self, state: str) -> None:
        """Tell the group of each name that the device has."""
        for target, name in self.names.items():
            await self.send("NOTIFY * HTTP/1.1", (GROUP, PORT), HOST=f"{GROUP}:{PORT}", NT=target, NTS=state, USN=name)

    async def announce(self) -> None:
        await self.notify("ssdp:alive")  # Twice at first, since UDP loses.
        while True:
            await self.notify("ssdp:alive")
            await trio.sleep(MAX_AGE / 2 * random.uniform(0.5, 1))

    async def answer(self, target: str, peer: Endpoint, wait: float) -> None:
        """Answer a search for a name, or for all, after a while that the searcher allows."""
        await trio.sleep(random.uniform(0, 0.8) * min(wait, MAX_WAIT))  # The way takes time, too.
        for each in self.names if target == "ssdp:all" else [target]:
            await self.send("HTTP/1.1 200 OK", peer, EXT="", ST=each, USN=self.names[each])
        print(f"{self.interface.name}: told {peer[0]} of {target}", flush=True)

    async def run(self) -> None:
        """Announce and answer, and say goodbye at the end."""
        self.conn.multicast_ttl = 2  # Section 1.1.2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.announce)
            try:
                async for datagram in self.conn:
                    first, *rest = datagram.payload.decode(errors="replace").splitlines() or [""]
                    pairs = (line.partition(":") for line in rest)
                    fields = {name.strip().upper(): value.strip() for name, _, value in pairs}
                    target, wait = fields.get("ST", ""), fields.get("MX", "")
                    is_search = first == "M-SEARCH * HTTP/1.1" and fields.get("MAN") == '"ssdp:discover"'
                    # A search without MX is to be ignored (section 1.3.3).
                    if is_search and wait.isdecimal() and target in {"ssdp:all", *self.names}:
                        nursery.start_soon(self.answer, target, datagram.peer, float(wait))
            finally:
                with trio.move_on_after(1, shield=True):
                    await self.notify("ssdp:byebye")


async def main() -> None:
    parser = argparse.ArgumentParser(description="Be found as a UPnP device.")
    parser.add_argument("--interface", action="append", help="the interfaces to use; the loopback if there is none")
    parser.add_argument("--location", default="http://{}:8080/description.xml", help="where its description is")
    parser.add_argument("--type", default="urn:schemas-upnp-org:device:Basic:1", help="the type of the device")
    parser.add_argument("--uuid", type=uuid.UUID, default=uuid.uuid4(), help="it should be the same after each start")
    options = parser.parse_args()
    root, interfaces = f"uuid:{options.uuid}", options.interface or ["lo"]
    names = {root: root, **{each: f"{root}::{each}" for each in ("upnp:rootdevice", options.type)}}

    async def handle(conn: PacketConn, interface: Interface) -> None:
        print(f"{interface.name}: here is {root}", flush=True)
        await Responder(conn, interface, names, options.location).run()

    def where(interface: Interface) -> bool:
        return interface.name in interfaces and interface.is_up and bool(interface.addresses)

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(serve_group, handle, GROUP, PORT, where=where))
            async for _ in signals:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
