"""The lab's hosts, links and bridges. What is tested here holds without this package's sockets, one test aside."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from trio_ipv4 import open_udp
from trio_ipv4.testing import igmp_groups, open_lab, source_filters

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4.testing import Lab, LabHost

pytestmark = pytest.mark.usefixtures("needs_lab")

GROUP = IPv4Address("239.1.2.3")
MCAST_JOIN_SOURCE_GROUP = 46  # linux/in.h


def udp(port: int = 5000) -> socket.socket:
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    endpoint.settimeout(5)
    endpoint.bind(("0.0.0.0", port))
    return endpoint


def join(endpoint: socket.socket, host: LabHost, link: int = 0) -> None:
    request = struct.pack("=4s4si", GROUP.packed, bytes(4), host.interfaces[link].index)  # struct ip_mreqn
    endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def leave(endpoint: socket.socket, host: LabHost, link: int = 0) -> None:
    request = struct.pack("=4s4si", GROUP.packed, bytes(4), host.interfaces[link].index)
    endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, request)


def join_source(endpoint: socket.socket, host: LabHost, source: IPv4Address) -> None:
    sockaddr = struct.Struct("=HH4s120x")  # struct sockaddr_in in a sockaddr_storage
    request = struct.pack("=I4x", host.interfaces[0].index)
    request += sockaddr.pack(socket.AF_INET, 0, GROUP.packed) + sockaddr.pack(socket.AF_INET, 0, source.packed)
    endpoint.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, request)


def send_group(endpoint: socket.socket, host: LabHost, payload: bytes, link: int = 0) -> None:
    request = struct.pack("=4s4si", bytes(4), bytes(4), host.interfaces[link].index)
    endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
    endpoint.sendto(payload, (str(GROUP), 5000))


def learned(lab: Lab, link: int = 0) -> set[tuple[str, str, str | None]]:
    """Return what the switch knows of members: port, group, source."""
    argv = ["bridge", "-json", "mdb", "show", "dev", lab.bridge(link)]
    done = lab.switch.call(subprocess.run, argv, capture_output=True, check=True)
    entries = [entry for bridge in json.loads(done.stdout) for entry in bridge["mdb"]]
    return {(entry["port"], entry["grp"], entry.get("src")) for entry in entries}


def current_namespace() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


def test_hosts_reach_each_other(lab: Lab) -> None:
    with lab["a"].call(udp) as here, lab["b"].call(udp) as there:
        here.sendto(b"hello", (str(lab["b"].addresses[0]), 5000))
        assert there.recvfrom(100) == (b"hello", (str(lab["a"].addresses[0]), 5000))


def test_members_hear_their_group(lab: Lab) -> None:
    with lab["a"].call(udp) as here, lab["b"].call(udp) as there:
        join(there, lab["b"])
        send_group(here, lab["a"], b"all")
        assert there.recvfrom(100) == (b"all", (str(lab["a"].addresses[0]), 5000))


def test_the_switch_learns_joins_and_leaves(lab: Lab, wait_until: Callable[..., None]) -> None:
    with lab["b"].call(udp) as member:
        join(member, lab["b"])
        wait_until(lambda: ("b-0", str(GROUP), None) in learned(lab))
        leave(member, lab["b"])
        wait_until(lambda: ("b-0", str(GROUP), None) not in learned(lab))


def test_the_switch_learns_sources(lab: Lab, wait_until: Callable[..., None]) -> None:
    with lab["b"].call(udp) as member:
        source = lab["a"].addresses[0]
        join_source(member, lab["b"], source)
        wait_until(lambda: ("b-0", str(GROUP), str(source)) in learned(lab))


def test_the_switch_keeps_a_group_from_other_hosts(wait_until: Callable[..., None]) -> None:
    with open_lab(("a", "b", "c")) as lab:
        # Turned off and on with an interval of 0, the querier doesn't flood for its first 10 seconds.
        for option in ("mcast_querier 0 mcast_query_response_interval 0", "mcast_querier 1"):
            lab.switch.ip("link", "set", lab.bridge(0), "type", "bridge", *option.split())
        with lab["a"].call(udp) as sender, lab["b"].call(udp) as member, lab["c"].call(packets) as wire:
            join(member, lab["b"])
            wait_until(lambda: ("b-0", str(GROUP), None) in learned(lab))
            send_group(sender, lab["a"], b"for b")
            sender.sendto(b"for c", (str(lab["c"].addresses[0]), 5000))
            assert member.recv(100) == b"for b"
            seen = wire.recv(100)
            while not seen.endswith(b"for c"):
                assert not seen.endswith(b"for b")
                seen = wire.recv(100)


def packets() -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))  # ETH_P_IP, linux/if_ether.h
    wire.settimeout(5)
    return wire


def test_tables_show_what_the_kernel_holds(lab: Lab) -> None:
    a, b = lab["a"], lab["b"]
    key = b.interfaces[0].index, GROUP
    everybody = IPv4Address("224.0.0.1")
    with b.call(udp) as member, b.call(udp, 5001) as picky:
        join(member, b)
        join_source(picky, b, a.addresses[0])
        assert b.call(igmp_groups) == {(1, everybody): 1, (key[0], everybody): 1, key: 2}
        # The member of every source counts as one who excludes none.
        assert b.call(source_filters) == {key: {a.addresses[0]: (1, 0)}}
        assert key not in a.call(igmp_groups)
        assert not a.call(source_filters)


def test_each_link_is_a_network_of_its_own() -> None:
    with open_lab(links=2) as lab:
        for link in (0, 1):
            with lab["a"].call(udp) as here, lab["b"].call(udp) as there:
                here.sendto(b"hello", (str(lab["b"].addresses[link]), 5000))
                assert there.recvfrom(100)[1][0] == str(lab["a"].addresses[link])
                join(there, lab["b"], link)
                send_group(here, lab["a"], b"wrong link", 1 - link)
                send_group(here, lab["a"], b"right link", link)
                assert there.recv(100) == b"right link"


def test_interfaces_and_addresses_are_in_the_order_of_links() -> None:
    with open_lab({"left": [0], "both": [1, 0], "right": [1], "alone": []}) as lab:
        assert list(lab) == ["left", "both", "right", "alone"]
        assert [each.name for each in lab["both"].interfaces] == ["en0", "en1"]
        assert [each.name for each in lab["right"].interfaces] == ["en1"]
        assert [str(each) for each in lab["both"].addresses] == ["198.18.0.2", "198.18.1.2"]
        assert lab["alone"].interfaces == lab["alone"].addresses == ()
        for host in lab.values():
            assert all(each.is_up and each.is_multicast and each.mtu == 1500 for each in host.interfaces)
            assert tuple(each.addresses[0].ip for each in host.interfaces) == host.addresses


def test_interfaces_are_read_afresh(lab: Lab) -> None:
    host = lab["a"]
    host.ip("link", "set", "en0", "down")
    assert not host.interfaces[0].is_up
    host.ip("link", "set", "en0", "name", "lan", "mtu", "1400")
    assert [(each.name, each.mtu) for each in host.interfaces] == [("lan", 1400)]
    host.ip("link", "delete", "lan")
    assert host.interfaces == ()
    assert host.addresses == ()


def test_without_a_router_groups_have_no_route(lab: Lab) -> None:
    with lab["a"].call(udp) as endpoint, pytest.raises(OSError, match="unreachable"):
        endpoint.sendto(b"", (str(GROUP), 5000))


def test_the_wire_carries_no_ipv6(lab: Lab) -> None:
    for host in (*lab.values(), lab.switch):
        assert "inet6" not in host.ip("address", "show")


def test_call_returns_to_the_own_namespace(lab: Lab) -> None:
    def visit() -> list[str]:
        return [current_namespace(), lab["b"].call(current_namespace), current_namespace()]

    own = current_namespace()
    here, there, here_again = lab["a"].call(visit)
    assert here == here_again
    assert len({own, here, there}) == 3
    assert current_namespace() == own


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_call_returns_when_the_function_raises(lab: Lab, error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    own = current_namespace()
    with pytest.raises(error):
        lab["a"].call(fail)
    assert current_namespace() == own


def test_call_passes_arguments(lab: Lab) -> None:
    assert lab["a"].call(sorted, [1, 3, 2], reverse=True) == [3, 2, 1]


def test_call_refuses_a_coroutine_function(lab: Lab) -> None:
    with pytest.raises(TypeError, match="must be synchronous"):
        lab["a"].call(trio.sleep, 0)  # type: ignore[unused-coroutine]  # It is never made.


async def test_commands_run_in_the_host(lab: Lab) -> None:
    done = await trio.run_process(lab["b"].command(["ip", "-json", "address", "show", "en0"]), capture_stdout=True)
    (interface,) = json.loads(done.stdout)
    assert interface["addr_info"][0]["local"] == str(lab["b"].addresses[0])


async def test_connections_belong_to_the_host(lab: Lab) -> None:
    a, b = lab["a"], lab["b"]
    async with (
        a.call(open_udp, "0.0.0.0", 5000) as here,
        b.call(open_udp, port=5000) as there,
        there.joined(b.interfaces[0], GROUP),
    ):
        assert b.call(igmp_groups)[b.interfaces[0].index, GROUP] == 1
        here.multicast_interface = a.interfaces[0]
        await here.send_to(b"hello", (GROUP, 5000))
        with trio.fail_after(20):
            received = await there.receive()
    assert (received.payload, received.peer) == (b"hello", (str(a.addresses[0]), 5000))


def test_command_refuses_a_string(lab: Lab) -> None:
    with pytest.raises(TypeError, match="sequence of arguments"):
        lab["a"].command("ip link")


def test_ip_says_what_went_wrong(lab: Lab) -> None:
    with pytest.raises(subprocess.CalledProcessError, match="Cannot find device") as caught:
        lab["a"].ip("link", "set", "nonsense", "up")
    assert caught.value.returncode != 0


def test_an_interface_can_be_moved_to_another_host(lab: Lab) -> None:
    lab["a"].ip("link", "set", "en0", "name", "en9", "netns", lab["b"].namespace)
    assert lab["a"].interfaces == ()
    assert [each.name for each in lab["b"].interfaces] == ["en0", "en9"]


def test_labs_do_not_see_each_other(lab: Lab) -> None:
    with (
        open_lab() as other,
        lab["a"].call(udp) as here,
        lab["b"].call(udp) as there,
        other["b"].call(udp) as elsewhere,
    ):
        here.sendto(b"hello", (str(lab["b"].addresses[0]), 5000))
        assert there.recv(100) == b"hello"
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.recv(100)


def test_a_lab_that_has_ended_refuses() -> None:
    with open_lab() as lab:
        host = lab["a"]
    for operation in (lambda: host.call(os.getpid), lambda: host.command(["ip"]), lambda: host.ip("link")):
        with pytest.raises(trio.ClosedResourceError, match="ended"):
            operation()
    with pytest.raises(trio.ClosedResourceError):
        _ = host.interfaces


def test_unknown_hosts_are_named(lab: Lab) -> None:
    with pytest.raises(KeyError, match="only a, b"):
        lab["c"]


@pytest.mark.parametrize(
    ("hosts", "links", "router", "message"),
    [
        (("a", "a"), 1, False, "different names"),
        (("a", "router"), 1, True, "different names"),
        (("a b",), 1, False, "1 to 11 letters"),
        (("",), 1, False, "1 to 11 letters"),
        (("a" * 12,), 1, False, "1 to 11 letters"),
        (tuple(f"h{number}" for number in range(254)), 1, False, "at most 253"),
        (("a",), 0, False, "1 to 32"),
        (("a",), 33, False, "1 to 32"),
        ({"a": (-1,)}, 1, False, "1 to 32"),
    ],
)
def test_plans_are_checked(hosts: object, links: int, router: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message), open_lab(hosts, links=links, router=router):  # type: ignore[arg-type]
        pass


def test_a_single_string_is_no_collection_of_hosts() -> None:
    with pytest.raises(TypeError, match="single string"), open_lab("ab"):
        pass
