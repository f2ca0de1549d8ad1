"""The package can be imported wherever trio runs; only what a platform lacks raises, when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.pure

ELSEWHERE = """
import sys
import trio, attrs, asyncio  # Of this platform: they are not what is tested.
import socket, ipaddress, ctypes, mmap, struct, array, re, pathlib
name = {name!r}
sys.platform = name
if name == "win32":
    for missing in ("fcntl", "termios", "pwd", "resource"):
        sys.modules[missing] = None
    del socket.AF_NETLINK, socket.AF_PACKET
import trio_ipv4
from trio_ipv4 import *

def unsupported(operation):
    try:
        operation()
    except UnsupportedError as error:
        assert error.platform == name, error.platform
        assert str(error) == f"{{error.option}} is not available on {{name}}"
        return error.option
    raise AssertionError("it was supported")

{script}
print("done")
"""


def run_on(name: str, script: str) -> None:
    code = ELSEWHERE.format(name=name, script=script)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


PLATFORMS = ["linux", "win32", "darwin", "freebsd14", "cygwin", "sunos5"]


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_package_can_be_imported_and_its_values_work(name: str) -> None:
    run_on(
        name,
        """
for public in trio_ipv4.__all__:
    assert getattr(trio_ipv4, public) is not None, public
header = Header(src="192.0.2.1", dst="192.0.2.2", protocol=1).with_checksum()
assert Header.parse(header.marshal()) == header
assert SourceFilter.merge([SourceFilter.include("192.0.2.1"), SourceFilter.any()]) == SourceFilter.any()
assert GroupReq(1, "239.1.2.3").group.is_multicast
assert Datagram(b"x", ("192.0.2.1", 5)).control == ControlMessage() == ControlMessage.parse(b"")
assert ICMPFilter().block(ICMPType.ECHO).will_block(8)
assert parse_bpf("1\\n6 0 0 0\\n") == (RawInstruction(6, 0, 0, 0),)
""",
    )


@pytest.mark.parametrize("name", ["win32", "freebsd14", "cygwin", "sunos5"])
def test_on_a_platform_that_is_not_described_every_option_is_lacking(name: str) -> None:
    run_on(
        name,
        """
assert unsupported(lambda: ControlMessage(ttl=1).marshal()) == "IP_TTL"
assert unsupported(lambda: ControlMessage(ifindex=1).marshal()) == "IP_PKTINFO"
assert unsupported(interfaces) == "rtnetlink"
assert unsupported(lambda: interface_by_name("lo")) == "rtnetlink"
assert unsupported(lambda: interface_by_index(1)) == "rtnetlink"
assert unsupported(host_memberships) == "rtnetlink"
assert unsupported(lambda: input_route(1, "198.18.0.1", "239.1.2.3")) == "rtnetlink"
unsupported(open_udp)
async def main():
    with trio.socket.socket() as a_socket:
        conn = Conn(a_socket)
        assert unsupported(lambda: conn.tos) == "IP_TOS"
        assert unsupported(lambda: setattr(conn, "ttl", 1)) == "IP_TTL"
        assert conn.local_endpoint == ("0.0.0.0", 0)
    with trio.socket.socket(type=socket.SOCK_DGRAM) as a_socket:
        conn = PacketConn(a_socket)
        assert conn.control_flags == ControlFlags(0)
        assert unsupported(lambda: conn.multicast_all) == "IP_MULTICAST_ALL"
        assert unsupported(lambda: setattr(conn, "control_flags", ControlFlags.TTL)) == "IP_RECVTTL"
        assert conn.control_flags == ControlFlags(0)
        assert unsupported(lambda: conn.icmp_filter) == "ICMP_FILTER"
        assert unsupported(lambda: conn.detach_filter()) == "SO_DETACH_FILTER"
        assert unsupported(lambda: conn.join_group(1, "239.1.2.3")) == "MCAST_JOIN_GROUP"
        assert conn.memberships == {}
trio.run(main)
""",
    )


def test_darwin_lacks_what_its_table_lacks() -> None:
    run_on(
        "darwin",
        """
assert len(ControlMessage(ttl=1).marshal()) == 16
assert unsupported(interfaces) == "rtnetlink"
async def main():
    with trio.socket.socket() as a_socket:
        assert Conn(a_socket).local_endpoint == ("0.0.0.0", 0)
trio.run(main)
""",
    )


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_lab_can_be_imported_and_says_what_it_needs(name: str) -> None:
    run_on(
        name,
        """
import trio_ipv4.testing
reason = trio_ipv4.testing.lab_available() if name != "linux" else f"network labs need Linux, and this is {name}"
assert reason == f"network labs need Linux, and this is {name}", reason
""",
    )


def test_importing_asks_the_system_for_nothing() -> None:
    # No library is loaded, no socket made: design.md, "no work at import beyond tables".
    code = """
import sys, socket, ctypes
def refuse(event, arguments):
    if event in ("socket.__new__", "ctypes.dlopen", "ctypes.dlsym", "fcntl.ioctl", "os.system", "subprocess.Popen"):
        raise AssertionError(event)
import trio
sys.addaudithook(refuse)
import trio_ipv4
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
