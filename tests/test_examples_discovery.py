"""The mDNS browser and the SSDP searcher of the documentation, against each other and against Avahi."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

from trio_ipv4.testing import Lab, igmp_groups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from conftest import Eventually
    from trio_ipv4.testing import Host

EXAMPLES: Final = Path(__file__).parent.parent / "docs" / "examples"
MDNS: Final = [sys.executable, str(EXAMPLES / "mdns_browser.py")]
SSDP: Final = [sys.executable, str(EXAMPLES / "ssdp_search.py")]
SERVICE: Final = "_trio-ipv4._tcp"
SECONDS: Final = 20

# A name outside the file system belongs to the network namespace, and no path of a checkout is too long for it.
BUS_ADDRESS: Final = "unix:abstract=bus"
BUS = f"""\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>{BUS_ADDRESS}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/>
  </policy>
</busconfig>
"""
DAEMON = """\
[server]
host-name=avahi-host
use-ipv4=yes
use-ipv6=no
allow-interfaces=en0
ratelimit-burst=0
[publish]
publish-hinfo=no
publish-workstation=no
[rlimits]
"""
PUBLISHED = f"""\
<?xml version="1.0" standalone='no'?><!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<service-group><name>Published by Avahi</name><service><type>{SERVICE}</type><port>7777</port></service></service-group>
"""


class Program:
    """A program whose output is read line by line."""

    def __init__(self, process: trio.Process) -> None:
        self._process: Final = process
        self._text = ""

    async def line_with(self, *parts: str, seconds: float = SECONDS) -> str:
        """Read up to the first line that has all the parts."""
        assert self._process.stdout is not None
        with trio.fail_after(seconds):
            while True:
                line, newline, rest = self._text.partition("\n")
                if not newline:
                    more = await self._process.stdout.receive_some()
                    assert more, f"it ended without {parts}"
                    self._text += more.decode()
                    continue
                self._text = rest
                if all(part in line for part in parts):
                    return line


@contextlib.asynccontextmanager
async def running(argv: Sequence[str], env: dict[str, str] | None = None) -> AsyncIterator[Program]:
    process = await trio.lowlevel.open_process(argv, stdout=subprocess.PIPE, env=env)
    try:
        async with process.stdout or contextlib.nullcontext():
            yield Program(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@contextlib.asynccontextmanager
async def avahi(host: Host, directory: Path) -> AsyncIterator[dict[str, str]]:
    """Run an Avahi daemon in a host, with a bus, configuration and /run of its own; yield what its tools need."""
    (directory / "services").mkdir()
    (directory / "services" / "published.service").write_text(PUBLISHED)
    (directory / "bus.conf").write_text(BUS)
    (directory / "avahi.conf").write_text(DAEMON)
    env = {"DBUS_SYSTEM_BUS_ADDRESS": BUS_ADDRESS, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    script = (
        f"mount -t tmpfs tmpfs /run && mkdir /run/avahi-daemon && mount --bind {directory}/services /etc/avahi/services"
        f" && exec avahi-daemon --file={directory}/avahi.conf --no-drop-root --no-chroot --no-rlimits --debug 2>&1"
    )
    bus = ["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork", "--print-address"]
    async with running(host.command(bus), env) as started:
        await started.line_with("unix:")
        async with running(host.command(["unshare", "--mount", "sh", "-c", script]), env) as daemon:
            await daemon.line_with("Published by Avahi", "successfully established")
            yield env


@pytest.fixture
def needs_avahi() -> None:
    missing = [name for name in ("avahi-daemon", "avahi-browse", "dbus-daemon") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


async def test_the_browser_and_avahi_find_each_other_and_again_after_the_cable_was_out(
    lab: Lab, needs_avahi: None, tmp_path: Path, eventually: Eventually
) -> None:
    browse = [*MDNS, "--interface", "en0", "--service", f"{SERVICE}.local"]
    look = ["avahi-browse", "--resolve", "--parsable", SERVICE]
    found_by_us = "en0", "Published by Avahi", "avahi-host.local:7777"

    def announce(title: str) -> list[str]:
        return lab["a"].command([*browse, "--announce", title, "--port", "8888"])

    def is_member() -> bool:
        return any(group == IPv4Address("224.0.0.251") for _, group in lab["a"].call(igmp_groups))

    async with (
        avahi(lab["b"], tmp_path) as env,
        running(lab["a"].command(browse)) as browser,
        running(announce("First")) as first,
        running(lab["b"].command(look), env) as avahi_browser,
    ):
        await browser.line_with(*found_by_us)
        await first.line_with("announced")
        await avahi_browser.line_with("=;en0;IPv4;First;", ";198.18.0.1;8888;")
        assert is_member()
        lab["a"].ip("link", "set", "en0", "down")
        await eventually(lambda: not is_member())
        async with running(announce("Second")):  # Avahi can't know this one from before.
            lab["a"].ip("link", "set", "en0", "up")
            await browser.line_with(*found_by_us)
            await first.line_with("announced")
            await avahi_browser.line_with("=;en0;IPv4;Second;", ";198.18.0.1;8888;")


async def test_the_browser_finds_what_is_announced_on_the_loopback(needs_lab: None) -> None:
    async with running([*MDNS, "--announce", "Here"]) as announcer, running(MDNS) as browser:
        await announcer.line_with("lo: announced Here._http._tcp.local")
        line = await browser.line_with("lo: Here._http._tcp.local")
    assert line == "lo: Here._http._tcp.local at here.local:8080"


async def test_a_device_answers_where_it_was_asked(lab: Lab) -> None:
    location = "http://192.0.2.1/description.xml"
    async with running(lab["b"].command([*SSDP, "--interface", "en0", "--answer", location])) as device:
        await device.line_with("en0: ready")
        async with running(lab["a"].command([*SSDP, "--interface", "en0"])) as searcher:
            line = await searcher.line_with("en0: 198.18.0.2 is uuid:")
            assert line.endswith(f"see {location}")
            lab["b"].ip("link", "set", "en0", "down")
            lab["b"].ip("link", "set", "en0", "up")
            await device.line_with("en0: ready")
        async with running(lab["a"].command([*SSDP, "--interface", "en0"])) as searcher:
            await searcher.line_with("en0: 198.18.0.2 is uuid:")
