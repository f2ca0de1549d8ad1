"""What docs/how-to/containers-and-ci.md says of a container's network, in a lab: a bridge behind NAT, and macvlan."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from support import capabilities
from support.traffic import heard
from trio_ipv4 import follow_group, interfaces, open_ip, open_raw, open_udp
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4.testing import Lab, LabHost

pytestmark = pytest.mark.usefixtures("needs_lab")

GROUP, PORT = "239.1.2.3", 5000
NAT = (
    "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; "
    "add rule ip nat post ip saddr 172.17.0.0/16 oifname != docker0 masquerade"
)


def shell(host: LabHost, script: str) -> None:
    done = subprocess.run(host.command(["sh", "-ec", script]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def bridged(private_net: None) -> Iterator[Lab]:
    """A network with "host" and "outside"; "one" and "two" are containers of the host, as Docker makes them."""
    with open_lab({"outside": [0], "host": [0], "one": [], "two": []}) as lab:
        host = lab["host"]
        shell(host, "ip link add docker0 type bridge; ip link set docker0 up; ip addr add 172.17.0.1/16 dev docker0")
        for number, name in enumerate(("one", "two"), 2):
            cable = f"veth{number} type veth peer name eth0 netns {lab[name].namespace}"
            shell(host, f"ip link add {cable}; ip link set veth{number} master docker0 up")
            shell(lab[name], f"ip addr add 172.17.0.{number}/16 dev eth0; ip link set eth0 up")
            shell(lab[name], "ip route add default via 172.17.0.1")
        host.set_sysctl("net.ipv4.ip_forward", 1)
        shell(host, f"nft '{NAT}'; ip route add default via 198.18.0.1")
        yield lab


async def send(host: LabHost, interface: str, payload: bytes) -> None:
    async with host.call(open_udp) as conn:
        conn.multicast_interface, conn.multicast_ttl = interface, 8
        await conn.send_to(payload, (GROUP, PORT))


async def test_a_container_on_a_bridge_hears_the_bridge_and_not_the_network_outside(bridged: Lab) -> None:
    async with (
        bridged["one"].call(open_udp, port=PORT) as conn,
        conn.joined("eth0", GROUP),
        bridged["outside"].call(open_udp, port=PORT) as outside,
        outside.joined("en0", GROUP),
    ):
        await send(bridged["outside"], "en0", b"outside")
        await send(bridged["two"], "eth0", b"container")
        await send(bridged["host"], "docker0", b"host")
        assert await heard(conn) == [b"container", b"host"]
        # Nor does the group leave the bridge.
        assert await heard(outside) == [b"outside"]


def test_the_doctor_in_the_container_says_that_nothing_reaches_it(bridged: Lab) -> None:
    argv = [sys.executable, "-m", "trio_ipv4", "doctor", f"{GROUP}:{PORT}", "--for", "1s", "--json"]
    done = subprocess.run(bridged["one"].command(argv), capture_output=True, text=True, check=False)
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert (verdict["code"], verdict["certainty"]) == ("not-on-the-wire", "likely")
    assert "the datagrams do not reach this host" in verdict["text"]


async def test_a_container_with_a_macvlan_hears_the_network_outside_and_not_its_host() -> None:
    with open_lab({"outside": [0], "host": [0], "one": []}) as lab:
        container = lab["one"]
        shell(lab["host"], "ip link add link en0 name mv0 type macvlan mode bridge")
        shell(lab["host"], f"ip link set mv0 netns {container.namespace} name eth0")
        shell(container, "ip addr add 198.18.0.77/24 dev eth0; ip link set eth0 up")
        async with container.call(open_udp, port=PORT) as conn, conn.joined("eth0", GROUP):
            await send(lab["host"], "en0", b"host")
            await send(lab["outside"], "en0", b"outside")
            assert await heard(conn) == [b"outside"]


async def test_udp_needs_no_capability_and_raw_ip_needs_one() -> None:
    with capabilities.without():
        (lo,) = interfaces()
        start = functools.partial(follow_group, where=lambda each: each == lo)
        async with (
            open_udp("0.0.0.0", PORT, interface="lo") as conn,
            conn.joined("lo", GROUP),
            trio.open_nursery() as nursery,
        ):
            assert await nursery.start(start, conn, "239.4.5.6") == (lo,)
            nursery.cancel_scope.cancel()
        for opener in (open_ip, open_raw):
            with pytest.raises(PermissionError, match="CAP_NET_RAW"):
                opener(253)
