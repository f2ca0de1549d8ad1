"""Programs whose output is read line by line, and an Avahi daemon with a network of its own."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from trio_ipv4.testing import LabHost

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
allow-interfaces={interface}
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

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self, *, seconds: float = SECONDS) -> int:
        """Wait until it ends, and return its exit status."""
        with trio.fail_after(seconds):
            return await self._process.wait()

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
async def avahi(host: LabHost, directory: Path, interface: str = "en0") -> AsyncIterator[dict[str, str]]:
    """Run an Avahi daemon in a host, with a bus, configuration and /run of its own; yield what its tools need."""
    (directory / "services").mkdir()
    (directory / "services" / "published.service").write_text(PUBLISHED)
    (directory / "bus.conf").write_text(BUS)
    (directory / "avahi.conf").write_text(DAEMON.format(interface=interface))
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
