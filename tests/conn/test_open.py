from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio.testing

from trio_ipv4 import ControlFlags, PacketConn, RawConn, open_ip, open_raw, open_udp

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP, OTHER = "239.1.2.3", "239.1.2.4"
IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_MULTICAST_ALL = 8, 12, 13, 49  # linux/in.h
SO_RXQ_OVFL, SO_TIMESTAMPNS = 40, 35  # asm-generic/socket.h
LOWEST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def option(conn: PacketConn | RawConn, level: int, name: int) -> int:
    return conn.socket.getsockopt(level, name)


def multicast(payload: bytes, group: str, port: int) -> None:
    """Send on loopback with the standard library alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.sendto(payload, (group, port))


def unicast(payload: bytes, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, ("127.0.0.1", port))


def is_empty(conn: PacketConn) -> bool:
    """Whether the kernel has nothing for the connection; loopback delivers before sending returns."""
    with socket.socket(fileno=os.dup(conn.socket.fileno())) as look:
        try:
            look.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
    return False


@pytest.fixture
def nothing_leaks() -> Any:
    before = descriptors()
    yield
    assert descriptors() == before


# UDP


@pytest.mark.usefixtures("nothing_leaks")
async def test_udp_listens_on_everything_with_a_port_of_the_kernels_choice() -> None:
    async with open_udp() as conn:
        assert type(conn) is PacketConn
        address, port = conn.local_endpoint
        assert address == "0.0.0.0"
        assert port > 0
        assert conn.socket.family == socket.AF_INET
        assert conn.socket.type == socket.SOCK_DGRAM
        assert not os.get_blocking(conn.socket.fileno())
        assert not os.get_inheritable(conn.socket.fileno())


@pytest.mark.parametrize("address", ["127.0.0.1", IPv4Address("127.0.0.1"), IPv4Interface("127.0.0.1/8")])
async def test_udp_binds_to_a_local_address_and_port(address: Any) -> None:
    async with open_udp(address, 5000) as conn:
        assert conn.local_endpoint == conn.socket.getsockname() == ("127.0.0.1", 5000)


async def test_udp_sets_what_it_says_and_shares_nothing() -> None:
    async with open_udp() as conn:
        assert option(conn, socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
        assert option(conn, socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        assert option(conn, socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
        assert option(conn, 0, IP_MULTICAST_ALL) == 0
        assert option(conn, 0, IP_PKTINFO) == 1
        for level, name in ((0, IP_RECVTTL), (0, IP_RECVTOS), (1, SO_RXQ_OVFL), (1, SO_TIMESTAMPNS)):
            assert option(conn, level, name) == 0
        assert conn.control_flags == ControlFlags.DST | ControlFlags.INTERFACE
        assert conn.multicast_all is False


@pytest.mark.parametrize(
    "opener", [open_udp, lambda **options: open_ip(253, **options), lambda **o: open_raw(253, **o)]
)
async def test_flags_and_multicast_all_are_set(opener: Callable[..., PacketConn | RawConn]) -> None:
    flags = ControlFlags.TTL | ControlFlags.TOS | ControlFlags.TIMESTAMP | ControlFlags.DROPS
    async with opener(control_flags=flags, multicast_all=True) as conn:
        assert conn.control_flags == flags
        assert option(conn, 0, IP_PKTINFO) == 0
        for level, name in ((0, IP_RECVTTL), (0, IP_RECVTOS), (1, SO_RXQ_OVFL), (1, SO_TIMESTAMPNS)):
            assert option(conn, level, name) == 1
        assert option(conn, 0, IP_MULTICAST_ALL) == 1
    async with opener(control_flags=ControlFlags(0)) as conn:
        assert conn.control_flags == ControlFlags(0)
        assert option(conn, 0, IP_PKTINFO) == 0


async def test_the_first_datagram_has_its_facts() -> None:
    async with open_udp("127.0.0.1", 5000, control_flags=ControlFlags.TTL | ControlFlags.DST) as conn:
        unicast(b"first", 5000)
        datagram = await conn.receive()
        assert (datagram.control.ttl, datagram.control.dst) == (64, IPv4Address("127.0.0.1"))


@pytest.mark.parametrize(
    "opener", [open_udp, lambda **options: open_ip(253, **options), lambda **o: open_raw(253, **o)]
)
async def test_facts_are_asked_for_before_anything_can_arrive(opener: Callable[..., PacketConn | RawConn]) -> None:
    at_bind: list[list[int]] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "socket.bind":
            at_bind.append([arguments[0].getsockopt(0, name) for name in (IP_PKTINFO, IP_RECVTTL, IP_MULTICAST_ALL)])

    sys.addaudithook(watch)  # It can't be taken away again.
    try:
        opener(control_flags=ControlFlags.TTL | ControlFlags.DST).close()
    finally:
        watching = False
    assert at_bind == [[1, 1, 0]]


async def test_a_multicast_address_listens_on_everything_with_a_shared_port() -> None:
    # As Go's net.ListenPacket.
    async with open_udp("224.0.0.0", 5000) as first, open_udp(GROUP, 5000) as second:
        assert first.local_endpoint == second.local_endpoint == ("0.0.0.0", 5000)
        async with first.joined("lo", GROUP):
            multicast(b"x", GROUP, 5000)
            assert (await first.receive()).payload == b"x"
            assert is_empty(second)


async def test_bind_group_hears_the_group_alone() -> None:
    async with open_udp(GROUP, 5000, bind_group=True) as conn, open_udp(OTHER, 5000, bind_group=True) as other:
        assert conn.local_endpoint == (GROUP, 5000)
        async with conn.joined("lo", GROUP), other.joined("lo", OTHER):
            unicast(b"unicast", 5000)
            multicast(b"other", OTHER, 5000)
            multicast(b"group", GROUP, 5000)
            assert (await conn.receive()).payload == b"group"
            assert is_empty(conn)
            assert (await other.receive()).payload == b"other"
            assert is_empty(other)


async def test_a_shared_port_is_shared_with_go_and_others_that_set_both_options() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("0.0.0.0", 5000))
        stranger.setblocking(False)
        request = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
        stranger.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        async with open_udp(port=5000, share_port=True) as one, open_udp(port=5000, share_port=True) as two:
            async with one.joined("lo", GROUP), two.joined("lo", GROUP):
                multicast(b"for all", GROUP, 5000)
                assert (await one.receive()).payload == (await two.receive()).payload == b"for all"
                assert stranger.recv(100) == b"for all"
            unicast(b"for one", 5000)
            heard = [is_empty(one), is_empty(two)]
            try:
                stranger.recv(100)
            except BlockingIOError:
                heard.append(True)
            else:
                heard.append(False)
            assert heard.count(False) == 1


@pytest.mark.parametrize("only", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
async def test_a_shared_port_is_shared_with_who_sets_one_option_alone(only: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, only, 1)
        stranger.bind(("0.0.0.0", 5000))
        async with open_udp(port=5000, share_port=True) as conn:
            assert conn.local_endpoint[1] == 5000


async def test_who_sets_reuseaddr_alone_shares_our_port() -> None:
    async with open_udp(port=5000, share_port=True):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(("0.0.0.0", 5000))


async def test_who_sets_reuseport_alone_can_bind_only_before_us() -> None:
    """The price for not being in a group of sockets of which Linux picks one by a hash."""
    async with open_udp(port=5000, share_port=True) as conn:
        assert conn.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use") as caught:
                stranger.bind(("0.0.0.0", 5000))
            assert caught.value.errno == errno.EADDRINUSE


async def test_what_another_socket_joined_is_not_heard() -> None:
    async with (
        open_udp(port=5000, share_port=True) as member,
        open_udp(port=5000, share_port=True) as deaf,
        open_udp(port=5000, share_port=True, multicast_all=True) as curious,
        member.joined("lo", GROUP),
    ):
        multicast(b"x", GROUP, 5000)
        assert (await member.receive()).payload == (await curious.receive()).payload == b"x"
        assert is_empty(deaf)


async def test_all_hosts_is_not_heard_without_joining() -> None:
    # The kernel itself is always a member of 224.0.0.1.
    async with open_udp(port=5000, share_port=True) as conn:
        multicast(b"x", "224.0.0.1", 5000)
        assert is_empty(conn)
        conn.multicast_all = True
        multicast(b"y", "224.0.0.1", 5000)
        assert (await conn.receive()).payload == b"y"


# Raw IP


@pytest.mark.usefixtures("nothing_leaks")
async def test_raw_connections_have_their_protocol_as_port() -> None:
    async with open_ip(253) as packets, open_raw(254, "127.0.0.1") as raw:
        assert type(packets) is PacketConn
        assert type(raw) is RawConn
        assert packets.local_endpoint == ("0.0.0.0", 253)
        assert raw.local_endpoint == ("127.0.0.1", 254)
        for conn, protocol, with_header in ((packets, 253, 0), (raw, 254, 1)):
            assert conn.socket.type == socket.SOCK_RAW
            assert option(conn, socket.SOL_SOCKET, socket.SO_PROTOCOL) == protocol
            assert option(conn, socket.IPPROTO_IP, socket.IP_HDRINCL) == with_header
            assert option(conn, 0, IP_MULTICAST_ALL) == 0
            assert option(conn, 0, IP_PKTINFO) == 1
            assert not os.get_blocking(conn.socket.fileno())


# What is refused


@pytest.mark.usefixtures("nothing_leaks")
@pytest.mark.parametrize(
    ("opener", "error", "message"),
    [
        (lambda: open_udp("localhost"), ValueError, "address must be a numeric .*host names are not looked up here"),
        (lambda: open_udp(""), ValueError, "address must be a numeric IPv4 address"),
        (lambda: open_udp("::"), ValueError, "looks like an IPv6 address"),
        (lambda: open_udp(None), TypeError, "address must be an IPv4Address or a dotted string"),
        (lambda: open_udp(b"127.0.0.1"), TypeError, "address must be an IPv4Address or a dotted string"),
        (lambda: open_udp(port=-1), ValueError, "port must be from 0 to 65535, got -1"),
        (lambda: open_udp(port=65536), ValueError, "port must be from 0 to 65535, got 65536"),
        (lambda: open_udp(port="5000"), TypeError, "port must be an integer"),
        (lambda: open_udp(port=True), TypeError, "port must be an integer"),
        (lambda: open_udp(bind_group=True), ValueError, "address must be multicast with bind_group=True, got 0.0.0.0"),
        (lambda: open_udp("127.0.0.1", bind_group=True), ValueError, "address must be multicast with bind_group=True"),
        (lambda: open_udp(share_port=1), TypeError, "share_port must be True or False, got 1"),
        (lambda: open_udp(GROUP, bind_group="yes"), TypeError, "bind_group must be True or False"),
        (lambda: open_udp(multicast_all=0), TypeError, "multicast_all must be True or False, got 0"),
        (lambda: open_udp(control_flags=1), TypeError, "control_flags must be ControlFlags, got 1"),
        (lambda: open_udp("0.0.0.0", 0, True), TypeError, "positional"),
        (lambda: open_ip(0), ValueError, "protocol must be from 1 to 255, got 0"),
        (lambda: open_ip(256), ValueError, "protocol must be from 1 to 255, got 256"),
        (lambda: open_raw("icmp"), TypeError, "protocol must be an integer from 1 to 255, got 'icmp'"),
        (lambda: open_raw(253, "localhost"), ValueError, "address must be a numeric"),
        (lambda: open_raw(253, control_flags=None), TypeError, "control_flags must be ControlFlags"),
        (lambda: open_ip(253, multicast_all=None), TypeError, "multicast_all must be True or False"),
    ],
)
async def test_nonsense_is_refused_by_name(opener: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        opener()


@pytest.mark.usefixtures("nothing_leaks")
async def test_a_port_that_is_taken_names_share_port() -> None:
    async with open_udp(port=5000):
        for share_port in (False, True):
            with pytest.raises(
                OSError, match=r"can't bind a UDP socket to 0\.0\.0\.0, port 5000.*share_port=True"
            ) as it:
                open_udp(port=5000, share_port=share_port)
            assert it.value.errno == errno.EADDRINUSE


@pytest.mark.usefixtures("nothing_leaks")
@pytest.mark.parametrize("opener", [open_udp, lambda address: open_ip(253, address), lambda a: open_raw(253, a)])
async def test_an_address_of_another_host_is_refused(opener: Callable[[str], Any]) -> None:
    with pytest.raises(OSError, match=r"can't bind .* to 192\.0\.2\.1, .*interfaces\(\) lists them") as caught:
        opener("192.0.2.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL


def in_a_child(script: str) -> list[str]:
    """Run a script in an interpreter of its own, and return the lines that it prints."""
    # What the user nobody may not read, because Python is in another user's home, is imported before.
    code = f"""
import encodings.ascii, gc, os, sys
sys.path[:] = {[path for path in sys.path if path]!r}
import trio
from trio_ipv4 import open_ip, open_raw, open_udp
async def main():
    {script}
trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


LOSE = "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"
SHOW = """
    before = len(os.listdir("/proc/self/fd"))
    try:
        {call}
    except OSError as error:
        print(type(error).__name__, error.errno)
        print(error.strerror)
    else:
        sys.exit()
    gc.collect()  # PyPy closes nothing before, and nothing that a traceback holds.
    print(len(os.listdir("/proc/self/fd")) - before)
"""


@pytest.mark.parametrize("call", ["open_ip(1)", "open_raw(253)"])
def test_raw_without_the_capability_is_a_permission_error_that_names_it(call: str) -> None:
    require_root()
    kind, message, leaked = in_a_child(LOSE + SHOW.format(call=call))
    assert kind == f"PermissionError {errno.EPERM}"
    assert "CAP_NET_RAW" in message
    assert "can't make a raw socket for protocol" in message
    assert leaked == "0"


def test_a_low_port_without_the_capability_is_a_permission_error_that_quotes_the_limit() -> None:
    require_root()
    LOWEST_PORT.write_text("800", encoding="ascii")  # Of this test's own network.
    kind, message, leaked = in_a_child(LOSE + SHOW.format(call="open_udp(port=799)"))
    assert kind == f"PermissionError {errno.EACCES}"
    assert "CAP_NET_BIND_SERVICE: net.ipv4.ip_unprivileged_port_start is 800" in message
    assert leaked == "0"
    assert in_a_child(LOSE + SHOW.format(call="print(open_udp(port=800).local_endpoint[1])")) == ["800"]


def test_too_many_open_files_say_so() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); conns = []"
    kind, message, _ = in_a_child(limit + SHOW.format(call="conns = [open_udp() for _ in range(100)]"))
    assert kind == f"OSError {errno.EMFILE}"
    assert "raise 'ulimit -n'" in message


def require_root() -> None:
    """Skip where the process can't become another user: in a user namespace with one user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if len(Path("/proc/self/uid_map").read_text(encoding="ascii").split()) == 3:
        inside, _, count = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
        if not int(inside) <= 65534 < int(inside) + int(count):
            pytest.skip("this user namespace has no other user")


async def test_a_refusal_by_an_option_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    refuse: Any = lambda *_: (_ for _ in ()).throw(OSError(errno.ENOPROTOOPT, "refused"))  # noqa: E731
    monkeypatch.setattr("trio_ipv4._kernel.sockets.set_integer", refuse)
    for opener in (open_udp, lambda: open_ip(253), lambda: open_raw(253)):
        with pytest.raises(OSError, match="refused"):
            opener()
    assert descriptors() == before


async def test_opening_is_no_checkpoint() -> None:
    with trio.testing.assert_no_checkpoints():
        open_udp().close()
