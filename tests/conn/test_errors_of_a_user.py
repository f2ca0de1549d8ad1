"""Every kind of ICMP error reaches root and a user without any privilege alike, each at the peer that it is about."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from trio_ipv4 import open_udp
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from conftest import AsNobody

PROGRAM = """
import json, sys
import trio
from trio_ipv4 import ControlMessage, Datagram, ICMPEcho, PathMTUDiscovery, open_udp, open_unprivileged_icmp

kind, there = sys.argv[1:]
ALL = {
    "port": (there, 5999), "ttl": (there, 5000), "mtu": (there, 5001), "alive": (there, 5002),
    "host": ("198.19.0.1", 5000), "net": ("203.0.113.1", 5000), "prohibited": ("198.20.0.1", 5000),
}

async def main():
    open_conn = open_udp if kind == "udp" else open_unprivileged_icmp
    async with open_conn() as conn:
        conn.report_errors = True
        conn.path_mtu_discovery = PathMTUDiscovery.DO
        told = {}
        for number, (name, (address, port)) in enumerate(ALL.items()):
            peer = (address, port if kind == "udp" else 0)
            size = 1372 if name == "mtu" else 100
            payload = bytes(size) if kind == "udp" else ICMPEcho(0, number, bytes(size)).marshal()
            control = ControlMessage(ttl=1 if name == "ttl" else None)
            # An echo request to a port is answered, whatever the port.
            if kind == "icmp" and name in ("port", "alive"):
                continue
            await conn.send_batch([Datagram(payload, peer, control=control)])
            if name == "alive":
                continue
            with trio.move_on_after(5):
                error = await conn.receive_error()
                assert error.destination == peer, (error, peer)
                told[name] = [error.icmp_type, error.icmp_code, str(error.offender), error.mtu]
        print(json.dumps(told))

trio.run(main)
"""


@pytest.mark.usefixtures("needs_lab")
@pytest.mark.parametrize("kind", ["udp", "icmp"])
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_every_kind_is_told(kind: str, user: str, request: pytest.FixtureRequest) -> None:
    with open_lab({"a": [0], "b": [1]}, router=True) as lab:
        a, b, router = lab["a"], lab["b"], lab["router"]
        there, gateway = str(b.addresses[0]), str(router.addresses[0])
        a.set_sysctl("net.ipv4.ping_group_range", "0 4294967294")
        router.set_sysctl("net.ipv4.icmp_ratemask", 0)
        router.ip("link", "set", "en1", "mtu", "1300")
        router.ip("route", "add", "unreachable", "198.19.0.0/16")
        rules = "add table t; add chain t f { type filter hook forward priority 0; }; "
        rules += "add rule t f ip daddr 198.20.0.0/16 reject with icmp type admin-prohibited"
        subprocess.run(router.command(["nft", rules]), check=True)
        router.ip("route", "add", "198.20.0.0/16", "via", there)
        argv = [sys.executable, "-c", PROGRAM, kind, there]
        if user == "nobody":
            as_nobody: AsNobody = request.getfixturevalue("as_nobody")
            argv = as_nobody(argv)
        with contextlib.closing(b.call(open_udp, "0.0.0.0", 5002)):
            done = subprocess.run(a.command(argv), capture_output=True, text=True, check=False, timeout=90)
    assert (done.returncode, done.stderr) == (0, "")
    expected = {
        "port": [3, 3, there, None],
        "ttl": [11, 0, gateway, None],
        "mtu": [3, 4, gateway, 1300],
        "host": [3, 1, gateway, None],
        "net": [3, 0, gateway, None],
        "prohibited": [3, 13, gateway, None],
    }
    if kind == "icmp":
        del expected["port"]
    assert json.loads(done.stdout) == expected
