"""The commands beside Avahi, an mDNS responder that knows nothing of this library: each sees and hears the other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from support.avahi import avahi, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.avahi import Program
    from trio_ipv4.testing import Lab, LabHost

MDNS = "224.0.0.251:5353"
QUERY = bytes(4) + b"\0\1" + bytes(6) + b"\x0a_trio-ipv4\x04_tcp\x05local\0" + b"\0\x0c\0\1"
"""A question for pointers (RFC 6762 section 6, RFC 1035 section 4)."""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "trio_ipv4", *words]


@contextlib.asynccontextmanager
async def started(host: LabHost, *words: str) -> AsyncIterator[Program]:
    """Run a command on a host, once it has shown its first record."""
    async with running(host.command(command(*words, "--json"))) as program:
        await program.line_with('"event"')
        yield program


def ask(host: LabHost, *words: str) -> list[dict[str, Any]]:
    """Run a command to its end, and return its records."""
    done = subprocess.run(host.command(command(*words, "--json")), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_each_hears_the_other(lab: Lab, needs_avahi: None, tmp_path: Path) -> None:
    a, b = lab["a"], lab["b"]
    query = tmp_path / "query"
    query.write_bytes(QUERY)
    async with (
        started(b, "watch", "--interface", "en0") as watch,
        started(a, "listen", MDNS, "--print", "hex") as heard,
        avahi(b, tmp_path),
    ):
        # It announces itself (RFC 6762 section 8.3), with the TTL that says that it came over one link.
        said = json.loads(await heard.line_with('"datagram"', b"trio-ipv4".hex()))
        assert (said["source"], said["ttl"], said["interface"]) == ("198.18.0.2", 255, "en0")
        assert "224.0.0.251" in await watch.line_with('"report"', "224.0.0.251")
        members = [each for each in ask(b, "groups", "--group", "224.0.0.251") if each["event"] == "group"]
        assert [each["interface"] for each in members] == ["en0"]
        assert {each["name"] for each in members[0]["processes"]} == {"avahi-daemon"}

        # A question that `send` brings is answered: by unicast, as it does not come from port 5353 (section 6.7).
        sniffer = ["tcpdump", "-l", "-n", "-i", "en0", "udp", "and", "src", "198.18.0.2", "and", "dst", "198.18.0.1"]
        async with running(["sh", "-c", 'exec "$@" 2>&1', "sh", *a.command(sniffer)]) as tcpdump:
            await tcpdump.line_with("listening on en0")
            sent = ask(a, "send", MDNS, "--file", str(query), "--interface", "en0", "--ttl", "255")
            assert sent[-1]["datagrams"] == 1
            await tcpdump.line_with("198.18.0.2.5353 > 198.18.0.1.")
        own = json.loads(await heard.line_with('"datagram"', '"198.18.0.1"'))
        assert bytes.fromhex(own["payload"]) == QUERY
