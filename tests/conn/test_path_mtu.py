"""What a path can carry: modes, what the kernel knows, and what a refusal says. Routers: test_simulated_errors.py."""

from __future__ import annotations

import errno

import pytest

from support.here import BOTH
from support.links import ip, veth
from trio_ipv4 import PathMTUDiscovery, open_ip, open_udp
from trio_ipv4.testing import private_network

pytestmark = BOTH

NEAR, THERE = "198.18.7.1", "198.18.7.2"


def make_en0(mtu: int = 1400) -> None:
    ip(*veth("en0", 7), f"address add {NEAR}/24 dev en0", f"link set en0 mtu {mtu}")


async def test_the_mode_is_the_kernels_and_reads_back() -> None:
    async with open_udp() as conn, open_ip(253) as other:
        assert conn.path_mtu_discovery is other.path_mtu_discovery is PathMTUDiscovery.WANT
        for mode in PathMTUDiscovery:
            conn.path_mtu_discovery = mode
            assert conn.path_mtu_discovery is mode


async def test_the_path_begins_with_the_mtu_of_its_interface() -> None:
    make_en0()
    async with open_udp() as conn, open_udp("127.0.0.1") as local, open_udp(NEAR) as bound:
        assert conn.path_mtu(THERE) == bound.path_mtu(THERE) == 1400
        assert conn.path_mtu("198.18.7.255") == 1400  # A broadcast address needs no SO_BROADCAST to ask.
        assert local.path_mtu("127.0.0.1") >= 65535
        ip("link set en0 mtu 1300")
        assert conn.path_mtu(THERE) == 1300


async def test_the_path_of_a_group_is_that_of_the_multicast_interface() -> None:
    make_en0()
    async with open_udp() as conn, open_udp(interface="en0") as bound:
        with pytest.raises(OSError, match=r"find the path MTU to 239\.1\.2\.3") as caught:
            conn.path_mtu("239.1.2.3")
        assert caught.value.errno == errno.ENETUNREACH
        conn.multicast_interface = "en0"
        assert conn.path_mtu("239.1.2.3") == bound.path_mtu("239.1.2.3") == 1400


async def test_there_is_no_path_without_a_route() -> None:
    async with open_udp() as conn:
        with pytest.raises(OSError, match=r"can't find the path MTU to 198\.18\.7\.2: ") as caught:
            conn.path_mtu(THERE)
        assert caught.value.errno == errno.ENETUNREACH
        with pytest.raises(ValueError, match="address must be a numeric IPv4 address"):
            conn.path_mtu("localhost")


async def test_a_refusal_names_the_mtu() -> None:
    make_en0()
    async with open_udp() as conn:
        await conn.send_to(bytes(3000), (THERE, 5000))  # It is cut.
        conn.path_mtu_discovery = PathMTUDiscovery.DO
        await conn.send_to(bytes(1372), (THERE, 5000))
        with pytest.raises(OSError, match=r"longer than the path's MTU of 1,400 octets with the IP header") as caught:
            await conn.send_to(bytes(1373), (THERE, 5000))
        assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.kernel_only("namespaces")
async def test_asking_from_another_network_is_refused() -> None:
    async with open_udp() as conn:
        with private_network(), pytest.raises(ValueError, match="another network namespace than the current one"):
            conn.path_mtu("127.0.0.1")
