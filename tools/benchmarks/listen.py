"""Measure how fast `trio-ipv4 listen` counts before the kernel drops: python tools/benchmarks/listen.py

It needs root, or `python -m trio_ipv4.testing` before it; all of it happens in a private network, between two hosts on
a plain cable. A sender in a process of its own sends at one rate after the other. For each rate it prints how many
datagrams a second were really sent, how many were counted, and how many the kernel dropped; their sum is checked. The
processor time is that of the receiving process, without its start.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from trio_ipv4 import open_udp
from trio_ipv4._cli.probe import PROBE_SIZE, Probe
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from trio_ipv4.testing import Lab

GROUP, PORT = "239.1.2.3", 5000
RATES = (25_000, 50_000, 75_000, 100_000, 150_000, 200_000)
SLICE = 0.0002
"""In seconds: so often the sender looks whether something is due."""
SEGMENTS, MAX_PAYLOAD = 64, 65507
"""The most datagrams, and octets, that older kernels send at once (linux/udp.h: UDP_MAX_SEGMENTS)."""

NUMBER_AND_TIME = struct.Struct("!QQ")
"""Of a probe, from its octet 12 on (trio_ipv4/_cli/probe.py)."""


async def send(rate: int, seconds: float, size: int, *, numbered: bool) -> None:
    """Send at a rate, and print how many were sent, in how many seconds.

    Segmentation offload (UDP_SEGMENT) keeps the sender's share of the processor small. The receiver gets datagrams.
    """
    sent, begin = 0, time.perf_counter()
    most = min(SEGMENTS, MAX_PAYLOAD // size)
    payload = bytearray((Probe(1, 0, 0).marshal(size) if numbered else bytes(size)) * most)
    async with open_udp() as conn:
        conn.multicast_interface = "en0"
        while (now := time.perf_counter() - begin) < seconds:
            due = min(most, round(now * rate) - sent)
            if due < most:
                await trio.sleep(SLICE)
                continue
            if numbered:
                stamp = time.time_ns()
                for each in range(due):
                    NUMBER_AND_TIME.pack_into(payload, each * size + 12, sent + each, stamp)
            await conn.send_segmented(bytes(payload[: due * size]), size, (GROUP, PORT))
            sent += due
    print(sent, time.perf_counter() - begin)


async def measure(lab: Lab, rate: int, seconds: float, size: int, *, numbered: bool) -> None:
    """Listen while somebody sends at a rate, and print what came of it."""
    listen = [sys.executable, "-m", "trio_ipv4", "listen", f"{GROUP}:{PORT}", "--json", "--expect", "0"]
    sender = [sys.executable, __file__, "--send", str(rate), "--seconds", str(seconds), "--size", str(size)]
    process = await trio.lowlevel.open_process(lab["a"].command(listen), stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        said = await process.stdout.receive_some()
        assert b'"start"' in said, said
        begin = cpu_seconds(process.pid)
        argv = [*sender, *(["--numbered"] if numbered else [])]
        done = await trio.run_process(lab["b"].command(argv), capture_stdout=True)
        own = cpu_seconds(process.pid) - begin
        process.terminate()
        async for chunk in process.stdout:
            said += chunk
    finally:
        process.kill()
        await process.wait()
    summary = json.loads(said.splitlines()[-1])
    sent, took = done.stdout.split()
    counted, dropped = summary["datagrams"], summary["dropped"]
    assert counted + dropped == int(sent), (counted, dropped, sent)
    each = own * 1e9 / max(1, counted)
    print(
        f"{rate:>9,}/s asked  {int(sent) / float(took):>9,.0f}/s sent  {counted:>9,} counted  {dropped:>9,} dropped  "
        f"{each:>7,.0f} ns of processor time each"
    )


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far (proc_pid_stat(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run(options: argparse.Namespace) -> None:
    rates = options.rates or RATES
    for numbered in (False, True):
        kind = "probes with numbers" if numbered else "plain payloads"
        print(f"{options.size} octets, {kind}, {options.seconds} s each")
        for rate in rates:
            with open_lab() as lab:
                for link in lab.links:
                    lab.switch.ip("link", "set", link.name, "type", "bridge", "mcast_snooping", "0")
                await measure(lab, rate, options.seconds, options.size, numbered=numbered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=int, nargs="*", help="in datagrams a second")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each rate")
    parser.add_argument("--size", type=int, default=100, help=f"octets of payload, at least {PROBE_SIZE}")
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--numbered", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        trio.run(functools.partial(send, options.send, options.seconds, options.size, numbered=options.numbered))
    else:
        trio.run(run, options)


if __name__ == "__main__":
    main()
